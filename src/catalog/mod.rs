//! What the database knows and a statement's text does not say: which relations belong to which
//! domain, what a write drags along, which functions may write.
//!
//! [`Catalog`] is an immutable value, built by [`rows`] (pure) from what [`loader`] (shell) read.
//! It knows names, not sessions: a bare name stands for every relation or function of that name in
//! any schema, so that no `search_path` can make an answer wrong, only less precise. What functions and
//! triggers do is followed through their bodies ([`bodies`], [`danger`]).

pub mod bodies;
pub mod control;
pub mod danger;
pub mod loader;
pub mod reach;
pub mod reading;
pub mod rows;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::effect::unknown::UnknownReason;

/// Data type of a tenant column, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantType {
    /// `uuid`: values in binary format are 16 bytes.
    Uuid,
    /// `text`, `varchar`, `char`: values that read as a uuid name a tenant.
    Text,
    /// Any other type: its values are no tenants that a reader could ask for.
    Other,
}

/// The tenant column of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantColumn {
    /// Position among the columns, from 0, dropped columns not counted.
    pub ordinal: usize,
    /// Type.
    pub data_type: TenantType,
}

/// The three ways to change rows, as trigger events know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteEvent {
    /// INSERT, COPY FROM.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
}

/// A relation that statements can write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relation {
    /// Schema.
    pub schema: String,
    /// Domains that a write of this relation touches, sorted; empty for an untracked relation.
    pub domains: Vec<String>,
    /// Column names in order, for INSERT without a column list.
    pub columns: Vec<String>,
    /// Tenant column.
    pub tenant: Option<TenantColumn>,
    /// Why an INSERT does more than the text says.
    pub insert_unknown: Option<UnknownReason>,
    /// Why an UPDATE does more than the text says.
    pub update_unknown: Option<UnknownReason>,
    /// Why a DELETE does more than the text says.
    pub delete_unknown: Option<UnknownReason>,
    /// A column default takes a value from a sequence: an INSERT that inserts nothing may still
    /// assign a transaction id.
    pub has_sequence: bool,
    /// It has generated columns, or columns of unknown order.
    pub has_generated: bool,
    /// Tracked relations that a write of it may change; `None`: any.
    pub reach: Option<Reach>,
    /// Partitioned.
    pub parted: bool,
    /// A trigger may refuse rows that the statement names.
    pub may_skip_rows: bool,
    /// A statement that changes no row may still write: by a trigger of the statement, or before a row.
    pub leaves_traces: bool,
    /// What makes a write of it more than the text says: trigger functions, relations that foreign
    /// keys cascade to. For `explain`.
    pub drags: Vec<String>,
    /// A foreign table: the server's counters and transaction ids say nothing about its rows.
    pub foreign: bool,
}

impl Relation {
    /// Why a write does more than the text says; `None` when it touches just this relation.
    #[must_use]
    pub const fn unknown(&self, event: WriteEvent) -> Option<UnknownReason> {
        match event {
            WriteEvent::Insert => self.insert_unknown,
            WriteEvent::Update => self.update_unknown,
            WriteEvent::Delete => self.delete_unknown,
        }
    }
}

/// Where the danger of a name comes from, for `explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It writes this relation.
    Writes(String),
    /// It mentions this dangerous name.
    Mentions(String),
    /// What it does cannot be followed: a statement, a language.
    Opaque(String),
}

/// Tracked relations, by OID.
pub type Reach = Arc<BTreeSet<u32>>;

/// A tracked relation, as a measurement needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    /// Domains that a change of it bumps, sorted, not empty.
    pub domains: Vec<String>,
    /// It is a part of another relation, or has parts.
    pub parted: bool,
}

/// The tracked relations that a statement may write, in PostgreSQL's syntax.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// OIDs, once for each domain.
    pub relations: String,
    /// Domains, in the same order.
    pub domains: String,
    /// Another session may add parts to one of them at any time.
    pub parted: bool,
}

/// A text array in PostgreSQL's syntax; each element quoted.
#[must_use]
pub fn text_array<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> =
        items.map(|item| format!("\"{}\"", item.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    format!("{{{}}}", quoted.join(","))
}

/// OIDs as an array in PostgreSQL's syntax.
#[must_use]
pub fn oid_array<'a>(oids: impl IntoIterator<Item = &'a u32>) -> Arc<str> {
    let words: Vec<String> = oids.into_iter().map(u32::to_string).collect();
    format!("{{{}}}", words.join(",")).into()
}

/// OIDs of functions of ours that are asked for by FunctionCall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    /// `turbo.fn_bump_one`.
    pub bump: u32,
    /// `turbo.fn_measured`.
    pub measured: u32,
    /// `turbo.fn_measured_every`.
    pub measured_every: u32,
}

