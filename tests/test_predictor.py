import json
import os
import shutil
import subprocess
from importlib import metadata

import numpy as np
import onnxruntime
import pytest
from conftest import REAL_DATA, ROOT, command_line, lines_of, write_lines

import export_model
import infer
import predict
from text_cls.cli import UserError
from text_cls.serving import predictor as module
from text_cls.serving.predictor import Predictor

TEXTS = [
    "台风登陆，学校停课一天",
    "",
    "足球",
    "公司裁员三成，股价当日大跌",
    "😀 Café ABC123",
    "好" * 300,
    "足球",
]


def test_answers_are_in_order_and_do_not_depend_on_the_batch(bundles):
    ours = Predictor(str(bundles["news"]), batch_size=2)
    together = ours.probabilities(TEXTS)
    alone = np.concatenate([ours.probabilities([text]) for text in TEXTS])
    assert together.shape == (7, 55) and together.dtype == np.float32
    assert np.abs(together - alone).max() < 1e-5 and np.ptp(together, axis=0).max() > 0.1
    assert ours.probabilities([]).shape == (0, 55) and list(ours.predict([])) == []


def test_batches_keep_to_the_budget(bundles, monkeypatch):
    ours, shapes = Predictor(str(bundles["news"]), batch_size=2, max_seq_length=16), []
    real = ours.session

    class Session:
        def run(self, names, inputs):
            shapes.append(inputs["input_ids"].shape)
            return real.run(names, inputs)

    monkeypatch.setattr(ours, "session", Session())
    ours.probabilities(TEXTS * 10)
    assert all(rows * tokens <= 32 for rows, tokens in shapes) and max(tokens for _, tokens in shapes) == 16
    assert shapes[-1][1] == 2  # the empty texts are not padded to longer ones


def test_threads_and_length(bundles):
    assert Predictor(str(bundles["news"]), num_threads=1).session.get_session_options().intra_op_num_threads == 1
    assert Predictor(str(bundles["news"])).encode(["好" * 300]).lengths[0] == 48  # as in training
    with pytest.raises(UserError, match="max_seq_length 4096: this model takes at most 2048 tokens"):
        Predictor(str(bundles["news"]), max_seq_length=4096)


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_the_same_labels_as_predict_byte_for_byte(bundles, trained, run, task, tmp_path):
    dataset, checkpoint = trained[task]
    flags = ("--device", "cpu", "--dataset_dir", dataset, "--output_file")
    status, _ = run(predict.main, *flags, tmp_path / "paddle.txt", "--params_path", checkpoint)
    assert status == 0
    status, log = run(infer.main, *flags, tmp_path / "onnx.txt", "--model_path_prefix", bundles[task] / "float32")
    assert status == 0 and "Prediction results save in" in log
    assert (tmp_path / "onnx.txt").read_bytes() == (tmp_path / "paddle.txt").read_bytes()
    assert any("\t" in line and not line.endswith("\t") for line in lines_of(tmp_path / "onnx.txt"))


@pytest.mark.parametrize("name", ["duee", "cail-divorce"])
def test_the_same_labels_on_the_public_sets(train, learner, run, name, tmp_path):
    dataset = REAL_DATA / name
    if not dataset.exists():
        pytest.skip(f"{dataset} does not exist; set TEXT_CLASSIFICATION_DATA to the folder of the public sets")
    quick = ("--max_train_samples", 1500, "--learning_rate", "5e-3", "--max_seq_length", 64, "--epochs", 6)
    status, log, checkpoint = train(
        dataset, *quick, "--batch_size", 16, "--logging_steps", 100, "--model_name", learner, "--max_dev_samples", 100
    )
    assert status == 0, log
    assert run(export_model.main, "--params_path", checkpoint, "--output_path", tmp_path / "export")[0] == 0
    flags = ("--device", "cpu", "--output_file")
    here = ("--dataset_dir", dataset, "--data_file", "dev.txt", "--params_path", checkpoint)
    assert run(predict.main, *flags, tmp_path / "paddle.txt", *here)[0] == 0
    there = ("--input_file", dataset / "dev.txt", "--model_path_prefix", tmp_path / "export")
    assert run(infer.main, *flags, tmp_path / "onnx.txt", *there)[0] == 0
    ours = lines_of(tmp_path / "onnx.txt")
    assert ours == lines_of(tmp_path / "paddle.txt") and len(ours) == len(lines_of(dataset / "dev.txt"))
    assert sum(not line.endswith("\t") for line in ours) > 100  # rows have labels at all


