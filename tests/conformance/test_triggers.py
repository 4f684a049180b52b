"""Every database captures alike: what a write leaves in the queue, whoever writes, whatever it is.

Each test makes tables as a stranger would, writes to them over a connection of its own, and reads
what was captured.
"""

import subprocess
from contextlib import closing

import pytest
from sqlalchemy.engine import make_url

from billing_site import Site
from espf.capture import triggers
from espf.errors import RuleError


@pytest.fixture
def site(database_kind, bulk, store):
    if not store.holds("site"):
        Site(database_kind, store.empty()).close()
        store.keep("site")
    site = Site(database_kind, store.restore("site"), set_up=False, bulk=bulk)
    yield site
    site.close()


#: Words that SQL reserves, capitals, a quote, and another script.
ORDERS = """
CREATE TABLE "Order" ("Select" INTEGER PRIMARY KEY, "i Env" INTEGER, "Group" VARCHAR(40),
  "Größe" INTEGER, "it's" VARCHAR(40))
"""
RULES = """
[[rule]]
event = "Custom/New"
table = "Order"
on = "insert"
where = [{ column = "Größe", above = 0 }]
i_env = "i Env"
key = { prefix = "order", column = "Select" }
variables = [{ name = "id", column = "Select" }, { name = "group", column = "Group" }]

[[rule]]
event = "Custom/Changed"
table = "Order"
on = "update"
changed = ["Group", "it's"]
i_env = "i Env"
key = { prefix = "order", column = "Select" }
variables = [
  { name = "prev", column = "Group", of = "old" },
  { name = "curr", column = "Group" },
  { name = "odd", column = "it's" },
  { name = "text", value = "it's a \\"constant\\" \\\\ 100 % %s $espf$" },
  { name = "yes", value = true },
  { name = "none", null = true },
]

[[rule]]
event = "Custom/Gold"
table = "Order"
on = "update"
becomes = { column = "Group", from = "silver", to = "gold" }
i_env = "i Env"
variables = [{ name = "id", column = "Select" }]

[[rule]]
event = "Custom/Any/Gold"
table = "Order"
on = "update"
becomes = { column = "Group", to = "gold" }
i_env = "i Env"
variables = []

[[rule]]
event = "Custom/Low"
table = "Order"
on = "update"
falls_to = { column = "Größe", value = 0 }
i_env = "i Env"
variables = []

[[rule]]
event = "Custom/High"
table = "Order"
on = "update"
rises_above = { column = "Größe", value = 0 }
i_env = "i Env"
where = [{ column = "Group", in = ["gold", "silver"] }, { column = "it's", not_null = true }]
variables = []

[[rule]]
event = "Custom/Gone"
table = "Order"
on = "delete"
i_env = "i Env"
key = { prefix = "order", column = "Select" }
variables = [{ name = "group", column = "Group" }]
"""


@pytest.fixture
def orders(site):
    site.sql(ORDERS)
    site.apply(RULES)
    return site


def change(what):
    return f'UPDATE "Order" SET {what} WHERE "Select" = 7'


def new(group="'silver'", size="5", odd="'o'"):
    return f'INSERT INTO "Order" VALUES (7, 3, {group}, {size}, {odd})'


CONSTANTS = {"text": 'it\'s a "constant" \\ 100 % %s $espf$', "yes": True, "none": None}


def changed(prev, curr, odd="o"):
    return ("Custom/Changed", "order:7", {"prev": prev, "curr": curr, "odd": odd, **CONSTANTS})


def test_every_condition_says_what_happened_and_nothing_else(orders):
    orders.sql(new())
    assert orders.events() == [("Custom/New", "order:7", {"id": 7, "group": "silver"})]
    orders.sql(change("\"Group\" = 'gold'"))
    assert orders.events() == [
        changed("silver", "gold"),
        ("Custom/Gold", None, {"id": 7}),
        ("Custom/Any/Gold", None, {}),
    ]
    orders.sql(change('"Größe" = 0'), change('"Größe" = -1'))
    assert orders.events() == [("Custom/Low", None, {})]
    orders.sql(change('"Größe" = 1'), change('"Größe" = 2'))
    assert orders.events() == [("Custom/High", None, {})]
    orders.sql('DELETE FROM "Order"')
    assert orders.events() == [("Custom/Gone", "order:7", {"group": "gold"})]


def test_what_fails_a_condition_is_not_captured(orders):
    orders.sql(new(size="0"), change('"Größe" = NULL'), change('"Größe" = 9'))
    orders.sql(change('"Größe" = -9, "Select" = "Select"'))
    # It was above nothing before, and has no text that the guard wants afterwards.
    assert [event for event, _key, _variables in orders.events()] == ["Custom/Low"]
    orders.sql(change('"Größe" = 5, "it\'s" = NULL'))
    assert orders.events() == [changed("silver", "silver", None)]


def test_a_column_that_becomes_empty_or_filled_has_changed_and_one_that_stays_has_not(orders):
    orders.sql(new(group="NULL"))
    orders.events()
    orders.sql(change("\"Group\" = 'gold'"))
    assert orders.events() == [changed(None, "gold"), ("Custom/Any/Gold", None, {})]
    orders.sql(change("\"Group\" = 'gold'"), change('"Group" = "Group"'))
    assert orders.events() == []
    orders.sql(change("\"Group\" = 'GOLD'"))
    assert orders.events() == [changed("gold", "GOLD")]
    orders.sql(change("\"Group\" = 'gold'"), change('"Group" = NULL'))
    assert orders.events() == [
        changed("GOLD", "gold"),
        ("Custom/Any/Gold", None, {}),
        changed("gold", None),
    ]


def test_an_event_without_a_subscriber_is_not_stored_and_each_subscriber_gets_its_own(orders):
    orders.sql(new().replace("3,", "4,"))
    assert orders.events() == []
    orders.subscribe({"Custom/Changed"}, i_event_handler=2, i_env=4)
    orders.subscribe({"Custom/Changed"}, i_event_handler=9, i_env=4)
    orders.sql(change("\"Group\" = 'x'"))
    with orders.database.begin() as connection:
        connection.exec_driver_sql("UPDATE Event_Subscriptions SET active = 0 WHERE i_env = 4")
    orders.sql(change("\"Group\" = 'y'"))
    ((event, _key, variables),) = orders.events()
    assert (event, variables["curr"]) == ("Custom/Changed", "x")


