"""ESPF's own tables, in the vendor's style of names.

The two live tables carry the work and stay small; Provisioning_Log remembers. The live tables
have no checks and no foreign keys: a trigger writes them inside a billing transaction, which no
data may ever make fail. A trigger touches one index of each, and no other: what only work that
was tried before needs is indexed for that alone, where the database can do so.

Names are not quoted: where a database folds them to lower case, that is what they are.
"""

from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy.dialects.mysql import MEDIUMTEXT, VARBINARY
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql.elements import quoted_name

from espf.db.dialect import Moment

metadata = MetaData()

#: 64 bits, and still the number that SQLite counts up by itself.
BigNumber = BigInteger().with_variant(Integer, "sqlite")

#: A text as long as an event's variables may be.
LongText = Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")

#: A digest, which a key can hold.
Digest = LargeBinary(32).with_variant(VARBINARY(32), "mysql", "mariadb")


#: How PostgreSQL is to vacuum what is empty one moment and full the next: what dies there in an
#: hour is many times what lives there. By default it would leave a fifth of the largest backlog
#: lying about, and would sweep so slowly that the billing is ahead of it.
LIVE = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 1000,
    "autovacuum_vacuum_cost_delay": 1,
    "autovacuum_vacuum_cost_limit": 1000,
}

#: What PostgreSQL is to find by its index even when it is small. It would rather read a few pages
#: as a whole, which means to look at every row in them; thinly filled, they are not few.
SPARSE = {"fillfactor": 10}


def _table(name: str, *items: SchemaItem, **options: Any) -> Table:
    """A table whose texts compare byte for byte, whatever the database's default is."""
    words = {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}
    for each in ("mysql", "mariadb"):
        options |= {f"{each}_{word}": value for word, value in words.items()}
    return Table(quoted_name(name, quote=False), metadata, *items, **options)


def _index(name: str, *columns: Column[Any], where: object = None) -> Index:
    return Index(
        quoted_name(name, quote=False), *columns, sqlite_where=where, postgresql_where=where
    )


event_types = _table(
    "Event_Types",
    Column("i_event_type", Integer, primary_key=True, autoincrement=False),
    Column("name", String(128), nullable=False, unique=True),
    # Off: the type is left out of the compiled triggers.
    Column("enabled", SmallInteger, nullable=False, server_default=text("1")),
)

