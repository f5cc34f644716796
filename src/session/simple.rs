//! Simple query: statements of ours inside the client's text.

use std::sync::Arc;

use super::bump::{Audit, Baseline, BumpTenant, Condition, Effect, Looks, Measured, One};
use super::measure::{Counters, moves_counters};
use super::outstanding::{Purpose, QueryRequest, Request, Rewrite};
use super::prepared::{Act, literal_tenant};
use super::rewrite::Rewriter;
use super::transaction::Context;
use super::{ClientStep, CopyIn, Event, Output, Session, StatementClass};
use crate::effect::keys::Key;
use crate::effect::unknown::UnknownReason;
use crate::effect::{Analysis, Control, Kind, Statement};
use crate::wire::encode;
use crate::wire::frontend::query_text;

/// Where a text stands in its transaction(s) while it is rewritten, statement by statement.
struct Position {
    context: Context,
    /// Nothing was written in this implicit transaction yet: a transaction id will tell.
    fresh: bool,
    /// Writes of before this text have no bump yet.
    pending: bool,
    /// A statement of this text may have changed definitions.
    stale: bool,
    /// What is known of the server's counters there.
    counters: Counters,
    /// What readers see once the bump behind the only statement is committed, if they may not yet.
    learns: Option<Key>,
}

impl Session {
    pub(super) fn on_query(&mut self, body: &[u8], out: &mut Output) -> ClientStep {
        let text = match query_text(body) {
            Some(text) if self.is_active() => text,
            // Without versions, or a protocol violation: the server has the word.
            _ => {
                self.counters.on_write();
                return self.relay_query(QueryRequest { changes_block: true, ..QueryRequest::default() });
            }
        };
        if !self.settings.lexable && !text.is_ascii() {
            return self.on_opaque_query(out);
        }
        let analysis = self.analysis_of(text);
        if analysis.opaque {
            return self.on_opaque_query(out);
        }
        let audits = analysis.statements.iter().any(|statement| statement.audit.is_some());
        if self.pending.is_empty() && self.is_fresh() && analysis.is_harmless() && !audits {
            out.events.push(Event::Statement(StatementClass::Harmless));
            return self.relay_query(QueryRequest::default());
        }
        let must_be_certain =
            analysis.statements.iter().any(|statement| matches!(self.act(statement), Act::MayCommit(_) | Act::Alone));
        let copies = analysis.statements.iter().any(|statement| statement.copy_in);
        let unanswered = self.outstanding.iter().any(Request::ends_unit);
        if (must_be_certain && self.will_be_certain()) || (copies && unanswered) {
            return ClientStep::Hold;
        }
        let first = analysis.statements.first().map(|statement| self.act(statement));
        let undoes = matches!(first, Some(Act::Control(Control::Rollback { .. } | Control::RollbackTo)));
        if analysis.refused || undoes || self.context() == Context::Failed {
            // What waits is undone, or will be.
            self.pending.forget();
        }
        if analysis.statements.is_empty() && self.context() != Context::Block && !analysis.refused {
            // No statement to put bumps before; the empty text still ends the unit that it stands in.
            if !self.inject_pending(out) {
                return ClientStep::Hold;
            }
            return self.relay_query(QueryRequest::default());
        }
        // A procedure that may commit, or what refuses a block, gets no company in its text.
        let single = analysis.single().map(|statement| self.act(statement));
        let alone = matches!(single, Some(Act::MayCommit(_) | Act::Alone)) && self.context() == Context::Implicit;
        if (alone && !self.inject_pending(out)) || !self.settle_query(&analysis, out) {
            return ClientStep::Hold;
        }
        self.flushed = false;
        self.send_query(text, &analysis, out)
    }

    pub(super) fn relay_query(&mut self, mut query: QueryRequest) -> ClientStep {
        // It ends the unit that it stands in.
        query.changes_block |= self.unit.context.is_some();
        query.changes_settings |= self.unit.changes_settings;
        query.ddl |= self.unit.ddl;
        query.bump_all_after += self.unit.bump_all_after;
        self.unconfirmed += usize::from(query.changes_block);
        self.copies_in_flight += usize::from(query.copy_in);
        self.settings_in_flight += usize::from(query.changes_settings);
        self.ddl_in_flight += usize::from(query.ddl);
        if query.copy_in {
            self.copy_in = CopyIn::Expected;
        }
        self.outstanding.push(Request::Query(Box::new(query)));
        self.unit = self.unit.next();
        ClientStep::Relay
    }

    /// Whether the bumps that belong before or into this text can be said now.
    fn settle_query(&mut self, analysis: &Analysis, out: &mut Output) -> bool {
        if self.pending.is_empty() || !self.places_pending(analysis) {
            return true;
        }
        if self.block_may_have_failed() {
            return false;
        }
        if self.is_decided() {
            return true;
        }
        self.wait_for_outcomes(out);
        false
    }

