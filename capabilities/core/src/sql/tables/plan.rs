//! What of a schema is copied, and how: pure.

use std::collections::BTreeSet;

use super::{Column, Dialect, Kind, Schema, Table, expression};

/// A table that is copied, with the names and kinds that both databases agree on, and only the columns that have data of
/// their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The table.
    pub table: Table,
    /// Which dialect its texts are of, where the new database speaks the same.
    pub from: Dialect,
    /// Whether the new database lacks it.
    pub create: bool,
}

/// What to do about a schema that can't be made by itself.
const BY_HAND: &str = "make the table in the new database yourself, empty and as its users need it";

/// The tables of `from` as they are copied to `to`; those that others refer to come first. What `to` has already is filled,
/// the rest is made.
///
/// # Errors
/// What can't be made there, with its name and what to do.
pub fn plan(from: &Schema, to: &Schema) -> Result<Vec<Planned>, String> {
    for view in &from.views {
        if !to.views.iter().any(|there| there.eq_ignore_ascii_case(view)) {
            return Err(format!(
                "the view {view} can't be made in {} by itself: make it there yourself, or drop it",
                to.dialect.name()
            ));
        }
    }
    let mut planned = Vec::new();
    for table in &from.tables {
        let table = match (from.dialect, to.dialect) {
            // Names without quotes are the same whatever their case, and Postgres writes them so.
            (Dialect::Sqlite, Dialect::Postgres) => in_lower_case(table.clone()),
            _ => table.clone(),
        };
        let there = to.tables.iter().find(|there| match to.dialect {
            Dialect::Sqlite => there.name.eq_ignore_ascii_case(&table.name),
            Dialect::Postgres => there.name == table.name,
        });
        planned.push(Planned {
            create: there.is_none(),
            from: from.dialect,
            table: match there {
                Some(there) => filled(table, there, from.dialect, to.dialect)?,
                None => made(table, from.dialect, to.dialect)?,
            },
        });
    }
    in_order(planned)
}

/// A table that is there already.
fn filled(mut table: Table, there: &Table, from: Dialect, to: Dialect) -> Result<Table, String> {
    let name = table.name.clone();
    table.columns.retain(|column| !column.computed);
    for column in &mut table.columns {
        let same = |other: &&Column| match to {
            Dialect::Sqlite => other.name.eq_ignore_ascii_case(&column.name),
            Dialect::Postgres => other.name == column.name,
        };
        let Some(other) = there.columns.iter().find(same).filter(|other| !other.computed) else {
            return Err(format!(
                "the table {name} of the new database lacks the column {}: add it there, or drop the table",
                column.name
            ));
        };
        let agreed = agreed(column.kind, other.kind, from, to);
        column.kind = agreed.ok_or_else(|| {
            format!(
                "the column {} of the table {name} is {} here and {} in the new database: change one of them",
                column.name, column.declared, other.declared
            )
        })?;
        // Where the new database numbers, and the old one did too, it goes on.
        column.numbered &= other.numbered;
    }
    let key = |table: &Table| -> BTreeSet<String> {
        let names = table.key.iter();
        names.map(|name| name.to_ascii_lowercase()).collect()
    };
    if key(&table) != key(there) {
        return Err(format!(
            "the table {name} has another primary key in the new database: make it the same there"
        ));
    }
    // Only these are of interest from here on.
    table.references.clone_from(&there.references);
    (table.uniques, table.indexes, table.checks) = (Vec::new(), Vec::new(), Vec::new());
    Ok(table)
}

/// A table that is to be made.
fn made(mut table: Table, from: Dialect, to: Dialect) -> Result<Table, String> {
    let refused = |what: String| format!("{what} can't be made in {} by itself: {BY_HAND}", to.name());
    let name = table.name.clone();
    if let Some(other) = table.others.first() {
        return Err(refused(format!("{other} of the table {name}")));
    }
    let names: Vec<_> = table.columns.iter().map(|column| column.name.clone()).collect();
    for column in &mut table.columns {
        let of = |what: &str| {
            refused(format!(
                "{what} of the column {} of the table {name}",
                column.name
            ))
        };
        if column.computed {
            return Err(of("the expression"));
        }
        let is_written = from == to || column.kind != Kind::Text || !column.declared.contains('(');
        match agreed(column.kind, column.kind, from, to).filter(|_| is_written) {
            Some(kind) => column.kind = kind,
            None if column.declared.is_empty() => return Err(of("the missing type")),
            None => return Err(of(&format!("the type {}", column.declared))),
        }
        if from != to
            && let Some(found) = &column.default
        {
            let default = expression::default(found);
            column.default = Some(default.ok_or_else(|| of(&format!("the default {found}")))?);
        }
    }
    if from != to {
        for check in &mut table.checks {
            let found = expression::check(check, &names);
            *check = found.ok_or_else(|| refused(format!("the check ({check}) of the table {name}")))?;
        }
    }
    Ok(table)
}

