//! A seeded simulator: random client programs, a model of the server, any order of arrival, clients that vanish.
//! Through the session and straight to the model the client must get the same bytes, and each committed write
//! must have its one bump. `SIMULATION_SEEDS=17..18` replays a seed.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use super::{ClientStep, Output, ServerStep, Session, View};
use crate::effect::EffectSettings;
use crate::effect::cache::Analyzer;
use crate::effect::test_support::catalog;
use crate::wire::frontend::cstr;

/// Seeds of `make test`.
const SEEDS: u64 = 6_000;
/// Steps after which a run that does not end counts as hanging.
const STEPS_MAX: usize = 20_000;
const TENANT: &str = "11111111-1111-1111-1111-111111111111";

pub type Message = (u8, Vec<u8>);

/// xorshift64*: the same everywhere.
pub struct Random(pub u64);

impl Random {
    /// The programs of a seed.
    pub const fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % bound
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len())]
    }
}

fn message(kind: u8, parts: &[&[u8]]) -> Message {
    (kind, parts.concat())
}

fn frames(mut bytes: &[u8]) -> Vec<Message> {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes(head[1..5].try_into().unwrap()) as usize - 4;
        found.push((head[0], rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "half a message");
    found
}

/// What a transaction has done: bumps and writes of domain `a`, by tenant (`""`: all of them).
#[derive(Debug, Default, Clone)]
pub struct Work {
    writes: Vec<String>,
    bumps: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// None; a transaction may be open implicitly.
    No,
    Open,
    Failed,
}

/// The server: PostgreSQL 15 as far as the programs go.
pub struct Model {
    pub committed: Work,
    /// The transaction: its own work, then that of each savepoint.
    levels: Vec<(String, Work)>,
    block: Block,
    xid: bool,
    /// Rows that were changed since the server added up, of earlier transactions too.
    counter: u64,
    /// It adds up at the end of the transaction; else at every third.
    adds_up: bool,
    ended: usize,
    measured: Option<u64>,
    statements: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, (String, Vec<String>, bool)>,
    skipping: bool,
    buffer: Vec<Message>,
    pub sent: VecDeque<Message>,
    pub received: Vec<Message>,
    /// FunctionCall does not end it, and says so.
    pub keeps_implicit_block: bool,
    /// It can be told when to add up.
    pub flushes: bool,
}

/// An error: its SQLSTATE.
type Outcome = Result<(), &'static str>;

impl Model {
    pub fn new() -> Self {
        Self {
            committed: Work::default(),
            levels: Vec::new(),
            block: Block::No,
            xid: false,
            counter: 0,
            adds_up: false,
            ended: 0,
            measured: None,
            statements: HashMap::new(),
            portals: HashMap::new(),
            skipping: false,
            buffer: Vec::new(),
            sent: VecDeque::new(),
            received: Vec::new(),
            keeps_implicit_block: false,
            flushes: true,
        }
    }

    /// One seed of three has a server whose FunctionCall leaves the implicit transaction to Sync, one of five a server
    /// that adds up when it likes.
    pub fn of(seed: u64) -> Self {
        Self { keeps_implicit_block: seed % 3 == 2, flushes: !seed.is_multiple_of(5), ..Self::new() }
    }

    pub fn flush(&mut self) {
        self.sent.extend(self.buffer.drain(..));
    }

    fn say(&mut self, kind: u8, parts: &[&[u8]]) {
        self.buffer.push(message(kind, parts));
    }

    fn error(&mut self, code: &str) {
        let body = format!("SERROR\0VERROR\0C{code}\0Mwords\0\0");
        self.say(b'E', &[body.as_bytes()]);
        match self.block {
            Block::No => self.end(false),
            Block::Open | Block::Failed => self.block = Block::Failed,
        }
    }

    fn ready(&mut self) {
        if self.block == Block::No {
            self.ended += 1;
            if std::mem::take(&mut self.adds_up) || self.ended.is_multiple_of(3) {
                self.counter = 0;
            }
        }
        let status = match self.block {
            Block::No => b"I",
            Block::Open => b"T",
            Block::Failed => b"E",
        };
        self.say(b'Z', &[status]);
        self.flush();
    }

    fn begin_work(&mut self) {
        if self.levels.is_empty() {
            self.levels.push((String::new(), Work::default()));
        }
    }

    pub fn end(&mut self, commit: bool) {
        for (_, work) in self.levels.drain(..) {
            if commit {
                self.committed.writes.extend(work.writes);
                self.committed.bumps.extend(work.bumps);
            }
        }
        self.block = Block::No;
        self.xid = false;
        self.measured = None;
        self.portals.clear();
    }

    fn work(&mut self) -> &mut Work {
        self.begin_work();
        &mut self.levels.last_mut().unwrap().1
    }

    fn tag(&mut self, tag: &str) {
        self.say(b'C', &[tag.as_bytes(), b"\0"]);
    }

    fn rows(&mut self, column: &str, value: &str, describe: bool) {
        if describe {
            self.say(b'T', &[&[0, 1], column.as_bytes(), &[0; 19]]);
        }
        let length = u32::try_from(value.len()).unwrap().to_be_bytes();
        self.say(b'D', &[&[0, 1], &length, value.as_bytes()]);
        self.tag("SELECT 1");
    }

    /// One statement; `single`: it is all of a simple query, or an Execute.
    #[expect(clippy::too_many_lines, reason = "one arm for each statement")]
    fn execute(&mut self, text: &str, parameters: &[String], describe: bool) -> Outcome {
        let text = text.trim();
        let ends = text.starts_with("COMMIT") || text.starts_with("ROLLBACK");
        if self.block == Block::Failed && !ends {
            return Err("25P02");
        }
        match text {
            "BEGIN" => {
                if self.block != Block::No {
                    self.say(b'N', &[b"SWARNING\0C25001\0\0"]);
                }
                self.begin_work();
                self.block = Block::Open;
                self.tag("BEGIN");
            }
            "COMMIT" | "ROLLBACK" => {
                if self.block == Block::No {
                    self.say(b'N', &[b"SWARNING\0C25P01\0\0"]);
                }
                let commit = text == "COMMIT" && self.block != Block::Failed;
                self.end(commit);
                self.tag(if commit { "COMMIT" } else { "ROLLBACK" });
            }
            "SAVEPOINT s" => {
                if self.block == Block::No {
                    return Err("25P01");
                }
                self.levels.push(("s".into(), Work::default()));
                self.tag("SAVEPOINT");
            }
            "ROLLBACK TO s" | "RELEASE s" => {
                if self.block == Block::No {
                    return Err("25P01");
                }
                let Some(at) = self.levels.iter().rposition(|(name, _)| name == "s") else { return Err("3B001") };
                let undone = self.levels.split_off(at);
                if text == "RELEASE s" {
                    for (_, work) in undone {
                        self.work().writes.extend(work.writes);
                        self.work().bumps.extend(work.bumps);
                    }
                    self.tag("RELEASE");
                } else {
                    self.levels.push(("s".into(), Work::default()));
                    self.block = Block::Open;
                    self.tag("ROLLBACK");
                }
            }
            "SELECT 1/0" => return Err("22012"),
            "SELECT 1" | "SELECT app.reads()" => {
                self.begin_work();
                self.rows("x", "1", describe);
            }
            // It might write what is tracked, and writes something else.
            "SELECT app.syncs()" => {
                self.begin_work();
                self.xid = true;
                self.rows("x", "1", describe);
            }
            "SELECT app.writes()" => {
                self.write("");
                self.rows("x", "1", describe);
            }
            _ if text.starts_with("INSERT INTO tv_a VALUES (9") => return Err("23505"),
            _ if text.starts_with("INSERT INTO tv_a") => {
                self.write(TENANT);
                self.tag("INSERT 0 1");
            }
            _ if text.starts_with("UPDATE tv_a") => {
                self.begin_work();
                if text.contains("'none'") {
                    self.tag("UPDATE 0");
                } else {
                    self.write(TENANT);
                    self.tag("UPDATE 1");
                }
            }
            _ if text.starts_with("SELECT turbo.") => {
                self.begin_work();
                let result = self.ours(text, parameters);
                self.rows("_t", &result, describe);
            }
            other => panic!("the model does not know {other:?}"),
        }
        Ok(())
    }

    fn write(&mut self, tenant: &str) {
        self.xid = true;
        self.counter += 1;
        self.work().writes.push(tenant.into());
    }

    /// Our functions.
    fn ours(&mut self, text: &str, parameters: &[String]) -> String {
        let measures = text.contains("fn_measured") || text.contains("fn_measure_end");
        let rows = self.log_rows(text, parameters);
        self.adds_up |= measures && self.flushes;
        if measures && self.flushes { format!("{rows} f") } else { rows.to_string() }
    }

    fn log_rows(&mut self, text: &str, parameters: &[String]) -> usize {
        let (name, rest) = text.strip_prefix("SELECT turbo.").unwrap().split_once('(').unwrap();
        let arguments = if parameters.is_empty() { literals(rest) } else { parameters.to_vec() };
        match name {
            "fn_measure_begin" => {
                self.measured = Some(self.counter);
                0
            }
            "fn_measure_end" => {
                let zero = arguments.last().is_some_and(|before| before == "0/0/,");
                let Some(before) = self.measured.or_else(|| zero.then_some(0)) else {
                    self.work().bumps.push("blind".into());
                    return 1;
                };
                if self.counter == before {
                    return 0;
                }
                self.bump("", 1)
            }
            "fn_measured" | "fn_measured_every" => {
                if !self.xid || self.counter == 0 {
                    return 0;
                }
                self.bump("", 1)
            }
            "fn_bump_one" => {
                if arguments[arguments.len() - 2] == "written" && !self.xid {
                    return 0;
                }
                // In a text a tenant that is NULL has no literal.
                let (tenant, at) = if arguments.len() == 6 { (arguments[0].as_str(), 1) } else { ("", 0) };
                assert_eq!(arguments[at], "a", "no other domain is written");
                self.bump(tenant, arguments[at + 1].parse().unwrap())
            }
            "fn_bump" => {
                let written = match arguments[5].as_str() {
                    "always" => true,
                    "written" => self.xid,
                    _ => self.measured != Some(self.counter),
                };
                let tenants = elements(&arguments[2]);
                let domains = elements(&arguments[3]);
                let statements = elements(&arguments[1]);
                let mut count = 0;
                for ((tenant, domain), times) in tenants.iter().zip(&domains).zip(&statements).filter(|_| written) {
                    assert_eq!(domain, "a", "no other domain is written");
                    count += self.bump(tenant, times.parse().unwrap());
                }
                count
            }
            other => panic!("unexpected function {other}"),
        }
    }

    fn bump(&mut self, tenant: &str, times: usize) -> usize {
        self.xid = true;
        for _ in 0..times {
            self.work().bumps.push(tenant.into());
        }
        1
    }

    pub fn receive(&mut self, (kind, body): Message) {
        self.received.push((kind, body.clone()));
        if self.skipping && kind != b'S' {
            return;
        }
        match kind {
            b'Q' => self.query(&String::from_utf8(body).unwrap()),
            b'S' => {
                self.skipping = false;
                if self.block == Block::No {
                    self.end(true);
                }
                self.ready();
            }
            b'H' => self.flush(),
            b'F' => self.call(&body),
            b'X' => {}
            _ => {
                if let Err(code) = self.extended(kind, &body) {
                    self.error(code);
                    self.skipping = true;
                    // The server flushes an error at once.
                    self.flush();
                }
            }
        }
    }

    /// Only we call functions.
    fn call(&mut self, body: &[u8]) {
        if self.block == Block::Failed {
            self.error("25P02");
            return self.ready();
        }
        self.begin_work();
        let name = match u32::from_be_bytes(body[..4].try_into().unwrap()) {
            4242 => "SELECT turbo.fn_bump_one(",
            _ => "SELECT turbo.fn_measured(",
        };
        let rows = self.ours(name, &bound(&body[4..]));
        self.say(b'V', &[&u32::try_from(rows.len()).unwrap().to_be_bytes(), rows.as_bytes()]);
        if self.block == Block::No && !self.keeps_implicit_block {
            self.end(true);
        }
        if self.block == Block::No && self.keeps_implicit_block {
            self.say(b'Z', &[b"T"]);
            return self.flush();
        }
        self.ready();
    }

    fn query(&mut self, text: &str) {
        self.statements.remove(&b""[..]);
        self.portals.remove(&b""[..]);
        let text = text.trim_end_matches('\0');
        let statements: Vec<&str> = text.split(';').map(str::trim).filter(|part| !part.is_empty()).collect();
        if statements.contains(&"SELEC") {
            self.error("42601");
            return self.ready();
        }
        if statements.is_empty() {
            self.say(b'I', &[]);
        }
        for statement in &statements {
            if let Err(code) = self.execute(statement, &[], true) {
                self.error(code);
                return self.ready();
            }
        }
        if self.block == Block::No {
            self.end(true);
        }
        self.ready();
    }

    fn extended(&mut self, kind: u8, body: &[u8]) -> Outcome {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match kind {
            b'P' => {
                let (name, rest) = cstr(body).unwrap();
                let sql = text(cstr(rest).unwrap().0);
                if sql == "SELEC" {
                    return Err("42601");
                }
                let ends = sql.starts_with("COMMIT") || sql.starts_with("ROLLBACK");
                if self.block == Block::Failed && !ends && !sql.is_empty() {
                    return Err("25P02");
                }
                if !name.is_empty() && self.statements.contains_key(name) {
                    return Err("42P05");
                }
                self.statements.insert(name.to_vec(), sql);
                self.say(b'1', &[]);
            }
            b'B' => {
                let (portal, rest) = cstr(body).unwrap();
                let (name, rest) = cstr(rest).unwrap();
                let sql = self.statements.get(name).cloned().ok_or("26000")?;
                let ends = sql.starts_with("COMMIT") || sql.starts_with("ROLLBACK");
                if self.block == Block::Failed && !ends && !sql.is_empty() {
                    return Err("25P02");
                }
                if !portal.is_empty() && self.portals.contains_key(portal) {
                    return Err("42P03");
                }
                self.begin_work();
                self.portals.insert(portal.to_vec(), (sql, bound(rest), false));
                self.say(b'2', &[]);
            }
            b'E' => {
                let (portal, _) = cstr(body).unwrap();
                let (sql, parameters, done) = self.portals.get(portal).cloned().ok_or("34000")?;
                if sql.is_empty() {
                    self.say(b'I', &[]);
                    return Ok(());
                }
                if done {
                    return Err("55000");
                }
                if let Some(known) = self.portals.get_mut(portal) {
                    known.2 = true;
                }
                self.execute(&sql, &parameters, false)?;
            }
            b'D' => self.say(b'n', &[]),
            b'C' => {
                let name = cstr(&body[1..]).unwrap().0;
                if body[0] == b'S' {
                    self.statements.remove(name);
                } else {
                    self.portals.remove(name);
                }
                self.say(b'3', &[]);
            }
            other => panic!("the model does not know message {other}"),
        }
        Ok(())
    }
}

/// Parameters of a Bind, as text.
fn bound(rest: &[u8]) -> Vec<String> {
    let formats = usize::from(u16::from_be_bytes(rest[..2].try_into().unwrap()));
    let mut rest = &rest[2 + 2 * formats..];
    let count = u16::from_be_bytes(rest[..2].try_into().unwrap());
    rest = &rest[2..];
    let mut values = Vec::new();
    for _ in 0..count {
        let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
        rest = &rest[4..];
        let (value, tail) = rest.split_at(usize::try_from(length).unwrap_or(0));
        values.push(String::from_utf8(value.to_vec()).unwrap());
        rest = tail;
    }
    values
}

/// Literals of a call, in order.
fn literals(text: &str) -> Vec<String> {
    text.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
}

fn elements(array: &str) -> Vec<String> {
    array.trim_matches(['{', '}']).split(',').map(|item| item.trim_matches('"').to_owned()).collect()
}

const STATEMENTS: &[&str] = &[
    "INSERT INTO tv_a VALUES (1, '11111111-1111-1111-1111-111111111111')",
    "INSERT INTO tv_a VALUES (1, '11111111-1111-1111-1111-111111111111') RETURNING id",
    "UPDATE tv_a SET x = 'u' WHERE tenant_id = '11111111-1111-1111-1111-111111111111'",
    "UPDATE tv_a SET x = 'none' WHERE tenant_id = '11111111-1111-1111-1111-111111111111'",
    "INSERT INTO tv_a VALUES (9, '11111111-1111-1111-1111-111111111111')",
    "SELECT app.writes()",
    "SELECT app.reads()",
    "SELECT 1",
    "SELECT 1",
    "SELECT 1/0",
    "BEGIN",
    "BEGIN",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "RELEASE s",
    "",
];

/// Mostly what is measured.
const CALLS: &[&str] = &[
    "SELECT app.writes()",
    "SELECT app.writes()",
    "SELECT app.writes()",
    "SELECT app.syncs()",
    "SELECT app.syncs()",
    "SELECT app.reads()",
    "SELECT 1",
    "SELECT 1/0",
    "INSERT INTO tv_a VALUES (1, '11111111-1111-1111-1111-111111111111')",
    "BEGIN",
    "COMMIT",
];

/// Seeds from here on are of programs that mostly call functions.
pub const CALLS_FROM: u64 = 1_000_000;

/// A flight of messages, and how many ReadyForQuery the client waits for before the next one.
pub type Flight = (Vec<Message>, usize);

pub fn program(seed: u64, random: &mut Random) -> Vec<Flight> {
    let (statements, flights) = if seed < CALLS_FROM { (STATEMENTS, 2) } else { (CALLS, 6) };
    (0..flights + random.below(6)).map(|_| flight(statements, random)).collect()
}

fn flight(statements: &[&str], random: &mut Random) -> Flight {
    if random.chance(45) {
        let count = if random.chance(60) { 1 } else { 1 + random.below(4) };
        let mut text: Vec<&str> = (0..count).map(|_| random.pick(statements)).collect();
        if random.chance(4) {
            text.push("SELEC");
        }
        let text = text.join(";");
        return (vec![message(b'Q', &[text.as_bytes(), b"\0"])], 1);
    }
    let mut messages = Vec::new();
    let mut syncs = 0;
    for _ in 0..=random.below(5) {
        extended_statement(statements, random, &mut messages);
        if random.chance(25) {
            messages.push((b'S', Vec::new()));
            syncs += 1;
        } else if random.chance(10) {
            messages.push((b'H', Vec::new()));
        }
    }
    messages.push((b'S', Vec::new()));
    (messages, syncs + 1)
}

fn extended_statement(statements: &[&str], random: &mut Random, messages: &mut Vec<Message>) {
    let name: &[u8] = if random.chance(20) { b"n" } else { b"" };
    let portal: &[u8] = if random.chance(20) { b"p" } else { b"" };
    let sql = if random.chance(3) { "SELEC" } else { random.pick(statements) };
    if random.chance(90) {
        messages.push(message(b'P', &[name, b"\0", sql.as_bytes(), b"\0\0\0"]));
    }
    messages.push(message(b'B', &[portal, b"\0", name, b"\0\0\0\0\0\0\0"]));
    if random.chance(10) {
        messages.push(message(b'D', &[b"P", portal, b"\0"]));
    }
    messages.push(message(b'E', &[portal, b"\0\0\0\0\0"]));
    if random.chance(5) {
        messages.push(message(b'E', &[portal, b"\0\0\0\0\0"]));
    }
    if !portal.is_empty() || random.chance(5) {
        messages.push(message(b'C', &[b"P", portal, b"\0"]));
    }
    if !name.is_empty() && random.chance(60) {
        messages.push(message(b'C', &[b"S", name, b"\0"]));
    }
}

/// A run through the session.
struct Run {
    session: Session,
    model: Model,
    to_server: VecDeque<Message>,
    to_client: Vec<Message>,
    held: Option<Message>,
    pending: VecDeque<Message>,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            session: logged_in(seed),
            model: Model::of(seed),
            to_server: VecDeque::new(),
            to_client: Vec::new(),
            held: None,
            pending: VecDeque::new(),
        }
    }

    fn offer(&mut self, (kind, body): Message) {
        let mut out = Output::default();
        let step = self.session.on_client(kind, body.len(), &body, &mut out);
        self.to_server.extend(frames(&out.to_server));
        match step {
            ClientStep::Relay => self.to_server.push_back((kind, body)),
            ClientStep::Replace => {}
            ClientStep::Hold => {
                self.held = Some((kind, body));
                return;
            }
            ClientStep::RelayLast => panic!("no program breaks the protocol"),
        }
        self.to_server.extend(frames(&out.behind));
        assert!(out.to_client.is_empty());
    }

    fn answer(&mut self, (kind, body): Message) {
        let mut out = Output::default();
        let step = self.session.on_server(kind, body.len(), &body, &mut out);
        self.to_client.extend(frames(&out.to_client));
        if step == ServerStep::Forward {
            self.to_client.push((kind, body));
        }
        self.to_server.extend(frames(&out.to_server));
        if let Some(held) = self.held.take() {
            self.offer(held);
        }
    }

    fn ready_seen(&self) -> usize {
        self.to_client.iter().filter(|(kind, _)| *kind == b'Z').count()
    }

    /// One thing that may happen next; `false`: nothing may.
    fn step(&mut self, random: &mut Random) -> bool {
        let can_send = self.held.is_none() && !self.pending.is_empty();
        let choices = [can_send, !self.to_server.is_empty(), !self.model.sent.is_empty()];
        if !choices.contains(&true) {
            return false;
        }
        loop {
            match random.below(3) {
                0 if choices[0] => {
                    let next = self.pending.pop_front().unwrap();
                    self.offer(next);
                }
                1 if choices[1] => {
                    let next = self.to_server.pop_front().unwrap();
                    self.model.receive(next);
                    if random.chance(10) {
                        // Its buffer is full.
                        self.model.flush();
                    }
                }
                2 if choices[2] => {
                    let next = self.model.sent.pop_front().unwrap();
                    self.answer(next);
                }
                _ => continue,
            }
            return true;
        }
    }
}

