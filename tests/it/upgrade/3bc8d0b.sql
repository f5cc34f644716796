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
INSERT INTO turbo.tb_fold_state (epoch, folds, folded_below, folded_but) VALUES (0, 0, '0', '{}');

-- Keys that are not in tb_domain and tb_tenant yet, until the next fold adds them there.
CREATE TABLE turbo.tb_key_new (
    tenant_id     uuid,
    domain        text NOT NULL
);

-- The version of a domain for one tenant (NULL: what all tenants share). 0 when never bumped.
-- PL/pgSQL keeps the plan for the session; the settings pin the index plan, which a sequential scan
-- over dead log rows would otherwise replace after an auto-analyze (and keep its price from
-- calling for just-in-time compilation).
CREATE FUNCTION turbo.fn_domain_version(tenant uuid, domain text) RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $function$
DECLARE
    v_below xid8;
    v_but xid8[];
    v_version bigint;
BEGIN
    SELECT s.folded_below, s.folded_but INTO v_below, v_but FROM turbo.tb_fold_state s ORDER BY s.epoch DESC LIMIT 1;
    SELECT coalesce((SELECT b.version FROM turbo.tb_domain_base b
                      WHERE b.domain = $2 AND b.tenant_id IS NULL ORDER BY b.epoch DESC LIMIT 1), 0)
         + coalesce((SELECT sum(greatest(1, least(l.bumps, 1000000))) FROM turbo.tb_bump l
                      WHERE l.domain = $2 AND l.tenant_id IS NULL AND l.xid >= v_below), 0)
      INTO v_version;
    IF $1 IS NOT NULL THEN
        SELECT v_version
             + coalesce((SELECT b.version FROM turbo.tb_domain_base b
                          WHERE b.domain = $2 AND b.tenant_id = $1 ORDER BY b.epoch DESC LIMIT 1), 0)
             + coalesce((SELECT sum(greatest(1, least(l.bumps, 1000000))) FROM turbo.tb_bump l
                          WHERE l.domain = $2 AND l.tenant_id = $1 AND l.xid >= v_below), 0)
          INTO v_version;
    END IF;
    IF v_but <> '{}' THEN
        -- Lateral aggregates: xid = ANY would not always be looked up in the index.
        SELECT v_version + coalesce(sum(c.bumps), 0) INTO v_version
          FROM unnest(v_but) o (xid)
         CROSS JOIN LATERAL (
               SELECT sum(greatest(1, least(l.bumps, 1000000))) AS bumps FROM turbo.tb_bump l
                WHERE l.domain = $2 AND l.tenant_id IS NULL AND l.xid = o.xid
               UNION ALL
               SELECT sum(greatest(1, least(l.bumps, 1000000))) FROM turbo.tb_bump l
                WHERE l.domain = $2 AND l.tenant_id = $1 AND l.xid = o.xid) c;
    END IF;
    RETURN v_version;
END
$function$;
COMMENT ON FUNCTION turbo.fn_domain_version(uuid, text) IS
    'Version of a domain for a tenant, bumps of all tenants included; 0 when it was never bumped.';

