//! What a subscription listens to: subjects of messages, and groups that share them.
//!
//! Owns their grammar in a manifest: that of `weft-capabilities`, which checks again, within what a key of the store
//! holds. Two subscriptions are the same if actor, provider and subject are.

/// The longest subject of a subscription, in bytes: with two full names it is a key of the store.
pub const SUBJECT_LEN_MAX: usize = 100;

/// The longest name of a group, in bytes.
pub const GROUP_LEN_MAX: usize = 63;

/// Whether a text is a subject to listen to: tokens of printable ASCII with dots between them, of which `*` stands for
/// any one, and `>`, as the last, for one or more. Those that begin with `_INBOX` or `$` are not an app's.
pub(crate) fn is_subject(text: &str) -> bool {
    let mut tokens = text.split('.').peekable();
    let reserved = text.starts_with("_INBOX") || text.starts_with('$');
    let mut fits = !reserved && text.len() <= SUBJECT_LEN_MAX;
    while let Some(token) = tokens.next() {
        fits &= match token {
            "*" => true,
            ">" => tokens.peek().is_none(),
            token => {
                !token.is_empty()
                    && token
                        .bytes()
                        .all(|b| b.is_ascii_graphic() && b != b'*' && b != b'>')
            }
        };
    }
    fits
}

/// Whether a text is a group: letters, digits, `-` and `_`.
pub(crate) fn is_group(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=GROUP_LEN_MAX).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_tokens_and_wildcards_in_their_places() {
        for text in ["a", "orders.*", "orders.>", ">", "*", "a.b-c_d.*.e", "/a:b"] {
            assert!(is_subject(text), "{text} was refused");
        }
        let long = "a".repeat(SUBJECT_LEN_MAX + 1);
        for text in [
            "", ".", "a.", "a..b", "a b", "ä", "a*", "a.>.b", "_INBOX.a", "$SYS.a", &long,
        ] {
            assert!(!is_subject(text), "{text} was taken");
        }
        assert!(is_group("mailer-2_a") && !is_group("") && !is_group("a.b"));
    }
}
