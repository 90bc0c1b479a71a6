"""Where the classifier, the model's last layer, starts: `--head_start` of train.py.

A random classifier first learns how frequent each label is, which can take epochs. `prior` starts from there (Lin et
al., ICCV 2017, arXiv:1708.02002, section 4.1); `linear` from one logistic regression per label on the features of the
untrained encoder (linear probing, then fine-tuning: Kumar et al., ICLR 2022, arXiv:2202.10054).
"""

import time

import numpy as np

from text_cls.batching import sorted_batches
from text_cls.cli import UserError, logger
from text_cls.probabilities import logit, sigmoid

HEAD_STARTS = ("linear", "prior", "random")
DEFAULT = "linear"  # of a model whose classifier is new
# Weight of half the squared norm of a label's weights, beside the sum of the rows' losses: scikit-learn's C is 0.1.
STRENGTH = 10.0
MOST_ROWS = 50_000  # of which features are computed, to limit memory and time
MOST_LABELS = 64  # fitted together: labels of one product of matrices, which need not converge equally fast
MOST_CELLS = 2_000_000  # rows x labels computed together, for the processor's cache


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
        start = "random" if reason or _is_trained(layer) else DEFAULT
        if start == "random":
            logger.info("Classifier: %s", reason or "trained before, and kept as it is")
    if start == "random":
        return False
    if reason:
        raise UserError(f"--head_start {start}: {reason}; use --head_start random")
    rates = label_rates(rows.support(len(checkpoint.labels)), len(rows))
    if start == "prior":
        weight = np.random.default_rng(options.seed).normal(0, 0.02, layer.weight.shape)  # as BERT's
        _set(layer, weight, logit(rates))
        return False
    chosen, features, seconds = features_of(options, model, tokens)
    started = time.perf_counter()
    targets = rows.multi_hot(len(checkpoint.labels), chosen)
    _set(layer, *fit(features, targets, rates))
    logger.info(
        "Classifier: fitted to the features of %d training rows (features %.1f s, fit %.1f s). Before fine-tuning:",
        len(chosen),
        seconds,
        time.perf_counter() - started,
    )
    return True


def _classifier(model):
    """The last linear layer, and None or why it cannot be set."""
    from text_cls.neural.model import last_linear

    layer = last_linear(model)
    if layer.bias is None or layer.weight.shape[1] != model.config.num_labels:
        return layer, f"{type(model).__name__} does not end in a linear layer with a bias for each label"
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

    Returns:
        (row numbers, float32 array [rows, width] of their features, seconds it took).
    """
    import paddle

    from text_cls.neural.evaluation import all_reduce
    from text_cls.neural.model import predict_features

    started, chosen = time.perf_counter(), np.arange(len(tokens))
    if len(chosen) > MOST_ROWS:
        chosen = np.sort(np.random.default_rng(options.seed).choice(len(tokens), MOST_ROWS, replace=False))
    rank, world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
    batches = [chosen[batch] for batch in sorted_batches(tokens.lengths[chosen], options.batch_size)]
    features = predict_features(model, tokens, options.batch_size, batches[rank::world])
    return chosen, all_reduce(features[chosen]), time.perf_counter() - started


def label_rates(support: np.ndarray, rows: int) -> np.ndarray:
    """Share of the rows that have each label, float64 [labels], never 0 or 1 (Laplace's rule of succession).

    Args:
        support: int array [labels], number of rows of each label.
    """
    return (support + 1) / (rows + 2)


# ------------------------------------------------------------------------------------------------- logistic regression


def fit(features: np.ndarray, targets: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One logistic regression per label.

    The penalty is on the weights of standardised features, and not on the bias. A label that no row has, or every row,
    gets weights of 0 and the log-odds of its rate as bias.

    Args:
        features: float32 array [rows, width].
        targets: bool array [rows, labels].
        rates: `label_rates` of the labels.
    Returns:
        weight [width, labels] and bias [labels] for the features as they are.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0)
    # A feature that hardly varies would get large weights, and a small change of the encoder a large effect.
    spread = np.maximum(spread, 0.1 * spread.mean() + 1e-6)
    features = (features - mean) / spread
    weight, bias = np.zeros((features.shape[1], len(rates))), logit(rates)
    varied = np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0))
    for start in range(0, len(varied), MOST_LABELS):
        some = varied[start : start + MOST_LABELS]
        weight[:, some], bias[some] = _fit(features, targets[:, some], bias[some])
    weight /= spread[:, None]
    return weight, bias - mean @ weight


def _fit(features, targets, bias):
    """Weights and biases that minimise the penalised loss of some labels, by L-BFGS. bias: to start from."""
    from scipy.optimize import minimize

    shape = (features.shape[1] + 1, targets.shape[1])  # the last row is the bias
    rows = max(1, MOST_CELLS // targets.shape[1])

    def loss_and_gradient(flat):
        parameters = flat.reshape(shape)
        weight, bias = parameters[:-1].astype(np.float32), parameters[-1].astype(np.float32)
        loss, gradient = STRENGTH / 2 * (parameters[:-1] ** 2).sum(), np.zeros(shape)
        gradient[:-1] = STRENGTH * parameters[:-1]
        for start in range(0, len(features), rows):
            x, y = features[start : start + rows], targets[start : start + rows]
            logits = x @ weight + bias
            loss += np.logaddexp(0, np.where(y, -logits, logits)).sum(dtype=np.float64)
            errors = sigmoid(logits) - y
            gradient[:-1] += x.T @ errors
            gradient[-1] += errors.sum(axis=0)
        return loss / len(features), gradient.ravel() / len(features)

    first = np.concatenate([np.zeros((shape[0] - 1, shape[1])), bias[None]])
    # Less exact, another rounding would give noticeably other weights; more exact, float32 cannot be.
    exact = {"maxiter": 300, "ftol": 1e-7}
    found = minimize(loss_and_gradient, first.ravel(), jac=True, method="L-BFGS-B", options=exact)
    return found.x.reshape(shape)[:-1], found.x.reshape(shape)[-1]
