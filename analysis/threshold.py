"""Fit how probabilities become labels to labelled rows, and write it into a checkpoint or a bundle.

    python analysis/threshold.py --dataset_dir data --device cpu --params_path ./checkpoint
    python analysis/threshold.py --dataset_dir data --device cpu --bundle ./export
    python analysis/threshold.py --dataset_dir data --device cpu --params_path ./checkpoint --target_precision 0.9

The gain it tells is that on rows the thresholds were not fitted to. Where it may be chance, nothing is written.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.cli import Problems, UserError, command, fraction, logger, non_negative_int, positive_int
from text_cls.decision import HIERARCHY
from text_cls.neural.compat import prepare_environment
from text_cls.rows import read_labels, read_rows
from utils import add_model_flags, log_rows, open_model, probabilities_of

OBJECTIVES = ("micro", "macro", "both", "exact")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_model_flags(parser)
    parser.add_argument("--bundle", help="a bundle of export_model.py in place of a checkpoint (none)")
    parser.add_argument("--dev_file", default="dev.txt", help="labelled rows, not those of training (%(default)s)")

    fit = parser.add_argument_group("fitting")
    fit.add_argument("--objective", choices=OBJECTIVES, default="both", help="F1 to raise, or exact rows (%(default)s)")
    fit.add_argument(
        "--mode",
        choices=("auto", "single", "per_label"),
        default="auto",
        help="one threshold, one a label, or what gains more (%(default)s)",
    )
    fit.add_argument(
        "--target_precision", type=fraction(zero=False, one=True), help="reach this precision instead, from 0 to 1"
    )
    fit.add_argument(
        "--target_recall", type=fraction(zero=False, one=True), help="reach this recall instead, from 0 to 1"
    )
    fit.add_argument(
        "--temperature", action="store_true", help="fit one, so that probabilities tell frequencies (as it is)"
    )
    fit.add_argument("--hierarchy", choices=tuple(HIERARCHY), help="decide in this way from now on (as it is)")
    fit.add_argument("--min_k", type=non_negative_int, help="labels of a row at least from now on (as it is)")
    fit.add_argument("--max_k", type=positive_int, help="labels of a row at most from now on (as it is)")
    fit.add_argument("--folds", type=positive_int, default=5, help="parts for the figure on unseen rows (%(default)s)")
    fit.add_argument("--seed", type=non_negative_int, default=3, help="of folds and bootstrap (%(default)s)")
    fit.add_argument("--force", action="store_true", help="write also where the gain may be chance (off)")
    fit.add_argument("--dry_run", action="store_true", help="write nothing (off)")
    return parser.parse_args(argv)


class _OfCheckpoint:
    """Labels, decision and probabilities of a checkpoint, and a way to put another decision into it."""

    def __init__(self, args, problems):

        self.args = args
        self.checkpoint, self.max_seq_length = open_model(args, problems)
        self.labels, self.decision = self.checkpoint.labels, self.checkpoint.decision
        self.path = os.path.join(args.params_path, "decision.json")

    def probabilities(self, texts):
        from text_cls.neural.checkpoint import load_model

        load_model(self.checkpoint, self.args.device)
        return probabilities_of(self.checkpoint, texts, self.max_seq_length, self.args.batch_size)

    def problem(self):
        """What would keep `write` from writing, or None."""
        return None

    def write(self, decision):
        from text_cls.files import atomic_write

        with atomic_write(self.path) as file:
            file.write(decision.text())


class _OfBundle:
    """The same of a bundle, on ONNX Runtime without Paddle."""

    def __init__(self, args, problems):
        from text_cls.serving import open_predictor

        self.args = args
        device, colon, number = args.device.partition(":")
        if device not in ("cpu", "gpu") or (colon and not number.isdigit()):
            raise UserError(f"--device {args.device}: a bundle runs on cpu, gpu, or one card: gpu:0")
        self.predictor = open_predictor(
            args.bundle,
            device=device,
            device_id=int(number or 0),
            batch_size=args.batch_size,
            max_seq_length=args.max_seq_length,
        )
        self.labels, self.decision = self.predictor.labels, self.predictor.decision
        self.path = os.path.join(args.bundle, "decision.json")

    def probabilities(self, texts):
        return self.predictor.probabilities(list(texts))

    def problem(self):
        from text_cls.bundle import strange_files_problem

        path = os.path.join(self.args.dataset_dir, self.args.label_file)
        if os.path.exists(path) and read_labels(path, Problems()).names != self.labels.names:
            return f"{path} is not the bundle's label file; to use the bundle's: cp {self.args.bundle}/label.txt {path}"
        return strange_files_problem(self.predictor.bundle)

    def write(self, decision):
        from text_cls.bundle import replace_decision

        replace_decision(self.predictor.bundle, decision)


def check_args(args, problems):
    if args.target_precision and args.target_recall:
        problems.add("--target_precision and --target_recall: give one; the other is then as good as it can be")
    if args.folds < 2:
        problems.add("--folds: give 2 or more")
    elif args.folds == 2 and args.mode == "auto":
        problems.add("--folds 2: --mode auto needs 3 or more, since it chooses by folds within folds; or name a --mode")


@command
def main(argv=None):
    args = parse_args(argv)
    prepare_environment()
    from text_cls.cross_fitting import FEWEST

    problems = Problems()
    check_args(args, problems)
    rows = None
    with problems.collect():
        model = (_OfBundle if args.bundle else _OfCheckpoint)(args, problems)
        if problem := model.problem():
            problems.add(problem)
        rows = read_rows(os.path.join(args.dataset_dir, args.dev_file), model.labels, problems)
        start = changed(model.decision, args)
    problems.stop_if_any()
    log_rows(rows, model.labels)
    if len(rows) < FEWEST:
        raise UserError(f"{rows.path}: {len(rows)} rows are too few to fit thresholds to; label {FEWEST} or more")
    if len(set(rows.texts)) < 3:
        raise UserError(f"{rows.path}: fewer than 3 different texts tell nothing of other rows; label more")
    if not rows.multi_hot(len(model.labels)).any():
        raise UserError(f"{rows.path}: no row has a label, so there is nothing to fit thresholds to")

    probabilities, gold = model.probabilities(rows.texts), rows.multi_hot(len(model.labels))
    decision, worth = choose(args, start, probabilities, gold, rows.texts, model.labels)
    if args.dry_run:
        logger.info("Nothing written (--dry_run)")
    elif not worth and not args.force:
        logger.info("%s stays as it is; --force writes the fitted decision all the same", model.path)
    else:
        model.write(decision)
        logger.info("Decision saved in %s; every script and server that reads it decides by it", model.path)
    return 0


def changed(decision, args):
    """The decision with the flags that are not fitted."""
    from text_cls.decision_flags import overridden

    return overridden(decision, min_k=args.min_k, max_k=args.max_k, hierarchy=args.hierarchy)


def choose(args, start, probabilities, gold, texts, labels):
    """The decision that gains most on unseen rows, and whether its gain is beyond chance. Logs every figure."""
    from dataclasses import replace

    from text_cls import cross_fitting, thresholds

    parts = cross_fitting.draw_folds(gold, texts, args.seed, args.folds)
    parents = labels.parents
    # Not the file's thresholds: they may have been fitted to these very rows, and would look better than they are.
    plain = replace(start, threshold=0.5, temperature=1.0)
    before = plain.decide(probabilities, parents)
    log_line("0.5", cross_fitting.figures(gold, before), None)
    target = args.target_precision is not None or args.target_recall is not None
    modes = {"auto": ["single"] if target else ["single", "per_label"]}.get(args.mode, [args.mode])
    fits, best = [], None
    for mode in modes:
        fit = thresholds.fitter(
            start,
            args.objective,
            mode == "per_label",
            args.temperature,
            parents,
            args.target_precision,
            args.target_recall,
        )
        fits.append(fit)
        predicted = cross_fitting.cross_fitted(probabilities, gold, parts, fit, parents)
        gain = cross_fitting.gain_of(gold, before, predicted, args.objective, args.seed)
        fitted = fit(probabilities, gold)
        name = "a threshold a label" if mode == "per_label" else f"one threshold, {fitted.threshold:.4g}"
        log_line(name, cross_fitting.figures(gold, predicted), None if target else gain)
        if best is None or gain[0] > best[0]:
            best, decision, chosen = gain, fitted, name
    logger.info(
        "The figures of fitted thresholds are those on rows of %d folds that they were not fitted to", len(parts)
    )
    if len(fits) > 1:  # what made one of them the better one would flatter it
        predicted = cross_fitting.cross_chosen(probabilities, gold, parts, fits, args.objective, parents)
        best = cross_fitting.gain_of(gold, before, predicted, args.objective, args.seed)
        logger.info("Taken: %s. What is expected of it is told of rows that had no part in choosing it, either", chosen)
        log_line("the better of the two", cross_fitting.figures(gold, predicted), best)
    gain, low, high = best
    if args.temperature:
        logger.info(
            "Temperature %.3f (log-loss %.5f, without %.5f, on these rows)",
            decision.temperature,
            *(thresholds.log_loss_of(d.calibrated(probabilities), gold) for d in (decision, plain)),
        )
    if target:
        return decision, target_reached(args, decision, probabilities, gold, labels)
    verdict = "Worth it" if low > 0 else "Not worth it: the interval is not above 0, the gain may be chance"
    logger.info(
        "%s. %s: %+.2f points, 95%% interval %+.2f to %+.2f",
        verdict,
        thresholds.OBJECTIVES[args.objective],
        100 * gain,
        100 * low,
        100 * high,
    )
    return decision, low > 0


def log_line(name, figures, gain):
    more = "" if gain is None else f" | gain {100 * gain[0]:+.2f} ({100 * gain[1]:+.2f} to {100 * gain[2]:+.2f})"
    form = "%-22s micro P %.2f R %.2f F1 %.2f | macro F1 %.2f | exact %.2f%s"
    logger.info(form, name, *figures, more)


def target_reached(args, decision, probabilities, gold, labels):
    """Whether the label sets reach the target on the rows fitted to. Says where they do not."""
    import numpy as np

    target, kind = (args.target_precision, "precision") if args.target_precision else (args.target_recall, "recall")
    decided = decision.decide(probabilities, labels.parents)
    right, of = gold & decided, decided if args.target_precision else gold
    if args.mode == "per_label":
        short = np.flatnonzero((right.sum(axis=0) < target * of.sum(axis=0)) | ~decided.any(axis=0))
        if len(short):
            names = ", ".join(labels.names[i] for i in short[:10]) + (" ..." if len(short) > 10 else "")
            logger.warning("%d labels do not reach %s %g, or are never given: %s", len(short), kind, target, names)
        return len(short) < len(labels)
    reached = decided.any() and right.sum() >= target * of.sum()
    if not reached:
        logger.warning("%s %g is not reached: %.4f", kind.capitalize(), target, right.sum() / max(1, of.sum()))
    return reached


if __name__ == "__main__":
    sys.exit(main())
