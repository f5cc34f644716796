//! Start, drain, servers that go away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use crate::support::wire::{Wire, query, startup, sync, transcript, unnamed};
use crate::support::{Env, Route, Setup, T1, connect, eventually, try_connect};
use turnstile::catalog::loader::For;
use turnstile::versions;

#[tokio::test(flavor = "multi_thread")]
async fn drain_lets_transactions_end() {
    let mut env = Env::new(Route::Direct).await;
    let mut idle = Wire::login(env.port);
    let mut busy = Wire::login(env.port);
    busy.ask(&query("BEGIN"));
    busy.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}')")));
    let running = env.running.take().unwrap();
    let admin = running.admin.unwrap();
    let shutdown = tokio::spawn(running.shutdown());
    let farewell = transcript(&idle.until_ready());
    assert_eq!(farewell, "E(57P01 terminating connection due to administrator command)");
    assert!(idle.next().is_none());
    assert!(try_connect(env.port, "postgres").await.is_err(), "no new clients");
    assert_eq!(http(admin, "/ready").await, (503, "draining\n".into()));
    assert_eq!(busy.ask(&query("COMMIT")), "C(COMMIT) ZI");
    let farewell = transcript(&busy.until_ready());
    assert_eq!(farewell, "E(57P01 terminating connection due to administrator command)");
    tokio::time::timeout(Duration::from_secs(20), shutdown).await.unwrap().unwrap();
    let row = env.direct.query_one("SELECT count(*) FROM tv_user", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_bounded() {
    let mut env = Env::with(Setup { config: "drain_timeout_ms = 100".into(), ..Setup::default() }).await;
    let mut busy = Wire::login(env.port);
    busy.ask(&query("BEGIN"));
    tokio::time::timeout(Duration::from_secs(10), env.running.take().unwrap().shutdown()).await.unwrap();
    assert_eq!(transcript(&busy.until_ready()), "E(57P01 terminating connection due to administrator command)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_reported_once() {
    let mut env = Env::new(Route::Direct).await;
    let mut wire = Wire::login(env.port);
    wire.send(&query("SELECT pg_sleep(60)"));
    eventually("the statement runs", async || {
        env.direct
            .query_one("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 1
    })
    .await;
    env.direct
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", &[])
        .await
        .unwrap();
    let answer = transcript(&wire.until_ready());
    assert_eq!(answer, "T E(57P01 terminating connection due to administrator command)");
    assert!(wire.next().is_none());

    // The whole server goes away and comes back.
    let mut wire = Wire::login(env.port);
    env.cluster.kill().unwrap();
    let last = transcript(&wire.until_ready());
    assert!(last.is_empty() || last.contains("(57P0"), "{last}");
    let mut wire = Wire::dial(env.port);
    wire.send(&startup(&[("user", "postgres"), ("database", "postgres")]));
    let refused = transcript(&wire.until_ready());
    assert!(refused.starts_with("E(08001 turnstile cannot reach the server"), "{refused}");
    env.cluster.restart().unwrap();
    let mut wire = Wire::login(env.port);
    assert!(wire.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}')"))).starts_with("C(INSERT 0 1)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited() {
    let env = Env::with(Setup { config: "connections_max = 2".into(), ..Setup::default() }).await;
    let _first = Wire::login(env.port);
    let second = Wire::login(env.port);
    let mut third = Wire::dial(env.port);
    third.send(&startup(&[("user", "postgres"), ("database", "postgres")]));
    assert_eq!(transcript(&third.until_ready()), "E(53300 sorry, too many clients already)");
    drop(second);
    eventually("a place is free", async || try_connect(env.port, "postgres").await.is_ok()).await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_endpoints() {
    let env = Env::new(Route::Direct).await;
    let admin = env.running.as_ref().unwrap().admin.unwrap();
    let mut wire = Wire::login(env.port);
    wire.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}')")));
    wire.ask(&query("SELECT app.write_two(2)"));
    wire.ask(&query("FROBNICATE"));
    assert_eq!(http(admin, "/live").await, (200, "live\n".into()));
    assert_eq!(http(admin, "/ready").await, (200, "ready\n".into()));
    let (status, text) = http(admin, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "turnstile_connections 1",
        "turnstile_statements_total{class=\"write\"} 1",
        "turnstile_statements_total{class=\"measured\"} 2",
        "turnstile_measured_statements_total{reason=\"function_call\"} 1",
        "turnstile_unparsed_statements_total 1",
        "turnstile_schema_installed{database=\"postgres\"} 1",
        "turnstile_added_latency_seconds{quantile=\"0.99\"}",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    env.cluster.kill().unwrap();
    assert_eq!(http(admin, "/ready").await.0, 503);
}

/// Strangers may connect to the admin endpoints and say nothing: few at a time, and nobody's client is refused for it.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_to_the_admin_endpoints() {
    let env = Env::new(Route::Direct).await;
    let admin = env.running.as_ref().unwrap().admin.unwrap();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(tokio::net::TcpStream::connect(admin).await.unwrap());
    }
    // Ours here, and those of Turnstile.
    let most = before + 300 + turnstile::limits::ADMIN_CONNECTIONS_MAX;
    eventually("the oldest are gone", async || (most - 8..=most + 4).contains(&descriptors())).await;
    // One that asks is answered.
    assert_eq!(http(admin, "/live").await, (200, "live\n".into()));
    Wire::login(env.port).ask(&query("SELECT 1"));
    drop(silent);
    env.stop().await;
}

/// A process starts while another one that still drains has the admin port, and takes it over.
#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_is_still_taken() {
    let env = Env::new(Route::Direct).await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let args = turnstile::cli::ServeArgs {
        listen: Some("127.0.0.1:0".into()),
        admin_listen: Some(address.to_string()),
        server: Some(env.cluster.url("postgres")),
        ..Default::default()
    };
    let config = turnstile::config::Config::new(&args, &Default::default()).unwrap();
    let running = turnstile::app::Running::start(config).await.unwrap();
    Wire::login(running.listen.port()).ask(&query("SELECT 1"));
    drop(taken);
    eventually("it is there", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
    assert_eq!(http(address, "/ready").await, (200, "ready\n".into()));
    running.shutdown().await;
    env.stop().await;
}

/// A pooler that is gone is told from a server that is.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_tells_both_paths() {
    let mut env = Env::new(Route::Bouncer).await;
    let admin = env.running.as_ref().unwrap().admin.unwrap();
    assert_eq!(http(admin, "/ready").await.0, 200);
    env.stop_bouncer();
    let (status, words) = http(admin, "/ready").await;
    assert!(status == 503 && words.contains("takes no connections"), "{words}");
    env.stop().await;
}

/// Status and body of a GET.
async fn http(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// Reading the catalog prints definitions of views, which waits for their locks.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_definition_keeps_nobody_out() {
    let env = Env::new(Route::Direct).await;
    env.direct("CREATE DATABASE second TEMPLATE template0").await;
    let second = try_connect(env.cluster.port(), "second").await.unwrap();
    versions::install(&second).await.unwrap();
    second.batch_execute("CREATE TABLE tv_a (id int); CREATE VIEW v AS SELECT 1 AS one").await.unwrap();
    second.batch_execute("BEGIN; LOCK TABLE v IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let client = try_connect(env.port, "second").await.unwrap();
    client.batch_execute("INSERT INTO tv_a VALUES (1)").await.unwrap();
    second.batch_execute("COMMIT").await.unwrap();
    let version = "SELECT version FROM turbo.tb_domain_version WHERE domain = 'a' AND tenant_id IS NULL";
    assert_eq!(second.query_one(version, &[]).await.unwrap().get::<_, i64>(0), 1);
    let databases = &env.running.as_ref().unwrap().databases;
    let database = databases.get("second", For::Operator).await.unwrap();
    eventually("the catalog is read", async || database.view().fresh).await;
    client.batch_execute("INSERT INTO tv_a VALUES (2)").await.unwrap();
    assert_eq!(second.query_one(version, &[]).await.unwrap().get::<_, i64>(0), 2);
    // Without clients nobody of ours stands in the way of a DROP.
    drop((client, second));
    drop(database);
    env.direct("DROP DATABASE second").await;
    env.direct("CREATE DATABASE second").await;
    let client = try_connect(env.port, "second").await.unwrap();
    let database = databases.get("second", For::Operator).await.unwrap();
    // Dropped: forgotten, nobody asks for it any more; made again: found.
    drop(client);
    env.direct("DROP DATABASE second WITH (FORCE)").await;
    eventually("it is forgotten", async || database.is_forgotten()).await;
    env.direct("CREATE DATABASE second").await;
    try_connect(env.port, "second").await.unwrap().batch_execute("SELECT 1").await.unwrap();
    assert!(!databases.get("second", For::Operator).await.unwrap().is_forgotten());
    env.stop().await;
}

/// A database that is dropped and made again is another one, whatever was known of the former.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_made_again_under_its_name() {
    let env = Env::new(Route::Direct).await;
    for installed in [true, false, true] {
        env.direct("DROP DATABASE IF EXISTS second WITH (FORCE)").await;
        env.direct("CREATE DATABASE second").await;
        let direct = try_connect(env.cluster.port(), "second").await.unwrap();
        if installed {
            versions::install(&direct).await.unwrap();
        }
        let client = try_connect(env.port, "second").await.unwrap();
        client.batch_execute("CREATE TABLE tv_a (id int)").await.unwrap();
        client.batch_execute("INSERT INTO tv_a VALUES (1)").await.unwrap();
        if installed {
            let version = "SELECT turbo.fn_domain_version(NULL, 'a')";
            assert!(direct.query_one(version, &[]).await.unwrap().get::<_, i64>(0) > 0);
        }
    }
    env.stop().await;
}

/// With `--install`, at once behind: nothing that is known of a database belongs to its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_made_again_and_the_schema_with_it() {
    let env = Env::with(Setup { tables: false, config: "install = true".into(), ..Setup::default() }).await;
    env.direct("CREATE DATABASE x").await;
    for round in 0..12 {
        let client = try_connect(env.port, "x").await.unwrap();
        client.batch_execute("CREATE TABLE t (a int)").await.unwrap();
        if round % 2 == 0 {
            env.direct("DROP DATABASE x WITH (FORCE)").await;
        } else {
            env.direct("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'x'").await;
            drop(client);
            env.direct("DROP DATABASE x WITH (FORCE)").await;
        }
        env.direct("CREATE DATABASE x").await;
        let client = try_connect(env.port, "x").await.unwrap();
        for sql in [
            "CREATE TABLE t (a int)",
            "BEGIN",
            "INSERT INTO t VALUES (1)",
            "COMMIT",
            "CREATE TABLE tv_a (id int)",
            "INSERT INTO tv_a VALUES (1)",
        ] {
            client.batch_execute(sql).await.unwrap_or_else(|error| panic!("round {round}: {sql}: {error:?}"));
        }
        let direct = try_connect(env.cluster.port(), "x").await.unwrap();
        let version =
            direct.query_one("SELECT turbo.fn_domain_version(NULL, 'a')", &[]).await.unwrap().get::<_, i64>(0);
        assert!(version > 0, "round {round}");
        client.batch_execute("DROP TABLE t").await.unwrap();
    }
    env.stop().await;
}