def test_a_bulk_write_is_one_event_per_row_in_the_order_of_the_rules(orders):
    orders.sql(new())
    rows = ", ".join(f"({n}, 3, 'silver', 1, 'o')" for n in range(100, 300))
    orders.sql(f'INSERT INTO "Order" VALUES {rows}')
    assert len(orders.events()) == 201
    orders.sql("""UPDATE "Order" SET "Group" = 'gold', "Größe" = 0""")
    found = orders.events()
    per_row = ["Custom/Changed", "Custom/Gold", "Custom/Any/Gold", "Custom/Low"]
    assert [event for event, _key, _variables in found] == per_row * 201
    orders.sql('DELETE FROM "Order"')
    assert len({key for _event, key, _variables in orders.events()}) == 201


def test_what_is_rolled_back_never_happened(orders):
    orders.sql(new())
    orders.events()
    with orders.cursor("BEGIN") as cursor:
        cursor.execute(orders.quote(change("\"Group\" = 'a'")))
        cursor.execute("SAVEPOINT here")
        cursor.execute(orders.quote(change("\"Group\" = 'gold'")))
        cursor.execute("ROLLBACK TO SAVEPOINT here")
        cursor.execute("COMMIT")
        cursor.execute("BEGIN")
        cursor.execute(orders.quote(change("\"Group\" = 'never'")))
        cursor.execute("ROLLBACK")
    assert orders.events() == [changed("silver", "a")]


def test_a_statement_that_fails_after_the_trigger_emits_nothing(orders):
    orders.sql(new())
    orders.events()
    with orders.cursor() as cursor, pytest.raises(Exception, match=r"(?i)duplicate|unique"):
        cursor.execute(
            orders.quote("""INSERT INTO "Order" VALUES (8, 3, 'x', 1, 'o'), (7, 3, 'x', 1, 'o')""")
        )
    assert orders.events() == []


def test_an_upsert_is_captured_as_what_it_did(orders):
    orders.sql(new())
    orders.events()
    upsert = orders.pick(
        mariadb="ON DUPLICATE KEY UPDATE \"Group\" = 'gold'",
        others='ON CONFLICT ("Select") DO UPDATE SET "Group" = \'gold\'',
    )
    orders.sql(f"""INSERT INTO "Order" VALUES (7, 3, 'x', 1, 'o'), (8, 3, 'x', 1, 'o') {upsert}""")
    events = [event for event, _key, _variables in orders.events()]
    assert sorted(events) == ["Custom/Any/Gold", "Custom/Changed", "Custom/Gold", "Custom/New"]


def test_a_generated_column_changes_with_what_it_is_made_from(site):
    site.sql(
        "CREATE TABLE sums (id INTEGER PRIMARY KEY, i_env INTEGER, a INTEGER, b INTEGER, c INTEGER,"
        " total INTEGER GENERATED ALWAYS AS (a + b) STORED)",
        "INSERT INTO sums (id, i_env, a, b, c) VALUES (1, 3, 1, 1, 1)",
    )
    site.apply(
        '[[rule]]\nevent = "Custom/Total"\ntable = "sums"\non = "update"\nchanged = ["total"]\n'
        'variables = ["total"]\n'
    )
    site.sql("UPDATE sums SET c = 2", "UPDATE sums SET a = 2", "UPDATE sums SET b = 3")
    assert [variables for _event, _key, variables in site.events()] == [{"total": 3}, {"total": 5}]


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("name", ["rowid", "oid", "_rowid_", "ID"])
def test_a_primary_key_that_is_set_under_another_name_is_captured(site, name):
    site.sql(
        "CREATE TABLE things (id INTEGER PRIMARY KEY, i_env INTEGER)",
        "INSERT INTO things VALUES (1, 3)",
    )
    site.apply(
        '[[rule]]\nevent = "Custom/Moved"\ntable = "things"\non = "update"\nchanged = ["id"]\n'
        'variables = ["id"]\n'
    )
    site.sql(f"UPDATE things SET {name} = 2")
    assert [variables for _event, _key, variables in site.events()] == [{"id": 2}]


@pytest.mark.databases("sqlite")
def test_a_statement_that_sets_no_watched_column_has_no_part_of_the_trigger(orders):
    def programs(what):
        with orders.cursor() as cursor:
            rows = cursor.execute(f"EXPLAIN {change(what)}").fetchall()
        return [row for row in rows if row[1] == "Program"]

    assert programs("\"Group\" = 'x'")
    assert not programs('"i Env" = 4')


def test_a_change_of_the_primary_key_goes_by_the_new_one(orders):
    orders.sql(new())
    orders.events()
    orders.sql("""UPDATE "Order" SET "Select" = "Select" + 1, "Group" = 'x'""")
    assert [key for _event, key, _variables in orders.events()] == ["order:8"]


def test_rows_that_change_their_keys_beside_rows_that_do_not_are_all_captured(orders):
    rows = ", ".join(f"({n}, 3, 'silver', 5, 'o')" for n in range(1, 9))
    orders.sql(f'INSERT INTO "Order" VALUES {rows}')
    orders.events()
    moved = 'CASE WHEN "Select" > 5 THEN "Select" + 10 ELSE "Select" END'
    orders.sql(f"""UPDATE "Order" SET "Select" = {moved}, "Group" = 'x'""")
    orders.sql("""UPDATE "Order" SET "Select" = "Select" + 100, "Group" = 'y'""")
    orders.sql("""UPDATE "Order" SET "Select" = 7, "Group" = 'z' WHERE "Select" = 101""")
    found = [(key, variables["curr"]) for _event, key, variables in orders.events()]
    first = [(f"order:{n}", "x") for n in (1, 2, 3, 4, 5, 16, 17, 18)]
    second = [(f"order:{n}", "y") for n in (101, 102, 103, 104, 105, 116, 117, 118)]
    assert sorted(found) == sorted([*first, *second, ("order:7", "z")])


@pytest.mark.databases("postgresql")
def test_a_key_that_a_trigger_of_the_billing_changes_is_captured(orders):
    orders.sql(
        "INSERT INTO \"Order\" SELECT n, 3, 'silver', 5, 'o' FROM generate_series(1, 4) n",
        "CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS "
        """$$ BEGIN NEW."Select" := NEW."Select" + 100; RETURN NEW; END $$""",
        'CREATE TRIGGER own BEFORE UPDATE ON "Order" FOR EACH ROW EXECUTE FUNCTION own()',
    )
    orders.events()
    orders.sql("""UPDATE "Order" SET "Group" = 'x'""")
    assert sorted(key for _event, key, _v in orders.events()) == [
        f"order:{n}" for n in (101, 102, 103, 104)
    ]


