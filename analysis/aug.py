"""Make more training rows from existing ones by changing words; the labels stay the same.

    python analysis/aug.py --train_path data/train.txt --aug_path data/aug.txt --aug_strategy delete --create_n 2
    python analysis/aug.py --aug_strategy mix --aug_type custom --custom_file words.json
    python analysis/aug.py --aug_strategy substitute --aug_type mlm --model_name ernie-1.0-large-zh-cw --device gpu

Writes only the new rows to --aug_path, and prints how to train on both files. delete, swap and custom need no network;
synonym, homonym and mlm need PaddleNLP's files and are for Chinese.
"""

import argparse
import hashlib
import itertools
import os
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from augmentation import MLM_NAME, STRATEGIES, TYPES, Augmenter
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, command, fraction, logger, non_negative_int, positive_int
from text_cls.files import atomic_write
from text_cls.inputs import open_input
from text_cls.language import N_, tr
from text_cls.rows import format_row, one_line, read_lines, tab_message
from text_cls.terminal import progress_bar


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    data = ROOT / "data"
    parser.add_argument("--train_path", default=str(data / "train.txt"), help="labelled rows (%(default)s)")
    parser.add_argument(
        "--aug_path", default=str(data / "aug.txt"), help="file for the new rows, overwritten (%(default)s)"
    )
    parser.add_argument(
        "--aug_strategy", default="substitute", choices=STRATEGIES, help="how words are changed (%(default)s)"
    )
    parser.add_argument("--aug_type", default="synonym", choices=TYPES, help="source of new words (%(default)s)")
    parser.add_argument("--create_n", type=positive_int, default=2, help="new rows per row (%(default)s)")
    ratio = fraction(zero=False, one=True)
    parser.add_argument("--aug_percent", type=ratio, default=0.1, help="share of words to change (%(default)s)")
    parser.add_argument("--custom_file", help='JSON {"word": ["other word"]} for --aug_type custom (none)')
    parser.add_argument("--model_name", default=MLM_NAME, help="model of mlm, a name or folder (%(default)s)")
    parser.add_argument("--device", default="gpu", help="device of mlm: cpu, gpu, xpu, npu or gpu:0 (%(default)s)")
    parser.add_argument("--seed", type=non_negative_int, default=3, help="random seed (%(default)s)")
    return parser.parse_args(argv)


def read_pairs(path, problems, again=False):
    """Yields (text, rest of the line) of each row; the rest is a tab and the labels, or empty.

    again: as in `read_lines`.
    """
    for number, line in read_lines(path, again=again):
        text, tab, labels = line.partition("\t")
        if line.count("\t") > 1:
            problems.add(tab_message, path, number, line)
        elif text.strip():
            yield text.strip(), tab + labels
        elif labels.strip():
            problems.add(
                tr("{path}:{number}: labels without a text; a row is text<TAB>label,label", path=path, number=number)
            )


def key_of(text):
    """An 8-byte hash of a text, so that the texts of a large file fit into memory."""
    return hashlib.blake2b(one_line(text).encode("utf-8"), digest_size=8).digest()


def write_new_rows(path, pairs, augmenter, rows, known):
    """Writes the new rows whose texts are not known. Returns counts: made, in_train, again, short, none."""
    counts, made = Counter(), set()
    with atomic_write(path) as file, progress_bar(rows, N_("rows")) as bar:
        for text, labels in pairs:
            new_texts = augmenter.augment(text)
            counts["none"] += not new_texts
            counts["short"] += 0 < len(new_texts) < augmenter.create_n
            for new in new_texts:
                key = key_of(new)
                if key in known:
                    counts["in_train"] += 1
                elif key in made:
                    counts["again"] += 1
                else:
                    made.add(key)
                    file.write(format_row(new, *labels.split("\t")[1:]))
            bar.update()
    counts["made"] = len(made)
    return counts


def log_next_step(train_path, aug_path):
    """Logs the commands that train on the rows of both files."""
    with open_input(train_path, again=True) as file:
        file.seek(-1, os.SEEK_END)
        ends_with_newline = file.read() == b"\n"
    folder, taken = os.path.dirname(train_path), {os.path.realpath(train_path), os.path.realpath(aug_path)}
    names = itertools.chain(["train_aug.txt"], (f"train_aug{n}.txt" for n in itertools.count(2)))
    name = next(name for name in names if os.path.realpath(os.path.join(folder, name)) not in taken)
    both = os.path.join(folder, name)
    # Without a line break, the last row and the first new one would become one line.
    parts = "cat '%s' '%s'" if ends_with_newline else "{ cat '%s'; echo; cat '%s'; }"
    logger.info("Next, train on both; leave label.txt and dev.txt unchanged, so that dev shows whether it helped:")
    logger.info("  " + parts + " > '%s'", train_path, aug_path, both)
    logger.info("  python train.py --dataset_dir '%s' --train_file %s", folder or ".", name)


@command
def main(argv=None):
    args = parse_args(argv)
    problems, known, rows = Problems(), set(), 0
    with problems.collect():
        for text, _ in read_pairs(args.train_path, problems):
            known.add(key_of(text))
            rows += 1
        if not rows and not problems.count:
            problems.add(tr("{train_path}: no rows; each line is text<TAB>label,label", train_path=args.train_path))
    if os.path.realpath(args.train_path) == os.path.realpath(args.aug_path):
        problems.add(
            tr(
                "--aug_path {aug_path}: this is --train_path, whose rows would be lost; name another file",
                aug_path=args.aug_path,
            )
        )
    with problems.collect():
        augmenter = Augmenter(
            args.aug_strategy,
            args.aug_type,
            args.create_n,
            args.aug_percent,
            args.seed,
            args.custom_file,
            args.model_name,
            args.device,
        )
    problems.stop_if_any()

    counts = write_new_rows(args.aug_path, read_pairs(args.train_path, problems, again=True), augmenter, rows, known)
    logger.info("%d new rows from %d saved in %s", counts["made"], rows, args.aug_path)
    logger.info("Dropped: %d already in %s, %d duplicates", counts["in_train"], args.train_path, counts["again"])
    logger.info(
        "Rows with too few words, or none in the dictionary: %d gave fewer than %d new rows, %d gave none",
        counts["short"],
        args.create_n,
        counts["none"],
    )
    if counts["made"] and os.path.isfile(args.train_path):
        log_next_step(args.train_path, args.aug_path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
