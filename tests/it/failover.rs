//! Servers that change: promoted, crashed, restored from a dump. A write behind any of it moves its version, and readers can
//! tell that the former incarnation of versions has ended.

use std::process::Command;

use tokio_postgres::Client;
use turnstile::app::Running;
use turnstile::cli::ServeArgs;
use turnstile::config::{Config, ConfigFile};
use turnstile::embedded::{Cluster, ClusterOptions};

use crate::support::wire::{Wire, bind, execute, parse, query, sync, unnamed};
use crate::support::{Bouncer, Env, Route, Setup, T1, connect, eventually};

async fn serve(server_port: u16, control: &Cluster) -> Running {
    serve_with(server_port, control, "").await
}

async fn serve_with(server_port: u16, control: &Cluster, config: &str) -> Running {
    let args = ServeArgs {
        listen: Some("127.0.0.1:0".into()),
        admin_listen: Some("off".into()),
        server: Some(format!("postgres://postgres@127.0.0.1:{server_port}/postgres")),
        control_server: Some(control.url("postgres")),
        ..ServeArgs::default()
    };
    let config = Config::new(&args, &ConfigFile::parse("test", config).unwrap()).unwrap();
    Running::start(config).await.unwrap()
}

async fn version(client: &Client, domain: &str) -> i64 {
    client.query_one("SELECT turbo.fn_domain_version($1::text::uuid, $2)", &[&T1, &domain]).await.unwrap().get(0)
}

async fn incarnation(client: &Client) -> Option<String> {
    client.query_one("SELECT turbo.fn_incarnation()", &[]).await.unwrap().get(0)
}

/// Until the control plane has noted that the former incarnation is over.
async fn next_incarnation(client: &Client, former: Option<&String>) -> String {
    eventually("a new incarnation", async || {
        let now = incarnation(client).await;
        now.is_some() && now.as_ref() != former
    })
    .await;
    incarnation(client).await.unwrap()
}

/// What a session was told of the server when it began is no reason to leave a bump out.
#[tokio::test(flavor = "multi_thread")]
async fn a_hot_standby_is_promoted() {
    for pooled in [false, true] {
        let env = Env::new(Route::Direct).await;
        let standby = env.cluster.standby().unwrap();
        let bouncer = pooled.then(|| Bouncer::start("pgbouncer".into(), standby.port(), None));
        let running = serve(bouncer.as_ref().map_or_else(|| standby.port(), |bouncer| bouncer.port), &standby).await;
        let direct = connect(standby.port()).await;
        let former = incarnation(&direct).await;
        assert!(former.is_some() && former == incarnation(&env.direct).await);
        let mut sessions: Vec<Wire> = (0..4).map(|_| Wire::login(running.listen.port())).collect();
        for wire in &mut sessions {
            assert!(wire.ask(&query("INSERT INTO tv_user VALUES (1)")).contains("25006"));
        }
        direct.execute("SELECT pg_promote(true, 60)", &[]).await.unwrap();
        let insert = |id: u32| format!("INSERT INTO tv_user VALUES ({id}, '{T1}', 'x')");
        let flights = [
            query(&insert(1)),
            [unnamed(&insert(2), &[]), sync()].concat(),
            query("SELECT app.write_two(3)"),
            [unnamed("SELECT app.write_two(4)", &[]), sync()].concat(),
        ];
        for (at, (wire, flight)) in sessions.iter_mut().zip(flights).enumerate() {
            let before = version(&direct, "user").await;
            let answer = wire.ask(&flight);
            assert!(answer.ends_with("ZI") && !answer.contains("E("), "{answer}");
            assert_eq!(version(&direct, "user").await, before + 1, "pooled: {pooled}, session {at}: {answer}");
        }
        // One that comes later; behind a pooler it is told the same.
        let before = version(&direct, "user").await;
        Wire::login(running.listen.port()).ask(&query(&insert(5)));
        assert_eq!(version(&direct, "user").await, before + 1);
        next_incarnation(&direct, former.as_ref()).await;
        running.shutdown().await;
        env.stop().await;
    }
}

