"""Compare new texts, or a server's counts, with what the model predicted on its dev rows. No text leaves the machine.

    python analysis/drift.py --dataset_dir data --device cpu --bundle ./export --data_file new.csv --html drift.html
    python analysis/drift.py --dataset_dir data --bundle ./export --metrics http://127.0.0.1:8189/metrics
    python analysis/drift.py --dataset_dir data --device cpu --bundle ./export --write_reference

Exit status 3 if a figure is beyond its --max_* limit and has changed by more than chance, for cron. What it compares
with is reference.json in the checkpoint or the bundle. --write_reference writes it again, from the labelled rows of
--dev_file.
"""

import argparse
import os
import random
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from drift_measures import FEWEST, compare
from server_counts import read_metrics, server_counts
from targets import BundleTarget, CheckpointTarget, refer_to
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command, fraction, logger, non_negative_float, non_negative_int
from text_cls.files import write_json
from text_cls.language import tr
from text_cls.locks import write_lock
from text_cls.long_texts import unread_text
from text_cls.neural.compat import prepare_environment
from text_cls.prediction import WINDOW, check_files
from text_cls.reference import REFERENCE, REMEDY, VERSION_DIGITS, Counts, read_reference
from text_cls.rows import read_rows, read_texts
from text_cls.table_flags import add_table_flags, table_options
from utils import add_model_flags, log_rows

BEYOND = 3  # exit status
LOGGED = 10  # labels
LIMITS = ("max_changed_labels", "max_without_label", "max_unknown_tokens", "max_f1_drop", "max_auc")


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_model_flags(parser)
    parser.add_argument("--bundle", help="a bundle instead of a checkpoint (none)")
    parser.add_argument("--data_file", help="new texts, one per line, or a table (none)")
    parser.add_argument("--metrics", help="instead: counts of server.py, its address or a file; needs --bundle (none)")
    dev = tr("texts like those of the reference, to find the words that differ, if the file exists (%(default)s)")
    parser.add_argument("--dev_file", default="dev.txt", help=dev)
    write = tr("write {reference} from the labelled rows of --dev_file, and compare nothing (off)", reference=REFERENCE)
    parser.add_argument("--write_reference", action="store_true", help=write)
    parser.add_argument("--report_file", help="JSON file for all figures (none)")
    parser.add_argument("--html", help="HTML page (none)")
    parser.add_argument("--seed", type=non_negative_int, default=3, help="seed of samples and bootstrap (%(default)s)")
    add_table_flags(parser, writes=False)

    limits = parser.add_argument_group("limits: exit status 3 beyond one of them")
    changed = tr("most labels that may rise or fall by more than chance (no limit)")
    limits.add_argument("--max_changed_labels", type=non_negative_int, help=changed)
    without = tr("most points by which rows without a label may rise, from 0 to 100 (no limit)")
    limits.add_argument("--max_without_label", type=non_negative_float, help=without)
    unknown = tr("most points by which unknown tokens may rise, from 0 to 100 (no limit)")
    limits.add_argument("--max_unknown_tokens", type=non_negative_float, help=unknown)
    drop = tr("most points by which the estimated micro F1 may be below that of dev (no limit)")
    limits.add_argument("--max_f1_drop", type=non_negative_float, help=drop)
    auc = tr("highest AUC of telling the texts from those of --dev_file, 0.5 to 1 (no limit)")
    limits.add_argument("--max_auc", type=fraction(one=True), help=auc)
    return parser.parse_args(argv)


def check_args(args, problems):
    if args.write_reference and (args.data_file or args.metrics):
        problems.add(tr("--write_reference only writes the reference; leave out --data_file and --metrics"))
    elif not args.write_reference and bool(args.data_file) == bool(args.metrics):
        problems.add(tr("name what to compare with the reference: --data_file, or --metrics"))
    if args.metrics and not args.bundle:
        problems.add(tr("--metrics needs --bundle, the bundle that is served: the counts are kept by its version"))
    if args.max_auc is not None and args.metrics:
        problems.add(tr("--max_auc is for --data_file: a server's counts have no texts"))
    for path in filter(None, (args.report_file, args.html)):
        if os.path.isdir(path):
            problems.add(tr("{path} is a folder; name a file", path=path))


# ---------------------------------------------------------------------------------------------------------- reference


