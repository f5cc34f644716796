//! One client: two sockets, two byte streams, one [`Session`]. The only pump.
//!
//! Both directions are served by one task that never waits for one of them: whatever is readable is
//! read (unless the other side's output is above its high-water mark), whatever is writable is
//! written. Bytes that go through unchanged are written from where they were read; only what does not
//! fit into the socket at once is copied.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::late::LateBumps;
use super::signals::{Signal, Signals};
use super::socket::Socket;
use crate::catalog::loader::{CatalogChange, Lease};
use crate::limits;
use crate::session::{Ahead, ClientStep, Event, LongText, Output, ServerStep, Session, View};
use crate::telemetry::metrics::Metrics;
use crate::wire::framing::run_bytes;
use crate::wire::{FRAME_HEADER_BYTES, FrameHeader, encode};

thread_local! {
    /// What sockets are read into: a connection without work holds no buffer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; limits::READ_BYTES]);
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A side closed its connection.
    Closed,
    /// The client broke the protocol.
    Violation,
    /// The process is shutting down.
    Drained,
}

/// A connected pair.
#[derive(Debug)]
pub struct Connection {
    /// The client.
    pub client: Socket,
    /// The server.
    pub server: Socket,
    /// Which database; `None` for a replication session, which is relayed without a look.
    pub database: Option<Lease>,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// Shutdown has begun.
    pub drain: CancellationToken,
    /// Shutdown cannot wait any longer.
    pub kill: CancellationToken,
    /// Any number, to spread what is counted over.
    pub shard: usize,
    /// For bumps that its connection cannot carry.
    pub late: LateBumps,
}

/// What a connection begins with.
#[derive(Debug, Default)]
pub struct Begun {
    /// The startup packet, if the server has not got it yet.
    pub packet: Vec<u8>,
    /// What the client sent behind it.
    pub early: Vec<u8>,
    /// What the server has said.
    pub replies: Vec<u8>,
}

/// One direction: input that is not processed yet, output that is not written yet.
#[derive(Debug, Default)]
struct Lane {
    /// Read, not processed.
    input: Vec<u8>,
    /// To be written to the *other* side.
    output: Vec<u8>,
    /// Bytes of the message at hand that still stream through, or are dropped.
    streaming: usize,
    /// The session reads the streaming message's bytes as they pass.
    observed: bool,
    /// Bytes of ours that go behind the message that is streaming.
    behind_stream: Vec<u8>,
    /// The streaming message does not go on.
    dropping: bool,
    /// The end of the stream was read.
    ended: bool,
}

pub(super) struct Pump {
    client: Socket,
    server: Socket,
    /// From the client.
    up: Lane,
    /// From the server.
    down: Lane,
    session: Option<Session>,
    view: Option<View>,
    database: Option<Lease>,
    /// The session's open transaction has changed the catalog.
    change: Option<CatalogChange>,
    metrics: Arc<Metrics>,
    late: LateBumps,
    out: Output,
    held: bool,
    /// The text of the client's next message is being analysed.
    thinking: Option<AbortOnDropHandle<io::Result<Ahead>>>,
    /// Texts longer than that are, in bytes.
    long_text_bytes: usize,
    /// Nothing more of the client is processed.
    last_words: bool,
    client_gone: bool,
    server_shut: bool,
    shard: usize,
    /// Reads of both sockets, for samples.
    reads: u32,
}

impl Connection {
    /// Relays what has begun and then everything, until a side closes. `name` is that of everything of ours on the
    /// server connection.
    ///
    /// # Errors
    /// Of the sockets; the session is over then.
    pub async fn run(self, begun: Begun, name: &str) -> io::Result<Ending> {
        let view = self.database.as_ref().map(|database| database.view());
        let session = view.clone().map(|view| Session::new(view, name));
        let mut pump = Pump::new(self.client, self.server, session, self.metrics, self.late);
        pump.view = view;
        pump.database = self.database;
        pump.shard = self.shard;
        pump.up.output = begun.packet;
        pump.up.input = begun.early;
        let consumed = pump.process_server(&begun.replies)?;
        pump.down.input = keep_rest(begun.replies, consumed);
        pump.process_client_input()?;
        let ending = pump.run(&self.drain, &self.kill).await;
        pump.bump_what_was_left().await;
        ending
    }
}

