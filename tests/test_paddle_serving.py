"""deploy/paddle_serving: what build_service.py writes, the service on the real Paddle Serving, and its clients."""

import base64
import io
import json
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import yaml
from conftest import lines_of, load_script, write_lines
from serving_process import FOLDER, PYTHON, is_listening, new_service, running_service

import build_service
from static_graph import feeds_and_fetches
from text_cls.cli import UserError
from text_cls.serving import open_predictor
from wire import texts_of, wire_of

TEXTS = ["台风登陆，学校停课一天", "足球", "公司裁员三成，股价当日大跌", "😀 Café ABC123", "好" * 300]
BAD_REQUEST = 51
# The client of 0.9.0 itself, as programs for PaddleNLP's service use it.
OLD_CLIENT = """
import sys, types
stub = types.ModuleType("paddle_serving_client")
stub.Client = None
sys.modules["paddle_serving_client"] = stub
import json
import numpy as np
from paddle_serving_server.pipeline import PipelineClient

class Attack:
    def __reduce__(self):
        return open, (sys.argv[3], "w")

client = PipelineClient()
client.connect([sys.argv[1]])
texts = np.array([text.encode("utf-8") for text in json.loads(sys.argv[2])], dtype=object)
if len(sys.argv) > 3:
    attack = np.array([Attack()], dtype=object)
    answer = client.predict({"sentence": attack}, pack_tensor_format=True, use_tensor_bytes=True)
else:
    answer = client.predict({"sentence": texts})
print(json.dumps([answer.err_no, answer.err_msg, list(answer.key), list(answer.value)]))
"""


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def build(run, bundle, folder, *flags):
    """build_service.py into a folder's serving/; returns its log."""
    status, log = run(build_service.main, "--bundle", bundle, "--output", folder / "serving", *flags)
    assert status == 0, log
    return log


@pytest.fixture(scope="module")
def built(bundles, windows_bundle, tmp_path_factory):
    """{bundle: `Service` that is built and not started}."""
    made = {}
    for name, bundle in (*bundles.items(), ("windows", windows_bundle)):
        service = made[name] = new_service(tmp_path_factory.mktemp(name))
        ports = [f"--{kind}_port={port}" for kind, port in zip(("rpc", "http"), service.ports)]
        words = ["--bundle", str(bundle), "--output", str(service.folder / "serving"), "--num_threads", "1"]
        assert build_service.main([*words, *ports]) == 0
    return made


@pytest.fixture(scope="module")
def service(paddle_serving, built):
    """The running service of the hierarchical bundle."""
    with running_service(built["news"]) as started:
        yield started


def client(kind, *flags, python=PYTHON):
    """(exit status, standard output, standard error) of a client in .venv-serving."""
    words = [str(word) for word in (python, FOLDER / f"{kind}_client.py", *flags)]
    answer = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", cwd="/")
    return answer.returncode, answer.stdout, answer.stderr


def old_client(service, texts, *attack):
    """[err_no, err_msg, keys, values] as upstream's own client gets them."""
    words = [PYTHON, "-c", OLD_CLIENT, service.rpc, json.dumps(texts), *attack]
    answer = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=service.folder)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------------------ the folder to serve


@pytest.mark.parametrize("name", ["news", "reviews"])
def test_the_configuration_is_the_graphs(run, bundles, tmp_path, name):
    log = build(run, bundles[name], tmp_path)
    config = yaml.safe_load((tmp_path / "serving" / "config.yml").read_text(encoding="utf-8"))
    assert (config["rpc_port"], config["http_port"]) == (18090, {"news": 9999, "reviews": 9878}[name])
    local = config["op"]["seq_cls"]["local_service_conf"]
    manifest = json.loads((bundles[name] / "manifest.json").read_text(encoding="utf-8"))
    feeds, fetches = feeds_and_fetches(tmp_path / "serving" / local["model_config"] / "float32.pdmodel")
    assert sorted(feed for feed, _, _ in feeds) == sorted(tensor["name"] for tensor in manifest["inputs"])
    assert [(kind, shape) for _, kind, shape in feeds] == [(0, [])] * len(feeds)
    assert [(kind, shape) for _, kind, shape in fetches] == [(1, [manifest["num_labels"]])]
    assert local["fetch_list"] == [fetches[0][0]] and f"{manifest['num_labels']} labels" in log
    for side in ("server", "client"):
        text = (tmp_path / "serving" / f"serving_{side}" / f"serving_{side}_conf.prototxt").read_text(encoding="utf-8")
        assert text.count("feed_var {") == len(feeds) and f'name: "{fetches[0][0]}"' in text


