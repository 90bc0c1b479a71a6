"""Score classification by retrieval on labelled rows: recall among the nearest entries, and F1 of the predicted labels.

    python evaluate.py --similar_text_pair data/dev.txt --recall_result_file recall_result/recall_result_file
    python evaluate.py --similar_text_pair data/dev.txt --params_path checkpoint --device cpu
    python evaluate.py --similar_text_pair data/dev.txt --params_path output --device cpu --threshold 0.3

The first command scores what recall.py wrote, the others search on their own. Each run adds a line to result.tsv.
"""

import argparse
import math
import os
import sys
import time
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import numpy as np

from corpus import decision_by_vote, read_corpus
from metric import classification_report, recall_at
from searching import Search, add_search_flags, found_ids
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command, logger
from text_cls.decision_flags import add_decision_flags, decision_options, overridden
from text_cls.files import atomic_write
from text_cls.language import tr
from text_cls.neural.compat import prepare_environment
from text_cls.prediction import WINDOW
from text_cls.rows import one_line, read_labels, read_lines, read_rows
from text_cls.search.index import MISSING, Found
from text_cls.search.label_scores import carry_decision, deepest_gold, default_decision, label_scores
from utils import keep_inputs, log_rows

CUTOFFS = (1, 5, 10, 20, 50)
RESULT = "result.tsv"


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--similar_text_pair",
        "--similar_text_pair_file",
        default="data/dev.txt",
        help="labelled rows (%(default)s)",
    )
    parser.add_argument("--recall_result_file", help="what recall.py wrote for these rows (none: search now)")
    parser.add_argument("--label_path", help="label file (the model's; without a model, label.txt beside the rows)")
    add_search_flags(parser, required=False)
    add_decision_flags(parser)
    return parser.parse_args(argv)


def read_result(path, rows, labels, problems):
    """The file that recall.py wrote for the texts of `rows`, as `index.Found`. What is wrong is added to `problems`."""
    stretches = []  # (text, number of the first line, entries) for consecutive lines of the same text
    tuples = {}  # equal labels share one tuple: the file has many lines for each label
    for number, line in read_lines(path):
        try:
            text, names, cosine = line.split("\t")
            cosine = float(cosine)
        except ValueError:
            cosine = math.nan
        if not math.isfinite(cosine):
            problems.add(
                tr(
                    "{path}:{number}: a line must be text<TAB>label,label<TAB>cosine, as recall.py writes it",
                    path=path,
                    number=number,
                )
            )
            continue
        if not stretches or stretches[-1][0] != text:
            stretches.append((text, number, []))
        stretches[-1][2].append((tuples.setdefault(names, tuple(names.split(","))), cosine))
    for name in sorted({name for names in tuples.values() for name in names} - set(labels.index)):
        problems.add(
            tr(
                "{path}: label {name!r} is not in the label file; use that of the corpus, --label_path",
                path=path,
                name=name,
            )
        )
    problems.stop_if_any()
    entries_of_rows = _split_by_row(path, rows, stretches)
    k = max(map(len, entries_of_rows))
    padded = [entries + [((), MISSING)] * (k - len(entries)) for entries in entries_of_rows]
    cosines = np.array([[cosine for _, cosine in entries] for entries in padded], np.float32)
    return Found(cosines, [[names for names, _ in entries] for entries in padded])


def _split_by_row(path, rows, stretches):
    """The entries of each row: consecutive rows with the same text share its entries equally."""
    remedy = tr("it is not the result of {path}; run recall.py --similar_text_pair_file {path} again", path=rows.path)
    entries_of_rows = []
    repeats = [(text, len(list(same))) for text, same in groupby(map(one_line, rows.texts))]
    for (wanted, count), (text, line, entries) in zip(repeats, stretches):
        if wanted != text:
            raise UserError(
                tr(
                    "{path}:{line}: {text!r}, but the next of the rows is {wanted!r}; {remedy}",
                    path=path,
                    line=line,
                    text=text[:30],
                    wanted=wanted[:30],
                    remedy=remedy,
                )
            )
        each, rest = divmod(len(entries), count)
        if rest:
            raise UserError(
                tr(
                    "{path}:{line}: {entries} entries for {rows} rows of {text!r}; {remedy}",
                    path=path,
                    line=line,
                    entries=len(entries),
                    rows=count,
                    text=text[:30],
                    remedy=remedy,
                )
            )
        entries_of_rows += [entries[i * each : (i + 1) * each] for i in range(count)]
    if len(repeats) != len(stretches):
        what = tr("more texts than") if len(stretches) > len(repeats) else tr("not all texts of")
        raise UserError(f"{path}: {what} {rows.path}; {remedy}")
    return entries_of_rows


def joined(parts):
    """One `Found` of several. A part with fewer entries per text is filled up with `MISSING` and ()."""
    k = max(part.cosines.shape[1] for part in parts)
    cosines, labels = [], []
    for part in parts:
        lacking = k - part.cosines.shape[1]
        cosines.append(np.pad(part.cosines, [(0, 0), (0, lacking)], constant_values=MISSING))
        labels += [row + [()] * lacking for row in part.labels]
    return Found(np.concatenate(cosines), labels)