@pytest.mark.databases("postgresql")
def test_rows_that_exchange_their_keys_in_one_statement_are_not_lost(site):
    site.sql(ORDERS.replace(" PRIMARY KEY", " PRIMARY KEY DEFERRABLE"))
    site.apply(RULES)
    site.sql("""INSERT INTO "Order" VALUES (1, 3, 'a', 5, 'o'), (2, 3, 'b', 5, 'o')""")
    site.events()
    site.sql("""UPDATE "Order" SET "Select" = 3 - "Select", "Group" = "Group" || '!'""")
    found = [(key, each["prev"], each["curr"]) for _event, key, each in site.events()]
    assert {("order:2", "a", "a!"), ("order:1", "b", "b!")} <= set(found)


@pytest.mark.databases("mariadb")
def test_replace_is_captured_as_a_removal_and_a_new_row(orders):
    orders.sql(new())
    orders.events()
    orders.sql("""REPLACE INTO "Order" VALUES (7, 3, 'x', 1, 'o')""")
    assert [event for event, _key, _v in orders.events()] == ["Custom/Gone", "Custom/New"]


@pytest.mark.databases("mariadb")
def test_an_update_of_several_tables_is_captured_in_each(orders):
    orders.sql(new(), "CREATE TABLE other (id INTEGER PRIMARY KEY, x INTEGER)")
    orders.sql("INSERT INTO other VALUES (7, 1)")
    orders.events()
    orders.sql(
        """UPDATE "Order" o JOIN other t ON t.id = o."Select" SET o."Group" = 'x', t.x = 2"""
    )
    assert orders.events() == [changed("silver", "x")]


@pytest.mark.databases("mariadb")
def test_load_data_is_captured(orders, tmp_path):
    (tmp_path / "order.txt").write_text("7\t3\tsilver\t5\to\n")
    orders.sql(f"LOAD DATA LOCAL INFILE '{tmp_path / 'order.txt'}' INTO TABLE \"Order\"")
    assert [event for event, _key, _variables in orders.events()] == ["Custom/New"]


@pytest.mark.databases("postgresql")
def test_copy_and_merge_are_captured(orders):
    with orders.cursor() as cursor:
        with cursor.copy('COPY "Order" FROM STDIN') as copy:
            copy.write("7\t3\tsilver\t5\to\n9\t3\tsilver\t5\to\n")
        assert [event for event, _key, _v in orders.events()] == ["Custom/New"] * 2
        cursor.execute(
            'MERGE INTO "Order" o USING (VALUES (7), (10)) AS s (id) ON o."Select" = s.id '
            "WHEN MATCHED THEN UPDATE SET \"Group\" = 'x' "
            "WHEN NOT MATCHED THEN INSERT VALUES (10, 3, 'silver', 5, 'o')"
        )
    assert sorted(event for event, _key, _v in orders.events()) == ["Custom/Changed", "Custom/New"]


def test_two_writers_of_one_row_are_captured_in_the_order_in_which_they_changed_it(orders):
    if orders.kind == "sqlite":
        pytest.skip("there is one writer")
    orders.sql(new())
    orders.events()
    import threading  # noqa: PLC0415

    with orders.cursor("BEGIN") as first:
        first.execute(orders.quote(change("\"Group\" = 'one'")))
        second = threading.Thread(target=orders.sql, args=(change("\"Group\" = 'two'"),))
        second.start()
        first.execute(orders.quote(change("\"Group\" = 'one and a half'")))
        first.execute("COMMIT")
        second.join()
    assert [variables["curr"] for _event, _key, variables in orders.events()] == [
        "one",
        "one and a half",
        "two",
    ]


# --- keys, environments and look-ups ---


def test_keys_of_every_type_make_lanes(site):
    uuid = site.pick(postgresql="UUID", others="VARCHAR(36)")
    site.sql(
        f"""CREATE TABLE lanes (id {uuid}, tenant INTEGER, code VARCHAR(300), n BIGINT,
        amount DECIMAL(12, 3), PRIMARY KEY (id, tenant))"""
    )
    rule = """
[[rule]]
event = "Custom/{name}"
table = "lanes"
on = "insert"
i_env = "tenant"
key = {{ prefix = "x", column = "{name}" }}
variables = ["{name}"]
"""
    site.apply("".join(rule.format(name=name) for name in ("id", "code", "n", "amount")))
    one = "9f0c8a1e-0000-4000-8000-00000000000a"
    site.sql(f"INSERT INTO lanes VALUES ('{one}', 3, 'a:b c', 9223372036854775807, 12.5)")
    amount = site.pick(sqlite="12.5", others="12.500")
    assert [(key, *variables.values()) for _event, key, variables in site.events()] == [
        (f"x:{one}", one),
        ("x:a:b c", "a:b c"),
        ("x:9223372036854775807", 9223372036854775807),
        (f"x:{amount}", 12.5),
    ]
    for code, key in (("é", None), ("a\nb", None), ("a\n", None), ("x" * 300, f"x:{'x' * 200}")):
        site.sql(
            "DELETE FROM lanes", f"INSERT INTO lanes VALUES ('{one}', 3, '{code}', NULL, NULL)"
        )
        found = {event: lane for event, lane, _variables in site.events()}
        assert found == {
            "Custom/id": f"x:{one}",
            "Custom/code": key,
            "Custom/n": None,
            "Custom/amount": None,
        }


LOOKUP = """
[[rule]]
event = "Custom/Device"
table = "devices"
on = "update"
changed = ["secret"]
lookup = { table = "owners", match = { login = "owner" } }
i_env = { column = "tenant", of = "looked_up" }
key = { prefix = "owner", column = "id", of = "looked_up" }
where = [{ column = "class", of = "looked_up", in = ["vip"] }]
variables = [
  { name = "login", column = "owner" },
  { name = "owner", column = "id", of = "looked_up" },
  { name = "level", column = "class", of = "looked_up" },
]

[[rule]]
event = "Custom/Device/Alone"
table = "devices"
on = "update"
changed = ["secret"]
lookup = { table = "owners", match = { login = "owner" } }
i_env = { value = 3 }
key = { prefix = "owner", column = "id", of = "looked_up" }
variables = [{ name = "owner", column = "id", of = "looked_up" }]
"""


