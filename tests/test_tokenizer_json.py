"""tokenizer.json has the rules of our tokenizer, which test_tokenization.py compares with PaddleNLP's."""

import json
import sys
import unicodedata

import pytest
import tokenizers
from conftest import write_lines
from hypothesis import given
from hypothesis import strategies as st

from text_cls.neural.tokenizer_json import whole_tokenizer
from text_cls.tokenization import load_tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyzABCSEPMK0123456789台风登陆学，。！？℃￥→½[]=σίιακ", "ᄀ", "가", "\U00011935"]
WORDS = [*SPECIALS, *LETTERS, *(f"##{letter}" for letter in LETTERS), "##ing"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """{(lower, symbols): (our tokenizer, that of its tokenizer.json)} for one vocabulary."""
    made = {}
    for lower in (True, False):
        for symbols in (True, False):
            folder = tmp_path_factory.mktemp("tokens")
            write_lines(folder / "vocab.txt", WORDS)
            config = {"tokenizer_class": "ErnieTokenizer", "do_lower_case": lower, "split_symbols": symbols}
            (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
            ours = load_tokenizer(str(folder))
            whole_tokenizer(ours).save(str(folder / "tokenizer.json"))
            made[lower, symbols] = ours, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return made


PIECES = st.sampled_from(
    [*SPECIALS, "[mask]", "[M", "ASK]", "a" * 101, "running", "İ", "ΣΑΣ", "e\u0301", "각", "\u2260"]
)


@given(st.lists(PIECES | st.characters(codec="utf-8") | st.sampled_from(WORDS), max_size=30).map("".join))
def test_any_text_has_the_same_ids(pairs, text):
    for ours, theirs in pairs.values():
        assert theirs.encode(text).ids == ours.encode([text], 1 << 20)[0].tolist()


def characters():
    """Each assigned character; of Hangul and of Chinese ones, which are many, every 50th."""
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        many = 0xAC00 <= code <= 0xD7A3 or unicodedata.category(char) in ("Lo", "Co") and code > 0x2E80
        if unicodedata.category(char) not in ("Cn", "Cs") and (not many or code % 50 == 0):
            yield char


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("symbols", [True, False])
def test_every_character_is_split_as_ours(pairs, lower, symbols):
    ours, theirs = pairs[lower, symbols]
    for char in characters():
        text = f"a{char}b"
        words = [word for word, _ in theirs.pre_tokenizer.pre_tokenize_str(theirs.normalizer.normalize_str(text))]
        assert words == text.translate(ours.table).split(), hex(ord(char))
