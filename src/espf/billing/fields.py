"""The types of the fields in billing requests: what may be in them, checked at the edge.

Numbers may come as digits in a text, because form-encoded clients send them so; everything else
must be what it says. The models of the requests stand beside the functions that serve them.
"""

import re
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)
from sqlalchemy import Column, ColumnElement

from espf.model import parse_time

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_MAX_KEY = 2**63 - 1

#: No control characters, hence no line breaks.
_LINE = r"^[^\x00-\x1f\x7f]*$"


class Params(BaseModel):
    """A request's parameters. An unknown name is refused: a silent typo would lose data."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is expected, not true or false")  # noqa: TRY004  (pydantic's way)
    if isinstance(value, Decimal) and value.adjusted() > 20:
        # Turning 1e999999999 into an integer would take all the memory there is.
        raise ValueError("the number is out of range")
    return value


def _billing_model(value: int) -> int:
    if value not in {-1, 0, 1, 2, 4}:
        raise ValueError(
            "-1 (debit), 0 (voucher), 1 (credit), 2 (alias) or 4 (beneficiary) is expected"
        )
    return value


def _day(value: object) -> object:
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("a date 'YYYY-MM-DD' is expected")
    try:
        day = date.fromisoformat(value)
    except ValueError:
        raise ValueError("there is no such day in the calendar") from None
    _check_year(day)
    return day


def _moment(value: object) -> datetime:
    if not isinstance(value, str) or len(value) > 64:
        raise ValueError("a time 'YYYY-MM-DD HH:MM:SS' in UTC is expected")
    try:
        moment = parse_time(value, field="a time")
    except OverflowError:
        raise ValueError("the time is out of range") from None
    _check_year(moment)
    return moment


def _check_year(day: date) -> None:
    # Far from the ends of the calendar, so that no time zone can push a moment over them.
    if not 1970 <= day.year <= 9000:
        raise ValueError("a year from 1970 to 9000 is expected")


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _time_zone(value: str) -> str:
    if value not in _time_zones():
        raise ValueError("the name of a time zone is expected, for example Europe/Prague")
    return value


Key = Annotated[int, BeforeValidator(_number), Field(ge=1, le=_MAX_KEY)]
Code = Annotated[int, BeforeValidator(_number), Field(ge=0, le=32767)]
#: 0 or 1, where the vendor uses numbers as flags.
Switch = Annotated[int, BeforeValidator(_number), Field(ge=0, le=1)]
Flag = Literal["Y", "N"]

#: Bytes or pieces of a service: a whole number, at most 10^15 at a time.
Units = Annotated[int, BeforeValidator(_number), Field(ge=0, le=10**15)]
SomeUnits = Annotated[int, BeforeValidator(_number), Field(ge=1, le=10**15)]

#: Money: at most ten places before the point and five after it.
Money = Annotated[Decimal, Field(max_digits=15, decimal_places=5, allow_inf_nan=False)]
SomeMoney = Annotated[Decimal, Field(max_digits=15, decimal_places=5, gt=0, allow_inf_nan=False)]

BillingModel = Annotated[int, BeforeValidator(_number), AfterValidator(_billing_model)]
#: 1 individual, 2 subordinate to the customer.
BalanceControl = Annotated[int, BeforeValidator(_number), Field(ge=1, le=2)]

Day = Annotated[date, BeforeValidator(_day)]
Time = Annotated[datetime, BeforeValidator(_moment)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]

Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=255, pattern=_LINE),
]
ShortName = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=120, pattern=_LINE),
]
Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=120, pattern=_LINE)]
Phone = Annotated[str, StringConstraints(strip_whitespace=True, max_length=64, pattern=_LINE)]
Email = Annotated[str, StringConstraints(strip_whitespace=True, max_length=255, pattern=_LINE)]
Comment = Annotated[str, StringConstraints(max_length=4000, pattern=r"^[^\x00]*$")]
Password = Annotated[str, StringConstraints(max_length=128, pattern=_LINE)]
#: The older way to store features: a letter, or a hyphen, for each.
ServiceFlags = Annotated[str, StringConstraints(pattern=r"^[ -~]{0,64}$")]
Search = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=_LINE)]

AccountId = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x20\x7f%]{1,128}$")]
Imsi = Annotated[str, StringConstraints(pattern=r"^[0-9]{6,15}$")]
Iccid = Annotated[str, StringConstraints(pattern=r"^[0-9]{18,22}$")]
#: Ki or OPc: 128 bits.
SimKey = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{32}$")]
#: A number as it is dialled, or a name in its place: no white space.
Number = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x20\x7f%]{1,64}$")]
Mac = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$")]
Seconds = Annotated[int, BeforeValidator(_number), Field(ge=1, le=3600)]
Percent = Annotated[int, BeforeValidator(_number), Field(ge=0, le=100)]
#: So many of something, where a few thousand is a lot.
Count = Annotated[int, BeforeValidator(_number), Field(ge=0, le=10**6)]
Service = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class Page(Params):
    """The part of a list to answer: at most ``limit`` records after the first ``offset``."""

    limit: Annotated[int, BeforeValidator(_number), Field(ge=1, le=1000)] = 1000
    offset: Annotated[int, BeforeValidator(_number), Field(ge=0, le=_MAX_KEY)] = 0


def matches(column: Column[str], pattern: str) -> ColumnElement[bool]:
    """Whether a column fits a search text, in which ``%`` stands for any characters.

    A text with a ``%`` is found in capitals and small letters.
    """
    if "%" not in pattern:
        return column == pattern
    escaped = pattern.replace("\\", "\\\\").replace("_", "\\_")
    return column.ilike(escaped, escape="\\")
