//! Which tenants a write touches: from VALUES rows by tokens (a long list never becomes a tree),
//! from WHERE and SET by `sqlparser`, behind guards.

use std::collections::BTreeSet;

use sqlparser::ast::{
    AssignmentTarget, BinaryOperator, CastKind, DataType, Expr, FromTable, Statement as Ast, TableFactor,
    TableWithJoins, Value,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use uuid::Uuid;

use super::analysis::{AnalysisContext, Tenant, Tenants, Touched};
use super::lexer::TokenKind;
use super::statement::{QualifiedName, StatementTokens};
use crate::catalog::{Relation, TenantColumn, TenantType, WriteEvent};
use crate::limits;

type Answer = (Tenants, &'static str);

/// The domains of a written relation, with the tenants of the write.
#[must_use]
pub fn touched(relation: &Relation, tenants: &Tenants, rule: &'static str) -> Vec<Touched> {
    relation.domains.iter().map(|domain| Touched { domain: domain.clone(), tenants: tenants.clone(), rule }).collect()
}

/// The tenants of a write that does not say them.
#[must_use]
pub fn unsaid(context: &AnalysisContext<'_>, relation: &Relation, rule: &'static str) -> Answer {
    if relation.tenant.is_none() {
        (Tenants::All, "the relation has no tenant column")
    } else if context.settings.trust_tenant_setting {
        (Tenants::Session, "the session's tenant setting, trusted by configuration")
    } else {
        (Tenants::All, rule)
    }
}

/// The tenants of an INSERT, UPDATE or DELETE.
#[must_use]
pub fn of_statement(
    context: &AnalysisContext<'_>,
    statement: &StatementTokens<'_>,
    event: WriteEvent,
    target: &QualifiedName,
    relation: &Relation,
) -> Answer {
    let Some(column) = relation.tenant else {
        return unsaid(context, relation, "");
    };
    let found = match event {
        WriteEvent::Insert => of_insert(context, statement, target, relation, column),
        WriteEvent::Update | WriteEvent::Delete if context.catalog.own_equality => {
            Err("the application has an operator = of its own for tenants")
        }
        WriteEvent::Update | WriteEvent::Delete => of_where(context, statement, column),
    };
    match found {
        Ok(answer) => answer,
        Err(rule) => unsaid(context, relation, rule),
    }
}

/// INSERT … VALUES: the tenant column's value in every row.
fn of_insert(
    context: &AnalysisContext<'_>,
    s: &StatementTokens<'_>,
    target: &QualifiedName,
    relation: &Relation,
    column: TenantColumn,
) -> Result<Answer, &'static str> {
    let tenant_column = &context.settings.tenant_column;
    let mut at = target.end;
    if s.is_word(at, "as") {
        at += 2;
    }
    let position = if s.kind(at) == Some(TokenKind::OpenParen) {
        let end = s.behind_parens(at).ok_or("INSERT does not parse")?;
        let position = column_position(s, at, end, tenant_column);
        at = end;
        position.ok_or("INSERT leaves the tenant column to its default")?
    } else {
        column.ordinal.min(relation.columns.len())
    };
    if s.is_word(at, "overriding") {
        at += 3;
    }
    if !s.is_word(at, "values") {
        return Err("INSERT takes its rows from a query");
    }
    let (tenants, end) = of_rows(s, at + 1, position, column)?;
    if end < s.tokens.len() && !s.is_any(end, &["on", "returning"]) {
        return Err("more than VALUES rows are inserted");
    }
    check_upsert(s, end, tenant_column)?;
    Ok((tenants, "tenant column of the VALUES rows"))
}

/// Position of the tenant column in a column list between parentheses: an item that is its name and
/// nothing else (no field, element, expression, collation).
pub(super) fn column_position(s: &StatementTokens<'_>, open: usize, end: usize, column: &str) -> Option<usize> {
    let mut position = 0;
    let mut depth = 0_usize;
    for index in open..end {
        match s.kind(index)? {
            TokenKind::OpenParen | TokenKind::OpenBracket => depth += 1,
            TokenKind::CloseParen | TokenKind::CloseBracket => depth = depth.checked_sub(1)?,
            TokenKind::Comma if depth == 1 => position += 1,
            _ if depth == 1 && s.is_name(index) => {
                let behind = s.qualified_name(index)?.end;
                let begins = matches!(s.kind(index - 1)?, TokenKind::OpenParen | TokenKind::Comma);
                let ends = matches!(s.kind(behind)?, TokenKind::CloseParen | TokenKind::Comma);
                if begins && ends && s.kind(index + 1) != Some(TokenKind::Dot) && s.name(index)? == column {
                    return Some(position);
                }
            }
            _ => {}
        }
    }
    None
}

/// Reads the rows behind VALUES; also returns the index behind them.
fn of_rows(
    s: &StatementTokens<'_>,
    from: usize,
    position: usize,
    column: TenantColumn,
) -> Result<(Tenants, usize), &'static str> {
    let mut found = BTreeSet::new();
    let mut at = from;
    // Neighbours often have the same tenant, written the same way.
    let mut last: &[u8] = &[];
    loop {
        if s.kind(at) != Some(TokenKind::OpenParen) {
            return Err("VALUES does not parse");
        }
        let (start, end, behind) =
            row_item(s, at, position).ok_or("a VALUES row leaves the tenant column to its default")?;
        let same = end == start + 1 && !last.is_empty() && s.bytes(start) == last;
        match if same { Ok(found.last().copied()) } else { constant(s, start, end, column) }? {
            None => return Ok((Tenants::All, s.tokens.len())).map(|(tenants, _)| (tenants, behind_rows(s, behind))),
            Some(_) if same => {}
            Some(tenant) => {
                found.insert(tenant);
                last = if end == start + 1 { s.bytes(start) } else { &[] };
            }
        }
        if found.len() > limits::STATEMENT_TENANTS_MAX {
            return Err("more tenants than are counted one by one");
        }
        if s.kind(behind) != Some(TokenKind::Comma) {
            return Ok((Tenants::These(found.into_iter().collect()), behind));
        }
        at = behind + 1;
    }
}

