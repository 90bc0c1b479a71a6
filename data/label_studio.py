"""What only Label Studio's exports have: several annotations of a task, several controls, the columns of JSON-MIN."""

from collections import Counter

from text_cls.cli import closest
from text_cls.label_tree import join_path
from text_cls.language import N_, tr

SPANS = N_(
    "this labels a span, not the whole text; use a project of the type text classification (doccano), or <Choices> or "
    "<Taxonomy> (Label Studio)"
)
NOTES = ("textarea", "rating", "number")  # an export may consist of nothing else
# Columns that JSON-MIN adds to the text and the labels.
MIN_COLUMNS = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "history"}


def submitted(record):
    """The annotations of a task that were not skipped; None if all were."""
    annotations = record.get("annotations", record.get("completions"))
    if annotations is None:
        raise ValueError(tr("no field 'annotations'; export as JSON"))
    done = [each for each in annotations if not (each.get("was_cancelled") or each.get("skipped"))]
    return done if done or not (annotations or record.get("cancelled_annotations")) else None


def rank(annotation):
    """Sorts the annotations of a text: the ground truth is last, or else the newest."""
    return bool(annotation.get("ground_truth")), annotation.get("updated_at") or ""


def is_choice(value):
    """Whether this is a value of <Choices> or <Taxonomy> for the whole text."""
    return (
        isinstance(value, dict)
        and "start" not in value
        and (isinstance(value.get("choices"), list) or "taxonomy" in value)
    )


def split_results(annotation):
    """The results of an annotation: (control, value) of each choice, and (type, control, problem) of the others.

    problem: why the export is refused if it has no choices at all; None for notes.
    """
    choices, others = [], []
    for result in annotation["result"]:
        kind, control, value = result["type"], result.get("from_name") or "", result.get("value")
        span = isinstance(value, dict) and ("start" in value or kind.endswith("labels"))
        if kind in NOTES:
            others.append((kind, control, None))
        elif is_choice(value):
            choices.append((control, value))
        elif span:
            others.append((kind, control, tr(SPANS)))
        elif kind in ("choices", "taxonomy"):
            raise ValueError(tr(SPANS))
        else:
            others.append(
                (kind, control, tr("a result of type {kind} is no label; use <Choices> or <Taxonomy>", kind=kind))
            )
    return choices, others


# ------------------------------------------------------------------------------------------------------------- JSON-MIN


def label_columns(records, path, chosen, counts, problems):
    """The columns of labels in JSON-MIN, whose names the user chose; None for the other formats.

    Args:
        chosen: names of --control. counts: the columns that are ignored are added to it.
    """
    if not any("annotation_id" in record for _, record in records):
        return None
    records = [record for _, record in records]
    columns = list({key: True for record in records for key in record if key not in MIN_COLUMNS and key != "text"})
    structured = [key for key in columns if any(_is_structured(record.get(key)) for record in records)]
    spans = [key for key in structured if any(_has(record.get(key), lambda v: "start" in v) for record in records)]
    labels = [key for key in structured if any(_has(record.get(key), is_choice) for record in records)]
    plain = [key for key in columns if key not in structured]
    if any(key in columns for key in chosen):
        found = [key for key in columns if key in chosen]
    elif labels:
        found = [key for key in columns if key in labels or (key in plain and _is_control(key, labels[0], records))]
    else:
        found = spans or plain or structured
        if len(found) != 1:
            what = tr("it may be {controls}", controls=", ".join(map(repr, found))) if found else tr("there is none")
            problems.add(
                tr(
                    "{path}: cannot tell which column contains the labels, {what}; export as JSON instead of JSON-MIN",
                    path=path,
                    what=what,
                )
                + (tr(", or name the column with --control") if found else "")
            )
            return []
    for key in columns:
        if key not in found:
            counts["column", key] += sum(key in record for record in records)
    return found


def _is_control(column, labels, records):
    """Whether a column of single values is a control rather than data or notes: its values repeat, and it is not
    before `id`, where the export has the columns of the data. labels: a column that has labels."""
    values = [record[column] for record in records if isinstance(record.get(column), str)]
    keys = next((list(record) for record in records if {column, labels, "id"} <= record.keys()), None)
    if keys and keys.index(column) < keys.index("id") < keys.index(labels):
        return False
    return bool(values) and len(set(values)) <= 0.75 * len(values)


def _is_structured(value):
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _has(value, condition):
    return any(isinstance(each, dict) and condition(each) for each in (value if isinstance(value, list) else [value]))


# ------------------------------------------------------------------------------------------------------------- controls


