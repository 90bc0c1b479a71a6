"""A trained classifier written as a Hugging Face folder, which transformers opens on PyTorch.

It is made from a bundle, whose tokenizer and logits are the reference, and from the weights behind the bundle.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from text_cls.cli import UserError, shorten
from text_cls.files import atomic_folder, overwrite_problem, read_unchanged, write_json
from text_cls.language import tr
from text_cls.long_texts import CUT, LongTexts
from text_cls.model_card import CARD, model_card
from text_cls.neural import hugging_face
from text_cls.neural.compat import import_paddle
from text_cls.neural.export import example_texts, texts_to_compare, tolerance
from text_cls.neural.model import encode, predict_logits
from text_cls.neural.tokenizer_json import whole_tokenizer
from text_cls.serving.predictor import Predictor
from text_cls.tokenization import TokenizerJson

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
FILES += ("vocab.txt", "label.txt", "decision.json", CARD)
OURS = {"label.txt", "decision.json"}  # files that no folder from elsewhere has
# Sizes and settings that Hugging Face's configuration shares with PaddleNLP's.
SETTINGS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "hidden_dropout_prob")
SETTINGS += ("attention_probs_dropout_prob", "classifier_dropout", "initializer_range", "pad_token_id")
USAGE = """```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from text_cls.decision import Decision
from text_cls.rows import Labels

folder, texts = "{folder}", ["...", "..."]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder)
labels, decision = Labels([*model.config.id2label.values()]), Decision.load(f"{folder}/decision.json")
with torch.no_grad():
    logits = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits
for text, chosen in zip(texts, decision.decide(torch.sigmoid(logits).numpy(), labels.parents)):
    print(text, labels.join(chosen), sep="\\t")
```"""


@dataclass
class Trained:
    """What a folder is made of.

    predictor: `Predictor` of the bundle. weights: {PaddleNLP's name: float32 array} of a sequence classifier.
    config: PaddleNLP's configuration as a dict.
    """

    predictor: Predictor
    weights: dict[str, np.ndarray]
    config: dict


# -------------------------------------------------------------------------------------------------------------- checks


def folder_problem(path: str, flag: str, *others: str) -> str | None:
    """Why a Hugging Face folder must not be written to `path`, or None. others: folders that must be elsewhere."""
    own = Path(path).resolve()
    for other in others:
        folder = Path(other).resolve()
        if own.is_relative_to(folder) or folder.is_relative_to(own):
            return tr(
                "{flag} {path}: this folder and {other} must not be in each other; name another folder",
                flag=flag,
                path=path,
                other=other,
            )
    found = set(os.listdir(path)) if os.path.isdir(path) else set()
    return overwrite_problem(path, FILES if found >= OURS else (), flag)


def config_problem(config: dict) -> str | None:
    """Why a model cannot be written as a Hugging Face folder, or None. config: PaddleNLP's configuration."""
    kind = config.get("model_type")
    if kind not in ("bert", "ernie"):
        return tr(
            "--hf: a model of type {kind} cannot be written for transformers, only ERNIE and BERT; leave --hf out",
            kind=kind,
        )
    if config.get("pooling", "first") != "first":
        return tr(
            "--hf: the model is pooled by {pooling}, which transformers' classifiers cannot do; leave --hf out, or "
            "train with --pooling first",
            pooling=config["pooling"],
        )
    expected = {"task_id": 0, "pool_act": "tanh"}
    strange = [name for name, value in expected.items() if config.get(name, value) != value]
    strange += ["type_vocab_size"] if config.get("type_vocab_size") == 0 else []
    if strange:
        return tr(
            "--hf: config.json: {strange} cannot be expressed in transformers; leave --hf out",
            strange=", ".join(strange),
        )
    return None


# ------------------------------------------------------------------------------------------------------------- reading


def read_pruned(folder: str) -> Trained:
    """The bundle of a pruned width, and the weights and configuration in it.

    Raises:
        UserError: the folder is no such bundle, or is damaged.
    """

    def read():
        predictor = Predictor(folder)
        with open(os.path.join(folder, "model_config.json"), encoding="utf-8") as file:
            config = json.load(file)
        weights = import_paddle().load(os.path.join(folder, "model_state.pdparams"))
        return Trained(predictor, as_arrays(weights), config)

    return read_unchanged(folder, read)


def is_pruned(folder: str) -> bool:
    """Whether a folder is a bundle of prune.py."""
    return all(os.path.exists(os.path.join(folder, name)) for name in ("manifest.json", "model_config.json"))


def as_arrays(weights):
    """Tensors as float32 arrays."""
    return {name: np.asarray(value.numpy(), np.float32) for name, value in weights.items()}


# ------------------------------------------------------------------------------------------------------------- writing


def write_hugging_face(path: str, trained: Trained) -> float:
    """Writes the folder, which replaces `path`. Returns the largest difference of a logit to the bundle's.

    Raises:
        UserError: tokens or logits of the folder are not those of the bundle; nothing is written.
    """
    predictor = trained.predictor
    labels = predictor.labels
    with atomic_folder(path) as folder:

        def file(name):
            return os.path.join(folder, name)

        config, weights = converted(trained)
        write_json(file("config.json"), config)
        from safetensors.numpy import save_file

        save_file(weights, file("model.safetensors"), {"format": "pt"})  # what transformers expects
        shutil.copymode(file("config.json"), file("model.safetensors"))  # it would be readable for its owner only
        _write_tokenizer(folder, predictor)
        labels.write(file("label.txt"))
        predictor.decision.save(file("decision.json"), labels.names)
        with open(file(CARD), "w", encoding="utf-8", newline="\n") as card:
            card.write(_card(path, config, trained))
        return check(folder, predictor)


def converted(trained):
    """Hugging Face's configuration, and {its name: float32 array} of the weights.

    Pruning cuts heads but keeps their size, which Hugging Face computes as hidden_size / num_attention_heads. So the
    heads are filled up with zeros: the values of such a head are 0, and so is what the output makes of them.
    """
    config, labels = trained.config, trained.predictor.labels
    kind = "ernie" if config.get("use_task_id") else "bert"
    weights = {}
    for name, value in trained.weights.items():
        name = name.removeprefix(f"{config['model_type']}.")
        value = _with_all_heads(name, value, config["hidden_size"])
        prefix = "" if name.startswith("classifier.") else f"{kind}."
        turned = value.ndim == 2 and not name.startswith("embeddings.")  # PaddleNLP's products are [inputs, outputs]
        weights[prefix + _their_name(name)] = np.ascontiguousarray(value.T if turned else value)
    sizes = {
        "vocab_size": len(weights[f"{kind}.embeddings.word_embeddings.weight"]),
        "max_position_embeddings": len(weights[f"{kind}.embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(weights[f"{kind}.embeddings.token_type_embeddings.weight"]),
        "intermediate_size": len(weights[f"{kind}.encoder.layer.0.intermediate.dense.bias"]),
        "layer_norm_eps": config.get("layer_norm_eps", 1e-12),
    }
    if kind == "ernie":
        sizes |= {"use_task_id": True}
        sizes |= {"task_type_vocab_size": len(weights["ernie.embeddings.task_type_embeddings.weight"])}
    made = {
        "architectures": [f"{kind.capitalize()}ForSequenceClassification"],
        "model_type": kind,
        "problem_type": "multi_label_classification",
        "id2label": {str(i): name for i, name in enumerate(labels.names)},
        "label2id": labels.index,
        **{name: config[name] for name in SETTINGS if name in config},
        **sizes,
    }
    return made, weights


def _their_name(name):
    """Hugging Face's name of a weight, without the prefix of the encoder."""
    name = name.replace("embeddings.layer_norm", "embeddings.LayerNorm")
    if match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
        layer, part, kind = match.groups()
        return f"encoder.layer.{layer}.{hugging_face.LAYER[part]}.{kind}"
    return name


def _with_all_heads(name, value, width):
    """The weights of attention, with zeros for the heads that pruning cut. width: of all heads together."""
    if re.search(r"self_attn\.[qkv]_proj\.", name):
        return np.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, width - value.shape[-1])])
    if name.endswith("self_attn.out_proj.weight"):
        return np.pad(value, [(0, width - len(value)), (0, 0)])
    return value


