//! TLS towards a host: whom to trust, and who we are.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::hosts::HostConfig;
use crate::{Error, Result};

/// The configuration for `host`. Blocks: it reads the system's certificates and the host's.
pub fn client_config(host: &HostConfig) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Precondition(format!("set TLS up: {error}")))?;
    let builder = if host.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusted::new(host, provider)?))
    };
    // A server chooses by authority among several of ours in containerd; here the first is ours.
    match host.client.first() {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = key.as_deref().unwrap_or(certificate);
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("private key", key, &error))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| {
                Error::Invalid(format!(
                    "the certificate {} does not go with the key {}: {error}",
                    certificate.display(),
                    key.display()
                ))
            })
        }
    }
}

/// TLS's error inside an I/O error, however often wrapped, or itself.
pub fn error_in<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    cause.downcast_ref::<rustls::Error>().or_else(|| {
        let inner = cause.downcast_ref::<std::io::Error>()?.get_ref()?;
        error_in(inner)
    })
}

/// Whether a connection failed because the other side answers, but not in TLS.
pub fn is_not_spoken(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |cause| cause.source());
    matches!(causes.find_map(error_in), Some(rustls::Error::InvalidMessage(_)))
}

/// Takes certificates under the authorities of the system and of `ca`, and those certificates themselves: people make one certificate
/// for a registry, which is its own authority, and trust it.
#[derive(Debug)]
struct Trusted {
    chains: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Trusted {
    fn new(host: &HostConfig, provider: Arc<CryptoProvider>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        // A redirect may lead from plain HTTP to a host with TLS, so the system's are there in any case.
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::debug!(%error, "a certificate of the system cannot be read");
        }
        let mut trusted = system.certs;
        roots.add_parsable_certificates(trusted.iter().cloned());
        for file in &host.ca {
            for certificate in certificates(file)? {
                roots.add(certificate.clone()).map_err(|error| {
                    Error::Invalid(format!(
                        "{} holds a certificate that cannot be trusted: {error}",
                        file.display()
                    ))
                })?;
                trusted.push(certificate);
            }
        }
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let chains = chains.map_err(|error| {
            Error::Precondition(format!(
                "{} cannot be verified, as no certificate authority is trusted on this machine ({error}): install \
                 ca-certificates, or name a `ca` in its hosts.toml",
                host.authority
            ))
        })?;
        Ok(Self {
            chains,
            certificates: trusted,
        })
    }
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self
            .chains
            .verify_server_cert(certificate, intermediates, name, ocsp, now)
        {
            // Said after its time was found valid; what is left to check is the name.
            Err(error) if is_an_authority(&error) && self.certificates.contains(certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Whether a certificate is refused for being an authority's.
fn is_an_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| unreadable("certificate", file, &error))?;
    if certificates.is_empty() {
        return Err(Error::Invalid(format!("{} holds no certificate", file.display())));
    }
    Ok(certificates)
}

fn unreadable(what: &str, file: &Path, error: &rustls::pki_types::pem::Error) -> Error {
    Error::Invalid(format!("cannot read a {what} from {}: {error}", file.display()))
}

/// Takes any certificate (`skip_verify`), but still checks that the host has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
