"""Losses of one sigmoid a label: logits and labels, float tensors [rows, labels], to a loss of each cell."""

FOCAL_GAMMA = 2.0
ASYMMETRIC_GAMMA, ASYMMETRIC_CLIP = 4.0, 0.05


def bce(logits, labels):
    """Binary cross-entropy, what the older suite trains with."""
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


LOSSES = {"bce": bce, "focal": focal, "asymmetric": asymmetric}
