//! Replies: which request each belongs to, and what becomes of it.

use super::outstanding::{Purpose, QueryRequest, Request, SyncRequest};
use super::rewrite::Origin;
use super::{CopyIn, Event, Need, Output, Phase, ServerStep, Session, bump};
use crate::effect::keys::Key;
use crate::limits;
use crate::wire::backend::{ErrorFields, TransactionStatus, first_column_name, parameter_status, tag_rows};
use crate::wire::encode;
use crate::wire::message_type::backend;

/// `syntax_error`.
const SYNTAX_ERROR: &[u8] = b"42601";
/// invalid_schema_name.
const INVALID_SCHEMA_NAME: &[u8] = b"3F000";
/// `active_sql_transaction`: the statement refuses a block.
const ACTIVE_SQL_TRANSACTION: &[u8] = b"25001";
/// Where the server refuses a block; an error that a function raises comes from elsewhere.
const PREVENTS_BLOCK: &[u8] = b"PreventInTransactionBlock";

impl Session {
    /// How much of a server message is wanted.
    #[must_use]
    pub fn server_need(&self, message_type: u8, body_bytes: usize) -> Need {
        let held = if body_bytes <= limits::HELD_SERVER_MESSAGE_BYTES_MAX { Need::Whole } else { Need::Prefix };
        match message_type {
            backend::DATA_ROW if self.is_swallowing() => held,
            backend::FUNCTION_CALL_RESPONSE if self.calls() => held,
            backend::ROW_DESCRIPTION if self.may_be_refused() => held,
            backend::ROW_DESCRIPTION => Need::Prefix,
            backend::COMMAND_COMPLETE
            | backend::ERROR_RESPONSE
            | backend::READY_FOR_QUERY
            | backend::PARAMETER_STATUS => held,
            backend::NOTICE_RESPONSE if self.has_rewrite_in_front() => held,
            _ => Need::Header,
        }
    }

    fn is_swallowing(&self) -> bool {
        match self.outstanding.front() {
            Some(Request::Injected { .. }) => true,
            Some(Request::Query(query)) => {
                query.swallowing || query.again || (query.copy.is_some() && query.withheld.is_some())
            }
            _ => false,
        }
    }

    /// The oldest request is a text of ours that the server may still refuse, and nothing of it was shown.
    fn may_be_refused(&self) -> bool {
        let Some(Request::Query(query)) = self.outstanding.front() else { return false };
        query.rewrite.as_ref().is_some_and(|rewrite| rewrite.alone) && !query.visible
    }

    fn has_rewrite_in_front(&self) -> bool {
        matches!(self.outstanding.front(), Some(Request::Query(query)) if query.rewrite.is_some())
    }

    /// Whether messages of this type that follow one which was forwarded are forwarded too, as long as no other comes.
    #[must_use]
    pub fn forwards_all(&self, message_type: u8) -> bool {
        matches!(message_type, backend::DATA_ROW | backend::COPY_DATA) && !self.is_swallowing()
    }

    /// Decides about a server message; `body` is as much of it as [`Session::server_need`] said.
    pub fn on_server(&mut self, message_type: u8, body_bytes: usize, body: &[u8], out: &mut Output) -> ServerStep {
        if matches!(message_type, backend::NOTICE_RESPONSE | backend::PARAMETER_STATUS | backend::NOTIFICATION_RESPONSE)
            && let Some(Request::Query(query)) = self.outstanding.front_mut()
            && !query.swallowing
            && (query.copy.is_none() || message_type != backend::NOTICE_RESPONSE)
        {
            query.release(out);
        }
        match message_type {
            backend::DATA_ROW | backend::COPY_DATA | backend::COPY_DONE => self.on_rows(message_type, body, out),
            backend::NOTIFICATION_RESPONSE => ServerStep::Forward,
            backend::NOTICE_RESPONSE => self.on_notice(body_bytes, body, out),
            backend::PARAMETER_STATUS => {
                if let Some((name, value)) = parameter_status(body) {
                    self.set_parameter(name, value);
                }
                ServerStep::Forward
            }
            backend::READY_FOR_QUERY => self.on_ready(body, out),
            _ if self.phase == Phase::Starting => ServerStep::Forward,
            backend::ERROR_RESPONSE => self.on_error(body_bytes, body, out),
            _ if matches!(self.outstanding.front(), Some(Request::Rollback | Request::Ended)) => ServerStep::Drop,
            _ if matches!(self.outstanding.front(), Some(Request::Query(_))) => {
                self.on_query_reply(message_type, body_bytes, body, out)
            }
            backend::FUNCTION_CALL_RESPONSE if self.calls() => self.on_call_result(body, out),
            _ => self.on_extended_reply(message_type, body),
        }
    }

