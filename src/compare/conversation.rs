//! One connection, spoken byte by byte: what is sent is given, what comes back is kept.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use anyhow::{Context as _, bail};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};

use super::script::Flight;
use super::transcript::{Answers, Ending, Masker};
use crate::config::{ServerUrl, Tcp, server_address};
use crate::limits;
use crate::proxy::connect::{Server, connect};
use crate::proxy::socket::Socket;
use crate::wire::backend::ErrorFields;
use crate::wire::message_type::{backend, frontend};
use crate::wire::notation::zero_terminated;
use crate::wire::{FRAME_HEADER_BYTES, FrameHeader, encode};

/// Protocol 3.0.
const PROTOCOL: [u8; 4] = [0, 3, 0, 0];

/// A connection that is logged in.
#[derive(Debug)]
pub(super) struct Conversation {
    socket: Socket,
    input: Vec<u8>,
    ended: bool,
    masker: Masker,
}

/// When the answers to a flight are complete.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    /// So many ReadyForQuery have come.
    Ready(usize),
    /// So many messages have; then it ends as it did before: what comes too much is seen in the next flight.
    Messages(usize, Ending),
    /// The server has closed the connection.
    End,
}

impl Conversation {
    /// Connects and logs in to `database` with what the connection string says. The answers are what the server said up
    /// to the first ReadyForQuery.
    ///
    /// # Errors
    /// Of the network; the server's refusal.
    pub(super) async fn log_in(url: &ServerUrl, database: &str, masker: Masker) -> anyhow::Result<(Self, Answers)> {
        let server = Server::new(server_address(&url.config)?, url.tls.clone(), Tcp::default())?;
        let socket = connect(&server).await.with_context(|| format!("cannot connect to {}", server.address))?;
        let mut conversation = Self { socket, input: Vec::new(), ended: false, masker };
        let user = url.config.get_user().context("the connection string names no user")?;
        let password = url.config.get_password().unwrap_or_default();
        let parameters = ["user", user, "database", database, "application_name", "turnstile compare", ""];
        let body = [&PROTOCOL[..], &zero_terminated(&parameters)].concat();
        let length = u32::try_from(body.len() + 4).context("the names are too long")?;
        let mut send = [&length.to_be_bytes()[..], &body].concat();
        let mut answers = Answers { line: 0, ..Answers::default() };
        let mut scram = None;
        loop {
            conversation.socket.write_all(&send).await?;
            send.clear();
            let (message_type, body) = conversation.message().await?.context("the server closed the connection")?;
            match message_type {
                backend::AUTHENTICATION => {
                    // What is random, and the same work for both: not kept.
                    send = authenticate(&body, user, password, &mut scram)?;
                    continue;
                }
                backend::ERROR_RESPONSE => bail!("{}", refusal(&body)),
                _ => answers.messages.push(conversation.masker.mask(message_type, &body)),
            }
            if message_type == backend::READY_FOR_QUERY {
                return Ok((conversation, answers));
            }
        }
    }

    /// Sends a flight in pieces of at most so many bytes, and reads what comes back.
    ///
    /// # Errors
    /// Of the socket, other than that the server closes it.
    pub(super) async fn exchange(&mut self, flight: &Flight, piece: usize, until: Until) -> anyhow::Result<Answers> {
        let mut answers = Answers { line: flight.line, ..Answers::default() };
        let mut unsent = flight.bytes.as_slice();
        let mut ready = 0;
        loop {
            let complete = match until {
                Until::Ready(count) => ready >= count,
                Until::Messages(count, _) => answers.messages.len() >= count,
                Until::End => false,
            };
            // What comes unasked behind the last answer belongs to the next flight.
            if complete && unsent.is_empty() {
                answers.ending = if let Until::Messages(_, ending) = until { ending } else { Ending::Complete };
                return Ok(answers);
            }
            if let Some((message_type, body)) = self.take_message()? {
                ready += usize::from(message_type == backend::READY_FOR_QUERY);
                answers.messages.push(self.masker.mask(message_type, &body));
                continue;
            }
            if self.ended {
                answers.ending = Ending::Closed;
                return Ok(answers);
            }
            let step = poll_fn(|context| self.poll_step(context, &mut unsent, piece));
            match tokio::time::timeout(limits::COMPARED_SILENCE, step).await {
                Ok(done) => done?,
                Err(_) => {
                    answers.ending = Ending::Silent;
                    return Ok(answers);
                }
            }
        }
    }

