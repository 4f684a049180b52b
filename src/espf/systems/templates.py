"""Templates for requests: the part of Jinja2 that always ends, and writes safely.

A template has values, conditions, one level of loops over what there is, and the filters below: no
call, no assignment, no arithmetic. So its work is bounded by its length and that of its values, and
each filter looks at the clock. A value is written as the place wants it, quoted in JSON, escaped
in XML and in a URL, unless it is marked ``raw``.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from html import escape
from typing import Any, Literal
from urllib.parse import quote

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from jinja2.filters import do_default
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

#: Where a template's text goes, which says how values are written there.
Place = Literal["text", "header", "path", "json", "xml"]

#: How long a template, what it comes to, and a value in it may be.
MOST_CHARACTERS = 64 * 1024

#: How long those may take together that are rendered for one purpose.
MOST_SECONDS = 0.5

#: What a template may be made of.
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.List,
    nodes.Tuple, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.Compare,
    nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.CondExpr, nodes.Concat,
    nodes.If, nodes.For,
)  # fmt: skip

_WORDS = {
    nodes.Call: "a call",
    nodes.Assign: "set",
    nodes.AssignBlock: "set",
    nodes.Mul: "'*'",
    nodes.Add: "'+' (texts are joined by '~')",
    nodes.Mod: "'%'",
}


class TemplateFault(Exception):
    """A template is wrong, or gives nothing that can be sent. ``line`` 0: of no line."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class Written(str):
    """A text that stands as it is, wherever it stands."""

    __slots__ = ()


@dataclass
class _Rendering:
    """What holds while a template is rendered; ``secrets`` may grow."""

    deadline: float = float("inf")
    secrets: list[str] = field(default_factory=list)

    def tick(self) -> None:
        if time.monotonic() > self.deadline:
            raise TemplateFault(f"it takes longer than {MOST_SECONDS:g} s")


def hide(before: str, after: str, secrets: list[str]) -> None:
    """A secret is one in each form in which it is written."""
    is_new = after != before and after not in secrets
    if is_new and any(secret and secret in before for secret in secrets):
        secrets.append(after)


_now: ContextVar[_Rendering] = ContextVar("_now")


class _Missing(StrictUndefined):
    """What has no value; to use it is an error."""

    @property
    def _undefined_message(self) -> str:
        return f"there is no {self._undefined_name}"


class Template:
    """One template, checked.

    ``names`` are the variables that it may use, each with the members that it has; None: any.
    Raises TemplateFault.
    """

    def __init__(
        self, source: str, place: Place, names: Mapping[str, Collection[str] | None]
    ) -> None:
        environment = _ENVIRONMENTS[place]
        if len(source) > MOST_CHARACTERS:
            raise TemplateFault(f"it is longer than {MOST_CHARACTERS} characters")
        _rendering = _now.set(_Rendering())
        try:
            tree = environment.parse(source)
            _check(tree, names)
            self.uses = frozenset(find_undeclared_variables(tree))
            self._template = environment.from_string(tree)
        except TemplateSyntaxError as error:
            raise TemplateFault(error.message or "it is no template", error.lineno) from None
        except RecursionError:
            raise TemplateFault("it is too deep") from None
        finally:
            _now.reset(_rendering)

    def render(
        self, values: Mapping[str, Any], secrets: list[str], deadline: float | None = None
    ) -> str:
        """The text. The forms in which the secrets stand in it are added to them.

        ``deadline`` is one of ``a_while_from_now``, for several of them. Raises TemplateFault when
        a value is missing, does not fit or is too long, or when it takes too long.
        """
        rendering = _Rendering(deadline or a_while_from_now(), secrets)
        token = _now.set(rendering)
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(values):
                rendering.tick()
                pieces.append(piece)
                size += len(piece)
                _fits(size)
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise TemplateFault(str(error)) from None
        finally:
            _now.reset(token)
        return "".join(pieces)


def a_while_from_now() -> float:
    """When templates that are rendered now must be done."""
    return time.monotonic() + MOST_SECONDS


def _check(tree: nodes.Template, names: Mapping[str, Collection[str] | None]) -> None:
    """Refuse what might not end, and what can never have a value."""
    for node in _all(tree):
        if not isinstance(node, _ALLOWED):
            word = _WORDS.get(type(node), type(node).__name__.lower())
            raise TemplateFault(f"{word} is not part of the language of templates", node.lineno)
        if isinstance(node, nodes.For) and (node.recursive or _has_loop(node)):
            said = "a loop in a loop, or again in itself, is not part of the language of templates"
            raise TemplateFault(said, node.lineno)
        _check_member(node, names)
    unknown = find_undeclared_variables(tree) - names.keys()
    for node in tree.find_all(nodes.Name):
        if node.name in unknown:
            known = ", ".join(names)
            raise TemplateFault(f"there is no {node.name} here (there is: {known})", node.lineno)


def _all(tree: nodes.Node) -> Iterable[nodes.Node]:
    yield tree
    for child in tree.iter_child_nodes():
        yield from _all(child)


