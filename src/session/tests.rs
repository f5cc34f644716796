//! Scripts: `fixtures/session/*.wire`. `C>` is what the client sends, `S>` what the server sends;
//! indented is what came out: `→S` and `→C` bytes of ours, `relay`, `hold`, `drop`, `* event`.

use std::fmt::Write as _;
use std::sync::Arc;

use super::{ClientStep, Need, Output, ServerStep, Session, View};
use crate::catalog::{Calls, Catalog};
use crate::effect::EffectSettings;
use crate::effect::cache::Analyzer;
use crate::effect::test_support::{catalog, check_fixture, fixture};
use crate::limits;
use crate::wire::backend::iterate_fields;
use crate::wire::frontend::{Bind, Parse, cstr};
use crate::wire::notation::{self, words};

const TOPICS: &[&str] = &[
    "simple", "extended", "pipeline", "block", "error", "copy", "counters", "prepared", "measured", "alone",
    "versions", "settings", "call",
];

fn new_session() -> Session {
    let analyzer = Arc::new(Analyzer::new(catalog(), EffectSettings::default()));
    let mut session = Session::new(View { analyzer, fresh: true }, "_t");
    let mut out = Output::default();
    session.on_server(b'Z', 1, b"I", &mut out);
    session
}

fn zero(parts: &[&str]) -> Vec<u8> {
    notation::zero_terminated(parts)
}

/// What a client may send, and what no client should.
fn client_message(line: &str) -> (u8, Vec<u8>) {
    let words = words(line);
    let word = |index: usize| words.get(index).map_or("", String::as_str);
    match word(0) {
        "Unknown" => (b'?', Vec::new()),
        "Huge" => (word(1).as_bytes()[0], vec![b'x'; limits::HELD_MESSAGE_BYTES_MAX + 1]),
        _ => notation::client_message(line).unwrap(),
    }
}

fn server_message(line: &str) -> (u8, Vec<u8>) {
    let words = words(line);
    let word = |index: usize| words.get(index).map_or("", String::as_str);
    let row = |value: &str| {
        let length = u32::try_from(value.len()).unwrap();
        [&[0, 1][..], &length.to_be_bytes(), value.as_bytes()].concat()
    };
    match word(0) {
        "ParseComplete" => (b'1', Vec::new()),
        "BindComplete" => (b'2', Vec::new()),
        "CloseComplete" => (b'3', Vec::new()),
        "NoData" => (b'n', Vec::new()),
        "ParameterDescription" => (b't', vec![0, 0]),
        "RowDescription" => (b'T', [&[0, 1][..], &zero(&[word(1)]), &[0; 18]].concat()),
        "DataRow" => (b'D', row(word(1))),
        "CommandComplete" => (b'C', zero(&[word(1)])),
        "EmptyQueryResponse" => (b'I', Vec::new()),
        "PortalSuspended" => (b's', Vec::new()),
        "ReadyForQuery" => (b'Z', word(1).as_bytes().to_vec()),
        "CopyInResponse" => (b'G', vec![0, 0, 0]),
        "FunctionCallResponse" => {
            let rows = if word(1).is_empty() { "1" } else { word(1) };
            let length = u32::try_from(rows.len()).unwrap().to_be_bytes();
            (b'V', [&length, rows.as_bytes()].concat())
        }
        "NotificationResponse" => (b'A', zero(&["", "", "", "", "x", ""])),
        "ParameterStatus" => (b'S', zero(&[word(1), word(2)])),
        kind @ ("ErrorResponse" | "NoticeResponse") => {
            let mut body = zero(&["SERROR", &format!("C{}", word(1))]);
            if !word(3).is_empty() {
                body.extend(zero(&[&format!("R{}", word(3))]));
            }
            if !word(2).is_empty() {
                body.extend(zero(&[&format!("P{}", word(2))]));
            }
            body.push(0);
            (if kind == "ErrorResponse" { b'E' } else { b'N' }, body)
        }
        other => panic!("server message {other:?}"),
    }
}

