//! Extended query: Parse, Bind, Describe, Execute, Close, Sync, FunctionCall.

use std::sync::Arc;

use super::bump::{Audit, Portion};
use super::measure::{Execution, moves_counters};
use super::outstanding::{Purpose, Request, SyncRequest};
use super::prepared::{Act, Portal, Prepared};
use super::transaction::Context;
use super::{BeforeSync, ClientStep, CopyIn, Event, Output, Phase, Session, StatementClass};
use crate::effect::unknown::UnknownReason;
use crate::effect::{Analysis, Control};
use crate::wire::frontend::{Bind, Named, Parse, execute_portal, execute_rows, function_call_oid};

/// OIDs below are of the system's own objects (`FirstUnpinnedObjectId`).
const SYSTEM_OID_MAX: u32 = 12_000;

impl Session {
    pub(super) fn on_parse(&mut self, body: &[u8], whole: bool) -> ClientStep {
        self.unit.open = true;
        let (name, prepared) = match Parse::decode(body) {
            Ok(parse) if whole => (parse.name, self.prepare(&parse)),
            _ => {
                let (name, _) = crate::wire::frontend::cstr(body).unwrap_or_default();
                (name, Prepared::opaque(Analysis::opaque(0, UnknownReason::TooLong)))
            }
        };
        self.names.unit = self.unit.number;
        let undo = self.names.set_statement(name, Some(Arc::new(prepared)));
        self.outstanding.push(Request::Parse(Some(Box::new(undo))));
        ClientStep::Relay
    }

    fn prepare(&self, parse: &Parse<'_>) -> Prepared {
        // Behind a change of settings in the same pipeline, texts that may be read in more than one way are not.
        let readable = !self.unit.changes_settings || (parse.sql.is_ascii() && !parse.sql.contains(&b'\\'));
        if readable && (self.settings.lexable || parse.sql.is_ascii()) {
            Prepared {
                text: parse.sql.into(),
                types: parse.type_bytes().into(),
                analysis: self.analysis_of(parse.sql),
                generation: self.view.analyzer.catalog.generation,
                standard_conforming_strings: self.settings.standard_conforming_strings,
            }
        } else {
            Prepared::opaque(Analysis::opaque(parse.sql.len(), UnknownReason::Encoding))
        }
    }

    pub(super) fn on_bind(&mut self, body: &[u8], whole: bool, out: &mut Output) -> ClientStep {
        let bind = Bind::decode(body).ok().filter(|_| whole);
        let Ok((portal_name, statement)) = Bind::decode_names(body) else {
            // Names longer than any that PostgreSQL has: it refuses the message.
            self.unit.open = true;
            self.outstanding.push(Request::Bind(None));
            return ClientStep::Relay;
        };
        self.names.unit = self.unit.number;
        if !self.means_what_it_seems(false, statement) {
            return ClientStep::Hold;
        }
        let portal = match self.names.statement(statement) {
            Some(prepared) => prepared.portal(&self.view.analyzer, bind.as_ref()),
            None => Portal { act: Act::Measure(UnknownReason::UnknownStatement), ..Portal::default() },
        };
        // A portal's snapshot is taken at Bind: bumps that it is to see have to be there.
        if portal.reads_versions && self.is_active() && self.context() != Context::Failed && !self.inject_pending(out) {
            return ClientStep::Hold;
        }
        self.unit.open = true;
        let undo = self.names.set_portal(portal_name, Some(portal));
        self.outstanding.push(Request::Bind(Some(Box::new(undo))));
        ClientStep::Relay
    }

    /// Whether no unit is unanswered that may have failed before the message that redefined this name.
    fn means_what_it_seems(&self, portal: bool, name: &[u8]) -> bool {
        self.names.is_certain(portal, name) || !self.outstanding.iter().any(Request::ends_unit)
    }

    pub(super) fn on_describe(&mut self) -> ClientStep {
        self.unit.open = true;
        self.outstanding.push(Request::Describe);
        ClientStep::Relay
    }

