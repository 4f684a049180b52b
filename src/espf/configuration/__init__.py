"""How the installation is set up, as versions that are drafted, verified, applied, rolled back.

``active(connection).content`` is what holds now. Whoever needs it reads it from the database, so
what is applied takes effect on every process within two seconds. Secrets in it are sealed until
``Version.opened`` opens them.
"""

from espf.configuration.checks import Finding
from espf.configuration.models import (
    Configuration,
    Instance,
    Provisioning,
    Value,
    as_text,
)
from espf.configuration.versions import (
    Difference,
    Status,
    Verdict,
    Version,
    active,
    apply,
    change,
    clone,
    create_instance,
    delete,
    delete_instance,
    differences,
    find,
    list_versions,
    roll_back,
    set_maintenance,
    verify,
)

__all__ = (
    "Configuration",
    "Difference",
    "Finding",
    "Instance",
    "Provisioning",
    "Status",
    "Value",
    "Verdict",
    "Version",
    "active",
    "apply",
    "as_text",
    "change",
    "clone",
    "create_instance",
    "delete",
    "delete_instance",
    "differences",
    "find",
    "list_versions",
    "roll_back",
    "set_maintenance",
    "verify",
)