def write_reference(args):
    """Predicts --dev_file, and writes what the model predicts as its reference."""
    problems = Problems()
    check_args(args, problems)
    target = rows = None
    with problems.collect():
        target = (BundleTarget if args.bundle else CheckpointTarget)(args, problems)
        if problem := target.problem():
            problems.add(problem)
        rows = read_rows(os.path.join(args.dataset_dir, args.dev_file), target.labels, problems)
    problems.stop_if_any()
    log_rows(rows)
    probabilities, tokens = target.predict(rows.texts)
    reference = refer_to(target, target.decision, rows, probabilities, tokens)
    target.write(target.decision, reference)
    micro, macro = 100 * reference.micro_f1, 100 * reference.macro_f1
    path = os.path.join(target.folder, REFERENCE)
    logger.info("%s is written, of %d rows: micro f1 %.2f, macro f1 %.2f", path, len(rows), micro, macro)


def check_reference(reference, folder, labels, decision):
    """Raises UserError if there is no `Reference`, or one of another model."""
    if reference is None:
        raise UserError(
            tr("{folder} has no {reference}; {remedy}", folder=folder, reference=REFERENCE, remedy=tr(REMEDY))
        )
    if problem := reference.problem(labels.names, decision):
        raise UserError(f"{os.path.join(folder, REFERENCE)} {problem}; {tr(REMEDY)}")


# --------------------------------------------------------------------------------------------------------- new texts


class Sample:
    """Up to `most` of all texts that it sees, each equally likely (reservoir sampling, Vitter 1985)."""

    def __init__(self, most, seed):
        self.texts, self._most, self._seen, self._random = [], most, 0, random.Random(seed)

    def add(self, texts):
        for text in texts:
            self._seen += 1
            if len(self.texts) < self._most:
                self.texts.append(text)
            elif (place := self._random.randrange(self._seen)) < self._most:
                self.texts[place] = text


def count_file(args):
    """(`Reference`, `Counts`, numbers of the labels counted, a sample of the texts) of --data_file."""
    from domain_classifier import SAMPLE

    problems, target, job = Problems(), None, None
    check_args(args, problems)
    with problems.collect():
        target = (BundleTarget if args.bundle else CheckpointTarget)(args, problems)
        check_reference(target.reference, target.folder, target.labels, target.decision)
    path = os.path.join(args.dataset_dir, args.data_file or "")
    job = check_files(path, None, problems, target and target.labels, tables=table_options(args))
    if args.max_auc is not None and not os.path.exists(os.path.join(args.dataset_dir, args.dev_file)):
        problems.add(
            tr(
                "--max_auc needs the texts of --dev_file: {dev_file} is not in {dataset_dir}",
                dev_file=args.dev_file,
                dataset_dir=args.dataset_dir,
            )
        )
    problems.stop_if_any()
    counts, sample, blank = Counts.none(len(target.labels)), Sample(SAMPLE, args.seed), 0
    for window in job.texts.windows(WINDOW):
        texts = [text for text in window.texts if text]
        blank += len(window.texts) - len(texts)
        if not texts:
            continue
        probabilities, tokens = target.predict(texts)
        calibrated = target.decision.calibrated(probabilities)
        counts.add_predictions(calibrated, target.decision.decide(probabilities, target.labels.parents))
        counts.add_tokens(*tokens)
        sample.add(texts)
    logger.info("%s: %d texts, %d rows without one", path, counts.rows, blank)
    if target.unread:
        logger.warning(unread_text(target.unread, target.long_texts))
    return target.reference, counts, list(range(len(target.labels))), sample.texts


def count_server(args):
    """(`Reference`, `Counts`, numbers of the labels counted one by one, no texts) of --metrics."""
    from text_cls.bundle import open_bundle

    problems = Problems()
    check_args(args, problems)
    problems.stop_if_any()
    bundle = open_bundle(args.bundle)
    reference = read_reference(args.bundle)
    check_reference(reference, args.bundle, bundle.labels, bundle.decision)
    version = bundle.digest[:VERSION_DIGITS]
    counts, known = server_counts(read_metrics(args.metrics), args.metrics, version, bundle.labels.names)
    if not counts.rows:
        raise UserError(
            tr("--metrics {metrics}: the server has counted no text with this bundle yet; wait", metrics=args.metrics)
        )
    logger.info("%s: %d texts since the server's start", args.metrics, counts.rows)
    return reference, counts, known, []


def domain_of(args, texts):
    """What `domain_classifier.tell_apart` finds between the texts of --dev_file and the new ones, or None."""
    path = os.path.join(args.dataset_dir, args.dev_file)
    if not texts or not os.path.exists(path):
        return None
    from domain_classifier import SAMPLE, tell_apart

    before = Sample(SAMPLE, args.seed)
    before.add(text for _, text in read_texts(path))
    return tell_apart(before.texts, texts, args.seed)