/// Skips the remaining rows of VALUES.
fn behind_rows(s: &StatementTokens<'_>, from: usize) -> usize {
    s.find_top(from, |s, index| s.is_any(index, &["on", "returning"])).unwrap_or(s.tokens.len())
}

/// Tokens of item `position` of the row that opens at `open`, and the index behind the row.
fn row_item(s: &StatementTokens<'_>, open: usize, position: usize) -> Option<(usize, usize, usize)> {
    let mut depth = 0_usize;
    let mut item = 0;
    let mut start = open + 1;
    let mut found = None;
    for index in open..s.tokens.len() {
        match s.kind(index)? {
            TokenKind::OpenParen | TokenKind::OpenBracket => depth += 1,
            TokenKind::CloseParen | TokenKind::CloseBracket => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    let (start, end) = if item == position { (start, index) } else { found? };
                    return Some((start, end, index + 1));
                }
            }
            TokenKind::Comma if depth == 1 => {
                if item == position {
                    found = Some((start, index));
                }
                item += 1;
                start = index + 1;
            }
            _ => {}
        }
    }
    None
}

/// A constant or parameter between `start` and `end`; `None` for NULL, which belongs to all tenants.
fn constant(
    s: &StatementTokens<'_>,
    start: usize,
    end: usize,
    column: TenantColumn,
) -> Result<Option<Tenant>, &'static str> {
    const UNKNOWN: &str = "a tenant value is an expression";
    let (mut start, mut end) = (start, end);
    while s.kind(start) == Some(TokenKind::OpenParen) && s.behind_parens(start) == Some(end) {
        (start, end) = (start + 1, end - 1);
    }
    if s.is_word(start, "cast")
        && s.kind(start + 1) == Some(TokenKind::OpenParen)
        && s.behind_parens(start + 1) == Some(end)
    {
        let separator = s.find_top(start + 2, |s, index| s.is_word(index, "as")).ok_or(UNKNOWN)?;
        let inner = constant(s, start + 2, separator, column)?;
        return with_cast(s, separator + 1, end - 1, inner, separator == start + 3).ok_or(UNKNOWN);
    }
    // uuid '…'
    let typed = usize::from(is_uuid_or_text(s, start) && end == start + 2);
    let behind = start + typed + 1;
    let tenant = match s.kind(start + typed).ok_or(UNKNOWN)? {
        TokenKind::Word if s.is_word(start, "null") => None,
        TokenKind::Parameter => Some(parameter(s.bytes(start + typed), column).ok_or(UNKNOWN)?),
        TokenKind::String | TokenKind::EscapeString => Some(literal(s.bytes(start + typed), column)?),
        _ => return Err(UNKNOWN),
    };
    if behind >= end {
        return Ok(tenant);
    }
    // Casts, one behind the other.
    let mut at = behind;
    let mut tenant = tenant;
    while at < end {
        if s.kind(at) != Some(TokenKind::TypeCast) {
            return Err(UNKNOWN);
        }
        let next = (at + 1..end).find(|&index| s.kind(index) == Some(TokenKind::TypeCast)).unwrap_or(end);
        tenant = with_cast(s, at + 1, next, tenant, at == behind).ok_or(UNKNOWN)?;
        at = next;
    }
    Ok(tenant)
}

