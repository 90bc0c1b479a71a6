import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, command_line, lines_of, load_script, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from training_runs import losses, weights

import encoder as encoder_module
import predict as classifier_predict
import retrieval_training
from encoder import embed, load_encoder, open_encoder
from metric import classification_report
from retrieval_training import fit_within, rows_of
from text_cls.cli import Problems, UserError
from text_cls.decision import Decision
from text_cls.neural import training
from text_cls.neural.checkpoint import load_checkpoint, read_run
from text_cls.neural.compat import import_paddle
from text_cls.neural.model import encode
from text_cls.rows import Labels, read_rows
from text_cls.search.label_scores import default_decision

paddle = import_paddle()
script = load_script("retrieval_based/train.py")
CONTRACT = {  # flag: default, as in PaddleNLP's application; without --threshold, it is fitted
    "save_dir": "./checkpoint",
    "max_seq_length": 512,
    "batch_size": 32,
    "output_emb_size": 256,
    "learning_rate": 5e-5,
    "weight_decay": 0.0,
    "epochs": 10,
    "warmup_proportion": 0.0,
    "init_from_ckpt": None,
    "seed": 1000,
    "save_steps": 10000,
    "log_steps": 10,
    "train_set_file": "./data/train.txt",
    "margin": 0.2,
    "scale": 30,
    "corpus_file": "./data/label.txt",
    "similar_text_pair_file": "./data/dev.txt",
    "recall_num": 50,
    "evaluate": True,
    "model_name_or_path": "rocketqa-zh-dureader-query-encoder",
    "threshold": None,
}


def test_commands_of_paddlenlps_application_are_accepted():
    older = "--similar_text_pair dev.txt --evaluate False --hnsw_m 100 --hnsw_ef 100 --hnsw_max_elements 1000000"
    older += " --recall_result_dir results --recall_result_file recall_result.txt --evaluate_result evaluate_result.txt"
    args = script.parse_args(older.split())
    assert args.similar_text_pair_file == "dev.txt" and args.evaluate is False
    assert script.parse_args(["--evaluate", "True"]).evaluate and script.parse_args(["--evaluate"]).evaluate
    assert not script.parse_args(["--no-evaluate"]).evaluate


def files_of(dataset):
    files = {"train_set_file": "train.txt", "corpus_file": "label.txt", "similar_text_pair_file": "dev.txt"}
    return [f"--{flag}={dataset / name}" for flag, name in files.items()]


@pytest.fixture
def fit(run, tiny_model, tmp_path):
    """fit(dataset, *flags) -> (exit status, log, folder of the checkpoint); quick settings, the flags win."""

    def call(dataset, *flags, save_dir=None):
        save_dir = save_dir or tmp_path / "checkpoint"
        quick = "--device cpu --max_seq_length 32 --epochs 1 --learning_rate 1e-3 --log_steps 1 --output_emb_size 16"
        where = ["--model_name_or_path", tiny_model, "--save_dir", save_dir]
        status, log = run(script.main, *files_of(dataset), *where, *quick.split(), *flags)
        return status, log, Path(save_dir)

    return call


def same_weights(folder, other, tolerance=1e-6):
    expected = weights(other)
    return all(  # a key's bias has no gradient but rounding errors, from which Adam makes whole steps
        np.allclose(value, expected[name], atol=tolerance)
        for name, value in weights(folder).items()
        if not name.endswith("k_proj.bias")
    )


def test_defaults():
    args = vars(script.parse_args([]))
    assert {name: args[name] for name in CONTRACT} == CONTRACT


# --------------------------------------------------------------------------------------------------------------- a run


def test_a_run(fit, news):
    status, log, folder = fit(news, "--epochs", 2)
    assert status == 0, log
    assert "55 labels, hierarchical" in log and re.search(r"\d+ different texts with labels to learn from", log)
    assert len(re.findall(r"eval recall@1: [\d.]+, recall@5: .*, micro f1: .*, macro f1: .*, threshold: ", log)) == 2
    run = read_run(str(folder))
    assert run["kind"] == "retrieval" and set(os.listdir(folder)) == set(run["files"])
    assert {"config.json", "model_state.pdparams", "vocab.txt", "label.txt", "decision.json"} < set(run["files"])
    assert lines_of(folder / "label.txt") == lines_of(news / "label.txt")
    assert run["progress"]["finished"] and set(run["data"]) == {
        str(news / f"{n}.txt") for n in ("train", "dev", "label")
    }
    best = max(entry["macro_f1"] for entry in run["progress"]["history"])
    assert run["progress"]["best_score"] == best and run["arguments"]["metric_for_best"] == "macro_f1"
    assert not Path(f"{folder}_last").exists()