/// Bytes of ours as text: messages, without what is always the same.
fn describe(bytes: &[u8]) -> String {
    let mut rest = bytes;
    let mut all = Vec::new();
    while let [kind, a, b, c, d, tail @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize - 4;
        let (body, next) = tail.split_at(length);
        all.push(describe_message(*kind, body));
        rest = next;
    }
    all.join(" ").replace("Close(S_t) Parse(", "Ours(").replace(" Execute(_t) Close(P_t) Close(S_t)", "")
}

fn describe_message(kind: u8, body: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').replace('\n', "\\n");
    match kind {
        b'Q' => format!("Query({})", text(body)),
        b'P' => format!("Parse({})", text(Parse::decode(body).unwrap().sql)),
        b'B' => {
            let bind = Bind::decode(body).unwrap();
            let values: Vec<String> = (1..=7).filter_map(|number| Some(text(bind.value(number)?.bytes?))).collect();
            format!("Bind({})", values.join(" "))
        }
        b'E' if body.starts_with(b"_t\0") => "Execute(_t)".into(),
        b'E' if body.ends_with(&[0; 4]) => "Execute".into(),
        b'E' => {
            let fields: Vec<String> =
                iterate_fields(body).map(|(code, value)| format!("{}{}", char::from(code), text(value))).collect();
            format!("ErrorResponse({})", fields.join(" "))
        }
        b'N' => "NoticeResponse".into(),
        b'C' => format!("Close({})", text(cstr(body).unwrap().0)),
        b'S' => "Sync".into(),
        b'H' => "Flush".into(),
        b'F' => format!("FunctionCall({})", body[8..].escape_ascii()),
        other => format!("{}?", char::from(other)),
    }
}

fn take_output(out: &mut Output, text: &mut String) {
    if !out.to_server.is_empty() {
        let _ = writeln!(text, "     →S {}", describe(&std::mem::take(&mut out.to_server)));
    }
    if !out.to_client.is_empty() {
        let messages = describe(&std::mem::take(&mut out.to_client)).replace("Close(", "CommandComplete(");
        let _ = writeln!(text, "     →C {messages}");
    }
}

fn wanted(need: Need, body: &[u8]) -> &[u8] {
    match need {
        Need::Header => &body[..0],
        Need::Prefix => &body[..body.len().min(limits::MESSAGE_PREFIX_BYTES_MAX)],
        Need::Whole => body,
    }
}

fn run_client(session: &mut Session, line: &str, text: &mut String) -> bool {
    let (kind, body) = client_message(line);
    let mut out = Output::default();
    let need = session.client_need(kind, body.len());
    let step = session.on_client(kind, body.len(), wanted(need, &body), &mut out);
    take_output(&mut out, text);
    if step == ClientStep::Relay && session.observes(kind) {
        session.observe_copy(&body);
    }
    match step {
        ClientStep::Relay => {}
        ClientStep::Replace => text.push_str("     replaced\n"),
        ClientStep::Hold => text.push_str("     hold\n"),
        ClientStep::RelayLast => text.push_str("     last words\n"),
    }
    out.to_server = std::mem::take(&mut out.behind);
    take_output(&mut out, text);
    for event in &out.events {
        let _ = writeln!(text, "     * {event:?}");
    }
    step == ClientStep::Hold
}

fn run_server(session: &mut Session, line: &str, text: &mut String) {
    let (kind, body) = server_message(line);
    let mut out = Output::default();
    let need = session.server_need(kind, body.len());
    let step = session.on_server(kind, body.len(), wanted(need, &body), &mut out);
    let events = std::mem::take(&mut out.events);
    take_output(&mut out, text);
    if step == ServerStep::Drop {
        text.push_str("     drop\n");
    }
    for event in events {
        let _ = writeln!(text, "     * {event:?}");
    }
}