fn is_uuid_or_text(s: &StatementTokens<'_>, index: usize) -> bool {
    s.is_any(index, &["uuid", "text", "varchar"])
}

/// A value under a cast to uuid or text; the innermost cast says how a parameter is sent.
fn with_cast(
    s: &StatementTokens<'_>,
    start: usize,
    end: usize,
    tenant: Option<Tenant>,
    innermost: bool,
) -> Option<Option<Tenant>> {
    let start =
        if s.is_word(start, "pg_catalog") && s.kind(start + 1) == Some(TokenKind::Dot) { start + 2 } else { start };
    if end != start + 1 || !is_uuid_or_text(s, start) {
        return None;
    }
    Some(match tenant {
        Some(Tenant::Parameter { number, .. }) if innermost => {
            Some(Tenant::Parameter { number, as_uuid: s.is_word(start, "uuid") })
        }
        other => other,
    })
}

fn parameter(token: &[u8], column: TenantColumn) -> Option<Tenant> {
    let number = std::str::from_utf8(token).ok()?.strip_prefix('$')?.parse().ok()?;
    match column.data_type {
        TenantType::Other => None,
        data_type => Some(Tenant::Parameter { number, as_uuid: data_type == TenantType::Uuid }),
    }
}

fn literal(token: &[u8], column: TenantColumn) -> Result<Tenant, &'static str> {
    let unknown = "a tenant value is no uuid";
    let text = std::str::from_utf8(token).map_err(|_| unknown)?;
    let text = text.trim_start_matches(['e', 'E', 'n', 'N']);
    let text = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')).ok_or(unknown)?;
    uuid_of(text, column).map(Tenant::Known).ok_or(unknown)
}

/// A tenant from text as PostgreSQL's `uuid_in` reads it: hexadecimal digits, hyphens behind groups
/// of four, braces around.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut digits = 0_usize;
    let mut value = 0_u128;
    let mut previous_hyphen = true;
    for byte in inner.bytes() {
        if byte == b'-' {
            if previous_hyphen || !digits.is_multiple_of(4) {
                return None;
            }
            previous_hyphen = true;
            continue;
        }
        let digit = char::from(byte).to_digit(16)?;
        digits += 1;
        if digits > 32 {
            return None;
        }
        value = value << 4 | u128::from(digit);
        previous_hyphen = false;
    }
    (digits == 32 && !previous_hyphen).then(|| Uuid::from_u128(value))
}

fn uuid_of(text: &str, column: TenantColumn) -> Option<Uuid> {
    match column.data_type {
        TenantType::Other => None,
        TenantType::Uuid | TenantType::Text => parse_uuid(text),
    }
}

