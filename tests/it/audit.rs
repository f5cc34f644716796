//! The audits: statements whose analysis is wrong, and writes that went around Turnstile.

use crate::support::wire::{Wire, query, sync, unnamed};
use crate::support::{Env, Setup, T1, eventually, try_connect};

/// Fingerprints aside: kind, expected, measured.
async fn findings(env: &Env) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', kind, expected, '->', measured) FROM turbo.tb_audit ORDER BY found_at";
    env.direct.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_does_more_than_its_analysis_says() {
    let config = "[audit]\nstatements = true\n[catalog]\nrefresh_ms = 3600000\n".to_owned();
    let env = Env::with(Setup { config, ..Setup::default() }).await;
    env.direct("CREATE FUNCTION app.quiet(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN n; END $$").await;
    env.settle_catalog().await;
    let mut wire = Wire::login(env.port);
    // What is right is silent, whatever it is.
    let right = [
        format!("INSERT INTO tv_user VALUES (1, '{T1}', 'a')"),
        format!("UPDATE tv_user SET name = 'b' WHERE id = 1 AND tenant_id = '{T1}'"),
        "UPDATE tv_user SET name = 'b' WHERE id = -1".into(),
        "SELECT app.quiet(1)".into(),
        "INSERT INTO tb_user (name) VALUES ('x')".into(),
        "EXPLAIN DELETE FROM tv_user".into(),
        format!(
            "BEGIN; INSERT INTO tv_post VALUES (1, '{T1}'); SELECT 1; SAVEPOINT s; DELETE FROM tv_post; ROLLBACK TO s; COMMIT"
        ),
        "SELECT 1/0".into(),
        "INSERT INTO tv_user VALUES (1)".into(),
    ];
    let (_, moved) = env
        .moved(async {
            for sql in &right {
                wire.ask(&query(sql));
            }
            for sql in right.iter().filter(|sql| !sql.contains(';')) {
                wire.ask(&[unnamed(&sql.replace("(1, ", "(2, "), &[]), sync()].concat());
            }
            let block = |sql: &str| [unnamed(sql, &[]), sync()].concat();
            wire.ask(&block("BEGIN"));
            wire.ask(&block(&format!("INSERT INTO tv_post VALUES (3, '{T1}')")));
            wire.ask(&block("COMMIT"));
        })
        .await;
    assert_eq!(findings(&env).await, Vec::<String>::new());
    assert_eq!(moved, "post: T1 +2; user: T1 +4");

    // Somebody teaches a harmless function to write, straight in PostgreSQL; until Turnstile knows, the audit sees
    // what happens, and bumps.
    env.direct("CREATE OR REPLACE FUNCTION app.quiet(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_plain VALUES (n); RETURN n; END $$").await;
    let (_, moved) = env
        .moved(async {
            wire.ask(&query("SELECT app.quiet(1)"));
            wire.ask(&[unnamed("SELECT app.quiet(2)", &[]), sync()].concat());
            wire.ask(&query(&format!("INSERT INTO tv_user VALUES (app.quiet(3), '{T1}')")));
        })
        .await;
    assert_eq!(moved, "plain: * +3; user: T1 +1");
    // A connection of ours keeps them, a moment later.
    eventually("three findings are kept", async || findings(&env).await.len() == 3).await;
    let mut kept = findings(&env).await;
    kept.sort();
    assert_eq!(kept, ["statement {user} -> {plain,user}", "statement {} -> {plain}", "statement {} -> {plain}"]);
    let fingerprints = "SELECT count(DISTINCT fingerprint)::int FROM turbo.tb_audit";
    assert_eq!(env.direct.query_one(fingerprints, &[]).await.unwrap().get::<_, i32>(0), 2);
    assert_eq!(env.metric("turnstile_audit_disagreements_total{kind=\"statement\"}"), 3.0);
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_around_turnstile() {
    let config = "[audit]\naround = \"bump\"\ninterval_ms = 200\n".to_owned();
    let env = Env::with(Setup { config, ..Setup::default() }).await;
    let mut wire = Wire::login(env.port);
    wire.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}', 'a')")));
    let looked = "SELECT count(*) > 0 FROM turbo.tb_audit_state WHERE domain = 'post' AND tuples = 0";
    eventually("the first look", async || env.direct.query_one(looked, &[]).await.unwrap().get::<_, bool>(0)).await;
    let before = env.versions().await;
    // A session tells its counters at its end at the latest.
    let around = try_connect(env.cluster.port(), "postgres").await.unwrap();
    around.batch_execute(&format!("INSERT INTO tv_post VALUES (1, '{T1}'), (2, '{T1}')")).await.unwrap();
    drop(around);
    eventually("the write is found", async || findings(&env).await.contains(&"around {} -> {post}".to_owned())).await;
    assert_eq!(env.versions().await.since(&before), "post: * +1");
    assert_eq!(env.metric("turnstile_audit_disagreements_total{kind=\"around\"}"), 1.0);
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_are_bounded() {
    let env = Env::with(Setup::default()).await;
    env.direct("INSERT INTO turbo.tb_audit (kind, expected, measured, found_at) SELECT 'x', '{}', '{}', now() + i * interval '1 second' FROM generate_series(1, 100) i; SELECT turbo.fn_fold(1000, 60)").await;
    let count = env.direct.query_one("SELECT count(*) FROM turbo.tb_audit", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 60);
    env.stop().await;
}
