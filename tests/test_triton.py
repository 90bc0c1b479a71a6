"""A real Triton server serves what build_repository.py writes, and answers as predict.py does."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from conftest import ROOT, lines_of, write_lines
from triton_server import NotReady, client, names_and_scores, triton_server

import build_repository as script
import export_model
import predict
from text_cls.batching import budget_batches
from text_cls.bundle import open_bundle, write_manifest
from text_cls.decision import Decision
from text_cls.serving.predictor import Predictor

FOLDER = ROOT / "deploy" / "triton_serving"
TEXTS = [
    "台风登陆，学校停课一天",
    "",
    "足球",
    "公司裁员三成，股价当日大跌",
    "公司裁员[PAD]三成，股价[SEP]当日大跌",
    "😀 Café ABC123",
    "好" * 2000,
    "\x00\n",
]


@pytest.fixture(scope="session")
def ernie_m(families, tmp_path_factory):
    """Bundle of a small ERNIE-M with random weights: it has one input alone."""
    from families import save_as_checkpoint

    folder = tmp_path_factory.mktemp("ernie_m")
    checkpoint = save_as_checkpoint(families, "ernie_m", folder / "checkpoint")
    flags = ["--params_path", str(checkpoint), "--output_path", str(folder / "export"), "--multilingual"]
    assert export_model.main(flags) == 0
    return folder / "export"


@pytest.fixture
def bundle(bundles, tmp_path):
    """A copy to damage."""
    return shutil.copytree(bundles["news"], tmp_path / "bundle")


@pytest.fixture(scope="module")
def served(triton, bundles, tmp_path_factory):
    """A server of the hierarchical bundle, ready: server, repository, predictor."""
    folder = tmp_path_factory.mktemp("triton")
    assert script.main(["--bundle", str(bundles["news"]), "--output", str(folder / "models")]) == 0
    with triton_server(folder / "models", folder / "log.txt") as server:
        yield SimpleNamespace(
            server=server, repository=folder / "models", predictor=Predictor(str(bundles["news"]), num_threads=1)
        )


HOLD = """

class TritonPythonModel(TritonPythonModel):
    def execute(self, requests):
        import time

        while Path({path!r}).exists():
            time.sleep(0.01)
        return super().execute(requests)
