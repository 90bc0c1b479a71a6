"""few-shot/prompting.py: parsing of prompts, token ids of rows, the prompt model."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompts import HARD, LABELS, PROMPTS, WORDS, make_task

from prompting import parse_prompt
from text_cls.cli import UserError
from text_cls.tokenization import Prompted


@pytest.mark.parametrize("prompt", PROMPTS.values())
def test_a_prompt_is_read_as_paddlenlp_reads_it(prompt):
    from paddlenlp.prompt import AutoTemplate, Template

    parts = parse_prompt(prompt)
    theirs = Template.parse_template_string(prompt or "{'soft'}{'text': 'text_a'}{'mask'}")
    if not any("text" in part for part in theirs):  # AutoTemplate.create_from adds these
        theirs = [{"text": AutoTemplate.default_text_keyword}, *theirs, {"mask": None}]
    assert parts == theirs


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{'prefix': '一'}{'text': 'text_a'}{'mask'}", "prefix tuning adds vectors to every layer"),
        ("{'text': 'text_a', 'position': 3}{'mask'}", "positions follow from the order"),
        ("{'text': 'text_a'}{'options': 'label.txt'}{'mask'}", "choosing among options is a different task"),
        ("{'text': 'text_a'}{'text': 'text_b'}{'mask'}", "{'text': 'text_a'} appears 2 times; write it once"),
        ("{'text': 'text_a'}是", "{'mask'} appears 0 times; write it once"),
        ("{'mask'}{'mask'}", "{'mask'} appears 2 times; write it once"),
        ("{'mask', 'length'}", "length cannot be None"),
        ("{'mask': None, 'length': 2}", "length cannot be 2"),
        ("{'soft': '一', 'length': 101}{'mask'}", "length cannot be 101"),
        ("{'soft': '一', 'encoder': 'gru'}{'mask'}", "encoder cannot be 'gru'"),
        ("{'soft': '一', 'encoder': []}{'mask'}", "encoder cannot be []"),
        ("{'soft': 3}{'mask'}", "soft cannot be 3"),
        ("{'soft': ''}{'mask'}", "soft cannot be ''"),
        ("{'text': 'text_a', 'truncate': False}{'mask'}", "truncate cannot be False"),
        ("{'text': 'text_a', 'token_type': 2}{'mask'}", "token_type cannot be 2"),
        ("{'hard': '是', 'length': 2}{'mask'}", "unknown key length; a hard part takes token_type"),
        ("{'mask'", "unmatched brace {"),
        ("是}{'mask'}", "unmatched brace }"),
        ("{__import__('os').system('false')}", "cannot parse {__import__"),
        ("{'soft': '一' * 9}", "cannot parse {'soft'"),
        ("｛'mask'｝是", "full-width brace ｛; write a part like {'mask'}"),
        ("是{'text': 'text_a'}｝", "full-width brace ｝"),
        ("{'colour'}", "has none of the keys text, mask, soft"),
        ("{}", "has none of the keys text, mask, soft"),
        ("{1: 2}", "has none of the keys text, mask, soft"),
        ("{" + "(" * 5000 + ")" * 5000 + "}", "cannot parse {((("),
    ],
)
def test_invalid_prompts_are_refused(prompt, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_prompt(prompt)


@given(st.lists(st.sampled_from(["{", "}", "'mask'", "'soft': ", "'text': 'text_a'", "一", ", ", "None", " "])))
def test_any_text_is_a_prompt_or_refused(pieces):
    try:
        parts = parse_prompt("".join(pieces))
    except UserError:
        return
    assert sum("mask" in part for part in parts) == sum("text" in part for part in parts) == 1


@pytest.mark.parametrize("prompt", PROMPTS)
def test_rows_are_those_of_paddlenlps_template(masked, prompt):
    """Ids, token types, soft tokens and mask are those of PaddleNLP's own tokenisation, with texts cut the same way."""
    task = make_task(masked, PROMPTS[prompt], LABELS, WORDS)
    task.model.template.prompt_tokenizer.max_length = 48
    encoded = task.encode(HARD, 48)
    for i, text in enumerate(HARD):
        wanted = task.model.template({"text_a": text.replace("[MASK]", "[UNK]")})
        found = task.inputs(encoded, np.array([i]))
        for name in ("token_type_ids", "soft_token_ids", "encoder_ids"):
            if name in wanted:
                assert found[name][0].tolist() == wanted[name], (text, name)
        hard = np.array(wanted["soft_token_ids"]) == 0
        assert (found["input_ids"][0][hard] == np.array(wanted["input_ids"])[hard]).all(), text
        assert found["masked_positions"].tolist() == wanted["masked_positions"] and len(hard) <= 48


