"""Fit thresholds to labelled rows, and write them into a checkpoint or a bundle.

    python analysis/threshold.py --dataset_dir data --device cpu --params_path ./checkpoint
    python analysis/threshold.py --dataset_dir data --device cpu --bundle ./export
    python analysis/threshold.py --dataset_dir data --device cpu --params_path ./checkpoint --target_precision 0.9

The gain is measured on rows that the thresholds were not fitted to. If it may be chance, nothing is written.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from targets import BundleTarget, CheckpointTarget, refer_to
from text_cls import cross_fitting, thresholds
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command, fraction, logger, non_negative_int, positive_int
from text_cls.decision import HIERARCHY, Decision
from text_cls.decision_flags import overridden
from text_cls.language import N_, tr
from text_cls.locks import write_lock
from text_cls.long_texts import unread_text
from text_cls.neural.compat import prepare_environment
from text_cls.rows import read_rows
from text_cls.terminal import log_table
from utils import add_model_flags, log_rows


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_model_flags(parser)
    parser.add_argument("--bundle", help="a bundle of export_model.py instead of a checkpoint (none)")
    parser.add_argument(
        "--dev_file", default="dev.txt", help="labelled rows to fit to, not those of training (%(default)s)"
    )

    fit = parser.add_argument_group("fitting")
    fit.add_argument(
        "--objective",
        choices=tuple(thresholds.OBJECTIVES),
        default="both",
        help="raise F1 (both: micro plus macro) or exact match (%(default)s)",
    )
    fit.add_argument(
        "--mode",
        choices=("auto", "single", "per_label"),
        default="auto",
        help="one threshold, one per label, or whichever gains more (%(default)s)",
    )
    fit.add_argument(
        "--target_precision",
        type=fraction(zero=False, one=True),
        help="reach this precision instead of the objective, from 0 to 1 (off)",
    )
    fit.add_argument(
        "--target_recall",
        type=fraction(zero=False, one=True),
        help="reach this recall instead of the objective, from 0 to 1 (off)",
    )
    fit.add_argument(
        "--temperature",
        action="store_true",
        help="fit a temperature, so that probabilities match frequencies (unchanged)",
    )
    fit.add_argument("--hierarchy", choices=tuple(HIERARCHY), help="how a hierarchy is decided from now on (unchanged)")
    fit.add_argument("--min_k", type=non_negative_int, help="at least this many labels per row from now on (unchanged)")
    fit.add_argument("--max_k", type=positive_int, help="at most this many labels per row from now on (unchanged)")
    fit.add_argument("--folds", type=positive_int, default=5, help="folds for the figures on unseen rows (%(default)s)")
    fit.add_argument("--seed", type=non_negative_int, default=3, help="seed of folds and bootstrap (%(default)s)")
    fit.add_argument("--html", help="HTML page of what was compared, and of each label (none)")
    fit.add_argument("--force", action="store_true", help="write even if the gain may be chance (off)")
    fit.add_argument("--dry_run", action="store_true", help="write nothing (off)")
    return parser.parse_args(argv)


def check_args(args, problems):
    if args.html and os.path.isdir(args.html):
        problems.add(tr("{path} is a folder; name a file", path=args.html))
    if args.target_precision and args.target_recall:
        problems.add(tr("--target_precision and --target_recall: use only one; the other is then as high as possible"))
    if args.folds < 2:
        problems.add(tr("--folds: use 2 or more"))
    elif args.folds == 2 and args.mode == "auto":
        problems.add(
            tr("--folds 2: --mode auto needs 3 or more, since it chooses by folds within folds; or use another --mode")
        )


def run(args):
    """Fits thresholds and writes them."""
    problems = Problems()
    check_args(args, problems)
    rows = None
    with problems.collect():
        target = (BundleTarget if args.bundle else CheckpointTarget)(args, problems)
        if problem := target.problem():
            problems.add(problem)
        rows = read_rows(os.path.join(args.dataset_dir, args.dev_file), target.labels, problems)
        start = overridden(target.decision, min_k=args.min_k, max_k=args.max_k, hierarchy=args.hierarchy)
        if problem := start.count_problem(len(target.labels)):
            problems.add(tr("--{problem}; no row can have more labels than there are", problem=problem))
    problems.stop_if_any()
    log_rows(rows)
    if len(rows) < cross_fitting.FEWEST:
        raise UserError(
            tr(
                "{path}: {count} rows are too few to fit thresholds to; label {fewest} or more",
                path=rows.path,
                count=len(rows),
                fewest=cross_fitting.FEWEST,
            )
        )
    if len(set(rows.texts)) < 3:
        raise UserError(
            tr("{path}: fewer than 3 different texts say nothing about other rows; label more", path=rows.path)
        )

    (probabilities, tokens), gold = target.predict(rows.texts), rows.multi_hot(len(target.labels))
    if target.unread:
        logger.warning(unread_text(target.unread, target.long_texts))
    outcome = choose(args, start, probabilities, gold, rows.texts, target.labels)
    decision = outcome.chosen.decision
    if args.html:
        from threshold_page import write_threshold_page

        source = tr("{model} on {rows}", model=args.bundle or args.params_path, rows=rows.path)
        write_threshold_page(args.html, source, target.labels, outcome)
        logger.info("Page saved in %s; open it in a browser", args.html)
    if args.dry_run:
        logger.info("Nothing written (--dry_run)")
    elif not outcome.worth_it and not args.force:
        logger.info("%s is unchanged; --force writes the fitted decision anyway", target.path)
    else:
        target.write(decision, refer_to(target, decision, rows, probabilities, tokens))
        logger.info("Decision saved in %s; every script and server that reads it will use it", target.path)


@dataclass
class Candidate:
    """A way to fit; its figures and gain are those on rows that it was not fitted to."""

    name: str
    fit: Callable[[np.ndarray, np.ndarray], Decision]
    decision: Decision  # fitted to all rows
    predicted: np.ndarray  # label sets of rows that it was not fitted to, bool array [rows, labels]
    figures: tuple[float, ...]  # of `cross_fitting.figures`
    gain: tuple[float, float, float]  # of `cross_fitting.gain_of`


@dataclass
class Outcome:
    """What was compared, and what came of it. Arrays are [rows, labels]."""

    lines: list[tuple]  # (name, what `cross_fitting.figures` returns, gain with its interval or None)
    chosen: Candidate
    worth_it: bool
    verdict: str
    gold: np.ndarray
    before: np.ndarray  # label sets with a threshold of 0.5
    probabilities: np.ndarray  # those that the fitted thresholds apply to


class Comparison:
    """Fitted decisions compared with a threshold of 0.5, in folds of the rows."""

    def __init__(self, args, start, probabilities, gold, texts, labels):
        self.args, self.start, self.labels = args, start, labels
        # Not the file's thresholds: they may have been fitted to these very rows, and would look better than they are.
        self.plain = replace(start, threshold=0.5, temperature=1.0)
        self.before = self.plain.decide(probabilities, labels.parents)
        self.gold, self.probabilities = gold, probabilities
        self.folds = cross_fitting.draw_folds(gold, texts, args.seed, args.folds)

    def measure(self, predicted):
        """(figures, gain) of label sets of all rows."""
        gain = cross_fitting.gain_of(self.gold, self.before, predicted, self.args.objective, self.args.seed)
        return cross_fitting.figures(self.gold, predicted), gain

    def candidate(self, mode):
        """The `Candidate` of a mode, "single" or "per_label"."""
        args, parents = self.args, self.labels.parents
        targets = args.target_precision, args.target_recall
        fit = thresholds.fitter(self.start, args.objective, mode == "per_label", args.temperature, parents, *targets)
        predicted = cross_fitting.cross_fitted(self.probabilities, self.gold, self.folds, fit, parents)
        decision = fit(self.probabilities, self.gold)
        name = (
            tr("one threshold per label")
            if mode == "per_label"
            else tr("one threshold: {threshold:.4g}", threshold=decision.threshold)
        )
        return Candidate(name, fit, decision, predicted, *self.measure(predicted))

    def choice(self, candidates):
        """(figures, gain) of the choice between candidates, on rows used neither to fit nor to choose."""
        fits = [candidate.fit for candidate in candidates]
        predicted = cross_fitting.cross_chosen(
            self.probabilities, self.gold, self.folds, fits, self.args.objective, self.labels.parents
        )
        return self.measure(predicted)


def choose(args, start, probabilities, gold, texts, labels):
    """The `Outcome`: the decision that gains most on unseen rows, and whether it is worth writing. Logs all figures."""
    comparison = Comparison(args, start, probabilities, gold, texts, labels)
    candidates = [comparison.candidate(mode) for mode in modes_of(args)]
    best = max(candidates, key=lambda candidate: candidate.gain[0])
    lines = [("0.5", cross_fitting.figures(gold, comparison.before), None)]
    # A target gives up F1 for it: the loss says nothing.
    gains = [None if has_target(args) else candidate.gain for candidate in candidates]
    lines += [(candidate.name, candidate.figures, gain) for candidate, gain in zip(candidates, gains)]
    gain = best.gain
    if len(candidates) > 1:  # the gain that it was chosen for is too high
        figures, gain = comparison.choice(candidates)
        lines.append((tr("the better of the two"), figures, gain))
    log_figures(lines)
    logger.info(
        "The figures of fitted thresholds are for rows of %d folds that they were not fitted to",
        len(comparison.folds),
    )
    if len(candidates) > 1:
        logger.info("Chosen: %s. The last line is for rows used neither to fit nor to choose it", best.name)
    worth_it, verdict = judge(args, comparison, best, gain)
    logger.info("%s", verdict)
    fitted = best.decision.calibrated(probabilities)
    return Outcome(lines, best, worth_it, verdict, gold, comparison.before, fitted)


def has_target(args):
    return args.target_precision is not None or args.target_recall is not None


def modes_of(args):
    """The modes to compare: "single", "per_label" or both."""
    if args.mode != "auto":
        return [args.mode]
    return ["single"] if has_target(args) else ["single", "per_label"]


def judge(args, comparison, best, gain):
    """(whether the best candidate is worth writing, why)."""
    if args.temperature:
        losses = (
            thresholds.log_loss_of(decision.calibrated(comparison.probabilities), comparison.gold)
            for decision in (best.decision, comparison.plain)
        )
        form = tr("Temperature %.3f (log-loss %.5f, without %.5f, on these rows)")
        logger.info(form, best.decision.temperature, *losses)
    if has_target(args):
        reached = target_reached(args, best.decision, comparison.probabilities, comparison.gold, comparison.labels)
        name, target = ("precision", args.target_precision) if args.target_precision else ("recall", args.target_recall)
        form = N_("Reached: {name} {target:g}") if reached else N_("Not reached: {name} {target:g}")
        return reached, tr(form, name=name, target=target)
    return beyond_chance(args, *gain)


def beyond_chance(args, gain, low, high):
    """(whether the interval of the gain is above 0, that in words)."""
    answer = tr("Worth it") if low > 0 else tr("Not worth it: the interval is not above 0, the gain may be chance")
    objective = tr(thresholds.OBJECTIVES[args.objective])
    form = N_("{answer}. {objective}: {gain:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}")
    return low > 0, tr(form, answer=answer, objective=objective, **percents((gain, low, high)))


def log_figures(lines):
    """Logs a table of (name, what `cross_fitting.figures` returns, gain with its interval or None)."""
    titles = ["", "micro P", "micro R", "micro F1", "macro F1", tr("exact")]
    rows = [[name, *(f"{figure:.2f}" for figure in figures)] for name, figures, _ in lines]
    if any(gain for _, _, gain in lines):
        titles.append(tr("gain (95% interval)"))
        for row, (_, _, gain) in zip(rows, lines):
            low_to_high = gain and tr("{gain:+.2f} ({low:+.2f} to {high:+.2f})", **percents(gain))
            row.append(low_to_high or "")
    log_table(titles, rows)


def percents(gain):
    return {name: 100 * value for name, value in zip(("gain", "low", "high"), gain)}


def target_reached(args, decision, probabilities, gold, labels):
    """Whether the label sets reach the target on the rows they were fitted to; logs what does not."""
    target, kind = (args.target_precision, "precision") if args.target_precision else (args.target_recall, "recall")
    predicted = decision.decide(probabilities, labels.parents)
    right, counted = gold & predicted, predicted if args.target_precision else gold
    if args.mode == "per_label":
        short = np.flatnonzero((right.sum(axis=0) < target * counted.sum(axis=0)) | ~predicted.any(axis=0))
        if len(short):
            names = ", ".join(labels.names[i] for i in short[:10]) + (" ..." if len(short) > 10 else "")
            logger.warning("%d labels do not reach %s %g, or are never predicted: %s", len(short), kind, target, names)
        return len(short) < len(labels)
    reached = predicted.any() and right.sum() >= target * counted.sum()
    if not reached:
        logger.warning("%s %g is not reached: %.4f", kind.capitalize(), target, right.sum() / max(1, counted.sum()))
    return reached


@command
def main(argv=None):
    args = parse_args(argv)
    prepare_environment()
    with write_lock(*([] if args.dry_run else [args.bundle or args.params_path])):
        run(args)


if __name__ == "__main__":
    sys.exit(main())
