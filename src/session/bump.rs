//! What we inject: the messages and the SQL text of bumps and measurements.
//!
//! Extended query: Close, Parse, Bind, Execute, Close, Close of *named* objects of ours. The first
//! Close costs nothing and removes what a failed injection may have left on the server connection
//! (its own Closes are skipped after an error; a pooler hands the connection on). Simple query:
//! text with a column name that no client knows, by which its replies are found.

use std::sync::Arc;

use uuid::Uuid;

use crate::catalog::{Calls, Scope, text_array};
use crate::effect::keys::{Key, KnownKeys};
use crate::wire::encode;

/// Messages of one injected group that the server answers with CloseComplete.
pub const GROUP_CLOSES: u8 = 3;

const TEXT_ARRAY: u32 = 1009;
const INT4_ARRAY: u32 = 1007;
const INT8_ARRAY: u32 = 1016;
const OID_ARRAY: u32 = 1028;
const TEXT: u32 = 25;
const INT8: u32 = 20;
const BOOL: u32 = 16;
const UUID: u32 = 2950;

/// A tenant to bump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BumpTenant {
    /// All tenants.
    All,
    /// The one that the session setting names on the server.
    Session,
    /// This one.
    Id(Uuid),
}

/// What one statement touches: sorted, each pair once.
pub type Effect = Arc<[(String, BumpTenant)]>;

/// Effects with the number of statements that had them.
pub type Bumps = [(Effect, u64)];

/// The only pair of some bumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct One<'a> {
    /// Domain.
    pub domain: &'a str,
    /// Tenant, `None` for all of them.
    pub tenant: Option<Uuid>,
    /// Statements that bumped it.
    pub statements: u64,
}

impl<'a> One<'a> {
    /// Where there is just one, and its tenant is said.
    #[must_use]
    pub fn of(bumps: &'a Bumps) -> Option<Self> {
        let [(effect, statements)] = bumps else { return None };
        let [(domain, tenant)] = &**effect else { return None };
        let tenant = match tenant {
            BumpTenant::All => None,
            BumpTenant::Id(tenant) => Some(*tenant),
            BumpTenant::Session => return None,
        };
        Some(Self { domain, tenant, statements: *statements })
    }

    /// What readers will be able to see.
    #[must_use]
    pub fn key(&self) -> Key {
        Key { tenant: self.tenant, domain: self.domain.into() }
    }

    /// Whether the database need not look for it.
    #[must_use]
    pub fn is_known(&self, keys: Option<&KnownKeys>) -> bool {
        keys.is_some_and(|keys| keys.has(self.tenant, self.domain))
    }

    fn parameters<'b>(
        &'b self,
        tenant: Option<&'b str>,
        statements: &'b str,
        known: bool,
        condition: Condition,
    ) -> [Option<&'b str>; 5] {
        let known = if known { "true" } else { "false" };
        [tenant, Some(self.domain), Some(statements), Some(known), Some(condition.sql())]
    }
}

/// Whether a bump is conditional.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    Always,
    /// Only when the transaction has written something: it began with the statement.
    IfWritten,
    /// Only when the counters moved since the measurement began.
    IfMoved,
}

impl Condition {
    const fn sql(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::IfWritten => "written",
            // Another function says it: `turbo.fn_bump_if_moved`.
            Self::IfMoved => "moved",
        }
    }
}

/// Makes injections; one for each session.
#[derive(Debug, Clone)]
pub struct Injector {
    /// Name of our statement, portal and result column: unknown to clients.
    name: String,
    /// `{app.tenant_id,…}` where unsaid tenants are taken from a session setting, else `{}`.
    settings: String,
}

/// Which relations a measurement looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looks {
    /// Those that the statement may write.
    Scope(Arc<Scope>),
    /// All that are tracked (OIDs), and those that are new. Their domains are for the server to say: it knows of renames
    /// that the catalog has not seen yet.
    Every(Arc<str>),
    /// All that the server finds: what is known here may be old.
    Server,
}

/// What a measurement has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// Relations.
    pub looks: Looks,
    /// Relations with deferrable triggers that may write, as an array of OIDs in PostgreSQL's syntax.
    pub deferred: Arc<str>,
    /// All deferrable triggers, the same way.
    pub triggers: Arc<str>,
    /// Which part of the statement runs.
    pub portion: Portion,
    /// What is compared.
    pub baseline: Baseline,
    /// The catalog is the server's, readers know its domains, and no bump cascades.
    pub flat: bool,
    /// Whatever the session's tenant setting says.
    pub unbound: bool,
}

