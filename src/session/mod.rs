//! The session: one client, one server, and the bumps between them. Pure: bytes of messages in,
//! decisions and injected bytes out; no socket, no clock.
//!
//! # Contract
//! The shell splits both byte streams into messages. For each client message it asks
//! [`Session::client_need`] how much of the body is wanted, then calls [`Session::on_client`] and
//! does what the [`ClientStep`] says; the same with [`Session::server_need`] and
//! [`Session::on_server`]. Bytes of ours come in [`Output`]: `to_server` goes out *before* the
//! message at hand, `behind` after it, `to_client` before the server's message at hand.
//! [`ClientStep::Hold`]: nothing was consumed; the same message is offered again after the next
//! server message. Bytes of a message that [`Session::observes`] are shown to [`Session::observe_copy`] as
//! they pass. Nothing here fails, blocks, or grows beyond [`crate::limits`].
//!
//! ```text
//!                    StartupMessage … AuthenticationOk … ReadyForQuery
//!   Starting ───────────────────────────────────────────────────────────▶ Ready
//!
//!   Ready, for each client message:
//!     simple Query ─ simple.rs ─▶ relay │ relay with our statements in the text │ relay, then bump
//!     extended     ─ extended.rs ▶ relay │ injected groups around Execute, before Sync
//!   Ready, for each server message:
//!     server.rs ─ front of OutstandingRequests ─▶ forward │ drop (ours) │ forward late
//! ```
//!
//! Where a bump goes, by context (`transaction::Context`):
//!
//! | context | the bump of a known write |
//! |---|---|
//! | block, confirmed by ReadyForQuery | waits for the command tag (none for 0 rows), then goes before the next message that ends or divides the transaction, or reads versions |
//! | implicit transaction, only statement | before Sync (or behind it in the text), conditional on a transaction id |
//! | other implicit transactions | before Sync; waits for command tags only where a statement may have changed no row |
//! | not known before the server has answered | waits for the answer |

mod ahead;
mod bump;
mod by_name;
mod copy;
pub mod event;
mod extended;
mod measure;
mod outstanding;
mod prepared;
mod rewrite;
mod server;
mod simple;
#[cfg(test)]
pub(crate) mod simulation;
#[cfg(test)]
mod tests;
mod transaction;

use std::sync::Arc;

pub use ahead::{Ahead, LongText};
pub use event::{Event, StatementClass};

use self::bump::{Bumps, Condition, Injector, One};
use self::copy::CopyTenants;
use self::measure::{Counters, OpenMeasurement};
use self::outstanding::{OutstandingRequests, Purpose, Request};
use self::prepared::{Act, Names};
use self::rewrite::Characters;
use self::transaction::{Context, PendingWrites, Unit};
use crate::effect::cache::Analyzer;
use crate::effect::keys::KnownKeys;
use crate::effect::lexer::is_lexable_encoding;
use crate::effect::unknown::UnknownReason;
use crate::limits;
use crate::wire::backend::TransactionStatus;
use crate::wire::encode;
use crate::wire::message_type::frontend;
use crate::wire::{FRAME_HEADER_BYTES, FrameHeader};

/// How much of a message's body a decision needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: the message streams through.
    Header,
    /// At most the first [`limits::MESSAGE_PREFIX_BYTES_MAX`] bytes; the rest streams.
    Prefix,
    /// All of it.
    Whole,
}

impl Need {
    /// That part of the body, of a message that begins with `bytes`; `None` while it is not there.
    #[must_use]
    pub fn body(self, header: FrameHeader, bytes: &[u8]) -> Option<&[u8]> {
        let body_bytes = match self {
            Self::Header => 0,
            Self::Prefix => header.body_bytes.min(limits::MESSAGE_PREFIX_BYTES_MAX),
            Self::Whole => header.body_bytes,
        };
        bytes.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES.checked_add(body_bytes)?)
    }
}

/// What becomes of a client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientStep {
    /// It goes to the server.
    Relay,
    /// It does not; what stands for it is in [`Output::to_server`].
    Replace,
    /// It waits; offer it again after the next server message.
    Hold,
    /// It goes to the server, and is the last one: the client broke the protocol, the server will
    /// say so and close.
    RelayLast,
}

