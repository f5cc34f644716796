//! A private PostgreSQL, a Turnstile in front of it, maybe a PgBouncer between them, and clients.

pub mod wire;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};
use turnstile::app::Running;
use turnstile::catalog::loader::For;
use turnstile::cli::ServeArgs;
use turnstile::config::{Config, ConfigFile};
use turnstile::embedded::{Cluster, ClusterOptions, free_port, wait_for_port};
use turnstile::versions;
use uuid::Uuid;

/// What stands between Turnstile and PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Nothing.
    Direct,
    /// The system's PgBouncer in transaction mode (1.18 or later).
    Bouncer,
    /// A PgBouncer of 1.21 or later in transaction mode, with this `max_prepared_statements`.
    NewBouncer(u32),
}

pub const ROUTES: [Route; 4] = [Route::Direct, Route::Bouncer, Route::NewBouncer(0), Route::NewBouncer(100)];

/// Two tenants.
pub const T1: &str = "11111111-1111-1111-1111-111111111111";
pub const T2: &str = "22222222-2222-2222-2222-222222222222";

/// Tables that most tests use.
pub const TABLES: &str = "
    CREATE TABLE tb_user (id serial PRIMARY KEY, tenant_id uuid, name text);
    CREATE TABLE tv_user (id int PRIMARY KEY, tenant_id uuid, name text);
    CREATE TABLE tv_post (id int PRIMARY KEY, tenant_id uuid, title text);
    CREATE TABLE tv_feed (id int PRIMARY KEY, tenant_id uuid, title text);
    CREATE TABLE tv_plain (id int PRIMARY KEY, data text);
    CREATE SCHEMA app;
    CREATE FUNCTION app.write_two(n int) RETURNS int LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO tv_user VALUES (n, '11111111-1111-1111-1111-111111111111', 'x');
        INSERT INTO tv_post VALUES (n, '11111111-1111-1111-1111-111111111111', 'x');
        RETURN n;
    END $$;
    CREATE FUNCTION app.read_only(n int) RETURNS bigint LANGUAGE plpgsql AS $$
    BEGIN
        RETURN (SELECT count(*) FROM tv_user) + n;
    END $$;
    CREATE FUNCTION app.dynamic(q text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE q; END $$;
    CREATE PROCEDURE app.commits(n int) LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO tv_user VALUES (n, '11111111-1111-1111-1111-111111111111', 'x');
        COMMIT;
        INSERT INTO tv_post VALUES (n, '11111111-1111-1111-1111-111111111111', 'x');
    END $$;
    CREATE PROCEDURE app.plain(n int) LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO tv_user VALUES (n, '11111111-1111-1111-1111-111111111111', 'x');
    END $$;
    INSERT INTO turbo.tb_tenant VALUES ('11111111-1111-1111-1111-111111111111'), ('22222222-2222-2222-2222-222222222222');
";

/// How an environment differs from the usual.
#[derive(Debug, Clone)]
pub struct Setup {
    pub route: Route,
    /// Text of turnstile.toml.
    pub config: String,
    /// Lines for postgresql.conf.
    pub settings: Vec<String>,
    /// Install the schema and the tables.
    pub tables: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { route: Route::Direct, config: String::new(), settings: Vec::new(), tables: true }
    }
}

/// Everything running; stops when dropped.
pub struct Env {
    pub running: Option<Running>,
    /// Held for as long as it has to run.
    bouncer: Option<Bouncer>,
    /// Straight to PostgreSQL.
    pub direct: Client,
    pub cluster: Cluster,
    pub port: u16,
}

impl Env {
    pub async fn new(route: Route) -> Self {
        Self::with(Setup { route, ..Setup::default() }).await
    }

