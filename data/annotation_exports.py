"""Reads exports of labelling tools: doccano's JSONL and JSON, Label Studio's JSON and JSON-MIN."""

import json
import zipfile

from text_cls.cli import UserError
from text_cls.rows import read_lines

SPANS = (
    "this labels a span, not the whole text; use a project of the type text classification (doccano), or <Choices> or "
    "<Taxonomy> (Label Studio)"
)
# Columns that Label Studio's JSON-MIN adds to the text and the labels.
MIN_COLUMNS = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"}


def read_annotations(path, separator, problems):
    """The annotated texts of an export. Unreadable rows go to `problems`.

    Args:
        separator: joins the levels of a path from Label Studio's <Taxonomy>.
    Returns:
        list of (where, text, labels: list of str), unchanged; where: the path and row, for messages.
    """
    before = problems.count
    records = list(_records(path, problems))
    if problems.count > before:
        return []
    if not records:
        problems.add(f"{path}: no rows")
    column = _label_column(records, path, problems)
    rows = []
    for where, record in records:
        with problems.collect():
            try:
                text, labels = _text(record), list(_labels(record, column, separator))
                "".join([text, *labels]).encode("utf-8")  # half of a surrogate pair cannot be written
                rows.append((where, text, labels))
            except ValueError as error:
                raise UserError(f"{where}: {error}") from error
            except (AttributeError, TypeError, KeyError) as error:
                raise UserError(f"{where}: not a row of doccano or Label Studio ({error!r})") from error
    return rows


def _records(path, problems):
    """Yields (where, dict) of each row. A JSON array is read whole, JSON lines one by one."""
    if zipfile.is_zipfile(path):
        raise UserError(f"{path}: a ZIP archive; unpack it and use the .jsonl or .json file in it")
    lines = read_lines(path, may_be_json=True)
    first = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    if first[1].lstrip().startswith("["):
        try:
            found = json.loads("\n".join([first[1], *(line for _, line in lines)]))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: unreadable JSON array: {error}") from error
        found = [(f"{path}: row {number}", record) for number, record in enumerate(found, 1)]
    else:
        if first[1] and not first[1].lstrip().startswith("{"):
            raise UserError(
                f"{path}:{first[0]}: not JSON; export as JSONL (doccano) or JSON (Label Studio). Rows of your own, "
                "text<TAB>label,label in UTF-8, need no conversion: split them with analysis/split.py"
            )
        found = ((f"{path}:{number}", line) for number, line in (first, *lines) if line.strip())
    for where, record in found:
        if isinstance(record, str):
            try:
                record = json.loads(record)
            except (ValueError, RecursionError) as error:
                problems.add(f"{where}: not JSON ({error}); export as JSONL (doccano) or JSON (Label Studio)")
                continue
        if isinstance(record, dict):
            yield where, record
        else:
            problems.add(f"{where}: a row must be a JSON object, not {str(record)[:40]!r}")


def _text(record):
    data = record.get("data", record)
    if isinstance(data, str):  # doccano 1.6
        return data
    if isinstance(data.get("text"), str):
        return data["text"]
    texts = [key for key, value in data.items() if isinstance(value, str)] if "data" in record else []
    if len(texts) == 1:
        return data[texts[0]]
    raise ValueError(f"no text; expected a field 'text' or 'data', found {', '.join(map(repr, data))}")


def _label_column(records, path, problems):
    """The column of labels in JSON-MIN, whose name the user chose; None for the other formats."""
    if not any("annotation_id" in record for _, record in records):
        return None
    columns = {key: True for _, record in records for key in record if key not in MIN_COLUMNS and key != "text"}
    structured = [key for key in columns if any(_is_structured(record.get(key)) for _, record in records)]
    found = structured or list(columns)
    if len(found) == 1:
        return found[0]
    what = f"it may be {', '.join(map(repr, found))}" if found else "there is none"
    problems.add(f"{path}: cannot tell which column contains the labels, {what}; export as JSON instead of JSON-MIN")
    return None


def _is_structured(value):
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _labels(record, column, separator):
    """Yields the labels of a row, as named in the tool. Raises ValueError for anything else."""
    if column is not None:
        value = record.get(column, [])
        results = value if isinstance(value, list) else [value]
    elif isinstance(record.get("data"), dict):
        results = _results(record)
    elif "entities" in record or "spans" in record:
        raise ValueError(SPANS)
    else:
        key = next((key for key in ("label", "labels") if key in record), None)
        if key is None:
            remedy = "; export as JSONL with label names" if "annotations" in record else ""
            raise ValueError(f"no field 'label', found {', '.join(map(repr, record))}{remedy}")
        value = record[key] or []  # null if a row has none
        results = value if isinstance(value, list) else [value]
    for result in results:
        yield from _names(result, separator)


def _results(record):
    """The results of Label Studio's ground truth of a task, or of its newest annotation."""
    annotations = record.get("annotations", record.get("completions"))
    if annotations is None:
        raise ValueError("no field 'annotations'; export as JSON")
    done = [each for each in annotations if not each.get("was_cancelled")]
    if not done:
        return []
    chosen = max(done, key=lambda each: (bool(each.get("ground_truth")), each.get("updated_at") or ""))
    notes = ("textarea", "rating", "number")  # allowed next to the labels
    return [result["value"] for result in chosen["result"] if result["type"] not in notes]


def _names(result, separator):
    """Yields the labels of one entry: a name, or a dict from Label Studio with choices or paths of a taxonomy."""
    if isinstance(result, str):
        yield result
    elif isinstance(result, dict) and "start" not in result and isinstance(result.get("choices"), list):
        yield from result["choices"]
    elif isinstance(result, dict) and "start" not in result and "taxonomy" in result:
        yield from (separator.join(path) for path in result["taxonomy"])
    elif isinstance(result, (dict, list)):
        raise ValueError(SPANS)
    else:
        raise ValueError(f"label {result!r} is not a name; export label names, not numbers")
