//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), both roles, with a verifier instead of a password.
//!
//! PostgreSQL: `src/backend/libpq/auth-scram.c` and `src/interfaces/libpq/fe-auth-scram.c`, whose checks and
//! deviations are followed: the user name of the messages is ignored (the startup packet names the role), an
//! authorization identity is refused, the only channel binding is `tls-server-end-point` (RFC 5929).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// The only channel binding type of PostgreSQL.
const BINDING_TYPE: &str = "tls-server-end-point";
/// Random bytes of a nonce, as `SCRAM_RAW_NONCE_LEN`.
pub const NONCE_BYTES: usize = 18;
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// A key, a signature, or a proof.
pub type Key = [u8; KEY_BYTES];

/// Why an exchange failed. Holds nothing of what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message is not what RFC 5802 says.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The two sides do not agree on channel binding.
    #[error("SCRAM channel binding negotiation error: {0}")]
    Binding(&'static str),
    /// The proof is wrong: the password is.
    #[error("SCRAM authentication failed")]
    Proof,
    /// The server does not have the verifier that we have.
    #[error("the server's SCRAM verifier is another one than Turnstile's")]
    Verifier,
    /// The server does not know the verifier: it is not who it says.
    #[error("incorrect SCRAM server signature")]
    Server,
}

/// What a server keeps instead of a password: `pg_authid.rolpassword`.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    /// In base64, as sent.
    salt: String,
    stored_key: Key,
    server_key: Key,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    /// Parses `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (iterations, rest) = text.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        BASE64.decode(salt).ok().filter(|salt| !salt.is_empty())?;
        Some(Self {
            iterations: iterations.parse().ok().filter(|count| *count > 0)?,
            salt: salt.to_owned(),
            stored_key: BASE64.decode(stored_key).ok()?.try_into().ok()?,
            server_key: BASE64.decode(server_key).ok()?.try_into().ok()?,
        })
    }

    /// One that no password fits: roles without a password look like those that have one. The same role gets the
    /// same salt while `secret` is the same.
    #[must_use]
    pub fn mock(role: &[u8], secret: &Key) -> Self {
        let salt = hmac(secret, &[role]);
        let keys = hmac(secret, &[b"keys", role]);
        Self {
            iterations: 4096,
            salt: BASE64.encode(salt.get(..16).unwrap_or_default()),
            stored_key: keys,
            server_key: hmac(&keys, &[b"server"]),
        }
    }
}

/// What a client offers and what is bound, as the server of an exchange sees it.
#[derive(Debug)]
pub struct ScramServer {
    gs2_header: String,
    client_first_bare: String,
    server_first: String,
    nonce: String,
    /// What `c=` must hold, in base64.
    expected_binding: String,
    verifier: Verifier,
}

