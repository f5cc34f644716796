//! Borrowed decoding of the few client messages that decisions need. Lenient where the server is
//! the judge: what does not decode is relayed and counts as unknown.

use super::WireError;

/// Splits a zero-terminated string off `bytes`.
#[must_use]
pub fn cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

fn take_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*head), rest))
}

/// Parse: a prepared statement's name, its text and the declared parameter types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Name; empty for the unnamed statement.
    pub name: &'a [u8],
    /// Text.
    pub sql: &'a [u8],
    types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Decodes a body.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let parse = |body| {
            let (name, rest) = cstr(body)?;
            let (sql, rest) = cstr(rest)?;
            let (count, types) = take_u16(rest)?;
            let types = types.get(..usize::from(count).checked_mul(4)?)?;
            Some(Self { name, sql, types })
        };
        parse(body).ok_or(WireError::Truncated { message: "Parse" })
    }

    /// The declared type of parameter `number` (from 1); 0 where the server infers it.
    #[must_use]
    pub fn parameter_type(&self, number: u16) -> u32 {
        let at = usize::from(number).saturating_sub(1).saturating_mul(4);
        self.types.get(at..at.saturating_add(4)).and_then(|oid| oid.try_into().ok()).map_or(0, u32::from_be_bytes)
    }

    /// The declared types as sent: four bytes each.
    #[must_use]
    pub const fn type_bytes(&self) -> &'a [u8] {
        self.types
    }
}

/// Bind: portal, statement, parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Name of the portal; empty for the unnamed one.
    pub portal: &'a [u8],
    /// Name of the statement.
    pub statement: &'a [u8],
    formats: &'a [u8],
    values: &'a [u8],
    value_count: u16,
}

/// A bound parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundValue<'a> {
    /// The value's bytes; `None` for NULL.
    pub bytes: Option<&'a [u8]>,
    /// In binary format (else text).
    pub binary: bool,
}

impl<'a> Bind<'a> {
    /// Decodes names only: enough for the first bytes of a large message.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn decode_names(body: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), WireError> {
        let names = |body| {
            let (portal, rest) = cstr(body)?;
            let (statement, _) = cstr(rest)?;
            Some((portal, statement))
        };
        names(body).ok_or(WireError::Truncated { message: "Bind" })
    }

    /// Decodes a body; parameter values are found on demand by [`Bind::value`].
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let parse = |body| {
            let (portal, rest) = cstr(body)?;
            let (statement, rest) = cstr(rest)?;
            let (count, rest) = take_u16(rest)?;
            let (formats, rest) = rest.split_at_checked(usize::from(count).checked_mul(2)?)?;
            let (value_count, values) = take_u16(rest)?;
            Some(Self { portal, statement, formats, values, value_count })
        };
        parse(body).ok_or(WireError::Truncated { message: "Bind" })
    }

    /// Value of parameter `number` (from 1); `None` when there is none or the message is
    /// truncated.
    #[must_use]
    pub fn value(&self, number: u16) -> Option<BoundValue<'a>> {
        let index = number.checked_sub(1).filter(|index| *index < self.value_count)?;
        let mut rest = self.values;
        let mut bytes = None;
        for _ in 0..=index {
            let (length, tail) = rest.split_first_chunk::<4>()?;
            let length = i32::from_be_bytes(*length);
            (bytes, rest) = match usize::try_from(length) {
                Ok(length) => {
                    let (value, tail) = tail.split_at_checked(length)?;
                    (Some(value), tail)
                }
                Err(_) => (None, tail),
            };
        }
        Some(BoundValue { bytes, binary: self.is_binary(index)? })
    }

    /// No codes: all text; one code: it goes for all (documented under Bind).
    fn is_binary(&self, index: u16) -> Option<bool> {
        let at = match self.formats.len() {
            0 => return Some(false),
            2 => 0,
            _ => usize::from(index).checked_mul(2)?,
        };
        Some(self.formats.get(at..at.checked_add(2)?)? == [0, 1])
    }
}

/// Which namespace a Describe or Close names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

impl<'a> Named<'a> {
    /// Decodes the body of a Describe or Close; `None` when it is neither.
    #[must_use]
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let (kind, rest) = body.split_first()?;
        let (name, _) = cstr(rest)?;
        match kind {
            b'S' => Some(Self::Statement(name)),
            b'P' => Some(Self::Portal(name)),
            _ => None,
        }
    }
}

