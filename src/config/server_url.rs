//! Connection strings, with the TLS parameters of libpq that tokio-postgres does not know.

use std::path::PathBuf;

use super::ConfigError;

/// `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server has it.
    #[default]
    Prefer,
    /// Always; the certificate is checked only if `sslrootcert` is given.
    Require,
    /// Always, and its certificate is signed by a trusted authority.
    VerifyCa,
    /// The same, and it is that host's.
    VerifyFull,
}

/// How a connection to the server is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerTls {
    /// `sslmode`.
    pub mode: SslMode,
    /// `sslrootcert`: trusted authorities; `system` or none for the system's.
    pub root_cert: Option<PathBuf>,
    /// `sslcert`: our certificate.
    pub cert: Option<PathBuf>,
    /// `sslkey`: its key.
    pub key: Option<PathBuf>,
    /// `sslnegotiation=direct`: TLS at once, without SSLRequest (PostgreSQL 17).
    pub direct: bool,
}

/// A server and how to talk to it.
#[derive(Debug, Clone)]
pub struct ServerUrl {
    /// Host, port, user, password, database.
    pub config: tokio_postgres::Config,
    /// Encryption.
    pub tls: ServerTls,
}

/// Parses a connection string, as a URL or as `key=value` pairs; the words of the error never hold the password.
///
/// # Errors
/// [`ConfigError::Value`].
pub fn parse_server(key: &'static str, text: &str) -> Result<ServerUrl, ConfigError> {
    // Where a password ends in a string that cannot be read, nobody knows: none of it is shown.
    let refused = |reason: String| ConfigError::Value { key, value: "(not shown)".into(), reason };
    let (rest, parameters) = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        split_url(text)
    } else {
        split_pairs(text).ok_or_else(|| refused("it is no connection string".into()))?
    };
    let tls = server_tls(&parameters).map_err(refused)?;
    let mut config: tokio_postgres::Config =
        rest.parse().map_err(|error: tokio_postgres::Error| refused(why_unreadable(&error)))?;
    let is_socket = matches!(config.get_hosts(), [tokio_postgres::config::Host::Unix(_)]);
    let tls = if is_socket { ServerTls { mode: SslMode::Disable, ..tls } } else { tls };
    config.ssl_mode(match tls.mode {
        SslMode::Disable => tokio_postgres::config::SslMode::Disable,
        SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
    });
    if tls.direct {
        config.ssl_negotiation(tokio_postgres::config::SslNegotiation::Direct);
    }
    match config.get_hosts().len() {
        1 => Ok(ServerUrl { config, tls }),
        0 => Err(refused("it names no host".into())),
        _ => Err(refused("it names several hosts; give one".into())),
    }
}

/// What is wrong, without a word of the string: what is taken for an option may be a part of the password.
fn why_unreadable(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    let words = error.source().map(ToString::to_string).unwrap_or_default();
    if words.starts_with("invalid value for option") {
        return words;
    }
    "it cannot be read: special characters in a URL are percent-encoded (@ is %40), values with spaces stand in quotes"
        .into()
}

/// Parameters that are ours.
const OURS: [&str; 5] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "sslnegotiation"];

type Parameters = Vec<(String, String)>;

fn split_url(url: &str) -> (String, Parameters) {
    let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), Vec::new()) };
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (ours, others): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|pair| OURS.contains(&pair.split('=').next().unwrap_or_default()));
    let ours =
        ours.into_iter().filter_map(|pair| pair.split_once('=')).map(|(key, value)| (decode(key), decode(value)));
    let rest = if others.is_empty() { base.to_owned() } else { format!("{base}?{}", others.join("&")) };
    (rest, ours.collect())
}

/// `key = value` pairs; a value may stand between quotes, and a backslash takes the next character as it is.
fn split_pairs(text: &str) -> Option<(String, Parameters)> {
    let mut rest = String::new();
    let mut ours = Vec::new();
    let mut characters = text.chars().peekable();
    loop {
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        if characters.peek().is_none() {
            return Some((rest, ours));
        }
        let mut key = String::new();
        while let Some(c) = characters.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        characters.next_if_eq(&'=')?;
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = characters.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match characters.next_if(|c| quoted || !c.is_whitespace()) {
                Some('\\') => value.push(characters.next()?),
                Some('\'') if quoted => break,
                Some(c) => value.push(c),
                None if quoted => return None,
                None => break,
            }
        }
        if OURS.contains(&key.as_str()) {
            ours.push((key, value));
        } else {
            let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
            rest.push_str(&format!("{key}='{escaped}' "));
        }
    }
}

fn server_tls(parameters: &[(String, String)]) -> Result<ServerTls, String> {
    let mut tls = ServerTls::default();
    for (key, value) in parameters {
        let path = || Some(PathBuf::from(value)).filter(|path| !path.as_os_str().is_empty());
        match key.as_str() {
            "sslmode" => {
                tls.mode = match value.as_str() {
                    "disable" => SslMode::Disable,
                    "prefer" => SslMode::Prefer,
                    "require" => SslMode::Require,
                    "verify-ca" => SslMode::VerifyCa,
                    "verify-full" => SslMode::VerifyFull,
                    other => {
                        return Err(format!(
                            "sslmode={other}: expected disable, prefer, require, verify-ca or verify-full"
                        ));
                    }
                }
            }
            "sslrootcert" => tls.root_cert = path(),
            "sslcert" => tls.cert = path(),
            "sslkey" => tls.key = path(),
            _ => {
                tls.direct = match value.as_str() {
                    "direct" => true,
                    "postgres" => false,
                    other => return Err(format!("sslnegotiation={other}: expected postgres or direct")),
                }
            }
        }
    }
    if tls.cert.is_some() != tls.key.is_some() {
        return Err("sslcert and sslkey go together".into());
    }
    if tls.direct && matches!(tls.mode, SslMode::Disable | SslMode::Prefer) {
        return Err("sslnegotiation=direct needs sslmode=require or more".into());
    }
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let tls = |mode, root: Option<&str>, direct| ServerTls {
            mode,
            root_cert: root.map(PathBuf::from),
            direct,
            ..ServerTls::default()
        };
        let rows = [
            ("postgres://u@h/d", tls(SslMode::Prefer, None, false)),
            ("postgres://u@h/d?sslmode=disable", tls(SslMode::Disable, None, false)),
            (
                "postgresql://u@h/d?application_name=x&sslmode=verify-full&sslrootcert=%2Fa%20b.pem",
                tls(SslMode::VerifyFull, Some("/a b.pem"), false),
            ),
            ("host=h user=u sslmode=verify-ca sslrootcert=system", tls(SslMode::VerifyCa, Some("system"), false)),
            (
                "host = h  sslmode = 'require' sslnegotiation=direct password='a \\' b'",
                tls(SslMode::Require, None, true),
            ),
            // Unix sockets carry no TLS.
            ("host=/run/postgresql user=u sslmode=require", tls(SslMode::Disable, None, false)),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_server("server", text).unwrap().tls, expected, "{text}");
        }
        let parsed = parse_server("server", "host=h password='a \\' \\\\ b' user=u sslmode=disable").unwrap();
        assert_eq!(parsed.config.get_password(), Some(&b"a ' \\ b"[..]));
        for text in [
            "postgres://u:secret@h/d?sslmode=allow",
            "postgres://u:secret@h/d?sslmode=",
            "postgres://u:secret@h/d?sslcert=a",
            "postgres://u:secret@h/d?sslnegotiation=direct",
            "host=h password=secret sslnegotiation=x",
            "host=h password='secret",
            "host",
        ] {
            let error = parse_server("server", text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
