//! What a client has given names to, where most give none: the unnamed statement and the unnamed portal are the ones that
//! drivers use again for each query, and cost no hash.

use std::collections::HashMap;

/// Values under names of bytes.
#[derive(Debug)]
pub struct ByName<V> {
    unnamed: Option<V>,
    named: HashMap<Box<[u8]>, V>,
}

impl<V> Default for ByName<V> {
    fn default() -> Self {
        Self { unnamed: None, named: HashMap::new() }
    }
}

impl<V> ByName<V> {
    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&V> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, name: &[u8]) -> Option<&mut V> {
        if name.is_empty() { self.unnamed.as_mut() } else { self.named.get_mut(name) }
    }

    /// Gives a name a value; returns the one that it had.
    pub fn insert(&mut self, name: &[u8], value: V) -> Option<V> {
        if name.is_empty() { self.unnamed.replace(value) } else { self.named.insert(name.into(), value) }
    }

    /// Takes a name's value.
    pub fn remove(&mut self, name: &[u8]) -> Option<V> {
        if name.is_empty() { self.unnamed.take() } else { self.named.remove(name) }
    }

    /// Takes all.
    pub fn clear(&mut self) {
        self.unnamed = None;
        self.named.clear();
    }

    /// How many have a name.
    #[must_use]
    pub fn named(&self) -> usize {
        self.named.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unnamed_one_is_a_name_like_others() {
        for name in [&b""[..], b"s"] {
            let mut all = ByName::default();
            assert_eq!(all.insert(name, 1), None);
            assert_eq!(all.insert(b"other", 7), None);
            assert_eq!(all.insert(name, 2), Some(1));
            *all.get_mut(name).unwrap() += 1;
            assert_eq!(all.get(name), Some(&3));
            assert_eq!(all.remove(name), Some(3));
            assert_eq!((all.get(name), all.get(b"other")), (None, Some(&7)));
            all.insert(name, 4);
            all.clear();
            assert_eq!((all.get(name), all.get(b"other"), all.named()), (None, None, 0));
        }
    }
}
