//! The shop as a process: what an app of five actors and three stores weighs, before and after customers came.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::process::{Kind, Server};
use super::{Row, Subjects, median};
use crate::sh;

/// What the design asks for: 64 MB.
const IDLE_MIB_MAX: f64 = 64e6 / 1_048_576.0;
const LOAD_SECONDS: u64 = 10;
const LOAD_SECONDS_QUICK: u64 = 2;

#[derive(Default)]
struct Weights {
    yardstick: Vec<f64>,
    rss_idle: Vec<f64>,
    pss_idle: Vec<f64>,
    rss_loaded: Vec<f64>,
    pss_loaded: Vec<f64>,
}

pub(super) fn measure(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let rounds = subjects.rounds();
    let seconds = if subjects.quick {
        LOAD_SECONDS_QUICK
    } else {
        LOAD_SECONDS
    };
    eprintln!("Measuring the shop's memory, {rounds} rounds");
    // The first start compiles, in processes of their own, and deploys; those that are weighed find all that done.
    let _ = fs::remove_dir_all(subjects.scratch.join("shop-data"));
    drop(Server::start(Kind::Shop, subjects)?);
    let mut weights = Weights::default();
    for _ in 0..rounds {
        let yardstick = Server::start(Kind::WasmtimeTuned, subjects)?;
        weights.yardstick.push(yardstick.resident_mib()?);
        drop(yardstick);

        let shop = Server::start(Kind::Shop, subjects)?;
        weights.rss_idle.push(shop.resident_mib()?);
        weights.pss_idle.push(shop.proportional_mib()?);
        let mut load = Command::new(subjects.shop.join("load"));
        load.arg("-u").arg(format!("http://{}", shop.address));
        sh::read(
            Duration::from_secs(seconds + 60),
            load.args(["-s", &seconds.to_string()]),
        )?;
        weights.rss_loaded.push(shop.resident_mib()?);
        weights.pss_loaded.push(shop.proportional_mib()?);
    }
    let yardstick = median(weights.yardstick);
    let mut row = |what: &str, rss: Vec<f64>, pss: Vec<f64>, mib_max: Option<f64>| {
        let (rss, pss) = (median(rss), median(pss));
        rows.push(Row {
            what: what.to_owned(),
            weft: format!("{rss:.1} MiB (PSS {pss:.1})"),
            yardstick: format!("wasmtime serve, hello {yardstick:.1} MiB"),
            ratio: Some(rss / yardstick),
            reach: if mib_max.is_some() { "at most 64 MB" } else { "" },
            met: mib_max.map(|most| rss <= most),
        });
        json!({ "rss": rss, "pss": pss })
    };
    let idle = row(
        "the shop, resident, idle",
        weights.rss_idle,
        weights.pss_idle,
        Some(IDLE_MIB_MAX),
    );
    let loaded = row(
        "the shop, resident, after load",
        weights.rss_loaded,
        weights.pss_loaded,
        None,
    );
    Ok(json!({ "idle_mib": idle, "after_load_mib": loaded, "wasmtime_serve_hello_mib": yardstick }))
}