def test_a_look_up_gives_the_environment_the_key_and_variables_and_nothing_when_it_finds_none(site):
    odd = site.pick(mariadb=" CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci", others="")
    site.sql(
        f"CREATE TABLE owners (id INTEGER PRIMARY KEY, login VARCHAR(40){odd} UNIQUE, "
        "tenant INTEGER, class VARCHAR(10))",
        "CREATE TABLE devices (id INTEGER PRIMARY KEY, owner VARCHAR(40), secret VARCHAR(40))",
        "INSERT INTO owners VALUES (5, 'ann', 3, 'vip'), (6, 'bob', 3, 'none')",
        "INSERT INTO owners VALUES (7, 'eve', 4, 'vip')",
        "INSERT INTO devices VALUES (1, 'ann', ''), (2, 'bob', ''), (3, 'eve', ''), (4, 'é', '')",
        "INSERT INTO devices VALUES (5, '日本', ''), (6, NULL, '')",
    )
    site.apply(LOOKUP)
    for number in range(1, 7):
        site.sql(f"UPDATE devices SET secret = 's' WHERE id = {number}")
    assert site.events() == [
        ("Custom/Device", "owner:5", {"login": "ann", "owner": 5, "level": "vip"}),
        ("Custom/Device/Alone", "owner:5", {"owner": 5}),
        ("Custom/Device/Alone", "owner:6", {"owner": 6}),
        ("Custom/Device/Alone", "owner:7", {"owner": 7}),
        *[("Custom/Device/Alone", None, {"owner": None})] * 3,
    ]


def test_an_environment_out_of_range_has_no_subscribers_and_stops_nobody(site):
    site.sql("CREATE TABLE wide (id INTEGER PRIMARY KEY, i_env BIGINT)")
    site.apply('[[rule]]\nevent = "Custom/X"\ntable = "wide"\non = "insert"\nvariables = ["id"]\n')
    values = ("9223372036854775807", "-1", "0", "2147483648", "NULL", "3")
    for number, value in enumerate(values):
        site.sql(f"INSERT INTO wide VALUES ({number}, {value})")
    assert site.events() == [("Custom/X", None, {"id": 5})]


# --- values ---

ANY = """
[[rule]]
event = "Custom/Value"
table = "vals"
on = "{on}"
{change}
i_env = {{ value = 3 }}
key = {{ prefix = "v", column = "v" }}
variables = [{{ name = "v", column = "v" }}, {{ name = "m", column = "v", money = true }}]
"""


def captured(site, column_type, literal, *settings):
    """What an insert of a value and an update to it carry; no write may fail."""
    site.sql("DROP TABLE IF EXISTS vals")
    site.sql(f"CREATE TABLE vals (id INTEGER PRIMARY KEY, v {column_type})")
    site.apply(
        ANY.format(on="insert", change="")
        + ANY.format(on="update", change='changed = ["v"]')
        + ANY.format(on="delete", change="")
    )
    site.sql(
        f"INSERT INTO vals VALUES (1, {literal})",
        "UPDATE vals SET v = NULL",
        f"UPDATE vals SET v = {literal}",
        f"UPDATE vals SET v = {literal}",
        "DELETE FROM vals",
        settings=settings,
    )
    first, empty, second, gone = site.events()
    assert (empty[1], empty[2]["v"]) == (None, None)
    assert first == second == gone
    assert (
        site.drifts(
            ANY.format(on="insert", change="")
            + ANY.format(on="update", change='changed = ["v"]')
            + ANY.format(on="delete", change="")
        )
        == []
    )
    return first[1], first[2]["v"], first[2]["m"]


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    ("column_type", "literal", "key", "value"),
    [
        ("numeric", "'NaN'", "v:NaN", None),
        ("numeric", "'Infinity'", "v:Infinity", None),
        ("numeric(20,5)", "12.34567", "v:12.34567", 12.34567),
        ("numeric", "1e400", ..., ...),
        ("real", "'-Infinity'", "v:-Infinity", None),
        ("double precision", "0.1", "v:0.1", 0.1),
        ("double precision", "1e300", "v:1e+300", 1e300),
        ("double precision", "'NaN'", "v:NaN", None),
        ("boolean", "true", None, True),
        ("bytea", "'\\xdeadbeef'", None, None),
        ("timestamptz", "'2026-03-01 10:00:00+02'", ..., "2026-03-01 08:00:00+00"),
        ("timestamptz", "'infinity'", "v:infinity", "infinity"),
        ("timestamp", "'4000-01-01 BC'", ..., "4000-01-01 00:00:00 BC"),
        ("date", "'2026-03-01'", "v:2026-03-01", "2026-03-01"),
        ("interval", "'1 day 2 hours'", ..., "1 day 02:00:00"),
        ("json", "'{\"a\": [1, \"x\"]}'", ..., '{"a": [1, "x"]}'),
        ("jsonb", "'{\"a\":1}'", ..., '{"a": 1}'),
        ("integer[]", "'{1,NULL,3}'", ..., "{1,NULL,3}"),
        ("double precision[]", "'{0.1}'", ..., "{0.1}"),
        ("bytea[]", "array['\\xff'::bytea]", ..., '{"\\\\xff"}'),
        ("uuid", "'9F0C8A1E-0000-4000-8000-00000000000A'", ..., ...),
        ("inet", "'10.0.0.1/8'", "v:10.0.0.1/8", "10.0.0.1/8"),
        ("bit(4)", "'1010'", "v:1010", "1010"),
        ("int4range", "'[1,5)'", "v:[1,5)", "[1,5)"),
        ("point", "'(1,2)'", "v:(1,2)", "(1,2)"),
        ("xml", "'<a/>'", "v:<a/>", "<a/>"),
        ("char(5)", "'ab'", "v:ab", "ab"),
        ("money", "1.5", ..., "$1.50"),
        ("tsvector", "'a b'", ..., "'a' 'b'"),
        ("text", "repeat('é', 5000000)", None, "é" * 4000 + "…"),
        ("text", "E'quote \" back \\\\ line \\n bell \\x07 \\u2028'", None, ...),
        ("text", "'😀'", None, "😀"),
    ],
)  # fmt: skip
def test_no_value_of_postgresql_stops_a_write(site, column_type, literal, key, value):
    hostile = (
        "SET DateStyle = 'SQL, DMY'", "SET IntervalStyle = 'sql_standard'",
        "SET TimeZone = 'Asia/Kathmandu'", "SET extra_float_digits = -15",
        "SET bytea_output = 'escape'", "SET search_path = ''", "SET xmloption = 'document'",
        "SET default_transaction_isolation = 'serializable'", "SET search_path = public",
        "SET backslash_quote = off", "SET plpgsql.variable_conflict = 'error'",
    )  # fmt: skip
    lane, found, money = captured(site, column_type, literal, *hostile)
    assert key is ... or lane == key
    assert value is ... or (found, type(found)) == (value, type(value))
    if column_type == "numeric(20,5)":
        assert money == value


