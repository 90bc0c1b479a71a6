"""few-shot/train.py: prompts, label words, what it learns and writes, going on, and what it refuses."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from conftest import ROOT, lines_of, write_lines
from hypothesis import given
from hypothesis import strategies as st
from prompts import HARD, PROMPTS, few_rows, make_task, train

import predict
import prompt_data
import prompt_export
import prompt_training
from prompt_data import read_label_words, read_labelled
from prompting import parse_prompt
from text_cls.bundle import open_bundle
from text_cls.cli import Problems, UserError
from text_cls.decision import Decision
from text_cls.rows import Labels, read_rows
from text_cls.serving.predictor import Predictor
from text_cls.tokenization import Prompted


@pytest.fixture
def few(tmp_path):
    return few_rows(ROOT / "data/multi_label", tmp_path / "data", 24, 12, 3)


@pytest.fixture
def tune(run, masked, few, tmp_path):
    """tune(*flags) -> (status, log): a short training on the reviews into tmp_path/out."""

    def call(*flags, data=few):
        where = ("--data_dir", data, "--output_dir", tmp_path / "out", "--model_name_or_path", masked)
        return run(train.main, *where, "--device", "cpu", "--max_seq_length", 40, "--num_train_epochs", 2, *flags)

    return call


LABELS, WORDS = Labels(["b", "a", "c"]), [["地震"], ["火灾", "火"], ["雨"]]

# ---------------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("prompt", PROMPTS.values())
def test_a_prompt_is_read_as_paddlenlp_reads_it(prompt):
    from paddlenlp.prompt import AutoTemplate, Template

    parts = parse_prompt(prompt)
    theirs = Template.parse_template_string(prompt or "{'soft'}{'text': 'text_a'}{'mask'}")
    if not any("text" in part for part in theirs):  # what AutoTemplate.create_from adds
        theirs = [{"text": AutoTemplate.default_text_keyword}, *theirs, {"mask": None}]
    assert parts == theirs


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{'prefix': '一'}{'text': 'text_a'}{'mask'}", "prefix tuning puts vectors into every layer"),
        ("{'text': 'text_a', 'position': 3}{'mask'}", "positions follow from the order"),
        ("{'text': 'text_a'}{'options': 'label.txt'}{'mask'}", "a choice among options is another task"),
        ("{'text': 'text_a'}{'text': 'text_b'}{'mask'}", "2 of {'text': 'text_a'}; write it once"),
        ("{'text': 'text_a'}是", "0 of {'mask'}; write it once"),
        ("{'mask'}{'mask'}", "2 of {'mask'}; write it once"),
        ("{'mask', 'length'}", "length cannot be None"),
        ("{'mask': None, 'length': 2}", "length cannot be 2"),
        ("{'soft': '一', 'length': 101}{'mask'}", "length cannot be 101"),
        ("{'soft': '一', 'encoder': 'gru'}{'mask'}", "encoder cannot be 'gru'"),
        ("{'soft': '一', 'encoder': []}{'mask'}", "encoder cannot be []"),
        ("{'soft': 3}{'mask'}", "soft cannot be 3"),
        ("{'soft': ''}{'mask'}", "soft cannot be ''"),
        ("{'text': 'text_a', 'truncate': False}{'mask'}", "truncate cannot be False"),
        ("{'text': 'text_a', 'token_type': 2}{'mask'}", "token_type cannot be 2"),
        ("{'hard': '是', 'length': 2}{'mask'}", "length: a hard has token_type"),
        ("{'mask'", "a brace without its other"),
        ("是}{'mask'}", "a brace without its other"),
        ("{__import__('os').system('false')}", "is not understood"),
        ("{'soft': '一' * 9}", "is not understood"),
        ("｛'mask'｝是", "a full-width brace ｛; a part is written like {'mask'}"),
        ("是{'text': 'text_a'}｝", "a full-width brace ｝"),
        ("{'colour'}", "is none of text, mask, soft"),
        ("{}", "is none of text, mask, soft"),
        ("{1: 2}", "is none of text, mask, soft"),
        ("{" + "(" * 5000 + ")" * 5000 + "}", "is not understood"),
    ],
)
def test_what_a_prompt_cannot_say(prompt, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_prompt(prompt)


@given(st.lists(st.sampled_from(["{", "}", "'mask'", "'soft': ", "'text': 'text_a'", "一", ", ", "None", " "])))
def test_a_prompt_is_taken_or_refused(pieces):
    try:
        parts = parse_prompt("".join(pieces))
    except UserError:
        return
    assert sum("mask" in part for part in parts) == sum("text" in part for part in parts) == 1


def test_label_words(tmp_path):
    write_lines(tmp_path / "label.txt", ["灾害==天灾", "灾害##火==火灾", "灾害##火 == 着火", "灾害##雨", "<b>"])
    problems = Problems()
    labels, words = read_label_words(str(tmp_path / "label.txt"), problems)
    assert not problems.count and labels.names == ["灾害", "灾害##火", "灾害##雨", "<b>"] and labels.hierarchical
    assert words == [["天灾"], ["火灾", "着火"], ["雨"], ["<b>"]]


def test_faults_of_label_words_are_told_with_their_lines(tmp_path):
    path = tmp_path / "label.txt"
    write_lines(path, ["a==", "b==x==y", "c==x", "c==x", "d", "d", "e,f==x", "", "g##h==x", "==x", "i== == x"])
    problems = Problems()
    read_label_words(str(path), problems)
    wanted = (
        "1: 'a=='",
        "2: 'b==x==y'",
        "4: label 'c' has the word 'x' already",
        "6: label 'd' stands on line 5 already",
        "7: label 'e,f' holds a comma",
        "8: empty line",
        "9: label 'g##h' has no parent here",
        "10: '==x': a line is label or label==word",
        "11: 'i== == x': a line is",
    )
    assert problems.count == len(wanted)
    assert all(any(f"{path}:{text}" in message for message in problems.messages) for text in wanted)


def test_a_row_has_to_tell_its_labels(tmp_path):
    labels, path = Labels(["a", "b"]), tmp_path / "train.txt"
    write_lines(path, ["一\ta", "二", "", "三\t", "四\tc", "五"])
    problems = Problems()
    rows = read_labelled(str(path), labels, problems)
    assert problems.count == 3 and [list(rows.labels_of(i)) for i in (0, 2)] == [[0], []]
    for number in (2, 6):
        assert any(f"{path}:{number}: a row without labels; write" in message for message in problems.messages)


# -------------------------------------------------------------------------------------------------- tokens and weights


@pytest.mark.parametrize("prompt", PROMPTS)
def test_rows_are_those_of_paddlenlps_template(masked, prompt):
    """Ids, token types, soft tokens and mask of upstream's own tokenising, texts cut alike."""
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


