"""Flags for texts that are longer than the model reads: of train.py, and of the scripts that use its checkpoint."""

from dataclasses import replace

from text_cls.cli import logger, positive_int
from text_cls.language import N_, tr
from text_cls.long_texts import CUT, MAX, MODES, MOST, POOLINGS, WINDOWS, LongTexts

WAYS = N_("cut: read their beginning; head_tail: beginning and end; windows: all of them, in windows")


def add_training_flags(group):
    """Adds --long_texts, --stride, --max_windows and --window_pooling."""
    group.add_argument(
        "--long_texts",
        choices=MODES,
        default=CUT,
        help=tr("texts that exceed --max_seq_length. {ways} (%(default)s)", ways=tr(WAYS)),
    )
    step = tr("windows: tokens from the start of one to that of the next (they do not overlap)")
    group.add_argument("--stride", type=positive_int, help=step)
    most = tr("windows: most of a text; what follows is not read (%(default)s)")
    group.add_argument("--max_windows", type=positive_int, default=MOST, help=most)
    pooling = tr("windows: how their logits are pooled; max, or lse, the log of the sum of exponentials (%(default)s)")
    group.add_argument("--window_pooling", choices=POOLINGS, default=MAX, help=pooling)


def add_model_flags(group):
    """Adds --long_texts, --stride and --max_windows, with those of the checkpoint as default."""
    group.add_argument(
        "--long_texts",
        choices=MODES,
        help=tr("texts that exceed --max_seq_length. {ways} (as in training)", ways=tr(WAYS)),
    )
    step = tr("windows: tokens from the start of one to that of the next (as in training)")
    group.add_argument("--stride", type=positive_int, help=step)
    group.add_argument("--max_windows", type=positive_int, help="windows: most of a text (as in training)")


def chosen(checkpoint, args, max_seq_length, problems):
    """The `LongTexts` of a `Checkpoint`, changed by the flags of `add_model_flags`. Adds faults to `problems`."""
    trained, changes = checkpoint.long_texts, {"mode": args.long_texts, "stride": args.stride}
    changes["max_windows"] = args.max_windows
    how = replace(trained, **{name: value for name, value in changes.items() if value is not None})
    if how.mode != trained.mode:
        logger.warning("--long_texts %s, while the model was trained with %s", how.mode, trained.mode)
    for problem in problems_of(how, max_seq_length):
        problems.add(problem)
    return how


def of_arguments(arguments):
    """The `LongTexts` that a run was trained with. arguments: of its `run.json`; older versions had none of these."""
    names = {"mode": "long_texts", "stride": "stride", "max_windows": "max_windows", "pooling": "window_pooling"}
    return LongTexts(**{field: arguments[name] for field, name in names.items() if arguments.get(name) is not None})


def problems_of(how, max_seq_length):
    """Yields what is wrong with a `LongTexts`, as the flags say it."""
    others = {"--stride": how.stride is not None, "--max_windows": how.max_windows != MOST}
    others["--window_pooling"] = how.pooling != MAX
    if how.mode != WINDOWS:
        for flag in (flag for flag, given in others.items() if given):
            yield tr("{flag} is for --long_texts windows; add that, or leave {flag} out", flag=flag)
    elif how.stride and how.stride > max_seq_length - 2:
        yield (
            tr(
                "--stride {stride}: a window has at most {max_seq_length} tokens of the text, so that some would be "
                "left out between two windows; use {max_seq_length} or less",
                stride=how.stride,
                max_seq_length=max_seq_length - 2,
            )
        )
