"""The main job, for real: from a change in the billing database to the external application.

Starts ESPF and the sample application as processes of their own, changes the billing over its API
as an administrator and a network would, prints every POST as it arrives at the application, and at
the end what became of every event. Nothing is simulated but the calendar: the custom event "the
new month has started" is scheduled some seconds ahead instead of for the first of the month.

``--once`` ends by itself: exit code 0 only if everything arrived as it should. ``--hlr`` plays
another story: a real home location register, and a phone that may attach or may not.
"""

import argparse
import json
import secrets
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hlr
from stage import (
    FAILS_ONCE,
    NEXT_MONTH,
    PATIENCE_SECONDS,
    ROOT,
    Billing,
    DemoFailed,
    Stage,
    differences,
    say,
)

SERVICE = "netaccess"
GIGABYTE = 10**9
TIME = "%Y-%m-%d %H:%M:%S"


class Story:
    """What happens in the demo, step by step, and what the application must hear of it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._steps = 0
        self.expected: dict[str, list[str]] = {}
        self._step("Log in and look around")
        self._call = Billing(stage.url, stage.password).call
        self._now = datetime.now(UTC)
        self._i_product: int = self._call("Product/get_product_list")["product_list"][0][
            "i_product"
        ]
        customer = self._call("Customer/get_customer_list")["customer_list"][0]
        self._i_customer: int = customer["i_customer"]
        self._customer_funds: float = customer["available_funds"]
        self._mobile = self._prepaid = 0

    def play(self) -> None:
        """Do everything, waiting for each step's events to arrive."""
        self._create_mobile_account()
        self._block_and_unblock()
        self._change_everything()
        self._spend_the_customers_funds()
        self._use_up_the_quota()
        self._start_a_new_month()

    def _create_mobile_account(self) -> None:
        self._step("Run tests: a mobile account with a SIM card from the inventory")
        (card,) = self._call("SIMCard/get_card_list", status="available", limit=1)["card_list"]
        self._mobile = self._add_account(
            id="380441234567",
            billing_model=1,  # credit
            i_account_balance_control_type=2,  # subordinate: spends the customer's funds
            imsi=card["imsi"],
        )
        self._expect(self._mobile, "Account/New", "Account/SIMCardAssignment")
        self._wait()

    def _block_and_unblock(self) -> None:
        self._step("Block and unblock it; meanwhile, an account with its own funds")
        say(
            "  The application is made to fail once, and ESPF tries again a second later. Unblocked"
        )
        say("  waits behind Blocked, since it is of the same account; the new account does not:")
        self._update(self._mobile, blocked="Y")
        self._update(self._mobile, blocked="N")
        self._prepaid = self._add_account(
            id="380447654321",
            billing_model=-1,  # debit
            opening_balance=10,
        )
        self._expect(self._prepaid, "Account/New")
        self._expect(self._mobile, "Account/Blocked", "Account/Unblocked")
        self._wait()

    def _change_everything(self) -> None:
        self._step("Change its number, its product and both of its passwords")
        quota = {"service": SERVICE, "monthly_amount": 20 * GIGABYTE}
        product = {"name": "LTE Product L", "quotas": [quota]}
        i_product = self._call("Product/add_product", product_info=product)["i_product"]
        self._update(self._mobile, id="380449999999")
        self._update(self._mobile, i_product=i_product)
        self._update(self._mobile, password=secrets.token_urlsafe(9))
        self._update(self._mobile, h323_password=secrets.token_urlsafe(9))
        self._expect(self._mobile, "Account/ID/Changed", "Account/Product/Changed")
        self._expect(self._mobile, "Account/Password/Changed", "Account/ServicePassword/Changed")
        self._wait()

    def _spend_the_customers_funds(self) -> None:
        self._step("The customer runs out of funds and pays, is blocked and unblocked")
        self._transact(self._mobile, "Manual charge", self._customer_funds)
        self._transact(self._mobile, "Manual payment", self._customer_funds)
        for blocked in ("Y", "N"):
            info = {"i_customer": self._i_customer, "blocked": blocked}
            self._call("Customer/update_customer", customer_info=info)
        self._expect_of_customer("Customer/ZeroAvailableFunds", "Customer/AvailableFundsAppear")
        self._expect_of_customer("Customer/Blocked", "Customer/Unblocked")
        self._wait()

    def _use_up_the_quota(self) -> None:
        self._step("Both accounts use up their monthly quota, and the second one its funds")
        for i_account in (self._mobile, self._prepaid):
            self._authorise(i_account, self._now)
        self._transact(self._prepaid, "Manual charge", 10)
        self._expect(self._prepaid, "Account/ZeroAvailableFunds")
        for i_account in (self._mobile, self._prepaid):
            self._count("record", i_account, 21 * GIGABYTE, self._now)
            self._expect(i_account, "Account/Service/Netaccess/QuotaExceeded")
        self._wait()
        self._authorise(self._mobile, self._now, expected="N")

    def _start_a_new_month(self) -> None:
        self._step("The application has scheduled the new month, and looks at the funds again")
        for i_account in (self._mobile, self._prepaid):
            self._expect(i_account, NEXT_MONTH)
        self._wait()
        self._step("The first authorisations of the new month allocate the quota")
        say("  The billing tells the month by the network's time stamp, event_time: here the first")
        say("  minute of the next month.")
        month = (self._now.replace(day=1) + timedelta(days=32)).replace(day=1)
        minute = month.replace(hour=0, minute=0, second=0)
        self._authorise(self._mobile, minute)
        self._authorise(self._prepaid, minute, expected="N")
        say("  The second one has no funds. It tops up its service wallet, and later it pays:")
        self._count("top_up", self._prepaid, GIGABYTE, minute)
        self._authorise(self._prepaid, minute)
        self._transact(self._prepaid, "Manual payment", 25)
        self._expect(self._prepaid, "Account/Service/QuotaAvailable")
        self._expect(self._prepaid, "Account/AvailableFundsAppear")
        self._wait()

    def _step(self, title: str) -> None:
        self._steps += 1
        say(f"\n{self._steps}. {title}")

    def _expect(self, i_account: int, *types: str) -> None:
        self.expected.setdefault(f"account:{i_account}", []).extend(types)

    def _expect_of_customer(self, *types: str) -> None:
        self.expected.setdefault(f"customer:{self._i_customer}", []).extend(types)

    def _wait(self) -> None:
        self._stage.wait_for(self.expected)

    def _add_account(self, **fields: Any) -> int:
        info = {
            "i_customer": self._i_customer,
            "i_product": self._i_product,
            "i_account_role": 3,  # mobile
            "activation_date": f"{self._now:%Y-%m-%d}",
            **fields,
        }
        return int(self._call("Account/add_account", account_info=info)["i_account"])

    def _update(self, i_account: int, **fields: Any) -> None:
        self._call("Account/update_account", account_info={"i_account": i_account, **fields})

    def _transact(self, i_account: int, action: str, amount: float) -> None:
        self._call("Account/make_transaction", i_account=i_account, action=action, amount=amount)

    def _authorise(self, i_account: int, moment: datetime, expected: str = "Y") -> None:
        use = {"i_account": i_account, "service": SERVICE, "event_time": f"{moment:{TIME}}"}
        answer = self._call("Usage/authorise", **use)
        say(f"    {json.dumps(answer)}")
        if answer["authorised"] != expected:
            raise DemoFailed(f"the billing should have answered {expected}")

    def _count(self, method: str, i_account: int, amount: int, moment: datetime) -> None:
        use = {"i_account": i_account, "service": SERVICE, "event_time": f"{moment:{TIME}}"}
        self._call(f"Usage/{method}", **use, amount=amount)


