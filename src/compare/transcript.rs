//! What a server said, without what differs between any two runs, and where two transcripts part.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::wire::backend::iterate_fields;
use crate::wire::frontend::cstr;
use crate::wire::message_type::backend;

/// OIDs from here on are given to what users create (`FirstNormalObjectId`), a new one each time.
const FIRST_NORMAL_OID: u32 = 16_384;
/// Bytes of a column in RowDescription behind its name.
const COLUMN_BYTES: usize = 18;
/// Most characters of a message that are shown.
const SHOWN_CHARACTERS: usize = 300;

/// A message of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Type.
    pub message_type: u8,
    /// Body, masked.
    pub body: Vec<u8>,
}

/// What differs between any two runs, or because of Turnstile's purpose.
#[derive(Debug, Default)]
pub struct Masker {
    /// The database's own name in this run, and what is shown for it.
    database: Option<(String, String)>,
    /// OIDs of relations that hold versions: values of their columns are masked.
    version_relations: BTreeSet<u32>,
    /// OIDs of users' objects, numbered as they appear.
    seen: BTreeMap<u32, u32>,
    /// Of the last RowDescription: which columns show versions.
    columns: Vec<bool>,
}

impl Masker {
    /// For a database that is called `name` in this run and `shown` in each.
    #[must_use]
    pub fn new(database: Option<(String, String)>, version_relations: BTreeSet<u32>) -> Self {
        Self { database, version_relations, ..Self::default() }
    }

    /// Takes out: the cancel key, process ids of notifications, OIDs of what users created, versions, the database's
    /// own name.
    pub fn mask(&mut self, message_type: u8, body: &[u8]) -> Message {
        let body = match message_type {
            backend::BACKEND_KEY_DATA => vec![0; body.len()],
            backend::NOTIFICATION_RESPONSE => [&[0; 4], body.get(4..).unwrap_or_default()].concat(),
            backend::PARAMETER_DESCRIPTION => self.mask_parameters(body),
            backend::ROW_DESCRIPTION => self.mask_columns(body),
            backend::DATA_ROW if self.columns.contains(&true) => self.mask_row(body),
            _ => body.to_vec(),
        };
        let body = match &self.database {
            Some((name, shown)) => replace(body, name.as_bytes(), shown.as_bytes()),
            None => body,
        };
        Message { message_type, body }
    }

    fn number(&mut self, oid: u32) -> u32 {
        if oid < FIRST_NORMAL_OID {
            return oid;
        }
        let next = u32::try_from(self.seen.len()).unwrap_or(0).saturating_add(FIRST_NORMAL_OID);
        *self.seen.entry(oid).or_insert(next)
    }

    fn mask_parameters(&mut self, body: &[u8]) -> Vec<u8> {
        let (count, oids) = body.split_at_checked(2).unwrap_or((body, &[]));
        let mut masked = count.to_vec();
        for oid in oids.chunks(4) {
            match oid.first_chunk::<4>() {
                Some(oid) => masked.extend(self.number(u32::from_be_bytes(*oid)).to_be_bytes()),
                None => masked.extend(oid),
            }
        }
        masked
    }

    fn mask_columns(&mut self, body: &[u8]) -> Vec<u8> {
        self.columns.clear();
        let (count, mut rest) = body.split_at_checked(2).unwrap_or((body, &[]));
        let mut masked = count.to_vec();
        while let Some((name, tail)) = cstr(rest) {
            // Table, number of the column, type, length, modifier, format.
            let Some((column, tail)) = tail.split_first_chunk::<COLUMN_BYTES>() else { break };
            let [t0, t1, t2, t3, n0, n1, o0, o1, o2, o3, others @ ..] = *column;
            let table = u32::from_be_bytes([t0, t1, t2, t3]);
            self.columns.push(self.version_relations.contains(&table) || name == b"fn_domain_version");
            masked.extend(name);
            masked.push(0);
            masked.extend(self.number(table).to_be_bytes());
            masked.extend([n0, n1]);
            masked.extend(self.number(u32::from_be_bytes([o0, o1, o2, o3])).to_be_bytes());
            masked.extend(others);
            rest = tail;
        }
        masked.extend(rest);
        masked
    }