def test_a_long_text_is_cut_at_the_end_that_is_named(masked):
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
def test_a_row_holds_the_prompt_whatever_the_text(masked_tokenizer, mode, text, length):
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


def test_labels_begin_as_the_mean_of_their_words(masked):
    """Upstream's own start is a mixture of all words (2.8.1)."""
    task = make_task(masked, "是", LABELS, WORDS)
    embeddings, tokenizer = task.model.plm.get_input_embeddings().weight.numpy(), task.tokenizer
    head = task.model.verbalizer.head.decoder.weight.numpy()

    def mean(word):
        return embeddings[tokenizer.encode(word, add_special_tokens=False)["input_ids"]].mean(axis=0)

    assert task.model.verbalizer.labels == ["b", "a", "c"]  # the file's order, not the alphabet's
    for row, words in zip(head, WORDS):
        assert np.allclose(row, np.mean([mean(word) for word in words], axis=0), atol=1e-6)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_classifier_answers_as_the_prompt_model(masked, prompt):
    import paddle

    task = make_task(masked, PROMPTS[prompt], LABELS, WORDS)
    encoded = task.encode(HARD, 48)
    inputs = {name: paddle.to_tensor(value) for name, value in encoded.batch(np.arange(len(HARD))).items()}
    ids = inputs["input_ids"]
    with paddle.no_grad():
        found = prompt_export.make_classifier(task)(ids, paddle.zeros_like(ids), (ids != 0).astype("int64")).numpy()
    assert np.abs(found - task.logits(encoded, 4)).max() < 1e-4 and found.std() > 0.01


@pytest.mark.parametrize(("prompt", "flags"), [("lstm", {}), ("mlp and types", {"truncate_mode": "head"})])
def test_the_bundle_answers_as_the_prompt_model(masked, tmp_path, prompt, flags):
    task = make_task(masked, PROMPTS[prompt], LABELS, WORDS, **flags)
    work = SimpleNamespace(labels=LABELS, words=WORDS, parts=parse_prompt(PROMPTS[prompt]))
    args = SimpleNamespace(max_seq_length=48, truncate_mode=flags.get("truncate_mode", "tail"), export_type="onnx")
    folder = tmp_path / "export"
    assert prompt_export.export(str(folder), task, work, Decision(), args) < 1e-4
    predictor = Predictor(str(folder))
    assert np.abs(predictor.run(predictor.encode(HARD)) - task.logits(task.encode(HARD, 48), 4)).max() < 1e-4
    assert not list(folder.glob("*.pdmodel")) and predictor.bundle.manifest["static_graph"] is None


def test_the_last_layer_answers_for_the_mask_alone(prompted):
    model = onnx.load(prompted["news"][1] / "export" / "model.onnx")
    attention = [node for node in model.graph.node if node.op_type == "MultiHeadAttention"]
    producers = {name: node for node in model.graph.node for name in node.output}
    queries, keys = (producers[attention[-1].input[i]].input[0] for i in (0, 1))
    assert queries == "picked_token_state" and producers[queries].input[1] == keys
    assert [node.name for node in model.graph.node].count("picked_token_state") == 1


def test_a_bundle_that_answers_otherwise_is_refused(masked, tmp_path, monkeypatch):
    task = make_task(masked, "是", LABELS, WORDS)
    real = prompt_export.make_classifier

    def wrong(task):
        classifier = real(task)
        classifier.head.decoder.bias.set_value(classifier.head.decoder.bias + 1e-3)
        return classifier

    monkeypatch.setattr(prompt_export, "make_classifier", wrong)
    work = SimpleNamespace(labels=LABELS, words=WORDS, parts=parse_prompt("是"))
    args = SimpleNamespace(max_seq_length=48, truncate_mode="tail", export_type="paddle")
    with pytest.raises(UserError, match="logits differ from the trained one's by 1.0e-03"):
        prompt_export.export(str(tmp_path / "export"), task, work, Decision(), args)
    assert not (tmp_path / "export").exists()


# ---------------------------------------------------------------------------------------------------------- a whole run


