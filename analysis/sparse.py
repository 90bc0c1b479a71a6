"""Find gaps in the training data: dev rows unlike any training row, and rows that would support them.

    python analysis/sparse.py --device gpu --dataset_dir data --params_path ./checkpoint --aug_strategy duplicate
    python analysis/sparse.py --device gpu --dataset_dir data --params_path ./checkpoint --annotate
    python analysis/sparse.py --device gpu --dataset_dir data --params_path ./checkpoint --annotate --html label.html

Writes the least supported dev rows to sparse.txt and the rows most similar to them to support.txt: training rows with
some words changed, to train on in addition, or, with --annotate, rows of data.txt to label by hand. With --html, a page
on which a person labels or corrects these rows by keyboard.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from augmentation import Augmenter
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command, finite_number, logger, non_negative_int, positive_int
from text_cls.files import atomic_write
from text_cls.language import tr
from text_cls.neural.compat import prepare_environment
from text_cls.rows import Texts, format_row, one_line, read_rows, read_texts
from utils import add_model_flags, encode_texts, keep_inputs, load_weights, log_rows, open_model, probabilities_of


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_model_flags(parser, batch_size=16)
    parser.add_argument(
        "--seed", type=non_negative_int, default=3, help="random seed for new texts and large indexes (%(default)s)"
    )
    group = parser.add_argument_group("selection")
    group.add_argument("--annotate", action="store_true", help="choose rows of unlabeled_file, to be labelled (off)")
    group.add_argument(
        "--aug_strategy",
        default="substitute",
        choices=["duplicate", "substitute", "insert", "delete", "swap"],
        help="how chosen training rows are changed (%(default)s)",
    )
    group.add_argument(
        "--sparse_num", type=positive_int, default=100, help="number of dev rows to support (%(default)s)"
    )
    group.add_argument(
        "--support_num", type=positive_int, default=100, help="number of support rows to find (%(default)s)"
    )
    group.add_argument(
        "--support_threshold",
        type=finite_number,
        default=0.7,
        help="minimum cosine of a support row, exclusive (%(default)s)",
    )
    group.add_argument(
        "--rationale_num_sparse",
        type=positive_int,
        default=3,
        help="nearest training rows whose mean cosine ranks a dev row (%(default)s)",
    )
    group.add_argument(
        "--rationale_num_support",
        type=positive_int,
        default=6,
        help="nearest rows considered per sparse row (%(default)s)",
    )
    group = parser.add_argument_group("files, in dataset_dir")
    group.add_argument("--train_file", default="train.txt", help="rows the model was trained on (%(default)s)")
    group.add_argument("--dev_file", default="dev.txt", help="labelled rows it was not trained on (%(default)s)")
    group.add_argument("--unlabeled_file", default="data.txt", help="texts for --annotate, one per line (%(default)s)")
    group.add_argument("--sparse_file", default="sparse.txt", help="output file of sparse dev rows (%(default)s)")
    group.add_argument("--support_file", default="support.txt", help="output file of support rows (%(default)s)")
    group.add_argument("--html", help="HTML page to label or correct the support rows; any folder (none)")
    return parser.parse_args(argv)


def least_supported(scores, count):
    """The rows with the lowest mean cosine to their nearest training rows, the lowest first.

    Args:
        scores: float array [rows, nearest training rows].
    Returns:
        row numbers, and the means of all rows, float array [rows].
    """
    means = scores.mean(axis=1)
    return np.argsort(means, kind="stable")[:count], means


def choose_supports(scores, nearest, threshold, count):
    """Rows above the threshold: the nearest of every sparse row, then every second nearest, and so on up to `count`.

    Args:
        scores, nearest: arrays [sparse rows, nearest rows], from `Neighbours.search`.
    Returns:
        {row number: cosine}, in the order chosen.
    """
    chosen = {}
    for score, row in zip(scores.T.ravel(), nearest.T.ravel()):
        if score > threshold and int(row) not in chosen:
            chosen[int(row)] = float(score)
            if len(chosen) == count:
                break
    return chosen


def read_new_texts(path, known, problems):
    """(`Texts`: the distinct texts of a file that are not in `known`, number of rows skipped)."""
    texts, seen, rows = Texts(), set(known), 0
    for _, text in read_texts(path, problems):
        rows += 1
        if text not in seen:
            seen.add(text)
            texts.append(text)
    texts.freeze()
    if not len(texts):
        problems.add(
            tr("{path}: all texts are already in train or dev; add other texts without labels, one per line", path=path)
        )
    return texts, rows - len(texts)


def write_rows(path, rows):
    """Writes pairs (text, labels joined by commas, or empty) as rows."""
    with atomic_write(path) as file:
        file.writelines(format_row(text, names) if names else format_row(text) for text, names in rows)


def warn_of_too_few(args, found, scores, nearest, candidates):
    """Logs how to find more supports. scores, nearest: as in `choose_supports`. candidates: how many rows there are."""
    remedies, seen = [], len(np.unique(nearest))
    if seen > found:
        remedies.append(
            tr(
                "lower --support_threshold ({support_threshold}; the best score is {scores:.4f})",
                support_threshold=args.support_threshold,
                scores=scores.max(),
            )
        )
    if seen < min(args.support_num, candidates):
        remedies.append(
            tr(
                "raise --rationale_num_support ({rationale_num_support}) or --sparse_num ({sparse_num}), to consider "
                "more rows",
                rationale_num_support=args.rationale_num_support,
                sparse_num=args.sparse_num,
            )
        )
    if candidates < args.support_num:
        file = args.unlabeled_file if args.annotate else args.train_file
        remedies.append(
            tr("add rows to {file}, which has {candidates} to choose from", file=file, candidates=candidates)
        )
    logger.warning(
        "Found %d support rows of %d (--support_num). For more, %s", found, args.support_num, "; or ".join(remedies)
    )


def joint_file(args):
    """Name of the file of training and support rows, in the commands that make it."""
    return "train_sparse_annotate.txt" if args.annotate else "train_sparse_aug.txt"


def log_next_step(args, support_path):
    """Logs the commands that train on the support rows."""
    train, both = os.path.join(args.dataset_dir, args.train_file), joint_file(args)
    if args.annotate:
        logger.info(
            "Next, add the labels to the rows of %s (text<TAB>label,label; see data/doccano.md), then:", support_path
        )
    else:
        logger.info("Next, train on both:")
    # awk adds a line break after the last row of a file that has none.
    logger.info("  awk 1 '%s' '%s' > '%s'", train, support_path, os.path.join(args.dataset_dir, both))
    logger.info("  python train.py --dataset_dir '%s' --train_file %s", args.dataset_dir, both)
    logger.info("Measure the gain on rows not used to choose them: scores on %s are now too high", args.dev_file)


def read_inputs(args):
    """(checkpoint, maximum length, train, dev, texts to choose from or None, `Augmenter` or None), checked."""
    problems, rows = Problems(), {}
    checkpoint, max_seq_length = open_model(args, problems, "features")
    labels = checkpoint.labels
    for name in (args.train_file, args.dev_file):
        with problems.collect():
            rows[name] = read_rows(os.path.join(args.dataset_dir, name), labels, problems)
    if not -1 <= args.support_threshold < 1:
        problems.add(
            tr(
                "--support_threshold {support_threshold}: must be a cosine, at least -1 and below 1",
                support_threshold=args.support_threshold,
            )
        )
    candidates = augmenter = None
    if args.annotate:
        with problems.collect():
            known = (text for part in rows.values() for text in part.texts)
            path = os.path.join(args.dataset_dir, args.unlabeled_file)
            candidates, left_out = read_new_texts(path, known, problems)
    elif args.aug_strategy != "duplicate":
        try:
            augmenter = Augmenter(args.aug_strategy, seed=args.seed)
        except UserError as error:
            problems.add(tr("{error}\n  sparse.py also has --aug_strategy duplicate, which needs no file", error=error))
    inputs = (args.train_file, args.dev_file, args.label_file, args.unlabeled_file)
    outputs = {"--sparse_file": args.sparse_file, "--support_file": args.support_file}
    if args.html:
        outputs["--html"] = os.path.abspath(args.html)
        if os.path.isdir(args.html):
            problems.add(tr("{path} is a folder; name a file", path=args.html))
    keep_inputs(args.dataset_dir, inputs, outputs, problems)
    problems.stop_if_any()
    train, dev = rows[args.train_file], rows[args.dev_file]
    for part in (train, dev):
        log_rows(part)
    if args.annotate:
        logger.info("%s: %d texts; %d duplicates or texts of train or dev skipped", path, len(candidates), left_out)
    return checkpoint, max_seq_length, train, dev, candidates, augmenter


def log_supports(args, path, supports, chosen, scores, nearest, num_candidates):
    """Logs what was found, and how to find more. supports: rows written, one for each of `chosen` or fewer."""
    logger.info("Support data saved in %s: %d rows", path, len(supports))
    if chosen:
        logger.info("Average score in support data: %.4f", np.mean(list(chosen.values())))
    if len(supports) < len(chosen):
        logger.info("Skipped %d chosen rows with too few words to change", len(chosen) - len(supports))
    if len(chosen) < args.support_num:
        warn_of_too_few(args, len(chosen), scores, nearest, num_candidates)
    if supports:
        log_next_step(args, path)


def best_sparse(sparse_rows, scores, nearest):
    """{row: (cosine, number of the sparse dev row that it is most similar to)}. Arguments: as of `choose_supports`."""
    best = {}
    for dev_row, cosines, rows in zip(sparse_rows, scores, nearest):
        for cosine, row in zip(cosines.tolist(), rows.tolist()):
            if row not in best or cosine > best[row][0]:
                best[row] = cosine, int(dev_row)
    return best


def write_html(args, checkpoint, max_seq_length, dev, supports, best):
    """Writes the page of --html. supports: [(row, text, its labels), ...]. best: of `best_sparse`."""
    from correction_page import ANNOTATE, AUGMENTED, Entry, shown_labels, write_correction_page

    labels, texts = checkpoint.labels, [text for _, text, _ in supports]
    shape = (0, len(labels))
    found = probabilities_of(checkpoint, texts, max_seq_length, args.batch_size) if texts else np.zeros(shape)
    suggested = checkpoint.decision.decide(found, labels.parents) if texts else np.zeros(shape, bool)
    shown = checkpoint.decision.calibrated(found) if texts else found

    def entry(place, row, text, given):
        cosine, i = best[row]
        why = ["like", round(cosine, 4), int(dev.lines[i]), one_line(dev.texts[i]), dev.labels_of(i).tolist()]
        taken = np.flatnonzero(suggested[place])
        return Entry(place + 1, text, given, taken, shown_labels(given, taken, shown[place]), [why])

    stem = Path(args.support_file).stem
    name = f"{stem}_labelled.txt" if args.annotate else f"{stem}_corrected.txt"
    parts = [os.path.join(args.dataset_dir, part) for part in (args.train_file, name, joint_file(args))]
    train = ["python", "train.py", "--dataset_dir", args.dataset_dir, "--train_file", joint_file(args)]
    files = {
        "rows": name,
        "dev": args.dev_file,
        "all": os.path.join(args.dataset_dir, args.support_file),
        "rows_command": f"awk 1 {shlex.join(parts[:2])} > {shlex.join(parts[2:])}\n{shlex.join(train)}",
    }
    entries = (entry(place, *support) for place, support in enumerate(supports))
    write_correction_page(args.html, ANNOTATE if args.annotate else AUGMENTED, entries, labels, files, ["model"])


@command
def main(argv=None):
    args = parse_args(argv)
    environment = prepare_environment()
    from text_cls.neural.model import predict_features
    from text_cls.search.neighbours import Neighbours

    checkpoint, max_seq_length, train, dev, candidates, augmenter = read_inputs(args)
    load_weights(checkpoint, args.device, environment)

    def features(texts):
        encoded = encode_texts(checkpoint, texts, max_seq_length)
        return predict_features(checkpoint.model, encoded, args.batch_size)

    def row(part, i):
        return part.texts[i], checkpoint.labels.join_ids(part.labels_of(i))

    corpus, queries = Neighbours(features(train.texts), seed=args.seed), features(dev.texts)
    sparse_rows, means = least_supported(corpus.search(queries, args.rationale_num_sparse)[0], args.sparse_num)
    path = os.path.join(args.dataset_dir, args.sparse_file)
    write_rows(path, (row(dev, i) for i in sparse_rows))
    logger.info("Sparse data saved in %s: %d of %d dev rows", path, len(sparse_rows), len(dev))
    logger.info("Average score in sparse data: %.4f; in all dev rows: %.4f", means[sparse_rows].mean(), means.mean())

    if args.annotate:
        corpus = Neighbours(features(candidates), seed=args.seed)
    scores, nearest = corpus.search(queries[sparse_rows], args.rationale_num_support)
    chosen = choose_supports(scores, nearest, args.support_threshold, args.support_num)
    if args.annotate:
        supports = [(i, candidates[i], "") for i in chosen]
    elif augmenter is None:
        supports = [(i, *row(train, i)) for i in chosen]
    else:
        supports = [(i, text, row(train, i)[1]) for i in chosen for text in augmenter.augment(train.texts[i])]
    path = os.path.join(args.dataset_dir, args.support_file)
    write_rows(path, ((text, names) for _, text, names in supports))
    if args.html:
        best = best_sparse(sparse_rows, scores, nearest)
        sources = [(i, text, [] if args.annotate else train.labels_of(i)) for i, text, _ in supports]
        write_html(args, checkpoint, max_seq_length, dev, sources, best)
    log_supports(args, path, supports, chosen, scores, nearest, len(candidates if args.annotate else train))
    return 0


if __name__ == "__main__":
    sys.exit(main())
