//! A script as the messages that are sent: SQL in one of several ways, or messages as they stand.

use crate::effect::lexer::{Token, TokenKind, lex};
use crate::effect::statement::{StatementTokens, split};
use crate::wire::encode;
use crate::wire::message_type::frontend;
use crate::wire::notation::{self, NotationError};

/// How SQL is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Each statement as a Query; the next one when the answer is there.
    Simple,
    /// The whole script as one Query.
    Text,
    /// Each statement as Parse, Describe, Bind, Execute and Sync; the next one when the answer is there.
    Extended,
    /// The same, all at once, without waiting.
    Pipeline,
}

/// What is sent without waiting for an answer in between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Flight {
    /// Line of the script at which it begins, from 1.
    pub line: usize,
    /// Messages.
    pub bytes: Vec<u8>,
    /// Most ReadyForQuery that it can call for. Some may not come: a Sync in a COPY has none.
    pub answers: usize,
}

/// Why a script cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// A line of a script of messages.
    #[error("line {line}: {error}")]
    Notation {
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        error: NotationError,
    },
    /// psql's own commands.
    #[error("line {0}: commands of psql are not SQL; compare psql's own output instead")]
    Psql(usize),
    /// A quote or a comment that does not end, or a body whose end only PostgreSQL finds.
    #[error("behind line {0}: cannot tell where a statement ends")]
    Open(usize),
}

impl Flight {
    fn push(&mut self, message_type: u8, body: &[u8]) {
        self.bytes.extend(encode::message(message_type, body));
        let answered = matches!(message_type, frontend::QUERY | frontend::SYNC | frontend::FUNCTION_CALL);
        self.answers += usize::from(answered);
    }
}

/// Messages, one a line; `---` waits for the answers to those before. Lines that begin with `#` are comments.
///
/// # Errors
/// [`ScriptError::Notation`].
pub fn messages(text: &str) -> Result<Vec<Flight>, ScriptError> {
    let mut flights = vec![Flight { line: 1, ..Flight::default() }];
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.starts_with("---") {
            flights.push(Flight { line: number, ..Flight::default() });
        } else if !line.is_empty() && !line.starts_with('#') {
            let (message_type, body) =
                notation::client_message(line).map_err(|error| ScriptError::Notation { line: number, error })?;
            if let Some(flight) = flights.last_mut() {
                flight.push(message_type, &body);
            }
        }
    }
    flights.retain(|flight| !flight.bytes.is_empty());
    Ok(flights)
}

/// A statement, and the rows that follow a COPY FROM STDIN.
#[derive(Debug, PartialEq, Eq)]
struct Statement<'a> {
    line: usize,
    sql: &'a [u8],
    rows: Option<&'a [u8]>,
}

/// SQL as psql reads it: statements end with a semicolon, the rows of COPY FROM STDIN with a line `\.`. `None` where a
/// script cannot be sent in this mode: rows cannot stand in one text.
///
/// # Errors
/// [`ScriptError`].
pub fn sql(text: &[u8], mode: Mode) -> Result<Option<Vec<Flight>>, ScriptError> {
    let statements = statements(text)?;
    if mode == Mode::Text {
        let rows = statements.iter().any(|statement| statement.rows.is_some());
        let mut flight = Flight { line: 1, ..Flight::default() };
        flight.push(frontend::QUERY, &[text, &[0]].concat());
        return Ok((!rows).then(|| vec![flight]));
    }
    let mut flights: Vec<Flight> = statements.iter().map(|statement| flight(statement, mode)).collect();
    if mode == Mode::Pipeline {
        let bytes = flights.iter().flat_map(|flight| flight.bytes.iter().copied()).collect();
        flights = vec![Flight { line: 1, bytes, answers: flights.iter().map(|flight| flight.answers).sum() }];
    }
    Ok(Some(flights))
}

fn flight(statement: &Statement<'_>, mode: Mode) -> Flight {
    let mut flight = Flight { line: statement.line, ..Flight::default() };
    let copy = |flight: &mut Flight| {
        if let Some(rows) = statement.rows {
            flight.push(frontend::COPY_DATA, rows);
            flight.push(frontend::COPY_DONE, &[]);
        }
    };
    if mode == Mode::Simple {
        flight.push(frontend::QUERY, &[statement.sql, &[0]].concat());
        copy(&mut flight);
        return flight;
    }
    flight.push(frontend::PARSE, &[&[0], statement.sql, &[0, 0, 0]].concat());
    flight.push(frontend::DESCRIBE, b"S\0");
    flight.push(frontend::BIND, &[0; 8]);
    flight.push(frontend::DESCRIBE, b"P\0");
    flight.push(frontend::EXECUTE, &[0; 5]);
    copy(&mut flight);
    flight.push(frontend::SYNC, &[]);
    flight
}

fn statements(text: &[u8]) -> Result<Vec<Statement<'_>>, ScriptError> {
    let mut found = Vec::new();
    let mut start = 0;
    while let Some(rows) = end_of_rows(text.get(start..).unwrap_or_default()) {
        let block = text.get(start..start + rows.start).unwrap_or_default();
        let Some(end) = end_of_copy(block) else { return Err(ScriptError::Open(line_at(text, start))) };
        add(text, start, end, &mut found)?;
        if let Some(last) = found.last_mut() {
            // The end of the line behind the semicolon belongs to the statement.
            let line = block.get(end..).unwrap_or_default();
            let skip = line.iter().position(|&byte| byte == b'\n').map_or(line.len(), |at| at + 1);
            last.rows = Some(line.get(skip..).unwrap_or_default());
        }
        start += rows.end;
    }
    add(text, start, text.len() - start, &mut found)?;
    Ok(found)
}

