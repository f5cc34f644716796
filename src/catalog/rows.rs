//! Query rows → [`Catalog`]. Pure; the queries are in [`super::loader`].
//!
//! The heart is a fixpoint over names: a function is harmless when its body neither writes nor
//! mentions a name that is not harmless; what mentions a dangerous name (a view, a default, a
//! policy, an operator) is dangerous too.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Catalog, Relation, TenantColumn, TenantType};
use crate::effect::lexer::{TokenKind, lex};
use crate::effect::statement::StatementTokens;
use crate::effect::unknown::UnknownReason;

/// A function, procedure or aggregate outside of the system schemas.
#[derive(Debug, Clone, Default)]
pub struct FunctionRow {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Language: `sql`, `plpgsql`, `c`, `internal`, …
    pub language: String,
    /// Body, as written (`prosrc`) or printed (BEGIN ATOMIC); names of support functions for
    /// aggregates.
    pub body: String,
    /// `provolatile` is `v`.
    pub volatile: bool,
    /// Name of the extension that it belongs to, empty if none.
    pub extension: String,
    /// OID.
    pub oid: u32,
}

/// A relation that can be written or whose definition may call functions.
#[derive(Debug, Clone, Default)]
pub struct RelationRow {
    /// OID.
    pub oid: u32,
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `relkind`.
    pub kind: char,
    /// A temporary table of some session.
    pub temporary: bool,
    /// Parents (partitioned or inherited from).
    pub parents: Vec<u32>,
    /// Domain given in `turbo.tb_domain_table`.
    pub domain_override: Option<String>,
    /// Column names in order.
    pub columns: Vec<String>,
    /// Types of the columns: type OID.
    pub types: Vec<u32>,
    /// Or of `tgtype` of the enabled triggers that are not of the system.
    pub trigger_events: i32,
    /// Rewrite rules other than a view's own.
    pub has_rules: bool,
    /// Something refers to it by a foreign key with ON DELETE/UPDATE CASCADE, SET NULL, SET DEFAULT.
    pub cascades_on_delete: bool,
    /// The same for UPDATE.
    pub cascades_on_update: bool,
    /// Texts of what runs when it is read: view definition, row-level security policies.
    pub read_expressions: String,
    /// Texts of what runs when it is written: defaults, checks, index expressions, policies.
    pub write_expressions: String,
    /// It has deferrable triggers of the application.
    pub deferred: bool,
}

/// Everything that a catalog is built from.
#[derive(Debug, Clone, Default)]
pub struct CatalogRows {
    /// The schema is installed.
    pub installed: bool,
    /// Names of functions in `pg_catalog`, and of types.
    pub system_names: Vec<String>,
    /// Names of functions that return sets.
    pub set_returning: Vec<String>,
    /// Functions of the application.
    pub functions: Vec<FunctionRow>,
    /// Relations of the application.
    pub relations: Vec<RelationRow>,
    /// Types of the application: name, and the texts and type names that they are made of.
    pub type_checks: Vec<(String, String)>,
    /// OIDs of [`RUNS_SQL`].
    pub unsafe_system_oids: Vec<u32>,
    /// Operators of the application: symbol and function name.
    pub operators: Vec<(String, String)>,
    /// Names of functions that casts and event triggers of the application call.
    pub implicit_functions: Vec<String>,
    /// Enabled event triggers.
    pub event_triggers: bool,
    /// Edges of `turbo.tb_domain_cascade`.
    pub cascades: Vec<(String, String)>,
    /// Name of the tenant column.
    pub tenant_column: String,
}

/// Functions of `pg_catalog` that run SQL which they are given, or whatever a relation's definition
/// says.
pub const RUNS_SQL: &[&str] = &[
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "table_to_xml",
    "table_to_xmlschema",
    "table_to_xml_and_xmlschema",
    "schema_to_xml",
    "schema_to_xmlschema",
    "schema_to_xml_and_xmlschema",
    "database_to_xml",
    "database_to_xmlschema",
    "database_to_xml_and_xmlschema",
    "ts_stat",
    "ts_rewrite",
];

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

/// Operators that PostgreSQL looks for by itself (CASE, NULLIF, USING, IN, sorting).
const IMPLICIT_OPERATORS: &[&str] = &["=", "<>", "<", "<=", ">", ">="];

