"""Administrators: passwords, sessions, and tokens that work until they expire or are given back."""

from datetime import timedelta

import pytest

from databases import whatever_the_database
from espf import crypto, users
from espf.db.tables import access_tokens
from espf.errors import Conflict, Denied, InvalidRequest, NotFound
from espf.users import Users

PASSWORD = "correct horse"
PASSWORD_HASH = crypto.hash_password(PASSWORD)


@pytest.fixture
def house(database):
    """Users over a database with one administrator, jane."""
    with database.begin() as connection:
        connection.execute(
            users.users.insert().values(login="jane", password_hash=PASSWORD_HASH, i_env=3)
        )
    return Users(database)


@pytest.fixture
def jane(house):
    return house.by_password("jane", PASSWORD)


def denied(check, *words):
    with pytest.raises(Denied):
        check(*words)
    return True


def expire(database, kind):
    """Let the time of these tokens pass."""
    with database.begin() as connection:
        past = database.now(connection) - timedelta(seconds=1)
        connection.execute(
            access_tokens.update().where(access_tokens.c.kind == kind).values(expires_at=past)
        )


def test_the_right_password_and_nothing_else(house, jane):
    assert (jane.login, jane.i_env, jane.superuser, jane.rights) == ("jane", 3, False, frozenset())
    for password in ("wrong", "", PASSWORD.upper()):
        assert denied(house.by_password, "jane", password)
    for login in ("Jane", "nobody", ""):
        assert denied(house.by_password, login, PASSWORD)


@whatever_the_database
def test_a_login_that_does_not_exist_costs_as_much_as_a_wrong_password(house, monkeypatch):
    asked = []
    hasher = crypto._hasher

    class Counting:
        def verify(self, password_hash, password):
            asked.append(password_hash)
            return hasher.verify(password_hash, password)

    monkeypatch.setattr(crypto, "_hasher", Counting())
    denied(house.by_password, "nobody", PASSWORD)
    denied(house.by_password, "jane", "wrong")
    unknown, known = (text.split("$")[1:4] for text in asked)
    assert unknown == known


def test_a_session_is_known_by_its_token_and_its_number(house, jane):
    tokens = house.open_session(jane)
    assert house.by_token(tokens.access_token) == jane
    assert house.by_session(tokens.session_id) == jane
    assert denied(house.by_token, tokens.refresh_token)
    assert denied(house.by_token, tokens.access_token + "x")
    assert denied(house.by_token, "")
    assert denied(house.by_session, "")


def test_a_session_lasts_48_hours(house, jane, database):
    tokens = house.open_session(jane)
    with database.read() as connection:
        left = tokens.expires_at - database.now(connection)
    assert timedelta(hours=48, minutes=-1) < left <= timedelta(hours=48)


def test_an_expired_token_opens_nothing(house, jane, database):
    tokens = house.open_session(jane)
    expire(database, "access")
    assert denied(house.by_token, tokens.access_token)
    assert denied(house.by_session, tokens.session_id)
    house.refresh(tokens.refresh_token)
    expire(database, "refresh")
    assert denied(house.refresh, tokens.refresh_token)


def test_a_refresh_token_is_used_once(house, jane):
    first = house.open_session(jane)
    second = house.refresh(first.refresh_token)
    assert second.session_id is None, "the number stays that of the first"
    assert house.by_session(first.session_id) == house.by_token(second.access_token)
    assert house.by_token(second.access_token) == jane
    assert denied(house.refresh, first.refresh_token)
    assert denied(house.refresh, second.access_token)
    house.refresh(second.refresh_token)


@whatever_the_database
@pytest.mark.parametrize("by", ["token", "number"])
def test_logging_out_ends_the_whole_session_and_no_other(house, jane, by):
    mine, other = house.open_session(jane), house.open_session(jane)
    again = house.refresh(mine.refresh_token)
    if by == "token":
        house.close_session(mine.access_token)
    else:
        house.close_session_id(mine.session_id)
    for token in (mine.access_token, again.access_token):
        assert denied(house.by_token, token)
    assert denied(house.refresh, again.refresh_token)
    assert house.by_token(other.access_token) == jane


def test_a_new_password_ends_every_session(house, jane, database):
    tokens = house.open_session(jane)
    with database.begin() as connection:
        users.set_password(connection, "jane", "another password")
    assert denied(house.by_token, tokens.access_token)
    assert denied(house.refresh, tokens.refresh_token)
    assert denied(house.by_password, "jane", PASSWORD)
    assert house.by_password("jane", "another password") == jane


def test_who_reads_the_table_cannot_log_in_with_it(house, jane, database):
    tokens = house.open_session(jane)
    with database.read() as connection:
        stored = repr(connection.execute(access_tokens.select()).all())
    assert tokens.access_token not in stored
    assert tokens.refresh_token not in stored


def test_old_tokens_are_swept_out(house, jane, database):
    house.open_session(jane)
    expire(database, "access")
    expire(database, "refresh")
    house.open_session(jane)
    with database.read() as connection:
        assert len(connection.execute(access_tokens.select()).all()) == 2


def test_a_user_that_is_switched_off_is_out(house, jane, database):
    tokens = house.open_session(jane)
    with database.begin() as connection:
        connection.execute(users.users.update().values(enabled=0))
    assert denied(house.by_token, tokens.access_token)
    assert denied(house.by_session, tokens.session_id)
    assert denied(house.by_password, "jane", PASSWORD)


@whatever_the_database
@pytest.mark.parametrize(
    "password", ["", "1234567", "tab\ttab\ttab", "\udcff" * 8, "null\0null", "line\nline"]
)
def test_a_password_that_will_not_do_is_refused(house, database, password):
    with database.begin() as connection:
        with pytest.raises(InvalidRequest) as refused:
            users.create(connection, "joe", password, 3)
        assert refused.value.field == "password"
        with pytest.raises(InvalidRequest):
            users.set_password(connection, "jane", password)
    assert house.by_password("jane", PASSWORD)


@whatever_the_database
@pytest.mark.parametrize("login", ["", "a b", "a:b", "a\tb", "a\0", "x" * 65, "\udcff"])
def test_a_login_that_will_not_do_is_refused(database, login):
    with database.begin() as connection, pytest.raises(InvalidRequest) as refused:
        users.create(connection, login, PASSWORD, 3)
    assert refused.value.field == "login"


def test_logins_and_rights(house, database):
    with database.begin() as connection:
        with pytest.raises(Conflict):
            users.create(connection, "jane", PASSWORD, 3)
        with pytest.raises(InvalidRequest):
            users.create(connection, "joe", PASSWORD, 3, rights=frozenset({"everything"}))
        with pytest.raises(NotFound):
            users.set_password(connection, "joe", PASSWORD)
        users.create(connection, "joe", "8 chars.", 3, rights=frozenset({users.SIM_KEYS}))
    assert house.by_password("joe", "8 chars.").rights == {"sim.keys"}


def test_the_service_password_follows_from_the_key_file(sealer, tmp_path):
    assert users.service_password(sealer) == users.service_password(sealer)
    other = crypto.Sealer.create(tmp_path / "other.key")
    assert users.service_password(other) != users.service_password(sealer)


def test_who_reads_the_table_of_tokens_cannot_log_in_with_it(house, database):
    tokens = house.open_session(house.by_password("jane", PASSWORD))
    with database.read() as connection:
        stored = str(connection.exec_driver_sql("SELECT * FROM Access_Tokens").all())
    for secret in (tokens.session_id, tokens.access_token, tokens.refresh_token):
        assert secret not in stored
