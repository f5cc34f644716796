//! Rules about the code that no lint knows: import arrows, pure rooms, sizes, documents that match.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found.sort();
    found
}

/// Source of the program without its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

const PURE: &[&str] = &[
    "auth",
    "wire",
    "effect",
    "session",
    "catalog/mod.rs",
    "catalog/rows.rs",
    "catalog/bodies.rs",
    "catalog/danger.rs",
    "catalog/reach.rs",
    "config",
    "config.rs",
    "proxy/busy_poll.rs",
    "limits.rs",
    "compare/script.rs",
    "compare/transcript.rs",
];

fn is_pure(path: &Path) -> bool {
    let path = path.strip_prefix(root().join("src")).unwrap();
    let tests = ["tests.rs", "test_support.rs", "simulation.rs"];
    PURE.iter().any(|room| path.starts_with(room)) && !tests.iter().any(|name| path.ends_with(name))
}

/// Decisions depend on what they are given: no sockets, files, environment, threads, clocks, chance.
#[test]
fn pure_rooms_do_not_act() {
    let forbidden = [
        "tokio::",
        "std::net::Tcp",
        "std::fs",
        "std::env",
        "std::thread",
        "Instant::now",
        "SystemTime::now",
        "std::process",
        "rand::",
        "println!",
        "tracing::",
    ];
    let mut wrong = Vec::new();
    for (path, text) in files(&root().join("src"), ".rs").iter().filter(|(path, _)| is_pure(path)) {
        for word in forbidden.iter().filter(|word| without_tests(text).contains(**word)) {
            wrong.push(format!("{}: {word}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Which rooms a room may name: `wire` knows nobody, `session` knows `wire` and `effect`, …
#[test]
fn import_arrows() {
    let allowed: &[(&str, &[&str])] = &[
        ("wire", &["wire"]),
        ("auth", &["auth"]),
        ("effect", &["effect", "catalog", "limits"]),
        ("catalog/rows.rs", &["catalog", "effect"]),
        ("catalog/bodies.rs", &["catalog", "effect"]),
        ("catalog/danger.rs", &["catalog", "effect"]),
        ("catalog/reach.rs", &["catalog", "effect"]),
        ("catalog/reading.rs", &["catalog", "limits"]),
        ("compare/script.rs", &["effect", "wire"]),
        ("compare/transcript.rs", &["wire"]),
        ("session", &["session", "effect", "wire", "limits", "catalog"]),
        ("telemetry", &["telemetry", "session", "effect", "cli"]),
        ("embedded", &[]),
        ("admin", &["catalog", "telemetry", "proxy", "limits"]),
        ("tls.rs", &["auth", "config", "limits"]),
        ("versions", &["versions", "catalog", "config", "limits", "telemetry"]),
    ];
    let mut wrong = Vec::new();
    for (path, text) in files(&root().join("src"), ".rs") {
        let short = path.strip_prefix(root().join("src")).unwrap();
        let Some((_, rooms)) = allowed.iter().find(|(room, _)| short.starts_with(room)) else { continue };
        for part in text.split("crate::").skip(1) {
            let room: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !rooms.contains(&room.as_str()) {
                wrong.push(format!("{}: {room}", short.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_have_a_head_and_a_size() {
    let mut wrong = Vec::new();
    for (path, text) in files(&root().join("src"), ".rs").into_iter().chain(files(&root().join("tests"), ".rs")) {
        if !text.starts_with("//! ") {
            wrong.push(format!("{}: no module documentation", path.display()));
        }
        if without_tests(&text).lines().count() > 800 {
            wrong.push(format!("{}: more than 800 lines", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Metrics are an interface: README lists all of them, and nothing else.
#[test]
fn readme_lists_every_metric() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for (name, _) in turnstile::telemetry::metrics::METRICS {
        assert!(readme.contains(&format!("`{name}`")), "README.md does not mention {name}");
    }
    for word in readme.split(|c: char| !(c.is_ascii_lowercase() || c == '_')) {
        let known = turnstile::telemetry::metrics::METRICS.iter().any(|(name, _)| *name == word);
        let metric = word.starts_with("turnstile_") && word != "turnstile_demo";
        assert!(!metric || known, "README.md mentions {word}, which is no metric");
    }
}

/// Every key of turnstile.toml stands in README's example, and the example is valid.
#[test]
fn readme_shows_every_key() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let example = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    turnstile::config::ConfigFile::parse("README.md", example).unwrap();
    let config = std::fs::read_to_string(root().join("src/config.rs")).unwrap();
    let sections = config.split("pub struct ConfigFile {").nth(1).unwrap().split("impl ConfigFile").next().unwrap();
    for line in sections.lines().filter(|line| line.trim_end().ends_with(',') && line.contains(": ")) {
        let key = line.trim().trim_start_matches("pub ").split(':').next().unwrap();
        assert!(example.contains(key), "README.md's example does not show {key}");
    }
}

#[test]
fn every_environment_variable_belongs_to_an_option() {
    let cli = std::fs::read_to_string(root().join("src/cli.rs")).unwrap();
    let (service, tool) = cli.split_once("/// `turnstile compare`.").unwrap();
    let options = service.matches("#[arg(long").count();
    let variables = service.matches("env = \"TURNSTILE_").count();
    // `demo --once` is the only option of a service for the command line alone; of `compare` all but the server are.
    assert_eq!(options, variables + 1);
    assert_eq!(tool.matches("env = \"TURNSTILE_").count(), 1);
}

#[test]
fn fixtures_are_used() {
    let tests = files(&root().join("tests/it"), ".rs");
    let sources: String = files(&root().join("src"), ".rs").into_iter().chain(tests).map(|(_, text)| text).collect();
    for ending in [".sql", ".wire", ".txt"] {
        for (path, _) in files(&root().join("fixtures"), ending) {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(
                sources.contains(&format!("{name}{ending}")) || sources.contains(&format!("\"{name}\"")),
                "{} is not used",
                path.display()
            );
        }
    }
}

/// Each of the 150 cases has its line; the tests that it names exist.
#[test]
fn protocol_cases_have_their_tests() {
    let text = std::fs::read_to_string(root().join("tests/protocol-cases.md")).unwrap();
    let rows: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .filter(|(number, _)| number.parse::<u32>().is_ok())
        .collect();
    let numbers: Vec<u32> = rows.iter().map(|(number, _)| number.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=150).collect::<Vec<_>>());
    for (number, words) in rows {
        let mut file = String::new();
        for (index, part) in words.split('`').enumerate() {
            if index % 2 == 1 {
                let path = root().join(part);
                file = if part.contains('/') { std::fs::read_to_string(path).unwrap() } else { file };
                continue;
            }
            for name in part.split('"').skip(1).step_by(2) {
                assert!(file.contains(name), "case {number}: {name:?} is not in the file before it");
            }
        }
    }
}
