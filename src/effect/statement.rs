//! From tokens to statements: where each begins and ends, and small tools to read them.

use super::lexer::{Token, TokenKind};

/// Bytes to which PostgreSQL truncates a name (`NAMEDATALEN` - 1).
const NAME_BYTES_MAX: usize = 63;

/// The tokens of one statement, without the semicolon.
#[derive(Debug, Clone, Copy)]
pub struct StatementTokens<'a> {
    /// The whole text that `tokens` point into.
    pub text: &'a [u8],
    /// Tokens, never empty.
    pub tokens: &'a [Token],
}

/// Splits tokens at the semicolons that end statements, as the server's grammar does: not inside
/// parentheses (CREATE RULE … DO (…; …)), not inside BEGIN ATOMIC … END. `None` where only a grammar can
/// tell where such a body ends: `end` and `case` may be labels in it.
pub fn split<'a>(text: &'a [u8], tokens: &'a [Token]) -> Option<Vec<StatementTokens<'a>>> {
    let mut statements = Vec::new();
    let mut start = 0;
    let mut parens = 0_usize;
    let mut blocks = 0_usize;
    // Index behind which nothing but semicolons may stand, because of a body.
    let mut body_end = None;
    let word = |token: &Token, keyword: &str| {
        token.kind == TokenKind::Word && bytes(text, token).eq_ignore_ascii_case(keyword.as_bytes())
    };
    let mut push = |from: usize, to: usize| {
        let tokens = tokens.get(from..to).unwrap_or_default();
        if !tokens.is_empty() {
            statements.push(StatementTokens { text, tokens });
        }
    };
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            TokenKind::OpenParen => parens += 1,
            TokenKind::CloseParen => parens = parens.saturating_sub(1),
            TokenKind::Word if blocks == 0 => {
                let atomic = tokens.get(index + 1).is_some_and(|next| word(next, "atomic"));
                let create = tokens.get(start).is_some_and(|first| word(first, "create"));
                blocks = usize::from(create && atomic && word(token, "begin"));
            }
            TokenKind::Word if word(token, "case") => blocks += 1,
            TokenKind::Word if word(token, "end") => {
                blocks -= 1;
                body_end = Some(index);
            }
            TokenKind::Semicolon if parens == 0 && blocks == 0 => {
                push(start, index);
                start = index + 1;
            }
            _ => {}
        }
    }
    push(start, tokens.len());
    let more = |end: usize| tokens.iter().skip(end + 1).any(|token| token.kind != TokenKind::Semicolon);
    (blocks == 0 && !body_end.is_some_and(more)).then_some(statements)
}

fn bytes<'a>(text: &'a [u8], token: &Token) -> &'a [u8] {
    text.get(token.start()..token.end()).unwrap_or_default()
}

impl<'a> StatementTokens<'a> {
    /// Bytes of the text that the statement takes, from its first token to its last.
    #[must_use]
    pub fn span(&self) -> (usize, usize) {
        let start = self.tokens.first().map_or(0, |token| token.start());
        let end = self.tokens.last().map_or(start, |token| token.end());
        (start, end)
    }

