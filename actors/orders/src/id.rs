//! Ids of orders: short enough to be read out on the telephone.

/// Crockford's: without I, L, O and U, which are taken for others.
const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// 60 bits: among a thousand million orders two are the same once in two or three shops, and the second is refused,
/// as ids are a primary key.
const LEN: usize = 12;
const GROUP_LEN: usize = 4;

/// Twelve letters in three groups, of the lower 60 bits of `random`.
pub(crate) fn of(random: u64) -> String {
    let mut id = String::with_capacity(LEN + LEN / GROUP_LEN);
    for place in 0..LEN {
        if place > 0 && place % GROUP_LEN == 0 {
            id.push('-');
        }
        let letter = (random >> (5 * place)) & 31;
        id.push(char::from(LETTERS[letter as usize]));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_three_groups_of_four() {
        assert_eq!(of(0), "0000-0000-0000");
        assert_eq!(of(u64::MAX), "ZZZZ-ZZZZ-ZZZZ");
    }

    #[test]
    fn each_bit_makes_another_id() {
        let ids: std::collections::BTreeSet<_> = (0..60).map(|bit| of(1 << bit)).collect();
        assert_eq!(ids.len(), 60);
    }
}
