//! How far a dangerous name leads: the tracked relations that a statement which mentions it may write.
//! A measurement then looks at those, instead of all. Pure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Cause;
use super::danger::{Danger, Graph};

/// Tracked relations, by OID; `None`: any.
type Relations = Option<BTreeSet<u32>>;

/// What names and relations lead to.
#[derive(Debug, Default)]
pub struct Reached {
    names: HashMap<String, Relations>,
    relations: Vec<Relations>,
}

impl Reached {
    /// Of a write of relation `index`.
    #[must_use]
    pub fn of_relation(&self, index: usize) -> Option<super::Reach> {
        self.relations.get(index)?.clone().map(Arc::new)
    }

    /// Of the mention of names; those that lead anywhere are left out.
    #[must_use]
    pub fn into_names(self) -> HashMap<String, super::Reach> {
        self.names.into_iter().filter_map(|(name, relations)| Some((name, Arc::new(relations?)))).collect()
    }
}

/// Adds what `more` leads to.
fn extend(to: &mut Relations, more: Option<&Relations>) {
    match (to.as_mut(), more) {
        (_, Some(None)) => *to = None,
        (Some(to), Some(Some(more))) => to.extend(more),
        // Not found to be dangerous: leads nowhere.
        (None, _) | (_, None) => {}
    }
}

impl Graph<'_> {
    /// A fixpoint: what is reached only grows.
    #[must_use]
    pub fn reach(&self, danger: &Danger) -> Reached {
        let mut reached = Reached {
            names: HashMap::new(),
            relations: (0..self.relation_count()).map(|index| self.own_reach(index)).collect(),
        };
        loop {
            let names = self.names_step(danger, &reached);
            let relations = self.relations_step(danger, &reached);
            let done = names == reached.names && relations == reached.relations;
            (reached.names, reached.relations) = (names, relations);
            if done {
                return reached;
            }
        }
    }

    /// Each dangerous name with what its meanings (functions, views, types, operators) mention and write.
    fn names_step(&self, danger: &Danger, reached: &Reached) -> HashMap<String, Relations> {
        let mut names: HashMap<String, Relations> = HashMap::new();
        let mentions = |relations: &mut Relations, words: &BTreeSet<String>| {
            for word in words.iter().filter(|word| danger.names.contains_key(*word)) {
                extend(relations, reached.names.get(word));
            }
        };
        for (name, body) in self.named_bodies().filter(|(name, _)| danger.names.contains_key(*name)) {
            let relations = names.entry(name.to_owned()).or_insert_with(|| Some(BTreeSet::new()));
            if body.opaque.is_some() {
                *relations = None;
            }
            mentions(relations, &body.words);
            for (schema, target) in &body.targets {
                let candidates = self.candidates(schema.as_deref(), target);
                if candidates.is_empty() {
                    *relations = None;
                }
                candidates.iter().for_each(|index| extend(relations, reached.relations.get(*index)));
            }
        }
        for (name, words) in self.named_words().filter(|(name, _)| danger.names.contains_key(&**name)) {
            mentions(names.entry(name.into_owned()).or_insert_with(|| Some(BTreeSet::new())), &words);
        }
        // Names that are dangerous by themselves (functions that run SQL they are given).
        for (name, cause) in &danger.causes {
            let relations = names.entry(name.clone()).or_insert(None);
            if matches!(cause, Cause::Opaque(_)) {
                *relations = None;
            }
        }
        names
    }

    /// Each relation with its parts, triggers, expressions and cascades.
    fn relations_step(&self, danger: &Danger, reached: &Reached) -> Vec<Relations> {
        let one = |index: usize| {
            let mut relations = self.own_reach(index);
            for member in self.family(index) {
                extend(&mut relations, Some(&self.own_reach(member)));
                let (names, children) = self.leads(danger, member);
                for name in names {
                    extend(&mut relations, Some(reached.names.get(name).unwrap_or(&None)));
                }
                for child in children {
                    extend(&mut relations, Some(child.and_then(|child| reached.relations.get(child)).unwrap_or(&None)));
                }
            }
            relations
        };
        (0..self.relation_count()).map(one).collect()
    }
}