def _write_tokenizer(folder, predictor):
    tokenizer, config = predictor.tokenizer, {}
    own = "tokenizer.json" if isinstance(tokenizer, TokenizerJson) else "vocab.txt"
    shutil.copyfile(os.path.join(predictor.bundle.folder, own), os.path.join(folder, own))
    if own == "vocab.txt":
        whole_tokenizer(tokenizer).save(os.path.join(folder, "tokenizer.json"))
        # for `hugging_face_tokenizers.load_tokenizer`
        config = {"do_lower_case": tokenizer.lower_case, "split_symbols": tokenizer.split_symbols}
    specials = {name: token for name, token in tokenizer.specials.items() if token in tokenizer.vocabulary}
    write_json(os.path.join(folder, "special_tokens_map.json"), specials)
    config |= {
        # The class that takes tokenizer.json as it is; BertTokenizer makes rules of its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": predictor.max_seq_length,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **specials,
    }
    write_json(os.path.join(folder, "tokenizer_config.json"), config)


def _card(path, config, trained):
    predictor, cut = trained.predictor, trained.config.get("width_mult")
    header = {"library_name": "transformers", "tags": [config["model_type"]]}
    notes = [
        "Hugging Face's `pipeline` and vLLM do not read `decision.json`: they return probabilities, no label sets."
    ]
    if predictor.long_texts.mode != CUT:
        notes.append(
            f"It was trained with `--long_texts {predictor.long_texts.mode}`, which transformers does not know: there, "
            "long texts are cut."
        )
    if cut:
        notes.append(
            f"It was pruned to {cut:g} of its width. The attention heads that were cut are zeros here, so attention is "
            "as slow as in the whole model; the feed-forward layers are narrower."
        )
    usage = USAGE.replace("{folder}", os.path.basename(os.path.realpath(path)), 1)
    usage = f"`text_cls` is the library of the project that wrote this folder; it needs no Paddle.\n\n{usage}"
    return model_card(
        predictor.bundle.manifest.get("card", {}),
        predictor.labels,
        predictor.decision,
        predictor.max_seq_length,
        LongTexts(),
        header,
        usage,
        notes=notes,
    )


