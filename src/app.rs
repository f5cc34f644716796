//! Puts the rooms together: a running proxy, and the commands of the program.

use std::hash::{BuildHasher as _, Hasher as _};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::catalog::control::{self, ControlPool};
use crate::catalog::loader::{Databases, For, LoadError};
use crate::catalog::reading;
use crate::cli::{CommonArgs, ExplainArgs, InstallArgs, LogFormat, ServeArgs, ServerArgs};
use crate::config::{Config, ConfigFile, parse_server};
use crate::effect::{AnalysisContext, EffectSettings, analyze, explain::explain};
use crate::embedded::{Cluster, ClusterOptions};
use crate::limits;
use crate::proxy::connect::Server;
use crate::proxy::listener::{Parts, Proxy};
use crate::proxy::verifiers::Source;
use crate::telemetry::{logging, metrics::Metrics};
use crate::tls::{Acceptor, SetupError};
use crate::versions::{self, SchemaState};

/// A proxy that runs in this process.
#[derive(Debug)]
pub struct Running {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where `/metrics` is, if anywhere.
    pub admin: Option<SocketAddr>,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// Catalogs.
    pub databases: Arc<Databases>,
    drain: CancellationToken,
    stop: CancellationToken,
    acceptor: Option<Arc<Acceptor>>,
    proxy: JoinHandle<()>,
}

impl Running {
    /// Starts listening.
    ///
    /// # Errors
    /// When an address cannot be listened on, or the configured database has a schema that this
    /// program must not work on.
    pub async fn start(mut config: Config) -> anyhow::Result<Self> {
        config.connections_max = descriptors_for(config.connections_max);
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::new());
        let drain = CancellationToken::new();
        let stop = CancellationToken::new();
        let listener =
            TcpListener::bind(&config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
        let databases = Arc::new(Databases::new(Arc::clone(&config), Arc::clone(&metrics), stop.clone()));
        let database = control_database(&config.control.config);
        let acceptor = config.tls.clone().map(Acceptor::new).transpose()?.map(Arc::new);
        let server = Server::new(config.server.clone(), config.server_tls.clone(), config.tcp)?;
        let admin = start_admin(&config, &database, &metrics, &server, (&drain, &stop)).await?;
        match databases.get(&database, For::Operator).await {
            Ok(_) => {}
            Err(error @ (LoadError::Schema { .. } | LoadError::NotInstalled(_))) => bail!(error),
            Err(error) => {
                tracing::warn!(%error, "the control plane does not work yet; clients are refused until it does");
            }
        }
        let listen = listener.local_addr()?;
        let verifiers = config
            .verifiers
            .clone()
            .map(|from| Ok::<_, SetupError>(Source::new(from, ControlPool::new(&config, &database)?)));
        let parts = Parts {
            config: Arc::clone(&config),
            databases: Arc::clone(&databases),
            metrics: Arc::clone(&metrics),
            drain: drain.clone(),
            server,
            acceptor: acceptor.clone(),
            verifiers: verifiers.transpose()?,
        };
        let proxy =
            Proxy::new(parts, random(), crate::tls::random()?).context("cannot start the threads that relay")?;
        let proxy = tokio::spawn(async move { proxy.run(listener).await });
        if let Some(acceptor) = acceptor.clone() {
            let stop = stop.clone();
            tokio::spawn(async move { acceptor.watch(stop).await });
        }
        tracing::info!(%listen, server = %config.server, "turnstile is ready");
        Ok(Self { listen, admin, metrics, databases, drain, stop, acceptor, proxy })
    }

    /// Loads the TLS certificate again.
    pub fn reload(&self) {
        match &self.acceptor {
            Some(acceptor) => acceptor.reload(),
            None => tracing::info!("SIGHUP: there is no TLS certificate to load"),
        }
    }

    /// Stops accepting, lets running transactions end within the drain timeout, then closes.
    pub async fn shutdown(self) {
        self.drain.cancel();
        if let Err(error) = self.proxy.await {
            tracing::error!(%error, "the listener ended badly");
        }
        self.stop.cancel();
        self.databases.stopped().await;
    }
}

