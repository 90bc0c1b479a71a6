"""Which way wins from how many labelled rows on: F1 without rows, and with 1 to all rows per label.

    python benchmarks/zero_shot.py                                       # all ways: hours
    python benchmarks/zero_shot.py --ways zero-shot head linear          # minutes, once the features are computed
    python benchmarks/zero_shot.py --list                                # what is finished
    python benchmarks/zero_shot.py --sets duee --only duee-features duee-zero-shot

multilingual-e5-small with 12 layers, as data/make_pretrained_model.py makes it, for all ways but `linear`, which is
TF-IDF of n-grams with SVMs. `zero-shot` and `head` are those of few-shot/zero_shot.py, on features that are computed
once per set. `prompt` is few-shot/train.py with the encoder as a masked-language model whose words are its own
embeddings. `fine-tuning` is train.py with `--head_start linear+labels`.
A seed draws rows for each label, rare labels first. All ways get the same rows and no others: where a script wants dev
rows, these are the training rows. The texts of the training set count as unlabelled. Every way may use that all its
rows have a label, or a single path; `linear` and `head` fit thresholds out of fold where that gains. F1 is that on 500
dev rows. What is finished is kept in benchmarks/results.
The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA; news and reviews are the examples.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import e5_model
import kept_runs
from few_shot import draw
from kept_runs import Run
from project import DATA, ROOT, load
from public_sets import micro_macro, read_set, write_rows
from small_model import open_trained
from tables import cell
from text_cls import linear_model
from text_cls.cli import non_negative_int
from text_cls.neural.head_start import fit, label_rates, texts_of_label
from text_cls.probabilities import sigmoid
from text_cls.search.label_scores import default_decision, label_scores

frozen_head, similarity = load("few-shot/frozen_head.py"), load("few-shot/label_similarity.py")
EVENTS, ASPECTS = "这句话描述的事件是", "这句话包含的要素有"
SETS = {
    "duee": (DATA / "duee", EVENTS),
    "cail-divorce": (DATA / "cail-divorce", ASPECTS),
    "news": (ROOT / "data", EVENTS),
    "reviews": (ROOT / "data" / "multi_label", ASPECTS),
}
WAYS = ("zero-shot", "head", "linear", "prompt", "fine-tuning")
FROZEN = ("zero-shot", "head")  # their scores come from the features
ROWS = ("0", "1", "2", "4", "8", "16", "64", "all")  # per label
ONE_SEED = ("0", "64", "all")
LENGTH, TEST = 96, 500
LEAST, EPOCHS, MOST = 600, 3, 6000  # rows that training sees in all: at least; each so often; but at most, or each once


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept_runs.add_flags(parser)
    parser.add_argument("--sets", nargs="+", default=[*SETS], choices=[*SETS], help="data sets (all)")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, help="ways to classify (all)")
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS, help="labelled rows per label (all)")
    seeds = f"one run for each; with {', '.join(ONE_SEED)} rows per label only for the first (3 4 5)"
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5], help=seeds)
    e5_model.add_flag(parser)
    return parser.parse_args(argv)


def planned(args):
    """The runs, in their order: features that others need, then cheap ways first."""
    runs = [*scored_runs(args)]
    needed = {run.settings["set"] for run in runs if run.settings["way"] in FROZEN and run.result() is None}
    return [*map(features_run, sorted(needed)), *runs]


def scored_runs(args):
    for way in args.ways:
        for name in args.sets:
            for rows in [rows for rows in args.rows if (way == "zero-shot") == (rows == "0")]:
                for seed in args.seeds[:1] if rows in ONE_SEED else args.seeds:
                    tail = "" if rows == "0" else f"-{rows}-seed{seed}"
                    yield Run(f"{name}-{way}{tail}", {"set": name, "way": way, "rows": rows, "seed": seed})


def features_run(name):
    return Run(f"{name}-features", {"set": name, "way": "features", "length": LENGTH}, local=True)


# ------------------------------------------------------------------------------------------------------------ features


def read(name):
    """Labels, training rows, and (texts, bool [rows, labels]) of the rows to score."""
    labels, train, dev = read_set(SETS[name][0], "train.txt", "dev.txt")
    chosen = np.sort(np.random.default_rng(3).permutation(len(dev))[:TEST])
    return labels, train, ([dev.texts[i] for i in chosen], dev.multi_hot(len(labels), chosen))


def compute_features(run, encoder):
    """Writes the features of the training rows, the rows to score, and the texts of the labels."""
    from text_cls.neural.model import encode, load_pretrained, predict_features

    labels, train, (test, _) = read(run.settings["set"])
    model, tokenizer = load_pretrained(str(encoder), len(labels))
    model.eval()
    names = [text for name in labels.names for text in texts_of_label(labels, name)]
    parts = {"train": list(train.texts), "test": test, "labels": names}
    found = {
        part: predict_features(model, encode(texts, tokenizer, model, LENGTH), 32) for part, texts in parts.items()
    }
    np.savez(run.folder / "features.npz", **found)
    return {"rows": sum(map(len, parts.values()))}


def features(name):
    """{"train", "test", "labels": float32 [rows, width]} of a set. Exits if they have not been computed."""
    run = features_run(name)
    if run.result() is None:
        raise SystemExit(f"the features are missing; first: --sets {name} --only {run.name}")
    with np.load(run.folder / "features.npz") as arrays:
        return dict(arrays)


# ---------------------------------------------------------------------------------------------------------------- ways


def draw_rows(train, labels, rows, seed):
    """Numbers of the training rows that a run gets."""
    gold = train.multi_hot(len(labels))
    if rows == "all":
        return np.arange(len(gold))
    return np.sort(draw(gold, int(rows), np.random.default_rng(seed), np.zeros(len(gold), dtype=bool)))


def zero_shot(labels, found, seed):
    """The scores of few-shot/zero_shot.py's bundle for the rows to score: float32 [rows, labels]."""
    texts = np.random.default_rng(seed).permutation(len(found["train"]))[:2000]
    mean = found["train"][texts].mean(axis=0)
    of_texts = [text for name in labels.names for text in texts_of_label(labels, name)]
    vectors = dict(zip(of_texts, similarity.unit(found["labels"] - mean)))
    index = similarity.label_index(labels, lambda wanted: np.array([vectors[text] for text in wanted]))
    calibration = similarity.calibration_of(index, similarity.unit(found["train"][texts] - mean))
    searched = index.search(similarity.unit(found["test"] - mean), len(index))
    return label_scores(searched, labels, calibration=calibration)


