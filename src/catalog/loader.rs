//! Reads the catalog of one database, now and whenever it may have changed.
//!
//! Three things lead to a new reading: a session reports that it sent a change
//! ([`Database::note_change`]; until the reading is done [`Database::view`] is not fresh, and
//! sessions measure), the periodic fingerprint differs (somebody else's change), and start-up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use super::Catalog;
use super::control::{self, ControlError, ControlPool};
use super::reading::{ServerState, fingerprint, load, load_system, snapshot};
use super::rows::{CatalogRows, SystemRows};
use crate::config::{AuditAround, Config};
use crate::effect::cache::Analyzer;
use crate::limits;
use crate::session::View;
use crate::telemetry::metrics::Metrics;
use crate::versions::{self, SchemaState, handover};

/// Why a database cannot be served.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The control connection or a query on it failed.
    #[error("control connection to database \"{database}\": {reason}")]
    Control {
        /// Name.
        database: String,
        /// What the server or the network said.
        reason: String,
    },
    /// The schema comes from a newer Turnstile, or is none of ours.
    #[error("database \"{database}\": {reason}")]
    Schema {
        /// Name.
        database: String,
        /// What is there.
        reason: String,
    },
    /// `require_schema` is set and the schema is missing.
    #[error("database \"{0}\" has no turbo schema (run `turnstile install`, or serve with --install)")]
    NotInstalled(String),
    /// More databases than are watched.
    #[error("more than {limit} databases", limit = limits::DATABASES_MAX)]
    TooMany,
    /// The control connection does not answer.
    #[error("the control connection to database \"{0}\" has not answered within {limit:?}", limit = limits::CATALOG_TIMEOUT)]
    Slow(String),
}

/// One database: its catalog and its control connections.
#[derive(Debug)]
pub struct Database {
    /// Name.
    pub name: String,
    pool: ControlPool,
    analyzer: ArcSwap<Analyzer>,
    /// Changes that sessions reported.
    reported: AtomicU64,
    /// Reports that the current catalog has seen.
    seen: AtomicU64,
    /// Sessions whose transaction has changed the catalog and is open: until it ends nobody can see what it did,
    /// but a statement that waits for one of its locks will run with it.
    changing: AtomicUsize,
    changed: Notify,
    /// The reader's connection, for who has to do with the database now and then.
    control: tokio::sync::Mutex<Option<Arc<Client>>>,
    /// What is known, for the time behind its being forgotten.
    former: Mutex<Option<Former>>,
    /// Those who use it now.
    leases: watch::Sender<usize>,
    state: watch::Sender<Option<Result<Presence, LoadError>>>,
    /// Somebody uses it who may have the schema installed.
    may_install: AtomicBool,
    /// Its reader and fold worker stop.
    closed: CancellationToken,
}

/// In whose name a database is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For<'a> {
    /// The operator's: it is the one of the configuration.
    Operator,
    /// A role that the server has authenticated.
    Role(&'a [u8]),
}

/// A use of a database: while there is one, its catalog is kept current.
#[derive(Debug)]
pub struct Lease(Arc<Database>);

impl Lease {
    fn new(database: Arc<Database>) -> Self {
        database.leases.send_modify(|leases| *leases += 1);
        Self(database)
    }
}

impl std::ops::Deref for Lease {
    type Target = Arc<Database>;

    fn deref(&self) -> &Arc<Database> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.leases.send_modify(|leases| *leases -= 1);
    }
}

/// A session's open transaction has changed the catalog; dropped when it has ended.
#[derive(Debug)]
pub struct CatalogChange(Arc<Database>);

impl Drop for CatalogChange {
    fn drop(&mut self) {
        // In this order: between the two the view is not fresh either.
        self.0.note_change();
        self.0.changing.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A catalog that was read, and what it was read of.
#[derive(Debug, Clone)]
struct Former {
    /// Of the database.
    oid: u32,
    fingerprint: String,
    analyzer: Arc<Analyzer>,
}

/// Catalogs of databases that are not watched any more.
type Formers = Arc<Mutex<HashMap<String, Former>>>;

/// Whether the control plane found the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Found,
    /// Its catalog is being read for the first time: sessions that cannot wait measure.
    Reading,
    /// It is there, but its catalog cannot be read (a definition is locked): sessions measure.
    Unread,
    /// The server, or the pooler in front of it, tells the client.
    NotFound,
}

impl Database {
    /// What sessions of this database go by.
    #[must_use]
    pub fn view(&self) -> View {
        View { analyzer: self.analyzer.load_full(), fresh: self.is_fresh() }
    }

