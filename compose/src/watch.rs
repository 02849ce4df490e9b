//! What a watch looks at: a bucket of a key-value store, and what the keys in it begin with.
//!
//! Owns their grammar in a manifest: part of what a store takes, so that with two full names both are one key of the
//! control store. Two watches are the same if actor, provider, bucket and keys are.

/// The longest name of a bucket that is watched, in bytes.
pub const BUCKET_LEN_MAX: usize = 100;

/// The longest that the name of a bucket and what its keys begin with are together, in bytes: with two full names they are
/// a key of the store.
pub const WATCHED_LEN_MAX: usize = 120;

/// Whether a text is the name of a bucket to watch: printable ASCII without spaces and `/`.
pub(crate) fn is_bucket(text: &str) -> bool {
    (1..=BUCKET_LEN_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
}

/// Whether a text is what keys of `bucket` begin with: printable ASCII without spaces. None at all stands for all keys.
pub(crate) fn is_prefix(bucket: &str, text: &str) -> bool {
    bucket.len() + text.len() <= WATCHED_LEN_MAX && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_and_what_its_keys_begin_with_are_of_printable_ascii() {
        for text in ["a", "carts-2024", "a:b", "*"] {
            assert!(is_bucket(text), "{text} was refused");
        }
        let long = "a".repeat(BUCKET_LEN_MAX + 1);
        for text in ["", "a/b", "a b", "ä", "a\0", &long] {
            assert!(!is_bucket(text), "{text} was taken");
        }
        assert!(is_prefix("a", "") && is_prefix("a", "user/1/") && !is_prefix("a", "a b"));
        assert!(!is_prefix(
            &long[1..],
            &"k".repeat(WATCHED_LEN_MAX - BUCKET_LEN_MAX + 1)
        ));
    }
}
