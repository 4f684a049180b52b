"""SQLite, PostgreSQL and MariaDB; shards under lease; a journal that stores texts once."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import DATETIME, MEDIUMTEXT, VARBINARY
from sqlalchemy.schema import CreateIndex, SchemaItem
from sqlalchemy.sql.elements import quoted_name

from espf.db.migrations import first_release, steps

revision = "0001"
down_revision = None

_tables = sa.MetaData()

_BigNumber = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_LongText = sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")
_Digest = sa.LargeBinary(32).with_variant(VARBINARY(32), "mysql", "mariadb")
_Moment = (
    sa.String(23)
    .with_variant(sa.DateTime(timezone=True), "postgresql")
    .with_variant(DATETIME(fsp=3), "mysql", "mariadb")
)

# What dies here in an hour is many times what lives here. The default would let a fifth of the
# largest backlog lie about, and would sweep so slowly that the billing is ahead of it.
_LIVE = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 1000,
    "autovacuum_vacuum_cost_delay": 1,
    "autovacuum_vacuum_cost_limit": 1000,
}


def upgrade() -> None:
    """Make the tables; bring over what a database of the first release holds."""
    connection = op.get_bind()
    if first_release.is_here(connection):
        first_release.set_aside(connection)
        steps.create_tables(_tables)
        first_release.carry_over(connection)
    else:
        steps.create_tables(_tables)
    _add_first_configuration(connection)
    if connection.dialect.name == "postgresql":
        # A sequence and not a row: it is seen at once, and leaves no old versions behind, which
        # would slow the billing down for as long as somebody reads an old picture.
        op.execute("CREATE SEQUENCE IF NOT EXISTS worker_sleeps MINVALUE 1 MAXVALUE 2 CACHE 1")
        _divide_journal()


def _divide_journal() -> None:
    """Have the journal in parts, by the numbers of events; the rest of them is all there is yet.

    A key of the whole would have to hold the number of the event, too: each part has its own, and
    the sequence gives no number twice.
    """
    log, rest = "provisioning_log", "provisioning_log_rest"
    op.execute(f"ALTER TABLE {log} RENAME TO {rest}")
    for end in ("pkey", "event", "key", "verdict"):
        op.execute(f"ALTER INDEX {log}_{end} RENAME TO {rest}_{end}")
    op.execute(f"CREATE TABLE {log} (LIKE {rest} INCLUDING DEFAULTS) PARTITION BY RANGE (i_event)")
    op.execute(f"ALTER SEQUENCE {log}_i_log_seq OWNED BY {log}.i_log")
    # Together these find those of the rest, which are alike.
    connection = op.get_bind()
    for index in sorted(_provisioning_log.indexes, key=lambda index: str(index.name)):
        connection.execute(CreateIndex(index))
    op.execute(f"ALTER TABLE {log} ATTACH PARTITION {rest} DEFAULT")


def _add_first_configuration(connection: sa.Connection) -> None:
    """All defaults, and active. What was cut off may have added it already."""
    if connection.scalar(sa.select(sa.func.count()).select_from(_configurations)):
        return
    now, who = sa.func.current_timestamp(), "evctl init"
    connection.execute(
        sa.insert(_configurations).values(
            status="active",
            content="{}",
            created_at=now,
            created_by=who,
            applied_at=now,
            applied_by=who,
        )
    )


def _table(name: str, *items: SchemaItem, **options: Any) -> sa.Table:
    for each in ("mysql", "mariadb"):
        options |= {
            f"{each}_engine": "InnoDB",
            f"{each}_charset": "utf8mb4",
            f"{each}_collate": "utf8mb4_bin",
        }
    return sa.Table(quoted_name(name, quote=False), _tables, *items, **options)


def _index(name: str, *columns: sa.Column[Any], where: object = None) -> sa.Index:
    return sa.Index(
        quoted_name(name, quote=False), *columns, sqlite_where=where, postgresql_where=where
    )


_table(
    "Event_Types",
    sa.Column("i_event_type", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(128), nullable=False, unique=True),
    sa.Column("enabled", sa.SmallInteger, nullable=False, server_default=sa.text("1")),
)

_table(
    "Event_Handlers",
    sa.Column("i_event_handler", sa.Integer, primary_key=True),
    sa.Column("i_env", sa.Integer, nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("enabled", sa.SmallInteger, nullable=False, server_default=sa.text("1")),
    sa.Column("paused", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("settings", _LongText, nullable=False),
    sa.Column("spellings", sa.Text),
    sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

_event_subscriptions = _table(
    "Event_Subscriptions",
    sa.Column("i_env", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("event_type", sa.String(128), primary_key=True),
    sa.Column("i_event_handler", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("active", sa.SmallInteger, nullable=False),
    sqlite_with_rowid=False,
    postgresql_with={"fillfactor": 10},
)
_index(
    "Event_Subscriptions_heard",
    _event_subscriptions.c.i_env,
    _event_subscriptions.c.event_type,
    _event_subscriptions.c.active,
    _event_subscriptions.c.i_event_handler,
).ddl_if(dialect=("mysql", "mariadb"))  # type: ignore[arg-type]  # it takes several

_event_queue = _table(
    "Event_Queue",
    sa.Column("i_event", _BigNumber, primary_key=True),
    sa.Column("i_env", sa.Integer),
    sa.Column("event_type", sa.String(128)),
    sa.Column("ordering_key", sa.String(255)),
    sa.Column("variables", _LongText),
    sa.Column("created_at", _Moment),
    sa.Column("start_time", _Moment),
    sa.Column("notified", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("position", _BigNumber),
    sqlite_autoincrement=True,
    postgresql_with=_LIVE,
)
_index(
    "Event_Queue_scheduled",
    _event_queue.c.start_time,
    where=_event_queue.c.start_time.is_not(None),
)

_event_notifications = _table(
    "Event_Notifications",
    sa.Column("i_event_handler", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", _BigNumber, primary_key=True, autoincrement=False),
    sa.Column("i_event", _BigNumber, nullable=False),
    sa.Column("shard", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("status", sa.String(12), nullable=False, server_default="queued"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("ordering_key", sa.String(255)),
    sa.Column("next_attempt_at", _Moment),
    sa.Column("last_error", sa.Text),
    sqlite_with_rowid=False,
    postgresql_with=_LIVE,
)
_waits = _event_notifications.c.next_attempt_at.is_not(None)
_index(
    "Event_Notifications_due",
    _event_notifications.c.i_event_handler,
    _event_notifications.c.next_attempt_at,
    _event_notifications.c.status,
    where=_waits | (_event_notifications.c.status == sa.text("'failed'")),
)
_index(
    "Event_Notifications_parked",
    _event_notifications.c.ordering_key,
    _event_notifications.c.i_event_handler,
    _event_notifications.c.position,
    where=_waits,
)

_table(
    "Workers",
    sa.Column("worker", sa.String(190), primary_key=True),
    sa.Column("started_at", _Moment, nullable=False),
    sa.Column("expires_at", _Moment, nullable=False),
    sa.Column("leaving", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("instance", sa.String(32), nullable=False, server_default=""),
)

_table(
    "Handler_Leases",
    sa.Column("i_event_handler", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("worker", sa.String(190), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("since", _Moment, nullable=False),
)

_table(
    "Handler_Breakers",
    sa.Column("i_event_handler", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("worker", sa.String(190), primary_key=True),
    sa.Column("state", sa.String(12), nullable=False),
    sa.Column("since", _Moment, nullable=False),
    sa.Column("probe_at", _Moment),
    sa.Column("reason", sa.Text),
)

_table(
    "Alerts",
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("about", sa.String(190), primary_key=True),
    sa.Column("i_env", sa.Integer),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("text", _LongText, nullable=False),
    sa.Column("count", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("since", _Moment, nullable=False),
    sa.Column("gone_since", _Moment),
    sa.Column("mailed_at", _Moment),
    sa.Column("posted_at", _Moment),
)

_table(
    "Handler_Statistics",
    sa.Column("step", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("began_at", _Moment, primary_key=True),
    sa.Column("i_event_handler", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("finished", sa.Integer, nullable=False),
    sa.Column("retried", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("rejected", sa.Integer, nullable=False),
    sa.Column("skipped", sa.Integer, nullable=False),
    sa.Column("superseded", sa.Integer, nullable=False),
    sa.Column("orphaned", sa.Integer, nullable=False),
    sa.Column("duration_ms", sa.BigInteger, nullable=False),
    sa.Column("longest_ms", sa.BigInteger, nullable=False),
    sa.Column("latency_ms", sa.BigInteger, nullable=False),
    sa.Column("slowest_ms", sa.BigInteger, nullable=False),
    sa.Column("within_5ms", sa.Integer, nullable=False),
    sa.Column("within_10ms", sa.Integer, nullable=False),
    sa.Column("within_25ms", sa.Integer, nullable=False),
    sa.Column("within_50ms", sa.Integer, nullable=False),
    sa.Column("within_100ms", sa.Integer, nullable=False),
    sa.Column("within_250ms", sa.Integer, nullable=False),
    sa.Column("within_1s", sa.Integer, nullable=False),
    sa.Column("within_5s", sa.Integer, nullable=False),
    sa.Column("within_30s", sa.Integer, nullable=False),
    sa.Column("within_5m", sa.Integer, nullable=False),
    sa.Column("within_1h", sa.Integer, nullable=False),
)

_table(
    "Dispatches",
    sa.Column("i_event_handler", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", _BigNumber, primary_key=True, autoincrement=False),
    sa.Column("i_event", _BigNumber, nullable=False),
    sa.Column("reached", sa.String(255), nullable=False),
    sa.Column("emitted", sa.BigInteger, nullable=False),
    sa.Column("first_i_event", _BigNumber),
    sa.Column("last_i_event", _BigNumber),
    sa.Column("updated_at", _Moment, nullable=False),
)

_table(
    "System_Settings",
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", _LongText, nullable=False),
)

_configurations = _table(
    "Configurations",
    sa.Column("i_configuration", sa.Integer, primary_key=True),
    sa.Column("status", sa.String(8), nullable=False),
    sa.Column("content", _LongText, nullable=False),
    sa.Column("comment", sa.String(255), nullable=False, server_default=""),
    sa.Column("cloned_from", sa.Integer),
    sa.Column("base", sa.Integer),
    sa.Column("created_at", _Moment, nullable=False),
    sa.Column("created_by", sa.String(64), nullable=False),
    sa.Column("changed_at", _Moment),
    sa.Column("changed_by", sa.String(64)),
    sa.Column("applied_at", _Moment),
    sa.Column("applied_by", sa.String(64)),
    sa.Column("archived_at", _Moment),
    sqlite_autoincrement=True,
)

_provisioning_log = _table(
    "Provisioning_Log",
    sa.Column("i_log", _BigNumber, primary_key=True),
    sa.Column("i_event", _BigNumber, nullable=False),
    sa.Column("i_env", sa.Integer),
    sa.Column("event_type", sa.String(128)),
    sa.Column("ordering_key", sa.String(255)),
    sa.Column("variables", _LongText),
    sa.Column("i_event_handler", sa.Integer),
    sa.Column("handler", sa.String(64)),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("verdict", sa.String(12), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("created_at", _Moment),
    sa.Column("start_time", _Moment),
    sa.Column("logged_at", _Moment, nullable=False),
    sa.Column("duration_ms", sa.Integer),
    sa.Column("next_attempt_at", _Moment),
    sa.Column("i_request", sa.BigInteger),
    sa.Column("i_response", sa.BigInteger),
)
_index("Provisioning_Log_event", _provisioning_log.c.i_event)
_index("Provisioning_Log_key", _provisioning_log.c.ordering_key, _provisioning_log.c.i_event)
_index(
    "Provisioning_Log_verdict",
    _provisioning_log.c.verdict,
    _provisioning_log.c.i_event,
    where=sa.text("verdict IN ('failed', 'rejected', 'skipped', 'superseded', 'cancelled')"),
)

_table(
    "Provisioning_Log_Texts",
    sa.Column("i_text", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("content", _LongText, nullable=False),
    sa.Column("used_on", _Moment, nullable=False),
)

_table(
    "Users",
    sa.Column("i_user", sa.Integer, primary_key=True),
    sa.Column("login", sa.String(64), nullable=False, unique=True),
    sa.Column("password_hash", sa.String(255), nullable=False),
    sa.Column("i_env", sa.Integer, nullable=False),
    sa.Column("superuser", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("role", sa.String(16), nullable=False, server_default="administrator"),
    sa.Column("rights", sa.String(255), nullable=False, server_default=""),
    sa.Column("enabled", sa.SmallInteger, nullable=False, server_default=sa.text("1")),
)

_access_tokens = _table(
    "Access_Tokens",
    sa.Column("digest", _Digest, primary_key=True),
    sa.Column("session_digest", _Digest, nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),
    sa.Column(
        "i_user", sa.Integer, sa.ForeignKey("Users.i_user", ondelete="CASCADE"), nullable=False
    ),
    sa.Column("expires_at", _Moment, nullable=False),
    sa.Column(
        "scopes",
        sa.String(255),
        nullable=False,
        server_default="espf.api:write espf.handlers:write",
    ),
    sa.Column("name", sa.String(64)),
    sa.Column("created_at", _Moment),
)
_index("Access_Tokens_session", _access_tokens.c.session_digest)

_console_sessions = _table(
    "Console_Sessions",
    sa.Column("i_session", sa.Integer, primary_key=True),
    sa.Column("digest", _Digest, nullable=False, unique=True),
    sa.Column(
        "i_user", sa.Integer, sa.ForeignKey("Users.i_user", ondelete="CASCADE"), nullable=False
    ),
    sa.Column("started_at", _Moment, nullable=False),
    sa.Column("seen_at", _Moment, nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("browser", sa.String(255), nullable=False),
    sqlite_autoincrement=True,
)
_index("Console_Sessions_user", _console_sessions.c.i_user)

_audit_log = _table(
    "Audit_Log",
    sa.Column("i_audit", _BigNumber, primary_key=True),
    sa.Column("happened_at", _Moment, nullable=False),
    sa.Column("i_env", sa.Integer),
    sa.Column("login", sa.String(64), nullable=False),
    sa.Column("door", sa.String(8), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("value_before", _LongText),
    sa.Column("value_after", _LongText),
    sqlite_autoincrement=True,
)
_index("Audit_Log_env", _audit_log.c.i_env, _audit_log.c.i_audit)
_index("Audit_Log_time", _audit_log.c.happened_at)

_table(
    "Mass_Restarts",
    sa.Column("i_mass_restart", sa.Integer, primary_key=True),
    sa.Column("i_env", sa.Integer, nullable=False),
    sa.Column("login", sa.String(64), nullable=False),
    sa.Column("wanted", sa.Text, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("restarted", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(12), nullable=False),
    sa.Column("begun_at", _Moment, nullable=False),
    sa.Column("moved_at", _Moment, nullable=False),
    sqlite_autoincrement=True,
)

_reconciliations = _table(
    "Reconciliations",
    sa.Column("i_reconciliation", sa.Integer, primary_key=True),
    sa.Column("i_env", sa.Integer, nullable=False),
    sa.Column("i_event_handler", sa.Integer, nullable=False),
    sa.Column("handler", sa.String(64), nullable=False),
    sa.Column("begun_by", sa.String(64), nullable=False),
    sa.Column("scope", _LongText, nullable=False),
    sa.Column("repairs_what", sa.String(64), nullable=False, server_default=""),
    sa.Column("rate", sa.Integer, nullable=False),
    sa.Column("state", sa.String(12), nullable=False),
    sa.Column("phase", sa.String(12), nullable=False),
    sa.Column("reached", sa.Text, nullable=False),
    sa.Column("last_account", sa.BigInteger),
    sa.Column("accounts", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("held_keys", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("same", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("different", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("missing", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("extra", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("failed", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("repairs", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("remark", _LongText),
    sa.Column("carrier", sa.String(190), nullable=False, server_default=""),
    sa.Column("carried_until", _Moment),
    sa.Column("begun_at", _Moment, nullable=False),
    sa.Column("moved_at", _Moment, nullable=False),
    sa.Column("ended_at", _Moment),
    sqlite_autoincrement=True,
)
_index(
    "Reconciliations_handler",
    _reconciliations.c.i_event_handler,
    _reconciliations.c.i_reconciliation,
)

_reconciliation_findings = _table(
    "Reconciliation_Findings",
    sa.Column("i_finding", _BigNumber, primary_key=True),
    sa.Column("i_reconciliation", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(12), nullable=False),
    sa.Column("entry_key", sa.Text, nullable=False),
    sa.Column("i_account", _BigNumber),
    sa.Column("differences", _LongText, nullable=False),
    sa.Column("reason", _LongText),
    sa.Column("i_event", _BigNumber),
    sa.Column("found_at", _Moment, nullable=False),
    sqlite_autoincrement=True,
)
_index(
    "Reconciliation_Findings_of",
    _reconciliation_findings.c.i_reconciliation,
    _reconciliation_findings.c.i_finding,
)
_index(
    "Reconciliation_Findings_kind",
    _reconciliation_findings.c.i_reconciliation,
    _reconciliation_findings.c.kind,
    _reconciliation_findings.c.i_finding,
)

_table(
    "Signing_Keys",
    sa.Column("kid", sa.String(64), primary_key=True),
    sa.Column("public_key", sa.Text, nullable=False),
    sa.Column("private_key", sa.Text),
    sa.Column("created_at", _Moment, nullable=False),
    sa.Column("retired_at", _Moment),
)

_scheduled_keys = _table(
    "Scheduled_Keys",
    sa.Column("i_env", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("event_key", sa.String(128), primary_key=True),
    sa.Column("i_event", _BigNumber, nullable=False),
)
_index("Scheduled_Keys_event", _scheduled_keys.c.i_event)

_table(
    "Service_Groups",
    sa.Column("i_custom_group", sa.Integer, primary_key=True),
    sa.Column("i_env", sa.Integer, nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

_table(
    "Account_Statuses",
    sa.Column("i_env", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("i_account", _BigNumber, primary_key=True, autoincrement=False),
    sa.Column("i_group", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("status", sa.String(12), nullable=False),
    sa.Column("message", sa.Text),
    sa.Column("reported_at", _Moment, nullable=False),
)
