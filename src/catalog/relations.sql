-- Relations that are not of the system, with everything that runs when they are read or written.
-- $1: only these (NULL: all). $2: names of functions of the system that matter (those that run SQL, set_config).
-- A definition with variables is printed only where its tree (pg_node_tree) has the OID of something that is not of the
-- system (other than the type of a variable), or calls one of those functions.
WITH special AS MATERIALIZED (
    SELECT ':funcid (?:' || coalesce(pg_catalog.string_agg(p.oid::text, '|'), '0') || ') ' AS pattern FROM pg_catalog.pg_proc p
     WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND p.proname::text = ANY ($2::text[])
),
rel AS MATERIALIZED (
    SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid >= 16384 AND ($1::oid[] IS NULL OR c.oid = ANY ($1))
),
-- Trees with variables: printing one opens its relation, which locks it and fills the server's relation cache.
tree (kind, relation, oid, tree) AS (
    SELECT 'd', d.adrelid, d.oid, d.adbin FROM pg_catalog.pg_attrdef d
     WHERE d.adbin::text LIKE '%{VAR %' AND ($1::oid[] IS NULL OR d.adrelid = ANY ($1))
    UNION ALL
    SELECT 'c', k.conrelid, k.oid, k.conbin FROM pg_catalog.pg_constraint k
     WHERE k.contype = 'c' AND k.conrelid <> 0 AND ($1::oid[] IS NULL OR k.conrelid = ANY ($1))
    UNION ALL
    SELECT 'i', i.indrelid, i.indexrelid, i.indexprs FROM pg_catalog.pg_index i
     WHERE i.indexprs IS NOT NULL AND ($1::oid[] IS NULL OR i.indrelid = ANY ($1))
    UNION ALL
    SELECT 'i', i.indrelid, i.indexrelid, i.indpred FROM pg_catalog.pg_index i
     WHERE i.indpred IS NOT NULL AND ($1::oid[] IS NULL OR i.indrelid = ANY ($1))
    UNION ALL
    SELECT 'p', p.polrelid, p.oid, p.polqual FROM pg_catalog.pg_policy p
     WHERE p.polqual IS NOT NULL AND ($1::oid[] IS NULL OR p.polrelid = ANY ($1))
    UNION ALL
    SELECT 'p', p.polrelid, p.oid, p.polwithcheck FROM pg_catalog.pg_policy p
     WHERE p.polwithcheck IS NOT NULL AND ($1::oid[] IS NULL OR p.polrelid = ANY ($1))
    UNION ALL
    SELECT 't', g.tgrelid, g.oid, g.tgqual FROM pg_catalog.pg_trigger g
     WHERE g.tgqual IS NOT NULL AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND ($1::oid[] IS NULL OR g.tgrelid = ANY ($1))
    UNION ALL
    SELECT 'k', k.partrelid, k.partrelid, k.partexprs FROM pg_catalog.pg_partitioned_table k
     WHERE k.partexprs IS NOT NULL AND ($1::oid[] IS NULL OR k.partrelid = ANY ($1))
),
-- Functions of operator classes that order, hash or compare.
class AS MATERIALIZED (
    SELECT o.oid, pg_catalog.string_agg(DISTINCT pg_catalog.quote_ident(p.proname), ' ') AS text
      FROM pg_catalog.pg_opclass o
      JOIN (SELECT f.amprocfamily AS family, f.amproc::oid AS function FROM pg_catalog.pg_amproc f
            UNION ALL
            SELECT f.amopfamily, q.oprcode FROM pg_catalog.pg_amop f
              JOIN pg_catalog.pg_operator q ON q.oid = f.amopopr) u ON u.family = o.opcfamily
      JOIN pg_catalog.pg_proc p ON p.oid = u.function AND p.oid >= 16384
     WHERE o.oid >= 16384
     GROUP BY o.oid
),
fragment (relation, reads, text) AS (
    SELECT t.relation, t.kind = 'p',
           CASE t.kind WHEN 'c' THEN pg_catalog.pg_get_constraintdef(t.oid)
                       WHEN 't' THEN substring(pg_catalog.pg_get_triggerdef(t.oid) FROM ' WHEN (.*) EXECUTE ')
                       ELSE pg_catalog.pg_get_expr(t.tree, t.relation) END
      FROM tree t
     WHERE (t.tree::text ~ ' [0-9]{5}' AND t.tree::text ~ '(?:[^dne]|[^o]d|[^p]e|[^y]pe|[^t]ype|[^r]type) [0-9]{5}')
        OR (t.tree::text LIKE '%{FUNCEXPR %' AND t.tree::text ~ (SELECT pattern FROM special))
    UNION ALL
    -- Defaults of columns that are not generated have no variables. Constants say nothing; of serial columns all that
    -- matters is known.
    SELECT d.adrelid, false,
           CASE WHEN d.adbin::text LIKE '{FUNCEXPR :funcid 1574 :funcresulttype 20 :funcretset false :funcvariadic false :funcformat 0 :funccollid 0 :inputcollid 0 :args ({CONST %'
                THEN 'nextval('
                ELSE pg_catalog.pg_get_expr(d.adbin, 0) END
      FROM pg_catalog.pg_attrdef d
     WHERE d.adbin::text NOT LIKE '{CONST %' AND d.adbin::text NOT LIKE '%{VAR %' AND ($1::oid[] IS NULL OR d.adrelid = ANY ($1))
    UNION ALL
    SELECT k.conrelid, false, pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k
     WHERE k.contype = 'x' AND ($1::oid[] IS NULL OR k.conrelid = ANY ($1))
    UNION ALL
    SELECT x.relation, false, o.text
      FROM (SELECT i.indrelid AS relation, pg_catalog.unnest(i.indclass) AS class FROM pg_catalog.pg_index i
             WHERE $1::oid[] IS NULL OR i.indrelid = ANY ($1)
            UNION ALL
            SELECT k.partrelid, pg_catalog.unnest(k.partclass) FROM pg_catalog.pg_partitioned_table k
             WHERE $1::oid[] IS NULL OR k.partrelid = ANY ($1)) x
      JOIN class o ON o.oid = x.class
),
said AS MATERIALIZED (
    SELECT f.relation, pg_catalog.string_agg(f.text, ' ' ORDER BY f.text) FILTER (WHERE f.reads) AS reads, pg_catalog.string_agg(f.text, ' ' ORDER BY f.text) AS writes
      FROM fragment f GROUP BY f.relation
),
parent AS MATERIALIZED (
    SELECT i.inhrelid AS relation, pg_catalog.array_agg(i.inhparent ORDER BY i.inhseqno) AS parents
      FROM pg_catalog.pg_inherits i WHERE $1::oid[] IS NULL OR i.inhrelid = ANY ($1) GROUP BY i.inhrelid
),
ruled AS MATERIALIZED (
    SELECT DISTINCT r.ev_class AS relation FROM pg_catalog.pg_rewrite r
     WHERE r.rulename <> '_RETURN' AND ($1::oid[] IS NULL OR r.ev_class = ANY ($1))
)
SELECT c.oid,
       c.nspname::text,
       c.relname::text,
       c.relkind::text,
       c.relpersistence = 't',
       coalesce(p.parents, '{}'),
       t.domain,
       coalesce(a.names, '{}'),
       coalesce(a.types, '{}'),
       r.relation IS NOT NULL,
       pg_catalog.concat_ws(' ', CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid) END, s.reads),
       pg_catalog.concat_ws(' ', s.writes, a.own, a.identity)
  FROM rel c
 CROSS JOIN LATERAL (
       SELECT pg_catalog.array_agg(a.name) AS names, pg_catalog.array_agg(a.type) AS types,
              pg_catalog.string_agg(a.own, ' ') AS own, pg_catalog.string_agg(a.identity, ' ') AS identity
         FROM (SELECT a.attname::text AS name,
                      -- A generated column's value is not what a statement says.
                      CASE WHEN a.attgenerated = '' THEN a.atttypid ELSE 0 END AS type,
                      CASE WHEN a.atttypid >= 16384
                           THEN (SELECT pg_catalog.quote_ident(t.typname) FROM pg_catalog.pg_type t WHERE t.oid = a.atttypid) END AS own,
                      CASE WHEN a.attidentity <> '' THEN ' nextval(' END AS identity
                 FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) a) a
  LEFT JOIN said s ON s.relation = c.oid
  LEFT JOIN parent p ON p.relation = c.oid
  LEFT JOIN ruled r ON r.relation = c.oid
  LEFT JOIN turbo.tb_domain_table t ON t.table_name = c.relname
