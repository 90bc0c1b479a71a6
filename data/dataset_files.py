"""From labelled texts to a data set: the labels of each text, the stratified split, and the files that train.py reads.

Shared by doccano.py and from_table.py.
"""

import itertools
import os
import shutil
from collections import Counter
from pathlib import Path

from annotators import DISAGREEMENT, settle
from text_cls.cli import UserError, boolean, finite_number, logger, non_negative_int
from text_cls.files import atomic_write
from text_cls.label_tree import SEPARATOR
from text_cls.language import reason_of, tr
from text_cls.new_labels import log_near_names
from text_cls.rows import Labels, one_line
from tool_labels import closed_labels

NAMES = {1: ["train.txt"], 2: ["train.txt", "dev.txt"], 3: ["train.txt", "dev.txt", "test.txt"]}

TASKS = ("multi_class", "multi_label", "hierarchical")


def add_dataset_flags(parser):
    """Adds the flags that say what to make of labelled texts, and where to write it."""
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
        "--separator", default=SEPARATOR, help="separator of levels in the input; becomes ## (%(default)s)"
    )
    parser.add_argument(
        "--disagreement",
        choices=DISAGREEMENT,
        help="if rows or annotators give a text different labels: use the newest annotation (the last row), labels of "
        "more than half of them, or all labels, or refuse (all rows that repeat a text are kept; newest in a task of "
        "Label Studio)",
    )


def check_flags(splits, separator, problems):
    if not 1 <= len(splits) <= 3 or abs(sum(splits) - 1) > 1e-6 or min(splits) <= 0:
        shares = " ".join(f"{share:g}" for share in splits)
        problems.add(
            tr("--splits {shares}: must be 1, 2 or 3 numbers above 0 that sum to 1, like 0.8 0.2", shares=shares)
        )
    if not separator:
        problems.add(tr("--separator: must not be empty; use, for example, {separator}", separator=SEPARATOR))


def labelled_texts(annotations, problems, *, task_type, separator, disagreement=None, old_labels=False):
    """The rows of a data set from annotations, of which those of one text are merged.

    Args:
        annotations: list of `annotation_exports.Annotation`.
        disagreement: a key of DISAGREEMENT: merge all annotations of equal texts. None: only those of a task.
        old_labels: texts end with a tab and their old labels, which are dropped.
    Returns:
        rows (text, labels: list of str); a Counter of changed and skipped rows; and {label as annotators named it,
        without its ancestors: [where, ...]}.
    """
    rows, seen, counts, places = [], set(), Counter(), {}
    single = task_type == "multi_class"
    for text, members in _by_text(annotations, disagreement, old_labels, counts):
        for each in members:
            each.closed = closed_labels(each, places, problems, task_type, separator)
        labels, source = settle(members, disagreement or "newest", single, counts)
        if labels is None and disagreement == "refuse":
            sets = " | ".join(sorted({",".join(each.closed) for each in members}))
            problems.add(
                tr(
                    "{where}: annotators disagree ({sets}): {text:.40}; label it again",
                    where=members[0].where,
                    sets=sets,
                    text=text,
                )
            )
        if labels is None:
            continue
        number = len(source.labels if source else labels)
        if single and number != 1:
            where = (source or members[0]).where
            problems.add(
                tr(
                    "{where}: {number} labels; --task_type multi_class takes one per row (or use multi_label)",
                    where=where,
                    number=number,
                )
            )
        row = text, ",".join(labels)
        counts["repeated"] += row in seen
        if row not in seen:
            seen.add(row)
            rows.append((text, labels))
    return rows, counts, places


def _by_text(annotations, disagreement, old_labels, counts):
    """(text, annotations) of each task of Label Studio and each other row; with `disagreement`, of each text."""
    tasks, texts = {}, {}
    for each in annotations:
        tasks.setdefault(each.task, []).append(each)
    for task, members in tasks.items():
        text = members[0].text
        if old_labels:
            text = text.rpartition("\t")[0] or text
        clean = one_line(text).strip()
        counts["spaced"] += clean != text.strip()
        if clean:
            texts.setdefault(clean if disagreement else task, (clean, []))[1].extend(members)
        else:
            counts["without a text"] += 1
    return texts.values()