    /// Whether `view` is what [`Database::view`] would return.
    #[must_use]
    pub fn is_current(&self, view: &View) -> bool {
        std::ptr::eq(Arc::as_ptr(&*self.analyzer.load()), Arc::as_ptr(&view.analyzer)) && view.fresh == self.is_fresh()
    }

    fn is_fresh(&self) -> bool {
        self.changing.load(Ordering::Acquire) == 0
            && self.reported.load(Ordering::Acquire) == self.seen.load(Ordering::Acquire)
    }

    /// A session is about to send a change in a transaction that stays open; no view is fresh until it ends.
    #[must_use]
    pub fn begin_change(self: &Arc<Self>) -> CatalogChange {
        self.changing.fetch_add(1, Ordering::AcqRel);
        CatalogChange(Arc::clone(self))
    }

    /// A session sent a statement that may change the catalog, or its transaction has ended.
    pub fn note_change(&self) {
        self.reported.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
    }

    /// What is known may not hold: the reader's connection has ended, and a database of the same name may be another one
    /// by now. New clients wait until it has been looked at.
    fn lose_sight(&self) {
        self.state.send_replace(None);
        self.changed.notify_one();
    }

    /// One more use of it.
    #[must_use]
    pub fn lease(self: &Arc<Self>) -> Lease {
        Lease::new(Arc::clone(self))
    }

    /// Runs a query on the reader's connection, between two of its looks; `None` while there is none.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn query_one(
        &self,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Option<tokio_postgres::Row>, ControlError> {
        let shared = self.control.lock().await;
        let Some(client) = shared.as_ref().filter(|client| !client.is_closed()) else { return Ok(None) };
        Ok(Some(client.query_one(sql, parameters).await?))
    }

    /// Control connections.
    #[must_use]
    pub const fn pool(&self) -> &ControlPool {
        &self.pool
    }

    /// Whether it is gone, and its reader with it.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Waits for the first reading.
    async fn ready(&self) -> Result<Presence, LoadError> {
        let mut state = self.state.subscribe();
        let slow = || LoadError::Slow(self.name.clone());
        let mut read = async |patience, enough: fn(Presence) -> bool| {
            let wait = state.wait_for(|state| match state {
                Some(Ok(presence)) => enough(*presence),
                Some(Err(_)) => true,
                None => false,
            });
            match tokio::time::timeout(patience, wait).await {
                Ok(Ok(state)) => state.clone(),
                _ => None,
            }
        };
        if let Some(known) = read(limits::CATALOG_PATIENCE, |presence| presence != Presence::Reading).await {
            return known;
        }
        read(limits::CATALOG_TIMEOUT, |_| true).await.unwrap_or_else(|| Err(slow()))
    }
}

/// All databases that clients have asked for.
#[derive(Debug)]
pub struct Databases {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    known: Arc<Mutex<HashMap<String, Arc<Database>>>>,
    formers: Formers,
    tasks: tokio_util::task::TaskTracker,
    stop: CancellationToken,
}

impl Databases {
    /// None yet; readers and fold workers run until `stop`.
    #[must_use]
    pub fn new(config: Arc<Config>, metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        Self {
            config,
            metrics,
            known: Arc::default(),
            formers: Arc::default(),
            tasks: tokio_util::task::TaskTracker::new(),
            stop,
        }
    }

    /// The database of this name, its catalog read at least once. Some time after the last lease has ended the database
    /// is forgotten, and our connections to it with it: nobody could drop it otherwise.
    ///
    /// # Errors
    /// [`LoadError`]; a database that does not exist is no error: the server tells the client.
    pub async fn get(&self, name: &str, wanted_for: For<'_>) -> Result<Lease, LoadError> {
        let roles = &self.config.install_roles;
        let may_install = match wanted_for {
            For::Operator => true,
            For::Role(role) => roles.is_empty() || roles.iter().any(|allowed| allowed.as_bytes() == role),
        };
        let (database, known) = self.find_or_add(name, self.config.install && may_install)?;
        if known && !database.analyzer.load().catalog.installed {
            // The schema may have been installed meanwhile: this client is to find it.
            database.lose_sight();
        }
        match database.ready().await {
            Ok(Presence::Found | Presence::Reading | Presence::Unread) => Ok(database),
            Ok(Presence::NotFound) => {
                self.forget(&database);
                Ok(database)
            }
            // The next client tries again.
            Err(error) => {
                self.forget(&database);
                Err(error)
            }
        }
    }

