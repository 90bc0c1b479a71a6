"""The average of the weights along the training, which is often better than the weights of any one step.

A step moves the weights around the bottom of the valley, and their mean lies nearer to it (Izmailov et al., UAI 2018,
arXiv:1803.05407). The mean is that of polynomial-decay averaging (Shamir and Zhang, ICML 2013, arXiv:1212.1824, section
4): later steps count more, as the cube of their number. The last quarter of the steps so far has two thirds of the
weight, however long the training is, so that it needs no setting and is of use whenever `--early_stop` ends the run.
"""

import contextlib

import numpy as np

from text_cls.language import tr

ETA = 3  # that of the paper: the higher, the less the early steps count
PREFIX = "average/"  # of the names in the saved state


class NoAverage:
    """Replaces `Average` without --average."""

    exists = False

    def update(self, step):
        pass

    def state(self):
        return {}

    def load(self, state):
        pass


class Average:
    """The running average of a model's parameters.

    Attributes:
        exists: whether a step has been added.
    """

    def __init__(self, model):
        self.parameters, self.means = dict(model.named_parameters()), {}

    @property
    def exists(self):
        return bool(self.means)

    def update(self, step):
        """Adds the weights after a step, counted from 1."""
        import paddle

        if not self.means:
            self.means = {name: value.detach().clone() for name, value in self.parameters.items()}
        with paddle.no_grad():
            for name, value in self.parameters.items():
                self.means[name].lerp_(value.detach(), (ETA + 1) / (step + ETA))

    @contextlib.contextmanager
    def in_model(self):
        """In the block, the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self):
        for name, value in self.parameters.items():
            before = value.detach().clone()
            value.set_value(self.means[name])
            self.means[name] = before

    def state(self):
        """What `load` needs, as {name: array}."""
        return {PREFIX + name: value.numpy() for name, value in self.means.items()}

    def load(self, state):
        """Takes what `state` returned out of a larger dict.

        Raises:
            ValueError: it belongs to another model.
        """
        import paddle

        saved = {name.removeprefix(PREFIX): state.pop(name) for name in [*state] if name.startswith(PREFIX)}
        for name, value in saved.items():
            if name not in self.parameters or list(value.shape) != self.parameters[name].shape:
                raise ValueError(
                    tr(
                        "the average of {name} has the shape {shape}, which is not the model's",
                        name=name,
                        shape=np.shape(value),
                    )
                )
        self.means = {name: paddle.to_tensor(value) for name, value in saved.items()}