    fn mask_row(&self, body: &[u8]) -> Vec<u8> {
        let (count, mut rest) = body.split_at_checked(2).unwrap_or((body, &[]));
        let mut masked = count.to_vec();
        let mut columns = self.columns.iter();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let bytes = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
            let Some((value, tail)) = tail.split_at_checked(bytes) else { break };
            if columns.next() == Some(&true) {
                masked.extend(b"version");
            } else {
                masked.extend(length);
                masked.extend(value);
            }
            rest = tail;
        }
        masked.extend(rest);
        masked
    }
}

fn replace(body: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let found: Vec<usize> = memchr::memmem::find_iter(&body, from).collect();
    if found.is_empty() {
        return body;
    }
    let mut replaced = Vec::with_capacity(body.len());
    let mut at = 0;
    for start in found {
        replaced.extend_from_slice(body.get(at..start).unwrap_or_default());
        replaced.extend_from_slice(to);
        at = start + from.len();
    }
    replaced.extend_from_slice(body.get(at..).unwrap_or_default());
    replaced
}

/// The answers to one flight.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// Line of the script.
    pub line: usize,
    /// Messages in order.
    pub messages: Vec<Message>,
    /// How it ended.
    pub ending: Ending,
}

/// How the answers to a flight ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ending {
    /// All that was asked for has come.
    #[default]
    Complete,
    /// The server closed the connection.
    Closed,
    /// It went silent.
    Silent,
}

/// What came of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No difference.
    Same {
        /// Messages compared.
        messages: usize,
        /// Of them, those whose contents differ between two direct runs too: only their types were compared.
        unsteady: usize,
    },
    /// The script gives other messages each time, also without Turnstile, from this line on.
    Unsteady(usize),
    /// The first difference.
    Different {
        /// Line of the script.
        line: usize,
        /// The message, or how it ended.
        direct: String,
        /// The same of the other.
        through: String,
    },
}

/// Holds a run through Turnstile against two direct ones.
#[must_use]
pub fn compare(direct: &[Answers], again: &[Answers], through: &[Answers]) -> Outcome {
    let mut messages = 0;
    let mut unsteady = 0;
    for (index, one) in direct.iter().enumerate() {
        let empty = Answers::default();
        let (other, through) = (again.get(index).unwrap_or(&empty), through.get(index).unwrap_or(&empty));
        let types = |answers: &Answers| answers.messages.iter().map(|m| m.message_type).collect::<Vec<_>>();
        if types(one) != types(other) || one.ending != other.ending {
            return Outcome::Unsteady(one.line);
        }
        for at in 0..one.messages.len().max(through.messages.len()) {
            let (expected, found) = (one.messages.get(at), through.messages.get(at));
            let steady = expected == other.messages.get(at);
            let same_type = expected.map(|m| m.message_type) == found.map(|m| m.message_type);
            if (steady && expected != found) || !same_type {
                let words = |message: Option<&Message>, ending| message.map_or_else(|| show_ending(ending), show);
                return Outcome::Different {
                    line: one.line,
                    direct: words(expected, one.ending),
                    through: words(found, through.ending),
                };
            }
            messages += 1;
            unsteady += usize::from(!steady);
        }
        if one.ending != through.ending {
            let (direct, through) = (show_ending(one.ending), show_ending(through.ending));
            return Outcome::Different { line: one.line, direct, through };
        }
    }
    Outcome::Same { messages, unsteady }
}

fn show_ending(ending: Ending) -> String {
    match ending {
        Ending::Complete => "(nothing more)".into(),
        Ending::Closed => "(the connection was closed)".into(),
        Ending::Silent => "(silence)".into(),
    }
}

