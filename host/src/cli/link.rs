//! `weft link`: what an import goes to, changed while it is used.

use http::Method;
use serde_json::json;
use weft_compose::{AllowPattern, LinkKey};

use super::admin_client::HostArgs;
use super::args::allow;
use super::deploy::show;
use super::{Exit, Failure, Output};

#[derive(Debug, clap::Args)]
pub(super) struct Link {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Link an import of an actor to a provider, to another actor, or to addresses of HTTP.
    ///
    /// New invocations take the new target; those that run end on the old one. It lasts until the app's next changed
    /// deploy, and `weft get links` shows it as drift.
    #[command(
        after_help = "Examples:\n  weft link put catalog wasi:keyvalue --to scratch\n  weft link put catalog wasi:keyvalue --to goods --bucket items\n  weft link put catalog wasi:keyvalue --link-name cache --to scratch\n  weft link put orders shop:pricing/pricing --to pricing-sale\n  weft link put orders wasi:http/outgoing-handler --allow https://api.example.com --allow http://127.0.0.1:9000\n\nA short name is looked for in the actor's own app first."
    )]
    Put(Put),
    /// Take a link away: calls through it fail until it is put again, or the app's next changed deploy.
    #[command(after_help = "Examples:\n  weft link delete orders wasi:http/outgoing-handler")]
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
struct Put {
    /// Whose import; a short name if it is unique.
    actor: String,
    /// Which: wasi:keyvalue for all of a package, shop:pricing/pricing for one interface.
    interface: LinkKey,
    #[command(flatten)]
    named: Named,
    /// The provider or actor that answers it from now on.
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present = "allow",
        conflicts_with = "allow"
    )]
    to: Option<String>,
    /// The bucket that the actor gets, whatever it asks for.
    #[arg(long, requires = "to")]
    bucket: Option<String>,
    /// Share keys with the other apps on the provider.
    #[arg(long, requires = "to")]
    shared: bool,
    /// Where HTTP requests may go, for example https://api.example.com; may be repeated.
    #[arg(long, value_name = "URL", value_parser = allow)]
    allow: Vec<AllowPattern>,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, clap::Args)]
struct Delete {
    /// Whose import; a short name if it is unique.
    actor: String,
    /// Which, as `weft get links` shows it.
    interface: LinkKey,
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The link's name, for an actor that chooses links; the same as INTERFACE#NAME.
    #[arg(long, value_name = "NAME")]
    link_name: Option<String>,
}

impl Named {
    fn key(&self, given: &LinkKey) -> Result<LinkKey, Failure> {
        match &self.link_name {
            Some(name) => LinkKey::named(given.interface.clone(), name)
                .map_err(|error| Failure::new(Exit::Input, &error)),
            None => Ok(given.clone()),
        }
    }
}

pub(super) fn run(link: &Link, output: Output) -> Result<(), Failure> {
    let changed = match &link.command {
        Command::Put(put) => {
            let to = match &put.to {
                Some(name) => json!({ "name": name, "bucket": put.bucket, "shared": put.shared }),
                None => json!({ "allow": put.allow }),
            };
            let body = json!({ "actor": put.actor, "interface": put.named.key(&put.interface)?, "to": to });
            put.host.client()?.send(Method::PUT, "/v1/links", &body)?
        }
        Command::Delete(delete) => {
            let body = json!({ "actor": delete.actor, "interface": delete.named.key(&delete.interface)? });
            delete.host.client()?.send(Method::DELETE, "/v1/links", &body)?
        }
    };
    show(&changed, output)
}
