"""index.py build: a new index for a bundle, in its folder or in Milvus, of label texts or labelled rows."""

import os
import secrets

from bundle_changes import log_index, memory_problem, open_for_change, write_changes
from corpus import read_build_corpus
from ownership import GRACE, delete_old_collections, is_own, record_collections, with_owner
from searching import add_entries
from text_cls.cli import Problems, logger
from text_cls.language import tr
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.search.label_scores import NEIGHBOURS, VOTERS, vote_decision
from text_cls.search.milvus_index import MilvusIndex, check_answers, uri_problem


def check_build(args, vote, rows, width, problems):
    """Adds what is wrong with the arguments of `build` to `problems`. rows, width: of the index's vectors."""
    if vote and args.corpus == "labels":
        problems.add(tr("--vote counts labelled rows; label texts are chosen by nearness: leave it out"))
    if args.milvus_uri is None:
        problem = memory_problem(rows, width)
        if args.index_type:
            problems.add(tr("--index_type is for Milvus (--milvus_uri); the index in a bundle has only one type"))
    else:
        problem = uri_problem(args.milvus_uri)
    if problem:
        problems.add(problem)


def search_settings(args, bundle, vote):
    """The manifest's "search" and the decision that belongs to it. Logs if the meaning of the scores changes."""
    before, decision = bundle.manifest["search"], bundle.decision
    neighbours, calibration = before["neighbours"], before.get("calibration")
    if vote != before["vote"] or (calibration and args.corpus != bundle.manifest["corpus"]):
        calibration = None
        neighbours, decision = VOTERS if vote else NEIGHBOURS, vote_decision(decision)
        logger.info(
            "Scores are now %s, and the threshold is 0.5. To fit it: analysis/threshold.py --bundle %s",
            tr("shares of votes") if vote else tr("cosines"),
            args.bundle,
        )
    search = {"vote": vote, "neighbours": args.neighbours or neighbours}
    return {**search, **({"calibration": calibration} if calibration else {})}, decision


def new_location(args):
    """The manifest's "index" of the index to build. UserError if it is to be in a Milvus that is unavailable."""
    uri = args.milvus_uri
    if uri is None:
        return {"kind": "embedded"}
    uri = os.path.abspath(uri) if uri.endswith(".db") else uri
    check_answers(uri)
    name = f"text_classification_{args.corpus}_{secrets.token_hex(6)}"
    return with_owner(args.bundle, {"kind": "milvus", "uri": uri, "collection": name})


def build(args):
    """Builds a new index for the bundle, and deletes the collection in Milvus that it replaces."""
    problems = Problems()
    predictor = open_for_change(args, problems)
    bundle, width = predictor.bundle, predictor.bundle.manifest["width"]
    vote = args.corpus == "rows" if args.vote is None else args.vote
    labels, texts, names = predictor.labels, [], []
    with problems.collect():
        labels, texts, names = read_build_corpus(args, predictor, problems)
    check_build(args, vote, len(texts), width, problems)
    problems.stop_if_any()
    search, decision = search_settings(args, bundle, vote)
    location, old_location = new_location(args), bundle.manifest["index"]
    collections = delete_old_collections(args.bundle)  # those that a killed build left
    for fields in (location, old_location):
        if fields and fields["kind"] == "milvus" and is_own(args.bundle, fields):
            collections.append(fields)
    if collections:
        record_collections(args.bundle, collections)
    wait = 0.0
    try:
        if location["kind"] == "embedded":
            index = EmbeddedIndex(width)
            add_entries(index, predictor, texts, names)
        else:
            index = MilvusIndex.create(location["uri"], location["collection"], width, args.index_type or "HNSW")
            add_entries(index, predictor, texts, names)
            index.save()
        write_changes(bundle, index, labels, {"corpus": args.corpus, "search": search, "index": location}, decision)
        wait = GRACE
    finally:
        delete_old_collections(args.bundle, wait)
    if location["kind"] == "milvus":
        logger.info("The index is in %s, collection %s", location["uri"], location["collection"])
    log_index(index, labels)
