"""Scenarios of what surrounds the subscriber: devices, numbers, cards, quotas, money, access."""

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
)

#: Types of these areas that have no scenario yet.
MISSING: frozenset[str] = frozenset()


def simple(
    event_type: str,
    call: Call,
    sql: Step | tuple[Step, ...],
    variables: Mapping[str, Any],
    before: tuple[Step, ...] = (),
) -> Scenario:
    """A scenario of one call, and of one event."""
    steps = sql if isinstance(sql, tuple) else (sql,)
    return Scenario(event_type, (call,), steps, ((event_type, variables),), before)


# --- Follow-me and aliases ---

FOLLOW_ME = Call(
    "Account/update_account_followme",
    {"i_account": "{i_account}", "followme_info": {"sequence": "Random"}},
)
FOLLOW_ME_ROW = """
INSERT INTO "Follow_Me" (i_account, i_env, sequence) VALUES ({i_account}, 3, 'Random')
"""
FOLLOW_ME_NUMBER = {**ACCOUNT, "i_follow_me_number": "{i_follow_me_number}"}
ADD_FOLLOW_ME_NUMBER = Call(
    "Account/add_followme_number",
    {"number_info": {"i_account": "{i_account}", "redirect_number": "380441234567"}},
)
ALIAS = (
    New("i_alias"),
    """
    INSERT INTO "Accounts"
      (i_account, i_env, i_customer, i_product, i_master_account, id, billing_model, issue_date)
    VALUES
      ({i_alias}, 3, {i_customer}, {i_product}, {i_account}, 'alias-{i_account}', 2, '2026-02-20')
    """,
)

SUBSCRIBER = (
    simple("Account/FollowMe/Changed", FOLLOW_ME, FOLLOW_ME_ROW, ACCOUNT),
    simple(
        "Account/FollowMe/Changed",
        Call(
            "Account/update_account_followme",
            {"i_account": "{i_account}", "followme_info": {"timeout": 30}},
        ),
        'UPDATE "Follow_Me" SET timeout = 30 WHERE i_account = {i_account}',
        ACCOUNT,
        before=(FOLLOW_ME,),
    ),
    simple(
        "Account/FollowMeNumber/Inserted",
        ADD_FOLLOW_ME_NUMBER,
        (
            New("i_follow_me_number"),
            """
            INSERT INTO "Follow_Me_Numbers" (i_follow_me_number, i_env, i_account, redirect_number)
            VALUES ({i_follow_me_number}, 3, {i_account}, '380441234567')
            """,
        ),
        FOLLOW_ME_NUMBER,
    ),
    simple(
        "Account/FollowMeNumber/Changed",
        Call(
            "Account/update_followme_number",
            {"number_info": {"i_follow_me_number": "{i_follow_me_number}", "active": "N"}},
        ),
        """
        UPDATE "Follow_Me_Numbers" SET active = 'N'
        WHERE i_follow_me_number = {i_follow_me_number}
        """,
        FOLLOW_ME_NUMBER,
        before=(ADD_FOLLOW_ME_NUMBER,),
    ),
    simple(
        "Account/FollowMeNumber/Deleted",
        Call("Account/delete_followme_number", {"i_follow_me_number": "{i_follow_me_number}"}),
        'DELETE FROM "Follow_Me_Numbers" WHERE i_follow_me_number = {i_follow_me_number}',
        FOLLOW_ME_NUMBER,
        before=(ADD_FOLLOW_ME_NUMBER,),
    ),
    simple(
        "Account/Alias/Delete",
        Call(
            "Account/delete_alias",
            {"alias_info": {"i_master_account": "{i_account}", "id": "alias-{i_account}"}},
        ),
        'DELETE FROM "Accounts" WHERE i_account = {i_alias}',
        {**ACCOUNT, "alias_id": "alias-{i_account}"},
        before=ALIAS,
    ),
)

# --- IP devices ---

ADD_DEVICE = Call("IPDevice/add_ip_device", {"ip_device_info": {"name": "device-{i_account}"}})
ASSIGN_DEVICE = Call(
    "IPDevice/assign_ip_device", {"i_ip_device": "{i_ip_device}", "i_account": "{i_account}"}
)

