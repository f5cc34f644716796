//! TLS on both legs: rustls configurations from files, kept current while the files change.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio_util::sync::CancellationToken;

use crate::auth::certificate;
use crate::config::{ClientCertificate, ServerTls, SslMode, TlsConfig};
use crate::limits;

/// The protocol's name in ALPN: direct TLS connections must agree on it (PostgreSQL 17).
pub const ALPN: &[u8] = b"postgresql";

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file cannot be read, or does not hold what it should.
    #[error("{what} {path}: {reason}")]
    File {
        /// Certificate, key, …
        what: &'static str,
        /// Path.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The parts do not fit together.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// No root certificate to verify a peer with.
    #[error("TLS: no usable root certificate in {0}")]
    NoRoots(String),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let refused = |reason: String| SetupError::File { what, path: path.display().to_string(), reason };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| refused(error.to_string()))?.collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(refused("no certificate in it (PEM is expected)".into())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(refused(error.to_string())),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, SetupError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| SetupError::File {
        what: "key",
        path: path.display().to_string(),
        reason: error.to_string(),
    })
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, SetupError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates("root certificate", path)?);
    if added == 0 {
        return Err(SetupError::NoRoots(path.display().to_string()));
    }
    Ok(Arc::new(roots))
}

fn system_roots() -> Result<Arc<RootCertStore>, SetupError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err(SetupError::NoRoots("the system's store (give sslrootcert)".into()));
    }
    Ok(Arc::new(roots))
}

/// What clients are shown.
#[derive(Debug)]
pub struct ServerSide {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// What a client binds its password exchange to; `None` where the certificate's algorithm defines no hash.
    pub end_point: Option<Vec<u8>>,
}

impl ServerSide {
    fn load(tls: &TlsConfig) -> Result<Self, SetupError> {
        let chain = certificates("certificate", &tls.cert)?;
        let end_point = chain.first().and_then(|own| certificate::end_point(own));
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = match &tls.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots(path)?, provider());
                let verifier = match tls.client_certificate {
                    // Shown or not: PostgreSQL behind us asks for none, but a wrong one is refused.
                    ClientCertificate::Off => verifier.allow_unauthenticated(),
                    ClientCertificate::VerifyCa | ClientCertificate::VerifyFull => verifier,
                };
                let verifier = verifier.build().map_err(|error| TlsError::General(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, private_key(&tls.key)?)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { config: Arc::new(config), end_point })
    }
}

/// The listener's TLS; the files are looked at again now and then.
#[derive(Debug)]
pub struct Acceptor {
    tls: TlsConfig,
    current: ArcSwapOption<ServerSide>,
}

impl Acceptor {
    /// Loads the files.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(tls: TlsConfig) -> Result<Self, SetupError> {
        let current = ArcSwapOption::from_pointee(ServerSide::load(&tls)?);
        Ok(Self { tls, current })
    }

    /// What clients are shown now.
    #[must_use]
    pub fn current(&self) -> Option<Arc<ServerSide>> {
        self.current.load_full()
    }

    /// What is asked of clients.
    #[must_use]
    pub const fn settings(&self) -> &TlsConfig {
        &self.tls
    }

    /// Loads the files again; what cannot be loaded changes nothing.
    pub fn reload(&self) {
        match ServerSide::load(&self.tls) {
            Ok(loaded) => {
                self.current.store(Some(Arc::new(loaded)));
                tracing::info!(cert = %self.tls.cert.display(), "TLS certificate is loaded");
            }
            Err(error) => tracing::error!(%error, "TLS certificate is not reloaded: the former one stays"),
        }
    }

    /// Reloads when a file has changed, until `stop`.
    pub async fn watch(&self, stop: CancellationToken) {
        let mut seen = self.stamps();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(limits::TLS_RELOAD_INTERVAL) => {}
            }
            let now = self.stamps();
            if now != seen {
                seen = now;
                self.reload();
            }
        }
    }

    fn stamps(&self) -> Vec<Option<(SystemTime, u64)>> {
        let stamp = |path: &Path| std::fs::metadata(path).and_then(|data| Ok((data.modified()?, data.len()))).ok();
        [Some(&self.tls.cert), Some(&self.tls.key), self.tls.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(|path| stamp(path))
            .collect()
    }
}

/// How the server is spoken to.
#[derive(Debug, Clone)]
pub struct Connector {
    /// For rustls.
    pub config: Arc<ClientConfig>,
    /// Name that the certificate is checked for, and that is sent (SNI).
    pub name: ServerName<'static>,
}

impl Connector {
    /// Of a server; `None` where TLS is not wanted or impossible (unix sockets).
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(tls: &ServerTls, host: &str) -> Result<Option<Self>, SetupError> {
        if tls.mode == SslMode::Disable {
            return Ok(None);
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|error| TlsError::General(error.to_string()))?;
        Ok(Some(Self { config: Arc::new(client_config(tls)?), name }))
    }
}

/// For rustls, as libpq's parameters say.
///
/// # Errors
/// [`SetupError`].
pub fn client_config(tls: &ServerTls) -> Result<ClientConfig, SetupError> {
    let verification = Verification::new(tls)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verification));
    let mut config = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            builder.with_client_auth_cert(certificates("certificate", cert)?, private_key(key)?)?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// What `sslmode` asks of the server's certificate.
#[derive(Debug)]
struct Verification {
    provider: Arc<CryptoProvider>,
    /// `None`: whatever it is (`prefer`, and `require` without roots).
    chain: Option<Arc<WebPkiServerVerifier>>,
    name: bool,
}

impl Verification {
    fn new(tls: &ServerTls) -> Result<Self, SetupError> {
        let roots = match (&tls.root_cert, tls.mode) {
            (Some(path), SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull)
                if path.as_os_str() != "system" =>
            {
                Some(roots(path)?)
            }
            (_, SslMode::VerifyCa | SslMode::VerifyFull) => Some(system_roots()?),
            _ => None,
        };
        let chain = match roots {
            None => None,
            Some(roots) => Some(
                WebPkiServerVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|error| TlsError::General(error.to_string()))?,
            ),
        };
        Ok(Self { provider: provider(), chain, name: tls.mode == SslMode::VerifyFull })
    }
}

impl ServerCertVerifier for Verification {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Random bytes that nobody can guess.
///
/// # Errors
/// When the system has none to give.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gives no random bytes"))?;
    Ok(bytes)
}
