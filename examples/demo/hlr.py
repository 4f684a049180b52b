"""The demo of a real external system: the billing decides whether a phone may attach to a network.

OsmoHLR runs as a process of its own, on a loopback address of its own, for its ports are fixed. A
handler of ESPF brings it to the state that the billing wants. What comes of it is asked from the
network's side: by GSUP, as a VLR does when a phone attaches, and by CTRL.
"""

import json
import shutil
import socket
import struct
import subprocess
import time
from typing import Any

from gsup import DELETE_DATA, PLMN_NOT_ALLOWED, UNKNOWN_IMSI, Node
from stage import I_ENV, PATIENCE_SECONDS, ROOT, Billing, DemoFailed, Stage, say

ADDRESS = "127.0.72.1"
NUMBER = "380441234567"

_VTY, _CTRL, _GSUP = 4258, 4259, 4222

_MEANS = {
    None: "yes",
    UNKNOWN_IMSI: "no: the IMSI is unknown",
    PLMN_NOT_ALLOWED: "no: the network is not allowed",
}


def set_up(stage: Stage, address: str) -> None:
    """ESPF with a handler for OsmoHLR, and OsmoHLR, both running; it is installed if need be."""
    _require()
    stage.install({"--port": stage.port})
    # Nobody listens for what the sample installation would send.
    stage.evctl("handler", "delete", str(I_ENV), "EventSender", "--force")
    add(stage, address)
    stage.start_espf()


def add(stage: Stage, address: str) -> None:
    """Start OsmoHLR, and create a handler for it."""
    _require()
    (stage.folder / "osmo-hlr.cfg").write_text(
        f"line vty\n no login\n bind {address}\nctrl\n bind {address}\n"
        f"hlr\n database hlr.db\n gsup\n  bind ip {address}\n"
    )
    command = ("osmo-hlr", "-c", "osmo-hlr.cfg", "-l", "hlr.db")
    stage.start("OsmoHLR", *command, address=address, ports=(_VTY, _CTRL, _GSUP))
    stage.evctl(
        *("handler", "create", str(I_ENV), "HLR", "--type", "OsmoHLR", "--usual"),
        *("--set", f"OsmoHLR.Address={address}"),
    )


