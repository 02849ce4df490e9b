//! A connection: how it is set up, what it allows, and what stops a statement that runs too long.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{OpenFlags, Result};
use weft_capabilities::sql::{PARAMS_BYTES_MAX, PARAMS_LEN_MAX, STATEMENT_LEN_MAX};

use crate::error::OpenError;
use crate::job::Ticket;
use crate::{SqliteOptions, error};

/// Steps of SQLite's machine between two looks at the clock: some 20 us.
const STEPS_PER_LOOK: i32 = 1_000;
/// Looks after which a statement has run too long for its caller's thread: some 0.5 ms.
const INLINE_LOOKS: u32 = 20;
/// Between two tries to get a lock that another process holds.
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// Bytes that the log shrinks to after a checkpoint, if a long read had made it grow.
const LOG_BYTES_MAX: u32 = 16 << 20;
/// The longest wait for another process when a file is opened.
const OPEN_WAIT: Duration = Duration::from_secs(5);
/// Pragmas that tell of the schema and change nothing; `user_version` is a number for the app's own use.
const PRAGMAS: [&str; 11] = [
    "collation_list",
    "foreign_key_check",
    "foreign_key_list",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
];
/// Bounds on what a statement may be made of, so that preparing it can't overflow a stack or take gigabytes.
const LIMITS: [(Limit, i32); 8] = [
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_PARSER_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 500),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
    (Limit::SQLITE_LIMIT_SCHEMA, 2_000),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Writer,
    Reader,
}

pub(crate) struct Connection {
    pub(crate) sqlite: rusqlite::Connection,
    watch: Arc<Mutex<Watch>>,
    rules: Arc<Rules>,
}

/// What the authorizer knows, and tells.
#[derive(Debug, Default)]
struct Rules {
    /// The statement is one of ours.
    own: AtomicBool,
    /// A statement that changes the schema was prepared.
    changes_schema: AtomicBool,
}

/// What may stop the statement that runs.
#[derive(Debug)]
struct Watch {
    looks_left: Option<u32>,
    deadline: Option<Instant>,
    ticket: Option<Ticket>,
    stopped: Option<Stop>,
}

/// What stopped a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It was long for its caller's thread.
    Long,
    Deadline,
    CallerLeft,
}

impl Watch {
    fn look(&mut self) -> Option<Stop> {
        if let Some(looks) = &mut self.looks_left {
            if *looks == 0 {
                return Some(Stop::Long);
            }
            *looks -= 1;
        }
        if self.ticket.as_ref().is_some_and(Ticket::is_left) {
            return Some(Stop::CallerLeft);
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Some(Stop::Deadline);
        }
        None
    }
}