impl ScramServer {
    /// Takes the client's first message. `binding`: the hash of our certificate, when
    /// [`SCRAM_SHA_256_PLUS`] was offered.
    ///
    /// # Errors
    /// [`ScramError`].
    pub fn begin(
        mechanism: &[u8],
        client_first: &[u8],
        binding: Option<&[u8]>,
        verifier: Verifier,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<(Self, String), ScramError> {
        let malformed = ScramError::Malformed;
        let plus = match mechanism {
            mechanism if mechanism == SCRAM_SHA_256.as_bytes() => false,
            mechanism if mechanism == SCRAM_SHA_256_PLUS.as_bytes() && binding.is_some() => true,
            _ => return Err(malformed("the client selected an invalid SASL authentication mechanism")),
        };
        let text = std::str::from_utf8(client_first).map_err(|_| malformed("not ASCII"))?;
        let (flag, rest) = text.split_once(',').ok_or_else(|| malformed("no channel-binding flag"))?;
        let (identity, bare) = rest.split_once(',').ok_or_else(|| malformed("no authorization identity"))?;
        if !identity.is_empty() {
            return Err(malformed("client uses authorization identity, but it is not supported"));
        }
        check_binding_flag(flag, plus, binding.is_some())?;
        let mut fields = bare.split(',');
        let user = fields.next().unwrap_or_default();
        if user.starts_with("m=") {
            return Err(malformed("client requires an unsupported SCRAM extension"));
        }
        if !user.starts_with("n=") {
            return Err(malformed("no user name"));
        }
        let client_nonce =
            fields.next().and_then(|field| field.strip_prefix("r=")).ok_or_else(|| malformed("no nonce"))?;
        if client_nonce.is_empty() || !is_printable(client_nonce) {
            return Err(malformed("non-printable characters in SCRAM nonce"));
        }
        let nonce = format!("{client_nonce}{}", BASE64.encode(nonce));
        let server_first = format!("r={nonce},s={},i={}", verifier.salt, verifier.iterations);
        let gs2_header = format!("{flag},,");
        let bound = binding.filter(|_| plus).unwrap_or_default();
        let expected_binding = BASE64.encode([gs2_header.as_bytes(), bound].concat());
        let server = Self {
            gs2_header,
            client_first_bare: bare.to_owned(),
            server_first: server_first.clone(),
            nonce,
            expected_binding,
            verifier,
        };
        Ok((server, server_first))
    }

    /// Takes the client's final message: the client's key, and our final message.
    ///
    /// # Errors
    /// [`ScramError`]; [`ScramError::Proof`] when the password is wrong.
    pub fn finish(self, client_final: &[u8]) -> Result<(Key, String), ScramError> {
        let malformed = ScramError::Malformed;
        let text = std::str::from_utf8(client_final).map_err(|_| malformed("not ASCII"))?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or_else(|| malformed("no proof"))?;
        let mut fields = without_proof.split(',');
        let bound =
            fields.next().and_then(|field| field.strip_prefix("c=")).ok_or_else(|| malformed("no channel binding"))?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r=")).ok_or_else(|| malformed("no nonce"))?;
        let proof: Key = BASE64
            .decode(proof)
            .ok()
            .and_then(|proof| proof.try_into().ok())
            .ok_or_else(|| malformed("malformed proof"))?;
        if !same(bound.as_bytes(), self.expected_binding.as_bytes()) {
            return Err(if self.gs2_header.starts_with('p') {
                ScramError::Binding("SCRAM channel binding check failed")
            } else {
                malformed("unexpected SCRAM channel-binding attribute in client-final-message")
            });
        }
        if !same(nonce.as_bytes(), self.nonce.as_bytes()) {
            return Err(malformed("nonce does not match"));
        }
        let message = [&self.client_first_bare, &self.server_first, without_proof].join(",");
        let client_key = xor(&proof, &hmac(&self.verifier.stored_key, &[message.as_bytes()]));
        if !same(&Sha256::digest(client_key), &self.verifier.stored_key) {
            return Err(ScramError::Proof);
        }
        let signature = hmac(&self.verifier.server_key, &[message.as_bytes()]);
        Ok((client_key, format!("v={}", BASE64.encode(signature))))
    }
}

/// The flag says whether the client binds (`p=`), cannot (`n`), or thinks that we cannot (`y`).
fn check_binding_flag(flag: &str, plus: bool, offered: bool) -> Result<(), ScramError> {
    match flag {
        "n" | "y" if plus => Err(ScramError::Binding(
            "the client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data",
        )),
        "n" => Ok(()),
        // Someone may have taken it out of the list.
        "y" if offered => Err(ScramError::Binding(
            "the client supports SCRAM channel binding but thinks the server does not; however, this server does support channel binding",
        )),
        "y" => Ok(()),
        _ => match flag.strip_prefix("p=") {
            Some(_) if !plus => Err(ScramError::Binding(
                "the client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data",
            )),
            Some(BINDING_TYPE) => Ok(()),
            Some(_) => Err(ScramError::Binding("unsupported SCRAM channel-binding type")),
            None => Err(ScramError::Malformed("unexpected channel-binding flag")),
        },
    }
}

/// The client of an exchange, with the key of a client that has shown its proof.
#[derive(Debug)]
pub struct ScramClient {
    gs2_header: String,
    bound: Vec<u8>,
    first_bare: String,
    nonce: String,
}

/// The end of an exchange: what the server must answer.
#[derive(Debug)]
pub struct ScramEnd {
    signature: Key,
}

impl ScramClient {
    /// The mechanism, and the first message. `binding`: the hash of the server's certificate, when the server offers
    /// [`SCRAM_SHA_256_PLUS`].
    #[must_use]
    pub fn begin(binding: Option<Vec<u8>>, nonce: [u8; NONCE_BYTES]) -> (Self, &'static str, String) {
        let mechanism = if binding.is_some() { SCRAM_SHA_256_PLUS } else { SCRAM_SHA_256 };
        let gs2_header = if binding.is_some() { format!("p={BINDING_TYPE},,") } else { "n,,".to_owned() };
        let nonce = BASE64.encode(nonce);
        let first_bare = format!("n=,r={nonce}");
        let first = format!("{gs2_header}{first_bare}");
        (Self { gs2_header, bound: binding.unwrap_or_default(), first_bare, nonce }, mechanism, first)
    }

