"""Weights read into a model from model.safetensors, or from model_state.pdparams through the restricted unpickler."""

import os

import numpy as np

from text_cls.cli import Problems, UserError
from text_cls.language import tr
from text_cls.neural import hugging_face
from text_cls.neural.checkpoint import load_verified
from text_cls.neural.run_file import RUN_FILE, SAFETENSORS, WEIGHT_FILES, weight_files


def load_weights(model, path, flag="--init_from_ckpt"):
    """`set_weights` from a file or a folder; if it is a checkpoint's, the file must not be damaged."""
    if os.path.isdir(path):
        path = os.path.join(path, [*weight_files(path), SAFETENSORS][0])
    folder, name = os.path.dirname(path) or ".", os.path.basename(path)
    if name in WEIGHT_FILES and os.path.exists(os.path.join(folder, RUN_FILE)):
        load_verified(folder, lambda: set_weights(model, path, flag), name)
    else:
        set_weights(model, path, flag)


def set_weights(model, path, flag):
    """Loads a file of weights into the model. Raises a UserError that names what does not fit.

    path: a model_state.pdparams, or a model.safetensors with PaddleNLP's names or Hugging Face's.
    """
    weights = read_weights(model, path, flag)
    problems = Problems()
    for name, parameter in model.state_dict().items():
        if name not in weights:
            problems.add(tr("{flag} {path}: {name} is missing", flag=flag, path=path, name=name))
        elif list(weights[name].shape) != parameter.shape:
            problems.add(
                tr(
                    "{flag} {path}: {name} is {shape}, expected {wanted}",
                    flag=flag,
                    path=path,
                    name=name,
                    shape=list(weights[name].shape),
                    wanted=parameter.shape,
                )
            )
    problems.stop_if_any()
    model.set_state_dict(weights)


def read_weights(model, path, flag):
    """{PaddleNLP's name: tensor or array} of a file of weights."""
    import paddle

    if os.path.basename(path) == SAFETENSORS:
        folder = os.path.dirname(path) or "."
        weights = hugging_face.read_weights(folder)
        if hugging_face.find(folder):
            layers = list(range(model.config.num_hidden_layers))
            weights = hugging_face.classifier_weights(weights, layers, f"{model.base_model_prefix}.")
        return {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}
    try:
        weights = paddle.load(path)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(
            tr("{flag} {path}: not a file of weights ({error})", flag=flag, path=path, error=error)
        ) from error
    if not isinstance(weights, dict):
        raise UserError(tr("{flag} {path}: not a file of weights (it holds no names)", flag=flag, path=path))
    return weights
