//! The canonical text of a manifest.
//!
//! Owns which texts need quotes: whatever some reader of YAML might take for something else.

use std::fmt::Write as _;

use crate::capability::{self, OptionValue};
use crate::fault::Spanned;
use crate::limits::Limits;
use crate::manifest::{API_VERSION, Actor, Manifest, Provider, Route, Subscription, Watch};
use crate::name::{AppName, DEFAULT_NAMESPACE};
use crate::record::{CommandRecord, LinkTarget};
use crate::units::{duration_text, size_text};

enum Yaml {
    /// A text, quoted if it has to be.
    Text(String),
    /// A number, a truth value, or a text that needs no quotes.
    Raw(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

use Yaml::{List, Map, Raw, Text};

pub(super) fn yaml(manifest: &Manifest) -> String {
    let Manifest {
        file: _,
        app,
        version,
        description,
        reserve,
        actors,
        providers,
        routes,
        subscriptions,
        watches,
    } = manifest;
    let app = &app.value;
    let mut keys = Keys::default();
    keys.put("apiVersion", Raw(API_VERSION.to_owned()));
    if app.namespace() != DEFAULT_NAMESPACE {
        keys.text("namespace", app.namespace());
    }
    keys.text("name", app.app());
    for (key, value) in [("version", version), ("description", description)] {
        if let Some(value) = value {
            keys.text(key, value);
        }
    }
    if let Some(places) = reserve {
        keys.put("reserve", Raw(places.to_string()));
    }
    keys.map(
        "actors",
        actors
            .iter()
            .map(|(name, actor)| (name.clone(), of_actor(app, actor))),
    );
    keys.map(
        "providers",
        providers
            .iter()
            .map(|(name, provider)| (name.clone(), of_provider(provider))),
    );
    keys.list("routes", routes.iter().map(of_route));
    keys.list(
        "subscriptions",
        subscriptions.iter().map(|one| of_subscription(app, one)),
    );
    keys.list("watches", watches.iter().map(|one| of_watch(app, one)));
    let mut out = String::new();
    write(&Map(keys.0), 0, &mut out);
    out
}

fn of_actor(app: &AppName, actor: &Actor) -> Yaml {
    let Actor {
        name: _,
        component,
        config,
        limits,
        idempotent,
        links,
        secrets,
        allow_from,
    } = actor;
    let mut keys = Keys::default();
    keys.text("component", &component.value.to_string());
    keys.map("config", texts(config));
    keys.map("limits", of_limits(limits));
    keys.list(
        "idempotent",
        idempotent.iter().map(|Spanned { value, .. }| Text(value.clone())),
    );
    keys.map(
        "links",
        links
            .iter()
            .map(|(interface, link)| (interface.to_string(), of_target(app, &link.target.value))),
    );
    keys.map(
        "secrets",
        secrets
            .iter()
            .map(|(key, source)| (key.clone(), Text(source.to_string()))),
    );
    keys.list("allowFrom", allow_from.iter().map(|app| Text(app.to_string())));
    Map(keys.0)
}

/// The limits that are not the default.
fn of_limits(limits: &Limits) -> Vec<(String, Yaml)> {
    let all = |limits: &Limits| {
        let Limits {
            concurrency,
            queue_len,
            queue_wait,
            timeout,
            stream_timeout,
            cpu_time,
            memory_bytes,
            request_body_bytes,
            log_bytes,
            reuse,
            reuse_idle,
        } = *limits;
        [
            ("concurrency", concurrency.to_string()),
            ("queue", queue_len.to_string()),
            ("queueWait", duration_text(queue_wait)),
            ("timeout", duration_text(timeout)),
            ("streamTimeout", duration_text(stream_timeout)),
            ("cpuTime", duration_text(cpu_time)),
            ("memory", size_text(memory_bytes)),
            ("requestBody", size_text(request_body_bytes)),
            ("log", size_text(log_bytes)),
            ("reuse", reuse.to_string()),
            ("reuseIdle", duration_text(reuse_idle)),
        ]
    };
    let changed = all(limits)
        .into_iter()
        .zip(all(&Limits::default()))
        .filter(|(own, default)| own != default);
    changed
        .map(|((key, value), _)| (key.to_owned(), Raw(value)))
        .collect()
}

/// A name as it is written in `app`.
fn short(app: &AppName, of: AppName, name: &str, full: &str) -> String {
    if of == *app {
        name.to_owned()
    } else {
        full.to_owned()
    }
}

fn of_target(app: &AppName, target: &LinkTarget) -> Yaml {
    let mut keys = Keys::default();
    match target {
        LinkTarget::Provider { name, bucket, shared } => {
            keys.text(
                "provider",
                &short(app, name.app_name(), name.name(), name.as_str()),
            );
            if let Some(bucket) = bucket {
                keys.text("bucket", bucket);
            }
            if *shared {
                keys.put("shared", Raw("true".to_owned()));
            }
        }
        LinkTarget::Actor { name } => {
            keys.text("actor", &short(app, name.app_name(), name.name(), name.as_str()))
        }
        LinkTarget::Http { allow } => {
            keys.put("allow", List(allow.iter().map(|a| Text(a.to_string())).collect()))
        }
        LinkTarget::Removed => {}
    }
    Map(keys.0)
}

fn of_provider(provider: &Provider) -> Yaml {
    let Provider {
        name: _,
        capability,
        backend,
        config,
        allow_from,
        command,
    } = provider;
    let mut keys = Keys::default();
    keys.text("capability", &capability.to_string());
    keys.text("backend", &backend.value);
    let options = capability::backend(*capability, &backend.value).map_or(&[][..], |backend| backend.options);
    let is_number = |key: &str| {
        let option = options.iter().find(|option| option.name == key);
        option.is_some_and(|option| matches!(option.value, OptionValue::Number { .. }))
    };
    keys.map(
        "config",
        config.iter().map(|(key, value)| {
            let value = value.clone();
            (key.clone(), if is_number(key) { Raw(value) } else { Text(value) })
        }),
    );
    keys.list("allowFrom", allow_from.iter().map(|app| Text(app.to_string())));
    if let Some(CommandRecord {
        args,
        env,
        host,
        host_labels,
    }) = command
    {
        keys.list("command", args.iter().cloned().map(Text));
        keys.map("env", texts(env));
        if let Some(host) = host {
            keys.text("host", host.as_str());
        }
        keys.map("hostLabels", texts(host_labels));
    }
    Map(keys.0)
}

fn of_route(route: &Route) -> Yaml {
    let Route {
        actor,
        host,
        path,
        methods,
        headers,
        strip_prefix,
    } = route;
    let mut keys = Keys::default();
    keys.text("actor", actor.value.name());
    if let Some(host) = host {
        keys.text("host", host);
    }
    if path != "/" {
        keys.text("path", path);
    }
    keys.list("methods", methods.iter().cloned().map(Text));
    keys.map("headers", texts(headers));
    if *strip_prefix {
        keys.put("stripPrefix", Raw("true".to_owned()));
    }
    Map(keys.0)
}

fn of_subscription(app: &AppName, subscription: &Subscription) -> Yaml {
    let Subscription {
        provider,
        subject,
        actor,
        group,
        shared,
    } = subscription;
    let (provider, actor) = (&provider.value, actor.value.name());
    let mut keys = Keys::default();
    keys.text(
        "provider",
        &short(app, provider.app_name(), provider.name(), provider.as_str()),
    );
    keys.text("subject", subject);
    keys.text("actor", actor);
    if group != actor {
        keys.text("group", group);
    }
    if *shared {
        keys.put("shared", Raw("true".to_owned()));
    }
    Map(keys.0)
}

fn of_watch(app: &AppName, watch: &Watch) -> Yaml {
    let Watch {
        provider,
        bucket,
        keys: prefix,
        actor,
        shared,
    } = watch;
    let provider = &provider.value;
    let mut keys = Keys::default();
    keys.text(
        "provider",
        &short(app, provider.app_name(), provider.name(), provider.as_str()),
    );
    keys.text("bucket", bucket);
    if !prefix.is_empty() {
        keys.text("keys", prefix);
    }
    keys.text("actor", actor.value.name());
    if *shared {
        keys.put("shared", Raw("true".to_owned()));
    }
    Map(keys.0)
}

fn texts<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> Vec<(String, Yaml)> {
    map.into_iter()
        .map(|(key, value)| (key.clone(), Text(value.clone())))
        .collect()
}

/// The keys of a map; what is empty is left out.
#[derive(Default)]
struct Keys(Vec<(String, Yaml)>);

impl Keys {
    fn put(&mut self, key: &str, value: Yaml) {
        self.0.push((key.to_owned(), value));
    }

    fn text(&mut self, key: &str, text: &str) {
        self.put(key, Text(text.to_owned()));
    }

    fn map(&mut self, key: &str, entries: impl IntoIterator<Item = (String, Yaml)>) {
        let entries: Vec<_> = entries.into_iter().collect();
        if !entries.is_empty() {
            self.put(key, Map(entries));
        }
    }

    fn list(&mut self, key: &str, items: impl IntoIterator<Item = Yaml>) {
        let items: Vec<_> = items.into_iter().collect();
        if !items.is_empty() {
            self.put(key, List(items));
        }
    }
}

/// Writes a value that starts on a new line, `level` levels deep.
fn write(value: &Yaml, level: usize, out: &mut String) {
    let indent = level * 2;
    match value {
        Text(_) | Raw(_) => scalar(value, out),
        List(items) => {
            for item in items {
                let _ = write!(out, "{:indent$}- ", "");
                let at = out.len();
                write(item, level + 1, out);
                // The first key of a map stands behind the dash.
                if matches!(item, List(_) | Map(_)) {
                    out.replace_range(at..at + indent + 2, "");
                }
            }
        }
        Map(entries) => {
            for (key, value) in entries {
                let _ = write!(out, "{:indent$}", "");
                quoted(key, out);
                out.push(':');
                match value {
                    Text(_) | Raw(_) => {
                        out.push(' ');
                        scalar(value, out);
                    }
                    List(items) if items.is_empty() => out.push_str(" []\n"),
                    Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
                    List(_) | Map(_) => {
                        out.push('\n');
                        write(value, level + 1, out);
                    }
                }
            }
        }
    }
}

fn scalar(value: &Yaml, out: &mut String) {
    match value {
        Text(text) => quoted(text, out),
        Raw(text) => out.push_str(text),
        List(_) | Map(_) => {}
    }
    out.push('\n');
}

fn quoted(text: &str, out: &mut String) {
    if is_plain(text) {
        return out.push_str(text);
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // Line ends, marks of byte order and what can't be seen.
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') =>
            {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Whether no reader of YAML, of version 1.1 either, takes the text without quotes for something else.
fn is_plain(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "true", "false", "null", "yes", "no", "on", "off", "y", "n", "inf", "nan", "infinity",
    ];
    let start = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        || text.starts_with("./")
        || text.starts_with("../");
    start
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./:@*+".contains(&b))
        && !text.ends_with(':')
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}