    /// Clients cannot make the list long with names of databases that are not there.
    fn forget(&self, database: &Arc<Database>) {
        database.closed.cancel();
        let mut known = self.lock();
        if known.get(&database.name).is_some_and(|listed| Arc::ptr_eq(listed, database)) {
            known.remove(&database.name);
        }
    }

    /// Databases that are watched.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until readers and fold workers have stopped.
    pub async fn stopped(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn take_former(&self, name: &str) -> Option<Former> {
        self.formers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(name)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Database>>> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// And whether it was known already.
    fn find_or_add(&self, name: &str, may_install: bool) -> Result<(Lease, bool), LoadError> {
        let mut known = self.lock();
        // Databases that were dropped.
        known.retain(|_, database| !database.is_forgotten());
        if let Some(database) = known.get(name) {
            database.may_install.fetch_or(may_install, Ordering::AcqRel);
            return Ok((Lease::new(Arc::clone(database)), true));
        }
        if known.len() >= limits::DATABASES_MAX {
            return Err(LoadError::TooMany);
        }
        let database = Arc::new(Database {
            name: name.to_owned(),
            pool: ControlPool::new(&self.config, name)
                .map_err(|error| LoadError::Control { database: name.to_owned(), reason: error.to_string() })?,
            analyzer: ArcSwap::from_pointee(Analyzer::new(Catalog::default(), self.config.effect.clone())),
            reported: AtomicU64::new(1),
            seen: AtomicU64::new(0),
            changing: AtomicUsize::new(0),
            changed: Notify::new(),
            control: tokio::sync::Mutex::new(None),
            former: Mutex::new(None),
            leases: watch::Sender::new(0),
            state: watch::Sender::new(None),
            may_install: AtomicBool::new(may_install),
            closed: self.stop.child_token(),
        });
        known.insert(name.to_owned(), Arc::clone(&database));
        let reader = Reader {
            database: Arc::clone(&database),
            config: Arc::clone(&self.config),
            metrics: Arc::clone(&self.metrics),
            generation: 0,
            fingerprint: String::new(),
            snapshot: String::new(),
            system: None,
            took: Duration::ZERO,
            former: self.take_former(name),
            announced: false,
            declared: false,
            has_unseen_domains: false,
            connected_before: false,
            connection: None,
        };
        let closed = database.closed.clone();
        self.tasks.spawn(async move { closed.run_until_cancelled(reader.run()).await });
        let fold = versions::fold::run(
            Arc::clone(&database),
            Arc::clone(&self.config),
            Arc::clone(&self.metrics),
            database.closed.clone(),
        );
        self.tasks.spawn(fold);
        let audit = versions::audit::run(
            Arc::clone(&database),
            Arc::clone(&self.config),
            Arc::clone(&self.metrics),
            database.closed.clone(),
        );
        self.tasks.spawn(audit);
        // A look for writes around us goes on without clients.
        if self.config.audit_around == AuditAround::Off {
            let closed = database.closed.clone();
            let unused = forget_unused(Arc::clone(&database), Arc::clone(&self.known), Arc::clone(&self.formers));
            self.tasks.spawn(async move { closed.run_until_cancelled(unused).await });
        }
        Ok((Lease::new(database), false))
    }
}

/// Forgets a database that nobody has used for [`limits::DATABASE_LINGER`].
async fn forget_unused(database: Arc<Database>, known: Arc<Mutex<HashMap<String, Arc<Database>>>>, formers: Formers) {
    let mut leases = database.leases.subscribe();
    loop {
        if leases.wait_for(|leases| *leases == 0).await.is_err() {
            return;
        }
        let used = leases.wait_for(|leases| *leases > 0);
        if tokio::time::timeout(limits::DATABASE_LINGER, used).await.is_ok() {
            continue;
        }
        let mut known = known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Leases begin under this lock.
        if *database.leases.borrow() == 0 {
            let former = database.former.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            let mut formers = formers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(former) = former.filter(|_| formers.len() < limits::FORMER_CATALOGS_MAX) {
                formers.insert(database.name.clone(), former);
            }
            known.remove(&database.name);
            database.closed.cancel();
            return;
        }
    }
}

/// The task that keeps one database's catalog current.
struct Reader {
    database: Arc<Database>,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    generation: u64,
    fingerprint: String,
    /// Of before it was taken.
    snapshot: String,
    /// Of the server that the connection leads to.
    system: Option<Arc<SystemRows>>,
    /// What was known when the database was forgotten.
    former: Option<Former>,
    /// How long the last reading took.
    took: Duration,
    /// Others were told that the sessions work with the schema.
    announced: bool,
    /// What the configuration says of domains and cascades is written.
    declared: bool,
    /// Domains could not be made known to readers: it is tried again.
    has_unseen_domains: bool,
    /// There has been a connection.
    connected_before: bool,
    /// Lives as long as the database does: nobody can drop it before this connection has ended.
    connection: Option<Arc<Client>>,
}

impl Reader {
    async fn run(mut self) {
        loop {
            let outcome = self.refresh().await;
            if self.connection.take_if(|connection| connection.is_closed()).is_some() {
                // Lost in the middle. What was read may be of another database by now; the next look has a new connection.
                tokio::time::sleep(limits::CATALOG_PAUSE).await;
                continue;
            }
            let failed = !matches!(outcome, Ok(Presence::Found));
            let gone = matches!(outcome, Ok(Presence::NotFound));
            if let Err(error) = &outcome {
                tracing::warn!(database = %self.database.name, %error, "cannot read the catalog");
            }
            self.database.state.send_if_modified(|state| {
                let first_or_better =
                    state.is_none() || matches!(state, Some(Ok(Presence::Reading))) || outcome.is_ok();
                if first_or_better {
                    *state = Some(outcome);
                }
                first_or_better
            });
            if gone {
                // Dropped, or never there: nobody asks for it until the next client does.
                self.database.closed.cancel();
                return;
            }
            let pause = self.config.catalog_refresh;
            if failed {
                tokio::time::sleep(pause).await;
            } else {
                // Applications that make definitions all the time must not keep us reading.
                tokio::time::sleep(limits::CATALOG_PAUSE.max(self.took)).await;
                let _ = tokio::time::timeout(pause, self.database.changed.notified()).await;
            }
        }
    }

    /// A new connection may lead to another database of the same name.
    async fn connected(&mut self) -> Result<Arc<Client>, ControlError> {
        if let Some(connection) = self.connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(Arc::clone(connection));
        }
        self.connection = None;
        self.fingerprint.clear();
        self.snapshot.clear();
        self.system = None;
        self.announced = false;
        self.declared = false;
        let database = Arc::downgrade(&self.database);
        let ended = move || {
            if let Some(database) = database.upgrade() {
                database.lose_sight();
            }
        };
        let connection = Arc::new(control::connect_control(&self.config, &self.database.name, ended).await?);
        self.connection = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Reads the catalog if it may have changed.
    async fn refresh(&mut self) -> Result<Presence, LoadError> {
        let reported = self.database.reported.load(Ordering::Acquire);
        let database = Arc::clone(&self.database);
        // The fold worker uses the same connection in between.
        let mut shared = database.control.lock().await;
        let connection = match self.connected().await {
            Ok(connection) => connection,
            Err(error) if error.no_such_database => {
                // The server (or pooler) in front of the client has the word.
                self.publish(Catalog::default(), reported);
                return Ok(Presence::NotFound);
            }
            // It has been served: the server, if it can be reached, has the word.
            Err(error) if self.connected_before => {
                self.database.reported.fetch_add(1, Ordering::AcqRel);
                return Ok(self.unread(&error));
            }
            Err(error) => return Err(self.control_error(&error)),
        };
        self.connected_before = true;
        *shared = Some(Arc::clone(&connection));
        let server = ServerState::look(&connection).await.map_err(|error| self.control_error(&error.into()))?;
        let state = self.schema_state(&connection, server).await?;
        self.metrics.set_installed(&self.database.name, state.is_some());
        let Some(()) = state else {
            self.publish(Catalog::default(), reported);
            self.announce(&connection, false).await?;
            return Ok(Presence::Found);
        };
        if !server.in_recovery {
            self.incarnate(&connection).await;
        }
        let presence = self.read_if_changed(&connection, server, reported).await?;
        self.announce(&connection, true).await?;
        Ok(presence)
    }

    /// Whether the sessions work with the schema, for those who install and remove it.
    async fn announce(&mut self, connection: &Client, serves: bool) -> Result<(), LoadError> {
        if self.announced != serves {
            handover::announce(connection, serves).await.map_err(|error| self.control_error(&error.into()))?;
            self.announced = serves;
        }
        Ok(())
    }

    async fn read_if_changed(
        &mut self,
        connection: &Client,
        server: ServerState,
        mut reported: u64,
    ) -> Result<Presence, LoadError> {
        let tries_again = self.has_unseen_domains && !server.in_recovery;
        let unreported = reported == self.database.seen.load(Ordering::Acquire) && !tries_again;
        let snapshot = snapshot(connection).await.map_err(|error| self.control_error(&error.into()))?;
        if unreported && snapshot == self.snapshot {
            // Nothing in the cluster has committed since the last look.
            return Ok(Presence::Found);
        }
        let fingerprint = fingerprint(connection).await.map_err(|error| self.control_error(&error.into()))?;
        if (unreported && fingerprint == self.fingerprint) || self.recall(server, &fingerprint, reported) {
            self.snapshot = snapshot;
            return Ok(Presence::Found);
        }
        if self.fingerprint.is_empty() {
            reported = self.begin_reading();
        }
        let start = Instant::now();
        let rows = match self.load(connection).await {
            // A definition was dropped between listing and printing it.
            Err(error) if error.code() == Some(&SqlState::INTERNAL_ERROR) => self.load(connection).await,
            other => other,
        };
        let rows = match rows {
            // A pooler hands the server on at the first of the two ReadyForQuery that FunctionCall and Sync get.
            Ok(rows) if self.config.has_pooler => CatalogRows { calls: None, pooled: true, ..rows },
            Ok(rows) => rows,
            Err(error) => return Ok(self.unread(&error.into())),
        };
        self.generation += 1;
        let mut catalog = rows.build(self.generation);
        self.took = start.elapsed();
        self.has_unseen_domains = !self.register(connection, &catalog.domains, server).await;
        catalog.has_unseen_domains = self.has_unseen_domains;
        tracing::debug!(database = %self.database.name, generation = self.generation, domains = catalog.domains.len(), "catalog is read");
        (self.fingerprint, self.snapshot) = (fingerprint, snapshot);
        self.publish(catalog, reported);
        self.note_former(server);
        Ok(Presence::Found)
    }

    /// Makes domains known to readers; whether they are.
    async fn register(&self, connection: &Client, domains: &[String], server: ServerState) -> bool {
        if domains.is_empty() {
            return true;
        }
        if server.in_recovery {
            return false;
        }
        let registered = versions::register_domains(connection, domains).await;
        if let Err(error) = &registered {
            tracing::debug!(database = %self.database.name, error = %ControlError::from(error), "cannot register domains");
        }
        registered.is_ok()
    }

    /// The schema is there: a client that has waited long enough goes on with everything measured.
    fn begin_reading(&self) -> u64 {
        let reported = self.database.reported.fetch_add(1, Ordering::AcqRel) + 1;
        let catalog = CatalogRows { installed: true, ..CatalogRows::default() }.build(0);
        self.database.analyzer.store(Arc::new(Analyzer::new(catalog, self.config.effect.clone())));
        self.database.state.send_if_modified(|state| {
            let first = state.is_none();
            if first {
                *state = Some(Ok(Presence::Reading));
            }
            first
        });
        reported
    }

    /// The catalog of before the database was forgotten, if nothing of it has changed since.
    fn recall(&mut self, server: ServerState, fingerprint: &str, reported: u64) -> bool {
        let same = |former: &Former| former.oid == server.oid && former.fingerprint == fingerprint;
        let Some(former) = self.former.take().filter(same) else { return false };
        self.generation = former.analyzer.catalog.generation;
        self.has_unseen_domains = former.analyzer.catalog.has_unseen_domains;
        self.fingerprint = former.fingerprint;
        self.database.analyzer.store(former.analyzer);
        self.database.seen.store(reported, Ordering::Release);
        self.note_former(server);
        true
    }

    /// What is known now, should the database be forgotten.
    fn note_former(&self, server: ServerState) {
        let analyzer = self.database.analyzer.load_full();
        let former = Former { oid: server.oid, fingerprint: self.fingerprint.clone(), analyzer };
        *self.database.former.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(former);
    }

    async fn load(&mut self, client: &Client) -> Result<CatalogRows, tokio_postgres::Error> {
        let system = match &self.system {
            Some(system) => Arc::clone(system),
            None => Arc::clone(self.system.insert(load_system(client).await?)),
        };
        load(client, &self.config.effect.tenant_column, &system).await
    }

    /// The schema is there, the catalog cannot be read now. What is known stays, but is not fresh.
    fn unread(&self, error: &ControlError) -> Presence {
        tracing::warn!(database = %self.database.name, %error, "cannot read the catalog: every statement is measured until it can be read");
        if self.generation == 0 && self.connection.is_some() {
            let catalog = CatalogRows { installed: true, ..CatalogRows::default() }.build(0);
            self.database.analyzer.store(Arc::new(Analyzer::new(catalog, self.config.effect.clone())));
        }
        Presence::Unread
    }

    fn publish(&self, catalog: Catalog, reported: u64) {
        let current = self.database.analyzer.load();
        let still_absent =
            !catalog.installed && !current.catalog.installed && current.catalog.generation == catalog.generation;
        if !still_absent {
            self.database.analyzer.store(Arc::new(Analyzer::new(catalog, self.config.effect.clone())));
        }
        self.database.seen.store(reported, Ordering::Release);
    }

    /// A crash, a failover or a restore has ended what versions of before mean.
    async fn incarnate(&self, client: &Client) {
        match versions::incarnate(client).await {
            Ok(false) => {}
            Ok(true) => tracing::info!(
                database = %self.database.name,
                "a new incarnation of versions has begun: the server has recovered from a crash, or was promoted or restored"
            ),
            Err(error) => tracing::warn!(
                database = %self.database.name, error = %ControlError::from(error),
                "cannot begin a new incarnation of versions: turbo.fn_incarnation() is NULL until then"
            ),
        }
    }

    /// `Some` when the schema is there and ours; installs it where that is asked for.
    async fn schema_state(&mut self, client: &Client, server: ServerState) -> Result<Option<()>, LoadError> {
        let name = || self.database.name.clone();
        let mut state = versions::state(client).await.map_err(|error| self.control_error(&error.into()))?;
        let asked = self.database.may_install.load(Ordering::Acquire) && !server.in_recovery && !server.is_template;
        if asked && matches!(state, SchemaState::Absent | SchemaState::Older(_)) {
            match versions::install_only(client).await {
                Ok(()) => state = SchemaState::Current,
                Err(error) => tracing::warn!(database = %name(), error = %error, "cannot install the turbo schema"),
            }
        }
        match state {
            SchemaState::Current | SchemaState::Compatible => {
                if !self.declared && !server.in_recovery {
                    versions::declare(client, &self.config.domains, &self.config.cascades)
                        .await
                        .map_err(|error| self.control_error(&error.into()))?;
                    self.declared = true;
                }
                Ok(Some(()))
            }
            SchemaState::Absent if self.config.require_schema => Err(LoadError::NotInstalled(name())),
            SchemaState::Absent => {
                if self.database.state.borrow().is_none() {
                    tracing::warn!(
                        database = %name(),
                        "the turbo schema is not installed: this database is relayed without versions (run `turnstile install`, or serve with --install)"
                    );
                }
                Ok(None)
            }
            // A restore goes through us, perhaps.
            SchemaState::Incomplete | SchemaState::Retired => {
                if self.database.state.borrow().is_none() {
                    tracing::warn!(database = %name(), "{state}; this database is relayed without versions");
                }
                Ok(None)
            }
            other => Err(LoadError::Schema { database: name(), reason: other.to_string() }),
        }
    }

    fn control_error(&self, error: &ControlError) -> LoadError {
        LoadError::Control { database: self.database.name.clone(), reason: error.words.clone() }
    }
}
