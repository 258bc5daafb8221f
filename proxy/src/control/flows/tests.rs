//! Names, filters, pages and followers.

use flow::{
    app::{Confidence, Label},
    flows::{Counts, End, Expiry, FlowLimits, Observed, shard_of},
};

use super::*;

/// A table of several shards, and what goes into it.
struct Shards {
    tables: Vec<(FlowTable, Expiry)>,
    sequence: u64,
    now: u64,
    /// The first 32 bits of their fleet's uuid.
    fleet: u32,
}

impl Shards {
    fn new(limits: FlowLimits) -> Self {
        let table = || (FlowTable::new(limits), Expiry::new());
        Self { tables: (0..3).map(|_| table()).collect(), sequence: 0, now: 0, fleet: 7 }
    }

    fn report(&mut self, name: &str, events: Vec<Observed>) {
        self.sequence += 1;
        let mut parts: Vec<Vec<Observed>> = vec![Vec::new(); 3];
        for event in events {
            parts[shard_of(FlowId(event.key.id()), 3) as usize].push(event);
        }
        for ((table, expiry), events) in self.tables.iter_mut().zip(parts) {
            let (sniffer, epoch, sequence) = (SnifferId::of(name), self.sequence, 1);
            let report = FlowCommand::Report { sniffer, name: name.into(), epoch, sequence, events };
            table.apply(Revision(table.applied().0 + 1), LogTime(self.now), &report, expiry);
        }
    }

    fn tables(&self) -> FlowTables {
        let shards = self.tables.iter().map(|(table, _)| Arc::new(table.clone())).collect();
        FlowTables { fleet: FleetId(u128::from(self.fleet) << 96), shards }
    }
}

fn event(port: u16, at_us: u64) -> Observed {
    let (version, source) = Endpoint::new("192.0.2.1".parse().unwrap(), port);
    let (_, destination) = Endpoint::new("198.51.100.1".parse().unwrap(), 443);
    let (key, from_low) = FlowKey::of(version, 6, source, destination);
    Observed {
        key,
        seventh: None,
        from_low,
        standing: Standing::Established,
        end: None,
        first_us: at_us,
        last_us: at_us,
        counts: [Counts { packets: 1, bytes: 100 }, Counts::default()],
        tcp_flags: [2, 16],
        vlan: None,
        sample: 1,
        label: None,
    }
}

/// The clients' ports.
fn ports(flows: &[FoundFlow]) -> Vec<u16> {
    let ends = flows.iter().map(|found| [found.record.key.low.port, found.record.key.high.port]);
    ends.map(|[low, high]| if low == 443 { high } else { low }).collect()
}

fn named(host: &str, app: App) -> Option<Label> {
    Some(Label::new(app, Confidence::Payload).named(host.as_bytes()))
}

fn all(tables: &FlowTables, filter: &FlowFilter, limit: usize) -> Vec<FoundFlow> {
    let (mut flows, mut cursor) = (Vec::new(), None);
    loop {
        let page = tables.page(filter, limit, cursor).unwrap();
        assert!(page.flows.len() <= limit);
        flows.extend(page.flows);
        let Some(next) = page.next else { return flows };
        // As it comes back from whoever asks.
        cursor = Some(FlowCursor::parse(&next.to_string()).unwrap());
    }
}

#[test]
fn pages_hold_every_flow_once_the_newest_first() {
    let mut shards = Shards::new(FlowLimits::default());
    for port in 1..=100 {
        shards.report("a", vec![event(port, u64::from(port))]);
    }
    let tables = shards.tables();
    assert!(tables.shards.iter().all(|table| table.len() > 10), "each shard has some");
    for limit in [1, 7, 100, 1000] {
        let found: Vec<u64> =
            all(&tables, &FlowFilter::default(), limit).iter().map(|one| one.record.last_us()).collect();
        assert_eq!(found, (1..=100).rev().collect::<Vec<_>>(), "in pages of {limit}");
    }
    let (short, long) = ("7-1.1-1.1-1.1", format!("00000007{}", "-1.1".repeat(10_000)));
    for text in ["", "1", "x.y", short, "00000007-1.1-1.1", "00000008-1.1-1.1-1.1", "00000007", &long] {
        let page = FlowCursor::parse(text).and_then(|cursor| tables.page(&FlowFilter::default(), 1, Some(cursor)));
        assert!(page.is_err(), "{text:.20}");
    }
}

