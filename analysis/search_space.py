"""What `search.py` searches: for each flag a range of numbers, or a choice."""

import argparse
import json
import math

from text_cls.cli import closest, shorten, value_problem
from text_cls.language import N_, tr

SYNTAX = N_("a range is LOW..HIGH, a choice VALUE,VALUE,...")
LOG_FROM = 10  # ends of a range that differ by this factor are searched on a log scale
DIGITS = 3  # of a number from a range: more have no effect, and less is easier to read
SWITCH = {"true": True, "false": False}


def read_space(parser, texts):
    """The values to search.

    Args:
        parser: of the script, whose flags are searched.
        texts: {name of a flag: text in the syntax of --space}.
    Returns:
        {name: Optuna distribution}.
    Raises:
        ValueError: what is wrong with one of them.
    """
    flags = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    space = {}
    for name, text in texts.items():
        if name not in flags:
            raise ValueError(tr("there is no flag --{name}{hint}", name=name, hint=closest(name, flags)))
        try:
            space[name] = _distribution(flags[name], text)
        except ValueError as error:
            raise ValueError(f"{name}={text}: {error}") from error
    return space


def split_texts(words):
    """{name: text} of the words after --space, each NAME=VALUES. Raises ValueError."""
    texts = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not (sign and text):
            raise ValueError(
                tr("{word} is not of the form NAME=VALUES, such as learning_rate=1e-5..1e-3", word=shorten(word))
            )
        if name in texts:
            raise ValueError(tr("{name} is given twice", name=name))
        texts[name] = text
    return texts


def _distribution(action, text):
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if action.nargs in ("+", "*"):
        raise ValueError(tr("this flag takes several values and cannot be searched; give it to all trials"))
    if ".." in text:
        low, _, high = text.partition("..")
        low, high = _value(action, low), _value(action, high)
        if isinstance(low, bool) or not isinstance(low, (int, float)):
            raise ValueError(tr("this flag has no range; {syntax}", syntax=tr(SYNTAX)))
        if low >= high:
            raise ValueError(tr("the first number of a range is the lower one"))
        kind = IntDistribution if isinstance(low, int) else FloatDistribution
        return kind(low, high, log=low > 0 and high / low >= LOG_FROM)
    values = [_value(action, value) for value in text.split(",")]
    if len(set(values)) < len(values):
        raise ValueError(tr("a value is given twice"))
    return CategoricalDistribution(values)


def _value(action, text):
    """The value of a flag, parsed as on the command line; "none" is that of a flag that is not given."""
    if isinstance(action, argparse.BooleanOptionalAction):
        if text not in SWITCH:
            raise ValueError(tr("{text} is neither true nor false", text=shorten(text)))
        return SWITCH[text]
    if text == "none" and action.default is None:
        return None
    if problem := value_problem(action, text):
        raise ValueError(problem)
    return action.type(text) if action.type else text


def size(space):
    """How many settings there are: an int, or infinity."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    counts = []
    for each in space.values():
        if isinstance(each, CategoricalDistribution):
            counts.append(len(each.choices))
        else:
            counts.append(each.high - each.low + 1 if isinstance(each, IntDistribution) else math.inf)
    return math.prod(counts)


def nearest(distribution, value):
    """A value of a distribution: `value` itself, or the nearest one; of a choice without it, the first."""
    from optuna.distributions import CategoricalDistribution

    if isinstance(distribution, CategoricalDistribution):
        return value if value in distribution.choices else distribution.choices[0]
    low, high = distribution.low, distribution.high
    return low if value is None else type(low)(min(max(value, low), high))


def rounded(params):
    """The settings of a trial: its parameters, numbers of a range rounded to 3 digits."""
    return {name: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value for name, value in params.items()}


def given(parser, values):
    """{name: value} of the flags that differ from their defaults."""
    found = {}
    for action in parser._actions:
        if action.dest not in ("help", "config") and values.get(action.dest, action.default) != action.default:
            found[action.dest] = values[action.dest]
    return found


def words_of(parser, values):
    """The words of the command line that give these values, {name: value}."""
    actions = {action.dest: action for action in parser._actions}
    for name, value in given(parser, values).items():
        action = actions[name]
        if isinstance(action, argparse.BooleanOptionalAction):
            yield action.option_strings[0 if value else 1]
        elif isinstance(value, list):
            yield from (f"--{name}", *map(str, value))
        else:
            yield f"--{name}={value}"


def config_lines(parser, values):
    """The lines of a file for --config that gives these values, {name: value}."""
    for name, value in given(parser, values).items():
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, (str, bool)) else str(value)
        yield f"{name}: {text}\n"