/// ON CONFLICT … DO UPDATE changes the row that is there: one of another tenant, unless the tenant
/// is a part of the conflict target.
fn check_upsert(s: &StatementTokens<'_>, from: usize, tenant_column: &str) -> Result<(), &'static str> {
    let Some(conflict) = s.find_top(from, |s, index| s.are_words(index, &["on", "conflict"])) else {
        return Ok(());
    };
    let Some(update) = s.find_top(conflict, |s, index| s.are_words(index, &["do", "update"])) else {
        return Ok(());
    };
    let open = conflict + 2;
    let by_tenant = s.kind(open) == Some(TokenKind::OpenParen)
        && s.behind_parens(open).is_some_and(|end| column_position(s, open, end, tenant_column).is_some());
    let sets_tenant =
        (update..s.tokens.len()).any(|index| s.is_name(index) && s.name(index).as_deref() == Some(tenant_column));
    if by_tenant && !sets_tenant { Ok(()) } else { Err("an upsert may change another tenant's row") }
}

/// UPDATE and DELETE: a top-level `tenant_id = …` or `tenant_id IN (…)` of WHERE; what SET moves to.
fn of_where(
    context: &AnalysisContext<'_>,
    s: &StatementTokens<'_>,
    column: TenantColumn,
) -> Result<Answer, &'static str> {
    const UNPARSED: &str = "the statement is not one that sqlparser reads";
    if !context.standard_conforming_strings && s.text.contains(&b'\\') {
        return Err("sqlparser does not know backslashes in strings");
    }
    // sqlparser takes `==`, which an application may define as anything, for `=`.
    if (0..s.tokens.len()).any(|index| s.kind(index) == Some(TokenKind::Operator) && s.bytes(index) == b"==") {
        return Err("an operator that PostgreSQL does not have");
    }
    if s.tokens.len() > limits::PARSED_TOKENS_MAX {
        return Err("the statement is too long to look for tenants in WHERE");
    }
    let (start, end) = s.span();
    let text = s.text.get(start..end).and_then(|text| std::str::from_utf8(text).ok()).ok_or(UNPARSED)?;
    let mut parsed = Parser::parse_sql(&PostgreSqlDialect {}, text).map_err(|_| UNPARSED)?;
    let reader =
        |table: &TableWithJoins, joined| WhereReader::new(table, joined, &context.settings.tenant_column, column);
    match (parsed.pop(), parsed.is_empty()) {
        (Some(Ast::Update(update)), true) => {
            let reader = reader(&update.table, update.from.is_some()).ok_or(UNPARSED)?;
            let mut found = reader.tenants(update.selection.as_ref())?;
            for assignment in &update.assignments {
                reader.add_assignment(&assignment.target, &assignment.value, &mut found)?;
            }
            Ok((found.finish(), "tenant column in WHERE"))
        }
        (Some(Ast::Delete(delete)), true) => {
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
            let [table] = from.as_slice() else { return Err(UNPARSED) };
            let reader = reader(table, delete.using.is_some()).ok_or(UNPARSED)?;
            Ok((reader.tenants(delete.selection.as_ref())?.finish(), "tenant column in WHERE"))
        }
        _ => Err(UNPARSED),
    }
}

/// Tenants found so far.
#[derive(Default)]
struct Found {
    tenants: BTreeSet<Tenant>,
    all: bool,
}

impl Found {
    fn add(&mut self, tenant: Option<Tenant>) {
        match tenant {
            Some(tenant) => {
                self.tenants.insert(tenant);
            }
            None => self.all = true,
        }
    }

    fn finish(self) -> Tenants {
        if self.all || self.tenants.is_empty() || self.tenants.len() > limits::STATEMENT_TENANTS_MAX {
            Tenants::All
        } else {
            Tenants::These(self.tenants.into_iter().collect())
        }
    }
}

/// Reads conditions on the tenant column of the written table.
struct WhereReader<'a> {
    tenant_column: &'a str,
    column: TenantColumn,
    /// Names by which the written table may be qualified.
    names: Vec<String>,
    /// Another table takes part: an unqualified column may be that one's.
    joined: bool,
}

impl<'a> WhereReader<'a> {
    fn new(table: &TableWithJoins, joined: bool, tenant_column: &'a str, column: TenantColumn) -> Option<Self> {
        let TableFactor::Table { name, alias, .. } = &table.relation else { return None };
        let names = match alias {
            Some(alias) => vec![folded(&alias.name)],
            None => vec![folded(name.0.last()?.as_ident()?)],
        };
        Some(Self { tenant_column, column, names, joined: joined || !table.joins.is_empty() })
    }

