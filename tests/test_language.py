"""Messages in the reader's language: the catalogue is whole and fresh, and nothing that users read is outside it."""

import ast
import re
import string

import pytest
import translations
from conftest import ROOT

from text_cls import language
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import command, logger

# Texts with several words that are no messages, by the file and how they begin.
NO_MESSAGES = {
    "data/make_pretrained_model.py": ["# {model}"],  # a file beside the weights
    "deploy/paddle_serving/build_service.py": ["# Made by", "{} {\n  name"],  # files of Paddle Serving
    "deploy/paddle_serving/wire.py": ["array(["],
    "deploy/paddle_serving/gateway.py": ['{"key"', "404 ", "405 ", "400 "],  # HTTP
    "deploy/simple_serving/application.py": ["default-src", "{}; style-src", "script-src"],
    "deploy/simple_serving/gate.py": ["%(id)s"],
    "deploy/simple_serving/docs.py": ["\n@media", "<!DOCTYPE", "<p><a"],
    "deploy/triton_serving/build_repository.py": [
        "backend:",
        "instance_group",
        "  { name",
        "      {} {",
        "parameters {",
        "platform:",
        "version_policy",
    ],
    "deploy/triton_serving/seqcls_client.py": ["Exceeds", "Deadline", "timed out", "unknown model"],  # said by Triton
    "data/dataset_files.py": ["without a text"],  # a key
    "data/next_steps.py": [
        "  {} train.py",
        "--learning_rate",
        "  PIP_INDEX",
        "  {} data/",
        "  {} export",
        "  {} deploy",
    ],
    "few-shot/prompting.py": ["{'soft'}"],
    "text_cls/search/milvus_index.py": ["digests like"],  # a filter
    "retrieval_based/evaluate.py": ["Micro f1 score", "Macro f1 score"],  # PaddleNLP's application prints them
    "analysis/sent_interpret.py": ["text: {}", "label: {}", "support{}"],  # a file that the guides show
    "analysis/aug.py": ["cat ", "{ cat"],
    "text_cls/foreign_files.py": ["tr '"],
    "text_cls/cli.py": ["[%(asctime)s]"],
    "text_cls/neural/compat.py": ["[%(asctime)s]"],
    "text_cls/language.py": ["{}={}: write"],  # has both languages
    "text_cls/trackers.py": ["| argument"],  # a table that a tracker shows
}
# Model cards, which have both languages, and what runs in Triton.
OTHER_LANGUAGES = re.compile(
    r"(python_models/\w+|model_card|card_\w+|hugging_face_export|html_page|\w+_page|page_parts|text_box)\.py$"
)
TITLES = ("Label Studio", "neural model", "both models", "whole model", "Prometheus metrics")
NOT_SHOWN = (
    *("compile", "fullmatch", "search", "match", "finditer", "findall", "sub", "split", "startswith", "endswith"),
    *("filterwarnings", "simplefilter", "add_argument_group", "namedtuple", "getattr", "execute", "encode"),
    *("Counter", "Gauge", "Histogram", "CounterMetricFamily", "GaugeMetricFamily", "HistogramMetricFamily"),
)


@pytest.fixture
def chinese(monkeypatch):
    monkeypatch.setenv("TEXT_CLS_LANG", "zh_CN")


@pytest.fixture(scope="module")
def catalogue():
    return translations.read_catalogue(translations.PO)


def test_every_message_has_a_translation_and_no_translation_lacks_its_message(catalogue):
    known = {message.id: message.string for message in catalogue if message.id}
    said = translations.messages()
    assert [message for message in said if not known.get(message)] == []
    assert [message for message in known if message not in said] == []


def test_the_compiled_catalogue_is_that_of_the_text_file(catalogue):
    for ending, content in translations.contents(translations.updated(catalogue, translations.messages())).items():
        assert translations.PO.with_suffix(ending).read_bytes() == content, "run make translations"


def fields_of(message):
    """What a message's placeholders are: those in braces in any order, those with % in theirs."""
    percent = re.findall(r"%(?:\(\w+\)[sd]|[-+ #0]*\d*(?:\.\d+)?[sdfgra]|%)", message)
    braces = re.findall(r"\{[a-z_]\w*(?:![ras])?(?::[^{}]*)?\}", message)
    return sorted(braces), sorted(percent) if any("(" in field for field in percent) else percent


def test_placeholders_of_a_translation_are_those_of_its_message(catalogue):
    differ = [
        message.id for message in catalogue if message.string and fields_of(message.id) != fields_of(message.string)
    ]
    assert differ == []


def test_translations_can_be_filled_in(catalogue):
    """A brace too many would fail only when a user meets the message."""
    for message in catalogue:
        if message.string and named(message.id):
            assert named(message.string) == named(message.id), message.id


def named(message):
    """The names of its values."""
    try:
        return {name for _, name, _, _ in string.Formatter().parse(message)} - {None}
    except ValueError:  # a message without values, such as one that shows JSON
        return set()


def prose(text):
    return " " in text.strip() and len(re.findall(r"(?<![\w./<-])[A-Za-z][a-z']+(?![\w/=>])", text)) >= 2


