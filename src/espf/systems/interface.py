"""The description of a system's HTTP interface: which requests there are, and what replies mean.

It is TOML; ``docs/reference/template-http.md`` describes it. It is checked as a whole when it is
set: a template that is broken, or that names what is not there, is refused with its line.
"""

import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import quote_plus

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
from espf.systems.replies import NotRead, Place, Said, expression, parse_xml, place, search
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
}

_CONTENT_TYPES = {
    "form": "application/x-www-form-urlencoded",
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "xml": "application/xml; charset=utf-8",
}

#: Headers that the requests have anyway.
_TAKEN = frozenset({"connection", "content-length", "expect", "host", "te", "transfer-encoding"})

#: The longest description.
LONGEST = 128 * 1024


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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Request(_Strict):
    """A request as it is described."""

    method: Method
    path: str
    headers: dict[str, str] = {}
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
        if self.path and self.path[0] not in "/?":
            raise ValueError("a path begins with / or ?, and stands behind TemplateHTTP.URL")
        for name in self.headers:
            if name.lower() in _TAKEN or not name.isascii() or not name.replace("-", "").isalnum():
                raise ValueError(f"a request cannot have a header {name!r} of its own")
        return self


class _Read(_Request):
    method: Method = "GET"
    fields: dict[_FieldName, _Place] = {}


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
    status: Annotated[tuple[_Status, ...], BeforeValidator(_words)] = ()
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
        """Whether it applies to a reply. What cannot be read is not there."""
        status = str(said.reply.status)
        if call not in self.on:
            return False
        if self.status and not {status, f"{status[0]}xx"} & set(self.status):
            return False
        if self.at is None:
            return self.matches is None or search(self.matches, said.reply.text) is not None
        try:
            found = self.at.found(said)
        except NotRead:
            found = []
        if self.missing is not None and self.missing != (not found):
            return False
        if self.is_ and not set(self.is_) & set(found):
            return False
        return self.matches is None or any(search(self.matches, one) is not None for one in found)


class _Description(_Strict):
    """The whole file."""

    key: KeyKind = "id"
    cannot_read: bool = False
    reason: _Place | None = None
    fields: dict[_FieldName, str] = Field(min_length=1)
    read: _Read | None = None
    list_: _List | None = Field(default=None, alias="list")
    create: _Create
    change: Annotated[tuple[_Change, ...], BeforeValidator(_listed)] = ()
    delete: _Delete
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.read is None) != self.cannot_read:
            raise ValueError("either there is [read], or cannot_read = true")
        if self.cannot_read and self.list_ is not None:
            raise ValueError("what cannot be read cannot be listed")
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

        self._path = template(described.path, "path", "path")
        self._headers = {
            name: template(source, f"headers.{name}", "header")
            for name, source in described.headers.items()
        }
        self._kind: Literal["json", "xml", "text"] | None = None
        self._body: Template | None = None
        if described.json_ is not None:
            self._kind, self._body = "json", template(described.json_, "json", "json")
        elif described.xml is not None:
            self._kind, self._body = "xml", template(described.xml, "xml", "xml")
        elif described.text is not None:
            self._kind, self._body = "text", template(described.text, "text", "text")
        self._form = (
            None
            if described.form is None
            else {
                name: template(source, f"form.{name}", "text")
                for name, source in described.form.items()
            }
        )

    def render(self, values: Mapping[str, Any], secrets: list[str]) -> Request:
        """The request with its values; the forms in which it has secrets are added to them.

        Raises TemplateFault.
        """

        def rendered(template: Template, where: str) -> str:
            try:
                return template.render(values, secrets)
            except TemplateFault as fault:
                raise TemplateFault(f"{self.call}.{where}: {fault}") from None

        path = rendered(self._path, "path")
        headers = {
            name: rendered(template, f"headers.{name}") for name, template in self._headers.items()
        }
        body: bytes | None = None
        if self._body is not None and self._kind is not None:
            text = rendered(self._body, self._kind)
            _well_formed(self.call, self._kind, text)
            body = text.encode("utf-8", "replace")
        elif self._form is not None:
            pairs = {
                name: quote_plus(rendered(template, f"form.{name}"))
                for name, template in self._form.items()
            }
            secrets.extend({quote_plus(secret) for secret in secrets} - set(secrets))
            body = "&".join(f"{quote_plus(name)}={text}" for name, text in pairs.items()).encode()
        kind = self._kind or ("form" if self._form is not None else None)
        if kind is not None and "content-type" not in {name.lower() for name in headers}:
            headers["Content-Type"] = _CONTENT_TYPES[kind]
        return Request(self.method, path, headers, body)


class Interface:
    """A description, checked and ready to be used. Raises ValueError that says what is wrong."""

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
            name for name, template in self.fields.items() if "password" in template.uses
        )
        self.places: Mapping[str, Place] = described.read.fields if described.read else {}
        self.keys = described.list_.keys if described.list_ else None
        #: The fields that the system does not tell.
        self.untold = frozenset(self.fields) - frozenset(self.places)

        secret: Mapping[str, Collection[str] | None] = {"secret": SECRETS}
        about = {"key": None, **secret}
        wanted = {"wanted": tuple(self.fields)}
        held = {"held": tuple(self.places)} if self.can_read else {}

        def request(
            call: Call, one: _Request, names: Mapping[str, Collection[str] | None]
        ) -> RequestTemplate:
            return RequestTemplate(call, one, names, document)

        self.read = request("read", described.read, about) if described.read else None
        after = {"after": None, **secret}
        self.list = request("list", described.list_, after) if described.list_ else None
        self.create = request("create", described.create, {**about, **wanted})
        changes = {**about, **wanted, **held, "changed": None}
        # Where there is none, the request that adds changes, too.
        self.changes = [request("change", one, changes) for one in described.change]
        self.delete = request("delete", described.delete, {**about, **held})


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
