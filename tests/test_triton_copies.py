"""Real Triton servers of repositories copied elsewhere, of changed ones, and of another model."""

import json
import os
import shutil

import numpy as np
import onnx
import pytest
from conftest import ROOT, lines_of, write_lines
from triton_server import TEXTS, NotReady, assert_same, client, names_and_scores, triton_server

import build_repository as script
from text_cls.batching import budget_batches
from text_cls.bundle import open_bundle, write_manifest
from text_cls.decision import Decision
from text_cls.serving.predictor import Predictor

HIDE = """
import os, sys

def refuse(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path = os.path.realpath(arguments[0])
        if path.startswith({root!r}) and not path.startswith({kept!r}):
            raise PermissionError(f"{{path}} is in the project, which a container does not have")

sys.addaudithook(refuse)
"""


def sealed(folder):
    """The folder of a changed bundle, with a manifest that matches again."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    made = ("version", "variants", "files")
    write_manifest(str(folder), {name: value for name, value in manifest.items() if name not in made})
    return folder


def decided(bundle, folder):
    """A copy of a flat bundle with several labels per text, hostile label names and calibrated probabilities."""
    shutil.copytree(bundle, folder)
    Decision(min_k=1, temperature=2.0, threshold=0.1).save(folder / "decision.json")
    hostile = ["<b>\"&'😀\\</b>", "长" * 2000, "a b\u2028c"]
    write_lines(folder / "label.txt", [*hostile, *lines_of(folder / "label.txt")[len(hostile) :]])
    return sealed(folder)


@pytest.mark.parametrize("name", ["reviews", "ernie_m"])
def test_a_copy_serves_without_the_project(triton, bundles, ernie_m, run, name, tmp_path):
    """Python in the server cannot open any file of the project; with flat labels, and with a single input."""
    bundle = ernie_m if name == "ernie_m" else decided(bundles[name], tmp_path / "bundle")
    flags = ("--max_characters", 100_000, "--num_threads", 1)
    assert run(script.main, "--bundle", bundle, "--output", tmp_path / "models", *flags)[0] == 0
    shutil.copytree(tmp_path / "models", tmp_path / "elsewhere" / "repository")
    shutil.rmtree(tmp_path / "models")
    code = HIDE.format(root=f"{ROOT}{os.sep}", kept=f"{ROOT / '.venv-triton'}{os.sep}")
    texts = [*TEXTS, "好" * 100_000, "糯米鸡香，凤爪烂，一壶普洱坐到十点"]
    with triton_server(tmp_path / "elsewhere" / "repository", tmp_path / "log.txt", prelude=code) as server:
        outputs = server.infer("seqcls", [*texts, b"\xff"])
        assert names_and_scores(outputs)[-1].startswith("the text is not UTF-8")
        assert_same({k: v[:-1] for k, v in outputs.items()}, Predictor(str(bundle), num_threads=1), texts)
        assert outputs["label"].shape[1] > 3  # labels per row
        # The rows of one request, in groups, and the two rows that check padding.
        lengths = Predictor(str(bundle)).encode(texts).lengths
        runs = server.statistics("seqcls_model")["execution_count"]
        assert runs == 2 + len(budget_batches(lengths, 32 * open_bundle(str(bundle)).manifest["max_seq_length"]))
        group = server.process.pid
    assert server.process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)  # no process is left


def test_a_changed_repository_is_not_served(triton, bundles, run, tmp_path):
    repository = tmp_path / "models"
    assert run(script.main, "--bundle", bundles["news"], "--output", repository)[0] == 0
    for name in ("seqcls_model/1/model.onnx", "seqcls_postprocess/1/bundle/label.txt", "tokenizer/1/bundle/vocab.txt"):
        content = (repository / name).read_bytes()
        (repository / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(NotReady):
        with triton_server(repository, tmp_path / "log.txt"):
            pass
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "label.txt is not the file of this bundle" in log and "vocab.txt is not the file of this bundle" in log
    assert "model.onnx is not the file this repository was built with; run build_repository.py again" in log


def test_a_server_that_computes_padding_wrongly_answers_nothing(triton, bundle, run, tmp_path):
    """As with ONNX Runtime 1.20; here the graph treats another token as padding."""
    model = onnx.load(bundle / "model.onnx")
    (pad,) = (tensor for tensor in model.graph.initializer if tensor.name == "pad_token_id")
    pad.CopyFrom(onnx.numpy_helper.from_array(np.array(9), "pad_token_id"))
    onnx.save(model, bundle / "model.onnx")
    assert run(script.main, "--bundle", sealed(bundle), "--output", tmp_path / "models")[0] == 0
    with triton_server(tmp_path / "models", tmp_path / "log.txt") as server:
        for _ in range(2):
            with pytest.raises(ValueError, match="computes rows with padding wrongly.*use a newer container"):
                server.infer("seqcls", TEXTS)


ANOTHER = """
name: "seqcls" backend: "python" max_batch_size: 8
input [ { name: "INPUT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "label" data_type: TYPE_INT64 dims: [ -1 ] } ]
"""


def test_a_client_refuses_another_model(triton, tmp_path):
    (tmp_path / "models" / "seqcls" / "1").mkdir(parents=True)
    (tmp_path / "models" / "seqcls" / "config.pbtxt").write_text(ANOTHER, encoding="utf-8")
    code = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
    (tmp_path / "models" / "seqcls" / "1" / "model.py").write_text(code, encoding="utf-8")
    with triton_server(tmp_path / "models", tmp_path / "log.txt") as server:
        for kind in ("grpc", "http"):
            status, _, log = client(triton, kind, "--url", getattr(server, f"{kind}_url"))
            assert status == 2 and "build a repository with build_repository.py, and load it again" in log
            assert "Traceback" not in log