/// Words that make a body more than a reading one. `update` also stands in FOR UPDATE: unsure then.
const WRITING_WORDS: &[&str] = &[
    "insert", "update", "delete", "merge", "truncate", "copy", "execute", "call", "do", "refresh", "create", "alter",
    "drop", "grant", "revoke", "import", "reindex", "cluster", "fetch", "move", "open",
];

const TRIGGER_INSERT: i32 = 4;
const TRIGGER_DELETE: i32 = 8;
const TRIGGER_UPDATE: i32 = 16;

/// `name` without the prefix that marks tables of a domain.
#[must_use]
pub fn domain_of_table_name(name: &str) -> Option<&str> {
    name.strip_prefix("tv_").filter(|domain| !domain.is_empty())
}

impl CatalogRows {
    /// Builds the catalog.
    #[must_use]
    pub fn build(self, generation: u64) -> Catalog {
        let mut catalog = Catalog {
            generation,
            installed: self.installed,
            harmless_calls: self.system_names.iter().cloned().collect(),
            cascades: self.cascades.clone(),
            event_triggers: self.event_triggers,
            set_returning: self.set_returning.iter().cloned().collect(),
            unsafe_system_oids: self.unsafe_system_oids.iter().copied().collect(),
            ..Catalog::default()
        };
        for name in RUNS_SQL {
            catalog.harmless_calls.remove(*name);
            catalog.dangerous.insert((*name).into(), UnknownReason::FunctionCall);
        }
        let scanned = Scanned::new(&self);
        scanned.spread(&mut catalog, &self);
        for function in &self.functions {
            if !catalog.dangerous.contains_key(&function.name) {
                catalog.harmless_calls.insert(function.name.clone());
                catalog.harmless_oids.insert(function.oid);
            }
        }
        self.add_version_readers(&mut catalog, &scanned);
        self.add_may_commit(&mut catalog, &scanned);
        self.add_relations(&mut catalog, &scanned);
        let deferred: Vec<String> =
            self.relations.iter().filter(|row| row.deferred).map(|row| row.oid.to_string()).collect();
        catalog.deferred = format!("{{{}}}", deferred.join(","));
        catalog
    }

    /// What mentions the versions' schema, directly or through other views and functions.
    fn add_version_readers(&self, catalog: &mut Catalog, scanned: &Scanned) {
        let readers = &mut catalog.version_readers;
        for name in ["turbo", "tb_domain_version", "fn_domain_version", "fn_domain_last_bump"] {
            readers.insert(name.to_owned());
        }
        scanned.close_over(readers);
    }

    /// Procedures that may end a transaction. Only CALL and DO can do that, never in a block.
    fn add_may_commit(&self, catalog: &mut Catalog, scanned: &Scanned) {
        let mut reached: HashSet<String> = ["commit", "rollback"].map(str::to_owned).into();
        for (function, body) in self.functions.iter().zip(&scanned.functions) {
            if body.unreadable {
                reached.insert(function.name.clone());
            }
        }
        scanned.close_over(&mut reached);
        catalog.may_commit = reached;
    }

    fn add_relations(&self, catalog: &mut Catalog, scanned: &Scanned) {
        let domains = self.domains_by_oid();
        let mut all = BTreeSet::new();
        let by_oid: HashMap<u32, usize> =
            self.relations.iter().enumerate().map(|(index, row)| (row.oid, index)).collect();
        let below = self.descendants(&by_oid);
        for (index, row) in self.relations.iter().enumerate() {
            if row.temporary {
                catalog.temporary.insert(row.name.clone());
                continue;
            }
            if !matches!(row.kind, 'r' | 'p' | 'v' | 'f' | 'm') {
                continue;
            }
            let own = domains.get(&row.oid).cloned().unwrap_or_default();
            all.extend(own.iter().cloned());
            let family = std::iter::once(index).chain(below.get(&row.oid).into_iter().flatten().copied());
            let mut relation = self.relation(row, &own);
            for member in family {
                self.add_unknowns(&mut relation, member, &own, &domains, catalog, scanned);
            }
            catalog.relations.entry(row.name.clone()).or_default().push(relation);
        }
        catalog.domains = all.into_iter().collect();
    }

