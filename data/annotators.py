"""Which labels a text gets if several annotators labelled it, and labels that an import joined."""

import re
from collections import Counter

from text_cls.language import N_, tr
from text_cls.new_labels import joined_names

DISAGREEMENT = {
    "newest": N_("the ground truth or the newest annotation is used"),
    "majority": N_("labels that more than half of the annotations have are used"),
    "union": N_("the labels of all annotations are used"),
    "refuse": N_("the ground truth is used"),
}


def settle(members, policy, single, counts):
    """The labels of a text, and the annotation they come from if it is one.

    Args:
        members: the text's annotations, whose `closed` labels are set. policy: a key of DISAGREEMENT.
        single: whether a text has exactly one label. counts: what is not used is added to it.
    Returns:
        (sorted labels, Annotation or None); (None, None) if the annotations do not settle it.
    """
    # Each annotator's file of doccano has all texts, also those that this annotator has not labelled yet.
    labelled = any(each.closed for each in members)
    voters = [each for each in members if each.closed or not (labelled and each.undated)]
    counts["unlabelled"] += len(members) - len(voters)
    disagree = len({tuple(each.closed) for each in voters}) > 1
    counts["several"] += len(voters) > 1
    counts["disagree"] += disagree
    voters = [each for each in voters if each.rank[0]] or voters  # a ground truth ends the dispute
    sets = Counter(tuple(each.closed) for each in voters)
    if policy == "newest" or len(sets) == 1:
        ordered = voters[::-1] if voters[0].undated else voters  # rows without dates: the last one
        newest = max(ordered, key=lambda each: each.rank)
        return newest.closed, newest
    votes = Counter(name for each in voters for name in each.closed)
    if policy == "union":
        return sorted(votes), None
    if policy == "majority" and single:
        (first, most), (_, second) = sets.most_common(2)
        if most > second:
            return list(first), None
    elif policy == "majority":
        labels = sorted(name for name, count in votes.items() if 2 * count > len(voters))
        if labels or 2 * sets[()] > len(voters):
            return labels, None
    counts["unsettled"] += 1
    return None, None


def joined_labels(annotations, split):
    """Finds labels like `甲#乙`, which doccano makes of two on import, if one of the parts is also a label.

    Args:
        split: whether to put the parts in their place, and those of labels like `甲；乙`, which are an error otherwise.
    Returns:
        what to tell the user: a sentence for each of the first five labels, and one for all.
    """
    numbers = Counter(name for each in annotations for name in each.labels)
    parts = {name: [part.strip() for part in re.split("(?<!#)#(?!#)", name)] for name in sorted(numbers)}
    parts = {name: found for name, found in parts.items() if len(found) > 1 and all(found)}
    joined = {name: found for name, found in parts.items() if any(part in numbers for part in found)}
    by_sign = joined_names(numbers) if split else {}
    joined |= {name: found for names in by_sign.values() for name, found in names.items()}
    if not joined:
        return []
    for each in annotations if split else ():
        each.labels = [part for name in each.labels for part in joined.get(name, [name])]
    shown = list(joined)[:5]
    what = "split" if split else tr("kept; if an import joined several labels, add --split_joined to split them")
    return [
        *(
            tr(
                "label {name!r} ({rows} rows) looks like {parts}",
                name=name,
                rows=numbers[name],
                parts=" and ".join(map(repr, joined[name])),
            )
            for name in shown
        ),
        tr(
            "{count} labels that look joined by {names} are {what}",
            count=len(joined),
            names=" or ".join(["#", *by_sign]),
            what=what,
        ),
    ]