    /// Takes the server's first message; returns ours.
    ///
    /// # Errors
    /// [`ScramError::Verifier`] when the server's salt or iterations are not those of `verifier`: the key would not
    /// fit.
    pub fn answer(
        self,
        server_first: &[u8],
        client_key: &Key,
        verifier: &Verifier,
    ) -> Result<(ScramEnd, String), ScramError> {
        let malformed = ScramError::Malformed;
        let text = std::str::from_utf8(server_first).map_err(|_| malformed("not ASCII"))?;
        let mut fields = text.split(',');
        let mut field =
            |name: &str, what| fields.next().and_then(|field| field.strip_prefix(name)).ok_or_else(|| malformed(what));
        let nonce = field("r=", "no nonce")?;
        let salt = field("s=", "no salt")?;
        let iterations = field("i=", "no iterations")?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(malformed("nonce does not match"));
        }
        if salt != verifier.salt || iterations.parse() != Ok(verifier.iterations) {
            return Err(ScramError::Verifier);
        }
        let bound = BASE64.encode([self.gs2_header.as_bytes(), &self.bound].concat());
        let without_proof = format!("c={bound},r={nonce}");
        let message = [&self.first_bare, text, &without_proof].join(",");
        let stored_key: Key = Sha256::digest(client_key).into();
        let proof = xor(client_key, &hmac(&stored_key, &[message.as_bytes()]));
        let signature = hmac(&verifier.server_key, &[message.as_bytes()]);
        Ok((ScramEnd { signature }, format!("{without_proof},p={}", BASE64.encode(proof))))
    }
}

impl ScramEnd {
    /// Takes the server's final message.
    ///
    /// # Errors
    /// [`ScramError::Server`] when the server does not know the verifier.
    pub fn check(&self, server_final: &[u8]) -> Result<(), ScramError> {
        let signature = server_final.strip_prefix(b"v=").and_then(|text| BASE64.decode(text).ok());
        match signature {
            Some(signature) if same(&signature, &self.signature) => Ok(()),
            _ => Err(ScramError::Server),
        }
    }
}

fn hmac(key: &Key, parts: &[&[u8]]) -> Key {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|index| a.get(index).unwrap_or(&0) ^ b.get(index).unwrap_or(&0))
}

