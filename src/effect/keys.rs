//! The bounded memory of (tenant, domain) pairs that readers can see: the database need not look for them again.

use quick_cache::sync::Cache;
use uuid::Uuid;

use crate::limits;

/// A pair; no tenant stands for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Tenant.
    pub tenant: Option<Uuid>,
    /// Domain.
    pub domain: Box<str>,
}

/// A pair that is compared without being copied; hashed as [`Key`] is.
#[derive(Hash)]
struct Borrowed<'a> {
    tenant: Option<Uuid>,
    domain: &'a str,
}

impl quick_cache::Equivalent<Key> for Borrowed<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.tenant == key.tenant && self.domain == &*key.domain
    }
}

/// Pairs that a committed bump has made known. A pair that the database has forgotten since is found again by the fold
/// worker.
#[derive(Debug)]
pub struct KnownKeys(Cache<Key, ()>);

impl Default for KnownKeys {
    fn default() -> Self {
        Self(Cache::new(limits::KNOWN_KEYS_MAX))
    }
}

impl KnownKeys {
    /// Whether it is known.
    #[must_use]
    pub fn has(&self, tenant: Option<Uuid>, domain: &str) -> bool {
        self.0.get(&Borrowed { tenant, domain }).is_some()
    }

    /// Makes it known.
    pub fn add(&self, key: Key) {
        self.0.insert(key, ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_up_to_its_limit() {
        let keys = KnownKeys::default();
        let tenant = Some(Uuid::from_u128(7));
        keys.add(Key { tenant, domain: "a".into() });
        assert!(keys.has(tenant, "a") && !keys.has(None, "a") && !keys.has(tenant, "b"));
        for number in 0..2 * limits::KNOWN_KEYS_MAX {
            keys.add(Key { tenant: None, domain: number.to_string().into() });
        }
        assert!(keys.0.len() <= limits::KNOWN_KEYS_MAX);
    }
}
