//! What the user typed. Every option of `serve` is also a key of `turnstile.toml` and an environment
//! variable; `config` decides which wins.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::compare::script::Mode;

/// A PostgreSQL proxy that moves the version of a domain forward, exactly once, in the transaction
/// that wrote one of its tables. Point applications at it instead of PostgreSQL or PgBouncer.
#[derive(Debug, Parser)]
#[command(
    name = "turnstile",
    version,
    about,
    max_term_width = 100,
    after_help = "\
Start here:  turnstile demo
Exit codes:  0 done, 1 it failed (the message says what to do), 2 bad usage or configuration."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy.
    Serve(ServeArgs),
    /// Start a private PostgreSQL with a small CQRS application in it, the proxy in front of it, and
    /// print every version that moves. Ctrl-C stops and removes everything.
    Demo(DemoArgs),
    /// Install or upgrade the turbo schema in a database. Does nothing if it is current.
    Install(InstallArgs),
    /// Remove the turbo schema and all versions from a database.
    Uninstall(ServerArgs),
    /// Say whether the turbo schema is installed, in which version, and what is tracked. Exit code 1
    /// unless it is installed and current.
    Status(ServerArgs),
    /// Say which domains and tenants statements would bump, and which rule decided. Runs nothing.
    Explain(ExplainArgs),
    /// Send scripts to PostgreSQL directly and through a running Turnstile, and compare what comes back, byte by byte.
    /// Exit code 1 if anything differs.
    Compare(CompareArgs),
}

