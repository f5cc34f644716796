//! `make bench`: all contenders in one run, taking turns, each figure a ratio to the control measured beside it.
//! Prints tables, writes RESULTS.md and pictures.

mod client;
mod contenders;
mod instructions;
mod loads;
mod plots;
mod reads;
mod report;
mod targets;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser as _;
use turnstile::embedded::{Cluster, ClusterOptions};

use client::Load;
use contenders::{Contender, HAPROXY, PGBOUNCER, PGBOUNCER_TRANSACTION, TURNSTILE, prepares, server_cpu};
use loads::{BUMPS_SCHEMA, WAYS, bump_loads, durable_loads, relay_loads};
use report::{Figure, Report, Run};

const IDLE_CONNECTIONS: usize = 2_000;

/// Rows that each table has at the beginning of each run.
const ROWS_AT_FIRST: u32 = 1_000;

/// The contenders against each other: prints tables, and writes RESULTS.md and plots.
#[derive(Debug, clap::Parser)]
#[command(after_help = "turnstile-bench instructions: what the pure parts cost, in instructions.")]
struct Options {
    /// Fewer loads.
    #[arg(long)]
    quick: bool,
    /// Length of one repetition.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Of each load, for each contender.
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Loads whose names contain this.
    #[arg(long, value_name = "WORDS")]
    only: Option<String>,
    /// Turnstile's program.
    #[arg(long, value_name = "FILE", default_value = "target/release/turnstile")]
    turnstile: PathBuf,
    /// PgBouncer's program.
    #[arg(long, value_name = "FILE", default_value = "pgbouncer")]
    pgbouncer: String,
    /// Where RESULTS.md and plots go.
    #[arg(long, value_name = "FOLDER", default_value = "benches")]
    results: PathBuf,
}

impl Options {
    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn wants(&self, what: &str) -> bool {
        self.only.as_ref().is_none_or(|only| what.contains(only.as_str()))
    }

    fn chosen(&self, loads: Vec<Load>) -> Vec<Load> {
        loads.into_iter().filter(|load| self.wants(&load.name) && (load.quick || !self.quick)).collect()
    }

    fn words(&self) -> String {
        let mode = if self.quick { "quick" } else { "full" };
        format!("{mode}: {} repetitions of {} s", self.repetitions, self.seconds)
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, listen, server] = arguments.as_slice()
        && word == "relay"
    {
        return contenders::relay(listen.parse()?, server.parse()?);
    }
    if let [_, word, rest @ ..] = arguments.as_slice()
        && word == "instructions"
    {
        return instructions::run(rest);
    }
    let options = Options::parse();
    stop_on_ctrl_c();
    let server = Server::start("fsync = off")?;
    let mut report = Report::new(&options.turnstile, &options.pgbouncer, server.cluster.port(), &options.words())?;
    let measured = measure(&options, server, &mut report);
    // What was measured before a failure is not lost.
    report.write(&options.results)?;
    measured
}

