"""Billing > SIM card inventory: the cards, and which account holds which.

Ki and OPc are only ever set here, never shown.
"""

import csv
import io
from collections.abc import Sequence

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from espf.billing import sim_cards
from espf.billing.browse import Found, Leaf
from espf.billing.scope import Result, Scope
from espf.billing.sim_cards import (
    AddCard,
    ChangedCard,
    GetCard,
    ListCards,
    NewCard,
    OneCard,
    UpdateCard,
    Upload,
)
from espf.errors import InvalidRequest
from espf.web.contract import PathNumber
from espf.web.pages import billing, listing
from espf.web.pages.billing import Administrator, Kind, Outcome, Parts, Reader, Sheet, Task
from espf.web.pages.forms import Field
from espf.web.pages.listing import Column
from espf.web.pages.visit import Form, Visit
from espf.web.rest import InvalidParameters, validated

pages = APIRouter(prefix="/env/{i_env}/sim-cards", dependencies=[Depends(billing.require_billing)])

STATUSES = {
    "available": "available",
    "reserved": "reserved",
    "used": "in use",
    "disposed": "disposed",
}

#: More digits than an IMSI has make an ICCID.
LONGEST_IMSI = 15

COLUMNS: Sequence[Column[Result]] = (
    Column("imsi", "IMSI", lambda one: one["imsi"]),
    Column("iccid", "ICCID", lambda one: one["iccid"], sortable=False),
    Column("status", "Status", lambda one: STATUSES[one["status"]], sortable=False),
    Column("msisdn", "Account", lambda one: one["msisdn"], sortable=False),
    Column("description", "Description", lambda one: one["description"], sortable=False),
)


@pages.get("")
async def show_list(visit: Reader) -> Response:
    """The cards of the environment; ``status`` leaves those of one status."""
    wanted = billing.leaf(visit, "imsi")
    status = listing.parameter(visit, "status")
    if status not in {"", *STATUSES}:
        raise InvalidRequest(f"status: one of {', '.join(STATUSES)} is expected", "status")

    def read(scope: Scope, leaf: Leaf) -> Found[Result]:
        if len(leaf.beginning) > LONGEST_IMSI:
            named = validated(ListCards, {"iccid": leaf.beginning.replace("%", "")})
            return Found(sim_cards.get_list(scope, named)["card_list"], False, False)
        return sim_cards.leaf(scope, leaf, status or None)

    return await billing.show_list(
        visit,
        "sim_cards/list.html",
        COLUMNS,
        wanted,
        read,
        order="imsi",
        name="sim-cards",
        statuses=STATUSES,
        chosen=status,
    )


@pages.get("/pick")
async def pick(visit: Reader) -> Response:
    """What a dialog offers where a card is chosen: those that are available."""
    wanted = Leaf(beginning=billing.leaf(visit, "imsi").beginning, limit=billing.MOST_PICKS)
    found = await billing.fetch(visit, lambda scope: sim_cards.leaf(scope, wanted, "available"))
    picks = [(one["imsi"], one["imsi"], f"ICCID {one['iccid']}") for one in found.rows]
    return visit.page("billing/_picks.html", picks=picks, more=found.has_later)


@pages.get("/{i_sim_card:int}")
async def show(visit: Reader, i_sim_card: PathNumber) -> Response:
    """One card."""
    info = await billing.fetch(visit, lambda scope: _info(scope, i_sim_card))
    return visit.page("sim_cards/show.html", card=info, statuses=STATUSES)


def _info(scope: Scope, i_sim_card: int) -> Result:
    return dict(sim_cards.get_info(scope, GetCard(i_sim_card=i_sim_card))["card_info"])


_IMSI = Field("imsi", "IMSI", help="6 to 15 digits.")
_ICCID = Field("iccid", "ICCID", help="The number that is printed on the card: 18 to 22 digits.")
_KEYS = (
    Field("ki", "Ki", kind="secret", help="32 hexadecimal digits. It is sealed, and never shown."),
    Field("opc", "OPc", kind="secret", help="32 hexadecimal digits. It is sealed, never shown."),
)
_DESCRIPTION = Field("description", "Description")
_FREE = {"available": "available", "reserved": "reserved"}


# Add cards


def _new_sheet(visit: Visit) -> Sheet:
    status = Field("status", "Status", kind="select", choices=billing.choices(_FREE))
    fields = billing.of_model(NewCard, _IMSI, _ICCID, *_KEYS, status, _DESCRIPTION)
    return Sheet("Add a SIM card", [KIND.list_crumb(visit)], [("", fields)])


@pages.get("/new")
async def ask_new(visit: Administrator) -> Response:
    """The form "Add a SIM card"."""
    return billing.show(visit, _new_sheet(visit))


@pages.post("/new")
async def create(visit: Administrator) -> Response:
    """Add a card."""

    def make(scope: Scope, sheet: Sheet, form: Form) -> int:
        params = validated(AddCard, {"card_info": sheet.given(form)})
        return int(sim_cards.add(scope, params)["i_sim_card"])

    return await billing.create(visit, KIND, lambda _: _new_sheet(visit), make)


