//! What the body of a function says: the names in it, the relations that it writes, and what cannot
//! be followed. Pure.

use std::collections::BTreeSet;

use super::rows::{FunctionRow, RUNS_SQL};
use crate::effect::lexer::{Token, TokenKind, lex};
use crate::effect::statement::StatementTokens;
use crate::effect::verbs::verbs;

/// Extensions of PostgreSQL whose functions compute and never run SQL of others.
const COMPUTING_EXTENSIONS: &[&str] = &[
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "fuzzystrmatch",
    "hstore",
    "intarray",
    "isn",
    "ltree",
    "pg_stat_statements",
    "pg_trgm",
    "pgcrypto",
    "seg",
    "unaccent",
    "uuid-ossp",
];

/// Extensions whose compiled functions run SQL that they are given, whatever they call themselves.
const RUNNING_EXTENSIONS: &[&str] = &["dblink", "tablefunc", "xml2", "postgres_fdw"];

/// Words of statements whose effect is not followed: dynamic SQL, utility statements, cursors of
/// others.
const NOT_FOLLOWED: &[&str] = &[
    "truncate", "copy", "execute", "call", "do", "refresh", "create", "alter", "drop", "grant", "revoke", "import",
    "reindex", "cluster", "fetch", "move", "open", "analyze", "analyse",
];

/// What the body of a function says.
#[derive(Debug, Default)]
pub struct Body {
    /// Names, keywords and operators in it.
    pub words: BTreeSet<String>,
    /// Relations that it writes, by name and, where the body says it, schema.
    pub targets: BTreeSet<(Option<String>, String)>,
    /// Why it cannot be followed.
    pub opaque: Option<String>,
    /// As a BEFORE trigger it gives back the row that it was given, its tenant column untouched.
    pub keeps_tenant: bool,
    /// Its language or text cannot be read here.
    pub unreadable: bool,
}

impl Body {
    fn unreadable(why: String) -> Self {
        Self { opaque: Some(why), unreadable: true, ..Self::default() }
    }

    /// Of a function; `tenant_column` is what its triggers must not touch to be followed.
    #[must_use]
    pub fn of(function: &FunctionRow, tenant_column: &str) -> Self {
        if COMPUTING_EXTENSIONS.contains(&function.extension.as_str()) || function.schema == "turbo" {
            return Self::default();
        }
        match function.language.as_str() {
            language @ ("sql" | "plpgsql") => Self::of_text(&function.body, language == "sql", tenant_column)
                .unwrap_or_else(|| Self::unreadable("a body that does not parse".into())),
            // The names of an aggregate's support functions.
            "aggregate" => Self { words: words(&function.body).unwrap_or_default(), ..Self::default() },
            // A compiled function that calls itself immutable or stable must not write.
            "internal"
                if words(&function.body).is_none_or(|words| RUNS_SQL.iter().any(|name| words.contains(*name))) =>
            {
                Self::unreadable("SQL that it is given".into())
            }
            "c" | "internal" if !function.volatile && !RUNNING_EXTENSIONS.contains(&function.extension.as_str()) => {
                Self::default()
            }
            language => Self::unreadable(format!("code in {language}")),
        }
    }

    fn of_text(text: &str, is_sql: bool, tenant_column: &str) -> Option<Self> {
        let mut tokens = Vec::new();
        lex(text.as_bytes(), true, &mut tokens).ok()?;
        if text.contains('\\') && !reads_the_same(text, &tokens) {
            return None;
        }
        let s = StatementTokens { text: text.as_bytes(), tokens: &tokens };
        let mut targets = BTreeSet::new();
        let mut opaque = not_followed(&s, is_sql);
        for verb in verbs(&s, 0) {
            match s.qualified_name(verb.target) {
                Some(name) => drop(targets.insert((name.schema, name.name))),
                None => opaque = Some("a write whose target is no name".into()),
            }
        }
        Some(Self {
            words: words_of(&s)?,
            targets,
            opaque,
            keeps_tenant: !is_sql && keeps_tenant(&s, tenant_column),
            unreadable: false,
        })
    }
}

/// Whether the text has the same tokens with `standard_conforming_strings` off, which a session or the function
/// itself may set.
fn reads_the_same(text: &str, tokens: &[Token]) -> bool {
    let mut others = Vec::new();
    let span = |token: &Token| (token.start(), token.end());
    lex(text.as_bytes(), false, &mut others).is_ok() && others.iter().map(span).eq(tokens.iter().map(span))
}

