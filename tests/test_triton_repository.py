"""What build_repository.py writes for a bundle, and when it refuses."""

import json
import shutil
import subprocess

import pytest
from conftest import ROOT, lines_of

import build_repository as script
from text_cls.bundle import open_bundle

FOLDER = ROOT / "deploy" / "triton_serving"
PARSE = """
import json, sys
from pathlib import Path
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig
configs = {}
for path in Path(sys.argv[1]).glob("*/config.pbtxt"):
    config = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
    configs[path.parent.name] = json_format.MessageToDict(config, preserving_proto_field_name=True)
print(json.dumps(configs))
"""


@pytest.mark.parametrize(("name", "flags"), [("news", []), ("reviews", ["--device", "gpu"]), ("ernie_m", [])])
def test_configurations_are_the_manifests(triton, bundles, ernie_m, run, name, flags, tmp_path):
    bundle = ernie_m if name == "ernie_m" else bundles[name]
    status, log = run(script.main, "--bundle", bundle, "--output", tmp_path / "models", "--max_batch_size", 8, *flags)
    manifest = open_bundle(str(bundle)).manifest
    assert status == 0 and f"{manifest['num_labels']} labels, at most {manifest['max_seq_length']} tokens" in log
    answer = subprocess.run([triton, "-c", PARSE, tmp_path / "models"], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    configs = json.loads(answer.stdout)
    assert set(configs) == script.MODELS and all(config["name"] == model for model, config in configs.items())
    assert all(config["max_batch_size"] == 8 for config in configs.values())
    # Requests that Triton merged for the graph would all fail with one of them.
    assert {model for model, config in configs.items() if "dynamic_batching" in config} == set(script.PYTHON_MODELS)
    checks = {
        name: int(value["string_value"])
        for name, value in configs["seqcls_batcher"]["parameters"].items()
        if name not in ("sha256", "graph")
    }
    sizes = {"vocab_size", "longest_input"} | (set() if name == "ernie_m" else {"type_vocab_size"})
    assert checks == {key: manifest[key] for key in sizes | {"pad_token_id", "max_seq_length"}}
    for waited_for in ("tokenizer", "seqcls_batcher"):
        assert configs[waited_for]["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 1024
    model, ensemble = configs["seqcls_model"], configs["seqcls"]
    inputs = ["input_ids"] if name == "ernie_m" else ["input_ids", "token_type_ids"]
    assert [tensor["name"] for tensor in model["input"]] == inputs
    assert model["platform"] == "onnxruntime_onnx" and "allow_ragged_batch" not in model["input"][0]
    assert [(t["name"], t["dims"]) for t in model["output"]] == [("logits", [str(manifest["num_labels"])])]
    assert model["instance_group"][0]["kind"] == ("KIND_GPU" if flags else "KIND_CPU")
    assert all(c["instance_group"][0]["kind"] == "KIND_CPU" for m, c in configs.items() if c.get("backend") == "python")
    assert all(tensor["allow_ragged_batch"] for tensor in configs["seqcls_batcher"]["input"])
    assert [t["name"] for t in ensemble["output"]] == ["label", "confidence", "label_name", "error"]
    made = {"INPUT"}
    for step in ensemble["ensemble_scheduling"]["step"]:  # each tensor is made before it is read
        config = configs[step["model_name"]]
        assert set(step["input_map"]) == {tensor["name"] for tensor in config["input"]}
        assert set(step["output_map"]) == {tensor["name"] for tensor in config["output"]}
        assert set(step["input_map"].values()) <= made
        made |= set(step["output_map"].values())
    assert {tensor["name"] for tensor in ensemble["output"]} <= made


def test_the_repository_holds_exact_copies(bundles, run, tmp_path):
    assert run(script.main, "--bundle", bundles["news"], "--output", tmp_path / "models")[0] == 0
    assert (tmp_path / "models" / "seqcls" / "1").is_dir()
    for model in script.PYTHON_MODELS:
        version = tmp_path / "models" / model / "1"
        copies = [path.relative_to(version) for path in (version / "text_cls").rglob("*.py")]
        assert {path.name for path in copies} >= {"tokenization.py", "decision.py", "batching.py", "bundle.py"}
        assert all((version / path).read_bytes() == (ROOT / path).read_bytes() for path in copies)
    for path in (tmp_path / "models").glob("*/1/bundle/*"):
        if path.name != "manifest.json":
            assert path.read_bytes() == (bundles["news"] / path.name).read_bytes()
    assert open_bundle(str(tmp_path / "models" / "tokenizer" / "1" / "bundle"))
    model = tmp_path / "models" / "seqcls_model" / "1" / "model.onnx"
    assert model.read_bytes() == (bundles["news"] / "model.onnx").read_bytes()


def test_a_damaged_bundle_is_refused_and_an_existing_repository_stays(bundle, run, tmp_path):
    flags = ("--bundle", bundle, "--output", tmp_path / "models")
    assert run(script.main, *flags)[0] == 0
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "models").rglob("*"))
    for name in ("model.onnx", "vocab.txt"):
        (bundle / name).write_bytes(b"?" + (bundle / name).read_bytes()[1:])
    status, log = run(script.main, *flags)
    assert status == 2 and "2 problems, nothing was done" in log
    assert "model.onnx is not the file of this bundle" in log and "vocab.txt is not the file of this bundle" in log
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "models").rglob("*")) == before
    status, log = run(script.main, "--bundle", tmp_path / "nowhere", "--output", tmp_path / "other")
    assert status == 2 and "name a folder that export_model.py or prune.py wrote" in log
    assert not (tmp_path / "other").exists()


