"""The flags of few-shot/train.py: those of PaddleNLP's application and of its Trainer, and a few more."""

from text_cls.cli import (
    add_blank_flag,
    boolean,
    fraction,
    non_negative_float,
    non_negative_int,
    positive_int,
    whole_number,
)
from text_cls.language import tr
from text_cls.trackers import add_tracker_flags

METRICS = ("macro_f1_score", "micro_f1_score")


def add_flags(parser):
    """Adds all flags of the script."""
    add_data_flags(parser)
    add_prompt_flags(parser.add_argument_group("prompt tuning"))
    add_training_flags(parser.add_argument_group("training"))
    add_output_flags(parser.add_argument_group("output"))


def settle(args):
    """Fills in the flags whose defaults depend on others."""
    args.freeze_plm |= args.freeze_dropout
    args.evaluation_strategy = args.evaluation_strategy or ("steps" if args.eval_steps else "epoch")
    args.save_strategy = args.save_strategy or ("steps" if args.save_steps else args.evaluation_strategy)
    if args.save_strategy == "steps":
        args.save_steps = args.save_steps or args.eval_steps
    if args.load_best_model_at_end is None:
        args.load_best_model_at_end = args.evaluation_strategy != "no"


def add_switch(group, name, default, text):
    group.add_argument(name, type=boolean, nargs="?", const=True, default=default, help=text)


def add_data_flags(parser):
    group = parser.add_argument_group("what to do")
    add_switch(group, "--do_train", False, tr("train on train.txt, choose the best model on dev.txt (off)"))
    add_switch(group, "--do_eval", False, tr("evaluate on dev.txt (off)"))
    add_switch(
        group,
        "--do_predict",
        False,
        tr("predict labels of data.txt, else test.txt; evaluate on test.txt if it exists (off)"),
    )
    add_blank_flag(group)
    add_switch(group, "--do_export", False, tr("write a bundle to <output_dir>/export (off)"))

    group = parser.add_argument_group("data and model")
    group.add_argument("--data_dir", default="./data", help="folder of train.txt, dev.txt, label.txt ... (%(default)s)")
    group.add_argument("--prompt", help="template, see README.md (\"{'soft'}{'text': 'text_a'}{'mask'}\")")
    group.add_argument("--model_name_or_path", default="ernie-3.0-base-zh", help="masked-language ERNIE (%(default)s)")
    group.add_argument(
        "--max_seq_length", type=positive_int, help="maximum tokens per row, prompt included (as in training; 512)"
    )
    group.add_argument("--truncate_mode", choices=("tail", "head"), help="end to cut long texts at (as trained; tail)")
    group.add_argument("--device", default="gpu", help="cpu, gpu, xpu, npu, or one card: gpu:0 (%(default)s)")


def add_prompt_flags(group):
    add_switch(group, "--freeze_plm", False, tr("train only soft tokens and label words (off)"))
    add_switch(group, "--freeze_dropout", False, tr("like --freeze_plm, and also disable the model's dropout (off)"))
    add_switch(group, "--use_rdrop", False, tr("R-Drop: two passes over a row should agree (off)"))
    group.add_argument("--alpha_rdrop", type=non_negative_float, default=5.0, help="R-Drop weight (%(default)s)")
    add_switch(group, "--use_rgl", False, tr("RGL: rows with equal labels should be similar at the mask (off)"))
    group.add_argument("--alpha_rgl", type=non_negative_float, default=0.5, help="RGL weight (%(default)s)")
    for name, default in {
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
    }.items():
        kind = fraction() if "beta" in name else non_negative_float
        text = tr(
            "{setting} of soft tokens and label words (%(default)s)",
            setting=name.replace("_", " ").replace("adam", "Adam"),
        )
        group.add_argument(f"--ppt_{name}", type=kind, default=default, help=text)


def add_training_flags(group):
    group.add_argument(
        "--learning_rate", type=non_negative_float, default=3e-5, help="peak learning rate of the model (%(default)s)"
    )
    group.add_argument("--num_train_epochs", type=positive_int, default=100, help="passes over train.txt (%(default)s)")
    group.add_argument(
        "--max_steps", type=whole_number, default=-1, help="train this many steps, not epochs; -1 = off (-1)"
    )
    group.add_argument(
        "--per_device_train_batch_size", type=positive_int, default=8, help="rows per step (%(default)s)"
    )
    group.add_argument(
        "--per_device_eval_batch_size", type=positive_int, default=32, help="rows per evaluation batch (%(default)s)"
    )
    group.add_argument(
        "--early_stopping_patience",
        type=positive_int,
        default=4,
        help="stop after this many evaluations without improvement (%(default)s)",
    )
    group.add_argument("--weight_decay", type=non_negative_float, default=0.0, help="weight decay of the model (0)")
    group.add_argument(
        "--max_grad_norm", type=non_negative_float, default=1.0, help="clip gradients to this norm; 0 = off (1)"
    )
    schedules = ("linear", "cosine", "constant", "constant_with_warmup")
    group.add_argument(
        "--lr_scheduler_type", choices=schedules, default="linear", help="learning rate schedule (%(default)s)"
    )
    group.add_argument("--warmup_steps", type=non_negative_int, default=0, help="steps of warmup (0)")
    group.add_argument("--warmup_ratio", type=fraction(), default=0.0, help="warmup as a fraction of the steps (0)")
    group.add_argument(
        "--seed", type=non_negative_int, default=3, help="random seed of prompt, order, dropout (%(default)s)"
    )


def add_output_flags(group):
    group.add_argument("--output_dir", required=True, help="folder of model, predictions.txt, export/ (required)")
    group.add_argument(
        "--export_type",
        choices=("paddle", "onnx"),
        default="paddle",
        help="onnx: no static graph in the bundle (paddle)",
    )
    group.add_argument(
        "--metric_for_best_model", choices=METRICS, default=METRICS[0], help="dev score of the best model (%(default)s)"
    )
    add_switch(
        group, "--load_best_model_at_end", None, tr("keep the best model, not the last (on if there is evaluation)")
    )
    when = ("no", "steps", "epoch")
    group.add_argument("--evaluation_strategy", choices=when, help="when to evaluate (epoch; steps with --eval_steps)")
    group.add_argument("--eval_steps", type=positive_int, help="steps between evaluations (none)")
    group.add_argument("--save_strategy", choices=when, help="when to save checkpoints (as --evaluation_strategy)")
    group.add_argument("--save_steps", type=positive_int, help="steps between checkpoints (as --eval_steps)")
    group.add_argument("--save_total_limit", type=positive_int, default=1, help="checkpoints kept besides the best (1)")
    group.add_argument("--logging_steps", type=positive_int, default=5, help="steps between log lines (%(default)s)")
    add_tracker_flags(group)
    group.add_argument(
        "--resume_from_checkpoint",
        help="<output_dir>_last to resume training; without --do_train, a trained model (output_dir)",
    )


# ------------------------------------------------------------------------------------------------------------ the steps
