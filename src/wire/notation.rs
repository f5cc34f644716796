//! A client's messages as lines of text, for scripts: `Query "SELECT 1"`, `Bind "" s 1 NULL`.
//!
//! Words are separated by spaces; between double quotes they may be empty and hold spaces, and `\n`, `\t`, `\q` (a double
//! quote) and `\\` stand for one character.

use super::message_type::frontend;

/// Why a line is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotationError {
    /// The first word names no message.
    #[error(
        "{0:?} is no message: Query, Parse, Bind, Execute, Describe, Close, Sync, Flush, CopyData, CopyDone, CopyFail, \
         FunctionCall, Terminate, or Message with a type and hexadecimal digits"
    )]
    Unknown(String),
    /// A word is not what it should be.
    #[error("{0:?} is no {1}")]
    Word(String, &'static str),
    /// More than the protocol can say.
    #[error("too long")]
    TooLong,
}

/// A message of a client: type and body.
pub type Message = (u8, Vec<u8>);

/// Splits a line into words.
#[must_use]
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (word, tail) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(unescape(word));
        rest = tail.trim_start();
    }
    words
}

fn unescape(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    let mut characters = word.chars();
    while let Some(character) = characters.next() {
        match (character, characters.clone().next()) {
            ('\\', Some(escaped @ ('n' | 't' | 'q' | '\\'))) => {
                text.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'q' => '"',
                    _ => '\\',
                });
                characters.next();
            }
            _ => text.push(character),
        }
    }
    text
}

/// Texts, each with its zero byte.
#[must_use]
pub fn zero_terminated(parts: &[&str]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.bytes().chain([0])).collect()
}

/// The message that a line stands for.
///
/// # Errors
/// [`NotationError`].
pub fn client_message(line: &str) -> Result<Message, NotationError> {
    let words = words(line);
    let word = |index: usize| words.get(index).map_or("", String::as_str);
    let rest = |from: usize| words.get(from..).unwrap_or_default();
    let number = |word: &str| word.parse::<u32>().map_err(|_| NotationError::Word(word.to_owned(), "number"));
    let message = match word(0) {
        "Query" => (frontend::QUERY, zero_terminated(&[word(1)])),
        "Parse" => {
            let mut body = zero_terminated(&[word(1), word(2)]);
            body.extend(count(rest(3).len())?);
            for oid in rest(3) {
                body.extend(number(oid)?.to_be_bytes());
            }
            (frontend::PARSE, body)
        }
        "Bind" => (frontend::BIND, bind(word(1), word(2), rest(3))?),
        "Execute" => {
            let rows = if word(2).is_empty() { 0 } else { number(word(2))? };
            (frontend::EXECUTE, [zero_terminated(&[word(1)]), rows.to_be_bytes().to_vec()].concat())
        }
        "Describe" => (frontend::DESCRIBE, [word(1).as_bytes(), &zero_terminated(&[word(2)])].concat()),
        "Close" => (frontend::CLOSE, [word(1).as_bytes(), &zero_terminated(&[word(2)])].concat()),
        // A function without arguments: no formats, no values, result in text format.
        "FunctionCall" => (frontend::FUNCTION_CALL, [&number(word(1))?.to_be_bytes()[..], &[0; 6]].concat()),
        "Sync" => (frontend::SYNC, Vec::new()),
        "Flush" => (frontend::FLUSH, Vec::new()),
        "Terminate" => (frontend::TERMINATE, Vec::new()),
        "CopyData" => (frontend::COPY_DATA, word(1).as_bytes().to_vec()),
        "CopyDone" => (frontend::COPY_DONE, Vec::new()),
        "CopyFail" => (frontend::COPY_FAIL, zero_terminated(&[word(1)])),
        "Message" => (message_type(word(1))?, hexadecimal(word(2))?),
        other => return Err(NotationError::Unknown(other.to_owned())),
    };
    Ok(message)
}

fn count(count: usize) -> Result<[u8; 2], NotationError> {
    u16::try_from(count).map(u16::to_be_bytes).map_err(|_| NotationError::TooLong)
}

/// Parameters and results in text format.
fn bind(portal: &str, statement: &str, values: &[String]) -> Result<Vec<u8>, NotationError> {
    let mut body = zero_terminated(&[portal, statement]);
    body.extend([0, 0]);
    body.extend(count(values.len())?);
    for value in values {
        if value == "NULL" {
            body.extend((-1_i32).to_be_bytes());
            continue;
        }
        let length = i32::try_from(value.len()).map_err(|_| NotationError::TooLong)?;
        body.extend(length.to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    Ok(body)
}

fn message_type(word: &str) -> Result<u8, NotationError> {
    match word.as_bytes() {
        [byte] => Ok(*byte),
        _ => Err(NotationError::Word(word.to_owned(), "message type of one character")),
    }
}

fn hexadecimal(word: &str) -> Result<Vec<u8>, NotationError> {
    let refused = || NotationError::Word(word.to_owned(), "sequence of hexadecimal bytes");
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = word.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect::<Option<_>>().ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let rows: &[(&str, u8, &[u8])] = &[
            ("Query \"SELECT 1\"", b'Q', b"SELECT 1\0"),
            (r#"Query "a\qb\\n""#, b'Q', b"a\"b\\n\0"),
            ("Parse s \"X\" 25", b'P', b"s\0X\0\0\x01\0\0\0\x19"),
            ("Bind \"\" s 7 NULL \"\"", b'B', b"\0s\0\0\0\0\x03\0\0\0\x017\xff\xff\xff\xff\0\0\0\0\0\0"),
            ("Execute \"\" 5", b'E', b"\0\0\0\0\x05"),
            ("Execute p", b'E', b"p\0\0\0\0\0"),
            ("Describe S s", b'D', b"Ss\0"),
            ("CopyData \"1\\t2\\n\"", b'd', b"1\t2\n"),
            ("Sync", b'S', b""),
            ("Message Q 53454c00", b'Q', b"SEL\0"),
        ];
        for (line, kind, body) in rows {
            assert_eq!(client_message(line), Ok((*kind, body.to_vec())), "{line}");
        }
    }

    #[test]
    fn refusals() {
        for (line, words) in [
            ("Qery x", "\"Qery\" is no message"),
            ("Execute p x", "\"x\" is no number"),
            ("Message QQ 00", "no message type"),
            ("Message Q 0g", "hexadecimal"),
            ("Message Q 000", "hexadecimal"),
        ] {
            let error = client_message(line).unwrap_err().to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