fn measure(options: &Options, server: Server, report: &mut Report) -> anyhow::Result<()> {
    relay(options, &server, report)?;
    idle(options, &server, report)?;
    bumps(options, &server, ("bump", bump_loads()), report)?;
    reads(options, &server, report)?;
    drop(server);
    let durable = options.chosen(durable_loads());
    if !durable.is_empty() {
        bumps(options, &Server::start("fsync = on")?, ("durable", durable), report)?;
    }
    Ok(())
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ctrl-C ends the run between two loads, so that what was started is stopped.
fn stop_on_ctrl_c() {
    std::thread::spawn(|| {
        let waited = client::event_loop().map(|runtime| runtime.block_on(tokio::signal::ctrl_c()));
        INTERRUPTED.store(matches!(waited, Ok(Ok(()))), Ordering::Relaxed);
    });
}

/// A cluster with the tables of all loads.
struct Server {
    cluster: Cluster,
    postmaster: u32,
}

impl Server {
    fn start(setting: &str) -> anyhow::Result<Self> {
        let settings = [setting, "max_connections = 2300", "shared_buffers = 512MB", "max_wal_size = 8GB"];
        let settings = settings.iter().map(ToString::to_string).collect();
        let cluster = Cluster::start(&ClusterOptions { settings, ..ClusterOptions::default() })?;
        client::once(cluster.port(), "postgres", "CREATE DATABASE bench")?;
        client::once(cluster.port(), "bench", loads::RELAY_SCHEMA)?;
        client::once(cluster.port(), "bench", BUMPS_SCHEMA)?;
        let postmaster = cluster.postmaster().context("no postmaster.pid")?;
        Ok(Self { cluster, postmaster })
    }

    fn socket_url(&self, database: &str) -> String {
        let folder = self.cluster.socket_dir().display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{folder}:{}/{database}", self.cluster.port())
    }
}

fn contenders(options: &Options, server: &Server) -> anyhow::Result<Vec<Contender>> {
    let port = server.cluster.port();
    let program = options.pgbouncer.as_str();
    let turnstile = |name, url: &str| Contender::turnstile(name, &options.turnstile, url);
    let wanted = [
        (PGBOUNCER, Contender::pgbouncer(PGBOUNCER, program, port, "session")),
        (PGBOUNCER_TRANSACTION, Contender::pgbouncer(PGBOUNCER_TRANSACTION, program, port, "transaction")),
        (HAPROXY, Contender::haproxy(port)),
        ("blind relay", Contender::blind(port)),
        (TURNSTILE, turnstile(TURNSTILE, &server.cluster.url("bench"))),
        ("Turnstile, unix socket", turnstile("Turnstile, unix socket", &server.socket_url("bench"))),
    ];
    let mut contenders = vec![Contender::direct(port)];
    for (name, contender) in wanted {
        contenders.push(contender.with_context(|| {
            format!("cannot start {name} (PgBouncer and HAProxy: Debian packages pgbouncer and haproxy)")
        })?);
    }
    Ok(contenders)
}

/// Runs all by turns, beginning with another each time.
fn by_turns(
    repetitions: usize,
    count: usize,
    mut run: impl FnMut(usize) -> anyhow::Result<Run>,
) -> anyhow::Result<Vec<Vec<Run>>> {
    let mut runs: Vec<Vec<Run>> = (0..count).map(|_| Vec::new()).collect();
    for repetition in 0..repetitions {
        for turn in 0..count {
            if INTERRUPTED.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            let at = (turn + repetition) % count;
            runs[at].push(run(at)?);
        }
    }
    Ok(runs)
}

fn relay(options: &Options, server: &Server, report: &mut Report) -> anyhow::Result<()> {
    let loads = options.chosen(relay_loads());
    if loads.is_empty() {
        return Ok(());
    }
    let contenders = contenders(options, server)?;
    // Prepared statements in transaction mode need PgBouncer 1.21.
    let refuses = |contender: &Contender, load: &Load| {
        contender.name == PGBOUNCER_TRANSACTION && load.mode == client::Mode::Prepared && !prepares(&options.pgbouncer)
    };
    for load in &loads {
        let able: Vec<&Contender> = contenders.iter().filter(|contender| !refuses(contender, load)).collect();
        let runs = by_turns(options.repetitions, able.len(), |at| {
            let meter = || [able[at].cpu(), server_cpu(server.postmaster)];
            let (outcome, spent) = client::run(load, able[at].port, options.duration(), meter)?;
            Ok(Run::new(outcome, spent))
        })?;
        report.add(
            able.iter()
                .zip(runs)
                .map(|(contender, runs)| Figure {
                    group: "relay",
                    load: load.name.clone(),
                    contender: contender.name,
                    control: contenders::DIRECT,
                    runs,
                })
                .collect(),
        );
    }
    Ok(())
}

fn idle(options: &Options, server: &Server, report: &mut Report) -> anyhow::Result<()> {
    if !options.wants("idle") {
        return Ok(());
    }
    for contender in contenders(options, server)?.iter().skip(1) {
        let before = contender.memory();
        let (_runtime, sessions) = client::idle(contender.port, "bench", IDLE_CONNECTIONS)?;
        let kibibytes = (contender.memory() - before) / sessions.len() as f64 / 1024.0;
        println!("| idle connection | {} | {kibibytes:.1} KiB |", contender.name);
        report.idle.push((contender.name, kibibytes));
    }
    Ok(())
}

/// A Turnstile that serves every database with tracked tables.
fn turnstile(options: &Options, server: &Server) -> anyhow::Result<Contender> {
    for (database, tables) in loads::TRACKED {
        let port = server.cluster.port();
        client::once(port, "postgres", &format!("DROP DATABASE IF EXISTS {database}"))?;
        client::once(port, "postgres", &format!("CREATE DATABASE {database}"))?;
        client::once(port, database, &loads::tracked_schema(tables))?;
        let install = Command::new(&options.turnstile)
            .args(["install", "--server", &server.cluster.url(database)])
            .output()
            .context("turnstile install")?;
        if !install.status.success() {
            bail!("turnstile install: {}", String::from_utf8_lossy(&install.stderr));
        }
    }
    Contender::turnstile(TURNSTILE, &options.turnstile, &server.cluster.url("bench"))
}

fn bumps(
    options: &Options,
    server: &Server,
    (group, loads): (&'static str, Vec<Load>),
    report: &mut Report,
) -> anyhow::Result<()> {
    let loads = options.chosen(loads);
    if loads.is_empty() {
        return Ok(());
    }
    let turnstile = turnstile(options, server)?;
    let direct = server.cluster.port();
    for load in loads {
        let runs = by_turns(options.repetitions, WAYS.len(), |at| {
            let way = WAYS[at];
            let fill = format!("TRUNCATE {0}; SELECT fill_{0}({ROWS_AT_FIRST})", way.table);
            client::once(direct, load.database, &fill)?;
            let port = if way.through { turnstile.port } else { direct };
            let cpu = || if way.through { turnstile.cpu() } else { 0.0 };
            let meter = || [cpu(), server_cpu(server.postmaster)];
            let (outcome, spent) = client::run(&load.on(way.table), port, options.duration(), meter)?;
            Ok(Run::new(outcome, spent))
        })?;
        let figures = WAYS.iter().zip(runs).map(|(way, runs)| Figure {
            group,
            load: load.name.clone(),
            contender: way.name,
            control: way.control,
            runs,
        });
        report.add(figures.collect());
    }
    Ok(())
}

fn reads(options: &Options, server: &Server, report: &mut Report) -> anyhow::Result<()> {
    if !options.wants("reads") {
        return Ok(());
    }
    let turnstile = Contender::turnstile(TURNSTILE, &options.turnstile, &server.cluster.url("bench"))?;
    // Each part as long as all repetitions of another load, but a full run holds its snapshot for minutes.
    let length = if options.quick { options.duration() * 5 } else { Duration::from_secs(45) };
    report.reads = reads::run(server.cluster.port(), turnstile.port, "bench", length)?;
    for part in &report.reads {
        println!("| reads | {} | {:.0} bumps/s | {:.0?} µs |", part.name, part.bumps_per_second, part.latency);
    }
    Ok(())
}