def list_events(stage: Stage) -> list[dict[str, Any]]:
    """Print a table of all events and their verdicts, oldest first, and return its rows."""
    listed = json.loads(
        stage.evctl("event", "list", "--json", "--limit", "10000", show=False),
    )
    rows: list[dict[str, Any]] = sorted(listed, key=lambda row: int(row["i_event"]))
    taken = stage.arrivals.taken()
    say(f"\n{'EVENT':>5}  {'TYPE':<39}  {'ABOUT':<10}  {'ATTEMPTS':>8}  {'VERDICT':<8}  ARRIVED")
    for row in rows:
        arrival = taken.get(row["i_event"])
        say(
            f"{row['i_event']:>5}  {row['event_type']:<39}  {row['key']:<10}  "
            f"{row['attempts']:>8}  {row['status']:<8}  "
            + (f"{arrival.at:%H:%M:%S.%f}"[:-3] if arrival else "-")
        )
    return rows


def problems(stage: Stage, story: Story, rows: list[dict[str, Any]]) -> list[str]:
    """What did not happen as it should; an empty list if everything did."""
    found = differences(story.expected, stage.arrivals.types())
    found += [
        f"event {row['i_event']} {row['event_type']} is {row['status']}: {row['reason']}"
        for row in rows
        if row["status"] != "finished"
    ]
    if not any(row["event_type"] == FAILS_ONCE and row["attempts"] > 1 for row in rows):
        found.append(f"no retry of {FAILS_ONCE} was seen")
    taken, due = stage.arrivals.taken(), stage.arrivals.due()
    for i_event, arrival in taken.items():
        scheduled = arrival.event_type == NEXT_MONTH
        if scheduled and not (i_event in due and arrival.at >= due[i_event]):
            found.append(f"event {i_event} came at {arrival.at}, due at {due.get(i_event)}")
    logged = sum("verdict=finished" in line for line in stage.log_lines())
    if logged != len(rows):
        found.append(f"{logged} events are finished in {stage.log}, not {len(rows)}")
    found += [
        f"{count} rows are left in {table}" for table, count in stage.live_rows().items() if count
    ]
    return found


