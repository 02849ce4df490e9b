//! What a seal holds, and what a file of root keys does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;
use weft_secrets::{Context, KeyFileError, Keyring, Recipient, SECRET_LEN_MAX, SealError, Sealed, Secret};

const NAME: Context<'static> = Context {
    name: "default/shop/db-password",
    version: 3,
};

fn secret(value: &str) -> Secret {
    Secret::new(value.into()).unwrap()
}

fn keys() -> (tempfile::TempDir, Keyring) {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keyring::add(&folder.path().join("root.key")).unwrap();
    (folder, keys)
}

#[test]
fn a_value_opens_as_what_it_was_sealed_as_and_as_nothing_else() {
    let (_folder, keys) = keys();
    let sealed = keys.seal(&NAME, &secret("hunter2")).unwrap();
    assert_eq!(keys.open(&NAME, &sealed).unwrap().reveal(), b"hunter2");
    let exchanged = [
        Context { version: 4, ..NAME },
        Context {
            name: "default/shop/other",
            ..NAME
        },
        // Neither can a name take over digits of a version.
        Context {
            name: "default/shop/db-password\n3",
            version: 3,
        },
    ];
    for context in exchanged {
        assert!(
            matches!(keys.open(&context, &sealed), Err(SealError::NotThis)),
            "{context:?}"
        );
    }
}

#[test]
fn of_a_sealed_value_each_changed_character_is_noticed() {
    let (_folder, keys) = keys();
    let sealed = keys.seal(&NAME, &secret("hunter2")).unwrap();
    for at in 0..sealed.text.len() {
        let mut text = sealed.text.clone().into_bytes();
        text[at] = if text[at] == b'A' { b'B' } else { b'A' };
        let text = String::from_utf8(text).unwrap();
        let changed = Sealed {
            text,
            ..sealed.clone()
        };
        assert!(keys.open(&NAME, &changed).is_err(), "character {at}");
    }
    for text in ["", "AAAA", &"A".repeat(64), &sealed.text[..sealed.text.len() - 4]] {
        let cut = Sealed {
            text: text.to_owned(),
            ..sealed.clone()
        };
        assert!(keys.open(&NAME, &cut).is_err(), "{text}");
    }
}

#[test]
fn one_value_is_never_sealed_alike_twice() {
    let (_folder, keys) = keys();
    let seal = || keys.seal(&NAME, &secret("hunter2")).unwrap().text;
    assert_ne!(seal(), seal());
}

#[test]
fn who_has_the_public_half_seals_and_does_not_open() {
    let (_folder, keys) = keys();
    let text = keys.newest().unwrap().recipient().to_string();
    let recipient: Recipient = text.parse().unwrap();
    let sealed = recipient.seal(&NAME, &secret("hunter2")).unwrap();
    assert_eq!(keys.open(&NAME, &sealed).unwrap().reveal(), b"hunter2");
    let (_folder, others) = self::keys();
    let unknown = others.open(&NAME, &sealed).unwrap_err();
    assert!(matches!(unknown, SealError::UnknownKey(id) if id == recipient.id()));
    for wrong in [
        "",
        "weft-public-1:",
        "weft-public-1:AAAA",
        &text[..text.len() - 1],
    ] {
        assert!(wrong.parse::<Recipient>().is_err(), "{wrong}");
    }
}

#[test]
fn after_a_rotation_the_new_key_seals_and_both_open() {
    let (folder, before) = keys();
    let path = folder.path().join("root.key");
    let old = before.seal(&NAME, &secret("old")).unwrap();
    let after = Keyring::add(&path).unwrap();
    assert_eq!(after.keys().len(), 2);
    let new = after.seal(&NAME, &secret("new")).unwrap();
    assert_ne!(old.key, new.key);
    assert_eq!(after.open(&NAME, &old).unwrap().reveal(), b"old");
    assert_eq!(after.open(&NAME, &new).unwrap().reveal(), b"new");
    assert!(matches!(before.open(&NAME, &new), Err(SealError::UnknownKey(_))));
    assert_eq!(
        Keyring::read(&path).unwrap().newest().unwrap().id(),
        after.newest().unwrap().id()
    );
}