def name_labels(annotations, separator, chosen, join, counts, problems):
    """Sets the `labels` of each annotation from its `choices`.

    Args:
        chosen: {control: the label below which its labels belong, or None} of --control; empty: all controls.
        join: one branch per control; `chosen` then selects some only if it has one without a label.
        counts: choices of other controls are added to it.
    """
    found = list({control: True for each in annotations for control, _ in each.choices if control is not None})
    for name in chosen:
        if name not in found and annotations:
            known = (
                tr("the export has {controls}", controls=", ".join(map(repr, found)))
                if found
                else tr("the export names no controls")
            )
            problems.add(
                tr(
                    "--control {name}: no such control; {known}{hint}",
                    name=name,
                    known=known,
                    hint=closest(name, found),
                )
            )
    places_only = join and all(chosen.values())  # with --join_controls, NAME=LABEL alone selects nothing
    used = found if places_only or not chosen else [name for name in found if name in chosen]
    if len(used) > 1 and not chosen and not join:
        problems.add(_several(annotations, used))
        return
    placed = {name: parent for name, parent in chosen.items() if parent}
    branches = _branches(annotations, used, placed, separator) if join else placed
    for each in annotations:
        each.labels = []
        for control, name in each.choices:
            if control is not None and control not in used:
                counts["control", control] += 1
            else:
                branch = branches.get(control)
                try:
                    pieces = [*(branch.rsplit(separator) if branch else ()), *name.rsplit(separator)]
                    each.labels.append(join_path(pieces, separator))
                except ValueError as error:
                    problems.add(
                        tr("{where}: label {name!r} {error}; rename it", where=each.where, name=name, error=error)
                    )
    for name in used if join else ():
        if name not in placed and branches.get(name) not in (name, None):
            counts["nested", name, branches[name]] += 1
    _check_shared(annotations, [name for name in used if name not in branches], problems)


def _values(annotations, controls):
    """{control: {label: set of numbers of the annotations that have it}}"""
    values = {control: {} for control in controls}
    for i, each in enumerate(annotations):
        for control, name in each.choices:
            if control in values:
                values[control].setdefault(name, set()).add(i)
    return values


def _several(annotations, controls):
    shown = []
    for control, labels in _values(annotations, controls).items():
        shown.append(f"{control!r} ({', '.join(list(labels)[:3])}{', ...' if len(labels) > 3 else ''})")
    return tr(
        "{path}: labels of {count} controls: {shown}; choose one with --control {controls}, or make each a branch of "
        "a hierarchy with --join_controls --task_type hierarchical",
        path=annotations[0].path,
        count=len(controls),
        shown=", ".join(shown),
        controls=controls[0],
    )


def _check_shared(annotations, controls, problems):
    """Adds a problem for each label that two of these controls have, which would become one label."""
    owners = {}
    for control, labels in _values(annotations, controls).items():
        for name in labels:
            owners.setdefault(name, []).append(control)
    for name, several in owners.items():
        if len(several) > 1:
            problems.add(
                tr(
                    "label {name!r} is in the controls {controls}; select one of them, or add --join_controls",
                    name=name,
                    controls=", ".join(map(repr, several)),
                )
            )


def _branches(annotations, controls, placed, separator):
    """{control: the path below which its labels belong}; placed: those that the user decided.

    A control that annotators only see once another control has a certain label (visibleWhen) belongs below that label.
    The export does not contain the labelling interface, so this is found from the annotations. The other controls are
    roots by their own names, or add no level if there is only one.
    """
    values = _values(annotations, controls)
    rows = {control: set().union(*labels.values()) for control, labels in values.items()}
    above = {}
    for control in controls:
        candidates = [
            (len(having), len(rows[other]), other, name)
            for other in controls
            for name, having in values[other].items()
            if other != control and len(rows[control]) > 1 and rows[control] <= having < rows[other]
        ]
        if candidates:
            above[control] = min(candidates)[2:]
    roots = [control for control in controls if control not in above and control not in placed]

    def path(control):
        if control in placed:
            return placed[control]
        if control in above:
            other, name = above[control]
            return separator.join([part for part in (path(other), name) if part])
        return control if len(roots) > 1 else ""

    return {control: path(control) for control in controls if path(control)}


def ignored(counts):
    """Yields a sentence for each kind of thing in `counts` that is not used."""
    results = Counter({key: count for key, count in counts.items() if key[0] == "result"})
    if results:
        kinds = ", ".join(
            tr("{count} of type {kind}{control}", count=count, kind=kind, control=f" ({control})" if control else "")
            for (_, kind, control), count in results.items()
        )
        yield tr(
            "{total} results that are not labels of a whole text ignored: {kinds}", total=results.total(), kinds=kinds
        )
    for key, count in counts.items():
        if key[0] == "control":
            yield tr(
                "{count} labels of the control {key!r} ignored; to use them, add --control {key}",
                count=count,
                key=key[1],
            )
        elif key[0] == "column":
            yield tr(
                "column {key!r} ignored ({count} rows); if it contains labels, add --control {key}",
                key=key[1],
                count=count,
            )
        elif key[0] == "nested":
            yield (
                tr(
                    "control {control!r} is used only together with the label {label!r}: its labels are below that "
                    "label; to place it elsewhere, use --control {control}=LABEL",
                    control=key[1],
                    label=key[2],
                )
            )
        elif key[0] == "respelled" and count:
            yield tr("{count} labels had invisible characters or stray spaces, which are removed", count=count)
        elif key[0] == "skipped":
            yield tr(
                "{count} tasks that annotators skipped are left out; to use them, label them and export again",
                count=count,
            )
