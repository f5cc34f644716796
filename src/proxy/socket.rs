//! A connection over TCP or a unix socket, encrypted or not, read and written without waiting.

use std::future::poll_fn;
use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead as _, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// What carries the bytes.
#[derive(Debug)]
enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A stream socket.
#[derive(Debug)]
pub struct Socket {
    transport: Transport,
    tls: Option<Box<Tls>>,
}

#[derive(Debug)]
struct Tls {
    connection: Connection,
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self { transport: Transport::Tcp(stream), tls: None }
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self { transport: Transport::Unix(stream), tls: None }
    }
}

impl Transport {
    async fn ready(&self, interest: Interest) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.ready(interest).await,
            Self::Unix(socket) => socket.ready(interest).await,
        }
        .map(drop)
    }

    /// A read that fills less than the buffer is known to have emptied the socket: the next one waits without asking
    /// the kernel again, unlike [`Transport::try_read`].
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let read = match self {
            Self::Tcp(socket) => Pin::new(socket).poll_read(context, &mut buffer),
            Self::Unix(socket) => Pin::new(socket).poll_read(context, &mut buffer),
        };
        read.map_ok(|()| buffer.filled().len())
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_write_ready(context),
            Self::Unix(socket) => socket.poll_write_ready(context),
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_read(buffer),
            Self::Unix(socket) => socket.try_read(buffer),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write(bytes),
            Self::Unix(socket) => socket.try_write(bytes),
        }
    }
}

/// A socket on its way from one event loop to another.
#[derive(Debug)]
pub struct Detached {
    transport: DetachedTransport,
    tls: Option<Box<Tls>>,
}

#[derive(Debug)]
enum DetachedTransport {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Detached {
    /// Belongs to the event loop that this is called on.
    ///
    /// # Errors
    /// Of the event loop: out of file descriptors or memory.
    pub fn attach(self) -> io::Result<Socket> {
        let transport = match self.transport {
            DetachedTransport::Tcp(socket) => Transport::Tcp(TcpStream::from_std(socket)?),
            DetachedTransport::Unix(socket) => Transport::Unix(UnixStream::from_std(socket)?),
        };
        Ok(Socket { transport, tls: self.tls })
    }
}

/// rustls reads and writes by the traits of the standard library.
struct Records<'a>(&'a Transport);

