//! Components in registries, as commands name them.

use super::{Exit, Failure};
use crate::component::ComponentBytes;
use crate::oci::reference::SCHEME;
use crate::oci::{self, Credentials, Reference, Registries};

/// Which registries are asked, and as whom. Without a user those that `docker login` knows.
#[derive(Debug, Default, clap::Args)]
pub(super) struct RegistryArgs {
    /// The user of the OCI registry; the password is in WEFT_REGISTRY_PASSWORD. Without it, what `docker login` wrote.
    #[arg(long, value_name = "NAME", env = USER)]
    registry_user: Option<String>,
    /// An OCI registry to speak to without TLS; those on this machine are.
    #[arg(long = "plain-http", value_name = "HOST:PORT", env = PLAIN, value_delimiter = ',')]
    plain: Vec<String>,
}

const USER: &str = "WEFT_REGISTRY_USER";
const PASSWORD: &str = "WEFT_REGISTRY_PASSWORD";
const PLAIN: &str = "WEFT_PLAIN_HTTP";

impl RegistryArgs {
    /// What the environment says, for commands without these flags.
    pub(super) fn of_env() -> Self {
        let plain = std::env::var(PLAIN).unwrap_or_default();
        Self {
            registry_user: std::env::var(USER).ok(),
            plain: plain
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    }

    fn registries(&self) -> Result<Registries, Failure> {
        let credentials = match &self.registry_user {
            Some(user) => {
                let password = std::env::var(PASSWORD).map_err(|_| {
                    let text = format!("--registry-user {user} needs a password: set {PASSWORD}");
                    Failure::text(Exit::Usage, text)
                })?;
                Credentials::named(user.clone(), password)
            }
            None => Credentials::of_docker().map_err(|text| Failure::text(Exit::Input, text))?,
        };
        let plain = self.plain.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Registries { credentials, plain })
    }

    /// The component behind `oci://...`.
    pub(super) fn pull(&self, text: &str) -> Result<ComponentBytes, Failure> {
        let (reference, registries) = (parsed(text)?, self.registries()?);
        let pulled = on_runtime(oci::pull(&reference, &registries))?;
        pulled.map_err(|error| Failure::new(Exit::Input, &error))
    }

    /// Puts a component behind `oci://...`; the reference that names it for ever.
    pub(super) fn push(&self, component: &ComponentBytes, text: &str) -> Result<Reference, Failure> {
        let (reference, registries) = (parsed(text)?, self.registries()?);
        let pushed = on_runtime(oci::push(component, &reference, &registries))?;
        pushed.map_err(|error| Failure::new(Exit::Failed, &error))
    }
}

/// Whether it is in a registry, and no file.
pub(super) fn is_reference(text: &str) -> bool {
    text.starts_with(SCHEME)
}

fn parsed(text: &str) -> Result<Reference, Failure> {
    text.parse()
        .map_err(|error: oci::ReferenceError| Failure::new(Exit::Usage, &error))
}

fn on_runtime<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, &error))?;
    Ok(runtime.block_on(work))
}
