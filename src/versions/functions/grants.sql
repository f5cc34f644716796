-- Who may do what. Said in full: default privileges of the role that installs may have given, or taken, anything; so may
-- a site's event triggers, as far as row security goes.
GRANT ALL ON ALL TABLES IN SCHEMA turbo TO CURRENT_USER;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA turbo TO CURRENT_USER;
DO $grants$
DECLARE
    v_default record;
    v_table text;
    -- Grants of columns are nobody's default: the schema had its grants, and readers are who its owner has left there.
    v_readers text[] := CASE WHEN EXISTS (
        SELECT FROM pg_catalog.pg_attribute a CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) x
         WHERE a.attrelid OPERATOR(pg_catalog.=) 'turbo.tb_bump'::pg_catalog.regclass AND x.grantee OPERATOR(pg_catalog.=) 0)
      THEN ARRAY(
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(a.grantee) END
          FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
         WHERE c.oid OPERATOR(pg_catalog.=) 'turbo.tb_tenant'::pg_catalog.regclass
           AND a.privilege_type OPERATOR(pg_catalog.=) 'SELECT' AND a.grantee OPERATOR(pg_catalog.<>) c.relowner)
      ELSE '{PUBLIC}' END;
BEGIN
    FOR v_table IN
        SELECT c.relname FROM pg_catalog.pg_class c
         WHERE c.relnamespace OPERATOR(pg_catalog.=) 'turbo'::pg_catalog.regnamespace AND (c.relrowsecurity OR c.relforcerowsecurity)
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE turbo.%I DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', v_table);
    END LOOP;
    FOR v_default IN
        SELECT DISTINCT d.defaclobjtype AS kind, a.grantee
          FROM pg_catalog.pg_default_acl d CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) a
         WHERE d.defaclrole OPERATOR(pg_catalog.=) (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user)
           AND d.defaclnamespace OPERATOR(pg_catalog.=) ANY (ARRAY[0, 'turbo'::pg_catalog.regnamespace]::pg_catalog.oid[])
           AND a.grantee OPERATOR(pg_catalog.<>) d.defaclrole AND d.defaclobjtype OPERATOR(pg_catalog.=) ANY ('{r,f,n}'::"char"[])
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s turbo FROM %s',
            CASE v_default.kind WHEN 'r' THEN 'ALL TABLES IN SCHEMA' WHEN 'f' THEN 'ALL FUNCTIONS IN SCHEMA' ELSE 'SCHEMA' END,
            CASE v_default.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(v_default.grantee)) END);
    END LOOP;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA turbo FROM PUBLIC;
    REVOKE ALL ON ALL TABLES IN SCHEMA turbo FROM PUBLIC;
    PERFORM turbo.fn_set_readers(v_readers);
END
$grants$;
GRANT USAGE ON SCHEMA turbo TO PUBLIC;
-- Names of domains and cascades are read by what runs in a client's transaction, and tell of nobody.
GRANT SELECT ON turbo.tb_domain_cascade, turbo.tb_domain TO PUBLIC;
GRANT EXECUTE ON FUNCTION turbo.fn_incarnation() TO PUBLIC;
-- What runs in a client's transaction. The other columns of the log have defaults that nobody may choose.
GRANT INSERT (tenant_id, domain, bumps) ON turbo.tb_bump TO PUBLIC;
GRANT EXECUTE ON FUNCTION
    turbo.fn_by(),
    turbo.fn_bump(int[], bigint[], text[], text[], text[], text, text),
    turbo.fn_bump_one(uuid, text, bigint, boolean, text),
    turbo.fn_bump_all(bigint, text),
    turbo.fn_bump_if_moved(int[], bigint[], text[], text[], text[], oid[]),
    turbo.fn_tracked_relations(),
    turbo.fn_with_new(oid[], text),
    turbo.fn_deferred(oid[]),
    turbo.fn_count(oid),
    turbo.fn_count_definitions(),
    turbo.fn_count_roles(),
    turbo.fn_counters(oid[]),
    turbo.fn_counts_suffice(),
    turbo.fn_nodes(oid[]),
    turbo.fn_flush(),
    turbo.fn_proof(text),
    turbo.fn_portal(boolean),
    turbo.fn_measure_begin(oid[], boolean),
    turbo.fn_measure_end(oid[], text[], text, text[], oid[], text, oid[], boolean, text),
    turbo.fn_measured(oid[], text[], boolean),
    turbo.fn_measured_every(oid[]),
    turbo.fn_bump_changed(text, text, oid[], text[], text[], text),
    turbo.fn_audit_end(oid[], text[], boolean, text)
    TO PUBLIC;

-- Small tables without statistics count as thousands of rows: enough to call the just-in-time compiler
-- for a look at all versions.
ANALYZE turbo.tb_domain, turbo.tb_tenant, turbo.tb_key_new, turbo.tb_domain_base, turbo.tb_fold_state,
        turbo.tb_domain_cascade, turbo.tb_domain_table, turbo.tb_audit, turbo.tb_audit_state;