    fn on_rows(&mut self, message_type: u8, body: &[u8], out: &mut Output) -> ServerStep {
        if !self.is_swallowing() {
            if let Some(Request::Query(query)) = self.outstanding.front_mut() {
                query.release(out);
            }
            return ServerStep::Forward;
        }
        if message_type == backend::DATA_ROW {
            let purpose = match self.outstanding.front() {
                Some(Request::Injected { purpose, .. }) => *purpose,
                Some(Request::Query(query)) if query.only_definitions => Purpose::DefinitionEnd,
                _ => Purpose::Bump,
            };
            self.on_result(purpose, body.get(6..).unwrap_or_default(), out);
        }
        ServerStep::Drop
    }

    /// What a function of ours says: log rows, and letters behind them (`turbo.fn_measure_end`).
    fn on_result(&mut self, purpose: Purpose, text: &[u8], out: &mut Output) {
        if let Some(finding) = text.strip_prefix(b"d") {
            out.findings.push(String::from_utf8_lossy(finding).into_owned());
            return;
        }
        report_result(purpose, text, &mut out.events);
        if purpose == Purpose::BumpAll && text == b"-1" && self.late_ready.is_some() {
            // Transactions are read-only here unless they say otherwise.
            out.events.push(Event::LateBumpFailed(self.outstanding.take_late()));
        }
        for letter in text.split(|byte| *byte == b' ').skip(1) {
            match letter {
                // The measured statement has made its transaction read-only.
                b"l" => self.bumps_owed = self.bumps_owed.saturating_add(1),
                // What was measured has changed definitions.
                b"c" if purpose != Purpose::DefinitionEnd => self.note_ddl(out),
                b"f" if !self.view.analyzer.catalog.pooled => self.counters.on_flush(),
                _ => self.on_proof(letter, out),
            }
        }
    }

    /// The proof of what a measurement has remembered, and of what its end has found: a client's statement in between
    /// that sets it to something else proves nothing.
    fn on_proof(&mut self, letter: &[u8], out: &mut Output) {
        match letter.split_first() {
            Some((b'b', proof)) => self.remembered = Some(proof.into()),
            Some((b'e', proof)) if self.remembered.as_deref() != Some(proof) => {
                out.events.push(Event::ForgedMeasurement);
                self.bumps_owed = self.bumps_owed.saturating_add(1);
            }
            _ => {}
        }
    }

    /// A notice may point into a text that we changed.
    fn on_notice(&mut self, body_bytes: usize, body: &[u8], out: &mut Output) -> ServerStep {
        let Some(Request::Query(query)) = self.outstanding.front_mut() else { return ServerStep::Forward };
        if query.again {
            return ServerStep::Drop;
        }
        forward_with_position(query, backend::NOTICE_RESPONSE, body_bytes, body, out)
    }

