"""Export a checkpoint to a bundle: static graph and ONNX model with everything needed to serve it.

    python export_model.py --params_path ./checkpoint/ --output_path ./export
    python export_model.py --params_path ./checkpoint/ --output_path ./export --multilingual      # ERNIE-M
    python export_model.py --int8 --dataset_dir data       # also a faster variant for CPUs, if F1 on dev stays as good
    python export_model.py --hf ./hf                       # also a Hugging Face folder, for transformers on PyTorch
    python export_model.py --params_path prune/width_mult_0.75 --hf ./hf     # of a pruned width, which has a bundle
    python export_model.py --cascade ./linear --dataset_dir data   # faster: a linear model answers what it is sure of
    python export_model.py --blend ./linear --dataset_dir data     # better: the mean of both; or with --cascade, too

A variant (--int8, --fp16) that loses F1 or is not faster is left out of the bundle; the exit status is then 1.
"""

import argparse
import os
import sys
from functools import partial
from itertools import islice
from tempfile import TemporaryDirectory

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command, logger, non_negative_float
from text_cls.language import N_, tr
from text_cls.locks import write_lock
from text_cls.neural.compat import prepare_environment
from text_cls.neural.int8_graph import to_int8
from text_cls.neural.onnx_graph import to_fp16
from text_cls.terminal import log_table


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--multilingual", action="store_true", help="the model is an ERNIE-M (off)")
    path = tr("checkpoint of train.py; with --hf also a width of prune.py (%(default)s)")
    parser.add_argument("--params_path", default="./checkpoint/", help=path)
    parser.add_argument("--output_path", default="./export", help="folder to write (%(default)s)")
    parser.add_argument("--hf", help="also write a Hugging Face folder, which transformers opens on PyTorch (none)")

    two = parser.add_argument_group(
        "a linear model beside the neural one; the dev file decides how they share the work"
    )
    linear = tr("checkpoint of a linear model of train.py")
    two.add_argument(
        "--cascade", metavar="LINEAR", help=tr("{linear}: it answers the rows that it is sure of (none)", linear=linear)
    )
    two.add_argument(
        "--blend", metavar="LINEAR", help=tr("{linear}: the mean of both models' probabilities (none)", linear=linear)
    )

    variants = parser.add_argument_group("variants, measured on the dev file before they are accepted")
    variants.add_argument("--int8", action="store_true", help="8-bit weights and products, for CPUs (off)")
    variants.add_argument("--fp16", action="store_true", help="half precision, for GPUs (off)")
    variants.add_argument("--dataset_dir", help="folder of the dev file (none)")
    variants.add_argument("--dev_file", default="dev.txt", help="labelled rows to measure with (%(default)s)")
    variants.add_argument(
        "--max_f1_drop", type=non_negative_float, default=0.5, help="points of F1 a variant may lose (%(default)s)"
    )
    return parser.parse_args(argv)


# ------------------------------------------------------------------------------------------------------------ variants


def fault_of(result, reference, max_f1_drop):
    """Why a variant is not accepted, or None."""
    for kind in ("micro_f1", "macro_f1"):
        lost = reference[kind] - result[kind]
        if lost > max_f1_drop:
            return tr("loses {lost:.2f} points of {score}", lost=lost, score=kind.replace("_", " "))
    if result["texts_per_second"] <= reference["texts_per_second"]:
        return tr("is not faster here")
    return None


def log_results(results, verdicts):
    """Logs a table of the results of `measure`. verdicts: {name: what is said about it}."""
    rows = [
        [tr(name), *(f"{one[key]:.2f}" for key in ("micro_f1", "macro_f1")), f"{one['texts_per_second']:.1f}"]
        + [verdicts.get(name, "")]
        for name, one in results.items()
    ]
    log_table(["", "micro F1", "macro F1", tr("texts per second"), ""], rows)


def add_variant(draft, variant, device, rows, args, write=None):
    """Writes a variant; keeps it in the draft if it is as good as float32 and faster. Returns whether it is kept.

    write: function that writes it, if it is not made of the draft's float32 graph.
    """
    from text_cls.neural.export import measure
    from text_cls.serving.predictor import Predictor

    target = draft.file(variant)
    if write:
        write()
    else:
        {"int8": to_int8, "fp16": to_fp16}[variant](draft.file("float32"), target)
    draft.seal()
    predictors = {name: Predictor(draft.folder, name, device) for name in ("float32", variant)}
    results = measure(predictors, rows)
    fault = fault_of(results[variant], results["float32"], args.max_f1_drop)
    log_results(results, {variant: tr("refused: {fault}", fault=fault) if fault else tr("accepted")})
    if fault:
        os.remove(target)
        draft.seal()
    return not fault


# ----------------------------------------------------------------------------------------------------------------- main


