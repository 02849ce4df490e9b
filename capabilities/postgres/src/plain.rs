//! Whether a statement leaves its connection as it was, as far as its text proves it.
//!
//! A connection has one user after the other, and much that one does stays on it: settings, temporary tables (which hide
//! others of their name), advisory locks, whom it acts as. What reaches these is a call of a function, a command of its own,
//! or one of a few relations; and no list of such functions is ever whole, as a database may have any. So it is the other way
//! round: here is what is known to leave nothing, by far most of what actors run, and after whatever else the connection is
//! [reset](crate::session) before the next has it. A wrong "no" costs that reset, which nobody waits for but who needs the
//! very connection; so whatever is written in an unusual way is "no", and never guessed at.
//!
//! It is judged once for each statement that a connection prepares, and not for each run.
//!
//! What the schema itself makes of a plain statement, by a trigger, a view or a function over a table's rows, is not seen
//! here: who may make those may change what the other users of the database see in any case. A temporary one is gone with
//! the reset that follows its `CREATE`.

/// Commands that read or change rows.
const COMMANDS: &str = "delete insert merge select show table update values with";
/// Words of the grammar, and names of types, that may stand before a parenthesis.
const GRAMMAR: &str = "
    all and any array as between by case conflict cube distinct else except exists filter from group having
    ilike in intersect is join lateral like limit materialized not offset on only or over partition returning
    rollup row select set sets similar some then to union using values when where within bit bpchar char
    character dec decimal float interval numeric time timestamp timestamptz timetz varbit varchar varying";
/// Functions that change nothing but what they give. `nextval` changes a sequence, as each `INSERT` may; what it leaves on
/// the connection is in `lastval` alone.
const FUNCTIONS: &str = "
    abs age array_agg array_append array_cat array_length array_position array_remove array_to_string ascii
    avg bit_and bit_or bool_and bool_or btrim cardinality cast ceil ceiling char_length character_length chr
    clock_timestamp coalesce concat concat_ws convert_from convert_to count cume_dist current_schema date
    date_bin date_part date_trunc decode dense_rank div encode every exp extract first_value floor format
    format_type gen_random_uuid generate_series greatest grouping initcap json_agg json_array_elements
    json_array_elements_text json_array_length json_build_array json_build_object json_each json_each_text
    json_extract_path json_extract_path_text json_object_agg json_object_keys json_typeof jsonb_agg
    jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object
    jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object_agg
    jsonb_object_keys jsonb_set jsonb_strip_nulls jsonb_typeof justify_days justify_hours justify_interval lag
    last_value lead least left length ln localtime localtimestamp log lower lpad ltrim make_date make_interval
    make_time make_timestamp make_timestamptz max md5 min mod mode nextval now nth_value ntile nullif
    octet_length overlay percent_rank percentile_cont percentile_disc pg_backend_pid pg_get_constraintdef
    pg_get_expr pg_sleep pg_typeof plainto_tsquery position power random rank regexp_match regexp_matches
    regexp_replace regexp_split_to_array regexp_split_to_table repeat replace reverse right round row_number
    row_to_json rpad rtrim sha224 sha256 sha384 sha512 sign split_part sqrt starts_with statement_timestamp
    stddev stddev_pop stddev_samp string_agg string_to_array strpos substr substring sum to_char to_date
    to_json to_jsonb to_number to_timestamp to_tsquery to_tsvector transaction_timestamp translate trim trunc
    ts_rank ts_rank_cd unnest upper var_pop var_samp variance websearch_to_tsquery";
/// Functions that are called without a parenthesis.
const CALLED: &str = "
    current_catalog current_date current_role current_schema current_time current_timestamp current_user localtime
    localtimestamp session_user system_user user";
/// Words that a table follows.
const BEFORE_TABLE: &str = "from join lateral using";
/// What of the server's own names may be named; others begin with `pg_` too, such as `pg_settings`, which can be written to,
/// and `pg_temp`.
const OF_SERVER: &str = "
    pg_am pg_attrdef pg_attribute pg_backend_pid pg_catalog pg_class pg_constraint pg_get_constraintdef pg_get_expr
    pg_index pg_indexes pg_namespace pg_sleep pg_stat_activity pg_stat_ssl pg_tables pg_trigger pg_type pg_typeof
    pg_views";

