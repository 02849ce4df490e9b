//! As whom registries are asked.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// The longest file of credentials that is read.
const FILE_LEN_MAX: u64 = 1 << 20;

/// What `docker login` and the registry itself call `docker.io`.
const HUB: &[&str] = &["index.docker.io", "registry-1.docker.io"];

/// A user's name and password, by registry.
#[derive(Clone, Default)]
pub struct Credentials {
    named: Option<(String, String)>,
    of_registries: HashMap<String, (String, String)>,
}

#[derive(Deserialize, Default)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
}

impl Credentials {
    /// These, for every registry.
    pub fn named(user: String, password: String) -> Self {
        Self {
            named: Some((user, password)),
            of_registries: HashMap::new(),
        }
    }

    /// What `docker login` wrote: `config.json` in the folder that `DOCKER_CONFIG` names, or in `~/.docker`. Nothing if
    /// there is none.
    ///
    /// # Errors
    /// A sentence, if the file is there and can't be read.
    pub fn of_docker() -> Result<Self, String> {
        let folder = |name| std::env::var_os(name).map(PathBuf::from);
        let folder = folder("DOCKER_CONFIG").or_else(|| Some(folder("HOME")?.join(".docker")));
        let Some(path) = folder.map(|folder| folder.join("config.json")) else {
            return Ok(Self::default());
        };
        match std::fs::metadata(&path) {
            Ok(file) if file.len() <= FILE_LEN_MAX => {}
            Ok(_) => {
                return Err(format!(
                    "{} is too long for a file of credentials",
                    path.display()
                ));
            }
            Err(_) => return Ok(Self::default()),
        }
        let text = std::fs::read_to_string(&path);
        let text =
            text.map_err(|error| format!("failed to read the credentials in {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{} is no file of credentials: {error}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let file: File = serde_json::from_str(text)?;
        let known = file.auths.into_iter().filter_map(|(registry, entry)| {
            let decoded = String::from_utf8(STANDARD.decode(entry.auth).ok()?).ok()?;
            let (user, password) = decoded.split_once(':')?;
            Some((key(&registry).to_owned(), (user.to_owned(), password.to_owned())))
        });
        Ok(Self {
            named: None,
            of_registries: known.collect(),
        })
    }

    /// The header that says who one is, for `registry`.
    pub(super) fn basic(&self, registry: &str) -> Option<String> {
        let known = self
            .named
            .as_ref()
            .or_else(|| self.of_registries.get(key(registry)));
        known.map(|(user, password)| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }
}

/// One name for `ghcr.io`, `https://ghcr.io/` and `https://ghcr.io/v2/`.
fn key(registry: &str) -> &str {
    let rest = registry.split_once("://").map_or(registry, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or(rest) {
        host if HUB.contains(&host) => "docker.io",
        host => host,
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_found_by_each_of_the_names_that_docker_login_writes() {
        let text = r#"{"auths": {"https://HUB/v1/": {"auth": "bWU6YTpi"}, "ghcr.io": {"auth": "bWU6Yw=="},
            "empty.io": {}, "bad.io": {"auth": "%"}}, "credsStore": "desktop"}"#;
        let credentials = Credentials::parse(&text.replace("HUB", HUB[0])).unwrap();
        assert_eq!(credentials.basic("docker.io").unwrap(), "Basic bWU6YTpi");
        assert_eq!(credentials.basic("ghcr.io").unwrap(), "Basic bWU6Yw==");
        assert_eq!(
            (credentials.basic("empty.io"), credentials.basic("bad.io")),
            (None, None)
        );
        assert_eq!(
            Credentials::named("me".into(), "c".into()).basic("x.io").unwrap(),
            "Basic bWU6Yw=="
        );
        assert!(!format!("{credentials:?}").contains("me"));
    }
}
