//! The server's certificate and key, from files that are read again when they have changed. [`crate::server`] asks for each
//! new connection.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use culvert_tls::FromFiles;
use rustls::ServerConfig;

/// What the next connection is served with.
pub type Certificate = FromFiles<ServerConfig>;

/// Reads PEM files: the certificate with those of its issuers, and the key.
///
/// # Errors
/// When a file cannot be read, or the two do not fit.
pub fn read(certificate: PathBuf, key: PathBuf) -> Result<Certificate> {
    FromFiles::read(vec![certificate, key], |contents| {
        let [certificate, key] = contents else { anyhow::bail!("two files are needed") };
        let (chain, key) = (culvert_tls::certificates(certificate)?, culvert_tls::key(key)?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config =
            builder.with_no_client_auth().with_single_cert(chain, key).context("certificate and key do not fit")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    })
}