@pytest.mark.parametrize("name", ["news", "reviews"])
def test_a_run_leaves_a_model_predictions_and_a_bundle(prompted, name):
    dataset, out = prompted[name]
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    losses = run["training"]["losses"]
    assert losses[-1] < 0.7 * losses[0] and run["kind"] == "prompt" and run["training"]["best"] > 0
    assert set(run["data"]) == {"label.txt", "train.txt", "dev.txt"}
    assert {path.name for path in out.iterdir()} == set(run["files"]) and not out.with_name("out_last").exists()
    assert lines_of(out / "label.txt") == lines_of(dataset / "label.txt")
    bundle = open_bundle(str(out / "export"))
    upstream = {"model.pdmodel", "model.pdiparams", "template_config.json", "verbalizer_config.json"}
    assert upstream | {"template.json", "model.onnx"} <= set(bundle.manifest["files"])
    assert [tensor["name"] for tensor in bundle.manifest["inputs"]] == ["input_ids", "token_type_ids"]
    rows = read_rows(str(out / "predictions.txt"), bundle.labels, problems := Problems())  # labels hold their parents
    assert not problems.count and list(rows.texts) == [line.strip() for line in lines_of(dataset / "data.txt")]
    names = [",".join(names) for names, _ in Predictor(str(out / "export")).predict(list(rows.texts))]
    assert names == [line.partition("\t")[2] for line in lines_of(out / "predictions.txt")] and any(names)


def test_the_trained_model_is_taken_up_again(prompted, run, tmp_path):
    """Scores, predictions and bundle of the folder alone are those of the run that wrote it."""
    dataset, out = prompted["reviews"]
    status, log = run(
        train.main,
        "--data_dir",
        dataset,
        "--resume_from_checkpoint",
        out,
        "--output_dir",
        tmp_path / "new",
        "--device",
        "cpu",
        "--do_eval",
        "--do_predict",
        "--do_export",
    )
    assert status == 0, log
    best = json.loads((out / "run.json").read_text(encoding="utf-8"))["training"]["best"]
    assert "Dev dataset size: 24, accuracy: " in log and f"macro f1 score: {best:.5f}" in log
    assert "Test dataset size: 24" in log and "input data: " in log
    assert (tmp_path / "new" / "predictions.txt").read_bytes() == (out / "predictions.txt").read_bytes()
    old, new = (open_bundle(str(folder / "export")) for folder in (out, tmp_path / "new"))
    for name in ("template.json", "label.txt", "verbalizer_config.json"):
        assert old.manifest["files"][name] == new.manifest["files"][name], name
    first, second = (Predictor(bundle.folder) for bundle in (old, new))
    assert np.array_equal(first.probabilities(HARD), second.probabilities(HARD))
    assert new.manifest["max_seq_length"] == 48  # as in training


def test_the_folders_decision_is_what_decides(prompted, run, tmp_path):
    dataset, out = prompted["news"]
    shutil.copytree(out, tmp_path / "out")
    wanted = Decision(0.2, min_k=1, max_k=3, temperature=1.5, hierarchy="best_set")
    wanted.save(tmp_path / "out" / "decision.json")
    where = ("--data_dir", dataset, "--output_dir", tmp_path / "out", "--device", "cpu")
    status, log = run(train.main, *where, "--do_eval", "--do_predict", "--do_export")
    assert status == 0, log
    best = json.loads((out / "run.json").read_text(encoding="utf-8"))["training"]["best"]
    assert "Dev dataset size: 24" in log and f"macro f1 score: {best:.5f}" not in log
    predictor = Predictor(str(tmp_path / "out" / "export"))
    assert predictor.decision == wanted
    rows = [line.split("\t") for line in lines_of(tmp_path / "out" / "predictions.txt")]
    assert [names for _, names in rows] == [
        ",".join(names) for names, _ in predictor.predict([text for text, _ in rows])
    ]
    assert lines_of(out / "predictions.txt") != lines_of(tmp_path / "out" / "predictions.txt")


def test_without_data_txt_the_test_rows_are_labelled(tune, few, tmp_path):
    (few / "data.txt").unlink()
    status, log = tune("--do_train", "--do_predict", "--prompt", "{'soft': '这'}是")
    assert "A row: [CLS] <text> <soft> 是 [MASK] [SEP]" in log and re.search(r"train: .* of the rows cut at 40", log)
    assert status == 0 and len(lines_of(tmp_path / "out" / "predictions.txt")) == len(lines_of(few / "test.txt")), log
    (few / "test.txt").unlink()
    status, log = tune("--do_train", "--do_predict")
    assert status == 2 and f"--data_dir {few}: there is no data.txt and no test.txt" in log
    assert tune("--do_train")[0] == 0  # test.txt is not needed


def test_other_scripts_do_not_take_it_for_a_classifier(prompted, run):
    dataset, out = prompted["reviews"]
    status, log = run(predict.main, "--dataset_dir", dataset, "--params_path", out, "--device", "cpu")
    assert status == 2 and "holds a prompt model; name a folder that train.py wrote" in log


# ------------------------------------------------------------------------------------------------------------- training


