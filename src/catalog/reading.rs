//! The queries that a catalog is made of. Set-based: what is asked once for each relation costs seconds where there are
//! thousands. `$1` of the larger ones: only these objects; NULL: all.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::Client;

use super::Calls;
use super::rows::{CascadeRow, CatalogRows, FunctionRow, MENTIONED, RUNS_SQL, RelationRow, SystemRows, TriggerRow};
use crate::limits;

/// What decides whether anything of ours can be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerState {
    /// Of the database: its name may belong to another one tomorrow.
    pub oid: u32,
    /// A hot standby.
    pub in_recovery: bool,
    /// Others are made of it: nothing is installed there by itself.
    pub is_template: bool,
}

impl ServerState {
    pub async fn look(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let row = client
            .query_one(
                "SELECT d.oid, pg_catalog.pg_is_in_recovery(), d.datistemplate FROM pg_catalog.pg_database d \
                  WHERE d.datname = pg_catalog.current_database()",
                &[],
            )
            .await?;
        Ok(Self { oid: row.try_get(0)?, in_recovery: row.try_get(1)?, is_template: row.try_get(2)? })
    }
}

/// Differs when something that the catalog is made of has changed. Cheap: no definitions are printed.
pub(super) async fn fingerprint(client: &Client) -> Result<String, tokio_postgres::Error> {
    let row = client.query_one(include_str!("fingerprint.sql"), &[]).await?;
    row.try_get(0)
}

pub(super) async fn snapshot(client: &Client) -> Result<String, tokio_postgres::Error> {
    client.query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[]).await?.try_get(0)
}

/// Reads everything.
///
/// # Errors
/// Of the connection.
pub async fn load(
    client: &Client,
    tenant_column: &str,
    system: &Arc<SystemRows>,
) -> Result<CatalogRows, tokio_postgres::Error> {
    // One snapshot for all of it: a single batch of pipelined queries in one transaction.
    let begin = format!(
        // The price that the planner puts on these queries would have them compiled, and aggregates spill.
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL jit = off; SET LOCAL work_mem = '32MB'; \
         SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL lock_timeout = {}",
        limits::CATALOG_LOCK_TIMEOUT.as_millis()
    );
    client.batch_execute(&begin).await?;
    let rows = load_in_transaction(client, tenant_column, system).await;
    client.batch_execute("COMMIT").await?;
    rows
}

async fn load_in_transaction(
    client: &Client,
    tenant_column: &str,
    system: &Arc<SystemRows>,
) -> Result<CatalogRows, tokio_postgres::Error> {
    let pairs = |rows: Vec<tokio_postgres::Row>| -> Result<Vec<(String, String)>, tokio_postgres::Error> {
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    };
    // All of them.
    let these: Option<Vec<u32>> = None;
    let functions = client.query(include_str!("functions.sql"), &[]).await?;
    let relations = client.query(include_str!("relations.sql"), &[&these, &*MENTIONED]).await?;
    Ok(CatalogRows {
        installed: true,
        system: Arc::clone(system),
        enums: names(&client.query(ENUMS, &[]).await?)?,
        functions: functions.iter().map(function_row).collect::<Result<_, _>>()?,
        relations: with_triggers_and_cascades(client, &relations).await?,
        calls: client.query_opt(CALLS, &[]).await?.as_ref().map(calls_row).transpose()?,
        pooled: false,
        own_equality: client.query_one(OWN_EQUALITY, &[]).await?.try_get(0)?,
        type_checks: pairs(client.query(include_str!("types.sql"), &[&these]).await?)?,
        operators: pairs(client.query(OPERATORS, &[]).await?)?,
        event_triggers: client.query_one(EVENT_TRIGGERS, &[]).await?.try_get(0)?,
        implicit_functions: names(&client.query(IMPLICIT_FUNCTIONS, &[]).await?)?,
        cascades: pairs(client.query(CASCADES, &[]).await?)?,
        domain_tables: names(&client.query(DOMAIN_TABLES, &[]).await?)?,
        asks_policies: client.query_one(ASKS_POLICIES, &[]).await?.try_get(0)?,
        tenant_column: tenant_column.to_owned(),
    })
}

/// What is the server's own.
///
/// # Errors
/// Of the connection.
pub async fn load_system(client: &Client) -> Result<Arc<SystemRows>, tokio_postgres::Error> {
    let unsafe_oids = client.query(UNSAFE_SYSTEM_OIDS, &[&RUNS_SQL]).await?;
    Ok(Arc::new(SystemRows {
        names: names(&client.query(SYSTEM_NAMES, &[]).await?)?,
        set_returning: names(&client.query(SET_RETURNING, &[]).await?)?,
        unsafe_oids: unsafe_oids.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?,
    }))
}

fn names(rows: &[tokio_postgres::Row]) -> Result<Vec<String>, tokio_postgres::Error> {
    rows.iter().map(|row| row.try_get(0)).collect()
}

const SYSTEM_NAMES: &str = "SELECT proname::text FROM pg_catalog.pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND oid < 16384 \
     UNION SELECT typname::text FROM pg_catalog.pg_type WHERE typnamespace = 'pg_catalog'::regnamespace";
