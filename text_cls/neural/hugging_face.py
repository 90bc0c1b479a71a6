"""Encoders from Hugging Face's folders: BERT has the layers of PaddleNLP's ERNIE under other names.

BERT, RoBERTa-wwm, MacBERT, BGE, GTE and E5 are of type bert; `ernie` is Hugging Face's own name for ERNIE.
"""

import glob
import json
import os
from typing import Any

import numpy as np

from text_cls.cli import UserError, logger

TYPES = ("bert", "ernie")  # a configuration's model_type
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
    """The configuration of a Hugging Face folder, as arguments of PaddleNLP's `ErnieConfig`.

    Raises:
        UserError: the folder has no configuration, or one of a model that is no BERT.
    """
    config = _read_json(os.path.join(folder, "config.json"))
    kind = config.get("model_type")
    if kind not in TYPES or config.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(
            f"{folder}/config.json: a model of type {kind!r}; of Hugging Face's models, those of type "
            f"{' and '.join(TYPES)} can be read"
        )
    return {"use_task_id": False, **{name: config[name] for name in _SIZES if name in config}}


def label_names(folder: str) -> dict[str, str]:
    """{number: name} of a folder's labels; empty if it does not name them. Some folders have numbers for names."""
    names = _read_json(os.path.join(folder, "config.json")).get("id2label")
    named = isinstance(names, dict) and all(isinstance(name, str) for name in names.values())
    return names if named else {}


def _read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict):
            raise ValueError("an object is expected")
        return found
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: {reason}; copy the whole folder again") from error


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
        raise UserError(f"{path} cannot be read ({error}); copy the whole folder again") from error


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
    """PaddleNLP's ErnieModel with the weights of a Hugging Face folder, and its tokenizer."""
    from paddlenlp.transformers import ErnieConfig, ErnieModel

    model = ErnieModel(ErnieConfig(**read_config(folder)))
    fill(model, "", folder)
    return model, load_tokenizer(folder)


def load_classifier(folder: str, num_labels: int) -> tuple[Any, Any]:
    """PaddleNLP's ErnieForSequenceClassification with the weights of a Hugging Face folder, and its tokenizer.

    The folder's own classifier is used if it has as many labels.
    """
    from paddlenlp.transformers import ErnieConfig, ErnieForSequenceClassification

    model = ErnieForSequenceClassification(ErnieConfig(num_labels=num_labels, **read_config(folder)))
    fill(model, "ernie.", folder)
    return model, load_tokenizer(folder)


def fill(model, prefix, folder):
    """Sets the weights of a model, and logs which stay random, and which of the folder are not used.

    prefix: of the encoder's weights in the model.
    """
    weights = read_weights(folder)
    found = encoder_weights(weights, list(range(model.config.num_hidden_layers)))
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
                f"{folder}: {name} has the shape {list(found[name].shape)}, but config.json says "
                f"{list(parameter.shape)}; copy the whole folder again"
            )
        else:
            parameter.set_value(np.ascontiguousarray(found[name].astype("float32")))
    if any(name.startswith(f"{prefix}encoder") or "word_embeddings" in name for name in missing):
        raise UserError(f"{folder}: the weights lack {missing[0]} and {len(missing) - 1} more; copy the folder again")
    unused = [name for name in weights if not name.endswith("position_ids")]  # a constant that older versions saved
    for what, names in (("New, and to be trained", missing), ("Not used", unused)):
        if names:
            logger.info("%s: %s: %s", folder, what, ", ".join(names[:8]) + (" ..." if len(names) > 8 else ""))


def load_tokenizer(folder: str) -> Any:
    """PaddleNLP's tokenizer with the vocabulary of a Hugging Face folder; it gives the same ids.

    Raises:
        UserError: the folder has no WordPiece vocabulary, or settings that this code does not know.
    """
    from paddlenlp.transformers import ErnieTokenizer

    path = os.path.join(folder, "tokenizer_config.json")
    config = _read_json(path) if os.path.exists(path) else {}
    lower = config.get("do_lower_case", True)
    strange = [name for name in ("never_split",) if config.get(name)]
    strange += [name for name in ("tokenize_chinese_chars", "do_basic_tokenize") if not config.get(name, True)]
    strange += ["strip_accents"] if config.get("strip_accents") not in (None, lower) else []
    if strange:
        raise UserError(f"{path}: {', '.join(strange)} cannot be used here; use another model")
    vocabulary = os.path.join(folder, "vocab.txt")
    if not os.path.exists(vocabulary):
        raise UserError(f"{folder} has no vocab.txt; copy the whole folder, or use a model with a WordPiece vocabulary")
    special = {
        name: config[name]
        for name in ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
        if isinstance(config.get(name), str)
    }
    symbols = bool(config.get("split_symbols", False))  # only in the folders of export_model.py
    tokenizer = ErnieTokenizer(vocabulary, do_lower_case=lower, split_symbols=symbols, **special)
    tokenizer.sanitize_special_tokens()  # now they stay whole in a text, as after from_pretrained
    return with_splitting(tokenizer)


def with_splitting(tokenizer):
    """The tokenizer, which splits words only at punctuation if it was made from a Hugging Face folder.

    PaddleNLP's also splits at symbols such as ℃, which the encoder has never seen alone.
    """
    if tokenizer.init_kwargs.get("split_symbols", True):
        return tokenizer
    from paddlenlp.transformers import BasicTokenizer
    from paddlenlp.transformers.tokenizer_utils import _is_punctuation

    class Splitting(BasicTokenizer):
        def _run_split_on_punc(self, text, never_split=None):
            if never_split and text in never_split:
                return [text]
            return "".join(f" {char} " if _is_punctuation(char) else char for char in text).split(" ")

    tokenizer.basic_tokenizer = Splitting(do_lower_case=tokenizer.init_kwargs.get("do_lower_case", True))
    return tokenizer
