"""Does augmentation help? Each strategy of analysis/aug.py that needs no download, with two new rows per row.

    python benchmarks/augmentation.py                       # both sets, 3 seeds, linear baseline and small model
    python benchmarks/augmentation.py --sets duee --models linear

A seed draws the rows to train on (2,000 of duee, 500 of cail-divorce), the new rows, and the weights. Two models are
trained and scored on all of dev: the linear baseline (text_cls/linear_model.py, no thresholds) and a small ERNIE
from random weights, made as in benchmarks/real_data.py and trained for as many steps with new rows as without (a third
of the epochs). Gains are those over each row three times: that alone changes a model. The words of substitute, insert
and mix are GROUPS below, written before any figure was seen.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import DATA, run_script
from public_sets import linear_predictions, micro_macro, read_set
from small_model import evaluate, make_model, train_model
from tables import gains_over
from text_cls.cli import non_negative_int

ROWS = {"duee": 2000, "cail-divorce": 500}
REPEAT = "repeat"  # the rows again, unchanged
WAYS = {
    "none": None,
    REPEAT: None,
    "delete": "delete",
    "swap": "swap",
    "substitute, own words": "substitute",
    "insert, own words": "insert",
    "mix, own words": "mix",
}
EPOCHS, CREATE_N = {"duee": 12, "cail-divorce": 30}, 2  # epochs without new rows
MODELS = ("linear", "small")
TRAINING = "--max_seq_length 128 --batch_size 16 --learning_rate 1e-3 --logging_steps 1000 --max_dev_samples 200"
GROUPS = """
公司 企业|表示 称 说|宣布 公布|目前 现在 当前|今天 今日|昨天 昨日|发生 出现|造成 导致
孩子 子女 小孩|妻子 太太|丈夫 先生|结婚 成婚|离婚 离异|要求 请求|认为 觉得|共同 一起
夫妻 夫妇|双方 两人|因为 由于|所以 因此|但是 但 可是|已经 已|进行 开展|获得 取得
帮助 协助|比赛 赛事|冠军 第一名|死亡 身亡|受伤 负伤|地震 强震|召回 回收|上市 挂牌
辞职 离职|裁员 减员|消息 新闻|记者 采访者|男子 男人|女子 女人|警方 公安|医院 诊所
学校 校方|学生 同学|老师 教师|生活 过日子|感情 情感|财产 资产|债务 欠债|房屋 房子|居住 住
分居 分开|抚养 养育|抚养费 生活费|支付 付|法院 法庭|判决 裁判|原告 起诉方|被告 被诉方
经常 时常 常常|非常 十分 很|开始 起初|结束 完结|时间 时候|问题 毛病|没有 无|可以 能够 能
应当 应该|其 他|与 和|及 以及|并 并且|向 对
"""


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(ROWS), choices=list(ROWS), help="public sets (both)")
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5], help="one run for each (3 4 5)")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, help="models to score with (both)")
    return parser.parse_args(argv)


def write_dictionary(path):
    """Any word of a group may replace another."""
    groups = [group.split() for line in GROUPS.split("\n") for group in line.split("|") if group]
    words = {word: [other for other in group if other != word] for group in groups for word in group}
    path.write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    return path


def make_rows(folder, source, way, seed):
    """Writes the sampled rows, and the new rows made from them, to the folder's train.txt. Returns the number made."""
    repeated = source * CREATE_N if way == REPEAT else ""
    (folder / "train.txt").write_text(source + repeated, encoding="utf-8")
    if WAYS[way] is None:
        return repeated.count("\n")
    new, words = folder / "aug.txt", write_dictionary(folder / "words.json")
    files = ("--train_path", folder / "train.txt", "--aug_path", new, "--aug_type", "custom", "--custom_file", words)
    run_script("analysis/aug.py", *files, "--aug_strategy", WAYS[way], "--create_n", CREATE_N, "--seed", seed)
    made = new.read_text(encoding="utf-8")
    (folder / "train.txt").write_text(source + made, encoding="utf-8")
    return made.count("\n")


def score_linear(name, folder, seed, made):
    """Micro and macro F1 in percent of the linear baseline on dev."""
    labels, train, dev = read_set(folder, "train.txt", "dev.txt")
    predicted = linear_predictions(train.texts, train.multi_hot(len(labels)), dev.texts)
    return micro_macro(dev.multi_hot(len(labels)), predicted, labels.parents)


def score_small(name, folder, seed, made):
    """Micro and macro F1 in percent of a small ERNIE on dev, from its best epoch by 200 rows of dev."""
    model, checkpoint = folder / "model", folder / "checkpoint"
    if not model.exists():
        make_model(model, folder / "train.txt", seed)
    rows = (folder / "train.txt").read_text(encoding="utf-8").count("\n")
    epochs = round(EPOCHS[name] * (rows - made) / rows)
    train_model(folder, model, checkpoint, seed, f"--epochs {epochs} {TRAINING}")
    return evaluate(folder, checkpoint, folder)[0]


def sampled(path, count, seed):
    """`count` lines of a file drawn by seed, in its order."""
    import numpy as np

    lines = path.read_text(encoding="utf-8").splitlines()
    chosen = np.sort(np.random.default_rng(seed).choice(len(lines), count, replace=False))
    return "".join(f"{lines[i]}\n" for i in chosen)


def table(name, kind, results):
    """Lines of mean, range, and mean gain over repeated rows with the same seeds. results: {way: [(micro, macro)]}"""
    seeds = len(results["none"])
    yield f"{name}, {kind}: {ROWS[name]} rows, {seeds} seeds; F1 on dev in percent, mean (lowest-highest)"
    yield f"{'way':24}{'micro F1':>22}{'gain':>8}{'macro F1':>22}{'gain':>8}{'macro F1 up':>14}"
    yield from gains_over(REPEAT, results, 8, 12)


def main(argv=None):
    args = parse_args(argv)
    scorers = {"linear": score_linear, "small": score_small}
    for name in args.sets:
        results = {kind: {way: [] for way in WAYS} for kind in args.models}
        for seed in args.seeds:
            source = sampled(DATA / name / "train.txt", ROWS[name], seed)
            with tempfile.TemporaryDirectory() as folder:
                folder = Path(folder)
                for file in ("dev.txt", "label.txt"):
                    os.symlink(DATA / name / file, folder / file)
                for way in WAYS:
                    made = make_rows(folder, source, way, seed)
                    for kind in args.models:
                        scores = scorers[kind](name, folder, seed, made)
                        results[kind][way].append(scores)
                        print(
                            f"{name}, seed {seed}, {way}, {made} new rows, {kind}: micro F1 {scores[0]:.2f}, "
                            f"macro F1 {scores[1]:.2f}",
                            flush=True,
                        )
        for kind in args.models:
            print("\n".join(table(name, kind, results[kind])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
