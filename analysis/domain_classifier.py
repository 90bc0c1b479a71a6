"""How well a linear model tells two sets of texts apart, and by which runs of characters."""

import numpy as np

from near_duplicates import normalized

SAMPLE = 3000  # texts of each set
FEWEST = 20  # of each set
SHOWN = 10  # runs of characters in each direction


def tell_apart(first, second, seed):
    """A linear model that tells texts of two sets apart, scored on texts that it was not trained on.

    Args:
        first, second: lists of texts, at most `SAMPLE` of each. A text that both have counts as one of the first.
    Returns:
        {"auc", "low", "high": its 95 percent interval (Hanley and McNeil 1982), "more_in_second", "more_in_first": runs
        of 1 to 3 characters, the most telling first}; None if a set has fewer than `FEWEST` texts.
    """
    from text_cls import linear_model

    known = {normalized(text) for text in first}
    texts = [*first, *(text for text in second if normalized(text) not in known)]
    is_second = np.arange(len(texts)) >= len(first)
    if min(is_second.sum(), (~is_second).sum()) < FEWEST:
        return None
    from sklearn.metrics import roc_auc_score

    features = linear_model.features_of(texts)
    scores, _ = linear_model.out_of_fold(texts, is_second[:, None], seed=seed, features=features)
    auc = float(roc_auc_score(is_second, scores[:, 0]))
    model = linear_model.fit(texts, is_second[:, None], seed=seed, calibrate=False, features=features)
    names = model.vectorizer.get_feature_names_out()
    order = np.argsort(model.coef[0])
    half = 1.96 * _standard_error(auc, int((~is_second).sum()), int(is_second.sum()))
    return {
        "auc": auc,
        "low": max(0.0, auc - half),
        "high": min(1.0, auc + half),
        "more_in_second": names[order[::-1][:SHOWN]].tolist(),
        "more_in_first": names[order[:SHOWN]].tolist(),
    }


def _standard_error(auc, first, second):
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (first - 1) * (one - auc**2) + (second - 1) * (two - auc**2)
    return float(np.sqrt(max(0.0, spread) / (first * second)))