DEVICES = (
    simple(
        "Account/IPDeviceAssignment",
        ASSIGN_DEVICE,
        'UPDATE "IP_Devices" SET i_account = {i_account} WHERE i_ip_device = {i_ip_device}',
        {**ACCOUNT, "prev_i_ip_device": None, "curr_i_ip_device": "{i_ip_device}"},
        before=(ADD_DEVICE,),
    ),
    simple(
        "Account/IPDeviceAssignment",
        Call("IPDevice/release_ip_device", {"i_ip_device": "{i_ip_device}"}),
        'UPDATE "IP_Devices" SET i_account = NULL WHERE i_ip_device = {i_ip_device}',
        {**ACCOUNT, "prev_i_ip_device": "{i_ip_device}", "curr_i_ip_device": None},
        before=(ADD_DEVICE, ASSIGN_DEVICE),
    ),
    simple(
        "Account/IPDeviceAssignment",
        Call("IPDevice/delete_ip_device", {"i_ip_device": "{i_ip_device}"}),
        'DELETE FROM "IP_Devices" WHERE i_ip_device = {i_ip_device}',
        {**ACCOUNT, "prev_i_ip_device": "{i_ip_device}", "curr_i_ip_device": None},
        before=(ADD_DEVICE, ASSIGN_DEVICE),
    ),
    simple(
        "IPDeviceProfile/New",
        Call("IPDevice/add_ip_device_profile", {"profile_info": {"name": "profile-{i_account}"}}),
        (
            New("i_ip_device_profile"),
            """
            INSERT INTO "IP_Device_Profiles" (i_ip_device_profile, i_env, name)
            VALUES ({i_ip_device_profile}, 3, 'profile-{i_account}')
            """,
        ),
        {"i_ip_device_profile": "{i_ip_device_profile}"},
    ),
)

# --- DID numbers ---

HOLDER = {"i_account": "{i_account}"}
NUMBER = {"number": "+{i_account}"}
DID = {"i_did_number": "{i_did_number}"}
GIVEN = {**NUMBER, "curr_i_customer": "{i_customer}", "curr_i_account": "{i_account}"}
TAKEN = {**NUMBER, "prev_i_customer": "{i_customer}", "prev_i_account": "{i_account}"}
ASSIGN_NUMBER = Call("DID/assign_did_to_account", {**DID, "i_account": "{i_account}"})


def add_number(status: str = "active") -> Call:
    return Call("DID/add_number", {"number_info": {**NUMBER, "status": status}})


def update_number(status: str) -> Call:
    return Call("DID/update_number", {"number_info": {**DID, "status": status}})


def set_number(columns: str) -> str:
    return f'UPDATE "DID_Numbers" SET {columns} WHERE i_did_number = {{i_did_number}}'


NUMBERS = (
    simple(
        "DID/New",
        add_number(),
        """
        INSERT INTO "DID_Numbers" (i_env, number) VALUES (3, '+{i_account}')
        """,
        NUMBER,
    ),
    simple(
        "DID/Status/Activated",
        update_number("active"),
        set_number("status = 'active'"),
        NUMBER,
        before=(add_number("inactive"),),
    ),
    simple(
        "DID/Status/Assigned",
        ASSIGN_NUMBER,
        set_number("i_customer = {i_customer}, i_account = {i_account}"),
        GIVEN,
        before=(add_number(),),
    ),
    simple(
        "DID/Status/Assigned",
        Call("DID/assign_did_to_customer", {**DID, "i_customer": "{i_customer}"}),
        set_number("i_customer = {i_customer}"),
        {**GIVEN, "curr_i_account": None},
        before=(add_number(),),
    ),
    simple(
        "DID/Status/Unassigned",
        Call("DID/release_did_from_customer", DID),
        set_number("i_customer = NULL, i_account = NULL"),
        TAKEN,
        before=(add_number(), ASSIGN_NUMBER),
    ),
    simple(
        "DID/Status/Unassigned",
        Call("DID/release_did_from_account", DID),
        set_number("i_account = NULL"),
        TAKEN,
        before=(add_number(), ASSIGN_NUMBER),
    ),
    Scenario(
        "DID/Status/Unassigned",
        api=(Call("Account/move_account", {**HOLDER, "i_customer": "{other_customer}"}),),
        sql=(
            set_account("i_customer = {other_customer}"),
            set_number("i_customer = {other_customer}"),
        ),
        told=(
            ("DID/Status/Unassigned", TAKEN),
            ("DID/Status/Assigned", {**GIVEN, "curr_i_customer": "{other_customer}"}),
        ),
        before=(
            New("other_customer"),
            """
            INSERT INTO "Customers" (i_customer, i_env, name, creation_date)
            VALUES ({other_customer}, 3, 'other-{i_customer}', '2026-02-20 10:00:00')
            """,
            add_number(),
            ASSIGN_NUMBER,
        ),
    ),
    Scenario(
        "DID/Status/Moved",
        api=(update_number("moved"),),
        sql=(set_number("status = 'moved', i_customer = NULL, i_account = NULL"),),
        told=(("DID/Status/Unassigned", TAKEN), ("DID/Status/Moved", NUMBER)),
        before=(add_number(), ASSIGN_NUMBER),
    ),
    simple(
        "DID/Status/Canceled",
        update_number("canceled"),
        set_number("status = 'canceled'"),
        NUMBER,
        before=(add_number(),),
    ),
    simple(
        "DID/Deleted",
        Call("DID/delete_number", NUMBER),
        'DELETE FROM "DID_Numbers" WHERE i_did_number = {i_did_number}',
        NUMBER,
        before=(add_number(),),
    ),
)

