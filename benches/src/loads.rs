//! What is measured.

use crate::client::{Load, Mode};

/// Through Turnstile, on a table that it does not track.
pub const UNTRACKED: &str = "Turnstile, no bump";

pub const RELAY_SCHEMA: &str = "
CREATE TABLE accounts (aid int PRIMARY KEY, bid int NOT NULL, abalance int NOT NULL, filler char(84));
INSERT INTO accounts SELECT n, 1, 0, '' FROM generate_series(1, 100000) n;
CREATE TABLE tellers (tid int PRIMARY KEY, tbalance int NOT NULL) WITH (fillfactor = 20);
INSERT INTO tellers SELECT n, 0 FROM generate_series(1, 1000) n;
CREATE TABLE history (tid int, aid int, delta int, mtime timestamp);
ANALYZE";

/// A table for each way to bump; all are alike.
pub const BUMPS_SCHEMA: &str = "
CREATE TABLE tracker (domain text, tenant_id uuid, version bigint NOT NULL, PRIMARY KEY (domain, tenant_id));
CREATE FUNCTION track_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO tracker VALUES ('row', coalesce(NEW.tenant_id, OLD.tenant_id), 1)
  ON CONFLICT (domain, tenant_id) DO UPDATE SET version = tracker.version + 1; RETURN NULL; END $$;
CREATE FUNCTION track_update() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  UPDATE tracker SET version = version + 1 WHERE domain = 'update' AND tenant_id = coalesce(NEW.tenant_id, OLD.tenant_id);
  RETURN NULL; END $$;
CREATE FUNCTION track_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO tracker SELECT DISTINCT 'statement', tenant_id, 1 FROM changed
  ON CONFLICT (domain, tenant_id) DO UPDATE SET version = tracker.version + 1; RETURN NULL; END $$;
INSERT INTO tracker SELECT 'update', ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 1 FROM generate_series(1, 100) n;
DO $$ DECLARE t text; BEGIN
  FOREACH t IN ARRAY ARRAY['plain', 'by_row', 'by_update', 'by_statement', 'untracked', 'tv_post'] LOOP
    EXECUTE format('CREATE TABLE %I (id bigserial PRIMARY KEY, tenant_id uuid NOT NULL, x int NOT NULL DEFAULT 0)', t);
    EXECUTE format('CREATE FUNCTION %I(int) RETURNS void LANGUAGE sql AS $f$ INSERT INTO %I (tenant_id)
      SELECT (''00000000-0000-0000-0000-'' || lpad((n %% 100 + 1)::text, 12, ''0''))::uuid FROM generate_series(1, 1000) n $f$', 'fill_' || t, t);
    EXECUTE format('CREATE FUNCTION %I(uuid) RETURNS bigint LANGUAGE plpgsql AS $f$ DECLARE made bigint; BEGIN
      INSERT INTO %I (tenant_id) VALUES ($1) RETURNING id INTO made; RETURN made; END $f$', 'create_' || t, t);
  END LOOP; END $$;
CREATE TRIGGER track AFTER INSERT OR UPDATE OR DELETE ON by_row FOR EACH ROW EXECUTE FUNCTION track_row();
CREATE TRIGGER track AFTER INSERT OR UPDATE OR DELETE ON by_update FOR EACH ROW EXECUTE FUNCTION track_update();
CREATE TRIGGER track_i AFTER INSERT ON by_statement REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION track_statement();
CREATE TRIGGER track_u AFTER UPDATE ON by_statement REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION track_statement()";

/// A way to bump.
pub struct Way {
    pub name: &'static str,
    pub table: &'static str,
    pub port: u16,
}

/// The first is the control of those without Turnstile.
pub fn ways(direct: u16, through: u16) -> Vec<Way> {
    vec![
        Way { name: "no bump", table: "plain", port: direct },
        Way { name: "row trigger, upsert", table: "by_row", port: direct },
        Way { name: "row trigger, update", table: "by_update", port: direct },
        Way { name: "statement trigger", table: "by_statement", port: direct },
        Way { name: UNTRACKED, table: "untracked", port: through },
        Way { name: "Turnstile", table: "tv_post", port: through },
    ]
}

pub fn relay_loads() -> Vec<Load> {
    let select = "SELECT abalance FROM accounts WHERE aid = $1";
    let transfer = "BEGIN; UPDATE accounts SET abalance = abalance + 1 WHERE aid = $1; \
        SELECT abalance FROM accounts WHERE aid = $1; UPDATE tellers SET tbalance = tbalance + 1 WHERE tid = $1 % 1000 + 1; \
        INSERT INTO history VALUES ($1 % 1000, $1, 1, now()); END";
    let mut loads = Vec::new();
    for (word, mode) in [("prepared", Mode::Prepared), ("extended", Mode::Extended), ("simple", Mode::Simple)] {
        for clients in [1, 8, 32] {
            loads.push(Load::new(&format!("select, {word}, {clients} clients"), mode, clients, select));
        }
    }
    loads.push(Load::new("TPC-B-like, simple, 8 clients", Mode::Simple, 8, transfer));
    let pipeline = Load::new("pipeline of 100, prepared, 8 clients", Mode::Prepared, 8, select);
    loads.push(Load { pipeline: 100, ..pipeline });
    let rows = "SELECT aid, bid, abalance, filler FROM accounts";
    loads.push(Load::new("100,000 rows, 1 client", Mode::Simple, 1, rows));
    loads.push(Load::new("COPY out of 100,000 rows, 1 client", Mode::Simple, 1, "COPY accounts TO STDOUT"));
    let connect = Load::new("connect, select, disconnect, 8 clients", Mode::Simple, 8, "SELECT 1");
    loads.push(Load { reconnect: true, ..connect });
    loads
}

pub fn bump_loads() -> Vec<Load> {
    let insert = "INSERT INTO {table} (tenant_id) VALUES ($1)";
    let load = |name: &str, clients, sql: &str, numbers, setup: &str| Load {
        numbers,
        tenants: true,
        setup: setup.to_owned(),
        ..Load::new(name, Mode::Prepared, clients, sql)
    };
    let level = |level: &str| format!("SET default_transaction_isolation = '{level}'");
    let many = "INSERT INTO {table} (tenant_id) SELECT $1::uuid FROM generate_series(1, 10000)";
    vec![
        load("insert, one tenant, 1 client", 1, insert, 1, ""),
        load("insert, one tenant, 8 clients", 8, insert, 1, ""),
        load("insert, one tenant, 32 clients", 32, insert, 1, ""),
        load("insert, 100 tenants, 32 clients", 32, insert, 100, ""),
        load("insert, REPEATABLE READ, one tenant, 8 clients", 8, insert, 1, &level("repeatable read")),
        load("insert, SERIALIZABLE, one tenant, 8 clients", 8, insert, 1, &level("serializable")),
        load(
            "update of 10 rows, 100 tenants, 8 clients",
            8,
            "UPDATE {table} SET x = x + 1 WHERE tenant_id = $1",
            100,
            "",
        ),
        load("10,000 rows, INSERT SELECT, 1 client", 1, many, 1, ""),
        load("mutation function, one tenant, 8 clients", 8, "SELECT create_{table}($1)", 1, ""),
    ]
}
