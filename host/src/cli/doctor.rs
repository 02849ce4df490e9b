//! `weft doctor`: what this machine grants to a host.

use serde_json::json;

use super::{Exit, Failure, Output, print, print_json};
use crate::engine::{Engine, Profile};
use crate::system::{SystemFacts, raise_open_files};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weft doctor\n  weft doctor --profile dense --output json")]
pub(super) struct Doctor {
    /// The profile that a host would run with.
    #[arg(long, value_enum, default_value_t = Profile::Fast)]
    profile: Profile,
}

pub(super) fn run(args: &Doctor, output: Output) -> Result<(), Failure> {
    // As a host does, so that its limit is told and not this shell's.
    raise_open_files();
    let facts = SystemFacts::read();
    let engine =
        Engine::new(args.profile, None, &facts).map_err(|error| Failure::new(Exit::Failed, &error))?;
    let report = engine.report();
    if output == Output::Json {
        return print_json(&json!({ "system": facts, "engine": report }));
    }
    let number = |fact: Option<u64>| fact.map_or("unknown".to_owned(), |fact| fact.to_string());
    let yes_no = |fact: bool| if fact { "yes" } else { "no" };
    let mut lines = vec![
        format!(
            "kernel               {}",
            facts.kernel.as_deref().unwrap_or("unknown")
        ),
        format!("processors           {}", facts.cpus),
        format!("vm.max_map_count     {}", number(facts.max_map_count)),
        format!("vm.overcommit_memory {}", number(facts.overcommit_memory)),
        format!(
            "open files           {}",
            facts
                .open_files
                .map_or("unlimited".to_owned(), |limit| limit.to_string())
        ),
        format!(
            "memory               {}",
            facts
                .memory
                .map_or("unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
        ),
        format!(
            "memory may swap      {}",
            facts.may_swap.map_or("unknown", yes_no)
        ),
        format!("lists dirty pages    {}", yes_no(facts.pagemap_scan)),
        format!("profile              {}", report.profile.as_str()),
        format!(
            "live instances       {}",
            report
                .slots
                .map_or("no pool".to_owned(), |slots| slots.to_string())
        ),
        format!("fast resets          {}", yes_no(report.pagemap_scan)),
    ];
    if report.advice.is_empty() {
        lines.push("nothing to improve".to_owned());
    } else {
        lines.push("what would give more:".to_owned());
        lines.extend(report.advice.iter().map(|advice| format!("  - {advice}")));
    }
    print(&lines.join("\n"))
}
