"""What `check_data.py` reports: findings, and how they name rows, files and numbers."""

import re
from dataclasses import dataclass, field

from text_cls.language import N_, tr

SEVERITIES = ("warning", "note")  # warning: lowers F1 or inflates it; note: worth knowing
EXAMPLES, TEXT_SHOWN = 5, 80
RARE = 10  # a label with fewer training rows is hardly learnt
_COUNTED = {  # one of them, several of them
    "row": (N_("1 row"), N_("{count} rows")),
    "text": (N_("1 text"), N_("{count} texts")),
    "name": (N_("1 name"), N_("{count} names")),
    "label": (N_("1 label"), N_("{count} labels")),
    "pair": (N_("1 pair"), N_("{count} pairs")),
    "error": (N_("1 error"), N_("{count} errors")),
    "warning": (N_("1 warning"), N_("{count} warnings")),
}


@dataclass
class Finding:
    """severity: one of SEVERITIES. what: a sentence. remedy: what to do. examples: a few places or names.

    logged: how many of the examples the log shows.
    """

    severity: str
    what: str
    remedy: str
    examples: list = field(default_factory=list)
    logged: int = 2


def place(rows, i):
    """Where to find a row: file, line, and the beginning of its text."""
    text = rows.texts[i]
    return f"{file_name(rows)}:{rows.lines[i]}: {text[:TEXT_SHOWN]}{'...' if len(text) > TEXT_SHOWN else ''}"


def counted(count, noun):
    """The count with its noun, as "1 row" or "2 rows"."""
    one, several = _COUNTED[noun]
    return tr(one) if count == 1 else tr(several, count=count)


def file_name(rows):
    return re.split(r"[/\\]", rows.path)[-1]


def shortened(names):
    """The first `EXAMPLES` names, and how many more there are."""
    more = [tr("and {count} more", count=len(names) - EXAMPLES)] if len(names) > EXAMPLES else []
    return [*names[:EXAMPLES], *more]


def by_file(counts):
    """How many rows of each file, as "train.txt 12 (0.5%), dev.txt 3 (0.4%)". counts: [(rows, count), ...]."""
    return ", ".join(f"{file_name(rows)} {count} ({percent(count, len(rows))})" for rows, count in counts)


def percent(part, whole):
    return f"{part / max(1, whole):.1%}"