def test_the_checkpoint_is_the_model_that_was_scored(fit, reviews):
    """Loaded again, it gives the figures of the log, here with an index."""
    from text_cls.search.embedded_index import EmbeddedIndex
    from text_cls.search.label_scores import label_entries, label_scores

    status, log, folder = fit(reviews, "--epochs", 2)
    assert status == 0, log
    trained = open_encoder(str(folder / "model_state.pdparams"), "cpu")  # as PaddleNLP's application names it
    texts, names = label_entries(trained.labels, trained.corpus)
    rows = read_rows(str(reviews / "dev.txt"), trained.labels, Problems())
    vectors = trained.embed(rows.texts)
    assert vectors.shape == (30, 16) and np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    index = EmbeddedIndex(16)
    index.add(trained.embed(texts), names)
    scores = label_scores(index.search(vectors, 50), trained.labels)
    predicted = trained.decision.decide(scores, trained.labels.parents)
    report = classification_report(rows.multi_hot(len(trained.labels)), predicted, trained.labels.parents)
    progress = read_run(str(folder))["progress"]
    best = next(entry for entry in progress["history"] if entry["macro_f1"] == progress["best_score"])
    assert report["micro"]["f1"] == pytest.approx(best["micro_f1"], abs=1e-6)
    assert trained.decision.threshold == best["threshold"]


def test_it_learns(encoders):
    """From random weights: the nearest label is far more often right than by chance, 1 of 44 and 1 of 19."""
    for name, least in (("news", 0.09), ("reviews", 0.2)):
        history = read_run(str(encoders[name][1]))["progress"]["history"]
        assert history[-1]["recall@1"] > least, name
        assert history[-1]["recall@1"] > history[0]["recall@1"]


def test_the_same_run_twice_gives_the_same_checkpoint(fit, news, tmp_path):
    for name in ("one", "two"):
        assert fit(news, save_dir=tmp_path / name)[0] == 0
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert fit(news, "--seed", 5, save_dir=tmp_path / "other")[0] == 0
    assert not same_weights(tmp_path / "one", tmp_path / "other")


def test_dropout_is_on_in_every_step_of_every_epoch(fit, news, monkeypatch):
    """In PaddleNLP's application, it stays off from the second epoch on."""
    modes, outputs = [], []
    original = retrieval_training.RetrievalSteps.losses

    def watched(steps, inputs):
        modes.append(steps.model.training and steps.model.dropout.training)
        copy = {name[len("text/") :]: value for name, value in inputs.items() if name.startswith("text/")}
        with paddle.no_grad():
            outputs.append(float((steps.model(**copy) - steps.model(**copy)).abs().max()))
        return original(steps, inputs)

    monkeypatch.setattr(retrieval_training.RetrievalSteps, "losses", watched)
    status, log, _ = fit(news, "--epochs", 3, "--batch_size", 45)
    assert status == 0 and log.count("eval recall@1") == 3
    assert len(modes) == 2 + 3 * 2 and all(modes)  # two steps of the rehearsal, two of each epoch
    assert min(outputs) > 1e-3  # and it has an effect: the same input gives different vectors


@pytest.mark.parametrize("family", ["ernie", "ernie_m", "bert", "roberta"])
def test_embedding_keeps_the_mode_of_the_model_and_ignores_padding(family_folders, family):
    encoder, tokenizer = load_encoder(str(family_folders[family]), 8)
    tokens = encode(["一", "二三四五"], tokenizer, encoder, 16)
    for mode in (True, False):
        encoder.train() if mode else encoder.eval()
        alone, together = embed(encoder, tokens, 1), embed(encoder, tokens, 2)
        assert alone == pytest.approx(together, abs=1e-5) and encoder.training == mode
    assert np.abs(alone[0] - alone[1]).max() > 1e-3