    /// Whether the text is one that bumps of before must be put into.
    fn places_pending(&self, analysis: &Analysis) -> bool {
        if self.context() != Context::Block {
            return true;
        }
        analysis.statements.iter().any(|statement| self.needs_bumps_before(statement)) || analysis.statements.len() > 1
    }

    fn needs_bumps_before(&self, statement: &Statement) -> bool {
        match self.act(statement) {
            Act::Harmless | Act::DeclareCursor { .. } | Act::Write { .. } => {
                // A bump that waits would be said in another encoding behind a change of it.
                statement.reads_versions || statement.changes_settings || self.pending.is_full()
            }
            Act::Control(_) | Act::Measure(_) | Act::MayCommit(_) | Act::Alone | Act::Fetch(_) => true,
        }
    }

    /// What a statement of a text does, here and now.
    pub(super) fn act(&self, statement: &Statement) -> Act {
        let stale = !statement.timeless && !self.is_fresh();
        match Act::of(&statement.kind, literal_tenant) {
            Act::Fetch(cursor) if self.is_harmless_cursor(&cursor) => Act::Harmless,
            Act::Fetch(_) => Act::Measure(UnknownReason::Cursor),
            Act::Harmless | Act::Write { .. } if stale => Act::Measure(UnknownReason::CatalogStale),
            act => self.sayable(act),
        }
    }

    fn send_query(&mut self, text: &[u8], analysis: &Analysis, out: &mut Output) -> ClientStep {
        let ddl = analysis.statements.iter().any(|statement| statement.ddl);
        // A DROP that says itself what it changes is judged by the catalog that it finds: what it drops is gone when the
        // server could measure it.
        let says_itself =
            ddl && analysis.single().is_some_and(|statement| matches!(self.act(statement), Act::Write { .. }));
        if ddl && !says_itself {
            self.note_ddl(out);
        }
        let step = self.send_text(text, analysis, ddl, out);
        if says_itself {
            self.note_ddl(out);
        }
        step
    }

    fn send_text(&mut self, text: &[u8], analysis: &Analysis, ddl: bool, out: &mut Output) -> ClientStep {
        let context = self.context();
        let counters = self.counters;
        if analysis.statements.iter().any(|statement| self.moves_counters(statement)) {
            self.counters.on_write();
        }
        for statement in &analysis.statements {
            self.names.forget_statements(statement.forgets.as_ref());
        }
        let mut query = QueryRequest {
            ddl,
            copy_in: analysis.statements.iter().any(|statement| statement.copy_in),
            changes_settings: analysis.statements.iter().any(|statement| {
                self.unsettles(statement.changes_settings, matches!(statement.kind, Kind::Control(_)))
            }),
            changes_block: analysis.statements.iter().any(|statement| matches!(self.act(statement), Act::Control(_))),
            only_definitions: analysis
                .single()
                .is_some_and(|statement| self.purpose_of_end(&self.act(statement)) == Purpose::DefinitionEnd),
            ..QueryRequest::default()
        };
        if analysis.refused {
            return self.relay_query(query);
        }
        if let Some(step) = self.send_copy(text, analysis, &mut query, out) {
            return step;
        }
        if let Some(statement) = analysis.single().filter(|statement| !self.is_audited(statement, context)) {
            match (self.act(statement), context) {
                (Act::Harmless, Context::Block | Context::Failed) if !self.needs_bumps_before(statement) => {
                    out.events.push(Event::Statement(StatementClass::Harmless));
                    return self.relay_query(query);
                }
                // The server says no; its words need no company.
                (Act::Write { .. } | Act::Measure(_), Context::Failed) => return self.relay_query(query),
                (Act::Write { effect, sure, leaves_no_trace_without_rows, copy }, Context::Block)
                    if !statement.reads_versions && !self.pending.is_full() =>
                {
                    out.events.push(Event::Statement(StatementClass::Write));
                    let known = Arc::clone(&effect);
                    query.write = Some(self.pending.add(self.unit.number, effect, sure, leaves_no_trace_without_rows));
                    self.read_tenants(copy.as_ref(), &known, query.write);
                    return self.relay_query(query);
                }
                (Act::MayCommit(reason), Context::Implicit) => {
                    out.events.push(Event::Statement(StatementClass::NotAtomic));
                    out.events.push(Event::Measured(reason));
                    query.bump_all_after = 1;
                    return self.relay_query(query);
                }
                (Act::Alone, _) if self.pending.is_empty() => {
                    out.events.push(Event::Statement(StatementClass::Alone));
                    return self.relay_query(query);
                }
                _ => {}
            }
        }
        self.send_rewritten(text, analysis, query, counters, out)
    }

