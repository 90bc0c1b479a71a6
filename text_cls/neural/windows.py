"""Long texts with Paddle: their tokens, and steps of training on all windows of a text together.

A label belongs to the whole text, and most windows show nothing of it. So the logits of a text's windows are pooled
before the loss, as in learning from bags of examples (Ilse et al. 2018, arXiv:1802.04712, section 2).
"""

import numpy as np

from text_cls import linear_classifier
from text_cls.cli import logger
from text_cls.long_texts import CUT, HEAD_TAIL, MAX, Windows, keep_ends, make_windows
from text_cls.neural.model import encode, predict_logits
from text_cls.neural.onnx_logits import onnx_logits
from text_cls.neural.steps import Steps

NO_LIMIT = 1 << 30  # tokens


def encode_long(texts, tokenizer, model, max_seq_length, how):
    """Tokens of texts for the model.

    Args:
        how: `LongTexts`.
    Returns:
        `Windows` for windows, else `Encoded`.
    """
    if how.mode == CUT:
        return encode(texts, tokenizer, model, max_seq_length)
    if how.mode == HEAD_TAIL:
        return keep_ends(encode(texts, tokenizer, model, NO_LIMIT), max_seq_length)
    fixed = len(tokenizer("")["input_ids"])

    def count(some):
        return [len(ids) - fixed for ids in tokenizer(some)["input_ids"]] if some else []  # PaddleNLP refuses none

    def one_more(some):
        return encode(some, tokenizer, model, max_seq_length + 1)

    return make_windows(texts, count, max_seq_length - fixed, how, one_more)


def encode_texts(checkpoint, texts, max_seq_length):
    """Tokens of texts as a loaded `Checkpoint` reads them: `Encoded`, or `Windows`."""
    if checkpoint.is_linear:
        return linear_classifier.encode(texts, max_seq_length)
    return encode_long(texts, checkpoint.tokenizer, checkpoint.model, max_seq_length, checkpoint.long_texts)


def logits_of_texts(checkpoint, tokens, batch_size):
    """Logits of the tokens that `encode_texts` returned: float32 array [texts, labels]."""
    if checkpoint.is_linear:
        return checkpoint.model.logits(tokens)
    with onnx_logits(checkpoint, len(tokens)):
        return predict_logits(checkpoint.model, tokens, batch_size)


def log_lengths(name, tokens, max_seq_length, max_windows):
    """Logs how long the rows of a file are, and how many are not read to their end."""
    mean, cut = tokens.lengths.mean(), 100 * tokens.truncated / len(tokens)
    if isinstance(tokens, Windows):
        logger.info(
            "%s: %.1f tokens per row, in %.1f windows of at most %d; %.1f%% of the rows are not read after window %d",
            *(name, mean, tokens.counts.mean(), max_seq_length, cut, max_windows),
        )
    else:
        logger.info("%s: %.1f tokens per row, %.1f%% of the rows cut at %d", name, mean, cut, max_seq_length)


class WindowSteps(Steps):
    """Steps on rows that are read in windows.

    A step computes as many windows at a time as a batch has rows, and so needs no more memory than one on short texts.
    Of a row with more windows, it uses as many, drawn by seed, epoch and row.
    """

    def __init__(self, options, checkpoint, rows, tokens, loss):
        super().__init__(options, checkpoint, rows, tokens, loss)
        self.most = options.batch_size
        if longer := int((tokens.counts > self.most).sum()):
            logger.info(
                "%d of %d training rows have more than %d windows; each epoch draws %d of them by seed. A larger "
                "--batch_size draws more, and needs more memory",
                *(longer, len(tokens), self.most, self.most),
            )

    def windows_of(self, row):
        """Numbers of the windows of a row that are used in this epoch."""
        first, end = self.tokens.offsets[row], self.tokens.offsets[row + 1]
        if end - first <= self.most:
            return np.arange(first, end)
        draw = np.random.default_rng([self.options.seed, self.epoch, row])
        return first + np.sort(draw.choice(end - first, self.most, replace=False))

    def parts_of(self, batch):
        mine, empty = batch[self.rank :: self.world], False
        if not len(mine):  # all processes must take part in the exchange of gradients
            mine, empty = batch[:1], True
        windows = [self.windows_of(row) for row in mine]
        parts, first, size = [], 0, 0
        for i, of_row in enumerate(windows):
            if size and size + len(of_row) > self.most:
                parts.append((first, i))
                first, size = i, 0
            size += len(of_row)
        parts.append((first, len(mine)))
        return [self._inputs(mine[start:end], windows[start:end], empty) for start, end in parts]

    def _inputs(self, rows, windows, empty):
        """The model's inputs for the windows of some rows; of the rows, numbers of windows, labels and weights."""
        return {
            **self.tokens.tokens.batch(np.concatenate(windows)),
            "counts": np.array([*map(len, windows)], dtype=np.int64),
            **self.targets_of(rows),
            "weight": np.full(len(rows), 0.0 if empty else 1.0, dtype=np.float32),
        }

    def logits(self, inputs):
        counts = inputs.pop("counts")
        return pooled(super().logits(inputs), counts, self.tokens.pooling)


def pooled(logits, counts, pooling):
    """What `long_texts.pool` returns, as a tensor with gradients.

    Args:
        logits: float32 tensor [windows, labels]. counts: int64 tensor [texts].
    """
    import paddle

    if len(logits) == len(counts):
        return logits
    column = paddle.arange(int(counts.max()))
    is_window = column < counts.unsqueeze(1)
    windows = counts.cumsum().unsqueeze(1) - counts.unsqueeze(1) + paddle.where(is_window, column, column * 0)
    padded = logits.index_select(windows.flatten()).reshape([*windows.shape, -1])  # with the first window of the text
    if pooling == MAX:
        # paddle.geometric.segment_max (3.0) would give each of several equal windows the whole gradient.
        highest = padded.detach().argmax(axis=1, keepdim=True)
        return padded.take_along_axis(highest, axis=1).squeeze(1)
    return (padded + (is_window.astype(padded.dtype).unsqueeze(-1) - 1) * 1e9).logsumexp(axis=1)