def outside(tree):
    """(line, text) of each literal of several words that is no message, docstring, key or pattern."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if prose(text) and not covered(node, parents):
            yield node.lineno, text


def covered(node, parents):
    """Whether the catalogue has a literal, or no user reads it."""
    above = parents[node]
    if isinstance(above, (ast.Expr, ast.JoinedStr, ast.Compare)) or isinstance(above, ast.Dict) and node in above.keys:
        return True
    is_constant, inner = isinstance(node, ast.Constant), node
    while inner in parents:
        inner, last = parents[inner], inner
        if isinstance(inner, ast.keyword) and inner.arg in ("help", "description", "epilog"):
            return is_constant
        if isinstance(inner, ast.Call):
            name = inner.func.attr if isinstance(inner.func, ast.Attribute) else getattr(inner.func, "id", "")
            template = ast.unparse(inner.func).startswith("logger.") and last is inner.args[0] and is_constant
            if name in NOT_SHOWN or name in translations.MARKED or template:
                return True
        if isinstance(inner, ast.AnnAssign):
            return True
    return False


def test_no_text_that_users_read_is_outside_the_catalogue():
    found = []
    for path in translations.sources():
        name = path.relative_to(ROOT).as_posix()
        if OTHER_LANGUAGES.search(name):
            continue
        for line, text in outside(ast.parse(path.read_text(encoding="utf-8"))):
            if text not in TITLES and not text.startswith(tuple(NO_MESSAGES.get(name, ()))):
                found.append(f"{name}:{line}: {text[:60]!r}")
    assert found == [], "mark them: tr(...), or N_(...) for a constant, of text_cls.language"


@pytest.mark.parametrize(
    "code, count",
    [
        ('def f(x): raise UserError(f"{x} has no rows")', 1),
        ('def f(x): raise UserError(tr("{x} has no rows", x=x))', 0),
        ('REMEDY = "train it again"', 1),
        ('REMEDY = N_("train it again")', 0),
        ('logger.info("the run of %s", 1)', 0),
        ('logger.info(f"the run of {x}")', 1),
        ('parser.add_argument("--x", help="the first value")', 0),
        ('parser.add_argument("--x", help=f"the first {x} value")', 1),
        ('"""The whole module."""\nx = {"two words": 1}\nre.compile("two words")', 0),
    ],
)
def test_a_text_outside_the_catalogue_is_found(code, count):
    assert len(list(outside(ast.parse(code)))) == count


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh_CN"),
        ({"LANG": "zh_TW.UTF-8"}, "zh_CN"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, "zh_CN"),
        ({"LANG": "en_US.UTF-8", "TEXT_CLS_LANG": "zh_CN"}, "zh_CN"),
        ({"LANG": "zh_CN.UTF-8", "TEXT_CLS_LANG": "en"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "TEXT_CLS_LANG": ""}, "zh_CN"),
    ],
)
def test_the_language(monkeypatch, variables, expected):
    for name in ("TEXT_CLS_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(language.locale, "getlocale", lambda: (None, None))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language.language() == expected


def test_windows_has_a_locale_without_variables(monkeypatch):
    for name in ("TEXT_CLS_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(language.locale, "getlocale", lambda: ("Chinese (Simplified)_China", "936"))
    assert language.language() == "zh_CN"


def test_an_unknown_language_is_refused(monkeypatch, run):
    monkeypatch.setenv("TEXT_CLS_LANG", "fr")
    status, log = run(command(lambda argv: None))
    assert status == 2 and log == "error: TEXT_CLS_LANG=fr: write en or zh_CN (中文)\n"


def test_braces_without_values_are_braces(chinese):
    assert language.tr('of the form {"word": 1}') == 'of the form {"word": 1}'
    assert language.tr("{path}: no rows", path="{x}") == "{x}：没有样本"
    assert language.tr("") == ""


def test_a_fault_in_chinese(chinese, run, tmp_path):
    import train

    (tmp_path / "train.txt").write_text("文本\t标签\n", encoding="utf-8")
    status, log = run(train.main, "--dataset_dir", tmp_path, "--device", "cpu", "--epochs", "many")
    assert status == 2 and log.startswith("用法") and "many" in log and not prose(log.splitlines()[-1]), log
    status, log = run(train.main, "--dataset_dir", tmp_path, "--device", "cpu")
    assert status == 2 and log.startswith("错误：") and "label.txt" in log, log


def test_log_lines_of_the_guides_are_english_in_both_languages(chinese, run):
    @command
    def main(argv):
        logger.info("Save best %s text classification model in %s", "macro F1", "checkpoint")
        logger.info("Early stop!")
        logger.info("Saved in %s", "file.txt")

    status, log = run(main)
    assert status == 0 and "Save best macro F1 text classification model in checkpoint\n" in log
    assert "Early stop!" in log and "已保存到 file.txt" in log


def test_help_is_chinese_and_fits_the_terminal(chinese, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    parser = ArgumentParser(description="把很长的说明文字分成几行，" * 12)
    parser.add_argument(
        "--x", help="一段很长的说明，其中也有 English words 和 --flags，" * 6 + "(%(default)s)", default=3
    )
    lines = parser.format_help().splitlines()
    assert max(map(columns, lines)) <= 60 and lines[0].startswith("用法")
    assert not [line for line in lines if re.match(r"\s*[，。、]", line)]
    assert "(3)" in "".join(lines)


def columns(line):
    return sum(2 if ord(letter) > 0x2E7F else 1 for letter in line)
