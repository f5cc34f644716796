//! The `turbo` schema: versioned migrations, what is declared in it, the fold worker.

pub mod audit;
pub mod fold;
pub mod handover;

use std::fmt;

use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// One step of the tables, applied in a transaction of its own, frozen once released.
struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
    /// Checksums of other texts that have made the same tables.
    former: &'static [&'static str],
}

const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "tables",
        sql: include_str!("migrations/0001_tables.sql"),
        // Commit 3bc8d0b: with functions, which are files of their own since.
        former: &["666c3c74389b3cad5f3166cee38d5921ca17b086509de74f52bb7f7a0b9ff675"],
    },
    Migration { version: 2, name: "hardened", sql: include_str!("migrations/0002_hardened.sql"), former: &[] },
];

/// Functions, views and grants by topic, in this order: made anew where their texts differ from what is installed.
const FUNCTIONS: &[(&str, &str)] = &[
    ("tracked", include_str!("functions/tracked.sql")),
    ("bump", include_str!("functions/bump.sql")),
    ("read", include_str!("functions/read.sql")),
    ("measure", include_str!("functions/measure.sql")),
    ("audit", include_str!("functions/audit.sql")),
    ("fold", include_str!("functions/fold.sql")),
    ("grants", include_str!("functions/grants.sql")),
];

/// Version of the tables that this program works with.
pub const SCHEMA_VERSION: i32 = 2;

/// Counts what the program asks of the functions: it works with this number only.
const COMPATIBILITY: i32 = 1;

/// In its place while the schema is about to be removed.
const RETIRED: i32 = -1;

/// What is in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaState {
    /// No schema `turbo`.
    Absent,
    /// Of this program's version.
    Current,
    /// The tables are of this program's version, and its functions work, but their text is another one.
    Compatible,
    /// Of an older version.
    Older(i32),
    /// Of a newer version.
    Newer(i32),
    /// It is about to be removed: nobody works with it any more.
    Retired,
    /// A schema of that name that Turnstile did not make.
    Foreign,
    /// Its objects are there, but not what says of which version they are: a dump is being restored, or one without data was.
    Incomplete,
    /// Of this version by number, but not as this program would make it.
    Different(i32),
}

impl SchemaState {
    /// Whether this program can work with it.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        matches!(self, Self::Current | Self::Compatible)
    }
}

impl fmt::Display for SchemaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("schema turbo is not installed; run `turnstile install`"),
            Self::Current => write!(f, "schema turbo is installed, version {SCHEMA_VERSION}"),
            Self::Compatible => write!(
                f,
                "schema turbo is installed, version {SCHEMA_VERSION}, with functions of another build; `turnstile install` makes them this one's"
            ),
            Self::Older(version) => write!(
                f,
                "schema turbo has version {version}, this turnstile works with {SCHEMA_VERSION}; run `turnstile install`, or serve with --install: versions stay"
            ),
            Self::Newer(version) => write!(
                f,
                "schema turbo has version {version}, made by a newer turnstile than this one ({SCHEMA_VERSION}); upgrade turnstile"
            ),
            Self::Retired => f.write_str(
                "schema turbo is being removed; if nobody does that any more, `turnstile install` keeps it, versions included",
            ),
            Self::Foreign => {
                f.write_str("there is a schema turbo that turnstile did not make; rename it, or use another database")
            }
            Self::Incomplete => f.write_str(
                "schema turbo is not complete: a dump is being restored, or was without its data; if nothing is being restored, DROP SCHEMA turbo CASCADE and run `turnstile install` (versions begin at 0 then)",
            ),
            Self::Different(version) => write!(
                f,
                "migration {version} of schema turbo was applied from another text than this turnstile's: it is of a development version that cannot be upgraded"
            ),
        }
    }
}

/// Why the schema cannot be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The server refused.
    #[error("{}", crate::catalog::control::pg_words(.0))]
    Server(#[from] tokio_postgres::Error),
    /// What is there must not be touched.
    #[error("{0}")]
    State(SchemaState),
    /// Objects of the application depend on the schema.
    #[error("these objects depend on schema turbo: {0}; drop them first")]
    InUse(String),
}

fn checksum<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    texts.for_each(|text| hash.update(text));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Migration {
    fn checksum(&self) -> String {
        checksum(std::iter::once(self.sql))
    }

    fn made(&self, applied: &str) -> bool {
        self.former.contains(&applied) || self.checksum() == applied
    }
}

