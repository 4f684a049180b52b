"""What the models cannot know of a configuration: whether it fits this machine and database."""

import errno
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, select
from yarl import URL

from espf.configuration.models import INSTANCES, PROVISIONING, Configuration, Instance, Provisioning
from espf.db.tables import event_handlers

#: Where an instance listens that has a port and no address; see the setting ``listen``.
_USUAL_ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong (``error``: it cannot be applied) or worth knowing (``warning``)."""

    severity: Literal["error", "warning"]
    field: str | None
    message: str


def findings(
    connection: Connection, wanted: Configuration, current: Configuration
) -> list[Finding]:
    """What there is to say of a configuration that is to take the place of the ``current`` one.

    Programs and addresses are looked for on the machine of the caller.
    """
    return [
        *_alerts(wanted.provisioning),
        *_places(wanted, {_place(one) for one in current.instances.values()}),
        *_handlers(connection, wanted),
        *_targets(connection, wanted.provisioning),
    ]


def _alerts(provisioning: Provisioning) -> Iterator[Finding]:
    url = URL(provisioning.alert_url)
    if provisioning.alert_recipient and (fault := _no_program(Path(provisioning.sendmail))):
        yield Finding("error", f"{PROVISIONING}.sendmail", fault)
    if not provisioning.alert_recipient and not provisioning.alert_url:
        yield Finding(
            "warning", f"{PROVISIONING}.AlertRecipient", "nobody will be told of failures"
        )
    if provisioning.alert_token.get_secret_value() and url.scheme != "https":
        said = "goes over the wire unencrypted" if url.scheme else "is not used without AlertURL"
        yield Finding("warning", f"{PROVISIONING}.AlertToken", f"the token {said}")
    if provisioning.maintenance:
        yield Finding("warning", f"{PROVISIONING}.Maintenance", "all deliveries will wait")


def _no_program(path: Path) -> str | None:
    try:
        if not path.is_file():
            return f"there is no program {path} on {socket.gethostname()}"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None if os.access(path, os.X_OK) else f"{path} is not executable"


def _place(instance: Instance) -> tuple[str, str, int | None]:
    return instance.server, instance.address or _USUAL_ADDRESS, instance.port


def _places(wanted: Configuration, known: set[tuple[str, str, int | None]]) -> Iterator[Finding]:
    """Two instances cannot listen at one place; nor can one where something else does.

    Where one listens today nothing else does, or it would not have started.
    """
    taken = Counter(map(_place, wanted.instances.values()))
    for name, instance in sorted(wanted.instances.items()):
        place = _place(instance)
        if instance.port is None:
            continue
        if taken[place] > 1:
            yield Finding(
                "error", f"{INSTANCES}.{name}.port", "another instance has this address and port"
            )
        elif place not in known and (not instance.server or runs_here(instance.server)):
            yield from _bindable(name, instance, instance.port)


def runs_here(server: str) -> bool:
    """Whether this machine has the name, as far as it is known without asking anybody."""
    here = socket.gethostname().partition(".")[0].lower()
    return server.partition(".")[0].lower() in {"localhost", here}


def _bindable(name: str, instance: Instance, port: int) -> Iterator[Finding]:
    host = instance.address or _USUAL_ADDRESS
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            # It may be free when the instance starts: whoever has it now may be what it replaces.
            said = f"cannot be had at {host}, port {port} just now: {error.strerror}"
            yield Finding("warning", f"{INSTANCES}.{name}.port", said)
        elif instance.server:
            yield Finding(
                "error",
                f"{INSTANCES}.{name}.address",
                f"{host} is no address of {socket.gethostname()}",
            )


def _handlers(connection: Connection, wanted: Configuration) -> Iterator[Finding]:
    columns = event_handlers.c
    rows = connection.execute(select(columns.i_env, columns.name).order_by(columns.i_env)).all()
    known = [(row.i_env, row.name) for row in rows]
    names = {f"{name}@{i_env}" for i_env, name in known}
    for name, instance in sorted(wanted.instances.items()):
        for missing in sorted(set(instance.handlers) - names):
            said = f"there is no handler {missing}"
            yield Finding("error", f"{INSTANCES}.{name}.handlers", said)
    served = [
        any(one.serves(i_env, name) for one in wanted.instances.values()) for i_env, name in known
    ]
    if wanted.instances and not all(served):
        left = [f"{n}@{i}" for (i, n), yes in zip(known, served, strict=True) if not yes]
        yield Finding(
            "warning",
            INSTANCES,
            f"no enabled instance delivers for {', '.join(left)}: only workers that were started "
            "without an instance do",
        )


def _targets(connection: Connection, provisioning: Provisioning) -> Iterator[Finding]:
    """Handlers were given their URLs when other networks were allowed."""
    columns = event_handlers.c
    rows = connection.execute(
        select(columns.i_env, columns.name, columns.settings).order_by(columns.i_env, columns.name)
    )
    for i_env, name, settings in rows:
        try:
            options = dict(json.loads(settings))
        except (ValueError, TypeError):
            continue  # it cannot work whatever is allowed
        for alias, why in provisioning.networks(i_env).refusals(options):
            said = f"{name}@{i_env} will call nobody: {alias}: {why}"
            yield Finding("warning", f"{PROVISIONING}.TargetNetworks", said)
