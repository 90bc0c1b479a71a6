"""Brings the Chinese messages up to date with the code: text_cls/locale/zh_CN/LC_MESSAGES/text_cls.po and .mo.

    make translations

New messages get an empty entry, to be translated by hand; those whose English changed or went lose theirs. Prints what
lacks a translation, and ends with status 1 while something does. Messages of the code are: texts in `tr`, `N_` and
`translated`, templates of log lines, help of flags and groups, the docstring of a script that shows it as
help, and what argparse itself says.
"""

import argparse
import ast
import datetime
import io
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.cli import command
from text_cls.language import CHINESE, DOMAIN, FOLDER

ROOT = FOLDER.parent.parent
PO = FOLDER / CHINESE / "LC_MESSAGES" / f"{DOMAIN}.po"
MARKED = ("tr", "N_", "say", "translated")
LOGGED = ("debug", "info", "warning", "error", "exception")
NOT_READ_BY_USERS = ("tests", "benchmarks", ".ci", "docs")


@command
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    catalogue = updated(read_catalogue(PO), messages())
    write_catalogue(catalogue, PO)
    missing = [message.id for message in catalogue if message.id and not message.string]
    for message in missing:
        print(f"no translation: {message!r}")
    print(f"{PO}: {len(catalogue)} messages, {len(missing)} without a translation")
    return 1 if missing else 0


def messages():
    """{message: sorted names of the files that say it} of the whole project."""
    found = {}
    for path in sources():
        for message in messages_of(path.read_text(encoding="utf-8")):
            found.setdefault(message, set()).add(path.relative_to(ROOT).as_posix())
    for message in _said_by_argparse():
        found.setdefault(message, set()).add("argparse")
    return {message: sorted(names) for message, names in sorted(found.items())}


def sources():
    """The project's Python files whose messages users read."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        **{"cwd": ROOT, "check": True, "capture_output": True, "encoding": "utf-8"},
    ).stdout.splitlines()
    return [ROOT / name for name in listed if name.split("/")[0] not in NOT_READ_BY_USERS and (ROOT / name).exists()]


def messages_of(source):
    """The messages of a module, in its order, each once."""
    tree = ast.parse(source)
    found = dict.fromkeys(message for node in ast.walk(tree) for message in _messages_of_node(node))
    if any(isinstance(node, ast.keyword) and ast.unparse(node.value) == "__doc__" for node in ast.walk(tree)):
        found[ast.get_docstring(tree, clean=False)] = None
    return [message for message in found if message]


def _messages_of_node(node):
    """What a call says: constant texts only, since others are made of messages."""
    if not isinstance(node, ast.Call):
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    said = []
    if name in MARKED or (name in LOGGED and ast.unparse(node.func).startswith("logger.")):
        said += node.args[:1]
    if name == "add_argument_group":
        said += node.args
    said += [keyword.value for keyword in node.keywords if keyword.arg in ("help", "description", "epilog")]
    for value in said:
        yield from _constants(value)


def _constants(value):
    """Texts of an expression: itself, or both sides of `a if b else c`."""
    if isinstance(value, ast.IfExp):
        yield from _constants(value.body)
        yield from _constants(value.orelse)
    elif isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value


def _said_by_argparse():
    from babel.messages.extract import extract_python

    with open(argparse.__file__, "rb") as file:
        for _, _, message, _ in extract_python(file, {"_": None, "ngettext": (1, 2)}, [], {"encoding": "utf-8"}):
            yield from filter(None, [message] if isinstance(message, str) else message or ())


def read_catalogue(path):
    """The catalogue of a .po file; an empty one if there is none."""
    from babel.messages.catalog import Catalog
    from babel.messages.pofile import read_po

    if not path.exists():
        return Catalog(locale=CHINESE)
    with open(path, encoding="utf-8") as file:
        return read_po(file, locale=CHINESE)


def updated(catalogue, wanted):
    """A catalogue of exactly the messages `wanted` ({message: files}), with the translations of the former one."""
    from babel.messages.catalog import Catalog

    comment, date = "# `make translations` brings this up to date.", datetime.datetime(2026, 1, 1)
    fresh = Catalog(locale=CHINESE, fuzzy=False, header_comment=comment, creation_date=date, revision_date=date)
    for message, files in wanted.items():
        old = catalogue.get(message)
        # Lines would change with every edit of a file.
        fresh.add(message, old.string if old else "", locations=[(name, None) for name in files])
    return fresh


def write_catalogue(catalogue, path):
    """Writes the .po file and, beside it, the .mo file that programs read."""
    for ending, content in contents(catalogue).items():
        path.with_suffix(ending).write_bytes(content)


def contents(catalogue):
    """{".po": bytes, ".mo": bytes} of a catalogue, the same for the same messages."""
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import write_po

    text, compiled = io.BytesIO(), io.BytesIO()
    write_po(text, catalogue, width=0, sort_output=True, omit_header=False)
    write_mo(compiled, catalogue)
    unused = (b"-Date: ", b'"Project-Id-', b'"Report-', b'"Last-Tr', b'"Language-Team', b'"Generated-By')
    lines = [line for line in text.getvalue().split(b"\n") if not any(word in line for word in unused)]
    return {".po": b"\n".join(lines), ".mo": compiled.getvalue()}


if __name__ == "__main__":
    sys.exit(main())
