//! `weft get`: what is deployed and served.

use clap::ValueEnum;
use serde_json::Value;

use super::admin_client::{HostArgs, escaped};
use super::args::show_bytes;
use super::provider::progress;
use super::{Failure, Output, print, print_json, say};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weft get actors\n  weft get links catalog          its links; DRIFT tells those that were changed at run time\n  weft get conditions             what is wanted and is not so\n  weft get apps --output json\n\nA name may be short (catalog, shop/catalog) if it is unique. What JSON has is in docs/api.md."
)]
pub(super) struct Get {
    /// What to list.
    #[arg(value_enum)]
    kind: Kind,
    /// Only the one of this name; for links, subscriptions and watches, those of this actor; for artifacts, those that it needs, or
    /// of this digest; for conditions, those about it.
    name: Option<String>,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Apps, with their revisions and who deployed them.
    #[value(alias = "app")]
    Apps,
    /// Actors, with the revision that runs here.
    #[value(alias = "actor")]
    Actors,
    /// Providers, and who is linked to them.
    #[value(alias = "provider")]
    Providers,
    /// What the imports of actors resolve to, and whether that was changed at run time.
    #[value(alias = "link")]
    Links,
    /// Which messages go to which actor.
    #[value(alias = "subscription")]
    Subscriptions,
    /// Which actor is told of changes of which keys.
    #[value(alias = "watch")]
    Watches,
    /// Hosts.
    #[value(alias = "host")]
    Hosts,
    /// Secrets: names, versions and who uses them, never values.
    #[value(alias = "secret")]
    Secrets,
    /// What namespaces may use of each host, and what the host that is asked has refused.
    #[value(alias = "quota")]
    Quotas,
    /// Components on the disks of all hosts: what pins them, and which hosts have them.
    #[value(alias = "artifact")]
    Artifacts,
    /// What is wanted and is not so, with reasons.
    #[value(alias = "condition")]
    Conditions,
}

impl Get {
    /// `weft get secrets`.
    pub(super) fn secrets(host: HostArgs) -> Self {
        Self {
            kind: Kind::Secrets,
            name: None,
            host,
        }
    }
}

pub(super) fn run(get: &Get, output: Output) -> Result<(), Failure> {
    let kind = match get.kind {
        Kind::Apps => "apps",
        Kind::Actors => "actors",
        Kind::Providers => "providers",
        Kind::Links => "links",
        Kind::Subscriptions => "subscriptions",
        Kind::Watches => "watches",
        Kind::Hosts => "hosts",
        Kind::Secrets => "secrets",
        Kind::Quotas => "quotas",
        Kind::Artifacts => "artifacts",
        Kind::Conditions => "conditions",
    };
    let mut query = Vec::new();
    query.extend((get.kind == Kind::Artifacts).then(|| "hosts=true".to_owned()));
    query.extend(get.name.as_ref().map(|name| format!("name={}", escaped(name))));
    let query = match query.as_slice() {
        [] => String::new(),
        parts => format!("?{}", parts.join("&")),
    };
    let answer = get.host.client()?.get(&format!("/v1/{kind}{query}"))?;
    if output == Output::Json {
        return print_json(&answer);
    }
    let items = answer[kind].as_array().map_or(&[][..], Vec::as_slice);
    for item in items {
        if let Some(fault) = item["lattice"]["fault"].as_str() {
            say(&format!("{}: {}", text(&item["host"]), text(&Value::from(fault))));
        }
    }
    for host in answer["unanswered"].as_array().into_iter().flatten() {
        say(&format!(
            "{} does not answer: what it has is not known",
            text(host)
        ));
    }
    if items.is_empty() {
        // Not on stdout, where a script counts lines.
        say(&format!("no {kind}"));
        return Ok(());
    }
    print(&table(get.kind, items))
}

