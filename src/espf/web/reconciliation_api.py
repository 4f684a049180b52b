"""/espf/v1, audits: what handlers' systems hold, compared with the billing."""

import asyncio
from dataclasses import asdict
from itertools import chain
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from espf import reconciliation, subscriptions
from espf.reconciliation import REPAIRABLE, Finding, Kind, Reconciliation, Scope
from espf.users import HANDLERS_SCOPE, OPERATE
from espf.web.contract import (
    FAULTS,
    Body,
    Call,
    Caller,
    Number,
    RequestBody,
    Scheme,
    SmallPathNumber,
    Text,
    Time,
    Whole,
)

api = APIRouter(
    prefix="/espf/v1",
    tags=["Audits"],
    dependencies=[Depends(Scheme("basic")), Depends(Scheme("bearer"))],
    responses=FAULTS,
)

Operator = Annotated[Call, Depends(Caller(HANDLERS_SCOPE, OPERATE))]

#: A name that is not empty.
Named = Annotated[Text, Field(pattern=r"[^\s\x00]")]

#: Findings that are repaired in one request.
MOST_REPAIRED = 1000


class AuditScope(BaseModel):
    """Whom an audit is about; with neither: everything."""

    accounts: list[str]
    product: str | None


class Audit(BaseModel):
    """An audit, and how far it has come.

    ``share``: about how much of its ``phase`` is done, from 0 to 1; null: nobody knows. ``repairs``
    counts the events that were put into the queue. ``remark``: what it waits for, why it failed, or
    what could not be compared.
    """

    i_reconciliation: int
    i_event_handler: int
    handler: str
    begun_by: str
    scope: AuditScope
    state: Literal["running", "done", "cancelled", "failed"]
    phase: Literal["accounts", "held", "repair"]
    share: float | None
    rate: int
    repair: bool
    accounts: int
    held_keys: int
    same: int
    different: int
    missing: int
    extra: int
    failed: int
    repairs: int
    remark: str | None
    begun_at: Time
    moved_at: Time
    ended_at: Time | None


class AuditList(BaseModel):
    """A page of audits, the newest first. ``next``: what to give as ``before``; null: no more."""

    reconciliation_list: list[Audit]
    next: int | None


class FieldDifference(BaseModel):
    """A field: what the system holds, and what the billing wants. Secrets are stars."""

    field: str
    held: str | None
    wanted: str | None


class AuditFinding(BaseModel):
    """An entry that is not as it should be; ``failed``: it could not be compared, and why.

    ``i_account`` null: by the billing it is nobody's. ``i_event`` is the event that repairs it.
    """

    i_finding: int
    kind: Kind
    key: str
    i_account: int | None
    differences: list[FieldDifference]
    reason: str | None
    i_event: int | None


class FindingList(BaseModel):
    """A page of findings. ``next``: what to give as ``after`` for more; null: there are none."""

    finding_list: list[AuditFinding]
    next: int | None


class NewAudit(RequestBody):
    """Whom to audit: some accounts, those that have a product, or with neither everything."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"accounts": ["380441234567"], "repair": True},
                {"product": "Data only"},
                {},
            ],
        },
    )

    accounts: Annotated[
        list[Named],
        Field(
            default_factory=list,
            max_length=reconciliation.MOST_ACCOUNTS,
            description="Accounts by their ids, or where nobody has such an id by i_account.",
        ),
    ]
    product: Annotated[
        Named | None, Field(description="A product by its name, or by i_product.")
    ] = None
    repair: Annotated[bool, Field(description="Have what differs put right, by the queue.")] = False
    rate: Annotated[
        int | None,
        Field(ge=1, le=10_000, description="Entries a second. Default: Audit.Rate."),
        Whole,
    ] = None


class Repair(RequestBody):
    """What is to be repaired: findings by their numbers, of some kinds, or with neither all."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"kinds": ["missing"]}, {"findings": [1]}]}
    )

    findings: Annotated[
        list[Number],
        Field(default_factory=list, max_length=MOST_REPAIRED, description="Some findings."),
    ]
    kinds: Annotated[
        list[Literal["different", "missing", "extra"]],
        Field(
            default_factory=list,
            max_length=3,
            description="Only of these kinds. Default: all that can be repaired.",
        ),
    ]


_new_audit = Body(NewAudit)
_repair = Body(Repair)

Kinds = Annotated[Kind | None, Query(description="Only of this kind.")]


@api.post("/handler/{i_event_handler:int}/reconcile", openapi_extra=_new_audit.openapi)
async def begin_audit(
    call: Operator,
    i_event_handler: SmallPathNumber,
    new: Annotated[NewAudit, Depends(_new_audit)],
) -> Audit:
    """Begin to compare what a handler's system holds with the billing; a worker carries it on."""

    def begin(connection: Connection) -> Audit:
        handler = subscriptions.find_handler(connection, call.i_env, i_event_handler)
        one = reconciliation.begin(
            connection,
            call.site.database,
            call.site.sealer,
            handler,
            Scope(tuple(new.accounts), new.product),
            call.user.login,
            repairs=new.repair,
            rate=new.rate,
        )
        told = {"audit": one.i_reconciliation, "of": str(one.scope), "repair": new.repair}
        call.note(connection, "audit.begin", f"handler {handler.name}", None, told)
        return _audit(one)

    return await call.write(begin)


