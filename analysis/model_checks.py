"""Checks of a data set before training that need a tokenizer or the linear baseline: lengths, vocabulary, scores.

Like those of `row_checks`, each returns (figures, findings).
"""

import re
from collections import Counter

import numpy as np

from domain_classifier import SAMPLE, tell_apart
from findings import EXAMPLES, RARE, Finding, counted, shortened
from metric import classification_report
from text_cls.language import tr
from text_cls.thresholds import fit_thresholds

ALIKE, UNLIKE = 0.6, 0.75  # AUC of telling dev from train: below the first they are alike, from the second on unlike
CELLS = 4_000_000  # rows x labels that the baseline takes in a few minutes; it samples larger sets
COMMON_LIMIT = 512  # maximum tokens of most models
FOLDS = 3  # of the baseline; five would take half as long again

# ------------------------------------------------------------------------------------------------------------- length


def check_lengths(lengths, unit, max_seq_lengths, estimated=False):
    """How many texts each maximum length cuts.

    Args:
        lengths: {split: int array, tokens of each row including [CLS] and [SEP]}.
        unit: what the lengths count, in words. estimated: whether they are not exact.
    """
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
        shares = ", ".join(f"{limit}: {(of_train > limit).mean():.1%}" for limit in max_seq_lengths)
        about = tr("about ") if estimated else ""
        remedy = tr(
            "--max_seq_length {enough} cuts {about}1 text in 100. Shorter is faster, but cut texts lose their end",
            enough=enough,
            about=about,
        )
        if enough > COMMON_LIMIT:
            remedy = tr(
                "Many models take at most {common_limit} tokens (ERNIE 3.0: 2048), and cut texts lose their end. "
                "train.py --long_texts windows reads all of a text",
                common_limit=COMMON_LIMIT,
            )
        findings.append(
            Finding(
                "note",
                tr(
                    "train: share of texts cut, by length ({unit}): {shares}; 99 of 100 texts have at most {enough}",
                    unit=unit,
                    shares=shares,
                    enough=enough,
                ),
                remedy,
            )
        )
    return figures, findings


def estimated_lengths(texts):
    """Lower bound of the tokens of texts with ERNIE's vocabulary, including special tokens: int array [texts].

    Counts one token per Chinese character, punctuation mark, Latin word or number; rare words really have more.
    """
    token = re.compile(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]")
    return np.array([len(token.findall(text)) + 2 for text in texts], dtype=np.int64)


def check_vocabulary(splits, tokenizer, name):
    """Characters unknown to a tokenizer (from `tokenization.load_tokenizer`), and exact lengths.

    Returns:
        figures, findings, {split: lengths}.
    """
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
                tr(
                    "{share:.2%} of all characters ({count} different ones) are unknown to {name}",
                    share=share,
                    count=len(unknown),
                    name=name,
                ),
                tr(
                    "The model sees the same [UNK] for all of them. {advice}",
                    advice=tr("Use a model for the language of these texts")
                    if severity == "warning"
                    else tr("Harmless, because they are rare"),
                ),
                [f"{char} ({count})" for char, count in top[:EXAMPLES]],
            )
        )
    return figures, findings, lengths


# --------------------------------------------------------------------------------------------------------- similarity


def check_similarity(train, dev, labels, seed):
    """How similar dev is to train: whether a linear model can tell them apart, and the share of each label in both."""
    figures, findings = {}, []
    found = tell_apart(*(list(rows.sample(SAMPLE, seed).texts) for rows in (train, dev)), seed)
    if found:
        words = {"more_in_dev": found["more_in_second"], "more_in_train": found["more_in_first"]}
        figures = {"auc": found["auc"], **words}
        findings.append(_similarity_finding(figures))
    shares = np.stack([rows.support(len(labels)) / max(1, len(rows)) for rows in (train, dev)])
    pooled = (train.support(len(labels)) + dev.support(len(labels))) / max(1, len(train) + len(dev))
    error = np.sqrt(pooled * (1 - pooled) * (1 / max(1, len(train)) + 1 / max(1, len(dev))))
    z = np.divide(shares[1] - shares[0], error, out=np.zeros(len(labels)), where=error > 0)
    # 4 standard errors: a chance of 6 in 100,000 per label if dev is drawn from the same rows as train.
    different = np.flatnonzero(np.abs(z) > 4)
    different = different[np.argsort(-np.abs(z[different]).round(6), kind="stable")]
    figures["label_shares_that_differ"] = [
        {"label": labels.names[i], "train": float(shares[0, i]), "dev": float(shares[1, i])} for i in different
    ]
    if len(different):
        examples = [
            tr(
                "{label}: {train:.1%} of train, {dev:.1%} of dev",
                label=labels.names[i],
                train=shares[0, i],
                dev=shares[1, i],
            )
            for i in different
        ]
        findings.append(
            Finding(
                "warning",
                tr(
                    "{count} whose share in dev differs from train by more than chance",
                    count=counted(len(different), "label"),
                ),
                tr(
                    "Fine if dev deliberately covers another time or source; otherwise split again with "
                    "analysis/split.py, which gives each label the same share"
                ),
                shortened(examples),
            )
        )
    return figures, findings


