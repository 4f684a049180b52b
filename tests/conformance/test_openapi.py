"""The description of the ESPF API is true: a machine that has read it finds nothing wrong."""

import json
import re
import subprocess
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from desk import COMMANDS, PASSWORD

EXAMPLES = 3


@pytest.fixture
def site(desk):
    """The URL of a running ESPF that holds one of each thing."""
    process = desk.start("web")
    try:
        for line in process.stderr:
            if found := re.search(r"listening on (http://\S+)", line):
                break
        yield Site(found[1])
    finally:
        process.terminate()
        process.communicate(timeout=30)


class Site:
    def __init__(self, url):
        self.url = url
        login = {"login": "admin", "password": PASSWORD}
        self.token = None
        self.token = self.post("/rest/Session/login", params=login)["access_token"]

    def post(self, path, **body):
        headers = {"Content-Type": "application/json"}
        request = Request(self.url + path, json.dumps(body).encode(), headers)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        with urlopen(request, timeout=30) as reply:
            return json.load(reply)


@pytest.mark.databases("postgresql")
def test_nothing_in_the_description_is_untrue(site, tmp_path):
    account = {"i_customer": 1, "i_product": 1, "id": "4412345", "billing_model": -1}
    site.post("/rest/Account/add_account", params={"account_info": account})
    site.post("/espf/v1/group/create", name="IOT")
    site.post("/espf/v1/event_type/create", event_type="Custom/NextMonth")
    later = {"start_time": "2037-03-01 00:00:00", "key": "next-month-541"}
    site.post("/espf/v1/event/create", event_type="Custom/NextMonth", **later)
    found = subprocess.run(
        [
            *(COMMANDS / "st", "--config-file", Path(__file__).with_name("schemathesis.toml")),
            *("run", f"{site.url}/doc/api", "--header", f"Authorization: Bearer {site.token}"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES)),
            *("--seed", "1", "--no-shrink", "--generation-database", "none", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    with urlopen(f"{site.url}/doc/api", timeout=30) as reply:
        routes = sum(map(len, json.load(reply)["paths"].values()))
    assert f"Tested: {routes}\n" in found.stdout