const ENUMS: &str = "SELECT typname::text FROM pg_catalog.pg_type WHERE typtype = 'e'";
/// PostgreSQL 18 does not commit at a FunctionCall behind an unsynced Execute, and says that it did (18.4).
const CALLS: &str = "SELECT 'turbo.fn_bump_one(uuid,text,int8,bool,text)'::regprocedure::oid, \
     'turbo.fn_measured(oid[],text[],bool)'::regprocedure::oid, \
     'turbo.fn_measured_every(oid[])'::regprocedure::oid \
     WHERE current_setting('server_version_num')::int < 180000";
const EVENT_TRIGGERS: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D')";
const SET_RETURNING: &str = "SELECT DISTINCT proname::text FROM pg_catalog.pg_proc WHERE proretset AND oid < 16384";
const UNSAFE_SYSTEM_OIDS: &str = "SELECT oid FROM pg_catalog.pg_proc \
     WHERE pronamespace = 'pg_catalog'::regnamespace AND proname::text = ANY ($1)";
const OWN_EQUALITY: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_operator o WHERE o.oid >= 16384 AND o.oprname = '=' \
     AND (o.oprleft IN (2950, 25, 1042, 1043) OR o.oprright IN (2950, 25, 1042, 1043)))";
const OPERATORS: &str = "SELECT o.oprname::text, p.proname::text FROM pg_catalog.pg_operator o \
     JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode WHERE o.oid >= 16384";
const IMPLICIT_FUNCTIONS: &str = "SELECT p.proname::text FROM pg_catalog.pg_cast c JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc \
     WHERE p.oid >= 16384";
const TRIGGERS: &str = "SELECT t.tgrelid, p.proname::text, t.tgtype::int4, t.tgdeferrable, t.oid FROM pg_catalog.pg_trigger t \
     JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY t.tgrelid, t.tgname";
const FOREIGN_KEYS: &str = "SELECT k.confrelid, k.conrelid, k.confdeltype IN ('c', 'n', 'd'), k.confupdtype IN ('c', 'n', 'd') \
     FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))";
const DOMAIN_TABLES: &str = "SELECT table_name FROM turbo.tb_domain_table";
/// As in `turbo.fn_redefined`.
const ASKS_POLICIES: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_policy p \
     JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_policy'::regclass AND d.objid = p.oid \
     WHERE d.refobjid >= 16384 AND NOT (d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = p.polrelid))";
const CASCADES: &str = "SELECT source_domain, target_domain FROM turbo.tb_domain_cascade ORDER BY 1, 2";

fn calls_row(row: &tokio_postgres::Row) -> Result<Calls, tokio_postgres::Error> {
    Ok(Calls { bump: row.try_get(0)?, measured: row.try_get(1)?, measured_every: row.try_get(2)? })
}

fn function_row(row: &tokio_postgres::Row) -> Result<FunctionRow, tokio_postgres::Error> {
    Ok(FunctionRow {
        schema: row.try_get(0)?,
        name: row.try_get(1)?,
        language: row.try_get(2)?,
        body: row.try_get(3)?,
        volatile: row.try_get(4)?,
        extension: row.try_get(5)?,
        oid: row.try_get(6)?,
        set_returning: row.try_get(7)?,
        other_rights: row.try_get(8)?,
    })
}

fn relation_row(row: &tokio_postgres::Row) -> Result<RelationRow, tokio_postgres::Error> {
    let kind: String = row.try_get(3)?;
    Ok(RelationRow {
        oid: row.try_get(0)?,
        schema: row.try_get(1)?,
        name: row.try_get(2)?,
        kind: kind.chars().next().unwrap_or(' '),
        temporary: row.try_get(4)?,
        parents: row.try_get(5)?,
        domain_override: row.try_get(6)?,
        columns: row.try_get(7)?,
        types: row.try_get(8)?,
        has_rules: row.try_get(9)?,
        read_expressions: row.try_get(10)?,
        write_expressions: row.try_get(11)?,
        triggers: Vec::new(),
        cascades: Vec::new(),
    })
}

async fn with_triggers_and_cascades(
    client: &Client,
    relations: &[tokio_postgres::Row],
) -> Result<Vec<RelationRow>, tokio_postgres::Error> {
    let mut triggers: HashMap<u32, Vec<TriggerRow>> = HashMap::new();
    for row in client.query(TRIGGERS, &[]).await? {
        let trigger = TriggerRow {
            function: row.try_get(1)?,
            events: row.try_get(2)?,
            deferrable: row.try_get(3)?,
            oid: row.try_get(4)?,
        };
        triggers.entry(row.try_get(0)?).or_default().push(trigger);
    }
    let mut cascades: HashMap<u32, Vec<CascadeRow>> = HashMap::new();
    for row in client.query(FOREIGN_KEYS, &[]).await? {
        let cascade = CascadeRow { child: row.try_get(1)?, on_delete: row.try_get(2)?, on_update: row.try_get(3)? };
        cascades.entry(row.try_get(0)?).or_default().push(cascade);
    }
    let complete = |row| {
        let mut relation = relation_row(row)?;
        relation.triggers = triggers.remove(&relation.oid).unwrap_or_default();
        relation.cascades = cascades.remove(&relation.oid).unwrap_or_default();
        Ok(relation)
    };
    relations.iter().map(complete).collect()
}
