//! Compiling, in a child process of this same binary.
//!
//! Owns both sides: [`Compiler`] in the host, [`run_child`] in the child. Cranelift on a hostile component may take
//! all memory or never end; so it runs where that hurts nobody: at a lower priority, with bounds on memory, processor
//! time and wall time, and never on a thread that serves. The component goes in by stdin, the machine code comes out
//! as a file, and the child's stderr becomes the error.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_observability::HostMetrics;
use weft_observability::metrics::CompileOutcome;

use super::ComponentBytes;
use crate::engine::{Profile, compile_engine};

/// Wall time for one component: a 115 MB one takes some 25 s on a laptop.
const WALL_TIME_MAX: Duration = Duration::from_secs(300);
/// Processor time in seconds, over all threads of the child.
const CPU_SECONDS_MAX: u64 = 600;
/// Address space of the child in bytes. A 10 MB component takes some 600 MB.
const ADDRESS_SPACE_MAX: u64 = 8 << 30;
/// How much of the child's last words is kept.
const STDERR_LEN_MAX: u64 = 16 << 10;
/// Children that run at once: each uses all processors.
const CHILDREN_MAX: usize = 2;

/// Starts compile children.
pub struct Compiler {
    executable: PathBuf,
    slots: tokio::sync::Semaphore,
    metrics: HostMetrics,
}

/// Why a component was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The child could not be started or talked to.
    #[error("failed to run the compile process {}", executable.display())]
    Process {
        /// What was to be run.
        executable: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The compiler refuses the component.
    #[error("the compiler refuses it: {0}")]
    Refused(String),
    /// The child could not do its work, and the component is not to blame.
    #[error("the compile process failed: {0}")]
    Failed(String),
    /// The child was ended by one of its bounds, or by the system.
    #[error("the compile process was ended ({status}): the component needs more than the bounds of {} s, {CPU_SECONDS_MAX} s of processor time and {} GiB", WALL_TIME_MAX.as_secs(), ADDRESS_SPACE_MAX >> 30)]
    Ended {
        /// How it ended.
        status: String,
    },
}

impl Compiler {
    /// A compiler that runs `executable`, which must be `weft`.
    pub fn new(executable: PathBuf, metrics: HostMetrics) -> Self {
        Self {
            executable,
            slots: tokio::sync::Semaphore::new(CHILDREN_MAX),
            metrics,
        }
    }

    /// Writes the machine code of `component` to `output`, which may be left half-written on an error.
    ///
    /// Waits for one of [`CHILDREN_MAX`] places. Dropping the future kills the child.
    ///
    /// # Errors
    /// [`CompileError`].
    pub async fn compile(
        &self,
        profile: Profile,
        component: &ComponentBytes,
        output: &Path,
    ) -> Result<(), CompileError> {
        let _slot = self.slots.acquire().await;
        let started = Instant::now();
        let result =
            match tokio::time::timeout(WALL_TIME_MAX, self.run(profile, &component.bytes, output)).await {
                Ok(result) => result,
                Err(_) => Err(CompileError::Ended {
                    status: format!("after {} s", WALL_TIME_MAX.as_secs()),
                }),
            };
        let elapsed = started.elapsed();
        let outcome = match &result {
            Ok(()) => CompileOutcome::Ok,
            Err(CompileError::Refused(_)) => CompileOutcome::Invalid,
            Err(_) if elapsed >= WALL_TIME_MAX => CompileOutcome::Timeout,
            Err(_) => CompileOutcome::Failed,
        };
        self.metrics.component_compiled(outcome, elapsed);
        tracing::info!(
            component = %component.digest,
            path = %component.path.display(),
            elapsed_ms = elapsed.as_millis() as u64,
            ok = result.is_ok(),
            "compiled a component"
        );
        result
    }