def read(args):
    """The checkpoint without its model, the dev rows or None, and the linear one of --cascade and --blend or None.

    Raises one UserError that lists every problem.
    """
    from text_cls.cross_fitting import FEWEST
    from text_cls.neural.checkpoint import load_checkpoint
    from text_cls.neural.export import bundle_folder_problem
    from text_cls.neural.hugging_face_export import folder_problem
    from text_cls.rows import read_rows

    problems, rows = Problems(), None
    checkpoint = load_checkpoint(args.params_path, None, problems)
    if problem := bundle_folder_problem(args.output_path, "--output_path"):
        problems.add(problem)
    if args.hf and (problem := folder_problem(args.hf, "--hf", args.output_path, args.params_path)):
        problems.add(problem)
    beside = not checkpoint.is_linear and (args.cascade or args.blend)
    linear = read_linear(args, checkpoint, problems) if beside else None
    if args.dataset_dir:
        with problems.collect():
            rows = read_rows(os.path.join(args.dataset_dir, args.dev_file), checkpoint.labels, problems)
            if beside and len(rows) < FEWEST:
                problems.add(
                    tr(
                        "--cascade and --blend are fitted to {dev_file}: {count} rows; {fewest} are needed",
                        dev_file=args.dev_file,
                        count=len(rows),
                        fewest=FEWEST,
                    )
                )
    elif not checkpoint.is_linear and (args.int8 or args.fp16):
        problems.add(
            tr("--int8 and --fp16 are measured before they are accepted: name the folder of dev.txt with --dataset_dir")
        )
    if checkpoint.is_linear:
        given = [name for name in ("int8", "fp16", "hf", "multilingual", "cascade", "blend") if getattr(args, name)]
        for name in given:
            problems.add(
                tr(
                    "--params_path {params_path} holds a linear model, for which there is no --{name}",
                    params_path=args.params_path,
                    name=name,
                )
            )
    problems.stop_if_any()
    return checkpoint, rows, linear


def read_linear(args, checkpoint, problems):
    """The linear checkpoint of a flag, without its model; the problems get why it does not fit the other one."""
    from text_cls.long_texts import CUT
    from text_cls.neural.checkpoint import load_checkpoint

    flag, path = ("--cascade", args.cascade) if args.cascade else ("--blend", args.blend)
    linear = load_checkpoint(path, None, problems, flag)
    if args.blend and os.path.realpath(args.blend) != os.path.realpath(path):
        problems.add(
            tr("--cascade {path} and --blend {blend}: name the same linear model in both", path=path, blend=args.blend)
        )
    if not linear.is_linear:
        remedy = tr("python train.py --model_name linear --save_dir linear")
        problems.add(
            tr("{flag} {path} holds no linear model; train one: {remedy}", flag=flag, path=path, remedy=remedy)
        )
    elif linear.labels.names != checkpoint.labels.names:
        problems.add(
            tr(
                "{flag} {path} has other labels than --params_path {params_path}, or in another order; train both "
                "with the same label.txt",
                flag=flag,
                path=path,
                params_path=args.params_path,
            )
        )
    if (mode := checkpoint.long_texts.mode) != CUT:
        problems.add(
            tr(
                "{flag}: --params_path {params_path} was trained with --long_texts {mode}, but beside a linear model "
                "long texts are only cut; train with that, or leave {flag} out",
                flag=flag,
                params_path=args.params_path,
                mode=mode,
            )
        )
    if not args.dataset_dir:
        problems.add(tr("{flag} is fitted to labelled rows: name the folder of dev.txt with --dataset_dir", flag=flag))
    for name in ("fp16", "hf"):
        if getattr(args, name):
            problems.add(
                tr(
                    "{flag}: a bundle of two models is for ONNX Runtime on CPUs; leave --{name} out",
                    flag=flag,
                    name=name,
                )
            )
    return linear


def check_model(args, checkpoint):
    """Raises a UserError if --multilingual or --hf does not fit the model, or the model cannot be served."""
    from text_cls.neural.export import tokenizer_problem
    from text_cls.neural.hugging_face_export import config_problem

    kind = checkpoint.model.config.model_type
    if args.multilingual != (kind == "ernie_m"):
        remedy = tr("leave --multilingual out") if args.multilingual else "add --multilingual"
        raise UserError(
            tr(
                "--params_path {params_path} holds a model of type {kind}; {remedy}",
                params_path=args.params_path,
                kind=kind,
                remedy=remedy,
            )
        )
    if problem := tokenizer_problem(checkpoint.tokenizer):
        raise UserError(problem)
    if args.hf and (problem := config_problem(checkpoint.model.config.to_dict())):
        raise UserError(problem)


def add_variants(draft, rows, args):
    """Adds the variants that the flags ask for. Returns the names of those that were refused."""
    from text_cls.serving.predictor import onnx_device_problem

    refused = []
    if args.int8 and not add_variant(draft, "int8", "cpu", rows, args):
        refused.append("int8")
    if args.fp16 and onnx_device_problem("gpu"):
        to_fp16(draft.file("float32"), draft.file("fp16"))
        draft.fields["unmeasured"] = ["fp16"]
        logger.warning("fp16 is in the bundle but unmeasured: there is no GPU here to measure it on")
    elif args.fp16 and not add_variant(draft, "fp16", "gpu", rows, args):
        refused.append("fp16")
    return refused


