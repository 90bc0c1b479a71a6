"""Labels the parts of a corpus with a bundle: what an actor does, without Ray."""

import contextlib
import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from parts import ADDED, Part, json_line, schema_of, windows
from storage import Folder, reported
from text_cls.cli import UserError
from text_cls.decision import Decision
from text_cls.language import tr
from text_cls.table_output import GROUP_BYTES, ROW_GROUP, Output
from text_cls.tables import records_of

METADATA = b"text_cls.part"  # key of the report in the footer of a Parquet file
REPORTS = "_parts"  # folder of the reports of JSONL files
TYPES = {"labels": pa.list_(pa.string()), "scores": pa.list_(pa.float32()), "error": pa.string()}


@dataclass(frozen=True)
class Job:
    """What all parts have in common.

    bundle, decision: SHA-256 of the bundle's manifest, and of the decision. settings: others that change the labels or
    the parts. format: ending of the output files. max_errors: rows that may have an error.
    """

    input: Folder
    output: Folder
    bundle: str
    decision: str
    settings: dict[str, Any]
    format: str
    text_column: str
    max_errors: int

    def identity(self, part: Part) -> dict[str, Any]:
        """What the report of a part must agree with."""
        return {
            "bundle": self.bundle,
            "decision": self.decision,
            "settings": self.settings,
            "input": {"file": part.path, "start": part.start, "end": part.end, "digest": part.digest},
        }

    def file(self, part: Part) -> str:
        """Name of the output file of a part."""
        return part.name + self.format


class Labeller:
    """Holds an open bundle, and labels one part after the other. Ray makes an actor of it."""

    def __init__(self, job: Job, bundle: str, decision: Decision, **options: Any) -> None:
        self.job, self.bundle, self.decision, self.options = job, bundle, decision, options

    def open(self) -> None:
        """Opens the bundle. Not done in __init__, whose errors Ray takes for the death of the actor."""
        from text_cls.serving import open_predictor

        self.predictor = open_predictor(self.bundle, **self.options)
        if self.predictor.bundle.digest != self.job.bundle:
            raise UserError(
                tr(
                    "{bundle}: the nodes have different bundles under this path; copy the same to all",
                    bundle=self.bundle,
                )
            )
        self.predictor.decision = self.decision

    def label(self, part: Part) -> dict[str, Any]:
        """Reads, labels and writes a part. Returns its report, which the part has in its metadata."""
        job, started = self.job, time.time()
        report = job.identity(part) | {"rows": 0, "blank": 0, "without_labels": 0, "labels": Counter(), "errors": []}
        write = _parquet if job.format == ".parquet" else _json
        with job.output.write(job.file(part)) as file, write(file, job, part, report) as write_window:
            for window in windows(job.input, part, job.text_column):
                answers = self._answers(window)
                write_window(window, answers)
                _count(report, window, answers)
                check_errors(report["errors"], job.max_errors)
            report["seconds"] = round(time.time() - started, 3)
        return report

    def _answers(self, window):
        """{column: value} to add to each row."""
        rows = [i for i, text in enumerate(window.texts) if text]
        found = self._predicted(window, rows)
        output = Output("")
        answers = [output.added(*found.get(i, ((), ()))) for i in range(len(window.texts))]
        return [answer | {"error": window.errors.get(i)} for i, answer in enumerate(answers)]

    def _predicted(self, window, rows):
        """{row: (label names, scores)}. If the model fails, each row is tried alone, to find those it fails on."""
        if not rows:
            return {}
        try:
            return dict(zip(rows, self.predictor.predict([window.texts[i] for i in rows])))
        except Exception as error:
            if len(rows) == 1:
                window.errors[rows[0]] = tr("the model fails: {error}", error=error)
                return {}
        return {row: answer for i in rows for row, answer in self._predicted(window, [i]).items()}


def check_errors(errors, most):
    """Raises a UserError if more rows cannot be labelled than a job may have."""
    if len(errors) > most:
        shown = "\n".join(f"  {each['position']}: {each['error']}" for each in errors[:10])
        raise UserError(
            tr(
                "more than {most} rows cannot be labelled; allow more with --max_errors and run this again, or repair "
                "them and name a new --output:\n{shown}",
                most=most,
                shown=shown,
            )
        )


def _count(report, window, answers):
    report["rows"] += len(answers)
    for i, answer in enumerate(answers):
        if answer["error"]:
            report["errors"].append({"position": window.positions[i], "error": answer["error"]})
        elif not window.texts[i]:
            report["blank"] += 1
        elif not answer["labels"]:
            report["without_labels"] += 1
        report["labels"].update(answer["labels"])


# ------------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def _parquet(file, job, part, report):
    columns = schema_of(job.input, part)
    schema = pa.schema([*columns, *(pa.field(name, TYPES[name]) for name in ADDED)], metadata=columns.metadata)
    waiting = []

    def write_group(least_rows, least_bytes):
        if waiting and (sum(map(len, waiting)) >= least_rows or sum(batch.nbytes for batch in waiting) >= least_bytes):
            writer.write_table(pa.Table.from_batches(waiting, schema))
            waiting.clear()

    def write(window, answers):
        batch = window.batch
        if batch is None:
            batch = pa.RecordBatch.from_pylist(window.records, columns)
        added = [pa.array([answer[name] for answer in answers], TYPES[name]) for name in ADDED]
        waiting.append(pa.RecordBatch.from_arrays([*batch.columns, *added], schema=schema))
        write_group(ROW_GROUP, GROUP_BYTES)

    with pq.ParquetWriter(file, schema) as writer:
        yield write
        write_group(0, 0)
        writer.add_key_value_metadata({METADATA: json.dumps(report, ensure_ascii=False).encode()})


@contextlib.contextmanager
def _json(file, job, part, report):
    def write(window, answers):
        records = window.records if window.batch is None else records_of(window.batch, part.path)
        file.writelines(json_line(record | answer) for record, answer in zip(records, answers))

    yield write
    # Before the part itself appears, so that no part is without its report.
    job.output.write_json(f"{REPORTS}/{part.name}.json", report)


def read_report(job: Job, part: Part) -> dict[str, Any]:
    """The report of a part that has been written.

    Raises:
        UserError: the part is of another bundle, decision or input, or not one of these parts at all.
    """
    name = job.file(part)
    if job.format == ".parquet":
        with job.output.open(name) as file, reported(job.output.path(name)):
            report = json.loads((pq.ParquetFile(file).metadata.metadata or {}).get(METADATA, b"null"))
    else:
        report = job.output.read_json(f"{REPORTS}/{part.name}.json")
    wanted = job.identity(part)
    others = [key for key, value in wanted.items() if not report or report.get(key) != value]
    if others:
        raise UserError(
            tr(
                "{path} is not a part of this job: its {others} differ; name another --output",
                path=job.output.path(name),
                others=", ".join(others),
            )
        )
    return report
