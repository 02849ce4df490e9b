//! `--config FILE`: the flags of a command from a file.
//!
//! Owns who wins: a flag over its environment variable, and that over the file. What a flag takes, its parser says.

use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args};
use weft_compose::settings::{self, Setting};

use super::{Exit, Failure};

/// What can't be in the file.
const NOT_IN_FILE: &[&str] = &["config", "help"];

/// What `args`, read as `matches`, have to be followed by for what `file` says. `A` are the command's flags.
///
/// # Errors
/// All that is wrong with the file.
pub(super) fn flags<A: Args>(file: &Path, matches: &ArgMatches) -> Result<Vec<OsString>, Failure> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::text(Exit::Usage, format!("--config: failed to read {name}: {error}")))?;
    // A flag that is wrong by itself would end the process, with one error and no place.
    let command = A::augment_args(clap::Command::new("settings").no_binary_name(true));
    let known = |arg: &&clap::Arg| arg.get_long().is_some_and(|long| !NOT_IN_FILE.contains(&long));
    let names: Vec<&str> = command
        .get_arguments()
        .filter(known)
        .filter_map(clap::Arg::get_long)
        .collect();
    let find = |name: &str| command.get_arguments().find(|arg| arg.get_long() == Some(name));
    let is_switch = |name: &str| find(name).is_some_and(|arg| matches!(arg.get_action(), ArgAction::SetTrue));
    let check = |name: &str, value: &str| match (is_switch(name), value) {
        (true, "true" | "false") => Ok(()),
        (true, _) => Err(format!("{name} is `{value}`: expected true or false")),
        (false, _) => match command
            .clone()
            .try_get_matches_from([format!("--{name}={value}")])
        {
            Ok(_) => Ok(()),
            Err(error) => Err(first_line(&error.to_string())),
        },
    };
    let settings = settings::parse(&name, &text, &names, check)
        .map_err(|faults| Failure::text(Exit::Usage, faults.render(&text)))?;
    let said = |name: &str| {
        let source = find(name).and_then(|arg| matches.value_source(arg.get_id().as_str()));
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    let flags = settings.into_iter().filter(|setting| !said(&setting.name));
    Ok(flags
        .flat_map(|Setting { name, values }| {
            let switch = is_switch(&name);
            values
                .into_iter()
                .filter_map(move |value| match (switch, &*value) {
                    (true, "true") => Some(format!("--{name}").into()),
                    (true, _) => None,
                    (false, _) => Some(format!("--{name}={value}").into()),
                })
        })
        .collect())
}

/// As clap says it, without what is for a command line.
fn first_line(error: &str) -> String {
    let line = error.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Args)]
    struct Flags {
        #[arg(long)]
        config: Option<String>,
        #[arg(long, value_delimiter = ',')]
        nats: Vec<String>,
        #[arg(long, default_value_t = 80)]
        port: u16,
        #[arg(long)]
        controller: bool,
    }

    fn read(line: &[&str], text: &str) -> Result<Flags, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("host.yaml");
        std::fs::write(&file, text).unwrap();
        let command = || Flags::augment_args(clap::Command::new("host").no_binary_name(true));
        let matches = command().get_matches_from(line);
        let flags = flags::<Flags>(&file, &matches).map_err(|failure| failure.message)?;
        let all = line.iter().map(OsString::from).chain(flags);
        Ok(Flags::from_arg_matches(&command().get_matches_from(all)).unwrap())
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_what_is_the_default() {
        let text = "nats: [a, b]\nport: 81\ncontroller: true\n";
        let expected = |nats: &[&str], port| Flags {
            config: None,
            nats: nats.iter().map(|&nats| nats.to_owned()).collect(),
            port,
            controller: true,
        };
        assert_eq!(read(&[], text), Ok(expected(&["a", "b"], 81)));
        assert_eq!(
            read(&["--port", "82", "--nats=c"], text),
            Ok(expected(&["c"], 82))
        );
        assert!(!read(&[], "controller: false\n").unwrap().controller);
    }

    #[test]
    fn all_that_is_wrong_in_the_file_is_told_at_once() {
        let told = read(&[], "port: 70000\ncontroller: yes please\nconfig: other.yaml\n").unwrap_err();
        assert!(
            told.contains("host.yaml:1:7: invalid value '70000' for '--port <PORT>'"),
            "{told}"
        );
        assert!(
            told.contains("host.yaml:2:13: controller is `yes please`"),
            "{told}"
        );
        assert!(told.contains("host.yaml:3:1: unknown key `config`"), "{told}");
    }
}
