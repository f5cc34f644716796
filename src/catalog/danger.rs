//! Which names may lead to a write of a tracked relation: a fixpoint over function bodies, views,
//! checks, operators, triggers and foreign keys. Pure.
//!
//! A function is dangerous when its body cannot be followed, mentions a dangerous name, or writes a
//! relation that is *guarded*: tracked, or one whose write leads on (a rule, a dangerous trigger
//! function or default, a cascade to a guarded relation). A view, type or operator is dangerous when
//! it mentions what is. Names stand for all schemas: no `search_path` can make the answer wrong.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};

use super::bodies::{Body, operator_word, words};
use super::rows::{CatalogRows, RelationRow};
use super::{Catalog, Cause};
use crate::effect::unknown::UnknownReason;

/// Operators that PostgreSQL looks for by itself (CASE, NULLIF, USING, IN, sorting, LIKE, SIMILAR TO).
const IMPLICIT_OPERATORS: &[&str] = &["=", "<>", "<", "<=", ">", ">=", "~~", "!~~", "~~*", "!~~*", "~", "!~"];

/// Words of what runs when a relation is read or written.
#[derive(Debug, Default)]
struct RelationScan {
    read_words: BTreeSet<String>,
    write_words: BTreeSet<String>,
}

/// Everything that a catalog's rows say in words, found once.
#[derive(Debug)]
pub struct Graph<'a> {
    rows: &'a CatalogRows,
    bodies: Vec<Body>,
    scans: Vec<RelationScan>,
    type_words: Vec<BTreeSet<String>>,
    by_oid: HashMap<u32, usize>,
    by_name: HashMap<&'a str, Vec<usize>>,
    /// Indexes of all relations below each relation.
    below: HashMap<u32, BTreeSet<usize>>,
    /// Relations (by index) that belong to a domain, with its family.
    tracked: HashSet<usize>,
}

/// What is dangerous.
#[derive(Debug, Default)]
pub struct Danger {
    /// Names, with the reason that `UnknownReason` gives.
    pub names: HashMap<String, UnknownReason>,
    /// Where the danger of a name comes from.
    pub causes: HashMap<String, Cause>,
    /// Relations by index: a write of them is more than the row that is written.
    guarded: HashSet<usize>,
}

