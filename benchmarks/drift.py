"""How far analysis/drift.py's estimate of F1 without labels is off on planted shifts, and how many labels change.

    python benchmarks/drift.py --list              # which runs are finished
    python benchmarks/drift.py                     # does the rest (minutes, one core), and prints the table
    python benchmarks/drift.py --only drift-duee-3 # does one

A run is a set and a seed. The linear baseline is trained on half of the rows; an eighth makes the reference, as dev
does. Later texts are drawn from the other rows, 1,000 at a time: at random; with the rows of a fifth of the labels
five times as likely; only of the longer, or the shorter half; only of one side of a principal axis of the n-grams;
with 10 or 30 percent of the characters replaced. "Error of dev" is what one is off who believes dev's F1.
The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from analysis import drift_measures
from kept_runs import Run, add_flags, finish
from project import DATA
from public_sets import LINEAR, read_set
from tables import spread
from text_cls import linear_model
from text_cls.cli import non_negative_int
from text_cls.decision import Decision
from text_cls.reference import Counts, make_reference
from text_cls.scores import scores
from text_cls.splitting import stratified_split
from text_cls.thresholds import fitter

ROWS = 1000  # of later texts
SHIFTS = ("none", "labels", "long", "short", "topic", "noise 0.1", "noise 0.3")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=sorted(LINEAR), choices=sorted(LINEAR), help="public sets (both)")
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5], help="one run for each (3 4 5)")
    add_flags(parser)
    return parser.parse_args(argv)


def second_axis(model, texts):
    """The place of each text on a principal axis of its n-grams, not that of its length: float [texts]."""
    from sklearn.decomposition import TruncatedSVD

    return TruncatedSVD(2, random_state=3).fit_transform(model.vectorizer.transform(texts))[:, 1]


def noisy(text, share, characters, random):
    """The text with a share of its characters replaced by others of the set."""
    replaced = random.random(len(text)) < share
    return "".join(random.choice(characters) if new else old for old, new in zip(text, replaced))


def later_rows(shift, texts, gold, axis, random):
    """(texts, their gold) of one shift."""
    weights = np.ones(len(texts))
    if shift == "labels":
        chosen = random.permutation(gold.shape[1])[: max(1, gold.shape[1] // 5)]
        weights[gold[:, chosen].any(axis=1)] = 5
    elif shift in ("long", "short", "topic"):
        place = axis if shift == "topic" else np.array([*map(len, texts)]) * (1 if shift == "long" else -1)
        weights[np.argsort(place, kind="stable")[: len(texts) // 2]] = 0
    count = min(ROWS, int((weights > 0).sum()))
    rows = random.choice(len(texts), count, replace=False, p=weights / weights.sum())
    some = [texts[i] for i in rows]
    if shift.startswith("noise"):
        characters = sorted({character for text in some for character in text})
        some = [noisy(text, float(shift.split()[1]), characters, random) for text in some]
    return some, gold[rows]


def execute(run):
    """{shift: true and estimated F1, F1 of dev, whether the interval has the true one, labels that alarm}."""
    seed = run.settings["seed"]
    labels, train, dev = read_set(DATA / run.settings["set"], "train.txt", "dev.txt")
    texts = [*train.texts, *dev.texts]
    gold = np.concatenate([part.multi_hot(len(labels)) for part in (train, dev)])
    parts = stratified_split(gold, texts, [0.5, 0.125, 0.375], seed)
    split = [([texts[i] for i in part], gold[part]) for part in parts]
    model = linear_model.fit(*split[0], seed=seed)
    before, before_gold = split[1]
    probabilities = model.probabilities(before)
    decision = fitter(Decision(), "both", False, False, labels.parents)(probabilities, before_gold)
    tokens = np.array([*map(len, before)]), sum(map(len, before)), 0
    reference = make_reference("dev.txt", labels, decision, probabilities, before_gold, tokens)
    axis, results = second_axis(model, split[2][0]), {}
    for number, shift in enumerate(SHIFTS):
        some, their_gold = later_rows(shift, *split[2], axis, np.random.default_rng([seed, number]))
        found = model.probabilities(some)
        predicted, counts = decision.decide(found, labels.parents), Counts.none(len(labels))
        counts.add_predictions(decision.calibrated(found), predicted)
        estimate, true = drift_measures.estimated_f1(reference, counts, seed), scores(their_gold, predicted)
        rates = reference.labels, reference.counts.labels, reference.counts.rows, counts.labels, counts.rows
        value, low, high = estimate["micro_f1"]
        results[shift] = {
            "micro": [true["micro_f1"], value, reference.micro_f1],
            "macro": [true["macro_f1"], estimate["macro_f1"][0], reference.macro_f1],
            "covered": low <= true["micro_f1"] <= high,
            "alarms": sum(label["changed"] for label in drift_measures.compare_labels(*rates)),
        }
    return {"shifts": results, "reference_rows": len(before)}


def print_table(name, results):
    """One line for each shift. results: of `execute`, one for each seed."""
    print(f"{name}: {len(results)} seeds, {results[0]['reference_rows']} rows of dev; points, mean (lowest-highest)")
    titles = ("true micro F1", "error of the estimate", "error of dev", "interval has it", "changed labels")
    print(f"{'shift':11}" + "".join(f"{title:>24}" for title in titles) + f"{'macro F1: error, of dev':>26}")
    for shift in SHIFTS:
        runs = [result["shifts"][shift] for result in results]
        micro, macro = (np.array([run[kind] for run in runs]) * 100 for kind in ("micro", "macro"))
        errors = [np.abs(values[:, k] - values[:, 0]) for values in (micro, macro) for k in (1, 2)]
        cells = [spread(micro[:, 0]), spread(errors[0]), spread(errors[1])]
        cells += [f"{sum(run['covered'] for run in runs)} of {len(runs)}"]
        cells += [spread([run["alarms"] for run in runs], ".0f")]
        line = f"{shift:11}" + "".join(f"{cell:>24}" for cell in cells)
        print(line + f"{statistics.mean(errors[2]):>15.2f}, {statistics.mean(errors[3]):.2f}")
    print()


def main(argv=None):
    args = parse_args(argv)
    runs = [Run(f"drift-{name}-{seed}", {"set": name, "seed": seed}) for name in args.sets for seed in args.seeds]
    done = finish(args, runs, execute)
    for name in args.sets:
        results = [result for run, result in done if run.settings["set"] == name]
        if results and not args.list:
            print_table(name, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
