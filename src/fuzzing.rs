//! What fuzzers drive: any bytes into framing, session and analysis. Nothing may panic, hang or grow; what the session
//! sends must be whole messages. `make fuzz TARGET=session` runs libFuzzer (`tests/fuzz`); the tests replay the
//! corpus in `fixtures/fuzz`, each file as it is and changed at random.

use std::sync::Arc;

use crate::effect::cache::Analyzer;
use crate::effect::test_support::catalog;
use crate::effect::{AnalysisContext, EffectSettings, analyze};
use crate::limits;
use crate::session::{ClientStep, Output, Session, View};
use crate::wire::frontend::{Bind, Parse, cstr, execute_portal, execute_rows, function_call_oid, query_text};
use crate::wire::{FRAME_HEADER_BYTES, FrameHeader, backend, startup};

/// A stream as it comes from the network: startup packets, then messages, each body decoded as every type.
pub fn framing(bytes: &[u8]) {
    let packet = startup::packet_bytes(bytes).ok().flatten().and_then(|length| bytes.get(..length));
    let _kind = packet.map(|packet| startup::parse(packet).is_ok());
    let mut rest = bytes;
    while let Ok(Some(header)) = FrameHeader::peek(rest) {
        let Some(body) = rest.get(FRAME_HEADER_BYTES..header.frame_bytes()) else { break };
        decode(body);
        rest = rest.get(header.frame_bytes()..).unwrap_or_default();
    }
}

fn decode(body: &[u8]) {
    let parse = Parse::decode(body);
    let _type = parse.map(|parse| parse.parameter_type(u16::MAX));
    if let Ok(bind) = Bind::decode(body) {
        for number in [0, 1, 2, u16::MAX] {
            let _value = bind.value(number);
        }
    }
    let _names = Bind::decode_names(body).is_ok();
    let _others = (cstr(body), execute_portal(body), execute_rows(body), function_call_oid(body), query_text(body));
    let _server = (backend::tag_rows(body), backend::first_column_name(body), backend::parameter_status(body));
    let _fields = backend::iterate_fields(body).count();
}

/// A conversation: a byte that says who sends (odd: the server), then a message; and so on.
///
/// # Panics
/// When the session breaks its word.
pub fn session(bytes: &[u8]) {
    let analyzer = Arc::new(Analyzer::new(catalog(), EffectSettings::default()));
    let mut session = Session::new(View { analyzer, fresh: true }, "_t");
    let mut out = Output::default();
    session.on_server(b'Z', 1, b"I", &mut out);
    let mut rest = bytes;
    while let Some((side, message)) = rest.split_first() {
        let Ok(Some(header)) = FrameHeader::peek(message) else { break };
        let (kind, length) = (header.message_type, header.body_bytes);
        let server = side % 2 == 1;
        let need = if server { session.server_need(kind, length) } else { session.client_need(kind, length) };
        let Some(body) = need.body(header, message) else { break };
        if server {
            session.on_server(kind, length, body, &mut out);
        } else {
            match session.on_client(kind, length, body, &mut out) {
                // The server's turn.
                ClientStep::Hold | ClientStep::Relay | ClientStep::Replace => {}
                ClientStep::RelayLast => break,
            }
        }
        for sent in [&mut out.to_server, &mut out.to_client, &mut out.behind] {
            assert!(are_whole_messages(sent), "half a message: {sent:?}");
            sent.clear();
        }
        out.events.clear();
        assert!(session.outstanding_len() <= 2 * limits::OUTSTANDING_REQUESTS_MAX, "it grows");
        rest = message.get(header.frame_bytes()..).unwrap_or_default();
    }
}

fn are_whole_messages(mut bytes: &[u8]) -> bool {
    while let Ok(Some(header)) = FrameHeader::peek(bytes) {
        let Some(rest) = bytes.get(header.frame_bytes()..) else { return false };
        bytes = rest;
    }
    bytes.is_empty()
}

/// A text of SQL, with both ways to read strings.
pub fn sql(bytes: &[u8]) {
    let (catalog, settings) = (catalog(), EffectSettings::default());
    for standard_conforming_strings in [true, false] {
        let context = AnalysisContext { catalog: &catalog, settings: &settings, standard_conforming_strings };
        let _analysis = analyze(&context, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::simulation::Random;

    /// Changed copies of each file.
    const CHANGED: u64 = 40;

    fn change(bytes: &mut Vec<u8>, random: &mut Random) {
        let mut next = |bound: usize| random.below(bound.max(1));
        for _ in 0..=next(4) {
            let (at, other) = (next(bytes.len()), next(bytes.len()));
            match next(4) {
                0 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0xff, b'\'', b'$', b'Z', b';'][next(8)],
                1 => bytes.truncate(at),
                2 => bytes.extend_from_within(at.min(other)..at.max(other)),
                _ if !bytes.is_empty() => drop(bytes.drain(at.min(other)..at.max(other).min(at.min(other) + 9))),
                _ => {}
            }
        }
    }

    fn replay(target: &str, run: fn(&[u8])) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuzz").join(target);
        let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 5, "{} has too few files", folder.display());
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            run(&bytes);
            for seed in 1..=CHANGED {
                let mut changed = bytes.clone();
                change(&mut changed, &mut Random::of(seed));
                let outcome = std::panic::catch_unwind(|| run(&changed));
                assert!(outcome.is_ok(), "{}, seed {seed}: {changed:?}", file.display());
            }
        }
    }

    #[test]
    fn framing_corpus() {
        replay("framing", framing);
    }

    #[test]
    fn session_corpus() {
        replay("session", session);
    }

    #[test]
    fn sql_corpus() {
        replay("sql", sql);
    }
}