"""
QUEUE, ROWS = 24, 4


@pytest.fixture(scope="module")
def narrow(triton, bundles, tmp_path_factory):
    """A server where 24 requests may wait and 4 rows make a run, and whose models can be held: server, predictor, hold.

    While the block of hold(model) lasts, that model (one of Python) gives no answers.
    """
    folder = tmp_path_factory.mktemp("narrow")
    flags = ["--bundle", str(bundles["news"]), "--output", str(folder / "models"), "--max_batch_size", str(ROWS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "QUEUE", QUEUE)
        assert script.main(flags) == 0
    for model in script.PYTHON_MODELS:
        with open(folder / "models" / model / "1" / "model.py", "a", encoding="utf-8") as file:
            file.write(HOLD.format(path=str(folder / model)))

    @contextlib.contextmanager
    def hold(model):
        (folder / model).touch()
        try:
            yield
        finally:
            (folder / model).unlink()

    with triton_server(folder / "models", folder / "log.txt") as server:
        predictor = Predictor(str(bundles["news"]), num_threads=1)
        yield SimpleNamespace(server=server, predictor=predictor, hold=hold)
    assert server.process.returncode == 0  # no request is left in it


def metric(server, name):
    """The sum of a metric over all models."""
    with socket.create_connection(server.metrics_url.split(":")) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode("utf-8")
    values = re.findall(rf"^{name} (\d+)", text, re.M)
    assert values, name
    return sum(map(int, values))


def wait_until(happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_same(outputs, predictor, texts):
    wanted = list(predictor.predict(texts))
    rows = names_and_scores(outputs)
    assert [row[0] for row in rows] == [names for names, _ in wanted]
    for (names, scores), (_, theirs), label in zip(rows, wanted, outputs["label"]):
        assert np.abs(scores - theirs).max(initial=0) < 1e-5
        assert [predictor.labels.names[i] for i in label if i >= 0] == names


# --------------------------------------------------------------------------------------------------- the repository


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
    assert all("dynamic_batching" in config for model, config in configs.items() if model != "seqcls")
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


def test_a_damaged_bundle_is_refused_and_the_older_repository_stays(bundle, run, tmp_path):
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


def test_a_repository_replaces_only_its_like(bundles, run, tmp_path):
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
    held = set(lines_of(ROOT / "requirements" / "constraints.txt"))
    pins = [line.split("#")[0].strip() for line in lines_of(FOLDER / "requirements.txt") if "==" in line]
    assert len(pins) == 2 and set(pins) <= held


# --------------------------------------------------------------------------------------------------------- the server


@pytest.mark.parametrize("count", [1, 7, 64])
def test_answers_are_the_predictors(served, trained, count):
    rows = lines_of(trained["news"][0] / "dev.txt")
    texts = [*TEXTS, *(line.partition("\t")[0] for line in rows)][:count]
    outputs = served.server.infer("seqcls", texts)
    assert_same(outputs, served.predictor, texts)
    assert len(outputs["label"]) == count and (outputs["label"] >= 0).any()


def test_a_request_that_is_too_large_is_refused(served):
    with pytest.raises(ValueError, match="400 .*batch-size must be <= 64"):
        served.server.infer("seqcls", ["好"] * 65)


def test_rows_that_cannot_be_read_have_their_own_error(served):
    texts = [TEXTS[0], b"\xe5\xa5\xbd\xff", "好" * 100_000, "", "好" * 20_000, b"\xed\xa0\x80", TEXTS[3]]
    outputs = served.server.infer("seqcls", texts)
    rows = names_and_scores(outputs)
    assert rows[1] == "the text is not UTF-8: byte 0xff at position 3"
    assert rows[2] == "the text has 100000 characters; at most 20000 are taken"
    assert rows[5] == "the text is not UTF-8: byte 0xed at position 0"  # half of a surrogate pair
    good = [0, 3, 4, 6]
    assert_same({k: v[good] for k, v in outputs.items()}, served.predictor, [texts[i] for i in good])
    assert rows[0][0]
    only = names_and_scores(served.server.infer("seqcls", [b"\xff"]))
    assert only == ["the text is not UTF-8: byte 0xff at position 0"]


def test_json_as_curl_sends_it(served):
    tensor = {"name": "INPUT", "datatype": "BYTES", "shape": [2, 1], "data": [TEXTS[0], ""]}
    status, _, body = served.server.get("models/seqcls/infer", json.dumps({"inputs": [tensor]}).encode("utf-8"))
    outputs = {tensor["name"]: tensor for tensor in json.loads(body)["outputs"]}
    (names, _), _ = served.predictor.predict([TEXTS[0], ""])
    assert status == 200 and outputs["label_name"]["data"][: len(names)] == names
    assert outputs["error"]["data"] == ["", ""]


def test_requests_of_different_lengths_share_runs_and_each_gets_its_own_answer(served):
    """60 requests at once, no two of one length, a bad one after every fifth.

    That they come at once is the machine's to say: where one is answered before the next has come, they are sent again.
    """
    texts = [served_text(i) for i in range(60)]
    wanted = list(served.predictor.predict([text for text in texts if isinstance(text, str)]))
    models = ("tokenizer", "seqcls_batcher", "seqcls_model")
    served.server.infer("seqcls", [""])  # the first request has runs more, which look at padding
    alone = set(models)  # those that have not been seen to take several rows in a run
    for _ in range(20):
        before = {model: served.server.statistics(model) for model in models}
        with ThreadPoolExecutor(60) as pool:
            answers = list(pool.map(lambda text: served.server.infer("seqcls", [text]), texts))
        rows = [names_and_scores(outputs)[0] for outputs in answers]
        for i, text in enumerate(texts):
            if isinstance(text, bytes):
                assert rows[i] == "the text is not UTF-8: byte 0xff at position 0"
        good = [row for row, text in zip(rows, texts) if isinstance(text, str)]
        assert [row[0] for row in good] == [names for names, _ in wanted]
        for model in models:
            after = served.server.statistics(model)
            rows, runs = (after[key] - before[model][key] for key in ("inference_count", "execution_count"))
            assert rows == (50 if model == "seqcls_model" else 60)
            if runs < rows:  # the batcher's and the graph's runs: of rows of different lengths
                alone.discard(model)
        if not alone:
            break
    assert not alone


def served_text(i):
    return b"\xff" if i % 6 == 5 else "公司裁员，足球赛" + "好" * i


def test_a_run_that_fails_fails_alone(served):
    """A token that the model does not know, sent past the tokenizer; the next request is answered."""
    data = {"datatype": "INT64", "shape": [1, 3], "data": [1, 10**9, 2]}
    body = json.dumps({"inputs": [{"name": name, **data} for name in ("input_ids", "token_type_ids")]})
    status, _, answer = served.server.get("models/seqcls_batcher/infer", body.encode("utf-8"))
    assert status >= 400 and "onnxruntime execute failure" in json.loads(answer)["error"]
    assert_same(served.server.infer("seqcls", TEXTS), served.predictor, TEXTS)


def test_metrics_count_the_runs(served):
    served.server.infer("seqcls", TEXTS)
    assert metric(served.server, 'nv_inference_exec_count{model="seqcls_model",version="1"}') > 0


IDS, TYPES = "input_ids", "token_type_ids"
MALFORMED = [  # (model, {input: (type, shape, data)}, message). [0, 1] with data for one row comes to a model as [1]
    ("seqcls", {"INPUT": ("BYTES", [0, 1], b"")}, "expected 1 string elements"),
    ("tokenizer", {"INPUT_0": ("BYTES", [0, 1], b"\x01\0\0\0x")}, "no rows"),
    ("seqcls_batcher", {IDS: ("INT64", [0, 1], bytes(8)), TYPES: ("INT64", [0, 1], bytes(8))}, "no rows"),
    ("seqcls_batcher", {IDS: ("INT64", [1, 2], bytes(16)), TYPES: ("INT64", [1, 1], bytes(8))}, "different shapes"),
]


@pytest.mark.parametrize(("model", "inputs", "message"), MALFORMED)
def test_a_malformed_request_fails_alone(narrow, model, inputs, message):
    """Among 20 good ones, which wait beside it and so share its runs."""
    held = "tokenizer" if model == "seqcls" else model
    head = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, (kind, shape, data) in inputs.items()
    ]
    head = json.dumps({"inputs": head}).encode("utf-8")
    bad = head + b"".join(data for _, _, data in inputs.values())
    length = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    texts = [f"公司裁员，足球赛{'好' * i}" for i in range(20)]
    with ThreadPoolExecutor(23) as pool:
        with narrow.hold(held):
            answers = [pool.submit(narrow.server.infer, "seqcls", [text]) for text in texts[:10]]
            faults = [pool.submit(narrow.server.get, f"models/{model}/infer", bad, length) for _ in range(3)]
            answers += [pool.submit(narrow.server.infer, "seqcls", [text]) for text in texts[10:]]
            wait_until(lambda: metric(narrow.server, rf'nv_inference_pending_request_count{{model="{held}".*}}') > 8)
        wanted = narrow.predictor.predict(texts)
        for answer, (names, _) in zip(answers, wanted):
            assert names_and_scores(answer.result())[0][0] == names
        for fault in faults:
            status, _, body = fault.result()
            assert status >= 400 and message in json.loads(body)["error"]


@pytest.mark.parametrize("held", ["tokenizer", "seqcls_batcher"])
def test_a_full_queue_refuses_at_once(narrow, held):
    """What waits is answered, what does not fit is refused while the others wait, and nothing hangs."""
    texts = [f"公司裁员，足球赛{'好' * (i % 20)}" for i in range(80)]
    with ThreadPoolExecutor(80) as pool:
        with narrow.hold(held):
            answers = [pool.submit(narrow.server.infer, "seqcls", [text]) for text in texts]
            most = QUEUE + 2 * ROWS  # in the queue, in a run, and in one that is next
            wait_until(lambda: sum(answer.done() for answer in answers) >= 80 - most)
            assert sum(answer.done() for answer in answers) <= 80 - QUEUE
        answered = 0
        for answer, (names, _) in zip(answers, narrow.predictor.predict(texts)):
            if error := answer.exception():
                assert re.match("503 .*Exceeds maximum queue size", str(error))
            else:
                assert names_and_scores(answer.result())[0][0] == names
                answered += 1
    assert QUEUE <= answered <= most
    assert_same(narrow.server.infer("seqcls", TEXTS[:4]), narrow.predictor, TEXTS[:4])


# --------------------------------------------------------------------------------------------------------- the clients


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_a_clients_file_is_the_one_of_predict(served, triton, trained, run, kind, tmp_path):
    dataset, checkpoint = trained["news"]
    write_lines(tmp_path / "texts.txt", [*lines_of(dataset / "data.txt"), "好" * 2000, "<b>&\"'😀", *TEXTS[:1] * 100])
    flags = ("--device", "cpu", "--dataset_dir", tmp_path, "--data_file", "texts.txt", "--params_path", checkpoint)
    assert run(predict.main, *flags, "--output_file", tmp_path / "paddle.txt")[0] == 0
    url = getattr(served.server, f"{kind}_url")
    files = ("--input_file", tmp_path / "texts.txt", "--output_file", tmp_path / "triton.txt")
    status, _, log = client(triton, kind, "--url", url, *files)
    assert status == 0 and "Prediction results save in" in log and "level 1 : " in log, log
    assert (tmp_path / "triton.txt").read_bytes() == (tmp_path / "paddle.txt").read_bytes()
    status, _, log = client(triton, kind, "--url", url, *files, "--scores", "--batch_size", 5)
    assert status == 0 and re.search(r"\t0\.\d{5},0\.\d{5}\n", (tmp_path / "triton.txt").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_a_clients_texts(served, triton, kind):
    url = getattr(served.server, f"{kind}_url")
    status, out, log = client(triton, kind, "--url", url, "--texts", TEXTS[0], "", "--wait", 5)
    result = json.loads(out)["result"]
    wanted = list(served.predictor.predict([TEXTS[0], ""]))
    assert status == 0 and result["label_name"] == [names for names, _ in wanted] and wanted[0][0]
    for found, label, (names, scores) in zip(result["confidence"], result["label"], wanted):
        assert np.abs(np.array(found) - scores).max(initial=0) < 1e-5
        assert [served.predictor.labels.names[i] for i in label] == names
    status, out, log = client(triton, kind, "--url", url)
    assert status == 0 and len(json.loads(out)["result"]["label"]) == 2  # the samples


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_what_a_client_says_of_faults(served, triton, kind, tmp_path):
    write_lines(tmp_path / "long.txt", ["足球", "好" * 20_001, "a\tb\tc"])
    here, other = served.server.grpc_url, served.server.http_url
    here, other = (here, other) if kind == "grpc" else (other, here)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hangs = f"127.0.0.1:{silent.getsockname()[1]}"
        cases = [
            (("--url", "127.0.0.1:9"), "check --url, and that tritonserver runs: gRPC is its port 8001, HTTP 8000"),
            (("--url", other), "check --url, and that tritonserver runs: gRPC is its port 8001, HTTP 8000"),
            (("--url", "http://127.0.0.1:8000"), "an address looks like 127.0.0.1:8001, without http://"),
            (("--url", here, "--batch_size", 65), "--batch_size 65: the server takes 64 texts a request at most"),
            (("--url", here, "--output_file", "x"), "--output_file: name the texts too, --input_file"),
            (("--url", here, "--texts", "好" * 20_001), "the text has 20001 characters; at most 20000 are taken"),
            (("--url", here, "--input_file", tmp_path / "long.txt"), "long.txt:2: 20001 characters, 20000 are taken"),
            (("--url", hangs, "--timeout", 1), "--timeout gives it more time"),
            (
                ("--url", here, "--texts", "好\udcff"),
                "the text is not UTF-8: byte 0xff at position 3",
            ),  # argv b"..\xff"
        ]
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(lambda case: client(triton, kind, *case[0]), cases)
            for (status, _, log), (flags, message) in zip(answers, cases):
                assert status == 2 and message in log and "Traceback" not in log, (flags, log)


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_a_client_asks_a_full_server_again(narrow, triton, kind, tmp_path):
    refusals = r"nv_inference_request_failure{.*}"
    flags = ("--url", getattr(narrow.server, f"{kind}_url"), "--input_file", tmp_path / "texts.txt")
    write_lines(tmp_path / "texts.txt", TEXTS[2:4] * 4)
    with ThreadPoolExecutor(80) as pool:
        with narrow.hold("tokenizer"):
            before = metric(narrow.server, refusals)
            for _ in range(79):
                pool.submit(narrow.server.infer, "seqcls", ["足球"])
            wait_until(lambda: metric(narrow.server, refusals) > before)
            status, _, log = client(triton, kind, *flags, "--timeout", 1)
            assert status == 2 and "Exceeds maximum queue size. What to do: it has too much to do" in log
            before = metric(narrow.server, refusals)
            answer = pool.submit(client, triton, kind, *flags, "--output_file", tmp_path / "labels.txt")
            wait_until(lambda: metric(narrow.server, refusals) > before)
        status, _, log = answer.result()
    assert status == 0, log
    wanted = [
        f"{text}\t{','.join(names)}" for text, (names, _) in zip(TEXTS[2:4], narrow.predictor.predict(TEXTS[2:4]))
    ]
    assert lines_of(tmp_path / "labels.txt") == wanted * 4


ANOTHER = """
name: "seqcls" backend: "python" max_batch_size: 8
input [ { name: "INPUT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "label" data_type: TYPE_INT64 dims: [ -1 ] } ]
"""


def test_a_client_does_not_take_anothers_model(triton, tmp_path):
    (tmp_path / "models" / "seqcls" / "1").mkdir(parents=True)
    (tmp_path / "models" / "seqcls" / "config.pbtxt").write_text(ANOTHER, encoding="utf-8")
    code = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
    (tmp_path / "models" / "seqcls" / "1" / "model.py").write_text(code, encoding="utf-8")
    with triton_server(tmp_path / "models", tmp_path / "log.txt") as server:
        for kind in ("grpc", "http"):
            status, _, log = client(triton, kind, "--url", getattr(server, f"{kind}_url"))
            assert status == 2 and "build a repository and load it again" in log and "Traceback" not in log


def without(package, folder):
    """Environment variables for a Python that lacks a package."""
    line = f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')\n"
    (folder / f"{package}.py").write_text(line, encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_a_client_without_its_packages_says_what_to_install(kind, tmp_path):
    status, _, log = client(sys.executable, kind)  # the environment of the tests
    assert status == 2 and "'tritonclient'. pip install -r deploy/triton_serving/requirements-client.txt" in log
    status, _, log = client(sys.executable, kind, **without("numpy", tmp_path))
    assert status == 2 and "'numpy'. pip install -r deploy/triton_serving/requirements-client.txt" in log


@pytest.mark.parametrize(
    ("kind", "package"), [("grpc", "grpc"), ("http", "geventhttpclient"), ("grpc", "numpy"), ("http", "numpy")]
)
def test_a_client_without_some_of_its_packages_says_so(triton, kind, package, tmp_path):
    status, _, log = client(triton, kind, **without(package, tmp_path))
    assert status == 2 and f"'{package}'. pip install -r deploy/triton_serving/requirements-client.txt" in log
    assert "Traceback" not in log


# ------------------------------------------------------------------------------------------- without the project beside


HIDE = """
import os, sys

def refuse(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path = os.path.realpath(arguments[0])
        if path.startswith({root!r}) and not path.startswith({kept!r}):
            raise PermissionError(f"{{path}} is of the project, which is not in a container")

sys.addaudithook(refuse)
"""


def sealed(folder):
    """The folder of a bundle after a change, with a manifest that fits."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    made = ("version", "variants", "files")
    write_manifest(str(folder), {name: value for name, value in manifest.items() if name not in made})
    return folder


def decided(bundle, folder):
    """A copy of a flat bundle that gives each text several labels, of hostile names, and calibrated probabilities."""
    shutil.copytree(bundle, folder)
    Decision(min_k=1, temperature=2.0, threshold=0.1).save(folder / "decision.json")
    hostile = ["<b>\"&'😀\\</b>", "长" * 2000, "a b\u2028c"]
    write_lines(folder / "label.txt", [*hostile, *lines_of(folder / "label.txt")[len(hostile) :]])
    return sealed(folder)


@pytest.mark.parametrize("name", ["reviews", "ernie_m"])
def test_a_copy_serves_without_the_project(triton, bundles, ernie_m, run, name, tmp_path):
    """Python in the server is kept from opening any file of the project; flat labels, and one input alone."""
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
        assert outputs["label"].shape[1] > 3  # labels of a row
        # The rows of one request, in groups, and the two rows that show whether padding counts.
        lengths = Predictor(str(bundle)).encode(texts).lengths
        runs = server.statistics("seqcls_model")["execution_count"]
        assert runs == 2 + len(budget_batches(lengths, 32 * open_bundle(str(bundle)).manifest["max_seq_length"]))
        group = server.process.pid
    assert server.process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)  # nobody is left of it


def test_a_changed_repository_is_not_served(triton, served, tmp_path):
    repository = shutil.copytree(served.repository, tmp_path / "models")
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
    """As with ONNX Runtime 1.20; here the graph takes another token for the padding."""
    model = onnx.load(bundle / "model.onnx")
    (pad,) = (tensor for tensor in model.graph.initializer if tensor.name == "pad_token_id")
    pad.CopyFrom(onnx.numpy_helper.from_array(np.array(9), "pad_token_id"))
    onnx.save(model, bundle / "model.onnx")
    assert run(script.main, "--bundle", sealed(bundle), "--output", tmp_path / "models")[0] == 0
    with triton_server(tmp_path / "models", tmp_path / "log.txt") as server:
        for _ in range(2):
            with pytest.raises(ValueError, match="computes rows with padding wrongly.*use a newer container"):
                server.infer("seqcls", TEXTS)
