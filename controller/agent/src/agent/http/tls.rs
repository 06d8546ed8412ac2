//! TLS of the HTTP server: only callers with a certificate of the right authority are heard.
//!
//! Files are read again when they have changed, as a cluster renews certificates. Invariant: a
//! pair that cannot be used leaves the one from before in use.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::config::MetricsTls;

/// Time from one look at the files to the next.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// Times at which the files were last changed.
type Age = [Option<SystemTime>; 3];

/// Files that TLS needs, and the state of each now.
pub(crate) struct Tls {
    files: [PathBuf; 3],
    age: Age,
    looked: Instant,
    acceptor: TlsAcceptor,
}

impl Tls {
    /// Reads the files of a configuration.
    ///
    /// # Errors
    /// When one cannot be read, or they do not fit each other.
    pub(crate) fn read(settings: &MetricsTls) -> Result<Self> {
        let MetricsTls {
            certificate,
            key,
            client_ca,
            ..
        } = settings;
        let files = [certificate, key, client_ca].map(PathBuf::from);
        Ok(Self {
            age: age(&files),
            acceptor: acceptor(&files)?,
            files,
            looked: Instant::now(),
        })
    }

    /// Returns what shakes hands with callers from now on.
    pub(super) fn acceptor(&mut self) -> TlsAcceptor {
        if self.looked.elapsed() >= BETWEEN_LOOKS {
            self.looked = Instant::now();
            let age = age(&self.files);
            if age != self.age {
                self.age = age;
                match acceptor(&self.files) {
                    Ok(acceptor) => self.acceptor = acceptor,
                    Err(error) => tracing::error!(
                        "metrics are served with the certificate from before: {error:#}"
                    ),
                }
            }
        }
        self.acceptor.clone()
    }
}

fn age(files: &[PathBuf; 3]) -> Age {
    files
        .each_ref()
        .map(|path| fs::metadata(path).and_then(|found| found.modified()).ok())
}

fn acceptor([certificate, key, client_ca]: &[PathBuf; 3]) -> Result<TlsAcceptor> {
    let chain = certificates("certificate", certificate)?;
    let authorities = certificates("client_ca", client_ca)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes("key", key)?)
        .with_context(|| format!("no private key in {}: set `metrics_tls.key`", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots
            .add(authority)
            .with_context(|| format!("an authority in {} cannot be used", client_ca.display()))?;
    }
    let callers = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .context("callers cannot be checked")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("no version of TLS can be spoken")?
        .with_client_cert_verifier(callers)
        .with_single_cert(chain, key)
        .with_context(|| format!("{} is not for that key", certificate.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn bytes(name: &str, path: &Path) -> Result<Vec<u8>> {
    let read: io::Result<_> = fs::read(path);
    read.with_context(|| format!("cannot read {}: set `metrics_tls.{name}`", path.display()))
}

fn certificates(name: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = bytes(name, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = all.with_context(|| format!("{} is not PEM", path.display()))?;
    if all.is_empty() {
        bail!(
            "no certificate in {}: set `metrics_tls.{name}`",
            path.display()
        );
    }
    Ok(all)
}
