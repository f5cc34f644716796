//! Tokens of an SQL text, as PostgreSQL's own scanner sees them (`src/backend/parser/scan.l`).
//!
//! Written by hand because statements are split, and injections placed, by these tokens: they must
//! end where the server's end, also for text that no grammar of ours accepts. Works on bytes: in
//! every client encoding whose trail bytes are not ASCII (see [`is_lexable_encoding`]) a byte of
//! 0x80 and above is part of a name, a string or a comment.

/// Usual length of a token, with the white space behind it.
const BYTES_OF_TOKEN: usize = 6;

/// Kind of a token. Comments and white space are no tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Keyword or unquoted name.
    Word,
    /// `"name"`.
    QuotedName,
    /// `U&"name"`.
    UnicodeName,
    /// `'…'` without escapes, or `N'…'`.
    String,
    /// `E'…'`, or `'…'` where backslashes escape.
    EscapeString,
    /// `$tag$…$tag$`.
    DollarString,
    /// `U&'…'`, `B'…'`, `X'…'`.
    OtherString,
    /// A number.
    Number,
    /// `$1`.
    Parameter,
    /// One or more operator characters.
    Operator,
    /// `::`.
    TypeCast,
    /// `(`.
    OpenParen,
    /// `)`.
    CloseParen,
    /// `[`.
    OpenBracket,
    /// `]`.
    CloseBracket,
    /// `,`.
    Comma,
    /// `;`.
    Semicolon,
    /// `.`.
    Dot,
    /// Anything else (`:`, a stray byte).
    Other,
}

/// A token: its kind and where it stands, in bytes. Small, because a long statement has many; texts are
/// bounded far below 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Kind.
    pub kind: TokenKind,
    start: u32,
    end: u32,
}

impl Token {
    /// Offset of the first byte.
    #[must_use]
    pub const fn start(self) -> usize {
        self.start as usize
    }

    /// Offset behind the last byte.
    #[must_use]
    pub const fn end(self) -> usize {
        self.end as usize
    }
}

/// Why a text has no tokens: the server refuses it too, before it runs anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LexError {
    /// A quoted string, name or dollar quote that does not end.
    #[error("unterminated quoted string or name")]
    UnterminatedQuote,
    /// A comment that does not end.
    #[error("unterminated comment")]
    UnterminatedComment,
    /// Longer than offsets reach: longer than any message of the protocol.
    #[error("longer than 4 GiB")]
    TooLong,
}

/// Whether ASCII bytes always are ASCII characters in this `client_encoding`. The others (a trail
/// byte may be a quote or a backslash) are client-only encodings of PostgreSQL.
#[must_use]
pub fn is_lexable_encoding(name: &[u8]) -> bool {
    const UNSAFE: [&[u8]; 7] = [b"SJIS", b"BIG5", b"GBK", b"UHC", b"GB18030", b"JOHAB", b"SHIFT_JIS_2004"];
    !UNSAFE.iter().any(|encoding| name.eq_ignore_ascii_case(encoding))
}

/// Splits `text` into tokens, appended to `tokens`.
///
/// # Errors
/// [`LexError`] where a quote or comment does not end.
pub fn lex(text: &[u8], standard_conforming_strings: bool, tokens: &mut Vec<Token>) -> Result<(), LexError> {
    let mut lexer = Lexer { text, at: 0, standard_conforming_strings };
    // Rows of values: a token for every six bytes or so.
    tokens.reserve(text.len() / BYTES_OF_TOKEN);
    while let Some(token) = lexer.next_token()? {
        tokens.push(token);
    }
    Ok(())
}

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    standard_conforming_strings: bool,
}

const fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