    fn moves_counters(&self, statement: &Statement) -> bool {
        statement.ddl || statement.defines || moves_counters(&self.act(statement))
    }

    /// Whether the server is asked if the analysis of this statement is right.
    fn is_audited(&self, statement: &Statement, context: Context) -> bool {
        statement.audit.is_some() && !statement.ddl && self.is_fresh() && context != Context::Failed
    }

    /// Puts our statements into the text; relays it as it is when there are none to put.
    fn send_rewritten(
        &mut self,
        text: &[u8],
        analysis: &Analysis,
        mut query: QueryRequest,
        counters: Counters,
        out: &mut Output,
    ) -> ClientStep {
        let context = self.context();
        let mut rewriter = Rewriter::new(text, self.settings.characters);
        let mut position = Position {
            context,
            fresh: context == Context::Implicit && !self.unit.open,
            pending: !self.pending.is_empty(),
            stale: false,
            counters,
            learns: None,
        };
        let had_pending = position.pending;
        // The end of this text ends the implicit transaction of the messages before it.
        let first = analysis.statements.first();
        if position.pending
            && context != Context::Block
            && let Some(first) = first
        {
            self.rewrite_pending(first.span.0, &mut rewriter, &mut position);
        }
        let alone = analysis.statements.len() == 1;
        for statement in &analysis.statements {
            self.rewrite_statement(statement, alone, &mut rewriter, &mut position, out);
        }
        if rewriter.is_unchanged() {
            return self.relay_query(query);
        }
        let ends_block = |statement: &Statement| {
            matches!(self.act(statement), Act::Control(Control::Commit { .. } | Control::Prepare))
        };
        query.bump_before_commit =
            had_pending && context == Context::Block && analysis.statements.first().is_some_and(ends_block);
        let alone = alone && context == Context::Implicit && !self.unit.open;
        let ends: Vec<usize> = analysis.statements.iter().map(|statement| statement.span.1).collect();
        let (longer, map, turns) = rewriter.finish(&ends);
        encode::query(&longer, &mut out.to_server);
        query.rewrite = Some(Rewrite { original: text.to_owned(), map, turns, alone });
        query.learns = position.learns.filter(|_| alone);
        self.relay_query(query);
        ClientStep::Replace
    }

    fn rewrite_pending(&mut self, at: usize, rewriter: &mut Rewriter<'_>, position: &mut Position) {
        let bumps = self.pending.take();
        rewriter.before(at, &self.injector.bump_sql(&bumps, Condition::Always, "", self.keys()));
        position.pending = false;
        position.fresh = false;
    }

    fn rewrite_statement(
        &mut self,
        statement: &Statement,
        alone: bool,
        rewriter: &mut Rewriter<'_>,
        position: &mut Position,
        out: &mut Output,
    ) {
        let (start, end) = statement.span;
        let act = match self.act(statement) {
            Act::Harmless | Act::Write { .. } if position.stale && !statement.timeless => {
                Act::Measure(UnknownReason::CatalogStale)
            }
            act => act,
        };
        if matches!(act, Act::Control(Control::Rollback { .. } | Control::RollbackTo)) {
            self.names.forget_cursors();
            self.pending.forget();
            position.pending = false;
        }
        if position.pending && self.needs_bumps_before(statement) {
            self.rewrite_pending(start, rewriter, position);
        }
        match act {
            Act::Harmless | Act::Alone => {
                out.events.push(Event::Statement(StatementClass::Harmless));
                position.fresh = false;
                if self.is_audited(statement, position.context) {
                    let measured = self.measured(None);
                    rewriter.before(start, &self.injector.measure_begin_sql(&measured));
                    self.rewrite_audit(statement, &[], false, rewriter);
                }
            }
            Act::DeclareCursor { name, harmless } => self.declare_cursor(&name, harmless),
            Act::Control(control) => {
                out.events.push(Event::Statement(StatementClass::Control));
                position.on_control(control);
            }
            Act::Write { effect, sure, leaves_no_trace_without_rows, .. } => {
                out.events.push(Event::Statement(StatementClass::Write));
                self.rewrite_write(statement, effect, (sure, leaves_no_trace_without_rows), rewriter, position);
            }
            Act::Measure(reason) | Act::MayCommit(reason) => {
                let measured = self.measured_in(position, statement, reason);
                self.rewrite_measured(reason, &measured, (start, end), rewriter, position, out);
            }
            Act::Fetch(_) => {
                let measured = self.measured_in(position, statement, UnknownReason::Cursor);
                self.rewrite_measured(UnknownReason::Cursor, &measured, (start, end), rewriter, position, out);
            }
        }
        if self.moves_counters(statement) {
            position.counters.on_write();
        }
        if !alone {
            position.fresh &= position.context == Context::Implicit;
        }
    }

