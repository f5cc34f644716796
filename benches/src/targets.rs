//! What was aimed at.

use std::fmt;

use crate::client::Mode;
use crate::contenders::{BLIND, DIRECT, HAPROXY, PGBOUNCER, TURNSTILE};
use crate::loads::{
    COPY_IN_LOAD, COPY_OUT_LOAD, INSERT_SELECT_LOAD, NO_BUMP, ROW_TRIGGER, ROWS_LOAD, UNTRACKED, VALUES_LOAD,
    insert_load, select_load,
};
use crate::report::{Report, Run, Spread};

/// One aim, and what it is.
pub struct Target {
    what: String,
    aim: f64,
    at_least: bool,
    measured: Option<Spread>,
}

impl fmt::Display for Target {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.at_least { "at least" } else { "at most" };
        write!(to, "| {} | {word} {} | ", self.what, self.aim)?;
        let Some(Spread(value, low, high)) = self.measured else { return write!(to, "- | not measured |") };
        let met = if self.at_least { value >= self.aim } else { value <= self.aim };
        write!(to, "{value:.2} ({low:.2}-{high:.2}) | {} |", if met { "met" } else { "**missed**" })
    }
}

fn at_least(aim: f64, what: impl Into<String>, measured: Option<Spread>) -> Target {
    Target { what: what.into(), aim, at_least: true, measured }
}

fn at_most(aim: f64, what: impl Into<String>, measured: Option<Spread>) -> Target {
    Target { what: what.into(), aim, at_least: false, measured }
}

/// All of them, in the order of the table.
pub fn targets(report: &Report) -> Vec<Target> {
    let mut targets = relay(report);
    targets.extend(bumps(report));
    targets.extend(bulk_and_reads(report));
    targets
}

fn relay(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for mode in [Mode::Prepared, Mode::Extended] {
        let load = select_load(mode, 8);
        for (other, aim) in [(PGBOUNCER, 1.15), (HAPROXY, 1.15), (BLIND, 0.97)] {
            let ratio = report.throughput(&load, TURNSTILE, other);
            targets.push(at_least(aim, format!("{load}: throughput over {other}"), ratio));
        }
        let cpu = report.paired(&load, TURNSTILE, PGBOUNCER, |own, other| own.cpu / other.cpu);
        targets.push(at_most(0.8, format!("{load}: CPU over {PGBOUNCER}"), cpu));
    }
    for mode in [Mode::Prepared, Mode::Extended] {
        let load = select_load(mode, 1);
        let ratio = report.throughput(&load, TURNSTILE, PGBOUNCER);
        targets.push(at_least(1.3, format!("{load}: throughput over {PGBOUNCER}"), ratio));
    }
    let one = select_load(Mode::Prepared, 1);
    for (at, word) in [(0, "p50"), (1, "p99")] {
        let what = format!("{one}: added {word} over what the {BLIND} adds");
        targets.push(at_most(1.1, what, added(report, &one, at)));
    }
    let simple = simple_over_prepared(report);
    targets.push(at_least(0.95, "select, 8 clients: throughput over PgBouncer, simple over prepared", simple));
    targets
}

/// What Turnstile adds to a latency of the direct connection, over what the blind relay adds.
fn added(report: &Report, load: &str, at: usize) -> Option<Spread> {
    let runs = |who| report.find(load, who).map(|figure| &figure.runs);
    let (own, blind, direct) = (runs(TURNSTILE)?, runs(BLIND)?, runs(DIRECT)?);
    let ratio = |((own, blind), direct): ((&Run, &Run), &Run)| {
        (own.latency[at] - direct.latency[at]) / (blind.latency[at] - direct.latency[at])
    };
    Spread::of(own.iter().zip(blind).zip(direct).map(ratio))
}

fn simple_over_prepared(report: &Report) -> Option<Spread> {
    let ratio = |mode| report.throughput(&select_load(mode, 8), TURNSTILE, PGBOUNCER);
    let (simple, prepared) = (ratio(Mode::Simple)?, ratio(Mode::Prepared)?);
    Some(Spread(simple.0 / prepared.0, simple.1 / prepared.2, simple.2 / prepared.1))
}

fn bumps(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for (prefix, aim) in [("", 0.85), ("durable ", 0.97)] {
        let load = format!("{prefix}{}", insert_load("one tenant", 1));
        let ratio = report.throughput(&load, TURNSTILE, UNTRACKED);
        targets.push(at_least(aim, format!("{load}: with bump over without"), ratio));
    }
    let hot = format!("durable {}", insert_load("one tenant", 32));
    for (other, aim) in [(UNTRACKED, 0.9), (NO_BUMP, 0.9), (ROW_TRIGGER, 5.0)] {
        let ratio = report.throughput(&hot, TURNSTILE, other);
        targets.push(at_least(aim, format!("{hot}: throughput over {other}"), ratio));
    }
    for (load, aim) in [(INSERT_SELECT_LOAD, 1.02), (VALUES_LOAD, 1.05)] {
        let time = report.paired(load, TURNSTILE, UNTRACKED, |own, other| other.per_second / own.per_second);
        targets.push(at_most(aim, format!("{load}: time with bump over without"), time));
    }
    let own = report.figures.iter().filter(|figure| figure.contender == TURNSTILE && figure.group != "relay");
    let errors: u64 = own.flat_map(|figure| &figure.runs).flat_map(|run| run.errors.values()).sum();
    let errors = errors as f64;
    targets.push(at_most(0.0, "errors of writes with bumps, of any kind", Some(Spread(errors, errors, errors))));
    targets
}

fn bulk_and_reads(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for load in [ROWS_LOAD, COPY_OUT_LOAD, COPY_IN_LOAD] {
        let ratio = report.throughput(load, TURNSTILE, HAPROXY);
        targets.push(at_least(1.0, format!("{load}: throughput over {HAPROXY}"), ratio));
    }
    let idle = report.idle.iter().filter(|(name, _)| *name == TURNSTILE).map(|(_, kibibytes)| *kibibytes);
    targets.push(at_most(12.0, "KiB of memory for an idle connection", Spread::of(idle)));
    let read = |name: &str| report.reads.iter().find(|part| part.name == name).map(|part| part.latency);
    let worst = report.reads.iter().filter(|part| part.name.starts_with("old snapshot")).map(|part| part.latency[1]);
    let worst = worst.reduce(f64::max).map(|worst| worst / 1e3);
    let same = |value| Spread(value, value, value);
    targets.push(at_most(1.0, "version read under bumps and an old snapshot: worst p99, ms", worst.map(same)));
    let (first, last) = (read("old snapshot, first third"), read("old snapshot, last third"));
    let growth = first.zip(last).map(|(first, last)| same(last[0] / first[0]));
    targets.push(at_most(1.2, "the same: p50 of the last third over that of the first", growth));
    targets
}
