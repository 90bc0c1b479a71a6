"""Fine-tune a pretrained model on labelled rows and keep the checkpoint that is best on the dev rows.

    python train.py --dataset_dir data --device gpu --early_stop --epochs 100
    python train.py --dataset_dir data/multi_label --device cpu --model_name ./my-ernie --max_seq_length 64
    python train.py --dataset_dir data --device gpu --resume        # continues after Ctrl-C, a kill or a power cut
    python -m paddle.distributed.launch --gpus "0,1" train.py --dataset_dir data --device gpu
    python train.py --dataset_dir data --model_name linear          # TF-IDF and linear SVMs: seconds on a CPU
    python train.py --dataset_dir data --teacher checkpoint --layers 4 --unlabelled data.txt --save_dir small

The guide's flags have the guide's defaults. Flags that are not in the guide are off or neutral by default, except
--head_start.
"""

import argparse
import os
import sys

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import (
    Problems,
    UserError,
    command,
    fraction,
    non_negative_float,
    non_negative_int,
    positive_int,
)
from text_cls.config_file import parse_with_config
from text_cls.language import tr
from text_cls.linear_classifier import LINEAR
from text_cls.locks import write_lock
from text_cls.long_text_flags import add_training_flags as add_long_text_flags
from text_cls.long_text_flags import of_arguments, problems_of
from text_cls.neural.compat import prepare_environment
from text_cls.neural.head_start import DEFAULT, DESCRIPTIONS, HEAD_STARTS, reads_labels
from text_cls.neural.losses import LOSSES
from text_cls.neural.pooling import POOLINGS
from text_cls.neural.training_options import TrainingOptions
from text_cls.rows import read_descriptions, read_labels, read_rows
from text_cls.teacher_flags import add_teacher_flags
from text_cls.trackers import add_tracker_flags, tracker_problems
from utils import log_data

DEFAULT_MODEL = "ernie-3.0-medium-zh"
FLAG = argparse.BooleanOptionalAction
TUNED = ("tuned_macro_f1", "tuned_micro_f1")
METRICS = ("macro_f1", "micro_f1", "accuracy", *TUNED)


def make_parser():
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_data_flags(parser.add_argument_group("data"))

    group = parser.add_argument_group("model")
    name = tr(
        "pretrained model: its name or local folder; or linear, which needs none ({default_model})",
        default_model=DEFAULT_MODEL,
    )
    group.add_argument("--model_name", help=name)
    group.add_argument("--init_from_ckpt", help="start from the weights of this file or folder (none)")
    pooling = tr(
        "what the classifier gets: first token or mean of tokens (what the model's folder records, else first)"
    )
    group.add_argument("--pooling", choices=POOLINGS, help=pooling)
    group.add_argument("--device", default="gpu", help="cpu, gpu, xpu, npu, or one card: gpu:0 (%(default)s)")

    add_training_flags(parser.add_argument_group("training"))
    add_teacher_flags(parser)

    group = parser.add_argument_group("output")
    group.add_argument("--save_dir", default="./checkpoint", help="folder of the best checkpoint (%(default)s)")
    best = tr("dev score to maximise; tuned_*: with fitted thresholds, saved in decision.json (%(default)s)")
    group.add_argument("--metric_for_best", choices=METRICS, default="macro_f1", help=best)
    group.add_argument("--resume", action=FLAG, default=False, help="continue exactly from <save_dir>_last (off)")
    saves = tr("minutes between saves to <save_dir>_last; 0 = after epochs only (10)")
    group.add_argument("--save_minutes", type=non_negative_float, default=10, help=saves)
    group.add_argument("--logging_steps", type=positive_int, default=5, help="steps between log lines (%(default)s)")
    add_tracker_flags(group)
    group.add_argument("--visualdl_dir", help="folder of --tracker visualdl, which this implies (none)")
    group.add_argument("--config", help="JSON or YAML file of flags; the command line wins (none)")
    return parser


def parse_args(argv=None):
    args = parse_with_config(make_parser(), argv)
    if args.model_name is None:
        args.model_name = args.teacher if args.teacher and args.layers else DEFAULT_MODEL
    return args


