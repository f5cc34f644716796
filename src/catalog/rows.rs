//! Query rows → [`Catalog`]. Pure; the queries are in [`super::loader`], the fixpoint over what may lead
//! to a write in [`super::danger`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use super::danger::{Danger, Graph};
use super::{Calls, Catalog, Relation, TenantColumn, TenantType, Tracked, oid_array};
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
    /// It returns any number of rows.
    pub set_returning: bool,
    /// SECURITY DEFINER, or with settings of its own: it does not run as its caller does.
    pub other_rights: bool,
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
    /// Enabled triggers that are not of the system.
    pub triggers: Vec<TriggerRow>,
    /// Rewrite rules other than a view's own.
    pub has_rules: bool,
    /// Relations that refer to it by a foreign key with CASCADE, SET NULL or SET DEFAULT.
    pub cascades: Vec<CascadeRow>,
    /// Texts of what runs when it is read: view definition, row-level security policies.
    pub read_expressions: String,
    /// Texts of what runs when it is written: defaults, checks, index expressions, policies.
    pub write_expressions: String,
}

/// A trigger.
#[derive(Debug, Clone, Default)]
pub struct TriggerRow {
    /// Name of its function.
    pub function: String,
    /// `tgtype`.
    pub events: i32,
    /// It may fire at COMMIT.
    pub deferrable: bool,
    /// OID.
    pub oid: u32,
}

impl TriggerRow {
    /// It fires for each row, before the row is written: it may change or refuse it.
    #[must_use]
    pub const fn is_before_row(&self) -> bool {
        self.events & TRIGGER_ROW != 0 && self.events & TRIGGER_BEFORE != 0
    }

    /// What it does, it does even if no row changes.
    const fn leaves_traces(&self) -> bool {
        self.events & TRIGGER_ROW == 0 || self.events & TRIGGER_BEFORE != 0
    }
}

/// A foreign key that changes rows of the relation that refers.
#[derive(Debug, Clone, Copy, Default)]
pub struct CascadeRow {
    /// OID of the relation that refers.
    pub child: u32,
    /// ON DELETE does something.
    pub on_delete: bool,
    /// ON UPDATE does something.
    pub on_update: bool,
}

/// What no definition of an application changes: read once for each connection.
#[derive(Debug, Clone, Default)]
pub struct SystemRows {
    /// Names of functions and types in `pg_catalog`.
    pub names: Vec<String>,
    /// Names of functions that return sets.
    pub set_returning: Vec<String>,
    /// OIDs of [`RUNS_SQL`].
    pub unsafe_oids: Vec<u32>,
}

/// Everything that a catalog is built from.
#[derive(Debug, Clone, Default)]
pub struct CatalogRows {
    /// The schema is installed.
    pub installed: bool,
    /// What is the server's own.
    pub system: Arc<SystemRows>,
    /// Enums of the application.
    pub enums: Vec<String>,
    /// Functions of the application.
    pub functions: Vec<FunctionRow>,
    /// Relations of the application.
    pub relations: Vec<RelationRow>,
    /// Types of the application: name, and the texts and type names that they are made of.
    pub type_checks: Vec<(String, String)>,
    /// Operators of the application: symbol and function name.
    pub operators: Vec<(String, String)>,
    /// Names of functions that casts and event triggers of the application call.
    pub implicit_functions: Vec<String>,
    /// Enabled event triggers.
    pub event_triggers: bool,
    /// Edges of `turbo.tb_domain_cascade`.
    pub cascades: Vec<(String, String)>,
    /// Names in `turbo.tb_domain_table`.
    pub domain_tables: Vec<String>,
    /// See [`Catalog::asks_policies`].
    pub asks_policies: bool,
    /// Name of the tenant column.
    pub tenant_column: String,
    /// The application made an operator `=` for uuid or text: that a column equals a value is not what it says.
    pub own_equality: bool,
    /// Functions of ours, where FunctionCall reaches them.
    pub calls: Option<Calls>,
    /// A pooler stands before the server.
    pub pooled: bool,
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
    // They check or compute values of types, and expressions of indexes, that the application made.
    "array_in",
    "array_recv",
    "domain_in",
    "domain_recv",
    "record_in",
    "record_recv",
    "range_in",
    "range_recv",
    "multirange_in",
    "multirange_recv",
    "pg_input_is_valid",
    "pg_input_error_info",
    "brin_summarize_new_values",
    "brin_summarize_range",
];