def _require() -> None:
    if shutil.which("osmo-hlr") is None:
        say("OsmoHLR is not installed; Debian's package osmo-hlr is fetched")
        try:
            subprocess.run([ROOT / "scripts" / "need-servers", "osmo-hlr"], check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise DemoFailed(f"OsmoHLR cannot be installed: {error}") from None


class Story:
    """What happens to a subscriber, and what the network says of it."""

    def __init__(self, stage: Stage, address: str) -> None:
        self._stage = stage
        self._address = address
        self._steps = 0
        self._call = Billing(stage.url, stage.password).call

    def play(self) -> None:
        """Do everything. Raises DemoFailed when the network says something else than it should."""
        (card,) = self._call("SIMCard/get_card_list", status="available", limit=1)["card_list"]
        self._imsi: str = card["imsi"]
        with Node(self._address, "cs") as vlr:
            self._vlr = vlr
            self._step("A phone with a SIM card from the inventory, which no account holds")
            self._attach(UNKNOWN_IMSI)
            self._step("Create an account with the SIM card and 10 on its balance")
            self._create()
            self._attach(None)
            say(f"    the network knows it as {vlr.msisdn}, and CTRL says:")
            told = self._ctrl(f"subscriber.by-imsi-{self._imsi}.info")
            say("".join(f"      {line}\n" for line in told.splitlines() if line).rstrip("\n"))
            self._step("Block it: the phone is cut off at once, and may not come back")
            self._update(blocked="Y")
            if vlr.hear(PATIENCE_SECONDS) != [DELETE_DATA]:
                raise DemoFailed("the HLR has not told the network that the phone is barred")
            say("  << the HLR tells the network to cut the phone off")
            self._attach(PLMN_NOT_ALLOWED)
            self._step("It spends its balance, and is unblocked: another reason is left")
            self._transact("Manual charge", 10)
            self._update(blocked="N")
            self._attach(PLMN_NOT_ALLOWED)
            self._step("It pays")
            self._transact("Manual payment", 25)
            self._attach(None)
        self._judge()

    def _create(self) -> None:
        info = {
            "id": NUMBER,
            "i_customer": self._call("Customer/get_customer_list")["customer_list"][0][
                "i_customer"
            ],
            "i_product": self._call("Product/get_product_list")["product_list"][0]["i_product"],
            "billing_model": -1,  # debit
            "opening_balance": 10,
            "imsi": self._imsi,
        }
        self._i_account: int = self._call("Account/add_account", account_info=info)["i_account"]
        self._settle()

    def _update(self, **fields: Any) -> None:
        info = {"i_account": self._i_account, **fields}
        self._call("Account/update_account", account_info=info)
        self._settle()

    def _transact(self, action: str, amount: float) -> None:
        what = {"i_account": self._i_account, "action": action, "amount": amount}
        self._call("Account/make_transaction", **what)
        self._settle()

    def _settle(self) -> None:
        """Wait until ESPF is done with everything."""
        end = time.monotonic() + PATIENCE_SECONDS
        while any(self._stage.live_rows().values()):
            self._stage.check_alive()
            if time.monotonic() > end:
                raise DemoFailed(f"ESPF is not done after {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.02)

    def _attach(self, expected: int | None) -> None:
        """Let the phone attach, and be told what is expected."""
        said = self._vlr.attach(self._imsi)
        say(f"  >> the phone with IMSI {self._imsi} asks to attach: {_MEANS.get(said, said)}")
        if said != expected:
            raise DemoFailed(f"the network should have said: {_MEANS[expected]}")

    def _ctrl(self, variable: str) -> str:
        """The value of a variable of the HLR, by its control interface."""
        asked = f"GET 1 {variable}".encode()
        with socket.create_connection((self._address, _CTRL), PATIENCE_SECONDS) as connection:
            connection.sendall(struct.pack("!HBB", len(asked) + 1, 0xEE, 0) + asked)
            with connection.makefile("rb") as heard:
                length, _, _ = struct.unpack("!HBB", heard.read(4))
                _, _, said = heard.read(length - 1).decode().partition(f"{variable} ")
        return said

    def _judge(self) -> None:
        """Tell what ESPF knows of it; raises DemoFailed when that is not as it should be."""
        self._step("What ESPF says of it")
        rows = json.loads(self._stage.evctl("event", "list", "--json", show=False))
        for row in reversed(rows):
            say(f"    #{row['i_event']} {row['event_type']:<29} {row['handler']}: {row['status']}")
        wrong = [row for row in rows if row["status"] != "finished" or row["handler"] != "HLR"]
        account = self._call("Account/get_account_info", i_account=self._i_account)["account_info"]
        statuses = {one["group"]: one["status"] for one in account["provisioning_statuses"]}
        say(f"    provisioning statuses of the account: {json.dumps(statuses)}")
        if wrong or not rows or statuses != {"HSS": "OK"}:
            raise DemoFailed(f"not as it should be: {wrong or statuses}")
        say(
            f"\n{len(rows)} events: all finished, and after each of them the network said what the "
            "billing wants."
        )

    def _step(self, title: str) -> None:
        self._steps += 1
        say(f"\n{self._steps}. {title}")


def suggestions(stage: Stage, address: str) -> str:
    """What can be tried while it stays up."""
    return f"""
ESPF and OsmoHLR stay up until Ctrl-C. Open the console in a browser:

  {stage.url}     login admin, password {stage.password}

Or try, in another terminal, in this directory:

  export ESPF_SETTINGS={stage.settings}
  .venv/bin/evctl handler test {I_ENV} HLR --check
  .venv/bin/evctl handler show {I_ENV} HLR

  # a change by another program: it is captured, too
  sqlite3 {stage.database} "UPDATE Accounts SET blocked = 'Y'"

  # the HLR's own command line: enable, subscriber msisdn {NUMBER} show
  telnet {address} {_VTY}
"""
