//! The segment that is written to: made anew or from a spare, taken up again at the start.

use std::collections::BTreeMap;
use std::io;

use super::error::WalError;
use super::format::{FRAME_HEADER_BYTES, FrameHeader, Item, SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use super::groups::GroupLog;
use super::spares::Spare;
use super::{WalOptions, io_error, recover};
use crate::disk::{Disk, DiskFile, STAGED_SUFFIX, SplitMix, is_full, is_starved, stage};
use crate::plant::{self, Plant};
use crate::types::GroupId;

/// The segment that is written to.
pub(super) struct Tail {
    pub file: Box<dyn DiskFile>,
    pub name: String,
    pub sequence: u64,
    pub salt: u64,
    pub checkpoint_end: u64,
    pub end: u64,
    pub durable: u64,
    /// What the last frame (or the header) says is durable.
    pub claimed: u64,
    pub prefilled: u64,
}

/// What the head of a new segment says.
pub(super) struct Head<'a> {
    pub sequence: u64,
    pub previous_end: u64,
    pub first_round: u64,
    pub logs: &'a BTreeMap<GroupId, GroupLog>,
}

/// Why a segment could not be made.
pub(super) enum Failure {
    /// The log is as before; the same may succeed later.
    Passing(WalError),
    Broken(String, &'static str, io::Error),
}

impl Tail {
    /// Makes a segment, durable under its name, with written blocks for at least `frame_bytes` after its checkpoint.
    pub fn create(disk: &dyn Disk, options: &WalOptions, head: &Head<'_>, frame_bytes: u64) -> Result<Tail, Failure> {
        let name = segment_name(head.sequence);
        let (salt, bytes) = head.encode(options, 0);
        let end = bytes.len() as u64;
        let mut prefilled = options.prefill_bytes.min(options.segment_bytes).max(end + frame_bytes);
        let write = |length: u64| {
            stage(disk, &name, &mut |file| {
                file.write_zeros(0, length)?;
                file.write_at(0, &bytes)
            })
        };
        let staged = write(prefilled).or_else(|error| {
            if !is_full(&error) || prefilled == end + frame_bytes {
                return Err(error);
            }
            prefilled = end + frame_bytes;
            write(prefilled)
        });
        let file = staged.map_err(|error| Failure::opening(&name, "making", error))?;
        let staged_name = format!("{name}{STAGED_SUFFIX}");
        Tail::named(disk, file, &staged_name, name, head.sequence, salt, end, prefilled)
    }

    /// The same from a spare, whose old bytes stay where nothing is written over them.
    pub fn reuse(
        disk: &dyn Disk,
        options: &WalOptions,
        head: &Head<'_>,
        frame_bytes: u64,
        spare: &Spare,
    ) -> Result<Tail, Failure> {
        let name = segment_name(head.sequence);
        let (salt, bytes) = head.encode(options, spare.length);
        let end = bytes.len() as u64;
        let prefilled = spare.length.max(end + frame_bytes);
        let failed = |action| move |error| Failure::new(&spare.name, action, error);
        let mut file = disk.open(&spare.name).map_err(|error| Failure::opening(&spare.name, "opening", error))?;
        file.write_zeros(spare.length, prefilled - spare.length).map_err(failed("filling"))?;
        file.write_at(0, &bytes).map_err(failed("writing"))?;
        file.sync_data().map_err(failed("syncing"))?;
        Tail::named(disk, file, &spare.name, name, head.sequence, salt, end, prefilled)
    }

    /// Gives a synced segment its final name, durably.
    #[expect(clippy::too_many_arguments, reason = "the two ways to make a segment end alike")]
    fn named(
        disk: &dyn Disk,
        file: Box<dyn DiskFile>,
        from: &str,
        name: String,
        sequence: u64,
        salt: u64,
        end: u64,
        prefilled: u64,
    ) -> Result<Tail, Failure> {
        disk.rename(from, &name).map_err(|error| Failure::new(&name, "renaming", error))?;
        // From here on the segment may be there after a crash, so going on with the one before it would be wrong.
        disk.sync_dir().map_err(|error| Failure::Broken(name.clone(), "syncing the directory of", error))?;
        Ok(Tail { file, name, sequence, salt, checkpoint_end: end, end, durable: end, claimed: end, prefilled })
    }

    /// Takes up the newest segment again; what was read becomes what is durable.
    pub fn reopen(disk: &dyn Disk, found: recover::FoundTail) -> Result<Tail, WalError> {
        let name = segment_name(found.header.sequence);
        let failed = |source: io::Error| match is_full(&source) {
            true => WalError::NoSpace { file: name.clone() },
            false => io_error("rewriting the end of", &name, source),
        };
        let mut file = disk.open(&name).map_err(failed)?;
        if !plant::on(Plant::RecoveredNotSynced) {
            file.write_at(found.rewrite_at, &found.rewrite).map_err(failed)?;
            file.sync_data().map_err(failed)?;
        }
        disk.sync_dir().map_err(failed)?;
        Ok(Tail {
            file,
            sequence: found.header.sequence,
            salt: found.header.salt,
            checkpoint_end: found.header.checkpoint_end,
            end: found.end,
            durable: found.end,
            claimed: found.rewrite_at,
            prefilled: found.length.max(found.end),
            name,
        })
    }
}

impl Failure {
    fn new(file: &str, action: &'static str, error: io::Error) -> Failure {
        let file = file.to_owned();
        if is_full(&error) {
            Failure::Passing(WalError::NoSpace { file })
        } else {
            Failure::Broken(file, action, error)
        }
    }

    /// Of a file that counts for nothing yet, made or opened.
    fn opening(file: &str, action: &'static str, error: io::Error) -> Failure {
        match is_starved(&error) {
            true => Failure::Passing(WalError::Starved { file: file.to_owned(), action, source: error }),
            false => Failure::new(file, action, error),
        }
    }

    /// Whether the file was not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Failure::Broken(_, _, error) if error.kind() == io::ErrorKind::NotFound)
    }
}

impl Head<'_> {
    /// The segment's salt; its header and the checkpoint of all groups.
    fn encode(&self, options: &WalOptions, stale_end: u64) -> (u64, Vec<u8>) {
        let salt = SplitMix(options.salt ^ self.sequence.rotate_left(32)).next();
        let mut frame = vec![0; FRAME_HEADER_BYTES];
        for (group, log) in self.logs {
            let item = Item::Checkpoint { group: *group, state: log.hard, snapshot: log.snapshot, last: log.last() };
            item.encode(&mut frame);
        }
        let offset = SEGMENT_HEADER_BYTES as u64;
        fill_header(&mut frame, salt, offset, self.first_round, 0, self.logs.len() as u32);
        let header = SegmentHeader {
            sequence: self.sequence,
            salt,
            previous_end: self.previous_end,
            first_round: self.first_round,
            checkpoint_end: offset + frame.len() as u64,
            stale_end,
        };
        (salt, [header.encode().as_slice(), &frame].concat())
    }
}

/// Fills in the header of a frame whose body is already there.
pub(super) fn fill_header(frame: &mut [u8], salt: u64, offset: u64, round: u64, durable: u64, records: u32) {
    let Some((head, body)) = frame.split_first_chunk_mut::<FRAME_HEADER_BYTES>() else { return };
    let body_checksum = crc32c::crc32c(body);
    // Both fit: a segment's nominal size and a round's size are limited far below 4 GiB.
    let (body_bytes, durable) = (body.len() as u32, durable as u32);
    *head = FrameHeader { body_checksum, body_bytes, round, durable, records }.encode(salt, offset);
}
