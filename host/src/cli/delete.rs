//! `weft delete`: an app, gone from the host.

use http::Method;
use serde_json::Value;

use super::admin_client::{HostArgs, escaped};
use super::deploy::show;
use super::{Exit, Failure, Output};

#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Delete an app: its actors, links, providers and routes. What its providers stored stays on disk.
    #[command(after_help = "Examples:\n  weft delete app shop\n  weft delete app default/shop")]
    App {
        /// Which; a short name if it is unique.
        name: String,
        #[command(flatten)]
        host: HostArgs,
    },
}

pub(super) fn run(delete: &Delete, output: Output) -> Result<(), Failure> {
    let What::App { name, host } = &delete.what;
    let client = host.client()?;
    let found = client.get(&format!("/v1/apps?name={}", escaped(name)))?;
    let [Value::Object(app)] = found["apps"].as_array().map_or(&[][..], Vec::as_slice) else {
        return Err(Failure::text(
            Exit::Failed,
            format!("the host did not say which app `{name}` is"),
        ));
    };
    let full = app["name"].as_str().unwrap_or_default();
    show(
        &client.send(Method::DELETE, &format!("/v1/apps/{full}"), &Value::Null)?,
        output,
    )
}
