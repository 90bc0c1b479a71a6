"""What is wrong with a data set, or worth knowing of it, before anyone trains: figures, and findings with a remedy.

Each check takes rows that are in memory and gives (figures, findings); the figures are as they stand in `report.json`.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from metric import classification_report
from near_duplicates import near_duplicates, normal
from text_cls.label_tree import SEPARATOR
from text_cls.thresholds import fit_thresholds

SEVERITIES = ("warning", "note")  # it costs F1, or flatters it; worth knowing
EXAMPLES, TEXT_SHOWN = 5, 80
RARE = 10  # training rows, below which a label is hardly learnt
TOGETHER = 5  # rows, from which two labels that always stand together do so for a reason
ALIKE, STRANGE = 0.6, 0.75  # AUC of telling dev from train
SAMPLE = 3000  # rows of each file for that
CELLS = 4_000_000  # rows x labels of the baseline: some minutes; of larger sets it takes a sample
COMMON_LIMIT = 512  # tokens that most models take
FOLDS = 3  # of the baseline; five would take half as long again
ODDITIES = (
    (
        r'\A"(?:[^"]|"")*"\Z',
        "wrapped in double quotes, inner ones doubled, left over from a CSV file",
        "Read the CSV file with a CSV reader (Python's csv module), which removes them; new texts will not have them",
    ),
    (
        "\ufffd",
        "the character U+FFFD, since characters were lost when the file was converted",
        "Convert the file anew from its source, in the source's own encoding",
    ),
    (
        r"(?i)&(?:[a-z]{2,8}|#\d+);|</?[a-z][^<>]{0,80}>",
        "HTML tags or entities",
        "Take them out, from new texts too: they cost length and tell nothing",
    ),
    (
        r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u200e\u200f\u2028\u2029\ufeff]",
        "control or zero-width characters",
        "Take them out; two texts can look the same and be different",
    ),
)


@dataclass
class Finding:
    """what: a plain sentence. remedy: what to do. examples: places or names, a few."""

    severity: str
    what: str
    remedy: str
    examples: list = field(default_factory=list)


def place(rows, i):
    """A row as people find it: file, line, and the beginning of its text."""
    text = rows.texts[i]
    return f"{_name(rows)}:{rows.lines[i]}: {text[:TEXT_SHOWN]}{'...' if len(text) > TEXT_SHOWN else ''}"


def _many(count, noun):
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _name(rows):
    return re.split(r"[/\\]", rows.path)[-1]


def _shown(names):
    return [*names[:EXAMPLES], *([f"and {len(names) - EXAMPLES} more"] if len(names) > EXAMPLES else [])]


def _percent(part, whole):
    return f"{part / max(1, whole):.1%}"


# -------------------------------------------------------------------------------------------------------------- files


def check_files(splits):
    """Sizes of each file. splits: {"train", "dev", "test": Rows}, as in all checks."""
    figures, findings = {}, []
    for split, rows in splits.items():
        counts = np.diff(rows.offsets)
        empty = int((counts == 0).sum())
        figures[split] = {
            "path": rows.path,
            "rows": len(rows),
            "labels_per_row": float(counts.mean()) if len(rows) else 0.0,
            "rows_by_number_of_labels": np.bincount(counts).tolist(),
            "without_label": empty,
            "blank_lines": rows.blank,
            "completed": rows.completed,
        }
        if empty:
            findings.append(
                Finding(
                    "note",
                    f"{_name(rows)}: {_many(empty, 'row')} ({_percent(empty, len(rows))}) without a label",
                    "Correct if they are examples of none of the labels; if they are not labelled yet, remove them",
                    [place(rows, i) for i in np.flatnonzero(counts == 0)[:EXAMPLES]],
                )
            )
        if rows.completed:
            findings.append(
                Finding(
                    "note",
                    f"{_name(rows)}: {_many(rows.completed, 'row')} with a child and not its parent",
                    "Nothing: the parents are added while reading",
                )
            )
    return figures, findings


# -------------------------------------------------------------------------------------------------------------- texts


class _Stack:
    """Rows of all files, one after the other."""

    def __init__(self, splits):
        self.names, self.rows = list(splits), list(splits.values())
        self.starts = np.cumsum([0, *map(len, self.rows)])
        self.split = np.repeat(np.arange(len(self.rows)), [len(rows) for rows in self.rows])
        self.texts = [text for rows in self.rows for text in rows.texts]

    def labels(self, i):
        return self.rows[self.split[i]].labels_of(i - self.starts[self.split[i]]).tolist()

    def place(self, i):
        return place(self.rows[self.split[i]], i - self.starts[self.split[i]])

    def pairs(self, later, earlier):
        return [f"{self.place(i)} = {self.place(earlier[i])}" for i in later[:EXAMPLES]]


def check_duplicates(splits):
    """Texts that are the same but for case and spaces, and nearly the same ones, within files and across them."""
    stack = _Stack(splits)
    seen, number = {}, np.arange(len(stack.texts))
    first = np.array([seen.setdefault(normal(text), i) for i, text in enumerate(stack.texts)], dtype=np.int64)
    match, _ = near_duplicates(stack.texts)
    same = first < number
    kinds = {"the same": (same, first), "nearly the same": (~same & (match >= 0), match)}
    figures, findings = {}, []
    for kind, (found, other) in kinds.items():
        for here, split in enumerate(stack.names):
            for there in range(here + 1):
                rows = np.flatnonzero(found & (stack.split == here))
                rows = rows[stack.split[other[rows]] == there]
                disagreeing = [i for i in rows if stack.labels(i) != stack.labels(other[i])]
                key = split if here == there else f"{split} in {stack.names[there]}"
                figures.setdefault("same" if kind == "the same" else "nearly", {})[key] = {
                    "rows": len(rows),
                    "other_labels": len(disagreeing),
                }
                if len(rows):
                    severity, what, remedy = _duplicate_finding(kind, stack, here, there, len(rows))
                    findings.append(Finding(severity, what, remedy, stack.pairs(rows, other)))
                if disagreeing and kind == "the same":
                    findings.append(
                        Finding(
                            "warning",
                            f"{_name(stack.rows[here])}: {_many(len(disagreeing), 'row')} with the same text as "
                            f"a row {'before' if here == there else 'of ' + _name(stack.rows[there])} and other labels",
                            "One of each pair is labelled wrongly: look at them and mend the labels",
                            stack.pairs(disagreeing, other),
                        )
                    )
    return figures, findings


def _duplicate_finding(kind, stack, here, there, count):
    rows, other = stack.rows[here], stack.rows[there]
    what = f"{_name(rows)}: {_many(count, 'row')} ({_percent(count, len(rows))}) with {kind} text as a row "
    if here == there:
        return "note", f"{what}before", "Each counts more than once; keep one of them unless that is meant"
    return (
        "warning" if kind == "the same" or count > len(rows) / 100 else "note",
        f"{what}of {_name(other)}",
        f"The scores on {_name(rows)} flatter the model: take these rows out of {_name(other)}, or split anew with "
        "analysis/split.py, which keeps a text in one file",
    )


def check_characters(splits):
    """Texts that carry remains of another format."""
    stack, figures, findings = _Stack(splits), {}, []
    for pattern, what, remedy in ODDITIES:
        rows = [i for i, text in enumerate(stack.texts) if re.search(pattern, text)]
        figures[what.partition(",")[0]] = len(rows)
        if rows:
            counts = Counter(_name(stack.rows[stack.split[i]]) for i in rows)
            where = ", ".join(f"{count} of {name}" for name, count in counts.items())
            findings.append(
                Finding(
                    "warning",
                    f"{_many(len(rows), 'text')} ({where}): {what}",
                    remedy,
                    [stack.place(i) for i in rows[:EXAMPLES]],
                )
            )
    return figures, findings


# ------------------------------------------------------------------------------------------------------------- labels


def _sparse(rows, num_labels):
    from scipy import sparse

    held = np.ones(len(rows.label_ids), dtype=np.int64), rows.label_ids, rows.offsets
    return sparse.csr_matrix(held, shape=(len(rows), num_labels))


def paths_per_row(rows, parents):
    """Labels of each row that have no child in it, int64 [rows]: its paths, or, for flat labels, its labels."""
    counts = np.diff(rows.offsets)
    row, above = np.repeat(np.arange(len(rows)), counts), parents[rows.label_ids]
    keys = np.unique(row[above >= 0] * max(1, len(parents)) + above[above >= 0])
    return counts - np.bincount(keys // max(1, len(parents)), minlength=len(rows))


def check_labels(splits, labels):
    """How often each label stands in each file, alone and beside others. What is said of pairs is so in train."""
    findings, support = [], {split: rows.support(len(labels)) for split, rows in splits.items()}
    train = splits.get("train")
    figures = {
        "labels": [
            {"label": name, "rows": {split: int(counts[i]) for split, counts in support.items()}}
            for i, name in enumerate(labels.names)
        ]
    }
    if train is not None and len(train) and len(labels):
        findings += _frequency_findings(labels, support)
        single = paths_per_row(train, labels.parents) == 1
        alone = np.bincount(train.label_ids[np.repeat(single, np.diff(train.offsets))], minlength=len(labels))
        together = _sparse(train, len(labels))
        together = (together.T @ together).tocoo()
        findings += _company_findings(figures, labels, support["train"], alone, together)
    return figures, findings


def _frequency_findings(labels, support):
    train = support["train"]

    def names(mask):
        return _shown(
            [f"{labels.names[i]} ({train[i]})" for i in np.flatnonzero(mask)[np.argsort(train[mask], kind="stable")]]
        )

    unseen, rare = train == 0, (train > 0) & (train < RARE)
    if unseen.any():
        yield Finding(
            "warning",
            f"{unseen.sum()} of {_many(len(labels), 'label')} without a row in train",
            "Label rows of them, or take them out of the label file",
            names(unseen),
        )
    if rare.any():
        yield Finding(
            "warning",
            f"{rare.sum()} of {_many(len(labels), 'label')} with fewer than {RARE} rows in train",
            "Label more rows of these first: macro F1 counts each label the same. analysis/sparse.py finds "
            "rows to label, analysis/aug.py makes more of those there are",
            names(rare),
        )
    untested = (support["dev"] == 0) & ~unseen if "dev" in support else np.zeros(len(labels), dtype=bool)
    if untested.any():
        yield Finding(
            "warning",
            f"{untested.sum()} of {_many(len(labels), 'label')} without a row in dev",
            "Their F1 is 0 whatever the model does, and macro F1 is lower by it: split anew with "
            "analysis/split.py, which puts rare labels into each file",
            names(untested),
        )


def _company_findings(figures, labels, support, alone, together):
    """Findings on labels beside others, from rows of each label, those on a single path, and pairs of labels."""
    never = (alone == 0) & (support >= TOGETHER)
    for i, entry in enumerate(figures["labels"]):
        entry["alone"] = int(alone[i])
    if never.any():
        yield Finding(
            "note",
            f"{_many(never.sum(), 'label')} never alone: every row has another label"
            + (" of another path" if labels.hierarchical else ""),
            "A model learns them only with their company. Label rows that have one alone, if there are any",
            _shown([f"{labels.names[i]} ({support[i]} rows)" for i in np.flatnonzero(never)]),
        )
    one, other, count = together.row, together.col, together.data
    related = _related(labels, one, other)
    pair = (one != other) & ~related & (count == support[one]) & (count >= TOGETHER)
    always = pair & (support[one] == support[other]) & (one < other)
    implied = pair & (support[one] < support[other])
    figures["always_together"] = [[labels.names[i], labels.names[j]] for i, j in zip(one[always], other[always])]
    figures["never_without"] = [[labels.names[i], labels.names[j]] for i, j in zip(one[implied], other[implied])]
    if always.any():
        yield Finding(
            "warning",
            f"{_many(always.sum(), 'pair')} of labels always together in train",
            "No model can tell them apart: make one label of them, or label rows with one alone",
            _shown([f"{a} + {b}" for a, b in figures["always_together"]]),
        )
    if implied.any():
        yield Finding(
            "note",
            f"{_many(implied.sum(), 'label')} never without a certain other one",
            f"If it is their parent, write them as parent{SEPARATOR}child; the model's answers then agree",
            _shown([f"{a}, only with {b}" for a, b in figures["never_without"]]),
        )
    order = np.lexsort((-count, ~((one < other) & ~related)))[:200]
    figures["cooccurrence"] = [
        {"labels": [labels.names[one[k]], labels.names[other[k]]], "rows": int(count[k])}
        for k in order
        if one[k] < other[k] and not related[k]
    ]


def _related(labels, one, other):
    """True where a label is the other's ancestor, bool [pairs]."""
    related = np.zeros(len(one), dtype=bool)
    for low, high in ((one, other), (other, one)):
        above = low
        while (above >= 0).any():
            above = np.where(above >= 0, labels.parents[above], -1)
            related |= above == high
    return related


