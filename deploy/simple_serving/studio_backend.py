"""Suggestions while people label: the protocol of Label Studio's ML backends (https://labelstud.io/guide/ml).

The routes are there with --label_studio. Label Studio asks /label_studio/health and /label_studio/setup when a user
connects the model, and /label_studio/predict for the predictions of tasks. It also tells /label_studio/webhook of every
annotation, which a model that learns would use: here nothing is done with them.
"""

import json

from fastapi import Request
from fastapi.responses import JSONResponse

from batcher import Closed
from schemas import Invalid
from text_cls.labelling_tools import studio_controls, studio_prediction, version_name
from text_cls.language import tr

ROUTE = "/label_studio"


def add_label_studio(app, state, label):
    """Adds the routes. label: `application.label`."""

    @app.get(f"{ROUTE}/health", include_in_schema=False)
    async def health():
        try:
            state.service.check_alive()
        except Closed as error:
            return JSONResponse(
                {"detail": tr("not ready: {error}", error=error)}, 503, {"Retry-After": str(error.retry_after)}
            )
        return JSONResponse({"status": "UP"})

    @app.get(f"{ROUTE}/versions", include_in_schema=False)
    async def versions():
        return JSONResponse({"versions": [version_of(state.service)]})

    @app.post(f"{ROUTE}/setup", include_in_schema=False)
    async def setup(request: Request):
        async def answer(body, _):
            control_of(state.service, text_of(read(body), "schema"))
            return json.dumps({"model_version": version_of(state.service)}).encode()

        return await label(request, state.service, state.service.first.task, answer)

    @app.post(f"{ROUTE}/webhook", include_in_schema=False)
    async def webhook(request: Request):
        async def answer(body, _):
            return b"{}"

        return await label(request, state.service, state.service.first.task, answer)

    @app.post(f"{ROUTE}/predict", include_in_schema=False)
    async def predict(request: Request):
        async def answer(body, ask):
            return await predictions(state.service, body, ask)

        return await label(request, state.service, state.service.first.task, answer)


def version_of(service):
    """The name of the model in Label Studio."""
    bundle = service.first.version.predictor.bundle
    return version_name(bundle.folder, bundle.digest)


def read(body):
    """The JSON object in the body of a request. Raises Invalid."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid(tr("the body is no JSON")) from error
    if not isinstance(found, dict):
        raise Invalid(tr("the body is no JSON object"))
    return found


def text_of(question, name):
    """A field of a request that must be a text. Raises Invalid."""
    if not isinstance(question.get(name), str):
        raise Invalid(tr("{name} must be a text: the labelling interface", name=name))
    return question[name]


def control_of(service, config):
    """The `Control` of a labelling interface that has most of the model's labels.

    Raises:
        Invalid: none has any.
    """
    try:
        controls = studio_controls(config)
    except ValueError as error:
        raise Invalid(str(error)) from error
    names = {*service.first.version.predictor.labels.names}
    shared = [len(names) if control.labels is None else len(names & control.labels) for control in controls]
    if not any(shared):
        raise Invalid(
            tr(
                "the labelling interface has no <Choices> or <Taxonomy> for a <Text> with a label of this model; its "
                "labels are in /info, and predict.py --for label_studio writes an interface"
            )
        )
    return controls[shared.index(max(shared))]


async def predictions(service, body, ask):
    """The answer to a request for predictions, bytes of JSON: one for each task, empty for a task without a text.

    ask: coroutine function from the body of a request to a labelling route to the answer to it.
    """
    with service.reading.work(len(body)) as do:
        control, texts = await do(len(body), _texts_of, service, body)
    version, names, scores = version_of(service), iter(()), iter(())
    if asked := [text for text in texts if text]:
        question = {"data": {"text": asked}, "parameters": {"bundle": service.first.name}}
        result = json.loads(await ask(json.dumps(question).encode()))["result"]
        names, scores = iter(result["label_name"]), iter(result["confidence"])
    found = []
    for text in texts:
        pairs = zip(next(names), next(scores)) if text else ()
        pairs = [(name, score) for name, score in pairs if control.labels is None or name in control.labels]
        chosen = [name for name, _ in pairs], [score for _, score in pairs]
        found.append(studio_prediction(*chosen, control.kind, control.name, control.text, version))
    return json.dumps({"results": found, "model_version": version}, ensure_ascii=False).encode("utf-8")


def _texts_of(service, body):
    """(`Control`, texts of the tasks, "" where there is none) of a request for predictions. Raises Invalid."""
    question = read(body)
    control = control_of(service, text_of(question, "label_config"))
    tasks = question.get("tasks")
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise Invalid(tr("tasks must be a list of tasks"))
    found = [task["data"].get(control.field) if isinstance(task.get("data"), dict) else None for task in tasks]
    return control, [text.strip() if isinstance(text, str) else "" for text in found]
