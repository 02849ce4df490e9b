//! The manifests that the documents show, each read as it stands there.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use weft_compose::parse;

/// The blocks of YAML in a text, each with the line that it begins on and without the indentation of its fence.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, usize, String)> = None;
    for (n, line) in text.lines().enumerate() {
        let fence = line.trim_start();
        match &mut open {
            None if fence == "```yaml" => open = Some((n + 2, line.len() - fence.len(), String::new())),
            Some(_) if fence == "```" => blocks.extend(open.take().map(|(n, _, block)| (n, block))),
            Some((_, indent, block)) => {
                block.push_str(line.get(*indent..).unwrap_or_default());
                block.push('\n');
            }
            None => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    blocks
}

/// The names that stand as values of `key`, as in `{ provider: store }`, without those of other apps.
fn named<'a>(block: &'a str, key: &str) -> BTreeSet<&'a str> {
    let after = block.split(key).skip(1);
    let names = after.map(|rest| rest.split([',', ' ', '}', '\n']).next().unwrap_or_default());
    names
        .filter(|name| !name.is_empty() && !name.contains('/'))
        .collect()
}

/// A fragment with what it lacks to be a manifest: the head, the actor of its links, and what these lead to.
fn completed(block: &str) -> String {
    if block.starts_with("apiVersion:") {
        return block.to_owned();
    }
    let mut text = "apiVersion: weft/v1\nname: example\n".to_owned();
    // Digests are shortened for the reader.
    let block = block.replace("sha256:4be1ff1a...", &format!("sha256:{}", "4b".repeat(32)));
    let Some(links) = block.strip_prefix("    links:\n") else {
        return text + &block;
    };
    write!(
        text,
        "actors:\n  example:\n    component: example.wasm\n    links:\n{links}"
    )
    .unwrap();
    for actor in named(links, "actor: ") {
        writeln!(text, "  {actor}: {{ component: {actor}.wasm }}").unwrap();
    }
    text += "providers:\n";
    for provider in named(links, "provider: ") {
        writeln!(text, "  {provider}: {{ capability: key-value, backend: memory }}").unwrap();
    }
    text
}

#[test]
fn every_manifest_that_the_documents_show_is_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let documents = fs::read_dir(root.join("docs")).unwrap();
    let documents = documents.map(|entry| entry.unwrap().path());
    let mut read = BTreeSet::new();
    for path in documents.chain([root.join("README.md")]) {
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        for (line, block) in blocks(&fs::read_to_string(&path).unwrap()) {
            // A host's own settings, which the host reads.
            if name == "lattice.md" && block.starts_with("nats: ") {
                continue;
            }
            let text = completed(&block);
            if let Err(faults) = parse(&name, &text) {
                panic!("the example at {name}:{line} is wrong: {faults}\n{text}");
            }
            read.insert((name.clone(), line));
        }
    }
    for (name, len_min) in [
        ("capabilities.md", 9),
        ("apps.md", 5),
        ("secrets.md", 1),
        ("providers.md", 1),
    ] {
        let len = read.iter().filter(|(of, _)| of == name).count();
        assert!(len >= len_min, "{name} has {len} examples");
    }
}
