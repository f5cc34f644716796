//! COPY … FROM STDIN: how its rows say their tenant, and the tenants of a stream, read while it passes.
//!
//! The reader never holds the stream up and keeps a row's tenant field at most. Whatever it does not
//! understand counts as all tenants.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::lexer::TokenKind;
use super::statement::StatementTokens;
use super::tenants::{column_position, parse_uuid};
use crate::catalog::{Relation, TenantType};
use crate::limits;

/// Longest tenant field that is read, in bytes: a uuid with braces and a hyphen behind every four digits
/// has 41.
const FIELD_BYTES_MAX: usize = 48;

/// Signature of the binary format, flags field and extension length not included.
const BINARY_SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Where the tenant stands in each row of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyPlan {
    /// Position among the columns, from 0.
    pub position: usize,
    /// Type of the tenant column: values in binary format differ.
    pub data_type: TenantType,
    /// Format.
    pub format: CopyFormat,
    /// The first line names the columns.
    header: bool,
    /// Values that stand for NULL or for the column's default.
    special: Vec<Vec<u8>>,
}

/// Format of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    /// Backslash escapes.
    Text {
        /// Between columns.
        delimiter: u8,
    },
    /// Comma-separated values.
    Csv {
        /// Between columns.
        delimiter: u8,
        /// Around values.
        quote: u8,
        /// Before a quote inside a value.
        escape: u8,
    },
    /// PostgreSQL's binary format.
    Binary,
}

/// Options as a statement gives them.
#[derive(Debug, Default)]
struct Options {
    csv: bool,
    binary: bool,
    header: bool,
    delimiter: Option<u8>,
    quote: Option<u8>,
    escape: Option<u8>,
    special: Vec<Vec<u8>>,
    has_null: bool,
}

/// The plan of a COPY whose target's name ends before token `end`; `None` where its rows do not say their
/// tenant in a way that is read here.
#[must_use]
pub fn plan(
    s: &StatementTokens<'_>,
    end: usize,
    binary: bool,
    relation: &Relation,
    tenant_column: &str,
) -> Option<CopyPlan> {
    let column = relation.tenant.filter(|column| column.data_type != TenantType::Other)?;
    let (position, from) = if s.kind(end) == Some(TokenKind::OpenParen) {
        let behind = s.behind_parens(end)?;
        (column_position(s, end, behind, tenant_column)?, behind)
    } else if relation.has_generated {
        // Without a column list generated columns are left out.
        return None;
    } else {
        (column.ordinal, end)
    };
    // STDOUT is taken for STDIN here, too.
    if !s.is_word(from, "from") || !s.is_any(from + 1, &["stdin", "stdout"]) {
        return None;
    }
    let mut options = Options { binary, ..Options::default() };
    let mut at = from + 2;
    at += usize::from(s.is_word(at, "with"));
    if s.kind(at) == Some(TokenKind::OpenParen) {
        let behind = s.behind_parens(at)?;
        options.read_list(s, at + 1, behind - 1)?;
        at = behind;
    } else {
        at = options.read_old(s, at)?;
    }
    // WHERE leaves rows out: their tenants are bumped in vain.
    if at < s.tokens.len() && !s.is_word(at, "where") {
        return None;
    }
    options.plan(position, column.data_type)
}

impl Options {
    fn plan(mut self, position: usize, data_type: TenantType) -> Option<CopyPlan> {
        let format = match (self.binary, self.csv) {
            (true, true) => return None,
            (true, false) => CopyFormat::Binary,
            (false, true) => CopyFormat::Csv {
                delimiter: self.delimiter.unwrap_or(b','),
                quote: self.quote.unwrap_or(b'"'),
                escape: self.escape.or(self.quote).unwrap_or(b'"'),
            },
            (false, false) => CopyFormat::Text { delimiter: self.delimiter.unwrap_or(b'\t') },
        };
        if !self.has_null {
            self.special.push(if self.csv { Vec::new() } else { b"\\N".to_vec() });
        }
        Some(CopyPlan { position, data_type, format, header: self.header, special: self.special })
    }

