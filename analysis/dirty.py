"""Find training rows whose labels are probably wrong, and report which labels and why.

    python analysis/dirty.py --device cpu --dataset_dir data
    python analysis/dirty.py --device gpu --dataset_dir data --params_path ./checkpoint --dirty_num 200
    python analysis/dirty.py --device gpu --dataset_dir data --params_path ./checkpoint --method representer
    python analysis/dirty.py --device cpu --dataset_dir data --html dirty.html
    python analysis/dirty.py --dataset_dir data --apply train_dirty_decisions.tsv

Writes the most suspect rows to train_dirty.txt, the others to train_dirty_rest.txt, and what is wrong with each suspect
row to train_dirty_report.tsv. Check and correct the suspect rows, then train on both files. The default method needs no
model: it scores each row with linear models that were not trained on it. With --html, also a page on which a person
decides on the suspect rows by keyboard; --apply writes a train file with these decisions.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command, logger, non_negative_float, non_negative_int, positive_int
from text_cls.files import atomic_write
from text_cls.inputs import changed
from text_cls.language import tr
from text_cls.neural.compat import prepare_environment
from text_cls.rows import format_row, read_labels, read_lines, read_rows
from utils import (
    CHECKPOINT,
    add_model_flags,
    encode_texts,
    keep_inputs,
    load_weights,
    log_rows,
    open_model,
    probabilities_of,
)

OUTPUTS = ("dirty_file", "rest_file", "report_file")
REPORT = ("rank", "line", "label", "fault", "out_of_fold", "model", "why", "suggested", "given", "text")


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--train_file", default="train.txt", help="labelled rows to check (%(default)s)")
    parser.add_argument(
        "--method",
        default="confident",
        choices=("confident", "representer"),
        help="how to find label errors (%(default)s)",
    )
    parser.add_argument("--seed", type=non_negative_int, default=3, help="random seed for the folds (%(default)s)")

    model = parser.add_argument_group(
        "model (required by representer, otherwise optional; the report includes its probabilities)"
    )
    add_model_flags(
        parser,
        params_path=None,
        params_help=tr("checkpoint of train.py (none; representer: the project's checkpoint/)"),
        batch_size=16,
        label_help=tr("all labels; if there is a model, it must have the same (%(default)s)"),
        group=model,
    )

    output = parser.add_argument_group("output, in dataset_dir")
    output.add_argument(
        "--dirty_num", type=positive_int, default=100, help="maximum number of suspect rows to write (%(default)s)"
    )
    output.add_argument(
        "--dirty_threshold",
        type=non_negative_float,
        default=0,
        help="minimum score of a suspect row, exclusive (%(default)s)",
    )
    output.add_argument("--dirty_file", default="train_dirty.txt", help="suspect rows, worst first (%(default)s)")
    output.add_argument("--rest_file", default="train_dirty_rest.txt", help="all other rows (%(default)s)")
    output.add_argument(
        "--report_file", default="train_dirty_report.tsv", help="which labels are suspect, and why (%(default)s)"
    )
    output.add_argument("--html", help="HTML page to accept or correct the labels of suspect rows; any folder (none)")

    _add_decision_flags(parser)
    args = parser.parse_args(argv)
    if args.method == "representer" and args.params_path is None:
        args.params_path = CHECKPOINT
    return args


def _add_decision_flags(parser):
    group = parser.add_argument_group("decisions of a person; nothing else is done")
    group.add_argument("--apply", help="file of decisions, saved by the page of --html; any folder (none)")
    group.add_argument(
        "--corrected_file",
        default="train_corrected.txt",
        help="train_file with the decisions of --apply, in dataset_dir (%(default)s)",
    )


def read_all(args, problems):
    """(rows, labels, checkpoint or None, maximum length), checked; problems go to `problems`."""
    checkpoint, max_seq_length = None, None
    if args.params_path is not None:
        uses = tr("features, which --method representer compares") if args.method == "representer" else None
        checkpoint, max_seq_length = open_model(args, problems, uses)
        labels = checkpoint.labels
    else:
        labels = read_labels(os.path.join(args.dataset_dir, args.label_file), problems)
    rows = read_rows(os.path.join(args.dataset_dir, args.train_file), labels, problems)
    if len(rows) and len(set(rows.texts)) < 2:
        problems.add(tr("{path}: all texts are the same; a row is judged by rows with other texts", path=rows.path))
    return rows, labels, checkpoint, max_seq_length


def find_label_errors(args, rows, targets, checkpoint, max_seq_length, environment):
    """(`LabelErrors`, out-of-fold probabilities, the model's probabilities or None), arrays [rows, labels]."""
    from label_errors import calibrated_by_label, confident_learning, representer_values
    from text_cls import linear_model

    logger.info("Computing out-of-fold probabilities of %d rows with a linear model ...", len(rows))
    scores, pooled = linear_model.out_of_fold(list(rows.texts), targets, seed=args.seed)
    unseen, own = calibrated_by_label(scores, pooled, targets, args.seed), None
    found = confident_learning(unseen, targets) if args.method == "confident" else None
    if checkpoint is not None:
        load_weights(checkpoint, args.device, environment)
        own = checkpoint.decision.calibrated(probabilities_of(checkpoint, rows.texts, max_seq_length, args.batch_size))
        if args.method == "representer":
            from text_cls.neural.model import predict_features

            encoded = encode_texts(checkpoint, rows.texts, max_seq_length)
            features = predict_features(checkpoint.model, encoded, args.batch_size)
            found = representer_values(features, targets, args.dirty_threshold)
    return found, unseen, own


class Reasons:
    """Explains in a sentence why a label of a row is suspect. unseen, targets: arrays [rows, labels]."""

    def __init__(self, unseen, targets):
        self._unseen = unseen
        self._with, self._without = (
            (unseen * mask).sum(axis=0) / mask.sum(axis=0).clip(min=1) for mask in (targets, ~targets)
        )

    def numbers(self, row, label):
        """Mean probability of a label for this row, for rows with the label, and for rows without it."""
        return [round(float(part[label]), 2) for part in (self._unseen[row], self._with, self._without)]

    def __call__(self, row, label, fault):
        given = tr("not given") if fault == "missing" else tr("given")
        return tr(
            "{given}, but models that have not seen the row give it {unseen:.2f}; rows with it have {with_:.2f} on "
            "average, rows without it {without:.2f}",
            given=given,
            unseen=self._unseen[row, label],
            with_=self._with[label],
            without=self._without[label],
        )


def write_report(path, chosen, rows, labels, targets, found, unseen, own):
    """Writes a line per suspect label of the chosen rows, with the corrected labels of the row.

    Returns:
        {"missing", "wrong": number of labels written}.
    """
    from label_errors import corrected, suspect_labels

    reasons, faults = Reasons(unseen, targets), {"missing": 0, "wrong": 0}
    with atomic_write(path) as file:
        file.write(format_row(*REPORT))
        for rank, i in enumerate(chosen, 1):
            flags, gold = found.flags[i], targets[i]
            suggested = labels.join(corrected(gold, flags, labels.parents))
            for fault, label in suspect_labels(flags, gold, labels.parents):
                faults[fault] += 1
                model = "" if own is None else f"{own[i, label]:.4f}"
                columns = (rank, rows.lines[i], labels.names[label], fault, f"{unseen[i, label]:.4f}", model)
                columns += (reasons(i, label, fault), suggested, labels.join(gold), rows.texts[i])
                file.write(format_row(*map(str, columns)))
    return faults


def split_file(source, lines, dirty_path, rest_path):
    """Copies the rows of `lines`, line numbers, to `dirty_path` in that order, and all other rows to `rest_path`."""
    taken = dict.fromkeys(int(line) for line in lines)
    with atomic_write(rest_path) as rest, atomic_write(dirty_path) as dirty:
        for number, line in read_lines(source, again=True):
            row = format_row(*line.split("\t"))
            if number in taken:
                taken[number] = row
            elif line.strip():
                rest.write(row)
        if None in taken.values():
            raise UserError(changed(source))
        dirty.writelines(taken.values())


def entries(chosen, rows, labels, targets, found, unseen, own):
    """Yields a `correction_page.Entry` for each of the chosen rows. Arguments: as of `write_report`."""
    from correction_page import Entry, shown_labels
    from label_errors import corrected, suspect_labels

    reasons = Reasons(unseen, targets)
    for i in chosen:
        flags, gold = found.flags[i], targets[i]
        suggested = np.flatnonzero(corrected(gold, flags, labels.parents))
        scores = shown_labels(np.flatnonzero(gold), suggested, *(part[i] for part in (unseen, own) if part is not None))
        suspects = suspect_labels(flags, gold, labels.parents)
        why = [[fault, int(label), *reasons.numbers(i, label)] for fault, label in suspects]
        yield Entry(rows.lines[i], rows.texts[i], np.flatnonzero(gold), suggested, scores, why)


def write_html(args, chosen, rows, labels, targets, found, unseen, own):
    """Writes the page of --html and logs where it is, and what it lacks."""
    from correction_page import DIRTY, write_correction_page

    folder, stem = args.dataset_dir, Path(args.dirty_file).stem
    names = {"rows": f"{stem}_corrected.txt", "decisions": f"{stem}_decisions.tsv"}
    both = [os.path.join(folder, name) for name in (names["rows"], args.rest_file, args.corrected_file)]
    train = ["python", "train.py", "--dataset_dir", folder, "--train_file", args.corrected_file]
    correct = ["python", "analysis/dirty.py", "--dataset_dir", folder, "--train_file", args.train_file]
    correct += ["--label_file", args.label_file, "--apply", os.path.join(folder, names["decisions"])]
    correct += ["--corrected_file", args.corrected_file]
    files = names | {
        "all": os.path.join(folder, args.dirty_file),
        "rows_command": f"awk 1 {shlex.join(both[:2])} > {shlex.join(both[2:])}\n{shlex.join(train)}",
        "decisions_command": shlex.join(correct),
    }
    columns = ["unseen"] if own is None else ["unseen", "model"]
    shown = entries(chosen, rows, labels, targets, found, unseen, own)
    write_correction_page(args.html, DIRTY, shown, labels, files, columns)


def apply(args):
    """Writes train_file with the decisions of --apply, and logs how many there are."""
    from corrections import apply_decisions

    problems = Problems()
    inputs = (args.train_file, args.label_file, os.path.abspath(args.apply))
    keep_inputs(args.dataset_dir, inputs, {"--corrected_file": args.corrected_file}, problems)
    with problems.collect():
        labels = read_labels(os.path.join(args.dataset_dir, args.label_file), problems)
    problems.stop_if_any()
    source, target = (os.path.join(args.dataset_dir, name) for name in (args.train_file, args.corrected_file))
    counts, written = apply_decisions(args.apply, source, labels, target)
    logger.info("Decisions: %(keep)d rows kept, %(change)d changed, %(remove)d removed", counts)
    logger.info("%d rows saved in %s; %s is as it was", written, target, source)
    logger.info("Next: python train.py --dataset_dir '%s' --train_file %s", args.dataset_dir, args.corrected_file)
    return 0


@command
def main(argv=None):
    args = parse_args(argv)
    if args.apply:
        return apply(args)
    environment = prepare_environment()
    problems, outputs = Problems(), {f"--{name}": getattr(args, name) for name in OUTPUTS}
    if args.html:
        outputs["--html"] = os.path.abspath(args.html)
        if os.path.isdir(args.html):
            problems.add(tr("{path} is a folder; name a file", path=args.html))
    keep_inputs(args.dataset_dir, (args.train_file, args.label_file), outputs, problems)
    source = os.path.join(args.dataset_dir, args.train_file)
    dirty, rest, report = (
        os.path.join(args.dataset_dir, name) for name in (getattr(args, output) for output in OUTPUTS)
    )
    with problems.collect():
        rows, labels, checkpoint, max_seq_length = read_all(args, problems)
    problems.stop_if_any()
    log_rows(rows)

    targets = rows.multi_hot(len(labels))
    found, unseen, own = find_label_errors(args, rows, targets, checkpoint, max_seq_length, environment)
    scores, order = found.scores(), found.order()
    suspect = [i for i in order if scores[i] > args.dirty_threshold]
    chosen = suspect[: args.dirty_num]
    faults = write_report(report, chosen, rows, labels, targets, found, unseen, own)
    split_file(source, rows.lines[chosen], dirty, rest)
    logger.info("Suspect rows: %d of %d, the worst %d written", len(suspect), len(rows), len(chosen))
    logger.info("Their labels: %d probably wrong, %d probably missing", faults["wrong"], faults["missing"])
    for i in chosen[:5]:
        logger.info("line %d, score %.2f: %s [%s]", rows.lines[i], scores[i], rows.texts[i], labels.join(targets[i]))
    logger.info("Suspect rows saved in %s, other rows in %s, reasons in %s", dirty, rest, report)
    if args.html:
        write_html(args, chosen, rows, labels, targets, found, unseen, own)
    logger.info("Next: correct the labels in %s, append the other rows to it, and train on that", dirty)
    return 0


if __name__ == "__main__":
    sys.exit(main())
