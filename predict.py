"""Label new texts with a checkpoint: a file of any size, as a stream.

    python predict.py --dataset_dir data --device gpu                               # reads data/data.txt
    python predict.py --dataset_dir data --device cpu --output_file predicted.txt
    python predict.py --dataset_dir data --device cpu --output_file predicted.txt --scores

The output is `text<TAB>label,label`, which train.py reads back; --scores adds their probabilities as a third column.
"""

import argparse
import contextlib
import os
import sys
import unicodedata
from itertools import islice

from cli import Problems, command, logger, positive_int, progress_bar
from compat import prepare_environment
from decision import SEPARATOR
from utils import atomic_write, read_texts

WINDOW = 1024  # rows in memory at a time, so that batches can be made of rows of similar length
SHOWN = 10  # rows in the log where all are in a file


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
    return parser.parse_args(argv)


def levels_of(names):
    """The last pieces of label paths by level: [[pieces of level 1], [pieces of level 2], ...]."""
    levels = []
    for name in names:
        pieces = name.split(SEPARATOR)
        levels += [{} for _ in range(len(pieces) - len(levels))]
        levels[len(pieces) - 1][pieces[-1]] = True
    return [list(level) for level in levels]


def log_row(text, names, hierarchical):
    """One row in the log: the older suite's block for a hierarchy, a line of a table for flat labels."""
    if hierarchical:
        logger.info("text: %s", text)
        logger.info("prediction result: %s", ",".join(names))
        for level, pieces in enumerate(levels_of(names), 1):
            logger.info("level %d : %s", level, ",".join(pieces))
        logger.info("-" * 20)
    else:
        joined = ",".join(names)
        width = sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in joined)
        logger.info("%s | %s", joined + " " * (40 - width), text)


def predict(checkpoint, texts, batch_size, max_seq_length):
    """Yields (label names, their probabilities) of each text of a list."""
    from model import encode, predict_probabilities

    encoded = encode(texts, checkpoint.tokenizer, checkpoint.model, max_seq_length)
    probabilities = predict_probabilities(checkpoint.model, encoded, batch_size)
    for row, chosen in zip(probabilities, checkpoint.decision.decide(probabilities, checkpoint.labels.parents)):
        numbers = chosen.nonzero()[0]
        yield [checkpoint.labels.names[i] for i in numbers], row[numbers]


@command
def main(argv=None):
    args = parse_args(argv)
    environment = prepare_environment()
    from checkpoint import load_model, open_checkpoint
    from model import log_model

    problems = Problems()
    checkpoint, max_seq_length = open_checkpoint(args, problems)
    path = os.path.join(args.dataset_dir, args.data_file)
    with problems.collect():
        num_rows = sum(1 for _ in read_texts(path, problems))
        if not num_rows:
            problems.add(f"{path}: no texts; write one a line")
    problems.stop_if_any()
    load_model(checkpoint, args.params_path, args.device)
    log_model(checkpoint.model, checkpoint.tokenizer, args.device, environment)

    hierarchical = checkpoint.labels.hierarchical
    output = args.output_file or (None if hierarchical else "output.txt")
    shown = SHOWN if output else num_rows
    texts, done = (text for _, text in read_texts(path)), 0
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(atomic_write(output)) if output else None
        bar = stack.enter_context(progress_bar(num_rows, "row"))
        while window := list(islice(texts, WINDOW)):
            for text, (names, scores) in zip(window, predict(checkpoint, window, args.batch_size, max_seq_length)):
                if done < shown:
                    log_row(text, names, hierarchical)
                if file:
                    columns = [text, ",".join(names)]
                    if args.scores:
                        columns.append(",".join(f"{score:.5f}" for score in scores))
                    file.write("\t".join(columns) + "\n")
                done += 1
            bar.update(len(window))
    if output:
        logger.info("Prediction results save in %s: %d rows", output, done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
