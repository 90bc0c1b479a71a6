"""The corpus: the label texts or labelled rows that texts are compared with, in a search or in a new index."""

from dataclasses import dataclass

from text_cls.cli import UserError, logger
from text_cls.decision import Decision
from text_cls.language import tr
from text_cls.rows import Labels, read_labels, read_lines, read_rows
from text_cls.search.label_scores import carry_decision, corpus_labels, label_entries, row_entries, vote_decision


@dataclass
class Corpus:
    """What a search compares texts with.

    texts: None if a bundle's own index is searched. names: a tuple of label names for each text.
    """

    source: str
    labels: Labels
    decision: Decision
    of_rows: bool
    texts: list | None = None
    names: list | None = None


def read_corpus(args, encoder, problems):
    """The `Corpus` of --corpus_file, or else of the model. Problems with it or with --vote are added to `problems`."""
    path, labels, decision = args.corpus_file, encoder.labels, encoder.decision
    if path is None and encoder.predictor:
        with problems.collect():
            encoder.predictor.load_index()
        of_rows = encoder.predictor.bundle.manifest["corpus"] == "rows"
        corpus = Corpus(tr("the bundle's index"), labels, decision, of_rows)
    elif path is None:
        corpus = Corpus(tr("the model's labels"), labels, decision, False, *label_entries(labels, encoder.corpus))
    elif any("\t" in line for _, line in read_lines(path)):
        entries = read_row_entries(path, labels, problems)
        decision = decision if args.vote is False else decision_by_vote(decision)
        corpus = Corpus(path, labels, decision, True, *entries)
    else:
        labels = read_labels(path, problems)
        wanted = {labels.names[i] for i in corpus_labels(labels)}
        wanted |= set(encoder.corpus or ())  # includes labels with children at which training rows end
        entries = label_entries(labels, [name for name in labels.names if name in wanted])
        corpus = Corpus(path, labels, carry_decision(decision, encoder.labels, labels), False, *entries)
    if args.vote and not corpus.of_rows:
        problems.add(tr("--vote counts labelled rows, but the corpus is label texts; use --corpus_file data/train.txt"))
    return corpus


def read_row_entries(path, labels, problems):
    """The texts and label names of a file's labelled rows, as `row_entries`. What is wrong is added to `problems`."""
    return row_entries(read_rows(path, labels, problems), labels)


def decision_by_vote(decision):
    """`vote_decision`, with a line in the log that says so."""
    logger.info("Labels are chosen by vote: a label needs more than half of the votes; see --threshold")
    return vote_decision(decision)


def read_build_corpus(args, predictor, problems):
    """What index.py build puts into an index: `Labels`, texts, and a tuple of label names for each text."""
    labels, manifest = predictor.labels, predictor.bundle.manifest
    if args.corpus == "rows":
        if args.corpus_file is None:
            problems.add(tr("--corpus rows: name the labelled rows, --corpus_file data/train.txt"))
            return labels, [], []
        return labels, *read_row_entries(args.corpus_file, labels, problems)
    if args.corpus_file:
        labels = read_labels(args.corpus_file, problems)
    wanted = {labels.names[i] for i in corpus_labels(labels)}
    if manifest["corpus"] == "labels" and manifest["index"]:
        wanted |= _labels_with_entries(predictor)
    return labels, *label_entries(labels, [name for name in labels.names if name in wanted])


def _labels_with_entries(predictor):
    """Names of the labels in the bundle's current index: only it shows which labels with children had an entry."""
    try:
        counts = predictor.index.labels()
    except UserError as error:  # an index must be rebuilt even if its Milvus is gone for good
        logger.warning("The old index cannot be read, so labels with children get no entry: %s", error)
        return set()
    if more := sum(count > 1 for count in counts.values()):
        logger.warning(
            "%s had texts of their own (add --text), which are not kept; add them again",
            tr("1 label") if more == 1 else tr("{count} labels", count=more),
        )
    return set(counts)
