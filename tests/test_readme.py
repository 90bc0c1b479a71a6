"""READMEs and manuals match the code: flags, commands, links, messages."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import translations
from conftest import ROOT, load_script

FOLDERS = (
    "",
    "data/",
    "analysis/",
    "deploy/",
    "deploy/bulk/",
    "deploy/predictor/",
    "deploy/simple_serving/",
    "deploy/triton_serving/",
    "deploy/paddle_serving/",
    "few-shot/",
    "retrieval_based/",
)
MANUALS = (
    "install",
    "files",
    "walkthrough",
    "train",
    "evaluate",
    "predict",
    "export_model",
    "prune",
    "large_corpus",
    "troubleshooting",
)
TWINS = [
    *((f"{folder}README.md", f"{folder}README_zh.md") for folder in FOLDERS),
    *((f"docs/{name}.md", f"docs/{name}_zh.md") for name in MANUALS),
    ("data/doccano.md", "data/doccano_zh.md"),
    ("data/from_table.md", "data/from_table_zh.md"),
]
READMES = [name for pair in TWINS for name in pair]
# The document of each script's flags: (file without .md, heading or None for the whole file, script).
SECTIONS = [
    *((f"docs/{name}", None, f"{name}.py") for name in ("train", "predict", "export_model", "prune")),
    ("docs/evaluate", None, "analysis/evaluate.py"),
    *(
        ("analysis/README", f"{name}.py", f"analysis/{name}.py")
        for name in (
            "check_data",
            "split",
            "word_interpret",
            "sent_interpret",
            "sparse",
            "dirty",
            "aug",
            "threshold",
            "drift",
            "search",
        )
    ),
    ("analysis/README", "search.py", "analysis/search.py"),
    ("data/doccano", "doccano.py", "data/doccano.py"),
    ("data/from_table", "from_table.py", "data/from_table.py"),
    ("data/README", "make_pretrained_model.py", "data/make_pretrained_model.py"),
    *(
        (f"{folder}/README", f"{name}.py", f"{folder}/{name}.py")
        for folder, names in (
            ("deploy", ("image_check",)),
            ("deploy/bulk", ("bulk",)),
            ("deploy/predictor", ("infer",)),
            ("deploy/simple_serving", ("server", "client")),
            ("deploy/triton_serving", ("build_repository", "seqcls_grpc_client", "seqcls_http_client")),
            ("deploy/paddle_serving", ("build_service", "service", "rpc_client", "http_client")),
            ("retrieval_based", ("train", "recall", "evaluate", "predict", "export_model", "index")),
            ("few-shot", ("zero_shot", "train", "infer")),
        )
        for name in names
    ),
]


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def script_at(path):
    """The module of a script, by its path from the root; the one that a test imports by name, if there is one."""
    name = Path(path).stem
    found = importlib.util.find_spec(name)
    same = found and Path(found.origin) == ROOT / path
    return importlib.import_module(name) if same else load_script(path)


def flags_of(run, path, *command):
    _, help_text = run(script_at(path).parse_args, *command, "--help")
    options = help_text.partition("options:")[2]
    inner = None if command else re.search(r"^ +(\w+(\|\w+)+)$", help_text, re.M)  # add|remove: each has its own
    inner = inner[1].split("|") if inner else ()
    return set(re.findall(r"--[a-z_0-9]+", options)).union(*(flags_of(run, path, name) for name in inner))


@pytest.mark.parametrize("language", ["", "_zh"])
@pytest.mark.parametrize(("document", "heading", "script"), SECTIONS)
def test_every_flag_is_documented(run, document, heading, script, language):
    section = text_of(f"{document}{language}.md")
    if heading:
        section = section.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`(--[a-z_0-9]+)`", section))
    flags = flags_of(run, script) - {"--help", "--version", "--quiet", "--no"}  # of all; --no: the start of opposites
    assert flags and flags <= documented, flags - documented


def commands_of(document):
    """The lines of a document's shell blocks, and the commands in its text that are not abbreviated."""
    text = text_of(document)
    for block in re.findall(r"```shell\n(.*?)```", text, re.S):
        yield from block.replace("\\\n", " ").splitlines()
    yield from (command for command in re.findall(r"`(python [^`\n]+)`", text) if "..." not in command)


@pytest.mark.parametrize("document", READMES)
def test_every_command_parses(document):
    """`python X.py ...` parses and X.py is where the command says; `make X` is a target of the Makefile."""
    folder, found = (ROOT / document).parent, 0
    for command in commands_of(document):
        words = shlex.split(command, comments=True)
        script = next((word for word in words if word.endswith(".py")), None)
        if words[:1] == ["python"] and script:
            path = next((place / script for place in (folder, ROOT) if (place / script).exists()), None)
            assert path, f"{script} is neither in {folder} nor in the project's root"
            script_at(str(path.resolve().relative_to(ROOT))).parse_args(words[words.index(script) + 1 :])
            found += 1
        if words[:1] == ["make"]:
            assert f"\n{words[1]}:" in text_of("Makefile")
            found += 1
    assert found or document.startswith("docs/files")


def anchors_of(path):
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*READMES, "CHANGELOG.md"])
def test_every_link_has_a_target(document):
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text_of(document)):
        name, _, anchor = link.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.exists(), link
        assert not anchor or anchor in anchors_of(path), link


def test_every_manual_is_tested():
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} == {
        n for n in READMES if n.startswith("docs/")
    }


@pytest.mark.parametrize(("english", "chinese"), TWINS)
def test_twins_have_the_same_parts(english, chinese):
    for pattern in (r"^#+ ", r"^```", r"^\| ", r"^!\["):
        counts = [len(re.findall(pattern, text_of(name), re.M)) for name in (english, chinese)]
        assert counts[0] == counts[1], pattern


def messages_in(path):
    """The texts in a module, with … for each value that is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield without_values(node.value)


def without_values(message):
    return re.sub(r"%[-\d.]*[a-z]|\{\w+(![ras])?(:[^{}]*)?\}", "…", message)


@pytest.mark.parametrize("language", ["", "_zh"])
def test_troubleshooting_quotes_real_messages(language):
    quotes = re.findall(r"^\| `(.+?)` \|", text_of(f"docs/troubleshooting{language}.md"), re.M)
    if language:
        messages = [without_values(message.string) for message in translations.read_catalogue(translations.PO)]
    else:
        sources = [*ROOT.glob("*.py"), *(ROOT / "text_cls").rglob("*.py")]
        messages = [message for path in sources for message in messages_in(path)]
    assert len(quotes) > 10
    assert [quote for quote in quotes if not any(quote in message for message in messages)] == []


@pytest.mark.parametrize("name", ["report", "report_zh", "server", "server_zh"])
def test_pictures_are_small(name):
    assert 0 < (ROOT / "docs" / "images" / f"{name}.png").stat().st_size < 200_000
