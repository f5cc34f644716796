//! A random client: decides step by step, by a seed and the transaction status that the server tells.

use std::fmt::Write as _;

use crate::support::wire::{Message, Wire, execute, flush, message, parse, query, startup, sync};

/// Tenants of the rows.
const TENANTS: [&str; 3] = [
    "11111111-1111-1111-1111-111111111111",
    "22222222-2222-2222-2222-222222222222",
    "33333333-3333-3333-3333-333333333333",
];

/// Ids that a program works with: those of two programs never meet, so that none waits for another.
pub const IDS: u64 = 40;

/// What a program is made of, which says how exact its bumps have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Theme {
    /// Statements that say their tenants: every version moves by the truth.
    Exact,
    /// Everything else too: domains are exact, tenants may be all tenants.
    Mixed,
    /// Writes that an exception block undoes: the server's counters keep them.
    Undone,
    /// Procedures that commit: every domain is bumped in a transaction of its own.
    Commits,
}

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub const fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub const fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[usize::try_from(self.below(items.len() as u64)).unwrap()]
    }
}

/// How values get into a statement.
#[derive(Debug, Default)]
struct Values {
    /// As parameters; else as literals.
    as_parameters: bool,
    parameters: Vec<(Vec<u8>, bool)>,
}

pub struct Client {
    wire: Wire,
    random: Random,
    pub theme: Theme,
    /// Number of this program: its rows' ids and its prepared transactions.
    number: u64,
    /// Which of the tables `tv_own…` is this client's.
    slot: u64,
    status: u8,
    savepoints: u64,
    tag: u64,
    cursor: bool,
    sql_prepared: bool,
    /// Statements sent.
    pub statements: u64,
    /// What was sent, for the reader of a failure.
    pub transcript: String,
}

impl Client {
    pub fn login(port: u16, number: u64, slot: u64, seed: u64, theme: Theme) -> Self {
        let mut wire = Wire::dial(port);
        let options = format!("-c oracle.program=p{number} -c app.user_id=p{number}");
        wire.send(&startup(&[("user", "postgres"), ("database", "postgres"), ("options", &options)]));
        wire.until_ready();
        Self {
            wire,
            random: Random::new(seed),
            theme,
            number,
            slot,
            status: b'I',
            savepoints: 0,
            tag: 0,
            cursor: false,
            sql_prepared: false,
            statements: 0,
            transcript: String::new(),
        }
    }

    /// One step: some messages, and all their answers.
    pub fn step(&mut self) {
        let roll = self.random.below(100);
        match self.status {
            b'E' => self.leave_failed_block(roll),
            b'T' => match roll {
                0..55 => self.single(),
                55..63 => self.pipeline(),
                63..70 => self.several(),
                70..82 => self.end_block(),
                82..88 => self.savepoint(),
                88..94 => self.undo_savepoint(),
                _ => self.fail(),
            },
            _ => match roll {
                0..45 => self.single(),
                45..60 => self.several(),
                60..77 => self.pipeline(),
                77..95 => self.begin(),
                _ => self.fail(),
            },
        }
    }

    /// The last step.
    pub fn finish(mut self) -> (u64, String) {
        if self.status == b'I' && self.random.chance(15) {
            // Gone between Execute and Sync: the implicit transaction is never committed.
            let mut values = Values::default();
            let sql = self.exact_write(&mut values, 0);
            let _ = writeln!(self.transcript, "{sql} -- without Sync, and gone");
            self.wire.send(&[parse("", &sql), bind("", "", &[]), execute("", 0), flush()].concat());
            while self.wire.next().is_some_and(|(kind, _)| kind != b'C' && kind != b'E') {}
        } else if self.status != b'I' && self.random.chance(50) {
            self.ask("COMMIT");
        }
        (self.statements, std::mem::take(&mut self.transcript))
    }

    fn ask(&mut self, sql: &str) {
        self.statements += 1;
        let _ = writeln!(self.transcript, "{sql}");
        self.wire.send(&query(sql));
        self.answers();
    }

