import os
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT, command_line
from families import FAMILIES

from text_cls.cli import UserError
from text_cls.neural import compat, model
from text_cls.neural.compat import import_paddle
from text_cls.neural.model import (
    encode,
    load_pretrained,
    longest_input,
    model_name_problem,
    paddle_device_problem,
    predict_features,
    predict_logits,
)

paddle = import_paddle()

TEXTS = ["足球", "台风登陆，学校停课一天", "", "公司裁员三成，股价当日大跌，董事长辞职，原因不明", "😀 Café ABC123"]

# ------------------------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_gets_the_same_logits_alone_and_beside_longer_ones(families, family):
    """Padding must not be attended to. PaddleNLP's ERNIE-M attends to it, and not to [CLS]."""
    network, tokenizer = families[family]
    together = predict_logits(network, encode(TEXTS, tokenizer, network, 64), batch_size=8)
    alone = [predict_logits(network, encode([text], tokenizer, network, 64), batch_size=1)[0] for text in TEXTS]
    assert together.shape == (5, 5) and together.dtype == np.float32
    assert np.abs(together - np.array(alone)).max() < 1e-5
    assert np.ptp(together, axis=0).max() > 0.1  # and different texts have different logits


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_cut_and_counted(families, family):
    network, tokenizer = families[family]
    whole = encode(TEXTS, tokenizer, network, 64)
    limit = int(sorted(whole.lengths)[-2])
    cut = encode(TEXTS, tokenizer, network, limit)
    assert whole.truncated == 0 and cut.truncated == 1 and cut.lengths.max() == limit
    expected = [tokenizer(text, max_length=limit, truncation=True)["input_ids"] for text in TEXTS]
    assert cut.columns["input_ids"].tolist() == sum(expected, [])


def test_families_are_complete_folders(family_folders):
    assert all(model_name_problem(str(folder)) is None for folder in family_folders.values())


def test_longest_input(families):
    assert longest_input(families["ernie"][0].config) == 64
    assert longest_input(families["ernie_m"][0].config) == 62
    network, tokenizer = families["ernie_m"]
    predict_logits(network, encode(["足球" * 100], tokenizer, network, 62), 1)
    with pytest.raises((ValueError, IndexError)):
        predict_logits(network, encode(["足球" * 100], tokenizer, network, 63), 1)


def test_predicting_keeps_the_mode_of_the_model(families):
    network, tokenizer = families["ernie"]
    encoded = encode(TEXTS, tokenizer, network, 64)
    network.train()
    first, second = predict_logits(network, encoded, 2), predict_logits(network, encoded, 2)
    assert (first == second).all() and network.training  # without dropout, which is then on again
    network.eval()
    predict_logits(network, encoded, 2)
    assert not network.training


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_input_of_the_last_layer(families, family):
    network, tokenizer = families[family]
    encoded = encode(TEXTS, tokenizer, network, 64)
    network.train()
    features = predict_features(network, encoded, 2)
    assert network.training  # and without dropout, or the product below would not be the logits
    network.eval()
    head = network.classifier.out_proj if family == "roberta" else network.classifier
    assert features.shape == (5, 32) and features.dtype == np.float32
    logits = features @ head.weight.numpy() + head.bias.numpy()
    assert np.abs(logits - predict_logits(network, encoded, 8)).max() < 1e-5
    assert not head._forward_pre_hooks


def test_a_head_of_another_size_is_replaced(families, tmp_path):
    network, tokenizer = families["ernie"]
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    same, _ = load_pretrained(str(tmp_path), 5)
    other, _ = load_pretrained(str(tmp_path), 7)
    assert (same.classifier.weight.numpy() == network.classifier.weight.numpy()).all()
    assert other.classifier.weight.shape == [32, 7]
    assert (other.ernie.pooler.dense.weight.numpy() == network.ernie.pooler.dense.weight.numpy()).all()


def test_missing_weights_are_reported_and_a_new_classifier_is_not(tiny_model, tmp_path, capfd):
    load_pretrained(str(tiny_model), 5)
    assert capfd.readouterr().err == ""
    folder = tmp_path / "partial"
    shutil.copytree(tiny_model, folder)
    weights = paddle.load(str(folder / "model_state.pdparams"))
    del weights["encoder.layers.0.linear1.weight"]
    weights["cls.predictions.bias"] = paddle.zeros([3])
    paddle.save(weights, str(folder / "model_state.pdparams"))
    load_pretrained(str(folder), 5)
    said = capfd.readouterr().err
    assert "newly initialized" in said and "encoder.layers.0.linear1.weight" in said
    assert "were not used" not in said


