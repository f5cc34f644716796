//! `make instructions`: what the pure parts cost, in instructions that valgrind counts. Unlike time they are the same on
//! a busy machine, so that continuous integration can hold them against `instructions.txt`.
//!
//! Each case runs in a process of its own, N and 2 N times: the difference is what N cost, without start and setup.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use turnstile::catalog::rows::{CatalogRows, FunctionRow, RelationRow};
use turnstile::catalog::{Calls, Catalog};
use turnstile::effect::cache::Analyzer;
use turnstile::effect::{AnalysisContext, EffectSettings, analyze};
use turnstile::session::{Output, Session, View};
use turnstile::wire::FrameHeader;
use turnstile::wire::framing::run_bytes;
use turnstile::wire::notation::client_message;

const EXPECTED: &str = "benches/instructions.txt";

/// How far a count may be from what is expected, either way: other processors run other variants of memory functions.
const TOLERANCE: f64 = 0.08;

const TIMES: u64 = 500;

const INSERT: &str = "INSERT INTO tv_post (id, tenant_id, title) VALUES ($1, $2, $3)";
const VALUES: &str = "1 11111111-1111-1111-1111-111111111111 title";

/// Name, something that stands in what the session adds (nothing: it adds nothing), and the messages. `C`: a message of the client; `S`: of the server, its type and body. What stands before the empty line comes once.
const CONVERSATIONS: &[(&str, &str, &str)] = &[
    (
        "session: select, prepared",
        "",
        r#"C Parse s "SELECT title FROM tv_post WHERE id = $1"
C Sync
S 1
S Z I

C Bind "" s 1
C Describe P ""
C Execute ""
C Sync
S 2
S T \0\0
S D \0\1\0\0\0\5title
S C SELECT 1\0
S Z I"#,
    ),
    (
        "session: select, extended",
        "",
        r#"
C Parse "" "SELECT title FROM tv_post WHERE id = $1"
C Bind "" "" 1
C Describe P ""
C Execute ""
C Sync
S 1
S 2
S T \0\0
S D \0\1\0\0\0\5title
S C SELECT 1\0
S Z I"#,
    ),
    (
        "session: select, simple",
        "",
        r#"
C Query "SELECT title FROM tv_post WHERE id = 1"
S T \0\0
S D \0\1\0\0\0\5title
S C SELECT 1\0
S Z I"#,
    ),
    (
        "session: insert with its bump, prepared",
        "always",
        r#"C Parse s "{INSERT}"
C Sync
S 1
S Z I

C Bind "" s {VALUES}
C Describe P ""
C Execute ""
C Sync
S 2
S n
S C INSERT 0 1\0
S V \0\0\0\11
S Z I"#,
    ),
    (
        "session: insert with its bump, simple",
        "turbo.fn_bump_one",
        r#"
C Query "INSERT INTO tv_post (id, tenant_id, title) VALUES (1, '11111111-1111-1111-1111-111111111111', 'title')"
S C INSERT 0 1\0
S T \0\1_t\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0
S D \0\1\0\0\0\11
S C SELECT 1\0
S Z I"#,
    ),
    (
        "session: measured function, prepared",
        "turbo.fn_measure_end",
        r#"C Parse s "SELECT app.create_post($1)"
C Sync
S 1
S Z I

C Bind "" s 1
C Describe P ""
C Execute ""
C Sync
S 2
S T \0\0
S 3
S 1
S 2
S D \0\1\0\0\0\10
S C SELECT 1\0
S 3
S 3
S D \0\1\0\0\0\11
S C SELECT 1\0
S 3
S 1
S 2
S D \0\1\0\0\0\11
S C SELECT 1\0
S 3
S 3
S Z I"#,
    ),
    (
        "session: measured function, from zero",
        "F\0\0\0",
        r#"C Parse s "SELECT app.create_post($1)"
C Sync
S 1
S Z I
C Bind "" s 1
C Execute ""
C Sync
S 2
S 3
S 1
S 2
S D \0\1\0\0\0\10
S C SELECT 1\0
S 3
S 3
S D \0\1\0\0\0\10
S C SELECT 1\0
S 3
S 1
S 2
S D \0\1\0\0\0\33 f
S C SELECT 1\0
S 3
S 3
S Z I

C Bind "" s 1
C Describe P ""
C Execute ""
C Sync
S 2
S T \0\0
S D \0\1\0\0\0\10
S C SELECT 1\0
S V \0\0\0\31 f
S Z I"#,
    ),
    (
        "session: insert in a block, prepared",
        "turbo.fn_bump_one",
        r#"C Parse s "{INSERT}"
C Sync
S 1
S Z I

C Query "BEGIN"
S C BEGIN\0
S Z T
C Bind "" s {VALUES}
C Execute ""
C Sync
S 2
S C INSERT 0 1\0
S Z T
C Query "COMMIT"
S 3
S 1
S 2
S D \0\1\0\0\0\11
S C SELECT 1\0
S 3
S 3
S C COMMIT\0
S Z I"#,
    ),
];