    fn rewrite_write(
        &self,
        statement: &Statement,
        effect: Effect,
        (sure, leaves_no_trace_without_rows): (bool, bool),
        rewriter: &mut Rewriter<'_>,
        position: &mut Position,
    ) {
        let (start, end) = statement.span;
        let audited = self.is_audited(statement, position.context);
        let measured = self.measured(statement.scope.as_ref().filter(|_| !audited));
        if audited {
            rewriter.before(start, &self.injector.measure_begin_sql(&measured));
        }
        let known = Arc::clone(&effect);
        let bumps = [(effect, 1)];
        let condition = if sure {
            Condition::Always
        } else if position.fresh && leaves_no_trace_without_rows {
            Condition::IfWritten
        } else {
            if !audited {
                rewriter.before(start, &self.injector.measure_begin_sql(&measured));
            }
            Condition::IfMoved
        };
        let relations = measured.relations().unwrap_or_default();
        let keys = self.keys();
        rewriter.behind(end, &self.injector.bump_sql(&bumps, condition, relations, keys));
        position.learns =
            One::of(&bumps).filter(|one| condition == Condition::Always && !one.is_known(keys)).map(|one| one.key());
        if audited {
            self.rewrite_audit(statement, &known, sure, rewriter);
        }
        position.fresh = false;
    }

    fn rewrite_audit(
        &self,
        statement: &Statement,
        effect: &[(String, BumpTenant)],
        sure: bool,
        rewriter: &mut Rewriter<'_>,
    ) {
        let fingerprint = statement.audit.as_deref().unwrap_or_default();
        let relations = &self.view.analyzer.catalog.tracked;
        let audit = Audit::new(relations, effect, sure, fingerprint);
        rewriter.behind(statement.span.1, &self.injector.audit_end_sql(&audit));
    }

    /// Behind a statement that may have changed definitions only the server knows what there is to look at.
    fn measured_in(&self, position: &Position, statement: &Statement, reason: UnknownReason) -> Measured {
        let measured = self.measured(statement.scope.as_ref());
        let looks = if position.stale { Looks::Server } else { measured.looks };
        Measured { looks, unbound: statement.unbound, ..measured }.since(position.counters, reason)
    }

    fn rewrite_measured(
        &mut self,
        reason: UnknownReason,
        measured: &Measured,
        (start, end): (usize, usize),
        rewriter: &mut Rewriter<'_>,
        position: &mut Position,
        out: &mut Output,
    ) {
        position.fresh = false;
        position.stale = true;
        self.names.forget_cursors();
        out.events.push(Event::Statement(StatementClass::Measured));
        out.events.push(Event::Measured(reason));
        if measured.baseline == Baseline::Remembered {
            rewriter.before(start, &self.injector.measure_begin_sql(measured));
        }
        rewriter.behind(end, &self.injector.measure_end_sql(measured));
    }

    /// A text that nobody looks into: every domain is bumped before it in its own transaction, and
    /// once more behind it, should it have ended that transaction.
    pub(super) fn on_opaque_query(&mut self, out: &mut Output) -> ClientStep {
        if !self.is_active() || self.context() == Context::Failed {
            return self.relay_query(QueryRequest { changes_block: true, ..QueryRequest::default() });
        }
        let sync_after = self.stands_alone();
        if !self.inject_pending(out) {
            return ClientStep::Hold;
        }
        self.counters.on_write();
        out.events.push(Event::Statement(StatementClass::NotAtomic));
        out.events.push(Event::Measured(if self.settings.lexable {
            UnknownReason::TooLong
        } else {
            UnknownReason::Encoding
        }));
        out.to_server.append(&mut self.injector.bump_all(1));
        self.push_injected(Purpose::BumpAll);
        self.note_ddl(out);
        self.relay_query(QueryRequest {
            changes_block: true,
            ddl: true,
            bump_all_after: 1,
            sync_after,
            ..QueryRequest::default()
        })
    }
}

impl Position {
    const fn on_control(&mut self, control: Control) {
        match control {
            Control::Begin | Control::Commit { chain: true } | Control::Rollback { chain: true } => {
                self.context = Context::Block;
                self.fresh = false;
            }
            // Behind it a new implicit transaction begins with the next statement of the text.
            Control::Commit { chain: false } | Control::Rollback { chain: false } | Control::Prepare => {
                self.context = Context::Implicit;
                self.fresh = true;
            }
            Control::Savepoint | Control::Release | Control::RollbackTo => self.fresh = false,
        }
    }
}