/// Whether nothing of the statement stays on its connection.
pub(crate) fn is_plain(statement: &str) -> bool {
    let mut before = Before::default();
    let mut is_first = true;
    for token in Tokens(statement.as_bytes()) {
        let Some(token) = token else { return false };
        let is_known_start = match token {
            Token::Word(word) => is_one_of(word, COMMANDS),
            Token::Sign(sign) => sign == b'(',
            _ => false,
        };
        if (is_first && !is_known_start) || !before.take(token) {
            return false;
        }
        is_first = false;
    }
    !is_first
}

fn is_one_of(word: &[u8], known: &str) -> bool {
    let mut known = known.split_ascii_whitespace();
    known.any(|known| known.as_bytes().eq_ignore_ascii_case(word))
}

fn is_servers(name: &[u8]) -> bool {
    let begin = name.get(..3).unwrap_or_default();
    begin.eq_ignore_ascii_case(b"pg_") && !is_one_of(name, OF_SERVER)
}

/// What came before the next token, as far as it matters.
#[derive(Default)]
struct Before<'a> {
    last: Option<Token<'a>>,
    before_last: Option<Token<'a>>,
    /// The next one, or the last one, is what columns may be listed of.
    names: Names,
    /// A comma or a parenthesis may be before a table.
    has_tables: bool,
    /// A function stands for a table. What looks like a column of that (`x.f`) may be one more function, called with its value.
    has_function_as_table: bool,
    has_columns_of: bool,
}

/// What comes after `INTO` and `AS`: a name, and perhaps columns in parentheses, which looks like a call.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Names {
    #[default]
    Nothing,
    Next,
    Last,
}

impl<'a> Before<'a> {
    /// Whether the statement may go on like this.
    fn take(&mut self, token: Token<'a>) -> bool {
        let is_fine = match token {
            // `SELECT ... INTO` makes a table.
            Token::Word(word) if is_one_of(word, "into") => is_word_of(self.last, "insert merge"),
            Token::Word(word) => {
                self.has_function_as_table |= is_one_of(word, CALLED) && self.is_before_table(self.last);
                self.has_tables |= is_one_of(word, BEFORE_TABLE);
                !is_servers(word)
            }
            Token::Quoted(name) => !is_servers(name),
            Token::Sign(b'(') => self.may_open(),
            // A function of one parameter may be written as if it were a part of a value: `(x).f`.
            Token::Sign(b'.') => self.last.is_some_and(Token::is_name),
            Token::Sign(_) | Token::Literal => true,
        };
        let is_after_dot = self.last == Some(Token::Sign(b'.'));
        self.has_columns_of |= token.is_name() && is_after_dot && self.names != Names::Next;
        self.names = match (self.names, token) {
            (Names::Next, name) if name.is_name() => Names::Last,
            // A schema, and then the name.
            (Names::Last, Token::Sign(b'.')) => Names::Next,
            (_, word) if is_word_of(Some(word), "into as") => Names::Next,
            _ => Names::Nothing,
        };
        self.before_last = self.last.replace(token);
        is_fine && !(self.has_function_as_table && self.has_columns_of)
    }

    /// Whether a parenthesis may stand here.
    fn may_open(&mut self) -> bool {
        match self.last {
            Some(name) if name.is_name() && self.names == Names::Last => true,
            Some(Token::Word(_)) if self.before_last == Some(Token::Sign(b'.')) => false,
            Some(Token::Word(word)) if is_one_of(word, GRAMMAR) => true,
            Some(Token::Word(word)) => {
                self.has_function_as_table |= self.is_before_table(self.before_last);
                is_one_of(word, FUNCTIONS)
            }
            Some(Token::Quoted(_)) => false,
            _ => true,
        }
    }

