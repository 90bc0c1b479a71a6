"""Predict the labels of new texts from the nearest labels, or by the votes of the nearest labelled rows.

    python predict.py --params_path checkpoint --data_file data/data.txt --output_file predicted.txt --scores
    python predict.py --params_path checkpoint --data_file data/data.txt --corpus_file data/train.txt --vote
    python predict.py --params_path output --data_file data/data.txt --device cpu     # a bundle: without Paddle

The output is `text<TAB>label,label`, as with predict.py in the project's folder; --scores adds a column with the scores
of these labels. The input is read as a stream, so a file may have any size.
A table (.csv, .tsv, .jsonl or .parquet, as its name says; .xlsx is read only) keeps its columns, and gets `labels` and
`scores`.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from searching import Search, add_search_flags, open_search
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, add_blank_flag, command
from text_cls.decision_flags import add_decision_flags, decision_options, overridden
from text_cls.prediction import check_files, log_flat, log_hierarchy, named_labels, predict_file
from text_cls.table_flags import add_table_flags, table_options


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--data_file",
        "--input_file",
        required=True,
        help="texts, one per line (labels after a tab are ignored), or a table (required)",
    )
    parser.add_argument("--output_file", help="file to write (none: predictions only in the log)")
    parser.add_argument("--scores", action="store_true", help="also write the scores of the predicted labels (off)")
    add_blank_flag(parser)
    add_table_flags(parser)
    add_search_flags(parser)
    add_decision_flags(parser)
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    problems = Problems()
    encoder, corpus = open_search(args, problems)
    tables = table_options(args)
    job = check_files(
        args.data_file, args.output_file, problems, corpus.labels, args.scores, args.skip_blank, tables=tables
    )
    with problems.collect():
        decision = overridden(corpus.decision, **decision_options(args))
    problems.stop_if_any()
    search = Search(args, encoder, corpus)

    def predict(texts):
        return named_labels(search.scores(search.find(texts)), search.labels, decision)

    predict_file(job, predict, log_hierarchy if search.labels.hierarchical else log_flat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