def test_the_names_are_those_that_paddle_finds(bundles):
    """The small reader of graphs against Paddle's own."""
    import paddle

    prefix = str(bundles["news"] / "float32")
    paddle.enable_static()
    try:
        executor = paddle.static.Executor(paddle.CPUPlace())
        _, feeds, fetches = paddle.static.load_inference_model(prefix, executor)
    finally:
        paddle.disable_static()
    found = feeds_and_fetches(f"{prefix}.pdmodel")
    assert [name for name, _, _ in found[0]] == feeds or sorted(name for name, _, _ in found[0]) == sorted(feeds)
    assert [(name, shape) for name, _, shape in found[1]] == [(v.name, list(v.shape[1:])) for v in fetches]


def test_a_folder_is_written_whole_or_not_at_all(run, bundle, tmp_path):
    build(run, bundle, tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "serving").rglob("*") if path.is_file()}
    (bundle / "label.txt").write_text("changed\n", encoding="utf-8")
    status, log = run(build_service.main, "--bundle", bundle, "--output", tmp_path / "serving")
    assert status == 2 and "label.txt is not the file of this bundle" in log
    assert {path: path.read_bytes() for path in (tmp_path / "serving").rglob("*") if path.is_file()} == before
    (tmp_path / "serving" / "mine").touch()
    status, log = run(build_service.main, "--bundle", bundle, "--output", tmp_path / "serving", "--rpc_port", "80")
    assert status == 2 and "--rpc_port 80: Paddle Serving takes ports from 1024" in log and "mine" in log


def test_bundles_that_it_cannot_serve(run, retrieval, tmp_path):
    status, log = run(build_service.main, "--bundle", retrieval["news", "labels"], "--output", tmp_path / "serving")
    assert status == 2 and "is a bundle for retrieval; serve it with deploy/simple_serving" in log
    assert not (tmp_path / "serving").exists()


def test_files_that_are_not_graphs(tmp_path):
    path = tmp_path / "float32.pdmodel"
    for content, message in ((b"\xff" * 9, "is not a static graph"), (b"", "has no inputs or no outputs")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            feeds_and_fetches(path)


# ------------------------------------------------------------------------------------------ the configuration it takes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"worker_num": 0}, "worker_num must be a whole number"),
        ({"build_dag_each_worker": True}, "raise worker_num instead"),
        ({"rpc_port": 0, "http_port": 0}, "neither rpc_port nor http_port"),
        ({"dag": {"is_thread_op": False}}, "is_thread_op must be true"),
        ({"dag": {"is_thread_op": True, "enable_prometheus": True}}, "needs --host 0.0.0.0"),
        ({"op": {}}, "names no folder; run build_service.py again"),
        ({"op": {"seq_cls": {"local_service_conf": {"client_type": "brpc", "model_config": "x"}}}}, "local_predictor"),
    ],
)
def test_configurations_that_it_refuses(run, built, tmp_path, change, message):
    script = load_script("deploy/paddle_serving/service.py")
    config = yaml.safe_load((built["news"].folder / "serving" / "config.yml").read_text(encoding="utf-8"))
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(config | change), encoding="utf-8")
    status, log = run(script.main, "--config", path)
    assert status == 2 and f"{path}: " in log and message in log and "Traceback" not in log
    assert list(script.configuration_problems(config, "127.0.0.1")) == []
    everywhere = config | {"dag": {"is_thread_op": True, "enable_prometheus": True}}
    assert list(script.configuration_problems(everywhere, "0.0.0.0")) == []


