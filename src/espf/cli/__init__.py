"""evctl: what an administrator does from a shell.

Each module holds the commands of one noun. Errors of ESPF become one line on standard error and
an exit code here and nowhere else: 0 done, 2 usage or settings, 3 not found, 4 conflict.
"""

import click

from espf.cli.alerts import alert
from espf.cli.billing import billing
from espf.cli.capture import capture
from espf.cli.config import config
from espf.cli.events import event
from espf.cli.group import ErrorsToExitCodes
from espf.cli.handlers import handler
from espf.cli.init import init
from espf.cli.journal import journal
from espf.cli.keys import key
from espf.cli.maintenance import maintenance
from espf.cli.metrics import metrics
from espf.cli.reconcile import reconcile
from espf.cli.run import run, web
from espf.cli.types import type_
from espf.cli.users import user
from espf.cli.worker import worker


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


for command in (
    *(init, run, worker, web, config, maintenance, alert, metrics),
    *(type_, handler, reconcile, event, journal, capture, user, key, billing),
):
    main.add_command(command)
