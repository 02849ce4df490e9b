//! `weft secret`: values that go in and don't come out.

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use http::Method;
use serde_json::{Value, json};
use weft_compose::SecretName;
use weft_compose::name::DEFAULT_NAMESPACE;
use weft_secrets::{Context, KeyFileError, Keyring, Recipient, Secret};

use super::admin_client::{AdminClient, HostArgs};
use super::deploy::show;
use super::get::{self, Get};
use super::{Exit, Failure, Output, print, print_json, say};
use crate::data;

#[derive(Debug, clap::Args)]
pub(super) struct SecretArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Put a secret, or its next version: what uses it takes it at once, without a restart.
    ///
    /// The value is read from stdin or a file, and sealed here before it is sent. The end of a last line of text is no
    /// part of it.
    #[command(
        after_help = "Examples:\n  weft secret put shop/db-password < password.txt\n  weft secret put shop/tls-key --from-file key.pem\n  pass show shop/db | weft secret put db-password\n\nA new secret is named by its app, a known one by its short name. A manifest refers to it as ${secret:db-password} in a\nprovider's config, or as secret:db-password below an actor's secrets."
    )]
    Put(Put),
    /// List secrets: names, versions and who uses them, never values.
    List {
        #[command(flatten)]
        host: HostArgs,
    },
    /// Delete a secret. Actors lose it at once; a provider goes on with what it has, and the host says so.
    Delete {
        /// Which; a short name if it is unique.
        name: String,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Make and show root keys, which open secrets.
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Seal all secrets to the newest root key, after `weft secret key new` and once every host has its file.
    Reseal {
        #[command(flatten)]
        host: HostArgs,
    },
}

#[derive(Debug, clap::Args)]
struct Put {
    /// APP/NAME or NAMESPACE/APP/NAME; of one that is there, NAME if it is unique.
    name: String,
    /// Read the value from this file, and not from stdin.
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Seal to this public key, as `weft secret key show` prints it, and not to the one that the host tells: for a
    /// network where another could answer in its place.
    #[arg(long, value_name = "KEY", env = "WEFT_PUBLIC_KEY")]
    public_key: Option<Recipient>,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, clap::Subcommand)]
enum KeyCommand {
    /// Add a new root key to a file, which is made (0600) if it is not there. The newest seals, all of them open.
    #[command(
        after_help = "Examples:\n  weft secret key new --root-key lattice.key      for the first time, or to rotate\n\nGive the file to every host of the lattice (weft host --root-key FILE), and keep a copy apart from the data: who has it\ncan read every secret, and without it none can be read."
    )]
    New(KeyFile),
    /// Print the ids of a file's root keys and the public half of the newest, by which others seal.
    Show(KeyFile),
}

#[derive(Debug, clap::Args)]
struct KeyFile {
    /// The file; by default root.key in the data folder.
    #[arg(long, value_name = "FILE", env = "WEFT_ROOT_KEY_FILE")]
    root_key: Option<PathBuf>,
    /// The data folder of the host.
    #[arg(long, value_name = "DIR", default_value = ".weft", env = "WEFT_DATA")]
    data: PathBuf,
}

impl KeyFile {
    fn path(&self) -> PathBuf {
        let of_data = || data::root_key(&self.data);
        self.root_key.clone().unwrap_or_else(of_data)
    }

    /// Makes the data folder, where the file is to be in it: a root key may be made before the host starts.
    fn make_folder(&self) -> Result<(), Failure> {
        match &self.root_key {
            Some(_) => Ok(()),
            None => data::make_folder(&self.data).map_err(|error| {
                let text = format!("failed to make the data folder {}: {error}", self.data.display());
                Failure::text(Exit::Environment, text)
            }),
        }
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        Self::new(Exit::Environment, &error)
    }
}

pub(super) fn run(secret: SecretArgs, output: Output) -> Result<(), Failure> {
    match secret.command {
        Command::Put(command) => put(&command, output),
        Command::List { host } => get::run(&Get::secrets(host), output),
        Command::Delete { name, host } => {
            let body = json!({ "name": name });
            show(
                &host.client()?.send(Method::DELETE, "/v1/secrets", &body)?,
                output,
            )
        }
        Command::Key {
            command: KeyCommand::New(file),
        } => {
            file.make_folder()?;
            key(&Keyring::add(&file.path())?, &file, output)
        }
        Command::Key {
            command: KeyCommand::Show(file),
        } => key(&Keyring::read(&file.path())?, &file, output),
        Command::Reseal { host } => {
            let resealed = host
                .client()?
                .send(Method::POST, "/v1/secrets/reseal", &Value::Null)?;
            show(&resealed, output)
        }
    }
}

fn put(put: &Put, output: Output) -> Result<(), Failure> {
    let value = read(put)?;
    let client = put.host.client()?;
    let known = client.get("/v1/secrets")?;
    let (name, version) = next(&put.name, &known)?;
    let recipient = match &put.public_key {
        Some(recipient) => recipient.clone(),
        None => told(&known)?,
    };
    let context = Context {
        name: name.as_str(),
        version,
    };
    let sealed = recipient
        .seal(&context, &value)
        .map_err(|error| Failure::new(Exit::Input, &error))?;
    drop(value);
    send(&client, &name, version, &sealed, output)
}

