"""Which handler types there are, and what their options are.

Handler types register as entry points of the group ``espf.handlers``, the built-in ones in the
same way as those of other packages. An option has one name, its alias: the one that
administrators write, that is stored, and by which it is known whether it is secret.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType, NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from espf.catalogue import fits_any
from espf.errors import InvalidRequest, NotFound, SettingsError
from espf.handlers.base import Handler, HandlerSettings

GROUP = "espf.handlers"

#: The group of the options that every handler has.
COMMON = "Order and retries"

M = TypeVar("M", bound=BaseModel)


class Incomplete(InvalidRequest):
    """What is set is right, but something mandatory is not set yet."""


@dataclass(frozen=True)
class Option:
    """One option of a handler type, as forms, the command line and the documents show it.

    ``type`` is for readers: ``number``, ``on/off``, ``text``, ``lines`` of text, ``list``, or the
    choices. ``default``
    is None where the option is mandatory. ``group`` is the part of a form that it belongs to;
    ``unit`` is what a number counts, empty where its description says so; ``only_with`` the option
    and its value without which this one does nothing.
    """

    alias: str
    type: str
    default: str | None
    description: str
    secret: bool
    group: str
    unit: str
    only_with: tuple[str, str] | None


def handler_types() -> Mapping[str, type[Handler]]:
    """The handler types that can be used, by name, sorted."""
    return _registered()[0]


def handler_type(name: str) -> type[Handler]:
    """The handler type of this name.

    Raises NotFound, naming the known ones; SettingsError when its package is broken.
    """
    types, faults = _registered()
    if name in faults:
        raise SettingsError(f"the handler type {name} cannot be used: {faults[name]}")
    if name not in types:
        raise NotFound(f"there is no handler type {name!r} (known: {', '.join(types)})")
    return types[name]


def validate(name: str, options: Mapping[str, object]) -> HandlerSettings:
    """Check the options of a handler of this type.

    Raises InvalidRequest that names each wrong one, NotFound when there is no such type.
    """
    return read_settings(handler_type(name).Settings, options)


def read_settings(settings_class: type[M], options: Mapping[str, object]) -> M:
    """Make settings of options by alias. Raises InvalidRequest that names each wrong one."""
    fields = _fields(settings_class)
    # Python's names would do for pydantic, but only an alias tells whether an option is secret.
    if unknown := [alias for alias in options if alias not in fields]:
        raise InvalidRequest(
            "; ".join(f"there is no option {alias}{_hint(alias, fields)}" for alias in unknown),
            unknown[0],
        )
    try:
        return settings_class.model_validate(dict(options))
    except ValidationError as error:
        # The input is left out: it may be a secret.
        problems = [
            (_alias(settings_class, problem["loc"]), _said(problem["type"], problem["msg"]))
            for problem in error.errors(include_url=False, include_input=False)
        ]
    wrong = [problem for problem in problems if problem[0] in options]
    text = "; ".join(f"{alias}: {said}" if alias else said for alias, said in wrong or problems)
    raise (InvalidRequest if wrong else Incomplete)(text, (wrong or problems)[0][0] or None)


def inherited(
    name: str, options: Mapping[str, object], installation: Mapping[str, object]
) -> dict[str, object]:
    """Those options of the whole installation that hold for a handler of this type.

    They do where neither its own ``options`` nor its type says otherwise. Whoever has RetryDelays
    of its own has the number of attempts that goes with them.
    """
    if name not in handler_types():
        return {}
    own = _own_defaults(name).union(options)
    if "RetryDelays" in own:
        own |= {"MaxAttempts"}
    return {alias: value for alias, value in installation.items() if alias not in own}


@cache
def _own_defaults(name: str) -> frozenset[str]:
    """The options that every handler has, and of which this type has a default of its own."""
    common = {field.alias: field.default for field in HandlerSettings.model_fields.values()}
    return frozenset(
        field.alias
        for field in handler_type(name).Settings.model_fields.values()
        if field.alias and field.default != common.get(field.alias, field.default)
    )


def what_is_missing(name: str, options: Mapping[str, object]) -> str | None:
    """Check options that may still be incomplete; says what is missing, None: nothing.

    Raises InvalidRequest when one that is there is wrong.
    """
    try:
        validate(name, options)
    except Incomplete as error:
        return str(error)
    return None


def options(name: str, inherited: Mapping[str, object] = MappingProxyType({})) -> list[Option]:
    """The options of a handler type, its own after those that every handler has.

    ``inherited`` are values that hold in place of its own defaults.
    """
    settings_class = handler_type(name).Settings
    fields = _fields(settings_class)
    values: dict[str, Any] = dict(inherited)
    defaults = settings_class.model_construct(**values).model_dump(
        by_alias=True,
        include={
            name for name, field in settings_class.model_fields.items() if not field.is_required()
        },
    )
    common = {field.alias for field in HandlerSettings.model_fields.values()}
    return [
        Option(
            alias=alias,
            type=_type(field),
            default=None if field.is_required() else _text(defaults[alias]),
            description=field.description or "",
            secret=_is_secret(field),
            group=_told(field, "group") or (COMMON if alias in common else name),
            unit=_told(field, "unit"),
            only_with=_only_with(field),
        )
        for alias, field in fields.items()
    ]


def secret_options(name: str) -> frozenset[str]:
    """The options of a handler type that are sealed in the database and shown as dots."""
    fields = _fields(handler_type(name).Settings)
    return frozenset(alias for alias, field in fields.items() if _is_secret(field))


def supported(name: str, event_types: Iterable[str]) -> list[str]:
    """Those of the event types that handlers of this type can handle, in the order given."""
    patterns = handler_type(name).supports
    return [event_type for event_type in event_types if fits_any(event_type, patterns)]


@cache
def _registered() -> tuple[Mapping[str, type[Handler]], Mapping[str, str]]:
    """The usable types, and what is wrong with the others."""
    types: dict[str, type[Handler]] = {}
    faults: dict[str, str] = {}
    seen: dict[str, str] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        if seen.setdefault(entry.name, entry.value) != entry.value:
            faults[entry.name] = f"both {seen[entry.name]} and {entry.value} have this name"
            types.pop(entry.name, None)
            continue
        loaded = _load(entry)
        if isinstance(loaded, str):
            faults[entry.name] = loaded
        else:
            types[entry.name] = loaded
    return MappingProxyType(types), MappingProxyType(faults)


def _load(entry: EntryPoint) -> type[Handler] | str:
    """The handler type of an entry point, or why there is none."""
    try:
        loaded = entry.load()
    except Exception as error:  # noqa: BLE001  (another package's import may raise anything)
        return f"{entry.value} fails to import: {type(error).__name__}: {error}"
    if not (isinstance(loaded, type) and issubclass(loaded, Handler)):
        return f"{entry.value} is not a subclass of espf.Handler"
    return loaded


def _fields(settings_class: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in settings_class.model_fields.items()}


def _alias(settings_class: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """The option at which a problem was found; empty when it is about several."""
    if not place:
        return ""
    # A wrong default is found under the field's name, a wrong value under its alias.
    field = settings_class.model_fields.get(str(place[0]))
    return (field.alias if field else None) or str(place[0])


def _hint(alias: str, fields: Iterable[str]) -> str:
    by_lower = {known.lower(): known for known in fields}
    wanted = alias.lower()
    ends = [known for lower, known in by_lower.items() if lower.endswith(f".{wanted}")]
    close = [by_lower[lower] for lower in get_close_matches(wanted, by_lower, n=1)]
    nearest = [*([by_lower[wanted]] if wanted in by_lower else []), *ends, *close]
    if nearest:
        return f"; did you mean {nearest[0]}?"
    return f" (known: {', '.join(sorted(fields))})"


def _said(kind: str, message: str) -> str:
    if kind == "missing":
        return "is mandatory"
    text = message.removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _parts(field: FieldInfo) -> set[Any]:
    """A field's type, taken apart where it is a union."""
    annotation = field.annotation
    members = get_args(annotation) if get_origin(annotation) is not Literal else ()
    return {annotation, *members} - {NoneType}


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in _parts(field)


def _told(field: FieldInfo, what: str) -> str:
    """What the settings class says of a field for forms, in ``json_schema_extra``."""
    extra = field.json_schema_extra
    return str(extra.get(what, "")) if isinstance(extra, dict) else ""


def _only_with(field: FieldInfo) -> tuple[str, str] | None:
    other, is_there, value = _told(field, "only_with").partition("=")
    return (other, value) if is_there else None


def _type(field: FieldInfo) -> str:
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return " | ".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) in {tuple, list}:
        return "list"
    parts = _parts(field)
    if bool in parts:
        return "on/off"
    if parts & {int, float}:
        return "number"
    return "lines" if _told(field, "lines") else "text"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or isinstance(value, SecretStr):
        return ""
    return str(value)
