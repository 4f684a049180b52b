"""Vendor connections: where traffic comes from or goes to."""

from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from sqlalchemy import Row, delete

from espf.billing.fields import Count, Flag, Key, Page, Params, Search, ShortName, matches
from espf.billing.scope import Result, Scope
from espf.billing.tables import connections

ENTITY = "Connection"


def _address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("an IPv4 or IPv6 address is expected") from None


class ConnectionFields(Params):
    """What can be given to a new connection and changed later."""

    remote_ip: Annotated[str, AfterValidator(_address), Field(examples=["192.0.2.1"])] | None = None
    capacity: Count | None = None
    active: Flag = "Y"


class NewConnection(ConnectionFields):
    """The fields of a new connection."""

    name: ShortName
    vendor_name: ShortName


class ChangedConnection(ConnectionFields):
    """The fields to change; what is not named stays as it is, and no default is ever written."""

    i_connection: Key
    name: ShortName = "-"
    vendor_name: ShortName = "-"


class AddConnection(Params):
    """Parameters of add."""

    connection_info: NewConnection


class UpdateConnection(Params):
    """Parameters of update_fields."""

    connection_info: ChangedConnection


class OneConnection(Params):
    """Names a connection."""

    i_connection: Key


class ListConnections(Page):
    """Parameters of get_list. ``name`` and ``vendor_name`` may hold ``%``."""

    name: Search | None = None
    vendor_name: Search | None = None


def add(scope: Scope, params: AddConnection) -> Result:
    """Add a connection. Raises the fault ``Server.Connection.duplicate_name``."""
    info = params.connection_info
    with scope.unless_taken(*_taken(info.name)):
        number = scope.insert(connections, **info.model_dump())
    return {"i_connection": number}


def update_fields(scope: Scope, params: UpdateConnection) -> Result:
    """Change the fields that are named and differ. Raises the fault ``.duplicate_name``."""
    info = params.connection_info
    connection = _find(scope, info.i_connection, lock=True)
    with scope.unless_taken(*_taken(info.name)):
        scope.change(connections, connection, info.model_dump(exclude_unset=True))
    return {"i_connection": connection.i_connection}


def remove(scope: Scope, params: OneConnection) -> Result:
    """Delete a connection."""
    connection = _find(scope, params.i_connection, lock=True)
    key = connections.c.i_connection
    scope.connection.execute(delete(connections).where(key == connection.i_connection))
    return {"success": 1}


def get_info(scope: Scope, params: OneConnection) -> Result:
    """One connection."""
    return {"connection_info": _described(_find(scope, params.i_connection))}


def get_list(scope: Scope, params: ListConnections) -> Result:
    """The environment's connections, in the order in which they were added."""
    wanted = [
        matches(connections.c[name], pattern)
        for name in ("name", "vendor_name")
        if (pattern := getattr(params, name)) is not None
    ]
    rows = scope.page(connections, params, *wanted)
    return {"connection_list": [_described(row) for row in rows]}


def _find(scope: Scope, i_connection: int, *, lock: bool = False) -> Row[Any]:
    key = connections.c.i_connection
    return scope.find(connections, ENTITY, key == i_connection, lock=lock)


def _taken(name: str) -> tuple[str, str]:
    return f"Server.{ENTITY}.duplicate_name", f"there is a connection {name!r} already"


def _described(connection: Row[Any]) -> Result:
    shown = ("i_connection", *NewConnection.model_fields)
    return {name: getattr(connection, name) for name in shown}