/// The first statement of a body whose effect is not followed.
fn not_followed(s: &StatementTokens<'_>, is_sql: bool) -> Option<String> {
    (0..s.tokens.len()).find_map(|index| {
        if s.kind(index) != Some(TokenKind::Word) {
            return None;
        }
        let upsert = s.is_word(index, "do") && s.is_any(index + 1, &["nothing", "update"]);
        // In PL/pgSQL INTO names variables; SELECT INTO of SQL makes a table.
        let makes_table = is_sql
            && s.is_word(index, "into")
            && index.checked_sub(1).is_none_or(|at| !s.is_any(at, &["insert", "merge"]));
        if (!upsert && s.is_any(index, NOT_FOLLOWED)) || makes_table {
            return s.name(index).map(|word| word.to_ascii_uppercase());
        }
        None
    })
}

/// Whether a PL/pgSQL trigger function gives back NEW, OLD or NULL, never assigns NEW or OLD as a whole and
/// never names their tenant column.
fn keeps_tenant(s: &StatementTokens<'_>, tenant_column: &str) -> bool {
    (0..s.tokens.len()).all(|index| {
        if s.is_word(index, "return") {
            return s.is_any(index + 1, &["new", "old", "null"]) && s.kind(index + 2) == Some(TokenKind::Semicolon);
        }
        if !s.name(index).is_some_and(|name| name == "new" || name == "old") {
            return true;
        }
        if s.kind(index + 1) == Some(TokenKind::Dot) {
            return s.name(index + 2).as_deref() != Some(tenant_column);
        }
        let before = index.checked_sub(1);
        let returned = before.is_some_and(|before| s.is_any(before, &["return", "from"]))
            // A column of the same name.
            || before.is_some_and(|before| s.kind(before) == Some(TokenKind::Dot));
        let argument = before
            .is_some_and(|before| matches!(s.kind(before), Some(TokenKind::OpenParen | TokenKind::Comma)))
            && s.kind(index + 1) == Some(TokenKind::CloseParen);
        returned || argument || s.is_word(index + 1, "is")
    })
}

/// How an operator stands among names: no name has a space and these characters by accident.
#[must_use]
pub fn operator_word(symbol: &str) -> String {
    format!("operator {symbol}")
}

/// Names, keywords and operators of a text, as the catalog spells them; `None` when it has no tokens.
#[must_use]
pub fn words(text: &str) -> Option<BTreeSet<String>> {
    let mut tokens = Vec::new();
    lex(text.as_bytes(), true, &mut tokens).ok()?;
    words_of(&StatementTokens { text: text.as_bytes(), tokens: &tokens })
}

