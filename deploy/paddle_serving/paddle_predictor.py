"""A bundle whose graph runs on the local predictor of Paddle Serving: its tokens and labels, without ONNX Runtime."""

import threading

from text_cls.cli import UserError
from text_cls.language import tr
from text_cls.serving.predictor import Predictor


class LocalPredictor:
    """What `Predictor` calls a session, on the local predictor that Paddle Serving opens when it starts.

    client: that predictor, with `predict(feed=, fetch=, batch=)`; None until it is open. It computes one batch at a
    time, whatever the number of threads, since its tensors are shared.
    """

    def __init__(self, fetch):
        self.client, self.fetch, self.lock = None, fetch, threading.Lock()

    def run(self, _, feeds):
        with self.lock:
            return [self.client.predict(feed=feeds, fetch=[self.fetch], batch=True)[self.fetch]]


class PaddlePredictor(Predictor):
    """Predicts with the tokenizer, labels and decision of a bundle, and with a graph that Paddle Serving has opened.

    Args:
        folder: the bundle; it needs no graph.
        feeds, fetch: names of the graph's inputs, and of its output.
        width: numbers that the graph outputs per text.
        options: arguments of `Predictor`.
    Raises:
        UserError: the bundle is damaged, or is not the graph's.
    """

    def __init__(self, folder, feeds, fetch, width, **options):
        self._graph = feeds, fetch, width
        super().__init__(folder, **options)

    def check_device(self, device):
        """Accepts any: Paddle Serving opens the graph on the device of its own configuration."""

    def _open_session(self, variant, device, device_id, num_threads, spin):
        self.inputs, fetch, width = self._graph
        wanted = [tensor["name"] for tensor in self.bundle.manifest["inputs"]]
        if sorted(self.inputs) != sorted(wanted) or width != self.columns:
            raise UserError(
                tr(
                    "{folder} is not the bundle of this graph, whose inputs are {inputs} and which has {width} "
                    "outputs; run build_service.py again",
                    folder=self.bundle.folder,
                    inputs=", ".join(self.inputs),
                    width=width,
                )
            )
        self.session = LocalPredictor(fetch)