def weights_of(folder):
    import paddle

    return {name: value.numpy() for name, value in paddle.load(str(folder / "model_state.pdparams")).items()}


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tune, few, tmp_path, monkeypatch):
    steps = ("--do_train", "--eval_steps", "2", "--prompt", PROMPTS["soft"], "--logging_steps", "1")
    shuffle, drawn = prompt_training.shuffled_batches, []
    monkeypatch.setattr(prompt_training, "shuffled_batches", lambda *args: drawn.append(args[2]) or shuffle(*args))
    assert tune(*steps)[0] == 0
    assert drawn == [[3, 0], [3, 1]]  # seed and epoch
    whole = weights_of(tmp_path / "out")
    (tmp_path / "out" / "run.json").rename(tmp_path / "run.json")
    shutil.rmtree(tmp_path / "out")

    real, calls = prompt_training.score, []

    def stop_at_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(prompt_training, "score", stop_at_the_third)
    status, log = tune(*steps)
    last = tmp_path / "out_last"
    assert status == 130 and f"--resume_from_checkpoint {last}" in log and not (tmp_path / "out").exists()
    monkeypatch.setattr(prompt_training, "score", real)
    status, log = tune(*steps, "--resume_from_checkpoint", last, "--learning_rate", "1e-2")
    assert status == 2 and "--learning_rate was 3e-05, is 0.01" in log
    rows = lines_of(few / "train.txt")
    write_lines(few / "train.txt", rows[1:])
    status, log = tune(*steps, "--resume_from_checkpoint", last)
    assert status == 2 and "train.txt is not the file that run was started with" in log
    write_lines(few / "train.txt", rows)
    drawn.clear()
    status, log = tune(*steps, "--resume_from_checkpoint", last / "checkpoint-4")
    assert drawn == [[3, 1]]
    assert status == 0 and re.findall(r"global step (\d+),", log) == ["5", "6"], log
    again = weights_of(tmp_path / "out")
    assert whole.keys() == again.keys() and not last.exists()
    for name, value in whole.items():
        assert np.array_equal(value, again[name]), name
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "run.json", tmp_path / "out/run.json")]
    assert runs[0]["training"]["history"] == runs[1]["training"]["history"]


def test_what_was_best_before_the_stop_is_kept(tune, tmp_path, monkeypatch):
    scores, seen = [0.5, 0.2, KeyboardInterrupt, 0.1], []

    def score(task, *_):
        seen.append(task.model.verbalizer.head.decoder.weight.numpy().copy())
        if scores[len(seen) - 1] is KeyboardInterrupt:
            raise KeyboardInterrupt
        return {"macro_f1_score": scores[len(seen) - 1], "micro_f1_score": 0.3, "loss": 0.2, "accuracy": 0.0}

    monkeypatch.setattr(prompt_training, "score", score)
    assert tune("--do_train", "--eval_steps", 2)[0] == 130
    last = tmp_path / "out_last"
    state = last / "checkpoint-4" / "trainer_state.json"
    moved = state.read_text(encoding="utf-8").replace(str(last), "elsewhere_last")  # as if all had been moved since
    assert "elsewhere_last/checkpoint-2" in moved
    state.write_text(moved, encoding="utf-8")
    status, log = tune("--do_train", "--eval_steps", 2, "--resume_from_checkpoint", last)
    assert status == 0 and "Final best macro_f1_score: 0.50000" in log and len(seen) == 4, log
    assert np.array_equal(weights_of(tmp_path / "out")["verbalizer.head.decoder.weight"], seen[0])


@pytest.mark.parametrize("end", ["patience", "steps"])
def test_a_run_killed_after_its_last_step_takes_no_further_one(tune, tmp_path, monkeypatch, end):
    """With a better score to be had, were it to go on. 24 rows in batches of 8: its fourth step is within an epoch.
    Where the last model is wanted, patience ends nothing."""
    scores, seen = iter([0.5, 0.2, 0.1] + ([0.9] if end == "patience" else [0.4, 0.9])), []

    def score(task, *_):
        seen.append(task.model.verbalizer.head.decoder.weight.numpy().copy())
        return {"macro_f1_score": next(scores), "micro_f1_score": 0.3, "loss": 0.2, "accuracy": 0.0}

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prompt_training, "score", score)
    flags, count = {
        "patience": (("--eval_steps", 1), 3),
        "steps": (("--eval_steps", 1, "--max_steps", 4, "--load_best_model_at_end", 0), 4),
    }[end]
    flags = (*flags, "--early_stopping_patience", 2)
    with monkeypatch.context() as patch:
        patch.setattr(train, "save", killed)
        assert tune("--do_train", *flags)[0] == 130 and len(seen) == count
    status, log = tune("--do_train", *flags, "--resume_from_checkpoint", tmp_path / "out_last")
    assert status == 0 and len(seen) == count and "Final best macro_f1_score: 0.50000" in log, log
    kept = weights_of(tmp_path / "out")["verbalizer.head.decoder.weight"]
    assert np.array_equal(kept, seen[0 if end == "patience" else -1])
    assert json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["training"]["steps"] == count


def test_patience_counts_on_after_a_stop(tune, tmp_path, monkeypatch):
    scores, calls = [0.5, 0.2, 0.1, 0.1, KeyboardInterrupt, 0.1, 0.9], []

    def score(*_):
        calls.append(scores[len(calls)])
        if calls[-1] is KeyboardInterrupt:
            raise KeyboardInterrupt
        return {"macro_f1_score": calls[-1], "micro_f1_score": 0.3, "loss": 0.2, "accuracy": 0.0}

    monkeypatch.setattr(prompt_training, "score", score)
    flags = ("--do_train", "--eval_steps", 1, "--early_stopping_patience", 4, "--save_total_limit", 2)
    assert tune(*flags)[0] == 130
    last = tmp_path / "out_last"
    assert {path.name for path in last.iterdir()} == {"run.json", *(f"checkpoint-{step}" for step in (1, 3, 4))}
    shutil.copytree(last / "checkpoint-4", last / "checkpoint-9")
    for name in ("trainer_state.json", "rng_state.pth"):  # written last: as a kill leaves it
        (last / "checkpoint-9" / name).unlink()
    (last / "checkpoint-of-mine").mkdir()
    status, log = tune(*flags, "--resume_from_checkpoint", last)
    assert status == 0 and "going on at step 4" in log and "Early stop!" in log and len(calls) == 6, log


