//! The messages that we originate, encoded by `pgwire`.

use bytes::{Bytes, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::extendedquery::{Bind, Close, Execute, Flush, Parse, Sync};
use pgwire::messages::response::{ErrorResponse, NoticeResponse};
use pgwire::messages::simplequery::Query;

/// Appends one message. Ours are small, so the only error that `pgwire` knows here, a message
/// beyond 1 GiB, cannot happen; were it to, nothing would be appended.
fn append(message: &impl Message, out: &mut Vec<u8>) {
    let mut buffer = BytesMut::with_capacity(64);
    if message.encode(&mut buffer).is_ok() {
        out.extend_from_slice(&buffer);
    }
}

/// Parse of a named statement with declared parameter types.
pub fn parse(name: &str, sql: &str, types: &[u32], out: &mut Vec<u8>) {
    append(&Parse::new(Some(name.into()), sql.into(), types.to_vec()), out);
}

/// Bind of a named portal to a named statement, parameters and results in text format.
pub fn bind(portal: &str, statement: &str, parameters: &[Option<&str>], out: &mut Vec<u8>) {
    let parameters = parameters.iter().map(|value| value.map(|text| Bytes::copy_from_slice(text.as_bytes()))).collect();
    append(&Bind::new(Some(portal.into()), Some(statement.into()), Vec::new(), parameters, Vec::new()), out);
}

/// Execute of a named portal, all rows.
pub fn execute(portal: &str, out: &mut Vec<u8>) {
    append(&Execute::new(Some(portal.into()), 0), out);
}

/// FunctionCall, arguments and result in text format.
pub fn function_call(function: u32, arguments: &[Option<&str>], out: &mut Vec<u8>) {
    let mut body = function.to_be_bytes().to_vec();
    body.extend([0, 0]);
    body.extend(u16::try_from(arguments.len()).unwrap_or(u16::MAX).to_be_bytes());
    for argument in arguments {
        match argument {
            Some(text) => {
                body.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
                body.extend_from_slice(text.as_bytes());
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    body.extend([0, 0]);
    out.append(&mut message(super::message_type::frontend::FUNCTION_CALL, &body));
}

/// Close of a named statement.
pub fn close_statement(name: &str, out: &mut Vec<u8>) {
    append(&Close::new(b'S', Some(name.into())), out);
}

/// Close of a named portal.
pub fn close_portal(name: &str, out: &mut Vec<u8>) {
    append(&Close::new(b'P', Some(name.into())), out);
}

/// Flush.
pub fn flush(out: &mut Vec<u8>) {
    append(&Flush::new(), out);
}

/// Sync.
pub fn sync(out: &mut Vec<u8>) {
    append(&Sync::new(), out);
}

/// Query; bytes, because a client's text need not be UTF-8.
pub fn query(text: &[u8], out: &mut Vec<u8>) {
    if text.is_ascii()
        && let Ok(text) = std::str::from_utf8(text)
    {
        append(&Query::new(text.into()), out);
        return;
    }
    // pgwire holds texts as UTF-8 strings; a client's need not be.
    let Ok(length) = u32::try_from(text.len().saturating_add(5)) else { return };
    out.push(super::message_type::frontend::QUERY);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text);
    out.push(0);
}

/// A message as it was received.
#[must_use]
pub fn message(message_type: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + super::FRAME_HEADER_BYTES);
    if let Ok(length) = u32::try_from(body.len().saturating_add(4)) {
        out.push(message_type);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(body);
    }
    out
}

/// ErrorResponse of severity FATAL.
pub fn fatal(sqlstate: &str, message: &str, hint: &str, out: &mut Vec<u8>) {
    append(&ErrorResponse::new(fields("FATAL", sqlstate, message, hint)), out);
}

/// NoticeResponse of severity WARNING.
pub fn warning(sqlstate: &str, message: &str, hint: &str, out: &mut Vec<u8>) {
    append(&NoticeResponse::new(fields("WARNING", sqlstate, message, hint)), out);
}

fn fields(severity: &str, sqlstate: &str, message: &str, hint: &str) -> Vec<(u8, String)> {
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', sqlstate.to_owned()),
        (b'M', message.to_owned()),
    ];
    if !hint.is_empty() {
        fields.push((b'H', hint.to_owned()));
    }
    fields
}

/// An ErrorResponse or NoticeResponse like `body` with another position.
pub fn error_with_position(message_type: u8, body: &[u8], position: usize, out: &mut Vec<u8>) {
    let position = position.to_string();
    let fields = super::backend::iterate_fields(body);
    let fields = fields.map(|(code, value)| (code, if code == b'P' { position.as_bytes() } else { value }));
    append_fields(message_type, fields, out);
}

/// An ErrorResponse like `body` that a statement of ours has caused (a timeout, a cancel): without the fields that would
/// show it to the client, positions, context, and names of objects.
pub fn error_of_ours(body: &[u8], out: &mut Vec<u8>) {
    let fields = super::backend::iterate_fields(body).filter(|(code, _)| !b"PpqWstcdn".contains(code));
    append_fields(super::message_type::backend::ERROR_RESPONSE, fields, out);
}

fn append_fields<'a>(message_type: u8, fields: impl Iterator<Item = (u8, &'a [u8])>, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    for (code, value) in fields {
        body.push(code);
        body.extend_from_slice(value);
        body.push(0);
    }
    body.push(0);
    out.append(&mut message(message_type, &body));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn byte_literals() {
        assert_eq!(encoded(sync), b"S\0\0\0\x04");
        assert_eq!(encoded(flush), b"H\0\0\0\x04");
        assert_eq!(encoded(|out| parse("s", "X", &[25], out)), b"P\0\0\0\x0es\0X\0\0\x01\0\0\0\x19");
        assert_eq!(
            encoded(|out| bind("p", "s", &[Some("v"), None], out)),
            b"B\0\0\0\x17p\0s\0\0\0\0\x02\0\0\0\x01v\xff\xff\xff\xff\0\0"
        );
        assert_eq!(
            encoded(|out| function_call(1598, &[Some("v"), None], out)),
            b"F\0\0\0\x17\0\0\x06\x3e\0\0\0\x02\0\0\0\x01v\xff\xff\xff\xff\0\0"
        );
        assert_eq!(encoded(|out| execute("p", out)), b"E\0\0\0\x0ap\0\0\0\0\0");
        assert_eq!(encoded(|out| close_statement("s", out)), b"C\0\0\0\x07Ss\0");
        assert_eq!(encoded(|out| close_portal("p", out)), b"C\0\0\0\x07Pp\0");
        assert_eq!(encoded(|out| query(b"X", out)), b"Q\0\0\0\x06X\0");
        assert_eq!(encoded(|out| query(b"\xff", out)), b"Q\0\0\0\x06\xff\0");
        assert_eq!(encoded(|out| fatal("57P01", "m", "", out)), b"E\0\0\0\x1dSFATAL\0VFATAL\0C57P01\0Mm\0\0");
        assert_eq!(
            encoded(|out| error_with_position(b'E', b"C42601\0P120\0Mx\0\0", 7, out)),
            b"E\0\0\0\x12C42601\0P7\0Mx\0\0"
        );
        assert_eq!(
            encoded(|out| error_of_ours(b"SERROR\0C57014\0Mx\0Wturbo\0P7\0stable\0Rf\0\0", out)),
            b"E\0\0\0\x19SERROR\0C57014\0Mx\0Rf\0\0"
        );
    }
}
