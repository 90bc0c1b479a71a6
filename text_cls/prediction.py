"""Labels of new texts, read from a file and written to one as a stream: for every script that predicts a file."""

import contextlib
from dataclasses import dataclass

from text_cls.cli import UserError, logger
from text_cls.inputs import changed
from text_cls.label_tree import levels_of, split_path
from text_cls.language import N_, tr
from text_cls.rows import LINE_BREAKS, one_line, read_texts
from text_cls.table_flags import TableOptions
from text_cls.table_output import Output
from text_cls.table_texts import READABLE, TableFile, TextFile, extension
from text_cls.terminal import progress_bar

WINDOW = 1024  # rows in memory at a time, enough for batches of rows of similar length
SHOWN = 10  # rows in the log if all are written to a file


@dataclass
class Job:
    """Texts to predict, and the file to write, None to log only."""

    texts: TextFile | TableFile
    output: Output | None = None


def check_files(
    path,
    output,
    problems,
    labels,
    with_scores=False,
    skip_blank=False,
    longest=None,
    tables=None,
    with_evidence=False,
    tool=None,
):
    """The `Job` to predict a file: rows of text, or a table, as its name ends. Adds what is wrong to `problems`.

    Args:
        output: file to write, whole or not at all: a table with the columns of the input, or rows of text,
            `text<TAB>label,label[<TAB>score,score]`. None or "" to log only.
        labels: the model's `Labels`; None if it could not be opened.
        with_scores, skip_blank: scores in rows of text; no rows where there is no text.
        longest: maximum characters per text.
        tables: `TableOptions`.
        with_evidence: a column for the passages that decided the labels.
        tool: the `labelling_tools.Tool` that is to import the output.
    """
    tables, texts, target, is_table = tables or TableOptions(), None, None, extension(path) in READABLE
    with problems.collect():
        if is_table:
            texts = TableFile(path, tables, problems, skip_blank, longest)
        else:
            texts = TextFile(path, count_texts(path, problems, labels, skip_blank, longest), skip_blank)
    for flag in () if is_table else ("text_column", "sheet", "header_row", "encoding"):
        if getattr(tables, flag) not in (None, []):
            problems.add(
                tr(
                    "--{flag} is for tables; {path} does not end with {readable}",
                    flag=flag,
                    path=path,
                    readable=", ".join(READABLE),
                )
            )
    if output:
        levels = _level_columns(tables.level_columns, labels, problems) if labels else []
        target = Output(output, levels, with_scores, tables.excel_safe, with_evidence, tool)
        for problem in target.problems(texts):
            problems.add(problem)
        if is_table and not (target.is_table or tool) and not problems.count:
            formats = tr("a .csv, .tsv, .jsonl or .parquet file")
            logger.info("%s gets only texts and labels; for all columns, name %s", output, formats)
    elif tables.excel_safe or tables.level_columns is not None:
        problems.add(tr("--excel_safe and --level_columns need a table to write, --output_file"))
    if tool and not output:
        problems.add(tr("--for {name} needs a file to write, --output_file", name=tool.name))
    return Job(texts, target)


def _level_columns(names, labels, problems):
    """Names of the columns for labels by level: `names`, or level_1, level_2, ... if that is empty; none for None."""
    if names is None:
        return []
    depth = max(len(split_path(name)) for name in labels.names)
    if depth == 1:
        problems.add(tr("--level_columns: the model's labels have no levels; leave it out"))
    elif names and len(names) != depth:
        problems.add(
            tr("--level_columns: the model's labels have {depth} levels; name as many columns, or none", depth=depth)
        )
    return names or [f"level_{i}" for i in range(1, depth + 1)]


def count_texts(path, problems, labels, skip_blank=False, longest=None):
    """Number of rows to write for a file of texts. Adds what is wrong with the file to `problems`.

    Args:
        labels: the model's `Labels`, to report a second column without any of them; None for no such check.
        skip_blank: no rows for blank lines.
        longest: maximum characters per text.
    """
    count = filled = 0
    with problems.collect():
        for number, text in read_texts(path, problems, labels, keep_blank=True):
            filled += bool(text)
            count += bool(text) or not skip_blank
            if longest and len(text) > longest:
                problems.add(
                    tr(
                        "{path}:{number}: {count} characters; shorten the text to at most {longest}",
                        path=path,
                        number=number,
                        count=len(text),
                        longest=longest,
                    )
                )
        if not filled:
            problems.add(tr("{path}: no texts; write one per line", path=path))
    return count


