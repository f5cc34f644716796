-- A tenant as text: NULL where it is not a uuid (its writes then count for all tenants).
CREATE OR REPLACE FUNCTION turbo.fn_tenant(tenant text) RETURNS uuid
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
CREATE OR REPLACE FUNCTION turbo.fn_session_tenant(settings text[]) RETURNS uuid
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
CREATE OR REPLACE FUNCTION turbo.fn_by() RETURNS text
LANGUAGE sql VOLATILE
AS $function$
    SELECT coalesce(pg_catalog.left(nullif(pg_catalog.current_setting('app.user_id', true), ''), 200), session_user)
$function$;
-- Who inserts into the log says neither who bumped nor why.
ALTER TABLE turbo.tb_bump ALTER COLUMN bumped_by SET DEFAULT turbo.fn_by(), ALTER COLUMN summary SET DEFAULT 'turnstile';

-- Whether readers may be shown a domain: a relation is tracked that belongs to it, or a cascade leads to it.
CREATE OR REPLACE FUNCTION turbo.fn_is_domain(domain text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    RETURN EXISTS (SELECT FROM pg_class c
                    WHERE c.relname = 'tv_' || $1 AND c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't')
           OR EXISTS (SELECT FROM turbo.tb_domain_cascade c WHERE c.target_domain = $1)
           OR EXISTS (SELECT FROM turbo.fn_tracked() t WHERE t.domain = $1);
END
$function$;

-- Inserts bumps. The arrays run in parallel: one element is one (tenant, domain) of one group of
-- statements with the same effects; groups[i] names the group, statements[i] says how many statements
-- it stands for. A tenant is a uuid as text, '' for all tenants, '@' for the tenant of the session
-- setting. Each (tenant, domain) gets one bump for each statement, whatever cascades lead there. The domain '' is every domain.
-- condition 'always'; 'written': only when the transaction has written something (has an id).
-- Returns the number of log rows.
CREATE OR REPLACE FUNCTION turbo.fn_bump(
    groups int[], statements bigint[], tenants text[], domains text[],
    settings text[], condition text, summary text) RETURNS int
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
    summary := left(summary, 200);
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
            IF domains[i] <> ''
               AND (CASE WHEN EXISTS (SELECT FROM turbo.tb_domain d WHERE d.domain = domains[i])
                         THEN v_tenant IS NOT NULL AND NOT EXISTS (SELECT FROM turbo.tb_tenant t WHERE t.tenant_id = v_tenant)
                         ELSE turbo.fn_is_domain(domains[i]) END) THEN
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
         WHERE CASE WHEN EXISTS (SELECT FROM turbo.tb_domain d WHERE d.domain = t.domain)
                    THEN t.tenant_id IS NOT NULL AND NOT EXISTS (SELECT FROM turbo.tb_tenant k WHERE k.tenant_id = t.tenant_id)
                    ELSE turbo.fn_is_domain(t.domain) END
    )
    SELECT count(*)::int INTO v_rows FROM logged;
    RETURN v_rows;
END
$function$;

-- The same for one (tenant, domain), which is what most statements touch; tenant NULL: all of them. known: readers can see
-- the pair already, and no bump of it cascades. Runs with the caller's rights, who may insert into the log, and qualifies
-- everything: the change of role and search_path costs more than the bump.
CREATE OR REPLACE FUNCTION turbo.fn_bump_one(
    tenant uuid, domain text, statements bigint, known boolean, condition text) RETURNS int
LANGUAGE plpgsql VOLATILE
AS $function$
BEGIN
    IF condition OPERATOR(pg_catalog.<>) 'always' AND pg_catalog.pg_current_xact_id_if_assigned() IS NULL THEN
        RETURN 0;
    END IF;
    IF NOT known THEN
        RETURN turbo.fn_bump('{0}', ARRAY[statements], ARRAY[coalesce(tenant OPERATOR(pg_catalog.||) '', '')],
                             ARRAY[domain], '{}', 'always', 'turnstile');
    END IF;
    INSERT INTO turbo.tb_bump (tenant_id, domain, bumps) VALUES (tenant, domain, statements);
    RETURN 1;
END
$function$;

-- One log row that stands for every domain and all tenants: for the few statements around which nothing can be measured.
-- -1 where the transaction is read-only: it must be written elsewhere.
CREATE OR REPLACE FUNCTION turbo.fn_bump_all(statements bigint, summary text) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF pg_is_in_recovery() THEN
        RETURN 0;
    ELSIF current_setting('transaction_read_only')::boolean THEN
        RETURN -1;
    END IF;
    INSERT INTO turbo.tb_bump (domain, bumps, summary) VALUES ('', statements, left(summary, 200));
    RETURN 1;
END
$function$;
