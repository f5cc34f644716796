//! `turnstile demo`: the product doing its job, in one command.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::app::{Running, Signals, read_config, say, start_cluster, start_logging};
use crate::catalog::control;
use crate::cli::{DemoArgs, ServeArgs};
use crate::config::{Config, ConfigFile, ServerUrl, parse_server};
use crate::versions;

/// The sample application; needs the turbo schema.
pub const SAMPLE: &str = include_str!("demo.sql");
/// Database that is created in a server of the user's.
const DATABASE: &str = "turnstile_demo";
/// How often versions are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Runs until Ctrl-C.
///
/// # Errors
/// When something cannot be started; what was started is stopped.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let file = read_config(&args.common)?;
    start_logging(&quiet(&args), &file)?;
    let mut signals = Signals::new()?;
    let (cluster, base) = match &args.server {
        Some(url) => (None, url.clone()),
        None => {
            say("Starting a private PostgreSQL cluster …\n")?;
            let cluster = start_cluster(None).await?;
            let url = cluster.url("postgres");
            (Some(cluster), url)
        }
    };
    let server = create_database(&base).await?;
    let direct = control::connect(&server).await?;
    versions::install(&direct).await?;
    direct.batch_execute(SAMPLE).await.context("cannot create the sample application")?;

    let serve = ServeArgs {
        listen: Some(args.listen.clone()),
        admin_listen: Some(args.admin_listen.clone()),
        drain_timeout_ms: Some(2_000),
        ..ServeArgs::default()
    };
    let mut config = Config::new(&ServeArgs { server: Some(base), ..serve }, &ConfigFile::default())?;
    config.control = server.clone();
    let running = Running::start(config).await?;
    say(&instructions(running.listen, running.admin, &server))?;

    let outcome = tokio::select! {
        outcome = watch(&direct) => outcome,
        outcome = once(&args, running.listen, &server, &direct) => outcome,
        () = signals.next() => Ok(()),
    };
    say("\nStopping.\n")?;
    running.shutdown().await;
    drop(cluster);
    outcome
}

/// A demo talks to a person: logs only when something is wrong, unless asked for.
fn quiet(args: &DemoArgs) -> crate::cli::CommonArgs {
    let mut common = args.common.clone();
    common.log.get_or_insert_with(|| "warn".into());
    common
}

/// A fresh database for the sample application.
async fn create_database(base: &str) -> anyhow::Result<ServerUrl> {
    let mut server = parse_server("server", base)?;
    let client = control::connect(&server).await.context("cannot connect to the server")?;
    client.batch_execute(&format!("DROP DATABASE IF EXISTS {DATABASE}")).await?;
    client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
    server.config.dbname(DATABASE);
    Ok(server)
}

fn instructions(listen: SocketAddr, admin: Option<SocketAddr>, server: &ServerUrl) -> String {
    let user = server.config.get_user().unwrap_or("postgres");
    let admin = admin.map(|admin| format!("Numbers:  http://{admin}/metrics\n")).unwrap_or_default();
    format!(
        "\n\
         Turnstile listens on {listen}. Connect to it as you would to PostgreSQL:\n\n  \
           psql \"host={host} port={port} user={user} dbname={DATABASE}\"\n\n\
         and try:\n\n  \
           SELECT app.create_user('11111111-1111-1111-1111-111111111111', 'Ada');      -- a function writes tv_user\n  \
           SELECT app.create_post((SELECT id FROM tb_user LIMIT 1), 'Hello');          -- tv_post and tv_user; post cascades to feed\n  \
           INSERT INTO tv_user VALUES (gen_random_uuid(), '22222222-2222-2222-2222-222222222222', '{{}}');  -- one tenant only\n  \
           BEGIN; DELETE FROM tv_post; ROLLBACK;                                       -- nothing moves\n  \
           SELECT app.count_users('11111111-1111-1111-1111-111111111111');             -- reads only: nothing moves\n  \
           SELECT * FROM turbo.tb_domain_version;\n\n\
         {admin}Every version that moves is printed here. Ctrl-C stops and removes everything.\n\n",
        host = listen.ip(),
        port = listen.port(),
    )
}

/// Prints every version that moves.
async fn watch(direct: &Client) -> anyhow::Result<()> {
    let mut known = versions_now(direct).await?;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = versions_now(direct).await?;
        for (key, version) in &now {
            let before = known.get(key).copied().unwrap_or(0);
            if before != *version {
                say(&line(key, before, *version))?;
            }
        }
        known = now;
    }
}

fn line((tenant, domain): &(Option<Uuid>, String), before: i64, now: i64) -> String {
    let tenant = tenant.map_or_else(|| "all tenants".to_owned(), |tenant| format!("tenant {tenant}"));
    format!("version of {domain:<6} for {tenant}: {before} -> {now}\n")
}

async fn versions_now(direct: &Client) -> anyhow::Result<BTreeMap<(Option<Uuid>, String), i64>> {
    let rows = direct.query("SELECT tenant_id, domain, version FROM turbo.tb_domain_version", &[]).await?;
    rows.iter().map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?))).collect()
}

/// `--once`: a few writes through the proxy, then the end. Waits for ever without it.
async fn once(args: &DemoArgs, listen: SocketAddr, server: &ServerUrl, direct: &Client) -> anyhow::Result<()> {
    if !args.once {
        std::future::pending::<()>().await;
    }
    let before = versions_now(direct).await?;
    let mut through = server.clone();
    through.config = tokio_postgres::Config::new();
    through
        .config
        .host(listen.ip().to_string())
        .port(listen.port())
        .user(server.config.get_user().unwrap_or("postgres"))
        .ssl_mode(tokio_postgres::config::SslMode::Disable)
        .dbname(DATABASE);
    if let Some(password) = server.config.get_password() {
        through.config.password(password);
    }
    let client = control::connect(&through).await?;
    let tenant = Uuid::from_u128(0x1111_1111_1111_1111_1111_1111_1111_1111);
    let user: Uuid = client.query_one("SELECT app.create_user($1, $2)", &[&tenant, &"Ada"]).await?.try_get(0)?;
    client.query_one("SELECT app.create_post($1, $2)", &[&user, &"Hello"]).await?;
    client.batch_execute("BEGIN; DELETE FROM tv_post; ROLLBACK").await?;
    for (key, version) in versions_now(direct).await? {
        say(&line(&key, before.get(&key).copied().unwrap_or(0), version))?;
    }
    Ok(())
}
