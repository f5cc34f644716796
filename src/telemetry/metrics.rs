//! Every metric: name, labels, meaning, once. Served as Prometheus text by `admin`.

use std::sync::Mutex;
use std::time::Duration;

use hdrhistogram::Histogram;
use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::effect::unknown::UnknownReason;
use crate::session::{Event, StatementClass};

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// Name and meaning of every metric; README's table is checked against it.
pub const METRICS: &[(&str, &str)] = &[
    ("turnstile_connections", "Client connections that are open."),
    ("turnstile_connections_total", "Client connections that were accepted."),
    ("turnstile_connections_refused_total", "Client connections that were refused: limit, catalog, server away."),
    ("turnstile_cancel_requests_total", "Cancel requests that were forwarded."),
    ("turnstile_protocol_violations_total", "Sessions that ended because the client broke the protocol."),
    ("turnstile_statements_total", "Statements by class: harmless, write, measured, control, alone, not_atomic."),
    ("turnstile_measured_statements_total", "Measured statements by reason."),
    ("turnstile_unparsed_statements_total", "Statements that could not be read: unknown form, too long, encoding."),
    ("turnstile_bumps_total", "Log rows inserted by kind: known, measured, blind (every domain)."),
    ("turnstile_outcome_waits_total", "Bumps that waited for command tags (one more round trip)."),
    ("turnstile_sent_again_total", "Texts that were sent again as the client wrote them."),
    ("turnstile_late_bumps_total", "Bumps that followed in a transaction of their own, unforeseen."),
    ("turnstile_audit_disagreements_total", "Disagreements that audits found, by kind: statement, around."),
    ("turnstile_forged_measurements_total", "Statements that changed what their measurement had remembered."),
    ("turnstile_log_rows", "Log rows that are not folded, up to 100,000, of a database."),
    ("turnstile_log_age_seconds", "Age of the oldest log row that is not folded, of a database."),
    ("turnstile_injection_failures_total", "Bumps that failed: with the transaction, or late."),
    ("turnstile_folded_rows_total", "Log rows that the fold worker moved to the base."),
    ("turnstile_schema_installed", "1 where the turbo schema is installed, by database; 0: relayed without versions."),
    (
        "turnstile_added_latency_seconds",
        "Time from reading a chunk to having written it, by quantile; of one chunk in 7.",
    ),
    ("turnstile_added_latency_seconds_count", "Chunks that were timed."),
];

/// Histograms of added latency, so that threads seldom meet.
const LATENCY_SHARDS: usize = 16;
/// Longest latency that is told apart, in nanoseconds.
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;

