"""Scenarios of accounts, customers and products: who the subscriber is, and what was bought."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from scenarios import (
    ACCOUNT,
    CUSTOMER,
    Call,
    New,
    Scenario,
    Step,
    Tick,
    Told,
    set_account,
    set_customer,
    update_account,
    update_customer,
)

#: Types of these areas that have no scenario yet.
MISSING: frozenset[str] = frozenset()


def moved(name: str, prev: object, curr: object) -> Mapping[str, Any]:
    """The two variables of a column that changed."""
    return {f"prev_{name}": prev, f"curr_{name}": curr}


def of_account(event_type: str, **variables: object) -> Told:
    """An event of the world's account."""
    return (event_type, {**ACCOUNT, **variables})


def of_customer(event_type: str, **variables: object) -> Told:
    """An event of the world's customer."""
    return (event_type, {**CUSTOMER, **variables})


def account_status(prev: str, curr: str) -> Told:
    """What every change of an account's status tells first."""
    return of_account("Account/Status/Changed", **moved("bill_status", prev, curr))


def customer_status(event_type: str, prev: str, curr: str) -> Scenario:
    """A change of the customer's status that has a type of its own."""
    return Scenario(
        event_type,
        before=(set_customer(f"bill_status = '{prev}'"),),
        api=(update_customer(bill_status=curr),),
        sql=(set_customer(f"bill_status = '{curr}'"),),
        told=(
            of_customer("Customer/Status/Changed", **moved("bill_status", prev, curr)),
            of_customer(event_type),
        ),
    )


ACCOUNTS = (
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
                        "firstname": "Ada",
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
        told=(of_account("Account/New"),),
    ),
    Scenario(
        "Account/ID/Changed",
        api=(update_account(id="other-{i_account}"),),
        sql=(set_account("id = 'other-{i_account}'"),),
        told=(
            of_account(
                "Account/ID/Changed",
                **moved("id", "account-{i_account}", "other-{i_account}"),
            ),
        ),
    ),
    Scenario(
        "Account/Product/Changed",
        api=(update_account(i_product="{other_product}"),),
        sql=(set_account("i_product = {other_product}"),),
        told=(
            of_account(
                "Account/Product/Changed", **moved("i_product", "{i_product}", "{other_product}")
            ),
        ),
    ),
    Scenario(
        "Account/ActivationDate/Changed",
        api=(update_account(activation_date="2026-01-01"),),
        sql=(set_account("activation_date = '2026-01-01'"),),
        told=(
            of_account(
                "Account/ActivationDate/Changed",
                **moved("activation_date", "2026-02-20", "2026-01-01"),
            ),
        ),
    ),
    Scenario(
        "Account/ExpirationDate/Changed",
        api=(update_account(expiration_date="2090-01-01"),),
        sql=(set_account("expiration_date = '2090-01-01'"),),
        told=(
            of_account(
                "Account/ExpirationDate/Changed", **moved("expiration_date", None, "2090-01-01")
            ),
        ),
    ),
    Scenario(
        "Account/Discount/Changed",
        before=(Call("DiscountPlan/add_discount_plan", {"name": "plan-{i_account}"}),),
        api=(update_account(i_vd_plan="{i_vd_plan}"),),
        sql=(set_account("i_vd_plan = {i_vd_plan}"),),
        told=(of_account("Account/Discount/Changed", **moved("i_vd_plan", None, "{i_vd_plan}")),),
    ),
    Scenario(
        "Account/ServiceFlags/Changed",
        api=(update_account(service_flags="YN-"),),
        sql=(set_account("service_flags = 'YN-'"),),
        told=(of_account("Account/ServiceFlags/Changed", **moved("service_flags", None, "YN-")),),
    ),
    Scenario(
        "Account/ServicePassword/Changed",
        api=(update_account(h323_password="secret"),),
        sql=(set_account("h323_password = 'secret'"),),
        told=(of_account("Account/ServicePassword/Changed"),),
    ),
    Scenario(
        "Account/Password/Changed",
        api=(update_account(password="secret"),),
        sql=(set_account("password = 'secret'"),),
        told=(of_account("Account/Password/Changed"),),
    ),
)


def transaction(action: str, amount: str) -> Call:
    """A payment into the world's account, or a charge."""
    return Call(
        "Account/make_transaction",
        {"i_account": "{i_account}", "action": action, "amount": amount},
    )