    fn on_query_reply(&mut self, message_type: u8, body_bytes: usize, body: &[u8], out: &mut Output) -> ServerStep {
        let may_be_refused = self.may_be_refused() && body.len() == body_bytes;
        if matches!(self.outstanding.front(), Some(Request::Query(query)) if query.copy.is_some()) {
            return self.on_copy_query_reply(message_type, body);
        }
        let column = self.injector.column();
        let Some(Request::Query(query)) = self.outstanding.front_mut() else { return ServerStep::Forward };
        match message_type {
            backend::ROW_DESCRIPTION if query.is_turn_of_ours() && first_column_name(body) == Some(column) => {
                query.swallowing = true;
                return ServerStep::Drop;
            }
            // A SELECT may call what refuses a block; the server describes its rows before.
            backend::ROW_DESCRIPTION if may_be_refused => {
                query.withheld = Some(encode::message(message_type, body));
                return ServerStep::Drop;
            }
            backend::COMMAND_COMPLETE if query.swallowing => {
                query.swallowing = false;
                query.end_turn();
                query.release(out);
                return ServerStep::Drop;
            }
            backend::COMMAND_COMPLETE if query.rewrite.is_some() => {
                query.end_turn();
                query.release(out);
                query.withheld = Some(encode::message(message_type, body));
                return ServerStep::Drop;
            }
            backend::COMMAND_COMPLETE => {
                if let Some(write) = query.write.take() {
                    self.pending.on_outcome(write, tag_rows(body) != Some(0));
                }
            }
            backend::COPY_IN_RESPONSE => {
                self.begin_copy_in();
            }
            _ => {}
        }
        if let Some(Request::Query(query)) = self.outstanding.front_mut() {
            query.release(out);
            query.visible = true;
        }
        ServerStep::Forward
    }

    /// Replies of a COPY that the client sent as a simple query and the server got as an extended one.
    fn on_copy_query_reply(&mut self, message_type: u8, body: &[u8]) -> ServerStep {
        let Some(Request::Query(query)) = self.outstanding.front_mut() else { return ServerStep::Forward };
        match message_type {
            backend::COPY_IN_RESPONSE => {
                query.visible = true;
                self.begin_copy_in();
                ServerStep::Forward
            }
            // A simple query tells its tag after the commit.
            backend::COMMAND_COMPLETE if query.withheld.is_none() => {
                query.withheld = Some(encode::message(message_type, body));
                ServerStep::Drop
            }
            backend::COMMAND_COMPLETE | backend::PARSE_COMPLETE | backend::BIND_COMPLETE | backend::CLOSE_COMPLETE => {
                ServerStep::Drop
            }
            _ => ServerStep::Forward,
        }
    }

    fn on_extended_reply(&mut self, message_type: u8, body: &[u8]) -> ServerStep {
        if let Some(Request::Injected { closes, .. }) = self.outstanding.front_mut() {
            match message_type {
                backend::CLOSE_COMPLETE => {
                    *closes -= 1;
                    if *closes == 0 {
                        self.outstanding.pop();
                    }
                    return ServerStep::Drop;
                }
                backend::PARSE_COMPLETE | backend::BIND_COMPLETE | backend::COMMAND_COMPLETE => {
                    return ServerStep::Drop;
                }
                _ => {}
            }
        }
        match message_type {
            backend::PARSE_COMPLETE => drop(self.outstanding.take(|request| matches!(request, Request::Parse(_)))),
            backend::BIND_COMPLETE => drop(self.outstanding.take(|request| matches!(request, Request::Bind(_)))),
            backend::CLOSE_COMPLETE => drop(self.outstanding.take(|request| matches!(request, Request::Close(_)))),
            backend::NO_DATA | backend::ROW_DESCRIPTION => {
                drop(self.outstanding.take(|request| matches!(request, Request::Describe)));
            }
            backend::COMMAND_COMPLETE | backend::EMPTY_QUERY_RESPONSE | backend::PORTAL_SUSPENDED => {
                self.on_executed(message_type, body);
            }
            backend::COPY_IN_RESPONSE => {
                self.begin_copy_in();
            }
            // ParameterDescription is followed by RowDescription or NoData; FunctionCallResponse by
            // ReadyForQuery; CopyOutResponse and CopyBothResponse by data.
            _ => {}
        }
        ServerStep::Forward
    }

