"""The search in the index of a served bundle: an index that fails, comes back or is busy."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from batcher import Full
from lookup import Lookup, Unavailable
from metrics import Metrics
from serving import wait_until
from text_cls.cli import set_up_log
from text_cls.search.index import IndexUnavailable


class Index:
    """Stands in for a predictor; its index does what a test sets."""

    def __init__(self, kind):
        self.error, self.asked, self.columns = None, 0, 2
        self.bundle = SimpleNamespace(manifest={"index": {"kind": kind}})

    def probabilities_of(self, outputs):
        self.asked += 1
        if self.error:
            raise self.error
        return outputs


@pytest.fixture
def looking():
    """looking(every=None, kind="milvus", patience=1) -> (an `Index`, its `Lookup`, which looks `every` seconds)."""
    made, end = [], threading.Event()

    def call(every=None, kind="milvus", patience=1.0):
        index = Index(kind)
        one = Lookup(lambda: index, patience, Metrics())
        made.append(one)
        if every:
            thread = threading.Thread(target=lambda: [one.look() for _ in iter(lambda: end.wait(every), True)])
            thread.start()
            made.append(SimpleNamespace(close=thread.join))
        return index, one

    yield call
    end.set()
    for one in made:
        one.close()


def test_after_a_failure_requests_are_refused_at_once_until_the_index_answers_again(looking, capfd):
    set_up_log()
    index, one = looking(every=0.05)
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
    said = ""
    while "The index answers again" not in said:  # written by the other thread
        said += capfd.readouterr().err
    assert said.count("The index does not answer: Milvus at http://host:19530 did not search") == 1
    assert said.count("The index answers again") == 1


def test_an_index_that_is_down_is_noticed_before_any_request(looking):
    index, one = looking(every=0.05)
    wait_until(lambda: index.asked > 2)
    assert one.answers
    index.error = IndexUnavailable("down")
    wait_until(lambda: not one.answers)


def test_an_index_in_memory_is_not_polled(looking):
    index, one = looking(kind="embedded")
    for _ in range(5):
        one.look()
    assert index.asked == 0 and one.answers


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