/// In constant time.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// RFC 5802: printable ASCII without the comma.
fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3: user `user`, password `pencil`.
    const RFC_FIRST_BARE: &str = "n=user,r=rOprNGfwEbeRWgbNEkqO";
    const RFC_SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const RFC_FINAL: &str =
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const RFC_SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    /// Of the password `pencil` with the salt of RFC 7677.
    fn verifier() -> Verifier {
        let password: Key = {
            // PBKDF2 by hand: this is the only place that knows a password.
            let mut mac = Hmac::<Sha256>::new_from_slice(b"pencil").unwrap();
            mac.update(&BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap());
            mac.update(&[0, 0, 0, 1]);
            let mut last: Key = mac.finalize().into_bytes().into();
            let mut sum = last;
            for _ in 1..4096 {
                let mut mac = Hmac::<Sha256>::new_from_slice(b"pencil").unwrap();
                mac.update(&last);
                last = mac.finalize().into_bytes().into();
                sum = xor(&sum, &last);
            }
            sum
        };
        let client_key = hmac(&password, &[b"Client Key"]);
        let stored = BASE64.encode(Sha256::digest(client_key));
        let server = BASE64.encode(hmac(&password, &[b"Server Key"]));
        Verifier::parse(&format!("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${stored}:{server}")).unwrap()
    }

    #[test]
    fn the_exchange_of_rfc_7677() {
        let server = ScramServer {
            gs2_header: "n,,".into(),
            client_first_bare: RFC_FIRST_BARE.into(),
            server_first: RFC_SERVER_FIRST.into(),
            nonce: "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into(),
            expected_binding: "biws".into(),
            verifier: verifier(),
        };
        let (client_key, last) = server.finish(RFC_FINAL.as_bytes()).unwrap();
        assert_eq!(last, RFC_SERVER_FINAL);
        let client = ScramClient {
            gs2_header: "n,,".into(),
            bound: Vec::new(),
            first_bare: RFC_FIRST_BARE.into(),
            nonce: "rOprNGfwEbeRWgbNEkqO".into(),
        };
        let (end, text) = client.answer(RFC_SERVER_FIRST.as_bytes(), &client_key, &verifier()).unwrap();
        assert_eq!(text, RFC_FINAL);
        end.check(RFC_SERVER_FINAL.as_bytes()).unwrap();
        assert_eq!(end.check(b"v=AAAA"), Err(ScramError::Server));
        assert_eq!(end.check(b"e=other-error"), Err(ScramError::Server));
    }

    /// Both roles against each other, with and without channel binding; every changed byte is noticed.
    #[test]
    fn both_roles() {
        for binding in [None, Some(vec![7; 32])] {
            let key = hmac_client_key();
            let (client, mechanism, first) = ScramClient::begin(binding.clone(), [1; NONCE_BYTES]);
            let (server, server_first) = ScramServer::begin(
                mechanism.as_bytes(),
                first.as_bytes(),
                binding.as_deref(),
                verifier(),
                [2; NONCE_BYTES],
            )
            .unwrap();
            let (end, last) = client.answer(server_first.as_bytes(), &key, &verifier()).unwrap();
            for at in 0..last.len() {
                let mut changed = last.clone().into_bytes();
                changed[at] ^= 1;
                let (again, _) = ScramServer::begin(
                    mechanism.as_bytes(),
                    first.as_bytes(),
                    binding.as_deref(),
                    verifier(),
                    [2; NONCE_BYTES],
                )
                .unwrap();
                assert!(again.finish(&changed).is_err(), "byte {at}");
            }
            let (client_key, server_last) = server.finish(last.as_bytes()).unwrap();
            assert_eq!(client_key, key);
            end.check(server_last.as_bytes()).unwrap();
        }
    }

    fn hmac_client_key() -> Key {
        let server = ScramServer {
            gs2_header: "n,,".into(),
            client_first_bare: RFC_FIRST_BARE.into(),
            server_first: RFC_SERVER_FIRST.into(),
            nonce: "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into(),
            expected_binding: "biws".into(),
            verifier: verifier(),
        };
        server.finish(RFC_FINAL.as_bytes()).unwrap().0
    }

    #[test]
    fn first_message_rows() {
        let binding = [7_u8; 32];
        let rows: &[(&str, &str, bool, bool)] = &[
            (SCRAM_SHA_256, "n,,n=,r=abc", true, true),
            (SCRAM_SHA_256, "n,,n=,r=abc", false, true),
            (SCRAM_SHA_256, "y,,n=,r=abc", false, true),
            // Someone took PLUS out of the list.
            (SCRAM_SHA_256, "y,,n=,r=abc", true, false),
            (SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,n=,r=abc", true, true),
            (SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,n=,r=abc", false, false),
            (SCRAM_SHA_256_PLUS, "p=tls-unique,,n=,r=abc", true, false),
            (SCRAM_SHA_256_PLUS, "n,,n=,r=abc", true, false),
            (SCRAM_SHA_256, "p=tls-server-end-point,,n=,r=abc", true, false),
            ("SCRAM-SHA-1", "n,,n=,r=abc", true, false),
            (SCRAM_SHA_256, "n,a=me,n=,r=abc", true, false),
            (SCRAM_SHA_256, "n,,m=x,n=,r=abc", true, false),
            (SCRAM_SHA_256, "n,,n=,r=", true, false),
            (SCRAM_SHA_256, "n,,n=", true, false),
            (SCRAM_SHA_256, "n", true, false),
            (SCRAM_SHA_256, "", true, false),
            (SCRAM_SHA_256, "z,,n=,r=abc", true, false),
        ];
        for (mechanism, first, offered, good) in rows {
            let bound = offered.then_some(&binding[..]);
            let begun = ScramServer::begin(mechanism.as_bytes(), first.as_bytes(), bound, verifier(), [0; NONCE_BYTES]);
            assert_eq!(begun.is_ok(), *good, "{mechanism} {first} offered {offered}");
        }
        assert!(ScramServer::begin(b"SCRAM-SHA-256", b"n,,n=\xff,r=a", None, verifier(), [0; NONCE_BYTES]).is_err());
    }

    #[test]
    fn verifier_rows() {
        let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let good = format!("SCRAM-SHA-256$4096:c2FsdA==${key}:{key}");
        assert!(Verifier::parse(&good).is_some());
        for bad in [
            "",
            "md5abc",
            "SCRAM-SHA-256$4096:c2FsdA==$short:short",
            &good.replace("4096", "0"),
            &good.replace("c2FsdA==", "?"),
            &good.replace("c2FsdA==", ""),
            &good.replace("SHA-256", "SHA-1"),
        ] {
            assert!(Verifier::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(format!("{:?}", Verifier::parse(&good)), "Some(Verifier { .. })", "nothing of it is ever logged");
        assert_eq!(Verifier::mock(b"a", &[1; 32]), Verifier::mock(b"a", &[1; 32]));
        assert_ne!(Verifier::mock(b"a", &[1; 32]), Verifier::mock(b"b", &[1; 32]));
    }
}
