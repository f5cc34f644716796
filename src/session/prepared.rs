//! Prepared statements and portals: which analysis an Execute stands for.
//!
//! Names enter the maps when Parse or Bind is *sent* (later messages of a pipeline refer to them)
//! and leave again when the server did not accept it ([`Undo`]).

use std::sync::Arc;

use uuid::Uuid;

use super::bump::{BumpTenant, Effect};
use super::by_name::ByName;
use crate::catalog::Scope;
use crate::effect::cache::Analyzer;
use crate::effect::copy::CopyPlan;
use crate::effect::tenants::parse_uuid;
use crate::effect::unknown::UnknownReason;
use crate::effect::{Analysis, Control, Forgets, Kind, RowCount, Tenant, Tenants, Write};
use crate::limits;
use crate::wire::frontend::{Bind, BoundValue};

const UUID_TYPE: u32 = 2950;
const TEXT_TYPES: [u32; 4] = [25, 1042, 1043, 705];

/// A prepared statement.
#[derive(Debug)]
pub struct Prepared {
    /// As the client gave it.
    pub text: Box<[u8]>,
    /// OIDs of parameters, as the Parse gave them.
    pub types: Box<[u8]>,
    /// Of the text.
    pub analysis: Arc<Analysis>,
    /// Of the catalog that it was analysed with.
    pub generation: u64,
    /// The setting under which it was analysed.
    pub standard_conforming_strings: bool,
}

impl Prepared {
    /// A statement whose text was too long to look at.
    #[must_use]
    pub fn opaque(analysis: Analysis) -> Self {
        Self {
            text: Box::default(),
            types: Box::default(),
            analysis: Arc::new(analysis),
            generation: u64::MAX,
            standard_conforming_strings: true,
        }
    }

    /// The portal that a Bind makes of it, under today's catalog.
    #[must_use]
    pub fn portal(&self, analyzer: &Analyzer, bind: Option<&Bind<'_>>) -> Portal {
        let renewed;
        let analysis = if self.generation == analyzer.catalog.generation || self.generation == u64::MAX {
            &*self.analysis
        } else {
            renewed = analyzer.analyze(&self.text, self.standard_conforming_strings);
            &*renewed
        };
        let Some(statement) = analysis.single() else {
            // Empty, or several statements: the server refuses those.
            return Portal { timeless: true, ..Portal::default() };
        };
        let parameter_type = |number: u16| {
            let at = usize::from(number).saturating_sub(1) * 4;
            self.types.get(at..at + 4).and_then(|oid| oid.try_into().ok()).map_or(0, u32::from_be_bytes)
        };
        Portal {
            act: Act::of(&statement.kind, |tenant| resolve(tenant, bind, parameter_type)),
            scope: statement.scope.clone(),
            audit: statement.audit.clone(),
            copy_in: statement.copy_in,
            reads_versions: statement.reads_versions,
            ddl: statement.ddl,
            defines: statement.defines,
            timeless: statement.timeless,
            unbound: statement.unbound,
            generation: analyzer.catalog.generation,
            changes_settings: statement.changes_settings,
            forgets: statement.forgets.clone(),
            executed: false,
        }
    }

    fn bytes(&self) -> usize {
        self.text.len() + self.types.len()
    }
}

/// A portal.
#[derive(Debug, Clone, Default)]
pub struct Portal {
    /// What Execute does.
    pub act: Act,
    /// Relations that it may write, if it is measured and they are known.
    pub scope: Option<Arc<Scope>>,
    /// Its fingerprint, when it is to be audited.
    pub audit: Option<Arc<str>>,
    /// It enters copy-in mode.
    pub copy_in: bool,
    /// It may read versions.
    pub reads_versions: bool,
    /// It may change the catalog.
    pub ddl: bool,
    /// It writes system tables.
    pub defines: bool,
    /// The catalog does not matter.
    pub timeless: bool,
    /// The session's tenant setting does not say whose rows it changes.
    pub unbound: bool,
    /// Of the catalog that says so.
    pub generation: u64,
    /// How strings are read may change.
    pub changes_settings: bool,
    /// Prepared statements that it makes or removes.
    pub forgets: Option<Forgets>,
    /// A first Execute was sent: row-changing statements ran to their end then.
    pub executed: bool,
}

