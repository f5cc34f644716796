//! A catalog for table tests, and fixtures that can be written anew with `UPDATE_EXPECT=1`.

use crate::catalog::Catalog;
use crate::catalog::rows::{CascadeRow, CatalogRows, FunctionRow, RelationRow, SystemRows, TriggerRow};

/// The relations and functions that fixtures name.
#[expect(clippy::too_many_lines, reason = "a list")]
pub(crate) fn catalog() -> Catalog {
    let table = |oid, name: &str| RelationRow {
        oid,
        schema: "public".into(),
        name: name.into(),
        kind: 'r',
        columns: ["id", "tenant_id", "x"].map(Into::into).into(),
        types: vec![23, 2950, 25],
        ..RelationRow::default()
    };
    let function = |name: &str, language: &str, body: &str| FunctionRow {
        schema: "app".into(),
        name: name.into(),
        language: language.into(),
        body: body.into(),
        volatile: true,
        oid: 20_000,
        ..FunctionRow::default()
    };
    let trigger = |function: &str, events| TriggerRow { function: function.into(), events, ..TriggerRow::default() };
    let rows = CatalogRows {
        installed: true,
        tenant_column: "tenant_id".into(),
        system: SystemRows {
            names: [
                "count",
                "lower",
                "now",
                "gen_random_uuid",
                "jsonb_build_object",
                "unnest",
                "generate_series",
                "set_config",
                "current_setting",
                "nextval",
                "lo_create",
                "pg_advisory_xact_lock",
                "int4",
                "text",
                "uuid",
                "jsonb_set",
                "to_tsquery",
                "json_populate_recordset",
                "json_arrayagg",
                "merge_action",
                "query_to_xml",
            ]
            .map(Into::into)
            .into(),
            set_returning: ["generate_series", "unnest"].map(Into::into).into(),
            ..SystemRows::default()
        }
        .into(),
        relations: vec![
            table(1, "tv_a"),
            table(2, "tv_b"),
            table(3, "tb_plain"),
            RelationRow { columns: vec!["id".into(), "data".into()], types: vec![23, 3802], ..table(4, "tv_shared") },
            RelationRow { triggers: vec![trigger("writes", 1 | 4 | 8 | 16)], ..table(5, "tb_triggered") },
            RelationRow { has_rules: true, ..table(6, "tv_ruled") },
            RelationRow {
                cascades: vec![CascadeRow { child: 1, on_delete: true, on_update: false }],
                ..table(7, "tb_parent")
            },
            RelationRow { write_expressions: "app.writes()".into(), ..table(8, "tv_default") },
            RelationRow { kind: 'v', ..table(9, "v_plain") },
            RelationRow { kind: 'v', read_expressions: "SELECT app.writes()".into(), ..table(10, "v_writes") },
            RelationRow { kind: 'f', ..table(11, "tv_foreign") },
            RelationRow { kind: 'p', ..table(23, "tb_parts") },
            RelationRow { kind: 'f', parents: vec![23], ..table(24, "tb_foreign_part") },
            RelationRow { kind: 'p', ..table(12, "tv_parts") },
            RelationRow { parents: vec![12], ..table(13, "tv_parts_own") },
            RelationRow { temporary: true, ..table(14, "tv_temp") },
            table(15, "tv_twice"),
            RelationRow {
                schema: "other".into(),
                columns: vec!["tenant_id".into(), "id".into()],
                types: vec![2950, 23],
                ..table(16, "tv_twice")
            },
            RelationRow { types: vec![23, 25, 25], ..table(17, "tv_text") },
            RelationRow { types: vec![23, 23, 25], ..table(18, "tv_int") },
            RelationRow { write_expressions: "nextval('s')".into(), ..table(19, "tv_serial") },
            RelationRow { domain_override: Some("role".into()), ..table(20, "roles") },
            RelationRow { write_expressions: "checked".into(), ..table(21, "tv_domain_type") },
            RelationRow {
                read_expressions: "SELECT version FROM turbo.tb_domain_version".into(),
                kind: 'v',
                ..table(22, "v_versions")
            },
            RelationRow { triggers: vec![trigger("logs", 1 | 4 | 8 | 16)], ..table(25, "tv_audited") },
            RelationRow { triggers: vec![trigger("touches", 1 | 2 | 4 | 16)], ..table(26, "tv_touched") },
            RelationRow { triggers: vec![trigger("moves", 1 | 2 | 4 | 16)], ..table(27, "tv_moved") },
        ],
        functions: vec![
            function("writes", "plpgsql", "BEGIN INSERT INTO tv_a VALUES (1); END"),
            function("reads", "sql", "SELECT count(*) FROM tv_a"),
            function("commits", "plpgsql", "BEGIN DELETE FROM tv_a; COMMIT; END"),
            function("logs", "plpgsql", "BEGIN INSERT INTO tb_plain VALUES (NEW.id); RETURN NULL; END"),
            function("touches", "plpgsql", "BEGIN NEW.x := now(); RETURN NEW; END"),
            function("moves", "plpgsql", "BEGIN NEW.tenant_id := app.other(); RETURN NEW; END"),
            function("syncs", "plpgsql", "BEGIN PERFORM app.writes(); END"),
            function("fn_domain_version", "plpgsql", "versions"),
        ],
        type_checks: vec![("checked".into(), "CHECK (app.writes() > 0)".into())],
        operators: vec![("@@@".into(), "writes".into())],
        cascades: vec![("a".into(), "b".into())],
        ..CatalogRows::default()
    };
    rows.build(1)
}

