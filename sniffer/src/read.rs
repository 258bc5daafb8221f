//! `sniffer read`: a capture file as flow records.

use std::{
    fs,
    io::{self, BufReader, Seek},
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    capture::{CaptureError, Captured, File},
    decode::{Link, Skip, decode},
    pcapng::Blocks,
    record::Record,
    track::{Config, Event, Kind, Tracker},
};

/// A capture file and its flows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The file.
    pub file: String,
    /// Packets in it. The sum of those of the flows and of all below.
    pub packets: u64,
    /// Frames without IP.
    pub not_ip: u64,
    /// Later fragments, which have no ports.
    pub nonfirst_fragments: u64,
    /// Frames whose headers are cut off or contradict themselves.
    pub malformed: u64,
    /// Frames below whose IP is a layer that is not known.
    pub unknown_link: u64,
    /// Flows that were ended because there were too many at once; their packets are in records of their own.
    pub evicted: u64,
    /// The flows, by their first packet.
    pub flows: Vec<Record>,
}

impl Report {
    /// Of a file that is not read yet.
    fn of(path: &Path) -> Self {
        Self { file: path.display().to_string(), ..Self::default() }
    }
}

/// Reads a capture. What could be read is in the report also where an error says that it was not all.
#[must_use]
pub fn read(path: &Path, filter: Option<&str>, config: Config) -> (Report, Option<CaptureError>) {
    match fs::File::open(path) {
        Ok(file) => read_telling(path, file, filter, config, |_| {}),
        Err(error) => (Report::of(path), Some(CaptureError::Open { path: path.to_owned(), why: error.to_string() })),
    }
}

/// The same of a file that is open; `tell` hears of each event.
#[must_use]
pub fn read_telling(
    path: &Path,
    file: fs::File,
    filter: Option<&str>,
    config: Config,
    mut tell: impl FnMut(&[Event]),
) -> (Report, Option<CaptureError>) {
    let mut report = Report::of(path);
    let again = file.try_clone();
    let mut tracker = Tracker::new(config);
    let mut skipped = [0; Skip::ALL.len()];
    let mut records = Vec::new();
    let opened =
        File::of(path, file).and_then(|mut file| filter.map_or(Ok(()), |filter| file.filter(filter)).map(|()| file));
    let mut take = |link: Option<Link>, captured: Captured<'_>| {
        report.packets += 1;
        let decoded = match link {
            Some(link) => decode(link, captured.bytes),
            None => Err(Skip::UnknownLink),
        };
        // Looked at where it is: moving it would cost as much as decoding it.
        match &decoded {
            Ok(packet) => tracker.queue_packet(captured.at_us, captured.wire_bytes, packet),
            Err(reason) => skipped[reason.place()] += 1,
        }
        if tracker.has_events() {
            let events = tracker.poll_events();
            tell(&events);
            records.extend(events.iter().filter_map(record));
        }
    };
    let outcome = opened.and_then(|mut file| {
        let link = file.link;
        file.each(|captured| take(link, captured))
    });
    let outcome = match outcome {
        Err(CaptureError::Broken { path, packets, why }) => rest_of_differing(path, again, packets, why, filter, take),
        outcome => outcome,
    };
    tracker.finish();
    let events = tracker.poll_events();
    tell(&events);
    records.extend(events.iter().filter_map(record));
    records.sort_by_key(|record: &Record| record.first_us);
    [report.not_ip, report.nonfirst_fragments, report.malformed, report.unknown_link] = skipped;
    report.evicted = tracker.counters().evicted + tracker.counters().hurried;
    report.flows = records;
    (report, outcome.err())
}

/// What comes behind the first packets of a pcapng file that libpcap gave up because its interfaces differ. Of any other file
/// its error stays.
fn rest_of_differing(
    path: PathBuf,
    file: io::Result<fs::File>,
    packets: u64,
    why: String,
    filter: Option<&str>,
    mut take: impl FnMut(Option<Link>, Captured<'_>),
) -> Result<(), CaptureError> {
    let broken = |packets, why| Err(CaptureError::Broken { path: path.clone(), packets, why });
    // From its beginning: libpcap has read some of it.
    let rewound = file.and_then(|mut file| file.rewind().map(|()| file));
    let Ok(file) = rewound else { return broken(packets, why) };
    let mut blocks = Blocks::new(BufReader::new(file));
    let mut read = 0;
    loop {
        match blocks.advance() {
            Ok(true) if read < packets => {}
            Ok(true) if blocks.differ() && filter.is_none() => {
                let (link, captured) = blocks.packet();
                take(link, captured);
            }
            Ok(true) if blocks.differ() => {
                return broken(packets, format!("{why}; a filter is for files whose interfaces are alike"));
            }
            Ok(false) if blocks.differ() => return Ok(()),
            Err(error) if blocks.differ() => return broken(read, error.to_string()),
            // Up to here libpcap should have come as well.
            Ok(_) | Err(_) => return broken(packets, why),
        }
        read += 1;
    }
}

/// The record of a flow that is over.
fn record(event: &Event) -> Option<Record> {
    matches!(event.kind, Kind::End(_) | Kind::Short(_)).then(|| Record::of(&event.flow))
}
