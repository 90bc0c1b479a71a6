import argparse
from dataclasses import replace

import pytest

from text_cls.cli import UserError
from text_cls.decision import Decision
from text_cls.decision_flags import add_decision_flags, decision_options, overridden


@pytest.fixture
def decide_with():
    """decide_with(decision, *flags) -> the decision changed by the flags."""
    parser = argparse.ArgumentParser()
    add_decision_flags(parser)
    return lambda decision, *flags: overridden(decision, **decision_options(parser.parse_args(list(flags))))


OWN = Decision(threshold=(0.2, 0.3), min_k=1, max_k=2, none_below=0.1, hierarchy="top_down")


@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        ([], {}),
        (["--threshold", "0.4"], {"threshold": 0.4}),
        (["--min_k", "3"], {"min_k": 3, "max_k": 3, "none_below": None}),  # the flag wins over the file's max_k
        (["--max_k", "1"], {"max_k": 1}),
        (["--min_k", "0", "--max_k", "5"], {"min_k": 0, "max_k": 5}),
        (["--top_k", "3"], {"min_k": 3, "max_k": 3, "none_below": None}),
        (["--hierarchy", "best_set"], {"hierarchy": "best_set"}),
    ],
)
def test_flags_win_over_the_file(decide_with, flags, changes):
    assert decide_with(OWN, *flags) == replace(OWN, **changes)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--threshold", "40"], "--threshold must be a number from 0 to 1, not 40"),
        (["--min_k", "3", "--max_k", "2"], "--max_k 2 is below min_k 3"),
        (["--top_k", "3", "--max_k", "2"], "leave out --min_k and --max_k"),
    ],
)
def test_contradictory_flags(decide_with, flags, message):
    with pytest.raises(UserError, match=message):
        decide_with(OWN, *flags)
