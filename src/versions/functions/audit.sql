-- After a statement that text and catalog were sure of, measured since fn_measure_begin: bumps what the analysis missed.
-- sure: the expected domains must have moved. Returns d and the finding as JSON where the server disagrees, else 0. Turnstile
-- notes it on a connection of its own (fn_audit_note): who calls this cannot write findings.
CREATE OR REPLACE FUNCTION turbo.fn_audit_end(relations oid[], expected text[], sure boolean, fingerprint text) RETURNS text
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
    IF v_missed <> '{}' THEN
        v_rows := turbo.fn_bump(array_fill(0, ARRAY[cardinality(v_missed)]), array_fill(1::bigint, ARRAY[cardinality(v_missed)]),
                                array_fill(''::text, ARRAY[cardinality(v_missed)]), v_missed, '{}', 'always', 'turnstile audit');
    END IF;
    RETURN 'd' || json_build_array(fingerprint, expected, v_measured);
END
$function$;

-- Keeps a finding of fn_audit_end.
CREATE OR REPLACE FUNCTION turbo.fn_audit_note(finding text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
    INSERT INTO turbo.tb_audit (kind, fingerprint, expected, measured)
    SELECT 'statement', f.finding ->> 0, ARRAY(SELECT jsonb_array_elements_text(f.finding -> 1)),
           ARRAY(SELECT jsonb_array_elements_text(f.finding -> 2))
      FROM (SELECT $1::jsonb) f (finding)
$function$;

-- Domains whose rows changed since the last look without a bump since the look before: the server's counters
-- come up to ten seconds late, bumps at once. Rows of transactions that were rolled back count too. bump: bump
-- them. One at a time; the others see nothing.
CREATE OR REPLACE FUNCTION turbo.fn_audit_around(bump boolean, OUT domain text, OUT tuples bigint) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    v_found record;
    v_rows int;
BEGIN
    -- As in fn_fold: nobody else can take it.
    PERFORM FROM turbo.tb_fold_state f ORDER BY f.epoch DESC LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR v_found IN
        WITH counted AS (
            SELECT t.domain, sum(pg_stat_get_tuples_inserted(t.relation) + pg_stat_get_tuples_updated(t.relation)
                                 + pg_stat_get_tuples_deleted(t.relation))::bigint AS tuples
              FROM turbo.fn_tracked() t GROUP BY t.domain
        ), bumped AS (
            SELECT x.domain, sum(x.bumps) AS bumps
              FROM (SELECT b.domain, b.version AS bumps FROM turbo.tb_domain_base b
                    UNION ALL SELECT l.domain, greatest(1, least(l.bumps, 1000000)) FROM turbo.tb_bump l) x GROUP BY x.domain
        ), now AS (
            SELECT c.domain, c.tuples,
                   (SELECT coalesce(sum(b.bumps), 0) FROM bumped b WHERE b.domain IN (c.domain, ''))::bigint AS bumps
              FROM counted c
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
