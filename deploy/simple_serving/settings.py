"""All settings of the server: each is a flag and an environment variable TEXT_CLS_<FLAG>."""

import argparse
import contextlib
import ipaddress
import math
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent

import json_log
from text_cls import language
from text_cls.cli import (
    Problems,
    UserError,
    closest,
    logger,
    non_negative_float,
    non_negative_int,
    positive_int,
    shorten,
    value_problem,
)
from text_cls.language import tr

PREFIX = "TEXT_CLS_"
API_KEY = PREFIX + "API_KEY"  # not a flag: everybody on the machine can read a command line
BETWEEN_BUNDLES = ";"  # in the environment variable of --bundle
NAME = r"[A-Za-z0-9._-]{1,64}"
CLOSING_SECONDS = 2  # part of --shutdown_seconds: for connections and threads to end after the last answer


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(tr("{what}\nAll flags: python server.py --help", what=message))


def seconds(text):
    """argparse type: seconds, more than 0."""
    value = non_negative_float(text)
    if not value:
        raise argparse.ArgumentTypeError(tr("must be more than 0"))
    return value


def host_name(text):
    """A host as it is compared: in lower case, an IPv6 address without brackets and in its short form."""
    name = text.strip().lower().removesuffix(".")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).compressed
    return name


def hosts(text):
    """argparse type: names of hosts, separated by commas or spaces."""
    names = tuple(host_name(name) for name in text.replace(",", " ").split())
    for name in names:
        if not re.fullmatch(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:]*:[0-9a-f:.]*", name):
            raise argparse.ArgumentTypeError(
                tr(
                    "must be names without ports, such as example.org,*.example.org,127.0.0.1, not {text}",
                    text=shorten(text),
                )
            )
    return names


class NamedFolder(NamedTuple):
    """A bundle to serve: its name and its folder."""

    name: str
    folder: str

    def __str__(self):
        return f"{self.name}={self.folder}"


def named_folder(text):
    """argparse type: name=folder, or a folder, whose name is then that of the bundle."""
    name, equals, folder = text.partition("=")
    if not (equals and re.fullmatch(NAME, name)) or os.path.isdir(text):
        return NamedFolder(os.path.basename(os.path.abspath(text)), text)
    if not folder:
        raise argparse.ArgumentTypeError(tr("must be a folder, or name=folder, not {text}", text=shorten(text)))
    return NamedFolder(name, folder)


def shares(text):
    """argparse type: name=share,name=share as {name: share}."""
    found = {}
    for part in text.split(","):
        name, equals, share = part.strip().rpartition("=")
        with contextlib.suppress(ValueError):
            if name and name not in found and 0 < float(share) < math.inf:
                found[name] = float(share)
                continue
        raise argparse.ArgumentTypeError(
            tr("must be shares above 0, such as old=90,new=10, not {text}", text=shorten(text))
        )
    return found


def parser_of(description):
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add(
        "--bundle",
        type=named_folder,
        action="append",
        help=tr(
            "folder that an export script wrote, or name=folder; once for each bundle ({root})", root=ROOT / "export"
        ),
    )
    add("--split", type=shares, help="shares of the requests by bundle, such as old=90,new=10 (all to the first)")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all addresses (%(default)s)")
    add("--port", type=non_negative_int, default=8189, help="port to listen on (%(default)s)")
    add(
        "--allowed_hosts",
        type=hosts,
        default=(),
        help="names that clients may use for the server, such as example.org,*.example.org; no port (any)",
    )

    add = parser.add_argument_group("model").add_argument
    add("--device", default="cpu", choices=("cpu", "gpu"), help="where the model runs (%(default)s)")
    add("--device_id", type=non_negative_int, default=0, help="number of the GPU (%(default)s)")
    add(
        "--variant",
        default="float32",
        choices=("float32", "int8", "fp16"),
        help="which model of the bundle to run (%(default)s)",
    )
    add("--num_threads", type=positive_int, help="threads of the model on a CPU (all cores)")
    add(
        "--keep_previous",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the version before a changed bundle in memory, for /admin/rollback (on)",
    )
    add("--batching", action=argparse.BooleanOptionalAction, default=True, help="requests share runs of the model (on)")
    add("--batch_tokens", type=positive_int, default=1024, help="maximum tokens per run of the model (%(default)s)")

    studio = tr("also answer as an ML backend of Label Studio, at /label_studio (off)")
    add("--label_studio", action=argparse.BooleanOptionalAction, default=False, help=studio)
    add("--log_format", default=json_log.TEXT, choices=json_log.FORMATS, help="form of log lines (%(default)s)")
    series = tr("labels that get a metric of their own; the others are counted together (%(default)s)")
    add("--metric_labels", type=non_negative_int, default=200, help=series)

    add = parser.add_argument_group("limits").add_argument
    add("--max_body_bytes", type=positive_int, default=1 << 20, help="largest request in bytes (%(default)s)")
    add("--max_texts", type=positive_int, default=256, help="maximum texts per request (%(default)s)")
    add("--max_characters", type=positive_int, default=20000, help="maximum characters per text (%(default)s)")
    add("--max_requests", type=positive_int, default=512, help="maximum requests in progress at a time (%(default)s)")
    add("--queue_tokens", type=positive_int, default=65536, help="maximum tokens waiting for the model (%(default)s)")
    add("--deadline_seconds", type=seconds, default=10.0, help="time limit to answer a received request (%(default)s)")
    add(
        "--receive_seconds",
        type=seconds,
        default=10.0,
        help="time limit for a client to send its request (%(default)s)",
    )
    add("--shutdown_seconds", type=seconds, default=15.0, help="time limit from SIGTERM to exit (%(default)s)")
    return parser