    fn tenants(&self, selection: Option<&Expr>) -> Result<Found, &'static str> {
        let mut conditions = vec![selection.ok_or("the statement has no WHERE")?];
        while let Some(condition) = conditions.pop() {
            match condition {
                Expr::Nested(inner) => conditions.push(inner),
                Expr::BinaryOp { left, op: BinaryOperator::And, right } => conditions.extend([&**left, &**right]),
                Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                    let value = if self.is_tenant(left) { right } else { left };
                    if (self.is_tenant(left) || self.is_tenant(right))
                        && let Ok(tenant) = self.value(value)
                    {
                        let mut found = Found::default();
                        found.add(tenant);
                        return Ok(found);
                    }
                }
                Expr::InList { expr, list, negated: false } if self.is_tenant(expr) => {
                    let mut found = Found::default();
                    for value in list {
                        found.add(self.value(value)?);
                    }
                    return Ok(found);
                }
                _ => {}
            }
        }
        Err("WHERE does not say the tenant")
    }

    fn is_tenant(&self, expression: &Expr) -> bool {
        match expression {
            Expr::Identifier(column) => !self.joined && folded(column) == self.tenant_column,
            Expr::CompoundIdentifier(path) => match path.as_slice() {
                [table, column] => self.names.contains(&folded(table)) && folded(column) == self.tenant_column,
                _ => false,
            },
            Expr::Nested(inner) => self.is_tenant(inner),
            _ => false,
        }
    }

    /// A literal or parameter, under casts to uuid or text. NULL is `None`.
    fn value(&self, expression: &Expr) -> Result<Option<Tenant>, &'static str> {
        const UNKNOWN: &str = "a tenant value is an expression";
        match expression {
            Expr::Nested(inner) => self.value(inner),
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
                let as_uuid = matches!(data_type, DataType::Uuid);
                if !as_uuid && !matches!(data_type, DataType::Text | DataType::Varchar(None)) {
                    return Err(UNKNOWN);
                }
                Ok(match (self.value(expr)?, &**expr) {
                    (Some(Tenant::Parameter { number, .. }), Expr::Value(_)) => {
                        Some(Tenant::Parameter { number, as_uuid })
                    }
                    (tenant, _) => tenant,
                })
            }
            Expr::Value(value) => match &value.value {
                Value::Null => Ok(None),
                Value::SingleQuotedString(text) => uuid_of(text, self.column)
                    .map(|tenant| Some(Tenant::Known(tenant)))
                    .ok_or("a tenant value is no uuid"),
                Value::Placeholder(number) => parameter(number.as_bytes(), self.column).map(Some).ok_or(UNKNOWN),
                _ => Err(UNKNOWN),
            },
            Expr::TypedString(typed) if matches!(typed.data_type, DataType::Uuid) => {
                self.value(&Expr::Value(typed.value.clone()))
            }
            _ => Err(UNKNOWN),
        }
    }

    /// SET tenant_id = …: the row moves there.
    fn add_assignment(&self, target: &AssignmentTarget, value: &Expr, found: &mut Found) -> Result<(), &'static str> {
        let is_tenant = |name: &sqlparser::ast::ObjectName| {
            name.0.last().and_then(|part| part.as_ident()).is_some_and(|column| folded(column) == self.tenant_column)
        };
        match target {
            AssignmentTarget::ColumnName(name) if is_tenant(name) => found.add(self.value(value)?),
            AssignmentTarget::Tuple(names) if names.iter().any(is_tenant) => {
                return Err("the tenant is set together with other columns");
            }
            _ => {}
        }
        Ok(())
    }
}

/// A name as the catalog spells it.
fn folded(name: &sqlparser::ast::Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_rows() {
        let canonical = Uuid::parse_str("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11").unwrap();
        let accepted = [
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ];
        for text in accepted {
            assert_eq!(parse_uuid(text), Some(canonical), "{text}");
        }
        let refused = [
            "",
            "tenant-123",
            "7",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "-a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc99--9c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a1",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
            "a0eebc999c0b4ef8bb6d6bb9bd380a111",
            "a0eebc99 9c0b4ef8bb6d6bb9bd380a11",
        ];
        for text in refused {
            assert_eq!(parse_uuid(text), None, "{text}");
        }
    }
}
