-- A database of the first release with work in it, as its shell dumped it; shortened.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE IF NOT EXISTS "Event_Types" (
	i_event_type INTEGER NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	enabled INTEGER DEFAULT 1 NOT NULL, 
	PRIMARY KEY (i_event_type), 
	UNIQUE (name)
);
INSERT INTO Event_Types VALUES(12,'Account/Blocked',1);
INSERT INTO Event_Types VALUES(20,'Account/ID/Changed',1);
INSERT INTO Event_Types VALUES(22,'Account/New',1);
INSERT INTO Event_Types VALUES(10001,'Custom/X',1);
CREATE TABLE IF NOT EXISTS "Event_Handlers" (
	i_event_handler INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	i_env INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	type VARCHAR(64) NOT NULL, 
	enabled INTEGER DEFAULT 1 NOT NULL, 
	settings TEXT NOT NULL, 
	version INTEGER DEFAULT 1 NOT NULL, 
	UNIQUE (i_env, name)
);
INSERT INTO Event_Handlers VALUES(1,3,'EventSender','EventSender',1,'{"EventSender.URL":"http://127.0.0.1:5000"}',1);
CREATE TABLE IF NOT EXISTS "Event_Subscriptions" (
	i_env INTEGER NOT NULL, 
	event_type VARCHAR(128) NOT NULL, 
	i_event_handler INTEGER NOT NULL, 
	active INTEGER NOT NULL, 
	PRIMARY KEY (i_env, event_type, i_event_handler)
)
 WITHOUT ROWID

;
INSERT INTO Event_Subscriptions VALUES(3,'Account/Blocked',1,1);
INSERT INTO Event_Subscriptions VALUES(3,'Account/ID/Changed',1,1);
INSERT INTO Event_Subscriptions VALUES(3,'Account/New',1,1);
CREATE TABLE IF NOT EXISTS "Event_Queue" (
	i_event INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	i_env INTEGER, 
	event_type VARCHAR(128), 
	ordering_key VARCHAR(255), 
	variables TEXT, 
	created_at VARCHAR(23), 
	start_time VARCHAR(23), 
	scheduled INTEGER DEFAULT 0 NOT NULL
);
INSERT INTO Event_Queue VALUES(4,3,'Account/Blocked','account:541','{"i_env":3,"i_account":541,"i_customer":1,"event_time":"2026-11-22 01:46:43"}','2026-11-22 01:46:43.415',NULL,0);
INSERT INTO Event_Queue VALUES(5,3,'Account/ID/Changed','account:541','{"i_env":3,"i_account":541,"i_customer":1,"prev_id":"a541","curr_id":"new","event_time":"2026-11-22 01:46:43"}','2026-11-22 01:46:43.423',NULL,0);
INSERT INTO Event_Queue VALUES(7,3,'Custom/X',NULL,'{"a":2}','2026-11-22 01:46:44.628','2026-11-23 01:46:44.000',1);
INSERT INTO Event_Queue VALUES(8,3,'Account/ID/Changed','account:542','{"i_env":3,"i_account":542,"i_customer":1,"prev_id":"a542","curr_id":"newer","event_time":"2026-11-22 01:46:49"}','2026-11-22 01:46:49.098',NULL,0);
INSERT INTO Event_Queue VALUES(9,3,'Account/ID/Changed','account:541','{"i_env":3,"i_account":541,"i_customer":1,"prev_id":"new","curr_id":"n3","event_time":"2026-11-22 01:46:49"}','2026-11-22 01:46:49.100',NULL,0);
INSERT INTO Event_Queue VALUES(10,3,'Custom/X','k:10','{"a":3}','2026-11-22 01:00:00.000','2026-11-22 01:30:00.000',0);
CREATE TABLE IF NOT EXISTS "Event_Notifications" (
	i_event_handler INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	i_event INTEGER NOT NULL, 
	ordering_key VARCHAR(255), 
	status VARCHAR(12) DEFAULT 'queued' NOT NULL, 
	attempts INTEGER DEFAULT 0 NOT NULL, 
	next_attempt_at VARCHAR(23), 
	last_error TEXT, 
	PRIMARY KEY (i_event_handler, position)
)
 WITHOUT ROWID

