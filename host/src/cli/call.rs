//! `weft call`: one call of an exported function.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::admin_client::HostArgs;
use super::args::duration;
use super::{Exit, Failure, Output, print, print_json};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weft call pricing shop:pricing/pricing.price '\"tea\", 3'\n  weft call catalog shop:catalog/catalog.put '{id: \"tea\", price: 250, tags: [\"hot\"], note: none}'\n  weft call default/shop/catalog shop:catalog/catalog@1.0.0.list --timeout 2s --output json\n\nArguments and results are in WAVE (https://github.com/bytecodealliance/wasm-tools/tree/main/crates/wasm-wave):\ntrue, -1, 0.5, 'x', \"text\", [1, 2], {field: 1}, (1, \"a\"), some(1), none, ok(1), err(\"why\"), case, case(1), {flag}.\nTrailing options may be left out. A call that fails exits 1 and says whether it may have run."
)]
pub(super) struct CallArgs {
    /// Whom; a short name if it is unique.
    actor: String,
    /// What, as INTERFACE.FUNCTION, for example shop:pricing/pricing.price; the version may be left out.
    #[arg(value_name = "INTERFACE.FUNCTION", value_parser = function)]
    function: (String, String),
    /// The arguments in WAVE, with commas between them.
    #[arg(default_value = "", allow_hyphen_values = true)]
    args: String,
    /// How long it may take, if less than the actor's own limit.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    host: HostArgs,
}

fn function(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('.') {
        // The last dot of a version is followed by a digit.
        Some((interface, function)) if function.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            Ok((interface.to_owned(), function.to_owned()))
        }
        _ => Err("expected INTERFACE.FUNCTION, for example shop:pricing/pricing.price".to_owned()),
    }
}

pub(super) fn run(call: &CallArgs, output: Output) -> Result<(), Failure> {
    let (interface, function) = &call.function;
    if let Err(error) = interface.parse::<weft_compose::InterfacePattern>() {
        return Err(Failure::new(Exit::Usage, &error));
    }
    let answer = call.host.client()?.send(
        Method::POST,
        "/v1/call",
        &json!({
            "actor": call.actor,
            "interface": interface,
            "function": function,
            "args": call.args,
            "timeout_ms": call.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        }),
    )?;
    match output {
        Output::Json => print_json(&answer),
        // A function without a result prints nothing.
        Output::Text => answer["result"].as_str().map_or(Ok(()), print),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_is_what_follows_the_last_dot() {
        let split = |text| function(text).ok();
        let expected = |interface: &str, function: &str| Some((interface.to_owned(), function.to_owned()));
        assert_eq!(split("a:b/c.get"), expected("a:b/c", "get"));
        assert_eq!(split("a:b/c@1.0.0.get"), expected("a:b/c@1.0.0", "get"));
        assert_eq!(split("a:b/c@1.0.0"), None);
        assert_eq!(split("get"), None);
    }
}
