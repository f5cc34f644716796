//! Startup packets and messages that clients rarely send: the same bytes direct and through Turnstile give the same
//! answer, the key of BackendKeyData apart. `tests/protocol-cases.md` says which case is tested where.

use crate::support::wire::{
    Message, Wire, bind, close, describe, execute, message, packet, parse, query, startup, sync, transcript, unnamed,
};
use crate::support::{Env, Route, eventually};

const LAST_WORDS: &str =
    "SELECT current_user, current_database(), current_setting('application_name'), current_setting('search_path')";

fn versioned(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = startup(parameters);
    bytes[4..8].copy_from_slice(&version.to_be_bytes());
    bytes
}

const ME: (&str, &str) = ("user", "postgres");
const HERE: (&str, &str) = ("database", "postgres");

/// What may stand where a session begins.
fn beginnings() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("3.0", startup(&[ME, HERE])),
        ("3.1", versioned(0x3_0001, &[ME, HERE])),
        ("3.2", versioned(0x3_0002, &[ME, HERE])),
        ("3.7", versioned(0x3_0007, &[ME, HERE])),
        ("grease", versioned(0x3_270f, &[ME, HERE, ("_pq_.test_protocol_negotiation", "")])),
        ("protocol options", startup(&[ME, HERE, ("_pq_.one", "1"), ("_pq_.two", "2")])),
        ("3.2 with options", versioned(0x3_0002, &[ME, HERE, ("_pq_.one", "1")])),
        ("2.0", versioned(0x2_0000, &[ME, HERE])),
        ("4.0", versioned(0x4_0000, &[ME, HERE])),
        ("no database", startup(&[ME])),
        ("no user", startup(&[HERE])),
        ("no such user", startup(&[("user", "nobody at all"), HERE])),
        ("twice", startup(&[ME, HERE, ("application_name", "a"), ("application_name", "b")])),
        ("unknown parameter", startup(&[ME, HERE, ("nonsense", "1")])),
        ("options", startup(&[ME, HERE, ("options", "-c search_path=app\\,\\ pg_catalog -c application_name=o")])),
        ("options that are wrong", startup(&[ME, HERE, ("options", "-c nonsense")])),
        ("other letters", startup(&[ME, HERE, ("application_name", "ä\u{1}")])),
        ("a long value", startup(&[ME, HERE, ("application_name", &"x".repeat(9_000))])),
        ("too long", startup(&[ME, HERE, ("application_name", &"x".repeat(10_000))])),
        ("no terminator", packet(b"\x00\x03\x00\x00user\0postgres\0")),
        ("bytes behind the terminator", packet(b"\x00\x03\x00\x00user\0postgres\0\0more")),
        ("replication", startup(&[ME, HERE, ("replication", "database")])),
        ("replication that is wrong", startup(&[ME, HERE, ("replication", "maybe")])),
    ]
}

/// All that the server says to a beginning, and to one statement behind it.
fn answer(port: u16, beginning: &[u8]) -> Vec<Message> {
    let mut wire = Wire::dial(port);
    wire.send(beginning);
    let mut said = wire.until_ready();
    if said.last().is_some_and(|(kind, _)| *kind == b'Z') {
        wire.send(&query(LAST_WORDS));
        said.extend(wire.until_ready());
    }
    for (kind, body) in &mut said {
        if *kind == b'K' {
            *body = format!("a process and a secret of {} bytes", body.len() - 4).into_bytes();
        }
    }
    said
}

fn readable(messages: &[Message]) -> String {
    let one = |(kind, body): &Message| format!("{}[{}]", char::from(*kind), String::from_utf8_lossy(body));
    messages.iter().map(one).collect::<Vec<_>>().join(" ").replace('\0', "·")
}

