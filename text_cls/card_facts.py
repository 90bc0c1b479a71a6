"""What a model card reports: gathered during training, recorded as "card" in `run.json` and `manifest.json`.

Only numbers, names of labels and names of files: no text of a row gets into an artefact.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

import numpy as np

from text_cls.batching import Encoded
from text_cls.cross_fitting import intervals
from text_cls.decision import HIERARCHY, Decision
from text_cls.language import tr
from text_cls.rows import Labels, Rows
from text_cls.schema import ANY, NUMBER, TEXT, fields, list_of, map_of, or_null, whole
from text_cls.scores import scores

FEW = 10  # training rows of a label; with fewer, its scores are little more than chance
SHOWN = 20  # labels with the fewest rows
SAMPLE = 2000  # texts whose letters are counted
# Arguments that say nothing about the model (where files are, what is logged), or that the card shows elsewhere.
NOT_SHOWN = {
    *("dataset_dir", "data_dir", "train_file", "dev_file", "test_file", "label_file", "train_set_file", "corpus_file"),
    *("similar_text_pair_file", "model_name", "model_name_or_path", "save_dir", "output_dir", "params_dir", "config"),
    *("resume", "resume_from_checkpoint", "save_minutes", "logging_steps", "log_steps", "num_workers", "visualdl_dir"),
    *("teacher", "unlabelled", "soft_labels", "teacher_weight", "teacher_cache"),
    *("tracker", "tracker_dir", "do_train", "do_eval", "do_predict", "do_export", "export_type", "skip_blank"),
    *("recall_result_dir", "recall_result_file", "evaluate_result", "hnsw_m", "hnsw_ef", "hnsw_max_elements"),
}

_ROWS = fields({"file": TEXT, "rows": whole(0)}, {"sha256": TEXT, "tokens": NUMBER, "cut": NUMBER})
CARD = fields(
    {},
    {
        "base_model": TEXT,
        "script": TEXT,
        "changed": map_of(ANY),
        "data": map_of(_ROWS),
        "files": map_of(TEXT),
        "writing": map_of(NUMBER),
        "few": fields({"below": whole(0), "none": whole(0), "fewest": map_of(whole(0))}),
        "scores": map_of(map_of(list_of(NUMBER, least=1))),
        "decided": TEXT,
        "seconds": NUMBER,
        "packages": map_of(TEXT),
        "python": TEXT,
        "commit": or_null(TEXT),
        "teacher": fields({"name": TEXT, "weight": NUMBER, "rows": whole(0), "texts": whole(0)}),
        "pruned": fields({"width": NUMBER, "changed": map_of(ANY)}),
    },
)


def describe_data(labels: Labels, rows: dict[str, Rows], tokens: dict[str, Encoded], files: dict[str, str]) -> dict:
    """The facts about the rows of a training.

    Args:
        rows, tokens: {"train", "dev", ...: labelled rows, and their tokens}.
        files: {split: name of its file}; the folder in front of a name is left out.
    """
    data = {}
    for split, part in rows.items():
        encoded = tokens[split]
        data[split] = {
            "file": os.path.basename(files[split]),
            "rows": len(part),
            "tokens": round(float(encoded.lengths.mean()), 1) if len(encoded) else 0.0,
            "cut": round(encoded.truncated / max(1, len(encoded)), 4),
        }
    train = rows["train"]
    support = train.support(len(labels))
    fewest = [i for i in np.argsort(support, kind="stable")[:SHOWN] if support[i] < FEW]
    few = {
        "below": int((support < FEW).sum()),
        "none": int((support == 0).sum()),
        "fewest": {labels.names[i]: int(support[i]) for i in fewest},
    }
    step = -(-len(train) // SAMPLE) or 1
    return {"data": data, "writing": writing(train.texts[i] for i in range(0, len(train), step)), "few": few}


def writing(texts: Iterable[str]) -> dict[str, float]:
    """{writing system: share of the letters}, the largest first; those below 1 percent are left out.

    The names are the first words of Unicode's names of the letters: CJK (Chinese characters), LATIN, HIRAGANA ...
    """
    counts = Counter()
    for text in texts:
        counts.update(text)
    systems = Counter()
    for character, count in counts.items():
        if character.isalpha():
            systems[unicodedata.name(character, "OTHER").split()[0]] += count
    total = systems.total()
    return {name: round(count / total, 2) for name, count in systems.most_common() if count >= 0.01 * total}


def describe_scores(gold: np.ndarray, predicted: np.ndarray, seed: int) -> dict[str, list[float]]:
    """{"micro_f1", "macro_f1", "accuracy": [score, low, high]} with 95 percent intervals, each from 0 to 1.

    Args:
        gold, predicted: bool arrays [rows, labels].
    """
    found, around = scores(gold, predicted), intervals(gold, predicted, seed)
    return {name: [round(value, 5) for value in (found[name], *around[name])] for name in found}


def changed_arguments(arguments: dict, defaults: dict) -> dict:
    """{name: value} of the arguments that differ from the defaults. Of a path, only the last part is shown."""
    return {
        name: _shown(value)
        for name, value in arguments.items()
        if name not in NOT_SHOWN and name in defaults and value != defaults[name]
    }


def _shown(value):
    """An argument's value in JSON."""
    if isinstance(value, (list, tuple)):
        return [_shown(item) for item in value]
    if isinstance(value, (bool, int, float)):
        return value
    return last_part(str(value))


