"""Train an encoder that places texts near the texts of their labels; new labels then need no training.

    python train.py --device gpu --train_set_file data/train.txt --corpus_file data/label.txt \\
        --similar_text_pair_file data/dev.txt --save_dir checkpoint --batch_size 24 --max_seq_length 384 \\
        --output_emb_size 0 --epochs 100
    python train.py --device cpu --model_name_or_path ./my-ernie --max_seq_length 64 --learning_rate 1e-3
    python train.py --device gpu --no-evaluate --save_steps 1000      # no dev file: the latest checkpoint is kept
    python -m paddle.distributed.launch --gpus "0,1" train.py --device gpu

Rows are text<TAB>label,label as in all scripts; a label of a hierarchy is a path joined by ##.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import (
    Problems,
    UserError,
    boolean,
    command,
    fraction,
    non_negative_float,
    non_negative_int,
    positive_int,
    whole_number,
)
from text_cls.language import tr
from text_cls.locks import write_lock
from text_cls.neural.compat import prepare_environment
from text_cls.rows import read_labels, read_rows
from text_cls.trackers import add_tracker_flags, tracker_problems
from utils import log_data

FLAG = argparse.BooleanOptionalAction
METRICS = ("recall@1", "macro_f1", "micro_f1", "accuracy")


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_data_and_model_flags(parser)
    add_training_flags(parser.add_argument_group("training"))
    add_evaluation_flags(parser.add_argument_group("evaluation, after each epoch"))

    group = parser.add_argument_group("output")
    group.add_argument("--save_dir", default="./checkpoint", help="folder of the best checkpoint (%(default)s)")
    group.add_argument("--resume", action=FLAG, default=False, help="continue exactly from <save_dir>_last (off)")
    saves = tr("steps between saves with --no-evaluate (%(default)s)")
    group.add_argument("--save_steps", type=positive_int, default=10000, help=saves)
    group.add_argument("--log_steps", type=positive_int, default=10, help="steps between log lines (%(default)s)")
    add_tracker_flags(group)

    group = parser.add_argument_group("flags of PaddleNLP's application that have no effect")
    for name in ("recall_result_dir", "recall_result_file", "evaluate_result"):
        group.add_argument(f"--{name}", help="ignored: recall is scored at once, and written by recall.py (none)")
    for name in ("hnsw_m", "hnsw_ef", "hnsw_max_elements"):
        group.add_argument(f"--{name}", type=whole_number, help="ignored: labels are compared exactly (none)")
    return parser.parse_args(argv)


def add_data_and_model_flags(parser):
    group = parser.add_argument_group("data")
    group.add_argument("--train_set_file", default="./data/train.txt", help="training rows (%(default)s)")
    group.add_argument("--corpus_file", default="./data/label.txt", help="all labels, one per line (%(default)s)")
    group.add_argument(
        "--similar_text_pair_file",
        "--similar_text_pair",
        default="./data/dev.txt",
        help="rows that choose the best checkpoint (%(default)s)",
    )
    group.add_argument("--max_seq_length", type=positive_int, default=512, help="maximum tokens per text (%(default)s)")

    group = parser.add_argument_group("model")
    group.add_argument(
        "--model_name_or_path",
        default="rocketqa-zh-dureader-query-encoder",
        help="model: its name, local folder, or a checkpoint of this script (%(default)s)",
    )
    group.add_argument("--init_from_ckpt", help="start from the weights of this file or folder (none)")
    width = tr("width of a vector; 0 = the model's (%(default)s)")
    group.add_argument("--output_emb_size", type=non_negative_int, default=256, help=width)
    group.add_argument("--device", default="gpu", help="cpu, gpu, xpu, npu, or one card: gpu:0 (%(default)s)")


def add_training_flags(group):
    group.add_argument("--batch_size", type=positive_int, default=32, help="texts per batch and process (%(default)s)")
    rate = tr("peak learning rate (%(default)s)")
    group.add_argument("--learning_rate", type=non_negative_float, default=5e-5, help=rate)
    group.add_argument("--epochs", type=positive_int, default=10, help="passes over the training rows (%(default)s)")
    margin = tr("subtracted from the cosine of a text and its label (%(default)s)")
    group.add_argument("--margin", type=non_negative_float, default=0.2, help=margin)
    scale = tr("factor of all cosines in the loss (%(default)s)")
    group.add_argument("--scale", type=non_negative_float, default=30, help=scale)
    decay = tr("weight decay, not applied to biases and norms (0)")
    group.add_argument("--weight_decay", type=non_negative_float, default=0.0, help=decay)
    warmup = tr("share of the steps over which the rate rises from 0 (0)")
    group.add_argument("--warmup_proportion", type=fraction(), default=0.0, help=warmup)
    clip = tr("largest norm of the gradients; 0 = no clipping (1)")
    group.add_argument("--max_grad_norm", type=non_negative_float, default=1.0, help=clip)
    seed = tr("seed of new weights, dropout and order (%(default)s)")
    group.add_argument("--seed", type=non_negative_int, default=1000, help=seed)


def add_evaluation_flags(group):
    group.add_argument(
        "--evaluate", type=boolean, nargs="?", const=True, default=True, help="score dev, keep the best checkpoint (on)"
    )
    group.add_argument("--no-evaluate", dest="evaluate", action="store_false", help="keep the latest checkpoint (off)")
    group.add_argument("--recall_num", type=positive_int, default=50, help="nearest labels per text (%(default)s)")
    threshold = tr("cosine that a predicted label exceeds, for decision.json (fitted on the dev rows; else 0.5)")
    group.add_argument("--threshold", type=fraction(), help=threshold)
    best = tr("dev score to maximise (recall@1; macro_f1 if rows have several labels)")
    group.add_argument("--metric_for_best", choices=METRICS, help=best)


def files_of(args):
    """{name: path} of the data files."""
    names = [args.corpus_file, args.train_set_file, *([args.similar_text_pair_file] if args.evaluate else [])]
    return {name: name for name in names}


def read_data(args):
    """Labels and {"train" and, if evaluating, "dev": rows}. Raises one UserError that lists every problem found."""
    from encoder import KIND
    from text_cls.neural.run_state import run_problems

    problems = Problems()
    for message in run_problems(
        args.model_name_or_path,
        "--model_name_or_path",
        device=args.device,
        save_dir=args.save_dir,
        init_from_ckpt=args.init_from_ckpt,
        max_seq_length=args.max_seq_length,
        kind=KIND,
    ):
        if message:
            problems.add(message)
    for message in tracker_problems(args.tracker):
        problems.add(message)
    rows, before = {}, problems.count
    with problems.collect():
        labels = read_labels(args.corpus_file, problems)
    if problems.count == before:  # without sound labels, every row would look wrong
        for split, path in (("train", args.train_set_file), ("dev", args.similar_text_pair_file)):
            if split == "train" or args.evaluate:
                with problems.collect():
                    rows[split] = read_rows(path, labels, problems)
    problems.stop_if_any()
    log_data(labels, rows)
    return labels, rows


def run(args, environment):
    """Reads the data and trains. Returns the exit status. environment: lines for the log."""
    from encoder import KIND
    from text_cls.neural.run_state import Progress, saved_progress

    arguments, files = dict(vars(args)), files_of(args)
    progress = saved_progress(args.save_dir, arguments, files, KIND) if args.resume else Progress()
    if progress.finished:
        return 0
    labels, rows = read_data(args)

    from retrieval_training import train  # Paddle is imported from here on

    try:
        return train(args, labels, rows, arguments, files, environment, progress, vars(parse_args([])))
    except MemoryError as error:
        raise UserError(
            tr(
                "out of memory with --batch_size {batch_size} and --max_seq_length {max_seq_length}; halve one",
                batch_size=args.batch_size,
                max_seq_length=args.max_seq_length,
            )
        ) from error


@command
def main(argv=None):
    args = parse_args(argv)
    environment = prepare_environment()
    from text_cls.neural.checkpoint import last_folder

    with write_lock(args.save_dir, last_folder(args.save_dir)):
        return run(args, environment)


if __name__ == "__main__":
    sys.exit(main())