def balance(owner: Mapping[str, Any], key: str, prev: object, curr: object) -> Mapping[str, Any]:
    """The variables of a balance that moved."""
    return {**owner, "billing_entity_id": f"{{{key}}}", **moved("balance", prev, curr)}


MONEY = (
    Scenario(
        "Account/BalanceChanged",
        before=(set_account("balance = {money_5}"),),
        api=(transaction("Manual payment", "2.5"),),
        sql=(set_account("balance = balance + {money_2_5}"),),
        told=(("Account/BalanceChanged", balance(ACCOUNT, "i_account", 5, 7.5)),),
    ),
    Scenario(
        "Account/AvailableFundsAppear",
        api=(transaction("Manual payment", "2.5"),),
        sql=(set_account("balance = balance + {money_2_5}"),),
        told=(
            ("Account/BalanceChanged", balance(ACCOUNT, "i_account", 0, 2.5)),
            of_account("Account/AvailableFundsAppear"),
        ),
    ),
    Scenario(
        "Account/ZeroAvailableFunds",
        before=(set_account("balance = {money_2_5}"),),
        api=(transaction("Manual charge", "2.5"),),
        sql=(set_account("balance = balance - {money_2_5}"),),
        told=(
            ("Account/BalanceChanged", balance(ACCOUNT, "i_account", 2.5, 0)),
            of_account("Account/ZeroAvailableFunds"),
        ),
    ),
    Scenario(
        "Customer/BalanceChanged",
        before=(set_account("i_account_balance_control_type = 2"),),
        api=(transaction("Manual charge", "2.5"),),
        sql=(set_customer("balance = balance + {money_2_5}"),),
        told=(("Customer/BalanceChanged", balance(CUSTOMER, "i_customer", 0, 2.5)),),
    ),
    Scenario(
        "Customer/ZeroAvailableFunds",
        before=(set_customer("balance = {money_2_5}"),),
        api=(update_customer(credit_limit="2.5"),),
        sql=(set_customer("credit_limit = {money_2_5}"),),
        told=(of_customer("Customer/ZeroAvailableFunds"),),
    ),
    Scenario(
        "Customer/AvailableFundsAppear",
        before=(
            set_account("i_account_balance_control_type = 2"),
            set_customer("credit_limit = {money_5}, balance = {money_5}"),
        ),
        api=(transaction("Manual payment", "2.5"),),
        sql=(set_customer("balance = balance - {money_2_5}"),),
        told=(
            ("Customer/BalanceChanged", balance(CUSTOMER, "i_customer", 5, 2.5)),
            of_customer("Customer/AvailableFundsAppear"),
        ),
    ),
)

