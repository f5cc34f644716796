//! A load: clients that each speak to one server as fast as it answers, a few on each thread as in pgbench, and note how
//! long each answer took.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// What one read of the socket takes at most, and one CopyData carries, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// A server that answers nothing for so long fails the run.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// How statements are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Simple,
    Extended,
    Prepared,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Prepared, Self::Extended, Self::Simple];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// What each client does again and again. `$1` in the statements is a number from 1 to `numbers`, or the tenant of that
/// number.
#[derive(Debug, Clone)]
pub struct Load {
    pub name: String,
    /// Part of quick runs.
    pub quick: bool,
    pub database: &'static str,
    pub mode: Mode,
    pub clients: usize,
    /// One after the other; what is counted is the whole of them.
    pub statements: Vec<String>,
    pub numbers: u32,
    /// The parameter is a tenant.
    pub tenants: bool,
    /// Statements for one Sync; each is counted.
    pub pipeline: u32,
    /// At the start of each session.
    pub setup: String,
    /// A connection for each turn.
    pub reconnect: bool,
    /// Bytes that a COPY FROM STDIN is given.
    pub copied_bytes: usize,
}

impl Load {
    pub fn new(name: &str, mode: Mode, clients: usize, sql: &str) -> Self {
        Self {
            name: name.to_owned(),
            quick: false,
            database: "bench",
            mode,
            clients,
            statements: vec![sql.to_owned()],
            numbers: 100_000,
            tenants: false,
            pipeline: 1,
            setup: String::new(),
            reconnect: false,
            copied_bytes: 0,
        }
    }

    pub fn in_quick(self) -> Self {
        Self { quick: true, ..self }
    }

    /// With a table's name where the statements leave it open.
    pub fn on(&self, table: &str) -> Self {
        let statements = self.statements.iter().map(|sql| sql.replace("{table}", table)).collect();
        Self { statements, ..self.clone() }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub seconds: f64,
    pub count: u64,
    /// Nanoseconds of one turn.
    pub latency: Histogram<u64>,
    /// By SQLSTATE.
    pub errors: BTreeMap<String, u64>,
}

impl Outcome {
    fn empty() -> anyhow::Result<Self> {
        Ok(Self { seconds: 0.0, count: 0, latency: Histogram::new(3)?, errors: BTreeMap::new() })
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.count += other.count;
        self.latency.add(&other.latency)?;
        for (code, count) in &other.errors {
            *self.errors.entry(code.clone()).or_default() += count;
        }
        Ok(())
    }
}

/// A connection that has logged in.
pub struct Session {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// ReadyForQuery messages that what was put into the output asks for.
    asked: u32,
    /// By SQLSTATE, since the last look.
    errors: BTreeMap<String, u64>,
}

fn frame(output: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    output.push(kind);
    let length: usize = parts.iter().map(|part| part.len()).sum();
    output.extend(u32::try_from(length + 4).expect("short").to_be_bytes());
    parts.iter().for_each(|part| output.extend_from_slice(part));
}

impl Session {
    pub async fn open(port: u16, database: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.with_context(|| format!("port {port}"))?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream, input: Vec::new(), output: Vec::new(), asked: 1, errors: BTreeMap::new() };
        let body = format!("\0\x03\0\0user\0postgres\0database\0{database}\0\0");
        session.output.extend(u32::try_from(body.len() + 4)?.to_be_bytes());
        session.output.extend(body.as_bytes());
        session.exchange(0).await?;
        session.check(database)?;
        Ok(session)
    }

    fn check(&mut self, what: &str) -> anyhow::Result<()> {
        let errors = std::mem::take(&mut self.errors);
        if errors.is_empty() { Ok(()) } else { bail!("{what}: {errors:?}") }
    }

