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
    WithJsonSchema,
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


Key = Annotated[int, Field(examples=[1], ge=1, le=_MAX_KEY), BeforeValidator(_number)]
Code = Annotated[int, Field(examples=[10], ge=0, le=32767), BeforeValidator(_number)]
#: 0 or 1, where the vendor uses numbers as flags.
Switch = Annotated[int, Field(examples=[1], ge=0, le=1), BeforeValidator(_number)]
Flag = Literal["Y", "N"]

#: Months to come.
Months = Annotated[int, Field(examples=[1], ge=0, le=12), BeforeValidator(_number)]

#: Bytes or pieces of a service: a whole number, at most 10^15 at a time.
Units = Annotated[int, Field(examples=[5 * 10**9], ge=0, le=10**15), BeforeValidator(_number)]
SomeUnits = Annotated[int, Field(examples=[1000], ge=1, le=10**15), BeforeValidator(_number)]

#: Money: at most ten places before the point and five after it.
Money = Annotated[
    Decimal, Field(examples=[12.5], max_digits=15, decimal_places=5, allow_inf_nan=False)
]
SomeMoney = Annotated[
    Decimal, Field(examples=[12.5], max_digits=15, decimal_places=5, gt=0, allow_inf_nan=False)
]

BillingModel = Annotated[
    int,
    BeforeValidator(_number),
    AfterValidator(_billing_model),
    WithJsonSchema({"enum": [-1, 0, 1, 2, 4], "examples": [1]}),
]
#: 1 individual, 2 subordinate to the customer.
BalanceControl = Annotated[int, Field(examples=[1], ge=1, le=2), BeforeValidator(_number)]

Day = Annotated[
    date,
    BeforeValidator(_day),
    WithJsonSchema({"type": "string", "format": "date", "examples": ["2026-03-01"]}),
]
Time = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema(
        {
            "type": "string",
            "description": "UTC, YYYY-MM-DD HH:MM:SS, or ISO 8601 with an offset.",
            "examples": ["2026-03-01 00:00:00"],
        }
    ),
]
TimeZone = Annotated[str, AfterValidator(_time_zone), Field(examples=["Europe/Prague"])]
#: A code of ISO 639-1.
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$"), Field(examples=["en"])]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$"), Field(examples=["EUR"])]

Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=255, pattern=_LINE),
    Field(examples=["Acme"]),
]
ShortName = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=120, pattern=_LINE),
    Field(examples=["Gold"]),
]
Line = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=120, pattern=_LINE),
    Field(examples=["North"]),
]
Phone = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=64, pattern=_LINE),
    Field(examples=["+420123456789"]),
]
Email = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=255, pattern=_LINE),
    Field(examples=["ada@example.net"]),
]
Comment = Annotated[
    str, StringConstraints(max_length=4000, pattern=r"^[^\x00]*$"), Field(examples=["As agreed"])
]
Password = Annotated[
    str, StringConstraints(max_length=128, pattern=_LINE), Field(examples=["correct horse"])
]
#: The older way to store features: a letter, or a hyphen, for each.
ServiceFlags = Annotated[str, StringConstraints(pattern=r"^[ -~]{0,64}$"), Field(examples=["YN"])]
Search = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=_LINE), Field(examples=["Acme%"])
]

AccountId = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x20\x7f%]{1,128}$"), Field(examples=["380441234567"])
]
Imsi = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{6,15}$"), Field(examples=["001010000000001"])
]
Iccid = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{18,22}$"), Field(examples=["8900101000000000001"])
]
#: Ki or OPc: 128 bits.
SimKey = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9A-Fa-f]{32}$"),
    Field(examples=["0123456789abcdef0123456789abcdef"]),
]
#: A number as it is dialled, or a name in its place: no white space.
Number = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x20\x7f%]{1,64}$"), Field(examples=["420123456789"])
]
#: The network's name of a session.
SessionId = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x20\x7f]{1,128}$"), Field(examples=["5f0c21"])
]
Mac = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$"),
    Field(examples=["00:11:22:33:44:55"]),
]
Seconds = Annotated[int, Field(examples=[15], ge=1, le=3600), BeforeValidator(_number)]
Percent = Annotated[int, Field(examples=[80], ge=0, le=100), BeforeValidator(_number)]
#: So many of something, where a few thousand is a lot.
Count = Annotated[int, Field(examples=[30], ge=0, le=10**6), BeforeValidator(_number)]
Service = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$"), Field(examples=["netaccess"])
]


class Page(Params):
    """The part of a list to answer: at most ``limit`` records after the first ``offset``."""

    limit: Annotated[int, Field(examples=[100], ge=1, le=1000), BeforeValidator(_number)] = 1000
    offset: Annotated[int, Field(examples=[0], ge=0, le=_MAX_KEY), BeforeValidator(_number)] = 0


def matches(column: Column[str], pattern: str) -> ColumnElement[bool]:
    """Whether a column fits a search text, in which ``%`` stands for any characters.

    A text with a ``%`` is found in capitals and small letters.
    """
    if "%" not in pattern:
        return column == pattern
    escaped = pattern.replace("\\", "\\\\").replace("_", "\\_")
    return column.ilike(escaped, escape="\\")