BLOCKS_AND_STATUSES = (
    Scenario(
        "Account/Blocked",
        api=(update_account(blocked="Y"),),
        sql=(set_account("blocked = 'Y'"),),
        told=(of_account("Account/Blocked"),),
    ),
    Scenario(
        "Account/Unblocked",
        before=(set_account("blocked = 'Y'"),),
        api=(update_account(blocked="N"),),
        sql=(set_account("blocked = 'N'"),),
        told=(of_account("Account/Unblocked"),),
    ),
    Scenario(
        "Account/Status/Changed",
        before=(set_account("expiration_date = '2026-03-01'"),),
        api=(Tick(datetime(2026, 3, 2, tzinfo=UTC)),),
        sql=(set_account("bill_status = 'I'"),),
        told=(account_status("O", "I"),),
    ),
    Scenario(
        "Account/Status/Suspended",
        api=(update_account(bill_status="S"),),
        sql=(set_account("bill_status = 'S'"),),
        told=(account_status("O", "S"), of_account("Account/Status/Suspended")),
    ),
    Scenario(
        "Account/Status/SuspensionRemoved",
        before=(set_account("bill_status = 'S'"),),
        api=(update_account(bill_status="O"),),
        sql=(set_account("bill_status = 'O'"),),
        told=(account_status("S", "O"), of_account("Account/Status/SuspensionRemoved")),
    ),
    Scenario(
        "Account/Status/Exported",
        api=(update_account(bill_status="E"),),
        sql=(set_account("bill_status = 'E'"),),
        told=(account_status("O", "E"), of_account("Account/Status/Exported")),
    ),
    Scenario(
        "Account/Status/Imported",
        before=(set_account("bill_status = 'E'"),),
        api=(update_account(bill_status="O"),),
        sql=(set_account("bill_status = 'O'"),),
        told=(account_status("E", "O"), of_account("Account/Status/Imported")),
    ),
    Scenario(
        "Account/Status/Closed",
        api=(Call("Account/terminate_account", {"i_account": "{i_account}"}),),
        sql=(set_account("bill_status = 'C'"),),
        told=(account_status("O", "C"), of_account("Account/Status/Closed")),
    ),
    Scenario(
        "Customer/Blocked",
        api=(update_customer(blocked="Y"),),
        sql=(set_customer("blocked = 'Y'"),),
        told=(of_customer("Customer/Blocked"),),
    ),
    Scenario(
        "Customer/Unblocked",
        before=(set_customer("blocked = 'Y'"),),
        api=(update_customer(blocked="N"),),
        sql=(set_customer("blocked = 'N'"),),
        told=(of_customer("Customer/Unblocked"),),
    ),
    Scenario(
        "Customer/Status/Changed",
        before=(set_customer("bill_status = 'L'"),),
        api=(update_customer(bill_status="O"),),
        sql=(set_customer("bill_status = 'O'"),),
        told=(of_customer("Customer/Status/Changed", **moved("bill_status", "L", "O")),),
    ),
    customer_status("Customer/Status/Activated", "D", "O"),
    customer_status("Customer/Status/Deactivated", "O", "D"),
    customer_status("Customer/Status/Suspended", "O", "S"),
    customer_status("Customer/Status/Unsuspend", "S", "O"),
    customer_status("Customer/Status/Limited", "O", "L"),
    customer_status("Customer/Status/Exported", "O", "E"),
    customer_status("Customer/Status/Imported", "E", "O"),
    Scenario(
        "Customer/Status/Closed",
        before=(set_account("bill_status = 'C'"),),
        api=(Call("Customer/terminate_customer", {"i_customer": "{i_customer}"}),),
        sql=(set_customer("bill_status = 'C'"),),
        told=(
            of_customer("Customer/Status/Changed", **moved("bill_status", "O", "C")),
            of_customer("Customer/Status/Closed"),
        ),
    ),
)

CUSTOMERS_AND_PRODUCTS = (
    Scenario(
        "Customer/New",
        api=(Call("Customer/add_customer", {"customer_info": {"name": "new-{i_customer}"}}),),
        sql=(
            New("i_customer"),
            """
            INSERT INTO "Customers" (i_customer, i_env, name, creation_date)
            VALUES ({i_customer}, 3, 'new-{i_customer}', '2026-02-20')
            """,
        ),
        told=(of_customer("Customer/New"),),
    ),
    Scenario(
        "Customer/Name/Changed",
        api=(update_customer(name="other-{i_customer}"),),
        sql=(set_customer("name = 'other-{i_customer}'"),),
        told=(
            of_customer(
                "Customer/Name/Changed",
                **moved("name", "customer-{i_customer}", "other-{i_customer}"),
            ),
        ),
    ),
    Scenario(
        "Customer/ServiceFlags/Changed",
        before=(set_customer("service_flags = 'N'"),),
        api=(update_customer(service_flags="Y"),),
        sql=(set_customer("service_flags = 'Y'"),),
        told=(of_customer("Customer/ServiceFlags/Changed", **moved("service_flags", "N", "Y")),),
    ),
    Scenario(
        "Product/Discount/Changed",
        before=(Call("DiscountPlan/add_discount_plan", {"name": "plan-{i_product}"}),),
        api=(
            Call(
                "Product/update_product",
                {"product_info": {"i_product": "{i_product}", "i_vd_plan": "{i_vd_plan}"}},
            ),
        ),
        sql=('UPDATE "Products" SET i_vd_plan = {i_vd_plan} WHERE i_product = {i_product}',),
        told=(
            (
                "Product/Discount/Changed",
                {"i_product": "{i_product}", **moved("i_vd_plan", None, "{i_vd_plan}")},
            ),
        ),
    ),
)


def subscriber(event_type: str, field: str) -> Scenario:
    """A change of what is known of the person behind the account."""
    return Scenario(
        event_type,
        before=(
            New("i_subscriber"),
            """
            INSERT INTO "Subscribers" (i_subscriber, i_env, i_account)
            VALUES ({i_subscriber}, 3, {i_account})
            """,
        ),
        api=(update_account(**{field: "Ada"}),),
        sql=(f"UPDATE \"Subscribers\" SET {field} = 'Ada' WHERE i_subscriber = {{i_subscriber}}",),
        told=((event_type, {"i_subscriber": "{i_subscriber}", **ACCOUNT}),),
    )


