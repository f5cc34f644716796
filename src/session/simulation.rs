//! A seeded simulator: random client programs, a model of the server, any order of arrival, clients that vanish.
//! Through the session and straight to the model the client must get the same bytes, and each committed write
//! must have its one bump. `SIMULATION_SEEDS=17..18` replays a seed.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

pub use self::model::{Model, Work};
use super::{ClientStep, Output, ServerStep, Session, View};
use crate::effect::EffectSettings;
use crate::effect::cache::Analyzer;
use crate::effect::test_support::catalog;

mod model;

/// Seeds of `make test`.
const SEEDS: u64 = 6_000;
/// Seeds that find what others do not: a ROLLBACK that undoes a setting, in the flight of what it means.
const FOUND: [u64; 1] = [4_035_387];
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

const INSERT: &str = "INSERT INTO tv_a VALUES (1, '11111111-1111-1111-1111-111111111111')";

const STATEMENTS: &[&str] = &[
    INSERT,
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
    INSERT,
    "BEGIN",
    "COMMIT",
];

/// Mostly COPY … FROM STDIN.
const COPIES: &[&str] = &[
    COPY,
    COPY,
    COPY,
    COPY,
    "COPY tv_ruled FROM STDIN",
    INSERT,
    "SELECT app.writes()",
    "SELECT 1",
    "SELECT 1/0",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "ROLLBACK TO s",
];
const COPY: &str = "COPY tv_a FROM STDIN";

/// Procedures that commit.
const COMMITS: &[&str] = &[
    "CALL app.commits()",
    "CALL app.commits()",
    "CALL app.commits()",
    INSERT,
    "SELECT app.writes()",
    "SELECT 1",
    "SELECT 1/0",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "ROLLBACK TO s",
];

/// Settings, cursors, definitions, statements prepared in SQL, portals that are read in portions.
const MIXED: &[&str] = &[
    "SET standard_conforming_strings = off",
    "SET standard_conforming_strings = on",
    BACKSLASH,
    BACKSLASH,
    "DECLARE c CURSOR FOR SELECT app.writes()",
    "FETCH ALL FROM c",
    "FETCH ALL FROM c",
    "CLOSE c",
    "CREATE TABLE x ()",
    "PREPARE q AS INSERT INTO tv_a VALUES (1, '11111111-1111-1111-1111-111111111111')",
    "EXECUTE q",
    "EXECUTE q",
    "DEALLOCATE q",
    INSERT,
    "SELECT app.writes()",
    SERIES,
    SERIES,
    "SELECT 1",
    "SELECT 1/0",
    "BEGIN",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
];
/// Two statements, or one, as the setting says.
pub const BACKSLASH: &str = r"SELECT '\'; DELETE FROM tv_a --'";
const SERIES: &str = "SELECT generate_series(1, 3)";

/// Seeds from here on are of programs that mostly call functions.
pub const CALLS_FROM: u64 = 1_000_000;
/// Seeds from here on are of programs that mostly copy.
pub const COPIES_FROM: u64 = 2_000_000;
/// Seeds from here on are of programs that call procedures.
pub const COMMITS_FROM: u64 = 3_000_000;
/// Seeds from here on are of programs with a little of everything.
pub const MIXED_FROM: u64 = 4_000_000;

/// A flight of messages, and how many ReadyForQuery the client waits for before the next one.
pub type Flight = (Vec<Message>, usize);

pub fn program(seed: u64, random: &mut Random) -> Vec<Flight> {
    let (statements, flights) = match seed {
        MIXED_FROM.. => (MIXED, 4),
        COMMITS_FROM.. => (COMMITS, 3),
        COPIES_FROM.. => (COPIES, 3),
        CALLS_FROM.. => (CALLS, 6),
        _ => (STATEMENTS, 2),
    };
    let flights = (0..flights + random.below(6)).map(|_| flight(statements, random)).collect();
    let copies = (COPIES_FROM..COMMITS_FROM).contains(&seed);
    if copies { with_copy_data(flights, seed % 2 == 1, random) } else { flights }
}