def decisions(labels):
    """{what a label set is: `Decision`}, the first that of few-shot/zero_shot.py."""
    chosen = similarity.zero_shot_decision(labels)
    return {
        "above 0.5, at least the best": chosen,
        "the best": replace(chosen, threshold=1.0),
        "the best path": replace(chosen, hierarchy="one_per_level"),
        "above 0.3, at least the best": replace(chosen, threshold=0.3),
        "above 0.5": replace(chosen, min_k=0),
    }


def decided(labels, rows, targets, unseen, folds, probabilities, seed):
    """Label sets by thresholds fitted out of fold, where they gain. unseen, folds: as `out_of_fold` returns them."""
    base = default_decision(labels, rows)
    decision, _ = frozen_head.chosen_decision(base, unseen, targets, folds, labels.parents, seed)
    return decision.decide(probabilities, labels.parents)


def head(labels, train, chosen, found, seed):
    """As few-shot/zero_shot.py with labelled rows."""
    rows, targets, x = train.take(chosen), train.multi_hot(len(labels), chosen), found["train"][chosen]
    ends = np.cumsum([len(texts_of_label(labels, name)) for name in labels.names])[:-1]
    vectors = np.array([part.mean(axis=0) for part in np.split(found["labels"], ends)])
    weight, bias = fit(x, targets, label_rates(targets.sum(axis=0), len(targets)), vectors)
    unseen, folds = frozen_head.out_of_fold(x, targets, list(rows.texts), vectors, seed)
    return decided(labels, rows, targets, unseen, folds, sigmoid(found["test"] @ weight + bias), seed)


def linear(labels, train, chosen, test, seed):
    """The linear baseline, its probabilities decided as those of the head."""
    from text_cls.cross_fitting import draw_folds

    rows, targets = train.take(chosen), train.multi_hot(len(labels), chosen)
    texts = list(rows.texts)
    model = linear_model.fit(texts, targets, seed)
    _, unseen = linear_model.out_of_fold(texts, targets, seed=seed)
    folds = draw_folds(targets, texts, seed)
    return decided(labels, rows, targets, unseen, folds, model.probabilities(test), seed)


def epochs_for(rows):
    """Epochs of `prompt` and `fine-tuning` on so many rows, by the time that all runs together may take."""
    return max(1, round(max(LEAST, min(EPOCHS * rows, MOST)) / rows))


def write_cut(folder, train, chosen, labels):
    """A data set of the chosen rows, which are also those of dev."""
    for file in ("train.txt", "dev.txt"):
        write_rows(folder / file, train, chosen, labels)
    labels.write(str(folder / "label.txt"))


def fine_tuning(run, data, encoder, rows, test):
    """Probabilities of the rows to score, float32 [rows, labels], after train.py."""
    from text_cls.neural.model import encode, predict_probabilities

    checkpoint, seed = run.folder / "checkpoint", run.settings["seed"]
    words = ["--dataset_dir", data, "--model_name", encoder, "--device", "cpu", "--save_dir", checkpoint, "--resume"]
    words += ["--epochs", epochs_for(rows), "--batch_size", 8 if rows < 1000 else 16, "--max_seq_length", LENGTH]
    words += "--learning_rate 1e-4 --warmup --warmup_steps 0.1 --max_grad_norm 1 --head_start linear+labels".split()
    run.script("train.py", *words, "--seed", seed)
    trained = open_trained(checkpoint)
    return predict_probabilities(trained.model, encode(test, trained.tokenizer, trained.model, LENGTH), 32)


