"""How much each word of a text supports or opposes a label: TrustAI's integrated gradients, LIME and gradient SHAP.

TrustAI explains the probability of the one class with the highest softmax. With one sigmoid per label there is no such
class, and a probability near 0 or 1 hides what moves it. Each interpreter therefore gets a function that returns the
logits of the requested labels. The baseline is the text with every word's embedding at zero; [CLS] and [SEP] are kept.

Of a text that is read in windows, each label is explained in the one that decided it, which has its highest logit.
"""

from dataclasses import dataclass

import numpy as np

from text_cls.batching import Encoded
from text_cls.language import N_
from text_cls.long_texts import HEAD_TAIL, LongTexts, Windows, deciding_windows, keep_ends
from text_cls.neural.compat import gradient, import_trustai
from text_cls.neural.hugging_face_tokenizers import JsonTokenizer
from text_cls.neural.model import logits_of, window_logits
from text_cls.neural.windows import encode_long
from token_spans import TokenSpans, word_spans, words_of_tokens

METHODS = {"ig": N_("integrated gradients"), "lime": N_("LIME"), "grad": N_("gradient SHAP")}
TOLERANCE = 0.05  # allowed error of the sum of the attributions, as a share of the logit difference
FIRST_STEPS, MOST_STEPS = 16, 512
LIME_SAMPLES, LIME_SAMPLES_A_WORD, SHAP_SAMPLES, SHAP_NOISE = 500, 4, 50, 0.1


@dataclass
class Attribution:
    """The attributions of one text.

    spans: [(start, end)] of the words. values: float64 [labels, words] in logits, 0 for words that the model does not
    read, and for those outside the label's passage. logits, base_logits: float64 [labels], of the text or the passage,
    and of its baseline. steps: evaluations of the model. unread: numbers of the first word that the model does not
    read, and of the one after the last; None if it reads all. passages: int64 [labels, 2], first character of the
    window that decided each label, and the one after its last; None if the model reads the text at once.
    """

    spans: list
    values: np.ndarray
    logits: np.ndarray
    base_logits: np.ndarray
    steps: int
    unread: tuple | None = None
    passages: np.ndarray | None = None

    @property
    def errors(self):
        """Share of the logit difference that the sum of the attributions misses, float64 [labels]; inf if that is 0."""
        difference = self.logits - self.base_logits
        left = np.abs(difference - self.values.sum(axis=1))
        return np.divide(left, np.abs(difference), out=np.where(left > 0, np.inf, 0.0), where=difference != 0)


