"""Losses with one sigmoid per label: from logits and labels, float tensors [rows, labels], to a loss for each cell.

`make_loss` returns a loss by its name. All but binary cross-entropy are meant for rare labels.
"""

from collections.abc import Callable

import numpy as np

FOCAL_GAMMA = 2.0
ASYMMETRIC_GAMMA, ASYMMETRIC_CLIP = 4.0, 0.05
# The paper's values for COCO; for lambda and kappa, what its code computes with for both of its data sets.
BALANCE_FLOOR, BALANCE_SLOPE, BALANCE_MIDDLE = 0.1, 10.0, 0.2
TOLERANCE_SCALE, TOLERANCE_SHIFT = 2.0, 0.025


def bce(logits, labels):
    """Binary cross-entropy, the loss of PaddleNLP's application."""
    import paddle.nn.functional as F

    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def focal(logits, labels):
    """Cross-entropy times (1 - p of the truth)^2: easy cases weigh less (Lin et al., ICCV 2017, arXiv:1708.02002)."""
    import paddle.nn.functional as F

    p = F.sigmoid(logits)
    p_truth = p * labels + (1 - p) * (1 - labels)
    return (1 - p_truth) ** FOCAL_GAMMA * bce(logits, labels)


def asymmetric(logits, labels):
    """Absent labels weigh p^4 with p lowered by 0.05, present ones in full.

    Ridnik et al., ICCV 2021, arXiv:2009.14119, with gamma+ = 0, gamma- = 4, m = 0.05.
    """
    import paddle
    import paddle.nn.functional as F

    p_shifted = (F.sigmoid(logits) - ASYMMETRIC_CLIP).clip(min=0)
    absent = -(p_shifted**ASYMMETRIC_GAMMA) * paddle.log1p(-p_shifted)
    return labels * F.softplus(-logits) + (1 - labels) * absent


class DistributionBalanced:
    """Each cell is weighted by how rare its label is among those of its row, and absent labels are tolerated earlier.

    Wu, Huang, Liu, Wang and Lin, ECCV 2020, arXiv:2007.09654, equations 4, 5 and 10, without their focal factor. The
    weight is 0.1 + sigmoid(10 (r - 0.2)), r = (1 / n of the label) / (the sum of 1 / n over the row's labels): rows of
    frequent labels are not counted again for each rare one beside them. For texts: Huang et al., EMNLP 2021,
    arXiv:2109.04712.

    kappa is 0.025, as in the authors' code: its configurations have `init_bias` 0.05, but ResampleLoss divides it by
    `neg_scale`, which is lambda, 2 (github.com/wutong16/DistributionBalancedLoss, mllt/models/losses/resample_loss.py).

    Args:
        support, rows: as in `make_loss`.
    """

    def __init__(self, support, rows):
        import paddle

        share = np.clip(np.asarray(support, dtype=np.float64), 1, max(1, rows - 1)) / max(2, rows)
        self.rarity = paddle.to_tensor((1 / share).astype(np.float32))
        # When training starts, a label's logit is near that of its share; a small part of it is added to each logit.
        self.shift = paddle.to_tensor((TOLERANCE_SHIFT * np.log(share / (1 - share))).astype(np.float32))

    def __call__(self, logits, labels):
        import paddle.nn.functional as F

        present = (labels > 0.5).astype(labels.dtype)  # labels may be smoothed
        of_row = (present * self.rarity).sum(axis=1, keepdim=True)
        # All cells of a row without a label get the largest weight, as in a row with only a very frequent one.
        ratio = self.rarity / of_row.clip(min=1e-6)
        weight = BALANCE_FLOOR + F.sigmoid(BALANCE_SLOPE * (ratio - BALANCE_MIDDLE))
        shifted = logits + self.shift
        absent = F.softplus(TOLERANCE_SCALE * shifted) / TOLERANCE_SCALE
        return weight * (labels * F.softplus(-shifted) + (1 - labels) * absent)


LOSSES = ("asymmetric", "bce", "distribution_balanced", "focal")


def make_loss(name: str, support: np.ndarray, rows: int) -> Callable:
    """A loss by its name.

    Args:
        name: one of `LOSSES`.
        support: int array [labels], number of training rows with each label.
        rows: number of training rows.
    Returns:
        function of logits and labels, float tensors [rows, labels], that returns a loss for each cell.
    """
    if name == "distribution_balanced":
        return DistributionBalanced(support, rows)
    return {"asymmetric": asymmetric, "bce": bce, "focal": focal}[name]


def smoothed(labels, smoothing):
    """Targets moved towards 1/2: 1 becomes 1 - s/2 and 0 becomes s/2 (Szegedy et al., CVPR 2016, arXiv:1512.00567,
    section 7, with two classes for each label)."""
    return labels * (1 - smoothing) + smoothing / 2
