//! What a statement is, by its first word: enough to refuse what would outlive it.
//!
//! The server takes one statement at a time here, so its first word says which command it is.

use weft_capabilities::sql::SqlError;

/// Commands that begin or end transactions, change a session that others get next, or leave the protocol of one
/// statement and its rows. `DO` runs any of these.
const DENIED: &[&str] = &[
    "ABORT",
    "BEGIN",
    "CHECKPOINT",
    "CLOSE",
    "COMMIT",
    "COPY",
    "DEALLOCATE",
    "DECLARE",
    "DISCARD",
    "DO",
    "END",
    "EXECUTE",
    "FETCH",
    "LISTEN",
    "LOAD",
    "MOVE",
    "PREPARE",
    "RELEASE",
    "RESET",
    "ROLLBACK",
    "SAVEPOINT",
    "SET",
    "START",
    "UNLISTEN",
];
/// Commands whose rows the server counts, though they change none.
const READS: &[&str] = &["EXPLAIN", "SELECT", "SHOW", "TABLE", "VALUES"];

/// Whether the statement changes rows, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Reads,
    MayWrite,
}

/// Refuses what actors may not run.
pub(crate) fn check(statement: &str) -> Result<Kind, SqlError> {
    let word = first_word(statement);
    let is = |known: &&str| known.eq_ignore_ascii_case(word);
    if word.is_empty() && only_space(statement) {
        return Err(SqlError::Syntax {
            message: "it is empty".to_owned(),
        });
    }
    if statement.contains('\0') {
        return Err(SqlError::Syntax {
            message: "it has a NUL byte".to_owned(),
        });
    }
    if DENIED.iter().any(is) {
        return Err(SqlError::Denied {
            what: format!("`{}`", word.to_ascii_uppercase()),
        });
    }
    // It would set, for whoever has the connection next, what `SET` would.
    if statement.to_ascii_lowercase().contains("set_config") {
        return Err(SqlError::Denied {
            what: "`set_config`".to_owned(),
        });
    }
    if READS.iter().any(is) || statement.trim_start().starts_with('(') {
        return Ok(Kind::Reads);
    }
    Ok(Kind::MayWrite)
}

fn first_word(statement: &str) -> &str {
    let rest = skip(statement);
    let end = rest
        .find(|c: char| !c.is_ascii_alphabetic() && c != '_')
        .unwrap_or(rest.len());
    &rest[..end]
}

fn only_space(statement: &str) -> bool {
    skip(statement).trim_matches(';').trim().is_empty()
}

/// What follows spaces and comments. (Comments nest.)
fn skip(statement: &str) -> &str {
    let mut rest = statement;
    loop {
        rest = rest.trim_start();
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.find('\n').map_or("", |end| &comment[end..]);
        } else if rest.starts_with("/*") {
            rest = after_comment(rest);
        } else {
            return rest;
        }
    }
}

fn after_comment(text: &str) -> &str {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return &text[at..];
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denies_what_outlives_a_statement_however_it_is_written() {
        for statement in [
            "BEGIN",
            "  commit ",
            "/* a /* nested */ one */ Rollback",
            "-- a line\nSET search_path TO x",
            "--\n--\r\n  /**/discard all",
            "DO $$ BEGIN COMMIT; END $$",
            "SELECT Set_Config('role', 'x', false)",
            "COPY t TO PROGRAM 'x'",
        ] {
            assert!(
                matches!(check(statement), Err(SqlError::Denied { .. })),
                "{statement}"
            );
        }
    }

    #[test]
    fn tells_what_is_empty_from_what_the_server_is_to_judge() {
        for statement in ["", "  ", ";", "-- nothing", "/* nothing", "/*", "a\0"] {
            assert!(
                matches!(check(statement), Err(SqlError::Syntax { .. })),
                "{statement}"
            );
        }
        for statement in ["SELEC 1", "settle", "*/", "é", "1"] {
            assert_eq!(check(statement).unwrap(), Kind::MayWrite, "{statement}");
        }
        for statement in ["select 1", "(SELECT 1)", "values (1)"] {
            assert_eq!(check(statement).unwrap(), Kind::Reads, "{statement}");
        }
    }
}
