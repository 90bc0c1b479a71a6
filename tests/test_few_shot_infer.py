"""few-shot/infer.py and every other consumer of a bundle: the same labels as the trained model, without Paddle."""

import json
import re
import shutil
import subprocess

import numpy as np
import onnxruntime
import pytest
from conftest import ROOT, command_line, lines_of, write_lines
from prompts import HARD, infer
from starlette.testclient import TestClient
from triton_server import client, triton_server

import build_repository
import infer as offline
import settings
import threshold
from application import create_app
from text_cls.bundle import open_bundle
from text_cls.serving.predictor import Predictor
from text_cls.tokenization import load_tokenizer


@pytest.fixture(params=["news", "reviews"])
def case(request, prompted):
    """(data set, bundle, labels of data.txt by the trained model)."""
    dataset, out = prompted[request.param]
    return dataset, out / "export", [line.partition("\t")[2] for line in lines_of(out / "predictions.txt")]


def test_it_logs_each_row_with_the_trained_models_labels(run, case):
    dataset, bundle, wanted = case
    flags = ("--model_path_prefix", bundle / "model", "--data_dir", dataset, "--device", "cpu", "--num_threads", 1)
    status, log = run(infer.main, *flags)
    assert status == 0, log
    texts = [line.strip() for line in lines_of(dataset / "data.txt") if line.strip()]
    assert re.findall(r"input data: (.*)", log) == texts
    assert re.findall(r"labels: (.*)", log) == [names.replace(",", ", ") for names in wanted]
    assert log.count(" - ----") == len(texts) and any(wanted)


def test_the_command_line_overrides_the_decision(run, case):
    dataset, bundle, _ = case
    flags = ("--model_path_prefix", bundle, "--data_dir", dataset, "--device", "cpu", "--top_k", 1)
    status, log = run(infer.main, *flags, "--hierarchy", "closure")
    assert status == 0 and "by the command line" in log
    assert all(names and "," not in names for names in re.findall(r"labels: (.*)", log))


def test_the_batch_does_not_matter(run, case):
    dataset, bundle, wanted = case
    flags = ("--model_path_prefix", bundle, "--data_dir", dataset, "--device", "cpu", "--batch_size", 1)
    status, log = run(infer.main, *flags)
    assert status == 0 and re.findall(r"labels: (.*)", log) == [names.replace(",", ", ") for names in wanted]


def test_deploy_predictor_takes_it(run, case, tmp_path):
    dataset, bundle, wanted = case
    flags = ("--model_path_prefix", bundle / "model", "--dataset_dir", dataset, "--device", "cpu")
    status, log = run(offline.main, *flags, "--output_file", tmp_path / "predicted.txt")
    assert status == 0, log
    assert [line.partition("\t")[2] for line in lines_of(tmp_path / "predicted.txt")] == wanted


def test_tables(run, case, tmp_path):
    dataset, bundle, wanted = case
    texts = [line.strip() for line in lines_of(dataset / "data.txt") if line.strip()]
    write_lines(tmp_path / "in.jsonl", [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)])
    where = ("--model_path_prefix", bundle, "--device", "cpu")
    files = ("--input_file", tmp_path / "in.jsonl", "--output_file", tmp_path / "out.jsonl")
    status, log = run(infer.main, *where, *files)
    assert status == 0, log
    rows = [json.loads(line) for line in lines_of(tmp_path / "out.jsonl")]
    assert [(row["id"], row["text"], ",".join(row["labels"])) for row in rows] == [
        (i, text, names) for i, (text, names) in enumerate(zip(texts, wanted))
    ]
    output = tmp_path / "out.txt"
    assert run(infer.main, *where, "--data_dir", dataset, "--output_file", output, "--scores")[0] == 0
    assert [line.split("\t")[:2] for line in lines_of(output)] == [list(pair) for pair in zip(texts, wanted)]
    status, log = run(infer.main, *where)
    assert status == 2 and "name the folder of data.txt, --data_dir, or a file of texts, --input_file" in log


def test_the_server_takes_it(case):
    dataset, bundle, wanted = case
    chosen = settings.parse_args(["--bundle", str(bundle), "--num_threads", "1"], environ={})
    texts = [line.strip() for line in lines_of(dataset / "data.txt") if line.strip()]
    with TestClient(create_app(chosen), raise_server_exceptions=False) as client:
        kind = "hierarchical" if open_bundle(str(bundle)).labels.hierarchical else "multi_label"
        path = f"/models/cls_{kind}"
        answer = client.post(path, json={"data": {"text": texts}, "parameters": {}})
        assert answer.status_code == 200, answer.text
        assert [",".join(names) for names in answer.json()["result"]["label_name"]] == wanted
        fixed = load_tokenizer(str(bundle)).fixed
        answer = client.post(path, json={"data": {"text": texts}, "parameters": {"max_seq_len": fixed}})
        assert answer.status_code == 422 and f"{fixed} of them are special tokens" in answer.text


