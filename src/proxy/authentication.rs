//! From the startup packet to the server's AuthenticationOk: the client is a stranger until then, and nothing that it says
//! has an effect here. Relays messages both ways, as they come.

use std::io;

use super::connection::Begun;
use super::socket::Socket;
use crate::limits;
use crate::wire::message_type::{backend, frontend};
use crate::wire::{FRAME_HEADER_BYTES, FrameHeader};

/// How authentication ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server lets the client in.
    Accepted,
    /// A side has closed: the server has said why, or the client went.
    Ended,
}

/// What is done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// So many bytes go to the other side.
    Relay(usize),
    /// More of it is needed.
    Wait,
    /// It does not belong to authentication: it stays, and all behind it.
    Stop,
}

/// Relays until the server accepts the client. What is left for the session is in `begun`: replies from AuthenticationOk on,
/// and what the client has sent behind its answers.
///
/// # Errors
/// Of the sockets; `InvalidData` when a message is longer than [`limits::LOGIN_MESSAGE_BYTES_MAX`].
pub async fn authenticate(client: &mut Socket, server: &mut Socket, begun: &mut Begun) -> io::Result<Outcome> {
    server.write_all(&std::mem::take(&mut begun.packet)).await?;
    let mut chunks = ([0; 1024], [0; 1024]);
    loop {
        if relay(&mut begun.replies, client, server_step).await? == Step::Stop {
            return Ok(Outcome::Accepted);
        }
        let listens = relay(&mut begun.early, server, client_step).await? == Step::Wait;
        let (count, from_client) = tokio::select! {
            count = server.read(&mut chunks.0) => (count?, false),
            count = client.read(&mut chunks.1), if listens => (count?, true),
        };
        if count == 0 {
            return Ok(Outcome::Ended);
        }
        let (input, chunk) = if from_client { (&mut begun.early, &chunks.1) } else { (&mut begun.replies, &chunks.0) };
        input.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
}

/// Sends the messages that are complete; returns why the next one is not sent.
async fn relay(input: &mut Vec<u8>, to: &mut Socket, step: fn(&[u8]) -> io::Result<Step>) -> io::Result<Step> {
    loop {
        match step(input)? {
            Step::Relay(length) => {
                let rest = input.split_off(length);
                let message = std::mem::replace(input, rest);
                to.write_all(&message).await?;
            }
            step => return Ok(step),
        }
    }
}

fn header(input: &[u8]) -> io::Result<Option<FrameHeader>> {
    let header = FrameHeader::peek(input).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    match header {
        Some(header) if header.body_bytes > limits::LOGIN_MESSAGE_BYTES_MAX => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long for authentication"))
        }
        header => Ok(header),
    }
}

fn whole(header: FrameHeader, input: &[u8]) -> Step {
    if input.len() >= header.frame_bytes() { Step::Relay(header.frame_bytes()) } else { Step::Wait }
}

fn server_step(input: &[u8]) -> io::Result<Step> {
    let Some(header) = header(input)? else { return Ok(Step::Wait) };
    let code = input.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + 4);
    Ok(match (header.message_type, code) {
        (backend::AUTHENTICATION, Some([0, 0, 0, 0])) => Step::Stop,
        _ => whole(header, input),
    })
}

/// Statements may stand behind the startup packet already: they wait.
fn client_step(input: &[u8]) -> io::Result<Step> {
    // What is no message any more is for the session to refuse.
    let Ok(Some(header)) = header(input) else {
        return Ok(if input.len() < FRAME_HEADER_BYTES { Step::Wait } else { Step::Stop });
    };
    Ok(match header.message_type {
        frontend::PASSWORD | frontend::TERMINATE => whole(header, input),
        _ => Step::Stop,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::encode;

    #[test]
    fn steps() {
        let ok = encode::message(b'R', &[0, 0, 0, 0]);
        let md5 = encode::message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]);
        let error = encode::message(b'E', b"SFATAL\0\0");
        let long = [&[b'N'][..], &100_000_u32.to_be_bytes()].concat();
        assert_eq!(server_step(&ok).unwrap(), Step::Stop);
        assert_eq!(server_step(&ok[..8]).unwrap(), Step::Wait);
        assert_eq!(server_step(&md5).unwrap(), Step::Relay(md5.len()));
        assert_eq!(server_step(&[&error[..], &ok].concat()).unwrap(), Step::Relay(error.len()));
        assert_eq!(server_step(&error[..7]).unwrap(), Step::Wait);
        assert!(server_step(&long).is_err());
        let password = encode::message(b'p', b"secret\0");
        let query = encode::message(b'Q', b"SELECT 1\0");
        assert_eq!(client_step(b"").unwrap(), Step::Wait);
        assert_eq!(client_step(&password).unwrap(), Step::Relay(password.len()));
        assert_eq!(client_step(&password[..6]).unwrap(), Step::Wait);
        assert_eq!(client_step(&query).unwrap(), Step::Stop);
        assert_eq!(client_step(&query[..5]).unwrap(), Step::Stop);
        assert_eq!(client_step(&[b'p', 0, 0, 0, 1]).unwrap(), Step::Stop, "no length of a message");
    }
}
