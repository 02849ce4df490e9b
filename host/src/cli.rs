//! The commands of `weft`.
//!
//! Owns what people type and read: a file a command. What a command does is elsewhere in this crate. Results go to
//! stdout, everything else to stderr; with `--output json` both are JSON. Exit codes are in [`Exit`].

mod actor;
mod admin_client;
mod app_files;
mod args;
mod artifacts;
mod call;
mod completions;
mod delete;
mod deploy;
mod doctor;
mod get;
mod host;
mod inspect;
mod lattice_args;
mod lattice_client;
mod link;
mod logs;
mod provider;
mod push;
mod quota;
mod registry;
mod secret;
mod serving;
mod settings_file;
mod up;
mod validate;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::command::child;
use crate::component::ComponentError;
use crate::component::compile::{CHILD_REFUSES, run_child};
use crate::data::DataError;
use crate::engine::Profile;
use crate::host::HostError;

/// What the process's exit code means; scripts rely on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed for a reason that has no code of its own.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// A component, manifest, link, name or other input that was given is refused.
    Input = 3,
    /// This machine does not grant what is needed: a port, the data folder, an address.
    Environment = 4,
    /// No host answers.
    Unreachable = 5,
}

/// A failed command: what is said, and with which code.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn new(exit: Exit, error: &dyn Error) -> Self {
        Self {
            exit,
            message: chain(error),
        }
    }

    fn text(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self::new(Exit::Environment, &error)
    }
}

impl From<ComponentError> for Failure {
    fn from(error: ComponentError) -> Self {
        let exit = match error.is_the_machines() {
            true => Exit::Environment,
            false => Exit::Input,
        };
        Self::new(exit, &error)
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let exit = match &error {
            HostError::Deploy(_) | HostError::NotServed(_) | HostError::Tls(_) | HostError::Name(_) => {
                Exit::Input
            }
            HostError::Listen { .. }
            | HostError::Join(_)
            | HostError::Threads(_)
            | HostError::Admin(_)
            | HostError::Artifacts(_)
            | HostError::RootKey(_)
            | HostError::Control(_) => Exit::Environment,
            HostError::Engine(_) | HostError::Link(_) | HostError::TlsSetup(_) | HostError::Executable(_) => {
                Exit::Failed
            }
        };
        Self::new(exit, &error)
    }
}

