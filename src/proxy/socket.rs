//! A connection over TCP or a unix socket, read and written without waiting.

use std::io;

use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream};

/// A stream socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Socket {
    /// Waits until it can be read or written, as asked. Cancel-safe.
    ///
    /// # Errors
    /// Of the socket.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(socket) => socket.ready(interest).await,
            Self::Unix(socket) => socket.ready(interest).await,
        }
    }

    /// Reads what is there; 0 bytes at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; others of the socket.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_read(buffer),
            Self::Unix(socket) => socket.try_read(buffer),
        }
    }

    /// Writes what fits.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits; others of the socket.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write(bytes),
            Self::Unix(socket) => socket.try_write(bytes),
        }
    }

    /// Closes the writing side: the peer reads the end of the stream.
    pub async fn shutdown(&mut self) {
        use tokio::io::AsyncWriteExt as _;
        // A peer that is gone needs no end of stream.
        let _gone = match self {
            Self::Tcp(socket) => socket.shutdown().await,
            Self::Unix(socket) => socket.shutdown().await,
        };
    }
}
