"""The OpenAPI page as plain HTML without scripts, so that it loads nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import Response

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid #8886;
  border-radius: .4rem; font-size: .85rem; }
section { border-top: 1px solid #8886; margin-top: 1.5rem; }
h2 code { font-size: 1.1rem; }
td, th { text-align: left; padding: .15rem 1rem .15rem 0; vertical-align: top; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def page(openapi: dict[str, Any]) -> Response:
    """Render an OpenAPI document."""
    about = openapi["info"]
    title = escape(about["title"])
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{title}</title><style>{STYLE}</style><body>",
        f"<h1>{title} {escape(about['version'])}</h1>",
        f"<p>{escape(about.get('description', ''))}</p>",
        "<p>The same for machines: <a href=/openapi.json>openapi.json</a></p>",
    ]
    for path, verbs in openapi["paths"].items():
        for verb, route in verbs.items():
            parts += _route(f"{verb.upper()} {path}", route)
    return Response(
        "".join(parts), media_type="text/html", headers={"content-security-policy": POLICY}
    )


def _route(name: str, route: dict[str, Any]) -> Iterator[str]:
    yield f"<section><h2><code>{escape(name)}</code></h2>"
    yield f"<p>{escape(route.get('description', ''))}</p>"
    if route.get("parameters"):
        yield "<table><tr><th>parameter<th>in<th>what"
        for p in route["parameters"]:
            yield f"<tr><td><code>{escape(p['name'])}</code><td>{escape(p['in'])}"
            yield f"<td>{escape(_parameter_text(p))}"
        yield "</table>"
    for kind, content in route.get("requestBody", {}).get("content", {}).items():
        yield f"<details><summary>body: {escape(kind)}</summary>"
        yield f"<pre>{_json(content['schema'])}</pre></details>"
    yield "<table><tr><th>response<th>what"
    for status, response in route["responses"].items():
        yield f"<tr><td>{escape(str(status))}<td>{escape(response.get('description', ''))}"
    yield "</table></section>"


def _parameter_text(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    bounds = [
        f"{word} {schema[key]}"
        for key, word in (("minimum", "from"), ("maximum", "to"))
        if key in schema
    ]
    default = [f"{schema['default']} by default"] if schema.get("default") not in (None, []) else []
    return "; ".join([parameter.get("description", ""), *bounds, *default]).strip("; ")


def _json(schema: dict[str, Any]) -> str:
    return escape(json.dumps(schema, indent=1))
