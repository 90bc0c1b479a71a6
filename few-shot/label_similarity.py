"""Zero-shot classification: a sentence encoder compares texts with the names or descriptions of the labels.

The vectors of all texts of one kind have a common part, which says nothing about their labels: in some encoders,
unrelated texts have a cosine of 0.8. Every vector is therefore centred: the mean of unlabelled texts is subtracted, so
that a label's mean score on them is 0. This is the bias of the encoder's last layer: the bundle is an ordinary one for
retrieval, and labels added to its index later are centred as well.
"""

import numpy as np

from retrieval_based.encoder import KIND, embed, load_encoder, make_encoder
from text_cls.cli import logger
from text_cls.decision import Decision
from text_cls.label_tree import depths
from text_cls.neural.head_start import bias_for, texts_of_label
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.search.label_scores import NEIGHBOURS, corpus_labels

GRAPH = "inference.get_pooled_embedding"  # as in retrieval_based/export_model.py
# Log-odds per unit of cosine: in trials, of 10 to 40 the one with the lowest log-loss on duee and the news examples. On
# cail-divorce and the review examples, where a text has two labels, 10 has.
SLOPE = 20.0


def unit(vectors):
    """The vectors [n, width] scaled to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def load_centred(name, texts, max_seq_length, batch_size):
    """A sentence encoder, centred on unlabelled texts.

    Args:
        name: as in `load_encoder`. texts: list of str.
    Returns:
        the encoder in evaluation mode, its tokenizer, and the unit vectors of the texts, float32 [texts, width].
    Raises:
        UserError: see `load_encoder`.
    """
    from text_cls.neural.model import encode, predict_features

    encoder, tokenizer = load_encoder(name, flag="--model_name")
    if encoder.projection is None:
        encoder = make_encoder(getattr(encoder, encoder.base_model_prefix), encoder.width)
        encoder.projection.weight.set_value(np.eye(encoder.width, dtype=np.float32))
    encoder.eval()
    features = predict_features(encoder, encode(texts, tokenizer, encoder, max_seq_length), batch_size)
    weight = encoder.projection.weight.numpy()
    mean = features.mean(axis=0)
    encoder.projection.bias.set_value(-mean @ weight)
    return encoder, tokenizer, unit((features - mean) @ weight)


def label_index(labels, embed_texts):
    """An index with one entry for each label without children: the mean of the vectors of its texts.

    Args:
        labels: `rows.Labels`, perhaps with descriptions.
        embed_texts: function from a list of texts to unit vectors, float32 [texts, width].
    """
    names = [labels.names[i] for i in corpus_labels(labels)]
    texts = [texts_of_label(labels, name) for name in names]
    vectors = embed_texts([text for some in texts for text in some])
    parts = np.split(vectors, np.cumsum([len(some) for some in texts])[:-1])
    index = EmbeddedIndex(vectors.shape[1])
    index.add(unit(np.array([part.mean(axis=0) for part in parts])), [(name,) for name in names])
    return index


def calibration_of(index, vectors):
    """The sigmoid that makes probabilities of cosines, as `label_scores` takes it: {"slope", "offset"}.

    With it, the probabilities of a text's labels without children add up to 1 in the mean of the texts: without a
    labelled row, one label per text is the best guess.

    Args:
        index: `label_index`. vectors: of unlabelled texts, float32 [texts, width].
    """
    cosines = np.clip(index.search(vectors, len(index)).cosines, 0, 1)
    rate = min(0.5, 1 / len(index))
    return {"slope": SLOPE, "offset": float(bias_for(SLOPE * cosines.reshape(-1, 1), np.array([rate]))[0])}


def zero_shot_decision(labels):
    """Labels that are likelier than not, and at least the best one, with its parents.

    There is nothing to fit a threshold to. Most texts have no label above 0.5 and, without the minimum, would get none;
    benchmarks/zero_shot.py compares this with other decisions.
    """
    return Decision(min_k=int(depths(labels.parents)[corpus_labels(labels)].min()))


def write_zero_shot(folder, labels, encoder, tokenizer, vectors, max_seq_length):
    """Writes the retrieval bundle.

    Args:
        labels: `rows.Labels`, perhaps with descriptions.
        encoder, tokenizer, vectors: of `load_centred`; the encoder on a CPU.
    Raises:
        UserError: the bundle's vectors are not the encoder's.
    """
    from text_cls.neural.checkpoint import Checkpoint
    from text_cls.neural.export import bundle_folder, compare, example_texts, texts_to_compare
    from text_cls.neural.model import encode
    from text_cls.serving.retrieval_predictor import RetrievalPredictor

    checkpoint = Checkpoint(encoder, tokenizer, labels, zero_shot_decision(labels), {})
    fields = {"kind": KIND, "corpus": "labels", "index": None, "width": encoder.width}
    search = {"vote": False, "neighbours": NEIGHBOURS}
    with bundle_folder(folder, checkpoint, GRAPH, max_seq_length, "embedding", **fields, search=search) as draft:
        predictor = RetrievalPredictor(draft.folder)
        texts = texts_to_compare(example_texts(), max_seq_length)
        encoded = encode(texts, tokenizer, encoder, max_seq_length)
        difference = compare(encoded, embed(encoder, encoded, 32), predictor, texts, max_seq_length)
        logger.info("The bundle's vectors match the encoder's within %.1e", difference)
        index = label_index(labels, predictor.embed)
        index.save(draft.folder)
        search |= {"neighbours": max(NEIGHBOURS, len(index)), "calibration": calibration_of(index, vectors)}
        draft.fields |= {"index": {"kind": "embedded"}, "search": search}
