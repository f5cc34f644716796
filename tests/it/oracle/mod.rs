//! The oracle: random programs run through Turnstile while triggers note, inside each transaction, what
//! was really written. Afterwards, transaction by transaction: what the versions moved by is what was
//! noted. Never less; more only where the design calls tenants or tables underivable.
//!
//! A program is its seed. `ORACLE_PROGRAMS=1000..9000` runs others than the fixed ones (`make oracle`),
//! `ORACLE_PROGRAMS=17..18` replays one and prints it, `ORACLE_AUDIT=1` audits them.

mod program;

use std::collections::BTreeMap;
use std::ops::Range;

use self::program::{Client, Random, Theme};
use crate::support::{Env, Setup};

/// Programs of one test, and steps of one program.
const PROGRAMS: u64 = 800;
const STEPS: u64 = 26;

/// Lines of a failure that are printed.
const WRONG_SHOWN: usize = 30;

/// Clients at work at the same time, two by two on one thread.
const THREADS: u64 = 2;

fn theme(number: u64) -> Theme {
    match number % 10 {
        0..4 => Theme::Exact,
        4..8 => Theme::Mixed,
        8 => Theme::Undone,
        _ => Theme::Commits,
    }
}

/// Two programs, their steps interleaved by a seed.
fn run_pair(port: u16, first: u64, slot: u64) -> (u64, Vec<(u64, String)>) {
    let mut random = Random::new(first ^ 0x5eed);
    let mut clients: Vec<Client> = (0..2)
        .map(|index| Client::login(port, first + index, slot + index, (first + index) << 20, theme(first + index)))
        .collect();
    for _ in 0..2 * STEPS {
        clients[usize::from(random.chance(50))].step();
    }
    let finished = clients.into_iter().enumerate().map(|(index, client)| (first + index as u64, client.finish()));
    let mut statements = 0;
    let texts = finished
        .map(|(number, (count, text))| {
            statements += count;
            (number, text)
        })
        .collect();
    (statements, texts)
}

/// What a comparison found.
#[derive(Default)]
struct Verdict {
    statements: u64,
    wrong: Vec<String>,
    /// Bumps too many, by reason.
    too_many: BTreeMap<&'static str, i64>,
}

