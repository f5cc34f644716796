//! The answer to `turnstile explain`: an analysis in words.

use std::fmt::Write as _;

use super::analysis::{Analysis, Control, Kind, RowCount, Statement, Tenant, Tenants};
use super::lexer::lex;
use super::statement::StatementTokens;
use crate::catalog::{Catalog, Cause};

/// Steps of a path that are printed.
const STEPS_MAX: usize = 12;

/// Says what each statement of `text` would bump, and which rule decided.
#[must_use]
pub fn explain(catalog: &Catalog, analysis: &Analysis, text: &str) -> String {
    let mut out = String::new();
    if analysis.refused {
        out.push_str("The text ends inside a quote or comment: PostgreSQL refuses it before anything runs.\n");
    } else if analysis.statements.is_empty() {
        out.push_str("No statement.\n");
    }
    for (index, statement) in analysis.statements.iter().enumerate() {
        let (start, end) = statement.span;
        let _ = writeln!(out, "{}. {}", index + 1, text.get(start..end).unwrap_or_default());
        explain_statement(catalog, statement, text.get(start..end).unwrap_or_default(), &mut out);
    }
    out
}

fn explain_statement(catalog: &Catalog, statement: &Statement, text: &str, out: &mut String) {
    match &statement.kind {
        Kind::Harmless | Kind::DeclareCursor { .. } => {
            out.push_str("   bumps nothing: provably free of writes to tracked tables\n");
        }
        Kind::Alone => {
            out.push_str("   bumps nothing: writes no tracked table, and runs outside of transaction blocks\n");
        }
        Kind::Control(control) => {
            let _ = writeln!(out, "   transaction control: {}", control_words(*control));
        }
        Kind::Fetch(cursor) => {
            let _ = writeln!(
                out,
                "   FETCH from \"{cursor}\": measured by the server unless its DECLARE is known to be harmless"
            );
        }
        Kind::Measure(reason) => {
            let _ = writeln!(out, "   measured by the server, reason: {}", reason.label());
            explain_paths(catalog, text, out);
            explain_measured(catalog, out);
        }
        Kind::MayCommit(reason) => {
            let _ = writeln!(out, "   may end its own transaction, reason: {}", reason.label());
            out.push_str("   outside of a block: runs alone, then bumps every domain in a transaction of its own\n");
            explain_measured(catalog, out);
        }
        Kind::Write(write) => {
            for touched in &write.touched {
                let _ = writeln!(
                    out,
                    "   bumps domain {} for {} ({})",
                    catalog.cascade_closure(&touched.domain).join(", "),
                    tenant_words(&touched.tenants),
                    touched.rule
                );
            }
            if write.copy.is_some() {
                out.push_str("   or, if every row of the copy data says its tenant: for those tenants\n");
            }
            out.push_str(match write.rows {
                RowCount::NotZero => "   always, when it succeeds\n",
                RowCount::Tag => "   when it changes at least one row\n",
            });
        }
    }
}

/// From the names in a statement to what they may write.
fn explain_paths(catalog: &Catalog, text: &str, out: &mut String) {
    let mut tokens = Vec::new();
    if lex(text.as_bytes(), true, &mut tokens).is_err() {
        return;
    }
    let statement = StatementTokens { text: text.as_bytes(), tokens: &tokens };
    let mut seen: Vec<String> = Vec::new();
    for name in (0..tokens.len()).filter_map(|index| statement.name(index)) {
        if seen.contains(&name) {
            continue;
        }
        if catalog.dangerous.contains_key(&name) {
            let _ = writeln!(out, "   path: {}", path_from(catalog, &name));
        }
        for relation in catalog.candidates(None, &name) {
            for dragged in &relation.drags {
                let what = if catalog.dangerous.contains_key(dragged) { "trigger function" } else { "foreign key to" };
                let _ = writeln!(out, "   path: {}.{name} → {what} {}", relation.schema, path_from(catalog, dragged));
            }
        }
        seen.push(name);
    }
}

/// `name → calls … → writes tv_x → domain x`.
fn path_from(catalog: &Catalog, name: &str) -> String {
    let mut path = name.to_owned();
    let mut at = name.to_owned();
    for _ in 0..STEPS_MAX {
        match catalog.causes.get(&at) {
            Some(Cause::Mentions(next)) => {
                let _ = write!(path, " → {next}");
                at.clone_from(next);
            }
            Some(Cause::Writes(relation)) => {
                let _ = write!(path, " → writes {relation}");
                at.clone_from(relation);
                break;
            }
            Some(Cause::Opaque(what)) => {
                let _ = write!(path, " → {what}, which is not followed");
                return path;
            }
            None => break,
        }
    }
    let relations = catalog.candidates(None, &at);
    let domains: Vec<&str> =
        relations.iter().flat_map(|relation| relation.domains.iter()).map(String::as_str).collect();
    if !domains.is_empty() {
        let _ = write!(path, " → domain {}", domains.join(", "));
    }
    path
}

fn explain_measured(catalog: &Catalog, out: &mut String) {
    let _ = writeln!(
        out,
        "   bumps those of these domains whose tables the statement changes: {}",
        if catalog.domains.is_empty() { "none is tracked".to_owned() } else { catalog.domains.join(", ") }
    );
}

const fn control_words(control: Control) -> &'static str {
    match control {
        Control::Begin => "begins a block",
        Control::Commit { chain: false } => "commits; bumps that wait go before it",
        Control::Commit { chain: true } => "commits and begins a block; bumps that wait go before it",
        Control::Rollback { chain: false } => "rolls back; bumps that wait are forgotten",
        Control::Rollback { chain: true } => "rolls back and begins a block; bumps that wait are forgotten",
        Control::Prepare => "prepares the transaction; bumps that wait go before it",
        Control::Savepoint => "savepoint; bumps that wait go before it",
        Control::Release => "releases a savepoint; bumps that wait go before it",
        Control::RollbackTo => "rolls back to a savepoint; bumps that wait are forgotten",
    }
}

fn tenant_words(tenants: &Tenants) -> String {
    match tenants {
        Tenants::All => "all tenants".into(),
        Tenants::Session => "the session's tenant".into(),
        Tenants::These(tenants) => {
            let words: Vec<String> = tenants
                .iter()
                .map(|tenant| match tenant {
                    Tenant::Known(tenant) => format!("tenant {tenant}"),
                    Tenant::Parameter { number, .. } => format!("the tenant in ${number}"),
                })
                .collect();
            words.join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::test_support::catalog;
    use crate::effect::{AnalysisContext, EffectSettings, analyze};

    #[test]
    fn paths_from_statement_to_domain() {
        let catalog = catalog();
        let rows = [
            ("SELECT app.syncs()", "path: syncs → writes → writes tv_a → domain a"),
            (
                "INSERT INTO tb_triggered VALUES (1)",
                "path: public.tb_triggered → trigger function writes → writes tv_a → domain a",
            ),
            ("DELETE FROM tb_parent", "path: public.tb_parent → foreign key to tv_a → domain a"),
            ("SELECT * FROM v_writes", "path: v_writes → writes → writes tv_a → domain a"),
        ];
        for (sql, path) in rows {
            let settings = EffectSettings::default();
            let context = AnalysisContext { catalog: &catalog, settings: &settings, standard_conforming_strings: true };
            let words = explain(&catalog, &analyze(&context, sql.as_bytes()), sql);
            assert!(words.contains(path), "{sql}\n{words}");
        }
    }
}