    /// `(FORMAT csv, HEADER true, …)`.
    fn read_list(&mut self, s: &StatementTokens<'_>, from: usize, end: usize) -> Option<()> {
        let mut at = from;
        while at < end {
            let behind = s.find_top(at, |s, index| s.kind(index) == Some(TokenKind::Comma));
            let next = behind.filter(|behind| *behind < end).unwrap_or(end);
            let value = (at + 1 < next).then_some(at + 1);
            match s.name(at)?.as_str() {
                "format" => self.set_format(&word_or_string(s, value?)?)?,
                "header" => self.header = value.is_none_or(|value| is_true(s, value)),
                "delimiter" => self.delimiter = Some(character(s, value?)?),
                "quote" => self.quote = Some(character(s, value?)?),
                "escape" => self.escape = Some(character(s, value?)?),
                "null" => self.set_null(s, value?)?,
                "default" => self.special.push(string(s, value?)?),
                "freeze" | "force_not_null" | "force_null" | "on_error" | "reject_limit" | "log_verbosity" => {}
                // ENCODING, and what PostgreSQL may learn.
                _ => return None,
            }
            at = next + 1;
        }
        Some(())
    }

    /// `CSV HEADER DELIMITER ';' …`, as before PostgreSQL 9.0. Returns the index behind.
    fn read_old(&mut self, s: &StatementTokens<'_>, from: usize) -> Option<usize> {
        let mut at = from;
        if s.is_any(at, &["delimiters"]) || s.are_words(at, &["using", "delimiters"]) {
            at += if s.is_word(at, "using") { 2 } else { 1 };
            self.delimiter = Some(character(s, at)?);
            at += 1 + usize::from(s.is_word(at + 1, "with"));
        }
        while at < s.tokens.len() && !s.is_word(at, "where") {
            let value = at + 1 + usize::from(s.is_word(at + 1, "as"));
            match s.name(at)?.as_str() {
                "binary" => (self.binary, at) = (true, at + 1),
                "csv" => (self.csv, at) = (true, at + 1),
                "header" => (self.header, at) = (true, at + 1),
                "freeze" => at += 1,
                "delimiter" => (self.delimiter, at) = (Some(character(s, value)?), value + 1),
                "quote" => (self.quote, at) = (Some(character(s, value)?), value + 1),
                "escape" => (self.escape, at) = (Some(character(s, value)?), value + 1),
                "null" => {
                    self.set_null(s, value)?;
                    at = value + 1;
                }
                _ => return None,
            }
        }
        Some(at)
    }

    fn set_format(&mut self, format: &str) -> Option<()> {
        match format {
            "text" => {}
            "csv" => self.csv = true,
            "binary" => self.binary = true,
            _ => return None,
        }
        Some(())
    }

    fn set_null(&mut self, s: &StatementTokens<'_>, value: usize) -> Option<()> {
        self.special.push(string(s, value)?);
        self.has_null = true;
        Some(())
    }
}

fn word_or_string(s: &StatementTokens<'_>, index: usize) -> Option<String> {
    s.name(index).or_else(|| String::from_utf8(string(s, index)?).ok()).map(|word| word.to_ascii_lowercase())
}

/// `true`, `on`, `1`, `match`; anything unclear too: the reader then leaves a line out, which would be wrong,
/// hence only these.
fn is_true(s: &StatementTokens<'_>, index: usize) -> bool {
    s.is_any(index, &["true", "on", "match"])
        || s.bytes(index) == b"1"
        || word_or_string(s, index).is_some_and(|word| word == "true" || word == "on" || word == "match")
}

/// The only character of a string.
fn character(s: &StatementTokens<'_>, index: usize) -> Option<u8> {
    match string(s, index)?.as_slice() {
        [byte] if byte.is_ascii() => Some(*byte),
        _ => None,
    }
}

/// A string without escapes, or one of the usual ones.
fn string(s: &StatementTokens<'_>, index: usize) -> Option<Vec<u8>> {
    let raw = std::str::from_utf8(s.bytes(index)).ok()?;
    match s.kind(index)? {
        TokenKind::String => {
            Some(raw.trim_start_matches(['n', 'N']).strip_prefix('\'')?.strip_suffix('\'')?.replace("''", "'").into())
        }
        TokenKind::EscapeString => match raw {
            "E'\\t'" | "e'\\t'" => Some(b"\t".to_vec()),
            "E'\\\\'" | "e'\\\\'" => Some(b"\\".to_vec()),
            _ => None,
        },
        _ => None,
    }
}