def test_without_paddle(bundles, tmp_path):
    """As on a machine without Paddle, PaddleNLP and the packages for exporting."""
    write_lines(tmp_path / "texts.txt", ["台风登陆", "足球赛"] * 700)
    absent = ("paddle", "paddlenlp", "paddle2onnx", "paddleslim", "onnx", "sympy", "sklearn", "visualdl")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"sys.path.insert(0, {str(ROOT / 'deploy' / 'predictor')!r})\n"
        "import infer\n"
        f"sys.exit(infer.main(['--device', 'cpu', '--model_path_prefix', {str(bundles['news'])!r}, '--input_file', "
        f"{str(tmp_path / 'texts.txt')!r}, '--output_file', {str(tmp_path / 'out.txt')!r}]))\n"
    )
    answer = subprocess.run(command_line("-c", code), cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert answer.returncode == 0, answer.stderr
    lines = lines_of(tmp_path / "out.txt")
    assert len(lines) == 1400 and set(lines) == set(lines[:2])  # whatever batch a text was in


# ---------------------------------------------------------------------------------------------------------- the bundle


@pytest.mark.parametrize("name", ["model.onnx", "label.txt", "decision.json", "vocab.txt", "float32.pdiparams"])
def test_a_changed_file_is_refused_by_name(bundle, name):
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(UserError, match=f"{name} is not the file of this bundle .its SHA-256 differs.; export it"):
        Predictor(str(bundle))


def test_missing_files_are_listed_together(bundle):
    os.remove(bundle / "model.onnx")
    os.remove(bundle / "label.txt")
    with pytest.raises(UserError, match="(?s)2 problems.*label.txt is missing.*model.onnx is missing"):
        Predictor(str(bundle))


def test_folders_that_are_not_bundles(bundle, trained, tmp_path):
    with pytest.raises(UserError, match="name a folder that export_model.py or prune.py wrote"):
        Predictor(str(tmp_path))
    with pytest.raises(UserError, match="is a checkpoint: export it"):
        Predictor(str(trained["news"][1]))
    shutil.copytree(bundle, tmp_path / "prompted" / "export")
    with pytest.raises(UserError, match="the bundle is in .*export, use that"):
        Predictor(str(tmp_path / "prompted"))
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    for content, message in (
        ("{", "manifest.json is damaged"),
        ("[]", "manifest.json is damaged"),
        (json.dumps({name: manifest[name] for name in ("version", "files")}), "manifest.json: model_type is missing"),
        (json.dumps({**manifest, "version": 9}), "version 9 is unknown"),
        (json.dumps({**manifest, "num_labels": 54}), "label.txt has 55 labels, the model 54"),
        (
            json.dumps({**manifest, "files": {"../../etc/passwd": "0"}}),
            "must be the name of a file in this folder, not '../../etc/passwd'",
        ),
    ):
        (bundle / "manifest.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError) as error:
            Predictor(str(bundle))
        assert message in str(error.value)


# ------------------------------------------------------------------------------------------------------------- devices


class Distribution:
    def __init__(self, name):
        self.metadata = {"Name": name}


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        (["onnxruntime"], "this ONNX Runtime has no CUDA; use --device cpu"),
        (["onnxruntime", "onnxruntime-gpu"], "are both installed, and the first hides the second; pip uninstall -y"),
        (["onnxruntime-gpu"], "finds no CUDA; check that nvidia-smi works"),
    ],
)
def test_why_there_is_no_gpu(bundles, monkeypatch, installed, message):
    monkeypatch.setattr(metadata, "distributions", lambda: map(Distribution, installed))
    with pytest.raises(UserError) as error:
        Predictor(str(bundles["news"]), device="gpu")
    assert message in str(error.value)