def test_what_cannot_be_gone_on_with(tune, prompted, tmp_path):
    status, log = tune("--do_train", "--resume_from_checkpoint", prompted["reviews"][1])
    assert status == 2 and "no checkpoint of a stopped training is there" in log and "leave out --do_train" in log
    (tmp_path / "out_last").mkdir()
    status, log = tune("--do_train", "--resume_from_checkpoint", f"{tmp_path}/out_last/")
    assert status == 2 and "nothing is saved there yet; leave it out to start from the beginning" in log
    other = tmp_path / "other_last" / "checkpoint-2"
    other.mkdir(parents=True)
    for name in prompt_training.STATE:
        (other / name).touch()
    for folder in (other, other.parent):
        status, log = tune("--do_train", "--resume_from_checkpoint", folder)
        assert status == 2 and f"a run goes on in its own folder, which is {tmp_path / 'out_last'}" in log
    status, log = tune("--do_eval", "--resume_from_checkpoint", other)
    assert status == 2 and f"{other} holds no run.json; name a folder that few-shot/train.py wrote\n" in log


def test_an_interrupted_run_leaves_what_was_there(tune, tmp_path, monkeypatch):
    assert tune("--do_train")[0] == 0
    before = (tmp_path / "out" / "model_state.pdparams").read_bytes()
    monkeypatch.setattr(prompt_training, "score", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    status, log = tune("--do_train", "--seed", "9")
    assert status == 130 and "Stopped before anything was saved" in log and "to go on" not in log
    assert (tmp_path / "out" / "model_state.pdparams").read_bytes() == before
    monkeypatch.undo()
    status, log = tune("--do_train", "--seed", "9")
    assert status == 0 and "holds a run that was stopped; this one replaces it" in log
    assert (tmp_path / "out" / "model_state.pdparams").read_bytes() != before


@pytest.mark.parametrize("metric", ["macro_f1_score", "micro_f1_score"])
def test_the_best_is_kept_and_patience_ends(tune, tmp_path, monkeypatch, metric):
    """Scores as they would come; with a score of 0 nothing has been learnt, and nothing ends."""
    scores, seen = [0, 0, 0, 0.2, 0.5, 0.5, 0.1, 0.4, 0.9, 0.9], []

    def score(task, *_):
        seen.append(task.model.verbalizer.head.decoder.weight.numpy().copy())
        value, other = scores[len(seen) - 1], 0.3
        both = {"macro_f1_score": other, "micro_f1_score": other, metric: value}
        return {**both, "loss": {6: 0.1, 7: float("nan")}.get(len(seen), 0.2), "accuracy": 0.0}

    monkeypatch.setattr(prompt_training, "score", score)
    flags = ("--num_train_epochs", 10, "--early_stopping_patience", 2, "--metric_for_best_model", metric)
    status, log = tune("--do_train", *flags)
    assert status == 0 and len(seen) == 8 and "Early stop!" in log and f"Final best {metric}: 0.50000" in log
    kept = weights_of(tmp_path / "out")["verbalizer.head.decoder.weight"]
    assert np.array_equal(kept, seen[5]) and not np.array_equal(kept, seen[4])  # of equals the lower loss


def test_the_same_seed_gives_the_same_model(tune, tmp_path):
    models = []
    for seed in (3, 3, 4):
        assert tune("--do_train", "--seed", seed, "--prompt", PROMPTS["lstm"])[0] == 0
        models.append(weights_of(tmp_path / "out"))
    equal = [all(np.array_equal(models[0][name], other[name]) for name in models[0]) for other in models[1:]]
    assert equal == [True, False]


def test_the_model_can_be_frozen(tune, masked, tmp_path):
    assert tune("--do_train", "--freeze_dropout", "--prompt", PROMPTS["soft"])[0] == 0
    before, after = weights_of(masked), weights_of(tmp_path / "out")
    encoder = [name for name in before if name.startswith("ernie.")]
    assert encoder and all(np.array_equal(before[name], after[f"plm.{name}"]) for name in encoder)
    start = make_task(masked, PROMPTS["soft"], Labels(["a"]), [["一"]]).model.template.soft_embeddings.weight.numpy()
    assert np.abs(after["template.soft_embeddings.weight"][1:] - start[1:]).max() > 1e-5


@pytest.mark.parametrize("frozen", [(), ("--freeze_plm",)])
def test_every_option_of_the_optimiser_counts(tune, tmp_path, frozen):
    same = ("--do_train", "--prompt", PROMPTS["soft"], "--load_best_model_at_end", "false", *frozen)

    def learnt(*flags):
        assert tune(*same, *flags)[0] == 0
        return np.concatenate([value.ravel() for value in weights_of(tmp_path / "out").values()])

    plain = learnt()
    assert np.array_equal(learnt("--max_grad_norm", "0"), learnt("--max_grad_norm", "1e9"))  # off
    for flags in (
        ("--max_grad_norm", "1e-2"),
        ("--ppt_learning_rate", "1e-3"),
        ("--ppt_weight_decay", "0.5"),
        ("--ppt_adam_beta1", "0.5"),
        ("--ppt_adam_beta2", "0.5"),
        ("--ppt_adam_epsilon", "1e-2"),
        ("--warmup_steps", 2),
        ("--warmup_ratio", "0.5"),
        ("--lr_scheduler_type", "constant"),
    ):
        assert not np.array_equal(learnt(*flags), plain), flags
    for flags in (("--learning_rate", "1e-3"), ("--weight_decay", "0.5")):  # of the model
        assert np.array_equal(learnt(*flags), plain) == bool(frozen), flags


def test_frozen_dropout_sleeps_in_training(masked):
    """Upstream puts it to sleep once, and the first step wakes it (2.8.1)."""
    for frozen in (False, True):
        task = make_task(masked, "是", LABELS, WORDS, freeze_plm=frozen, freeze_dropout=frozen)
        task.model.train()
        assert task.model.plm.training is not frozen and task.model.verbalizer.training


@pytest.mark.parametrize(("kind", "term"), [("rdrop", "divergence"), ("rgl", "consistency")])
def test_regularisers_change_what_is_learnt(tune, tmp_path, monkeypatch, kind, term):
    real, calls, models = getattr(prompt_training, term), [], []
    monkeypatch.setattr(prompt_training, term, lambda *args: calls.append(args) or real(*args))
    for flags in ((), (f"--use_{kind}", f"--alpha_{kind}", "0"), (f"--use_{kind}",)):
        assert not calls and tune("--do_train", *flags)[0] == 0
        models.append(weights_of(tmp_path / "out")["verbalizer.head.decoder.weight"])
    assert len(calls) == 6 and np.array_equal(models[0], models[1]) and not np.array_equal(models[0], models[2])


def test_rdrop_is_the_divergence_of_two_passes():
    import paddle

    one, two = np.random.default_rng(3).normal(size=(2, 4, 5)).astype(np.float32)
    p, q = (1 / (1 + np.exp(-x.astype(np.float64))) for x in (one, two))
    kl = [a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b)) for a, b in ((p, q), (q, p))]
    found = float(prompt_training.divergence(paddle.to_tensor(one), paddle.to_tensor(two)))
    assert found == pytest.approx(np.mean(kl), rel=1e-4)


