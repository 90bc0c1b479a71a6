"""Several bundles in one server: which of them answers, and what the answer says about it."""

import re
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bundle_versions import renamed
from hypothesis import given
from hypothesis import strategies as st

import server
from serving import PausedModel, model_of, service_of, wait_until
from shares import Shares, place_of
from text_cls.bundle import open_bundle, replace_decision
from text_cls.decision import Decision
from text_cls.serving import open_predictor

FLAT, TREE, SEARCH = "/models/cls_multi_label", "/models/cls_hierarchical", "/models/retrieval"
TEXTS = ["股票大跌，足球比赛", "足球"]


@pytest.fixture
def reviews(bundles, tmp_path):
    """(a bundle, another version of it)."""
    return bundles["reviews"], renamed(bundles["reviews"], tmp_path / "renamed")


@pytest.fixture
def versions(reviews, serve):
    """versions(*flags) -> client of a server with these two versions as "old" and "new"."""
    words = [word for name, folder in zip(("old", "new"), reviews) for word in ("--bundle", f"{name}={folder}")]
    return lambda *flags: serve(None, *words, *flags)


def ask(client, route=FLAT, texts=TEXTS, **parameters):
    return client.post(route, json={"data": {"text": texts}, "parameters": parameters})


def test_bundles_of_all_kinds_answer_their_routes_as_if_alone(serve, bundles, retrieval):
    folders = {"reviews": bundles["reviews"], "news": bundles["news"], "search": retrieval["news", "labels"]}
    client = serve(None, *(word for name, path in folders.items() for word in ("--bundle", f"{name}={path}")))
    for name, route in zip(folders, (FLAT, TREE, SEARCH)):
        ours, answer = open_predictor(str(folders[name]), num_threads=1), ask(client, route)
        assert answer.json()["result"]["label_name"] == [found for found, _ in ours.predict(TEXTS)]
        assert answer.headers["x-bundle"] == name and answer.headers["x-bundle-version"] == ours.bundle.digest[:12]
    info = client.get("/info").json()
    assert info["name"] == "reviews" and info["split"] is None
    assert [(one["name"], one["route"]) for one in info["bundles"]] == list(zip(folders, (FLAT, TREE, SEARCH)))
    schema = client.get("/openapi.json").json()
    assert {FLAT, TREE, SEARCH} < set(schema["paths"]) and "3 bundles" in schema["info"]["description"]
    for route in (FLAT, TREE, SEARCH):
        example = schema["paths"][route]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert client.post(route, json=example).status_code == 200
    page = client.get("/metrics").text
    for name in folders:
        assert re.search(rf'text_cls_counted_texts_total{{bundle="{name}",version="[0-9a-f]{{12}}"}} ', page)
        assert re.search(rf'text_cls_answers_total{{bundle="{name}",status="200",version="[0-9a-f]{{12}}"}} ', page)


def test_a_request_names_the_bundle_that_answers(versions, reviews):
    client = versions()
    for name, folder in zip(("old", "new"), reviews):
        opened = open_bundle(str(folder))
        answer = ask(client, bundle=name, prob_limit=0)
        assert answer.headers["x-bundle"] == name and answer.headers["x-bundle-version"] == opened.digest[:12]
        assert answer.json()["result"]["label_name"][0] == opened.labels.names
        info = client.get("/info", params={"bundle": name}).json()
        assert info["name"] == name and info["labels"] == opened.labels.names and len(info["bundles"]) == 2
    unknown = client.get("/info", params={"bundle": "neu"})
    assert unknown.status_code == 404
    assert unknown.json() == {"detail": "bundle: no bundle has this name; known are old, new"}
    assert ask(client).headers["x-bundle"] == "old"  # the first, unless the request or --split says otherwise
    answer = ask(client, bundle="neu")
    assert answer.status_code == 422
    assert answer.json() == {"detail": "parameters.bundle: no bundle has this name; known are old, new"}


def test_a_bundle_answers_only_at_the_route_of_its_labels(serve, bundles):
    client = serve("news", "--bundle", f"flat={bundles['reviews']}")
    answer = ask(client, TREE, bundle="flat")
    assert answer.status_code == 422
    assert answer.json() == {"detail": "parameters.bundle: flat answers at /models/cls_multi_label; POST there"}
    assert ask(client, FLAT, bundle="flat").status_code == 200
    assert ask(client, SEARCH).status_code == 404