    fn on_executed(&mut self, message_type: u8, body: &[u8]) {
        let executed = self.outstanding.take(|request| matches!(request, Request::Execute { .. }));
        if let Some(Request::Execute { copy_in: true, .. }) = executed {
            self.copies_in_flight = self.copies_in_flight.saturating_sub(1);
            self.copy_in = CopyIn::No;
        }
        if let Some(Request::Execute { write: Some(write), .. }) = executed {
            let changed = match message_type {
                backend::COMMAND_COMPLETE => tag_rows(body) != Some(0),
                // Rows of RETURNING have come; the changes are all made.
                backend::PORTAL_SUSPENDED => true,
                _ => false,
            };
            self.pending.on_outcome(write, changed);
        }
    }

    /// The client may have sent all of its data before. A Flush that was sent behind the COPY is ignored.
    fn begin_copy_in(&mut self) {
        self.flushed = false;
        self.copy_in = match self.copy_in {
            CopyIn::DoneEarly(1) => CopyIn::No,
            CopyIn::DoneEarly(count) => CopyIn::DoneEarly(count - 1),
            _ => CopyIn::Active,
        };
    }

    fn on_error(&mut self, body_bytes: usize, body: &[u8], out: &mut Output) -> ServerStep {
        self.flushed = false;
        if std::mem::replace(&mut self.copy_in, CopyIn::No) == CopyIn::Interrupted {
            self.on_interrupted(body);
        }
        self.copy_tenants = None;
        self.forget_measurement(self.unit_of_front());
        match self.outstanding.front_mut() {
            Some(Request::Query(_)) => return self.on_query_error(body_bytes, body, out),
            // As any FunctionCall.
            Some(Request::Call { learns, executed, .. }) => {
                *learns = None;
                if *executed || body.len() < body_bytes {
                    return ServerStep::Forward;
                }
                out.events.push(Event::InjectionFailed);
                encode::error_of_ours(body, &mut out.to_client);
                return ServerStep::Drop;
            }
            // FunctionCall answers an error with ReadyForQuery: nothing is skipped.
            Some(Request::FunctionCall { .. }) => return ServerStep::Forward,
            Some(Request::Rollback) => return ServerStep::Drop,
            _ => {}
        }
        if matches!(self.outstanding.front(), Some(Request::Injected { .. })) {
            out.events.push(Event::InjectionFailed);
        }
        if self.late_ready.is_some() {
            // The statement itself is committed: the client must not hear of an error.
            out.events.push(Event::LateBumpFailed(self.outstanding.take_late()));
            self.discard_until_sync(out);
            return ServerStep::Drop;
        }
        let ours = matches!(self.outstanding.front(), Some(Request::Injected { .. })) && body.len() == body_bytes;
        self.discard_until_sync(out);
        if ours {
            encode::error_of_ours(body, &mut out.to_client);
            return ServerStep::Drop;
        }
        ServerStep::Forward
    }

