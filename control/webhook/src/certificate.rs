//! The server's certificate and key, from files that are read again when they have changed.
//!
//! cert-manager renews a certificate long before it ends, and the kubelet puts the new files in place of the old ones.
//! They are looked at for each new connection, which is cheap beside a handshake; a pair that does not fit (half of it
//! is written) leaves the last good one in force. [`crate::server`] calls this.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate and its key in files.
#[derive(Debug)]
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

/// What the files held when they were last different, and what was last good of that.
#[derive(Debug)]
struct Current {
    files: Files,
    config: Arc<ServerConfig>,
}

/// The contents of both files.
#[derive(Eq, PartialEq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    /// Reads PEM files: the certificate with those of its issuers, and the key.
    ///
    /// # Errors
    /// When a file cannot be read, or the two do not fit.
    pub fn read(certificate: PathBuf, key: PathBuf) -> Result<Self> {
        let files = Files::read(&certificate, &key)?;
        let config = files
            .config()
            .with_context(|| format!("certificate {} with key {}", certificate.display(), key.display()))?;
        Ok(Self { certificate, key, current: Mutex::new(Current { files, config }) })
    }

    /// What the next connection is served with.
    pub fn current(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match Files::read(&self.certificate, &self.key) {
            Ok(files) if files == current.files => {}
            Ok(files) => {
                match files.config() {
                    Ok(config) => {
                        tracing::info!("the certificate was renewed");
                        current.config = config;
                    }
                    Err(error) => tracing::warn!("the new certificate is not used: {error:#}"),
                }
                current.files = files;
            }
            Err(error) => tracing::debug!("the certificate cannot be read again: {error:#}"),
        }
        Arc::clone(&current.config)
    }
}

impl Files {
    fn read(certificate: &PathBuf, key: &PathBuf) -> Result<Self> {
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("{}", path.display()));
        Ok(Self { certificate: read(certificate)?, key: read(key)? })
    }

    fn config(&self) -> Result<Arc<ServerConfig>> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The key is nobody's business.
impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").finish_non_exhaustive()
    }
}
