"""Prompt tuning beside plain fine-tuning on a few rows of the two public sets: F1, CPU time, loss.

    python benchmarks/few_shot.py                            # both sets, 3 seeds
    python benchmarks/few_shot.py --sets duee --seeds 3 --test_rows 500

A seed draws 2 rows per label of duee (148) or 4 per label of cail-divorce (80), as many again for dev, a sample of all
other rows of train and dev for test, and the weights of a small masked-language ERNIE for the set's characters. Both
methods get the same rows, weights, batches of 8 and epochs, and keep the model that is best on dev; `linear` is TF-IDF
with one linear SVM per label. CPU seconds count all cores together, and include the start of the script and the scoring
of the test rows, which prompt tuning does twice: for the scores and for predictions.txt. Losses are means over the
steps of a log line, one step of fine-tuning and five of prompt tuning: compare them within a line only. The sets are
read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import re
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import DATA, cpu_seconds, run_script
from public_sets import micro_macro, read_set
from small_model import MODEL, make_model, train_model
from tables import spread
from text_cls import linear_model
from text_cls.cli import non_negative_int, positive_int

SETS = {"duee": (2, "这句话描述的事件是"), "cail-divorce": (4, "这句话包含的要素有")}
EPOCHS = 30
PROMPT = f"--num_train_epochs {EPOCHS} --early_stopping_patience {EPOCHS} --ppt_learning_rate 1e-2"
COMMON = "--max_seq_length 128 --learning_rate 1e-3"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=sorted(SETS), choices=sorted(SETS), help="public sets (both)")
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5], help="one run for each (3 4 5)")
    parser.add_argument("--test_rows", type=positive_int, default=2000, help="other rows to score (%(default)s)")
    parser.add_argument("--model", default=MODEL, help="flags of data/make_tiny_model.py (%(default)s)")
    return parser.parse_args(argv)


def draw(gold, each, random, taken):
    """Numbers of `each` free rows per label, rare labels first; marks them in `taken`. gold: bool [rows, labels]"""
    drawn = []
    for label in np.argsort(gold.sum(axis=0), kind="stable"):
        free = np.flatnonzero(gold[:, label] & ~taken)
        chosen = random.choice(free, min(each, len(free)), replace=False)
        taken[chosen] = True
        drawn += chosen.tolist()
    return drawn


def make_cut(name, seed, test_rows, folder):
    """Writes train.txt, dev.txt, test.txt and label.txt. Returns {split: number of rows}."""
    (labels, *parts), random = read_set(DATA / name, "train.txt", "dev.txt"), np.random.default_rng(seed)
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


def figures_of(finished):
    """Test micro and macro F1 in percent, CPU seconds, first and last logged loss, of a training script."""
    pattern = r"Test dataset size.* micro f1 score: ([\d.]+), macro f1 score: ([\d.]+)"
    scores = re.findall(pattern, finished.log)[-1]
    losses = re.findall(r"global step .* loss: ([\d.]+)", finished.log)
    return (*(100 * float(score) for score in scores), finished.cpu_seconds, float(losses[0]), float(losses[-1]))


def linear_figures(folder):
    """Test micro and macro F1 in percent, and CPU seconds of training, of the linear baseline."""
    labels, train, test = read_set(folder, "train.txt", "test.txt")
    before = cpu_seconds()
    model = linear_model.fit(list(train.texts), train.multi_hot(len(labels)), calibrate=False)
    seconds = cpu_seconds() - before
    predicted = model.scores(list(test.texts)) > 0
    return *micro_macro(test.multi_hot(len(labels)), predicted, labels.parents), seconds


def one_seed(name, seed, args, folder):
    """{way: figures} and {split: number of rows}."""
    data, model = folder / "data", folder / "model"
    data.mkdir()
    sizes = make_cut(name, seed, args.test_rows, data)
    make_model(model, DATA / name / "train.txt", seed, f"--masked_lm {args.model}")
    paths = ("--data_dir", data, "--model_name_or_path", model, "--output_dir", folder / "prompt")
    flags = ("--do_train", "--do_predict", "--device", "cpu", "--seed", seed, *PROMPT.split(), *COMMON.split())
    prompt = run_script("few-shot/train.py", *paths, "--prompt", SETS[name][1], *flags)
    flags = f"--test_file test.txt --batch_size 8 --epochs {EPOCHS} {COMMON}"
    plain = train_model(data, model, folder / "plain", seed, flags)
    return {"prompt": figures_of(prompt), "fine-tuning": figures_of(plain), "linear": linear_figures(data)}, sizes


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
                line += spread(column, form).rjust(width)
            for column, width in zip(columns[3:], (13, 9)):
                line += f"{statistics.mean(column):{width}.4f}"
            print(line, flush=True)
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
