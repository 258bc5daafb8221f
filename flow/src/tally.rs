//! The tally: what the votes of those who may vote say of a backend.

use crate::{
    health::View,
    plant::{self, Plant},
};

/// The verdict that follows from `votes`, or none if the old one stays.
///
/// `votes` are those of voting members that hold a lease, in their present life. A change needs a majority of all
/// `voters`, or of the `lease_holders` when these are themselves a quorum; a tie keeps the old verdict.
#[must_use]
pub fn tally(old: View, votes: impl Iterator<Item = View>, voters: usize, lease_holders: usize) -> Option<View> {
    let (mut up, mut down) = (0, 0);
    for vote in votes {
        match vote {
            View::Up => up += 1,
            View::Down => down += 1,
            View::Unknown => {}
        }
    }
    if plant::on(Plant::OneVote) {
        return [(down, View::Down), (up, View::Up)].into_iter().find(|(n, view)| *n > 0 && *view != old).map(|x| x.1);
    }
    let quorum_holds = lease_holders * 2 > voters;
    let wins = |count: usize| count * 2 > voters || (quorum_holds && count * 2 > lease_holders);
    let verdict = match (wins(up), wins(down)) {
        (true, false) => View::Up,
        (false, true) => View::Down,
        _ => return None,
    };
    (verdict != old).then_some(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `votes` as letters (u, d, -) of the lease-holders among `voters`.
    fn check(old: View, votes: &str, voters: usize, expected: Option<View>) {
        let views = votes.chars().map(|letter| match letter {
            'u' => View::Up,
            'd' => View::Down,
            _ => View::Unknown,
        });
        assert_eq!(tally(old, views, voters, votes.len()), expected, "{old:?} {votes} of {voters}");
    }

    #[test]
    fn a_change_needs_a_majority() {
        check(View::Up, "duu", 3, None);
        check(View::Up, "ddu", 3, Some(View::Down));
        check(View::Up, "dd-", 3, Some(View::Down));
        check(View::Unknown, "u--", 3, None);
        check(View::Unknown, "uu-", 3, Some(View::Up));
        check(View::Unknown, "u", 1, Some(View::Up));
    }

    #[test]
    fn lease_holders_decide_when_they_are_a_quorum() {
        check(View::Up, "ddu", 5, Some(View::Down));
        check(View::Up, "dd", 5, None);
        check(View::Up, "d", 3, None);
    }

    #[test]
    fn a_tie_keeps_the_old_verdict() {
        check(View::Up, "du", 2, None);
        check(View::Down, "dduu", 4, None);
        check(View::Up, "uuu", 3, None);
    }
}
