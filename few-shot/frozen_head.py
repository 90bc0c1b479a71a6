"""A classifier on the features of a frozen encoder, from a few labelled rows and the names of the labels.

One logistic regression per label, whose weights are drawn toward the direction of the label's name or descriptions
(`--head_start linear+labels` of train.py). The more rows a label has, the less its name counts.
"""

import numpy as np

from text_cls.cli import logger
from text_cls.cross_fitting import chosen_decision, draw_folds, figures
from text_cls.language import tr
from text_cls.neural.head_start import features_of, fit, label_rates, label_vectors
from text_cls.probabilities import sigmoid
from text_cls.search.label_scores import default_decision

# A model of a fold should not be much worse than that of all rows. With many rows, ten folds would take long.
FOLDS, MANY_ROWS, FOLDS_OF_MANY = 10, 1000, 5


def out_of_fold(features, targets, texts, vectors, seed):
    """Probabilities of each row by a head that was not fitted to its text.

    Args:
        features: float32 [rows, width]. targets: bool [rows, labels]. texts: of the rows, a sequence of str.
        vectors: `label_vectors`, float32 [labels, width].
    Returns:
        (probabilities float32 [rows, labels], list of folds as int arrays). With a single text, the probabilities are
        those of its own head.
    """
    folds = draw_folds(targets, texts, seed, FOLDS if len(targets) < MANY_ROWS else FOLDS_OF_MANY)
    probabilities = np.zeros(targets.shape, np.float32)
    for fold in folds:
        rows = np.setdiff1d(np.arange(len(targets)), fold) if len(folds) > 1 else fold
        rates = label_rates(targets[rows].sum(axis=0), len(rows))
        weight, bias = fit(features[rows], targets[rows], rates, vectors)
        probabilities[fold] = sigmoid(features[fold] @ weight + bias)
    return probabilities, folds


def fit_head(checkpoint, rows, tokens, options):
    """Fits the classifier of a model to labelled rows, and the decision to the same rows out of fold.

    Args:
        checkpoint: `Checkpoint` with the model and `Labels`; gets the decision.
        rows: `Rows`; their tokens as `Encoded`.
        options: with `batch_size`, `max_seq_length` and `seed`.
    """
    from text_cls.neural.model import last_linear

    labels, seed = checkpoint.labels, options.seed
    chosen, features, *_ = features_of(options, checkpoint.model, tokens)
    targets, texts = rows.multi_hot(len(labels), chosen), [rows.texts[i] for i in chosen]
    vectors = label_vectors(options, checkpoint)
    weight, bias = fit(features, targets, label_rates(targets.sum(axis=0), len(targets)), vectors)
    layer = last_linear(checkpoint.model)
    layer.weight.set_value(weight.astype(np.float32))
    layer.bias.set_value(bias.astype(np.float32))
    probabilities, folds = out_of_fold(features, targets, texts, vectors, seed)
    base = default_decision(labels, rows)
    checkpoint.decision, predicted = chosen_decision(base, probabilities, targets, folds, labels.parents, seed)
    micro, macro = figures(targets, predicted)[2:4]
    what = tr("the default, as fitted ones gain no more than chance") if checkpoint.decision is base else "fitted"
    logger.info("Thresholds: %s. Out of fold: micro f1 %.2f, macro f1 %.2f", what, micro, macro)


def write_head(folder, checkpoint, max_seq_length):
    """Writes the bundle of a fitted classifier, which is on a CPU."""
    from text_cls.neural.export import bundle_folder, check, example_texts
    from text_cls.serving.predictor import Predictor

    with bundle_folder(folder, checkpoint, "float32", max_seq_length) as draft:
        difference, _, _ = check(checkpoint, Predictor(draft.folder), example_texts(), max_seq_length)
        logger.info("The bundle's logits match the model's within %.1e", difference)
