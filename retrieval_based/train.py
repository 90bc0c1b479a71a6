"""Train an encoder that brings texts near the texts of their labels; new labels then need no training.

    python train.py --device gpu --train_set_file data/train.txt --corpus_file data/label.txt \\
        --similar_text_pair_file data/dev.txt --save_dir checkpoint --batch_size 24 --max_seq_length 384 \\
        --output_emb_size 0 --epochs 100
    python train.py --device cpu --model_name_or_path ./my-ernie --max_seq_length 64 --learning_rate 1e-3
    python train.py --device gpu --no-evaluate --save_steps 1000      # no dev file: the latest checkpoint is kept
    python -m paddle.distributed.launch --gpus "0,1" train.py --device gpu

Rows are text<TAB>label,label as everywhere in this suite, labels flat or paths joined by ##.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.cli import (
    Problems,
    UserError,
    boolean,
    command,
    fraction,
    non_negative_float,
    non_negative_int,
    positive_int,
)
from text_cls.neural.compat import prepare_environment
from text_cls.rows import read_labels, read_rows
from utils import log_data

FLAG = argparse.BooleanOptionalAction
METRICS = ("recall@1", "macro_f1", "micro_f1", "accuracy")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )

    group = parser.add_argument_group("data")
    group.add_argument("--train_set_file", default="./data/train.txt", help="training rows (%(default)s)")
    group.add_argument("--corpus_file", default="./data/label.txt", help="all labels, one a line (%(default)s)")
    group.add_argument(
        "--similar_text_pair_file",
        "--similar_text_pair",
        default="./data/dev.txt",
        help="rows that choose the best checkpoint (%(default)s)",
    )
    group.add_argument("--max_seq_length", type=positive_int, default=512, help="tokens of a text (%(default)s)")

    group = parser.add_argument_group("model")
    group.add_argument(
        "--model_name_or_path",
        default="rocketqa-zh-dureader-query-encoder",
        help="name, local folder, or a checkpoint of this script (%(default)s)",
    )
    group.add_argument("--init_from_ckpt", help="start from the weights of this model_state.pdparams (none)")
    group.add_argument(
        "--output_emb_size", type=non_negative_int, default=256, help="width of a vector; 0 = the model's (%(default)s)"
    )
    group.add_argument("--device", default="gpu", help="cpu, gpu, xpu, npu, or one card: gpu:0 (%(default)s)")

    group = parser.add_argument_group("training")
    group.add_argument("--batch_size", type=positive_int, default=32, help="texts a batch and process (%(default)s)")
    group.add_argument("--learning_rate", type=non_negative_float, default=5e-5, help="the highest rate (%(default)s)")
    group.add_argument("--epochs", type=positive_int, default=10, help="passes over the rows (%(default)s)")
    group.add_argument("--margin", type=non_negative_float, default=0.2, help="from a pair's cosine (%(default)s)")
    group.add_argument("--scale", type=non_negative_float, default=30, help="of all cosines (%(default)s)")
    group.add_argument("--weight_decay", type=non_negative_float, default=0.0, help="bias and norm are spared (0)")
    group.add_argument("--warmup_proportion", type=fraction(), default=0.0, help="of the steps, rate rising from 0 (0)")
    group.add_argument("--max_grad_norm", type=non_negative_float, default=1.0, help="clip gradients; 0 = off (1)")
    group.add_argument("--seed", type=non_negative_int, default=1000, help="of head, dropout, order (%(default)s)")

    group = parser.add_argument_group("evaluation, after each epoch")
    group.add_argument(
        "--evaluate", type=boolean, nargs="?", const=True, default=True, help="score dev, keep the best checkpoint (on)"
    )
    group.add_argument("--no-evaluate", dest="evaluate", action="store_false", help="keep the latest checkpoint (off)")
    group.add_argument("--recall_num", type=positive_int, default=50, help="nearest labels of a text (%(default)s)")
    group.add_argument(
        "--threshold",
        type=fraction(),
        help="of a label's cosine, saved in decision.json (fitted on the dev rows; else 0.5)",
    )
    group.add_argument(
        "--metric_for_best", choices=METRICS, help="what is best (recall@1; macro_f1 where rows have several labels)"
    )

    group = parser.add_argument_group("output")
    group.add_argument("--save_dir", default="./checkpoint", help="the best checkpoint (%(default)s)")
    group.add_argument("--resume", action=FLAG, default=False, help="go on from <save_dir>_last, exactly (off)")
    group.add_argument(
        "--save_steps", type=positive_int, default=10000, help="with --no-evaluate, steps to the next (%(default)s)"
    )
    group.add_argument("--log_steps", type=positive_int, default=10, help="steps from line to line (%(default)s)")
    older = parser.add_argument_group("of older commands, not needed: nothing is read from them")
    for name in ("recall_result_dir", "recall_result_file", "evaluate_result"):
        older.add_argument(f"--{name}", help="what is found is scored at once; recall.py writes it (none)")
    for name in ("hnsw_m", "hnsw_ef", "hnsw_max_elements"):
        older.add_argument(f"--{name}", type=int, help="labels are compared one by one (none)")
    return parser.parse_args(argv)


def read_data(args):
    """Labels and {"train", perhaps "dev"} rows. Everything wrong with arguments and data is told in one UserError."""
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
    rows, faults = {}, problems.count
    with problems.collect():
        labels = read_labels(args.corpus_file, problems)
    if problems.count == faults:  # else every row would be called wrong
        for split, path in (("train", args.train_set_file), ("dev", args.similar_text_pair_file)):
            if split == "train" or args.evaluate:
                with problems.collect():
                    rows[split] = read_rows(path, labels, problems)
        if "train" in rows and len(rows["train"]) and not len(rows["train"].label_ids):
            problems.add(f"{args.train_set_file}: no row has a label; nothing can be learnt")
    problems.stop_if_any()
    log_data(labels, rows)
    return labels, rows


@command
def main(argv=None):
    args = parse_args(argv)
    environment = prepare_environment()
    labels, rows = read_data(args)

    from retrieval_training import train  # Paddle is imported from here on

    try:
        return train(args, labels, rows, environment)
    except MemoryError as error:
        raise UserError(
            f"out of memory with --batch_size {args.batch_size} and --max_seq_length {args.max_seq_length}; halve one"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
