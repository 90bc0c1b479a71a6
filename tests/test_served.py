"""A served bundle whose folder changes: what is loaded, what is kept, and what is reported."""

import gc
import json
import shutil
import weakref
from types import SimpleNamespace

import pytest
from bundle_versions import renamed

import served as module
from batcher import Batcher
from metrics import Metrics
from served import Served
from text_cls.bundle import open_bundle, replace_decision
from text_cls.cli import UserError, set_up_log
from text_cls.decision import Decision
from text_cls.files import _exchange
from text_cls.search.index import IndexUnavailable
from text_cls.serving import open_predictor

LIMITS = {"max_texts": 8, "max_characters": 100, "deadline_seconds": 10}
ASKED = ["股票大跌", "足球比赛"]


@pytest.fixture
def serving_of():
    """serving_of(folder, **options) -> `Served`, with a batcher of its own."""
    made = []

    def call(folder, **options):
        set_up_log()
        made.append(Batcher(64))
        metrics = Metrics()
        one = Served("news", open_predictor(str(folder), num_threads=1), made[-1], LIMITS, metrics, **options)
        one.metrics = metrics
        return one

    yield call
    for batcher in made:
        batcher.close(60)


@pytest.fixture
def pair(bundles, tmp_path):
    """(a bundle, another one to replace it with)."""
    first = shutil.copytree(bundles["reviews"], tmp_path / "a")
    return first, renamed(first, tmp_path / "b")


def names(one):
    return one.version.predictor.labels.names


def renewals(one, result):
    return one.metrics.registry.get_sample_value("text_cls_renewals_total", {"bundle": "news", "result": result})


def test_a_bundle_that_was_replaced_answers_from_the_next_look_on(pair, serving_of, capfd):
    first, second = pair
    one, digest = serving_of(first), open_bundle(str(second)).digest
    before = one.version
    one.look()
    assert one.version is before and one.previous is None
    _exchange(str(second), str(first))
    one.look()
    assert names(one)[0] == "B0" and one.version.name == digest[:12] and one.previous is before
    assert one.version.model is not before.model and one.version.model.cost is not None  # it was warmed up
    assert one.version.example[1]["result"].keys() == {"label", "confidence", "label_name"}
    assert renewals(one, "done") == 1
    count = len(names(one))
    assert (
        f"{count} labels, {count} added, {count} removed (bundle news, version {digest[:12]})" in capfd.readouterr().err
    )


def test_thresholds_that_changed_need_no_second_model(pair, serving_of):
    """threshold.py writes decision.json alone: the model in memory is used on."""
    first, _ = pair
    one = serving_of(first)
    before = one.version
    replace_decision(before.predictor.bundle, Decision(0.123))
    one.look()
    assert one.version.predictor.session is before.predictor.session and one.version is not before
    assert one.version.predictor.decision.threshold == 0.123 and before.predictor.decision.threshold != 0.123
    assert one.version.model.highest == before.model.highest


@pytest.mark.parametrize("damage", ["model.onnx", "label.txt", "manifest.json"])
def test_a_damaged_bundle_is_logged_once_and_ignored(pair, serving_of, damage, capfd):
    first, second = pair
    one = serving_of(first)
    before = one.version
    (second / damage).write_bytes((second / damage).read_bytes()[:-20])
    _exchange(str(second), str(first))
    for _ in range(3):
        one.look()
    said = capfd.readouterr().err
    assert one.version is before and one.previous is None and renewals(one, "failed") == 1
    assert said.count("was not loaded; still serving the previous one") == 1 and "Traceback" not in said
    assert damage in said or "JSONDecodeError" in said
    with pytest.raises(UserError):
        one.reload()
    _exchange(str(second), str(first))
    one.look()
    assert one.version is before and names(one)[0] != "B0"


def test_a_damaged_bundle_leaves_the_previous_version_for_a_rollback(pair, serving_of):
    first, second = pair
    one = serving_of(first)
    original = one.version
    _exchange(str(second), str(first))
    one.look()
    (first / "model.onnx").write_bytes(b"")
    one.look()
    assert one.previous is original and names(one)[0] == "B0"


def test_a_copy_in_progress_is_loaded_when_it_is_complete(pair, serving_of, capfd):
    """cp writes manifest.json before model.onnx: the folder is looked at again whenever a file of it changes."""
    first, second = pair
    one = serving_of(first)
    for name in ("label.txt", "manifest.json"):
        shutil.copy(second / name, first / name)
    one.look()
    assert names(one)[0] != "B0"
    for path in second.iterdir():
        shutil.copy(path, first / path.name)
    one.look()
    assert names(one)[0] == "B0"


def test_a_rollback_brings_the_version_before_back_and_a_touched_file_does_not_undo_it(pair, serving_of):
    first, second = pair
    one = serving_of(first)
    with pytest.raises(UserError, match="bundle news has no previous version in memory"):
        one.rollback()
    original = one.version
    _exchange(str(second), str(first))
    one.look()
    newer = one.version
    one.rollback()
    assert one.version is original and one.previous is newer
    (first / "label.txt").touch()
    one.look()
    assert one.version is original
    assert one.reload() is True and names(one)[0] == "B0"
    assert one.reload() is False
    one.rollback()
    one.rollback()
    assert names(one)[0] == "B0"
    replace_decision(open_bundle(str(first)), Decision(0.2))  # another bundle: loaded although there was a rollback
    one.rollback()
    one.look()
    assert one.version.predictor.decision.threshold == 0.2