# ------------------------------------------------------------------------------------------- names, folders, network


def test_device_problems():
    assert paddle_device_problem("cpu") is None
    for device in ("gpu", "gpu:0", "xpu", "npu"):
        assert "is built without" in paddle_device_problem(device) and "use --device cpu" in paddle_device_problem(
            device
        )
    for device in ("cuda", "gpu:x", "cpu:", ""):
        assert "expected cpu, gpu, xpu or npu" in paddle_device_problem(device)


def test_device_problems_of_a_gpu_build(monkeypatch):
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 0)
    assert paddle_device_problem("gpu") == "--device gpu: no gpu found on this machine; use --device cpu"
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 2)
    assert paddle_device_problem("gpu") is None and paddle_device_problem("gpu:1") is None
    assert "has 2 gpu, numbered from 0; use --device gpu:1" in paddle_device_problem("gpu:2")


def test_model_folder_problems(tiny_model, tmp_path):
    assert model_name_problem("ernie-3.0-medium-zh") is None and model_name_problem(str(tiny_model)) is None
    assert "no such folder" in model_name_problem("./nowhere")
    assert "no such folder" in model_name_problem("/models/ernie/3.0")
    for file in ("config.json", "model_state.pdparams", "tokenizer_config.json"):
        folder = tmp_path / file
        shutil.copytree(tiny_model, folder)
        (folder / file).unlink()
        assert f"the folder has no {file}. A model's folder holds" in model_name_problem(str(folder))
    prompted = shutil.copytree(tiny_model, tmp_path / "prompted")
    (prompted / "template_config.json").touch()
    assert "a prompt model of few-shot/train.py; name the" in model_name_problem(str(prompted))


def test_damaged_weights_are_reported(tiny_model, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model, folder)
    (folder / "model_state.pdparams").write_bytes(b"half a download")
    with pytest.raises(UserError, match="--model_name .*damaged: the folder does not load"):
        load_pretrained(str(folder), 5)


def no_network(monkeypatch):
    import requests

    def refuse(*_, **__):
        raise requests.ConnectionError("Failed to resolve 'bj.bcebos.com'")

    monkeypatch.setattr(requests.Session, "request", refuse)


def test_a_failed_download_says_how_to_get_the_model(monkeypatch):
    no_network(monkeypatch)
    with pytest.raises(UserError) as error:
        load_pretrained("ernie-3.0-medium-zh", 5)
    message = str(error.value)
    assert "could not be downloaded" in message and "Failed to resolve 'bj.bcebos.com'" in message
    assert "AutoModel.from_pretrained" not in message and ".save_pretrained('ernie-3.0-medium-zh')" in message
    assert "--model_name ./ernie-3.0-medium-zh" in message
    assert "https://bj.bcebos.com/paddlenlp/models/transformers/ernie_3.0/ernie_3.0_medium_zh.pdparams" in message
    assert "ernie_3.0_medium_zh_vocab.txt as ernie_3.0_medium_zh_vocab.txt" in message
    assert (
        "data/make_tiny_model.py" in message and "data/make_pretrained_model.py, then --model_name data/e5" in message
    )


def test_a_mistyped_name_is_recognised(monkeypatch):
    no_network(monkeypatch)
    with pytest.raises(UserError, match="did you mean 'ernie-3.0-medium-zh'"):
        load_pretrained("ernie-3.0-medum-zh", 5)


def load_elsewhere(name, home, **environment):
    """Calls load_pretrained in a process with its own cache."""
    code = (
        f"from text_cls.neural.model import load_pretrained; print(load_pretrained({name!r}, 5)[0].config.hidden_size)"
    )
    environment = {**os.environ, "PPNLP_HOME": str(home), "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        command_line("-c", code), cwd=home, env=environment, capture_output=True, text=True, encoding="utf-8"
    )


