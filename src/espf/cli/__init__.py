"""evctl: what an administrator does from a shell.

Each module holds the commands of one noun. Errors of ESPF become one line on standard error and
an exit code here and nowhere else: 0 done, 2 usage or settings, 3 not found, 4 conflict.
"""

import click

from espf.cli import capture, events, handlers, init, run, types, users
from espf.cli.group import ErrorsToExitCodes


@click.group(cls=ErrorsToExitCodes, context_settings={"help_option_names": ["-h", "--help"]})
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


main.add_command(init.init)
main.add_command(run.run)
main.add_command(types.type_)
main.add_command(handlers.handler)
main.add_command(events.event)
main.add_command(capture.capture)
main.add_command(users.user)