    /// Whether a table may follow `token`.
    fn is_before_table(&self, token: Option<Token<'_>>) -> bool {
        match token {
            Some(Token::Sign(b',' | b'(')) => self.has_tables,
            token => is_word_of(token, BEFORE_TABLE),
        }
    }
}

fn is_word_of(token: Option<Token<'_>>, known: &str) -> bool {
    matches!(token, Some(Token::Word(word)) if is_one_of(word, known))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    /// A keyword, or a name without quotes.
    Word(&'a [u8]),
    /// A name in quotes; without them.
    Quoted(&'a [u8]),
    /// A text, a number or the place of a parameter.
    Literal,
    Sign(u8),
}

impl Token<'_> {
    fn is_name(self) -> bool {
        matches!(self, Self::Word(_) | Self::Quoted(_))
    }
}

/// Takes a statement apart as the server does. An item is `None` where that depends on settings, or is rarely written.
struct Tokens<'a>(&'a [u8]);

impl<'a> Tokens<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// What is before the closing quote, which may stand doubled within.
    fn quoted(&mut self, quote: u8) -> Option<&'a [u8]> {
        self.take(1);
        let mut len = 0;
        loop {
            match self.0.get(len) {
                None => return None,
                Some(&b) if b != quote => len += 1,
                Some(_) if self.0.get(len + 1) == Some(&quote) => len += 2,
                Some(_) => break,
            }
        }
        let inner = self.take(len);
        self.take(1);
        Some(inner)
    }

    fn taken_while(&mut self, is: impl Fn(u8) -> bool) -> &'a [u8] {
        let len = self.0.iter().position(|b| !is(*b)).unwrap_or(self.0.len());
        self.take(len)
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Option<Token<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.taken_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c));
            match self.0 {
                [b'-', b'-', ..] => drop(self.taken_while(|b| b != b'\n' && b != b'\r')),
                [b'/', b'*', ..] => self.0 = after_comment(self.0),
                _ => break,
            }
        }
        let first = *self.0.first()?;
        Some(match first {
            // Whether a backslash escapes is a setting.
            b'\'' => self
                .quoted(b'\'')
                .filter(|text| !text.contains(&b'\\'))
                .map(|_| Token::Literal),
            b'"' => self.quoted(b'"').map(Token::Quoted),
            b'$' => {
                self.take(1);
                let digits = self.taken_while(|b| b.is_ascii_digit());
                // Else it is a text between dollars.
                (!digits.is_empty()).then_some(Token::Literal)
            }
            b'0'..=b'9' => {
                self.taken_while(|b| b.is_ascii_digit());
                // A fraction, and no part of a row.
                if let [b'.', b'0'..=b'9', ..] = self.0 {
                    self.take(1);
                    self.taken_while(|b| b.is_ascii_digit());
                }
                Some(Token::Literal)
            }
            b if is_of_word(b) => {
                let word = self.taken_while(|b| is_of_word(b) || b.is_ascii_digit() || b == b'$');
                // `E'...'`, `U&"..."` and their like have escapes.
                match self.0 {
                    [b'\'', ..] | [b'&', b'\'' | b'"', ..] => None,
                    _ => Some(Token::Word(word)),
                }
            }
            sign => {
                self.take(1);
                Some(Token::Sign(sign))
            }
        })
    }
}

fn is_of_word(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_' || !b.is_ascii()
}