/// A crash may lose commits that somebody has seen: the same version may come again, with other rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_begins_a_new_incarnation() {
    let mut env = Env::with(Setup { settings: vec!["synchronous_commit = off".into()], ..Setup::default() }).await;
    env.direct("CREATE UNLOGGED TABLE tv_session (id int, tenant_id uuid); INSERT INTO tv_session VALUES (1)").await;
    env.settle_catalog().await;
    Wire::login(env.port).ask(&query(&format!("INSERT INTO tv_session VALUES (2, '{T1}')")));
    // What has reached the disk stays; what has not may be lost.
    env.direct("CHECKPOINT").await;
    let (seen, former) = (version(&env.direct, "session").await, incarnation(&env.direct).await);
    assert!(former.is_some());
    env.cluster.kill().unwrap();
    env.cluster.restart().unwrap();
    env.direct = connect(env.cluster.port()).await;
    let client = env.client().await;
    client.batch_execute("SELECT 1").await.unwrap();
    let now = next_incarnation(&env.direct, former.as_ref()).await;
    eventually("the view shows it", async || {
        let shown = env.direct.query("SELECT DISTINCT incarnation FROM turbo.tb_domain_version", &[]).await.unwrap();
        shown.iter().map(|row| row.get(0)).collect::<Vec<Option<String>>>() == [Some(now.clone())]
    })
    .await;
    // What the server has emptied has moved.
    assert_eq!(env.direct.query("SELECT FROM tv_session", &[]).await.unwrap().len(), 0);
    assert!(version(&env.direct, "session").await > seen);
    env.stop().await;
}

fn pipe(from: &mut Command, to: &mut Command) {
    let dump = from.output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let mut child = to.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), &dump.stdout).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Numbers of transactions of another cluster say nothing here.
#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_an_old_cluster_is_restored_into_a_young_one() {
    let env = Env::new(Route::Direct).await;
    env.direct("CREATE TEMP TABLE x (id int)").await;
    env.direct(
        "DO $$ BEGIN FOR i IN 1 .. 5000 LOOP BEGIN INSERT INTO x VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$",
    )
    .await;
    let mut wire = Wire::login(env.port);
    for id in 1..=3 {
        wire.ask(&query(&format!("INSERT INTO tv_user VALUES ({id}, '{T1}', 'x')")));
    }
    env.direct("SELECT turbo.fn_fold(1000)").await;
    wire.ask(&query(&format!("INSERT INTO tv_user VALUES (4, '{T1}', 'x')")));
    let dumped = version(&env.direct, "user").await;
    assert_eq!(dumped, 4);
    for folds in [false, true] {
        let young = Cluster::start(&ClusterOptions::default()).unwrap();
        let (from, to) = (env.cluster.port().to_string(), young.port().to_string());
        let target = |port| ["-h", "127.0.0.1", "-U", "postgres", "-p", port, "-d", "postgres"];
        let program = |name: &str| {
            let own = env.cluster.bin_dir().join(name);
            Command::new(if own.exists() { own } else { name.into() })
        };
        let (mut dump, mut restore) = (program("pg_dump"), program("psql"));
        pipe(dump.args(target(&from)), restore.args(["-X", "-q", "-v", "ON_ERROR_STOP=1"]).args(target(&to)));
        let direct = connect(young.port()).await;
        assert_eq!(version(&direct, "user").await, dumped);
        assert_eq!(incarnation(&direct).await, None, "what was read of it must not be kept");
        let interval = if folds { "10" } else { "3600000" };
        let running = serve_with(young.port(), &young, &format!("[control]\nfold_interval_ms = {interval}")).await;
        let mut wire = Wire::login(running.listen.port());
        for id in 1..=20 {
            let flight = [
                parse("", &format!("INSERT INTO tv_user VALUES (10 + {id}, '{T1}', 'x')")),
                bind("", "", &[]),
                execute("", 0),
                sync(),
            ];
            wire.ask(&flight.concat());
            assert_eq!(version(&direct, "user").await, dumped + id, "folds: {folds}");
        }
        let own = next_incarnation(&direct, None).await;
        assert_ne!(Some(own), incarnation(&env.direct).await);
        running.shutdown().await;
    }
    env.stop().await;
}

/// What was committed behind the point, and seen, is gone: its version comes again with other rows, in another incarnation.
#[tokio::test(flavor = "multi_thread")]
async fn a_hot_standby_recovers_to_a_point_in_time() {
    let env = Env::new(Route::Direct).await;
    let mut restored = env.cluster.standby().unwrap();
    let direct = connect(restored.port()).await;
    let primary: String = direct.query_one("SHOW primary_conninfo", &[]).await.unwrap().get(0);
    direct.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    direct.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("it follows no longer", async || {
        direct.query("SELECT FROM pg_stat_wal_receiver", &[]).await.unwrap().is_empty()
    })
    .await;
    let mut wire = Wire::login(env.port);
    wire.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}', 'x')")));
    env.direct("SELECT pg_create_restore_point('point')").await;
    wire.ask(&query(&format!("INSERT INTO tv_user VALUES (2, '{T1}', 'lost')")));
    let (seen, former) = (version(&env.direct, "user").await, incarnation(&env.direct).await);
    assert!(seen == 2 && former.is_some());
    for setting in [
        format!("primary_conninfo = '{}'", primary.replace('\'', "''")),
        "recovery_target_name = 'point'".into(),
        "recovery_target_action = 'promote'".into(),
    ] {
        direct.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    restored.kill().unwrap();
    restored.restart().unwrap();
    let direct = connect(restored.port()).await;
    eventually("it is promoted", async || {
        !direct.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap().get::<_, bool>(0)
    })
    .await;
    assert_eq!(version(&direct, "user").await, 1);
    assert_ne!(incarnation(&direct).await, former);
    let running = serve(restored.port(), &restored).await;
    Wire::login(running.listen.port()).ask(&query(&format!("INSERT INTO tv_user VALUES (3, '{T1}', 'other')")));
    assert_eq!(version(&direct, "user").await, seen);
    next_incarnation(&direct, former.as_ref()).await;
    running.shutdown().await;
    env.stop().await;
}

