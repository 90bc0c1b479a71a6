"""Workarounds that make Paddle, and packages built on it, work on today's machines.

Each names the upstream bug and the versions that have it. Of the project, this module imports `safe_weights` only.
"""

import contextlib
import ctypes
import importlib.util
import io
import logging
import os
import re
import sys
import tempfile
import types
import warnings

from text_cls.language import tr
from text_cls.neural.safe_weights import restrict_unpickling

# With it, Paddle (3.0 and 3.1) writes a .json in place of the guides' .pdmodel. It reads the flag when it is imported;
# if it is set later, exporting fails ("Cannot interpret VarType").
PIR = "FLAGS_enable_pir_api"


def _processor_is_amd():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return any(line.startswith("vendor_id") and "AuthenticAMD" in line for line in file)
    except OSError:
        return "AuthenticAMD" in os.environ.get("PROCESSOR_IDENTIFIER", "")


def _local_processes():
    """Number of processes that Paddle's launcher started on this machine; 0 without a launcher."""
    host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "").partition(":")[0]
    endpoints = os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")
    return sum(endpoint.partition(":")[0] == host for endpoint in endpoints) if host else 0


def _cores():
    """Number of processors for each of our processes on this machine."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        cores = os.cpu_count() or 1
    return max(1, cores // max(1, _local_processes()))


def _is_set(name):
    """Whether the user has set the variable. Paddle's launcher also sets one: OMP_NUM_THREADS=1 for its processes."""
    by_launcher = name == "OMP_NUM_THREADS" and os.environ.get(name) == "1" and _local_processes()
    return name in os.environ and not by_launcher


def prepare_environment():
    """Sets variables that Paddle reads when it is imported; call it before. Those the user has set stay, but for `PIR`.

    Returns:
        list of str: the variables set here as `NAME=value (why)`, for the log.
    """
    wanted = {
        # Paddle (2.6 to 3.3) uses one thread on a CPU unless this is set (PaddleNLP #4394).
        "OMP_NUM_THREADS": (str(_cores()), tr("Paddle uses one CPU thread without it")),
        # The MKL inside Paddle (2.6 to 3.3) takes its slowest path on AMD processors; 5 means AVX2.
        "MKL_DEBUG_CPU_TYPE": ("5" if _processor_is_amd() else None, tr("Paddle's MKL is slow on AMD without it")),
    }
    done = []
    if "paddle" not in sys.modules:
        os.environ[PIR] = "0"
        for name, (value, why) in wanted.items():
            if value is not None and not _is_set(name):
                os.environ[name] = value
                done.append(f"{name}={value} ({why})")
    return done


def keep_freed_memory():
    """Makes glibc keep freed memory for the next tensor. For computing on a CPU.

    Paddle (2.6 to 3.3) takes every CPU tensor from malloc, which returns large pieces to the system at once: each step
    then waits for new pages, a sixth of its time. Without glibc, this does nothing.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 1 << 26)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            mallopt(option, value)


def _is_news(record):
    """False for what PaddleNLP (2.8) says about every pretrained model that gets a classifier, namely that the
    classifier is new and the head of pretraining unused, and about each file it writes to a temporary folder."""
    text = record.getMessage()
    new = re.findall(r"'([\w.]+)'", text) if "newly initialized" in text else []
    return (
        "were not used when" not in text
        and "saved in" not in text
        and not (new and all(name.startswith("classifier.") for name in new))
    )


class _Parts(types.ModuleType):
    """The package paddlenlp without what its own __init__ imports. Everything that is asked for is there."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        whole_paddlenlp()
        return getattr(sys.modules[self.__name__], name)


def _import_models():
    """Imports PaddleNLP's models and tokenizers only.

    `import paddlenlp` (2.8) imports all of it: trainers, task flows, metrics and data sets, and with them scikit-learn,
    pandas, matplotlib and PaddleSlim. That takes four times as long as models and tokenizers (benchmarks/start_up.py).
    """
    import paddle

    spec = importlib.util.find_spec("paddlenlp")
    package = importlib.util.module_from_spec(spec)
    package.__class__ = _Parts
    with open(spec.origin, encoding="utf-8") as file:  # it is written into the configurations of models
        package.__version__ = re.search(r'^__version__ = "(.+)"', file.read(), re.MULTILINE)[1]
    sys.modules["paddlenlp"] = package
    importlib.import_module("paddlenlp.data")  # before the models: the two import each other

    paddle.disable_signal_handler()  # as PaddleNLP does


