"""The description of a system's HTTP interface: which requests there are, and what replies mean.

It is TOML; ``docs/reference/template-http.md`` describes it. It is checked as a whole when it is
set: a template that is broken, or that names what is not there, is refused with its line.
"""

import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import quote_plus, urlencode

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    model_validator,
)

from espf.handlers.desired import KeyKind
from espf.systems import templates
from espf.systems.replies import NotRead, Place, Said, expression, parse_xml, place
from espf.systems.templates import Template, TemplateFault

#: What the requests are called.
Call = Literal["read", "list", "create", "change", "delete"]

#: What a reply may mean.
Meaning = Literal["success", "absent", "exists", "accepted", "retry", "refused", "misconfigured"]

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

#: The secrets that templates may use.
SECRETS = ("a", "b", "c")

#: What the templates of fields know of a subscriber.
OF_SUBSCRIBER: Mapping[str, Collection[str] | None] = {
    "account": None,
    "barred": None,
    "bars": None,
    "card": ("imsi", "iccid"),
    "exceeded": None,
    "key": None,
    "package": None,
    "packages": None,
    "password": None,
    "products": None,
    "secret": SECRETS,
}

_CONTENT_TYPES = {
    "form": "application/x-www-form-urlencoded",
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "xml": "application/xml; charset=utf-8",
}

#: Headers that the requests have anyway.
_TAKEN = frozenset({"connection", "content-length", "expect", "host", "te", "transfer-encoding"})

#: The longest description, and how many fields, requests and rules there may be.
LONGEST = 128 * 1024
_MOST = 100


def _listed(value: object) -> object:
    """One of something, where several may stand."""
    return value if isinstance(value, list) else [value]


def _words(value: object) -> object:
    """Texts, numbers and truth values to compare with, each as text."""
    return [
        str(one).lower() if isinstance(one, bool) else str(one) if isinstance(one, int) else one
        for one in (value if isinstance(value, list) else [value])
    ]


def _place(value: object) -> Place:
    if not isinstance(value, str):
        raise ValueError("expected a place in a reply, such as json:/user/name")  # noqa: TRY004  (pydantic's)
    return place(value)


_Place = Annotated[Place, PlainValidator(_place)]

_Status = Annotated[str, StringConstraints(pattern=r"^[1-5]([0-9]{2}|xx)$")]

_FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