#[expect(clippy::print_stdout, reason = "a replay prints its programs")]
async fn run(programs: Range<u64>, audit: bool) -> Verdict {
    // Nothing is folded meanwhile: the log tells what each transaction bumped.
    let config = format!("[control]\nfold_interval_ms = 3600000\n[audit]\nstatements = {audit}\n");
    let settings = vec!["deadlock_timeout = 20ms".to_owned()];
    let env = Env::with(Setup { tables: false, config, settings, ..Setup::default() }).await;
    turnstile::versions::install(&env.direct).await.unwrap();
    env.direct(include_str!("schema.sql")).await;
    env.settle_catalog().await;
    let port = env.port;
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let mine: Vec<u64> = programs.clone().step_by(2).filter(|first| first / 2 % THREADS == thread).collect();
            tokio::task::spawn_blocking(move || {
                mine.into_iter().map(|first| run_pair(port, first, thread * 2)).fold(
                    (0, Vec::new()),
                    |mut sum, (count, texts)| {
                        sum.0 += count;
                        sum.1.extend(texts);
                        sum
                    },
                )
            })
        })
        .collect();
    let mut verdict = Verdict::default();
    let mut texts = BTreeMap::new();
    for thread in threads {
        let (statements, printed) = thread.await.unwrap();
        verdict.statements += statements;
        texts.extend(printed);
    }
    // Clients that are gone: their transactions end when the server notices.
    let quiet = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()";
    crate::support::eventually("all transactions have ended", async || {
        env.direct.query_one(quiet, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    for row in env.direct.query(include_str!("compare.sql"), &[]).await.unwrap() {
        let (program, xid, domain, tenant): (String, String, String, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let (truth, moved, statements): (i64, i64, i64) = (row.get(4), row.get(5), row.get(6));
        let number: u64 = program.trim_start_matches('p').parse().unwrap();
        let reason = match theme(number) {
            _ if moved < truth => None,
            Theme::Mixed if domain.starts_with("own") && moved > statements => Some("TRUNCATE of a table without rows"),
            Theme::Mixed if moved <= statements => Some("tenants that the text does not say"),
            Theme::Undone => Some("writes that an exception block undid"),
            Theme::Commits => Some("procedures that commit"),
            Theme::Exact | Theme::Mixed => None,
        };
        match reason {
            Some(reason) => *verdict.too_many.entry(reason).or_default() += moved - truth,
            None => verdict.wrong.push(format!(
                "program {number} ({:?}), transaction {xid}, domain {domain}, tenant {tenant}: moved {moved}, truth {truth}, statements {statements}",
                theme(number)
            )),
        }
    }
    for row in env.direct.query(include_str!("late.sql"), &[]).await.unwrap() {
        verdict
            .wrong
            .push(format!("program {}: a CALL without its bump", row.get::<_, String>(0).trim_start_matches('p')));
    }
    let audited = "SELECT concat_ws(' ', count(*), 'times:', expected, '->', measured) FROM turbo.tb_audit GROUP BY expected, measured";
    for row in env.direct.query(audited, &[]).await.unwrap() {
        verdict.wrong.push(format!("the audit disagrees {}", row.get::<_, String>(0)));
    }
    check_versions(&env).await;
    verdict.wrong.sort();
    verdict.wrong.truncate(WRONG_SHOWN);
    let shown: std::collections::BTreeSet<u64> =
        verdict.wrong.iter().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).take(2).collect();
    for number in shown {
        verdict.wrong.push(format!("--- program {number}\n{}", texts.get(&number).map_or("", String::as_str)));
    }
    if programs.end - programs.start <= 2 {
        println!("{}", texts.values().cloned().collect::<Vec<_>>().join("\n---\n"));
    }
    env.stop().await;
    verdict
}

/// The versions that readers see are the log's sums, before a fold and behind it.
async fn check_versions(env: &Env) {
    let differ = "SELECT count(*) FROM (SELECT tenant_id, domain, sum(bumps)::bigint AS bumps FROM turbo.tb_bump GROUP BY 1, 2) b
        WHERE turbo.fn_domain_version(b.tenant_id, b.domain) <>
              (SELECT sum(a.bumps) FROM turbo.tb_bump a WHERE a.domain IN (b.domain, '') AND (a.tenant_id IS NULL OR a.tenant_id = b.tenant_id)) AND b.domain <> ''";
    let before: i64 = env.direct.query_one(differ, &[]).await.unwrap().get(0);
    assert_eq!(before, 0);
    env.direct("CREATE TEMP TABLE seen AS SELECT tenant_id, domain, version FROM turbo.tb_domain_version; SELECT turbo.fn_fold(100000000)")
        .await;
    let left = "SELECT count(*) FROM turbo.tb_bump";
    assert_eq!(env.direct.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    let moved = "SELECT count(*) FROM seen WHERE turbo.fn_domain_version(tenant_id, domain) <> version";
    assert_eq!(env.direct.query_one(moved, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// Runs the programs of one test and prints what was counted.
#[expect(clippy::print_stdout, reason = "the count of what was more than the truth")]
async fn check(programs: Range<u64>, audit: bool) {
    let verdict = run(programs.clone(), audit).await;
    println!("oracle: programs {programs:?}, {} statements, bumps too many {:?}", verdict.statements, verdict.too_many);
    assert!(verdict.wrong.is_empty(), "{}", verdict.wrong.join("\n"));
    if programs.end - programs.start >= PROGRAMS {
        assert!(verdict.statements >= PROGRAMS * STEPS, "only {} statements", verdict.statements);
    }
}

macro_rules! blocks {
    ($($name:ident => $block:literal, $audit:literal;)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            check($block * PROGRAMS..($block + 1) * PROGRAMS, $audit).await;
        })+
    };
}

// 100,000 statements and more. One block is audited: what text and catalog are sure of is right.
blocks! {
    programs_0 => 0, false;
    programs_1 => 1, false;
    programs_2 => 2, false;
    programs_3_audited => 3, true;
}

/// Programs that the environment names: a longer run, or one that failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_by_name() {
    let named = std::env::var("ORACLE_PROGRAMS").unwrap_or_else(|_| "100000..100002".into());
    let (start, end) = named.split_once("..").expect("ORACLE_PROGRAMS=from..to");
    let (start, end): (u64, u64) = (start.parse().unwrap(), end.parse().unwrap());
    let mut first = start & !1;
    while first < end {
        let next = (first + 4 * PROGRAMS).min(end.max(first + 2));
        check(first..next, std::env::var_os("ORACLE_AUDIT").is_some()).await;
        first = next;
    }
}
