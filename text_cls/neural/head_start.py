"""Where the classifier, the model's last layer, starts: `--head_start` of train.py.

A random classifier first learns how frequent each label is, which can take epochs. `prior` starts from there (Lin et
al., ICCV 2017, arXiv:1708.02002, section 4.1); `linear` from one logistic regression per label on the features of the
encoder (linear probing, then fine-tuning: Kumar et al., ICLR 2022, arXiv:2202.10054); `labels` from the features of the
labels' names or descriptions, for labels with few rows or none.
"""

import time

import numpy as np

from text_cls.batching import sorted_batches
from text_cls.cli import UserError, logger
from text_cls.label_tree import split_path
from text_cls.language import tr
from text_cls.long_texts import MAX, Windows, pool, shares
from text_cls.probabilities import logit, sigmoid

HEAD_STARTS = ("linear", "linear+labels", "labels", "prior", "random")
DEFAULT = "linear"  # of a model whose classifier is new
# Weight of half the squared norm of a label's weights, beside the sum of the rows' losses: scikit-learn's C is 0.1.
STRENGTH = 10.0
MOST_ROWS = 50_000  # of which features are computed, to limit memory and time
MOST_LABELS = 64  # fitted together: labels of one product of matrices, which need not converge equally fast
MOST_CELLS = 2_000_000  # rows x labels computed together, for the processor's cache
DESCRIPTIONS = "label_descriptions.txt"  # in the folder of the data, optional
SLOPES = (0.5, 1, 1.5, 2, 3)  # of a label's logit, for one standard deviation of its score
CALIBRATION_ROWS = 5_000


def start_head(options, checkpoint, rows, tokens):
    """Sets the classifier as `options.head_start` says. All processes get the same.

    Args:
        options: `TrainingOptions`.
        checkpoint: `Checkpoint` with the model.
        rows, tokens: the training rows, and their tokens as `Encoded`.
    Returns:
        whether the classifier was fitted, so that it may predict something before it is trained.
    Raises:
        UserError: this model's classifier cannot be set.
    """
    model, start = checkpoint.model, options.head_start
    layer, reason = _classifier(model)
    if start is None:
        # With fewer layers than it was trained on, a classifier gets features that it does not know.
        is_kept = reason or options.init_from_ckpt or not options.layers and _is_trained(layer)
        start = "random" if is_kept else DEFAULT
        if start == "random":
            logger.info("Classifier: %s", reason or tr("trained before, and kept as it is"))
    if start == "random":
        return False
    if reason:
        raise UserError(tr("--head_start {start}: {reason}; use --head_start random", start=start, reason=reason))
    if start == "prior":
        rates = label_rates(rows.support(len(checkpoint.labels)), len(rows))
        weight = np.random.default_rng(options.seed).normal(0, 0.02, layer.weight.shape)  # as BERT's
        _set(layer, weight, logit(rates))
        return False
    logger.info("Classifier: %s. Before fine-tuning:", fit_head(options, checkpoint, rows, tokens, start))
    return True


def fit_head(options, checkpoint, rows, tokens, start=DEFAULT):
    """Fits the classifier to the training rows, as `start` (linear, labels, or both) says. All processes get the same.

    Args:
        options: with `batch_size`, `seed`, and `max_seq_length`.
        checkpoint, rows, tokens: as in `start_head`.
    Returns:
        what was done and how long it took, for the log.
    """
    chosen, features, counts, seconds = features_of(options, checkpoint.model, tokens)
    started = time.perf_counter()
    rates = label_rates(rows.support(len(checkpoint.labels)), len(rows))
    targets = rows.multi_hot(len(checkpoint.labels), chosen)
    vectors = label_vectors(options, checkpoint) if reads_labels(start) else None
    layer, _ = _classifier(checkpoint.model)
    pooling = tokens.pooling if isinstance(tokens, Windows) else MAX
    _set(layer, *fit(features, targets, rates, vectors, start != "labels", counts, pooling))
    fitted = time.perf_counter() - started
    return tr(
        "{start}, from the features of {count} training rows (features {seconds:.1f} s, fit {fitted:.1f} s)",
        start=start,
        count=len(chosen),
        seconds=seconds,
        fitted=fitted,
    )


def _classifier(model):
    """The last linear layer, and None or why it cannot be set."""
    from text_cls.neural.model import last_linear

    layer = last_linear(model)
    if layer.bias is None or layer.weight.shape[1] != model.config.num_labels:
        return layer, tr("{name} does not end in a linear layer with a bias for each label", name=type(model).__name__)
    return layer, None


def _is_trained(layer):
    """Whether the classifier is one that was loaded: a new one has no bias."""
    return bool((layer.bias != 0).any())


