//! TLS: which certificate a client is shown, and how a new one is taken without a restart.
//!
//! Owns the certificates. Each covers the DNS names it lists; the first one given is shown to clients that ask for
//! none, or for one that no certificate covers. The files are looked at every [`LOOK_INTERVAL`]; a pair that can't be
//! used leaves the one in force in place, and says so.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;
use weft_observability::HostMetrics;
use x509_parser::extensions::GeneralName;

/// Takes TLS connections; a cheap handle.
pub type TlsAcceptor = tokio_rustls::TlsAcceptor;

/// How often the files are looked at. A renewal comes days before the old certificate ends.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The two files of a certificate, `CERT:KEY` on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain in PEM, the server's own certificate first.
    pub certificate: PathBuf,
    /// Its private key in PEM.
    pub key: PathBuf,
}

impl FromStr for CertificateFiles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((certificate, key)) if !certificate.is_empty() && !key.is_empty() => Ok(Self {
                certificate: certificate.into(),
                key: key.into(),
            }),
            _ => Err("expected CERT:KEY, two files in PEM, for example cert.pem:key.pem".to_owned()),
        }
    }
}

/// Why a certificate can't be used. The text names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or is no PEM.
    #[error("failed to read {what} from {}: expected a file in PEM", path.display())]
    Read {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate is none, or covers no DNS name.
    #[error("failed to use the certificate {}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key does not fit the certificate.
    #[error("failed to use the key {} with the certificate {}", key.display(), certificate.display())]
    Key {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
}

/// All certificates of a host.
pub struct Certificates {
    files: Vec<CertificateFiles>,
    loaded: ArcSwap<Loaded>,
    metrics: Option<HostMetrics>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the keys.
        f.debug_struct("Certificates")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Loaded {
    certificates: Vec<Certificate>,
    /// Position in `certificates` by lower-case name; a wildcard is kept as `*.example.org`.
    by_name: HashMap<String, usize>,
}

#[derive(Clone)]
struct Certificate {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    expires: SystemTime,
    stamp: Stamp,
}

/// What tells that a file has changed.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Certificates {
    /// Loads all of them.
    ///
    /// # Errors
    /// The first [`TlsError`].
    pub fn load(files: Vec<CertificateFiles>, metrics: Option<HostMetrics>) -> Result<Arc<Self>, TlsError> {
        let certificates = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(Self {
            files,
            loaded: ArcSwap::from_pointee(Loaded::new(certificates)),
            metrics,
        }))
    }

    /// Takes connections with these certificates, HTTP/2 offered first.
    ///
    /// # Errors
    /// If the TLS library has no protocol version in common with itself, which it has.
    pub fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Looks for changed files until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL))
            .await
            .is_some()
        {
            let certificates = self.clone();
            // Reading files blocks.
            let _ = tokio::task::spawn_blocking(move || certificates.reload()).await;
        }
    }

    /// Each name with the end of its certificate's validity.
    pub fn expiries(&self) -> Vec<(String, SystemTime)> {
        let loaded = self.loaded.load();
        let each = |certificate: &Certificate| {
            let expires = certificate.expires;
            certificate
                .names
                .iter()
                .map(move |name| (name.clone(), expires))
                .collect::<Vec<_>>()
        };
        loaded.certificates.iter().flat_map(each).collect()
    }

    /// Takes what has changed; whether anything has.
    fn reload(&self) -> bool {
        let loaded = self.loaded.load();
        let mut changed = false;
        let certificates = std::iter::zip(&self.files, &loaded.certificates).map(|(files, old)| {
            let stamp = stamp(files);
            if stamp == old.stamp {
                return old.clone();
            }
            let result = read(files);
            changed = true;
            if let Some(metrics) = &self.metrics {
                metrics.tls_reloaded(result.is_ok());
            }
            match result {
                Ok(new) => {
                    tracing::info!(certificate = %files.certificate.display(), names = ?new.names, "took a new certificate");
                    new
                }
                Err(error) => {
                    tracing::error!(error = chain(&error), "kept the old certificate");
                    // Remembered, so that the same file is not complained about every two seconds.
                    Certificate { stamp, ..old.clone() }
                }
            }
        });
        let certificates = certificates.collect();
        if changed {
            self.loaded.store(Arc::new(Loaded::new(certificates)));
        }
        changed
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    crate::cli::chain(error)
}

impl Loaded {
    fn new(certificates: Vec<Certificate>) -> Self {
        let mut by_name = HashMap::new();
        for (position, certificate) in certificates.iter().enumerate() {
            for name in &certificate.names {
                // Of two for one name, the first given holds.
                by_name.entry(name.clone()).or_insert(position);
            }
        }
        Self {
            certificates,
            by_name,
        }
    }

