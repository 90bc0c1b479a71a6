"""Sigmoid and its inverse, without overflow. Needs only numpy."""

import numpy as np


def sigmoid(logits):
    """Probabilities of logits, float32, without overflow at either end."""
    logits = np.asarray(logits, dtype=np.float32)
    scale = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + scale), scale / (1 + scale)).astype(np.float32)


def logit(probabilities, least=1e-12):
    """Log-odds, float64, finite at 0 and 1: probabilities are clipped to [least, 1 - least]."""
    probabilities = np.clip(np.asarray(probabilities, dtype=np.float64), least, 1 - least)
    return np.log(probabilities / (1 - probabilities))