impl<'a> Graph<'a> {
    /// Scans all texts.
    #[must_use]
    pub fn new(rows: &'a CatalogRows, domains: &HashMap<u32, BTreeSet<String>>) -> Self {
        let by_oid: HashMap<u32, usize> =
            rows.relations.iter().enumerate().map(|(index, row)| (row.oid, index)).collect();
        let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, row) in rows.relations.iter().enumerate() {
            by_name.entry(&row.name).or_default().push(index);
        }
        let tracked = rows.relations.iter().enumerate();
        let tracked = tracked
            .filter(|(_, row)| domains.get(&row.oid).is_some_and(|domains| !domains.is_empty()))
            .map(|(index, _)| index)
            .collect();
        Self {
            rows,
            bodies: rows.functions.iter().map(|function| Body::of(function, &rows.tenant_column)).collect(),
            scans: rows
                .relations
                .iter()
                .map(|row| RelationScan {
                    read_words: words(&row.read_expressions).unwrap_or_default(),
                    write_words: words(&row.write_expressions).unwrap_or_default(),
                })
                .collect(),
            type_words: rows.type_checks.iter().map(|(_, check)| words(check).unwrap_or_default()).collect(),
            below: below(rows, &by_oid),
            by_oid,
            by_name,
            tracked,
        }
    }

    /// Indexes of a relation and all that is stored below it.
    pub fn family(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        let oid = self.rows.relations.get(index).map(|row| row.oid);
        let below = oid.and_then(|oid| self.below.get(&oid));
        std::iter::once(index).chain(below.into_iter().flatten().copied())
    }

    /// Functions whose language or text cannot be read.
    pub fn unreadable(&self) -> impl Iterator<Item = &str> {
        let named = self.rows.functions.iter().zip(&self.bodies);
        named.filter(|(_, body)| body.unreadable).map(|(function, _)| function.name.as_str())
    }

    /// Spreads danger from what writes to what mentions it, until nothing changes.
    #[must_use]
    pub fn danger(&self, given: &[&str]) -> Danger {
        let mut danger = Danger::default();
        for name in given {
            danger.add(name, UnknownReason::FunctionCall, || Cause::Opaque("SQL that it is given".into()));
        }
        loop {
            let before = danger.names.len() + danger.guarded.len();
            self.spread_to_functions(&mut danger);
            self.spread_to_mentions(&mut danger);
            self.spread_to_relations(&mut danger);
            if danger.names.len() + danger.guarded.len() == before {
                return danger;
            }
        }
    }

    fn spread_to_functions(&self, danger: &mut Danger) {
        for (function, body) in self.rows.functions.iter().zip(&self.bodies) {
            if danger.names.contains_key(&function.name) {
                continue;
            }
            let written = body.targets.iter().find(|(schema, name)| self.is_guarded(danger, schema.as_deref(), name));
            let cause = match (&body.opaque, written) {
                (Some(why), _) => Some(Cause::Opaque(why.clone())),
                (None, Some((_, name))) => Some(Cause::Writes(name.clone())),
                (None, None) => danger.mentioned(&body.words).map(Cause::Mentions),
            };
            if let Some(cause) = cause {
                danger.add(&function.name, UnknownReason::FunctionCall, || cause);
            }
        }
    }

    fn spread_to_mentions(&self, danger: &mut Danger) {
        let views = self.rows.relations.iter().zip(&self.scans);
        for (row, scan) in views {
            if let Some(word) = danger.mentioned(&scan.read_words) {
                danger.add(&row.name, UnknownReason::View, || Cause::Mentions(word));
            }
        }
        for ((name, _), words) in self.rows.type_checks.iter().zip(&self.type_words) {
            if let Some(word) = danger.mentioned(words) {
                danger.add(name, UnknownReason::TypeOrOperator, || Cause::Mentions(word));
            }
        }
        for (symbol, function) in &self.rows.operators {
            if danger.names.contains_key(function) {
                danger.add(&operator_word(symbol), UnknownReason::TypeOrOperator, || Cause::Mentions(function.clone()));
            }
        }
    }

    fn spread_to_relations(&self, danger: &mut Danger) {
        for index in 0..self.rows.relations.len() {
            if !danger.guarded.contains(&index) && self.family(index).any(|member| self.leads_on(danger, member)) {
                danger.guarded.insert(index);
            }
        }
    }

    /// Whether a write of this very relation changes a tracked one, or may.
    fn leads_on(&self, danger: &Danger, index: usize) -> bool {
        let Some(row) = self.rows.relations.get(index) else { return true };
        self.tracked.contains(&index)
            || danger.guarded.contains(&index)
            || !matches!(row.kind, 'r' | 'p' | 'f')
            || row.has_rules
            || self.has_dangerous_expression(danger, index)
            || row.triggers.iter().any(|trigger| danger.names.contains_key(&trigger.function))
            || row.cascades.iter().any(|cascade| self.leads_to(danger, cascade.child))
    }

    /// Whether a cascade into this relation changes a tracked one.
    fn leads_to(&self, danger: &Danger, oid: u32) -> bool {
        self.by_oid.get(&oid).is_none_or(|index| self.tracked.contains(index) || danger.guarded.contains(index))
    }

    /// Whether a name that a function writes stands for a guarded relation, or for none that is known.
    fn is_guarded(&self, danger: &Danger, schema: Option<&str>, name: &str) -> bool {
        let candidates = self.candidates(schema, name);
        candidates.is_empty() || candidates.iter().any(|index| danger.guarded.contains(index))
    }

    /// Relations, by index, that a name in a body may stand for.
    pub(super) fn candidates(&self, schema: Option<&str>, name: &str) -> Vec<usize> {
        let named = self.by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        let candidate = |index: &usize| {
            let row = self.rows.relations.get(*index);
            row.filter(|row| row.temporary || schema.is_none_or(|schema| row.schema == schema)).map(|_| *index)
        };
        named.iter().filter_map(candidate).collect()
    }

    pub(super) const fn relation_count(&self) -> usize {
        self.rows.relations.len()
    }

    /// Functions' names and bodies.
    pub(super) fn named_bodies(&self) -> impl Iterator<Item = (&str, &Body)> {
        self.rows.functions.iter().map(|function| function.name.as_str()).zip(&self.bodies)
    }

    /// Names of views, types and operators, with the words of what they are made of.
    pub(super) fn named_words(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, BTreeSet<String>>)> {
        let views = self.rows.relations.iter().zip(&self.scans);
        let views = views.map(|(row, scan)| (Cow::from(row.name.as_str()), Cow::Borrowed(&scan.read_words)));
        let types = self.rows.type_checks.iter().zip(&self.type_words);
        let types = types.map(|((name, _), words)| (Cow::from(name.as_str()), Cow::Borrowed(words)));
        let operators = self.rows.operators.iter();
        let operators = operators
            .map(|(symbol, function)| (Cow::from(operator_word(symbol)), Cow::Owned([function.clone()].into())));
        views.chain(types).chain(operators)
    }

    /// The relation itself, if it is tracked and the server's counters tell of its rows; `None` where a
    /// write of it may change any.
    pub(super) fn own_reach(&self, index: usize) -> Option<BTreeSet<u32>> {
        let row = self.rows.relations.get(index)?;
        let followed = matches!(row.kind, 'r' | 'p') && !row.has_rules;
        followed.then(|| if self.tracked.contains(&index) { [row.oid].into() } else { BTreeSet::new() })
    }

    /// What a write of this very relation leads to: dangerous names, and relations by index (`None`: one that
    /// is not known).
    pub(super) fn leads<'b>(&'b self, danger: &'b Danger, index: usize) -> (Vec<&'b str>, Vec<Option<usize>>) {
        let Some(row) = self.rows.relations.get(index) else { return (Vec::new(), vec![None]) };
        let triggers = row.triggers.iter().map(|trigger| trigger.function.as_str());
        let words = self.scans.get(index).into_iter().flat_map(|scan| scan.write_words.iter()).map(String::as_str);
        let names = triggers.chain(words).filter(|name| danger.names.contains_key(*name)).collect();
        let children = row.cascades.iter().map(|cascade| self.by_oid.get(&cascade.child).copied()).collect();
        (names, children)
    }

    /// Whether a default, check, index or policy of the relation mentions a dangerous name.
    #[must_use]
    pub fn has_dangerous_expression(&self, danger: &Danger, index: usize) -> bool {
        self.scans.get(index).is_some_and(|scan| danger.mentioned(&scan.write_words).is_some())
    }

    /// The first trigger function that makes a write with one of these events (`pg_trigger.tgtype`)
    /// more than the text says: it may write, or hand the row to another tenant.
    #[must_use]
    pub fn untamed_trigger<'b>(&self, danger: &Danger, row: &'b RelationRow, events: i32) -> Option<&'b str> {
        let untamed = |function: &str| danger.names.contains_key(function);
        let keeps = |function: &str| {
            let named = self.rows.functions.iter().zip(&self.bodies);
            named.filter(|(row, _)| row.name == function).all(|(_, body)| body.keeps_tenant)
        };
        let found = row
            .triggers
            .iter()
            .filter(|trigger| trigger.events & events != 0)
            .find(|trigger| untamed(&trigger.function) || (trigger.is_before_row() && !keeps(&trigger.function)));
        found.map(|trigger| trigger.function.as_str())
    }

    /// The first relation that a DELETE or UPDATE cascades to and that is tracked or leads on.
    #[must_use]
    pub fn cascade_target(&self, danger: &Danger, row: &RelationRow, on_delete: bool) -> Option<&str> {
        let follows =
            row.cascades.iter().filter(|cascade| if on_delete { cascade.on_delete } else { cascade.on_update });
        let child = follows.map(|cascade| cascade.child).find(|child| self.leads_to(danger, *child))?;
        let named = self.by_oid.get(&child).and_then(|index| self.rows.relations.get(*index));
        Some(named.map_or("a relation of the system", |row| row.name.as_str()))
    }

    /// Adds the functions and relations that mention one of `names`, until nothing changes.
    pub fn close_over(&self, names: &mut HashSet<String>) {
        loop {
            let before = names.len();
            for (function, body) in self.rows.functions.iter().zip(&self.bodies) {
                if body.words.iter().any(|word| names.contains(word)) {
                    names.insert(function.name.clone());
                }
            }
            for (row, scan) in self.rows.relations.iter().zip(&self.scans) {
                if scan.read_words.iter().any(|word| names.contains(word)) {
                    names.insert(row.name.clone());
                }
            }
            if names.len() == before {
                return;
            }
        }
    }
}