def test_rows_of_any_kind(fit, tmp_path):
    """No label, one, twenty, a long text, an emoji, markup; a batch with only one label."""
    names = [f"标签{i}" for i in range(20)] + ['<b onclick="x">\'&', "😀"]
    write_lines(tmp_path / "label.txt", names)
    rows = [
        "只有文字",
        "😀\t😀",
        f"很长{'长' * 2000}\t标签3",
        f"二十\t{','.join(names[:20])}",
        '<script>"\t' + names[20],
    ]
    write_lines(tmp_path / "train.txt", rows)
    write_lines(tmp_path / "dev.txt", rows)
    status, log, folder = fit(tmp_path, "--epochs", 2)
    assert status == 0, log
    assert "4 different texts with labels" in log and Decision.load(folder / "decision.json").min_k == 0
    write_lines(tmp_path / "train.txt", ["一\t😀", "二\t😀"])  # no other label to compare it with
    status, log, _ = fit(tmp_path)
    assert status == 0 and losses(log) == [0.0]


def test_a_text_that_is_repeated_for_each_label_trains_as_one_row(fit, tmp_path):
    """The format of the multi-label data of PaddleNLP's application."""
    write_lines(tmp_path / "label.txt", ["甲", "乙", "丙"])
    write_lines(tmp_path / "dev.txt", ["文\t甲,乙"])
    write_lines(tmp_path / "train.txt", ["文\t甲,乙", "字\t丙"])
    assert fit(tmp_path, save_dir=tmp_path / "one")[0] == 0
    write_lines(tmp_path / "train.txt", ["文\t甲", "文\t乙", "字\t丙"])
    assert fit(tmp_path, save_dir=tmp_path / "two")[0] == 0
    assert same_weights(tmp_path / "one", tmp_path / "two")


def test_without_evaluation_the_latest_is_kept(fit, news, monkeypatch):
    (news / "dev.txt").unlink()
    saved = []
    original = training.save_checkpoint
    monkeypatch.setattr(
        training, "save_checkpoint", lambda path, *rest: (saved.append(Path(path).name), original(path, *rest))
    )
    status, log, folder = fit(news, "--no-evaluate", "--batch_size", 30, "--save_steps", 2, "--epochs", 2)
    assert status == 0, log
    assert "eval recall" not in log and f"The encoder is saved in {folder}" in log
    assert saved.count("checkpoint") == 5  # after steps 2, 4 and 6, and after each epoch
    assert read_run(str(folder))["progress"]["step"] == 6 and Decision.load(folder / "decision.json").threshold == 0.5
    assert open_encoder(str(folder), "cpu").embed(["文"]).shape == (1, 16)


def test_a_given_threshold_is_not_fitted(fit, reviews):
    status, _, folder = fit(reviews, "--threshold", 0.35, "--metric_for_best", "micro_f1")
    assert status == 0 and Decision.load(folder / "decision.json").threshold == 0.35
    assert read_run(str(folder))["progress"]["history"][0]["threshold"] == 0.35