/// Runs a script; returns it with what came out. Held messages are offered again after each server
/// message, as the shell does.
fn run(script: &str) -> String {
    let mut session = new_session();
    let mut text = String::new();
    let mut held: Option<String> = None;
    for line in script.lines().filter(|line| !line.starts_with(' ')) {
        let _ = writeln!(text, "{line}");
        if line.starts_with("---") {
            session = new_session();
            held = None;
        } else if let Some(message) = line.strip_prefix("C> ") {
            assert!(held.is_none(), "the client is held; script: {line}");
            if run_client(&mut session, message, &mut text) {
                held = Some(message.to_owned());
            }
        } else if let Some(message) = line.strip_prefix("S> ") {
            run_server(&mut session, message, &mut text);
            if let Some(message) = held.take() {
                let mut again = String::new();
                if run_client(&mut session, &message, &mut again) {
                    held = Some(message);
                } else {
                    let _ = write!(text, "   C> (again) {message}\n{again}");
                }
            }
        } else if line == "! call" || line == "! pooler" {
            let pooled = line == "! pooler";
            let calls = (!pooled).then_some(Calls { bump: 4242, measured: 4243, measured_every: 4244 });
            let catalog = Catalog { calls, pooled, cascades: Vec::new(), ..catalog() };
            let analyzer = Arc::new(Analyzer::new(catalog, EffectSettings::default()));
            session.set_view(View { analyzer, fresh: true });
        } else if line == "! stale" {
            let view = View { fresh: false, ..session.view.clone() };
            session.set_view(view);
        }
    }
    text
}

#[test]
fn scripts() {
    for topic in TOPICS {
        let name = format!("session/{topic}.wire");
        let script = std::fs::read_to_string(fixture(&name)).unwrap();
        check_fixture(&name, &run(&script));
    }
}

/// Sends as a client that never reads could, and counts what the session keeps.
#[test]
fn limits_are_reached() {
    let mut session = new_session();
    let mut out = Output::default();
    let mut sent = 0;
    while sent < 2 * limits::OUTSTANDING_REQUESTS_MAX {
        let (kind, body) = client_message("Describe S x");
        if session.on_client(kind, body.len(), &body, &mut out) == ClientStep::Hold {
            break;
        }
        sent += 1;
    }
    assert_eq!((sent, session.outstanding_len()), (limits::OUTSTANDING_REQUESTS_MAX, limits::OUTSTANDING_REQUESTS_MAX));

    // Forgotten statements and portals are measured, not lost.
    let mut session = new_session();
    let mut send = |line: &str| {
        let (kind, body) = client_message(line);
        let mut out = Output::default();
        session.on_client(kind, body.len(), &body, &mut out);
        session.outstanding = super::OutstandingRequests::default();
        session.pending = super::PendingWrites::default();
        describe(&out.to_server)
    };
    for number in 0..limits::PREPARED_STATEMENTS_MAX {
        send(&format!("Parse s{number} \"SELECT 1\""));
    }
    send("Parse last \"SELECT 1\"");
    send("Bind \"\" last");
    assert!(send("Execute \"\"").contains("fn_measure_begin"));
    send("Bind \"\" s0");
    assert_eq!(send("Execute \"\""), "");
    for number in 0..limits::PORTALS_MAX {
        send(&format!("Bind p{number} s0"));
    }
    send("Bind last s0");
    assert!(send("Execute last").contains("fn_measure_begin"));
    for number in 0..=limits::CURSORS_MAX {
        send(&format!("Query \"DECLARE c{number} CURSOR FOR SELECT 1\""));
    }
    assert_eq!(send("Query \"FETCH c0\""), "");
    assert!(send(&format!("Query \"FETCH c{}\"", limits::CURSORS_MAX)).contains("fn_measure_begin"));
    let large = format!("SELECT '{}'", "x".repeat(limits::PREPARED_TEXT_BYTES_MAX));
    send(&format!("Parse large \"{large}\""));
    send("Bind \"\" large");
    assert!(send("Execute \"\"").contains("fn_measure_begin"));
}

#[test]
fn pending_writes_are_sent_before_they_are_too_many() {
    let mut session = new_session();
    let mut text = String::new();
    run_client(&mut session, "Query BEGIN", &mut text);
    run_server(&mut session, "CommandComplete BEGIN", &mut text);
    run_server(&mut session, "ReadyForQuery T", &mut text);
    for number in 0..=limits::PENDING_WRITES_MAX {
        text.clear();
        let tenant = format!("{:032x}", number + 1);
        run_client(&mut session, &format!("Query \"INSERT INTO tv_a VALUES (1, '{tenant}')\""), &mut text);
        run_server(&mut session, "CommandComplete \"INSERT 0 1\"", &mut String::new());
        run_server(&mut session, "ReadyForQuery T", &mut String::new());
    }
    assert!(text.contains("SELECT turbo.fn_bump("), "{text}");
}
