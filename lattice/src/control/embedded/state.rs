//! What the file of a control store holds, and the state machine over it.
//!
//! Owns the tables and how a transaction changes them. Must not know threads or queues: it is called with a redb
//! transaction, by the writer of a single voter now, by a replica's log later.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, Table,
    TableDefinition, TableError, WriteTransaction,
};

use super::super::{Change, CommitError, Entry, Event, Expected, Index, Op, RANGE_LEN_MAX, Transaction};

/// The format that this version writes, and the newest that it reads.
pub(super) const FORMAT: u64 = 1;

/// Answers that are kept for repeats. A sender gives up long before as many others have been answered.
pub(super) const ANSWERS_MAX: u64 = 10_000;

/// Numbers by name: those below.
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("weft-control");
const FORMAT_NUMBER: &str = "format";
/// The index after the last commit.
const INDEX: &str = "index";
/// Transactions that were answered, ever.
const ANSWERED: &str = "answered";

/// Key to the commit that put it, and its bytes.
const ENTRIES: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("entries");

/// A conflict: the key, the commit that was expected, the commit that was found; `None` is absent.
type ConflictRow<'a> = (&'a str, Option<u64>, Option<u64>);

/// Command to the index after it, or the conflict that it met.
type AnswerRow<'a> = (u64, Option<ConflictRow<'a>>);

/// The last answers by command.
const ANSWERS: TableDefinition<u128, AnswerRow<'static>> = TableDefinition::new("answers");

/// The commands in the order in which they were answered, to know which answer is the oldest.
const ANSWER_ORDER: TableDefinition<u64, u128> = TableDefinition::new("answer-order");

type Result<T, E = redb::Error> = std::result::Result<T, E>;

/// What a transaction is answered.
pub(super) type Answer = Result<Index, CommitError>;

/// Why a database is no store of ours.
pub(super) enum Unusable {
    Foreign,
    Newer(u64),
    Storage(redb::Error),
}

/// Makes the tables of an empty store, unless there are some.
pub(super) fn initialize(db: &Database) -> Result<()> {
    let txn = begin(db)?;
    if txn.list_tables()?.next().is_some() {
        return Ok(txn.abort()?);
    }
    let tables = Tables::open(&txn)?;
    tables.close()?;
    txn.open_table(NUMBERS)?.insert(FORMAT_NUMBER, FORMAT)?;
    Ok(txn.commit()?)
}

/// The index that the store is at, if it is one of a known format.
pub(super) fn check(db: &Database) -> Result<Index, Unusable> {
    let storage = |error: redb::Error| Unusable::Storage(error);
    let txn = db.begin_read().map_err(|error| storage(error.into()))?;
    let numbers = match txn.open_table(NUMBERS) {
        Ok(numbers) => numbers,
        Err(TableError::Storage(error)) => return Err(storage(error.into())),
        Err(_) => return Err(Unusable::Foreign),
    };
    match number(&numbers, FORMAT_NUMBER).map_err(storage)? {
        0 => Err(Unusable::Foreign),
        format if format > FORMAT => Err(Unusable::Newer(format)),
        _ => number(&numbers, INDEX).map(Index).map_err(storage),
    }
}

/// Begins a transaction that is safe when its commit returns, and that makes opening after a crash fast.
pub(super) fn begin(db: &Database) -> Result<WriteTransaction> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(true);
    Ok(txn)
}

pub(super) fn get(db: &Database, key: &str) -> Result<Option<Entry>> {
    let entries = db.begin_read()?.open_table(ENTRIES)?;
    Ok(entries.get(key)?.map(|row| entry(key, row.value())))
}

pub(super) fn range(
    db: &Database,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<(Vec<Entry>, Index)> {
    let txn: ReadTransaction = db.begin_read()?;
    let index = Index(number(&txn.open_table(NUMBERS)?, INDEX)?);
    let start = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let entries: ReadOnlyTable<&str, (u64, &[u8])> = txn.open_table(ENTRIES)?;
    let mut found = Vec::new();
    for row in entries
        .range::<&str>((start, Bound::Unbounded))?
        .take(limit.min(RANGE_LEN_MAX))
    {
        let (key, value) = row?;
        if !key.value().starts_with(prefix) {
            break;
        }
        found.push(entry(key.value(), value.value()));
    }
    Ok((found, index))
}

fn entry(key: &str, (modified, value): (u64, &[u8])) -> Entry {
    Entry {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value),
        modified: Index(modified),
    }
}