    pub(super) fn on_close(&mut self, body: &[u8]) -> ClientStep {
        self.unit.open = true;
        self.names.unit = self.unit.number;
        let undo = match Named::decode(body) {
            Some(Named::Statement(name)) => Some(self.names.set_statement(name, None)),
            Some(Named::Portal(name)) => Some(self.names.set_portal(name, None)),
            None => None,
        };
        self.outstanding.push(Request::Close(undo.map(Box::new)));
        ClientStep::Relay
    }

    pub(super) fn on_execute(&mut self, body: &[u8], out: &mut Output) -> ClientStep {
        self.names.unit = self.unit.number;
        if execute_portal(body).is_some_and(|name| !self.means_what_it_seems(true, name)) {
            return ClientStep::Hold;
        }
        let known = execute_portal(body).and_then(|name| self.names.portal_mut(name));
        let (act, portal) = match known {
            Some(portal) => (portal.act.clone(), portal.clone()),
            None => (Act::Measure(UnknownReason::UnknownStatement), Portal::default()),
        };
        let act = self.sayable(self.act_now(act, &portal));
        let unanswered = self.outstanding.iter().any(Request::ends_unit);
        // In a block that has failed meanwhile our part would be refused in the client's place.
        let measures = matches!(act, Act::Measure(_) | Act::Fetch(_)) || portal.audit.is_some();
        let unsure = unanswered && self.context() == Context::Uncertain && measures;
        if (matches!(act, Act::MayCommit(_)) && self.unconfirmed > 0) || (portal.copy_in && unanswered) || unsure {
            return ClientStep::Hold;
        }
        // A bump that waits would be said in another encoding.
        if !self.settle_before(&act, portal.reads_versions || portal.changes_settings, out) {
            return ClientStep::Hold;
        }
        let first = !portal.executed && matches!(act, Act::Write { .. });
        let first_of = execute_portal(body).filter(|_| first).map(Box::from);
        if let Some(portal) = execute_portal(body).and_then(|name| self.names.portal_mut(name)) {
            portal.executed = true;
        }
        self.names.forget_statements(portal.forgets.as_ref());
        let ends_block =
            matches!(act, Act::Control(Control::Commit { .. } | Control::Rollback { .. } | Control::Prepare));
        self.flushed = false;
        self.unit.changes_settings |= self.unsettles(portal.changes_settings, matches!(act, Act::Control(_)));
        self.unit.open = true;
        self.unit.executes += 1;
        if portal.ddl && self.is_active() {
            self.unit.ddl = true;
            self.note_ddl(out);
        }
        let audited = self.audit(&act, &portal, out);
        // What a statement in between did to the note of what is bumped already, nobody knows.
        let goes_on = self.portion_of.take().is_some_and(|name| execute_portal(body) == Some(&*name));
        let portion = match (portal.executed, execute_rows(body)) {
            (true, _) if goes_on => Portion::Next,
            (false, 0) => Portion::Whole,
            _ => Portion::First,
        };
        if portion != Portion::Whole {
            self.portion_of = execute_portal(body).map(Box::from);
        }
        let moves = moves_counters(&act) || portal.defines || portal.ddl;
        let purpose = self.purpose_of_end(&act);
        let execution = Execution {
            scope: portal.scope.as_ref(),
            portion,
            copy_in: portal.copy_in,
            purpose,
            unbound: portal.unbound,
        };
        let write = self.execute(act, execution, out);
        if moves {
            self.counters.on_write();
        }
        if portal.copy_in {
            self.copies_in_flight += 1;
            self.copy_in = CopyIn::Expected;
            self.end_behind_copy(std::mem::take(&mut out.behind));
        }
        self.outstanding.push(Request::Execute { write, first_of, ends_block, copy_in: portal.copy_in });
        if !out.behind.is_empty() {
            self.push_injected(if audited { Purpose::Audit } else { purpose });
        }
        ClientStep::Relay
    }