#[test]
fn a_file_of_keys_is_its_owners_alone_and_says_where_it_is_wrong() {
    let (folder, _keys) = keys();
    let path = folder.path().join("root.key");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!Keyring::is_open_to_others(&path));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Keyring::is_open_to_others(&path));
    let text = fs::read_to_string(&path).unwrap();
    let key = text.lines().last().unwrap().to_owned();

    fs::write(&path, format!("{text}weft-root-1:short\n")).unwrap();
    let error = Keyring::read(&path).unwrap_err();
    assert!(matches!(error, KeyFileError::Line { line: 4, .. }), "{error}");
    assert!(!error.to_string().contains("short"), "{error}");
    assert!(Keyring::add(&path).is_err(), "a damaged file was written over");

    for empty in ["", "# nothing\n"] {
        fs::write(&path, empty).unwrap();
        assert!(matches!(Keyring::read(&path), Err(KeyFileError::Missing(_))));
    }
    fs::write(&path, format!("{key}\n").repeat(33)).unwrap();
    assert!(matches!(Keyring::read(&path), Err(KeyFileError::TooMany(_))));
    let full = format!("{key}\n").repeat(32);
    fs::write(&path, &full).unwrap();
    assert!(matches!(Keyring::add(&path), Err(KeyFileError::TooMany(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), full);
    let missing = Keyring::read(&folder.path().join("none")).unwrap_err();
    assert!(missing.to_string().contains("weft secret key new"), "{missing}");
}

#[test]
fn a_value_and_a_key_do_not_show() {
    let (folder, keys) = keys();
    let key = fs::read_to_string(folder.path().join("root.key")).unwrap();
    let key = key.lines().last().unwrap().strip_prefix("weft-root-1:").unwrap();
    let shown = format!("{:?} {:#?} {keys:?}", secret("hunter2"), [secret("hunter2")]);
    assert!(!shown.contains("hunter2") && !shown.contains(key), "{shown}");
    assert_eq!(
        secret("hunter2").redact("bad password hunter2!"),
        "bad password ***!"
    );
    assert_eq!(secret("").redact("as it is"), "as it is");
}

#[test]
fn the_end_of_a_last_line_is_no_part_of_a_value() {
    for (typed, value) in [
        ("hunter2\n", "hunter2"),
        ("hunter2\r\n", "hunter2"),
        ("a\nb\n\n", "a\nb\n"),
        ("hunter2", "hunter2"),
        ("", ""),
    ] {
        assert_eq!(Secret::read(typed.as_bytes()).unwrap().reveal(), value.as_bytes());
    }
    let bytes: &[u8] = b"\xff\n";
    assert_eq!(Secret::read(bytes).unwrap().reveal(), bytes);
    let longest = vec![b'x'; SECRET_LEN_MAX];
    assert_eq!(Secret::read(&longest[..]).unwrap().reveal(), longest);
    assert!(Secret::read(&vec![b'x'; SECRET_LEN_MAX + 1][..]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_sealed_opens_as_it_was(value in proptest::collection::vec(any::<u8>(), 0..300), version in any::<u64>(), name in "[a-z/-]{1,40}") {
        let (_folder, keys) = keys();
        let context = Context { name: &name, version };
        let value = Secret::new(value).unwrap();
        let sealed = keys.seal(&context, &value).unwrap();
        prop_assert!(keys.open(&context, &sealed).unwrap() == value);
    }

    #[test]
    fn no_text_makes_opening_panic(text in "[A-Za-z0-9+/=]{0,120}") {
        let (_folder, keys) = keys();
        let key = keys.newest().unwrap().id().to_owned();
        let sealed = Sealed { key, text };
        prop_assert!(keys.open(&NAME, &sealed).is_err());
    }
}