#[tokio::test(flavor = "multi_thread")]
async fn beginnings_get_the_same_answer() {
    let env = Env::new(Route::Direct).await;
    let mut wrong = Vec::new();
    for (name, bytes) in beginnings() {
        let (direct, through) = (answer(env.cluster.port(), &bytes), answer(env.port, &bytes));
        if direct != through {
            wrong.push(format!("{name}:\n  {}\n  {}", readable(&direct), readable(&through)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_startup_packet_may_come_byte_by_byte_or_not_at_all() {
    let env = Env::new(Route::Direct).await;
    let mut wire = Wire::dial(env.port);
    for byte in startup(&[ME, HERE]) {
        wire.send(&[byte]);
    }
    assert!(transcript(&wire.until_ready()).ends_with("ZI"));
    // Load balancers look whether somebody listens.
    for _ in 0..20 {
        drop(Wire::dial(env.port));
    }
    eventually("they are gone", async || env.metric("turnstile_connections") < 1.5).await;
    assert!(env.metric("turnstile_protocol_violations_total") < 0.5);
    env.stop().await;
}

/// The key is as long as the server makes it (32 bytes since protocol 3.2), and cancels.
#[tokio::test(flavor = "multi_thread")]
async fn long_keys_cancel() {
    let env = Env::new(Route::Direct).await;
    let mut wire = Wire::dial(env.port);
    wire.send(&versioned(0x3_0002, &[ME, HERE]));
    let key = wire.until_ready().into_iter().find(|(kind, _)| *kind == b'K').unwrap().1;
    let expected = if env.server_version().await >= 18 { 36 } else { 8 };
    assert_eq!(key.len(), expected);
    wire.send(&query("SELECT pg_sleep(60)"));
    eventually("the statement runs", async || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        env.direct.query_one(running, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    let mut other = Wire::dial(env.port);
    other.send(&packet(&[&80_877_102_u32.to_be_bytes()[..], &key].concat()));
    assert!(other.next().is_none());
    assert_eq!(transcript(&wire.until_ready()), "T E(57014 canceling statement due to user request) ZI");
    env.stop().await;
}

fn bind_raw(parameters: usize, formats: usize, value: Option<&[u8]>) -> Vec<u8> {
    let mut body = b"\0\0".to_vec();
    body.extend(u16::try_from(formats).unwrap().to_be_bytes());
    body.extend(std::iter::repeat_n([0, 0], formats).flatten());
    body.extend(u16::try_from(parameters).unwrap().to_be_bytes());
    for _ in 0..parameters {
        match value {
            Some(value) => {
                body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(value);
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

/// Messages, and how many ReadyForQuery they bring (0: the session ends).
fn conversations() -> Vec<(&'static str, Vec<u8>, usize)> {
    let write = "DELETE FROM tv_user WHERE id = -1";
    let numbers: Vec<String> = (1..=40_000).map(|number| format!("${number}::int")).collect();
    let many = format!("SELECT cardinality(ARRAY[{}])", numbers.join(","));
    vec![
        ("Terminate behind Sync", [unnamed(write, &[]), sync(), message(b'X', b"")].concat(), 0),
        ("Terminate in a block", [query("BEGIN"), query(write), message(b'X', b"")].concat(), 0),
        (
            "a result format for each column",
            [parse("", "SELECT 1, 2"), bind_formats(2), execute("", 0), sync()].concat(),
            1,
        ),
        ("too many result formats", [parse("", "SELECT 1, 2"), bind_formats(3), execute("", 0), sync()].concat(), 1),
        ("a NULL parameter", [parse("", "SELECT $1::int"), bind_raw(1, 0, None), execute("", 0), sync()].concat(), 1),
        (
            "a NULL in a write",
            [parse("", "DELETE FROM tv_user WHERE id = $1"), bind_raw(1, 1, None), execute("", 0), sync()].concat(),
            1,
        ),
        ("40,000 parameters", [parse("", &many), bind_raw(40_000, 0, Some(b"1")), execute("", 0), sync()].concat(), 1),
        (
            "too few parameters",
            [parse("", "SELECT $1::int, $2::int"), bind_raw(1, 0, Some(b"1")), execute("", 0), sync()].concat(),
            1,
        ),
        (
            "a parameter that is wrong",
            [parse("", "DELETE FROM tv_user WHERE id = $1"), bind_raw(1, 0, Some(b"x")), execute("", 0), sync()]
                .concat(),
            1,
        ),
        ("a Bind that ends early", [parse("", "SELECT 1"), message(b'B', b"\0\0\0\x05"), sync()].concat(), 1),
        ("a name without its end", [message(b'P', b"name"), sync()].concat(), 1),
        ("a Describe of something else", [parse("", "SELECT 1"), message(b'D', b"Xname\0"), sync()].concat(), 1),
        ("an Execute of minus one row", [unnamed_with(write, u32::MAX), sync()].concat(), 1),
        (
            "PREPARE, then Bind",
            [query("PREPARE p AS DELETE FROM tv_user WHERE id = -1"), bind("", "p", &[]), execute("", 0), sync()]
                .concat(),
            2,
        ),
        (
            "Parse, then EXECUTE",
            [
                parse("q", write),
                sync(),
                query("EXECUTE q"),
                query("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE q"),
                query("CREATE TEMP TABLE made AS EXECUTE q"),
            ]
            .concat(),
            4,
        ),
        (
            "DECLARE, then Execute",
            [
                query("BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 3)"),
                execute("c", 2),
                sync(),
                query("COMMIT"),
            ]
            .concat(),
            3,
        ),
        (
            "a cursor WITH HOLD",
            [query("DECLARE h CURSOR WITH HOLD FOR SELECT 1; FETCH h"), execute("h", 0), sync(), query("CLOSE h")]
                .concat(),
            3,
        ),
        (
            "a statement that is closed under its portal",
            [parse("s", "SELECT 1"), bind("p", "s", &[]), close('S', "s"), execute("p", 0), sync()].concat(),
            1,
        ),
        (
            "a portal that ends with its transaction",
            [parse("", "SELECT 1"), bind("p", "", &[]), sync(), execute("p", 0), sync()].concat(),
            2,
        ),
        (
            "a portal of a name that a statement has",
            [parse("n", "SELECT 1"), bind("", "n", &[]), close('P', "n"), describe('S', "n"), sync()].concat(),
            1,
        ),
        (
            "Parse of a known name",
            [
                parse("k", "SELECT 1"),
                sync(),
                parse("k", "SELECT 2"),
                sync(),
                bind("", "k", &[]),
                execute("", 0),
                sync(),
            ]
            .concat(),
            3,
        ),
        (
            "Parse in a failed block",
            [
                query("BEGIN"),
                query("SELECT 1/0"),
                parse("f", "SELECT 1"),
                sync(),
                parse("", "ROLLBACK"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
            ]
            .concat(),
            4,
        ),
        (
            "Query kills the unnamed",
            [parse("", "SELECT 1"), sync(), query("SELECT 2"), bind("", "", &[]), sync()].concat(),
            3,
        ),
        (
            "names with quotes and capitals",
            [parse("A\"b ä", "SELECT 1"), bind("P\"x", "A\"b ä", &[]), execute("P\"x", 0), sync()].concat(),
            1,
        ),
        ("a SET that is rolled back", [query("BEGIN; SET application_name = 'x'"), query("ROLLBACK")].concat(), 2),
        (
            "AND CHAIN",
            [
                query("BEGIN ISOLATION LEVEL SERIALIZABLE"),
                query("COMMIT AND CHAIN"),
                query("SHOW transaction_isolation"),
                query("ROLLBACK"),
            ]
            .concat(),
            4,
        ),
        (
            "savepoints with quotes",
            [
                query("BEGIN; SAVEPOINT \"A b\"; SELECT 1/0"),
                query("ROLLBACK TO \"A b\""),
                query("RELEASE \"A b\""),
                query("END"),
            ]
            .concat(),
            4,
        ),
        (
            "other words of transactions",
            [query("START TRANSACTION READ ONLY, DEFERRABLE"), query("ABORT"), query("BEGIN WORK"), query("END WORK")]
                .concat(),
            4,
        ),
        (
            "a snapshot",
            [
                query("BEGIN ISOLATION LEVEL REPEATABLE READ"),
                query("SET TRANSACTION SNAPSHOT '00000000-00000000-1'"),
                query("ROLLBACK"),
            ]
            .concat(),
            3,
        ),
        ("a message in a COPY", [query("COPY tv_plain FROM STDIN"), query("SELECT 1"), sync()].concat(), 0),
        (
            "COPY that ends in \\.",
            [query("COPY tv_plain FROM STDIN"), message(b'd', b"\\.\n"), message(b'c', b"")].concat(),
            1,
        ),
        (
            "COPY data behind an error",
            [
                query("COPY tv_plain FROM STDIN"),
                message(b'd', b"x\n"),
                message(b'd', b"y\n"),
                message(b'c', b""),
                query("SELECT 1"),
            ]
            .concat(),
            2,
        ),
        ("COPY from the server's files", query("COPY tv_plain FROM '/no/such/file'"), 1),
        (
            "binary COPY",
            [
                query("COPY tv_plain FROM STDIN (FORMAT binary)"),
                message(b'd', b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\xff\xff"),
                message(b'c', b""),
            ]
            .concat(),
            1,
        ),
        ("an unknown message", [query("SELECT 1"), message(b'y', b"what")].concat(), 0),
        ("a password that nobody asked for", message(b'p', b"secret\0"), 0),
        ("LISTEN and NOTIFY", [query("LISTEN here"), query("NOTIFY here, 'word'"), query("UNLISTEN *")].concat(), 3),
        (
            "DISCARD ALL",
            [parse("gone", "SELECT 1"), sync(), query("DISCARD ALL"), bind("", "gone", &[]), sync()].concat(),
            3,
        ),
        ("an ALTER SYSTEM in a string", query("SELECT 1; ALTER SYSTEM RESET work_mem"), 1),
        (
            "CREATE DATABASE in a pipeline",
            [unnamed(write, &[]), unnamed("CREATE DATABASE postgres", &[]), sync()].concat(),
            1,
        ),
        (
            "drivers' first words",
            [query("SET extra_float_digits = 3"), query("SHOW transaction_read_only"), query("SELECT 1")].concat(),
            3,
        ),
    ]
}

fn bind_formats(formats: u16) -> Vec<u8> {
    let mut body = b"\0\0\0\0\0\0".to_vec();
    body.extend(formats.to_be_bytes());
    body.extend(std::iter::repeat_n([0, 1], usize::from(formats)).flatten());
    message(b'B', &body)
}

fn unnamed_with(sql: &str, rows: u32) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), execute("", rows)].concat()
}

/// Everything said to a conversation; the last of it to the end of the stream where the session ends.
fn talk(port: u16, bytes: &[u8], ready: usize) -> Vec<Message> {
    let mut wire = Wire::login(port);
    wire.send(bytes);
    if ready == 0 {
        return wire.until(0);
    }
    let mut said: Vec<Message> = (0..ready).flat_map(|_| wire.until_ready()).collect();
    for (kind, body) in &mut said {
        if *kind == b'A' {
            body.drain(..4);
        }
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_the_same() {
    let env = Env::new(Route::Direct).await;
    let mut wrong = Vec::new();
    for (name, bytes, ready) in conversations() {
        let (direct, through) = (talk(env.cluster.port(), &bytes, ready), talk(env.port, &bytes, ready));
        if direct != through {
            wrong.push(format!("{name}:\n  {}\n  {}", readable(&direct), readable(&through)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    env.stop().await;
}