fn number(numbers: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64> {
    Ok(numbers.get(name)?.map_or(0, |row| row.value()))
}

/// The tables while a group of transactions is written.
pub(super) struct Tables<'t> {
    numbers: Table<'t, &'static str, u64>,
    entries: Table<'t, &'static str, (u64, &'static [u8])>,
    answers: Table<'t, u128, AnswerRow<'static>>,
    answer_order: Table<'t, u64, u128>,
    index: u64,
    answered: u64,
}

impl<'t> Tables<'t> {
    pub(super) fn open(txn: &'t WriteTransaction) -> Result<Self> {
        let numbers = txn.open_table(NUMBERS)?;
        Ok(Self {
            entries: txn.open_table(ENTRIES)?,
            answers: txn.open_table(ANSWERS)?,
            answer_order: txn.open_table(ANSWER_ORDER)?,
            index: number(&numbers, INDEX)?,
            answered: number(&numbers, ANSWERED)?,
            numbers,
        })
    }

    /// Writes the numbers that moved. To be called before the redb transaction commits.
    pub(super) fn close(mut self) -> Result<()> {
        self.numbers.insert(INDEX, self.index)?;
        self.numbers.insert(ANSWERED, self.answered)?;
        Ok(())
    }

    /// Applies one transaction: its answer, and its event if it changed something. A repeat gets the first answer.
    pub(super) fn apply(&mut self, transaction: &Transaction) -> Result<(Answer, Option<Event>)> {
        if let Some(answer) = self.first_answer(transaction)? {
            return Ok((answer, None));
        }
        let (answer, event) = match self.conflict(transaction)? {
            Some(conflict) => (Err(conflict), None),
            None => {
                let event = self.change(transaction)?;
                (Ok(Index(self.index)), event)
            }
        };
        self.keep_answer(transaction, &answer)?;
        Ok((answer, event))
    }

    fn first_answer(&self, transaction: &Transaction) -> Result<Option<Answer>> {
        Ok(self.answers.get(transaction.id.0)?.map(|row| match row.value() {
            (index, None) => Ok(Index(index)),
            (_, Some((key, expected, found))) => Err(CommitError::Conflict {
                key: key.to_owned(),
                expected: expected.map_or(Expected::Absent, |index| Expected::Modified(Index(index))),
                found: found.map(Index),
            }),
        }))
    }

    fn conflict(&self, transaction: &Transaction) -> Result<Option<CommitError>> {
        for compare in &transaction.compare {
            let found = self
                .entries
                .get(compare.key.as_str())?
                .map(|row| Index(row.value().0));
            let holds = match compare.expected {
                Expected::Absent => found.is_none(),
                Expected::Modified(index) => found == Some(index),
            };
            if !holds {
                return Ok(Some(CommitError::Conflict {
                    key: compare.key.clone(),
                    expected: compare.expected,
                    found,
                }));
            }
        }
        Ok(None)
    }

    fn change(&mut self, transaction: &Transaction) -> Result<Option<Event>> {
        let index = self.index + 1;
        let mut changes = BTreeMap::new();
        for op in &transaction.ops {
            let changed = match op {
                Op::Put { key, value } => {
                    self.entries.insert(key.as_str(), (index, value.as_ref()))?;
                    true
                }
                Op::Delete { key } => self.entries.remove(key.as_str())?.is_some(),
            };
            if changed {
                changes.insert(op.key(), op.value().cloned());
            }
        }
        if changes.is_empty() {
            return Ok(None);
        }
        self.index = index;
        let change = |(key, value): (&str, Option<Bytes>)| Change {
            key: key.to_owned(),
            value,
        };
        Ok(Some(Event {
            index: Index(index),
            by: transaction.by.clone(),
            changes: changes.into_iter().map(change).collect(),
        }))
    }

    fn keep_answer(&mut self, transaction: &Transaction, answer: &Answer) -> Result<()> {
        let conflict = match answer {
            Err(CommitError::Conflict { key, expected, found }) => {
                let expected = match expected {
                    Expected::Absent => None,
                    Expected::Modified(index) => Some(index.0),
                };
                Some((key.as_str(), expected, found.map(|index| index.0)))
            }
            _ => None,
        };
        self.answers.insert(transaction.id.0, (self.index, conflict))?;
        self.answer_order.insert(self.answered, transaction.id.0)?;
        let oldest = match self.answered.checked_sub(ANSWERS_MAX) {
            Some(oldest) => self.answer_order.remove(oldest)?.map(|row| row.value()),
            None => None,
        };
        if let Some(oldest) = oldest {
            self.answers.remove(oldest)?;
        }
        self.answered += 1;
        Ok(())
    }
}
