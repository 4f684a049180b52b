"""Service policies: how a service is delivered, whoever uses it."""

from typing import Any

from pydantic import Field
from sqlalchemy import Row, delete

from espf.billing import services
from espf.billing.access_policies import Attributes, described, stored
from espf.billing.fields import Key, Page, Params, Search, Service, ShortName, matches
from espf.billing.scope import Result, Scope
from espf.billing.tables import service_policies as table

ENTITY = "ServicePolicy"

_NAME_TAKEN = (f"Server.{ENTITY}.duplicate_name", "there is a policy of this name already")


class NewPolicy(Params):
    """The fields of a new policy."""

    name: ShortName
    service: Service
    attributes: Attributes = Field(default=[], max_length=200)


class ChangedPolicy(Params):
    """The fields to change; what is not named stays as it is. ``attributes`` are all of them."""

    i_service_policy: Key
    name: ShortName = "-"
    attributes: Attributes = Field(default=[], max_length=200)


class AddPolicy(Params):
    """Parameters of add."""

    service_policy_info: NewPolicy


class UpdatePolicy(Params):
    """Parameters of update_fields."""

    service_policy_info: ChangedPolicy


class OnePolicy(Params):
    """Names a policy."""

    i_service_policy: Key


class ListPolicies(Page):
    """Parameters of get_list. ``name`` may hold ``%``."""

    name: Search | None = None
    service: Service | None = None


def add(scope: Scope, params: AddPolicy) -> Result:
    """Add a policy. Raises the fault ``Server.ServicePolicy.duplicate_name``."""
    info = params.service_policy_info
    with scope.unless_taken(*_NAME_TAKEN):
        number = scope.insert(table, **stored(info.model_dump()))
    services.note(scope, [info.service])
    return {"i_service_policy": number}


def update_fields(scope: Scope, params: UpdatePolicy) -> Result:
    """Change the fields that are named and differ. Raises the fault ``.duplicate_name``."""
    info = params.service_policy_info
    policy = _find(scope, info.i_service_policy, lock=True)
    with scope.unless_taken(*_NAME_TAKEN):
        scope.change(table, policy, stored(info.model_dump(exclude_unset=True)))
    return {"i_service_policy": policy.i_service_policy}


def remove(scope: Scope, params: OnePolicy) -> Result:
    """Delete a policy. Raises the fault ``Server.ServicePolicy.not_found``."""
    policy = _find(scope, params.i_service_policy, lock=True)
    which = table.c.i_service_policy == policy.i_service_policy
    scope.connection.execute(delete(table).where(which))
    return {"success": 1}


def get_info(scope: Scope, params: OnePolicy) -> Result:
    """One policy."""
    return {"service_policy_info": _described(_find(scope, params.i_service_policy))}


def get_list(scope: Scope, params: ListPolicies) -> Result:
    """The environment's policies, in the order in which they were added."""
    wanted = [] if params.name is None else [matches(table.c.name, params.name)]
    if params.service is not None:
        wanted.append(table.c.service == params.service)
    return {"service_policy_list": [_described(row) for row in scope.page(table, params, *wanted)]}


def _find(scope: Scope, i_service_policy: int, *, lock: bool = False) -> Row[Any]:
    return scope.find(table, ENTITY, table.c.i_service_policy == i_service_policy, lock=lock)


def _described(policy: Row[Any]) -> Result:
    return described(policy, "i_service_policy", "name", "service")
