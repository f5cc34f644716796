//! The validated configuration. Pure: what was typed and what the file says → [`Config`] or
//! [`ConfigError`]. Command line and environment win over the file, the file over defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

mod server_url;

pub use server_url::{ServerTls, ServerUrl, SslMode, parse_server};

use crate::cli::{LogFormat, ServeArgs};
use crate::effect::EffectSettings;

/// Default of `listen`.
pub const LISTEN: &str = "127.0.0.1:6432";
/// Default of `admin.listen`.
pub const ADMIN_LISTEN: &str = "127.0.0.1:9432";

/// A configuration that can be run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address for clients.
    pub listen: String,
    /// Where clients are relayed to.
    pub server: ServerAddress,
    /// How the connection to it is encrypted.
    pub server_tls: ServerTls,
    /// Control plane: host, user and password; the database is each client's.
    pub control: ServerUrl,
    /// The control plane goes elsewhere than clients do: a pooler stands between.
    pub has_pooler: bool,
    /// Encryption of clients' connections, if there is any.
    pub tls: Option<TlsConfig>,
    /// SCRAM verifiers, where exchanges cannot be relayed.
    pub verifiers: Option<Verifiers>,
    /// Address of the admin endpoints, if any.
    pub admin_listen: Option<String>,
    /// Write detection.
    pub effect: EffectSettings,
    /// Table → domain, where the name does not say it.
    pub domains: Vec<(String, String)>,
    /// Source domain → target domain.
    pub cascades: Vec<(String, String)>,
    /// Install or upgrade the schema.
    pub install: bool,
    /// Whose connections may have it installed; empty: everybody's.
    pub install_roles: Vec<String>,
    /// Refuse databases without the schema.
    pub require_schema: bool,
    /// Most client connections at a time.
    pub connections_max: usize,
    /// Threads that relay; 0: one for each core.
    pub workers: usize,
    /// Longest time that a thread without work waits awake; zero: it sleeps at once.
    pub busy_poll: Duration,
    /// How long running transactions may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// How soon a peer is noticed that went without a word.
    pub tcp: Tcp,
    /// Pause between two looks for changes of the catalog.
    pub catalog_refresh: Duration,
    /// Pause between two folds.
    pub fold_interval: Duration,
    /// What is done about writes around Turnstile.
    pub audit_around: AuditAround,
    /// Pause between two looks for them.
    pub audit_interval: Duration,
}

/// TCP of clients and servers, as PostgreSQL's settings of these names; 0: the system's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// `tcp_keepalives_idle`: silence before the first probe.
    pub keepalives_idle: Duration,
    /// `tcp_keepalives_interval`: between two probes.
    pub keepalives_interval: Duration,
    /// `tcp_keepalives_count`: probes without an answer.
    pub keepalives_count: u32,
    /// `tcp_user_timeout`: how long what was sent may stay unacknowledged.
    pub user_timeout: Duration,
}

impl Default for Tcp {
    /// A peer that is gone is noticed within two minutes.
    fn default() -> Self {
        Self {
            keepalives_idle: Duration::from_secs(60),
            keepalives_interval: Duration::from_secs(10),
            keepalives_count: 6,
            user_timeout: Duration::from_secs(120),
        }
    }
}

/// Encryption of clients' connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// Our certificate, and those that sign it, in PEM.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Clients that do not encrypt are refused.
    pub required: bool,
    /// Who signs clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// What is asked of clients' certificates.
    pub client_certificate: ClientCertificate,
}

/// What is asked of clients' certificates, as `clientcert` of `pg_hba.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificate {
    /// Nothing; one that is shown must be good.
    #[default]
    Off,
    /// A good one.
    VerifyCa,
    /// One whose common name is the role.
    VerifyFull,
}

/// Where SCRAM verifiers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verifiers {
    /// A file with lines `"role" "SCRAM-SHA-256$…"`.
    File(PathBuf),
    /// A query on the control connection; `$1` is the role.
    Query(String),
}

