"""What the commands of index.py share: a bundle is opened for a change, and the change is written and logged."""

import os

from ownership import copy_problem, with_owner
from text_cls.bundle import DECISION, changed_bundle, strange_files_problem
from text_cls.cli import logger
from text_cls.language import tr
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.search.label_scores import carry_decision


def open_for_change(args, problems):
    """The `RetrievalPredictor` of --bundle. What forbids a change is added to `problems`."""
    from text_cls.serving.retrieval_predictor import RetrievalPredictor

    predictor = RetrievalPredictor(args.bundle, device=args.device, batch_size=args.batch_size)
    if problem := strange_files_problem(predictor.bundle):
        problems.add(problem)
    fields = predictor.bundle.manifest["index"]
    if args.moved and fields and fields["kind"] == "milvus":
        predictor.bundle.manifest["index"] = with_owner(args.bundle, fields)
    elif args.command != "build" and (problem := copy_problem(args.bundle, fields)):
        problems.add(problem)
    return predictor


def write_changes(bundle, index, labels, fields=None, decision=None):
    """Writes labels, decision, embedded index and manifest fields into the bundle's folder, all or none of them."""
    from text_cls.serving.retrieval_predictor import RetrievalPredictor

    with changed_bundle(bundle, RetrievalPredictor.changing) as (folder, manifest):
        labels.write(os.path.join(folder, "label.txt"))
        carried = carry_decision(decision or bundle.decision, bundle.labels, labels)
        carried.save(os.path.join(folder, DECISION), labels.names)
        if isinstance(index, EmbeddedIndex):
            index.save(folder)
        manifest |= {"num_labels": len(labels), "hierarchical": labels.hierarchical, **(fields or {})}


def shown(names):
    """The first 20 names, and how many more there are."""
    return ", ".join(names[:20]) + (tr(" and {count} more", count=len(names) - 20) if len(names) > 20 else "")


def counted(number, one, several):
    """A number and its noun in singular or plural."""
    return f"{number} {one if number == 1 else several}"


def log_index(index, labels):
    entries, names = counted(len(index), "entry", "entries"), counted(len(labels), "label", "labels")
    logger.info("The index has %s, the bundle %s", entries, names)


def memory_problem(rows, width):
    """A message if the memory cannot hold the vectors twice: once on their own, once in hnswlib's graph; else None."""
    if not hasattr(os, "sysconf"):  # Windows
        return None
    needed, present = 2 * 4 * rows * width, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed < present:
        return None
    return tr(
        "{rows} entries of {width} numbers need {needed:.0f} GiB of memory, and this machine has {present:.0f} GiB; "
        "use a Milvus server: --milvus_uri http://host:19530",
        rows=rows,
        width=width,
        needed=needed / 2**30,
        present=present / 2**30,
    )
