-- Types of the application, with what runs or is used when a value of them is made: checks, defaults,
-- base, element and attribute types.
SELECT t.typname::text,
       pg_catalog.concat_ws(' ',
           (SELECT pg_catalog.string_agg(pg_catalog.pg_get_constraintdef(k.oid), ' ')
              FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid),
           t.typdefault,
           (SELECT pg_catalog.quote_ident(b.typname) FROM pg_catalog.pg_type b WHERE b.oid = t.typbasetype),
           (SELECT pg_catalog.quote_ident(e.typname) FROM pg_catalog.pg_type e WHERE e.oid = t.typelem),
           (SELECT pg_catalog.quote_ident(s.typname) FROM pg_catalog.pg_range r
              JOIN pg_catalog.pg_type s ON s.oid = r.rngsubtype WHERE t.oid IN (r.rngtypid, r.rngmultitypid)),
           (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a_type.typname), ' ')
              FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type a_type ON a_type.oid = a.atttypid
             WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
               AND a_type.oid >= 16384))
  FROM pg_catalog.pg_type t
 WHERE t.oid >= 16384
