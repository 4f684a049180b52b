"""Discount plans, which the vendor calls bundles, too: they go with a product or an account."""

from espf.billing.fields import Key, Page, Params, ShortName
from espf.billing.scope import Result, Scope
from espf.billing.tables import accounts, discount_plans

ENTITY = "DiscountPlan"


class NewDiscountPlan(Params):
    """Parameters of add."""

    name: ShortName


class ActivateBundle(Params):
    """Parameters of activate_bundle."""

    i_account: Key
    i_vd_plan: Key


def add(scope: Scope, params: NewDiscountPlan) -> Result:
    """Add a discount plan. Raises the fault ``Server.DiscountPlan.duplicate_name``."""
    said = f"there is a discount plan {params.name!r} already"
    with scope.unless_taken(f"Server.{ENTITY}.duplicate_name", said):
        return {"i_vd_plan": scope.insert(discount_plans, name=params.name)}


def get_list(scope: Scope, params: Page) -> Result:
    """The environment's discount plans, in the order in which they were added."""
    rows = scope.page(discount_plans, params)
    return {"discount_plan_list": [{"i_vd_plan": row.i_vd_plan, "name": row.name} for row in rows]}


def activate_bundle(scope: Scope, params: ActivateBundle) -> Result:
    """Give an account a plan of its own, in place of its product's.

    Raises the faults ``Server.Account.not_found``, ``.closed``, ``Server.DiscountPlan.not_found``.
    """
    account = scope.open_account(params.i_account)
    require(scope, params.i_vd_plan)
    scope.change(accounts, account, {"i_vd_plan": params.i_vd_plan})
    return {"success": 1}


def require(scope: Scope, i_vd_plan: int) -> None:
    """Raise the fault ``Server.DiscountPlan.not_found`` unless there is such a plan."""
    scope.find(discount_plans, ENTITY, discount_plans.c.i_vd_plan == i_vd_plan)
