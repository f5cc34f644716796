//! The answer to `turnstile explain`: an analysis in words.

use std::fmt::Write as _;

use super::analysis::{Analysis, Control, Kind, RowCount, Statement, Tenant, Tenants};
use crate::catalog::Catalog;

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
        explain_statement(catalog, statement, &mut out);
    }
    out
}

fn explain_statement(catalog: &Catalog, statement: &Statement, out: &mut String) {
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
            out.push_str(match write.rows {
                RowCount::NotZero => "   always, when it succeeds\n",
                RowCount::Tag => "   when it changes at least one row\n",
            });
        }
    }
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