/// Data for each COPY that begins, and mostly their end; every second seed is of a client that sends what does not
/// belong there. How many ReadyForQuery there are then, the model says.
fn with_copy_data(flights: Vec<Flight>, wild: bool, random: &mut Random) -> Vec<Flight> {
    let mut model = Model::new();
    let mut ready_before = 0;
    let mut flight = |(messages, _): Flight| {
        let mut all = Vec::new();
        let mut send = |messages: Vec<Message>| {
            messages.iter().for_each(|message| model.receive(message.clone()));
            all.extend(messages);
            model.is_copying()
        };
        for message in messages {
            let mut copying = send(vec![message]);
            while copying && !(wild && random.chance(30)) {
                copying = send(copy_data(wild, random));
            }
            if wild && random.chance(3) {
                send(copy_data(wild, random));
            }
        }
        let ready = model.sent.iter().filter(|(kind, _)| *kind == b'Z').count();
        (all, ready - std::mem::replace(&mut ready_before, ready))
    };
    // Whatever is open ends.
    let end = (vec![message(b'f', &[b"no more\0"]), message(b'S', &[])], 1);
    flights.into_iter().chain([end]).map(&mut flight).collect()
}

fn copy_data(wild: bool, random: &mut Random) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut bad = false;
    for _ in 0..random.below(3) {
        bad |= random.chance(8);
        messages.push(message(b'd', &[if bad { b"bad" } else { b"1\t" }, TENANT.as_bytes(), b"\tx\n"]));
        // Behind a failure it would not be ignored; which of both comes first, no client knows.
        if !bad && random.chance(5) {
            messages.push((if random.chance(50) { b'H' } else { b'S' }, Vec::new()));
        }
    }
    if wild && !bad && random.chance(10) {
        return messages;
    }
    let gives_up = random.chance(20);
    messages.push(if gives_up { message(b'f', &[b"the client gives up\0"]) } else { (b'c', Vec::new()) });
    messages
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
    let rows = if sql == SERIES && random.chance(60) { b"\0\0\0\0\x02" } else { b"\0\0\0\0\0" };
    messages.push(message(b'E', &[portal, rows]));
    if random.chance(if sql == SERIES { 60 } else { 5 }) {
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
    run.model.flush();
    while run.step(&mut random) {}
    run.model.end(false);
    if !gone && run.to_client != direct(&flights) {
        fail("another transcript", &run);
    }
    let lost = run.session.bumps_lost();
    let idle = run.to_client.last().is_some_and(|(kind, status)| (*kind, &status[..]) == (b'Z', b"I"));
    if !gone && lost > 0 && idle {
        fail("a bump is lost", &run);
    }
    if !are_covered(&run.model.committed, lost) {
        fail("writes and bumps differ", &run);
    }
}

/// Each write has one bump: of its tenant, or of all where its tenant could not be told (behind a measured statement
/// of the same text). Where the transaction ended inside of a measured statement, one bump stands for whatever it was. A
/// procedure that may have committed has a bump of its own in any case; `lost`: so many are the control plane's to make.
pub fn are_covered(committed: &Work, lost: u32) -> bool {
    let mut bumps = committed.bumps.clone();
    bumps.extend((0..lost).map(|_| "late".to_owned()));
    let mut take = |wanted: &str| {
        let at = bumps.iter().position(|bump| bump == wanted);
        at.map(|at| bumps.swap_remove(at)).is_some()
    };
    let left: Vec<&String> = committed.writes.iter().filter(|write| !take(write)).collect();
    let blind = committed.bumps.iter().any(|bump| bump == "blind");
    let covered = left.iter().all(|_| take("") || take("late") || blind);
    covered && bumps.iter().all(|bump| bump == "blind" || bump == "late")
}

/// The seeds that `SIMULATION_SEEDS` asks for.
pub fn named_seeds() -> Option<Range<u64>> {
    let named = std::env::var("SIMULATION_SEEDS").ok()?;
    let (from, to) = named.split_once("..").expect("SIMULATION_SEEDS=from..to");
    Some(from.parse().unwrap()..to.parse().unwrap())
}

/// Of `count` programs of the first kind, and half as many of each other.
pub fn all_kinds(count: u64) -> impl Iterator<Item = u64> {
    let others =
        [CALLS_FROM, COPIES_FROM, COMMITS_FROM, MIXED_FROM].into_iter().flat_map(move |from| from..from + count / 2);
    (0..count).chain(others)
}

#[test]
fn random_programs() {
    let seeds = named_seeds().map_or_else(|| all_kinds(SEEDS).chain(FOUND).collect::<Vec<_>>(), Iterator::collect);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| check(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