def write_hf(args, trained):
    """Writes the folder of --hf from a `hugging_face_export.Trained`."""
    from text_cls.neural.hugging_face_export import write_hugging_face

    difference = write_hugging_face(args.hf, trained)
    logger.info("The Hugging Face folder is in %s; its logits match the bundle's within %.1e", args.hf, difference)


def run_on_pruned(args):
    """Writes the Hugging Face folder of a pruned width. Returns the exit status."""
    from text_cls.neural.hugging_face_export import config_problem, folder_problem, read_pruned

    if not args.hf or args.int8 or args.fp16 or args.cascade or args.blend:
        raise UserError(
            tr(
                "--params_path {params_path} is a bundle of prune.py already; serve it, or use --hf without --int8, "
                "--fp16, --cascade and --blend to write a Hugging Face folder of it",
                params_path=args.params_path,
            )
        )
    if problem := folder_problem(args.hf, "--hf", args.params_path):
        raise UserError(problem)
    trained = read_pruned(args.params_path)
    if problem := config_problem(trained.config):
        raise UserError(problem)
    write_hf(args, trained)
    return 0


def run_on_linear(args, checkpoint, texts):
    """Exports a linear model. Returns the exit status."""
    from text_cls.neural.checkpoint import load_model
    from text_cls.neural.linear_export import export_linear

    load_model(checkpoint, "cpu")
    difference = export_linear(args.output_path, checkpoint, texts)
    logger.info("The bundle's logits match the trained model's within %.1e", difference)
    logger.info("The bundle is in %s", args.output_path)
    return 0


def checked(draft, checkpoint, texts):
    """A predictor of the bundle of a neural model, whose logits were compared with the trained model's on texts."""
    from text_cls.neural.export import check
    from text_cls.serving.predictor import Predictor

    predictor = Predictor(draft.folder)
    difference, shortest, longest = check(checkpoint, predictor, texts, predictor.max_seq_length)
    logger.info(
        "The bundle's logits match the trained model's within %.1e, on rows of %d to %d tokens",
        difference,
        shortest,
        longest,
    )
    return predictor


def run_on_two(args, checkpoint, linear, rows, plain, texts):
    """Exports a neural and a linear model. plain: the draft of the first one's own bundle. Returns refused variants."""
    from text_cls.neural import two_models
    from text_cls.neural.checkpoint import load_model
    from text_cls.neural.export import measure
    from text_cls.serving.predictor import Predictor

    load_model(linear, "cpu")
    alone = checked(plain, checkpoint, texts)
    two = two_models.fit(checkpoint, linear, alone, rows, bool(args.cascade), bool(args.blend))
    with two.folder(args.output_path, checkpoint, plain, rows, args.dev_file) as draft:
        both = Predictor(draft.folder)
        logger.info("The bundle's logits match its two models' within %.1e", two.check(alone, both, texts))
        results = measure({N_("neural model"): alone, N_("both models"): both}, rows)
        log_results(results, {})
        if args.cascade and results["both models"]["texts_per_second"] <= results["neural model"]["texts_per_second"]:
            logger.warning("This is not faster here than the neural model: to save time, leave --cascade out")
        if not args.int8:
            return []
        target = plain.file("int8")
        quantise = partial(to_int8, plain.file("float32"), target)
        write = partial(two.write_variant, quantise, target, draft.file("int8"))
        return [] if add_variant(draft, "int8", "cpu", rows, args, write) else ["int8"]


def run(args):
    """Exports the checkpoint. Returns the exit status."""
    from text_cls.neural.checkpoint import load_model
    from text_cls.neural.export import bundle_folder, example_texts
    from text_cls.neural.hugging_face_export import Trained, as_arrays

    checkpoint, rows, linear = read(args)
    texts = list(islice(rows.texts, 64)) if rows else example_texts()
    if checkpoint.is_linear:
        return run_on_linear(args, checkpoint, texts)
    load_model(checkpoint, "cpu")
    check_model(args, checkpoint)
    max_seq_length = checkpoint.run.get("arguments", {}).get("max_seq_length", 128)
    with TemporaryDirectory() as folder:
        path = os.path.join(folder, "neural") if linear else args.output_path
        with bundle_folder(path, checkpoint, "float32", max_seq_length) as draft:
            if linear:
                refused = run_on_two(args, checkpoint, linear, rows, draft, texts)
            else:
                predictor = checked(draft, checkpoint, texts)
                refused = add_variants(draft, rows, args)
            if args.hf:
                model = checkpoint.model
                write_hf(args, Trained(predictor, as_arrays(model.state_dict()), model.config.to_dict()))
    logger.info("The bundle is in %s", args.output_path)
    for variant in refused:
        logger.error("%s is not in it; serve float32, or raise --max_f1_drop", variant)
    return 1 if refused else 0


@command
def main(argv=None):
    args = parse_args(argv)
    prepare_environment()
    from text_cls.neural.hugging_face_export import is_pruned

    pruned = is_pruned(args.params_path)
    written = ([] if pruned else [args.output_path]) + ([args.hf] if args.hf else [])
    with write_lock(*written):
        return run_on_pruned(args) if pruned else run(args)


if __name__ == "__main__":
    sys.exit(main())