    /// Bytes of the token at `index`; empty behind the end.
    #[must_use]
    pub fn bytes(&self, index: usize) -> &'a [u8] {
        self.tokens.get(index).map_or(&[], |token| bytes(self.text, token))
    }

    /// Kind of the token at `index`.
    #[must_use]
    pub fn kind(&self, index: usize) -> Option<TokenKind> {
        self.tokens.get(index).map(|token| token.kind)
    }

    /// Whether the token at `index` is the keyword (given in lower case).
    #[must_use]
    pub fn is_word(&self, index: usize, keyword: &str) -> bool {
        self.kind(index) == Some(TokenKind::Word) && self.bytes(index).eq_ignore_ascii_case(keyword.as_bytes())
    }

    /// Whether the token at `index` is one of the keywords.
    #[must_use]
    pub fn is_any(&self, index: usize, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.is_word(index, keyword))
    }

    /// Whether the tokens from `index` on are these keywords.
    #[must_use]
    pub fn are_words(&self, index: usize, keywords: &[&str]) -> bool {
        keywords.iter().enumerate().all(|(offset, keyword)| self.is_word(index + offset, keyword))
    }

    /// Whether the token at `index` is a name or keyword.
    #[must_use]
    pub fn is_name(&self, index: usize) -> bool {
        matches!(self.kind(index), Some(TokenKind::Word | TokenKind::QuotedName | TokenKind::UnicodeName))
    }

    /// The name at `index` as the catalog spells it; `None` when it is no name or is not UTF-8.
    #[must_use]
    pub fn name(&self, index: usize) -> Option<String> {
        if !self.is_name(index) {
            return None;
        }
        let raw = std::str::from_utf8(self.bytes(index)).ok()?;
        let mut name = match self.kind(index)? {
            TokenKind::Word => raw.to_ascii_lowercase(),
            TokenKind::QuotedName => unquote(raw)?,
            TokenKind::UnicodeName => self.unicode_name(index, raw)?,
            _ => return None,
        };
        if name.len() > NAME_BYTES_MAX {
            let end = (0..=NAME_BYTES_MAX).rev().find(|end| name.is_char_boundary(*end))?;
            name.truncate(end);
        }
        Some(name)
    }

    /// `U&"…"`, with the escape character of a following UESCAPE.
    fn unicode_name(&self, index: usize, raw: &str) -> Option<String> {
        let escape = if self.is_word(index + 1, "uescape") {
            match self.bytes(index + 2) {
                [b'\'', escape, b'\''] => char::from(*escape),
                _ => return None,
            }
        } else {
            '\\'
        };
        let mut name = String::new();
        let quoted = unquote(raw.get(2..)?)?;
        let mut rest = quoted.chars();
        while let Some(next) = rest.next() {
            if next != escape {
                name.push(next);
                continue;
            }
            let tail = rest.as_str();
            let (digits, skip) = match tail.chars().next()? {
                same if same == escape => {
                    rest.next();
                    name.push(escape);
                    continue;
                }
                '+' => (tail.get(1..7)?, 7),
                _ => (tail.get(..4)?, 4),
            };
            name.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
            rest = tail.get(skip..)?.chars();
        }
        Some(name)
    }

    /// A possibly qualified name that starts at `index`: schema, name, index behind it.
    #[must_use]
    pub fn qualified_name(&self, index: usize) -> Option<QualifiedName> {
        let mut at = index;
        let mut schema = None;
        let mut name = self.name(at)?;
        loop {
            at += if self.kind(at) == Some(TokenKind::UnicodeName) && self.is_word(at + 1, "uescape") { 3 } else { 1 };
            if self.kind(at) != Some(TokenKind::Dot) || !self.is_name(at + 1) {
                return Some(QualifiedName { schema, name, end: at });
            }
            at += 1;
            schema = Some(name);
            name = self.name(at)?;
        }
    }

    /// Index of the first token at parenthesis depth 0 from `from` on that `accept`s.
    pub fn find_top(&self, from: usize, accept: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let mut depth = 0_usize;
        for index in from..self.tokens.len() {
            match self.kind(index)? {
                TokenKind::OpenParen | TokenKind::OpenBracket => depth += 1,
                TokenKind::CloseParen | TokenKind::CloseBracket => depth = depth.checked_sub(1)?,
                _ if depth == 0 && accept(self, index) => return Some(index),
                _ => {}
            }
        }
        None
    }

    /// Index behind the parenthesis that closes the one at `open`.
    #[must_use]
    pub fn behind_parens(&self, open: usize) -> Option<usize> {
        let mut depth = 0_usize;
        for index in open..self.tokens.len() {
            match self.kind(index)? {
                TokenKind::OpenParen | TokenKind::OpenBracket => depth += 1,
                TokenKind::CloseParen | TokenKind::CloseBracket => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        return Some(index + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// A name with its schema, if the text says one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QualifiedName {
    /// Schema.
    pub schema: Option<String>,
    /// Name.
    pub name: String,
    /// Index of the token behind the name.
    pub end: usize,
}

fn unquote(raw: &str) -> Option<String> {
    Some(raw.strip_prefix('"')?.strip_suffix('"')?.replace("\"\"", "\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::lexer::lex;

    fn with<T>(text: &str, read: impl FnOnce(StatementTokens<'_>) -> T) -> T {
        let mut tokens = Vec::new();
        lex(text.as_bytes(), true, &mut tokens).unwrap();
        read(StatementTokens { text: text.as_bytes(), tokens: &tokens })
    }

    #[test]
    fn split_rows() {
        let rows = [
            ("", ""),
            (";;", ""),
            ("a; b ;", "a|b"),
            ("a -- x;\n;b", "a|b"),
            ("select ';' ; b", "select ';'|b"),
            ("create rule r as on insert to t do (a; b); c", "create rule r as on insert to t do (a; b)|c"),
            (
                "create or replace function f() returns int begin atomic select case when a then b end; select 2; end;;",
                "create or replace function f() returns int begin atomic select case when a then b end; select 2; end",
            ),
            ("create function f() returns int begin atomic select 1; end; x", "?"),
            ("create function f() returns int begin atomic select t.end from t; delete from tv_a; end; commit", "?"),
            ("create function f() returns int begin atomic select 1 as case; end; delete from tv_b; commit", "?"),
            ("begin; a; end; b", "begin|a|end|b"),
            ("select (1; b", "select (1; b"),
            ("do $$ begin a; end $$; b", "do $$ begin a; end $$|b"),
        ];
        for (text, expected) in rows {
            let mut tokens = Vec::new();
            lex(text.as_bytes(), true, &mut tokens).unwrap();
            let got = split(text.as_bytes(), &tokens).map_or_else(
                || "?".to_owned(),
                |statements| {
                    let texts: Vec<&str> = statements
                        .iter()
                        .map(|statement| {
                            let (start, end) = statement.span();
                            text.get(start..end).unwrap()
                        })
                        .collect();
                    texts.join("|")
                },
            );
            assert_eq!(got, expected, "{text:?}");
        }
    }

    #[test]
    fn name_rows() {
        let long = "t".repeat(70);
        let rows = [
            ("TV_A x", Some((None, "tv_a"))),
            ("\"TV_A\"", Some((None, "TV_A"))),
            ("s.\"a\"\"b\"", Some((Some("s"), "a\"b"))),
            ("db.s.t.c", Some((Some("t"), "c"))),
            ("U&\"tv\\005fa\" VALUES", Some((None, "tv_a"))),
            ("U&\"tv!005fa\" UESCAPE '!' VALUES", Some((None, "tv_a"))),
            ("U&\"a\\\\b\\+00005f\"", Some((None, "a\\b_"))),
            ("U&\"\\zz\"", None),
            ("'x'", None),
            (long.as_str(), Some((None, long.get(..63).unwrap()))),
        ];
        for (text, expected) in rows {
            let got = with(text, |statement| statement.qualified_name(0).map(|found| (found.schema, found.name)));
            let expected = expected.map(|(schema, name)| (schema.map(str::to_owned), name.to_owned()));
            assert_eq!(got, expected, "{text:?}");
        }
    }
}
