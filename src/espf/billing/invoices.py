"""Invoices: what a customer is asked to pay, what is changed about it later, and what is paid.

What is due is the amount with its adjustments, less what has been paid. A charge has raised the
customer's balance when it happened, so issuing an invoice moves no money; paying and adjusting do.
"""

from decimal import Decimal
from typing import Any, Literal

from pydantic import field_validator
from sqlalchemy import Row

from espf.billing import clock, customers, payments
from espf.billing.fields import Comment, Day, Key, Money, Number, Page, Params, SomeMoney
from espf.billing.scope import Result, Scope
from espf.billing.tables import invoices
from espf.errors import BillingFault

ENTITY = "Invoice"

Status = Literal["unpaid", "partially_paid", "paid", "void"]


class NewInvoice(Params):
    """The fields of a new invoice; ``issue_date`` is today's in the customer's time zone."""

    i_customer: Key
    invoice_number: Number
    amount: SomeMoney
    due_date: Day | None = None


class AddInvoice(Params):
    """Parameters of add."""

    invoice_info: NewInvoice


class OneInvoice(Params):
    """Names an invoice."""

    i_invoice: Key


class Pay(OneInvoice):
    """Parameters of pay."""

    amount: SomeMoney
    visible_comment: Comment | None = None


class Adjust(OneInvoice):
    """Parameters of apply_adjustment. ``amount`` is added; below 0 it is taken off."""

    amount: Money
    visible_comment: Comment | None = None

    @field_validator("amount")
    @classmethod
    def _is_something(cls, value: Decimal) -> Decimal:
        if value == 0:
            raise ValueError("an amount other than 0 is expected")
        return value


class ListInvoices(Page):
    """Parameters of get_list."""

    i_customer: Key | None = None
    invoice_status: Status | None = None


def add(scope: Scope, params: AddInvoice) -> Result:
    """Issue an invoice.

    Raises the faults ``Server.Customer.not_found``, ``.closed`` and
    ``Server.Invoice.duplicate_number``.
    """
    info = params.invoice_info
    customer = scope.open_customer(info.i_customer)
    text = f"there is an invoice {info.invoice_number!r} already"
    with scope.unless_taken(f"Server.{ENTITY}.duplicate_number", text):
        number = scope.insert(
            invoices,
            **info.model_dump(),
            iso_4217=customer.iso_4217,
            issue_date=clock.local_day(scope.now, customer.time_zone_name),
        )
    return {"i_invoice": number}


def get_info(scope: Scope, params: OneInvoice) -> Result:
    """One invoice."""
    return {"invoice_info": _described(_find(scope, params.i_invoice))}


def get_list(scope: Scope, params: ListInvoices) -> Result:
    """The environment's invoices, in the order in which they were issued."""
    exact = params.model_dump(include={"i_customer", "invoice_status"}, exclude_none=True)
    wanted = (invoices.c[name] == value for name, value in exact.items())
    return {"invoice_list": [_described(row) for row in scope.page(invoices, params, *wanted)]}


def pay(scope: Scope, params: Pay) -> Result:
    """Pay an invoice, or a part of it: the customer owes less by what is paid.

    Raises the faults ``Server.Invoice.not_found``, ``.void`` and ``.amount_exceeds_due``.
    """
    invoice = _open(scope, params.i_invoice)
    paid = invoice.amount_paid + params.amount
    if paid > _total(invoice):
        raise BillingFault(
            f"Server.{ENTITY}.amount_exceeds_due", "that is more than is left to pay of the invoice"
        )
    entry = payments.Entry("Invoice payment", params.amount, params.visible_comment)
    payments.for_customer(scope, invoice.i_customer, params.amount, entry)
    return _changed(scope, invoice, amount_paid=paid)


def apply_adjustment(scope: Scope, params: Adjust) -> Result:
    """Change what an invoice asks for, and what the customer owes with it.

    Raises the faults ``Server.Invoice.not_found``, ``.void`` and ``.amount_out_of_range``.
    """
    invoice = _open(scope, params.i_invoice)
    adjustments = invoice.adjustments + params.amount
    if not 0 <= invoice.amount + adjustments <= payments.MAX_BALANCE:
        raise BillingFault(
            f"Server.{ENTITY}.amount_out_of_range",
            "the invoice would ask for less than nothing, or for too much",
        )
    entry = payments.Entry("Invoice adjustment", params.amount, params.visible_comment)
    payments.for_customer(scope, invoice.i_customer, -params.amount, entry)
    return _changed(scope, invoice, adjustments=adjustments)


def void(scope: Scope, params: OneInvoice) -> Result:
    """Declare an invoice void of which nothing is paid. Repeating it changes nothing.

    Raises the faults ``Server.Invoice.not_found`` and ``.paid``.
    """
    invoice = _find(scope, params.i_invoice, lock=True)
    if invoice.amount_paid > 0:
        raise BillingFault(f"Server.{ENTITY}.paid", "the invoice is paid, or a part of it")
    scope.change(invoices, invoice, {"invoice_status": "void"})
    return {"i_invoice": invoice.i_invoice}


def _find(scope: Scope, i_invoice: int, *, lock: bool = False) -> Row[Any]:
    return scope.find(invoices, ENTITY, invoices.c.i_invoice == i_invoice, lock=lock)


def _open(scope: Scope, i_invoice: int) -> Row[Any]:
    """The row of an invoice that is not void, locked after its customer."""
    customers.find(scope, _find(scope, i_invoice).i_customer, lock=True)
    invoice = _find(scope, i_invoice, lock=True)
    if invoice.invoice_status == "void":
        raise BillingFault(f"Server.{ENTITY}.void", "the invoice is void")
    return invoice


def _total(invoice: Row[Any]) -> Decimal:
    total: Decimal = invoice.amount + invoice.adjustments
    return total


def _changed(scope: Scope, invoice: Row[Any], **amounts: Decimal) -> Result:
    """Write the amounts and the status that follows from them."""
    total = invoice.amount + amounts.get("adjustments", invoice.adjustments)
    paid = amounts.get("amount_paid", invoice.amount_paid)
    status = "partially_paid" if paid > 0 else "unpaid"
    if paid >= total:
        status = "paid"
    scope.change(invoices, invoice, {**amounts, "invoice_status": status})
    return {"i_invoice": invoice.i_invoice, "amount_due": max(total - paid, Decimal(0))}


_SHOWN = (
    "i_invoice",
    "i_customer",
    "invoice_number",
    "invoice_status",
    "amount",
    "adjustments",
    "amount_paid",
    "iso_4217",
    "issue_date",
    "due_date",
)


def _described(invoice: Row[Any]) -> Result:
    open_amount = max(_total(invoice) - invoice.amount_paid, Decimal(0))
    due = Decimal(0) if invoice.invoice_status == "void" else open_amount
    return {**{name: getattr(invoice, name) for name in _SHOWN}, "amount_due": due}
