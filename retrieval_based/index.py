"""Make the index of a retrieval bundle, add labels to it and remove them: without training, and without Paddle.

    python index.py build --bundle output --corpus labels                  # an entry a label: as export_model.py does
    python index.py build --bundle output --corpus rows --corpus_file data/train.txt   # an entry a row, labels by vote
    python index.py build --bundle output --corpus labels --milvus_uri http://host:19530       # in Milvus
    python index.py add --bundle output --label "体育##马拉松" --text "马拉松开跑" "半程马拉松报名"
    python index.py remove --bundle output --label "体育##马拉松"
    python index.py list --bundle output

A running server takes up what changed. A user and password of Milvus go into the environment variable MILVUS_TOKEN.
"""

import argparse
import os
import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from label_changes import read_new
from ownership import GRACE, alone, copy_problem, is_own, owned, remember, tidy
from searching import add_entries
from text_cls.bundle import DECISION, RETRIEVAL, changed_bundle, open_bundle, strange_files_problem
from text_cls.cli import Problems, UserError, closest, command, logger, positive_int
from text_cls.label_tree import SEPARATOR
from text_cls.rows import Labels, read_labels, read_rows
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.search.label_scores import (
    NEIGHBOURS,
    VOTERS,
    carry_decision,
    corpus_labels,
    label_entries,
    row_entries,
    vote_decision,
)
from text_cls.search.milvus_index import INDEX_TYPES, MilvusIndex, check_answers, uri_problem
from text_cls.search.open_index import open_index


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="build|add|remove|list")

    def subcommand(name, text):
        one = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.add_argument("--bundle", required=True, help="folder that export_model.py wrote (required)")
        if name != "list":
            one.add_argument("--device", default="cpu", choices=("cpu", "gpu"), help="for the encoder (%(default)s)")
            one.add_argument("--batch_size", type=positive_int, default=32, help="texts at a time (%(default)s)")
            one.add_argument(
                "--moved", action="store_true", help="in Milvus: this is no copy, its folder has another name now (off)"
            )
        return one

    build = subcommand("build", "make the index anew, in place of the one there is")
    build.add_argument("--corpus", default="labels", choices=("labels", "rows"), help="what it holds (%(default)s)")
    build.add_argument(
        "--corpus_file", help="rows: labelled rows (required); labels: a label file in place of the bundle's (none)"
    )
    build.add_argument(
        "--vote",
        action=argparse.BooleanOptionalAction,
        help="labels by vote, not by the nearest (rows: on; labels: off)",
    )
    build.add_argument(
        "--neighbours",
        type=positive_int,
        help=f"entries a text is compared with (as it is; {NEIGHBOURS}, voting {VOTERS}, where that changes)",
    )
    build.add_argument("--milvus_uri", help="FILE.db for Milvus Lite, or http://host:19530 (none: in the bundle)")
    build.add_argument("--index_type", choices=INDEX_TYPES, help="Milvus' kind of index (HNSW)")

    add = subcommand("add", "add labels, or texts of labels")
    add.add_argument("--label", help="the label; its parents are added, too, where they are not there (none)")
    add.add_argument("--text", nargs="+", default=[], help="texts that have the label, an entry each (none)")
    add.add_argument("--corpus_file", help="labels, one a line; or labelled rows where the index is of rows (none)")

    remove = subcommand("remove", "remove labels")
    remove.add_argument("--label", nargs="+", required=True, help="the labels (required)")
    remove.add_argument("--with_children", action="store_true", help="and all that is below them (off)")

    subcommand("list", "print each label and the number of its entries")
    return parser.parse_args(argv)


def open_for_change(args, problems):
    """The `RetrievalPredictor` of --bundle."""
    from text_cls.serving.retrieval_predictor import RetrievalPredictor

    predictor = RetrievalPredictor(args.bundle, device=args.device, batch_size=args.batch_size)
    if problem := strange_files_problem(predictor.bundle):
        problems.add(problem)
    fields = predictor.bundle.manifest["index"]
    if args.moved and fields and fields["kind"] == "milvus":
        predictor.bundle.manifest["index"] = owned(args.bundle, fields)
    elif args.command != "build" and (problem := copy_problem(args.bundle, fields)):
        problems.add(problem)
    return predictor


