//! Settings of a process in a file: keys, their values, and where each is written.
//!
//! Owns the shape of the file. It must not know what can be set: who reads it says which keys there are.

use crate::fault::{Collector, FaultKind, Faults, Near, Span, one_of, repeated};
use crate::manifest::tree::{self, Entry, Node, Value};

/// What is set.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// One of the keys that there are.
    pub name: String,
    /// In the file's order: one, those of a list, or those of a map as `KEY=VALUE`.
    pub values: Vec<String>,
}

/// Reads settings: a map of YAML from keys among `names` to texts, lists or maps of texts. `check` tells what is wrong
/// with a value of a key.
///
/// # Errors
/// All that is wrong, up to [`crate::fault::FAULTS_MAX`] faults.
pub fn parse(
    file_name: &str,
    text: &str,
    names: &[&str],
    mut check: impl FnMut(&str, &str) -> Result<(), String>,
) -> Result<Vec<Setting>, Faults> {
    let is_comment = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(is_comment) {
        return Ok(Vec::new());
    }
    let mut faults = Collector::new(file_name.into());
    let root = tree::read(text, &mut faults);
    let settings = root.map(|root| {
        let Value::Map(entries) = &root.value else {
            let found =
                || FaultKind::Found("expected a map, from the names of flags to their values".to_owned());
            faults.push(root.span, found);
            return Vec::new();
        };
        let mut settings = Vec::new();
        for entry in entries {
            if !names.contains(&entry.key.as_str()) {
                faults.push(entry.key_span, || unknown(&entry.key, names));
                continue;
            }
            let Some(values) = values(entry) else {
                faults.push(entry.node.span, || {
                    let key = repeated(&entry.key);
                    FaultKind::Found(format!("{key}: expected a text, or a list or map of texts"))
                });
                continue;
            };
            for (value, span) in &values {
                if let Err(wrong) = check(&entry.key, value) {
                    faults.push(*span, || FaultKind::Found(wrong));
                }
            }
            settings.push(Setting {
                name: entry.key.clone(),
                values: values.into_iter().map(|(value, _)| value).collect(),
            });
        }
        settings
    });
    faults.finish(settings)
}

fn unknown(key: &str, names: &[&str]) -> FaultKind {
    FaultKind::UnknownKey {
        key: repeated(key),
        place: "the settings",
        expected: one_of(names.iter().copied()),
        near: Near::of(key, names.iter().copied()),
    }
}

fn values(entry: &Entry) -> Option<Vec<(String, Span)>> {
    match &entry.node.value {
        Value::Scalar { .. } => Some(vec![text(&entry.node)?]),
        Value::List(items) => items.iter().map(|item| text(item)).collect(),
        Value::Map(entries) => {
            let pair = |entry: &Entry| {
                let (value, span) = text(&entry.node)?;
                Some((format!("{}={value}", entry.key), span))
            };
            entries.iter().map(pair).collect()
        }
    }
}

fn text(node: &Node) -> Option<(String, Span)> {
    match &node.value {
        Value::Scalar { text, .. } if !node.is_null() => Some((text.clone(), node.span)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: &[&str] = &["nats", "label", "http"];

    fn read(text: &str) -> Result<Vec<Setting>, String> {
        let http = |name: &str, value: &str| match (name, value) {
            ("http", "nowhere") => Err("`nowhere` is no address".to_owned()),
            _ => Ok(()),
        };
        parse("host.yaml", text, NAMES, http).map_err(|faults| faults.to_string())
    }

    #[test]
    fn a_text_a_list_and_a_map_are_values() {
        let text =
            "# of this host\nnats: [nats://a, nats://b]\nlabel: { region: eu, zone: a }\nhttp: 0.0.0.0:80\n";
        let setting = |name: &str, values: &[&str]| Setting {
            name: name.to_owned(),
            values: values.iter().map(|&value| value.to_owned()).collect(),
        };
        let expected = vec![
            setting("nats", &["nats://a", "nats://b"]),
            setting("label", &["region=eu", "zone=a"]),
            setting("http", &["0.0.0.0:80"]),
        ];
        assert_eq!(read(text), Ok(expected));
        assert_eq!(read("\n# nothing is set\n"), Ok(Vec::new()));
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_place() {
        let told = read("nat: x\nhttp: nowhere\nlabel: [[a]]\nnats:\n").unwrap_err();
        assert_eq!(
            told.lines().collect::<Vec<_>>(),
            [
                "host.yaml:1:1: unknown key `nat` in the settings: expected nats, label or http; did you mean `nats`?",
                "host.yaml:2:7: `nowhere` is no address",
                "host.yaml:3:8: label: expected a text, or a list or map of texts",
                "host.yaml:4:5: nats: expected a text, or a list or map of texts",
            ]
        );
        assert!(read("- nats\n").unwrap_err().contains("expected a map"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            let _ = read(&text);
        }
    }
}
