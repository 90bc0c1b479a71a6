"""Encoders from Hugging Face's folders: BERT has the layers of ERNIE under other names."""

import json
import os

import numpy as np

from text_cls.cli import UserError

TYPES = ("bert", "ernie")  # a configuration's model_type
LAYER = {  # PaddleNLP's names within a layer: Hugging Face's
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}
EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings", "task_type_embeddings")


def read_config(folder: str) -> dict:
    """The configuration of a Hugging Face folder, as arguments of PaddleNLP's `ErnieConfig`.

    Raises:
        UserError: the folder has no configuration, or one of a model that is no BERT.
    """
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        kind = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}; copy the whole folder again") from error
    if kind not in TYPES or config.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"{path}: a model of type {kind!r}; only these can be read: {', '.join(TYPES)}")
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    names += ("hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size")
    names += ("initializer_range", "layer_norm_eps", "pad_token_id", "use_task_id", "task_type_vocab_size")
    return {"use_task_id": False, **{name: config[name] for name in names if name in config}}


def encoder_weights(weights: dict[str, np.ndarray], layers: list[int]) -> dict[str, np.ndarray]:
    """Weights by PaddleNLP's names from those by Hugging Face's.

    Args:
        layers: numbers of the layers to take, in their new order.
    """
    prefix = next(
        (
            name[: -len("embeddings.word_embeddings.weight")]
            for name in weights
            if name.endswith("embeddings.word_embeddings.weight")
        ),
        "",
    )
    found = {
        f"embeddings.{name}.weight": weights[f"{prefix}embeddings.{name}.weight"]
        for name in EMBEDDINGS
        if f"{prefix}embeddings.{name}.weight" in weights
    }
    pairs = {"embeddings.layer_norm": "embeddings.LayerNorm", "pooler.dense": "pooler.dense"}
    for place, layer in enumerate(layers):
        pairs |= {f"encoder.layers.{place}.{ours}": f"encoder.layer.{layer}.{theirs}" for ours, theirs in LAYER.items()}
    for ours, theirs in pairs.items():
        for part in ("weight", "bias"):
            if (value := weights.get(f"{prefix}{theirs}.{part}")) is not None:
                found[f"{ours}.{part}"] = value.T if value.ndim == 2 else value  # PaddleNLP's are [inputs, outputs]
    return found
