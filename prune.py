"""Prune a fine-tuned ERNIE to narrower layers (DynaBERT) and export each width as a bundle.

    python prune.py --device gpu --output_dir prune --dataset_dir data --width_mult_list 3/4 2/3 1/2
    python prune.py --device cpu --output_dir prune --dataset_dir data --width_mult_list 1/2 --num_train_epochs 3

Heads and neurons are ordered by their importance on dev. Then all widths are trained together to give the logits of the
whole model, which takes as long as fine-tuning, once per width. The classifier of each width is then fitted again, and
kept if it is better on dev. Each width is served like any bundle, for example prune/width_mult_0.75/pruned_model.
"""

import argparse
import os
import shutil
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import islice

from text_cls import long_text_flags
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, command, is_main_process, logger, non_negative_float, non_negative_int, positive_int
from text_cls.language import N_, tr
from text_cls.locks import write_lock
from text_cls.neural.compat import prepare_environment
from text_cls.terminal import log_table

PREFIX = "pruned_model"


def make_parser():
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_dir", required=True, help="folder of the bundles, one per width (required)")
    parser.add_argument("--dataset_dir", required=True, help="folder of train.txt, dev.txt and label.txt (required)")
    parser.add_argument("--params_dir", default="./checkpoint/", help="checkpoint of train.py (%(default)s)")
    parser.add_argument(
        "--max_seq_length", type=positive_int, default=128, help="maximum tokens per text (%(default)s)"
    )
    long_text_flags.add_model_flags(parser)
    parser.add_argument("--device", default="gpu", help="cpu, gpu, or one card: gpu:0 (%(default)s)")
    parser.add_argument(
        "--width_mult_list",
        type=width,
        nargs="+",
        default=[Fraction(3, 4)],
        help="shares of heads and neurons to keep; each must give a whole number of heads (3/4)",
    )

    training = parser.add_argument_group("training")
    rate, epochs = tr("peak learning rate (%(default)s)"), tr("passes over the training rows (%(default)s)")
    training.add_argument("--learning_rate", type=non_negative_float, default=5e-5, help=rate)
    training.add_argument("--num_train_epochs", type=positive_int, default=10, help=epochs)
    rows = tr("training rows per batch and process (%(default)s)")
    training.add_argument("--per_device_train_batch_size", type=positive_int, default=32, help=rows)
    rows = tr("dev rows per batch (%(default)s)")
    training.add_argument("--per_device_eval_batch_size", type=positive_int, default=32, help=rows)
    training.add_argument(
        "--logging_steps", type=positive_int, default=100, help="steps between log lines (%(default)s)"
    )
    training.add_argument(
        "--save_steps", type=positive_int, default=100, help="steps between evaluations (%(default)s)"
    )
    refit = tr("fit the classifier to the training rows again; keep the one with the higher macro F1 on dev (on)")
    training.add_argument("--refit_head", action=argparse.BooleanOptionalAction, default=True, help=refit)
    training.add_argument("--seed", type=non_negative_int, default=3, help="seed of dropout and order (%(default)s)")
    return parser


def parse_args(argv=None):
    return make_parser().parse_args(argv)


def width(text):
    """argparse type: a share like 3/4 or 0.75."""
    try:
        value = Fraction(text.strip("'\""))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(tr("expected a share like 3/4 or 0.75, not {text}", text=text)) from None
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(tr("must lie between 0 and 1, not {text}", text=text))
    return value.limit_denominator(1000)


def width_problems(widths, heads):
    """Yields what is wrong with the widths for a model with this number of heads."""
    for value in widths:
        if (value * heads).denominator != 1:
            fitting = ", ".join(str(Fraction(kept, heads)) for kept in range(heads - 1, 0, -1))
            yield tr(
                "--width_mult_list {value}: {heads} heads times {value} is not a whole number; these work: {fitting}",
                value=value,
                heads=heads,
                fitting=fitting,
            )
    folders = [folder_of(value) for value in widths]
    if len(set(folders)) < len(folders):
        yield tr("--width_mult_list: two of the widths are the same to two digits; give each once")


