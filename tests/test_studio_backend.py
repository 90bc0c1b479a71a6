"""The server as an ML backend of Label Studio, asked as Label Studio 1.23 asks."""

import pytest
from conftest import lines_of

from text_cls.labelling_tools import studio_interface
from text_cls.rows import Labels

TEXTS = ["台风登陆，学校停课一天", "今日大盘下跌2%", "房间很小"]
TOPICS = '<View><Text name="t" value="$body"/><Choices name="topic" toName="t">{}</Choices></View>'


@pytest.fixture
def backend(serve):
    """backend(bundle) -> (client, labels, its own interface)."""

    def call(bundle="news", *flags, key=None):
        client = serve(bundle, "--label_studio", *flags, key=key)
        headers = {"X-API-Key": key} if key else {}
        labels = Labels(client.get("/info", headers=headers).json()["labels"])
        return client, labels, studio_interface(labels)

    return call


def ask(client, config, texts, field="text", **more):
    tasks = [{"id": i, "data": {field: text}, "project": 1, "predictions": []} for i, text in enumerate(texts)]
    params = {"login": None, "password": None, "context": None}
    return client.post(
        "/label_studio/predict",
        json={"tasks": tasks, "project": "1.1", "label_config": config, "params": params, **more},
    )


def test_annotations_are_ignored(backend):
    client, _, _ = backend()
    answer = client.post(
        "/label_studio/webhook", json={"action": "ANNOTATION_CREATED", "task": {"data": {"text": "好"}}}
    )
    assert answer.status_code == 200 and answer.json() == {}


@pytest.mark.parametrize(("bundle", "kind"), [("news", "taxonomy"), ("reviews", "choices")])
def test_predictions_are_those_of_the_route(backend, bundle, kind):
    client, labels, config = backend(bundle)
    assert client.get("/label_studio/health").json() == {"status": "UP"}
    setup = {"project": "1.1", "schema": config, "hostname": "http://localhost:8080", "access_token": "t"}
    version = client.post("/label_studio/setup", json={**setup, "extra_params": None}).json()["model_version"]
    assert client.get("/label_studio/versions").json() == {"versions": [version]}
    answer = ask(client, config, TEXTS)
    assert answer.status_code == 200 and answer.json()["model_version"] == version
    found = answer.json()["results"]
    wanted = client.post(client.get("/info").json()["route"], json={"data": {"text": TEXTS}}).json()["result"]
    assert len(found) == len(TEXTS)
    for prediction, names, scores in zip(found, wanted["label_name"], wanted["confidence"]):
        assert prediction["model_version"] == version and prediction["score"] == min(scores, default=0)
        for result in prediction["result"]:
            assert (result["from_name"], result["to_name"], result["type"]) == ("label", "text", kind)
        shown = [path for result in prediction["result"] for path in result["value"][kind]]
        shown = ["##".join(path) for path in shown] if kind == "taxonomy" else shown
        above = {name.rpartition("##")[0] for name in names} if kind == "taxonomy" else set()
        assert shown == [name for name in names if name not in above]


def test_another_interface(backend, trained):
    """Other names of the tags and the field, and fewer labels than the model has."""
    client, _, _ = backend("reviews")
    texts = lines_of(trained["reviews"][0] / "data.txt")
    answer = client.post("/models/cls_multi_label", json={"data": {"text": texts}}).json()
    sets = answer["result"]["label_name"]
    known = sets[0][0] if sets[0] else next(filter(None, sets))[0]
    config = TOPICS.format(f'<Choice value="{known}"/><Choice value="别的"/>')
    found = ask(client, config, texts, "body").json()["results"]
    wanted = {"from_name": "topic", "to_name": "t", "type": "choices", "value": {"choices": [known]}}
    assert [one["result"] for one in found] == [[wanted] if known in names else [] for names in sets]
    assert any(names != [known] for names in filter(None, sets))


def test_tasks_without_a_text(backend):
    client, _, config = backend()
    found = ask(client, config, ["", TEXTS[0], None, 7, "  "]).json()["results"]
    assert len(found) == 5 and [bool(one["score"]) for one in found] == [False, bool(found[1]["score"]), *[False] * 3]
    assert ask(client, config, TEXTS[:1]).json()["results"][0] == found[1]
    assert ask(client, config, []).json()["results"] == []
    assert ask(client, config, ["", None]).json()["results"] == [found[0]] * 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("<View>", "the labelling interface is no XML"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View/>', "has a document type"),
        (TOPICS.format('<Choice value="别的"/>'), "no <Choices> or <Taxonomy> for a <Text> with a label of this model"),
        ("<View/>", "no <Choices> or <Taxonomy>"),
        (7, "must be a text: the labelling interface"),
    ],
)
def test_an_interface_that_does_not_fit(backend, config, message):
    client, _, _ = backend()
    for answer in (client.post("/label_studio/setup", json={"schema": config}), ask(client, config, TEXTS)):
        assert answer.status_code == 422 and message in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"tasks": 7}', b"[" * 100000])
def test_bodies_that_are_no_request(backend, body):
    client, _, config = backend()
    json_type = {"Content-Type": "application/json"}
    for route in ("setup", "predict"):
        assert client.post(f"/label_studio/{route}", content=body, headers=json_type).status_code == 422
    for tasks in (7, [7], None):
        answer = client.post("/label_studio/predict", json={"label_config": config, "tasks": tasks})
        assert answer.status_code == 422 and answer.json()["detail"] == "tasks must be a list of tasks"
    assert ask(client, config, TEXTS).status_code == 200


def test_limits_are_those_of_the_server(backend):
    client, _, config = backend("news", "--max_texts", "2")
    assert ask(client, config, TEXTS[:2]).status_code == 200
    answer = ask(client, config, TEXTS)
    assert answer.status_code == 422 and "2" in answer.json()["detail"]


def test_off_by_default(serve):
    client = serve("news")
    assert client.get("/label_studio/health").status_code == 404
    assert client.post("/label_studio/predict", json={}).status_code == 404


def test_the_key_as_a_password(backend):
    """Label Studio can only send a user and a password."""
    client, _, config = backend(key="secret")
    assert client.get("/label_studio/health").status_code == 401
    for auth, status in ((("any", "secret"), 200), (("secret", ""), 401), (("any", "secret2"), 401)):
        assert client.get("/label_studio/health", auth=auth).status_code == status
    for sent in ("Basic", "Basic !", "Basic c2VjcmV0"):
        assert client.get("/label_studio/health", headers={"Authorization": sent}).status_code == 401


def test_not_in_the_schema(backend):
    client, _, _ = backend()
    assert not [path for path in client.get("/openapi.json").json()["paths"] if "label_studio" in path]
