"""The entries nearest to texts, and the labels by them: what recall.py, evaluate.py and predict.py share."""

import argparse
from dataclasses import dataclass
from itertools import islice

import numpy as np

from text_cls.cli import logger, positive_int, progress_bar
from text_cls.decision import Decision
from text_cls.neural.compat import prepare_environment
from text_cls.prediction import WINDOW, count_texts
from text_cls.rows import Labels, read_labels, read_lines, read_rows
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.search.label_scores import (
    NEIGHBOURS,
    VOTERS,
    carry_decision,
    corpus_labels,
    deepest,
    label_entries,
    label_scores,
    row_entries,
    vote_decision,
)


def add_search_flags(parser, required=True, vote=True):
    """--params_path, --corpus_file, --vote, --recall_num, --max_seq_length, --batch_size, --device.

    required: whether there must be a model. vote: whether labels are decided, perhaps by votes.
    """
    group = parser.add_argument_group("model and corpus")
    group.add_argument(
        "--params_path",
        required=required,
        help=f"checkpoint of train.py, or bundle of export_model.py ({'required' if required else 'none'})",
    )
    group.add_argument("--corpus_file", help="label file or labelled rows (the model's labels; a bundle's own index)")
    if vote:
        group.add_argument(
            "--vote",
            action=argparse.BooleanOptionalAction,
            help="labels by the votes of labelled rows, weighted by cosine, not by the nearest (on for such a corpus)",
        )
    else:
        parser.set_defaults(vote=False)
    group.add_argument(
        "--recall_num",
        type=positive_int,
        help=f"nearest entries of a text ({NEIGHBOURS}{f', voting {VOTERS}' if vote else ''}; a bundle's own)",
    )
    group.add_argument("--max_seq_length", type=positive_int, help="tokens of a text (as in training)")
    group.add_argument("--batch_size", type=positive_int, default=32, help="rows at a time (%(default)s)")
    group.add_argument("--device", default="gpu", help="cpu, gpu, xpu, npu, or one card: gpu:0 (%(default)s)")


@dataclass
class Corpus:
    """What texts are compared with. texts: None where a bundle's own index is searched; names: a tuple a text."""

    source: str
    labels: Labels
    decision: Decision
    of_rows: bool
    texts: list | None = None
    names: list | None = None


def read_corpus(args, encoder, problems):
    """The `Corpus` of --corpus_file, or of the model. What is wrong with it, or with --vote, goes to `problems`."""
    path, labels, decision = args.corpus_file, encoder.labels, encoder.decision
    if path is None and encoder.predictor:
        with problems.collect():
            encoder.predictor.load_index()
        of_rows = encoder.predictor.bundle.manifest["corpus"] == "rows"
        corpus = Corpus("the bundle's index", labels, decision, of_rows)
    elif path is None:
        corpus = Corpus("the model's labels", labels, decision, False, *label_entries(labels, encoder.corpus))
    elif any("\t" in line for _, line in read_lines(path)):
        rows = read_rows(path, labels, problems)
        decision = decision if args.vote is False else for_votes(decision)
        corpus = Corpus(path, labels, decision, True, *row_entries(rows, labels))
        if not corpus.texts:
            problems.add(f"--corpus_file {path}: no row has a label; nothing can be found among them")
    else:
        labels = read_labels(path, problems)
        inner = set(encoder.corpus or ())  # that have an entry, since rows of the training stop at them
        leaves = {labels.names[i] for i in corpus_labels(labels)}
        entries = label_entries(labels, [name for name in labels.names if name in inner | leaves])
        corpus = Corpus(path, labels, carry_decision(decision, encoder.labels, labels), False, *entries)
    if args.vote and not corpus.of_rows:
        problems.add("--vote counts labelled rows, while the corpus is label texts; give --corpus_file data/train.txt")
    return corpus


def for_votes(decision):
    """`vote_decision`, and a line that tells of it."""
    logger.info("Labels are voted for: those with more than half of the votes are given; see --threshold")
    return vote_decision(decision)


def open_search(args, texts, problems):
    """Encoder, `Corpus` and number of texts of the file `texts`. What is wrong with the files goes to `problems`."""
    prepare_environment()
    from encoder import open_encoder

    encoder = open_encoder(args.params_path, args.device, args.batch_size, args.max_seq_length)
    corpus = read_corpus(args, encoder, problems)
    return encoder, corpus, count_texts(texts, problems)


class Search:
    """Finds what is near to texts.

    To make one encodes the corpus, unless it is an index already: do so when all files are checked.
    """

    def __init__(self, args, encoder, corpus):
        self._encoder, self.labels = encoder, corpus.labels
        ready = corpus.texts is None
        own = encoder.predictor.bundle.manifest["search"] if ready else {}
        self.vote = own.get("vote", corpus.of_rows) if args.vote is None else args.vote
        self.neighbours = args.recall_num or own.get("neighbours", VOTERS if self.vote else NEIGHBOURS)
        if ready:
            self.index = encoder.predictor.index
        else:
            self.index = EmbeddedIndex(encoder.embed(corpus.texts[:1]).shape[1])
            add_entries(self.index, encoder, corpus.texts, corpus.names)
        logger.info(
            "The %d nearest of %d entries (%s) %s",
            min(self.neighbours, len(self.index)),
            len(self.index),
            corpus.source,
            "vote" if self.vote else "are looked at",
        )

    def find(self, texts):
        """`Found` of a list of texts: for each, as many entries as `neighbours` says, or all where there are fewer."""
        return self.index.search(self._encoder.embed(texts), self.neighbours)

    def windows(self, texts, count):
        """Yields (some of the texts, their `Found`) of an iterable of `count` texts; memory does not grow with it."""
        texts = iter(texts)
        with progress_bar(count, "text") as bar:
            while window := list(islice(texts, WINDOW)):
                yield window, self.find(window)
                bar.update(len(window))

    def scores(self, found):
        """The score of each label, from 0 to 1: float32 array [texts, labels]."""
        return label_scores(found, self.labels, self.vote)


def found_ids(found, labels):
    """The deepest labels of each entry found, as `metric.recall_at` takes them: int array [q, k, n], -1 for none.

    Names that are not among the labels count for nothing, as in `label_scores`.
    """
    numbers = {}
    places = [[numbers.setdefault(names, len(numbers)) for names in row] for row in found.labels]
    known = [
        np.array(sorted(labels.index[name] for name in names if name in labels.index), np.int64) for names in numbers
    ]
    entries = [deepest(ids, labels.parents) for ids in known]
    table = np.full((len(entries), max(map(len, entries), default=0)), -1)
    for row, ids in zip(table, entries):
        row[: len(ids)] = ids
    return table[np.array(places, np.int64).reshape(found.cosines.shape)]


def add_entries(index, encoder, texts, names):
    """Encodes texts and adds them to an index, with a tuple of label names each."""
    embedded = isinstance(index, EmbeddedIndex)  # each `add` copies its vectors: it gets all at once
    vectors = np.empty((len(texts) if embedded else 0, index.width), np.float32)
    with progress_bar(len(texts), "entry") as bar:
        for start in range(0, len(texts), WINDOW):
            part = slice(start, start + WINDOW)
            found = encoder.embed(texts[part])
            if embedded:
                vectors[part] = found
            else:
                index.add(found, names[part])
            bar.update(len(found))
    if embedded:
        index.add(vectors, names)