@api.get("/reconciliations")
async def list_audits(
    call: Operator,
    i_event_handler: Annotated[
        int | None, Query(ge=1, lt=2**31, description="Only of this handler.")
    ] = None,
    before: Annotated[
        int | None, Query(ge=1, lt=2**31, description="Only lower numbers: the older page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> AuditList:
    """The audits of the environment, or of one handler."""

    def read(connection: Connection) -> AuditList:
        found = reconciliation.recent(connection, call.i_env, i_event_handler, before, limit + 1)
        page = found[:limit]
        more = page[-1].i_reconciliation if found[limit:] else None
        return AuditList(reconciliation_list=[_audit(one) for one in page], next=more)

    return await call.fetch(read)


@api.get("/reconciliation/{i_reconciliation:int}")
async def show_audit(call: Operator, i_reconciliation: SmallPathNumber) -> Audit:
    """An audit, and how far it has come."""
    return _audit(await call.fetch(reconciliation.find, call.i_env, i_reconciliation))


@api.get("/reconciliation/{i_reconciliation:int}/findings")
async def list_findings(
    call: Operator,
    i_reconciliation: SmallPathNumber,
    kind: Kinds = None,
    after: Annotated[Number | None, Query(description="What the page before gave as next.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> FindingList:
    """What an audit has found that is not as it should be, in the order in which it was found."""

    def read(connection: Connection) -> FindingList:
        one = reconciliation.find(connection, call.i_env, i_reconciliation)
        kinds = [] if kind is None else [kind]
        page = reconciliation.findings(connection, one.i_reconciliation, kinds, after or 0, limit)
        return FindingList(finding_list=[_finding(each) for each in page.findings], next=page.next)

    return await call.fetch(read)


@api.get(
    "/reconciliation/{i_reconciliation:int}/findings.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def export_findings(
    call: Operator, i_reconciliation: SmallPathNumber, kind: Kinds = None
) -> StreamingResponse:
    """All that an audit has found, as CSV, however much it is."""
    one = await call.fetch(reconciliation.find, call.i_env, i_reconciliation)
    kinds = [] if kind is None else [kind]
    found = reconciliation.all_findings(call.site.database, one.i_reconciliation, kinds)
    rows = (reconciliation.to_csv(some, head=n == 0) for n, some in enumerate(found))
    # What is wrong with the database is to be told before anything is sent.
    first = await asyncio.to_thread(next, rows)
    return StreamingResponse(
        chain([first], rows),
        media_type="text/csv",
        headers={"Content-Disposition": 'attachment; filename="findings.csv"'},
    )


@api.post("/reconciliation/{i_reconciliation:int}/cancel")
async def cancel_audit(call: Operator, i_reconciliation: SmallPathNumber) -> Audit:
    """End an audit; what is found stays, and repairs in the queue are done."""

    def cancel(connection: Connection) -> Audit:
        before = reconciliation.find(connection, call.i_env, i_reconciliation)
        one = reconciliation.cancel(connection, call.site.database, call.i_env, i_reconciliation)
        if before.is_running:
            told = {"audit": i_reconciliation}
            call.note(connection, "audit.cancel", f"handler {one.handler}", None, told)
        return _audit(one)

    return await call.write(cancel)


@api.post("/reconciliation/{i_reconciliation:int}/repair", openapi_extra=_repair.openapi)
async def repair_findings(
    call: Operator,
    i_reconciliation: SmallPathNumber,
    new: Annotated[Repair, Depends(_repair)],
) -> Audit:
    """Have put right what an audit has found and is not repaired: some at once, or step by step.

    An event for each goes into the queue, for this handler alone. Without ``findings`` the audit
    goes on until all are there.
    """

    def repair(connection: Connection) -> Audit:
        words = (connection, call.site.database, call.i_env, i_reconciliation)
        kinds = new.kinds or REPAIRABLE
        if new.findings:
            reconciliation.repair(*words, new.findings, kinds)
        else:
            reconciliation.repair_all(*words, kinds)
        one = reconciliation.find(connection, call.i_env, i_reconciliation)
        told = {"audit": i_reconciliation, **new.model_dump(exclude_defaults=True)}
        call.note(connection, "audit.repair", f"handler {one.handler}", None, told)
        return _audit(one)

    return await call.write(repair)


def _audit(one: Reconciliation) -> Audit:
    known = vars(one)
    return Audit(
        **{name: known[name] for name in Audit.model_fields.keys() - {"scope", "share", "repair"}},
        scope=AuditScope(accounts=list(one.scope.accounts), product=one.scope.product),
        share=one.share(),
        repair=bool(one.repairs_what),
    )


def _finding(one: Finding) -> AuditFinding:
    told = [FieldDifference(**asdict(each)) for each in one.differences]
    return AuditFinding(**{**vars(one), "differences": told})