def test_files_that_are_no_configuration(run, tmp_path):
    script, path = load_script("deploy/paddle_serving/service.py"), tmp_path / "config.yml"
    status, log = run(script.main, "--config", path)
    assert status == 2 and "python build_service.py writes one" in log
    for content, message in ((b"a: [", "is not YAML"), (b"\xff\xfe", "is not YAML"), (b"- 1", "names no folder")):
        path.write_bytes(content)
        status, log = run(script.main, "--config", path)
        assert status == 2 and message in log and "Traceback" not in log, log


def test_without_paddle_serving_it_says_what_to_do(run, built, monkeypatch):
    script = load_script("deploy/paddle_serving/service.py")
    monkeypatch.setitem(sys.modules, "paddle_serving_client", types.ModuleType("paddle_serving_client"))
    status, log = run(script.main, "--config", built["news"].folder / "serving" / "config.yml")
    assert status == 2 and "'paddle_serving_app'. Run `make serving-setup`, then use .venv-serving/bin/python" in log


def test_a_folder_that_has_changed_is_refused(run, built, bundles, tmp_path):
    script = load_script("deploy/paddle_serving/service.py")
    folder = shutil.copytree(built["news"].folder / "serving", tmp_path / "serving")
    model = folder / "serving_server"
    assert script.open_predictor(str(folder), str(model), None).inputs
    shutil.rmtree(folder / "bundle")
    shutil.copytree(built["reviews"].folder / "serving" / "bundle", folder / "bundle")
    with pytest.raises(UserError, match="is not the bundle of this graph"):
        script.open_predictor(str(folder), str(model), None)
    with open(model / "float32.pdiparams", "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="float32.pdiparams is not the file of this bundle"):
        script.open_predictor(str(folder), str(model), None)
    (model / "float32.pdmodel").unlink()
    with pytest.raises(UserError, match="has no .pdmodel files"):
        script.open_predictor(str(folder), str(model), None)


# --------------------------------------------------------------------------------------------------- the real server


def test_both_clients_give_the_labels_of_predict(run, service, trained, tmp_path):
    import predict

    dataset, checkpoint = trained["news"]
    write_lines(tmp_path / "data.txt", [line.partition("\t")[0] for line in lines_of(dataset / "train.txt")[:300]])
    where = ["--dataset_dir", tmp_path, "--params_path", checkpoint, "--device", "cpu"]
    status, log = run(predict.main, *where, "--output_file", tmp_path / "wanted.txt")
    assert status == 0, log
    wanted = lines_of(tmp_path / "wanted.txt")
    assert len(wanted) == 300 and len({line.partition("\t")[2] for line in wanted}) > 5
    for kind in ("http", "rpc"):
        output = tmp_path / f"{kind}.txt"
        files = ("--input_file", tmp_path / "data.txt", "--output_file", output)
        status, _, log = client(kind, "--url", getattr(service, kind), *files)
        assert status == 0, log
        assert lines_of(output) == wanted


@pytest.mark.parametrize("kind", ["http", "rpc"])
def test_texts_on_the_command_line(service, bundles, kind):
    status, out, log = client(kind, "--url", getattr(service, kind), "--texts", *TEXTS, "--batch_size", 2)
    assert status == 0, log
    result, predictor = json.loads(out)["result"], open_predictor(str(bundles["news"]))
    wanted = list(predictor.predict(TEXTS))
    assert result["label_name"] == [names for names, _ in wanted]
    assert result["label"] == [[predictor.labels.index[name] for name in names] for names, _ in wanted]
    for scores, (_, theirs) in zip(result["confidence"], wanted):
        assert np.abs(np.array(scores) - theirs).max(initial=0) < 1e-5


def test_programs_written_for_the_older_service_still_work(service, bundles):
    number, message, keys, values = old_client(service, TEXTS)
    assert (number, message, keys[0]) == (0, "", "label")
    predictor = open_predictor(str(bundles["news"]))
    wanted = [",".join(str(predictor.labels.index[name]) for name in names) for names, _ in predictor.predict(TEXTS)]
    assert eval(values[0]) == wanted == texts_of(values[0])  # as those programs read it
    with np.printoptions(threshold=10**9):
        answer = service.ask(repr(np.array([text.encode("utf-8") for text in TEXTS], dtype=object)))
    assert answer == {"err_no": 0, "err_msg": "", "key": keys, "value": values, "tensors": []}


def test_a_pickle_sent_by_rpc_is_not_opened(service, tmp_path):
    number, message, _, values = old_client(service, TEXTS, tmp_path / "opened")
    assert number == BAD_REQUEST and message.startswith("tensors are not accepted") and not values
    assert not (tmp_path / "opened").exists()


def test_a_pickle_sent_by_http_is_not_opened(service, tmp_path):
    file = io.BytesIO()
    np.save(file, np.array([Attack(tmp_path / "opened")], dtype=object), allow_pickle=True)
    for data in (file.getvalue(), pickle.dumps(Attack(tmp_path / "opened"))):
        tensor = {
            "name": "sentence",
            "elem_type": 13,
            "shape": [1],
            "byte_data": base64.b64encode(data).decode("ascii"),
        }
        for more in ({}, {"key": ["sentence"], "value": [wire_of(TEXTS)]}):
            status, answer = service.post({"tensors": [tensor], **more})
            assert (status, answer["err_no"], answer["value"]) == (200, BAD_REQUEST, [])
            assert answer["err_msg"].startswith("tensors are not accepted")
    assert not (tmp_path / "opened").exists()


def test_an_expression_is_not_evaluated(service, tmp_path):
    attack = f"open({str(tmp_path / 'opened')!r}, 'w')"
    for value in (
        attack,
        f"array([{attack}])",
        f"array([b'a', {attack}], dtype=object)",
        f"array([b'a'], dtype={attack})",
    ):
        answer = service.ask(value)
        assert answer["err_no"] == BAD_REQUEST and "expected array([b'...', b'...'], dtype=object)" in answer["err_msg"]
        assert "opened" not in answer["err_msg"]
    assert not (tmp_path / "opened").exists()


def test_requests_that_are_refused(service):
    one = wire_of(["足球"])
    for keys, values, message in (
        (["sentence"], [], "1 keys and 0 values"),
        ([], [one], "0 keys and 1 values"),
        ([], [], "expected the key sentence"),
        (["text"], [one], "expected the key sentence"),
        (["sentence", "sentence"], [one, one], "expected the key sentence, once"),
        (["sentence"], [wire_of(["a"] * 1025)], "more than 1024 texts"),
        (["sentence"], ["array([], dtype=object)"], "sentence: no texts"),
    ):
        status, answer = service.post({"key": keys, "value": values})
        assert (status, answer["err_no"]) == (200, BAD_REQUEST) and message in answer["err_msg"], answer
    for body in (
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"key": 1}',
        b'{"key": ["sentence"], "value": ["\\ud800"]}',
        b"\xff",
    ):
        status, answer = service.post(body)
        assert (
            status == 400
            and answer["err_no"] == BAD_REQUEST
            and "the body is not JSON of the form" in answer["err_msg"]
        )
    assert service.post(b"{}", service.http.replace("seq_cls", "other"))[0] == 404
    with socket.create_connection(("127.0.0.1", service.ports[1]), timeout=60) as large:
        large.sendall(b"POST /seq_cls/prediction HTTP/1.1\r\nHost: x\r\nContent-Length: 18000000\r\n\r\n")
        assert large.recv(100).startswith(b"HTTP/1.1 413 ")
    assert service.ask(one)["err_no"] == 0  # it still answers