    /// The server skips everything up to the next Sync.
    fn discard_until_sync(&mut self, out: &mut Output) {
        let unit = self.unit_of_front();
        let ours = matches!(self.outstanding.front(), Some(Request::Injected { .. }));
        let (discarded, has_sync) = self.outstanding.discard_until_sync();
        // A Query or FunctionCall among what is skipped ended a unit of its own.
        let skipped_units = discarded.iter().filter(|request| request.ends_unit()).count();
        let unit = unit + skipped_units as u64;
        let mut skipped_ready = false;
        let mut skipped_end = false;
        for request in discarded {
            match request {
                Request::Parse(Some(undo)) | Request::Bind(Some(undo)) | Request::Close(Some(undo)) => {
                    if let Some(undo) = self.names.undo(*undo) {
                        self.outstanding.absorb(undo);
                    }
                }
                Request::Query(query) => {
                    self.forget_query(&query);
                    skipped_ready = true;
                }
                Request::Execute { first_of, ends_block, copy_in, .. } => {
                    skipped_end |= ends_block;
                    self.copies_in_flight = self.copies_in_flight.saturating_sub(usize::from(copy_in));
                    if let Some(portal) = first_of.and_then(|name| self.names.portal_mut(&name)) {
                        portal.executed = false;
                    }
                }
                Request::FunctionCall { .. } => skipped_ready = true,
                // The server skips it, and waits for the Sync.
                Request::Call { sync_sent: false, .. } => encode::sync(&mut out.to_server),
                _ => {}
            }
        }
        self.pending.forget_through(unit);
        if has_sync {
            if let Some(sync) = self.outstanding.sync_mut().filter(|_| ours && skipped_end) {
                sync.rollback_after = true;
            }
            return;
        }
        if ours && skipped_ready {
            // The client waits for the ReadyForQuery of a message that the server skips because of
            // us. In a failed transaction Sync commits nothing.
            encode::sync(&mut out.to_server);
            self.outstanding.push(Request::Sync(SyncRequest::default()));
        } else {
            self.phase = Phase::SkippingToSync;
        }
    }

    /// The unit that the oldest request belongs to: as many before the current one as ends are due.
    fn unit_of_front(&self) -> u64 {
        let ends = self.outstanding.iter().filter(|request| request.ends_unit()).count();
        self.unit.number.saturating_sub(ends as u64)
    }

    fn on_query_error(&mut self, body_bytes: usize, body: &[u8], out: &mut Output) -> ServerStep {
        let unit = self.unit_of_front();
        self.pending.forget_through(unit);
        let last = self.outstanding.len() == 1;
        let Some(Request::Query(query)) = self.outstanding.front_mut() else { return ServerStep::Forward };
        query.learns = None;
        if let Some(copy) = &mut query.copy {
            query.withheld = None;
            copy.failed = true;
            if !std::mem::replace(&mut copy.sync_sent, true) {
                encode::sync(&mut out.to_server);
            }
            return ServerStep::Forward;
        }
        if let Some(rewrite) = &query.rewrite
            && last
            && !query.visible
            && !query.again
        {
            let fields = ErrorFields::decode(body);
            // The server stopped reading in our part: the client's text ends too early. Nothing ran.
            let points_at_us = fields.position.is_some_and(|position| rewrite.map.origin(position) == Origin::Ours);
            let in_ours = fields.sqlstate == SYNTAX_ERROR && points_at_us;
            // Somebody has just removed the schema: there are no versions to move. All is rolled back.
            let gone = fields.sqlstate == INVALID_SCHEMA_NAME && points_at_us && rewrite.alone;
            // A statement that refuses the block that our part makes of it. All is rolled back.
            let refuses =
                fields.sqlstate == ACTIVE_SQL_TRANSACTION && fields.routine == PREVENTS_BLOCK && rewrite.alone;
            if in_ours || refuses || gone {
                query.again = true;
                query.withheld = None;
                // What is refused a block runs unmeasured.
                query.bump_all_after = u32::from(refuses);
                return ServerStep::Drop;
            }
        }
        // Our bump has failed, not the client's text before anything ran (a syntax error, for example).
        if query.bump_before_commit && !query.visible && (query.swallowing || points_into_ours(query, body)) {
            query.rollback_after = true;
        }
        if !query.swallowing {
            query.release(out);
        }
        query.withheld = None;
        query.visible = true;
        if std::mem::take(&mut query.swallowing) && body.len() == body_bytes {
            encode::error_of_ours(body, &mut out.to_client);
            return ServerStep::Drop;
        }
        forward_with_position(query, backend::ERROR_RESPONSE, body_bytes, body, out)
    }

