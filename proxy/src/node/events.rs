//! What happened lately on this instance: members that came and went, leaders, links, snapshots.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use flow::{ControlTable, InstanceId};

use crate::control::{Event, EventKind};

/// The last [`EVENTS_MAX`] events.
#[derive(Default)]
pub struct Events(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    last: u64,
    events: VecDeque<Event>,
    /// The members as told last: label, and whether it votes.
    members: BTreeMap<InstanceId, (String, bool)>,
    born: bool,
}

impl Events {
    /// Something happened to `subject`.
    pub fn add(&self, kind: EventKind, subject: &str, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(kind, subject, text);
    }

    /// Events after the one of that number, oldest first.
    pub fn after(&self, number: u64, limit: usize) -> Vec<Event> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.events.iter().filter(|event| event.number > number).take(limit).cloned().collect()
    }

    /// Tells what changed of the members since the last table.
    pub fn follow_members(&self, table: &ControlTable) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.birth().is_none() {
            return;
        }
        let member =
            |(id, member): (InstanceId, &flow::control::Member)| (id, (member.address.label.clone(), member.voter));
        let now: BTreeMap<InstanceId, (String, bool)> = table.members().map(member).collect();
        let before = std::mem::replace(&mut ring.members, now.clone());
        // What is there at the start is no news.
        if !std::mem::replace(&mut ring.born, true) {
            return;
        }
        let index = table.applied();
        for (id, (label, voter)) in &now {
            match before.get(id) {
                None => ring.add(
                    EventKind::MemberAdded,
                    label,
                    format!("{label} is a member, id {id}, as of index {index}"),
                ),
                Some((_, false)) if *voter => {
                    ring.add(EventKind::MemberPromoted, label, format!("{label} votes, as of index {index}"));
                }
                Some(_) => {}
            }
        }
        for (id, (label, _)) in before.iter().filter(|(id, _)| !now.contains_key(id)) {
            let text = format!("{label} is no member any more, id {id}, as of index {index}");
            ring.add(EventKind::MemberRemoved, label, text);
        }
    }
}

impl Ring {
    fn add(&mut self, kind: EventKind, subject: &str, text: String) {
        self.last += 1;
        // A clock before 1970 is told as 1970.
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        self.events.push_back(Event { number: self.last, unix_ms, kind, subject: subject.to_owned(), text });
        if self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }
}

/// Most events that are kept.
const EVENTS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_numbered() {
        let events = Events::default();
        for number in 1..=EVENTS_MAX as u64 + 10 {
            events.add(EventKind::Leader, "a", format!("event {number}"));
        }
        let all = events.after(0, usize::MAX);
        assert_eq!((all.len(), all[0].number), (EVENTS_MAX, 11));
        let page = events.after(500, 3);
        assert_eq!(page.iter().map(|event| event.number).collect::<Vec<_>>(), [501, 502, 503]);
        assert_eq!(page[0].text, "event 501");
    }
}
