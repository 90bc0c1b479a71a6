import hashlib
import json
import os
import re

import numpy as np
import onnx
import pytest
from conftest import ROOT, lines_of
from families import save_as_checkpoint

import export_model as script
from text_cls.bundle import open_bundle
from text_cls.cli import Problems, UserError
from text_cls.neural import export, onnx_graph
from text_cls.rows import read_rows
from text_cls.serving.predictor import Predictor


def nodes_of(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_a_bundle_is_complete_and_has_the_guides_files(bundles, trained):
    folder, dataset = bundles["news"], trained["news"][0]
    files = set(os.listdir(folder))
    assert {"float32.pdmodel", "float32.pdiparams", "float32.pdiparams.info"} < files  # the guide's
    assert {"model.onnx", "vocab.txt", "tokenizer_config.json", "label.txt", "decision.json", "manifest.json"} < files
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["files"]) == files - {"manifest.json"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert [node["name"] for node in manifest["inputs"]] == ["input_ids", "token_type_ids"]
    assert manifest["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [-1, 55]}]
    assert manifest["max_seq_length"] == 48 and manifest["hierarchical"] and manifest["variants"] == ["float32"]
    assert lines_of(folder / "label.txt") == lines_of(dataset / "label.txt")


def test_the_same_export_has_the_same_hashes(bundles, trained, run, tmp_path):
    again = tmp_path / "again"
    status, log = run(script.main, "--params_path", trained["news"][1], "--output_path", again)
    assert status == 0 and f"The bundle is in {again}" in log
    found = re.search(r"within (\S+), on rows of 2 to 48 tokens", log)
    assert found and float(found[1]) <= 1e-4
    assert str(ROOT).encode() not in (again / "float32.pdmodel").read_bytes()  # no paths of this machine
    assert lines_of(again / "manifest.json") == lines_of(bundles["news"] / "manifest.json")


def test_a_folder_that_is_not_utf_8_is_refused(trained, run, tmp_path):
    """Paddle's static graph cannot be written there. It can be exported from there."""
    folder = os.fsdecode(os.fsencode(tmp_path) + "/测试".encode("gbk"))
    status, log = run(script.main, "--params_path", trained["news"][1], "--output_path", os.path.join(folder, "export"))
    assert status == 2 and "cannot write a graph to a path that is not UTF-8; rename the folder" in log
    assert "--output_path '" in log and "Traceback" not in log and os.listdir(tmp_path) == []


def test_the_static_graph_agrees_with_the_bundle(bundles):
    """The guide's files, loaded by Paddle Inference."""
    from paddle import inference

    prefix = str(bundles["reviews"] / "float32")
    session = inference.create_predictor(inference.Config(f"{prefix}.pdmodel", f"{prefix}.pdiparams"))
    ours = Predictor(str(bundles["reviews"]))
    batch = ours.encode(["屏幕很好，就是电池不太行", "物流慢", ""]).batch(np.arange(3))
    assert session.get_input_names() == list(batch)
    for name, values in batch.items():
        session.get_input_handle(name).copy_from_cpu(values)
    session.run()
    logits = session.get_output_handle(session.get_output_names()[0]).copy_to_cpu()
    assert np.abs(logits - ours.session.run(None, batch)[0]).max() < 1e-4


@pytest.mark.parametrize("family", ["ernie", "ernie_m", "bert"])
def test_each_family(families, run, family, tmp_path):
    """main() compares the bundle with the trained model, including padding, cutting and the mask."""
    checkpoint = save_as_checkpoint(families, family, tmp_path / "checkpoint")
    flags = ["--multilingual"] if family == "ernie_m" else []
    status, log = run(script.main, "--params_path", checkpoint, "--output_path", tmp_path / "export", *flags)
    assert status == 0, log
    bundle = open_bundle(str(tmp_path / "export"))
    names = [node["name"] for node in bundle.manifest["inputs"]]
    assert names == (["input_ids"] if family == "ernie_m" else ["input_ids", "token_type_ids"])
    operators = nodes_of(tmp_path / "export" / "model.onnx")
    assert operators.count("MultiHeadAttention") == 2 and "Softmax" not in operators
    assert operators.count("LayerNormalization") == 5 and operators.count("BiasGelu") == 2
    weights = families[family][0].state_dict()
    for name, size in (("vocab_size", "word_embeddings"), ("type_vocab_size", "token_type_embeddings")):
        rows = [len(array) for key, array in weights.items() if key.endswith(f"{size}.weight")]
        assert bundle.manifest.get(name) == (None if name == "type_vocab_size" and len(names) == 1 else rows[0])


def test_the_last_layer_computes_only_the_first_token(bundles):
    model = onnx.shape_inference.infer_shapes(onnx.load(bundles["news"] / "model.onnx"))
    cuts = [node for node in model.graph.node if node.name == "first_token_state"]
    attention = [node for node in model.graph.node if node.op_type == "MultiHeadAttention"][-1]
    producers = {node.output[0]: node for node in model.graph.node}
    assert len(cuts) == 1 and producers[attention.input[0]].input[0] == cuts[0].output[0]  # queries
    assert producers[attention.input[1]].input[0] == cuts[0].input[0]  # keys: of all tokens


def test_a_wrong_mask_is_found(families, run, tmp_path, monkeypatch):
    """The check must be able to fail: here [UNK] is mistaken for padding."""
    original = onnx_graph.optimise
    monkeypatch.setattr(export, "optimise", lambda raw, target, pad: original(raw, target, 4))
    checkpoint = save_as_checkpoint(families, "ernie", tmp_path / "checkpoint")
    status, log = run(script.main, "--params_path", checkpoint, "--output_path", tmp_path / "export")
    assert status == 2 and "the exported model's logits differ from the trained one's by" in log
    assert not (tmp_path / "export").exists()


# ------------------------------------------------------------------------------------------------------------- variants


def test_int8_is_measured_and_kept_or_refused(trained, run, tmp_path, monkeypatch):
    dataset, checkpoint = trained["news"]
    flags = ("--params_path", checkpoint, "--output_path", tmp_path / "export", "--int8", "--dataset_dir", dataset)
    real, faster = export.measure, True

    def timed(predictors, rows):  # independent of how busy the machine is; the scores are real
        results = real(predictors, rows)
        for name, result in results.items():
            result["texts_per_second"] = 100 if name == "float32" else 200 if faster else 90
        return results

    monkeypatch.setattr(export, "measure", timed)
    status, log = run(script.main, *flags, "--max_f1_drop", 100)
    assert status == 0 and "accepted" in log and "refused" not in log
    int8 = tmp_path / "export" / "int8_model.onnx"
    assert "MatMulIntegerToFloat" in nodes_of(int8)
    assert int8.stat().st_size < (tmp_path / "export" / "model.onnx").stat().st_size
    assert open_bundle(str(tmp_path / "export")).manifest["variants"] == ["float32", "int8"]

    faster = False
    status, log = run(script.main, *flags)
    assert status == 1 and log.count("refused: is not faster here") == 1
    assert "int8 is not in it; serve float32, or raise --max_f1_drop" in log
    assert not int8.exists()  # the bundle was replaced by one without it
    assert open_bundle(str(tmp_path / "export")).manifest["variants"] == ["float32"]
    with pytest.raises(UserError, match="no int8 model, only float32; make it: python export_model.py --int8"):
        Predictor(str(tmp_path / "export"), variant="int8")


def test_what_a_variant_may_lose():
    reference = {"micro_f1": 90.0, "macro_f1": 80.0, "texts_per_second": 100.0}
    assert script.fault_of({**reference, "texts_per_second": 101}, reference, 0.5) is None
    assert script.fault_of({**reference, "macro_f1": 79.5, "texts_per_second": 101}, reference, 0.5) is None
    assert script.fault_of({**reference, "macro_f1": 79.4}, reference, 0.5) == "loses 0.60 points of macro f1"
    assert script.fault_of({**reference, "micro_f1": 70}, reference, 0.5) == "loses 20.00 points of micro f1"
    assert script.fault_of(reference, reference, 0.5) == "is not faster here"


def test_measured_scores_are_those_of_evaluate(bundles, trained, run, tmp_path):
    import evaluate

    dataset, checkpoint = trained["news"]
    ours = Predictor(str(bundles["news"]))
    rows = read_rows(str(dataset / "dev.txt"), ours.labels, Problems())
    sizes, real = [], ours.run

    def counted(encoded, batches=None):
        sizes.append(batches and [len(batch) for batch in batches])
        return real(encoded, batches)

    ours.run = counted
    result = export.measure({"float32": ours}, rows)["float32"]
    assert sizes == [None, *[[32, 28]] * 5]  # scored as served, timed in batches of 32
    where = ("--dataset_dir", dataset, "--params_path", checkpoint, "--bad_case_file", tmp_path / "bad_case.txt")
    _, log = run(evaluate.main, *where, "--device", "cpu")
    for kind in ("Micro", "Macro"):
        assert f"F1 score {result[f'{kind.lower()}_f1']:.2f}" in re.search(f"{kind} avg .*", log)[0]
    assert result["texts_per_second"] > 0


def test_fp16_without_a_gpu_is_made_and_marked(trained, run, tmp_path):
    dataset, checkpoint = trained["reviews"]
    flags = ("--params_path", checkpoint, "--output_path", tmp_path, "--fp16", "--dataset_dir", dataset)
    status, log = run(script.main, *flags)
    assert status == 0 and "fp16 is in the bundle but unmeasured: there is no GPU here" in log
    bundle = open_bundle(str(tmp_path))
    assert bundle.manifest["unmeasured"] == ["fp16"] and bundle.manifest["variants"] == ["float32", "fp16"]
    assert nodes_of(bundle.onnx_file("fp16")).count("SkipLayerNormalization") == 3
    weights = onnx.load(bundle.onnx_file("fp16")).graph.initializer
    assert onnx.TensorProto.FLOAT16 in {weight.data_type for weight in weights}


# --------------------------------------------------------------------------------------------------------------- faults


def test_all_problems_are_reported_at_once(trained, run, tmp_path):
    (tmp_path / "thesis.docx").write_text("", encoding="utf-8")
    status, log = run(script.main, "--params_path", trained["news"][1], "--output_path", tmp_path, "--int8")
    assert status == 2 and "2 problems, nothing was done:" in log
    assert "the folder holds thesis.docx, which would be lost; name a new folder" in log
    assert "name the folder of dev.txt with --dataset_dir" in log
    status, log = run(script.main, "--params_path", tmp_path / "nowhere")
    assert status == 2 and "nowhere does not exist; train first (python train.py ...)" in log


def test_multilingual_must_fit_the_model(families, run, tmp_path):
    wrong = (("ernie", ["--multilingual"], "leave --multilingual out"), ("ernie_m", [], "add --multilingual"))
    for family, flags, remedy in wrong:
        checkpoint = save_as_checkpoint(families, family, tmp_path / family)
        status, log = run(script.main, "--params_path", checkpoint, "--output_path", tmp_path / "export", *flags)
        assert status == 2 and f"holds a model of type {family}; {remedy}" in log


def test_a_tokenizer_that_servers_do_not_know(families, run, tmp_path):
    checkpoint = save_as_checkpoint(families, "roberta", tmp_path / "roberta")
    status, log = run(script.main, "--params_path", checkpoint, "--output_path", tmp_path / "export")
    assert status == 2 and "without PaddleNLP: its tokenizer RobertaChineseTokenizer is not supported" in log


def test_an_export_of_paddlenlps_application_is_replaced(trained, run, tmp_path):
    for name in ("float32.pdmodel", "float32.pdiparams", "float32.pdiparams.info", "model.onnx"):
        (tmp_path / name).write_text("", encoding="utf-8")
    status, _ = run(script.main, "--params_path", trained["reviews"][1], "--output_path", tmp_path)
    assert status == 0 and open_bundle(str(tmp_path))
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")  # a file of the user's in the folder of a bundle
    status, log = run(script.main, "--params_path", trained["reviews"][1], "--output_path", tmp_path)
    assert status == 2 and "the folder holds notes.txt, which would be lost" in log


def test_without_rows_the_example_texts_are_used():
    assert len(export.example_texts()) == len(lines_of(ROOT / "data" / "data.txt"))
