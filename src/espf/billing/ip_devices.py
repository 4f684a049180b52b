"""IP devices: the equipment at a subscriber's, its profiles, and which account has which device.

An account may have several devices; a device is with one account at most, or in stock.
"""

from typing import Any

from sqlalchemy import Row, delete, update

from espf.billing.fields import Comment, Key, Mac, Page, Params, Search, ShortName, matches
from espf.billing.scope import Result, Scope
from espf.billing.tables import ip_device_profiles, ip_devices

ENTITY = "IPDevice"
PROFILE = "IPDeviceProfile"


class NewProfile(Params):
    """The fields of a new profile."""

    name: ShortName
    description: Comment | None = None


class AddProfile(Params):
    """Parameters of add_profile."""

    profile_info: NewProfile


class ListProfiles(Page):
    """Parameters of get_profile_list. ``name`` may hold ``%``."""

    name: Search | None = None


class NewDevice(Params):
    """The fields of a new device."""

    name: ShortName
    mac: Mac | None = None
    i_ip_device_profile: Key | None = None


class AddDevice(Params):
    """Parameters of add."""

    ip_device_info: NewDevice


class OneDevice(Params):
    """Names a device."""

    i_ip_device: Key


class AssignDevice(OneDevice):
    """Parameters of assign."""

    i_account: Key


class ListDevices(Page):
    """Parameters of get_list. ``name`` and ``mac`` may hold ``%``."""

    name: Search | None = None
    mac: Search | None = None
    i_account: Key | None = None


def add_profile(scope: Scope, params: AddProfile) -> Result:
    """Add a profile. Raises the fault ``Server.IPDeviceProfile.duplicate_name``."""
    info = params.profile_info
    text = f"there is a profile {info.name!r} already"
    with scope.unless_taken(f"Server.{PROFILE}.duplicate_name", text):
        number = scope.insert(ip_device_profiles, **info.model_dump())
    return {"i_ip_device_profile": number}


def get_profile_list(scope: Scope, params: ListProfiles) -> Result:
    """The environment's profiles, in the order in which they were added."""
    table = ip_device_profiles
    wanted = [] if params.name is None else [matches(table.c.name, params.name)]
    shown = ("i_ip_device_profile", "name", "description")
    rows = scope.page(table, params, *wanted)
    return {"profile_list": [{name: getattr(row, name) for name in shown} for row in rows]}


def add(scope: Scope, params: AddDevice) -> Result:
    """Add a device to the stock.

    Raises the faults ``Server.IPDevice.duplicate_name`` and ``Server.IPDeviceProfile.not_found``.
    """
    info = params.ip_device_info
    if info.i_ip_device_profile is not None:
        key = ip_device_profiles.c.i_ip_device_profile
        scope.find(ip_device_profiles, PROFILE, key == info.i_ip_device_profile)
    text = f"there is a device {info.name!r} already"
    with scope.unless_taken(f"Server.{ENTITY}.duplicate_name", text):
        number = scope.insert(ip_devices, **info.model_dump())
    return {"i_ip_device": number}


def get_info(scope: Scope, params: OneDevice) -> Result:
    """One device."""
    return {"ip_device_info": _described(_find(scope, params.i_ip_device))}


def get_list(scope: Scope, params: ListDevices) -> Result:
    """The environment's devices, in the order in which they were added."""
    table = ip_devices
    wanted = [
        matches(table.c[name], pattern)
        for name in ("name", "mac")
        if (pattern := getattr(params, name)) is not None
    ]
    if params.i_account is not None:
        wanted.append(table.c.i_account == params.i_account)
    return {"ip_device_list": [_described(row) for row in scope.page(table, params, *wanted)]}


def assign(scope: Scope, params: AssignDevice) -> Result:
    """Give a device to an account, from the stock or from another account.

    Raises the faults ``Server.Account.not_found``, ``.closed`` and ``Server.IPDevice.not_found``.
    """
    account = scope.open_account(params.i_account)
    device = _find(scope, params.i_ip_device, lock=True)
    scope.change(ip_devices, device, {"i_account": account.i_account})
    return {"i_ip_device": device.i_ip_device}


def release(scope: Scope, params: OneDevice) -> Result:
    """Take a device back into the stock."""
    device = _find(scope, params.i_ip_device, lock=True)
    scope.change(ip_devices, device, {"i_account": None})
    return {"i_ip_device": device.i_ip_device}


def remove(scope: Scope, params: OneDevice) -> Result:
    """Delete a device, whoever has it."""
    device = _find(scope, params.i_ip_device, lock=True)
    scope.connection.execute(
        delete(ip_devices).where(ip_devices.c.i_ip_device == device.i_ip_device)
    )
    return {"success": 1}


def leave(scope: Scope, i_account: int) -> None:
    """Take its devices back from an account that is closed."""
    scope.connection.execute(
        update(ip_devices).where(ip_devices.c.i_account == i_account).values(i_account=None)
    )


def _find(scope: Scope, i_ip_device: int, *, lock: bool = False) -> Row[Any]:
    return scope.find(ip_devices, ENTITY, ip_devices.c.i_ip_device == i_ip_device, lock=lock)


def _described(device: Row[Any]) -> Result:
    shown = ("i_ip_device", "name", "mac", "i_ip_device_profile", "i_account")
    return {name: getattr(device, name) for name in shown}