/// Portal that an Execute names.
#[must_use]
pub fn execute_portal(body: &[u8]) -> Option<&[u8]> {
    cstr(body).map(|(portal, _)| portal)
}

/// Most rows that an Execute asks for; 0: all.
#[must_use]
pub fn execute_rows(body: &[u8]) -> u32 {
    let rows = cstr(body).and_then(|(_, rest)| rest.first_chunk::<4>());
    rows.map_or(0, |rows| u32::from_be_bytes(*rows))
}

/// Function that a FunctionCall names, by OID.
#[must_use]
pub fn function_call_oid(body: &[u8]) -> Option<u32> {
    body.first_chunk::<4>().map(|oid| u32::from_be_bytes(*oid))
}

/// Text of a Query: up to the first zero byte, as the server reads it.
#[must_use]
pub fn query_text(body: &[u8]) -> Option<&[u8]> {
    // Anything behind the terminator is a protocol violation that the server reports.
    match cstr(body) {
        Some((text, [])) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_rows() {
        let parse = Parse::decode(b"s\0SELECT $1\0\0\x02\0\0\x0b\x86\0\0\0\x19").unwrap();
        assert_eq!((parse.name, parse.sql), (&b"s"[..], &b"SELECT $1"[..]));
        assert_eq!([1, 2, 3, 0].map(|number| parse.parameter_type(number)), [2950, 25, 0, 2950]);
        for bad in [&b""[..], b"s", b"s\0x", b"s\0x\0", b"s\0x\0\0", b"s\0x\0\0\x01\0\0\0", b"s\0x\0\xff\xff"] {
            assert_eq!(Parse::decode(bad), Err(WireError::Truncated { message: "Parse" }), "{bad:?}");
        }
    }

    #[test]
    fn bind_rows() {
        let text = Bind::decode(b"p\0s\0\0\0\0\x02\0\0\0\x01a\xff\xff\xff\xff\0\0").unwrap();
        assert_eq!((text.portal, text.statement), (&b"p"[..], &b"s"[..]));
        assert_eq!(text.value(1), Some(BoundValue { bytes: Some(b"a"), binary: false }));
        assert_eq!(text.value(2), Some(BoundValue { bytes: None, binary: false }));
        assert_eq!((text.value(0), text.value(3)), (None, None));

        let one_code = Bind::decode(b"\0\0\0\x01\0\x01\0\x02\0\0\0\0\0\0\0\x01b\0\0").unwrap();
        assert_eq!(one_code.value(2), Some(BoundValue { bytes: Some(b"b"), binary: true }));

        let each = Bind::decode(b"\0\0\0\x02\0\0\0\x01\0\x02\0\0\0\0\0\0\0\x01b\0\0").unwrap();
        assert!(!each.value(1).unwrap().binary && each.value(2).unwrap().binary);

        let hostile = Bind::decode(b"\0\0\0\0\xff\xff\x7f\xff\xff\xff").unwrap();
        assert_eq!((hostile.value(1), hostile.value(65_535)), (None, None));
        for bad in [&b""[..], b"\0", b"\0\0", b"\0\0\0\x09", b"\0\0\0\x01\0"] {
            assert!(Bind::decode(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Bind::decode_names(b"p\0s\0garbage"), Ok((&b"p"[..], &b"s"[..])));
    }

    #[test]
    fn small_message_rows() {
        assert_eq!(Named::decode(b"Sx\0"), Some(Named::Statement(b"x")));
        assert_eq!(Named::decode(b"P\0"), Some(Named::Portal(b"")));
        assert_eq!((Named::decode(b"Q\0"), Named::decode(b""), Named::decode(b"Sx")), (None, None, None));
        assert_eq!(execute_portal(b"p\0\0\0\0\0"), Some(&b"p"[..]));
        assert_eq!(function_call_oid(b"\0\0\x03\xe8rest"), Some(1000));
        assert_eq!(query_text(b"SELECT 1\0"), Some(&b"SELECT 1"[..]));
        assert_eq!((query_text(b"a\0b\0"), query_text(b"a")), (None, None));
    }
}
