-- From the tables of the first release, set aside as First_..., into those of revision 0001.

INSERT INTO Event_Types (i_event_type, name, enabled)
SELECT i_event_type, name, enabled FROM First_Event_Types;

INSERT INTO Event_Handlers (i_event_handler, i_env, name, type, enabled, settings, version)
SELECT i_event_handler, i_env, name, type, enabled, settings, version FROM First_Event_Handlers;

INSERT INTO Event_Subscriptions (i_env, event_type, i_event_handler, active)
SELECT i_env, event_type, i_event_handler, active FROM First_Event_Subscriptions;

-- Only a scheduled event that has become due has another place than its number.
INSERT INTO Event_Queue (i_event, i_env, event_type, ordering_key, variables, created_at,
    start_time, notified, position)
SELECT q.i_event, q.i_env, q.event_type, q.ordering_key, q.variables, q.created_at,
    q.start_time, max(count(n.position), 1 - q.scheduled), nullif(max(n.position), q.i_event)
FROM First_Event_Queue q LEFT JOIN First_Event_Notifications n ON n.i_event = q.i_event
GROUP BY q.i_event ORDER BY q.i_event;

-- The key is noted where a notification waits for its time or holds its lane. The shard is what
-- the triggers of this revision make of the key.
INSERT INTO Event_Notifications (i_event_handler, position, i_event, shard, status, attempts,
    ordering_key, next_attempt_at, last_error)
SELECT i_event_handler, position, i_event,
    CASE WHEN length(ordering_key) > 1 THEN
        (7 * unicode(substr(ordering_key, -2, 1)) + unicode(substr(ordering_key, -1, 1))) % 16
    ELSE 0 END,
    status, attempts, CASE WHEN next_attempt_at IS NOT NULL THEN ordering_key END,
    next_attempt_at, last_error
FROM First_Event_Notifications;

-- Who owned a handler owns none of its 16 shards; a result of theirs comes under an old epoch.
WITH RECURSIVE shards (shard) AS
    (VALUES (0) UNION ALL SELECT shard + 1 FROM shards WHERE shard < 15)
INSERT INTO Handler_Leases (i_event_handler, shard, worker, epoch, since)
SELECT h.i_event_handler, s.shard, '', coalesce(l.epoch, 0), '1970-01-01 00:00:00.000'
FROM First_Event_Handlers h CROSS JOIN shards s
LEFT JOIN First_Handler_Leases l ON l.i_event_handler = h.i_event_handler;

INSERT INTO Provisioning_Log_Texts (i_text, content, used_on)
SELECT espf_number(content), espf_text(content), max(logged_at) FROM (
    SELECT b.request AS content, l.logged_at
    FROM First_Provisioning_Log_Bodies b JOIN First_Provisioning_Log l ON l.i_log = b.i_log
    UNION ALL
    SELECT b.response, l.logged_at
    FROM First_Provisioning_Log_Bodies b JOIN First_Provisioning_Log l ON l.i_log = b.i_log)
WHERE content <> '' GROUP BY espf_number(content);

INSERT INTO Provisioning_Log (i_log, i_event, i_env, event_type, ordering_key, variables,
    i_event_handler, handler, attempt, verdict, reason, created_at, start_time, logged_at,
    duration_ms, next_attempt_at, i_request, i_response)
SELECT l.i_log, l.i_event, l.i_env, l.event_type, l.ordering_key, b.variables,
    l.i_event_handler, l.handler, l.attempt, l.verdict, l.reason, l.created_at, l.start_time,
    l.logged_at, l.duration_ms, l.next_attempt_at,
    espf_number(nullif(b.request, '')), espf_number(nullif(b.response, ''))
FROM First_Provisioning_Log l LEFT JOIN First_Provisioning_Log_Bodies b ON b.i_log = l.i_log
ORDER BY l.i_log;

INSERT INTO Users (i_user, login, password_hash, i_env, superuser, rights, enabled)
SELECT i_user, login, password_hash, i_env, superuser, rights, enabled FROM First_Users;

INSERT INTO Access_Tokens (digest, session_digest, kind, i_user, expires_at)
SELECT digest, session_digest, kind, i_user, expires_at FROM First_Access_Tokens;

-- The highest number that was ever given out, also where its row is gone.
DELETE FROM sqlite_sequence WHERE name IN ('Event_Queue', 'Event_Handlers');

INSERT INTO sqlite_sequence (name, seq)
SELECT substr(name, length('First_') + 1), seq FROM sqlite_sequence
WHERE name IN ('First_Event_Queue', 'First_Event_Handlers');