def test_from_other_models(fit, news, train, tmp_path):
    """A checkpoint of this script, with its linear layer or another; one of a classifier; a file of weights."""
    status, _, first = fit(news, save_dir=tmp_path / "first")
    assert status == 0
    again, _ = load_encoder(str(first))
    assert again.width == 16 and np.array_equal(again.projection.weight.numpy(), weights(first)["projection.weight"])
    wider, _ = load_encoder(str(first), 24)
    assert wider.width == 24 and "ernie.pooler.dense.weight" in wider.state_dict()
    assert np.array_equal(wider.ernie.pooler.dense.weight.numpy(), weights(first)["ernie.pooler.dense.weight"])
    status, _, classifier = train(news, save_dir=tmp_path / "classifier")
    assert status == 0
    plain, _ = load_encoder(str(classifier), 0)
    assert plain.width == 32 and plain.projection is None
    assert np.array_equal(plain.ernie.pooler.dense.weight.numpy(), weights(classifier)["ernie.pooler.dense.weight"])
    start = ("--init_from_ckpt", first / "model_state.pdparams", "--learning_rate", 0)
    status, log, second = fit(news, *start, save_dir=tmp_path / "second")
    assert status == 0 and same_weights(first, second), log
    status, log, _ = fit(news, *start, "--output_emb_size", 8, save_dir=tmp_path / "third")
    assert status == 2 and "projection.weight is [32, 16], expected [32, 8]" in log
    shutil.copytree(classifier, tmp_path / "odd")
    (tmp_path / "odd" / "run.json").unlink()  # otherwise the change below is found by its sums
    config = json.loads((tmp_path / "odd" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "odd" / "config.json").write_text(json.dumps({**config, "output_emb_size": 16}), encoding="utf-8")
    status, log, _ = fit(news, "--model_name_or_path", tmp_path / "odd", save_dir=tmp_path / "fourth")
    assert status == 2 and "has no projection.weight, but config.json says that there is one" in log, log


# ------------------------------------------------------------------------------------------------ stopping, resuming


class Stopped(training.StopSignal):
    def __enter__(self):
        entered = super().__enter__()
        self.number = signal.SIGTERM
        return entered


def test_a_run_stopped_and_resumed_ends_as_if_nothing_had_happened(fit, news, tmp_path, monkeypatch):
    same = ("--epochs", 2, "--batch_size", 30)
    assert fit(news, *same, save_dir=tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(training, "StopSignal", Stopped)
        status, log, folder = fit(news, *same)
    assert status == 143 and "Stopped at step 1" in log and not folder.exists()
    status, log, _ = fit(news, *same, "--resume", "--margin", 0.3)
    assert status == 2 and "--resume: --margin was 0.2, now it is 0.3" in log
    status, log, _ = fit(news, *same, "--resume")
    assert status == 0 and "resuming at step 1" in log and same_weights(folder, tmp_path / "whole")


def test_two_processes(news, tiny_model, tmp_path):
    """The last global batch has one row: the second process takes part in it without a row of its own."""
    write_lines(news / "train.txt", lines_of(news / "train.txt")[:21])
    flags = [*files_of(news), "--model_name_or_path", tiny_model, "--save_dir", tmp_path / "checkpoint"]
    flags += "--device cpu --max_seq_length 32 --epochs 1 --learning_rate 1e-3 --log_steps 1 --batch_size 10".split()
    launch = [
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        2,
        "--backend",
        "gloo",
        "--log_dir",
        tmp_path / "log",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        command_line(*launch, ROOT / "retrieval_based/train.py", *flags),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    logs = [(tmp_path / "log" / f"workerlog.{i}").read_text(encoding="utf-8") for i in (0, 1)]
    assert len(losses(logs[0])) == 2 and "global step" not in logs[1]
    assert open_encoder(str(tmp_path / "checkpoint"), "cpu").embed(["文"]).shape == (1, 256)


# -------------------------------------------------------------------------------------------------------------- faults


def test_faults_are_reported_together_before_the_first_long_step(fit, news, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_module, "load_encoder", lambda *_: pytest.fail("a model was loaded"))
    write_lines(news / "train.txt", ["有\t没有这个标签", "太\t多\t了", "文\t灾害事故"])
    status, log, _ = fit(
        news,
        "--model_name_or_path",
        tmp_path / "nowhere",
        "--device",
        "cpu:x",
        "--init_from_ckpt",
        tmp_path / "no.pdparams",
    )
    assert status == 2 and "5 problems, nothing was done" in log and "Traceback" not in log
    for what in (
        "--model_name_or_path",
        "--device cpu:x",
        "no.pdparams: no such file",
        "没有这个标签",
        "2 tabs",
    ):
        assert what in log, what


def test_nothing_to_learn(fit, news):
    write_lines(news / "train.txt", ["没有标签", "也没有"])
    status, log, _ = fit(news)
    assert status == 2 and "no row has a label; a row is text<TAB>label,label" in log


def test_too_long_for_the_model(fit, news, family_folders):
    status, log, _ = fit(news, "--model_name_or_path", family_folders["bert"], "--max_seq_length", 100)
    assert status == 2 and "--max_seq_length 100: this model takes at most 64 tokens" in log


def test_neither_task_opens_or_replaces_the_others_model(run, fit, news, train, tmp_path):
    status, _, folder = fit(news)
    assert status == 0
    status, _, other = train(news, save_dir=tmp_path / "classifier")
    assert status == 0
    status, log = run(classifier_predict.main, "--dataset_dir", news, "--device", "cpu", "--params_path", folder)
    assert status == 2 and "holds a retrieval model; name a folder that train.py wrote" in log
    with pytest.raises(UserError, match="holds a classification model; name a folder that retrieval_based/train.py"):
        open_encoder(str(other), "cpu")
    with pytest.raises(UserError, match="retrieval_based/train.py"):
        open_encoder(str(tmp_path / "nowhere"), "cpu")
    status, log, _ = train(news, save_dir=folder)
    assert status == 2 and "the folder holds a retrieval model, which would be lost; name a new folder" in log
    status, log, _ = fit(news, save_dir=other)
    assert status == 2 and "the folder holds a classification model, which would be lost" in log


# ------------------------------------------------------------------------------------------------------------ decision


def rows_with(labels, *sets):
    return rows_of({f"{i}": {labels.index[name] for name in names} for i, names in enumerate(sets)}, "rows")


def test_the_decision_a_model_starts_with():
    flat, tree = Labels(["甲", "乙"]), Labels(["a", "a##b", "a##c", "d", "d##e", "d##e##f"])
    assert default_decision(flat) == Decision() == Decision(0.5, min_k=0)  # as in PaddleNLP's application
    assert default_decision(tree) == Decision(0.5, min_k=2, hierarchy="one_per_level")  # the nearest path
    one = rows_with(flat, ["甲"], ["乙"])
    assert default_decision(flat, one) == Decision(min_k=1, hierarchy="one_per_level")
    assert default_decision(flat, rows_with(flat, ["甲", "乙"], ["乙"])) == Decision(min_k=1)
    assert default_decision(tree, rows_with(tree, ["a", "a##b", "a##c"], ["d"])) == Decision(min_k=1)
    path = ["d", "d##e", "d##e##f"]
    assert default_decision(tree, rows_with(tree, path, [])) == Decision(min_k=0, hierarchy="one_per_level")
    assert default_decision(tree, rows_with(tree, *[path] * 9, ["a", "a##b", "a##c"])).hierarchy == "one_per_level"
    assert default_decision(tree, rows_with(tree, *[path] * 8, ["a", "a##b", "a##c"])).hierarchy == "closure"


def test_the_nearest_path_is_that_of_the_nearest_entry():
    tree = Labels(["a", "a##b", "a##c", "d", "d##e"])
    scores = np.array([[0.3, 0.3, 0.1, 0.29, 0.29], [0.2, 0.1, 0.2, 0.9, 0.9]], np.float32)
    decided = default_decision(tree).decide(scores, tree.parents)
    assert decided.tolist() == [[True, True, False, False, False], [False, False, False, True, True]]


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(sorted(retrieval_training.OBJECTIVE)))
def test_the_threshold_is_the_best_of_the_grid(seed, metric):
    random, labels = np.random.default_rng(seed), Labels(["a", "a##b", "c"])
    scores = random.random((12, 3)).astype(np.float32)
    gold = random.random((12, 3)) < 0.5
    gold[:, 0] |= gold[:, 1]
    decision = Decision(min_k=1)

    def value(threshold):
        decided = Decision(threshold, min_k=1).decide(scores, labels.parents)
        report = classification_report(gold, decided, labels.parents)
        micro, macro = report["micro"]["f1"], report["macro"]["f1"]
        return {"recall@1": micro, "micro_f1": micro, "macro_f1": macro, "accuracy": report["accuracy"]}[metric]

    found = fit_within(decision, scores, gold, labels.parents, metric)
    assert value(found) == pytest.approx(max(value(float(t)) for t in np.arange(2, 100, 2) / 100), abs=1e-9)


def test_run_json_is_plain(fit, news):
    _, _, folder = fit(news)
    corpus = json.loads((folder / "run.json").read_text(encoding="utf-8"))["corpus"]
    assert set(corpus) < set(lines_of(news / "label.txt")) and "灾害事故##地震" in corpus
    assert load_checkpoint(str(folder), None, Problems(), kind="retrieval").labels.names == lines_of(news / "label.txt")