/// What becomes of a server's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerStep {
    /// It goes to the client.
    Forward,
    /// It is ours, or something else stands for it in [`Output::to_client`].
    Drop,
}

/// Bytes of ours, and what there is to report.
#[derive(Debug, Default)]
pub struct Output {
    /// For the server, before the message at hand.
    pub to_server: Vec<u8>,
    /// For the server, behind the message at hand.
    pub behind: Vec<u8>,
    /// For the client, before the message at hand.
    pub to_client: Vec<u8>,
    /// For counters and logs.
    pub events: Vec<Event>,
    /// Where the server measured something else than the analysis had said, as JSON: for `turbo.fn_audit_note`.
    pub findings: Vec<String>,
}

/// What the shell knows about the session's database right now.
#[derive(Debug, Clone)]
pub struct View {
    /// Catalog and remembered analyses.
    pub analyzer: Arc<Analyzer>,
    /// No change of the catalog is known that `analyzer` has not seen.
    pub fresh: bool,
}

/// Settings that the server reports (ParameterStatus).
#[derive(Debug)]
struct ServerSettings {
    standard_conforming_strings: bool,
    lexable: bool,
    characters: Characters,
    /// The server takes our texts for what they are: UTF-8.
    utf8: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Until the first ReadyForQuery.
    Starting,
    /// Normal operation.
    Ready,
    /// The server skips messages until Sync.
    SkippingToSync,
}

/// Copy-in as far as the client's messages tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyIn {
    /// None, or its data are all sent.
    No,
    /// What may be a COPY FROM STDIN was sent; its CopyInResponse may come.
    Expected,
    /// The client sent all data of so many COPYs (a text may have several) before their CopyInResponse came.
    DoneEarly(usize),
    /// The server reads copy data.
    Active,
    /// The client sent what belongs into no data, and waits: an empty query was sent in its place.
    Interrupted,
    /// That made the COPY fail, as the client's message would have done.
    Consumed,
}

/// The state machine of one client. See the module's documentation for the contract.
#[derive(Debug)]
pub struct Session {
    view: View,
    injector: Injector,
    settings: ServerSettings,
    phase: Phase,
    status: TransactionStatus,
    outstanding: OutstandingRequests,
    /// Outstanding Syncs and Queries after which only ReadyForQuery tells the transaction status.
    unconfirmed: usize,
    unit: Unit,
    pending: PendingWrites,
    names: Names,
    copy_in: CopyIn,
    /// This session changed the catalog in its open transaction: others cannot see that yet.
    own_ddl: bool,
    /// The tenants of the COPY FROM STDIN that is under way.
    copy_tenants: Option<CopyTenants>,
    /// A measurement whose end is not sent yet.
    open_measurement: Option<OpenMeasurement>,
    /// What is known of the server's counters.
    counters: Counters,
    /// The proof of what the measurement at hand has remembered on the server.
    remembered: Option<Box<[u8]>>,
    /// The portal of which a portion was measured, if no other statement was sent since.
    portion_of: Option<Box<[u8]>>,
    /// Outstanding messages that may change how strings are read.
    settings_in_flight: usize,
    /// A statement may have changed how strings are read: the end of its transaction may change it back.
    settings_unsettled: bool,
    /// Outstanding messages that may make the server read copy data.
    copies_in_flight: usize,
    /// Outstanding messages that may change the catalog.
    ddl_in_flight: usize,
    /// A Flush was sent so that command tags come.
    flushed: bool,
    /// Late bumps of every domain that wait for the end of a block.
    bumps_owed: u32,
    /// ReadyForQuery that waits for a late bump.
    late_ready: Option<TransactionStatus>,
    /// The analysis of the next message's text, if that is long.
    ahead: Option<Ahead>,
}

/// How a unit outside of a block ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BeforeSync {
    /// The client's Sync ends it.
    Sync,
    /// A call of ours ends it; the Sync waits.
    Call,
    /// Not yet.
    Hold,
}

