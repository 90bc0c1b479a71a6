"""Scores of labelled rows during training, computed by all processes together."""

import numpy as np

from text_cls.batching import sorted_batches
from text_cls.decision import Decision
from text_cls.neural.model import predict_logits
from text_cls.neural.onnx_logits import onnx_logits
from text_cls.probabilities import sigmoid
from text_cls.scores import scores

TUNED = "tuned_"  # prefix of the scores with fitted thresholds


class Evaluation:
    """Scores the checkpoint in memory. Each process computes a share of the rows; all get the same numbers.

    Args:
        checkpoint: `Checkpoint` with the model. With a metric of fitted thresholds, its decision is replaced by the
            one fitted to the dev rows.
        loss: function of logits and labels that returns a loss for each cell.
    """

    def __init__(self, options, checkpoint, loss):
        self.options, self.checkpoint, self.loss = options, checkpoint, loss
        self.folds_of = self.folds = None  # the rows last divided into folds, and these folds
        self.probabilities = None  # of the last evaluation, float32 [rows, labels]; None for an encoder
        self.sets = None, {}  # of the last evaluation: gold, and {prefix of its scores: predicted}, bool [rows, labels]

    def evaluate(self, rows, tokens, fit=True):
        """Loss and scores.

        Args:
            rows, tokens: labelled rows, and their tokens as `Encoded`.
            fit: whether thresholds may be fitted to these rows, as to the dev rows.
        Returns:
            dict: "loss", "micro_f1", "macro_f1", "accuracy"; with fitted thresholds, their scores prefixed by "tuned_".
        """
        share = self.share(tokens)
        with onnx_logits(self.checkpoint, sum(map(len, share))):
            logits = predict_logits(self.checkpoint.model, tokens, self.options.batch_size, share)
        logits, gold = all_reduce(logits), rows.multi_hot(len(self.checkpoint.labels))
        self.probabilities = probabilities = sigmoid(logits)
        parents = self.checkpoint.labels.parents
        tuned = fit and self.options.metric_for_best.startswith(TUNED)
        decision = Decision() if tuned else self.checkpoint.decision
        predicted = decision.decide(probabilities, parents)
        self.sets = gold, {"": predicted}
        results = {"loss": self.mean_loss(logits, gold), **scores(gold, predicted)}
        return {**results, **self.tune(rows, probabilities, gold)} if tuned else results

    def share(self, tokens):
        """The batches of rows that this process computes."""
        import paddle

        rank, world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
        return sorted_batches(tokens.lengths, self.options.batch_size)[rank::world]

    def mean_loss(self, logits, gold):
        import paddle

        total = 0.0
        for start in range(0, len(logits), 4096):
            piece = slice(start, start + 4096)
            targets = paddle.to_tensor(gold[piece].astype(np.float32))
            total += float(self.loss(paddle.to_tensor(logits[piece]), targets).sum())
        return total / gold.size

    def tune(self, rows, probabilities, gold):
        """F1 of rows with thresholds fitted to the other folds. The checkpoint gets thresholds fitted to all rows."""
        from text_cls import cross_fitting, thresholds

        parents = self.checkpoint.labels.parents
        if self.folds_of is not rows:
            self.folds_of, self.folds = rows, cross_fitting.draw_folds(gold, rows.texts, self.options.seed)
        fit = thresholds.fitter(Decision(), self.options.metric_for_best.split("_")[1], True, False, parents)
        predicted = cross_fitting.cross_fitted(probabilities, gold, self.folds, fit, parents)
        self.checkpoint.decision = fit(probabilities, gold)
        self.sets[1][TUNED] = predicted
        found = scores(gold, predicted)
        return {TUNED + name: found[name] for name in ("micro_f1", "macro_f1")}


def all_reduce(array):
    """Completes, in place, an array of which each process has computed some rows and left the others 0."""
    import paddle

    if paddle.distributed.get_world_size() > 1:
        for start in range(0, len(array), 4096):  # in pieces, to spare memory
            piece = paddle.to_tensor(array[start : start + 4096])
            paddle.distributed.all_reduce(piece)
            array[start : start + 4096] = piece.numpy()
    return array