fn functions_checksum() -> String {
    checksum(FUNCTIONS.iter().map(|(_, sql)| *sql))
}

/// Looks what is there.
///
/// # Errors
/// Of the connection.
pub async fn state(client: &Client) -> Result<SchemaState, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT pg_catalog.to_regnamespace('turbo') IS NOT NULL, \
                    pg_catalog.to_regclass('turbo.tb_schema_migration') IS NOT NULL, \
                    pg_catalog.to_regclass('turbo.tb_schema_code') IS NOT NULL, \
                    pg_catalog.to_regclass('turbo.tb_bump') IS NOT NULL",
            &[],
        )
        .await?;
    let (schema, migrations, code, log): (bool, bool, bool, bool) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
    match (schema, migrations) {
        (false, _) => return Ok(SchemaState::Absent),
        (true, false) if log => return Ok(SchemaState::Incomplete),
        (true, false) => return Ok(SchemaState::Foreign),
        (true, true) => {}
    }
    let applied = client.query("SELECT version, checksum FROM turbo.tb_schema_migration ORDER BY version", &[]).await?;
    let mut last = 0;
    for row in &applied {
        last = row.try_get(0)?;
        let applied: String = row.try_get(1)?;
        let known = MIGRATIONS.iter().find(|migration| migration.version == last);
        if known.is_some_and(|migration| !migration.made(&applied)) {
            return Ok(SchemaState::Different(last));
        }
    }
    match last.cmp(&SCHEMA_VERSION) {
        _ if last == 0 => return Ok(SchemaState::Incomplete),
        std::cmp::Ordering::Less => return Ok(SchemaState::Older(last)),
        std::cmp::Ordering::Greater => return Ok(SchemaState::Newer(last)),
        std::cmp::Ordering::Equal => {}
    }
    if !code {
        return Ok(SchemaState::Incomplete);
    }
    let Some(row) = client.query_opt("SELECT compatibility, checksum FROM turbo.tb_schema_code", &[]).await? else {
        return Ok(SchemaState::Incomplete);
    };
    let (compatibility, checksum): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
    if compatibility == RETIRED {
        return Ok(SchemaState::Retired);
    }
    Ok(match compatibility.cmp(&COMPATIBILITY) {
        std::cmp::Ordering::Less => SchemaState::Older(last),
        std::cmp::Ordering::Greater => SchemaState::Newer(last),
        std::cmp::Ordering::Equal if checksum == functions_checksum() => SchemaState::Current,
        std::cmp::Ordering::Equal => SchemaState::Compatible,
    })
}

/// What the installed texts rely on, whatever the role's and the database's settings are.
const INSTALL_SETTINGS: &str = "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL standard_conforming_strings = on; \
     SET LOCAL client_min_messages = warning; SET LOCAL default_tablespace = ''; \
     SET LOCAL default_table_access_method = heap; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'";

/// Installs or upgrades; does nothing when the schema is current. Safe to run at the same time. Behind it the Turnstiles that
/// serve the database work with it.
///
/// # Errors
/// [`SchemaError`]; the schema is then as it was.
pub async fn install(client: &Client) -> Result<(), SchemaError> {
    install_only(client).await?;
    Ok(handover::until_all(client, true).await?)
}

/// The same without waiting for others.
///
/// # Errors
/// [`SchemaError`]; the schema is then as it was.
pub async fn install_only(client: &Client) -> Result<(), SchemaError> {
    match install_once(client).await {
        // Somebody else has just made it.
        Err(SchemaError::Server(error))
            if matches!(error.code(), Some(&SqlState::UNIQUE_VIOLATION | &SqlState::DUPLICATE_SCHEMA)) =>
        {
            install_once(client).await
        }
        result => result,
    }
}

/// Lets these roles alone read versions, tenants, and who wrote when; `PUBLIC` is everybody.
///
/// # Errors
/// Of the server: a role that does not exist, a schema of another owner. Nothing has changed then.
pub async fn set_readers(client: &Client, roles: &[String]) -> Result<(), SchemaError> {
    client.execute("SELECT turbo.fn_set_readers($1)", &[&roles]).await?;
    Ok(())
}

async fn install_once(client: &Client) -> Result<(), SchemaError> {
    client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
    let installed = async {
        client.batch_execute(INSTALL_SETTINGS).await?;
        install_in_transaction(client).await
    };
    match installed.await {
        Ok(()) => Ok(client.batch_execute("COMMIT").await?),
        Err(error) => {
            client.batch_execute("ROLLBACK").await?;
            Err(error)
        }
    }
}

