"""Build the index of a retrieval bundle, add labels to it and remove them, without training and without Paddle.

    python index.py build --bundle output --corpus labels                # one entry per label, as export_model.py does
    python index.py build --bundle output --corpus rows --corpus_file data/train.txt       # one entry per row, by vote
    python index.py build --bundle output --corpus labels --milvus_uri http://host:19530       # in Milvus
    python index.py add --bundle output --label "体育##马拉松" --text "马拉松开跑" "半程马拉松报名"
    python index.py remove --bundle output --label "体育##马拉松"
    python index.py list --bundle output

A running server picks up the changes. Milvus' user and password go into the environment variable MILVUS_TOKEN.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from bundle_changes import counted, log_index, memory_problem, open_for_change, shown, write_changes
from index_building import build
from label_changes import known_name, read_new
from searching import add_entries
from text_cls.argument_parser import ArgumentParser
from text_cls.bundle import RETRIEVAL, open_bundle
from text_cls.cli import Problems, UserError, closest, command, logger, positive_int
from text_cls.files import read_unchanged
from text_cls.label_tree import parent_path, paths_to
from text_cls.language import tr
from text_cls.locks import write_lock
from text_cls.rows import Labels
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.search.label_scores import NEIGHBOURS, VOTERS, corpus_labels, label_entries
from text_cls.search.milvus_index import INDEX_TYPES
from text_cls.search.open_index import open_index


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="build|add|remove|list")

    def subcommand(name, text):
        subparser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        subparser.add_argument("--bundle", required=True, help="folder that export_model.py wrote (required)")
        if name != "list":
            subparser.add_argument(
                "--device", default="cpu", choices=("cpu", "gpu"), help="where the encoder runs (%(default)s)"
            )
            subparser.add_argument("--batch_size", type=positive_int, default=32, help="texts per batch (%(default)s)")
            subparser.add_argument(
                "--moved",
                action="store_true",
                help="with Milvus: the folder of the bundle was moved or renamed, not copied (off)",
            )
        return subparser

    add_build_flags(subcommand("build", tr("build the index again, replacing the current one")))

    add = subcommand("add", tr("add labels, or texts that have a label"))
    add.add_argument("--label", help="label to add; missing parents are added, too (none)")
    add.add_argument("--text", nargs="+", default=[], help="texts that have the label, one entry per text (none)")
    add.add_argument(
        "--corpus_file", help="labels, one per line; labelled rows if the index holds labelled rows (none)"
    )

    remove = subcommand("remove", tr("remove labels"))
    remove.add_argument("--label", nargs="+", required=True, help="labels to remove (required)")
    remove.add_argument("--with_children", action="store_true", help="also remove all labels below these (off)")

    subcommand("list", tr("print each label and the number of its entries"))
    return parser.parse_args(argv)


def add_build_flags(parser):
    """--corpus, --corpus_file, --vote, --neighbours, --milvus_uri, --index_type."""
    parser.add_argument(
        "--corpus", default="labels", choices=("labels", "rows"), help="what the index holds (%(default)s)"
    )
    parser.add_argument(
        "--corpus_file",
        help="rows: labelled rows (required); labels: a label file that replaces the bundle's (none)",
    )
    parser.add_argument(
        "--vote",
        action=argparse.BooleanOptionalAction,
        help="choose labels by vote instead of by the nearest entry (rows: on; labels: off)",
    )
    parser.add_argument(
        "--neighbours",
        type=positive_int,
        help=tr(
            "nearest entries that count (unchanged; {neighbours}, or {voters} by vote, if --vote changes)",
            neighbours=NEIGHBOURS,
            voters=VOTERS,
        ),
    )
    parser.add_argument("--milvus_uri", help="FILE.db for Milvus Lite, or http://host:19530 (none: in the bundle)")
    parser.add_argument("--index_type", choices=INDEX_TYPES, help="type of the index in Milvus (HNSW)")


def add(args):
    """Adds labels, texts that have a label, or labelled rows."""
    problems = Problems()
    predictor = open_for_change(args, problems)
    with problems.collect():
        predictor.load_index()
    labels, texts, names = read_new(args, predictor, problems)
    problems.stop_if_any()
    index, bundle = predictor.index, predictor.bundle
    if isinstance(index, EmbeddedIndex) and (problem := memory_problem(len(index) + len(texts), index.width)):
        raise UserError(problem)
    add_entries(index, predictor, texts, names)
    new = labels.names[len(bundle.labels) :]
    if new or args.moved or isinstance(index, EmbeddedIndex):
        write_changes(bundle, index, labels)
    what = f"{counted(len(texts), 'entry', 'entries')} and {counted(len(new), 'label', 'labels')}"
    logger.info("Added %s%s", what, f": {shown(new)}" if new else "")
    above = set(map(parent_path, new))
    if parents := [name for name in new if name in above]:
        logger.info("Among them, parents that were missing: %s", shown(parents))
    log_index(index, labels)


def remove(args):
    """Removes labels, and the entries that have no other label."""
    problems = Problems()
    predictor = open_for_change(args, problems)
    bundle, labels, index = predictor.bundle, predictor.labels, predictor.index
    asked, removed = [known_name(name, labels) for name in args.label], {}  # names, in order
    for name in asked:
        below = [other for other in labels.names if name in paths_to(other)[:-1]]
        # An interrupted run may have left entries in Milvus of a label that is no longer in label.txt.
        if name not in labels.index and not index.count(name):
            problems.add(tr("--label {name}: no such label{hint}", name=name, hint=closest(name, labels.index)))
        elif not args.with_children and set(below) - set(asked):
            problems.add(
                tr(
                    "--label {name}: below it are {shown}; --with_children removes these, too",
                    name=name,
                    shown=shown(below),
                )
            )
        removed |= dict.fromkeys([name, *below])
    left = Labels([name for name in labels.names if name not in removed])
    if not len(left):
        problems.add(tr("no label would be left; a model without labels cannot be served"))
    problems.stop_if_any()
    if bundle.manifest["corpus"] == "labels":
        # A parent that loses its last child needs an entry of its own.
        childless = {left.names[i] for i in corpus_labels(left)} & {parent_path(name) for name in removed}
        parents = [name for name in sorted(childless) if not index.count(name)]
        add_entries(index, predictor, *label_entries(left, parents))
    embedded = isinstance(index, EmbeddedIndex)
    if not embedded:  # label.txt first: a server then ignores the label, even if this run is interrupted
        write_changes(bundle, index, left)
    entries = sum(index.remove(name) for name in removed)
    if embedded:
        write_changes(bundle, index, left)
    logger.info("Removed %s from %s", counted(len(removed), "label", "labels"), counted(entries, "entry", "entries"))
    log_index(index, left)


def open_with_index(folder):
    """A bundle and its index, without the encoder."""
    bundle = open_bundle(folder, RETRIEVAL)
    if bundle.manifest["index"] is None:
        raise UserError(
            tr("{folder} has no index yet; python retrieval_based/index.py build --bundle {folder}", folder=folder)
        )
    return bundle, open_index(folder, bundle.manifest)


def show(args):
    """Prints each label and the number of its entries."""
    bundle, index = read_unchanged(args.bundle, lambda: open_with_index(args.bundle))
    counts = index.labels()
    try:
        print("\n".join(f"{name}\t{counts.get(name, 0)}" for name in bundle.labels.names), flush=True)
    except BrokenPipeError:  # the reader, such as `| head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    log_index(index, bundle.labels)


@command
def main(argv=None):
    args = parse_args(argv)
    if args.command == "list":
        show(args)
        return 0
    with write_lock(args.bundle):
        if args.command == "build":
            build(args)
        elif args.command == "add":
            add(args)
        else:
            remove(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
