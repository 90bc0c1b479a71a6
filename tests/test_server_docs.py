"""/openapi.json and /docs of the HTTP server: they describe the served bundle, and their example runs."""

import html
import json

import pytest
from browser import assert_sound, chromium
from jsonschema_rs import is_valid  # comes with schemathesis

from serving import serving
from text_cls.bundle import open_bundle

ROUTES = {"news": "/models/cls_hierarchical", "reviews": "/models/cls_multi_label", "retrieval": "/models/retrieval"}


@pytest.fixture(params=ROUTES)
def documented(request, serve, retrieval, bundles):
    """(client, folder of the bundle, its route) for each kind of bundle."""
    folder = retrieval["news", "labels"] if request.param == "retrieval" else bundles[request.param]
    return serve(folder), folder, ROUTES[request.param]


def example_of(schema, route):
    """(the example request, its documented answer, the schema of answers) of a route."""
    operation = schema["paths"][route]["post"]
    question = operation["requestBody"]["content"]["application/json"]
    answer = operation["responses"]["200"]["content"]["application/json"]
    return question["example"], answer["example"], answer["schema"] | {"components": schema["components"]}


def test_the_example_runs_and_only_the_route_of_the_bundle_is_described(documented):
    client, folder, route = documented
    schema = client.get("/openapi.json").json()
    assert [path for path in schema["paths"] if path.startswith("/models")] == [route]
    assert schema["info"]["version"] == open_bundle(str(folder)).digest[:12]
    question, promised, form = example_of(schema, route)
    answer = client.post(route, json=question)
    assert answer.status_code == 200
    assert is_valid(form, answer.json()) and not is_valid(form, {"result": {}})
    assert len(promised["result"]["label"]) == len(question["data"]["text"]) == 2
    for name in ("label", "label_name"):
        assert answer.json()["result"][name] == promised["result"][name]
    for one, other in zip(answer.json()["result"]["confidence"], promised["result"]["confidence"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_the_page_describes_the_bundle_and_each_status_once(documented):
    client, _, route = documented
    schema, page = client.get("/openapi.json").json(), html.unescape(client.get("/docs").text)
    for value in example_of(schema, route)[:2]:
        assert json.dumps(value, ensure_ascii=False) in page
    assert f"POST {route}" in page and not any(other in page for other in set(ROUTES.values()) - {route})
    statuses = schema["components"]["responses"]
    assert set(schema["paths"][route]["post"]["responses"]) == {"200", *statuses} and len(statuses) == 10
    for text in (page, json.dumps(schema)):
        assert all(text.count(answer["description"]) == 1 for answer in statuses.values())


def test_the_example_respects_the_limits(serve):
    client = serve("news", "--max_texts", 1, "--max_characters", 4)
    question, _, _ = example_of(client.get("/openapi.json").json(), ROUTES["news"])
    assert question == {"data": {"text": ["台风登陆"]}}
    assert client.post(ROUTES["news"], json=question).status_code == 200


@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 30)")])
def test_the_page_on_a_phone_and_in_the_dark(bundles, tmp_path, scheme, background):
    with serving(bundles["news"], tmp_path / "log") as server, chromium(400) as driver:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        driver.get(f"http://127.0.0.1:{server.port}/docs")
        assert_sound(driver)
        assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") == background
