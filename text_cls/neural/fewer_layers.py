"""A student with some of the layers of another model: `--layers` of train.py.

Evenly spread layers, the last one among them, start a student better than the first ones or random weights (Sanh et
al. 2019, arXiv:1910.01108, section 3, take one of two; Sajjad et al. 2023, arXiv:2004.03844).
"""

import os
import tempfile
from typing import Any

from text_cls.cli import UserError, logger
from text_cls.language import tr
from text_cls.neural import hugging_face
from text_cls.neural.compat import import_paddle
from text_cls.neural.model import load_pretrained
from text_cls.schema import fields, read_json, whole


def spread(count: int, available: int) -> list[int]:
    """Numbers, from 0, of `count` evenly spread layers of a model that has `available`; the last one is among them."""
    return [(i + 1) * available // count - 1 for i in range(count)]


def layers_problem(name: str, count: int) -> str | None:
    """Why the model of `--model_name` has no `count` layers, as far as its folder shows, or None."""
    path = os.path.join(hugging_face.find(name) or name, "config.json")
    if not os.path.exists(path):
        return None
    check = fields({}, {"num_hidden_layers": whole(1)})
    available = read_json(path, check, tr("copy the whole folder again")).get("num_hidden_layers")
    return _too_many(count, available) if available and count > available else None


def load_with_layers(name: str, num_labels: int, pooling: str | None, count: int | None) -> tuple[Any, Any]:
    """What `load_pretrained` returns, with `count` layers of the encoder; None, or as many as it has, for all.

    Raises:
        UserError: it has fewer, or its layers are not found.
    """
    model, tokenizer = load_pretrained(name, num_labels, pooling=pooling)
    available = model.config.num_hidden_layers
    if count in (None, available):
        return model, tokenizer
    layers = getattr(getattr(model.base_model, "encoder", None), "layers", None)
    if layers is None or len(layers) != available:
        raise UserError(
            tr(
                "--layers {count}: {name} has no list of layers to choose from; leave it out",
                count=count,
                name=type(model).__name__,
            )
        )
    if count > available:
        raise UserError(_too_many(count, available))
    chosen = spread(count, available)
    logger.info("Layers %s of the %d of %s", " ".join(str(i + 1) for i in chosen), available, name)
    model.base_model.encoder.layers = import_paddle().nn.LayerList([layers[i] for i in chosen])
    model.config.num_hidden_layers = count
    # Loaded again, since a saved run finds the optimiser's state by names that Paddle gives in the order of creation.
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
        model, _ = load_pretrained(folder, num_labels, pooling=pooling)
    return model, tokenizer  # the other tokenizer would look for its files in the folder


def _too_many(count, available):
    return tr(
        "--layers {count}: the model of --model_name has {available} layers; ask for at most as many",
        count=count,
        available=available,
    )
