import hashlib
import json
import os
import re
import shutil

import numpy as np
import onnx
import pytest
from conftest import ROOT, lines_of, load_script, write_lines

import export_model as classifier_export
from encoder import load_encoder, open_encoder
from text_cls.bundle import open_bundle
from text_cls.decision import Decision
from text_cls.neural import export, onnx_graph
from text_cls.neural.checkpoint import Checkpoint, save_checkpoint
from text_cls.rows import Labels, read_texts
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.search.label_scores import label_entries, label_scores
from text_cls.serving import open_predictor
from text_cls.serving.retrieval_predictor import RetrievalPredictor

script = load_script("retrieval_based/export_model.py")
PREFIX = "inference.get_pooled_embedding"


def save_as_checkpoint(folder, target, output_emb_size, names=("a", "a##x", "b", "b##x", "c")):
    """A checkpoint of an untrained encoder; some training row ended at the label `a`, which has a child."""
    encoder, tokenizer = load_encoder(str(folder), output_emb_size)
    labels = Labels(list(names))
    corpus = [name for name in labels.names if name != "b"]
    run = {"kind": "retrieval", "corpus": corpus, "arguments": {"max_seq_length": 48}}
    save_checkpoint(str(target), Checkpoint(encoder, tokenizer, labels, Decision(), run))
    return target


def test_a_whole_bundle_under_the_names_of_paddlenlps_application(encoder_bundles, encoders):
    folder, (dataset, checkpoint) = encoder_bundles["news"], encoders["news"]
    files = set(os.listdir(folder))
    assert {
        f"{PREFIX}.pdmodel",
        f"{PREFIX}.pdiparams",
        "model.onnx",
        "vocab.txt",
        "vectors.npy",
        "entries.json",
    } < files
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["files"]) == files - {"manifest.json"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert manifest["kind"] == "retrieval" and manifest["index"] == {"kind": "embedded"}
    assert manifest["outputs"] == [{"name": "embedding", "dtype": "float32", "shape": [-1, 64]}]
    assert [node["name"] for node in manifest["inputs"]] == ["input_ids", "token_type_ids"]
    assert manifest["width"] == 64 and manifest["max_seq_length"] == 48 and manifest["corpus"] == "labels"
    assert manifest["num_labels"] == 55 and manifest["hierarchical"]
    assert lines_of(folder / "label.txt") == lines_of(dataset / "label.txt")
    assert lines_of(folder / "decision.json") == lines_of(checkpoint / "decision.json")


@pytest.mark.parametrize("name", ["news", "reviews"])
def test_the_same_labels_as_the_checkpoint(encoder_bundles, encoders, name):
    """With Paddle and a corpus in memory, and without either."""
    dataset, checkpoint = encoders[name]
    trained, predictor = open_encoder(str(checkpoint), "cpu"), open_predictor(str(encoder_bundles[name]))
    texts = [text for _, text in read_texts(str(dataset / "dev.txt"))] + ["", "😀", "长" * 2000, "<b>'\""]
    vectors = trained.embed(texts)
    assert predictor.embed(texts) == pytest.approx(vectors, abs=1e-5)
    entries, names = label_entries(trained.labels, trained.corpus)
    index = EmbeddedIndex(vectors.shape[1])
    index.add(trained.embed(entries), names)
    assert index.labels() == predictor.index.labels()
    scores = label_scores(index.search(vectors, 50), trained.labels)
    chosen = trained.decision.decide(scores, trained.labels.parents)
    wanted = [[trained.labels.names[i] for i in np.flatnonzero(row)] for row in chosen]
    assert [names for names, _ in predictor.predict(texts)] == wanted
    opened = open_encoder(str(encoder_bundles[name]), "cpu")
    assert opened.predictor.index.labels() == index.labels() and opened.decision == trained.decision
    assert opened.embed(texts[:3]) == pytest.approx(vectors[:3], abs=1e-5)


def test_the_static_graph_answers_as_the_bundle(encoder_bundles):
    from paddle import inference

    prefix = str(encoder_bundles["reviews"] / PREFIX)
    session = inference.create_predictor(inference.Config(f"{prefix}.pdmodel", f"{prefix}.pdiparams"))
    ours = RetrievalPredictor(str(encoder_bundles["reviews"]))
    batch = ours.encode(["屏幕很好，就是电池不太行", "物流慢", ""]).batch(np.arange(3))
    assert session.get_input_names() == list(batch)
    for name, values in batch.items():
        session.get_input_handle(name).copy_from_cpu(values)
    session.run()
    vectors = session.get_output_handle(session.get_output_names()[0]).copy_to_cpu()
    assert vectors == pytest.approx(ours.session.run(None, batch)[0], abs=1e-4)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("family", "width"), [("ernie", 0), ("ernie_m", 24), ("bert", 24)])
