"""Reads exports of labelling tools: doccano's JSONL and JSON, Label Studio's JSON and JSON-MIN."""

import json
from dataclasses import dataclass, field

from label_studio import SPANS, is_choice, label_columns, name_labels, rank, split_results, submitted
from text_cls.cli import UserError
from text_cls.label_names import tidy_name
from text_cls.label_tree import join_path
from text_cls.language import N_, tr
from text_cls.rows import read_lines

_OWN = N_("If this is a table of your own, convert it with data/from_table.py")
UNDATED = False, "", 0  # rank of rows of doccano and of tables, which have no dates


@dataclass(slots=True)
class Annotation:
    """What one annotator said about a text.

    where: the path and row, for messages. task: the same for all annotations of a text in Label Studio, otherwise of
    this row alone. rank: the largest is the ground truth, or else the newest. choices: (control, label) pairs; control:
    None in doccano. labels: names as in the tool, below their control's branch if there is one. closed: these as in the
    data files, with all ancestors.
    """

    path: str
    where: str
    text: str
    task: tuple
    rank: tuple
    choices: list
    labels: list = field(default_factory=list)
    closed: list = field(default_factory=list)

    @property
    def undated(self):
        """True for rows of doccano, which exports texts that are not labelled yet, and of tables."""
        return self.rank == UNDATED


def read_annotations(paths, separator, problems, counts, controls=None, join=False):
    """The annotations of exports, each text unchanged. Unreadable rows go to `problems`.

    Args:
        separator: joins the levels of a path from Label Studio's <Taxonomy>.
        counts: a Counter of what is not used, for `label_studio.ignored`.
        controls, join: which controls of Label Studio to use, and how; see `label_studio.name_labels`.
    Returns:
        list of Annotation.
    """
    annotations, others, controls = [], [], controls or {}
    for path in paths:
        before = problems.count
        records = list(_records(path, problems))
        if problems.count > before:
            continue
        if not records:
            problems.add(tr("{path}: no rows", path=path))
        columns = label_columns(records, path, controls, counts, problems)
        for where, record in records:
            with problems.collect():
                annotations += _annotations(path, where, record, columns, separator, counts, others)
    if others and not any(control is not None for each in annotations for control, _ in each.choices):
        for where, problem in dict(others).items():
            problems.add(f"{where}: {problem}")
    name_labels(annotations, separator, controls, join, counts, problems)
    if counts["skipped",] and not annotations:
        problems.add(tr("{paths}: annotators skipped every task; label some and export again", paths=", ".join(paths)))
    return annotations


def tool_of(record):
    """The labelling tool whose export has a row like this JSON object; None if it may be a row of any table."""
    if "annotation_id" in record or ("data" in record and {"annotations", "completions"} & record.keys()):
        return "Label Studio"
    labels = record.get("label", record.get("labels"))
    of_tool = {"id", "text", "data", "label", "labels", "meta", "Comments", "annotation_approver"}
    if {"entities", "spans"} & record.keys() or (
        isinstance(labels, list) and "id" in record and record.keys() <= of_tool and {"text", "data"} & record.keys()
    ):
        return "doccano"
    return None


def _annotations(path, where, record, columns, separator, counts, others):
    """The annotations of a row. others: gets (where, problem) of results that are no labels."""
    try:
        text, found = _text(record), []
        for task, order, results in _results(where, record, columns, counts, others):
            choices = [(control, name) for control, value in results for name in _names(value, separator)]
            counts["respelled",] += sum(name != tidy_name(name) for _, name in choices)
            choices = [(control, tidy_name(name)) for control, name in choices]
            "".join([text, *(name for _, name in choices)]).encode("utf-8")  # half a surrogate pair cannot be written
            found.append(Annotation(path, where, text, (path, text, task), order, choices))
        return found
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    except (AttributeError, TypeError, KeyError) as error:
        raise UserError(
            tr("{where}: not a row of doccano or Label Studio ({error!r})", where=where, error=error)
        ) from error


