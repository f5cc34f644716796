//! The turbo schema: install, upgrade, uninstall, and databases without it.

use turnstile::versions::{self, SchemaError, SchemaState};

use crate::support::wire::{Wire, query};
use crate::support::{Env, Route, Setup, T1};

#[tokio::test(flavor = "multi_thread")]
async fn install_is_idempotent_and_uninstall_leaves_nothing() {
    let env = Env::with(Setup { tables: false, ..Setup::default() }).await;
    let objects = async || -> i64 {
        let count = "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace > 16000) + (SELECT count(*) FROM pg_proc WHERE oid > 16000)";
        env.direct.query_one(count, &[]).await.unwrap().get(0)
    };
    let before = objects().await;
    assert_eq!(versions::state(&env.direct).await.unwrap(), SchemaState::Absent);
    versions::install(&env.direct).await.unwrap();
    versions::install(&env.direct).await.unwrap();
    assert_eq!(versions::state(&env.direct).await.unwrap(), SchemaState::Current);

    env.direct("CREATE VIEW mine AS SELECT * FROM turbo.tb_domain_version").await;
    let refused = versions::uninstall(&env.direct).await.unwrap_err();
    assert!(matches!(&refused, SchemaError::InUse(names) if names == "mine"), "{refused}");
    env.direct("DROP VIEW mine").await;

    env.direct("UPDATE turbo.tb_schema_migration SET checksum = 'x'").await;
    assert_eq!(versions::state(&env.direct).await.unwrap(), SchemaState::Different(1));
    env.direct("INSERT INTO turbo.tb_schema_migration (version, name, checksum) VALUES (99, 'x', 'x')").await;
    assert_eq!(versions::state(&env.direct).await.unwrap(), SchemaState::Different(1));
    env.direct("DELETE FROM turbo.tb_schema_migration WHERE version < 99").await;
    assert_eq!(versions::state(&env.direct).await.unwrap(), SchemaState::Newer(99));
    let args = turnstile::cli::ServeArgs {
        listen: Some("127.0.0.1:0".into()),
        admin_listen: Some("off".into()),
        server: Some(env.cluster.url("postgres")),
        ..Default::default()
    };
    let config = turnstile::config::Config::new(&args, &Default::default()).unwrap();
    let refused = turnstile::app::Running::start(config).await.unwrap_err().to_string();
    assert!(refused.contains("made by a newer turnstile"), "{refused}");

    versions::uninstall(&env.direct).await.unwrap();
    versions::uninstall(&env.direct).await.unwrap();
    assert_eq!(objects().await, before);
    env.direct("CREATE SCHEMA turbo").await;
    assert_eq!(versions::state(&env.direct).await.unwrap(), SchemaState::Foreign);
    assert!(matches!(versions::install(&env.direct).await, Err(SchemaError::State(SchemaState::Foreign))));
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_schema_everything_is_relayed_and_a_gauge_says_so() {
    let env = Env::with(Setup { tables: false, ..Setup::default() }).await;
    env.direct("CREATE TABLE tv_user (id int, tenant_id uuid)").await;
    let mut wire = Wire::login(env.port);
    assert_eq!(wire.ask(&query("INSERT INTO tv_user VALUES (1)")), "C(INSERT 0 1) ZI");
    assert!(
        env.running.as_ref().unwrap().metrics.render().contains("turnstile_schema_installed{database=\"postgres\"} 0")
    );

    // Installed while sessions run: from then on versions move.
    versions::install(&env.direct).await.unwrap();
    env.settle_catalog().await;
    let (_, moved) = env.moved(async { wire.ask(&query("INSERT INTO tv_user VALUES (2)")) }).await;
    assert_eq!(moved, "user: * +1");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_installs_where_it_is_asked_to() {
    let env = Env::with(Setup { tables: false, config: "install = true".into(), ..Setup::default() }).await;
    let mut wire = Wire::login(env.port);
    wire.ask(&query("CREATE TABLE tv_user (id int, tenant_id uuid)"));
    let (_, moved) = env.moved(async { wire.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}')"))) }).await;
    assert!(moved.starts_with("user: "), "{moved}");
    env.stop().await;
}

/// Views, functions and tables for readers, as documented.
#[tokio::test(flavor = "multi_thread")]
async fn the_contract_for_readers() {
    let env = Env::new(Route::Direct).await;
    let columns = env
        .direct
        .query_one(
            "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute \
             WHERE attrelid = 'turbo.tb_domain_version'::regclass AND attnum > 0",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        columns.get::<_, String>(0),
        "tenant_id uuid, domain text, version bigint, last_modified timestamp with time zone, modified_by text, change_summary text, incarnation text"
    );
    let mut wire = Wire::login(env.port);
    wire.ask(&query("SET app.user_id = 'ada'"));
    wire.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}')")));
    let row = env
        .direct
        .query_one("SELECT modified_by, last_modified IS NOT NULL, version FROM turbo.tb_domain_version WHERE domain = 'user' AND tenant_id = $1", &[&T1.parse::<uuid::Uuid>().unwrap()])
        .await
        .unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, bool>(1), row.get::<_, i64>(2)), ("ada".into(), true, 1));

    // A role without any grant reads versions, and cannot write them.
    env.direct("CREATE ROLE reader LOGIN").await;
    let (reader, connection) =
        tokio_postgres::connect(&env.cluster.url("postgres").replace("postgres@", "reader@"), tokio_postgres::NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    reader.query("SELECT * FROM turbo.tb_domain_version", &[]).await.unwrap();
    reader.query("SELECT turbo.fn_domain_version(NULL, 'user')", &[]).await.unwrap();
    assert!(reader.execute("DELETE FROM turbo.tb_bump", &[]).await.is_err());
    assert!(reader.execute("SELECT turbo.fn_fold(1)", &[]).await.is_err());
    env.stop().await;
}

/// Whoever may connect may insert into the log, whatever number of bumps: no version goes back, no fold fails.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_moves_a_version_back() {
    let env = Env::new(Route::Direct).await;
    env.direct("CREATE ROLE stranger; GRANT stranger TO postgres; SET ROLE stranger").await;
    for (bumps, moves) in [("-7", 1), ("0", 1), ("9223372036854775807", 1_000_000), ("9223372036854775807", 1_000_000)]
    {
        let version = "SELECT turbo.fn_domain_version(NULL, 'plain')";
        let read = async || env.direct.query_one(version, &[]).await.unwrap().get::<_, i64>(0);
        let before = read().await;
        env.direct(&format!("INSERT INTO turbo.tb_bump (domain, bumps) VALUES ('plain', {bumps})")).await;
        assert_eq!(read().await - before, moves, "{bumps}");
    }
    let refused =
        env.direct.batch_execute("INSERT INTO turbo.tb_bump (domain, bumps, xid) VALUES ('plain', 1, '1')").await;
    assert_eq!(refused.unwrap_err().code().unwrap().code(), "42501");
    let before: i64 = env.direct.query_one("SELECT turbo.fn_domain_version(NULL, 'plain')", &[]).await.unwrap().get(0);
    env.direct("RESET ROLE; SELECT turbo.fn_fold(1000)").await;
    let after: i64 = env.direct.query_one("SELECT turbo.fn_domain_version(NULL, 'plain')", &[]).await.unwrap().get(0);
    assert_eq!((before, after), (2_000_002, 2_000_002));
    env.stop().await;
}