/// What is done about writes that went around Turnstile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditAround {
    /// Nobody looks.
    #[default]
    Off,
    /// Log, metric, `turbo.tb_audit`.
    Report,
    /// The same, and the domain is bumped.
    Bump,
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// Host name or address, and port.
    Tcp(String, u16),
    /// Socket file.
    Unix(PathBuf),
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file is no TOML, or has unknown or misplaced keys. The text names line and column.
    #[error("{file}: {reason}")]
    File {
        /// Path.
        file: String,
        /// What the parser says.
        reason: String,
    },
    /// A value makes no sense.
    #[error("{key} = {value:?}: {reason}")]
    Value {
        /// Key, as in the file.
        key: &'static str,
        /// Value; passwords left out.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no server to relay to.
    #[error(
        "no server given: use --server postgres://USER@HOST:PORT/DATABASE, `server = …` in turnstile.toml, or --embedded"
    )]
    NoServer,
}

/// `turnstile.toml`, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    listen: Option<String>,
    server: Option<String>,
    embedded: Option<bool>,
    data_dir: Option<PathBuf>,
    install: Option<bool>,
    install_roles: Option<Vec<String>>,
    require_schema: Option<bool>,
    connections_max: Option<usize>,
    workers: Option<usize>,
    busy_poll_us: Option<u64>,
    drain_timeout_ms: Option<u64>,
    #[serde(default)]
    control: ControlSection,
    #[serde(default)]
    admin: AdminSection,
    #[serde(default)]
    log: LogSection,
    #[serde(default)]
    tenant: TenantSection,
    #[serde(default)]
    catalog: CatalogSection,
    #[serde(default)]
    audit: AuditSection,
    #[serde(default)]
    tls: TlsSection,
    #[serde(default)]
    tcp: TcpSection,
    #[serde(default)]
    auth: AuthSection,
    #[serde(default)]
    domains: BTreeMap<String, String>,
    #[serde(default)]
    cascades: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ControlSection {
    server: Option<String>,
    fold_interval_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdminSection {
    listen: Option<String>,
}

/// `[log]`.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSection {
    /// Format.
    pub format: Option<LogFormat>,
    /// Filter.
    pub filter: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantSection {
    column: Option<String>,
    settings: Option<Vec<String>>,
    trust_setting: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditSection {
    statements: Option<bool>,
    around: Option<AuditAround>,
    interval_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsSection {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    required: Option<bool>,
    client_ca: Option<PathBuf>,
    client_cert: Option<ClientCertificate>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthSection {
    verifiers_file: Option<PathBuf>,
    verifiers_query: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpSection {
    keepalives_idle: Option<u64>,
    keepalives_interval: Option<u64>,
    keepalives_count: Option<u32>,
    user_timeout_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogSection {
    refresh_ms: Option<u64>,
}

impl ConfigFile {
    /// Parses the text of a configuration file; `name` is for messages.
    ///
    /// # Errors
    /// [`ConfigError::File`], with line and column.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            // Not the line itself: it may hold a password.
            let line = error.span().map(|span| 1 + text.get(..span.start).unwrap_or_default().matches('\n').count());
            let at = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            ConfigError::File { file: name.to_owned(), reason: format!("{at}{}", error.message().trim_end()) }
        })
    }

    /// Whether a private cluster is to be started, and where it keeps its data.
    #[must_use]
    pub fn embedded(&self, args: &ServeArgs) -> Option<Option<PathBuf>> {
        let wanted = args.embedded || (args.server.is_none() && self.embedded.unwrap_or(false));
        wanted.then(|| args.data_dir.clone().or_else(|| self.data_dir.clone()))
    }

    /// `[log]`.
    #[must_use]
    pub const fn log(&self) -> &LogSection {
        &self.log
    }

    /// The server that is given, if any.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }
}

impl Config {
    /// Puts command line, file and defaults together.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key and the reason.
    pub fn new(args: &ServeArgs, file: &ConfigFile) -> Result<Self, ConfigError> {
        let server = args.server.as_ref().or(file.server.as_ref()).ok_or(ConfigError::NoServer)?;
        let control = args.control_server.as_ref().or(file.control.server.as_ref());
        let server_url = parse_server("server", server)?;
        let control = match control {
            Some(control) => parse_server("control.server", control)?,
            None => server_url.clone(),
        };
        let defaults = EffectSettings::default();
        let effect = EffectSettings {
            tenant_column: non_empty("tenant.column", file.tenant.column.clone().unwrap_or(defaults.tenant_column))?,
            tenant_settings: checked_settings(file.tenant.settings.clone().unwrap_or(defaults.tenant_settings))?,
            trust_tenant_setting: file.tenant.trust_setting.unwrap_or(defaults.trust_tenant_setting),
            audit: args.audit || file.audit.statements.unwrap_or(false),
        };
        Ok(Self {
            listen: address("listen", args.listen.as_ref().or(file.listen.as_ref()), LISTEN)?,
            server: server_address(&server_url.config)?,
            server_tls: server_url.tls,
            has_pooler: server_address(&control.config)? != server_address(&server_url.config)?,
            control,
            tls: tls(args, &file.tls)?,
            verifiers: verifiers(&file.auth)?,
            admin_listen: admin_address(args.admin_listen.as_ref().or(file.admin.listen.as_ref()))?,
            effect,
            domains: file.domains.clone().into_iter().collect(),
            cascades: file
                .cascades
                .iter()
                .flat_map(|(source, targets)| targets.iter().map(|target| (source.clone(), target.clone())))
                .collect(),
            install: args.install || file.install.unwrap_or(false),
            install_roles: if args.install_roles.is_empty() {
                file.install_roles.clone().unwrap_or_default()
            } else {
                args.install_roles.clone()
            },
            require_schema: args.require_schema || file.require_schema.unwrap_or(false),
            connections_max: in_range(
                "connections_max",
                args.connections_max.or(file.connections_max),
                10_000,
                1..=1_000_000,
            )?,
            workers: in_range("workers", args.workers.or(file.workers), 0, 0..=crate::limits::WORKERS_MAX)?,
            busy_poll: Duration::from_micros(in_range(
                "busy_poll_us",
                args.busy_poll_us.or(file.busy_poll_us),
                200,
                0..=crate::limits::BUSY_POLL_MICROS_MAX,
            )?),
            drain_timeout: millis(
                "drain_timeout_ms",
                args.drain_timeout_ms.or(file.drain_timeout_ms),
                30_000,
                0..=86_400_000,
            )?,
            tcp: tcp(&file.tcp)?,
            catalog_refresh: millis("catalog.refresh_ms", file.catalog.refresh_ms, 1_000, 10..=3_600_000)?,
            fold_interval: millis("control.fold_interval_ms", file.control.fold_interval_ms, 250, 10..=3_600_000)?,
            audit_around: file.audit.around.unwrap_or(if args.audit { AuditAround::Report } else { AuditAround::Off }),
            audit_interval: millis("audit.interval_ms", file.audit.interval_ms, 10_000, 100..=3_600_000)?,
        })
    }
}

fn tcp(section: &TcpSection) -> Result<Tcp, ConfigError> {
    let defaults = Tcp::default();
    let seconds = |key, given, default: Duration| {
        Ok::<_, ConfigError>(Duration::from_secs(in_range(key, given, default.as_secs(), 0..=86_400)?))
    };
    Ok(Tcp {
        keepalives_idle: seconds("tcp.keepalives_idle", section.keepalives_idle, defaults.keepalives_idle)?,
        keepalives_interval: seconds(
            "tcp.keepalives_interval",
            section.keepalives_interval,
            defaults.keepalives_interval,
        )?,
        keepalives_count: in_range(
            "tcp.keepalives_count",
            section.keepalives_count,
            defaults.keepalives_count,
            0..=100,
        )?,
        user_timeout: millis("tcp.user_timeout_ms", section.user_timeout_ms, 120_000, 0..=86_400_000)?,
    })
}

fn tls(args: &ServeArgs, section: &TlsSection) -> Result<Option<TlsConfig>, ConfigError> {
    let refused = |key, reason: &str| Err(ConfigError::Value { key, value: String::new(), reason: reason.to_owned() });
    let cert = args.tls_cert.clone().or_else(|| section.cert.clone());
    let key = args.tls_key.clone().or_else(|| section.key.clone());
    let client_certificate = section.client_cert.unwrap_or_default();
    match (cert, key) {
        (Some(_), Some(_)) if client_certificate != ClientCertificate::Off && section.client_ca.is_none() => {
            refused("tls.client_ca", "tls.client_cert needs the authority that signs clients' certificates")
        }
        (Some(cert), Some(key)) => Ok(Some(TlsConfig {
            cert,
            key,
            required: section.required.unwrap_or(false) || client_certificate != ClientCertificate::Off,
            client_ca: section.client_ca.clone(),
            client_certificate,
        })),
        (Some(_), None) => refused("tls.key", "tls.cert needs its key"),
        (None, Some(_)) => refused("tls.cert", "tls.key needs its certificate"),
        (None, None)
            if section.required == Some(true) || section.client_ca.is_some() || section.client_cert.is_some() =>
        {
            refused("tls.cert", "[tls] needs a certificate")
        }
        (None, None) => Ok(None),
    }
}

fn verifiers(section: &AuthSection) -> Result<Option<Verifiers>, ConfigError> {
    match (&section.verifiers_file, &section.verifiers_query) {
        (None, None) => Ok(None),
        (Some(file), None) => Ok(Some(Verifiers::File(file.clone()))),
        (None, Some(query)) => Ok(Some(Verifiers::Query(non_empty("auth.verifiers_query", query.clone())?))),
        (Some(file), Some(_)) => Err(ConfigError::Value {
            key: "auth.verifiers_file",
            value: file.display().to_string(),
            reason: "give a file or a query, not both".into(),
        }),
    }
}

/// Where a connection string points.
///
/// # Errors
/// [`ConfigError::NoServer`] where it names no host.
pub fn server_address(config: &tokio_postgres::Config) -> Result<ServerAddress, ConfigError> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Tcp(host)) => Ok(ServerAddress::Tcp(host.clone(), port)),
        #[cfg(unix)]
        Some(tokio_postgres::config::Host::Unix(directory)) => {
            Ok(ServerAddress::Unix(directory.join(format!(".s.PGSQL.{port}"))))
        }
        None => Err(ConfigError::NoServer),
    }
}

