//! A load: threads that each speak to one server as fast as it answers, and note how long each answer took.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;

/// How statements are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Simple,
    Extended,
    Prepared,
}

/// What each client does again and again. `$1` in the text is a number below `numbers`, or the tenant of that number.
#[derive(Debug, Clone)]
pub struct Load {
    pub name: String,
    pub mode: Mode,
    pub clients: usize,
    pub sql: String,
    pub numbers: u32,
    /// The parameter is a tenant.
    pub tenants: bool,
    /// Statements for one Sync.
    pub pipeline: usize,
    /// At the start of each session.
    pub setup: String,
    /// A connection for each statement.
    pub reconnect: bool,
}

impl Load {
    pub fn new(name: &str, mode: Mode, clients: usize, sql: &str) -> Self {
        Self {
            name: name.to_owned(),
            mode,
            clients,
            sql: sql.to_owned(),
            numbers: 100_000,
            tenants: false,
            pipeline: 1,
            setup: String::new(),
            reconnect: false,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub seconds: f64,
    pub statements: u64,
    pub latency: Histogram<u64>,
    /// By SQLSTATE.
    pub errors: BTreeMap<String, u64>,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.statements as f64 / self.seconds
    }
}

struct Session {
    stream: TcpStream,
    input: Vec<u8>,
    sent: Vec<u8>,
}

fn frame(output: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    output.push(kind);
    let length: usize = parts.iter().map(|part| part.len()).sum();
    output.extend(u32::try_from(length + 4).expect("short").to_be_bytes());
    parts.iter().for_each(|part| output.extend_from_slice(part));
}

impl Session {
    fn open(port: u16, database: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("port {port}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut session = Self { stream, input: vec![0; 1 << 16], sent: Vec::new() };
        let body = format!("\0\x03\0\0user\0postgres\0database\0{database}\0\0");
        session.sent.extend(u32::try_from(body.len() + 4)?.to_be_bytes());
        session.sent.extend(body.as_bytes());
        session.exchange(&mut BTreeMap::new())?;
        Ok(session)
    }

    /// Sends, and reads to ReadyForQuery.
    fn exchange(&mut self, errors: &mut BTreeMap<String, u64>) -> anyhow::Result<()> {
        self.stream.write_all(&self.sent)?;
        self.sent.clear();
        let (mut have, mut at) = (0, 0);
        loop {
            if have - at >= 5 {
                let kind = self.input[at];
                let length = u32::from_be_bytes(self.input[at + 1..at + 5].try_into()?) as usize + 1;
                if kind == b'E' && have - at >= length {
                    let body = &self.input[at + 5..at + length];
                    let code = body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"));
                    *errors.entry(String::from_utf8_lossy(code.unwrap_or(b"?")).into_owned()).or_default() += 1;
                }
                if have - at >= length {
                    at += length;
                    if kind == b'Z' && at == have {
                        return Ok(());
                    }
                    continue;
                }
                if length > self.input.len() {
                    self.input.resize(2 * length, 0);
                }
            }
            self.input.copy_within(at..have, 0);
            have -= at;
            at = 0;
            let count = self.stream.read(&mut self.input[have..])?;
            if count == 0 {
                bail!("the server closed");
            }
            have += count;
        }
    }

    fn query(&mut self, sql: &str) -> anyhow::Result<()> {
        frame(&mut self.sent, b'Q', &[sql.as_bytes(), b"\0"]);
        let mut errors = BTreeMap::new();
        self.exchange(&mut errors)?;
        if errors.is_empty() { Ok(()) } else { bail!("{sql}: {errors:?}") }
    }

    fn prepare(&mut self, name: &str, sql: &str) {
        frame(&mut self.sent, b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"]);
    }

    fn run(&mut self, load: &Load, parameter: &str) {
        match load.mode {
            Mode::Simple => {
                let value = if load.tenants { format!("'{parameter}'") } else { parameter.to_owned() };
                frame(&mut self.sent, b'Q', &[load.sql.replace("$1", &value).as_bytes(), b"\0"]);
                return;
            }
            Mode::Extended => self.prepare("", &load.sql),
            Mode::Prepared => {}
        }
        let statement: &[u8] = if load.mode == Mode::Prepared { b"s\0" } else { b"\0" };
        if load.sql.contains("$1") {
            let length = u32::try_from(parameter.len()).expect("short").to_be_bytes();
            let parts = [b"\0", statement, b"\0\0\0\x01", &length, parameter.as_bytes(), b"\0\0"];
            frame(&mut self.sent, b'B', &parts);
        } else {
            frame(&mut self.sent, b'B', &[b"\0", statement, b"\0\0\0\0\0\0"]);
        }
        frame(&mut self.sent, b'D', &[b"P\0"]);
        frame(&mut self.sent, b'E', &[b"\0\0\0\0\0"]);
    }
}

fn tenant(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

/// One statement, outside of any measurement.
pub fn once(port: u16, database: &str, sql: &str) -> anyhow::Result<()> {
    Session::open(port, database)?.query(sql)
}

/// Connections that do nothing.
pub fn idle(port: u16, database: &str, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    (0..count).map(|_| Ok(Session::open(port, database)?.stream)).collect()
}

/// Runs a load for a while.
pub fn run(load: &Load, port: u16, database: &str, duration: Duration) -> anyhow::Result<Outcome> {
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let parts: Vec<anyhow::Result<_>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..load.clients)
            .map(|number| {
                let stop = &stop;
                scope.spawn(move || client(load, port, database, stop, number))
            })
            .collect();
        thread::sleep(duration);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("a client panicked")).collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    let mut all = Outcome { seconds, statements: 0, latency: Histogram::new(3)?, errors: BTreeMap::new() };
    for part in parts {
        let (count, latency, errors) = part.with_context(|| format!("load {}", load.name))?;
        all.statements += count;
        all.latency.add(latency)?;
        errors.into_iter().for_each(|(code, count)| *all.errors.entry(code).or_default() += count);
    }
    Ok(all)
}

type Part = (u64, Histogram<u64>, BTreeMap<String, u64>);

fn client(load: &Load, port: u16, database: &str, stop: &AtomicBool, number: usize) -> anyhow::Result<Part> {
    let mut latency = Histogram::<u64>::new(3)?;
    let mut errors = BTreeMap::new();
    let mut count = 0;
    let mut random = 0x9e37_79b9_u32.wrapping_mul(u32::try_from(number)? + 1) | 1;
    let mut session = Session::open(port, database)?;
    if !load.setup.is_empty() {
        session.query(&load.setup)?;
    }
    if load.mode == Mode::Prepared {
        session.prepare("s", &load.sql);
        frame(&mut session.sent, b'S', &[]);
        session.exchange(&mut errors)?;
    }
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..load.pipeline {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            let below = random % load.numbers + 1;
            let parameter = if load.tenants { tenant(below) } else { below.to_string() };
            session.run(load, &parameter);
        }
        if load.mode != Mode::Simple {
            frame(&mut session.sent, b'S', &[]);
        }
        let start = Instant::now();
        if load.reconnect {
            session = Session::open(port, database)?;
            session.run(load, "1");
        }
        session.exchange(&mut errors)?;
        latency.record(u64::try_from(start.elapsed().as_nanos())?)?;
        count += load.pipeline as u64;
    }
    Ok((count, latency, errors))
}
