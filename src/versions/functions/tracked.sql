-- The relations whose changes bump a domain: called tv_..., or named in tb_domain_table, and what is
-- stored below them (partitions, children), with the domains that a change of each of them bumps.
-- While nothing is named there the table is not read: a serializable transaction would keep a predicate lock on it.
CREATE OR REPLACE FUNCTION turbo.fn_tracked(OUT relation oid, OUT domain text) RETURNS SETOF record
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

-- The tracked relations as the server knows them now. The subtransaction that is rolled back takes the locks of this
-- look with it: the client's transaction would keep them to its end.
CREATE OR REPLACE FUNCTION turbo.fn_tracked_relations() RETURNS oid[]
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

-- Relations with triggers that may fire at COMMIT, apart from these.
CREATE OR REPLACE FUNCTION turbo.fn_deferred(triggers oid[]) RETURNS oid[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT coalesce(array_agg(DISTINCT t.tgrelid), '{}') FROM pg_trigger t
     WHERE t.tgdeferrable AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.oid <> ALL (triggers)
$function$;

-- These relations, with parts and tracked tables that another session has made since they were listed.
CREATE OR REPLACE FUNCTION turbo.fn_with_new(relations oid[], scope text) RETURNS oid[]
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

-- Domains that a change of these relations bumps.
CREATE OR REPLACE FUNCTION turbo.fn_domains_of(relations oid[]) RETURNS text[]
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