const TEXTS: &[(&str, &str)] = &[
    (
        "analysis: select",
        "SELECT p.id, p.title FROM tv_post p JOIN tv_user u ON u.id = p.author WHERE p.tenant_id = $1 LIMIT 20",
    ),
    ("analysis: insert", INSERT),
    ("analysis: update", "UPDATE tv_post SET title = $1, views = views + 1 WHERE id = $2 AND tenant_id = $3"),
    ("analysis: function", "SELECT app.create_post($1, $2, 'published') AS id"),
];

/// The command: all cases, held against what is expected; with a case and a number only that, so often.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    if let [case, times] = arguments {
        return repeat(case, times.parse()?);
    }
    let measured = cases().map(|case| Ok((case.clone(), count(&case)?))).collect::<anyhow::Result<Vec<_>>>()?;
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let text = measured.iter().fold(String::new(), |mut text, (case, count)| {
            let _always = writeln!(text, "{case}\t{count}");
            text
        });
        return std::fs::write(EXPECTED, text).context(EXPECTED);
    }
    compare(&measured)
}

fn cases() -> impl Iterator<Item = String> {
    let conversations = CONVERSATIONS.iter().map(|(case, ..)| *case);
    let texts = TEXTS.iter().map(|(case, _)| *case);
    conversations.chain(texts).chain([FRAMES, ROWS, VALUES_LIST]).map(str::to_owned)
}

const FRAMES: &str = "framing: 100 rows of a result";
const ROWS: &str = "session: 100 rows of a result";
const VALUES_LIST: &str = "analysis: insert of 1,000 rows";

fn compare(measured: &[(String, u64)]) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(EXPECTED).context(EXPECTED)?;
    let expected: BTreeMap<&str, u64> = text
        .lines()
        .map(|line| {
            let (case, count) = line.split_once('\t').with_context(|| format!("{EXPECTED}: {line:?} has no tab"))?;
            Ok((case, count.parse()?))
        })
        .collect::<anyhow::Result<_>>()?;
    let mut off = 0;
    for (case, count) in measured {
        let expected = *expected.get(case.as_str()).with_context(|| format!("{EXPECTED} lacks {case:?}"))?;
        let change = *count as f64 / expected as f64 - 1.0;
        let word = if change.abs() <= TOLERANCE { "" } else { "  <-- not expected" };
        println!("{case:45} {count:>9} instructions, {:+.1} %{word}", change * 100.0);
        off += usize::from(change.abs() > TOLERANCE);
    }
    ensure!(
        off == 0,
        "{off} of {} cases cost more or less than expected; where that is meant: UPDATE_EXPECT=1 make instructions",
        measured.len()
    );
    Ok(())
}

/// Instructions of one time.
fn count(case: &str) -> anyhow::Result<u64> {
    let counts = [TIMES, 2 * TIMES].map(|times| {
        let output = Command::new("valgrind")
            .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
            .arg(std::env::current_exe()?)
            .args(["instructions", case, &times.to_string()])
            .output()
            .context("cannot run valgrind (a package of that name)")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{case}: {said}");
        let line =
            said.lines().find_map(|line| line.split_once(" refs:")).with_context(|| format!("no count: {said}"))?;
        Ok(line.1.trim().replace(',', "").parse::<u64>()?)
    });
    let [once, twice] = counts;
    Ok((twice? - once?) / TIMES)
}

fn repeat(case: &str, times: u64) -> anyhow::Result<()> {
    if let Some((_, added, script)) = CONVERSATIONS.iter().find(|(name, ..)| *name == case) {
        return converse(&script.replace("{INSERT}", INSERT).replace("{VALUES}", VALUES), added, times);
    }
    if case == FRAMES {
        let rows = b"D\0\0\0\x0f\0\x01\0\0\0\x05title".repeat(100);
        for _ in 0..times {
            black_box(run_bytes(b'D', black_box(&rows)));
        }
        return Ok(());
    }
    if case == ROWS {
        let rows = "S D \\0\\1\\0\\0\\0\\5title\n".repeat(100);
        return converse(
            &format!("\nC Query \"SELECT title FROM tv_post\"\nS T \\0\\0\n{rows}S C SELECT 100\\0\nS Z I"),
            "",
            times,
        );
    }
    let list = format!(
        "INSERT INTO tv_post (id, tenant_id) VALUES {}(2, NULL)",
        "(1, '11111111-1111-1111-1111-111111111111'), ".repeat(999)
    );
    let texts = TEXTS.iter().copied().chain([(VALUES_LIST, list.as_str())]);
    let Some((_, text)) = texts.into_iter().find(|(name, _)| *name == case) else { bail!("no case {case:?}") };
    let (catalog, settings) = (catalog(), EffectSettings::default());
    let context = AnalysisContext { catalog: &catalog, settings: &settings, standard_conforming_strings: true };
    for _ in 0..times {
        black_box(analyze(&context, black_box(text.as_bytes())));
    }
    Ok(())
}

