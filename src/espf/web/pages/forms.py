"""Forms: fields drawn from the models that the command line and the API read, with their help."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, SecretStr

from espf.errors import InvalidRequest
from espf.handlers.registry import Option
from espf.web.pages.visit import Form

#: What stands for a secret that is set: whoever does not touch it keeps it.
KEPT = "••••••••"


@dataclass(frozen=True)
class Field:
    """One field. ``kind`` is text, number, date, switch, select, secret, area, file or pick.

    ``choices`` are pairs of value and title; ``error`` stands beside it. ``code`` is what the field
    is called on the command line, where that is not its title. ``source``: the title of the dialog
    in which something is picked, and where it gets what there is.
    """

    name: str
    title: str
    value: str = ""
    kind: str = "text"
    help: str = ""
    required: bool = False
    choices: Sequence[tuple[str, str]] = ()
    error: str | None = None
    placeholder: str = ""
    code: str = ""
    source: tuple[str, str] = ("", "")

    @property
    def id(self) -> str:
        """A name for labels."""
        return f"field-{self.name.replace('.', '-')}"

    @property
    def is_on(self) -> bool:
        """Whether a switch is on."""
        return self.value.lower() in {"on", "true", "1", "yes"}


def filled(fields: Sequence[Field], form: Form, error: InvalidRequest | None) -> list[Field]:
    """The fields as somebody sent them, with what is wrong beside the one at fault.

    Secrets are not sent back.
    """
    field = error.field if error else None
    said = str(error) if error else None
    return [
        replace(
            one,
            value=one.value if one.kind == "secret" else form.get(one.name, one.value),
            error=_without(said, one.name) if said and field == one.name else None,
        )
        for one in fields
    ]


def general_error(fields: Collection[Field], error: InvalidRequest | None) -> str | None:
    """What is wrong, where no field is to blame for it."""
    if error is None or error.field in {field.name for field in fields}:
        return None
    return str(error)


def of_options(options: Sequence[Option], shown: Mapping[str, str]) -> list[Field]:
    """Fields for the options of a handler type; ``shown`` has the values, secrets as dots."""
    return [_of_option(option, shown.get(option.alias, "")) for option in options]


def of_model(kind: type[BaseModel], shown: Mapping[str, str], prefix: str = "") -> list[Field]:
    """Fields for a model: names are aliases after ``prefix``, values those in ``shown``."""
    fields = []
    for name, info in kind.model_fields.items():
        alias = info.alias or name
        field_kind = "text"
        if info.annotation is bool:
            field_kind = "switch"
        elif info.annotation is SecretStr:
            field_kind = "secret"
        value = shown.get(prefix + alias, "")
        is_secret = field_kind == "secret"
        example = str(info.examples[0]) if info.examples else ""
        fields.append(
            Field(
                name=prefix + alias,
                title=info.title or alias,
                value="" if is_secret else value,
                kind=field_kind,
                help=info.description or "",
                placeholder=KEPT if is_secret and value else example,
                code=alias if info.title else "",
            )
        )
    return fields


def values_of(fields: Sequence[Field], form: Form) -> dict[str, str | bool | None]:
    """What a form says about fields: None goes back to the default, what is not there stays.

    A secret that was not typed anew stays, too.
    """
    changed: dict[str, str | bool | None] = {}
    for field in fields:
        if field.name not in form:
            continue
        value = form.raw(field.name) if field.kind == "secret" else form[field.name]
        if field.kind == "secret" and value in {"", KEPT}:
            continue
        changed[field.name] = value == "on" if field.kind == "switch" else value or None
    return changed


def _of_option(option: Option, value: str) -> Field:
    kind = "text"
    choices: tuple[tuple[str, str], ...] = ()
    match option.type:
        case "on/off":
            kind = "switch"
        case "number":
            kind = "number"
        case several if " | " in several:
            kind = "select"
            choices = tuple((word, word) for word in several.split(" | "))
    if option.secret:
        kind = "secret"
    return Field(
        name=option.alias,
        title=option.alias,
        value="" if option.secret else value,
        kind=kind,
        help=option.description,
        required=option.default is None and not option.secret,
        choices=choices,
        placeholder=KEPT if option.secret and value else "",
    )


def _without(said: str, name: str) -> str:
    """An error without the name of the field that it stands beside."""
    return said.removeprefix(f"{name}: ")