/// What follows the comment that the text begins with. (Comments nest.)
pub(crate) fn after_comment(text: &[u8]) -> &[u8] {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(two) = text.get(at..at + 2) {
        match two {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return &text[at..];
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_actors_run_most_is_plain() {
        for statement in [
            "SELECT 1",
            "select 1;",
            "-- who\nSELECT count(*), max(price) FROM items WHERE name = $1 AND id IN ($2, $3)",
            "INSERT INTO orders (id, item) VALUES ($1, 'it''s (one)')",
            "insert into shop.\"Orders\"(id) values (1) on conflict (id) do update set (n) = (excluded.n) returning (id)",
            "UPDATE orders SET paid = now(), total = round(total * 1.5, 2) WHERE id = $1::bigint",
            "DELETE FROM orders AS o USING items i WHERE o.item = i.id",
            "WITH late AS (SELECT id FROM orders) SELECT * FROM late ORDER BY id LIMIT 10 OFFSET (1 + 1)",
            "SELECT v.a FROM (VALUES (1, 2)) AS v (a, b) /* a /* nested */ comment */",
            "SELECT sum(x) FILTER (WHERE x > 0) OVER (PARTITION BY y) FROM t",
            "SELECT CAST(x AS numeric(10, 2)), x::varchar(3) FROM t",
            "INSERT INTO orders (id) SELECT * FROM unnest($1::bigint[])",
            "SELECT o.id, lower(o.name) FROM orders o JOIN items AS i ON i.id = o.item WHERE o.name = lower($1)",
            "INSERT INTO shop.orders VALUES (current_timestamp, 1)",
            "VALUES (1)",
            "(SELECT 1) UNION ALL (SELECT 2)",
        ] {
            assert!(is_plain(statement), "{statement}");
        }
    }

    #[test]
    fn whatever_may_stay_on_a_connection_is_not_plain() {
        for statement in [
            "",
            "CREATE TEMP TABLE orders (id INTEGER)",
            "CREATE TABLE pg_temp.orders (id INTEGER)",
            "SELECT 1 AS id INTO TEMP orders",
            "SELECT 1 INTO orders",
            "WITH x AS (SELECT 1) SELECT * INTO TEMP y FROM x",
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_catalog . pg_advisory_lock (1)",
            "SELECT (1).pg_advisory_lock",
            "SELECT (a.b).pg_advisory_lock FROM a",
            "SELECT ('SELECT 1'::text).ts_stat",
            "SELECT f.ts_stat FROM concat('SELECT ', $1) AS f",
            "SELECT f.mine FROM orders, LATERAL lower(name) f",
            "SELECT f.mine FROM orders, lower($1) f",
            "SELECT f.mine FROM (unnest(ARRAY[1]) f CROSS JOIN orders)",
            "SELECT f.mine FROM ROWS FROM (unnest(ARRAY[1])) f",
            "SELECT f.mine FROM current_user f",
            "DELETE FROM orders USING unnest(ARRAY[1]) f WHERE f.mine = 1",
            "SELECT shop.count(1)",
            "SELECT \"count\"(1)",
            "UPDATE pg_settings SET setting = '0' WHERE name = 'statement_timeout'",
            "UPDATE PG_Settings SET setting = '0'",
            "UPDATE \"pg_settings\" SET setting = '0'",
            "UPDATE pg_catalog.pg_settings SET setting = '0'",
            "SELECT set_config('a', 'b', false)",
            "SELECT set_config/**/--\n('a', 'b', false)",
            "SELECT --\r set_config('a', 'b', false)",
            "SELECT U&\"set\\005fconfig\"('a', 'b', false)",
            "UPDATE u&\"pg\\005fsettings\" SET setting = '0'",
            "SELECT '\\', mine(1), '",
            "SELECT E'\\'', mine(1)",
            "SELECT $$ x $$",
            "SELECT 'never ends",
            "SELECT mine()",
            "SELECT count(*) FROM mine($1)",
            "INSERT INTO t SELECT mine(1)",
            "EXPLAIN ANALYZE SELECT 1",
            "CALL mine()",
            "NOTIFY x",
        ] {
            assert!(!is_plain(statement), "{statement}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_and_a_call_that_is_not_known_never_passes(before in ".{0,40}", after in ".{0,40}") {
            is_plain(&before);
            // Whatever stands before it opens a text or a comment, or the call is seen.
            let open = |text: &str| ["'", "\"", "$", "--", "/*"].iter().any(|mark| text.contains(mark));
            if !open(&before) && !before.to_ascii_lowercase().contains("as") && !before.to_ascii_lowercase().contains("into") {
                let call = format!("SELECT {before} , mine (1) {after}");
                prop_assert!(!is_plain(&call));
            }
        }
    }
}
