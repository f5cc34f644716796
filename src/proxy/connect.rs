//! Dials the server, encrypted as its connection string says.

use std::io;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use super::socket::Socket;
use crate::config::{ServerAddress, ServerTls, SslMode, Tcp};
use crate::limits;
use crate::tls::{ALPN, Connector, SetupError};

/// `SSLRequest`.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// The server that clients are relayed to.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where it listens.
    pub address: ServerAddress,
    /// What is wanted of the connection.
    pub tls: ServerTls,
    /// How it is encrypted; `None` where it is not.
    pub connector: Option<Connector>,
    /// How soon it is noticed that it is gone.
    pub tcp: Tcp,
}

impl Server {
    /// Reads the certificates.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(address: ServerAddress, tls: ServerTls, tcp: Tcp) -> Result<Self, SetupError> {
        let connector = match &address {
            ServerAddress::Tcp(host, _) => Connector::new(&tls, host)?,
            ServerAddress::Unix(_) => None,
        };
        Ok(Self { address, tls, connector, tcp })
    }
}

/// Connects, within [`limits::CONNECT_TIMEOUT`].
///
/// # Errors
/// Of the network; names are resolved anew each time. `InvalidData` when TLS fails, `Unsupported` when the server has
/// none and it is required.
pub async fn connect(server: &Server) -> io::Result<Socket> {
    match tokio::time::timeout(limits::CONNECT_TIMEOUT, connect_as_wanted(server)).await {
        Ok(result) => result,
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {:?}", limits::CONNECT_TIMEOUT)))
        }
    }
}

async fn connect_as_wanted(server: &Server) -> io::Result<Socket> {
    let dial = || dial(&server.address, server.tcp);
    let socket = dial().await?;
    let Some(connector) = &server.connector else { return Ok(socket) };
    match encrypt(socket, server, connector).await {
        Ok(Some(socket)) => Ok(socket),
        Ok(None) => dial().await,
        // As libpq: a handshake that fails is no reason not to connect.
        Err(error) if server.tls.mode == SslMode::Prefer => {
            tracing::debug!(%error, "TLS failed; sslmode=prefer goes on without");
            dial().await
        }
        Err(error) => Err(error),
    }
}

/// Sends small packets at once, and notices a peer that went without a word.
///
/// # Errors
/// Of the socket: it is gone already.
pub fn tune(stream: &TcpStream, tcp: Tcp) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let mut keepalive = TcpKeepalive::new();
    if !tcp.keepalives_idle.is_zero() {
        keepalive = keepalive.with_time(tcp.keepalives_idle);
    }
    if !tcp.keepalives_interval.is_zero() {
        keepalive = keepalive.with_interval(tcp.keepalives_interval);
    }
    if tcp.keepalives_count > 0 {
        keepalive = keepalive.with_retries(tcp.keepalives_count);
    }
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    if !tcp.user_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(tcp.user_timeout))?;
    }
    Ok(())
}

async fn dial(address: &ServerAddress, tcp: Tcp) -> io::Result<Socket> {
    match address {
        ServerAddress::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            tune(&stream, tcp)?;
            Ok(stream.into())
        }
        ServerAddress::Unix(path) => UnixStream::connect(path).await.map(Socket::from),
    }
}

/// `None`: the server answered with an error, whose words cannot be trusted (CVE-2024-10977); without TLS it may
/// still serve.
async fn encrypt(mut socket: Socket, server: &Server, connector: &Connector) -> io::Result<Option<Socket>> {
    if !server.tls.direct {
        socket.write_all(&SSL_REQUEST).await?;
        // One byte: what comes behind it is read by the handshake only, hence cannot be plaintext.
        let mut answer = [0];
        let count = socket.read(&mut answer).await?;
        let optional = server.tls.mode == SslMode::Prefer;
        match (count, answer) {
            (1, [b'S']) => {}
            (1, [b'N']) if optional => return Ok(Some(socket)),
            (1, [b'N']) => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the server does not support TLS, which sslmode requires",
                ));
            }
            (1, [b'E']) if optional => return Ok(None),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the server's answer to SSLRequest is none")),
        }
    }
    socket.connect_tls(std::sync::Arc::clone(&connector.config), connector.name.clone()).await?;
    if server.tls.direct && socket.application_protocol() != Some(ALPN) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "direct TLS without ALPN: the server is no PostgreSQL"));
    }
    Ok(Some(socket))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn peers_that_go_without_a_word_are_noticed() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let options = |tcp: Tcp| {
            tune(&stream, tcp).unwrap();
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
            let time = socket.tcp_keepalive_time().unwrap();
            (time, socket.tcp_keepalive_interval().unwrap(), socket.tcp_keepalive_retries().unwrap())
        };
        let system = options(Tcp {
            keepalives_idle: Duration::ZERO,
            keepalives_interval: Duration::ZERO,
            keepalives_count: 0,
            user_timeout: Duration::ZERO,
        });
        assert!(system.0 > Duration::from_secs(60), "{system:?}");
        let tuned = options(Tcp::default());
        assert_eq!(tuned, (Duration::from_secs(60), Duration::from_secs(10), 6));
        #[cfg(target_os = "linux")]
        assert_eq!(SockRef::from(&stream).tcp_user_timeout().unwrap(), Some(Duration::from_secs(120)));
    }
}
