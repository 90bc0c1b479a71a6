"""Labels of a labelling tool or a table as labels of the data files: their names, ancestors and checks."""

import functools
from collections import Counter

from text_cls.cli import UserError, closest
from text_cls.label_names import likeness, tidy_name
from text_cls.label_tree import SEPARATOR, join_path, paths_to
from text_cls.language import tr
from text_cls.new_labels import check_new_labels
from text_cls.rows import one_line, read_labels


def closed_labels(annotation, places, problems, task_type, separator):
    """The labels of an annotation, sorted, in a hierarchy with all their ancestors. Adds where they are to `places`."""
    labels = set()
    for name in annotation.labels:
        with problems.collect():
            paths = label_names(name, annotation.where, task_type, separator)
            labels.update(paths)
            places.setdefault(paths[-1], []).append(annotation.where)
    return sorted(labels)


def label_names(name, where, task_type, separator):
    """The label, and in a hierarchy all its ancestors, as named in the data files: a tuple."""
    try:
        return _paths(name, task_type == "hierarchical", separator)
    except ValueError as error:
        raise UserError(
            tr("{where}: label {name!r} {error}; rename it, and convert again", where=where, name=name, error=error)
        ) from error


@functools.lru_cache(1 << 16)  # all rows of a label share the strings of its names
def _paths(name, hierarchical, separator):
    pieces = [tidy_name(piece).strip() for piece in (name.rsplit(separator) if hierarchical else [name])]
    if not all(pieces):
        raise ValueError(tr("has an empty level") if len(pieces) > 1 else tr("is empty"))
    if any("," in piece for piece in pieces):
        raise ValueError(tr("contains a comma, which separates labels"))
    if any(one_line(piece) != piece for piece in pieces):
        raise ValueError(tr("contains a tab or a line break"))
    if any(SEPARATOR in piece for piece in pieces):
        raise ValueError(
            tr(
                "contains {separator}, which separates levels (--task_type hierarchical, --separator {separator})",
                separator=SEPARATOR,
            )
        )
    return tuple(paths_to(join_path(pieces)))


def check_known(rows, path, problems):
    """Adds a problem for each label of new rows that the label file of their data set lacks."""
    known = read_labels(path, problems)
    unknown = Counter(name for _, labels in rows for name in labels if name not in known.index)
    for name, count in unknown.items():
        if similar := known.similar(name):
            problems.add(
                tr(
                    "{path}: label {likeness}, and {count} rows have it; write both in one way",
                    path=path,
                    likeness=likeness(name, similar),
                    count=count,
                )
            )
            continue
        problems.add(
            tr(
                "{path}: no label {name!r}, which {count} rows have{hint}; otherwise add it there",
                path=path,
                name=name,
                count=count,
                hint=closest(name, known.index),
            )
        )


def check_new(places, problems, remedy):
    """Checks a label set made from the labels of the rows. places: {label: [where, ...]}.

    remedy: as in `check_new_labels`.
    """
    counts = {name: len(where) for name, where in places.items()}
    first = {name: where[0] for name, where in places.items()}
    check_new_labels(counts, first, problems, remedy)