# ------------------------------------------------------------------------------------------------------------- length


def check_lengths(lengths, unit, max_seq_lengths):
    """lengths: {split: int array, tokens of each row with [CLS] and [SEP]}. unit: what they are, in words."""
    figures, findings = {"unit": unit, "files": {}}, []
    for split, values in lengths.items():
        if not len(values):
            continue
        cut = {str(limit): float((values > limit).mean()) for limit in max_seq_lengths}
        quantiles = {str(q): int(np.quantile(values, q / 100, method="higher")) for q in (50, 90, 95, 99, 100)}
        figures["files"][split] = {"quantiles": quantiles, "cut": cut}
    of_train = lengths.get("train", np.zeros(0, int))
    if len(of_train):
        enough = int(np.quantile(of_train, 0.99, method="higher"))
        shares = ", ".join(f"{(of_train > limit).mean():.1%} at {limit}" for limit in max_seq_lengths)
        about = "about " if "estimated" in unit else ""
        remedy = f"--max_seq_length {enough} cuts {about}one in a hundred. Shorter is faster; a cut text loses its end"
        if enough > COMMON_LIMIT:
            remedy = (
                f"Many models take {COMMON_LIMIT} tokens at most (ERNIE 3.0: 2048): shorten the texts, or put what "
                "tells the label first; a cut text loses its end"
            )
        findings.append(
            Finding(
                "note",
                f"train: texts are cut as follows ({unit}): {shares}; 99 of 100 have at most {enough}",
                remedy,
            )
        )
    return figures, findings


