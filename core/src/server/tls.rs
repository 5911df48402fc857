//! TLS of `[grpc] tcp_address`, as containerd does it: `tcp_tls_cert` and `tcp_tls_key` prove the daemon, and with `tcp_tls_ca` a client
//! has to prove itself by a certificate of that authority.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use orlop_config::GrpcConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Shakes hands with those who connect; cheap to clone.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

// === impl Tls ===

impl Tls {
    /// What `[grpc] tcp_tls_*` asks for: nothing, or the certificates it names, read here and now.
    pub fn of(config: &GrpcConfig) -> anyhow::Result<Option<Self>> {
        let (cert, key, ca) = (&config.tcp_tls_cert, &config.tcp_tls_key, &config.tcp_tls_ca);
        anyhow::ensure!(
            config.tcp_tls_common_name.is_empty(),
            "[grpc] tcp_tls_common_name chooses from the certificate store of Windows: on Linux name files in tcp_tls_cert and tcp_tls_key"
        );
        match (cert.is_empty(), key.is_empty()) {
            (true, true) if ca.is_empty() => return Ok(None),
            (false, false) => {}
            _ => anyhow::bail!(
                "[grpc] TLS needs both tcp_tls_cert and tcp_tls_key; tcp_tls_ca alone would leave TCP in the clear"
            ),
        }
        let chain = certificates(Path::new(cert), "tcp_tls_cert")?;
        let secret = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| anyhow::anyhow!("read the key {key} ([grpc] tcp_tls_key): {error}"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = if ca.is_empty() {
            Arc::new(NoClientAuth)
        } else {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(Path::new(ca), "tcp_tls_ca")? {
                roots
                    .add(certificate)
                    .with_context(|| format!("trust {ca} ([grpc] tcp_tls_ca)"))?;
            }
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .with_context(|| format!("trust {ca} ([grpc] tcp_tls_ca)"))?
        };
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, secret)
            .with_context(|| {
                format!("use the certificate {cert} with the key {key} ([grpc] tcp_tls_cert, tcp_tls_key)")
            })?;
        // gRPC clients offer nothing else, and some insist on an answer.
        server.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Some(Self(TlsAcceptor::from(Arc::new(server)))))
    }

    /// The connection, once both sides believe each other.
    pub async fn accept(self, io: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        tokio::time::timeout(HANDSHAKE, self.0.accept(io))
            .await
            .unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client did not finish its TLS handshake",
                ))
            })
    }
}

fn certificates(path: &Path, key: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let doing = || format!("read the certificates {} ([grpc] {key})", path.display());
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).with_context(doing)?.collect();
    let found = found.with_context(doing)?;
    anyhow::ensure!(!found.is_empty(), "{}: it holds none", doing());
    Ok(found)
}