/// A session behind its first ReadyForQuery.
/// A session; two of three seeds bump by FunctionCall.
pub fn logged_in(seed: u64) -> Session {
    let calls =
        (!seed.is_multiple_of(3)).then_some(crate::catalog::Calls { bump: 4242, measured: 4243, measured_every: 4244 });
    let catalog = crate::catalog::Catalog { calls, ..catalog_without_cascades() };
    let analyzer = Arc::new(Analyzer::new(catalog, EffectSettings::default()));
    let mut session = Session::new(View { analyzer, fresh: true }, "_t");
    session.on_server(b'Z', 1, b"I", &mut Output::default());
    session
}

/// The test catalog, where a write of `a` bumps nothing else by itself (cascades are the server's affair).
fn catalog_without_cascades() -> crate::catalog::Catalog {
    crate::catalog::Catalog { cascades: Vec::new(), ..catalog() }
}

/// The client's transcript straight from the model, and what was committed.
pub fn direct(flights: &[Flight]) -> Vec<Message> {
    let mut model = Model::new();
    for (messages, _) in flights {
        for message in messages {
            model.receive(message.clone());
        }
    }
    model.flush();
    model.sent.into()
}

pub fn readable(messages: &[Message]) -> String {
    let mut text = String::new();
    for (kind, body) in messages {
        let _ = writeln!(text, "   {} {}", char::from(*kind), String::from_utf8_lossy(body).replace('\0', "."));
    }
    text
}

