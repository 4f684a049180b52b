"""The billing API without HTTP, for the test suites."""

from datetime import UTC, datetime

import pytest

from espf.billing.scope import Scope
from espf.errors import BillingFault, InvalidRequest
from espf.web.methods import METHODS
from espf.web.rest import validated

NOW = datetime(2026, 2, 20, 10, 0, tzinfo=UTC)


class Api:
    """Calls methods of the billing API as the web does, each in a transaction of its own."""

    def __init__(self, database, sealer):
        self.database = database
        self.sealer = sealer
        self.i_env = 3
        self.sees_keys = False

    def __call__(self, method, **params):
        known = METHODS[method]
        with self.database.begin() as connection:
            scope = Scope(connection, self.i_env, NOW, self.sealer, self.sees_keys)
            return known.serve(scope, validated(known.params, params))

    def fault(self, method, **params):
        with pytest.raises(BillingFault) as caught:
            self(method, **params)
        return caught.value.code

    def refuses(self, method, **params):
        """The field that a malformed request is refused for."""
        with pytest.raises(InvalidRequest) as caught:
            self(method, **params)
        return caught.value.field

    def account(self, number, **fields):
        info = {"id": number, "i_customer": 1, "i_product": 1, "billing_model": -1, **fields}
        return self("Account/add_account", account_info=info)["i_account"]

    def info(self, i_account):
        return self("Account/get_account_info", i_account=i_account)["account_info"]

    def owes(self, i_customer=1):
        info = self("Customer/get_customer_info", i_customer=i_customer)
        return info["customer_info"]["balance"]

    def holder(self, number):
        info = self("DID/get_number_info", number=number)["number_info"]
        return info["i_customer"], info["i_account"]
