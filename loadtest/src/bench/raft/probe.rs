//! What the disk costs by itself: a small write and a sync, as a log would do them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bench::figures::histogram;
use crate::bench::micros;
use crate::error::{Error, Result};
use crate::fleet::site::Site;

/// Writes of 4 KiB into a file that is there already, each followed by `fdatasync`; times in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probe {
    /// When.
    pub when: &'static str,
    /// How many there were.
    pub count: u64,
    /// The median.
    pub p50_us: f64,
    /// The slowest hundredth.
    pub p99_us: f64,
}

impl Probe {
    /// Measures for about a second, in the folder where the logs will be.
    pub fn measure(when: &'static str) -> Result<Probe> {
        let site = Site::new()?;
        let path = site.directory().join("probe");
        let failed = |error| Error::Io(format!("probing {}", path.display()), error);
        let file = File::create_new(&path).map_err(failed)?;
        let block = [7; BLOCK_BYTES];
        for place in 0..BLOCKS {
            file.write_all_at(&block, place * BLOCK_BYTES as u64).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        let mut nanos = histogram()?;
        let start = Instant::now();
        for place in (0..BLOCKS).cycle() {
            let begun = Instant::now();
            file.write_all_at(&block, place * BLOCK_BYTES as u64).map_err(failed)?;
            file.sync_data().map_err(failed)?;
            nanos.saturating_record(begun.elapsed().as_nanos() as u64);
            if start.elapsed() > SPAN {
                break;
            }
        }
        let at = |quantile: f64| micros(nanos.value_at_quantile(quantile));
        Ok(Probe { when, count: nanos.len(), p50_us: at(0.5), p99_us: at(0.99) })
    }
}

/// The load average of the last minute.
pub fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").map_err(Error::io("reading /proc/loadavg"))?;
    let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
    first.ok_or_else(|| Error::Fleet("/proc/loadavg is not as expected".to_owned()))
}

const SPAN: Duration = Duration::from_secs(1);
const BLOCK_BYTES: usize = 4096;
const BLOCKS: u64 = 4096;
