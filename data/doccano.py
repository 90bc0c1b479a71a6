"""Convert labels from doccano or Label Studio into the files that train.py reads.

    python data/doccano.py --doccano_file doccano.jsonl --task_type multi_label --save_dir ./data --splits 0.8 0.2
    python data/doccano.py --doccano_file doccano.jsonl --task_type hierarchical --save_dir ./data --splits 0.8 0.1 0.1
    python data/doccano.py --doccano_file anna.jsonl bo.jsonl --task_type multi_label --disagreement majority
    python data/doccano.py --doccano_file relabelled.jsonl --task_type multi_label --save_dir ./data --dirty

Reads doccano's JSONL or JSON, and Label Studio's JSON or JSON-MIN. data/doccano.md says how to label and export.
"""

import argparse
import itertools
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from annotation_exports import read_annotations
from annotators import DISAGREEMENT, joined_labels, settle
from label_studio import ignored
from text_cls.cli import Problems, UserError, boolean, command, finite_number, logger, non_negative_int
from text_cls.files import atomic_write
from text_cls.label_tree import SEPARATOR
from text_cls.locks import write_lock
from text_cls.new_labels import log_near_names
from text_cls.rows import Labels, one_line
from tool_labels import check_known, check_new, closed_labels

NAMES = {1: ["train.txt"], 2: ["train.txt", "dev.txt"], 3: ["train.txt", "dev.txt", "test.txt"]}

TASKS = ("multi_class", "multi_label", "hierarchical")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--doccano_file",
        nargs="+",
        default=["doccano.jsonl"],
        help="exports of the labelling tool: one, or one for each annotator (doccano.jsonl)",
    )
    parser.add_argument("--save_dir", default="./data", help="folder to write to (%(default)s)")
    parser.add_argument(
        "--splits",
        type=finite_number,
        nargs="+",
        help="shares of train, dev, test: 1, 2 or 3 numbers that sum to 1 (0.8 0.2)",
    )
    parser.add_argument(
        "--task_type",
        default="multi_label",
        choices=TASKS,
        help="labels per row: one, any number, or paths (%(default)s)",
    )
    parser.add_argument(
        "--is_shuffle",
        type=boolean,
        default=True,
        help="True: stratified random split; False: split in the file's order (%(default)s)",
    )
    parser.add_argument("--seed", type=non_negative_int, default=3, help="random seed for the split (%(default)s)")
    parser.add_argument(
        "--separator", default=SEPARATOR, help="separator of levels in the export; becomes ## (%(default)s)"
    )
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
        "--disagreement",
        choices=DISAGREEMENT,
        help="if annotators of a text disagree: use the newest annotation, labels of more than half of them, or all "
        "labels, or refuse (newest; rows of doccano that repeat a text are all kept)",
    )
    parser.add_argument(
        "--split_joined",
        action="store_true",
        help="split labels like A#B, which doccano makes of A and B on import, and like A；B (off)",
    )


def check_args(args, problems):
    if not 1 <= len(args.splits) <= 3 or abs(sum(args.splits) - 1) > 1e-6 or min(args.splits) <= 0:
        shares = " ".join(f"{share:g}" for share in args.splits)
        problems.add(f"--splits {shares}: must be 1, 2 or 3 numbers above 0 that sum to 1, like 0.8 0.2")
    elif len(args.splits) > 1 and (args.valid or args.dirty):
        problems.add(f"--{'valid' if args.valid else 'dirty'} writes one file; omit --splits, or set it to 1.0")
    if not args.separator:
        problems.add(f"--separator: must not be empty; use, for example, {SEPARATOR}")
    if (args.join_controls or any(args.control.values())) and args.task_type != "hierarchical":
        flag = "--join_controls" if args.join_controls else "--control NAME=LABEL"
        problems.add(f"{flag} makes a hierarchy; add --task_type hierarchical")


def convert(annotations, args, problems):
    """Rows (text, labels: list of str) of the export, counts of changed and skipped rows, and the rows of each label.

    The latter are {label as annotators named it, without its ancestors: [where, ...]}.
    """
    rows, seen, counts, places = [], set(), Counter(), {}
    single = args.task_type == "multi_class"
    for text, members in by_text(annotations, args, counts):
        for each in members:
            each.closed = closed_labels(each, args, places, problems)
        labels, source = settle(members, args.disagreement or "newest", single, counts)
        if labels is None and args.disagreement == "refuse":
            sets = " | ".join(sorted({",".join(each.closed) for each in members}))
            where = members[0].where
            problems.add(f"{where}: annotators disagree ({sets}): {text:.40}; label it again in the labelling tool")
        if labels is None:
            continue
        number = len(source.labels if source else labels)
        if single and number != 1:
            where = (source or members[0]).where
            problems.add(f"{where}: {number} labels; --task_type multi_class takes one per row (or use multi_label)")
        row = text, ",".join(labels)
        counts["repeated"] += row in seen
        if row not in seen:
            seen.add(row)
            rows.append((text, labels))
    return rows, counts, places


def by_text(annotations, args, counts):
    """(text, annotations) of each task of Label Studio and each row of doccano; with --disagreement, of each text."""
    tasks, texts = {}, {}
    for each in annotations:
        tasks.setdefault(each.task, []).append(each)
    for task, members in tasks.items():
        text = members[0].text
        if args.dirty:
            text = text.rpartition("\t")[0] or text  # without the old labels, which dirty.py keeps after the text
        clean = one_line(text).strip()
        counts["spaced"] += clean != text.strip()
        if clean:
            texts.setdefault(clean if args.disagreement else task, (clean, []))[1].extend(members)
        else:
            counts["without a text"] += 1
    return texts.values()


