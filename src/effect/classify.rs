//! One statement: its form by leading keywords, its targets by tokens, what they drag along by the
//! catalog.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::analysis::{AnalysisContext, Control, Forgets, Kind, RowCount, Statement, Tenants, Touched, Write};
use super::copy;
use super::fingerprint;
use super::keywords::KEYWORD_CALLS;
use super::lexer::TokenKind;
use super::statement::{QualifiedName, StatementTokens};
use super::tenants;
use super::unknown::UnknownReason;
use super::verbs::{Verb, verbs};
use crate::catalog::{Relation, Scope, WriteEvent, bodies};

/// Statements that do the same whatever the catalog says.
const TIMELESS_FORMS: &[&str] = &[
    "set",
    "reset",
    "show",
    "listen",
    "unlisten",
    "notify",
    "close",
    "deallocate",
    "discard",
    "lock",
    "checkpoint",
    "load",
    // It is planned when it is executed.
    "prepare",
];

/// Statements whose names say what they may write.
const SCOPED_FORMS: &[&str] =
    &["select", "values", "table", "with", "insert", "update", "delete", "merge", "call", "copy", "explain"];

/// Reasons for which the relations that may be written can still be told.
const SCOPED: &[UnknownReason] = &[
    UnknownReason::FunctionCall,
    UnknownReason::View,
    UnknownReason::TypeOrOperator,
    UnknownReason::Trigger,
    UnknownReason::ForeignKeyCascade,
    UnknownReason::Expression,
    UnknownReason::MixedDomains,
    UnknownReason::AmbiguousRelation,
    UnknownReason::SeveralWrites,
    UnknownReason::Explain,
    UnknownReason::Call,
];

/// Most tokens of a statement that is searched for settings by name.
const SHORT: usize = 1_000;

/// Analyses one statement.
#[must_use]
pub fn classify(context: &AnalysisContext<'_>, statement: &StatementTokens<'_>) -> Statement {
    let words = (0..statement.tokens.len()).filter(|index| statement.is_name(*index)).collect();
    let classifier = Classifier { context, statement, words };
    let unbound = classifier.is_unbound();
    let kind = if unbound { for_all_tenants(classifier.kind()) } else { classifier.kind() };
    Statement {
        unbound,
        // What a cursor WITH HOLD changes comes when it is too late to measure.
        timeless: classifier.is_timeless() || (statement.is_word(0, "declare") && matches!(kind, Kind::Write(_))),
        scope: classifier.scope(&kind),
        audit: classifier.audit(&kind),
        span: statement.span(),
        copy_in: classifier.is_copy_in(),
        reads_versions: classifier.reads_versions() || classifier.may_end_writing() || classifier.may_change_tenant(),
        changes_settings: classifier.changes_settings(),
        forgets: classifier.forgets(),
        // A block that is measured says itself whether it changed definitions.
        defines: statement.is_any(0, &["create", "alter", "drop", "comment"]),
        ddl: (classifier.is_ddl() && !classifier.concerns_nobody())
            || (statement.is_word(0, "do") && matches!(kind, Kind::MayCommit(_))),
        kind,
    }
}

/// The same, but for all tenants where the session's was meant.
fn for_all_tenants(kind: Kind) -> Kind {
    let Kind::Write(mut write) = kind else { return kind };
    for touched in write.touched.iter_mut().filter(|touched| touched.tenants == Tenants::Session) {
        touched.tenants = Tenants::All;
        touched.rule = "it runs with other rights, or sets the tenant itself";
    }
    Kind::Write(write)
}

pub(super) struct Classifier<'a> {
    pub(super) context: &'a AnalysisContext<'a>,
    pub(super) statement: &'a StatementTokens<'a>,
    /// Indexes of names and keywords: few, where rows are many.
    pub(super) words: Vec<usize>,
}

