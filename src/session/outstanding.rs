//! Messages that the server owes a reply to, in order.

use std::collections::VecDeque;

use super::prepared::Undo;
use super::rewrite::{PositionMap, Turns};
use crate::effect::keys::Key;

/// What a client's simple query waits for.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one message")]
pub struct QueryRequest {
    /// The text was sent with statements of ours in it.
    pub rewrite: Option<Rewrite>,
    /// A reply was forwarded to the client.
    pub visible: bool,
    /// Replies of a statement of ours are passing.
    pub swallowing: bool,
    /// The write whose command tag decides about its bump.
    pub write: Option<u64>,
    /// It may change the transaction status in a way that only ReadyForQuery tells.
    pub changes_block: bool,
    /// It may change the catalog.
    pub ddl: bool,
    /// How strings are read may change.
    pub changes_settings: bool,
    /// All that is measured in it are definitions, whose text has said what they change.
    pub only_definitions: bool,
    /// It may read copy data.
    pub copy_in: bool,
    /// A bump of ours stands right before the client's COMMIT in it.
    pub bump_before_commit: bool,
    /// That bump failed: end the block as the COMMIT would have.
    pub rollback_after: bool,
    /// CommandComplete of the client's last statement, until ours behind it has ended: the server
    /// sends the last one of a text only after the commit. Or RowDescription of a text that the server may refuse.
    pub withheld: Option<Vec<u8>>,
    /// Bump every domain so many times before its ReadyForQuery is forwarded.
    pub bump_all_after: u32,
    /// Its replies are dropped; the client's own text is sent again at ReadyForQuery.
    pub again: bool,
    /// It is a COPY FROM STDIN that was sent as an extended query.
    pub copy: Option<CopyQuery>,
    /// A group of ours stands before it, and no Sync: see [`Request::FunctionCall`].
    pub sync_after: bool,
    /// What readers see once the bump in it is committed, if they may not yet.
    pub learns: Option<Key>,
}

/// A simple query that was sent as an extended one.
#[derive(Debug, Default, Clone, Copy)]
pub struct CopyQuery {
    /// The Sync that stands for the end of the simple query was sent.
    pub sync_sent: bool,
    /// It failed: our unnamed statement is still there, and a simple query would have removed it.
    pub failed: bool,
}

/// How a text was changed.
#[derive(Debug)]
pub struct Rewrite {
    /// The client's text.
    pub original: Vec<u8>,
    /// The way back.
    pub map: PositionMap,
    /// Whose replies come next.
    pub turns: Turns,
    /// It is one statement, sent outside of a block: one that refuses a block can be sent again.
    pub alone: bool,
}

/// What we injected, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Bumps of known writes.
    Bump,
    /// Start of a measurement.
    MeasureBegin,
    /// End of a measurement, with its bumps.
    MeasureEnd,
    /// The same of a definition: its text has said what it changes.
    DefinitionEnd,
    /// Every domain.
    BumpAll,
    /// End of a measurement of what was known.
    Audit,
}

/// What a Sync waits for.
#[derive(Debug, Default, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one message")]
pub struct SyncRequest {
    /// The transaction status may change in a way that only ReadyForQuery tells.
    pub changes_block: bool,
    /// The catalog may have changed.
    pub ddl: bool,
    /// How strings are read may change.
    pub changes_settings: bool,
    /// Bump every domain so many times before its ReadyForQuery is forwarded.
    pub bump_all_after: u32,
    /// A bump failed before the client's COMMIT, which the server then skipped: end the block for it.
    pub rollback_after: bool,
}

/// A message that waits for its reply.
#[derive(Debug)]
pub enum Request {
    /// Parse; what to restore if it fails.
    Parse(Option<Box<Undo>>),
    /// Bind; what to restore if it fails.
    Bind(Option<Box<Undo>>),
    /// Describe of a statement or portal.
    Describe,
    /// Execute.
    Execute {
        /// The write whose command tag decides about its bump.
        write: Option<u64>,
        /// The portal, when this is its first Execute and writes.
        first_of: Option<Box<[u8]>>,
        /// It ends a block.
        ends_block: bool,
        /// It may make the server read copy data.
        copy_in: bool,
    },
    /// Close; what to restore if it is skipped.
    Close(Option<Box<Undo>>),
    /// Sync.
    Sync(SyncRequest),
    /// A bump of ours by FunctionCall, before the Sync of a unit outside of a block.
    Call {
        /// What for.
        purpose: Purpose,
        /// What readers see once it is committed, if they may not yet.
        learns: Option<Key>,
        /// It has been executed: what fails now is the commit, which is the client's.
        executed: bool,
        /// The client's Sync was sent behind it. It waits as long as it can: where the call commits, it is not needed.
        sync_sent: bool,
    },
    /// What ends no more than has ended (the Sync of a unit that a bump by FunctionCall has ended; an empty query of ours):
    /// its ReadyForQuery is one too many.
    Ended,
    /// FunctionCall.
    FunctionCall {
        /// A group of ours stands before it, without a Sync and outside of a block. Since PostgreSQL 18 it does not end
        /// the implicit block that it finds: a Sync of ours does.
        sync_after: bool,
    },
    /// Simple query.
    Query(Box<QueryRequest>),
    /// A group of ours; CloseCompletes that are still due.
    Injected {
        /// What for.
        purpose: Purpose,
        /// CloseCompletes due.
        closes: u8,
    },
    /// A ROLLBACK of ours, for a COMMIT that the server skipped because of us.
    Rollback,
    /// The Sync of a bump that follows a statement which ran alone; then the client gets the
    /// ReadyForQuery that waits.
    LateSync {
        /// How often every domain is to be bumped if it does not happen.
        times: u32,
    },
}

