//! What is measured: schemas, loads and the ways to bump.

use crate::client::{Load, Mode};

/// Through Turnstile, on a table that it does not track.
pub const UNTRACKED: &str = "Turnstile, no bump";
pub const NO_BUMP: &str = "no bump";
pub const ROW_TRIGGER: &str = "row trigger, upsert";

/// What each COPY of the relay loads moves, in bytes.
pub const COPIED_BYTES: usize = 1 << 30;

/// Databases with so many tracked tables, for functions that are measured.
pub const TRACKED: [(&str, u32); 3] = [("tracked_5", 5), ("tracked_20", 20), ("tracked_200", 200)];

/// pgbench's tables, 100 branches.
pub const RELAY_SCHEMA: &str = "
CREATE TABLE accounts (aid int PRIMARY KEY, bid int NOT NULL, abalance int NOT NULL, filler char(84));
INSERT INTO accounts SELECT n, 1, 0, '' FROM generate_series(1, 100000) n;
CREATE TABLE tellers (tid int PRIMARY KEY, tbalance int NOT NULL) WITH (fillfactor = 20);
INSERT INTO tellers SELECT n, 0 FROM generate_series(1, 1000) n;
CREATE TABLE branches (bid int PRIMARY KEY, bbalance int NOT NULL) WITH (fillfactor = 20);
INSERT INTO branches SELECT n, 0 FROM generate_series(1, 100) n;
CREATE TABLE history (tid int, bid int, aid int, delta int, mtime timestamp);
ANALYZE";