# --- SIM cards ---

CARD = {"i_sim_card": "{i_sim_card}"}
CUSTOM_FIELD = {"i_custom_field": "{i_custom_field}"}
ATTACHED = {**HOLDER, "prev_i_sim_card": None, "curr_i_sim_card": "{i_sim_card}"}
DETACHED = {**HOLDER, "prev_i_sim_card": "{i_sim_card}", "curr_i_sim_card": None}
ON_THE_CARD = {"imsi": "00101{i_account}", "iccid": "89001010{i_account}"}
ADD_CARD = Call("SIMCard/add_sim_card", {"card_info": ON_THE_CARD})
ASSIGN_CARD = Call("SIMCard/assign_sim_card", {**CARD, **HOLDER})


def updated(prev_status: str, curr_status: str, **holder: Any) -> Told:
    """SIM/Updated of the world's card."""
    statuses = {"prev_status": prev_status, "curr_status": curr_status}
    return "SIM/Updated", {**CARD, "i_account": None, **holder, **statuses}


ADD_CARD_FIELD = Call("SIMCard/add_custom_field", {"name": "card-{i_account}"})


def set_card_field(value: str | None) -> Call:
    wanted = [{**CUSTOM_FIELD, "db_value": value}]
    return Call("SIMCard/update_custom_fields_values", {**CARD, "custom_fields_values": wanted})


def set_card(columns: str) -> str:
    return f'UPDATE "SIM_Cards" SET {columns} WHERE i_sim_card = {{i_sim_card}}'