def _headers(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if name.lower() in _TAKEN or not name.isascii() or not name.replace("-", "").isalnum():
            raise ValueError(f"a request cannot have a header {name!r} of its own")
    return value


_Headers = Annotated[dict[str, str], AfterValidator(_headers)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Request(_Strict):
    """A request as it is described."""

    method: Method
    path: str
    query: dict[str, str] = {}
    headers: _Headers = {}
    json_: str | None = Field(default=None, alias="json")
    xml: str | None = None
    text: str | None = None
    form: dict[str, str] | None = None

    @model_validator(mode="after")
    def _has_one_body(self) -> Self:
        bodies = (self.json_, self.xml, self.text, self.form)
        given = [body for body in bodies if body is not None]
        if len(given) > 1:
            raise ValueError("a request has one body: json, xml, text or form")
        if given and self.method == "GET":
            raise ValueError("a GET has no body")
        if self.path and not self.path.startswith("/"):
            raise ValueError("a path begins with /, and stands behind TemplateHTTP.URL")
        if "?" in self.path or "#" in self.path:
            raise ValueError("what is asked for stands in query, not in path")
        return self


class _Read(_Request):
    method: Method = "GET"
    fields: dict[_FieldName, _Place] = Field(default={}, max_length=_MOST)


class _List(_Request):
    method: Method = "GET"
    keys: _Place


class _Create(_Request):
    method: Method = "POST"


class _Change(_Request):
    method: Method = "PUT"
    fields: tuple[str, ...] = ()


class _Delete(_Request):
    method: Method = "DELETE"


class Rule(_Strict):
    """What a reply means to which all of this applies."""

    on: Annotated[tuple[Call, ...], BeforeValidator(_listed)] = get_args(Call)
    status: Annotated[tuple[_Status, ...], BeforeValidator(_words)] = ("2xx",)
    at: _Place | None = None
    is_: Annotated[tuple[str, ...], BeforeValidator(_words)] = Field(default=(), alias="is")
    matches: Annotated[str, AfterValidator(expression)] | None = None
    missing: bool | None = None
    means: Meaning
    after: int | None = Field(default=None, ge=1, le=86400)

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if self.at is None and (self.is_ or self.missing is not None):
            raise ValueError("'is' and 'missing' need a place: at")
        if self.at is not None and not self.is_ and self.matches is None and self.missing is None:
            raise ValueError("at needs one of is, matches and missing")
        if self.after is not None and self.means not in {"retry", "accepted"}:
            raise ValueError("after goes with retry and accepted")
        return self

    def fits(self, call: Call, said: Said) -> bool:
        """Whether it applies to a reply. Of one that cannot be read, nothing is known."""
        status = str(said.reply.status)
        if call not in self.on or not {status, f"{status[0]}xx"} & set(self.status):
            return False
        if self.at is None:
            return self.matches is None or said.search(self.matches) is not None
        try:
            found = self.at.found(said)
        except NotRead:
            return False
        return self._fits(found, said)

    def _fits(self, found: list[str], said: Said) -> bool:
        """Whether it applies to what stands at its place."""
        if self.missing is not None and self.missing != (not found):
            return False
        if self.is_ and not set(self.is_) & set(found):
            return False
        return self.matches is None or any(
            said.search(self.matches, one) is not None for one in found
        )


class _Description(_Strict):
    """The whole file."""

    key: KeyKind = "id"
    cannot_read: bool = False
    reason: _Place | None = None
    headers: _Headers = {}
    fields: dict[_FieldName, str] = Field(min_length=1, max_length=_MOST)
    told_by: dict[str, str] = {}
    read: _Read | None = None
    list_: _List | None = Field(default=None, alias="list")
    create: _Create
    change: Annotated[tuple[_Change, ...], BeforeValidator(_listed)] = Field(
        default=(), max_length=_MOST
    )
    delete: _Delete
    rules: tuple[Rule, ...] = Field(default=(), max_length=_MOST)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.read is None) != self.cannot_read:
            raise ValueError("either there is [read], or cannot_read = true")
        if self.cannot_read and self.list_ is not None:
            raise ValueError("what cannot be read cannot be listed")
        places = self.read.fields if self.read else {}
        for name, by in self.told_by.items():
            if name not in self.fields or name in places:
                raise ValueError(f"told_by: {name} is no field that [read.fields] does not have")
            if by not in self.fields or by not in places:
                raise ValueError(f"told_by.{name}: there is no field {by} that is read")
        carried = {name for one in self.change for name in one.fields or self.fields}
        if unknown := carried - self.fields.keys():
            raise ValueError(f"change: there is no field {min(unknown)}")
        if self.change and (lost := self.fields.keys() - carried):
            raise ValueError(f"change: no request changes the field {min(lost)}")
        return self


@dataclass(frozen=True)
class Request:
    """A request with its values, as it is sent."""

    method: Method
    path: str
    headers: Mapping[str, str]
    body: bytes | None


class RequestTemplate:
    """A request without its values. ``fields`` are those that a change carries."""

    def __init__(
        self,
        call: Call,
        described: _Request,
        common_headers: Mapping[str, str],
        names: Mapping[str, Collection[str] | None],
        document: str,
    ) -> None:
        self.call = call
        self.method = described.method
        self.fields = described.fields if isinstance(described, _Change) else ()
        self.uses: frozenset[str] = frozenset()

        def template(source: str, where: str, kind: templates.Place) -> Template:
            made = _template(source, f"{call}.{where}", kind, names, document)
            self.uses |= made.uses
            return made

        def table(
            sources: Mapping[str, str], where: str, kind: templates.Place
        ) -> dict[str, Template]:
            return {
                name: template(source, f"{where}.{name}", kind) for name, source in sources.items()
            }

        self._path = template(described.path, "path", "path")
        self._query = table(described.query, "query", "text")
        headers = {name.title(): source for name, source in common_headers.items()}
        headers |= {name.title(): source for name, source in described.headers.items()}
        self._headers = table(headers, "headers", "header")
        self._kind: Literal["json", "xml", "text"] | None = None
        self._body: Template | None = None
        if described.json_ is not None:
            self._kind, self._body = "json", template(described.json_, "json", "json")
        elif described.xml is not None:
            self._kind, self._body = "xml", template(described.xml, "xml", "xml")
        elif described.text is not None:
            self._kind, self._body = "text", template(described.text, "text", "text")
        self._form = None if described.form is None else table(described.form, "form", "text")

    def render(self, values: Mapping[str, Any], secrets: list[str]) -> Request:
        """The request with its values; the forms in which it has secrets are added to them.

        Raises TemplateFault.
        """
        deadline = templates.a_while_from_now()

        def rendered(template: Template, where: str) -> str:
            try:
                return template.render(values, secrets, deadline)
            except TemplateFault as fault:
                raise TemplateFault(f"{self.call}.{where}: {fault}") from None

        def encoded(table: Mapping[str, Template], where: str) -> str:
            pairs = {name: rendered(one, f"{where}.{name}") for name, one in table.items()}
            for text in pairs.values():
                templates.hide(text, quote_plus(text), secrets)
            return urlencode(pairs)

        query = encoded(self._query, "query")
        path = rendered(self._path, "path") + (f"?{query}" if query else "")
        headers = {name: rendered(one, f"headers.{name}") for name, one in self._headers.items()}
        body: str | None = None
        kind: str | None = self._kind
        if self._body is not None and self._kind is not None:
            body = rendered(self._body, self._kind)
            _well_formed(self.call, self._kind, body)
        elif self._form is not None:
            body, kind = encoded(self._form, "form"), "form"
        if kind is not None:
            headers.setdefault("Content-Type", _CONTENT_TYPES[kind])
        content = None if body is None else body.encode("utf-8", "replace")
        return Request(self.method, path, headers, content)


class Interface:
    """A description, checked and ready to be used; nothing in it changes."""

    def __init__(self, document: str) -> None:
        described = _parsed(document)
        self.key: KeyKind = described.key
        self.can_read = described.read is not None
        self.rules = described.rules
        self.reason = described.reason
        self.fields = {
            name: _template(source, f"fields.{name}", "text", OF_SUBSCRIBER, document)
            for name, source in described.fields.items()
        }
        #: The fields whose values nobody may see.
        self.secret_fields = frozenset(
            name
            for name, template in self.fields.items()
            if not template.uses.isdisjoint({"password", "secret"})
        )
        self.places: Mapping[str, Place] = described.read.fields if described.read else {}
        self.keys = described.list_.keys if described.list_ else None
        #: The fields that are as they should be where another one is.
        self.told_by = described.told_by
        #: The fields that the system does not tell.
        self.untold = frozenset(self.fields) - frozenset(self.places) - frozenset(self.told_by)

        secret: Mapping[str, Collection[str] | None] = {"secret": SECRETS}
        about = {"key": None, **secret}
        wanted = {"wanted": tuple(self.fields)}
        held = {"held": tuple(self.places)} if self.can_read else {}

        def request(
            call: Call, one: _Request, names: Mapping[str, Collection[str] | None]
        ) -> RequestTemplate:
            return RequestTemplate(call, one, described.headers, names, document)

        self.read = request("read", described.read, about) if described.read else None
        after = {"after": None, **secret}
        self.list = request("list", described.list_, after) if described.list_ else None
        self.create = request("create", described.create, {**about, **wanted})
        changes = {**about, **wanted, **held, "changed": None}
        # Where there is none, the request that adds changes, too.
        self.changes = [request("change", one, changes) for one in described.change]
        self.delete = request("delete", described.delete, {**about, **held})


@lru_cache(maxsize=64)
def interface(document: str) -> Interface:
    """What a description says; remembered, for it is read whenever the settings are.

    Raises ValueError that says what is wrong.
    """
    return Interface(document)


def _parsed(document: str) -> _Description:
    if len(document) > LONGEST:
        raise ValueError(f"the description is longer than {LONGEST} characters")
    try:
        return _Description.model_validate(tomllib.loads(document))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"it is not TOML: {error}") from None
    except RecursionError:
        raise ValueError("it is not TOML: it is too deep") from None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        said = problem["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {said}" if where else said) from None


def _template(
    source: str,
    where: str,
    kind: templates.Place,
    names: Mapping[str, Collection[str] | None],
    document: str,
) -> Template:
    """A template of a description. Raises ValueError that names it, and the line."""
    try:
        return Template(source, kind, names)
    except TemplateFault as fault:
        if not fault.line:
            raise ValueError(f"{where}: {fault}") from None
        line = f"{where}, line {fault.line}"
        if document.count(source) == 1:
            line = f"line {document[: document.index(source)].count(chr(10)) + fault.line}: {where}"
        raise ValueError(f"{line}: {fault}") from None


def _well_formed(call: Call, kind: Literal["json", "xml", "text"], text: str) -> None:
    """Nothing is sent that the receiver could read in one way or another."""
    try:
        if kind == "json":
            json.loads(text)
        elif kind == "xml":
            parse_xml(text)
    except (NotRead, ValueError, RecursionError):
        raise TemplateFault(f"{call}.{kind}: what it makes is no {kind.upper()}") from None
