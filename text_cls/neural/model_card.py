"""The text of a model card: what a model is, how good it was, how to use it, and what it does not do."""

import os
import re

from text_cls.decision import HIERARCHY, Decision
from text_cls.label_tree import split_path
from text_cls.rows import Labels

SCORES = {"micro_f1": "micro F1", "macro_f1": "macro F1", "accuracy": "accuracy"}
SCORES |= {f"tuned_{name}": f"{SCORES[name]}, fitted thresholds" for name in ("micro_f1", "macro_f1")}


def model_card(
    header: dict[str, str | list[str]],
    labels: Labels,
    decision: Decision,
    run: dict,
    max_seq_length: int,
    usage: str,
    notes: list[str],
) -> str:
    """A card in Markdown.

    Args:
        header: metadata in the words of Hugging Face's hub, without the language.
        run: contents of `run.json`; empty if there is none.
        usage: how to use the model, in Markdown.
        notes: further limits, as sentences.
    """
    levels = max(len(split_path(name)) for name in labels.names)
    what = f"{len(labels)} labels in {levels} levels" if labels.hierarchical else f"{len(labels)} labels"
    shown = ", ".join(f"`{name[:40]}`" for name in labels.names[:10]) + (", ..." if len(labels) > 10 else "")
    lines = [
        *_header({**_language(labels), **header}),
        f"# {'Hierarchical' if labels.hierarchical else 'Multi-label'} text classifier",
        "",
        f"It assigns a text a set of {what}: {shown} (all in `label.txt`). A text may get several labels, or none.",
        "",
        *_origin(run),
        f"- Input: at most {max_seq_length} tokens; what follows them is cut off.",
        "- Output: one logit per label, in the order of `label.txt`. The sigmoid of it is the label's probability.",
        f"- Decision, in `decision.json`: {_decision(decision)}.",
        "",
        "## Scores",
        "",
        *_scores(run),
        "",
        "## Use",
        "",
        usage,
        "",
        "## Limits",
        "",
        "- It knows these labels only, and was trained on texts of one kind. On other texts, measure first.",
        "- Probabilities are not calibrated unless the decision has a temperature.",
        *(f"- {note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"


def _header(fields):
    yield "---"
    for name, value in fields.items():
        if isinstance(value, str):
            yield f"{name}: {value}"
        else:
            yield f"{name}:"
            yield from (f"- {item}" for item in value)
    yield "---"
    yield ""


def _language(labels):
    """Texts are in the language of their labels, as far as one can tell: only Chinese is recognised."""
    return {"language": "zh"} if any(re.search("[\u4e00-\u9fff]", name) for name in labels.names) else {}


def _origin(run):
    """The model that it was fine-tuned from. Of a local folder, only the last part of the path is shown."""
    name = run.get("arguments", {}).get("model_name")
    if isinstance(name, str):
        is_path = name.startswith((".", "/", "~")) or os.path.isdir(name) or name.count("/") > 1 or "\\" in name
        shown = re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_path else name
        yield f"- Fine-tuned from: `{shown}`."


def _decision(decision):
    if isinstance(decision.threshold, tuple):
        low, high = min(decision.threshold), max(decision.threshold)
        parts = [f"a threshold per label, from {low:g} to {high:g}"]
    else:
        parts = [f"the threshold {decision.threshold:g}"]
    parts += [f"at least {decision.min_k} labels"] if decision.min_k else []
    parts += [f"at most {decision.max_k} labels"] if decision.max_k else []
    parts += [f"none of the labels if all are below {decision.none_below:g}"] if decision.none_below else []
    parts += [f"logits divided by the temperature {decision.temperature:g}"] if decision.temperature != 1 else []
    return "; ".join([*parts, f"{decision.hierarchy}: {HIERARCHY[decision.hierarchy]}"])


def _scores(run):
    """A table of the best evaluation during training."""
    metric = run.get("arguments", {}).get("metric_for_best")
    best = run.get("progress", {}).get("best_score")
    history = run.get("progress", {}).get("history", ())
    entry = next((entry for entry in history if best is not None and entry.get(metric) == best), {})
    found = {title: entry[name] for name, title in SCORES.items() if isinstance(entry.get(name), (int, float))}
    if not found:
        yield "None are recorded."
        return
    yield f"| {' | '.join(found)} |"
    yield f"|{' --- |' * len(found)}"
    yield f"| {' | '.join(f'{100 * value:.2f}' for value in found.values())} |"
    yield ""
    yield "In percent, on the dev rows. They chose this checkpoint, so expect a little less on new texts."