fn check(seed: u64) {
    let mut random = Random::of(seed);
    let flights = program(seed, &mut random);
    let vanishes = random.chance(20).then(|| random.below(40));
    let mut run = Run::new(seed);
    let mut steps = 0;
    let mut expected_ready = 0;
    let mut gone = false;
    let sent = || flights.iter().flat_map(|(messages, _)| messages.iter().cloned()).collect::<Vec<_>>();
    let fail = |what: &str, run: &Run| {
        panic!(
            "seed {seed}: {what}\nclient sent\n{}client got\n{}direct\n{}committed {:?}\nserver got\n{}",
            readable(&sent()),
            readable(&run.to_client),
            readable(&direct(&flights)),
            run.model.committed,
            readable(&run.model.received)
        )
    };
    'program: for (messages, ready) in &flights {
        run.pending.extend(messages.iter().cloned());
        expected_ready += ready;
        let waits = random.chance(60);
        loop {
            if vanishes.is_some_and(|after| steps >= after) {
                gone = true;
                break 'program;
            }
            steps += 1;
            if !run.step(&mut random) {
                if run.held.is_some() || run.ready_seen() < expected_ready {
                    fail("it hangs", &run);
                }
                break;
            }
            assert!(steps < STEPS_MAX, "seed {seed}: no end");
            assert!(run.session.outstanding_len() <= 200, "seed {seed}: memory");
            if (!waits && run.pending.is_empty() && run.held.is_none()) || run.ready_seen() >= expected_ready {
                break;
            }
        }
    }
    if gone {
        // What was sent still arrives; what was not never does.
        run.pending.clear();
        run.held = None;
    }
    while run.step(&mut random) {}
    run.model.end(false);
    if !gone && run.to_client != direct(&flights) {
        fail("another transcript", &run);
    }
    if !are_covered(&run.model.committed) {
        fail("writes and bumps differ", &run);
    }
}