def estimated_lengths(texts):
    """Tokens that texts have at least with ERNIE's vocabulary, special ones included: int array [texts].

    A Chinese character, a mark and a word of Latin letters or digits are one each; rare words are more than one.
    """
    token = re.compile(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]")
    return np.array([len(token.findall(text)) + 2 for text in texts], dtype=np.int64)


def check_vocabulary(splits, tokenizer, name):
    """Characters that a tokenizer (of `tokenization.load_tokenizer`) does not know, and lengths by it: figures,
    findings, {split: lengths}."""
    characters, lengths, unknown_rows = Counter(), {}, {}
    for split, rows in splits.items():
        sizes, unknown = [], []
        for start in range(0, len(rows), 1024):
            chunk = [rows.texts[i] for i in range(start, min(start + 1024, len(rows)))]
            ids = tokenizer.encode(chunk, 1 << 20)
            sizes += map(len, ids)
            unknown += [bool((row == tokenizer.unk_id).any()) for row in ids]
            characters.update(char for text in chunk for char in text if not char.isspace())
        lengths[split], unknown_rows[split] = np.array(sizes, dtype=np.int64), np.array(unknown, dtype=bool)
    known = list(characters)
    unknown = {
        c: characters[c]
        for c, ids in zip(known, tokenizer.encode(known, 6 + tokenizer.fixed))
        if tokenizer.unk_id in ids
    }
    share = sum(unknown.values()) / max(1, characters.total())
    top = Counter(unknown).most_common(20)
    figures = {
        "tokenizer": name,
        "unknown_share": share,
        "unknown_characters": dict(top),
        "rows_with_unknown": {split: int(mask.sum()) for split, mask in unknown_rows.items()},
    }
    findings = []
    if unknown:
        severity = "warning" if share > 0.01 else "note"
        findings.append(
            Finding(
                severity,
                f"{share:.2%} of all characters ({len(unknown)} different ones) are unknown to {name}",
                "The model sees one and the same [UNK] for all of them. "
                + (
                    "Take a model for the language of these texts"
                    if severity == "warning"
                    else "Harmless as rare as that"
                ),
                [f"{char} ({count})" for char, count in top[:EXAMPLES]],
            )
        )
    return figures, findings, lengths


