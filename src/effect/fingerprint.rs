//! A statement's fingerprint: the same for texts that differ in literals, white space, comments and the case
//! of keywords. Says nothing about values, hence may be logged and kept.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::lexer::TokenKind;
use super::statement::StatementTokens;

/// Bytes of the hash that are kept.
const BYTES: usize = 8;

/// 16 hexadecimal digits.
#[must_use]
pub fn fingerprint(s: &StatementTokens<'_>) -> String {
    let mut hash = Sha256::new();
    for (index, token) in s.tokens.iter().enumerate() {
        match token.kind {
            TokenKind::String
            | TokenKind::EscapeString
            | TokenKind::DollarString
            | TokenKind::OtherString
            | TokenKind::Number
            | TokenKind::Parameter => hash.update(b"?"),
            TokenKind::Word => hash.update(s.bytes(index).to_ascii_lowercase()),
            _ => hash.update(s.bytes(index)),
        }
        hash.update(b" ");
    }
    let mut digits = String::with_capacity(2 * BYTES);
    for byte in hash.finalize().iter().take(BYTES) {
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::lexer::lex;

    #[test]
    fn values_do_not_show() {
        let of = |text: &str| {
            let mut tokens = Vec::new();
            lex(text.as_bytes(), true, &mut tokens).unwrap();
            fingerprint(&StatementTokens { text: text.as_bytes(), tokens: &tokens })
        };
        let same = ["SELECT 1, 'a'", "select\n2 ,/* x */ E'\\n'", "Select $1, $$b$$"];
        assert!(same.iter().all(|text| of(text) == of(same[0])), "{:?}", same.map(of));
        for other in ["SELECT 1", "SELECT 1, \"a\"", "SELECT -1, 'a'"] {
            assert_ne!(of(other), of(same[0]), "{other}");
        }
    }
}