-- When, by whom and by what a domain was bumped last.
CREATE FUNCTION turbo.fn_domain_last_bump(
    tenant uuid, domain text,
    OUT last_modified timestamptz, OUT modified_by text, OUT change_summary text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $function$
DECLARE
    v_below xid8;
    v_but xid8[];
BEGIN
    SELECT s.folded_below, s.folded_but INTO v_below, v_but FROM turbo.tb_fold_state s ORDER BY s.epoch DESC LIMIT 1;
    SELECT x.at, x.who, x.what INTO last_modified, modified_by, change_summary
      FROM ((SELECT b.last_modified AS at, b.modified_by AS who, b.change_summary AS what
               FROM turbo.tb_domain_base b WHERE b.domain = $2 AND b.tenant_id IS NULL ORDER BY b.epoch DESC LIMIT 1)
            UNION ALL
            (SELECT b.last_modified, b.modified_by, b.change_summary
               FROM turbo.tb_domain_base b WHERE b.domain = $2 AND b.tenant_id = $1 ORDER BY b.epoch DESC LIMIT 1)
            UNION ALL
            SELECT l.bumped_at, l.bumped_by, l.summary
              FROM turbo.tb_bump l WHERE l.domain = $2 AND l.tenant_id IS NULL AND l.xid >= v_below
            UNION ALL
            SELECT l.bumped_at, l.bumped_by, l.summary
              FROM turbo.tb_bump l WHERE l.domain = $2 AND l.tenant_id = $1 AND l.xid >= v_below
            UNION ALL
            SELECT c.bumped_at, c.bumped_by, c.summary
              FROM unnest(v_but) o (xid)
             CROSS JOIN LATERAL (
                   (SELECT l.bumped_at, l.bumped_by, l.summary FROM turbo.tb_bump l
                     WHERE l.domain = $2 AND l.tenant_id IS NULL AND l.xid = o.xid ORDER BY l.bumped_at DESC LIMIT 1)
                   UNION ALL
                   (SELECT l.bumped_at, l.bumped_by, l.summary FROM turbo.tb_bump l
                     WHERE l.domain = $2 AND l.tenant_id = $1 AND l.xid = o.xid ORDER BY l.bumped_at DESC LIMIT 1)) c) x
     ORDER BY x.at DESC NULLS LAST LIMIT 1;
END
$function$;

-- What readers read. A known tenant or domain has a row, with version 0 before its first bump; the
-- rows with tenant_id NULL are what all tenants share (domains of tables without a tenant column).
CREATE VIEW turbo.tb_domain_version AS
SELECT k.tenant_id,
       k.domain,
       turbo.fn_domain_version(k.tenant_id, k.domain) AS version,
       (turbo.fn_domain_last_bump(k.tenant_id, k.domain)).last_modified AS last_modified,
       (turbo.fn_domain_last_bump(k.tenant_id, k.domain)).modified_by AS modified_by,
       (turbo.fn_domain_last_bump(k.tenant_id, k.domain)).change_summary AS change_summary
  FROM (SELECT t.tenant_id, d.domain FROM turbo.tb_tenant t CROSS JOIN turbo.tb_domain d
        UNION
        SELECT NULL::uuid, d.domain FROM turbo.tb_domain d
        UNION
        SELECT n.tenant_id, n.domain FROM turbo.tb_key_new n) k;
COMMENT ON VIEW turbo.tb_domain_version IS
    'Versions of all known (tenant, domain): folded base plus bump log; consistent in any snapshot.';

-- A tenant as text: NULL where it is not a uuid (its writes then count for all tenants).
CREATE FUNCTION turbo.fn_tenant(tenant text) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF tenant ~ E'^\\{?[0-9a-fA-F]{4}(-?[0-9a-fA-F]{4}){7}\\}?$' THEN
        RETURN tenant::uuid;
    END IF;
    RETURN NULL;
END
$function$;

-- The tenant that the first of these session settings names, NULL where none does.
CREATE FUNCTION turbo.fn_session_tenant(settings text[]) RETURNS uuid
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_setting text;
    v_value text;
BEGIN
    FOREACH v_setting IN ARRAY settings LOOP
        v_value := current_setting(v_setting, true);
        IF v_value <> '' THEN
            RETURN turbo.fn_tenant(v_value);
        END IF;
    END LOOP;
    RETURN NULL;
END
$function$;

-- Who bumps. The planner takes a function like this for its body: it costs no call.
CREATE FUNCTION turbo.fn_by() RETURNS text
LANGUAGE sql VOLATILE
AS $function$
    SELECT coalesce(nullif(pg_catalog.current_setting('app.user_id', true), ''), session_user)
$function$;

-- Inserts bumps. The arrays run in parallel: one element is one (tenant, domain) of one group of
-- statements with the same effects; groups[i] names the group, statements[i] says how many statements
-- it stands for. A tenant is a uuid as text, '' for all tenants, '@' for the tenant of the session
-- setting. Each (tenant, domain) gets one bump for each statement, whatever cascades lead there.
-- condition 'always'; 'written': only when the transaction has written something (has an id);
-- 'moved': only when counters of these relations moved since fn_measure_begin.
-- Returns the number of log rows.
CREATE FUNCTION turbo.fn_bump(
    groups int[], statements bigint[], tenants text[], domains text[],
    settings text[], condition text, summary text, relations oid[] DEFAULT '{}') RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_session uuid;
    v_by text;
    v_rows int;
    v_tenant uuid;
BEGIN
    IF condition <> 'always' AND pg_current_xact_id_if_assigned() IS NULL THEN
        RETURN 0;
    END IF;
    IF condition = 'moved' AND current_setting('track_counts')::boolean
       AND split_part(current_setting('turnstile.measured', true), '/', 3)
         = split_part(turbo.fn_counters(relations), '/', 3) THEN
        RETURN 0;
    END IF;
    v_by := turbo.fn_by();
    IF settings <> '{}' THEN
        v_session := turbo.fn_session_tenant(settings);
    END IF;
    -- Without cascades the pairs are what they are: each group holds each pair once.
    IF NOT EXISTS (SELECT FROM turbo.tb_domain_cascade c WHERE c.source_domain = ANY (domains)) THEN
        FOR i IN 1 .. cardinality(domains) LOOP
            v_tenant := CASE tenants[i] WHEN '' THEN NULL WHEN '@' THEN v_session ELSE tenants[i]::uuid END;
            INSERT INTO turbo.tb_bump (tenant_id, domain, bumps, bumped_by, summary)
            VALUES (v_tenant, domains[i], statements[i], v_by, fn_bump.summary);
            IF NOT EXISTS (SELECT FROM turbo.tb_domain d WHERE d.domain = domains[i])
               OR (v_tenant IS NOT NULL
                   AND NOT EXISTS (SELECT FROM turbo.tb_tenant t WHERE t.tenant_id = v_tenant)) THEN
                INSERT INTO turbo.tb_key_new (tenant_id, domain) VALUES (v_tenant, domains[i]);
            END IF;
        END LOOP;
        RETURN cardinality(domains);
    END IF;
    WITH RECURSIVE written (grp, statements, tenant_id, domain) AS (
        SELECT u.g, u.n, CASE u.t WHEN '' THEN NULL WHEN '@' THEN v_session ELSE u.t::uuid END, u.d
          FROM unnest(groups, fn_bump.statements, tenants, domains) AS u (g, n, t, d)
        UNION
        SELECT w.grp, w.statements, w.tenant_id, c.target_domain
          FROM written w JOIN turbo.tb_domain_cascade c ON c.source_domain = w.domain
    ), touched AS (
        SELECT w.tenant_id, w.domain, sum(w.statements)::bigint AS bumps
          FROM written w
         WHERE w.tenant_id IS NULL
            OR NOT EXISTS (SELECT FROM written a
                            WHERE a.grp = w.grp AND a.domain = w.domain AND a.tenant_id IS NULL)
         GROUP BY w.tenant_id, w.domain
    ), logged AS (
        INSERT INTO turbo.tb_bump (tenant_id, domain, bumps, bumped_by, summary)
        SELECT t.tenant_id, t.domain, t.bumps, v_by, fn_bump.summary FROM touched t
        RETURNING 1
    ), fresh AS (
        INSERT INTO turbo.tb_key_new (tenant_id, domain)
        SELECT t.tenant_id, t.domain FROM touched t
         WHERE NOT EXISTS (SELECT FROM turbo.tb_domain d WHERE d.domain = t.domain)
            OR (t.tenant_id IS NOT NULL
                AND NOT EXISTS (SELECT FROM turbo.tb_tenant k WHERE k.tenant_id = t.tenant_id))
    )
    SELECT count(*)::int INTO v_rows FROM logged;
    RETURN v_rows;
END
$function$;

-- The same for one (tenant, domain), which is what most statements touch; tenant NULL: all of them. known: readers can see
-- the pair already, and no bump of it cascades. Runs with the caller's rights, who may insert into the log, and qualifies everything: the change of role
-- and search_path costs more than the bump.
CREATE FUNCTION turbo.fn_bump_one(
    tenant uuid, domain text, statements bigint, known boolean, condition text, summary text) RETURNS int
LANGUAGE plpgsql VOLATILE
AS $function$
BEGIN
    IF condition OPERATOR(pg_catalog.<>) 'always' AND pg_catalog.pg_current_xact_id_if_assigned() IS NULL THEN
        RETURN 0;
    END IF;
    IF NOT known THEN
        RETURN turbo.fn_bump('{0}', ARRAY[statements], ARRAY[coalesce(tenant OPERATOR(pg_catalog.||) '', '')],
                             ARRAY[domain], '{}', 'always', summary);
    END IF;
    INSERT INTO turbo.tb_bump (tenant_id, domain, bumps, bumped_by, summary)
    VALUES (tenant, domain, statements, turbo.fn_by(), fn_bump_one.summary);
    RETURN 1;
END
$function$;

-- The relations whose changes bump a domain: called tv_…, or named in tb_domain_table, and what is
-- stored below them (partitions, children), with the domains that a change of each of them bumps.
-- While nothing is named there the table is not read: a serializable transaction would keep a predicate lock on it.
CREATE FUNCTION turbo.fn_tracked(OUT relation oid, OUT domain text) RETURNS SETOF record
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET jit = off
AS $function$
BEGIN
    IF pg_relation_size('turbo.tb_domain_table') = 0 THEN
        RETURN QUERY
        WITH RECURSIVE tracked (relation, domain, below) AS (
            SELECT c.oid, substr(c.relname, 4), c.relhassubclass
              FROM pg_class c
             WHERE c.relname > 'tv_' AND c.relname < 'tv`'
               AND c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't'
            UNION
            SELECT i.inhrelid, t.domain, c.relhassubclass
              FROM tracked t JOIN pg_inherits i ON i.inhparent = t.relation
              JOIN pg_class c ON c.oid = i.inhrelid
             WHERE t.below
        )
        SELECT t.relation, t.domain FROM tracked t;
        RETURN;
    END IF;
    RETURN QUERY
    WITH RECURSIVE tracked (relation, domain, below) AS (
        SELECT c.oid, coalesce(o.domain, substr(c.relname, 4)), c.relhassubclass
          FROM pg_class c LEFT JOIN turbo.tb_domain_table o ON o.table_name = c.relname
         WHERE c.relname > 'tv_' AND c.relname < 'tv`'
           AND c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't'
        UNION
        SELECT c.oid, o.domain, c.relhassubclass
          FROM turbo.tb_domain_table o JOIN pg_class c ON c.relname = o.table_name
         WHERE c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't'
        UNION
        SELECT i.inhrelid, t.domain, c.relhassubclass
          FROM tracked t JOIN pg_inherits i ON i.inhparent = t.relation
          JOIN pg_class c ON c.oid = i.inhrelid
         WHERE t.below
    )
    SELECT t.relation, t.domain FROM tracked t;
END
$function$;

-- Rows of a relation that the session has changed. Written so that the planner takes it for its body: it costs no call.
CREATE FUNCTION turbo.fn_count(relation oid) RETURNS int8
LANGUAGE sql VOLATILE
AS $function$
    SELECT pg_catalog.pg_stat_get_xact_tuples_inserted(relation)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(relation)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_deleted(relation)
$function$;

-- The same of the catalogs that definitions other than those of relations write.
CREATE FUNCTION turbo.fn_count_definitions() RETURNS int8
LANGUAGE sql VOLATILE
AS $function$
    SELECT pg_catalog.pg_stat_get_xact_tuples_inserted(1255)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(1255)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_deleted(1255)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_inserted(2608)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_deleted(2608)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(2620)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(2618)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(1249)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(2615)
$function$;

-- What the server's counters say now: tuples that this backend wrote (this transaction's, and earlier
-- ones' that are not flushed yet). Three parts between slashes: pg_class; the system tables that changes of
-- other definitions write (pg_proc, pg_depend; where a change writes nothing else: pg_trigger, pg_rewrite,
-- pg_attribute, pg_namespace); those of the given relations that are
-- not 0, as oid:count. Where pg_class has been written already, the file node and row version of each
-- relation too, as oid@node@version: TRUNCATE, rewrites and renames change those. A counter of a TRUNCATEd
-- relation begins anew: compare, do not subtract.
-- Runs twice for every measured statement: everything is qualified, since setting search_path costs more.
CREATE FUNCTION turbo.fn_counters(relations oid[]) RETURNS text
LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    v_relation pg_catalog.oid;
    v_count pg_catalog.int8;
    v_classes pg_catalog.int8 := turbo.fn_count(1259);
    v_counters pg_catalog.text := pg_catalog.concat(v_classes, '/', turbo.fn_count_definitions(), '/,');
BEGIN
    FOREACH v_relation IN ARRAY relations LOOP
        v_count := turbo.fn_count(v_relation);
        IF v_count OPERATOR(pg_catalog.<>) 0 THEN
            v_counters := v_counters OPERATOR(pg_catalog.||) v_relation::pg_catalog.text OPERATOR(pg_catalog.||) ':'
                OPERATOR(pg_catalog.||) v_count::pg_catalog.text OPERATOR(pg_catalog.||) ',';
        END IF;
    END LOOP;
    IF v_classes OPERATOR(pg_catalog.<>) 0 THEN
        v_counters := v_counters OPERATOR(pg_catalog.||) turbo.fn_nodes(relations);
    END IF;
    RETURN v_counters;
END
$function$;

-- File nodes and row versions of relations, see fn_counters. In order: two plans of two calls must say the same.
CREATE FUNCTION turbo.fn_nodes(relations oid[]) RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off
AS $function$
    SELECT coalesce(string_agg(c.oid::text || '@' || c.relfilenode::text || '@' || c.xmin::text, ',' ORDER BY c.oid) || ',', '')
      FROM pg_class c WHERE c.oid = ANY (relations)
$function$;

-- The tracked relations as the server knows them now. The subtransaction that is rolled back takes the locks of this
-- look with it: the client's transaction would keep them to its end.
CREATE FUNCTION turbo.fn_tracked_relations() RETURNS oid[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_relations oid[];
BEGIN
    BEGIN
        v_relations := ARRAY(SELECT DISTINCT t.relation FROM turbo.fn_tracked() t);
        RAISE SQLSTATE 'TB000';
    EXCEPTION WHEN SQLSTATE 'TB000' THEN
        RETURN v_relations;
    END;
END
$function$;

-- Before a measured statement: remembers the counters until the end of the transaction. relations: those
-- that the statement may write, NULL where only the server can tell: then they are remembered too.
CREATE FUNCTION turbo.fn_measure_begin(relations oid[]) RETURNS int
LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    v_tracked pg_catalog.oid[];
    -- Assigned to, since PERFORM is a query of its own.
    v_set pg_catalog.text;
BEGIN
    IF relations IS NULL THEN
        v_tracked := turbo.fn_tracked_relations();
        v_set := pg_catalog.set_config('turnstile.measured',
            turbo.fn_counters(v_tracked) OPERATOR(pg_catalog.||) '/'
                OPERATOR(pg_catalog.||) pg_catalog.array_to_string(v_tracked, ','), true);
    ELSE
        v_set := pg_catalog.set_config('turnstile.measured', turbo.fn_counters(relations), true);
    END IF;
    RETURN 0;
END
$function$;

-- Whether a row version was written by the current transaction (or one of its subtransactions).
CREATE FUNCTION turbo.fn_is_own(version xid) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_top bigint := pg_current_xact_id()::text::bigint;
    -- Ids of subtransactions are younger than that of their transaction, modulo 2^32.
    v_ahead bigint := (version::text::bigint - (v_top & 4294967295) + 4294967296) & 4294967295;
BEGIN
    RETURN v_ahead < 2147483648 AND pg_xact_status((v_top + v_ahead)::text::xid8) = 'in progress';
END
$function$;

-- Has the counters of this session begin anew at 0 when its transaction ends, with or without success: the server adds
-- them to the shared ones then, which it else does at most once a second. Where it can be told to (PostgreSQL 15) the
-- result is ' f', else ''.
CREATE FUNCTION turbo.fn_flush() RETURNS text
LANGUAGE sql VOLATILE
AS $function$
    SELECT ''::pg_catalog.text
$function$;
DO $install$
BEGIN
    IF to_regprocedure('pg_catalog.pg_stat_force_next_flush()') IS NOT NULL THEN
        CREATE OR REPLACE FUNCTION turbo.fn_flush() RETURNS text
        LANGUAGE sql VOLATILE
        AS $function$
            SELECT pg_catalog.pg_stat_force_next_flush()::pg_catalog.text OPERATOR(pg_catalog.||) ' f'
        $function$;
    END IF;
END
$install$;

-- After a measured statement: bumps the domains whose relations changed since fn_measure_begin, which got the
-- same relations; with before: since the counters were these. domains: theirs, in the same order ('{}': look them up). scope says what else the
-- statement may write: 'these' nothing, 'parts' new parts of them, 'every' any tracked relation, also one that
-- another session has just made. Where it cannot know (track_counts is off, the transaction ended in between, a
-- relation that may have changed is gone) it bumps every domain. deferred: relations with deferrable triggers
-- that may write; triggers: the deferrable ones that are known, where others may have been made since. portion:
-- 'whole', or 'first' and 'next' where a portal runs a few rows at a time: one statement bumps a domain once. plain: the
-- domains are given and known to readers; no bump of them cascades or has a tenant, nothing is deferred, all of the
-- statement has run: then, where no definition changed and no relation is new, the log is written right here, with the
-- caller's rights, as in fn_bump_one: a third of the server's time. Returns the number of log rows, negative where it could not know; behind it an l
-- where the statement made the transaction read-only, so that the bumps must come later, a c when definitions
-- changed, and an f where the counters begin anew with the next transaction.
CREATE FUNCTION turbo.fn_measure_end(
    relations oid[], domains text[], scope text, settings text[], deferred oid[], summary text,
    portion text DEFAULT 'whole', triggers oid[] DEFAULT NULL, plain boolean DEFAULT false, before text DEFAULT NULL)
    RETURNS text
LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    v_before pg_catalog.text := coalesce(before, pg_catalog.current_setting('turnstile.measured', true));
    v_after pg_catalog.text;
    v_known pg_catalog.oid[];
    v_deferred pg_catalog.oid[];
    v_rows pg_catalog.int8 := 1;
    v_flush pg_catalog.text := turbo.fn_flush();
BEGIN
    IF v_before OPERATOR(pg_catalog.<>) '' AND pg_catalog.pg_current_xact_id_if_assigned() IS NULL THEN
        RETURN '0' OPERATOR(pg_catalog.||) v_flush;
    END IF;
    IF plain AND pg_catalog.starts_with(v_before, '0/0/')
       AND pg_catalog.current_setting('track_counts') OPERATOR(pg_catalog.=) 'on'
       AND pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'off' THEN
        v_known := relations;
        IF scope OPERATOR(pg_catalog.<>) 'these' THEN
            v_known := turbo.fn_with_new(relations, scope);
        END IF;
        v_after := turbo.fn_counters(v_known);
        IF v_after OPERATOR(pg_catalog.=) v_before THEN
            RETURN '0' OPERATOR(pg_catalog.||) v_flush;
        END IF;
        IF pg_catalog.starts_with(v_after, '0/0/')
           AND pg_catalog.cardinality(v_known) OPERATOR(pg_catalog.=) pg_catalog.cardinality(relations) THEN
            IF pg_catalog.cardinality(relations) OPERATOR(pg_catalog.=) 1 THEN
                INSERT INTO turbo.tb_bump (domain, bumps, bumped_by, summary)
                VALUES (domains[1], 1, turbo.fn_by(), fn_measure_end.summary);
            ELSE
                INSERT INTO turbo.tb_bump (domain, bumps, bumped_by, summary)
                SELECT DISTINCT u.domain, 1, turbo.fn_by(), fn_measure_end.summary
                  FROM ROWS FROM (pg_catalog.unnest(relations), pg_catalog.unnest(domains)) AS u (relation, domain)
                 WHERE pg_catalog.split_part(pg_catalog.split_part(v_before, pg_catalog.concat(',', u.relation, ':'), 2), ',', 1)
                       OPERATOR(pg_catalog.<>)
                       pg_catalog.split_part(pg_catalog.split_part(v_after, pg_catalog.concat(',', u.relation, ':'), 2), ',', 1);
                GET DIAGNOSTICS v_rows := ROW_COUNT;
            END IF;
            RETURN v_rows::pg_catalog.text OPERATOR(pg_catalog.||) v_flush;
        END IF;
    END IF;
    v_known := relations;
    v_deferred := deferred;
    IF triggers IS NOT NULL THEN
        v_deferred := v_deferred OPERATOR(pg_catalog.||) turbo.fn_deferred(triggers);
    END IF;
    -- A deferred trigger fires when it is too late to measure.
    IF v_before OPERATOR(pg_catalog.<>) '' AND pg_catalog.current_setting('track_counts') OPERATOR(pg_catalog.=) 'on'
       AND (v_deferred OPERATOR(pg_catalog.=) '{}'
            OR pg_catalog.strpos(turbo.fn_counters(v_deferred), ':') OPERATOR(pg_catalog.=) 0) THEN
        IF v_known IS NULL THEN
            v_known := pg_catalog.string_to_array(pg_catalog.split_part(v_before, '/', 4), ',')::pg_catalog.oid[];
            v_before := pg_catalog.regexp_replace(v_before, '/[^/]*$', '');
        END IF;
        v_after := turbo.fn_counters(
            CASE WHEN scope OPERATOR(pg_catalog.=) 'these' THEN v_known ELSE turbo.fn_with_new(v_known, scope) END);
        IF v_after OPERATOR(pg_catalog.=) v_before THEN
            RETURN '0' OPERATOR(pg_catalog.||) v_flush;
        END IF;
    END IF;
    RETURN turbo.fn_moved(v_before, v_after, v_known, domains, settings, summary, portion) OPERATOR(pg_catalog.||) v_flush;
END
$function$;

-- Whether the counters of relations tell what was written, where all began at 0: the server counts, bumps can be written, and
-- no definition has changed. Costs no call, as fn_count.
CREATE FUNCTION turbo.fn_counts_suffice() RETURNS boolean
LANGUAGE sql VOLATILE
AS $function$
    SELECT pg_catalog.current_setting('track_counts') OPERATOR(pg_catalog.=) 'on'
           AND pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'off'
           AND turbo.fn_count(1259) OPERATOR(pg_catalog.=) 0 AND turbo.fn_count_definitions() OPERATOR(pg_catalog.=) 0
$function$;

-- The same where fn_measure_end would be told plain, and the counters of relations were 0 when the transaction began:
-- they began anew with it (fn_flush), and nothing that it has done could move them. parts: new parts of them may have been
-- written. A third of the server's time, since nothing has to be remembered before the statement.
CREATE FUNCTION turbo.fn_measured(relations oid[], summary text, domains text[], parts boolean) RETURNS text
LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    v_moved pg_catalog.text[] := '{}';
BEGIN
    IF pg_catalog.pg_current_xact_id_if_assigned() IS NULL THEN
        RETURN '0' OPERATOR(pg_catalog.||) turbo.fn_flush();
    END IF;
    IF NOT turbo.fn_counts_suffice()
       OR (parts AND pg_catalog.cardinality(turbo.fn_with_new(relations, 'parts'))
                     OPERATOR(pg_catalog.<>) pg_catalog.cardinality(relations)) THEN
        RETURN turbo.fn_measure_end(relations, domains, CASE WHEN parts THEN 'parts' ELSE 'these' END, '{}', '{}', summary,
                                    before => '0/0/,');
    END IF;
    FOR i IN 1 .. pg_catalog.cardinality(relations) LOOP
        IF turbo.fn_count(relations[i]) OPERATOR(pg_catalog.<>) 0 AND domains[i] OPERATOR(pg_catalog.<>) ALL (v_moved) THEN
            v_moved := v_moved OPERATOR(pg_catalog.||) domains[i];
            INSERT INTO turbo.tb_bump (domain, bumps, bumped_by, summary)
            VALUES (domains[i], 1, turbo.fn_by(), fn_measured.summary);
        END IF;
    END LOOP;
    RETURN pg_catalog.cardinality(v_moved)::pg_catalog.text OPERATOR(pg_catalog.||) turbo.fn_flush();
END
$function$;

-- The same where the statement may have written any tracked relation: these, or one that another session has just made or
-- renamed. So the server says the domains. relations are in order. What is looked up is looked up one by one: of arrays the planner believes that each
-- time another plan is better.
CREATE FUNCTION turbo.fn_measured_every(relations oid[], summary text) RETURNS text
LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    v_relation pg_catalog.oid;
    v_domain pg_catalog.text := '';
    v_domains pg_catalog.text[] := '{}';
BEGIN
    IF pg_catalog.pg_current_xact_id_if_assigned() IS NULL THEN
        RETURN '0' OPERATOR(pg_catalog.||) turbo.fn_flush();
    END IF;
    -- Nothing but tables that are called tv_ and are no partitions, all of them known.
    IF turbo.fn_counts_suffice()
       AND pg_catalog.pg_relation_size('turbo.tb_domain_table') OPERATOR(pg_catalog.=) 0
       AND ARRAY(SELECT c.oid FROM pg_catalog.pg_class c
                  WHERE c.relname OPERATOR(pg_catalog.>) 'tv_' AND c.relname OPERATOR(pg_catalog.<) 'tv`'
                    AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,m,f}') AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
                  ORDER BY c.oid USING OPERATOR(pg_catalog.<)) OPERATOR(pg_catalog.=) relations
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) ANY (relations)) THEN
        FOREACH v_relation IN ARRAY relations LOOP
            IF turbo.fn_count(v_relation) OPERATOR(pg_catalog.<>) 0 THEN
                v_domain := (SELECT d.domain FROM pg_catalog.pg_class c
                               JOIN turbo.tb_domain d ON d.domain OPERATOR(pg_catalog.=) pg_catalog.substr(c.relname::pg_catalog.text, 4)
                              WHERE c.oid OPERATOR(pg_catalog.=) v_relation
                                AND c.relname OPERATOR(pg_catalog.>) 'tv_' AND c.relname OPERATOR(pg_catalog.<) 'tv`');
                -- Called otherwise by now, or readers do not know the domain yet.
                EXIT WHEN v_domain IS NULL;
                IF v_domain OPERATOR(pg_catalog.<>) ALL (v_domains) THEN
                    v_domains := v_domains OPERATOR(pg_catalog.||) v_domain;
                END IF;
            END IF;
        END LOOP;
        IF v_domain IS NOT NULL THEN
            FOREACH v_domain IN ARRAY v_domains LOOP
                INSERT INTO turbo.tb_bump (domain, bumps, bumped_by, summary)
                VALUES (v_domain, 1, turbo.fn_by(), fn_measured_every.summary);
            END LOOP;
            RETURN pg_catalog.cardinality(v_domains)::pg_catalog.text OPERATOR(pg_catalog.||) turbo.fn_flush();
        END IF;
    END IF;
    RETURN turbo.fn_measure_end(relations, '{}', 'every', '{}', '{}', summary, before => '0/0/,');