/// Of all sessions that have a long text.
static LONG_TEXTS: Semaphore = Semaphore::const_new(limits::LONG_TEXTS_AT_ONCE);

async fn analyze(text: LongText) -> io::Result<Ahead> {
    let turn = LONG_TEXTS.acquire().await.map_err(io::Error::other)?;
    let analysis = move || {
        // Until it ends, whoever waits for it or does no longer.
        let _turn = turn;
        text.analyze()
    };
    tokio::task::spawn_blocking(analysis).await.map_err(io::Error::other)
}

/// A pump without a database, that has logged in.
#[cfg(test)]
pub(super) fn pump_for_tests(client: Socket, server: Socket, session: Session, long_text_bytes: usize) -> Pump {
    let late = LateBumps { home: tokio::runtime::Handle::current(), kill: CancellationToken::new() };
    let mut pump = Pump::new(client, server, Some(session), Arc::new(Metrics::new()), late);
    pump.long_text_bytes = long_text_bytes;
    pump
}

impl Pump {
    fn new(client: Socket, server: Socket, session: Option<Session>, metrics: Arc<Metrics>, late: LateBumps) -> Self {
        Self {
            client,
            server,
            up: Lane::default(),
            down: Lane::default(),
            session,
            view: None,
            database: None,
            change: None,
            metrics,
            late,
            out: Output::default(),
            held: false,
            thinking: None,
            long_text_bytes: limits::TEXT_BYTES_AT_ONCE,
            last_words: false,
            client_gone: false,
            server_shut: false,
            shard: 0,
            reads: 0,
        }
    }

    pub(super) async fn run(&mut self, drain: &CancellationToken, kill: &CancellationToken) -> io::Result<Ending> {
        let (drain, kill) = (pin!(drain.cancelled()), pin!(kill.cancelled()));
        let mut signals = Signals::new(drain, kill);
        let mut draining = false;
        loop {
            self.write_out()?;
            if let Some(ending) = self.ending(draining) {
                return self.finish(ending).await;
            }
            self.close_server_side().await;
            if self.last_words {
                signals.end_within(limits::LAST_WORDS_TIMEOUT);
            }
            let wake = poll_fn(|context| match signals.poll(context) {
                Poll::Ready(signal) => Poll::Ready(Ok(Some(signal))),
                Poll::Pending => self.poll_sockets(context).map_ok(|()| None),
            });
            match wake.await? {
                None => {}
                Some(Signal::Drain) => draining = true,
                Some(Signal::Kill) => return self.finish(Ending::Drained).await,
                Some(Signal::Deadline) => return Ok(Ending::Violation),
            }
        }
    }

