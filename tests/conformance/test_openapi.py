"""The description of the APIs is true: a machine that has read it finds nothing wrong."""

import json
import os
import re
import subprocess
import threading
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from desk import COMMANDS, PASSWORD

HERE = Path(__file__).parent

EXAMPLES = 2

#: There are three times as many methods under /rest, and tests of their own for wrong parameters.
REST_EXAMPLES = 1


@pytest.fixture
def site(desk):
    """A running ESPF that holds one of each thing."""
    process = desk.start("web")
    try:
        for line in process.stderr:
            if found := re.search(r"listening on (http://\S+)", line):
                break
        site = Site(found[1])
        log = threading.Thread(target=lambda: site.log.extend(process.stderr))
        log.start()
        yield site
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.join(timeout=30)
        process.stderr.close()
    assert "Traceback" not in "".join(site.log)


class Site:
    def __init__(self, url):
        self.url = url
        self.log = []
        login = {"login": "admin", "password": PASSWORD}
        self.token = None
        self.token = self.post("/rest/Session/login", params=login)["access_token"]
        account = {"i_customer": 1, "i_product": 1, "id": "4412345", "billing_model": -1}
        self.post("/rest/Account/add_account", params={"account_info": account})
        self.post("/espf/v1/group/create", name="IOT")
        self.post("/espf/v1/event_type/create", event_type="Custom/NextMonth")
        later = {"start_time": "2037-03-01 00:00:00", "key": "next-month-541"}
        self.post("/espf/v1/event/create", event_type="Custom/NextMonth", **later)

    def post(self, path, **body):
        headers = {"Content-Type": "application/json"}
        request = Request(self.url + path, json.dumps(body).encode(), headers)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        with urlopen(request, timeout=30) as reply:
            return json.load(reply)

    def try_all(self, folder, *options):
        """Run schemathesis; returns what it says."""
        found = subprocess.run(
            [
                *(COMMANDS / "st", "--config-file", HERE / "schemathesis.toml"),
                *("run", f"{self.url}/doc/api", "--header", f"Authorization: Bearer {self.token}"),
                *("--seed", "1", "--no-shrink", "--generation-database", "none", "--no-color"),
                *options,
            ],
            cwd=folder,
            env={**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py")},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    def routes(self):
        with urlopen(f"{self.url}/doc/api", timeout=30) as reply:
            paths = json.load(reply)["paths"]
        return [path for path, methods in paths.items() for _ in methods]


@pytest.mark.long
@pytest.mark.databases("postgresql")
def test_nothing_in_the_description_of_the_espf_api_is_untrue(site, tmp_path):
    said = site.try_all(
        tmp_path,
        *("--exclude-path-regex", "^/rest/"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES)),
    )
    routes = [path for path in site.routes() if not path.startswith("/rest/")]
    assert f"Tested: {len(routes)}\n" in said


@pytest.mark.databases("sqlite")
def test_nothing_in_the_description_of_the_billing_api_is_untrue(site, tmp_path):
    said = site.try_all(
        tmp_path,
        *("--include-path-regex", "^/rest/"),
        *("--phases", "examples,fuzzing", "--max-examples", str(REST_EXAMPLES)),
    )
    routes = [path for path in site.routes() if path.startswith("/rest/")]
    assert f"Tested: {len(routes)}\n" in said
