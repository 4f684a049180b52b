"""Who hears what: event types, event handlers with their settings, and subscriptions."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from espf import configuration, statuses
from espf.catalogue import (
    CUSTOM_PREFIX,
    aliases,
    canonical,
    catalogue,
    facts,
    fits_any,
    is_custom,
    is_well_formed,
)
from espf.configuration import Provisioning
from espf.crypto import Sealer
from espf.db.tables import event_handlers, event_subscriptions, event_types, handler_leases
from espf.errors import Conflict, InvalidRequest, NotFound, SettingsError
from espf.handlers import registry
from espf.handlers.base import SERVICE_GROUP, Handler
from espf.handlers.desired import DesiredStateHandler
from espf.handlers.networks import ANYWHERE, Networks
from espf.model import SHARDS

#: The numbers of custom event types count up from here.
FIRST_CUSTOM_TYPE = 10_001

_SEALED = "sealed"


@dataclass(frozen=True)
class EventHandler:
    """A configured, named instance of a handler type, in one environment.

    ``stored`` holds the options that were set, as JSON; ``version`` grows with each change.
    ``spellings`` are the types that it was subscribed to by another name than the catalogue's.
    ``installation`` are options that the active configuration has for all handlers, ``networks``
    those that it lets the handlers of the environment call.
    """

    i_event_handler: int
    i_env: int
    name: str
    type: str
    enabled: bool
    stored: str
    version: int
    paused: bool = False
    spellings: Mapping[str, str] = field(default_factory=dict)
    installation: Mapping[str, object] = field(default_factory=dict)
    networks: Networks = ANYWHERE

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """The options that were set, secrets still sealed.

        Raises SettingsError when they are damaged. They are read late, so that one damaged
        handler does not stand in the way of the others.
        """
        try:
            options = json.loads(self.stored)
        except ValueError:
            options = None
        if not isinstance(options, dict):
            raise SettingsError(
                f"handler {self.name}: its stored settings are no JSON object; "
                "delete the handler and create it again"
            )
        return options

    @cached_property
    def inherited(self) -> Mapping[str, object]:
        """The options that hold for it because the active configuration says so."""
        return registry.inherited(self.type, self.options, self.installation)

    @cached_property
    def revision(self) -> tuple[object, ...]:
        """What it is made of: where this differs, the handler is another one."""
        try:
            return (self.version, *self.inherited.items())
        except SettingsError:
            return (self.version,)

    @property
    def brings_state(self) -> bool:
        """Whether its system holds what can be compared with the billing."""
        known = registry.handler_types().get(self.type)
        return known is not None and issubclass(known, DesiredStateHandler)

    def build(self, sealer: Sealer) -> Handler:
        """Make the handler itself. Raises NotFound, InvalidRequest or SettingsError."""
        options = {**self.inherited, **_unsealed(self.options, sealer)}
        settings = registry.validate(self.type, options)
        handler = registry.handler_type(self.type)(settings)
        handler.name, handler.spellings = self.name, self.spellings
        return handler

    def option_list(self) -> list[registry.Option]:
        """The options of its type, with the defaults that hold for it."""
        return registry.options(self.type, self.inherited)

    def missing(self, sealer: Sealer) -> str | None:
        """What has to be set before the handler can work; None: nothing."""
        return registry.what_is_missing(self.type, _unsealed(self.options, sealer))

    def shown(self) -> dict[str, str]:
        """Every option as text, defaults included, secrets as dots."""
        shown: dict[str, str] = {}
        for option in self.option_list():
            if option.alias in self.options:
                value = self.options[option.alias]
                shown[option.alias] = "••••••••" if option.secret else str(value)
            else:
                shown[option.alias] = "" if option.default is None else str(option.default)
        return shown

    def described(self) -> dict[str, object]:
        """What it is, for the audit log; where its settings are damaged, without them."""
        try:
            shown = self.shown()
            for name in self.options.keys() & registry.secret_options(self.type):
                # Which secret it is nobody learns, but that it is another than before.
                sealed = str(self.options[name]).encode()
                shown[name] += f" (seal {hashlib.sha256(sealed).hexdigest()[:8]})"
        except SettingsError as error:
            shown = {"damaged": str(error)}
        return {"type": self.type, "enabled": self.enabled, **shown}


# Event types


def add_catalogue(connection: Connection) -> None:
    """Make the types of the catalogue known; those that are there already stay as they are.

    A handler that hears every known type that its type supports hears the new ones, too; any
    other keeps the choice that somebody made for it.
    """
    _fold_aliases(connection)
    known = set(connection.execute(select(event_types.c.name)).scalars())
    number = connection.execute(
        select(func.coalesce(func.max(event_types.c.i_event_type), 0)).where(
            event_types.c.i_event_type < FIRST_CUSTOM_TYPE
        )
    ).scalar_one()
    new = [name for name in catalogue() if name not in known]
    if new:
        connection.execute(
            insert(event_types),
            [{"i_event_type": i, "name": name} for i, name in enumerate(new, number + 1)],
        )
    for handler in list_handlers(connection):
        if handler.type in registry.handler_types():
            old = registry.supported(handler.type, known.intersection(_told_by_itself()))
            if set(old) <= set(subscriptions(connection, handler)):
                more = [name for name in new if not is_custom(name)]
                _subscribe(connection, handler, registry.supported(handler.type, more))


def _fold_aliases(connection: Connection) -> None:
    """Two spellings may have been two types before: let them be one, and nobody lose events."""
    for alias, name in aliases().items():
        gone = connection.execute(delete(event_types).where(event_types.c.name == alias))
        if not gone.rowcount:
            continue
        column = event_subscriptions.c.event_type
        for handler in list_handlers(connection):
            mine = event_subscriptions.c.i_event_handler == handler.i_event_handler
            heard = subscriptions(connection, handler)
            connection.execute(delete(event_subscriptions).where(mine, column == alias))
            if alias in heard and name not in heard:
                _subscribe(connection, handler, [name])
                _spell(connection, handler, name, alias)


def create_type(connection: Connection, name: str) -> int:
    """Add a custom event type; returns its number."""
    if not name.startswith(CUSTOM_PREFIX) or not is_well_formed(name):
        raise InvalidRequest(
            f"event type {name!r}: the name of a custom event type must start with "
            f"{CUSTOM_PREFIX!r}, followed by letters, digits, underscores and slashes, "
            "for example Custom/NextMonth",
            "event_type",
        )
    highest = connection.execute(select(func.max(event_types.c.i_event_type))).scalar_one() or 0
    number = max(highest + 1, FIRST_CUSTOM_TYPE)
    try:
        # A savepoint, so that the caller's transaction can go on.
        with connection.begin_nested():
            connection.execute(insert(event_types).values(i_event_type=number, name=name))
    except IntegrityError:
        raise Conflict(f"the event type {name} exists already") from None
    return number


def set_type_enabled(connection: Connection, name: str, *, enabled: bool) -> None:
    """Switch a type on or off; a type that is off is left out of the triggers."""
    name = require_type(connection, name)
    connection.execute(
        update(event_types).where(event_types.c.name == name).values(enabled=int(enabled))
    )


def list_types(connection: Connection) -> list[Row[Any]]:
    """All types: i_event_type, name, enabled."""
    return list(connection.execute(select(event_types).order_by(event_types.c.i_event_type)))


def describe_types(connection: Connection) -> list[dict[str, Any]]:
    """All types: number, whether it is enabled, and what the catalogue says of it."""
    return [
        {"number": row.i_event_type, "enabled": bool(row.enabled), **facts(row.name)}
        for row in list_types(connection)
    ]


def require_type(connection: Connection, name: str) -> str:
    """The name of a type, by any of its spellings; NotFound, with near misses, if there is none."""
    names = list(connection.execute(select(event_types.c.name)).scalars())
    if (known_as := canonical(name)) in names:
        return known_as
    near = [known for known in (*names, *aliases()) if known.lower() == name.lower()]
    hint = f"; did you mean {near[0]}?" if near else "; see 'evctl type list'"
    raise NotFound(f"there is no event type {name!r}{hint}")


# Event handlers


def create_handler(
    connection: Connection,
    sealer: Sealer,
    i_env: int,
    name: str,
    type_name: str,
    options: Mapping[str, object],
    *,
    enabled: bool = True,
    usual: bool = False,
) -> EventHandler:
    """Add a handler, subscribed to every type of the catalogue that its type supports.

    ``usual``: to those that are usual for its type, where it says which. Mandatory options may
    follow later; until then its events wait.
    """
    if not name or len(name) > 64 or name != name.strip() or not name.isprintable():
        raise InvalidRequest("name: 1 to 64 printable characters are expected", "name")
    registry.what_is_missing(type_name, options)
    _check_targets(_usual(connection).networks(i_env), options)
    _check_group(connection, i_env, options)
    row = insert(event_handlers).values(
        i_env=i_env,
        name=name,
        type=type_name,
        enabled=int(enabled),
        settings=json.dumps(_sealed(type_name, options, sealer)),
    )
    try:
        with connection.begin_nested():
            result = connection.execute(row)
    except IntegrityError:
        raise Conflict(f"there is a handler {name!r} in environment {i_env} already") from None
    key = result.inserted_primary_key
    assert key is not None
    _add_leases(connection, int(key[0]))
    _subscribe(
        connection,
        EventHandler(int(key[0]), i_env, name, type_name, enabled, "{}", 1),
        _heard_at_first(connection, type_name, usual=usual),
    )
    return require_handler(connection, i_env, name)


def _heard_at_first(connection: Connection, type_name: str, *, usual: bool) -> list[str]:
    """The types that a new handler is subscribed to."""
    patterns = registry.handler_type(type_name).usual
    if usual and patterns:
        return [row.name for row in list_types(connection) if fits_any(row.name, patterns)]
    return registry.supported(type_name, _told_by_itself())


def _told_by_itself() -> list[str]:
    """What a new handler is subscribed to: custom events are for who asks for them."""
    return [name for name in catalogue() if not is_custom(name)]


def set_options(
    connection: Connection,
    sealer: Sealer,
    handler: EventHandler,
    options: Mapping[str, object | None],
) -> None:
    """Change some options; None takes one back to its default. All or nothing."""
    before = _unsealed(handler.options, sealer)
    merged = dict(before)
    known = {*merged, *(option.alias for option in registry.options(handler.type))}
    for alias, value in options.items():
        if value is not None:
            merged[alias] = value
        elif alias in known:
            merged.pop(alias, None)
        else:
            raise InvalidRequest(f"there is no option {alias}", alias)
    registry.what_is_missing(handler.type, merged)
    _check_targets(handler.networks, options)
    _check_group(connection, handler.i_env, options)
    # Sealed anew, the same secret would look like another.
    kept = {alias: handler.options[alias] for alias in before if before[alias] == merged.get(alias)}
    stored = {**_sealed(handler.type, merged, sealer), **kept}
    _touch(connection, handler, settings=json.dumps(stored))


def _check_targets(networks: Networks, options: Mapping[str, object | None]) -> None:
    """Raise InvalidRequest for a URL with an address that may not be called."""
    for alias, why in networks.refusals(options):
        raise InvalidRequest(f"{alias}: {why}", alias)


def _check_group(connection: Connection, i_env: int, options: Mapping[str, object | None]) -> None:
    """Raise InvalidRequest for a service group that the environment does not have."""
    if group := options.get(SERVICE_GROUP):
        statuses.require_group(connection, i_env, str(group), SERVICE_GROUP)


def set_handler_enabled(connection: Connection, handler: EventHandler, *, enabled: bool) -> None:
    """Switch a handler on or off. Off keeps its waiting work and its choice of types."""
    _touch(connection, handler, enabled=int(enabled))
    connection.execute(
        update(event_subscriptions)
        .where(event_subscriptions.c.i_event_handler == handler.i_event_handler)
        .values(active=int(enabled))
    )


def set_handler_paused(connection: Connection, handler: EventHandler, *, paused: bool) -> None:
    """Let a handler's events wait, or go on. They are captured all the same.

    It is no change of the handler: workers look at the switch itself, and build nothing anew.
    """
    connection.execute(
        update(event_handlers)
        .where(event_handlers.c.i_event_handler == handler.i_event_handler)
        .values(paused=int(paused))
    )


def look_again(connection: Connection, handler: EventHandler) -> None:
    """Have the workers look at a handler anew, and at all that waits for it."""
    _touch(connection, handler)


def delete_handler(connection: Connection, handler: EventHandler) -> None:
    """Remove a handler and its subscriptions; its work is the queue's to end first."""
    for table in (event_subscriptions, event_handlers):
        connection.execute(delete(table).where(table.c.i_event_handler == handler.i_event_handler))