fn admin_address(given: Option<&String>) -> Result<Option<String>, ConfigError> {
    match given.map(String::as_str) {
        Some("off") => Ok(None),
        _ => address("admin.listen", given, ADMIN_LISTEN).map(Some),
    }
}

fn address(key: &'static str, given: Option<&String>, default: &str) -> Result<String, ConfigError> {
    let value = given.map_or(default, String::as_str);
    let refused = |reason: &str| ConfigError::Value { key, value: value.to_owned(), reason: reason.to_owned() };
    if value.parse::<SocketAddr>().is_ok() {
        return Ok(value.to_owned());
    }
    match value.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(value.to_owned()),
        _ => Err(refused("expected HOST:PORT")),
    }
}

fn non_empty(key: &'static str, value: String) -> Result<String, ConfigError> {
    if value.is_empty() {
        return Err(ConfigError::Value { key, value, reason: "it is empty".into() });
    }
    Ok(value)
}

fn checked_settings(settings: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let is_name = |name: &str| {
        name.contains('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$'))
    };
    match settings.iter().find(|name| !is_name(name)) {
        Some(name) => Err(ConfigError::Value {
            key: "tenant.settings",
            value: name.clone(),
            reason: "expected the name of a session setting, like app.tenant_id".into(),
        }),
        None => Ok(settings),
    }
}

