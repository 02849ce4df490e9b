//! What can be wrong with a value, and where.

use std::fmt;

/// A value that could not be written or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecError {
    /// The steps to the place, the innermost first while the error travels out.
    steps: Vec<Step>,
    root: &'static str,
    problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
}

/// What is wrong at the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Another kind of value.
    #[error("expected {expected}, found {found}")]
    Kind {
        /// What the type says.
        expected: &'static str,
        /// What there is.
        found: String,
    },
    /// A number that the type can't hold.
    #[error("the number does not fit into {0}")]
    Range(&'static str),
    /// More or fewer elements than the type has.
    #[error("expected {expected} elements, found {found}")]
    Count {
        /// What the type says.
        expected: usize,
        /// What there is.
        found: u64,
    },
    /// A field of the type is not there.
    #[error("the field `{0}` is missing")]
    Missing(String),
    /// A field that the type does not have.
    #[error("the field `{0}` is unknown here: are both sides built against the same interface?")]
    Unknown(String),
    /// A field or flag twice.
    #[error("`{0}` is there twice")]
    Repeated(String),
    /// A case or flag that the type does not have.
    #[error("`{0}` is none of the cases here: are both sides built against the same interface?")]
    Case(String),
    /// A case that must have a payload has none, or the other way round.
    #[error("the case `{case}` {}", if *.wanted { "needs a payload" } else { "takes no payload" })]
    Payload {
        /// The case.
        case: String,
        /// Whether the type has a payload for it.
        wanted: bool,
    },
    /// Text that is not UTF-8.
    #[error("the text is not UTF-8")]
    Utf8,
    /// A text that is not one character.
    #[error("a char is a text of one character")]
    Char,
    /// A length that is not told at the beginning.
    #[error("the length is indefinite: send a definite one")]
    Indefinite,
    /// The bytes end inside the value.
    #[error("the bytes end here")]
    End,
    /// Bytes come after the value.
    #[error("{0} bytes are left over")]
    Trailing(usize),
    /// Not CBOR.
    #[error("not well-formed CBOR")]
    Malformed,
    /// Nested deeper than the limit.
    #[error("nested deeper than {0}")]
    TooDeep(usize),
    /// The value would take more memory than the limit.
    #[error("the value takes more than {0} bytes of memory: send it in parts")]
    TooLarge(usize),
}

impl CodecError {
    pub(super) fn root(root: &'static str, problem: Problem) -> Self {
        Self {
            steps: Vec::new(),
            root,
            problem,
        }
    }

    /// The place, as `args[1].items[3].price`.
    pub fn path(&self) -> String {
        use fmt::Write as _;
        let mut path = self.root.to_owned();
        for step in self.steps.iter().rev() {
            let written = match step {
                Step::Field(name) => write!(path, ".{name}"),
                Step::Index(at) => write!(path, "[{at}]"),
            };
            debug_assert!(written.is_ok(), "a String takes all text");
        }
        path
    }

    /// What is wrong there.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    fn inside(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub(super) fn under(mut self, root: &'static str) -> Self {
        self.root = root;
        self
    }
}

impl From<Problem> for CodecError {
    fn from(problem: Problem) -> Self {
        Self::root("value", problem)
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.path(), self.problem)
    }
}

impl std::error::Error for CodecError {}

/// Adds where an error came from, on its way out.
pub(super) trait At<T> {
    fn at(self, index: usize) -> Result<T, CodecError>;
    fn in_field(self, name: &str) -> Result<T, CodecError>;
}

impl<T, E: Into<CodecError>> At<T> for Result<T, E> {
    fn at(self, index: usize) -> Result<T, CodecError> {
        self.map_err(|error| error.into().inside(Step::Index(index)))
    }

    fn in_field(self, name: &str) -> Result<T, CodecError> {
        self.map_err(|error| error.into().inside(Step::Field(name.to_owned())))
    }
}
