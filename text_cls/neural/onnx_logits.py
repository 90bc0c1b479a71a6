"""Logits of many rows on a CPU: ONNX Runtime computes the graph of a model faster than Paddle computes the model."""

import contextlib
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from text_cls.cli import logger
from text_cls.neural.export import tolerance, write_onnx_graph, write_static_graph
from text_cls.neural.model import model_logits
from text_cls.neural.used_vocabulary import all_vectors
from text_cls.serving.predictor import onnx_device_problem

ENOUGH = 1000  # rows, or windows of rows; with fewer, to make the graph takes longer than it saves


@contextlib.contextmanager
def onnx_logits(checkpoint, rows):
    """In the block, `predict_logits` computes with the model's ONNX graph if that saves time.

    So it does on a CPU with `ENOUGH` rows or more. The logits are the same but for rounding. If the graph cannot be
    made, the log says why, and Paddle computes. A block within another uses its graph.

    Args:
        checkpoint: `Checkpoint` with a loaded model, whose weights do not change in the block.
        rows: how many rows there are to compute, at least.
    """
    model = checkpoint.model
    if rows < ENOUGH or checkpoint.is_linear or hasattr(model, "onnx_logits") or not _is_on_cpu(model):
        yield
        return
    model.onnx_logits = _make(model, checkpoint.tokenizer)
    try:
        yield
    finally:
        del model.onnx_logits


def _is_on_cpu(model):
    return next(iter(model.parameters())).place.is_cpu_place()


def _make(model, tokenizer):
    """`_Graph.logits` of the model's graph, or None."""
    started = time.perf_counter()
    try:
        if problem := onnx_device_problem("cpu"):
            raise RuntimeError(problem)
        with TemporaryDirectory() as folder, all_vectors(model):
            prefix, path = Path(folder, "model"), Path(folder, "model.onnx")
            write_static_graph(model, tokenizer, str(prefix))
            write_onnx_graph(str(prefix), str(path), tokenizer.pad_token_id)
            graph = _Graph(model, path)
    except Exception as error:  # Paddle, Paddle2ONNX and ONNX Runtime have dozens of kinds; the result is the same
        logger.warning(
            "Paddle computes the logits: the model's ONNX graph, which is faster, cannot be made (%s)", error
        )
        return None
    logger.info("ONNX Runtime computes the logits, faster than Paddle; ready in %.1f s", time.perf_counter() - started)
    return graph.logits


class _Graph:
    """A model's graph. Paddle computes the first batch as well; if the logits differ, it computes all others, too."""

    def __init__(self, model, path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))  # as many as Paddle
        options.log_severity_level = 3
        self.model, self.agrees = model, None
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [node.name for node in self.session.get_inputs()]

    def logits(self, batch):
        """float32 array [rows, labels], for a batch of `Encoded`."""
        if self.agrees is False:
            return model_logits(self.model, batch)
        found = self.session.run(None, {name: batch[name] for name in self.inputs})[0]
        if self.agrees:
            return found
        expected = model_logits(self.model, batch)
        difference = float(np.abs(found - expected).max())
        self.agrees = difference <= tolerance(expected)
        if not self.agrees:
            logger.warning("Paddle computes the logits: ONNX Runtime's differ by %.1e; please report this", difference)
        return found if self.agrees else expected
