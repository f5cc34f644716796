//! Accepts clients, reads their startup packets, and starts a [`Connection`] for each.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::authentication::{Outcome, authenticate};
use super::cancel;
use super::connect::{Server, connect, tune};
use super::connection::{Begun, Connection, Ending};
use super::late::LateBumps;
use super::login::{Login, LoginError, log_in};
use super::socket::Socket;
use super::verifiers::Source;
use super::workers::Workers;
use crate::auth::certificate;
use crate::auth::scram::{Key, ScramError};
use crate::catalog::loader::{Databases, For, Lease, LoadError};
use crate::config::{ClientCertificate, Config};
use crate::limits;
use crate::telemetry::metrics::{ConnectedGuard, Metrics};
use crate::tls::{ALPN, Acceptor, ServerSide};
use crate::wire::WireError;
use crate::wire::encode;
use crate::wire::startup::{StartupMessage, StartupPacket, TLS_HANDSHAKE, packet_bytes, parse};

/// What a proxy is made of.
#[derive(Debug)]
pub struct Parts {
    /// Configuration.
    pub config: Arc<Config>,
    /// Catalogs.
    pub databases: Arc<Databases>,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// Shutdown has begun.
    pub drain: CancellationToken,
    /// Where clients are relayed to.
    pub server: Server,
    /// TLS of clients.
    pub acceptor: Option<Arc<Acceptor>>,
    /// SCRAM verifiers.
    pub verifiers: Option<Source>,
}

