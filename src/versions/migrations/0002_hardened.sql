-- Migration 2: what hostile roles, other clusters and subscribers may do to the tables.

-- Functions that have other arguments or results now; functions/*.sql make the others anew.
DROP FUNCTION IF EXISTS turbo.fn_bump(int[], bigint[], text[], text[], text[], text, text, oid[]);
DROP FUNCTION IF EXISTS turbo.fn_bump_one(uuid, text, bigint, boolean, text, text);
DROP FUNCTION IF EXISTS turbo.fn_measure_begin(oid[]);
DROP FUNCTION IF EXISTS turbo.fn_measure_end(oid[], text[], text, text[], oid[], text, text, oid[], boolean, text);
DROP FUNCTION IF EXISTS turbo.fn_measured(oid[], text, text[], boolean);
DROP FUNCTION IF EXISTS turbo.fn_measured_every(oid[], text);
DROP FUNCTION IF EXISTS turbo.fn_moved(text, text, oid[], text[], text[], text, text);
DROP FUNCTION IF EXISTS turbo.fn_moved_domains(text, text, oid[], text[]);
DROP FUNCTION IF EXISTS turbo.fn_audit_end(oid[], text[], boolean, text);
DROP FUNCTION IF EXISTS turbo.fn_rewritten(text, oid[]);
DROP FUNCTION IF EXISTS turbo.fn_once(text[], text);
DROP FUNCTION IF EXISTS turbo.fn_fold(int, int);

-- Any role may insert into the log: what it says has a bound. A type modifier costs a bump nothing, a CHECK more than its
-- index entry. Domain '': every domain.
ALTER TABLE turbo.tb_bump ALTER COLUMN domain TYPE varchar(255) USING pg_catalog.left(domain, 255);

-- Without them nothing can be deleted where a publication takes in all tables, or the schema.
ALTER TABLE turbo.tb_bump REPLICA IDENTITY FULL;
ALTER TABLE turbo.tb_domain_base REPLICA IDENTITY FULL;
ALTER TABLE turbo.tb_key_new REPLICA IDENTITY FULL;
ALTER TABLE turbo.tb_audit REPLICA IDENTITY FULL;

-- The transaction that wrote the row. Where it is not the row's xmin the row came from another cluster, by a dump or by
-- replication: folded_below and folded_but name transactions of that one, and say nothing here.
ALTER TABLE turbo.tb_fold_state ADD COLUMN written_by xid;
UPDATE turbo.tb_fold_state SET written_by = pg_catalog.pg_current_xact_id()::pg_catalog.xid;
ALTER TABLE turbo.tb_fold_state ALTER COLUMN written_by SET NOT NULL;

-- One row, until a crash, a promotion or a restore has lost commits that somebody may have seen: the server empties
-- unlogged tables then. tb_incarnation_noted is what a hot standby reads, where unlogged tables cannot be read.
CREATE UNLOGGED TABLE turbo.tb_incarnation (
    incarnation   uuid NOT NULL,
    written_by    xid NOT NULL,
    since         timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE turbo.tb_incarnation IS
    'Versions of one incarnation never go back; see turbo.fn_incarnation().';
CREATE TABLE turbo.tb_incarnation_noted (LIKE turbo.tb_incarnation INCLUDING DEFAULTS);
ALTER TABLE turbo.tb_incarnation_noted REPLICA IDENTITY FULL;
GRANT ALL ON turbo.tb_incarnation, turbo.tb_incarnation_noted TO CURRENT_USER;
INSERT INTO turbo.tb_incarnation (incarnation, written_by)
VALUES (pg_catalog.gen_random_uuid(), pg_catalog.pg_current_xact_id()::pg_catalog.xid);
INSERT INTO turbo.tb_incarnation_noted SELECT * FROM turbo.tb_incarnation;

-- functions/*.sql, which are made anew where they differ. compatibility: a Turnstile works with its own number only.
CREATE TABLE turbo.tb_schema_code (
    compatibility int PRIMARY KEY,
    checksum      text NOT NULL,
    applied_at    timestamptz NOT NULL DEFAULT pg_catalog.now(),
    applied_by    text NOT NULL DEFAULT current_user
);