def test_rgl_is_the_loss_of_pairs():
    """PaddleNLP's sum over pairs, with arrays compared as arrays."""
    import paddle
    import paddle.nn.functional as F

    vectors = paddle.to_tensor(np.random.default_rng(3).normal(size=(4, 6)).astype(np.float32))
    labels = paddle.to_tensor(np.array([[1, 0], [1, 0], [0, 1], [1, 1]], dtype=np.float32))
    wanted = 0
    for i in range(4):
        for j in range(4):
            score = F.cosine_similarity(vectors[i], vectors[j], axis=0).unsqueeze(0)
            same = int((labels[i].numpy() == labels[j].numpy()).all())
            pair = paddle.concat([(1 - score) * 50, (1 + score) * 50], axis=-1).reshape([1, 2])
            wanted += float(F.cross_entropy(pair, paddle.to_tensor([[same]])))
    found = float(prompt_training.consistency(vectors, labels))
    assert found == pytest.approx(wanted / 12 / 100, rel=1e-3)
    assert float(prompt_training.consistency(vectors[:1], labels[:1])) == pytest.approx(0, abs=1e-6)


# ------------------------------------------------------------------------------------------------------------- refusals


def test_all_faults_are_told_at_once(tune, few, masked, tmp_path):
    (tmp_path / "out").mkdir()
    write_lines(tmp_path / "out" / "thesis.txt", ["mine"])
    (few / "dev.txt").unlink()
    flags = ("--device", "tpu", "--prompt", "{'prefix'}", "--load_best_model_at_end", "--evaluation_strategy", "no")
    status, log = tune("--do_train", *flags, "--max_steps", "0", "--learning_rate", "0", "--save_strategy", "epoch")
    assert status == 2 and "Traceback" not in log and "nothing was done" in log
    for text in (
        "--device tpu: expected cpu",
        "the folder holds thesis.txt, which would be lost",
        "prefix tuning puts vectors",
        "without --evaluation_strategy nothing tells which is best",
        "--max_steps: 1 or more",
        "--learning_rate 0",
        f"--data_dir {few}: there is no dev.txt",
        "--output_dir",
        "what is scored has to be saved",
    ):
        assert text in log, text


def test_files_beside_a_stopped_run_and_several_processes_are_refused(tune, tmp_path, monkeypatch):
    (tmp_path / "out_last").mkdir()
    write_lines(tmp_path / "out_last" / "thesis.txt", ["mine"])
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    status, log = tune("--do_train")
    assert status == 2 and f"{tmp_path}/out_last holds thesis.txt, which would be lost; move it elsewhere" in log
    assert "start it without paddle.distributed.launch" in log and (tmp_path / "out_last" / "thesis.txt").exists()


