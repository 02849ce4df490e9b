//! `weft quota`: what a namespace may use of each host.

use http::Method;
use serde_json::json;

use super::admin_client::HostArgs;
use super::args::bytes;
use super::deploy::show;
use super::{Failure, Output};

#[derive(Debug, clap::Args)]
pub(super) struct QuotaArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Put the quota of a namespace, in place of the one that it has. What is not said is not bounded.
    #[command(
        after_help = "Examples:\n  weft quota put press --messages-per-s 500 --connections 20\n  weft quota put press --object-bytes-per-s 10MiB\n  weft get quotas                what is put, and what was refused\n\nEach host counts for itself. What is over a quota is refused and never queued."
    )]
    Put(Put),
    /// Take away the quota of a namespace.
    Delete {
        /// Which.
        #[arg(id = "of", value_name = "NAMESPACE")]
        namespace: String,
        #[command(flatten)]
        host: HostArgs,
    },
}

#[derive(Debug, clap::Args)]
struct Put {
    /// Which.
    #[arg(id = "of", value_name = "NAMESPACE")]
    namespace: String,
    /// Messages that its actors say a second, requests among them.
    #[arg(long, value_name = "N")]
    messages_per_s: Option<u64>,
    /// Bytes of objects that its actors write to blob stores a second, such as 10MiB. An object that was begun is written.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    object_bytes_per_s: Option<u64>,
    /// Connections to servers that its providers may open together: the `connections` of Postgres and Redis, one of NATS.
    #[arg(long, value_name = "N")]
    connections: Option<u64>,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) fn run(quota: &QuotaArgs, output: Output) -> Result<(), Failure> {
    let (method, host, body) = match &quota.command {
        Command::Put(put) => (
            Method::PUT,
            &put.host,
            json!({
                "namespace": put.namespace,
                "messages_per_s": put.messages_per_s,
                "object_bytes_per_s": put.object_bytes_per_s,
                "connections": put.connections,
            }),
        ),
        Command::Delete { namespace, host } => (Method::DELETE, host, json!({ "namespace": namespace })),
    };
    show(&host.client()?.send(method, "/v1/quotas", &body)?, output)
}