/// A column's head, and what stands below it for each item.
type Column = (&'static str, fn(&Value) -> String);

fn columns(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::Apps => &[
            ("NAME", |app| text(&app["name"])),
            ("REVISION", |app| text(&app["revision"])),
            ("VERSION", |app| text(&app["version"])),
            ("ACTORS", |app| count(&app["actors"])),
            ("PROVIDERS", |app| count(&app["providers"])),
            ("ROUTES", |app| count(&app["routes"])),
            ("CONDITIONS", |app| text(&app["conditions"])),
            ("BY", |app| text(&app["by"])),
            ("AT", |app| text(&app["at"])),
        ],
        Kind::Actors => &[
            ("NAME", |actor| text(&actor["name"])),
            ("REVISION", |actor| text(&actor["revision"])),
            ("RUNS", |actor| text(&actor["applied_revision"])),
            ("PLACED ON", |actor| match &actor["placed_on"] {
                Value::Array(hosts) => joined(&Value::from(hosts.clone())),
                _ => "all".to_owned(),
            }),
            // As long as is needed to tell them apart.
            ("COMPONENT", |actor| {
                text(&actor["component"])
                    .chars()
                    .take("sha256:".len() + 12)
                    .collect()
            }),
            ("LINKS", |actor| count(&actor["links"])),
            ("WAITING", |actor| text(&actor["waiting"])),
        ],
        Kind::Providers => &[
            ("NAME", |provider| text(&provider["name"])),
            ("REVISION", |provider| text(&provider["revision"])),
            ("CAPABILITY", |provider| text(&provider["capability"])),
            ("BACKEND", |provider| text(&provider["backend"])),
            ("OPEN", |provider| text(&provider["open"])),
            ("STATE", state),
            ("LINKED BY", |provider| joined(&provider["linked_by"])),
            ("MOVE", |provider| match provider["move"].as_object() {
                None => "-".to_owned(),
                Some(_) => moving(provider),
            }),
        ],
        Kind::Links => &[
            ("ACTOR", |link| text(&link["actor"])),
            ("INTERFACE", |link| text(&link["interface"])),
            ("TARGET", |link| target(&link["target"])),
            ("REVISION", |link| text(&link["revision"])),
            ("SERVED", |link| text(&link["served"])),
            ("CONDITION", |link| text(&link["condition"])),
            ("DRIFT", |link| match link["drift"].as_bool() {
                Some(true) => format!("declared: {}", target(&link["declared"])),
                _ => "-".to_owned(),
            }),
            ("BY", |link| text(&link["by"])),
        ],
        Kind::Subscriptions => &[
            ("ACTOR", |one| text(&one["actor"])),
            ("SUBJECT", |one| text(&one["subject"])),
            ("PROVIDER", |one| text(&one["provider"])),
            ("GROUP", |one| text(&one["group"])),
            ("SHARED", |one| text(&one["shared"])),
            ("SERVED", |one| text(&one["served"])),
            ("REASON", |one| text(&one["reason"])),
        ],
        Kind::Watches => &[
            ("ACTOR", |one| text(&one["actor"])),
            ("PROVIDER", |one| text(&one["provider"])),
            ("BUCKET", |one| text(&one["bucket"])),
            ("KEYS", |one| match one["keys"].as_str() {
                None | Some("") => "all".to_owned(),
                Some(keys) => format!("{keys}*"),
            }),
            ("SHARED", |one| text(&one["shared"])),
            ("SERVED", |one| text(&one["served"])),
            ("REASON", |one| text(&one["reason"])),
        ],
        Kind::Hosts => &[
            ("HOST", |host| text(&host["host"])),
            ("VERSION", |host| text(&host["version"])),
            ("STATE", |host| match host["standing"].as_str() {
                None | Some("alive") => text(&host["state"]),
                Some(standing) => standing.to_owned(),
            }),
            ("CONTROLLER", |host| match host["controller"].as_bool() {
                Some(true) => "yes".to_owned(),
                _ => "-".to_owned(),
            }),
            ("LABELS", |host| labels(&host["labels"])),
            ("APPLIED", |host| text(&host["applied_index"])),
            ("HTTP", |host| text(&host["http"])),
            ("CONDITIONS", |host| text(&host["conditions"])),
        ],
        Kind::Secrets => &[
            ("NAME", |secret| text(&secret["name"])),
            ("VERSION", |secret| text(&secret["version"])),
            ("KEY", |secret| text(&secret["key"])),
            ("USED BY", |secret| joined(&secret["used_by"])),
            ("BY", |secret| text(&secret["by"])),
            ("AT", |secret| text(&secret["at"])),
        ],
        Kind::Quotas => &[
            ("NAMESPACE", |quota| text(&quota["namespace"])),
            ("MESSAGES/S", |quota| text(&quota["messages_per_s"])),
            ("OBJECT BYTES/S", |quota| text(&quota["object_bytes_per_s"])),
            ("CONNECTIONS", |quota| text(&quota["connections"])),
            ("REFUSED", |quota| {
                let refused = &quota["refused"];
                let [messages, bytes] = ["messages", "object_bytes"].map(|what| text(&refused[what]));
                format!("{messages} messages, {bytes} objects")
            }),
            ("BY", |quota| text(&quota["by"])),
        ],
        Kind::Artifacts => &[
            ("DIGEST", |artifact| text(&artifact["digest"])),
            ("SIZE", |artifact| {
                show_bytes(artifact["bytes"].as_u64().unwrap_or_default())
            }),
            ("HOSTS", |artifact| joined(&artifact["hosts"])),
            ("PINNED BY", pins),
        ],
        Kind::Conditions => &[
            ("SINCE", |condition| {
                moment(&condition["since"]).unwrap_or_else(|| "-".to_owned())
            }),
            ("SUBJECT", |condition| text(&condition["subject"])),
            ("REASON", |condition| text(&condition["reason"])),
        ],
    }
}

