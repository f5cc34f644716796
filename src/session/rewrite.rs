//! A client's simple-query text with statements of ours in it, and the way back: error positions
//! that the server reports for the longer text.

/// `client_encoding` families, as far as characters are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Characters {
    /// UTF-8.
    #[default]
    Utf8,
    /// One byte each.
    SingleByte,
    /// EUC: two bytes for a lead byte of 0x80 and above, three behind 0x8f.
    Euc,
}

impl Characters {
    /// Of a `client_encoding`.
    #[must_use]
    pub fn of_encoding(name: &[u8]) -> Self {
        if name.eq_ignore_ascii_case(b"UTF8") {
            Self::Utf8
        } else if name.get(..3).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"EUC")) {
            Self::Euc
        } else {
            Self::SingleByte
        }
    }

    /// Characters of `bytes`.
    #[must_use]
    pub fn count(self, bytes: &[u8]) -> usize {
        match self {
            Self::Utf8 => bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count(),
            Self::SingleByte => bytes.len(),
            Self::Euc => {
                let mut at = 0;
                let mut characters = 0;
                while let Some(&lead) = bytes.get(at) {
                    at += match lead {
                        0x8f => 3,
                        0x80.. => 2,
                        _ => 1,
                    };
                    characters += 1;
                }
                characters
            }
        }
    }
}

/// Where a position of the longer text lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// At this position (from 1) of the client's text.
    Client(usize),
    /// In text of ours.
    Ours,
}

/// Positions of what was inserted, in characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PositionMap {
    /// Start in the longer text, length; in order.
    inserted: Vec<(usize, usize)>,
}

/// Whose statement of a longer text is at work: its replies are ours or the client's by position, whatever they look like.
/// Each statement ends with one CommandComplete.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Turns {
    /// How many statements of the client's stand before each of ours; in order.
    ours: Vec<usize>,
    ours_done: usize,
    clients_done: usize,
}

impl Turns {
    /// Whether a statement of ours is at work, or the next one to be.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.ours.get(self.ours_done).is_some_and(|before| *before <= self.clients_done)
    }

    /// A statement has ended.
    pub fn next(&mut self) {
        if self.is_ours() {
            self.ours_done += 1;
        } else {
            self.clients_done += 1;
        }
    }
}

impl PositionMap {
    /// Where position `position` (from 1) of the longer text lies.
    #[must_use]
    pub fn origin(&self, position: usize) -> Origin {
        let offset = position.saturating_sub(1);
        let mut before = 0;
        for &(start, length) in &self.inserted {
            if offset < start {
                break;
            }
            if offset < start + length {
                return Origin::Ours;
            }
            before += length;
        }
        Origin::Client(position - before)
    }
}

/// Builds the longer text.
#[derive(Debug)]
pub struct Rewriter<'a> {
    original: &'a [u8],
    characters: Characters,
    copied: usize,
    text: Vec<u8>,
    length: usize,
    map: PositionMap,
    /// Bytes of the client's text before each of our statements.
    at: Vec<usize>,
}

impl<'a> Rewriter<'a> {
    /// Of a client's text.
    #[must_use]
    pub fn new(original: &'a [u8], characters: Characters) -> Self {
        let text = Vec::with_capacity(original.len() + 512);
        Self { original, characters, copied: 0, text, length: 0, map: PositionMap::default(), at: Vec::new() }
    }

    /// Inserts a statement before the one that starts at byte `at`.
    pub fn before(&mut self, at: usize, sql: &str) {
        self.insert(at, &format!("{sql};"));
    }

    /// Inserts a statement behind the one that ends at byte `at`. A line break first, a semicolon
    /// next: what follows in the client's text (`;`, a comment) then belongs to ours.
    pub fn behind(&mut self, at: usize, sql: &str) {
        self.insert(at, &format!("\n;{sql}"));
    }

    fn insert(&mut self, at: usize, sql: &str) {
        self.copy_to(at);
        self.at.push(at);
        self.map.inserted.push((self.length, sql.chars().count()));
        self.text.extend_from_slice(sql.as_bytes());
        self.length += sql.chars().count();
    }

    fn copy_to(&mut self, at: usize) {
        let piece = self.original.get(self.copied..at).unwrap_or_default();
        self.text.extend_from_slice(piece);
        self.length += self.characters.count(piece);
        self.copied = at.max(self.copied);
    }

    /// Whether nothing was inserted.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.map.inserted.is_empty()
    }

    /// The longer text, the way back, and whose turn it is; the client's statements end at these bytes of its text.
    #[must_use]
    pub fn finish(mut self, ends: &[usize]) -> (Vec<u8>, PositionMap, Turns) {
        self.copy_to(self.original.len());
        let ours = self.at.iter().map(|at| ends.partition_point(|end| end <= at)).collect();
        (self.text, self.map, Turns { ours, ..Turns::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_find_their_way_back() {
        let original = "INSERT ä; SELECT x".as_bytes();
        let mut rewriter = Rewriter::new(original, Characters::Utf8);
        assert!(rewriter.is_unchanged());
        rewriter.before(0, "A");
        rewriter.behind(9, "BB");
        rewriter.behind(original.len(), "C");
        let (text, map, mut turns) = rewriter.finish(&[9, original.len()]);
        assert_eq!(std::str::from_utf8(&text).unwrap(), "A;INSERT ä\n;BB; SELECT x\n;C");
        for ours in [true, false, true, false, true, false] {
            assert_eq!(turns.is_ours(), ours, "{turns:?}");
            turns.next();
        }
        let rows = [
            (1, Origin::Ours),
            (2, Origin::Ours),
            (3, Origin::Client(1)),
            (10, Origin::Client(8)),
            (11, Origin::Ours),
            (14, Origin::Ours),
            (15, Origin::Client(9)),
            (24, Origin::Client(18)),
            (25, Origin::Ours),
            (27, Origin::Ours),
            (28, Origin::Client(19)),
        ];
        for (position, expected) in rows {
            assert_eq!(map.origin(position), expected, "{position}");
        }
        assert_eq!(PositionMap::default().origin(5), Origin::Client(5));
    }

    #[test]
    fn character_rows() {
        assert_eq!(Characters::of_encoding(b"UTF8").count("aäb€".as_bytes()), 4);
        assert_eq!(Characters::of_encoding(b"LATIN1").count(b"a\xe4b"), 3);
        assert_eq!(Characters::of_encoding(b"EUC_JP").count(b"a\xa4\xa2\x8f\xb0\xa1b"), 4);
    }
}
