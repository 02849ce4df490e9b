//! What a statement is, by its first word: enough to refuse the commands that would outlive it.
//!
//! The server takes one statement at a time here, so its first word says which command it is. Who is refused learns at once
//! that it would not work; that nothing outlives a statement in other ways is [`crate::plain`]'s and the session's.

use weft_capabilities::sql::SqlError;

use crate::plain::after_comment;

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
    // It would set what `SET` would. Written in other ways it is run, and undone when the connection is given back.
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
            // As the server has it: a comment ends where either begins.
            rest = comment.find(['\n', '\r']).map_or("", |end| &comment[end..]);
        } else if rest.starts_with("/*") {
            rest = &rest[rest.len() - after_comment(rest.as_bytes()).len()..];
        } else {
            return rest;
        }
    }
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
            "--\rSET application_name =\nx",
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