def masked_lm(encoder, folder):
    """Writes the encoder as a masked-language model, which predicts the words whose embeddings are near."""
    from paddlenlp.transformers import AutoModel, AutoTokenizer, ErnieForMaskedLM

    base, tokenizer = AutoModel.from_pretrained(str(encoder)), AutoTokenizer.from_pretrained(str(encoder))
    model = ErnieForMaskedLM(base.config)
    model.ernie.set_state_dict(base.state_dict())
    dense = model.cls.predictions.transform
    dense.weight.set_value(np.eye(base.config.hidden_size, dtype=np.float32))
    dense.bias.set_value(np.zeros(base.config.hidden_size, dtype=np.float32))
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def prompt(run, data, encoder, rows, test):
    """Probabilities of the rows to score, float32 [rows, labels], after few-shot/train.py."""
    from text_cls.serving import open_predictor

    out, name = run.folder / "prompted", run.settings["set"]
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "--data_dir",
            data,
            "--output_dir",
            out,
            "--model_name_or_path",
            masked_lm(encoder, Path(folder) / "lm"),
        ]
        words += ["--prompt", SETS[name][1], "--do_train", "--do_export", "--device", "cpu", "--max_seq_length", LENGTH]
        words += ["--learning_rate", 1e-4, "--ppt_learning_rate", 1e-3, "--num_train_epochs", epochs_for(rows)]
        run.script("few-shot/train.py", *words, "--evaluation_strategy", "no", "--seed", run.settings["seed"])
    return open_predictor(str(out / "export")).probabilities(test)


def execute(run, wheel):
    """Does a run. Returns its F1 in percent, and the number of labelled rows."""
    encoder = e5_model.make(12, wheel)
    if run.settings["way"] == "features":
        return compute_features(run, encoder)
    name, way, per_label, seed = run.settings.values()
    labels, train, (test, gold) = read(name)

    def scored(predicted):
        return dict(zip(("micro_f1", "macro_f1"), micro_macro(gold, predicted, labels.parents)))

    if way == "zero-shot":
        scores = zero_shot(labels, features(name), seed)
        found = {what: scored(one.decide(scores, labels.parents)) for what, one in decisions(labels).items()}
        return {"rows": 0, **next(iter(found.values())), "decisions": found}
    chosen = draw_rows(train, labels, per_label, seed)
    if way == "head":
        predicted = head(labels, train, chosen, features(name), seed)
    elif way == "linear":
        predicted = linear(labels, train, chosen, test, seed)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_cut(Path(folder), train, chosen, labels)
            probabilities = TRAINING[way](run, folder, encoder, len(chosen), test)
        predicted = default_decision(labels, train.take(chosen)).decide(probabilities, labels.parents)
    return {"rows": len(chosen), **scored(predicted)}


TRAINING = {"prompt": prompt, "fine-tuning": fine_tuning}


# --------------------------------------------------------------------------------------------------------------- table


def table(name, finished):
    """Lines of a set's table. finished: [(run, result)] of this set but for the features."""
    columns = [rows for rows in ROWS if any(run.settings["rows"] == rows for run, _ in finished)]
    yield f"| {name}, rows per label | {' | '.join(columns)} |"
    yield "| --- |" + " --- |" * len(columns)
    for way in WAYS:
        of_way = [(run.settings["rows"], result) for run, result in finished if run.settings["way"] == way]
        for score in ("micro_f1", "macro_f1") if of_way else ():
            cells = [cell([result[score] for rows, result in of_way if rows == column], ".1f") for column in columns]
            yield f"| {way}, {score.removesuffix('_f1')} | {' | '.join(cells)} |"
    counts = [[result["rows"] for run, result in finished if run.settings["rows"] == column] for column in columns]
    yield f"| labelled rows | {' | '.join(str(max(count)) for count in counts)} |"


def main(argv=None):
    args = parse_args(argv)
    finished = kept_runs.finish(args, [*planned(args)], lambda run: execute(run, args.wheel))
    for name in () if args.list else args.sets:
        of_set = [(run, result) for run, result in finished if run.settings["set"] == name]
        hours = sum(result["cpu_seconds"] for _, result in of_set) / 3600
        for what, scores in [pair for _, result in of_set for pair in result.get("decisions", {}).items()]:
            print(f"{name}, zero-shot, {what}: {scores['micro_f1']:.1f}/{scores['macro_f1']:.1f}")
        if scored := [(run, result) for run, result in of_set if run.settings["way"] != "features"]:
            print(f"\n{name}: {hours:.2f} CPU hours\n", *table(name, scored), "", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