def test_faults_of_rows_and_labels(tune, few):
    for name in ("train", "dev"):
        write_lines(few / f"{name}.txt", [*lines_of(few / f"{name}.txt"), "没有标签的一行", "错\t没有这个标签"])
    status, log = tune("--do_train")
    assert status == 2 and log.count("a row without labels; write text<TAB>label,label") == 2
    assert f"{few}/train.txt:25: a row" in log and f"{few}/dev.txt:14: label '没有这个标签' is not in" in log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--do_train", "--evaluation_strategy", "epoch", "--eval_steps", "5"),
            "--eval_steps: with --evaluation_strategy epoch it is not read; leave one of them out",
        ),
        (
            ("--do_train", "--save_strategy", "epoch", "--save_steps", "5"),
            "--save_steps: with --save_strategy epoch it is not read; leave one of them out",
        ),
        (("--do_train", "--eval_steps", "2", "--save_steps", "3"), "what is scored has to be saved; give"),
        (("--do_train", "--evaluation_strategy", "steps"), "--evaluation_strategy steps: say how many, --eval_steps"),
        (
            ("--do_train", "--save_strategy", "steps", "--load_best_model_at_end", "0"),
            "--save_strategy steps: say how many, --save_steps 100",
        ),
        (("--do_train", "--max_steps", "-5"), "--max_steps: 1 or more, or -1 for whole epochs"),
        ((), "nothing to do: give --do_train, --do_eval, --do_predict or --do_export"),
        (("--do_eval",), "--output_dir {out} is not there; train first (python few-shot/train.py ...)"),
        (("--do_train", "--data_dir", "nowhere"), "--data_dir nowhere is no folder; name the one that holds train.txt"),
        (("--do_train", "--max_seq_length", "5"), "--max_seq_length 5: the prompt alone takes 5 tokens"),
        (("--do_train", "--max_seq_length", "5000"), "--max_seq_length 5000: this model takes 2048 tokens at most"),
        (("--do_train", "--prompt", "是[PAD]"), "--prompt: [PAD] and [MASK] cannot be words of it"),
        (("--do_train", "--prompt", "是[MASK]"), "--prompt: [PAD] and [MASK] cannot be words of it"),
        (("--do_train", "--prompt", "{'soft': '\ufffd'}"), "--prompt: Soft prompt expected"),
        (
            ("--do_train", "--prompt", "{'soft': '一', 'soft_id': 1}{'soft': '一', 'soft_id': 1}"),
            "--prompt: words of one soft_id stand once",
        ),
        (("--do_train", "--evaluation_strategy", "steps"), "--evaluation_strategy steps: say how many, --eval_steps"),
        (
            ("--do_train", "--load_best_model_at_end", "false", "--save_strategy", "steps"),
            "--save_strategy steps: say how many, --save_steps",
        ),
        (
            ("--do_train", "--model_name_or_path", "./nowhere"),
            "--model_name_or_path ./nowhere: there is no such folder",
        ),
    ],
)
def test_what_is_refused(tune, tmp_path, flags, message):
    status, log = tune("--prompt", "[UNK]是", *flags)
    assert status == 2 and message.format(out=tmp_path / "out") in log, log
    assert not (tmp_path / "out").exists()