def whole_paddlenlp():
    """Imports all of PaddleNLP, as `import paddlenlp` does. Its trainers cannot be imported without the rest."""
    import_paddle()
    package = sys.modules["paddlenlp"]
    if isinstance(package, _Parts):
        package.__class__ = types.ModuleType
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            package.__spec__.loader.exec_module(package)


def import_paddle():
    """Imports Paddle and PaddleNLP's models without the banners of Paddle 3.0 and its helpers (ccache, distutils).

    From then on they load weights only: a file that holds anything else is refused (see `safe_weights`).
    """
    prepare_environment()
    first = "paddlenlp" not in sys.modules
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import paddle

        if first:
            _import_models()
        import paddlenlp.transformers

        restrict_unpickling()
    if first:
        # PaddleNLP (2.8) logs every file it opens; only the warnings of one process are useful here. Its handler was
        # made just now, on the stream that swallowed the banners.
        nlp_logger = paddlenlp.utils.log.logger
        nlp_logger.set_level("WARNING" if os.environ.get("PADDLE_TRAINER_ID", "0") == "0" else "ERROR")
        nlp_logger.handler.setStream(sys.__stderr__)
        nlp_logger.handler.addFilter(_is_news)
        nlp_logger.handler.setFormatter(logging.Formatter("[%(asctime)s] [%(levelname)8s] - %(message)s"))
    return paddle


