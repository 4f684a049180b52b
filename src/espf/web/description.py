"""/doc/api: the APIs described, for programs and for people."""

import re
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from espf.model import compact

INTRODUCTION = """Put events into the queue, report statuses, and look after what is there.

Credentials are those of an administrator: Basic, or a Bearer token from Session/login of the
billing API. A user acts in its own environment; a superuser may name another with `i_env`.
Every error is JSON with `error` and, where a parameter is at fault, `field`.

The billing API, `/rest`, takes `params`, and from callers without such a header `auth_info`:
`session_id`, `access_token`, or `login` and `password`. Its errors are HTTP 500 with `faultcode`
and `faultstring`.
"""

pages = APIRouter(include_in_schema=False)


@pages.get("/doc/api")
async def describe(request: Request) -> Response:
    """The OpenAPI document, or a page for a browser."""
    document = request.app.openapi()
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse("".join(_page(document)))
    return JSONResponse(document)


def mend(document: dict[str, Any]) -> None:
    """Take out of a generated document what is not so: errors that we do not answer, and nulls.

    A parameter of an address cannot be null.
    """
    for operation in _operations(document):
        operation["responses"].pop("422", None)
        for parameter in operation.get("parameters", ()):
            schema = parameter["schema"]
            choices = [one for one in schema.pop("anyOf", []) if one != {"type": "null"}]
            for choice in choices:
                schema.update(choice)
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


_STYLE = """body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}
h2{border-bottom:1px solid #ccc}h3{margin-bottom:0}
code,pre{font:14px/1.4 monospace;background:#f4f4f4}
pre{padding:.5em;white-space:pre-wrap;overflow-wrap:anywhere}dt{margin-top:.3em}"""


def _page(document: dict[str, Any]) -> Iterator[str]:
    info = document["info"]
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{info["title"]} API</title>'
    yield f"<style>{_STYLE}</style><h1>{escape(info['title'])} API</h1>"
    yield _prose(info["description"])
    yield '<p><a href="/doc/api/openapi.json">The same for programs: OpenAPI 3.1</a></p>'
    by_tag = _by_tag(document)
    places = {tag: re.sub(r"\W+", "-", tag.lower()) for tag in by_tag}
    links = (f'<a href="#{place}">{escape(tag)}</a>' for tag, place in places.items())
    yield f"<p>{' · '.join(links)}</p>"
    for tag, operations in by_tag.items():
        yield f'<h2 id="{places[tag]}">{escape(tag)}</h2>'
        for method, path, operation in operations:
            yield from _section(document, method.upper(), path, operation)


def _by_tag(document: dict[str, Any]) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    """The operations under the name of what they are about, in the document's order."""
    found = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found[operation["tags"][0]].append((method, path, operation))
    return found


def _section(
    document: dict[str, Any], method: str, path: str, operation: dict[str, Any]
) -> Iterator[str]:
    yield f"<h3><code>{method} {escape(path)}</code></h3>"
    yield f"{_prose(operation.get('description', ''))}<dl>"
    for parameter in operation.get("parameters", ()):
        said = parameter.get("description", "")
        yield f"<dt><code>{escape(parameter['name'])}</code> ({parameter['in']})"
        yield f"<dd>{escape(said)}" if said else ""
    yield "</dl>"
    for kind in operation.get("requestBody", {}).get("content", {}).values():
        schema = kind["schema"]
        # An envelope is the same for all.
        taken = _members(document, schema.get("properties", {}).get("params", schema))
        yield f"<p>Takes {taken}:" if taken else ""
        for example in schema.get("examples", ()):
            yield f"<pre>{escape(compact(example))}</pre>"
        break
    answer = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
    answered = _members(document, answer.get("schema", {}))
    yield f"<p>Answers {answered}." if answered else ""


def _members(document: dict[str, Any], schema: dict[str, Any]) -> str:
    """The names of an object's members, each with those of the object that it is."""
    if (reference := schema.get("$ref")) is not None:
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    names = []
    for name, member in schema.get("properties", {}).items():
        inner = _members(document, member)
        names.append(f"<code>{escape(name)}</code>{f' ({inner})' if inner else ''}")
    return ", ".join(names)


def _prose(text: str) -> str:
    """Paragraphs of a description, with what stands in backticks as code."""
    marked = re.sub(r"(`+)(.+?)\1", r"<code>\2</code>", escape(text.strip()))
    return "".join(f"<p>{paragraph}</p>" for paragraph in marked.split("\n\n"))
