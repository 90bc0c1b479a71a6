"""Find what training has too little of: dev rows unlike any training row, and the rows that would support them.

    python analysis/sparse.py --device gpu --dataset_dir data --params_path ./checkpoint --aug_strategy duplicate
    python analysis/sparse.py --device gpu --dataset_dir data --params_path ./checkpoint --annotate

The least supported dev rows go to sparse.txt. The rows most like them go to support.txt: training rows with some words
changed, to be trained on once more, or with --annotate rows of data.txt that are worth a person's labels.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from augmentation import Augmenter
from text_cls.cli import Problems, UserError, command, logger, non_negative_int, positive_int
from text_cls.files import atomic_write
from text_cls.neural.compat import prepare_environment
from text_cls.rows import Texts, read_rows, read_texts
from utils import add_model_flags, encode_texts, keep_inputs, load_weights, log_rows, open_model


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_model_flags(parser, batch_size=16)
    parser.add_argument("--seed", type=non_negative_int, default=3, help="of new texts and large indexes (%(default)s)")
    group = parser.add_argument_group("choice")
    group.add_argument("--annotate", action="store_true", help="choose from unlabeled_file, for annotation (off)")
    group.add_argument(
        "--aug_strategy",
        default="substitute",
        choices=["duplicate", "substitute", "insert", "delete", "swap"],
        help="what is done with chosen training rows (%(default)s)",
    )
    group.add_argument("--sparse_num", type=positive_int, default=100, help="dev rows to support (%(default)s)")
    group.add_argument("--support_num", type=positive_int, default=100, help="rows to find for them (%(default)s)")
    group.add_argument(
        "--support_threshold", type=float, default=0.7, help="least cosine, exceeded by what is found (%(default)s)"
    )
    group.add_argument(
        "--rationale_num_sparse",
        type=positive_int,
        default=3,
        help="training rows that judge a dev row (%(default)s)",
    )
    group.add_argument(
        "--rationale_num_support", type=positive_int, default=6, help="rows looked at for a sparse row (%(default)s)"
    )
    group = parser.add_argument_group("files, in dataset_dir")
    group.add_argument("--train_file", default="train.txt", help="what the model learnt from (%(default)s)")
    group.add_argument("--dev_file", default="dev.txt", help="labelled rows it did not learn from (%(default)s)")
    group.add_argument("--unlabeled_file", default="data.txt", help="texts, one a line (%(default)s)")
    group.add_argument("--sparse_file", default="sparse.txt", help="file to write (%(default)s)")
    group.add_argument("--support_file", default="support.txt", help="file to write (%(default)s)")
    return parser.parse_args(argv)


def least_supported(scores, count):
    """The rows with the lowest mean cosine to their nearest training rows, the lowest first.

    Args:
        scores: float array [rows, training rows looked at].
    Returns:
        row numbers, and the means of all rows [rows].
    """
    means = scores.mean(axis=1)
    return np.argsort(means, kind="stable")[:count], means


def choose_supports(scores, nearest, threshold, count):
    """Rows above the threshold: the first of every sparse row, then the second of every one, and so on until enough.

    Args:
        scores, nearest: [sparse rows, rows looked at], what `Neighbours.search` gives.
    Returns:
        {row number: its cosine}, in the order chosen.
    """
    chosen = {}
    for score, row in zip(scores.T.ravel(), nearest.T.ravel()):
        if score > threshold and int(row) not in chosen:
            chosen[int(row)] = float(score)
            if len(chosen) == count:
                break
    return chosen


def read_new_texts(path, known, problems):
    """The texts of a file, each once and none of `known`, as `Texts`, and how many rows were left out."""
    texts, seen, rows = Texts(), set(known), 0
    for _, text in read_texts(path, problems):
        rows += 1
        if text not in seen:
            seen.add(text)
            texts.append(text)
    texts.freeze()
    if not len(texts):
        problems.add(f"{path}: no text that is not in train or dev already; add texts without labels, one a line")
    return texts, rows - len(texts)


def write_rows(path, rows):
    """Writes (text, labels joined by commas or nothing) pairs as rows."""
    with atomic_write(path) as file:
        file.writelines(f"{text}\t{names}\n" if names else f"{text}\n" for text, names in rows)


def warn_of_too_few(args, found, scores, nearest, candidates):
    """Says what brings more supports. scores, nearest: as in `choose_supports`. candidates: rows there are in all."""
    remedies, seen = [], len(np.unique(nearest))
    if seen > found:
        remedies.append(f"lower --support_threshold ({args.support_threshold}; the best score is {scores.max():.4f})")
    if seen < min(args.support_num, candidates):
        remedies.append(
            f"raise --rationale_num_support ({args.rationale_num_support}) or --sparse_num ({args.sparse_num}), "
            "to look at more rows"
        )
    if candidates < args.support_num:
        file = args.unlabeled_file if args.annotate else args.train_file
        remedies.append(f"add rows to {file}, which has {candidates} to choose from")
    logger.warning(
        "%d support rows found of %d (--support_num). For more, %s", found, args.support_num, "; or ".join(remedies)
    )


def log_next_step(args, support_path):
    """The commands that train on the support rows."""
    train, both = os.path.join(args.dataset_dir, args.train_file), "train_sparse_aug.txt"
    if args.annotate:
        both = "train_sparse_annotate.txt"
        logger.info("Next, add the labels to the rows of %s (text<TAB>label,label; doccano.md), then:", support_path)
    else:
        logger.info("Next, train on both:")
    # awk ends each row with a line break, also the last of a file that has none.
    logger.info("  awk 1 '%s' '%s' > '%s'", train, support_path, os.path.join(args.dataset_dir, both))
    logger.info("  python train.py --dataset_dir '%s' --train_file %s", args.dataset_dir, both)
    logger.info("Measure the gain on rows that did not choose: %s did, and now flatters the model", args.dev_file)


@command
def main(argv=None):
    args = parse_args(argv)
    environment = prepare_environment()
    from text_cls.neural.model import predict_features
    from text_cls.search.neighbours import Neighbours

    problems, rows = Problems(), {}
    checkpoint, max_seq_length = open_model(args, problems)
    labels = checkpoint.labels
    for name in (args.train_file, args.dev_file):
        with problems.collect():
            rows[name] = read_rows(os.path.join(args.dataset_dir, name), labels, problems)
    if not -1 <= args.support_threshold < 1:
        problems.add(f"--support_threshold {args.support_threshold}: a cosine from -1 to below 1")
    augmenter = None
    if args.annotate:
        with problems.collect():
            known = (text for part in rows.values() for text in part.texts)
            path = os.path.join(args.dataset_dir, args.unlabeled_file)
            candidates, left_out = read_new_texts(path, known, problems)
    elif args.aug_strategy != "duplicate":
        try:
            augmenter = Augmenter(args.aug_strategy, seed=args.seed)
        except UserError as error:
            problems.add(f"{error}\n  here, --aug_strategy duplicate needs no file either")
    inputs = (args.train_file, args.dev_file, args.label_file, args.unlabeled_file)
    outputs = {"--sparse_file": args.sparse_file, "--support_file": args.support_file}
    keep_inputs(args.dataset_dir, inputs, outputs, problems)
    problems.stop_if_any()
    train, dev = rows[args.train_file], rows[args.dev_file]
    for part in (train, dev):
        log_rows(part, labels)
    if args.annotate:
        logger.info("%s: %d texts; %d more repeat others or are in train or dev", path, len(candidates), left_out)
    load_weights(checkpoint, args.device, environment)

    def features(texts):
        encoded = encode_texts(checkpoint, texts, max_seq_length)
        return predict_features(checkpoint.model, encoded, args.batch_size)

    def row(part, i):
        return part.texts[i], labels.join_ids(part.labels_of(i))

    corpus, queries = Neighbours(features(train.texts), seed=args.seed), features(dev.texts)
    sparse, means = least_supported(corpus.search(queries, args.rationale_num_sparse)[0], args.sparse_num)
    path = os.path.join(args.dataset_dir, args.sparse_file)
    write_rows(path, (row(dev, i) for i in sparse))
    logger.info("Sparse data saved in %s: %d of %d dev rows", path, len(sparse), len(dev))
    logger.info("Average score in sparse data: %.4f; in all dev rows: %.4f", means[sparse].mean(), means.mean())

    if args.annotate:
        corpus = Neighbours(features(candidates), seed=args.seed)
    scores, nearest = corpus.search(queries[sparse], args.rationale_num_support)
    chosen = choose_supports(scores, nearest, args.support_threshold, args.support_num)
    if args.annotate:
        supports = [(candidates[i], "") for i in chosen]
    elif augmenter is None:
        supports = [row(train, i) for i in chosen]
    else:
        supports = [(text, row(train, i)[1]) for i in chosen for text in augmenter.augment(train.texts[i])]
    path = os.path.join(args.dataset_dir, args.support_file)
    write_rows(path, supports)
    logger.info("Support data saved in %s: %d rows", path, len(supports))
    if chosen:
        logger.info("Average score in support data: %.4f", np.mean(list(chosen.values())))
    if len(supports) < len(chosen):
        logger.info("%d chosen rows have too few words to change, and are left out", len(chosen) - len(supports))
    if len(chosen) < args.support_num:
        warn_of_too_few(args, len(chosen), scores, nearest, len(candidates if args.annotate else train))
    if supports:
        log_next_step(args, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
