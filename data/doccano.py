"""Convert labels from doccano or Label Studio into the files that train.py reads.

    python data/doccano.py --doccano_file doccano.jsonl --task_type multi_label --save_dir ./data --splits 0.8 0.2
    python data/doccano.py --doccano_file doccano.jsonl --task_type hierarchical --save_dir ./data --splits 0.8 0.1 0.1
    python data/doccano.py --doccano_file anna.jsonl bo.jsonl --task_type multi_label --disagreement majority
    python data/doccano.py --doccano_file relabelled.jsonl --task_type multi_label --save_dir ./data --dirty

Reads doccano's JSONL or JSON, and Label Studio's JSON or JSON-MIN. data/doccano.md says how to label and export.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from annotation_exports import read_annotations
from annotators import joined_labels
from dataset_files import (
    NAMES,
    add_dataset_flags,
    check_flags,
    labelled_texts,
    log_rows,
    split,
    write_dataset,
    write_rows,
)
from label_studio import ignored
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, command, logger
from text_cls.language import tr
from text_cls.locks import write_lock
from tool_labels import check_known, check_new


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--doccano_file",
        nargs="+",
        default=["doccano.jsonl"],
        help="exports of the labelling tool: one, or one for each annotator (doccano.jsonl)",
    )
    add_dataset_flags(parser)
    add_annotation_flags(parser)
    single = parser.add_mutually_exclusive_group()
    single.add_argument("--valid", action="store_true", help="write all rows, chosen by sparse.py, to valid.txt (off)")
    single.add_argument(
        "--dirty", action="store_true", help="write all rows, found by dirty.py, to train_dirty.txt (off)"
    )
    args = parser.parse_args(argv)
    if args.splits is None:
        args.splits = [1.0] if args.valid or args.dirty else [0.8, 0.2]
    args.control = {name: label or None for name, _, label in (each.partition("=") for each in args.control)}
    args.files = ", ".join(args.doccano_file)
    return args


def add_annotation_flags(parser):
    """Adds the flags for exports of several controls or annotators."""
    parser.add_argument(
        "--control",
        action="append",
        default=[],
        metavar="NAME[=LABEL]",
        help="Label Studio: use this control's labels, below LABEL if given; may be repeated (the only one)",
    )
    parser.add_argument(
        "--join_controls",
        action="store_true",
        help="Label Studio: make each control a branch of a hierarchy: NAME##label (off)",
    )
    parser.add_argument(
        "--split_joined",
        action="store_true",
        help="split labels like A#B, which doccano makes of A and B on import, and like A；B (off)",
    )


def check_args(args, problems):
    check_flags(args.splits, args.separator, problems)
    if len(args.splits) > 1 and (args.valid or args.dirty):
        problems.add(
            tr("--{flag} writes one file; omit --splits, or set it to 1.0", flag="valid" if args.valid else "dirty")
        )
    if (args.join_controls or any(args.control.values())) and args.task_type != "hierarchical":
        flag = "--join_controls" if args.join_controls else "--control NAME=LABEL"
        problems.add(tr("{flag} makes a hierarchy; add --task_type hierarchical", flag=flag))


def run(args):
    """Converts the exports."""
    problems = Problems()
    check_args(args, problems)
    label_path = os.path.join(args.save_dir, "label.txt")
    with problems.collect():
        unused = Counter()
        flags = args.control, args.join_controls
        annotations = read_annotations(args.doccano_file, args.separator, problems, unused, *flags)
        joined = joined_labels(annotations, args.split_joined)
        how = {"task_type": args.task_type, "separator": args.separator, "disagreement": args.disagreement}
        # dirty.py keeps the old labels after the text.
        rows, counts, places = labelled_texts(annotations, problems, **how, old_labels=args.dirty)
        names = sorted({name for _, labels in rows for name in labels})
        if rows and not names and not problems.count:
            problems.add(tr("{files}: no row has a label", files=args.files))
        if (args.valid or args.dirty) and os.path.exists(label_path):
            check_known(rows, label_path, problems)
        else:
            remedy = tr("add --split_joined to split them, or rename them in the labelling tool")
            check_new(places, problems, lambda sign: remedy)
    problems.stop_if_any()
    parts = split(args.files, rows, names, problems, splits=args.splits, shuffle=args.is_shuffle, seed=args.seed)
    problems.stop_if_any()
    log_rows(args.files, rows, counts, args.disagreement)
    for line in ignored(unused):
        logger.info(line)
    for line in joined:
        logger.warning(line)
    if single := "valid.txt" if args.valid else "train_dirty.txt" if args.dirty else None:
        write_rows(os.path.join(args.save_dir, single), rows, parts[0])
        log_next_step(args.save_dir, single)
    else:
        write_dataset(args.save_dir, rows, names, parts)


def log_next_step(save_dir, name):
    other, both = {
        "valid.txt": ("train.txt", "train_valid.txt"),
        "train_dirty.txt": ("train_dirty_rest.txt", "train_clean.txt"),
    }[name]
    paths = [os.path.join(save_dir, file) for file in (other, name, both)]
    logger.info("Next, train with these rows:")
    logger.info("  cat '%s' '%s' > '%s'", *paths)
    logger.info("  python train.py --dataset_dir '%s' --train_file %s", save_dir, both)


@command
def main(argv=None):
    args = parse_args(argv)
    with write_lock(os.path.join(args.save_dir, NAMES[1][0])):  # as split.py does
        run(args)


if __name__ == "__main__":
    sys.exit(main())
