"""Rule files: what is accepted, what is refused and how it is said."""

import pytest

from espf.capture.rules import load_rules, parse_rules, shipped_rules
from espf.capture.triggers import compile_rules
from espf.catalogue import catalogue
from espf.db.trigger import Column, Condition, Constant
from espf.errors import RuleError

BLOCKED = """
[[rule]]
event = "Account/Blocked"
table = "Accounts"
on = "update"
becomes = { column = "blocked", from = "N", to = "Y" }
variables = ["i_account", "i_customer"]
"""

HANDBOOK = {
    "Account/New",
    "Account/SIMCardAssignment",
    "Account/ServicePassword/Changed",
    "Account/Password/Changed",
    "Account/ID/Changed",
    "Account/ZeroAvailableFunds",
    "Account/AvailableFundsAppear",
    "Account/Product/Changed",
    "Account/Blocked",
    "Account/Unblocked",
    "Customer/ZeroAvailableFunds",
    "Customer/AvailableFundsAppear",
    "Customer/Blocked",
    "Customer/Unblocked",
}


def rule(**changes):
    """The text of a rule that is right, but for the changes; None leaves a key out."""
    lines = {
        "event": '"Account/Blocked"',
        "table": '"Accounts"',
        "on": '"update"',
        "becomes": '{ column = "blocked", to = "Y" }',
        "variables": '["i_account"]',
        **changes,
    }
    return "[[rule]]\n" + "\n".join(f"{key} = {text}" for key, text in lines.items() if text)


def capture(**changes):
    (parsed,) = parse_rules(rule(**changes), "test.toml")
    return parsed.capture()


def test_the_shipped_rules_cover_the_handbook_and_no_unknown_type():
    types = {each.event for each in shipped_rules()}
    assert types >= HANDBOOK
    assert types <= catalogue().keys()


def test_no_shipped_rule_reads_a_password_or_a_sim_key():
    read = {
        value.name
        for each in shipped_rules()
        for _name, value in each.capture().variables
        if isinstance(value, Column)
    }
    assert not read & {"password", "h323_password", "ki", "opc"}


def test_a_rule_becomes_a_capture():
    (parsed,) = parse_rules(BLOCKED, "test.toml")
    made = parsed.capture()
    assert made.event_type == "Account/Blocked"
    assert made.conditions == (Condition("becomes", ("blocked",), "Y", "N"),)
    assert made.environment == Column("i_env")
    assert (made.key_prefix, made.key) == ("account", Column("i_account"))
    assert made.variables == (
        ("i_account", Column("i_account")),
        ("i_customer", Column("i_customer")),
    )
    assert parsed.watched == ("blocked",)


def test_every_condition_and_guard_is_compiled():
    made = capture(
        changed='["id", "phone1"]',
        rises_above='{ column = "used", value = 1 }',
        falls_to='{ column = "available_funds", value = 0.5 }',
        where='[{ column = "service", in = ["a", 1] }, { column = "x", of = "old", above = 3 }, '
        '{ column = "y", not_null = true }, { column = "z", null = true }]',
    )
    assert made.conditions == (
        Condition("changed", ("id", "phone1")),
        Condition("becomes", ("blocked",), "Y"),
        Condition("rises_above", ("used",), 1),
        Condition("falls_to", ("available_funds",), 0.5),
        Condition("is_in", ("service",), values=("a", 1)),
        Condition("above", ("x",), 3, of="old"),
        Condition("not_null", ("y",)),
        Condition("null", ("z",)),
    )


def test_variables_may_be_renamed_old_money_constant_or_empty():
    made = capture(
        variables='["i_account", { name = "prev_balance", column = "balance", of = "old", '
        'money = true }, { name = "kind", value = "x" }, { name = "flag", value = false }, '
        '{ name = "none", null = true }]'
    )
    assert made.variables == (
        ("i_account", Column("i_account")),
        ("prev_balance", Column("balance", "old", money=True)),
        ("kind", Constant("x")),
        ("flag", Constant(False)),
        ("none", Constant(None)),
    )


