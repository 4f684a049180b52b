"""The reference billing behind the vendor's API, and an account in it."""

import json

import jsonschema_rs
import pytest
from sqlalchemy import insert
from starlette.applications import Starlette
from starlette.testclient import TestClient

from espf.billing import environments
from espf.crypto import hash_password
from espf.db import tables
from espf.users import Users
from espf.web import rest, rest_description

#: The user of the vendor's examples.
LOGIN, PASSWORD = "demo", "exAmple"
PASSWORD_HASH = hash_password(PASSWORD)


@pytest.fixture
def http(billing_database, sealer):
    database = billing_database
    with database.begin() as connection:
        environments.add(connection, 1, "Default")
        connection.execute(
            insert(tables.users).values(login=LOGIN, password_hash=PASSWORD_HASH, i_env=1)
        )
    app = Starlette(routes=rest.routes(database, Users(database, sealer), sealer))
    with TestClient(app) as client:
        yield client


@pytest.fixture
def session(http):
    form = {"params": json.dumps({"login": LOGIN, "password": PASSWORD})}
    return http.post("/rest/Session/login", data=form).json()


@pytest.fixture(scope="session")
def described():
    """What the OpenAPI document says of each method: request and replies, by path."""
    document = {"components": {"schemas": {}}, "paths": {}}
    rest_description.add_to(document)
    return {path.removeprefix("/rest/"): one["post"] for path, one in document["paths"].items()}


@pytest.fixture
def call(http, session, described):
    """A call of a method; what it answers is held against the description."""

    def call(path, **params):
        headers = {"Authorization": f"Bearer {session['access_token']}"}
        reply = http.post(f"/rest/{path}", json={"params": params}, headers=headers)
        if reply.status_code == 200:
            content = described[path]["responses"]["200"]["content"]
            jsonschema_rs.validate(content["application/json"]["schema"], reply.json())
        return reply

    return call


@pytest.fixture
def i_account(call):
    """An account with every field filled in, and a SIM card."""
    customer = {"name": "Acme", "iso_4217": "EUR", "credit_limit": 100}
    i_customer = call("Customer/add_customer", customer_info=customer).json()["i_customer"]
    i_product = call("Product/add_product", product_info={"name": "LTE"}).json()["i_product"]
    card = {"imsi": "001010000000001", "iccid": "8900101000000000001"}
    i_sim_card = call("SIMCard/add_sim_card", card_info=card).json()["i_sim_card"]
    info = {
        "billing_model": 1,
        "h323_password": "secret",
        "i_customer": i_customer,
        "i_product": i_product,
        "id": "6808881050@msisdn",
        "salutation": "Ms",
        "firstname": "Ada",
        "midinit": "K",
        "lastname": "Smith",
        "companyname": "Acme",
        "email": "ada@example.net",
        "phone1": "6808881050",
        "phone2": "6808881051",
        "faxnum": "6808881052",
        "address_line_2": "2nd floor",
        "zip": "11000",
        "bcc": "archive@example.net",
        "cont1": "Ada",
        "cont2": "Grace",
        "note": "As agreed",
        "i_lang": "en",
        "service_flags": "YN",
        "i_account_role": 3,
        "credit_limit": 50,
        "activation_date": "2026-01-01",
        "expiration_date": "2090-01-01",
    }
    reply = call("Account/add_account", account_info=info)
    assert reply.json().keys() == {"i_account"}
    i_account = reply.json()["i_account"]
    call("SIMCard/assign_sim_card", i_sim_card=i_sim_card, i_account=i_account)
    return i_account