    async fn run(&self, profile: Profile, component: &[u8], output: &Path) -> Result<(), CompileError> {
        let failed = |source| CompileError::Process {
            executable: self.executable.clone(),
            source,
        };
        let mut child = tokio::process::Command::new(&self.executable)
            .arg("compile-child")
            .args(["--profile", profile.as_str(), "--output-file"])
            .arg(output)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let send = async {
            if let Some(mut stdin) = stdin {
                // A child that ended early closes the pipe; how it ended says more than that.
                let _ = stdin.write_all(component).await;
            }
        };
        let listen = async {
            let mut words = Vec::new();
            if let Some(stderr) = stderr {
                let _ = stderr.take(STDERR_LEN_MAX).read_to_end(&mut words).await;
            }
            String::from_utf8_lossy(&words).trim().to_owned()
        };
        let ((), words, status) = tokio::join!(send, listen, child.wait());
        let status = status.map_err(failed)?;
        match status.code() {
            Some(0) => Ok(()),
            Some(code) if code == i32::from(CHILD_REFUSES) => Err(CompileError::Refused(words)),
            Some(CHILD_FAILS) => Err(CompileError::Failed(words)),
            _ if words.is_empty() => Err(CompileError::Ended {
                status: status.to_string(),
            }),
            _ => Err(CompileError::Ended {
                status: format!("{status}: {words}"),
            }),
        }
    }
}

/// The child's exit code for a component that can't be compiled.
pub const CHILD_REFUSES: u8 = 65;

/// Its exit code for anything else that it can tell itself, such as a full disk.
const CHILD_FAILS: i32 = 1;

/// The child: bounds itself, reads the component from stdin, writes machine code to `output`.
///
/// Returns the text of the refusal, if the component is at fault.
///
/// # Errors
/// Any other failure, for example a full disk.
pub fn run_child(profile: Profile, output: &Path) -> anyhow::Result<Result<(), String>> {
    bound_this_process();
    let mut component = Vec::new();
    std::io::stdin().lock().read_to_end(&mut component)?;
    let code = match compile_engine(profile)?.precompile_component(&component) {
        Ok(code) => code,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    let mut file = std::fs::File::create(output)?;
    file.write_all(&code)?;
    // The host maps this file for as long as it lives: a crash must not leave holes in it.
    file.sync_all()?;
    Ok(Ok(()))
}

fn bound_this_process() {
    let bound = |resource, value| {
        let limit = Rlimit {
            current: Some(value),
            maximum: Some(value),
        };
        if let Err(error) = setrlimit(resource, limit) {
            // A lower bound is in force already: that one holds.
            eprintln!("failed to bound the compile process: {error}");
        }
    };
    bound(Resource::As, ADDRESS_SPACE_MAX);
    bound(Resource::Cpu, CPU_SECONDS_MAX);
    bound(Resource::Core, 0);
    // Serving comes first. Failing to be nice is no reason not to compile.
    let _ = rustix::process::nice(10);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::digest::Digest;

    /// What becomes of a component that a script compiles.
    async fn compiled_by(script: &str) -> Result<(), CompileError> {
        let dir = tempfile::tempdir().unwrap();
        let executable = dir.path().join("weft");
        std::fs::write(&executable, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&executable, std::fs::Permissions::from_mode(0o700)).unwrap();
        let compiler = Compiler::new(executable, HostMetrics::default());
        let component = ComponentBytes {
            path: "x.wasm".into(),
            bytes: vec![0; 1 << 20],
            digest: Digest::of(b"x"),
        };
        compiler
            .compile(Profile::Fast, &component, &dir.path().join("out"))
            .await
    }

    // With the clock paused, all timers run out as soon as nothing else is to be done.
    #[tokio::test(start_paused = true)]
    async fn a_child_that_hangs_is_ended_when_its_time_is_over() {
        let error = compiled_by("exec sleep 1000000").await.unwrap_err();
        assert!(error.to_string().contains("ended (after 300 s)"), "{error}");
    }

    #[tokio::test]
    async fn how_a_child_ended_is_told() {
        let killed = compiled_by("kill -KILL $$").await.unwrap_err();
        assert!(killed.to_string().contains("signal: 9"), "{killed}");
        let starved = compiled_by("echo memory allocation of 9 bytes failed >&2; exit 134").await;
        let starved = starved.unwrap_err().to_string();
        assert!(
            starved.contains("134") && starved.contains("memory allocation"),
            "{starved}"
        );
        let failed = compiled_by("echo No space left on device >&2; exit 1").await;
        let failed = failed.unwrap_err().to_string();
        assert_eq!(failed, "the compile process failed: No space left on device");
        let refused = compiled_by("echo bad opcode >&2; exit 65").await.unwrap_err();
        assert_eq!(refused.to_string(), "the compiler refuses it: bad opcode");
    }

    #[tokio::test]
    async fn a_child_that_talks_without_end_is_heard_in_part() {
        let error = compiled_by("yes | head -c 1000000 >&2; exit 1")
            .await
            .unwrap_err();
        assert!(error.to_string().len() < 2 * STDERR_LEN_MAX as usize, "{error}");
    }
}