def test_a_delete_reads_the_row_that_was():
    made = capture(on='"delete"', becomes=None, where='[{ column = "i_account", not_null = true }]')
    assert made.environment == Column("i_env", "old")
    assert made.key == Column("i_account", "old")
    assert made.variables == (("i_account", Column("i_account", "old")),)
    assert made.conditions == (Condition("not_null", ("i_account",), of="old"),)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"variables": '["i_customer", "i_account"]'}, ("account", Column("i_account"))),
        ({"variables": '["i_product", "i_customer"]'}, ("customer", Column("i_customer"))),
        ({"variables": '["i_sim_card"]'}, ("sim", Column("i_sim_card"))),
        ({"variables": '["name"]'}, ("", Constant(None))),
        ({"variables": "[]"}, ("", Constant(None))),
        (
            {"key": '{ prefix = "did", column = "number", of = "old" }'},
            ("did", Column("number", "old")),
        ),
        ({"key": '{ prefix = "switch", value = 7 }'}, ("switch", Constant(7))),
    ],
)
def test_the_ordering_key_follows_from_the_variables_or_is_named(changes, expected):
    made = capture(**changes)
    assert (made.key_prefix, made.key) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"environment"', Column("environment")),
        ('{ column = "i_env", of = "old" }', Column("i_env", "old")),
        ("{ value = 3 }", Constant(3)),
    ],
)
def test_the_environment_is_a_column_or_a_number(text, expected):
    assert capture(i_env=text).environment == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"event": '"Account/Bloked"'}, "event: there is no event type 'Account/Bloked'; did you"),
        ({"event": '"Nonsense"'}, "a name of your own begins with Custom/"),
        ({"event": '"Custom/a b"'}, "event: there is no event type"),
        ({"event": "3"}, "event: Input should be a valid string"),
        ({"event": None}, "event: Field required"),
        ({"table": '""'}, "table: expected the name of a table"),
        ({"table": '"a\\u0000b"'}, "table: expected the name of a table"),
        ({"on": '"truncate"'}, "on: Input should be 'insert', 'update' or 'delete'"),
        ({"becomes": None}, "an update needs one of changed, becomes, rises_above, falls_to"),
        ({"becomes": '"Y"'}, "becomes: expected a table with the keys column, from, to, not 'Y'"),
        ({"becomes": '{ column = "blocked" }'}, "becomes.to: Field required"),
        ({"becomes": '{ column = "b", from = 1, to = 1 }'}, "becomes: 'from' and 'to' are the"),
        ({"becomes": '{ column = "b", to = ["Y"] }'}, "becomes.to: expected text or a number"),
        ({"becomes": '{ column = "b", to = "a\\u0000" }'}, "becomes.to: the text holds a NUL"),
        ({"becomes": '{ column = "b", value = "Y" }'}, "becomes: unknown key 'value'"),
        ({"falls_to": '{ column = "b", value = "0" }'}, "falls_to.value: expected a number"),
        ({"falls_to": '{ column = "b", value = nan }'}, "falls_to.value: nan is not a number"),
        ({"falls_to": '{ column = "b", value = inf }'}, "falls_to.value: inf is not a number"),
        ({"rises_above": '{ column = "b", value = 9223372036854775808 }'}, "does not fit in 64"),
        ({"changed": "[]"}, "changed: List should have at least 1 item"),
        ({"changed": '["id", ""]'}, "changed.2: expected the name of a table or column"),
        ({"changd": '["id"]'}, "unknown key 'changd'; did you mean 'changed'?"),
        ({"qqq": "1"}, "unknown key 'qqq'; known are event, table, on"),
        ({"where": '[{ column = "a" }]'}, "where.1: give one of 'in', 'above', 'null'"),
        ({"where": '[{ column = "a", in = ["b"], above = 1 }]'}, "where.1: give one of"),
        ({"where": '[{ column = "a", in = [] }]'}, "where.1.in: List should have at least 1"),
        ({"where": '[{ column = "a", not_null = false }]'}, "where.1.not_null: Input should be"),
        ({"where": '[{ column = "a", of = "older", above = 1 }]'}, "where.1.of: Input should be"),
        ({"i_env": '{ value = "3" }'}, "i_env: value: expected the number of an environment"),
        ({"i_env": "{ value = true }"}, "i_env: value: expected the number of an environment"),
        ({"i_env": '{ column = "a", value = 3 }'}, "i_env: give either 'column' or 'value'"),
        ({"i_env": '{ value = 3, of = "old" }'}, "i_env: 'of' goes with 'column'"),
        ({"key": '{ column = "a" }'}, "key.prefix: Field required"),
        ({"key": '{ prefix = "A:b", column = "a" }'}, "key.prefix: String should match"),
        ({"variables": None}, "variables: Field required"),
        ({"variables": '["a", "a"]'}, "variables: 'a' is there twice"),
        ({"variables": '["i_env"]'}, "variables.1: ESPF adds 'i_env' to every event itself"),
        ({"variables": '[{ name = "a" }]'}, "variables.1: give one of 'column', 'value' and"),
        ({"variables": '[{ name = "a", null = true, money = true }]'}, "go with 'column'"),
        ({"variables": '["a b"]'}, "variables.1.name: String should match"),
        (
            {"variables": str([f"v{n}" for n in range(51)])},
            "variables: List should have at most 50",
        ),
        ({"on": '"insert"'}, "becomes: only an update changes a column; use 'where'"),
    ],
)
def test_a_wrong_rule_is_refused_with_its_place_and_the_reason(changes, said):
    with pytest.raises(RuleError) as caught:
        parse_rules(BLOCKED + rule(**changes), "my.toml")
    message = str(caught.value)
    assert message.startswith("my.toml: rule 2")
    assert said in message