/// Tenants of a stream.
#[derive(Debug)]
pub struct CopyReader {
    plan: CopyPlan,
    found: BTreeSet<Uuid>,
    all: bool,
    /// The bytes of the tenant field that was read last: the next one is often the same.
    last: Vec<u8>,
    field: Vec<u8>,
    /// Position of the field at hand.
    position: usize,
    state: State,
    /// Lines that are no rows.
    skip_lines: usize,
}

/// Where a reader is in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a line.
    Plain,
    /// Behind a backslash (text), or an escape inside quotes (CSV).
    Escaped,
    /// Inside quotes.
    Quoted,
    /// Behind a carriage return.
    CarriageReturn,
    /// Behind the end-of-data mark.
    Ended,
    /// Binary: this many bytes of the signature are seen.
    Signature(usize),
    /// Binary: reading a number of `want` bytes.
    Number { what: Number, value: u32, want: u8 },
    /// Binary: bytes of a field that are left; fields behind it in this row.
    Field { left: u32, fields: u16 },
    /// Binary: bytes of the header's extension that are left.
    Extension(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Flags,
    ExtensionLength,
    FieldCount,
    /// Length of a field; fields of the row from this one on.
    FieldLength(u16),
}

impl CopyReader {
    /// At the begin of a stream.
    #[must_use]
    pub fn new(plan: CopyPlan) -> Self {
        let state = if plan.format == CopyFormat::Binary { State::Signature(0) } else { State::Plain };
        let skip_lines = usize::from(plan.header);
        Self {
            plan,
            found: BTreeSet::new(),
            all: false,
            last: Vec::new(),
            field: Vec::with_capacity(FIELD_BYTES_MAX),
            position: 0,
            state,
            skip_lines,
        }
    }

    /// The tenants of all rows; `None` for all tenants.
    #[must_use]
    pub fn tenants(mut self) -> Option<BTreeSet<Uuid>> {
        // A last line may lack its end.
        if !self.all && self.plan.format != CopyFormat::Binary && (self.position > 0 || !self.field.is_empty()) {
            self.end_field();
        }
        (!self.all).then_some(self.found)
    }

