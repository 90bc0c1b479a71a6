"""A running server whose bundle is replaced, reloaded and rolled back while clients ask."""

import json
import shutil

import pytest
from bundle_versions import renamed

from serving import asking, metric, serving, wait_until
from text_cls.bundle import open_bundle
from text_cls.files import _exchange

ROUTE, KEY = "/models/cls_multi_label", "s3cret"
TEXT = "股票大跌，足球比赛"


@pytest.fixture
def pair(bundles, tmp_path):
    """(a bundle, another one to replace it with, {version: first label})."""
    first = shutil.copytree(bundles["reviews"], tmp_path / "a")
    second = renamed(first, tmp_path / "b")
    opened = [open_bundle(str(folder)) for folder in (first, second)]
    return first, second, {one.digest[:12]: one.labels.names[0] for one in opened}


def admin(client, what, **options):
    return client.post(f"/admin/{what}", headers={"X-API-Key": KEY}, **options)


def test_no_request_fails_over_swaps(pair, tmp_path):
    """The short form of benchmarks/swaps.py: every answer is whole, and of the version that its header names."""
    first, second, versions = pair
    with serving(first, tmp_path / "log") as one:
        seen = set()
        with asking(one, ROUTE, TEXT) as answers:
            for k in range(1, 6):
                _exchange(str(second), str(first))
                wait_until(lambda k=k: one.text().count("Now serving the changed bundle") == k)
                count = len(answers)
                wait_until(lambda count=count: len(answers) > count + 8)
                _, headers, _ = one.ask("POST", ROUTE, {"data": {"text": TEXT}, "parameters": {"prob_limit": 0}})
                seen.add(headers["X-Bundle-Version"])
        assert {status for status, _ in answers} == {200} and seen == set(versions)
        assert metric(one, r'renewals_total\{bundle="a",result="done"\}') == 5
        assert "Traceback" not in one.text() and one.stop() == 0


def test_the_header_names_the_version_whose_labels_the_answer_has(pair, serve):
    first, second, versions = pair
    client = serve(first, key=KEY)
    for _ in range(3):
        value = {"data": {"text": TEXT}, "parameters": {"prob_limit": 0}}
        answer = client.post(ROUTE, json=value, headers={"X-API-Key": KEY})
        assert answer.headers["x-bundle"] == "a"
        assert answer.json()["result"]["label_name"][0][0] == versions[answer.headers["x-bundle-version"]]
        info = client.get("/info", headers={"X-API-Key": KEY}).json()
        assert (info["name"], info["version"]) == ("a", answer.headers["x-bundle-version"])
        _exchange(str(second), str(first))
        assert admin(client, "reload").json()["changed"] is True
    page = client.get("/metrics", headers={"X-API-Key": KEY}).text
    for version in versions:
        assert f'text_cls_answers_total{{bundle="a",status="200",version="{version}"}}' in page
        assert f'text_cls_answer_seconds_count{{bundle="a",version="{version}"}}' in page
    assert f'text_cls_bundle_in_use{{bundle="a",version="{open_bundle(str(first)).digest[:12]}"}} 1.0' in page


def test_reload_and_rollback(pair, serve):
    first, second, versions = pair
    client = serve(first, key=KEY)
    old, new = versions
    _exchange(str(second), str(first))
    assert admin(client, "reload").json() == {
        "changed": True,
        "name": "a",
        "version": new,
        "previous": old,
        "route": ROUTE,
    }
    assert admin(client, "reload").json() == {
        "changed": False,
        "name": "a",
        "version": new,
        "previous": old,
        "route": ROUTE,
    }
    assert admin(client, "rollback").json() == {
        "changed": True,
        "name": "a",
        "version": old,
        "previous": new,
        "route": ROUTE,
    }
    (first / "model.onnx").write_bytes(b"")
    answer = admin(client, "reload")
    assert answer.status_code == 409 and "model.onnx is not the file of this bundle" in answer.json()["detail"]
    assert client.get("/info", headers={"X-API-Key": KEY}).json()["version"] == old
    schema = client.get("/openapi.json").json()
    assert schema["info"]["version"] == old and {"/admin/reload", "/admin/rollback"} < set(schema["paths"])


def test_a_rollback_without_a_previous_version_changes_nothing(pair, serve):
    client = serve(pair[0], key=KEY)
    answer = admin(client, "rollback")
    assert answer.status_code == 409
    assert answer.json() == {"detail": "bundle a has no previous version in memory; nothing was changed"}
    answer = admin(client, "reload", params={"bundle": "b"})
    assert answer.status_code == 422 and answer.json() == {"detail": "bundle: no bundle has this name; known are a"}


def test_the_admin_routes_need_a_key_that_is_set(pair, serve):
    for what in ("reload", "rollback"):
        answer = serve(pair[0]).post(f"/admin/{what}")
        assert answer.status_code == 403
        assert "start the server with TEXT_CLS_API_KEY set" in answer.json()["detail"]
        with_key = serve(pair[0], key=KEY)
        assert with_key.post(f"/admin/{what}").status_code == 401
        assert with_key.post(f"/admin/{what}", headers={"X-API-Key": "wrong"}).status_code == 401
        assert with_key.get(f"/admin/{what}", headers={"X-API-Key": KEY}).status_code == 405
    assert "/admin/reload" not in serve(pair[0]).get("/openapi.json").json()["paths"]


def test_a_name_that_a_header_cannot_carry_is_escaped(bundles, serve, tmp_path):
    client = serve(shutil.copytree(bundles["reviews"], tmp_path / "模型 1"))
    answer = client.post(ROUTE, json={"data": {"text": TEXT}})
    assert answer.headers["x-bundle"] == "%E6%A8%A1%E5%9E%8B%201"
    assert json.loads(client.get("/info").text)["name"] == "模型 1"
