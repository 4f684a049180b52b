"""The versions of the configuration, one of them active, and how one takes the place of another.

A version that was applied is not changed any more. Stored is what was set; the rest are the
defaults of the models, so that a version without anything set is the default configuration.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy import delete as delete_from

from espf.configuration.checks import Finding, findings
from espf.configuration.models import (
    DOTS,
    INSTANCES,
    PROVISIONING,
    SPELLINGS,
    Configuration,
    Group,
    Instance,
    Provisioning,
    Value,
    as_text,
    check_instance_name,
    secrets,
)
from espf.crypto import Sealer
from espf.db.database import Database
from espf.db.tables import configurations
from espf.errors import Conflict, InvalidRequest, NotFound, SettingsError
from espf.handlers.registry import read_settings

#: Characters of a secret.
LONGEST_SECRET = 500

_COMMENT = re.compile(r"[^\x00-\x1f\x7f]{0,255}")


class Status(StrEnum):
    """Where a version is in its life."""

    DRAFT = "draft"
    ACTIVE = "active"
    ARCHIVED = "archived"


@dataclass(frozen=True)
class Version:
    """One version of the configuration, and who did what to it, when.

    ``stored`` is what was set, as JSON, secrets sealed. ``cloned_from`` is the version that it was
    made of (None: the first), ``base`` the one that was active at that time. ``archived_at`` is
    when another took its place.
    """

    i_configuration: int
    status: Status
    stored: str
    comment: str
    cloned_from: int | None
    base: int | None
    created_at: datetime
    created_by: str
    changed_at: datetime | None
    changed_by: str | None
    applied_at: datetime | None
    applied_by: str | None
    archived_at: datetime | None

    @property
    def content(self) -> Configuration:
        """What it holds, secrets still sealed. Raises SettingsError when that is damaged."""
        try:
            return _parsed(self.stored)
        except InvalidRequest as error:
            raise SettingsError(
                f"configuration {self.i_configuration} does not fit this release: {error}"
            ) from None

    def opened(self, sealer: Sealer) -> Configuration:
        """What it holds, secrets in the clear. Raises SettingsError."""
        content = self.content
        group = content.provisioning
        opened = {
            name: SecretStr(sealer.unseal(value.get_secret_value()))
            for name in type(group).model_fields
            if isinstance(value := getattr(group, name), SecretStr) and value.get_secret_value()
        }
        return replace(content, provisioning=group.model_copy(update=opened))

    def facts(self) -> dict[str, Any]:
        """Who did what to it, and when: all but what it holds."""
        facts = asdict(self)
        del facts["stored"]
        return facts

    def settings(self) -> dict[str, Any]:
        """Every field by its place, defaults included, as JSON has it; secrets as dots."""
        return {
            place: as_text(value) if isinstance(value, SecretStr) else value
            for place, value in self.content.values().items()
        }

    def shown(self) -> dict[str, str]:
        """Every field as text, by its place, defaults included; secrets as dots."""
        return {place: as_text(value) for place, value in self.content.values().items()}


@dataclass(frozen=True)
class Difference:
    """A field that two versions do not agree on; None: one of them has no such instance."""

    field: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Verdict:
    """What verifying a version has shown; ``active`` is the one that it was compared with."""

    i_configuration: int
    active: int
    findings: list[Finding]
    differences: list[Difference]

    @property
    def errors(self) -> list[Finding]:
        """What keeps it from being applied."""
        return [one for one in self.findings if one.severity == "error"]


# To read


def active(connection: Connection) -> Version:
    """The version that holds now."""
    row = connection.execute(
        select(configurations).where(configurations.c.status == Status.ACTIVE)
    ).one_or_none()
    if row is None:
        raise SettingsError("there is no active configuration; run 'evctl init'")
    return _version(row)


def find(connection: Connection, i_configuration: int) -> Version:
    """The version of this number. Raises NotFound."""
    return _find(connection, i_configuration, lock=False)


def list_versions(connection: Connection) -> list[Version]:
    """All versions, the newest first."""
    query = select(configurations).order_by(configurations.c.i_configuration.desc())
    return [_version(row) for row in connection.execute(query)]


def differences(old: Version, new: Version) -> list[Difference]:
    """What changes from one version to another, field by field."""
    before, after = old.content.values(), new.content.values()
    return [
        Difference(
            place,
            as_text(before[place]) if place in before else None,
            as_text(after[place]) if place in after else None,
        )
        for place in {**before, **after}
        # A secret that was set anew is another one, whatever it is.
        if place not in before or place not in after or before[place] != after[place]
    ]


def verify(connection: Connection, i_configuration: int) -> Verdict:
    """Whether a version could be applied, here and now, and what that would change."""
    version, current = find(connection, i_configuration), active(connection)
    try:
        found = findings(connection, version.content, current.content)
        changed = differences(current, version)
    except SettingsError as error:
        found, changed = [Finding("error", None, str(error))], []
    return Verdict(i_configuration, current.i_configuration, found, changed)


# To draft


def clone(
    connection: Connection,
    database: Database,
    who: str,
    i_configuration: int | None = None,
    comment: str = "",
) -> Version:
    """Make a draft of a version; None: of the active one. Raises NotFound."""
    if not _COMMENT.fullmatch(comment):
        raise InvalidRequest("comment: one line of at most 255 characters is expected", "comment")
    current = active(connection)
    origin = current if i_configuration is None else find(connection, i_configuration)
    made = connection.execute(
        insert(configurations).values(
            status=Status.DRAFT,
            content=origin.stored,
            comment=comment,
            cloned_from=origin.i_configuration,
            base=current.i_configuration,
            created_at=database.now(connection),
            created_by=who,
        )
    )
    key = made.inserted_primary_key
    assert key is not None
    return find(connection, int(key[0]))


def change(
    connection: Connection,
    database: Database,
    sealer: Sealer,
    i_configuration: int,
    changes: Mapping[str, Value],
    who: str,
) -> Version:
    """Set fields of a draft, by their places; None takes one back to its default. All or nothing.

    The dots in place of a secret leave it as it is.
    Raises InvalidRequest that names the field, Conflict when it is no draft.
    """
    draft = _draft(connection, i_configuration)
    stored = _groups(draft)
    by_group: dict[str, dict[str, Value]] = {}
    for place, value in changes.items():
        prefix, name = _split(place, stored)
        asked = by_group.setdefault(prefix, {})
        if name in asked:
            raise InvalidRequest(f"{place}: it is set twice", place)
        asked[name] = value
    for prefix, asked in by_group.items():
        stored[prefix] = _merged(prefix, stored[prefix], asked, sealer)
    return _store(connection, database, draft, stored, who)


def create_instance(
    connection: Connection,
    database: Database,
    sealer: Sealer,
    i_configuration: int,
    name: str,
    values: Mapping[str, Value],
    who: str,
) -> Version:
    """Add an instance of ESPF to a draft; ``values`` are its fields by their own names.

    Raises InvalidRequest, or Conflict when there is one of this name.
    """
    check_instance_name(name)
    draft = _draft(connection, i_configuration)
    stored = _groups(draft)
    prefix = f"{INSTANCES}.{name}"
    if prefix in stored:
        raise Conflict(f"there is an instance {name} in configuration {i_configuration} already")
    stored[prefix] = _merged(prefix, {}, values, sealer)
    return _store(connection, database, draft, stored, who)


def delete_instance(
    connection: Connection, database: Database, i_configuration: int, name: str, who: str
) -> Version:
    """Remove an instance from a draft. Raises NotFound."""
    draft = _draft(connection, i_configuration)
    draft.content.instance(name)
    stored = _groups(draft)
    del stored[f"{INSTANCES}.{name}"]
    return _store(connection, database, draft, stored, who)


def delete(connection: Connection, i_configuration: int) -> None:
    """Remove a draft; what was applied once is kept. Raises NotFound or Conflict."""
    _draft(connection, i_configuration)
    connection.execute(
        delete_from(configurations).where(configurations.c.i_configuration == i_configuration)
    )


# To put in force


def apply(
    connection: Connection,
    database: Database,
    i_configuration: int,
    who: str,
    over: int | None = None,
) -> Version:
    """Let a draft take the place of the active version, which is archived.

    ``over`` is the active version as the caller knows it, from the verdict that it has seen; None:
    the one that was active when the draft was made. Raises Conflict when another is active by now,
    InvalidRequest when verifying it finds errors.
    """
    draft = _draft(connection, i_configuration)
    verdict = verify(connection, i_configuration)
    replaced = draft.base if over is None else over
    if verdict.active != replaced:
        raise Conflict(
            f"configuration {verdict.active} is active now, not {replaced}: look at what "
            f"{i_configuration} would change in it, then apply it over {verdict.active}"
        )
    if verdict.errors:
        first = verdict.errors[0]
        said = "; ".join(f"{one.field}: {one.message}" for one in verdict.errors)
        raise InvalidRequest(
            f"configuration {i_configuration} cannot be applied: {said}", first.field
        )
    return _put_in_force(connection, database, draft, verdict.active, who)


def roll_back(
    connection: Connection, database: Database, i_configuration: int, who: str
) -> Version:
    """Apply a copy of a version that was active before. Raises as ``apply``."""
    origin = find(connection, i_configuration)
    if origin.status != Status.ARCHIVED:
        raise Conflict(
            f"configuration {i_configuration} is {origin.status}: what can be rolled back to is "
            "archived, having been active before"
        )
    comment = f"roll back to {i_configuration}"
    draft = clone(connection, database, who, i_configuration, comment)
    return apply(connection, database, draft.i_configuration, who)


def set_maintenance(connection: Connection, database: Database, who: str, *, on: bool) -> Version:
    """Let all deliveries wait, or go on: a version that differs from the active one in that alone.

    It is not verified: what else is wrong does not stand in the way. Raises Conflict when somebody
    else applies a version at the same time.
    """
    current = active(connection)
    if current.content.provisioning.maintenance == on:
        return current
    draft = clone(connection, database, who, comment=f"maintenance {'on' if on else 'off'}")
    stored = _groups(draft)
    stored[PROVISIONING]["Maintenance"] = on
    draft = _store(connection, database, draft, stored, who)
    return _put_in_force(connection, database, draft, current.i_configuration, who)


def _put_in_force(
    connection: Connection, database: Database, draft: Version, over: int, who: str
) -> Version:
    now = database.now(connection)
    # Of two who come at the same time, the second waits here, and finds it archived.
    replaced = connection.execute(
        update(configurations)
        .where(configurations.c.i_configuration == over, configurations.c.status == Status.ACTIVE)
        .values(status=Status.ARCHIVED, archived_at=now)
    )
    if not replaced.rowcount:
        raise Conflict(f"somebody else has replaced configuration {over} just now; look again")
    connection.execute(
        update(configurations)
        .where(configurations.c.i_configuration == draft.i_configuration)
        .values(status=Status.ACTIVE, applied_at=now, applied_by=who)
    )
    return find(connection, draft.i_configuration)


# What is stored


@lru_cache(maxsize=64)
def _parsed(stored: str) -> Configuration:
    """What a version holds. Raises InvalidRequest that names what is wrong."""
    groups = _taken_apart(stored)
    return Configuration(
        read_settings(Provisioning, groups.pop(PROVISIONING)),
        {
            prefix.partition(".")[2]: read_settings(Instance, values)
            for prefix, values in groups.items()
        },
    )


def _taken_apart(stored: str) -> dict[str, dict[str, Any]]:
    """The stored groups, by what comes before the names of their fields."""
    try:
        raw = json.loads(stored)
        groups = {PROVISIONING: dict(raw.get(PROVISIONING, {}))}
        for name, values in raw.get(INSTANCES, {}).items():
            groups[f"{INSTANCES}.{name}"] = dict(values)
    except (ValueError, TypeError, AttributeError):
        raise InvalidRequest("what is stored is no configuration") from None
    return groups


def _groups(version: Version) -> dict[str, dict[str, Any]]:
    try:
        return _taken_apart(version.stored)
    except InvalidRequest as error:
        raise SettingsError(f"configuration {version.i_configuration}: {error}") from None


def _kind(prefix: str) -> type[Group]:
    return Provisioning if prefix == PROVISIONING else Instance


def _split(place: str, stored: Mapping[str, object]) -> tuple[str, str]:
    """A field's place, taken apart. Raises InvalidRequest."""
    prefix, _, name = place.rpartition(".")
    if prefix in stored:
        return prefix, SPELLINGS.get(name, name)
    group, _, instance = prefix.partition(".")
    if group == INSTANCES and instance:
        raise InvalidRequest(f"{place}: there is no instance {instance}; create it first", place)
    raise InvalidRequest(
        f"there is no field {place!r:.80}; write it like {PROVISIONING}.AlertRecipient, "
        f"or {INSTANCES}.NAME.port for an instance",
        place,
    )


