"""Checks of a label set made from the rows: nobody wrote it down, so each mistake in a row would become a label."""

import itertools
import os
import shlex
from collections import Counter, defaultdict

from text_cls.cli import logger
from text_cls.label_names import likeness, normal_form, tidy_name
from text_cls.label_tree import SEPARATOR, parent_path, paths_to, split_path
from text_cls.language import N_, tr

# Signs that people write between labels instead of a comma. Names hardly ever contain one of the first kind; the
# second kind is part of names such as `衣、食` and `New York`, and separates labels only if all the parts are labels.
RARE_IN_NAMES, COMMON_IN_NAMES = "；;|，", "、 "
SIGN_NAMES = {"，": N_("a full-width comma"), "、": "'、'", " ": N_("a space")}
NEAR_SHOWN = 20
CROWD = 50  # so many names that differ in the same character are a pattern, not misspellings
STEMS = set("甲乙丙丁戊己庚辛壬癸")  # they count, as numerals and letters do


def check_new_labels(counts, places, problems, remedy, known=()):
    """Adds what is wrong with the names of a new label set to `problems`.

    Args:
        counts: {tidy name of a label: number of rows that name it}.
        places: {name: where one of these rows is}.
        remedy: a function of a sign that says what to do if it separates labels, as the end of a sentence.
        known: names of labels that exist already.
    """
    where = {}
    for name in counts:
        for path in paths_to(name):
            where.setdefault(path, places[name])
    for name, other in same_forms(where):
        problems.add(
            tr(
                "{where}: label {likeness} ({other_place}); write both in one way",
                where=where[name],
                likeness=likeness(name, other),
                other_place=where[other],
            )
        )
    for name, parent in unclear_paths(counts):
        without = parent.rstrip("#")
        problems.add(
            tr(
                "{places}: label {name!r} is read as one below {parent!r}, which no row names. If a level below "
                "{without!r} begins with #, rename it: it cannot be told from the separator",
                places=places[name],
                name=name,
                parent=parent,
                without=without,
            )
        )
    for sign, joined in joined_names(counts, known).items():
        name, others = next(iter(joined)), len(joined) - 1
        more = (
            tr(" and {others} other names seem", others=others)
            if others > 1
            else tr(" and 1 other name seem")
            if others
            else tr(" seems")
        )
        what = tr(SIGN_NAMES.get(sign, repr(sign)))
        problems.add(
            tr(
                "{places}: label {name!r}{more} to be several labels with {what} between them, which must be an ASCII "
                "comma; {remedy}",
                places=places[name],
                name=name,
                more=more,
                what=what,
                remedy=remedy(sign),
            )
        )


def replace_command(path, sign):
    """What to do if a sign separates the labels in a file of rows: a command that replaces it in the second column."""
    old, new = shlex.quote(os.fspath(path)), shlex.quote(f"{os.fspath(path)}.new")
    pattern = {"|": "[|]", " ": " +"}.get(sign, sign)
    return tr(
        "replace it: awk -F'\\t' -v OFS='\\t' '{{gsub(/{pattern}/, \",\", $2)}} 1' {old} > {new} && mv {new} {old}",
        pattern=pattern,
        old=old,
        new=new,
    )


def same_forms(names):
    """Yields (name, other) for siblings that differ only in what `normal_form` ignores."""
    first = {}
    for name in names:
        other = first.setdefault((parent_path(name), normal_form(name)), name)
        if other != name:
            yield name, other


def unclear_paths(names):
    """Yields (name, ancestor) of names like C###a, which may be meant as a level #a below C.

    That is so if a row names C, or another label below it, and none names C# itself.
    """
    paths = {path for name in names for path in paths_to(name)}
    for name in names:
        for path in paths_to(name)[:-1]:
            if path.endswith("#") and path not in names and path.rstrip("#") in paths:
                yield name, path
                break


