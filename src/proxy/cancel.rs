//! Cancel requests: forwarded to the server as they are. One client connection is one server
//! connection, so the key that the client holds is the server's own.

use std::io;

use super::connect::{Server, connect};
use crate::limits;

/// Sends `packet` and waits until the server has closed the connection: then it has acted, and the
/// client may go on.
///
/// # Errors
/// Of the network; `TimedOut` after [`limits::CANCEL_TIMEOUT`].
pub async fn forward(server: &Server, packet: &[u8]) -> io::Result<()> {
    let exchange = async {
        let mut server = connect(server).await?;
        server.write_all(packet).await?;
        let mut scratch = [0; 64];
        loop {
            match server.read(&mut scratch).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
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
