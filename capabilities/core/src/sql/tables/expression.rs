//! Expressions of a schema, as far as they mean the same in every dialect.

use super::quoted;

/// A part of an SQL text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A keyword, or a name without quotes.
    Word(String),
    /// A name in quotes.
    Name(String),
    /// A text, as it is written.
    Text(String),
    /// A number without a sign.
    Number(String),
    /// Anything else.
    Sign(String),
}

impl Token {
    /// Whether it is a keyword.
    pub fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(found) if found.eq_ignore_ascii_case(word))
    }

    /// Whether it is a sign.
    pub fn is_sign(&self, sign: &str) -> bool {
        matches!(self, Self::Sign(found) if found == sign)
    }
}

/// Signs of more than one letter.
const SIGNS: [&str; 9] = ["::", "<=", ">=", "<>", "!=", "==", "||", "->", "<<"];
/// Signs that mean the same everywhere.
const SAME_SIGNS: [&str; 13] = [
    "=", "<", ">", "<=", ">=", "<>", "!=", "+", "-", "*", "(", ")", ",",
];
/// Words that mean the same everywhere.
const SAME_WORDS: [&str; 10] = [
    "AND", "BETWEEN", "FALSE", "IN", "IS", "LENGTH", "NOT", "NULL", "OR", "TRUE",
];
/// What Postgres writes after texts, where they say as much by themselves.
const CASTS: [&str; 4] = ["bigint", "boolean", "integer", "text"];

/// The word that a statement begins with, after spaces and comments; empty if there is none.
pub fn first_word(text: &str) -> &str {
    let mut rest = text.trim_start();
    loop {
        let end = match rest {
            _ if rest.starts_with("--") => rest.find('\n'),
            _ if rest.starts_with("/*") => rest[2..].find("*/").map(|end| end + 4),
            _ => break,
        };
        rest = end.map_or("", |end| rest[end..].trim_start());
    }
    let end = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    &rest[..end]
}

/// The parts of an SQL text, without spaces and comments.
pub fn tokens(text: &str) -> Vec<Token> {
    let (mut all, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let len = match first {
            _ if first.is_whitespace() => first.len_utf8(),
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest[2..].find("*/").map_or(rest.len(), |end| end + 4),
            '\'' => {
                let len = quoted_len(rest, first);
                all.push(Token::Text(rest[..len].to_owned()));
                len
            }
            '"' | '`' | '[' => {
                let close = if first == '[' { ']' } else { first };
                let len = quoted_len(rest, close);
                let inner = &rest[1..len];
                let inner = inner.strip_suffix(close).unwrap_or(inner);
                let doubled = format!("{close}{close}");
                all.push(Token::Name(inner.replace(&doubled, &close.to_string())));
                len
            }
            _ if first.is_ascii_digit() => {
                let is_part = |(at, c): (usize, char)| {
                    c.is_ascii_alphanumeric()
                        || matches!(c, '.' | '_')
                        || matches!(c, '+' | '-') && rest[..at].ends_with(['e', 'E'])
                };
                let len = rest.char_indices().find(|&part| !is_part(part));
                let len = len.map_or(rest.len(), |(at, _)| at);
                all.push(Token::Number(rest[..len].to_owned()));
                len
            }
            _ if first.is_alphabetic() || first == '_' => {
                let len = rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '$'));
                let len = len.unwrap_or(rest.len());
                all.push(Token::Word(rest[..len].to_owned()));
                len
            }
            _ => {
                let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
                let len = sign.map_or(first.len_utf8(), |sign| sign.len());
                all.push(Token::Sign(rest[..len].to_owned()));
                len
            }
        };
        rest = &rest[len..];
    }
    all
}

/// How long the text in quotes is that `text` begins with; a quote that is doubled is one within it.
fn quoted_len(text: &str, close: char) -> usize {
    let mut letters = text.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter == close && letters.next_if(|(_, next)| *next == close).is_none() {
            return at + letter.len_utf8();
        }
    }
    text.len()
}