fn words_of(s: &StatementTokens<'_>) -> Option<BTreeSet<String>> {
    let mut words = BTreeSet::new();
    for (index, token) in s.tokens.iter().enumerate() {
        match token.kind {
            TokenKind::Word | TokenKind::QuotedName | TokenKind::UnicodeName => {
                words.insert(s.name(index)?);
            }
            TokenKind::Operator => {
                words.insert(operator_word(std::str::from_utf8(s.bytes(index)).ok()?));
            }
            // Cursors with dynamic text and names in strings ('f'::regproc) are for the server.
            _ => {}
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(language: &str, text: &str) -> Body {
        let row =
            FunctionRow { language: language.into(), body: text.into(), volatile: true, ..FunctionRow::default() };
        Body::of(&row, "tenant_id")
    }

    #[test]
    fn targets_and_what_is_not_followed() {
        let rows = [
            ("plpgsql", "BEGIN INSERT INTO log VALUES (1); RETURN NEW; END", "log", None),
            (
                "plpgsql",
                "BEGIN IF x THEN UPDATE app.t SET a = 1; ELSE DELETE FROM ONLY u; END IF; END",
                "app.t u",
                None,
            ),
            ("plpgsql", "BEGIN INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2; END", "t", None),
            ("plpgsql", "BEGIN INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING; END", "t", None),
            ("plpgsql", "BEGIN MERGE INTO t USING s ON true WHEN MATCHED THEN UPDATE SET a = 1; END", "t", None),
            ("plpgsql", "BEGIN SELECT a INTO b FROM t FOR UPDATE; END", "", None),
            ("plpgsql", "BEGIN EXECUTE 'INSERT INTO ' || t; END", "", Some("EXECUTE")),
            ("plpgsql", "BEGIN TRUNCATE t; END", "", Some("TRUNCATE")),
            ("plpgsql", "BEGIN UPDATE $1 SET a = 1; END", "", Some("a write whose target is no name")),
            ("sql", "WITH d AS (DELETE FROM a RETURNING *) INSERT INTO \"B\" SELECT * FROM d", "B a", None),
            ("sql", "SELECT 1 AS a INTO tv_new", "", Some("INTO")),
            ("sql", "SELECT 'insert into t'", "", None),
            ("sql", "SELECT 'x", "", Some("a body that does not parse")),
            ("plpython3u", "pass", "", Some("code in plpython3u")),
            ("plpgsql", "DECLARE c CURSOR FOR UPDATE tv_a SET x = 1 RETURNING id; BEGIN END", "tv_a", None),
            ("plpgsql", "DECLARE c CURSOR (n int) FOR UPDATE tv_a SET x = n RETURNING id; BEGIN END", "tv_a", None),
            ("plpgsql", "BEGIN FOR r IN SELECT f(a) FROM t WHERE (a) FOR UPDATE LOOP END LOOP; END", "", None),
            (
                "plpgsql",
                "BEGIN x := '\\'; INSERT INTO tv_a VALUES (1); y := '\\'; END",
                "",
                Some("a body that does not parse"),
            ),
            ("plpgsql", "BEGIN IF x ~ '\\d+' THEN INSERT INTO log VALUES (1); END IF; END", "log", None),
            ("internal", "query_to_xml", "", Some("SQL that it is given")),
        ];
        for (language, text, targets, opaque) in rows {
            let body = body(language, text);
            let named: Vec<String> = body
                .targets
                .iter()
                .map(|(schema, name)| schema.as_ref().map_or_else(|| name.clone(), |schema| format!("{schema}.{name}")))
                .collect();
            let mut named = named;
            named.sort();
            assert_eq!(named.join(" "), targets, "{text}");
            assert_eq!(body.opaque.as_deref(), opaque, "{text}");
        }
    }

    #[test]
    fn triggers_that_keep_the_tenant() {
        let rows = [
            ("BEGIN NEW.updated_at := now(); RETURN NEW; END", true),
            ("BEGIN NEW.updated_at = now(); RETURN NULL; END", true),
            (
                "BEGIN IF NEW IS DISTINCT FROM OLD THEN INSERT INTO log VALUES (to_jsonb(NEW)); END IF; RETURN OLD; END",
                true,
            ),
            ("BEGIN INSERT INTO log SELECT NEW.*; RETURN NEW; END", true),
            ("BEGIN NEW.tenant_id := x; RETURN NEW; END", false),
            ("BEGIN NEW.\"tenant_id\" := x; RETURN NEW; END", false),
            ("BEGIN SELECT a INTO NEW.tenant_id; RETURN NEW; END", false),
            ("BEGIN NEW := jsonb_populate_record(NEW, '{}'); RETURN NEW; END", false),
            ("BEGIN SELECT * INTO NEW FROM t; RETURN NEW; END", false),
            ("BEGIN SELECT * INTO STRICT NEW FROM t; RETURN NEW; END", false),
            ("BEGIN SELECT a, b INTO x, NEW FROM t; RETURN NEW; END", false),
            ("DECLARE n ALIAS FOR NEW; BEGIN n.tenant_id := x; RETURN NEW; END", false),
            ("BEGIN FOR NEW IN SELECT * FROM t LOOP END LOOP; RETURN NEW; END", false),
            ("DECLARE r record; BEGIN RETURN r; END", false),
            ("BEGIN RETURN f(NEW); END", false),
            ("BEGIN old.tenant_id := x; RETURN OLD; END", false),
            ("DECLARE old tv_a; BEGIN RETURN OLD; END", false),
            ("BEGIN \"new\".tenant_id := x; RETURN NEW; END", false),
        ];
        for (text, expected) in rows {
            assert_eq!(body("plpgsql", text).keeps_tenant, expected, "{text}");
        }
    }
}
