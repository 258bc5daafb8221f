//! A disk that hangs in the middle of an admission holds up nobody else.

use std::{
    io,
    sync::{
        Condvar,
        mpsc::{channel, sync_channel},
    },
};

use flow::{FleetId, Incarnation, MemberAddress};
use raftlog::{
    GroupId, Index, Term,
    disk::{DiskFile, MemDisk},
    wal::SnapshotStore,
};
use replica::storage::{load_identity, load_known};

use super::*;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A disk on which no file is made before it is let go.
#[derive(Default)]
struct Stuck {
    disk: MemDisk,
    /// Whether it works, and how many wait for that.
    state: Mutex<(bool, usize)>,
    news: Condvar,
}

impl Stuck {
    fn let_go(&self) {
        self.state.lock().unwrap().0 = true;
        self.news.notify_all();
    }

    fn until_somebody_waits(&self) {
        let state = self.state.lock().unwrap();
        let (_state, late) = self.news.wait_timeout_while(state, PATIENCE, |(_, waiting)| *waiting == 0).unwrap();
        assert!(!late.timed_out(), "nobody saves");
    }
}

impl Disk for Stuck {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.news.notify_all();
        drop(self.news.wait_while(state, |(works, _)| !*works).unwrap());
        self.disk.create(name)
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

fn founding() -> Founding {
    let address =
        |label: &str| MemberAddress { label: label.to_owned(), host: label.to_owned(), grpc: 1, rest: 2, metrics: 3 };
    let instances = ["a", "b", "c"].map(address).to_vec();
    Founding { fleet_name: "test".to_owned(), instances, pin_groups: 4, flow_groups: 0, lease_ms: 1_000 }
}

fn identity(label: &str, life: u64) -> Identity {
    Identity {
        fleet_name: "test".to_owned(),
        label: label.to_owned(),
        incarnation: Incarnation(life),
        id: None,
        fleet: None,
        pin_groups: 0,
        flow_groups: 0,
        founders: Vec::new(),
        restored: false,
    }
}

/// Instance a of a fleet of three, newborn.
fn doorkeeper(disk: &Arc<Stuck>) -> Arc<Doorkeeper> {
    let me = identity("a", 10);
    let birthing = Some(Birthing::new(me.clone(), founding()));
    let state =
        State { identity: me, known: Known::default(), birthing, answered: BTreeSet::new(), majority_since: None };
    Arc::new(Doorkeeper {
        founding: founding(),
        shared: Arc::new(Shared::new()),
        disk: Arc::clone(disk) as Arc<dyn Disk>,
        inputs: sync_channel(16).0,
        state: Mutex::new(state),
        saving: Mutex::new(()),
        snapshots: snapshots::Store::default(),
        incoming: Arc::default(),
        decided: watch::Sender::new(false),
    })
}

#[test]
fn an_admission_that_waits_for_the_disk_holds_up_no_other_task() {
    let disk = Arc::new(Stuck::default());
    let keeper = doorkeeper(&disk);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let hello = Hello { identity: identity("b", 20), founding_hash: founding().hash() }.encode();
    let admitting = {
        let keeper = Arc::clone(&keeper);
        runtime.spawn(async move { keeper.admit(&hello, "127.0.0.1:1".parse().unwrap()).map(|(id, _)| id) })
    };
    disk.until_somebody_waits();

    // The only worker waits for the disk: its other tasks go on, and say hello.
    let (said, heard) = channel();
    let other = Arc::clone(&keeper);
    runtime.spawn(async move { said.send(other.hello(&PeerAddress::new("c", "c", 1))).unwrap() });
    let hello = heard.recv_timeout(PATIENCE).expect("a hello while the disk hangs");
    assert_eq!(Hello::decode(&hello).unwrap().identity.label, "a");
    assert!(keeper.known().is_empty(), "nobody is known before that is stored");

    disk.let_go();
    assert_eq!(runtime.block_on(admitting).unwrap(), Ok(NodeId(2)));
    assert_eq!(keeper.known(), [(flow::InstanceId(2), Incarnation(20))]);
    assert_eq!(load_known(&disk.disk).unwrap().0.len(), 1);
}

#[test]
fn the_fleets_birth_does_not_wait_for_the_disk() {
    let disk = Arc::new(Stuck::default());
    let keeper = doorkeeper(&disk);
    let (done, told) = channel();
    let other = Arc::clone(&keeper);
    thread::spawn(move || {
        other.born(FleetId(7));
        done.send(()).unwrap();
    });
    told.recv_timeout(PATIENCE).expect("born while the disk hangs");
    assert_eq!(keeper.identity().fleet, Some(FleetId(7)));
    disk.let_go();
    let deadline = Instant::now() + PATIENCE;
    while load_identity(&disk.disk).unwrap().and_then(|stored| stored.fleet) != Some(FleetId(7)) {
        assert!(Instant::now() < deadline, "the fleet's uuid was not stored");
        thread::sleep(Duration::from_millis(2)); // between two looks
    }
}

#[test]
fn what_was_let_in_just_before_an_operator_cut_the_instance_off_brings_nothing_in() {
    let disk = Arc::new(Stuck::default());
    disk.let_go();
    let keeper = doorkeeper(&disk);
    let (inputs, taken) = sync_channel(16);
    let inbox = NetInbox::new(inputs, Arc::clone(&keeper.shared));
    let frame = || Event::Frame { from: NodeId(2), bytes: Bytes::from_static(b"frame") };
    let store = SnapshotStore::open(Arc::new(MemDisk::default())).unwrap();
    assert!(keeper.snapshots.set(store).is_ok());
    let meta = snapshots::meta((GroupId(1), Index(5), Term(1)), &Bytes::from_static(b"message"));
    let mut sink = keeper.receive(NodeId(2), SnapshotOffer { meta, total_bytes: 2, transfer: 1 }).unwrap();
    sink.append(b"1").unwrap();

    keeper.shared.grpc_shut.store(true, Ordering::Relaxed);
    assert_eq!(inbox.offer(frame()), Err(frame()));
    // Of its own links it still hears.
    inbox.offer(Event::LinkDown { label: "b".into(), peer: None, refused: false }).unwrap();
    assert!(matches!(taken.try_recv(), Ok(Input::Net(Event::LinkDown { .. }, _))));
    assert!(sink.append(b"2").is_err_and(|refused| refused.code == RefusedCode::NotYet as u32));
    assert_eq!(sink.have_bytes(), 1, "it goes on where it was");
    assert!(sink.finish().is_err_and(|refused| refused.code == RefusedCode::NotYet as u32));
    assert!(taken.try_recv().is_err());

    keeper.shared.grpc_shut.store(false, Ordering::Relaxed);
    inbox.offer(frame()).unwrap();
    assert!(matches!(taken.try_recv(), Ok(Input::Net(Event::Frame { .. }, _))));
}

#[test]
fn frames_that_wait_have_bounded_bytes_and_news_of_links_always_have_room() {
    let page = include_str!("../../../../docs/protocol.md");
    let limit = format!("\n| bytes of frames that wait for the replica, of all peers | {FRAMES_WAITING_BYTES_MAX} |");
    assert!(page.contains(&limit), "docs/protocol.md lacks it");
    let (inputs, waiting) = sync_channel(1 << 10);
    let disk = Arc::new(Stuck::default());
    disk.let_go();
    let inbox = NetInbox::new(inputs, Arc::clone(&doorkeeper(&disk).shared));
    let frame = || Event::Frame { from: NodeId(2), bytes: Bytes::from(vec![0; 1 << 20]) };
    for _ in 0..FRAMES_WAITING_BYTES_MAX >> 20 {
        inbox.offer(frame()).unwrap();
    }
    assert_eq!(inbox.offer(frame()), Err(frame()));
    inbox.offer(Event::LinkUp { peer: NodeId(2), label: "b".into() }).unwrap();
    drop(waiting.recv().unwrap());
    inbox.offer(frame()).unwrap();
    assert_eq!(inbox.offer(frame()), Err(frame()));
    // What does not reach the queue does not count either.
    let taken = waiting.try_iter().count();
    assert_eq!(taken, (FRAMES_WAITING_BYTES_MAX >> 20) + 1);
    drop(waiting);
    for _ in 0..=FRAMES_WAITING_BYTES_MAX >> 20 {
        assert_eq!(inbox.offer(frame()), Err(frame()));
    }
    assert_eq!(inbox.waiting.load(Ordering::Relaxed), 0);
}