# --------------------------------------------------------------------------------------------------------- similarity


def check_similarity(train, dev, labels, seed):
    """How much dev is like train: whether a linear model can tell them apart, and the share of each label in both."""
    import linear_baseline

    figures, findings = {}, []
    sample = [train.sample(SAMPLE, seed), dev.sample(SAMPLE, seed)]
    known = {normal(text) for text in sample[0].texts}
    texts = [*sample[0].texts, *(text for text in sample[1].texts if normal(text) not in known)]
    is_dev = np.arange(len(texts)) >= len(sample[0])
    if min(is_dev.sum(), (~is_dev).sum()) >= 20:
        from sklearn.metrics import roc_auc_score

        features = linear_baseline.features_of(texts)
        scores, _ = linear_baseline.out_of_fold(texts, is_dev[:, None], seed=seed, features=features)
        auc = float(roc_auc_score(is_dev, scores[:, 0]))
        model = linear_baseline.fit(texts, is_dev[:, None], seed=seed, calibrate=False, features=features)
        names = model.vectorizer.get_feature_names_out()
        order = np.argsort(model.coef[0])
        figures = {
            "auc": auc,
            "more_in_dev": names[order[::-1][:10]].tolist(),
            "more_in_train": names[order[:10]].tolist(),
        }
        findings.append(_similarity_finding(figures))
    shares = np.stack([rows.support(len(labels)) / max(1, len(rows)) for rows in (train, dev)])
    pooled = (train.support(len(labels)) + dev.support(len(labels))) / max(1, len(train) + len(dev))
    error = np.sqrt(pooled * (1 - pooled) * (1 / max(1, len(train)) + 1 / max(1, len(dev))))
    z = np.divide(shares[1] - shares[0], error, out=np.zeros(len(labels)), where=error > 0)
    # 4 standard errors: a chance of 6 in 100,000 a label, where dev is drawn from the same rows as train.
    moved = np.flatnonzero(np.abs(z) > 4)
    moved = moved[np.argsort(-np.abs(z[moved]).round(6), kind="stable")]
    figures["label_shares_that_differ"] = [
        {"label": labels.names[i], "train": float(shares[0, i]), "dev": float(shares[1, i])} for i in moved
    ]
    if len(moved):
        examples = [f"{labels.names[i]}: {shares[0, i]:.1%} of train, {shares[1, i]:.1%} of dev" for i in moved]
        findings.append(
            Finding(
                "warning",
                f"{_many(len(moved), 'label')} with another share in dev than in train, by more than chance",
                "Fine if dev deliberately covers another time or source; otherwise split again: analysis/split.py "
                "gives each label the same share",
                _shown(examples),
            )
        )
    return figures, findings


