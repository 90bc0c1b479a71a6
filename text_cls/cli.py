"""Between a script and its user: errors that say what to do, the log, the progress bar, types of flags.

An error that the user can fix is a `UserError`: it ends the script with status 2 and a message, without a traceback.
Errors in arguments and data are collected in `Problems`, so that one run shows them all before the first long step.
"""

import argparse
import contextlib
import difflib
import functools
import logging
import os
import re
import signal
import sys

from text_cls import __version__
from text_cls.errors import UserError
from text_cls.inputs import one_run
from text_cls.language import N_, language, tr

logger = logging.getLogger("text_classification")

_REMEDIES = {  # what to do if one of these packages is missing
    N_("Run `make setup`, then use .venv/bin/python instead of python"): (
        *("paddle", "paddlenlp", "paddleslim", "paddle2onnx", "onnx", "sympy", "yaml", "visualdl", "trustai"),
        *("IPython", "sklearn", "scipy", "iterstrat", "matplotlib", "cleanlab", "jieba", "joblib"),
    ),
    N_(
        "Run `make setup`, then use .venv/bin/python instead of python; on a machine that only serves: pip install -r "
        "deploy/predictor/requirements-cpu.txt"
    ): ("numpy", "onnxruntime", "tokenizers", "sentencepiece", "tqdm", "charset_normalizer", "filelock"),
    N_(
        "Run `make setup`, then use .venv/bin/python instead of python; on a machine that only serves: pip install -r "
        "deploy/simple_serving/requirements-cpu.txt"
    ): ("fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client"),
    N_("pip install -r requirements/index.txt (it needs a C++ compiler: apt-get install g++)"): ("hnswlib",),
    "pip install -r requirements/tables.txt": ("openpyxl", "pyarrow"),
    "pip install -r requirements/milvus.txt": ("pymilvus", "milvus_lite", "grpc"),
    "pip install -r requirements/bulk.txt": ("ray",),
    "pip install -r requirements/trackers.txt": ("tensorboardX", "mlflow"),
    "pip install -r requirements/search.txt": ("optuna", "sqlalchemy", "alembic"),
    "pip install -r deploy/triton_serving/requirements-client.txt": ("tritonclient",),
    N_("Run `make serving-setup`, then use .venv-serving/bin/python instead of python"): (
        *("paddle_serving_server", "paddle_serving_app", "waitress"),
    ),
}
PACKAGES = {package: remedy for remedy, packages in _REMEDIES.items() for package in packages}


class Problems:
    """The errors found so far. The first 20 are shown, the rest counted."""

    SHOWN = 20

    def __init__(self):
        self.messages, self.count = [], 0

    def add(self, message, *details):
        """Adds one. message: a text, or a function of `details` that returns it (called for the first 20 only)."""
        self.count += 1
        if len(self.messages) < self.SHOWN:
            self.messages.append(message(*details) if callable(message) else message)

    def extend(self, others):
        """Adds those of other `Problems`."""
        self.count += others.count
        self.messages += others.messages[: self.SHOWN - len(self.messages)]

    @contextlib.contextmanager
    def collect(self):
        """Adds a UserError raised in the block, and continues after the block."""
        try:
            yield
        except UserError as error:
            self.add(str(error))

    def stop_if_any(self):
        """Raises one UserError that lists them, if there are any."""
        if not self.count:
            return
        if self.count == 1:
            raise UserError(self.messages[0])
        lines = [
            tr("{count} problems, nothing was done:", count=self.count),
            *(f"  {message}" for message in self.messages),
        ]
        if self.count > len(self.messages):
            lines.append(tr("  ... and {count} more", count=self.count - len(self.messages)))
        raise UserError("\n".join(lines))


def command(main):
    """Makes `main(argv=None)` return an exit status: 0, or that of a `UserError`, 2, after its message.

    It also gives every script the flags --version, which must come first, and --quiet: warnings and errors only.
    """

    @functools.wraps(main)
    def wrapper(argv=None):
        words = sys.argv[1:] if argv is None else list(argv)
        if words[:1] == ["--version"]:
            print(f"text-cls {__version__}")
            return 0
        set_up_log(quiet="--quiet" in words)
        try:
            language()
        except UserError as error:  # an unknown one, so that the message cannot be translated
            print(f"error: {error}", file=sys.stderr)
            return error.status
        try:
            with one_run():
                return main([word for word in words if word != "--quiet"]) or 0
        except UserError as error:
            if is_main_process():
                print(tr("error: {error}", error=error), file=sys.stderr)
            return error.status
        except ModuleNotFoundError as error:
            if error.name not in PACKAGES:
                raise
            print(tr("error: {error}. {remedy}", error=error, remedy=tr(PACKAGES[error.name])), file=sys.stderr)
            return 2
        except UnicodeEncodeError as error:
            if not re.search("[\ud800-\udfff]", error.object):
                raise
            print(
                tr("error: {object!a}: this name is not UTF-8; rename the file or folder", object=error.object),
                file=sys.stderr,
            )
            return 2
        except KeyboardInterrupt:
            return 130

    return wrapper