    /// Measures an Execute whose effect is known, to see whether that is right.
    fn audit(&mut self, act: &Act, portal: &Portal, out: &mut Output) -> bool {
        let Some(fingerprint) = portal.audit.as_ref().filter(|_| self.is_active() && self.is_fresh()) else {
            return false;
        };
        let (effect, sure) = match act {
            Act::Harmless => ([].into(), false),
            Act::Write { effect, sure, .. } => (Arc::clone(effect), *sure),
            _ => return false,
        };
        if self.context() == Context::Failed {
            return false;
        }
        let measured = self.measured(None);
        let relations = measured.relations().unwrap_or_default();
        out.to_server.append(&mut self.injector.measure_begin(&measured));
        out.behind.append(&mut self.injector.audit_end(&Audit::new(relations, &effect, sure, fingerprint)));
        self.push_injected(Purpose::MeasureBegin);
        true
    }

    /// What an Execute does, here and now.
    fn act_now(&self, act: Act, portal: &Portal) -> Act {
        if !self.is_active() {
            return match act {
                Act::Control(control) => Act::Control(control),
                _ => Act::Harmless,
            };
        }
        match act {
            // Row-changing statements run to their end at the first Execute, even if rows of
            // RETURNING are left to fetch (portals.c, PORTAL_ONE_RETURNING).
            Act::Write { .. } if portal.executed => Act::Harmless,
            Act::Fetch(cursor) if self.is_harmless_cursor(&cursor) => Act::Harmless,
            Act::Fetch(_) => Act::Measure(UnknownReason::Cursor),
            Act::Harmless | Act::Write { .. } if !portal.timeless && !self.knows(portal.generation) => {
                Act::Measure(UnknownReason::CatalogStale)
            }
            // Behind other messages of its unit it may commit too (PostgreSQL 15), and what follows may fail:
            // then a bump of the same unit would be undone, but not what was committed.
            Act::MayCommit(reason) if matches!(self.context(), Context::Block | Context::Failed) => {
                Act::Measure(reason)
            }
            act => act,
        }
    }

    /// Sends the bumps that have to stand before this Execute. `false`: not yet.
    fn settle_before(&mut self, act: &Act, heeds_bumps: bool, out: &mut Output) -> bool {
        let must = match act {
            Act::Harmless | Act::Write { .. } | Act::DeclareCursor { .. } => heeds_bumps || self.pending.is_full(),
            Act::Control(Control::RollbackTo | Control::Rollback { .. }) => false,
            // BEGIN may make a read-only block of an implicit transaction.
            Act::Control(
                Control::Begin | Control::Commit { .. } | Control::Prepare | Control::Savepoint | Control::Release,
            )
            | Act::Measure(_)
            | Act::MayCommit(_)
            | Act::Alone
            | Act::Fetch(_) => true,
        };
        // COPY data goes on while its own tag is out: nothing can be asked for meanwhile.
        !must || self.context() == Context::Failed || self.inject_pending(out)
    }

    /// Notes what the Execute does; returns the number of its write. Injected groups that go before
    /// it are in `out.to_server`.
    fn execute(&mut self, act: Act, execution: Execution<'_>, out: &mut Output) -> Option<u64> {
        match act {
            Act::Harmless => out.events.push(Event::Statement(StatementClass::Harmless)),
            Act::Alone => out.events.push(Event::Statement(StatementClass::Alone)),
            Act::DeclareCursor { name, harmless } => self.declare_cursor(&name, harmless),
            Act::Write { effect, sure, leaves_no_trace_without_rows, copy } => {
                out.events.push(Event::Statement(StatementClass::Write));
                if self.context() != Context::Failed {
                    let known = Arc::clone(&effect);
                    let write = self.pending.add(self.unit.number, effect, sure, leaves_no_trace_without_rows);
                    self.read_tenants(copy.as_ref(), &known, Some(write));
                    return Some(write);
                }
            }
            Act::Measure(reason) => self.measure(reason, execution, out),
            Act::Fetch(_) => self.measure(UnknownReason::Cursor, Execution { scope: None, ..execution }, out),
            Act::Control(control) => self.execute_control(control, out),
            Act::MayCommit(reason) => {
                self.unit.bump_all_after += 1;
                out.events.push(Event::Statement(StatementClass::NotAtomic));
                out.events.push(Event::Measured(reason));
            }
        }
        None
    }

