"""argparse's parser with help in the reader's language, whose lines also fit the terminal where letters are wide."""

import argparse
import functools
import re
import unicodedata

from text_cls.language import N_, tr

OF_EVERY_SCRIPT = N_("Every script also has --version, as the first flag, and --quiet: log warnings and errors only.")

# A Latin word, or a single wide letter with the punctuation that must not begin a line. Spaces after it belong to it.
_UNBREAKABLE = re.compile(r"(?:[^\s\u2e80-\uffef]+|[\u2e80-\uffef])[，。、；：？！）》」”]*\s*")


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, with everything that it prints translated."""

    def __init__(self, *args, formatter_class=argparse.HelpFormatter, epilog=OF_EVERY_SCRIPT, **kwargs):
        # argparse translates its own words with `_`, which looks for a catalogue in the system's folders.
        argparse._ = tr
        argparse.ngettext = lambda one, several, count: tr(one if count == 1 else several)
        super().__init__(*args, formatter_class=_translated(formatter_class), epilog=epilog, **kwargs)


class _Translated:
    """What all formatters have in common. The methods are those that argparse's own formatters override."""

    def _get_help_string(self, action):
        return tr(super()._get_help_string(action))

    def start_section(self, heading):
        super().start_section(heading and tr(heading))

    def add_text(self, text):
        super().add_text(text and tr(text))

    def _split_lines(self, text, width):
        lines = super()._split_lines(text, width)
        if all(line.isascii() for line in lines):
            return lines
        return _wrap(text, width)


class _Filled(_Translated):
    """Of formatters that break the lines of descriptions."""

    def _fill_text(self, text, width, indent):
        if text.isascii():
            return super()._fill_text(text, width, indent)
        return "\n".join(indent + line for line in _wrap(text, width - len(indent)))


@functools.cache
def _translated(formatter):
    raw = issubclass(formatter, argparse.RawDescriptionHelpFormatter)
    return type(formatter.__name__, (_Translated if raw else _Filled, formatter), {})


def _wrap(text, width):
    """Lines of at most `width` columns, of which Chinese letters take two."""
    lines = [""]
    for piece in _UNBREAKABLE.findall(" ".join(text.split())):
        if lines[-1] and _columns((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _columns(text):
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
