//! `weft host`: a host that joins a lattice.

use std::collections::BTreeMap;
use std::path::PathBuf;

use weft_compose::{HostName, Limits};

use super::lattice_args::LatticeArgs;
use super::serving::Serving;
use super::up::run_host;
use super::{Exit, Failure, Output};
use crate::config::Config;

/// The most labels, and the longest of their names and values: what every host hears of every other is to stay small.
const LABELS_MAX: usize = 32;
const LABEL_LEN_MAX: usize = 63;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weft host --nats nats://10.0.0.1:4222 --name eu-1 --controller --label region=eu --label zone=a\n  weft host --nats nats://10.0.0.1:4222 --name eu-2 --label region=eu --http 0.0.0.0:80\n  weft host --config /etc/weft/host.yaml\n  weft deploy app.yaml --nats nats://10.0.0.1:4222\n\nOne host of a lattice has the control store: start it with --controller. The others have a copy, and serve on when it or\nNATS is away. Every host serves every route; what an actor placed elsewhere answers is fetched from there.\nSIGTERM or Ctrl-C drains: the other hosts call elsewhere first, then the host leaves and exits 0."
)]
pub(super) struct HostCommand {
    /// A file with flags of this command, in YAML: their names without the dashes, and their values. A flag wins over its
    /// environment variable, and that over the file.
    #[arg(long, value_name = "FILE", env = "WEFT_CONFIG")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    lattice: LatticeArgs,
    /// The host's name, a DNS label; by default one is made up. The data folder keeps it.
    #[arg(long, value_name = "NAME", env = "WEFT_HOST_NAME")]
    name: Option<HostName>,
    /// What is to be known of the host; `region` and `zone` say where it is, and calls stay near. May be repeated.
    #[arg(
        long = "label",
        value_name = "KEY=VALUE",
        env = "WEFT_LABELS",
        value_delimiter = ','
    )]
    labels: Vec<String>,
    /// Have the control store: exactly one host of a lattice does.
    #[arg(long, env = "WEFT_CONTROLLER")]
    controller: bool,
    /// Start the processes of outside providers that manifests want on this host, whose programs are in this folder.
    /// Without it, none.
    #[arg(long, value_name = "DIR", env = "WEFT_ALLOW_COMMANDS")]
    allow_commands: Option<PathBuf>,
    #[command(flatten)]
    serving: Serving,
}

pub(super) fn run(host: HostCommand, output: Output) -> Result<(), Failure> {
    let mut faults = Vec::new();
    let labels = labels(&host.labels, &mut faults);
    let settings = host.lattice.settings(labels, host.controller, &mut faults);
    let Some(settings) = settings.filter(|_| faults.is_empty()) else {
        return Err(Failure::text(Exit::Usage, faults.join("\n")));
    };
    let log_format = host.serving.log_format(output);
    let config = host
        .serving
        .into_config(Vec::new(), Limits::default(), Some(settings), host.name);
    let config = Config {
        commands: host.allow_commands,
        ..config
    };
    run_host(config, output, log_format)
}

fn labels(texts: &[String], faults: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for text in texts {
        let fits = |part: &str| (1..=LABEL_LEN_MAX).contains(&part.len()) && !part.contains(char::is_control);
        match text
            .split_once('=')
            .filter(|(key, value)| fits(key) && fits(value))
        {
            Some((key, value)) => {
                if labels.insert(key.to_owned(), value.to_owned()).is_some() {
                    faults.push(format!("--label {key} is there twice: name it once"));
                }
            }
            None => faults.push(format!(
                "--label `{text}`: expected KEY=VALUE, each of 1 to {LABEL_LEN_MAX} characters"
            )),
        }
    }
    if labels.len() > LABELS_MAX {
        faults.push(format!("{} labels: at most {LABELS_MAX}", labels.len()));
    }
    labels
}