impl Classifier<'_> {
    fn kind(&self) -> Kind {
        let s = self.statement;
        if let Some(control) = self.control() {
            return Kind::Control(control);
        }
        if self.refuses_block() {
            let dangerous = &self.context.catalog.dangerous;
            let calls = s.is_word(0, "create")
                && (1..s.tokens.len()).filter_map(|index| s.name(index)).any(|name| dangerous.contains_key(&name));
            let fires = self.context.catalog.event_triggers && s.is_any(0, &["create", "drop", "alter", "reindex"]);
            let calls = calls || fires;
            return if calls { Kind::MayCommit(UnknownReason::Expression) } else { Kind::Alone };
        }
        if s.is_word(0, "alter") && s.tokens.len() > 3 && s.is_word(s.tokens.len() - 1, "concurrently") {
            // DETACH PARTITION … CONCURRENTLY takes rows away, and refuses a block.
            return Kind::MayCommit(UnknownReason::Definition);
        }
        let first = s.name(0).filter(|_| s.kind(0) == Some(TokenKind::Word)).unwrap_or_default();
        match first.as_str() {
            "select" | "values" | "table" | "with" | "insert" | "update" | "delete" | "merge" => self.query(),
            "copy" => self.copy(),
            "declare" => self.declare(),
            "fetch" | "move" => self.fetch(),
            "explain" => self.explain(),
            "truncate" => Kind::Measure(UnknownReason::Truncate),
            "call" => self.call(),
            "do" => self.anonymous_block(),
            "execute" => Kind::Measure(UnknownReason::Execute),
            "prepare" | "deallocate" | "discard" | "set" | "reset" | "show" | "listen" | "unlisten" | "notify"
            | "close" | "lock" | "checkpoint" | "load" => Kind::Harmless,
            // Outside of a block it gives each table a transaction of its own (`IsInTransactionBlock`): in company it
            // would keep the locks of all, and could deadlock. The expressions that it computes are immutable.
            "analyze" | "analyse" => Kind::Alone,
            _ if s.kind(0) == Some(TokenKind::OpenParen) => self.query(),
            _ if self.concerns_nobody() => Kind::Harmless,
            "drop" => self.definition(),
            "alter" | "create" | "refresh" | "grant" | "revoke" | "comment" | "security" | "import" | "reassign"
            | "reindex" | "cluster" => Kind::Measure(UnknownReason::Definition),
            _ => Kind::Measure(UnknownReason::UnknownForm),
        }
    }

    /// The tracked relations that a measured statement may write, where all that it names is followed.
    fn scope(&self, kind: &Kind) -> Option<Arc<Scope>> {
        let s = self.statement;
        let followed = match kind {
            Kind::Write(_) => true,
            Kind::Measure(reason) => SCOPED.contains(reason),
            _ => false,
        };
        let form = s.is_any(0, SCOPED_FORMS) || s.kind(0) == Some(TokenKind::OpenParen);
        let calls = || !self.context.catalog.implicit_danger && self.all_calls_are_known();
        if !followed || !form || self.makes_relations() || !calls() {
            return None;
        }
        let catalog = self.context.catalog;
        let mut reached = BTreeSet::new();
        let copy_target = s.is_word(0, "copy").then(|| 1 + usize::from(s.is_word(1, "binary") && s.is_name(2)));
        for target in verbs(s, 0).iter().map(|verb| verb.target).chain(copy_target.filter(|at| s.is_name(*at))) {
            let name = s.qualified_name(target)?;
            let candidates = catalog.candidates(name.schema.as_deref(), &name.name);
            if candidates.is_empty() || catalog.temporary.contains(&name.name) {
                return None;
            }
            for relation in candidates {
                reached.extend(relation.reach.as_ref()?.iter());
            }
        }
        for (index, token) in s.tokens.iter().enumerate() {
            let name = match token.kind {
                TokenKind::Operator => bodies::operator_word(std::str::from_utf8(s.bytes(index)).ok()?),
                TokenKind::Word | TokenKind::QuotedName | TokenKind::UnicodeName => s.name(index)?,
                _ => continue,
            };
            if catalog.dangerous.contains_key(&name) {
                reached.extend(catalog.reach.get(&name)?.iter());
            }
        }
        Some(Arc::new(catalog.scope(&reached)))
    }

    /// Whether, and by which name, the server is to be asked if this analysis is right.
    fn audit(&self, kind: &Kind) -> Option<Arc<str>> {
        let s = self.statement;
        let sure = matches!(kind, Kind::Harmless | Kind::Write(_)) && s.is_any(0, SCOPED_FORMS) && !self.is_copy_in();
        (sure && self.context.settings.audit).then(|| fingerprint::fingerprint(s).into())
    }

    /// Whether it may make a relation, or run a statement that is not in its text.
    fn makes_relations(&self) -> bool {
        let s = self.statement;
        let into = |index: usize| s.is_word(index, "into") && !(index > 0 && s.is_any(index - 1, &["insert", "merge"]));
        self.words.iter().any(|&index| s.is_any(index, &["execute", "create", "refresh", "declare"]) || into(index))
    }

    /// Whether everything that is called is harmless or followed.
    fn all_calls_are_known(&self) -> bool {
        let s = self.statement;
        let targets: Vec<usize> =
            verbs(s, 0).iter().filter_map(|verb| s.qualified_name(verb.target)).map(|name| name.end).collect();
        self.words.iter().all(|&index| {
            let called =
                s.is_name(index) && s.kind(index + 1) == Some(TokenKind::OpenParen) && !targets.contains(&(index + 1));
            let Some(name) = s.name(index).filter(|_| called) else { return true };
            self.context.catalog.dangerous.contains_key(&name) || self.name_danger(index, &name, true).is_none()
        })
    }

    /// Settings and the like: no change of the catalog changes what they do.
    fn is_timeless(&self) -> bool {
        self.statement.is_any(0, TIMELESS_FORMS)
    }

    fn control(&self) -> Option<Control> {
        let s = self.statement;
        let chain = s.tokens.iter().enumerate().any(|(index, _)| s.are_words(index, &["and", "chain"]));
        let prepared = s.is_word(1, "prepared");
        let to = (1..=2).any(|index| s.is_word(index, "to"));
        if s.is_word(0, "begin") || s.are_words(0, &["start", "transaction"]) {
            Some(Control::Begin)
        } else if (s.is_word(0, "commit") && !prepared) || s.is_word(0, "end") {
            Some(Control::Commit { chain })
        } else if s.is_word(0, "rollback") && to {
            Some(Control::RollbackTo)
        } else if (s.is_word(0, "rollback") && !prepared) || s.is_word(0, "abort") {
            Some(Control::Rollback { chain })
        } else if s.are_words(0, &["prepare", "transaction"])
            && !s.is_name(2)
            && s.kind(2) != Some(TokenKind::OpenParen)
        {
            Some(Control::Prepare)
        } else if s.is_word(0, "savepoint") {
            Some(Control::Savepoint)
        } else if s.is_word(0, "release") {
            Some(Control::Release)
        } else {
            None
        }
    }

    /// Statements for which the server calls `PreventInTransactionBlock`.
    fn refuses_block(&self) -> bool {
        let s = self.statement;
        let has = |keyword: &str| s.tokens.iter().enumerate().any(|(index, _)| s.is_word(index, keyword));
        let object = |keywords: &[&str]| s.is_any(1, keywords);
        match () {
            () if s.is_word(0, "vacuum") || s.are_words(0, &["alter", "system"]) => true,
            () if s.is_any(0, &["commit", "rollback"]) => s.is_word(1, "prepared"),
            () if s.is_any(0, &["create", "drop"]) && object(&["database", "tablespace", "subscription"]) => true,
            () if s.is_word(0, "alter") && object(&["subscription"]) => true,
            () if s.is_word(0, "alter") && object(&["database"]) => has("tablespace"),
            () if s.is_word(0, "drop") && s.is_word(1, "index") => s.is_word(2, "concurrently"),
            () if s.is_word(0, "create") && (1..=3).any(|index| s.are_words(index, &["index", "concurrently"])) => true,
            () if s.is_word(0, "reindex") && has("concurrently") => true,
            () if s.is_word(0, "reindex") => ["schema", "database", "system"].into_iter().any(has),
            () if s.is_word(0, "cluster") => {
                !(1..s.tokens.len()).any(|index| s.is_name(index) && !s.is_word(index, "verbose"))
            }
            () => false,
        }
    }

    /// SELECT, VALUES, TABLE, WITH, INSERT, UPDATE, DELETE, MERGE.
    fn query(&self) -> Kind {
        let mut verbs = verbs(self.statement, 0);
        if self.statement.is_any(0, &["select", "values", "table"]) {
            // Columns may bear the names of verbs.
            verbs.retain(|verb| verb.depth > 0);
        }
        if verbs.is_empty() && self.selects_into() {
            return Kind::Measure(UnknownReason::Definition);
        }
        let target = verbs.first().map(|verb| verb.target);
        if let Some(reason) = self.danger(target) {
            return Kind::Measure(reason);
        }
        match verbs.as_slice() {
            [] => Kind::Harmless,
            // A write inside WITH has no command tag of its own.
            [verb] if verb.depth == 0 => self.write(verb),
            _ => Kind::Measure(UnknownReason::SeveralWrites),
        }
    }

    pub(super) fn selects_into(&self) -> bool {
        let s = self.statement;
        self.words.iter().any(|&index| s.is_word(index, "into"))
    }

    /// The write of the only verb of a statement.
    fn write(&self, verb: &Verb) -> Kind {
        let s = self.statement;
        let Some(name) = s.qualified_name(verb.target) else {
            return Kind::Measure(UnknownReason::UnknownRelation);
        };
        let upsert = verb.event == Some(WriteEvent::Insert) && self.has_words(&["do", "update"]);
        let events: &[WriteEvent] = match verb.event {
            Some(WriteEvent::Insert) if upsert => &[WriteEvent::Insert, WriteEvent::Update],
            Some(WriteEvent::Insert) => &[WriteEvent::Insert],
            Some(WriteEvent::Update) => &[WriteEvent::Update],
            Some(WriteEvent::Delete) => &[WriteEvent::Delete],
            None => &[WriteEvent::Insert, WriteEvent::Update, WriteEvent::Delete],
        };
        let relation = match self.relation(&name, events) {
            Ok(relation) => relation,
            Err(reason) => return Kind::Measure(reason),
        };
        if relation.domains.is_empty() {
            return Kind::Harmless;
        }
        let (rows, leaves_no_trace_without_rows) = match verb.event {
            Some(WriteEvent::Insert) => self.insert_rows(name.end, relation, upsert),
            _ => (RowCount::Tag, !self.leaves_traces(relation)),
        };
        // A trigger may refuse the rows that the text names.
        let rows = if relation.may_skip_rows { RowCount::Tag } else { rows };
        // The transaction's id and the server's counters say nothing about a foreign table.
        let rows = if relation.foreign { RowCount::NotZero } else { rows };
        let (tenants, rule) = match verb.event {
            Some(event) => tenants::of_statement(self.context, s, event, &name, relation),
            None => tenants::unsaid(self.context, relation, "MERGE does not say its tenants"),
        };
        let touched = tenants::touched(relation, &tenants, rule);
        Kind::Write(Write { touched, rows, leaves_no_trace_without_rows, copy: None })
    }

    /// The relation that a name stands for, when a write of it with these events is known.
    fn relation(&self, name: &QualifiedName, events: &[WriteEvent]) -> Result<&Relation, UnknownReason> {
        let catalog = self.context.catalog;
        if catalog.temporary.contains(&name.name) {
            return Err(UnknownReason::UnknownRelation);
        }
        let candidates = catalog.candidates(name.schema.as_deref(), &name.name);
        let (first, others) = candidates.split_first().ok_or(UnknownReason::UnknownRelation)?;
        if let Some(reason) =
            candidates.iter().flat_map(|relation| events.iter().filter_map(|event| relation.unknown(*event))).next()
        {
            return Err(reason);
        }
        let differs = |other: &&Relation| {
            other.domains != first.domains || other.columns != first.columns || other.tenant != first.tenant
        };
        if others.iter().any(differs) {
            return Err(UnknownReason::AmbiguousRelation);
        }
        Ok(first)
    }

    pub(super) fn has_words(&self, words: &[&str]) -> bool {
        self.words.iter().any(|&index| self.statement.are_words(index, words))
    }

    /// Row locks, sequences and some triggers assign a transaction id, whether rows change or not.
    fn leaves_traces(&self, relation: &Relation) -> bool {
        let s = self.statement;
        relation.leaves_traces
            || self.words.iter().any(|&index| {
                (s.is_word(index, "for") && s.is_any(index + 1, &["update", "share", "no", "key"]))
                    || s.is_word(index, "nextval")
            })
    }

    /// How many rows an INSERT changes, and whether one that changes none leaves no trace.
    fn insert_rows(&self, from: usize, relation: &Relation, upsert: bool) -> (RowCount, bool) {
        let s = self.statement;
        let values = s.find_top(from, |s, index| s.is_any(index, &["values", "select", "with", "table"]));
        let traceless = !self.leaves_traces(relation);
        let Some(values) = values.filter(|&values| s.is_word(values, "values")) else {
            return (RowCount::Tag, traceless);
        };
        let conflict = s.find_top(values, |s, index| s.are_words(index, &["on", "conflict"]));
        let returning = s.find_top(values, |s, index| s.is_word(index, "returning"));
        let end = conflict.or(returning).unwrap_or(s.tokens.len());
        // A function may return no row or many; behind the rows a set operation or LIMIT may take them away.
        let sets = &self.context.catalog.set_returning;
        let calls = (values + 1..end).any(|index| {
            s.kind(index + 1) == Some(TokenKind::OpenParen) && s.name(index).is_some_and(|name| sets.contains(&name))
        });
        let more = s.find_top(values + 1, |s, index| s.kind(index) == Some(TokenKind::Word)).is_some_and(|at| at < end);
        if calls || more {
            let sequence = conflict.is_some() && relation.has_sequence;
            return (RowCount::Tag, traceless && !calls && !sequence);
        }
        let Some(conflict) = conflict else {
            return (RowCount::NotZero, traceless);
        };
        let update = s.find_top(conflict, |s, index| s.are_words(index, &["do", "update"]));
        let conditional =
            update.is_none_or(|update| s.find_top(update, |s, index| s.is_word(index, "where")).is_some());
        if upsert && !conditional {
            (RowCount::NotZero, traceless)
        } else {
            // A sequence default is evaluated before the conflict is found; DO UPDATE locks the row before
            // its condition is.
            (RowCount::Tag, traceless && !upsert && !relation.has_sequence)
        }
    }

    fn is_copy_in(&self) -> bool {
        let s = self.statement;
        s.is_word(0, "copy")
            && self.copy_direction().is_some_and(|at| s.is_word(at, "from") && s.is_any(at + 1, &["stdin", "stdout"]))
    }

    /// Index of FROM or TO of a COPY.
    fn copy_direction(&self) -> Option<usize> {
        let keyword = |s: &StatementTokens<'_>, index: usize| {
            s.is_any(index, &["from", "to"]) && s.kind(index - 1) != Some(TokenKind::Dot)
        };
        self.statement.find_top(1, keyword)
    }

    fn copy(&self) -> Kind {
        let s = self.statement;
        let target = 1 + usize::from(s.is_word(1, "binary") && s.is_name(2) && !s.is_any(2, &["from", "to"]));
        let Some(direction) = self.copy_direction() else {
            return Kind::Measure(UnknownReason::UnknownForm);
        };
        if s.kind(1) == Some(TokenKind::OpenParen) {
            return match self.danger(None) {
                None if verbs(s, 1).is_empty() => Kind::Harmless,
                reason => Kind::Measure(reason.unwrap_or(UnknownReason::SeveralWrites)),
            };
        }
        if let Some(reason) = self.danger(Some(target)) {
            return Kind::Measure(reason);
        }
        if s.is_word(direction, "to") {
            return Kind::Harmless;
        }
        let Some(name) = s.qualified_name(target) else {
            return Kind::Measure(UnknownReason::UnknownRelation);
        };
        match self.relation(&name, &[WriteEvent::Insert]) {
            Err(reason) => Kind::Measure(reason),
            Ok(relation) if relation.domains.is_empty() => Kind::Harmless,
            Ok(relation) => {
                let (tenants, rule) = tenants::unsaid(self.context, relation, "COPY does not say its tenants");
                let column = &self.context.settings.tenant_column;
                let copy = copy::plan(s, name.end, target == 2, relation, column).map(Arc::new);
                let rule = if copy.is_some() { "rows of the copy data" } else { rule };
                Kind::Write(Write {
                    copy,
                    touched: tenants::touched(relation, &tenants, rule),
                    rows: RowCount::Tag,
                    leaves_no_trace_without_rows: !relation.leaves_traces,
                })
            }
        }
    }

    /// DECLARE: runs nothing of its query, FETCH does.
    fn declare(&self) -> Kind {
        match self.statement.name(1) {
            Some(_) if self.has_words(&["with", "hold"]) && self.danger(None).is_some() => self.every_domain(),
            // What its query sets, FETCH does.
            Some(name) => {
                Kind::DeclareCursor { name, harmless: self.danger(None).is_none() && !self.has_words(&["set_config"]) }
            }
            None => Kind::Measure(UnknownReason::Cursor),
        }
    }

    /// What runs when it is too late to measure: the query of a cursor WITH HOLD runs at COMMIT.
    fn every_domain(&self) -> Kind {
        let touched = self
            .context
            .catalog
            .domains
            .iter()
            .map(|domain| Touched { domain: domain.clone(), tenants: Tenants::All, rule: "the query runs at COMMIT" })
            .collect();
        Kind::Write(Write { touched, rows: RowCount::NotZero, leaves_no_trace_without_rows: true, copy: None })
    }

    fn fetch(&self) -> Kind {
        let s = self.statement;
        match s.tokens.len().checked_sub(1).and_then(|last| s.name(last)) {
            Some(name) => Kind::Fetch(name),
            None => Kind::Measure(UnknownReason::Cursor),
        }
    }

    fn explain(&self) -> Kind {
        let s = self.statement;
        // Names of options may be quoted.
        let analyze = |name: String| name == "analyze" || name == "analyse";
        let runs = self.words.iter().any(|&index| s.name(index).is_some_and(analyze));
        let more = ["execute", "create", "refresh", "declare", "into"].iter().any(|word| self.has_words(&[word]));
        if runs && (more || !verbs(self.statement, 1).is_empty()) {
            return Kind::Measure(UnknownReason::Explain);
        }
        self.danger(None).map_or(Kind::Harmless, Kind::Measure)
    }

    /// CALL: without a block the procedure may end the transaction.
    fn call(&self) -> Kind {
        let may_commit = &self.context.catalog.may_commit;
        match self.statement.qualified_name(1) {
            Some(name)
                if self.context.catalog.dangerous.contains_key(&name.name) && !may_commit.contains(&name.name) =>
            {
                Kind::Measure(UnknownReason::Call)
            }
            Some(name)
                if self.context.catalog.harmless_calls.contains(&name.name) && !may_commit.contains(&name.name) =>
            {
                self.danger(None).map_or(Kind::Harmless, Kind::Measure)
            }
            _ => Kind::MayCommit(UnknownReason::Call),
        }
    }

    /// DO: its block may end the transaction if a word of it says so.
    fn anonymous_block(&self) -> Kind {
        let s = self.statement;
        let may_end = |body: &[u8]| [&b"commit"[..], b"rollback", b"call"].iter().any(|word| contains_word(body, word));
        // Escapes may spell any word.
        let escaped = |index| {
            matches!(s.kind(index), Some(TokenKind::EscapeString | TokenKind::OtherString))
                && s.bytes(index).contains(&b'\\')
        };
        if (1..s.tokens.len()).any(|index| escaped(index) || may_end(s.bytes(index))) {
            Kind::MayCommit(UnknownReason::Do)
        } else {
            Kind::Measure(UnknownReason::Do)
        }
    }

    /// Why the statement may call something that writes. `target` is where the name of a written
    /// relation stands: a column list may follow it.
    pub(super) fn danger(&self, target: Option<usize>) -> Option<UnknownReason> {
        let s = self.statement;
        let catalog = self.context.catalog;
        if catalog.implicit_danger {
            return Some(UnknownReason::ImplicitCall);
        }
        let target_end = target.and_then(|target| s.qualified_name(target)).map_or(0, |name| name.end);
        for (index, token) in s.tokens.iter().enumerate() {
            match token.kind {
                TokenKind::Operator if !catalog.dangerous_operators.is_empty() => {
                    let operator = std::str::from_utf8(s.bytes(index)).unwrap_or_default();
                    if catalog.dangerous_operators.contains(operator) {
                        return Some(UnknownReason::TypeOrOperator);
                    }
                }
                TokenKind::Word | TokenKind::QuotedName | TokenKind::UnicodeName => {
                    let Some(name) = s.name(index) else { return Some(UnknownReason::UnknownForm) };
                    let called = s.kind(index + 1) == Some(TokenKind::OpenParen) && index + 1 != target_end;
                    if let Some(reason) = self.name_danger(index, &name, called) {
                        return Some(reason);
                    }
                }
                _ => {}
            }
        }
        None
    }

    fn name_danger(&self, index: usize, name: &str, called: bool) -> Option<UnknownReason> {
        let catalog = self.context.catalog;
        if let Some(reason) = catalog.dangerous.get(name) {
            return Some(*reason);
        }
        let keyword = self.statement.kind(index) == Some(TokenKind::Word) && KEYWORD_CALLS.contains(&name);
        // What a session has made for itself is in no catalog; functions are found there by this name only.
        let private = called
            && index >= 2
            && self.statement.kind(index - 1) == Some(TokenKind::Dot)
            && self.statement.name(index - 2).is_some_and(|schema| schema.starts_with("pg_temp"));
        if private {
            return Some(UnknownReason::FunctionCall);
        }
        let known = || keyword || catalog.harmless_calls.contains(name) || self.is_column_list(index);
        (called && !known()).then_some(UnknownReason::FunctionCall)
    }

    /// `WITH name (columns) AS`, `AS alias (columns)`: no call.
    fn is_column_list(&self, index: usize) -> bool {
        let s = self.statement;
        let behind = s.behind_parens(index + 1).unwrap_or(usize::MAX);
        let with = index > 0
            && (s.is_any(index - 1, &["with", "recursive"]) || s.kind(index - 1) == Some(TokenKind::Comma))
            && s.is_word(behind, "as")
            && self.is_query_in_parens(behind + 1);
        let alias = index > 0 && s.is_word(index - 1, "as");
        with || alias
    }

    /// `[[NOT] MATERIALIZED] (query)`; not the column definitions of a function's result, `AS (a int)`.
    fn is_query_in_parens(&self, mut index: usize) -> bool {
        let s = self.statement;
        index += usize::from(s.is_word(index, "not"));
        index += usize::from(s.is_word(index, "materialized"));
        s.kind(index) == Some(TokenKind::OpenParen)
            && (s.is_any(index + 1, &["select", "with", "table"])
                || s.kind(index + 1) == Some(TokenKind::OpenParen)
                || (s.is_word(index + 1, "values") && s.kind(index + 2) == Some(TokenKind::OpenParen)))
    }

    /// It may make the transaction read-only: bumps that wait must be there before.
    fn may_end_writing(&self) -> bool {
        let s = self.statement;
        let read_only = |bytes: &[u8]| contains_word(bytes, b"transaction_read_only");
        let sets = s.is_any(0, &["set", "reset"])
            && (s.is_any(1, &["transaction", "session", "all"]) || s.is_any(2, &["transaction"]));
        sets || self.has_words(&["set_config"])
            || (s.tokens.len() < SHORT && (0..s.tokens.len()).any(|index| read_only(s.bytes(index))))
    }

    /// It calls what runs with other rights or settings than the session's.
    fn is_unbound(&self) -> bool {
        let unbound = &self.context.catalog.unbound;
        self.context.settings.trust_tenant_setting
            && !unbound.is_empty()
            && self.words.iter().any(|&index| self.statement.name(index).is_some_and(|name| unbound.contains(&name)))
    }

    /// It may set whom the session's tenant setting names: bumps that wait are those of the former one.
    fn may_change_tenant(&self) -> bool {
        self.context.settings.trust_tenant_setting && self.statement.is_any(0, &["set", "reset", "discard"])
    }

    fn changes_settings(&self) -> bool {
        let s = self.statement;
        let named = |bytes: &[u8]| {
            contains_word(bytes, b"standard_conforming_strings") || contains_word(bytes, b"client_encoding")
        };
        let sets = s.is_any(0, &["set", "reset", "discard"]);
        let all = (1..=2).any(|index| s.is_any(index, &["all", "names"]));
        let changers = &self.context.catalog.settings_changers;
        (sets && all)
            || (!changers.is_empty()
                && self.words.iter().any(|&index| s.name(index).is_some_and(|name| changers.contains(&name))))
            || (s.tokens.len() < SHORT && (0..s.tokens.len()).any(|index| named(s.bytes(index))))
    }

    /// SQL-level PREPARE, DEALLOCATE, DISCARD: protocol-level statements go by the same names.
    fn forgets(&self) -> Option<Forgets> {
        let s = self.statement;
        let name = |index: usize| match s.name(index) {
            Some(name) if !s.is_word(index, "all") => Forgets::One(name),
            _ => Forgets::All,
        };
        match () {
            () if s.is_word(0, "prepare") && self.control().is_none() => Some(name(1)),
            () if s.are_words(0, &["deallocate", "prepare"]) && s.is_name(2) => Some(name(2)),
            () if s.is_word(0, "deallocate") => Some(name(1)),
            () if s.is_word(0, "discard") => Some(Forgets::All),
            () if s.is_word(0, "do") && self.says(&[b"prepare", b"deallocate", b"discard"]) => Some(Forgets::All),
            () => None,
        }
    }

    /// Whether one of these words stands anywhere in the text, in strings too.
    fn says(&self, words: &[&[u8]]) -> bool {
        let s = self.statement;
        (1..s.tokens.len()).any(|index| words.iter().any(|word| contains_word(s.bytes(index), word)))
    }

    fn reads_versions(&self) -> bool {
        let s = self.statement;
        let readers = &self.context.catalog.version_readers;
        self.words.iter().any(|&index| s.name(index).is_some_and(|name| readers.contains(&name)))
    }
}

/// Whether `body` holds the word (in lower case), not as a part of a longer one.
fn contains_word(body: &[u8], word: &[u8]) -> bool {
    let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    body.windows(word.len()).enumerate().any(|(at, window)| {
        window.eq_ignore_ascii_case(word)
            && !is_part(at.checked_sub(1).and_then(|before| body.get(before)))
            && !is_part(body.get(at + word.len()))
    })
}