def folder_of(value):
    return f"width_mult_{round(float(value), 2)}"


# --------------------------------------------------------------------------------------------------------------- result


def export_width(args, checkpoint, value, model, rows):
    """Writes the bundle of a pruned model, which must give the same logits."""
    import paddle

    from text_cls.files import write_json
    from text_cls.neural.export import bundle_folder, check
    from text_cls.serving.predictor import Predictor

    model.eval()
    pruned = replace(checkpoint, model=model, reference=None)
    path = os.path.join(args.output_dir, folder_of(value))
    with bundle_folder(path, pruned, PREFIX, args.max_seq_length) as draft:
        texts, predictor = list(islice(rows["dev"].texts, 32)), Predictor(draft.folder)
        difference, *_ = check(pruned, predictor, texts, args.max_seq_length)
        draft.fields["card"] |= describe_pruned(args, value, predictor, rows["dev"], draft.folder)
        paddle.save(model.state_dict(), os.path.join(draft.folder, "model_state.pdparams"))
        config = {**model.config.to_dict(), "width_mult": float(value)}
        write_json(os.path.join(draft.folder, "model_config.json"), config)
    logger.info("%s is written; its logits match the pruned model's within %.1e", path, difference)
    return sum(parameter.size for parameter in model.parameters())


def describe_pruned(args, value, predictor, rows, folder):
    """Writes reference.json of a pruned width. Returns the facts that its card reports instead of the whole model's."""
    from text_cls.card_facts import changed_arguments, describe_scores, in_words
    from text_cls.reference import make_reference

    labels, decision = predictor.labels, predictor.decision
    probabilities, tokens = predictor.probabilities_and_tokens(list(rows.texts))
    gold, predicted = rows.multi_hot(len(labels)), decision.decide(probabilities, labels.parents)
    make_reference(rows.path, labels, decision, probabilities, gold, tokens).write(folder)
    required = ["--output_dir", args.output_dir, "--dataset_dir", args.dataset_dir]
    return {
        "pruned": {"width": float(value), "changed": changed_arguments(vars(args), vars(parse_args(required)))},
        "scores": {"dev": describe_scores(gold, predicted, args.seed)},
        "decided": in_words(decision),
    }


def log_widths(args, rows, sizes, whole):
    """Logs scores, parameters, file size and latency of the whole model and of each width."""
    from text_cls.neural.export import measure
    from text_cls.serving.predictor import Predictor

    folders = {N_("whole model"): whole}
    folders |= {str(value): os.path.join(args.output_dir, folder_of(value)) for value in args.width_mult_list}
    results = measure({name: Predictor(folder) for name, folder in folders.items()}, rows["dev"])
    before, lines = 1000 / results["whole model"]["texts_per_second"], []
    for name, folder in folders.items():
        result, size = results[name], os.path.getsize(os.path.join(folder, "model.onnx")) / 2**20
        latency = 1000 / result["texts_per_second"]
        scores = [f"{result[kind]:.2f}" for kind in ("micro_f1", "macro_f1")]
        sizes_of_it = [f"{sizes[name] / 1e6:.2f} M", f"{size:.1f} MiB"]
        lines.append([tr(name), *scores, *sizes_of_it, f"{latency:.2f} ms", f"{before / latency:.2f}x"])
    what = [tr("width"), "micro F1", "macro F1", tr("parameters"), "model.onnx"]
    log_table([*what, tr("a text takes"), tr("as fast")], lines)
    logger.info("Times are at batch 32, on this CPU")


# ----------------------------------------------------------------------------------------------------------------- main