CARDS = (
    simple(
        "SIM/Created",
        ADD_CARD,
        (
            New("i_sim_card"),
            """
            INSERT INTO "SIM_Cards" (i_sim_card, i_env, imsi, iccid)
            VALUES ({i_sim_card}, 3, '00101{i_account}', '89001010{i_account}')
            """,
        ),
        CARD,
    ),
    Scenario(
        "SIM/Updated",
        api=(Call("SIMCard/update_sim_card", {"card_info": {**CARD, "description": "new"}}),),
        sql=(set_card("description = 'new'"),),
        told=(updated("available", "available"),),
        before=(ADD_CARD,),
    ),
    Scenario(
        "SIM/Updated",
        api=(
            Call(
                "SIMCard/update_sim_card_list",
                {"i_sim_cards": ["{i_sim_card}"], "status": "reserved"},
            ),
        ),
        sql=(set_card("status = 'reserved'"),),
        told=(updated("available", "reserved"),),
        before=(ADD_CARD,),
    ),
    Scenario(
        "SIM/Updated",
        api=(update_account(blocked="Y"),),
        sql=(set_account("blocked = 'Y'"),),
        told=(("Account/Blocked", ACCOUNT), updated("used", "used", **HOLDER)),
        before=(ADD_CARD, ASSIGN_CARD),
    ),
    Scenario(
        "SIM/Updated",
        api=(update_account(assigned_addons=[{"i_product": "{other_product}"}]),),
        sql=(
            """
            INSERT INTO "Account_Addons" (i_env, i_account, i_product, addon_effective_from)
            VALUES (3, {i_account}, {other_product}, '2026-02-20')
            """,
        ),
        told=(
            ("Account/ProductAddon/Inserted", {**ACCOUNT, "i_product": "{other_product}"}),
            updated("used", "used", **HOLDER),
        ),
        before=(ADD_CARD, ASSIGN_CARD),
    ),
    Scenario(
        "SIM/Updated",
        api=(
            Call(
                "Account/update_custom_fields_values",
                {
                    **HOLDER,
                    "custom_fields_values": [
                        {"i_custom_field": "{i_custom_field}", "db_value": "blue"}
                    ],
                },
            ),
        ),
        sql=(
            """
            INSERT INTO "Custom_Field_Values" (i_env, i_custom_field, i_account, db_value)
            VALUES (3, {i_custom_field}, {i_account}, 'blue')
            """,
        ),
        told=(
            ("Account/CustomField/Changed", {**ACCOUNT, **CUSTOM_FIELD}),
            ("CustomField/Changed", {**ACCOUNT, **CUSTOM_FIELD}),
            updated("used", "used", **HOLDER),
        ),
        before=(
            ADD_CARD,
            ASSIGN_CARD,
            Call("Account/add_custom_field", {"name": "of-card-{i_account}"}),
        ),
    ),
    Scenario(
        "SIM/Updated",
        api=(set_card_field("blue"),),
        sql=(
            """
            INSERT INTO "Custom_Field_Values" (i_env, i_custom_field, i_sim_card, db_value)
            VALUES (3, {i_custom_field}, {i_sim_card}, 'blue')
            """,
        ),
        told=(updated("available", "available"),),
        before=(ADD_CARD, ADD_CARD_FIELD),
    ),
    Scenario(
        "SIM/Updated",
        api=(set_card_field(None),),
        sql=('DELETE FROM "Custom_Field_Values" WHERE i_sim_card = {i_sim_card}',),
        told=(updated("used", "used", **HOLDER),),
        before=(ADD_CARD, ASSIGN_CARD, ADD_CARD_FIELD, set_card_field("blue")),
    ),
    Scenario(
        "SIM/Replaced",
        api=(ASSIGN_CARD,),
        sql=(set_card("i_account = {i_account}, status = 'used'"),),
        told=(
            ("Account/SIMCardAssignment", ATTACHED),
            ("SIM/Replaced", ATTACHED),
            updated("available", "used", **HOLDER),
        ),
        before=(ADD_CARD,),
    ),
    Scenario(
        "Account/SIMCardAssignment",
        api=(Call("SIMCard/release_sim_card", CARD),),
        sql=(set_card("i_account = NULL, status = 'available'"),),
        told=(
            ("Account/SIMCardAssignment", DETACHED),
            ("SIM/Replaced", DETACHED),
            updated("used", "available"),
        ),
        before=(ADD_CARD, ASSIGN_CARD),
    ),
    simple(
        "SIM/Deleted",
        Call("SIMCard/delete_sim_card", CARD),
        'DELETE FROM "SIM_Cards" WHERE i_sim_card = {i_sim_card}',
        {**CARD, **ON_THE_CARD},
        before=(ADD_CARD,),
    ),
    simple(
        "SIM/Deleted",
        Call(
            "SIMCard/upload_sim_cards",
            {"card_list": [{"action": "-", "imsi": "00101{i_account}"}]},
        ),
        'DELETE FROM "SIM_Cards" WHERE i_sim_card = {i_sim_card}',
        {**CARD, **ON_THE_CARD},
        before=(ADD_CARD,),
    ),
)

# --- Quotas ---

SORTS = {"Netaccess/": "netaccess", "Msg/": "msg", "": "voice"}
#: A month that is over; in others the clock has nothing to do.
FEBRUARY = "2026-02-20 10:00:00"
MARCH = datetime(2026, 3, 1, tzinfo=UTC)


def usage(method: str, service: str, **more: Any) -> Call:
    return Call(f"Usage/{method}", {**HOLDER, "service": service, **more})