_FILE = Field(
    "card_list",
    "CSV file",
    kind="file",
    required=True,
    help="Text in UTF-8; the first line names the columns: imsi, iccid, ki, opc, description and "
    "action, of which + (add) is what is meant where it is empty, and - removes. At most "
    f"{sim_cards.MOST_CARDS} cards; all of them are taken or, when something is wrong, none.",
)


def _upload_sheet(visit: Visit) -> Sheet:
    crumbs = [KIND.list_crumb(visit)]
    return Sheet("Upload SIM cards", crumbs, [("", [_FILE])], button="Upload")


@pages.get("/upload")
async def ask_upload(visit: Administrator) -> Response:
    """The form "Upload SIM cards"."""
    return billing.show(visit, _upload_sheet(visit))


@pages.post("/upload")
async def upload(visit: Administrator) -> Response:
    """Add and remove the cards of a file: all of them or, with an error, none."""

    def change(scope: Scope, _sheet: Sheet, form: Form) -> Outcome:
        done = sim_cards.upload(scope, _cards(form.raw("card_list")))
        visit.note(scope.connection, "sim-card.upload", "SIM cards", None, done)
        said = f"{done['added']} cards are added, {done['removed']} removed"
        return Outcome(said, visit.path("sim-cards"))

    return await billing.submit(visit, lambda _: _upload_sheet(visit), change)


def _cards(text: str) -> Upload:
    """The cards of a file. Raises InvalidRequest that names the lines that are wrong."""
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="more than there are columns")
    cards, lines = [], []
    try:
        for row in reader:
            named = {str(name).strip(): value for name, value in row.items() if value}
            cards.append({"action": "+", **named})
            lines.append(reader.line_num)
    except csv.Error as error:
        raise InvalidRequest(f"line {reader.line_num}: {error}", _FILE.name) from None
    try:
        return validated(Upload, {"card_list": cards})
    except InvalidParameters as error:
        raise InvalidParameters([_on_line(lines, *one) for one in error.problems]) from None


def _on_line(lines: Sequence[int], place: str, what: str) -> tuple[str, str]:
    """A problem with a card, on the line of the file that it stands on."""
    name, number, *column = [*place.split("."), ""]
    if not number.isdigit():
        return name, what
    said = [f"line {lines[int(number)]}", *(step for step in column if step)]
    return name, f"{', '.join(said)}: {what}"


# What can be done with a card


def _edit_parts(_visit: Visit, _scope: Scope, info: Result) -> Parts:
    codes = (info["status"], *_FREE, "disposed")
    status = Field(
        "status",
        "Status",
        kind="select",
        choices=billing.choices({code: STATUSES[code] for code in codes}),
        help="A card that an account holds is in use until it is released.",
    )
    kept = [
        Field(one.name, one.title, kind=one.kind, help=f"{one.help} Empty: it stays as it is.")
        for one in _KEYS
    ]
    shown = billing.of_model(ChangedCard, _IMSI, _ICCID, status, _DESCRIPTION)
    keys = billing.of_model(ChangedCard, *kept)
    return [("", billing.with_values(shown, info)), ("Keys", keys)]


def _edit(scope: Scope, info: Result, sheet: Sheet, form: Form) -> Outcome:
    changed = sheet.changed(form)
    named = {"i_sim_card": info["i_sim_card"], **changed}
    sim_cards.update_fields(scope, validated(UpdateCard, {"card_info": named}))
    return Outcome("Saved")


def _remove(scope: Scope, info: Result, _sheet: Sheet, _form: Form) -> Outcome:
    sim_cards.remove(scope, OneCard(i_sim_card=info["i_sim_card"]))
    return Outcome(f"The card {info['imsi']} is deleted")


KIND = Kind(
    noun="SIM card",
    plural="SIM card inventory",
    path="sim-cards",
    key="i_sim_card",
    name="imsi",
    info=_info,
    tasks={
        "edit": Task("edit", _edit_parts, _edit, secrets=("ki", "opc")),
        "delete": Task(
            "delete",
            lambda *_: (),
            _remove,
            button="Delete",
            is_danger=True,
            is_end=True,
            about="Delete this card from the inventory? This cannot be undone.",
        ),
    },
)


@pages.post("/{i_sim_card:int}/release")
async def release(visit: Administrator, i_sim_card: PathNumber) -> Response:
    """Take a card from its account, or out of reserve or disposal: it is available again."""

    def change(scope: Scope, info: Result) -> str:
        sim_cards.release(scope, OneCard(i_sim_card=info["i_sim_card"]))
        return f"The card {info['imsi']} is available"

    return await billing.act(visit, KIND, i_sim_card, "release", change)


@pages.get("/{i_sim_card:int}/{task}")
async def ask(visit: Administrator, i_sim_card: PathNumber, task: str) -> Response:
    """The form for what can be done with a card."""
    return await billing.ask(visit, KIND, i_sim_card, task)


@pages.post("/{i_sim_card:int}/{task}")
async def do(visit: Administrator, i_sim_card: PathNumber, task: str) -> Response:
    """Do what the form says."""
    return await billing.do(visit, KIND, i_sim_card, task)
