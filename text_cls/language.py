"""The language of what a person reads: `TEXT_CLS_LANG` (en or zh_CN), else that of the locale, English or Chinese.

Messages are English in the code. Their Chinese is in `locale/zh_CN/LC_MESSAGES/text_cls.po`, which `make translations`
brings up to date. `tr` translates a message; `N_` marks one that is translated where it is used. Log lines and the help
of flags need neither: `text_cls.cli` translates their templates. The guides' log lines are English in both languages.
"""

import contextlib
import contextvars
import functools
import gettext
import locale
import os
from pathlib import Path

from text_cls.errors import UserError

VARIABLE = "TEXT_CLS_LANG"
ENGLISH, CHINESE = "en", "zh_CN"
LANGUAGES = {ENGLISH: "en", CHINESE: "zh-CN"}  # their codes in HTML
FOLDER = Path(__file__).parent / "locale"
DOMAIN = "text_cls"


_speaking = contextvars.ContextVar("language", default=None)


def language():
    """`ENGLISH` or `CHINESE`. Raises UserError if TEXT_CLS_LANG is neither."""
    asked = _speaking.get() or os.environ.get(VARIABLE)
    if asked:
        if asked in LANGUAGES:
            return asked
        raise UserError(f"{VARIABLE}={asked}: write {ENGLISH} or {CHINESE} (中文)")
    return _of_locale()


@contextlib.contextmanager
def speaking(code):
    """In the block, everything is said in the language `code`. For pages in both languages."""
    token = _speaking.set(code)
    try:
        yield
    finally:
        _speaking.reset(token)


class Message(str):
    """A text that `tr` made, and what it was made of, so that `again` can say it in another language."""

    template, values = "", {}


def tr(message, /, **values):
    """The message in the reader's language. values: what its {names} stand for; without any, braces are just braces."""
    said = Message(translated(message, language(), **values))
    said.template, said.values = message, values
    return said


def again(text):
    """A `Message`, and those that it was made of, in the language of now; any other text as it is."""
    if not isinstance(text, Message):
        return text
    return translated(text.template, language(), **{name: again(value) for name, value in text.values.items()})


def translated(message, code, /, **values):
    """As `tr`, in the language `code`, as a plain text."""
    message = _catalogue(code).gettext(message) if message else message  # that of "" is the catalogue's header
    return message.format(**values) if values else message


def N_(message):
    """Marks a message for the catalogue, which `tr` translates where it is used."""
    return message


OF_THE_SYSTEM = (
    N_("No such file or directory"),
    N_("Permission denied"),
    N_("Is a directory"),
    N_("Not a directory"),
    N_("File exists"),
    N_("File name too long"),
    N_("No space left on device"),
    N_("Disk quota exceeded"),
    N_("Read-only file system"),
    N_("Input/output error"),
    N_("Too many open files"),
    N_("Connection refused"),
    N_("Connection reset by peer"),
    N_("Connection timed out"),
    N_("Address already in use"),
    N_("Cannot assign requested address"),
    N_("Name or service not known"),
    N_("Temporary failure in name resolution"),
    N_("Network is unreachable"),
    N_("Cannot allocate memory"),
)


def reason_of(error):
    """What an error says; of the usual errors of files and connections, in the reader's language."""
    said = getattr(error, "strerror", None) or str(error)
    return tr(said) if said in OF_THE_SYSTEM else said


def _of_locale():
    # The order of POSIX; the second is what a Windows user has set.
    found = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), None)
    if found is None:
        found = locale.getlocale()[0] or ""
    return CHINESE if found.lower().startswith(("zh", "chinese")) else ENGLISH


@functools.cache
def _catalogue(code):
    if code == ENGLISH:
        return gettext.NullTranslations()
    return gettext.translation(DOMAIN, FOLDER, [code])