    fn execute_control(&mut self, control: Control, out: &mut Output) {
        out.events.push(Event::Statement(StatementClass::Control));
        if self.context() == Context::Failed {
            // What was sent before the failure was known fails too.
            self.pending.forget();
        }
        self.unit.context = match control {
            Control::Begin | Control::Commit { chain: true } | Control::Rollback { chain: true } => {
                Some(Context::Block)
            }
            Control::Commit { .. } | Control::Rollback { .. } | Control::Prepare => Some(Context::Implicit),
            // In a failed block it works again, if the savepoint exists.
            Control::RollbackTo => Some(Context::Uncertain),
            Control::Savepoint | Control::Release => self.unit.context,
        };
        if matches!(control, Control::Rollback { .. } | Control::RollbackTo) {
            self.names.forget_cursors();
            self.pending.forget();
        }
    }

    pub(super) fn on_sync(&mut self, out: &mut Output) -> ClientStep {
        if self.phase == Phase::SkippingToSync {
            self.phase = Phase::Ready;
            self.end_unit();
            return ClientStep::Relay;
        }
        if self.end_measurement_and_unit(out) {
            return ClientStep::Replace;
        }
        self.end_measurement(out);
        match self.context() {
            Context::Block => {}
            Context::Failed => self.pending.forget(),
            Context::Implicit => match self.bump_before_sync(out) {
                BeforeSync::Sync => {}
                BeforeSync::Call => {
                    self.end_unit();
                    return ClientStep::Replace;
                }
                BeforeSync::Hold => return ClientStep::Hold,
            },
            Context::Uncertain => {
                if !self.inject_pending(out) {
                    return ClientStep::Hold;
                }
            }
        }
        self.end_unit();
        ClientStep::Relay
    }

    pub(super) fn end_unit(&mut self) {
        let changes_block = self.unit.context.is_some();
        self.unconfirmed += usize::from(changes_block);
        self.settings_in_flight += usize::from(self.unit.changes_settings);
        self.ddl_in_flight += usize::from(self.unit.ddl);
        self.outstanding.push(Request::Sync(SyncRequest {
            changes_block,
            ddl: self.unit.ddl,
            changes_settings: self.unit.changes_settings,
            bump_all_after: self.unit.bump_all_after,
            ..SyncRequest::default()
        }));
        self.unit = self.unit.next();
    }

    /// FunctionCall ends its own transaction: nothing can be measured behind it.
    pub(super) fn on_function_call(&mut self, body: &[u8], out: &mut Output) -> ClientStep {
        if !self.is_active() || self.context() == Context::Failed {
            return self.relay_function_call(false);
        }
        let alone = self.stands_alone();
        if !self.inject_pending(out) {
            return ClientStep::Hold;
        }
        let catalog = &self.view.analyzer.catalog;
        let harmless = function_call_oid(body).is_some_and(|oid| {
            let system = oid < SYSTEM_OID_MAX && !catalog.unsafe_system_oids.contains(&oid);
            system || (self.is_fresh() && catalog.harmless_oids.contains(&oid))
        });
        if harmless {
            out.events.push(Event::Statement(StatementClass::Harmless));
        } else {
            out.events.push(Event::Statement(StatementClass::Measured));
            out.events.push(Event::Measured(UnknownReason::FunctionCallMessage));
            self.counters.on_write();
            out.to_server.append(&mut self.injector.bump_all(1));
            self.push_injected(Purpose::BumpAll);
        }
        self.relay_function_call(alone && !harmless)
    }

    fn relay_function_call(&mut self, sync_after: bool) -> ClientStep {
        self.outstanding.push(Request::FunctionCall { sync_after });
        self.unit = self.unit.next();
        ClientStep::Relay
    }
}
