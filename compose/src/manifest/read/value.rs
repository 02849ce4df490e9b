//! Reading of single values: each returns None when it told a fault.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::allow::AllowPattern;
use crate::fault::{FaultKind, Near, Span, Spanned, one_of, repeated};
use crate::interface::is_function;
use crate::manifest::keys::Object;
use crate::manifest::read::Reader;
use crate::manifest::tree::{Entry, Node, Value};
use crate::name::{NameError, check_labels, label_from};
use crate::units::{duration_meant, duration_text, parse_duration, parse_size, size_meant, size_text};

/// The entries of a map whose keys are known.
pub(super) struct Fields<'n>(&'n [Entry]);

impl<'n> Fields<'n> {
    pub(super) fn get(&self, key: &str) -> Option<&'n Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }

    pub(super) fn all(&self) -> &'n [Entry] {
        self.0
    }
}

/// Joins namespace, app and name.
type Join<T> = fn(&str, &str, &str) -> Result<T, NameError>;

impl Reader {
    /// A map with known keys, all that are required among them; `at` is where those that are missing are missed.
    pub(super) fn object<'n>(
        &mut self,
        at: Span,
        node: &'n Node,
        object: &'static Object,
    ) -> Option<Fields<'n>> {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            _ if node.is_null() => &[],
            _ => {
                self.wrong_type(object.place, "a map of keys and values", node);
                return None;
            }
        };
        for entry in entries.iter().filter(|entry| !object.has(&entry.key)) {
            self.unknown_key(entry, object.place, object.names());
        }
        let there = |key: &str| entries.iter().any(|entry| entry.key == key);
        for key in object.keys.iter().filter(|key| key.required && !there(key.name)) {
            self.faults.push(at, || FaultKind::MissingKey {
                place: object.place,
                key: key.name,
            });
        }
        Some(Fields(entries))
    }

    pub(super) fn unknown_key<'a>(
        &mut self,
        entry: &Entry,
        place: &'static str,
        known: impl Iterator<Item = &'a str> + Clone,
    ) {
        self.faults.push(entry.key_span, || FaultKind::UnknownKey {
            key: entry.key.clone(),
            place,
            expected: one_of(known.clone()),
            near: Near::of(&entry.key, known),
        });
    }

    /// The entries of a map with any keys; none where nothing is written.
    pub(super) fn entries<'n>(&mut self, entry: Option<&'n Entry>) -> &'n [Entry] {
        match entry.map(|entry| (entry, &entry.node.value)) {
            Some((_, Value::Map(entries))) => entries,
            Some((entry, _)) if !entry.node.is_null() => {
                self.wrong_type(&entry.key, "a map of keys and values", &entry.node);
                &[]
            }
            _ => &[],
        }
    }

    /// The items of a list; none where nothing is written.
    pub(super) fn items<'n>(&mut self, entry: Option<&'n Entry>) -> &'n [std::rc::Rc<Node>] {
        match entry.map(|entry| (entry, &entry.node.value)) {
            Some((_, Value::List(items))) => items,
            Some((entry, _)) if !entry.node.is_null() => {
                self.wrong_type(&entry.key, "a list, such as [a, b]", &entry.node);
                &[]
            }
            _ => &[],
        }
    }

    /// A text; numbers and truth values are texts as they are written.
    pub(super) fn text<'n>(&mut self, what: &str, node: &'n Node) -> Option<&'n str> {
        match &node.value {
            Value::Scalar { text, .. } if !node.is_null() => Some(text),
            _ => {
                self.wrong_type(what, "a text", node);
                None
            }
        }
    }

    /// A text on one line.
    pub(super) fn line(&mut self, entry: &Entry, len_max: usize) -> Option<String> {
        let text = self.lines(entry, len_max)?;
        let one_line = !text.contains('\n');
        if !one_line {
            self.faults.push(entry.node.span, || FaultKind::ControlCharacter {
                what: entry.key.clone(),
            });
        }
        one_line.then_some(text)
    }

    /// A text on one or several lines; spaces and line ends around it don't count.
    pub(super) fn lines(&mut self, entry: &Entry, len_max: usize) -> Option<String> {
        let text = self.text(&entry.key, &entry.node)?.trim();
        let visible = !text.contains(|c: char| c.is_control() && c != '\n');
        if !visible {
            self.faults.push(entry.node.span, || FaultKind::ControlCharacter {
                what: entry.key.clone(),
            });
        }
        (self.fits(&entry.key, text, len_max, entry.node.span) && visible).then(|| text.to_owned())
    }

    /// Whether a text is short enough to be kept.
    pub(super) fn fits(&mut self, what: &str, text: &str, max: usize, span: Span) -> bool {
        let len = text.len();
        if len > max {
            self.faults.push(span, || FaultKind::ValueTooLong {
                what: what.to_owned(),
                len,
                max,
            });
        }
        len <= max
    }

    /// A part of a name.
    pub(super) fn label(&mut self, node: &Node) -> Option<String> {
        let text = self.text("name", node)?;
        self.named(text, node.span, check_labels(&[text]))
            .map(|()| text.to_owned())
    }

    /// The full name of the thing that an entry of the app defines.
    pub(super) fn name_of<T>(&mut self, entry: &Entry, join: Join<T>) -> Option<Spanned<T>> {
        let name = join(&self.namespace, &self.app, &entry.key);
        Some(Spanned::new(
            self.named(&entry.key, entry.key_span, name)?,
            entry.key_span,
        ))
    }

    /// The full name of a link's target, which may be written as a short one.
    pub(super) fn target_name<T>(&mut self, entry: &Entry, join: Join<T>) -> Option<T> {
        let text = self.text(&entry.key, &entry.node)?;
        let parts: Vec<&str> = text.split('/').collect();
        let name = match parts[..] {
            [name] => join(&self.namespace, &self.app, name),
            [namespace, app, name] => join(namespace, app, name),
            _ => Err(NameError::Parts(repeated(text))),
        };
        self.named(text, entry.node.span, name)
    }

    fn named<T>(&mut self, text: &str, span: Span, name: Result<T, NameError>) -> Option<T> {
        match name {
            Ok(name) => Some(name),
            Err(error) => {
                // Of a full name nobody knows which part was meant; of one without letters, what.
                let meant = !text.contains('/') && text.contains(|c: char| c.is_ascii_alphanumeric());
                let near = if meant {
                    Near::is(label_from(text))
                } else {
                    Near::default()
                };
                self.faults.push(span, || FaultKind::Name(error, near));
                None
            }
        }
    }

    pub(super) fn function(&mut self, node: &Node) -> Option<Spanned<String>> {
        let text = self.text("idempotent", node)?;
        if is_function(text) {
            return Some(Spanned::new(text.to_owned(), node.span));
        }
        let text = repeated(text);
        self.faults.push(node.span, || FaultKind::Function { text });
        None
    }

    pub(super) fn allow(&mut self, node: &Node) -> Option<AllowPattern> {
        let pattern = self.text("allow", node)?.parse::<AllowPattern>();
        pattern
            .map_err(|error| self.faults.push(node.span, || error.into()))
            .ok()
    }

    pub(super) fn truth(&mut self, entry: &Entry) -> Option<bool> {
        match &entry.node.value {
            Value::Scalar { text, plain: true } if text == "true" => Some(true),
            Value::Scalar { text, plain: true } if text == "false" => Some(false),
            _ => {
                self.wrong_type(&entry.key, "true or false", &entry.node);
                None
            }
        }
    }

    pub(super) fn count(&mut self, entry: &Entry, range: &RangeInclusive<u64>) -> Option<u64> {
        let Value::Scalar { text, plain: true } = &entry.node.value else {
            self.wrong_type(&entry.key, "a whole number", &entry.node);
            return None;
        };
        let number = text.parse().ok();
        if number.is_none() {
            let (what, text) = (entry.key.clone(), repeated(text));
            self.faults
                .push(entry.node.span, || FaultKind::Number { what, text });
        }
        self.in_range(entry, number?, range, u64::to_string)
    }

    pub(super) fn duration(&mut self, entry: &Entry, range: &RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.text(&entry.key, &entry.node)?;
        let duration = parse_duration(text);
        if duration.is_none() {
            let near = duration_meant(text).map_or_else(Near::default, Near::is);
            let (what, text) = (entry.key.clone(), repeated(text));
            self.faults
                .push(entry.node.span, || FaultKind::Duration { what, text, near });
        }
        self.in_range(entry, duration?, range, |d| duration_text(*d))
    }

    pub(super) fn size(&mut self, entry: &Entry, range: &RangeInclusive<u64>) -> Option<u64> {
        let text = self.text(&entry.key, &entry.node)?;
        let size = parse_size(text);
        if size.is_none() {
            let near = size_meant(text).map_or_else(Near::default, Near::is);
            let (what, text) = (entry.key.clone(), repeated(text));
            self.faults
                .push(entry.node.span, || FaultKind::Size { what, text, near });
        }
        self.in_range(entry, size?, range, |s| size_text(*s))
    }

    fn in_range<T: PartialOrd, D: Display>(
        &mut self,
        entry: &Entry,
        value: T,
        range: &RangeInclusive<T>,
        written: impl Fn(&T) -> D,
    ) -> Option<T> {
        if range.contains(&value) {
            return Some(value);
        }
        self.faults.push(entry.node.span, || FaultKind::OutOfRange {
            what: entry.key.clone(),
            text: written(&value).to_string(),
            min: written(range.start()).to_string(),
            max: written(range.end()).to_string(),
        });
        None
    }

    fn wrong_type(&mut self, what: &str, expected: &'static str, node: &Node) {
        let found = match &node.value {
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Scalar { .. } if node.is_null() => "empty",
            Value::Scalar { plain: true, .. } => "a plain text",
            Value::Scalar { .. } => "a text in quotes",
        };
        let what = what.to_owned();
        self.faults.push(node.span, || FaultKind::WrongType {
            what,
            expected,
            found,
        });
    }
}