/// Functions of the system of which it matters where they are mentioned: [`RUNS_SQL`], and what sets settings.
pub static MENTIONED: LazyLock<Vec<&str>> = LazyLock::new(|| RUNS_SQL.iter().copied().chain(["set_config"]).collect());

/// Settings that say how a text is read.
const LEXICAL_SETTINGS: &[&str] = &["standard_conforming_strings", "client_encoding"];

const TRIGGER_ROW: i32 = 1;
const TRIGGER_BEFORE: i32 = 2;
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
            harmless_calls: self.system.names.iter().chain(&self.enums).cloned().collect(),
            cascades: self.cascades.clone(),
            event_triggers: self.event_triggers,
            domain_tables: self.domain_tables.iter().cloned().collect(),
            asks_policies: self.asks_policies,
            own_equality: self.own_equality,
            calls: self.calls,
            pooled: self.pooled,
            set_returning: self
                .functions
                .iter()
                .filter(|function| function.set_returning)
                .map(|function| &function.name)
                .chain(&self.system.set_returning)
                .cloned()
                .collect(),
            unsafe_system_oids: self.system.unsafe_oids.iter().copied().collect(),
            ..Catalog::default()
        };
        let domains = self.domains_by_oid();
        let graph = Graph::new(&self, &domains);
        let danger = graph.danger(RUNS_SQL);
        add_version_readers(&mut catalog, &graph);
        add_may_commit(&mut catalog, &graph);
        self.add_relations(&mut catalog, &domains, &graph, &danger);
        catalog.deferred = self.deferred(&danger);
        let triggers = self.relations.iter().flat_map(|row| &row.triggers);
        catalog.deferrable_triggers =
            oid_array(triggers.filter(|trigger| trigger.deferrable).map(|trigger| &trigger.oid));
        catalog.settings_changers = self.settings_changers(&graph);
        catalog.unbound = self.unbound(&graph);
        catalog.tracked_relations = self.tracked(&domains);
        catalog.tracked = oid_array(catalog.tracked_relations.keys());
        danger.publish(&self, &mut catalog);
        catalog
    }

    fn tracked(&self, domains: &HashMap<u32, BTreeSet<String>>) -> BTreeMap<u32, Tracked> {
        let parents: HashSet<u32> = self.relations.iter().flat_map(|row| row.parents.iter().copied()).collect();
        let tracked = self.relations.iter().filter_map(|row| {
            let domains = domains.get(&row.oid).filter(|domains| !domains.is_empty())?;
            let parted = row.kind == 'p' || !row.parents.is_empty() || parents.contains(&row.oid);
            Some((row.oid, Tracked { domains: domains.iter().cloned().collect(), parted }))
        });
        tracked.collect()
    }

    /// Relations with triggers that may fire at COMMIT and write, as an array of OIDs.
    fn deferred(&self, danger: &Danger) -> Arc<str> {
        let fires_late = |row: &&RelationRow| {
            row.triggers.iter().any(|trigger| trigger.deferrable && danger.names.contains_key(&trigger.function))
        };
        oid_array(self.relations.iter().filter(fires_late).map(|row| &row.oid))
    }

    /// Functions whose text names a setting that says how strings are read, and what mentions them.
    fn settings_changers(&self, graph: &Graph<'_>) -> HashSet<String> {
        let names = |function: &&FunctionRow| LEXICAL_SETTINGS.iter().any(|name| function.body.contains(name));
        let mut changers: HashSet<String> = self.functions.iter().filter(names).map(|row| row.name.clone()).collect();
        if !changers.is_empty() {
            graph.close_over(&mut changers);
        }
        changers
    }

    /// Names through which a statement may reach rows of another tenant than its session's setting says: functions with other
    /// rights or settings, or that set one, what mentions them, and relations whose triggers they are.
    fn unbound(&self, graph: &Graph<'_>) -> HashSet<String> {
        let unbound = |function: &&FunctionRow| function.other_rights || function.body.contains("set_config");
        let mut names: HashSet<String> = self.functions.iter().filter(unbound).map(|row| row.name.clone()).collect();
        if names.is_empty() {
            return names;
        }
        graph.close_over(&mut names);
        let triggered = |row: &&RelationRow| row.triggers.iter().any(|trigger| names.contains(&trigger.function));
        let relations: Vec<String> = self.relations.iter().filter(triggered).map(|row| row.name.clone()).collect();
        names.extend(relations);
        names
    }

    fn add_relations(
        &self,
        catalog: &mut Catalog,
        domains: &HashMap<u32, BTreeSet<String>>,
        graph: &Graph<'_>,
        danger: &Danger,
    ) {
        let mut all = BTreeSet::new();
        let reach = graph.reach(danger);
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
            let mut relation = self.relation(row, &own);
            relation.reach = reach.of_relation(index);
            for member in graph.family(index) {
                self.add_unknowns(&mut relation, member, &own, domains, (graph, danger));
            }
            catalog.relations.entry(row.name.clone()).or_default().push(relation);
        }
        catalog.domains = all.into_iter().collect();
        catalog.reach = reach.into_names();
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
            has_generated: row.types.contains(&0),
            reach: None,
            parted: row.kind == 'p',
            foreign: row.kind == 'f',
            may_skip_rows: false,
            leaves_traces: false,
            drags: Vec::new(),
        }
    }

    /// Adds what member `index` of a relation's family (itself, its partitions) drags along.
    fn add_unknowns(
        &self,
        relation: &mut Relation,
        index: usize,
        own: &BTreeSet<String>,
        domains: &HashMap<u32, BTreeSet<String>>,
        (graph, danger): (&Graph<'_>, &Danger),
    ) {
        let Some(row) = self.relations.get(index) else { return };
        let every = match row.kind {
            'v' | 'm' => Some(UnknownReason::View),
            // A part of a table; a foreign table by its own name is written by the command tag.
            'f' if !row.parents.is_empty() => Some(UnknownReason::ForeignTable),
            _ if row.has_rules => Some(UnknownReason::Rule),
            _ if graph.has_dangerous_expression(danger, index) => Some(UnknownReason::Expression),
            _ if domains.get(&row.oid).is_some_and(|theirs| !theirs.is_subset(own)) => {
                Some(UnknownReason::MixedDomains)
            }
            _ => None,
        };
        // An UPDATE moves rows from part to part by DELETE and INSERT.
        let parted = relation.parted || row.kind == 'p' || !row.parents.is_empty();
        let update_events = if parted { TRIGGER_INSERT | TRIGGER_UPDATE | TRIGGER_DELETE } else { TRIGGER_UPDATE };
        let mut drags = Vec::new();
        let mut on = |events: i32| {
            let function = graph.untamed_trigger(danger, row, events)?;
            drags.push(function.to_owned());
            Some(UnknownReason::Trigger)
        };
        let triggers = [on(TRIGGER_INSERT), on(update_events), on(TRIGGER_DELETE)];
        let mut cascade = |on_delete: bool| {
            let child = graph.cascade_target(danger, row, on_delete)?;
            drags.push(child.to_owned());
            Some(UnknownReason::ForeignKeyCascade)
        };
        let cascades = [None, cascade(false), cascade(true)];
        let slots = [&mut relation.insert_unknown, &mut relation.update_unknown, &mut relation.delete_unknown];
        for ((slot, trigger), cascade) in slots.into_iter().zip(triggers).zip(cascades) {
            *slot = slot.or(every).or(trigger).or(cascade);
        }
        relation.may_skip_rows |= row.triggers.iter().any(TriggerRow::is_before_row);
        relation.leaves_traces |= row.triggers.iter().any(TriggerRow::leaves_traces);
        for name in drags {
            if !relation.drags.contains(&name) {
                relation.drags.push(name);
            }
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
}

/// What mentions the versions' schema, directly or through other views and functions.
fn add_version_readers(catalog: &mut Catalog, graph: &Graph<'_>) {
    let readers = &mut catalog.version_readers;
    // The last ones may make the transaction read-only: what waits has to be bumped before.
    for name in [
        "turbo",
        "tb_domain_version",
        "fn_domain_version",
        "fn_domain_last_bump",
        "set_config",
        "transaction",
        "transaction_read_only",
    ] {
        readers.insert(name.to_owned());
    }
    graph.close_over(readers);
    // A statement says by itself that it does so.
    readers.remove("transaction");
}

/// Procedures that may end a transaction. Only CALL and DO can do that, never in a block.
fn add_may_commit(catalog: &mut Catalog, graph: &Graph<'_>) {
    let mut reached: HashSet<String> = ["commit", "rollback"].map(str::to_owned).into();
    reached.extend(graph.unreadable().map(str::to_owned));
    graph.close_over(&mut reached);
    catalog.may_commit = reached;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Cause;

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

    fn trigger(function: &str, events: i32) -> TriggerRow {
        TriggerRow { function: function.into(), events, ..TriggerRow::default() }
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
                function("writes", "plpgsql", "BEGIN INSERT INTO tv_a VALUES (1); END"),
                function("logs", "plpgsql", "BEGIN INSERT INTO log VALUES (1); END"),
                function("gone", "plpgsql", "BEGIN INSERT INTO dropped VALUES (1); END"),
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
                table(10, "tv_a"),
                table(11, "log"),
                RelationRow { kind: 'v', read_expressions: "SELECT calls()".into(), ..table(1, "v_writes") },
                RelationRow { kind: 'v', read_expressions: "SELECT * FROM v_writes".into(), ..table(2, "v_over") },
                RelationRow { kind: 'v', read_expressions: "SELECT reads()".into(), ..table(3, "v_reads") },
            ],
            type_checks: vec![("checked".into(), "CHECK (calls() = 1)".into())],
            operators: vec![("@@@".into(), "calls".into()), ("===".into(), "reads".into())],
            system: SystemRows { names: vec!["lower".into(), "query_to_xml".into()], ..SystemRows::default() }.into(),
            ..CatalogRows::default()
        };
        let catalog = rows.build(1);
        let dangerous: BTreeSet<&str> = catalog
            .dangerous
            .keys()
            .map(String::as_str)
            .filter(|name| !RUNS_SQL.contains(name) && !name.starts_with("operator "))
            .collect();
        let expected = [
            "broken", "calls", "checked", "dynamic", "gone", "native", "python", "total", "v_over", "v_writes",
            "writes",
        ];
        assert_eq!(dangerous, expected.into());
        let harmless: BTreeSet<&str> = catalog.harmless_calls.iter().map(String::as_str).collect();
        assert_eq!(harmless, ["logs", "lower", "pure_c", "reads", "uuid_generate_v4"].into());
        let cause = |name: &str| catalog.causes[name].clone();
        assert_eq!(cause("writes"), Cause::Writes("tv_a".into()));
        assert_eq!(cause("v_over"), Cause::Mentions("v_writes".into()));
        assert_eq!(cause("dynamic"), Cause::Opaque("EXECUTE".into()));
        assert_eq!(catalog.dangerous_operators, ["@@@".to_owned()].into());
        assert!(!catalog.implicit_danger);
    }

    const BEFORE_ROW: i32 = TRIGGER_ROW | TRIGGER_BEFORE | TRIGGER_INSERT | TRIGGER_UPDATE | TRIGGER_DELETE;
    const AFTER_ROW: i32 = BEFORE_ROW & !TRIGGER_BEFORE;

    #[test]
    fn relations_and_what_they_drag_along() {
        let cascade = |child| CascadeRow { child, on_delete: true, on_update: false };
        let rows = CatalogRows {
            tenant_column: "tenant_id".into(),
            functions: vec![
                function("writes", "sql", "DELETE FROM tv_user"),
                function("logs", "plpgsql", "BEGIN INSERT INTO tb_log VALUES (1); RETURN NEW; END"),
                function("touches", "plpgsql", "BEGIN NEW.updated_at := now(); RETURN NEW; END"),
                function("moves", "plpgsql", "BEGIN NEW.tenant_id := x; RETURN NEW; END"),
            ],
            relations: vec![
                table(1, "tv_user"),
                RelationRow {
                    triggers: vec![trigger("writes", TRIGGER_INSERT | TRIGGER_ROW)],
                    ..table(2, "tv_trigger")
                },
                RelationRow { cascades: vec![cascade(1)], ..table(3, "tb_parent") },
                RelationRow { write_expressions: "DEFAULT writes()".into(), ..table(4, "tv_default") },
                RelationRow { kind: 'p', ..table(5, "tv_order") },
                RelationRow { parents: vec![5], ..table(6, "order_2024") },
                RelationRow { kind: 'p', ..table(7, "tv_log") },
                RelationRow { parents: vec![7], ..table(8, "tv_log_hot") },
                RelationRow { domain_override: Some("role".into()), ..table(9, "roles") },
                RelationRow { kind: 'v', ..table(10, "tv_view") },
                RelationRow { temporary: true, ..table(11, "tv_user") },
                RelationRow { write_expressions: "DEFAULT nextval('s')".into(), ..table(12, "tv_serial") },
                table(13, "tb_log"),
                RelationRow { triggers: vec![trigger("logs", AFTER_ROW)], ..table(14, "tv_audited") },
                RelationRow { triggers: vec![trigger("touches", BEFORE_ROW)], ..table(15, "tv_touched") },
                RelationRow { triggers: vec![trigger("moves", BEFORE_ROW)], ..table(16, "tv_moved") },
                RelationRow { triggers: vec![trigger("logs", TRIGGER_DELETE)], ..table(17, "tv_statement") },
                RelationRow { cascades: vec![cascade(13)], ..table(18, "tb_of_log") },
                RelationRow { cascades: vec![cascade(3)], ..table(19, "tb_grandparent") },
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
        let traces = |name: &str| (relation(name).may_skip_rows, relation(name).leaves_traces);
        let none = || (None, None, None);
        let with = |domains: &[&str], (i, u, d)| (domains.iter().map(|&d| d.to_owned()).collect::<Vec<_>>(), i, u, d);
        assert_eq!(row("tv_user"), with(&["user"], none()));
        assert_eq!(row("tv_trigger"), with(&["trigger"], (Some(UnknownReason::Trigger), None, None)));
        assert_eq!(row("tb_parent"), with(&[], (None, None, Some(UnknownReason::ForeignKeyCascade))));
        assert_eq!(relation("tb_parent").drags, ["tv_user"]);
        assert_eq!(row("tb_grandparent"), with(&[], (None, None, Some(UnknownReason::ForeignKeyCascade))));
        assert_eq!(row("tb_of_log"), with(&[], none()));
        assert_eq!((row("tv_audited"), traces("tv_audited")), (with(&["audited"], none()), (false, false)));
        assert_eq!((row("tv_touched"), traces("tv_touched")), (with(&["touched"], none()), (true, true)));
        assert_eq!((row("tv_statement"), traces("tv_statement")), (with(&["statement"], none()), (false, true)));
        assert_eq!(row("tv_moved"), with(&["moved"], all(UnknownReason::Trigger)));
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