impl Session {
    /// A session that starts. `name` names everything of ours on the server connection: an SQL
    /// identifier that no client can guess, lower case.
    #[must_use]
    pub fn new(view: View, name: &str) -> Self {
        let settings = view.analyzer.settings();
        let tenant_settings = if settings.trust_tenant_setting { settings.tenant_settings.as_slice() } else { &[] };
        Self {
            injector: Injector::new(name, tenant_settings),
            view,
            settings: ServerSettings {
                standard_conforming_strings: true,
                lexable: true,
                characters: Characters::Utf8,
                utf8: true,
            },
            phase: Phase::Starting,
            status: TransactionStatus::Idle,
            outstanding: OutstandingRequests::default(),
            unconfirmed: 0,
            unit: Unit::default(),
            pending: PendingWrites::default(),
            names: Names::default(),
            copy_in: CopyIn::No,
            own_ddl: false,
            copy_tenants: None,
            open_measurement: None,
            counters: Counters::default(),
            remembered: None,
            portion_of: None,
            settings_in_flight: 0,
            settings_unsettled: false,
            copies_in_flight: 0,
            ddl_in_flight: 0,
            flushed: false,
            bumps_owed: 0,
            late_ready: None,
            ahead: None,
        }
    }

    /// Replaces what is known about the database.
    pub fn set_view(&mut self, view: View) {
        if !view.analyzer.catalog.installed {
            // The schema goes, and with it what waits to be written there.
            self.pending.forget();
            self.open_measurement = None;
        }
        self.view = view;
        // Other relations may be tracked now.
        self.counters = Counters::Unknown;
    }

