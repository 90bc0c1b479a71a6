"""The form of a request and of its answer: validation of requests, and the OpenAPI schema of both."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from text_cls.language import tr

NO_OTHER_KEYS = {"additionalProperties": False}
LEAST_TOKENS = 3  # one of the text's, between the first and the last, which are special


class Invalid(Exception):
    """The request is not valid. The message says what to change, and quotes no part of a text."""


class _Strict(BaseModel):
    # `parse` checks for unknown keys: pydantic would create an error for each of a million of them.
    model_config = ConfigDict(strict=True, extra="allow", json_schema_extra=NO_OTHER_KEYS)


Text = Annotated[str, Field(pattern=r"\S")]
Texts = Annotated[list[Text], Field(min_length=1, fail_fast=True)]


def _whole(number):
    """JSON has one kind of number: 64.0 is an integer, as JSON Schema says, and some clients write it like that."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


# Not an object, of which an answer with a hundred labels would repeat the keys as often.
Passage = Annotated[
    list[int],
    Field(min_length=2, max_length=2, description="[start, end) in the text, in characters: Unicode code points"),
]
Length = Annotated[int, Field(ge=LEAST_TOKENS), BeforeValidator(_whole)]
Size = Annotated[int, Field(ge=1), BeforeValidator(_whole)]


class Data(_Strict):
    text: Text | Texts = Field(description="one text, or a list of texts")


class Parameters(_Strict):
    max_seq_len: Length | None = Field(None, description="maximum tokens per text or window; by default as in training")
    batch_size: Size | None = Field(None, description="maximum texts or windows of this request in one run")
    prob_limit: float | None = Field(
        None,
        ge=0,
        le=1,
        description="the probability a label must exceed, instead of the bundle's thresholds; the rest of its "
        "decision (min_k, max_k, none_below, hierarchy) applies as before",
    )
    bundle: str | None = Field(None, description="name of the bundle that shall answer, of those of /info")
    split_id: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="an id, as of a user: with --split, requests with the same id are answered by the same bundle",
    )
    top_k: Size | None = Field(None, description="also return this many labels with the highest probabilities")
    all_scores: bool | None = Field(None, description="also return the probabilities of all labels")
    evidence: bool | None = Field(
        None, description="return the passage that decided each label; only if the mode of long_texts is windows"
    )


class Question(_Strict):
    data: Data
    parameters: Parameters | None = None


class Result(BaseModel):
    label: list[list[int]] = Field(description="for each text: line numbers of its labels in label.txt, from 0")
    confidence: list[list[float]] = Field(description="for each text: the probabilities of those labels")
    label_name: list[list[str]] = Field(description="for each text: the names of those labels, each after its parent")
    top_label: list[list[int]] | None = Field(
        None, description="with top_k: for each text, the most probable labels, predicted or not, the first most of all"
    )
    top_confidence: list[list[float]] | None = Field(None, description="with top_k: the probabilities of those labels")
    top_label_name: list[list[str]] | None = Field(None, description="with top_k: the names of those labels")
    scores: list[list[float]] | None = Field(
        None, description="with all_scores: for each text, the probabilities of all labels, in the order of label.txt"
    )
    evidence: list[list[Passage]] | None = Field(
        None, description="if asked for: for each text, the passages with the highest logits of those labels"
    )
    truncated: list[bool] | None = Field(
        None,
        description="for each text: whether its end was not read, as it has too many windows; only if one was not",
    )


class Answer(BaseModel):
    result: Result


class Versions(BaseModel):
    name: str = Field(description="name of the bundle, as in the header X-Bundle of its answers")
    version: str = Field(description="first 12 digits of the SHA-256 of its manifest, as in X-Bundle-Version")
    previous: str | None = Field(description="the version that POST /admin/rollback would bring back")
    route: str = Field(description="where to POST texts")


