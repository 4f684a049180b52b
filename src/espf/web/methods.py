"""The methods of the billing API: what each takes, what serves it, and what it answers.

Adding a method is one entry in ``METHODS``; the description at /doc/api is made of it.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field, model_validator

from espf import statuses
from espf.billing import (
    access_policies,
    accessibility,
    accounts,
    active_sessions,
    aliases,
    call_barring,
    connections,
    custom_fields,
    customer_sites,
    customers,
    dids,
    discount_plans,
    follow_me,
    invoices,
    ip_devices,
    payment_transactions,
    payments,
    products,
    quotas,
    service_features,
    service_policies,
    services,
    sim_cards,
    subscription_fees,
    subscriptions,
)
from espf.billing.custom_fields import CustomFields
from espf.billing.fields import Page, Params
from espf.billing.scope import Result, Scope

P = TypeVar("P", bound=Params)


@dataclass(frozen=True)
class Method(Generic[P]):
    """One method of the billing.

    The model of its parameters, the function that serves it, and the names of what the answer
    holds, one with a ``?`` only sometimes.
    """

    params: type[P]
    serve: Callable[[Scope, P], Result]
    reply: str
    writes: bool = False


_ACCOUNT_FIELDS, _CUSTOMER_FIELDS = CustomFields("account"), CustomFields("customer")
_CARD_FIELDS = CustomFields("sim_card")


def _get_account_info(scope: Scope, params: accounts.GetAccount) -> Result:
    """What the billing knows of an account, and what applications have reported about it."""
    result = accounts.get_info(scope, params)
    info = result["account_info"]
    info["provisioning_statuses"] = [
        {
            "i_group": str(one.group.i_group),
            "group": one.group.name,
            "status": one.status,
            "message": one.message,
            "reported_at": one.reported_at,
        }
        for one in statuses.of_account(scope.connection, scope.i_env, info["i_account"])
    ]
    return result


METHODS: Mapping[str, Method[Any]] = {
    "Account/add_account": Method(accounts.AddAccount, accounts.add, "i_account", writes=True),
    "Account/update_account": Method(
        accounts.UpdateAccount, accounts.update_fields, "i_account", writes=True
    ),
    "Account/terminate_account": Method(
        accounts.TerminateAccount, accounts.terminate, "success", writes=True
    ),
    "Account/move_account": Method(accounts.MoveAccount, accounts.move, "i_account", writes=True),
    "Account/get_account_info": Method(
        accounts.GetAccount, _get_account_info, "account_info customer_info?"
    ),
    "Account/get_account_list": Method(accounts.ListAccounts, accounts.get_list, "account_list"),
    "Account/make_transaction": Method(
        payments.MakeTransaction, payments.make_transaction, "transaction_id balance", writes=True
    ),
    "Account/add_alias": Method(aliases.AddAlias, aliases.add, "i_account", writes=True),
    "Account/get_alias_list": Method(aliases.ListAliases, aliases.get_list, "alias_list"),
    "Account/delete_alias": Method(aliases.DeleteAlias, aliases.remove, "success", writes=True),
    "Account/get_account_followme": Method(
        follow_me.GetFollowMe, follow_me.get, "followme_info followme_numbers"
    ),
    "Account/update_account_followme": Method(
        follow_me.UpdateFollowMe, follow_me.update_settings, "i_account", writes=True
    ),
    "Account/add_followme_number": Method(
        follow_me.AddNumber, follow_me.add_number, "i_follow_me_number", writes=True
    ),
    "Account/update_followme_number": Method(
        follow_me.UpdateNumber, follow_me.update_number, "i_follow_me_number", writes=True
    ),
    "Account/delete_followme_number": Method(
        follow_me.DeleteNumber, follow_me.delete_number, "success", writes=True
    ),
    "Account/get_full_vd_counter_info": Method(
        quotas.OfAccount, quotas.get_full_vd_counter_info, "vd_counter_info"
    ),
    "Account/get_service_features": Method(
        service_features.OfAccount, service_features.get, "service_features"
    ),
    "Account/update_service_features": Method(
        service_features.UpdateOfAccount, service_features.update_fields, "i_account", writes=True
    ),
    "Account/add_custom_field": Method(
        custom_fields.NewField, _ACCOUNT_FIELDS.add, "i_custom_field", writes=True
    ),
    "Account/get_custom_fields_schema": Method(
        custom_fields.NoParams, _ACCOUNT_FIELDS.get_schema, "custom_fields_list"
    ),
    "Account/get_custom_fields_values": Method(
        custom_fields.OfAccount, _ACCOUNT_FIELDS.get_values, "custom_fields_values"
    ),
    "Account/update_custom_fields_values": Method(
        custom_fields.UpdateOfAccount, _ACCOUNT_FIELDS.update_values, "i_account", writes=True
    ),
    "Account/activate_bundle": Method(
        discount_plans.ActivateBundle, discount_plans.activate_bundle, "success", writes=True
    ),
    "Account/get_subscriptions": Method(
        subscriptions.OfAccount, subscriptions.get_of_account, "subscriptions"
    ),
    "Account/activate_subscriptions": Method(
        subscriptions.Activate, subscriptions.activate, "success activated", writes=True
    ),
    "Account/charge_subscription_fees": Method(
        subscription_fees.Charge, subscription_fees.charge, "success charged", writes=True
    ),
    "Customer/add_customer": Method(
        customers.AddCustomer, customers.add, "i_customer", writes=True
    ),
    "Customer/update_customer": Method(
        customers.UpdateCustomer, customers.update_fields, "i_customer", writes=True
    ),
    "Customer/terminate_customer": Method(
        customers.TerminateCustomer, customers.terminate, "success", writes=True
    ),
    "Customer/make_transaction": Method(
        payments.MakeCustomerTransaction,
        payments.make_customer_transaction,
        "transaction_id balance",
        writes=True,
    ),
    "Customer/get_customer_info": Method(
        customers.GetCustomer, customers.get_info, "customer_info"
    ),
    "Customer/get_customer_list": Method(
        customers.ListCustomers, customers.get_list, "customer_list"
    ),
    "Customer/get_service_features": Method(
        service_features.OfCustomer, service_features.get, "service_features"
    ),
    "Customer/update_service_features": Method(
        service_features.UpdateOfCustomer, service_features.update_fields, "i_customer", writes=True
    ),
    "Customer/add_custom_field": Method(
        custom_fields.NewField, _CUSTOMER_FIELDS.add, "i_custom_field", writes=True
    ),
    "Customer/get_custom_fields_schema": Method(
        custom_fields.NoParams, _CUSTOMER_FIELDS.get_schema, "custom_fields_list"
    ),
    "Customer/get_custom_fields_values": Method(
        custom_fields.OfCustomer, _CUSTOMER_FIELDS.get_values, "custom_fields_values"
    ),
    "Customer/update_custom_fields_values": Method(
        custom_fields.UpdateOfCustomer, _CUSTOMER_FIELDS.update_values, "i_customer", writes=True
    ),
    "Customer/add_customer_site": Method(
        customer_sites.AddSite, customer_sites.add, "i_customer_site", writes=True
    ),
    "Customer/get_customer_site_list": Method(
        customer_sites.ListSites, customer_sites.get_list, "customer_site_list"
    ),
    "Customer/get_site_service_features": Method(
        service_features.OfSite, service_features.get, "service_features"
    ),
    "Customer/update_site_service_features": Method(
        service_features.UpdateOfSite,
        service_features.update_fields,
        "i_customer_site",
        writes=True,
    ),
    "DiscountPlan/add_discount_plan": Method(
        discount_plans.NewDiscountPlan, discount_plans.add, "i_vd_plan", writes=True
    ),
    "DiscountPlan/get_discount_plan_list": Method(
        Page, discount_plans.get_list, "discount_plan_list"
    ),
    "Subscription/add_subscription": Method(
        subscriptions.AddSubscription, subscriptions.add, "i_subscription", writes=True
    ),
    "Subscription/get_subscription_list": Method(Page, subscriptions.get_list, "subscription_list"),
    "Product/add_product": Method(products.AddProduct, products.add, "i_product", writes=True),
    "Product/update_product": Method(
        products.UpdateProduct, products.update_fields, "i_product", writes=True
    ),
    "Product/get_service_features": Method(
        service_features.OfProduct, service_features.get, "service_features"
    ),
    "Product/update_service_features": Method(
        service_features.UpdateOfProduct, service_features.update_fields, "i_product", writes=True
    ),
    "Product/get_product_info": Method(products.GetProduct, products.get_info, "product_info"),
    "Product/get_product_list": Method(products.ListProducts, products.get_list, "product_list"),
    "Product/add_accessibility": Method(
        accessibility.AddAccessibility, accessibility.add, "i_accessibility", writes=True
    ),
    "Product/get_accessibility_list": Method(
        accessibility.ListAccessibility, accessibility.get_list, "accessibility_list"
    ),
    "Product/delete_accessibility": Method(
        accessibility.DeleteAccessibility, accessibility.remove, "success", writes=True
    ),
    "AccessPolicy/add_access_policy": Method(
        access_policies.AddPolicy, access_policies.add, "i_access_policy", writes=True
    ),
    "AccessPolicy/update_access_policy": Method(
        access_policies.UpdatePolicy, access_policies.update_fields, "i_access_policy", writes=True
    ),
    "AccessPolicy/get_access_policy_info": Method(
        access_policies.GetPolicy, access_policies.get_info, "access_policy_info"
    ),
    "AccessPolicy/get_access_policy_list": Method(
        access_policies.ListPolicies, access_policies.get_list, "access_policy_list"
    ),
    "AccessPolicy/add_phase": Method(
        access_policies.AddPhase, access_policies.add_phase, "i_access_policy_phase", writes=True
    ),
    "AccessPolicy/update_phase": Method(
        access_policies.UpdatePhase,
        access_policies.update_phase,
        "i_access_policy_phase",
        writes=True,
    ),
    "AccessPolicy/delete_phase": Method(
        access_policies.DeletePhase, access_policies.delete_phase, "success", writes=True
    ),
    "Service/get_service_list": Method(services.ListServices, services.get_list, "service_list"),
    "ServicePolicy/add_service_policy": Method(
        service_policies.AddPolicy, service_policies.add, "i_service_policy", writes=True
    ),
    "ServicePolicy/update_service_policy": Method(
        service_policies.UpdatePolicy,
        service_policies.update_fields,
        "i_service_policy",
        writes=True,
    ),
    "ServicePolicy/delete_service_policy": Method(
        service_policies.OnePolicy, service_policies.remove, "success", writes=True
    ),
    "ServicePolicy/get_service_policy_info": Method(
        service_policies.OnePolicy, service_policies.get_info, "service_policy_info"
    ),
    "ServicePolicy/get_service_policy_list": Method(
        service_policies.ListPolicies, service_policies.get_list, "service_policy_list"
    ),
    "CallBarring/add_call_barring_class": Method(
        call_barring.AddClass, call_barring.add, "i_call_barring_class", writes=True
    ),
    "CallBarring/update_call_barring_class": Method(
        call_barring.UpdateClass, call_barring.update_fields, "i_call_barring_class", writes=True
    ),
    "CallBarring/get_call_barring_class_list": Method(
        call_barring.ListClasses, call_barring.get_list, "call_barring_class_list"
    ),
    "CallBarring/get_account_call_barring": Method(
        call_barring.OfAccount, call_barring.get_of_account, "call_barring_class_list"
    ),
    "CallBarring/update_account_call_barring": Method(
        call_barring.UpdateOfAccount, call_barring.update_of_account, "i_account", writes=True
    ),
    "Connection/add_connection": Method(
        connections.AddConnection, connections.add, "i_connection", writes=True
    ),
    "Connection/update_connection": Method(
        connections.UpdateConnection, connections.update_fields, "i_connection", writes=True
    ),
    "Connection/delete_connection": Method(
        connections.OneConnection, connections.remove, "success", writes=True
    ),
    "Connection/get_connection_info": Method(
        connections.OneConnection, connections.get_info, "connection_info"
    ),
    "Connection/get_connection_list": Method(
        connections.ListConnections, connections.get_list, "connection_list"
    ),
    "DID/add_number": Method(dids.AddNumber, dids.add, "i_did_number", writes=True),
    "DID/delete_number": Method(dids.OneNumber, dids.remove, "success", writes=True),
    "DID/update_number": Method(dids.UpdateNumber, dids.update_fields, "i_did_number", writes=True),
    "DID/get_number_info": Method(dids.OneNumber, dids.get_info, "number_info"),
    "DID/get_number_list": Method(dids.ListNumbers, dids.get_list, "number_list"),
    "DID/get_customer_numbers": Method(
        dids.ListOfCustomer, dids.get_customer_numbers, "number_list"
    ),
    "DID/assign_did_to_customer": Method(
        dids.AssignToCustomer, dids.assign_to_customer, "i_did_number", writes=True
    ),
    "DID/assign_did_to_account": Method(
        dids.AssignToAccount, dids.assign_to_account, "i_did_number", writes=True
    ),
    "DID/release_did_from_customer": Method(
        dids.OneNumber, dids.release_from_customer, "i_did_number", writes=True
    ),
    "DID/release_did_from_account": Method(
        dids.OneNumber, dids.release_from_account, "i_did_number", writes=True
    ),
    "Invoice/add_invoice": Method(invoices.AddInvoice, invoices.add, "i_invoice", writes=True),
    "Invoice/get_invoice_info": Method(invoices.OneInvoice, invoices.get_info, "invoice_info"),
    "Invoice/get_invoice_list": Method(invoices.ListInvoices, invoices.get_list, "invoice_list"),
    "Invoice/pay_invoice": Method(invoices.Pay, invoices.pay, "i_invoice amount_due", writes=True),
    "Invoice/apply_invoice_adjustment": Method(
        invoices.Adjust, invoices.apply_adjustment, "i_invoice amount_due", writes=True
    ),
    "Invoice/void_invoice": Method(invoices.OneInvoice, invoices.void, "i_invoice", writes=True),
    "IPDevice/add_ip_device": Method(
        ip_devices.AddDevice, ip_devices.add, "i_ip_device", writes=True
    ),
    "IPDevice/get_ip_device_info": Method(
        ip_devices.OneDevice, ip_devices.get_info, "ip_device_info"
    ),
    "IPDevice/get_ip_device_list": Method(
        ip_devices.ListDevices, ip_devices.get_list, "ip_device_list"
    ),
    "IPDevice/assign_ip_device": Method(
        ip_devices.AssignDevice, ip_devices.assign, "i_ip_device", writes=True
    ),
    "IPDevice/release_ip_device": Method(
        ip_devices.OneDevice, ip_devices.release, "i_ip_device", writes=True
    ),
    "IPDevice/delete_ip_device": Method(
        ip_devices.OneDevice, ip_devices.remove, "success", writes=True
    ),
    "IPDevice/add_ip_device_profile": Method(
        ip_devices.AddProfile, ip_devices.add_profile, "i_ip_device_profile", writes=True
    ),
    "IPDevice/get_ip_device_profile_list": Method(
        ip_devices.ListProfiles, ip_devices.get_profile_list, "profile_list"
    ),
    "PaymentTransaction/add_payment_transaction": Method(
        payment_transactions.AddTransaction,
        payment_transactions.add,
        "i_payment_transaction",
        writes=True,
    ),
    "PaymentTransaction/update_payment_transaction": Method(
        payment_transactions.UpdateTransaction,
        payment_transactions.update_fields,
        "i_payment_transaction",
        writes=True,
    ),
    "PaymentTransaction/get_payment_transaction_info": Method(
        payment_transactions.OneTransaction,
        payment_transactions.get_info,
        "payment_transaction_info",
    ),
    "PaymentTransaction/get_payment_transaction_list": Method(
        payment_transactions.ListTransactions,
        payment_transactions.get_list,
        "payment_transaction_list",
    ),
    "SIMCard/add_sim_card": Method(sim_cards.AddCard, sim_cards.add, "i_sim_card", writes=True),
    "SIMCard/update_sim_card": Method(
        sim_cards.UpdateCard, sim_cards.update_fields, "i_sim_card", writes=True
    ),
    "SIMCard/update_sim_card_list": Method(
        sim_cards.UpdateCards, sim_cards.update_list, "updated", writes=True
    ),
    "SIMCard/upload_sim_cards": Method(
        sim_cards.Upload, sim_cards.upload, "added removed", writes=True
    ),
    "SIMCard/delete_sim_card": Method(sim_cards.OneCard, sim_cards.remove, "success", writes=True),
    "SIMCard/add_custom_field": Method(
        custom_fields.NewField, _CARD_FIELDS.add, "i_custom_field", writes=True
    ),
    "SIMCard/get_custom_fields_schema": Method(
        custom_fields.NoParams, _CARD_FIELDS.get_schema, "custom_fields_list"
    ),
    "SIMCard/get_custom_fields_values": Method(
        custom_fields.OfCard, _CARD_FIELDS.get_values, "custom_fields_values"
    ),
    "SIMCard/update_custom_fields_values": Method(
        custom_fields.UpdateOfCard, _CARD_FIELDS.update_values, "i_sim_card", writes=True
    ),
    "SIMCard/assign_sim_card": Method(
        sim_cards.AssignCard, sim_cards.assign, "i_sim_card", writes=True
    ),
    "SIMCard/release_sim_card": Method(
        sim_cards.OneCard, sim_cards.release, "i_sim_card", writes=True
    ),
    "SIMCard/get_card_info": Method(sim_cards.GetCard, sim_cards.get_info, "card_info"),
    "SIMCard/get_card_list": Method(sim_cards.ListCards, sim_cards.get_list, "card_list"),
    "BillingSession/get_active_sessions_list": Method(
        active_sessions.ListSessions, active_sessions.get_list, "active_sessions_list"
    ),
    "Usage/authorise": Method(
        quotas.Authorise, quotas.authorise, "authorised reason? remaining", writes=True
    ),
    "Usage/record": Method(quotas.Record, quotas.record, "remaining exceeded", writes=True),
    "Usage/top_up": Method(quotas.TopUp, quotas.top_up, "remaining exceeded", writes=True),
    "Usage/end_session": Method(
        active_sessions.OneSession, active_sessions.end, "success", writes=True
    ),
}

#: A login, a password or a token.
Text = Annotated[str, Field(max_length=4096, examples=["demo"])]


class AuthInfo(Params):
    """Who calls, in the body: a session, a token, or login and password."""

    session_id: Text | None = None
    access_token: Text | None = None
    login: Text | None = None
    password: Text | None = None

    @model_validator(mode="after")
    def _is_one_way(self) -> "AuthInfo":
        if (
            self.model_fields_set
            not in (
                {"session_id"},
                {"access_token"},
                {"login", "password"},
            )
            or None in self.model_dump(exclude_unset=True).values()
        ):
            raise ValueError("session_id, or access_token, or login and password is expected")
        return self


class Login(Params):
    """Parameters of Session/login. ``scopes`` makes a token that may do less."""

    login: Text
    password: Text
    scopes: Annotated[str, Field(max_length=4096, examples=["espf.api:write"])] | None = None


class Refresh(Params):
    """Parameters of Session/refresh_access_token."""

    refresh_token: Text


class OneSession(Params):
    """Parameters of Session/ping and Session/logout: a session by its token or its number."""

    access_token: Text | None = None
    session_id: Text | None = None

    @model_validator(mode="after")
    def _names_one(self) -> "OneSession":
        if (self.access_token is None) == (self.session_id is None):
            raise ValueError("exactly one of access_token and session_id is expected")
        return self


@dataclass(frozen=True)
class Signature:
    """What a caller has to know of a method; ``reply`` as in Method."""

    params: type[Params]
    reply: str
    said: str


_TOKENS = "access_token refresh_token expires_at"

#: The methods that need nobody to be logged in.
SESSIONS: Mapping[str, Signature] = {
    "login": Signature(
        Login,
        f"session_id {_TOKENS}",
        "Begin a session. Raises the fault ``Server.Session.auth_failed``.",
    ),
    "refresh_access_token": Signature(
        Refresh, _TOKENS, "Change a refresh token, which is used up, for a new pair of tokens."
    ),
    "ping": Signature(OneSession, "user_id", "Whether a session lives: above 0 while it does."),
    "logout": Signature(OneSession, "success", "End a session: its tokens stop working."),
}


def signatures() -> dict[str, Signature]:
    """Every method, by service and name."""
    known = {f"Session/{name}": signature for name, signature in SESSIONS.items()}
    for path, method in METHODS.items():
        known[path] = Signature(method.params, method.reply, inspect.getdoc(method.serve) or "")
    return known