def _set(layer, weight, bias):
    """Sets a layer's weight [width, labels] and bias [labels], in all processes to those of the first.

    Rounding may depend on where an array lies in memory, so that processes can fit slightly different ones.
    """
    import paddle

    layer.weight.set_value(np.asarray(weight, dtype=np.float32))
    layer.bias.set_value(np.asarray(bias, dtype=np.float32))
    if paddle.distributed.get_world_size() > 1:
        with paddle.no_grad():
            for parameter in (layer.weight, layer.bias):
                paddle.distributed.broadcast(parameter, src=0)


def features_of(options, model, tokens):
    """Features of the rows, of which each process computes a share: of at most `MOST_ROWS`, drawn by seed.

    Args:
        tokens: of the rows; of `Windows`, features and their limit are those of windows.
    Returns:
        (row numbers, float32 array [rows, width] of their features, windows of each row or None, seconds it took).
    """
    import paddle

    from text_cls.neural.evaluation import all_reduce
    from text_cls.neural.model import predict_features

    started, counts = time.perf_counter(), None
    if isinstance(tokens, Windows):
        most = int(MOST_ROWS / tokens.counts.mean())
        rows = _drawn(len(tokens), max(1, most), options.seed)
        chosen, counts, tokens = tokens.of(rows), tokens.counts[rows], tokens.tokens
    else:
        rows = chosen = _drawn(len(tokens), MOST_ROWS, options.seed)
    rank, world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
    batches = [chosen[batch] for batch in sorted_batches(tokens.lengths[chosen], options.batch_size)]
    features = predict_features(model, tokens, options.batch_size, batches[rank::world])
    return rows, all_reduce(features[chosen]), counts, time.perf_counter() - started