DATED = """
[[rule]]
event = "Custom/Date"
table = "dated"
on = "update"
changed = ["v"]
i_env = { value = 3 }
key = { prefix = "d", column = "id" }
variables = [{ name = "v", column = "v" }]
"""


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("value", ["2026-03-01", "infinity", "0044-03-15 BC"])
def test_a_date_is_written_in_one_way_by_a_function_without_settings(site, value):
    site.sql("CREATE TABLE dated (id integer PRIMARY KEY, v date)", "INSERT INTO dated VALUES (1)")
    site.apply(DATED)
    site.sql(
        f"UPDATE dated SET v = '{value}'",
        "UPDATE dated SET v = NULL",
        settings=["SET DateStyle = 'SQL, DMY'"],
    )
    assert [variables["v"] for *_names, variables in site.events()] == [value, None]


@pytest.mark.databases("postgresql")
def test_an_interval_that_is_written_otherwise_has_changed(site):
    site.sql(
        "CREATE TABLE dated (id integer PRIMARY KEY, v interval)",
        "INSERT INTO dated VALUES (1, '1 day')",
    )
    becomes = [
        DATED.replace('changed = ["v"]', f'becomes = {{ column = "v", to = "24:00:00"{origin} }}')
        for origin in ("", ', from = "1 day"')
    ]
    site.apply("".join([DATED, *becomes]))
    site.sql("UPDATE dated SET v = '24:00:00'", "UPDATE dated SET v = '24:00:00'")
    assert [variables for *_names, variables in site.events()] == [{"v": "24:00:00"}] * 3


@pytest.mark.databases("mariadb")
@pytest.mark.parametrize(
    ("column_type", "literal", "key", "value"),
    [
        ("DECIMAL(20,5)", "12.34567", "v:12.34567", 12.34567),
        ("DECIMAL(65,30)", f"{'9' * 35}.{'9' * 30}", ..., ...),
        ("BIGINT UNSIGNED", "18446744073709551615", ..., 18446744073709551615),
        ("DOUBLE", "1e300", "v:1e300", 1e300),
        ("FLOAT", "0.5", "v:0.5", 0.5),
        ("BIT(8)", "b'101'", "v:5", 5),
        ("TINYINT(1)", "1", "v:1", 1),
        ("YEAR", "2026", "v:2026", 2026),
        ("ENUM('a','b')", "'b'", "v:b", "b"),
        ("SET('x','y')", "'x,y'", "v:x,y", "x,y"),
        ("DATE", "'2026-03-01'", "v:2026-03-01", "2026-03-01"),
        ("DATE", "'0000-00-00'", ..., "0000-00-00"),
        ("DATETIME(3)", "'2026-03-01 10:00:00.5'", ..., "2026-03-01 10:00:00.500"),
        ("TIMESTAMP NULL", "FROM_UNIXTIME(1772359200)", ..., "2026-03-01 10:00:00"),
        ("TIMESTAMP(3) NULL", "FROM_UNIXTIME(1772359200.5)", ..., "2026-03-01 10:00:00.500"),
        ("TIME", "'-838:59:59'", ..., "-838:59:59"),
        ("JSON", "JSON_OBJECT('a', JSON_ARRAY(1))", ..., '{"a": [1]}'),
        ("BLOB", "x'ff00'", None, None),
        ("VARBINARY(10)", "'abc'", None, None),
        ("POINT", "POINT(1, 2)", None, None),
        ("INET6", "'::1'", "v:::1", "::1"),
        ("UUID", "'9f0c8a1e-0000-4000-8000-00000000000a'", ..., ...),
        ("VARCHAR(40) CHARACTER SET latin1", "'Zoë'", None, "Zoë"),
        ("VARCHAR(4) CHARACTER SET utf8mb3 COLLATE utf8mb3_turkish_ci",
         "_utf8mb4'\u0131'", None, "\u0131"),
        ("VARCHAR(40) CHARACTER SET ucs2", "'é'", None, "é"),
        ("LONGTEXT CHARACTER SET utf8mb4", "repeat('é', 5000000)", None, "é" * 4000 + "…"),
        ("TEXT", "'back \\\\ line \\n bell \\Z nul \\0 end'", None, ...),
        ("VARCHAR(9) CHARACTER SET utf8mb4", "_utf8mb4'😀'", None, "😀"),
        ("CHAR(5)", "'ab'", "v:ab", "ab"),
    ],
)  # fmt: skip
def test_no_value_of_mariadb_stops_a_write(site, column_type, literal, key, value):
    hostile = (
        "SET sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT,STRICT_ALL_TABLES,HIGH_NOT_PRECEDENCE'",
        "SET time_zone = '-11:30'",
        "SET collation_connection = latin1_swedish_ci",
        "SET max_join_size = 1, sql_big_selects = 1, sql_select_limit = 1",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    )
    lane, found, money = captured(site, column_type, literal, *hostile)
    assert key is ... or lane == key
    assert value is ... or (found, type(found)) == (value, type(value))
    if column_type == "DECIMAL(20,5)":
        assert money == value


@pytest.mark.databases("mariadb")
def test_a_writer_without_backslashes_is_captured_alike(orders):
    orders.sql(
        new(group="'a\\b''c\"d'").replace('\\"', '"'),
        change("\"it's\" = 'x\\y'"),
        settings=("SET sql_mode = 'NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES'",),
    )
    (created, _changed) = orders.events()
    assert created[2]["group"].startswith("a\\b'c")


@pytest.mark.parametrize(
    ("literal", "number"),
    [("12.34567", "12.34567"), ("-0.00005", "-0.00005"), ("10", "10"), ("0", "0"),
     ("100000", "100000"), ("999999999999999.99999", "999999999999999.99999")],
)  # fmt: skip
@pytest.mark.databases("postgresql", "mariadb")
def test_money_is_a_json_number_digit_by_digit(site, literal, number):
    site.sql("CREATE TABLE vals (id INTEGER PRIMARY KEY, v DECIMAL(20, 5))")
    site.apply(ANY.format(on="insert", change=""))
    site.sql(f"INSERT INTO vals VALUES (1, {literal})")
    with site.database.read() as connection:
        text = connection.exec_driver_sql("SELECT variables FROM Event_Queue").scalar_one()
    assert f'"m":{number},' in text


