//! Every statement of PostgreSQL's regression SQL: the targets that Turnstile is sure of are those of
//! PostgreSQL's own grammar, and texts are split where it splits them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use grammar_check::{corpus, parse, split, truth, without_psql};
use turnstile::catalog::{Catalog, Relation, TenantColumn, TenantType};
use turnstile::effect::lexer::lex;
use turnstile::effect::statement::StatementTokens;
use turnstile::effect::{Analysis, AnalysisContext, EffectSettings, Kind, analyze};

/// Statements of all scripts that the grammar accepts, with the script's name.
fn statements() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut paths: Vec<_> = std::fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|ending| ending == "sql")) {
        let script = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let accepted =
            split(&without_psql(&script)).into_iter().filter(|text| parse(text).is_ok_and(|raws| raws.len() == 1));
        all.extend(accepted.map(|text| (name.clone(), text)));
    }
    all
}

/// A catalog in which every target of the corpus is a tracked relation whose domain is its name, and every
/// word may be called: the text layer alone answers.
fn catalog(statements: &[(String, String)]) -> Catalog {
    let mut catalog = Catalog { installed: true, ..Catalog::default() };
    let mut targets = BTreeSet::new();
    for (_, text) in statements {
        targets.extend(truth(&parse(text).unwrap()[0]).targets);
        let mut tokens = Vec::new();
        if lex(text.as_bytes(), true, &mut tokens).is_ok() {
            let words = StatementTokens { text: text.as_bytes(), tokens: &tokens };
            catalog.harmless_calls.extend((0..tokens.len()).filter_map(|index| words.name(index)));
        }
    }
    let relation = |name: &String| Relation {
        schema: "public".into(),
        domains: vec![name.clone()],
        columns: ["id", "tenant_id", "x"].map(Into::into).into(),
        tenant: Some(TenantColumn { ordinal: 1, data_type: TenantType::Uuid }),
        ..Relation::default()
    };
    catalog.relations = targets.iter().map(|name| (name.clone(), vec![relation(name)])).collect::<HashMap<_, _>>();
    catalog
}

struct Ours {
    catalog: Catalog,
    settings: EffectSettings,
}

impl Ours {
    fn analyze(&self, text: &str) -> Analysis {
        let context =
            AnalysisContext { catalog: &self.catalog, settings: &self.settings, standard_conforming_strings: true };
        analyze(&context, text.as_bytes())
    }
}

/// Domains that an answer is sure of; `None`: it is not.
fn sure(kind: &Kind) -> Option<BTreeSet<String>> {
    match kind {
        Kind::Harmless | Kind::Alone | Kind::Control(_) | Kind::DeclareCursor { .. } => Some(BTreeSet::new()),
        Kind::Write(write) => Some(write.touched.iter().map(|touched| touched.domain.clone()).collect()),
        Kind::Measure(_) | Kind::MayCommit(_) | Kind::Fetch(_) => None,
    }
}

#[test]
fn targets_and_ends_are_those_of_the_grammar() {
    // Deep trees are dropped on this stack.
    let run = || {
        let statements = statements();
        let ours = Ours { catalog: catalog(&statements), settings: EffectSettings::default() };
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut wrong = Vec::new();
        for (file, text) in &statements {
            let real = truth(&parse(text).unwrap()[0]);
            let analysis = ours.analyze(text);
            let Some(statement) = analysis.single().filter(|_| !analysis.refused) else {
                wrong.push(format!("{file}: not one statement: {text}"));
                continue;
            };
            let class = match sure(&statement.kind) {
                Some(named) if !real.unknowable && named == real.targets => {
                    if named.is_empty() {
                        "equal: no write".to_owned()
                    } else {
                        format!("equal: {}", real.node)
                    }
                }
                // Every procedure of the corpus counts as harmless here.
                Some(named) if named.is_empty() && real.node == "CallStmt" => "equal: CALL".to_owned(),
                None if real.targets.is_empty() => "unsure: no target".to_owned(),
                None => format!("unsure: {}", real.node),
                Some(named) => {
                    wrong.push(format!("{file}: {named:?}, the grammar {:?}: {text}", real.targets));
                    "wrong".to_owned()
                }
            };
            *counts.entry(class).or_default() += 1;
        }
        check_ends(&ours, &statements, &mut wrong);
        let printed: Vec<String> = counts.iter().map(|(class, count)| format!("{count:>7} {class}")).collect();
        println!("{} statements\n{}", statements.len(), printed.join("\n"));
        assert!(wrong.is_empty(), "{} wrong answers\n{}", wrong.len(), wrong.join("\n"));
        // A test that sees nothing finds nothing: what is surely known must stay so.
        let known = |class: &str| counts.get(class).copied().unwrap_or(0);
        assert!(statements.len() > 40_000, "only {} statements", statements.len());
        for (class, at_least) in [
            ("equal: InsertStmt", 5_000),
            ("equal: UpdateStmt", 800),
            ("equal: DeleteStmt", 400),
            ("equal: MergeStmt", 50),
            ("equal: CopyStmt", 80),
        ] {
            assert!(known(class) >= at_least, "{class}: only {}", known(class));
        }
    };
    std::thread::Builder::new().stack_size(256 << 20).spawn(run).unwrap().join().unwrap();
}

/// Several statements in one text: as many, and ending where the grammar ends them.
fn check_ends(ours: &Ours, statements: &[(String, String)], wrong: &mut Vec<String>) {
    for several in statements.chunks(4) {
        let texts: Vec<&str> = several.iter().map(|(_, text)| text.trim()).collect();
        let text = texts.join(" ;\n");
        let Ok(raws) = parse(&text) else { continue };
        let analysis = ours.analyze(&text);
        if analysis.opaque {
            continue;
        }
        let at = |raw: &serde_json::Value, key: &str| usize::try_from(raw[key].as_u64().unwrap_or(0)).unwrap();
        let ends: Vec<usize> = raws
            .iter()
            .map(|raw| {
                let start = at(raw, "stmt_location");
                if at(raw, "stmt_len") == 0 { text.len() } else { start + at(raw, "stmt_len") }
            })
            .collect();
        // The grammar counts what stands between the last token and the semicolon to the statement.
        let fits = |(statement, end): (&turnstile::effect::Statement, &usize)| statement.span.1 <= *end;
        let next_begins = |(statement, end): (&turnstile::effect::Statement, &usize)| statement.span.0 > *end;
        let same = analysis.statements.len() == ends.len()
            && analysis.statements.iter().zip(&ends).all(fits)
            && analysis.statements.iter().skip(1).zip(&ends).all(next_begins);
        if !same {
            wrong.push(format!("{}: ends differ: {text}", several[0].0));
        }
    }
}
