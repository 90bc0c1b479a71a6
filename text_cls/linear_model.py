"""The linear model: TF-IDF of character n-grams and one linear SVM per label. Needs seconds on a CPU.

A neural model has to beat it, and it is cheap enough to train once per fold, to score every row by a model that was not
trained on it. `train.py --model_name linear` makes a checkpoint of it (`linear_classifier`). scikit-learn is imported
inside functions.
"""

from dataclasses import dataclass

import numpy as np

from text_cls.language import N_, tr
from text_cls.terminal import progress_bar

LONGEST_NGRAM = 3
LEAST_TEXTS, MOST_FEATURES = 2, 300_000
LEAST_WEIGHT = 0.01  # of a row as an example for or against a label; below, it would only cost time
WORTH_PROCESSES = 2e7  # n-grams x labels; with less work, a second process costs more time than it saves


@dataclass
class Features:
    """TF-IDF of texts. vectorizer: fitted, from scikit-learn. matrix: float64 CSR [rows, n-grams]."""

    vectorizer: object
    matrix: object


@dataclass
class LinearModel:
    """coef: float32 [labels, n-grams]. intercept: float32 [labels]. calibration: (slope, offset) of one sigmoid."""

    vectorizer: object
    coef: np.ndarray
    intercept: np.ndarray
    calibration: tuple | None

    def scores(self, texts):
        """Signed distance to each label's hyperplane, float32 [rows, labels]; a label is predicted if above 0."""
        matrix = self.vectorizer.transform(texts).astype(np.float32)
        return matrix @ self.coef.T + self.intercept

    def probabilities(self, texts):
        """float32 [rows, labels]; see `fit`. A score of 0 need not have a probability of 0.5."""
        if self.calibration is None:
            raise ValueError(tr("this model has no probabilities; use fit(..., calibrate=True)"))
        return _calibrated(self.scores(texts), self.calibration)


def features_of(texts, most=MOST_FEATURES):
    """`Features` of a sequence of texts: all runs of 1 to 3 characters, ignoring case, with counts as 1 + log.

    most: n-grams to use, the most frequent ones.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        analyzer="char",
        ngram_range=(1, LONGEST_NGRAM),
        sublinear_tf=True,
        max_features=most,
        min_df=LEAST_TEXTS if _share_a_character(texts) else 1,
    )
    return Features(vectorizer, vectorizer.fit_transform(texts))


def _share_a_character(texts):
    """False if no n-gram occurs in two texts: the minimum of two texts would then leave no features."""
    seen = set()
    for text in texts:
        if not seen.isdisjoint(text):
            return True
        seen.update(text)
    return False


def fit(texts, targets, seed=3, calibrate=True, features=None, weights=None, scored=None):
    """Trains a model of all labels.

    Args:
        texts: sequence of str, none of them empty.
        targets: bool array [rows, labels]. A label that no row has is never predicted; one that all rows have, always.
        calibrate: also fit probabilities, which takes as long again. One sigmoid for all labels (Platt 1999) is fitted
            to the scores of a fifth of the rows, by a model of the other four fifths; with too few texts for that, by
            a model of all rows.
        features: `features_of(texts)`, if already computed.
        weights: float array [rows]. Targets may then be between 0 and 1: a row counts as an example for a label with
            its weight times the target, and against it with the rest of its weight.
        scored: number of rows, the first ones, to which probabilities are fitted, as in `out_of_fold`.
    """
    features = features or features_of(texts)
    targets = np.asarray(targets, dtype=bool if weights is None else np.float32)
    rows = np.arange(len(targets))
    parts = _in_parts(_planes, features.matrix, targets, [(rows, None)], seed, weights)
    coef, intercept = (np.concatenate([part[i] for _, _, part in parts]) for i in range(2))
    calibration = None
    if calibrate:
        test_rows = _folds(texts[:scored], targets[:scored] >= 0.5, 5, seed)[0]
        train_rows = np.setdiff1d(rows, test_rows) if len(test_rows) < len(rows) else rows
        scores = _scores_by_split(features.matrix, targets, [(train_rows, test_rows)], seed, weights)[test_rows]
        calibration = _platt(scores, targets[test_rows])
    return LinearModel(features.vectorizer, coef, intercept, calibration)


def out_of_fold(texts, targets, folds=5, seed=3, features=None, weights=None, scored=None):
    """Scores and probabilities of each row by a model that was not trained on its text.

    N-grams and their weights come from all texts: they do not depend on the labels, and take longer than a fold.
    Folds come from `splitting.stratified_split`.

    Args:
        texts, targets, features, weights: as in `fit`.
        scored: number of rows to score, the first ones; the others are in the training of every fold. None for all.
        folds: number of models; fewer if there are fewer distinct texts.
    Returns:
        (scores, probabilities), float32 arrays [scored rows, labels]. The sigmoid of each fold is fitted to the scores
        of the other folds.
    Raises:
        ValueError: all texts are the same.
    """
    features, scored = features or features_of(texts), len(targets) if scored is None else scored
    targets = np.asarray(targets, dtype=bool if weights is None else np.float32)
    parts, rows = _folds(texts[:scored], targets[:scored] >= 0.5, folds, seed), np.arange(len(targets))
    if len(parts) < 2:
        raise ValueError(tr("out-of-fold scores need at least two distinct texts"))
    splits = [(np.setdiff1d(rows, part), part) for part in parts]
    scores = _scores_by_split(features.matrix, targets, splits, seed, weights)[:scored]
    probabilities = np.empty_like(scores)
    for part in parts:
        others = np.setdiff1d(rows[:scored], part)
        probabilities[part] = _calibrated(scores[part], _platt(scores[others], targets[others]))
    return scores, probabilities


def _folds(texts, targets, folds, seed):
    """Row numbers of each fold, a list of int arrays. Rows with the same text share a fold; few texts, fewer folds."""
    from text_cls.splitting import stratified_split

    folds = min(folds, len(set(texts)))
    return stratified_split(targets, texts, [1 / folds] * folds, seed) if folds > 1 else [np.arange(len(targets))]


# ------------------------------------------------------------------------------------------------------------- solving


def _scores_by_split(matrix, targets, splits, seed, weights=None):
    """Scores, float32 [rows, labels], of the test rows of each split (train_rows, test_rows); 0 for other rows."""
    scores = np.zeros(targets.shape, dtype=np.float32)
    for (_, test_rows), columns, part in _in_parts(_scores_of, matrix, targets, splits, seed, weights):
        scores[np.ix_(test_rows, columns)] = part
    return scores


def _in_parts(solve, matrix, targets, splits, seed, weights=None):
    """[(split, columns, `solve(matrix, targets, weights, split, columns, seed)`)] for parts of the labels, in order.

    Uses processes: liblinear has one random generator per process, so results of threads would depend on timing.
    """
    from joblib import Parallel, cpu_count, delayed

    columns = np.arange(targets.shape[1])
    work = sum(matrix.nnz * len(train_rows) / max(1, len(targets)) for train_rows, _ in splits) * len(columns)
    processes = cpu_count() if work > WORTH_PROCESSES else 1
    chunks = np.array_split(columns, min(len(columns), 4 * processes))
    jobs = [(split, chunk) for split in splits for chunk in chunks]
    results = Parallel(processes, return_as="generator")(
        delayed(solve)(matrix, targets, weights, *job, seed) for job in jobs
    )
    done = []
    with progress_bar(len(jobs), N_("parts")) as bar:
        for (split, chunk), result in zip(jobs, results):
            done.append((split, chunk, result))
            bar.update()
    return done


def _planes(matrix, targets, weights, split, columns, seed):
    """coef [columns, n-grams] and intercept [columns], fitted to the split's training rows."""
    from sklearn.svm import LinearSVC

    train_rows, _ = split
    matrix, weights = matrix[train_rows], weights if weights is None else weights[train_rows]
    coef = np.zeros((len(columns), matrix.shape[1]), dtype=np.float32)
    intercept = np.zeros(len(columns), dtype=np.float32)
    for i, column in enumerate(columns):
        examples, target, weight = _examples(matrix, targets[train_rows, column], weights)
        if target.any() and not target.all():
            svm = LinearSVC(random_state=seed).fit(examples, target, weight)
            coef[i], intercept[i] = svm.coef_[0], svm.intercept_[0]
        else:
            intercept[i] = 1 if target.any() else -1
    return coef, intercept


