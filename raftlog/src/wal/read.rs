//! Reads live entries back from the segments.

use bytes::Bytes;

use super::format::{ENTRY_HEAD_BYTES, Item, segment_name};
use super::positions::Position;
use super::{Wal, WalError, io_error, open_error};
use crate::disk::DiskFile;
use crate::types::{GroupId, Index, Term};

/// Neighbouring entries of one run that are read at once.
struct Span {
    segment: u64,
    term: Term,
    first: u64,
    positions: Vec<Position>,
}

impl Wal {
    /// Reads live entries back, from `from` to before `to`: as many as have at most `max_bytes` in the log (a payload
    /// and 25 bytes each), but always the first. Empty where `from` is not live: a snapshot covers it, it was cut off,
    /// or it was never written. Rounds that were appended and not synced yet are read too.
    ///
    /// # Errors
    /// `CorruptFile` where the disk returns something else than was written, `Io` where it returns nothing, `Starved`,
    /// `Poisoned`.
    pub fn read(
        &mut self,
        group: GroupId,
        from: Index,
        to: Index,
        max_bytes: u64,
    ) -> Result<Vec<(Index, Term, Bytes)>, WalError> {
        self.check_usable()?;
        let mut entries = Vec::new();
        let mut next = from.0;
        let mut left = max_bytes;
        while next < to.0 {
            let Some(span) = self.span(group, next, to.0, left, entries.is_empty()) else { break };
            next += span.positions.len() as u64;
            left = left.saturating_sub(span.positions.iter().map(Position::record_bytes).sum());
            self.read_span(group, &span, &mut entries)?;
        }
        Ok(entries)
    }

    /// The longest span from `first` on that is not longer than allowed; at least one entry of it if `always`.
    fn span(&self, group: GroupId, first: u64, to: u64, left: u64, always: bool) -> Option<Span> {
        let (last, term, segment) = self.logs.get(&group)?.run_of(Index(first))?;
        let places = self.positions.get(&group)?;
        let start = places.at(first)?;
        if !always && start.record_bytes() > left {
            return None;
        }
        let mut positions = vec![start];
        let mut bytes = start.record_bytes();
        for index in first + 1..to.min(last + 1) {
            let position = places.at(index)?;
            bytes += position.record_bytes();
            // Entries of other groups that lie in between are read along, up to a point.
            let reach = position.end().checked_sub(u64::from(start.offset));
            if bytes > left || reach.is_none_or(|reach| reach > READ_BYTES_MAX) {
                break;
            }
            positions.push(position);
        }
        Some(Span { segment, term, first, positions })
    }

    fn read_span(
        &mut self,
        group: GroupId,
        span: &Span,
        entries: &mut Vec<(Index, Term, Bytes)>,
    ) -> Result<(), WalError> {
        let name = segment_name(span.segment);
        let (Some(start), Some(end)) = (span.positions.first(), span.positions.last()) else { return Ok(()) };
        let start = u64::from(start.offset);
        let mut bytes = vec![0; (end.end() - start) as usize];
        let failed = |source| io_error("reading", &name, source);
        self.segment_file(span.segment)?.read_at(start, &mut bytes).map_err(failed)?;
        for (position, index) in span.positions.iter().zip(span.first..) {
            let from = (u64::from(position.offset) - start) as usize;
            let mut record = bytes.get(from..).unwrap_or_default();
            match Item::decode(&mut record) {
                Some(Item::Entry { group: of, index: at, term, data })
                    if (of, at.0, term) == (group, index, span.term)
                        && data.len() == position.length as usize
                        && crc32c::crc32c(data) == position.checksum =>
                {
                    entries.push((at, term, Bytes::copy_from_slice(data)));
                }
                _ => {
                    let offset = position.offset;
                    let what = format!("entry {index} of group {group}, at byte {offset}, is not what was written");
                    return Err(WalError::CorruptFile { file: name, what });
                }
            }
        }
        Ok(())
    }

    /// A segment that holds live entries. The last one that was read stays open.
    fn segment_file(&mut self, sequence: u64) -> Result<&dyn DiskFile, WalError> {
        if sequence == self.tail.sequence {
            return Ok(self.tail.file.as_ref());
        }
        let known = self.reading.take().filter(|(open, _)| *open == sequence);
        let file = match known {
            Some((_, file)) => file,
            None => {
                let name = segment_name(sequence);
                self.disk.open(&name).map_err(|source| open_error("opening", &name, source))?
            }
        };
        Ok(self.reading.insert((sequence, file)).1.as_ref())
    }
}

impl Position {
    /// How long the record is.
    fn record_bytes(&self) -> u64 {
        ENTRY_HEAD_BYTES as u64 + u64::from(self.length)
    }

    /// Where the record ends.
    fn end(&self) -> u64 {
        u64::from(self.offset) + self.record_bytes()
    }
}

/// How much of a segment is read at once, unless a single entry is longer.
const READ_BYTES_MAX: u64 = 1 << 20;
