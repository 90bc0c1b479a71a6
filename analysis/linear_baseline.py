"""The linear baseline: TF-IDF of character n-grams and one linear SVM a label. Seconds on a CPU, no pretrained weights.

What a neural model has to beat, and a model that can be trained five times over where every row must be judged by one
that has not seen it. scikit-learn inside functions.
"""

from dataclasses import dataclass

import numpy as np

from text_cls.cli import progress_bar

NGRAMS, LEAST_TEXTS, MOST_FEATURES = (1, 3), 2, 300_000
WORTH_PROCESSES = 2e7  # n-grams x labels to solve; below, a second process takes longer to start than it saves


@dataclass
class Features:
    """TF-IDF of texts. vectorizer: scikit-learn's, fitted. matrix: float64 CSR [rows, n-grams]."""

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
        """Signed distances to each label's plane, float32 [rows, labels]; the label is predicted where above 0."""
        matrix = self.vectorizer.transform(texts).astype(np.float32)
        return matrix @ self.coef.T + self.intercept

    def probabilities(self, texts):
        """float32 [rows, labels]. See `fit` for where they come from; 0.5 need not be where the score is 0."""
        if self.calibration is None:
            raise ValueError("fit(..., calibrate=True) makes a model with probabilities")
        return _calibrated(self.scores(texts), self.calibration)


def features_of(texts):
    """`Features` of a sequence of texts: all runs of 1 to 3 characters, case ignored, counts as 1 + log."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        analyzer="char",
        ngram_range=NGRAMS,
        sublinear_tf=True,
        max_features=MOST_FEATURES,
        min_df=LEAST_TEXTS if _share_a_character(texts) else 1,
    )
    return Features(vectorizer, vectorizer.fit_transform(texts))


def _share_a_character(texts):
    """False where no n-gram stands in two texts, so that none would be left."""
    seen = set()
    for text in texts:
        if not seen.isdisjoint(text):
            return True
        seen.update(text)
    return False


def fit(texts, targets, seed=3, calibrate=True, features=None):
    """A model of all labels.

    Args:
        texts: sequence of str, none of them empty.
        targets: bool array [rows, labels]. A label that no row has is never predicted, one that all have always.
        calibrate: have probabilities, for the time of a second fit. A sigmoid over all labels (Platt 1999) is fitted to
            the scores of a fifth of the rows under a model of the other four fifths; with too few texts for that, to
            the rows' own.
        features: `features_of(texts)`, where they are there already.
    """
    features = features or features_of(texts)
    targets = np.asarray(targets, dtype=bool)
    rows = np.arange(len(targets))
    parts = _in_parts(_planes, features.matrix, targets, [(rows, None)], seed)
    coef, intercept = (np.concatenate([part[i] for _, _, part in parts]) for i in range(2))
    calibration = None
    if calibrate:
        held = _folds(texts, targets, 5, seed)[0]
        kept = np.setdiff1d(rows, held) if len(held) < len(rows) else rows
        scores = _held_out(features.matrix, targets, [(kept, held)], seed)[held]
        calibration = _platt(scores, targets[held])
    return LinearModel(features.vectorizer, coef, intercept, calibration)


def out_of_fold(texts, targets, folds=5, seed=3, features=None):
    """Scores and probabilities of each row by a model that has not seen its text.

    N-grams and their weights come from all texts: they know nothing of the labels, and cost more time than a fold.
    Folds come from `splitting.stratified_split`.

    Args:
        texts, targets, features: as in `fit`.
        folds: so many models, fewer where there are fewer different texts.
    Returns:
        (scores, probabilities), float32 arrays [rows, labels]. The sigmoid of a fold's probabilities is fitted to the
        scores of the other folds.
    Raises:
        ValueError: all texts are the same.
    """
    features = features or features_of(texts)
    targets = np.asarray(targets, dtype=bool)
    parts, rows = _folds(texts, targets, folds, seed), np.arange(len(targets))
    if len(parts) < 2:
        raise ValueError("out-of-fold scores need two different texts")
    scores = _held_out(features.matrix, targets, [(np.setdiff1d(rows, held), held) for held in parts], seed)
    probabilities = np.empty_like(scores)
    for held in parts:
        others = np.setdiff1d(rows, held)
        probabilities[held] = _calibrated(scores[held], _platt(scores[others], targets[others]))
    return scores, probabilities


def _folds(texts, targets, folds, seed):
    """Row numbers of each fold, a list of int arrays; a repeated text is in one fold. Fewer with too few texts."""
    from text_cls.splitting import stratified_split

    folds = min(folds, len(set(texts)))
    return stratified_split(targets, texts, [1 / folds] * folds, seed) if folds > 1 else [np.arange(len(targets))]


# ------------------------------------------------------------------------------------------------------------- solving


def _held_out(matrix, targets, splits, seed):
    """Scores float32 [rows, labels] of the held rows of each (kept, held) split; the rest stays 0."""
    scores = np.zeros(targets.shape, dtype=np.float32)
    for (_, held), columns, part in _in_parts(_scores_of, matrix, targets, splits, seed):
        scores[np.ix_(held, columns)] = part
    return scores


def _in_parts(solve, matrix, targets, splits, seed):
    """(split, columns, `solve(matrix, targets, split, columns, seed)`) of parts of the labels, in the labels' order.

    In processes: liblinear draws from one generator a process, so that threads would make the result depend on time.
    """
    from joblib import Parallel, cpu_count, delayed

    columns = np.arange(targets.shape[1])
    work = sum(matrix.nnz * len(kept) / max(1, len(targets)) for kept, _ in splits) * len(columns)
    processes = cpu_count() if work > WORTH_PROCESSES else 1
    chunks = np.array_split(columns, min(len(columns), 4 * processes))
    jobs = [(split, chunk) for split in splits for chunk in chunks]
    results = Parallel(processes, return_as="generator")(delayed(solve)(matrix, targets, *job, seed) for job in jobs)
    done = []
    with progress_bar(len(jobs), "part") as bar:
        for (split, chunk), result in zip(jobs, results):
            done.append((split, chunk, result))
            bar.update()
    return done


def _planes(matrix, targets, split, columns, seed):
    """coef [columns, n-grams] and intercept [columns] of the split's kept rows."""
    from sklearn.svm import LinearSVC

    kept, _ = split
    matrix = matrix[kept]
    coef = np.zeros((len(columns), matrix.shape[1]), dtype=np.float32)
    intercept = np.zeros(len(columns), dtype=np.float32)
    for i, column in enumerate(columns):
        target = targets[kept, column]
        if target.any() and not target.all():
            svm = LinearSVC(random_state=seed).fit(matrix, target)
            coef[i], intercept[i] = svm.coef_[0], svm.intercept_[0]
        else:
            intercept[i] = 1 if target.any() else -1
    return coef, intercept


def _scores_of(matrix, targets, split, columns, seed):
    coef, intercept = _planes(matrix, targets, split, columns, seed)
    return matrix[split[1]].astype(np.float32) @ coef.T + intercept


# --------------------------------------------------------------------------------------------------------- calibration


def _platt(scores, targets):
    """(slope, offset) of the sigmoid that makes probabilities of scores, by Newton's method on all labels at once.

    Targets are drawn in as Platt does, so that separable scores have a finite slope (Lin, Lin and Weng 2007).
    """
    scores, targets = scores.ravel().astype(np.float64), targets.ravel()
    positive = targets.sum()
    wanted = np.where(targets, (positive + 1) / (positive + 2), 1 / (len(targets) - positive + 2))
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