/// Where the configuration comes from, and what logs look like.
#[derive(Debug, Args, Clone, Default)]
pub struct CommonArgs {
    /// Configuration file; without it, turnstile.toml of the current directory if there is one.
    #[arg(long, env = "TURNSTILE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Log format.
    #[arg(long, env = "TURNSTILE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What to log: error, warn, info, debug, trace, or a filter as in `info,turnstile::proxy=debug`.
    /// SQL, parameters and passwords are never logged.
    #[arg(long, env = "TURNSTILE_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// Log formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `turnstile serve`.
#[derive(Debug, Args, Default)]
pub struct ServeArgs {
    /// Common options.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Address to listen on [default: 127.0.0.1:6432].
    #[arg(long, env = "TURNSTILE_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// PostgreSQL or PgBouncer to relay to: postgres://USER@HOST:PORT/DATABASE, or
    /// "host=/socket/directory port=5432 user=…". Clients log in with their own names; user and
    /// database given here are those of the control plane.
    #[arg(long, env = "TURNSTILE_SERVER", value_name = "URL", conflicts_with = "embedded")]
    pub server: Option<String>,
    /// PostgreSQL for the control plane (catalog, fold worker), where `--server` is a pooler in
    /// transaction mode [default: the server].
    #[arg(long, env = "TURNSTILE_CONTROL_SERVER", value_name = "URL")]
    pub control_server: Option<String>,
    /// Start a private PostgreSQL cluster, from the server programs found on this machine, and relay
    /// to it.
    #[arg(long, env = "TURNSTILE_EMBEDDED")]
    pub embedded: bool,
    /// Where the private cluster keeps its data [default: a temporary directory, removed at the end].
    #[arg(long, env = "TURNSTILE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Install or upgrade the turbo schema in each database that a client connects to.
    #[arg(long, env = "TURNSTILE_INSTALL")]
    pub install: bool,
    /// With --install: only clients that log in as one of these roles have the schema installed [default: all].
    #[arg(long, env = "TURNSTILE_INSTALL_ROLES", value_name = "ROLE", value_delimiter = ',')]
    pub install_roles: Vec<String>,
    /// Refuse clients of a database without the turbo schema, instead of relaying without versions.
    #[arg(long, env = "TURNSTILE_REQUIRE_SCHEMA")]
    pub require_schema: bool,
    /// Measure the statements that text and catalog are sure of too, and look for writes that went around
    /// Turnstile; disagreements are logged, counted, and kept in turbo.tb_audit. Costs a measurement for
    /// each statement.
    #[arg(long, env = "TURNSTILE_AUDIT")]
    pub audit: bool,
    /// Certificate in PEM: clients may encrypt their connections. The file is loaded again when it changes, and
    /// on SIGHUP.
    #[arg(long, env = "TURNSTILE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its key, in PEM.
    #[arg(long, env = "TURNSTILE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Address of /metrics, /live and /ready; "off" for none [default: 127.0.0.1:9432].
    #[arg(long, env = "TURNSTILE_ADMIN_LISTEN", value_name = "HOST:PORT")]
    pub admin_listen: Option<String>,
    /// Most client connections at a time [default: 10000].
    #[arg(long, env = "TURNSTILE_CONNECTIONS_MAX", value_name = "N")]
    pub connections_max: Option<usize>,
    /// Threads that relay; 0: one for each core [default: 0].
    #[arg(long, env = "TURNSTILE_WORKERS", value_name = "N")]
    pub workers: Option<usize>,
    /// Longest time that a thread without work polls its sockets before it sleeps, in microseconds: shorter latencies
    /// for some processor time, where few connections are busy; 0: never [default: 200].
    #[arg(long, env = "TURNSTILE_BUSY_POLL_US", value_name = "US")]
    pub busy_poll_us: Option<u64>,
    /// After SIGTERM, how long transactions may go on before they are cut off, in milliseconds
    /// [default: 30000].
    #[arg(long, env = "TURNSTILE_DRAIN_TIMEOUT_MS", value_name = "MS")]
    pub drain_timeout_ms: Option<u64>,
}

/// `turnstile demo`.
#[derive(Debug, Args, Default)]
pub struct DemoArgs {
    /// Common options.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Address to listen on.
    #[arg(long, env = "TURNSTILE_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:6432")]
    pub listen: String,
    /// Use this PostgreSQL instead of a private one; a database `turnstile_demo` is created in it.
    #[arg(long, env = "TURNSTILE_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Address of /metrics, /live and /ready.
    #[arg(long, env = "TURNSTILE_ADMIN_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:9432")]
    pub admin_listen: String,
    /// Stop after the sample application has been set up and a few writes were shown.
    #[arg(long)]
    pub once: bool,
}

/// A database.
#[derive(Debug, Args, Default)]
pub struct ServerArgs {
    /// Common options.
    #[command(flatten)]
    pub common: CommonArgs,
    /// PostgreSQL itself, not a pooler: postgres://USER@HOST:PORT/DATABASE.
    #[arg(long, env = "TURNSTILE_SERVER", value_name = "URL")]
    pub server: Option<String>,
}

/// `turnstile install`.
#[derive(Debug, Args, Default)]
pub struct InstallArgs {
    /// Where to.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Only these roles may read versions, tenants, and who wrote when; PUBLIC is everybody [default: as it is; at first
    /// PUBLIC].
    #[arg(long, env = "TURNSTILE_READERS", value_name = "ROLE", value_delimiter = ',')]
    pub readers: Vec<String>,
}

/// `turnstile explain`.
#[derive(Debug, Args, Default)]
pub struct ExplainArgs {
    /// The database whose catalog decides.
    #[command(flatten)]
    pub server: ServerArgs,
    /// One or more statements.
    #[arg(value_name = "SQL")]
    pub sql: String,
}

/// `turnstile compare`.
#[derive(Debug, Args)]
#[command(after_help = "\
Scripts ending in .wire hold messages, one a line (Query \"SELECT 1\", Parse s \"…\", Bind \"\" s 1 NULL, Execute \"\", Sync, …; \
--- waits for the answers); all others hold SQL as psql reads it, without psql's own commands. Each run has a new database \
turnstile_compare_NNNN, in which the schema turbo is installed, and which is dropped behind it. Masked are cancel keys, OIDs \
of what users created, process ids of notifications, and versions; what differs between two direct runs, too, is compared by \
its type.")]
pub struct CompareArgs {
    /// PostgreSQL itself, as a role that may create databases: postgres://USER:PASSWORD@HOST:PORT/DATABASE.
    #[arg(long, env = "TURNSTILE_SERVER", value_name = "URL")]
    pub server: String,
    /// The Turnstile in front of it.
    #[arg(long, value_name = "URL")]
    pub through: String,
    /// SQL that is run before each run, directly.
    #[arg(long, value_name = "FILE")]
    pub setup: Option<PathBuf>,
    /// What the new databases are copies of.
    #[arg(long, value_name = "DATABASE", default_value = "template1")]
    pub template: String,
    /// Use the database of --server as it is, instead of new ones: for scripts that leave no trace.
    #[arg(long, conflicts_with = "template")]
    pub in_place: bool,
    /// How SQL is sent.
    #[arg(long, value_name = "MODE", value_delimiter = ',', default_value = "simple,text,extended,pipeline")]
    pub modes: Vec<Mode>,
    /// Bytes of the pieces that are sent through Turnstile; 0: whole.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "0,1,7")]
    pub pieces: Vec<usize>,
    /// Scripts.
    #[arg(value_name = "SCRIPT", required = true)]
    pub scripts: Vec<PathBuf>,
}
