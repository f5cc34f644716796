-- Rows of a relation that the session has changed. Written so that the planner takes it for its body: it costs no call.
CREATE OR REPLACE FUNCTION turbo.fn_count(relation oid) RETURNS int8
LANGUAGE sql VOLATILE
AS $function$
    SELECT pg_catalog.pg_stat_get_xact_tuples_inserted(relation)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(relation)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_deleted(relation)
$function$;

-- The same of the catalogs that say who may do what, and with which settings sessions begin: pg_auth_members, pg_authid,
-- pg_db_role_setting, pg_database (its owner is a member of pg_database_owner).
CREATE OR REPLACE FUNCTION turbo.fn_count_roles() RETURNS int8
LANGUAGE sql VOLATILE
AS $function$
    SELECT turbo.fn_count(1261)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(1260)
           OPERATOR(pg_catalog.+) turbo.fn_count(2964)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(1262)
$function$;

-- The same of the catalogs that definitions other than those of relations write: pg_proc, pg_depend; where a change writes
-- nothing else: pg_trigger, pg_rewrite, pg_attribute, pg_namespace, pg_type, pg_enum, pg_ts_dict, pg_foreign_table,
-- pg_foreign_server, pg_foreign_data_wrapper, pg_user_mapping; and who may do what, and how a session begins (fn_count_roles).
CREATE OR REPLACE FUNCTION turbo.fn_count_definitions() RETURNS int8
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
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(3501)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(3118)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(1417)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(2328)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(1247)
           OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(3600)
           OPERATOR(pg_catalog.+) turbo.fn_count(1418)
           OPERATOR(pg_catalog.+) turbo.fn_count_roles()
$function$;

-- What the server's counters say now: tuples that this backend wrote (this transaction's, and earlier
-- ones' that are not flushed yet). Three parts between slashes: pg_class; the system tables that changes of
-- other definitions write; those of the given relations that are not 0, as oid:count. Where pg_class has been written already, the file node and row version of each
-- relation too, as oid@node@version: TRUNCATE, rewrites and renames change those. A counter of a TRUNCATEd
-- relation begins anew: compare, do not subtract.
-- Runs twice for every measured statement: everything is qualified, since setting search_path costs more.
CREATE OR REPLACE FUNCTION turbo.fn_counters(relations oid[]) RETURNS text
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
CREATE OR REPLACE FUNCTION turbo.fn_nodes(relations oid[]) RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off
AS $function$
    SELECT coalesce(string_agg(c.oid::text || '@' || c.relfilenode::text || '@' || c.xmin::text, ',' ORDER BY c.oid) || ',', '')
      FROM pg_class c WHERE c.oid = ANY (relations)
$function$;
-- What proves a remembered value: any statement could set it to another. The caller compares the proof of what was
-- remembered with that of what was found.
CREATE OR REPLACE FUNCTION turbo.fn_proof(value text) RETURNS text
LANGUAGE sql STABLE
AS $function$
    SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.textsend(value)), 'hex')
$function$;