@pytest.mark.parametrize(
    ("operation", "part", "said"),
    [
        ("insert", {"i_env": '{ column = "i_env", of = "old" }'}, "i_env.of: the insert"),
        ("insert", {"key": '{ prefix = "a", column = "b", of = "old" }'}, "key.of: the insert"),
        ("insert", {"where": '[{ column = "b", of = "old", above = 1 }]'}, "where.1.of: the ins"),
        (
            "delete",
            {"variables": '["a", { name = "b", column = "b", of = "new" }]'},
            "variables.2.of: the delete of a row has no new row",
        ),
    ],
)
def test_a_row_that_the_operation_does_not_have_is_refused(operation, part, said):
    with pytest.raises(RuleError, match=said):
        parse_rules(rule(on=f'"{operation}"', becomes=None, **part), "my.toml")


def test_all_faults_of_a_rule_are_told_at_once():
    with pytest.raises(RuleError) as caught:
        parse_rules(rule(event='"Nope"', table='""', variables=None), "my.toml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("my.toml: rule 1 (Nope): ") for line in lines)


def test_the_same_rule_twice_is_refused_for_it_would_send_twice():
    with pytest.raises(RuleError, match=r"rule 2 \(Account/Blocked\): repeats rule 1"):
        parse_rules(BLOCKED + BLOCKED, "my.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no rule"),
        ("rule = []", "there is no rule"),
        ("rule = 3", "there is no rule"),
        ("rule = [3]", "rule 1: expected a table with the keys event, table"),
        ("rules = []", "unknown key 'rules'"),
        ("[[rule]", "this is not TOML"),
        (BLOCKED + "[table]", "what holds for a table begins with"),
        (BLOCKED + "[[table]]\nname = 'Accounts'", "table 1: bulk: Field required"),
        (BLOCKED + "[[table]]\nname = 'Accounts'\nbulk = 1", "table 1: bulk: Input should be a"),
        (BLOCKED + "[[table]]\nname = 'Acounts'\nbulk = true", "table 1: name: no rule is about"),
        (BLOCKED + 2 * "[[table]]\nname = 'Accounts'\nbulk = true\n", "table 2: name: .* twice"),
        (BLOCKED + "[[table]]\nnames = 'Accounts'", "table 1: unknown key 'names'; did you mean"),
        (BLOCKED + "bulk = true", r"rule 1 \(Account/Blocked\): unknown key 'bulk'"),
    ],
)
def test_a_file_that_holds_no_rules_is_refused(text, said):
    with pytest.raises(RuleError, match=f"^my.toml: {said}"):
        parse_rules(text, "my.toml")


