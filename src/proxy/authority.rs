//! The CAs that API servers are verified with; their file is read again while
//! the proxy runs, since certificates change without a restart.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use super::log::Log;
use super::probe::connector;

/// A new CA stands beside the old one for days before anything is signed with
/// it, so that there is no hurry.
const REREAD_INTERVAL: Duration = Duration::from_secs(10);

/// The CAs that are trusted now.
pub struct Authority {
    path: Utf8PathBuf,
    current: Mutex<Current>,
}

struct Current {
    pem: Vec<u8>,
    connector: TlsConnector,
}

impl Authority {
    /// Reads the PEM file at `path`.
    pub fn load(path: &Utf8Path) -> Result<Arc<Self>> {
        let pem = fs_err::read(path)?;
        let connector =
            connector(&pem).with_context(|| format!("reading certificates in {path}"))?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            current: Mutex::new(Current { pem, connector }),
        }))
    }

    /// For new TLS connections.
    pub fn connector(&self) -> TlsConnector {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .connector
            .clone()
    }

    /// Reads the file again and again, for ever. While it can't be used, the
    /// CAs from before stay.
    pub async fn keep_rereading(&self, log: Log) {
        let mut last_problem = None;
        loop {
            sleep(REREAD_INTERVAL).await;
            match self.reread() {
                Ok(true) => log.info(&format!(
                    "took up the changed certificates in {}",
                    self.path
                )),
                Ok(false) => {}
                Err(error) => {
                    let problem = format!("{error:#}");
                    if last_problem.as_ref() != Some(&problem) {
                        log.warning(&format!("keeping the former CAs: {problem}"));
                    }
                    last_problem = Some(problem);
                    continue;
                }
            }
            last_problem = None;
        }
    }

    /// Says whether something changed.
    fn reread(&self) -> Result<bool> {
        // A few kilobytes: not worth a thread of its own.
        let pem = fs_err::read(&self.path)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if pem == current.pem {
            return Ok(false);
        }
        let connector =
            connector(&pem).with_context(|| format!("reading certificates in {}", self.path))?;
        *current = Current { pem, connector };
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority_pem() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn rereads_a_changed_file_and_keeps_the_old_one_over_a_broken_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(directory.path().join("ca.crt")).unwrap();
        fs_err::write(&path, authority_pem()).unwrap();
        let authority = Authority::load(&path).unwrap();
        assert!(!authority.reread().unwrap());
        fs_err::write(&path, authority_pem() + &authority_pem()).unwrap();
        assert!(authority.reread().unwrap());
        assert!(!authority.reread().unwrap());
        fs_err::write(&path, "nothing").unwrap();
        let error = format!("{:#}", authority.reread().unwrap_err());
        assert!(
            error.contains(path.as_str()) && error.contains("no certificate"),
            "{error}"
        );
        fs_err::remove_file(&path).unwrap();
        let error = format!("{:#}", authority.reread().unwrap_err());
        assert!(error.contains(path.as_str()), "{error}");
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(directory.path().join("ca.crt")).unwrap();
        fs_err::write(
            &path,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        let error = format!("{:#}", Authority::load(&path).err().unwrap());
        assert!(error.contains(path.as_str()), "{error}");
    }
}
