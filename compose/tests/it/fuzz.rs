//! What the fuzz targets look for, with inputs of proptest: manifests and texts that are right, damaged at random.

#[expect(unreachable_pub, reason = "a crate of its own when it is fuzzed")]
#[path = "../../fuzz/src/lib.rs"]
mod checks;
#[path = "../../fuzz/src/damage.rs"]
mod damage;

use std::path::Path;

use proptest::prelude::*;

use self::damage::{damaged, damages};

/// Pieces of YAML and of manifests.
const WORDS: &[&[u8]] = &[
    b": ",
    b"\n",
    b"\n  ",
    b"- ",
    b"&a ",
    b"*a ",
    b"<<: ",
    b"!!str ",
    b"!x ",
    b"? ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"|\n",
    b">-\n",
    b"\"",
    b"'",
    b"#",
    b"\t",
    b"\r",
    b"---\n",
    b"...\n",
    b"%YAML 1.2\n",
    b"~",
    b"null",
    b"true",
    b"\0",
    b"\\",
    b"\\x00",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\xf0\x9f\xa6\x80",
    b"\xc2\x85",
    b"\xff",
    b"0",
    b"-1",
    b"18446744073709551616",
    b"1e999",
    b"h",
    b"ms",
    b"GiB",
    b"namespace: ",
    b"actors:",
    b"links:",
    b"allow:",
    b"https://*.a.example:1",
    b"http://[::1]/8",
    b"wasi:keyvalue",
    b"a:b/c@1.0.0-x",
    b"sha256:",
    b"/",
    b"*.",
    b"|",
    b"%",
    b"&",
    b"=",
];

/// Names, patterns, units, keys and records, one a line.
const TEXTS: &str = include_str!("../../fuzz/seeds/texts.lines");

fn manifests() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bad = std::fs::read_dir(root.join("tests/bad")).unwrap();
    let mut files: Vec<_> = bad.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.extend([root.join("tests/shop.yaml"), root.join("apps/shop/app.yaml")]);
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_damaged_manifest_is_refused_or_written_as_it_is_read(
        seed in prop::sample::select(manifests()), damages in damages(),
    ) {
        checks::manifest(&String::from_utf8_lossy(&damaged(&seed, WORDS, &damages)));
    }

    #[test]
    fn a_damaged_text_is_refused_or_written_as_it_is_read(
        seed in prop::sample::select(TEXTS.lines().collect::<Vec<_>>()), damages in damages(),
    ) {
        checks::texts(&String::from_utf8_lossy(&damaged(seed.as_bytes(), WORDS, &damages)));
    }
}

/// A report repeated each wrong text in full: a hundred aliases of one long text made a report of hundreds of
/// megabytes, which was sent and logged.
#[test]
fn a_report_does_not_repeat_a_long_text() {
    let long = "x".repeat(1 << 20);
    let aliases = "*long, ".repeat(200);
    for text in [
        format!("long: &long {long}\nroutes: [{{ methods: [{aliases}] }}]"),
        format!("actors: {{ a: {{ component: {long}, idempotent: [{long}], links: {{ {long}: }} }} }}"),
        format!("actors: {{ a: {{ limits: {{ queue: {long}, timeout: 1{long}, memory: 9{long} }} }} }}"),
        format!(
            "namespace: {long}\nname: !<{long}> x\nroutes: [{{ path: {long}, host: {long}, actor: {long} }}]"
        ),
        format!("timeout: {}s", "9".repeat(1 << 20)),
        "!".repeat(1 << 20),
        format!("a: *{long}"),
    ] {
        checks::manifest(&text);
    }
    checks::texts(&long);
}

/// An alias of a long text was counted as one value, and each was copied into the configuration: four megabytes of
/// text stood for some twenty gigabytes.
#[test]
fn aliases_of_a_long_text_are_counted_with_its_length() {
    let mut text = format!(
        "apiVersion: weft/v1\nname: bomb\nversion: &v {}\nactors:\n  a:\n    component: a\n    config:\n",
        "x".repeat(60 << 10)
    );
    text.extend((0..100_000).map(|n| format!("      k{n}: *v\n")));
    let faults = weft_compose::parse("app.yaml", &text).unwrap_err();
    assert!(faults.to_string().contains("split the app"), "{faults}");
}