def test_a_long_text_is_cut_at_the_chosen_end(masked):
    text = "".join(chr(0x4E00 + i) for i in range(200))
    tail, head = (
        make_task(masked, "一", LABELS, WORDS, truncate_mode=mode).serving.encode([text, "短"], 20)
        for mode in ("tail", "head")
    )
    task = make_task(masked, "一", LABELS, WORDS)
    whole = task.serving.encode([text], 1000)[0]
    assert task.encode([text, "短", text[:16], text[:17]], 20).truncated == 2
    assert len(tail[0]) == len(head[0]) == 20 and tail[1].tolist() == head[1].tolist()
    room = 20 - 4  # [CLS], the word, the mask, [SEP]
    assert tail[0].tolist() == [*whole[: room + 1], *whole[-3:]]
    assert head[0].tolist() == [whole[0], *whole[-3 - room :]]


@pytest.mark.parametrize("mode", ["tail", "head"])
@given(st.text(max_size=60), st.integers(5, 30))
def test_a_row_contains_the_whole_prompt_whatever_the_text(masked_tokenizer, mode, text, length):
    before, after = [1, 77], [88, 99, 2]
    tokenizer = Prompted(masked_tokenizer, {"before": before, "after": after, "truncate_mode": mode})
    (row,) = tokenizer.encode([text], length)
    assert row[:2].tolist() == before and row[-3:].tolist() == after and len(row) <= max(length, 5)
    assert 3 not in row[2:-3]  # [MASK]


@pytest.fixture(scope="session")
def masked_tokenizer(masked):
    from text_cls.tokenization import load_tokenizer

    tokenizer = load_tokenizer(str(masked))
    assert tokenizer.vocabulary["[MASK]"] == 3
    return tokenizer


def test_labels_start_as_the_mean_of_their_words(masked):
    """PaddleNLP's own initial values are a mixture of all words (2.8.1)."""
    task = make_task(masked, "是", LABELS, WORDS)
    embeddings, tokenizer = task.model.plm.get_input_embeddings().weight.numpy(), task.tokenizer
    head = task.model.verbalizer.head.decoder.weight.numpy()

    def mean(word):
        return embeddings[tokenizer.encode(word, add_special_tokens=False)["input_ids"]].mean(axis=0)

    assert task.model.verbalizer.labels == ["b", "a", "c"]  # in the order of the file, not of the alphabet
    for row, words in zip(head, WORDS):
        assert np.allclose(row, np.mean([mean(word) for word in words], axis=0), atol=1e-6)


def test_frozen_dropout_stays_off_in_training(masked):
    """PaddleNLP disables it once, and the first step enables it again (2.8.1)."""
    for frozen in (False, True):
        task = make_task(masked, "是", LABELS, WORDS, freeze_plm=frozen, freeze_dropout=frozen)
        task.model.train()
        assert task.model.plm.training is not frozen and task.model.verbalizer.training


def test_scoring_does_not_disable_dropout(masked):
    task = make_task(masked, "是", LABELS, WORDS)
    for training in (True, False):
        task.model.train() if training else task.model.eval()
        task.logits(task.encode(["一"], 48), 4)
        assert task.model.training is task.model.plm.training is training
