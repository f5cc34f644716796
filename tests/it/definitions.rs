//! All forms of PostgreSQL's definition statements (fixtures/definitions): those that change what a reader is shown move the
//! versions that it looks at.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::wire::{Wire, query, startup, sync, unnamed};
use crate::support::{Env, Route, Setup, T1, try_connect};
use tokio_postgres::Client;

/// One block of fixtures/definitions/forms.txt, which says what its lines mean.
#[derive(Debug, Default)]
struct Form {
    setup: Vec<String>,
    sql: String,
    needs: i32,
    until: i32,
    fresh: bool,
    cleanup: Vec<String>,
    reads: BTreeSet<String>,
}

fn forms() -> Vec<Form> {
    let text = include_str!("../../fixtures/definitions/forms.txt");
    text.split("\n\n").filter_map(form).collect()
}

fn form(block: &str) -> Option<Form> {
    let mut form = Form { until: i32::MAX, ..Form::default() };
    for line in block.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("no key: {line}"));
        match key {
            "setup" => form.setup.push(value.to_owned()),
            "SQL" => form.sql = value.to_owned(),
            "needs" => form.needs = value.parse().unwrap(),
            "until" => form.until = value.parse().unwrap(),
            "fresh" => form.fresh = true,
            "cleanup" => form.cleanup.push(value.to_owned()),
            "reads" => form.reads = value.split(' ').filter(|word| *word != "-").map(str::to_owned).collect(),
            other => panic!("unknown key {other}"),
        }
    }
    (!form.sql.is_empty()).then_some(form)
}

/// What Turnstile does not see, and why.
const NOT_SEEN: &[(&str, &str)] = &[
    ("COMMIT PREPARED", "what a transaction that was prepared around Turnstile has done"),
    ("DELETE FROM pg_catalog.", "system catalogs written by hand"),
];

const VERSIONS: &str = "SELECT domain, version FROM turbo.tb_domain_version WHERE tenant_id IS NULL \
     UNION ALL SELECT '', turbo.fn_domain_version(NULL, '-')";

impl Form {
    fn check(&self, answer: &str, before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) -> Result<(), String> {
        if answer.contains("E(") {
            return Err(format!("{}: {answer}", self.sql));
        }
        let every = after.get("") != before.get("");
        // Of a domain that did not exist nobody has read anything.
        let missed =
            |domain: &&String| before.contains_key(*domain) && !every && after.get(*domain) == before.get(*domain);
        let missed: Vec<&String> = self.reads.iter().filter(missed).collect();
        if missed.is_empty() { Ok(()) } else { Err(format!("{}: missed {missed:?}", self.sql)) }
    }
}

/// Rows of [`VERSIONS`] in a transcript.
fn parsed(transcript: &str) -> BTreeMap<String, i64> {
    let rows = transcript.split("D(").skip(1).filter_map(|row| row.split(')').next()?.split_once(','));
    rows.map(|(domain, version)| (domain.to_owned(), version.parse().unwrap())).collect()
}