def is_main_process():
    """True on rank 0, and in a single process. Only the main process writes files and log lines."""
    return os.environ.get("PADDLE_TRAINER_ID", "0") == "0"


class _InTheReadersLanguage(logging.Filter):
    """Translates the template of a log line. The guides' lines have none in the catalogue, and stay as they are."""

    def filter(self, record):
        if isinstance(record.msg, str):
            record.msg = tr(record.msg)
        return True


class _StandardError(logging.StreamHandler):
    """Writes to the current `sys.stderr`."""

    stream = property(lambda self: sys.stderr, lambda self, _: None)


def set_up_log(quiet=False):
    """Log lines on standard error in the format of PaddleNLP's application; ranks other than 0 log errors only."""
    if sys.stderr is None:  # closed by the caller: 2>&-
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    if getattr(sys.stdout, "errors", None) == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")  # a path that is not UTF-8 is printed as its bytes
    if not logger.handlers:
        handler = _StandardError()
        handler.setFormatter(logging.Formatter("[%(asctime)s] [%(levelname)8s] - %(message)s"))
        logger.addHandler(handler)
        logger.addFilter(_InTheReadersLanguage())
        logger.propagate = False
    level = logging.WARNING if quiet else logging.INFO
    logger.setLevel(level if is_main_process() else logging.ERROR)


def stop_signals():
    """The signals that ask a process to end: Ctrl-C, SIGTERM and, unless nohup made it ignored, a closed terminal's."""
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    heeded = hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *([hang_up] if heeded else []))


def add_blank_flag(parser):
    """Adds --skip_blank, of every script that predicts the texts of a file."""
    parser.add_argument(
        "--skip_blank", action="store_true", help="write no row for a blank line (a row without labels)"
    )


def positive_int(text):
    """argparse type: a whole number of at least 1."""
    return _number(text, int, 1)


def whole_number(text):
    """argparse type: a whole number."""
    return _number(text, int)


def finite_number(text):
    """argparse type: a number."""
    return _number(text, float)


def non_negative_int(text):
    """argparse type: a whole number of at least 0."""
    return _number(text, int, 0)


def non_negative_float(text):
    """argparse type: a number of at least 0."""
    return _number(text, float, 0)


def fraction(zero=True, one=False):
    """An argparse type: a number from 0 to 1. zero, one: whether 0 and 1 themselves are allowed."""

    def number(text):
        value = _parsed(text, float)
        if value is None or not (0 < value < 1 or (zero and value == 0) or (one and value == 1)):
            least, most = tr("at least") if zero else tr("above"), tr("at most") if one else tr("below")
            raise argparse.ArgumentTypeError(
                tr("must be a number {least} 0 and {most} 1, not {text}", least=least, most=most, text=shorten(text))
            )
        return value

    return number


def boolean(text):
    """argparse type: true or false after a flag, as in PaddleNLP's application."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(tr("expected true or false, not {text}", text=shorten(text)))
    return values[text.lower()]


def _number(text, kind, least=None):
    value = _parsed(text, kind)
    if kind is int and text.strip().isdecimal() and (value is None or value >= 1 << 63):
        raise argparse.ArgumentTypeError(tr("{text} is too large", text=shorten(text)))
    if value is None or not -float("inf") < value < float("inf") or (least is not None and value < least):
        what = (tr("a whole number") if kind is int else tr("a number")) + (
            "" if least is None else tr(" of at least {least}", least=least)
        )
        raise argparse.ArgumentTypeError(tr("must be {what}, not {text}", what=what, text=shorten(text)))
    return value


def _parsed(text, kind):
    try:
        return kind(text)
    except ValueError:
        return None


def value_problem(action, text):
    """Why an argparse flag cannot have a value, `text`; None if it can."""
    try:
        value = action.type(text) if action.type else text
    except argparse.ArgumentTypeError as error:
        return str(error)
    except (TypeError, ValueError):
        return tr("invalid value {text}", text=shorten(text))
    if action.choices is not None and value not in action.choices:
        return tr(
            "must be one of {choices}, not {text}", choices=", ".join(map(str, action.choices)), text=shorten(text)
        )
    return None


def shorten(text, most=40):
    """A text from outside for a message: quoted, and cut if it is long."""
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def closest(name, known):
    """The end of a message about an unknown name: the most similar known name, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return tr("; did you mean {match!r}?", match=match[0]) if match else ""