def environment_tokens(parser, environ):
    """The settings in the environment as arguments. Raises a UserError that lists the variables that are not valid."""
    variables = {PREFIX + action.dest.upper(): action for action in parser._actions if action.dest != "help"}
    tokens, problems = [], Problems()
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name in (API_KEY, language.VARIABLE):
            continue
        action = variables.get(name.upper())
        if action is None:
            logger.warning("%s is not a setting%s", name, closest(name, [*variables, API_KEY]))
        elif isinstance(action, argparse.BooleanOptionalAction):
            if value not in ("0", "1", "false", "true"):
                problems.add(tr("{name} must be true or false, not {value}", name=name, value=shorten(value)))
            tokens.append(action.option_strings[0 if value in ("1", "true") else 1])
        else:
            several = isinstance(action, argparse._AppendAction) and not os.path.isdir(value)
            for one in value.split(BETWEEN_BUNDLES) if several else [value]:
                if problem := value_problem(action, one):
                    problems.add(f"{name}: {problem}")
                tokens.append(f"--{action.dest}={one}")
    problems.stop_if_any()
    return tokens


def parse_args(argv=None, description=None, environ=os.environ):
    """The settings as a Namespace, with `api_key`. Flags win over the environment, the environment over the defaults.

    Raises:
        UserError: a value is not valid, or two values contradict each other.
    """
    parser = parser_of(description)
    tokens, words = environment_tokens(parser, environ), sys.argv[1:] if argv is None else list(argv)
    if any(word.partition("=")[0] == "--bundle" for word in words):  # flags win; of this one, they would add to it
        tokens = [token for token in tokens if not token.startswith("--bundle=")]
    settings = parser.parse_args(tokens + words)
    settings.bundle = settings.bundle or [named_folder(str(ROOT / "export"))]
    settings.api_key = key = environ.get(API_KEY)
    problems = Problems()
    for problem in name_problems(settings):
        problems.add(problem)
    if settings.shutdown_seconds < settings.deadline_seconds + CLOSING_SECONDS:
        problems.add(
            tr(
                "--shutdown_seconds {shutdown_seconds:g} must be at least {closing_seconds} more than "
                "--deadline_seconds {deadline_seconds:g}: accepted requests may take that long",
                shutdown_seconds=settings.shutdown_seconds,
                closing_seconds=CLOSING_SECONDS,
                deadline_seconds=settings.deadline_seconds,
            )
        )
    if key is not None and not key.strip():
        problems.add(tr("{api_key} is empty: set a key, or unset it to serve everybody", api_key=API_KEY))
    elif key and not (key.isascii() and key.isprintable() and key == key.strip()):
        problems.add(
            tr(
                "{api_key} contains characters that a header cannot carry; use ASCII without line breaks, and without "
                "spaces at either end",
                api_key=API_KEY,
            )
        )
    problems.stop_if_any()
    return settings


def name_problems(settings):
    """Yields what is wrong with the names in --bundle and --split."""
    names = [name for name, _ in settings.bundle]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield tr(
            "--bundle: {count} bundles are named {name}; give each a name of its own: name=folder",
            count=names.count(name),
            name=name,
        )
    for name in settings.split or ():
        if name not in names:
            yield tr("--split {name}: no bundle has this name; known are {names}", name=name, names=", ".join(names))


def describe(settings):
    """Yields lines that show the settings, but not the value of the API key."""
    apart = ("api_key", "host", "port")  # if started as `uvicorn server:app`, uvicorn's own address counts
    values = {name: value for name, value in vars(settings).items() if name not in apart}
    values["bundle"] = " ".join(map(str, settings.bundle))
    yield ", ".join(f"{name}={value}" for name, value in values.items())
    without = tr("API key: none ({variable} is not set)", variable=API_KEY)
    yield tr("API key: required, except for pages and health") if settings.api_key else without
