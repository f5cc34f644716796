//! The start of a session where a leg is encrypted: what the server asks for is relayed, but for SCRAM, see
//! [`crate::auth`].

use std::io;

use super::socket::Socket;
use super::verifiers::{Source, VerifierError};
use crate::auth::certificate;
use crate::auth::negotiation::{Legs, Negotiation, mechanisms, negotiate};
use crate::auth::scram::{Key, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramClient, ScramError, ScramServer, Verifier};
use crate::limits;
use crate::wire::message_type::{backend, frontend};
use crate::wire::{FRAME_HEADER_BYTES, FrameHeader, encode};

const AUTH_OK: u32 = 0;
const AUTH_SASL: u32 = 10;
const AUTH_SASL_CONTINUE: u32 = 11;
const AUTH_SASL_FINAL: u32 = 12;

/// Why a client is not let in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Of the sockets; the other side went away.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It cannot work as it is configured.
    #[error("{0}")]
    Impossible(&'static str),
    /// Verifiers cannot be had.
    #[error(transparent)]
    Verifiers(#[from] VerifierError),
    /// The client's exchange failed.
    #[error("{0}")]
    Client(ScramError),
    /// The server's exchange failed.
    #[error("{0}")]
    Server(ScramError),
    /// A message that does not belong here.
    #[error("unexpected message of the {0} while it authenticates")]
    Unexpected(&'static str),
}

/// What logging in needs to know.
#[derive(Debug)]
pub struct Login<'a> {
    /// Role of the startup packet.
    pub role: &'a [u8],
    /// The hash of our certificate.
    pub end_point: Option<&'a [u8]>,
    /// Where verifiers come from.
    pub verifiers: Option<&'a Source>,
    /// Random for each process, for roles without a verifier.
    pub secret: &'a Key,
}

/// One side of the conversation: reads whole messages.
struct Peer<'a> {
    socket: &'a mut Socket,
    name: &'static str,
    input: Vec<u8>,
    message_bytes_max: usize,
}

struct Message {
    message_type: u8,
    frame: Vec<u8>,
}

impl Message {
    fn body(&self) -> &[u8] {
        self.frame.get(FRAME_HEADER_BYTES..).unwrap_or_default()
    }

    /// The code of an authentication request, and what is behind it.
    fn authentication(&self) -> Option<(u32, &[u8])> {
        let (code, rest) = self.body().split_first_chunk::<4>()?;
        (self.message_type == backend::AUTHENTICATION).then_some((u32::from_be_bytes(*code), rest))
    }
}

impl Peer<'_> {
    async fn message(&mut self) -> Result<Message, LoginError> {
        loop {
            let header =
                FrameHeader::peek(&self.input).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if let Some(header) = header {
                if header.body_bytes > self.message_bytes_max {
                    return Err(LoginError::Unexpected(self.name));
                }
                if self.input.len() >= header.frame_bytes() {
                    let rest = self.input.split_off(header.frame_bytes());
                    let frame = std::mem::replace(&mut self.input, rest);
                    return Ok(Message { message_type: header.message_type, frame });
                }
            }
            let mut chunk = [0; 4096];
            match self.socket.read(&mut chunk).await? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                count => self.input.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            }
        }
    }
}

/// Sends the startup packet and settles the server's request for SASL, if there is one. Returns what was read of the
/// server and is still to be relayed; `client_input` keeps what was read of the client.
///
/// # Errors
/// [`LoginError`].
pub async fn log_in(
    client: &mut Socket,
    client_input: &mut Vec<u8>,
    server: &mut Socket,
    packet: &[u8],
    login: &Login<'_>,
) -> Result<Vec<u8>, LoginError> {
    let legs = Legs { client: client.is_tls(), server: server.is_tls(), verifiers: login.verifiers.is_some() };
    server.write_all(packet).await?;
    let mut peer =
        Peer { socket: server, name: "server", input: Vec::new(), message_bytes_max: limits::LOGIN_MESSAGE_BYTES_MAX };
    loop {
        let message = peer.message().await?;
        let Some((code, rest)) = message.authentication() else {
            if matches!(message.message_type, backend::NOTICE_RESPONSE | backend::NEGOTIATE_PROTOCOL_VERSION) {
                client.write_all(&message.frame).await?;
                continue;
            }
            return Ok([message.frame, peer.input].concat());
        };
        let offered = mechanisms(rest);
        match if code == AUTH_SASL { negotiate(legs, &offered) } else { Negotiation::Relay } {
            Negotiation::Relay => return Ok([message.frame, peer.input].concat()),
            Negotiation::Offer(mechanisms) => {
                let mut request = encode_sasl(&mechanisms);
                request.append(&mut peer.input);
                return Ok(request);
            }
            Negotiation::Refuse(why) => return Err(LoginError::Impossible(why)),
            Negotiation::Terminate { plus } => {
                let mut client = Peer {
                    socket: client,
                    name: "client",
                    input: std::mem::take(client_input),
                    message_bytes_max: limits::SASL_MESSAGE_BYTES_MAX,
                };
                let rest = terminate(&mut client, &mut peer, plus, login).await;
                *client_input = client.input;
                return rest;
            }
        }
    }
}

