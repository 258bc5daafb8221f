//! Damaged logs and full disks.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Command,
};

use super::{
    backend::ask,
    fleet::{Fleet, Plan},
    kit::wait_until,
};

fn one() -> Plan {
    Plan { size: 1, ..Plan::default() }
}

/// The newest segment of an instance's log, and where its last frame ends.
fn segment(fleet: &Fleet, place: usize) -> (PathBuf, usize) {
    let files = fs::read_dir(fleet.data(place)).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    segments.sort();
    let newest = segments.pop().unwrap();
    let bytes = fs::read(&newest).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (newest, end)
}

#[test]
fn a_log_that_is_damaged_in_the_middle_is_refused_with_what_is_lost_and_what_to_do() {
    let mut fleet = Fleet::started(Plan::default());
    let given = fleet.ask_all(0, 0..50);
    fleet.kill(2);
    let (path, end) = segment(&fleet, 2);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, end as u64 / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], end as u64 / 2).unwrap();
    let before = fs::read(&path).unwrap();

    let status = fleet.start(2).end();
    assert_eq!(status.code(), Some(1));
    let said = fleet.process(2).said();
    let name = path.file_name().unwrap().to_str().unwrap();
    for word in
        ["the log is damaged", name, "at byte", "intact", "seen after the damage", "member remove", "member add"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(fs::read(&path).unwrap() == before, "nothing was skipped, cut or mended");
    fleet.ready(0);
    assert_eq!(fleet.ask_all(1, 0..50), given);
}

#[test]
fn a_torn_end_of_the_log_is_cut_and_nothing_acknowledged_goes_with_it() {
    let mut fleet = Fleet::started(one());
    let given = fleet.ask_all(0, 0..50);
    fleet.done(0, "kv put color blue");
    let pins = fleet.pins(0);
    fleet.kill(0);
    let (path, end) = segment(&fleet, 0);
    // The beginning of a frame that was being written.
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"RWfr and what a crash left of it", end as u64).unwrap();
    fleet.start_all();
    let line = fleet.process(0).says(&["a torn end of the log was cut off"]);
    assert!(line.contains(path.file_name().unwrap().to_str().unwrap()), "{line}");
    assert_eq!(fleet.pins(0), pins);
    assert_eq!(fleet.done(0, "kv get color"), "blue\n");
    assert_eq!(fleet.ask_all(0, 0..50), given);
}

/// An instance whose data directory is a small file system of its own, in a mount namespace of its own.
struct Small;

impl Small {
    /// `None`, and says so, where the system does not allow for it.
    fn command(fleet: &Fleet, place: usize) -> Option<Command> {
        let mounted = "mkdir -p \"$0\" && mount -t tmpfs -o size=24m none \"$0\" && exec \"$@\"";
        let with = |flags: &str, run: &[&str]| {
            let mut command = Command::new("unshare");
            command.current_dir(fleet.directory.path());
            command.args([flags, "sh", "-c", mounted]).arg(fleet.data(place)).args(run);
            command
        };
        let works = |flags: &str| with(flags, &["true"]).output().is_ok_and(|ran| ran.status.success());
        let Some(flags) = ["-m", "-rm"].into_iter().find(|flags| works(flags)) else {
            eprintln!("skipped: this system lets no test mount a file system (unshare -m, unshare -rm)");
            return None;
        };
        let label = fleet.instances[place].label.as_str();
        let binary = super::kit::ROCINANTE;
        Some(with(flags, &[binary, "run", "--config", "pool.toml", "--instance", label]))
    }

    /// The directory as the instance sees it.
    fn data(fleet: &Fleet, place: usize) -> PathBuf {
        let process = fleet.instances[place].process.as_ref().unwrap();
        let inside = fleet.data(place);
        PathBuf::from(format!("/proc/{}/root", process.pid())).join(inside.strip_prefix("/").unwrap())
    }