    pub async fn with(setup: Setup) -> Self {
        let mut settings = vec![
            "fsync = off".to_owned(),
            "max_prepared_transactions = 10".to_owned(),
            "max_connections = 200".to_owned(),
        ];
        settings.extend(setup.settings);
        let options = ClusterOptions { settings, ..ClusterOptions::default() };
        let cluster = tokio::task::spawn_blocking(move || Cluster::start(&options)).await.unwrap().unwrap();
        let direct = connect(cluster.port()).await;
        if setup.tables {
            versions::install(&direct).await.unwrap();
            direct.batch_execute(TABLES).await.unwrap();
        }
        let bouncer = match setup.route {
            Route::Direct => None,
            Route::Bouncer => Some(Bouncer::start("pgbouncer".into(), cluster.port(), None)),
            Route::NewBouncer(prepared) => {
                let program = std::env::var_os("PGBOUNCER_NEW").map(PathBuf::from).unwrap_or_else(|| {
                    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/pgbouncer/pgbouncer")
                });
                assert!(program.exists(), "{} is missing: run `make tools`, or set PGBOUNCER_NEW", program.display());
                Some(Bouncer::start(program, cluster.port(), Some(prepared)))
            }
        };
        let server_port = bouncer.as_ref().map_or_else(|| cluster.port(), |bouncer| bouncer.port);
        let args = ServeArgs {
            listen: Some("127.0.0.1:0".into()),
            admin_listen: Some("127.0.0.1:0".into()),
            server: Some(format!("postgres://postgres@127.0.0.1:{server_port}/postgres")),
            control_server: Some(cluster.url("postgres")),
            ..ServeArgs::default()
        };
        let file = ConfigFile::parse("test", &setup.config).unwrap();
        let running = Running::start(Config::new(&args, &file).unwrap()).await.unwrap();
        let port = running.listen.port();
        Self { running: Some(running), bouncer, direct, cluster, port }
    }

    /// The pooler is gone.
    pub fn stop_bouncer(&mut self) {
        drop(self.bouncer.take());
    }

    /// A client of Turnstile.
    pub async fn client(&self) -> Client {
        connect(self.port).await
    }