def test_a_split_sends_shares_of_the_requests(versions):
    client = versions("--split", "old=3,new=1")
    seen = Counter(ask(client, texts="足球").headers["x-bundle"] for _ in range(200))
    assert 20 <= seen["new"] <= 85  # of 200, 50 are expected; 5 standard deviations
    assert client.get("/info").json()["split"] == {"old": 3, "new": 1}
    assert ask(client, bundle="new").headers["x-bundle"] == "new"


def test_requests_with_the_same_id_get_the_same_bundle(versions):
    client, found = versions("--split", "old=1,new=1"), {}
    for _ in range(3):
        for user in ("a", "b", "用户 3", "d", "e", "f", "g", "h"):
            name = ask(client, texts="足球", split_id=user).headers["x-bundle"]
            assert found.setdefault(user, name) == name
    assert set(found.values()) == {"old", "new"}
    for wrong in ("", "x" * 129, 3):
        assert ask(client, split_id=wrong).status_code == 422


@given(ids=st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True), share=st.integers(1, 98))
def test_a_larger_share_moves_only_the_ids_that_it_must(ids, share):
    """Who has seen the new version goes on to see it while its share grows."""
    before, after = (Shares({"new": new, "old": 100 - new}) for new in (share, share + 1))
    for one in ids:
        assert 0 <= place_of(one) < 1
        assert before.pick(one) == "old" or after.pick(one) == "new"


def test_ids_are_spread_by_the_shares():
    shares = Shares({"a": 70, "b": 20, "c": 10})
    seen = Counter(shares.pick(f"user {i}") for i in range(10000))
    assert [seen[name] / 10000 for name in "abc"] == pytest.approx([0.7, 0.2, 0.1], abs=0.02)
    assert place_of("user 1") == place_of("user 1") == pytest.approx(0.17074, abs=1e-5)  # on any machine, in any run


def test_bundles_share_one_queue_and_run_one_at_a_time(versions):
    """What waits for one bundle counts for the others: there is one thread for all models."""
    client = versions("--deadline_seconds", 4)
    running, service = [], service_of(client)
    for served in service.bundles.values():
        model = served.version.model

        def run(rows, real=model.run):
            running.append(1)
            assert len(running) == 1
            found = real(rows)
            running.pop()
            return found

        model.run = run
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda k: ask(client, bundle=("old", "new")[k % 2]), range(40)))
    assert {answer.status_code for answer in answers} == {200}
    paused = PausedModel(client)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client, bundle="old")
        assert paused.begun.wait(60)
        model_of(client).speed = type(model_of(client).speed)(1, 60)
        wait_until(lambda: ask(client, bundle="new").status_code == 503)
        paused.go.set()
        assert first.result().status_code == 200


def test_one_bundle_changes_and_the_other_stays(serve, bundles, tmp_path):
    folder = shutil.copytree(bundles["reviews"], tmp_path / "a")
    client = serve(None, "--bundle", f"a={folder}", "--bundle", f"b={bundles['reviews']}", key="k")
    replace_decision(open_bundle(str(folder)), Decision(0.25))
    headers = {"X-API-Key": "k"}
    assert client.post("/admin/reload", headers=headers).status_code == 422
    changed = client.post("/admin/reload?bundle=a", headers=headers).json()
    assert changed["changed"] and changed["version"] == open_bundle(str(folder)).digest[:12]
    assert client.post("/admin/reload?bundle=b", headers=headers).json()["changed"] is False
    assert np.isclose(service_of(client).bundles["a"].version.predictor.decision.threshold, 0.25)


def test_bundles_of_different_routes_cannot_be_split(run, bundles):
    words = ("--bundle", f"a={bundles['reviews']}", "--bundle", f"b={bundles['news']}", "--split", "a=1,b=1")
    status, log = run(server.main, *words, "--port", 0)
    assert status == 2 and "Traceback" not in log
    assert "--split a,b: these bundles answer different routes (/models/cls_hierarchical, /models/cls_multi" in log