    /// Reads and writes what can be; ready when something was.
    fn poll_sockets(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let thought = self.poll_thought(context)?.is_ready();
        let client = self.reads_client() && self.poll_client(context)?.is_ready();
        let server = self.reads_server() && self.poll_server(context)?.is_ready();
        let down = self.writes_client() && self.client.poll_writable(context)?.is_ready();
        let up = self.writes_server() && self.server.poll_writable(context)?.is_ready();
        if thought || client || server || down || up { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Goes on with the client's messages when the next one's text is analysed.
    fn poll_thought(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(thinking) = &mut self.thinking else { return Poll::Pending };
        let ahead = ready!(Pin::new(thinking).poll(context)).map_err(io::Error::other)??;
        self.thinking = None;
        if let Some(session) = &mut self.session {
            session.set_ahead(Some(ahead));
        }
        if !self.held {
            self.process_client_input()?;
            self.write_out()?;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn bumps_lost(&self) -> u32 {
        self.session.as_ref().map_or(0, Session::bumps_lost)
    }

    /// What may have committed, and lost its bump with the session.
    async fn bump_what_was_left(&mut self) {
        let lost = self.bumps_lost();
        if let Some(database) = self.database.take_if(|_| lost > 0) {
            // It ends badly only where the process ends.
            let _stopped = self.late.bump_all(database, lost).await;
        }
    }

    /// For an answer of the server, or the analysis of its text.
    const fn client_waits(&self) -> bool {
        self.held || self.thinking.is_some()
    }

    const fn reads_client(&self) -> bool {
        // A client that is held back is still read a little: its end is to be noticed.
        let room = !self.client_waits() || self.up.input.len() < limits::READ_BYTES;
        let below = self.up.output.len() < limits::OUTPUT_HIGH_WATER_BYTES;
        !self.up.ended && room && !self.last_words && below
    }

    const fn reads_server(&self) -> bool {
        !self.down.ended && self.down.output.len() < limits::OUTPUT_HIGH_WATER_BYTES
    }

    fn writes_client(&self) -> bool {
        (!self.down.output.is_empty() || self.client.wants_flush()) && !self.client_gone
    }

    fn writes_server(&self) -> bool {
        (!self.up.output.is_empty() || self.server.wants_flush()) && !self.server_shut
    }

    /// Whether, and how, the session is over.
    fn ending(&self, draining: bool) -> Option<Ending> {
        if self.down.ended && !self.writes_client() {
            return Some(if self.last_words { Ending::Violation } else { Ending::Closed });
        }
        let late = self.session.as_ref().is_some_and(Session::owes_late_bump);
        if self.client_gone && !late {
            return Some(Ending::Closed);
        }
        let at_rest = self.session.as_ref().is_none_or(Session::is_at_rest);
        let quiet =
            self.up.input.is_empty() && !self.writes_client() && !self.writes_server() && self.up.streaming == 0;
        (draining && at_rest && quiet).then_some(Ending::Drained)
    }

    async fn finish(&mut self, ending: Ending) -> io::Result<Ending> {
        if ending == Ending::Drained && !self.client_gone && self.down.streaming == 0 {
            let mut farewell = Vec::new();
            encode::fatal("57P01", "terminating connection due to administrator command", "", &mut farewell);
            self.down.output.extend_from_slice(&farewell);
            // The client may be gone, or read nothing; it has no claim on more than a try.
            let _unwritten = self.client.try_write(&self.down.output);
        }
        self.client.shutdown().await;
        Ok(ending)
    }

    /// Passes the end of the client's stream on, once nothing of ours may have to follow: a server that looks for it
    /// (`client_connection_check_interval`) learns of it in the middle of a statement, as it does without us.
    async fn close_server_side(&mut self) {
        let done = self.up.ended && !self.writes_server() && !self.client_waits() && !self.server_shut;
        if !done {
            return;
        }
        // In the middle of a message the server hears of nothing else.
        if let Some(session) = self.session.as_mut().filter(|_| self.up.streaming == 0) {
            session.on_client_end(&mut self.out);
            self.up.output.append(&mut self.out.to_server);
            if self.writes_server() || self.session.as_ref().is_some_and(Session::may_write) {
                return;
            }
        }
        self.server_shut = true;
        self.server.shutdown().await;
    }

    fn poll_client(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| match ready!(self.client.poll_read(context, scratch)) {
            Ok(count) => Poll::Ready(self.read_client(scratch.get(..count).unwrap_or_default())),
            Err(_) => {
                self.lose_client();
                Poll::Ready(Ok(()))
            }
        })
    }

    /// No bytes are the end of the stream.
    fn read_client(&mut self, bytes: &[u8]) -> io::Result<()> {
        super::workers::note_read();
        let start = self.start_of_sample();
        self.update_view();
        self.up.ended = bytes.is_empty();
        if self.up.input.is_empty() && !self.held {
            let consumed = self.process_client(bytes)?;
            self.up.input.extend_from_slice(bytes.get(consumed..).unwrap_or_default());
        } else {
            self.up.input.extend_from_slice(bytes);
            if !self.held {
                self.process_client_input()?;
            }
        }
        self.write_out()?;
        self.end_sample(start);
        Ok(())
    }

    fn process_client_input(&mut self) -> io::Result<()> {
        let input = std::mem::take(&mut self.up.input);
        let consumed = self.process_client(&input)?;
        self.up.input = keep_rest(input, consumed);
        Ok(())
    }

    fn poll_server(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| match ready!(self.server.poll_read(context, scratch)) {
            // What the server said before it went away is still forwarded.
            Ok(0) | Err(_) => {
                self.down.ended = true;
                Poll::Ready(Ok(()))
            }
            Ok(count) => Poll::Ready(self.read_server(scratch.get(..count).unwrap_or_default())),
        })
    }

    fn read_server(&mut self, bytes: &[u8]) -> io::Result<()> {
        super::workers::note_read();
        let start = self.start_of_sample();
        if self.down.input.is_empty() {
            let consumed = self.process_server(bytes)?;
            self.down.input.extend_from_slice(bytes.get(consumed..).unwrap_or_default());
        } else {
            let mut input = std::mem::take(&mut self.down.input);
            input.extend_from_slice(bytes);
            let consumed = self.process_server(&input)?;
            self.down.input = keep_rest(input, consumed);
        }
        if self.held {
            self.held = false;
            self.update_view();
            self.process_client_input()?;
        }
        self.write_out()?;
        self.end_sample(start);
        Ok(())
    }

    /// Looking at the clock and into a histogram costs as much as a decision about a message: some reads stand for all.
    fn start_of_sample(&mut self) -> Option<Instant> {
        let due = self.reads.is_multiple_of(limits::LATENCY_SAMPLED_READS);
        self.reads = self.reads.wrapping_add(1);
        due.then(Instant::now)
    }

    fn end_sample(&self, start: Option<Instant>) {
        if let Some(start) = start {
            self.metrics.added_latency(self.shard, start.elapsed());
        }
    }

    fn lose_client(&mut self) {
        self.up.ended = true;
        self.client_gone = true;
        self.down.output = Vec::new();
    }

    fn update_view(&mut self) {
        if let (Some(database), Some(view), Some(session)) = (&self.database, &mut self.view, &mut self.session)
            && !database.is_current(view)
        {
            *view = database.view();
            session.set_view(view.clone());
        }
    }

    /// Processes what the client sent; returns how many bytes are done with.
    fn process_client(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        let mut relay_from = 0;
        while at < bytes.len() && !self.client_waits() {
            let rest = bytes.get(at..).unwrap_or_default();
            if self.last_words || self.session.is_none() {
                at = bytes.len();
                break;
            }
            if self.up.streaming > 0 {
                let part = self.up.streaming.min(rest.len());
                self.up.streaming -= part;
                if self.up.observed
                    && let Some(session) = &mut self.session
                {
                    session.observe_copy(rest.get(..part).unwrap_or_default());
                }
                if self.up.dropping {
                    self.gather_up(bytes.get(relay_from..at).unwrap_or_default())?;
                    relay_from = at + part;
                }
                at += part;
                if self.up.streaming == 0 && !self.up.behind_stream.is_empty() {
                    self.gather_up(bytes.get(relay_from..at).unwrap_or_default())?;
                    relay_from = at;
                    self.up.output.append(&mut self.up.behind_stream);
                }
                continue;
            }
            let header = match FrameHeader::peek(rest) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(error) => {
                    // The server says what PostgreSQL says to such a length, and closes.
                    tracing::debug!(%error, "the client broke the protocol");
                    self.last_words = true;
                    continue;
                }
            };
            let Some(length) = self.client_message(header, rest, bytes, (&mut relay_from, at))? else { break };
            at += length;
        }
        self.relay_up(bytes.get(relay_from..at).unwrap_or_default())?;
        Ok(at)
    }

    /// One message of the client; returns the bytes of it that are done with, `None` when more of it
    /// is needed or it is held. What goes through unchanged starts at `relay_from`.
    fn client_message(
        &mut self,
        header: FrameHeader,
        rest: &[u8],
        bytes: &[u8],
        (relay_from, at): (&mut usize, usize),
    ) -> io::Result<Option<usize>> {
        let Some(session) = &mut self.session else { return Ok(None) };
        let need = session.client_need(header.message_type, header.body_bytes);
        let Some(body) = need.body(header, rest) else { return Ok(None) };
        if let Some(text) = session.long_text(header.message_type, body, self.long_text_bytes) {
            self.thinking = Some(AbortOnDropHandle::new(tokio::spawn(analyze(text))));
            return Ok(None);
        }
        let step = session.on_client(header.message_type, header.body_bytes, body, &mut self.out);
        if step != ClientStep::Hold {
            session.set_ahead(None);
        }
        let length = header.frame_bytes().min(rest.len());
        self.up.observed = step == ClientStep::Relay && session.observes(header.message_type);
        if self.up.observed {
            session.observe_copy(rest.get(FRAME_HEADER_BYTES..length).unwrap_or_default());
        }
        self.report_events();
        if step == ClientStep::Replace || !self.out.to_server.is_empty() {
            self.gather_up(bytes.get(*relay_from..at).unwrap_or_default())?;
            *relay_from = at;
            self.up.output.append(&mut self.out.to_server);
        }
        match step {
            ClientStep::Hold => {
                self.held = true;
                return Ok(None);
            }
            ClientStep::RelayLast => self.last_words = true,
            ClientStep::Relay | ClientStep::Replace => self.up.streaming = header.frame_bytes() - length,
        }
        self.up.dropping = step == ClientStep::Replace;
        if self.up.dropping {
            *relay_from = at + length;
        }
        if self.up.streaming > 0 {
            self.up.behind_stream.append(&mut self.out.behind);
        } else if !self.out.behind.is_empty() {
            self.gather_up(bytes.get(*relay_from..at + length).unwrap_or_default())?;
            *relay_from = at + length;
            self.up.output.append(&mut self.out.behind);
        }
        if step == ClientStep::Relay && self.up.streaming == 0 && self.relays_all(header.message_type) {
            return Ok(Some(length + run_bytes(header.message_type, rest.get(length..).unwrap_or_default())));
        }
        Ok(Some(length))
    }

    fn relays_all(&self, message_type: u8) -> bool {
        self.session.as_ref().is_some_and(|session| session.relays_all(message_type))
    }

    fn forwards_all(&self, message_type: u8) -> bool {
        self.session.as_ref().is_some_and(|session| session.forwards_all(message_type))
    }

    /// Processes what the server sent; returns how many bytes are done with.
    fn process_server(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        let mut relay_from = 0;
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(session) = &mut self.session else {
                at = bytes.len();
                break;
            };
            if self.down.streaming > 0 {
                let part = self.down.streaming.min(rest.len());
                self.down.streaming -= part;
                if self.down.dropping {
                    self.gather_down(bytes.get(relay_from..at).unwrap_or_default())?;
                    relay_from = at + part;
                }
                at += part;
                continue;
            }
            self.down.dropping = false;
            let header = match FrameHeader::peek(rest) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            };
            let need = session.server_need(header.message_type, header.body_bytes);
            let Some(body) = need.body(header, rest) else { break };
            let step = session.on_server(header.message_type, header.body_bytes, body, &mut self.out);
            self.report_events();
            let length = header.frame_bytes().min(rest.len());
            self.down.streaming = header.frame_bytes() - length;
            if step == ServerStep::Drop || !self.out.to_client.is_empty() {
                self.gather_down(bytes.get(relay_from..at).unwrap_or_default())?;
                relay_from = at;
                self.down.output.append(&mut self.out.to_client);
            }
            if step == ServerStep::Drop {
                relay_from = at + length;
                self.down.dropping = true;
            }
            // Never into the middle of a message of the client's.
            let lane = if self.up.streaming > 0 { &mut self.up.behind_stream } else { &mut self.up.output };
            lane.append(&mut self.out.to_server);
            at += length;
            if step == ServerStep::Forward && self.down.streaming == 0 && self.forwards_all(header.message_type) {
                at += run_bytes(header.message_type, bytes.get(at..).unwrap_or_default());
            }
        }
        self.relay_down(bytes.get(relay_from..at).unwrap_or_default())?;
        Ok(at)
    }

    fn report_events(&mut self) {
        for finding in self.out.findings.drain(..) {
            self.metrics.audit_statement();
            if let Some(database) = &self.database {
                tracing::warn!(database = %database.name, "audit: a statement changed other domains than its analysis said; see turbo.tb_audit");
                self.late.note_finding(database.lease(), finding);
            }
        }
        let changes = self.session.as_ref().is_some_and(Session::changes_catalog);
        if changes != self.change.is_some() {
            self.change = self.database.as_ref().filter(|_| changes).map(|database| database.begin_change());
        }
        for event in self.out.events.drain(..) {
            self.metrics.on_event(event);
            match (event, &self.database) {
                (Event::CatalogChanged, Some(database)) => database.note_change(),
                (Event::LateBumpFailed(times), Some(database)) => drop(self.late.bump_all(database.lease(), times)),
                (Event::ForgedMeasurement, Some(database)) => {
                    tracing::warn!(database = %database.name, "a statement changed what its measurement had remembered (setting turnstile.measured): every domain is bumped");
                }
                (Event::LateBump, Some(database)) => {
                    tracing::warn!(database = %database.name, "writes were committed before their bump");
                }
                _ => {}
            }
        }
    }

    /// To the server, with more of ours or of the client's right behind it: a few bytes wait for those, so that the peer
    /// is sent to, and woken, once.
    fn gather_up(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > limits::GATHERED_BYTES_MAX {
            return self.relay_up(bytes);
        }
        self.up.output.extend_from_slice(bytes);
        Ok(())
    }

    /// The same to the client.
    fn gather_down(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > limits::GATHERED_BYTES_MAX {
            return self.relay_down(bytes);
        }
        self.down.output.extend_from_slice(bytes);
        Ok(())
    }

    /// To the server: at once if nothing waits before it.
    fn relay_up(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.server_shut {
            return Ok(());
        }
        write_or_keep(&mut self.server, &mut self.up.output, bytes)
    }

    /// To the client. One that is gone gets nothing more; that is no error of the session.
    fn relay_down(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.client_gone && write_or_keep(&mut self.client, &mut self.down.output, bytes).is_err() {
            self.lose_client();
        }
        Ok(())
    }

    fn write_out(&mut self) -> io::Result<()> {
        if !self.client_gone && write_pending(&mut self.client, &mut self.down.output).is_err() {
            self.lose_client();
        }
        if self.client_gone {
            self.down.output.clear();
        }
        if self.server_shut {
            self.up.output.clear();
            return Ok(());
        }
        match write_pending(&mut self.server, &mut self.up.output) {
            // The server has closed; what it said before is still to be read.
            Err(error) if is_disconnect(&error) => {
                self.server_shut = true;
                self.up.output.clear();
                Ok(())
            }
            other => other,
        }
    }
}

/// What is left of a buffer; an empty one keeps no memory.
fn keep_rest(mut buffer: Vec<u8>, consumed: usize) -> Vec<u8> {
    if consumed >= buffer.len() {
        return Vec::new();
    }
    buffer.drain(..consumed);
    buffer
}

fn write_or_keep(socket: &mut Socket, output: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while output.is_empty() && !rest.is_empty() {
        match socket.try_write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if is_disconnect(&error) => return Err(error),
            Err(error) => return Err(error),
        }
    }
    output.extend_from_slice(rest);
    Ok(())
}

fn write_pending(socket: &mut Socket, output: &mut Vec<u8>) -> io::Result<()> {
    socket.flush()?;
    let mut written = 0;
    let result = loop {
        match output.get(written..) {
            None | Some([]) => break Ok(()),
            Some(rest) => match socket.try_write(rest) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            },
        }
    };
    if written == output.len() && output.capacity() <= limits::KEPT_OUTPUT_BYTES_MAX {
        output.clear();
    } else if written > 0 {
        *output = keep_rest(std::mem::take(output), written);
    }
    result
}

fn is_disconnect(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
    )
}