    /// Reads up to ReadyForQuery.
    fn answers(&mut self) -> Vec<Message> {
        let messages = self.wire.until_ready();
        let ready = messages.last().filter(|(kind, _)| *kind == b'Z');
        let ready = ready.unwrap_or_else(|| panic!("the connection is gone\n{}", self.transcript));
        self.status = ready.1[0];
        if self.status == b'I' {
            self.savepoints = 0;
            self.cursor = false;
        }
        messages
    }

    fn begin(&mut self) {
        let begin = *self.random.pick(&[
            "BEGIN",
            "BEGIN",
            "START TRANSACTION",
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "BEGIN READ ONLY",
        ]);
        if self.random.chance(50) { self.ask(begin) } else { self.extended(&[(begin.to_owned(), Values::default())]) }
    }

    fn end_block(&mut self) {
        let end = match self.random.below(12) {
            0 | 1 => "ROLLBACK",
            2 => "COMMIT AND CHAIN",
            3 => "ROLLBACK AND CHAIN",
            4 => {
                self.ask(&format!("PREPARE TRANSACTION 'o{}'", self.number));
                // At once: it holds its locks, which this client may ask for next.
                let verb = if self.random.chance(70) { "COMMIT" } else { "ROLLBACK" };
                return self.ask(&format!("{verb} PREPARED 'o{}'", self.number));
            }
            _ => "COMMIT",
        };
        if end.ends_with("CHAIN") {
            self.savepoints = 0;
        }
        if self.random.chance(50) { self.ask(end) } else { self.extended(&[(end.to_owned(), Values::default())]) }
    }

    fn savepoint(&mut self) {
        // Names are used twice: the newer one hides the older.
        let name = self.random.below(2);
        self.savepoints += 1;
        self.ask(&format!("SAVEPOINT s{name}"));
    }

    fn undo_savepoint(&mut self) {
        let name = self.random.below(2);
        let verb = *self.random.pick(&["ROLLBACK TO", "RELEASE"]);
        if self.random.chance(50) {
            self.ask(&format!("{verb} s{name}"));
        } else {
            self.extended(&[(format!("{verb} s{name}"), Values::default())]);
        }
    }

    fn leave_failed_block(&mut self, roll: u64) {
        match roll {
            0..20 => self.single(),
            20..60 if self.savepoints > 0 => {
                let name = self.random.below(2);
                self.ask(&format!("ROLLBACK TO s{name}"));
            }
            20..75 => self.ask("ROLLBACK"),
            _ => self.ask("COMMIT"),
        }
    }

    fn fail(&mut self) {
        let sql = (*self.random.pick(&[
            "SELECT 1/0",
            "INSERT INTO tv_post VALUES (1, NULL, 'no tenant')",
            "INSERT INTO nowhere VALUES (1)",
            "SELEC",
            "INSERT INTO tv_user VALUES ('x')",
        ]))
        .to_owned();
        if self.random.chance(50) { self.ask(&sql) } else { self.extended(&[(sql, Values::default())]) }
    }

    /// One statement, one way or another.
    fn single(&mut self) {
        if self.random.chance(8) {
            return self.copy();
        }
        if self.random.chance(35) {
            let mut values = Values::default();
            let sql = self.statement(&mut values, 0);
            return self.ask(&sql);
        }
        let pair = self.with_parameters();
        self.extended(&[pair]);
    }

    fn with_parameters(&mut self) -> (String, Values) {
        let mut values = Values { as_parameters: self.random.chance(70), ..Values::default() };
        let sql = self.statement(&mut values, 0);
        (sql, values)
    }