-- Before a measured statement: remembers the counters until the end of the transaction. relations: those
-- that the statement may write, NULL where only the server can tell: then they are remembered too. next: as for
-- fn_measure_end. Returns 0 and behind it a b with the proof of what is remembered.
CREATE OR REPLACE FUNCTION turbo.fn_measure_begin(relations oid[], next boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    v_tracked pg_catalog.oid[];
    v_value pg_catalog.text;
BEGIN
    IF relations IS NULL THEN
        v_tracked := turbo.fn_tracked_relations();
        v_value := turbo.fn_counters(v_tracked) OPERATOR(pg_catalog.||) '/'
            OPERATOR(pg_catalog.||) pg_catalog.array_to_string(v_tracked, ',');
    ELSE
        v_value := turbo.fn_counters(relations);
    END IF;
    v_value := pg_catalog.set_config('turnstile.measured', v_value, true);
    RETURN '0 b' OPERATOR(pg_catalog.||) turbo.fn_proof(v_value OPERATOR(pg_catalog.||) turbo.fn_portal(next));
END
$function$;

-- What fn_portal_new_domains has remembered, where it matters.
CREATE OR REPLACE FUNCTION turbo.fn_portal(next boolean) RETURNS text
LANGUAGE sql STABLE
AS $function$
    SELECT CASE WHEN next THEN coalesce(pg_catalog.current_setting('turnstile.portal', true), '') ELSE '' END
$function$;

-- Whether a row version was written by the current transaction (or one of its subtransactions).
CREATE OR REPLACE FUNCTION turbo.fn_is_own(version xid) RETURNS boolean
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
CREATE OR REPLACE FUNCTION turbo.fn_flush() RETURNS text
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
-- changed, an f where the counters begin anew with the next transaction, and an e with the proof of what was found
-- remembered (see fn_measure_begin).
CREATE OR REPLACE FUNCTION turbo.fn_measure_end(
    relations oid[], domains text[], scope text, settings text[], deferred oid[],
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
    IF before IS NULL AND v_before OPERATOR(pg_catalog.<>) '' THEN
        v_flush := v_flush OPERATOR(pg_catalog.||) ' e' OPERATOR(pg_catalog.||)
            turbo.fn_proof(v_before OPERATOR(pg_catalog.||) turbo.fn_portal(portion OPERATOR(pg_catalog.=) 'next'));
    END IF;
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
                INSERT INTO turbo.tb_bump (domain, bumps) VALUES (domains[1], 1);
            ELSE
                INSERT INTO turbo.tb_bump (domain, bumps)
                SELECT DISTINCT u.domain, 1
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
    RETURN turbo.fn_bump_changed(v_before, v_after, v_known, domains, settings, portion) OPERATOR(pg_catalog.||) v_flush;
END
$function$;

-- Whether the counters of relations tell what was written, where all began at 0: the server counts, bumps can be written, and
-- no definition has changed. Costs no call, as fn_count.
CREATE OR REPLACE FUNCTION turbo.fn_counts_suffice() RETURNS boolean
LANGUAGE sql VOLATILE
AS $function$
    SELECT pg_catalog.current_setting('track_counts') OPERATOR(pg_catalog.=) 'on'
           AND pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'off'
           AND turbo.fn_count(1259) OPERATOR(pg_catalog.=) 0 AND turbo.fn_count_definitions() OPERATOR(pg_catalog.=) 0
$function$;

-- The same where fn_measure_end would be told plain, and the counters of relations were 0 when the transaction began:
-- they began anew with it (fn_flush), and nothing that it has done could move them. parts: new parts of them may have been
-- written. A third of the server's time, since nothing has to be remembered before the statement.
CREATE OR REPLACE FUNCTION turbo.fn_measured(relations oid[], domains text[], parts boolean) RETURNS text
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
        RETURN turbo.fn_measure_end(relations, domains, CASE WHEN parts THEN 'parts' ELSE 'these' END, '{}', '{}',
                                    before => '0/0/,');
    END IF;
    FOR i IN 1 .. pg_catalog.cardinality(relations) LOOP
        IF turbo.fn_count(relations[i]) OPERATOR(pg_catalog.<>) 0 AND domains[i] OPERATOR(pg_catalog.<>) ALL (v_moved) THEN
            v_moved := v_moved OPERATOR(pg_catalog.||) domains[i];
            INSERT INTO turbo.tb_bump (domain, bumps) VALUES (domains[i], 1);
        END IF;
    END LOOP;
    RETURN pg_catalog.cardinality(v_moved)::pg_catalog.text OPERATOR(pg_catalog.||) turbo.fn_flush();
END
$function$;

-- The same where the statement may have written any tracked relation: these, or one that another session has just made or
-- renamed. So the server says the domains. relations are in order. What is looked up is looked up one by one: of arrays the planner believes that each
-- time another plan is better.
CREATE OR REPLACE FUNCTION turbo.fn_measured_every(relations oid[]) RETURNS text
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
                INSERT INTO turbo.tb_bump (domain, bumps) VALUES (v_domain, 1);
            END LOOP;
            RETURN pg_catalog.cardinality(v_domains)::pg_catalog.text OPERATOR(pg_catalog.||) turbo.fn_flush();
        END IF;
    END IF;
    RETURN turbo.fn_measure_end(relations, '{}', 'every', '{}', '{}', before => '0/0/,');
END
$function$;

-- The second half of fn_measure_end: what was counted before and after differs. after is NULL where nothing
-- could be counted.
CREATE OR REPLACE FUNCTION turbo.fn_bump_changed(
    before text, after text, relations oid[], domains text[], settings text[], portion text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_moved record;
    v_pairs int;
    v_rows int;
BEGIN
    v_moved := turbo.fn_moved_domains(before, after, relations, domains);
    IF portion <> 'whole' THEN
        v_moved.moved := turbo.fn_portal_new_domains(v_moved.moved, portion);
    END IF;
    v_pairs := cardinality(v_moved.moved);
    IF v_pairs = 0 THEN
        RETURN '0' || v_moved.definitions;
    END IF;
    IF current_setting('transaction_read_only')::boolean THEN
        RETURN '0 l' || v_moved.definitions;
    END IF;
    v_rows := turbo.fn_bump(array_fill(0, ARRAY[v_pairs]), array_fill(1::bigint, ARRAY[v_pairs]),
                            array_fill(CASE WHEN settings = '{}' OR v_moved.unknown THEN '' ELSE '@' END, ARRAY[v_pairs]),
                            v_moved.moved, settings, 'always', 'turnstile');
    RETURN CASE WHEN v_moved.unknown THEN -v_rows ELSE v_rows END || v_moved.definitions;
END
$function$;

-- Those domains that the portions of the same portal before this one did not bump.
CREATE OR REPLACE FUNCTION turbo.fn_portal_new_domains(domains text[], portion text) RETURNS text[]
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

-- Domains that moved between two states of the counters; unknown: '', every domain, because they cannot tell.
CREATE OR REPLACE FUNCTION turbo.fn_moved_domains(
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
            v_changed := v_changed || turbo.fn_redefined(before, relations);
            unknown := pg_stat_get_xact_tuples_deleted(2611) > 0
                OR EXISTS (SELECT FROM unnest(relations) r WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r))
                -- Renamed, or in another schema: what its former name stands for now is not known.
                OR (pg_stat_get_xact_tuples_updated(1247) > 0
                    AND EXISTS (SELECT FROM pg_class c JOIN pg_type t ON t.oid = c.reltype
                                 WHERE c.oid = ANY (v_changed) AND age(t.xmin) <= 0 AND turbo.fn_is_own(t.xmin)))
                OR EXISTS (SELECT FROM pg_class c WHERE c.oid = ANY (v_changed) AND c.relname NOT LIKE E'tv\\_%'
                              AND NOT EXISTS (SELECT FROM turbo.fn_tracked() t WHERE t.relation = c.oid));
            definitions := turbo.fn_definitions_changed(split_part(after, '/', 2) <> split_part(before, '/', 2));
        END IF;
    END IF;
    IF unknown THEN
        moved := '{""}';
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

-- ' c' where definitions changed, '' where all that was done is to make temporary tables that hide nothing, or to
-- TRUNCATE.
-- other: counters besides those of pg_class moved.
CREATE OR REPLACE FUNCTION turbo.fn_definitions_changed(other boolean) RETURNS text
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

-- Tracked relations of which the definition changed since fn_measure_begin, which looked at these: those whose pg_class row
-- was written (TRUNCATE, rewrites, grants, row security, a table that is new or goes by a new name); whose columns or
-- parts this transaction changed; and those that show other rows though nothing of their own was written: by their schema,
-- policies, types, foreign server, by a relation of the same name, or by what roles may do. fixtures/definitions has the forms.
CREATE OR REPLACE FUNCTION turbo.fn_redefined(before text, relations oid[]) RETURNS oid[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_tracked oid[] := relations || turbo.fn_tracked_relations();
    v_found oid[];
BEGIN
    v_found := ARRAY(
        SELECT c.oid FROM pg_class c
         WHERE c.oid = ANY (v_tracked)
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
                    ELSE pg_relation_size(c.oid) > 0 END);
    IF turbo.fn_count_roles() > 0 THEN
        RETURN v_found || v_tracked;
    END IF;
    -- One of the same name in another schema may be found in its place, or in that of this one.
    v_found := v_found || ARRAY(
        SELECT t.oid FROM pg_class t JOIN pg_class n ON n.relname = t.relname AND n.oid <> t.oid
         WHERE t.oid = ANY (v_tracked) AND n.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.relpersistence <> 't'
           AND age(n.xmin) <= 0 AND turbo.fn_is_own(n.xmin));
    -- A policy that asks for anything but the row's columns and the system may show other rows behind any definition.
    v_found := v_found || ARRAY(
        SELECT c.oid FROM pg_class c
         WHERE c.oid = ANY (v_tracked) AND c.relrowsecurity
           AND EXISTS (SELECT FROM pg_policy p JOIN pg_depend d ON d.classid = 3256 AND d.objid = p.oid
                        WHERE p.polrelid = c.oid AND d.refobjid >= 16384 AND NOT (d.refclassid = 1259 AND d.refobjid = c.oid)));
    IF pg_stat_get_xact_tuples_updated(2615) > 0 THEN
        v_found := v_found || ARRAY(
            SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = ANY (v_tracked) AND age(n.xmin) <= 0 AND turbo.fn_is_own(n.xmin));
    END IF;
    IF turbo.fn_count(3256) > 0 THEN
        v_found := v_found || ARRAY(
            SELECT c.oid FROM pg_class c
             WHERE c.oid = ANY (v_tracked)
               AND (EXISTS (SELECT FROM pg_policy p
                             WHERE p.polrelid = c.oid AND age(p.xmin) <= 0 AND turbo.fn_is_own(p.xmin))
                    -- Of a policy that is gone only the count tells.
                    OR (c.relrowsecurity AND pg_stat_get_xact_tuples_deleted(3256) > 0)));
    END IF;
    -- Labels of enums and attributes of composite types, wherever columns hold such values.
    IF pg_stat_get_xact_tuples_updated(3501) + turbo.fn_count(1249) > 0 THEN
        v_found := v_found || ARRAY(
            WITH RECURSIVE shown (relation, type) AS (
                SELECT a.attrelid, a.atttypid FROM pg_attribute a
                 WHERE a.attrelid = ANY (v_tracked) AND a.attnum > 0 AND a.atttypid >= 16384
                UNION
                SELECT s.relation, x.type
                  FROM shown s JOIN pg_type t ON t.oid = s.type
                 CROSS JOIN LATERAL (
                       SELECT t.typelem UNION ALL SELECT t.typbasetype
                       UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
                       UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0) x (type)
                 WHERE x.type >= 16384
            )
            SELECT s.relation FROM shown s JOIN pg_type t ON t.oid = s.type
             WHERE EXISTS (SELECT FROM pg_enum e WHERE e.enumtypid = t.oid AND age(e.xmin) <= 0 AND turbo.fn_is_own(e.xmin))
                OR EXISTS (SELECT FROM pg_attribute a
                            WHERE a.attrelid = t.typrelid AND age(a.xmin) <= 0 AND turbo.fn_is_own(a.xmin)));
    END IF;
    IF pg_stat_get_xact_tuples_updated(3118) + pg_stat_get_xact_tuples_updated(1417) + pg_stat_get_xact_tuples_updated(2328)
       + turbo.fn_count(1418) > 0 THEN
        v_found := v_found || ARRAY(
            SELECT f.ftrelid FROM pg_foreign_table f JOIN pg_foreign_server s ON s.oid = f.ftserver
              JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
             WHERE f.ftrelid = ANY (v_tracked)
               AND (turbo.fn_count(1418) > 0 OR (age(f.xmin) <= 0 AND turbo.fn_is_own(f.xmin))
                    OR (age(s.xmin) <= 0 AND turbo.fn_is_own(s.xmin)) OR (age(w.xmin) <= 0 AND turbo.fn_is_own(w.xmin))));
    END IF;
    RETURN v_found;
END
$function$;

-- The same as fn_bump where only counters tell whether a row was changed: of these relations, since fn_measure_begin.
-- Returns the number of log rows, and an e as fn_measure_end.
CREATE OR REPLACE FUNCTION turbo.fn_bump_if_moved(
    groups int[], statements bigint[], tenants text[], domains text[], settings text[], relations oid[]) RETURNS text
LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    v_before pg_catalog.text := coalesce(pg_catalog.current_setting('turnstile.measured', true), '');
    v_proof pg_catalog.text := CASE WHEN v_before OPERATOR(pg_catalog.<>) ''
        THEN ' e' OPERATOR(pg_catalog.||) turbo.fn_proof(v_before) ELSE '' END;
BEGIN
    IF pg_catalog.pg_current_xact_id_if_assigned() IS NULL
       OR (pg_catalog.current_setting('track_counts') OPERATOR(pg_catalog.=) 'on'
           AND pg_catalog.split_part(v_before, '/', 3)
               OPERATOR(pg_catalog.=) pg_catalog.split_part(turbo.fn_counters(relations), '/', 3)) THEN
        RETURN '0' OPERATOR(pg_catalog.||) v_proof;
    END IF;
    RETURN turbo.fn_bump(groups, statements, tenants, domains, settings, 'always', 'turnstile')::pg_catalog.text
        OPERATOR(pg_catalog.||) v_proof;
END
$function$;
