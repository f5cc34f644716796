//! The `turbo` schema: versioned migrations, what is declared in it, the fold worker.

pub mod audit;
pub mod fold;

use std::fmt;

use sha2::{Digest, Sha256};
use tokio_postgres::Client;

/// One step of the schema, applied in a transaction of its own.
struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
}

const MIGRATIONS: &[Migration] =
    &[Migration { version: 1, name: "versions", sql: include_str!("migrations/0001_versions.sql") }];

/// Version of the schema that this program works with.
pub const SCHEMA_VERSION: i32 = 1;

/// What is in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaState {
    /// No schema `turbo`.
    Absent,
    /// Of this program's version.
    Current,
    /// Of an older version.
    Older(i32),
    /// Of a newer version.
    Newer(i32),
    /// A schema of that name that Turnstile did not make.
    Foreign,
    /// Of this version by number, but not as this program would make it.
    Different(i32),
}

impl fmt::Display for SchemaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("schema turbo is not installed; run `turnstile install`"),
            Self::Current => write!(f, "schema turbo is installed, version {SCHEMA_VERSION}"),
            Self::Older(version) => write!(
                f,
                "schema turbo has version {version}, this turnstile works with {SCHEMA_VERSION}; run `turnstile install`, or serve with --install"
            ),
            Self::Newer(version) => write!(
                f,
                "schema turbo has version {version}, made by a newer turnstile than this one ({SCHEMA_VERSION}); upgrade turnstile"
            ),
            Self::Foreign => {
                f.write_str("there is a schema turbo that turnstile did not make; rename it, or use another database")
            }
            Self::Different(version) => write!(
                f,
                "migration {version} of schema turbo was applied from another text than this turnstile's; it is of a development version: uninstall and install again"
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

fn checksum(migration: &Migration) -> String {
    Sha256::digest(migration.sql).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Looks what is there.
///
/// # Errors
/// Of the connection.
pub async fn state(client: &Client) -> Result<SchemaState, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT pg_catalog.to_regnamespace('turbo') IS NOT NULL, pg_catalog.to_regclass('turbo.tb_schema_migration') IS NOT NULL",
            &[],
        )
        .await?;
    match (row.try_get(0)?, row.try_get(1)?) {
        (false, _) => return Ok(SchemaState::Absent),
        (true, false) => return Ok(SchemaState::Foreign),
        (true, true) => {}
    }
    let applied = client.query("SELECT version, checksum FROM turbo.tb_schema_migration ORDER BY version", &[]).await?;
    let mut last = 0;
    for row in &applied {
        last = row.try_get(0)?;
        let applied: String = row.try_get(1)?;
        let known = MIGRATIONS.iter().find(|migration| migration.version == last);
        if known.is_some_and(|migration| checksum(migration) != applied) {
            return Ok(SchemaState::Different(last));
        }
    }
    Ok(match last.cmp(&SCHEMA_VERSION) {
        std::cmp::Ordering::Less => SchemaState::Older(last),
        std::cmp::Ordering::Equal => SchemaState::Current,
        std::cmp::Ordering::Greater => SchemaState::Newer(last),
    })
}

/// Installs or upgrades; does nothing when the schema is current. Safe to run at the same time.
///
/// # Errors
/// [`SchemaError`]; the schema is then as it was.
pub async fn install(client: &Client) -> Result<(), SchemaError> {
    client.batch_execute("BEGIN; SELECT pg_catalog.pg_advisory_xact_lock(5282, 1)").await?;
    match install_locked(client).await {
        Ok(()) => Ok(client.batch_execute("COMMIT").await?),
        Err(error) => {
            client.batch_execute("ROLLBACK").await?;
            Err(error)
        }
    }
}

async fn install_locked(client: &Client) -> Result<(), SchemaError> {
    let from = match state(client).await? {
        SchemaState::Current => return Ok(()),
        SchemaState::Absent => {
            client
                .batch_execute(
                    "CREATE SCHEMA turbo; \
                     COMMENT ON SCHEMA turbo IS 'Versions of domains, kept by Turnstile.'; \
                     CREATE TABLE turbo.tb_schema_migration (version int PRIMARY KEY, name text NOT NULL, \
                       checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(), \
                       applied_by text NOT NULL DEFAULT current_user)",
                )
                .await?;
            0
        }
        SchemaState::Older(version) => version,
        other => return Err(SchemaError::State(other)),
    };
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > from) {
        client.batch_execute(migration.sql).await?;
        client
            .execute(
                "INSERT INTO turbo.tb_schema_migration (version, name, checksum) VALUES ($1, $2, $3)",
                &[&migration.version, &migration.name, &checksum(migration)],
            )
            .await?;
    }
    Ok(())
}

/// Removes the schema and all versions.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_gaps() {
        let versions: Vec<i32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(versions, (1..=SCHEMA_VERSION).collect::<Vec<_>>());
    }

    #[test]
    fn what_we_install_is_qualified_and_pinned() {
        for migration in MIGRATIONS {
            for part in migration.sql.split("CREATE FUNCTION ").skip(1) {
                let head = part.split("AS $function$").next().unwrap();
                assert!(head.starts_with("turbo."), "not qualified: {head}");
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
