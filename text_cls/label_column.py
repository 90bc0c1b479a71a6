"""Rows without a label: which sign stands where the tab belongs, and the command that replaces it."""

import os
import re
import shlex
from collections import Counter

from text_cls.language import N_, tr

SAMPLE = 200  # rows that are looked at
LONGEST = 30  # characters of a label, where the labels are unknown
# Signs between text and labels: pattern, name.
SIGNS = (
    (",", N_("a comma")),
    ("，", N_("a full-width comma")),
    (";", N_("a semicolon")),
    ("；", N_("a full-width semicolon")),
    ("[|]", "'|'"),
    (" {2,}", N_("several spaces")),
    (" +", N_("a space")),
)


def unlabelled_message(path, texts, labels):
    """What to say about a file without a label. texts: its rows, or the first ones. labels: `Labels`, perhaps empty."""
    message = tr("{path}: no row has a label; a row is text<TAB>label,label", path=path)
    lines = [texts[i] for i in range(min(len(texts), SAMPLE))]
    for pattern, name in SIGNS:
        ends = [re.split(f" *{pattern} *", line) for line in lines]
        found = [pieces for pieces in ends if len(pieces) > 1]
        known = _known_ends([_unquoted(pieces[-1]) for pieces in found], labels)
        if 2 * sum(known) <= len(lines):
            continue
        # Where labels are all that follows the first sign, as in "text,A,B", it is the one to replace.
        first = all(all(_known_ends(map(_unquoted, pieces[1:]), labels)) for pieces, of in zip(found, known) if of)
        command = f"s/ *{pattern} */\\t/" if first else f"s/^(.*[^ ]) *{pattern} */\\1\\t/"
        old, new = shlex.quote(os.fspath(path)), shlex.quote(f"{os.fspath(path)}.new")
        return tr(
            "{what}. Is the separator {name}? A label follows it in {known} of {count} rows. To make it a tab: sed -E "
            "'{command}' {old} > {new} && mv {new} {old}",
            what=message,
            name=name,
            known=sum(known),
            count=len(lines),
            command=command,
            old=old,
            new=new,
        )
    return tr("{what}. Is the separator a tab? If it is, label some rows", what=message)


def _known_ends(ends, labels):
    """Whether each of these is a label, or, if the labels are unknown, is short and occurs twice: list of bool."""
    ends = list(ends)
    if len(labels):
        return [labels.find(end) is not None for end in ends]
    counts = Counter(ends)
    return [0 < len(end) <= LONGEST and counts[end] > 1 for end in ends]


def _unquoted(end):
    return end.strip().strip('"')
