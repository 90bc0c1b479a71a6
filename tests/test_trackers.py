"""text_cls/trackers.py: what --tracker records, read back from what it wrote"""

import importlib
import json
import os
import struct
from importlib.util import find_spec

import pytest
from conftest import lines_of, load_script

from text_cls import trackers
from text_cls.cli import PACKAGES, UserError
from text_cls.neural.run_file import read_run
from text_cls.trackers import KINDS, Trackers, tracker_names


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """MLflow's settings are the test's own, and the trackers' are put back."""
    monkeypatch.setenv("CRC32C_SW_MODE", "auto")  # set by a package of that name, which tensorboardX imports
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in trackers.MLFLOW_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def needs(kind):
    """The package of a tracker; without it the test is skipped, or fails if CI should have it."""
    if not find_spec(KINDS[kind].package) and not os.environ.get("CI"):
        pytest.skip(f"{KINDS[kind].package}: pip install -r requirements/trackers.txt")
    return importlib.import_module(KINDS[kind].package)


def events(folder):
    """({tag: [(step, value)]}, {tag: text}) of the event files in a folder."""
    from tensorboardX.proto.event_pb2 import Event

    scalars, texts = {}, {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += length + 16
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
                else:
                    texts[value.tag] = value.tensor.string_val[0].decode("utf-8")
    return scalars, texts


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder for --tracker_dir whose MLflow store is made once: its tables take a while."""
    needs("mlflow")
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in trackers.MLFLOW_ENVIRONMENT.items():
            patch.setenv(name, value)
        Trackers(["mlflow"], str(folder), "first").close()
    return folder


def mlflow_run(folder):
    """The client of a local store, and its last run."""
    client = needs("mlflow").MlflowClient(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("text-classification")
    return client, client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])[0]


def test_tensorboard_has_the_curves_of_the_log_the_arguments_and_the_card(news, train, tmp_path):
    needs("tensorboard")
    flags = ("--tracker", "tensorboard", "--tracker_dir", tmp_path / "runs", "--epochs", 2, "--test_file", "dev.txt")
    status, log, folder = train(news, *flags)
    assert status == 0, log
    [path] = (tmp_path / "runs").iterdir()
    assert path.name.startswith("checkpoint-")
    scalars, texts = events(path)
    assert [step for step, _ in scalars["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert len(scalars["train/learning_rate"]) == 6 and scalars["train/learning_rate"][-1][1] == 0
    history = read_run(str(folder))["progress"]["history"]
    for name in ("loss", "micro_f1", "macro_f1", "accuracy"):
        assert [value for _, value in scalars[f"dev/{name}"]] == pytest.approx([entry[name] for entry in history])
    best = max(entry["macro_f1"] for entry in history)
    assert scalars["best/dev/macro_f1"] == [(6, pytest.approx(best, abs=1e-5))]
    assert scalars["best/test/macro_f1"][0][1] == pytest.approx(best, abs=1e-5)
    arguments, card = (texts[f"{name}/text_summary"] for name in ("arguments", "model card"))
    assert "| epochs | 2 |" in arguments and card == (folder / "README.md").read_text(encoding="utf-8")


def test_mlflow_has_the_same_in_a_local_store(news, train, tmp_path, store):
    assert mlflow_run(store)[1].info.status == "KILLED"  # the fixture's did not finish
    status, log, folder = train(news, "--tracker", "mlflow", "--tracker_dir", store, "--epochs", 2)
    assert status == 0, log
    client, run = mlflow_run(store)
    assert run.info.status == "FINISHED" and run.data.params["epochs"] == "2"
    history = read_run(str(folder))["progress"]["history"]
    found = client.get_metric_history(run.info.run_id, "dev/macro_f1")
    assert [metric.value for metric in found] == pytest.approx([entry["macro_f1"] for entry in history])
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 6
    assert "best/dev/macro_f1" in run.data.metrics
    path = client.download_artifacts(run.info.run_id, "README.md", str(tmp_path))
    assert lines_of(path) == lines_of(folder / "README.md")


def test_retrieval_and_several_trackers(run, news, tiny_model, tmp_path, store):
    needs("tensorboard")
    flags = "--device cpu --max_seq_length 32 --epochs 1 --output_emb_size 0 --log_steps 1".split()
    files = ("--train_set_file", news / "train.txt", "--corpus_file", news / "label.txt")
    files += ("--similar_text_pair_file", news / "dev.txt", "--model_name_or_path", tiny_model)
    where = ("--save_dir", tmp_path / "model", "--tracker_dir", store, "--tracker", ",".join(KINDS))
    status, log = run(load_script("retrieval_based/train.py").main, *flags, *files, *where)
    assert status == 0, log
    assert "dev/recall_at_1" in mlflow_run(store)[1].data.metrics
    [folder] = store.glob("model-*")
    assert "dev/recall_at_1" in events(folder)[0] and list(folder.glob("vdlrecords.*"))


def test_few_shot(train_prompt, tmp_path):
    needs("tensorboard")
    flags = "--do_train --max_steps 4 --logging_steps 1 --eval_steps 2 --tracker tensorboard --tracker_dir".split()
    status, log = train_prompt(*flags, tmp_path / "runs")
    assert status == 0, log
    [folder] = (tmp_path / "runs").iterdir()
    scalars, texts = events(folder)
    assert len(scalars["train/loss"]) == 4 and len(scalars["dev/macro_f1_score"]) == 2
    assert texts["model card/text_summary"] == (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_without_the_flag_nothing_is_recorded(news, train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train(news)[0] == 0 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", KINDS)
def test_a_tracker_that_is_not_installed_is_reported_before_the_training(news, train, monkeypatch, name):
    package = KINDS[name].package
    monkeypatch.setitem(__import__("sys").modules, package, None)
    status, log, folder = train(news, "--tracker", name)
    assert status == 2 and f"--tracker {name}: " in log and PACKAGES[package] in log, log
    assert not folder.exists() and "Traceback" not in log


class Broken:
    """A tracker that fails at its third value, as one whose server has gone."""

    package = "json"

    def __init__(self, folder, root):
        self.values = 0

    def arguments(self, values):
        pass

    def scalar(self, tag, value, step):
        self.values += 1
        if self.values == 3:
            raise ConnectionError("server gone\nmore")
        assert self.values < 3, "it is left out after its failure"


def test_a_tracker_that_fails_is_left_out_with_one_warning(news, train, tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.KINDS, "tensorboard", Broken)
    status, log, folder = train(news, "--tracker", "tensorboard", "--tracker_dir", tmp_path / "runs")
    assert status == 0 and (folder / "README.md").exists()
    assert log.count("the run continues without it: ConnectionError: server gone") == 1, log


def test_a_server_that_cannot_be_reached_is_an_error_before_the_training(news, train, tmp_path, monkeypatch):
    needs("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    status, log, folder = train(news, "--tracker", "mlflow", "--tracker_dir", tmp_path / "runs")
    assert status == 2 and "--tracker mlflow: it cannot be opened: " in log and not folder.exists(), log


def test_other_processes_record_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    other = Trackers(["tensorboard"], str(tmp_path / "runs"), "run")
    other.scalar("a", 1, 1)
    other.close()
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "runs").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="--tracker visualdl: it cannot be opened: "):
        Trackers(["visualdl"], str(tmp_path / "runs"), "run")


def test_the_flag_in_a_config_file(run, tmp_path, news):
    import train as script

    path = tmp_path / "run.json"
    path.write_text(json.dumps({"tracker": "tensorboard,mlflow,tensorboard"}), encoding="utf-8")
    assert script.parse_args(["--dataset_dir", str(news), "--config", str(path)]).tracker == ["tensorboard", "mlflow"]
    status, log = run(script.main, "--dataset_dir", news, "--tracker", "tensorboard,wandb")
    assert status == 2 and "must be of tensorboard, mlflow, visualdl, several joined by commas, not 'wandb'" in log
    assert tracker_names("mlflow") == ["mlflow"] and os.listdir(tmp_path)
