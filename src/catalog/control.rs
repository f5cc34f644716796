//! Connections of the control plane to one database: a bb8 pool that tells why it has none.
//!
//! bb8 keeps errors of connecting to itself until its timeout; what waits here hears of them at once.

use std::sync::Arc;
use std::time::Duration;

use bb8_postgres::PostgresConnectionManager;
use bb8_postgres::bb8::{ErrorSink, Pool, PooledConnection, RunError};
use tokio::sync::watch;
use tokio_postgres::error::SqlState;

use crate::config::{Config, ServerTls, ServerUrl};
use crate::limits;
use crate::tls::{self, SetupError};

use tokio_postgres_rustls::MakeRustlsConnect;

type Manager = PostgresConnectionManager<MakeRustlsConnect>;
/// A connection of the pool.
pub type Connection<'a> = PooledConnection<'a, Manager>;

/// Why there is no control connection, or why a query on it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct ControlError {
    /// What the server or the network said.
    pub words: String,
    /// The database does not exist.
    pub no_such_database: bool,
}

impl ControlError {
    /// An error that the server did not name.
    pub fn other(error: &dyn std::error::Error) -> Self {
        Self { words: error.to_string(), no_such_database: false }
    }
}

impl From<&tokio_postgres::Error> for ControlError {
    fn from(error: &tokio_postgres::Error) -> Self {
        Self { words: pg_words(error), no_such_database: error.code() == Some(&SqlState::INVALID_CATALOG_NAME) }
    }
}

impl From<tokio_postgres::Error> for ControlError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::from(&error)
    }
}

/// An error of tokio-postgres with what the server said.
#[must_use]
pub fn pg_words(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    match (error.as_db_error(), error.source()) {
        (Some(server), _) => format!("{} (SQLSTATE {})", server.message(), server.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// What our own statements rely on, whatever the settings of the role and the database are.
const SETTINGS: &str = "-c default_transaction_read_only=off -c default_transaction_isolation=read\\ committed \
     -c default_transaction_deferrable=off -c statement_timeout=0 -c idle_in_transaction_session_timeout=0 \
     -c standard_conforming_strings=on -c row_security=on";

/// One connection for a command, its messages read by a task of its own.
///
/// # Errors
/// [`ControlError`].
pub async fn connect(server: &ServerUrl) -> Result<tokio_postgres::Client, ControlError> {
    connect_until(&ServerUrl { config: with_settings(server.config.clone()), tls: server.tls.clone() }, || ()).await
}

fn with_settings(mut config: tokio_postgres::Config) -> tokio_postgres::Config {
    let given = config.get_options().unwrap_or_default();
    let options = format!("{given} {SETTINGS}");
    config.options(options.trim());
    config
}

/// The same for the reader of a catalog; `ended` is called when the connection has ended.
///
/// # Errors
/// [`ControlError`].
pub async fn connect_control(
    config: &Config,
    database: &str,
    ended: impl FnOnce() + Send + 'static,
) -> Result<tokio_postgres::Client, ControlError> {
    let mut control = control_config(config, database);
    control.application_name(crate::versions::handover::READER);
    let server = ServerUrl { config: control, tls: config.control.tls.clone() };
    connect_until(&server, ended).await
}

async fn connect_until(
    server: &ServerUrl,
    ended: impl FnOnce() + Send + 'static,
) -> Result<tokio_postgres::Client, ControlError> {
    let tls = make_tls(&server.tls).map_err(|error| ControlError::other(&error))?;
    let (client, connection) = server.config.connect(tls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
        ended();
    });
    Ok(client)
}

fn control_config(config: &Config, database: &str) -> tokio_postgres::Config {
    let mut control = with_settings(config.control.config.clone());
    control.dbname(database).application_name("turnstile control").connect_timeout(limits::CONNECT_TIMEOUT);
    let tcp = config.tcp;
    if !tcp.keepalives_idle.is_zero() {
        control.keepalives_idle(tcp.keepalives_idle);
    }
    if !tcp.keepalives_interval.is_zero() {
        control.keepalives_interval(tcp.keepalives_interval);
    }
    if tcp.keepalives_count > 0 {
        control.keepalives_retries(tcp.keepalives_count);
    }
    if !tcp.user_timeout.is_zero() {
        control.tcp_user_timeout(tcp.user_timeout);
    }
    control
}

fn make_tls(tls: &ServerTls) -> Result<MakeRustlsConnect, SetupError> {
    tls::client_config(tls).map(MakeRustlsConnect::new)
}

/// The pool of one database.
#[derive(Debug, Clone)]
pub struct ControlPool {
    pool: Pool<Manager>,
    failures: watch::Receiver<Option<ControlError>>,
}

/// Hands errors of connecting on to those who wait.
#[derive(Debug, Clone)]
struct Failures(Arc<watch::Sender<Option<ControlError>>>);

impl ErrorSink<tokio_postgres::Error> for Failures {
    fn sink(&self, error: tokio_postgres::Error) {
        self.0.send_replace(Some(ControlError::from(&error)));
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<tokio_postgres::Error>> {
        Box::new(self.clone())
    }
}

impl ControlPool {
    /// To `database`; connects when first asked.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(config: &Config, database: &str) -> Result<Self, SetupError> {
        let control = control_config(config, database);
        let (sender, failures) = watch::channel(None);
        let pool = Pool::builder()
            .max_size(3)
            .min_idle(0)
            .connection_timeout(limits::CONNECT_TIMEOUT)
            .idle_timeout(Some(Duration::from_secs(60)))
            .retry_connection(false)
            .error_sink(Box::new(Failures(Arc::new(sender))))
            .build_unchecked(PostgresConnectionManager::new(control, make_tls(&config.control.tls)?));
        Ok(Self { pool, failures })
    }

    /// A connection.
    ///
    /// # Errors
    /// At once when connecting fails; after [`limits::CONNECT_TIMEOUT`] otherwise.
    pub async fn get(&self) -> Result<Connection<'_>, ControlError> {
        let mut failures = self.failures.clone();
        failures.mark_unchanged();
        tokio::select! {
            got = self.pool.get() => got.map_err(|error| match error {
                RunError::User(error) => ControlError::from(&error),
                RunError::TimedOut => ControlError {
                    words: format!("no connection within {:?}", limits::CONNECT_TIMEOUT),
                    no_such_database: false,
                },
            }),
            Ok(_) = failures.changed() => {
                let unknown = || ControlError { words: "cannot connect".into(), no_such_database: false };
                Err(failures.borrow().clone().unwrap_or_else(unknown))
            }
        }
    }
}
