"""Reads and checks the labels and texts that index.py adds, and makes the new label set."""

from collections import Counter
from functools import partial

from text_cls.label_names import likeness, tidy_name
from text_cls.label_tree import paths_to
from text_cls.language import tr
from text_cls.new_labels import check_new_labels, replace_command, same_forms
from text_cls.rows import Labels, label_problem, read_lines, read_rows, tab_message
from text_cls.search.label_scores import label_entries, label_text, row_entries
from text_cls.search.milvus_index import LONGEST_LABEL


def check_label(name, where, labels, problems):
    """Adds a problem if a label cannot be a line of label.txt, is longer than Milvus allows, or resembles another.

    labels: `Labels` of the bundle.
    """
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        problems.add(
            tr("{where}: label {name!r} is not UTF-8; set LANG=C.UTF-8, or use --corpus_file", where=where, name=name)
        )
        return
    if size > LONGEST_LABEL:
        problems.add(
            tr(
                "{where}: label {name!r}... has {size} bytes, more than {longest_label}; rename the label",
                where=where,
                name=name[:20],
                size=size,
                longest_label=LONGEST_LABEL,
            )
        )
    elif not name:
        problems.add(tr("{where}: the label is empty; name it", where=where))
    elif problem := label_problem(name):
        problems.add(f"{where}: label {name!r} {problem}")
    else:
        for path in paths_to(name):
            if labels.find(path) is None and (similar := labels.similar(path)):
                problems.add(
                    tr(
                        "{where}: label {likeness}, which the bundle has; write {similar!r}",
                        where=where,
                        likeness=likeness(path, similar),
                        similar=similar,
                    )
                )
                break


def known_name(name, labels):
    """A label's name in the bundle, or if it is new its tidy form. labels: `Labels` of the bundle."""
    if name in labels.index:
        return name
    name = tidy_name(name)
    for path in reversed(paths_to(name)):
        i = labels.find(path)
        if i is not None:  # this label, or its ancestor, may be spelled otherwise in an old bundle
            return labels.names[i] + name.removeprefix(path)
    return name


def with_new(labels, names):
    """`Labels` with these names and their ancestors added at the end."""
    new = {}  # in order, each once
    for name in names:
        new |= dict.fromkeys(path for path in paths_to(name) if labels.find(path) is None)
    return Labels([*labels.names, *new])


def read_new(args, predictor, problems):
    """What index.py adds: `Labels` that include the new ones, texts, and a tuple of label names for each text.

    Raises:
        UserError: a file cannot be read, or there are problems (`Problems.stop_if_any`).
    """
    of_rows = predictor.bundle.manifest["corpus"] == "rows"
    if (args.label is None) == (args.corpus_file is None):
        problems.add(tr("use either --label or --corpus_file"))
    if args.corpus_file and args.text:
        problems.add(tr("--text goes with --label; the rows of a file have texts of their own"))
    problems.stop_if_any()
    if args.label is not None:
        return _of_label(args, predictor, of_rows, problems)
    if of_rows:
        return _of_row_file(args.corpus_file, predictor, problems)
    return _of_label_file(args.corpus_file, predictor, problems)


def _of_label(args, predictor, of_rows, problems):
    """`read_new` for --label and --text."""
    name, texts = known_name(args.label.strip(), predictor.labels), [text.strip() for text in args.text]
    check_label(name, "--label", predictor.labels, problems)
    if not all(texts):
        problems.add(tr("--text: an empty text cannot be compared with others; leave it out"))
    if of_rows and not texts:
        problems.add(tr("this index holds labelled rows; add texts that have the label: --text"))
    problems.stop_if_any()
    labels = with_new(predictor.labels, [name])
    if of_rows:  # as in a file of rows, an entry has its label and all ancestors
        names = tuple(sorted(paths_to(name), key=labels.index.get))
        return labels, texts, [names] * len(texts)
    if not predictor.index.count(name):
        texts.insert(0, label_text(name))
    elif not texts and name in predictor.labels.index:  # an entry without a label is left from an interrupted run
        problems.add(tr("--label {name}: this label already exists; to add texts that have it, use --text", name=name))
    return labels, texts, [(name,)] * len(texts)


def _of_row_file(path, predictor, problems):
    """`read_new` for a file of labelled rows."""
    counts, places = Counter(), {}
    for number, line in read_lines(path):
        if line.count("\t") > 1:
            problems.add(tab_message, path, number, line)
        for name in filter(None, map(str.strip, line.partition("\t")[2].split(","))):
            name = known_name(name, predictor.labels)
            if name not in places:
                places[name] = f"{path}:{number}"
                check_label(name, places[name], predictor.labels, problems)
            counts[name] += 1
    names = [name for name in counts if name not in predictor.labels.index]
    check_new_labels(
        {name: counts[name] for name in names}, places, problems, partial(replace_command, path), predictor.labels.names
    )
    problems.stop_if_any()
    labels = with_new(predictor.labels, names)
    rows = read_rows(path, labels, problems, again=True)
    texts, names = row_entries(rows, labels)
    return labels, texts, names


def _of_label_file(path, predictor, problems):
    """`read_new` for a file of labels; those that have an entry are skipped."""
    names = {}
    for number, line in read_lines(path):
        if line.strip():
            name = known_name(line.strip(), predictor.labels)
            check_label(name, f"{path}:{number}", predictor.labels, problems)
            names.setdefault(name, f"{path}:{number}")
    if not names:
        problems.add(tr("{path}: no labels; write one per line", path=path))
    for name, other in same_forms(names):
        problems.add(
            tr(
                "{place}: label {likeness} ({other_place}); write both in one way",
                place=names[name],
                likeness=likeness(name, other),
                other_place=names[other],
            )
        )
    problems.stop_if_any()
    labels, indexed = with_new(predictor.labels, names), predictor.index.labels()
    return labels, *label_entries(labels, [name for name in names if name not in indexed])
