-- Procedures that commit: each domain that one CALL touched is bumped at least once, in a transaction of
-- the same program in which nothing else was written, or, if its client went, by the control plane in its stead. A program
-- for each domain with more calls that touched than such bumps.
WITH RECURSIVE log AS (
    -- The domain '' is every domain.
    SELECT b.xid, b.tenant_id, d.domain, b.bumps, b.bumped_by FROM turbo.tb_bump b
      JOIN (SELECT domain FROM turbo.tb_domain UNION SELECT domain FROM turbo.tb_bump WHERE domain <> '') d ON b.domain IN (d.domain, '')
), reached (source, target) AS (
    SELECT DISTINCT domain, domain FROM oracle.truth
    UNION
    SELECT r.source, c.target_domain FROM reached r JOIN turbo.tb_domain_cascade c ON c.source_domain = r.target
), calls AS (
    SELECT t.program, r.target AS domain, count(DISTINCT t.statement) AS calls
      FROM oracle.truth t JOIN reached r ON r.source = t.domain WHERE t.statement LIKE '%/commits' GROUP BY 1, 2
), late AS (
    SELECT b.bumped_by AS program, b.domain, sum(b.bumps) AS bumps FROM log b
     WHERE b.tenant_id IS NULL AND NOT EXISTS (SELECT FROM oracle.truth t WHERE t.xid = b.xid) GROUP BY 1, 2
)
SELECT max(c.program)
  FROM calls c LEFT JOIN late l USING (program, domain) LEFT JOIN late stead ON (stead.program, stead.domain) = ('postgres', c.domain)
 WHERE coalesce(l.bumps, 0) < c.calls GROUP BY c.domain
HAVING sum(c.calls - coalesce(l.bumps, 0)) > coalesce(max(stead.bumps), 0)
