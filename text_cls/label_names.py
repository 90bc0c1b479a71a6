"""The one form in which label names are compared, so that two names which look alike are not two labels.

`tidy_name` removes what nobody sees: a name and its tidy form are one label everywhere. `normal_form` also ignores
letter case and full width: two labels of a data set must differ in it, and a row whose label matches only in it is an
error, because the difference may be meant.
"""

import functools
import re
import unicodedata

from text_cls.label_tree import SEPARATOR, split_path
from text_cls.language import tr

# Characters without a width. The first kind means nothing in a name; the second shapes emoji and some scripts.
_STRAY = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]+")
_SHAPING = re.compile("[\u034f\u115f\u1160\u180b-\u180f\u200c\u200d\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e01ef]+")
_SPACES = re.compile(r"[^\S\t\r\n]+")  # tabs and line breaks are not allowed in a name, and reported
_WIDE = re.compile("[\uff01-\uffee]+")  # full width, and half width of Japanese and Korean letters


@functools.lru_cache(1 << 16)
def tidy_name(name: str) -> str:
    """The name in Unicode's composed form (NFC), without stray invisible characters and spaces.

    Spaces at the ends and around `##` are removed, others become a single ASCII space.
    """
    pieces = split_path(unicodedata.normalize("NFC", _STRAY.sub("", name)))
    pieces = [_SPACES.sub(" ", piece).strip(" ") for piece in pieces]
    # The space stays in front of a level that begins with '#': without it, the path would have other levels.
    return SEPARATOR.join([pieces[0], *(f" {piece}" if piece.startswith("#") else piece for piece in pieces[1:])])


@functools.lru_cache(1 << 16)
def normal_form(name: str) -> str:
    """What is compared of a name: its tidy form without any invisible character, full width and letter case."""
    narrow = _WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), _SHAPING.sub("", name))
    return tidy_name(unicodedata.normalize("NFD", _SHAPING.sub("", narrow)).casefold())


def told_apart(name: str, other: str) -> tuple[str, str]:
    """Both names quoted; if they look the same, what differs is written as escapes: 'Sant\\u00e9', 'Sante\\u0301'."""
    if not _look_the_same(name, other):
        return repr(name), repr(other)
    start = next((i for i, (a, b) in enumerate(zip(name, other)) if a != b), min(len(name), len(other)))
    end = 0
    while end < min(len(name), len(other)) - start and name[-1 - end] == other[-1 - end]:
        end += 1
    return _escaped(name, start, end), _escaped(other, start, end)


def likeness(name: str, other: str) -> str:
    """How the names of one normal form are alike: "'it' differs from 'IT' only in letter case or full width"."""
    one, two = told_apart(name, other)
    unseen, letters = tr("spaces, invisible characters or Unicode form"), tr("letter case or full width")
    return tr(
        "{one} differs from {two} only in {unseen}",
        one=one,
        two=two,
        unseen=unseen if _look_the_same(name, other) else letters,
    )


def _look_the_same(name, other):
    return tidy_name(_SHAPING.sub("", name)) == tidy_name(_SHAPING.sub("", other))


def _escaped(name, start, end):
    """The quoted name, in which all non-ASCII characters between `start` and the last `end` ones are escapes."""
    parts = repr(name[:start]), ascii(name[start : len(name) - end]), repr(name[len(name) - end :])
    return "'" + "".join(part[1:-1] for part in parts) + "'"