def _merged(
    prefix: str, stored: Mapping[str, Any], changes: Mapping[str, Value], sealer: Sealer
) -> dict[str, Any]:
    """A group after changes, as it is stored. Raises InvalidRequest that names the field."""
    kind = _kind(prefix)
    sealed = secrets(kind)
    merged = dict(stored)
    for name, value in changes.items():
        if name in sealed and value == DOTS:
            continue
        if value is None and name in {field.alias for field in kind.model_fields.values()}:
            merged.pop(name, None)
        elif name in sealed:
            merged[name] = _sealed(f"{prefix}.{name}", value, sealer)
        else:
            merged[name] = value
    try:
        group = read_settings(kind, merged)
    except InvalidRequest as error:
        place = f"{prefix}.{error.field}" if error.field else prefix
        raise InvalidRequest(f"{prefix}: {error}", place) from None
    plain = group.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return {name: merged[name] if name in sealed else value for name, value in plain.items()}


def _sealed(place: str, value: Value, sealer: Sealer) -> str:
    """A secret as it is stored: it may have to stand in the header of a request."""
    fits = isinstance(value, str) and value.isascii() and (value == "" or value.isprintable())
    if not isinstance(value, str) or not fits or len(value) > LONGEST_SECRET:
        raise InvalidRequest(
            f"{place}: at most {LONGEST_SECRET} printable ASCII characters are expected", place
        )
    return sealer.seal(value) if value else ""


