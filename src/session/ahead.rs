//! Long texts are analysed ahead, on a thread where nobody else waits.

use std::sync::Arc;

use super::Session;
use crate::effect::Analysis;
use crate::effect::cache::Analyzer;
use crate::wire::frontend::{Parse, query_text};
use crate::wire::message_type::frontend;

/// A text that is to be analysed before its message is processed.
#[derive(Debug)]
pub struct LongText {
    analyzer: Arc<Analyzer>,
    text: Box<[u8]>,
    standard_conforming_strings: bool,
}

/// Its analysis.
#[derive(Debug)]
pub struct Ahead {
    of: LongText,
    analysis: Arc<Analysis>,
}

impl LongText {
    /// Takes some 200 ns for each byte.
    #[must_use]
    pub fn analyze(self) -> Ahead {
        let analysis = self.analyzer.analyze(&self.text, self.standard_conforming_strings);
        Ahead { of: self, analysis }
    }
}

impl Session {
    /// The text of the next message, when it is longer than `bytes` and was not analysed yet.
    #[must_use]
    pub fn long_text(&self, message_type: u8, body: &[u8], bytes: usize) -> Option<LongText> {
        if body.len() <= bytes || !self.is_active() {
            return None;
        }
        let text = match message_type {
            frontend::QUERY => query_text(body)?,
            frontend::PARSE => Parse::decode(body).ok()?.sql,
            _ => return None,
        };
        // Once: where the catalog has changed since, it is analysed again in its turn, or that might never end.
        let known = self.ahead.as_ref().is_some_and(|ahead| *ahead.of.text == *text);
        (text.len() > bytes && !known).then(|| LongText {
            analyzer: Arc::clone(&self.view.analyzer),
            text: text.into(),
            standard_conforming_strings: self.settings.standard_conforming_strings,
        })
    }

    /// What [`Session::long_text`] gave, analysed: for the next message.
    pub fn set_ahead(&mut self, ahead: Option<Ahead>) {
        self.ahead = ahead;
    }

    /// The analysis of a text under today's catalog and settings.
    pub(super) fn analysis_of(&self, text: &[u8]) -> Arc<Analysis> {
        let standard_conforming_strings = self.settings.standard_conforming_strings;
        let ahead = self.ahead.as_ref().filter(|Ahead { of, .. }| {
            Arc::ptr_eq(&of.analyzer, &self.view.analyzer)
                && of.standard_conforming_strings == standard_conforming_strings
                && *of.text == *text
        });
        match ahead {
            Some(ahead) => Arc::clone(&ahead.analysis),
            None => self.view.analyzer.analyze(text, standard_conforming_strings),
        }
    }
}