/// The schema goes while clients are connected: their statements go on without versions.
#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_removed_under_a_client() {
    let env = Env::new(Route::Direct).await;
    let client = env.client().await;
    client.batch_execute("CREATE TABLE one (id int)").await.unwrap();
    env.direct("DROP SCHEMA turbo CASCADE").await;
    client.batch_execute("CREATE TABLE two (id int)").await.unwrap();
    client.batch_execute("INSERT INTO tv_plain VALUES (1)").await.unwrap();
    assert_eq!(env.direct.query("SELECT FROM tv_plain", &[]).await.unwrap().len(), 1);
    env.stop().await;
}

/// What writers have begun and ended.
#[derive(Default)]
struct Load {
    begun: AtomicI64,
    ended: AtomicI64,
    stop: AtomicBool,
}

impl Load {
    async fn write(&self, port: u16) {
        let client = connect(port).await;
        let insert = format!("INSERT INTO tv_user VALUES (nextval('made'), '{T1}')");
        let prepared = client.prepare("INSERT INTO tv_user VALUES (nextval('made'), $1)").await.unwrap();
        let tenant: uuid::Uuid = T1.parse().unwrap();
        while !self.stop.load(Ordering::SeqCst) {
            let turn = self.begun.fetch_add(1, Ordering::SeqCst) % 3;
            match turn {
                0 => client.batch_execute(&insert).await.unwrap(),
                1 => client.batch_execute(&format!("BEGIN; {insert}; COMMIT")).await.unwrap(),
                _ => drop(client.execute(&prepared, &[&tenant]).await.unwrap()),
            }
            self.ended.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn begun(&self) -> i64 {
        self.begun.load(Ordering::SeqCst)
    }
}

/// No statement fails, and each one that begins behind an install moves versions.
#[tokio::test(flavor = "multi_thread")]
async fn the_schema_comes_and_goes_under_load() {
    let env = Env::new(Route::Direct).await;
    let installer = connect(env.cluster.port()).await;
    env.direct("CREATE SEQUENCE made").await;
    let version = format!("SELECT turbo.fn_domain_version('{T1}', 'user')");
    let version = async || installer.query_one(&version, &[]).await.unwrap().get::<_, i64>(0);
    for round in 0..6 {
        let load = Arc::new(Load::default());
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let (load, port) = (Arc::clone(&load), env.port);
                tokio::spawn(async move { load.write(port).await })
            })
            .collect();
        let further = async |count: i64| {
            let from = load.begun();
            eventually("they write", async || load.begun() >= from + count).await;
        };
        further(30).await;
        versions::uninstall(&installer).await.unwrap();
        further(30).await;
        versions::install(&installer).await.unwrap();
        let ended = load.ended.load(Ordering::SeqCst);
        let before = version().await;
        let begun = load.begun();
        further(60).await;
        load.stop.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        let moved = version().await - before;
        assert!(moved >= load.begun() - begun, "round {round}: {moved} of {} or more", load.begun() - begun);
        assert!(moved <= load.begun() - ended, "round {round}: {moved} of {} at most", load.begun() - ended);
    }
    env.stop().await;
}

/// The server looks whether its client is there (`client_connection_check_interval`): it sees the same as without us.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_ends_during_its_statement() {
    let settings = vec!["client_connection_check_interval = 50ms".to_owned()];
    let env = Env::with(Setup { settings, ..Setup::default() }).await;
    for flight in [
        query("SELECT pg_sleep(60)"),
        query("INSERT INTO tb_user (name) SELECT pg_sleep(60)::text"),
        [unnamed("SELECT pg_sleep(60)", &[]), sync()].concat(),
        [unnamed(&format!("INSERT INTO tv_user SELECT 7, '{T1}', pg_sleep(60)::text"), &[]), sync()].concat(),
    ] {
        let mut wire = Wire::login(env.port);
        wire.send(&flight);
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        let sleeping = async || env.direct.query_one(sleeping, &[]).await.unwrap().get::<_, i64>(0);
        eventually("it runs", async || sleeping().await == 1).await;
        drop(wire);
        eventually("the server has noticed", async || sleeping().await == 0).await;
    }
    assert_eq!(env.direct.query("SELECT FROM tv_user", &[]).await.unwrap().len(), 0);
    env.stop().await;
}
