//! `weft supervise`: a process between a host and a program, which ends the program when the host ends.
//!
//! A host that is killed tells nobody. But its end of a pipe closes, and this process reads the other one. It has a group
//! of its own, with the program and all that the program starts.

use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

/// How long a program may take to end after SIGTERM, before it is killed with all that it has started.
pub const STOP_WAIT: Duration = Duration::from_secs(5);

/// The exit code if the program can't be started, as that of shells.
const NOT_STARTED: u8 = 127;

enum Event {
    Ended(std::io::Result<ExitStatus>),
    /// The host has ended, or wants the program to.
    HostGone,
}

/// Runs `program` until it ends, or stdin is closed.
pub fn run(program: &Path, args: &[String]) -> ExitCode {
    let started = Command::new(program).args(args).stdin(Stdio::null()).spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            eprintln!("failed to start {}: {error}", program.display());
            return ExitCode::from(NOT_STARTED);
        }
    };
    let pid = Pid::from_child(&child);
    let (events, event) = mpsc::channel();
    let ended = events.clone();
    // Both end with this process.
    thread::spawn(move || ended.send(Event::Ended(child.wait())));
    thread::spawn(move || {
        // Nothing is ever said; that the pipe is closed is all.
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        events.send(Event::HostGone)
    });
    match event.recv() {
        Ok(Event::Ended(status)) => code(status),
        Ok(Event::HostGone) | Err(_) => {
            let _ = kill_process(pid, Signal::TERM);
            let status = match event.recv_timeout(STOP_WAIT) {
                Ok(Event::Ended(status)) => code(status),
                _ => ExitCode::FAILURE,
            };
            // What is left of the group goes, and this process with it.
            let _ = kill_process_group(getpid(), Signal::KILL);
            status
        }
    }
}

fn code(status: std::io::Result<ExitStatus>) -> ExitCode {
    let Ok(status) = status else {
        return ExitCode::FAILURE;
    };
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