    /// Sends a piece, or reads what is there. A server that no longer listens is still read.
    fn poll_step(&mut self, context: &mut Context<'_>, unsent: &mut &[u8], piece: usize) -> Poll<io::Result<()>> {
        let mut chunk = [0; 16_384];
        match self.socket.poll_read(context, &mut chunk) {
            Poll::Ready(Ok(0) | Err(_)) => {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(count)) => {
                self.input.extend_from_slice(chunk.get(..count).unwrap_or_default());
                return Poll::Ready(Ok(()));
            }
            Poll::Pending => {}
        }
        if unsent.is_empty() && !self.socket.wants_flush() {
            return Poll::Pending;
        }
        while self.socket.poll_writable(context)?.is_ready() {
            let bytes = unsent.get(..piece.min(unsent.len())).unwrap_or_default();
            let sent = if bytes.is_empty() { self.socket.flush().map(|()| 0) } else { self.socket.try_write(bytes) };
            match sent {
                Ok(count) => *unsent = unsent.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                // Nobody listens any more; what was said before is still to be read.
                Err(_) => *unsent = &[],
            }
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn take_message(&mut self) -> anyhow::Result<Option<(u8, Vec<u8>)>> {
        let Some(header) = FrameHeader::peek(&self.input).context("the server sent what is no message")? else {
            return Ok(None);
        };
        if self.input.len() < header.frame_bytes() {
            return Ok(None);
        }
        let rest = self.input.split_off(header.frame_bytes());
        let frame = std::mem::replace(&mut self.input, rest);
        Ok(Some((header.message_type, frame.get(FRAME_HEADER_BYTES..).unwrap_or_default().to_vec())))
    }

    async fn message(&mut self) -> anyhow::Result<Option<(u8, Vec<u8>)>> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            let mut chunk = [0; 4096];
            match self.socket.read(&mut chunk).await? {
                0 => return Ok(None),
                count => self.input.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            }
        }
    }
}

fn refusal(body: &[u8]) -> String {
    let fields = ErrorFields::decode(body);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("the server refuses: {} (SQLSTATE {})", text(fields.message), text(fields.sqlstate))
}

/// The answer to a request for authentication; none to its success.
fn authenticate(body: &[u8], user: &str, password: &[u8], scram: &mut Option<ScramSha256>) -> anyhow::Result<Vec<u8>> {
    let (code, data) = body.split_first_chunk::<4>().context("a broken request for authentication")?;
    let answer = match (u32::from_be_bytes(*code), scram) {
        (0, _) => return Ok(Vec::new()),
        (3, _) => [password, &[0]].concat(),
        (5, _) => {
            let salt = *data.first_chunk::<4>().context("a broken request for an md5 password")?;
            zero_terminated(&[&md5_hash(user.as_bytes(), password, salt)])
        }
        (10, scram) => {
            let exchange = scram.insert(ScramSha256::new(password, ChannelBinding::unsupported()));
            let first = exchange.message();
            let length = u32::try_from(first.len())?.to_be_bytes();
            [&zero_terminated(&[SCRAM_SHA_256])[..], &length, first].concat()
        }
        (11, Some(exchange)) => {
            exchange.update(data)?;
            exchange.message().to_vec()
        }
        (12, Some(exchange)) => {
            exchange.finish(data)?;
            return Ok(Vec::new());
        }
        (other, _) => bail!("authentication of kind {other} is not spoken here: use a role with a password, or trust"),
    };
    Ok(encode::message(frontend::PASSWORD, &answer))
}