# ------------------------------------------------------------------------------------------------------------- report


def log_report(report):
    """Logs the figures of `drift_measures.compare`."""
    for name, title in (("without_label", tr("Rows without a label")), ("unknown_tokens", tr("Unknown tokens"))):
        values = report[name]
        line = tr(
            "{title}: {before:.2%} on dev, {after:.2%} now", title=title, before=values["before"], after=values["after"]
        )
        if "low" in values:
            line += tr(" (change {low:+.2f} to {high:+.2f} points)", low=100 * values["low"], high=100 * values["high"])
        logger.info(line)
    logger.info("Tokens per text: %.1f on dev, %.1f now", *report["tokens_per_text"].values())
    changed = [label for label in report["labels"] if label["changed"]]
    for label in changed[:LOGGED]:
        logger.info(
            "%s %s: %.2f%% of the rows on dev, %.2f%% now (change %+.2f to %+.2f points)",
            *(label["label"], tr("rises") if label["after"] > label["before"] else tr("falls")),
            *(100 * label[name] for name in ("before", "after", "low", "high")),
        )
    more = tr(", {count} of them not shown", count=len(changed) - LOGGED) if len(changed) > LOGGED else ""
    logger.info("%d of %d labels changed by more than chance%s", len(changed), len(report["labels"]), more)
    if report["not_compared"]:
        logger.info("%d labels are not compared: the server counts them together", report["not_compared"])
    if domain := report.get("domain"):
        # By which characters, the page and the report say: they are of the user's texts, which no log shows.
        form = tr("A linear model tells the texts from those of dev with an AUC of %.2f (0.5: guessing)")
        logger.info(form, domain["auc"])
    f1, low, high = (100 * value for value in report["f1"]["micro_f1"])
    form = tr(
        "Estimated micro F1: %.2f (%.2f to %.2f), on dev %.2f. It assumes that a score means what it meant on dev"
    )
    logger.info(form, f1, low, high, 100 * report["f1"]["reference"]["micro_f1"])


def beyond_limits(report):
    """Yields a sentence for each of report["limits"] that a figure is beyond, if it changed by more than chance."""
    without, unknown, domain = report["without_label"], report["unknown_tokens"], report.get("domain")
    drop, low, _ = (100 * value for value in report["f1"]["micro_f1_drop"])
    rise, rise_unknown = (100 * (each["after"] - each["before"]) for each in (without, unknown))
    figures = {
        "max_changed_labels": (report["changed_labels"], tr("labels changed"), True),
        "max_without_label": (rise, tr("points more rows without a label"), without["low"] > 0),
        "max_unknown_tokens": (rise_unknown, tr("points more unknown tokens"), True),
        "max_f1_drop": (drop, tr("points less micro F1, by estimate"), low > 0),
        "max_auc": (
            domain and domain["auc"],
            tr("is the AUC of telling the texts from dev"),
            domain and domain["low"] > 0.5,
        ),
    }
    for name, (value, what, beyond_chance) in figures.items():
        limit = report["limits"].get(name)
        if limit is not None and value is not None and beyond_chance and value > limit:
            yield tr(
                "--{name} {limit:g} is exceeded: {value:.4g} {what}", name=name, limit=limit, value=value, what=what
            )


@command
def main(argv=None):
    args = parse_args(argv)
    prepare_environment()
    if args.write_reference:
        with write_lock(args.bundle or args.params_path):
            write_reference(args)
        return 0
    reference, counts, known, texts = (count_server if args.metrics else count_file)(args)
    report = {"source": args.metrics or args.data_file, "reference_file": reference.file}
    report |= compare(reference, counts, known, args.seed)
    if domain := domain_of(args, texts):
        report["domain"] = domain
    log_report(report)
    report["limits"] = {name: value for name, value in vars(args).items() if name in LIMITS and value is not None}
    report["beyond"] = [] if report["too_few"] else list(beyond_limits(report))
    if report["too_few"]:
        rows = report["rows"]
        form = tr("%d rows of dev and %d texts: with fewer than %d, nothing can be said, and no limit is checked")
        logger.warning(form, rows["before"], rows["after"], FEWEST)
    for line in report["beyond"]:
        logger.warning(line)
    if args.report_file:
        write_json(args.report_file, report)
        logger.info("Report saved in %s", args.report_file)
    if args.html:
        from drift_page import write_drift_page

        write_drift_page(args.html, report)
        logger.info("Page saved in %s; open it in a browser", args.html)
    return BEYOND if report["beyond"] else 0


if __name__ == "__main__":
    sys.exit(main())