/// What a statement does, tenants resolved.
#[derive(Debug, Clone, Default)]
pub enum Act {
    /// Nothing to do.
    #[default]
    Harmless,
    /// Bumps these.
    Write {
        /// Domains and tenants.
        effect: Effect,
        /// It changes at least one row, if it succeeds.
        sure: bool,
        /// A transaction id tells whether it changed anything.
        leaves_no_trace_without_rows: bool,
        /// Its rows come from the client and say their tenants.
        copy: Option<Arc<CopyPlan>>,
    },
    /// To be measured.
    Measure(UnknownReason),
    /// Transaction control.
    Control(Control),
    /// Must run alone.
    Alone,
    /// May end its transaction.
    MayCommit(UnknownReason),
    /// Makes a cursor.
    DeclareCursor {
        /// Its name.
        name: String,
        /// FETCH from it cannot write.
        harmless: bool,
    },
    /// Reads from a cursor.
    Fetch(String),
}

impl Act {
    /// Of a statement; `tenant` resolves tenants that are parameters.
    #[must_use]
    pub fn of(kind: &Kind, tenant: impl Fn(&Tenant) -> BumpTenant) -> Self {
        match kind {
            Kind::Harmless => Self::Harmless,
            Kind::Measure(reason) => Self::Measure(*reason),
            Kind::Control(control) => Self::Control(*control),
            Kind::Alone => Self::Alone,
            Kind::MayCommit(reason) => Self::MayCommit(*reason),
            Kind::DeclareCursor { name, harmless } => Self::DeclareCursor { name: name.clone(), harmless: *harmless },
            Kind::Fetch(name) => Self::Fetch(name.clone()),
            Kind::Write(write) => Self::Write {
                effect: effect(write, tenant),
                sure: write.rows == RowCount::NotZero,
                leaves_no_trace_without_rows: write.leaves_no_trace_without_rows,
                copy: write.copy.clone(),
            },
        }
    }
}

/// The pairs that a write bumps, each once; all tenants of a domain stand for each of them.
fn effect(write: &Write, tenant: impl Fn(&Tenant) -> BumpTenant) -> Effect {
    let mut pairs: Vec<(String, BumpTenant)> = Vec::new();
    for touched in &write.touched {
        let mut add = |tenant| pairs.push((touched.domain.clone(), tenant));
        match &touched.tenants {
            Tenants::All => add(BumpTenant::All),
            Tenants::Session => add(BumpTenant::Session),
            Tenants::These(tenants) => tenants.iter().map(&tenant).for_each(add),
        }
    }
    pairs.sort();
    pairs.dedup();
    // BumpTenant::All sorts before the others of its domain.
    let mut all_of: Option<String> = None;
    pairs.retain(|(domain, tenant)| {
        let covered = all_of.as_deref() == Some(domain);
        if *tenant == BumpTenant::All {
            all_of = Some(domain.clone());
        }
        !covered
    });
    pairs.into()
}

/// A tenant without parameters: simple query.
#[must_use]
pub const fn literal_tenant(tenant: &Tenant) -> BumpTenant {
    match tenant {
        Tenant::Known(tenant) => BumpTenant::Id(*tenant),
        Tenant::Parameter { .. } => BumpTenant::All,
    }
}

fn resolve(tenant: &Tenant, bind: Option<&Bind<'_>>, parameter_type: impl Fn(u16) -> u32) -> BumpTenant {
    match tenant {
        Tenant::Known(tenant) => BumpTenant::Id(*tenant),
        Tenant::Parameter { number, as_uuid } => bind
            .and_then(|bind| bind.value(*number))
            .and_then(|value| bound_uuid(value, parameter_type(*number), *as_uuid))
            .map_or(BumpTenant::All, BumpTenant::Id),
    }
}

/// The tenant in a parameter: text format is text whatever the type; in binary format a uuid has 16
/// bytes and text is text. NULL, and anything else, is no tenant.
fn bound_uuid(value: BoundValue<'_>, declared: u32, as_uuid: bool) -> Option<Uuid> {
    let bytes = value.bytes?;
    let is_uuid = declared == UUID_TYPE || (declared == 0 && as_uuid);
    if value.binary && is_uuid {
        return Uuid::from_slice(bytes).ok();
    }
    if value.binary && !(TEXT_TYPES.contains(&declared) || (declared == 0 && !as_uuid)) {
        return None;
    }
    parse_uuid(std::str::from_utf8(bytes).ok()?)
}

