"""What the billing knows about an event: ``pb_data``, asked for when the event is delivered.

Part of step 5 of the walk, for ConnectorSender. What is the subscriber's own (account, SIM card,
counters) is asked for anew each time, so it is never older than the event. What many subscribers
share (product, access policy) is remembered for some seconds; an event takes a remembered answer
only when it was asked for after the event had happened.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from espf.handlers import pb_data
from espf.handlers.base import Context
from espf.handlers.pb_data import Info
from espf.handlers.subscriber import ask
from espf.model import Event, parse_time

Part = Literal[
    "account_info",
    "sim_info",
    "prev_sim_info",
    "access_policy_info",
    "product_info",
    "full_vd_counter_info",
]

#: Answers that are remembered; there are few products and policies.
MOST_REMEMBERED = 1000

#: An event says to the second when it happened, by the clock of the database; ours may differ.
CLOCK_SECONDS = 2.0

#: Parts that are made of the account's details, and all that are about the account.
_OF_DETAILS: frozenset[Part] = frozenset({"account_info", "access_policy_info", "product_info"})
_OF_ACCOUNT: frozenset[Part] = _OF_DETAILS | {"full_vd_counter_info"}


def happened_at(event: Event) -> datetime | None:
    """When an event happened, in UTC; None when it does not say so."""
    try:
        return parse_time(str(event.variables.get("event_time")), field="event_time")
    except ValueError:
        return None


class Enrichment:
    """Puts together the chosen parts for the events of one handler.

    ``ttl_seconds``: how long a product or an access policy is remembered; 0: not at all.
    """

    def __init__(self, parts: Collection[Part], ttl_seconds: float) -> None:
        self._parts = frozenset(parts)
        self._memory = _Memory(ttl_seconds)

    async def of(self, event: Event, context: Context) -> Info:
        """The parts that there are for an event, by name.

        A part is left out when the event is about nothing of the kind, or the billing does not
        know it; the journal says so. Raises TryLater or Misconfigured when the billing is away or
        refuses to answer.
        """
        about = _Questions(event, context, self._memory)
        leads_on = not about.i_account and self._parts & _OF_ACCOUNT
        card = await about.card() if "sim_info" in self._parts or leads_on else None
        about.i_account = about.i_account or (card or {}).get("i_account")
        account = await about.account() if self._parts & _OF_DETAILS else None
        found: Info = {
            "account_info": account and pb_data.account_info(account, datetime.now(UTC)),
            "sim_info": card,
        }
        others: Mapping[str, Callable[[], Awaitable[Any]]] = {
            "prev_sim_info": about.previous_card,
            "access_policy_info": partial(about.access_policy, account),
            "product_info": partial(about.product, account),
            "full_vd_counter_info": about.counters,
        }
        wanted = [part for part in others if part in self._parts]
        answers = await asyncio.gather(*(others[part]() for part in wanted))
        found |= zip(wanted, answers, strict=True)
        return {part: info for part, info in found.items() if info and part in self._parts}


class _Questions:
    """What the billing is asked about one event; each answer is None when there is none."""

    def __init__(self, event: Event, context: Context, memory: "_Memory") -> None:
        self._context = context
        self._memory = memory
        self._variables = event.variables
        moment = happened_at(event)
        self._happened_at = None if moment is None else moment.timestamp()
        self.i_account = pb_data.whole(self._variables.get("i_account"))

    async def account(self) -> Info | None:
        """The account that the event is about, as the billing describes it."""
        if not self.i_account:
            return None
        params = {"i_account": self.i_account}
        info: Info | None = await self._ask("Account", "get_account_info", params, "account_info")
        return info

    async def card(self) -> Info | None:
        """The card that the event names, else the one that its account has now."""
        for name in ("curr_i_sim_card", "i_sim_card"):
            if name in self._variables:
                return await self._card_of(name)
        if not self.i_account:
            return None
        params = {"i_account": self.i_account, "limit": 1}
        cards = await self._ask("SIMCard", "get_card_list", params, "card_list")
        return pb_data.sim_info(cards[0]) if cards else None

    async def previous_card(self) -> Info | None:
        """The card that the account had before."""
        return await self._card_of("prev_i_sim_card")

    async def access_policy(self, account: Info | None) -> Info | None:
        """The access policy of the account, or the one that the event is about."""
        if account is None:
            number = pb_data.whole(self._variables.get("i_access_policy"))
        else:
            number = pb_data.access_policy_of(account)
        policy = await self._shared("AccessPolicy", "access_policy", number, account)
        return policy and pb_data.access_policy_info(policy)

    async def product(self, account: Info | None) -> Info | None:
        """The main product of the account, or the product that the event is about."""
        source = self._variables if account is None else account
        number = pb_data.whole(source.get("i_product"))
        product = await self._shared("Product", "product", number, account)
        if product is None:
            return None
        # The priority of a main product is 0 by definition.
        default = {} if account is None else {"addon_priority": 0}
        return pb_data.product_info(default | product)

    async def counters(self) -> list[Info] | None:
        """The volume discount counters of the account."""
        if not self.i_account:
            return None
        params = {"i_account": self.i_account}
        rows = await self._ask("Account", "get_full_vd_counter_info", params, "vd_counter_info")
        return rows and [pb_data.counter_info(row) for row in rows]

    async def _card_of(self, variable: str) -> Info | None:
        """The card that a variable names. Of one that is gone: what the event says of it."""
        number = pb_data.whole(self._variables.get(variable))
        if number is None:
            return None
        params = {"i_sim_card": number}
        card = await self._ask("SIMCard", "get_card_info", params, "card_info")
        if card is None:
            card = {**(self._variables if variable == "i_sim_card" else {}), **params}
        return pb_data.sim_info(card)

    async def _shared(
        self, service: str, name: str, number: int | None, account: Info | None
    ) -> Info | None:
        """What accounts have in common. An event about the thing itself asks for it anew."""
        if number is None:
            return None
        key = (service, number)
        known = None if account is None else self._memory.recall(key, self._happened_at)
        if known is not None:
            return known
        asked_at = time.time()
        params = {f"i_{name}": number}
        info: Info | None = await self._ask(service, f"get_{name}_info", params, f"{name}_info")
        if info is not None:
            self._memory.keep(key, asked_at, info)
        return info

    async def _ask(self, service: str, method: str, params: Mapping[str, Any], answer: str) -> Any:
        """One member of the billing's answer."""
        return await ask(self._context, service, method, params, answer)


class _Memory:
    """Answers of the last seconds, with the time at which each was asked for."""

    def __init__(self, ttl_seconds: float) -> None:
        self._ttl_seconds = ttl_seconds
        self._known: dict[tuple[str, int], tuple[float, Info]] = {}

    def keep(self, key: tuple[str, int], asked_at: float, info: Info) -> None:
        """Remember an answer."""
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        if self._ttl_seconds:
            self._known[key] = (asked_at, info)

    def recall(self, key: tuple[str, int], happened_at: float | None) -> Info | None:
        """An answer that is young enough, and certainly younger than the event."""
        if key not in self._known or happened_at is None:
            return None
        asked_at, info = self._known[key]
        fresh = 0 <= time.time() - asked_at < self._ttl_seconds
        return info if fresh and asked_at >= happened_at + CLOCK_SECONDS else None