class Info(Versions):
    task: str = Field(description="hierarchical, multi_label or retrieval")
    labels: list[str]
    model: str
    bundle: str = Field(description="SHA-256 of the manifest of the bundle in use")
    thresholds: list[float] = Field(description="what the probability of each label must exceed")
    max_seq_len: int = Field(description="maximum tokens per text or window, unless a request sets another number")
    long_texts: dict[str, str | int | None] = Field(
        description="how longer texts are read: mode is cut, head_tail or windows, of which a text has max_windows"
    )
    limits: dict[str, int | float]
    bundles: list[Versions] = Field(description="all bundles of the server")
    split: dict[str, float] | None = Field(description="shares of the requests by bundle; null: the first answers")


class Error(BaseModel):
    detail: str = Field(description="what is wrong and what to do")


def parse(body, max_texts, max_characters):
    """The texts of a request as a list, and its `Parameters`.

    Args:
        body: bytes of JSON.
        max_texts, max_characters: maximum texts per request and characters per text.
    Raises:
        Invalid.
    """
    try:
        question = Question.model_validate_json(body)
    except ValidationError as error:
        raise Invalid(_explain(error)) from None
    parameters = question.parameters or Parameters()
    for where, part in (("", question), ("data.", question.data), ("parameters.", parameters)):
        if part.model_extra:
            known = ", ".join(type(part).model_fields)
            raise Invalid(
                tr(
                    "{where}{iter} is unknown; known are {known}",
                    where=where,
                    iter=next(iter(part.model_extra))[:40],
                    known=known,
                )
            )
    texts = [question.data.text] if isinstance(question.data.text, str) else question.data.text
    if len(texts) > max_texts:
        raise Invalid(
            tr(
                "{count} texts, but a request may have at most {max_texts}; send them in several",
                count=len(texts),
                max_texts=max_texts,
            )
        )
    for i, text in enumerate(texts):
        if len(text) > max_characters:
            raise Invalid(
                tr(
                    "text {i} (from 0) has {count} characters; at most {max_characters} are allowed; shorten it",
                    i=i,
                    count=len(text),
                    max_characters=max_characters,
                )
            )
    return texts, parameters


def _explain(error):
    """The first error in a sentence, without values, which may be a person's text."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = first["loc"]
    if first["type"] == "json_invalid":
        return tr(
            "the body is not JSON in UTF-8 ({removeprefix})", removeprefix=first["msg"].removeprefix("Invalid JSON: ")
        )
    if place[:2] == ("data", "text") and first["type"] != "missing":
        return tr("data.text must be a text or a list of at least one text, none of them blank")
    where = ".".join(str(piece) for piece in place) or tr("the body")
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}"


def refine(schema, limits, longest, windows, names):
    """Adds the classes of requests and errors, and the limits in force, to the application's OpenAPI schema.

    windows: whether a bundle reads long texts in windows; without, what is about them is left out.
    names: of the bundles.
    """
    parts = schema["components"]["schemas"]
    parts["Error"] = Error.model_json_schema()
    definition = Question.model_json_schema(ref_template="#/components/schemas/{model}")
    parts.update(definition.pop("$defs"))
    parts["Question"] = definition
    text, texts = parts["Data"]["properties"]["text"]["anyOf"]
    text["maxLength"] = texts["items"]["maxLength"] = limits["max_characters"]
    texts["maxItems"] = limits["max_texts"]
    parts["Parameters"]["properties"]["max_seq_len"]["anyOf"][0]["maximum"] = longest
    parts["Parameters"]["properties"]["bundle"]["anyOf"][0]["enum"] = names
    for part, name in () if windows else (("Parameters", "evidence"), ("Result", "evidence"), ("Result", "truncated")):
        del parts[part]["properties"][name]
    return schema


def share_errors(schema, statuses):
    """Describes each error once, in the components of an OpenAPI schema, instead of at every route.

    Args:
        statuses: {status: description}; those that no route answers with are left out.
    """
    operations = [operation for path in schema["paths"].values() for operation in path.values()]
    used = set().union(*(operation["responses"] for operation in operations))
    statuses = {status: text for status, text in statuses.items() if str(status) in used}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    shared = {str(status): {"description": text, "content": content} for status, text in statuses.items()}
    schema["components"]["responses"] = shared
    for operation in operations:
        for status in operation["responses"].keys() & shared.keys():
            operation["responses"][status] = {"$ref": f"#/components/responses/{status}"}
