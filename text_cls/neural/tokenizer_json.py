"""Our WordPiece as a `tokenizer.json`, which Hugging Face's libraries open: the same ids, without this code."""

import sys
import unicodedata

from text_cls.tokenization import WordPiece


def whole_tokenizer(tokenizer: WordPiece):
    """A `tokenizers.Tokenizer` that gives the ids of `tokenizer.encode` for any text, without a maximum length.

    Its rules are lists of characters, taken from our own table: Rust's classes of characters are of another version of
    Unicode than Python's, and its BERT rules do not split at symbols. One difference remains: Rust sorts combining
    characters (NFD), which only shows if the vocabulary has two of the 40 that are not dropped.
    """
    import tokenizers
    from tokenizers import Regex, normalizers, pre_tokenizers, processors

    spaces, dropped, alone = (Regex(_one_of(codes)) for codes in _classes(tokenizer.table))
    made_lower = [normalizers.Lowercase(), *_decomposed(), normalizers.Replace(dropped, "")]
    model = tokenizers.models.WordPiece(
        tokenizer.vocabulary, unk_token=tokenizer.specials["unk_token"], max_input_chars_per_word=100
    )
    made = tokenizers.Tokenizer(model)
    normal = [normalizers.Replace(spaces, " "), normalizers.Replace(dropped, "")]
    made.normalizer = normalizers.Sequence(normal + (made_lower if tokenizer.lower_case else []))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(alone, "isolated")]
    )
    made.add_special_tokens([token for token in tokenizer.specials.values() if token in tokenizer.vocabulary])
    cls, sep = tokenizer.specials["cls_token"], tokenizer.specials["sep_token"]
    made.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.cls_id), (sep, tokenizer.sep_id)],
    )
    return made


def _classes(table):
    """Code points that become a space, that are dropped, and at which words are split, by a table of characters."""
    spaces, dropped, alone = [], [], []
    for code in range(sys.maxunicode + 1):
        kind = unicodedata.category(chr(code))
        if kind == "Cs":  # surrogates, which no text has
            continue
        # The table drops unassigned and private characters, too; they are most of all, and asking it takes seconds.
        made = "" if kind in ("Cn", "Co") else table[code]
        if not made:
            dropped.append(code)
        elif not made.strip(" "):
            spaces.append(code)
        elif made != chr(code) and made.strip(" ") == chr(code):
            alone.append(code)
    return spaces, dropped, alone


def _decomposed():
    """Normalisers that decompose characters as Python does; those of Rust do not know the latest characters."""
    from tokenizers import normalizers

    rust = normalizers.NFD()
    for code in range(0xC0, sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.decomposition(char) and rust.normalize_str(char) != unicodedata.normalize("NFD", char):
            yield normalizers.Replace(char, unicodedata.normalize("NFD", char))
    yield rust


def _one_of(codes):
    """A regular expression of the code points, which are sorted."""
    ranges = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges) + "]"