    fn relation(&self, row: &RelationRow, domains: &BTreeSet<String>) -> Relation {
        let ordinal = row.columns.iter().position(|column| *column == self.tenant_column);
        let tenant = ordinal.map(|ordinal| TenantColumn {
            ordinal,
            data_type: match row.types.get(ordinal) {
                Some(2950) => TenantType::Uuid,
                Some(25 | 1042 | 1043) => TenantType::Text,
                _ => TenantType::Other,
            },
        });
        Relation {
            schema: row.schema.clone(),
            domains: domains.iter().cloned().collect(),
            columns: row.columns.clone(),
            tenant,
            insert_unknown: None,
            update_unknown: None,
            delete_unknown: None,
            has_sequence: row.write_expressions.contains("nextval("),
            parted: row.kind == 'p',
            foreign: row.kind == 'f',
        }
    }

    /// Adds what member `index` of a relation's family (itself, its partitions) drags along.
    fn add_unknowns(
        &self,
        relation: &mut Relation,
        index: usize,
        own: &BTreeSet<String>,
        domains: &HashMap<u32, BTreeSet<String>>,
        catalog: &Catalog,
        scanned: &Scanned,
    ) {
        let Some(row) = self.relations.get(index) else { return };
        let dangerous = |words: &BTreeSet<String>| words.iter().any(|word| catalog.dangerous.contains_key(word));
        let expression = scanned.relations.get(index).is_some_and(|scan| dangerous(&scan.write_words));
        let every = match row.kind {
            'v' | 'm' => Some(UnknownReason::View),
            // A part of a table; a foreign table by its own name is written by the command tag.
            'f' if !row.parents.is_empty() => Some(UnknownReason::ForeignTable),
            _ if row.has_rules => Some(UnknownReason::Rule),
            _ if expression => Some(UnknownReason::Expression),
            _ if domains.get(&row.oid).is_some_and(|theirs| !theirs.is_subset(own)) => {
                Some(UnknownReason::MixedDomains)
            }
            _ => None,
        };
        let on = |event: i32| (row.trigger_events & event != 0).then_some(UnknownReason::Trigger);
        // An UPDATE moves rows from part to part by DELETE and INSERT.
        let parted = relation.parted || row.kind == 'p' || !row.parents.is_empty();
        let update_events = if parted { TRIGGER_INSERT | TRIGGER_UPDATE | TRIGGER_DELETE } else { TRIGGER_UPDATE };
        let cascade = |cascades: bool| cascades.then_some(UnknownReason::ForeignKeyCascade);
        let slots = [
            (&mut relation.insert_unknown, on(TRIGGER_INSERT)),
            (&mut relation.update_unknown, on(update_events).or_else(|| cascade(row.cascades_on_update))),
            (&mut relation.delete_unknown, on(TRIGGER_DELETE).or_else(|| cascade(row.cascades_on_delete))),
        ];
        for (slot, reason) in slots {
            *slot = slot.or(every).or(reason);
        }
    }

    /// Domains of each relation: its own and those of what it is a part of.
    fn domains_by_oid(&self) -> HashMap<u32, BTreeSet<String>> {
        let mut domains: HashMap<u32, BTreeSet<String>> = HashMap::new();
        for row in self.relations.iter().filter(|row| !row.temporary && matches!(row.kind, 'r' | 'p' | 'f' | 'm')) {
            let own = row.domain_override.as_deref().or_else(|| domain_of_table_name(&row.name));
            domains.entry(row.oid).or_default().extend(own.map(str::to_owned));
        }
        loop {
            let mut changed = false;
            for row in &self.relations {
                for parent in &row.parents {
                    let inherited = domains.get(parent).cloned().unwrap_or_default();
                    let own = domains.entry(row.oid).or_default();
                    let before = own.len();
                    own.extend(inherited);
                    changed |= own.len() != before;
                }
            }
            if !changed {
                return domains;
            }
        }
    }

    /// Indexes of all relations below each relation.
    fn descendants(&self, by_oid: &HashMap<u32, usize>) -> HashMap<u32, BTreeSet<usize>> {
        let mut below: HashMap<u32, BTreeSet<usize>> = HashMap::new();
        for (index, row) in self.relations.iter().enumerate() {
            let mut seen = HashSet::new();
            let mut ancestors = row.parents.clone();
            while let Some(parent) = ancestors.pop() {
                if seen.insert(parent) {
                    below.entry(parent).or_default().insert(index);
                    let row = by_oid.get(&parent).and_then(|index| self.relations.get(*index));
                    ancestors.extend(row.map(|row| row.parents.as_slice()).unwrap_or_default());
                }
            }
        }
        below
    }
}

