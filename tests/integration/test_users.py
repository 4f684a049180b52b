"""Administrators: passwords, sessions, and tokens that work until they expire or are given back."""

from datetime import timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from databases import whatever_the_database
from espf import crypto, users
from espf import tokens as tokens_room
from espf.db.tables import access_tokens
from espf.errors import Conflict, Denied, InvalidRequest, NotFound, SettingsError
from espf.users import Users

PASSWORD = "correct horse"
PASSWORD_HASH = crypto.hash_password(PASSWORD)


@pytest.fixture
def house(database, sealer):
    """Users over a database with one administrator, jane."""
    with database.begin() as connection:
        connection.execute(
            users.users.insert().values(login="jane", password_hash=PASSWORD_HASH, i_env=3)
        )
    return Users(database, sealer)


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
    assert denied(house.by_token, tokens.access_token[:-1])
    assert denied(house.by_token, "")
    assert denied(house.by_session, "")


# Access tokens


def claims(token, key):
    """What a token says to whoever has the public key and no database."""
    return jwt.decode(token, key, algorithms=["RS256"], audience="espf-api")


def keys(database):
    with database.read() as connection:
        return tokens_room.list_keys(connection)


def rotate(database, sealer):
    with database.begin() as connection:
        return tokens_room.add_key(connection, sealer, database.now(connection))


def test_a_token_says_what_is_documented_to_whoever_has_the_public_key(house, jane, database):
    issued = house.open_session(jane)
    (key,) = keys(database)
    said = claims(issued.access_token, key.public_key)
    assert jwt.get_unverified_header(issued.access_token)["alg"] == "RS256"
    assert said["aud"] == ["portabilling-api", "portasip-api", "espf-api"]
    assert said["scopes"] == "espf.api:write espf.handlers:write"
    assert (said["i_user"], said["i_env"], said["login"]) == (jane.i_user, 3, "jane")
    assert (said["realm"], said["is_super_user"]) == ("admin", 0)
    assert said["exp"] - said["iat"] == 48 * 3600
    assert said["exp"] == int(issued.expires_at.timestamp())
    others = {claims(house.open_session(jane).access_token, key.public_key)["jti"] for _ in "ab"}
    assert len(others | {said["jti"]}) == 3


def test_a_token_of_an_old_key_works_until_it_has_expired(house, jane, database, sealer):
    old = house.open_session(jane).access_token
    kid = rotate(database, sealer)
    new = house.open_session(jane).access_token
    assert jwt.get_unverified_header(new)["kid"] == kid
    assert house.by_token(old) == house.by_token(new) == jane
    with database.begin() as connection:
        users.forget_expired(connection, database.now(connection) + timedelta(hours=47))
    assert len(keys(database)) == 2
    with database.begin() as connection:
        tokens_room.forget_retired(connection, database.now(connection))
    assert denied(house.by_token, old)
    assert house.by_token(new) == jane


def test_an_old_key_goes_with_the_last_token_that_it_may_have_signed(house, database, sealer):
    rotate(database, sealer)
    hour = timedelta(hours=1)
    for life, left in ((users.CREDENTIAL_LIFE - hour, 2), (users.CREDENTIAL_LIFE + hour, 1)):
        with database.begin() as connection:
            users.forget_expired(connection, database.now(connection) + life)
        assert len(keys(database)) == left
    assert [key.retired_at for key in keys(database)] == [None]


def test_only_the_key_that_signs_has_a_private_half_and_it_is_sealed(database, sealer):
    rotate(database, sealer)
    with database.read() as connection:
        halves = connection.exec_driver_sql("SELECT private_key FROM Signing_Keys").all()
    (sealed,) = [half for (half,) in halves if half is not None]
    assert len(halves) == 2
    assert "PRIVATE" not in sealed
    assert "PRIVATE" in sealer.unseal(sealed)


def test_a_token_that_somebody_else_has_signed_opens_nothing(house, jane, database):
    issued = house.open_session(jane).access_token
    (key,) = keys(database)
    said = jwt.decode(issued, options={"verify_signature": False})
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kid = {"kid": key.kid}
    for forged in (
        jwt.encode(said, stranger, "RS256", headers=kid),
        jwt.encode(said, stranger, "RS256", headers={"kid": "another"}),
        jwt.encode(said, stranger, "RS256"),
        jwt.encode(said, "x" * 32, "HS256", headers=kid),
        jwt.encode(said, None, "none", headers=kid),
        issued[:-4],
    ):
        # Even if somebody put it into the table.
        with database.begin() as connection:
            digest = {"digest": users.digest(forged), "session_digest": b"", "kind": "access"}
            later = database.now(connection) + timedelta(days=1)
            row = {**digest, "i_user": jane.i_user, "expires_at": later}
            connection.execute(access_tokens.insert().values(row))
        with pytest.raises(Denied):
            house.by_token(forged)


def test_without_a_key_nobody_logs_in(house, jane, database):
    with database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM Signing_Keys")
    with pytest.raises(SettingsError, match="evctl init"):
        house.open_session(jane)


def test_a_token_for_less_stays_one_when_it_is_refreshed(house, jane, database):
    less = frozenset({users.API_SCOPE})
    issued = house.open_session(jane, less)
    again = house.refresh(issued.refresh_token)
    for token in (issued.access_token, again.access_token):
        assert house.by_token(token).scopes == less
        assert claims(token, keys(database)[0].public_key)["scopes"] == "espf.api:write"
    with pytest.raises(InvalidRequest, match="scopes"):
        house.open_session(jane, frozenset({"espf.api:write", "everything"}))


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