def test_a_file_is_read_and_a_missing_or_binary_one_is_refused(tmp_path):
    path = tmp_path / "rules.toml"
    with pytest.raises(RuleError, match=r"rules\.toml: the rule file cannot be read"):
        load_rules(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RuleError, match=r"rules\.toml: the rule file cannot be read"):
        load_rules(path)
    path.write_text(BLOCKED)
    assert [each.event for each in load_rules(path)] == ["Account/Blocked"]


def test_a_rule_for_several_operations_is_one_for_each():
    rules = parse_rules(
        rule(on='["insert", "update", "delete"]', where='[{ column = "i_account", above = 5 }]'),
        "test.toml",
    )
    assert [(each.on, each.watched) for each in rules] == [
        ("insert", ()),
        ("update", ("blocked",)),
        ("delete", ()),
    ]
    removed = rules[2].capture()
    assert removed.conditions == (Condition("above", ("i_account",), 5, of="old"),)
    assert removed.variables == (("i_account", Column("i_account", "old")),)


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("[]", "rule 1 (Account/Blocked): on: "),
        ('["insert", "replace"]', "rule 1 (Account/Blocked): on: "),
        ('["insert", "insert"]', "rule 1 (Account/Blocked): repeats rule 1"),
        ("[3]", "rule 1 (Account/Blocked): on: "),
    ],
)
def test_a_list_of_operations_that_will_not_do_is_refused(on, said):
    with pytest.raises(RuleError) as refused:
        parse_rules(rule(on=on), "my.toml")
    assert said in str(refused.value)


@pytest.mark.parametrize("alias", ["Account/Id/Changed", "Account/Status/Suspend"])
def test_a_rule_may_use_another_spelling_of_a_type(alias):
    assert capture(event=f'"{alias}"').event_type in catalogue()


def test_a_table_that_is_written_in_bulk_is_so_for_all_its_rules_and_no_other():
    other = BLOCKED.replace('"Accounts"', '"Others"')
    text = '[[table]]\nname = "Accounts"\nbulk = true\n[[table]]\nname = "Others"\nbulk = false\n'
    found = {
        each.table.name: each.bulk
        for each in compile_rules(parse_rules(text + BLOCKED + other, "x"))
    }
    assert found == {"Accounts": True, "Others": False}


def test_one_trigger_per_table_and_operation_in_the_order_of_the_file():
    compiled = compile_rules(shipped_rules())
    wanted = dict.fromkeys((rule.table, rule.on) for rule in shipped_rules())
    there = [(each.table, each.operation) for each in compiled]
    assert there == list(wanted)
    captured = [each.event_type for trigger in compiled for each in trigger.captures]
    assert len(captured) == len(shipped_rules())
    accounts = compiled[1]
    assert [each.event_type for each in accounts.captures][:3] == [
        "Account/ID/Changed",
        "Account/Product/Changed",
        "Account/ActivationDate/Changed",
    ]
    # available_funds is watched once, though two rules look at it.
    assert accounts.watched.count("available_funds") == 1


def test_a_disabled_type_is_left_out_and_an_empty_trigger_is_not_made():
    compiled = compile_rules(shipped_rules(), {"Account/New", "Account/Blocked"})
    types = {each.event_type for trigger in compiled for each in trigger.captures}
    everything = {each.event for each in shipped_rules()}
    assert types == everything - {"Account/New", "Account/Blocked"}
    assert ("Accounts", "insert") not in {(each.table.name, each.operation) for each in compiled}