/// The schema of an older Turnstile is upgraded in place: versions stay, and so does what reads them.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_schema_is_upgraded() {
    let env = Env::with(Setup { tables: false, ..Setup::default() }).await;
    env.direct(
        "CREATE SCHEMA turbo; CREATE TABLE turbo.tb_schema_migration (version int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, \
         applied_at timestamptz NOT NULL DEFAULT now(), applied_by text NOT NULL DEFAULT current_user)",
    )
    .await;
    // Commit 3bc8d0b, as it was.
    env.direct(include_str!("upgrade/3bc8d0b.sql")).await;
    env.direct("INSERT INTO turbo.tb_schema_migration VALUES (1, 'versions', '666c3c74389b3cad5f3166cee38d5921ca17b086509de74f52bb7f7a0b9ff675')").await;
    env.direct(
        "CREATE TABLE tv_user (id int, tenant_id uuid); CREATE ROLE stranger LOGIN; GRANT ALL ON tv_user TO stranger;
         CREATE VIEW mine AS SELECT domain, version FROM turbo.tb_domain_version WHERE tenant_id IS NULL",
    )
    .await;
    for work in ["SELECT turbo.fn_fold(100)", "SELECT 1"] {
        env.direct(&format!("SELECT turbo.fn_bump_one('{T1}', 'user', 3, false, 'always', 'old')")).await;
        env.direct("SELECT turbo.fn_bump_one(NULL, 'user', 4, false, 'always', 'old')").await;
        env.direct(work).await;
    }
    assert_eq!(versions::state(&env.direct).await.unwrap(), SchemaState::Older(1));
    let version = async |tenant: Option<&str>| -> i64 {
        let sql = "SELECT turbo.fn_domain_version($1::text::uuid, 'user')";
        env.direct.query_one(sql, &[&tenant]).await.unwrap().get(0)
    };
    assert_eq!((version(Some(T1)).await, version(None).await), (14, 8));
    versions::install(&env.direct).await.unwrap();
    assert_eq!(versions::state(&env.direct).await.unwrap(), SchemaState::Current);
    assert_eq!((version(Some(T1)).await, version(None).await), (14, 8));
    assert_eq!(env.direct.query_one("SELECT version FROM mine", &[]).await.unwrap().get::<_, i64>(0), 8);
    env.direct("SELECT turbo.fn_fold(100)").await;
    assert_eq!((version(Some(T1)).await, version(None).await), (14, 8));
    env.settle_catalog().await;
    let mut wire = Wire::login(env.port);
    wire.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}')")));
    wire.ask(&query("DO $$ BEGIN INSERT INTO tv_user VALUES (2); END $$"));
    assert_eq!((version(Some(T1)).await, version(None).await), (16, 9));
    // What the older one had granted is taken back, and nothing of it is left.
    env.direct("GRANT stranger TO postgres; SET ROLE stranger").await;
    assert!(
        env.direct
            .batch_execute("INSERT INTO turbo.tb_bump (domain, bumps, summary) VALUES ('user', 1, 'x')")
            .await
            .is_err()
    );
    env.direct("RESET ROLE").await;
    let functions = async |client: &tokio_postgres::Client| -> Vec<String> {
        let sql =
            "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE pronamespace = 'turbo'::regnamespace ORDER BY 1";
        client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    env.direct("CREATE DATABASE fresh").await;
    let fresh = crate::support::try_connect(env.cluster.port(), "fresh").await.unwrap();
    versions::install(&fresh).await.unwrap();
    assert_eq!(functions(&env.direct).await, functions(&fresh).await);
    // Functions of another build, which do the same: they work, and are made ours.
    env.direct("UPDATE turbo.tb_schema_code SET checksum = 'x'").await;
    assert_eq!(versions::state(&env.direct).await.unwrap(), SchemaState::Compatible);
    versions::install(&env.direct).await.unwrap();
    assert_eq!(versions::state(&env.direct).await.unwrap(), SchemaState::Current);
    // Without its data a schema is not complete: nothing is made of it, or removed.
    env.direct("DELETE FROM turbo.tb_schema_migration").await;
    assert_eq!(versions::state(&env.direct).await.unwrap(), SchemaState::Incomplete);
    assert!(versions::install(&env.direct).await.is_err());
    env.stop().await;
}