/// What a measurement compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// What `turbo.fn_measure_begin` has remembered.
    Remembered,
    /// Counters of 0: they began anew with the transaction, and nothing has moved them.
    Zero,
}

/// How much of its statement one Execute runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Portion {
    /// All of it.
    Whole,
    /// The first rows.
    First,
    /// More rows of the same portal.
    Next,
}

impl Portion {
    const fn sql(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::First => "first",
            Self::Next => "next",
        }
    }
}

impl Measured {
    /// OIDs in PostgreSQL's syntax; `None`: for the server to find.
    #[must_use]
    pub fn relations(&self) -> Option<&str> {
        match &self.looks {
            Looks::Scope(scope) => Some(&scope.relations),
            Looks::Every(relations) => Some(relations),
            Looks::Server => None,
        }
    }

    /// Deferrable triggers that are known, where there may be others.
    fn triggers(&self) -> Option<&str> {
        (self.looks == Looks::Server).then_some(&*self.triggers)
    }

    fn domains(&self) -> &str {
        match &self.looks {
            Looks::Scope(scope) => &scope.domains,
            Looks::Every(_) | Looks::Server => "{}",
        }
    }

    fn scope(&self) -> &'static str {
        match &self.looks {
            Looks::Scope(scope) if !scope.parted => "these",
            Looks::Scope(_) => "parts",
            Looks::Every(_) | Looks::Server => "every",
        }
    }

    /// Whether what moved is all that is to be bumped, without a cascade and for all tenants. `settings`: those that a bump's
    /// tenant may come from.
    fn is_bare(&self, settings: &str) -> bool {
        self.flat && &*self.deferred == "{}" && self.portion == Portion::Whole && settings == "{}"
    }

    /// Whether the log may be written without a further look, too: see `turbo.fn_measure_end`.
    fn is_plain(&self, settings: &str) -> bool {
        matches!(&self.looks, Looks::Scope(scope) if scope.domains != "{}") && self.is_bare(settings)
    }

    /// The function that measures from counters of 0, where one measures all there is.
    fn direct_call(&self, settings: &str) -> Option<FromZero<'_>> {
        if self.baseline != Baseline::Zero || !self.is_bare(settings) {
            return None;
        }
        match &self.looks {
            Looks::Scope(scope) if scope.domains != "{}" => Some(FromZero::These(scope)),
            Looks::Every(relations) => Some(FromZero::Every(relations)),
            Looks::Scope(_) | Looks::Server => None,
        }
    }

    /// The counters that stand for those of before.
    const fn before(&self) -> Option<&'static str> {
        match self.baseline {
            Baseline::Remembered => None,
            Baseline::Zero => Some("0/0/,"),
        }
    }

    fn relations_sql(&self) -> String {
        self.relations().map_or_else(|| "NULL".to_owned(), literal)
    }
}

/// A measurement that begins with counters of 0.
#[derive(Debug, Clone, Copy)]
enum FromZero<'a> {
    /// Of these relations: `turbo.fn_measured`.
    These(&'a Scope),
    /// Of all tracked ones: `turbo.fn_measured_every`.
    Every(&'a str),
}

impl<'a> FromZero<'a> {
    const fn sql(self) -> &'static str {
        match self {
            Self::These(_) => "SELECT turbo.fn_measured($1, $2, $3)",
            Self::Every(_) => "SELECT turbo.fn_measured_every($1)",
        }
    }

    const fn types(self) -> &'static [u32] {
        match self {
            Self::These(_) => &[OID_ARRAY, TEXT_ARRAY, BOOL],
            Self::Every(_) => &[OID_ARRAY],
        }
    }

    const fn function(self, calls: Calls) -> u32 {
        match self {
            Self::These(_) => calls.measured,
            Self::Every(_) => calls.measured_every,
        }
    }

    /// As many as there are types.
    fn parameters(self) -> [Option<&'a str>; 3] {
        match self {
            Self::These(scope) => {
                let parts = if scope.parted { "true" } else { "false" };
                [Some(&scope.relations), Some(&scope.domains), Some(parts)]
            }
            Self::Every(relations) => [Some(relations), None, None],
        }
    }
}