    /// Sends what is to be sent, and reads to the last ReadyForQuery. A CopyInResponse is answered with so many bytes of rows.
    async fn exchange(&mut self, copied_bytes: usize) -> anyhow::Result<()> {
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        self.input.resize(CHUNK_BYTES, 0);
        let (mut have, mut at) = (0, 0);
        loop {
            if have - at >= 5 {
                let kind = self.input[at];
                let length = u32::from_be_bytes(self.input[at + 1..at + 5].try_into()?) as usize + 1;
                if have - at >= length {
                    match kind {
                        b'E' => self.note_error(at + 5..at + length),
                        b'G' => self.copy_in(copied_bytes).await?,
                        b'Z' => self.asked -= 1,
                        _ => {}
                    }
                    if self.asked == 0 {
                        return Ok(());
                    }
                    at += length;
                    continue;
                }
                if length > self.input.len() {
                    self.input.resize(2 * length, 0);
                }
            }
            self.input.copy_within(at..have, 0);
            have -= at;
            at = 0;
            let read = tokio::time::timeout(ANSWER_TIMEOUT, self.stream.read(&mut self.input[have..]));
            let count = read.await.context("no answer")??;
            if count == 0 {
                bail!("the server closed");
            }
            have += count;
        }
    }

    fn note_error(&mut self, body: std::ops::Range<usize>) {
        let code = self.input[body].split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"));
        *self.errors.entry(String::from_utf8_lossy(code.unwrap_or(b"?")).into_owned()).or_default() += 1;
    }

    async fn copy_in(&mut self, bytes: usize) -> anyhow::Result<()> {
        let mut rows = Vec::new();
        let mut number = 0;
        while rows.len() < CHUNK_BYTES - 128 {
            number += 1;
            rows.extend_from_slice(format!("{number}\t1\t0\t{:<84}\n", "").as_bytes());
        }
        let mut chunk = Vec::new();
        frame(&mut chunk, b'd', &[&rows]);
        for _ in 0..bytes.div_ceil(rows.len()) {
            self.stream.write_all(&chunk).await?;
        }
        Ok(self.stream.write_all(b"c\0\0\0\x04").await?)
    }

    pub async fn query(&mut self, sql: &str) -> anyhow::Result<()> {
        self.put_query(sql);
        self.exchange(0).await?;
        self.check(sql)
    }

    fn put_query(&mut self, sql: &str) {
        frame(&mut self.output, b'Q', &[sql.as_bytes(), b"\0"]);
        self.asked += 1;
    }

    fn parse(&mut self, name: &str, sql: &str) {
        frame(&mut self.output, b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"]);
    }

    /// Prepares statement `s0`, `s1`, …
    pub async fn prepare(&mut self, statements: &[String]) -> anyhow::Result<()> {
        for (number, sql) in statements.iter().enumerate() {
            self.parse(&format!("s{number}"), sql);
        }
        self.sync();
        self.exchange(0).await?;
        self.check("prepare")
    }

    pub fn sync(&mut self) {
        frame(&mut self.output, b'S', &[]);
        self.asked += 1;
    }

    /// Sends what waits, and reads to the last ReadyForQuery.
    pub async fn flush(&mut self) -> anyhow::Result<()> {
        self.exchange(0).await
    }

    /// Puts a statement into the output.
    pub fn put(&mut self, mode: Mode, number: usize, sql: &str, parameter: Parameter) {
        let statement = match mode {
            Mode::Simple => {
                self.put_query(&parameter.inside(sql));
                return;
            }
            Mode::Extended => {
                self.parse("", sql);
                "\0".to_owned()
            }
            Mode::Prepared => format!("s{number}\0"),
        };
        if sql.contains("$1") {
            let value = parameter.text();
            let length = u32::try_from(value.len()).expect("short").to_be_bytes();
            let parts = [b"\0", statement.as_bytes(), b"\0\0\0\x01", &length, value.as_bytes(), b"\0\0"];
            frame(&mut self.output, b'B', &parts);
        } else {
            frame(&mut self.output, b'B', &[b"\0", statement.as_bytes(), b"\0\0\0\0\0\0"]);
        }
        frame(&mut self.output, b'D', &[b"P\0"]);
        frame(&mut self.output, b'E', &[b"\0\0\0\0\0"]);
    }
}

/// The value of `$1`.
#[derive(Debug, Clone, Copy)]
pub enum Parameter {
    Number(u32),
    Tenant(u32),
}

impl Parameter {
    fn text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Tenant(number) => format!("00000000-0000-0000-0000-{number:012}"),
        }
    }

    fn inside(self, sql: &str) -> String {
        match self {
            Self::Number(_) => sql.replace("$1", &self.text()),
            Self::Tenant(_) => sql.replace("$1", &format!("'{}'", self.text())),
        }
    }
}

