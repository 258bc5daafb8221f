//! Whether instances that have applied the same entries hold the same tables.

use std::collections::BTreeMap;

use serde_json::Value;

use super::hosts::label;

/// What instances have shown: by group and applied index, who was first and with which tables.
#[derive(Debug, Default)]
pub struct Digests {
    seen: BTreeMap<(u64, u64), (u8, String)>,
    /// What differed at equal index, or was not shown; any of it is a verdict.
    pub differences: Vec<String>,
    /// How often two instances were compared.
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
            let tables = &group["tables"];
            match tables.as_array().is_some_and(|tables| !tables.is_empty()) {
                true => self.compare(instance, (number, index), tables.to_string()),
                false => self.object(format!("{} shows no tables of group {number}: {group}", label(instance))),
            }
        }
        applied
    }

    fn compare(&mut self, instance: u8, at: (u64, u64), tables: String) {
        if self.seen.len() >= SEEN_MAX {
            self.seen.pop_first();
        }
        let (first, known) = self.seen.entry(at).or_insert_with(|| (instance, tables.clone()));
        // With itself as well, as it may have been started again since; but that is not counted.
        self.compared += u64::from(*first != instance);
        if *known != tables {
            let ((group, index), first, other) = (at, label(*first), label(instance));
            let text = format!("group {group} at index {index}: {first} had {known}, {other} has {tables}");
            self.object(text);
        }
    }

    fn object(&mut self, text: String) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(text);
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
        assert!(digests.differences[0].starts_with("group 0 at index 6: b had"), "{:?}", digests.differences);
    }

    #[test]
    fn an_instance_that_comes_back_with_other_tables_is_found() {
        let status = |digest: &str| {
            serde_json::json!({ "groups": [
                { "group": 0, "applied_index": 5, "tables": [{ "name": "kv", "rows": 1, "digest": digest }] },
            ] })
        };
        let mut digests = Digests::default();
        digests.see(0, &status("x"));
        digests.see(0, &status("x"));
        assert!(digests.differences.is_empty() && digests.compared == 0);
        digests.see(0, &status("y"));
        assert!(digests.differences[0].starts_with("group 0 at index 5: a had"), "{:?}", digests.differences);
    }

    #[test]
    fn tables_that_are_not_shown_are_not_equal() {
        for group in [
            serde_json::json!({ "group": 0, "applied_index": 5 }),
            serde_json::json!({ "group": 0, "applied_index": 5, "tables": [] }),
        ] {
            let mut digests = Digests::default();
            for instance in 0..2 {
                digests.see(instance, &serde_json::json!({ "groups": [group] }));
            }
            assert_eq!((digests.compared, digests.differences.len()), (0, 2), "{:?}", digests.differences);
        }
    }
}