def test_an_event_may_have_more_variables_than_a_function_has_arguments(site):
    names = [f"v{number}" for number in range(50)]
    site.sql("CREATE TABLE wide (id INTEGER PRIMARY KEY, i_env INTEGER)")
    variables = ", ".join(f'{{ name = "{name}", column = "id" }}' for name in names)
    site.apply(
        f'[[rule]]\nevent = "Custom/X"\ntable = "wide"\non = "insert"\nvariables = [{variables}]\n'
    )
    site.sql("INSERT INTO wide VALUES (7, 3)")
    assert site.events() == [("Custom/X", None, dict.fromkeys(names, 7))]


# --- the writer ---


@pytest.mark.databases("mariadb")
def test_the_writer_keeps_its_insert_id_row_count_variables_and_warnings(site):
    site.sql(
        'CREATE TABLE "Order" ("Select" INTEGER PRIMARY KEY AUTO_INCREMENT, "i Env" INTEGER, '
        '"Group" VARCHAR(9) CHARACTER SET latin1, "Größe" INTEGER, "it\'s" LONGTEXT)'
    )
    site.apply(RULES)
    insert = "INSERT INTO `Order` (`i Env`, `Group`, `Größe`, `it's`) VALUES (3, 'silver', 5, %s)"
    with site.cursor("SET @espf_env = 'mine'") as cursor:
        cursor.execute(insert, ("日本" * 9000,))
        assert cursor.lastrowid == 1
        cursor.execute(insert, ("x",))
        assert cursor.lastrowid == 2
        cursor.execute("UPDATE `Order` SET `Group` = 'gold'")
        assert cursor.rowcount == 2
        cursor.execute("SELECT @@warning_count, LAST_INSERT_ID(), @espf_env")
        assert cursor.fetchone() == (0, 2, "mine")
        cursor.execute("UPDATE `Order` SET `Group` = 'gold', `it's` = `it's`")
        cursor.execute("SELECT ROW_COUNT(), @@warning_count, LAST_INSERT_ID()")
        assert cursor.fetchone() == (0, 0, 2)
    assert len(site.events()) == 8


@pytest.mark.databases("postgresql")
def test_the_writer_keeps_its_row_count_and_last_value(orders):
    with orders.cursor("CREATE TEMP SEQUENCE mine", "SELECT nextval('mine')") as cursor:
        cursor.execute(new())
        assert cursor.rowcount == 1
        cursor.execute("SELECT currval('mine')")
        assert cursor.fetchone() == (1,)


def test_an_owners_trigger_that_writes_is_captured_too(orders):
    orders.sql(new(), "CREATE TABLE other (id INTEGER PRIMARY KEY, x INTEGER)")
    orders.sql("INSERT INTO other VALUES (7, 1)")
    update = change("\"Group\" = 'x'")
    if orders.kind == "postgresql":
        orders.sql(
            f"CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {update}; "
            "RETURN NULL; END $$",
            "CREATE TRIGGER own AFTER UPDATE ON other FOR EACH ROW EXECUTE FUNCTION own()",
        )
    else:
        each_row = orders.pick(mariadb="FOR EACH ROW", sqlite="")
        orders.sql(f"CREATE TRIGGER own AFTER UPDATE ON other {each_row} BEGIN {update}; END")
    orders.events()
    orders.sql("UPDATE other SET x = 2")
    assert orders.events() == [changed("silver", "x")]


@pytest.mark.databases("postgresql")
def test_only_a_worker_that_sleeps_is_woken(orders):
    orders.sql(new())
    with orders.cursor("LISTEN espf", "SELECT setval('espf.worker_sleeps', 1)") as cursor:
        orders.sql(change("\"Group\" = 'a'"))
        assert list(cursor.connection.notifies(timeout=0.1)) == []
        cursor.execute("SELECT setval('espf.worker_sleeps', 2)")
        orders.sql(change('"Größe" = 4'))
        assert list(cursor.connection.notifies(timeout=0.1)) == []
        orders.sql(change("\"Group\" = 'b'"))
        (woken,) = cursor.connection.notifies(timeout=60, stop_after=1)
        assert (woken.channel, woken.payload) == ("espf", "")


# --- whose rights ---


@pytest.mark.databases("postgresql", "mariadb")
def test_a_writer_needs_no_right_on_our_tables(orders):
    if orders.kind == "postgresql":
        orders.sql(
            "DROP ROLE IF EXISTS clerk", "CREATE ROLE clerk LOGIN", 'GRANT ALL ON "Order" TO clerk'
        )
        denied = "SELECT count(*) FROM espf.event_queue"
    else:
        orders.sql("CREATE OR REPLACE USER clerk@localhost")
        orders.sql('GRANT SELECT, INSERT, UPDATE, DELETE ON "Order" TO clerk@localhost')
        denied = "SELECT count(*) FROM espf.Event_Queue"
    orders.sql(new(), change("\"Group\" = 'x'"), 'DELETE FROM "Order"', user="clerk")
    assert [event for event, _key, _v in orders.events()] == [
        "Custom/New",
        "Custom/Changed",
        "Custom/Gone",
    ]
    with orders.cursor(user="clerk") as cursor, pytest.raises(Exception, match="denied"):
        cursor.execute(denied)
    if orders.kind == "postgresql":
        orders.sql('REVOKE ALL ON "Order" FROM clerk', "DROP ROLE clerk")


