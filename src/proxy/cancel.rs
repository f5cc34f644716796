//! Cancel requests: forwarded to the server as they are. One client connection is one server
//! connection, so the key that the client holds is the server's own.

use std::io;

use tokio::io::Interest;

use super::connect::connect;
use crate::config::ServerAddress;
use crate::limits;

/// Sends `packet` and waits until the server has closed the connection: then it has acted, and the
/// client may go on.
///
/// # Errors
/// Of the network; `TimedOut` after [`limits::CANCEL_TIMEOUT`].
pub async fn forward(address: &ServerAddress, packet: &[u8]) -> io::Result<()> {
    let exchange = async {
        let server = connect(address).await?;
        let mut rest = packet;
        while !rest.is_empty() {
            server.ready(Interest::WRITABLE).await?;
            match server.try_write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let mut scratch = [0; 64];
        loop {
            server.ready(Interest::READABLE).await?;
            match server.try_read(&mut scratch) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // PostgreSQL closes without reading further: a reset is an end too.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    match tokio::time::timeout(limits::CANCEL_TIMEOUT, exchange).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
