"""An audit in the whole product: what was changed by hand in an OsmoHLR is found and put right."""

import asyncio
import csv
import json
import sqlite3

import pytest

from billing_api import Api
from programs import OsmoHLR as RealHLR
from town import KI, OPC, OTHER_KI

pytestmark = [pytest.mark.e2e, pytest.mark.databases("sqlite")]

FIRST = 1_017_000_000_001
DIFFERENCES = 7


def imsi(number):
    return f"00{FIRST + number}"


def subscribers(desk, count):
    """Accounts with SIM cards in the billing of the demo; returns their numbers."""
    database = desk.database()
    api = Api(database, desk.sealer())
    api.sees_keys = True
    i_product = api("Product/add_product", product_info={"name": "Everything"})["i_product"]
    numbers = []
    for n in range(count):
        i_account = api.account(
            f"38044123{n:04}", i_product=i_product, opening_balance=10, billing_model=-1
        )
        info = {"imsi": imsi(n), "iccid": f"8901{imsi(n)}", "ki": KI, "opc": OPC}
        card = api("SIMCard/add_sim_card", card_info=info)["i_sim_card"]
        api("SIMCard/assign_sim_card", i_sim_card=card, i_account=i_account)
        numbers.append(i_account)
    api("Account/update_account", account_info={"i_account": numbers[3], "blocked": "Y"})
    database.close()
    return numbers


def drift(hlr):
    """What somebody does to the HLR by hand."""
    with sqlite3.connect(hlr.database, timeout=30) as connection:
        for statement, about in (
            ("UPDATE subscriber SET msisdn = '999', nam_ps = 0 WHERE imsi = ?", 0),
            (
                """UPDATE auc_3g SET k = ?
                WHERE subscriber_id = (SELECT id FROM subscriber WHERE imsi = ?)""",
                1,
            ),
            ("DELETE FROM subscriber WHERE imsi = ?", 2),
            ("UPDATE subscriber SET nam_cs = 1, nam_ps = 1 WHERE imsi = ?", 3),
        ):
            words = (OTHER_KI, imsi(about)) if "?" in statement[:30] else (imsi(about),)
            connection.execute(statement, words)
        connection.execute(
            "INSERT INTO subscriber (imsi, msisdn) VALUES ('001019999999999', '777')"
        )


def audited(desk, code, url, *words):
    """The audit of the handler as JSON; it must end with this code."""
    done = desk.run(
        "reconcile", 3, "HLR", *words, "--json", ESPF_LISTEN=url.removeprefix("http://")
    )
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


async def test_drift_in_a_real_hlr_is_found_field_by_field_repaired_and_gone(desk, tmp_path):
    with RealHLR() as hlr:
        desk(
            "handler",
            "create",
            3,
            "HLR",
            "--type",
            "OsmoHLR",
            "--set",
            f"OsmoHLR.Address={hlr.address}",
            "--set",
            "Audit.Rate=10000",
        )
        accounts = subscribers(desk, 12)
        async with desk.running() as url:
            await settled(desk)
            drift(hlr)
            path = tmp_path / "drift.csv"
            found = await asyncio.to_thread(
                audited, desk, DIFFERENCES, url, "--all", "--repair", "--csv", path
            )
            assert (found["different"], found["missing"], found["extra"]) == (3, 1, 1)
            assert (found["same"], found["repairs"]) == (8, 5)
            assert told(found) == {
                imsi(0): ("different", accounts[0], ["msisdn: 999 -> 380441230000", "ps: 0 -> 1"]),
                imsi(1): ("different", accounts[1], ["aud3g: *** -> ***"]),
                imsi(2): (
                    "missing",
                    accounts[2],
                    [
                        "msisdn: nothing -> 380441230002",
                        "cs: nothing -> 1",
                        "ps: nothing -> 1",
                        "aud2g: nothing -> ***",
                        "aud3g: nothing -> ***",
                    ],
                ),
                imsi(3): ("different", accounts[3], ["cs: 1 -> 0", "ps: 1 -> 0"]),
                "001019999999999": (
                    "extra",
                    None,
                    [
                        "msisdn: 777 -> nothing",
                        "cs: 1 -> nothing",
                        "ps: 1 -> nothing",
                        "aud2g: *** -> nothing",
                        "aud3g: *** -> nothing",
                    ],
                ),
            }
            with path.open() as file:
                assert [row["key"] for row in csv.DictReader(file)] == list(told(found))
            await settled(desk)
            again = await asyncio.to_thread(audited, desk, 0, url, "--all")
            assert (again["same"], again["findings"]) == (12, [])
        events = desk.json("event", "list", "--type", "Custom/Reconcile")
        assert {row["status"] for row in events} == {"finished"}
        assert {row["ordering_key"] for row in events} == {
            None,
            *(f"account:{number}" for number in accounts[:4]),
        }
        everything = desk.log_file.read_text() + "".join(
            str(desk.sql(f"SELECT * FROM {table}"))
            for table in ("Reconciliation_Findings", "Provisioning_Log", "Provisioning_Log_Texts")
        )
        assert not any(key in everything.upper() for key in (KI, OPC, OTHER_KI))


async def settled(desk):
    """Wait until nothing waits for the handler any more."""
    waiting = (
        "SELECT 1 FROM Event_Notifications n JOIN Event_Handlers h USING (i_event_handler) "
        "WHERE h.name = 'HLR' AND n.status = 'queued' LIMIT 1"
    )
    async with asyncio.timeout(90):
        while desk.sql(waiting):
            await asyncio.sleep(0.05)


def told(found):
    return {
        one["key"]: (one["kind"], one["i_account"], [in_words(each) for each in one["differences"]])
        for one in found["findings"]
    }


def in_words(difference):
    held, wanted = (difference[name] or "nothing" for name in ("held", "wanted"))
    return f"{difference['field']}: {held} -> {wanted}"
