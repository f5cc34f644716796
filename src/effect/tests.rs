//! Tables of statements: `fixtures/effect`.

use std::collections::BTreeSet;

use super::analysis::{AnalysisContext, EffectSettings, Kind};
use super::test_support::{catalog, check_fixture, describe, fixture};
use super::unknown::UnknownReason;
use super::{Analysis, analyze};
use crate::limits;

fn with_settings(text: &[u8], settings: &EffectSettings) -> Analysis {
    let catalog = catalog();
    analyze(&AnalysisContext { catalog: &catalog, settings, standard_conforming_strings: true }, text)
}

fn analysis(text: &str) -> Analysis {
    with_settings(text.as_bytes(), &EffectSettings::default())
}

/// Lines of SQL, each followed by `=> ` and the answer; `#` begins a comment.
fn check_table(name: &str) -> String {
    let text = std::fs::read_to_string(fixture(name)).unwrap();
    let mut actual = String::new();
    for line in text.lines().filter(|line| !line.starts_with("=> ")) {
        actual.push_str(line);
        actual.push('\n');
        if !line.is_empty() && !line.starts_with('#') {
            let sql = line.replace("\\n", "\n");
            actual.push_str(&format!("=> {}\n", describe(&analysis(&sql))));
        }
    }
    check_fixture(name, &actual);
    actual
}

#[test]
fn effect_tables() {
    let all: String = ["effect/writes.sql", "effect/tenants.sql", "effect/measured.sql", "effect/control.sql"]
        .map(check_table)
        .concat();
    // Reasons that a text alone does not give: they come from the session.
    let elsewhere = [
        UnknownReason::FunctionCallMessage,
        UnknownReason::UnknownStatement,
        UnknownReason::TooLong,
        UnknownReason::Encoding,
        UnknownReason::CatalogStale,
        UnknownReason::ImplicitCall,
    ];
    for reason in UnknownReason::ALL {
        let found = all.contains(&format!("measure {}", reason.label())) || elsewhere.contains(reason);
        assert!(found, "no row for {reason:?}");
    }
}

/// Every spelling: PostgreSQL's own targets, or unsure; never another target.
#[test]
fn spellings_never_name_a_wrong_target() {
    let text = std::fs::read_to_string(fixture("effect/spellings.txt")).unwrap();
    let mut sure = 0;
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (targets, sql) = line.split_once('|').unwrap();
        let expected: BTreeSet<String> = targets
            .split(',')
            .filter(|target| !target.is_empty())
            .map(|target| target.rsplit('.').next().unwrap().trim_start_matches("tv_").to_owned())
            .collect();
        let analysis = analysis(&sql.replace("\\n", "\n"));
        let mut named = BTreeSet::new();
        let mut unsure = analysis.refused;
        for statement in &analysis.statements {
            match &statement.kind {
                Kind::Write(write) => named.extend(write.touched.iter().map(|touched| touched.domain.clone())),
                Kind::Measure(_) | Kind::MayCommit(_) | Kind::Fetch(_) => unsure = true,
                Kind::Harmless | Kind::Alone | Kind::Control(_) | Kind::DeclareCursor { .. } => {}
            }
        }
        if unsure {
            assert!(named.is_subset(&expected), "{sql}: named {named:?}, PostgreSQL {expected:?}");
            continue;
        }
        sure += 1;
        let definition = sql.starts_with("ALTER") || sql.starts_with("DROP");
        let prepared = sql.starts_with("PREPARE") || sql.starts_with("EXPLAIN (ANALYZE false)");
        if !definition && !prepared {
            assert_eq!(named, expected, "{sql}");
        }
    }
    assert!(sure > 150, "only {sure} spellings are sure");
}

/// The rows of a long VALUES list are read by tokens: no syntax tree. How long that takes is printed
/// (`cargo test --release ten_thousand -- --nocapture`).
#[test]
#[expect(clippy::print_stdout, reason = "a figure for README")]
fn ten_thousand_rows() {
    let rows: Vec<String> = (0..10_000)
        .map(|n| format!("({n}, '11111111-1111-1111-1111-11111111{:04x}', 'name {n}', '{{\"a\": {n}}}')", n % 50))
        .collect();
    let text = format!("INSERT INTO tv_a (id, tenant_id, x, y) VALUES {}", rows.join(", "));
    let catalog = catalog();
    let settings = EffectSettings::default();
    let context = AnalysisContext { catalog: &catalog, settings: &settings, standard_conforming_strings: true };
    let start = std::time::Instant::now();
    let analysis = analyze(&context, text.as_bytes());
    println!("{} bytes: {:?}", text.len(), start.elapsed());
    let Some(Kind::Write(write)) = analysis.single().map(|statement| &statement.kind) else { panic!("no write") };
    assert!(matches!(&write.touched[0].tenants, super::Tenants::These(tenants) if tenants.len() == 50));
}