/// All metrics of a process.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    connections: Gauge,
    accepted: Counter,
    refused: Counter,
    cancels: Counter,
    violations: Counter,
    statements: Vec<(StatementClass, Counter)>,
    measured: Vec<(UnknownReason, Counter)>,
    unparsed: Counter,
    bumps_known: Counter,
    bumps_measured: Counter,
    bumps_blind: Counter,
    waits: Counter,
    sent_again: Counter,
    late_bumps: Counter,
    audit_statement: Counter,
    audit_around: Counter,
    forged: Counter,
    injection_failures: Counter,
    folded: Counter,
    latency: Vec<Mutex<Histogram<u64>>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    ///
    /// # Panics
    /// Never: the histogram's bounds are constants that it accepts.
    #[must_use]
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for (name, meaning) in METRICS {
            let unit = name.ends_with("_seconds").then_some(Unit::Seconds);
            let describe = if name.ends_with("_total") || name.ends_with("_count") {
                PrometheusRecorder::describe_counter
            } else {
                PrometheusRecorder::describe_gauge
            };
            describe(&recorder, KeyName::from_const_str(name), unit, SharedString::const_str(meaning));
        }
        let counter = |name: &'static str, labels: Vec<Label>| {
            recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
        };
        let plain = |name: &'static str| counter(name, Vec::new());
        let bumps = |kind: &'static str| counter("turnstile_bumps_total", vec![Label::new("kind", kind)]);
        let latency =
            || Mutex::new(Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 2).expect("the bounds are constants"));
        Self {
            connections: recorder.register_gauge(&Key::from_static_name("turnstile_connections"), &METADATA),
            accepted: plain("turnstile_connections_total"),
            refused: plain("turnstile_connections_refused_total"),
            cancels: plain("turnstile_cancel_requests_total"),
            violations: plain("turnstile_protocol_violations_total"),
            statements: StatementClass::ALL
                .map(|class| (class, counter("turnstile_statements_total", vec![Label::new("class", class.label())])))
                .into(),
            measured: UnknownReason::ALL
                .iter()
                .map(|reason| {
                    (
                        *reason,
                        counter("turnstile_measured_statements_total", vec![Label::new("reason", reason.label())]),
                    )
                })
                .collect(),
            unparsed: plain("turnstile_unparsed_statements_total"),
            bumps_known: bumps("known"),
            bumps_measured: bumps("measured"),
            bumps_blind: bumps("blind"),
            waits: plain("turnstile_outcome_waits_total"),
            sent_again: plain("turnstile_sent_again_total"),
            late_bumps: plain("turnstile_late_bumps_total"),
            audit_statement: counter("turnstile_audit_disagreements_total", vec![Label::new("kind", "statement")]),
            audit_around: counter("turnstile_audit_disagreements_total", vec![Label::new("kind", "around")]),
            forged: plain("turnstile_forged_measurements_total"),
            injection_failures: plain("turnstile_injection_failures_total"),
            folded: plain("turnstile_folded_rows_total"),
            latency: (0..LATENCY_SHARDS).map(|_| latency()).collect(),
            handle: recorder.handle(),
            recorder,
        }
    }

    /// A connection was accepted; the guard ends it.
    #[must_use]
    pub fn connected(&self) -> ConnectedGuard {
        self.accepted.increment(1);
        self.connections.increment(1);
        ConnectedGuard(self.connections.clone())
    }

    /// A connection was refused.
    pub fn refused(&self) {
        self.refused.increment(1);
    }

    /// A cancel request was forwarded.
    pub fn cancelled(&self) {
        self.cancels.increment(1);
    }

    /// A client broke the protocol.
    pub fn violated(&self) {
        self.violations.increment(1);
    }

    /// Rows of a domain changed without a bump.
    pub fn audit_around(&self) {
        self.audit_around.increment(1);
    }

    /// A statement did something else than its analysis said.
    pub fn audit_statement(&self) {
        self.audit_statement.increment(1);
    }

    /// What a database's log holds.
    pub fn set_log(&self, database: &str, rows: i64, age_seconds: f64) {
        let labels = || vec![Label::new("database", database.to_owned())];
        let gauge = |name: &'static str| self.recorder.register_gauge(&Key::from_parts(name, labels()), &METADATA);
        // Far below 2^52.
        gauge("turnstile_log_rows").set(f64::from(i32::try_from(rows).unwrap_or(i32::MAX)));
        gauge("turnstile_log_age_seconds").set(age_seconds);
    }

    /// The fold worker moved rows.
    pub fn folded(&self, rows: u64) {
        self.folded.increment(rows);
    }

    /// The schema of a database is installed, or not.
    pub fn set_installed(&self, database: &str, installed: bool) {
        let key = Key::from_parts("turnstile_schema_installed", vec![Label::new("database", database.to_owned())]);
        self.recorder.register_gauge(&key, &METADATA).set(f64::from(u8::from(installed)));
    }

    /// What a session reported.
    pub fn on_event(&self, event: Event) {
        match event {
            Event::Statement(class) => count(&self.statements, class),
            Event::Measured(reason) => {
                count(&self.measured, reason);
                if matches!(reason, UnknownReason::UnknownForm | UnknownReason::TooLong | UnknownReason::Encoding) {
                    self.unparsed.increment(1);
                }
            }
            Event::Bumped(rows) => self.bumps_known.increment(rows),
            Event::MeasuredBumps(rows) => self.bumps_measured.increment(rows),
            Event::BlindBumps(rows) => self.bumps_blind.increment(rows),
            Event::Waited => self.waits.increment(1),
            Event::SentAgain => self.sent_again.increment(1),
            Event::LateBump => self.late_bumps.increment(1),
            Event::InjectionFailed | Event::LateBumpFailed(_) => self.injection_failures.increment(1),
            Event::ForgedMeasurement => self.forged.increment(1),
            Event::CatalogChanged => {}
        }
    }

    /// A chunk took this long from being read to being written. `shard`: any number of the caller's.
    pub fn added_latency(&self, shard: usize, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(LATENCY_NANOS_MAX);
        if let Some(histogram) = self.latency.get(shard % LATENCY_SHARDS)
            && let Ok(mut histogram) = histogram.lock()
        {
            histogram.saturating_record(nanos);
        }
    }

    /// Prometheus text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut all = None;
        for shard in &self.latency {
            if let Ok(shard) = shard.lock() {
                match &mut all {
                    None => all = Some(shard.clone()),
                    Some(all) => drop(all.add(&*shard)),
                }
            }
        }
        if let Some(all) = all {
            for quantile in ["0.5", "0.9", "0.99", "0.999"] {
                let key = Key::from_parts("turnstile_added_latency_seconds", vec![Label::new("quantile", quantile)]);
                let nanos = all.value_at_quantile(quantile.parse().unwrap_or(0.5));
                self.recorder.register_gauge(&key, &METADATA).set(Duration::from_nanos(nanos).as_secs_f64());
            }
            let key = Key::from_static_name("turnstile_added_latency_seconds_count");
            self.recorder.register_counter(&key, &METADATA).absolute(all.len());
        }
        self.handle.render()
    }
}

fn count<K: PartialEq + Copy>(counters: &[(K, Counter)], key: K) {
    if let Some((_, counter)) = counters.iter().find(|(known, _)| *known == key) {
        counter.increment(1);
    }
}

/// An open connection, counted.
#[derive(Debug)]
pub struct ConnectedGuard(Gauge);

impl Drop for ConnectedGuard {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_what_was_reported() {
        let metrics = Metrics::new();
        let open = metrics.connected();
        metrics.on_event(Event::Statement(StatementClass::Write));
        metrics.on_event(Event::Measured(UnknownReason::Do));
        metrics.on_event(Event::Bumped(3));
        metrics.set_installed("app", false);
        metrics.added_latency(3, Duration::from_micros(5));
        let text = metrics.render();
        for line in [
            "turnstile_connections 1",
            "turnstile_statements_total{class=\"write\"} 1",
            "turnstile_measured_statements_total{reason=\"do\"} 1",
            "turnstile_bumps_total{kind=\"known\"} 3",
            "turnstile_schema_installed{database=\"app\"} 0",
            "turnstile_added_latency_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        drop(open);
        assert!(metrics.render().contains("turnstile_connections 0"));
    }
}
