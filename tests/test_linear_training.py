"""train.py --model_name linear, and what every other script makes of its checkpoint."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT, command_line, copy_dataset, lines_of, load_script, plain
from hypothesis import given
from hypothesis import strategies as st

import dirty
import export_model
import predict
import prune
import sent_interpret
import sparse
import threshold
import word_interpret
from text_cls import linear_model
from text_cls.batching import LONGEST_COUNTED, token_budget
from text_cls.bundle import open_bundle
from text_cls.cli import UserError
from text_cls.linear_classifier import encode, load
from text_cls.serving.predictor import Predictor
from text_cls.tokenization import CodePoints

train_script = load_script("train.py")
# Runs scripts as a user does, on a machine without Paddle.
NO_PADDLE = """
import os, runpy, sys
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("paddle", "paddlenlp", "paddle2onnx", "paddleslim"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """(data set, checkpoint, bundle, the fitted `linear_model.LinearModel`, the bundle's predictor)."""
    folder = tmp_path_factory.mktemp("linear")
    dataset = copy_dataset(ROOT / "data", folder / "data", 300, 60, 40)
    where = ["--dataset_dir", str(dataset), "--model_name", "linear", "--save_dir", str(folder / "model")]
    assert train_script.main(where) == 0
    bundle = ["--params_path", str(folder / "model"), "--output_path", str(folder / "export")]
    assert export_model.main(bundle) == 0
    from text_cls.cli import Problems
    from text_cls.rows import read_labels, read_rows

    labels = read_labels(str(dataset / "label.txt"), Problems())
    rows = read_rows(str(dataset / "train.txt"), labels, Problems())
    model = linear_model.fit(list(rows.texts), rows.multi_hot(len(labels)), 3)
    return dataset, folder / "model", folder / "export", model, Predictor(str(folder / "export"), num_threads=1)


def test_the_log_and_the_checkpoint(run, linear, tmp_path):
    dataset, checkpoint, *_ = linear
    where = ("--dataset_dir", dataset, "--model_name", "linear", "--save_dir", tmp_path / "again")
    status, log = run(train_script.main, *where, "--test_file", "dev.txt", "--device", "cpu")
    assert status == 0
    lines = "\n".join(plain(log))
    assert "one linear SVM per label; on the CPU" in lines
    assert "Fitting thresholds to the training rows, each scored by a model of other rows" in lines
    assert "Train, out of fold: micro f1 score: 0." in lines
    assert "Dev: micro f1 score: 0." in lines and "Test: micro f1 score: 0." in lines
    for name in ("model.safetensors", "decision.json", "config.json", "label.txt"):  # the same run, the same bytes
        assert (tmp_path / "again" / name).read_bytes() == (checkpoint / name).read_bytes()
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert "a text of at most 20000 characters" in card and "They need no Paddle." in card
    assert "20000 个字符" in card and "token" not in card
    assert (
        "Base model: none (`--model_name linear`). TF-IDF" in card and "licence of the training texts applies" in card
    )
    assert "not calibrated" not in card and "chose this checkpoint" not in card


def test_flags_for_pretrained_models_are_refused(run, linear, tmp_path):
    dataset, save_dir = linear[0], tmp_path / "model"
    where = ("--dataset_dir", dataset, "--model_name", "linear", "--save_dir", save_dir)
    status, log = run(train_script.main, *where, "--epochs", 3, "--warmup", "--max_seq_length", 64)
    assert status == 2 and "--max_seq_length, --epochs, --warmup are for pretrained models; leave out" in log
    shutil.copytree(linear[1], tmp_path / "model_last")
    status, log = run(train_script.main, *where)
    assert status == 2 and "holds a stopped run" in log and not save_dir.exists()


def test_no_script_needs_paddle(linear, tmp_path):
    dataset, checkpoint = shutil.copytree(linear[0], tmp_path / "data"), tmp_path / "model"
    model = ("--dataset_dir", dataset, "--params_path", checkpoint)
    commands = [
        ("train.py", "--dataset_dir", dataset, "--model_name", "linear", "--save_dir", checkpoint),
        ("analysis/evaluate.py", *model),
        ("analysis/threshold.py", *model, "--force"),
        ("predict.py", *model, "--output_file", tmp_path / "out.txt"),
        ("export_model.py", "--params_path", checkpoint, "--output_path", tmp_path / "export"),
        ("analysis/threshold.py", "--dataset_dir", dataset, "--bundle", tmp_path / "export", "--device", "cpu"),
    ]
    for script, *words in commands:
        done = subprocess.run(command_line("-c", NO_PADDLE, ROOT / script, *words), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines_of(tmp_path / "out.txt")) == len(lines_of(dataset / "data.txt"))


def test_dirty_reports_the_probabilities_of_the_model(run, linear, tmp_path):
    dataset = shutil.copytree(linear[0], tmp_path / "data")
    status, log = run(dirty.main, "--dataset_dir", dataset, "--params_path", linear[1], "--dirty_num", 5)
    rows = [line.split("\t") for line in lines_of(dataset / "train_dirty_report.tsv")[1:]]
    assert status == 0 and rows and all(0 <= float(row[5]) <= 1 for row in rows), log


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (word_interpret, (), "holds a linear model, which has no gradients"),
        (sent_interpret, (), "holds a linear model, which has no features"),
        (sparse, (), "holds a linear model, which has no features"),
        (dirty, ("--method", "representer"), "holds a linear model, which has no features"),
        (predict, ("--long_texts", "windows"), "--long_texts windows: a linear model reads a text as a whole"),
        (predict, ("--max_seq_length", 20_001), "this model takes at most 20000 tokens"),
    ],
)
def test_what_needs_a_network_refuses_it(run, linear, script, flags, message):
    status, log = run(script.main, "--dataset_dir", linear[0], "--params_path", linear[1], "--device", "cpu", *flags)
    assert status == 2 and message in log and "Traceback" not in log


