"""Which requests the HTTP server accepts: the whole way to the answer counts, not only the model."""

import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from batcher import Full, Speed
from serving import PausedModel, ask, predictor_of, service_of, wait_until
from stage import SMALL, Stage


class PausedReading:
    """Pauses the tokenizer of a service until `go` is set."""

    def __init__(self, client, monkeypatch):
        tokenizer = predictor_of(client).tokenizer
        self.real, self.texts, self.go = tokenizer.encode, [], threading.Event()
        monkeypatch.setattr(tokenizer, "encode", self.encode)

    def encode(self, texts, length):
        self.texts += texts
        assert self.go.wait(60)
        return self.real(texts, length)


@pytest.mark.parametrize("name", ["reading", "writing"])
def test_what_waits_for_reading_or_writing_counts(serve, name):
    client = serve("news", "--deadline_seconds", 10)
    service = service_of(client)
    stage = getattr(service, name)
    stage._speed, stage.waiting = Speed(100, 1), 480  # 4.8 seconds
    assert ask(client, "足球").status_code == 200
    stage._speed, stage.waiting = Speed(100, 1), 1150
    answer = ask(client, "足球")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "7"  # 11.5 seconds, and 5 are allowed
    stage.waiting = 0
    assert ask(client, "足球").status_code == 200 and stage.waiting == 0


def test_no_byte_of_a_body_is_read_if_too_much_waits(serve):
    service = service_of(serve())
    service.reading._speed, service.reading.waiting = Speed(1, 1), 60

    async def pieces():
        raise AssertionError("read")
        yield

    async def admit():
        async with service.admit(pieces()):
            raise AssertionError("admitted")

    with pytest.raises(Full):
        anyio.run(admit)


def test_requests_that_arrive_together_are_counted_one_by_one(serve, monkeypatch):
    """Each counts as soon as its body is there, not once a thread gets to it."""
    client = serve("news", "--deadline_seconds", 20, "--shutdown_seconds", 30)
    reading, service = PausedReading(client, monkeypatch), service_of(client)
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(ask, client, ["好" * 20])]
        wait_until(lambda: reading.texts)
        body = service.reading.waiting
        service.reading._speed = Speed(body, 3)  # three seconds each, and ten are allowed
        answers += [pool.submit(ask, client, ["好" * 20]) for _ in range(11)]
        wait_until(lambda: sum(answer.done() for answer in answers) == 8)
        assert service.reading.waiting == 4 * body
        reading.go.set()
        assert sorted(answer.result().status_code for answer in answers) == [200] * 4 + [503] * 8
    assert service.reading.waiting == service.writing.waiting == 0


def test_a_request_whose_time_is_up_before_the_model_gets_503_and_costs_no_more(serve, monkeypatch):
    client = serve("news", "--deadline_seconds", 0.5)
    reading, model = PausedReading(client, monkeypatch), PausedModel(client)
    model.go.set()
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(ask, client, f"足球{k}") for k in range(3)]
        assert [answer.result().status_code for answer in answers] == [503] * 3
    reading.go.set()
    wait_until(lambda: ask(client, "好").status_code == 200)
    assert set(model.rows) == {1} and sum("足球" in text for text in reading.texts) == 1


def test_overload_of_the_reading_thread_gives_503_instead_of_504(serve, monkeypatch):
    """Twelve seconds of work arrive at once, and the deadline is three."""
    client = serve("news", "--deadline_seconds", 3)
    tokenizer = predictor_of(client).tokenizer
    real, pause = tokenizer.encode, threading.Event()
    monkeypatch.setattr(tokenizer, "encode", lambda *args: (pause.wait(0.2), real(*args))[1])
    with ThreadPoolExecutor(60) as pool:
        statuses = [answer.status_code for answer in pool.map(lambda _: ask(client, "足球"), range(60))]
    assert set(statuses) == {200, 503}, statuses
    assert ask(client, "足球").status_code == 200


def test_a_request_that_was_read_too_slowly_does_not_reach_the_model(serve, monkeypatch):
    client = serve("news", "--deadline_seconds", 4)
    tokenizer, model = predictor_of(client).tokenizer, PausedModel(client)
    model.go.set()
    real, pause = tokenizer.encode, threading.Event()
    monkeypatch.setattr(tokenizer, "encode", lambda *args: (pause.wait(3.2), real(*args))[1])
    assert ask(client, "足球").status_code == 503 and not model.rows


@pytest.mark.parametrize(("late", "status"), [(60, 200), (0.1, 504)])
def test_an_answer_that_only_has_to_be_written_may_be_late(serve, monkeypatch, late, status):
    client = serve("news", "--deadline_seconds", 2)
    monkeypatch.setattr("stage.SMALL", 0)  # in the thread, as for a big request
    monkeypatch.setattr("application.LATE_SECONDS", late)
    pause = threading.Event()
    monkeypatch.setattr("service.encode_answer", lambda *args: (pause.wait(2.5), b"{}")[1])
    assert ask(client, "足球").status_code == status


# --------------------------------------------------------------------------------------------------------------- Stage


@pytest.fixture
def stage():
    one = Stage("test")
    yield one
    one.close()


def test_work_counts_until_it_ends_and_is_timed(stage, monkeypatch):
    clock = iter([10, 12, 20, 23])
    monkeypatch.setattr("stage.time.perf_counter", lambda: next(clock))

    async def work():
        with stage.work(100) as do:
            assert stage.waiting == 100 and stage.seconds == 0  # nothing has been measured yet
            here = await do(SMALL - 1, threading.get_ident)
            assert here == threading.get_ident() != await do(SMALL, threading.get_ident)

    anyio.run(work)
    assert stage.waiting == 0
    stage.waiting = 40
    assert stage.seconds == pytest.approx(2)  # 100 took two seconds and three


def test_work_that_fails_no_longer_waits_and_is_not_timed(stage):
    async def work():
        with stage.work(100) as do:
            await do(SMALL, int, "x")

    with pytest.raises(ValueError):
        anyio.run(work)
    assert stage.waiting == 0 and stage._speed == Speed()
