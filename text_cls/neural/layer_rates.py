"""The learning rate of each layer: the head's, and the encoder's, which may fall from its top layer to the embeddings.

The head is what is above the encoder: the classifier, and the pooler if there is one.
"""

import re

NUMBERED = re.compile(r"(?:^|[._])layers?\.(\d+)\.")


def layer_depths(model):
    """How far below the top of the encoder each parameter is.

    Args:
        model: a sequence classifier of PaddleNLP.
    Returns:
        {name: depth}: None for the head, 0 for the last layer of the encoder, and so on; the embeddings come after its
        first layer.
    """
    prefix, numbers, depths = f"{model.base_model_prefix}.", {}, {}
    names = [name for name, _ in model.named_parameters()]
    for name in names:
        if name.startswith(prefix) and (found := NUMBERED.search(name)):
            numbers[name] = int(found[1])
    layers = max(numbers.values(), default=-1) + 1
    for name in names:
        if not name.startswith(prefix) or ".pooler." in name:
            depths[name] = None
        elif name in numbers:
            depths[name] = layers - 1 - numbers[name]
        else:  # some encoders end with a norm, which counts as part of the last layer
            depths[name] = layers if "emb" in name else 0
    return depths


def rate_factor(depth, options):
    """What the learning rate of a parameter is multiplied by. depth: of `layer_depths`.

    Rates that fall layer by layer: Howard and Ruder, ACL 2018, arXiv:1801.06146, section 3.2. For BERT and few rows:
    Zhang et al., ICLR 2021, arXiv:2006.05987, section 5.
    """
    if depth is not None:
        return options.layer_decay**depth
    return 1.0 if options.head_learning_rate is None else options.head_learning_rate / options.learning_rate