def test_other_models_are_refused(tune, masked, family_folders, tmp_path):
    import paddle
    from paddlenlp.transformers import BertConfig, BertForMaskedLM, BertTokenizer

    config = BertConfig(
        vocab_size=3000, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    paddle.seed(1)
    BertForMaskedLM(config).save_pretrained(str(tmp_path / "bert"))
    BertTokenizer(str(masked / "vocab.txt")).save_pretrained(str(tmp_path / "bert"))
    for folder, message in (
        (tmp_path / "bert", "of type bert; only ERNIE is taken here"),
        (family_folders["ernie"], "it holds ErnieModel, which predicts no words"),
        (family_folders["ernie_m"], "it holds ErnieMModel, which predicts no words"),
    ):
        status, log = tune("--do_train", "--model_name_or_path", folder)
        assert status == 2 and f"--model_name_or_path {folder}: {message}" in log


def test_labels_and_words_may_be_anything(tune, tmp_path):
    names = ["<b>&\"'", "😀", "长" * 300, "a##b", "a", "{'mask'}", "[MASK]"]
    words = ["<i>", "😀😀", "词" * 300, "\"'", "[UNK]", "[MASK]", "{}"]
    data = tmp_path / "odd"
    data.mkdir()
    write_lines(data / "label.txt", [f"{name}=={word}" for name, word in zip(names, words)])
    rows = [f"第{i}行 <script> {name}\t{name}" for i, name in enumerate(names)]
    rows += ["全部\t" + ",".join(names), "😀" * 700 + "\t", "长" * 2000 + "\ta"]
    for split in ("train", "dev"):
        write_lines(data / f"{split}.txt", rows)
    write_lines(data / "data.txt", rows)
    status, log = tune("--do_train", "--do_eval", "--do_predict", data=data)
    assert status == 0, log
    assert len(lines_of(tmp_path / "out" / "predictions.txt")) == len(rows)
    assert lines_of(tmp_path / "out" / "label.txt") == names


def test_words_that_the_model_does_not_know_are_told(tune, few):
    """One known piece is enough."""
    labels = lines_of(few / "label.txt")
    write_lines(few / "label.txt", [f"{labels[0]}==😀😀", f"{labels[1]}==干净", f"{labels[1]}==净😀", *labels[2:]])
    status, log = tune("--do_train")
    assert status == 0 and f"The model knows no piece of 1 words: {labels[0]}==😀😀. Give others" in log, log


def test_a_word_without_tokens_is_told(tune, few):
    labels = lines_of(few / "label.txt")
    write_lines(few / "label.txt", [*labels[:-1], f"{labels[-1]}==\ufffd"])
    status, log = tune("--do_train")
    assert status == 2 and f"label {labels[-1]!r}: the word '\ufffd' has no tokens; give another" in log


def test_another_prompt_or_other_labels_than_the_models_are_refused(prompted, run, tmp_path):
    dataset, out = prompted["reviews"]
    shutil.copytree(dataset, tmp_path / "data")
    write_lines(tmp_path / "data" / "label.txt", lines_of(dataset / "label.txt")[::-1])
    where = ("--data_dir", tmp_path / "data", "--resume_from_checkpoint", out, "--output_dir", tmp_path / "new")
    status, log = run(train.main, *where, "--device", "cpu", "--do_eval", "--prompt", "别的")
    assert status == 2 and "--prompt is another than that of the trained model" in log
    assert "does not name the labels of the trained model, in their order" in log


def test_switches_are_taken_as_the_trainer_takes_them():
    need = ["--output_dir", "out"]
    args = train.parse_args([*need, "--do_train", "True", "--do_eval", "--load_best_model_at_end", "false"])
    assert args.do_train and args.do_eval and not args.do_export and not args.load_best_model_at_end
    assert train.parse_args([*need, "--freeze_dropout"]).freeze_plm
    for flags, wanted in (
        (("--eval_steps", "100"), ("steps", "steps", 100)),
        (("--save_steps", "50"), ("epoch", "steps", 50)),
        (("--eval_steps", "100", "--save_strategy", "epoch"), ("steps", "epoch", None)),
    ):
        args = train.parse_args([*need, *flags])
        assert (args.evaluation_strategy, args.save_strategy, args.save_steps) == wanted
    assert train.parse_args(need).load_best_model_at_end
    for flags in (("--do_train", "maybe"), ("--warmup_ratio", "1.5"), ("--ppt_adam_beta1", "1")):
        with pytest.raises(SystemExit):
            train.parse_args([*need, *flags])


def test_scores():
    logits = np.array([[3, -2, 1], [-1, -1, -1]], dtype=np.float32)
    task = SimpleNamespace(logits=lambda encoded, batch_size: logits)
    gold = np.array([[1, 0, 0], [0, 0, 0]], dtype=bool)
    rows = SimpleNamespace(multi_hot=lambda labels: gold)
    found = prompt_training.score(task, None, rows, LABELS, 4, Decision())
    p = 1 / (1 + np.exp(-logits))
    assert found["loss"] == pytest.approx(-np.log(np.where(gold, p, 1 - p)).mean(), rel=1e-5)
    assert (found["micro_f1_score"], found["accuracy"]) == (pytest.approx(2 / 3), 0.5)
    assert found["macro_f1_score"] == pytest.approx(1 / 3)
    assert prompt_training.score(task, None, rows, LABELS, 4, Decision(0.9))["accuracy"] == 1


def test_scoring_does_not_end_dropout(masked):
    task = make_task(masked, "是", LABELS, WORDS)
    for training in (True, False):
        task.model.train() if training else task.model.eval()
        task.logits(task.encode(["一"], 48), 4)
        assert task.model.training is task.model.plm.training is training


def test_length_and_cut_are_those_of_the_training(tune, few, tmp_path):
    assert tune("--do_train", "--truncate_mode", "head")[0] == 0
    where = ["--data_dir", str(few), "--output_dir", str(tmp_path / "out"), "--device", "cpu", "--do_eval"]
    for flags, wanted in (([], (40, "head")), (["--max_seq_length", "30", "--truncate_mode", "tail"], (30, "tail"))):
        args = train.parse_args([*where, *flags])
        prompt_data.read_all(args)
        assert (args.max_seq_length, args.truncate_mode) == wanted


def test_a_run_shorter_than_the_steps_between_scores_is_scored(tune):
    status, log = tune("--do_train", "--eval_steps", 100)
    assert status == 0 and log.count("eval loss") == 1 and "Final best" in log, log


def test_what_is_saved_need_not_be_scored(tune):
    flags = ("--load_best_model_at_end", "false", "--save_strategy", "steps", "--save_steps", 2)
    status, log = tune("--do_train", *flags)
    assert status == 0 and log.count("eval loss") == 2 and "Save last prompt model in" in log, log


def test_too_little_memory_is_told(tune, tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_training, "score", lambda *_: (_ for _ in ()).throw(MemoryError("no more")))
    status, log = tune("--do_train")
    assert status == 2 and "Traceback" not in log
    assert "out of memory with --per_device_train_batch_size 8 and --max_seq_length 40; halve one of them" in log


def test_what_lies_beside_a_bundle_is_not_lost(tune, masked, tmp_path):
    """What a killed run left half-written is."""
    assert tune("--do_train")[0] == 0
    for name in ("export.tmp", "predictions.txt.17.tmp"):
        (tmp_path / "out" / name).mkdir()
    export = tmp_path / "out" / "export"
    export.mkdir()
    for name in ("model.pdmodel", "model.pdiparams", "template_config.json", "verbalizer_config.json"):
        (export / name).touch()  # as the older suite leaves it
    (export / "notes.txt").touch()
    status, log = tune("--do_train")
    assert status == 2 and f"--output_dir {export}: the folder holds notes.txt, which would be lost" in log
    (export / "notes.txt").unlink()
    status, log = tune("--do_train")
    assert status == 0 and not export.exists() and not (tmp_path / "out" / "export.tmp").exists(), log
