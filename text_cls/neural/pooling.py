"""Pooling: what of a text goes through the model's pooler to the classifier, its first token or the mean of its tokens.

ERNIE, BERT and BGE are trained with the first token, E5 and most models of sentence-transformers with the mean. A model
records which in its configuration, as `pooling`; PaddleNLP's own models record none and take the first token.
"""

import os

from text_cls.cli import UserError, logger
from text_cls.language import N_, tr
from text_cls.neural import hugging_face
from text_cls.neural.run_file import weights_folder
from text_cls.schema import OBJECT, fields, one_of, or_null, read_json

POOLINGS = FIRST, MEAN = ("first", "mean")
POOLING_FIELD = {"pooling": or_null(one_of(*POOLINGS))}  # in config.json
# What sentence-transformers calls them: in its `pooling_mode`, and in the flags that older versions wrote.
MODES = {"cls": FIRST, "mean": MEAN, "pooling_mode_cls_token": FIRST, "pooling_mode_mean_tokens": MEAN}
REMEDY = N_("correct it, or copy the whole folder again")


def pooling_of(config) -> str:
    """The pooling of a model, from its PaddleNLP configuration: first or mean."""
    return getattr(config, "pooling", None) or FIRST


def recorded_pooling(folder: str) -> str | None:
    """The pooling of the model in a folder: what config.json or sentence-transformers' 1_Pooling says, else first.

    None without a config.json, so also for a model's name.

    Raises:
        UserError: config.json has a `pooling` that is neither first nor mean.
    """
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path):
        return None
    return (
        read_json(path, fields({}, POOLING_FIELD), tr(REMEDY)).get("pooling")
        or _of_sentence_transformers(folder)
        or FIRST
    )


def _of_sentence_transformers(folder):
    path = os.path.join(folder, "1_Pooling", "config.json")
    if not os.path.exists(path):
        return None
    config = read_json(path, OBJECT, tr(REMEDY))
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    modes = [*map(str, modes if isinstance(modes, list) else [modes])] or ["mean"]
    found = MODES.get(modes[0]) if len(modes) == 1 else None  # several are several vectors, one after another
    if found is None:
        what = ", ".join(modes)
        logger.warning("%s: pooling by %s is not supported; the first token is used, or use --pooling mean", path, what)
    return found


def start_pooling(options, name: str) -> str | None:
    """The pooling of a run: `--pooling`, else that of the weights that it starts from, with a warning if they differ.

    Args:
        options: `TrainingOptions`.
        name: folder or name of the model to load.
    Returns:
        first or mean; None if the model is the state of a stopped run, which records its own.
    """
    if name != options.model_name:
        return None
    model = source = hugging_face.find(name) or name
    if options.init_from_ckpt:
        source = weights_folder(options.init_from_ckpt)
    trained = recorded_pooling(source) or recorded_pooling(model)
    if options.pooling and trained and options.pooling != trained:
        logger.warning("--pooling %s: the weights in %s are for --pooling %s", options.pooling, source, trained)
    pooling = options.pooling or trained or FIRST
    if pooling == MEAN:
        logger.info("Pooling: the mean of the tokens")
    return pooling


def set_pooling(model, pooling: str, where: str) -> None:
    """Makes a new model pool in this way, and records it in its configuration.

    Args:
        model: a sequence classifier or encoder of PaddleNLP.
        pooling: first or mean.
        where: the flag and name of the model, for messages.
    Raises:
        UserError: the mean is wanted of a model whose classifier does not use such a pooler.
    """
    model.config.pooling = pooling
    if pooling == FIRST:
        return  # what models do by themselves
    import paddle

    base = model.base_model
    needed = [getattr(getattr(base, "pooler", None), "dense", None)]
    if model is not base:
        needed.append(getattr(model, "classifier", None))  # RoBERTa's is no Linear: it takes the first token by itself
    if not all(isinstance(layer, paddle.nn.Linear) for layer in needed):
        kind = model.config.model_type
        raise UserError(
            tr(
                "{where}: models of type {kind} cannot pool the mean of the tokens; use --pooling first",
                where=where,
                kind=kind,
            )
        )
    mean = _MeanOfTokens()
    base.register_forward_pre_hook(mean.see, with_kwargs=True)
    base.pooler.register_forward_pre_hook(mean.replace)


class _MeanOfTokens:
    """Feeds the pooler the mean of all tokens instead of the first one. Special tokens count, padding does not.

    Hooks rather than layers of our own: weights keep their names, and PaddleNLP's pruning, which replaces methods of
    the model, keeps hooks. Methods rather than functions: a copy of the model then gets a copy of this object.
    """

    mask = None  # of the tokens that the model is about to encode: 1, and 0 for padding

    def see(self, base, inputs, named):
        ids = named["input_ids"] if "input_ids" in named else inputs[0]
        mask = named.get("attention_mask")
        if getattr(mask, "ndim", None) != 2:  # none, or the pair that pruning passes
            mask = ids != base.config.pad_token_id
        self.mask = mask

    def replace(self, pooler, inputs):
        """inputs: (hidden states [rows, tokens, width],). Returns ([rows, 1, width],)."""
        (states,), mask, self.mask = inputs, self.mask.astype(inputs[0].dtype), None
        shares = mask / mask.sum(axis=1, keepdim=True).clip(min=1)  # a server may get a row of nothing but padding
        return (shares.unsqueeze(1).matmul(states),)