    /// Several statements in one simple query; each writes a tag of its own, but for one at most.
    fn several(&mut self) {
        let mut text = String::new();
        let mut untagged = false;
        for _ in 0..2 + self.random.below(4) {
            if self.random.chance(15) {
                let control = *self.random.pick(&[
                    "BEGIN",
                    "COMMIT",
                    "ROLLBACK",
                    "SAVEPOINT s0",
                    "ROLLBACK TO s0",
                    "RELEASE s0",
                    "SELECT 1/0",
                ]);
                let _ = write!(text, "{control}; ");
                continue;
            }
            self.tag += 1;
            let (sql, tagged) = self.tagged_statement(self.tag);
            if tagged || !untagged {
                untagged |= !tagged;
                let _ = write!(text, "{sql};{}", self.random.pick(&[" ", "\n", " -- behind\n", "; "]));
                self.statements += 1;
            }
        }
        self.savepoints += 1;
        self.ask(&text);
    }

    /// Parse, Bind, Execute of each, then one Sync.
    fn pipeline(&mut self) {
        let mut all = Vec::new();
        for _ in 0..2 + self.random.below(4) {
            if self.random.chance(12) {
                let control = *self.random.pick(&["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s1", "SELECT 1/0"]);
                all.push((control.to_owned(), Values::default()));
            } else {
                let pair = self.with_parameters();
                all.push(pair);
            }
        }
        self.savepoints += 1;
        self.extended(&all);
    }

    fn extended(&mut self, statements: &[(String, Values)]) {
        let mut bytes = Vec::new();
        let named = self.random.chance(30);
        for (index, (sql, values)) in statements.iter().enumerate() {
            self.statements += 1;
            let _ = writeln!(self.transcript, "[{sql}] {} parameters", values.parameters.len());
            let name = if named { format!("n{index}") } else { String::new() };
            if named {
                bytes.extend(message(b'C', format!("S{name}\0").as_bytes()));
            }
            bytes.extend(parse(&name, sql));
            bytes.extend(bind(if named { "portal" } else { "" }, &name, &values.parameters));
            let rows = if self.random.chance(15) { 1 } else { 0 };
            bytes.extend(execute(if named { "portal" } else { "" }, rows));
            if named {
                bytes.extend(message(b'C', b"Pportal\0"));
            }
            if self.random.chance(15) {
                bytes.extend(flush());
            }
        }
        let _ = writeln!(self.transcript, "-- Sync");
        bytes.extend(sync());
        if self.random.chance(10) {
            let cut = usize::try_from(self.random.below(bytes.len() as u64)).unwrap();
            self.wire.send(&bytes[..cut]);
            self.wire.send(&bytes[cut..]);
        } else {
            self.wire.send(&bytes);
        }
        self.answers();
    }