/// The same for a task that is to be woken when there is more.
struct Incoming<'a, 'b>(&'a mut Transport, &'a mut Context<'b>);

impl io::Read for Records<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl io::Read for Incoming<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.poll_read(self.1, buffer) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl io::Write for Records<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Tls {
    /// Sends what is encrypted; `WouldBlock` while some of it is left.
    fn flush(&mut self, transport: &Transport) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut Records(transport))?;
        }
        Ok(())
    }

    /// Takes records; `false` at the end of the stream.
    fn fill(&mut self, from: &mut dyn io::Read) -> io::Result<bool> {
        let count = self.connection.read_tls(from)?;
        self.connection.process_new_packets().map_err(invalid)?;
        Ok(count > 0)
    }

    fn poll_read(
        &mut self,
        transport: &mut Transport,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.connection.reader().read(buffer) {
                // A peer that ends without close_notify has ended all the same: PostgreSQL's messages say where
                // they end.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
            match self.fill(&mut Incoming(transport, context)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => {
                    // The alert that tells the peer; it may be gone.
                    let _unsent = self.flush(transport);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    fn write(&mut self, transport: &Transport, bytes: &[u8]) -> io::Result<usize> {
        self.flush(transport)?;
        let count = self.connection.writer().write(bytes)?;
        match self.flush(transport) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ if count == 0 && !bytes.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(count),
        }
    }
}

impl Socket {
    /// Takes it off the event loop.
    ///
    /// # Errors
    /// Of the event loop.
    pub fn detach(self) -> io::Result<Detached> {
        let transport = match self.transport {
            Transport::Tcp(socket) => DetachedTransport::Tcp(socket.into_std()?),
            Transport::Unix(socket) => DetachedTransport::Unix(socket.into_std()?),
        };
        Ok(Detached { transport, tls: self.tls })
    }

    /// Reads what is there; 0 bytes at the end of the stream. The task is woken when there is more.
    ///
    /// # Errors
    /// Of the socket; `InvalidData` for what is no TLS.
    pub fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut self.tls {
            None => self.transport.poll_read(context, buffer),
            Some(tls) => tls.poll_read(&mut self.transport, context, buffer),
        }
    }

    /// Ready when bytes may fit ([`Socket::try_write`], [`Socket::flush`]); else the task is woken then.
    ///
    /// # Errors
    /// Of the socket.
    pub fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.poll_writable(context)
    }

    /// Writes what fits.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits; others of the socket.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.transport.try_write(bytes),
            Some(tls) => tls.write(&self.transport, bytes),
        }
    }

    /// Whether encrypted bytes wait for the transport.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.connection.wants_write())
    }

    /// Sends encrypted bytes that wait.
    ///
    /// # Errors
    /// Of the socket; that it would block is none.
    pub fn flush(&mut self) -> io::Result<()> {
        match self.tls.as_mut().map(|tls| tls.flush(&self.transport)) {
            Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes all of it, waiting for the socket.
    ///
    /// # Errors
    /// Of the socket.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() || self.wants_flush() {
            match if bytes.is_empty() { self.flush().map(|()| 0) } else { self.try_write(bytes) } {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if !bytes.is_empty() || self.wants_flush() {
                self.transport.ready(Interest::WRITABLE).await?;
            }
        }
        Ok(())
    }

    /// Reads what comes next, waiting for it; 0 bytes at the end of the stream. Cancel-safe.
    ///
    /// # Errors
    /// Of the socket.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| {
            while self.wants_flush() && self.poll_writable(context)?.is_ready() {
                self.flush()?;
            }
            self.poll_read(context, buffer)
        })
        .await
    }

    /// The first byte that the peer sends, which stays to be read; `None` when it closes.
    ///
    /// # Errors
    /// Of the socket.
    pub async fn peek(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        match &self.transport {
            Transport::Tcp(socket) if self.tls.is_none() => {
                Ok((socket.peek(&mut byte).await? > 0).then(|| byte.first().copied()).flatten())
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The peer's TLS handshake, as the server of it.
    ///
    /// # Errors
    /// Of the socket; `InvalidData` when the handshake fails.
    pub async fn accept_tls(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        let connection = ServerConnection::new(config).map_err(invalid)?;
        self.handshake(connection.into()).await
    }

    /// The TLS handshake, as the client of it.
    ///
    /// # Errors
    /// Of the socket; `InvalidData` when the handshake fails: the certificate is not trusted, for example.
    pub async fn connect_tls(&mut self, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<()> {
        let connection = ClientConnection::new(config, name).map_err(invalid)?;
        self.handshake(connection.into()).await
    }

    async fn handshake(&mut self, connection: Connection) -> io::Result<()> {
        let mut tls = Box::new(Tls { connection });
        while tls.connection.is_handshaking() || tls.connection.wants_write() {
            let (step, interest) = if tls.connection.wants_write() {
                (tls.flush(&self.transport), Interest::WRITABLE)
            } else {
                let filled = tls.fill(&mut Records(&self.transport));
                let ended =
                    || Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed in the TLS handshake"));
                (filled.and_then(|more| if more { Ok(()) } else { ended() }), Interest::READABLE)
            };
            match step {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.transport.ready(interest).await?;
                }
                Err(error) => {
                    // The alert that tells the peer; it may be gone.
                    let _unsent = tls.flush(&self.transport);
                    return Err(error);
                }
            }
        }
        self.tls = Some(tls);
        Ok(())
    }

    /// Whether it is encrypted.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The peer's own certificate, if it showed one.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.tls.as_ref()?.connection.peer_certificates()?.first()
    }

    /// The protocol that both sides of the TLS handshake agreed on, if they spoke of one.
    #[must_use]
    pub fn application_protocol(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.connection.alpn_protocol()
    }

    /// Closes the writing side: the peer reads the end of the stream.
    pub async fn shutdown(&mut self) {
        use tokio::io::AsyncWriteExt as _;
        if let Some(tls) = &mut self.tls {
            tls.connection.send_close_notify();
            // A peer that reads nothing has no claim on more than a try.
            let _unsent = tls.flush(&self.transport);
        }
        // A peer that is gone needs no end of stream.
        let _gone = match &mut self.transport {
            Transport::Tcp(socket) => socket.shutdown().await,
            Transport::Unix(socket) => socket.shutdown().await,
        };
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
