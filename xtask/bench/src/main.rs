//! What `cargo xtask bench` measures in one process, each beside a yardstick without Weft that does the same.
//!
//! One program for all of it, as linking one takes minutes. A part's two sides take turns, round by round; the result
//! is one line of JSON. [`weft`] calls an actor as the host does, [`bare`] the same component in bare wasmtime.

#![expect(clippy::print_stdout, reason = "the result is what this program prints")]

mod bare;
mod calls;
mod capabilities;
mod hold;
mod invocation;
mod objects;
mod rounds;
mod servers;
mod waiting;
mod weft;

use std::path::PathBuf;

use tokio::runtime::Builder;
use wasmtime::error::Context as _;
use wasmtime::{Result, bail};

use crate::weft::Weft;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: weft-bench invocation|calls|capabilities|servers|objects WEFT GUEST_FOLDER DATA_FOLDER ROUNDS\n       weft-bench waiting WEFT GUEST_FOLDER DATA_FOLDER INSTANCES\n       weft-bench hold ADDRESS/PATH REQUESTS";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    if let [part, url, requests] = &args[..]
        && part == "hold"
    {
        let requests = requests.parse::<usize>().context(USAGE)?;
        println!("{}", runtime.block_on(hold::measure(url, requests))?);
        return Ok(());
    }
    let [part, weft, guests, data, rounds] = &args[..] else {
        bail!("{USAGE}");
    };
    let rounds = rounds.parse::<usize>().context(USAGE)?;
    let (guests, data) = (PathBuf::from(guests), PathBuf::from(data));
    // Of a host's own tasks. Guests are on one of the threads that serve, which has a runtime by itself.
    let own = Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let weft = Weft::new(weft.into(), guests, &data)?;
        match part.as_str() {
            "waiting" => waiting::measure(&weft, rounds).await,
            "invocation" => invocation::measure(&weft, rounds).await,
            "calls" => calls::measure(&weft, rounds).await,
            "capabilities" => capabilities::measure(&weft, &data, rounds).await,
            "servers" => servers::measure(&weft, own.handle(), &data, rounds).await,
            "objects" => objects::measure(&weft, own.handle(), &data, rounds).await,
            _ => bail!("{USAGE}"),
        }
    })?;
    println!("{result}");
    Ok(())
}