;
INSERT INTO Event_Notifications VALUES(1,4,4,'account:541','queued',1,'2026-11-22 01:46:49.625','HTTP 503 Service Unavailable: {}');
INSERT INTO Event_Notifications VALUES(1,5,5,'account:541','queued',0,NULL,NULL);
INSERT INTO Event_Notifications VALUES(1,8,8,'account:542','queued',0,NULL,NULL);
INSERT INTO Event_Notifications VALUES(1,9,9,'account:541','queued',0,NULL,NULL);
INSERT INTO Event_Notifications VALUES(1,12,10,'k:10','failed',3,'2026-11-22 01:31:00.000','HTTP 500');
CREATE TABLE IF NOT EXISTS "Handler_Leases" (
	i_event_handler INTEGER NOT NULL, 
	worker VARCHAR(128) NOT NULL, 
	epoch INTEGER NOT NULL, 
	expires_at VARCHAR(23) NOT NULL, 
	PRIMARY KEY (i_event_handler)
);
INSERT INTO Handler_Leases VALUES(1,'',2,'2026-11-22 01:46:48.729');
CREATE TABLE IF NOT EXISTS "Provisioning_Log" (
	i_log INTEGER NOT NULL, 
	i_event INTEGER NOT NULL, 
	i_env INTEGER, 
	event_type VARCHAR(128), 
	ordering_key VARCHAR(255), 
	i_event_handler INTEGER, 
	handler VARCHAR(64), 
	attempt INTEGER NOT NULL, 
	verdict VARCHAR(12) NOT NULL, 
	reason TEXT, 
	created_at VARCHAR(23), 
	start_time VARCHAR(23), 
	logged_at VARCHAR(23) NOT NULL, 
	duration_ms INTEGER, 
	next_attempt_at VARCHAR(23), 
	PRIMARY KEY (i_log)
);
INSERT INTO Provisioning_Log VALUES(1,2,3,'Account/New','account:542',1,'EventSender',1,'finished',NULL,'2026-11-22 01:46:43.348',NULL,'2026-11-22 01:46:43.764',4,NULL);
INSERT INTO Provisioning_Log VALUES(4,4,3,'Account/Blocked','account:541',1,'EventSender',1,'retry','HTTP 503 Service Unavailable: {}','2026-11-22 01:46:43.415',NULL,'2026-11-22 01:46:43.785',4,'2026-11-22 01:46:49.625');
INSERT INTO Provisioning_Log VALUES(5,6,3,'Custom/X',NULL,NULL,NULL,0,'finished','no subscriber','2026-11-22 01:46:44.078',NULL,'2026-11-22 01:46:44.078',NULL,NULL);
CREATE TABLE IF NOT EXISTS "Provisioning_Log_Bodies" (
	i_log INTEGER NOT NULL, 
	variables TEXT, 
	request TEXT, 
	response TEXT, 
	PRIMARY KEY (i_log)
);
INSERT INTO Provisioning_Log_Bodies VALUES(1,'{"i_env":3,"i_account":542,"i_customer":1,"event_time":"2026-11-22 01:46:43"}',replace('POST http://127.0.0.1:5000 HTTP/1.1\nDate: Sun, 22 Nov 2026 01:46:43 GMT\nContent-Type: application/json\nAuthorization: ***\n\n{"event_type":"Account/New","variables":{"i_env":3,"i_account":542,"i_customer":1,"event_time":"2026-11-22 01:46:43","i_event":2}}','\n',char(10)),replace('HTTP 200 OK\nserver: BaseHTTP/0.6 Python/3.11.7\ndate: Sun, 22 Nov 2026 01:46:43 GMT\ncontent-length: 2\n\n{}','\n',char(10)));
INSERT INTO Provisioning_Log_Bodies VALUES(4,'{"i_env":3,"i_account":541,"i_customer":1,"event_time":"2026-11-22 01:46:43"}',replace('POST http://127.0.0.1:5000 HTTP/1.1\nDate: Sun, 22 Nov 2026 01:46:43 GMT\nContent-Type: application/json\nAuthorization: ***\n\n{"event_type":"Account/Blocked","variables":{"i_env":3,"i_account":541,"i_customer":1,"event_time":"2026-11-22 01:46:43","i_event":4}}','\n',char(10)),replace('HTTP 503 Service Unavailable\nserver: BaseHTTP/0.6 Python/3.11.7\ndate: Sun, 22 Nov 2026 01:46:43 GMT\ncontent-length: 2\n\n{}','\n',char(10)));
INSERT INTO Provisioning_Log_Bodies VALUES(5,'{"a":1}',NULL,NULL);
CREATE TABLE IF NOT EXISTS "Users" (
	i_user INTEGER NOT NULL, 
	login VARCHAR(64) NOT NULL, 
	password_hash VARCHAR(255) NOT NULL, 
	i_env INTEGER NOT NULL, 
	superuser INTEGER DEFAULT 0 NOT NULL, 
	rights VARCHAR(255) DEFAULT '' NOT NULL, 
	enabled INTEGER DEFAULT 1 NOT NULL, 
	PRIMARY KEY (i_user), 
	UNIQUE (login)
);
INSERT INTO Users VALUES(1,'admin','argon2 admin',3,1,'',1);
INSERT INTO Users VALUES(2,'espf-handlers','argon2 espf-handlers',3,1,'sim.keys',1);
CREATE TABLE IF NOT EXISTS "Access_Tokens" (
	digest BLOB NOT NULL, 
	session_digest BLOB NOT NULL, 
	kind VARCHAR(8) NOT NULL, 
	i_user INTEGER NOT NULL, 
	expires_at VARCHAR(23) NOT NULL, 
	PRIMARY KEY (digest), 
	FOREIGN KEY(i_user) REFERENCES "Users" (i_user) ON DELETE CASCADE
);
INSERT INTO Access_Tokens VALUES(X'01020304',X'05060708','access',1,'2026-11-22 03:00:00.000');
CREATE TABLE Subscribers (i_subscriber integer primary key, i_env integer not null, name text);
INSERT INTO Subscribers VALUES(541,3,'n3');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('Event_Queue',12);
INSERT INTO sqlite_sequence VALUES('Event_Handlers',1);
CREATE INDEX "Event_Queue_scheduled" ON "Event_Queue" (start_time) WHERE scheduled = 1;
CREATE INDEX "Event_Notifications_event" ON "Event_Notifications" (i_event);
CREATE INDEX "Event_Notifications_due" ON "Event_Notifications" (i_event_handler, next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX "Event_Notifications_lane" ON "Event_Notifications" (i_event_handler, ordering_key, position);
CREATE INDEX "Event_Notifications_parked" ON "Event_Notifications" (ordering_key) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX "Provisioning_Log_event" ON "Provisioning_Log" (i_event);
CREATE INDEX "Provisioning_Log_key" ON "Provisioning_Log" (ordering_key);
CREATE INDEX "ix_Access_Tokens_session_digest" ON "Access_Tokens" (session_digest);
CREATE TRIGGER "espf_Subscribers_update_1052bcf2b42a" AFTER UPDATE ON "Subscribers"
WHEN NEW."name" IS NOT OLD."name" COLLATE BINARY
BEGIN
INSERT INTO Event_Queue (i_env, event_type, ordering_key, variables, created_at)
SELECT NEW."i_env", 'Account/ID/Changed', 'account:' || NEW."i_subscriber",
json_object('i_env', NEW."i_env", 'i_account', NEW."i_subscriber", 'curr_id', NEW."name"), strftime('%Y-%m-%d %H:%M:%f', 'now')
WHERE EXISTS (SELECT 1 FROM Event_Subscriptions WHERE i_env = NEW."i_env" AND event_type = 'Account/ID/Changed' AND active = 1);
INSERT INTO Event_Notifications (i_event_handler, position, i_event, ordering_key)
SELECT s.i_event_handler, q.i_event, q.i_event, q.ordering_key
FROM Event_Queue q JOIN Event_Subscriptions s ON s.i_env = q.i_env AND s.event_type = q.event_type
WHERE q.i_event > (SELECT max(i_event) - changes() FROM Event_Queue) AND s.active = 1;
END;
COMMIT;
