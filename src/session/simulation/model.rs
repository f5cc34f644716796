//! A model of the server: PostgreSQL 15 as far as the programs of the simulator go.

use std::collections::{HashMap, VecDeque};

use super::{BACKSLASH, Message, TENANT, message};
use crate::wire::frontend::cstr;

/// What a transaction has done: bumps and writes of domain `a`, by tenant (`""`: all of them).
#[derive(Debug, Default, Clone)]
pub struct Work {
    pub writes: Vec<String>,
    pub bumps: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// None; a transaction may be open implicitly.
    No,
    Open,
    Failed,
}

#[derive(Debug, Clone)]
struct Portal {
    sql: String,
    parameters: Vec<String>,
    done: bool,
    /// Rows of the series that were sent.
    rows: usize,
}

/// COPY … FROM STDIN, while its rows come.
#[derive(Debug, Default)]
struct CopyingIn {
    rows: usize,
    /// What its rows write is for the server to say.
    measured: bool,
    /// The statements behind it in a simple query; `None`: an extended query.
    rest: Option<VecDeque<String>>,
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
    portals: HashMap<Vec<u8>, Portal>,
    /// A setting: now, without what the transaction at hand did, and as the client knows it.
    setting: [&'static str; 3],
    /// The cursor `c`; whether it was read.
    cursor: Option<bool>,
    /// The statement `q`.
    has_prepared: bool,
    skipping: bool,
    /// The statement at hand is one of several in a text.
    has_company: bool,
    copying: Option<CopyingIn>,
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
            setting: ["on"; 3],
            cursor: None,
            has_prepared: false,
            skipping: false,
            has_company: false,
            copying: None,
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

    pub const fn is_copying(&self) -> bool {
        self.copying.is_some()
    }

    pub fn flush(&mut self) {
        self.sent.extend(self.buffer.drain(..));
    }

    fn say(&mut self, kind: u8, parts: &[&[u8]]) {
        self.buffer.push(message(kind, parts));
    }

    fn error(&mut self, code: &str) {
        // The transaction is rolled back now, whenever its block ends.
        self.setting[0] = self.setting[1];
        self.cursor = None;
        let routine = if code == "08P01" { "RCopyGetData\0" } else { "" };
        let body = format!("SERROR\0VERROR\0C{code}\0Mwords\0{routine}\0");
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
        if self.setting[0] != self.setting[2] {
            self.setting[2] = self.setting[0];
            self.say(b'S', &[b"standard_conforming_strings\0", self.setting[0].as_bytes(), b"\0"]);
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
        if commit {
            self.setting[1] = self.setting[0];
        }
        self.setting[0] = self.setting[1];
        self.cursor = None;
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
            _ if text.starts_with("SET ") => {
                self.begin_work();
                self.setting[0] = if text.ends_with("off") { "off" } else { "on" };
                self.tag("SET");
            }
            "DECLARE c CURSOR FOR SELECT app.writes()" => {
                if self.block == Block::No && !self.has_company {
                    return Err("25P01");
                }
                if self.cursor.is_some() {
                    return Err("42P03");
                }
                self.begin_work();
                self.cursor = Some(false);
                self.tag("DECLARE CURSOR");
            }
            "FETCH ALL FROM c" => {
                let read = self.cursor.replace(true);
                let Some(read) = read else {
                    self.cursor = None;
                    return Err("34000");
                };
                if describe {
                    self.say(b'T', &[b"\0\x01x", &[0; 19]]);
                }
                if !read {
                    self.write("");
                    self.say(b'D', &[b"\0\x01\0\0\0\x011"]);
                }
                self.tag(if read { "FETCH 0" } else { "FETCH 1" });
            }
            "CLOSE c" => {
                self.cursor.take().ok_or("34000")?;
                self.tag("CLOSE CURSOR");
            }
            "CREATE TABLE x ()" => {
                self.begin_work();
                self.xid = true;
                self.tag("CREATE TABLE");
            }
            _ if text.starts_with("PREPARE q") => {
                self.begin_work();
                if std::mem::replace(&mut self.has_prepared, true) {
                    return Err("42P05");
                }
                self.tag("PREPARE");
            }
            "EXECUTE q" => {
                if !self.has_prepared {
                    return Err("26000");
                }
                self.write(TENANT);
                self.tag("INSERT 0 1");
            }
            "DEALLOCATE q" => {
                self.begin_work();
                if !std::mem::replace(&mut self.has_prepared, false) {
                    return Err("26000");
                }
                self.tag("DEALLOCATE");
            }
            "SELECT generate_series(1, 3)" => {
                self.begin_work();
                if describe {
                    self.say(b'T', &[b"\0\x01x", &[0; 19]]);
                }
                self.series(0, 3);
                self.tag("SELECT 3");
            }
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
            // What its unit has done before is committed with it.
            "CALL app.commits()" => {
                if self.block != Block::No || self.has_company {
                    return Err("2D000");
                }
                self.write("");
                self.end(true);
                self.begin_work();
                self.tag("CALL");
            }
            "DELETE FROM tv_a" => {
                self.write("");
                self.tag("DELETE 1");
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
            "COPY tv_a FROM STDIN" | "COPY tv_ruled FROM STDIN" => {
                self.begin_work();
                self.say(b'G', &[&[0, 0, 0]]);
                self.flush();
                self.copying = Some(CopyingIn { measured: text.contains("ruled"), ..CopyingIn::default() });
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

    fn series(&mut self, from: usize, to: usize) {
        for row in from..to {
            self.say(b'D', &[b"\0\x01\0\0\0\x01", row.to_string().as_bytes()]);
        }
    }

    /// The next two rows of a portal, or all that there are.
    fn portion(&mut self, name: &[u8], portal: &Portal, two: bool) -> Outcome {
        if self.block == Block::Failed {
            return Err("25P02");
        }
        let end = if two { 3.min(portal.rows + 2) } else { 3 };
        self.series(portal.rows, end);
        if let Some(known) = self.portals.get_mut(name) {
            known.rows = end;
        }
        if two && end == portal.rows + 2 {
            self.say(b's', &[]);
        } else {
            self.tag(&format!("SELECT {}", end - portal.rows));
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
        let flush = if measures && self.flushes { " f" } else { "" };
        let proof = match self.measured {
            Some(counter) if text.contains("fn_measure_begin") => format!(" b{counter}"),
            Some(counter) if text.contains("fn_measure_end") || text.contains("fn_bump_if_moved") => {
                format!(" e{counter}")
            }
            _ => String::new(),
        };
        format!("{rows}{flush}{proof}")
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
            "fn_bump_all" => self.bump("late", arguments[0].parse().unwrap()),
            "fn_bump_one" => {
                if arguments[arguments.len() - 1] == "written" && !self.xid {
                    return 0;
                }
                // In a text a tenant that is NULL has no literal.
                let (tenant, at) = if arguments.len() == 5 { (arguments[0].as_str(), 1) } else { ("", 0) };
                assert_eq!(arguments[at], "a", "no other domain is written");
                self.bump(tenant, arguments[at + 1].parse().unwrap())
            }
            "fn_bump" | "fn_bump_if_moved" => {
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
        if let Some(copy) = self.copying.take() {
            return self.copy(copy, kind, &body);
        }
        match kind {
            // What a client still sends when its COPY has failed.
            b'd' | b'c' | b'f' => {}
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
        let read = self.without_backslashes(text);
        let statements: Vec<&str> = read.split(';').map(str::trim).filter(|part| !part.is_empty()).collect();
        if statements.contains(&"SELEC") {
            self.error("42601");
            return self.ready();
        }
        if statements.is_empty() {
            self.say(b'I', &[]);
        }
        self.has_company = statements.len() > 1;
        self.statements_of_query(statements.into_iter().map(str::to_owned).collect());
    }

    /// The text as `standard_conforming_strings` lets it be read.
    fn without_backslashes(&self, text: &str) -> String {
        if self.setting[0] == "off" {
            return text.replace(BACKSLASH, "SELECT 1");
        }
        let uncommented = text.lines().map(|line| line.split("--").next().unwrap_or_default());
        uncommented.collect::<Vec<_>>().join("\n").replace(r"SELECT '\'", "SELECT 1")
    }

    fn statements_of_query(&mut self, mut statements: VecDeque<String>) {
        while let Some(statement) = statements.pop_front() {
            if let Err(code) = self.execute(&statement, &[], true) {
                self.error(code);
                return self.ready();
            }
            if let Some(copy) = &mut self.copying {
                copy.rest = Some(statements);
                return;
            }
        }
        if self.block == Block::No {
            self.end(true);
        }
        self.ready();
    }

    /// A message while copy data are expected.
    fn copy(&mut self, mut copy: CopyingIn, kind: u8, body: &[u8]) {
        let error = match kind {
            b'd' if body.starts_with(b"bad") => "22P02",
            b'd' => {
                copy.rows += 1;
                self.copying = Some(copy);
                return;
            }
            // Ignored.
            b'H' | b'S' => {
                self.copying = Some(copy);
                return;
            }
            b'c' => return self.end_copy(copy),
            b'f' => "57014",
            _ => "08P01",
        };
        self.error(error);
        match copy.rest {
            Some(_) => self.ready(),
            None => {
                self.skipping = true;
                self.flush();
            }
        }
    }

    fn end_copy(&mut self, copy: CopyingIn) {
        if copy.rows > 0 {
            self.write(if copy.measured { "" } else { TENANT });
        }
        self.tag(&format!("COPY {}", copy.rows));
        if let Some(rest) = copy.rest {
            self.statements_of_query(rest);
        }
    }

    fn extended(&mut self, kind: u8, body: &[u8]) -> Outcome {
        self.has_company = false;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match kind {
            b'P' => {
                let (name, rest) = cstr(body).unwrap();
                let sql = self.without_backslashes(&text(cstr(rest).unwrap().0));
                if sql == "SELEC" || sql.contains(';') {
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
                let parameters = bound(rest);
                self.portals.insert(portal.to_vec(), Portal { sql, parameters, done: false, rows: 0 });
                self.say(b'2', &[]);
            }
            b'E' => {
                let (name, rest) = cstr(body).unwrap();
                let portal = self.portals.get(name).cloned().ok_or("34000")?;
                if portal.sql.is_empty() {
                    self.say(b'I', &[]);
                    return Ok(());
                }
                if portal.sql.starts_with("SELECT generate_series") {
                    return self.portion(name, &portal, rest.ends_with(b"\x02"));
                }
                if portal.done {
                    return Err("55000");
                }
                if let Some(known) = self.portals.get_mut(name) {
                    known.done = true;
                }
                self.execute(&portal.sql, &portal.parameters, false)?;
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