def quota_row(service: str, counter: str) -> str:
    return f"""
    INSERT INTO "Service_Quotas" (i_env, i_account, i_customer, service, month, {counter})
    VALUES (3, {{i_account}}, {{i_customer}}, '{service}', '2099-01', 1)
    """


def included(service: str) -> str:
    return f"""
    INSERT INTO "Product_Quotas" (i_product, service, monthly_amount)
    VALUES ({{i_product}}, '{service}', 1000)
    """


def of_service(service: str) -> dict[str, str]:
    return {**ACCOUNT, "service": service}


EXCEEDED = tuple(
    simple(
        f"Account/Service/{prefix}QuotaExceeded",
        usage("record", service, amount=1),
        quota_row(service, "used"),
        of_service(service),
        before=(included(service),),
    )
    for prefix, service in SORTS.items()
)
EXPIRED = tuple(
    Scenario(
        f"Account/Service/{prefix}QuotaExpired",
        api=(Tick(MARCH),),
        sql=("""UPDATE "Service_Quotas" SET expired = 'Y' WHERE i_account = {i_account}""",),
        told=((f"Account/Service/{prefix}QuotaExpired", of_service(service)),),
        before=(included(service), usage("record", service, amount=1, event_time=FEBRUARY)),
    )
    for prefix, service in SORTS.items()
)
QUOTAS = (
    *EXCEEDED,
    *EXPIRED,
    simple(
        "Account/Service/QuotaAvailable",
        usage("top_up", "netaccess", amount=1),
        quota_row("netaccess", "topped_up"),
        of_service("netaccess"),
        before=(included("netaccess"),),
    ),
    Scenario(
        "Account/Service/QuotaExceeded",
        api=(usage("record", "voice", amount=5),),
        sql=('UPDATE "Service_Quotas" SET used = used + 5 WHERE i_account = {i_account}',),
        told=(
            ("Account/Service/QuotaExceeded", of_service("voice")),
            updated("used", "used", **HOLDER),
        ),
        before=(
            included("voice"),
            usage("top_up", "voice", amount=1),
            ADD_CARD,
            ASSIGN_CARD,
        ),
    ),
)

# --- Invoices and payments ---

INVOICE = {"i_invoice": "{i_invoice}", **CUSTOMER}
ADD_INVOICE = Call(
    "Invoice/add_invoice",
    {"invoice_info": {**CUSTOMER, "invoice_number": "I-{i_account}", "amount": 100}},
)
PAYMENT = {
    "i_payment_transaction": "{i_payment_transaction}",
    **CUSTOMER,
    "i_account": "{i_account}",
}


def of_invoice(method: str, **params: Any) -> Call:
    return Call(f"Invoice/{method}", {"i_invoice": "{i_invoice}", **params})


def set_invoice(columns: str) -> str:
    return f'UPDATE "Invoices" SET {columns} WHERE i_invoice = {{i_invoice}}'


def owes(balance: int) -> Told:
    """The world's customer, who has owed nothing, owes so much."""
    balances = {"prev_balance": 0, "curr_balance": balance}
    return "Customer/BalanceChanged", {**CUSTOMER, "billing_entity_id": "{i_customer}", **balances}


def move(sign: str) -> str:
    """The invoice's amount moves the customer's balance, in the database's own units."""
    amount = '(SELECT amount FROM "Invoices" WHERE i_invoice = {i_invoice})'
    return set_customer(f"balance = balance {sign} {amount}")


def add_payment(**owner: str) -> Call:
    return Call(
        "PaymentTransaction/add_payment_transaction",
        {"payment_transaction_info": {**owner, "amount": 100}},
    )


def update_payment(**fields: str) -> Call:
    return Call(
        "PaymentTransaction/update_payment_transaction",
        {
            "payment_transaction_info": {
                "i_payment_transaction": "{i_payment_transaction}",
                **fields,
            }
        },
    )


def set_payment(columns: str) -> str:
    which = "i_payment_transaction = {i_payment_transaction}"
    return f'UPDATE "Payment_Transactions" SET {columns} WHERE {which}'


