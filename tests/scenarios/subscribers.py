"""Scenarios of accounts, customers and products: who the subscriber is, and what was bought."""

from scenarios import (
    ACCOUNT,
    CUSTOMER,
    Call,
    New,
    Scenario,
    set_account,
    set_customer,
    update_account,
    update_customer,
)

#: Types of these areas that have no scenario yet.
MISSING: frozenset[str] = frozenset(
    {
        "Account/AccessPolicy/Changed",
        "Account/ActivationDate/Changed",
        "Account/AvailableFundsAppear",
        "Account/BalanceChanged",
        "Account/Blocked",
        "Account/CustomField/Changed",
        "Account/Discount/Changed",
        "Account/ExpirationDate/Changed",
        "Account/ProductAddon/Changed",
        "Account/ProductAddon/Deleted",
        "Account/ProductAddon/Inserted",
        "Account/ServiceAttribute/Changed",
        "Account/ServiceFlags/Changed",
        "Account/Status/Changed",
        "Account/Status/Closed",
        "Account/Status/Exported",
        "Account/Status/Imported",
        "Account/Status/Suspended",
        "Account/Status/SuspensionRemoved",
        "Account/Unblocked",
        "Account/ZeroAvailableFunds",
        "CustomField/Changed",
        "Customer/AvailableFundsAppear",
        "Customer/BalanceChanged",
        "Customer/CustomField/Changed",
        "Customer/Name/Changed",
        "Customer/New",
        "Customer/ServiceAttribute/Changed",
        "Customer/ServiceFlags/Changed",
        "Customer/Status/Activated",
        "Customer/Status/Changed",
        "Customer/Status/Closed",
        "Customer/Status/Deactivated",
        "Customer/Status/Exported",
        "Customer/Status/Imported",
        "Customer/Status/Limited",
        "Customer/Status/Suspended",
        "Customer/Status/Unsuspend",
        "Customer/Unblocked",
        "Customer/ZeroAvailableFunds",
        "CustomerSite/ServiceAttribute/Changed",
        "Product/AccessPolicy/Changed",
        "Product/Discount/Changed",
        "Product/ServiceAttribute/Changed",
        "ServiceAttribute/Changed",
        "Subscriber/Address/Changed",
        "Subscriber/ContactInfo/Changed",
        "Subscriber/Name/Changed",
    }
)

SCENARIOS = (
    Scenario(
        "Account/New",
        api=(
            Call(
                "Account/add_account",
                {
                    "account_info": {
                        "id": "new-{i_account}",
                        "i_customer": "{i_customer}",
                        "i_product": "{i_product}",
                        "billing_model": -1,
                    }
                },
            ),
        ),
        sql=(
            New("i_account"),
            """
            INSERT INTO "Accounts"
              (i_account, i_env, i_customer, i_product, id, billing_model, issue_date)
            VALUES
              ({i_account}, 3, {i_customer}, {i_product}, 'new-{i_account}', -1, '2026-02-20')
            """,
        ),
        told=(("Account/New", ACCOUNT),),
    ),
    Scenario(
        "Account/ID/Changed",
        api=(update_account(id="other-{i_account}"),),
        sql=(set_account("id = 'other-{i_account}'"),),
        told=(
            (
                "Account/ID/Changed",
                {**ACCOUNT, "prev_id": "account-{i_account}", "curr_id": "other-{i_account}"},
            ),
        ),
    ),
    Scenario(
        "Account/Product/Changed",
        api=(update_account(i_product="{other_product}"),),
        sql=(set_account("i_product = {other_product}"),),
        told=(
            (
                "Account/Product/Changed",
                {
                    **ACCOUNT,
                    "prev_i_product": "{i_product}",
                    "curr_i_product": "{other_product}",
                },
            ),
        ),
    ),
    Scenario(
        "Account/ServicePassword/Changed",
        api=(update_account(h323_password="secret"),),
        sql=(set_account("h323_password = 'secret'"),),
        told=(("Account/ServicePassword/Changed", ACCOUNT),),
    ),
    Scenario(
        "Account/Password/Changed",
        api=(update_account(password="secret"),),
        sql=(set_account("password = 'secret'"),),
        told=(("Account/Password/Changed", ACCOUNT),),
    ),
    Scenario(
        "Customer/Blocked",
        api=(update_customer(blocked="Y"),),
        sql=(set_customer("blocked = 'Y'"),),
        told=(("Customer/Blocked", CUSTOMER),),
    ),
)