async fn start_admin(
    config: &Config,
    database: &str,
    metrics: &Arc<Metrics>,
    server: &Server,
    (drain, stop): (&CancellationToken, &CancellationToken),
) -> anyhow::Result<Option<SocketAddr>> {
    let Some(address) = &config.admin_listen else { return Ok(None) };
    let listener = match TcpListener::bind(address).await {
        // The process before this one still drains: clients need not wait for that.
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            tracing::warn!(
                %address,
                "somebody listens on the address of /metrics, /live and /ready: a process that still drains, perhaps; it is tried again until it is free (--admin-listen chooses another address, \"off\" none)"
            );
            None
        }
        listener => Some(listener.with_context(|| {
            format!("cannot listen on {address} for /metrics (--admin-listen chooses another address, \"off\" none)")
        })?),
    };
    let listen = listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let admin = Admin {
        metrics: Arc::clone(metrics),
        drain: drain.clone(),
        control: ControlPool::new(config, database)?,
        server: server.clone(),
    };
    let (address, stop) = (address.clone(), stop.clone());
    tokio::spawn(async move {
        let listener = match listener {
            Some(listener) => listener,
            None => match stop.run_until_cancelled(bind_when_free(&address)).await {
                Some(listener) => listener,
                None => return,
            },
        };
        if let Err(error) = admin::serve(listener, admin, stop).await {
            tracing::error!(%error, "the admin endpoints ended");
        }
    });
    Ok(listen)
}

async fn bind_when_free(address: &str) -> TcpListener {
    loop {
        tokio::time::sleep(ADDRESS_PAUSE).await;
        if let Ok(listener) = TcpListener::bind(address).await {
            tracing::info!(%address, "the admin endpoints are there");
            return listener;
        }
    }
}

/// As many file descriptors as the system allows; the connections that they suffice for, two for each and some for us.
fn descriptors_for(wanted: usize) -> usize {
    let needed = 2 * u64::try_from(wanted).unwrap_or(u64::MAX / 2) + limits::OTHER_DESCRIPTORS;
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(needed);
    if limit >= needed {
        return wanted;
    }
    let possible = usize::try_from(limit.saturating_sub(limits::OTHER_DESCRIPTORS) / 2).unwrap_or(wanted).max(1);
    tracing::warn!(
        connections_max = possible,
        wanted,
        descriptors = limit,
        "too few file descriptors for connections_max: it is lowered; each connection needs two (raise `ulimit -n`, or LimitNOFILE of the service)"
    );
    possible
}

/// Pause between two tries to listen on an address that somebody else has.
const ADDRESS_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// The database of the control plane: as libpq chooses it.
fn control_database(control: &tokio_postgres::Config) -> String {
    control.get_dbname().or_else(|| control.get_user()).unwrap_or("postgres").to_owned()
}

