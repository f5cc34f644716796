//! Startup packets: the untyped first message of a connection.
//!
//! PostgreSQL: `ProcessStartupPacket` in `src/backend/tcop/backend_startup.c` (18; `postmaster.c`
//! before 18), `MAX_STARTUP_PACKET_LENGTH` in `src/include/libpq/pqcomm.h`.

use super::WireError;

/// Largest startup packet that PostgreSQL accepts, in bytes, length word included.
pub const STARTUP_BYTES_MAX: usize = 10_000;
/// Smallest startup packet: length word and protocol version.
pub const STARTUP_BYTES_MIN: usize = 8;

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// First byte of a TLS record: a direct TLS connection (PostgreSQL 17).
pub const TLS_HANDSHAKE: u8 = 0x16;

/// What the first packet of a connection asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupPacket<'a> {
    /// TLS, please.
    SslRequest,
    /// GSSAPI encryption, please.
    GssEncRequest,
    /// Cancel the statement of another connection; the whole packet is forwarded as it is.
    CancelRequest,
    /// A session.
    Startup(StartupMessage<'a>),
}

/// A StartupMessage, borrowed. Names and values are bytes: nothing says that they are UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StartupMessage<'a> {
    /// Major and minor protocol version.
    pub version: (u16, u16),
    /// `user`, empty when the client sent none.
    pub user: &'a [u8],
    /// `database`; the user's name when the client sent none, as the server does.
    pub database: &'a [u8],
    /// The client asks for the replication protocol: nothing of it is SQL of an application.
    pub replication: bool,
}

/// Length of the startup packet at the start of `bytes`, `None` while that is not known.
///
/// # Errors
/// [`WireError::StartupLength`] outside of what PostgreSQL accepts, [`WireError::DirectTls`] for a
/// TLS ClientHello.
pub fn packet_bytes(bytes: &[u8]) -> Result<Option<usize>, WireError> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Err(WireError::DirectTls);
    }
    let Some(length) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let got = i32::from_be_bytes(*length);
    match usize::try_from(got) {
        Ok(length) if (STARTUP_BYTES_MIN..=STARTUP_BYTES_MAX).contains(&length) => Ok(Some(length)),
        _ => Err(WireError::StartupLength { got: i64::from(got), min: STARTUP_BYTES_MIN, max: STARTUP_BYTES_MAX }),
    }
}

/// Parses one whole startup packet, length word included.
///
/// # Errors
/// [`WireError::StartupBody`] when the parameters are not zero-terminated pairs.
pub fn parse(packet: &[u8]) -> Result<StartupPacket<'_>, WireError> {
    let (Some(code), Some(body)) = (packet.get(4..8), packet.get(8..)) else {
        return Err(WireError::StartupBody);
    };
    let code = u32::from_be_bytes(code.try_into().map_err(|_| WireError::StartupBody)?);
    match code {
        SSL_REQUEST => Ok(StartupPacket::SslRequest),
        GSSENC_REQUEST => Ok(StartupPacket::GssEncRequest),
        CANCEL_REQUEST => Ok(StartupPacket::CancelRequest),
        version => parse_message(version, body).map(StartupPacket::Startup),
    }
}

fn parse_message(version: u32, body: &[u8]) -> Result<StartupMessage<'_>, WireError> {
    let [a, b, c, d] = version.to_be_bytes();
    let version = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let mut message = StartupMessage { version, ..StartupMessage::default() };
    if version.0 != 3 {
        // Protocol 2 and others: relayed, the server answers in the client's dialect.
        return Ok(message);
    }
    let mut strings = body.split(|&byte| byte == 0);
    loop {
        let name = strings.next().ok_or(WireError::StartupBody)?;
        if name.is_empty() {
            break;
        }
        let value = strings.next().ok_or(WireError::StartupBody)?;
        match name {
            b"user" => message.user = value,
            b"database" => message.database = value,
            b"replication" => message.replication = !is_false(value),
            _ => {}
        }
    }
    if message.database.is_empty() {
        message.database = message.user;
    }
    Ok(message)
}

/// What `parse_bool` takes for false; anything else switches to the replication grammar or is
/// refused by the server.
fn is_false(value: &[u8]) -> bool {
    [&b"off"[..], b"of", b"false", b"fals", b"fal", b"fa", b"f", b"no", b"n", b"0"]
        .iter()
        .any(|word| value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(8 + body.len()).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes()[..], body].concat()
    }

    #[test]
    fn length_rows() {
        let refused = |got| Err(WireError::StartupLength { got, min: STARTUP_BYTES_MIN, max: STARTUP_BYTES_MAX });
        type Row = (&'static [u8], Result<Option<usize>, WireError>);
        let rows: &[Row] = &[
            (b"", Ok(None)),
            (b"\0\0\0", Ok(None)),
            (b"\0\0\0\x08", Ok(Some(8))),
            (b"\0\0\x27\x10", Ok(Some(10_000))),
            (b"\0\0\x27\x11", refused(10_001)),
            (b"\0\0\0\x07", refused(7)),
            (b"\xff\xff\xff\xff", refused(-1)),
            (b"GET / HTTP/1.1", refused(0x4745_5420)),
            (b"\x16\x03\x01", Err(WireError::DirectTls)),
        ];
        for (bytes, expected) in rows {
            assert_eq!(&packet_bytes(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn packet_rows() {
        let v3 = 196_608;
        let message = |user, database, replication| {
            Ok(StartupPacket::Startup(StartupMessage { version: (3, 0), user, database, replication }))
        };
        let rows: &[(u32, &[u8], Result<StartupPacket<'static>, WireError>)] = &[
            (SSL_REQUEST, b"", Ok(StartupPacket::SslRequest)),
            (GSSENC_REQUEST, b"", Ok(StartupPacket::GssEncRequest)),
            (CANCEL_REQUEST, b"\0\0\0\x01\0\0\0\x02", Ok(StartupPacket::CancelRequest)),
            (v3, b"user\0u\0database\0d\0\0", message(b"u", b"d", false)),
            (v3, b"user\0u\0\0", message(b"u", b"u", false)),
            (v3, b"user\0\xff\xfe\0\0", message(b"\xff\xfe", b"\xff\xfe", false)),
            (v3, b"user\0u\0replication\0database\0\0", message(b"u", b"u", true)),
            (v3, b"user\0u\0replication\0off\0\0", message(b"u", b"u", false)),
            (v3, b"user\0u\0user\0v\0\0", message(b"v", b"v", false)),
            (v3, b"user", Err(WireError::StartupBody)),
            (v3, b"", Ok(StartupPacket::Startup(StartupMessage { version: (3, 0), ..Default::default() }))),
        ];
        for (code, body, expected) in rows {
            assert_eq!(&parse(&packet(*code, body)), expected, "{body:?}");
        }
        assert_eq!(parse(b"\0\0"), Err(WireError::StartupBody));
    }
}
