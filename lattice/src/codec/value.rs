//! Types and values, as the component model has them.

use std::cmp::Ordering;

/// What a value must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `bool`
    Bool,
    /// `s8`
    S8,
    /// `u8`
    U8,
    /// `s16`
    S16,
    /// `u16`
    U16,
    /// `s32`
    S32,
    /// `u32`
    U32,
    /// `s64`
    S64,
    /// `u64`
    U64,
    /// `f32`
    F32,
    /// `f64`
    F64,
    /// `char`
    Char,
    /// `string`
    String,
    /// `list<u8>`, which is one piece of bytes. `List(U8)` would go over the wire as an array: never make it.
    Bytes,
    /// `list<T>`
    List(Box<Type>),
    /// `record`
    Record(Fields<Type>),
    /// `tuple`
    Tuple(Vec<Type>),
    /// `variant`, with the type of each case's payload
    Variant(Fields<Option<Type>>),
    /// `enum`
    Enum(Names),
    /// `option<T>`
    Option(Box<Type>),
    /// `result<T, E>`
    Result {
        /// The type of what went well.
        ok: Option<Box<Type>>,
        /// The type of what failed.
        err: Option<Box<Type>>,
    },
    /// `flags`
    Flags(Names),
    /// `map<K, V>`
    Map(Box<Type>, Box<Type>),
}

impl Type {
    /// A `list<T>`: bytes if the elements are `u8`.
    pub fn list(element: Self) -> Self {
        match element {
            Self::U8 => Self::Bytes,
            element => Self::List(Box::new(element)),
        }
    }

    /// What a message calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Bool => "a bool",
            Self::S8 => "an s8",
            Self::U8 => "a u8",
            Self::S16 => "an s16",
            Self::U16 => "a u16",
            Self::S32 => "an s32",
            Self::U32 => "a u32",
            Self::S64 => "an s64",
            Self::U64 => "a u64",
            Self::F32 => "an f32",
            Self::F64 => "an f64",
            Self::Char => "a char",
            Self::String => "a string",
            Self::Bytes => "a list<u8>",
            Self::List(_) => "a list",
            Self::Record(_) => "a record",
            Self::Tuple(_) => "a tuple",
            Self::Variant(_) => "a variant",
            Self::Enum(_) => "an enum",
            Self::Option(_) => "an option",
            Self::Result { .. } => "a result",
            Self::Flags(_) => "flags",
            Self::Map(..) => "a map",
        }
    }
}

/// A value, one to one with wasmtime's `Val`, but for [`Value::Bytes`].
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `bool`
    Bool(bool),
    /// `s8`
    S8(i8),
    /// `u8`
    U8(u8),
    /// `s16`
    S16(i16),
    /// `u16`
    U16(u16),
    /// `s32`
    S32(i32),
    /// `u32`
    U32(u32),
    /// `s64`
    S64(i64),
    /// `u64`
    U64(u64),
    /// `f32`
    F32(f32),
    /// `f64`
    F64(f64),
    /// `char`
    Char(char),
    /// `string`
    String(String),
    /// `list<u8>`
    Bytes(Vec<u8>),
    /// `list<T>`
    List(Vec<Value>),
    /// `record`, its fields in the order of the type
    Record(Vec<(String, Value)>),
    /// `tuple`
    Tuple(Vec<Value>),
    /// `variant`: the case and its payload
    Variant(String, Option<Box<Value>>),
    /// `enum`
    Enum(String),
    /// `option<T>`
    Option(Option<Box<Value>>),
    /// `result<T, E>`
    Result(Result<Option<Box<Value>>, Option<Box<Value>>>),
    /// `flags`: those that are set
    Flags(Vec<String>),
    /// `map<K, V>`: its pairs; whether a key may repeat is for the reader to say
    Map(Vec<(Value, Value)>),
}

impl Value {
    /// What a message calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a bool",
            Self::S8(_) => "an s8",
            Self::U8(_) => "a u8",
            Self::S16(_) => "an s16",
            Self::U16(_) => "a u16",
            Self::S32(_) => "an s32",
            Self::U32(_) => "a u32",
            Self::S64(_) => "an s64",
            Self::U64(_) => "a u64",
            Self::F32(_) => "an f32",
            Self::F64(_) => "an f64",
            Self::Char(_) => "a char",
            Self::String(_) => "a string",
            Self::Bytes(_) => "a list<u8>",
            Self::List(_) => "a list",
            Self::Record(_) => "a record",
            Self::Tuple(_) => "a tuple",
            Self::Variant(..) => "a variant",
            Self::Enum(_) => "an enum",
            Self::Option(_) => "an option",
            Self::Result(_) => "a result",
            Self::Flags(_) => "flags",
            Self::Map(_) => "a map",
        }
    }
}

/// Names of cases or flags, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(Fields<()>);

/// Names with what belongs to each, in the order of their type, each name once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields<T> {
    fields: Vec<(String, T)>,
    /// Where each is in `fields`, in the order of the wire: as the encoded keys sort, so the shorter ones first.
    sorted: Vec<usize>,
}

/// Why a type can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// A name is there twice.
    #[error("the name `{0}` is there twice in one type: rename one")]
    Repeated(String),
}

fn on_the_wire(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

impl<T> Fields<T> {
    /// Fields in the order of their type.
    ///
    /// # Errors
    /// [`TypeError::Repeated`].
    pub fn new(fields: impl IntoIterator<Item = (impl Into<String>, T)>) -> Result<Self, TypeError> {
        let fields: Vec<(String, T)> = fields
            .into_iter()
            .map(|(name, field)| (name.into(), field))
            .collect();
        let mut sorted: Vec<usize> = (0..fields.len()).collect();
        sorted.sort_by(|&a, &b| on_the_wire(&fields[a].0, &fields[b].0));
        match sorted
            .windows(2)
            .find(|pair| fields[pair[0]].0 == fields[pair[1]].0)
        {
            Some(pair) => Err(TypeError::Repeated(fields[pair[0]].0.clone())),
            None => Ok(Self { fields, sorted }),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// All, in the order of the type.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &T)> {
        self.fields.iter().map(|(name, field)| (name.as_str(), field))
    }

    /// The one at `at` in the order of the type.
    pub(super) fn at(&self, at: usize) -> (&str, &T) {
        let (name, field) = &self.fields[at];
        (name, field)
    }

    /// Where each is in the order of the type, in the order of the wire.
    pub(super) fn sorted(&self) -> &[usize] {
        &self.sorted
    }

    /// Where `name` is in the order of the type.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let found = self
            .sorted
            .binary_search_by(|&at| on_the_wire(&self.fields[at].0, name));
        found.ok().map(|at| self.sorted[at])
    }
}

impl Names {
    /// Names in the order of their type.
    ///
    /// # Errors
    /// [`TypeError::Repeated`].
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, TypeError> {
        Fields::new(names.into_iter().map(|name| (name, ()))).map(Self)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, in the order of the type.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|(name, ())| name)
    }

    /// Where `name` is.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.0.find(name)
    }
}