def put(bundle, index, labels, fields=None, decision=None):
    """Puts labels, an embedded index and a decision into the bundle's folder, fields into its manifest: all at once."""
    from text_cls.serving.retrieval_predictor import CHANGING

    with changed_bundle(bundle, CHANGING) as (folder, manifest):
        labels.write(os.path.join(folder, "label.txt"))
        carry_decision(decision or bundle.decision, bundle.labels, labels).save(os.path.join(folder, DECISION))
        if isinstance(index, EmbeddedIndex):
            index.save(folder)
        manifest |= {"num_labels": len(labels), "hierarchical": labels.hierarchical, **(fields or {})}


def shown(names):
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def counted(things, one, several):
    return f"{len(things)} {one if len(things) == 1 else several}"


def log_index(index, labels):
    logger.info(
        "The index has %s, the bundle %s", counted(index, "entry", "entries"), counted(labels, "label", "labels")
    )


# --------------------------------------------------------------------------------------------------------------- build


def memory_problem(rows, width):
    """What speaks against holding so many vectors twice, as they are and in hnswlib's graph, or None."""
    if not hasattr(os, "sysconf"):  # Windows
        return None
    needed, there = 2 * 4 * rows * width, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed < there:
        return None
    return (
        f"{rows} entries of {width} numbers need {needed / 2**30:.0f} GiB of memory, and this machine has "
        f"{there / 2**30:.0f} GiB; give them to a Milvus server: --milvus_uri http://host:19530"
    )


def corpus_of(args, predictor, problems):
    """Labels, texts and tuples of label names that an index is built of."""
    labels, manifest = predictor.labels, predictor.bundle.manifest
    if args.corpus == "rows":
        if args.corpus_file is None:
            problems.add("--corpus rows: give the labelled rows, --corpus_file data/train.txt")
            return labels, [], []
        rows = read_rows(args.corpus_file, labels, problems)
        texts, names = row_entries(rows, labels)
        if not texts:
            problems.add(f"--corpus_file {args.corpus_file}: no row has a label; nothing can be found among them")
        return labels, texts, names
    if args.corpus_file:
        labels = read_labels(args.corpus_file, problems)
    corpus = {labels.names[i] for i in corpus_labels(labels)}
    if manifest["corpus"] == "labels" and manifest["index"]:
        # Inner labels that rows of the training stop at have an entry: they are known from the index alone.
        try:
            counts = predictor.index.labels()
        except UserError as error:  # of a Milvus that is gone for good the index must be made anew, too
            counts = {}
            logger.warning("The index that was there cannot be read; labels above others get no entry: %s", error)
        corpus |= set(counts)
        if more := sum(count > 1 for count in counts.values()):
            what = counted(range(more), "label", "labels")
            logger.warning("%s had texts of their own (add --text), which are not kept; add them again", what)
    return labels, *label_entries(labels, [name for name in labels.names if name in corpus])