/// The kind that two columns can be compared by, if values of one survive in the other.
fn agreed(here: Kind, there: Kind, from: Dialect, to: Dialect) -> Option<Kind> {
    use Kind as K;
    if from == to {
        // The database reads what it writes. A number of Postgres's has as many digits as were written.
        let has_own = here == K::Other || here == K::Numeric && to == Dialect::Postgres;
        return Some(if here == there && !has_own { here } else { K::Text });
    }
    match (here, there) {
        (K::Other, K::Text) => Some(K::Text),
        (K::Text, K::Other) | (K::Numeric, K::Text) => Some(K::Text),
        // SQLite has fewer digits.
        (K::Numeric, K::Numeric) => (to == Dialect::Postgres).then_some(K::Numeric),
        (here, there) => (here == there && here != K::Other).then_some(here),
    }
}

fn in_lower_case(mut table: Table) -> Table {
    let all = |names: &mut Vec<String>| names.iter_mut().for_each(|name| *name = name.to_lowercase());
    table.name = table.name.to_lowercase();
    for column in &mut table.columns {
        column.name = column.name.to_lowercase();
    }
    all(&mut table.key);
    table.uniques.iter_mut().for_each(all);
    for index in &mut table.indexes {
        index.name = index.name.to_lowercase();
        all(&mut index.columns);
    }
    for reference in &mut table.references {
        reference.table = reference.table.to_lowercase();
        all(&mut reference.columns);
        all(&mut reference.to);
    }
    table
}