async fn install_in_transaction(client: &Client) -> Result<(), SchemaError> {
    let mut before = state(client).await?;
    if matches!(before, SchemaState::Older(_) | SchemaState::Compatible | SchemaState::Retired) {
        // One at a time; what another one did meanwhile is seen behind it.
        client.batch_execute("LOCK TABLE turbo.tb_schema_migration IN EXCLUSIVE MODE").await?;
        before = state(client).await?;
    }
    let from = match before {
        SchemaState::Current => return Ok(()),
        SchemaState::Absent => {
            client
                .batch_execute(
                    "CREATE SCHEMA turbo; \
                     COMMENT ON SCHEMA turbo IS 'Versions of domains, kept by Turnstile.'; \
                     CREATE TABLE turbo.tb_schema_migration (version int PRIMARY KEY, name text NOT NULL, \
                       checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(), \
                       applied_by text NOT NULL DEFAULT current_user); \
                     GRANT ALL ON turbo.tb_schema_migration TO CURRENT_USER",
                )
                .await?;
            0
        }
        SchemaState::Compatible | SchemaState::Retired => SCHEMA_VERSION,
        SchemaState::Older(version) => version,
        other => return Err(SchemaError::State(other)),
    };
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > from) {
        client.batch_execute(migration.sql).await?;
        client
            .execute(
                "INSERT INTO turbo.tb_schema_migration (version, name, checksum) VALUES ($1, $2, $3)",
                &[&migration.version, &migration.name, &migration.checksum()],
            )
            .await?;
    }
    for (_, sql) in FUNCTIONS {
        client.batch_execute(sql).await?;
    }
    client
        .batch_execute("GRANT ALL ON turbo.tb_schema_code TO CURRENT_USER; DELETE FROM turbo.tb_schema_code WHERE true")
        .await?;
    client
        .execute(
            "INSERT INTO turbo.tb_schema_code (compatibility, checksum) VALUES ($1, $2)",
            &[&COMPATIBILITY, &functions_checksum()],
        )
        .await?;
    Ok(())
}

/// Removes the schema and all versions, once nobody works with it any more.
///
/// # Errors
/// [`SchemaError::InUse`] when views or functions of the application depend on it.
pub async fn uninstall(client: &Client) -> Result<(), SchemaError> {
    match state(client).await? {
        SchemaState::Absent => return Ok(()),
        SchemaState::Foreign => return Err(SchemaError::State(SchemaState::Foreign)),
        _ => {}
    }
    let dependents = client
        .query(
            "SELECT DISTINCT c.oid::pg_catalog.regclass::text FROM pg_catalog.pg_depend d \
               JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.oid = d.objid \
               JOIN pg_catalog.pg_class c ON c.oid = r.ev_class \
               LEFT JOIN pg_catalog.pg_class t ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND t.oid = d.refobjid \
               LEFT JOIN pg_catalog.pg_proc f ON d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND f.oid = d.refobjid \
              WHERE coalesce(t.relnamespace, f.pronamespace) = 'turbo'::pg_catalog.regnamespace \
                AND c.relnamespace <> 'turbo'::pg_catalog.regnamespace",
            &[],
        )
        .await?;
    if !dependents.is_empty() {
        let names: Result<Vec<String>, _> = dependents.iter().map(|row| row.try_get(0)).collect();
        return Err(SchemaError::InUse(names?.join(", ")));
    }
    let retired = format!("UPDATE turbo.tb_schema_code SET compatibility = {RETIRED}");
    // Of an older version nobody of ours makes use.
    let retires = state(client).await?.is_usable();
    if retires {
        client.batch_execute(&retired).await?;
        handover::until_all(client, false).await?;
        handover::until_transactions_end(client).await?;
    }
    Ok(client.batch_execute("DROP SCHEMA turbo CASCADE").await?)
}

