//! `weft actor`: where an actor runs.

use http::Method;
use serde_json::json;
use weft_compose::HostName;

use super::admin_client::HostArgs;
use super::deploy::show;
use super::{Failure, Output};

#[derive(Debug, clap::Args)]
pub(super) struct Actor {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Place an actor on a host. Without a placement it runs on every host; with one only where it is placed.
    #[command(
        after_help = "Examples:\n  weft actor place catalog --host eu-1\n  weft actor place shop/catalog --host eu-2"
    )]
    Place(Placement),
    /// Take an actor off a host. Without its last placement it runs on every host again.
    #[command(after_help = "Examples:\n  weft actor unplace catalog --host eu-1")]
    Unplace(Placement),
}

#[derive(Debug, clap::Args)]
struct Placement {
    /// Which actor; a short name if it is unique.
    actor: String,
    /// The host, as `weft get hosts` names it. It need not be there now.
    #[arg(long = "host", value_name = "NAME")]
    name: HostName,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) fn run(actor: &Actor, output: Output) -> Result<(), Failure> {
    let (method, placement) = match &actor.command {
        Command::Place(placement) => (Method::PUT, placement),
        Command::Unplace(placement) => (Method::DELETE, placement),
    };
    let body = json!({ "actor": placement.actor, "host": placement.name });
    show(
        &placement.host.client()?.send(method, "/v1/placements", &body)?,
        output,
    )
}