    /// Takes all the room there is.
    fn fill(fleet: &Fleet, place: usize) -> PathBuf {
        let path = Self::data(fleet, place).join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [65536, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        path
    }
}

/// Writes keys until one is not acknowledged, at most 16 MiB of them; gives how many were.
fn write_until_refused(fleet: &Fleet, place: usize, name: &str) -> usize {
    let value = "v".repeat(60_000);
    let rest = fleet.instances[place].rest;
    for count in 0..280 {
        match super::kit::http(rest, &format!("PUT /kv/{name}-{count:03}"), &value) {
            Some((200, _)) => {}
            Some((status, body)) => {
                assert!([429, 503, 504, 507].contains(&status), "{status} {body}");
                return count;
            }
            None => panic!("it must answer"),
        }
    }
    panic!("the disk never ran full");
}

fn keys(fleet: &Fleet, place: usize, name: &str) -> usize {
    let listed = fleet.done(place, &format!("kv list {name} --limit 10000 --consistency linearizable --json"));
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    listed["items"].as_array().unwrap().len()
}

#[test]
fn a_leader_whose_disk_is_full_gives_way_says_so_and_recovers() {
    let mut fleet = Fleet::new(Plan::default());
    for place in 0..3 {
        let Some(command) = Small::command(&fleet, place) else { return };
        fleet.start_as(place, command);
    }
    for place in 0..3 {
        fleet.ready(place);
    }
    wait_until("all servers are up", || fleet.servers_up(0));
    let given = fleet.ask_all(0, 0..30);
    let full = fleet.leader();
    let filler = Small::fill(&fleet, full);
    // Its log still has room that it took in advance.
    let acknowledged = {
        let mut count = 0;
        let value = "v".repeat(60_000);
        while fleet.metric(full, "rocinante_disk_full ") != Some(1.0) {
            let (status, body) =
                super::kit::http(fleet.instances[full].rest, &format!("PUT /kv/k-{count:03}"), &value).unwrap();
            if status == 200 {
                count += 1;
            } else {
                assert!([503, 504, 507, 429].contains(&status), "{status} {body}");
            }
            assert!(count < 280, "the disk never ran full");
        }
        count
    };
    fleet.process(full).says(&["the disk is full"]);
    fleet.not_ready(full, "the disk is full");
    wait_until("another one leads", || fleet.leader() != full);
    // The others go on.
    let other = (full + 1) % 3;
    fleet.done(other, "kv put color blue");
    assert_eq!(fleet.ask_all(other, 0..30), given);
    fleet.ask_all(other, 30..60);
    fs::remove_file(filler).unwrap();
    fleet.process(full).says(&["the disk has room again"]);
    fleet.ready(full);
    assert_eq!(fleet.metric(full, "rocinante_disk_full "), Some(0.0));
    assert!(keys(&fleet, full, "k-") >= acknowledged, "what was acknowledged is there");
    assert_eq!(fleet.done(full, "kv get color --consistency linearizable"), "blue\n");
    assert_eq!(fleet.ask_all(full, 0..30), given);
}

#[test]
fn an_instance_alone_with_a_full_disk_acknowledges_nothing_and_loses_nothing() {
    let mut fleet = Fleet::new(one());
    let Some(command) = Small::command(&fleet, 0) else { return };
    fleet.start_as(0, command);
    fleet.ready(0);
    wait_until("all servers are up", || fleet.servers_up(0));
    let given = fleet.ask_all(0, 0..30);
    let filler = Small::fill(&fleet, 0);
    let acknowledged = write_until_refused(&fleet, 0, "k");
    fleet.process(0).says(&["the disk is full"]);
    fleet.not_ready(0, "the disk is full");
    let ran = fleet.cli(0, "kv put late no");
    assert!(ran.code == 1 && ran.err.contains("the disk of this instance is full"), "{ran:?}");
    wait_until("new clients are refused", || ask(999, fleet.instances[0].pool).is_none());
    fs::remove_file(&filler).unwrap();
    fleet.ready(0);
    assert!(keys(&fleet, 0, "k-") >= acknowledged);
    assert_eq!(fleet.ask_all(0, 0..30), given);

    // An instance whose disk is full can be stopped all the same.
    Small::fill(&fleet, 0);
    write_until_refused(&fleet, 0, "again");
    fleet.not_ready(0, "the disk is full");
    fleet.process(0).signal(rustix::process::Signal::TERM);
    let status = fleet.process(0).end();
    assert_eq!(status.code(), Some(0), "{}", fleet.process(0).said());
}
