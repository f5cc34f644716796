//! Where a statement, or the body of a function, changes rows: verbs and their targets.

use super::lexer::TokenKind;
use super::statement::StatementTokens;
use crate::catalog::WriteEvent;

/// A row-changing verb of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verb {
    /// `None` for MERGE.
    pub event: Option<WriteEvent>,
    /// Index of the token at which the written relation's name starts.
    pub target: usize,
    /// Parentheses around the verb.
    pub depth: usize,
}

/// Every place from token `from` on where a row-changing verb has a target.
#[must_use]
pub fn verbs(s: &StatementTokens<'_>, from: usize) -> Vec<Verb> {
    let mut verbs = Vec::new();
    let mut depth = 0_usize;
    for index in from..s.tokens.len() {
        match s.kind(index) {
            Some(TokenKind::OpenParen) => depth += 1,
            Some(TokenKind::CloseParen) => depth = depth.saturating_sub(1),
            _ => {}
        }
        if s.kind(index) != Some(TokenKind::Word) {
            continue;
        }
        let verb = if s.are_words(index, &["insert", "into"]) {
            Some((Some(WriteEvent::Insert), index + 2))
        } else if s.are_words(index, &["delete", "from"]) {
            Some((Some(WriteEvent::Delete), index + 2))
        } else if s.are_words(index, &["merge", "into"]) {
            Some((None, index + 2))
        } else if s.is_word(index, "update") && is_verb_update(s, index) {
            Some((Some(WriteEvent::Update), index + 1))
        } else {
            None
        };
        if let Some((event, mut target)) = verb {
            target += usize::from(s.is_word(target, "only") && only_is_keyword(s, target));
            target += usize::from(s.kind(target) == Some(TokenKind::OpenParen));
            verbs.push(Verb { event, target, depth });
        }
    }
    verbs
}

/// UPDATE also stands in ON CONFLICT DO UPDATE, FOR UPDATE, FOR NO KEY UPDATE, ON UPDATE, and behind
/// THEN: of MERGE (`THEN UPDATE SET`), but of IF in PL/pgSQL too (`THEN UPDATE t SET`).
fn is_verb_update(s: &StatementTokens<'_>, index: usize) -> bool {
    let Some(before) = index.checked_sub(1) else { return true };
    if s.is_word(before, "then") {
        return !s.is_word(index + 1, "set") || s.is_word(index + 2, "set");
    }
    if s.is_word(before, "for") && before.checked_sub(1).is_some_and(|at| names_cursor(s, at)) {
        // PL/pgSQL: `c CURSOR (a int) FOR UPDATE t SET …`.
        return !s.is_any(index + 1, BEHIND_ROW_LOCK) && s.is_name(index + 1);
    }
    !s.is_any(before, &["do", "for", "key", "on"]) && s.kind(before) != Some(TokenKind::Dot)
}

/// What may stand behind FOR UPDATE, the row lock.
const BEHIND_ROW_LOCK: &[&str] = &[
    "of",
    "nowait",
    "skip",
    "for",
    "limit",
    "offset",
    "fetch",
    "loop",
    "into",
    "returning",
    "union",
    "intersect",
    "except",
    "on",
];

/// The end of a cursor's declaration: CURSOR, or its parameters.
fn names_cursor(s: &StatementTokens<'_>, at: usize) -> bool {
    s.is_word(at, "cursor") || s.kind(at) == Some(TokenKind::CloseParen)
}

/// ONLY is reserved: an unquoted `only` before a name or parenthesis is the keyword.
fn only_is_keyword(s: &StatementTokens<'_>, index: usize) -> bool {
    s.is_name(index + 1) || s.kind(index + 1) == Some(TokenKind::OpenParen)
}