def test_each_family(family_folders, run, tmp_path, family, width):
    """main() compares the bundle with the trained model, which includes padding, truncation and the mask."""
    checkpoint = save_as_checkpoint(family_folders[family], tmp_path / "checkpoint", width)
    status, log = run(script.main, "--params_path", checkpoint, "--output_path", tmp_path / "output")
    assert status == 0, log
    found = re.search(r"vectors match the trained model's within (\S+), on rows of 2 to 48 tokens", log)
    assert found and float(found[1]) <= 1e-4
    assert "The index has 4 entries for 5 labels" in log
    predictor = open_predictor(str(tmp_path / "output"))
    assert predictor.embed(["文"]).shape == (1, width or 32) and set(predictor.index.labels()) == {
        "a",
        "a##x",
        "b##x",
        "c",
    }
    names = [node["name"] for node in predictor.bundle.manifest["inputs"]]
    assert names == (["input_ids"] if family == "ernie_m" else ["input_ids", "token_type_ids"])
    operators = [node.op_type for node in onnx.load(tmp_path / "output" / "model.onnx").graph.node]
    assert operators.count("MultiHeadAttention") == 2 and "Softmax" not in operators


def test_a_tokenizer_that_servers_do_not_know(family_folders, run, tmp_path):
    checkpoint = save_as_checkpoint(family_folders["roberta"], tmp_path / "checkpoint", 0)
    status, log = run(script.main, "--params_path", checkpoint, "--output_path", tmp_path / "output")
    assert status == 2 and "cannot be served without PaddleNLP: its tokenizer RobertaChineseTokenizer" in log


def test_without_an_index(encoders, run, tmp_path):
    folder = tmp_path / "output"
    status, log = run(script.main, "--params_path", encoders["news"][1], "--output_path", folder, "--no-index")
    assert status == 0 and "The index has" not in log
    assert open_bundle(str(folder)).manifest["index"] is None and not (folder / "vectors.npy").exists()
    status, log = run(
        load_script("deploy/predictor/infer.py").main,
        "--device",
        "cpu",
        "--model_path_prefix",
        folder / "float32",
        "--dataset_dir",
        encoders["news"][0],
    )
    assert status == 2 and "has no index yet; python retrieval_based/index.py build" in log


def test_commands_of_paddlenlps_application(encoder_bundles, encoders, run, tmp_path):
    """The model's file instead of its folder, and flags that are ignored; and the same export has the same hashes."""
    weights = encoders["news"][1] / "model_state.pdparams"
    flags = ("--model_name_or_path", "rocketqa-zh-dureader-query-encoder", "--output_emb_size")
    status, log = run(script.main, "--params_path", weights, "--output_path", tmp_path / "output", *flags, 0)
    assert status == 0, log
    assert str(ROOT).encode() not in (tmp_path / "output" / f"{PREFIX}.pdmodel").read_bytes()
    assert lines_of(tmp_path / "output" / "manifest.json") == lines_of(encoder_bundles["news"] / "manifest.json")
    status, log = run(script.main, "--params_path", weights, "--output_path", tmp_path / "other", *flags, 256)
    assert status == 2 and "--output_emb_size 256: that of" in log and log.rstrip().endswith("is 0")
    assert not (tmp_path / "other").exists()


def test_strange_labels(tiny_model, run, tmp_path):
    names = ['<img src=x onerror="alert(1)">', "引号'\"", "😀", "长" * 2000, "a#b"]
    checkpoint = save_as_checkpoint(tiny_model, tmp_path / "checkpoint", 8, names)
    status, log = run(script.main, "--params_path", checkpoint, "--output_path", tmp_path / "output")
    assert status == 0, log
    assert set(open_predictor(str(tmp_path / "output")).index.labels()) == set(names)


def test_a_wrong_mask_is_found(encoders, run, tmp_path, monkeypatch):
    """The check must be able to fail: here, [UNK] is treated as padding."""
    original = onnx_graph.optimise
    monkeypatch.setattr(export, "optimise", lambda raw, target, pad: original(raw, target, 4))
    status, log = run(script.main, "--params_path", encoders["news"][1], "--output_path", tmp_path / "output")
    assert status == 2 and "differ from the trained one's by" in log and not (tmp_path / "output").exists()


def test_faults_are_listed_together(run, encoders, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "thesis.docx").touch()
    flags = ("--params_path", tmp_path / "nowhere", "--output_path", tmp_path / "output")
    status, log = run(script.main, *flags)
    assert status == 2 and "2 problems" in log
    assert "the folder holds thesis.docx, which would be lost" in log and "nowhere does not exist; train first" in log
    status, log = run(
        classifier_export.main, "--params_path", encoders["news"][1], "--output_path", tmp_path / "export"
    )
    assert status == 2 and "holds a retrieval model; name a folder that train.py wrote" in log


def test_a_damaged_checkpoint_is_not_exported(run, encoders, tmp_path):
    model = shutil.copytree(encoders["news"][1], tmp_path / "model")
    flags = ("--params_path", model, "--output_path", tmp_path / "bundle")
    weights = (model / "model_state.pdparams").read_bytes()
    (model / "model_state.pdparams").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    status, log = run(script.main, *flags)
    assert status == 2 and f"{model} is damaged (model_state.pdparams: its SHA-256 differs)" in log
    (model / "model_state.pdparams").write_bytes(weights)
    names = lines_of(model / "label.txt")
    write_lines(model / "label.txt", [names[1], names[0], *names[2:]])
    status, log = run(script.main, *flags)
    assert status == 2 and "label.txt is not the model's label file (the same labels in another order)" in log
    assert not (tmp_path / "bundle").exists()