    /// Reads the next bytes of the stream, cut anywhere.
    pub fn read(&mut self, bytes: &[u8]) {
        if self.all {
            return;
        }
        match self.plan.format {
            CopyFormat::Text { delimiter } => bytes.iter().for_each(|byte| self.text_byte(*byte, delimiter)),
            CopyFormat::Csv { delimiter, quote, escape } => {
                bytes.iter().for_each(|byte| self.csv_byte(*byte, delimiter, quote, escape));
            }
            CopyFormat::Binary => self.binary(bytes),
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.position == self.plan.position && self.skip_lines == 0 {
            if self.field.len() < FIELD_BYTES_MAX {
                self.field.push(byte);
            } else {
                self.all = true;
            }
        }
    }

    fn text_byte(&mut self, byte: u8, delimiter: u8) {
        match self.state {
            State::Escaped => {
                // What is escaped is no separator. `\.` alone in a line ends the data.
                let alone = self.position == 0 && byte == b'.';
                self.state = if alone && self.is_begin_of_line() { State::Ended } else { State::Plain };
                self.keep(byte);
            }
            State::CarriageReturn if byte != b'\n' => self.all = true,
            State::Ended => self.all |= !matches!(byte, b'\r' | b'\n'),
            _ if byte == b'\n' => self.end_line(),
            _ if byte == b'\r' => self.state = State::CarriageReturn,
            _ if byte == delimiter => self.end_field(),
            _ => {
                if byte == b'\\' {
                    self.state = State::Escaped;
                }
                self.keep(byte);
            }
        }
    }

    /// Only the backslash of this line was kept, if the tenant comes first; other positions cannot tell.
    fn is_begin_of_line(&self) -> bool {
        self.plan.position != 0 || self.field == b"\\"
    }

    fn csv_byte(&mut self, byte: u8, delimiter: u8, quote: u8, escape: u8) {
        match self.state {
            State::Escaped => {
                self.state = State::Quoted;
                self.keep(byte);
            }
            State::Quoted if byte == escape && escape != quote => self.state = State::Escaped,
            State::Quoted if byte == quote => self.state = State::Plain,
            State::Quoted => self.keep(byte),
            State::CarriageReturn if byte != b'\n' => self.all = true,
            _ if byte == b'\n' => self.end_line(),
            _ if byte == b'\r' => self.state = State::CarriageReturn,
            _ if byte == quote => self.state = State::Quoted,
            _ if byte == delimiter => self.end_field(),
            _ => self.keep(byte),
        }
    }

    fn end_line(&mut self) {
        self.end_field();
        self.position = 0;
        self.state = State::Plain;
        self.skip_lines = self.skip_lines.saturating_sub(1);
    }

    fn end_field(&mut self) {
        let is_tenant = self.position == self.plan.position && self.skip_lines == 0;
        self.position += 1;
        if is_tenant {
            self.take_field();
        }
    }

    fn take_field(&mut self) {
        if self.field == self.last && !self.last.is_empty() {
            self.field.clear();
            return;
        }
        // The end of the data: no row.
        let end = self.position == 1 && self.field == b"\\.";
        let special = self.plan.special.contains(&self.field);
        match std::str::from_utf8(&self.field).ok().filter(|_| !special).and_then(parse_uuid) {
            _ if end => {}
            Some(tenant) => {
                self.add(tenant);
                self.last.clone_from(&self.field);
            }
            None => self.all = true,
        }
        self.field.clear();
    }

    fn add(&mut self, tenant: Uuid) {
        self.found.insert(tenant);
        self.all |= self.found.len() > limits::STATEMENT_TENANTS_MAX;
    }

    fn binary(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((&byte, behind)) = rest.split_first().filter(|_| !self.all) {
            match self.state {
                State::Field { left, fields } => {
                    let part = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (field, behind) = rest.split_at(part);
                    if self.position == self.plan.position {
                        field.iter().for_each(|byte| self.keep(*byte));
                    }
                    rest = behind;
                    self.in_field(left.saturating_sub(u32::try_from(part).unwrap_or(u32::MAX)), fields);
                }
                State::Extension(left) => {
                    let part = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    rest = rest.get(part..).unwrap_or_default();
                    let left = left.saturating_sub(u32::try_from(part).unwrap_or(u32::MAX));
                    self.state = if left == 0 { number(Number::FieldCount, 2) } else { State::Extension(left) };
                }
                State::Signature(seen) => {
                    rest = behind;
                    self.all |= BINARY_SIGNATURE.get(seen) != Some(&byte);
                    let done = seen + 1 == BINARY_SIGNATURE.len();
                    self.state = if done { number(Number::Flags, 4) } else { State::Signature(seen + 1) };
                }
                State::Number { what, value, want } => {
                    rest = behind;
                    let value = value << 8 | u32::from(byte);
                    if want == 1 {
                        self.on_number(what, value);
                    } else {
                        self.state = State::Number { what, value, want: want - 1 }
                    }
                }
                _ => rest = &[],
            }
        }
    }

    fn on_number(&mut self, what: Number, value: u32) {
        self.state = match what {
            Number::Flags => number(Number::ExtensionLength, 4),
            Number::ExtensionLength if value == 0 => number(Number::FieldCount, 2),
            Number::ExtensionLength => State::Extension(value),
            Number::FieldCount => {
                self.position = 0;
                match u16::try_from(value) {
                    // The trailer.
                    Ok(u16::MAX) => State::Ended,
                    Ok(fields) if fields > 0 => number(Number::FieldLength(fields), 4),
                    _ => number(Number::FieldCount, 2),
                }
            }
            Number::FieldLength(fields) => {
                if value == u32::MAX {
                    // NULL.
                    self.all |= self.position == self.plan.position;
                    return self.end_binary_field(fields);
                }
                return self.in_field(value, fields);
            }
        };
    }

    fn in_field(&mut self, left: u32, fields: u16) {
        if left > 0 {
            self.state = State::Field { left, fields };
            return;
        }
        if self.position == self.plan.position && !self.all {
            if self.plan.data_type == TenantType::Uuid {
                match Uuid::from_slice(&self.field) {
                    Ok(tenant) => self.add(tenant),
                    Err(_) => self.all = true,
                }
                self.field.clear();
            } else {
                self.take_field();
            }
        }
        self.end_binary_field(fields);
    }

    fn end_binary_field(&mut self, fields: u16) {
        self.position += 1;
        self.state =
            if fields > 1 { number(Number::FieldLength(fields - 1), 4) } else { number(Number::FieldCount, 2) };
    }
}

const fn number(what: Number, want: u8) -> State {
    State::Number { what, value: 0, want }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::lexer::lex;
    use crate::effect::test_support::catalog;

    const T1: &str = "11111111-1111-1111-1111-111111111111";
    const T2: &str = "22222222-2222-2222-2222-222222222222";

    fn plan_of(sql: &str) -> Option<CopyPlan> {
        let mut tokens = Vec::new();
        lex(sql.as_bytes(), true, &mut tokens).unwrap();
        let s = StatementTokens { text: sql.as_bytes(), tokens: &tokens };
        let binary = s.is_word(1, "binary");
        let name = s.qualified_name(if binary { 2 } else { 1 }).unwrap();
        let catalog = catalog();
        let relation = catalog.candidates(None, &name.name)[0].clone();
        plan(&s, name.end, binary, &relation, "tenant_id")
    }

    /// Tenants by their first digit, `*` for all; the same however the stream is cut.
    fn tenants(sql: &str, data: &[u8]) -> String {
        let plan = plan_of(sql).unwrap_or_else(|| panic!("no plan: {sql}"));
        let read = |size: usize| {
            let mut reader = CopyReader::new(plan.clone());
            data.chunks(size).for_each(|chunk| reader.read(chunk));
            let Some(found) = reader.tenants() else { return "*".to_owned() };
            found.iter().map(|tenant| tenant.to_string().chars().next().unwrap()).collect()
        };
        let whole = read(data.len().max(1));
        for size in [1, 2, 3, 7] {
            assert_eq!(read(size), whole, "{sql} cut by {size}");
        }
        whole
    }

    #[test]
    fn plans() {
        let text = |position| Some((position, CopyFormat::Text { delimiter: b'\t' }));
        let csv = |position, delimiter, quote, escape| Some((position, CopyFormat::Csv { delimiter, quote, escape }));
        let rows = [
            ("COPY tv_a FROM STDIN", text(1)),
            ("COPY public.tv_a (x, id, tenant_id) FROM stdin", text(2)),
            ("COPY tv_a (x, id) FROM STDIN", None),
            ("COPY tv_a FROM STDIN WITH (FORMAT csv, HEADER)", csv(1, b',', b'"', b'"')),
            ("COPY tv_a FROM STDIN (FORMAT 'csv', DELIMITER ';', QUOTE '''', ESCAPE '\\')", csv(1, b';', b'\'', b'\\')),
            ("COPY tv_a FROM STDIN CSV HEADER DELIMITER ';' QUOTE AS '#'", csv(1, b';', b'#', b'#')),
            ("COPY tv_a FROM STDIN DELIMITERS ','", Some((1, CopyFormat::Text { delimiter: b',' }))),
            ("COPY tv_a FROM STDIN WITH (DELIMITER E'\\t')", text(1)),
            ("COPY tv_a FROM STDIN (FORMAT binary)", Some((1, CopyFormat::Binary))),
            ("COPY BINARY tv_a FROM STDIN", Some((1, CopyFormat::Binary))),
            ("COPY tv_a FROM STDIN WITH BINARY", Some((1, CopyFormat::Binary))),
            ("COPY tv_a FROM STDIN (FORMAT csv) WHERE id > 5", csv(1, b',', b'"', b'"')),
            ("COPY tv_a FROM STDIN (ENCODING 'latin1')", None),
            ("COPY tv_a FROM STDIN (SOMETHING new)", None),
            ("COPY tv_a FROM '/tmp/x'", None),
            ("COPY tv_shared FROM STDIN", None),
            ("COPY tv_int FROM STDIN", None),
        ];
        for (sql, expected) in rows {
            assert_eq!(plan_of(sql).map(|plan| (plan.position, plan.format)), expected, "{sql}");
        }
    }

    #[test]
    fn text_streams() {
        let sql = "COPY tv_a FROM STDIN";
        let rows = [
            (String::new(), ""),
            (format!("1\t{T1}\tx\n2\t{T1}\ty\n3\t{T2}\tz\n"), "12"),
            (format!("1\t{T1}\tx\r\n2\t{T2}\ty\r\n"), "12"),
            (format!("1\t{T1}\tx"), "1"),
            (format!("1\t{T1}\tline\\\n9\\\t{T2}\n"), "1"),
            (format!("1\t{T1}\tx\n\\.\n"), "1"),
            (format!("1\t{{{}}}\tx\n", T1.replace('-', "")), "1"),
            (format!("1\t{T1}\tx\n2\t\\N\ty\n"), "*"),
            (format!("1\t{T1}\tx\r2\t{T2}\ty\r"), "*"),
            (format!("1\t\\x31{}\tx\n", T1.get(1..).unwrap()), "*"),
            ("1\tnobody\tx\n".into(), "*"),
            ("1\n".into(), ""),
            (format!("1\t{}\tx\n", "1".repeat(1000)), "*"),
        ];
        for (data, expected) in rows {
            assert_eq!(tenants(sql, data.as_bytes()), expected, "{data:?}");
        }
        let first = format!("{T1}\t1\n\\.\n");
        assert_eq!(tenants("COPY tv_a (tenant_id, id) FROM STDIN", first.as_bytes()), "1");
        let null = format!("1\t{T1}\n");
        assert_eq!(tenants(&format!("COPY tv_a FROM STDIN (NULL '{T1}')"), null.as_bytes()), "*");
    }

    #[test]
    fn csv_streams() {
        let rows = [
            ("COPY tv_a FROM STDIN (FORMAT csv)", format!("1,{T1},\"a,b\nc\"\"d\"\n2,\"{T2}\",x\n"), "12"),
            ("COPY tv_a FROM STDIN (FORMAT csv, HEADER)", format!("id,tenant_id,x\n1,{T1},x\n"), "1"),
            ("COPY tv_a FROM STDIN (FORMAT csv, HEADER false)", format!("1,{T1},x\n2,{T2},y\n"), "12"),
            ("COPY tv_a FROM STDIN (FORMAT csv)", format!("1,{T1},x\n2,,y\n"), "*"),
            ("COPY tv_a FROM STDIN (FORMAT csv, ESCAPE '\\')", format!("1,{T1},\"a\\\"\n\\\"\"\n2,{T2},y\n"), "12"),
            ("COPY tv_a FROM STDIN (FORMAT csv, DELIMITER ';', QUOTE '''')", format!("1;'{T1}';'a;b'\n"), "1"),
        ];
        for (sql, data, expected) in rows {
            assert_eq!(tenants(sql, data.as_bytes()), expected, "{sql} {data:?}");
        }
    }

    #[test]
    fn binary_streams() {
        let field = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
        let row = |tenant: &[u8]| [&[0, 3][..], &field(&[0, 0, 0, 1]), tenant, &field(b"text")].concat();
        let uuid = |text: &str| field(text.parse::<Uuid>().unwrap().as_bytes());
        let head = [BINARY_SIGNATURE, &[0; 4], &[0, 0, 0, 2], b"xx"].concat();
        let end = [0xff, 0xff];
        let sql = "COPY tv_a FROM STDIN (FORMAT binary)";
        let stream = |rows: &[Vec<u8>]| [&head[..], &rows.concat(), &end].concat();
        assert_eq!(tenants(sql, &stream(&[])), "");
        assert_eq!(tenants(sql, &stream(&[row(&uuid(T1)), row(&uuid(T2)), row(&uuid(T1))])), "12");
        assert_eq!(tenants(sql, &stream(&[row(&uuid(T1)), row(&[0xff; 4])])), "*");
        assert_eq!(tenants(sql, &stream(&[row(&field(b"short"))])), "*");
        assert_eq!(tenants("COPY tv_text FROM STDIN (FORMAT binary)", &stream(&[row(&field(T2.as_bytes()))])), "2");
        assert_eq!(tenants(sql, b"PGCOPX and more"), "*");
        let plain = [BINARY_SIGNATURE, &[0; 8], &row(&uuid(T1)), &row(&uuid(T2)), &end].concat();
        assert_eq!(tenants(sql, &plain), "12");
    }

    #[test]
    fn more_tenants_than_are_counted() {
        let lines = |count: usize| (0..count).map(|n| format!("1\t{n:032x}\tx\n")).collect::<String>();
        let sql = "COPY tv_a FROM STDIN";
        assert_eq!(tenants(sql, lines(limits::STATEMENT_TENANTS_MAX).as_bytes()).len(), limits::STATEMENT_TENANTS_MAX);
        assert_eq!(tenants(sql, lines(limits::STATEMENT_TENANTS_MAX + 1).as_bytes()), "*");
    }
}