/// What to restore when the server did not process a message: the former meaning of a name, if the
/// name still means what that message made of it.
#[derive(Debug)]
pub struct Undo {
    name: Box<[u8]>,
    made: u64,
    former: Former,
    /// Who had made that one.
    former_maker: Option<Maker>,
}

impl Undo {
    /// `earlier` was not processed either, and this one's former meaning is what it had made: what was there before
    /// both is what counts. Gives `earlier` back if it is about something else.
    pub fn absorb(&mut self, earlier: Self) -> Option<Self> {
        let same_kind = matches!(self.former, Former::Portal(_)) == matches!(earlier.former, Former::Portal(_));
        if !same_kind || self.name != earlier.name || self.former_maker.map(|maker| maker.made) != Some(earlier.made) {
            return Some(earlier);
        }
        self.former = earlier.former;
        self.former_maker = earlier.former_maker;
        None
    }
}

#[derive(Debug)]
enum Former {
    Statement(Option<Arc<Prepared>>),
    Portal(Option<Portal>),
}

/// Bytes of a name that count: PostgreSQL keeps statements and portals under `NAMEDATALEN` - 1.
fn key(name: &[u8]) -> &[u8] {
    name.get(..63).unwrap_or(name)
}

/// A message that gave a name its meaning.
#[derive(Debug, Clone, Copy)]
struct Maker {
    made: u64,
    unit: u64,
    /// The name had a meaning before, that it may have again if this fails.
    redefines: bool,
}

/// Who made (or removed) the present meaning of a name.
#[derive(Debug, Default)]
struct Makers {
    statements: ByName<Maker>,
    portals: ByName<Maker>,
}

impl Makers {
    const fn of(&mut self, portal: bool) -> &mut ByName<Maker> {
        if portal { &mut self.portals } else { &mut self.statements }
    }

    fn named(&self) -> usize {
        self.statements.named() + self.portals.named()
    }

    fn clear(&mut self) {
        self.statements.clear();
        self.portals.clear();
    }
}

/// Names of one session.
#[derive(Debug, Default)]
pub struct Names {
    statements: ByName<Arc<Prepared>>,
    statement_bytes: usize,
    portals: ByName<Portal>,
    makers: Makers,
    made: u64,
    /// Number of the unit that messages are sent in now.
    pub unit: u64,
    /// Cursors of SQL whose query is harmless, by the catalog of this generation.
    harmless_cursors: Vec<(String, u64)>,
}

impl Names {
    /// The statement of a name, `None` if this session did not see its Parse.
    #[must_use]
    pub fn statement(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        self.statements.get(key(name))
    }

    /// Remembers a statement that was sent; without room it is forgotten, its Executes are measured.
    pub fn set_statement(&mut self, name: &[u8], prepared: Option<Arc<Prepared>>) -> Undo {
        let name = key(name);
        let former = self.replace_statement(name, prepared);
        let (made, former_maker) = self.make(false, name, former.is_some());
        Undo { name: name.into(), made, former: Former::Statement(former), former_maker }
    }

    fn replace_statement(&mut self, name: &[u8], prepared: Option<Arc<Prepared>>) -> Option<Arc<Prepared>> {
        let former = self.statements.remove(name);
        self.statement_bytes -= former.as_ref().map_or(0, |former| former.bytes());
        if let Some(prepared) = prepared {
            let bytes = self.statement_bytes + prepared.bytes();
            let room =
                self.statements.named() < limits::PREPARED_STATEMENTS_MAX && bytes <= limits::PREPARED_TEXT_BYTES_MAX;
            if name.is_empty() || room {
                self.statement_bytes = bytes;
                self.statements.insert(name, prepared);
            }
        }
        former
    }

