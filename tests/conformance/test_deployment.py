"""The units of examples/deployment are ones that systemd understands, and that are hardened."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "deployment"
UNITS = sorted(FOLDER.glob("*.service"))

#: Of 10: the less, the less a process can do that was taken over. 3 is what systemd calls OK.
MOST_EXPOSED = 3.0

systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def analyze(*words):
    return subprocess.run(
        ["systemd-analyze", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(params=UNITS, ids=lambda path: path.name)
def unit(request, tmp_path):
    """A unit as it is, but for a program and a user that are there."""
    text = request.param.read_text("utf-8")
    text = re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", text, flags=re.MULTILINE)
    text = re.sub(r"^(User|Group)=espf$", r"\1=daemon", text, flags=re.MULTILINE)
    path = tmp_path / request.param.name.replace("@.", "@main.")
    path.write_text(text, "utf-8")
    return path


@systemd
def test_systemd_understands_a_unit(unit):
    done = analyze("verify", "--man=no", unit)
    about_it = [line for line in done.stderr.splitlines() if "espf" in line]
    assert not about_it, done.stderr


@systemd
def test_a_unit_leaves_little_to_take_over(unit):
    done = analyze("security", "--offline=yes", unit)
    found = re.search(r"Overall exposure level for \S+: (\S+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def test_all_units_give_up_the_same():
    first, second = (
        path.read_text("utf-8").partition("User=")[2].partition("[Install]")[0] for path in UNITS
    )
    assert first == second
    assert "NoNewPrivileges=yes" in first


def test_the_container_runs_without_root_and_tells_how_it_is():
    text = (FOLDER / "Containerfile").read_text("utf-8")
    user = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert user
    assert user[-1] not in {"root", "0"}
    assert "/healthz" in text
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (FOLDER.parents[1] / name).exists(), name


def test_the_how_to_makes_what_the_units_name():
    how_to = (FOLDER.parents[1] / "docs" / "how-to" / "deploy.md").read_text("utf-8")
    made = re.findall(r"^(?:install|useradd) .*?(\S+)$", how_to, re.MULTILINE)
    for path in UNITS:
        unit = dict(re.findall(r"^(\w+)=-?(\S+)", path.read_text("utf-8"), re.MULTILINE))
        assert unit["User"] == unit["Group"]
        assert {unit["User"], unit["WorkingDirectory"], unit["EnvironmentFile"]} <= set(made)
        assert unit["WorkingDirectory"] == f"/var/lib/{unit['StateDirectory']}"
        assert f"`{unit['ExecStart']}`" in how_to


def test_the_health_of_the_container_is_asked_where_it_is_told():
    text = (FOLDER / "Containerfile").read_text("utf-8")
    place = re.search(r"ESPF_METRICS_LISTEN=(\S+)", text)
    assert place
    assert f"http://{place[1]}/healthz" in text
