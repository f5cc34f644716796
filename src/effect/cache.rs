//! The bounded memory of analyses, by text. One belongs to one catalog: a new catalog starts empty.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::keys::KnownKeys;
use super::{Analysis, AnalysisContext, EffectSettings, analyze};
use crate::catalog::Catalog;
use crate::limits;

/// A catalog together with the analyses that were made with it.
#[derive(Debug)]
pub struct Analyzer {
    /// The catalog.
    pub catalog: Catalog,
    /// Pairs that readers can see.
    pub keys: KnownKeys,
    settings: EffectSettings,
    remembered: Cache<(bool, Box<[u8]>), Arc<Analysis>>,
}

/// A key that is compared without being copied.
#[derive(Hash)]
struct Key<'a>(bool, &'a [u8]);

impl quick_cache::Equivalent<(bool, Box<[u8]>)> for Key<'_> {
    fn equivalent(&self, key: &(bool, Box<[u8]>)) -> bool {
        self.0 == key.0 && self.1 == &*key.1
    }
}

impl Analyzer {
    /// Of a catalog; nothing is remembered yet.
    #[must_use]
    pub fn new(catalog: Catalog, settings: EffectSettings) -> Self {
        let remembered = Cache::new(limits::REMEMBERED_TEXTS_MAX);
        Self { catalog, keys: KnownKeys::default(), settings, remembered }
    }

    /// What an operator configured.
    #[must_use]
    pub const fn settings(&self) -> &EffectSettings {
        &self.settings
    }

    /// Texts that are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.remembered.len()
    }

    /// The analysis of a text, remembered if it is not too long.
    #[must_use]
    pub fn analyze(&self, text: &[u8], standard_conforming_strings: bool) -> Arc<Analysis> {
        let context = AnalysisContext { catalog: &self.catalog, settings: &self.settings, standard_conforming_strings };
        if text.len() > limits::REMEMBERED_TEXT_BYTES_MAX {
            return Arc::new(analyze(&context, text));
        }
        if let Some(analysis) = self.remembered.get(&Key(standard_conforming_strings, text)) {
            return analysis;
        }
        let analysis = Arc::new(analyze(&context, text));
        self.remembered.insert((standard_conforming_strings, text.into()), Arc::clone(&analysis));
        analysis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_up_to_its_limits() {
        let analyzer = Analyzer::new(Catalog::default(), EffectSettings::default());
        let first = analyzer.analyze(b"SELECT 1", true);
        assert!(Arc::ptr_eq(&first, &analyzer.analyze(b"SELECT 1", true)));
        assert!(!Arc::ptr_eq(&first, &analyzer.analyze(b"SELECT 1", false)));

        let long = [b' '; limits::REMEMBERED_TEXT_BYTES_MAX + 1];
        assert!(!Arc::ptr_eq(&analyzer.analyze(&long, true), &analyzer.analyze(&long, true)));

        for number in 0..limits::REMEMBERED_TEXTS_MAX + 100 {
            drop(analyzer.analyze(format!("SELECT {number}").as_bytes(), true));
        }
        assert!(analyzer.remembered() <= limits::REMEMBERED_TEXTS_MAX);
    }
}
