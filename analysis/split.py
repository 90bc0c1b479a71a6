"""Split one file of labelled rows into train.txt, dev.txt and test.txt, each label in the same proportion.

    python analysis/split.py --dataset_dir data --input_file all.txt
    python analysis/split.py --dataset_dir data --input_file all.txt --splits 0.9 0.1 --output_dir split --seed 3

Iterative stratification for rows with several labels; a rare label is in every file if that is possible. Rows with the
same text stay in one file. label.txt is checked, or made from the rows if there is none.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, command, finite_number, logger, non_negative_int
from text_cls.files import atomic_write
from text_cls.foreign_files import csv_message
from text_cls.label_names import tidy_name
from text_cls.label_tree import paths_to
from text_cls.language import tr
from text_cls.locks import write_lock
from text_cls.new_labels import check_new_labels, log_near_names, replace_command
from text_cls.rows import Labels, format_row, label_problem, read_labels, read_lines, read_rows
from text_cls.splitting import stratified_split
from text_cls.terminal import log_table
from utils import log_rows

NAMES = ("train.txt", "dev.txt", "test.txt")
SHOWN = 20  # labels in the log that are missing from a file


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of --input_file and --label_file (required)")
    parser.add_argument("--input_file", default="all.txt", help="labelled rows to split (%(default)s)")
    parser.add_argument(
        "--label_file", default="label.txt", help="labels; made from the rows if there is no such file (%(default)s)"
    )
    parser.add_argument(
        "--splits",
        type=finite_number,
        nargs="+",
        default=[0.8, 0.1, 0.1],
        help="shares of train.txt, dev.txt and optionally test.txt (0.8 0.1 0.1)",
    )
    parser.add_argument("--output_dir", help="folder of the files to write (--dataset_dir)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files (off)")
    parser.add_argument(
        "--seed", type=non_negative_int, default=3, help="random seed; the same seed gives the same files (%(default)s)"
    )
    args = parser.parse_args(argv)
    if not (len(args.splits) in (2, 3) and min(args.splits) > 0 and abs(sum(args.splits) - 1) < 1e-6):
        splits = " ".join(map(str, args.splits))
        parser.error(tr("--splits takes two or three numbers above 0 that sum to 1, not {splits}", splits=splits))
    return args


def labels_of_rows(path, problems):
    """The labels of the rows with all their ancestors, sorted by name. What is wrong with them goes to `problems`."""
    counts, places = Counter(), {}
    for number, line in read_lines(path):
        for name in filter(None, map(tidy_name, line.partition("\t")[2].split(","))):
            if "，" in name or "\t" in name:
                continue  # not a single label; the reader of the rows reports it
            if problem := label_problem(name):
                problems.add(f"{path}:{number}: label {name!r} {problem}")
                continue
            counts[name] += 1
            places.setdefault(name, f"{path}:{number}")

    def remedy(sign):
        return tr(
            "{replace_command}. If it is part of the name, write the labels into the label file",
            replace_command=replace_command(path, sign),
        )

    check_new_labels(counts, places, problems, remedy)
    return Labels(sorted({path for name in counts for path in paths_to(name)}))


def check_outputs(args, source, label_file, problems):
    """Paths of the files to write. Existing files that would be lost are added to `problems`."""
    folder = args.output_dir or args.dataset_dir
    paths = [os.path.join(folder, name) for name in NAMES[: len(args.splits)]]
    label_path = os.path.join(folder, "label.txt")
    if not _same_file(label_path, label_file):
        paths.append(label_path)
    for path in paths:
        if _same_file(path, source):
            problems.add(
                tr(
                    "{path} is the file to split and would be replaced; rename it, or use another --output_dir",
                    path=path,
                )
            )
        elif os.path.exists(path) and not args.overwrite:
            problems.add(tr("{path} already exists; use --overwrite to replace it, or another --output_dir", path=path))
    return paths


def _same_file(path, other):
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def texts_of_labels(rows, num_labels):
    """Number of distinct texts of each label, int array [labels], and of all rows."""
    numbers = {}
    text = np.array([numbers.setdefault(text, len(numbers)) for text in rows.texts], dtype=np.int64)
    pairs = np.unique(np.repeat(text, np.diff(rows.offsets)) * num_labels + rows.label_ids)
    return np.bincount(pairs % num_labels, minlength=num_labels), len(numbers)


def counts_in(rows, parts, num_labels):
    """Number of rows of each label in each file, int array [files, labels]. parts: row numbers of each file."""
    return np.stack(
        [np.bincount(np.concatenate([rows.labels_of(i) for i in part]), minlength=num_labels) for part in parts]
    )


def split_rows(rows, num_labels, fractions, seed):
    """Row numbers of each file, by `stratified_split`."""
    from scipy import sparse

    cells = np.ones(len(rows.label_ids), dtype=bool), rows.label_ids, rows.offsets
    targets = sparse.csr_matrix(cells, shape=(len(rows), num_labels))
    return stratified_split(targets, rows.texts, fractions, seed)


def write_parts(paths, source, rows, parts):
    """Copies the lines of the source in its order; line breaks within them become spaces."""
    lines = dict(read_lines(source, again=True))
    for path, part in zip(paths, parts):
        with atomic_write(path) as file:
            file.writelines(format_row(*lines[number].split("\t")) for number in rows.lines[part].tolist())


def why_missing(names, texts, counts):
    """Yields a line for each label that is not in every file: its name, the files that lack it, and the reason.

    texts: int array [labels] of `texts_of_labels`. counts: int array [files, labels] of `counts_in`.
    """
    for i in np.flatnonzero((counts == 0).any(axis=0)):
        if texts[i] == 0:
            reason = tr("no row has it")
        elif texts[i] < len(counts):
            several = tr("only {texts} distinct texts have it", texts=texts[i])
            reason = tr("only 1 distinct text has it") if texts[i] == 1 else several
        else:
            reason = tr("each of its texts is the last one of another rare label in its file")
        yield tr(
            "{label}: not in {files}; {reason}",
            label=names[i],
            files=", ".join(NAMES[k] for k in np.flatnonzero(counts[:, i] == 0)),
            reason=reason,
        )


def log_files(labels, sizes, texts, counts):
    rows = (
        (name, size, f"{100 * size / sum(sizes):.1f}%", np.count_nonzero(count), f"{count.sum() / size:.2f}")
        for name, size, count in zip(NAMES, sizes, counts)
    )
    log_table([tr("file"), tr("rows"), tr("share"), tr("labels"), tr("labels per row")], rows)
    missing = list(why_missing(labels.names, texts, counts))
    if missing:
        logger.info("%d of %d labels are not in every file:", len(missing), len(labels))
    else:
        logger.info("Every label is in every file")
    for line in missing[:SHOWN]:
        logger.info("  %s", line)
    if len(missing) > SHOWN:
        logger.info("  ... and %d more", len(missing) - SHOWN)


def split(args):
    """Reads the rows and writes the files."""
    problems = Problems()
    source = os.path.join(args.dataset_dir, args.input_file)
    label_file = os.path.join(args.dataset_dir, args.label_file)
    paths = check_outputs(args, source, label_file, problems)
    with problems.collect():
        if made := not os.path.exists(label_file):
            labels = labels_of_rows(source, problems)
        else:
            labels = read_labels(label_file, problems)
        rows = read_rows(source, labels, problems, again=made)
        if len(rows) and not len(rows.label_ids) and all("," in text for text in rows.texts):
            problems.add(csv_message(source))
        texts, distinct = texts_of_labels(rows, len(labels))
        if 0 < distinct < len(args.splits):
            problems.add(
                tr(
                    "{source}: {distinct} distinct texts cannot fill {count} files; add rows",
                    source=source,
                    distinct=distinct,
                    count=len(args.splits),
                )
            )
    problems.stop_if_any()
    log_rows(rows)
    if made:
        logger.info("%s does not exist; made from the rows: %d labels", label_file, len(labels))
        log_near_names(dict(zip(labels.names, rows.support(len(labels)).tolist())))
    parts = split_rows(rows, len(labels), args.splits, args.seed)
    write_parts(paths, source, rows, parts)
    if len(paths) > len(parts):
        labels.write(paths[-1])
    log_files(labels, [len(part) for part in parts], texts, counts_in(rows, parts, len(labels)))
    logger.info("Saved in %s", ", ".join(paths))
    left = os.path.join(os.path.dirname(paths[0]), NAMES[-1])
    if len(parts) < len(NAMES) and os.path.exists(left):
        logger.warning("%s is from an older split: its texts may be in the new files as well; delete it", left)


@command
def main(argv=None):
    args = parse_args(argv)
    with write_lock(os.path.join(args.output_dir or args.dataset_dir, NAMES[0])):  # as doccano.py does
        split(args)


if __name__ == "__main__":
    sys.exit(main())