/// What an audit expects.
#[derive(Debug)]
pub struct Audit<'a> {
    /// Tracked relations, as an array of OIDs in PostgreSQL's syntax.
    pub relations: &'a str,
    /// Domains that the analysis said, as a text array.
    pub expected: String,
    /// They must have moved.
    pub sure: bool,
    /// Of the statement.
    pub fingerprint: &'a str,
}

impl<'a> Audit<'a> {
    /// Of a statement with this effect.
    #[must_use]
    pub fn new(relations: &'a str, effect: &[(String, BumpTenant)], sure: bool, fingerprint: &'a str) -> Self {
        let mut domains: Vec<&str> = effect.iter().map(|(domain, _)| domain.as_str()).collect();
        domains.dedup();
        Self { relations, expected: text_array(domains.into_iter()), sure, fingerprint }
    }
}

/// Text of the `summary` column of the log.
const SUMMARY: &str = "turnstile";

impl Injector {
    /// `name` must be an identifier that needs no quotes; `tenant_settings` are those that a bump of
    /// an unknown tenant may use (empty: all tenants).
    #[must_use]
    pub fn new(name: &str, tenant_settings: &[String]) -> Self {
        Self { name: name.to_owned(), settings: text_array(tenant_settings.iter().map(String::as_str)) }
    }

    /// Settings that name the tenant of what is measured.
    fn settings_of(&self, measured: &Measured) -> &str {
        if measured.unbound { "{}" } else { &self.settings }
    }

    /// The result column of our statements inside a client's text.
    #[must_use]
    pub fn column(&self) -> &[u8] {
        self.name.as_bytes()
    }

    /// Messages that remember the counters.
    #[must_use]
    pub fn measure_begin(&self, measured: &Measured) -> Vec<u8> {
        if measured.portion == Portion::Next {
            let parameters = [measured.relations(), Some("true")];
            return self.group_of("SELECT turbo.fn_measure_begin($1, $2)", &[OID_ARRAY, BOOL], &parameters);
        }
        self.group_of("SELECT turbo.fn_measure_begin($1)", &[OID_ARRAY], &[measured.relations()])
    }

    /// Messages that bump what moved.
    #[must_use]
    pub fn measure_end(&self, measured: &Measured) -> Vec<u8> {
        let settings = self.settings_of(measured);
        if let Some(call) = measured.direct_call(settings) {
            let parameters = call.parameters();
            return self.group_of(call.sql(), call.types(), parameters.get(..call.types().len()).unwrap_or_default());
        }
        self.group_of(
            "SELECT turbo.fn_measure_end($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[OID_ARRAY, TEXT_ARRAY, TEXT, TEXT_ARRAY, OID_ARRAY, TEXT, OID_ARRAY, BOOL, TEXT],
            &[
                measured.relations(),
                Some(measured.domains()),
                Some(measured.scope()),
                Some(settings),
                Some(&measured.deferred),
                Some(measured.portion.sql()),
                measured.triggers(),
                Some(if measured.is_plain(settings) { "true" } else { "false" }),
                measured.before(),
            ],
        )
    }

    /// A FunctionCall that measures, where one can; it ends the transaction, as [`Injector::call`] does.
    #[must_use]
    pub fn measure_call(&self, calls: Calls, measured: &Measured) -> Option<Vec<u8>> {
        let call = measured.direct_call(self.settings_of(measured))?;
        let parameters = call.parameters();
        let mut out = Vec::with_capacity(160);
        let parameters = parameters.get(..call.types().len()).unwrap_or_default();
        encode::function_call(call.function(calls), parameters, &mut out);
        Some(out)
    }

    /// Messages that compare what moved with what was expected.
    #[must_use]
    pub fn audit_end(&self, audit: &Audit<'_>) -> Vec<u8> {
        self.group(
            "SELECT turbo.fn_audit_end($1, $2, $3, $4)",
            &[OID_ARRAY, TEXT_ARRAY, BOOL, TEXT],
            &[audit.relations, &audit.expected, if audit.sure { "true" } else { "false" }, audit.fingerprint],
        )
    }

