//! Where the session stands in its transaction, and the writes whose bumps are not sent yet.

use std::collections::VecDeque;

use super::bump::Effect;
use crate::limits;

/// What is known about the transaction in which the next message will be processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// No block: an implicit transaction.
    Implicit,
    /// In a block.
    Block,
    /// In a failed block: the server refuses everything but its end.
    Failed,
    /// Not known before the server has answered.
    Uncertain,
}

/// The messages since the last Sync.
#[derive(Debug, Default)]
pub struct Unit {
    /// Counts units; those of a session are answered in order.
    pub number: u64,
    /// Messages were sent since the last Sync.
    pub open: bool,
    /// Executes since the last Sync.
    pub executes: usize,
    /// What transaction control in this unit has made of the context.
    pub context: Option<Context>,
    /// An Execute may change the catalog.
    pub ddl: bool,
    /// An Execute may change how strings are read.
    pub changes_settings: bool,
    /// Statements of this unit that may end their transaction.
    pub bump_all_after: u32,
}

impl Unit {
    /// The unit behind a Sync.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { number: self.number + 1, ..Self::default() }
    }
}

/// A write whose outcome is not known yet.
#[derive(Debug)]
struct Awaited {
    number: u64,
    unit: u64,
    effect: Effect,
    /// It changes at least one row, if it succeeds.
    sure: bool,
    leaves_no_trace_without_rows: bool,
}

/// Writes whose bumps are not sent yet.
#[derive(Debug, Default)]
pub struct PendingWrites {
    next_number: u64,
    awaited: VecDeque<Awaited>,
    confirmed: Vec<(Effect, u64)>,
}

impl PendingWrites {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.awaited.is_empty() && self.confirmed.is_empty()
    }

    /// Adds a write that was just sent; returns its number.
    pub fn add(&mut self, unit: u64, effect: Effect, sure: bool, leaves_no_trace_without_rows: bool) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.awaited.push_back(Awaited { number, unit, effect, sure, leaves_no_trace_without_rows });
        number
    }

    /// What a write touches is known better now.
    pub fn settle(&mut self, number: u64, effect: Effect) {
        if let Some(write) = self.awaited.iter_mut().find(|write| write.number == number) {
            write.effect = effect;
        }
    }

    /// The write's command tag has come.
    pub fn on_outcome(&mut self, number: u64, changed_rows: bool) {
        let Some(at) = self.awaited.iter().position(|write| write.number == number) else {
            return;
        };
        if let Some(write) = self.awaited.remove(at).filter(|_| changed_rows) {
            self.confirm(write.effect);
        }
    }

    fn confirm(&mut self, effect: Effect) {
        match self.confirmed.iter_mut().rev().find(|(known, _)| *known == effect) {
            Some((_, count)) => *count += 1,
            None => self.confirmed.push((effect, 1)),
        }
    }

    /// Too many to keep waiting.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.confirmed.len() + self.awaited.len() >= limits::PENDING_WRITES_MAX
    }

    /// A unit failed: the server undid what it and those before it wrote in this transaction.
    pub fn forget_through(&mut self, unit: u64) {
        self.confirmed.clear();
        self.awaited.retain(|write| write.unit > unit);
    }

    /// The transaction was rolled back, at least to its last savepoint, by what is about to be sent.
    pub fn forget(&mut self) {
        self.confirmed.clear();
        self.awaited.clear();
    }

    /// Whether the bumps of all writes are known without waiting.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.awaited.iter().all(|write| write.sure)
    }

    /// The only write, when its transaction id tells whether it changed anything.
    #[must_use]
    pub fn is_single_traced(&self) -> bool {
        self.confirmed.is_empty()
            && self.awaited.len() == 1
            && self.awaited.iter().all(|write| write.leaves_no_trace_without_rows)
    }

    /// Takes everything; those whose outcome is not known count as having changed rows.
    pub fn take(&mut self) -> Vec<(Effect, u64)> {
        while let Some(write) = self.awaited.pop_front() {
            self.confirm(write.effect);
        }
        std::mem::take(&mut self.confirmed)
    }

    /// Writes of units that have ended without their bumps: must not happen.
    pub fn take_confirmed(&mut self) -> Vec<(Effect, u64)> {
        std::mem::take(&mut self.confirmed)
    }
}
