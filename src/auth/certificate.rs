//! What a channel is bound to: `tls-server-end-point` (RFC 5929, section 4), the hash of the server's certificate.

use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};

/// The hash of a certificate in DER, by the hash function of its own signature; MD5 and SHA-1 count as SHA-256.
/// `None` where the RFC defines none (Ed25519, Ed448): PostgreSQL cannot bind to those either.
#[must_use]
pub fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = Certificate::from_der(der).ok()?;
    let algorithm = &certificate.signature_algorithm;
    match algorithm.oid.to_string().as_str() {
        // RSA with MD5, SHA-1, SHA-256; ECDSA with SHA-1, SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Some(Sha256::digest(der).to_vec()),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Some(Sha224::digest(der).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Sha384::digest(der).to_vec()),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Sha512::digest(der).to_vec()),
        // RSASSA-PSS names its hash function in its parameters; without one it is SHA-1.
        "1.2.840.113549.1.1.10" => {
            let parameters = algorithm.parameters.as_ref()?.to_der().ok()?;
            Some(match pss_hash(&parameters) {
                Some(2) => Sha384::digest(der).to_vec(),
                Some(3) => Sha512::digest(der).to_vec(),
                Some(4) => Sha224::digest(der).to_vec(),
                _ => Sha256::digest(der).to_vec(),
            })
        }
        _ => None,
    }
}

/// The last arc of the first hash function that is named (2.16.840.1.101.3.4.2.x: 1 SHA-256, 2 SHA-384, 3 SHA-512,
/// 4 SHA-224).
fn pss_hash(parameters: &[u8]) -> Option<u8> {
    const PREFIX: [u8; 10] = [0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    let at = parameters.windows(PREFIX.len()).position(|window| window == PREFIX)?;
    parameters.get(at + PREFIX.len()).copied()
}

/// The common name of a certificate's subject, which `verify-full` compares with the role.
#[must_use]
pub fn common_name(der: &[u8]) -> Option<String> {
    const COMMON_NAME: &str = "2.5.4.3";
    let certificate = Certificate::from_der(der).ok()?;
    let mut names = certificate.tbs_certificate.subject.0.iter().flat_map(|names| names.0.iter());
    // The most specific one comes last; a name with a zero byte could read as another one.
    let name = names.rfind(|name| name.oid.to_string() == COMMON_NAME)?;
    let text = std::str::from_utf8(name.value.value()).ok()?;
    (!text.contains('\0')).then(|| text.to_owned())
}