def joined_names(counts, known=()):
    """Names that seem to be several labels with a sign between them: {sign: {name: [label, ...]}}.

    The evidence is in the other names. The parts of such a name are labels of their own, or parts of several such
    names: one part if names hardly ever have this sign, else all of them, in at least half of the names with the sign.
    """
    found = {}
    for sign in RARE_IN_NAMES + COMMON_IN_NAMES:
        split = {name: list(filter(None, map(tidy_name, name.split(sign)))) for name in counts if sign in name}
        split = {name: parts for name, parts in split.items() if len(parts) > 1}
        alone = {path for name in (*counts, *known) if name not in split for path in paths_to(name)}
        uses = Counter(part for parts in split.values() for part in set(parts))
        labels = alone | {part for part, number in uses.items() if number > 1}
        if sign in RARE_IN_NAMES:
            joined = {name: parts for name, parts in split.items() if not labels.isdisjoint(parts)}
        else:
            joined = {name: parts for name, parts in split.items() if _all_labels(parts, alone, labels)}
            single_phrase = len(joined) == 1 and all(map(str.isascii, joined))  # Data, Science and Data Science
            if 2 * len(joined) < len(split) or single_phrase:
                joined = {}
        if joined:
            found[sign] = joined
    return found


def _all_labels(parts, alone, labels):
    """Whether all parts are labels of their own, or are paths that several names have."""
    return alone.issuperset(parts) or all(SEPARATOR in part and part in labels for part in parts)


# ------------------------------------------------------------------------------------------------------- near-identical


def near_names(counts):
    """Pairs of sibling labels of which the rarer may be a misspelling of the other, such as 延时 and 延迟.

    They differ in one character, or in the order of two. As 结婚 and 离婚 do, too, the rows decide: a short name must
    be much rarer than the other. Numbers, letters that count (A类, B类) and names of one character are left out.

    Args:
        counts: {label: number of rows}, with ancestors.
    Returns:
        list of (rarer, more frequent) labels, at most `NEAR_SHOWN`: the ones with the largest ratio.
    """
    groups = defaultdict(list)  # labels that are the same without one character
    for name in counts:
        piece = normal_form(split_path(name)[-1])
        if len(piece) > 1:
            for key in {piece, *(piece[:i] + piece[i + 1 :] for i, each in enumerate(piece) if not _is_numeral(each))}:
                groups[parent_path(name), key].append(name)
    pairs = set()
    for members in groups.values():
        if len(members) <= CROWD:
            for pair in itertools.combinations(members, 2):
                rare, frequent = sorted(pair, key=lambda name: (counts[name], name))
                if _much_rarer(counts[rare], counts[frequent], rare) and _are_near(rare, frequent):
                    pairs.add((rare, frequent))
    return sorted(pairs, key=lambda pair: (counts[pair[0]] / counts[pair[1]], pair))[:NEAR_SHOWN]


def _much_rarer(rare, frequent, name):
    factor = 2 if len(split_path(name)[-1]) > 3 else 3 if rare < 10 else 5
    return rare * factor <= frequent and frequent > 0


def _are_near(name, other):
    one, two = (normal_form(split_path(each)[-1]) for each in (name, other))
    start = next((i for i, (a, b) in enumerate(zip(one, two)) if a != b), min(len(one), len(two)))
    one, two, before, after = one[start:], two[start:], one[:start], ""
    while one and two and one[-1] == two[-1]:
        one, two, after = one[:-1], two[:-1], one[-1]
    if len(one) > 1 or len(two) > 1:
        return len(one) == len(two) == 2 and one == two[::-1]
    counting = all(map(_is_letter, one + two)) and not (_is_letter(before[-1:]) or _is_letter(after))
    return not counting and not all(map(_is_numeral, one + two))


def _is_letter(character):
    return character.isascii() and character.isalpha()


def _is_numeral(character):
    return character.isnumeric() or character in STEMS


def log_near_names(counts):
    """Logs the pairs of `near_names` with their counts."""
    pairs = near_names(counts)
    for rare, frequent in pairs:
        message = tr("Labels %r (%d rows) and %r (%d rows) are nearly the same")
        logger.warning(message, rare, counts[rare], frequent, counts[frequent])
    if pairs:
        logger.warning("If one of two such labels is a misspelling, correct its rows and make the files again")
