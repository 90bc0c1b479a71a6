"""Flags of the scripts that write predictions for a labelling tool, and choose what to label next."""

import os

from text_cls.cli import non_negative_int, positive_int
from text_cls.labelling_tools import ENDS
from text_cls.language import tr
from text_cls.next_rows import ORDERS, RARE, UNCERTAIN
from text_cls.rows import read_rows

SPLITS = "train.txt", "dev.txt", "test.txt"  # in --dataset_dir
COUNT = 100


def add_labelling_flags(parser):
    """Adds --for, --order, --count, --labelled_file and --seed."""
    group = parser.add_argument_group("labelling tools")
    ends = ", ".join(f"{name}: {end}" for name, end in ENDS.items())
    group.add_argument(
        "--for",
        dest="tool",
        choices=(*ENDS,),
        help=tr("write --output_file for this tool to import: {ends} (off)", ends=ends),
    )
    orders = "; ".join(f"{name}: {tr(what)}" for name, what in ORDERS.items())
    group.add_argument(
        "--order", choices=(*ORDERS,), help=tr("write only the rows to label next. {orders} (off)", orders=orders)
    )
    group.add_argument("--count", type=positive_int, help=tr("with --order: rows to write ({count})", count=COUNT))
    group.add_argument(
        "--labelled_file",
        nargs="+",
        help="with --order: files of rows that have labels and are left out (train.txt, dev.txt and test.txt of "
        "--dataset_dir, those that exist)",
    )
    group.add_argument("--seed", type=non_negative_int, default=3, help="random seed of --order (%(default)s)")


def read_labelled(args, labels, problems):
    """[`Rows`] of the files with labelled rows, empty without --order. Problems with the flags go to `problems`."""
    if not args.order:
        for flag in ("count", "labelled_file"):
            if getattr(args, flag) is not None:
                problems.add(
                    tr(
                        "--{flag} is for --order, which says what to label next: {orders}",
                        flag=flag,
                        orders=", ".join(ORDERS),
                    )
                )
        return []
    if not args.output_file:
        problems.add(tr("--order needs a file to write, --output_file"))
    paths = args.labelled_file
    if paths is None:
        paths = [os.path.join(args.dataset_dir, name) for name in SPLITS] if args.dataset_dir else []
        paths = [path for path in paths if os.path.exists(path)]
    rows = []
    for path in paths:
        with problems.collect():
            rows.append(read_rows(path, labels, problems))
    if args.order == RARE and not paths:
        problems.add(
            tr("--order {rare} counts the labels of labelled rows; name their file with --labelled_file", rare=RARE)
        )
    return rows


def order_problem(order, decision):
    """Why texts cannot be put in this order with a decision, or None."""
    thresholds = decision.threshold if isinstance(decision.threshold, tuple) else (decision.threshold,)
    if order == UNCERTAIN and not any(0 < threshold < 1 for threshold in thresholds):
        return tr(
            "--order {uncertain}: no threshold of the model is between 0 and 1; add --threshold 0.5",
            uncertain=UNCERTAIN,
        )
    return None
