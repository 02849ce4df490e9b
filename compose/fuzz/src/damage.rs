//! Inputs that are right, damaged at random: what proptest brings in place of a fuzzer.
//!
//! Random bytes end at the first check. An input that is right but for a few places reaches the code behind it.

use proptest::prelude::*;
use proptest::sample::Index;

/// Copies of a piece that one damage makes.
const COPIES_MAX: usize = 64;

/// One change of an input.
#[derive(Debug, Clone)]
pub(crate) enum Damage {
    Cut(Index),
    Remove(Index, Index),
    Replace(Index, u8),
    Word(Index, Index),
    Repeat(Index, Index, usize),
    Move(Index, Index, Index),
}

/// A few of them.
pub(crate) fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let at = any::<Index>;
    let one = prop_oneof![
        1 => at().prop_map(Damage::Cut),
        2 => (at(), at()).prop_map(|(at, len)| Damage::Remove(at, len)),
        3 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        6 => (at(), at()).prop_map(|(at, word)| Damage::Word(at, word)),
        2 => (at(), at(), 1..=COPIES_MAX).prop_map(|(at, len, copies)| Damage::Repeat(at, len, copies)),
        2 => (at(), at(), at()).prop_map(|(at, len, to)| Damage::Move(at, len, to)),
    ];
    proptest::collection::vec(one, 1..5)
}

/// The input after all of them. `words` are what is worth putting in.
pub(crate) fn damaged(input: &[u8], words: &[&[u8]], damages: &[Damage]) -> Vec<u8> {
    /// The longest piece that is moved or copied: about a line.
    const PIECE_MAX: usize = 80;
    let mut bytes = input.to_vec();
    let piece = |bytes: &[u8], at: &Index, len: &Index| {
        let start = at.index(bytes.len() + 1);
        start..bytes.len().min(start + len.index(PIECE_MAX))
    };
    for damage in damages {
        match damage {
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
            Damage::Remove(at, len) => drop(bytes.drain(piece(&bytes, at, len))),
            Damage::Replace(at, byte) => {
                let at = at.index(bytes.len() + 1);
                if let Some(place) = bytes.get_mut(at) {
                    *place = *byte;
                }
            }
            Damage::Word(at, word) => {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, words[word.index(words.len())].iter().copied());
            }
            Damage::Repeat(at, len, copies) => {
                let piece = piece(&bytes, at, len);
                let copies = bytes[piece.clone()].repeat(*copies);
                bytes.splice(piece.end..piece.end, copies);
            }
            Damage::Move(at, len, to) => {
                let moved: Vec<u8> = bytes.drain(piece(&bytes, at, len)).collect();
                let to = to.index(bytes.len() + 1);
                bytes.splice(to..to, moved);
            }
        }
    }
    bytes
}