/// An error and all of its causes, joined by colons.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    about = "A distributed actor mesh of WebAssembly microservices",
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(
    after_help = "Examples:\n  weft up hello.wasm                 serve a component at http://127.0.0.1:8080/\n  weft inspect hello.wasm            what it imports, exports and needs\n  weft deploy app.yaml               deploy an app on the running host\n  weft get links                     what imports resolve to\n  weft link put shop/catalog wasi:keyvalue --to scratch\n  weft call pricing shop:api/pricing.rule-name\n  weft secret put shop/db-password < password.txt\n  weft logs -f                       follow the log of the running host\n  weft host --nats nats://10.0.0.1 --name eu-1 --label region=eu    join a lattice\n  weft actor place catalog --host eu-1\n  weft doctor                        what this machine grants, and what would give more\n\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 a file, name or link is refused, 4 a port or folder can't be had, 5 no host answers."
)]
struct Cli {
    /// How results and errors are written.
    #[arg(long, global = true, value_enum, default_value_t = Output::Text, env = "WEFT_OUTPUT")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// The form of results and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a host in this process and serve components.
    Up(Box<up::Up>),
    /// Start a host in this process that joins a lattice.
    Host(Box<host::HostCommand>),
    /// Tell what a component imports, exports and needs. Nothing is compiled or run.
    Inspect(inspect::Inspect),
    /// Deploy an app on the running host, by its manifest.
    Deploy(deploy::Deploy),
    /// List what is deployed on the running host: apps, actors, providers, links, hosts, artifacts, conditions.
    Get(get::Get),
    /// Call an exported function of an actor on the running host.
    Call(call::CallArgs),
    /// Say where an actor runs.
    Actor(actor::Actor),
    /// Change what an import of an actor goes to, while it is used.
    Link(link::Link),
    /// Put, list and delete secrets, and make the keys that open them.
    Secret(secret::SecretArgs),
    /// Give up the move of a provider's data.
    Provider(provider::Provider),
    /// Say what a namespace may use of each host.
    Quota(quota::QuotaArgs),
    /// Delete an app from the running host.
    Delete(delete::Delete),
    /// Send a component to the running host.
    Push(push::Push),
    /// List the components that the running host keeps, or drop those that nothing deploys.
    Artifacts(artifacts::ArtifactsArgs),
    /// Tell what is wrong with manifests. No host is asked.
    Validate(validate::Validate),
    /// Print the JSON Schema of manifests, for editors.
    Schema,
    /// Print the log of the running host.
    Logs(logs::Logs),
    /// Tell what this machine grants to a host, and what would give more.
    Doctor(doctor::Doctor),
    /// Print a completion script for a shell.
    Completions(completions::Completions),
    /// Run a program until it ends, or stdin is closed. Started by `weft` itself.
    #[command(hide = true)]
    Supervise {
        /// The program and its arguments.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Compile stdin to machine code. Started by `weft` itself.
    #[command(hide = true)]
    CompileChild {
        #[arg(long)]
        profile: Profile,
        #[arg(long)]
        output_file: PathBuf,
    },
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let Cli { output, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && wants_json() => {
            let text = error.to_string();
            let failure = Failure::text(Exit::Usage, text.trim_start_matches("error: ").trim_end());
            return told(&failure, Output::Json);
        }
        Err(error) => error.exit(),
    };
    let result = match command {
        Command::Up(up) => up::run(*up, output),
        Command::Host(host) => with_file(*host).and_then(|host| host::run(host, output)),
        Command::Actor(actor) => actor::run(&actor, output),
        Command::Inspect(inspect) => inspect::run(&inspect, output),
        Command::Deploy(deploy) => deploy::run(&deploy, output),
        Command::Get(get) => get::run(&get, output),
        Command::Call(call) => call::run(&call, output),
        Command::Link(link) => link::run(&link, output),
        Command::Secret(secret) => secret::run(secret, output),
        Command::Provider(provider) => provider::run(&provider, output),
        Command::Quota(quota) => quota::run(&quota, output),
        Command::Delete(delete) => delete::run(&delete, output),
        Command::Push(push) => push::run(&push, output),
        Command::Artifacts(artifacts) => artifacts::run(&artifacts, output),
        Command::Validate(validate) => validate::run(&validate, output),
        Command::Schema => validate::schema(),
        Command::Logs(logs) => logs::run(&logs, output),
        Command::Doctor(doctor) => doctor::run(&doctor, output),
        Command::Completions(completions) => completions::run::<Cli>(&completions),
        Command::Supervise { command } => return supervise(&command),
        Command::CompileChild { profile, output_file } => return compile_child(profile, &output_file),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => told(&failure, output),
    }
}

/// Says what failed; the exit code is its own.
fn told(failure: &Failure, output: Output) -> ExitCode {
    match output {
        Output::Text => say(&format!("weft: {}", failure.message)),
        Output::Json => {
            let error = serde_json::json!({
                "error": { "code": failure.exit as u8, "message": failure.message }
            });
            say(&error.to_string());
        }
    }
    ExitCode::from(failure.exit as u8)
}

/// Whether JSON is asked for, of a command line that can't be read.
fn wants_json() -> bool {
    let args: Vec<_> = std::env::args_os().collect();
    let is_said = args
        .windows(2)
        .any(|pair| pair[0] == "--output" && pair[1] == "json")
        || args.iter().any(|arg| arg == "--output=json");
    is_said || std::env::var_os("WEFT_OUTPUT").is_some_and(|output| output == "json")
}

/// What the command line says, and where it says nothing the file that it names.
fn with_file(host: host::HostCommand) -> Result<host::HostCommand, Failure> {
    let Some(file) = &host.config else {
        return Ok(host);
    };
    let args: Vec<_> = std::env::args_os().collect();
    let matches = Cli::command().get_matches_from(&args);
    let (_, matches) = matches
        .subcommand()
        .ok_or_else(|| Failure::text(Exit::Usage, "no command"))?;
    let flags = settings_file::flags::<host::HostCommand>(file, matches)?;
    let matches = Cli::command().get_matches_from(args.into_iter().chain(flags));
    match Cli::from_arg_matches(&matches).map(|cli| cli.command) {
        Ok(Command::Host(host)) => Ok(*host),
        Ok(_) => Err(Failure::text(Exit::Usage, "--config is of `weft host`")),
        Err(error) => Err(Failure::new(Exit::Usage, &error)),
    }
}

fn supervise(command: &[String]) -> ExitCode {
    match command.split_first() {
        Some((program, args)) => child::run(program.as_ref(), args),
        None => ExitCode::FAILURE,
    }
}

fn compile_child(profile: Profile, output: &std::path::Path) -> ExitCode {
    match run_child(profile, output) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(refusal)) => {
            say(&refusal);
            ExitCode::from(CHILD_REFUSES)
        }
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes a line to stderr. Where that is closed or full nobody is told, and the exit code is what it would be.
fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes a result to stdout.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        // Who closed the pipe has read enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, &error))
        }
        _ => Ok(()),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(Exit::Failed, &error))?;
    print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