def test_many_requests_at_a_time(service):
    wanted = {text: service.ask(wire_of([text]))["value"] for text in TEXTS}
    assert len({str(value) for value in wanted.values()}) > 1
    with ThreadPoolExecutor(8) as pool:
        for text, answer in zip(TEXTS * 20, pool.map(lambda text: service.ask(wire_of([text])), TEXTS * 20)):
            assert answer["value"] == wanted[text]


def test_it_listens_on_the_loopback_address_only(service):
    with open("/proc/net/tcp", encoding="ascii") as v4, open("/proc/net/tcp6", encoding="ascii") as v6:
        rows = [line.split() for line in [*v4, *v6]]
    for port in service.ports:
        bound = {row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}
        assert bound and bound <= {f"0100007F:{port:04X}", f"0000000000000000FFFF00000100007F:{port:04X}"}


def test_logs_have_nothing_of_a_text(service):
    word = "秘密文本"
    service.ask(wire_of([f"{word}一"]))
    service.ask(f"array([b'{word}', x])")
    service.ask(repr([word, 1]))
    assert word not in service.log and repr(word.encode("utf-8"))[2:-1] not in service.log


def test_a_text_longer_than_the_model_takes(paddle_serving, built, windows_bundle):
    """A bundle that reads long texts in windows does so here, too."""
    texts = ["公司裁员三成，股价当日大跌。" * 12 + "台风登陆，学校停课一天。" * 6, "足球"]
    with running_service(built["windows"]) as service:
        names = texts_of(dict(zip(*(service.ask(wire_of(texts))[field] for field in ("key", "value"))))["label_name"])
    wanted = [",".join(found) for found, _ in open_predictor(str(windows_bundle)).predict(texts)]
    assert names == wanted


