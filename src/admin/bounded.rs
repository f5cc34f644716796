//! A listener with few connections: one more ends the oldest, and each ends when it has been silent for long.

use std::collections::VecDeque;
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use crate::limits;

/// The listener.
#[derive(Debug)]
pub struct Bounded {
    listener: TcpListener,
    /// Those that are open, oldest first; cancelled when they end, or are to end.
    open: VecDeque<CancellationToken>,
}

impl Bounded {
    /// Of a socket that listens.
    pub const fn new(listener: TcpListener) -> Self {
        Self { listener, open: VecDeque::new() }
    }

    async fn connection(&mut self) -> io::Result<(Connection, SocketAddr)> {
        let (stream, peer) = self.listener.accept().await?;
        self.open.retain(|token| !token.is_cancelled());
        if self.open.len() >= limits::ADMIN_CONNECTIONS_MAX
            && let Some(oldest) = self.open.pop_front()
        {
            oldest.cancel();
        }
        let token = CancellationToken::new();
        self.open.push_back(token.clone());
        let silence = Box::pin(sleep(limits::ADMIN_SILENCE_MAX));
        let ending = Box::pin(token.clone().cancelled_owned());
        Ok((Connection { stream, silence, ending, _open: token.drop_guard() }, peer))
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.connection().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection to the admin endpoints");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    ending: Pin<Box<WaitForCancellationFutureOwned>>,
    _open: DropGuard,
}

impl Connection {
    /// An error once nothing has been read or written for long, or another one needs the place.
    fn heard(&mut self, context: &mut Context<'_>, done: bool) -> io::Result<()> {
        if self.ending.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if done {
            self.silence.as_mut().reset(Instant::now() + limits::ADMIN_SILENCE_MAX);
        } else if self.silence.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        this.heard(context, read.is_ready())?;
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.heard(context, written.is_ready())?;
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