fn table(kind: Kind, items: &[Value]) -> String {
    let columns = columns(kind);
    let mut rows = vec![
        columns
            .iter()
            .map(|&(head, _)| head.to_owned())
            .collect::<Vec<_>>(),
    ];
    rows.extend(
        items
            .iter()
            .map(|item| columns.iter().map(|(_, cell)| cell(item)).collect()),
    );
    aligned(&rows)
}

/// Cells below each other, two spaces between the widest.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let lines = rows.iter().map(|row| {
        let cells = std::iter::zip(row, &widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        // A name or a reason can't move the cursor.
        Value::String(text) => text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect(),
        value => value.to_string(),
    }
}

fn count(value: &Value) -> String {
    value.as_array().map_or(0, Vec::len).to_string()
}

fn joined(values: &Value) -> String {
    match values.as_array().map_or(&[][..], Vec::as_slice) {
        [] => "-".to_owned(),
        values => values.iter().map(text).collect::<Vec<_>>().join(", "),
    }
}

/// `key=value` for each.
fn labels(labels: &Value) -> String {
    let labels = labels.as_object().into_iter().flatten();
    let labels: Vec<_> = labels
        .map(|(key, value)| format!("{}={}", text(&Value::from(key.as_str())), text(value)))
        .collect();
    match labels.as_slice() {
        [] => "-".to_owned(),
        labels => labels.join(","),
    }
}

/// Why an artifact stays.
pub(super) fn pins(artifact: &Value) -> String {
    match (artifact["pinned_by"].as_array(), &artifact["in_use"]) {
        (Some(names), _) if !names.is_empty() => joined(&artifact["pinned_by"]),
        (_, Value::Bool(true)) => "(in use)".to_owned(),
        _ => "-".to_owned(),
    }
}

