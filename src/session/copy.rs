//! COPY … FROM STDIN: the tenants of its bump are read from the rows while they pass.
//!
//! In a block and in an extended query the bump waits anyway, and learns its tenants when the client has
//! sent all data. A simple query outside of a block would have to say its bump before the data come:
//! there the COPY is sent as an extended query, the bump and the Sync behind its last row.

use std::sync::Arc;

use super::bump::{BumpTenant, Condition, Effect};
use super::outstanding::{CopyQuery, QueryRequest, Request};
use super::transaction::Context;
use super::{ClientStep, CopyIn, Event, Output, Session, StatementClass};
use crate::effect::Analysis;
use crate::effect::copy::{CopyFormat, CopyPlan, CopyReader};
use crate::session::prepared::Act;
use crate::wire::backend::ErrorFields;
use crate::wire::encode;
use crate::wire::message_type::frontend;

/// The server's function (copyfromparse.c) that complains of "unexpected message type 0x51 during COPY from stdin", and of
/// nothing else that a client can cause but CopyFail.
const READS_COPY_DATA: &[u8] = b"CopyGetData";

/// A COPY whose rows are read.
#[derive(Debug)]
pub struct CopyTenants {
    reader: CopyReader,
    effect: Effect,
    /// The waiting write that it decides about; `None` for a simple query that is sent as an extended one.
    write: Option<u64>,
}

impl CopyTenants {
    /// The effect, exact if all rows said their tenant.
    fn effect(self) -> (Effect, Option<u64>) {
        let Some(tenants) = self.reader.tenants().filter(|tenants| !tenants.is_empty()) else {
            return (self.effect, self.write);
        };
        let pairs = self
            .effect
            .iter()
            .flat_map(|(domain, _)| tenants.iter().map(|tenant| (domain.clone(), BumpTenant::Id(*tenant))));
        let mut pairs: Vec<_> = pairs.collect();
        pairs.sort();
        pairs.dedup();
        (pairs.into(), self.write)
    }
}

impl Session {
    /// Whether the bytes of a message of this type are to be shown to [`Session::observe_copy`] as
    /// they pass.
    #[must_use]
    pub const fn observes(&self, message_type: u8) -> bool {
        message_type == frontend::COPY_DATA && self.copy_tenants.is_some()
    }

    /// Whether messages of this type that follow one which was relayed are relayed too, as long as no other comes.
    #[must_use]
    pub const fn relays_all(&self, message_type: u8) -> bool {
        message_type == frontend::COPY_DATA && !self.observes(message_type)
    }

    /// Bytes of the client's CopyData, without headers, cut anywhere.
    pub fn observe_copy(&mut self, bytes: &[u8]) {
        if let Some(copy) = &mut self.copy_tenants {
            copy.reader.read(bytes);
        }
    }

    /// Reads the rows of the COPY that is about to be sent.
    pub(super) fn read_tenants(&mut self, plan: Option<&Arc<CopyPlan>>, effect: &Effect, write: Option<u64>) {
        let readable = |plan: &&Arc<CopyPlan>| self.settings.lexable || plan.format == CopyFormat::Binary;
        self.copy_tenants = plan.filter(readable).map(|plan| CopyTenants {
            reader: CopyReader::new(CopyPlan::clone(plan)),
            effect: Arc::clone(effect),
            write,
        });
    }

    /// CopyDone or CopyFail of the client.
    pub(super) fn on_copy_end(&mut self, message_type: u8, out: &mut Output) -> ClientStep {
        self.copy_in = match self.copy_in {
            CopyIn::No | CopyIn::Expected if self.copies_in_flight > 0 => CopyIn::DoneEarly(1),
            CopyIn::DoneEarly(count) => CopyIn::DoneEarly(count.saturating_add(1)),
            _ => CopyIn::No,
        };
        let copied = self.copy_tenants.take().filter(|_| message_type == frontend::COPY_DONE).map(CopyTenants::effect);
        match (copied, self.outstanding.back_mut()) {
            (Some((effect, Some(write))), _) => self.pending.settle(write, effect),
            (copied, Some(Request::Query(query))) => {
                if let Some(copy) = query.copy.as_mut().filter(|copy| !copy.sync_sent) {
                    copy.sync_sent = true;
                    if let Some((effect, None)) = copied {
                        out.behind.extend_from_slice(&self.injector.bump(
                            &[(effect, 1)],
                            Condition::IfWritten,
                            self.keys(),
                        ));
                    }
                    encode::close_statement("", &mut out.behind);
                    encode::sync(&mut out.behind);
                }
            }
            _ => {}
        }
        ClientStep::Relay
    }

    /// What is no copy data, in copy-in mode. The server ignores Sync, so it is not even sent: should the COPY have failed
    /// meanwhile, it would end a unit whose end nobody waits for. Anything else makes the COPY fail and is consumed; but
    /// should a simple query have failed meanwhile, this would be processed. So an empty query goes first, to see.
    pub(super) fn on_client_in_copy(&mut self, message_type: u8, out: &mut Output) -> ClientStep {
        let runs = matches!(message_type, frontend::QUERY | frontend::FUNCTION_CALL);
        match self.outstanding.front() {
            _ if message_type == frontend::SYNC => ClientStep::Replace,
            Some(Request::Query(_)) if runs => {
                encode::query(b"", &mut out.to_server);
                self.copy_in = CopyIn::Interrupted;
                ClientStep::Hold
            }
            _ => {
                self.copy_in = CopyIn::No;
                ClientStep::Relay
            }
        }
    }

    /// The COPY that was interrupted has failed: of that, or before.
    pub(super) fn on_interrupted(&mut self, error: &[u8]) {
        if ErrorFields::decode(error).routine == READS_COPY_DATA {
            self.copy_in = CopyIn::Consumed;
        } else if matches!(self.outstanding.front(), Some(Request::Query(query)) if query.copy.is_none()) {
            // It is answered; an extended query skips it.
            self.outstanding.push(Request::Ended);
        }
    }

    /// Sends a COPY that is the only statement of a simple query, outside of a block, as an extended
    /// query. `None`: its rows do not say their tenant, or something else belongs into the text.
    pub(super) fn send_copy(
        &mut self,
        text: &[u8],
        analysis: &Analysis,
        query: &mut QueryRequest,
        out: &mut Output,
    ) -> Option<ClientStep> {
        let statement = analysis.single().filter(|statement| statement.copy_in && !statement.reads_versions)?;
        let Act::Write { effect, copy: Some(plan), leaves_no_trace_without_rows: true, .. } = self.act(statement)
        else {
            return None;
        };
        if self.context() != Context::Implicit || self.unit.open || !self.pending.is_empty() {
            return None;
        }
        let sql = std::str::from_utf8(text).ok()?;
        self.read_tenants(Some(&plan), &effect, None);
        self.copy_tenants.as_ref()?;
        out.events.push(Event::Statement(StatementClass::Write));
        // A simple query destroys the client's unnamed statement and portal: these names are free.
        encode::parse("", sql, &[], &mut out.to_server);
        encode::bind("", "", &[], &mut out.to_server);
        encode::execute("", &mut out.to_server);
        encode::flush(&mut out.to_server);
        let mut query = std::mem::take(query);
        query.copy = Some(CopyQuery::default());
        self.relay_query(query);
        Some(ClientStep::Replace)
    }
}
