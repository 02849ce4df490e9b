//! Runs other programs, each within a limit of time.
//!
//! `run` is for steps that a person waits for: it says what goes on, and shows the program's output only if it
//! failed. `attempt` is for such a step that may fail. `read` is for quick questions. `foreground` hands over the
//! terminal.
//! Output goes to a file and not to a pipe: a grandchild that outlives the program would hold a pipe open.

use std::fs::{self, File};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

const TAIL_LINES: usize = 30;
/// How often a long step is heard of where no spinner can turn, as in a log file.
const STILL_WORKING: Duration = Duration::from_secs(15);
/// The first is short, so that a quick program costs no wait; the last is a turn of the spinner.
const POLL_MIN: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(100);

/// Runs one step, and tells how long it took.
pub(crate) fn run(what: &str, limit: Duration, command: &mut Command) -> anyhow::Result<()> {
    let log = Log::create()?;
    match step(what, limit, command, &log)? {
        Ok(()) => Ok(()),
        Err(end) => bail!("{what}: {end}. {}", log.kept_tail()),
    }
}

/// Runs one step that may well fail, as there is another way; the error is a short one.
pub(crate) fn attempt(what: &str, limit: Duration, command: &mut Command) -> anyhow::Result<()> {
    let log = Log::create()?;
    match step(what, limit, command, &log)? {
        Ok(()) => Ok(()),
        Err(end) => bail!(
            "{end}: {}",
            log.text().trim_end().lines().last().unwrap_or_default()
        ),
    }
}

/// The inner error says how the program ended.
fn step(what: &str, limit: Duration, command: &mut Command, log: &Log) -> anyhow::Result<Result<(), String>> {
    eprintln!("{what}");
    let start = Instant::now();
    let mut progress = Progress::start(start);
    let child = spawn(command, log.stdio()?, log.stdio()?)?;
    let status = wait(child, limit, || progress.tick());
    progress.clear();
    Ok(match status? {
        Some(status) if status.success() => {
            eprintln!("  done in {}", seconds(start.elapsed()));
            Ok(())
        }
        Some(status) => Err(format!("{} ended with {status}", name(command))),
        None => Err(format!("{} was stopped after {}", name(command), seconds(limit))),
    })
}

/// Runs a program quietly and returns what it printed to stdout.
pub(crate) fn read(limit: Duration, command: &mut Command) -> anyhow::Result<String> {
    let (stdout, stderr) = (Log::create()?, Log::create()?);
    let child = spawn(command, stdout.stdio()?, stderr.stdio()?)?;
    match wait(child, limit, || ())? {
        Some(status) if status.success() => Ok(stdout.text()),
        Some(status) => bail!("{} ended with {status}:\n{}", name(command), tail(&stderr.text())),
        None => bail!("{} was stopped after {}", name(command), seconds(limit)),
    }
}

/// Runs a program that has the terminal to itself.
pub(crate) fn foreground(limit: Duration, command: &mut Command) -> anyhow::Result<ExitStatus> {
    let child = command
        .spawn()
        .with_context(|| format!("failed to start {}", name(command)))?;
    match wait(child, limit, || ())? {
        Some(status) => Ok(status),
        None => bail!("{} was stopped after {}", name(command), seconds(limit)),
    }
}

/// The code to exit with after another program did. One that a signal ended has none of its own.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The file that a command of this name would run.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    program
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned()
}

fn spawn(command: &mut Command, stdout: Stdio, stderr: Stdio) -> anyhow::Result<Child> {
    let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn();
    child.with_context(|| format!("failed to start {}", name(command)))
}

/// `None` if the limit ran out; the child is then dead.
fn wait(mut child: Child, limit: Duration, mut tick: impl FnMut()) -> anyhow::Result<Option<ExitStatus>> {
    let start = Instant::now();
    let mut pause = POLL_MIN;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(POLL_MAX);
        tick();
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    let start = lines.len().saturating_sub(TAIL_LINES);
    lines[start..].join("\n")
}

/// A sign of life while a step runs: a spinner on a terminal, else now and then a line.
struct Progress {
    start: Instant,
    on_terminal: bool,
    turns: usize,
    said: Duration,
}

impl Progress {
    fn start(start: Instant) -> Self {
        Self {
            start,
            on_terminal: std::io::stderr().is_terminal(),
            turns: 0,
            said: Duration::ZERO,
        }
    }

    fn tick(&mut self) {
        let elapsed = self.start.elapsed();
        if self.on_terminal {
            let sign = ["-", "\\", "|", "/"][self.turns % 4];
            self.turns += 1;
            eprint!("\r  {sign} {} s ", elapsed.as_secs());
            let _ = std::io::stderr().flush();
        } else if elapsed - self.said >= STILL_WORKING {
            self.said = elapsed;
            eprintln!("  still working, {} s", elapsed.as_secs());
        }
    }

    fn clear(&self) {
        if self.on_terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// The output of a program, in a file that is removed unless somebody should read it.
struct Log {
    path: PathBuf,
    file: File,
    keep: bool,
}

impl Log {
    fn create() -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("weft-xtask-{}-{number}.log", std::process::id()));
        let file = File::create(&path).with_context(|| format!("failed to make {}", path.display()))?;
        Ok(Self {
            path,
            file,
            keep: false,
        })
    }

    fn stdio(&self) -> anyhow::Result<Stdio> {
        Ok(self.file.try_clone()?.into())
    }

    fn text(&self) -> String {
        let bytes = fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn kept_tail(mut self) -> String {
        self.keep = true;
        format!(
            "Its last lines, of {}:\n{}",
            self.path.display(),
            tail(&self.text())
        )
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn a_program_that_hangs_is_stopped() {
        let error = read(Duration::from_millis(50), Command::new("sleep").arg("20")).unwrap_err();
        assert!(error.to_string().contains("stopped"), "{error}");
    }

    #[test]
    fn a_failure_shows_what_the_program_said() {
        let error = read(LIMIT, Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(
            error.to_string().contains("why") && error.to_string().contains('3'),
            "{error}"
        );
    }

    #[test]
    fn a_tail_is_the_end() {
        let text: String = (0..100).map(|number| format!("{number}\n")).collect();
        assert!(tail(&text).starts_with("70\n") && tail(&text).ends_with("\n99"));
        assert_eq!(tail("short\n"), "short");
    }
}