    /// Executes on the direct connection.
    pub async fn direct(&self, sql: &str) {
        self.direct.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Versions of all known keys, read on the direct connection.
    pub async fn versions(&self) -> Versions {
        let rows =
            self.direct.query("SELECT tenant_id, domain, version FROM turbo.tb_domain_version", &[]).await.unwrap();
        let key = |row: &tokio_postgres::Row| -> (String, Option<Uuid>) { (row.get(1), row.get(0)) };
        // What bumps of every domain have moved: a domain that nobody knows has that version.
        let every = self.direct.query_one("SELECT turbo.fn_domain_version(NULL, '-')", &[]).await.unwrap().get(0);
        Versions { known: rows.iter().map(|row| (key(row), row.get::<_, i64>(2))).collect(), every }
    }

    /// What moved while `work` ran, in words: `user: T1 +1, T2 +1; post: …`.
    pub async fn moved<T>(&self, work: impl Future<Output = T>) -> (T, String) {
        let before = self.versions().await;
        let result = work.await;
        (result, self.versions().await.since(&before))
    }

    /// Runs a psql script through Turnstile; returns standard output and error.
    pub async fn psql(&self, script: &str) -> (String, String) {
        psql(self.cluster.bin_dir().join("psql"), self.port, script).await
    }

    /// Waits until the catalog that sessions see has been read after everything so far.
    pub async fn settle_catalog(&self) {
        let database = self.running.as_ref().unwrap().databases.get("postgres", For::Operator).await.unwrap();
        let before = database.view().analyzer.catalog.generation;
        database.note_change();
        eventually("the catalog is read again", async || {
            let view = database.view();
            view.fresh && view.analyzer.catalog.generation > before
        })
        .await;
    }

    /// Waits until the catalog is fresh: until then statements are measured, for all tenants.
    pub async fn fresh(&self) {
        let database = self.running.as_ref().unwrap().databases.get("postgres", For::Operator).await.unwrap();
        eventually("the catalog is fresh", async || database.view().fresh).await;
    }

    /// The server's major version.
    pub async fn server_version(&self) -> i32 {
        let sql = "SELECT current_setting('server_version_num')::int / 10000";
        self.direct.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Counts readings of the catalog.
    pub async fn generation(&self) -> u64 {
        let database = self.running.as_ref().unwrap().databases.get("postgres", For::Operator).await.unwrap();
        database.view().analyzer.catalog.generation
    }

    pub async fn stop(mut self) {
        if let Some(running) = self.running.take() {
            tokio::time::timeout(Duration::from_secs(20), running.shutdown()).await.unwrap();
        }
    }

    /// Numbers as /metrics gives them.
    pub fn metric(&self, line: &str) -> f64 {
        let text = self.running.as_ref().unwrap().metrics.render();
        let found = text.lines().find_map(|known| known.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or(0.0)
    }
}

/// Versions at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    known: BTreeMap<(String, Option<Uuid>), i64>,
    every: i64,
}

impl Versions {
    /// What is larger now; T1 and T2 by these names, `*` for the row of all tenants.
    pub fn since(&self, before: &Self) -> String {
        let mut words: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((domain, tenant), now) in &self.known {
            // A tenant that was not known before had what all tenants had.
            let all = before.known.get(&(domain.clone(), None)).copied().unwrap_or(before.every);
            let was = before.known.get(&(domain.clone(), *tenant)).copied().unwrap_or(all);
            if *now == was {
                continue;
            }
            let name = match tenant.map(|tenant| tenant.to_string()) {
                None => "*".to_owned(),
                Some(tenant) if tenant == T1 => "T1".to_owned(),
                Some(tenant) if tenant == T2 => "T2".to_owned(),
                Some(tenant) => tenant,
            };
            words.entry(domain).or_default().push(format!("{name} {:+}", now - was));
        }
        let mut text = String::new();
        for (domain, mut moves) in words {
            moves.sort();
            // An all-tenants bump moves everybody: say it once.
            if let Some(all) = moves.iter().find(|moved| moved.starts_with('*')).cloned() {
                let amount = all.trim_start_matches("* ").to_owned();
                moves.retain(|moved| moved.starts_with('*') || !moved.ends_with(&format!(" {amount}")));
            }
            let separator = if text.is_empty() { "" } else { "; " };
            let _ = write!(text, "{separator}{domain}: {}", moves.join(", "));
        }
        text
    }
}

/// A client of whatever listens on a port of this machine.
pub async fn connect(port: u16) -> Client {
    try_connect(port, "postgres").await.unwrap()
}

pub async fn try_connect(port: u16, database: &str) -> Result<Client, tokio_postgres::Error> {
    try_connect_as(port, "postgres", database).await
}

pub async fn try_connect_as(port: u16, role: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
    let url = format!("postgres://{role}@127.0.0.1:{port}/{database}");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub async fn psql(program: PathBuf, port: u16, script: &str) -> (String, String) {
    use std::io::Write as _;
    let script = script.to_owned();
    let program = if program.exists() { program } else { "psql".into() };
    let run = move || {
        let mut child = Command::new(program)
            .args([
                "-X",
                "-A",
                "-t",
                "-v",
                "VERBOSITY=verbose",
                "-h",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-U",
                "postgres",
                "postgres",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// Waits for a condition, not for time; gives up after 20 seconds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A running PgBouncer in transaction mode.
pub struct Bouncer {
    child: Child,
    folder: PathBuf,
    pub port: u16,
}

impl Bouncer {
    pub fn start(program: PathBuf, server_port: u16, prepared: Option<u32>) -> Self {
        use std::os::unix::process::CommandExt as _;
        let port = free_port().unwrap();
        let folder = std::env::temp_dir().join(format!("turnstile-bouncer-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let prepared = prepared.map_or_else(String::new, |most| format!("max_prepared_statements = {most}\n"));
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={server_port} user=postgres\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 50\nmax_client_conn = 500\n\
             unix_socket_dir =\nignore_startup_parameters = extra_float_digits\n{prepared}"
        );
        let path = folder.join("pgbouncer.ini");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(program);
        command.arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if id("-u", None) == 0 {
            // PgBouncer refuses to run as root.
            command.uid(id("-u", Some("nobody"))).gid(id("-g", Some("nobody")));
        }
        let child = command.spawn().expect("pgbouncer is installed by `make tools`");
        assert!(wait_for_port(port, Duration::from_secs(10)), "PgBouncer does not listen");
        Self { child, folder, port }
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _left = std::fs::remove_dir_all(&self.folder);
    }
}

fn id(what: &str, user: Option<&str>) -> u32 {
    let output = Command::new("id").arg(what).args(user).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}
