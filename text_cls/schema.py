"""Reads a JSON file and checks all of it, so that an edited or damaged one ends in messages that say what to fix.

A check is a function of a value and its place in the file, which yields a message for every fault:

    check = fields({"width": whole(1), "names": list_of(TEXT)}, optional={"model": or_null(TEXT)})
    content = read_json("index.json", check, remedy="build the index again")

It needs the standard library only: bundles are also opened where numpy is all there is, as in Triton's container.
"""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from text_cls.cli import Problems, UserError, shorten
from text_cls.language import N_, reason_of, tr

LARGEST = 64 << 20  # bytes of a file; a decision with 100,000 labels has 10 million
DEEPEST = 50  # lists and objects inside each other; ours have 5
LONGEST_NUMBER = 300  # digits: all that a float can be
UNLIMITED = (1 << 63) - 1

Check = Callable[[str, Any], Iterable[str]]


def read_json(path: str | os.PathLike, check: Check, remedy: str, versions: tuple[int, ...] = ()) -> dict:
    """The object in a JSON file.

    Args:
        check: of the object.
        remedy: what to do about a fault, as the end of each message.
        versions: values of its field "version" that this code reads; empty for a file without one.
    Raises:
        UserError: the file cannot be read, or lists every fault of its content.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        raise UserError(f"{path}: {reason_of(error)}; {remedy}") from error
    return parse_json(content, path, check, remedy, versions)


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a file for `parse_json`, which refuses one that was too large to be read whole."""
    with open(path, "rb") as file:
        return file.read(LARGEST + 1)


def parse_json(
    content: bytes, path: str | os.PathLike, check: Check, remedy: str, versions: tuple[int, ...] = ()
) -> dict:
    """As `read_json`, for a file that has been read already. path: for messages."""
    if len(content) > LARGEST:
        raise UserError(
            tr("{path} is larger than {largest} MiB; {remedy}", path=path, largest=LARGEST >> 20, remedy=remedy)
        )
    try:
        value = json.loads(content, object_pairs_hook=_object, parse_int=_whole_number)
        if not isinstance(value, dict):
            raise ValueError(tr("an object {{...}} is expected, not {found}", found=_found(value)))
        if not _is_shallow(value):
            raise RecursionError
    except RecursionError:
        raise UserError(
            tr(
                "{path} is damaged (nested more than {deepest} deep); {remedy}",
                path=path,
                deepest=DEEPEST,
                remedy=remedy,
            )
        ) from None
    except ValueError as error:
        raise UserError(tr("{path} is damaged ({error}); {remedy}", path=path, error=error, remedy=remedy)) from error
    version = value.get("version")
    if versions and (type(version) is not int or version not in versions):
        known = (
            f"version {versions[0]}"
            if len(versions) == 1
            else tr("versions {oldest} to {newest}", oldest=versions[0], newest=versions[-1])
        )
        upgrade = tr("upgrade this code, or ") if isinstance(version, int) and version > versions[-1] else ""
        raise UserError(
            tr(
                "{path}: version {found} is unknown (this code reads {known}); {upgrade}{remedy}",
                path=path,
                found=_found(version),
                known=known,
                upgrade=upgrade,
                remedy=remedy,
            )
        )
    problems = Problems()
    for message in check("", value):
        problems.add(f"{path}: {message}; {remedy}")
    problems.stop_if_any()
    return value


def _object(pairs):
    """The object of these pairs. json itself would keep the last of equal keys."""
    found = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(tr("the key {name} appears twice", name=shorten(name)))
        found[name] = value
    return found


def _whole_number(digits):
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(tr("a number has {count} digits", count=len(digits)))
    return int(digits)


