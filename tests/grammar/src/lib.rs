//! PostgreSQL's grammar (libpg_query) for tests: texts to parse trees, scripts to statements, trees to the
//! relations that they write.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::PathBuf;

use serde_json::Value;

#[repr(C)]
struct ParseResult {
    tree: *mut c_char,
    stderr: *mut c_char,
    error: *mut ParseError,
}

#[repr(C)]
struct ParseError {
    message: *mut c_char,
}

#[repr(C)]
struct SplitStatement {
    location: c_int,
    length: c_int,
}

#[repr(C)]
struct SplitResult {
    statements: *mut *mut SplitStatement,
    count: c_int,
    stderr: *mut c_char,
    error: *mut ParseError,
}

unsafe extern "C" {
    fn pg_query_parse(text: *const c_char) -> ParseResult;
    fn pg_query_free_parse_result(result: ParseResult);
    fn pg_query_split_with_scanner(text: *const c_char) -> SplitResult;
    fn pg_query_free_split_result(result: SplitResult);
}

/// Folder of PostgreSQL's regression SQL.
#[must_use]
pub fn corpus() -> PathBuf {
    PathBuf::from(env!("LIBPG_QUERY")).join("test/sql/postgres_regress")
}

/// The statements of a text (`RawStmt`), or what the grammar says against it.
///
/// # Errors
/// The grammar's message.
pub fn parse(text: &str) -> Result<Vec<Value>, String> {
    let text = CString::new(text).map_err(|_| "NUL")?;
    // SAFETY: the text ends with NUL; what the result points to lives until it is freed below.
    let result = unsafe { pg_query_parse(text.as_ptr()) };
    let answer = if result.error.is_null() {
        // SAFETY: without an error the tree is a C string.
        Ok(unsafe { CStr::from_ptr(result.tree) }.to_string_lossy().into_owned())
    } else {
        // SAFETY: an error has a message.
        Err(unsafe { CStr::from_ptr((*result.error).message) }.to_string_lossy().into_owned())
    };
    // SAFETY: freed once, not used behind.
    unsafe { pg_query_free_parse_result(result) };
    let mut reader = serde_json::Deserializer::from_str(answer.as_ref()?);
    reader.disable_recursion_limit();
    let tree: Value = serde::Deserialize::deserialize(&mut reader).map_err(|error| error.to_string())?;
    Ok(tree.get("stmts").and_then(Value::as_array).cloned().unwrap_or_default())
}

/// Statements of a script, by PostgreSQL's scanner: it does not mind errors of syntax.
#[must_use]
pub fn split(script: &str) -> Vec<String> {
    let Ok(text) = CString::new(script) else { return Vec::new() };
    // SAFETY: as in `parse`.
    let result = unsafe { pg_query_split_with_scanner(text.as_ptr()) };
    let count = usize::try_from(result.count).unwrap_or(0);
    let spans: Vec<(usize, usize)> = (0..if result.error.is_null() { count } else { 0 })
        .filter_map(|index| {
            // SAFETY: there are `count` statements.
            let statement = unsafe { &**result.statements.add(index) };
            Some((usize::try_from(statement.location).ok()?, usize::try_from(statement.length).ok()?))
        })
        .collect();
    // SAFETY: freed once, not used behind.
    unsafe { pg_query_free_split_result(result) };
    spans.iter().filter_map(|(start, length)| script.get(*start..start + length)).map(str::to_owned).collect()
}

