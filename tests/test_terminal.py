"""Tables of the log: aligned in columns of the terminal, whatever the letters, and without colours."""

import itertools
import unicodedata

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from text_cls import terminal
from text_cls.cli import command, logger
from text_cls.terminal import aligned, progress_bar


def columns(text):
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


NAMES = st.text(alphabet="ab中文。 [/]", min_size=1, max_size=12).map(lambda name: f"n{name}|")


@given(st.lists(st.tuples(NAMES, st.integers(-(10**9), 10**9)), min_size=1, max_size=6))
def test_numbers_end_in_one_column(rows):
    head, *lines = aligned(["标签", "count"], rows)
    assert len({columns(line) for line in (head, *lines)}) == 1
    assert [(line.rpartition("|")[0] + "|", int(line.rpartition("|")[2])) for line in lines] == rows


def test_no_colours_whatever_the_environment(monkeypatch):
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("CLICOLOR_FORCE", "1")):
        monkeypatch.setenv(name, value)
    assert "\x1b" not in "".join(aligned(["a"], [["[red]b"]]))
    assert aligned(["a"], [["[red]b"]]) == ["a", "[red]b"]


def test_no_script_writes_colours():
    """So that NO_COLOR needs no code."""
    assert [path for path in (ROOT / "text_cls").rglob("*.py") if "\\x1b[" in path.read_text(encoding="utf-8")] == []


@pytest.fixture
def minutes_pass(monkeypatch):
    """Each look at the clock is 40 seconds after the one before."""
    clock = itertools.count(0, 40)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))


def test_progress_without_a_terminal_is_logged_once_a_minute_with_the_remaining_time(minutes_pass, run):
    @command
    def main(argv):
        with progress_bar(1000, "rows", initial=200) as bar:
            for _ in range(4):
                bar.update(100)

    status, log = run(main)
    said = [line.partition(" - ")[2] for line in log.splitlines()]
    # After 80 s, 200 of the 800 rows were computed; after 160 s, 400 of them.
    assert said == ["400 of 1000 rows done, about 4 min left", "600 of 1000 rows done, about 3 min left"]


def test_progress_of_an_unknown_number(minutes_pass, run):
    @command
    def main(argv):
        with progress_bar(None, "rows") as bar:
            bar.update(3)
            bar.update(4)

    assert run(main)[1].endswith("7 rows done\n")


def test_quiet_leaves_warnings(minutes_pass, run):
    @command
    def main(argv):
        assert argv == ["--x", "1"]
        logger.info("something")
        with progress_bar(10, "rows") as bar:
            bar.update(5)
            bar.update(5)
        logger.warning("a warning")

    status, log = run(main, "--x", "1", "--quiet")
    assert status == 0 and log.endswith(" - a warning\n") and log.count("\n") == 1
