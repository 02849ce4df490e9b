//! Builds weft and the shop, and becomes the host that serves it, or the files that it is given instead; or with
//! `--hosts` a lattice of several.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use crate::actors;
use crate::cache::Cache;
use crate::project::Project;
use crate::setup;
use crate::sh;

/// The first build takes minutes; this is what even a slow machine stays below.
const BUILD_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);
/// The script that a lattice on this machine is started by.
const LATTICE: &str = include_str!("up/lattice.sh");
/// Hosts on one machine: each takes some 30 MiB and a port.
const HOSTS_MAX: u32 = 20;
/// Where `weft up` serves if it isn't told.
const ADDRESS: &str = "127.0.0.1:8080";

/// Returns only if the build failed. It is one for development, or with `release` for production, which takes several times as
/// long.
pub(crate) fn run(project: &Project, release: bool, args: &[String]) -> anyhow::Result<ExitCode> {
    let hosts = hosts_of(args)?;
    let serves_shop = !args.iter().any(|arg| is_file_to_serve(arg));
    if serves_shop {
        actors::run(project, &actors::SHOP)?;
    }
    let mut cargo = project.cargo();
    cargo.args(["build", "--workspace", "--bin", "weft"]);
    if release {
        cargo.arg("--release");
    } else {
        eprintln!(
            "Building weft for development, some ten minutes the first time. `cargo xtask up --release` builds it for \
             production: slower to build, several times as fast"
        );
    }
    let built = sh::foreground(BUILD_LIMIT, &mut cargo)?;
    if !built.success() {
        return Ok(sh::exit_code(built));
    }
    let folder = if release { "release" } else { "debug" };
    let weft = project.target_dir()?.join(folder).join("weft");
    if let Some(hosts) = hosts {
        return lattice(project, &weft, hosts);
    }
    let mut up = Command::new(&weft);
    up.arg("up");
    if serves_shop {
        up.arg(project.shop().join("app.yaml"));
        let address = std::env::var("WEFT_HTTP").unwrap_or_else(|_| ADDRESS.to_owned());
        eprintln!("{}", to_try(address_of(args).unwrap_or(&address), &weft));
    }
    // This process becomes the host, so that a signal reaches it.
    let error = up.args(args).exec();
    Err(anyhow!(error).context(format!("failed to start {}", weft.display())))
}

/// Becomes a script that starts a nats-server and so many hosts, and spreads the shop over them.
fn lattice(project: &Project, weft: &Path, hosts: u32) -> anyhow::Result<ExitCode> {
    let server = {
        let cache = Cache::open()?;
        setup::nats::ensure(&cache)?
    };
    let mut script = Command::new("sh");
    script.args(["-c", LATTICE, "lattice.sh"]);
    script.arg(weft).arg(server).arg(hosts.to_string());
    script.arg(project.shop().join("app.yaml")).arg(".weft-lattice");
    let error = script.exec();
    Err(anyhow!(error).context("failed to start sh"))
}

/// What `--hosts` says. It stands alone: hosts of a lattice are told the rest by `weft host`.
fn hosts_of(args: &[String]) -> anyhow::Result<Option<u32>> {
    let value = match args {
        [flag, value] if flag == "--hosts" => value,
        [one] if one.starts_with("--hosts=") => &one["--hosts=".len()..],
        _ if args.iter().any(|arg| arg.starts_with("--hosts")) => {
            bail!("--hosts takes a number and stands alone: `cargo xtask up --hosts 3`")
        }
        _ => return Ok(None),
    };
    let hosts = value.parse().ok().filter(|hosts| (1..=HOSTS_MAX).contains(hosts));
    let hosts = hosts.with_context(|| format!("--hosts {value}: expected 1 to {HOSTS_MAX}"))?;
    Ok(Some(hosts))
}

/// A component or a manifest. No option of `weft up` takes a value that ends so.
fn is_file_to_serve(arg: &str) -> bool {
    let extension = Path::new(arg)
        .extension()
        .and_then(|extension| extension.to_str());
    !arg.starts_with('-') && matches!(extension, Some("wasm" | "yaml" | "yml"))
}

/// What `--http` says.
fn address_of(args: &[String]) -> Option<&str> {
    args.iter()
        .enumerate()
        .find_map(|(at, arg)| match arg.strip_prefix("--http")? {
            "" => args.get(at + 1).map(String::as_str),
            rest => rest.strip_prefix('='),
        })
}

fn to_try(address: &str, weft: &Path) -> String {
    let weft = weft.display();
    format!(
        "
The shop will be at http://{address}/ once it is ready. To try in another terminal:

  curl -X POST {address}/api/seed
  curl {address}/api/products
  curl --json '{{\"customer\": \"Ada\", \"lines\": [{{\"product\": \"rug\", \"quantity\": 3}}]}}' {address}/api/orders
  compose/apps/shop/load -u http://{address} -s 60
  {weft} link put catalog wasi:keyvalue --to spare

compose/apps/shop/README.md tells what they do.
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_or_a_manifest_takes_the_place_of_the_shop() {
        for file in ["app.yaml", "../x.yml", "target/guests/hello.wasm"] {
            assert!(is_file_to_serve(file), "{file}");
        }
        for other in ["--data", "/tmp/data", "127.0.0.1:0", "--x=app.yaml", "yaml"] {
            assert!(!is_file_to_serve(other), "{other}");
        }
    }

    #[test]
    fn a_number_of_hosts_stands_alone() {
        let hosts = |args: &[&str]| {
            let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
            hosts_of(&args).map_err(|error| error.to_string())
        };
        assert_eq!(hosts(&["--hosts", "3"]), Ok(Some(3)));
        assert_eq!(hosts(&["--hosts=3"]), Ok(Some(3)));
        assert_eq!(hosts(&["--data", "d"]), Ok(None));
        for wrong in [
            &["--hosts", "0"][..],
            &["--hosts"],
            &["--hosts", "3", "--data", "d"],
        ] {
            assert!(hosts(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_to_try_goes_where_the_host_will_serve() {
        let address = |args: &[&str]| {
            let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
            address_of(&args).map(str::to_owned)
        };
        assert_eq!(address(&["--data", "d", "--http", "[::]:80"]).unwrap(), "[::]:80");
        assert_eq!(address(&["--http=127.0.0.1:81"]).unwrap(), "127.0.0.1:81");
        assert_eq!(
            address(&["--https", "[::]:443", "--http=[::]:80"]).unwrap(),
            "[::]:80"
        );
        assert_eq!(address(&["--https", "[::]:443"]), None);
        assert_eq!(address(&["--http"]), None);
    }
}