def test_a_named_model_is_downloaded_once(file_server, tiny_model, tmp_path):
    """From a local server named by PPNLP_ENDPOINT instead of PaddleNLP's, like a mirror behind a firewall."""
    address, folder = file_server
    shutil.copytree(tiny_model, folder / "models" / "community" / "team" / "small")
    home = tmp_path / "home"
    home.mkdir()
    answer = load_elsewhere("team/small", home, PPNLP_ENDPOINT=address)
    assert answer.returncode == 0 and answer.stdout.split()[-1] == "32", answer.stderr
    shutil.rmtree(folder / "models")
    again = load_elsewhere("team/small", home, PPNLP_ENDPOINT=address)
    assert again.returncode == 0 and again.stdout.split()[-1] == "32", again.stderr
    missing = load_elsewhere("team/other", home, PPNLP_ENDPOINT=address)
    assert missing.returncode == 1 and "UserError: --model_name team/other: it is not on this machine" in missing.stderr


def test_files_put_into_the_cache_by_hand_are_used(tmp_path, tiny_model):
    """As the message says to do with a browser, by the names it prints; a model of nano's size with random weights."""
    from paddlenlp.transformers import ErnieConfig, ErnieModel

    home = tmp_path / "home"
    cache = home / "models" / "ernie-3.0-nano-zh"
    cache.mkdir(parents=True)
    config = ErnieConfig(**ErnieModel.pretrained_init_configuration["ernie-3.0-nano-zh"])
    paddle.save(ErnieModel(config).state_dict(), str(cache / "model_state.pdparams"))
    shutil.copy(tiny_model / "vocab.txt", cache / "ernie_3.0_nano_zh_vocab.txt")
    answer = load_elsewhere("ernie-3.0-nano-zh", home)
    assert answer.returncode == 0 and answer.stdout.split()[-1] == "312", answer.stderr

    (cache / "model_state.pdparams").write_bytes(b"half a download")
    damaged = load_elsewhere("ernie-3.0-nano-zh", home)
    assert f"Remove the folder {cache} and run again" in damaged.stderr


# ------------------------------------------------------------------------------------------------------- environment


def test_environment_is_set_before_paddle_and_keeps_the_users_variables(monkeypatch):
    monkeypatch.delitem(compat.sys.modules, "paddle")
    launcher = ("PADDLE_TRAINER_ENDPOINTS", "PADDLE_CURRENT_ENDPOINT")
    for name in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", compat.PIR, *launcher):
        monkeypatch.setenv(name, "")  # so that monkeypatch undoes what is set below
        monkeypatch.delenv(name)
    monkeypatch.setattr(compat.os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(compat, "_processor_is_amd", lambda: True)
    said = compat.prepare_environment()
    assert os.environ["OMP_NUM_THREADS"] == "8" and os.environ["MKL_DEBUG_CPU_TYPE"] == "5" and len(said) == 2
    assert os.environ[compat.PIR] == "0"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_DEBUG_CPU_TYPE")
    monkeypatch.setattr(compat, "_processor_is_amd", lambda: False)
    assert compat.prepare_environment() == []
    assert os.environ["OMP_NUM_THREADS"] == "3" and "MKL_DEBUG_CPU_TYPE" not in os.environ


def test_processes_of_the_launcher_share_the_cores(monkeypatch):
    """The launcher sets OMP_NUM_THREADS=1 for them, which is not the user's choice."""
    monkeypatch.delitem(compat.sys.modules, "paddle")
    monkeypatch.setattr(compat.os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(compat.PIR, "0")
    monkeypatch.setenv("PADDLE_CURRENT_ENDPOINT", "10.0.0.1:6001")
    monkeypatch.setenv("PADDLE_TRAINER_ENDPOINTS", "10.0.0.1:6001,10.0.0.1:6002,10.0.0.2:6001,10.0.0.2:6002")
    compat.prepare_environment()
    assert os.environ["OMP_NUM_THREADS"] == "4"


def test_names_of_the_guide_are_known_to_paddlenlp():
    from paddlenlp.transformers import ErnieMModel, ErnieModel

    known = {*ErnieModel.pretrained_init_configuration, *ErnieMModel.pretrained_init_configuration}
    assert len(model.MODEL_NAMES) == 11 and set(model.MODEL_NAMES) <= known
