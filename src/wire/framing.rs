//! Message headers: one type byte, then a big-endian signed length that counts itself.

use super::WireError;

/// Bytes of a message header: type and length word.
pub const FRAME_HEADER_BYTES: usize = 5;

/// The header of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Message-type byte.
    pub message_type: u8,
    /// Bytes of the message body, header excluded.
    pub body_bytes: usize,
}

impl FrameHeader {
    /// Reads the header at the start of `bytes`; `None` while fewer than
    /// [`FRAME_HEADER_BYTES`] are there.
    ///
    /// # Errors
    /// [`WireError::Length`] when the length word is below 4; PostgreSQL closes the connection then
    /// (`pq_getmessage`: "invalid message length").
    pub fn peek(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let Some(&[message_type, a, b, c, d]) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(None);
        };
        let got = i32::from_be_bytes([a, b, c, d]);
        match usize::try_from(got).ok().and_then(|length| length.checked_sub(4)) {
            Some(body_bytes) => Ok(Some(Self { message_type, body_bytes })),
            None => Err(WireError::Length { message_type, got }),
        }
    }

    /// Bytes of the whole message, header included.
    #[must_use]
    pub const fn frame_bytes(self) -> usize {
        self.body_bytes.saturating_add(FRAME_HEADER_BYTES)
    }
}

/// Bytes of the whole messages of this type that `bytes` begins with.
#[must_use]
pub fn run_bytes(message_type: u8, bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..)
        && let Ok(Some(header)) = FrameHeader::peek(rest)
        && header.message_type == message_type
        && header.frame_bytes() <= rest.len()
    {
        at += header.frame_bytes();
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_rows() {
        let rows: &[(&[u8], usize)] = &[
            (b"", 0),
            (b"D\0\0\0\x04", 5),
            (b"D\0\0\0\x06abD\0\0\0\x04", 12),
            (b"D\0\0\0\x06abD\0\0\0\x05", 7),
            (b"D\0\0\0\x06abD\0\0", 7),
            (b"D\0\0\0\x04C\0\0\0\x04D\0\0\0\x04", 5),
            (b"D\0\0\0\x04D\0\0\0\x03", 5),
            (b"D\0\0\0\x04D\x7f\xff\xff\xff", 5),
            (b"C\0\0\0\x04", 0),
        ];
        for (bytes, expected) in rows {
            assert_eq!(run_bytes(b'D', bytes), *expected, "{bytes:?}");
        }
    }

    #[test]
    fn header_rows() {
        let whole = |message_type, body_bytes| Ok(Some(FrameHeader { message_type, body_bytes }));
        type Row = (&'static [u8], Result<Option<FrameHeader>, WireError>);
        let rows: &[Row] = &[
            (b"", Ok(None)),
            (b"Q", Ok(None)),
            (b"Q\0\0\0", Ok(None)),
            (b"S\0\0\0\x04", whole(b'S', 0)),
            (b"Q\0\0\0\x0bSELECT", whole(b'Q', 7)),
            (b"Q\0\0\0\x03", Err(WireError::Length { message_type: b'Q', got: 3 })),
            (b"Q\0\0\0\0", Err(WireError::Length { message_type: b'Q', got: 0 })),
            (b"Q\xff\xff\xff\xff", Err(WireError::Length { message_type: b'Q', got: -1 })),
            (b"Q\x80\0\0\0", Err(WireError::Length { message_type: b'Q', got: i32::MIN })),
            (b"d\x7f\xff\xff\xff", whole(b'd', 0x7fff_fffb)),
        ];
        for (bytes, expected) in rows {
            assert_eq!(&FrameHeader::peek(bytes), expected, "{bytes:?}");
        }
    }
}
