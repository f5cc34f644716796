//! Definitions: which change what other statements do, and which concern nobody.

use std::collections::BTreeSet;

use super::analysis::{Kind, RowCount, Tenants, Touched, Write};
use super::classify::Classifier;
use super::unknown::UnknownReason;
use super::verbs::verbs;
use crate::catalog::rows::domain_of_table_name;

/// Tokens of CREATE SCHEMA IF NOT EXISTS name AUTHORIZATION role, at most: nothing else is made by it.
const SCHEMA_ALONE: usize = 8;

impl Classifier<'_> {
    /// DROP: what it names is gone when the server could measure it.
    pub(super) fn definition(&self) -> Kind {
        let s = self.statement;
        let names: BTreeSet<String> = (1..s.tokens.len()).filter_map(|index| s.name(index)).collect();
        // A temporary one, or one that is new: only the server knows which.
        let catalog = self.context.catalog;
        let unsure = |name: &String| {
            catalog.temporary.contains(name)
                || (domain_of_table_name(name).is_some() && !catalog.relations.contains_key(name))
        };
        if names.iter().any(unsure) {
            return Kind::Measure(UnknownReason::Definition);
        }
        let domains: BTreeSet<String> = names.iter().flat_map(|name| self.domains_of(name)).collect();
        let touched: Vec<_> = domains
            .into_iter()
            .map(|domain| Touched { domain, tenants: Tenants::All, rule: "definition of the relation" })
            .collect();
        if touched.is_empty()
            // What else it takes away, columns of other relations too, only the server knows.
            || self.has_words(&["cascade"])
            || names.iter().any(|name| self.has_other_parts(name))
            || !(s.is_any(1, &["table", "materialized"]) || s.are_words(1, &["foreign", "table"]))
            || self.context.catalog.event_triggers
        {
            return Kind::Measure(UnknownReason::Definition);
        }
        Kind::Write(Write { touched, rows: RowCount::NotZero, leaves_no_trace_without_rows: true, copy: None })
    }

    /// Partitioned, and more may be said of its parts than of itself: they go with it.
    fn has_other_parts(&self, name: &str) -> bool {
        let candidates = self.context.catalog.candidates(None, name);
        candidates.iter().any(|relation| relation.parted && relation.insert_unknown.is_some())
    }

    /// Domains of a name.
    fn domains_of(&self, name: &str) -> Vec<String> {
        let candidates = self.context.catalog.candidates(None, name);
        candidates.iter().flat_map(|relation| relation.domains.iter().cloned()).collect()
    }

    pub(super) fn is_ddl(&self) -> bool {
        let s = self.statement;
        let temporary = (1..=3).find(|index| s.is_any(*index, &["temp", "temporary"]));
        if let Some(at) = temporary.filter(|_| s.is_word(0, "create")) {
            // A name that hides a relation makes a difference, and a view whose reading does more than read.
            return s.is_any(at + 1, &["view", "recursive"]) || self.names_relation();
        }
        // Roles matter to readers, not to what statements write.
        if self.defines_role() || (s.is_word(0, "drop") && s.is_any(1, &["role", "group"])) {
            return false;
        }
        // What a session makes for itself is in no catalog: see `name_danger`.
        let function = (1..=3).find(|index| s.is_any(*index, &["function", "procedure"]));
        if s.is_word(0, "create")
            && function.and_then(|at| s.name(at + 1)).is_some_and(|schema| schema.starts_with("pg_temp"))
        {
            return false;
        }
        s.is_any(0, &["create", "alter", "drop", "import", "reassign"])
            || (s.is_word(0, "select") && self.selects_into())
            || self.writes_own_tables()
    }

    /// A definition on which no other statement's analysis depends, and that shows no reader anything else: new tables and
    /// sequences, indexes, comments, what goes and was not tracked. The catalog is read again in its time.
    pub(super) fn concerns_nobody(&self) -> bool {
        let s = self.statement;
        if self.context.catalog.event_triggers {
            return false;
        }
        match () {
            () if s.is_word(0, "comment") => true,
            () if self.defines_role() => {
                let told = ["superuser", "nosuperuser", "bypassrls", "nobypassrls", "inherit", "noinherit"];
                let more = ["in", "role", "user", "group", "admin", "set", "reset", "rename", "add", "drop"];
                !(2..s.tokens.len()).any(|index| s.is_any(index, &told) || s.is_any(index, &more))
            }
            () if s.is_any(0, &["create", "alter"]) && s.is_word(1, "sequence") => true,
            () if s.are_words(0, &["create", "schema"]) => s.tokens.len() <= SCHEMA_ALONE,
            () if s.is_word(0, "create") && self.index_target().is_some() => self.danger(self.index_target()).is_none(),
            () if s.is_word(0, "create") => self.new_table().is_some_and(|at| self.is_plain_table(at)),
            () if s.is_word(0, "drop") && s.is_any(1, &["table", "index", "sequence"]) => {
                !self.has_words(&["cascade"])
                    && (2..s.tokens.len()).filter_map(|index| s.name(index)).all(|name| !self.is_tracked(&name))
            }
            () => false,
        }
    }

    /// CREATE or ALTER of a role; "user mapping" is none.
    fn defines_role(&self) -> bool {
        let s = self.statement;
        s.is_any(0, &["create", "alter"]) && s.is_any(1, &["role", "user", "group"]) && !s.is_word(2, "mapping")
    }

    /// Where the name of the relation stands that an index is made on.
    fn index_target(&self) -> Option<usize> {
        let s = self.statement;
        let index = (1..=2).find(|index| s.is_word(*index, "index"))?;
        let on = s.find_top(index, |s, at| s.is_word(at, "on"))?;
        Some(on + 1 + usize::from(s.is_word(on + 1, "only")))
    }

    /// Where the name of a table stands that CREATE TABLE makes.
    fn new_table(&self) -> Option<usize> {
        let s = self.statement;
        let table = (1..=3).find(|index| s.is_word(*index, "table"))?;
        (1..table)
            .all(|index| s.is_any(index, &["global", "local", "temp", "temporary", "unlogged"]))
            .then(|| table + if s.are_words(table + 1, &["if", "not", "exists"]) { 4 } else { 1 })
    }

    /// Nobody's name, nothing that it shares with others, nothing that runs.
    fn is_plain_table(&self, at: usize) -> bool {
        let s = self.statement;
        let catalog = self.context.catalog;
        let Some(name) = s.qualified_name(at) else { return false };
        let shared = ["references", "inherits", "partition", "of", "like", "execute"];
        !self.is_tracked(&name.name)
            && !catalog.knows(&name.name)
            && !catalog.asks_policies
            && !self.words.iter().any(|&index| s.is_any(index, &shared))
            && verbs(s, 0).is_empty()
            && self.danger(Some(at)).is_none()
    }

    /// Tracked, or it would be if it were made.
    pub(super) fn is_tracked(&self, name: &str) -> bool {
        let catalog = self.context.catalog;
        domain_of_table_name(name).is_some()
            || catalog.domain_tables.contains(name)
            || catalog.candidates(None, name).iter().any(|relation| !relation.domains.is_empty())
    }

    fn names_relation(&self) -> bool {
        let s = self.statement;
        let known = |name: String| self.context.catalog.relations.contains_key(&name);
        (1..s.tokens.len()).filter_map(|index| s.name(index)).any(known)
    }

    /// A change of the tables that hold our configuration changes the catalog too.
    fn writes_own_tables(&self) -> bool {
        let s = self.statement;
        if !s.is_any(0, &["insert", "update", "delete", "merge", "truncate", "copy", "with"]) {
            return false;
        }
        self.words
            .iter()
            .any(|&index| s.name(index).is_some_and(|name| name == "tb_domain_cascade" || name == "tb_domain_table"))
    }
}