#[test]
fn filters_look_at_either_end() {
    let mut shards = Shards::new(FlowLimits::default());
    let mut web = event(1000, 1);
    web.label = named("www.Example.net", App::Tls);
    let mut other = event(2000, 2);
    other.label = named("badexample.net", App::Http);
    other.end = Some(End::Closed);
    shards.report("a", vec![web, event(3000, 3)]);
    shards.report("b", vec![other]);
    let tables = shards.tables();
    let found = |filter: FlowFilter| {
        let mut found = ports(&all(&tables, &filter, 10));
        found.sort_unstable();
        found
    };
    let none = FlowFilter::default;
    let everything = vec![1000, 2000, 3000];
    assert_eq!(found(none()), everything);
    assert_eq!(found(FlowFilter { port: Some(2000), ..none() }), [2000]);
    assert_eq!(found(FlowFilter { port: Some(443), ..none() }), everything);
    assert_eq!(found(FlowFilter { protocol: Some(17), ..none() }), [0; 0]);
    let prefix = |text: &str| Some(crate::control::check::parse_prefix(text).unwrap());
    assert_eq!(found(FlowFilter { prefix: prefix("192.0.0.0/16"), ..none() }), everything);
    assert_eq!(found(FlowFilter { prefix: prefix("198.51.100.1"), ..none() }), everything);
    assert_eq!(found(FlowFilter { prefix: prefix("0.0.0.0/0"), ..none() }), everything);
    for nowhere in ["198.51.100.2", "10.0.0.0/8", "::/0", "198.51.100.0/32"] {
        assert_eq!(found(FlowFilter { prefix: prefix(nowhere), ..none() }), [0; 0], "{nowhere}");
    }
    assert_eq!(found(FlowFilter { app: Some(App::Tls), ..none() }), [1000]);
    assert_eq!(
        found(FlowFilter { host: Some("example.net".to_owned()), ..none() }),
        [1000],
        "only that name and below"
    );
    assert_eq!(found(FlowFilter { host: Some("net".to_owned()), ..none() }), [1000, 2000]);
    assert_eq!(found(FlowFilter { state: Some(Standing::Ended), ..none() }), [2000]);
    assert_eq!(found(FlowFilter { observer: Some(FlowFilter::observer_named("b")), ..none() }), [2000]);
    let number = SnifferId::of("b").0.to_string();
    assert_eq!(found(FlowFilter { observer: Some(FlowFilter::observer_named(&number)), ..none() }), [2000]);
}

#[test]
fn a_flow_is_found_by_any_of_its_names() {
    let mut shards = Shards::new(FlowLimits::default());
    let seventh = Observed { seventh: Some((8, 77)), ..event(1000, 1) };
    let (five_id, seven_id) = (event(1000, 1).id(), seventh.id());
    shards.report("a", vec![event(1000, 1), seventh, event(2000, 1)]);
    let tables = shards.tables();
    let ids = |name: FlowName| tables.get(&name, 10).iter().map(|found| found.id).collect::<Vec<_>>();
    assert_eq!(ids(FlowName::Five(five_id)), [five_id]);
    assert_eq!(ids(FlowName::Seven(seven_id)), [seven_id]);
    assert!(ids(FlowName::Seven(five_id)).is_empty() && ids(FlowName::Five(seven_id)).is_empty());
    let community = event(1000, 1).key.community_id();
    assert_eq!(ids(FlowName::community(&community).unwrap()), [five_id, seven_id]);
    let ends = [("192.0.2.1".parse().unwrap(), 1000), ("198.51.100.1".parse().unwrap(), 443)];
    assert_eq!(ids(FlowName::key(6, ends).unwrap()), [five_id, seven_id]);
    assert_eq!(ids(FlowName::key(6, [ends[1], ends[0]]).unwrap()), [five_id, seven_id], "in any order");
    assert!(FlowName::key(6, [ends[0], ("::1".parse().unwrap(), 1)]).is_err());
    assert!(FlowName::community("1:x").is_err());
    assert_eq!(&*tables.get(&FlowName::Five(five_id), 10)[0].observers[0], "a");
}

/// What a follower has, by what it was told.
#[derive(Default)]
struct Follower {
    flows: BTreeMap<FlowId, FlowRecord>,
    left: u64,
    missed: u64,
    resets: u32,
}

impl Follower {
    fn hear(&mut self, news: Vec<FlowNews>) {
        for one in news {
            match one {
                FlowNews::Changed(found) => {
                    self.flows.insert(found.id, found.record);
                }
                FlowNews::Left { id, .. } => {
                    self.flows.remove(&id);
                    self.left += 1;
                }
                FlowNews::Lagged { missed, .. } => self.missed += missed.unwrap(),
                FlowNews::Reset => {
                    self.flows.clear();
                    self.resets += 1;
                }
            }
        }
    }
}

