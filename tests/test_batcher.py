"""Dynamic batching without HTTP: a model that adds up tokens, and one whose runs wait for a signal."""

import gc
import itertools
import math
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher import Batcher, Closed, Full, Model, Speed
from text_cls.batching import cheapest_batches


def model(rows):
    """Two outputs of a row: its length and its sum."""
    return np.array([[len(ids), ids.sum()] for ids in rows], dtype=np.float32)


def row(length, value=1):
    return np.full(length, value, dtype=np.int32)


class Steps:
    """A model whose runs wait for `go`, and that records the rows of each run."""

    def __init__(self, fails=()):
        self.runs, self.fails, self._go, self._begun = [], fails, threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, rows):
        self.runs.append([int(ids[0]) for ids in rows])
        self._begun.release()
        self._go.acquire()
        if any(int(ids[0]) in self.fails for ids in rows):
            raise ValueError("text with number 13")
        return model(rows)

    def wait_for_run(self):
        assert self._begun.acquire(timeout=60)

    def go(self, count=1):
        for _ in range(count):
            self._go.release()


class OneModel(Batcher):
    """A batcher of a single model, which its methods need not be told."""

    def __init__(self, run, *args, **options):
        super().__init__(*args, **options)
        self.model = Model(run, 2)

    def submit(self, rows, *args, **options):
        return super().submit(self.model, rows, *args, **options)

    def check(self, tokens=0, patience=math.inf, model=None):
        super().check(tokens, patience, self.model)

    def warm_up(self, row, rounds):
        return super().warm_up(self.model, row, rounds)


@pytest.fixture
def batcher():
    """batcher(run, **options) -> OneModel, closed at the end."""
    made = []

    def make(run=model, **options):
        made.append(OneModel(run, **options))
        return made[-1]

    yield make
    for one in made:
        if isinstance(one.model.run, Steps):
            one.model.run.go(1000)
        one.close(60)
        assert not one._thread.is_alive()


REQUESTS = st.lists(st.tuples(st.lists(st.integers(1, 300), max_size=12), st.none() | st.integers(1, 5)), max_size=20)


@settings(deadline=None, max_examples=60)
@given(requests=REQUESTS, batching=st.booleans(), budget=st.sampled_from([1, 64, 1024]))
def test_every_request_is_answered_once_in_order_and_as_if_alone(requests, batching, budget):
    runs = []

    def run(rows):
        runs.append([len(ids) for ids in rows])
        return model(rows)

    batcher = OneModel(run, budget, queue_tokens=10**9, batching=batching)
    rows = [[row(length, value=k + i) for i, length in enumerate(lengths)] for k, (lengths, _) in enumerate(requests)]
    with ThreadPoolExecutor(4) as pool:
        futures = list(pool.map(batcher.submit, rows, [size for _, size in requests]))
    for own, future in zip(rows, futures):
        answer = future.result(60)
        assert answer.shape == (len(own), 2) and answer.dtype == np.float32
        if own:
            assert (answer == model(own)).all()
    batcher.close(60)
    assert batcher.tokens == batcher.texts == 0 and not batcher._busy
    assert sorted(n for lengths in runs for n in lengths) == sorted(n for lengths, _ in requests for n in lengths)
    for lengths in runs:
        assert len(lengths) == 1 or len(lengths) * max(lengths) <= budget  # padding included


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 40), max_size=9), seed=st.integers(0, 100))
def test_batches_are_the_cheapest_possible(lengths, seed):
    """Compared with all ways to split the rows, sorted by length, into batches no larger than the largest run."""
    cost = np.cumsum(np.random.default_rng(seed).integers(0, 9, 33)) + 5.0
    lengths = np.array(lengths, dtype=np.int64)

    def price(batches):
        sizes = [len(rows) * max(1, max(rows)) for rows in batches]
        fits = all(size <= 32 or len(rows) == 1 for size, rows in zip(sizes, batches))
        return sum(cost[min(size, 32)] for size in sizes) if fits else np.inf

    falling = sorted(lengths, reverse=True)
    prices = [np.inf] if falling else [0]
    for cuts in itertools.product((False, True), repeat=max(0, len(falling) - 1)) if falling else ():
        ends = [0, *(i for i, cut in enumerate(cuts, 1) if cut), len(falling)]
        prices.append(price([falling[a:b] for a, b in itertools.pairwise(ends)]))
    batches = cheapest_batches(lengths, cost)
    assert price([lengths[rows] for rows in batches]) == min(prices)
    assert sorted(np.concatenate([[], *batches])) == list(range(len(lengths)))


