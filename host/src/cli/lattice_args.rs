//! How a lattice is reached: the flags of a host that joins one, and of commands that ask one from afar.

use std::collections::BTreeMap;
use std::path::PathBuf;

use weft_lattice::subject::Subjects;
use weft_lattice::transport::nats::{Auth, Tls, check_server};

use crate::mesh::LatticeSettings;

/// Environment variable with a NATS token: on a command line others would see it.
const TOKEN: &str = "WEFT_NATS_TOKEN";

#[derive(Debug, Clone, clap::Args)]
pub(super) struct LatticeArgs {
    /// NATS servers of the lattice, for example nats://10.0.0.1:4222; may be repeated. A token goes into
    /// WEFT_NATS_TOKEN.
    #[arg(long, value_name = "URL", env = "WEFT_NATS", value_delimiter = ',')]
    nats: Vec<String>,
    /// The lattice's name.
    #[arg(long, value_name = "NAME", default_value = "default", env = "WEFT_LATTICE")]
    lattice: String,
    /// A NATS credentials file.
    #[arg(
        long,
        value_name = "FILE",
        env = "WEFT_NATS_CREDS",
        conflicts_with = "nats_nkey"
    )]
    nats_creds: Option<PathBuf>,
    /// A file with the seed of a NATS nkey.
    #[arg(long, value_name = "FILE", env = "WEFT_NATS_NKEY")]
    nats_nkey: Option<PathBuf>,
    /// Who signs the NATS server's certificate, in PEM; also says that the connection has to be encrypted.
    #[arg(long, value_name = "FILE", env = "WEFT_NATS_CA")]
    nats_ca: Option<PathBuf>,
    /// A certificate to show to the NATS server and its key, in PEM.
    #[arg(long, value_name = "CERT:KEY", env = "WEFT_NATS_CERT")]
    nats_cert: Option<String>,
}

impl LatticeArgs {
    /// Whether a lattice is named.
    pub(super) fn is_named(&self) -> bool {
        !self.nats.is_empty()
    }

    /// The settings; what is wrong with them is added to `faults`.
    pub(super) fn settings(
        &self,
        labels: BTreeMap<String, String>,
        controller: bool,
        faults: &mut Vec<String>,
    ) -> Option<LatticeSettings> {
        if self.nats.is_empty() {
            faults.push("no NATS server: name one with --nats nats://HOST:4222".to_owned());
        }
        for (at, url) in self.nats.iter().enumerate() {
            // Without the text, which may have a password.
            if let Err(reason) = check_server(url) {
                faults.push(format!("--nats, URL {}: {reason}", at + 1));
            }
        }
        let subjects = Subjects::new(&self.lattice)
            .map_err(|error| faults.push(format!("--lattice: {error}")))
            .ok();
        let auth = self.auth(faults);
        let certificate = self.nats_cert.as_ref().and_then(|text| {
            let pair = text.split_once(':');
            if pair.is_none() {
                faults.push(format!("--nats-cert `{text}`: expected CERT:KEY, two files"));
            }
            pair.map(|(certificate, key)| (PathBuf::from(certificate), PathBuf::from(key)))
        });
        Some(LatticeSettings {
            servers: self.nats.clone(),
            lattice: self.lattice.clone(),
            subjects: subjects?,
            auth: auth?,
            tls: Tls {
                required: self.nats_ca.is_some(),
                first: false,
                authorities: self.nats_ca.clone().into_iter().collect(),
                certificate,
            },
            labels,
            controller,
        })
    }

    fn auth(&self, faults: &mut Vec<String>) -> Option<Auth> {
        if let Some(path) = &self.nats_creds {
            return Some(Auth::Credentials(path.clone()));
        }
        if let Some(path) = &self.nats_nkey {
            return match std::fs::read_to_string(path) {
                Ok(seed) => Some(Auth::Nkey(seed.trim().to_owned())),
                Err(error) => {
                    faults.push(format!("--nats-nkey: failed to read {}: {error}", path.display()));
                    None
                }
            };
        }
        match std::env::var(TOKEN) {
            Ok(token) if !token.is_empty() => Some(Auth::Token(token)),
            _ => Some(Auth::None),
        }
    }
}
