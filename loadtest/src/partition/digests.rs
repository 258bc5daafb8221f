//! Whether instances that have applied the same entries hold the same tables.

use std::collections::BTreeMap;

use serde_json::Value;

use super::hosts::label;

/// What instances have shown: by group and applied index, who was first and with which tables.
#[derive(Debug, Default)]
pub struct Digests {
    seen: BTreeMap<(u64, u64), (u8, String)>,
    /// What differed at equal index; any of it is a verdict.
    pub differences: Vec<String>,
    /// How many comparisons there were.
    pub compared: u64,
}

impl Digests {
    /// Takes the `/status` of an instance, and gives the applied index of each of its groups.
    pub fn see(&mut self, instance: u8, status: &Value) -> BTreeMap<u64, u64> {
        let mut applied = BTreeMap::new();
        for group in status["groups"].as_array().into_iter().flatten() {
            let (Some(number), Some(index)) = (group["group"].as_u64(), group["applied_index"].as_u64()) else {
                continue;
            };
            applied.insert(number, index);
            self.compare(instance, (number, index), group["tables"].to_string());
        }
        applied
    }

    fn compare(&mut self, instance: u8, at: (u64, u64), tables: String) {
        if self.seen.len() >= SEEN_MAX {
            self.seen.pop_first();
        }
        let (first, known) = self.seen.entry(at).or_insert_with(|| (instance, tables.clone()));
        if *first == instance {
            return;
        }
        self.compared += 1;
        if *known != tables && self.differences.len() < DIFFERENCES_MAX {
            let ((group, index), first, other) = (at, label(*first), label(instance));
            self.differences.push(format!("group {group} at index {index}: {first} has {known}, {other} has {tables}"));
        }
    }
}

/// Places in logs that are remembered.
const SEEN_MAX: usize = 20_000;
const DIFFERENCES_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_compared_at_equal_index_only() {
        let status = |index: u64, digest: &str| {
            serde_json::json!({ "groups": [
                { "group": 0, "applied_index": index, "tables": [{ "name": "kv", "rows": 1, "digest": digest }] },
            ] })
        };
        let mut digests = Digests::default();
        assert_eq!(digests.see(0, &status(5, "x")), BTreeMap::from([(0, 5)]));
        digests.see(1, &status(6, "y"));
        digests.see(1, &status(5, "x"));
        assert!(digests.differences.is_empty() && digests.compared == 1);
        digests.see(2, &status(6, "x"));
        assert_eq!(digests.differences.len(), 1);
        assert!(digests.differences[0].starts_with("group 0 at index 6: b has"), "{:?}", digests.differences);
    }
}
