"""Where something stands in a reply: in its JSON, its XML, its text or its headers. Pure.

A *place* is written as ``json:/items/0/id`` (a JSON pointer), ``xml:answer/user/@id`` (names of
elements from the root, then an attribute), ``regex:ID=([0-9]+)`` or ``header:Location``. In JSON
``*`` stands for every member, and in XML for an element of any name. All of it is bounded: the
reply is, a regular expression has a time-out, and XML has neither DTD nor entities.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal
from xml.parsers import expat

import regex  # type: ignore[import-untyped]  # it has no types

from espf.handlers.base import Reply
from espf.model import compact

#: How long regular expressions may look into one reply, together.
_SECONDS = 0.2

#: How deep XML may be.
_DEEPEST = 100


class NotRead(Exception):
    """A reply cannot be read in the way that a place wants."""


@dataclass
class Element:
    """An element of XML; names are without their prefix or namespace."""

    name: str
    attributes: Mapping[str, str]
    children: "list[Element]" = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class Said:
    """A reply, read when somebody looks into it."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self._seconds = _SECONDS

    @cached_property
    def json(self) -> Any:
        """Its JSON. Raises NotRead."""
        try:
            return json.loads(self.reply.text, parse_constant=_no_number)
        except (ValueError, RecursionError):
            raise NotRead("the reply is not JSON") from None

    @cached_property
    def xml(self) -> Element:
        """The root of its XML. Raises NotRead."""
        return parse_xml(self.reply.text)

    def search(self, words: str, text: str | None = None) -> str | None:
        """The first group of a regular expression, or all that it fits; None: it fits nowhere.

        It looks into the body, or into a ``text`` of the reply. Raises NotRead when it looks for
        too long.
        """
        started = time.monotonic()
        looked_at = self.reply.text if text is None else text
        try:
            found = regex.search(words, looked_at, timeout=max(self._seconds, 0.001))
        except TimeoutError:
            raise NotRead(f"the regular expression {words!r} takes too long") from None
        finally:
            self._seconds -= time.monotonic() - started
        if found is None:
            return None
        return str(found[1] or "") if found.re.groups else str(found[0])


def parse_xml(text: str) -> Element:
    """The root element. Raises NotRead where it is not well-formed, or declares a document type."""
    top = Element("", {})
    within = [top]

    def start(name: str, attributes: Mapping[str, str]) -> None:
        if len(within) > _DEEPEST:
            raise NotRead(f"the XML is more than {_DEEPEST} elements deep")
        named = {_local(key): value for key, value in attributes.items()}
        element = Element(_local(name), named)
        within[-1].children.append(element)
        within.append(element)

    def end(_name: str) -> None:
        within.pop()

    def characters(data: str) -> None:
        within[-1].texts.append(data)

    def refuse(*_declared: object) -> None:
        raise NotRead("the XML has a document type, which may hide anything")

    parser = expat.ParserCreate(encoding="utf-8", namespace_separator="}")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text.encode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        raise NotRead(f"the reply is not XML: {error}") from None
    return top.children[0]


@dataclass(frozen=True)
class Place:
    """Where something stands. ``steps`` are those of a pointer or path, else it is ``words``."""

    kind: Literal["json", "xml", "regex", "header"]
    words: str
    steps: tuple[str, ...] = ()

    def found(self, said: Said) -> list[str]:
        """The texts that stand there; none, where there is nothing or a null.

        Raises NotRead where the reply is of another kind.
        """
        match self.kind:
            case "json":
                values = _members(said.json, self.steps)
                return [_as_text(value) for value in values if value is not None]
            case "xml":
                return list(_elements(said.xml, self.steps))
            case "regex":
                text = said.search(self.words)
                return [] if text is None else [text]
            case "header":
                text = said.reply.headers.get(self.words)
                return [] if text is None else [text]

    def text(self, said: Said) -> str:
        """What stands there as one text: of several, sorted, with commas between them."""
        return ",".join(sorted(self.found(said)))

    def __str__(self) -> str:
        return f"{self.kind}:{self.words}"


def place(words: str) -> Place:
    """Read a place. Raises ValueError."""
    kind, colon, rest = words.partition(":")
    match kind:
        case "json" if colon and (not rest or rest.startswith("/")):
            steps = [step.replace("~1", "/").replace("~0", "~") for step in rest.split("/")[1:]]
            return Place(kind, rest, tuple(steps))
        case "xml" if rest:
            steps = rest.strip("/").split("/")
            if "" in steps or any(step.startswith("@") for step in steps[:-1]):
                raise ValueError(f"{words!r} is no path, such as xml:answer/user/@id")
            return Place(kind, rest, tuple(steps))
        case "regex" if rest:
            expression(rest)
            return Place(kind, rest)
        case "header" if rest:
            return Place(kind, rest.lower())
    raise ValueError(
        f"{words!r} is no place in a reply, such as json:/user/name, xml:answer/user/@name, "
        "regex:NAME=(.+) or header:Location"
    )


def expression(words: str) -> str:
    """Check a regular expression. Raises ValueError."""
    try:
        regex.compile(words)
    except regex.error as error:
        raise ValueError(f"{words!r} is no regular expression: {error}") from None
    return words


def _members(value: Any, steps: Sequence[str]) -> Iterator[Any]:
    if not steps:
        yield value
        return
    step, rest = steps[0], steps[1:]
    if step == "*" and isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            yield from _members(member, rest)
    elif isinstance(value, dict) and step in value:
        yield from _members(value[step], rest)
    elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
        yield from _members(value[int(step)], rest)


def _elements(root: Element, steps: Sequence[str]) -> Iterator[str]:
    found = [root] if steps[0] in {root.name, "*"} else []
    for step in steps[1:]:
        if step.startswith("@"):
            name = step[1:]
            yield from (each.attributes[name] for each in found if name in each.attributes)
            return
        found = [child for each in found for child in each.children if step in {child.name, "*"}]
    yield from ("".join(each.texts).strip() for each in found)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return compact(value)


def _local(name: str) -> str:
    return name.rpartition("}")[2]