def some_handlers(connection: Connection, i_env: int, name: str | None) -> list[EventHandler]:
    """The handler of this name, or without one all of an environment. Raises NotFound."""
    if name is not None:
        return [require_handler(connection, i_env, name)]
    found = list_handlers(connection, i_env)
    if not found:
        raise NotFound(f"environment {i_env} has no handlers")
    return found


def list_handlers(
    connection: Connection, i_env: int | None = None, usual: Provisioning | None = None
) -> list[EventHandler]:
    """The handlers of one environment, or of all.

    ``usual``: what the active configuration has for all of them, if that is known already.
    """
    query = select(event_handlers).order_by(event_handlers.c.i_env, event_handlers.c.name)
    if i_env is not None:
        query = query.where(event_handlers.c.i_env == i_env)
    usual = usual or _usual(connection)
    return [_handler(row, usual) for row in connection.execute(query).all()]


def require_handler(connection: Connection, i_env: int, name: str) -> EventHandler:
    """The handler of this name. Raises NotFound, naming those that exist."""
    for handler in (handlers := list_handlers(connection, i_env)):
        if handler.name == name:
            return handler
    names = ", ".join(handler.name for handler in handlers) or "there are none"
    raise NotFound(f"there is no handler {name!r} in environment {i_env} (known: {names})")