impl Request {
    /// Whether a Sync of ours may have to end the block that it leaves open.
    pub const fn sync_after(&mut self) -> Option<&mut bool> {
        match self {
            Self::Query(query) => Some(&mut query.sync_after),
            Self::FunctionCall { sync_after } => Some(sync_after),
            _ => None,
        }
    }

    /// Whether its answer may make us send something; `synced`: a Sync is on its way behind it.
    #[must_use]
    pub fn may_need_more(&self, synced: bool) -> bool {
        match self {
            Self::Query(query) => {
                (query.rewrite.is_some() && !query.visible)
                    || query.copy.is_some()
                    || query.bump_before_commit
                    || query.sync_after
                    || query.again
            }
            Self::Sync(sync) => sync.rollback_after,
            Self::FunctionCall { sync_after } => *sync_after,
            // The server that skips it waits for its Sync.
            Self::Call { sync_sent, .. } => !sync_sent,
            // One that fails takes the answer of a Query behind it along.
            Self::Injected { .. } => !synced,
            Self::Parse(_)
            | Self::Bind(_)
            | Self::Describe
            | Self::Execute { .. }
            | Self::Close(_)
            | Self::Ended
            | Self::Rollback
            | Self::LateSync { .. } => false,
        }
    }

    /// How often every domain is bumped behind it, in a transaction of its own.
    #[must_use]
    pub fn late_bumps(&self) -> u32 {
        match self {
            Self::Query(query) => query.bump_all_after,
            Self::Sync(sync) => sync.bump_all_after,
            Self::LateSync { times } => *times,
            _ => 0,
        }
    }

    /// Whether it ends the unit of messages that it belongs to.
    #[must_use]
    pub const fn ends_unit(&self) -> bool {
        matches!(self, Self::Sync(_) | Self::Query(_) | Self::FunctionCall { .. })
    }

    /// Whether ReadyForQuery ends it.
    #[must_use]
    pub const fn ends_with_ready(&self) -> bool {
        matches!(
            self,
            Self::Sync(_)
                | Self::Query(_)
                | Self::FunctionCall { .. }
                | Self::LateSync { .. }
                | Self::Rollback
                | Self::Call { .. }
                | Self::Ended
        )
    }
}

/// The queue.
#[derive(Debug, Default)]
pub struct OutstandingRequests {
    queue: VecDeque<Request>,
}

impl OutstandingRequests {
    /// Messages that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Adds one.
    pub fn push(&mut self, request: Request) {
        self.queue.push_back(request);
    }

    /// The call whose Sync was not sent, if there is one: nothing stands behind that Sync.
    pub fn unsynced_call(&mut self) -> Option<&mut bool> {
        match self.queue.iter_mut().rev().nth(1) {
            Some(Request::Call { sync_sent, .. }) if !*sync_sent => Some(sync_sent),
            _ => None,
        }
    }

    /// Puts one before all others.
    pub fn push_front(&mut self, request: Request) {
        self.queue.push_front(request);
    }

    /// The oldest.
    #[must_use]
    pub fn front(&self) -> Option<&Request> {
        self.queue.front()
    }

    /// The oldest Sync.
    pub fn sync_mut(&mut self) -> Option<&mut SyncRequest> {
        self.queue.iter_mut().find_map(|request| match request {
            Request::Sync(sync) => Some(sync),
            _ => None,
        })
    }

    /// How often every domain is to be bumped elsewhere, where the late bump under way has failed.
    pub fn take_late(&mut self) -> u32 {
        let times = self.queue.iter_mut().find_map(|request| match request {
            Request::LateSync { times } => Some(std::mem::take(times)),
            _ => None,
        });
        times.unwrap_or(0)
    }

    /// The oldest.
    pub fn front_mut(&mut self) -> Option<&mut Request> {
        self.queue.front_mut()
    }

    /// The youngest.
    pub fn back_mut(&mut self) -> Option<&mut Request> {
        self.queue.back_mut()
    }

    /// The youngest.
    #[must_use]
    pub fn back(&self) -> Option<&Request> {
        self.queue.back()
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<Request> {
        self.queue.pop_front()
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Request> {
        self.queue.iter()
    }

    /// Takes the oldest that `accept`s, before the next Sync: a pooler may answer Parse and Close
    /// out of order (PgBouncer 1.24 with `max_prepared_statements`).
    pub fn take(&mut self, accept: impl Fn(&Request) -> bool) -> Option<Request> {
        let at = self.queue.iter().take_while(|request| !request.ends_with_ready()).position(accept)?;
        self.queue.remove(at)
    }

    /// After an error in an extended query: everything up to the next Sync gets no reply. Returns
    /// it, youngest first; the second value tells whether there is a Sync.
    pub fn discard_until_sync(&mut self) -> (Vec<Request>, bool) {
        let is_sync = |request: &Request| matches!(request, Request::Sync(_) | Request::LateSync { .. });
        let sync = self.queue.iter().position(is_sync);
        let mut discarded: Vec<Request> = self.queue.drain(..sync.unwrap_or(self.queue.len())).collect();
        discarded.reverse();
        (discarded, sync.is_some())
    }

    /// A message was not processed, but a later one that waits has redefined its name.
    pub fn absorb(&mut self, undo: Undo) {
        let mut left = Some(undo);
        for request in &mut self.queue {
            if let Request::Parse(Some(later)) | Request::Bind(Some(later)) | Request::Close(Some(later)) = request {
                left = left.and_then(|undo| later.absorb(undo));
            }
        }
    }
}