/// The line `\.`, from its first byte to behind its line end.
fn end_of_rows(text: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut at = 0;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        if line.trim_ascii_end() == b"\\." {
            return Some(at..at + line.len());
        }
        at += line.len();
    }
    None
}

/// Where the first COPY FROM STDIN of a block ends, behind its semicolon: the rows stand behind it.
fn end_of_copy(block: &[u8]) -> Option<usize> {
    let mut start = 0;
    let mut end = 0;
    while let Some(at) = block.get(end..)?.iter().position(|&byte| byte == b';') {
        end += at + 1;
        let text = block.get(start..end)?;
        let mut tokens = Vec::new();
        // A semicolon in a string, in parentheses, or in a body ends no statement.
        if lex(text, true, &mut tokens).is_err() || !is_balanced(&tokens) {
            continue;
        }
        let Some(statements) = split(text, &tokens) else { continue };
        if statements.last().is_some_and(is_copy_in) {
            return Some(end);
        }
        start = end;
    }
    None
}

fn is_balanced(tokens: &[Token]) -> bool {
    let count = |kind| tokens.iter().filter(|token| token.kind == kind).count();
    count(TokenKind::OpenParen) == count(TokenKind::CloseParen)
}

fn is_copy_in(statement: &StatementTokens<'_>) -> bool {
    let words: Vec<&[u8]> = (0..statement.tokens.len()).map(|index| statement.bytes(index)).collect();
    let is = |word: &[u8], keyword: &str| word.eq_ignore_ascii_case(keyword.as_bytes());
    let from_stdin = words.windows(2).any(|pair| matches!(pair, [a, b] if is(a, "from") && is(b, "stdin")));
    words.first().is_some_and(|first| is(first, "copy")) && from_stdin
}

/// The statements of `bytes` of the text behind `start`.
fn add<'a>(text: &'a [u8], start: usize, bytes: usize, found: &mut Vec<Statement<'a>>) -> Result<(), ScriptError> {
    let part = text.get(start..start + bytes).unwrap_or_default();
    let mut tokens: Vec<Token> = Vec::new();
    lex(part, true, &mut tokens).map_err(|_| ScriptError::Open(line_at(text, start)))?;
    let command = tokens.iter().find(|token| token.kind == TokenKind::Other && part.get(token.start()) == Some(&b'\\'));
    if let Some(command) = command {
        return Err(ScriptError::Psql(line_at(text, start + command.start())));
    }
    for statement in split(part, &tokens).ok_or_else(|| ScriptError::Open(line_at(text, start)))? {
        let (from, to) = statement.span();
        let sql = part.get(from..to).unwrap_or_default();
        found.push(Statement { line: line_at(text, start + from), sql, rows: None });
    }
    Ok(())
}

fn line_at(text: &[u8], at: usize) -> usize {
    1 + text.iter().take(at).filter(|&&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPY: &[u8] = b"SELECT ';';\n\nCOPY tv_a\n  FROM STDIN; -- rows\n1\t;\n2\tx'\n\\.\nSELECT 2;\n";

    #[test]
    fn rows_of_a_copy_are_no_sql() {
        let lines: Vec<_> = statements(COPY).unwrap();
        let expected = [
            Statement { line: 1, sql: b"SELECT ';'", rows: None },
            Statement { line: 3, sql: b"COPY tv_a\n  FROM STDIN", rows: Some(b"1\t;\n2\tx'\n") },
            Statement { line: 8, sql: b"SELECT 2", rows: None },
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn modes() {
        let flights = |mode| sql(b"SELECT 1; SELECT 2", mode).unwrap().unwrap();
        let counts = |mode| flights(mode).iter().map(|flight| (flight.answers, flight.bytes.len())).collect::<Vec<_>>();
        assert_eq!(counts(Mode::Simple), [(1, 14), (1, 14)]);
        assert_eq!(counts(Mode::Text), [(1, 24)]);
        assert_eq!(counts(Mode::Extended), [(1, 59), (1, 59)]);
        assert_eq!(counts(Mode::Pipeline), [(2, 118)]);
        assert_eq!(sql(COPY, Mode::Text), Ok(None));
        assert_eq!(sql(COPY, Mode::Simple).unwrap().unwrap().len(), 3);
    }

    #[test]
    fn refusals() {
        assert_eq!(sql(b"SELECT 1;\n\\d x\n", Mode::Simple), Err(ScriptError::Psql(2)));
        assert_eq!(sql(b"SELECT 1;\nSELECT 'x", Mode::Simple), Err(ScriptError::Open(1)));
        assert_eq!(sql(b"1\n\\.\n", Mode::Simple), Err(ScriptError::Open(1)));
        let wrong = messages("Query \"SELECT 1\"\nBind\nnonsense").unwrap_err();
        assert!(wrong.to_string().starts_with("line 3: \"nonsense\" is no message"), "{wrong}");
    }

    #[test]
    fn messages_in_flights() {
        let flights = messages("# both at once\nSync\nQuery x\n---\n\nFlush\n").unwrap();
        let counts: Vec<_> = flights.iter().map(|flight| (flight.line, flight.answers, flight.bytes.len())).collect();
        assert_eq!(counts, [(1, 2, 12), (4, 0, 5)]);
    }
}
