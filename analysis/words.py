"""Splits texts into words: Chinese by jieba, other languages at spaces, mixed texts both ways."""

import functools
import logging
import re
import warnings

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_EDGES = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)


@functools.cache
def jieba_tokenizer(extra=()):
    """jieba's tokenizer, with the words `extra` (a tuple) added. The first call takes a second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba (0.42) imports pkg_resources
        import jieba
    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()
    # What jieba (0.42) does itself, without its cache: a file that it reads with marshal from the temporary folder,
    # where anyone may place one. Reading the dictionary instead takes half a second more.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    for word in extra:
        tokenizer.add_word(word)
    return tokenizer


def has_chinese(text):
    return bool(_HAN.search(text))


def split_words(text, tokenizer=None):
    """Words, runs of spaces and punctuation, in order; joined, they give the text again.

    Args:
        tokenizer: from `jieba_tokenizer` (default: without extra words).
    """
    pieces = []
    for chunk in re.split(r"(\s+)", text):
        if has_chinese(chunk):
            pieces += (tokenizer or jieba_tokenizer()).lcut(chunk)
        elif chunk:
            pieces += filter(None, _EDGES.fullmatch(chunk).groups())
    return pieces