    fn find(&self, name: &str) -> Option<&Certificate> {
        let name = name.to_ascii_lowercase();
        let wildcard = || name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let position = self
            .by_name
            .get(&name)
            .or_else(|| self.by_name.get(&wildcard()?))?;
        self.certificates.get(*position)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let loaded = self.loaded.load();
        let asked = hello.server_name().and_then(|name| loaded.find(name));
        asked
            .or_else(|| loaded.certificates.first())
            .map(|certificate| certificate.key.clone())
    }
}

fn stamp(files: &CertificateFiles) -> Stamp {
    let stamp = |path: &Path| -> io::Result<_> {
        let metadata = std::fs::metadata(path)?;
        Ok((metadata.modified()?, metadata.len()))
    };
    [stamp(&files.certificate).ok(), stamp(&files.key).ok()]
}

fn read(files: &CertificateFiles) -> Result<Certificate, TlsError> {
    // Before the content: a file that is replaced in between is read once more at the next look.
    let stamp = stamp(files);
    let unreadable = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Read { what, path, source }
    };
    let unusable = |reason: String| TlsError::Certificate {
        path: files.certificate.clone(),
        reason,
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(|chain| chain.collect::<Result<Vec<_>, _>>())
        .map_err(unreadable("a certificate", &files.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unreadable("a private key", &files.key))?;
    let own = chain
        .first()
        .ok_or_else(|| unusable("it holds no certificate".to_owned()))?;
    let (names, expires) = names_and_expiry(own).map_err(unusable)?;
    let key =
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| TlsError::Key {
            key: files.key.clone(),
            certificate: files.certificate.clone(),
            source,
        })?;
    Ok(Certificate {
        key: Arc::new(key),
        names,
        expires,
        stamp,
    })
}

fn names_and_expiry(certificate: &CertificateDer<'_>) -> Result<(Vec<String>, SystemTime), String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| error.to_string())?;
    let names: Vec<String> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        return Err("it lists no DNS name (subjectAltName), so no client could be shown it".to_owned());
    }
    let expires = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok((names, SystemTime::UNIX_EPOCH + Duration::from_secs(expires)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_pair(dir: &Path, name: &str, names: &[&str]) -> CertificateFiles {
        let made = rcgen::generate_simple_self_signed(
            names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(),
        );
        let made = made.unwrap();
        let files = CertificateFiles {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        files
    }

    fn shown(certificates: &Certificates, name: &str) -> Vec<String> {
        let loaded = certificates.loaded.load();
        loaded
            .find(name)
            .or_else(|| loaded.certificates.first())
            .unwrap()
            .names
            .clone()
    }

    #[test]
    fn shows_the_certificate_that_covers_the_name_and_else_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let files = vec![
            write_pair(dir.path(), "a", &["a.example"]),
            write_pair(dir.path(), "b", &["b.example", "*.b.example"]),
        ];
        let certificates = Certificates::load(files, None).unwrap();
        assert_eq!(shown(&certificates, "A.example"), ["a.example"]);
        assert_eq!(shown(&certificates, "x.b.example"), ["b.example", "*.b.example"]);
        assert_eq!(
            shown(&certificates, "x.y.b.example"),
            ["a.example"],
            "a wildcard covers one label"
        );
        assert_eq!(shown(&certificates, "unknown.example"), ["a.example"]);
    }

    #[test]
    fn a_damaged_certificate_leaves_the_old_one_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let files = write_pair(dir.path(), "a", &["a.example"]);
        let certificates = Certificates::load(vec![files.clone()], None).unwrap();
        assert!(!certificates.reload(), "nothing had changed");

        std::fs::write(&files.certificate, "-----BEGIN CERTIFICATE-----\n").unwrap();
        assert!(certificates.reload());
        assert_eq!(shown(&certificates, "a.example"), ["a.example"]);

        write_pair(dir.path(), "a", &["new.example"]);
        assert!(certificates.reload());
        assert_eq!(shown(&certificates, "a.example"), ["new.example"]);
    }

    #[test]
    fn errors_name_the_file_that_is_at_fault() {
        let dir = tempfile::tempdir().unwrap();
        let a = write_pair(dir.path(), "a", &["a.example"]);
        let b = write_pair(dir.path(), "b", &["b.example"]);
        let mixed = CertificateFiles {
            certificate: a.certificate.clone(),
            key: b.key,
        };
        assert!(matches!(
            Certificates::load(vec![mixed], None),
            Err(TlsError::Key { .. })
        ));
        let missing = CertificateFiles {
            certificate: dir.path().join("none.pem"),
            key: a.key,
        };
        let error = Certificates::load(vec![missing], None).unwrap_err();
        assert!(error.to_string().contains("none.pem"), "{error}");
    }
}
