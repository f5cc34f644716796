-- Truth and bumps of each transaction, for each tenant that there is and one who owns nothing (4…4):
-- statements that touched the tenant's rows, what its version moved by, and statements that touched the
-- domain at all. What procedures wrote that commit is compared apart, and so is what the control plane bumped for them.
WITH RECURSIVE log AS (
    -- The domain '' is every domain.
    SELECT b.xid, b.tenant_id, d.domain, b.bumps, b.bumped_by FROM turbo.tb_bump b
      JOIN (SELECT domain FROM turbo.tb_domain UNION SELECT domain FROM turbo.tb_bump WHERE domain <> '') d ON b.domain IN (d.domain, '')
), reached (source, target) AS (
    SELECT DISTINCT domain, domain FROM oracle.truth
    UNION
    SELECT r.source, c.target_domain FROM reached r JOIN turbo.tb_domain_cascade c ON c.source_domain = r.target
), touched AS (
    SELECT DISTINCT t.xid, t.statement, r.target AS domain, t.tenant
      FROM oracle.truth t JOIN reached r ON r.source = t.domain WHERE t.statement NOT LIKE '%/commits'
), tenants (tenant) AS (
    VALUES ('11111111-1111-1111-1111-111111111111'::uuid), ('22222222-2222-2222-2222-222222222222'),
           ('33333333-3333-3333-3333-333333333333'), ('44444444-4444-4444-4444-444444444444')
), keys AS (
    SELECT xid, domain FROM touched UNION SELECT xid, domain FROM log WHERE bumped_by <> 'postgres'
), names AS (
    SELECT xid, max(program) AS program FROM (SELECT xid, program FROM oracle.truth
        UNION ALL SELECT xid, bumped_by FROM log) x GROUP BY xid
), truths AS (
    SELECT t.xid, t.domain, n.tenant, count(DISTINCT t.statement) AS truth
      FROM touched t JOIN tenants n ON t.tenant IS NULL OR t.tenant = n.tenant GROUP BY 1, 2, 3
), domains AS (
    SELECT xid, domain, count(DISTINCT statement) AS statements FROM touched GROUP BY 1, 2
), moves AS (
    SELECT b.xid, b.domain, n.tenant, sum(b.bumps)::bigint AS moved
      FROM log b JOIN tenants n ON b.tenant_id IS NULL OR b.tenant_id = n.tenant GROUP BY 1, 2, 3
)
SELECT coalesce(p.program, '?'), k.xid::text, k.domain, left(n.tenant::text, 1),
       coalesce(t.truth, 0), coalesce(m.moved, 0), coalesce(d.statements, 0)
  FROM keys k CROSS JOIN tenants n
  LEFT JOIN names p ON p.xid = k.xid
  LEFT JOIN truths t ON (t.xid, t.domain, t.tenant) = (k.xid, k.domain, n.tenant)
  LEFT JOIN moves m ON (m.xid, m.domain, m.tenant) = (k.xid, k.domain, n.tenant)
  LEFT JOIN domains d ON (d.xid, d.domain) = (k.xid, k.domain)
 WHERE coalesce(t.truth, 0) <> coalesce(m.moved, 0)