    /// The same as SQL.
    #[must_use]
    pub fn audit_end_sql(&self, audit: &Audit<'_>) -> String {
        let Audit { relations, expected, sure, fingerprint } = audit;
        format!(
            "SELECT turbo.fn_audit_end({}, {}, {sure}, {}) AS \"{}\"",
            literal(relations),
            literal(expected),
            literal(fingerprint),
            self.name
        )
    }

    /// Messages that begin a transaction where there is none, and do nothing.
    #[must_use]
    pub fn nothing(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode::parse(&self.name, "", &[], &mut out);
        encode::close_statement(&self.name, &mut out);
        out
    }

    /// Messages that bump every domain, so many times.
    #[must_use]
    pub fn bump_all(&self, times: u32) -> Vec<u8> {
        self.group("SELECT turbo.fn_bump_all($1, $2)", &[INT8, TEXT], &[&times.to_string(), SUMMARY])
    }

    /// A FunctionCall that bumps one pair: it needs no parsing and no plan, but ends the transaction if there is no block.
    #[must_use]
    pub fn call(function: u32, one: &One<'_>, known: bool, condition: Condition) -> Vec<u8> {
        let (tenant, statements) = (one.tenant.map(|tenant| tenant.to_string()), one.statements.to_string());
        let mut out = Vec::with_capacity(160);
        encode::function_call(function, &one.parameters(tenant.as_deref(), &statements, known, condition), &mut out);
        out
    }

    /// Messages that bump.
    #[must_use]
    pub fn bump(&self, bumps: &Bumps, condition: Condition, keys: Option<&KnownKeys>) -> Vec<u8> {
        if let Some(one) = One::of(bumps).filter(|_| condition != Condition::IfMoved) {
            let (tenant, statements) = (one.tenant.map(|tenant| tenant.to_string()), one.statements.to_string());
            let known = one.is_known(keys);
            return self.group_of(
                "SELECT turbo.fn_bump_one($1, $2, $3, $4, $5)",
                &[UUID, TEXT, INT8, BOOL, TEXT],
                &one.parameters(tenant.as_deref(), &statements, known, condition),
            );
        }
        let arrays = Arrays::new(bumps);
        self.group(
            "SELECT turbo.fn_bump($1, $2, $3, $4, $5, $6, $7)",
            &[INT4_ARRAY, INT8_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT, TEXT],
            &[
                &arrays.groups,
                &arrays.statements,
                &arrays.tenants,
                &arrays.domains,
                &self.settings,
                condition.sql(),
                SUMMARY,
            ],
        )
    }

    fn group(&self, sql: &str, types: &[u32], parameters: &[&str]) -> Vec<u8> {
        let parameters: Vec<Option<&str>> = parameters.iter().copied().map(Some).collect();
        self.group_of(sql, types, &parameters)
    }

    fn group_of(&self, sql: &str, types: &[u32], parameters: &[Option<&str>]) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        encode::close_statement(&self.name, &mut out);
        encode::parse(&self.name, sql, types, &mut out);
        encode::bind(&self.name, &self.name, parameters, &mut out);
        encode::execute(&self.name, &mut out);
        encode::close_portal(&self.name, &mut out);
        encode::close_statement(&self.name, &mut out);
        out
    }

    /// SQL that remembers the counters.
    #[must_use]
    pub fn measure_begin_sql(&self, measured: &Measured) -> String {
        format!("SELECT turbo.fn_measure_begin({}) AS \"{}\"", measured.relations_sql(), self.name)
    }

    /// SQL that bumps what moved.
    #[must_use]
    pub fn measure_end_sql(&self, measured: &Measured) -> String {
        let settings = self.settings_of(measured);
        if let Some(call) = measured.direct_call(settings) {
            let words: Vec<String> = call.parameters().into_iter().flatten().map(literal).collect();
            let (function, _) = call.sql().split_once('(').unwrap_or_default();
            return format!("{function}({}) AS \"{}\"", words.join(", "), self.name);
        }
        format!(
            "SELECT turbo.fn_measure_end({}, {}, {}, {}, {}{}{}{}) AS \"{}\"",
            measured.relations_sql(),
            literal(measured.domains()),
            literal(measured.scope()),
            literal(settings),
            literal(&measured.deferred),
            measured.triggers().map(|known| format!(", triggers => {}", literal(known))).unwrap_or_default(),
            if measured.is_plain(settings) { ", plain => true" } else { "" },
            measured.before().map(|counters| format!(", before => {}", literal(counters))).unwrap_or_default(),
            self.name
        )
    }

    /// SQL that bumps; `relations`: those whose counters decide, where they do.
    #[must_use]
    pub fn bump_sql(&self, bumps: &Bumps, condition: Condition, relations: &str, keys: Option<&KnownKeys>) -> String {
        if let Some(one) = One::of(bumps).filter(|_| condition != Condition::IfMoved) {
            return format!(
                "SELECT turbo.fn_bump_one({}, {}, '{}', '{}', {}) AS \"{}\"",
                one.tenant.map_or_else(|| "NULL".to_owned(), |tenant| format!("'{tenant}'")),
                literal(one.domain),
                one.statements,
                one.is_known(keys),
                literal(condition.sql()),
                self.name
            );
        }
        let arrays = Arrays::new(bumps);
        let (function, last) = match condition {
            Condition::IfMoved => ("fn_bump_if_moved", literal(relations)),
            Condition::Always | Condition::IfWritten => {
                ("fn_bump", format!("{}, {}", literal(condition.sql()), literal(SUMMARY)))
            }
        };
        format!(
            "SELECT turbo.{function}({}, {}, {}, {}, {}, {last}) AS \"{}\"",
            literal(&arrays.groups),
            literal(&arrays.statements),
            literal(&arrays.tenants),
            literal(&arrays.domains),
            literal(&self.settings),
            self.name
        )
    }
}