/// Words of a function's body.
#[derive(Debug, Default)]
struct Body {
    words: BTreeSet<String>,
    /// It writes, runs dynamic SQL, or is unreadable.
    writes: bool,
    /// Its language or text cannot be read here.
    unreadable: bool,
}

impl Body {
    fn unreadable() -> Self {
        Self { words: BTreeSet::new(), writes: true, unreadable: true }
    }
}

#[derive(Debug, Default)]
struct RelationScan {
    read_words: BTreeSet<String>,
    write_words: BTreeSet<String>,
}

/// The words of everything that the catalog's rows contain as text, found once.
struct Scanned {
    names: Vec<String>,
    functions: Vec<Body>,
    relation_names: Vec<String>,
    relations: Vec<RelationScan>,
}

impl Scanned {
    fn new(rows: &CatalogRows) -> Self {
        Self {
            names: rows.functions.iter().map(|function| function.name.clone()).collect(),
            functions: rows.functions.iter().map(scan_function).collect(),
            relation_names: rows.relations.iter().map(|relation| relation.name.clone()).collect(),
            relations: rows
                .relations
                .iter()
                .map(|row| RelationScan {
                    read_words: words(&row.read_expressions).unwrap_or_default(),
                    write_words: words(&row.write_expressions).unwrap_or_default(),
                })
                .collect(),
        }
    }

    /// Spreads danger from what writes to what mentions it, until nothing changes.
    fn spread(&self, catalog: &mut Catalog, rows: &CatalogRows) {
        let dangerous = &mut catalog.dangerous;
        for (name, body) in self.names.iter().zip(&self.functions) {
            if body.writes {
                dangerous.insert(name.clone(), UnknownReason::FunctionCall);
            }
        }
        loop {
            let before = dangerous.len();
            let spread_to = |name: &str, words: &BTreeSet<String>, reason, dangerous: &mut HashMap<_, _>| {
                if !dangerous.contains_key(name) && words.iter().any(|word| dangerous.contains_key(word)) {
                    dangerous.insert(name.to_owned(), reason);
                }
            };
            for (name, body) in self.names.iter().zip(&self.functions) {
                spread_to(name, &body.words, UnknownReason::FunctionCall, dangerous);
            }
            for (name, scan) in self.relation_names.iter().zip(&self.relations) {
                spread_to(name, &scan.read_words, UnknownReason::View, dangerous);
            }
            for (name, check) in &rows.type_checks {
                let check_words = words(check).unwrap_or_default();
                spread_to(name, &check_words, UnknownReason::TypeOrOperator, dangerous);
            }
            for (symbol, function) in &rows.operators {
                if dangerous.contains_key(function) {
                    dangerous.insert(operator_word(symbol), UnknownReason::TypeOrOperator);
                }
            }
            if dangerous.len() == before {
                break;
            }
        }
        catalog.dangerous_operators = rows
            .operators
            .iter()
            .filter(|(_, function)| catalog.dangerous.contains_key(function))
            .map(|(symbol, _)| symbol.clone())
            .collect();
        catalog.implicit_danger =
            rows.implicit_functions.iter().any(|function| catalog.dangerous.contains_key(function))
                || IMPLICIT_OPERATORS.iter().any(|symbol| catalog.dangerous_operators.contains(*symbol));
    }

    /// Adds the functions and relations that mention one of `names`, until nothing changes.
    fn close_over(&self, names: &mut HashSet<String>) {
        loop {
            let before = names.len();
            for (name, body) in self.names.iter().zip(&self.functions) {
                if body.words.iter().any(|word| names.contains(word)) {
                    names.insert(name.clone());
                }
            }
            for (name, scan) in self.relation_names.iter().zip(&self.relations) {
                if scan.read_words.iter().any(|word| names.contains(word)) {
                    names.insert(name.clone());
                }
            }
            if names.len() == before {
                return;
            }
        }
    }
}