/// A number that nobody outside of this process can guess (the hasher's keys come from the system).
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// Reads the configuration file: the one that was named, or turnstile.toml if there is one.
///
/// # Errors
/// When it cannot be read or is not valid.
pub fn read_config(common: &CommonArgs) -> anyhow::Result<ConfigFile> {
    let path = common.config.clone().unwrap_or_else(|| "turnstile.toml".into());
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(ConfigFile::parse(&path.display().to_string(), &text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && common.config.is_none() => {
            Ok(ConfigFile::default())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read the configuration file {}", path.display())),
    }
}

/// Starts logging as the command line or the file says.
///
/// # Errors
/// When the filter is not valid.
pub fn start_logging(common: &CommonArgs, file: &ConfigFile) -> anyhow::Result<()> {
    let format = common.log_format.or_else(|| file.log().format).unwrap_or(LogFormat::Text);
    let filter = common.log.clone().or_else(|| file.log().filter.clone()).unwrap_or_else(|| "info".into());
    logging::start(format, &filter).map_err(anyhow::Error::msg)
}

/// `turnstile serve`.
///
/// # Errors
/// When it cannot start.
pub async fn serve(mut args: ServeArgs) -> anyhow::Result<()> {
    let file = read_config(&args.common)?;
    start_logging(&args.common, &file)?;
    let mut signals = Signals::new()?;
    // One that comes before there is anything to reload ends nothing.
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    let cluster = match file.embedded(&args) {
        Some(data_dir) => {
            let cluster = start_cluster(data_dir).await?;
            tracing::info!(server = %cluster.url("postgres"), "private PostgreSQL cluster is running");
            args.server = Some(cluster.url("postgres"));
            args.install = true;
            Some(cluster)
        }
        None => None,
    };
    let running = Running::start(Config::new(&args, &file)?).await?;
    tokio::select! {
        () = signals.next() => {}
        () = reload_on_hangup(&mut hangup, &running) => {}
    }
    tracing::info!("shutting down: no new clients, running transactions may end");
    tokio::select! {
        () = running.shutdown() => {}
        () = signals.next() => tracing::warn!("second signal: stopping at once"),
    }
    drop(cluster);
    Ok(())
}

/// Starts a private cluster on a thread that may wait.
///
/// # Errors
/// [`crate::embedded::ClusterError`].
pub async fn start_cluster(data_dir: Option<std::path::PathBuf>) -> anyhow::Result<Cluster> {
    let options = ClusterOptions { data_dir, ..ClusterOptions::default() };
    Ok(tokio::task::spawn_blocking(move || Cluster::start(&options)).await??)
}

/// Reloads the TLS certificate at each SIGHUP.
async fn reload_on_hangup(hangup: &mut tokio::signal::unix::Signal, running: &Running) {
    while hangup.recv().await.is_some() {
        running.reload();
    }
}

/// SIGINT and SIGTERM, listened for from the moment that this is made.
#[derive(Debug)]
pub struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// Listens.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// A plain connection to the database that `--server` or the file names.
async fn connect(args: &ServerArgs, file: &ConfigFile) -> anyhow::Result<tokio_postgres::Client> {
    let server = args.server.as_deref().or_else(|| file.server()).context(crate::config::ConfigError::NoServer)?;
    let server = parse_server("server", server)?;
    control::connect(&server)
        .await
        .map_err(|error| anyhow::anyhow!("cannot connect to database {:?}: {error}", control_database(&server.config)))
}

/// `turnstile install`.
///
/// # Errors
/// When the schema cannot be installed; nothing has changed then.
pub async fn install(InstallArgs { server: args, readers }: InstallArgs) -> anyhow::Result<()> {
    let file = read_config(&args.common)?;
    start_logging(&args.common, &file)?;
    let client = connect(&args, &file).await?;
    let before = versions::state(&client).await?;
    versions::install(&client).await?;
    if !readers.is_empty() {
        versions::set_readers(&client, &readers).await?;
    }
    let verb = match before {
        SchemaState::Current => "was installed already",
        SchemaState::Absent => "is installed",
        _ => "is upgraded, and has kept all versions",
    };
    say(&format!("schema turbo {verb}, version {}\n", versions::SCHEMA_VERSION))?;
    warn_of_circumstances(&client).await
}

/// What is around the schema that its users have to know of.
async fn warn_of_circumstances(client: &tokio_postgres::Client) -> anyhow::Result<()> {
    let publications = versions::published_by(client).await?;
    if !publications.is_empty() {
        say(&format!(
            "warning: publications that take in schema turbo: {}. A subscriber without the schema stops at the next bump: \
             run `turnstile install` there first, or publish the application's tables by name. Versions are \
             replicated rightly by FOR TABLE turbo.tb_bump (tenant_id, domain, bumps, bumped_at, bumped_by, summary) \
             WITH (publish = 'insert'), PostgreSQL 15 and later; the subscriber folds by itself then\n",
            publications.join(", ")
        ))?;
    }
    let sql = "SELECT coalesce(string_agg(DISTINCT c.oid::pg_catalog.regclass::text, ', '), '') \
                 FROM turbo.fn_tracked() t JOIN pg_catalog.pg_class c ON c.oid = t.relation WHERE c.relpersistence = 'u'";
    let unlogged: String = client.query_one(sql, &[]).await?.try_get(0)?;
    if !unlogged.is_empty() {
        say(&format!(
            "warning: unlogged tables: {unlogged}. A crash empties them; their domains are bumped, and turbo.fn_incarnation() \
             changes, once Turnstile reaches the server again\n"
        ))?;
    }
    Ok(())
}

/// `turnstile uninstall`.
///
/// # Errors
/// When the schema cannot be removed; nothing has changed then.
pub async fn uninstall(args: ServerArgs) -> anyhow::Result<()> {
    let file = read_config(&args.common)?;
    start_logging(&args.common, &file)?;
    let client = connect(&args, &file).await?;
    versions::uninstall(&client).await?;
    say("schema turbo is removed\n")
}

/// `turnstile status`; the answer is whether all is well.
///
/// # Errors
/// When the database cannot be asked.
pub async fn status(args: ServerArgs) -> anyhow::Result<bool> {
    let file = read_config(&args.common)?;
    start_logging(&args.common, &file)?;
    let client = connect(&args, &file).await?;
    let state = versions::state(&client).await?;
    say(&format!("{state}\n"))?;
    if !state.is_usable() {
        return Ok(false);
    }
    warn_of_circumstances(&client).await?;
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM turbo.tb_bump), (SELECT folded_at::text FROM turbo.tb_fold_state ORDER BY epoch DESC LIMIT 1), \
                    (SELECT count(*) FROM turbo.tb_tenant), \
                    (SELECT coalesce(string_agg(DISTINCT t.domain, ', '), 'none') FROM turbo.fn_tracked() t), \
                    (SELECT coalesce(string_agg(source_domain || ' -> ' || target_domain, ', '), 'none') FROM turbo.tb_domain_cascade), \
                    current_setting('track_counts'), turbo.fn_incarnation(), \
                    (SELECT coalesce(extract(epoch FROM now() - min(bumped_at)), 0)::float8 FROM turbo.tb_bump)",
            &[],
        )
        .await?;
    let (log, folded, tenants): (i64, String, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (domains, cascades, counts): (String, String, String) = (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
    say(&format!(
        "tracked domains: {domains}\ncascades: {cascades}\nknown tenants: {tenants}\nlog rows not folded: {log}, last fold: {folded}\n"
    ))?;
    let (incarnation, age): (Option<String>, f64) = (row.try_get(6)?, row.try_get(7)?);
    match incarnation {
        Some(incarnation) => say(&format!("incarnation: {incarnation}\n"))?,
        None => say(
            "warning: no incarnation: the server was restored or has crashed, and no Turnstile has reached it since; readers must not keep what they read\n",
        )?,
    }
    if age > 60.0 {
        say(&format!(
            "warning: the log has not been folded for {age:.0} s: reading versions becomes slower; is a Turnstile serving this database?\n"
        ))?;
    }
    if counts != "on" {
        say("warning: track_counts is off: every measured statement bumps every domain\n")?;
    }
    Ok(state == SchemaState::Current)
}

/// `turnstile explain`.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn explain_sql(args: ExplainArgs) -> anyhow::Result<()> {
    let file = read_config(&args.server.common)?;
    start_logging(&args.server.common, &file)?;
    let client = connect(&args.server, &file).await?;
    match versions::state(&client).await? {
        state if state.is_usable() => {}
        other => bail!("{other}"),
    }
    let settings = effect_settings(&args.server, &file)?;
    let catalog =
        reading::load(&client, &settings.tenant_column, &reading::load_system(&client).await?).await?.build(1);
    let context = AnalysisContext { catalog: &catalog, settings: &settings, standard_conforming_strings: true };
    say(&explain(&catalog, &analyze(&context, args.sql.as_bytes()), &args.sql))
}

fn effect_settings(args: &ServerArgs, file: &ConfigFile) -> anyhow::Result<EffectSettings> {
    let serve = ServeArgs { server: args.server.clone(), ..ServeArgs::default() };
    Ok(Config::new(&serve, file)?.effect)
}

/// Prints for the user; a closed pipe is the reader's wish.
///
/// # Errors
/// Other than a closed pipe.
pub fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
