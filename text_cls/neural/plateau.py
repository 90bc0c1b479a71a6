"""A warning for a run whose model learns nothing: it predicts the frequencies of the labels, whatever the text."""

import functools
import math

import numpy as np

from text_cls.cli import logger
from text_cls.language import tr
from text_cls.neural.losses import smoothed

# The search for a label's logit covers -11 to 5, shares of 0.002% to 99%, and ends within 1% of the smallest loss.
FIRST_LOGIT, LOGIT_STEPS = -3.0, (4, 2, 1, 0.5, 0.25, 0.125)
MOST_CELLS = 5_000_000  # rows times labels that are searched
NEAR = 0.95  # of the loss of the best constant answer
LOW_RATE, HIGH_RATE = 1e-5, 3e-4  # of a pretrained model


def best_constant(loss, targets):
    """The answer that is the same for every row and has the smallest loss.

    Args:
        loss: function of logits and labels that returns a loss for each cell; see `make_loss`.
        targets: float32 tensor [rows, labels].
    Returns:
        logits, float32 tensor [labels].
    """
    import paddle

    def mean_loss(logits):
        return loss(logits.expand_as(targets), targets).mean(axis=0)

    best = paddle.full([targets.shape[1]], FIRST_LOGIT)
    smallest = mean_loss(best)
    for step in LOGIT_STEPS:
        centre = best
        for logits in (centre - step, centre + step):
            losses = mean_loss(logits)
            best = paddle.where(losses < smallest, logits, best)
            smallest = paddle.minimum(losses, smallest)
    return best


def best_constant_f1(gold):
    """The largest micro F1 of an answer that is the same for every row: the most frequent labels.

    gold: bool array [rows, labels].
    """
    counts = np.sort(gold.sum(axis=0))[::-1]
    predicted = len(gold) * np.arange(1, len(counts) + 1)
    return float((2 * np.cumsum(counts) / (predicted + counts.sum())).max())


class Plateau:
    """Compares each evaluation with the best answers that are the same for every text.

    Args:
        options: `TrainingOptions`.
        rows: the dev rows.
        evaluation: `Evaluation` of the run.
    """

    def __init__(self, options, rows, evaluation):
        self.options, self.rows, self.evaluation = options, rows, evaluation

    @functools.cached_property
    def constant(self):
        """The smallest loss and the largest micro F1 of one answer for all dev rows."""
        import paddle

        gold, smoothing = self.rows.multi_hot(len(self.evaluation.checkpoint.labels)), self.options.label_smoothing
        some = gold[:: -(-gold.size // MOST_CELLS)].astype(np.float32)
        logits = best_constant(self.evaluation.loss, smoothed(paddle.to_tensor(some), smoothing)).numpy()
        loss = self.evaluation.mean_loss(np.tile(logits, (len(gold), 1)), gold)
        return {"loss": loss, "micro_f1": best_constant_f1(gold)}

    def fault(self, entry):
        """What an entry of a run's history shows: "diverged", "nothing learnt", or None."""
        if not entry["epoch"] or "loss" not in entry:  # before the training, or a retrieval model
            return None
        if not math.isfinite(entry["loss"]):
            return "diverged"
        no_better = entry["micro_f1"] <= self.constant["micro_f1"] and entry["loss"] > NEAR * self.constant["loss"]
        return tr("nothing learnt") if no_better else None

    def warn(self, history):
        """Logs a fault the first time that the last entry of a run's history shows it."""
        *before, last = history
        fault = self.fault(last)
        if fault is None or fault in map(self.fault, before):
            return
        if fault == "diverged":
            logger.warning(
                "The loss is %s: the training has diverged, and the model is useless from here on. Start again with a "
                "lower --learning_rate (now %g) or with --max_grad_norm 1",
                last["loss"],
                self.options.learning_rate,
            )
            return
        logger.warning(
            "After epoch %d, the model has learnt nothing from the texts yet: on the dev rows, its loss is %.3f and "
            "its micro F1 %.2f. The same answer for every text reaches a loss of %.3f (the frequencies of the labels) "
            "or a micro F1 of %.2f (the most frequent labels). If the next epochs are no better, try %s",
            last["epoch"],
            last["loss"],
            last["micro_f1"],
            self.constant["loss"],
            self.constant["micro_f1"],
            "; ".join(self.remedies(last["epoch"])),
        )

    def remedies(self, epoch):
        """Yields what to try, the most promising first."""
        options, rate, head_rate = self.options, self.options.learning_rate, self.options.head_learning_rate
        if options.head_start in ("labels", "prior", "random"):
            yield tr("--head_start linear, which fits the classifier before the training")
        if epoch <= options.freeze_epochs:
            head_rate = rate if head_rate is None else head_rate
            yield tr("a higher --head_learning_rate (now {head_rate:g}; only the head is trained)", head_rate=head_rate)
        elif rate < LOW_RATE:
            yield tr("a higher --learning_rate (now {rate:g}, which is very low; 3e-5 is usual)", rate=rate)
        elif rate < HIGH_RATE:
            yield tr("a higher --learning_rate (now {rate:g})", rate=rate)
        else:
            yield tr("another --learning_rate (now {rate:g}; 3e-5 is usual for a pretrained model)", rate=rate)
        yield "more --epochs"