impl Danger {
    fn add(&mut self, name: &str, reason: UnknownReason, cause: impl FnOnce() -> Cause) {
        if !self.names.contains_key(name) {
            self.names.insert(name.to_owned(), reason);
            self.causes.insert(name.to_owned(), cause());
        }
    }

    /// The first of `words` that is dangerous.
    fn mentioned(&self, words: &BTreeSet<String>) -> Option<String> {
        words.iter().find(|word| self.names.contains_key(*word)).cloned()
    }

    /// Moves what was found into the catalog.
    pub fn publish(self, rows: &CatalogRows, catalog: &mut Catalog) {
        let is_dangerous = |name: &String| self.names.contains_key(name);
        catalog.dangerous_operators = rows
            .operators
            .iter()
            .filter(|(_, function)| is_dangerous(function))
            .map(|(symbol, _)| symbol.clone())
            .collect();
        catalog.implicit_danger = rows.implicit_functions.iter().any(is_dangerous)
            || IMPLICIT_OPERATORS.iter().any(|symbol| catalog.dangerous_operators.contains(*symbol));
        for function in &rows.functions {
            if !is_dangerous(&function.name) {
                catalog.harmless_calls.insert(function.name.clone());
                catalog.harmless_oids.insert(function.oid);
            }
        }
        for name in self.names.keys() {
            catalog.harmless_calls.remove(name);
        }
        catalog.dangerous = self.names;
        catalog.causes = self.causes;
    }
}

/// Indexes of all relations below each relation.
fn below(rows: &CatalogRows, by_oid: &HashMap<u32, usize>) -> HashMap<u32, BTreeSet<usize>> {
    let mut below: HashMap<u32, BTreeSet<usize>> = HashMap::new();
    for (index, row) in rows.relations.iter().enumerate() {
        let mut seen = HashSet::new();
        let mut ancestors = row.parents.clone();
        while let Some(parent) = ancestors.pop() {
            if seen.insert(parent) {
                below.entry(parent).or_default().insert(index);
                let row = by_oid.get(&parent).and_then(|index| rows.relations.get(*index));
                ancestors.extend(row.map(|row| row.parents.as_slice()).unwrap_or_default());
            }
        }
    }
    below
}
