//! Where a statement ends.

/// The statements of a text, which are parted by semicolons: those in quotes, names and comments part nothing.
pub(super) fn statements(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with(';') {
            found.push(&text[start..at]);
            start = at + 1;
        }
        at += token_len(rest);
    }
    found.push(&text[start..]);
    found.retain(|statement| !is_empty(statement));
    found
}

/// Bytes of what a text begins with, as a whole.
fn token_len(text: &str) -> usize {
    let first = text.chars().next().map_or(1, char::len_utf8);
    let to_end = |len: Option<usize>| len.unwrap_or(text.len());
    match text.as_bytes() {
        [b'-', b'-', ..] => to_end(text.find('\n')),
        [b'/', b'*', ..] => comment_len(text),
        [b'\'', ..] => quoted_len(text, '\'', false),
        [b'"', ..] => quoted_len(text, '"', false),
        [b'e' | b'E', b'\'', ..] => 1 + quoted_len(&text[1..], '\'', true),
        [b'$', ..] => dollar_len(text).unwrap_or(first),
        // A quote or a dollar within a word is a part of it.
        [byte, ..] if byte.is_ascii_alphanumeric() || *byte == b'_' => {
            let word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
            to_end(text.find(|c: char| !word(c)))
        }
        _ => first,
    }
}

/// Comments nest.
fn comment_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(two) = bytes.get(at..at + 2) {
        match two {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// A quote that is doubled is one in the text; `escapes` is whether one behind a backslash is, too.
fn quoted_len(text: &str, quote: char, escapes: bool) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && escapes {
            chars.next();
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return at + quote.len_utf8();
        }
    }
    text.len()
}

/// A text between `$tag$` and the same again; `None` for a parameter.
fn dollar_len(text: &str) -> Option<usize> {
    let tag_len = text[1..].find('$')? + 2;
    let tag = &text[..tag_len];
    let name = &tag[1..tag_len - 1];
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if !is_name {
        return None;
    }
    let end = text[tag_len..].find(tag);
    Some(end.map_or(text.len(), |end| tag_len + end + tag_len))
}

fn is_empty(statement: &str) -> bool {
    let mut rest = statement.trim_start();
    while rest.starts_with("--") || rest.starts_with("/*") {
        rest = rest[token_len(rest)..].trim_start();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_semicolon_ends_a_statement_unless_it_is_in_a_text_a_name_or_a_comment() {
        for (text, expected) in [
            ("a; b;", vec!["a", " b"]),
            (" ;; -- none\n; /* ; */", vec![]),
            ("a ';' b; c", vec!["a ';' b", " c"]),
            ("'it''s;' ; b", vec!["'it''s;' ", " b"]),
            ("'\\'; b", vec!["'\\'", " b"]),
            ("E'\\';' ; b", vec!["E'\\';' ", " b"]),
            ("name'x'; b", vec!["name'x'", " b"]),
            ("\"a;b\"; c", vec!["\"a;b\"", " c"]),
            ("$$ ; $$; b", vec!["$$ ; $$", " b"]),
            ("$f$ ; $$ ; $f$; b", vec!["$f$ ; $$ ; $f$", " b"]),
            ("$1; $2", vec!["$1", " $2"]),
            ("a$b$; c$b$", vec!["a$b$", " c$b$"]),
            ("/* /* ; */ ; */ a; b", vec!["/* /* ; */ ; */ a", " b"]),
            ("'unended; b", vec!["'unended; b"]),
        ] {
            assert_eq!(statements(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_lose_more_than_semicolons(text in "[-a;'\"$/*\\\\ e1é\n]{0,40}") {
            let kept: usize = statements(&text).iter().map(|statement| statement.len()).sum();
            prop_assert!(kept <= text.len());
        }
    }
}
