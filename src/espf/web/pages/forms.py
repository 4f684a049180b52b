"""Forms: fields drawn from the models that the command line and the API read, with their help."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, SecretStr

from espf.errors import InvalidRequest
from espf.handlers.registry import COMMON, Option
from espf.web.pages.visit import Form

#: What stands for a secret that is set: whoever does not touch it keeps it.
KEPT = "••••••••"


@dataclass(frozen=True)
class Field:
    """One field. ``kind`` is text, number, date, switch, select, secret, area, file or pick.

    ``choices`` are pairs of value and title; ``error`` stands beside it. ``code`` is what the field
    is called on the command line, where that is not its title. ``source``: the title of the dialog
    in which something is picked, and where it gets what there is.

    Of an option: its ``group`` of fields, the ``unit`` of a number, the ``default`` that holds
    while it is not set (None: nothing is known of one), and the option and value without which it
    does nothing.
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
    group: str = ""
    unit: str = ""
    default: str | None = None
    is_set: bool = True
    only_with: tuple[str, str] | None = None

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


def of_options(options: Sequence[Option], stored: Mapping[str, object]) -> list[Field]:
    """Fields for the options of a handler; ``stored`` has those that were set, secrets too.

    What is not set stays empty, with its default beside it, so that sending the form sets nothing.
    """
    return [_of_option(option, stored.get(option.alias)) for option in options]


def by_group(fields: Sequence[Field]) -> list[tuple[str, list[Field]]]:
    """Fields in their groups: first what must be filled in, then what others depend on."""
    chooses = {field.only_with[0] for field in fields if field.only_with}
    groups: dict[str, list[Field]] = {}
    for field in fields:
        groups.setdefault(field.group, []).append(field)
    for some in groups.values():
        some.sort(key=lambda one: (not one.required, one.name not in chooses))
    return sorted(groups.items(), key=lambda group: (not group[1][0].required, group[0] == COMMON))


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

    A secret that was not typed anew stays, too, and a switch that stands on its default.
    """
    changed: dict[str, str | bool | None] = {}
    for field in fields:
        if field.name not in form:
            continue
        value = form.raw(field.name) if field.kind == "secret" else form[field.name]
        if field.kind == "secret" and value in {"", KEPT}:
            continue
        if field.kind == "switch" and not field.is_set and value == field.default:
            continue
        changed[field.name] = value == "on" if field.kind == "switch" else value or None
    return changed


def _of_option(option: Option, stored: object) -> Field:
    kind = "text"
    choices: tuple[tuple[str, str], ...] = ()
    is_set = stored is not None
    value = str(stored) if is_set else ""
    match option.type:
        case "on/off":
            kind = "switch"
            value = value or option.default or ""
        case "number":
            kind = "number"
        case "lines":
            kind = "area"
        case several if " | " in several:
            kind = "select"
            choices = tuple((word, word) for word in several.split(" | "))
            if option.default is not None:
                choices = (("", f"{option.default} (default)"), *choices)
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
        placeholder=KEPT if option.secret and is_set else option.default or "",
        group=option.group,
        unit=option.unit,
        default=option.default,
        is_set=is_set,
        only_with=option.only_with,
    )


def _without(said: str, name: str) -> str:
    """An error without the name of the field that it stands beside."""
    return said.removeprefix(f"{name}: ")
