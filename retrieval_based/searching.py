"""Finds the entries nearest to texts and scores the labels: what recall.py, evaluate.py and predict.py share."""

import argparse
from itertools import islice

import numpy as np

from corpus import read_corpus
from text_cls.cli import logger, positive_int
from text_cls.language import N_, tr
from text_cls.neural.compat import prepare_environment
from text_cls.prediction import WINDOW
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.search.label_scores import NEIGHBOURS, VOTERS, deepest, label_scores
from text_cls.terminal import progress_bar


def add_search_flags(parser, required=True, vote=True):
    """--params_path, --corpus_file, --vote, --recall_num, --max_seq_length, --batch_size, --device.

    required: whether --params_path is. vote: whether the script decides on labels, so that --vote has an effect.
    """
    group = parser.add_argument_group("model and corpus")
    group.add_argument(
        "--params_path",
        required=required,
        help=tr(
            "checkpoint of train.py, or bundle of export_model.py ({needed})",
            needed=tr("required") if required else tr("none"),
        ),
    )
    group.add_argument(
        "--corpus_file",
        help="label file or labelled rows to compare texts with (the model's labels; a bundle's own index)",
    )
    if vote:
        group.add_argument(
            "--vote",
            action=argparse.BooleanOptionalAction,
            help="choose labels by the votes of labelled rows, weighted by cosine, not by the nearest entry "
            "(on if the corpus is labelled rows)",
        )
    else:
        parser.set_defaults(vote=False)
    group.add_argument(
        "--recall_num",
        type=positive_int,
        help=tr(
            "number of nearest entries to find for each text ({neighbours}{votes}; a bundle's own)",
            neighbours=NEIGHBOURS,
            votes=tr(", or {voters} by vote", voters=VOTERS) if vote else "",
        ),
    )
    group.add_argument("--max_seq_length", type=positive_int, help="maximum tokens per text (as in training)")
    group.add_argument("--batch_size", type=positive_int, default=32, help="texts per batch (%(default)s)")
    group.add_argument("--device", default="gpu", help="cpu, gpu, xpu, npu, or one card: gpu:0 (%(default)s)")


def open_search(args, problems):
    """Encoder and `Corpus`. What is wrong in the files is added to `problems`."""
    prepare_environment()
    from encoder import open_encoder

    encoder = open_encoder(args.params_path, args.device, args.batch_size, args.max_seq_length)
    return encoder, read_corpus(args, encoder, problems)


class Search:
    """Finds the entries nearest to texts, and scores the labels.

    Creating one encodes the corpus, unless a bundle's index is searched: check all files first.
    """

    def __init__(self, args, encoder, corpus):
        self._encoder, self.labels = encoder, corpus.labels
        has_index = corpus.texts is None
        settings = encoder.predictor.bundle.manifest["search"] if has_index else {}
        self.vote = settings.get("vote", corpus.of_rows) if args.vote is None else args.vote
        self.calibration = None if corpus.of_rows else encoder.calibration
        self.neighbours = args.recall_num or settings.get("neighbours", VOTERS if self.vote else NEIGHBOURS)
        if has_index:
            self.index = encoder.predictor.index
        else:
            self.index = EmbeddedIndex(encoder.embed(corpus.texts[:1]).shape[1])
            add_entries(self.index, encoder, corpus.texts, corpus.names)
        logger.info(
            "The %d nearest of %d entries (%s) %s",
            min(self.neighbours, len(self.index)),
            len(self.index),
            corpus.source,
            tr("vote") if self.vote else tr("are used"),
        )

    def find(self, texts):
        """`Found` for a list of texts: the `neighbours` nearest entries of each, or all if there are fewer."""
        return self.index.search(self._encoder.embed(texts), self.neighbours)

    def windows(self, texts, count):
        """Yields (some of the texts, their `Found`) for an iterable of `count` texts, in constant memory."""
        texts = iter(texts)
        with progress_bar(count, N_("texts")) as bar:
            while window := list(islice(texts, WINDOW)):
                yield window, self.find(window)
                bar.update(len(window))

    def scores(self, found):
        """The score of each label, from 0 to 1: float32 array [texts, labels]."""
        return label_scores(found, self.labels, self.vote, self.calibration)


def found_ids(found, labels):
    """The deepest labels of each entry found, as `metric.recall_at` takes them: int array [q, k, n], -1 for none.

    Names that are not among the labels are ignored, as in `label_scores`.
    """
    numbers = {}  # many entries have the same labels: each set of names is converted once
    numbers_found = [[numbers.setdefault(names, len(numbers)) for names in row] for row in found.labels]
    ids_of_sets = []
    for names in numbers:
        known = sorted(labels.index[name] for name in names if name in labels.index)
        ids_of_sets.append(deepest(np.array(known, np.int64), labels.parents))
    table = np.full((len(ids_of_sets), max(map(len, ids_of_sets), default=0)), -1)
    for row, ids in zip(table, ids_of_sets):
        row[: len(ids)] = ids
    return table[np.array(numbers_found, np.int64).reshape(found.cosines.shape)]


def add_entries(index, encoder, texts, names):
    """Encodes texts and adds them to an index. names: a tuple of label names for each text."""
    embedded = isinstance(index, EmbeddedIndex)  # its `add` copies all its vectors, so it is called only once
    vectors = np.empty((len(texts) if embedded else 0, index.width), np.float32)
    with progress_bar(len(texts), N_("entries")) as bar:
        for start in range(0, len(texts), WINDOW):
            part = slice(start, start + WINDOW)
            encoded = encoder.embed(texts[part])
            if embedded:
                vectors[part] = encoded
            else:
                index.add(encoded, names[part])
            bar.update(len(encoded))
    if embedded:
        index.add(vectors, names)