    fn copy(&mut self) {
        let table = *self.random.pick(&["tv_user", "tv_plain", "tv_post"]);
        let binary = self.random.chance(20);
        let csv = self.random.chance(40);
        let mut data = Vec::new();
        if binary {
            data.extend(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        }
        let count = self.random.below(4);
        for _ in 0..count {
            let id = i32::try_from(self.id()).unwrap();
            let tenant = *self.random.pick(&TENANTS);
            let columns: Vec<Vec<u8>> = match (binary, table) {
                (true, "tv_plain") => vec![id.to_be_bytes().to_vec(), b"copied".to_vec()],
                (true, _) => vec![id.to_be_bytes().to_vec(), uuid_bytes(tenant), b"copied".to_vec()],
                (false, "tv_plain") => vec![id.to_string().into_bytes(), b"cop,ied".to_vec()],
                (false, _) => vec![id.to_string().into_bytes(), tenant.as_bytes().to_vec(), b"cop\\tied".to_vec()],
            };
            if binary {
                data.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
                for column in &columns {
                    data.extend(u32::try_from(column.len()).unwrap().to_be_bytes());
                    data.extend(column);
                }
            } else if csv {
                let quoted: Vec<String> =
                    columns.iter().map(|column| format!("\"{}\"", String::from_utf8_lossy(column))).collect();
                data.extend(quoted.join(",").into_bytes());
                data.push(b'\n');
            } else {
                data.extend(columns.join(&b'\t'));
                data.push(b'\n');
            }
        }
        if binary {
            data.extend([0xff, 0xff]);
        }
        let columns = if table == "tv_plain" { "id, name" } else { "id, tenant_id, name" };
        let format = if binary {
            "binary"
        } else if csv {
            "csv"
        } else {
            "text"
        };
        let sql = format!("COPY {table} ({columns}) FROM STDIN (FORMAT {format})");
        let _ = writeln!(self.transcript, "{sql} -- {count} rows");
        self.statements += 1;
        let extended = self.random.chance(40);
        let start =
            if extended { [parse("", &sql), bind("", "", &[]), execute("", 0), flush()].concat() } else { query(&sql) };
        self.wire.send(&start);
        let begun = loop {
            let answer = self.wire.next().unwrap_or_else(|| panic!("no answer to COPY\n{}", self.transcript));
            if answer.0 == b'G' || answer.0 == b'E' {
                break answer.0 == b'G';
            }
        };
        if begun {
            let pieces = usize::try_from(1 + self.random.below(40)).unwrap();
            for piece in data.chunks(pieces) {
                self.wire.send(&message(b'd', piece));
            }
            let end = if self.random.chance(85) { message(b'c', b"") } else { message(b'f', b"no more\0") };
            self.wire.send(&end);
        }
        if extended {
            self.wire.send(&sync());
        }
        self.answers();
    }

    fn id(&mut self) -> u64 {
        1 + self.number * IDS + self.random.below(IDS)
    }

    fn range(&self) -> (u64, u64) {
        (1 + self.number * IDS, self.number * IDS + IDS)
    }

    fn number(&mut self, values: &mut Values, number: u64) -> String {
        if values.as_parameters && self.random.chance(60) {
            values.parameters.push((number.to_string().into_bytes(), false));
            return format!("${}::int", values.parameters.len());
        }
        number.to_string()
    }

    /// A tenant, as literal or parameter, cast one way or another. `column` of type uuid.
    fn tenant(&mut self, values: &mut Values) -> String {
        let tenant = *self.random.pick(&TENANTS);
        if values.as_parameters && self.random.chance(70) {
            let binary = self.random.chance(40);
            values.parameters.push((if binary { uuid_bytes(tenant) } else { tenant.as_bytes().to_vec() }, binary));
            let number = values.parameters.len();
            return match self.random.below(3) {
                0 => format!("${number}"),
                1 => format!("${number}::uuid"),
                _ => format!("CAST(${number} AS uuid)"),
            };
        }
        match self.random.below(5) {
            0 => format!("'{tenant}'::uuid"),
            1 => format!("uuid '{tenant}'"),
            2 => format!("'{{{}}}'", tenant.to_uppercase()),
            3 => format!("CAST('{tenant}' AS uuid)"),
            _ => format!("'{tenant}'"),
        }
    }

    fn statement(&mut self, values: &mut Values, tag: u64) -> String {
        match self.theme {
            Theme::Exact => self.exact(values, tag),
            Theme::Mixed if self.random.chance(35) => self.exact(values, tag),
            Theme::Mixed => self.any(tag).0,
            Theme::Undone if self.random.chance(40) => {
                let id = self.id();
                let function = *self.random.pick(&["undone", "kept"]);
                format!("SELECT app.{function}({id}, '{}')", self.random.pick(&TENANTS))
            }
            Theme::Undone | Theme::Commits if tag == 0 && self.random.chance(20) && self.theme == Theme::Commits => {
                let id = self.id();
                format!("CALL app.commits({id}, '{}')", self.random.pick(&TENANTS))
            }
            Theme::Undone | Theme::Commits => self.exact(values, tag),
        }
    }

    fn tagged_statement(&mut self, tag: u64) -> (String, bool) {
        if self.theme == Theme::Mixed && self.random.chance(60) {
            return self.any(tag);
        }
        let mut values = Values::default();
        let sql = self.exact(&mut values, tag);
        let tagged = !sql.starts_with("DELETE");
        (sql, tagged)
    }

    /// A statement whose domains and tenants can be derived.
    fn exact(&mut self, values: &mut Values, tag: u64) -> String {
        if self.random.chance(75) {
            return self.exact_write(values, tag);
        }
        let id = self.id();
        match self.random.below(7) {
            0 => format!("SELECT app.logs('{id}')"),
            1 => format!("SELECT app.reads({id})"),
            2 => "INSERT INTO tb_log (what) VALUES ('x')".into(),
            3 => format!("EXPLAIN DELETE FROM tv_user WHERE id = {id}"),
            4 => format!("SELECT * FROM tv_user WHERE id = {id} FOR UPDATE"),
            5 => "SELECT turbo.fn_domain_version('11111111-1111-1111-1111-111111111111', 'user')".into(),
            _ => String::new(),
        }
    }

    fn exact_write(&mut self, values: &mut Values, tag: u64) -> String {
        let id = self.id();
        let set_tag = if tag > 0 { format!(", tag = {tag}") } else { String::new() };
        let table = *self.random.pick(&[
            "tv_user",
            "tv_post",
            "public.tv_user",
            "\"tv_Odd Name\"",
            "part_even",
            "tv_picky",
            "ONLY tv_base",
        ]);
        let bare = table.trim_start_matches("ONLY ");
        match self.random.below(12) {
            0..4 => {
                let number = self.number(values, id);
                let tenant = self.tenant(values);
                let conflict = if bare == "tv_base" {
                    ""
                } else {
                    *self.random.pick(&["", "", " ON CONFLICT DO NOTHING", " ON CONFLICT (id) DO NOTHING"])
                };
                if self.random.chance(50) {
                    format!(
                        "INSERT INTO {bare} (name, tag, tenant_id, id) VALUES ('n', {tag}, {tenant}, {number}){conflict}"
                    )
                } else {
                    format!("INSERT INTO {bare} VALUES ({number}, {tenant}, 'n', {tag}){conflict} RETURNING id")
                }
            }
            4 => {
                // Several rows: all or none.
                let (mut rows, low) = (Vec::new(), self.range().0);
                for offset in 0..1 + self.random.below(3) {
                    let tenant = self.tenant(values);
                    rows.push(format!("({}, {tenant}, 'many', {tag})", low + (id + offset) % IDS));
                }
                format!("INSERT INTO tv_user (id, tenant_id, name, tag) VALUES {}", rows.join(", "))
            }
            5 | 6 => {
                let (number, tenant) = (self.number(values, id), self.tenant(values));
                let condition = match self.random.below(3) {
                    0 => format!("tenant_id = {tenant} AND id = {number}"),
                    1 => format!("(id = {number}) AND ({tenant} = tenant_id)"),
                    _ => format!("id = {number} AND tenant_id IN ({tenant})"),
                };
                format!("UPDATE {table} SET name = name || 'u'{set_tag} WHERE {condition}")
            }
            7 => {
                let (from, to) = (self.tenant(values), self.tenant(values));
                let number = self.number(values, id);
                format!("UPDATE {table} SET tenant_id = {to}{set_tag} WHERE tenant_id = {from} AND id = {number}")
            }
            8 => {
                let (number, tenant) = (self.number(values, id), self.tenant(values));
                format!("DELETE FROM {table} AS d WHERE d.tenant_id = {tenant} AND d.id = {number}")
            }
            9 => {
                let number = self.number(values, id);
                format!(
                    "INSERT INTO tv_plain VALUES ({number}, 'p', {tag}) ON CONFLICT (id) DO UPDATE SET name = 'again', tag = {tag}"
                )
            }
            10 => {
                let number = self.number(values, id);
                format!("UPDATE tv_plain SET name = 'u'{set_tag} WHERE id = {number}")
            }
            _ => {
                let number = self.number(values, id);
                let tenant = *self.random.pick(&TENANTS);
                format!(
                    "INSERT INTO tv_text (tag, id, tenant_id) VALUES ({tag}, {number}, '{tenant}') ON CONFLICT DO NOTHING"
                )
            }
        }
    }

    /// Any statement; whether each row that it writes bears its tag.
    fn any(&mut self, tag: u64) -> (String, bool) {
        let (id, other) = (self.id(), self.id());
        let (low, high) = self.range();
        let tenant = *self.random.pick(&TENANTS);
        let slot = self.slot;
        let set_tag = if tag > 0 { format!(", tag = {tag}") } else { String::new() };
        let all: &[(String, bool)] = &[
            (format!("SELECT app.add_user({id}, '{tenant}', {tag})"), true),
            (format!("SELECT row_to_json(x) FROM app.add_two({id}, '{tenant}', {tag}) AS x"), true),
            (format!("SELECT app.sync_posts({low}, {}, {tag})", low + 5), true),
            (format!("SELECT app.dynamic('DELETE FROM tv_user WHERE id BETWEEN {low} AND {id}', {tag})"), true),
            (format!("SELECT app.dynamic('TRUNCATE tv_own{slot}', {tag})"), true),
            (
                format!(
                    "SELECT app.add_user(i, '{tenant}', {tag}) FROM generate_series({id}, {id} + 2) AS i WHERE i <= {high}"
                ),
                true,
            ),
            (format!("CALL app.plain({id}, '{tenant}', {tag})"), true),
            (format!("DO $d$ BEGIN PERFORM app.add_user({id}, '{tenant}', {tag}); END $d$"), true),
            (format!("TRUNCATE tv_own{slot}"), false),
            (format!("INSERT INTO tv_own{slot} VALUES ({id}, '{tenant}', 'own', {tag})"), true),
            (
                format!(
                    "INSERT INTO tv_post SELECT id, tenant_id, name, {tag} FROM tv_user WHERE id BETWEEN {low} AND {id} AND tenant_id IS NOT NULL ON CONFLICT DO NOTHING"
                ),
                true,
            ),
            (
                format!(
                    "WITH moved AS (UPDATE tv_user SET name = 'w'{set_tag} WHERE id BETWEEN {low} AND {id} RETURNING *) UPDATE tv_post p SET name = 'w'{set_tag} FROM moved m WHERE m.id = p.id"
                ),
                tag > 0,
            ),
            (
                format!("WITH gone AS (DELETE FROM tv_user WHERE id = {id} RETURNING *) SELECT count(*) FROM gone"),
                false,
            ),
            (
                format!(
                    "MERGE INTO tv_user t USING (SELECT {id} AS id) s ON t.id = s.id WHEN MATCHED THEN UPDATE SET name = 'm'{set_tag} WHEN NOT MATCHED THEN INSERT VALUES (s.id, '{tenant}', 'm', {tag})"
                ),
                tag > 0,
            ),
            (
                format!(
                    "INSERT INTO tv_user VALUES ({id}, '{tenant}', 'u', {tag}) ON CONFLICT (id) DO UPDATE SET name = 'u'{set_tag} WHERE tv_user.id % 2 = 0"
                ),
                true,
            ),
            (
                format!(
                    "UPDATE tv_user SET name = 'r'{set_tag} WHERE id BETWEEN {low} AND {id} AND tenant_id IN ('{tenant}', '{}')",
                    TENANTS[0]
                ),
                tag > 0,
            ),
            (format!("UPDATE tv_user SET tenant_id = NULL{set_tag} WHERE id = {id}"), tag > 0),
            (format!("DELETE FROM tv_user WHERE id BETWEEN {id} AND {high}"), false),
            (format!("UPDATE tv_base SET name = 'b'{set_tag} WHERE id BETWEEN {low} AND {high}"), tag > 0),
            (format!("INSERT INTO base_child VALUES ({id}, '{tenant}', 'b', {tag})"), true),
            (
                format!(
                    "INSERT INTO tb_source VALUES ({id}, '{tenant}', 's', {tag}) ON CONFLICT (id) DO UPDATE SET name = 't', tag = {tag}"
                ),
                false,
            ),
            (format!("UPDATE tb_source SET name = 'silent' WHERE id = {id}"), false),
            (format!("DELETE FROM tb_source WHERE id BETWEEN {low} AND {id}"), false),
            (format!("INSERT INTO tb_parent VALUES ({id}, 'p') ON CONFLICT DO NOTHING"), false),
            (
                format!(
                    "INSERT INTO tv_child SELECT {other}, '{tenant}', 'c', {tag}, id FROM tb_parent WHERE id = {id} ON CONFLICT DO NOTHING"
                ),
                true,
            ),
            (format!("DELETE FROM tb_parent WHERE id = {id}"), false),
            (format!("INSERT INTO v_user VALUES ({id}, '{tenant}', 'v', {tag})"), true),
            (format!("UPDATE v_user SET name = 'v'{set_tag} WHERE id = {id}"), tag > 0),
            (format!("INSERT INTO tb_ruled VALUES ({id}, '{tenant}', 'r')"), false),
            (format!("INSERT INTO tv_part VALUES ({id}, '{tenant}', 'part', {tag}) ON CONFLICT DO NOTHING"), true),
            (format!("UPDATE tv_part SET name = 'part'{set_tag} WHERE id BETWEEN {low} AND {id}"), tag > 0),
            (format!("INSERT INTO tv_part_own VALUES ({id}, '{tenant}', 'part', {tag})"), true),
            (format!("INSERT INTO tv_given VALUES ({id}, '{tenant}', 'g', {tag}) ON CONFLICT DO NOTHING"), true),
            (
                format!(
                    "INSERT INTO tv_picky SELECT i, '{tenant}', 'p', {tag} FROM generate_series({id}, {id} + 3) i WHERE i <= {high} ON CONFLICT DO NOTHING"
                ),
                true,
            ),
            (format!("EXPLAIN ANALYZE INSERT INTO tv_user VALUES ({id}, '{tenant}', 'e', {tag})"), true),
            (format!("COPY (INSERT INTO tv_user VALUES ({id}, '{tenant}', 'c', {tag}) RETURNING *) TO STDOUT"), true),
            ("SET app.tenant_id = '11111111-1111-1111-1111-111111111111'".into(), true),
            ("DISCARD PLANS".into(), true),
        ];
        if tag == 0 && self.random.chance(8) {
            return (self.session_objects(id, tenant), false);
        }
        all[usize::try_from(self.random.below(all.len() as u64)).unwrap()].clone()
    }

    /// Cursors and SQL-level prepared statements.
    fn session_objects(&mut self, id: u64, tenant: &str) -> String {
        match (self.random.below(2), self.cursor, self.sql_prepared) {
            (0, false, _) => {
                self.cursor = true;
                format!(
                    "DECLARE c CURSOR FOR SELECT app.add_user(i, '{tenant}', 0) FROM generate_series({id}, {id} + 1) AS i"
                )
            }
            (0, true, _) => "FETCH 1 FROM c".into(),
            (_, _, false) => {
                self.sql_prepared = true;
                "PREPARE x (int) AS INSERT INTO tv_user VALUES ($1, '22222222-2222-2222-2222-222222222222', 'x') ON CONFLICT DO NOTHING".into()
            }
            (..) => format!("EXECUTE x ({id})"),
        }
    }
}

/// Says what a client had sent when the test gave up.
impl Drop for Client {
    #[expect(clippy::print_stderr, reason = "the only way to tell while panicking")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- program {} ({:?})\n{}", self.number, self.theme, self.transcript);
        }
    }
}

/// Bind with a format for each parameter.
fn bind(portal: &str, statement: &str, parameters: &[(Vec<u8>, bool)]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0").into_bytes();
    let count = u16::try_from(parameters.len()).unwrap().to_be_bytes();
    body.extend(count);
    for (_, binary) in parameters {
        body.extend(u16::from(*binary).to_be_bytes());
    }
    body.extend(count);
    for (value, _) in parameters {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value);
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

fn uuid_bytes(text: &str) -> Vec<u8> {
    text.parse::<uuid::Uuid>().unwrap().as_bytes().to_vec()
}