#[test]
fn who_follows_has_the_table_whenever_it_is_taken_up_again() {
    let mut shards = Shards::new(FlowLimits { flows: 40, ttl_ms: 2_000, ended_ttl_ms: 100 });
    let mut follower = Follower::default();
    let mut position = FlowPosition::start(&shards.tables());
    for step in 1..=400_u64 {
        shards.now += 17;
        let mut over = event((step * 13 % 301) as u16, step);
        over.end = step.is_multiple_of(3).then_some(End::Closed);
        shards.report("a", vec![event((step * 7 % 101) as u16, step), over]);
        if step % 5 == 0 {
            // Another connection each time, which knows the position as text.
            let from = FlowPosition::parse(&position.to_string()).unwrap();
            let mut watch = FlowWatch::new(&shards.tables(), FlowFilter::default(), Some(from)).unwrap();
            loop {
                let news = watch.news(&shards.tables(), 3);
                if news.is_empty() {
                    break;
                }
                follower.hear(news);
            }
            position = watch.position().clone();
            let there: BTreeMap<FlowId, FlowRecord> = all(&shards.tables(), &FlowFilter::default(), 1000)
                .into_iter()
                .map(|found| (found.id, found.record))
                .collect();
            assert!(follower.flows == there, "step {step}");
        }
    }
    let left: u64 = shards.tables.iter().map(|(table, _)| table.left()).sum();
    assert!(left > 100);
    assert_eq!((follower.left, follower.missed), (left, 0));
}

#[test]
fn who_was_away_too_long_is_told_how_many_it_missed() {
    let mut shards = Shards::new(FlowLimits { flows: 1_000, ttl_ms: 2_000, ended_ttl_ms: 100 });
    let mut follower = Follower::default();
    let mut watch = FlowWatch::new(&shards.tables(), FlowFilter::default(), None).unwrap();
    for step in 0..140_u64 {
        let flow = |number: u64| {
            let mut event = event((number % 60_000) as u16 + 1, step + 1);
            event.seventh = Some((0, (number / 60_000) as u32));
            event
        };
        shards.report("a", (0..2_000).map(|number| flow(step * 2_000 + number)).collect());
        if step == 3 {
            while let Some(news) = Some(watch.news(&shards.tables(), 1_000)).filter(|news| !news.is_empty()) {
                follower.hear(news);
            }
        }
    }
    while let Some(news) = Some(watch.news(&shards.tables(), 1_000)).filter(|news| !news.is_empty()) {
        follower.hear(news);
    }
    let left: u64 = shards.tables.iter().map(|(table, _)| table.left()).sum();
    assert!(follower.missed > 10_000, "{}", follower.missed);
    assert_eq!(follower.left + follower.missed, left, "exactly");
    let there: usize = shards.tables.iter().map(|(table, _)| table.len()).sum();
    let stale = follower.flows.keys().filter(|id| shards.tables.iter().all(|(table, _)| table.get(**id).is_none()));
    assert!(follower.flows.len() - stale.count() == there, "all that is there was told");
}

#[test]
fn who_comes_from_another_fleet_is_told_so_and_gets_all_there_is() {
    let mut shards = Shards::new(FlowLimits::default());
    shards.report("a", (1..=20).map(|port| event(port, 1)).collect());
    let mut follower = Follower::default();
    let mut watch =
        FlowWatch::new(&shards.tables(), FlowFilter::default(), Some(FlowPosition::start(&shards.tables())));
    follower.hear(watch.as_mut().unwrap().news(&shards.tables(), 1_000));
    let position = watch.unwrap().position().to_string();
    assert_eq!((follower.flows.len(), follower.resets), (20, 0));
    // Restored: other flows, and fewer entries than the follower knows of.
    let mut restored = Shards { fleet: 8, ..Shards::new(FlowLimits::default()) };
    restored.report("a", (100..=102).map(|port| event(port, 1)).collect());
    let from = FlowPosition::parse(&position).unwrap();
    let mut watch = FlowWatch::new(&restored.tables(), FlowFilter::default(), Some(from)).unwrap();
    // Who is cut off before the news comes again with the same position.
    assert_eq!(watch.position().to_string(), position);
    follower.hear(watch.news(&restored.tables(), 1_000));
    assert_eq!((follower.flows.len(), follower.resets), (3, 1));
    assert!(FlowPosition::parse(&watch.position().to_string()).unwrap().is_of(&restored.tables()));
    assert!(watch.news(&restored.tables(), 1_000).is_empty());
}