def find_handler(connection: Connection, i_env: int, i_event_handler: int) -> EventHandler:
    """The handler of this number, in this environment. Raises NotFound."""
    row = connection.execute(
        select(event_handlers).where(
            event_handlers.c.i_event_handler == i_event_handler, event_handlers.c.i_env == i_env
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no handler {i_event_handler} in environment {i_env}")
    return _handler(row, _usual(connection))


# Subscriptions


def subscribe(connection: Connection, handler: EventHandler, event_type: str) -> None:
    """Subscribe a handler to one type; it gets the events under the name that is used here.

    Raises Conflict when it is subscribed already, by this name.
    """
    name = require_type(connection, event_type)
    if not registry.supported(handler.type, [name]):
        raise InvalidRequest(
            f"handlers of type {handler.type} do not support {event_type}", "event_type"
        )
    if name not in subscriptions(connection, handler):
        _subscribe(connection, handler, [name])
    elif handler.spellings.get(name, name) == event_type:
        raise Conflict(f"handler {handler.name} is subscribed to {event_type} already")
    _spell(connection, handler, name, event_type)


def unsubscribe(connection: Connection, handler: EventHandler, event_type: str) -> None:
    """End a subscription; what waits already is still delivered. Raises Conflict when not on."""
    name = require_type(connection, event_type)
    removed = connection.execute(
        delete(event_subscriptions).where(
            event_subscriptions.c.i_env == handler.i_env,
            event_subscriptions.c.event_type == name,
            event_subscriptions.c.i_event_handler == handler.i_event_handler,
        )
    )
    if not removed.rowcount:
        raise Conflict(f"handler {handler.name} is not subscribed to {event_type}")


def _spell(connection: Connection, handler: EventHandler, name: str, spelling: str) -> None:
    """Note by which name a handler wants to hear of a type."""
    there = require_handler(connection, handler.i_env, handler.name).spellings
    others = {known: used for known, used in there.items() if known != name}
    wanted = others if spelling == name else {**others, name: spelling}
    if wanted != there:
        _touch(connection, handler, spellings=json.dumps(wanted))


def subscriptions(connection: Connection, handler: EventHandler) -> list[str]:
    """The types that a handler is subscribed to, sorted."""
    return list(
        connection.execute(
            select(event_subscriptions.c.event_type)
            .where(event_subscriptions.c.i_event_handler == handler.i_event_handler)
            .order_by(event_subscriptions.c.event_type)
        ).scalars()
    )


def supported_types(connection: Connection, handler: EventHandler) -> list[str]:
    """The known types that the handler's type supports."""
    names = [row.name for row in list_types(connection)]
    return sorted(registry.supported(handler.type, names))


def _subscribe(connection: Connection, handler: EventHandler, names: Sequence[str]) -> None:
    if names:
        connection.execute(
            insert(event_subscriptions),
            [
                {
                    "i_env": handler.i_env,
                    "event_type": name,
                    "i_event_handler": handler.i_event_handler,
                    "active": int(handler.enabled),
                }
                for name in names
            ],
        )


def _add_leases(connection: Connection, i_event_handler: int) -> None:
    """Make the leases of a new handler, so that they are there to be locked; nobody has them."""
    never = datetime(1970, 1, 1, tzinfo=UTC)
    connection.execute(
        insert(handler_leases),
        [
            {
                "i_event_handler": i_event_handler,
                "shard": shard,
                "worker": "",
                "epoch": 0,
                "since": never,
            }
            for shard in range(SHARDS)
        ],
    )


def _touch(connection: Connection, handler: EventHandler, **values: object) -> None:
    connection.execute(
        update(event_handlers)
        .where(event_handlers.c.i_event_handler == handler.i_event_handler)
        .values(version=event_handlers.c.version + 1, **values)
    )


def _usual(connection: Connection) -> Provisioning:
    return configuration.active(connection).content.provisioning


def _handler(row: Row[Any], usual: Provisioning) -> EventHandler:
    return EventHandler(
        i_event_handler=row.i_event_handler,
        i_env=row.i_env,
        name=row.name,
        type=row.type,
        enabled=bool(row.enabled),
        stored=row.settings,
        version=row.version,
        paused=bool(row.paused),
        spellings=json.loads(row.spellings or "{}"),
        installation=usual.retries(),
        networks=usual.networks(row.i_env),
    )


def _sealed(type_name: str, options: Mapping[str, object], sealer: Sealer) -> dict[str, object]:
    """Options as they are stored: JSON values, secrets sealed."""
    secret = registry.secret_options(type_name)
    return {
        alias: {_SEALED: sealer.seal(_plain(value))} if alias in secret else value
        for alias, value in options.items()
    }


def _unsealed(options: Mapping[str, Any], sealer: Sealer) -> dict[str, object]:
    return {
        alias: sealer.unseal(str(value[_SEALED]))
        if isinstance(value, dict) and _SEALED in value
        else value
        for alias, value in options.items()
    }


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