def _similarity_finding(figures):
    auc = figures["auc"]
    told = f"a linear model tells dev from train with an AUC of {auc:.2f} (0.5 is guessing, 1 is certainty)"
    if auc < ALIKE:
        return Finding("note", f"dev looks like train: {told}", "Nothing: scores on dev speak for texts like these")
    marks = [
        f"more in dev: {', '.join(map(repr, figures['more_in_dev'][:EXAMPLES]))}",
        f"more in train: {', '.join(map(repr, figures['more_in_train'][:EXAMPLES]))}",
    ]
    remedy = (
        "Right if dev is of another time or source on purpose; otherwise mix the rows and split with analysis/split.py"
    )
    if auc < STRANGE:
        return Finding("note", f"dev differs somewhat from train: {told}", remedy, marks)
    return Finding("warning", f"dev is unlike train: {told}", remedy, marks)


# ----------------------------------------------------------------------------------------------------------- baseline


def check_baseline(train, dev, labels, seed):
    """The linear baseline on dev, or out of fold on train where there is no dev: micro and macro F1, levels, classes.

    Thresholds are fitted to out-of-fold scores of train; dev is only scored.
    """
    import linear_baseline

    rows = train.sample(max(1, CELLS // max(1, len(labels))), seed)
    targets, texts = rows.multi_hot(len(labels)), list(rows.texts)
    features = linear_baseline.features_of(texts)
    held_out, _ = linear_baseline.out_of_fold(texts, targets, FOLDS, seed, features)
    thresholds = fit_thresholds(held_out, targets)
    figures = {"rows": len(rows), "thresholds": dict(zip(labels.names, thresholds.tolist()))}
    figures["out_of_fold"] = _report(targets, held_out > 0, labels)
    if dev is not None and len(dev):
        dev = dev.sample(max(1, CELLS // max(1, len(labels))), seed)
        model = linear_baseline.fit(texts, targets, seed=seed, calibrate=False, features=features)
        scores, gold = model.scores(dev.texts), dev.multi_hot(len(labels))
        figures["dev"] = _report(gold, scores > 0, labels)
        figures["dev_with_thresholds"] = _report(gold, scores > thresholds, labels)
    return figures, list(_baseline_findings(figures, len(train)))


def _report(gold, predicted, labels):
    report = classification_report(gold, predicted, labels.parents)
    report["per_class"] = [{"label": name, **scores} for name, scores in zip(labels.names, report["per_class"])]
    return report


def _f1s(report):
    """Micro and macro F1 of a report in percent, as text."""
    return f"micro F1 {100 * report['micro']['f1']:.2f}, macro F1 {100 * report['macro']['f1']:.2f}"


def _baseline_findings(figures, rows):
    best = figures.get("dev_with_thresholds", figures["out_of_fold"])
    where = "dev" if "dev" in figures else "train"
    how = where if where == "dev" else "train, out of fold"
    sample = f" (trained on a sample of {figures['rows']} of {rows} rows)" if figures["rows"] < rows else ""
    with_thresholds = f"; with a threshold a label {_f1s(best)}" if "dev" in figures else ""
    plain = figures.get("dev", figures["out_of_fold"])
    yield Finding(
        "note",
        f"Linear baseline on {how}{sample}: {_f1s(plain)}{with_thresholds}",
        "A neural model has to beat this to be worth its GPU",
    )
    if best["micro"]["f1"] < 0.3:
        yield Finding(
            "warning",
            "The baseline finds next to nothing",
            "Read some rows: do text and labels belong together? Has each label enough rows?",
        )
    weak = [s for s in best["per_class"] if s["support"] >= RARE and s["f1"] < 0.5]
    if weak:
        weak.sort(key=lambda scores: scores["f1"])
        yield Finding(
            "note",
            f"{_many(len(weak), 'label')} of {RARE} or more rows in {where} with an F1 below 50%",
            "Read some of their rows: is the label clear to a person? analysis/dirty.py finds wrong labels",
            _shown([f"{s['label']} ({s['f1']:.0%}, {s['support']} rows)" for s in weak]),
        )
