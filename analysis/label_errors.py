"""Which labels of training rows are probably wrong, and what the row is without them. Arrays in, arrays out.

cleanlab and scikit-learn inside functions.
"""

from dataclasses import dataclass

import numpy as np

from text_cls.label_tree import with_ancestors

LEAST, MOST = 1e-4, 1 - 1e-4  # probabilities are held between, so that one label cannot outweigh all others
DECAY = 0.03  # of the refitted classifier: TrustAI's lmbd


@dataclass
class Suspects:
    """flags: bool [rows, labels], True where the label's being there, or not, is suspect. strengths: float64 of the
    same shape, how much; what they count in depends on the method. Only flagged ones add to a row's score."""

    flags: np.ndarray
    strengths: np.ndarray

    def scores(self):
        """float64 [rows], 0 for a row with nothing suspect."""
        return np.where(self.flags, self.strengths, 0).sum(axis=1)

    def order(self):
        """Row numbers, the most suspect first; among rows with nothing suspect, the least expected."""
        return np.lexsort((-self.strengths.sum(axis=1), -self.scores()))


def calibrated_by_label(scores, pooled, targets, seed):
    """Probabilities of out-of-fold scores: the mean of one sigmoid for all labels and one a label.

    The sigmoid of all is blind to labels whose scores run low, that of a label is rough where it has few rows. A row's
    are fitted on other rows.

    Args:
        scores, pooled: float [rows, labels], of `linear.out_of_fold`.
        targets: bool [rows, labels].
    """
    from sklearn.linear_model import LogisticRegression

    fold = np.random.default_rng(seed).permutation(len(scores)) % 5
    own = np.array(pooled, dtype=np.float64)
    for held in range(5):
        for k in range(scores.shape[1]):
            kept = targets[fold != held, k]
            if kept.any() and not kept.all() and (fold == held).any():
                sigmoid = LogisticRegression(C=1e3).fit(scores[fold != held, k : k + 1], kept)
                own[fold == held, k] = sigmoid.predict_proba(scores[fold == held, k : k + 1])[:, 1]
    return ((own + pooled) / 2).astype(np.float32)


def confident_learning(probabilities, targets):
    """Confident learning (Northcutt, Jiang and Chuang 2021, https://arxiv.org/abs/1911.00068), a label at a time.

    A label is suspect where the row is as sure of the opposite as rows that truly have the opposite are on average.

    Args:
        probabilities: float [rows, labels], of models that have not seen the row.
        targets: bool [rows, labels], as given.
    Returns:
        Suspects; strengths are -log of the probability that the label is as given. Labels that all rows have or none
        has are never suspect.
    """
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

    probabilities = np.clip(probabilities, LEAST, MOST)
    columns = np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0))
    flags = np.zeros(targets.shape, dtype=bool)
    if len(columns):
        given = [np.flatnonzero(row).tolist() for row in targets[:, columns]]
        flags[:, columns] = find_multilabel_issues_per_class(
            given, probabilities[:, columns], filter_by="confident_learning", n_jobs=1
        )
    return Suspects(flags, -np.log(np.where(targets, probabilities, 1 - probabilities)))


def representer_values(features, targets, threshold):
    """Representer points (Yeh et al. 2018, https://arxiv.org/abs/1811.09720) of one logistic classifier a label.

    TrustAI's RepresenterPointModel refits a softmax over all labels to the model's own probabilities: wrong for sigmoid
    heads, where labels do not compete, and blind to the gold labels. Here each label's logistic head is refitted to the
    gold labels under TrustAI's decay, to the optimum, where the weights are sums of the rows' features times
    (target - probability) / (2 x decay x rows).

    Args:
        features: float [rows, width], what enters the model's classifier.
        targets: bool [rows, labels].
        threshold: flags values above it, in standard deviations of all values, where the head contradicts the label.
    Returns:
        Suspects; strengths are the value's size times the squared length of the features, by which the row holds its
        own label against what the others say, in standard deviations of all.
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
    return Suspects((strengths > threshold) & (residuals > 0.5), strengths)


# ---------------------------------------------------------------------------------------------------------- hierarchies


def deepest(chosen, parents):
    """Numbers of the labels chosen (bool [labels]) of which none below is chosen: a path is told once."""
    above = np.zeros_like(chosen)
    for label in np.flatnonzero(chosen):
        while (label := parents[label]) >= 0:
            above[label] = True
    return np.flatnonzero(chosen & ~above)


def corrected(given, flags, parents):
    """A row's labels without those flagged and given, and with those flagged and not given. Bool arrays [labels].

    What goes takes all below it along, what comes brings all above it.
    """
    gone, above = given & flags, parents
    while (above >= 0).any():
        gone = gone | (above >= 0) & (given & flags)[above]
        above = np.where(above >= 0, parents[above], -1)
    return with_ancestors((given & ~gone | flags & ~given)[None], parents)[0]