END
$function$;

-- Relations with triggers that may fire at COMMIT, apart from these.
CREATE FUNCTION turbo.fn_deferred(triggers oid[]) RETURNS oid[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT coalesce(array_agg(DISTINCT t.tgrelid), '{}') FROM pg_trigger t
     WHERE t.tgdeferrable AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.oid <> ALL (triggers)
$function$;

-- The second half of fn_measure_end: what was counted before and after differs. after is NULL where nothing
-- could be counted.
CREATE FUNCTION turbo.fn_moved(
    before text, after text, relations oid[], domains text[], settings text[], summary text, portion text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_moved record;
    v_pairs int;
    v_rows int;
BEGIN
    v_moved := turbo.fn_moved_domains(before, after, relations, domains);
    IF portion <> 'whole' THEN
        v_moved.moved := turbo.fn_once(v_moved.moved, portion);
    END IF;
    v_pairs := cardinality(v_moved.moved);
    IF v_pairs = 0 THEN
        RETURN '0' || v_moved.definitions;
    END IF;
    IF current_setting('transaction_read_only')::boolean THEN
        RETURN '0 l' || v_moved.definitions;
    END IF;
    v_rows := turbo.fn_bump(array_fill(0, ARRAY[v_pairs]), array_fill(1::bigint, ARRAY[v_pairs]),
                            array_fill(CASE WHEN settings = '{}' THEN '' ELSE '@' END, ARRAY[v_pairs]),
                            v_moved.moved, settings, 'always', summary);
    RETURN CASE WHEN v_moved.unknown THEN -v_rows ELSE v_rows END || v_moved.definitions;
END
$function$;

-- Those domains that the portions of the same portal before this one did not bump.
CREATE FUNCTION turbo.fn_once(domains text[], portion text) RETURNS text[]
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_done text[] := '{}';
    v_new text[];
BEGIN
    IF portion = 'next' THEN
        v_done := coalesce(nullif(current_setting('turnstile.portal', true), ''), '{}')::text[];
    END IF;
    v_new := ARRAY(SELECT d FROM unnest(domains) d WHERE d <> ALL (v_done));
    PERFORM set_config('turnstile.portal', (v_done || v_new)::text, true);
    RETURN v_new;
END
$function$;

-- Domains that moved between two states of the counters; unknown: all there are, because they cannot tell.
CREATE FUNCTION turbo.fn_moved_domains(
    before text, after text, relations oid[], domains text[],
    OUT moved text[], OUT unknown boolean, OUT definitions text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_counter text;
    v_changed oid[] := '{}';
    v_at int;
BEGIN
    moved := '{}';
    unknown := after IS NULL;
    definitions := '';
    IF NOT unknown THEN
        -- What is said now and was not said before; and counters that began anew at 0, which are said no more.
        FOREACH v_counter IN ARRAY string_to_array(split_part(after, '/', 3), ',')
                || CASE WHEN strpos(before, ':') = 0 THEN '{}' ELSE string_to_array(split_part(before, '/', 3), ',') END LOOP
            v_at := strpos(v_counter, ':');
            IF v_at > 0 AND (strpos(before, ',' || v_counter || ',') = 0
                             OR strpos(after, ',' || left(v_counter, v_at)) = 0) THEN
                v_changed := v_changed || left(v_counter, v_at - 1)::oid;
            END IF;
        END LOOP;
        IF split_part(after, '/', 1) <> split_part(before, '/', 1) OR split_part(after, '/', 2) <> split_part(before, '/', 2) THEN
            v_changed := v_changed || turbo.fn_rewritten(before, relations);
            unknown := pg_stat_get_xact_tuples_deleted(2611) > 0 OR EXISTS (SELECT FROM unnest(relations) r WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r))
                OR EXISTS (SELECT FROM pg_class c WHERE c.oid = ANY (v_changed) AND c.relname NOT LIKE E'tv\\_%'
                              AND NOT EXISTS (SELECT FROM turbo.fn_tracked() t WHERE t.relation = c.oid));
            definitions := turbo.fn_definitions_changed(split_part(after, '/', 2) <> split_part(before, '/', 2));
        END IF;
    END IF;
    IF unknown THEN
        moved := ARRAY(SELECT t.domain FROM turbo.fn_tracked() t UNION SELECT d.domain FROM turbo.tb_domain d);
    ELSIF v_changed <> '{}' AND domains <> '{}' AND v_changed <@ relations THEN
        FOR i IN 1 .. cardinality(relations) LOOP
            IF relations[i] = ANY (v_changed) AND domains[i] <> ALL (moved) THEN
                moved := moved || domains[i];
            END IF;
        END LOOP;
    ELSE
        moved := turbo.fn_domains_of(v_changed);
    END IF;
END
$function$;

-- These relations, with parts and tracked tables that another session has made since they were listed.
CREATE FUNCTION turbo.fn_with_new(relations oid[], scope text) RETURNS oid[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $function$
BEGIN
    relations := relations || ARRAY(
        SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = ANY (relations) AND i.inhrelid <> ALL (relations));
    IF scope <> 'every' THEN
        RETURN relations;
    END IF;
    relations := relations || ARRAY(
        SELECT c.oid FROM pg_class c
         WHERE c.relname > 'tv_' AND c.relname < 'tv`' AND c.oid <> ALL (relations)
           AND c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't');
    -- As in fn_tracked.
    IF pg_relation_size('turbo.tb_domain_table') = 0 THEN
        RETURN relations;
    END IF;
    RETURN relations || ARRAY(
        SELECT c.oid FROM turbo.tb_domain_table o JOIN pg_class c ON c.relname = o.table_name
         WHERE c.oid <> ALL (relations) AND c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't');
END
$function$;

-- ' c' where definitions changed, '' where all that was done is to make temporary tables that hide nothing, or to
-- TRUNCATE.
-- other: counters besides those of pg_class moved.
CREATE FUNCTION turbo.fn_definitions_changed(other boolean) RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT CASE WHEN count(*) FILTER (WHERE NOT o.temporary AND o.changed) > 0
                     OR (other AND count(*) FILTER (WHERE o.temporary) = 0)
                     OR pg_stat_get_xact_tuples_inserted(1255) + pg_stat_get_xact_tuples_updated(1255) + pg_stat_get_xact_tuples_deleted(1255)
                      + pg_stat_get_xact_tuples_inserted(2620) + pg_stat_get_xact_tuples_updated(2620)
                      + pg_stat_get_xact_tuples_updated(2618) + pg_stat_get_xact_tuples_deleted(1259)
                      + pg_stat_get_xact_tuples_updated(1249) + pg_stat_get_xact_tuples_updated(2615) > 0
                THEN ' c' ELSE '' END
      FROM (SELECT c.relpersistence = 't' AND c.relkind <> 'v'
                   AND NOT EXISTS (SELECT FROM pg_class h WHERE h.relname = c.relname AND h.relpersistence <> 't') AS temporary,
                   EXISTS (SELECT FROM pg_attribute a
                            WHERE a.attrelid = c.oid AND age(a.xmin) <= 0 AND turbo.fn_is_own(a.xmin))
                   OR EXISTS (SELECT FROM pg_type t
                               WHERE t.oid = c.reltype AND age(t.xmin) <= 0 AND turbo.fn_is_own(t.xmin)) AS changed
              FROM pg_class c
             WHERE age(c.xmin) <= 0 AND turbo.fn_is_own(c.xmin)) o
$function$;

-- Relations whose pg_class row was written since fn_measure_begin, which looked at these: TRUNCATE, rewrites, a
-- table that is new or goes by a new name; and those whose columns or parts this transaction changed.
CREATE FUNCTION turbo.fn_rewritten(before text, relations oid[]) RETURNS oid[]
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT coalesce(array_agg(c.oid), '{}') FROM pg_class c
     WHERE c.oid = ANY (relations || turbo.fn_tracked_relations())
       -- CASE: only of our own new relations may the size be asked for, since that locks them.
       AND CASE WHEN c.oid = ANY (relations)
                     AND (EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND age(a.xmin) <= 0 AND turbo.fn_is_own(a.xmin))
                          OR EXISTS (SELECT FROM pg_inherits i
                                      WHERE c.oid IN (i.inhparent, i.inhrelid) AND age(i.xmin) <= 0 AND turbo.fn_is_own(i.xmin))) THEN true
                WHEN NOT turbo.fn_is_own(c.xmin) THEN false
                WHEN split_part(before, '/', 1) <> '0'
                     AND strpos(before, ',' || c.oid::text || '@' || c.relfilenode::text || '@' || c.xmin::text || ',') > 0 THEN false
                -- One that is new has changed if it has rows, or had before it came by its name.
                WHEN c.oid = ANY (relations) OR c.relkind = 'p' THEN true
                ELSE pg_relation_size(c.oid) > 0 END
$function$;

-- Domains that a change of these relations bumps.
CREATE FUNCTION turbo.fn_domains_of(relations oid[]) RETURNS text[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off
AS $function$
BEGIN
    IF relations = '{}' THEN
        RETURN '{}';
    END IF;
    IF pg_relation_size('turbo.tb_domain_table') > 0 OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = ANY (relations)) THEN
        RETURN ARRAY(SELECT DISTINCT t.domain FROM turbo.fn_tracked() t WHERE t.relation = ANY (relations));
    END IF;
    RETURN ARRAY(SELECT DISTINCT substr(c.relname, 4) FROM pg_class c
                  WHERE c.oid = ANY (relations) AND c.relname > 'tv_' AND c.relname < 'tv`');
END
$function$;

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

-- After a statement that text and catalog were sure of, measured since fn_measure_begin: notes where the
-- server disagrees, and bumps what the analysis missed. sure: the expected domains must have moved.
-- Returns d and 1 where it disagrees, else 0.
CREATE FUNCTION turbo.fn_audit_end(relations oid[], expected text[], sure boolean, fingerprint text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_before text := coalesce(current_setting('turnstile.measured', true), '');
    v_after text;
    v_moved record;
    v_measured text[] := '{}';
    v_missed text[];
    v_rows int;
BEGIN
    IF v_before = '' OR NOT current_setting('track_counts')::boolean OR current_setting('transaction_read_only')::boolean THEN
        RETURN '0';
    END IF;
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        v_after := turbo.fn_counters(turbo.fn_with_new(relations, 'every'));
        IF v_after <> v_before THEN
            v_moved := turbo.fn_moved_domains(v_before, v_after, relations, '{}');
            v_measured := v_moved.moved;
        END IF;
    END IF;
    v_missed := ARRAY(SELECT m FROM unnest(v_measured) m EXCEPT SELECT e FROM unnest(expected) e);
    IF v_missed = '{}' AND NOT (sure AND NOT expected <@ v_measured) THEN
        RETURN '0';
    END IF;
    INSERT INTO turbo.tb_audit (kind, fingerprint, expected, measured)
    VALUES ('statement', fn_audit_end.fingerprint, fn_audit_end.expected, v_measured);
    IF v_missed <> '{}' THEN
        v_rows := turbo.fn_bump(array_fill(0, ARRAY[cardinality(v_missed)]), array_fill(1::bigint, ARRAY[cardinality(v_missed)]),
                                array_fill(''::text, ARRAY[cardinality(v_missed)]), v_missed, '{}', 'always', 'turnstile audit');
    END IF;
    RETURN 'd1';
END
$function$;

-- What fn_audit_around saw last: rows changed (of all time, as the server counts), bumps, and bumps one look
-- before.
CREATE TABLE turbo.tb_audit_state (
    domain        text PRIMARY KEY,
    tuples        bigint NOT NULL,
    bumps         bigint NOT NULL,
    bumps_before  bigint NOT NULL
);

-- Domains whose rows changed since the last look without a bump since the look before: the server's counters
-- come up to ten seconds late, bumps at once. Rows of transactions that were rolled back count too. bump: bump
-- them. One at a time; the others see nothing.
CREATE FUNCTION turbo.fn_audit_around(bump boolean, OUT domain text, OUT tuples bigint) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_found record;
    v_rows int;
BEGIN
    IF NOT pg_try_advisory_xact_lock(5282, hashtext('turbo.fn_audit_around')) THEN
        RETURN;
    END IF;
    FOR v_found IN
        WITH counted AS (
            SELECT t.domain, sum(pg_stat_get_tuples_inserted(t.relation) + pg_stat_get_tuples_updated(t.relation)
                                 + pg_stat_get_tuples_deleted(t.relation))::bigint AS tuples
              FROM turbo.fn_tracked() t GROUP BY t.domain
        ), bumped AS (
            SELECT x.domain, sum(x.bumps)::bigint AS bumps
              FROM (SELECT b.domain, b.version AS bumps FROM turbo.tb_domain_base b
                    UNION ALL SELECT l.domain, l.bumps FROM turbo.tb_bump l) x GROUP BY x.domain
        ), now AS (
            SELECT c.domain, c.tuples, coalesce(b.bumps, 0) AS bumps FROM counted c LEFT JOIN bumped b USING (domain)
        ), kept AS (
            INSERT INTO turbo.tb_audit_state (domain, tuples, bumps, bumps_before)
            SELECT n.domain, n.tuples, n.bumps, n.bumps FROM now n
            ON CONFLICT ON CONSTRAINT tb_audit_state_pkey DO UPDATE
               SET tuples = excluded.tuples, bumps = excluded.bumps, bumps_before = tb_audit_state.bumps
        )
        SELECT n.domain, n.tuples - s.tuples AS tuples
          FROM now n JOIN turbo.tb_audit_state s ON s.domain = n.domain
         WHERE n.tuples > s.tuples AND n.bumps = s.bumps_before
    LOOP
        INSERT INTO turbo.tb_audit (kind, expected, measured, tuples)
        VALUES ('around', '{}', ARRAY[v_found.domain], v_found.tuples);
        IF bump THEN
            v_rows := turbo.fn_bump('{0}', '{1}', '{""}', ARRAY[v_found.domain], '{}', 'always', 'written around turnstile');
        END IF;
        domain := v_found.domain;
        tuples := v_found.tuples;
        RETURN NEXT;
    END LOOP;
END
$function$;

-- Bumps every domain for all tenants: for the few statements around which nothing can be measured.
CREATE FUNCTION turbo.fn_bump_all(statements bigint, summary text) RETURNS int
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT turbo.fn_bump(array_agg(0), array_agg(statements), array_agg(''::text), array_agg(d.domain),
                         '{}', 'always', summary)
      FROM (SELECT DISTINCT t.domain FROM turbo.fn_tracked() t) d
     WHERE NOT current_setting('transaction_read_only')::boolean
    HAVING count(*) > 0
$function$;

-- Folds the visible log into the base; one folder at a time. Returns the number of log rows folded,
-- -1 when another folder is at work. The plans are pinned: one that was made when the base was small may read all of it,
-- with all that an old snapshot keeps there.
CREATE FUNCTION turbo.fn_fold(max_rows int, audit_rows int DEFAULT 10000) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $function$
DECLARE
    v_folds bigint;
    v_former bigint;
    v_epoch bigint;
    v_rows int;
BEGIN
    -- Released at commit, hence the next folder's snapshot sees what this one did.
    IF NOT pg_try_advisory_xact_lock(5282, hashtext('turbo.fn_fold')) THEN
        RETURN -1;
    END IF;
    WITH new_keys AS (
        DELETE FROM turbo.tb_key_new RETURNING tenant_id, domain
    ), new_tenants AS (
        INSERT INTO turbo.tb_tenant (tenant_id)
        SELECT DISTINCT k.tenant_id FROM new_keys k WHERE k.tenant_id IS NOT NULL
        ON CONFLICT DO NOTHING
    )
    INSERT INTO turbo.tb_domain (domain) SELECT DISTINCT k.domain FROM new_keys k ON CONFLICT DO NOTHING;

    -- The newest findings of audits are kept.
    DELETE FROM turbo.tb_audit a
     WHERE a.found_at < (SELECT k.found_at FROM turbo.tb_audit k ORDER BY k.found_at DESC OFFSET audit_rows - 1 LIMIT 1);

    SELECT f.folds + 1, f.epoch INTO v_folds, v_former FROM turbo.tb_fold_state f ORDER BY f.epoch DESC LIMIT 1;
    v_epoch := v_folds / 32;

    -- One statement, one snapshot: what is deleted is what is added. The range of ctid is the whole table, read in order.
    WITH gone AS (
        DELETE FROM turbo.tb_bump
         WHERE ctid = ANY (ARRAY(SELECT b.ctid FROM turbo.tb_bump b WHERE b.ctid >= '(0,0)' LIMIT max_rows))
        RETURNING tenant_id, domain, bumps, bumped_at, bumped_by, summary
    ), sums AS (
        SELECT g.tenant_id, g.domain, sum(greatest(1, least(g.bumps, 1000000)))::bigint AS bumps, max(g.bumped_at) AS bumped_at,
               (array_agg(g.bumped_by ORDER BY g.bumped_at DESC))[1] AS bumped_by,
               (array_agg(g.summary ORDER BY g.bumped_at DESC))[1] AS summary,
               count(*) AS log_rows
          FROM gone g GROUP BY g.tenant_id, g.domain
    ), found AS (
        SELECT s.*, CASE WHEN s.tenant_id IS NULL
               THEN (SELECT b.ctid FROM turbo.tb_domain_base b
                      WHERE b.domain = s.domain AND b.tenant_id IS NULL ORDER BY b.epoch DESC LIMIT 1)
               ELSE (SELECT b.ctid FROM turbo.tb_domain_base b
                      WHERE b.domain = s.domain AND b.tenant_id = s.tenant_id ORDER BY b.epoch DESC LIMIT 1)
               END AS base
          FROM sums s
    ), updated AS (
        UPDATE turbo.tb_domain_base b
           SET epoch = v_epoch, version = b.version + s.bumps, last_modified = s.bumped_at,
               modified_by = s.bumped_by, change_summary = s.summary
          FROM found s WHERE b.ctid = s.base
    ), inserted AS (
        INSERT INTO turbo.tb_domain_base
               (tenant_id, domain, epoch, version, last_modified, modified_by, change_summary)
        SELECT s.tenant_id, s.domain, v_epoch, s.bumps, s.bumped_at, s.bumped_by, s.summary
          FROM found s WHERE s.base IS NULL
    ), new_domains AS (
        -- Pairs that readers could see before, and that somebody has removed since.
        INSERT INTO turbo.tb_domain (domain) SELECT DISTINCT s.domain FROM sums s
         WHERE NOT EXISTS (SELECT FROM turbo.tb_domain d WHERE d.domain = s.domain) ON CONFLICT DO NOTHING
    ), new_tenants AS (
        INSERT INTO turbo.tb_tenant (tenant_id) SELECT DISTINCT s.tenant_id FROM sums s
         WHERE s.tenant_id IS NOT NULL
           AND NOT EXISTS (SELECT FROM turbo.tb_tenant t WHERE t.tenant_id = s.tenant_id) ON CONFLICT DO NOTHING
    ), total AS (
        SELECT coalesce(sum(s.log_rows), 0)::int AS log_rows FROM sums s
    ), open AS (
        SELECT t.log_rows > 0 AS some, t.log_rows < max_rows AS complete,
               ARRAY(SELECT x FROM pg_snapshot_xip(pg_current_snapshot()) x ORDER BY x LIMIT 16) AS but,
               coalesce((SELECT x FROM pg_snapshot_xip(pg_current_snapshot()) x ORDER BY x OFFSET 16 LIMIT 1),
                        pg_snapshot_xmax(pg_current_snapshot())) AS below
          FROM total t
    ), advanced AS (
        -- What this snapshot sees is gone from the log now, where all visible rows were taken. Left to add are the log rows of
        -- the transactions that it does not see: they had not begun, or not ended. The young ones stand near its
        -- end; each of the few oldest is looked for.
        UPDATE turbo.tb_fold_state f
           SET epoch = v_epoch, folds = v_folds, folded_at = now(),
               folded_below = CASE WHEN o.complete THEN o.below ELSE f.folded_below END,
               folded_but = CASE WHEN o.complete THEN o.but ELSE f.folded_but END
          FROM open o WHERE o.some AND f.epoch = v_former
    )
    SELECT t.log_rows INTO v_rows FROM total t;
    RETURN v_rows;
END
$function$;

-- Application roles need no grants on the tables.
REVOKE ALL ON FUNCTION turbo.fn_fold(int, int), turbo.fn_audit_around(boolean) FROM PUBLIC;
GRANT USAGE ON SCHEMA turbo TO PUBLIC;
-- fn_bump_one; the other columns have defaults that nobody may choose.
GRANT INSERT (tenant_id, domain, bumps, bumped_by, summary) ON turbo.tb_bump TO PUBLIC;
GRANT SELECT ON turbo.tb_domain_version, turbo.tb_domain_cascade, turbo.tb_domain, turbo.tb_tenant TO PUBLIC;

-- Small tables without statistics count as thousands of rows: enough to call the just-in-time compiler
-- for a look at all versions.
ANALYZE turbo.tb_domain, turbo.tb_tenant, turbo.tb_key_new, turbo.tb_domain_base, turbo.tb_fold_state,
        turbo.tb_domain_cascade, turbo.tb_domain_table, turbo.tb_audit, turbo.tb_audit_state;