class Explainer:
    """Computes attributions for one model by one method of `METHODS`.

    Args:
        batch_size: number of changed copies of a text per forward pass.
        long_texts: `LongTexts`, how the model reads texts of more than `max_seq_length` tokens (their beginning).
    """

    def __init__(self, model, tokenizer, method, max_seq_length, batch_size=16, seed=3, long_texts=None):
        self._trustai = import_trustai()
        self._model, self._tokenizer = model, tokenizer
        self._spans = tokenizer.spans if isinstance(tokenizer, JsonTokenizer) else TokenSpans(tokenizer)
        # As TrustAI finds them; get_input_embeddings of PaddleNLP (2.8) does not know ERNIE-M's.
        self._embeddings = next(layer for name, layer in model.named_sublayers() if name.endswith("word_embeddings"))
        self._attribute = {"ig": self._ig, "lime": self._lime, "grad": self._grad}[method]
        self._max_seq_length, self._batch_size, self._seed = max_seq_length, batch_size, seed
        self._long_texts = long_texts or LongTexts()

    def explain(self, text, labels):
        """The `Attribution` of a text for labels, a list of label numbers."""
        encoded = encode_long([text], self._tokenizer, self._model, self._max_seq_length, self._long_texts)
        in_windows = isinstance(encoded, Windows)
        spans, words, unread = (self._words_of_windows if in_windows else self._words)(text, encoded)
        self._evaluations, passages, deciding = 0, None, np.zeros(len(labels), dtype=np.int64)
        if len(words) > 1:
            logits = window_logits(self._model, encoded, np.array([0]), self._batch_size)
            deciding = deciding_windows(logits, encoded.counts)[0, np.array(labels, dtype=np.int64)]
            passages, self._evaluations = encoded.spans[deciding], len(logits)
        values, whole, base = np.zeros((len(labels), len(spans))), np.zeros(len(labels)), np.zeros(len(labels))
        for window in np.unique(deciding):
            chosen = np.flatnonzero(deciding == window)
            self._labels = [labels[i] for i in chosen]
            batch = (encoded.tokens if in_windows else encoded).batch(np.array([window]))
            used, attributions, whole[chosen], base[chosen] = self._explain_tokens(batch, words[window])
            values[np.ix_(chosen, used)] = attributions
        return Attribution(spans, values, whole, base, self._evaluations, unread, passages)

    def _words(self, text, encoded):
        """Words of a text that is read at once: spans, [number of the word of each token read], unread words."""
        spans, word_of_token = words_of_tokens(word_spans(text), self._spans(text))
        places = np.arange(len(word_of_token) + 2)  # of the text's tokens, [CLS] and [SEP] included
        if self._long_texts.mode == HEAD_TAIL:
            whole = Encoded({"place": places}, np.array([0, len(places)]), {}, False, False, 0)
            places = keep_ends(whole, self._max_seq_length).columns["place"]
        read = places[1 : int(encoded.lengths[0]) - 1] - 1
        left_out = np.flatnonzero(np.diff(read, prepend=-1, append=len(word_of_token)) > 1)
        if not len(left_out):
            return spans, [word_of_token[read]], None
        before, after = read[: left_out[0]], read[left_out[0] :]
        first = word_of_token[before].max(initial=-1) + 1
        end = word_of_token[after].min(initial=len(spans))
        return spans, [word_of_token[read]], (int(first), int(end)) if first < end else None

    def _words_of_windows(self, text, windows):
        """What `_words` returns, with an array of each window. A word may be in two of them."""
        sizes = windows.tokens.lengths - 2  # tokens without [CLS] and [SEP]
        tokens = [self._spans(text[start:end])[:n] + start for (start, end), n in zip(windows.spans, sizes)]
        spans, word_of_token = words_of_tokens(word_spans(text), np.concatenate(tokens))
        first = sum(start < windows.spans[-1, 1] for start, _ in spans)
        unread = (first, len(spans)) if windows.truncated and first < len(spans) else None
        return spans, np.split(word_of_token, np.cumsum(sizes)[:-1]), unread

    def _explain_tokens(self, batch, word_of_token):
        """(numbers of the words, attributions [labels, words], logits, logits of the baseline) of a batch of one."""
        import paddle

        self._names = list(batch)
        inputs = [paddle.to_tensor(values) for values in batch.values()]
        base, whole = (self._logits_at(inputs, scale) for scale in (0.0, 1.0))
        words, word_of_token = np.unique(word_of_token, return_inverse=True)
        attributions = np.zeros((len(self._labels), 0))
        if len(words):
            attributions = self._attribute(inputs, word_of_token, whole - base)
        return words, attributions, whole, base

    def _logits_at(self, inputs, scale):
        import paddle

        scale = paddle.full([1, 1, 1], scale)
        logits = self._run(inputs, lambda embeddings: (embeddings, scale), gradients=False)[1]
        return logits[0, self._labels].astype(np.float64)

    # ---------------------------------------------------------------------------------------------------- the methods

    # word_of_token: int array [tokens without [CLS] and [SEP]], numbers of words, each of which has a token.

    def _ig(self, inputs, word_of_token, difference):
        """Sundararajan, Taly and Yan 2017. Doubles the steps until the sums are right, up to `MOST_STEPS`."""
        interpreter = self._trustai.IntGradInterpreter(
            self._model, batch_size=self._batch_size, predict_fn=self._gradients_on_path
        )
        steps = FIRST_STEPS
        while True:
            # One entry for the one row; the label numbers are in self._labels, for one forward pass of all labels.
            result = interpreter.interpret(tuple(inputs), labels=np.zeros(1), steps=steps)[0]
            by_word = _by_word(result.attributions, word_of_token)
            is_exact = np.abs(by_word.sum(axis=1) - difference) <= TOLERANCE * np.abs(difference)
            if is_exact.all() or steps >= MOST_STEPS:
                return by_word
            steps *= 2

    def _gradients_on_path(self, inputs, label, left=0, right=1, steps=1, paddle_model=None, embedding_name=None):
        """`predict_fn` of IntGradInterpreter: steps `left` to `right` on the path from the baseline to the text.

        Returns [steps, labels, tokens, 1], gradients already multiplied with the embeddings, instead of gradients, and
        positions from 0 to 1 instead of the embeddings: this saves memory by a factor of the embedding width.
        """
        import paddle

        positions = (np.arange(left, right) / steps)[:, None, None]
        scale = paddle.to_tensor(positions, "float32")
        by_token, logits = self._run(inputs, lambda embeddings: (embeddings, scale))
        return by_token[..., None], label, positions[..., None], logits[:, self._labels]

    def _lime(self, inputs, word_of_token, difference):
        """Ribeiro, Singh and Guestrin 2016, on words: all tokens of an omitted word become [UNK]."""
        import paddle

        def logits_without(masks):
            """masks: tuple of one int tensor [rows, words], 0 for an omitted word."""
            kept = np.pad(masks[0].numpy()[:, word_of_token] > 0, ((0, 0), (1, 1)), constant_values=True)
            many = [paddle.concat([field] * len(kept)) for field in inputs]
            many[0] = paddle.where(paddle.to_tensor(kept), many[0], paddle.full_like(many[0], unknown))
            self._evaluations += len(kept)
            with paddle.no_grad():
                return np.zeros(len(kept)), logits_of(self._model, dict(zip(self._names, many))).numpy()

        unknown = self._tokenizer.unk_token_id
        interpreter = self._trustai.LIMEInterpreter(
            self._model, unk_id=0, random_seed=self._seed, predict_fn=logits_without, batch_size=self._batch_size
        )
        words = int(word_of_token.max()) + 1
        ones = paddle.ones([1, words], dtype="int64")
        # The class of the one row is a list of labels: scikit-learn fits them all to the same samples.
        samples = max(LIME_SAMPLES, LIME_SAMPLES_A_WORD * words)
        result = interpreter.interpret((ones,), labels=[self._labels], num_samples=samples)[0]
        return np.reshape(result.attributions, (len(self._labels), words))

    def _grad(self, inputs, word_of_token, difference):
        def attribute(many, transform):
            parts = []
            for start in range(0, len(many[0]), self._batch_size):
                parts.append(self._run([field[start : start + self._batch_size] for field in many], transform)[0])
            return np.concatenate(parts), [None], [None]

        interpreter = self._trustai.GradShapInterpreter(
            self._model, device=None, n_samples=SHAP_SAMPLES, noise_amount=SHAP_NOISE
        )
        interpreter.gradshap.predict_fn, interpreter.gradshap.random = attribute, np.random.default_rng(self._seed)
        return _by_word(interpreter.interpret(tuple(inputs))[0].attributions, word_of_token)

    # ------------------------------------------------------------------------------------------------------ the model

    def _run(self, inputs, transform, gradients=True):
        """Runs the model on changed embeddings; the first and the last token, [CLS] and [SEP], keep theirs.

        Args:
            inputs: tensors [rows, tokens].
            transform: function of the embeddings [rows, tokens, width] that returns (embeddings, scale [rows, 1, 1]).
        Returns:
            (float32 [rows, labels, tokens], gradients of the logits times the difference between the embeddings of
            the text and of the baseline, or None; logits, float32 [rows, all labels]).
        """
        import paddle

        kept, seen = np.ones((1, inputs[0].shape[1], 1), np.float32), []
        kept[:, [0, -1]] = 0
        inner = paddle.to_tensor(kept)

        def replace(layer, layer_inputs, embeddings):
            changed, scale = transform(embeddings)
            used = (embeddings + inner * (scale * changed - embeddings)).detach()
            used.stop_gradient = False
            seen.extend((used, (inner * embeddings).detach()))
            return used

        hook = self._embeddings.register_forward_post_hook(replace)
        try:
            logits = logits_of(self._model, dict(zip(self._names, inputs)))
        finally:
            hook.remove()
        self._evaluations += len(logits)
        if not gradients:
            return None, logits.numpy()
        used, difference = seen
        by_label = []
        for label in self._labels:
            slope = gradient(logits[:, label].sum(), used, self._model, retain_graph=label != self._labels[-1])
            by_label.append((slope * difference).sum(axis=-1).numpy())
        return np.stack(by_label, axis=1), logits.numpy()


def _by_word(by_token, word_of_token):
    """Sums over each word's tokens, [labels, words]. by_token: [labels, tokens], including [CLS] and [SEP]."""
    by_word = np.zeros((len(by_token), word_of_token.max() + 1))
    np.add.at(by_word.T, word_of_token, np.asarray(by_token, np.float64)[:, 1:-1].T)
    return by_word
