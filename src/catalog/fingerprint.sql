-- Row counts and sums of xmin of the system tables that the catalog is made of (of pg_class, what matters:
-- TRUNCATE writes it too). Temporary tables count only where they hide a tracked relation.
SELECT pg_catalog.concat_ws('/',
  (SELECT pg_catalog.concat(count(*), ':', sum(pg_catalog.hashtext(pg_catalog.concat_ws('/', c.oid, c.relname, c.relnamespace,
             c.relkind, c.relpersistence, c.relhasrules, c.relhastriggers, c.relrowsecurity, c.relispartition))::bigint))
     FROM pg_catalog.pg_class c
    WHERE c.relpersistence <> 't' OR c.relname LIKE 'tv\_%'
       OR EXISTS (SELECT FROM turbo.tb_domain_table t WHERE t.table_name = c.relname)),
  (SELECT pg_catalog.concat(count(*), ':', sum(a.xmin::text::bigint)) FROM pg_catalog.pg_attribute a
     JOIN pg_catalog.pg_class c ON c.oid = a.attrelid WHERE c.relpersistence <> 't'),
  (SELECT pg_catalog.concat(count(*), ':', sum(p.xmin::text::bigint)) FROM pg_catalog.pg_proc p
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.oid = p.pronamespace AND n.nspname LIKE 'pg\_temp\_%')),
  (SELECT pg_catalog.concat(count(*), ':', sum(t.xmin::text::bigint)) FROM pg_catalog.pg_trigger t),
  (SELECT pg_catalog.concat(count(*), ':', sum(r.xmin::text::bigint)) FROM pg_catalog.pg_rewrite r),
  (SELECT pg_catalog.concat(count(*), ':', sum(k.xmin::text::bigint)) FROM pg_catalog.pg_constraint k),
  (SELECT pg_catalog.concat(count(*), ':', sum(d.xmin::text::bigint)) FROM pg_catalog.pg_attrdef d),
  (SELECT pg_catalog.concat(count(*), ':', sum(p.xmin::text::bigint)) FROM pg_catalog.pg_policy p),
  (SELECT pg_catalog.concat(count(*), ':', sum(i.xmin::text::bigint)) FROM pg_catalog.pg_inherits i),
  (SELECT pg_catalog.concat(count(*), ':', sum(o.xmin::text::bigint)) FROM pg_catalog.pg_operator o),
  (SELECT pg_catalog.concat(count(*), ':', sum(k.xmin::text::bigint)) FROM pg_catalog.pg_cast k),
  (SELECT pg_catalog.concat(count(*), ':', sum(n.xmin::text::bigint)) FROM pg_catalog.pg_namespace n
    WHERE n.nspname NOT LIKE 'pg\_%'),
  (SELECT pg_catalog.concat(count(*), ':', sum(t.xmin::text::bigint)) FROM pg_catalog.pg_type t WHERE t.typtype = 'd'),
  (SELECT pg_catalog.concat(count(*), ':', sum(e.xmin::text::bigint)) FROM pg_catalog.pg_event_trigger e),
  (SELECT pg_catalog.concat(count(*), ':', sum(c.xmin::text::bigint)) FROM turbo.tb_domain_cascade c),
  (SELECT pg_catalog.concat(count(*), ':', sum(t.xmin::text::bigint)) FROM turbo.tb_domain_table t))
