"""A package of somebody else: really installed, its own tests, and at work beside our handlers."""

import asyncio
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from desk import new_account

pytestmark = pytest.mark.e2e

PACKAGE = Path(__file__).parents[2] / "examples" / "voicemail"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the package is installed, as pip does it; without any network."""
    target = tmp_path_factory.mktemp("site")
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    ran(sys.executable, "-m", "pip", "install", "-q", *offline, "--target", target, PACKAGE)
    assert (target / "acme_voicemail" / "__init__.py").is_file()
    return target


def ran(*words, site=None, cwd=None):
    paths = {} if site is None else {"PYTHONPATH": str(site)}
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_own_tests_pass_with_what_is_installed(site):
    words = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert " passed" in ran(*words, site=site, cwd=PACKAGE)


@pytest.fixture
def voicemail(monkeypatch):
    monkeypatch.syspath_prepend(PACKAGE / "tests")
    served = import_module("voicemail_server")
    with served.VoicemailServer() as running:
        running.token = served.TOKEN
        yield running


@pytest.mark.databases("sqlite")
async def test_its_handler_is_created_configured_and_at_work(desk, site, voicemail):
    desk.environment["PYTHONPATH"] = str(site)

    def evctl(*words):
        done = desk.child(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = evctl(
        *("handler", "create", "3", "Voicemail", "--type", "Voicemail", "--usual"),
        *("--set", f"Voicemail.URL={voicemail.url}", "--set", f"Voicemail.Token={voicemail.token}"),
    )
    assert said.startswith("Handler Voicemail is created, enabled, subscribed to ")
    shown = evctl("handler", "show", "3", "Voicemail")
    assert "ServiceGroup" in shown
    assert voicemail.token not in shown
    async with desk.running() as base:
        i_account = await asyncio.to_thread(new_account, desk, base)
        async with asyncio.timeout(90):
            while "380441234567" not in voicemail.boxes:
                await asyncio.sleep(0.05)
            told = ()
            while not told:
                await asyncio.sleep(0.05)
                told = desk.sql(
                    "SELECT status FROM Account_Statuses WHERE i_account = ?", (i_account,)
                )
    assert voicemail.boxes["380441234567"]["open"] == "yes"
    assert told == [("OK",)]
    assert "voicemail system answers" in evctl("handler", "test", "3", "Voicemail", "--check")