/// A table for each way to bump; all are alike. The trackers are those of the usual documentation.
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
    EXECUTE format('CREATE INDEX ON %I (tenant_id)', t);
    EXECUTE format('CREATE FUNCTION %I(int) RETURNS void LANGUAGE sql AS $f$ INSERT INTO %I (tenant_id)
      SELECT (''00000000-0000-0000-0000-'' || lpad((n %% 100 + 1)::text, 12, ''0''))::uuid FROM generate_series(1, $1) n $f$', 'fill_' || t, t);
    EXECUTE format('CREATE FUNCTION %I(uuid) RETURNS bigint LANGUAGE plpgsql AS $f$ DECLARE made bigint; BEGIN
      INSERT INTO %I (tenant_id) VALUES ($1) RETURNING id INTO made; RETURN made; END $f$', 'create_' || t, t);
    EXECUTE format('CREATE FUNCTION %I(uuid) RETURNS bigint LANGUAGE plpgsql AS $f$ DECLARE made bigint; BEGIN
      EXECUTE ''INSERT INTO %I (tenant_id) VALUES ($1) RETURNING id'' INTO made USING $1; RETURN made; END $f$', 'dynamic_' || t, t);
  END LOOP; END $$;
CREATE TRIGGER track AFTER INSERT OR UPDATE OR DELETE ON by_row FOR EACH ROW EXECUTE FUNCTION track_row();
CREATE TRIGGER track AFTER INSERT OR UPDATE OR DELETE ON by_update FOR EACH ROW EXECUTE FUNCTION track_update();
CREATE TRIGGER track_i AFTER INSERT ON by_statement REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION track_statement();
CREATE TRIGGER track_u AFTER UPDATE ON by_statement REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION track_statement();
CREATE TRIGGER track_d AFTER DELETE ON by_statement REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION track_statement()";

/// The same, and so many tracked tables in all.
pub fn tracked_schema(tables: u32) -> String {
    format!(
        "{BUMPS_SCHEMA}; DO $$ BEGIN FOR n IN 2..{tables} LOOP \
         EXECUTE format('CREATE TABLE tv_t%s (id bigint, tenant_id uuid)', n); END LOOP; END $$"
    )
}

/// A way to bump.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    pub name: &'static str,
    pub table: &'static str,
    /// Its figures are ratios to those of this one.
    pub control: &'static str,
    pub through: bool,
}

pub const WAYS: [Way; 6] = [
    Way { name: NO_BUMP, table: "plain", control: NO_BUMP, through: false },
    Way { name: ROW_TRIGGER, table: "by_row", control: NO_BUMP, through: false },
    Way { name: "row trigger, update", table: "by_update", control: NO_BUMP, through: false },
    Way { name: "statement trigger", table: "by_statement", control: NO_BUMP, through: false },
    Way { name: UNTRACKED, table: "untracked", control: UNTRACKED, through: true },
    // Its control is the same statement, through Turnstile too, on a table that it does not track.
    Way { name: crate::contenders::TURNSTILE, table: "tv_post", control: UNTRACKED, through: true },
];

pub fn relay_loads() -> Vec<Load> {
    let select = "SELECT abalance FROM accounts WHERE aid = $1";
    let transfer = [
        "BEGIN",
        "UPDATE accounts SET abalance = abalance + 1 WHERE aid = $1",
        select,
        "UPDATE tellers SET tbalance = tbalance + 1 WHERE tid = $1 % 1000 + 1",
        "UPDATE branches SET bbalance = bbalance + 1 WHERE bid = $1 % 100 + 1",
        "INSERT INTO history VALUES ($1 % 1000 + 1, $1 % 100 + 1, $1, 1, now())",
        "END",
    ];
    let transfer = transfer.map(str::to_owned).to_vec();
    let mut loads = Vec::new();
    for mode in Mode::ALL {
        for clients in [1, 8, 32] {
            let load = Load::new(&select_load(mode, clients), mode, clients, select);
            loads.push(Load { quick: clients < 32, ..load });
        }
    }
    for mode in Mode::ALL {
        for clients in [1, 8, 32] {
            let load = Load::new(&format!("TPC-B-like, {}, {clients} clients", mode.word()), mode, clients, "");
            loads.push(Load { statements: transfer.clone(), ..load });
        }
    }
    let pipeline = Load::new("pipeline of 100, prepared, 8 clients", Mode::Prepared, 8, select);
    loads.push(Load { pipeline: 100, ..pipeline });
    let rows = "SELECT aid, bid, abalance, filler FROM accounts";
    loads.push(Load::new(ROWS_LOAD, Mode::Simple, 1, rows).in_quick());
    let times = COPIED_BYTES / (100_000 * 98);
    let copy = format!("COPY (SELECT a.* FROM accounts a, generate_series(1, {times})) TO STDOUT");
    loads.push(Load::new(COPY_OUT_LOAD, Mode::Simple, 1, &copy));
    // The rows are parsed and not kept.
    let copy = Load::new(COPY_IN_LOAD, Mode::Simple, 1, "COPY accounts FROM STDIN WHERE aid < 0");
    loads.push(Load { copied_bytes: COPIED_BYTES, ..copy });
    let connect = Load::new("connect, select, disconnect, 8 clients", Mode::Simple, 8, "SELECT 1");
    loads.push(Load { reconnect: true, ..connect });
    loads
}

pub const ROWS_LOAD: &str = "100,000 rows, 1 client";
pub const COPY_OUT_LOAD: &str = "COPY out of 1 GiB, 1 client";
pub const COPY_IN_LOAD: &str = "COPY in of 1 GiB, 1 client";

pub fn select_load(mode: Mode, clients: usize) -> String {
    format!("select, {}, {clients} clients", mode.word())
}

fn tenants(name: &str, clients: usize, sql: &str, numbers: u32) -> Load {
    Load { numbers, tenants: true, ..Load::new(name, Mode::Prepared, clients, sql) }
}

const INSERT: &str = "INSERT INTO {table} (tenant_id) VALUES ($1)";

pub fn insert_load(tenants: &str, clients: usize) -> String {
    format!("insert, {tenants}, {clients} clients")
}

pub const INSERT_SELECT_LOAD: &str = "10,000 rows, INSERT SELECT, 1 client";
pub const VALUES_LOAD: &str = "10,000 rows, VALUES, 1 client";

/// What processors bound: the cluster does not wait for its disk.
pub fn bump_loads() -> Vec<Load> {
    let mut loads = inserts();
    let simple = tenants("insert, simple, one tenant, 8 clients", 8, INSERT, 1);
    loads.push(Load { mode: Mode::Simple, ..simple });
    for level in ["repeatable read", "serializable"] {
        let load = tenants(&format!("insert, {}, one tenant, 8 clients", level.to_uppercase()), 8, INSERT, 1);
        loads.push(Load { setup: format!("SET default_transaction_isolation = '{level}'"), ..load }.in_quick());
    }
    for (rows, word) in [(100, "100"), (1_000, "1,000"), (10_000, "10,000")] {
        let select = format!("INSERT INTO {{table}} (tenant_id) SELECT $1::uuid FROM generate_series(1, {rows})");
        let load = tenants(&format!("{word} rows, INSERT SELECT, 1 client"), 1, &select, 1);
        loads.push(Load { quick: rows == 10_000, ..load });
    }
    for (rows, word) in [(100, "100"), (1_000, "1,000"), (10_000, "10,000")] {
        let values = vec!["($1)"; rows].join(",");
        let load = tenants(
            &format!("{word} rows, VALUES, 1 client"),
            1,
            &format!("INSERT INTO {{table}} (tenant_id) VALUES {values}"),
            1,
        );
        loads.push(Load { quick: rows == 10_000, mode: Mode::Simple, ..load });
    }
    // 10 of 1,000 rows have each tenant; rows are locked in the index's order: no deadlock of the load itself.
    let update = "UPDATE {table} SET x = x + 1 WHERE tenant_id = $1";
    loads.push(tenants("update of 10 rows, 100 tenants, 1 client", 1, update, 100));
    loads.push(tenants(
        "update of 1,000 rows, 1 client",
        1,
        "UPDATE {table} SET x = x + 1 WHERE $1::uuid IS NOT NULL",
        1,
    ));
    let delete = "DELETE FROM {table} WHERE tenant_id = $1 AND x >= 0";
    let replace = tenants("delete of 1 row and its insert, 100 tenants, 1 client", 1, "", 100);
    let insert = INSERT.to_owned();
    loads.push(Load { statements: vec![insert, delete.to_owned()], setup: EMPTY.to_owned(), ..replace });
    loads.push(tenants("mutation function, one tenant, 8 clients", 8, "SELECT create_{table}($1)", 1).in_quick());
    for (database, tables) in TRACKED {
        let name = format!("mutation function, dynamic SQL, {tables} tracked tables, 8 clients");
        loads.push(Load { database, ..tenants(&name, 8, "SELECT dynamic_{table}($1)", 1) });
    }
    loads
}

/// Deletes would else find the rows that the table is filled with.
const EMPTY: &str = "TRUNCATE plain, by_row, by_update, by_statement, untracked, tv_post";

/// With a disk to wait for.
pub fn durable_loads() -> Vec<Load> {
    let durable = |load: Load| Load { name: format!("durable {}", load.name), ..load };
    inserts().into_iter().map(durable).collect()
}

fn inserts() -> Vec<Load> {
    let mut loads = Vec::new();
    for (word, numbers) in [("one tenant", 1), ("100 tenants", 100)] {
        for clients in [1, 8, 32] {
            let load = tenants(&insert_load(word, clients), clients, INSERT, numbers);
            loads.push(Load { quick: numbers == 1 && clients != 8, ..load });
        }
    }
    loads
}
