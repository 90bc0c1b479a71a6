"""Finds labels of training rows that are probably wrong, and corrects them. Arrays in, arrays out.

cleanlab and scikit-learn are imported inside functions.
"""

from dataclasses import dataclass

import numpy as np

from text_cls.label_tree import with_ancestors

LEAST, MOST = 1e-4, 1 - 1e-4  # probabilities are clipped to these, so that one label cannot outweigh all others
DECAY = 0.03  # of the refitted classifier: TrustAI's lmbd


@dataclass
class LabelErrors:
    """Labels that are probably wrong.

    flags: bool [rows, labels], True if the label's presence or absence is suspect. strengths: float64 [rows, labels],
    how suspect, in units of the method. Only flagged labels count for a row's score.
    """

    flags: np.ndarray
    strengths: np.ndarray

    def scores(self):
        """float64 [rows], 0 for a row without flagged labels."""
        return np.where(self.flags, self.strengths, 0).sum(axis=1)

    def order(self):
        """Row numbers, the highest score first; rows of the same score by the sum of their strengths."""
        return np.lexsort((-self.strengths.sum(axis=1), -self.scores()))


def calibrated_by_label(scores, pooled, targets, seed):
    """Probabilities of out-of-fold scores: the mean of one sigmoid for all labels and one sigmoid per label.

    The common sigmoid misses that the scores of some labels run low; the one of a label with few rows is inexact. The
    sigmoids of a row are fitted to other rows.

    Args:
        scores, pooled: float [rows, labels], from `linear_model.out_of_fold`.
        targets: bool [rows, labels].
    """
    from sklearn.linear_model import LogisticRegression

    fold = np.random.default_rng(seed).permutation(len(scores)) % 5
    own = np.array(pooled, dtype=np.float64)
    for part in range(5):
        test_rows = fold == part
        for k in range(scores.shape[1]):
            fitted_to = targets[~test_rows, k]
            if fitted_to.any() and not fitted_to.all() and test_rows.any():
                sigmoid = LogisticRegression(C=1e3).fit(scores[~test_rows, k : k + 1], fitted_to)
                own[test_rows, k] = sigmoid.predict_proba(scores[test_rows, k : k + 1])[:, 1]
    return ((own + pooled) / 2).astype(np.float32)


def confident_learning(probabilities, targets):
    """Confident learning (Northcutt, Jiang and Chuang 2021, https://arxiv.org/abs/1911.00068), label by label.

    A label is suspect if the opposite is as probable as it is on average in rows labelled with the opposite.

    Args:
        probabilities: float [rows, labels], from models that were not trained on the row.
        targets: bool [rows, labels], the gold labels.
    Returns:
        `LabelErrors`; strengths are -log of the probability that the gold label is right. Labels that all rows or no
        rows have are never suspect.
    """
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

    probabilities = np.clip(probabilities, LEAST, MOST)
    columns = np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0))
    flags = np.zeros(targets.shape, dtype=bool)
    if len(columns):
        gold = [np.flatnonzero(row).tolist() for row in targets[:, columns]]
        flags[:, columns] = find_multilabel_issues_per_class(
            gold, probabilities[:, columns], filter_by="confident_learning", n_jobs=1
        )
    return LabelErrors(flags, -np.log(np.where(targets, probabilities, 1 - probabilities)))


def representer_values(features, targets, threshold):
    """Representer points (Yeh et al. 2018, https://arxiv.org/abs/1811.09720) of one logistic classifier per label.

    TrustAI's RepresenterPointModel refits a softmax over all labels to the model's own probabilities: wrong for sigmoid
    heads, where labels do not compete, and blind to the gold labels. Here one logistic head per label is fitted to the
    gold labels with TrustAI's decay. At the optimum its weights are the sum of the rows' features times
    (target - probability) / (2 x decay x rows).

    Args:
        features: float [rows, width], the input of the model's classifier.
        targets: bool [rows, labels].
        threshold: flags values above it, in standard deviations of all values, if the head contradicts the label.
    Returns:
        `LabelErrors`; strengths are how much the row itself supports its label against the other rows: its value's
        size times the squared length of its features, in standard deviations of all values.
    """
    from sklearn.linear_model import LogisticRegression

    features = np.column_stack([features, np.ones(len(features), features.dtype)]).astype(np.float64)
    weight = 1 / (2 * DECAY * len(features))
    residuals = np.zeros(targets.shape)
    for k in range(targets.shape[1]):
        if targets[:, k].any() and not targets[:, k].all():
            head = LogisticRegression(C=weight, fit_intercept=False, max_iter=1000).fit(features, targets[:, k])
            residuals[:, k] = np.abs(targets[:, k] - head.predict_proba(features)[:, 1])
    pulls = residuals * weight * (features**2).sum(axis=1, keepdims=True)
    strengths = pulls / (pulls.std() or 1)
    return LabelErrors((strengths > threshold) & (residuals > 0.5), strengths)


# ---------------------------------------------------------------------------------------------------------- hierarchies


def deepest(chosen, parents):
    """Numbers of the chosen labels (bool [labels]) without a chosen descendant: each path is reported once."""
    has_below = np.zeros_like(chosen)
    for label in np.flatnonzero(chosen):
        while (label := parents[label]) >= 0:
            has_below[label] = True
    return np.flatnonzero(chosen & ~has_below)


def suspect_labels(flags, gold, parents):
    """Yields ("missing" or "wrong", label) of a row's flagged labels, once per path. Bool arrays [labels]."""
    for fault, mask in (("missing", flags & ~gold), ("wrong", flags & gold)):
        for label in deepest(mask, parents):
            yield fault, label


def corrected(gold, flags, parents):
    """A row's gold labels with every flagged label removed or added. Bool arrays [labels].

    A removed label takes its descendants with it, an added one brings its ancestors.
    """
    removed, ancestors = gold & flags, parents
    while (ancestors >= 0).any():
        removed = removed | (ancestors >= 0) & (gold & flags)[ancestors]
        ancestors = np.where(ancestors >= 0, parents[ancestors], -1)
    return with_ancestors((gold & ~removed | flags & ~gold)[None], parents)[0]