def _drawn(count, most, seed):
    """All numbers below `count`, or `most` of them, drawn by seed, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def reads_labels(start: str | None) -> bool:
    """Whether a `--head_start` uses the names or descriptions of the labels."""
    return start in ("labels", "linear+labels")


def texts_of_label(labels, name):
    """The texts that say what a label means: its descriptions, or its name.

    In a hierarchy, the name is read twice: its last level, and the whole path. The mean of both finds more labels than
    either alone.
    """
    levels = split_path(name)
    return labels.descriptions.get(name) or [levels[-1], " ".join(levels)]


def label_vectors(options, checkpoint):
    """Mean features of the texts of each label: float32 array [labels, width]."""
    from text_cls.neural.model import encode, predict_features

    labels, texts, ends = checkpoint.labels, [], []
    for name in labels.names:
        texts += texts_of_label(labels, name)
        ends.append(len(texts))
    tokens = encode(texts, checkpoint.tokenizer, checkpoint.model, options.max_seq_length)
    features = predict_features(checkpoint.model, tokens, options.batch_size)
    return np.array([part.mean(axis=0) for part in np.split(features, ends[:-1])])


def label_rates(support: np.ndarray, rows: int) -> np.ndarray:
    """Share of the rows that have each label, float64 [labels], never 0 or 1 (Laplace's rule of succession).

    Args:
        support: int array [labels], number of rows of each label.
    """
    return (support + 1) / (rows + 2)


# ------------------------------------------------------------------------------------------------- logistic regression


def fit(
    features: np.ndarray,
    targets: np.ndarray,
    rates: np.ndarray,
    vectors: np.ndarray | None = None,
    regress: bool = True,
    counts: np.ndarray | None = None,
    pooling: str = MAX,
) -> tuple[np.ndarray, np.ndarray]:
    """One logistic regression per label.

    Features are centred, and scaled to a mean variance of 1. The penalty is on their weights, and not on the bias. With
    the labels' vectors, it is on the distance from `weights_of_vectors` instead. These remain for a label that no row
    has, or every row; without vectors, its weights are 0 and its bias the log-odds of its rate.

    Args:
        features: float32 array [rows, width]; [windows, width] with counts.
        targets: bool array [rows, labels].
        rates: `label_rates` of the labels.
        vectors: `label_vectors`, float32 array [labels, width].
        regress: False for the weights of the vectors alone.
        counts: int array [rows], windows of each row; the logits of a row are then those of its windows, pooled.
        pooling: of `LongTexts`.
    Returns:
        weight [width, labels] and bias [labels] for the features as they are.
    """
    # One spread for all: with its own, a feature that hardly varies gets large weights, which training then upsets.
    mean, spread = features.mean(axis=0), np.sqrt(features.var(axis=0).mean()) + 1e-6
    features = (features - mean) / spread
    weight, bias = np.zeros((features.shape[1], len(rates))), logit(rates)
    if vectors is not None:
        vectors = (vectors - vectors.mean(axis=0)) / spread
        weight, bias = weights_of_vectors(features, targets, rates, vectors, counts)
    varied = np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0))
    for start in range(0, len(varied) if regress else 0, MOST_LABELS):
        some = varied[start : start + MOST_LABELS]
        weight[:, some], bias[some] = _fit(features, targets[:, some], weight[:, some], bias[some], counts, pooling)
    weight /= spread
    return weight, bias - mean @ weight


def _fit(features, targets, near, bias, counts, pooling):
    """Weights and biases that minimise the penalised loss of some labels, by L-BFGS.

    near: the weights that have no penalty, and to start from. bias: to start from. counts, pooling: as in `fit`.
    """
    from scipy.optimize import minimize

    shape = (features.shape[1] + 1, targets.shape[1])  # the last row is the bias
    pieces = _pieces(len(targets), counts, max(1, MOST_CELLS // targets.shape[1]))

    def loss_and_gradient(flat):
        parameters = flat.reshape(shape)
        weight, bias = parameters[:-1].astype(np.float32), parameters[-1].astype(np.float32)
        loss, gradient = STRENGTH / 2 * ((parameters[:-1] - near) ** 2).sum(), np.zeros(shape)
        gradient[:-1] = STRENGTH * (parameters[:-1] - near)
        for rows, of_rows in pieces:
            x, y = features[of_rows], targets[rows]
            logits, of_row = x @ weight + bias, None if counts is None else counts[rows]
            pooled = logits if of_row is None else pool(logits, of_row, pooling)
            loss += np.logaddexp(0, np.where(y, -pooled, pooled)).sum(dtype=np.float64)
            errors = sigmoid(pooled) - y
            if of_row is not None:
                errors = np.repeat(errors, of_row, axis=0) * shares(logits, pooled, of_row, pooling)
            gradient[:-1] += x.T @ errors
            gradient[-1] += errors.sum(axis=0)
        return loss / len(targets), gradient.ravel() / len(targets)

    first = np.concatenate([near, bias[None]])
    # Less exact, another rounding would give noticeably other weights; more exact, float32 cannot be.
    exact = {"maxiter": 300, "ftol": 1e-7}
    found = minimize(loss_and_gradient, first.ravel(), jac=True, method="L-BFGS-B", options=exact)
    return found.x.reshape(shape)[:-1], found.x.reshape(shape)[-1]


def _pieces(rows, counts, most):
    """Slices of all rows, and of their features, such that each has about `most` of these."""
    ends = np.arange(rows + 1) if counts is None else np.cumsum([0, *counts])
    starts = np.unique(np.searchsorted(ends[:-1], np.arange(0, ends[-1], most)))
    return [(slice(a, b), slice(ends[a], ends[b])) for a, b in zip(starts, [*starts[1:], rows])]


# ------------------------------------------------------------------------------------------------------ labels' vectors


def weights_of_vectors(
    features: np.ndarray,
    targets: np.ndarray,
    rates: np.ndarray,
    vectors: np.ndarray,
    counts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights in the direction of each label's vector.

    The score of a label is the product with its vector, scaled to a standard deviation of 1 over the rows. Vectors must
    be centred: in some encoders, unrelated texts have a cosine of 0.8. All labels share the likeliest of `SLOPES`; the
    bias of each makes its mean probability its rate.

    Args:
        features: float32 array [rows, width], centred and scaled.
        targets, rates: as in `fit`. A label without rows gets the median rate of the others: that nobody has labelled a
            row with it says nothing about how frequent it is.
        vectors: float32 array [labels, width], centred and scaled as the features.
        counts: as in `fit`; the score of a row is then the highest of its windows.
    Returns:
        weight [width, labels] and bias [labels].
    """
    if counts is None:
        every = -(-len(features) // CALIBRATION_ROWS)
        features, targets = features[::every], targets[::every]
    scores = features @ vectors.T
    if counts is not None:
        scores = pool(scores, counts, MAX)
    spread = scores.std(axis=0) + 1e-6
    scores, weight, present = scores / spread, vectors.T / spread, targets.any(axis=0)
    rates = np.where(present, rates, np.median(rates[present])) if present.any() else rates
    losses, biases = [], []
    for slope in SLOPES:
        biases.append(bias_for(slope * scores, rates))
        logits = (slope * scores + biases[-1])[:, present]
        losses.append(np.logaddexp(0, np.where(targets[:, present], -logits, logits)).mean() if present.any() else 0)
    best = int(np.argmin(losses))
    return SLOPES[best] * weight, biases[best]


def bias_for(logits, rates):
    """The bias of each label with which its mean probability is its rate, by bisection: float64 [labels]."""
    low, high = np.full(len(rates), -50.0), np.full(len(rates), 50.0)
    for _ in range(40):
        middle = (low + high) / 2
        below = sigmoid(logits + middle).mean(axis=0, dtype=np.float64) < rates
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2
