//! Roles that may log in, and mean harm: they can make caches read anew, and nothing else.

use tokio_postgres::Client;

use crate::support::wire::{Wire, bind, execute, parse, query, startup, sync, transcript, unnamed};
use crate::support::{Env, Route, Setup, T1, eventually, try_connect_as};

const STRANGER: &str = "
    CREATE ROLE stranger LOGIN;
    GRANT USAGE ON SCHEMA app TO stranger;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO stranger;
    GRANT pg_read_all_stats TO stranger;
    CREATE FUNCTION app.hides(n int, value text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO tv_user VALUES (n, '11111111-1111-1111-1111-111111111111', 'x');
        PERFORM set_config('turnstile.measured', value, true); RETURN n; END $$;
    CREATE FUNCTION app.many(n int) RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO tv_user VALUES (n, NULL, 'x'); RETURN NEXT n; INSERT INTO tv_post VALUES (n, NULL, 'x');
        PERFORM set_config('turnstile.portal', '{user,post}', true); RETURN NEXT n; RETURN NEXT n; END $$;
";

async fn env() -> Env {
    let env = Env::new(Route::Direct).await;
    env.direct(STRANGER).await;
    env.settle_catalog().await;
    env
}

async fn stranger(env: &Env) -> Client {
    try_connect_as(env.cluster.port(), "stranger", "postgres").await.unwrap()
}

fn login(env: &Env) -> Wire {
    let mut wire = Wire::dial(env.port);
    wire.send(&startup(&[("user", "stranger"), ("database", "postgres")]));
    wire.until_ready();
    wire
}

/// A statement that sets what its measurement has remembered proves nothing: every domain is bumped.
#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_measurement_is_forged() {
    let env = env().await;
    let oid: u32 = env.direct.query_one("SELECT 'tv_user'::regclass::oid", &[]).await.unwrap().get(0);
    let counters = format!("turbo.fn_counters('{{{oid}}}')");
    let texts = [
        format!("SELECT app.write_two(%), set_config('turnstile.measured', {counters}, true)"),
        format!("SELECT app.hides(%, {counters})"),
        "SELECT app.write_two(%), turbo.fn_measure_begin(NULL)".to_owned(),
        format!("SELECT app.write_two(%), turbo.fn_measure_begin('{{{oid}}}')"),
        "SELECT app.write_two(%), set_config('turnstile.measured', '', true)".to_owned(),
        "SELECT app.write_two(%), set_config('turnstile.measured', 'x', true)".to_owned(),
        format!(
            "INSERT INTO tv_user VALUES (%, '{T1}', 'x') ON CONFLICT DO NOTHING RETURNING set_config('turnstile.measured', {counters}, true)"
        ),
        format!(
            "DO $$ BEGIN INSERT INTO tv_user VALUES (%); PERFORM set_config('turnstile.measured', {counters}, true); END $$"
        ),
    ];
    let mut wrong = Vec::new();
    let mut id = 100;
    for text in &texts {
        // Alone, behind another statement that it may need, in a block, extended.
        for way in 0..4 {
            id += 1;
            let sql = text.replace("%", &id.to_string());
            env.fresh().await;
            let mut wire = Wire::login(env.port);
            let before = env.versions().await;
            let answer = match way {
                0 => wire.ask(&query(&sql)),
                1 => wire.ask(&query(&format!("INSERT INTO tb_user (name) VALUES ('x'); {sql}"))),
                2 => {
                    wire.ask(&query("BEGIN"));
                    wire.ask(&query("INSERT INTO tb_user (name) VALUES ('x')"));
                    let answer = wire.ask(&query(&sql));
                    wire.ask(&query("COMMIT"));
                    answer
                }
                _ => wire.ask(&[unnamed(&sql, &[]), sync()].concat()),
            };
            let moved = env.versions().await.since(&before);
            if answer.contains("E(") || !moved.contains("user: ") {
                wrong.push(format!("{way} {sql}: {answer}: {moved:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(env.metric("turnstile_forged_measurements_total") > 8.0);
    // What a portal's portions have bumped already may not be forged either: between two of them, or by the statement.
    let mut wire = Wire::login(env.port);
    for between in [&b""[..], &unnamed("SELECT set_config('turnstile.portal', '{user,post}', true)", &[])] {
        id += 1;
        let before = env.versions().await;
        let select = format!("SELECT * FROM app.many({id})");
        let portal = [parse("", &select), bind("p", "", &[]), execute("p", 1)].concat();
        wire.ask(&[&portal[..], between, &execute("p", 1), &execute("p", 0), &sync()].concat());
        let moved = env.versions().await.since(&before);
        assert!(moved.contains("user: ") && moved.contains("post: "), "{moved}");
    }
    env.stop().await;
}

/// Replies are ours or the client's by position, whatever they look like.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_bears_our_name() {
    let env = env().await;
    let mut wire = Wire::login(env.port);
    let name = "substring(current_query() FROM 'AS \"(_turnstile[^\"]*)\"')";
    let shown = wire.ask(&query(&format!("SELECT app.write_two(1), {name}")));
    let name = shown.split("_turnstile_").nth(1).unwrap().split(')').next().unwrap();
    let name = format!("_turnstile_{name}");
    env.direct(&format!("CREATE VIEW v_named AS SELECT 7 AS \"{name}\"")).await;
    env.settle_catalog().await;
    for (id, text) in [
        (2, format!("SELECT 'mine' AS \"{name}\"; SELECT app.write_two(2)")),
        (3, format!("SELECT app.write_two(3); SELECT 'mine' AS \"{name}\"")),
        (4, format!("SELECT app.write_two(4) AS \"{name}\"")),
        (5, format!("INSERT INTO tv_plain VALUES (5, 'x') RETURNING 'mine' AS \"{name}\"; SELECT app.write_two(5)")),
        (6, format!("BEGIN; SELECT 'mine' AS \"{name}\"; SELECT app.write_two(6); COMMIT; SELECT * FROM v_named")),
    ] {
        let (answer, moved) = env.moved(async { wire.ask(&query(&text)) }).await;
        let mine = if id == 4 { "D(4)" } else { "D(mine)" };
        assert!(answer.contains(mine) && (id != 6 || answer.contains("D(7)")), "{text}: {answer}");
        assert!(moved.contains("post: * +1") && moved.contains("user: * +1"), "{text}: {moved}");
    }
    env.stop().await;
}

/// Neither values of any size nor locks keep the log from being folded.
#[tokio::test(flavor = "multi_thread")]
async fn folding_goes_on() {
    let env = Env::with(Setup { config: "[control]\nfold_interval_ms = 10".into(), ..Setup::default() }).await;
    env.direct(STRANGER).await;
    let _folds_while_it_is_used = env.client().await;
    let stranger = stranger(&env).await;
    for refused in [
        "INSERT INTO turbo.tb_bump (domain, bumps, summary) VALUES ('user', 1, repeat('x', 250000000))",
        "INSERT INTO turbo.tb_bump (domain, bumps, bumped_by) VALUES ('user', 1, 'x')",
        "INSERT INTO turbo.tb_bump (domain, bumps) VALUES (repeat('x', 250000000), 1)",
        "SELECT turbo.fn_fold(1)",
        "SELECT turbo.fn_incarnate()",
        "SELECT turbo.fn_audit_note('[\"x\", [], []]')",
        "INSERT INTO turbo.tb_audit (kind, expected, measured) VALUES ('x', '{}', '{}')",
        "UPDATE turbo.tb_fold_state SET folded_below = '99999999'",
        "SELECT 1 FROM turbo.tb_fold_state FOR UPDATE",
        "DELETE FROM turbo.tb_incarnation",
    ] {
        assert!(stranger.batch_execute(refused).await.is_err(), "{refused}");
    }
    let long = "SET app.user_id = 'x'; SELECT set_config('app.user_id', repeat('x', 100000000), false);
                SELECT turbo.fn_bump('{0}', '{1}', '{\"\"}', '{user}', '{}', 'always', repeat('x', 250000000));
                SELECT turbo.fn_bump_all(1, repeat('x', 250000000))";
    stranger.batch_execute(long).await.unwrap();
    let widths = "SELECT coalesce(max(length(summary)), 0) <= 200 AND coalesce(max(length(bumped_by)), 0) <= 200 FROM turbo.tb_bump";
    assert!(env.direct.query_one(widths, &[]).await.unwrap().get::<_, bool>(0));
    stranger
        .batch_execute("SELECT pg_advisory_lock(5282, hashtext('turbo.fn_fold')); SELECT pg_advisory_lock(5282, 1)")
        .await
        .unwrap();
    // This one holds a lock of the table before it asks for rights.
    env.direct(
        "CREATE TABLE mine (); ALTER TABLE mine OWNER TO stranger; GRANT CREATE, TEMP ON DATABASE postgres TO stranger",
    )
    .await;
    let (second, third) = (self::stranger(&env).await, self::stranger(&env).await);
    second.batch_execute("BEGIN; LOCK mine").await.unwrap();
    let inherits = tokio::spawn(async move {
        third.batch_execute("CREATE TEMP TABLE c () INHERITS (turbo.tb_fold_state, mine)").await
    });
    eventually("it waits", async || {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        env.direct.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    env.direct("INSERT INTO turbo.tb_bump (domain, bumps) VALUES ('user', 1)").await;
    eventually("the log is folded", async || {
        env.direct.query_one("SELECT count(*) FROM turbo.tb_bump", &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    second.batch_execute("ROLLBACK").await.unwrap();
    assert!(inherits.await.unwrap().is_err());
    versions_are_installed_whoever_holds_a_lock(&env).await;
    env.stop().await;
}

async fn versions_are_installed_whoever_holds_a_lock(env: &Env) {
    turnstile::versions::uninstall(&env.direct).await.unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(20), turnstile::versions::install(&env.direct))
        .await
        .unwrap()
        .unwrap();
}

/// Nobody makes domains known that no table belongs to, and a bump of every domain is one row.
#[tokio::test(flavor = "multi_thread")]
async fn domains_are_those_of_tables() {
    let env = Env::with(Setup { config: "[control]\nfold_interval_ms = 3600000".into(), ..Setup::default() }).await;
    env.direct(STRANGER).await;
    env.settle_catalog().await;
    let domains = async || env.direct.query("SELECT domain FROM turbo.tb_domain ORDER BY 1", &[]).await.unwrap().len();
    let (known, user) = (domains().await, "SELECT turbo.fn_domain_version(NULL, 'user')");
    let stranger = stranger(&env).await;
    stranger
        .batch_execute(
            "INSERT INTO turbo.tb_bump (domain, bumps) SELECT 'junk' || i, 1 FROM generate_series(1, 3000) i",
        )
        .await
        .unwrap();
    stranger.batch_execute("SELECT turbo.fn_bump_one(NULL, 'junk', 1, false, 'always')").await.unwrap();
    let before: i64 = env.direct.query_one(user, &[]).await.unwrap().get(0);
    let junk: i64 = env.direct.query_one("SELECT turbo.fn_domain_version(NULL, 'junk7')", &[]).await.unwrap().get(0);
    env.direct("SELECT turbo.fn_fold(100000)").await;
    assert_eq!(domains().await, known);
    assert!(env.direct.query("SELECT FROM turbo.tb_domain_base", &[]).await.unwrap().len() <= 2);
    assert!(env.direct.query_one(user, &[]).await.unwrap().get::<_, i64>(0) >= before);
    assert!(
        env.direct.query_one("SELECT turbo.fn_domain_version(NULL, 'junk7')", &[]).await.unwrap().get::<_, i64>(0)
            >= junk
    );
    let (_, moved) =
        env.moved(async { stranger.batch_execute("SELECT turbo.fn_bump_all(1, 'x')").await.unwrap() }).await;
    assert_eq!(moved, "feed: * +1; plain: * +1; post: * +1; user: * +1");
    assert_eq!(env.direct.query("SELECT FROM turbo.tb_bump", &[]).await.unwrap().len(), 1);
    let mut wire = login(&env);
    assert!(wire.ask(&query("SELECT 1")).contains("D(1)"));
    env.stop().await;
}

/// Two bumps of 2^63 - 1 stop no audit, and nobody but Turnstile writes findings.
#[tokio::test(flavor = "multi_thread")]
async fn audits_go_on() {
    let env = env().await;
    let stranger = stranger(&env).await;
    for _ in 0..2 {
        stranger
            .batch_execute("INSERT INTO turbo.tb_bump (domain, bumps) VALUES ('user', 9223372036854775807)")
            .await
            .unwrap();
    }
    stranger
        .batch_execute("BEGIN; SELECT turbo.fn_measure_begin('{}'); SELECT turbo.fn_audit_end('{}', '{user}', true, 'forged'); COMMIT")
        .await
        .unwrap();
    env.direct("SELECT turbo.fn_audit_around(true)").await;
    assert_eq!(env.direct.query("SELECT FROM turbo.tb_audit", &[]).await.unwrap().len(), 0);
    env.stop().await;
}

/// A startup packet without a password does nothing: no connection of ours, no schema; nothing in templates; only for the
/// roles that may.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_have_no_effect() {
    let env = Env::with(Setup {
        tables: false,
        config: "install = true\ninstall_roles = [\"postgres\", \"member\"]".into(),
        ..Setup::default()
    })
    .await;
    for sql in
        ["CREATE ROLE stranger LOGIN", "CREATE ROLE member LOGIN", "CREATE DATABASE other", "CREATE DATABASE closed"]
    {
        env.direct(sql).await;
    }
    let hba: String = env.direct.query_one("SHOW hba_file", &[]).await.unwrap().get(0);
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host closed all 127.0.0.1/32 scram-sha-256\n{rules}")).unwrap();
    env.direct("SELECT pg_reload_conf()").await;
    let installed = async |database: &str| {
        let direct = try_connect_as(env.cluster.port(), "postgres", database).await;
        let sql = "SELECT to_regnamespace('turbo') IS NOT NULL";
        direct.unwrap().query_one(sql, &[]).await.unwrap().get::<_, bool>(0)
    };
    let ask = |user: &str, database: &str| {
        let mut wire = Wire::dial(env.port);
        wire.send(&startup(&[("user", user), ("database", database)]));
        wire
    };
    // Asked for a password, and gone.
    let mut wire = ask("postgres", "closed");
    wire.until(b'R');
    let ours =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'closed' AND application_name = 'turnstile control'";
    assert_eq!(env.direct.query_one(ours, &[]).await.unwrap().get::<_, i64>(0), 0);
    drop(wire);
    assert!(transcript(&ask("nobody", "other").until_ready()).contains("28000"));
    assert!(!installed("other").await);
    for (role, database, expected) in
        [("stranger", "other", false), ("postgres", "template1", false), ("member", "other", true)]
    {
        ask(role, database).until_ready();
        assert_eq!(installed(database).await, expected, "{role} {database}");
    }
    env.stop().await;
}