def last_part(name: str) -> str:
    """The last part of a path; any other text, such as a model's name on Hugging Face, as it is."""
    is_path = name.startswith((".", "/", "~")) or os.path.isdir(name) or name.count("/") > 1 or "\\" in name
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_path else name


def in_words(decision: Decision) -> str:
    """A decision as the end of a sentence."""
    if isinstance(decision.threshold, tuple):
        low, high = min(decision.threshold), max(decision.threshold)
        parts = [f"a threshold per label, from {low:g} to {high:g}"]
    else:
        parts = [f"the threshold {decision.threshold:g}"]
    least, most = decision.min_k, decision.max_k
    parts += [f"at least {least} label{'s' * (least > 1)}"] if least else []
    parts += [f"at most {most} label{'s' * (most > 1)}"] if most else []
    parts += [f"none of the labels if all are below {decision.none_below:g}"] if decision.none_below else []
    parts += [f"logits divided by the temperature {decision.temperature:g}"] if decision.temperature != 1 else []
    return "; ".join([*parts, f"{decision.hierarchy}: {tr(HIERARCHY[decision.hierarchy])}"])


def facts_of(run: dict) -> dict:
    """The facts for the card of a model, an object that `CARD` accepts.

    run: contents of `run.json`; empty if there is none. Older versions recorded less, and the card then says "unknown".
    """
    arguments, recorded = run.get("arguments", {}), run.get("card", {})
    facts = {name: run[name] for name in ("packages", "python", "commit") if run.get(name)}
    base = arguments.get("model_name", arguments.get("model_name_or_path"))
    if isinstance(base, str):
        facts["base_model"] = last_part(base)
    facts["files"] = {os.path.basename(name): digest for name, digest in run.get("data", {}).items()}
    facts["scores"] = {"dev": found} if (found := _best_scores(run)) else {}
    return {**facts, **recorded}


def _best_scores(run):
    """{name: [score]} of the evaluation that chose a checkpoint of an older version."""
    progress = run.get("progress", {})
    metric, best = run.get("arguments", {}).get("metric_for_best"), progress.get("best_score")
    entry = next((e for e in progress.get("history", ()) if best is not None and e.get(metric) == best), {})
    names = [prefix + name for prefix in ("", "tuned_") for name in ("micro_f1", "macro_f1", "accuracy")]
    return {name: [entry[name]] for name in names if isinstance(entry.get(name), (int, float))}