def _records(path, problems):
    """Yields (where, dict) of each row. A JSON array is read whole, JSON lines one by one."""
    lines = read_lines(path, may_be_json=True)
    first = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    if first[1].lstrip().startswith("["):
        try:
            found = json.loads("\n".join([first[1], *(line for _, line in lines)]))
        except (ValueError, RecursionError) as error:
            raise UserError(tr("{path}: unreadable JSON array: {error}", path=path, error=error)) from error
        found = [(f"{path}: row {number}", record) for number, record in enumerate(found, 1)]
    else:
        if first[1] and not first[1].lstrip().startswith("{"):
            raise UserError(
                tr(
                    "{path}:{first}: not JSON; export as JSONL (doccano) or JSON (Label Studio). Rows of your own, "
                    "text<TAB>label,label in UTF-8, need no conversion: split them with analysis/split.py. Another "
                    "table: convert it with data/from_table.py",
                    path=path,
                    first=first[0],
                )
            )
        found = ((f"{path}:{number}", line) for number, line in (first, *lines) if line.strip())
    for where, record in found:
        if isinstance(record, str):
            try:
                record = json.loads(record)
            except (ValueError, RecursionError) as error:
                problems.add(
                    tr(
                        "{where}: not JSON ({error}); export as JSONL (doccano) or JSON (Label Studio)",
                        where=where,
                        error=error,
                    )
                )
                continue
        if isinstance(record, dict):
            yield where, record
        else:
            problems.add(
                tr("{where}: a row must be a JSON object, not {record!r}", where=where, record=str(record)[:40])
            )


def _text(record):
    data = record.get("data", record)
    if isinstance(data, str):  # doccano 1.6
        return data
    if isinstance(data.get("text"), str):
        return data["text"]
    texts = [key for key, value in data.items() if isinstance(value, str)] if "data" in record else []
    if len(texts) == 1:
        return data[texts[0]]
    raise ValueError(
        tr(
            "no text; expected a field 'text' or 'data', found {fields}. {own}",
            fields=", ".join(map(repr, data)),
            own=tr(_OWN),
        )
    )


def _results(where, record, columns, counts, others):
    """Yields (task, rank, list of (control, value)) of each annotation of a row."""
    if columns is not None:  # JSON-MIN: a row for each annotation
        values = {column: record.get(column, []) for column in columns}
        results = [(column, each) for column, value in values.items() for each in _as_list(value)]
        yield str(record.get("id", where)), rank(record), results
    elif isinstance(record.get("data"), dict):
        annotations = submitted(record)
        if annotations is None:
            counts["skipped",] += 1
        elif not annotations:
            yield where, (False, ""), []
        for annotation in annotations or []:
            results, ignored = split_results(annotation)
            for kind, control, problem in ignored:
                counts["result", kind, control] += 1
                if problem:
                    others.append((where, problem))
            yield where, rank(annotation), results
    elif "entities" in record or "spans" in record:
        raise ValueError(tr(SPANS))
    else:
        key = next((key for key in ("label", "labels") if key in record), None)
        if key is None:
            remedy = tr("; export as JSONL with label names") if "annotations" in record else f". {tr(_OWN)}"
            raise ValueError(
                tr("no field 'label', found {fields}{remedy}", fields=", ".join(map(repr, record)), remedy=remedy)
            )
        yield where, UNDATED, [(None, each) for each in _as_list(record[key] or [])]  # null if a row has none


def _as_list(value):
    return value if isinstance(value, list) else [value]


def _names(result, separator):
    """Yields the labels of one entry: a name, or a dict from Label Studio with choices or paths of a taxonomy."""
    if isinstance(result, str):
        yield result
    elif is_choice(result):
        if isinstance(result.get("choices"), list):
            yield from result["choices"]
        else:
            yield from (_joined(path, separator) for path in result["taxonomy"])
    elif isinstance(result, (dict, list)):
        raise ValueError(tr(SPANS))
    else:
        raise ValueError(tr("label {result!r} is not a name; export label names, not numbers", result=result))


def _joined(path, separator):
    try:
        return join_path([piece for value in path for piece in value.rsplit(separator)], separator)
    except ValueError as error:
        raise ValueError(tr("label {path!r} {error}; rename it", path=separator.join(path), error=error)) from error
