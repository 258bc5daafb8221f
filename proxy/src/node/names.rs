//! Addresses of members that are configured by name: looked up again and again, as a name may come to mean another.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::atomic::Ordering,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use super::fleet::Fleet;

/// Keeps the fleet's addresses until the control table is no longer published.
pub async fn keep(fleet: Fleet, mut controls: watch::Receiver<()>) {
    let mut names = Names::default();
    loop {
        let next = names.next();
        tokio::select! {
            changed = controls.changed() => if changed.is_err() { return },
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
        if names.follow(member_names(&fleet), Instant::now()) {
            fleet.set_resolved(names.addresses());
        }
        for name in names.due(Instant::now()) {
            let found = timeout(LOOKUP_PATIENCE, tokio::net::lookup_host((name.as_str(), 0))).await;
            let found: Result<Vec<IpAddr>, String> = match found {
                Ok(Ok(addresses)) => Ok(addresses.map(|address| address.ip()).collect()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_elapsed) => Err("no answer in time".to_owned()),
            };
            match names.looked_up(&name, &found, Instant::now()) {
                Some(Change::Found(address)) => {
                    info!(name, %address, "a member's name was looked up");
                    // The next look-up may take its time.
                    fleet.set_resolved(names.addresses());
                }
                Some(Change::Failing) => {
                    let error = found.err().unwrap_or_else(|| "it has no address".to_owned());
                    warn!(name, error, "a member's name cannot be looked up, will try again");
                }
                None => {}
            }
            if names.is_failing(&name) {
                fleet.inner.lookups_failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn member_names(fleet: &Fleet) -> BTreeSet<String> {
    let control = fleet.inner.shared.control();
    let hosts = control.members().map(|(_, member)| member.address.host.clone());
    hosts.filter(|host| host.parse::<IpAddr>().is_err()).collect()
}

/// Names, what they mean, and when they are looked up next.
#[derive(Default)]
struct Names(BTreeMap<String, Name>);

struct Name {
    /// The last that was found; kept while look-ups fail.
    address: Option<IpAddr>,
    next: Instant,
    /// How long it waits after the last failure; none if the last look-up was good.
    backoff: Option<Duration>,
}

/// What is worth telling.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// It has another address, or can be looked up again.
    Found(IpAddr),
    /// It could be looked up until now.
    Failing,
}

impl Names {
    /// Makes these the names; new ones are due at once. True if one with an address has gone.
    fn follow(&mut self, names: BTreeSet<String>, now: Instant) -> bool {
        let mut gone = false;
        self.0.retain(|name, known| {
            let stays = names.contains(name);
            gone |= !stays && known.address.is_some();
            stays
        });
        for name in names {
            self.0.entry(name).or_insert(Name { address: None, next: now, backoff: None });
        }
        gone
    }

    fn next(&self) -> Option<Instant> {
        self.0.values().map(|name| name.next).min()
    }

    fn due(&self, now: Instant) -> Vec<String> {
        self.0.iter().filter(|(_, name)| name.next <= now).map(|(text, _)| text.clone()).collect()
    }

    /// What came of a look-up. An address that is still among those found stays, whatever their order is today.
    fn looked_up(&mut self, name: &str, found: &Result<Vec<IpAddr>, String>, now: Instant) -> Option<Change> {
        let name = self.0.get_mut(name)?;
        let addresses = found.as_deref().unwrap_or_default();
        let Some(first) = addresses.first().copied() else {
            let before = name.backoff;
            let backoff = before.map_or(BACKOFF_MIN, |before| (before * 2).min(REFRESH));
            (name.backoff, name.next) = (Some(backoff), now + backoff);
            return before.is_none().then_some(Change::Failing);
        };
        let address = name.address.filter(|known| addresses.contains(known)).unwrap_or(first);
        let news = name.address != Some(address) || name.backoff.is_some();
        *name = Name { address: Some(address), next: now + REFRESH, backoff: None };
        news.then_some(Change::Found(address))
    }

    fn is_failing(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|name| name.backoff.is_some())
    }

    fn addresses(&self) -> HashMap<String, IpAddr> {
        self.0.iter().filter_map(|(text, name)| Some((text.clone(), name.address?))).collect()
    }
}

/// How long what a name means is taken for true.
const REFRESH: Duration = Duration::from_secs(30);

/// First wait after a failed look-up; doubles up to [`REFRESH`].
const BACKOFF_MIN: Duration = Duration::from_secs(1);

/// How long one look-up may take.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> (Names, Instant) {
        let (mut names, now) = (Names::default(), Instant::now());
        assert!(!names.follow(BTreeSet::from(["b".to_owned()]), now));
        (names, now)
    }

    fn good(addresses: &[[u8; 4]]) -> Result<Vec<IpAddr>, String> {
        Ok(addresses.iter().map(|address| IpAddr::from(*address)).collect())
    }

    #[test]
    fn a_name_is_looked_up_again_and_its_new_address_counts() {
        let (mut names, now) = names();
        assert_eq!(names.due(now), ["b"]);
        let change = names.looked_up("b", &good(&[[10, 0, 0, 1]]), now);
        assert_eq!(change, Some(Change::Found([10, 0, 0, 1].into())));
        assert!(names.due(now).is_empty() && names.next() == Some(now + REFRESH));
        let later = now + REFRESH;
        assert_eq!(names.due(later), ["b"]);
        assert_eq!(names.looked_up("b", &good(&[[10, 0, 0, 9], [10, 0, 0, 1]]), later), None, "the old one is there");
        let change = names.looked_up("b", &good(&[[10, 0, 0, 2]]), later);
        assert_eq!(change, Some(Change::Found([10, 0, 0, 2].into())));
        assert!(names.follow(BTreeSet::new(), later) && names.addresses().is_empty());
    }

    #[test]
    fn a_failed_look_up_is_told_once_tried_less_and_less_and_forgets_nothing() {
        let (mut names, mut now) = names();
        names.looked_up("b", &good(&[[10, 0, 0, 1]]), now);
        let mut waits = Vec::new();
        for round in 0..7 {
            let change = names.looked_up("b", &Err("no".to_owned()), now);
            assert_eq!(change, (round == 0).then_some(Change::Failing));
            let next = names.next().unwrap();
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(names.addresses().get("b"), Some(&IpAddr::from([10, 0, 0, 1])));
        assert!(names.is_failing("b"));
        let change = names.looked_up("b", &good(&[[10, 0, 0, 1]]), now);
        assert_eq!(change, Some(Change::Found([10, 0, 0, 1].into())), "good news are told too");
        assert!(!names.is_failing("b"));
    }
}
