import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import edited_json

from text_cls.cli import UserError
from text_cls.neural.run_file import REMEDY, RUN
from text_cls.schema import FILE_NAME, TEXT, fields, list_of, map_of, number, or_null, read_json, whole

SHAPE = fields(
    {"width": whole(1, 99), "files": map_of(TEXT, key=FILE_NAME)},
    {"version": whole(1), "share": number(0, 1), "names": list_of(or_null(TEXT), least=1)},
    others=False,
)
GOOD = {"version": 2, "width": 3, "files": {"a.txt": "x"}, "share": 0.5, "names": ["好", None]}


@pytest.fixture
def refused(tmp_path):
    """refused(content, check, versions) -> the message about a file with this content."""

    def call(content, check=SHAPE, versions=()):
        path = tmp_path / "x.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with pytest.raises(UserError) as error:
            read_json(path, check, "make it again", versions)
        lines = str(error.value).splitlines()
        faults = lines[1:] or lines
        more = [faults.pop()] if faults[-1].startswith("  ... and") else []
        assert all(line.strip().startswith(str(path)) and line.endswith("make it again") for line in faults)
        return [line.strip().removeprefix(f"{path}").removesuffix("; make it again") for line in faults] + more

    return call


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", " is damaged (Expecting value"),
        (b"[1, 2]", " is damaged (an object {...} is expected, not a list)"),
        (b"null", " is damaged (an object {...} is expected, not null)"),
        (b"[" * 300_000, " is damaged (nested more than 50 deep)"),
        (b'{"width": ' + b"[" * 60 + b"]" * 60 + b"}", " is damaged (nested more than 50 deep)"),
        (b'{"width": ' + b"9" * 5000 + b"}", " is damaged (a number has 5000 digits)"),
        (b'{"width": 1, "width": 2}', " is damaged (the key 'width' appears twice)"),
        (b'{"files": {"a": 1, "a": 1}}', " is damaged (the key 'a' appears twice)"),
        (b'{"width": "\xff"}', " is damaged ('utf-8' codec can't decode"),
        (b" " * (65 << 20), " is larger than 64 MiB"),
    ],
)
def test_a_file_that_is_no_json_object_is_one_message(refused, content, message):
    (found,) = refused(content)
    assert found.startswith(message)


def test_all_faults_of_a_file_are_reported_together(refused):
    content = {"width": True, "files": {"../x": 1, "ok": "1"}, "share": float("nan"), "names": [], "x": 10**30}
    assert refused(content) == [
        ": width must be a whole number from 1 to 99, not true",
        ": a key of files must be the name of a file in this folder, not '../x'",
        ": files['../x'] must be a text, not 1",
        ": share must be a number from 0 to 1, not nan",
        ": names must be a list of at least 1, not an empty list",
        ": the field 'x' is unknown; known are width, files, version, share, names",
    ]


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, "null is unknown (this code reads versions 1 to 2)"),
        (True, "true is unknown (this code reads versions 1 to 2)"),
        (1.0, "1.0 is unknown (this code reads versions 1 to 2)"),
        ("2", "'2' is unknown (this code reads versions 1 to 2)"),
        (3, "3 is unknown (this code reads versions 1 to 2); upgrade this code, or make it again"),
    ],
)
def test_an_unknown_version_is_the_only_message(refused, version, message):
    """The rest of the file may mean something else there."""
    (found,) = refused({"version": version}, versions=(1, 2))
    assert found == f": version {message}"


def test_the_first_20_faults_are_shown(refused):
    lines = refused({**GOOD, "files": {str(i): i for i in range(30)}})
    assert len(lines) == 21 and lines[-1] == "  ... and 10 more"


def test_a_missing_file_is_a_message(tmp_path):
    with pytest.raises(UserError, match="x.json: No such file or directory; make it again"):
        read_json(tmp_path / "x.json", SHAPE, "make it again")


# ----------------------------------------------------------------------------------------------------------- run.json

CLASSIFIER = {  # as train.py writes it
    "kind": "classification",
    "arguments": {"max_seq_length": 48, "model_name": "ernie-3.0-base-zh", "amp": None, "learning_rate": 3e-5},
    "data": {"label.txt": "0" * 64},
    "packages": {"numpy": "1.26.4"},
    "python": "3.11.7",
    "commit": None,
    "processes": 1,
    "progress": {"epoch": 1, "batch": 0, "step": 9, "best_score": None, "history": [{"loss": 0.5}], "finished": False},
    "files": ["run.json"],
}
RUNS = [
    {},
    {"arguments": {"max_seq_length": 48}},  # the first versions had no kind
    CLASSIFIER,
    {**CLASSIFIER, "kind": "retrieval", "corpus": ["体育##马拉松"]},
    {**CLASSIFIER, "kind": "prompt", "prompt": [{"soft": None}, {"mask": None}], "label_words": [["好"], ["坏", "差"]]},
]


@pytest.mark.parametrize("run", RUNS)
def test_every_run_that_was_ever_written_opens(tmp_path, run):
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    assert read_json(tmp_path / "run.json", RUN, REMEDY) == run


def test_the_run_of_a_damaged_checkpoint_names_every_fault(tmp_path):
    run = {**CLASSIFIER, "kind": "retrieval", "arguments": [1], "processes": 0, "files": [1], "progress": {"epochs": 3}}
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_json(tmp_path / "run.json", RUN, REMEDY)
    faults = [line.split(": ", 1)[1].split("; ")[0] for line in str(error.value).splitlines()[1:]]
    assert sorted(faults) == [  # the ends are cut off at "; "
        "arguments must be an object {...}, not a list",
        "corpus is missing",
        "files[0] must be a text, not 1",
        "processes must be a whole number of at least 1, not 0",
        "the field 'epochs' of progress is unknown",
    ]


@given(st.data())
def test_any_value_in_any_place_is_accepted_or_a_message(tmp_path_factory, data):
    edited = data.draw(st.sampled_from(RUNS).flatmap(edited_json))
    path = tmp_path_factory.getbasetemp() / "run.json"
    path.write_text(json.dumps(edited), encoding="utf-8")
    try:
        assert isinstance(read_json(path, RUN, REMEDY), dict)
    except UserError as error:
        assert str(path) in str(error) and str(error).endswith(REMEDY)