def _similarity_finding(figures):
    auc = figures["auc"]
    measured = tr("a linear model tells dev from train with an AUC of {auc:.2f} (0.5: guessing, 1: certain)", auc=auc)
    if auc < ALIKE:
        remedy = tr("Nothing to do: scores on dev also hold for texts like those in train")
        return Finding("note", tr("dev looks like train: {measured}", measured=measured), remedy)
    features = [
        tr("more in dev: {features}", features=", ".join(map(repr, figures["more_in_dev"][:EXAMPLES]))),
        tr("more in train: {features}", features=", ".join(map(repr, figures["more_in_train"][:EXAMPLES]))),
    ]
    remedy = tr(
        "Fine if dev deliberately covers another time or source; otherwise merge the rows and split with "
        "analysis/split.py"
    )
    if auc < UNLIKE:
        return Finding("note", tr("dev differs somewhat from train: {measured}", measured=measured), remedy, features)
    return Finding("warning", tr("dev is unlike train: {measured}", measured=measured), remedy, features)


# ----------------------------------------------------------------------------------------------------------- baseline


def check_baseline(train, dev, labels, seed):
    """Scores of the linear baseline, out of fold on train and, if there is one, on dev.

    Thresholds are fitted to out-of-fold scores of train; dev is only scored.
    """
    from text_cls import linear_model

    rows = train.sample(max(1, CELLS // max(1, len(labels))), seed)
    targets, texts = rows.multi_hot(len(labels)), list(rows.texts)
    features = linear_model.features_of(texts)
    unseen, _ = linear_model.out_of_fold(texts, targets, FOLDS, seed, features)
    thresholds = fit_thresholds(unseen, targets)
    figures = {"rows": len(rows), "thresholds": dict(zip(labels.names, thresholds.tolist()))}
    figures["out_of_fold"] = _report(targets, unseen > 0, labels)
    if dev is not None and len(dev):
        dev = dev.sample(max(1, CELLS // max(1, len(labels))), seed)
        model = linear_model.fit(texts, targets, seed=seed, calibrate=False, features=features)
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
    return tr(
        "micro F1 {micro:.2f}, macro F1 {macro:.2f}",
        micro=100 * report["micro"]["f1"],
        macro=100 * report["macro"]["f1"],
    )


def _baseline_findings(figures, rows):
    best = figures.get("dev_with_thresholds", figures["out_of_fold"])
    scored = "dev" if "dev" in figures else "train"
    rows_scored = scored if scored == "dev" else tr("train, out of fold")
    sample = (
        tr(" (trained on a sample of {sample} of {rows} rows)", sample=figures["rows"], rows=rows)
        if figures["rows"] < rows
        else ""
    )
    with_thresholds = tr("; with one threshold per label {f1s}", f1s=_f1s(best)) if "dev" in figures else ""
    plain = figures.get("dev", figures["out_of_fold"])
    yield Finding(
        "note",
        tr(
            "Linear baseline on {rows_scored}{sample}: {f1s}{with_thresholds}",
            rows_scored=rows_scored,
            sample=sample,
            f1s=_f1s(plain),
            with_thresholds=with_thresholds,
        ),
        tr("A neural model has to beat this to be worth its GPU time"),
    )
    if best["micro"]["f1"] < 0.3:
        yield Finding(
            "warning",
            tr("The baseline learns almost nothing"),
            tr("Read some rows: do the labels fit the texts? Does each label have enough rows?"),
        )
    weak = [s for s in best["per_class"] if s["support"] >= RARE and s["f1"] < 0.5]
    if weak:
        weak.sort(key=lambda scores: scores["f1"])
        yield Finding(
            "note",
            tr(
                "{count} with at least {rare} rows in {scored} and an F1 below 50%",
                count=counted(len(weak), "label"),
                rare=RARE,
                scored=scored,
            ),
            tr("Read some of their rows: could a person tell the label? analysis/dirty.py finds wrong labels"),
            shortened(
                [
                    tr("{label} ({f1:.0%}, {rows})", label=s["label"], f1=s["f1"], rows=counted(s["support"], "row"))
                    for s in weak
                ]
            ),
        )
