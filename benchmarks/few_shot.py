"""Prompt tuning beside plain fine-tuning on a few rows of the two public sets: F1, processor time, loss.

    python benchmarks/few_shot.py                            # both sets, 3 seeds
    python benchmarks/few_shot.py --sets duee --seeds 3 --test_rows 500

A seed draws 2 rows of each label of duee (148), 4 of each label of cail-divorce (80), as many again for dev, and a
sample of all other rows of train and dev for test; and the weights of a small masked-language ERNIE on the set's
characters. Both roads get the same rows, weights, batches of 8 and epochs, and keep what is best on dev; `linear` is
TF-IDF with a linear SVM a label. Seconds are those of the processor, all cores together, with starting and scoring the
test rows, the prompt's twice: for the scores and for predictions.txt. Losses are means of the steps of a log line, one
step of fine-tuning and five of the prompt: to be compared within a row alone. The sets are read from ../shared/data or
from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import re
import resource
import statistics
import sys
import tempfile
from pathlib import Path

from real_data import DATA, MODEL, call, call_and_read

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import numpy as np

from text_cls.cli import Problems
from text_cls.probabilities import sigmoid
from text_cls.rows import read_labels, read_rows

SETS = {"duee": (2, "这句话描述的事件是"), "cail-divorce": (4, "这句话包含的要素有")}
EPOCHS = 30
PROMPT = f"--num_train_epochs {EPOCHS} --early_stopping_patience {EPOCHS} --ppt_learning_rate 1e-2"
COMMON = "--device cpu --max_seq_length 128 --learning_rate 1e-3"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=sorted(SETS), choices=sorted(SETS), help="(both)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5], help="(3 4 5)")
    parser.add_argument("--test_rows", type=int, default=2000, help="rows of the rest to score (%(default)s)")
    parser.add_argument("--model", default=MODEL, help="flags of data/make_tiny_model.py (%(default)s)")
    return parser.parse_args(argv)


def draw(gold, each, random, taken):
    """`each` rows of every label (bool [rows, labels]) among those not taken, rare labels first. Adds to `taken`."""
    drawn = []
    for label in np.argsort(gold.sum(axis=0), kind="stable"):
        free = np.flatnonzero(gold[:, label] & ~taken)
        chosen = random.choice(free, min(each, len(free)), replace=False)
        taken[chosen] = True
        drawn += chosen.tolist()
    return drawn


def make_cut(name, seed, test_rows, folder):
    """Writes train.txt, dev.txt, test.txt and label.txt. Returns the numbers of rows."""
    labels, random = read_labels(str(DATA / name / "label.txt"), Problems()), np.random.default_rng(seed)
    parts = [read_rows(str(DATA / name / f"{split}.txt"), labels, Problems()) for split in ("train", "dev")]
    texts = [text for part in parts for text in part.texts]
    gold = np.concatenate([part.multi_hot(len(labels)) for part in parts])
    taken = np.zeros(len(texts), dtype=bool)
    splits = {split: draw(gold, SETS[name][0], random, taken) for split in ("train", "dev")}
    rest = np.flatnonzero(~taken)
    splits["test"] = random.choice(rest, min(test_rows, len(rest)), replace=False)
    for split, rows in splits.items():
        lines = (f"{texts[i]}\t{labels.join(gold[i])}\n" for i in rows)
        (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    labels.write(str(folder / "label.txt"))
    return {split: len(rows) for split, rows in splits.items()}


def processor_seconds():
    """Used so far by this process and by those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def train(*command):
    """Test micro and macro F1 in percent, processor seconds, first and last logged loss, of a training."""
    before = processor_seconds()
    _, log = call_and_read(*command)
    seconds = processor_seconds() - before
    scores = re.findall(r"Test dataset size.* micro f1 score: ([\d.]+), macro f1 score: ([\d.]+)", log)[-1]
    losses = re.findall(r"global step .* loss: ([\d.]+)", log)
    return (*(100 * float(score) for score in scores), seconds, float(losses[0]), float(losses[-1]))


def linear_figures(folder):
    import linear_baseline
    from metric import classification_report

    labels = read_labels(str(folder / "label.txt"), Problems())
    train, test = (read_rows(str(folder / f"{split}.txt"), labels, Problems()) for split in ("train", "test"))
    before = processor_seconds()
    model = linear_baseline.fit(list(train.texts), train.multi_hot(len(labels)), seed=3, calibrate=False)
    seconds = processor_seconds() - before
    predicted = sigmoid(model.scores(list(test.texts))) > 0.5
    report = classification_report(test.multi_hot(len(labels)), predicted, labels.parents)
    return 100 * report["micro"]["f1"], 100 * report["macro"]["f1"], seconds


def one_seed(name, seed, args, folder):
    """{way: figures} and the numbers of rows."""
    data, model = folder / "data", folder / "model"
    data.mkdir()
    sizes = make_cut(name, seed, args.test_rows, data)
    call(
        "data/make_tiny_model.py",
        "--masked_lm",
        "--output_dir",
        model,
        "--texts",
        DATA / name / "train.txt",
        "--seed",
        seed,
        *args.model.split(),
    )
    common, results = ["--seed", seed, *COMMON.split()], {}
    results["prompt"] = train(
        "few-shot/train.py",
        "--data_dir",
        data,
        "--output_dir",
        folder / "prompt",
        "--prompt",
        SETS[name][1],
        "--do_train",
        "--do_predict",
        "--model_name_or_path",
        model,
        *PROMPT.split(),
        *common,
    )
    results["fine-tuning"] = train(
        "train.py",
        "--dataset_dir",
        data,
        "--save_dir",
        folder / "plain",
        "--test_file",
        "test.txt",
        "--batch_size",
        8,
        "--epochs",
        EPOCHS,
        "--model_name",
        model,
        *common,
    )
    results["linear"] = linear_figures(data)
    return results, sizes


def main(argv=None):
    args = parse_args(argv)
    for name in args.sets:
        runs = {}
        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as folder:
                results, sizes = one_seed(name, seed, args, Path(folder))
            for way, values in results.items():
                runs.setdefault(way, []).append(values)
        rows = ", ".join(f"{count} {split}" for split, count in sizes.items())
        print(f"{name}: {rows} rows; {len(args.seeds)} seeds; mean (lowest-highest)")
        print(f"{'':12}{'micro F1':>22}{'macro F1':>22}{'CPU seconds':>18}{'loss, first':>13}{'last':>9}")
        for way, values in runs.items():
            columns = list(zip(*values))
            line = f"{way:12}"
            for column, width, form in zip(columns, (22, 22, 18), (".2f", ".2f", ".1f")):
                middle, ends = statistics.mean(column), (min(column), max(column))
                line += f"{middle:{form}} ({ends[0]:{form}}-{ends[1]:{form}})".rjust(width)
            for column, width in zip(columns[3:], (13, 9)):
                line += f"{statistics.mean(column):{width}.4f}"
            print(line, flush=True)
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
