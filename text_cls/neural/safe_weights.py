"""Files of weights from strangers: what Paddle and PaddleNLP unpickle may hold arrays, text, numbers and containers.

Their files (.pdparams, .pdopt, .pth) are pickles, and a pickle can call any function of Python. `restrict_unpickling`
replaces the unpickler inside both packages. The new one never imports what a file names: each name on its list stands
for a function below, which checks its arguments; any other name is refused.
"""

import io
import pickle
import re
import types
from collections import OrderedDict

import numpy as np

from text_cls.cli import UserError
from text_cls.language import N_, tr

ADVICE = N_("nothing was loaded. Use a file from a source you trust")
# A pickle may refer to a container many times. Real files do so rarely; 40 nested lists of two references each would
# unfold to 2^40 values. So a file may have this many values per byte.
VALUES_PER_BYTE = 10
DTYPE = re.compile(r"[?bBhHiIlLqQefdgFD]|[biufcSU][0-9]{1,6}")
PLAIN = (str, bytes, bytearray, int, float, bool, type(None), np.generic)


class NotWeightsError(Exception):
    """What a file holds that is no part of weights."""


class _Function:
    """What a pickle gets for a name on the list: it can call it, but not change it."""

    __slots__ = ("_function",)

    def __init__(self, function):
        self._function = function

    def __call__(self, *args):
        return self._function(*args)

    def __setstate__(self, _):
        raise NotWeightsError(tr("a change to a function"))


class _Dtype:
    """Stands for a `numpy.dtype` of numbers or text. numpy's own would take any state, even one that makes numbers
    pass for pointers."""

    __slots__ = ("value",)

    def __init__(self, name, *_):
        if not (isinstance(name, str) and DTYPE.fullmatch(name)):
            raise NotWeightsError(tr("an array of type {shown}", shown=_shown(name)))
        self.value = np.dtype(name)

    def __setstate__(self, state):
        _, order, *parts = state[:5]
        if parts != [None] * 3:  # subarray, names, fields
            raise NotWeightsError(tr("a structured array"))
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands for a `numpy.ndarray` until the file is read."""

    __slots__ = ("value",)

    def __setstate__(self, state):
        shape, dtype, fortran, data = state[-4:]  # before them, perhaps, the number of the format
        data = _bytes(data)
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(tr("an array of shape {shown}", shown=_shown(shape)))
        if int(np.prod(shape, dtype=object)) * dtype.value.itemsize != len(data):
            raise ValueError(tr("an array of shape {shown} with {count} bytes", shown=_shown(shape), count=len(data)))
        self.value = np.ndarray(0, np.int8)
        self.value.__setstate__((1, tuple(shape), dtype.value, bool(fortran), data))  # shares the bytes


def _bytes(data):
    """The bytes of an array. Python 2 wrote them as text."""
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        raise NotWeightsError(tr("an array of Python objects"))
    return data


def _scalar(dtype, data):
    return np.frombuffer(_bytes(data), dtype.value)[:1].reshape(())[()]


def _from_buffer(data, dtype, shape, order, *_):
    array = _Array()
    array.value = np.frombuffer(_bytes(data), dtype.value).reshape(shape, order=order)
    return array


def _encode(text, encoding):
    """Protocol 2 has no bytes: they are latin1 text to encode."""
    if encoding not in ("latin1", "latin-1"):
        raise NotWeightsError(f"_codecs.encode to {_shown(encoding)}")
    return text.encode("latin1")


def _eval(expression, names):
    """paddle.save writes a DenseTensor as eval("data", {"data": array})."""
    if expression != "data":
        raise NotWeightsError("builtins.eval")
    return names["data"]


def _names():
    """{(module, name): what it stands for} of all that NumPy 1 and 2, Python 2 and 3, and paddle.save write."""
    names = {
        ("numpy", "ndarray"): "ndarray",  # only ever an argument
        ("numpy", "dtype"): _Function(_Dtype),
        ("collections", "OrderedDict"): _Function(OrderedDict),
        ("_codecs", "encode"): _Function(_encode),
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = _Function(lambda *_: _Array())
        names[f"{core}.multiarray", "scalar"] = _Function(_scalar)
        names[f"{core}.numeric", "_frombuffer"] = _Function(_from_buffer)
    for builtins in ("builtins", "__builtin__"):
        names |= {(builtins, kind.__name__): _Function(kind) for kind in (tuple, set, frozenset)}
        names[builtins, "bytes"] = _Function(lambda: b"")
        names[builtins, "eval"] = _Function(_eval)
    return names


NAMES = _names()


def _generator_state(module, name):
    """The class of random states, which PaddleNLP's trainer writes to rng_state.pth, or None for other names."""
    if (module, name) not in (
        ("paddle.base.libpaddle", "GeneratorState"),
        ("paddle.fluid.libpaddle", "GeneratorState"),
    ):
        return None
    from paddle.base import core

    return core.GeneratorState


