//! A certificate for this machine, and the authority that signed it.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

/// Files of PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// What [`Certificate::renew`] has the server's certificate replaced by.
    renewed: String,
    /// Whom to trust.
    pub authority: PathBuf,
    /// The server's certificate, for `localhost` and 127.0.0.1.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificate {
    /// Writes new ones into `folder`.
    pub fn make(folder: &Path) -> Self {
        Self::make_with(folder, |_| {})
    }

    /// Writes new ones into `folder`. The server's was good until some years ago.
    pub fn expired(folder: &Path) -> Self {
        Self::make_with(folder, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        })
    }

    /// Writes a good one in the place of the server's, by the same authority. A server has to be started again to take it.
    pub fn renew(&self) {
        fs::write(&self.certificate, &self.renewed).unwrap();
    }

    fn make_with(folder: &Path, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        let renewed = params.signed_by(&key, &authority).unwrap().pem();
        change(&mut params);
        let certificate = params.signed_by(&key, &authority).unwrap();
        let file = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        Self {
            renewed,
            authority: file("ca.pem", authority.pem()),
            certificate: file("server.pem", certificate.pem()),
            key: file("server.key", key.serialize_pem()),
        }
    }
}