def split(rows, names, args, problems):
    """Row numbers of each part."""
    import numpy as np
    from scipy import sparse

    from text_cls.splitting import stratified_split

    if len(rows) < len(args.splits):
        problems.add(f"{args.files}: {len(rows)} rows cannot fill {len(args.splits)} files")
        return []
    order = np.random.default_rng(args.seed).permutation(len(rows))
    if not args.is_shuffle:
        ends = np.round(np.cumsum(args.splits) * len(rows)).astype(int)
        parts = np.split(np.arange(len(rows)), ends[:-1])
    elif len(args.splits) == 1:
        parts = [order]
    else:
        index = {name: i for i, name in enumerate(names)}
        labels = [[index[name] for name in rows[i][1]] for i in order]
        columns = np.array([i for ids in labels for i in ids], dtype=np.int64)
        ends = np.cumsum([0, *map(len, labels)])
        targets = sparse.csr_matrix((np.ones(len(columns), bool), columns, ends), shape=(len(rows), len(names)))
        found = stratified_split(targets, [rows[i][0] for i in order], args.splits, args.seed)
        parts = [order[part] for part in found]
    if not all(map(len, parts)):
        problems.add(f"{args.files}: {len(rows)} rows are too few for these --splits: one file would be empty")
    return parts


def write(path, lines):
    """Writes the file, and keeps a copy of an existing file with different contents."""
    content = "".join(f"{line}\n" for line in lines)
    try:
        if os.path.exists(path) and Path(path).read_bytes() != content.encode(errors="backslashreplace"):
            numbers = itertools.chain([""], itertools.count(2))
            backup = next(name for name in (f"{path}.bak{n}" for n in numbers) if not os.path.exists(name))
            shutil.copy2(path, backup)
            logger.info("%s already existed; its old contents are in %s", path, backup)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    with atomic_write(path) as file:
        file.write(content)


def log_rows(rows, counts, args):
    logger.info("%s: %d rows", args.files, len(rows))
    messages = {
        "spaced": "%d texts contained tabs or line breaks, now spaces",
        "without a text": "%d rows without a text skipped",
        "repeated": "%d rows with the same text and labels as another skipped",
        "unlabelled": "%d rows without a label skipped, because another annotator labelled their text",
        "unsettled": "%d texts skipped: no majority of their annotators agrees; label them again, or use another "
        "--disagreement",
    }
    for name, message in messages.items():
        if counts[name]:
            logger.info(message, counts[name])
    if counts["several"]:
        log = logger.warning if counts["disagree"] else logger.info
        how = f": {DISAGREEMENT[args.disagreement or 'newest']} (see --disagreement)" if counts["disagree"] else ""
        message = "%d texts have several annotations; annotators disagree about %d of them%s"
        log(message, counts["several"], counts["disagree"], how)
    label_sets = {}
    for text, labels in rows:
        label_sets.setdefault(text, set()).add(",".join(labels))
    contradictory = [(text, sets) for text, sets in label_sets.items() if len(sets) > 1]
    for text, sets in contradictory[:5]:
        logger.warning("Same text, different labels (%s): %.60s", " | ".join(sorted(sets)), text)
    if contradictory:
        logger.warning(
            "%d texts have rows with different labels, all kept; for one row each, add --disagreement newest, majority "
            "or union",
            len(contradictory),
        )
    empty = sum(not labels for _, labels in rows)
    if empty:
        logger.warning(
            "%d rows have no label and are kept: for the model, no label applies to them. If they are just not "
            "labelled yet, label them, or export only finished rows",
            empty,
        )


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
        rows, counts, places = convert(annotations, args, problems)
        names = sorted({name for _, labels in rows for name in labels})
        if rows and not names and not problems.count:
            problems.add(f"{args.files}: no row has a label")
        if (args.valid or args.dirty) and os.path.exists(label_path):
            check_known(rows, label_path, problems)
        else:
            check_new(places, problems)
    problems.stop_if_any()
    parts = split(rows, names, args, problems)
    problems.stop_if_any()
    log_rows(rows, counts, args)
    for line in ignored(unused):
        logger.info(line)
    for line in joined:
        logger.warning(line)

    single = "valid.txt" if args.valid else "train_dirty.txt" if args.dirty else None
    for name, part in zip([single] if single else NAMES[len(parts)], parts):
        path = os.path.join(args.save_dir, name)
        write(path, (f"{rows[i][0]}\t{','.join(rows[i][1])}" for i in part))
        found = Counter(label for i in part for label in rows[i][1])
        missing = [label for label in names if not found[label]]
        more = f"; {len(missing)} labels have no row in it: {', '.join(missing[:5])}" if missing and not single else ""
        logger.info("%s: %d rows%s%s", path, len(part), more, " ..." if len(missing) > 5 and more else "")
    if single:
        log_next_step(args.save_dir, single)
        return
    write(os.path.join(args.save_dir, "data.txt"), (rows[i][0] for i in parts[-1]))
    write(label_path, Labels(names).names)
    logger.info("%s: %d labels", label_path, len(names))
    log_near_names(Counter(name for _, labels in rows for name in labels))
    for name in NAMES[3][len(parts) :]:
        if os.path.exists(os.path.join(args.save_dir, name)):
            logger.warning("%s is from an earlier run; delete it if these files contain its rows", name)
    logger.info("Next: python train.py --dataset_dir '%s'", args.save_dir)


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
