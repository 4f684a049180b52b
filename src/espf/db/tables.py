"""ESPF's own tables, in the vendor's style of names.

The two live tables carry the work and stay small; Provisioning_Log remembers. The live tables
have no checks and no foreign keys: a trigger writes them inside a billing transaction, which no
data may ever make fail.
"""

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from espf.db.dialect import Moment

metadata = MetaData()

event_types = Table(
    "Event_Types",
    metadata,
    Column("i_event_type", Integer, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    # Off: the type is left out of the compiled triggers.
    Column("enabled", Integer, nullable=False, server_default=text("1")),
)

event_handlers = Table(
    "Event_Handlers",
    metadata,
    Column("i_event_handler", Integer, primary_key=True),
    Column("i_env", Integer, nullable=False),
    Column("name", String(64), nullable=False),
    Column("type", String(64), nullable=False),
    Column("enabled", Integer, nullable=False, server_default=text("1")),
    # A JSON object of option name -> value; secrets are sealed.
    Column("settings", Text, nullable=False),
    # Counts changes, so that a worker sees that it has to read the row anew.
    Column("version", Integer, nullable=False, server_default=text("1")),
    UniqueConstraint("i_env", "name"),
    sqlite_autoincrement=True,
)

# One row per handler and type that it is subscribed to. `active` repeats the handler's switch, so
# that a trigger finds the subscribers of an event with one look at one index.
event_subscriptions = Table(
    "Event_Subscriptions",
    metadata,
    Column("i_env", Integer, primary_key=True),
    Column("event_type", String(128), primary_key=True),
    Column("i_event_handler", Integer, primary_key=True),
    Column("active", Integer, nullable=False),
    sqlite_with_rowid=False,
)

event_queue = Table(
    "Event_Queue",
    metadata,
    Column("i_event", Integer, primary_key=True),
    Column("i_env", Integer),
    Column("event_type", String(128)),
    Column("ordering_key", String(255)),
    Column("variables", Text),
    Column("created_at", Moment),
    Column("start_time", Moment),
    # 1: waits for its start_time and has no notifications yet.
    Column("scheduled", Integer, nullable=False, server_default=text("0")),
    sqlite_autoincrement=True,
)
Index(
    "Event_Queue_scheduled",
    event_queue.c.start_time,
    sqlite_where=event_queue.c.scheduled == 1,
)

# `position` orders the notifications of a lane: the number of the event, or, for a scheduled one,
# the number that was next when it became due. `next_attempt_at` is empty until the first failure;
# a failed notification that holds its lane keeps the time of its failure there.
event_notifications = Table(
    "Event_Notifications",
    metadata,
    Column("i_event_handler", Integer, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("i_event", Integer, nullable=False),
    Column("ordering_key", String(255)),
    Column("status", String(12), nullable=False, server_default="queued"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("next_attempt_at", Moment),
    Column("last_error", Text),
    sqlite_with_rowid=False,
)
_waits = event_notifications.c.next_attempt_at.is_not(None)
Index("Event_Notifications_event", event_notifications.c.i_event)
Index(
    "Event_Notifications_lane",
    event_notifications.c.i_event_handler,
    event_notifications.c.ordering_key,
    event_notifications.c.position,
)
Index(
    "Event_Notifications_due",
    event_notifications.c.i_event_handler,
    event_notifications.c.next_attempt_at,
    sqlite_where=_waits,
)
# It begins with the key, so that no planner prefers the primary key, which would walk through all
# that a handler has.
Index(
    "Event_Notifications_parked",
    event_notifications.c.ordering_key,
    sqlite_where=_waits,
)

# Who works for a handler. The epoch counts the owners; a result under an old one changes nothing.
handler_leases = Table(
    "Handler_Leases",
    metadata,
    Column("i_event_handler", Integer, primary_key=True),
    Column("worker", String(128), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("expires_at", Moment, nullable=False),
)

# One narrow row per attempt, and one for what ends without any (no subscriber, cancelled).
provisioning_log = Table(
    "Provisioning_Log",
    metadata,
    Column("i_log", Integer, primary_key=True),
    Column("i_event", Integer, nullable=False),
    Column("i_env", Integer),
    Column("event_type", String(128)),
    Column("ordering_key", String(255)),
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
)
Index("Provisioning_Log_event", provisioning_log.c.i_event)
Index("Provisioning_Log_key", provisioning_log.c.ordering_key)

provisioning_log_bodies = Table(
    "Provisioning_Log_Bodies",
    metadata,
    Column("i_log", Integer, primary_key=True),
    Column("variables", Text),
    Column("request", Text),
    Column("response", Text),
)

users = Table(
    "Users",
    metadata,
    Column("i_user", Integer, primary_key=True),
    Column("login", String(64), nullable=False, unique=True),
    Column("password_hash", String(255), nullable=False),
    Column("i_env", Integer, nullable=False),
    Column("superuser", Integer, nullable=False, server_default=text("0")),
    # Names of rights beyond an administrator's, separated by spaces: sim.keys
    Column("rights", String(255), nullable=False, server_default=""),
    Column("enabled", Integer, nullable=False, server_default=text("1")),
)

access_tokens = Table(
    "Access_Tokens",
    metadata,
    # Only digests are stored: who reads the table cannot log in with them.
    Column("digest", LargeBinary(32), primary_key=True),
    Column("session_digest", LargeBinary(32), nullable=False, index=True),
    Column("kind", String(8), nullable=False),
    Column("i_user", Integer, ForeignKey("Users.i_user", ondelete="CASCADE"), nullable=False),
    Column("expires_at", Moment, nullable=False),
)
