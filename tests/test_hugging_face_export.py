"""export_model.py --hf: the folder, what is refused, and, where it is installed, transformers on PyTorch."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tokenizers
from conftest import ROOT, copy_dataset, lines_of, write_lines
from families import SMALL, save_as_checkpoint
from safetensors.numpy import load_file
from test_hugging_face import bert
from training_runs import weights

import export_model as script
import predict
from text_cls.cli import Problems
from text_cls.decision import Decision
from text_cls.locks import write_lock
from text_cls.neural import hugging_face_export as module
from text_cls.neural.checkpoint import load_checkpoint, load_model
from text_cls.serving.predictor import Predictor

TEXTS = ["台风登陆，学校停课", "25℃ →→ a￥b ½", "naïve CAFÉ [MASK] x İ", "", "a" * 120, "😀 Ａ１\u200b\x85b"]
TEXTS += ["。" * 60, "降价100元！"]
DECISION = dict(min_k=1, max_k=4, temperature=1.3, hierarchy="best_set")
BENCH = ROOT / ".venv-bench/bin/python"
FOLDERS = ("news", "task", "bert", "pruned")


@pytest.fixture(scope="module")
def checkpoints(trained, families, family_folders, tmp_path_factory):
    """{"news": (data set, a trained one with thresholds per label), "task" (an ERNIE with task embeddings), "bert"}."""
    from paddlenlp.transformers import ErnieConfig, ErnieForSequenceClassification

    home = tmp_path_factory.mktemp("checkpoints")
    dataset, trained_one = trained["news"]
    names = lines_of(trained_one / "label.txt")
    news = shutil.copytree(trained_one, home / "news")
    thresholds = tuple(np.linspace(0.05, 0.4, len(names)).tolist())
    Decision(thresholds, **DECISION).save(news / "decision.json", names)
    tokenizer = families["ernie"][1]
    config = ErnieConfig(vocab_size=len(tokenizer.vocab), use_task_id=True, num_labels=5, **SMALL)
    task = {"ernie": (ErnieForSequenceClassification(config), tokenizer)}
    return {
        "news": (dataset, news),
        "task": (dataset, save_as_checkpoint(task, "ernie", home / "task")),
        "bert": (dataset, save_as_checkpoint(families, "bert", home / "bert")),
    }


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """The bundle of an ERNIE of 12 heads, pruned to half of its width."""
    import make_tiny_model
    import prune
    import train

    home = tmp_path_factory.mktemp("pruned")
    dataset = copy_dataset(ROOT / "data", home / "data", 32, 16, 4)
    size = "--hidden_size 48 --num_attention_heads 12 --num_hidden_layers 2 --intermediate_size 96 --dropout 0"
    assert make_tiny_model.main(["--output_dir", str(home / "wide"), *size.split()]) == 0
    quick = ["--dataset_dir", str(dataset), "--device", "cpu", "--max_seq_length", "32"]
    where = ["--model_name", str(home / "wide"), "--save_dir", str(home / "model"), "--epochs", "1"]
    assert train.main([*quick, *where]) == 0
    where = ["--params_dir", str(home / "model"), "--output_dir", str(home / "prune"), "--num_train_epochs", "1"]
    assert prune.main([*quick, *where, "--width_mult_list", "1/2"]) == 0
    return home / "prune" / "width_mult_0.5"


@pytest.fixture(scope="module")
def exported(checkpoints, pruned, tmp_path_factory):
    """{name in FOLDERS: (bundle, Hugging Face folder)}"""
    home, made = tmp_path_factory.mktemp("exported"), {"pruned": (pruned, None)}
    for name, (_, checkpoint) in checkpoints.items():
        made[name] = home / f"{name}-bundle", home / name
        argv = ["--params_path", checkpoint, "--output_path", made[name][0], "--hf", made[name][1]]
        assert script.main([*map(str, argv)]) == 0
    made["pruned"] = pruned, home / "pruned"
    assert script.main(["--params_path", str(pruned), "--hf", str(home / "pruned")]) == 0
    return made


def config_of(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


# ----------------------------------------------------------------------------------------------------------- the folder


def test_the_folder_is_complete(exported, checkpoints):
    bundle, folder = exported["news"]
    names = lines_of(bundle / "label.txt")
    assert set(os.listdir(folder)) == set(module.FILES) and (bundle / "manifest.json").exists()
    config = config_of(folder)
    assert config["architectures"] == ["BertForSequenceClassification"] and config["model_type"] == "bert"
    assert config["problem_type"] == "multi_label_classification"
    assert [config["id2label"][str(i)] for i in range(len(names))] == names == lines_of(folder / "label.txt")
    assert config["label2id"] == {name: i for i, name in enumerate(names)}
    assert (folder / "decision.json").read_bytes() == (bundle / "decision.json").read_bytes()
    assert (folder / "vocab.txt").read_bytes() == (bundle / "vocab.txt").read_bytes()
    assert {value.dtype.name for value in load_file(folder / "model.safetensors").values()} == {"float32"}
    modes = {(folder / name).stat().st_mode for name in os.listdir(folder)}
    assert len(modes) == 1, "each file may be read by whoever may read the others"
    card = (folder / "README.md").read_text(encoding="utf-8")
    for part in ("library_name: transformers\n", "pipeline_tag: text-classification\n", "| micro F1 | macro F1 |"):
        assert part in card
    assert "a threshold per label, from 0.05 to 0.4; at least 1 label; at most 4 labels" in card


def test_task_embeddings_make_it_an_ernie(exported):
    config = config_of(exported["task"][1])
    assert config["model_type"] == "ernie" and config["use_task_id"] and config["task_type_vocab_size"] == 3
    assert config["architectures"] == ["ErnieForSequenceClassification"]


def test_the_logits_are_those_of_a_bert_in_numpy(exported):
    bundle, folder = exported["bert"]
    predictor, found = Predictor(str(bundle)), load_file(folder / "model.safetensors")
    inner = {name.removeprefix("bert."): value for name, value in found.items()}
    for text in TEXTS:
        encoded = predictor.encode([text])
        state = bert(inner, encoded.columns["input_ids"])[0]
        pooled = np.tanh(inner["pooler.dense.weight"] @ state + inner["pooler.dense.bias"])
        logits = found["classifier.weight"] @ pooled + found["classifier.bias"]
        assert np.abs(logits - predictor.run(encoded)[0]).max() < 1e-4


def test_a_pruned_width_has_all_heads_and_fewer_neurons(exported):
    config, found = config_of(exported["pruned"][1]), load_file(exported["pruned"][1] / "model.safetensors")
    assert config["num_attention_heads"] == 12 and config["hidden_size"] == 48 and config["intermediate_size"] == 48
    layer = "bert.encoder.layer.0.attention"
    assert found[f"{layer}.self.query.weight"].shape == (48, 48) and not found[f"{layer}.self.value.bias"][24:].any()
    assert not found[f"{layer}.output.dense.weight"][:, 24:].any()
    card = (exported["pruned"][1] / "README.md").read_text(encoding="utf-8")
    assert "pruned to 0.5 of its width" in card and "pruned to 0.5 of its heads and neurons" in card
    assert re.search(r"\| `dev.txt`, 16 rows \| [\d.]+ \([\d.]+ to [\d.]+\) \|", card)


@pytest.mark.parametrize("flag", ["--model_name", "--init_from_ckpt"])
def test_training_starts_from_the_folder(exported, checkpoints, run, tmp_path, learner, flag):
    import train

    dataset, checkpoint = checkpoints["news"]
    flags = ["--device", "cpu", "--max_seq_length", 48, "--epochs", 1, "--learning_rate", 0, "--max_train_samples", 8]
    start = [flag, exported["news"][1], *(["--model_name", learner] if flag == "--init_from_ckpt" else [])]
    status, log = run(train.main, "--dataset_dir", dataset, "--save_dir", tmp_path / "new", *flags, *start)
    assert status == 0, log
    expected = weights(checkpoint)
    assert all(np.array_equal(value, expected[name]) for name, value in weights(tmp_path / "new").items())
    opened = {}
    for folder in (checkpoint, tmp_path / "new"):
        opened[folder] = load_checkpoint(str(folder), None, Problems())
        load_model(opened[folder], "cpu")
    first, second = opened.values()
    assert all(first.tokenizer(text)["input_ids"] == second.tokenizer(text)["input_ids"] for text in TEXTS)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def export(run, checkpoints, tmp_path):
    """export(hf, name) -> (status, log): the export of a checkpoint into tmp_path/export, and a Hugging Face folder."""

    def call(hf, name="bert"):
        _, checkpoint = checkpoints[name]
        return run(script.main, "--params_path", checkpoint, "--output_path", tmp_path / "export", "--hf", hf)

    return call


@pytest.mark.parametrize("files", [["thesis.docx"], ["config.json", "model.safetensors", "vocab.txt", "README.md"]])
def test_files_of_others_are_kept(export, tmp_path, files):
    """A Hugging Face folder from elsewhere has the very names that are written here."""
    (tmp_path / "hf").mkdir()
    for name in files:
        (tmp_path / "hf" / name).write_text("theirs", encoding="utf-8")
    status, log = export(tmp_path / "hf")
    assert status == 2 and f"--hf {tmp_path / 'hf'}: the folder holds" in log and "which would be lost" in log
    assert [path.read_text(encoding="utf-8") for path in (tmp_path / "hf").iterdir()] == ["theirs"] * len(files)
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("where", ["export", "export/hf", "."])
def test_the_two_folders_must_be_apart(export, tmp_path, where):
    status, log = export(tmp_path / where)
    assert status == 2 and "must not be in each other; name another folder" in log, log


def test_one_writer_at_a_time(export, tmp_path):
    with write_lock(tmp_path / "hf"):
        status, log = export(tmp_path / "hf")
    assert status == 2 and f"is writing to {tmp_path / 'hf'}; wait until it has ended" in log


def test_the_writers_own_folder_is_replaced(run, exported, tmp_path):
    bundle, folder = exported["pruned"]
    copy = shutil.copytree(folder, tmp_path / "hf")
    (copy / "README.md").write_text("old", encoding="utf-8")
    status, log = run(script.main, "--params_path", bundle, "--hf", copy)
    assert status == 0, log
    assert all((copy / name).read_bytes() == (folder / name).read_bytes() for name in module.FILES if name[0] != "R")
    assert (copy / "README.md").read_text(encoding="utf-8").startswith("---\n")


@pytest.mark.parametrize("family", ["ernie_m", "roberta"])
def test_models_that_transformers_cannot_express(families, run, tmp_path, family):
    checkpoint = save_as_checkpoint(families, family, tmp_path / "checkpoint")
    flags = ["--multilingual"] if family == "ernie_m" else []
    where = ("--params_path", checkpoint, "--output_path", tmp_path / "export", "--hf", tmp_path / "hf")
    status, log = run(script.main, *where, *flags)
    assert status == 2 and not (tmp_path / "hf").exists() and not (tmp_path / "export").exists()
    if family == "ernie_m":
        assert "--hf: a model of type ernie_m cannot be written for transformers, only ERNIE and BERT" in log


@pytest.mark.parametrize(
    ("change", "message"),
    [({"pooling": "mean"}, "train with --pooling first"), ({"task_id": 1}, "task_id cannot be"), ({}, None)]
    + [({"type_vocab_size": 0, "pool_act": "relu"}, "config.json: pool_act, type_vocab_size cannot be expressed")],
)
def test_settings_that_transformers_does_not_have(change, message):
    problem = module.config_problem({"model_type": "ernie", **change})
    assert (problem is None) if message is None else message in problem


def test_a_wrong_logit_is_found(export, tmp_path, monkeypatch):
    original = module._with_all_heads
    monkeypatch.setattr(module, "_with_all_heads", lambda name, value, width: original(name, value, width) * 1.01)
    status, log = export(tmp_path / "hf")
    assert status == 2 and "--hf: the folder's logits differ from the bundle's by" in log
    assert not (tmp_path / "hf").exists() and not (tmp_path / "export").exists()


def test_a_wrong_token_is_found(export, tmp_path, monkeypatch):
    original = module.whole_tokenizer

    def wrong(tokenizer):
        made = original(tokenizer)
        made.normalizer = tokenizers.normalizers.Lowercase()
        return made

    monkeypatch.setattr(module, "whole_tokenizer", wrong)
    status, log = export(tmp_path / "hf")
    assert status == 2 and "would differ in transformers" in log and not (tmp_path / "hf").exists()


def test_a_pruned_width_is_a_bundle_already(run, pruned, tmp_path):
    for flags in ((), ("--hf", tmp_path / "hf", "--int8")):
        status, log = run(script.main, "--params_path", pruned, *flags)
        assert status == 2 and f"--params_path {pruned} is a bundle of prune.py already; serve it, or use --hf" in log


def test_a_damaged_width_is_not_exported(run, pruned, tmp_path):
    copy = shutil.copytree(pruned, tmp_path / "copy")
    data = bytearray((copy / "model_state.pdparams").read_bytes())
    data[-1] ^= 1
    (copy / "model_state.pdparams").write_bytes(data)
    status, log = run(script.main, "--params_path", copy, "--hf", tmp_path / "hf")
    assert status == 2 and "model_state.pdparams is not the file of this bundle" in log
    assert not (tmp_path / "hf").exists()


# ---------------------------------------------------------------------------------------------------------- the example


def example(folder, texts):
    """The program in the manual, for a folder and texts."""
    program = re.search(r"```python\n(.*?)```", (ROOT / "docs/export_model.md").read_text(encoding="utf-8"), re.S)[1]
    return program.replace('"hf", ["...", "..."]', f"{str(folder)!r}, {texts!r}")


def test_the_card_has_the_program_of_the_manual(exported):
    for page in ("export_model.md", "export_model_zh.md"):
        program = re.search(r"```python\n.*?```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.S)[0]
        assert program == module.USAGE.replace("{folder}", "hf", 1)
    folder = exported["news"][1]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert module.USAGE.replace("{folder}", folder.name, 1) in card


@pytest.fixture
def predicted(run, checkpoints, tmp_path):
    """The texts, and the lines that predict.py writes for them."""
    dataset, checkpoint = checkpoints["news"]
    texts = lines_of(dataset / "data.txt")
    write_lines(tmp_path / "data.txt", texts)
    where = ("--dataset_dir", tmp_path, "--params_path", checkpoint, "--output_file", tmp_path / "out.txt")
    status, log = run(predict.main, *where, "--device", "cpu")
    assert status == 0, log
    return texts, as_sets(lines_of(tmp_path / "out.txt"))


def as_sets(lines):
    return [(text, set(labels.split(","))) for text, labels in (line.split("\t") for line in lines)]


def test_the_examples_decision_is_that_of_predict(exported, predicted, monkeypatch):
    """With stand-ins for PyTorch and transformers, which need not be installed."""
    predictor = Predictor(str(exported["news"][0]))

    class Array(np.ndarray):
        def numpy(self):
            return np.asarray(self)

    def model(logits):
        return types.SimpleNamespace(logits=logits)

    model.config = types.SimpleNamespace(id2label=dict(enumerate(predictor.labels.names)))

    def tokenizer(texts, **_):
        return {"logits": predictor.run(predictor.encode(texts))}

    torch = types.SimpleNamespace(
        no_grad=contextlib.nullcontext, sigmoid=lambda logits: (1 / (1 + np.exp(-logits))).view(Array)
    )
    loaders = {"AutoTokenizer": tokenizer, "AutoModelForSequenceClassification": model}
    loaders = {name: types.SimpleNamespace(from_pretrained=lambda _, made=made: made) for name, made in loaders.items()}
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(**loaders))
    texts, expected = predicted
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(example(exported["news"][1], texts), {})
    assert as_sets(printed.getvalue().splitlines()) == expected and any(len(labels) > 1 for _, labels in expected)


# --------------------------------------------------------------------------------------------------------- transformers


@pytest.fixture(scope="session")
def python():
    """python(program, *argv) -> its output, in a Python that has PyTorch and transformers; without one, a skip."""
    here = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    if not here and not BENCH.exists():
        pytest.skip("PyTorch and transformers are not installed, and there is no .venv-bench: make bench-setup")

    def call(program, *argv):
        words = [sys.executable if here else BENCH, "-c", program, *argv]
        where = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([*map(str, words)], env=where, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


LOGITS = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
assert not any(info.values()), info
batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
ids = [row[mask.bool()].tolist() for row, mask in zip(batch.input_ids, batch.attention_mask)]
with torch.no_grad():
    print(json.dumps([ids, model(**batch).logits.tolist(), model.config.problem_type]))
"""


@pytest.mark.parametrize("name", FOLDERS)
def test_transformers_gives_the_same_logits(exported, python, name):
    bundle, folder = exported[name]
    predictor = Predictor(str(bundle))
    encoded = predictor.encode(TEXTS)
    ids, logits, problem_type = json.loads(python(LOGITS, folder, json.dumps(TEXTS)))
    expected = np.split(encoded.columns["input_ids"], encoded.offsets[1:-1])
    assert ids == [row.tolist() for row in expected] and problem_type == "multi_label_classification"
    assert np.abs(np.array(logits) - predictor.run(encoded)).max() < 1e-4


def test_the_example_gives_the_label_sets_of_predict(exported, predicted, python):
    texts, expected = predicted
    assert as_sets(python(example(exported["news"][1], texts)).splitlines()) == expected