@pytest.mark.databases("postgresql", "mariadb")
def test_the_documented_privileges_are_enough_for_our_account(database_kind, store):
    """docs/how-to/attach-a-billing-database.md says them."""
    owner = Site(database_kind, store.empty(), set_up=False)
    owner.sql(ORDERS)
    grants = {
        "postgresql": [
            "DROP ROLE IF EXISTS espf_service",
            "CREATE ROLE espf_service LOGIN",
            "CREATE SCHEMA espf AUTHORIZATION espf_service",
            "GRANT USAGE ON SCHEMA public TO espf_service",
            'GRANT SELECT, TRIGGER ON "Order" TO espf_service',
        ],
        "mariadb": [
            "CREATE DATABASE espf CHARACTER SET utf8mb4",
            "CREATE OR REPLACE USER espf_service@localhost",
            "GRANT ALL ON espf.* TO espf_service@localhost",
            "GRANT SELECT, TRIGGER ON billing.* TO espf_service@localhost",
        ],
    }[database_kind]
    owner.sql(*grants)
    url = store.url().replace("//espf@", "//espf_service@").replace("//root@", "//espf_service@")
    ours = Site(database_kind, url)
    try:
        ours.apply(RULES)
        owner.sql(new(), change("\"Group\" = 'x'"))
        assert [event for event, _key, _v in ours.events()] == ["Custom/New", "Custom/Changed"]
        assert ours.drifts(RULES) == []
        with ours.database.begin() as connection:
            assert len(triggers.remove(connection, ours.dialect)) == 3
    finally:
        ours.close()
        owner.close()
        if database_kind == "postgresql":
            store.empty()
            Site(database_kind, store.url(), set_up=False).sql("DROP ROLE espf_service")


# --- plan, apply, verify, remove ---


def test_plan_apply_verify_and_remove_go_round(site):
    site.sql(ORDERS)
    wanted = site.wanted(RULES)
    with site.database.read() as connection:
        planned = triggers.plan(connection, site.dialect, wanted)
    assert (len(planned.create), planned.drop, planned.problems) == (3, (), ())
    assert set(site.drifts(RULES)) == {"missing"}
    assert site.apply(RULES) == planned
    assert site.drifts(RULES) == []
    assert site.apply(RULES).is_empty
    assert len(site.installed()) == 3
    fewer = RULES[: RULES.index('[[rule]]\nevent = "Custom/Gone"')]
    assert site.drifts(fewer) == ["unknown"]
    assert len(site.apply(fewer).drop) == 1
    with site.database.begin() as connection:
        assert len(triggers.remove(connection, site.dialect)) == 2
    assert site.installed() == set()
    site.sql(new())
    assert site.events() == []
    if site.kind == "postgresql":
        with site.cursor("SELECT count(*) FROM pg_proc WHERE proname LIKE 'espf%'") as cursor:
            assert cursor.fetchone() == (0,)


def test_what_an_administrator_runs_from_the_printed_script_is_what_apply_installs(orders):
    fewer = RULES[: RULES.index('[[rule]]\nevent = "Custom/Gone"')].replace("'gold'", "'G'")
    with orders.database.read() as connection:
        script = triggers.ddl(connection, orders.dialect, orders.wanted(fewer))
    url = make_url(orders.url)
    shell = orders.pick(
        sqlite=["sqlite3", url.database],
        postgresql=["psql", "-qXv", "ON_ERROR_STOP=1", "-h", url.query.get("host"), "-U", "dba",
                    url.database],
        mariadb=["mariadb", "--no-defaults", "-u", "root", f"-S{url.query.get('unix_socket')}",
                 url.database],
    )  # fmt: skip
    if orders.kind == "postgresql":
        orders.sql("CREATE ROLE dba SUPERUSER LOGIN")
    try:
        subprocess.run(shell, input=script, text=True, check=True, capture_output=True)
        assert orders.drifts(fewer) == []
        assert orders.apply(fewer).is_empty
        if orders.kind == "postgresql":
            owners = (
                "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE proname LIKE 'espf%'"
            )
            with orders.cursor(owners) as cursor:
                assert cursor.fetchall() == [("espf",)]
    finally:
        if orders.kind == "postgresql":
            orders.sql("DROP ROLE dba")


def test_a_trigger_altered_by_hand_is_found_and_put_right(orders):
    alterations = orders.pick(
        postgresql=[
            'ALTER TABLE "Order" DISABLE TRIGGER ALL',
            'DROP TRIGGER "espf_public.Order_update" ON "Order"',
            'ALTER FUNCTION espf."espf_public.Order_update"() SECURITY INVOKER',
            'ALTER FUNCTION espf."espf_public.Order_update"() RESET search_path',
            (
                'CREATE OR REPLACE FUNCTION espf."espf_public.Order_update"() RETURNS trigger '
                "LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
            ),
        ],
        mariadb=[
            (
                "CREATE OR REPLACE TRIGGER espf_Order_update AFTER UPDATE ON `Order` "
                "FOR EACH ROW SET @x = '`espf`.Event_Queue'"
            ),
            "DROP TRIGGER espf_Order_update",
        ],
        sqlite=["DROP TRIGGER espf_Order_update"],
    )
    orders.sql(new())
    for alteration in alterations:
        orders.sql(alteration)
        assert orders.drifts(RULES) != []
        orders.apply(RULES)
        assert orders.drifts(RULES) == []
        orders.events()
        orders.sql(change('"Größe" = 1, "Group" = \'gold\''), change("\"Group\" = 'silver'"))
        assert "Custom/Changed" in {event for event, _key, _v in orders.events()}


BULK = '[[table]]\nname = "Order"\nbulk = true\n'


@pytest.mark.databases("postgresql")
def test_every_part_of_a_bulk_trigger_is_verified_and_a_change_of_mind_leaves_none(database_url):
    with closing(Site("postgresql", database_url)) as site:
        site.sql(ORDERS)
        site.apply(RULES + BULK)
        function = 'EXECUTE FUNCTION espf."espf_public.Order_update"()'
        update = 'CREATE TRIGGER "espf_public.Order_update" AFTER UPDATE ON "Order"'
        crossed = "REFERENCING OLD TABLE AS espf_after NEW TABLE AS espf_before FOR EACH STATEMENT"
        moved = 'CREATE TRIGGER espf_moved AFTER UPDATE ON "Order" FOR EACH ROW WHEN'
        for alteration in (
            'DROP TRIGGER espf_moved ON "Order"',
            'ALTER TABLE "Order" DISABLE TRIGGER espf_moved',
            f'DROP TRIGGER espf_moved ON "Order"; {moved} (OLD."Group" <> NEW."Group") {function}',
            f'DROP TRIGGER "espf_public.Order_update" ON "Order"; {update} FOR EACH ROW {function}',
            f'DROP TRIGGER "espf_public.Order_update" ON "Order"; {update} {crossed} {function}',
        ):
            site.sql(alteration)
            assert site.drifts(RULES + BULK) == ["altered"], alteration
            site.apply(RULES + BULK)
            assert site.drifts(RULES + BULK) == []
        assert site.drifts(RULES) == ["altered"] * 3
        site.apply(RULES)
        assert site.drifts(RULES) == []
        with site.cursor("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'espf%'") as cursor:
            assert cursor.fetchone() == (3,)