def build(args):
    problems = Problems()
    predictor = open_for_change(args, problems)
    bundle, uri = predictor.bundle, args.milvus_uri
    labels, texts, names = predictor.labels, [], []
    with problems.collect():
        labels, texts, names = corpus_of(args, predictor, problems)
    width, vote = bundle.manifest["width"], args.corpus == "rows" if args.vote is None else args.vote
    if vote and args.corpus == "labels":
        problems.add("--vote counts labelled rows; of label texts the nearest decides: leave it out")
    if uri is None:
        problem = memory_problem(len(texts), width)
        if args.index_type:
            problems.add("--index_type is Milvus' (--milvus_uri); an index in the bundle has one kind")
    else:
        problem = uri_problem(uri)
    if problem:
        problems.add(problem)
    problems.stop_if_any()
    old = bundle.manifest["index"]
    search, decision = bundle.manifest["search"], bundle.decision
    if vote != search["vote"]:
        search, decision = {"neighbours": VOTERS if vote else NEIGHBOURS}, vote_decision(decision)
        logger.info(
            "Scores are %s now: labels are given above 0.5. To fit that: analysis/threshold.py --bundle %s",
            "shares of votes" if vote else "cosines",
            args.bundle,
        )
    search = {"vote": vote, "neighbours": args.neighbours or search["neighbours"]}
    fields = {"corpus": args.corpus, "search": search}
    if uri is None:
        where = {"kind": "embedded"}
    else:
        uri = os.path.abspath(uri) if uri.endswith(".db") else uri
        name = f"text_classification_{args.corpus}_{secrets.token_hex(6)}"
        where = owned(args.bundle, {"kind": "milvus", "uri": uri, "collection": name})
        check_answers(uri)
    collections = tidy(args.bundle)  # what a build left that was killed
    collections += [one for one in (where, old) if one and one["kind"] == "milvus" and is_own(args.bundle, one)]
    if collections:
        remember(args.bundle, collections)
    wait = 0.0
    try:
        if uri is None:
            index = EmbeddedIndex(width)
            add_entries(index, predictor, texts, names)
        else:
            index = MilvusIndex.create(uri, name, width, args.index_type or "HNSW")
            add_entries(index, predictor, texts, names)
            index.save()
        put(bundle, index, labels, {**fields, "index": where}, decision)
        wait = GRACE
    finally:
        tidy(args.bundle, wait)
    if uri:
        logger.info("The index is in %s, collection %s", uri, name)
    log_index(index, labels)


# ----------------------------------------------------------------------------------------------------------------- add


def add(args):
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
        put(bundle, index, labels)
    what = f"{counted(texts, 'entry', 'entries')} and {counted(new, 'label', 'labels')}"
    logger.info("Added %s%s", what, f": {shown(new)}" if new else "")
    if parents := [name for name in new if any(other.startswith(f"{name}{SEPARATOR}") for other in new)]:
        logger.info("Parents that were not there, and are now: %s", shown(parents))
    log_index(index, labels)


# -------------------------------------------------------------------------------------------------------------- remove


def remove(args):
    problems = Problems()
    predictor = open_for_change(args, problems)
    bundle, labels, index, gone = predictor.bundle, predictor.labels, predictor.index, {}
    for name in args.label:
        below = [other for other in labels.names if other.startswith(f"{name}{SEPARATOR}")]
        # What a run that was cut off left in a Milvus is known there alone.
        if name not in labels.index and not index.count(name):
            problems.add(f"--label {name}: there is no such label{closest(name, labels.index)}")
        elif not args.with_children and set(below) - set(args.label):
            problems.add(f"--label {name}: below it is {shown(below)}; --with_children removes that, too")
        gone |= dict.fromkeys([name, *below])
    left = Labels([name for name in labels.names if name not in gone])
    if not len(left):
        problems.add("no label would be left; a model without labels cannot be served")
    problems.stop_if_any()
    if bundle.manifest["corpus"] == "labels":
        # A parent whose last child goes is found by an entry of its own from now on.
        childless = {left.names[i] for i in corpus_labels(left)} & {name.rpartition(SEPARATOR)[0] for name in gone}
        parents = [name for name in sorted(childless) if not index.count(name)]
        add_entries(index, predictor, *label_entries(left, parents))
    if not isinstance(index, EmbeddedIndex):  # first what a server reads: what is not in label.txt is not found
        put(bundle, index, left)
    changed = sum(index.remove(name) for name in gone)
    if isinstance(index, EmbeddedIndex):
        put(bundle, index, left)
    what = f"{counted(gone, 'label', 'labels')}, which {counted(range(changed), 'entry', 'entries')} had"
    logger.info("Removed %s", what)
    log_index(index, left)


def show(args):
    bundle = open_bundle(args.bundle, RETRIEVAL)
    if bundle.manifest["index"] is None:
        raise UserError(f"{args.bundle} has no index yet; python retrieval_based/index.py build --bundle {args.bundle}")
    index = open_index(args.bundle, bundle.manifest)
    counts = index.labels()
    try:
        print("\n".join(f"{name}\t{counts.get(name, 0)}" for name in bundle.labels.names), flush=True)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    log_index(index, bundle.labels)


@command
def main(argv=None):
    args = parse_args(argv)
    if args.command == "list":
        show(args)
        return 0
    with alone(args.bundle):
        {"build": build, "add": add, "remove": remove}[args.command](args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
