"""The guides in docs/how-to, as the tests take their word: what they show is what runs."""

import re
from pathlib import Path

from espf.handlers import registry

DOCS = Path(__file__).parents[1] / "docs"


def block(page: str, language: str) -> str:
    """The first block of a language in a guide."""
    text = (DOCS / "how-to" / page).read_text()
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"{page} shows no {language}"
    return found.group(1)


def documented_options(page: str) -> dict[str, str]:
    """Option -> default, of the table in a page of the reference."""
    text = (DOCS / "reference" / page).read_text()
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (.+?) \|", text, re.MULTILINE)
    return {name: default.replace("`", "").replace("\\|", "|") for name, default in rows}


def own_options(handler_type: str) -> dict[str, str]:
    """The same, of the code: the options that begin with the name of the type."""
    return {
        option.alias: "mandatory" + ", secret" * option.secret
        if option.default is None
        else option.default or "empty"
        for option in registry.options(handler_type)
        if option.alias.startswith(f"{handler_type}.")
    }