def add_data_flags(group):
    group.add_argument("--dataset_dir", required=True, help="folder of the data files (required)")
    group.add_argument("--train_file", default="train.txt", help="training rows, text<TAB>label,label (%(default)s)")
    group.add_argument("--dev_file", default="dev.txt", help="rows that choose the best checkpoint (%(default)s)")
    group.add_argument("--test_file", help="rows to score once, at the end, with the best checkpoint (none)")
    group.add_argument("--label_file", default="label.txt", help="all labels, one per line (%(default)s)")
    group.add_argument("--max_train_samples", type=positive_int, help="train on this many rows, drawn by seed (all)")
    group.add_argument("--max_dev_samples", type=positive_int, help="evaluate on this many rows, drawn by seed (all)")
    group.add_argument("--max_seq_length", type=positive_int, default=128, help="maximum tokens per text (%(default)s)")
    add_long_text_flags(group)
    group.add_argument("--length_buckets", action=FLAG, default=True, help="batch rows of similar length (on)")
    group.add_argument("--num_workers", type=non_negative_int, default=0, help="processes that prepare batches (0)")


def add_training_flags(group):
    group.add_argument("--batch_size", type=positive_int, default=32, help="rows per batch and process (%(default)s)")
    rate = tr("peak learning rate (%(default)s)")
    group.add_argument("--learning_rate", type=non_negative_float, default=3e-5, help=rate)
    epochs = tr("passes over the training rows; 0 = only --head_start (%(default)s)")
    group.add_argument("--epochs", type=non_negative_int, default=10, help=epochs)
    start = tr(
        "where the classifier starts; one trained before is kept unless this is given ({default})", default=DEFAULT
    )
    group.add_argument("--head_start", choices=HEAD_STARTS, help=start)
    group.add_argument("--early_stop", action=FLAG, default=False, help="stop when the dev score stops improving (off)")
    patience = tr("epochs without improvement before --early_stop stops (hierarchical 10, flat 4)")
    group.add_argument("--early_stop_nums", type=positive_int, help=patience)
    decay = tr("weight decay, not applied to biases and norms (0)")
    group.add_argument("--weight_decay", type=non_negative_float, default=0.0, help=decay)
    group.add_argument("--warmup", action=FLAG, default=False, help="raise the rate from 0 over --warmup_steps (off)")
    warmup = tr("steps of warmup, or their share of all steps if below 1 (0)")
    group.add_argument("--warmup_steps", type=non_negative_float, default=0, help=warmup)
    head = tr("peak rate of the layers above the encoder (that of --learning_rate)")
    group.add_argument("--head_learning_rate", type=non_negative_float, help=head)
    falling = tr("rate of each layer as a share of that of the layer above; 1 = the same (1)")
    group.add_argument("--layer_decay", type=fraction(zero=False, one=True), default=1.0, help=falling)
    frozen = tr("first epochs in which only the layers above the encoder are trained (0)")
    group.add_argument("--freeze_epochs", type=non_negative_int, default=0, help=frozen)
    group.add_argument("--loss", choices=LOSSES, default="bce", help="see text_cls/neural/losses.py (%(default)s)")
    smoothing = tr("train towards s/2 and 1 - s/2 instead of 0 and 1 (0)")
    group.add_argument("--label_smoothing", type=fraction(), default=0.0, help=smoothing)
    group.add_argument("--gradient_accumulation_steps", type=positive_int, default=1, help="batches per step (1)")
    clip = tr("largest norm of the gradients; 0 = no clipping (0)")
    group.add_argument("--max_grad_norm", type=non_negative_float, default=0.0, help=clip)
    group.add_argument("--amp", choices=("fp16", "bf16"), help="mixed precision, only on a GPU (off)")
    average = tr("score the average of the weights as well, and keep it if it is better on dev (off)")
    group.add_argument("--average", action=FLAG, default=False, help=average)
    seed = tr("seed of the classifier's weights, dropout and order (%(default)s)")
    group.add_argument("--seed", type=non_negative_int, default=3, help=seed)
    seeds = tr("train with this many seeds, from --seed on, one after another, and keep the best on dev (%(default)s)")
    group.add_argument("--seeds", type=positive_int, default=1, help=seeds)


