//! SQL text + [`Catalog`](crate::catalog::Catalog) → what the statements do to domains. Pure; knows no bytes of the protocol.
//!
//! Layers, each handing over to the next where it is not *sure* (ARCHITECTURE.md, "Which writes"):
//! tokens ([`lexer`], [`statement`]) split the text and name the targets, the catalog says what
//! a target drags along and which names may lead to writes, [`tenants`] finds the tenants
//! (`sqlparser`). What stays unknown ([`unknown`]) is measured by the server.

pub mod analysis;
pub mod cache;
pub mod classify;
pub mod copy;
mod definitions;
pub mod explain;
pub mod fingerprint;
pub mod keys;
mod keywords;
pub mod lexer;
pub mod statement;
pub mod tenants;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod test_support;
#[cfg(test)]
mod tests;
pub mod unknown;
pub mod verbs;

pub use analysis::{
    Analysis, AnalysisContext, Control, EffectSettings, Forgets, Kind, RowCount, Statement, Tenant, Tenants, Touched,
    Write,
};

use crate::limits;

/// Analyses a text. Never fails: what cannot be said is a value ([`Kind::Measure`]).
#[must_use]
pub fn analyze(context: &AnalysisContext<'_>, text: &[u8]) -> Analysis {
    if text.len() > limits::ANALYZED_TEXT_BYTES_MAX {
        return Analysis::opaque(text.len(), unknown::UnknownReason::TooLong);
    }
    let mut tokens = Vec::new();
    if lexer::lex(text, context.standard_conforming_strings, &mut tokens).is_err() {
        // The server refuses such a text before it runs any of it.
        return Analysis::refused();
    }
    let Some(statements) = statement::split(text, &tokens) else {
        return Analysis::opaque(text.len(), unknown::UnknownReason::UnknownForm);
    };
    Analysis::of(statements.iter().map(|statement| classify::classify(context, statement)).collect())
}
