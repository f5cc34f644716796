//! Measurements: what stands before and behind a statement whose text does not say what it writes.
//!
//! The server counts the rows that a session changes in each relation, and adds the counts to the shared ones at the end of
//! a transaction, at most once a second. So a measurement compares: before and behind. Where every count of ours is known to
//! be 0 at the beginning nothing needs to be remembered before the statement; our function behind it has the server add up at
//! the end of its transaction, and the next measurement begins at 0 again ([`Counters`]).

use std::sync::Arc;

use super::bump::{Baseline, Looks, Measured, Portion};
use super::outstanding::{Purpose, Request};
use super::prepared::Act;
use super::transaction::Context;
use super::{Event, Output, Session, StatementClass};
use crate::catalog::Scope;
use crate::effect::unknown::UnknownReason;

/// What is known of the counters of tracked relations on the server connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Counters {
    /// They may be anything.
    #[default]
    Unknown,
    /// They begin anew behind the transaction at hand.
    AnewNext,
    /// They are 0.
    Zero,
}

impl Counters {
    /// A statement is sent that may change rows of tracked relations.
    pub(super) fn on_write(&mut self) {
        if *self == Self::Zero {
            *self = Self::Unknown;
        }
    }

    /// The server has been told to add up at the end of the transaction.
    pub(super) const fn on_flush(&mut self) {
        *self = Self::AnewNext;
    }

    /// A transaction has ended; `last`: nothing was sent behind it, that might have moved them again.
    pub(super) fn on_idle(&mut self, last: bool) {
        if *self == Self::AnewNext {
            *self = if last { Self::Zero } else { Self::Unknown };
        }
    }
}

/// A measurement whose end is not sent yet.
#[derive(Debug)]
pub(super) struct OpenMeasurement {
    /// Number of the unit that its statement stands in.
    unit: u64,
    purpose: Purpose,
    end: End,
}

#[derive(Debug)]
enum End {
    /// Behind the data of a COPY: any message of ours would make it fail.
    Group(Vec<u8>),
    /// In place of the client's Sync, if that is what comes next.
    Call {
        /// The FunctionCall.
        call: Vec<u8>,
        /// What it measures, for a group if something else comes.
        measured: Measured,
    },
}

/// An Execute that is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Execution<'a> {
    /// What it may write, if that is known.
    pub(super) scope: Option<&'a Arc<Scope>>,
    /// How much of the portal it runs.
    pub(super) portion: Portion,
    /// Copy data may follow it.
    pub(super) copy_in: bool,
    /// What its end is for.
    pub(super) purpose: Purpose,
    /// The session's tenant setting does not say whose rows it changes.
    pub(super) unbound: bool,
}

/// Whether a statement may change rows of tracked relations.
pub(super) const fn moves_counters(act: &Act) -> bool {
    !matches!(act, Act::Harmless | Act::Control(_) | Act::DeclareCursor { harmless: true, .. })
}

impl Session {
    /// What a measurement has to look at: the relations that the statement may write, if the catalog that
    /// says so is the server's.
    pub(super) fn measured(&self, scope: Option<&Arc<Scope>>) -> Measured {
        let catalog = &self.view.analyzer.catalog;
        let looks = match scope {
            _ if !self.is_fresh() => Looks::Server,
            Some(scope) if self.can_say(&scope.domains) => Looks::Scope(Arc::clone(scope)),
            Some(scope) => Looks::Scope(Arc::new(Scope { domains: "{}".to_owned(), ..Scope::clone(scope) })),
            None => Looks::Every(Arc::clone(&catalog.tracked)),
        };
        Measured {
            looks,
            deferred: Arc::clone(&catalog.deferred),
            triggers: Arc::clone(&catalog.deferrable_triggers),
            portion: Portion::Whole,
            baseline: Baseline::Remembered,
            unbound: false,
            flat: self.keys().is_some() && !catalog.has_unseen_domains,
        }
    }

    /// What the end of a measurement is for. Of a definition the text has said what it changes, unless that runs something.
    pub(super) fn purpose_of_end(&self, act: &Act) -> Purpose {
        let defines = matches!(act, Act::Measure(UnknownReason::Definition));
        if defines && !self.view.analyzer.catalog.event_triggers { Purpose::DefinitionEnd } else { Purpose::MeasureEnd }
    }