def test_it_stops_when_asked_to_and_says_what_it_does(paddle_serving, built):
    with running_service(built["reviews"]) as service:
        assert f"RPC on {service.rpc}" in service.log and f"HTTP on {service.http}" in service.log
        words = [PYTHON, FOLDER / "service.py", "--config", service.folder / "serving" / "config.yml"]
        again = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=service.folder)
        assert again.returncode == 2 and "is already used" in again.stderr and "Traceback" not in again.stderr
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0
        assert not is_listening(service.http)
    assert "Traceback" not in service.log


# ------------------------------------------------------------------------------------------------------ the clients


@pytest.mark.parametrize("kind", ["http", "rpc"])
def test_what_a_client_says_about_errors(run, service, kind, tmp_path):
    script, address = load_script(f"deploy/paddle_serving/{kind}_client.py"), getattr(service, kind)
    other = service.http.replace(str(service.ports[1]), str(service.ports[0])) if kind == "http" else None
    other = other or f"127.0.0.1:{service.ports[1]}"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hangs = f"127.0.0.1:{silent.getsockname()[1]}"
        for url, message in (
            (address.replace(str(service.ports[kind == "http"]), "9"), "check --url and that service.py is running"),
            (hangs if kind == "rpc" else f"http://{hangs}/", "or raise --timeout"),
            (other, "check --url"),
            ("ftp://127.0.0.1", "expected an address such as"),
        ):
            status, log = run(client_main(script, kind), "--url", url, "--timeout", 1)
            assert status == 2 and message in log and "Traceback" not in log, log
    for flags, message in (
        (("--batch_size", 1025), "at most 1024 texts per request"),
        (("--output_file", "x"), "--output_file needs --input_file"),
        (("--input_file", tmp_path / "none"), "none"),
        (("--texts", "好\udcff"), "a text is not UTF-8"),
        (("--texts", "a" * (4 << 20)), "refuses the request: sentence: 4194"),
    ):
        status, log = run(client_main(script, kind), "--url", address, *flags)
        assert status == 2 and message in log and "Traceback" not in log, log


def client_main(script, kind):
    if kind == "rpc":
        pytest.importorskip("grpc")
    return script.main


@pytest.mark.parametrize(
    "answer",
    [
        (0, "", ["label"], ["['1']"]),
        (0, "", ["label", "label_name", "confidence"], ["['1', '2']", "['a', 'b']", "['0.5', '0.5']"]),
        (0, "", ["label", "label_name", "confidence"], ["['1,2']", "['a']", "['0.5']"]),
        (0, "", ["label", "label_name", "confidence"], ["['x']", "['a']", "['0.5']"]),
        (0, "", ["label", "label_name", "confidence"], ["[print('evaluated')]", "['a']", "['0.5']"]),
    ],
)
def test_a_client_reads_the_answer_as_data(capsys, answer):
    import serving_client

    with pytest.raises(UserError, match="this is not an answer of service.py"):
        serving_client.rows_of("here", ["足球"], answer)
    assert "evaluated" not in capsys.readouterr().out


def test_the_http_client_refuses_other_answers(run, file_server):
    script, (url, _) = load_script("deploy/paddle_serving/http_client.py"), file_server
    status, log = run(script.main, "--url", f"{url}/x")  # 501, as that server has no POST
    assert status == 2 and "this is not an answer of service.py; check --url" in log
