//! Logs. Levels: error = somebody has to act, warn = something is not as it should be, info = start,
//! stop, and changes of state, debug = each connection, trace = for developers. No SQL text, no
//! parameters, no passwords at any level.

use std::io::{self, IsTerminal as _, Write};

use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// Starts logging to standard error.
///
/// # Errors
/// What is wrong with the filter, or that logging was started before.
pub fn start(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("log filter {filter:?}: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| OneLine(io::stderr()));
    let started = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
    };
    started.map_err(|error| error.to_string())
}

/// Each event is written at once, as one line: names that clients and servers give (a database may be called anything) cannot
/// make another one.
#[derive(Debug)]
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = event.strip_suffix(b"\n").unwrap_or(event);
        // Escape sequences of colours stay.
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t' && *byte != 0x1b) {
            let mut escaped = Vec::with_capacity(event.len() + 16);
            for byte in line {
                match byte {
                    b'\t' | 0x1b => escaped.push(*byte),
                    control if control.is_ascii_control() => escaped.extend(control.escape_ascii()),
                    other => escaped.push(*other),
                }
            }
            escaped.push(b'\n');
            self.0.write_all(&escaped)?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let written = |event: &str| {
            let mut out = OneLine(Vec::new());
            out.write_all(event.as_bytes()).unwrap();
            String::from_utf8(out.0).unwrap()
        };
        assert_eq!(written("INFO all is well database=app\n"), "INFO all is well database=app\n");
        assert_eq!(written("WARN database=a\nERROR forged\r\n"), "WARN database=a\\nERROR forged\\r\n");
        assert_eq!(written("tab\tä €\n"), "tab\tä €\n");
    }
}
