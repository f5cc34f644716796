-- Turnstile schema, migration 1: the bump log, the folded base, what readers read.
--
-- Everything here is schema-qualified; every SECURITY DEFINER function has a fixed search_path.
-- The functions that run inside a client's transaction only insert into the log: no unique key, no
-- sequence, no foreign key, no row that two writers share, hence nothing to wait for.

-- What is known: a known (tenant, domain) shows version 0 before its first bump.
CREATE TABLE turbo.tb_domain (
    domain        text PRIMARY KEY,
    known_since   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE turbo.tb_domain IS 'Domains that exist; a domain without bumps has version 0.';

CREATE TABLE turbo.tb_tenant (
    tenant_id     uuid PRIMARY KEY,
    known_since   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE turbo.tb_tenant IS 'Tenants that exist; the fold worker adds those it meets in the log.';

CREATE TABLE turbo.tb_domain_table (
    table_name    text PRIMARY KEY,
    domain        text NOT NULL
);
COMMENT ON TABLE turbo.tb_domain_table IS
    'Tables whose domain is not their name without tv_ (and tracked tables that are not called tv_).';

CREATE TABLE turbo.tb_domain_cascade (
    source_domain text NOT NULL,
    target_domain text NOT NULL,
    PRIMARY KEY (source_domain, target_domain)
);
COMMENT ON TABLE turbo.tb_domain_cascade IS
    'A bump of the source domain bumps the target too; closed transitively, cycles allowed.';

-- The log. tenant_id NULL stands for all tenants of the domain. Whoever may connect may insert (fn_bump_one): readers and
-- the fold take any number of bumps for one between 1 and a million, so that no version ever goes back. A CHECK would cost
-- each bump more than its index entry.
CREATE TABLE turbo.tb_bump (
    tenant_id     uuid,
    domain        text NOT NULL,
    bumps         bigint NOT NULL,
    xid           xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    bumped_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    bumped_by     text,
    summary       text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX tb_bump_key ON turbo.tb_bump (domain, tenant_id, xid);

-- The base: folded sums, one row for each pair. The row with tenant_id NULL counts the bumps of all tenants of the domain.
-- Each fold replaces the row, and while somebody holds an old snapshot all that it was before stays in the table and its
-- index. Therefore readers, and the fold, look for the newest epoch only: an epoch is 32 folds (fn_fold), and so
-- many former versions lie in their way at most. Within an epoch no index entry is added.
CREATE TABLE turbo.tb_domain_base (
    tenant_id      uuid,
    domain         text NOT NULL,
    epoch          bigint NOT NULL,
    version        bigint NOT NULL,
    last_modified  timestamptz,
    modified_by    text,
    change_summary text
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE UNIQUE INDEX tb_domain_base_tenant ON turbo.tb_domain_base (domain, tenant_id, epoch) WHERE tenant_id IS NOT NULL;
CREATE UNIQUE INDEX tb_domain_base_all ON turbo.tb_domain_base (domain, epoch) WHERE tenant_id IS NULL;

-- One row, found by its epoch as those of the base. The log rows that are left to add are those of transactions that the
-- last fold did not see: folded_below and above, and folded_but, the oldest of those that had not ended then. Readers look
-- at no others, so that dead log rows that an old snapshot or a long transaction keeps do not slow them down.
CREATE TABLE turbo.tb_fold_state (
    epoch          bigint PRIMARY KEY,
    folds          bigint NOT NULL,
    folded_below   xid8 NOT NULL,
    folded_but     xid8[] NOT NULL,
    folded_at      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10);
-- Default privileges may have taken them.
GRANT ALL ON turbo.tb_fold_state TO CURRENT_USER;
INSERT INTO turbo.tb_fold_state (epoch, folds, folded_below, folded_but) VALUES (0, 0, '0', '{}');

-- Keys that are not in tb_domain and tb_tenant yet, until the next fold adds them there.
CREATE TABLE turbo.tb_key_new (
    tenant_id     uuid,
    domain        text NOT NULL
);

-- What audits found. Nobody waits here: no key, no sequence.
CREATE TABLE turbo.tb_audit (
    found_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    kind          text NOT NULL,
    fingerprint   text,
    expected      text[] NOT NULL,
    measured      text[] NOT NULL,
    tuples        bigint
);
COMMENT ON TABLE turbo.tb_audit IS
    'Disagreements: kind statement: a statement moved other domains than its text and the catalog said; kind around: rows of a domain changed without a bump. The fold worker keeps the newest.';

-- What fn_audit_around saw last: rows changed (of all time, as the server counts), bumps, and bumps one look
-- before.
CREATE TABLE turbo.tb_audit_state (
    domain        text PRIMARY KEY,
    tuples        bigint NOT NULL,
    bumps         bigint NOT NULL,
    bumps_before  bigint NOT NULL
);