/// A psql script without what psql itself reads: commands, data of COPY.
#[must_use]
pub fn without_psql(script: &str) -> String {
    let mut out = String::new();
    let mut data = false;
    for line in script.lines() {
        if data {
            data = line != "\\.";
            continue;
        }
        let lower = line.to_ascii_lowercase();
        if line.trim_start().starts_with('\\') {
            data = lower.contains("\\copy") && lower.contains("from stdin");
            continue;
        }
        data = lower.trim_start().starts_with("copy ") && lower.contains("from stdin") && lower.contains(';');
        // `\gset` and the like end a statement.
        match line.find(" \\g").or_else(|| line.find(" \\;")) {
            Some(at) => out.push_str(&format!("{};", &line[..at])),
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

/// What PostgreSQL's tree says of one statement.
#[derive(Debug, Default)]
pub struct Truth {
    /// Relations whose rows it changes, by bare name.
    pub targets: BTreeSet<String>,
    /// Kind of the node.
    pub node: String,
    /// The tree cannot say it: CALL, DO, EXECUTE, FETCH.
    pub unknowable: bool,
}

/// Of a `RawStmt`.
#[must_use]
pub fn truth(raw: &Value) -> Truth {
    raw.get("stmt").map(of).unwrap_or_default()
}

fn relation(value: Option<&Value>) -> Option<String> {
    let value = value?;
    Some(value.get("RangeVar").unwrap_or(value).get("relname")?.as_str()?.to_owned())
}

fn of(statement: &Value) -> Truth {
    let Some((kind, body)) = statement.as_object().and_then(|map| map.iter().next()) else { return Truth::default() };
    let mut truth = Truth { node: kind.clone(), ..Truth::default() };
    match kind.as_str() {
        "SelectStmt" | "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" => {
            collect(statement, kind, &mut truth.targets);
        }
        "CopyStmt" => {
            truth.targets.extend(relation(body.get("relation")).filter(|_| body.get("is_from").is_some()));
            collect(&body["query"], kind, &mut truth.targets);
        }
        "CreateTableAsStmt" => {
            truth.targets.extend(relation(body.pointer("/into/rel")));
            truth.unknowable = body["query"].get("ExecuteStmt").is_some();
            collect(&body["query"], kind, &mut truth.targets);
        }
        "RefreshMatViewStmt" => truth.targets.extend(relation(body.get("relation"))),
        "TruncateStmt" => {
            let relations = body["relations"].as_array().into_iter().flatten();
            truth.targets.extend(relations.filter_map(|named| relation(Some(named))));
        }
        "ExplainStmt" if runs(body) => {
            let inner = of(&body["query"]);
            truth = Truth { node: format!("ExplainStmt({})", inner.node), ..inner };
        }
        "DropStmt" => {
            let object = body["removeType"].as_str().unwrap_or_default();
            if matches!(object, "OBJECT_TABLE" | "OBJECT_MATVIEW" | "OBJECT_FOREIGN_TABLE") {
                let objects = body["objects"].as_array().into_iter().flatten();
                let last = |object: &Value| {
                    object["List"]["items"].as_array()?.last()?.pointer("/String/sval")?.as_str().map(str::to_owned)
                };
                truth.targets.extend(objects.filter_map(last));
            }
        }
        "CallStmt" | "DoStmt" | "ExecuteStmt" | "FetchStmt" => truth.unknowable = true,
        _ => {}
    }
    truth
}

/// INSERT, UPDATE, DELETE, MERGE and SELECT INTO, at any depth.
fn collect(value: &Value, within: &str, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                if matches!(key.as_str(), "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt") {
                    out.extend(relation(inner.get("relation")));
                }
                // COPY (SELECT … INTO …) and INSERT … SELECT … INTO parse, but the server refuses them.
                if key == "intoClause" && !matches!(within, "CopyStmt" | "InsertStmt") {
                    out.extend(relation(inner.get("rel")));
                }
                collect(inner, within, out);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, within, out)),
        _ => {}
    }
}

/// Whether an EXPLAIN runs what it explains: the last ANALYZE option counts.
fn runs(explain: &Value) -> bool {
    let mut options = explain["options"].as_array().into_iter().flatten().map(|option| &option["DefElem"]);
    let analyze = options.rfind(|option| option["defname"] == "analyze");
    analyze.is_some_and(|option| {
        let word = option.pointer("/arg/String/sval").and_then(Value::as_str).unwrap_or("true").to_ascii_lowercase();
        let number = option.pointer("/arg/Integer/ival").and_then(Value::as_i64);
        option.get("arg").is_none() || number == Some(1) || (number.is_none() && (word == "true" || word == "on"))
    })
}