def _store(
    connection: Connection,
    database: Database,
    draft: Version,
    groups: Mapping[str, Mapping[str, Any]],
    who: str,
) -> Version:
    raw: dict[str, Any] = {PROVISIONING: groups[PROVISIONING], INSTANCES: {}}
    for prefix, values in groups.items():
        if prefix != PROVISIONING:
            raw[INSTANCES][prefix.partition(".")[2]] = values
    connection.execute(
        update(configurations)
        .where(configurations.c.i_configuration == draft.i_configuration)
        .values(content=json.dumps(raw), changed_at=database.now(connection), changed_by=who)
    )
    return find(connection, draft.i_configuration)


def _find(connection: Connection, i_configuration: int, *, lock: bool) -> Version:
    query = select(configurations).where(configurations.c.i_configuration == i_configuration)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"there is no configuration {i_configuration}; see 'evctl config list'")
    return _version(row)


def _draft(connection: Connection, i_configuration: int) -> Version:
    """A draft that nobody else changes until the end of the transaction."""
    version = _find(connection, i_configuration, lock=True)
    if version.status != Status.DRAFT:
        raise Conflict(
            f"configuration {i_configuration} is {version.status}: only a draft can be changed, "
            "applied or deleted; clone it"
        )
    return version


def _version(row: Row[Any]) -> Version:
    return Version(
        i_configuration=row.i_configuration,
        status=Status(row.status),
        stored=row.content,
        comment=row.comment,
        cloned_from=row.cloned_from,
        base=row.base,
        created_at=row.created_at,
        created_by=row.created_by,
        changed_at=row.changed_at,
        changed_by=row.changed_by,
        applied_at=row.applied_at,
        applied_by=row.applied_by,
        archived_at=row.archived_at,
    )