@pytest.mark.databases("postgresql")
def test_a_table_whose_rows_cannot_be_captured_together_is_refused_with_the_reason(database_url):
    with closing(Site("postgresql", database_url)) as site:
        site.sql(
            "CREATE TABLE keyless (n INTEGER, i_env INTEGER)",
            "CREATE TABLE parent (n INTEGER PRIMARY KEY, i_env INTEGER)",
            "CREATE TABLE child () INHERITS (parent)",
        )
        rule = '[[rule]]\nevent = "Custom/X"\ntable = "{table}"\n{on}\nvariables = []\n'
        update = 'on = "update"\nchanged = ["n"]'
        for table, on, said in (
            ("keyless", update, "public.keyless has no primary key"),
            ("parent", 'on = "insert"', "public.parent inherits or is inherited"),
            ("child", 'on = "delete"', "public.child inherits or is inherited"),
        ):
            text = rule.format(table=table, on=on)
            with pytest.raises(RuleError, match=f"{said}.*take 'bulk' from"):
                site.apply(f'{text}[[table]]\nname = "{table}"\nbulk = true\n')
            site.apply(text)


@pytest.mark.databases("sqlite", "mariadb")
def test_where_a_bulk_trigger_is_no_other_one_the_choice_changes_nothing(orders):
    assert orders.apply(RULES + BULK).is_empty


def test_a_table_is_found_in_capitals_or_not_and_in_its_schema(site):
    site.sql(
        "CREATE TABLE Accounts (I_Account INTEGER PRIMARY KEY, I_Env INTEGER, Blocked CHAR(1))"
    )
    rules = """
[[rule]]
event = "Account/Blocked"
table = "{table}"
on = "update"
becomes = {{ column = "BLOCKED", to = "Y" }}
variables = ["i_account"]
"""
    place = site.pick(postgresql="public.", mariadb="billing.", sqlite="main.")
    for table in ("accounts", "ACCOUNTS", f"{place}aCcounts"):
        site.apply(rules.format(table=table))
        assert len(site.installed()) == 1
    site.sql("INSERT INTO Accounts VALUES (5, 3, 'N')", "UPDATE Accounts SET Blocked = 'Y'")
    assert site.events() == [("Account/Blocked", "account:5", {"i_account": 5})]


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ('"Order"', '"Orders"', "there is no table 'Orders'"),
        ('"Order"', '"nowhere.Order"', "there is no table 'nowhere.Order'"),
        ('"Group" }', '"Grouping" }', "there is no column 'Grouping'"),
        ('"Order"', '"seen"', "seen is (a view|no table of its own)"),
        ("above = 0", 'above = 0, of = "looked_up"', "the rule has no 'lookup'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_changes(site, was, becomes, said):
    site.sql(ORDERS, 'CREATE VIEW seen AS SELECT * FROM "Order"')
    with pytest.raises(RuleError, match=said):
        site.apply(RULES.replace(was, becomes))
    assert site.installed() == set()


@pytest.mark.databases("postgresql", "mariadb")
@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ('becomes = { column = "n", to = "Y" }', "'n' holds integers .*'Y' is never equal"),
        ('falls_to = { column = "t", value = 0 }', "'t' holds text .*only a number crosses"),
        ('becomes = { column = "b", to = "Y" }', "'b' holds bytes"),
        ('changed = ["n"]\ni_env = "t"', "i_env: 't' holds text, no numbers"),
        (
            'changed = ["n"]\nlookup = { table = "typed", match = { n = "t" } }',
            "they never match",
        ),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(site, condition, said):
    blob = site.pick(postgresql="BYTEA", mariadb="BLOB")
    site.sql(f"CREATE TABLE typed (n INTEGER, t VARCHAR(9), b {blob}, i_env INTEGER)")
    rule = f'[[rule]]\nevent = "Custom/X"\ntable = "typed"\non = "update"\n{condition}\n'
    with pytest.raises(RuleError, match=said):
        site.apply(rule + "variables = []\n")


@pytest.mark.databases("postgresql")
def test_names_that_two_tables_share_and_tables_in_parts_are_refused(site):
    site.sql(
        'CREATE TABLE "Two" (id INTEGER)',
        'CREATE TABLE "TWO" (id INTEGER)',
        "CREATE TABLE parts (id INTEGER, i_env INTEGER) PARTITION BY RANGE (id)",
        "CREATE TABLE part PARTITION OF parts DEFAULT",
    )
    rule = '[[rule]]\nevent = "Custom/X"\ntable = "{table}"\non = "insert"\nvariables = []\n'
    for table, said in (
        ("two", "may be one of the tables public.TWO, public.Two"),
        ("parts", "public.parts is partitioned"),
        ("part", "public.part is a partition"),
        ("espf.event_queue", "there is no table"),
    ):
        with pytest.raises(RuleError, match=said):
            site.apply(rule.format(table=table))


def test_a_long_name_is_cut_and_stays_unique(site):
    names = [f"t{'x' * 58}{letter}" for letter in "ab"]
    for name in names:
        site.sql(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, i_env INTEGER)")
    rule = '[[rule]]\nevent = "Custom/X"\ntable = "{}"\non = "insert"\nvariables = ["id"]\n'
    rules = "".join(map(rule.format, names))
    site.apply(rules)
    assert len(site.installed()) == 2
    assert site.drifts(rules) == []
    for name in names:
        site.sql(f"INSERT INTO {name} VALUES (1, 3)")
    assert len(site.events()) == 2


def test_a_change_of_triggers_leaves_the_connection_as_it_was_and_in_a_transaction(orders):
    settings = orders.pick(
        mariadb="SELECT @@sql_mode, @@lock_wait_timeout, @@collation_connection",
        postgresql="SELECT current_setting('lock_timeout')",
        sqlite="SELECT 1",
    )
    orders.sql(new())
    with orders.database.begin() as connection:
        before = connection.exec_driver_sql(settings).all()
        triggers.remove(connection, orders.dialect)
        triggers.apply(connection, orders.dialect, orders.wanted(RULES))
        assert connection.exec_driver_sql(settings).all() == before
        with connection.begin_nested():
            place = orders.pick(mariadb="billing.", others="")
            written = change("\"Group\" = 'x'").replace("UPDATE ", f"UPDATE {place}")
            connection.exec_driver_sql(orders.quote(written))
    assert "Custom/Changed" in {event for event, _key, _variables in orders.events()}
