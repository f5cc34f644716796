//! Borrowed decoding of the few server messages that decisions need.

use super::frontend::cstr;

/// Transaction status of ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// Not in a transaction block (`I`).
    Idle,
    /// In a transaction block (`T`).
    InTransaction,
    /// In a failed transaction block (`E`).
    Failed,
}

impl TransactionStatus {
    /// Decodes the body of ReadyForQuery.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Self> {
        match body {
            b"I" => Some(Self::Idle),
            b"T" => Some(Self::InTransaction),
            b"E" => Some(Self::Failed),
            _ => None,
        }
    }
}

/// Rows that a command tag counts: the last word of INSERT, UPDATE, DELETE, MERGE, COPY, SELECT
/// and the like; `None` for tags without a number.
#[must_use]
pub fn tag_rows(body: &[u8]) -> Option<u64> {
    let (tag, _) = cstr(body)?;
    let last = tag.rsplit(|&byte| byte == b' ').next()?;
    std::str::from_utf8(last).ok()?.parse().ok()
}

/// The fields of an ErrorResponse or NoticeResponse that we look at. All may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ErrorFields<'a> {
    /// SQLSTATE (`C`).
    pub sqlstate: &'a [u8],
    /// Message text (`M`).
    pub message: &'a [u8],
    /// Severity, never localized (`V`).
    pub severity: &'a [u8],
    /// C function (`R`) that reported it.
    pub routine: &'a [u8],
    /// Position (`P`) in the query text, in characters from 1.
    pub position: Option<usize>,
}

impl<'a> ErrorFields<'a> {
    /// Decodes a body; what cannot be read stays empty.
    #[must_use]
    pub fn decode(body: &'a [u8]) -> Self {
        let mut fields = Self::default();
        for (code, value) in iterate_fields(body) {
            match code {
                b'C' => fields.sqlstate = value,
                b'M' => fields.message = value,
                b'V' => fields.severity = value,
                b'R' => fields.routine = value,
                b'P' => fields.position = std::str::from_utf8(value).ok().and_then(|p| p.parse().ok()),
                _ => {}
            }
        }
        fields
    }
}

/// The fields of an ErrorResponse or NoticeResponse in order.
pub fn iterate_fields(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let (&code, tail) = rest.split_first()?;
        if code == 0 {
            return None;
        }
        let (value, tail) = cstr(tail)?;
        rest = tail;
        Some((code, value))
    })
}

/// Name of the first column of a RowDescription, from the first bytes of its body.
#[must_use]
pub fn first_column_name(body: &[u8]) -> Option<&[u8]> {
    cstr(body.get(2..)?).map(|(name, _)| name)
}

/// Name and value of a ParameterStatus.
#[must_use]
pub fn parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = cstr(body)?;
    let (value, _) = cstr(rest)?;
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_row_counts() {
        let rows: &[(&[u8], Option<u64>)] = &[
            (b"INSERT 0 5\0", Some(5)),
            (b"UPDATE 0\0", Some(0)),
            (b"COPY 12\0", Some(12)),
            (b"TRUNCATE TABLE\0", None),
            (b"BEGIN\0", None),
            (b"\0", None),
            (b"", None),
            (b"UPDATE 99999999999999999999\0", None),
        ];
        for (tag, expected) in rows {
            assert_eq!(tag_rows(tag), *expected, "{tag:?}");
        }
    }

    #[test]
    fn error_field_rows() {
        let fields = ErrorFields::decode(b"SERROR\0VERROR\0C42601\0Mbad\0P17\0\0");
        assert_eq!(fields.sqlstate, b"42601");
        assert_eq!((fields.position, fields.severity, fields.message), (Some(17), &b"ERROR"[..], &b"bad"[..]));
        assert_eq!(ErrorFields::decode(b""), ErrorFields::default());
        assert_eq!(ErrorFields::decode(b"C4260"), ErrorFields::default());
        assert_eq!(ErrorFields::decode(b"Pxx\0\0").position, None);
    }

    #[test]
    fn small_rows() {
        assert_eq!(TransactionStatus::decode(b"T"), Some(TransactionStatus::InTransaction));
        assert_eq!(TransactionStatus::decode(b"Q"), None);
        assert_eq!(first_column_name(b"\0\x01id\0rest"), Some(&b"id"[..]));
        assert_eq!((first_column_name(b"\0"), first_column_name(b"\0\x01id")), (None, None));
        assert_eq!(parameter_status(b"a\0b\0"), Some((&b"a"[..], &b"b"[..])));
        assert_eq!(parameter_status(b"a\0b"), None);
    }
}
