//! Outside providers that this host starts: their processes, for as long as they are wanted.
//!
//! Owns when a process runs, what it is told, and what becomes of it: it is started again when it ends, later each time,
//! and one that ends again and again is a condition. An operator allows it: `--allow-commands` names the folder whose
//! programs a manifest may name. Without it no manifest starts anything.
//!
//! Between this host and a program is `weft supervise` ([`child`]), which ends the program when this host ends, however
//! that comes about. Its secrets are [`secrets`]'s.

pub mod child;
mod lines;
mod secrets;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_compose::record::CommandRecord;
use weft_compose::{HostName, ProviderName};
use weft_observability::metrics::ProcessReport;

use self::child::STOP_WAIT;
use self::secrets::Records;
use crate::cli::chain;
use crate::desired::Desired;
use crate::mesh::LatticeSettings;
use crate::secret::Vault;
use crate::secret::opened::{FILES_EACH, Used};

/// The pause before a process that ended is started again, which doubles up to the maximum; half as much more or less, so
/// that those of many hosts don't come together.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Who has run for so long has started well: its pauses begin anew, and it is no condition any more.
const LIVED: Duration = Duration::from_secs(60);
/// So many ends within [`LIVED`] are a crash loop.
const ENDS_MAX: usize = 5;
/// How much longer than a program the one who ends it may take.
const STOP_MARGIN: Duration = Duration::from_secs(1);
/// How long what a process has said is read after its end: others may hold its pipes.
const LAST_LINES_WAIT: Duration = Duration::from_millis(200);
/// What is logged when a process gets new values.
const RENEWED: &str = "a secret of a provider's process has a new value: the process is started anew";
/// What a process gets of this host's environment.
const PASSED_ON: &[&str] = &["PATH", "LANG", "TZ"];

/// What starts processes on a host.
pub struct Commands {
    host: HostName,
    lattice: LatticeSettings,
    /// `weft` itself.
    executable: PathBuf,
    /// Where the programs are; none without.
    folder: Option<PathBuf>,
    vault: Arc<Vault>,
    kept: Mutex<Kept>,
    runtime: Handle,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Kept {
    closed: bool,
    processes: BTreeMap<ProviderName, Process>,
}

struct Process {
    command: CommandRecord,
    /// The sealed secrets of its next start.
    secrets: Arc<ArcSwap<Records>>,
    stop: CancellationToken,
    standing: Arc<Standing>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// How a process does.
#[derive(Default)]
struct Standing(Mutex<Known>);

#[derive(Default)]
struct Known {
    pid: Option<u32>,
    /// Ends, since it is wanted.
    ends: u64,
    /// When the last of them were.
    last: VecDeque<Instant>,
    /// It ends again and again.
    is_looping: bool,
    /// Why it is not as wanted, and since when, in seconds since 1970.
    amiss: Option<(String, u64)>,
}

impl Standing {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was started, as the process `pid`.
    fn started(&self, pid: Option<u32>) {
        let mut known = self.known();
        known.pid = pid;
        if !known.is_looping {
            known.amiss = None;
        }
    }

    /// It has run for long enough.
    fn has_lived(&self) {
        let mut known = self.known();
        known.is_looping = false;
        known.amiss = None;
    }

    /// It was ended to be started with new values.
    fn renewed(&self) {
        self.known().pid = None;
    }

    /// It can't be started.
    fn refused(&self, reason: String) {
        self.known().tell(reason);
    }