/// An event loop on this thread.
pub fn event_loop() -> anyhow::Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// One text, outside of any measurement.
pub fn once(port: u16, database: &str, sql: &str) -> anyhow::Result<()> {
    event_loop()?.block_on(async { Session::open(port, database).await?.query(sql).await })
}

/// Connections that do nothing, with the event loop that they belong to.
pub fn idle(port: u16, database: &str, count: usize) -> anyhow::Result<(Runtime, Vec<Session>)> {
    let runtime = event_loop()?;
    let sessions = runtime.block_on(async {
        let mut sessions = Vec::new();
        for number in 0..count {
            sessions.push(Session::open(port, database).await.with_context(|| format!("connection {number}"))?);
        }
        anyhow::Ok(sessions)
    })?;
    Ok((runtime, sessions))
}

/// Runs a load for a while. `meter` is read when all clients are ready, and at the end; its difference comes back.
pub fn run<const N: usize>(
    load: &Load,
    port: u16,
    duration: Duration,
    meter: impl Fn() -> [f64; N],
) -> anyhow::Result<(Outcome, [f64; N])> {
    let load = Arc::new(load.clone());
    let threads = thread::available_parallelism()?.get().min(load.clients);
    let begin = Barrier::new(threads + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                let numbers = (thread..load.clients).step_by(threads).collect::<Vec<_>>();
                let (load, begin) = (Arc::clone(&load), &begin);
                scope.spawn(move || several(&load, port, &numbers, begin, duration))
            })
            .collect();
        begin.wait();
        let (before, start) = (meter(), Instant::now());
        let mut all = Outcome::empty()?;
        for thread in threads {
            let part = thread.join().expect("a client panicked").with_context(|| format!("load {}", load.name))?;
            all.add(&part)?;
        }
        all.seconds = start.elapsed().as_secs_f64();
        let mut spent = meter();
        spent.iter_mut().zip(before).for_each(|(after, before)| *after -= before);
        Ok((all, spent))
    })
}

/// The clients of one thread.
fn several(
    load: &Arc<Load>,
    port: u16,
    numbers: &[usize],
    begin: &Barrier,
    duration: Duration,
) -> anyhow::Result<Outcome> {
    let runtime = event_loop()?;
    let opened = runtime.block_on(async {
        let mut sessions = Vec::new();
        for number in numbers {
            sessions.push((*number, prepared(load, port).await?));
        }
        anyhow::Ok(sessions)
    });
    begin.wait();
    let deadline = Instant::now() + duration;
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for (number, session) in opened? {
            clients.spawn(client(Arc::clone(load), port, session, number, deadline));
        }
        let mut all = Outcome::empty()?;
        while let Some(part) = clients.join_next().await {
            all.add(&part??)?;
        }
        Ok(all)
    })
}

async fn prepared(load: &Load, port: u16) -> anyhow::Result<Session> {
    let mut session = Session::open(port, load.database).await?;
    if !load.setup.is_empty() {
        session.query(&load.setup).await?;
    }
    if load.mode == Mode::Prepared {
        session.prepare(&load.statements).await?;
    }
    Ok(session)
}

async fn client(
    load: Arc<Load>,
    port: u16,
    mut session: Session,
    number: usize,
    deadline: Instant,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::empty()?;
    let mut random = 0x9e37_79b9_u32.wrapping_mul(u32::try_from(number)? + 1) | 1;
    loop {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        let start = Instant::now();
        if start >= deadline && outcome.count > 0 {
            outcome.errors = std::mem::take(&mut session.errors);
            return Ok(outcome);
        }
        if load.reconnect {
            session = Session::open(port, load.database).await?;
        }
        for (at, sql) in load.statements.iter().enumerate() {
            for step in 0..load.pipeline {
                let below = random.wrapping_add(step) % load.numbers + 1;
                let parameter = if load.tenants { Parameter::Tenant(below) } else { Parameter::Number(below) };
                session.put(load.mode, at, sql, parameter);
            }
            if load.mode != Mode::Simple {
                session.sync();
            }
            session.exchange(load.copied_bytes).await?;
        }
        outcome.latency.record(u64::try_from(start.elapsed().as_nanos())?)?;
        outcome.count += u64::from(load.pipeline);
    }
}