/// Writes what the configuration declares into the schema, where every Turnstile and the bump
/// function find it. What is there stays.
///
/// # Errors
/// Of the connection.
pub async fn declare(
    client: &Client,
    domains: &[(String, String)],
    cascades: &[(String, String)],
) -> Result<(), tokio_postgres::Error> {
    for (table, domain) in domains {
        client
            .execute(
                "INSERT INTO turbo.tb_domain_table (table_name, domain) VALUES ($1, $2) \
                 ON CONFLICT (table_name) DO UPDATE SET domain = excluded.domain \
                 WHERE tb_domain_table.domain <> excluded.domain",
                &[table, domain],
            )
            .await?;
    }
    for (source, target) in cascades {
        client
            .execute(
                "INSERT INTO turbo.tb_domain_cascade (source_domain, target_domain) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                &[source, target],
            )
            .await?;
    }
    Ok(())
}

/// Makes domains known, so that readers find version 0.
///
/// # Errors
/// Of the connection.
pub async fn register_domains(client: &Client, domains: &[String]) -> Result<(), tokio_postgres::Error> {
    client
        .execute(
            "INSERT INTO turbo.tb_domain (domain) SELECT d FROM pg_catalog.unnest($1::text[]) d \
              WHERE NOT EXISTS (SELECT FROM turbo.tb_domain k WHERE k.domain = d) ON CONFLICT DO NOTHING",
            &[&domains],
        )
        .await?;
    Ok(())
}

/// Publications that take in tables of the schema, each with how it does: a subscriber without the schema stops at the first
/// change of one of them.
///
/// # Errors
/// Of the connection.
pub async fn published_by(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT DISTINCT p.pubname::text FROM pg_catalog.pg_publication p \
               LEFT JOIN pg_catalog.pg_publication_tables t ON t.pubname = p.pubname AND t.schemaname = 'turbo' \
              WHERE p.puballtables OR t.tablename IS NOT NULL ORDER BY 1",
            &[],
        )
        .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Begins another incarnation where the former has ended, and says whether it did: see `turbo.fn_incarnation`.
///
/// # Errors
/// Of the connection.
pub async fn incarnate(client: &Client) -> Result<bool, tokio_postgres::Error> {
    client.query_one("SELECT turbo.fn_incarnate()", &[]).await?.try_get(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_gaps() {
        let versions: Vec<i32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(versions, (1..=SCHEMA_VERSION).collect::<Vec<_>>());
    }

    fn texts() -> impl Iterator<Item = &'static str> {
        MIGRATIONS.iter().map(|migration| migration.sql).chain(FUNCTIONS.iter().map(|(_, sql)| *sql))
    }

    /// A database may be in any encoding.
    #[test]
    fn what_we_install_is_ascii() {
        assert!(texts().all(str::is_ascii));
    }

    /// What runs with the caller's rights may call only what everybody may.
    #[test]
    fn what_clients_call_is_granted() {
        let grants = FUNCTIONS.iter().find(|(topic, _)| *topic == "grants").unwrap().1;
        let called = |text: &str| -> Vec<String> {
            let names = text.split("turbo.fn_").skip(1);
            names
                .map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap().to_owned())
                .collect()
        };
        let granted = called(grants);
        for text in texts() {
            for part in text.split("FUNCTION turbo.fn_").skip(1).filter(|part| part.contains("AS $function$")) {
                let name = part.split('(').next().unwrap();
                let head = part.split("AS $function$").next().unwrap();
                if !granted.iter().any(|granted| granted == name) || head.contains("SECURITY DEFINER") {
                    continue;
                }
                let body = part.split("$function$").nth(1).unwrap();
                let code: Vec<&str> = body.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
                for callee in called(&code.join("\n")) {
                    assert!(granted.contains(&callee), "fn_{name} calls fn_{callee}, which PUBLIC may not");
                }
            }
        }
    }

    #[test]
    fn what_we_install_is_qualified_and_pinned() {
        for text in texts() {
            for part in text.split("FUNCTION turbo.").skip(1).filter(|part| part.contains("AS $function$")) {
                let head = part.split("AS $function$").next().unwrap();
                if head.contains("SET search_path = pg_catalog, pg_temp") {
                    continue;
                }
                // What runs for every measured statement qualifies everything instead.
                assert!(!head.contains("SECURITY DEFINER"), "search_path is not fixed: {head}");
                let body = part.split("$function$").nth(1).unwrap();
                let code: Vec<&str> = body.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
                for operator in [
                    " + ",
                    " - ",
                    " || ",
                    " = ",
                    " <> ",
                    " > ",
                    "::text",
                    "::oid",
                    "::int",
                    "(current_setting",
                    " split_part",
                ] {
                    assert!(!code.join("\n").contains(operator), "{operator:?} is not qualified: {head}");
                }
            }
        }
    }
}
