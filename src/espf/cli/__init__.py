"""evctl: what an administrator does from a shell.

Each module holds the commands of one noun. Errors of ESPF become one line on standard error and
an exit code here and nowhere else: 0 done, 2 usage or settings, 3 not found, 4 conflict.
"""

from importlib import import_module

import click

from espf.cli.group import ErrorsToExitCodes

#: Where each command is.
_COMMANDS = {
    "alert": "alerts:alert",
    "billing": "billing:billing",
    "capture": "capture:capture",
    "config": "config:config",
    "event": "events:event",
    "handler": "handlers:handler",
    "init": "init:init",
    "journal": "journal:journal",
    "key": "keys:key",
    "maintenance": "maintenance:maintenance",
    "metrics": "metrics:metrics",
    "reconcile": "reconcile:reconcile",
    "run": "run:run",
    "type": "types:type_",
    "user": "users:user",
    "web": "run:web",
    "worker": "worker:worker",
}


class _Commands(ErrorsToExitCodes):
    """Imports a command when it is asked for: most take longer to import than to run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """See click.Group."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """See click.Group."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"espf.cli.{module}"), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="espf")
def main() -> None:
    """Set up, run and look after ESPF, the External System Provisioning Framework.

    Settings come from espf.toml and ESPF_* in the environment; espf.default.toml explains each.

    \b
    A first round:
      evctl init --demo
      evctl run &
      evctl handler list
      evctl event list
    """  # noqa: D301  (\b keeps click from joining lines)