/// A message for people.
#[must_use]
pub fn show(message: &Message) -> String {
    let mut text = format!("{} ", char::from(message.message_type));
    if matches!(message.message_type, backend::ERROR_RESPONSE | backend::NOTICE_RESPONSE) {
        for (code, value) in iterate_fields(&message.body) {
            let _ = write!(text, "{}={} ", char::from(code), String::from_utf8_lossy(value));
        }
    } else {
        let _ = write!(text, "{}", message.body.escape_ascii());
    }
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}… ({} bytes)", text.get(..end).unwrap_or_default(), message.body.len()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, table: u32, oid: u32) -> Vec<u8> {
        let (table, oid) = (table.to_be_bytes(), oid.to_be_bytes());
        [name.as_bytes(), &[0], &table, &[0, 1], &oid, &[0, 8, 255, 255, 255, 255, 0, 0]].concat()
    }

    fn rows(columns: &[Vec<u8>]) -> Vec<u8> {
        [&u16::try_from(columns.len()).unwrap().to_be_bytes()[..], &columns.concat()].concat()
    }

    #[test]
    fn masks() {
        let mut one = Masker::default();
        let mut other = Masker::default();
        let mut same = |kind, a: &[u8], b: &[u8]| one.mask(kind, a) == other.mask(kind, b);
        assert!(same(b'K', b"\0\0\0\x01abcd", b"\0\0\0\x02efgh"));
        assert!(!same(b'K', b"\0\0\0\x01abcd", b"\0\0\0\x02efghi"), "the length of a key is not masked");
        assert!(same(b'A', b"\0\0\0\x01c\0p\0", b"\0\0\0\x02c\0p\0"));
        assert!(!same(b'A', b"\0\0\0\x01c\0p\0", b"\0\0\0\x02c\0q\0"));
        assert!(same(b't', b"\0\x02\0\0\0\x19\0\0\x4e\x20", b"\0\x02\0\0\0\x19\0\x01\0\0"));
        // A user's type that was another one before.
        assert!(!same(b't', b"\0\x02\0\0\0\x19\0\0\x4e\x20", b"\0\x02\0\0\0\x19\0\x02\0\0"));
        let mut one = Masker::new(None, [20_001].into());
        let mut other = Masker::new(None, [90_001].into());
        let mut same = |kind, a: &[u8], b: &[u8]| one.mask(kind, a) == other.mask(kind, b);
        let (a, b) = (
            rows(&[column("v", 20_001, 20), column("x", 0, 25)]),
            rows(&[column("v", 90_001, 20), column("x", 0, 25)]),
        );
        assert!(same(b'T', &a, &b));
        assert!(same(b'D', b"\0\x02\0\0\0\x017\0\0\0\x01x", b"\0\x02\0\0\0\x0210\0\0\0\x01x"));
        assert!(!same(b'D', b"\0\x02\0\0\0\x017\0\0\0\x01x", b"\0\x02\0\0\0\x017\0\0\0\x01y"));
        let mut named = Masker::new(Some(("compare_07".into(), "compare".into())), BTreeSet::new());
        assert_eq!(named.mask(b'E', b"Mno compare_07, compare_07\0").body, b"Mno compare, compare\0");
    }

    #[test]
    fn anything_can_be_masked() {
        for length in 0..40 {
            for byte in [0, 1, 255] {
                for message_type in [b'T', b'D', b't', b'K', b'A', b'E'] {
                    let mut masker = Masker { columns: vec![true], ..Masker::default() };
                    let masked = masker.mask(message_type, &vec![byte; length]);
                    assert!(show(&masked).len() < 1000);
                }
            }
        }
    }

    fn answers(messages: &[(u8, &[u8])], ending: Ending) -> Vec<Answers> {
        let messages =
            messages.iter().map(|(message_type, body)| Message { message_type: *message_type, body: body.to_vec() });
        vec![Answers { line: 3, messages: messages.collect(), ending }]
    }

    #[test]
    fn outcomes() {
        let direct = answers(&[(b'C', b"SELECT 1\0"), (b'Z', b"I")], Ending::Complete);
        let other = answers(&[(b'C', b"SELECT 2\0"), (b'Z', b"I")], Ending::Complete);
        let short = answers(&[(b'C', b"SELECT 1\0")], Ending::Silent);
        assert_eq!(compare(&direct, &direct, &direct), Outcome::Same { messages: 2, unsteady: 0 });
        assert_eq!(compare(&direct, &other, &other), Outcome::Same { messages: 2, unsteady: 1 });
        assert_eq!(compare(&direct, &short, &direct), Outcome::Unsteady(3));
        let different = |through| match compare(&direct, &direct, through) {
            Outcome::Different { line: 3, direct, through } => format!("{direct} | {through}"),
            other => format!("{other:?}"),
        };
        assert_eq!(different(&other), "C SELECT 1\\x00 | C SELECT 2\\x00");
        assert_eq!(different(&short), "Z I | (silence)");
        assert_eq!(
            different(&answers(&[(b'C', b"SELECT 1\0"), (b'Z', b"I")], Ending::Closed)),
            "(nothing more) | (the connection was closed)"
        );
        assert_eq!(
            compare(&short, &short, &direct),
            Outcome::Different { line: 3, direct: "(silence)".into(), through: "Z I".into() }
        );
    }
}