fn in_range<T: PartialOrd + std::fmt::Display>(
    key: &'static str,
    given: Option<T>,
    default: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, ConfigError> {
    let value = given.unwrap_or(default);
    if range.contains(&value) {
        return Ok(value);
    }
    Err(ConfigError::Value {
        key,
        value: value.to_string(),
        reason: format!("expected {} to {}", range.start(), range.end()),
    })
}

fn millis(
    key: &'static str,
    given: Option<u64>,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Duration, ConfigError> {
    let value = given.unwrap_or(default);
    if range.contains(&value) {
        return Ok(Duration::from_millis(value));
    }
    Err(ConfigError::Value {
        key,
        value: value.to_string(),
        reason: format!("expected {} to {} milliseconds", range.start(), range.end()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(file: &str) -> Result<Config, ConfigError> {
        Config::new(&ServeArgs::default(), &ConfigFile::parse("turnstile.toml", file)?)
    }

    #[test]
    fn a_full_file() {
        let config = config(
            r#"
            listen = "0.0.0.0:7000"
            server = "postgres://app:secret@db.example:5433/app"
            install = true
            connections_max = 5
            drain_timeout_ms = 100
            [control]
            server = "host=/run/postgresql port=5432 user=control"
            [admin]
            listen = "off"
            [tenant]
            column = "org_id"
            settings = ["app.org"]
            trust_setting = true
            [domains]
            roles = "role"
            [cascades]
            user = ["post", "comment"]
            "#,
        )
        .unwrap();
        assert_eq!(config.server, ServerAddress::Tcp("db.example".into(), 5433));
        assert_eq!(config.listen, "0.0.0.0:7000");
        assert_eq!((config.admin_listen, config.install, config.connections_max), (None, true, 5));
        assert_eq!(config.domains, [("roles".to_owned(), "role".to_owned())]);
        assert_eq!(
            config.cascades,
            [("user".to_owned(), "post".to_owned()), ("user".to_owned(), "comment".to_owned())]
        );
        assert_eq!(config.effect.tenant_column, "org_id");
    }

    #[test]
    fn what_was_typed_wins() {
        let file = ConfigFile::parse("f", "listen = \"a:1\"\nserver = \"host=x\"").unwrap();
        let args = ServeArgs { listen: Some("b:2".into()), ..ServeArgs::default() };
        assert_eq!(Config::new(&args, &file).unwrap().listen, "b:2");
        assert_eq!(Config::new(&ServeArgs::default(), &file).unwrap().listen, "a:1");
        assert_eq!(config("server = \"host=x\"").unwrap().listen, LISTEN);
    }

    #[test]
    fn a_socket_directory() {
        let config = config("server = \"host=/run/postgresql port=5433\"").unwrap();
        assert_eq!(config.server, ServerAddress::Unix("/run/postgresql/.s.PGSQL.5433".into()));
    }

    #[test]
    fn refusals_name_place_and_reason() {
        let refused = |text: &str| config(text).unwrap_err().to_string();
        let unknown = refused("server = \"host=x\"\nlissten = \"a:1\"");
        assert!(unknown.contains("line 2") && unknown.contains("lissten"), "{unknown}");
        assert!(refused("server = ").contains("line 1"));
        assert!(refused("").contains("--server"));
        assert_eq!(refused("server = \"host=x\"\nlisten = \"nonsense\""), "listen = \"nonsense\": expected HOST:PORT");
        assert_eq!(
            refused("server = \"host=x\"\nconnections_max = 0"),
            "connections_max = \"0\": expected 1 to 1000000"
        );
        assert_eq!(refused("server = \"host=x\"\nworkers = 1025"), "workers = \"1025\": expected 0 to 1024");
        assert_eq!(
            refused("server = \"host=x\"\nbusy_poll_us = 10001"),
            "busy_poll_us = \"10001\": expected 0 to 10000"
        );
        assert!(refused("server = \"host=x\"\n[tenant]\nsettings = [\"x; DROP\"]").contains("session setting"));
        for secret in [
            "postgres://app:hunter2@db:port/app",
            "postgres://app:hunter2@/app?port=x",
            "postgresql://app@db:port/app?password=hunter2",
            "host=db password=hunter2 port=x",
            "host=db password=my hunter2 user=app",
            "host=db password = 'hunter2",
            "host=db PASSWORD=hunter2",
            "host=db password=a hunter2=b",
            "hunter2",
        ] {
            let words = refused(&format!("server = {secret:?}"));
            assert!(words.starts_with("server = ") && !words.contains("hunter2"), "{words}");
        }
        let unquoted = refused("listen = \"x\"\nserver = \"postgres://app:hunter2\"@db/app\"");
        assert!(unquoted.contains("line 2") && !unquoted.contains("hunter2"), "{unquoted}");
    }
}
