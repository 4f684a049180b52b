"""Entries of one handler's system compared with the billing: so many a second, a step at a time.

Reads only. Who has an entry is asked of the billing, account by account, and what is held of the
handler; at the end of an audit of everything, the other way round.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from espf.attempt import presentable
from espf.errors import BillingFault, HandlerError, Misconfigured, Rejected, TryLater
from espf.handlers import pb_data, subscriber
from espf.handlers.account_pages import accounts_after
from espf.handlers.base import Billing, Context
from espf.handlers.desired import Change, DesiredStateHandler, Difference
from espf.handlers.http import Http, HttpClient, masked, storable
from espf.reconciliation import ACCOUNTS, HELD, Finding, Kind, Reconciliation, Scope, Step

T = TypeVar("T")

#: About how long a step takes, at the rate that is set; and how many accounts it has at most.
STEP_SECONDS = 2.0
MOST_ACCOUNTS = 500

#: What is not as it should be is compared again after so long: it may just be on its way.
AGAIN_SECONDS = 0.5

#: How long one comparison may take.
COMPARE_SECONDS = 60.0


@dataclass(frozen=True)
class _Compared:
    """What came of comparing one entry, or with ``is_account`` of asking for an account.

    ``finding`` None: it is as it should be. ``for_now``: it could not be told now.
    """

    finding: Finding | None
    for_now: bool = False
    is_account: bool = False

    @property
    def is_doubtful(self) -> bool:
        """Whether it may be otherwise a moment later."""
        return self.finding is not None and (self.for_now or self.finding.kind != "failed")


def _require_some(compared: Sequence[_Compared]) -> None:
    """Raise TryLater when nothing at all could be compared now."""
    if compared and all(each.for_now for each in compared) and compared[0].finding is not None:
        raise TryLater(compared[0].finding.text)


class Comparison:
    """Compares entries of one handler, so many a second and so many at a time."""

    def __init__(
        self, handler: DesiredStateHandler, client: HttpClient, billing: Billing, rate: int
    ) -> None:
        self._handler = handler
        self._client = client
        self._billing = billing
        self._rate = rate
        self._slots = asyncio.Semaphore(handler.settings.concurrency)
        self._next = 0.0

    async def step(self, one: Reconciliation) -> Step:
        """What comes next in an audit. Raises TryLater when nothing can be compared now."""
        if one.phase == HELD:
            return await self._held(one)
        if one.scope.accounts:
            return await self._named(one)
        return await self._listed(one)

    # Whom there is

    async def _listed(self, one: Reconciliation) -> Step:
        """The next accounts that the billing lists."""
        chosen = await self._chosen(one.scope)
        last = one.last_account or await self._last_account(chosen)
        at = int(one.reached or 0)
        limit = max(1, min(MOST_ACCOUNTS, round(STEP_SECONDS * one.rate)))
        page = await self._page(at, {**chosen, "limit": limit})
        if not page:
            return Step(HELD if one.scope.is_all else None, last_account=last)
        step = await self._of_accounts([account["i_account"] for _, account in page])
        return replace(step, reached=str(page[-1][0]), last_account=last)

    async def _named(self, one: Reconciliation) -> Step:
        """The accounts that were named, some at a time."""
        at = int(one.reached or 0)
        names = one.scope.accounts[at : at + round(max(1, STEP_SECONDS * one.rate))]
        if not names:
            return Step(None)
        numbers, unknown = [], []
        for name in names:
            try:
                numbers.append(await self._number_of(name))
            except HandlerError as error:
                unknown.append(Finding(name, "failed", reason=str(error)))
        step = await self._of_accounts(numbers, patient=False)
        done = at + len(names)
        return replace(
            step,
            phase=ACCOUNTS if done < len(one.scope.accounts) else None,
            reached=str(done),
            findings=[*step.findings, *unknown],
        )

    async def _number_of(self, name: str) -> int:
        """The account of an id, or of a number where nobody has such an id. Raises Rejected."""
        context = self._context(self._billing)
        owner = await subscriber.by_id(context, name)
        number = int(name) if name.isascii() and name.isdigit() and len(name) < 19 else 0
        if owner is None and number:
            owner = await subscriber.by_account(context, number)
        if owner is None:
            raise Rejected("the billing has no account of this id or i_account")
        return owner.i_account

    async def _chosen(self, scope: Scope) -> dict[str, Any]:
        """The parameters by which the billing lists those in question. Raises Misconfigured."""
        if scope.product is None:
            return {}
        i_product = await self._product(scope.product)
        by_key = self._handler.settings.audit_paging == "key"
        return {"i_product": i_product, **({"with_addons": 1} if by_key else {})}

    async def _product(self, name: str) -> int:
        """The number of a product, by its name, or else by that. Raises Misconfigured."""
        known: dict[str, int] = {}
        try:
            answer = await self._billing.call("Product", "get_product_list", {"name": name})
            for product in pb_data.listed(answer, "product_list"):
                known[str(product.get("name"))] = int(product["i_product"])
            if name not in known and name.isascii() and name.isdigit() and len(name) < 19:
                params = {"i_product": int(name)}
                await self._billing.call("Product", "get_product_info", params)
                return int(name)
        except BillingFault as fault:
            raise Misconfigured(
                f"the billing does not know the product {name!r}: {fault}"
            ) from None
        if name not in known:
            raise Misconfigured(f"the billing has no product {name!r}")
        return known[name]

    async def _page(
        self, at: int, params: Mapping[str, Any]
    ) -> Sequence[tuple[int, Mapping[str, Any]]]:
        paging = self._handler.settings.audit_paging
        return await accounts_after(self._billing, paging, at, params, option="Audit.Paging")

    async def _last_account(self, chosen: Mapping[str, Any]) -> int | None:
        """The number of the last account, found by a few looks, for people who wait."""
        if self._handler.settings.audit_paging != "key":
            return None
        one = {**chosen, "limit": 1}
        low, high = 0, 1
        while high < 2**62 and (page := await self._page(high, one)):
            low, high = page[0][0], 2 * page[0][0]
        while low + 1 < high:
            middle = (low + high) // 2
            if page := await self._page(middle, one):
                low = page[0][0]
            else:
                high = middle
        return max(low, 1)

    # What is compared

    async def _of_accounts(self, numbers: Sequence[int], *, patient: bool = True) -> Step:
        """Compare all entries of some accounts.

        Raises TryLater when nothing at all can be compared and one is to be ``patient``.
        """
        found = await _all(self._of_account(number) for number in numbers)
        first = [each for some in found for each in some]
        if patient:
            _require_some(first)
        compared = await self._settled(first)
        return Step(
            ACCOUNTS,
            accounts=len(numbers),
            same=sum(each.finding is None for each in compared),
            findings=[each.finding for each in compared if each.finding is not None],
        )

    async def _of_account(self, number: int) -> list[_Compared]:
        async with self._slots:
            await self._turn()
            # Asked once, its answer does for the comparison, too.
            known = subscriber.Remembering(self._billing)
            context = self._context(known)
            try:
                owner = await subscriber.by_account(
                    context, number, keys=self._handler.needs_card_keys
                )
                keys = () if owner is None else self._handler.keys_of(owner)
            except Exception as error:  # noqa: BLE001  (a foreign handler may raise anything)
                judged = self._judged(str(number), number, error, context)
                return [replace(judged, is_account=True)]
            return [await self._compared(key, number, known) for key in keys]

    async def _held(self, one: Reconciliation) -> Step:
        """The next keys that the system holds: those that are nobody's are too many."""
        context = self._context(self._billing)
        try:
            async with asyncio.timeout(COMPARE_SECONDS):
                keys = await self._handler.held_keys(one.reached or None, context)
        except TimeoutError:
            raise TryLater(
                f"the system does not list what it holds within {COMPARE_SECONDS:g} s"
            ) from None
        except Rejected as error:
            said = presentable(error, context.secrets)
            return Step(None, remark=f"what the system holds for nobody was not looked for: {said}")
        except HandlerError as error:
            raise presentable(error, context.secrets) from None
        if not keys:
            return Step(None)
        if keys[-1] == one.reached:
            raise Misconfigured(f"the system lists {keys[-1]!r} again after itself")
        first = await _all(self._nobodys(key) for key in keys)
        _require_some(first)
        found = [each.finding for each in await self._settled(first) if each.finding is not None]
        # What somebody has got meanwhile, its own events bring there.
        findings = [each for each in found if each.kind in {"extra", "failed"}]
        return Step(HELD, reached=keys[-1], held_keys=len(keys), findings=findings)

    async def _nobodys(self, key: str) -> _Compared:
        """An entry that the system holds: what somebody has was compared with the accounts."""
        async with self._slots:
            await self._turn()
            known = subscriber.Remembering(self._billing)
            context = self._context(known)
            try:
                owner = await self._handler.owner_of(key, context)
                if owner is not None and key in self._handler.keys_of(owner):
                    return _Compared(None)
            except Exception as error:  # noqa: BLE001  (a foreign handler may raise anything)
                return self._judged(key, None, error, context)
            return await self._compared(key, None if owner is None else owner.i_account, known)

    async def _settled(self, compared: Sequence[_Compared]) -> list[_Compared]:
        """The same, what may be otherwise soon once more: an event may just be on its way."""
        doubtful = [each for each in compared if each.is_doubtful]
        if not doubtful:
            return list(compared)
        await asyncio.sleep(AGAIN_SECONDS)
        again = await _all(map(self._again, doubtful))
        sure = [each for each in compared if not each.is_doubtful]
        return sure + [each for some in again for each in some]

    async def _again(self, before: _Compared) -> list[_Compared]:
        finding = before.finding
        assert finding is not None
        if before.is_account and finding.i_account is not None:
            return await self._of_account(finding.i_account)
        async with self._slots:
            await self._turn()
            return [await self._compared(finding.key, finding.i_account, self._billing)]

    async def _compared(self, key: str, i_account: int | None, billing: Billing) -> _Compared:
        context = self._context(billing)
        try:
            async with asyncio.timeout(COMPARE_SECONDS):
                change = await self._handler.compare(key, context)
        except Exception as error:  # noqa: BLE001  (a foreign handler may raise anything)
            return self._judged(key, i_account, error, context)
        if change.kind == "same":
            return _Compared(None)
        return _Compared(self._different(change, change.kind, i_account, context))

    def _different(
        self, change: Change, kind: Kind, i_account: int | None, context: Context
    ) -> Finding:
        def shown(text: str | None) -> str | None:
            return None if text is None else storable(masked(text, context.secrets))

        told = change.differences(self._handler.secret_fields)
        differences = [
            Difference(each.field, shown(each.held), shown(each.wanted)) for each in told
        ]
        return Finding(storable(change.key), kind, i_account, differences)

    def _judged(
        self, key: str, i_account: int | None, error: Exception, context: Context
    ) -> _Compared:
        """What keeps an entry from being compared. Raises what is about the handler itself."""
        if isinstance(error, Misconfigured):
            raise presentable(error, context.secrets) from None
        if isinstance(error, TimeoutError):
            error = TryLater(f"no answer within {COMPARE_SECONDS:g} s")
        known = isinstance(error, (HandlerError, BillingFault))
        said = error if known else TryLater(f"{type(error).__name__}: {error}")
        reason = str(presentable(said, context.secrets))
        finding = Finding(storable(key), "failed", i_account, reason=reason)
        return _Compared(finding, for_now=isinstance(error, (TryLater, BillingFault)))

    def _context(self, billing: Billing) -> Context:
        hidden = [*self._handler.secrets()]
        return Context(Http(self._client, hidden), billing, 1, _NoOutlet(), secrets=hidden)

    async def _turn(self) -> None:
        """Wait until one more may be compared."""
        now = asyncio.get_running_loop().time()
        mine = max(now, self._next)
        self._next = mine + 1 / self._rate
        await asyncio.sleep(mine - now)


class _NoOutlet:
    """The way of an audit into the queue: it makes no events."""

    async def reached(self) -> str | None:
        """See Outlet."""
        return None

    async def emit(
        self,
        event_type: str,  # noqa: ARG002  (nobody makes any)
        events: Sequence[tuple[str, Mapping[str, Any]]],  # noqa: ARG002
        reached: str,  # noqa: ARG002
    ) -> None:
        """See Outlet."""
        raise AssertionError("an audit makes no events")


async def _all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of these come to; when one fails, the others end."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
