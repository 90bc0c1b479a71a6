"""Exports of labelling tools as (where, text, labels): doccano's JSONL and JSON, Label Studio's JSON and JSON-MIN."""

import json
import zipfile

from text_cls.cli import UserError
from text_cls.rows import read_lines

SPANS = (
    "this is an annotation of a span in the text, not of the whole; label it in a project of the type text "
    "classification (doccano), with <Choices> or <Taxonomy> (Label Studio)"
)
# Columns that Label Studio's JSON-MIN adds to those of the data and of the labels.
MIN_COLUMNS = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"}


def read_annotations(path, separator, problems):
    """The annotated texts of an export. What cannot be read goes to `problems`.

    Args:
        separator: joins the pieces of a path of Label Studio's <Taxonomy>.
    Returns:
        list of (where: str, text: str, labels: list of str), as the file has them.
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
                raise UserError(f"{where}: not a row as doccano or Label Studio export it ({error!r})") from error
    return rows


def _records(path, problems):
    """(where, dict) of each row. An array is read whole, lines one by one."""
    if zipfile.is_zipfile(path):
        raise UserError(f"{path}: a ZIP archive; unpack it and give the .jsonl or .json file in it")
    lines = read_lines(path)
    first = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    if first[1].lstrip().startswith("["):
        try:
            found = json.loads("\n".join([first[1], *(line for _, line in lines)]))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: a JSON array that cannot be read: {error}") from error
        found = [(f"{path}: row {number}", record) for number, record in enumerate(found, 1)]
    else:
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
    """The column of JSON-MIN that holds the labels, None for the other formats. Its name is the user's own."""
    if not any("annotation_id" in record for _, record in records):
        return None
    columns = {key: True for _, record in records for key in record if key not in MIN_COLUMNS and key != "text"}
    structured = [key for key in columns if any(_is_structured(record.get(key)) for _, record in records)]
    found = structured or list(columns)
    if len(found) == 1:
        return found[0]
    what = f"it may be {', '.join(map(repr, found))}" if found else "there is none"
    problems.add(f"{path}: cannot tell which column holds the labels, {what}; export as JSON in place of JSON-MIN")
    return None


def _is_structured(value):
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _labels(record, column, separator):
    """The labels of a row as the tool has them. Raises ValueError for what is none."""
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
            remedy = "; export as JSONL with the labels' names" if "annotations" in record else ""
            raise ValueError(f"no field 'label', found {', '.join(map(repr, record))}{remedy}")
        value = record[key] or []  # null where a row has none
        results = value if isinstance(value, list) else [value]
    for result in results:
        yield from _names(result, separator)


def _results(record):
    """The results of Label Studio's annotation of a task: of the ground truth, else of the newest one."""
    annotations = record.get("annotations", record.get("completions"))
    if annotations is None:
        raise ValueError("no field 'annotations'; export as JSON")
    done = [each for each in annotations if not each.get("was_cancelled")]
    if not done:
        return []
    chosen = max(done, key=lambda each: (bool(each.get("ground_truth")), each.get("updated_at") or ""))
    notes = ("textarea", "rating", "number")  # may stand beside the labels
    return [result["value"] for result in chosen["result"] if result["type"] not in notes]


def _names(result, separator):
    """Labels from one entry: a name, or a dict of Label Studio's with choices or paths of a taxonomy."""
    if isinstance(result, str):
        yield result
    elif isinstance(result, dict) and "start" not in result and isinstance(result.get("choices"), list):
        yield from result["choices"]
    elif isinstance(result, dict) and "start" not in result and "taxonomy" in result:
        yield from (separator.join(path) for path in result["taxonomy"])
    elif isinstance(result, (dict, list)):
        raise ValueError(SPANS)
    else:
        raise ValueError(f"label {result!r} is no name; export with the labels' names, not their numbers")
