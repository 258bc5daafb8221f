//! Who reports, in which life, and to whom.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    time::{SystemTime, UNIX_EPOCH},
};

use flow::flows::EVENTS_PER_BATCH_MAX;
use ring::digest::{Context, SHA256};

use super::{
    outbox::{Closing, PENDING_MAX},
    queue::QUEUE_EVENTS_MAX,
    targets::Targets,
};

/// Who reports, in which life, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// To whom.
    pub targets: Targets,
    /// By what name the fleet knows this sniffer, of 1 to [`flow::flows::NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Its life: a later one is higher.
    pub epoch: u64,
    /// What makes its batches.
    pub closing: Closing,
    /// Most events that wait to be sent.
    pub pending_max: usize,
    /// Most events that wait for the reporting thread.
    pub queue_max: usize,
    /// Most events of a batch, at most [`EVENTS_PER_BATCH_MAX`].
    pub batch_max: usize,
}

impl Options {
    /// Of a sniffer that captures from an interface: its life begins now.
    #[must_use]
    pub fn of_interface(targets: Targets, name: Option<String>, interface: &str) -> Self {
        let name = name.unwrap_or_else(|| {
            let host = rustix::system::uname();
            format!("{}:{interface}", host.nodename().to_string_lossy())
        });
        // A clock that stands before 1970 is one that went back: the fleet says which life was the last.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        Self::new(targets, name, epoch, Closing::ByAge)
    }

    /// Of a capture file, which has one life however often it is read: what was told once does not count again. `settings` is
    /// what else its events depend on, such as the filter; other settings make it another sniffer. A name stands in front
    /// of what the content says; another name tells the file anew.
    ///
    /// # Errors
    /// If it cannot be read, or is no regular file.
    pub fn of_file(targets: Targets, name: Option<String>, file: &File, settings: &str) -> io::Result<Self> {
        let content = content_of(file, settings)?;
        let name = format!("{}:{content}", name.as_deref().unwrap_or("file"));
        Ok(Self::new(targets, name, 1, Closing::BySize))
    }

    fn new(targets: Targets, name: String, epoch: u64, closing: Closing) -> Self {
        Self {
            targets,
            name,
            epoch,
            closing,
            pending_max: PENDING_MAX,
            queue_max: QUEUE_EVENTS_MAX,
            batch_max: BATCH_EVENTS,
        }
    }
}

/// 32 hexadecimal digits: of SHA-256 over the length of the file, what it begins and ends with, and the settings. The file is
/// at its beginning afterwards.
fn content_of(mut file: &File, settings: &str) -> io::Result<String> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        let why = "only a regular file is known again when it is read a second time";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let length = metadata.len();
    let mut hash = Context::new(&SHA256);
    hash.update(&length.to_be_bytes());
    for place in [0, length.saturating_sub(CONTENT_BYTES)] {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(place))?;
        file.take(CONTENT_BYTES).read_to_end(&mut bytes)?;
        hash.update(&bytes);
    }
    file.rewind()?;
    hash.update(settings.as_bytes());
    Ok(hash.finish().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

/// Events of a batch, of the [`EVENTS_PER_BATCH_MAX`] that there may be: an instance applies a batch whole, and who wants
/// anything else of it waits for that.
const BATCH_EVENTS: usize = 500;
const _: () = assert!(BATCH_EVENTS <= EVENTS_PER_BATCH_MAX);

/// So much of a file's beginning and end tells it apart from others.
const CONTENT_BYTES: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_content_and_settings() {
        let path = std::env::temp_dir().join(format!("sniffer-options-{}", std::process::id()));
        let targets = Targets::new(vec!["h:1".parse().unwrap()], None).unwrap();
        let name = |bytes: &[u8], name: Option<&str>, settings: &str| {
            std::fs::write(&path, bytes).unwrap();
            let mut file = File::open(&path).unwrap();
            let options = Options::of_file(targets.clone(), name.map(str::to_owned), &file, settings).unwrap();
            assert_eq!(file.stream_position().unwrap(), 0, "it is read from its beginning");
            assert_eq!((options.epoch, options.closing), (1, Closing::BySize));
            options.name
        };
        let long = vec![7; 300_000];
        let (mut first, mut last) = (long.clone(), long.clone());
        (first[0], last[299_999]) = (0, 0);
        let names = [
            name(&long, None, "key 5"),
            name(&long[1..], None, "key 5"),
            name(&first, None, "key 5"),
            name(&last, None, "key 5"),
            name(&long, None, "key 7"),
            name(&long, Some("again"), "key 5"),
        ];
        assert!(names.iter().enumerate().all(|(place, one)| !names[..place].contains(one)), "{names:?}");
        assert_eq!(names[0], name(&long, None, "key 5"));
        assert!(names[0].starts_with("file:") && names[5].starts_with("again:"));
        std::fs::remove_file(&path).unwrap();
        assert!(Options::of_file(targets.clone(), None, &File::open("/dev/null").unwrap(), "").is_err());
        let live = Options::of_interface(targets.clone(), None, "eth0");
        assert!(live.name.ends_with(":eth0") && live.name.len() > 5 && live.epoch > 1_600_000_000_000);
        assert_eq!(Options::of_interface(targets, Some("x".to_owned()), "eth0").name, "x");
    }
}
