//! What a change does, in words for people: `+ actor catalog`, `~ actor pricing (component)`.

use std::fmt;

/// What a change does, a line for each thing; empty if it does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff(pub Vec<Line>);

/// What happens to one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Whether it comes, goes or changes.
    pub sign: Sign,
    /// The thing, for example `actor catalog`.
    pub what: String,
    /// What of it changes.
    pub details: Vec<String>,
}

/// Whether something comes, goes or changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// It was not there.
    Added,
    /// It is another.
    Changed,
    /// It is no longer there.
    Removed,
}

impl Diff {
    pub(crate) fn push(&mut self, sign: Sign, what: impl Into<String>, details: Vec<String>) {
        self.0.push(Line {
            sign,
            what: what.into(),
            details,
        });
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.sign {
            Sign::Added => '+',
            Sign::Changed => '~',
            Sign::Removed => '-',
        };
        write!(f, "{sign} {}", self.what)?;
        if !self.details.is_empty() {
            write!(f, " ({})", self.details.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, line) in self.0.iter().enumerate() {
            write!(f, "{}{line}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}