/// What all connections share.
#[derive(Debug)]
pub struct Proxy {
    parts: Parts,
    kill: CancellationToken,
    workers: Workers,
    connections: TaskTracker,
    open: AtomicUsize,
    accepted: AtomicU64,
    cancels: Semaphore,
    warned: Warned,
    /// Random for each process: no client can guess our names.
    nonce: u64,
    /// The same, for roles without a verifier.
    secret: Key,
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
    #[error("the client does not encrypt")]
    Plain,
    #[error("the client's certificate is not that of its role")]
    Certificate(String),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error(transparent)]
    Catalog(#[from] LoadError),
    #[error("the server {0}: {1}")]
    Server(String, io::Error),
    #[error("{1}")]
    Login(String, LoginError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Proxy {
    /// A proxy that accepts nobody yet.
    ///
    /// # Errors
    /// [`Workers::start`].
    pub fn new(parts: Parts, nonce: u64, secret: Key) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            workers: Workers::start(parts.config.workers, parts.config.busy_poll)?,
            parts,
            kill: CancellationToken::new(),
            connections: TaskTracker::new(),
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            cancels: Semaphore::new(limits::CANCELS_MAX),
            warned: Warned::default(),
            nonce,
            secret,
        }))
    }

    /// Accepts until drained; then waits for running transactions, at most the drain timeout.
    pub async fn run(self: &Arc<Self>, listener: TcpListener) {
        while let Some(client) = self.accept(&listener).await {
            let proxy = Arc::clone(self);
            self.connections.spawn(async move { proxy.serve(client).await });
        }
        drop(listener);
        self.connections.close();
        if tokio::time::timeout(self.parts.config.drain_timeout, self.connections.wait()).await.is_err() {
            tracing::warn!(open = self.connections.len(), "drain timeout: cutting off what still runs");
            self.kill.cancel();
            self.connections.wait().await;
        }
    }

    async fn accept(&self, listener: &TcpListener) -> Option<TcpStream> {
        loop {
            let accepted = tokio::select! {
                () = self.parts.drain.cancelled() => return None,
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

    async fn serve(self: Arc<Self>, client: TcpStream) {
        let admitted = Admitted::new(&self);
        // A socket that is gone already will say so when it is read.
        let _gone = tune(&client, self.parts.config.tcp);
        let mut client = Socket::from(client);
        match self.session(&mut client, &admitted).await {
            Ok(Some(start)) => self.relay(start, client, admitted),
            Ok(None) | Err(Refusal::Gone) => client.shutdown().await,
            Err(refusal) => self.refuse(client, &refusal).await,
        }
    }

    /// On a thread that does nothing else.
    fn relay(self: &Arc<Self>, start: Start, client: Socket, admitted: Admitted) {
        let sockets = client.detach().and_then(|client| Ok((client, start.server.detach()?)));
        let proxy = Arc::clone(self);
        let home = Handle::current();
        self.workers.spawn(&self.connections, async move {
            let relayed = async {
                let (client, server) = sockets?;
                let connection = Connection {
                    client: client.attach()?,
                    server: server.attach()?,
                    database: start.database,
                    metrics: Arc::clone(&proxy.parts.metrics),
                    drain: proxy.parts.drain.clone(),
                    kill: proxy.kill.clone(),
                    shard: usize::try_from(admitted.number).unwrap_or(0),
                    late: LateBumps { home, kill: proxy.kill.clone() },
                };
                connection.run(start.begun, &format!("_turnstile_{:016x}", proxy.nonce)).await
            };
            match relayed.await {
                Ok(Ending::Violation) => proxy.parts.metrics.violated(),
                Ok(Ending::Closed | Ending::Drained) => {}
                Err(error) => tracing::debug!(%error, "session ended"),
            }
            drop(admitted);
        });
    }

    /// Reads startup packets, and lets the server authenticate the client.
    async fn session(&self, client: &mut Socket, admitted: &Admitted) -> Result<Option<Start>, Refusal> {
        let side = self.parts.acceptor.as_ref().and_then(|acceptor| acceptor.current());
        let mut reader = StartupReader { client, side: side.as_deref(), buffer: Vec::new() };
        let packet = tokio::select! {
            () = self.parts.drain.cancelled() => return Ok(None),
            packet = tokio::time::timeout(limits::STARTUP_TIMEOUT, reader.message()) => packet.map_err(|_| Refusal::Slow)??,
        };
        let early = std::mem::take(&mut reader.buffer);
        match parse(&packet)? {
            StartupPacket::CancelRequest => {
                self.cancel(&packet).await;
                Ok(None)
            }
            StartupPacket::Startup(message) => {
                tracing::debug!(number = admitted.number, version = ?message.version, replication = message.replication, tls = client.is_tls(), "client");
                if admitted.full {
                    return Err(Refusal::Full);
                }
                self.check_encryption(client, &message)?;
                let server = connect(&self.parts.server)
                    .await
                    .map_err(|error| Refusal::Server(self.parts.server.address.to_string(), error))?;
                let end_point = side.as_ref().and_then(|side| side.end_point.as_deref());
                let (mut server, mut begun) =
                    self.log_in(client, server, &packet, early, (&message, end_point)).await?;
                if !is_watched(&message) {
                    return Ok(Some(Start { server, database: None, begun }));
                }
                // Before the server has let the client in, nothing is done in its name.
                let authenticated = tokio::select! {
                    () = self.kill.cancelled() => return Err(Refusal::Gone),
                    outcome = authenticate(client, &mut server, &mut begun) => outcome?,
                };
                if authenticated == Outcome::Ended {
                    return Err(Refusal::Gone);
                }
                let database = Some(self.database(&message).await?);
                Ok(Some(Start { server, database, begun }))
            }
            // StartupReader has answered those.
            StartupPacket::SslRequest | StartupPacket::GssEncRequest => Ok(None),
        }
    }

    /// What the configuration asks of a client's connection.
    fn check_encryption(&self, client: &Socket, message: &StartupMessage<'_>) -> Result<(), Refusal> {
        let Some(tls) = self.parts.acceptor.as_ref().map(|acceptor| acceptor.settings()) else { return Ok(()) };
        if tls.required && !client.is_tls() {
            return Err(Refusal::Plain);
        }
        if tls.client_certificate == ClientCertificate::VerifyFull {
            let name = client.peer_certificate().and_then(|own| certificate::common_name(own));
            if name.is_none_or(|name| name.as_bytes() != message.user) {
                return Err(Refusal::Certificate(String::from_utf8_lossy(message.user).into_owned()));
            }
        }
        Ok(())
    }

    /// Without encryption the server's requests are relayed as they are.
    async fn log_in(
        &self,
        client: &mut Socket,
        mut server: Socket,
        packet: &[u8],
        mut early: Vec<u8>,
        (message, end_point): (&StartupMessage<'_>, Option<&[u8]>),
    ) -> Result<(Socket, Begun), Refusal> {
        if message.version.0 != 3 || !(client.is_tls() || server.is_tls()) {
            return Ok((server, Begun { packet: packet.to_vec(), early, replies: Vec::new() }));
        }
        let login =
            Login { role: message.user, end_point, verifiers: self.parts.verifiers.as_ref(), secret: &self.secret };
        let logging_in = log_in(client, &mut early, &mut server, packet, &login);
        let replies = tokio::select! {
            () = self.kill.cancelled() => return Err(Refusal::Gone),
            replies = tokio::time::timeout(limits::STARTUP_TIMEOUT, logging_in) => replies.map_err(|_| Refusal::Slow)?,
        };
        match replies {
            Ok(replies) => Ok((server, Begun { packet: Vec::new(), early, replies })),
            Err(LoginError::Io(error)) => Err(Refusal::Io(error)),
            Err(error) => Err(Refusal::Login(String::from_utf8_lossy(message.user).into_owned(), error)),
        }
    }

    /// The database of a session whose statements are looked at.
    async fn database(&self, message: &StartupMessage<'_>) -> Result<Lease, Refusal> {
        match std::str::from_utf8(message.database) {
            Ok(name) => Ok(self.parts.databases.get(name, For::Role(message.user)).await?),
            // Such a name cannot be asked for over the control connection; the server decides.
            Err(_) => Err(Refusal::Catalog(LoadError::Control {
                database: String::from_utf8_lossy(message.database).into_owned(),
                reason: "the name is not UTF-8".into(),
            })),
        }
    }

    async fn cancel(&self, packet: &[u8]) {
        let Ok(_permit) = self.cancels.acquire().await else { return };
        self.parts.metrics.cancelled();
        if let Err(error) = cancel::forward(&self.parts.server, packet).await {
            tracing::debug!(%error, "a cancel request was not delivered");
        }
    }

    async fn refuse(&self, mut client: Socket, refusal: &Refusal) {
        self.parts.metrics.refused();
        let mut message = Vec::new();
        match refusal {
            // PostgreSQL closes silently, too.
            Refusal::Wire(error) => {
                self.parts.metrics.violated();
                tracing::debug!(%error, "startup");
            }
            Refusal::Tls(error) => {
                self.parts.metrics.violated();
                tracing::debug!(%error, "TLS");
            }
            Refusal::Slow | Refusal::Gone | Refusal::Io(_) => {}
            Refusal::Plain => encode::fatal(
                "28000",
                "turnstile accepts encrypted connections only",
                "Connect with sslmode=require or more.",
                &mut message,
            ),
            Refusal::Certificate(role) => encode::fatal(
                "28000",
                &format!("certificate authentication failed for user \"{role}\""),
                "Turnstile's tls.client_cert is verify-full: the certificate's common name must be the role.",
                &mut message,
            ),
            Refusal::Login(role, error) => refuse_login(role, error, &self.warned, &mut message),
            Refusal::Full => encode::fatal(
                "53300",
                "sorry, too many clients already",
                "Turnstile's connections_max is reached.",
                &mut message,
            ),
            Refusal::Catalog(error) => {
                self.warned.refused(&error);
                let words = format!("turnstile cannot serve this database: {error}");
                encode::fatal(
                    "57P03",
                    &words,
                    "See Turnstile's log; `turnstile status` tests the control connection.",
                    &mut message,
                );
            }
            Refusal::Server(_, error) if is_out_of_descriptors(error) => {
                self.warned.refused(&refusal);
                encode::fatal(
                    "53000",
                    "turnstile has no file descriptor left for a connection to the server",
                    "Raise its limit of open files (`ulimit -n`, LimitNOFILE), or lower connections_max.",
                    &mut message,
                );
            }
            Refusal::Server(..) => {
                self.warned.refused(&refusal);
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

/// Whether the statements of a session are looked at.
const fn is_watched(message: &StartupMessage<'_>) -> bool {
    !message.replication && message.version.0 == 3 && !message.database.is_empty()
}

/// EMFILE, ENFILE.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

/// Warnings of refused clients: one a second, with the number of those that were not written.
#[derive(Debug, Default)]
struct Warned {
    last: Mutex<Option<Instant>>,
    kept_back: AtomicU64,
}

impl Warned {
    fn refused(&self, reason: &dyn std::fmt::Display) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < limits::REFUSAL_WARNING_PAUSE) {
            self.kept_back.fetch_add(1, Ordering::Relaxed);
            return;
        }
        *last = Some(Instant::now());
        let kept_back = self.kept_back.swap(0, Ordering::Relaxed);
        tracing::warn!(%reason, kept_back, "client refused");
    }
}

fn refuse_login(role: &str, error: &LoginError, warned: &Warned, message: &mut Vec<u8>) {
    match error {
        LoginError::Client(ScramError::Proof) => {
            encode::fatal("28P01", &format!("password authentication failed for user \"{role}\""), "", message);
        }
        LoginError::Client(ScramError::Malformed(_)) | LoginError::Unexpected("client") => {
            encode::fatal("08P01", &error.to_string(), "", message);
        }
        LoginError::Client(_) => encode::fatal("28000", &error.to_string(), "", message),
        _ => {
            warned.refused(error);
            let hint = match error {
                LoginError::Impossible(_) => {
                    "Give Turnstile the roles' verifiers (auth.verifiers_file or auth.verifiers_query), or do not encrypt one of the connections."
                }
                LoginError::Server(_) => "auth.verifiers_file or auth.verifiers_query must give what the server has.",
                _ => "See Turnstile's log.",
            };
            encode::fatal("28000", &format!("turnstile cannot log in: {error}"), hint, message);
        }
    }
}

/// A client that was accepted, until it is gone.
struct Admitted {
    proxy: Arc<Proxy>,
    number: u64,
    /// More than are allowed.
    full: bool,
    _connected: ConnectedGuard,
}

impl Admitted {
    fn new(proxy: &Arc<Proxy>) -> Self {
        let open = proxy.open.fetch_add(1, Ordering::Relaxed);
        Self {
            number: proxy.accepted.fetch_add(1, Ordering::Relaxed),
            full: open >= proxy.parts.config.connections_max,
            _connected: proxy.parts.metrics.connected(),
            proxy: Arc::clone(proxy),
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.proxy.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection starts with.
struct Start {
    server: Socket,
    database: Option<Lease>,
    begun: Begun,
}

/// Reads startup packets, byte by byte if need be, and answers requests for encryption.
struct StartupReader<'a> {
    client: &'a mut Socket,
    side: Option<&'a ServerSide>,
    buffer: Vec<u8>,
}

impl StartupReader<'_> {
    /// The first packet that is no encryption request.
    async fn message(&mut self) -> Result<Vec<u8>, Refusal> {
        self.direct_tls().await?;
        let (mut ssl, mut gss) = (self.client.is_tls(), self.client.is_tls());
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
            let wanted = parse(&packet)? == StartupPacket::SslRequest;
            match self.side.filter(|_| wanted) {
                // One byte, no message.
                None => self.client.write_all(b"N").await?,
                Some(side) => {
                    self.client.write_all(b"S").await?;
                    self.client.accept_tls(Arc::clone(&side.config)).await.map_err(Refusal::Tls)?;
                    gss = true;
                }
            }
        }
    }

    /// A ClientHello instead of a packet (PostgreSQL 17): both sides must name the protocol.
    async fn direct_tls(&mut self) -> Result<(), Refusal> {
        let first = match self.client.peek().await {
            Ok(first) => first.ok_or(Refusal::Gone)?,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(Refusal::Gone),
            Err(error) => return Err(error.into()),
        };
        let Some(side) = self.side.filter(|_| first == TLS_HANDSHAKE) else { return Ok(()) };
        self.client.accept_tls(Arc::clone(&side.config)).await.map_err(Refusal::Tls)?;
        if self.client.application_protocol() != Some(ALPN) {
            return Err(Refusal::Tls(io::Error::new(io::ErrorKind::InvalidData, "direct TLS connection without ALPN")));
        }
        Ok(())
    }

    async fn packet(&mut self) -> Result<Vec<u8>, Refusal> {
        loop {
            if let Some(length) = packet_bytes(&self.buffer)?
                && self.buffer.len() >= length
            {
                let rest = self.buffer.split_off(length);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            let mut chunk = [0; 1024];
            match self.client.read(&mut chunk).await {
                Ok(0) => return Err(Refusal::Gone),
                Ok(count) => self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(Refusal::Gone),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