    fn on_ready(&mut self, body: &[u8], out: &mut Output) -> ServerStep {
        let Some(status) = TransactionStatus::decode(body) else { return ServerStep::Forward };
        match self.outstanding.front_mut() {
            Some(Request::Ended) => {
                self.outstanding.pop();
                return ServerStep::Drop;
            }
            Some(Request::Call { learns, sync_sent, .. }) => {
                let (learns, sync_sent) = (learns.take(), *sync_sent);
                self.outstanding.pop();
                if !self.on_call_ready(status, learns, sync_sent, out) {
                    return ServerStep::Drop;
                }
            }
            _ => {}
        }
        self.flushed = false;
        if self.phase == Phase::Starting {
            self.phase = Phase::Ready;
            self.status = status;
            return ServerStep::Forward;
        }
        if self.phase == Phase::SkippingToSync {
            // A Sync that was sent while the server still read copy data.
            self.phase = Phase::Ready;
            self.unit = self.unit.next();
        }
        if status == TransactionStatus::InTransaction
            && let Some(sync_after) = self.outstanding.front_mut().and_then(Request::sync_after)
            && std::mem::take(sync_after)
        {
            self.end_implicit_block(out);
            return ServerStep::Drop;
        }
        let request = self.outstanding.pop();
        self.status = status;
        if status != TransactionStatus::InTransaction {
            self.after_transaction(status);
        }
        if status == TransactionStatus::Idle {
            self.counters.on_idle(self.outstanding.is_empty());
        }
        match request {
            Some(Request::Query(query)) => self.on_query_ready(*query, status, out),
            Some(Request::Sync(sync)) => {
                self.unconfirmed = self.unconfirmed.saturating_sub(usize::from(sync.changes_block));
                self.settings_in_flight = self.settings_in_flight.saturating_sub(usize::from(sync.changes_settings));
                self.ddl_in_flight = self.ddl_in_flight.saturating_sub(usize::from(sync.ddl));
                if self.outstanding.is_empty() && !self.unit.open {
                    self.copy_in = CopyIn::No;
                }
                if sync.rollback_after && status == TransactionStatus::Failed {
                    return self.end_failed_block(out);
                }
                self.after_statements(sync.ddl, status, out);
                self.late_bump(sync.bump_all_after, status, out)
            }
            Some(Request::LateSync { .. }) => {
                if let Some(waiting) = self.late_ready.take() {
                    self.status = waiting;
                }
                ServerStep::Forward
            }
            _ => {
                self.after_statements(false, status, out);
                self.late_bump(0, status, out)
            }
        }
    }

    /// Our FunctionCall is the oldest request.
    fn calls(&self) -> bool {
        matches!(self.outstanding.front(), Some(Request::Call { .. }))
    }

    /// What our FunctionCall returned: log rows; its transaction is not committed yet.
    fn on_call_result(&mut self, body: &[u8], out: &mut Output) -> ServerStep {
        let rows = body.get(4..).unwrap_or_default();
        if let Some(Request::Call { purpose, learns, executed, .. }) = self.outstanding.front_mut() {
            *executed = true;
            learns.take_if(|_| rows == b"0");
            let purpose = *purpose;
            self.on_result(purpose, rows, out);
        }
        ServerStep::Drop
    }

    /// A bump by FunctionCall has ended; the Sync behind it is the next request. Whether the unit ended with it: a server
    /// that does not end it says so, and Sync does.
    fn on_call_ready(
        &mut self,
        status: TransactionStatus,
        learns: Option<Key>,
        sync_sent: bool,
        out: &mut Output,
    ) -> bool {
        if let Some(key) = learns {
            self.view.analyzer.keys.add(key);
        }
        if status != TransactionStatus::Idle {
            if !sync_sent {
                encode::sync(&mut out.to_server);
            }
            return false;
        }
        if !sync_sent {
            return true;
        }
        let sync = self.outstanding.pop();
        self.outstanding.push_front(Request::Ended);
        if let Some(sync) = sync {
            self.outstanding.push_front(sync);
        }
        true
    }

