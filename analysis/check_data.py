"""Check a data set before training: its problems, and what a simple model reaches on it. Needs no GPU.

    python analysis/check_data.py --dataset_dir data
    python analysis/check_data.py --dataset_dir data --tokenizer ./checkpoint --max_seq_length 64 128 --output_dir out

Prints findings with remedies, the most serious first, and writes report.html (open it in a browser) and report.json.
Exits with status 2 if train.py would reject the files.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command, logger, non_negative_int, positive_int
from text_cls.files import write_json
from text_cls.language import tr
from text_cls.neural.compat import import_paddle
from text_cls.rows import Labels, read_labels, read_rows

PROBLEMS_KEPT = 1000  # in the reports; the log shows the first 20


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of the files below (required)")
    parser.add_argument("--train_file", default="train.txt", help="rows to train on (%(default)s)")
    parser.add_argument("--dev_file", default="dev.txt", help="rows to evaluate on (%(default)s)")
    parser.add_argument("--test_file", default="test.txt", help="more labelled rows, if it exists (%(default)s)")
    parser.add_argument("--label_file", default="label.txt", help="all labels (%(default)s)")
    parser.add_argument(
        "--tokenizer",
        help="checkpoint, bundle, or model folder or name; for exact lengths and unknown characters (none: estimate)",
    )
    parser.add_argument(
        "--max_seq_length",
        type=positive_int,
        nargs="+",
        default=[64, 128, 256, 512],
        help="lengths to report the share of cut texts for (64 128 256 512)",
    )
    parser.add_argument("--output_dir", help="folder of report.html and report.json (dataset_dir)")
    parser.add_argument(
        "--no_baseline", action="store_true", help="skip the linear baseline, which takes most of the time (off)"
    )
    parser.add_argument(
        "--seed", type=non_negative_int, default=3, help="random seed for folds and samples (%(default)s)"
    )
    return parser.parse_args(argv)


def read_dataset(args, problems):
    """Labels and {split: Rows} of all that can be read; the rest goes to `problems`."""
    label_path = os.path.join(args.dataset_dir, args.label_file)
    paths = {s: os.path.join(args.dataset_dir, getattr(args, f"{s}_file")) for s in ("train", "dev", "test")}
    labels = Labels([])
    with problems.collect():
        labels = read_labels(label_path, problems)
    if not len(labels):  # continue with the labels that the rows name
        from split import labels_of_rows

        with Problems().collect():  # an unreadable file is reported below
            labels = labels_of_rows(paths["train"], problems)
    splits = {}
    for split, path in paths.items():
        if split == "test" and not os.path.exists(path):
            continue
        with problems.collect():
            rows = read_rows(path, labels, problems)
            if len(rows):
                splits[split] = rows
    return labels, splits


def open_tokenizer(name):
    """The tokenizer of a folder, or of a model name, which PaddleNLP downloads if necessary."""
    from text_cls.tokenization import load_tokenizer

    try:
        if os.path.isdir(name):
            return load_tokenizer(name)
        import_paddle()
        from paddlenlp.transformers import AutoTokenizer

        with tempfile.TemporaryDirectory() as folder:
            AutoTokenizer.from_pretrained(name).save_pretrained(folder)
            return load_tokenizer(folder)
    except (UserError, OSError, RuntimeError, ValueError, TypeError) as error:
        reason = (str(error.__context__ or error).strip() or repr(error)).splitlines()[0]
        raise UserError(
            tr(
                "--tokenizer {name}: {reason}. Name the folder of a checkpoint, bundle or model",
                name=name,
                reason=reason,
            )
        ) from error


def examine(args, labels, splits, tokenizer):
    """({section: figures}, all findings, {split: lengths of the texts})."""
    import label_checks
    import model_checks
    import row_checks
    from findings import SEVERITIES

    report, findings = {}, []

    def add(section, outcome):
        report[section] = outcome[0]
        findings.extend(outcome[1])

    add("files", row_checks.check_files(splits))
    add("duplicates", row_checks.check_duplicates(splits))
    add("remains", row_checks.check_characters(splits))
    add("labels", label_checks.check_labels(splits, labels))
    unit = tr("tokens of {tokenizer}", tokenizer=args.tokenizer)
    if tokenizer:
        *outcome, lengths = model_checks.check_vocabulary(splits, tokenizer, args.tokenizer)
        add("vocabulary", outcome)
    else:
        unit = tr("tokens, estimated")
        lengths = {split: model_checks.estimated_lengths(rows.texts) for split, rows in splits.items()}
    add("lengths", model_checks.check_lengths(lengths, unit, args.max_seq_length, estimated=tokenizer is None))
    train, dev = splits.get("train"), splits.get("dev")
    if train is not None and dev is not None:
        add("similarity", model_checks.check_similarity(train, dev, labels, args.seed))
    if train is not None and len(labels) and not args.no_baseline and len(set(train.texts)) > 1:
        logger.info("Training the linear baseline, and again on parts of train to fit thresholds on unseen rows")
        add("baseline", model_checks.check_baseline(train, dev, labels, args.seed))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return report, findings, lengths


def log_findings(problems, findings):
    logger.info("-----Findings, the most serious first-----")
    for message in problems.messages[: Problems.SHOWN]:
        logger.error("%s", message)
    if problems.count > Problems.SHOWN:
        logger.error("... and %d more, see the report", problems.count - Problems.SHOWN)
    for finding in findings:
        log = logger.warning if finding.severity == "warning" else logger.info
        log("%s", finding.what)
        for example in finding.examples[: finding.logged]:
            log("    %s", example)
        log("    -> %s", finding.remedy)


@command
def main(argv=None):
    args, started = parse_args(argv), time.perf_counter()
    folder = args.output_dir or args.dataset_dir
    if not os.path.isdir(args.dataset_dir):
        raise UserError(tr("--dataset_dir {dataset_dir}: no such folder", dataset_dir=args.dataset_dir))
    problems = Problems()
    problems.SHOWN = PROBLEMS_KEPT
    tokenizer = open_tokenizer(args.tokenizer) if args.tokenizer else None
    labels, splits = read_dataset(args, problems)
    paths = [os.path.join(folder, name) for name in ("report.html", "report.json")]
    write_json(paths[1], {"problems": problems.messages})  # fails now, not at the end, if the folder is not writable

    from check_data_page import write_report
    from findings import counted
    from text_cls.neural.run_file import versions

    report, findings, lengths = examine(args, labels, splits, tokenizer)
    log_findings(problems, findings)
    head = {
        "dataset": args.dataset_dir,
        "problems": {"count": problems.count, "messages": problems.messages},
        "findings": [asdict(finding) for finding in findings],
    }
    seconds = round(time.perf_counter() - started, 1)
    report = {**head, **report, "seconds": seconds, "packages": versions(("scikit-learn", "numpy"))}
    write_json(paths[1], report)
    write_report(paths[0], report, lengths)
    logger.info(
        "%s, %s; report saved in %s and %s",
        counted(problems.count, "error"),
        counted(sum(finding.severity == "warning" for finding in findings), "warning"),
        *paths,
    )
    return 2 if problems.count else 0


if __name__ == "__main__":
    sys.exit(main())
