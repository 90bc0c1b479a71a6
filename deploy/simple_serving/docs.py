"""The API documentation: /openapi.json as one page without scripts, which needs no network.

FastAPI's own /docs loads scripts from a CDN, which fails without a network and under a strict content policy.
"""

import json

from text_cls.html_page import STYLE, escape
from text_cls.language import CHINESE, ENGLISH, LANGUAGES, language, speaking, tr

NAMES = {ENGLISH: "English", CHINESE: "中文"}
OWN = """
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #a3adbb; --line: #39424f; --paper: #14181e; --tint: #232a33; --blue: #8ab8f2; }
}
a { color: var(--blue); }
pre { background: var(--tint); padding: 8px 12px; border-radius: 8px; white-space: pre-wrap; overflow-wrap: anywhere; }
code { overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; }
summary { cursor: pointer; margin: .5em 0; }"""


def render(schema, route, code=None):
    """The HTML page of an OpenAPI schema, with the example of one route, in the language `code` (the server's)."""
    with speaking(code or language()):
        return _page(_translated(schema), route)


def _translated(value):
    """The schema with its descriptions in the language of now; /openapi.json, which programs read, is English."""
    if isinstance(value, dict):
        return {key: tr(inner) if _is_prose(key, inner) else _translated(inner) for key, inner in value.items()}
    return [_translated(each) for each in value] if isinstance(value, list) else value


def _is_prose(key, value):
    return key in ("description", "summary") and isinstance(value, str)


def _page(schema, route):
    info, components = schema["info"], schema["components"]
    other = next(code for code in LANGUAGES if code != language())
    parts = [
        f'<p><a href="docs?lang={other}" lang="{LANGUAGES[other]}">{NAMES[other]}</a></p>',
        f"<h1>{escape(info['title'])}</h1><p>{escape(info['description'])}</p>",
        *_example(schema, route),
    ]
    rows = []
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            bodies = [_bodies(answer) for status, answer in operation["responses"].items() if "$ref" not in answer]
            errors = ", ".join(status for status, answer in operation["responses"].items() if "$ref" in answer)
            rows.append((f"{method.upper()} {path}", operation["summary"], "; ".join(bodies), errors))
    parts += [_heading(tr("Routes")), _table((tr("route"), tr("what"), tr("body of 200"), tr("errors")), rows)]
    rows = [(status, answer["description"]) for status, answer in components["responses"].items()]
    parts += [_heading(tr("Errors")), f"<p>{escape(tr('The body of an error is an Error in JSON.'))}</p>"]
    parts.append(_table((tr("status"), tr("when")), rows))
    parts.append(_heading(tr("Schemas")))
    for name, definition in components["schemas"].items():
        parts.append(f"<details><summary><code>{escape(name)}</code></summary>{_json(definition, indent=2)}</details>")
    version = escape(tr("Version of the bundle: {version}.", version=info["version"]))
    return (
        f'<!DOCTYPE html>\n<html lang="{LANGUAGES[language()]}">\n<head>\n<meta charset="utf-8">\n'
        '<link rel="icon" href="data:,">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(info['title'])}</title>\n<style>{STYLE}{OWN}</style>\n</head>\n<body>\n"
        f"{''.join(parts)}\n"
        f'<p class="note">{version} <a href="openapi.json">openapi.json</a></p>'
        "\n</body>\n</html>\n"
    )


def _heading(text):
    return f"<h2>{escape(text)}</h2>"


def _example(schema, route):
    """Yields the HTML of the route that labels texts: a request and its answer."""
    operation = schema["paths"][route]["post"]
    question = operation["requestBody"]["content"]["application/json"]["example"]
    answer = operation["responses"]["200"]["content"]["application/json"]["example"]
    yield f"<h2><code>POST {escape(route)}</code></h2><p>{escape(tr('A request, in JSON (Question):'))}</p>"
    yield f"{_json(question)}<p>{escape(tr('Its answer by this server (Answer):'))}</p>{_json(answer)}"


def _table(head, rows):
    cells = [f"<th>{escape(name)}</th>" for name in head]
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return f'<div class="wide"><table><tr>{"".join(cells)}</tr><tr>{"</tr><tr>".join(lines)}</tr></table></div>'


def _bodies(answer):
    """What an answer may contain: names of schemas, or media types."""
    content = answer["content"].items()
    return ", ".join(what["schema"].get("$ref", "").rpartition("/")[2] or kind for kind, what in content)


def _json(value, indent=None):
    return f"<pre>{escape(json.dumps(value, ensure_ascii=False, indent=indent))}</pre>"