def test_prune_train_and_export_refuse_it(run, linear, tmp_path):
    dataset, checkpoint, *_ = linear
    where = ("--dataset_dir", dataset, "--device", "cpu", "--output_dir", tmp_path / "pruned")
    status, log = run(prune.main, *where, "--params_dir", checkpoint)
    assert status == 2 and "holds a linear model, which has no layers to prune" in log
    status, log = run(train_script.main, "--dataset_dir", dataset, "--model_name", checkpoint, "--device", "cpu")
    assert status == 2 and "a linear model, which no other training starts from" in log
    start = ("--model_name", "ernie-3.0-nano-zh", "--init_from_ckpt", checkpoint)
    status, log = run(train_script.main, "--dataset_dir", dataset, "--device", "cpu", *start)
    assert status == 2 and "a linear model, which no other training starts from" in log
    status, log = run(export_model.main, "--params_path", checkpoint, "--int8", "--output_path", tmp_path / "export")
    assert status == 2 and "holds a linear model, for which there is no --int8" in log


STRANGE = st.lists(
    st.text(st.characters(codec="utf-8"), max_size=40) | st.text("一天 \t\nＡaİΣ😀\0", max_size=20), max_size=8
)


@given(STRANGE)
def test_the_classifier_and_the_graph_compute_what_scikit_learn_does(linear, texts):
    dataset, checkpoint, _, model, predictor = linear
    texts = [*texts, "", lines_of(dataset / "dev.txt")[0].partition("\t")[0]]
    slope, offset = model.calibration
    expected = slope * model.scores(texts) + offset
    classifier = load(str(checkpoint), expected.shape[1])
    assert np.allclose(classifier.logits(encode(texts)), expected, atol=1e-4)
    assert np.allclose(predictor.run(predictor.encode(texts)), expected, atol=1e-4)


@given(st.text("一a\n\t \u3000ＡİΣ😀\0", max_size=12) | st.text(st.characters(codec="utf-8")))
def test_characters_are_those_of_scikit_learn(text):
    """Oracle: its analyser of single characters."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    [ids] = CodePoints().encode([text], 10_000)
    assert [chr(number - 2) for number in ids[:-1]] == TfidfVectorizer(analyzer="char").build_analyzer()(text)
    assert ids[-1] == 1


def test_long_texts_are_cut_alike(linear):
    classifier, predictor = load(str(linear[1]), len(open_bundle(str(linear[2])).labels)), Predictor(str(linear[2]))
    texts = ["台风登陆，学校停课" * 3000, "短"]
    encoded = encode(texts)
    assert encoded.truncated == 1 and encoded.lengths.tolist() == [20_000, 2]
    assert np.array_equal(encoded.columns["input_ids"], predictor.encode(texts).columns["input_ids"])
    assert np.allclose(classifier.logits(encoded), predictor.run(predictor.encode(texts)), atol=1e-4)


def test_damaged_weights_are_refused(linear, tmp_path):
    from dataclasses import replace

    labels = open_bundle(str(linear[2])).labels
    whole = load(str(linear[1]), len(labels))
    with pytest.raises(UserError, match="does not have the weights of a linear model with 3 labels"):
        load(str(linear[1]), 3)
    faults = {
        "out of order": replace(whole, keys=whole.keys[::-1].copy()),
        "no number": replace(whole, idf=np.full_like(whole.idf, np.nan)),
        "does not have the weights": replace(whole, weight=whole.weight[1:]),
    }
    for message, model in faults.items():
        model.save(str(tmp_path), labels.names)
        with pytest.raises(UserError, match=message):
            load(str(tmp_path), len(labels))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be read"):
        load(str(tmp_path), len(labels))


def test_a_bundle_whose_weights_were_changed_is_refused(linear, tmp_path):
    bundle = shutil.copytree(linear[2], tmp_path / "bundle")
    graph = bytearray((bundle / "model.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(graph)
    with pytest.raises(UserError, match=r"model\.onnx is not the file of this bundle"):
        Predictor(str(bundle))
    bundle = shutil.copytree(linear[2], tmp_path / "other")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    del manifest["files"]["tokenizer_config.json"]
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UserError, match=r"files has no tokenizer_config\.json"):
        Predictor(str(bundle))


def test_too_many_labels_for_the_memory_mean_fewer_ngrams(run, linear, tmp_path, monkeypatch):
    from text_cls.neural import linear_training

    monkeypatch.setattr(linear_training, "MOST_WEIGHTS", 50 * len(lines_of(linear[0] / "label.txt")))
    where = ("--dataset_dir", linear[0], "--model_name", "linear", "--save_dir", tmp_path / "model")
    status, log = run(train_script.main, *where)
    assert status == 0 and "Only the 50 most frequent n-grams are used" in log


def test_a_batch_of_long_rows_is_bounded():
    assert token_budget(32, 128) == 4096 and token_budget(32, 20_000) == 32 * LONGEST_COUNTED


def test_threshold_writes_into_the_checkpoint(run, linear, tmp_path):
    checkpoint = shutil.copytree(linear[1], tmp_path / "model")
    flags = ("--dataset_dir", linear[0], "--params_path", checkpoint, "--device", "cpu", "--mode", "single", "--force")
    status, log = run(threshold.main, *flags)
    assert status == 0 and "Decision saved in" in log
    assert isinstance(json.loads((checkpoint / "decision.json").read_text(encoding="utf-8"))["threshold"], float)
    assert (
        run(predict.main, "--dataset_dir", linear[0], "--params_path", checkpoint, "--output_file", tmp_path / "o")[0]
        == 0
    )
