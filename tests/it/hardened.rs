//! Databases that somebody has closed up, or uses for more: default privileges, publications, encodings, read-only by
//! setting, owners that are no superusers.

use tokio_postgres::Client;
use turnstile::versions::{self, SchemaState};

use crate::support::wire::{Wire, query, startup, sync, unnamed};
use crate::support::{Env, Route, Setup, T1, eventually, try_connect, try_connect_as};

/// Logged in through Turnstile.
fn login(env: &Env, role: &str, database: &str) -> Wire {
    let mut wire = Wire::dial(env.port);
    wire.send(&startup(&[("user", role), ("database", database)]));
    wire.until_ready();
    wire
}

async fn version(client: &Client, domain: &str) -> i64 {
    client.query_one("SELECT turbo.fn_domain_version($1::text::uuid, $2)", &[&T1, &domain]).await.unwrap().get(0)
}

const APPLICATION: &str = "
    CREATE TABLE tv_user (id int PRIMARY KEY, tenant_id uuid, name text);
    CREATE TABLE tb_user (id int);
    CREATE FUNCTION f_write(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_user VALUES (n); RETURN n; END $$;
    CREATE FUNCTION f_dynamic(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'INSERT INTO tv_user VALUES (' || n || ')'; RETURN n; END $$;
    CREATE PROCEDURE p_commits(n int) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_user VALUES (n); COMMIT; END $$;
";

/// Each way to write through Turnstile as an ordinary role, and to read versions.
async fn application_works(env: &Env, role: &str, database: &str, direct: &Client) {
    env.running.as_ref().unwrap().databases.get(database, turnstile::catalog::loader::For::Operator).await.unwrap();
    let mut wire = login(env, role, database);
    let mut wrong = Vec::new();
    for (at, sql) in [
        format!("INSERT INTO tv_user VALUES (%, '{T1}')"),
        format!("UPDATE tv_user SET name = 'x' WHERE tenant_id = '{T1}'"),
        format!("INSERT INTO tv_user VALUES (%, '{T1}'), (1000 + %, '{T1}') ON CONFLICT DO NOTHING"),
        "SELECT f_write(%)".into(),
        "SELECT f_dynamic(%)".into(),
        "DO $$ BEGIN INSERT INTO tv_user VALUES (%); END $$".into(),
        "BEGIN; INSERT INTO tb_user VALUES (1); INSERT INTO tv_user VALUES (%); SELECT f_write(5000 + %); COMMIT"
            .into(),
        "CALL p_commits(%)".into(),
        "TRUNCATE tv_user".into(),
    ]
    .into_iter()
    .enumerate()
    {
        for extended in [false, true].into_iter().filter(|extended| !extended || !sql.contains("COMMIT")) {
            let sql = sql.replace('%', &(10 * at + usize::from(extended) + 1).to_string());
            let before = version(direct, "user").await;
            let answer = wire.ask(&if extended { [unnamed(&sql, &[]), sync()].concat() } else { query(&sql) });
            let after = version(direct, "user").await;
            if answer.contains("E(") || after <= before {
                wrong.push(format!("{sql}: {answer}: {before} -> {after}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{role} in {database}\n{}", wrong.join("\n"));
}

/// What of all that tells of tenants and writers a role can read.
fn reads(env: &Env, role: &str, database: &str) -> usize {
    let mut wire = login(env, role, database);
    let all = [
        "SELECT count(version) > 0 FROM turbo.tb_domain_version WHERE domain = 'user'",
        "SELECT count(*) >= 0 FROM turbo.tb_tenant",
        "SELECT turbo.fn_domain_version(NULL, 'user') > 0",
        "SELECT count(*) >= 0 FROM turbo.fn_domain_last_bump(NULL, 'user')",
    ];
    all.iter().filter(|sql| wire.ask(&query(sql)).contains("D(t)")).count()
}

/// Readers are everybody, or who the owner names; an upgrade keeps that, and nobody's writes need it.
#[tokio::test(flavor = "multi_thread")]
async fn readers_are_who_is_named() {
    let env = Env::with(Setup { tables: false, ..Setup::default() }).await;
    env.direct(r#"CREATE ROLE app LOGIN; CREATE ROLE reports LOGIN; CREATE ROLE "Odd; name" LOGIN"#).await;
    versions::install(&env.direct).await.unwrap();
    env.direct(APPLICATION).await;
    env.direct("GRANT ALL ON ALL TABLES IN SCHEMA public TO app, reports").await;
    application_works(&env, "app", "postgres", &env.direct).await;
    let roles = ["app", "reports", "Odd; name"];
    let seen = |expected: [usize; 3]| {
        for (role, expected) in roles.iter().zip(expected) {
            assert_eq!(reads(&env, role, "postgres"), expected, "{role}");
        }
    };
    seen([4, 4, 4]);
    for (readers, expected) in [(&["reports", "Odd; name"][..], [0, 4, 4]), (&["reports"], [0, 4, 0])] {
        let readers: Vec<String> = readers.iter().map(|&role| role.to_owned()).collect();
        versions::set_readers(&env.direct, &readers).await.unwrap();
        seen(expected);
        env.direct("TRUNCATE tv_user").await;
        application_works(&env, "app", "postgres", &env.direct).await;
    }
    assert!(versions::set_readers(&env.direct, &["nobody".to_owned()]).await.is_err());
    // As of another text: the next install makes everything anew.
    env.direct("UPDATE turbo.tb_schema_code SET checksum = 'former'").await;
    versions::install(&env.direct).await.unwrap();
    assert_eq!(versions::state(&env.direct).await.unwrap(), SchemaState::Current);
    seen([0, 4, 0]);
    versions::set_readers(&env.direct, &["PUBLIC".to_owned()]).await.unwrap();
    seen([4, 4, 4]);
    env.stop().await;
}

/// Roles that own a database and are no superusers, as managed services hand them out.
const OWNERS: &[(&str, &str)] = &[
    ("plain", "CREATE ROLE plain LOGIN"),
    (
        "rds",
        "CREATE ROLE rds_superuser NOLOGIN; GRANT pg_monitor, pg_signal_backend TO rds_superuser WITH ADMIN OPTION;
         CREATE ROLE rds LOGIN CREATEDB CREATEROLE NOREPLICATION IN ROLE rds_superuser",
    ),
    (
        "cloudsql",
        "CREATE ROLE cloudsqlsuperuser NOLOGIN CREATEDB CREATEROLE; GRANT pg_monitor, pg_signal_backend TO cloudsqlsuperuser;
         CREATE ROLE cloudsql LOGIN CREATEDB CREATEROLE IN ROLE cloudsqlsuperuser",
    ),
    (
        "azure",
        "CREATE ROLE azure_pg_admin NOLOGIN; GRANT pg_monitor TO azure_pg_admin; CREATE ROLE azure LOGIN CREATEDB CREATEROLE IN ROLE azure_pg_admin",
    ),
    ("supabase", "CREATE ROLE supabase LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS IN ROLE pg_monitor, pg_read_all_data, pg_signal_backend"),
    (
        "neon",
        "CREATE ROLE neon_superuser NOLOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS IN ROLE pg_read_all_data, pg_write_all_data;
         CREATE ROLE neon LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS IN ROLE neon_superuser",
    ),
];

/// What such a role, or somebody before it, has set or taken away.
const HARDENING: &[&str] = &[
    "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO app; ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO app; ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO app",
    "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
    "DO $$ BEGIN EXECUTE format('ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM %I', current_user); END $$",
    "DO $$ BEGIN EXECUTE format('ALTER ROLE %I SET default_transaction_read_only = on', current_user); END $$",
    "DO $$ BEGIN EXECUTE format('ALTER ROLE %I SET default_transaction_isolation = serializable', current_user); END $$",
    "DO $$ BEGIN EXECUTE format('ALTER ROLE %I SET statement_timeout = 1', current_user); END $$",
    "DO $$ BEGIN EXECUTE format('ALTER ROLE %I SET standard_conforming_strings = off', current_user); END $$",
    "CREATE SCHEMA odd; CREATE TYPE odd.uuid AS (a int); CREATE TYPE odd.xid8 AS (a int); CREATE FUNCTION odd.now() RETURNS int LANGUAGE sql AS 'SELECT 1';
     DO $$ BEGIN EXECUTE format('ALTER ROLE %I SET search_path = odd, pg_catalog', current_user); END $$",
];

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_are_no_superusers_install_into_hardened_databases() {
    let env = Env::with(Setup { tables: false, ..Setup::default() }).await;
    env.direct("CREATE ROLE app LOGIN").await;
    for (owner, make) in OWNERS {
        env.direct(make).await;
        // Each role once as it is, and the plain one with all that has been seen.
        let hardening: Vec<&str> = if *owner == "plain" { HARDENING.to_vec() } else { Vec::new() };
        for (at, harden) in std::iter::once("SELECT 1").chain(hardening).enumerate() {
            let database = format!("{owner}_{at}");
            env.direct(&format!("CREATE DATABASE {database} OWNER {owner}")).await;
            let owned = try_connect_as(env.cluster.port(), owner, &database).await.unwrap();
            owned.batch_execute(harden).await.unwrap();
            let url = env.cluster.url(&database).replace("postgres@", &format!("{owner}@"));
            let server = turnstile::config::parse_server("server", &url).unwrap();
            let installer = turnstile::catalog::control::connect(&server).await.unwrap();
            versions::install(&installer).await.unwrap_or_else(|error| panic!("{owner}: {harden}: {error}"));
            assert_eq!(versions::state(&installer).await.unwrap(), SchemaState::Current);
            let application = try_connect(env.cluster.port(), &database).await.unwrap();
            application.batch_execute(APPLICATION).await.unwrap();
            application.batch_execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO app").await.unwrap();
            application_works(&env, "app", &database, &application).await;
            assert_eq!(reads(&env, "app", &database), 4, "{owner}: {harden}");
            let folded = installer.query_one("SELECT turbo.fn_fold(1000)", &[]).await.unwrap().get::<_, i32>(0);
            assert!(folded != -2, "{owner}: {harden}");
            let app = try_connect_as(env.cluster.port(), "app", &database).await.unwrap();
            for refused in [
                "INSERT INTO turbo.tb_bump (domain, bumps, xid) VALUES ('user', 1, '1')",
                "UPDATE turbo.tb_fold_state SET folds = 0",
                "DELETE FROM turbo.tb_bump",
                "SELECT turbo.fn_fold(1)",
                "CREATE FUNCTION turbo.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            ] {
                assert!(app.batch_execute(refused).await.is_err(), "{owner}: {harden}: {refused}");
            }
            env.direct(&format!("ALTER ROLE {owner} RESET ALL")).await;
        }
    }
    env.stop().await;
}

/// A database may be in any encoding.
#[tokio::test(flavor = "multi_thread")]
async fn every_server_encoding() {
    let env = Env::with(Setup { tables: false, ..Setup::default() }).await;
    env.direct("CREATE ROLE app LOGIN").await;
    let encodings: Vec<String> = env
        .direct
        .query("SELECT pg_encoding_to_char(n) FROM generate_series(0, 34) n WHERE pg_encoding_to_char(n) <> ''", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(encodings.len() > 30, "{encodings:?}");
    // A client that speaks UTF-8 cannot talk to it at all.
    for encoding in encodings.iter().filter(|encoding| *encoding != "MULE_INTERNAL") {
        let create =
            format!("CREATE DATABASE {encoding} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'");
        env.direct(&create).await;
        let direct = try_connect(env.cluster.port(), &encoding.to_lowercase()).await.unwrap();
        versions::install(&direct).await.unwrap_or_else(|error| panic!("{encoding}: {error}"));
        direct.batch_execute("CREATE TABLE tv_user (id int, tenant_id uuid)").await.unwrap();
        let mut wire = login(&env, "postgres", &encoding.to_lowercase());
        let answer = wire.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}')")));
        assert!(answer.starts_with("C(INSERT"), "{encoding}: {answer}");
        assert_eq!(version(&direct, "user").await, 1, "{encoding}");
        drop((wire, direct));
    }
    env.stop().await;
}

/// Folding works whatever is published.
#[tokio::test(flavor = "multi_thread")]
async fn published_tables_are_folded() {
    let env = Env::with(Setup { settings: vec!["wal_level = logical".into()], ..Setup::default() }).await;
    let schemas = env.server_version().await >= 15;
    let all = ["FOR ALL TABLES", "FOR ALL TABLES WITH (publish = 'insert')", "FOR TABLES IN SCHEMA turbo"];
    for published in all.into_iter().filter(|published| schemas || !published.contains("SCHEMA")) {
        for installed_before in [true, false] {
            if !installed_before {
                versions::uninstall(&env.direct).await.unwrap();
            }
            if installed_before || !published.contains("turbo") {
                env.direct(&format!("CREATE PUBLICATION p {published}")).await;
            }
            versions::install(&env.direct).await.unwrap();
            assert_eq!(
                versions::published_by(&env.direct).await.unwrap().is_empty(),
                !installed_before && published.contains("turbo")
            );
            env.direct("INSERT INTO turbo.tb_bump (domain, bumps) SELECT 'user', 1 FROM generate_series(1, 10)").await;
            env.direct("SELECT turbo.fn_bump_one('33333333-3333-3333-3333-333333333333', 'post', 1, false, 'always')")
                .await;
            let folded: i32 = env.direct.query_one("SELECT turbo.fn_fold(1000)", &[]).await.unwrap().get(0);
            assert!(folded >= 0, "{published}");
            eventually("the log is folded", async || {
                env.direct.query_one("SELECT count(*) FROM turbo.tb_bump", &[]).await.unwrap().get::<_, i64>(0) == 0
            })
            .await;
            env.direct("DROP PUBLICATION IF EXISTS p").await;
        }
    }
    env.stop().await;
}

/// A subscriber that gets the log alone folds by itself; one that gets all tables is folded by its publisher.
#[tokio::test(flavor = "multi_thread")]
async fn subscribers_have_the_same_versions() {
    let publisher = Env::with(Setup { settings: vec!["wal_level = logical".into()], ..Setup::default() }).await;
    if publisher.server_version().await < 15 {
        // Column lists came with 15.
        return publisher.stop().await;
    }
    let subscriber = Env::new(Route::Direct).await;
    publisher.direct("CREATE PUBLICATION log FOR TABLE tv_user, turbo.tb_bump (tenant_id, domain, bumps, bumped_at, bumped_by, summary) WITH (publish = 'insert')").await;
    let connection = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", publisher.cluster.port());
    subscriber.direct(&format!("CREATE SUBSCRIPTION log CONNECTION '{connection}' PUBLICATION log")).await;
    let mut wire = Wire::login(publisher.port);
    for id in 1..=30 {
        wire.ask(&query(&format!("INSERT INTO tv_user VALUES ({id}, '{T1}', 'x')")));
        if id % 10 == 0 {
            eventually("the bumps have come", async || version(&subscriber.direct, "user").await == id).await;
        }
    }
    assert_eq!(subscriber.direct.query("SELECT FROM tv_user", &[]).await.unwrap().len(), 30);
    // A bump of its own counts at once, whatever the transactions' numbers there are.
    Wire::login(subscriber.port).ask(&query(&format!("INSERT INTO tv_user VALUES (1000, '{T1}', 'x')")));
    assert_eq!(version(&subscriber.direct, "user").await, 31);
    subscriber.direct("DROP SUBSCRIPTION log").await;
    subscriber.stop().await;
    publisher.stop().await;
}

/// Read-only by setting: folds go on, and no bump is lost that follows in a transaction of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_read_only_by_default() {
    let env = Env::with(Setup { config: "[control]\nfold_interval_ms = 10".into(), ..Setup::default() }).await;
    env.direct("ALTER DATABASE postgres SET default_transaction_read_only = on").await;
    let mut wire = Wire::login(env.port);
    assert!(wire.ask(&query("INSERT INTO tv_user VALUES (1)")).contains("25006"));
    for work in [
        format!("BEGIN READ WRITE; INSERT INTO tv_user VALUES (1, '{T1}', 'x'); COMMIT"),
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; CALL app.commits(3)".into(),
    ] {
        let before = version(&env.direct, "user").await;
        for sql in work.split("; ") {
            let answer = wire.ask(&query(sql));
            assert!(!answer.contains("E("), "{sql}: {answer}");
        }
        eventually("it has moved", async || version(&env.direct, "user").await > before).await;
    }
    // The procedure may write, and what is behind it may not.
    let before = version(&env.direct, "user").await;
    env.direct(
        "CREATE PROCEDURE app.unlocks(n int) LANGUAGE plpgsql AS $$ BEGIN
        COMMIT; SET TRANSACTION READ WRITE; INSERT INTO tv_user VALUES (n); COMMIT; END $$",
    )
    .await;
    env.settle_catalog().await;
    let answer = Wire::login(env.port).ask(&query("CALL app.unlocks(4)"));
    assert!(answer.starts_with("C(CALL)"), "{answer}");
    eventually("it has moved", async || version(&env.direct, "user").await > before).await;
    eventually("the log is folded", async || {
        env.direct.query_one("SELECT count(*) FROM turbo.tb_bump", &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    env.stop().await;
}
