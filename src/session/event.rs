//! What a session reports: counters and log lines are made of it by the shell (`telemetry`).

use crate::effect::unknown::UnknownReason;

/// Class of a statement, as it was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StatementClass {
    /// Provably free of writes to tracked relations.
    Harmless,
    /// Its writes were known.
    Write,
    /// Measured by the server.
    Measured,
    /// Transaction control.
    Control,
    /// Refuses a block; relayed alone.
    Alone,
    /// Could not be made atomic with its bump.
    NotAtomic,
}

impl StatementClass {
    /// All classes.
    pub const ALL: [Self; 6] =
        [Self::Harmless, Self::Write, Self::Measured, Self::Control, Self::Alone, Self::NotAtomic];

    /// Name in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Harmless => "harmless",
            Self::Write => "write",
            Self::Measured => "measured",
            Self::Control => "control",
            Self::Alone => "alone",
            Self::NotAtomic => "not_atomic",
        }
    }
}

/// Something worth counting or logging. Never holds SQL or values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A statement was sent.
    Statement(StatementClass),
    /// A statement was measured, and why.
    Measured(UnknownReason),
    /// Log rows were inserted for known writes.
    Bumped(u64),
    /// Log rows were inserted by a measurement.
    MeasuredBumps(u64),
    /// Log rows were inserted for every domain, because nothing could be measured.
    BlindBumps(u64),
    /// A statement changed what its measurement had remembered: every domain is bumped behind it.
    ForgedMeasurement,
    /// A bump had to wait for command tags that had not come.
    Waited,
    /// A text that we had added to was sent again as the client wrote it.
    SentAgain,
    /// The catalog may have changed: a statement that does so was sent, or its transaction ended.
    CatalogChanged,
    /// An injected message failed; the client was told.
    InjectionFailed,
    /// A bump in a transaction of its own failed; the client could not be told. Every domain is to be bumped so many times.
    LateBumpFailed(u32),
    /// Writes were committed without their bumps, which followed in a transaction of their own.
    LateBump,
}