/// How a provider stands, since when, and why.
fn state(provider: &Value) -> String {
    let since = moment(&provider["since"]).map(|since| format!(" since {since}"));
    let reason = provider["reason"]
        .as_str()
        .map(|_| format!(": {}", text(&provider["reason"])));
    let state = text(&provider["state"]);
    format!(
        "{state}{}{}",
        since.unwrap_or_default(),
        reason.unwrap_or_default()
    )
}

/// How far a move is, without the provider's name.
fn moving(provider: &Value) -> String {
    let moving = &provider["move"];
    match moving["reason"].as_str() {
        Some(_) => format!("{}: {}", text(&moving["step"]), text(&moving["reason"])),
        None => progress("", provider).trim_start().to_owned(),
    }
}

fn moment(seconds: &Value) -> Option<String> {
    let moment = jiff::Timestamp::from_second(seconds.as_i64()?).ok()?;
    Some(moment.to_string())
}

/// Where a link goes, in one line.
fn target(target: &Value) -> String {
    match target["kind"].as_str() {
        Some("provider") => {
            let bucket = target["bucket"].as_str().map(|bucket| format!("bucket {bucket}"));
            let shared = (target["shared"] == true).then(|| "shared".to_owned());
            let more: Vec<_> = bucket.into_iter().chain(shared).collect();
            let name = text(&target["name"]);
            if more.is_empty() {
                name
            } else {
                format!("{name} ({})", more.join(", "))
            }
        }
        Some("actor") => text(&target["name"]),
        // An allow-list without an entry allows nothing.
        Some("http") => joined(&target["allow"]),
        Some("removed") => "removed".to_owned(),
        _ => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn links_show_where_they_go_and_where_they_were_to_go() {
        let link = |interface: &str, target: Value, declared: Value, drift: bool| {
            json!({
                "actor": "default/shop/catalog", "interface": interface, "revision": 3, "served": true,
                "target": target, "declared": declared, "drift": drift, "by": "uid:0",
            })
        };
        let goods =
            json!({ "kind": "provider", "name": "default/shop/goods", "bucket": "items", "shared": true });
        let table = table(
            Kind::Links,
            &[
                link("wasi:keyvalue", json!({ "kind": "removed" }), goods.clone(), true),
                link(
                    "a:b/c",
                    json!({ "kind": "actor", "name": "default/shop/pricing" }),
                    Value::Null,
                    true,
                ),
                link(
                    "wasi:http",
                    json!({ "kind": "http", "allow": ["https://a", "http://b"] }),
                    Value::Null,
                    false,
                ),
            ],
        );
        let columns = |line: &str| -> Vec<String> {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let rows: Vec<_> = table.lines().map(columns).collect();
        let actor = "default/shop/catalog";
        let declared = "declared: default/shop/goods (bucket items, shared)";
        assert_eq!(
            rows,
            [
                [
                    "ACTOR",
                    "INTERFACE",
                    "TARGET",
                    "REVISION",
                    "SERVED",
                    "CONDITION",
                    "DRIFT",
                    "BY"
                ],
                [
                    actor,
                    "wasi:keyvalue",
                    "removed",
                    "3",
                    "true",
                    "-",
                    declared,
                    "uid:0"
                ],
                [
                    actor,
                    "a:b/c",
                    "default/shop/pricing",
                    "3",
                    "true",
                    "-",
                    "declared: nothing",
                    "uid:0"
                ],
                [
                    actor,
                    "wasi:http",
                    "https://a, http://b",
                    "3",
                    "true",
                    "-",
                    "-",
                    "uid:0"
                ],
            ]
        );
        let starts: Vec<_> = table
            .lines()
            .map(|line| line.find("uid:0").or(line.find("BY")))
            .collect();
        assert!(starts.iter().all(|start| *start == starts[0]), "{table}");
    }

    #[test]
    fn what_a_guest_or_manifest_wrote_does_not_move_the_cursor() {
        assert_eq!(text(&json!("a\u{1b}[2Jb\n")), "a [2Jb ");
    }
}