#[test]
fn guards() {
    // Deep nesting and long chains: measured or bumped for all tenants, never a stack overflow.
    let deep = format!(
        "UPDATE tv_a SET x = {}1{} WHERE tenant_id = '11111111-1111-1111-1111-111111111111'",
        "(".repeat(100_000),
        ")".repeat(100_000)
    );
    assert_eq!(describe(&analysis(&deep)), "write a:all by tag");
    let chain = format!(
        "UPDATE tv_a SET x = 1{} WHERE tenant_id = '11111111-1111-1111-1111-111111111111'",
        "+1".repeat(200_000)
    );
    assert_eq!(describe(&analysis(&chain)), "write a:all by tag");
    let just_long_enough = format!(
        "UPDATE tv_a SET x = 1{} WHERE tenant_id = '11111111-1111-1111-1111-111111111111'",
        "+1".repeat(limits::PARSED_TOKENS_MAX / 2 - 10)
    );
    assert_eq!(describe(&analysis(&just_long_enough)), "write a:1111 by tag");

    let long = vec![b' '; limits::ANALYZED_TEXT_BYTES_MAX + 1];
    let answer = with_settings(&long, &EffectSettings::default());
    assert!(answer.opaque && describe(&answer) == "measure too_long [copy-in]");

    let rows: Vec<String> = (0..=limits::STATEMENT_TENANTS_MAX).map(|n| format!("(1, '{:032x}')", n + 1)).collect();
    assert_eq!(describe(&analysis(&format!("INSERT INTO tv_a VALUES {}", rows.join(", ")))), "write a:all");
    let fewer = rows[..limits::STATEMENT_TENANTS_MAX].join(", ");
    let described = describe(&analysis(&format!("INSERT INTO tv_a VALUES {fewer}")));
    assert_eq!(described.matches("0000").count(), limits::STATEMENT_TENANTS_MAX);
}

#[test]
fn a_trusted_setting_stands_for_tenants_that_a_text_does_not_say() {
    let settings = EffectSettings { trust_tenant_setting: true, ..EffectSettings::default() };
    let rows = [
        ("DELETE FROM tv_a", "write a:session by tag"),
        ("DELETE FROM tv_shared", "write shared:all by tag"),
        ("INSERT INTO tv_a VALUES (1, NULL)", "write a:all"),
    ];
    for (sql, expected) in rows {
        assert_eq!(describe(&with_settings(sql.as_bytes(), &settings)), expected, "{sql}");
    }
}

#[test]
fn hostile_texts_have_answers() {
    let texts: &[&[u8]] = &[
        b"\xff\xfe",
        b"UPDATE \xff SET",
        b"INSERT INTO",
        b"COPY",
        b"WITH",
        b"UPDATE ONLY",
        b"DELETE FROM ONLY (",
        b"CALL",
        b"FETCH",
        b"(((",
        b")))",
        b"$",
        b"INSERT INTO tv_a VALUES",
        b"INSERT INTO tv_a VALUES (",
        b"U&\"",
        b"DECLARE",
        b"EXECUTE",
        b";;;;",
        b"UPDATE tv_a SET tenant_id",
        b"INSERT INTO tv_a (tenant_id) VALUES ()",
    ];
    for text in texts {
        drop(with_settings(text, &EffectSettings::default()));
    }
}

proptest::proptest! {
    /// Any soup of SQL words has an answer, and its statements stand inside of the text, in order.
    #[test]
    fn soups_have_answers(words in proptest::collection::vec(proptest::sample::select(&[
        "INSERT", "INTO", "UPDATE", "DELETE", "FROM", "ONLY", "tv_a", "tb_plain", "(", ")", ",", ";", "VALUES", "SET", "=", "WHERE",
        "tenant_id", "'11111111-1111-1111-1111-111111111111'", "$1", "::", "uuid", "WITH", "AS", "SELECT", "ON", "CONFLICT", "DO",
        "MERGE", "USING", "COPY", "STDIN", "CAST", "NULL", "BEGIN", "ATOMIC", "CASE", "END", "CREATE", "--", "/*", "*/", "\"", "'", "$$", "E'\\'", "\n", "IN", "AND", "OR",
    ][..]), 0..40)) {
        let text = words.join(" ");
        let mut end = 0;
        for statement in analysis(&text).statements {
            proptest::prop_assert!(end <= statement.span.0 && statement.span.0 < statement.span.1 && statement.span.1 <= text.len());
            end = statement.span.1;
        }
    }
}
