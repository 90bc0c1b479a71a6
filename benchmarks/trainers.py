"""train.py beside Hugging Face's Trainer and SetFit: F1 and time with the same encoder, rows and epochs, on duee.

    make bench-setup                        # puts PyTorch, transformers and SetFit into .venv-bench
    python benchmarks/trainers.py           # 2,000 rows and 8 rows per label, 3 seeds
    python benchmarks/trainers.py --list    # what is finished
    python benchmarks/trainers.py --rows 8-per-label --sides SetFit train.py

The encoder is multilingual-e5-small with 6 layers, as data/make_pretrained_model.py makes it; all sides get the same
token ids. A seed draws the rows, and others of train.txt that choose the best epoch; all of dev is scored.

  train.py               as it is: its classifier is fitted first (--head_start linear), of the mean of the tokens
  train.py, random head  with a random classifier of the first token, as Trainer has
  Trainer                the Trainer of transformers, random batches
  Trainer, fitted head   with the classifier that train.py fits, and batches of similar length
  SetFit                 pairs of texts train the encoder, then one logistic regression per label; as many texts as the
                         epochs of the others have, and SetFit's own learning rate and batch size

Times are those of whole processes, with loading and the scoring of dev. "thresholds": one per label, fitted to four
fifths of dev and applied to the other fifth, in turns. What is finished is kept in benchmarks/results.
The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import e5_model
import kept_runs
from kept_runs import Run
from project import DATA, ROOT
from public_sets import hold_out, micro_macro, read_set, write_rows
from small_model import open_trained
from tables import cell
from text_cls import cross_fitting, thresholds
from text_cls.cli import non_negative_int
from text_cls.decision import Decision
from text_cls.neural.hugging_face import LAYER
from text_cls.neural.model import encode, load_pretrained, predict_probabilities
from text_cls.neural.pooling import FIRST, MEAN

SIDES = {  # side: (--head_start of train.py, None where it takes no part; flags of hf_trainer.py, None likewise)
    "train.py": ("linear", None),
    "train.py, random head": ("random", None),
    "Trainer": (None, ["trainer"]),
    "Trainer, fitted head": ("linear", ["trainer", "--by_length"]),
    "SetFit": (None, ["setfit"]),
}
POOLING = {"train.py": MEAN}  # the classifiers of transformers know the first token only; SetFit has its own, the mean
EPOCHS = {"2000": 4, "8-per-label": 8}
SHARED = "--batch_size 16 --learning_rate 4e-4 --warmup_steps 0.1"
LIKE_TRAINER = "--warmup --max_grad_norm 1"  # flags of train.py for what Trainer does by default
LENGTH = 64
HELD = 0.02  # of the training rows


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept_runs.add_flags(parser)
    parser.add_argument("--rows", nargs="+", default=[*EPOCHS], choices=[*EPOCHS], help="training rows (both)")
    parser.add_argument("--sides", nargs="+", default=[*SIDES], choices=[*SIDES], help="what trains (all)")
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5], help="one run for each (3 4 5)")
    python = str(ROOT / ".venv-bench/bin/python")
    parser.add_argument("--torch_python", default=python, help="Python with PyTorch (%(default)s)")
    e5_model.add_flag(parser)
    return parser.parse_args(argv)


def planned(args):
    """The runs, in their order."""
    for rows in args.rows:
        for seed in args.seeds:
            for side in args.sides:
                name = f"{side.lower().replace(', ', '-').replace(' ', '-')}-{rows}-seed{seed}"
                settings = {"rows": rows, "side": side, "seed": seed, "epochs": EPOCHS[rows]}
                yield Run(name, {**settings, "shared": f"{SHARED} {LIKE_TRAINER}", "length": LENGTH})


def make_data(rows, seed, folder):
    """train.txt with the chosen rows, held.txt, dev.txt and label.txt."""
    hold_out(DATA / "duee", HELD, seed, folder)
    labels, train = read_set(folder, "train.txt")
    order = np.random.default_rng(seed).permutation(len(train))
    chosen = order[: int(rows)] if rows.isdigit() else some_of_each(train.multi_hot(len(labels)), order, 8)
    write_rows(folder / "train.txt", train, np.sort(chosen), labels)


def some_of_each(gold, order, count):
    """Row numbers such that each label has `count` of them, or a few more: rare labels first, rows in this order."""
    chosen = np.zeros(len(gold), dtype=bool)
    for label in np.argsort(gold.sum(axis=0), kind="stable"):
        free = order[gold[order, label] & ~chosen[order]]
        chosen[free[: max(0, count - (gold[:, label] & chosen).sum())]] = True
    return np.flatnonzero(chosen)


def fine_tune(run, args):
    """Trains. Returns the scores on dev, and the number of training rows."""
    rows, side, seed, epochs, *_ = run.settings.values()
    (head, other), base = SIDES[side], e5_model.make(6, args.wheel, POOLING.get(side, FIRST))
    (run.folder / "times.json").unlink(missing_ok=True)  # of an attempt that was stopped: this one starts anew
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_data(rows, seed, folder)
        labels, *parts = read_set(folder, "train.txt", "held.txt", "dev.txt")
        if head:
            flags = ["--dataset_dir", folder, "--dev_file", "held.txt", "--test_file", "dev.txt", "--device", "cpu"]
            flags += ["--model_name", base, "--save_dir", folder / "checkpoint", "--max_seq_length", LENGTH]
            flags += ["--seed", seed, "--logging_steps", 50, "--head_start", head]
            flags += [*SHARED.split(), *LIKE_TRAINER.split()]
            run.script("train.py", *flags, "--epochs", 0 if other else epochs)
            trained = open_trained(folder / "checkpoint")
            model, tokenizer = trained.model, trained.tokenizer
        else:
            model, tokenizer = load_pretrained(str(base), len(labels))
        tokens = [encode(part.texts, tokenizer, model, LENGTH) for part in parts]
        if other:
            write_for_torch(model, bool(head), parts, tokens, folder)
            flags = ["--epochs", epochs, "--seed", seed, *SHARED.split(), *other[1:]]
            run.script("benchmarks/hf_trainer.py", other[0], folder, *flags, python=args.torch_python)
            probabilities = np.load(folder / "probabilities.npy")
        else:
            probabilities = predict_probabilities(model, tokens[2], 32)
    return {"rows": len(parts[0]), **scores(probabilities, parts[2], labels, seed)}


def scores(probabilities, dev, labels, seed):
    """{"plain", "fitted": (micro, macro F1 in percent)}"""
    gold, parents = dev.multi_hot(len(labels)), labels.parents
    folds = cross_fitting.draw_folds(gold, dev.texts, seed)
    fit = thresholds.fitter(Decision(), "both", True, False, parents)
    ways = {
        "plain": Decision().decide(probabilities, parents),
        "fitted": cross_fitting.cross_fitted(probabilities, gold, folds, fit, parents),
    }
    return {way: micro_macro(gold, predicted, parents) for way, predicted in ways.items()}


# ------------------------------------------------------------------------------------------------------------ for torch


def write_for_torch(model, with_head, parts, tokens, folder):
    """Writes what hf_trainer.py reads. parts, tokens: rows of train, held and dev, and their tokens as `Encoded`."""
    from safetensors.numpy import save_file

    config = model.config
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    names += ("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings")
    names += ("type_vocab_size", "layer_norm_eps", "pad_token_id")
    sizes = {"model_type": "bert", **{name: getattr(config, name) for name in names}}
    (folder / "encoder").mkdir()
    (folder / "encoder" / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    weights = bert_weights({name: value.numpy() for name, value in model.state_dict().items()}, with_head)
    save_file(weights, folder / "encoder" / "model.safetensors", {"format": "pt"})
    arrays = {}
    for name, rows, encoded in zip(("train", "held", "dev"), parts, tokens):
        arrays[f"{name}_ids"], arrays[f"{name}_offsets"] = encoded.columns["input_ids"], encoded.offsets
        arrays[f"{name}_labels"] = rows.multi_hot(config.num_labels, dtype=np.float32)
    np.savez(folder / "tokens.npz", **arrays)


def bert_weights(weights, with_head):
    """Weights of an ERNIE by Hugging Face's names of BERT."""
    found = {}
    for name, value in weights.items():
        path, _, part = name.removeprefix("ernie.").rpartition(".")
        if path.startswith("encoder.layers."):
            number, _, rest = path.removeprefix("encoder.layers.").partition(".")
            path = f"encoder.layer.{number}.{LAYER[rest]}"
        path = path.replace("embeddings.layer_norm", "embeddings.LayerNorm")
        if path != "classifier":
            path = f"bert.{path}"
        elif not with_head:
            continue
        product = value.ndim == 2 and "embeddings" not in path  # PaddleNLP's are [inputs, outputs]
        found[f"{path}.{part}"] = np.ascontiguousarray(value.T if product else value)
    return found


# ---------------------------------------------------------------------------------------------------------------- table


def table(rows, finished):
    """Lines of a table. finished: [(run, result)] of these rows."""
    count = cell([result["rows"] for _, result in finished], ",.0f")
    columns = ("micro F1", "macro F1", "micro F1, thresholds", "macro F1, thresholds", "seconds", "CPU seconds")
    yield f"| {count} rows, {EPOCHS[rows]} epochs | {' | '.join(columns)} |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for side in SIDES:
        results = [result for run, result in finished if run.settings["side"] == side]
        if results:
            columns = [[result[way][i] for result in results] for way in ("plain", "fitted") for i in range(2)]
            cells = [cell(values) for values in columns]
            cells += [cell([result[name] for result in results], ".0f") for name in ("seconds", "cpu_seconds")]
            yield f"| {' | '.join((side, *cells))} |"


def main(argv=None):
    args = parse_args(argv)
    finished = kept_runs.finish(args, [*planned(args)], lambda run: fine_tune(run, args))
    for rows in () if args.list else args.rows:
        if of_rows := [(run, result) for run, result in finished if run.settings["rows"] == rows]:
            print("", *table(rows, of_rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
