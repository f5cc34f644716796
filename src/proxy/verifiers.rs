//! Where SCRAM verifiers come from: a file, or a query on the control connection.

use std::path::Path;

use crate::auth::scram::Verifier;
use crate::catalog::control::{ControlError, ControlPool};
use crate::config::Verifiers;
use crate::limits;

/// Why nobody can tell a verifier.
#[derive(Debug, thiserror::Error)]
pub enum VerifierError {
    /// The file cannot be read.
    #[error("auth.verifiers_file {path}: {reason}")]
    File {
        /// Path.
        path: String,
        /// Why.
        reason: String,
    },
    /// The query failed.
    #[error("auth.verifiers_query: {0}")]
    Query(#[from] ControlError),
}

/// The source that the configuration names. Asked at each login: a changed password works at once.
#[derive(Debug)]
pub struct Source {
    from: Verifiers,
    pool: ControlPool,
}

impl Source {
    /// A source; `pool` is asked where it is a query.
    #[must_use]
    pub const fn new(from: Verifiers, pool: ControlPool) -> Self {
        Self { from, pool }
    }

    /// The verifier of a role; `None` for a role that is not known, or has no SCRAM verifier.
    ///
    /// # Errors
    /// [`VerifierError`].
    pub async fn verifier(&self, role: &str) -> Result<Option<Verifier>, VerifierError> {
        let found = match &self.from {
            Verifiers::File(path) => find(&read(path).await?, role),
            Verifiers::Query(query) => self.ask(query, role).await?,
        };
        Ok(found.and_then(|text| Verifier::parse(&text)))
    }

    async fn ask(&self, query: &str, role: &str) -> Result<Option<String>, ControlError> {
        let client = self.pool.get().await?;
        let row = client.query_opt(query, &[&role]).await?;
        row.map_or(Ok(None), |row| row.try_get(0).map_err(ControlError::from))
    }
}

async fn read(path: &Path) -> Result<String, VerifierError> {
    let refused = |reason: String| VerifierError::File { path: path.display().to_string(), reason };
    let size = tokio::fs::metadata(path).await.map_err(|error| refused(error.to_string()))?.len();
    if size > limits::VERIFIERS_FILE_BYTES_MAX {
        return Err(refused(format!("larger than {} bytes", limits::VERIFIERS_FILE_BYTES_MAX)));
    }
    tokio::fs::read_to_string(path).await.map_err(|error| refused(error.to_string()))
}

/// `"role" "verifier"` a line, as PgBouncer's `auth_file`; a quote in a name is doubled; `;` begins a comment.
fn find(text: &str, role: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, rest) = quoted(line.trim_start())?;
        let (verifier, _) = quoted(rest.trim_start())?;
        (name == role).then_some(verifier)
    })
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut value = String::new();
    loop {
        let (part, behind) = rest.split_once('"')?;
        value.push_str(part);
        match behind.strip_prefix('"') {
            Some(more) => {
                value.push('"');
                rest = more;
            }
            None => return Some((value, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_rows() {
        let file = "; comment\n\"a\" \"md5x\"\n\n  \"b \"\"c\"\"\"   \"SCRAM\" \"more\"\n\"open\nplain text\n";
        let rows = [("a", Some("md5x")), ("b \"c\"", Some("SCRAM")), ("open", None), ("", None), ("plain", None)];
        for (role, expected) in rows {
            assert_eq!(find(file, role).as_deref(), expected, "{role}");
        }
    }
}
