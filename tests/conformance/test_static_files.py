"""The console's files: what others made is what vendor.toml says; nothing comes from afar."""

import hashlib
import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

STATIC = Path(str(files("espf.web"))) / "static"
TEMPLATES = STATIC.parent / "templates"
OURS = {"espf.css", "espf.js", "espf.svg", "theme.js", "vendor.toml"}
VENDORED = tomllib.loads((STATIC / "vendor.toml").read_text())


def test_every_file_is_ours_or_accounted_for():
    assert {path.name for path in STATIC.iterdir()} == OURS | VENDORED.keys()


@pytest.mark.parametrize("name", VENDORED)
def test_what_others_made_is_unchanged(name):
    assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == VENDORED[name]["sha256"]


def test_no_page_loads_anything_from_elsewhere():
    for path in [*TEMPLATES.rglob("*.html"), *STATIC.glob("espf.*"), STATIC / "theme.js"]:
        text = path.read_text()
        loaded = re.findall(r"(?:src|href|url\(|@import|fetch\()\s*=?\s*[\"']?(https?:)?//", text)
        assert not loaded, path


def test_every_icon_that_a_template_names_is_there():
    known = set(re.findall(r'<symbol id="([^"]+)"', (STATIC / "icons.svg").read_text()))
    for path in TEMPLATES.rglob("*.html"):
        named = set(re.findall(r'icon\("([^"]+)"\)', path.read_text()))
        assert named <= known, (path, named - known)