async fn versions(direct: &Client) -> BTreeMap<String, i64> {
    direct.query(VERSIONS, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

struct Bench {
    env: Env,
    databases: usize,
    direct: Option<(String, Client)>,
}

impl Bench {
    /// The same in a block that is rolled back, which is faster than a database of its own; `None` where it refuses one.
    async fn run_in_block(&mut self, form: &Form) -> Option<Result<(), String>> {
        let (name, direct) = self.database(false).await;
        let sql = form.sql.replace("{db}", &name);
        let mut wire = Wire::dial(self.env.port);
        wire.send(&startup(&[("user", "postgres"), ("database", &name)]));
        wire.until_ready();
        self.direct = Some((name, direct));
        wire.ask(&query("BEGIN"));
        let before = parsed(&wire.ask(&query(VERSIONS)));
        let answer = wire.ask(&query(&sql));
        let after = parsed(&wire.ask(&query(VERSIONS)));
        wire.ask(&query("ROLLBACK"));
        if after.is_empty() {
            return None;
        }
        Some(form.check(&answer, &before, &after))
    }

    /// A database with the base in it.
    async fn database(&mut self, fresh: bool) -> (String, Client) {
        if let Some(kept) = self.direct.take().filter(|_| !fresh) {
            return kept;
        }
        self.databases += 1;
        let name = format!("forms_{}", self.databases);
        self.env.direct(&format!("CREATE DATABASE {name} TEMPLATE forms_base")).await;
        let direct = try_connect(self.env.cluster.port(), &name).await.unwrap();
        (name, direct)
    }

    /// Runs a form; what is wrong with it.
    async fn run(&mut self, form: &Form) -> Option<String> {
        if form.setup.is_empty()
            && let Some(outcome) = self.run_in_block(form).await
        {
            return outcome.err();
        }
        let (name, direct) = self.database(form.fresh).await;
        let in_database = |sql: &str| sql.replace("{db}", &name);
        for setup in &form.setup {
            direct.batch_execute(&in_database(setup)).await.unwrap_or_else(|error| panic!("{setup}: {error:?}"));
        }
        let mut wire = Wire::dial(self.env.port);
        wire.send(&startup(&[("user", "postgres"), ("database", &name)]));
        wire.until_ready();
        let before = versions(&direct).await;
        let answer = wire.ask(&query(&in_database(&form.sql)));
        let after = versions(&direct).await;
        drop(wire);
        let found = form.check(&answer, &before, &after).err();
        for cleanup in &form.cleanup {
            direct.batch_execute(&in_database(cleanup)).await.unwrap_or_else(|error| panic!("{cleanup}: {error:?}"));
        }
        if form.fresh {
            drop(direct);
            self.env.direct(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
        } else {
            self.direct = Some((name, direct));
        }
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_readers_are_shown_moves_their_versions() {
    let env = Env::with(Setup { tables: false, ..Setup::default() }).await;
    let version = env.server_version().await;
    env.direct("CREATE DATABASE forms_base").await;
    let base = try_connect(env.cluster.port(), "forms_base").await.unwrap();
    turnstile::versions::install(&base).await.unwrap();
    base.batch_execute(include_str!("../../fixtures/definitions/base.sql")).await.unwrap();
    drop(base);
    let mut bench = Bench { env, databases: 0, direct: None };
    let mut wrong = Vec::new();
    let all = std::env::var_os("ALL_FORMS").is_some();
    let mut harmless = 0;
    for form in forms().iter().filter(|form| (form.needs..=form.until).contains(&version)) {
        // Of those that concern no reader, some: they cannot be missed.
        harmless += usize::from(form.reads.is_empty());
        if NOT_SEEN.iter().any(|(start, _)| form.sql.starts_with(start)) {
            continue;
        }
        if all || !form.reads.is_empty() || harmless % 20 == 0 {
            wrong.extend(bench.run(form).await);
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    bench.env.stop().await;
}

fn user(id: u32) -> String {
    format!("INSERT INTO tv_user VALUES ({id}, '{T1}')")
}

/// A temporary table is nobody's cache, whatever it is called.
#[tokio::test(flavor = "multi_thread")]
async fn temporary_tables_move_nothing() {
    let env = Env::new(Route::Direct).await;
    for settled in [false, true] {
        for (make, go) in [
            ("CREATE TEMP TABLE tv_gone (id int)", "DROP TABLE tv_gone"),
            ("CREATE TEMP TABLE tv_gone AS SELECT 1 AS id", "DROP TABLE pg_temp.tv_gone"),
            ("CREATE TEMP TABLE tv_user (id int)", "DROP TABLE IF EXISTS tv_user"),
            ("CREATE TEMP TABLE tv_post (id int)", "DROP TABLE tv_post CASCADE"),
            ("CREATE TEMP TABLE tv_gone (id int)", "DISCARD TEMP"),
        ] {
            let mut wire = Wire::login(env.port);
            env.fresh().await;
            let before = env.versions().await;
            let mut answers = wire.ask(&query(make));
            if settled {
                env.settle_catalog().await;
            }
            answers += &wire.ask(&query(go));
            assert!(!answers.contains("E("), "{answers}");
            assert_eq!(env.versions().await.since(&before), "", "{make}; {go}, settled: {settled}");
        }
    }
    env.stop().await;
}

/// Definitions of one session on which no statement of another one depends: those are neither measured, nor move more.
#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_concern_nobody() {
    let env = Env::new(Route::Direct).await;
    env.direct("CREATE MATERIALIZED VIEW digest AS SELECT count(*) FROM tb_user; CREATE ROLE somebody").await;
    env.settle_catalog().await;
    let (mut definer, mut writer) = (Wire::login(env.port), Wire::login(env.port));
    let stale = "turnstile_measured_statements_total{reason=\"catalog_stale\"}";
    let texts = |n: u32| {
        vec![
            format!("CREATE TEMP TABLE scratch_{n} (id int, v numeric(10, 2) DEFAULT 0)"),
            format!("DROP TABLE scratch_{n}"),
            format!("CREATE OR REPLACE FUNCTION pg_temp.lower(t text) RETURNS text LANGUAGE sql AS 'SELECT t || {n}'"),
            format!("CREATE ROLE role_{n}"),
            format!("ALTER ROLE role_{n} CREATEDB"),
            format!("DROP ROLE role_{n}"),
            "COMMENT ON TABLE tb_user IS 'users'".to_owned(),
            "REFRESH MATERIALIZED VIEW digest".to_owned(),
            format!("CREATE INDEX CONCURRENTLY index_{n} ON tb_user (name)"),
            format!("DROP INDEX CONCURRENTLY index_{n}"),
            format!(
                "CREATE TABLE made_{n} (id serial PRIMARY KEY, name varchar(20) NOT NULL UNIQUE, at timestamptz DEFAULT now())"
            ),
            format!("CREATE INDEX ON made_{n} (name DESC, lower(name)) WHERE id > 0"),
            format!("INSERT INTO made_{n} (name) VALUES ('x')"),
            format!("SELECT * FROM made_{n}"),
            format!("CREATE SEQUENCE sequence_{n}; DROP SEQUENCE sequence_{n}"),
            format!("DROP TABLE made_{n}"),
            "REINDEX TABLE tb_user".to_owned(),
            "ANALYZE tb_user".to_owned(),
            "GRANT SELECT ON tb_user TO somebody".to_owned(),
        ]
    };
    let mut id = 0;
    let mut wrong = Vec::new();
    let old = env.server_version().await < 15;
    let concurrently = |text: &str| text.contains("CONCURRENTLY") || text.contains("REINDEX");
    for round in 0..6 {
        let block = round % 2 == 1;
        for text in texts(round).into_iter().filter(|text| !block || !concurrently(text)) {
            let before = (env.versions().await, env.metric(stale));
            if block {
                definer.ask(&query("BEGIN"));
            }
            let answer = definer.ask(&query(&text));
            id += 1;
            writer.ask(&[unnamed(&user(id), &[]), sync()].concat());
            writer.ask(&query(&format!("UPDATE tv_user SET name = 'x' WHERE id = {id} AND tenant_id = '{T1}'")));
            if block {
                definer.ask(&query("COMMIT"));
            }
            let moved = env.versions().await.since(&before.0);
            let measured = env.metric(stale) - before.1;
            // Members of a role that goes may be shown something else.
            let told = text.contains("DROP ROLE") && moved.contains("T1 +");
            // PostgreSQL 14 adds its counters up at any time, between begin and end of a measurement too: what is measured
            // moves more there, now and then.
            let told = told || old;
            if answer.contains("E(") || measured > 0.5 || (moved != "user: T1 +2" && !told) {
                wrong.push(format!("{text}: {answer}: {moved:?}, measured {measured}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What a session has made for itself is found by its name only, and may write.
    definer.ask(&query(
        "CREATE FUNCTION pg_temp.upper(t text) RETURNS text LANGUAGE sql AS 'INSERT INTO tv_feed VALUES (1); SELECT t'",
    ));
    let (answer, moved) = env.moved(async { definer.ask(&query("SELECT upper('x'), pg_temp.upper('x')")) }).await;
    assert_eq!((answer.contains("D(X,x)"), moved.as_str()), (true, "feed: * +1"), "{answer}");
    env.stop().await;
}
