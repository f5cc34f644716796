-- What readers read. A version is the base plus the log rows that are not folded yet, for the domain's own key (all tenants),
-- for the tenant's, and for the domain '', which stands for every domain.

-- Which log rows the last fold has left to add: those of transactions from folded_below on, and of folded_but. Where the
-- state came from another cluster, all rows that are there. Written so that the planner takes it for its body: it costs no call.
CREATE OR REPLACE FUNCTION turbo.fn_fold_bounds() RETURNS TABLE (below xid8, but xid8[])
LANGUAGE sql STABLE PARALLEL SAFE
AS $function$
    SELECT CASE WHEN s.xmin OPERATOR(pg_catalog.=) s.written_by THEN s.folded_below ELSE '0' END,
           CASE WHEN s.xmin OPERATOR(pg_catalog.=) s.written_by THEN s.folded_but ELSE '{}' END
      FROM turbo.tb_fold_state s ORDER BY s.epoch USING OPERATOR(pg_catalog.>) LIMIT 1
$function$;

-- The version of a domain for one tenant (NULL: what all tenants share). 0 when never bumped.
-- PL/pgSQL keeps the plan for the session; the settings pin the index plan, which a sequential scan
-- over dead log rows would otherwise replace after an auto-analyze (and keep its price from
-- calling for just-in-time compilation).
CREATE OR REPLACE FUNCTION turbo.fn_domain_version(tenant uuid, domain text) RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $function$
DECLARE
    v_below xid8;
    v_but xid8[];
    v_version bigint;