/// A check in the other dialect, if it means the same there.
pub(super) fn check(expression: &str, columns: &[String]) -> Option<String> {
    let all = without_casts(tokens(expression));
    let column = |name: &str| {
        let mut columns = columns.iter();
        columns.find(|column| column.eq_ignore_ascii_case(name))
    };
    let mut text = Vec::new();
    for (at, token) in all.iter().enumerate() {
        let is_called = all.get(at + 1).is_some_and(|next| next.is_sign("("));
        text.push(match token {
            Token::Word(word) if SAME_WORDS.iter().any(|known| token.is(known)) => word.to_ascii_uppercase(),
            Token::Word(_) if is_called => return None,
            Token::Name(name) | Token::Word(name) => quoted(column(name)?),
            Token::Text(text) => text.clone(),
            Token::Number(number) if is_plain(number) => number.clone(),
            Token::Sign(sign) if sign == "==" => "=".to_owned(),
            Token::Sign(sign) if SAME_SIGNS.contains(&sign.as_str()) => sign.clone(),
            Token::Number(_) | Token::Sign(_) => return None,
        });
    }
    Some(text.join(" "))
}

/// A default in the other dialect: a plain value.
pub(super) fn default(expression: &str) -> Option<String> {
    let all = without_casts(tokens(expression));
    let mut all = all.as_slice();
    while let [first, inner @ .., last] = all
        && first.is_sign("(")
        && last.is_sign(")")
    {
        all = inner;
    }
    match all {
        [Token::Text(text)] => Some(text.clone()),
        [Token::Number(number)] if is_plain(number) => Some(number.clone()),
        [sign, Token::Number(number)] if is_plain(number) && sign.is_sign("-") => Some(format!("-{number}")),
        [Token::Word(word)] if ["NULL", "TRUE", "FALSE"].iter().any(|same| all[0].is(same)) => {
            Some(word.to_ascii_uppercase())
        }
        _ => None,
    }
}

fn is_plain(number: &str) -> bool {
    number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

fn without_casts(all: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut all = all.into_iter().peekable();
    while let Some(token) = all.next() {
        let is_type = |next: &Token| CASTS.iter().any(|cast| next.is(cast));
        if !token.is_sign("::") || all.next_if(is_type).is_none() {
            kept.push(token);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_taken_apart_whatever_is_in_quotes() {
        let all = tokens("a /* b */ >= 'it''s' -- c\n AND \"x\"\"y\" [z]1.5e-3::text");
        let word = |text: &str| Token::Word(text.to_owned());
        let sign = |text: &str| Token::Sign(text.to_owned());
        let name = |text: &str| Token::Name(text.to_owned());
        assert_eq!(
            all,
            [
                word("a"),
                sign(">="),
                Token::Text("'it''s'".to_owned()),
                word("AND"),
                name("x\"y"),
                name("z"),
                Token::Number("1.5e-3".to_owned()),
                sign("::"),
                word("text"),
            ]
        );
        for (text, word) in [
            ("select 1", "select"),
            ("--x\n /* y */ WITH a", "WITH"),
            ("/*", ""),
            ("/*/ SELECT */ DELETE", "DELETE"),
            ("--", ""),
            ("(SELECT 1)", ""),
            ("", ""),
        ] {
            assert_eq!(first_word(text), word, "{text}");
        }
        for broken in ["'", "\"a", "\"", "/*", "--", "é'", "[", "'''"] {
            tokens(broken);
        }
    }

    #[test]
    fn what_means_the_same_everywhere_is_taken_and_nothing_else() {
        let columns = ["price".to_owned(), "Name".to_owned()];
        let check = |text: &str| check(text, &columns);
        assert_eq!(check("PRICE >= 0").unwrap(), "\"price\" >= 0");
        assert_eq!(
            check("((name <> ''::text) AND (price IN (1,2)))").unwrap(),
            "( ( \"Name\" <> '' ) AND ( \"price\" IN ( 1 , 2 ) ) )"
        );
        assert_eq!(check("length(name) == 3").unwrap(), "LENGTH ( \"Name\" ) = 3");
        for foreign in [
            "price / 2 = 1",
            "name LIKE 'a%'",
            "glob(name)",
            "other > 0",
            "price > 0x10",
            "name(1)",
        ] {
            assert_eq!(check(foreign), None, "{foreign}");
        }
        assert_eq!(default("'open'::text").unwrap(), "'open'");
        assert_eq!(default("(-5)").unwrap(), "-5");
        assert_eq!(default("null").unwrap(), "NULL");
        for foreign in [
            "CURRENT_TIMESTAMP",
            "nextval('a'::regclass)",
            "1 + 1",
            "x'00'",
            "(1) + (2)",
        ] {
            assert_eq!(default(foreign), None, "{foreign}");
        }
    }
}