def test_fp16_is_for_gpus_and_int8_for_cpus(bundles, monkeypatch):
    with pytest.raises(UserError, match="fp16 is for --device gpu"):
        Predictor(str(bundles["news"]), variant="fp16")
    monkeypatch.setattr(module, "onnx_device_problem", lambda device: None)
    with pytest.raises(UserError, match="int8 is for --device cpu"):
        Predictor(str(bundles["news"]), variant="int8", device="gpu")


def test_a_gpu_is_chosen_by_number(bundles, monkeypatch):
    asked = []

    def session(path, options, providers):
        asked.append(providers)
        return real(path, options, providers=["CPUExecutionProvider"])

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(
        UserError, match="CUDA does not start with device 3"
    ):  # ONNX Runtime falls back to the CPU silently
        Predictor(str(bundles["news"]), device="gpu", device_id=3)
    assert asked == [[("CUDAExecutionProvider", {"device_id": 3}), "CPUExecutionProvider"]]


# ------------------------------------------------------------------------------------------------------------ infer.py


@pytest.mark.parametrize(
    ("task", "parts"),
    [("news", ["text: ", "prediction result: ", "level 1 : "]), ("reviews", ["input data: ", "labels: "])],
)
def test_the_lines_of_paddlenlps_application(bundles, trained, run, task, parts):
    where = ("--model_path_prefix", bundles[task] / "float32", "--dataset_dir", trained[task][0])
    status, log = run(infer.main, "--device", "cpu", *where)
    assert status == 0 and "-" * 20 in log
    assert log.count(parts[0]) == len(lines_of(trained[task][0] / "data.txt")) and all(part in log for part in parts)
    assert "," in "".join(line for line in log.splitlines() if parts[1] in line)


def test_perf_scores_as_evaluate_does_and_times(bundles, trained, run, tmp_path):
    import evaluate

    dataset, checkpoint = trained["news"]
    flags = ("--device", "cpu", "--dataset_dir", dataset)
    status, log = run(infer.main, *flags, "--model_path_prefix", bundles["news"], "--perf", "--num_threads", 1)
    assert status == 0
    _, theirs = run(evaluate.main, *flags, "--params_path", checkpoint, "--bad_case_file", tmp_path / "bad_case.txt")
    for kind in ("Micro", "Macro"):
        score = next(line for line in theirs.splitlines() if f"{kind} avg" in line).rpartition(" ")[2]
        assert f"{kind.lower()} f1: {score}" in log
    assert "sample nums: 60, time: " in log and "per text: tokenisation " in log and "prediction result" not in log


def test_flags_that_contradict_each_other(bundles, run, tmp_path):
    where = ("--model_path_prefix", bundles["news"], "--device", "cpu")
    for flags, message in (
        ((), "name the folder of the data, --dataset_dir, or a file of texts, --input_file"),
        (("--input_file", "a.txt", "--perf"), "name the folder of the data"),
        (("--dataset_dir", tmp_path, "--use_fp16", "--use_quantize"), "use one of them"),
        (("--dataset_dir", tmp_path), "data.txt: No such file or directory"),
        (("--input_file", ROOT / "data" / "data.txt", "--multilingual"), "remove --multilingual"),
        (("--input_file", ROOT / "data" / "data.txt", "--use_quantize"), "holds no int8 model"),
    ):
        status, log = run(infer.main, *where, *flags)
        assert status == 2 and message in log, log


def test_an_onnxruntime_that_computes_padding_wrongly_is_refused(bundles, monkeypatch):
    monkeypatch.setattr(onnxruntime, "__version__", "1.20.1")
    with pytest.raises(UserError, match="1.20.1 computes padded rows wrongly; pip install 'onnxruntime>=1.21'"):
        Predictor(str(bundles["news"]))