/// Each write has one bump: of its tenant, or of all where its tenant could not be told (behind a measured statement
/// of the same text). Where the transaction ended inside of a measured statement, one bump stands for whatever it was.
pub fn are_covered(committed: &Work) -> bool {
    let mut bumps = committed.bumps.clone();
    let mut take = |wanted: &str| {
        let at = bumps.iter().position(|bump| bump == wanted);
        at.map(|at| bumps.swap_remove(at)).is_some()
    };
    let left: Vec<&String> = committed.writes.iter().filter(|write| !take(write)).collect();
    let blind = committed.bumps.iter().any(|bump| bump == "blind");
    let covered = left.iter().all(|_| take("") || blind);
    covered && bumps.iter().all(|bump| bump == "blind")
}

/// The seeds that `SIMULATION_SEEDS` asks for.
pub fn named_seeds() -> Option<Range<u64>> {
    let named = std::env::var("SIMULATION_SEEDS").ok()?;
    let (from, to) = named.split_once("..").expect("SIMULATION_SEEDS=from..to");
    Some(from.parse().unwrap()..to.parse().unwrap())
}

#[test]
fn random_programs() {
    let seeds = named_seeds()
        .map_or_else(|| (0..SEEDS).chain(CALLS_FROM..CALLS_FROM + SEEDS / 2).collect::<Vec<_>>(), Iterator::collect);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| check(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