    /// Whether the start-up phase is over.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase != Phase::Starting
    }

    /// Whether nothing is under way: no transaction, no reply due. Then a drain may close.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.is_ready()
            && self.status == TransactionStatus::Idle
            && self.outstanding.is_empty()
            && !self.unit.open
            && self.copy_in == CopyIn::No
    }

    /// Messages that the server owes a reply to.
    #[must_use]
    pub fn outstanding_len(&self) -> usize {
        self.outstanding.len()
    }

    /// How much of a client message is wanted.
    #[must_use]
    pub const fn client_need(&self, message_type: u8, body_bytes: usize) -> Need {
        let whole_up_to = match message_type {
            frontend::QUERY | frontend::PARSE => limits::HELD_MESSAGE_BYTES_MAX,
            frontend::BIND => limits::HELD_BIND_BYTES_MAX,
            frontend::EXECUTE | frontend::CLOSE | frontend::DESCRIBE | frontend::FUNCTION_CALL => {
                limits::MESSAGE_PREFIX_BYTES_MAX
            }
            _ => return Need::Header,
        };
        if matches!(self.phase, Phase::Starting) {
            Need::Header
        } else if body_bytes <= whole_up_to {
            Need::Whole
        } else {
            Need::Prefix
        }
    }

    /// Decides about a client message; `body` is as much of it as [`Session::client_need`] said.
    pub fn on_client(&mut self, message_type: u8, body_bytes: usize, body: &[u8], out: &mut Output) -> ClientStep {
        if self.phase == Phase::Starting {
            // Statements that are sent behind the StartupMessage wait for the end of the start-up phase.
            return if message_type == frontend::PASSWORD { ClientStep::Relay } else { ClientStep::Hold };
        }
        if self.copy_in == CopyIn::Consumed {
            self.copy_in = CopyIn::No;
            return ClientStep::Replace;
        }
        if let Some(sync_sent) = self.outstanding.unsynced_call() {
            // If its unit fails the server skips what follows, up to this Sync.
            *sync_sent = true;
            encode::sync(&mut out.to_server);
        }
        if self.must_hold(message_type) {
            if self.copies_in_flight > 0 {
                // Neither its failure nor its end is told before Sync, unless it is asked for.
                self.wait_for_outcomes(out);
            }
            return ClientStep::Hold;
        }
        let whole = body.len() == body_bytes;
        match message_type {
            // The server reads them without a reply; CopyData outside of copy-in is dropped by it.
            frontend::COPY_DATA | frontend::PASSWORD => ClientStep::Relay,
            frontend::COPY_DONE | frontend::COPY_FAIL => self.on_copy_end(message_type, out),
            frontend::TERMINATE | frontend::FLUSH => ClientStep::Relay,
            _ if self.copy_in == CopyIn::Active => self.on_client_in_copy(message_type, out),
            frontend::SYNC => self.on_sync(out),
            _ if self.phase == Phase::SkippingToSync => ClientStep::Relay,
            _ => self.on_statement_message(message_type, body, whole, out),
        }
    }

    fn on_statement_message(&mut self, message_type: u8, body: &[u8], whole: bool, out: &mut Output) -> ClientStep {
        self.end_measurement(out);
        if message_type != frontend::EXECUTE {
            self.portion_of = None;
        }
        match message_type {
            frontend::QUERY if whole => self.on_query(body, out),
            frontend::QUERY => self.on_opaque_query(out),
            frontend::PARSE => self.on_parse(body, whole),
            frontend::BIND => self.on_bind(body, whole, out),
            frontend::EXECUTE => self.on_execute(body, out),
            frontend::DESCRIBE => self.on_describe(),
            frontend::CLOSE => self.on_close(body),
            frontend::FUNCTION_CALL => self.on_function_call(body, out),
            // The server ends the session with a FATAL error: "invalid frontend message type".
            _ => ClientStep::RelayLast,
        }
    }

    /// Whether the message has to wait for the server.
    fn must_hold(&self, message_type: u8) -> bool {
        if self.copy_in == CopyIn::Interrupted {
            return true;
        }
        let copy_message = matches!(message_type, frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL);
        let early = copy_message && matches!(self.copy_in, CopyIn::DoneEarly(_));
        if self.copy_in == CopyIn::Active || early {
            // The server waits for it.
            return false;
        }
        if self.outstanding.len() >= limits::OUTSTANDING_REQUESTS_MAX
            || self.late_ready.is_some()
            || self.settings_in_flight > 0
        {
            return true;
        }
        let passes_copy = copy_message
            || matches!(message_type, frontend::FLUSH | frontend::TERMINATE)
            || (message_type == frontend::SYNC && self.copy_in != CopyIn::Expected && !self.copies_by_query());
        if self.copies_in_flight > 0 && !passes_copy {
            // Whether the COPY has begun at all, only the server's answer tells.
            return true;
        }
        match self.outstanding.back() {
            // Until its ReadyForQuery nothing may stand before the Sync that stands for it.
            Some(Request::Query(query)) if query.copy.is_some() => !copy_message,
            // What was added to a text may make it fail; then it is sent again as it was, and
            // nothing else may have come between.
            Some(Request::Query(query)) => {
                (query.rewrite.is_some() && !query.visible)
                    || query.bump_all_after > 0
                    || query.bump_before_commit
                    || self.bumps_owed > 0
            }
            // Behind its ReadyForQuery a bump may go in a transaction of its own.
            Some(Request::Sync(sync)) => sync.bump_all_after > 0 || self.bumps_owed > 0,
            Some(Request::Rollback | Request::FunctionCall { .. }) => true,
            _ => false,
        }
    }

    /// Whether what may copy is a simple query: more COPYs may be in its text.
    fn copies_by_query(&self) -> bool {
        matches!(self.outstanding.back(), Some(Request::Query(_)))
    }

    /// Whether ReadyForQuery is due: after the client has closed its side the server still answers.
    /// (Never a Sync on the client's behalf: that would commit.) A server that waits for copy data which
    /// will not come owes nothing.
    #[must_use]
    pub fn owes_ready(&self) -> bool {
        self.copy_in != CopyIn::Active && self.outstanding.iter().any(Request::ends_with_ready)
    }

    /// Whether the server may have to get something of ours yet: behind an answer that is due (a text once more, a Sync, a
    /// ROLLBACK), or a late bump.
    #[must_use]
    pub fn may_write(&self) -> bool {
        let synced = matches!(self.outstanding.iter().last(), Some(Request::Sync(_)));
        let owes_bumps = self.bumps_lost() > 0;
        let needs_more = || self.outstanding.iter().any(|request| request.may_need_more(synced));
        self.owes_late_bump() || (self.owes_ready() && (owes_bumps || needs_more()))
    }

    /// Nothing follows: the server gets what it waits for.
    pub fn on_client_end(&mut self, out: &mut Output) {
        if let Some(sync_sent) = self.outstanding.unsynced_call() {
            *sync_sent = true;
            encode::sync(&mut out.to_server);
        }
    }

    /// Whether an answer is due behind which a bump in a transaction of its own goes, or its own answer: the connection to
    /// the server is needed even if the client is gone.
    #[must_use]
    pub fn owes_late_bump(&self) -> bool {
        self.late_ready.is_some() || self.outstanding.iter().any(|request| request.late_bumps() > 0)
    }

    /// This session's open transaction may have changed the catalog: others cannot see that yet.
    #[must_use]
    pub const fn changes_catalog(&self) -> bool {
        self.own_ddl
    }

    /// How often every domain is to be bumped if the session ends now: for statements that may have committed, and whose bumps
    /// have not. They cannot go on this connection: the server is gone, or a Sync would commit what followed them.
    #[must_use]
    pub fn bumps_lost(&self) -> u32 {
        let requests = self.outstanding.iter().map(Request::late_bumps);
        requests.fold(self.unit.bump_all_after.saturating_add(self.bumps_owed), u32::saturating_add)
    }

    /// The transaction in which the next message will be processed.
    fn context(&self) -> Context {
        if let Some(context) = self.unit.context {
            return context;
        }
        if self.unconfirmed > 0 {
            return Context::Uncertain;
        }
        match self.status {
            TransactionStatus::Idle => Context::Implicit,
            TransactionStatus::InTransaction => Context::Block,
            TransactionStatus::Failed => Context::Failed,
        }
    }

    /// Whether versions are kept here at all.
    ///
    /// On a hot standby too: that the server said so when the session began is no reason to skip anything, since it may
    /// have been promoted, and behind a pooler nobody says. There our statements find nothing written.
    fn is_active(&self) -> bool {
        self.view.analyzer.catalog.installed
    }

    /// Whether an answer of the server will tell what the context is.
    fn will_be_certain(&self) -> bool {
        self.unconfirmed > 0 && !self.unit.open
    }

    /// Whether the catalog at hand is the one that the server works with.
    const fn is_fresh(&self) -> bool {
        self.view.fresh && !self.own_ddl
    }

    /// Whether what the catalog of this generation said still holds.
    fn knows(&self, generation: u64) -> bool {
        self.is_fresh() && generation == self.view.analyzer.catalog.generation
    }

    fn is_harmless_cursor(&self, name: &str) -> bool {
        self.is_fresh() && self.names.is_harmless_cursor(name, self.view.analyzer.catalog.generation)
    }

    fn declare_cursor(&mut self, name: &str, harmless: bool) {
        self.names.declare_cursor(name, harmless, self.view.analyzer.catalog.generation);
    }

    /// Outside of a block, and nothing since the last Sync: what the client sends now is a transaction of its own.
    fn stands_alone(&self) -> bool {
        self.context() == Context::Implicit && !self.unit.open
    }

    /// Puts the bumps of all pending writes before the message at hand. `false`: a command tag must
    /// come first; a Flush is under way.
    fn inject_pending(&mut self, out: &mut Output) -> bool {
        if self.pending.is_empty() {
            return true;
        }
        let Some(condition) = self.settle_condition(out) else { return false };
        let bumps = self.pending.take();
        self.inject_bumps(&bumps, condition, out);
        true
    }

    fn inject_bumps(&mut self, bumps: &Bumps, condition: Condition, out: &mut Output) {
        out.to_server.extend_from_slice(&self.injector.bump(bumps, condition, self.keys()));
        self.push_injected(Purpose::Bump);
    }

    /// The same before the Sync of a unit outside of a block: one pair is bumped by a FunctionCall, which costs the server
    /// half of what a group costs, and commits: the Sync need not be sent.
    fn bump_before_sync(&mut self, out: &mut Output) -> BeforeSync {
        if self.pending.is_empty() {
            return BeforeSync::Sync;
        }
        let Some(condition) = self.settle_condition(out) else { return BeforeSync::Hold };
        let bumps = self.pending.take();
        let calls = self.view.analyzer.catalog.calls.filter(|_| self.unit.bump_all_after == 0);
        let (Some(calls), Some(one)) = (calls, One::of(&bumps)) else {
            self.inject_bumps(&bumps, condition, out);
            return BeforeSync::Sync;
        };
        let known = one.is_known(self.keys());
        out.to_server.append(&mut Injector::call(calls.bump, &one, known, condition));
        let learns = (!known).then(|| one.key());
        self.outstanding.push(Request::Call { purpose: Purpose::Bump, learns, executed: false, sync_sent: false });
        BeforeSync::Call
    }

    /// Pairs that the database need not look for; none where a bump may cascade, or nobody knows whether it does.
    fn keys(&self) -> Option<&KnownKeys> {
        let analyzer = &self.view.analyzer;
        (self.is_fresh() && analyzer.catalog.cascades.is_empty()).then_some(&analyzer.keys)
    }

    /// On what the bumps that wait depend; `None`: not known yet, the server is asked.
    fn settle_condition(&mut self, out: &mut Output) -> Option<Condition> {
        if self.block_may_have_failed() {
            return None;
        }
        let condition = if self.is_decided() {
            Condition::Always
        } else if self.pending.is_single_traced() && self.unit.executes == 1 && self.context() == Context::Implicit {
            Condition::IfWritten
        } else {
            self.wait_for_outcomes(out);
            return None;
        };
        self.flushed = false;
        Some(condition)
    }

    /// Earlier messages of what may be a block are unanswered: it may have failed meanwhile. Then the
    /// server refuses our part, and a COMMIT or ROLLBACK behind it would not be processed.
    fn block_may_have_failed(&self) -> bool {
        self.context() != Context::Implicit && self.outstanding.iter().any(Request::ends_unit)
    }

    /// Whether the bumps of pending writes can be said. Nothing is waited for when nothing is due.
    fn is_decided(&self) -> bool {
        self.pending.is_decided() || self.outstanding.is_empty()
    }

    /// Makes the server send the command tags that are due.
    fn wait_for_outcomes(&mut self, out: &mut Output) {
        if !self.flushed {
            encode::flush(&mut out.to_server);
            out.events.push(Event::Waited);
            self.flushed = true;
        }
    }

    fn push_injected(&mut self, purpose: Purpose) {
        self.outstanding.push(Request::Injected { purpose, closes: bump::GROUP_CLOSES });
    }

    /// A statement is about to be sent; whether it may change how strings are read, by itself or by ending or
    /// undoing what did.
    fn unsettles(&mut self, changes_settings: bool, is_control: bool) -> bool {
        let unsettles = changes_settings || (is_control && self.settings_unsettled);
        self.settings_unsettled |= changes_settings;
        unsettles
    }

    /// Whether the server reads these names as we write them; where not, it has to say them itself.
    fn can_say(&self, names: &str) -> bool {
        (self.settings.utf8 && !self.unit.changes_settings) || names.is_ascii()
    }

    /// What a statement does, in words that the server understands.
    fn sayable(&self, act: Act) -> Act {
        match act {
            Act::Write { effect, .. } if !effect.iter().all(|(domain, _)| self.can_say(domain)) => {
                Act::Measure(UnknownReason::Encoding)
            }
            act => act,
        }
    }

    /// A statement that may change the catalog is about to be sent.
    fn note_ddl(&mut self, out: &mut Output) {
        self.own_ddl = true;
        out.events.push(Event::CatalogChanged);
    }

    fn set_parameter(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"standard_conforming_strings" => self.settings.standard_conforming_strings = value == b"on",
            b"client_encoding" => {
                self.settings.lexable = is_lexable_encoding(value);
                self.settings.characters = Characters::of_encoding(value);
                self.settings.utf8 = value.eq_ignore_ascii_case(b"UTF8");
            }
            _ => {}
        }
    }
}