def judge(stage: Stage, story: Story) -> bool:
    """Tell what became of every event; returns whether everything happened as it should."""
    # The application has everything; ESPF notes the last answer a moment later.
    end = time.monotonic() + PATIENCE_SECONDS
    while any(stage.live_rows().values()) and time.monotonic() < end:
        time.sleep(0.05)
    rows = list_events(stage)
    say(f"\nWhat {stage.log} says of retries:")
    retries = [line for line in stage.log_lines() if "verdict=retry" in line]
    say("".join(f"  {line}\n" for line in retries).rstrip("\n"))
    if wrong := problems(stage, story, rows):
        say("\nNot as it should be:\n" + "\n".join(f"  {problem}" for problem in wrong))
        return False
    repeated = sum(row["attempts"] > 1 for row in rows)
    say(
        f"\n{len(rows)} events of {len(story.expected)} subscribers: all finished, in order for "
        f"each subscriber, {repeated} after a retry; the live tables are empty."
    )
    return True


def stay(stage: Stage) -> None:
    """Wait for Ctrl-C."""
    while True:
        stage.check_alive()
        time.sleep(0.5)


def suggestions(stage: Stage) -> str:
    """What can be tried while it stays up."""
    return f"""
ESPF and the application stay up until Ctrl-C. Open the console in a browser:

  {stage.url}     login admin, password {stage.password}

Or try, in another terminal, in this directory:

  export ESPF_SETTINGS={stage.settings}
  .venv/bin/evctl event list
  .venv/bin/evctl event show 3            # every attempt, with request and reply
  .venv/bin/evctl handler show 3 EventSender

  # an event of your own, over the ESPF API
  curl -u admin:{stage.password} -H 'Content-Type: application/json' \\
    -d '{{"event_type":"{NEXT_MONTH}","variables":{{"i_account":1}}}}' \\
    {stage.url}/espf/v1/event/create

  # a change by another program: it is captured, too
  sqlite3 {stage.database} \\
    "UPDATE Accounts SET blocked = 'Y' WHERE i_account = 1"
"""


def play(stage: Stage) -> bool:
    """From a change in the billing to an application; whether everything happened as it should."""
    stage.set_up()
    story = Story(stage)
    story.play()
    return judge(stage, story)


def play_hlr(stage: Stage, address: str) -> bool:
    """From a change in the billing to a phone that may attach or may not."""
    hlr.set_up(stage, address)
    hlr.Story(stage, address).play()
    return True


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Watch the main job of ESPF happen.")
    parser.add_argument("--once", action="store_true", help="end when everything has happened")
    parser.add_argument("--hlr", action="store_true", help="with a real OsmoHLR, and a phone")
    parser.add_argument(
        "--hlr-address", default=hlr.ADDRESS, help=f"its loopback address [{hlr.ADDRESS}]"
    )
    parser.add_argument("--port", type=int, default=8080, help="of ESPF's APIs [8080]")
    parser.add_argument("--app-port", type=int, default=5000, help="of the application [5000]")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "var" / "demo", help="made anew [var/demo]"
    )
    return parser.parse_args()


def main() -> int:
    """Play the demo; returns the exit code."""
    options = arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    stage = Stage(options.folder, options.port, options.app_port)
    good = False
    try:
        good = play_hlr(stage, options.hlr_address) if options.hlr else play(stage)
        if not options.once:
            told = (
                hlr.suggestions(stage, options.hlr_address) if options.hlr else suggestions(stage)
            )
            say(told)
            stay(stage)
    except DemoFailed as failure:
        say(f"\nThe demo failed: {failure}")
        say(f"See what is there: ESPF_SETTINGS={stage.settings} .venv/bin/evctl event list")
        return 1
    except KeyboardInterrupt:
        say("\nStopped")
        return 0 if good else 130
    finally:
        stage.close()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