def log_rows(source, rows, counts, disagreement):
    """Logs how many rows there are, what was changed, and texts whose labels contradict each other."""
    logger.info("%s: %d rows", source, len(rows))
    messages = {
        "spaced": tr("%d texts contained tabs or line breaks, now spaces"),
        "without a text": tr("%d rows without a text skipped"),
        "repeated": tr("%d rows with the same text and labels as another skipped"),
        "unlabelled": tr("%d rows without a label skipped, because another annotator labelled their text"),
        "unsettled": tr(
            "%d texts skipped: no majority of their annotators agrees; label them again, or use another --disagreement"
        ),
    }
    for name, message in messages.items():
        if counts[name]:
            logger.info(message, counts[name])
    if counts["several"]:
        log = logger.warning if counts["disagree"] else logger.info
        how = f": {tr(DISAGREEMENT[disagreement or 'newest'])} (see --disagreement)" if counts["disagree"] else ""
        message = tr("%d texts have several annotations; annotators disagree about %d of them%s")
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


# ---------------------------------------------------------------------------------------------------------------- files


def split(source, rows, names, problems, *, splits, shuffle, seed):
    """Row numbers of each part. shuffle: whether the split is stratified and random, or in the order of the rows."""
    import numpy as np
    from scipy import sparse

    from text_cls.splitting import stratified_split

    if len(rows) < len(splits):
        problems.add(
            tr("{source}: {rows} rows cannot fill {files} files", source=source, rows=len(rows), files=len(splits))
        )
        return []
    order = np.random.default_rng(seed).permutation(len(rows))
    if not shuffle:
        ends = np.round(np.cumsum(splits) * len(rows)).astype(int)
        parts = np.split(np.arange(len(rows)), ends[:-1])
    elif len(splits) == 1:
        parts = [order]
    else:
        index = {name: i for i, name in enumerate(names)}
        labels = [[index[name] for name in rows[i][1]] for i in order]
        columns = np.array([i for ids in labels for i in ids], dtype=np.int64)
        ends = np.cumsum([0, *map(len, labels)])
        targets = sparse.csr_matrix((np.ones(len(columns), bool), columns, ends), shape=(len(rows), len(names)))
        found = stratified_split(targets, [rows[i][0] for i in order], splits, seed)
        parts = [order[part] for part in found]
    if not all(map(len, parts)):
        problems.add(
            tr(
                "{source}: {count} rows are too few for these --splits: one file would be empty",
                source=source,
                count=len(rows),
            )
        )
    return parts


def write_rows(path, rows, part, expected=()):
    """Writes the rows of a part, and logs their number and those of the `expected` labels that none of them has."""
    write(path, (f"{rows[i][0]}\t{','.join(rows[i][1])}" for i in part))
    found = Counter(label for i in part for label in rows[i][1])
    missing = [label for label in expected if not found[label]]
    more = (
        tr("; {count} labels have no row in it: {missing}", count=len(missing), missing=", ".join(missing[:5]))
        if missing
        else ""
    )
    logger.info("%s: %d rows%s%s", path, len(part), more, " ..." if len(missing) > 5 else "")


def write_dataset(save_dir, rows, names, parts):
    """Writes train.txt, dev.txt, test.txt, as many as there are parts, data.txt and label.txt."""
    for name, part in zip(NAMES[len(parts)], parts):
        write_rows(os.path.join(save_dir, name), rows, part, names)
    label_path = os.path.join(save_dir, "label.txt")
    write(os.path.join(save_dir, "data.txt"), (rows[i][0] for i in parts[-1]))
    write(label_path, Labels(names).names)
    logger.info("%s: %d labels", label_path, len(names))
    log_near_names(Counter(name for _, labels in rows for name in labels))
    for name in NAMES[3][len(parts) :]:
        if os.path.exists(os.path.join(save_dir, name)):
            logger.warning("%s is from an earlier run; delete it if these files contain its rows", name)
    logger.info("Next: python train.py --dataset_dir '%s'", save_dir)


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
        raise UserError(tr("cannot write {path}: {error}", path=path, error=reason_of(error))) from error
    with atomic_write(path) as file:
        file.write(content)
