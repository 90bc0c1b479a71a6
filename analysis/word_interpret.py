"""Show which words of a text support or oppose each label that the model predicted or missed.

    python analysis/word_interpret.py --device gpu --dataset_dir data --params_path ./checkpoint
    python analysis/word_interpret.py --device cpu --dataset_dir data --interpreter lime --max_rows 20
    python analysis/word_interpret.py --device cpu --dataset_dir data --interpret_input_file data.txt --max_rows 20

Reads bad_case.txt, which evaluate.py writes, or any file of text[<TAB>labels[<TAB>prediction]]; without the third
column the model predicts. Writes an HTML page and a .jsonl file to --dataset_dir.
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, command, logger, non_negative_int, positive_int
from text_cls.files import atomic_write
from text_cls.language import N_, tr
from text_cls.neural.compat import prepare_environment
from text_cls.rows import read_cases
from text_cls.terminal import progress_bar
from utils import add_model_flags, keep_inputs, load_weights, open_model, probabilities_of
from word_interpret_page import write_interpretation_page

SHOWN, LONGEST_SHOWN = 10, 600  # rows in the log, and characters of their texts


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_model_flags(parser, batch_size=16, batch_help=tr("changed copies of a text at a time (%(default)s)"))
    parser.add_argument("--seed", type=non_negative_int, default=3, help="random seed for lime and grad (%(default)s)")
    parser.add_argument("--interpret_input_file", default="bad_case.txt", help="texts to explain (%(default)s)")
    parser.add_argument("--max_rows", type=positive_int, help="maximum number of texts, from the top (all)")
    parser.add_argument(
        "--interpreter",
        default="ig",
        choices=("ig", "lime", "grad"),
        help="integrated gradients, LIME or gradient SHAP (%(default)s)",
    )
    parser.add_argument(
        "--key_words_num", type=positive_int, default=5, help="number of strongest words to list (%(default)s)"
    )
    parser.add_argument("--output_html", default="word_interpret.html", help="HTML page, in dataset_dir (%(default)s)")
    parser.add_argument(
        "--output_jsonl", default="word_interpret.jsonl", help="JSON lines, in dataset_dir (%(default)s)"
    )
    return parser.parse_args(argv)


def interpret(args):
    """Explains the texts of the input file. args: from `parse_args`.

    Returns:
        list of dicts, one per text, with the keys
        line, text, gold, predicted: line number, text, and lists of label names; gold is None if the file has none;
        read: number of characters that the model reads; unread: [start, end] of the others, or None;
        spans: [(start, end)] of the words; steps: evaluations of the model;
        labels: list of {label, status, probability, logit, base_logit, error, attributions [words], key_words}. status
        is right, wrong or missed, or predicted without gold labels. Attributions and key words, [(word, attribution)],
        are in logits. base_logit and error are None for LIME, which has no baseline. For a text that is read in
        windows, also passage, [start, end] of the window that decided the label; then logits are those of that window.
    """
    environment = prepare_environment()
    problems, cases = Problems(), []
    checkpoint, max_seq_length = open_model(args, problems, "gradients")
    labels = checkpoint.labels
    with problems.collect():
        cases = read_cases(os.path.join(args.dataset_dir, args.interpret_input_file), labels, problems)
    if not cases:
        problems.add(
            tr("run evaluate.py, which writes wrong rows to bad_case.txt, or name a file: --interpret_input_file")
        )
    outputs = {"--output_html": args.output_html, "--output_jsonl": args.output_jsonl}
    keep_inputs(args.dataset_dir, (args.interpret_input_file, args.label_file), outputs, problems)
    problems.stop_if_any()
    cases = cases[: args.max_rows]
    load_weights(checkpoint, args.device, environment)
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    from attribution import Explainer

    texts = [case.text for case in cases]
    probabilities = probabilities_of(checkpoint, texts, max_seq_length, args.batch_size)
    decided = checkpoint.decision.decide(probabilities, labels.parents)
    shown = checkpoint.decision.calibrated(probabilities)
    differing = 0
    for case, chosen in zip(cases, decided):
        chosen = chosen.nonzero()[0].tolist()
        differing += case.predicted not in (None, chosen)
        case.predicted = chosen if case.predicted is None else case.predicted
    if differing:
        logger.warning(
            "%d rows have a prediction that differs from this model's; is the file from another model?", differing
        )

    how = checkpoint.long_texts
    explainer = Explainer(model, tokenizer, args.interpreter, max_seq_length, args.batch_size, args.seed, how)
    rows = []
    with progress_bar(len(cases), N_("rows")) as bar:
        for case, probability in zip(cases, shown):
            rows.append(_explain(case, explainer, labels, probability, checkpoint.decision.temperature, args))
            bar.update()
    return rows


def _explain(case, explainer, labels, probability, temperature, args):
    label_ids = sorted({*case.predicted, *(case.gold or ())})
    found = explainer.explain(case.text, label_ids)
    unread = _characters_unread(case.text, found)
    row = {
        "line": case.line,
        "text": case.text,
        "gold": None if case.gold is None else [labels.names[i] for i in case.gold],
        "predicted": [labels.names[i] for i in case.predicted],
        "read": len(case.text) - (unread[1] - unread[0] if unread else 0),
        "unread": unread,
        "spans": found.spans,
        "steps": found.steps,
        "labels": [],
    }
    complete = args.interpreter != "lime"
    # Divided by the temperature, like the logits of the probabilities; sums stay equal.
    logits, base, attributions = (x / temperature for x in (found.logits, found.base_logits, found.values))
    for k, label in enumerate(label_ids):
        row["labels"].append(
            {
                "label": labels.names[label],
                "status": _status(label, case),
                **({} if found.passages is None else {"passage": found.passages[k].tolist()}),
                "probability": float(probability[label]),
                "logit": float(logits[k]),
                "base_logit": float(base[k]) if complete else None,
                "error": min(float(found.errors[k]), 1e9) if complete else None,
                "attributions": attributions[k].tolist(),
                "key_words": _key_words(case.text, found.spans, attributions[k], args.key_words_num),
            }
        )
    return row


def _characters_unread(text, found):
    """[start, end] of the characters that the model does not read, or None."""
    if found.unread is None:
        return None
    first, end = found.unread
    return [found.spans[first - 1][1] if first else 0, found.spans[end][0] if end < len(found.spans) else len(text)]


def _status(label, case):
    if case.gold is None:
        return "predicted"
    if label not in case.predicted:
        return "missed"
    return "right" if label in case.gold else "wrong"


def _key_words(text, spans, attributions, count):
    """The words with the strongest attributions: [(word, attribution)]."""
    order = sorted(range(len(spans)), key=lambda i: -abs(attributions[i]))[:count]
    return [(text[slice(*spans[i])], float(attributions[i])) for i in order if attributions[i]]


def write_jsonl(path, rows, method):
    """Writes a line per text and label, with the position and attribution of every word."""
    with atomic_write(path) as file:
        for row in rows:
            for entry in row["labels"]:
                words = [
                    {"word": row["text"][start:end], "start": start, "end": end, "attribution": value}
                    for (start, end), value in zip(row["spans"], entry["attributions"])
                ]
                record = {name: row[name] for name in ("line", "text", "gold", "predicted", "read", "steps")}
                if row["unread"] and row["unread"][1] < len(row["text"]):  # else it is the text's end
                    record["unread"] = row["unread"]
                record |= {"method": method, **entry, "words": words}
                del record["attributions"]
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def log_rows(rows):
    for row in rows[:SHOWN]:
        text = row["text"]
        logger.info("text: %s", text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} ...")
        for entry in row["labels"]:
            words = ", ".join(f"{word} {value:+.2f}" for word, value in entry["key_words"])
            place = tr("characters {} to {}: ").format(*entry["passage"]) if "passage" in entry else ""
            logger.info("%s %s (%.3f): %s%s", entry["status"], entry["label"], entry["probability"], place, words)
        logger.info("-" * 28)
    empty = sum(not row["labels"] for row in rows)
    if empty:
        logger.info("%d rows have neither predicted nor gold labels, so nothing to explain", empty)
    cut = sum(row["unread"] is not None for row in rows)
    if cut:
        logger.info("%d texts exceed the maximum length; the words that are not read have no attribution", cut)


def log_errors(rows, tolerance):
    """Logs for how many labels the attributions add up. Gradient SHAP samples, so its sums are inexact."""
    entries = [(row, entry) for row in rows for entry in row["labels"] if entry["error"] is not None]
    missed = [(row["line"], entry["label"]) for row, entry in entries if entry["error"] > tolerance]
    if entries:
        logger.info(
            "Attributions add up to the logit difference within %.0f%% for %d of %d labels",
            100 * tolerance,
            len(entries) - len(missed),
            len(entries),
        )
    if missed:
        logger.warning("Not for line %d, label %s, and %d more; these are less reliable", *missed[0], len(missed) - 1)


def write(args, rows):
    """Writes both files. rows: from `interpret(args)`. Returns their paths: page, data."""
    from attribution import METHODS, TOLERANCE

    page, data = (os.path.join(args.dataset_dir, name) for name in (args.output_html, args.output_jsonl))
    write_jsonl(data, rows, args.interpreter)
    write_interpretation_page(page, rows, tr(METHODS[args.interpreter]), TOLERANCE)
    return page, data


@command
def main(argv=None):
    args = parse_args(argv)
    rows = interpret(args)
    from attribution import TOLERANCE

    log_rows(rows)
    log_errors(rows, TOLERANCE)
    logger.info("Attributions of %d texts saved in %s and %s", len(rows), *write(args, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