def decide(found, labels, decision, vote, calibration):
    """The labels predicted from what was found: bool array [rows, labels]."""
    chosen = np.zeros((len(found.labels), len(labels)), dtype=bool)
    for start in range(0, len(chosen), WINDOW):
        part = slice(start, start + WINDOW)
        scores = label_scores(Found(found.cosines[part], found.labels[part]), labels, vote, calibration)
        chosen[part] = decision.decide(scores, labels.parents)
    return chosen


def add_line(recalls, report):
    """Adds a line to result.tsv: time, recalls, micro and macro F1 (in percent)."""
    figures = [*recalls.values(), report["micro"]["f1"], report["macro"]["f1"]]
    before = ""
    if os.path.exists(RESULT):
        with open(RESULT, encoding="utf-8") as file:
            before = file.read()
    with atomic_write(RESULT) as file:
        file.write(before + "\t".join([time.strftime("%Y%m%d-%H%M%S"), *(f"{100 * x:.3f}" for x in figures)]) + "\n")


def check_args(args, problems):
    """Sets the default of --label_path, and adds what is wrong with the arguments to `problems`."""
    path = args.recall_result_file
    if not path and not args.params_path:
        problems.add(tr("name what to score: --recall_result_file, which recall.py wrote, or a model, --params_path"))
    if path and args.corpus_file:
        problems.add(tr("--corpus_file: the result file already has a corpus; leave out one of the two"))
    if not args.params_path and not args.label_path:
        args.label_path = os.path.join(os.path.dirname(args.similar_text_pair), "label.txt")
    inputs = [name for name in (args.similar_text_pair, path, args.corpus_file, args.label_path) if name]
    keep_inputs(".", inputs, {"the result's name": RESULT}, problems)


def open_inputs(args, problems):
    """Labels, decision, encoder and corpus. The last is None for a result file, the encoder perhaps, too."""
    encoder = None
    if args.params_path:
        from encoder import open_encoder

        device = "cpu" if args.recall_result_file else args.device  # a result file needs no computing
        encoder = open_encoder(args.params_path, device, args.batch_size, args.max_seq_length)
    if not args.recall_result_file:
        corpus = read_corpus(args, encoder, problems)
        if args.label_path and not read_labels(args.label_path, problems, of_model=True).same_as(corpus.labels):
            problems.add(
                tr(
                    "--label_path {label_path} is not the label file of the model and corpus; leave it out",
                    label_path=args.label_path,
                )
            )
        return corpus.labels, corpus.decision, encoder, corpus
    labels = read_labels(args.label_path, problems) if args.label_path else encoder.labels
    if encoder:
        decision = carry_decision(encoder.decision, encoder.labels, labels)
        return labels, decision_by_vote(decision) if args.vote else decision, encoder, None
    decision = default_decision(labels)
    logger.info("No model: the decision is a threshold of %s, %s", decision.threshold, decision.hierarchy)
    return labels, decision, None, None


def find(args, rows, encoder, corpus):
    """Searches for the texts of the rows.

    Returns:
        (`Found`, whether they vote, the calibration of their scores or None, whether all entries were found).
    """
    search = Search(args, encoder, corpus)
    found = joined([part for _, part in search.windows(rows.texts, len(rows))])
    return found, search.vote, search.calibration, len(search.index) <= search.neighbours


def log_limits(gold, ids, could_vote, all_found):
    """Logs what limits the figures.

    Args:
        gold: bool array [rows, labels] of `deepest_gold`. ids: int array [rows, k, n] of `found_ids`.
        could_vote: whether a result file is scored without --vote. all_found: whether no entry is farther than these.
    """
    _, k, labels_per_entry = ids.shape
    if without := int((~gold.any(axis=1)).sum()):
        logger.info("%d rows have no label: they count only for F1, since there is nothing to recall", without)
    if could_vote and labels_per_entry > 1:
        logger.warning("The entries found have several labels, as training rows do; to have them vote: --vote")
    if k < CUTOFFS[-1] and not all_found:
        logger.warning("Only %d entries per text are known: higher recalls equal recall@%d; see --recall_num", k, k)


@command
def main(argv=None):
    args = parse_args(argv)
    prepare_environment()
    problems, path = Problems(), args.recall_result_file
    check_args(args, problems)
    problems.stop_if_any()
    labels, decision, encoder, corpus = open_inputs(args, problems)
    rows = read_rows(args.similar_text_pair, labels, problems)
    with problems.collect():
        decision = overridden(decision, **decision_options(args))
    found = read_result(path, rows, labels, problems) if path else None
    problems.stop_if_any()
    log_rows(rows)

    if path:
        k, vote, all_found = args.recall_num or found.cosines.shape[1], bool(args.vote), False
        found = Found(found.cosines[:, :k], [entries[:k] for entries in found.labels])
        calibration = encoder.calibration if encoder else None
    else:
        found, vote, calibration, all_found = find(args, rows, encoder, corpus)
    gold, ids = deepest_gold(rows, labels), found_ids(found, labels)
    log_limits(gold, ids, bool(path) and not vote, all_found)
    predicted = decide(found, labels, decision, vote, calibration)
    report = classification_report(rows.multi_hot(len(labels)), predicted, labels.parents)
    recalls = recall_at(gold, ids, CUTOFFS)
    for number, share in recalls.items():
        print(f"recall@{number}={100 * share:.3f}")
    print(f"Micro f1 score: {100 * report['micro']['f1']:.3f}")
    print(f"Macro f1 score: {100 * report['macro']['f1']:.3f}")
    add_line(recalls, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
