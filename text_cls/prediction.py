"""Labels of new texts, read from a file and written to one as a stream: for predict.py and infer.py."""

import contextlib
import os
from itertools import islice

from text_cls.cli import UserError, logger, progress_bar
from text_cls.files import atomic_write
from text_cls.inputs import changed
from text_cls.label_tree import split_path
from text_cls.rows import LINE_BREAKS, format_row, one_line, read_texts

WINDOW = 1024  # rows in memory at a time, enough for batches of rows of similar length
SHOWN = 10  # rows in the log if all are written to a file


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
                problems.add(f"{path}:{number}: {len(text)} characters; shorten the text to at most {longest}")
        if not filled:
            problems.add(f"{path}: no texts; write one per line")
    return count


def predict_file(path, count, output, predict, log_row, with_scores, skip_blank=False):
    """Predicts the labels of the texts of a checked file; memory does not grow with the file.

    Row i of the output is line i of the file. A blank line is not predicted: its row has empty columns.

    Args:
        count: what `count_texts` returned.
        output: file to write, whole or not at all, `text<TAB>label,label[<TAB>score,score]`; None to log only.
        predict: takes a list of texts, returns (label names, their probabilities) of each.
        log_row: takes a text and its label names. Called for each row without an output, else for the first 10.
        skip_blank: no rows for blank lines.
    """
    if output and os.path.exists(output) and os.path.samefile(path, output):
        raise UserError(f"--output_file {output}: this is also an input file and would be lost; name another")
    shown = SHOWN if output else count
    texts = (text for _, text in read_texts(path, keep_blank=not skip_blank))
    done = blank = bare = broken = 0
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(atomic_write(output)) if output else None
        bar = stack.enter_context(progress_bar(count, "row"))
        while window := list(islice(texts, WINDOW)):
            for text, names, scores in _answers(window, predict):
                if done < shown:
                    log_row(one_line(text), names)
                if file:
                    columns = [text, ",".join(names)]
                    if with_scores:
                        columns.append(",".join(f"{score:.5f}" for score in scores))
                    file.write(format_row(*columns))
                done += 1
                blank += not text
                bare += bool(text) and not len(names)
                broken += one_line(text) != text
                bar.update(1)
        if done != count:
            raise UserError(changed(path))
    if output:
        logger.info("Prediction results save in %s: %d rows", output, done)
    if blank:
        logger.info("%d of %d rows are blank lines of %s; --skip_blank leaves them out", blank, done, path)
    if broken:
        logger.info("%d texts contain %s; their rows have spaces there", broken, LINE_BREAKS)
    if bare:
        remedy = (
            "--min_k 1 gives each row its best label (a flag of predict.py and infer.py), analysis/threshold.py fits "
            "thresholds to labelled rows"
        )
        logger.info("%d of %d rows have no label, as none is above its threshold; %s", bare, done - blank, remedy)


def _answers(window, predict):
    """Yields (text, label names, their probabilities) of each text of the list `window`, of which some are empty."""
    texts = [text for text in window if text]
    found = iter(predict(texts) if texts else ())
    for text in window:
        yield text, *(next(found) if text else ((), ()))


def named_labels(probabilities, labels, decision):
    """Yields (label names, their probabilities) of each row of probabilities, float array [rows, labels]."""
    shown = decision.calibrated(probabilities)
    for row, chosen in zip(shown, decision.decide(probabilities, labels.parents)):
        numbers = chosen.nonzero()[0]
        yield [labels.names[i] for i in numbers], row[numbers]


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


def levels_of(names):
    """The last pieces of label paths, each once, by level: [[pieces of level 1], [pieces of level 2], ...]."""
    levels = []
    for name in names:
        pieces = split_path(name)
        levels += [{} for _ in range(len(pieces) - len(levels))]
        levels[len(pieces) - 1][pieces[-1]] = True
    return [list(level) for level in levels]
