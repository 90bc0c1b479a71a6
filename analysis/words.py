"""Words of a text: by jieba for Chinese, by spaces elsewhere. Mixed texts get both."""

import functools
import logging
import re
import warnings

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_EDGES = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)


@functools.cache
def jieba_tokenizer(extra=()):
    """jieba's tokenizer, which knows the words `extra` (a tuple) as well. Takes a second the first time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba (0.42) imports pkg_resources
        import jieba
    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()
    # As jieba (0.42) does by itself, less its cache: a file in the temporary folder, where anyone may put one, that it
    # reads with marshal. Reading the dictionary takes half a second more.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    for word in extra:
        tokenizer.add_word(word)
    return tokenizer


def has_chinese(text):
    return bool(_HAN.search(text))


def split_words(text, tokenizer=None):
    """The text in pieces that give it back when joined: words, runs of spaces, punctuation.

    Args:
        tokenizer: of `jieba_tokenizer`; the plain one by default.
    """
    pieces = []
    for chunk in re.split(r"(\s+)", text):
        if has_chinese(chunk):
            pieces += (tokenizer or jieba_tokenizer()).lcut(chunk)
        elif chunk:
            pieces += filter(None, _EDGES.fullmatch(chunk).groups())
    return pieces