fn scan_function(function: &FunctionRow) -> Body {
    if COMPUTING_EXTENSIONS.contains(&function.extension.as_str()) || function.schema == "turbo" {
        return Body::default();
    }
    match function.language.as_str() {
        "sql" | "plpgsql" => match words(&function.body) {
            Some(words) => {
                let writes = WRITING_WORDS.iter().any(|word| words.contains(*word));
                Body { words, writes, unreadable: false }
            }
            None => Body::unreadable(),
        },
        // The names of an aggregate's support functions.
        "aggregate" => Body { words: words(&function.body).unwrap_or_default(), ..Body::default() },
        // A compiled function that calls itself immutable or stable must not write.
        "c" | "internal" if !function.volatile && !RUNNING_EXTENSIONS.contains(&function.extension.as_str()) => {
            Body::default()
        }
        _ => Body::unreadable(),
    }
}

/// How an operator stands among names: no name has a space and these characters by accident.
fn operator_word(symbol: &str) -> String {
    format!("operator {symbol}")
}

/// Names, keywords and operators of a text, as the catalog spells them; `None` when it has no tokens.
fn words(text: &str) -> Option<BTreeSet<String>> {
    let mut tokens = Vec::new();
    lex(text.as_bytes(), true, &mut tokens).ok()?;
    let statement = StatementTokens { text: text.as_bytes(), tokens: &tokens };
    let mut words = BTreeSet::new();
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            TokenKind::Word | TokenKind::QuotedName | TokenKind::UnicodeName => {
                words.insert(statement.name(index)?);
            }
            TokenKind::Operator => {
                words.insert(operator_word(std::str::from_utf8(statement.bytes(index)).ok()?));
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

    fn function(name: &str, language: &str, body: &str) -> FunctionRow {
        FunctionRow {
            schema: "app".into(),
            name: name.into(),
            language: language.into(),
            body: body.into(),
            volatile: true,
            ..FunctionRow::default()
        }
    }

    fn table(oid: u32, name: &str) -> RelationRow {
        RelationRow {
            oid,
            schema: "public".into(),
            name: name.into(),
            kind: 'r',
            columns: vec!["id".into(), "tenant_id".into()],
            types: vec![23, 2950],
            ..RelationRow::default()
        }
    }

    #[test]
    fn danger_spreads_through_functions_views_and_checks() {
        let rows = CatalogRows {
            functions: vec![
                function("writes", "plpgsql", "BEGIN INSERT INTO tb_a VALUES (1); END"),
                function("calls", "sql", "SELECT app.Writes()"),
                function("reads", "sql", "SELECT 'insert', \"Insert\" FROM tb_a"),
                function("dynamic", "plpgsql", "BEGIN EXECUTE q; END"),
                function("broken", "sql", "SELECT 'x"),
                function("native", "c", "native"),
                function("python", "plpython3u", "pass"),
                FunctionRow { volatile: false, ..function("pure_c", "c", "x") },
                FunctionRow { extension: "uuid-ossp".into(), ..function("uuid_generate_v4", "c", "x") },
                function("total", "aggregate", "app.calls"),
            ],
            relations: vec![
                RelationRow { kind: 'v', read_expressions: "SELECT calls()".into(), ..table(1, "v_writes") },
                RelationRow { kind: 'v', read_expressions: "SELECT * FROM v_writes".into(), ..table(2, "v_over") },
                RelationRow { kind: 'v', read_expressions: "SELECT reads()".into(), ..table(3, "v_reads") },
            ],
            type_checks: vec![("checked".into(), "CHECK (calls() = 1)".into())],
            operators: vec![("@@@".into(), "calls".into()), ("===".into(), "reads".into())],
            system_names: vec!["lower".into(), "query_to_xml".into()],
            ..CatalogRows::default()
        };
        let catalog = rows.build(1);
        let dangerous: BTreeSet<&str> = catalog
            .dangerous
            .keys()
            .map(String::as_str)
            .filter(|name| !RUNS_SQL.contains(name) && !name.starts_with("operator "))
            .collect();
        let expected =
            ["broken", "calls", "checked", "dynamic", "native", "python", "total", "v_over", "v_writes", "writes"];
        assert_eq!(dangerous, expected.into());
        let harmless: BTreeSet<&str> = catalog.harmless_calls.iter().map(String::as_str).collect();
        assert_eq!(harmless, ["lower", "pure_c", "reads", "uuid_generate_v4"].into());
        assert_eq!(catalog.dangerous_operators, ["@@@".to_owned()].into());
        assert!(!catalog.implicit_danger);
    }

    #[test]
    fn relations_and_what_they_drag_along() {
        let rows = CatalogRows {
            tenant_column: "tenant_id".into(),
            functions: vec![function("writes", "sql", "DELETE FROM x")],
            relations: vec![
                table(1, "tv_user"),
                RelationRow { trigger_events: TRIGGER_INSERT | 1, ..table(2, "tv_trigger") },
                RelationRow { cascades_on_delete: true, ..table(3, "tb_parent") },
                RelationRow { write_expressions: "DEFAULT writes()".into(), ..table(4, "tv_default") },
                RelationRow { kind: 'p', ..table(5, "tv_order") },
                RelationRow { parents: vec![5], ..table(6, "order_2024") },
                RelationRow { kind: 'p', ..table(7, "tv_log") },
                RelationRow { parents: vec![7], ..table(8, "tv_log_hot") },
                RelationRow { domain_override: Some("role".into()), ..table(9, "roles") },
                RelationRow { kind: 'v', ..table(10, "tv_view") },
                RelationRow { temporary: true, ..table(11, "tv_user") },
                RelationRow { write_expressions: "DEFAULT nextval('s')".into(), ..table(12, "tv_serial") },
            ],
            ..CatalogRows::default()
        };
        let catalog = rows.build(1);
        let relation = |name: &str| catalog.candidates(None, name)[0].clone();
        let row = |name: &str| {
            let found = relation(name);
            (found.domains, found.insert_unknown, found.update_unknown, found.delete_unknown)
        };
        let all = |reason| (Some(reason), Some(reason), Some(reason));
        let none = || (None, None, None);
        let with = |domains: &[&str], (i, u, d)| (domains.iter().map(|&d| d.to_owned()).collect::<Vec<_>>(), i, u, d);
        assert_eq!(row("tv_user"), with(&["user"], none()));
        assert_eq!(row("tv_trigger"), with(&["trigger"], (Some(UnknownReason::Trigger), None, None)));
        assert_eq!(row("tb_parent"), with(&[], (None, None, Some(UnknownReason::ForeignKeyCascade))));
        assert_eq!(row("tv_default"), with(&["default"], all(UnknownReason::Expression)));
        assert_eq!(row("tv_order"), with(&["order"], none()));
        assert_eq!(row("order_2024"), with(&["order"], none()));
        assert_eq!(row("tv_log"), with(&["log"], all(UnknownReason::MixedDomains)));
        assert_eq!(row("tv_log_hot"), with(&["log", "log_hot"], none()));
        assert_eq!(row("roles"), with(&["role"], none()));
        assert_eq!(row("tv_view"), with(&[], all(UnknownReason::View)));
        assert!(catalog.temporary.contains("tv_user") && relation("tv_serial").has_sequence);
        assert_eq!(relation("tv_user").tenant, Some(TenantColumn { ordinal: 1, data_type: TenantType::Uuid }));
    }

    #[test]
    fn who_reads_versions_and_who_may_commit() {
        let rows = CatalogRows {
            functions: vec![
                function("cached", "sql", "SELECT version FROM turbo.tb_domain_version"),
                function("outer_cached", "sql", "SELECT cached()"),
                function("batch", "plpgsql", "BEGIN COMMIT; END"),
                function("writes", "plpgsql", "BEGIN DELETE FROM x; END"),
                function("plain", "plpgsql", "BEGIN PERFORM 1; END"),
            ],
            cascades: vec![("a".into(), "b".into()), ("b".into(), "a".into()), ("b".into(), "c".into())],
            ..CatalogRows::default()
        };
        let catalog = rows.build(1);
        assert!(catalog.version_readers.contains("outer_cached") && !catalog.version_readers.contains("plain"));
        assert!(catalog.may_commit.contains("batch") && !catalog.may_commit.contains("plain"));
        assert!(!catalog.may_commit.contains("writes"));
        assert_eq!(catalog.cascade_closure("a"), ["a", "b", "c"]);
        assert_eq!(catalog.cascade_closure("z"), ["z"]);
    }
}