# ------------------------------------------------------------------------------------------------------------ checking


def check(folder, predictor):
    """Compares tokens and logits of the folder, as this project reads it, with those of a bundle's predictor.

    Returns:
        the largest difference of a logit.
    Raises:
        UserError: a token differs, or a logit by more than `export.tolerance`.
    """
    import tokenizers

    longest = predictor.max_seq_length
    texts = texts_to_compare([*example_texts(), " ".join(predictor.tokenizer.vocabulary)[:20_000]], longest)
    specials = predictor.tokenizer.specials
    texts += [
        f"a{token}b" for name, token in specials.items() if name != "pad_token"
    ]  # a bundle masks padding in a text
    expected = predictor.pack(predictor.tokenizer.encode(texts, longest))  # cut: the folder knows no windows
    model, tokenizer = hugging_face.load_classifier(folder, len(predictor.labels))
    found = encode(texts, tokenizer, model, longest)
    rust = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    rust.enable_truncation(longest)
    rows = zip(texts, rust.encode_batch(texts), _ids(expected), _ids(found))
    for text, made, ids, ours in rows:
        if made.ids != ids.tolist() or not np.array_equal(ours, ids):
            raise UserError(
                tr("--hf: the tokens of {text} would differ in transformers; please report this", text=shorten(text))
            )
    logits = predictor.run(expected)
    difference = float(np.abs(predict_logits(model, found, 32) - logits).max())
    if not difference <= tolerance(logits):
        raise UserError(
            tr(
                "--hf: the folder's logits differ from the bundle's by {difference:.1e}; please report this",
                difference=difference,
            )
        )
    return difference


def _ids(encoded):
    """The token ids of each row of an `Encoded`."""
    return np.split(encoded.columns["input_ids"], encoded.offsets[1:-1])
