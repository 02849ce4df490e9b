//! The clients of `cargo xtask soak`, in a process of their own.
//!
//! `open` sends requests at a constant rate, whether they are answered or not ([`open`]); `mixed` visits the soak's apps
//! as their users, their attackers and those who leave do ([`mixed`]). The result is one line of JSON.

#![expect(clippy::print_stdout, reason = "the result is what this program prints")]

mod client;
mod mixed;
mod open;

use std::time::Duration;

use anyhow::{Context as _, bail};

const USAGE: &str =
    "usage: weft-load open ADDRESS PATH RATE_PER_S SECONDS CONNECTIONS | weft-load mixed ADDRESS SECONDS";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let seconds = |text: &str| text.parse().map(Duration::from_secs).context(USAGE);
    let result = match args[..] {
        ["open", address, path, rate, duration, connections] => {
            let flow = open::Flow {
                address: address.parse().context(USAGE)?,
                path: path.parse().context(USAGE)?,
                rate_per_s: rate.parse().context(USAGE)?,
                duration: seconds(duration)?,
                connections: connections.parse().context(USAGE)?,
            };
            runtime.block_on(open::run(flow))
        }
        ["mixed", address, duration] => {
            runtime.block_on(mixed::run(address.parse().context(USAGE)?, seconds(duration)?))
        }
        _ => bail!(USAGE),
    };
    println!("{result}");
    Ok(())
}
