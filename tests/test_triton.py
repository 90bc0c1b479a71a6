"""A real Triton server of what build_repository.py writes answers as predict.py does, and so do the clients."""

import contextlib
import json
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, lines_of, write_lines
from triton_server import TEXTS, assert_same, client, names_and_scores, triton_server

import build_repository as script
import predict
from serving import wait_until
from text_cls.serving import open_predictor
from text_cls.serving.predictor import Predictor


@pytest.fixture(scope="module")
def served(triton, bundles, tmp_path_factory):
    """A running server of the hierarchical bundle: server, repository, predictor."""
    folder = tmp_path_factory.mktemp("triton")
    assert script.main(["--bundle", str(bundles["news"]), "--output", str(folder / "models")]) == 0
    with triton_server(folder / "models", folder / "log.txt") as server:
        yield SimpleNamespace(
            server=server, repository=folder / "models", predictor=Predictor(str(bundles["news"]), num_threads=1)
        )


PAUSE = """

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
    """A server with room for 24 requests and 4 rows per run, whose models can be paused: server, predictor, pause.

    Within the block of pause(model), that model (one in Python) does not answer.
    """
    with pausable(bundles["news"], tmp_path_factory.mktemp("narrow")) as both:
        yield both


@contextlib.contextmanager
def pausable(bundle, folder):
    """What `narrow` yields, for a bundle."""
    flags = ["--bundle", str(bundle), "--output", str(folder / "models"), "--max_batch_size", str(ROWS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "QUEUE", QUEUE)
        assert script.main(flags) == 0
    for model in script.PYTHON_MODELS:
        with open(folder / "models" / model / "1" / "model.py", "a", encoding="utf-8") as file:
            file.write(PAUSE.format(path=str(folder / model)))

    @contextlib.contextmanager
    def pause(model):
        (folder / model).touch()
        try:
            yield
        finally:
            (folder / model).unlink()

    with triton_server(folder / "models", folder / "log.txt") as server:
        yield SimpleNamespace(server=server, predictor=Predictor(str(bundle), num_threads=1), pause=pause)
    assert server.process.returncode == 0  # no request is left


def metric(server, name):
    """The sum of a metric over all models."""
    with socket.create_connection(server.metrics_url.split(":")) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode("utf-8")
    values = re.findall(rf"^{name} (\d+)", text, re.M)
    assert values, name
    return sum(map(int, values))


# --------------------------------------------------------------------------------------------------------- the server


@pytest.mark.parametrize("count", [1, 7, 64])
def test_answers_are_the_predictors(served, trained, count):
    rows = lines_of(trained["news"][0] / "dev.txt")
    texts = [*TEXTS, *(line.partition("\t")[0] for line in rows)][:count]
    outputs = served.server.infer("seqcls", texts)
    assert_same(outputs, served.predictor, texts)
    assert len(outputs["label"]) == count and (outputs["label"] >= 0).any()


def test_a_retrieval_bundle(triton, retrieval, trained, tmp_path):
    """Triton searches the bundle's index as the bundle's own predictor does."""
    bundle = retrieval["news", "labels"]
    assert script.main(["--bundle", str(bundle), "--output", str(tmp_path / "models")]) == 0
    texts = [*TEXTS, *(line.partition("\t")[0] for line in lines_of(trained["news"][0] / "dev.txt")[:8])]
    with triton_server(tmp_path / "models", tmp_path / "log.txt") as server:
        outputs = server.infer("seqcls", texts)
    assert_same(outputs, open_predictor(str(bundle), num_threads=1), texts)
    assert (outputs["label"] >= 0).any()


def test_a_request_that_is_too_large_is_refused(served):
    with pytest.raises(ValueError, match="400 .*batch-size must be <= 64"):
        served.server.infer("seqcls", ["好"] * 65)


def test_rows_that_cannot_be_read_get_an_error(served):
    texts = [TEXTS[0], b"\xe5\xa5\xbd\xff", "好" * 100_000, "", "好" * 20_000, b"\xed\xa0\x80", TEXTS[3]]
    outputs = served.server.infer("seqcls", texts)
    rows = names_and_scores(outputs)
    assert rows[1] == "the text is not UTF-8: byte 0xff at position 3"
    assert rows[2] == "the text has 100000 characters; at most 20000 are allowed"
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
    """60 requests at once, all of different lengths, every sixth of them invalid.

    Whether they do depends on the machine: if each is answered before the next arrives, they are sent again.
    """
    texts = [served_text(i) for i in range(60)]
    wanted = list(served.predictor.predict([text for text in texts if isinstance(text, str)]))
    models = ("tokenizer", "seqcls_batcher", "seqcls_model")
    served.server.infer("seqcls", [""])  # the first request causes two more runs, which check padding
    alone = set(models)  # models that have not yet run several rows at once
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
            if runs < rows:  # those of the batcher and of the graph have rows of different lengths
                alone.discard(model)
        if not alone:
            break
    assert not alone


def served_text(i):
    return b"\xff" if i % 6 == 5 else "公司裁员，足球赛" + "好" * i


def test_a_failed_run_does_not_affect_others(served):
    """A token unknown to the model, sent to the graph itself; the next request is answered."""
    data = {"datatype": "INT64", "shape": [1, 3], "data": [1, 10**9, 2]}
    body = json.dumps({"inputs": [{"name": name, **data} for name in ("input_ids", "token_type_ids")]})
    status, _, answer = served.server.get("models/seqcls_model/infer", body.encode("utf-8"))
    assert status >= 400 and "onnxruntime execute failure" in json.loads(answer)["error"]
    assert_same(served.server.infer("seqcls", TEXTS), served.predictor, TEXTS)


def test_metrics_count_the_runs(served):
    served.server.infer("seqcls", TEXTS)
    assert metric(served.server, 'nv_inference_exec_count{model="seqcls_model",version="1"}') > 0


def int64(values, shape=None):
    """An input: (type, shape, data)."""
    return "INT64", shape or [1, len(values)], np.array(values, dtype=np.int64).tobytes()


IDS, TYPES = "input_ids", "token_type_ids"
GOOD = int64([0] * 16)  # as long as the valid rows, and so in the same run
BAD_IDS = [
    ("seqcls_batcher", {IDS: int64([1] * 15 + [bad]), TYPES: GOOD}, f"input_ids has {bad}; the model takes 0 to ")
    for bad in (10**6, 2**62, -1, -5, -(2**63))
]
BAD_TYPES = "seqcls_batcher", {IDS: int64([1] * 16), TYPES: int64([0] * 15 + [99])}, "token_type_ids has 99; the model"
TOO_LONG = (
    "seqcls_batcher",
    {IDS: int64([1] * 3000), TYPES: int64([0] * 3000)},
    "a row has 3000 tokens; the model takes",
)
MALFORMED = [  # (model, {input: (type, shape, data)}, message). [0, 1] with data for one row reaches a model as [1]
    ("seqcls", {"INPUT": ("BYTES", [0, 1], b"")}, "expected 1 string elements"),
    ("tokenizer", {"INPUT_0": ("BYTES", [0, 1], b"\x01\0\0\0x")}, "no rows"),
    ("seqcls_batcher", {IDS: ("INT64", [0, 1], bytes(8)), TYPES: ("INT64", [0, 1], bytes(8))}, "no rows"),
    ("seqcls_batcher", {IDS: ("INT64", [1, 2], bytes(16)), TYPES: ("INT64", [1, 1], bytes(8))}, "different shapes"),
    *BAD_IDS,
    BAD_TYPES,
    TOO_LONG,
]


@pytest.mark.parametrize(("model", "inputs", "message"), MALFORMED)
def test_a_malformed_request_does_not_affect_others(narrow, model, inputs, message):
    """Among 20 valid requests, which wait at the same time and so share its runs."""
    send_among_others(narrow, model, inputs, message)


def test_a_fault_that_only_the_graph_finds_does_not_affect_others(triton, bundle, tmp_path):
    """The manifest of an older bundle does not tell how many token types there are."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    older = {name: value for name, value in manifest.items() if name not in ("vocab_size", "type_vocab_size")}
    assert len(older) == len(manifest) - 2
    path.write_text(json.dumps(older), encoding="utf-8")
    model, inputs, _ = BAD_TYPES
    with pausable(bundle, tmp_path) as both:
        send_among_others(both, model, inputs, "onnxruntime execute failure")
        send_among_others(both, *BAD_IDS[0])


