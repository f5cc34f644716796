//! A raw client: messages byte by byte, transcripts as text.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// A connection that speaks bytes.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// One message: type and body.
pub type Message = (u8, Vec<u8>);

pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

/// Parameters in text format.
pub fn bind(portal: &str, statement: &str, parameters: &[&str]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0\0\0").into_bytes();
    body.extend(u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for parameter in parameters {
        body.extend(u32::try_from(parameter.len()).unwrap().to_be_bytes());
        body.extend(parameter.as_bytes());
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

/// One parameter in binary format.
pub fn bind_binary(statement: &str, parameters: &[&[u8]]) -> Vec<u8> {
    let mut body = format!("\0{statement}\0\0\u{1}\0\u{1}").into_bytes();
    body.extend(u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for parameter in parameters {
        body.extend(u32::try_from(parameter.len()).unwrap().to_be_bytes());
        body.extend(*parameter);
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    let mut body = format!("{portal}\0").into_bytes();
    body.extend(rows.to_be_bytes());
    message(b'E', &body)
}

pub fn close(kind: char, name: &str) -> Vec<u8> {
    message(b'C', format!("{kind}{name}\0").as_bytes())
}

pub fn describe(kind: char, name: &str) -> Vec<u8> {
    message(b'D', format!("{kind}{name}\0").as_bytes())
}

pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    message(b'H', b"")
}

/// Parse, Bind and Execute of the unnamed statement.
pub fn unnamed(sql: &str, parameters: &[&str]) -> Vec<u8> {
    [parse("", sql), bind("", "", parameters), execute("", 0)].concat()
}

pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(format!("{name}\0{value}\0").into_bytes());
    }
    body.push(0);
    packet(&body)
}

pub fn packet(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], body].concat()
}

impl Wire {
    /// A TCP connection, nothing sent.
    pub fn dial(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Logged in as postgres.
    pub fn login(port: u16) -> Self {
        let mut wire = Self::dial(port);
        wire.send(&startup(&[("user", "postgres"), ("database", "postgres")]));
        wire.until_ready();
        wire
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Everything up to the end of the stream.
    pub fn rest(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("no end: {error}"),
            _ => bytes,
        }
    }

    pub fn finish_sending(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// The same connection, to send from another thread.
    pub fn second_half(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap(), buffer: Vec::new() }
    }

    /// One byte that is no message (answer to SSLRequest).
    pub fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).unwrap();
        byte[0]
    }

    /// The next message; `None` at the end of the stream.
    pub fn next(&mut self) -> Option<Message> {
        loop {
            if self.buffer.len() >= 5 {
                let length = u32::from_be_bytes(self.buffer[1..5].try_into().unwrap()) as usize + 1;
                if self.buffer.len() >= length {
                    let rest = self.buffer.split_off(length);
                    let whole = std::mem::replace(&mut self.buffer, rest);
                    return Some((whole[0], whole[5..].to_vec()));
                }
            }
            let mut chunk = [0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    /// Messages up to ReadyForQuery.
    pub fn until_ready(&mut self) -> Vec<Message> {
        self.until(b'Z')
    }

    /// Messages up to one of a type, or to the end of the stream.
    pub fn until(&mut self, kind: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.next() {
            let last = message.0 == kind;
            messages.push(message);
            if last {
                break;
            }
        }
        messages
    }

    /// Sends, and returns the transcript up to ReadyForQuery.
    pub fn ask(&mut self, bytes: &[u8]) -> String {
        self.send(bytes);
        transcript(&self.until_ready())
    }

    /// The same for several ReadyForQuery.
    pub fn ask_many(&mut self, bytes: &[u8], ready: usize) -> String {
        self.send(bytes);
        (0..ready).map(|_| transcript(&self.until_ready())).collect::<Vec<_>>().join(" | ")
    }
}

/// Messages as text: type, and of some the part that matters.
pub fn transcript(messages: &[Message]) -> String {
    let words: Vec<String> = messages
        .iter()
        .filter(|(kind, _)| *kind != b'S')
        .map(|(kind, body)| {
            let kind = char::from(*kind);
            match kind {
                'C' => format!("C({})", text(body)),
                'Z' => format!("Z{}", char::from(body[0])),
                'E' | 'N' => format!("{kind}({})", error_words(body)),
                'D' => format!("D({})", row_words(body)),
                _ => kind.to_string(),
            }
        })
        .collect();
    words.join(" ")
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).trim_end_matches('\0').to_owned()
}

/// The columns of a row, in text.
fn row_words(body: &[u8]) -> String {
    let mut rest = &body[2..];
    let mut words = Vec::new();
    while rest.len() >= 4 {
        let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
        rest = &rest[4..];
        if let Ok(length) = usize::try_from(length) {
            words.push(text(&rest[..length]));
            rest = &rest[length..];
        } else {
            words.push("NULL".to_owned());
        }
    }
    words.join(",")
}

/// SQLSTATE, message and position.
fn error_words(body: &[u8]) -> String {
    let mut words = Vec::new();
    for field in body.split(|byte| *byte == 0).filter(|field| !field.is_empty()) {
        if matches!(field[0], b'C' | b'M' | b'P') {
            words.push(text(&field[1..]));
        }
    }
    words.join(" ")
}
