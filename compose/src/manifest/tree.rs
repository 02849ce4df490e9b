//! YAML as a bounded tree of values that know their places.
//!
//! Owns the bounds on what is read. It must not know what a manifest is. An alias shares the value it stands for and is
//! counted as a copy of it, so that what walks the tree has a bound, too: a text of a few lines can stand for billions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};

use crate::fault::{Collector, FaultKind, Span, repeated};
use crate::manifest::API_VERSION;

/// Bytes of a manifest: forty times the largest that was seen anywhere.
pub(crate) const TEXT_LEN_MAX: usize = 4 << 20;

/// Levels of lists and maps. A manifest has six.
pub(crate) const DEPTH_MAX: usize = 32;

/// Values, with aliases counted as what they stand for, and long texts as several: some 100 MB of memory.
pub(crate) const NODES_MAX: usize = 1_000_000;

/// Bytes of text that count as one more value. The model copies what an alias stands for.
const NODE_LEN: usize = 100;

/// Bytes of a key, which faults repeat: names have 63, the keys of a configuration 255.
const KEY_LEN_MAX: usize = 1_024;

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
    /// Values in it, itself and keys included.
    weight: usize,
    /// Levels in it, itself included.
    height: usize,
}

#[derive(Debug)]
pub(crate) enum Value {
    /// A text as it was written; `plain` if without quotes, so that it may mean a number or nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) node: Rc<Node>,
}

impl Node {
    /// Whether it stands for no value: `~`, `null` or nothing at all.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Scalar { .. } => self.is_null(),
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
        }
    }
}

/// A list or map that is not at its end.
struct Open {
    span: Span,
    anchor: usize,
    value: Value,
    key: Option<(String, Span)>,
    weight: usize,
    height: usize,
}

/// Stops the reading; the fault is told already.
struct Stopped;

struct Builder<'a> {
    faults: &'a mut Collector,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    nodes: usize,
    root: Option<Rc<Node>>,
}