def _shown(value):
    """Something from a stranger's file, fit for a terminal."""
    text = str(value)[:100]
    return text if text.isprintable() else ascii(text)


def allowed(module, name):
    """What a name in a pickle stands for.

    Raises:
        NotWeightsError: it is not on the list.
    """
    found = NAMES.get((module, name)) or _generator_state(module, name)
    if found is None:
        raise NotWeightsError(_shown(f"{module}.{name}"))
    return found


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        return allowed(module, name)

    def persistent_load(self, _):
        raise NotWeightsError(tr("a reference to something outside the file"))


class _Values:
    """Makes plain containers and arrays of what the unpickler returned. limit: most values it may have."""

    def __init__(self, limit):
        self.left = limit

    def plain(self, value):
        self.left -= 1
        if self.left < 0:
            raise NotWeightsError(tr("containers that unfold without end"))
        kind = type(value)
        if kind in (dict, OrderedDict):
            return kind((self.plain(key), self.plain(item)) for key, item in value.items())
        if kind in (list, tuple, set, frozenset):
            return kind(self.plain(item) for item in value)
        if kind in (_Array, _Dtype):
            return value.value
        if isinstance(value, PLAIN) or _generator_state(kind.__module__, kind.__name__):
            return value
        raise NotWeightsError("a function")


def load(file, **options):
    """Reads a pickle of weights from an open file. Takes the place of `pickle.load`.

    Raises:
        UserError: it holds something else, or is damaged; the message names the file.
        pickle.UnpicklingError: it is no pickle; Paddle then tries its other formats.
    """
    path = getattr(file, "name", "weights")
    try:
        value = _Unpickler(file, **options).load()
        return _Values(VALUES_PER_BYTE * file.tell() + 100).plain(value)
    except NotWeightsError as error:
        raise UserError(
            tr("{path}: it contains {error}, which is not weights; {advice}", path=path, error=error, advice=tr(ADVICE))
        ) from error
    except MemoryError as error:
        raise UserError(tr("{path}: it is damaged, or needs more memory than there is", path=path)) from error
    except Exception as error:  # pickle documents that damaged data may raise anything
        file.seek(0)
        if isinstance(error, pickle.UnpicklingError) and file.read(1) != pickle.PROTO:
            raise
        raise UserError(
            tr(
                "{path}: not a file of weights, or damaged ({shown})",
                path=path,
                shown=_shown(error) or type(error).__name__,
            )
        ) from error


def _loads(data, **options):
    return load(io.BytesIO(data), **options)


def restrict_unpickling():
    """From now on, Paddle and PaddleNLP unpickle weights only, whatever opens the file.

    That covers paddle.load (from_pretrained, trainers), the description beside a static graph, the word list of
    PaddleNLP's ernie-tiny, and PyTorch's files.
    """
    import paddle.framework.io
    import paddle.framework.io_utils
    import paddle.jit.translated_layer
    import paddlenlp.transformers.ernie.tokenizer
    from paddlenlp.utils.serialization import UnpicklerWrapperStage

    restricted = types.SimpleNamespace(**{**vars(pickle), "load": load, "loads": _loads})
    framework = (paddle.framework.io, paddle.framework.io_utils, paddle.jit.translated_layer)
    for module in (*framework, paddlenlp.transformers.ernie.tokenizer):
        if module.pickle is pickle:
            module.pickle = restricted
    UnpicklerWrapperStage.find_class = _find_torch_class


def _find_torch_class(unpickler, module, name):
    """`find_class` for PyTorch's files: what PaddleNLP (2.8) replaces, and no other class but OrderedDict."""
    from paddlenlp.utils import serialization

    if name in serialization._storage_type_to_dtype_to_map():
        return serialization.StorageType(name)
    if module == "torch._utils":
        known = {"_rebuild_parameter", "_rebuild_parameter_with_state"}
        return getattr(serialization, name) if name in known else serialization._rebuild_tensor_stage
    if (module, name) != ("collections", "OrderedDict"):
        shown = _shown(f"{module}.{name}")
        raise UserError(
            tr("pytorch_model.bin: it contains {shown}, which is not weights; {advice}", shown=shown, advice=tr(ADVICE))
        )
    return OrderedDict