/// Tables after those that they refer to.
fn in_order(mut left: Vec<Planned>) -> Result<Vec<Planned>, String> {
    let mut ordered: Vec<Planned> = Vec::new();
    while !left.is_empty() {
        let is_ready = |planned: &Planned| {
            let mut references = planned.table.references.iter();
            references.all(|reference| {
                !left
                    .iter()
                    .any(|other| other.table.name.eq_ignore_ascii_case(&reference.table))
            })
        };
        let Some(at) = left.iter().position(is_ready) else {
            let names: Vec<_> = left.iter().map(|planned| planned.table.name.as_str()).collect();
            return Err(format!(
                "tables refer to each other or to themselves, so that none can be filled first ({}): make them in the new \
                 database yourself without those foreign keys, and add them when the data has moved",
                names.join(", ")
            ));
        };
        ordered.push(left.remove(at));
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use super::super::{Reference, statements};
    use super::*;

    fn column(name: &str, kind: Kind, declared: &str) -> Column {
        Column {
            name: name.to_owned(),
            declared: declared.to_owned(),
            kind,
            not_null: false,
            default: None,
            numbered: false,
            computed: false,
        }
    }

    fn table(name: &str) -> Table {
        Table {
            name: name.to_owned(),
            columns: vec![
                Column {
                    numbered: true,
                    ..column("Id", Kind::Integer, "INTEGER")
                },
                column("note", Kind::Text, "TEXT"),
            ],
            key: vec!["Id".to_owned()],
            ..Table::default()
        }
    }

    fn schema(dialect: Dialect, tables: Vec<Table>) -> Schema {
        Schema {
            dialect,
            tables,
            views: Vec::new(),
        }
    }

    fn to_postgres(table: Table) -> Result<Vec<Planned>, String> {
        let there = schema(Dialect::Postgres, Vec::new());
        plan(&schema(Dialect::Sqlite, vec![table]), &there)
    }

    #[test]
    fn a_table_is_made_in_the_other_dialect_and_one_that_is_referred_to_comes_first() {
        let mut lines = table("Lines");
        lines.references.push(Reference {
            columns: vec!["note".to_owned()],
            table: "Orders".to_owned(),
            to: Vec::new(),
            on_delete: "CASCADE".to_owned(),
            on_update: "NO ACTION".to_owned(),
        });
        lines.checks.push("NOTE <> ''".to_owned());
        lines.columns[1].default = Some("('-')".to_owned());
        lines.columns[1].not_null = true;
        let from = schema(Dialect::Sqlite, vec![lines, table("Orders")]);
        let planned = plan(&from, &schema(Dialect::Postgres, Vec::new())).unwrap();
        let names: Vec<_> = planned
            .iter()
            .map(|planned| planned.table.name.as_str())
            .collect();
        assert_eq!(names, ["orders", "lines"]);
        assert!(planned.iter().all(|planned| planned.create));
        assert_eq!(
            statements(&planned[1].table, Dialect::Sqlite, Dialect::Postgres),
            [
                "CREATE TABLE \"lines\" (\"id\" BIGINT GENERATED BY DEFAULT AS IDENTITY, \"note\" TEXT DEFAULT '-' NOT \
                 NULL, PRIMARY KEY (\"id\"), CHECK (\"note\" <> ''), FOREIGN KEY (\"note\") REFERENCES \"orders\" ON \
                 DELETE CASCADE ON UPDATE NO ACTION)"
            ]
        );
        assert_eq!(
            statements(&table("t"), Dialect::Postgres, Dialect::Sqlite),
            ["CREATE TABLE \"t\" (\"Id\" INTEGER PRIMARY KEY AUTOINCREMENT, \"note\" TEXT)"]
        );
    }

    #[test]
    fn what_can_not_be_made_is_named_with_what_to_do() {
        let with = |change: fn(&mut Table)| {
            let mut table = table("t");
            change(&mut table);
            to_postgres(table).unwrap_err()
        };
        for (refusal, named) in [
            (
                with(|t| t.others.push("the trigger log".to_owned())),
                "the trigger log of the table t",
            ),
            (
                with(|t| t.columns[1].computed = true),
                "the expression of the column note",
            ),
            (
                with(|t| t.columns[1] = column("at", Kind::Other, "DATETIME")),
                "the type DATETIME of the column at",
            ),
            (
                with(|t| t.columns[1].default = Some("CURRENT_TIMESTAMP".to_owned())),
                "the default CURRENT_TIMESTAMP of the column note",
            ),
            (
                with(|t| t.checks.push("note GLOB 'a*'".to_owned())),
                "the check (note GLOB 'a*') of the table t",
            ),
        ] {
            assert!(
                refusal.contains(named) && refusal.contains("yourself"),
                "{refusal}"
            );
        }
        let mut from = schema(Dialect::Sqlite, Vec::new());
        from.views.push("recent".to_owned());
        let refusal = plan(&from, &schema(Dialect::Postgres, Vec::new())).unwrap_err();
        assert!(refusal.contains("the view recent"), "{refusal}");
    }

    #[test]
    fn a_table_that_is_there_is_filled_if_its_columns_take_the_values() {
        let from = schema(Dialect::Sqlite, vec![table("t")]);
        let there = |change: fn(&mut Table)| {
            let mut table = in_lower_case(table("t"));
            change(&mut table);
            plan(&from, &schema(Dialect::Postgres, vec![table]))
        };
        let planned = there(|t| t.columns[1].kind = Kind::Other).unwrap();
        assert!(!planned[0].create && planned[0].table.columns[1].kind == Kind::Text);
        let refusal = there(|t| drop(t.columns.pop())).unwrap_err();
        assert!(refusal.contains("lacks the column note"), "{refusal}");
        let refusal = there(|t| t.columns[1] = column("note", Kind::Blob, "bytea")).unwrap_err();
        assert!(refusal.contains("is TEXT here and bytea"), "{refusal}");
        let refusal = there(|t| t.key.clear()).unwrap_err();
        assert!(refusal.contains("another primary key"), "{refusal}");
    }

    #[test]
    fn tables_that_refer_in_a_circle_are_refused() {
        let mut own = table("own");
        own.references.push(Reference {
            columns: vec!["note".to_owned()],
            table: "own".to_owned(),
            to: Vec::new(),
            on_delete: "NO ACTION".to_owned(),
            on_update: "NO ACTION".to_owned(),
        });
        let refusal = to_postgres(own).unwrap_err();
        assert!(refusal.contains("(own)"), "{refusal}");
    }
}