    /// Notes who gives a name its meaning, and who did before; only messages that wait for a reply need to know.
    fn make(&mut self, portal: bool, name: &[u8], redefines: bool) -> (u64, Option<Maker>) {
        self.made += 1;
        if self.makers.named() >= 2 * limits::OUTSTANDING_REQUESTS_MAX {
            // A client that gives ever new names while replies are due: what they mean is measured.
            self.forget_all_statements();
            self.portals.clear();
        }
        let makers = self.makers.of(portal);
        // A Close in between has left no meaning, but may fail, too.
        let redefines = redefines || makers.get(name).is_some_and(|former| former.redefines);
        let former = makers.insert(name, Maker { made: self.made, unit: self.unit, redefines });
        (self.made, former)
    }

    /// No message waits: nothing can be undone.
    pub fn settle(&mut self) {
        self.makers.clear();
    }

    /// Whether a name means what it seems to even if an earlier unit has failed before the message that redefined it.
    #[must_use]
    pub fn is_certain(&self, portal: bool, name: &[u8]) -> bool {
        let makers = if portal { &self.makers.portals } else { &self.makers.statements };
        let maker = makers.get(key(name));
        maker.is_none_or(|maker| !maker.redefines || maker.unit == self.unit)
    }

    /// The portal of a name.
    pub fn portal_mut(&mut self, name: &[u8]) -> Option<&mut Portal> {
        self.portals.get_mut(key(name))
    }

    /// Remembers a portal that was sent.
    pub fn set_portal(&mut self, name: &[u8], portal: Option<Portal>) -> Undo {
        let name = key(name);
        // Portals and cursors share their names.
        self.harmless_cursors.retain(|(cursor, _)| cursor.as_bytes() != name);
        let former = self.replace_portal(name, portal);
        let (made, former_maker) = self.make(true, name, former.is_some());
        Undo { name: name.into(), made, former: Former::Portal(former), former_maker }
    }

    fn replace_portal(&mut self, name: &[u8], portal: Option<Portal>) -> Option<Portal> {
        let former = self.portals.remove(name);
        if let Some(portal) = portal
            && (name.is_empty() || self.portals.named() < limits::PORTALS_MAX)
        {
            self.portals.insert(name, portal);
        }
        former
    }

    /// The server did not process a message. Gives it back when a later message has given the name its meaning.
    pub fn undo(&mut self, undo: Undo) -> Option<Undo> {
        let portal = matches!(undo.former, Former::Portal(_));
        if self.makers.of(portal).get(&undo.name).map(|maker| maker.made) != Some(undo.made) {
            return Some(undo);
        }
        match undo.former {
            Former::Statement(former) => drop(self.replace_statement(&undo.name, former)),
            Former::Portal(former) => drop(self.replace_portal(&undo.name, former)),
        }
        match undo.former_maker {
            Some(former) => drop(self.makers.of(portal).insert(&undo.name, former)),
            None => drop(self.makers.of(portal).remove(&undo.name)),
        }
        None
    }

    /// SQL makes or removes prepared statements of these names.
    pub fn forget_statements(&mut self, forgets: Option<&Forgets>) {
        match forgets {
            None => {}
            Some(Forgets::One(name)) => drop(self.set_statement(name.as_bytes(), None)),
            Some(Forgets::All) => self.forget_all_statements(),
        }
    }

    fn forget_all_statements(&mut self) {
        self.statements.clear();
        self.statement_bytes = 0;
        self.makers.clear();
    }

    /// The transaction has ended, and no message waits: its portals are gone.
    pub fn end_transaction(&mut self) {
        self.portals.clear();
        self.harmless_cursors.clear();
    }

    /// DECLARE was sent.
    pub fn declare_cursor(&mut self, name: &str, harmless: bool, generation: u64) {
        self.harmless_cursors.retain(|(known, _)| known != name);
        self.portals.remove(key(name.as_bytes()));
        if harmless && self.harmless_cursors.len() < limits::CURSORS_MAX {
            self.harmless_cursors.push((name.to_owned(), generation));
        }
    }

    /// Something that may make cursors was sent, or cursors were closed by the server.
    pub fn forget_cursors(&mut self) {
        self.harmless_cursors.clear();
    }

    /// Whether FETCH from this cursor cannot write, by the same catalog.
    #[must_use]
    pub fn is_harmless_cursor(&self, name: &str, generation: u64) -> bool {
        self.harmless_cursors.iter().any(|(known, of)| known == name && *of == generation)
    }
}