#[cfg(test)]
pub(crate) use fixtures::*;

#[cfg(test)]
mod fixtures {
    use std::fmt::Write as _;
    use std::path::PathBuf;

    use crate::effect::analysis::{Analysis, Kind, RowCount, Tenant, Tenants};

    /// An analysis in one line a statement.
    pub(crate) fn describe(analysis: &Analysis) -> String {
        if analysis.refused {
            return "refused".into();
        }
        let mut out = String::new();
        for statement in &analysis.statements {
            let separator = if out.is_empty() { "" } else { " | " };
            let _ = write!(out, "{separator}{}", describe_kind(&statement.kind));
            if let (Some(scope), Kind::Measure(_)) = (&statement.scope, &statement.kind) {
                let _ = write!(out, " of {}", scope.relations);
            }
            for (flag, word) in
                [(statement.copy_in, "copy-in"), (statement.reads_versions, "reads versions"), (statement.ddl, "ddl")]
            {
                if flag {
                    let _ = write!(out, " [{word}]");
                }
            }
        }
        out
    }

    fn describe_kind(kind: &Kind) -> String {
        match kind {
            Kind::Harmless => "harmless".into(),
            Kind::Measure(reason) => format!("measure {}", reason.label()),
            Kind::MayCommit(reason) => format!("may commit {}", reason.label()),
            Kind::Alone => "alone".into(),
            Kind::Control(control) => format!("{control:?}"),
            Kind::DeclareCursor { name, harmless } => format!("declare {name} harmless={harmless}"),
            Kind::Fetch(name) => format!("fetch {name}"),
            Kind::Write(write) => {
                let touched: Vec<String> = write
                    .touched
                    .iter()
                    .map(|touched| format!("{}:{}", touched.domain, describe_tenants(&touched.tenants)))
                    .collect();
                let rows = match (write.rows, write.leaves_no_trace_without_rows) {
                    (RowCount::NotZero, _) => "",
                    (RowCount::Tag, true) => " by tag",
                    (RowCount::Tag, false) => " by tag, leaves traces",
                };
                let copy = write.copy.as_ref().map_or(String::new(), |copy| format!(" copy column {}", copy.position));
                format!("write {}{rows}{copy}", touched.join(" "))
            }
        }
    }

    fn describe_tenants(tenants: &Tenants) -> String {
        match tenants {
            Tenants::All => "all".into(),
            Tenants::Session => "session".into(),
            Tenants::These(tenants) => {
                let words: Vec<String> = tenants
                    .iter()
                    .map(|tenant| match tenant {
                        Tenant::Known(tenant) => tenant.as_simple().to_string().chars().take(4).collect(),
                        Tenant::Parameter { number, as_uuid } => {
                            format!("${number}{}", if *as_uuid { "" } else { "text" })
                        }
                    })
                    .collect();
                words.join("+")
            }
        }
    }

    /// Path of a fixture.
    pub(crate) fn fixture(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
    }

    /// Compares a fixture with what it should be; with `UPDATE_EXPECT=1` it is written anew.
    pub(crate) fn check_fixture(name: &str, actual: &str) {
        let path = fixture(name);
        let expected = std::fs::read_to_string(&path).unwrap();
        if expected == actual {
            return;
        }
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, actual).unwrap();
            return;
        }
        let difference: Vec<String> = expected
            .lines()
            .zip(actual.lines())
            .enumerate()
            .filter(|(_, (expected, actual))| expected != actual)
            .map(|(line, (expected, actual))| format!("line {}\n  - {expected}\n  + {actual}", line + 1))
            .take(20)
            .collect();
        panic!("{name} differs (UPDATE_EXPECT=1 writes it anew; then read the diff)\n{}", difference.join("\n"));
    }
}