    /// Ends the implicit block that a group of ours began and the client's message left open; a block that the client
    /// began stays. A Sync alone shows `I` and commits nothing before the next message (PostgreSQL 18.4): Parse starts
    /// what Sync then ends.
    fn end_implicit_block(&mut self, out: &mut Output) {
        let waiting = self.outstanding.pop();
        out.to_server.append(&mut self.injector.nothing());
        encode::sync(&mut out.to_server);
        self.outstanding.push(Request::Injected { purpose: Purpose::Bump, closes: 1 });
        if let Some(waiting) = waiting {
            self.outstanding.push(waiting);
        }
    }

    fn on_query_ready(&mut self, mut query: QueryRequest, status: TransactionStatus, out: &mut Output) -> ServerStep {
        self.forget_query(&query);
        if let Some(key) = query.learns.take().filter(|_| status == TransactionStatus::Idle) {
            self.view.analyzer.keys.add(key);
        }
        if query.rollback_after && status == TransactionStatus::Failed {
            return self.end_failed_block(out);
        }
        if let (true, Some(rewrite)) = (query.again, query.rewrite.take()) {
            out.events.push(Event::SentAgain);
            encode::query(&rewrite.original, &mut out.to_server);
            self.unconfirmed += 1;
            self.ddl_in_flight += usize::from(query.ddl);
            self.settings_in_flight += usize::from(query.changes_settings);
            self.outstanding.push(Request::Query(Box::new(QueryRequest {
                changes_block: true,
                ddl: query.ddl,
                changes_settings: query.changes_settings,
                bump_all_after: query.bump_all_after,
                ..QueryRequest::default()
            })));
            return ServerStep::Drop;
        }
        query.release(out);
        if self.copy_in != CopyIn::Consumed {
            self.copy_in = CopyIn::No;
        }
        if query.copy.is_some_and(|copy| copy.failed) {
            // An empty simple query removes the unnamed statement; the client gets its ReadyForQuery.
            encode::query(b"", &mut out.to_server);
            self.outstanding.push(Request::Rollback);
            return ServerStep::Drop;
        }
        self.after_statements(query.ddl, status, out);
        self.late_bump(query.bump_all_after, status, out)
    }

    /// The server has answered a query, or skips it.
    fn forget_query(&mut self, query: &QueryRequest) {
        self.unconfirmed = self.unconfirmed.saturating_sub(usize::from(query.changes_block));
        self.settings_in_flight = self.settings_in_flight.saturating_sub(usize::from(query.changes_settings));
        self.copies_in_flight = self.copies_in_flight.saturating_sub(usize::from(query.copy_in));
        self.ddl_in_flight = self.ddl_in_flight.saturating_sub(usize::from(query.ddl));
    }

    /// A bump that stood before the client's COMMIT has failed, and the server skipped the COMMIT. It
    /// would have ended the block: we do.
    fn end_failed_block(&mut self, out: &mut Output) -> ServerStep {
        encode::query(b"ROLLBACK", &mut out.to_server);
        self.outstanding.push(Request::Rollback);
        ServerStep::Drop
    }

    /// A transaction has ended or failed.
    fn after_transaction(&mut self, status: TransactionStatus) {
        if status == TransactionStatus::Failed {
            let unit = self.unit_of_front();
            self.pending.forget_through(unit.saturating_sub(1));
        }
        if status == TransactionStatus::Idle && self.outstanding.is_empty() && !self.unit.open {
            self.names.end_transaction();
            self.settings_unsettled = false;
        }
        if self.outstanding.is_empty() {
            self.names.settle();
        }
    }

    /// Others see the catalog's change when its transaction has ended.
    fn after_statements(&mut self, ddl: bool, status: TransactionStatus, out: &mut Output) {
        let ended = status == TransactionStatus::Idle;
        if ended && (ddl || self.own_ddl) {
            self.own_ddl = self.ddl_in_flight > 0 || self.unit.ddl;
            out.events.push(Event::CatalogChanged);
        }
    }

