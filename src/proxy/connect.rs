//! Dials the server.

use std::io;

use tokio::net::{TcpStream, UnixStream};

use super::socket::Socket;
use crate::config::ServerAddress;
use crate::limits;

/// Connects, within [`limits::CONNECT_TIMEOUT`].
///
/// # Errors
/// Of the network; names are resolved anew each time.
pub async fn connect(address: &ServerAddress) -> io::Result<Socket> {
    let dial = async {
        match address {
            ServerAddress::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
            ServerAddress::Unix(path) => UnixStream::connect(path).await.map(Socket::Unix),
        }
    };
    match tokio::time::timeout(limits::CONNECT_TIMEOUT, dial).await {
        Ok(result) => result,
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {:?}", limits::CONNECT_TIMEOUT)))
        }
    }
}