def payment_row(i_account: str) -> tuple[Step, ...]:
    return (
        New("i_payment_transaction"),
        f"""
        INSERT INTO "Payment_Transactions"
          (i_payment_transaction, i_env, i_customer, i_account, amount, transaction_time)
        VALUES
          ({{i_payment_transaction}}, 3, {{i_customer}}, {i_account}, 100, '2026-02-20 10:00:00')
        """,
    )


MONEY = (
    simple(
        "Invoice/New",
        ADD_INVOICE,
        (
            New("i_invoice"),
            """
            INSERT INTO "Invoices"
              (i_invoice, i_env, i_customer, invoice_number, amount, issue_date)
            VALUES
              ({i_invoice}, 3, {i_customer}, 'I-{i_account}', 100, '2026-02-20')
            """,
        ),
        INVOICE,
    ),
    Scenario(
        "Invoice/AmountPaid/Changed",
        api=(of_invoice("pay_invoice", amount=100),),
        sql=(move("-"), set_invoice("amount_paid = amount, invoice_status = 'paid'")),
        told=(
            owes(-100),
            (
                "Invoice/AmountPaid/Changed",
                {**INVOICE, "prev_amount_paid": 0, "curr_amount_paid": 100},
            ),
            (
                "Invoice/Status/Changed",
                {**INVOICE, "prev_status": "unpaid", "curr_status": "paid"},
            ),
        ),
        before=(ADD_INVOICE,),
    ),
    Scenario(
        "Invoice/Adjustments/Changed",
        api=(of_invoice("apply_invoice_adjustment", amount=100),),
        sql=(move("+"), set_invoice("adjustments = amount")),
        told=(
            owes(100),
            (
                "Invoice/Adjustments/Changed",
                {**INVOICE, "prev_adjustments": 0, "curr_adjustments": 100},
            ),
        ),
        before=(ADD_INVOICE,),
    ),
    simple(
        "Invoice/Status/Changed",
        of_invoice("void_invoice"),
        set_invoice("invoice_status = 'void'"),
        {**INVOICE, "prev_status": "unpaid", "curr_status": "void"},
        before=(ADD_INVOICE,),
    ),
    simple(
        "PaymentTransaction/New",
        add_payment(i_account="{i_account}"),
        payment_row("{i_account}"),
        PAYMENT,
    ),
    simple(
        "PaymentTransaction/New",
        add_payment(i_customer="{i_customer}"),
        payment_row("NULL"),
        {**PAYMENT, "i_account": None},
    ),
    simple(
        "PaymentTransaction/ResultCode/Changed",
        update_payment(result_code="declined"),
        set_payment("result_code = 'declined'"),
        {**PAYMENT, "prev_result_code": None, "curr_result_code": "declined"},
        before=(add_payment(i_account="{i_account}"),),
    ),
    simple(
        "PaymentTransaction/Status/Changed",
        update_payment(status="failed"),
        set_payment("status = 'failed'"),
        {**PAYMENT, "i_account": None, "prev_status": "pending", "curr_status": "failed"},
        before=(add_payment(i_customer="{i_customer}"),),
    ),
    Scenario(
        "PaymentTransaction/Status/Changed",
        api=(update_payment(status="completed"),),
        sql=(
            set_payment("status = 'completed'"),
            set_account(
                'balance = (SELECT amount FROM "Payment_Transactions" '
                "WHERE i_payment_transaction = {i_payment_transaction})"
            ),
        ),
        told=(
            (
                "PaymentTransaction/Status/Changed",
                {**PAYMENT, "prev_status": "pending", "curr_status": "completed"},
            ),
            (
                "Account/BalanceChanged",
                {
                    **ACCOUNT,
                    "billing_entity_id": "{i_account}",
                    "prev_balance": 0,
                    "curr_balance": 100,
                },
            ),
            ("Account/AvailableFundsAppear", ACCOUNT),
        ),
        before=(add_payment(i_account="{i_account}"),),
    ),
)

# --- Connections, access ---