def argument_problems(args):
    """Yields problems with the arguments themselves, as texts, or None."""
    from text_cls.neural import teaching

    yield from teaching.argument_problems(vars(args))
    if args.model_name == LINEAR:
        from text_cls.neural import linear_training

        yield from tracker_problems([*args.tracker, *(["visualdl"] if args.visualdl_dir else [])])
        yield from linear_training.argument_problems(vars(args), defaults_of(args))
        return
    from text_cls.neural.run_state import run_problems

    yield from run_problems(
        args.model_name,
        "--model_name",
        device=args.device,
        save_dir=args.save_dir,
        init_from_ckpt=args.init_from_ckpt,
        max_seq_length=args.max_seq_length,
    )
    yield from tracker_problems([*args.tracker, *(["visualdl"] if args.visualdl_dir else [])])
    yield from problems_of(of_arguments(vars(args)), args.max_seq_length)
    if args.init_from_ckpt and args.head_start not in (None, "random"):
        yield (
            tr(
                "--head_start {head_start} replaces the classifier of --init_from_ckpt; leave out one of them, or to "
                "train its encoder with a new classifier, pass its folder as --model_name",
                head_start=args.head_start,
            )
        )
    if args.amp and not args.device.startswith("gpu"):
        yield tr("--amp {amp} is for --device gpu; a CPU computes in float32", amp=args.amp)
    if args.head_learning_rate is not None and not args.learning_rate:
        yield (
            tr(
                "--head_learning_rate {head_learning_rate:g} needs a --learning_rate above 0; to train only the "
                "layers above the encoder, use --freeze_epochs {epochs}",
                head_learning_rate=args.head_learning_rate,
                epochs=args.epochs,
            )
        )
    if args.freeze_epochs > args.epochs:
        yield (
            tr(
                "--freeze_epochs {freeze_epochs} is more than --epochs {epochs}; with the same number, only the "
                "layers above the encoder are trained",
                freeze_epochs=args.freeze_epochs,
                epochs=args.epochs,
            )
        )


def model_labels_problem(args, label_file, labels):
    """Why the weights to start from are those of other labels, or None."""
    if args.model_name == LINEAR:
        return None
    from text_cls.neural.checkpoint import start_labels_problem
    from text_cls.neural.hugging_face import find
    from text_cls.neural.run_file import weights_folder

    flag, path = f"--model_name {args.model_name}", find(args.model_name) or args.model_name
    if start := args.init_from_ckpt:
        flag, path = f"--init_from_ckpt {start}", weights_folder(start)
    return start_labels_problem(flag, path, label_file, labels)


def files_of(args):
    """{split: (name, path)} of "label", "train", "dev", and if there are such, of "test", "descriptions", "unlabelled"
    and "teacher"."""
    from text_cls.neural import teaching

    names = {"label": args.label_file, "train": args.train_file, "dev": args.dev_file}
    if args.test_file:
        names["test"] = args.test_file
    if reads_labels(args.head_start) and os.path.exists(os.path.join(args.dataset_dir, DESCRIPTIONS)):
        names["descriptions"] = DESCRIPTIONS
    found = {split: (name, os.path.join(args.dataset_dir, name)) for split, name in names.items()}
    return found | teaching.files(teaching.TeachingOptions.from_args(args))


def read_data(args):
    """Labels, {"train", "dev" and perhaps "test": rows}, and the `Teaching` or None.

    Raises one UserError that lists every problem found.
    """
    problems = Problems()
    for message in argument_problems(args):
        if message:
            problems.add(message)
    paths = {split: path for split, (_, path) in files_of(args).items() if split not in ("unlabelled", "teacher")}
    rows, teaching, before = {}, None, problems.count
    label_file, descriptions = paths.pop("label"), paths.pop("descriptions", None)
    with problems.collect():
        labels = read_labels(label_file, problems)
    if problems.count == before:  # without sound labels, every row would look wrong
        with problems.collect():
            if problem := model_labels_problem(args, label_file, labels):
                problems.add(problem)
        if descriptions:
            with problems.collect():
                labels.descriptions = read_descriptions(descriptions, labels, problems)
        for split, path in paths.items():
            with problems.collect():
                rows[split] = read_rows(path, labels, problems)
        if args.teacher or args.soft_labels:
            teaching = open_teaching(args, labels, label_file, problems)
    if args.metric_for_best in TUNED and "dev" in rows:
        from text_cls.cross_fitting import FEWEST

        count = min(len(rows["dev"]), args.max_dev_samples or len(rows["dev"]))
        if count < FEWEST:
            problems.add(
                tr(
                    "--metric_for_best {metric_for_best}: {count} dev rows are too few to fit thresholds to; use "
                    "{fewest} or more, or --metric_for_best {untuned}",
                    metric_for_best=args.metric_for_best,
                    count=count,
                    fewest=FEWEST,
                    untuned=args.metric_for_best.removeprefix("tuned_"),
                )
            )
    problems.stop_if_any()
    log_data(labels, rows)
    return labels, rows, teaching


