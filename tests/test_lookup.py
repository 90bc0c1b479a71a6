"""The search in the index of a served bundle: an index that fails, comes back, changes or is busy."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

import lookup
from batcher import Full
from lookup import Lookup, Unavailable
from metrics import Metrics
from serving import wait_until
from text_cls.cli import set_up_log
from text_cls.search.index import IndexUnavailable


class Index:
    """Stands in for a predictor; its index does what a test sets."""

    def __init__(self, folder, kind="milvus"):
        self.error, self.asked, self.labels = None, 0, SimpleNamespace(names=["a"])
        self.columns, self.bundle = 2, SimpleNamespace(folder=str(folder), manifest={"index": {"kind": kind}})

    def probabilities_of(self, outputs):
        self.asked += 1
        if self.error:
            raise self.error
        return outputs


@pytest.fixture
def looking(tmp_path, monkeypatch):
    """looking(look=3600, **options) -> (an `Index`, its `Lookup`, which checks the folder every `look` seconds)."""
    made = []

    def call(look=3600, patience=1.0, **options):
        monkeypatch.setattr(lookup, "LOOK_SECONDS", look)
        index = Index(tmp_path, **options)
        made.append(Lookup(index, patience, Metrics()))
        return index, made[-1]

    yield call
    for one in made:
        one.close()


def test_after_a_failure_requests_are_refused_at_once_until_the_index_answers_again(looking, capfd):
    set_up_log()
    index, one = looking(look=0.05)
    index.error = IndexUnavailable("Milvus at http://host:19530 did not search")
    with pytest.raises(Unavailable, match="the index of labels does not answer"):
        asyncio.run(one.run(index.probabilities_of, 1))
    with pytest.raises(Unavailable):
        one.check_alive()
    never = SimpleNamespace(called=False)
    with pytest.raises(Unavailable):  # it does not reach the index
        asyncio.run(one.run(lambda: setattr(never, "called", True)))
    assert not never.called
    asked = index.asked
    wait_until(lambda: index.asked > asked + 3)
    index.error = None
    wait_until(lambda: one.answers)
    assert asyncio.run(one.run(index.probabilities_of, 7)) == 7
    said = capfd.readouterr().err
    assert said.count("The index does not answer: Milvus at http://host:19530 did not search") == 1
    assert said.count("The index answers again") == 1


def test_an_index_that_is_down_is_noticed_before_any_request(looking):
    index, one = looking(look=0.05)
    wait_until(lambda: index.asked > 2)
    assert one.answers
    index.error = IndexUnavailable("down")
    wait_until(lambda: not one.answers)


@pytest.fixture
def looks(monkeypatch):
    """Grows each time that a `Lookup` looks at its manifest."""
    seen, real = [], lookup._stamp
    monkeypatch.setattr(lookup, "_stamp", lambda path: (seen.append(path), real(path))[1])
    return seen


def test_an_index_in_memory_is_not_polled(looking, looks):
    index, one = looking(look=0.01, kind="embedded")
    wait_until(lambda: len(looks) > 5)
    assert index.asked == 0 and one.answers


def test_a_broken_change_is_reported_once(looking, looks, tmp_path, capfd):
    set_up_log()
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    index, one = looking(look=0.01, kind="embedded")
    said = ""
    while "was not loaded" not in said:
        said += capfd.readouterr().err
    seen = len(looks)
    wait_until(lambda: len(looks) > seen + 5)
    assert (said + capfd.readouterr().err).count("was not loaded") == 1 and one.predictor is index


def test_a_folder_replaced_while_it_is_read_is_read_again(looking, tmp_path):
    """Otherwise the labels of one change could be combined with the index of the next."""
    manifest, read = tmp_path / "manifest.json", []
    manifest.write_text("{}", encoding="utf-8")
    index, one = looking(look=0.05, kind="embedded")
    half, whole = Index(tmp_path, "embedded"), Index(tmp_path, "embedded")

    def reopened():
        read.append(len(read))
        if len(read) == 1:
            manifest.write_text('{"changed": "again"}', encoding="utf-8")
            return half
        return whole

    index.reopened = half.reopened = reopened
    wait_until(lambda: one.predictor is not index)
    assert one.predictor is whole and len(read) == 2 and half.asked == whole.asked == 1


def test_an_index_may_become_one_of_the_other_kind(looking, tmp_path):
    """Into Milvus: it is then watched. Out of a Milvus that is down: then it answers."""
    manifest = tmp_path / "manifest.json"
    index, one = looking(look=0.05, kind="embedded")
    remote, local = Index(tmp_path, "milvus"), Index(tmp_path, "embedded")
    index.reopened, remote.reopened = lambda: remote, lambda: local
    manifest.write_text("{}", encoding="utf-8")
    wait_until(lambda: one.predictor is remote and remote.asked > 3)
    remote.error = IndexUnavailable("down")
    wait_until(lambda: not one.answers)
    manifest.write_text('{"another": "change"}', encoding="utf-8")
    wait_until(lambda: one.predictor is local)
    assert one.answers and asyncio.run(one.run(local.probabilities_of, 7)) == 7
    with pytest.raises(Unavailable):  # a request that began before, in the index that was replaced
        asyncio.run(one.run(remote.probabilities_of, 7))
    wait_until(lambda: one.answers)


def test_a_change_that_an_unavailable_index_kept_from_loading_is_loaded_later(looking, tmp_path, capfd):
    set_up_log()
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    index, one = looking(look=0.05)
    whole, tries = Index(tmp_path), []

    def reopened():
        tries.append(1)
        if len(tries) < 4:
            raise IndexUnavailable("Milvus at http://host:19530 does not answer")
        return whole

    index.reopened = reopened
    wait_until(lambda: one.predictor is whole)
    assert len(tries) == 4 and capfd.readouterr().err.count("was not loaded") == 1


def test_a_changed_bundle_whose_milvus_is_down_is_read_once(looking, tmp_path):
    """Opening a bundle hashes all its files: the model, and perhaps gigabytes of vectors."""
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}", encoding="utf-8")
    index, one = looking(look=0.02)
    first, second, reads = Index(tmp_path), Index(tmp_path), []
    first.error = second.error = IndexUnavailable("down")
    index.reopened = lambda: reads.append(1) or (first if len(reads) == 1 else second)
    wait_until(lambda: first.asked > 3)
    assert len(reads) == 1
    manifest.write_text('{"another": "change"}', encoding="utf-8")
    wait_until(lambda: second.asked > 3)
    assert len(reads) == 2
    second.error = None
    wait_until(lambda: one.predictor is second)


def test_a_request_that_would_wait_too_long_for_a_search_is_refused(looking):
    index, one = looking(kind="embedded", patience=0.5)

    async def ask_together():
        await one.run(time.sleep, 0.3)
        tasks = [asyncio.ensure_future(one.run(time.sleep, 0.3)) for _ in range(30)]
        await asyncio.sleep(0)
        with pytest.raises(Full) as full:
            one.check()
        for task in tasks[2:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        one.check()
        return full.value.retry_after

    assert asyncio.run(ask_together()) >= 1


def test_a_milvus_is_searched_by_several_at_a_time(looking):
    _, one = looking()
    both = threading.Barrier(2, timeout=20)

    async def ask_together():
        await asyncio.gather(one.run(both.wait), one.run(both.wait))

    asyncio.run(ask_together())