def _is_shallow(value):
    level = [value]
    for _ in range(DEEPEST):
        containers = (item for item in level if isinstance(item, (list, dict)))
        level = [item for outer in containers for item in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return True
    return False


def _found(value):
    """A value as the user sees it in the file, for a message."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list):
        return tr("a list") if value else tr("an empty list")
    if isinstance(value, dict):
        return tr("an object") if value else tr("an empty object")
    return shorten(value) if isinstance(value, str) else shorten(str(value)).strip("'")


# ------------------------------------------------------------------------------------------------------------- checks


def value_of(expected: str, fits: Callable[[Any], bool], **values: Any) -> Check:
    """A check of a single value. expected: what it must be, a message with names of `values`, marked by `N_`."""

    def check(where, value):
        if not fits(value):
            must_be = tr(expected, **values)
            yield tr("{where} must be {expected}, not {found}", where=where, expected=must_be, found=_found(value))

    return check


def _is_number(value, kinds=(int, float)):
    return isinstance(value, kinds) and not isinstance(value, bool)


def whole(least: int, most: int = UNLIMITED) -> Check:
    """A whole number; true and false are none."""
    range_ = (
        N_("a whole number of at least {least}") if most == UNLIMITED else N_("a whole number from {least} to {most}")
    )
    return value_of(range_, lambda value: _is_number(value, int) and least <= value <= most, least=least, most=most)


def number(least: float, most: float) -> Check:
    """A number in a range, which NaN never is."""

    def fits(value):
        return _is_number(value) and least <= value <= most

    return value_of(N_("a number from {least} to {most}"), fits, least=least, most=most)


def one_of(*values: str) -> Check:
    """One of some texts."""

    def fits(value):
        return isinstance(value, str) and value in values

    return value_of(N_("one of {names}"), fits, names=", ".join(values))


def _is_sha256(value):
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_printable(value):
    return isinstance(value, str) and value.isprintable()


ANY = value_of("", lambda value: True)
TEXT = value_of(N_("a text"), lambda value: isinstance(value, str))
NAME = value_of(N_("a text of printable characters"), _is_printable)
FLAG = value_of(N_("true or false"), lambda value: isinstance(value, bool))
NUMBER = value_of(N_("a number"), _is_number)
OBJECT = value_of(N_("an object {...}"), lambda value: isinstance(value, dict))
SHA256 = value_of(N_("a SHA-256 of 64 hexadecimal digits"), _is_sha256)
FILE_NAME = value_of(
    N_("the name of a file in this folder"), lambda name: isinstance(name, str) and _is_file_name(name)
)


def _is_file_name(name):
    return name not in ("", ".", "..") and not set(name) & set("/\\") and name.isprintable()


def or_null(check: Check) -> Check:
    """null, or what another check accepts."""
    return lambda where, value: () if value is None else check(where, value)


def list_of(item: Check, least: int = 0) -> Check:
    """A list of at least `least` items, each of them checked."""
    expected = N_("a list of at least {least}") if least else N_("a list")
    is_list = value_of(expected, lambda value: isinstance(value, (list, tuple)) and len(value) >= least, least=least)

    def check(where, value):
        yield from is_list(where, value)
        for i, inner in enumerate(value if isinstance(value, (list, tuple)) else ()):
            yield from item(f"{where}[{i}]", inner)

    return check


def map_of(item: Check, key: Check = TEXT) -> Check:
    """An object with any keys that a check accepts."""

    def check(where, value):
        yield from OBJECT(where, value)
        for name, inner in value.items() if isinstance(value, dict) else ():
            yield from key(tr("a key of {where}", where=where), name)
            yield from item(f"{where}[{shorten(name)}]", inner)

    return check


def fields(required: dict[str, Check], optional: dict[str, Check] | None = None, others: bool = True) -> Check:
    """An object with these fields. others: whether it may have further ones."""
    known = {**required, **(optional or {})}

    def check(where, value):
        yield from OBJECT(where, value)
        if not isinstance(value, dict):
            return
        for name in required:
            if name not in value:
                yield tr("{inside} is missing", inside=_inside(where, name))
        for name, inner in value.items():
            if name in known:
                yield from known[name](_inside(where, name), inner)
            elif not others:
                place = tr(" of {where}", where=where) if where else ""
                yield tr(
                    "the field {name}{place} is unknown; known are {known}",
                    name=shorten(name),
                    place=place,
                    known=", ".join(known),
                )

    return check


def by_kind(checks: dict[str, Check], default: str | None = None) -> Check:
    """The check of an object whose field "kind" says which one; `default` without the field."""

    def check(where, value):
        yield from OBJECT(where, value)
        if isinstance(value, dict):
            kind = value.get("kind", default)
            wrong = list(one_of(*checks)(_inside(where, "kind"), kind))
            yield from wrong or checks[kind](where, value)

    return check


def _inside(where, name):
    return f"{where}.{name}" if where else name
