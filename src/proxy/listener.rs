//! Accepts clients, reads their startup packets, and starts a [`Connection`] for each.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cancel;
use super::connect::connect;
use super::connection::{Connection, Ending};
use super::socket::Socket;
use crate::catalog::loader::{Databases, LoadError};
use crate::config::Config;
use crate::limits;
use crate::telemetry::metrics::Metrics;
use crate::wire::WireError;
use crate::wire::encode;
use crate::wire::startup::{StartupMessage, StartupPacket, packet_bytes, parse};

/// What all connections share.
#[derive(Debug)]
pub struct Proxy {
    config: Arc<Config>,
    databases: Arc<Databases>,
    metrics: Arc<Metrics>,
    drain: CancellationToken,
    kill: CancellationToken,
    connections: TaskTracker,
    open: AtomicUsize,
    accepted: AtomicU64,
    cancels: Semaphore,
    /// Random for each process: no client can guess our names.
    nonce: u64,
}

/// Why a client got no session.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("no startup packet within {:?}", limits::STARTUP_TIMEOUT)]
    Slow,
    #[error("the client closed before its startup packet")]
    Gone,
    #[error("too many connections")]
    Full,
    #[error(transparent)]
    Catalog(#[from] LoadError),
    #[error("the server {0}: {1}")]
    Server(String, io::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Proxy {
    /// A proxy that accepts nobody yet.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        databases: Arc<Databases>,
        metrics: Arc<Metrics>,
        drain: CancellationToken,
        nonce: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            databases,
            metrics,
            drain,
            kill: CancellationToken::new(),
            connections: TaskTracker::new(),
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            cancels: Semaphore::new(limits::CANCELS_MAX),
            nonce,
        })
    }

    /// Accepts until drained; then waits for running transactions, at most the drain timeout.
    pub async fn run(self: &Arc<Self>, listener: TcpListener) {
        while let Some(client) = self.accept(&listener).await {
            let proxy = Arc::clone(self);
            self.connections.spawn(async move { proxy.serve(client).await });
        }
        drop(listener);
        self.connections.close();
        if tokio::time::timeout(self.config.drain_timeout, self.connections.wait()).await.is_err() {
            tracing::warn!(open = self.connections.len(), "drain timeout: cutting off what still runs");
            self.kill.cancel();
            self.connections.wait().await;
        }
    }

    async fn accept(&self, listener: &TcpListener) -> Option<TcpStream> {
        loop {
            let accepted = tokio::select! {
                () = self.drain.cancelled() => return None,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((client, _)) => return Some(client),
                Err(error) => {
                    // Out of file descriptors, most likely: trying at once would spin.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(&self, client: TcpStream) {
        let _guard = self.metrics.connected();
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let number = self.accepted.fetch_add(1, Ordering::Relaxed);
        // A socket that is gone already will say so when it is read.
        let _gone = client.set_nodelay(true);
        let client = Socket::Tcp(client);
        let full = open >= self.config.connections_max;
        let outcome = self.session(&client, number, full).await;
        self.open.fetch_sub(1, Ordering::Relaxed);
        match outcome {
            Ok(Some(connection)) => self.relay(connection, client, number).await,
            Ok(None) | Err(Refusal::Gone) => {}
            Err(refusal) => self.refuse(client, &refusal).await,
        }
    }

    async fn relay(&self, start: Start, client: Socket, number: u64) {
        self.open.fetch_add(1, Ordering::Relaxed);
        let connection = Connection {
            client,
            server: start.server,
            database: start.database,
            metrics: Arc::clone(&self.metrics),
            drain: self.drain.clone(),
            kill: self.kill.clone(),
            shard: usize::try_from(number).unwrap_or(0),
        };
        let name = format!("_turnstile_{:016x}", self.nonce);
        match connection.run(&start.packet, start.early, &name).await {
            Ok(Ending::Violation) => self.metrics.violated(),
            Ok(Ending::Closed | Ending::Drained) => {}
            Err(error) => tracing::debug!(%error, "session ended"),
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Reads startup packets until there is something to relay.
    async fn session(&self, client: &Socket, number: u64, full: bool) -> Result<Option<Start>, Refusal> {
        let mut reader = StartupReader { client, buffer: Vec::new() };
        let packet = tokio::select! {
            () = self.drain.cancelled() => return Ok(None),
            packet = tokio::time::timeout(limits::STARTUP_TIMEOUT, reader.message()) => packet.map_err(|_| Refusal::Slow)??,
        };
        match parse(&packet)? {
            StartupPacket::CancelRequest => {
                self.cancel(&packet).await;
                Ok(None)
            }
            StartupPacket::Startup(message) => {
                tracing::debug!(number, version = ?message.version, replication = message.replication, "client");
                if full {
                    return Err(Refusal::Full);
                }
                let database = self.database(&message).await?;
                let server = connect(&self.config.server)
                    .await
                    .map_err(|error| Refusal::Server(self.config.server.to_string(), error))?;
                let early = std::mem::take(&mut reader.buffer);
                Ok(Some(Start { server, database, packet: packet.clone(), early }))
            }
            // StartupReader has answered those.
            StartupPacket::SslRequest | StartupPacket::GssEncRequest => Ok(None),
        }
    }

    /// The database of a session whose statements are looked at.
    async fn database(
        &self,
        message: &StartupMessage<'_>,
    ) -> Result<Option<Arc<crate::catalog::loader::Database>>, Refusal> {
        if message.replication || message.version.0 != 3 || message.database.is_empty() {
            return Ok(None);
        }
        match std::str::from_utf8(message.database) {
            Ok(name) => Ok(Some(self.databases.get(name).await?)),
            // Such a name cannot be asked for over the control connection; the server decides.
            Err(_) => Err(Refusal::Catalog(LoadError::Control {
                database: String::from_utf8_lossy(message.database).into_owned(),
                reason: "the name is not UTF-8".into(),
            })),
        }
    }

    async fn cancel(&self, packet: &[u8]) {
        let Ok(_permit) = self.cancels.acquire().await else { return };
        self.metrics.cancelled();
        if let Err(error) = cancel::forward(&self.config.server, packet).await {
            tracing::debug!(%error, "a cancel request was not delivered");
        }
    }

    async fn refuse(&self, mut client: Socket, refusal: &Refusal) {
        self.metrics.refused();
        let mut message = Vec::new();
        match refusal {
            // PostgreSQL closes silently, too.
            Refusal::Wire(error) => {
                self.metrics.violated();
                tracing::debug!(%error, "startup");
            }
            Refusal::Slow | Refusal::Gone | Refusal::Io(_) => {}
            Refusal::Full => encode::fatal(
                "53300",
                "sorry, too many clients already",
                "Turnstile's connections_max is reached.",
                &mut message,
            ),
            Refusal::Catalog(error) => {
                tracing::warn!(%error, "client refused");
                let words = format!("turnstile cannot serve this database: {error}");
                encode::fatal(
                    "57P03",
                    &words,
                    "See Turnstile's log; `turnstile status` tests the control connection.",
                    &mut message,
                );
            }
            Refusal::Server(..) => {
                tracing::warn!(%refusal, "client refused");
                let words = format!("turnstile cannot reach {refusal}");
                encode::fatal(
                    "08001",
                    &words,
                    "Is the server running, and is Turnstile's `server` right?",
                    &mut message,
                );
            }
        }
        // A client that is gone needs no explanation.
        let _unwritten = client.try_write(&message);
        client.shutdown().await;
    }
}

/// What a connection starts with.
struct Start {
    server: Socket,
    database: Option<Arc<crate::catalog::loader::Database>>,
    packet: Vec<u8>,
    /// What the client sent behind its startup packet.
    early: Vec<u8>,
}

/// Reads startup packets, byte by byte if need be, and refuses encryption.
struct StartupReader<'a> {
    client: &'a Socket,
    buffer: Vec<u8>,
}

impl StartupReader<'_> {
    /// The first packet that is no encryption request.
    async fn message(&mut self) -> Result<Vec<u8>, Refusal> {
        let (mut ssl, mut gss) = (false, false);
        loop {
            let packet = self.packet().await?;
            let asked = match parse(&packet)? {
                StartupPacket::SslRequest => &mut ssl,
                StartupPacket::GssEncRequest => &mut gss,
                StartupPacket::Startup(_) | StartupPacket::CancelRequest => return Ok(packet),
            };
            if std::mem::replace(asked, true) {
                return Err(WireError::RepeatedEncryptionRequest.into());
            }
            if !self.buffer.is_empty() {
                return Err(WireError::BytesBehindEncryptionRequest.into());
            }
            self.refuse_encryption().await?;
        }
    }

    async fn packet(&mut self) -> Result<Vec<u8>, Refusal> {
        loop {
            if let Some(length) = packet_bytes(&self.buffer)?
                && self.buffer.len() >= length
            {
                let rest = self.buffer.split_off(length);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            self.client.ready(Interest::READABLE).await?;
            let mut chunk = [0; 1024];
            match self.client.try_read(&mut chunk) {
                Ok(0) => return Err(Refusal::Gone),
                Ok(count) => self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(Refusal::Gone),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One byte, no message.
    async fn refuse_encryption(&self) -> io::Result<()> {
        loop {
            self.client.ready(Interest::WRITABLE).await?;
            match self.client.try_write(b"N") {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other.map(drop),
            }
        }
    }
}
