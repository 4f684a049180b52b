"""Access policies: what the network is told about a subscriber's access, and in which phase.

A policy's attributes are in groups, one per kind of equipment. A phase gives other attributes from
a used part of the quota on, for example a lower speed.
"""

import json
from typing import Any

from pydantic import Field
from sqlalchemy import Row, delete, select

from espf.billing.fields import (
    Key,
    Line,
    Page,
    Params,
    Percent,
    Search,
    ShortName,
    matches,
)
from espf.billing.scope import Result, Scope
from espf.billing.tables import access_policies, access_policy_phases
from espf.model import compact

ENTITY = "AccessPolicy"


_NAME_TAKEN = (f"Server.{ENTITY}.duplicate_name", "there is a policy of this name already")
_THRESHOLD_TAKEN = (
    f"Server.{ENTITY}.duplicate_threshold",
    "the policy has a phase with this threshold already",
)


class Attribute(Params):
    """One attribute, as the vendor shows it."""

    group_name: ShortName
    name: ShortName
    values: list[Line | None] = Field(max_length=100)


Attributes = list[Attribute]


class NewPolicy(Params):
    """The fields of a new policy."""

    name: ShortName
    attributes: Attributes = Field(default=[], max_length=200)


class ChangedPolicy(Params):
    """The fields to change; what is not named stays as it is. ``attributes`` are all of them."""

    i_access_policy: Key
    name: ShortName = "-"
    attributes: Attributes = Field(default=[], max_length=200)


class AddPolicy(Params):
    """Parameters of add."""

    access_policy_info: NewPolicy


class UpdatePolicy(Params):
    """Parameters of update_fields."""

    access_policy_info: ChangedPolicy


class GetPolicy(Params):
    """Parameters of get_info."""

    i_access_policy: Key


class ListPolicies(Page):
    """Parameters of get_list. ``name`` may hold ``%``."""

    name: Search | None = None


class NewPhase(Params):
    """The fields of a new phase; ``threshold``: the used part of the quota, in percent."""

    i_access_policy: Key
    name: ShortName
    threshold: Percent
    attributes: Attributes = Field(default=[], max_length=200)


class ChangedPhase(Params):
    """The fields to change; what is not named stays as it is. ``attributes`` are all of them."""

    i_access_policy_phase: Key
    name: ShortName = "-"
    threshold: Percent = 0
    attributes: Attributes = Field(default=[], max_length=200)


class AddPhase(Params):
    """Parameters of add_phase."""

    phase_info: NewPhase


class UpdatePhase(Params):
    """Parameters of update_phase."""

    phase_info: ChangedPhase


class DeletePhase(Params):
    """Parameters of delete_phase."""

    i_access_policy_phase: Key


def add(scope: Scope, params: AddPolicy) -> Result:
    """Add a policy. Raises the fault ``Server.AccessPolicy.duplicate_name``."""
    info = params.access_policy_info
    with scope.unless_taken(*_NAME_TAKEN):
        number = scope.insert(access_policies, **stored(info.model_dump()))
    return {"i_access_policy": number}


def update_fields(scope: Scope, params: UpdatePolicy) -> Result:
    """Change the fields that are named and differ. Raises the fault ``.duplicate_name``."""
    info = params.access_policy_info
    policy = _find(scope, info.i_access_policy, lock=True)
    with scope.unless_taken(*_NAME_TAKEN):
        scope.change(access_policies, policy, stored(info.model_dump(exclude_unset=True)))
    return {"i_access_policy": policy.i_access_policy}


def get_info(scope: Scope, params: GetPolicy) -> Result:
    """One policy with its phases, by their thresholds."""
    policy = _find(scope, params.i_access_policy)
    table = access_policy_phases
    phases = scope.connection.execute(
        select(table)
        .where(table.c.i_access_policy == policy.i_access_policy)
        .order_by(table.c.threshold)
    )
    info = described(policy, "i_access_policy", "name")
    shown = ("i_access_policy_phase", "name", "threshold")
    info["phases"] = [described(phase, *shown) for phase in phases]
    return {"access_policy_info": info}


def get_list(scope: Scope, params: ListPolicies) -> Result:
    """The environment's policies without their phases, in the order in which they were added."""
    table = access_policies
    wanted = [] if params.name is None else [matches(table.c.name, params.name)]
    rows = scope.page(table, params, *wanted)
    return {"access_policy_list": [described(row, "i_access_policy", "name") for row in rows]}


def add_phase(scope: Scope, params: AddPhase) -> Result:
    """Add a phase to a policy. Raises the fault ``Server.AccessPolicy.duplicate_threshold``."""
    info = params.phase_info
    _find(scope, info.i_access_policy, lock=True)
    with scope.unless_taken(*_THRESHOLD_TAKEN):
        number = scope.insert(access_policy_phases, **stored(info.model_dump()))
    return {"i_access_policy_phase": number}


def update_phase(scope: Scope, params: UpdatePhase) -> Result:
    """Change the fields that are named and differ. Raises the fault ``.duplicate_threshold``."""
    info = params.phase_info
    phase = _find_phase(scope, info.i_access_policy_phase)
    with scope.unless_taken(*_THRESHOLD_TAKEN):
        scope.change(access_policy_phases, phase, stored(info.model_dump(exclude_unset=True)))
    return {"i_access_policy_phase": phase.i_access_policy_phase}


def delete_phase(scope: Scope, params: DeletePhase) -> Result:
    """Take a phase from its policy."""
    phase = _find_phase(scope, params.i_access_policy_phase)
    key = access_policy_phases.c.i_access_policy_phase
    scope.connection.execute(delete(access_policy_phases).where(key == phase.i_access_policy_phase))
    return {"success": 1}


def _find(scope: Scope, i_access_policy: int, *, lock: bool = False) -> Row[Any]:
    key = access_policies.c.i_access_policy
    return scope.find(access_policies, ENTITY, key == i_access_policy, lock=lock)


def _find_phase(scope: Scope, number: int) -> Row[Any]:
    key = access_policy_phases.c.i_access_policy_phase
    return scope.find(access_policy_phases, "AccessPolicyPhase", key == number, lock=True)


def stored(values: dict[str, Any]) -> dict[str, Any]:
    """A request's values as the tables have them: ``attributes`` are JSON there."""
    if "attributes" in values:
        values["attributes"] = compact(values["attributes"])
    return values


def described(row: Row[Any], *names: str) -> Result:
    """A policy or a phase as the API shows it: these columns, and ``attributes``."""
    shown: Result = {name: getattr(row, name) for name in names}
    return shown | {"attributes": json.loads(row.attributes)}