SUBSCRIBERS = (
    subscriber("Subscriber/Name/Changed", "firstname"),
    subscriber("Subscriber/Address/Changed", "city"),
    subscriber("Subscriber/ContactInfo/Changed", "phone1"),
)

HAS_ADDON = update_account(
    assigned_addons=[
        {"i_product": "{other_product}", "addon_effective_from": "2026-02-20 00:00:00"}
    ]
)
ADDON = {**ACCOUNT, "i_product": "{other_product}"}

ADDONS = (
    Scenario(
        "Account/ProductAddon/Inserted",
        api=(HAS_ADDON,),
        sql=(
            """
            INSERT INTO "Account_Addons" (i_env, i_account, i_product, addon_effective_from)
            VALUES (3, {i_account}, {other_product}, '2026-02-20')
            """,
        ),
        told=(("Account/ProductAddon/Inserted", ADDON),),
    ),
    Scenario(
        "Account/ProductAddon/Changed",
        before=(HAS_ADDON,),
        api=(
            update_account(
                assigned_addons=[{"i_product": "{other_product}", "addon_priority": 30}]
            ),
        ),
        sql=('UPDATE "Account_Addons" SET addon_priority = 30 WHERE i_account = {i_account}',),
        told=(("Account/ProductAddon/Changed", ADDON),),
    ),
    Scenario(
        "Account/ProductAddon/Deleted",
        before=(HAS_ADDON,),
        api=(update_account(assigned_addons=[]),),
        sql=('DELETE FROM "Account_Addons" WHERE i_account = {i_account}',),
        told=(("Account/ProductAddon/Deleted", ADDON),),
    ),
)

NOBODY = dict.fromkeys(("i_account", "i_customer", "i_customer_site", "i_product"))
SITE = {"i_customer_site": "{i_customer_site}", **CUSTOMER}
PRODUCT = {"i_product": "{i_product}"}


def set_feature(method: str, key: str, **feature: object) -> Call:
    """Switch or alter a service feature of the owner with this key."""
    owner = {key: f"{{{key}}}"}
    return Call(method, {**owner, "service_features": [feature]})


def insert_value(key: str, feature: str, attribute: str, column: str, value: object) -> str:
    """The row that the same makes."""
    return (
        'INSERT INTO "Service_Attribute_Values" '
        f"(i_env, {key}, service_feature, attribute, {column}) "
        f"VALUES (3, {{{key}}}, '{feature}', '{attribute}', '{value}')"
    )


def attribute_told(event_type: str, owner: Mapping[str, Any], *names: str) -> tuple[Told, ...]:
    """What a value tells: its owner's event, and that there was a change at all."""
    words = dict(zip(("service_feature", "attribute"), names, strict=True))
    owners = {name: owner.get(name) for name in NOBODY}
    general = {**owners, **words, "told_as": event_type}
    return ((event_type, {**owner, **words}), ("ServiceAttribute/Changed", general))


def feature_switched(
    event_type: str, method: str, key: str, owner: Mapping[str, Any], *before: Step
) -> Scenario:
    """The switch of a feature, for the first time."""
    return Scenario(
        event_type,
        before=before,
        api=(set_feature(method, key, name="clir", flag_value="Y"),),
        sql=(insert_value(key, "clir", "flag_value", "value", "Y"),),
        told=attribute_told(event_type, owner, "clir", "flag_value"),
    )


def policy_chosen(event_type: str, method: str, key: str, owner: Mapping[str, Any]) -> Scenario:
    """Another access policy: an attribute of a feature whose value is a number."""
    general, last = attribute_told(
        event_type.replace("AccessPolicy", "ServiceAttribute"),
        owner,
        "netaccess_policy",
        "access_policy",
    )
    return Scenario(
        event_type,
        before=(
            New("slow"),
            New("fast"),
            """
            INSERT INTO "Access_Policies" (i_access_policy, i_env, name, attributes)
            VALUES ({slow}, 3, 'slow-{slow}', '[]'), ({fast}, 3, 'fast-{fast}', '[]')
            """,
            insert_value(key, "netaccess_policy", "access_policy", "i_access_policy", "{slow}"),
        ),
        api=(
            set_feature(
                method,
                key,
                name="netaccess_policy",
                # The zero keeps it a text.
                attributes=[{"name": "access_policy", "values": ["0{fast}"]}],
            ),
        ),
        sql=(
            f"""
            UPDATE "Service_Attribute_Values" SET i_access_policy = {{fast}}
            WHERE {key} = {{{key}}}
            """,
        ),
        told=(
            general,
            (event_type, {**owner, **moved("i_access_policy", "{slow}", "{fast}")}),
            last,
        ),
    )


