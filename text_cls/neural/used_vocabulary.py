"""Trains only the word vectors that some text uses. The others get no gradient, so that all results are the same.

A vocabulary has 20,000 to 250,000 tokens, a data set often a few thousand of them; in small and in multilingual
models, the vectors of the others are most of the parameters. Left out, they need no gradients, moments and updates.
They are put back whenever weights are saved. AdamW with weight decay would also shrink them in each step, all by the
same factor; `Optimization` keeps the product of these factors.
"""

import contextlib

import numpy as np

from text_cls.language import tr

WORTH_IT = 0.9  # a larger share of the vocabulary in use saves too little


def use_vocabulary(model, options, tokens):
    """Takes the word vectors that no token uses out of a model, if that changes no result and saves enough.

    Args:
        model: a classifier of PaddleNLP.
        options: `TrainingOptions`.
        tokens: [`Encoded`], all that the model will get until `restore`. It fails on other tokens.
    Returns:
        (number of vectors in use, number of all); None if the model is unchanged.
    """
    import paddle

    layer = getattr(getattr(model.base_model, "embeddings", None), "word_embeddings", None)
    # An average of decayed vectors is no product, and fp16 skips steps.
    if not isinstance(layer, paddle.nn.Embedding) or options.weight_decay and (options.average or options.amp):
        return None
    ids = [[part.padding["input_ids"]] for part in tokens] + [part.columns["input_ids"] for part in tokens]
    used, count = np.unique(np.concatenate([np.unique(each) for each in ids])), len(layer.weight)
    if len(used) > WORTH_IT * count:
        return None
    model.used_vocabulary = _UsedVocabulary(layer, used)
    return len(used), count


@contextlib.contextmanager
def all_vectors(model, kept=1.0):
    """In the block, the model has all of its word vectors, those that no token uses times `kept`."""
    vocabulary = getattr(model, "used_vocabulary", None)
    trained = vocabulary and vocabulary.put_back(kept)
    try:
        yield
    finally:
        if vocabulary:
            vocabulary.take_out(trained)


def restore(model):
    """Gives the model all of its word vectors for good, to load others."""
    if vocabulary := getattr(model, "used_vocabulary", None):
        vocabulary.put_back(1.0)
        del model.used_vocabulary


def fit_moments(model, state):
    """Cuts moments to the vectors in use, in place, in the state of a run that was saved when all were trained."""
    if vocabulary := getattr(model, "used_vocabulary", None):
        shape = vocabulary.vectors.shape
        for name, value in state.items():
            if name.startswith(f"{vocabulary.layer.weight.name}_moment") and value.shape == shape:
                state[name] = value[vocabulary.used]


class _UsedVocabulary:
    """An embedding layer's word vectors, of which the layer itself has only those in use.

    vectors: float32 array [tokens, width], as loaded. used: int array, the tokens in use, in order.
    """

    def __init__(self, layer, used):
        import paddle

        self.layer, self.used, self.padding = layer, used, layer._padding_idx
        self.vectors = layer.weight.numpy()
        rows = np.full(len(self.vectors), len(used))  # those of other tokens are beyond the last row
        rows[used] = np.arange(len(used))
        self.rows = paddle.to_tensor(rows)
        self.take_out(self._parameter(self.vectors[used]))

    def take_out(self, weight):
        """Makes `weight` [tokens in use, width] the layer's, and translates tokens to its rows."""
        padding = None if self.padding is None else int(self.rows[self.padding])
        self.layer.weight, self.layer._padding_idx = weight, padding
        self.hook = self.layer.register_forward_pre_hook(self.translate)

    def translate(self, layer, inputs):
        rows = self.rows[inputs[0]]
        # Paddle's kernel for CPUs reads on behind the last row; that for GPUs refuses to.
        if rows.place.is_cpu_place() and int(rows.max()) >= len(self.used):
            raise ValueError(tr("a token that is in no text of this run"))
        return (rows,)

    def put_back(self, kept):
        """Makes all vectors the layer's; returns those that were."""
        self.hook.remove()
        weight, vectors = self.layer.weight, self.vectors * np.float32(kept)
        vectors[self.used] = weight.numpy()
        self.layer.weight, self.layer._padding_idx = self._parameter(vectors), self.padding
        return weight

    def _parameter(self, values):
        """A parameter with the properties of the layer's own, its name among them, which the optimizer's state has."""
        own = self.layer.weight
        made = self.layer.create_parameter(list(values.shape))
        made.set_value(values)
        made.name, made.trainable, made.optimize_attr = own.name, own.trainable, own.optimize_attr
        return made