/// The parallel arrays of `turbo.fn_bump`.
struct Arrays {
    groups: String,
    statements: String,
    tenants: String,
    domains: String,
}

impl Arrays {
    fn new(bumps: &Bumps) -> Self {
        let rows = || {
            bumps
                .iter()
                .enumerate()
                .flat_map(|(group, (effect, count))| effect.iter().map(move |pair| (group, count, pair)))
        };
        let join = |items: Vec<String>| format!("{{{}}}", items.join(","));
        Self {
            groups: join(rows().map(|(group, ..)| group.to_string()).collect()),
            statements: join(rows().map(|(_, count, _)| count.to_string()).collect()),
            tenants: text_array(
                rows().map(|(_, _, (_, tenant))| tenant_text(tenant)).collect::<Vec<_>>().iter().map(String::as_str),
            ),
            domains: text_array(rows().map(|(_, _, (domain, _))| domain.as_str())),
        }
    }
}

fn tenant_text(tenant: &BumpTenant) -> String {
    match tenant {
        BumpTenant::All => String::new(),
        BumpTenant::Session => "@".into(),
        BumpTenant::Id(tenant) => tenant.to_string(),
    }
}

/// A string literal that means the same whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_rows() {
        assert_eq!(literal("a"), "'a'");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
        assert_eq!(text_array(["a", "b,c", "d\"e", "f\\g", ""].into_iter()), r#"{"a","b,c","d\"e","f\\g",""}"#);
    }

    #[test]
    fn bump_text() {
        let injector = Injector::new("_t1", &["app.tenant_id".into()]);
        let tenant = Uuid::from_u128(0xa0eebc99_9c0b_4ef8_bb6d_6bb9bd380a11);
        let effect: Effect = [("a".to_owned(), BumpTenant::Id(tenant)), ("b".to_owned(), BumpTenant::All)].into();
        assert_eq!(
            injector.bump_sql(
                &[(effect, 2), ([("c'".to_owned(), BumpTenant::Session)].into(), 1)],
                Condition::Always,
                "{}",
                None
            ),
            "SELECT turbo.fn_bump('{0,0,1}', '{2,2,1}', '{\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\",\"\",\"@\"}', \
             '{\"a\",\"b\",\"c''\"}', '{\"app.tenant_id\"}', 'always', 'turnstile') AS \"_t1\""
        );
        assert_eq!(
            Injector::new("_t1", &[]).measure_end_sql(&Measured {
                looks: Looks::Every("{16385}".into()),
                deferred: "{7}".into(),
                triggers: "{8}".into(),
                portion: Portion::Whole,
                baseline: Baseline::Remembered,
                flat: true,
                unbound: false,
            }),
            "SELECT turbo.fn_measure_end('{16385}', '{}', 'every', '{}', '{7}') AS \"_t1\""
        );
    }
}