def test_costs_are_measured(batcher):
    ours = batcher(lambda rows: time.sleep(1e-4 * len(rows) * len(rows[0])), batch_tokens=100)
    costs = ours.warm_up(row(64), rounds=2)
    assert list(costs) == [8, 16, 32, 64] and costs[64] >= 64e-4
    assert len(ours.model.cost) == 101 and ours.model.cost[64] == costs[64] == ours.model.cost[100]


@pytest.mark.parametrize(
    ("seconds", "costs"),
    [
        ([[2, 7, 8, 16], [9, 3, 5, 9], [8, 8, 8, 8]], [2, 3, 5, 8]),  # the least of the rounds
        ([[2, 7, 5, 8]], [2, 4, 5, 8]),  # 16 tokens cannot take longer per token than 8
        ([[2, 3, 1, 8]], [2, 3, 3, 3]),  # 32 tokens cannot take less than 16
    ],
)
def test_disturbed_measurements_are_corrected(batcher, monkeypatch, seconds, costs):
    ours = batcher(batch_tokens=64)
    clock = iter(np.cumsum([one for a_round in seconds for size in a_round for one in (0, size)]))
    monkeypatch.setattr("batcher.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert list(ours.warm_up(row(64), rounds=len(seconds)).values()) == costs
    assert ours.model.cost[[0, 8, 12, 64]].tolist() == [costs[0], costs[0], (costs[0] + costs[1]) / 2, costs[3]]
    assert ours.model.speed.per_second == 64 / costs[3]


@pytest.mark.parametrize(
    ("fixed", "runs"),
    [(0, [[9], [1], [2], [3]]), (6, [[9], [1, 2], [3]]), (1000, [[9], [1, 2, 3]])],
)
def test_costs_decide_which_rows_share_a_run(batcher, fixed, runs):
    """If a run costs no more than its tokens, no row is padded; if a run is expensive, all rows share one."""
    steps = Steps()
    ours = batcher(steps, batch_tokens=64)
    ours.model.cost = np.arange(65.0) + fixed
    ours.submit([row(5, 9)])
    steps.wait_for_run()
    ours.submit([row(8, 1)])
    ours.submit([row(13, 2), row(20, 3)])
    steps.go(10)
    ours.close(60)
    assert sorted(map(sorted, steps.runs)) == sorted(runs)


def test_requests_that_arrive_during_a_run_share_the_next(batcher):
    steps = Steps()
    ours = batcher(steps)
    futures = [ours.submit([row(20, 0)])]
    steps.wait_for_run()
    futures += [ours.submit([row(20, k)]) for k in range(1, 6)]
    steps.go()
    steps.wait_for_run()
    assert steps.runs == [[0], [1, 2, 3, 4, 5]]  # an idle model did not wait
    steps.go()
    assert [future.result(60)[0, 1] for future in futures] == [20 * k for k in range(6)]


def test_batching_off_runs_each_request_separately(batcher):
    steps = Steps()
    ours = batcher(steps, batching=False)
    first = ours.submit([row(20, 9)])
    steps.wait_for_run()
    futures = [ours.submit([row(20, k)] * 2) for k in range(3)]
    steps.go(10)
    assert [future.result(60).shape for future in futures] == [(2, 2)] * 3 and first.result(60) is not None
    assert steps.runs == [[9], [0, 0], [1, 1], [2, 2]]


def test_a_small_request_does_not_wait_for_a_big_one(batcher):
    steps = Steps()
    ours = batcher(steps, batch_tokens=1000)
    big = ours.submit([row(100, 7)] * 300)
    steps.wait_for_run()
    small = ours.submit([row(10, 1)])
    steps.go(2)
    assert small.result(60)[0, 1] == 10 and not big.done()
    # A big one does not wait forever either, though small ones keep coming as fast as they can be served.
    for _ in range(100):
        steps.wait_for_run()
        ours.submit([row(100, 2)] * 10)
        steps.go()
        if big.done():
            break
    assert big.done() and sum(2 in run for run in steps.runs) > 20


def test_two_big_requests_share_evenly(batcher):
    steps = Steps()
    ours = batcher(steps, batch_tokens=1000)
    first = ours.submit([row(100, 1)] * 100)
    steps.wait_for_run()
    ours.submit([row(100, 2)] * 100)
    for _ in range(10):
        steps.go()
        steps.wait_for_run()
    served = [k for run in steps.runs[1:11] for k in run]
    assert 40 <= served.count(2) <= 60 and not first.done()


def test_a_request_may_ask_for_small_batches(batcher):
    steps = Steps()
    ours = batcher(steps)
    ours.submit([row(10, 9)])
    steps.wait_for_run()
    ours.submit([row(10, 1)] * 5, batch_size=2)
    ours.submit([row(10, 2)] * 5)
    steps.go(10)
    ours.close(60)
    assert max(run.count(1) for run in steps.runs) == 2 and max(run.count(2) for run in steps.runs) == 5


def test_a_cancelled_request_does_not_reach_the_model(batcher):
    steps = Steps()
    ours = batcher(steps)
    running = ours.submit([row(10, 0)])
    steps.wait_for_run()
    futures = [ours.submit([row(10, k)] * 3) for k in (1, 2, 3)]
    assert ours.tokens == 100 and ours.texts == 10
    assert futures[1].cancel() and running.cancel()
    assert ours.tokens == 70 and ours.texts == 7  # what runs is finished, and counts until then
    steps.go(5)
    assert futures[0].result(60) is not None and futures[2].result(60) is not None
    with pytest.raises(CancelledError):
        futures[1].result(0)
    ours.close(60)
    assert 2 not in [k for run in steps.runs for k in run] and ours.tokens == ours.texts == 0


def test_an_error_of_the_model_affects_only_its_request(batcher):
    steps = Steps(fails=(13,))
    ours = batcher(steps)
    first = ours.submit([row(10, 0)])
    steps.wait_for_run()
    good, bad, other = (ours.submit([row(10, k)] * 40) for k in (1, 13, 2))
    steps.go(50)
    assert good.result(60).shape == other.result(60).shape == (40, 2) and first.result(60) is not None
    with pytest.raises(ValueError, match="number 13"):
        bad.result(60)
    assert ours.submit([row(5, 3)]).result(60)[0, 1] == 15  # the thread is alive
    ours.close(60)
    assert ours.tokens == ours.texts == 0


def test_a_cancellation_at_the_moment_of_an_error_does_not_end_the_thread(batcher):
    steps = Steps(fails=(13,))
    ours = batcher(steps)
    bad = ours.submit([row(10, 13)])
    steps.wait_for_run()
    set_exception = bad.set_exception
    bad.set_exception = lambda error: (bad.cancel(), set_exception(error))
    steps.go(2)
    with pytest.raises(ValueError, match="number 13"):
        bad.result(60)
    assert ours.submit([row(5, 3)]).result(60)[0, 1] == 15 and ours.alive


def test_the_queue_is_bounded_in_tokens(batcher):
    steps = Steps()
    ours = batcher(steps, queue_tokens=100)
    futures = [ours.submit([row(60, 0)])]
    with pytest.raises(Full, match="too many requests are waiting"):
        ours.submit([row(20, 1)] * 3)
    futures.append(ours.submit([row(40, 2)]))
    ours.check()  # for no more tokens there is room
    with pytest.raises(Full) as error:
        ours.submit([row(1, 3)])
    assert error.value.retry_after == 1
    steps.go(10)
    assert all(future.result(60) is not None for future in futures)
    assert 1 not in [k for run in steps.runs for k in run]


def test_a_request_that_would_wait_too_long_is_refused_with_a_time_to_retry(batcher):
    took = []

    def slow(rows):
        start = time.monotonic()
        time.sleep(0.05)  # or more, if other processes need the cores
        took.append(time.monotonic() - start)
        return model(rows)

    ours = batcher(slow, batch_tokens=100)
    assert list(ours.warm_up(row(100), rounds=1)) == [8, 16, 32, 64, 100]  # 2,000 tokens a second in a full run
    first = ours.submit([row(100)] * 60)  # accepted whatever its size, since nothing else waits
    with pytest.raises(Full) as error:
        ours.check(1, patience=1)
    # 6,000 tokens take 3 seconds, and a request waits for one at most
    assert 2 <= error.value.retry_after <= math.ceil(60 * (max(took) + 0.01) - 1)
    start = time.monotonic()
    time.sleep(error.value.retry_after)
    ours.check(1, patience=1)  # the time to retry was right
    assert first.result(60).shape == (60, 2) and time.monotonic() - start < 60 * max(took) + 2


def test_if_the_model_becomes_too_slow_for_all_the_newest_requests_are_refused(batcher):
    steps = Steps()
    ours = batcher(steps, batch_tokens=10)
    jobs = [ours.submit([row(10, k)] * 10, patience=patience) for k, patience in enumerate((1, 125, 125, 125))]
    steps.wait_for_run()
    jobs[3].cancel()
    ours.model.speed = Speed(10000, 10000)  # by which the 290 tokens left take 290 seconds, but 190 less than 250
    steps.go()
    with pytest.raises(Full) as error:
        jobs[2].result(60)
    assert 30 <= error.value.retry_after <= 40
    steps.go(100)
    assert [job.result(60).shape for job in jobs[:2]] == [(10, 2)] * 2
    assert ours.tokens == ours.texts == 0 and not ours._jobs


def test_patience_counts_even_if_nothing_waits(batcher):
    """A request whose time is up, or goes elsewhere, is refused; any other may have as many tokens as it likes."""
    ours = batcher(queue_tokens=100)
    ours.check(1000, patience=0)
    with pytest.raises(Full) as error:
        ours.check(patience=-1.5)
    assert error.value.retry_after == 2


def test_a_job_has_begun_once_one_of_its_rows_is_in_a_run(batcher):
    steps = Steps()
    ours = batcher(steps, batch_tokens=10)
    jobs = [ours.submit([row(10, k)] * 2) for k in range(2)]
    steps.wait_for_run()
    assert [job.begun for job in jobs] == [True, False]
    steps.go(10)
    assert jobs[1].result(60) is not None and jobs[1].begun


def test_one_stall_counts_no_more_than_two_seconds_of_runs():
    speed = Speed(1000, 1)
    assert speed.per_second == 1000 and Speed().per_second == math.inf
    stalled = speed.add(60, 60)
    assert stalled.per_second == pytest.approx(1) and stalled.seconds == pytest.approx(2)
    assert stalled.add(1000, 1).per_second == pytest.approx((2 * math.exp(-0.5) + 1000) / (2 * math.exp(-0.5) + 1))


def test_a_stall_is_forgotten(batcher):
    """A speed measured while the machine stalled causes refusals for a while, not forever."""
    go = threading.Event()

    def run(rows):
        assert go.wait(60)
        return model(rows)

    ours = batcher(run)
    ours.model.speed = Speed(1024, 60)  # one run took a minute
    first = ours.submit([row(10)])
    with pytest.raises(Full):
        ours.check(100, patience=5)
    go.set()
    assert first.result(60) is not None
    for _ in range(100):  # nothing waits behind any of them
        ours.submit([row(10)]).result(60)
    go.clear()
    ours.submit([row(10)])
    ours.check(100, patience=5)
    go.set()


def test_closing_finishes_what_was_accepted(batcher):
    steps = Steps()
    ours = batcher(steps)
    futures = [ours.submit([row(10, k)]) for k in range(3)]
    closing = threading.Thread(target=ours.close, args=(60,))
    closing.start()
    while not ours._closed:
        time.sleep(0.01)
    with pytest.raises(Closed, match="stopping") as error:
        ours.submit([row(10)])
    assert error.value.retry_after == 5
    steps.go(5)
    closing.join(60)
    assert all(future.done() for future in futures) and not ours._thread.is_alive()


def test_runs_are_observed(batcher):
    seen = []
    ours = batcher(observe=lambda *figures: seen.append(figures))
    ours.submit([row(10), row(20)]).result(60)
    ours.close(60)
    assert [figures[:2] for figures in seen] == [(2, 30)] or [figures[:2] for figures in seen] == [(1, 20), (1, 10)]
    assert all(0 <= seconds < 10 for _, _, seconds in seen)


# ------------------------------------------------------------------------------------------------------- several models


def test_a_run_has_rows_of_one_model_and_turns_pass_between_them():
    """The second model's request does not wait for all of the first one's, nor do their rows share a run."""
    first, second, ours = Steps(), Steps(), Batcher(batch_tokens=100)
    one, other = Model(first, 2), Model(second, 2)
    jobs = [ours.submit(one, [row(50, 1)] * 10)]
    first.wait_for_run()
    jobs += [ours.submit(other, [row(20, 2)] * 3), ours.submit(one, [row(50, 3)])]
    first.go(1)
    second.wait_for_run()
    assert len(first.runs) < 4 and second.runs == [[2, 2, 2]]
    first.go(100), second.go(100)
    assert [job.result(60)[0].tolist() for job in jobs] == [[50, 50], [20, 40], [50, 150]]
    ours.close(60)
    assert not {2} & set(itertools.chain(*first.runs)) and not ours._busy and one.tokens == other.tokens == 0


def test_what_waits_for_a_slow_model_counts_by_its_own_speed():
    steps, ours = Steps(), Batcher(batch_tokens=100)
    slow, fast = Model(steps, 2), Model(model, 2)
    slow.speed, fast.speed = Speed(100, 10), Speed(1000, 1)
    ours.submit(slow, [row(100, 1)])
    steps.wait_for_run()
    with pytest.raises(Full) as full:
        ours.check(1000, 5, fast)  # 10 seconds of the slow model, and 1 of its own
    assert full.value.retry_after == 6
    ours.check(1000, 11.5, fast)
    steps.go()
    ours.close(60)


def test_a_model_is_measured_between_the_runs_of_another():
    """No two runs at a time, and at most one measurement between two runs."""
    order, started, ours = [], threading.Event(), Batcher(batch_tokens=64)

    def run(name):
        def record(rows):
            order.append(name)
            time.sleep(0.002)
            order.append(name)
            started.set()
            return model(rows)

        return Model(record, 2)

    used, fresh = run("used"), run("fresh")
    job = ours.submit(used, [row(60, 1)] * 200)
    assert started.wait(60)
    ours.warm_up(fresh, row(64), rounds=3)
    assert fresh.cost is not None and not job.done()
    job.result(60)
    assert order[::2] == order[1::2]
    measured = [k for k, name in enumerate(order[::2]) if name == "fresh"]
    assert len(measured) == 12 and all(b - a > 1 for a, b in itertools.pairwise(measured))
    ours.close(60)


def test_a_model_that_fails_its_warm_up_leaves_the_others_running(batcher):
    ours = batcher()

    def fail(rows):
        raise ValueError("a graph that does not run")

    with pytest.raises(ValueError, match="does not run"):
        Batcher.warm_up(ours, Model(fail, 2), row(64))
    assert ours.submit([row(5, 3)]).result(60)[0, 1] == 15
    ours.close(60)
    with pytest.raises(Closed):
        ours.between_runs(len, [])


def test_a_model_is_freed_after_its_last_request(batcher):
    """A replaced bundle's memory is not held by what ran it."""
    ours, gone = batcher(), Model(model, 2)
    Batcher.warm_up(ours, gone, row(64), 1)
    Batcher.submit(ours, gone, [row(5, 3)] * 3).result(60)
    gone = weakref.ref(gone)
    ours.submit([row(5, 3)]).result(60)
    ours.between_runs(len, [])
    end = time.monotonic() + 60
    while gone() and time.monotonic() < end:
        gc.collect()
    assert gone() is None