/// The subscriber takes over: versions go on from what readers of the publisher have seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_takes_over() {
    let logical = || Setup { settings: vec!["wal_level = logical".into()], ..Setup::default() };
    let (publisher, subscriber) = (Env::with(logical()).await, Env::with(logical()).await);
    publisher.direct("CREATE PUBLICATION p FOR ALL TABLES").await;
    let connection = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", publisher.cluster.port());
    subscriber
        .direct(&format!(
            "CREATE SUBSCRIPTION s CONNECTION '{connection}' PUBLICATION p WITH (copy_data = false, create_slot)"
        ))
        .await;
    let mut wire = Wire::login(publisher.port);
    for id in 1..=30 {
        wire.ask(&query(&format!("INSERT INTO tv_user VALUES ({id}, '{T1}', 'x')")));
        if id == 15 {
            publisher.direct("SELECT turbo.fn_fold(1000)").await;
        }
    }
    let seen = version(&publisher.direct, "user").await;
    assert_eq!(seen, 30);
    eventually("all has come", async || version(&subscriber.direct, "user").await == seen).await;
    publisher.stop().await;
    subscriber.direct("ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE)").await;
    subscriber.direct("DROP SUBSCRIPTION s").await;
    let mut wire = Wire::login(subscriber.port);
    for id in 31..=40 {
        wire.ask(&query(&format!("INSERT INTO tv_user VALUES ({id}, '{T1}', 'x')")));
        assert_eq!(version(&subscriber.direct, "user").await, i64::from(id));
    }
    subscriber.direct("SELECT turbo.fn_fold(1000)").await;
    assert_eq!(version(&subscriber.direct, "user").await, 40);
    subscriber.stop().await;
}

/// Nothing is lost: versions go on, numbers of transactions too.
#[tokio::test(flavor = "multi_thread")]
async fn versions_go_on_behind_pg_upgrade() {
    let env = Env::new(Route::Direct).await;
    let mut wire = Wire::login(env.port);
    for id in 1..=5 {
        wire.ask(&query(&format!("INSERT INTO tv_user VALUES ({id}, '{T1}', 'x')")));
        if id == 3 {
            env.direct("SELECT turbo.fn_fold(1000)").await;
        }
    }
    let former = incarnation(&env.direct).await;
    env.cluster.shut_down().unwrap();
    let mut upgraded = Cluster::start(&ClusterOptions::default()).unwrap();
    upgraded.shut_down().unwrap();
    let programs = env.cluster.bin_dir();
    let (old, new) = (env.cluster.socket_dir().join("data"), upgraded.socket_dir().join("data"));
    let arguments = [
        ["-b".as_ref(), programs.as_os_str()],
        ["-B".as_ref(), programs.as_os_str()],
        ["-d".as_ref(), old.as_os_str()],
        ["-D".as_ref(), new.as_os_str()],
        ["-U".as_ref(), "postgres".as_ref()],
    ];
    upgraded.run("pg_upgrade", &arguments.concat()).unwrap();
    upgraded.restart().unwrap();
    let direct = connect(upgraded.port()).await;
    assert_eq!(version(&direct, "user").await, 5);
    let running = serve(upgraded.port(), &upgraded).await;
    let mut wire = Wire::login(running.listen.port());
    for id in 6..=10 {
        wire.ask(&query(&format!("INSERT INTO tv_user VALUES ({id}, '{T1}', 'x')")));
        assert_eq!(version(&direct, "user").await, i64::from(id));
    }
    eventually("it folds", async || {
        direct.query_one("SELECT count(*) FROM turbo.tb_bump", &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    assert_eq!(version(&direct, "user").await, 10);
    assert_eq!(incarnation(&direct).await, former);
    running.shutdown().await;
}
