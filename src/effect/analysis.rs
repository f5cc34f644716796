//! The answers of write detection.

use std::sync::Arc;

use uuid::Uuid;

use super::copy::CopyPlan;
use super::unknown::UnknownReason;
use crate::catalog::{Catalog, Scope};

/// What an operator configured about writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectSettings {
    /// Name of the tenant column.
    pub tenant_column: String,
    /// Session settings that name the tenant, in order of preference.
    pub tenant_settings: Vec<String>,
    /// A statement cannot reach rows of another tenant than the session setting's (row-level
    /// security sees to it): bumps whose tenant the text does not say go to that tenant only.
    pub trust_tenant_setting: bool,
    /// Statements that text and catalog are sure of are measured too, and disagreements reported.
    pub audit: bool,
}

impl Default for EffectSettings {
    fn default() -> Self {
        Self {
            tenant_column: "tenant_id".into(),
            tenant_settings: ["app.tenant_id", "app.current_tenant_id", "app.current_tenant"].map(Into::into).into(),
            trust_tenant_setting: false,
            audit: false,
        }
    }
}

/// What an analysis depends on, besides the text.
#[derive(Debug, Clone, Copy)]
pub struct AnalysisContext<'a> {
    /// The database.
    pub catalog: &'a Catalog,
    /// Configuration.
    pub settings: &'a EffectSettings,
    /// The session's `standard_conforming_strings`.
    pub standard_conforming_strings: bool,
}

/// Statements of one text, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Analysis {
    /// Statements; empty when the text holds none.
    pub statements: Vec<Statement>,
    /// The server refuses the whole text before it runs any of it; nothing may be added to it.
    pub refused: bool,
    /// The text was not looked into: `statements` holds one entry that stands for all of it.
    pub opaque: bool,
}

impl Analysis {
    /// Of these statements.
    #[must_use]
    pub const fn of(statements: Vec<Statement>) -> Self {
        Self { statements, refused: false, opaque: false }
    }

    /// Of a text that the server will refuse.
    #[must_use]
    pub const fn refused() -> Self {
        Self { statements: Vec::new(), refused: true, opaque: false }
    }

    /// Of a text of `bytes` bytes that nobody looked into.
    #[must_use]
    pub fn opaque(bytes: usize, reason: UnknownReason) -> Self {
        // It may be a COPY: no message of ours must get into its data.
        let kind = Kind::Measure(reason);
        let statement = Statement { span: (0, bytes), kind, copy_in: true, ..Statement::default() };
        Self { statements: vec![statement], refused: false, opaque: true }
    }

    /// The only statement of a text that has just one.
    #[must_use]
    pub fn single(&self) -> Option<&Statement> {
        match self.statements.as_slice() {
            [statement] => Some(statement),
            _ => None,
        }
    }

    /// Whether the text can be relayed without another look: reads, settings.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        self.statements.iter().all(|statement| statement.kind == Kind::Harmless && statement.is_plain())
    }
}

impl Statement {
    /// Nothing else about it matters than its kind.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        !self.reads_versions
            && !self.defines
            && !self.ddl
            && !self.copy_in
            && !self.changes_settings
            && self.forgets.is_none()
    }
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one statement")]
pub struct Statement {
    /// Where it stands in the text: first byte, byte behind the last.
    pub span: (usize, usize),
    /// What it does.
    pub kind: Kind,
    /// The tracked relations that it may write; `None`: any.
    pub scope: Option<Arc<Scope>>,
    /// Its fingerprint, when it is to be audited.
    pub audit: Option<Arc<str>>,
    /// It enters copy-in mode (COPY … FROM STDIN).
    pub copy_in: bool,
    /// It may read versions: bumps of this transaction must be there before it.
    pub reads_versions: bool,
    /// It may change the catalog.
    pub ddl: bool,
    /// It is a definition, also one on which no other statement's analysis depends: it writes system tables.
    pub defines: bool,
    /// The session's tenant setting does not say whose rows it changes, trusted or not.
    pub unbound: bool,
    /// The answer does not depend on the catalog.
    pub timeless: bool,
    /// It may change how strings are read (`standard_conforming_strings`, `client_encoding`).
    pub changes_settings: bool,
    /// Prepared statements that it makes or removes.
    pub forgets: Option<Forgets>,
}

/// Prepared statements whose names get another meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forgets {
    /// This one.
    One(String),
    /// All of them.
    All,
}

/// What a statement does, as far as versions go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Kind {
    /// Provably free of writes to tracked relations.
    #[default]
    Harmless,
    /// Writes exactly these domains.
    Write(Write),
    /// The server has to measure what it writes.
    Measure(UnknownReason),
    /// Begins or ends a transaction or a part of one.
    Control(Control),
    /// Refuses to run in a transaction block; writes no tracked relation.
    Alone,
    /// CALL or DO that may end the transaction it runs in; refuses a surrounding block then.
    MayCommit(UnknownReason),
    /// DECLARE of a cursor: runs nothing of its query, FETCH does.
    DeclareCursor {
        /// Its name.
        name: String,
        /// Its query is provably free of writes to tracked relations.
        harmless: bool,
    },
    /// FETCH or MOVE of a named cursor.
    Fetch(String),
}

/// Transaction control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// PREPARE TRANSACTION.
    Prepare,
    /// SAVEPOINT.
    Savepoint,
    /// RELEASE.
    Release,
    /// ROLLBACK TO.
    RollbackTo,
}

/// A write that is known exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Domains and tenants.
    pub touched: Vec<Touched>,
    /// How many rows it changes.
    pub rows: RowCount,
    /// When it changes no row, it assigns no transaction id either.
    pub leaves_no_trace_without_rows: bool,
    /// COPY FROM STDIN: where its rows say their tenants, which are more exact than `touched`.
    pub copy: Option<Arc<CopyPlan>>,
}

/// A domain that a write touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// Domain.
    pub domain: String,
    /// Tenants.
    pub tenants: Tenants,
    /// What decided about the tenants, for `explain`.
    pub rule: &'static str,
}

/// Tenants of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenants {
    /// All of them (or the relation knows none).
    All,
    /// The one that the session setting names.
    Session,
    /// These; never empty.
    These(Vec<Tenant>),
}

/// A tenant as a statement names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tenant {
    /// By literal.
    Known(Uuid),
    /// By the parameter of this number (from 1).
    Parameter {
        /// Number.
        number: u16,
        /// Cast or column type of the parameter when the client declares none.
        as_uuid: bool,
    },
}

/// How many rows a write changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowCount {
    /// At least one, if it succeeds.
    NotZero,
    /// What the command tag says.
    Tag,
}