const fn is_name_part(byte: u8) -> bool {
    is_name_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

const fn is_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn starts_with(&self, prefix: &[u8]) -> bool {
        self.text.get(self.at..).is_some_and(|rest| rest.starts_with(prefix))
    }

    fn skip_while(&mut self, accept: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&accept) {
            self.at += 1;
        }
    }

    fn next_token(&mut self) -> Result<Option<Token>, LexError> {
        self.skip_blanks()?;
        let start = self.at;
        let Some(first) = self.peek(0) else { return Ok(None) };
        let kind = self.scan(first)?;
        let offset = |at: usize| u32::try_from(at).map_err(|_| LexError::TooLong);
        Ok(Some(Token { kind, start: offset(start)?, end: offset(self.at)? }))
    }

    /// Skips white space and comments.
    fn skip_blanks(&mut self) -> Result<(), LexError> {
        loop {
            self.skip_while(is_space);
            if self.starts_with(b"--") {
                self.skip_while(|byte| byte != b'\n' && byte != b'\r');
            } else if self.starts_with(b"/*") {
                self.skip_block_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), LexError> {
        let mut depth = 0_usize;
        loop {
            if self.starts_with(b"/*") {
                depth += 1;
                self.at += 2;
            } else if self.starts_with(b"*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return Ok(());
                }
            } else if self.peek(0).is_some() {
                self.at += 1;
            } else {
                return Err(LexError::UnterminatedComment);
            }
        }
    }

    fn scan(&mut self, first: u8) -> Result<TokenKind, LexError> {
        let second = self.peek(1);
        let third = self.peek(2);
        match (first, second, third) {
            (b'\'', ..) if self.standard_conforming_strings => self.string(0, false),
            (b'\'', ..) => self.string(0, true),
            (b'e' | b'E', Some(b'\''), _) => self.string(1, true),
            (b'n' | b'N', Some(b'\''), _) => self.string(1, !self.standard_conforming_strings),
            (b'b' | b'B' | b'x' | b'X', Some(b'\''), _) => self.string(1, false).map(|_| TokenKind::OtherString),
            (b'u' | b'U', Some(b'&'), Some(b'\'')) => self.string(2, false).map(|_| TokenKind::OtherString),
            (b'u' | b'U', Some(b'&'), Some(b'"')) => {
                self.at += 2;
                self.quoted_name().map(|()| TokenKind::UnicodeName)
            }
            (b'"', ..) => self.quoted_name().map(|()| TokenKind::QuotedName),
            (b'$', ..) => self.dollar(),
            (b'.', Some(digit), _) if digit.is_ascii_digit() => Ok(self.number()),
            (digit, ..) if digit.is_ascii_digit() => Ok(self.number()),
            (start, ..) if is_name_start(start) => {
                self.skip_while(is_name_part);
                Ok(TokenKind::Word)
            }
            (b':', Some(b':'), _) => {
                self.at += 2;
                Ok(TokenKind::TypeCast)
            }
            (operator, ..) if is_operator(operator) => Ok(self.operator()),
            _ => {
                self.at += 1;
                Ok(single(first))
            }
        }
    }

    /// A string whose opening quote stands `prefix` bytes ahead. A string goes on behind white
    /// space with a line break, in the same mode (SQL's continuation).
    fn string(&mut self, prefix: usize, escapes: bool) -> Result<TokenKind, LexError> {
        self.at += prefix + 1;
        loop {
            match self.peek(0) {
                None => return Err(LexError::UnterminatedQuote),
                Some(b'\\') if escapes => self.at = (self.at + 2).min(self.text.len()),
                Some(b'\'') if self.peek(1) == Some(b'\'') => self.at += 2,
                Some(b'\'') => {
                    self.at += 1;
                    if !self.skip_to_continuation() {
                        break;
                    }
                }
                Some(_) => self.skip_while(|byte| byte != b'\'' && byte != b'\\'),
            }
            if !escapes && self.peek(0) == Some(b'\\') {
                self.at += 1;
            }
        }
        Ok(if escapes { TokenKind::EscapeString } else { TokenKind::String })
    }

    /// Behind a closing quote: moves behind the opening quote of a continuation, if there is one.
    fn skip_to_continuation(&mut self) -> bool {
        let end = self.at;
        let mut line_break = false;
        loop {
            match self.peek(0) {
                Some(b'\n' | b'\r') => {
                    line_break = true;
                    self.at += 1;
                }
                Some(byte) if is_space(byte) => self.at += 1,
                Some(b'-') if self.peek(1) == Some(b'-') => {
                    self.skip_while(|byte| byte != b'\n' && byte != b'\r');
                }
                Some(b'\'') if line_break => {
                    self.at += 1;
                    return true;
                }
                _ => {
                    self.at = end;
                    return false;
                }
            }
        }
    }

    fn quoted_name(&mut self) -> Result<(), LexError> {
        self.at += 1;
        loop {
            match self.peek(0) {
                None => return Err(LexError::UnterminatedQuote),
                Some(b'"') if self.peek(1) == Some(b'"') => self.at += 2,
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// `$1`, `$tag$…$tag$` or a stray `$`.
    fn dollar(&mut self) -> Result<TokenKind, LexError> {
        let start = self.at;
        self.at += 1;
        if self.peek(0).is_some_and(|byte| byte.is_ascii_digit()) {
            self.skip_while(|byte| byte.is_ascii_digit());
            return Ok(TokenKind::Parameter);
        }
        if self.peek(0).is_some_and(is_name_start) {
            self.skip_while(|byte| is_name_part(byte) && byte != b'$');
        }
        if self.peek(0) != Some(b'$') {
            self.at = start + 1;
            return Ok(TokenKind::Other);
        }
        self.at += 1;
        let tag = self.text.get(start..self.at).unwrap_or_default();
        let rest = self.text.get(self.at..).unwrap_or_default();
        let end = memchr::memmem::find(rest, tag).ok_or(LexError::UnterminatedQuote)?;
        self.at += end + tag.len();
        Ok(TokenKind::DollarString)
    }

    fn number(&mut self) -> TokenKind {
        self.skip_while(|byte| byte.is_ascii_digit() || byte == b'_');
        // `1..2` is a range: the number ends before two dots.
        if self.peek(0) == Some(b'.') && self.peek(1) != Some(b'.') {
            self.at += 1;
            self.skip_while(|byte| byte.is_ascii_digit() || byte == b'_');
        }
        let exponent = matches!(
            (self.peek(0), self.peek(1), self.peek(2)),
            (Some(b'e' | b'E'), Some(b'0'..=b'9'), _) | (Some(b'e' | b'E'), Some(b'+' | b'-'), Some(b'0'..=b'9'))
        );
        if exponent {
            self.at += 2;
        }
        // Digits of the exponent, hexadecimal digits, or junk that the server refuses.
        self.skip_while(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        TokenKind::Number
    }

    /// Operator characters up to the start of a comment; a trailing `+` or `-` belongs to what
    /// follows unless the operator has a character that no SQL operator has (scan.l, `operator`).
    fn operator(&mut self) -> TokenKind {
        let start = self.at;
        while self.peek(0).is_some_and(is_operator) && !(self.starts_with(b"--") || self.starts_with(b"/*")) {
            self.at += 1;
        }
        let special = |byte: &u8| b"~!@#^&|`?%".contains(byte);
        while self.at > start + 1 {
            let operator = self.text.get(start..self.at).unwrap_or_default();
            if !matches!(operator.last(), Some(b'+' | b'-')) || operator.iter().any(special) {
                break;
            }
            self.at -= 1;
        }
        TokenKind::Operator
    }
}

const fn single(byte: u8) -> TokenKind {
    match byte {
        b'(' => TokenKind::OpenParen,
        b')' => TokenKind::CloseParen,
        b'[' => TokenKind::OpenBracket,
        b']' => TokenKind::CloseBracket,
        b',' => TokenKind::Comma,
        b';' => TokenKind::Semicolon,
        b'.' => TokenKind::Dot,
        _ => TokenKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str, standard: bool) -> String {
        let mut tokens = Vec::new();
        match lex(text.as_bytes(), standard, &mut tokens) {
            Ok(()) => {
                tokens.iter().map(|token| text.get(token.start()..token.end()).unwrap()).collect::<Vec<_>>().join("¦")
            }
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn token_rows() {
        let rows = [
            ("", ""),
            ("  \t\r\n ", ""),
            ("SELECT 1", "SELECT¦1"),
            ("a--c\nb", "a¦b"),
            ("a--c\rb", "a¦b"),
            ("a/* x /* y */ z */b", "a¦b"),
            ("a/*/**/", "UnterminatedComment"),
            ("'it''s' x", "'it''s'¦x"),
            ("'a\\' x", "'a\\'¦x"),
            ("E'a\\'b' x", "E'a\\'b'¦x"),
            ("E'a\\\\' x", "E'a\\\\'¦x"),
            ("E'\\", "UnterminatedQuote"),
            ("'a' 'b'", "'a'¦'b'"),
            ("'a'\n 'b' c", "'a'\n 'b'¦c"),
            ("'a' -- x\n 'b' c", "'a' -- x\n 'b'¦c"),
            ("E'a'\n'b\\'c' d", "E'a'\n'b\\'c'¦d"),
            ("'a'\nb", "'a'¦b"),
            ("'open", "UnterminatedQuote"),
            ("\"a\"\"b\".c", "\"a\"\"b\"¦.¦c"),
            ("\"open", "UnterminatedQuote"),
            ("U&\"d\\0061\" U&'x'", "U&\"d\\0061\"¦U&'x'"),
            ("u & 'x'", "u¦&¦'x'"),
            ("$1,$2", "$1¦,¦$2"),
            ("$$a;b$$;", "$$a;b$$¦;"),
            ("$t$ $$ $t$ x", "$t$ $$ $t$¦x"),
            ("$t$ $T$", "UnterminatedQuote"),
            ("a$b$ c", "a$b$¦c"),
            ("$ x", "$¦x"),
            ("1.5e-3 .5 1..2 0x1F 1_000 1e", "1.5e-3¦.5¦1¦.¦.2¦0x1F¦1_000¦1e"),
            ("a::uuid", "a¦::¦uuid"),
            ("a=-1", "a¦=¦-¦1"),
            ("a@-1", "a¦@-¦1"),
            ("a->>'k'", "a¦->>¦'k'"),
            ("a<--c", "a¦<"),
            ("a+/*c*/b", "a¦+¦b"),
            ("x[1:2]", "x¦[¦1¦:¦2¦]"),
            ("f(a => 1, b := 2)", "f¦(¦a¦=>¦1¦,¦b¦:¦=¦2¦)"),
            ("tv_ä", "tv_ä"),
            ("N'x' B'1' X'f'", "N'x'¦B'1'¦X'f'"),
            ("\0\u{1}", "\0¦\u{1}"),
        ];
        for (text, expected) in rows {
            assert_eq!(tokens(text, true), expected, "{text:?}");
        }
        assert_eq!(tokens("'a\\'b' x", false), "'a\\'b'¦x");
        assert_eq!(tokens("'a\\", false), "UnterminatedQuote");
        assert_eq!(tokens("'a\\'", false), "UnterminatedQuote");
    }

    #[test]
    fn unsafe_encodings() {
        assert!(is_lexable_encoding(b"UTF8") && is_lexable_encoding(b"LATIN1"));
        assert!(!is_lexable_encoding(b"SJIS") && !is_lexable_encoding(b"gb18030"));
    }
}