@contextlib.contextmanager
def upstream_log():
    """Shows PaddleNLP's own lines on the progress of its training."""
    from paddlenlp.utils.log import logger

    level = logger.logger.level
    logger.set_level("INFO" if os.environ.get("PADDLE_TRAINER_ID", "0") == "0" else "ERROR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations within PaddleNLP itself
            yield
    finally:
        logger.logger.setLevel(level)


@contextlib.contextmanager
def quiet_output():
    """Hides what the C++ code of Paddle and Paddle2ONNX prints; shows it if the block fails."""
    with tempfile.TemporaryFile() as swallowed:
        sys.stdout.flush()
        sys.stderr.flush()
        before = {number: os.dup(number) for number in (1, 2)}
        try:
            for number in before:
                os.dup2(swallowed.fileno(), number)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except BaseException:
            swallowed.seek(0)
            os.write(before[2], swallowed.read())
            raise
        finally:
            for number, real in before.items():
                os.dup2(real, number)
                os.close(real)


def patch_dynabert(export):
    """Makes PaddleNLP's (2.8) DynaBERT pruning run on Paddle 3 with PaddleSlim 2.6, and correct for sigmoid heads.

    - PaddleSlim's SuperLayerNorm unpacks three results, but Paddle 3 returns one.
    - PaddleNLP cuts the second width from what the first left of the model; here each is cut from a copy.
    - It compares student and teacher by softmax over the labels. That ignores a shift of all logits, which changes what
      a sigmoid head predicts; here it is the binary cross-entropy of each label.

    Args:
        export: function of (width, pruned model), called in each process instead of PaddleNLP's own export.
    """
    import copy

    import paddle
    import paddle.nn.functional as F
    from paddlenlp.trainer import trainer_compress
    from paddleslim.nas.ofa.layers import SuperLayerNorm

    def layer_norm(self, input):
        width = input.shape[-1]
        self.cur_config = {"prune_dim": width}
        weight = None if self.weight is None else self.weight[:width]
        bias = None if self.bias is None else self.bias[:width]
        return F.layer_norm(input, [width], weight, bias, self._epsilon)

    def soft_cross_entropy(logits, teacher):
        return F.binary_cross_entropy_with_logits(logits, F.sigmoid(teacher))

    def export_all(trainer):
        if paddle.distributed.get_world_size() > 1:
            paddle.distributed.barrier()  # all processes read what the first one wrote last
        whole = trainer.original_model
        for width in trainer.args.width_mult_list:
            trainer.original_model = copy.deepcopy(whole)
            export(width, trainer_compress._export_dynamic_dynabert_model(trainer, width))
        trainer.original_model = whole

    SuperLayerNorm.forward = layer_norm
    trainer_compress.soft_cross_entropy = soft_cross_entropy
    trainer_compress._dynabert_export = export_all


def import_trustai():
    """Imports TrustAI 0.1.12, the last release, whose imports and interpreters fail with today's packages.

    - It uses two functions of `paddle.fluid`, gone since Paddle 2.5.
    - It imports `display` and `HTML` from IPython.core.display, where IPython 9 no longer has them.
    - LIME passes scikit-learn's Ridge the argument `normalize`, gone since 1.2. With its alpha of 0 the coefficients
      are the same without it.
    - Gradient SHAP wraps one class of interpretdl, which can no longer be installed: `GradientShap` replaces it.
    """
    import_paddle()
    import types

    import IPython.core.display
    import IPython.display
    import paddle
    import sklearn.linear_model

    def ridge(normalize=False, **arguments):
        return sklearn.linear_model.Ridge(**arguments)

    if "trustai" not in sys.modules:
        fluid, interpretdl = types.ModuleType("paddle.fluid"), types.ModuleType("interpretdl")
        fluid.layers = types.SimpleNamespace(
            matmul=lambda x, y, transpose_x=False, transpose_y=False, alpha=1.0: (
                alpha * paddle.matmul(x, y, transpose_x, transpose_y)
            ),
            where=paddle.nonzero,
        )
        interpretdl.GradShapNLPInterpreter = GradientShap
        sys.modules.setdefault("paddle.fluid", fluid)
        sys.modules.setdefault("interpretdl", interpretdl)
        for name in ("display", "HTML"):
            if not hasattr(IPython.core.display, name):
                setattr(IPython.core.display, name, getattr(IPython.display, name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in its docstrings
        import trustai.interpretation
    trustai.interpretation.token_level.method.lime.Ridge = ridge
    return trustai.interpretation


def gradient(value, tensor, model, retain_graph=False):
    """Gradient of a scalar with respect to one tensor, within a model.

    On CPUs (Paddle 3.0) a LayerNorm's gradient with respect to its input leaves out the weight, unless the gradients
    with respect to weight and bias are requested as well. This requests them.
    """
    import paddle

    norms = (layer for layer in model.sublayers() if isinstance(layer, paddle.nn.LayerNorm))
    requested = [tensor, *(parameter for layer in norms for parameter in layer.parameters())]
    return paddle.grad(value, requested, retain_graph=retain_graph, allow_unused=True)[0]


class GradientShap:
    """Gradient SHAP: gradients between the baseline and noisy copies of the input (Lundberg and Lee 2017, section 4).

    TrustAI's GradShapInterpreter calls it as interpretdl.GradShapNLPInterpreter, with the arguments of that class.
    `predict_fn` and `random` (a numpy Generator) must be set. predict_fn(inputs, transform) runs the model on `scale *
    embeddings`, the pair that `transform` makes of its embeddings [rows, tokens, width], and returns (attributions
    [rows, ...], labels, outputs) as arrays.
    """

    def __init__(self, model, device=None):
        self.predict_fn = self.random = None

    def interpret(self, inputs, n_samples, noise_amount, embedding_name, return_pred):
        import paddle

        def noisy(embeddings):
            values = embeddings.numpy()
            spread = noise_amount * (values.max(axis=(1, 2)) - values.min(axis=(1, 2)))
            noise = self.random.normal(size=values.shape) * spread[:, None, None]
            scale = self.random.uniform(size=(len(values), 1, 1))
            return embeddings + paddle.to_tensor(noise, embeddings.dtype), paddle.to_tensor(scale, embeddings.dtype)

        many = [paddle.concat([field] * n_samples) for field in inputs]  # sample after sample, each of all rows
        attributions, labels, outputs = self.predict_fn(many, noisy)
        return labels, outputs, attributions.reshape(n_samples, -1, *attributions.shape[1:]).mean(axis=0)