def send_among_others(narrow, model, inputs, message):
    """Three times a request that fails with the message, among 20 valid ones, which are answered."""
    paused = "tokenizer" if model == "seqcls" else model
    head = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, (kind, shape, data) in inputs.items()
    ]
    head = json.dumps({"inputs": head}).encode("utf-8")
    bad = head + b"".join(data for _, _, data in inputs.values())
    length = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    texts = [f"公司裁员，足球赛{'好' * i}" for i in range(20)]
    with ThreadPoolExecutor(23) as pool:
        with narrow.pause(paused):
            answers = [pool.submit(narrow.server.infer, "seqcls", [text]) for text in texts[:10]]
            faults = [pool.submit(narrow.server.get, f"models/{model}/infer", bad, length) for _ in range(3)]
            answers += [pool.submit(narrow.server.infer, "seqcls", [text]) for text in texts[10:]]
            wait_until(lambda: metric(narrow.server, rf'nv_inference_pending_request_count{{model="{paused}".*}}') > 8)
        wanted = narrow.predictor.predict(texts)
        for answer, (names, _) in zip(answers, wanted):
            assert names_and_scores(answer.result())[0][0] == names
        for fault in faults:
            status, _, body = fault.result()
            assert status >= 400 and message in json.loads(body)["error"]


