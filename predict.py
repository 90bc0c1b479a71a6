"""Predict the labels of new texts with a checkpoint: a file of any size, as a stream.

    python predict.py --dataset_dir data --device gpu                               # reads data/data.txt
    python predict.py --dataset_dir data --device cpu --output_file predicted.txt
    python predict.py --dataset_dir data --device cpu --output_file predicted.txt --scores

    python predict.py --dataset_dir data --device cpu --data_file new.csv --output_file labelled.csv
    python predict.py --dataset_dir data --device cpu --for doccano --order diverse --output_file new.jsonl

The output is `text<TAB>label,label`, which train.py can read; --scores adds the probabilities as a third column.
A table (.csv, .tsv, .jsonl or .parquet, as its name says; .xlsx is read only) keeps its columns, and gets `labels` and
`scores`. --for writes rows that a labelling tool imports, --order chooses those to label next.
"""

import argparse
import os
import sys
import unicodedata

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, add_blank_flag, command, logger
from text_cls.decision_flags import add_decision_flags, decision_options, overridden
from text_cls.labelling_flags import COUNT, add_labelling_flags, order_problem, read_labelled
from text_cls.labelling_tools import Tool, version_name
from text_cls.language import tr
from text_cls.long_texts import evidence_problem, unread_text
from text_cls.neural.compat import prepare_environment
from text_cls.neural.run_file import WEIGHT_FILES
from text_cls.next_rows import Scorer, choose, ngram_vectors
from text_cls.prediction import check_files, log_hierarchy, named_labels, predict_file
from text_cls.table_flags import add_table_flags, table_options
from utils import add_model_flags, encode_texts, load_weights, open_model, predict_texts


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_model_flags(parser, params_path="./checkpoint/")
    parser.add_argument("--data_file", default="data.txt", help="texts, one per line, or a table (%(default)s)")
    parser.add_argument("--output_file", help="file to write (multi-label: output.txt; hierarchical: only the log)")
    parser.add_argument("--scores", action="store_true", help="write the probabilities of the labels as well (off)")
    evidence = tr("also write the passage that decided each label, start..end (off)")
    parser.add_argument("--evidence", action="store_true", help=evidence)
    add_blank_flag(parser)
    add_table_flags(parser)
    add_labelling_flags(parser)
    add_decision_flags(parser)
    return parser.parse_args(argv)


def log_table_row(text, names):
    """Logs a row with flat labels as a line of a table."""
    joined = ",".join(names)
    width = sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in joined)
    logger.info("%s | %s", joined + " " * (40 - width), text)


def version_of(checkpoint):
    """The name of a checkpoint in a labelling tool."""
    files = checkpoint.run.get("files")
    sums = [files.get(name) for name in WEIGHT_FILES] if isinstance(files, dict) else []
    return version_name(checkpoint.path, next(filter(None, sums), None))


def scorer_of(checkpoint, decision, max_seq_length, batch_size):
    """What `next_rows.choose` needs of a loaded checkpoint."""
    from text_cls.neural.model import predict_features

    def vectors(texts):
        return predict_features(checkpoint.model, encode_texts(checkpoint, texts, max_seq_length), batch_size)

    def probabilities(texts):
        return predict_texts(checkpoint, texts, max_seq_length, batch_size).probabilities

    return Scorer(checkpoint.labels, decision, probabilities, ngram_vectors if checkpoint.is_linear else vectors)


@command
def main(argv=None):
    args = parse_args(argv)
    environment = prepare_environment()

    problems = Problems()
    checkpoint, max_seq_length = open_model(args, problems)
    path = os.path.join(args.dataset_dir, args.data_file)
    labels = checkpoint.labels
    output = args.output_file or (None if labels.hierarchical else "output.txt")
    tool = Tool(args.tool, labels, version_of(checkpoint)) if args.tool else None
    job = check_files(
        path, output, problems, labels, args.scores, args.skip_blank, None, table_options(args), args.evidence, tool
    )
    labelled = read_labelled(args, labels, problems)
    if args.evidence and (problem := evidence_problem(checkpoint.long_texts)):
        problems.add(f"--evidence: {problem}")
    with problems.collect():
        decision = overridden(checkpoint.decision, **decision_options(args))
        if problem := order_problem(args.order, decision):
            problems.add(problem)
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
        if args.order:
            scorer = scorer_of(checkpoint, decision, max_seq_length, args.batch_size)
            job.texts = choose(job.texts, args.order, args.count or COUNT, scorer, labelled, args.seed)
        predict_file(job, predict, log_hierarchy if labels.hierarchical else log_table_row)
    if unread:
        logger.warning(unread_text(unread, checkpoint.long_texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