def _has_loop(node: nodes.For) -> bool:
    return node.find(nodes.For) is not None


def _check_member(node: nodes.Node, names: Mapping[str, Collection[str] | None]) -> None:
    """Whether a variable has the member that is named of it."""
    if isinstance(node, nodes.Getattr):
        member: object = node.attr
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        member = node.arg.value
    else:
        return
    of = node.node
    if not isinstance(of, nodes.Name):
        return
    members = names.get(of.name)
    if members is not None and member not in members:
        known = ", ".join(sorted(members)) or "nothing"
        raise TemplateFault(f"there is no {of.name}.{member} (there is: {known})", node.lineno)


def _fits(size: int) -> None:
    if size > MOST_CHARACTERS:
        raise TemplateFault(f"it comes to more than {MOST_CHARACTERS} characters")


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that takes its time, makes nothing endless, and hides what it makes of secrets."""

    @wraps(function)
    def run(value: Any, *arguments: Any) -> Any:
        rendering = _now.get()
        rendering.tick()
        made = function(value, *arguments)
        if isinstance(made, str):
            _fits(len(made))
            hide(str(value), made, rendering.secrets)
        return made

    return run


def _text(value: object) -> str:
    """A value as text. Raises TemplateFault where it has none."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Undefined):
        str(value)  # says what is missing
    raise TemplateFault("a value is missing" if value is None else "a list is no text; join it")


def _texts(values: object) -> list[str]:
    if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
        raise TemplateFault("a list is expected")
    return [_text(value) for value in values]


def _json(value: object) -> Written:
    if isinstance(value, Undefined):
        str(value)
    return Written(json.dumps(value, ensure_ascii=False, allow_nan=False))


def _xml(value: object) -> Written:
    text = _text(value)
    if any(ord(character) < 32 and character not in "\t\n\r" for character in text):
        raise TemplateFault("a control character cannot stand in XML")
    return Written(escape(text, quote=True))


def _url(value: object) -> Written:
    return Written(quote(_text(value), safe=""))


def _segment(value: object) -> Written:
    """A value in a path. Without one, or by a relative one, a path would mean something else."""
    text = _text(value)
    if text in {"", ".", ".."}:
        raise TemplateFault(f"{text!r} cannot stand in a path")
    return _url(text)


def _header(value: object) -> str:
    text = _text(value)
    if not text.isprintable():
        raise TemplateFault("a line break cannot stand in a header")
    return text


def _join(values: object, by: str = "") -> str:
    texts = _texts(values)
    _fits(sum(map(len, texts)) + len(texts) * len(by))
    return by.join(texts)


def _split(value: object, by: str) -> list[str]:
    return [part for part in _text(value).split(by) if part]


def _replace(value: object, old: str, new: str) -> str:
    text = _text(value)
    _fits(len(text) + text.count(old) * len(new))
    return text.replace(old, new)


def _first(values: object) -> str:
    return (_texts(values) or [""])[0]


def _last(values: object) -> str:
    return (_texts(values) or [""])[-1]


def _of_text(function: Callable[[str], str]) -> Callable[[object], str]:
    return lambda value: function(_text(value))


def _digest(name: str) -> Callable[[object], str]:
    return lambda value: hashlib.new(name, _text(value).encode()).hexdigest()


def _hmac(value: object, key: object) -> str:
    return hmac.new(_text(key).encode(), _text(value).encode(), "sha256").hexdigest()


def _raw(value: object) -> Written:
    return Written(_text(value))


#: What can be done with a value.
FILTERS: Mapping[str, Callable[..., Any]] = {
    "base64": _of_text(lambda text: base64.b64encode(text.encode()).decode("ascii")),
    "first": _first,
    "hmac": _hmac,
    "join": _join,
    "json": _json,
    "last": _last,
    "length": len,
    "lower": _of_text(str.lower),
    "md5": _digest("md5"),
    "raw": _raw,
    "replace": _replace,
    "sha256": _digest("sha256"),
    "split": _split,
    "sort": lambda values: sorted(_texts(values)),
    "trim": _of_text(str.strip),
    "upper": _of_text(str.upper),
    "url": _url,
    "xml": _xml,
}

_WRITERS: Mapping[Place, Callable[[object], str]] = {
    "text": _text,
    "header": _header,
    "path": _segment,
    "json": _json,
    "xml": _xml,
}


def _environment(write: Callable[[object], str]) -> ImmutableSandboxedEnvironment:
    def written(value: object) -> str:
        rendering = _now.get()
        rendering.tick()
        if isinstance(value, Written):
            return value
        text = write(value)
        if isinstance(value, str):
            hide(value, text, rendering.secrets)
        return text

    made = ImmutableSandboxedEnvironment(
        undefined=_Missing, finalize=written, optimized=False, keep_trailing_newline=True
    )
    made.globals.clear()
    made.filters = {"default": do_default} | {
        name: _bounded(function) for name, function in FILTERS.items()
    }
    made.tests = {name: made.tests[name] for name in ("defined", "undefined", "none")}
    return made


_ENVIRONMENTS = {place: _environment(write) for place, write in _WRITERS.items()}
