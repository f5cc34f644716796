-- Relations that are not of the system, with everything that runs when they are read or written.
SELECT c.oid,
       n.nspname::text,
       c.relname::text,
       c.relkind::text,
       c.relpersistence = 't',
       ARRAY(SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid),
       (SELECT t.domain FROM turbo.tb_domain_table t WHERE t.table_name = c.relname),
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       -- A generated column's value is not what a statement says.
       ARRAY(SELECT CASE WHEN a.attgenerated = '' THEN a.atttypid ELSE 0 END FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN'),
       pg_catalog.concat_ws(' ',
           CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid) END,
           (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', pg_catalog.pg_get_expr(p.polqual, p.polrelid),
                                                   pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)), ' ')
              FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid)),
       pg_catalog.concat_ws(' ',
           (SELECT pg_catalog.string_agg(pg_catalog.pg_get_expr(d.adbin, d.adrelid), ' ')
              FROM pg_catalog.pg_attrdef d WHERE d.adrelid = c.oid),
           (SELECT pg_catalog.string_agg(' nextval(', ' ') FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attidentity <> ''),
           (SELECT pg_catalog.string_agg(pg_catalog.pg_get_constraintdef(k.oid), ' ')
              FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('c', 'x')),
           (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', pg_catalog.pg_get_expr(i.indexprs, i.indrelid),
                                                   pg_catalog.pg_get_expr(i.indpred, i.indrelid)), ' ')
              FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid),
           (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', pg_catalog.pg_get_expr(p.polqual, p.polrelid),
                                                   pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)), ' ')
              FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid),
           (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(t.typname), ' ')
              FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               AND t.oid >= 16384),
           -- Conditions of triggers.
           (SELECT pg_catalog.string_agg(substring(pg_catalog.pg_get_triggerdef(g.oid) FROM ' WHEN (.*) EXECUTE '), ' ')
              FROM pg_catalog.pg_trigger g
             WHERE g.tgrelid = c.oid AND g.tgqual IS NOT NULL AND NOT g.tgisinternal AND g.tgenabled <> 'D'),
           (SELECT pg_catalog.pg_get_expr(k.partexprs, k.partrelid)
              FROM pg_catalog.pg_partitioned_table k WHERE k.partrelid = c.oid),
           -- Functions of operator classes that order, hash or compare.
           (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(p.proname), ' ')
              FROM (SELECT i.indclass AS classes FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid
                    UNION ALL
                    SELECT k.partclass FROM pg_catalog.pg_partitioned_table k WHERE k.partrelid = c.oid) x
              JOIN pg_catalog.pg_opclass o ON o.oid = ANY (x.classes) AND o.oid >= 16384
              JOIN (SELECT f.amprocfamily AS family, f.amproc::oid AS function FROM pg_catalog.pg_amproc f
                    UNION ALL
                    SELECT f.amopfamily, q.oprcode FROM pg_catalog.pg_amop f
                      JOIN pg_catalog.pg_operator q ON q.oid = f.amopopr) u ON u.family = o.opcfamily
              JOIN pg_catalog.pg_proc p ON p.oid = u.function AND p.oid >= 16384))
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND c.oid >= 16384