def predict_file(job, predict, log_row):
    """Predicts the labels of the texts of a `Job`; memory does not grow with the file.

    Row i of the output belongs to row i of the input. A row without a text is not predicted and has no labels.

    Args:
        predict: takes a list of texts, returns (label names, their probabilities) of each, perhaps with passages, see
            `named_labels`.
        log_row: takes a text and its label names. Called for each row without an output, else for the first 10.
    """
    texts, output = job.texts, job.output
    shown = SHOWN if output else texts.count
    done = blank = bare = broken = 0
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(output.open(texts)) if output else None
        bar = stack.enter_context(progress_bar(texts.count, N_("rows")))
        for window in texts.windows(WINDOW):
            answers = []
            for text, answer in _answers(window.texts, predict):
                names = answer[0]
                if done < shown:
                    log_row(one_line(text), names)
                    if len(answer) > 2:
                        log_passages(text, names, answer[2])
                answers.append(answer)
                done += 1
                blank += not text
                bare += bool(text) and not len(names)
                broken += one_line(text) != text
                bar.update(1)
            if write:
                write(window, answers)
        if done != texts.count:
            raise UserError(changed(texts.path))
    if output:
        written = done - blank if output.tool else done
        logger.info("Prediction results save in %s: %d rows", output.path, written)
    if blank and output and output.tool:
        logger.info("%d of %d rows of %s have no text and are left out", blank, done, texts.path)
    elif blank and texts.is_table:
        logger.info("%d of %d rows of %s have no text, and so no labels", blank, done, texts.path)
    elif blank:
        logger.info("%d of %d rows are blank lines of %s; --skip_blank leaves them out", blank, done, texts.path)
    if broken and not (output and (output.is_table or output.tool)):
        logger.info("%d texts contain %s; their rows have spaces there", broken, tr(LINE_BREAKS))
    if bare:
        remedy = tr(
            "--min_k 1 gives each row its best label (a flag of predict.py and infer.py), analysis/threshold.py fits "
            "thresholds to labelled rows"
        )
        logger.info("%d of %d rows have no label, as none is above its threshold; %s", bare, done - blank, remedy)
    if output and output.tool:
        output.tool.log_next_steps(output.path)


def _answers(window, predict):
    """Yields (text, what `predict` returns for it) for each text of the list `window`, of which some are empty."""
    texts = [text for text in window if text]
    found = iter(predict(texts) if texts else ())
    for text in window:
        yield text, next(found) if text else ((), ())


def named_labels(probabilities, labels, decision, passages=None):
    """Yields (label names, their probabilities) of each row of probabilities, float array [rows, labels].

    passages: int array [rows, labels, 2], what `long_texts.passages` returns; then a third item is yielded, the
    [start, end] of each label.
    """
    shown = decision.calibrated(probabilities)
    for i, chosen in enumerate(decision.decide(probabilities, labels.parents)):
        numbers = chosen.nonzero()[0]
        more = () if passages is None else (passages[i, numbers].tolist(),)
        yield [labels.names[k] for k in numbers], shown[i, numbers], *more


def log_passages(text, names, passages):
    """Logs the passages of a text that decided its labels, each with its labels."""
    labels = {}
    for name, passage in zip(names, passages):
        labels.setdefault(tuple(passage), []).append(name)
    for (start, end), decided in labels.items():
        logger.info("evidence for %s: %s", ",".join(decided), one_line(text[start:end]))


def log_flat(text, names):
    """Logs a row with flat labels as PaddleNLP's application does."""
    logger.info("input data: %s", text)
    logger.info("labels: %s", ",".join(names))
    logger.info("-" * 20)


def log_hierarchy(text, names):
    """Logs a row with labels of a hierarchy as PaddleNLP's application does."""
    logger.info("text: %s", text)
    logger.info("prediction result: %s", ",".join(names))
    for level, pieces in enumerate(levels_of(names), 1):
        logger.info("level %d : %s", level, ",".join(pieces))
    logger.info("-" * 20)
