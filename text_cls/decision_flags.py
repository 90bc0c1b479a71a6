"""The flags by which a user decides otherwise than the model's decision.json: of predict.py, infer.py, threshold.py."""

from dataclasses import replace

from text_cls.cli import UserError, logger, non_negative_int, positive_int
from text_cls.decision import HIERARCHY


def add_decision_flags(parser):
    """--threshold, --min_k, --max_k, --top_k, --hierarchy; each as in the model's decision.json unless given."""
    group = parser.add_argument_group("decision, as in the model's decision.json unless given")
    group.add_argument("--threshold", type=float, help="probability to exceed, for all labels")
    group.add_argument("--min_k", type=non_negative_int, help="labels of a row at least: 1 leaves none without")
    group.add_argument("--max_k", type=positive_int, help="labels of a row at most, parents counted")
    group.add_argument("--top_k", type=positive_int, help="so many labels of each row, whatever the threshold")
    ways = "; ".join(f"{name}: {what}" for name, what in HIERARCHY.items())
    group.add_argument("--hierarchy", choices=tuple(HIERARCHY), help=f"how a hierarchy is read. {ways}")


def decision_options(args):
    """What the flags of `add_decision_flags` say, as keyword arguments of `overridden`."""
    return {name: getattr(args, name) for name in ("threshold", "min_k", "max_k", "top_k", "hierarchy")}


def overridden(decision, threshold=None, min_k=None, max_k=None, top_k=None, hierarchy=None):
    """The decision with the given fields replaced; each change is logged.

    Args:
        threshold, min_k, max_k, hierarchy: as in `Decision`; None keeps the decision's own.
        top_k: sets `min_k` and `max_k` to one number.
    Raises:
        UserError: the values contradict each other.
    """
    given = {"threshold": threshold, "min_k": min_k, "max_k": max_k, "hierarchy": hierarchy}
    given = {name: value for name, value in given.items() if value is not None}
    if top_k is not None:
        if {"min_k", "max_k"} & set(given):
            raise UserError("--top_k says how many labels a row gets; leave out --min_k and --max_k")
        given |= {"min_k": top_k, "max_k": top_k}
    elif "min_k" in given and "max_k" not in given and decision.max_k is not None:
        given["max_k"] = max(decision.max_k, given["min_k"])
    elif "max_k" in given and "min_k" not in given:
        given["min_k"] = min(decision.min_k, given["max_k"])
    if min_k or top_k:  # what the user asks for outranks the file's "none of these"
        given["none_below"] = None
    try:
        changed = replace(decision, **given)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    for name in given:
        before, after = getattr(decision, name), getattr(changed, name)
        if before != after:
            before = "one a label" if isinstance(before, tuple) else before
            logger.info("Decision: %s %s by the command line (%s in decision.json)", name, after, before)
    return changed
