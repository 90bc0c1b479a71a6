"""Character positions of tokens and words in a text, so that values of tokens can be assigned to words.

For `return_offsets_mapping`, PaddleNLP's slow tokenizers (2.8) search the text for each token, and give an unknown
token the spaces or words next to it. This module follows each character through the tokenizer instead.
"""

import re

import numpy as np

from text_cls.cli import UserError
from text_cls.language import tr
from words import split_words


def word_spans(text):
    """[(start, end)] of the words of a text, in order, including punctuation; only spaces lie between them."""
    spans, end = [], 0
    for piece in split_words(text):
        start, end = end, end + len(piece)
        if not piece.isspace():
            spans.append((start, end))
    return spans


class TokenSpans:
    """Finds the characters each token was made from. Supports WordPiece and ERNIE-M's SentencePiece."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._special = re.compile(
            "|".join(map(re.escape, {*tokenizer.unique_no_split_tokens, *tokenizer.all_special_tokens}))
        )
        self._lower = getattr(tokenizer, "do_lower_case", False)
        self._forms = {}

    def __call__(self, text):
        """int array [tokens, 2]: start and end of each token of the whole text, without the added special tokens.

        Raises:
            UserError: the tokenizer is of an unsupported kind.
        """
        tokens, spans, end = [], [], 0
        for special in self._special.finditer(text):
            self._add_part(text, end, special.start(), tokens, spans)
            tokens.append(special.group())
            spans.append(special.span())
            end = special.end()
        self._add_part(text, end, len(text), tokens, spans)
        if tokens != self._tokenizer.tokenize(text):
            name = type(self._tokenizer).__name__
            raise UserError(
                tr("{name}: cannot trace its tokens to characters; only WordPiece and ERNIE-M are supported", name=name)
            )
        return np.array(spans, dtype=np.int64).reshape(-1, 2)

    def _add_part(self, text, start, end, tokens, spans):
        """Adds the tokens of text[start:end], which contains no special token, and their spans."""
        if start > 0:  # PaddleNLP strips spaces next to a special token
            start += len(text[start:end]) - len(text[start:end].lstrip())
        if end < len(text):
            end -= len(text[start:end]) - len(text[start:end].rstrip())
        # In lower case, one character may become two, as the Turkish İ does.
        lowered = [text[i].lower() if self._lower else text[i] for i in range(start, end)]
        source = [i for i, made in enumerate(lowered, start) for _ in made]
        add = self._add_wordpiece if hasattr(self._tokenizer, "wordpiece_tokenizer") else self._add_sentencepiece
        add("".join(lowered), source, tokens, spans)

    def _add_wordpiece(self, text, source, tokens, spans):
        characters = [(made, i) for char, i in zip(text, source) for made in self._form(char)]
        normal, place = "".join(made for made, _ in characters), [i for _, i in characters]
        unknown = self._tokenizer.unk_token
        words = self._tokenizer.basic_tokenizer.tokenize(text)
        for word, found in zip(words, re.finditer(r"[^ ]+", normal)):
            at = found.start()
            for piece in self._tokenizer.wordpiece_tokenizer.tokenize(word):
                size = len(word) if piece == unknown else len(piece) - 2 * (at > found.start())
                tokens.append(piece)
                spans.append((place[at], place[min(at + size, len(place)) - 1] + 1))
                at += size

    def _form(self, char):
        """What the basic tokenizer makes of a character, with spaces where it splits."""
        if char not in self._forms:
            self._forms[char] = " ".join(self._tokenizer.basic_tokenizer.tokenize(f"x{char}x"))[1:-1]
        return self._forms[char]

    def _add_sentencepiece(self, text, source, tokens, spans):
        if not hasattr(self._tokenizer, "sp_model"):
            return
        stream = []  # for each character of the pieces: the first and the last character of the text it was made from
        char_at = [i for i, char in enumerate(text) for _ in char.encode("utf-8")]
        for piece in self._tokenizer.sp_model.encode(text, return_type="proto").pieces:
            within = sorted({*char_at[piece.begin : piece.end]}) or [char_at[min(piece.begin, len(char_at) - 1)]]
            inked = [i for i in within if not text[i].isspace()] or within
            made = len(piece.piece.replace("▁", ""))
            # Normalisation may merge or split characters; each result then stands for all of them.
            stream += [(i, i) for i in inked] if made == len(inked) else [(inked[0], inked[-1])] * made
        at = 0
        for token in self._tokenizer._tokenize(text):
            size = len(token.replace("▁", ""))
            tokens.append(token)
            spans.append((source[stream[at][0]], source[stream[at + size - 1][1]] + 1))
            at += size


def words_of_tokens(words, tokens):
    """The words, joined if a token spans two of them, and the word of each token.

    Args:
        words: [(start, end)] in order. tokens: int array [tokens, 2] from `TokenSpans`.
    Returns:
        [(start, end)] of words, and an int array [tokens] of word numbers. A word may have no token.
    """
    word_at = np.zeros(max((end for _, end in words), default=0), dtype=np.int64)
    for i, (start, end) in enumerate(words):
        word_at[start:end] = i
    begins = np.ones(len(words), dtype=bool)
    for start, end in tokens:
        begins[word_at[start] + 1 : word_at[end - 1] + 1] = False
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], len(words)) - 1
    joined = [(words[i][0], words[j][1]) for i, j in zip(firsts, lasts)]
    return joined, (np.cumsum(begins) - 1)[word_at[tokens[:, 0]]]
