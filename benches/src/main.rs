//! `make bench`: all contenders in one run, taking turns, each figure a ratio to the control measured beside it.
//! Prints tables, writes RESULTS.md and pictures.

mod client;
mod contenders;
mod loads;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use turnstile::embedded::{Cluster, ClusterOptions};

use client::{Load, Outcome};
use contenders::Contender;
use loads::{BUMPS_SCHEMA, Way, bump_loads, relay_loads, ways};
use report::{Figure, Report};

const IDLE_CONNECTIONS: usize = 500;

struct Options {
    seconds: f64,
    repetitions: usize,
    only: Option<String>,
    turnstile: PathBuf,
    results: PathBuf,
}

fn options() -> anyhow::Result<Options> {
    let mut options = Options {
        seconds: 1.0,
        repetitions: 5,
        only: None,
        turnstile: "target/release/turnstile".into(),
        results: "benches".into(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--seconds" => options.seconds = value.parse()?,
            "--repetitions" => options.repetitions = value.parse()?,
            "--only" => options.only = Some(value),
            "--turnstile" => options.turnstile = value.into(),
            "--results" => options.results = value.into(),
            _ => bail!("unknown option {flag}: --seconds, --repetitions, --only, --turnstile, --results"),
        }
    }
    Ok(options)
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, listen, server] = arguments.as_slice()
        && word == "relay"
    {
        return contenders::relay(listen.parse()?, server.parse()?);
    }
    let options = options()?;
    let settings = [
        "fsync = off",
        "max_connections = 1200",
        "shared_buffers = 256MB",
        "autovacuum = off",
        "unix_socket_directories = '/tmp'",
    ];
    let settings = settings.iter().map(ToString::to_string).collect();
    let cluster = Cluster::start(&ClusterOptions { settings, ..ClusterOptions::default() })?;
    let server = cluster.port();
    client::once(server, "postgres", "CREATE DATABASE bench")?;
    client::once(server, "bench", loads::RELAY_SCHEMA)?;
    let contenders = start(server, &options.turnstile)?;
    client::once(server, "bench", BUMPS_SCHEMA)?;
    // The catalog is read at least once a second.
    std::thread::sleep(Duration::from_millis(1_500));
    let mut report = Report::new(&options.turnstile, server)?;
    relay(&options, &contenders, &mut report)?;
    idle(&options, &contenders, &mut report)?;
    bumps(&options, &contenders, server, &mut report)?;
    report.write(&options.results)
}

fn start(server: u16, turnstile: &Path) -> anyhow::Result<Vec<Contender>> {
    let tcp = format!("postgres://postgres@127.0.0.1:{server}");
    let unix = format!("postgres://postgres@%2Ftmp:{server}");
    let mut contenders = vec![Contender::direct(server)];
    let wanted = [
        ("PgBouncer, session", Contender::pgbouncer("PgBouncer, session", server, "session")),
        ("PgBouncer, transaction", Contender::pgbouncer("PgBouncer, transaction", server, "transaction")),
        ("HAProxy", Contender::haproxy(server)),
        ("blind relay", Contender::blind(server)),
        ("Turnstile", Contender::turnstile("Turnstile", turnstile, &tcp, "bench")),
        ("Turnstile, unix socket", Contender::turnstile("Turnstile, unix socket", turnstile, &unix, "bench")),
    ];
    for (name, contender) in wanted {
        contenders.push(contender.with_context(|| {
            format!("cannot start {name} (PgBouncer and HAProxy: Debian packages pgbouncer and haproxy)")
        })?);
    }
    Ok(contenders)
}

fn chosen(options: &Options, load: &Load) -> bool {
    options.only.as_ref().is_none_or(|only| load.name.contains(only.as_str()))
}

/// Whether a contender can run a load at all.
fn can(contender: &Contender, load: &Load) -> bool {
    // Prepared statements in transaction mode need a newer PgBouncer than distributions have.
    !(contender.name == "PgBouncer, transaction" && load.mode == client::Mode::Prepared)
}

fn relay(options: &Options, contenders: &[Contender], report: &mut Report) -> anyhow::Result<()> {
    for load in relay_loads().iter().filter(|load| chosen(options, load)) {
        let able: Vec<&Contender> = contenders.iter().filter(|contender| can(contender, load)).collect();
        let mut runs: Vec<Vec<(Outcome, f64)>> = able.iter().map(|_| Vec::new()).collect();
        for repetition in 0..options.repetitions {
            for turn in 0..able.len() {
                let at = (turn + repetition) % able.len();
                let cpu = able[at].cpu();
                let outcome = client::run(load, able[at].port, "bench", Duration::from_secs_f64(options.seconds))?;
                runs[at].push((outcome, able[at].cpu() - cpu));
            }
        }
        for (at, contender) in able.iter().enumerate() {
            report.add(Figure::new("relay", &load.name, contender.name, &runs[at], &runs[0]));
        }
    }
    Ok(())
}

fn idle(options: &Options, contenders: &[Contender], report: &mut Report) -> anyhow::Result<()> {
    if options.only.as_ref().is_some_and(|only| !"idle".contains(only.as_str())) {
        return Ok(());
    }
    for contender in contenders.iter().skip(1) {
        let before = contender.memory();
        let connections = client::idle(contender.port, "bench", IDLE_CONNECTIONS)?;
        let bytes = (contender.memory() - before) / connections.len() as f64;
        report.idle(contender.name, bytes / 1024.0);
    }
    Ok(())
}

fn bumps(options: &Options, contenders: &[Contender], server: u16, report: &mut Report) -> anyhow::Result<()> {
    let through = contenders.iter().find(|contender| contender.name == "Turnstile").context("no Turnstile")?.port;
    let ways = ways(server, through);
    for load in bump_loads().iter().filter(|load| chosen(options, load)) {
        let mut runs: Vec<Vec<(Outcome, f64)>> = ways.iter().map(|_| Vec::new()).collect();
        for repetition in 0..options.repetitions {
            for turn in 0..ways.len() {
                let at = (turn + repetition) % ways.len();
                let Way { table, port, .. } = ways[at];
                client::once(server, "bench", &format!("TRUNCATE {table}; SELECT {}(1)", "fill_".to_owned() + table))?;
                let load = Load { sql: load.sql.replace("{table}", table), ..load.clone() };
                let outcome = client::run(&load, port, "bench", Duration::from_secs_f64(options.seconds))?;
                runs[at].push((outcome, 0.0));
            }
        }
        for (at, way) in ways.iter().enumerate() {
            // Through Turnstile, the control is the same statement through Turnstile on a table it does not track.
            let control =
                if way.port == through { ways.iter().position(|other| other.name == loads::UNTRACKED) } else { None };
            report.add(Figure::new("bump", &load.name, way.name, &runs[at], &runs[control.unwrap_or(0)]));
            if control.is_some() && way.name != loads::UNTRACKED {
                report.add(Figure::new("bump", &load.name, "Turnstile / direct", &runs[at], &runs[0]));
            }
        }
    }
    Ok(())
}