fn send(
    client: &AdminClient,
    name: &SecretName,
    version: u64,
    sealed: &weft_secrets::Sealed,
    output: Output,
) -> Result<(), Failure> {
    let body = json!({ "name": name, "version": version, "key": sealed.key, "sealed": sealed.text });
    show(&client.send(Method::PUT, "/v1/secrets", &body)?, output)
}

fn read(put: &Put) -> Result<Secret, Failure> {
    let failed = |error: std::io::Error| {
        let from = put.from_file.as_ref();
        let from = from.map_or("stdin".to_owned(), |path| path.display().to_string());
        Failure::text(
            Exit::Input,
            format!("failed to read the value from {from}: {error}"),
        )
    };
    let value = match &put.from_file {
        Some(path) => Secret::read(File::open(path).map_err(failed)?),
        None => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                say("weft: type the value, which is shown, then Ctrl-D on a line of its own");
            }
            Secret::read(stdin.lock())
        }
    };
    let value = value.map_err(failed)?;
    if value.reveal().is_empty() {
        return Err(Failure::text(Exit::Input, "the value is empty: nothing was put"));
    }
    Ok(value)
}

/// The full name that `text` stands for, and the version that comes next.
fn next(text: &str, known: &Value) -> Result<(SecretName, u64), Failure> {
    let known = known["secrets"].as_array().map_or(&[][..], Vec::as_slice);
    let name_of = |secret: &Value| secret["name"].as_str()?.parse::<SecretName>().ok();
    let refused = |error: weft_compose::NameError| Failure::new(Exit::Input, &error);
    let name: SecretName = match text.split('/').collect::<Vec<_>>()[..] {
        [namespace, app, name] => SecretName::new(namespace, app, name).map_err(refused)?,
        [app, name] => SecretName::new(DEFAULT_NAMESPACE, app, name).map_err(refused)?,
        _ => {
            let mut fitting = known
                .iter()
                .filter_map(name_of)
                .filter(|known| known.name() == text);
            match (fitting.next(), fitting.next()) {
                (Some(name), None) => name,
                (None, _) => {
                    return Err(Failure::text(
                        Exit::Input,
                        format!("there is no secret `{text}` yet: name its app, as in shop/{text}"),
                    ));
                }
                (Some(one), Some(other)) => {
                    return Err(Failure::text(
                        Exit::Input,
                        format!("`{text}` may be {one} or {other}: name its app, too"),
                    ));
                }
            }
        }
    };
    let current = known
        .iter()
        .find(|secret| name_of(secret).as_ref() == Some(&name));
    let version = current.and_then(|secret| secret["version"].as_u64()).unwrap_or(0);
    Ok((name, version + 1))
}

/// What the host says that values are sealed to.
fn told(known: &Value) -> Result<Recipient, Failure> {
    let Some(public) = known["key"]["public"].as_str() else {
        return Err(Failure::text(
            Exit::Environment,
            "the host has no root key to seal to: make one by `weft secret key new`, and start the hosts of the lattice with --root-key FILE",
        ));
    };
    public
        .parse()
        .map_err(|error: weft_secrets::RecipientError| Failure::new(Exit::Failed, &error))
}

fn key(keys: &Keyring, file: &KeyFile, output: Output) -> Result<(), Failure> {
    let public = keys.newest().map(|key| key.recipient().to_string());
    let ids: Vec<_> = keys.keys().iter().map(|key| key.id()).collect();
    let path = file.path();
    match output {
        Output::Json => print_json(&json!({ "file": path, "keys": ids, "public": public })),
        Output::Text => {
            let public = public.unwrap_or_default();
            print(&format!(
                "{}\nkeys, the newest last: {}\npublic half of the newest: {public}",
                path.display(),
                ids.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next_of(text: &str) -> Result<(String, u64), String> {
        let known = json!({ "secrets": [
            { "name": "default/shop/db", "version": 4 },
            { "name": "default/shop/key", "version": 1 },
            { "name": "default/blog/key", "version": 2 },
        ] });
        let next = next(text, &known).map(|(name, version)| (name.to_string(), version));
        next.map_err(|failure| failure.message)
    }

    #[test]
    fn a_put_is_the_next_version_of_what_is_there_or_the_first() {
        assert_eq!(next_of("db"), Ok(("default/shop/db".into(), 5)));
        assert_eq!(next_of("blog/key"), Ok(("default/blog/key".into(), 3)));
        assert_eq!(next_of("test/shop/db"), Ok(("test/shop/db".into(), 1)));
        assert!(
            next_of("key")
                .unwrap_err()
                .contains("may be default/shop/key or default/blog/key")
        );
        assert!(next_of("new").unwrap_err().contains("name its app"));
        assert!(next_of("shop/Db").is_err());
    }
}