    /// Takes note of an end.
    fn ended(&self, how: &str, at: Instant) {
        let mut known = self.known();
        known.pid = None;
        known.ends += 1;
        known.last.push_back(at);
        if known.last.len() > ENDS_MAX {
            known.last.pop_front();
        }
        let is_loop = known.last.len() == ENDS_MAX
            && known
                .last
                .front()
                .is_some_and(|first| at.saturating_duration_since(*first) <= LIVED);
        known.is_looping |= is_loop;
        if known.is_looping {
            known.tell(format!(
                "its process ends again and again: {how}; `weft logs` has what it said"
            ));
        }
    }
}

impl Known {
    /// Says why it is not as wanted; since when stays.
    fn tell(&mut self, reason: String) {
        let since = self.amiss.take().map_or_else(now, |(_, since)| since);
        self.amiss = Some((reason, since));
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

impl Commands {
    /// What starts the processes that are wanted on `host`, whose programs are in `folder`, with secrets that `vault` opens.
    /// Tasks live on the runtime that this is called on.
    pub fn new(
        host: HostName,
        lattice: LatticeSettings,
        executable: PathBuf,
        folder: Option<PathBuf>,
        vault: Arc<Vault>,
    ) -> Arc<Self> {
        Arc::new(Self {
            host,
            lattice,
            executable,
            // Processes have another folder than this one.
            folder: folder.map(|folder| std::path::absolute(&folder).unwrap_or(folder)),
            vault,
            kept: Mutex::default(),
            runtime: Handle::current(),
            tasks: TaskTracker::new(),
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts what is wanted, and ends what is not.
    pub fn follow(self: &Arc<Self>, desired: &Desired) {
        let mut kept = self.kept();
        if kept.closed {
            return;
        }
        let wanted = |name: &ProviderName| {
            let command = desired.providers.get(name)?.command.as_ref()?;
            let labels = &self.lattice.labels;
            command.is_for(&self.host, labels).then_some(command)
        };
        let gone = kept.processes.extract_if(.., |name, _| wanted(name).is_none());
        gone.for_each(|(_, process)| process.stop.cancel());
        for name in desired.providers.keys() {
            let Some(command) = wanted(name) else { continue };
            let secrets = secrets::records(desired, &name.app_name(), command);
            let before = kept.processes.get(name);
            if let Some(process) = before.filter(|process| process.command == *command) {
                if !secrets::is_renewed(&process.secrets.load(), &secrets) {
                    process.secrets.store(secrets.into());
                    continue;
                }
                tracing::info!(provider = %name, "{RENEWED}");
            }
            let before = kept.processes.remove(name);
            let process = self.start(name.clone(), command.clone(), secrets, before);
            kept.processes.insert(name.clone(), process);
        }
    }

    fn start(
        self: &Arc<Self>,
        name: ProviderName,
        command: CommandRecord,
        secrets: Records,
        before: Option<Process>,
    ) -> Process {
        let (stop, standing) = (CancellationToken::new(), Arc::<Standing>::default());
        let secrets = Arc::new(ArcSwap::from_pointee(secrets));
        let running = Running {
            commands: self.clone(),
            name,
            command: command.clone(),
            secrets: secrets.clone(),
            standing: standing.clone(),
            stop: stop.clone(),
        };
        let task = async move {
            if let Some(before) = before {
                before.stop.cancel();
                // It fails only if it panicked, which was told then.
                drop(before.task.await);
            }
            running.keep().await;
        };
        Process {
            command,
            secrets,
            stop,
            standing,
            task: self.tasks.spawn_on(task, &self.runtime),
        }
    }

    /// Ends all processes, and starts none any more. Takes as long as one may take to end.
    pub async fn stop(&self) {
        {
            let mut kept = self.kept();
            kept.closed = true;
            kept.processes.values().for_each(|process| process.stop.cancel());
        }
        self.tasks.close();
        drop(timeout(STOP_WAIT + 2 * STOP_MARGIN, self.tasks.wait()).await);
    }

    /// What is amiss with processes, and since when, in seconds since 1970.
    pub fn conditions(&self) -> Vec<(ProviderName, String, u64)> {
        let kept = self.kept();
        let amiss = kept.processes.iter().filter_map(|(name, process)| {
            let (reason, since) = process.standing.known().amiss.clone()?;
            Some((name.clone(), reason, since))
        });
        amiss.collect()
    }

    /// The process of a provider that is wanted here: its id if it runs, and how often it has ended.
    pub fn process(&self, name: &ProviderName) -> Option<(Option<u32>, u64)> {
        let kept = self.kept();
        let known = kept.processes.get(name)?.standing.known();
        Some((known.pid, known.ends))
    }

    /// What metrics tell of processes.
    pub fn reports(&self) -> Vec<ProcessReport> {
        let kept = self.kept();
        let reports = kept.processes.iter().map(|(name, process)| {
            let known = process.standing.known();
            ProcessReport {
                provider: name.as_str().into(),
                runs: known.pid.is_some(),
                ends: known.ends,
            }
        });
        reports.collect()
    }

    /// The file of a program, which an operator has put where programs are.
    fn program(&self, program: &str) -> Result<(PathBuf, &Path), String> {
        let folder = self.folder.as_deref().ok_or_else(|| {
            "this host starts no processes: start it with --allow-commands DIR, where DIR has the programs that \
             manifests may name"
                .to_owned()
        })?;
        let path = folder.join(program);
        let is_program = std::fs::metadata(&path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        match is_program {
            true => Ok((path, folder)),
            false => Err(format!(
                "{} is no program: put it there, and make it executable",
                path.display()
            )),
        }
    }

    /// What a process is told beside what its manifest says.
    fn environment(&self, name: &ProviderName, folder: &Path) -> BTreeMap<String, String> {
        let passed_on = PASSED_ON
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), std::env::var(key).ok()?)));
        let mut environment: BTreeMap<_, _> = passed_on.collect();
        let servers: Vec<_> = self
            .lattice
            .servers
            .iter()
            .map(|url| without_login(url))
            .collect();
        let mut tell = |key: &str, value: String| environment.insert(key.to_owned(), value);
        tell("WEFT_NATS", servers.join(","));
        tell("WEFT_LATTICE", self.lattice.lattice.clone());
        tell("WEFT_PROVIDER", name.to_string());
        if let Some(authority) = self.lattice.tls.authorities.first() {
            tell("WEFT_NATS_CA", authority.display().to_string());
        }
        let credentials = folder.join(format!(
            "{}.{}.{}.creds",
            name.namespace(),
            name.app(),
            name.name()
        ));
        if credentials.is_file() {
            tell("WEFT_NATS_CREDS", credentials.display().to_string());
        }
        environment
    }
}

/// The address of a server, without as whom this host connects.
fn without_login(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{host}")
}

/// What keeps one process running.
struct Running {
    commands: Arc<Commands>,
    name: ProviderName,
    command: CommandRecord,
    secrets: Arc<ArcSwap<Records>>,
    standing: Arc<Standing>,
    stop: CancellationToken,
}

impl Running {
    async fn keep(self) {
        let mut pause = PAUSE_MIN;
        loop {
            let began = Instant::now();
            match self.begin().await {
                Ok((child, secrets)) => {
                    let (how, is_renewed) = self.see_to(child, &secrets).await;
                    if self.stop.is_cancelled() {
                        tracing::info!(provider = %self.name, how, "ended the process of a provider");
                        return;
                    }
                    if is_renewed {
                        // As files are looked at each few seconds, this is no busy loop.
                        self.standing.renewed();
                        tracing::info!(provider = %self.name, how, "{RENEWED}");
                        continue;
                    }
                    self.standing.ended(&how, Instant::now());
                    tracing::warn!(provider = %self.name, how, "the process of a provider has ended: it is started again");
                }
                Err(reason) => {
                    self.standing.refused(reason);
                }
            }
            if began.elapsed() >= LIVED {
                pause = PAUSE_MIN;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(pause.mul_f64(rand::random_range(0.5..1.5))) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Starts the process, and gives what it was told of secrets.
    async fn begin(&self) -> Result<(Child, Used), String> {
        let commands = &self.commands;
        let (program, args) = self
            .command
            .args
            .split_first()
            .ok_or_else(|| "its command is empty".to_owned())?;
        let (program, folder) = commands.program(program)?;
        let secrets = self.open_secrets().await?;
        let environment = secrets::environment(&self.command, &secrets)?;
        let mut start = tokio::process::Command::new(&commands.executable);
        start
            .args(["supervise", "--"])
            .arg(&program)
            .args(args)
            .env_clear()
            .envs(commands.environment(&self.name, folder))
            .envs(environment.iter().map(|(key, value)| (key, value.as_str())))
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Of its own, so that all that it starts can be ended with it.
            .process_group(0);
        let child = start
            .spawn()
            .map_err(|error| format!("failed to start {}: {error}", program.display()))?;
        self.standing.started(child.id());
        tracing::info!(provider = %self.name, program = %program.display(), pid = child.id(), "started the process of a provider");
        Ok((child, secrets))
    }

    /// What the environment refers to, as it is now.
    async fn open_secrets(&self) -> Result<Used, String> {
        let (vault, app, command) = (
            self.commands.vault.clone(),
            self.name.app_name(),
            self.command.clone(),
        );
        let records = self.secrets.load_full();
        // An opening takes some 100 us of computing, and files may be on a disk that is slow.
        let opened =
            tokio::task::spawn_blocking(move || secrets::open(&vault, &app, &command, &records)).await;
        opened.map_err(|error| chain(&error))?
    }

    /// Ends when a file that the environment refers to has another value than in `secrets`. One that can't be read changes
    /// nothing.
    async fn renewed(&self, secrets: &Used) {
        if !secrets::has_files(secrets) {
            return std::future::pending().await;
        }
        loop {
            sleep(FILES_EACH).await;
            if self.open_secrets().await.is_ok_and(|now| now != *secrets) {
                return;
            }
        }
    }

    /// Waits for a process's end, which it brings about once the process is wanted no more, or has old values of files. How
    /// it ended, and whether that was for new values.
    async fn see_to(&self, mut child: Child, secrets: &Used) -> (String, bool) {
        let group = child.id();
        // Closed, it is told to end; as it is when this host dies.
        let mut held = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let said = async {
            tokio::join!(
                lines::tell(&self.name, "stdout", stdout, secrets),
                lines::tell(&self.name, "stderr", stderr, secrets)
            )
        };
        let (mut said, mut renewed) = (std::pin::pin!(said), std::pin::pin!(self.renewed(secrets)));
        let (mut is_silent, mut has_lived, mut is_renewed) = (false, false, false);
        let lived = Instant::now() + LIVED;
        let mut late: Option<Instant> = None;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                _ = &mut said, if !is_silent => is_silent = true,
                () = self.stop.cancelled(), if held.is_some() => {
                    held = None;
                    late = Some(Instant::now() + STOP_WAIT + STOP_MARGIN);
                }
                () = &mut renewed, if held.is_some() => {
                    held = None;
                    is_renewed = true;
                    late = Some(Instant::now() + STOP_WAIT + STOP_MARGIN);
                }
                () = until(late) => {
                    late = None;
                    end_group(group);
                }
                () = sleep_until(lived), if !has_lived => {
                    has_lived = true;
                    self.standing.has_lived();
                }
            }
        };
        // What it has left behind goes with it.
        end_group(group);
        if !is_silent {
            drop(timeout(LAST_LINES_WAIT, said).await);
        }
        let how = match status {
            Ok(status) => told(status),
            Err(error) => format!("it can't be waited for: {error}"),
        };
        (how, is_renewed)
    }
}

/// Ends at `until`; never without.
async fn until(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn end_group(group: Option<u32>) {
    let group = group
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(group) = group {
        // Mostly there is none left.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// How a process ended. The one in between gives on a signal as shells do.
fn told(status: ExitStatus) -> String {
    let mut told = match status.code() {
        Some(code) => format!("exit code {code}"),
        None => return status.to_string(),
    };
    if let Some(signal) = status
        .code()
        .and_then(|code| code.checked_sub(128))
        .filter(|signal| *signal > 0)
    {
        let _ = write!(told, " (signal {signal})");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_not_told_as_whom_its_host_connects() {
        for (url, told) in [
            ("nats://host:4222", "nats://host:4222"),
            ("nats://user:p%40ss@host:4222", "nats://host:4222"),
            ("tls://token@host", "tls://host"),
            ("host:4222", "nats://host:4222"),
        ] {
            assert_eq!(without_login(url), told);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn five_ends_within_a_minute_are_a_crash_loop_and_slower_ones_are_not() {
        let standing = Standing::default();
        for _ in 0..20 {
            standing.ended("exit code 1", Instant::now());
            sleep(Duration::from_secs(20)).await;
        }
        assert_eq!(standing.known().amiss, None);
        for n in 0..5 {
            assert_eq!(standing.known().amiss.is_some(), n > 2, "after {n}");
            standing.ended("exit code 3", Instant::now());
            sleep(Duration::from_secs(1)).await;
        }
        let (reason, since) = standing.known().amiss.clone().unwrap();
        assert!(reason.contains("exit code 3"), "{reason}");
        standing.ended("exit code 4", Instant::now());
        let later = standing.known().amiss.clone().unwrap();
        assert!(later.0.contains("exit code 4") && later.1 == since, "{later:?}");
        assert_eq!(standing.known().ends, 26);
    }
}
