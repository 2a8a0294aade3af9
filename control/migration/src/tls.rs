//! Who may take part in a migration: both sides show a certificate that the hosts' own authority has signed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use culvert_tls::FromFiles;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The files of this host, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Its certificate, with those of its issuers.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The certificates of who may sign those of other hosts.
    pub authority: PathBuf,
    /// The name that a target's certificate must be for; `None`: the address that is connected to.
    pub peer_name: Option<String>,
}

/// What connections are made and taken with.
#[derive(Debug)]
pub struct Tls {
    made: FromFiles<Made>,
    peer_name: Option<ServerName<'static>>,
}

/// Made of the files.
#[derive(Clone, Debug)]
pub struct Made {
    /// For the target.
    pub server: Arc<ServerConfig>,
    /// For the source.
    pub client: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read, or they do not fit together.
    pub fn read(files: Files) -> Result<Self> {
        let peer_name = files.peer_name.map(|name| {
            ServerName::try_from(name.clone()).with_context(|| format!("peer_name {name:?} is no name of a host"))
        });
        let made = FromFiles::read(vec![files.certificate, files.key, files.authority], make)?;
        Ok(Self { made, peer_name: peer_name.transpose()? })
    }

    /// What the next connection is made or taken with.
    pub fn current(&self) -> Arc<Made> {
        self.made.current()
    }

    /// Whom the certificate of a target at `address` must be for.
    pub fn peer_name(&self, address: IpAddr) -> ServerName<'static> {
        self.peer_name.clone().unwrap_or_else(|| address.into())
    }
}

fn make(contents: &[Vec<u8>]) -> Result<Made> {
    let [certificate, key, authority] = contents else { anyhow::bail!("three files are needed") };
    let chain = culvert_tls::certificates(certificate)?;
    let key = culvert_tls::key(key)?;
    let mut roots = RootCertStore::empty();
    for certificate in culvert_tls::certificates(authority).context("the authority")? {
        roots.add(certificate).context("the authority")?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let server = server.with_client_cert_verifier(clients).with_single_cert(chain.clone(), key.clone_key())?;
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let client = client.with_root_certificates(roots).with_client_auth_cert(chain, key)?;
    Ok(Made { server: Arc::new(server), client: Arc::new(client) })
}
