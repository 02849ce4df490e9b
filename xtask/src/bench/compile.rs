//! What an actor's answers take while many components are deployed beside it.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::probe::times;
use super::process::{Kind, Server};
use super::{Row, Subjects};
use crate::sh;

const COMPONENTS: usize = 200;
const COMPONENTS_QUICK: usize = 20;
/// How long is measured before.
const BEFORE: Duration = Duration::from_secs(5);
const DEPLOY_LIMIT: Duration = Duration::from_secs(20 * 60);
const PATH: &str = "/plain";

pub(super) fn measure(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let count = if subjects.quick {
        COMPONENTS_QUICK
    } else {
        COMPONENTS
    };
    let folder = subjects.scratch.join("components");
    let _ = fs::remove_dir_all(&folder);
    let _ = fs::remove_dir_all(subjects.scratch.join("data"));
    fs::create_dir_all(&folder)?;
    let hello = fs::read(subjects.guest("hello"))?;
    let (mut actors, mut routes) = (String::new(), String::new());
    for number in 0..count {
        let path = folder.join(format!("hello-{number}.wasm"));
        fs::write(&path, distinct(&hello, number))?;
        actors.push_str(&format!(
            "  hello-{number}: {{ component: {} }}\n",
            path.display()
        ));
        routes.push_str(&format!(
            "  - {{ actor: hello-{number}, path: /{number}, stripPrefix: true }}\n"
        ));
    }
    let app = folder.join("app.yaml");
    fs::write(
        &app,
        format!("apiVersion: weft/v1\nname: many\nactors:\n{actors}routes:\n{routes}"),
    )?;

    let server = Server::start(Kind::Weft, subjects)?;
    let until = Instant::now() + BEFORE;
    let before = times(server.address, PATH, || Instant::now() < until)?;
    eprintln!("Deploying {count} components");
    let over = AtomicBool::new(false);
    let started = Instant::now();
    let (during, deployed) = std::thread::scope(|scope| {
        let deploy = scope.spawn(|| {
            let mut command = Command::new(&subjects.weft);
            command.arg("deploy").arg(&app).arg("--data");
            command.arg(subjects.scratch.join("data"));
            let deployed = sh::read(DEPLOY_LIMIT, &mut command);
            over.store(true, Ordering::Relaxed);
            deployed
        });
        let during = times(server.address, PATH, || !over.load(Ordering::Relaxed));
        (during, deploy.join())
    });
    let took = started.elapsed().as_secs_f64();
    // The probe fails with the first answer that is not 200.
    let during = during?;
    match deployed {
        Ok(deployed) => drop(deployed?),
        Err(_) => anyhow::bail!("the deploy panicked"),
    }
    let figure = |times: &super::probe::Times| format!("{:.0} us (p50 {:.0})", times.at(0.99), times.at(0.5));
    rows.push(Row {
        what: format!("hello while {count} components compile, p99"),
        weft: figure(&during),
        yardstick: format!("before {}", figure(&before)),
        ratio: Some(during.at(0.99) / before.at(0.99)),
        reach: "no request fails",
        met: Some(true),
    });
    rows.push(Row {
        what: format!("deploy of {count} components of 53 KB"),
        weft: format!("{took:.1} s"),
        yardstick: String::new(),
        ratio: None,
        reach: "",
        met: None,
    });
    Ok(json!({
        "components": count,
        "deploy_s": took,
        "before_us": { "p50": before.at(0.5), "p99": before.at(0.99) },
        "during_us": { "p50": during.at(0.5), "p99": during.at(0.99) },
    }))
}

/// The same component with a custom section of its own, so that it has a digest of its own and is compiled anew.
fn distinct(component: &[u8], number: usize) -> Vec<u8> {
    let (name, text) = (b"number", format!("{number:06}"));
    let mut bytes = component.to_vec();
    // Section 0, its length, its name's length; all below 128, so a byte each.
    let len = u8::try_from(1 + name.len() + text.len()).unwrap_or(u8::MAX);
    bytes.extend_from_slice(&[0, len, 6]);
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(text.as_bytes());
    bytes
}
