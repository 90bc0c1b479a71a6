"""The API documentation: /openapi.json as one page without scripts, which needs no network.

FastAPI's own /docs loads scripts from a CDN, which fails without a network and under a strict content policy.
"""

import json

from text_cls.html_page import STYLE, escape

OWN = """
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #a3adbb; --line: #39424f; --paper: #14181e; --tint: #232a33; --blue: #8ab8f2; }
}
a { color: var(--blue); }
pre { background: var(--tint); padding: 8px 12px; border-radius: 8px; white-space: pre-wrap; overflow-wrap: anywhere; }
code { overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; }
summary { cursor: pointer; margin: .5em 0; }"""


def render(schema, route):
    """The HTML page of an OpenAPI schema, with the example of one route."""
    info, components = schema["info"], schema["components"]
    parts = [f"<h1>{escape(info['title'])}</h1><p>{escape(info['description'])}</p>", *_example(schema, route)]
    rows = []
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            bodies = [_bodies(answer) for status, answer in operation["responses"].items() if "$ref" not in answer]
            errors = ", ".join(status for status, answer in operation["responses"].items() if "$ref" in answer)
            rows.append((f"{method.upper()} {path}", operation["summary"], "; ".join(bodies), errors))
    parts += ["<h2>Routes</h2>", _table(("route", "what", "body of 200", "errors"), rows)]
    rows = [(status, answer["description"]) for status, answer in components["responses"].items()]
    parts += ["<h2>Errors</h2><p>The body of an error is an <code>Error</code> in JSON.</p>"]
    parts.append(_table(("status", "when"), rows))
    parts.append("<h2>Schemas</h2>")
    for name, definition in components["schemas"].items():
        parts.append(f"<details><summary><code>{escape(name)}</code></summary>{_json(definition, indent=2)}</details>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<link rel="icon" href="data:,">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(info['title'])}</title>\n<style>{STYLE}{OWN}</style>\n</head>\n<body>\n"
        f"{''.join(parts)}\n"
        f'<p class="note">Version of the bundle: {escape(info["version"])}. <a href="openapi.json">openapi.json</a></p>'
        "\n</body>\n</html>\n"
    )


def _example(schema, route):
    """Yields the HTML of the route that labels texts: a request and its answer."""
    operation = schema["paths"][route]["post"]
    question = operation["requestBody"]["content"]["application/json"]["example"]
    answer = operation["responses"]["200"]["content"]["application/json"]["example"]
    yield f"<h2><code>POST {escape(route)}</code></h2><p>A request, in JSON (<code>Question</code>):</p>"
    yield f"{_json(question)}<p>Its answer by this server (<code>Answer</code>):</p>{_json(answer)}"


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