event_handlers = _table(
    "Event_Handlers",
    Column("i_event_handler", Integer, primary_key=True),
    Column("i_env", Integer, nullable=False),
    Column("name", String(64), nullable=False),
    Column("type", String(64), nullable=False),
    Column("enabled", SmallInteger, nullable=False, server_default=text("1")),
    # Its events are captured and wait.
    Column("paused", SmallInteger, nullable=False, server_default=text("0")),
    # A JSON object of option name -> value; secrets are sealed.
    Column("settings", LongText, nullable=False),
    # A JSON object of the types that it was subscribed to by another name: the catalogue's -> that.
    Column("spellings", Text),
    # Counts changes, so that a worker sees that it has to read the row anew.
    Column("version", Integer, nullable=False, server_default=text("1")),
    UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

# One row per handler and type that it is subscribed to. `active` repeats the handler's switch, so
# that a trigger finds the subscribers of an event with one look at one index.
event_subscriptions = _table(
    "Event_Subscriptions",
    Column("i_env", Integer, primary_key=True, autoincrement=False),
    Column("event_type", String(128), primary_key=True),
    Column("i_event_handler", Integer, primary_key=True, autoincrement=False),
    Column("active", SmallInteger, nullable=False),
    sqlite_with_rowid=False,
    postgresql_with=SPARSE,
)
# MariaDB finds the ends of an index before it plans a statement, which is what costs there.
_index(
    "Event_Subscriptions_heard",
    event_subscriptions.c.i_env,
    event_subscriptions.c.event_type,
    event_subscriptions.c.active,
    event_subscriptions.c.i_event_handler,
).ddl_if(dialect=("mysql", "mariadb"))  # type: ignore[arg-type]  # it takes several

# `notified` says how many notifications were made: 0 for an event that waits for its start_time.
# `position` is empty but for an event that was scheduled: then it is its place in the lane.
event_queue = _table(
    "Event_Queue",
    Column("i_event", BigNumber, primary_key=True),
    Column("i_env", Integer),
    Column("event_type", String(128)),
    Column("ordering_key", String(255)),
    Column("variables", LongText),
    Column("created_at", Moment),
    Column("start_time", Moment),
    Column("notified", SmallInteger, nullable=False, server_default=text("0")),
    Column("position", BigNumber),
    sqlite_autoincrement=True,
    postgresql_with=LIVE,
)
_index(
    "Event_Queue_scheduled",
    event_queue.c.start_time,
    where=event_queue.c.start_time.is_not(None),
)

# `position` orders the notifications of a lane: the number of the event, or, for a scheduled one,
# the number that was next when it became due. `shard` is made from the ordering key and says which
# worker delivers it. `next_attempt_at` and `ordering_key` are empty until the first failure; a
# failed notification that holds its lane keeps the time of its failure there.
event_notifications = _table(
    "Event_Notifications",
    Column("i_event_handler", Integer, primary_key=True, autoincrement=False),
    Column("position", BigNumber, primary_key=True, autoincrement=False),
    Column("i_event", BigNumber, nullable=False),
    Column("shard", SmallInteger, nullable=False, server_default=text("0")),
    Column("status", String(12), nullable=False, server_default="queued"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("ordering_key", String(255)),
    Column("next_attempt_at", Moment),
    Column("last_error", Text),
    sqlite_with_rowid=False,
    postgresql_with=LIVE,
)
_waits = event_notifications.c.next_attempt_at.is_not(None)
# It holds the failed ones, too, for people to find; `status` tells them apart where an index has
# no condition.
_index(
    "Event_Notifications_due",
    event_notifications.c.i_event_handler,
    event_notifications.c.next_attempt_at,
    event_notifications.c.status,
    where=_waits | (event_notifications.c.status == text("'failed'")),
)
# It begins with the key, so that no planner prefers the primary key, which would walk through all
# that a handler has.
_index(
    "Event_Notifications_parked",
    event_notifications.c.ordering_key,
    event_notifications.c.i_event_handler,
    event_notifications.c.position,
    where=_waits,
)

# The processes that deliver, each with a sign of life.
workers = _table(
    "Workers",
    Column("worker", String(190), primary_key=True),
    Column("started_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    # It gives its work away, and takes no more.
    Column("leaving", SmallInteger, nullable=False, server_default=text("0")),
    # The instance of the configuration that it was started for; empty: for none.
    Column("instance", String(32), nullable=False, server_default=""),
)

# Who works for which part of a handler. The epoch counts the owners; a result under an old one
# changes nothing. `since` is when the owner, or the state of having none, began.
handler_leases = _table(
    "Handler_Leases",
    Column("i_event_handler", Integer, primary_key=True, autoincrement=False),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("worker", String(190), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("since", Moment, nullable=False),
)

# What the circuit breakers of the workers are doing, for people to see; closed ones have no row.
handler_breakers = _table(
    "Handler_Breakers",
    Column("i_event_handler", Integer, primary_key=True, autoincrement=False),
    Column("worker", String(190), primary_key=True),
    Column("state", String(12), nullable=False),
    Column("since", Moment, nullable=False),
    Column("probe_at", Moment),
    Column("reason", Text),
)

# What is wrong, a row for each thing that holds. `about` tells those of a kind apart: the number of
# a handler, the name of a worker, a channel of alerts; `subject` is what people call it.
alerts = _table(
    "Alerts",
    Column("kind", String(16), primary_key=True),
    Column("about", String(190), primary_key=True),
    # Empty: it concerns the whole installation.
    Column("i_env", Integer),
    Column("subject", String(255), nullable=False),
    Column("text", LongText, nullable=False),
    # How many events have failed within the hour.
    Column("count", Integer, nullable=False, server_default=text("0")),
    Column("since", Moment, nullable=False),
    # It does not hold any more; over, when that lasts.
    Column("gone_since", Moment),
    # When people were told that it holds, by e-mail and by HTTP.
    Column("mailed_at", Moment),
    Column("posted_at", Moment),
)

# What became of the events of a handler, and how long it took: `step` is the length of the span in
# seconds, of which every length has rows of its own. `within_...` count what was delivered so soon
# after it happened. Each worker adds to the rows of all.
handler_statistics = _table(
    "Handler_Statistics",
    Column("step", SmallInteger, primary_key=True, autoincrement=False),
    Column("began_at", Moment, primary_key=True),
    Column("i_event_handler", Integer, primary_key=True, autoincrement=False),
    Column("finished", Integer, nullable=False),
    Column("retried", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("rejected", Integer, nullable=False),
    Column("skipped", Integer, nullable=False),
    Column("superseded", Integer, nullable=False),
    Column("orphaned", Integer, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("longest_ms", BigInteger, nullable=False),
    Column("latency_ms", BigInteger, nullable=False),
    Column("slowest_ms", BigInteger, nullable=False),
    Column("within_5ms", Integer, nullable=False),
    Column("within_10ms", Integer, nullable=False),
    Column("within_25ms", Integer, nullable=False),
    Column("within_50ms", Integer, nullable=False),
    Column("within_100ms", Integer, nullable=False),
    Column("within_250ms", Integer, nullable=False),
    Column("within_1s", Integer, nullable=False),
    Column("within_5s", Integer, nullable=False),
    Column("within_30s", Integer, nullable=False),
    Column("within_5m", Integer, nullable=False),
    Column("within_1h", Integer, nullable=False),
)

# What dispatchers are at: how far each has come with an event, how many events it has made of it,
# and the first and the last number of those that it made in its last step.
dispatches = _table(
    "Dispatches",
    Column("i_event_handler", Integer, primary_key=True, autoincrement=False),
    Column("position", BigNumber, primary_key=True, autoincrement=False),
    Column("i_event", BigNumber, nullable=False),
    Column("reached", String(255), nullable=False),
    Column("emitted", BigInteger, nullable=False),
    Column("first_i_event", BigNumber),
    Column("last_i_event", BigNumber),
    Column("updated_at", Moment, nullable=False),
)

# What administrators set for the whole installation, in versions.
configurations = _table(
    "Configurations",
    Column("i_configuration", Integer, primary_key=True),
    # draft, active (one is), archived.
    Column("status", String(8), nullable=False),
    # A JSON object of what was set; secrets are sealed.
    Column("content", LongText, nullable=False),
    Column("comment", String(255), nullable=False, server_default=""),
    # What it was made of, and what was active then.
    Column("cloned_from", Integer),
    Column("base", Integer),
    Column("created_at", Moment, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("changed_at", Moment),
    Column("changed_by", String(64)),
    Column("applied_at", Moment),
    Column("applied_by", String(64)),
    Column("archived_at", Moment),
    sqlite_autoincrement=True,
)

# What is noted for the whole installation, such as when something was done last.
system_settings = _table(
    "System_Settings",
    Column("name", String(64), primary_key=True),
    Column("value", LongText, nullable=False),
)

# One narrow row per attempt, and one for what ends without any (no subscriber, cancelled).
provisioning_log = _table(
    "Provisioning_Log",
    Column("i_log", BigNumber, primary_key=True),
    Column("i_event", BigNumber, nullable=False),
    Column("i_env", Integer),
    Column("event_type", String(128)),
    Column("ordering_key", String(255)),
    Column("variables", LongText),
    Column("i_event_handler", Integer),
    Column("handler", String(64)),
    Column("attempt", Integer, nullable=False),
    Column("verdict", String(12), nullable=False),
    Column("reason", Text),
    Column("created_at", Moment),
    Column("start_time", Moment),
    Column("logged_at", Moment, nullable=False),
    Column("duration_ms", Integer),
    Column("next_attempt_at", Moment),
    Column("i_request", BigInteger),
    Column("i_response", BigInteger),
)
_index("Provisioning_Log_event", provisioning_log.c.i_event)
_index("Provisioning_Log_key", provisioning_log.c.ordering_key, provisioning_log.c.i_event)
#: Verdicts that are rare and looked for. In these words the index of them is found.
RARE_VERDICTS = ("failed", "rejected", "skipped", "superseded", "cancelled")
_index(
    "Provisioning_Log_verdict",
    provisioning_log.c.verdict,
    provisioning_log.c.i_event,
    where=text(f"verdict IN ({', '.join(map(repr, RARE_VERDICTS))})"),
)

# On PostgreSQL the journal is in parts by the numbers of events, see `db/parts.py`; at first the
# rest is all there is. A key of the whole would have to hold the number of the event, too: so each
# part has its own, and the sequence gives no number twice.
for _statement in (
    "ALTER TABLE provisioning_log RENAME TO provisioning_log_rest",
    *(
        f"ALTER INDEX provisioning_log_{end} RENAME TO provisioning_log_rest_{end}"
        for end in ("pkey", "event", "key", "verdict")
    ),
    (
        "CREATE TABLE provisioning_log (LIKE provisioning_log_rest INCLUDING DEFAULTS) "
        "PARTITION BY RANGE (i_event)"
    ),
    "ALTER SEQUENCE provisioning_log_i_log_seq OWNED BY provisioning_log.i_log",
    # Together these find those of the rest, which are alike.
    "CREATE INDEX provisioning_log_event ON provisioning_log (i_event)",
    "CREATE INDEX provisioning_log_key ON provisioning_log (ordering_key, i_event)",
    (
        "CREATE INDEX provisioning_log_verdict ON provisioning_log (verdict, i_event) "
        f"WHERE verdict IN ({', '.join(map(repr, RARE_VERDICTS))})"
    ),
    "ALTER TABLE provisioning_log ATTACH PARTITION provisioning_log_rest DEFAULT",
):
    _divided = DDL(_statement)  # type: ignore[no-untyped-call]
    event.listen(provisioning_log, "after_create", _divided.execute_if(dialect="postgresql"))

# What was said and heard, each text once: most requests of a handler differ only in what the event
# itself holds, and most replies not at all. The number is made from the text.
provisioning_log_texts = _table(
    "Provisioning_Log_Texts",
    Column("i_text", BigInteger, primary_key=True, autoincrement=False),
    Column("content", LongText, nullable=False),
    # The last day on which somebody found it new; older texts may be pruned.
    Column("used_on", Moment, nullable=False),
)

users = _table(
    "Users",
    Column("i_user", Integer, primary_key=True),
    Column("login", String(64), nullable=False, unique=True),
    Column("password_hash", String(255), nullable=False),
    Column("i_env", Integer, nullable=False),
    Column("superuser", SmallInteger, nullable=False, server_default=text("0")),
    # What a user may do in its environment: administrator, operator, readonly
    Column("role", String(16), nullable=False, server_default="administrator"),
    # Names of rights beyond an administrator's, separated by spaces: sim.keys
    Column("rights", String(255), nullable=False, server_default=""),
    Column("enabled", SmallInteger, nullable=False, server_default=text("1")),
)

access_tokens = _table(
    "Access_Tokens",
    # Only digests are stored: who reads the table cannot log in with them.
    Column("digest", Digest, primary_key=True),
    Column("session_digest", Digest, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("i_user", Integer, ForeignKey("Users.i_user", ondelete="CASCADE"), nullable=False),
    Column("expires_at", Moment, nullable=False),
    # What its holder may do in the ESPF API, separated by spaces.
    Column(
        "scopes",
        String(255),
        nullable=False,
        server_default="espf.api:write espf.handlers:write",
    ),
    # A credential that somebody made for a program has a name; a log-in's token has none.
    Column("name", String(64)),
    Column("created_at", Moment),
)
_index("Access_Tokens_session", access_tokens.c.session_digest)

# Browsers in which somebody is logged in to the console.
console_sessions = _table(
    "Console_Sessions",
    Column("i_session", Integer, primary_key=True),
    # Only a digest of what the cookie holds.
    Column("digest", Digest, nullable=False, unique=True),
    Column("i_user", Integer, ForeignKey("Users.i_user", ondelete="CASCADE"), nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),
    Column("address", String(64), nullable=False),
    Column("browser", String(255), nullable=False),
    sqlite_autoincrement=True,
)
_index("Console_Sessions_user", console_sessions.c.i_user)

# What people did, whichever way they did it; the values are JSON objects of what changed.
audit_log = _table(
    "Audit_Log",
    Column("i_audit", BigNumber, primary_key=True),
    Column("happened_at", Moment, nullable=False),
    # Empty: it concerns the whole installation.
    Column("i_env", Integer),
    Column("login", String(64), nullable=False),
    # console, api or evctl
    Column("door", String(8), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("value_before", LongText),
    Column("value_after", LongText),
    sqlite_autoincrement=True,
)
_index("Audit_Log_env", audit_log.c.i_env, audit_log.c.i_audit)
_index("Audit_Log_time", audit_log.c.happened_at)

# Restarts of many events: what is left to restart (a filter as JSON), and how far that has come.
mass_restarts = _table(
    "Mass_Restarts",
    Column("i_mass_restart", Integer, primary_key=True),
    Column("i_env", Integer, nullable=False),
    Column("login", String(64), nullable=False),
    Column("wanted", Text, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("restarted", BigInteger, nullable=False),
    # running, done or cancelled
    Column("state", String(12), nullable=False),
    Column("begun_at", Moment, nullable=False),
    Column("moved_at", Moment, nullable=False),
    sqlite_autoincrement=True,
)

# Audits: what systems hold, compared with the billing. `phase` and `reached` say how far one has
# come; `carrier` is the process that carries it on, for as long as it gives signs of life.
reconciliations = _table(
    "Reconciliations",
    Column("i_reconciliation", Integer, primary_key=True),
    Column("i_env", Integer, nullable=False),
    Column("i_event_handler", Integer, nullable=False),
    Column("handler", String(64), nullable=False),
    Column("begun_by", String(64), nullable=False),
    # A JSON object: the accounts, or the product; empty for all that the system holds.
    Column("scope", LongText, nullable=False),
    # What is repaired of what is found: some of different, missing, extra.
    Column("repairs_what", String(64), nullable=False, server_default=""),
    Column("rate", Integer, nullable=False),
    # running, done, cancelled or failed
    Column("state", String(12), nullable=False),
    # accounts, held or repair
    Column("phase", String(12), nullable=False),
    Column("reached", Text, nullable=False),
    # The number of the last account when it began.
    Column("last_account", BigInteger),
    Column("accounts", BigInteger, nullable=False, server_default=text("0")),
    Column("held_keys", BigInteger, nullable=False, server_default=text("0")),
    Column("same", BigInteger, nullable=False, server_default=text("0")),
    Column("different", BigInteger, nullable=False, server_default=text("0")),
    Column("missing", BigInteger, nullable=False, server_default=text("0")),
    Column("extra", BigInteger, nullable=False, server_default=text("0")),
    Column("failed", BigInteger, nullable=False, server_default=text("0")),
    # Events that were put into the queue.
    Column("repairs", BigInteger, nullable=False, server_default=text("0")),
    # What it waits for, why it failed, or what could not be compared.
    Column("remark", LongText),
    Column("carrier", String(190), nullable=False, server_default=""),
    Column("carried_until", Moment),
    Column("begun_at", Moment, nullable=False),
    Column("moved_at", Moment, nullable=False),
    Column("ended_at", Moment),
    sqlite_autoincrement=True,
)
_index(
    "Reconciliations_handler",
    reconciliations.c.i_event_handler,
    reconciliations.c.i_reconciliation,
)

# What audits have found that is not as it should be.
reconciliation_findings = _table(
    "Reconciliation_Findings",
    Column("i_finding", BigNumber, primary_key=True),
    Column("i_reconciliation", Integer, nullable=False),
    # different, missing, extra, or failed: it could not be compared.
    Column("kind", String(12), nullable=False),
    Column("entry_key", Text, nullable=False),
    # Empty: nobody has such an entry by the billing.
    Column("i_account", BigNumber),
    # A JSON list of the fields: name, what is held, what is wanted; secrets are stars.
    Column("differences", LongText, nullable=False),
    Column("reason", LongText),
    # The event that repairs it.
    Column("i_event", BigNumber),
    Column("found_at", Moment, nullable=False),
    sqlite_autoincrement=True,
)
_index(
    "Reconciliation_Findings_of",
    reconciliation_findings.c.i_reconciliation,
    reconciliation_findings.c.i_finding,
)
_index(
    "Reconciliation_Findings_kind",
    reconciliation_findings.c.i_reconciliation,
    reconciliation_findings.c.kind,
    reconciliation_findings.c.i_finding,
)

# What signs access tokens. A key that was replaced has no private half any more.
signing_keys = _table(
    "Signing_Keys",
    Column("kid", String(64), primary_key=True),
    Column("public_key", Text, nullable=False),
    # Sealed.
    Column("private_key", Text),
    Column("created_at", Moment, nullable=False),
    Column("retired_at", Moment),
)

# Scheduled events that can be replaced or cancelled by a name that the caller chose. A row whose
# event is scheduled no longer says nothing.
scheduled_keys = _table(
    "Scheduled_Keys",
    Column("i_env", Integer, primary_key=True, autoincrement=False),
    Column("event_key", String(128), primary_key=True),
    Column("i_event", BigNumber, nullable=False),
)
_index("Scheduled_Keys_event", scheduled_keys.c.i_event)

# The service groups that people added; the predefined ones are in espf.statuses. Numbers are never
# used again, and count up from 1 here: the API adds 1000.
service_groups = _table(
    "Service_Groups",
    Column("i_custom_group", Integer, primary_key=True),
    Column("i_env", Integer, nullable=False),
    Column("name", String(64), nullable=False),
    UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

# What an application said last about an account, in each service group.
account_statuses = _table(
    "Account_Statuses",
    Column("i_env", Integer, primary_key=True, autoincrement=False),
    Column("i_account", BigNumber, primary_key=True, autoincrement=False),
    Column("i_group", Integer, primary_key=True, autoincrement=False),
    Column("status", String(12), nullable=False),
    Column("message", Text),
    Column("reported_at", Moment, nullable=False),
)
