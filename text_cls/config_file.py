"""The flag --config: a file with one `flag: value` per line, in JSON or YAML."""

import argparse
import json
import re
import sys

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import closest, shorten, value_problem
from text_cls.language import reason_of, tr

MAX_BYTES = 1 << 16  # some sixty flags take 3 kB
NULLS = ("", "~", "null", "Null", "NULL")


class Refused(ValueError):
    """Valid YAML that is no config file."""


def parse_with_config(parser, argv):
    """Parses `argv`, with defaults from the file of `--config` (JSON or YAML, `flag: value`). The command line wins.

    The file's values are parsed as if typed before the rest of the command line, so that the same checks apply.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    path = first.parse_known_args(argv)[0].config
    if path is None:
        return parser.parse_args(argv)
    try:
        tokens = list(_config_tokens(parser, read_config(path)))
    except OSError as error:
        parser.error(f"--config {path}: {reason_of(error)}")
    except ValueError as error:
        parser.error(f"--config {path}: {error}")
    return parser.parse_args(tokens + argv)


def _config_tokens(parser, values):
    """The values of a config file as arguments. Raises ValueError for one that its flag cannot have."""
    switch = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    flags = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    for name, (line, value) in values.items():
        where = f"line {line}: " if line else ""
        if name not in flags:
            raise ValueError(
                tr(
                    "{where}there is no flag --{name}{hint}",
                    where=where,
                    name=name[:40],
                    hint=closest(name[:40], flags),
                )
            )
        if isinstance(flags[name], argparse.BooleanOptionalAction):
            on = switch.get(str(value).lower())
            if on is None:
                raise ValueError(
                    tr(
                        "{where}{name} must be true or false, not {value}",
                        where=where,
                        name=name,
                        value=shorten(value or ""),
                    )
                )
            yield flags[name].option_strings[0 if on else 1]
        elif value is not None:
            if problem := value_problem(flags[name], value):
                raise ValueError(f"{where}{name}: {problem}")
            yield f"--{name}={value}"


def read_config(path):
    """The flags in a file, {name: (line, value)}: the value is the text as written, None for null.

    What a value means is up to the flag: YAML's own rules would read 010 as 8, and 1:30 as 90. Lists and mappings are
    refused at their first character, so that neither their depth nor aliases take time or memory.

    Raises:
        OSError: the file cannot be opened.
        ValueError: what is wrong with it.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(
            tr(
                "larger than {max_bytes} KiB; a config file contains one 'flag: value' per line",
                max_bytes=MAX_BYTES >> 10,
            )
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            tr("line {count}: not UTF-8; save the file as UTF-8", count=data.count(10, 0, error.start) + 1)
        ) from error
    values = {}
    for name, line, value in _pairs(text, path):
        where = f"line {line}: " if line else ""
        if name in values:
            raise ValueError(tr("{where}{name} is given a second time; delete one", where=where, name=shorten(name)))
        if value is not None and not _is_plain(value):
            raise ValueError(
                tr(
                    "{where}{name} contains characters that no flag can have: {value}",
                    where=where,
                    name=shorten(name),
                    value=shorten(value),
                )
            )
        values[name] = (line, value)
    return values


def _is_plain(value):
    return value.isprintable() or not re.search("[\0\ud800-\udfff]", value)


def _pairs(text, path):
    """(name, line, value) of each flag."""
    error = None
    if text.lstrip().startswith("{"):
        try:
            return _json_pairs(text)
        except (json.JSONDecodeError, RecursionError) as failed:  # YAML has braces too
            error = failed
    try:
        return list(_yaml_pairs(text))
    except SyntaxError as no_yaml:
        reason = no_yaml
        if isinstance(error, json.JSONDecodeError) and str(path).lower().endswith(".json"):
            reason = tr("line {lineno}, column {colno}: {msg}", lineno=error.lineno, colno=error.colno, msg=error.msg)
        raise ValueError(tr("not readable as JSON or YAML: {reason}", reason=reason)) from no_yaml


def _json_pairs(text):
    # Numbers stay as they are written. The hook sees the inner objects first, the outermost last.
    pairs = json.loads(text, object_pairs_hook=tuple, parse_int=str, parse_float=str, parse_constant=str)
    found, seen = [], set()
    for name, value in pairs:
        matches = re.finditer(rf"{re.escape(json.dumps(name, ensure_ascii=False))}\s*:", text)
        lines = [text.count("\n", 0, match.start()) + 1 for match in matches]
        line = (lines[-1] if name in seen else lines[0]) if lines else None
        seen.add(name)
        if isinstance(value, (list, tuple)):
            raise ValueError(
                tr("line {line}: {name} must be one value, not a list or a mapping", line=line, name=shorten(name))
            )
        found.append((name, line, str(value).lower() if isinstance(value, bool) else value))
    return found


def _yaml_pairs(text):
    """(name, line, value) of each flag. Raises SyntaxError for what is no YAML, `Refused` for what is no flag."""
    import yaml

    try:
        events = (event for event in yaml.parse(text) if not isinstance(event, yaml.StreamStartEvent))
        next(events)  # the start of the document, or the end of an empty file
        start = next(events, None)
        if start is None or (isinstance(start, yaml.ScalarEvent) and start.value in NULLS):
            return
        if not isinstance(start, yaml.MappingStartEvent):
            raise Refused(tr("expected lines of the form 'batch_size: 32'"))
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            line, name = key.start_mark.line + 1, _scalar(key, "a flag") or ""
            value = next(events)
            yield name, line, _scalar(value, shorten(name))
        if not isinstance(next(events), yaml.DocumentEndEvent) or not isinstance(next(events), yaml.StreamEndEvent):
            raise Refused(tr("contains a second document after ---; a config file is one"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SyntaxError(
            tr(
                "line {line}, column {column}: {problem}",
                line=mark.line + 1,
                column=mark.column + 1,
                problem=error.problem,
            )
        ) from error
    except Refused:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: of numbers in escapes and directives
        raise SyntaxError(str(error)) from error


def _scalar(event, what):
    """The text of a YAML value as written, None for null."""
    import yaml

    line = f"line {event.start_mark.line + 1}: "
    if isinstance(event, yaml.AliasEvent):
        raise Refused(
            tr(
                "{line}{what} is an alias (*{anchor}); write the value itself",
                line=line,
                what=what,
                anchor=event.anchor,
            )
        )
    if not isinstance(event, yaml.ScalarEvent):
        raise Refused(tr("{line}{what} must be one value, not a list or a mapping", line=line, what=what))
    if event.tag is not None:
        raise Refused(tr("{line}{what} has a tag ({tag}); write the value alone", line=line, what=what, tag=event.tag))
    return None if event.implicit[0] and event.value in NULLS else event.value
