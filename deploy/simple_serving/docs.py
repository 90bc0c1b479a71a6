"""The API documentation: /openapi.json as one page without scripts, which needs no network.

FastAPI's own /docs loads scripts from a CDN, which fails without a network and under a strict content policy.
"""

import json

from text_cls.html_page import STYLE, escape

OWN = """pre { background: var(--tint); padding: 8px 12px; border-radius: 8px; overflow-x: auto; }
code { overflow-wrap: anywhere; }"""


def render(schema):
    """The HTML page of an OpenAPI schema."""
    parts = [f"<h1>{escape(schema['info']['title'])}</h1><p>{escape(schema['info']['description'])}</p>"]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation.get('description') or operation['summary'])}</p>")
            parts.append('<div class="wide"><table><tr><th>status</th><th>when</th><th>body</th></tr>')
            for status, answer in operation["responses"].items():
                bodies = ", ".join(f"{kind} {_name(what)}" for kind, what in answer.get("content", {}).items())
                cells = (status, answer["description"], bodies)
                parts.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
            parts.append("</table></div>")
    for name, definition in schema["components"]["schemas"].items():
        text = json.dumps(definition, ensure_ascii=False, indent=2)
        parts.append(f"<h2>{escape(name)}</h2><pre>{escape(text)}</pre>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<link rel="icon" href="data:,">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(schema['info']['title'])}</title>\n<style>{STYLE}{OWN}</style>\n</head>\n<body>\n"
        f'{"".join(parts)}\n<p><a href="openapi.json">openapi.json</a></p>\n</body>\n</html>\n'
    )


def _name(content):
    return content.get("schema", {}).get("$ref", "").rpartition("/")[2]
