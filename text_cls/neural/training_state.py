"""The optimiser's state of an interrupted training, which `--resume` continues from."""

import os
import zipfile
import zlib

import numpy as np

from text_cls.language import tr
from text_cls.neural.compat import import_paddle

STATE_FILE, SCALER = "training_state.npz", "scaler/"


def training_state(optimizer, scaler):
    """The optimiser's moments and the loss scaler's state as {name: array}. The rate follows from the step."""
    moments = {name: value.numpy() for name, value in optimizer.state_dict().items() if name != "LR_Scheduler"}
    scale = {SCALER + name: np.asarray(value) for name, value in scaler.state_dict().items()}
    return {**moments, **scale}


def read_training_state(path):
    """What `training_state` returned and was saved in the folder `path`.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with np.load(os.path.join(path, STATE_FILE), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{STATE_FILE}: {error}") from error


def load_training_state(state, optimizer, scaler):
    """Moves what `training_state` returned into a new optimiser and scaler; `state` is empty afterwards.

    Raises:
        ValueError: it belongs to another model.
    """
    paddle = import_paddle()
    scale = {name.removeprefix(SCALER): state.pop(name) for name in [*state] if name.startswith(SCALER)}
    moments = {}
    for parameter in optimizer._parameter_list:
        if parameter.trainable:
            for i, beta in (1, optimizer._beta1), (2, optimizer._beta2):
                moments[f"{parameter.name}_moment{i}_0"] = np.zeros(parameter.shape, np.float32)
                moments[f"{parameter.name}_beta{i}_pow_acc_0"] = np.full(1, beta, np.float32)
    for name, value in state.items():
        if name not in moments or value.shape != moments[name].shape:
            expected = moments[name].shape if name in moments else "none"
            raise ValueError(
                tr(
                    "{state_file}: {name} is {shape}, expected {expected}",
                    state_file=STATE_FILE,
                    name=name,
                    shape=value.shape,
                    expected=expected,
                )
            )
    if state:  # once any are loaded, Paddle expects those of all, also of parameters that were frozen until now
        moments |= {name: state.pop(name) for name in [*state]}
        # Array by array, so that no second copy of all is in memory.
        optimizer.set_state_dict({name: paddle.to_tensor(moments.pop(name)) for name in [*moments]})
    if scale:
        scaler.load_state_dict({name: value if value.ndim else value.item() for name, value in scale.items()})