def open_teaching(args, labels, label_file, problems):
    """The `Teaching` of `--teacher` or `--soft_labels`."""
    from text_cls.neural.teaching import Teaching, TeachingOptions

    return Teaching(TeachingOptions.from_args(args), labels, label_file, problems)


def run(args, environment):
    """Reads the data and trains. Returns the exit status. environment: lines for the log."""
    from text_cls.neural.run_state import Progress, saved_progress

    arguments, files = dict(vars(args)), files_of(args)
    checked = dict(pair for split, pair in files.items() if split != "test")
    progress = saved_progress(args.save_dir, arguments, checked) if args.resume else Progress()
    if progress.finished:
        return 0
    labels, rows, teaching = read_data(args)
    if args.early_stop_nums is None:
        args.early_stop_nums = 10 if labels.hierarchical else 4
    rows["train"] = rows["train"].sample(args.max_train_samples, args.seed)
    rows["dev"] = rows["dev"].sample(args.max_dev_samples, args.seed)

    from text_cls.neural.training import train  # Paddle is imported from here on

    options = TrainingOptions.from_args(args)
    try:
        return train(options, labels, rows, arguments, files, environment, progress, defaults_of(args), teaching)
    except MemoryError as error:
        raise UserError(
            tr(
                "out of memory with --batch_size {batch_size} and --max_seq_length {max_seq_length}; halve the batch "
                "and use --gradient_accumulation_steps 2, which gives the same training",
                batch_size=args.batch_size,
                max_seq_length=args.max_seq_length,
            )
        ) from error


def defaults_of(args):
    """{name: default} of the arguments."""
    return vars(parse_args(["--dataset_dir", args.dataset_dir]))


def run_linear(args):
    """Reads the data and trains a linear model. Returns the exit status."""
    labels, rows, teaching = read_data(args)
    rows["train"] = rows["train"].sample(args.max_train_samples, args.seed)
    rows["dev"] = rows["dev"].sample(args.max_dev_samples, args.seed)
    from text_cls.neural import linear_training

    linear_training.train(vars(args), defaults_of(args), labels, rows, files_of(args), teaching)
    return 0


def run_seeds(args, seeds, environment):
    """Does the run with each of the seeds. Returns the exit status."""
    from text_cls.neural.run_state import saved_progress
    from text_cls.neural.seeds import kept_seed, remove_runs, train_seeds

    if args.resume and (kept := kept_seed(args.save_dir, seeds)) is not None:
        checked = dict(pair for split, pair in files_of(args).items() if split != "test")
        if saved_progress(args.save_dir, {**vars(args), "seed": kept}, checked).finished:
            remove_runs(args.save_dir, seeds)  # a kill may have left some
            return 0

    def train(seed, folder):
        curves = args.visualdl_dir and os.path.join(args.visualdl_dir, f"seed{seed}")
        changes = {"seed": seed, "save_dir": folder, "visualdl_dir": curves}
        return run(argparse.Namespace(**{**vars(args), **changes}), environment)

    return train_seeds(args.save_dir, seeds, train)


@command
def main(argv=None):
    args = parse_args(argv)
    environment = prepare_environment()
    from text_cls.neural.checkpoint import last_folder
    from text_cls.neural.seeds import seed_folder

    if args.model_name == LINEAR:
        with write_lock(args.save_dir):
            return run_linear(args)
    seeds = range(args.seed, args.seed + args.seeds)
    several = [seed_folder(args.save_dir, seed) for seed in seeds] if args.seeds > 1 else []
    with write_lock(*(path for folder in (args.save_dir, *several) for path in (folder, last_folder(folder)))):
        return run_seeds(args, seeds, environment) if several else run(args, environment)


if __name__ == "__main__":
    sys.exit(main())