    /// Puts a measurement around the Execute at hand.
    pub(super) fn measure(&mut self, reason: UnknownReason, execution: Execution<'_>, out: &mut Output) {
        out.events.push(Event::Statement(StatementClass::Measured));
        out.events.push(Event::Measured(reason));
        self.names.forget_cursors();
        if self.context() == Context::Failed {
            return;
        }
        let Execution { scope, portion, copy_in, purpose, unbound } = execution;
        let measured = Measured { portion, unbound, ..self.measured(scope) }.since(self.counters, reason);
        if measured.baseline == Baseline::Remembered {
            out.to_server.append(&mut self.injector.measure_begin(&measured));
            self.push_injected(Purpose::MeasureBegin);
        }
        let ends_unit = self.context() == Context::Implicit && self.unit.bump_all_after == 0 && !copy_in;
        let calls = self.view.analyzer.catalog.calls.filter(|_| ends_unit);
        if let Some(call) = calls.and_then(|calls| self.injector.measure_call(calls, &measured)) {
            let end = End::Call { call, measured };
            self.open_measurement = Some(OpenMeasurement { unit: self.unit.number, purpose, end });
        } else {
            out.behind.append(&mut self.injector.measure_end(&measured));
        }
    }

    /// Behind a COPY FROM STDIN what ends its measurement waits for the next message that is no copy data.
    pub(super) fn end_behind_copy(&mut self, end: Vec<u8>) {
        if !end.is_empty() {
            let purpose = Purpose::MeasureEnd;
            self.open_measurement = Some(OpenMeasurement { unit: self.unit.number, purpose, end: End::Group(end) });
        }
    }

    /// Ends the measurement that is open, before the message at hand.
    pub(super) fn end_measurement(&mut self, out: &mut Output) {
        let Some(open) = self.open_measurement.take() else { return };
        let mut end = match open.end {
            End::Group(end) => end,
            End::Call { measured, .. } => self.injector.measure_end(&measured),
        };
        out.to_server.append(&mut end);
        self.push_injected(open.purpose);
    }

    /// The same by a FunctionCall in place of the client's Sync, which the call makes needless: it commits. Whether it did.
    pub(super) fn end_measurement_and_unit(&mut self, out: &mut Output) -> bool {
        let calls = |open: &mut OpenMeasurement| matches!(open.end, End::Call { .. });
        let Some(OpenMeasurement { end: End::Call { mut call, .. }, purpose, .. }) =
            self.open_measurement.take_if(calls)
        else {
            return false;
        };
        out.to_server.append(&mut call);
        self.outstanding.push(Request::Call { purpose, learns: None, executed: false, sync_sent: false });
        self.end_unit();
        true
    }

    /// A unit has failed: what was open in it is undone.
    pub(super) fn forget_measurement(&mut self, failed_unit: u64) {
        self.open_measurement.take_if(|open| open.unit <= failed_unit);
    }
}

impl Measured {
    /// The same, without anything to remember where the counters are 0. A portal that is executed in portions remembers;
    /// where the catalog may be old the server remembers what there is to look at; and what is remembered is gone where the
    /// statement has ended its transaction.
    pub(super) fn since(self, counters: Counters, reason: UnknownReason) -> Self {
        let zero = counters == Counters::Zero
            && self.portion == Portion::Whole
            && self.looks != Looks::Server
            && !reason.may_end_transaction();
        Self { baseline: if zero { Baseline::Zero } else { Baseline::Remembered }, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_rows() {
        let rows: [(&[char], Counters); 8] = [
            (&[], Counters::Unknown),
            // f: told to add up; i: idle, nothing sent behind; p: idle, but something was; w: a write is sent.
            (&['f'], Counters::AnewNext),
            (&['f', 'i'], Counters::Zero),
            (&['f', 'p'], Counters::Unknown),
            (&['f', 'w', 'i'], Counters::Zero),
            (&['f', 'i', 'w'], Counters::Unknown),
            (&['f', 'i', 'w', 'i'], Counters::Unknown),
            (&['f', 'i', 'i'], Counters::Zero),
        ];
        for (events, expected) in rows {
            let mut counters = Counters::default();
            for event in events {
                match event {
                    'f' => counters.on_flush(),
                    'w' => counters.on_write(),
                    other => counters.on_idle(*other == 'i'),
                }
            }
            assert_eq!(counters, expected, "{events:?}");
        }
    }
}
