//! Fills the log, by each of the three ways to it.

use std::io::Write as _;

use crate::wasi::logging::logging::{Level, log};

/// One line of `len` bytes by each way. Standard output takes it in pieces.
pub fn line(len: usize) -> String {
    let line = "x".repeat(len);
    let _ = writeln!(std::io::stdout(), "{line}");
    let _ = writeln!(std::io::stderr(), "{line}");
    log(Level::Error, "hostile", &line);
    log(Level::Error, &line, "and a context as long");
    "logged\n".to_owned()
}

/// `n` lines, of which some are empty.
pub fn flood(n: usize) -> String {
    for at in 0..n {
        match at % 4 {
            0 => println!(),
            1 => println!("line {at} of a flood"),
            2 => eprintln!("line {at} of a flood"),
            _ => log(Level::Warn, "", ""),
        }
    }
    "logged\n".to_owned()
}