def test_an_index_that_triton_cannot_search_is_refused(retrieval, run, tmp_path):
    milvus = {"kind": "milvus", "uri": "http://127.0.0.1:1", "collection": "labels"}
    for index, message in ((milvus, "its index is in Milvus"), (None, "it has no index yet")):
        folder = shutil.copytree(retrieval["news", "labels"], tmp_path / f"bundle{bool(index)}")
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        (folder / "manifest.json").write_text(json.dumps({**manifest, "index": index}), encoding="utf-8")
        status, log = run(script.main, "--bundle", folder, "--output", tmp_path / "models")
        assert status == 2 and message in log and f"index.py build --bundle {folder} --corpus labels" in log
        assert not (tmp_path / "models").exists()


def test_only_a_repository_is_replaced(bundles, run, tmp_path):
    flags = ("--bundle", bundles["news"], "--output", tmp_path / "models")
    assert run(script.main, *flags)[0] == run(script.main, *flags)[0] == 0
    (tmp_path / "models" / "somebodys_model").mkdir()
    status, log = run(script.main, *flags)
    assert status == 2 and "the folder holds somebodys_model, which would be lost; name a new folder" in log
    (tmp_path / "file").write_text("", encoding="utf-8")
    status, log = run(script.main, "--bundle", bundles["news"], "--output", tmp_path / "file")
    assert status == 2 and "this is a file; name a folder" in log


def test_variants_are_for_their_devices(bundles, run, tmp_path):
    for flags, message in (
        (["--use_fp16"], "--use_fp16 is for --device gpu"),
        (["--use_quantize", "--device", "gpu"], "--use_quantize is for --device cpu"),
        (["--use_quantize"], "holds no int8 model, only float32"),
        (["--use_fp16", "--device", "gpu"], "holds no fp16 model, only float32"),
    ):
        status, log = run(script.main, "--bundle", bundles["news"], "--output", tmp_path / "models", *flags)
        assert status == 2 and message in log and not (tmp_path / "models").exists()


def test_the_containers_packages_are_those_of_the_tests():
    pinned = set(lines_of(ROOT / "requirements" / "constraints.txt"))
    pins = [line.split("#")[0].strip() for line in lines_of(FOLDER / "requirements.txt") if "==" in line]
    assert len(pins) == 2 and set(pins) <= pinned
