//! A disk that is full: a file system of some megabytes, in a process that alone sees it; or, where the system lets nobody mount
//! one, a process that may write no longer files.
#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use weft_capabilities::sql::{Sql, SqlError, SqlValue};
use weft_sqlite::{SqliteOptions, SqliteSql};

/// Set for the process that has the disk, to where it is.
const DISK: &str = "WEFT_SQLITE_FULL_TEST_DISK";
/// Set for it if its files are bounded, and not the disk.
const BOUNDED: &str = "WEFT_SQLITE_FULL_TEST_BOUNDED";
/// How long files may be at first, and so much longer each time.
const FILE_LEN: u64 = 6 << 20;
/// Bytes of a row: some hundreds fill the disk.
const ROW_LEN: i64 = 16 << 10;
/// How often it becomes full, and the bytes that are freed each time: what the log has must fit in the database, too.
const ROUNDS: usize = 3;
const BALLAST_LEN: usize = 4 << 20;

async fn insert(database: &SqliteSql, n: i64) -> Result<(), SqlError> {
    let insert = "INSERT INTO t VALUES ($1, zeroblob($2))";
    let row = vec![SqlValue::Integer(n), SqlValue::Integer(ROW_LEN)];
    Sql::execute(database, insert, row, None).await.map(drop)
}

async fn numbers(database: &SqliteSql) -> Vec<i64> {
    let select = "SELECT n FROM t WHERE length(bytes) = $1 ORDER BY n";
    let rows = Sql::query(database, select, vec![SqlValue::Integer(ROW_LEN)], None).await;
    let number = |row: Vec<SqlValue>| match row[0] {
        SqlValue::Integer(n) => n,
        ref other => panic!("{other:?}"),
    };
    rows.unwrap().rows.into_iter().map(number).collect()
}

fn is_told_as_full(error: &SqlError) -> bool {
    matches!(error, SqlError::Unavailable { message } if message.contains("disk is full"))
}

/// What is in the way of writes.
enum Bound {
    /// Files that take the place.
    Ballast(Vec<PathBuf>),
    /// How long files may be.
    Files,
}

impl Bound {
    fn new(disk: &Path) -> Self {
        if std::env::var_os(BOUNDED).is_some() {
            set_file_len_max(FILE_LEN);
            return Self::Files;
        }
        let files: Vec<_> = (0..ROUNDS).map(|n| disk.join(format!("ballast-{n}"))).collect();
        for file in &files {
            std::fs::write(file, vec![0; BALLAST_LEN]).unwrap();
        }
        Self::Ballast(files)
    }

    fn loosen(&self, round: usize) {
        match self {
            Self::Ballast(files) => std::fs::remove_file(&files[round]).unwrap(),
            Self::Files => set_file_len_max(FILE_LEN * (round as u64 + 2)),
        }
    }

    fn is_told(&self, error: &SqlError) -> bool {
        match self {
            Self::Ballast(_) => is_told_as_full(error),
            // That is no full disk, and fails all the same.
            Self::Files => matches!(error, SqlError::Unavailable { .. } | SqlError::Backend { .. }),
        }
    }
}

fn set_file_len_max(len: u64) {
    let limit = Rlimit {
        current: Some(len),
        ..getrlimit(Resource::Fsize)
    };
    setrlimit(Resource::Fsize, limit).unwrap();
}

async fn fill(disk: &Path) {
    let path = disk.join("a.sqlite");
    let bound = Bound::new(disk);
    let database = SqliteSql::open(&path, SqliteOptions::default()).unwrap();
    let create = "CREATE TABLE t (n INTEGER PRIMARY KEY, bytes BLOB)";
    Sql::execute(&database, create, Vec::new(), None).await.unwrap();
    let mut answered = Vec::new();
    for round in 0..ROUNDS {
        let refused = loop {
            let n = i64::try_from(answered.len()).unwrap();
            match insert(&database, n).await {
                Ok(()) => answered.push(n),
                Err(error) => break error,
            }
            assert!(n < 10_000, "the disk was never full");
        };
        assert!(bound.is_told(&refused), "{refused:?}");
        assert_eq!(numbers(&database).await, answered);

        // A transaction is undone whole, whichever of its statements finds no room.
        let mut transaction = database.begin(None).await.unwrap();
        let fills = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1000)
                     INSERT INTO t SELECT -n, zeroblob(16384) FROM c";
        let error = match transaction.execute(fills, Vec::new()).await {
            Ok(_) => transaction.commit().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(bound.is_told(&error), "{error:?}");
        assert_eq!(numbers(&database).await, answered);

        bound.loosen(round);
        let n = i64::try_from(answered.len()).unwrap();
        insert(&database, n).await.unwrap();
        answered.push(n);
    }
    Sql::close(&database).await;
    let database = SqliteSql::open(&path, SqliteOptions::default()).unwrap();
    assert_eq!(numbers(&database).await, answered);
}

#[tokio::test]
async fn a_database_whose_disk_is_full_is_read_has_all_that_was_answered_and_takes_writes_when_there_is_room()
{
    if let Some(disk) = std::env::var_os(DISK) {
        return fill(Path::new(&disk)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    // In namespaces of its own, so that this needs no rights, and nothing is left of it.
    let own = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--user", "--map-root-user", "--mount"])
            .args(command);
        unshare
    };
    let mount = "mount -t tmpfs -o size=20m none \"$0\"";
    let may_mount = own(&["sh", "-c", mount]).arg(folder.path()).status();
    let mut child = if may_mount.is_ok_and(|status| status.success()) {
        own(&["sh", "-c", &format!("{mount} && exec \"$@\"")])
    } else {
        // The signal would end it before the write fails.
        let mut child = Command::new("sh");
        child.args(["-c", "trap '' XFSZ; exec \"$@\""]).env(BOUNDED, "1");
        child
    };
    child
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .args([
            "a_database_whose_disk_is_full_is_read_has_all_that_was_answered_and_takes_writes_when_there_is_room",
            "--exact",
            "--nocapture",
        ])
        .env(DISK, folder.path());
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
