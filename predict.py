"""Label new texts with a checkpoint: a file of any size, as a stream.

    python predict.py --dataset_dir data --device gpu                               # reads data/data.txt
    python predict.py --dataset_dir data --device cpu --output_file predicted.txt
    python predict.py --dataset_dir data --device cpu --output_file predicted.txt --scores

The output is `text<TAB>label,label`, which train.py reads back; --scores adds their probabilities as a third column.
"""

import argparse
import os
import sys
import unicodedata

from text_cls.cli import Problems, command, logger, positive_int
from text_cls.decision_flags import add_decision_flags, overridden
from text_cls.neural.compat import prepare_environment
from text_cls.prediction import count_texts, decide, label_texts, log_hierarchy


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--device", default="gpu", help="cpu, gpu, xpu, npu, or one card: gpu:0 (%(default)s)")
    parser.add_argument("--dataset_dir", required=True, help="folder of data_file and label_file (required)")
    parser.add_argument("--params_path", default="./checkpoint/", help="checkpoint of train.py (%(default)s)")
    parser.add_argument("--max_seq_length", type=positive_int, help="tokens of a text (as in training; 128)")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="rows at a time (%(default)s)")
    parser.add_argument("--data_file", default="data.txt", help="texts, one a line (%(default)s)")
    parser.add_argument("--label_file", default="label.txt", help="must be the model's, if it is there (%(default)s)")
    parser.add_argument("--output_file", help="file to write (multi-label: output.txt; hierarchical: the log alone)")
    parser.add_argument("--scores", action="store_true", help="write the labels' probabilities too (off)")
    add_decision_flags(parser)
    return parser.parse_args(argv)


def log_table_row(text, names):
    """A line of a table, for flat labels."""
    joined = ",".join(names)
    width = sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in joined)
    logger.info("%s | %s", joined + " " * (40 - width), text)


@command
def main(argv=None):
    args = parse_args(argv)
    environment = prepare_environment()
    from text_cls.neural.checkpoint import load_model, open_checkpoint
    from text_cls.neural.model import encode, log_model, predict_probabilities

    problems = Problems()
    checkpoint, max_seq_length = open_checkpoint(args, problems)
    path = os.path.join(args.dataset_dir, args.data_file)
    count = count_texts(path, problems)
    with problems.collect():
        decision = overridden(checkpoint.decision, args)
    problems.stop_if_any()
    load_model(checkpoint, args.params_path, args.device)
    log_model(checkpoint.model, checkpoint.tokenizer, args.device, environment)

    def predict(texts):
        encoded = encode(texts, checkpoint.tokenizer, checkpoint.model, max_seq_length)
        probabilities = predict_probabilities(checkpoint.model, encoded, args.batch_size)
        return decide(probabilities, checkpoint.labels, decision)

    hierarchical = checkpoint.labels.hierarchical
    output = args.output_file or (None if hierarchical else "output.txt")
    label_texts(path, count, output, predict, log_hierarchy if hierarchical else log_table_row, args.scores)
    return 0


if __name__ == "__main__":
    sys.exit(main())