impl Connection {
    pub(crate) fn open(path: &Path, role: Role, options: SqliteOptions) -> Result<Self, OpenError> {
        let failed = |source| OpenError::of(path, source);
        let access = match role {
            Role::Writer => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
            Role::Reader => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let mut sqlite = rusqlite::Connection::open_with_flags(path, flags).map_err(failed)?;
        sqlite.busy_timeout(OPEN_WAIT).map_err(failed)?;
        if role == Role::Writer {
            let mode = "PRAGMA journal_mode = WAL";
            let mode: String = sqlite.query_row(mode, [], |row| row.get(0)).map_err(failed)?;
            if mode != "wal" {
                return Err(OpenError::NoLog {
                    path: path.to_owned(),
                });
            }
        }
        let watch = Arc::new(Mutex::new(Watch {
            looks_left: None,
            deadline: None,
            ticket: None,
            stopped: None,
        }));
        let rules = Arc::new(Rules::default());
        set_up(&mut sqlite, options, &watch, &rules).map_err(failed)?;
        Ok(Self { sqlite, watch, rules })
    }

    /// Runs `work`, which is stopped when `deadline` comes or the caller of `ticket` leaves; without a ticket, it runs
    /// on its caller's thread, and is stopped when it is long for that.
    pub(crate) fn watched<T>(
        &self,
        deadline: Option<Instant>,
        ticket: Option<Ticket>,
        work: impl FnOnce(&Self) -> T,
    ) -> (T, Option<Stop>) {
        *self.watch() = Watch {
            looks_left: ticket.is_none().then_some(INLINE_LOOKS),
            deadline,
            ticket,
            stopped: None,
        };
        let done = work(self);
        let mut watch = self.watch();
        watch.deadline = None;
        watch.ticket = None;
        watch.looks_left = None;
        (done, watch.stopped)
    }

    /// Runs a statement of ours, which actors may not.
    pub(crate) fn own(&self, statement: &str) -> Result<()> {
        self.rules.own.store(true, Ordering::Relaxed);
        let done = self
            .sqlite
            .prepare_cached(statement)
            .and_then(|mut statement| statement.raw_execute());
        self.rules.own.store(false, Ordering::Relaxed);
        done.map(drop)
    }

    /// Whether a statement prepared since the last call changes the schema.
    pub(crate) fn take_changes_schema(&self) -> bool {
        self.rules.changes_schema.swap(false, Ordering::Relaxed)
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        lock(&self.watch)
    }
}

fn lock(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set_up(
    sqlite: &mut rusqlite::Connection,
    options: SqliteOptions,
    watch: &Arc<Mutex<Watch>>,
    rules: &Arc<Rules>,
) -> Result<()> {
    sqlite.execute_batch(&format!(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; \
         PRAGMA cache_size = -{}; PRAGMA journal_size_limit = {LOG_BYTES_MAX};",
        options.cache_kib
    ))?;
    // Only known at a read: whether the file is a database at all.
    sqlite.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    for (switch, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        // A plan that depends on parameters would be made again with each, and on the caller's stack.
        (DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true),
        // A misspelt name in double quotes is an error, not a text.
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
    ] {
        sqlite.set_db_config(switch, on)?;
    }
    for (limit, value) in LIMITS {
        sqlite.set_limit(limit, value)?;
    }
    let bytes = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
    sqlite.set_limit(Limit::SQLITE_LIMIT_LENGTH, bytes(PARAMS_BYTES_MAX))?;
    sqlite.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, bytes(STATEMENT_LEN_MAX))?;
    sqlite.set_limit(Limit::SQLITE_LIMIT_VARIABLE_NUMBER, bytes(PARAMS_LEN_MAX))?;

    let stop = watch.clone();
    sqlite.progress_handler(
        STEPS_PER_LOOK,
        Some(move || {
            let mut watch = lock(&stop);
            watch.stopped = watch.look();
            watch.stopped.is_some()
        }),
    )?;
    let busy = watch.clone();
    sqlite.busy_handler(Some(move |_| {
        let mut watch = lock(&busy);
        // A caller's thread does not wait: it is begun again on ours.
        watch.stopped = if watch.looks_left.is_some() {
            Some(Stop::Long)
        } else {
            watch.look()
        };
        let waits = watch.stopped.is_none();
        drop(watch);
        if waits {
            std::thread::sleep(BUSY_PAUSE);
        }
        waits
    }))?;
    let rules = rules.clone();
    sqlite.authorizer(Some(move |context: AuthContext<'_>| {
        authorize(&rules, context.action)
    }))
}

fn authorize(rules: &Rules, action: AuthAction<'_>) -> Authorization {
    use AuthAction as A;
    if rules.own.load(Ordering::Relaxed) {
        return Authorization::Allow;
    }
    let allowed = match action {
        A::CreateIndex { .. }
        | A::CreateTable { .. }
        | A::CreateTrigger { .. }
        | A::CreateView { .. }
        | A::DropIndex { .. }
        | A::DropTable { .. }
        | A::DropTrigger { .. }
        | A::DropView { .. }
        | A::AlterTable { .. }
        | A::Reindex { .. }
        | A::Analyze { .. } => {
            rules.changes_schema.store(true, Ordering::Relaxed);
            true
        }
        A::Pragma { pragma_name, .. } => PRAGMAS.iter().any(|name| name.eq_ignore_ascii_case(pragma_name)),
        A::Function { function_name } => !function_name.eq_ignore_ascii_case("load_extension"),
        A::Select
        | A::Read { .. }
        | A::Insert { .. }
        | A::Update { .. }
        | A::Delete { .. }
        | A::Recursive => true,
        // Other files, transactions that would outlive their statement, what lives in one connection, virtual tables
        // (they run statements of their own while they run), and what a newer SQLite adds.
        _ => false,
    };
    if allowed {
        Authorization::Allow
    } else {
        Authorization::Deny
    }
}

/// What a stopped statement's caller is told, rather than that it was interrupted.
pub(crate) fn explain(error: rusqlite::Error, stop: Option<Stop>) -> weft_capabilities::SqlError {
    match stop {
        Some(Stop::Deadline) => weft_capabilities::SqlError::DeadlineExceeded,
        Some(Stop::CallerLeft | Stop::Long) => weft_capabilities::SqlError::Busy,
        None => error::of_statement(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_syncs_each_commit_and_checks_foreign_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sqlite");
        for role in [Role::Writer, Role::Reader] {
            let connection = Connection::open(&path, role, SqliteOptions::default()).unwrap();
            connection.rules.own.store(true, Ordering::Relaxed);
            let pragma = |name: &str| {
                connection
                    .sqlite
                    .query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0))
                    .unwrap()
            };
            // 2 is FULL: the log is synced at each commit, not only at checkpoints.
            assert_eq!(pragma("synchronous"), 2, "{role:?}");
            assert_eq!(pragma("foreign_keys"), 1, "{role:?}");
            assert_eq!(pragma("trusted_schema"), 0, "{role:?}");
        }
    }
}
