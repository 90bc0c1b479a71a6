"""Tokens without PaddleNLP are PaddleNLP's tokens, for every text."""

import unicodedata

import pytest
from conftest import REAL_DATA, ROOT, lines_of
from families import ernie_m_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import HARD

from text_cls.tokenization import load_tokenizer

FAMILIES = ("ernie", "bert", "ernie_m")


@pytest.fixture(params=FAMILIES)
def pair(request, families, family_folders):
    """(PaddleNLP's tokenizer, ours) of one family."""
    return families[request.param][1], load_tokenizer(str(family_folders[request.param]))


def assert_same(theirs, ours, texts, max_length):
    wanted = theirs(texts, max_length=max_length, truncation=True)["input_ids"]
    for text, ids, found in zip(texts, wanted, ours.encode(texts, max_length), strict=True):
        assert list(found) == ids, ascii(text[:200])


@pytest.mark.parametrize("max_length", [128, 7, 3])
def test_hard_cases(pair, max_length):
    assert_same(*pair, HARD, max_length)


@pytest.mark.parametrize("name", ["train.txt", "dev.txt", "multi_label/dev.txt"])
def test_the_example_rows(pair, name):
    assert_same(*pair, [line.partition("\t")[0] for line in lines_of(ROOT / "data" / name)], 64)


@pytest.mark.parametrize("name", ["duee", "cail-divorce"])
def test_the_public_sets(pair, name):
    if not (REAL_DATA / name).exists():
        pytest.skip(f"{REAL_DATA / name} does not exist; set TEXT_CLASSIFICATION_DATA to the folder of the public sets")
    for split in ("train", "dev"):
        assert_same(*pair, [line.partition("\t")[0] for line in lines_of(REAL_DATA / name / f"{split}.txt")], 128)


def test_every_character_between_others(families, family_folders):
    """A hundred thousand of them: ours is a table, Paddle's asks Python's Unicode for each."""
    ours = load_tokenizer(str(family_folders["ernie"]))
    characters = [chr(code) for code in range(0x30000) if unicodedata.category(chr(code)) != "Cs"]
    assert_same(families["ernie"][1], ours, [f"中{character}a" for character in characters], 16)


@pytest.fixture(scope="module")
def lower_ernie_m(tmp_path_factory):
    """(PaddleNLP's tokenizer, ours) of an ERNIE-M that lower-cases, and has a token for each character of `CASED`."""
    folder = tmp_path_factory.mktemp("lower_ernie_m")
    texts = [*HARD, *CASED, *map(str.lower, CASED)] + [char for char in "".join(CASED).lower() if char.strip()] * 3
    saved = ernie_m_tokenizer(folder, texts, do_lower_case=True)
    saved.save_pretrained(folder)
    theirs = type(saved).from_pretrained(str(folder))  # only then does it know special tokens in a text
    ours = load_tokenizer(str(folder))
    assert ours.lower_case and {"σ", "ς", "s"} <= {token.strip("▁") for token in ours.vocabulary}
    return theirs, ours


# Python lowers a capital sigma at the end of a word to another letter than elsewhere, and İ to two characters.
CASED = [
    "ΑΣ",
    "ΣΑΣ ΟΔΟΣ. ΣΣ",
    "Σ",
    "ας ΑΣ'",
    "İI DİŞ",
    "STRASSE ẞ ﬁ",
    "ΑΣ\nΑΣ\u2028ΑΣ",
    "[CLS]ΑΣ [cls] ΑΣ[SEP] [Sep]",
    "Σ中Σ ABC",
]


@pytest.mark.parametrize("max_length", [64, 5])
def test_an_ernie_m_that_lower_cases(lower_ernie_m, max_length):
    assert_same(*lower_ernie_m, [*HARD, *CASED, *(a + b for a in CASED for b in CASED)], max_length)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text("ΑΣσς' .İIiẞßAa1中，\u0301\n", max_size=12) | st.text(max_size=20), min_size=1, max_size=5))
def test_any_text_of_an_ernie_m_that_lower_cases(lower_ernie_m, texts):
    assert_same(*lower_ernie_m, texts, 32)


@settings(deadline=None)  # another test may use the core
@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_any_text(families, family_folders, texts):
    for family in FAMILIES:
        assert_same(families[family][1], load_tokenizer(str(family_folders[family])), texts, 32)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["好", "ab ", "。", " ", "x" * 130, "[SEP]", "\u200b", "é"]), max_size=400),
    st.integers(2, 9),
)
def test_long_texts_are_read_only_as_far_as_needed(family_folders, pieces, max_length):
    """Cutting the characters early gives the tokens of the whole text, cut."""
    ours, text = load_tokenizer(str(family_folders["ernie"])), "".join(pieces)
    whole = ours.encode([text], 10**6)[0]
    cut = ours.encode([text], max_length)[0]
    assert len(cut) == min(len(whole), max_length) and cut[-1] == ours.sep_id
    assert (cut[:-1] == whole[: len(cut) - 1]).all()


def test_a_long_text_costs_no_more_than_its_beginning(family_folders):
    ours = load_tokenizer(str(family_folders["ernie"]))
    assert len(ours._normal("好" * 10**6, 100)) < 10**4 and len(ours._normal("好" * 10, 100)) == 30


def test_strangers_texts_do_not_fill_the_memory(family_folders):
    ours = load_tokenizer(str(family_folders["ernie"]))
    ours.encode(["".join(map(chr, range(0x20000, 0x30000 + 0x10000)))], 16)
    assert len(ours.table) <= 1 << 16


def test_an_unknown_kind_is_refused(family_folders, tmp_path):
    with pytest.raises(ValueError, match="RobertaChineseTokenizer is not supported"):
        load_tokenizer(str(family_folders["roberta"]))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "do_basic_tokenize": false}', encoding="utf-8"
    )
    with pytest.raises(ValueError, match="BertTokenizer with do_basic_tokenize"):
        load_tokenizer(str(tmp_path))
