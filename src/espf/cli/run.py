"""evctl run, web: processes that serve; the one that only delivers is in ``espf.cli.worker``."""

import click

from espf.cli.group import office

instance_option = click.option(
    "--instance",
    metavar="NAME",
    help="Work as this instance of ESPF; 'evctl config show' has them. [default: for all handlers]",
)


@click.command()
@instance_option
def run(instance: str | None) -> None:
    """Serve the APIs and deliver events, in one process, until interrupted.

    SIGTERM and Ctrl-C finish what is in flight (at most stop_grace seconds); what is cut off is
    delivered again at the next start, under the same number.

    To have more workers, or the APIs in processes of their own, see 'evctl worker' and
    'evctl web'; they may run beside this one.

    \b
    Example: the instance 'main' of the active configuration, at its address, for its handlers
      evctl run --instance main
    """  # noqa: D301
    start(serve=True, work=True, instance=instance)


@click.command()
def web() -> None:
    """Serve the APIs until interrupted; events are delivered by 'evctl worker'.

    \b
    Example: two processes that serve, behind a proxy that shares the requests out
      ESPF_LISTEN=127.0.0.1:8081 evctl web &
      ESPF_LISTEN=127.0.0.1:8082 evctl web &
    """  # noqa: D301
    start(serve=True, work=False)


def start(*, serve: bool, work: bool, instance: str | None = None) -> None:
    """Run until stopped; a database that is away is waited for."""
    # The web server is slow to import and of no use to the other commands.
    from espf.cli.process import run_until_stopped  # noqa: PLC0415

    with office(initialised=False) as at:
        run_until_stopped(at, serve=serve, work=work, instance=instance or "")
