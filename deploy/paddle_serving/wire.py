"""Texts as Paddle Serving's clients send them: the `repr` of a NumPy array or of a list, as a string.

PaddleNLP's service passes that string to Python's `eval`, and its clients do so with the answer. Here it is read as
what it is, a list of string literals, and anything else is an error.
"""

import re

from text_cls.language import N_, tr

MAX_CHARACTERS, MAX_TEXTS = 4 * 1024 * 1024, 1024  # of one value
FORM = N_("expected array([b'...', b'...'], dtype=object), what repr() writes for an array of texts")
_START = re.compile(r"\s*(array\(\s*)?\[\s*")
_TOKEN = re.compile(r"""(b?)(?:'([^'\\\n]*(?:\\.[^'\\\n]*)*)'|"([^"\\\n]*(?:\\.[^"\\\n]*)*)")""")
_COMMA, _END = re.compile(r"\s*,\s*"), re.compile(r"\s*\]\s*")
_TYPE = re.compile(r"""(?:,\s*dtype=(?:object|(['"])[<>|=]?[OSU]\d{0,9}\1)\s*)?\)\s*""")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[\\'\"nrt]|)")
_SIMPLE = {"n": "\n", "r": "\r", "t": "\t"}
_SURROGATE = re.compile("[\ud800-\udfff]")


class WireError(ValueError):
    """A value is not what clients send. The message says where and why, and has no text of the value."""


def wire_of(texts):
    """Texts as the value of a request: what `repr` writes for an object array of their UTF-8 bytes, on one line."""
    return f"array([{', '.join(repr(text.encode('utf-8')) for text in texts)}], dtype=object)"


def texts_of(value, max_texts=MAX_TEXTS):
    """The texts of a value: `repr` of a list or of an array of str or of UTF-8 bytes.

    Raises:
        WireError: it is anything else, or too long, or has no texts or more than max_texts.
    """
    if len(value) > MAX_CHARACTERS:
        raise WireError(
            tr(
                "{count} characters; at most {max_characters} are allowed, send fewer texts per request",
                count=len(value),
                max_characters=MAX_CHARACTERS,
            )
        )
    start = _START.match(value)
    if not start:
        raise WireError(tr("{form}; it begins otherwise", form=tr(FORM)))
    texts, position = [], start.end()
    while True:
        token = _TOKEN.match(value, position)
        if not token:
            raise WireError(tr("no texts") if not texts and _END.match(value, position) else _where(position))
        if len(texts) == max_texts:
            raise WireError(tr("more than {max_texts} texts; send fewer per request", max_texts=max_texts))
        texts.append(_text(token, f"text {len(texts) + 1}"))
        comma = _COMMA.match(value, token.end())
        if not comma:
            break
        position = comma.end()
    _check_end(value, token.end(), is_array=start[1] is not None)
    return texts


def _where(position):
    return tr("{form}; it differs from character {position} on", form=tr(FORM), position=position + 1)


def _check_end(value, position, is_array):
    end = _END.match(value, position)
    if end and is_array:
        position = end.end()
        end = _TYPE.match(value, position)
    if not end or end.end() != len(value):
        raise WireError(_where(end.end() if end else position))


def _text(token, name):
    """The text of a literal, a match of _TOKEN. name: what to call it in a message."""
    content = token[2] if token[2] is not None else token[3]
    if token[1]:
        return _bytes_text(content, name)

    def replaced(escape):
        return _character(escape[1], name)

    text = _ESCAPE.sub(replaced, content)
    if _SURROGATE.search(text):
        raise WireError(tr("{name} has half of a surrogate pair; send it as UTF-8", name=name))
    return text


def _bytes_text(content, name):
    def replaced(escape):
        if escape[1][:1] in ("u", "U"):
            raise WireError(tr("{name} has an escape that bytes do not have", name=name))
        return _character(escape[1], name)

    if not content.isascii():
        raise WireError(tr("{name} has characters that are not ASCII in b'...'", name=name))
    try:
        return _ESCAPE.sub(replaced, content).encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise WireError(tr("{name} is not UTF-8", name=name)) from None


def _character(escape, name):
    """The character of an escape without its backslash."""
    if len(escape) == 1:
        return _SIMPLE.get(escape, escape)
    if not escape:
        raise WireError(tr("{name} has an escape that repr() does not write", name=name))
    number = int(escape[1:], 16)
    if number > 0x10FFFF:
        raise WireError(tr("{name} has an escape beyond Unicode", name=name))
    return chr(number)