BEGIN
    SELECT b.below, b.but INTO v_below, v_but FROM turbo.fn_fold_bounds() b;
    SELECT coalesce((SELECT b.version FROM turbo.tb_domain_base b
                      WHERE b.domain = $2 AND b.tenant_id IS NULL ORDER BY b.epoch DESC LIMIT 1), 0)
         + coalesce((SELECT sum(greatest(1, least(l.bumps, 1000000))) FROM turbo.tb_bump l
                      WHERE l.domain = $2 AND l.tenant_id IS NULL AND l.xid >= v_below), 0)
         + coalesce((SELECT b.version FROM turbo.tb_domain_base b
                      WHERE b.domain = '' AND b.tenant_id IS NULL ORDER BY b.epoch DESC LIMIT 1), 0)
         + coalesce((SELECT sum(greatest(1, least(l.bumps, 1000000))) FROM turbo.tb_bump l
                      WHERE l.domain = '' AND l.tenant_id IS NULL AND l.xid >= v_below), 0)
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
                WHERE l.domain = '' AND l.tenant_id IS NULL AND l.xid = o.xid
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
CREATE OR REPLACE FUNCTION turbo.fn_domain_last_bump(
    tenant uuid, domain text,
    OUT last_modified timestamptz, OUT modified_by text, OUT change_summary text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $function$
DECLARE
    v_below xid8;
    v_but xid8[];
BEGIN
    SELECT b.below, b.but INTO v_below, v_but FROM turbo.fn_fold_bounds() b;
    SELECT x.at, x.who, x.what INTO last_modified, modified_by, change_summary
      FROM (VALUES ($2, NULL::uuid), ('', NULL), ($2, $1)) k (domain, tenant)
     CROSS JOIN LATERAL (
           (SELECT b.last_modified AS at, b.modified_by AS who, b.change_summary AS what
              FROM turbo.tb_domain_base b
             WHERE k.tenant IS NULL AND b.domain = k.domain AND b.tenant_id IS NULL ORDER BY b.epoch DESC LIMIT 1)
           UNION ALL
           (SELECT b.last_modified, b.modified_by, b.change_summary
              FROM turbo.tb_domain_base b WHERE b.domain = k.domain AND b.tenant_id = k.tenant ORDER BY b.epoch DESC LIMIT 1)
           UNION ALL
           SELECT l.bumped_at, l.bumped_by, l.summary
             FROM turbo.tb_bump l
            WHERE k.tenant IS NULL AND l.domain = k.domain AND l.tenant_id IS NULL AND l.xid >= v_below
           UNION ALL
           SELECT l.bumped_at, l.bumped_by, l.summary
             FROM turbo.tb_bump l WHERE l.domain = k.domain AND l.tenant_id = k.tenant AND l.xid >= v_below
           UNION ALL
           SELECT c.bumped_at, c.bumped_by, c.summary
             FROM unnest(v_but) o (xid)
            CROSS JOIN LATERAL (
                  (SELECT l.bumped_at, l.bumped_by, l.summary FROM turbo.tb_bump l
                    WHERE k.tenant IS NULL AND l.domain = k.domain AND l.tenant_id IS NULL AND l.xid = o.xid
                    ORDER BY l.bumped_at DESC LIMIT 1)
                  UNION ALL
                  (SELECT l.bumped_at, l.bumped_by, l.summary FROM turbo.tb_bump l
                    WHERE l.domain = k.domain AND l.tenant_id = k.tenant AND l.xid = o.xid
                    ORDER BY l.bumped_at DESC LIMIT 1)) c) x
     ORDER BY x.at DESC NULLS LAST LIMIT 1;
END
$function$;

-- Which life of the database the versions belong to. Within one no version is given twice: a crash, a failover or a restore
-- that may have lost commits which somebody has seen begins another. NULL until Turnstile has noted it: what is
-- read then must not be kept.
CREATE OR REPLACE FUNCTION turbo.fn_incarnation() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_incarnation uuid;
BEGIN
    IF pg_is_in_recovery() THEN
        v_incarnation := (SELECT i.incarnation FROM turbo.tb_incarnation_noted i WHERE i.xmin = i.written_by ORDER BY i.since DESC LIMIT 1);
    ELSE
        v_incarnation := (SELECT i.incarnation FROM turbo.tb_incarnation i WHERE i.xmin = i.written_by LIMIT 1);
    END IF;
    RETURN v_incarnation || '/' || (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
END
$function$;
COMMENT ON FUNCTION turbo.fn_incarnation() IS
    'Compare it together with versions: another one after a crash, failover or restore; NULL: unknown, keep nothing.';

-- A known tenant or domain has a row, with version 0 before its first bump; the rows with tenant_id NULL are what all
-- tenants share (domains of tables without a tenant column).
CREATE OR REPLACE VIEW turbo.tb_domain_version AS
SELECT k.tenant_id,
       k.domain,
       turbo.fn_domain_version(k.tenant_id, k.domain) AS version,
       (turbo.fn_domain_last_bump(k.tenant_id, k.domain)).last_modified AS last_modified,
       (turbo.fn_domain_last_bump(k.tenant_id, k.domain)).modified_by AS modified_by,
       (turbo.fn_domain_last_bump(k.tenant_id, k.domain)).change_summary AS change_summary,
       (SELECT turbo.fn_incarnation()) AS incarnation
  FROM (SELECT t.tenant_id, d.domain FROM turbo.tb_tenant t CROSS JOIN turbo.tb_domain d
        UNION
        SELECT NULL::uuid, d.domain FROM turbo.tb_domain d
        UNION
        SELECT n.tenant_id, n.domain FROM turbo.tb_key_new n) k;
COMMENT ON VIEW turbo.tb_domain_version IS
    'Versions of all known (tenant, domain): folded base plus bump log; consistent in any snapshot.';

-- Who may read what tells of tenants and of who wrote when; 'PUBLIC' is everybody. Called by the schema's owner, and by
-- upgrades, which keep what it has set.
CREATE OR REPLACE FUNCTION turbo.fn_set_readers(readers text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_role text;
BEGIN
    FOR v_role IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
          FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
         WHERE c.oid IN ('turbo.tb_domain_version'::regclass, 'turbo.tb_tenant'::regclass) AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON turbo.tb_domain_version, turbo.tb_tenant FROM %s', v_role);
        EXECUTE format('REVOKE ALL ON FUNCTION turbo.fn_domain_version(uuid, text), turbo.fn_domain_last_bump(uuid, text) FROM %s', v_role);
    END LOOP;
    FOR v_role IN SELECT CASE r.name WHEN 'PUBLIC' THEN r.name ELSE quote_ident(r.name) END FROM unnest(readers) AS r (name) LOOP
        EXECUTE format('GRANT SELECT ON turbo.tb_domain_version, turbo.tb_tenant TO %s', v_role);
        EXECUTE format('GRANT EXECUTE ON FUNCTION turbo.fn_domain_version(uuid, text), turbo.fn_domain_last_bump(uuid, text) TO %s', v_role);
    END LOOP;
END
$function$;