def read(args):
    """The checkpoint without its model, and {"train", "dev": rows}. Raises one UserError that lists every problem."""
    from text_cls.neural.checkpoint import load_checkpoint
    from text_cls.neural.export import bundle_folder_problem
    from text_cls.neural.model import paddle_device_problem
    from text_cls.rows import read_rows

    problems, rows = Problems(), {}
    checkpoint = load_checkpoint(args.params_dir, os.path.join(args.dataset_dir, "label.txt"), problems, "--params_dir")
    checkpoint.long_texts = long_text_flags.chosen(checkpoint, args, args.max_seq_length, problems)
    if checkpoint.is_linear:
        problems.add(
            tr(
                "--params_dir {params_dir} holds a linear model, which has no layers to prune",
                params_dir=args.params_dir,
            )
        )
    if problem := paddle_device_problem(args.device):
        problems.add(problem)
    for value in args.width_mult_list:
        if problem := bundle_folder_problem(os.path.join(args.output_dir, folder_of(value)), "--output_dir"):
            problems.add(problem)
    for split in ("train", "dev"):
        with problems.collect():
            rows[split] = read_rows(os.path.join(args.dataset_dir, f"{split}.txt"), checkpoint.labels, problems)
    problems.stop_if_any()
    return checkpoint, rows


def check_model(args, checkpoint):
    """Raises one UserError that lists every reason why this model cannot be pruned."""
    from text_cls.neural.export import tokenizer_problem
    from text_cls.neural.model import longest_input

    problems, config = Problems(), checkpoint.model.config
    if config.model_type == "ernie_m":
        problems.add(tr("PaddleNLP's pruning does not support ERNIE-M; export it unpruned (python export_model.py)"))
    elif checkpoint.tokenizer("")["input_ids"][0] == 0:  # to its forward pass (2.8), a text that starts so is an export
        problems.add(
            tr(
                "PaddleNLP's pruning does not support a vocabulary whose first token, XLM-R's <s>, has number 0; "
                "export the model unpruned (python export_model.py)"
            )
        )
    if problem := tokenizer_problem(checkpoint.tokenizer):
        problems.add(problem)
    limit = longest_input(config)
    if limit and args.max_seq_length > limit:
        problems.add(
            tr(
                "--max_seq_length {max_seq_length}: this model takes at most {limit} tokens",
                max_seq_length=args.max_seq_length,
                limit=limit,
            )
        )
    for problem in width_problems(args.width_mult_list, config.num_attention_heads):
        problems.add(problem)
    problems.stop_if_any()


def prune_and_export(args, checkpoint, rows, work):
    """Writes the bundles of all widths, and logs a table of them. work: folder that may be deleted afterwards."""
    from text_cls.neural.export import bundle_folder
    from text_cls.neural.pruning import PruningOptions, prune

    widths = {float(value): value for value in args.width_mult_list}
    whole = os.path.join(work, "whole")
    sizes = {"whole model": sum(parameter.size for parameter in checkpoint.model.parameters())}
    if is_main_process():
        with bundle_folder(whole, checkpoint, PREFIX, args.max_seq_length):
            pass

    def export(number, model):
        if is_main_process():
            sizes[str(widths[number])] = export_width(args, checkpoint, widths[number], model, rows)

    prune(checkpoint, rows, PruningOptions.from_args(args), work, export)
    if is_main_process():
        log_widths(args, rows, sizes, whole)


def run(args, environment, work):
    """Prunes and exports. environment: lines for the log. work: as in `prune_and_export`."""
    from text_cls.neural.checkpoint import load_model
    from text_cls.neural.model import log_model

    checkpoint, rows = read(args)
    load_model(checkpoint, args.device, "--params_dir")
    check_model(args, checkpoint)
    log_model(checkpoint.model, checkpoint.tokenizer, args.device, environment)
    try:
        prune_and_export(args, checkpoint, rows, work)
    finally:
        if is_main_process():
            shutil.rmtree(work, ignore_errors=True)


@command
def main(argv=None):
    args = parse_args(argv)
    environment = prepare_environment()
    work = os.path.join(args.output_dir, "work.tmp")
    with write_lock(work, *(os.path.join(args.output_dir, folder_of(value)) for value in args.width_mult_list)):
        run(args, environment, work)


if __name__ == "__main__":
    sys.exit(main())