def test_thresholds_are_fitted_to_it(run, prompted, tmp_path):
    dataset, out = prompted["reviews"]
    shutil.copytree(out / "export", tmp_path / "export")
    write_lines(tmp_path / "dev.txt", lines_of(dataset / "train.txt") * 2)
    flags = ("--dataset_dir", tmp_path, "--bundle", tmp_path / "export", "--device", "cpu", "--force")
    status, log = run(threshold.main, *flags, "--mode", "single")
    assert status == 0, log
    assert Predictor(str(tmp_path / "export")).decision.threshold != 0.5


@pytest.mark.parametrize("missing", [(), ("vocab_size", "type_vocab_size")], ids=["new", "older"])
def test_triton_serves_it(run, triton, prompted, missing, tmp_path):
    """Also a bundle of 0.1.0, whose manifest does not tell how many ids there are: a prompt has ids of its own."""
    dataset, out = prompted["reviews"]
    bundle = shutil.copytree(out / "export", tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    for name in missing:
        del manifest[name]
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    flags = ("--bundle", bundle, "--output", tmp_path / "models", "--device", "cpu")
    status, log = run(build_repository.main, *flags)
    assert status == 0, log
    with triton_server(tmp_path / "models", tmp_path / "log.txt") as server:
        files = ("--input_file", dataset / "data.txt", "--output_file", tmp_path / "labels.txt")
        status, _, log = client(triton, "grpc", "--url", server.grpc_url, *files)
    assert status == 0, log
    assert (tmp_path / "labels.txt").read_bytes() == (out / "predictions.txt").read_bytes()


def test_without_paddle(prompted):
    """As on a machine without it."""
    dataset, out = prompted["reviews"]
    flags = ["--model_path_prefix", str(out / "export"), "--data_dir", str(dataset), "--device", "cpu"]
    code = (
        "import sys, runpy\n"
        "sys.modules.update(dict.fromkeys(['paddle', 'paddlenlp', 'sklearn'], None))\n"
        f"sys.argv, sys.path[0] = ['few-shot/infer.py', *{flags}], 'few-shot'\n"
        "runpy.run_path('few-shot/infer.py', run_name='__main__')\n"
    )
    answer = subprocess.run(command_line("-c", code), cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert answer.returncode == 0 and "input data: " in answer.stderr, answer.stderr


def test_half_precision_is_in_the_bundle_and_for_gpus(run, prompted):
    dataset, out = prompted["reviews"]
    flags = ("--model_path_prefix", out / "export", "--data_dir", dataset, "--device", "cpu", "--use_fp16")
    status, log = run(infer.main, *flags)
    assert status == 2 and "fp16 is for --device gpu; on a CPU it is slower" in log and "Traceback" not in log
    predictor = Predictor(str(out / "export"))
    assert predictor.bundle.manifest["unmeasured"] == ["fp16"]
    encoded = predictor.encode(HARD)
    whole = predictor.run(encoded)
    path = predictor.bundle.onnx_file("fp16")
    predictor.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert 0 < np.abs(predictor.run(encoded) - whole).max() < 0.1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "there is no data.txt; write the texts to it"),
        (("--model_path_prefix", "nowhere/model"), "nowhere/manifest.json: No such file or directory"),
        (("--max_length", "3"), "max_seq_length 3: {fixed} of them are special tokens"),
    ],
)
def test_what_is_refused(run, prompted, tmp_path, flags, message):
    if flags:
        write_lines(tmp_path / "data.txt", ["一"])
    bundle = prompted["reviews"][1] / "export"
    status, log = run(infer.main, "--model_path_prefix", bundle, "--data_dir", tmp_path, "--device", "cpu", *flags)
    assert status == 2 and message.format(fixed=load_tokenizer(str(bundle)).fixed) in log and "Traceback" not in log, (
        log
    )


def test_a_text_cannot_contain_a_mask(prompted):
    bundle = str(prompted["reviews"][1] / "export")
    with open(f"{bundle}/template.json", encoding="utf-8") as file:
        template = json.load(file)
    tokenizer = load_tokenizer(bundle)
    own = [i for i in template["before"] + template["after"] if i >= len(tokenizer._tokenizer.vocabulary)]
    (row,) = tokenizer.encode(["[MASK]很干净[MASK]"], 48)
    assert len(own) == 1 and (row == own[0]).sum() == 1 and 3 not in row
    first, second = Predictor(bundle).probabilities(["[MASK]很干净", "[UNK]很干净"])
    assert (first == second).all()