FEATURES = (
    feature_switched(
        "Account/ServiceAttribute/Changed", "Account/update_service_features", "i_account", ACCOUNT
    ),
    feature_switched(
        "Customer/ServiceAttribute/Changed",
        "Customer/update_service_features",
        "i_customer",
        CUSTOMER,
    ),
    feature_switched(
        "CustomerSite/ServiceAttribute/Changed",
        "Customer/update_site_service_features",
        "i_customer_site",
        SITE,
        Call("Customer/add_customer_site", {**CUSTOMER, "name": "Prague"}),
    ),
    feature_switched(
        "Product/ServiceAttribute/Changed", "Product/update_service_features", "i_product", PRODUCT
    ),
    policy_chosen(
        "Account/AccessPolicy/Changed", "Account/update_service_features", "i_account", ACCOUNT
    ),
    policy_chosen(
        "Product/AccessPolicy/Changed", "Product/update_service_features", "i_product", PRODUCT
    ),
    Scenario(
        "ServiceAttribute/Changed",
        before=(insert_value("i_account", "clir", "flag_value", "value", "Y"),),
        api=(
            set_feature(
                "Account/update_service_features", "i_account", name="clir", flag_value="~"
            ),
        ),
        sql=('DELETE FROM "Service_Attribute_Values" WHERE i_account = {i_account}',),
        told=attribute_told("Account/ServiceAttribute/Changed", ACCOUNT, "clir", "flag_value"),
    ),
)


def set_field(entity: str, key: str, value: str | None) -> Call:
    """Give a custom field of the owner with this key a value."""
    wanted = [{"i_custom_field": "{i_custom_field}", "db_value": value}]
    owner = {key: f"{{{key}}}"}
    return Call(f"{entity}/update_custom_fields_values", {**owner, "custom_fields_values": wanted})


FIELD = {"i_custom_field": "{i_custom_field}"}
FIELD_OF_ACCOUNT = (
    of_account("Account/CustomField/Changed", **FIELD),
    of_account("CustomField/Changed", **FIELD),
)

CUSTOM_FIELDS = (
    Scenario(
        "Account/CustomField/Changed",
        before=(Call("Account/add_custom_field", {"name": "field-{i_account}"}),),
        api=(set_field("Account", "i_account", "blue"),),
        sql=(
            """
            INSERT INTO "Custom_Field_Values" (i_env, i_custom_field, i_account, db_value)
            VALUES (3, {i_custom_field}, {i_account}, 'blue')
            """,
        ),
        told=FIELD_OF_ACCOUNT,
    ),
    Scenario(
        "Customer/CustomField/Changed",
        before=(
            Call("Customer/add_custom_field", {"name": "field-{i_customer}"}),
            set_field("Customer", "i_customer", "blue"),
        ),
        api=(set_field("Customer", "i_customer", "red"),),
        sql=(
            """
            UPDATE "Custom_Field_Values" SET db_value = 'red' WHERE i_customer = {i_customer}
            """,
        ),
        told=(
            of_customer("Customer/CustomField/Changed", **FIELD),
            ("CustomField/Changed", {"i_account": None, **CUSTOMER, **FIELD}),
        ),
    ),
    Scenario(
        "CustomField/Changed",
        before=(
            Call("Account/add_custom_field", {"name": "field-{i_account}"}),
            set_field("Account", "i_account", "blue"),
        ),
        api=(set_field("Account", "i_account", None),),
        sql=('DELETE FROM "Custom_Field_Values" WHERE i_account = {i_account}',),
        told=FIELD_OF_ACCOUNT,
    ),
)

SCENARIOS = (
    *ACCOUNTS,
    *MONEY,
    *BLOCKS_AND_STATUSES,
    *CUSTOMERS_AND_PRODUCTS,
    *SUBSCRIBERS,
    *ADDONS,
    *FEATURES,
    *CUSTOM_FIELDS,
)
