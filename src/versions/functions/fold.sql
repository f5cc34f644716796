-- Folds the visible log into the base; one folder at a time. Returns the number of log rows folded,
-- -1 when another folder is at work, -2 where it cannot (a hot standby) or must not: another server's folds are replicated
-- into these tables. idle: there may be nothing to do; then nothing is written. The plans are pinned: one that was made when the base was small may read all of it,
-- with all that an old snapshot keeps there.
CREATE OR REPLACE FUNCTION turbo.fn_fold(max_rows int, audit_rows int DEFAULT 10000, idle boolean DEFAULT false) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $function$
DECLARE
    v_folds bigint;
    v_former bigint;
    v_epoch bigint;
    v_rows int;
BEGIN
    IF pg_is_in_recovery()
       OR EXISTS (SELECT FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
                   WHERE r.srrelid IN ('turbo.tb_domain_base'::regclass, 'turbo.tb_fold_state'::regclass) AND s.subenabled) THEN
        RETURN -2;
    END IF;
    -- The range of ctid is the whole table, read in order.
    IF idle AND NOT EXISTS (SELECT FROM turbo.tb_bump b WHERE b.ctid >= '(0,0)') AND NOT EXISTS (SELECT FROM turbo.tb_key_new)
       AND NOT EXISTS (SELECT FROM turbo.tb_audit OFFSET audit_rows)
       AND NOT EXISTS (SELECT FROM turbo.tb_fold_state f WHERE f.xmin <> f.written_by) THEN
        RETURN 0;
    END IF;
    -- A lock of a row, which no other role can take; of the table some statements take one before they ask for rights.
    -- Released at commit, hence the next folder's snapshot sees what this one did.
    SELECT f.folds + 1, f.epoch INTO v_folds, v_former
      FROM turbo.tb_fold_state f ORDER BY f.epoch DESC LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF v_folds IS NULL THEN
        RETURN -1;
    END IF;
    v_epoch := v_folds / 32;
    WITH new_keys AS (
        DELETE FROM turbo.tb_key_new WHERE true RETURNING tenant_id, domain
    ), new_tenants AS (
        INSERT INTO turbo.tb_tenant (tenant_id)
        SELECT DISTINCT k.tenant_id FROM new_keys k WHERE k.tenant_id IS NOT NULL
        ON CONFLICT DO NOTHING
    )
    INSERT INTO turbo.tb_domain (domain) SELECT DISTINCT k.domain FROM new_keys k ON CONFLICT DO NOTHING;

    -- The newest findings of audits are kept.
    DELETE FROM turbo.tb_audit a
     WHERE a.found_at < (SELECT k.found_at FROM turbo.tb_audit k ORDER BY k.found_at DESC OFFSET audit_rows - 1 LIMIT 1);

    -- One statement, one snapshot: what is deleted is what is added.
    WITH gone AS (
        DELETE FROM turbo.tb_bump
         WHERE ctid = ANY (ARRAY(SELECT b.ctid FROM turbo.tb_bump b WHERE b.ctid >= '(0,0)' LIMIT max_rows))
        RETURNING tenant_id, domain, bumps, bumped_at, bumped_by, summary
    ), said AS (
        SELECT g.tenant_id, g.domain, sum(greatest(1, least(g.bumps, 1000000)))::bigint AS bumps, max(g.bumped_at) AS bumped_at,
               (array_agg(g.bumped_by ORDER BY g.bumped_at DESC))[1] AS bumped_by,
               (array_agg(g.summary ORDER BY g.bumped_at DESC))[1] AS summary,
               count(*) AS log_rows
          FROM gone g GROUP BY g.tenant_id, g.domain
    ), known AS (
        -- Any role may insert into the log. A domain that nobody has made known counts as every domain: no version goes back,
        -- and nobody fills the base with names.
        SELECT s.*, s.domain = '' OR EXISTS (SELECT FROM turbo.tb_domain d WHERE d.domain = s.domain)
                    OR EXISTS (SELECT FROM turbo.tb_key_new k WHERE k.domain = s.domain) AS known
          FROM said s
    ), sums AS (
        SELECT CASE WHEN k.known AND k.domain <> '' THEN k.tenant_id END AS tenant_id, CASE WHEN k.known THEN k.domain ELSE '' END AS domain,
               sum(k.bumps)::bigint AS bumps, max(k.bumped_at) AS bumped_at,
               (array_agg(k.bumped_by ORDER BY k.bumped_at DESC))[1] AS bumped_by,
               (array_agg(k.summary ORDER BY k.bumped_at DESC))[1] AS summary,
               sum(k.log_rows) AS log_rows
          FROM known k GROUP BY 1, 2
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
           SET epoch = v_epoch, folds = v_folds, folded_at = now(), written_by = pg_current_xact_id()::xid,
               folded_below = CASE WHEN o.complete THEN o.below WHEN f.xmin = f.written_by THEN f.folded_below ELSE '0' END,
               folded_but = CASE WHEN o.complete THEN o.but WHEN f.xmin = f.written_by THEN f.folded_but ELSE '{}' END
          FROM open o WHERE f.epoch = v_former AND (o.some OR f.xmin <> f.written_by)
    )
    SELECT t.log_rows INTO v_rows FROM total t;
    RETURN v_rows;
END
$function$;

-- Begins another incarnation where the former has ended (see fn_incarnation), and bumps what the server has emptied: unlogged
-- tables. Returns whether it did.
CREATE OR REPLACE FUNCTION turbo.fn_incarnate() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_emptied text[];
BEGIN
    IF pg_is_in_recovery() OR turbo.fn_incarnation() IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM FROM turbo.tb_fold_state FOR UPDATE;
    IF turbo.fn_incarnation() IS NOT NULL THEN
        RETURN false;
    END IF;
    DELETE FROM turbo.tb_incarnation WHERE true;
    DELETE FROM turbo.tb_incarnation_noted WHERE true;
    INSERT INTO turbo.tb_incarnation (incarnation, written_by) VALUES (gen_random_uuid(), pg_current_xact_id()::xid);
    INSERT INTO turbo.tb_incarnation_noted SELECT * FROM turbo.tb_incarnation;
    v_emptied := ARRAY(SELECT DISTINCT t.domain FROM turbo.fn_tracked() t JOIN pg_class c ON c.oid = t.relation
                        WHERE c.relpersistence = 'u');
    IF v_emptied <> '{}' THEN
        PERFORM turbo.fn_bump(array_fill(0, ARRAY[cardinality(v_emptied)]), array_fill(1::bigint, ARRAY[cardinality(v_emptied)]),
                              array_fill(''::text, ARRAY[cardinality(v_emptied)]), v_emptied, '{}', 'always', 'unlogged tables after a crash');
    END IF;
    RETURN true;
END
$function$;