@pytest.mark.parametrize("paused", ["tokenizer", "seqcls_batcher"])
def test_a_full_queue_refuses_at_once(narrow, paused):
    """Waiting requests are answered, those beyond the limit are refused in the meantime, and nothing hangs."""
    texts = [f"公司裁员，足球赛{'好' * (i % 20)}" for i in range(80)]
    with ThreadPoolExecutor(80) as pool:
        with narrow.pause(paused):
            answers = [pool.submit(narrow.server.infer, "seqcls", [text]) for text in texts]
            most = QUEUE + 2 * ROWS  # in the queue, in a run, and in the next one
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
def test_the_file_of_a_client_is_the_one_of_predict(served, triton, trained, run, kind, tmp_path):
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


def test_a_client_keeps_the_columns_of_a_table(served, triton, tmp_path):
    write_lines(tmp_path / "in.csv", ["id,text", f"007,{TEXTS[0]}", "008,", f"009,{TEXTS[2]}"])
    files = ("--input_file", tmp_path / "in.csv", "--output_file", tmp_path / "out.jsonl")
    status, _, log = client(triton, "grpc", "--url", served.server.grpc_url, *files, "--level_columns")
    assert status == 0 and "1 of 3 rows of" in log, log
    rows = [json.loads(line) for line in lines_of(tmp_path / "out.jsonl")]
    assert [row["id"] for row in rows] == ["007", "008", "009"] and rows[1]["labels"] == rows[1]["level_1"] == []
    (first, _), (third, _) = served.predictor.predict([TEXTS[0], TEXTS[2]])
    assert [rows[0]["labels"], rows[2]["labels"]] == [first, third]


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
def test_what_a_client_says_about_errors(served, triton, kind, tmp_path):
    write_lines(tmp_path / "long.txt", ["足球", "好" * 20_001, "a\tb\tc"])
    here, other = served.server.grpc_url, served.server.http_url
    here, other = (here, other) if kind == "grpc" else (other, here)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hangs = f"127.0.0.1:{silent.getsockname()[1]}"
        no_triton = "check --url, and that tritonserver is running: its port 8001 is gRPC, 8000 HTTP"
        cases = [
            (
                ("--url", "127.0.0.1:9"),
                "check --url, and that tritonserver is running: its port 8001 is gRPC, 8000 HTTP",
            ),
            (("--url", other), no_triton),
            (("--url", "http://127.0.0.1:8000"), "expected an address such as 127.0.0.1:8001, without http://"),
            (("--url", here, "--batch_size", 65), "--batch_size 65: the server takes at most 64 texts per request"),
            (("--url", here, "--output_file", "x"), "--output_file needs --input_file, the texts"),
            (("--url", here, "--texts", "好" * 20_001), "the text has 20001 characters; at most 20000 are allowed"),
            (
                ("--url", here, "--input_file", tmp_path / "long.txt"),
                "long.txt:2: 20001 characters; shorten the text to",
            ),
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
def test_a_client_retries_when_the_queue_is_full(narrow, triton, kind, tmp_path):
    refusals = r"nv_inference_request_failure{.*}"
    flags = ("--url", getattr(narrow.server, f"{kind}_url"), "--input_file", tmp_path / "texts.txt")
    write_lines(tmp_path / "texts.txt", TEXTS[2:4] * 4)
    with ThreadPoolExecutor(80) as pool:
        with narrow.pause("tokenizer"):
            before = metric(narrow.server, refusals)
            for _ in range(79):
                pool.submit(narrow.server.infer, "seqcls", ["足球"])
            wait_until(lambda: metric(narrow.server, refusals) > before)
            status, _, log = client(triton, kind, *flags, "--timeout", 1)
            assert status == 2 and "Exceeds maximum queue size. What to do: it is busy" in log
            before = metric(narrow.server, refusals)
            answer = pool.submit(client, triton, kind, *flags, "--output_file", tmp_path / "labels.txt")
            wait_until(lambda: metric(narrow.server, refusals) > before)
        status, _, log = answer.result()
    assert status == 0, log
    wanted = [
        f"{text}\t{','.join(names)}" for text, (names, _) in zip(TEXTS[2:4], narrow.predictor.predict(TEXTS[2:4]))
    ]
    assert lines_of(tmp_path / "labels.txt") == wanted * 4


def without(package, folder):
    """Environment variables for a Python without a package."""
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


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_a_client_reads_a_pipe_and_keeps_blank_lines(served, triton, kind, tmp_path):
    texts = [TEXTS[0], "", " ", f"{TEXTS[2]}\u2028后", ""]
    output = tmp_path / "labels.txt"
    script = ROOT / "deploy" / "triton_serving" / f"seqcls_{kind}_client.py"
    url = served.server.grpc_url if kind == "grpc" else served.server.http_url
    words = [triton, script, "--url", url, "--input_file", "/dev/stdin", "--output_file", output]

    def ask(lines, *flags):
        content = "".join(f"{line}\n" for line in lines).encode()
        answer = subprocess.run([*map(str, words), *flags], input=content, capture_output=True)
        return answer.returncode, answer.stderr.decode()

    status, log = ask(texts)
    assert status == 0 and "3 of 5 rows are blank lines of /dev/stdin; --skip_blank leaves them out" in log, log
    found = [names for names, _ in served.predictor.predict([texts[0], texts[3]])]
    wanted = [f"{texts[0]}\t{','.join(found[0])}", "\t", "\t", f"{TEXTS[2]} 后\t{','.join(found[1])}", "\t"]
    assert lines_of(output) == wanted
    assert ask(texts, "--skip_blank")[0] == 0 and lines_of(output) == [wanted[0], wanted[3]]
    status, log = ask([f"{texts[0]}\t{served.predictor.labels.names[0]}", "id1\t足球"])
    assert status == 2 and "/dev/stdin:2: the second column, '足球', has no label of the model" in log
    assert lines_of(output) == [wanted[0], wanted[3]]
