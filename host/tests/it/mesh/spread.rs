//! The lattice on one machine that `cargo xtask up --hosts 3` starts.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use weft_servers::Nats;

use crate::support::{get, request, send};

/// The first of three ports that nobody listened on a moment ago.
fn three_ports() -> u16 {
    loop {
        let first = weft_servers::free_port();
        let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if first < u16::MAX - 2 && free(first + 1) && free(first + 2) {
            return first;
        }
    }
}

/// Drains its hosts and waits for them when dropped.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let _ = kill_process(pid.unwrap(), Signal::TERM);
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_shop_is_spread_over_three_hosts_and_served_by_each() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().unwrap();
    let first = three_ports();
    let log = folder.path().join("log");
    let mut script = Command::new("sh");
    script.args([
        "-c",
        include_str!("../../../../xtask/src/up/lattice.sh"),
        "lattice.sh",
    ]);
    script
        .args([env!("CARGO_BIN_EXE_weft")])
        .arg(Nats::program())
        .arg("3");
    script
        .arg(root.join("compose/apps/shop/app.yaml"))
        .arg(folder.path());
    script.env("WEFT_HTTP_PORT", first.to_string());
    script
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap());
    let script = Script(script.spawn().unwrap());
    let said = || std::fs::read_to_string(&log).unwrap();
    for _ in 0..600 {
        if said().contains("The shop is at") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(said().contains("The shop is at"), "{}", said());
    let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let seed = request("POST", "/api/seed")
        .body(crate::support::empty())
        .unwrap();
    assert_eq!(send(at(first), seed).await.status, 200, "{}", said());
    for port in first..first + 3 {
        let page = get(at(port), "/").await;
        assert_eq!(page.status, 200, "{}", said());
        let products = get(at(port), "/api/products").await;
        assert!(products.text().contains("hammock"), "{}", products.text());
    }
    drop(script);
    assert!(said().contains("draining"), "{}", said());
}