/// The server of the client's exchange, then the client of the server's.
async fn terminate(
    client: &mut Peer<'_>,
    server: &mut Peer<'_>,
    plus: bool,
    login: &Login<'_>,
) -> Result<Vec<u8>, LoginError> {
    // Names that are no UTF-8 have no verifier here.
    let role = std::str::from_utf8(login.role).unwrap_or_default();
    let known = match login.verifiers {
        Some(source) => source.verifier(role).await?,
        None => None,
    };
    let is_known = known.is_some();
    let verifier = known.unwrap_or_else(|| Verifier::mock(login.role, login.secret));
    let (client_key, last) = prove(client, verifier.clone(), login.end_point).await?;
    if !is_known {
        return Err(LoginError::Client(ScramError::Proof));
    }
    let binding =
        if plus { server.socket.peer_certificate().and_then(|own| certificate::end_point(own)) } else { None };
    let (exchange, mechanism, first) = ScramClient::begin(binding, crate::tls::random()?);
    server.socket.write_all(&sasl_initial_response(mechanism, &first)).await?;
    let answer = match expect(server, AUTH_SASL_CONTINUE).await? {
        Ok(answer) => answer,
        Err(refusal) => return Ok(refusal),
    };
    let (end, text) = exchange.answer(&answer, &client_key, &verifier).map_err(LoginError::Server)?;
    server.socket.write_all(&encode::message(frontend::PASSWORD, text.as_bytes())).await?;
    let answer = match expect(server, AUTH_SASL_FINAL).await? {
        Ok(answer) => answer,
        Err(refusal) => return Ok(refusal),
    };
    end.check(&answer).map_err(LoginError::Server)?;
    let ok = match expect(server, AUTH_OK).await? {
        Ok(_) => authentication(AUTH_OK, &[]),
        Err(refusal) => return Ok(refusal),
    };
    // Only now: a client that is told of success is let in.
    let rest = std::mem::take(&mut server.input);
    Ok([authentication(AUTH_SASL_FINAL, last.as_bytes()), ok, rest].concat())
}

/// The client's exchange: its key, and our last message.
async fn prove(
    client: &mut Peer<'_>,
    verifier: Verifier,
    end_point: Option<&[u8]>,
) -> Result<(Key, String), LoginError> {
    let end_point = end_point.filter(|_| client.socket.is_tls());
    let plus = end_point.map(|_| SCRAM_SHA_256_PLUS.as_bytes().to_vec());
    let offered: Vec<Vec<u8>> = plus.into_iter().chain([SCRAM_SHA_256.as_bytes().to_vec()]).collect();
    client.socket.write_all(&encode_sasl(&offered)).await?;
    let first = response(client).await?;
    let (mechanism, rest) =
        crate::wire::frontend::cstr(first.body()).ok_or(LoginError::Client(ScramError::Malformed("no mechanism")))?;
    let (_length, data) =
        rest.split_first_chunk::<4>().ok_or(LoginError::Client(ScramError::Malformed("no initial response")))?;
    let (exchange, text) =
        ScramServer::begin(mechanism, data, end_point, verifier, crate::tls::random()?).map_err(LoginError::Client)?;
    client.socket.write_all(&authentication(AUTH_SASL_CONTINUE, text.as_bytes())).await?;
    let last = response(client).await?;
    exchange.finish(last.body()).map_err(LoginError::Client)
}

async fn response(client: &mut Peer<'_>) -> Result<Message, LoginError> {
    let message = client.message().await?;
    if message.message_type != frontend::PASSWORD {
        return Err(LoginError::Unexpected("client"));
    }
    Ok(message)
}

/// The next authentication message of this code; what else the server says (it refuses) is for the client.
async fn expect(server: &mut Peer<'_>, expected: u32) -> Result<Result<Vec<u8>, Vec<u8>>, LoginError> {
    let message = server.message().await?;
    match message.authentication() {
        Some((code, data)) if code == expected => Ok(Ok(data.to_vec())),
        Some(_) => Err(LoginError::Unexpected("server")),
        None => {
            let rest = std::mem::take(&mut server.input);
            Ok(Err([message.frame, rest].concat()))
        }
    }
}

fn authentication(code: u32, data: &[u8]) -> Vec<u8> {
    encode::message(backend::AUTHENTICATION, &[&code.to_be_bytes()[..], data].concat())
}

fn encode_sasl(mechanisms: &[Vec<u8>]) -> Vec<u8> {
    let mut list = Vec::new();
    for mechanism in mechanisms {
        list.extend_from_slice(mechanism);
        list.push(0);
    }
    list.push(0);
    authentication(AUTH_SASL, &list)
}

fn sasl_initial_response(mechanism: &str, data: &str) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes();
    encode::message(frontend::PASSWORD, &[mechanism.as_bytes(), &[0], &length, data.as_bytes()].concat())
}
