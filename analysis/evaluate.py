"""Score a checkpoint on labelled rows, per class, and write the rows it gets wrong.

    python analysis/evaluate.py --device gpu --dataset_dir data --params_path ./checkpoint
    python analysis/evaluate.py --device cpu --dataset_dir data --dev_file test.txt --report_file report.json
    python analysis/evaluate.py --device cpu --dataset_dir data --html report.html

Writes the wrong rows to bad_case.txt in --dataset_dir: text, labels and prediction, separated by tabs.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, command, logger
from text_cls.files import atomic_write, write_json
from text_cls.language import tr
from text_cls.long_texts import unread_text
from text_cls.neural.compat import prepare_environment
from text_cls.rows import format_row, read_rows
from utils import add_model_flags, keep_inputs, load_weights, log_rows, open_model, predict_texts


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_model_flags(parser)
    parser.add_argument("--dev_file", default="dev.txt", help="any file of labelled rows (%(default)s)")
    parser.add_argument(
        "--bad_case_file", default="bad_case.txt", help="file for wrong rows, in dataset_dir (%(default)s)"
    )
    parser.add_argument("--report_file", help="JSON file for all figures (none)")
    parser.add_argument("--html", help="HTML page with plots and bad cases (none)")
    return parser.parse_args(argv)


def percent(ratios, form):
    return form.format(*(100 * ratios[name] for name in ("precision", "recall", "f1")))


def log_report(report, names):
    """Logs the guide's lines in the guide's order, with ratios in percent."""
    form = tr("precision: {:.2f} | recall: {:.2f} | F1 score {:.2f}")
    logger.info("-----Evaluate model-------")
    logger.info("Dev dataset size: %d", report["rows"])
    logger.info("Accuracy in dev dataset: %.2f%%", 100 * report["accuracy"])
    logger.info("Macro avg in dev dataset: %s", percent(report["macro"], form))
    logger.info("Micro avg in dev dataset: %s", percent(report["micro"], form))
    for level in report.get("levels", ()):
        logger.info(
            "Level %d Label Performance: Macro F1 score: %.2f | Micro F1 score: %.2f | Accuracy: %.2f",
            level["level"],
            100 * level["macro"]["f1"],
            100 * level["micro"]["f1"],
            100 * level["accuracy"],
        )
    for name, scores in zip(names, report["per_class"]):
        share = 100 * scores["support"] / max(1, report["rows"])
        logger.info("Class name: %s", name)
        logger.info(
            "Evaluation examples in dev dataset: %d(%.1f%%) | %s", scores["support"], share, percent(scores, form)
        )
        logger.info("-" * 28)
    if "paths" in report:
        log_hierarchy(report, form)


def log_hierarchy(report, form):
    """Logs figures of a hierarchy that are not in the guide."""
    paths, rows = report["paths"], report["inconsistent_rows"]
    logger.info("Hierarchical avg in dev dataset: %s", percent(report["hierarchical"], form))
    logger.info("Complete paths in dev dataset: %s", percent(paths, form))
    forms = {
        "missed": tr("%d missed paths, on average %.2f edges from the nearest predicted one"),
        "wrong": tr("%d wrong paths, on average %.2f edges from the nearest gold one"),
    }
    for kind, template in forms.items():
        distances = paths[kind]["distances"].items()
        counted = [tr("{count} at {edges}", count=count, edges=edges) for edges, count in distances]
        ending = tr(": ") + tr(", ").join(counted) if counted else ""
        logger.info(template + "%s", paths[kind]["count"], paths[kind]["mean"], ending)
    logger.info(
        "Rows with a label whose parent is missing: %d by thresholds only, %d as decided",
        rows["by_thresholds"],
        rows["as_decided"],
    )


def write_bad_cases(path, rows, gold, predicted, labels):
    with atomic_write(path) as file:
        file.write(format_row("Text", "Label", "Prediction"))
        for i in (gold != predicted).any(axis=1).nonzero()[0]:
            file.write(format_row(rows.texts[i], labels.join(gold[i]), labels.join(predicted[i])))


@command
def main(argv=None):
    args = parse_args(argv)
    environment = prepare_environment()
    from metric import classification_report, inconsistent_rows, path_report

    problems = Problems()
    checkpoint, max_seq_length = open_model(args, problems)
    labels = checkpoint.labels
    elsewhere = {"report_file": args.report_file, "html": args.html}
    for path in filter(None, elsewhere.values()):
        if os.path.isdir(path):
            problems.add(tr("{path} is a folder; name a file", path=path))
    with problems.collect():
        rows = read_rows(os.path.join(args.dataset_dir, args.dev_file), labels, problems)
    outputs = {"--bad_case_file": args.bad_case_file}
    outputs |= {f"--{name}": os.path.abspath(path) for name, path in elsewhere.items() if path}
    keep_inputs(args.dataset_dir, (args.dev_file, args.label_file), outputs, problems)
    problems.stop_if_any()
    log_rows(rows)
    load_weights(checkpoint, args.device, environment)

    probabilities, passages, unread, _ = predict_texts(
        checkpoint, rows.texts, max_seq_length, args.batch_size, with_passages=args.html is not None
    )
    if unread:
        logger.warning(unread_text(unread, checkpoint.long_texts))
    gold = rows.multi_hot(len(labels))
    predicted = checkpoint.decision.decide(probabilities, labels.parents)
    report = classification_report(gold, predicted, labels.parents)
    if labels.hierarchical:
        sets = {"by_thresholds": checkpoint.decision.passed(probabilities), "as_decided": predicted}
        report["paths"] = path_report(gold, predicted, labels.parents)
        report["inconsistent_rows"] = {name: inconsistent_rows(chosen, labels.parents) for name, chosen in sets.items()}
    log_report(report, labels.names)

    bad_case_path = os.path.join(args.dataset_dir, args.bad_case_file)
    write_bad_cases(bad_case_path, rows, gold, predicted, labels)
    logger.info("Bad case in dev dataset saved in %s", bad_case_path)
    if args.report_file:
        per_class = [{"label": name, **scores} for name, scores in zip(labels.names, report["per_class"])]
        write_json(args.report_file, {"file": rows.path, **report, "per_class": per_class})
        logger.info("Report saved in %s", args.report_file)
    if args.html:
        from evaluation_page import write_evaluation_page

        source = tr("{path}, predicted by the model in {params_path}", path=rows.path, params_path=args.params_path)
        shown = checkpoint.decision.calibrated(probabilities)
        write_evaluation_page(
            args.html, source, rows, labels, shown, gold, predicted, report, passages, checkpoint.decision
        )
        logger.info("Page saved in %s; open it in a browser", args.html)
    return 0


if __name__ == "__main__":
    sys.exit(main())