/// Reads one document. None if its end was not reached, for a reason that is among `faults`.
pub(crate) fn read(text: &str, faults: &mut Collector) -> Option<Rc<Node>> {
    let start = Span {
        line: 1,
        column: 1,
        len: 1,
    };
    if text.len() > TEXT_LEN_MAX {
        faults.push(start, || FaultKind::TextTooLong {
            len: text.len(),
            max: TEXT_LEN_MAX,
        });
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder {
        faults,
        open: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        root: None,
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let applied = match event {
            Ok((event, span)) => builder.apply(event, place(span)),
            Err(error) => builder.syntax(&error),
        };
        if let Err(Stopped) = applied {
            return None;
        }
    }
    match builder.root {
        Some(root) if !root.is_null() => Some(root),
        _ => {
            builder.faults.push(start, || FaultKind::Empty {
                expected: API_VERSION,
            });
            None
        }
    }
}

impl Builder<'_> {
    fn apply(&mut self, event: Event<'_>, span: Span) -> Result<(), Stopped> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => self.stop(span, FaultKind::SeveralDocuments),
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(tag, span);
                let plain = style == ScalarStyle::Plain;
                let weight = 1 + text.len() / NODE_LEN;
                let value = Value::Scalar {
                    text: text.into_owned(),
                    plain,
                };
                self.add(
                    Rc::new(Node {
                        span,
                        value,
                        weight,
                        height: 1,
                    }),
                    span,
                    anchor,
                )
            }
            Event::SequenceStart(anchor, tag) => {
                self.enter(Value::List(Vec::new()), start(span), anchor, tag)
            }
            Event::MappingStart(anchor, tag) => self.enter(Value::Map(Vec::new()), start(span), anchor, tag),
            Event::SequenceEnd | Event::MappingEnd => self.leave(),
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => self.add(node, span, 0),
                // The parser knows the anchor, so its value is not at its end.
                None => self.stop(span, FaultKind::RecursiveAlias),
            },
            _ => Ok(()),
        }
    }

    fn enter(
        &mut self,
        value: Value,
        span: Span,
        anchor: usize,
        tag: Option<Cow<'_, Tag>>,
    ) -> Result<(), Stopped> {
        self.check_tag(tag, span);
        if self.key_is_next() {
            return self.stop(span, FaultKind::KeyNotText);
        }
        if self.open.len() >= DEPTH_MAX {
            return self.stop(span, FaultKind::TooDeep { max: DEPTH_MAX });
        }
        self.open.push(Open {
            span,
            anchor,
            value,
            key: None,
            weight: 1,
            height: 1,
        });
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Stopped> {
        let Some(Open {
            span,
            anchor,
            value,
            weight,
            height,
            ..
        }) = self.open.pop()
        else {
            return Ok(());
        };
        if let Value::Map(entries) = &value {
            let mut seen: HashMap<&str, u32> = HashMap::new();
            for Entry { key, key_span, .. } in entries {
                if let Some(first) = seen.get(key.as_str()).copied() {
                    self.faults.push(*key_span, || FaultKind::DuplicateKey {
                        key: key.clone(),
                        first,
                    });
                } else {
                    seen.insert(key, key_span.line);
                }
            }
        }
        // Its own children are counted already.
        self.nodes -= weight - 1;
        self.add(
            Rc::new(Node {
                span,
                value,
                weight,
                height,
            }),
            span,
            anchor,
        )
    }

    fn add(&mut self, node: Rc<Node>, span: Span, anchor: usize) -> Result<(), Stopped> {
        self.nodes += node.weight;
        if self.nodes > NODES_MAX {
            return self.stop(span, FaultKind::TooManyNodes { max: NODES_MAX });
        }
        if self.open.len() + node.height > DEPTH_MAX + 1 {
            return self.stop(span, FaultKind::TooDeep { max: DEPTH_MAX });
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        if self.key_is_next() {
            let Value::Scalar { text, .. } = &node.value else {
                return self.stop(span, FaultKind::KeyNotText);
            };
            if text.len() > KEY_LEN_MAX {
                let (what, len, max) = ("a key".to_owned(), text.len(), KEY_LEN_MAX);
                return self.stop(span, FaultKind::ValueTooLong { what, len, max });
            }
            if let Some(open) = self.open.last_mut() {
                open.key = Some((text.clone(), span));
                open.weight += node.weight;
            }
            return Ok(());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.weight += node.weight;
        open.height = open.height.max(node.height + 1);
        match (&mut open.value, open.key.take()) {
            (Value::Map(entries), Some((key, key_span))) => entries.push(Entry { key, key_span, node }),
            (Value::List(items), _) => items.push(node),
            // A scalar is never open, and a map has its key by now.
            _ => {}
        }
        Ok(())
    }

    fn key_is_next(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Open {
                value: Value::Map(_),
                key: None,
                ..
            })
        )
    }

    /// Tags of YAML's own (`!!str`) say what the key says anyway.
    fn check_tag(&mut self, tag: Option<Cow<'_, Tag>>, span: Span) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            self.faults
                .push(span, || FaultKind::Tag(repeated(&tag.to_string())));
        }
    }

    fn syntax(&mut self, error: &ScanError) -> Result<(), Stopped> {
        let at = *error.marker();
        self.stop(
            place(saphyr_parser::Span::empty(at)),
            FaultKind::Syntax(repeated(error.info())),
        )
    }

    fn stop(&mut self, span: Span, kind: FaultKind) -> Result<(), Stopped> {
        self.faults.push(span, || kind);
        Err(Stopped)
    }
}

/// The place where a list or map starts.
fn start(span: Span) -> Span {
    Span { len: 1, ..span }
}

fn place(span: saphyr_parser::Span) -> Span {
    // No text is as long as 4 GiB.
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let one_line = span.start.line() == span.end.line();
    Span {
        line: number(span.start.line()),
        column: number(span.start.col() + 1),
        len: if one_line { number(span.len()).max(1) } else { 1 },
    }
}