    /// Bumps in a transaction of their own, before the client hears that its statement has ended:
    /// after a statement that ran alone, or writes that were committed without their bumps.
    fn late_bump(&mut self, times: u32, status: TransactionStatus, out: &mut Output) -> ServerStep {
        self.bumps_owed = self.bumps_owed.saturating_add(times);
        if status != TransactionStatus::Idle || !self.outstanding.is_empty() {
            // A block was begun behind the procedure, in the same flight: its ROLLBACK must not undo them. Or messages
            // have followed: they wait for the next Sync.
            return ServerStep::Forward;
        }
        let times = std::mem::take(&mut self.bumps_owed);
        let forgotten = self.pending.take_confirmed();
        let statements = forgotten.iter().map(|(_, statements)| u32::try_from(*statements).unwrap_or(u32::MAX));
        let late = statements.fold(times, u32::saturating_add);
        if times > 0 {
            out.to_server.append(&mut self.injector.bump_all(times));
            self.push_injected(Purpose::BumpAll);
        }
        if !forgotten.is_empty() {
            out.events.push(Event::LateBump);
            self.inject_bumps(&forgotten, bump::Condition::Always, out);
        }
        if late == 0 {
            return ServerStep::Forward;
        }
        encode::sync(&mut out.to_server);
        self.outstanding.push(Request::LateSync { times: late });
        self.late_ready = Some(status);
        ServerStep::Drop
    }
}

impl QueryRequest {
    fn is_turn_of_ours(&self) -> bool {
        self.rewrite.as_ref().is_some_and(|rewrite| rewrite.turns.is_ours())
    }

    fn end_turn(&mut self) {
        if let Some(rewrite) = &mut self.rewrite {
            rewrite.turns.next();
        }
    }

    /// Gives the client the command tag or the description of rows that was withheld.
    fn release(&mut self, out: &mut Output) {
        if let Some(tag) = self.withheld.take() {
            out.to_client.extend_from_slice(&tag);
            self.visible = true;
        }
    }
}

/// Whether an error's position is in what we added to a text.
fn points_into_ours(query: &QueryRequest, body: &[u8]) -> bool {
    let position = ErrorFields::decode(body).position;
    let origin = query.rewrite.as_ref().zip(position).map(|(rewrite, position)| rewrite.map.origin(position));
    origin == Some(Origin::Ours)
}

/// Forwards an error or notice of a text that we changed, its position put right.
fn forward_with_position(
    query: &QueryRequest,
    message_type: u8,
    body_bytes: usize,
    body: &[u8],
    out: &mut Output,
) -> ServerStep {
    let Some(rewrite) = query.rewrite.as_ref().filter(|_| body.len() == body_bytes) else {
        return ServerStep::Forward;
    };
    let Some(position) = ErrorFields::decode(body).position else { return ServerStep::Forward };
    let mapped = match rewrite.map.origin(position) {
        Origin::Client(mapped) => mapped,
        Origin::Ours => return ServerStep::Forward,
    };
    encode::error_with_position(message_type, body, mapped, &mut out.to_client);
    ServerStep::Drop
}

/// Our functions return one number: log rows, negative where every domain was bumped blindly.
fn report_result(purpose: Purpose, text: &[u8], events: &mut Vec<Event>) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let rows = text.split(' ').next().unwrap_or_default();
    let Ok(rows) = rows.parse::<i64>() else { return };
    let count = rows.unsigned_abs();
    match purpose {
        _ if rows == 0 => {}
        Purpose::BumpAll if rows < 0 => {}
        _ if rows < 0 => events.push(Event::BlindBumps(count)),
        Purpose::BumpAll => events.push(Event::BlindBumps(count)),
        Purpose::MeasureEnd | Purpose::DefinitionEnd => events.push(Event::MeasuredBumps(count)),
        Purpose::Bump | Purpose::MeasureBegin | Purpose::Audit => events.push(Event::Bumped(count)),
    }
}
