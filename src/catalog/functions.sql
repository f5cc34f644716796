-- Functions, procedures and aggregates that are not of the system, with the text of their bodies.
SELECT n.nspname::text,
       p.proname::text,
       CASE WHEN p.prokind = 'a' THEN 'aggregate' ELSE l.lanname::text END,
       CASE WHEN p.prokind = 'a' THEN
            (SELECT pg_catalog.concat_ws(' ', a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn,
                                         a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)
               FROM pg_catalog.pg_aggregate a WHERE a.aggfnoid = p.oid)
            ELSE coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc) END
       || coalesce(' ' || pg_catalog.pg_get_function_arguments(p.oid), '')
       || coalesce(' ' || pg_catalog.pg_get_function_result(p.oid), ''),
       p.provolatile = 'v',
       coalesce((SELECT e.extname::text FROM pg_catalog.pg_depend d
                   JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
                  WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
                    AND d.refclassid = 'pg_catalog.pg_extension'::regclass LIMIT 1), ''),
       p.oid,
       p.proretset,
       p.prosecdef OR p.proconfig IS NOT NULL
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
 WHERE p.oid >= 16384
   -- Only the session that made it finds it, by this name (effect/classify.rs).
   AND n.nspname NOT LIKE 'pg\_temp\_%'