def test_no_more_than_two_versions_are_in_memory(pair, serving_of, monkeypatch):
    """The one before is freed when the files of the next are verified, before its model is loaded."""
    first, second = pair
    one, alive = serving_of(first), []
    sessions = [weakref.ref(one.version.predictor.session)]
    real = type(one.version.predictor)._open_session

    def counted(predictor, *args):
        gc.collect()
        alive.append(sum(session() is not None for session in sessions))
        real(predictor, *args)
        sessions.append(weakref.ref(predictor.session))

    monkeypatch.setattr(type(one.version.predictor), "_open_session", counted)
    for _ in range(4):
        _exchange(str(second), str(first))
        one.look()
    assert alive == [1] * 4
    gc.collect()
    assert sum(session() is not None for session in sessions) == 2


def test_without_keep_previous_only_one_version_stays(pair, serving_of):
    first, second = pair
    one = serving_of(first, keep_previous=False)
    session = weakref.ref(one.version.predictor.session)
    _exchange(str(second), str(first))
    one.look()
    gc.collect()
    assert session() is None and one.previous is None
    with pytest.raises(UserError, match="no previous version in memory"):
        one.rollback()


def test_labels_of_another_kind_are_refused_since_clients_would_need_another_route(pair, bundles, serving_of, capfd):
    first, _ = pair
    one = serving_of(first)
    shutil.rmtree(first)
    shutil.copytree(bundles["news"], first)
    one.look()
    assert one.task == "multi_label" == one.version.task
    assert "has labels of another kind (hierarchical, not multi_label)" in capfd.readouterr().err


def test_another_encoder_of_a_retrieval_bundle_is_loaded(retrieval, serving_of, tmp_path):
    folder = shutil.copytree(retrieval["news", "labels"], tmp_path / "bundle")
    one = serving_of(folder)
    shutil.rmtree(folder)
    shutil.copytree(retrieval["reviews", "labels"], folder)
    one.look()
    ours = open_predictor(str(folder), num_threads=1)
    assert [found for found, _ in one.version.predictor.predict(ASKED)] == [found for found, _ in ours.predict(ASKED)]


def test_a_folder_that_vanishes_is_waited_for(pair, serving_of, capfd):
    first, _ = pair
    one = serving_of(first)
    before = one.version
    moved = first.rename(first.parent / "moved")
    one.look()
    with pytest.raises(UserError, match="FileNotFoundError"):
        one.reload()
    moved.rename(first)
    one.look()
    assert one.version is before


# ------------------------------------------------------------------------- an index in Milvus, which may not answer


class Changing:
    """Stands in for the predictor of a retrieval bundle; its index does what a test sets."""

    kind, session, columns, max_seq_length, longest = "retrieval", None, 2, 8, None

    def __init__(self, folder, number):
        self.error, self.asked, self.number = None, 0, number
        self.labels = SimpleNamespace(names=["a"])
        manifest = {"index": {"kind": "milvus"}, "number": number, "longest_input": None}
        self.bundle = SimpleNamespace(folder=str(folder), manifest=manifest, digest=f"{number:064}", labels=self.labels)

    def probabilities_of(self, outputs):
        self.asked += 1
        if self.error:
            raise self.error
        return outputs


@pytest.fixture
def changing(tmp_path, monkeypatch):
    """(a `Served` of a `Changing`, function that writes the next manifest and returns its `Changing`)."""
    monkeypatch.setattr(Served, "_ready", lambda self, predictor, rounds, log=False: module.Version(predictor, None))
    first, made = Changing(tmp_path, 0), []

    def write(number):
        made.append(Changing(tmp_path, number))
        (tmp_path / "manifest.json").write_text(json.dumps(made[-1].bundle.manifest), encoding="utf-8")
        return made[-1]

    write(0)
    reads = []
    Changing.reopened = lambda self, verified: reads.append(1) or made[-1]
    yield Served("news", first, None, LIMITS, Metrics()), write, reads
    del Changing.reopened


def test_a_changed_bundle_whose_milvus_is_down_is_read_once_and_loaded_when_it_answers(changing, capfd):
    """Opening a bundle hashes all its files: the model, and perhaps gigabytes of vectors."""
    set_up_log()
    one, write, reads = changing
    one.look()
    fresh = write(1)
    fresh.error = IndexUnavailable("Milvus at http://host:19530 does not answer")
    for _ in range(4):
        one.look()
    assert len(reads) == 1 and fresh.asked == 4 and one.version.predictor is not fresh
    fresh.error = None
    one.look()
    assert one.version.predictor is fresh and len(reads) == 1
    assert capfd.readouterr().err.count("was not loaded") == 1
    with pytest.raises(UserError, match="is in Milvus, which keeps no earlier state of it"):
        one.rollback()


def test_a_folder_replaced_while_it_is_read_is_read_again(changing):
    """Otherwise the labels of one change could be combined with the index of the next."""
    one, write, reads = changing
    half, later = write(1), []

    def try_out(predictor):
        if predictor is half:
            later.append(write(2))

    one.lookup.try_out = try_out
    one.look()
    assert one.version.predictor.number == 0
    one.look()
    assert one.version.predictor is later[0] and len(reads) == 2
