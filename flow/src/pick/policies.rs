//! The picks that depend on what came before: in turn by weight, and the fewest pins by weight.

use crate::ids::BackendId;

/// In turn by weight: nginx's smooth weighted round-robin, so a server of weight 5 beside two of weight 1 is picked
/// `a a b a c a a` and never five times in a row.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    turns: Vec<Turn>,
}

#[derive(Clone, Debug)]
struct Turn {
    id: BackendId,
    weight: i64,
    /// What the server is owed: it grows by the weight at each pick, and a pick pays all weights at once. Live members'
    /// sum is 0 after each pick while none comes or goes.
    credit: i64,
}

impl RoundRobin {
    /// Turns among `members`; their order does not matter, weight 0 takes none.
    #[must_use]
    pub fn new(members: &[(BackendId, u32)]) -> Self {
        let turns = ordered(members).into_iter();
        Self { turns: turns.map(|(id, weight)| Turn { id, weight: i64::from(weight), credit: 0 }).collect() }
    }

    /// The next one of those that are `live`; of equal credit the smaller id. `None` if no member is live.
    pub fn pick(&mut self, live: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let mut total = 0;
        let mut best: Option<&mut Turn> = None;
        for turn in self.turns.iter_mut().filter(|turn| live(turn.id)) {
            total += turn.weight;
            turn.credit += turn.weight;
            if best.as_ref().is_none_or(|best| turn.credit > best.credit) {
                best = Some(turn);
            }
        }
        let best = best?;
        best.credit -= total;
        Some(best.id)
    }
}

/// The one with the fewest pins per weight.
#[derive(Clone, Debug, Default)]
pub struct LeastConnections {
    members: Vec<(BackendId, u32)>,
}

impl LeastConnections {
    /// A choice among `members`; their order does not matter, weight 0 takes none.
    #[must_use]
    pub fn new(members: &[(BackendId, u32)]) -> Self {
        Self { members: ordered(members) }
    }

    /// The one of those that are `live` with the fewest `pins` per weight; of equal ones the heavier, then the smaller
    /// id. `None` if no member is live.
    pub fn pick(&self, live: impl Fn(BackendId) -> bool, pins: impl Fn(BackendId) -> u64) -> Option<BackendId> {
        let mut best: Option<(BackendId, u32, u64)> = None;
        for (id, weight) in self.members.iter().copied().filter(|(id, _)| live(*id)) {
            let count = pins(id);
            let wins = best.is_none_or(|(_, best_weight, best_count)| {
                let (ours, theirs) =
                    (u128::from(count) * u128::from(best_weight), u128::from(best_count) * u128::from(weight));
                ours < theirs || (ours == theirs && weight > best_weight)
            });
            if wins {
                best = Some((id, weight, count));
            }
        }
        best.map(|(id, ..)| id)
    }
}

/// By id, without those of weight 0; of an id given twice the greater weight.
fn ordered(members: &[(BackendId, u32)]) -> Vec<(BackendId, u32)> {
    let mut ordered: Vec<_> = members.iter().copied().filter(|(_, weight)| *weight > 0).collect();
    ordered.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    ordered.dedup_by_key(|(id, _)| *id);
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BackendId = BackendId(1);
    const B: BackendId = BackendId(2);
    const C: BackendId = BackendId(3);

    #[test]
    fn turns_are_smooth() {
        let mut turns = RoundRobin::new(&[(C, 1), (A, 5), (B, 1), (BackendId(4), 0)]);
        let order: Vec<_> = (0..14).map_while(|_| turns.pick(|_| true)).map(|id| id.0).collect();
        assert_eq!(order, [1, 1, 2, 1, 3, 1, 1, 1, 1, 2, 1, 3, 1, 1]);
    }

    #[test]
    fn turns_pass_over_the_dead_and_stay_fair_after() {
        let mut turns = RoundRobin::new(&[(A, 1), (B, 1), (C, 1)]);
        let without_b: Vec<_> = (0..4).map_while(|_| turns.pick(|id| id != B)).map(|id| id.0).collect();
        assert_eq!(without_b, [1, 3, 1, 3]);
        let mut counts = [0; 4];
        for _ in 0..300 {
            counts[turns.pick(|_| true).unwrap().0 as usize] += 1;
        }
        assert_eq!(counts[1..], [100, 100, 100]);
        assert_eq!(turns.pick(|_| false), None);
        assert_eq!(RoundRobin::new(&[]).pick(|_| true), None);
    }

    #[test]
    fn fewest_pins_by_weight() {
        let least = LeastConnections::new(&[(C, 100), (A, 100), (B, 300), (BackendId(4), 0)]);
        let pick = |pins: [u64; 3]| least.pick(|_| true, |id| pins[id.0 as usize - 1]).unwrap();
        assert_eq!(pick([0, 0, 0]), B, "the heavier of equals");
        assert_eq!(pick([1, 3, 0]), C);
        assert_eq!(pick([1, 3, 1]), B, "1/100 = 3/300");
        assert_eq!(pick([1, 4, 1]), A, "the smaller id of equals");
        assert_eq!(pick([u64::MAX, u64::MAX, u64::MAX]), B);
        assert_eq!(least.pick(|id| id == C, |_| 9), Some(C));
        assert_eq!(least.pick(|_| false, |_| 0), None);
    }
}
