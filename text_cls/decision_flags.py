"""Flags that override the model's decision.json: of predict.py, infer.py and threshold.py."""

from dataclasses import replace

from text_cls.cli import UserError, finite_number, logger, non_negative_int, positive_int
from text_cls.decision import HIERARCHY
from text_cls.language import tr


def add_decision_flags(parser):
    """Adds --threshold, --min_k, --max_k, --top_k and --hierarchy, each with the model's decision.json as default."""
    group = parser.add_argument_group("decision")
    group.add_argument(
        "--threshold", type=finite_number, help="probability to exceed, for all labels (as in decision.json)"
    )
    group.add_argument(
        "--min_k",
        type=non_negative_int,
        help="at least this many labels per row; 1 labels every row (as in decision.json)",
    )
    group.add_argument(
        "--max_k", type=positive_int, help="at most this many labels per row, including parents (as in decision.json)"
    )
    group.add_argument("--top_k", type=positive_int, help="this many labels per row, whatever the threshold (off)")
    ways = "; ".join(f"{name}: {tr(what)}" for name, what in HIERARCHY.items())
    group.add_argument(
        "--hierarchy",
        choices=tuple(HIERARCHY),
        help=tr("how a hierarchy is decided. {ways} (as in decision.json)", ways=ways),
    )


def decision_options(args):
    """The values of the flags of `add_decision_flags`, as keyword arguments of `overridden`."""
    return {name: getattr(args, name) for name in ("threshold", "min_k", "max_k", "top_k", "hierarchy")}


def overridden(decision, threshold=None, min_k=None, max_k=None, top_k=None, hierarchy=None):
    """The decision with the given fields replaced; each change is logged.

    Args:
        threshold, min_k, max_k, hierarchy: as in `Decision`; None keeps the decision's own.
        top_k: sets `min_k` and `max_k` to the same number.
    Raises:
        UserError: the values contradict each other.
    """
    changes = {"threshold": threshold, "min_k": min_k, "max_k": max_k, "hierarchy": hierarchy}
    changes = {name: value for name, value in changes.items() if value is not None}
    if top_k is not None:
        if {"min_k", "max_k"} & set(changes):
            raise UserError(tr("--top_k says how many labels a row gets; leave out --min_k and --max_k"))
        changes |= {"min_k": top_k, "max_k": top_k}
    elif "min_k" in changes and "max_k" not in changes and decision.max_k is not None:
        changes["max_k"] = max(decision.max_k, changes["min_k"])
    elif "max_k" in changes and "min_k" not in changes:
        changes["min_k"] = min(decision.min_k, changes["max_k"])
    if min_k or top_k:  # labels that the user asks for take precedence over the file's "none of these"
        changes["none_below"] = None
    try:
        changed = replace(decision, **changes)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    for name in changes:
        before, after = getattr(decision, name), getattr(changed, name)
        if before != after:
            before = tr("one per label") if isinstance(before, tuple) else before
            logger.info("Decision: %s %s by the command line (%s in decision.json)", name, after, before)
    return changed
