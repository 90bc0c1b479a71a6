"""Encoders from Hugging Face's folders: BERT has the layers of PaddleNLP's ERNIE under other names, XLM-R of ERNIE-M.

BERT, RoBERTa-wwm, MacBERT, BGE, GTE, English E5 and multilingual-e5-small are of type bert; `ernie` is Hugging Face's
own name for ERNIE; XLM-R, the larger multilingual E5 and bge-m3 are of type xlm-roberta.
"""

import glob
import os
from typing import Any

import numpy as np

from text_cls.cli import UserError, logger
from text_cls.language import tr
from text_cls.neural.hugging_face_tokenizers import load_tokenizer, read_json

FAMILIES = {"bert": "Ernie", "ernie": "Ernie", "xlm-roberta": "ErnieM"}  # model_type: family of PaddleNLP's classes
EXAMPLES = "BAAI/bge-base-zh-v1.5, intfloat/multilingual-e5-small and FacebookAI/xlm-roberta-base"
SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
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
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
_SIZES += ("hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size")
_SIZES += ("initializer_range", "layer_norm_eps", "pad_token_id", "use_task_id", "task_type_vocab_size")


def find(name: str) -> str | None:
    """The Hugging Face folder that a name means: itself, or that in the local cache of Hugging Face or ModelScope.

    None if it is a folder or a name of PaddleNLP's, or is not on this machine.
    """
    if os.path.isdir(name):
        return name if _is_ours(name) else None
    if name.count("/") != 1:
        return None
    for folder in _cached(name):
        if _is_ours(folder):
            return folder
    return None


def _is_ours(folder):
    """Whether a folder has weights by Hugging Face's names; PaddleNLP can write a model.safetensors, too."""
    files = os.listdir(folder) if os.path.isdir(folder) else ()
    if "config.json" not in files or any(file.endswith(".pdparams") for file in files):
        return False
    if SAFETENSORS not in files:
        return TORCH in files
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.path.join(folder, SAFETENSORS), "numpy") as weights:
            return not any("encoder.layers." in name for name in weights.keys())
    except (SafetensorError, OSError):
        return True  # `read_weights` reports it


