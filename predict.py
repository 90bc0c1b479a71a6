"""Predict the labels of new texts with a checkpoint: a file of any size, as a stream.

    python predict.py --dataset_dir data --device gpu                               # reads data/data.txt
    python predict.py --dataset_dir data --device cpu --output_file predicted.txt
    python predict.py --dataset_dir data --device cpu --output_file predicted.txt --scores

    python predict.py --dataset_dir data --device cpu --data_file new.csv --output_file labelled.csv

The output is `text<TAB>label,label`, which train.py can read; --scores adds the probabilities as a third column.
A table (.csv, .tsv, .jsonl or .parquet, as its name says; .xlsx is read only) keeps its columns, and gets `labels` and
`scores`.
"""

import argparse
import os
import sys
import unicodedata

from text_cls.cli import Problems, add_blank_flag, command, logger
from text_cls.decision_flags import add_decision_flags, decision_options, overridden
from text_cls.long_texts import evidence_problem, unread_text
from text_cls.neural.compat import prepare_environment
from text_cls.prediction import check_files, log_hierarchy, named_labels, predict_file
from text_cls.table_flags import add_table_flags, table_options
from utils import add_model_flags, load_weights, open_model, predict_texts


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_model_flags(parser, params_path="./checkpoint/")
    parser.add_argument("--data_file", default="data.txt", help="texts, one per line, or a table (%(default)s)")
    parser.add_argument("--output_file", help="file to write (multi-label: output.txt; hierarchical: only the log)")
    parser.add_argument("--scores", action="store_true", help="write the probabilities of the labels as well (off)")
    evidence = "also write the passage that decided each label, start..end (off)"
    parser.add_argument("--evidence", action="store_true", help=evidence)
    add_blank_flag(parser)
    add_table_flags(parser)
    add_decision_flags(parser)
    return parser.parse_args(argv)


def log_table_row(text, names):
    """Logs a row with flat labels as a line of a table."""
    joined = ",".join(names)
    width = sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in joined)
    logger.info("%s | %s", joined + " " * (40 - width), text)


@command
def main(argv=None):
    args = parse_args(argv)
    environment = prepare_environment()

    problems = Problems()
    checkpoint, max_seq_length = open_model(args, problems)
    path = os.path.join(args.dataset_dir, args.data_file)
    labels = checkpoint.labels
    output = args.output_file or (None if labels.hierarchical else "output.txt")
    job = check_files(
        path, output, problems, labels, args.scores, args.skip_blank, None, table_options(args), args.evidence
    )
    if args.evidence and (problem := evidence_problem(checkpoint.long_texts)):
        problems.add(f"--evidence: {problem}")
    with problems.collect():
        decision = overridden(checkpoint.decision, **decision_options(args))
    problems.stop_if_any()
    load_weights(checkpoint, args.device, environment)

    unread = 0

    def predict(texts):
        nonlocal unread
        found = predict_texts(checkpoint, texts, max_seq_length, args.batch_size, with_passages=args.evidence)
        unread += found.unread
        return named_labels(found.probabilities, labels, decision, found.passages)

    from text_cls.neural.onnx_logits import onnx_logits

    with onnx_logits(checkpoint, job.texts.count):
        predict_file(job, predict, log_hierarchy if labels.hierarchical else log_table_row)
    if unread:
        logger.warning(unread_text(unread, checkpoint.long_texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