CONNECTION = {"i_connection": "{i_connection}"}
ADD_CONNECTION = Call(
    "Connection/add_connection",
    {"connection_info": {"name": "connection-{i_account}", "vendor_name": "Carrier"}},
)
POLICY = {"i_access_policy": "{i_access_policy}"}
PHASE = {**POLICY, "i_access_policy_phase": "{i_access_policy_phase}"}
ADD_POLICY = Call(
    "AccessPolicy/add_access_policy", {"access_policy_info": {"name": "policy-{i_account}"}}
)
ADD_PHASE = Call(
    "AccessPolicy/add_phase", {"phase_info": {**POLICY, "name": "slow", "threshold": 80}}
)
ACCESS = {"i_product": "{i_product}", "i_accessibility": "{i_accessibility}"}
ADD_ACCESS = Call(
    "Product/add_accessibility",
    {"accessibility_info": {"i_product": "{i_product}", "service": "voice"}},
)

NETWORK = (
    simple(
        "Connection/New",
        ADD_CONNECTION,
        (
            New("i_connection"),
            """
            INSERT INTO "Connections" (i_connection, i_env, name, vendor_name)
            VALUES ({i_connection}, 3, 'connection-{i_account}', 'Carrier')
            """,
        ),
        CONNECTION,
    ),
    simple(
        "Connection/Changed",
        Call("Connection/update_connection", {"connection_info": {**CONNECTION, "capacity": 9}}),
        'UPDATE "Connections" SET capacity = 9 WHERE i_connection = {i_connection}',
        CONNECTION,
        before=(ADD_CONNECTION,),
    ),
    simple(
        "Connection/Deleted",
        Call("Connection/delete_connection", CONNECTION),
        'DELETE FROM "Connections" WHERE i_connection = {i_connection}',
        CONNECTION,
        before=(ADD_CONNECTION,),
    ),
    simple(
        "AccessPolicy/Changed",
        Call(
            "AccessPolicy/update_access_policy",
            {
                "access_policy_info": {
                    **POLICY,
                    "attributes": [{"group_name": "LTE", "name": "speed", "values": ["5"]}],
                }
            },
        ),
        """UPDATE "Access_Policies" SET attributes = '[ ]'
        WHERE i_access_policy = {i_access_policy}""",
        POLICY,
        before=(ADD_POLICY,),
    ),
    simple(
        "AccessPolicy/Phase/New",
        ADD_PHASE,
        (
            New("i_access_policy_phase"),
            """
            INSERT INTO "Access_Policy_Phases"
              (i_access_policy_phase, i_env, i_access_policy, name, threshold, attributes)
            VALUES ({i_access_policy_phase}, 3, {i_access_policy}, 'slow', 80, '[]')
            """,
        ),
        PHASE,
        before=(ADD_POLICY,),
    ),
    simple(
        "AccessPolicy/Phase/Changed",
        Call(
            "AccessPolicy/update_phase",
            {
                "phase_info": {
                    "i_access_policy_phase": "{i_access_policy_phase}",
                    "threshold": 90,
                }
            },
        ),
        """
        UPDATE "Access_Policy_Phases" SET threshold = 90
        WHERE i_access_policy_phase = {i_access_policy_phase}
        """,
        PHASE,
        before=(ADD_POLICY, ADD_PHASE),
    ),
    simple(
        "AccessPolicy/Phase/Deleted",
        Call("AccessPolicy/delete_phase", {"i_access_policy_phase": "{i_access_policy_phase}"}),
        """
        DELETE FROM "Access_Policy_Phases"
        WHERE i_access_policy_phase = {i_access_policy_phase}
        """,
        PHASE,
        before=(ADD_POLICY, ADD_PHASE),
    ),
    simple(
        "Accessibility/Inserted",
        ADD_ACCESS,
        (
            New("i_accessibility"),
            """
            INSERT INTO "Accessibility" (i_accessibility, i_env, i_product, service)
            VALUES ({i_accessibility}, 3, {i_product}, 'voice')
            """,
        ),
        ACCESS,
    ),
    simple(
        "Accessibility/Deleted",
        Call("Product/delete_accessibility", {"i_accessibility": "{i_accessibility}"}),
        'DELETE FROM "Accessibility" WHERE i_accessibility = {i_accessibility}',
        ACCESS,
        before=(ADD_ACCESS,),
    ),
)

SCENARIOS: tuple[Scenario, ...] = (
    *SUBSCRIBER,
    *DEVICES,
    *NUMBERS,
    *CARDS,
    *QUOTAS,
    *MONEY,
    *NETWORK,
)