def _cached(name):
    """Folders where the caches of Hugging Face and ModelScope keep a model, whether they exist or not."""
    home = os.path.expanduser(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    hub = os.environ.get("HF_HUB_CACHE") or os.path.join(os.environ.get("HF_HOME", f"{home}/huggingface"), "hub")
    model = os.path.join(os.path.expanduser(hub), f"models--{name.replace('/', '--')}")
    main = os.path.join(model, "refs", "main")
    if os.path.isfile(main):
        with open(main, encoding="utf-8") as file:
            yield os.path.join(model, "snapshots", file.read().strip())
    yield from sorted(glob.glob(os.path.join(glob.escape(model), "snapshots", "*")))
    scope = os.path.expanduser(os.environ.get("MODELSCOPE_CACHE", f"{home}/modelscope/hub"))
    for base in (os.path.join(scope, "models"), scope, os.path.join(scope, "hub", "models")):
        yield os.path.join(base, *name.replace(".", "___").split("/"))


# ------------------------------------------------------------------------------------------------------------- reading


def read_config(folder: str) -> dict:
    """The configuration of a Hugging Face folder, as arguments of PaddleNLP's `ErnieConfig` or `ErnieMConfig`.

    Raises:
        UserError: the folder has no configuration, or one of a model whose layers PaddleNLP does not have.
    """
    path = os.path.join(folder, "config.json")
    config = read_json(path)
    kind = config.get("model_type")
    if kind not in tuple(FAMILIES):
        raise UserError(
            tr(
                "{path}: a model of type {kind!r}; of Hugging Face's models, those of type {families} can be read, "
                "such as {examples}",
                path=path,
                kind=kind,
                families=", ".join(FAMILIES),
                examples=EXAMPLES,
            )
        )
    expected = {"position_embedding_type": ("absolute",), "hidden_act": ("gelu", "relu")}
    if FAMILIES[kind] == "ErnieM":  # it has no setting for these two
        expected |= {"intermediate_size": (4 * (config.get("hidden_size") or 0),), "pad_token_id": (1,)}
    for name, values in expected.items():
        if config.get(name, values[0]) not in values:
            raise UserError(
                tr(
                    "{path}: a model with {name} {config!r} cannot be read, only {values!r}",
                    path=path,
                    name=name,
                    config=config[name],
                    values=values[0],
                )
            )
    sizes = {name: config[name] for name in _SIZES if name in config}
    return {"use_task_id": False, **sizes} if FAMILIES[kind] == "Ernie" else sizes


def label_names(folder: str) -> dict[str, str]:
    """{number: name} of a folder's labels; empty if it does not name them. Some folders have numbers for names."""
    names = read_json(os.path.join(folder, "config.json")).get("id2label")
    named = isinstance(names, dict) and all(isinstance(name, str) for name in names.values())
    return names if named else {}


def read_weights(folder: str) -> dict[str, np.ndarray]:
    """{Hugging Face's name: array}, from model.safetensors if there is one, else from pytorch_model.bin."""
    import ml_dtypes  # numpy knows bfloat16 from here on

    path = os.path.join(folder, SAFETENSORS)
    try:
        if os.path.exists(path):
            from safetensors.numpy import load_file

            return load_file(path)
        path = os.path.join(folder, TORCH)
        from paddlenlp.utils.serialization import load_torch

        # It returns the bits of bfloat16 as uint16, a type that no weights have.
        bits = load_torch(path).items()
        return {name: value.view(ml_dtypes.bfloat16) if value.dtype == np.uint16 else value for name, value in bits}
    except UserError:
        raise
    except Exception as error:  # safetensors and zipfile have errors of their own
        raise UserError(
            tr("{path} cannot be read ({error}); copy the whole folder again", path=path, error=error)
        ) from error


def encoder_weights(weights: dict[str, np.ndarray], layers: list[int]) -> dict[str, np.ndarray]:
    """Weights by PaddleNLP's names from those by Hugging Face's.

    Args:
        weights: what is used of them is removed.
        layers: numbers of the layers to take, in their new order.
    """
    first = "embeddings.word_embeddings.weight"
    prefix = next((name.removesuffix(first) for name in weights if name.endswith(first)), "")
    pairs = {f"embeddings.{name}": f"embeddings.{name}" for name in EMBEDDINGS}
    pairs |= {"embeddings.layer_norm": "embeddings.LayerNorm", "pooler.dense": "pooler.dense"}
    for place, layer in enumerate(layers):
        pairs |= {f"encoder.layers.{place}.{ours}": f"encoder.layer.{layer}.{theirs}" for ours, theirs in LAYER.items()}
    found = {}
    for ours, theirs in pairs.items():
        for part in ("weight", "bias"):
            if (value := weights.pop(f"{prefix}{theirs}.{part}", None)) is not None:
                # PaddleNLP's products are [inputs, outputs]; embeddings are the same.
                found[f"{ours}.{part}"] = value.T if value.ndim == 2 and "embeddings" not in ours else value
    return found


def _fold_token_type(weights):
    """Adds the vector of the only token type to every position: ERNIE-M has no token types."""
    types = weights.pop("embeddings.token_type_embeddings.weight", None)
    positions = weights.get("embeddings.position_embeddings.weight")
    if types is not None and positions is not None:
        weights["embeddings.position_embeddings.weight"] = positions.astype(np.float32) + types[0].astype(np.float32)


def classifier_weights(weights: dict[str, np.ndarray], layers: list[int], prefix: str) -> dict[str, np.ndarray]:
    """Weights of a sequence classifier by PaddleNLP's names; arguments as in `encoder_weights`.

    prefix: of the encoder's weights in PaddleNLP's model, such as "ernie."; the names of the result have it.
    """
    found = {f"{prefix}{name}": value for name, value in encoder_weights(weights, layers).items()}
    for name in ("classifier.weight", "classifier.bias"):
        if name in weights:
            found[name] = weights.pop(name).T
    return found


# ------------------------------------------------------------------------------------------------------------- loading


def load_encoder(folder: str) -> tuple[Any, Any]:
    """PaddleNLP's ErnieModel or ErnieMModel with the weights of a Hugging Face folder, and its tokenizer."""
    return _load(folder, "Model")


def load_classifier(folder: str, num_labels: int) -> tuple[Any, Any]:
    """PaddleNLP's classifier of the family with the weights of a Hugging Face folder, and its tokenizer.

    The folder's own classifier is used if it is one layer with as many labels.
    """
    return _load(folder, "ForSequenceClassification", num_labels=num_labels)


def _load(folder, kind, **more):
    """kind: what follows the family in the name of PaddleNLP's class. more: further fields of the configuration."""
    from paddlenlp import transformers

    settings, tokenizer = read_config(folder), load_tokenizer(folder)
    settings["pad_token_id"] = tokenizer.pad_token_id  # multilingual-e5-small's config.json has BERT's, not its own
    family = FAMILIES[read_json(os.path.join(folder, "config.json"))["model_type"]]
    model = getattr(transformers, family + kind)(getattr(transformers, f"{family}Config")(**settings, **more))
    fill(model, "" if kind == "Model" else f"{model.base_model_prefix}.", folder)
    return with_epsilon(model), tokenizer


def with_epsilon(model):
    """The model. The layer norms of an ERNIE or ERNIE-M have the epsilon of its configuration, if that names one.

    PaddleNLP (2.8) ignores it: ERNIE's is always 1e-12, ERNIE-M's 1e-5.
    """
    from paddle.nn import LayerNorm

    epsilon = getattr(model.config, "layer_norm_eps", None)
    if model.config.model_type in ("ernie", "ernie_m") and epsilon is not None:
        for layer in model.sublayers():
            if isinstance(layer, LayerNorm):
                layer._epsilon = epsilon
    return model


def fill(model, prefix, folder):
    """Sets the weights of a model, and logs which stay random, and which of the folder are not used.

    prefix: of the encoder's weights in the model.
    """
    weights = read_weights(folder)
    found = encoder_weights(weights, list(range(model.config.num_hidden_layers)))
    if model.config.model_type == "ernie_m":
        _fold_token_type(found)
    found = {f"{prefix}{name}": value for name, value in found.items()}
    for part in ("weight", "bias"):
        name = f"classifier.{part}"
        if name in weights and weights[name].shape[0] == model.config.num_labels:
            found[name] = weights.pop(name).T
    missing = []
    for name, parameter in model.state_dict().items():
        if name not in found:
            missing.append(name)
        elif list(found[name].shape) != list(parameter.shape):
            raise UserError(
                tr(
                    "{folder}: {name} has the shape {shape}, but config.json says {wanted}; copy the whole folder "
                    "again",
                    folder=folder,
                    name=name,
                    shape=list(found[name].shape),
                    wanted=list(parameter.shape),
                )
            )
        else:
            parameter.set_value(np.ascontiguousarray(found[name].astype("float32")))
    if any(name.startswith(f"{prefix}encoder") or "word_embeddings" in name for name in missing):
        raise UserError(
            tr(
                "{folder}: the weights lack {missing} and {count} more; copy the folder again",
                folder=folder,
                missing=missing[0],
                count=len(missing) - 1,
            )
        )
    unused = [name for name in weights if not name.endswith("position_ids")]  # a constant that older versions saved
    for what, names in ((tr("New, and to be trained"), missing), (tr("Not used"), unused)):
        if names:
            logger.info("%s: %s: %s", folder, what, ", ".join(names[:8]) + (" ..." if len(names) > 8 else ""))