/// An application with two read tables and a function that writes one of them.
fn catalog() -> Catalog {
    let table = |oid, name: &str| RelationRow {
        oid,
        schema: "public".into(),
        name: name.into(),
        kind: 'r',
        columns: ["id", "tenant_id", "title"].map(Into::into).into(),
        types: vec![23, 2950, 25],
        ..RelationRow::default()
    };
    let function = FunctionRow {
        schema: "app".into(),
        name: "create_post".into(),
        language: "plpgsql".into(),
        body: "BEGIN INSERT INTO tv_post VALUES ($1); RETURN $1; END".into(),
        volatile: true,
        oid: 20_000,
        ..FunctionRow::default()
    };
    let rows = CatalogRows {
        installed: true,
        tenant_column: "tenant_id".into(),
        relations: vec![table(1, "tv_post"), table(2, "tv_user")],
        functions: vec![function],
        calls: Some(Calls { bump: 4_242, measured: 4_243, measured_every: 4_244 }),
        ..CatalogRows::default()
    };
    rows.build(1)
}

type Message = (bool, Vec<u8>);

/// Lines of a script as messages, with who sends them (`true`: the client).
fn messages(script: &str) -> anyhow::Result<Vec<Message>> {
    let message = |line: &str| {
        let (client, (kind, body)) = match line.split_at_checked(2) {
            Some(("C ", line)) => (true, client_message(line)?),
            Some(("S ", line)) => (false, server_message(line)?),
            _ => bail!("{line:?} begins with neither C nor S"),
        };
        let mut bytes = vec![kind];
        bytes.extend(u32::try_from(body.len() + 4)?.to_be_bytes());
        bytes.extend(body);
        Ok((client, bytes))
    };
    script.lines().filter(|line| !line.is_empty()).map(message).collect()
}

/// `\` and an octal digit stand for a byte.
fn server_message(line: &str) -> anyhow::Result<(u8, Vec<u8>)> {
    let (kind, text) = line.split_once(' ').unwrap_or((line, ""));
    let mut body = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        body.push(if byte == b'\\' { bytes.next().context("half an escape")? - b'0' } else { byte });
    }
    Ok((*kind.as_bytes().first().context("no type")?, body))
}

/// A session's part in a conversation: what the pump does with each message, but for the sockets.
fn converse(script: &str, added: &str, times: u64) -> anyhow::Result<()> {
    let analyzer = Arc::new(Analyzer::new(catalog(), EffectSettings::default()));
    let mut session = Session::new(View { analyzer, fresh: true }, "_t");
    let mut out = Output::default();
    session.on_server(b'Z', 1, b"I", &mut out);
    let (once, again) = script.split_once("\n\n").unwrap_or(("", script));
    for message in messages(once)? {
        exchange(&mut session, &message, &mut out)?;
        forget(&mut out);
    }
    let again = messages(again)?;
    let mut said = Vec::new();
    for message in &again {
        exchange(&mut session, message, &mut out)?;
        said.extend(out.to_server.drain(..).chain(out.behind.drain(..)));
        forget(&mut out);
    }
    let as_said = if added.is_empty() { said.is_empty() } else { String::from_utf8_lossy(&said).contains(added) };
    ensure!(as_said && session.is_at_rest(), "this is not how it goes: {:?}", String::from_utf8_lossy(&said));
    for _ in 1..times {
        for message in &again {
            exchange(&mut session, message, &mut out)?;
            forget(&mut out);
        }
    }
    Ok(())
}

fn exchange(session: &mut Session, (client, bytes): &Message, out: &mut Output) -> anyhow::Result<()> {
    let header = FrameHeader::peek(black_box(bytes))?.context("half a message")?;
    let (kind, length) = (header.message_type, header.body_bytes);
    let need = if *client { session.client_need(kind, length) } else { session.server_need(kind, length) };
    let body = need.body(header, bytes).context("half a message")?;
    if *client {
        black_box(session.on_client(kind, length, body, out));
    } else {
        black_box(session.on_server(kind, length, body, out));
    }
    Ok(())
}

/// As the pump does: what was said has been sent.
fn forget(out: &mut Output) {
    out.to_server.clear();
    out.behind.clear();
    out.to_client.clear();
    out.events.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_runs() {
        for case in cases() {
            repeat(&case, 3).unwrap_or_else(|error| panic!("{case}: {error}"));
        }
    }
}