/// An immutable view of one database.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Counts the catalogs of a database; analyses are remembered for one generation.
    pub generation: u64,
    /// The `turbo` schema is installed, in a version that this program works with.
    pub installed: bool,
    /// Relations by bare name.
    pub relations: HashMap<String, Vec<Relation>>,
    /// Names of temporary tables of any session: only the server knows which relation such a name is.
    pub temporary: HashSet<String>,
    /// Names that may stand before a parenthesis without leading to a write: functions and types.
    pub harmless_calls: HashSet<String>,
    /// Functions that return any number of rows.
    pub set_returning: HashSet<String>,
    /// Names whose mention makes a statement unsure: functions that may write, views and types that
    /// call them.
    pub dangerous: HashMap<String, UnknownReason>,
    /// Why each of them is dangerous.
    pub causes: HashMap<String, Cause>,
    /// Operators that call functions which may write.
    pub dangerous_operators: HashSet<String>,
    /// A cast or an event trigger calls a function that may write; it leaves no trace in a text.
    pub implicit_danger: bool,
    /// There are event triggers: a definition may run anything.
    pub event_triggers: bool,
    /// The application made an operator `=` for uuid or text.
    pub own_equality: bool,
    /// Functions that may change how texts are read.
    pub settings_changers: HashSet<String>,
    /// Names through which a statement may reach rows of another tenant than its session's setting says.
    pub unbound: HashSet<String>,
    /// Procedures whose body (or that of one they call) may end the transaction.
    pub may_commit: HashSet<String>,
    /// Views and functions through which a statement may read versions.
    pub version_readers: HashSet<String>,
    /// Names in `turbo.tb_domain_table`.
    pub domain_tables: HashSet<String>,
    /// A policy of a tracked relation asks for more than the row and the system: a definition may show other rows.
    pub asks_policies: bool,
    /// Every domain that tracked relations belong to, sorted.
    pub domains: Vec<String>,
    /// Some of them may be unknown to readers of versions: they could not be registered.
    pub has_unseen_domains: bool,
    /// Edges of `turbo.tb_domain_cascade`, for `explain`.
    pub cascades: Vec<(String, String)>,
    /// Relations with deferrable triggers that may write, as an array of OIDs in PostgreSQL's syntax.
    pub deferred: Arc<str>,
    /// Deferrable triggers, harmless ones too, the same way.
    pub deferrable_triggers: Arc<str>,
    /// Tracked relations, the same way.
    pub tracked: Arc<str>,
    /// Tracked relations by OID.
    pub tracked_relations: BTreeMap<u32, Tracked>,
    /// Tracked relations that a mention of a dangerous name may lead to; without an entry: any.
    pub reach: HashMap<String, Reach>,
    /// Functions of the system that run SQL which they are given.
    pub unsafe_system_oids: HashSet<u32>,
    /// Functions of ours to ask for by FunctionCall, where that commits: the server is PostgreSQL itself, no pooler, and
    /// older than 18.
    pub calls: Option<Calls>,
    /// A pooler stands before the server: what a session has told one server connection, the next transaction may not find.
    pub pooled: bool,
    /// Functions that may be called through FunctionCall, by OID, without leading to a write.
    pub harmless_oids: HashSet<u32>,
}

impl Catalog {
    /// Whether a name means something already.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.relations.contains_key(name)
            || self.temporary.contains(name)
            || self.dangerous.contains_key(name)
            || self.harmless_calls.contains(name)
            || self.version_readers.contains(name)
    }

    /// Relations that a name may stand for.
    #[must_use]
    pub fn candidates(&self, schema: Option<&str>, name: &str) -> Vec<&Relation> {
        let named = self.relations.get(name).map(Vec::as_slice).unwrap_or_default();
        named.iter().filter(|relation| schema.is_none_or(|schema| relation.schema == schema)).collect()
    }

    /// What a measurement has to know of these relations.
    #[must_use]
    pub fn scope(&self, relations: &BTreeSet<u32>) -> Scope {
        let tracked = || relations.iter().filter_map(|oid| Some((oid, self.tracked_relations.get(oid)?)));
        let pairs = || tracked().flat_map(|(oid, tracked)| tracked.domains.iter().map(move |domain| (oid, domain)));
        let oids: Vec<String> = pairs().map(|(oid, _)| oid.to_string()).collect();
        Scope {
            relations: format!("{{{}}}", oids.join(",")),
            domains: text_array(pairs().map(|(_, domain)| domain.as_str())),
            parted: tracked().any(|(_, tracked)| tracked.parted),
        }
    }

    /// The domains that bumps of `domain` lead to, itself included, each once, sorted.
    #[must_use]
    pub fn cascade_closure(&self, domain: &str) -> Vec<String> {
        let mut reached = vec![domain.to_owned()];
        let mut next = 0;
        while let Some(source) = reached.get(next).cloned() {
            next += 1;
            for (from, to) in &self.cascades {
                if *from == source && !reached.contains(to) {
                    reached.push(to.clone());
                }
            }
        }
        reached.sort();
        reached
    }
}
