"""Tables of the reference billing, with the vendor's names of things.

``available_funds`` is what the subscriber can still spend: empty for who has no funds of its own,
``UNLIMITED_FUNDS`` where no limit is set.

The schema ``billing`` stands for the one that holds these tables in the database that was opened.
Texts compare byte for byte, whatever the database's default is.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    Date,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    case,
    column,
    null,
    text,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

from espf.billing.columns import Money, Number, contact, credit, one_of
from espf.db.dialect import Moment

SCHEMA = "billing"

metadata = MetaData(schema=SCHEMA)


def _table(name: str, *items: SchemaItem, **options: bool) -> Table:
    words = {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}
    for each in ("mysql", "mariadb"):
        options |= {f"{each}_{word}": value for word, value in words.items()}  # type: ignore[misc]
    table: Table = Table(name, metadata, *items, **options)  # type: ignore[call-overload]  # table options are named by dialect
    return table


def _ordered(length: int) -> TypeEngine[str]:
    """A text that lists are in the order of: byte for byte, so that an index finds a beginning."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def _of(table: str, name: str) -> ForeignKey:
    return ForeignKey(f"{SCHEMA}.{table}.{name}")


environments = _table(
    "Environments",
    Column("i_env", Number, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
)

customers = _table(
    "Customers",
    Column("i_customer", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("name", _ordered(255), nullable=False),
    # O open, S suspended, L limited, C closed, E exported, D deactivated
    Column("bill_status", String(1), nullable=False, server_default="O"),
    Column("blocked", String(1), nullable=False, server_default="N"),
    Column("iso_4217", String(3), nullable=False, server_default="USD"),
    Column("balance", Money, nullable=False, server_default=text("0")),
    Column("credit_limit", Money),
    Column("time_zone_name", String(64), nullable=False, server_default="UTC"),
    # Its number in another system.
    Column("refnum", String(64)),
    *contact(),
    # The older way to store features: one letter for each.
    Column("service_flags", String(64)),
    Column("creation_date", Moment, nullable=False),
    Column(
        "available_funds",
        Money,
        Computed(credit(), persisted=True),
    ),
    CheckConstraint("blocked IN ('Y', 'N')"),
    CheckConstraint("bill_status IN ('O', 'S', 'L', 'C', 'E', 'D')"),
    UniqueConstraint("i_env", "name"),
    UniqueConstraint("i_env", "refnum"),
    sqlite_autoincrement=True,
)

# A place of a customer: its accounts may be together there.
customer_sites = _table(
    "Customer_Sites",
    Column("i_customer_site", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_customer", _of("Customers", "i_customer"), nullable=False),
    Column("name", String(120), nullable=False),
    UniqueConstraint("i_customer", "name"),
    sqlite_autoincrement=True,
)

discount_plans = _table(
    "Discount_Plans",
    Column("i_vd_plan", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("name", String(120), nullable=False),
    UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

# A fee per month for whoever has a product that brings the subscription.
subscriptions = _table(
    "Subscriptions",
    Column("i_subscription", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("name", String(120), nullable=False),
    Column("monthly_fee", Money, nullable=False),
    UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

products = _table(
    "Products",
    Column("i_product", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("name", _ordered(120), nullable=False),
    Column("description", Text),
    Column("i_vd_plan", _of("Discount_Plans", "i_vd_plan")),
    Column("i_subscription", _of("Subscriptions", "i_subscription")),
    # Among an account's products: 0 main, 10 low, up to 30 high.
    Column("addon_priority", Integer, nullable=False, server_default=text("0")),
    UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

# What a product gives each account in a month, per service: bytes for netaccess, pieces for msg.
product_quotas = _table(
    "Product_Quotas",
    Column("i_product", _of("Products", "i_product"), primary_key=True),
    Column("service", String(32), primary_key=True),
    Column("monthly_amount", BigInteger, nullable=False),
)

accounts = _table(
    "Accounts",
    Column("i_account", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_customer", _of("Customers", "i_customer"), nullable=False),
    Column("i_customer_site", _of("Customer_Sites", "i_customer_site")),
    Column("i_product", _of("Products", "i_product"), nullable=False),
    # A discount plan of its own, in place of its product's.
    Column("i_vd_plan", _of("Discount_Plans", "i_vd_plan")),
    Column("id", _ordered(128), nullable=False),
    # Whose second name an alias is.
    Column("i_master_account", _of("Accounts", "i_account")),
    # -1 debit, 0 voucher, 1 credit, 2 alias, 4 beneficiary
    Column("billing_model", Integer, nullable=False),
    # 1 individual, 2 subordinate: spends the customer's funds
    Column("i_account_balance_control_type", Integer, nullable=False, server_default=text("1")),
    Column("balance", Money, nullable=False, server_default=text("0")),
    Column("opening_balance", Money, nullable=False, server_default=text("0")),
    Column("credit_limit", Money),
    Column("blocked", String(1), nullable=False, server_default="N"),
    # O open, I inactive, S suspended, E exported, C closed
    Column("bill_status", String(1), nullable=False, server_default="O"),
    Column("activation_date", Date),
    Column("expiration_date", Date),
    # The self-care login's password, and the service's (SIP, RADIUS).
    Column("password", String(128)),
    Column("h323_password", String(128)),
    # 1 universal, 2 phone line, 3 mobile, 4 Internet access, 5 IPTV
    Column("i_account_role", Integer, nullable=False, server_default=text("1")),
    # The older way to store features: one letter for each.
    Column("service_flags", String(64)),
    Column("time_zone_name", String(64), nullable=False, server_default="UTC"),
    Column("issue_date", Moment, nullable=False),
    Column(
        "available_funds",
        Money,
        Computed(
            case(
                (text("billing_model IN (2, 4) OR i_account_balance_control_type = 2"), null()),
                (text("billing_model IN (-1, 0)"), column("balance", Money)),
                else_=credit(),
            ),
            persisted=True,
        ),
    ),
    CheckConstraint("blocked IN ('Y', 'N')"),
    CheckConstraint("bill_status IN ('O', 'I', 'S', 'E', 'C')"),
    CheckConstraint("billing_model IN (-1, 0, 1, 2, 4)"),
    UniqueConstraint("i_env", "id"),
    # All accounts, and a customer's, as they were added, a leaf at a time.
    Index("Accounts_environment", "i_env", "i_account"),
    Index("Accounts_customer", "i_customer", "i_account"),
    Index("Accounts_master", "i_master_account"),
    # The billing clock looks for what is due by status and dates, each minute.
    Index("Accounts_due", "bill_status", "expiration_date", "activation_date"),
    sqlite_autoincrement=True,
)

# Who uses an account. Apart from it, so that a change of address costs a change of balance nothing.
subscribers = _table(
    "Subscribers",
    Column("i_subscriber", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_account", _of("Accounts", "i_account"), nullable=False, unique=True),
    *contact(),
    # The language to write in: a code of ISO 639-1.
    Column("i_lang", String(2)),
    sqlite_autoincrement=True,
)

# The add-on products of an account. The billing clock makes them effective and removes them.
account_addons = _table(
    "Account_Addons",
    Column("i_account_addon", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_account", _of("Accounts", "i_account"), nullable=False),
    Column("i_product", _of("Products", "i_product"), nullable=False),
    Column("addon_priority", Integer, nullable=False, server_default=text("10")),
    Column("addon_effective_from", Moment, nullable=False),
    Column("addon_effective_to", Moment),
    Column("effective", String(1), nullable=False, server_default="Y"),
    CheckConstraint("effective IN ('Y', 'N')"),
    UniqueConstraint("i_account", "i_product"),
    Index("Account_Addons_begin", "effective", "addon_effective_from"),
    Index("Account_Addons_end", "addon_effective_to"),
    sqlite_autoincrement=True,
)

# What an account pays each month, for its main product or an add-on. Days of the account's time
# zone; no fee is due before the activation, or for a month that begins on the finish_date or later.
account_subscriptions = _table(
    "Account_Subscriptions",
    Column("i_account_subscription", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_account", _of("Accounts", "i_account"), nullable=False),
    Column("i_subscription", _of("Subscriptions", "i_subscription"), nullable=False),
    Column("i_product", _of("Products", "i_product"), nullable=False),
    Column("start_date", Date, nullable=False),
    Column("activation_date", Date),
    Column("finish_date", Date),
    # The last day that is paid for.
    Column("billed_to", Date),
    Index("Account_Subscriptions_account", "i_account"),
    sqlite_autoincrement=True,
)

# Service features: of an account, a customer, a customer site or a product. The attribute
# flag_value is the feature's switch: Y, N, ~ as the product has it, ^ as the customer has it.
# Several values of an attribute stand on lines of their own; i_access_policy is the value of the
# attribute access_policy.
service_attribute_values = _table(
    "Service_Attribute_Values",
    Column("i_service_attribute_value", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_account", _of("Accounts", "i_account")),
    Column("i_customer", _of("Customers", "i_customer")),
    Column("i_customer_site", _of("Customer_Sites", "i_customer_site")),
    Column("i_product", _of("Products", "i_product")),
    Column("service_feature", String(64), nullable=False),
    Column("attribute", String(64), nullable=False),
    Column("value", String(1000)),
    Column("i_access_policy", Number),
    one_of("i_account", "i_customer", "i_customer_site", "i_product"),
    UniqueConstraint("i_account", "service_feature", "attribute"),
    UniqueConstraint("i_customer", "service_feature", "attribute"),
    UniqueConstraint("i_customer_site", "service_feature", "attribute"),
    UniqueConstraint("i_product", "service_feature", "attribute"),
    sqlite_autoincrement=True,
)

sim_cards = _table(
    "SIM_Cards",
    Column("i_sim_card", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("imsi", _ordered(15), nullable=False, unique=True),
    Column("iccid", String(22), nullable=False, unique=True),
    # The id of the account that holds the card.
    Column("msisdn", String(128)),
    # Sealed: only a credential with the right sim.keys reads them, through SIMCard/get_card_info.
    Column("ki", Text),
    Column("opc", Text),
    Column("description", String(255)),
    Column("status", String(10), nullable=False, server_default="available"),
    Column("i_account", _of("Accounts", "i_account")),
    CheckConstraint("status IN ('available', 'reserved', 'used', 'disposed')"),
    Index("SIM_Cards_account", "i_account"),
    # The inventory, and what of it is available, by IMSI.
    Index("SIM_Cards_env", "i_env", "imsi"),
    Index("SIM_Cards_stock", "i_env", "status", "imsi"),
    sqlite_autoincrement=True,
)

# What an operator wants to know of each account, customer or SIM card beside what is known anyway.
custom_fields = _table(
    "Custom_Fields",
    Column("i_custom_field", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("entity", String(10), nullable=False),
    Column("name", String(64), nullable=False),
    CheckConstraint("entity IN ('account', 'customer', 'sim_card')"),
    UniqueConstraint("i_env", "entity", "name"),
    sqlite_autoincrement=True,
)

custom_field_values = _table(
    "Custom_Field_Values",
    Column("i_custom_field_value", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_custom_field", _of("Custom_Fields", "i_custom_field"), nullable=False),
    Column("i_account", _of("Accounts", "i_account")),
    Column("i_customer", _of("Customers", "i_customer")),
    Column("i_sim_card", _of("SIM_Cards", "i_sim_card")),
    Column("db_value", String(1000), nullable=False),
    one_of("i_account", "i_customer", "i_sim_card"),
    UniqueConstraint("i_account", "i_custom_field"),
    UniqueConstraint("i_customer", "i_custom_field"),
    UniqueConstraint("i_sim_card", "i_custom_field"),
    sqlite_autoincrement=True,
)

# How calls to an account are forwarded, and to which numbers.
follow_me = _table(
    "Follow_Me",
    Column("i_account", _of("Accounts", "i_account"), primary_key=True, autoincrement=False),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("sequence", String(12), nullable=False, server_default="Order"),
    # Seconds, for all numbers together.
    Column("timeout", Integer, nullable=False, server_default=text("90")),
    Column("max_forwards", Integer),
    CheckConstraint("sequence IN ('Order', 'Random', 'Simultaneous')"),
)

follow_me_numbers = _table(
    "Follow_Me_Numbers",
    Column("i_follow_me_number", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_account", _of("Accounts", "i_account"), nullable=False),
    Column("redirect_number", String(64), nullable=False),
    Column("name", String(120)),
    # Numbers are tried in this order; the same order is that in which they were added.
    Column("i_follow_order", Integer, nullable=False, server_default=text("1")),
    # Seconds.
    Column("timeout", Integer, nullable=False, server_default=text("15")),
    Column("active", String(1), nullable=False, server_default="Y"),
    CheckConstraint("active IN ('Y', 'N')"),
    Index("Follow_Me_Numbers_account", "i_account"),
    sqlite_autoincrement=True,
)

ip_device_profiles = _table(
    "IP_Device_Profiles",
    Column("i_ip_device_profile", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("name", String(120), nullable=False),
    Column("description", Text),
    UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

ip_devices = _table(
    "IP_Devices",
    Column("i_ip_device", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_ip_device_profile", _of("IP_Device_Profiles", "i_ip_device_profile")),
    Column("name", String(120), nullable=False),
    Column("mac", String(17)),
    Column("i_account", _of("Accounts", "i_account")),
    UniqueConstraint("i_env", "name"),
    Index("IP_Devices_account", "i_account"),
    sqlite_autoincrement=True,
)

# A number belongs to nobody (it is in the pool), to a customer, or to an account of a customer.
did_numbers = _table(
    "DID_Numbers",
    Column("i_did_number", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("number", String(64), nullable=False),
    Column("description", String(255)),
    Column("status", String(10), nullable=False, server_default="active"),
    Column("i_customer", _of("Customers", "i_customer")),
    Column("i_account", _of("Accounts", "i_account")),
    CheckConstraint("status IN ('inactive', 'active', 'moved', 'canceled')"),
    CheckConstraint("i_account IS NULL OR i_customer IS NOT NULL"),
    UniqueConstraint("i_env", "number"),
    Index("DID_Numbers_customer", "i_customer"),
    Index("DID_Numbers_account", "i_account"),
    sqlite_autoincrement=True,
)

invoices = _table(
    "Invoices",
    Column("i_invoice", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_customer", _of("Customers", "i_customer"), nullable=False),
    Column("invoice_number", String(64), nullable=False),
    Column("amount", Money, nullable=False),
    # The sum of what was added to the amount (or, below 0, taken off it) after the issue.
    Column("adjustments", Money, nullable=False, server_default=text("0")),
    Column("amount_paid", Money, nullable=False, server_default=text("0")),
    Column("iso_4217", String(3), nullable=False, server_default="USD"),
    Column("invoice_status", String(16), nullable=False, server_default="unpaid"),
    Column("issue_date", Date, nullable=False),
    Column("due_date", Date),
    CheckConstraint("invoice_status IN ('unpaid', 'partially_paid', 'paid', 'void')"),
    UniqueConstraint("i_env", "invoice_number"),
    Index("Invoices_customer", "i_customer"),
    sqlite_autoincrement=True,
)

# What a payment system tells of a payment over it.
payment_transactions = _table(
    "Payment_Transactions",
    Column("i_payment_transaction", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_customer", _of("Customers", "i_customer"), nullable=False),
    # Empty where the customer pays, not one of its accounts.
    Column("i_account", _of("Accounts", "i_account")),
    Column("amount", Money, nullable=False),
    Column("status", String(10), nullable=False, server_default="pending"),
    # In the payment system's own words.
    Column("result_code", String(64)),
    Column("x_transaction_id", String(64)),
    Column("transaction_time", Moment, nullable=False),
    CheckConstraint("status IN ('pending', 'completed', 'failed', 'canceled')"),
    Index("Payment_Transactions_customer", "i_customer"),
    sqlite_autoincrement=True,
)

# Where traffic comes from or goes to: the vendors' side.
connections = _table(
    "Connections",
    Column("i_connection", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("name", String(120), nullable=False),
    Column("vendor_name", String(120), nullable=False),
    Column("remote_ip", String(45)),
    # Calls or sessions at a time; empty: no limit.
    Column("capacity", Integer),
    Column("active", String(1), nullable=False, server_default="Y"),
    CheckConstraint("active IN ('Y', 'N')"),
    UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

# What the network is told about a subscriber's access: speeds, profiles. ``attributes`` is JSON, so
# that one save is one change: a list of objects of group_name, name and values.
access_policies = _table(
    "Access_Policies",
    Column("i_access_policy", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("name", String(120), nullable=False),
    Column("attributes", Text, nullable=False),
    UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

# What becomes of a policy's access at some point: ``threshold`` is the used part of the quota, in
# percent, from which the phase holds.
access_policy_phases = _table(
    "Access_Policy_Phases",
    Column("i_access_policy_phase", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_access_policy", _of("Access_Policies", "i_access_policy"), nullable=False),
    Column("name", String(120), nullable=False),
    Column("threshold", Integer, nullable=False),
    Column("attributes", Text, nullable=False),
    UniqueConstraint("i_access_policy", "threshold"),
    sqlite_autoincrement=True,
)

# How a service is delivered; ``attributes`` as in access policies.
service_policies = _table(
    "Service_Policies",
    Column("i_service_policy", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("name", String(120), nullable=False),
    Column("service", String(32), nullable=False),
    Column("attributes", Text, nullable=False),
    UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

# Destinations that can be barred together: those whose number begins with one of ``prefixes``, a
# JSON list of texts.
call_barring_classes = _table(
    "Call_Barring_Classes",
    Column("i_call_barring_class", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("name", String(120), nullable=False),
    Column("prefixes", Text, nullable=False),
    UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

# The services that products give, or can be used over.
services = _table(
    "Services",
    Column("i_service", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("name", String(32), nullable=False),
    UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

# Where a product can be used from: a service, and the access code that is dialled, if one is.
accessibility = _table(
    "Accessibility",
    Column("i_accessibility", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_product", _of("Products", "i_product"), nullable=False),
    Column("service", String(32), nullable=False),
    # Never NULL, so that the same access cannot be there twice.
    Column("access_code", String(32), nullable=False, server_default=""),
    UniqueConstraint("i_product", "service", "access_code"),
    sqlite_autoincrement=True,
)

# One row per account, service and month (YYYY-MM in the account's time zone), made by the first
# authorisation of the month or by a top-up of the service wallet.
service_quotas = _table(
    "Service_Quotas",
    Column("i_service_quota", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_account", _of("Accounts", "i_account"), nullable=False),
    Column("i_customer", _of("Customers", "i_customer"), nullable=False),
    Column("service", String(32), nullable=False),
    Column("month", String(7), nullable=False),
    # Empty until the first authorisation of the month that the funds allow.
    Column("allocated", BigInteger),
    Column("topped_up", BigInteger, nullable=False, server_default=text("0")),
    Column("used", BigInteger, nullable=False, server_default=text("0")),
    # The network's own time of the earliest and the latest use.
    Column("first_used_at", Moment),
    Column("last_used_at", Moment),
    # When the month is over where the account is; empty: the clock never ends it.
    Column("ends_at", Moment),
    Column("expired", String(1), nullable=False, server_default="N"),
    # The sorts of service that have events of their own.
    Column(
        "service_sort",
        String(9),
        Computed(
            "CASE WHEN service IN ('netaccess', 'msg') THEN service ELSE 'other' END",
            persisted=True,
        ),
    ),
    Column(
        "exceeded",
        String(1),
        Computed(
            "CASE WHEN used > coalesce(allocated, 0) + topped_up THEN 'Y' ELSE 'N' END",
            persisted=True,
        ),
    ),
    CheckConstraint("expired IN ('Y', 'N')"),
    UniqueConstraint("i_account", "service", "month"),
    # The billing clock looks for what has ended, each minute.
    Index("Service_Quotas_due", "expired", "ends_at"),
    sqlite_autoincrement=True,
)

# What an account uses at the moment, as far as the network names its sessions.
active_sessions = _table(
    "Active_Sessions",
    Column("i_active_session", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_account", _of("Accounts", "i_account"), nullable=False),
    Column("service", String(32), nullable=False),
    # The network's own name of it.
    Column("session_id", String(128), nullable=False),
    Column("used", BigInteger, nullable=False, server_default=text("0")),
    Column("connect_time", Moment, nullable=False),
    Column("last_update_time", Moment, nullable=False),
    UniqueConstraint("i_account", "service", "session_id"),
    sqlite_autoincrement=True,
)

transactions = _table(
    "Transactions",
    Column("i_transaction", Number, primary_key=True),
    Column("i_env", _of("Environments", "i_env"), nullable=False),
    Column("i_customer", _of("Customers", "i_customer")),
    Column("i_account", _of("Accounts", "i_account")),
    Column("action", String(32), nullable=False),
    Column("amount", Money, nullable=False),
    Column("visible_comment", Text),
    Column("transaction_time", Moment, nullable=False),
    sqlite_autoincrement=True,
)