def _examples(matrix, target, weights):
    """The examples of a label: their features, a bool array whether they are for it, and their weights, or None.

    A row with a target between 0 and 1 is two examples.
    """
    if weights is None:
        return matrix, target, None
    both = np.concatenate([weights * target, weights * (1 - target)])
    kept = np.flatnonzero(both > LEAST_WEIGHT)
    return matrix[kept % len(target)], kept < len(target), both[kept]


def _scores_of(matrix, targets, weights, split, columns, seed):
    coef, intercept = _planes(matrix, targets, weights, split, columns, seed)
    return matrix[split[1]].astype(np.float32) @ coef.T + intercept


# --------------------------------------------------------------------------------------------------------- calibration


def _platt(scores, targets):
    """(slope, offset) of the sigmoid that turns scores into probabilities, fitted to all labels at once.

    targets: of the same shape as the scores, bool or from 0 to 1.

    By Newton's method, with Platt's smoothed targets, so that separable scores have a finite slope (Lin, Lin and Weng
    2007).
    """
    scores, targets = scores.ravel().astype(np.float64), targets.ravel()
    positive = targets.sum()
    wanted = targets * (positive + 1) / (positive + 2) + (1.0 - targets) / (len(targets) - positive + 2)
    slope, offset = 0.0, np.log((positive + 1) / (len(targets) - positive + 1))

    def loss(slope, offset):
        logits = slope * scores + offset
        return (np.logaddexp(0, logits) - wanted * logits).sum()

    current = loss(slope, offset)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(slope * scores + offset, -500, 500)))
        gradient = np.array([((p - wanted) * scores).sum(), (p - wanted).sum()])
        weight = p * (1 - p)
        cross = (weight * scores).sum()
        hessian = np.array([[(weight * scores**2).sum(), cross], [cross, weight.sum()]]) + 1e-9 * np.eye(2)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while size > 1e-10 and loss(slope - size * step[0], offset - size * step[1]) > current:
            size /= 2
        slope, offset = slope - size * step[0], offset - size * step[1]
        before, current = current, loss(slope, offset)
        if before - current <= 1e-9 * max(1.0, before):
            break
    return float(slope), float(offset)


def _calibrated(scores, calibration):
    from text_cls.probabilities import sigmoid

    slope, offset = calibration
    return sigmoid(slope * scores + offset)
