"""/espf/v1, what is wrong now."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from espf import alerts
from espf.alerts import Kind
from espf.users import HANDLERS_SCOPE
from espf.web.contract import FAULTS, Call, Caller, Scheme, Time

api = APIRouter(
    prefix="/espf/v1",
    dependencies=[Depends(Scheme("basic")), Depends(Scheme("bearer"))],
    responses=FAULTS,
    tags=["Alerts"],
)


class Alert(BaseModel):
    """Something that is wrong. ``i_env`` null: it concerns the whole installation.

    ``mailed_at`` and ``posted_at``: when people were told by e-mail and by HTTP.
    """

    kind: Kind
    about: str
    subject: str
    i_env: int | None
    since: Time
    mailed_at: Time | None
    posted_at: Time | None
    headline: str
    text: str


class AlertList(BaseModel):
    """What is wrong now, the newest first."""

    alert_list: list[Alert]


@api.get("/alerts")
async def list_alerts(call: Annotated[Call, Depends(Caller(HANDLERS_SCOPE))]) -> AlertList:
    """What is wrong in an environment; for a superuser, also in the whole installation."""
    everywhere = call.user.superuser
    found = await call.fetch(alerts.list_alerts, call.i_env, everywhere=everywhere)
    return AlertList(
        alert_list=[
            Alert(
                kind=one.kind,
                about=one.about,
                subject=one.subject,
                i_env=one.i_env,
                since=one.since,
                mailed_at=one.mailed_at,
                posted_at=one.posted_at,
                headline=alerts.headline(one),
                text=one.text,
            )
            for one in found
        ]
    )
