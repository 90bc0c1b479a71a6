"""Show which words of a text speak for and against each label the model gave it, or missed.

    python analysis/word_interpret.py --device gpu --dataset_dir data --params_path ./checkpoint
    python analysis/word_interpret.py --device cpu --dataset_dir data --interpreter lime --max_rows 20
    python analysis/word_interpret.py --device cpu --dataset_dir data --interpret_input_file data.txt --max_rows 20

Texts come from bad_case.txt, which evaluate.py writes, or any file of text[<TAB>labels[<TAB>prediction]]; without the
third column the model predicts. The answer, in the data set's folder, is a page for people and a .jsonl for programs.
"""

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.cli import Problems, command, logger, non_negative_int, positive_int, progress_bar
from text_cls.files import atomic_write
from text_cls.neural.compat import prepare_environment
from text_cls.rows import read_cases
from utils import add_model_flags, keep_inputs, load_weights, open_model, probabilities_of
from word_interpret_page import write_evidence_page

SHOWN = 10  # rows in the log


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_model_flags(parser, batch_size=16, batch_help="changed copies at a time (%(default)s)")
    parser.add_argument("--seed", type=non_negative_int, default=3, help="of lime and grad (%(default)s)")
    parser.add_argument("--interpret_input_file", default="bad_case.txt", help="texts to explain (%(default)s)")
    parser.add_argument("--max_rows", type=positive_int, help="only so many, from the top (all)")
    parser.add_argument(
        "--interpreter",
        default="ig",
        choices=("ig", "lime", "grad"),
        help="integrated gradients, LIME or gradient SHAP (%(default)s)",
    )
    parser.add_argument("--key_words_num", type=positive_int, default=5, help="strongest words named (%(default)s)")
    parser.add_argument("--output_html", default="word_interpret.html", help="page, in dataset_dir (%(default)s)")
    parser.add_argument("--output_jsonl", default="word_interpret.jsonl", help="data, in dataset_dir (%(default)s)")
    return parser.parse_args(argv)


def interpret(args):
    """Explains the texts of `args`, which `parse_args` made.

    Returns:
        list of dicts, one for each text, of
        line, text, gold, predicted: its line, and lists of label names; gold is None where the file has none;
        read: characters before the model's input ends;
        spans: [(start, end)] of its words; steps: evaluations of the model it took;
        labels: list of {label, status, probability, logit, base_logit, error, attributions [words], key_words}. status
        is right, wrong or missed, or predicted without gold labels. Attributions and key words, [(word, attribution)],
        are in logits. LIME has no baseline, so that base_logit and error are None.
    """
    environment = prepare_environment()
    problems, cases = Problems(), []
    checkpoint, max_seq_length = open_model(args, problems)
    labels = checkpoint.labels
    with problems.collect():
        cases = read_cases(os.path.join(args.dataset_dir, args.interpret_input_file), labels, problems)
    if not cases:
        problems.add("evaluate.py writes the rows it finds wrong to bad_case.txt; other texts: --interpret_input_file")
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
    other = 0
    for case, chosen in zip(cases, decided):
        chosen = chosen.nonzero()[0].tolist()
        other += case.predicted not in (None, chosen)
        case.predicted = chosen if case.predicted is None else case.predicted
    if other:
        logger.warning("%d rows have another prediction than this model's; was the file made by another model?", other)

    explainer = Explainer(model, tokenizer, args.interpreter, max_seq_length, args.batch_size, args.seed)
    rows = []
    with progress_bar(len(cases), "row") as bar:
        for case, probability in zip(cases, shown):
            rows.append(_explain(case, explainer, labels, probability, checkpoint.decision.temperature, args))
            bar.update()
    return rows


def _explain(case, explainer, labels, probability, temperature, args):
    asked = sorted({*case.predicted, *(case.gold or ())})
    found = explainer.explain(case.text, asked)
    row = {
        "line": case.line,
        "text": case.text,
        "gold": None if case.gold is None else [labels.names[i] for i in case.gold],
        "predicted": [labels.names[i] for i in case.predicted],
        "read": len(case.text)
        if found.read == len(found.spans)
        else found.spans[found.read - 1][1]
        if found.read
        else 0,
        "spans": found.spans,
        "steps": found.steps,
        "labels": [],
    }
    complete = args.interpreter != "lime"
    # Divided like the logits that probabilities are made of; what adds up still does.
    logits, base, attributions = (x / temperature for x in (found.logits, found.base_logits, found.attributions))
    for k, label in enumerate(asked):
        row["labels"].append(
            {
                "label": labels.names[label],
                "status": _status(label, case),
                "probability": float(probability[label]),
                "logit": float(logits[k]),
                "base_logit": float(base[k]) if complete else None,
                "error": min(float(found.errors[k]), 1e9) if complete else None,
                "attributions": attributions[k].tolist(),
                "key_words": _key_words(case.text, found.spans, attributions[k], args.key_words_num),
            }
        )
    return row


def _status(label, case):
    if case.gold is None:
        return "predicted"
    if label not in case.predicted:
        return "missed"
    return "right" if label in case.gold else "wrong"


def _key_words(text, spans, attributions, count):
    """The words of greatest weight for or against a label: [(word, weight)]."""
    order = sorted(range(len(spans)), key=lambda i: -abs(attributions[i]))[:count]
    return [(text[slice(*spans[i])], float(attributions[i])) for i in order if attributions[i]]


def write_jsonl(path, rows, method):
    """One line for each text and label, with every word's place in the text and its attribution."""
    with atomic_write(path) as file:
        for row in rows:
            for entry in row["labels"]:
                words = [
                    {"word": row["text"][start:end], "start": start, "end": end, "attribution": value}
                    for (start, end), value in zip(row["spans"], entry["attributions"])
                ]
                record = {name: row[name] for name in ("line", "text", "gold", "predicted", "read", "steps")}
                record |= {"method": method, **entry, "words": words}
                del record["attributions"]
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def log_rows(rows):
    for row in rows[:SHOWN]:
        logger.info("text: %s", row["text"])
        for entry in row["labels"]:
            words = ", ".join(f"{word} {value:+.2f}" for word, value in entry["key_words"])
            logger.info("%s %s (%.3f): %s", entry["status"], entry["label"], entry["probability"], words)
        logger.info("-" * 28)
    bare = sum(not row["labels"] for row in rows)
    if bare:
        logger.info("%d rows have no label, neither predicted nor gold, and so no evidence", bare)
    cut = sum(row["read"] < len(row["text"]) for row in rows)
    if cut:
        logger.info("%d texts are longer than the model reads; words behind its end have no evidence", cut)


def log_errors(rows, tolerance):
    """Where attributions do not add up to what they explain. Gradient SHAP samples, so that its sums are rough."""
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
        logger.warning("Not for line %d, label %s, and %d more; read these with care", *missed[0], len(missed) - 1)


def write(args, rows):
    """Writes both files, for what `interpret(args)` gave. Returns their paths: page, data."""
    from attribution import METHODS, TOLERANCE

    page, data = (os.path.join(args.dataset_dir, name) for name in (args.output_html, args.output_jsonl))
    write_jsonl(data, rows, args.interpreter)
    write_evidence_page(page, rows, METHODS[args.interpreter], TOLERANCE)
    return page, data


@command
def main(argv=None):
    args = parse_args(argv)
    rows = interpret(args)
    from attribution import TOLERANCE

    log_rows(rows)
    log_errors(rows, TOLERANCE)
    logger.info("Evidence of %d texts saved in %s and %s", len(rows), *write(args, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
