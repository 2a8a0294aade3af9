//! What is made of certificates in files, and made again when the files have changed.
//!
//! cert-manager and others renew a certificate long before it ends, and put the new files in place of the old ones. They are
//! looked at for each new connection, which is cheap beside a handshake; what does not fit (half of it is written) leaves the
//! last good one in force.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Something that is made of some files.
pub struct FromFiles<T> {
    paths: Vec<PathBuf>,
    make: Box<Make<T>>,
    current: Mutex<Current<T>>,
}

/// Makes it of the contents of all files, in the order of their paths.
pub type Make<T> = dyn Fn(&[Vec<u8>]) -> Result<T> + Send + Sync;

/// What the files held when they were last different, and what was last good of that.
struct Current<T> {
    contents: Vec<Vec<u8>>,
    made: Arc<T>,
}

impl<T> FromFiles<T> {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, or nothing can be made of them.
    pub fn read(paths: Vec<PathBuf>, make: impl Fn(&[Vec<u8>]) -> Result<T> + Send + Sync + 'static) -> Result<Self> {
        let contents = contents(&paths)?;
        let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        let made = Arc::new(make(&contents).with_context(|| names.join(", "))?);
        Ok(Self { paths, make: Box::new(make), current: Mutex::new(Current { contents, made }) })
    }

    /// What is made of them now.
    pub fn current(&self) -> Arc<T> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match contents(&self.paths) {
            Ok(contents) if contents == current.contents => {}
            Ok(contents) => {
                match (self.make)(&contents) {
                    Ok(made) => {
                        tracing::info!("the certificate was renewed");
                        current.made = Arc::new(made);
                    }
                    Err(error) => tracing::warn!("the new certificate is not used: {error:#}"),
                }
                current.contents = contents;
            }
            Err(error) => tracing::debug!("the certificate cannot be read again: {error:#}"),
        }
        Arc::clone(&current.made)
    }
}

/// The contents are nobody's business: there are keys among them.
impl<T> fmt::Debug for FromFiles<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFiles").field("paths", &self.paths).finish_non_exhaustive()
    }
}

fn contents(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    paths.iter().map(|path| std::fs::read(path).with_context(|| path.display().to_string())).collect()
}

/// The certificates of a PEM text, in its order.
///
/// # Errors
/// It is no PEM, or holds no certificate.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let all =
        CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().context("the certificate is no PEM")?;
    anyhow::ensure!(!all.is_empty(), "there is no certificate in it");
    Ok(all)
}

/// The key of a PEM text.
///
/// # Errors
/// It is no PEM, or holds no key.
pub fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem).context("the key is no PEM key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_good_stays_until_something_better_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        std::fs::write(&path, "1").unwrap();
        let make = |contents: &[Vec<u8>]| Ok(str::from_utf8(&contents[0])?.parse::<u32>()?);
        let number = FromFiles::read(vec![path.clone()], make).unwrap();
        for (text, value) in [("1", 1), ("two", 1), ("3", 3), ("", 3), ("4", 4)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(*number.current(), value, "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*number.current(), 4);
        let error = FromFiles::read(vec![path.clone()], make).unwrap_err();
        assert!(format!("{error:#}").contains(path.to_str().unwrap()), "{error:#}");
    }
}
