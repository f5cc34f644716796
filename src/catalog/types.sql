-- Types of the application, with what runs or is used when a value of them is made: checks, defaults, base, element
-- and attribute types. Not those of which there is nothing to say: enums, row types of relations without a column of
-- the application's types, and arrays of such row types.
WITH part AS MATERIALIZED (
    SELECT a.attrelid, pg_catalog.string_agg(pg_catalog.quote_ident(t.typname), ' ' ORDER BY a.attnum) AS text
      FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
     WHERE a.atttypid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped
       AND ($1::oid[] IS NULL OR a.attrelid = ANY ($1)) GROUP BY a.attrelid
),
checked AS MATERIALIZED (
    SELECT k.contypid, pg_catalog.string_agg(pg_catalog.pg_get_constraintdef(k.oid), ' ' ORDER BY k.oid) AS text
      FROM pg_catalog.pg_constraint k WHERE k.contypid >= 16384 GROUP BY k.contypid
)
SELECT x.name, x.text, x.oid, x.relation
  FROM (SELECT t.oid, CASE WHEN t.typtype = 'b' THEN coalesce(e.typrelid, 0) ELSE t.typrelid END AS relation, t.typname::text AS name,
               pg_catalog.concat_ws(' ', k.text, t.typdefault,
                   CASE WHEN t.typbasetype <> 0
                        THEN (SELECT pg_catalog.quote_ident(b.typname) FROM pg_catalog.pg_type b WHERE b.oid = t.typbasetype) END,
                   pg_catalog.quote_ident(e.typname),
                   CASE WHEN t.typtype IN ('r', 'm') THEN
                       (SELECT pg_catalog.quote_ident(s.typname) FROM pg_catalog.pg_range r
                          JOIN pg_catalog.pg_type s ON s.oid = r.rngsubtype WHERE t.oid IN (r.rngtypid, r.rngmultitypid)) END,
                   p.text) AS text
          FROM pg_catalog.pg_type t
          LEFT JOIN checked k ON k.contypid = t.oid
          LEFT JOIN part p ON p.attrelid = t.typrelid
          LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem
          LEFT JOIN part q ON q.attrelid = e.typrelid
         WHERE t.oid >= 16384
           AND ($1::oid[] IS NULL OR t.oid = ANY (ARRAY(
                   SELECT pg_catalog.unnest(ARRAY[y.oid, y.typarray]) FROM pg_catalog.pg_class c
                     JOIN pg_catalog.pg_type y ON y.oid = c.reltype WHERE c.oid = ANY ($1))))
           AND (t.typrelid = 0 OR p.attrelid IS NOT NULL)
           AND NOT (t.typtype = 'b' AND coalesce(e.typrelid, 0) <> 0 AND q.attrelid IS NULL)) x
 WHERE x.text <> ''
