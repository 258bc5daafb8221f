//! A disk in memory for simulation: knows what was synced, crashes by a seed, fails when told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, EMFILE, check_name};

/// What a disk writes as a whole: a crash keeps the old or the new bytes of a sector, never a mix.
pub const SECTOR_BYTES: usize = 512;

/// A deterministic disk; clones share one content.
///
/// It keeps what a reader sees and what would survive a power loss apart. Open files do not survive [`MemDisk::crash`]
/// or [`MemDisk::restart`]: using one afterwards is an error, as of a process that is gone.
#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<Content>>);

impl MemDisk {
    /// An empty disk without limits.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// Power loss. Of what was not synced, what the seed says survives: nothing, everything, a prefix of the writes
    /// with the last one torn, or any subset of sectors and names.
    pub fn crash(&self, seed: u64) {
        self.content().crash(&mut SplitMix(seed));
    }

    /// The process ends and another one starts; nothing is lost, and nothing more became durable either.
    pub fn restart(&self) {
        self.content().boot();
    }

    /// How many bytes all files together may have, `None` without limit. A write beyond it fails as on a full disk,
    /// after it wrote what had room.
    pub fn limit(&self, bytes: Option<u64>) {
        self.content().capacity = bytes;
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        self.content().used()
    }

    /// The sync after the next `skip` ones fails, once. As on Linux, what it should have saved stays visible, counts as
    /// clean, and is lost at a crash unless it is written again.
    pub fn fail_sync_after(&self, skip: u64) {
        self.content().sync_failure = Some(skip);
    }

    /// The write after the next `skip` ones finds the disk full halfway, once, whether or not it would grow its file:
    /// what a copy-on-write file system can do.
    pub fn fill_at_write_after(&self, skip: u64) {
        self.content().full_write = Some(skip);
    }

    /// From now on, or no more, no file can be renamed or removed for want of space: what a copy-on-write file system
    /// can do.
    pub fn fill_directory(&self, full: bool) {
        self.content().full_directory = full;
    }

    /// From now on, or no more, no file can be opened, made or listed, as when descriptors have run out.
    pub fn starve(&self, starved: bool) {
        self.content().starved = starved;
    }

    /// The process is stopped after `acts` more changes (files made, written, renamed, removed, synced): those after
    /// them fail until [`MemDisk::crash`] or [`MemDisk::restart`], and change nothing.
    pub fn stop_after(&self, acts: u64) {
        self.content().acts_left = Some(acts);
    }

    /// Inverts the bits of `mask` in one byte, durably: a bad disk.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) -> io::Result<()> {
        self.damage(name, |bytes| {
            if let Some(byte) = bytes.get_mut(offset as usize) {
                *byte ^= mask;
            }
        })
    }

    /// Cuts a file, durably.
    pub fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        self.damage(name, |bytes| bytes.truncate(length as usize))
    }

    /// A disk of its own with what a reader sees in this one, all of it durable.
    pub fn copy(&self) -> MemDisk {
        let content = self.content();
        let mut copy = Content { capacity: content.capacity, ..Content::default() };
        for (name, id) in &content.names {
            let visible = content.files.get(id).map(|file| file.visible.clone()).unwrap_or_default();
            copy.last_id += 1;
            copy.names.insert(name.clone(), copy.last_id);
            copy.files.insert(copy.last_id, Bytes { durable: visible.clone(), visible, ..Bytes::default() });
        }
        copy.durable_names = copy.names.clone();
        MemDisk(Arc::new(Mutex::new(copy)))
    }

    fn damage(&self, name: &str, change: impl Fn(&mut Vec<u8>)) -> io::Result<()> {
        let mut content = self.content();
        let id = content.id(name)?;
        let file = content.file(id)?;
        change(&mut file.visible);
        change(&mut file.durable);
        Ok(())
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // Every change is complete before anything in here could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, content: &mut Content, id: u64) -> io::Result<Box<dyn DiskFile>> {
        content.file(id)?.handles += 1;
        Ok(Box::new(Handle { disk: self.clone(), id, boot: content.boot }))
    }
}

impl Disk for MemDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let content = self.content();
        content.check_fed()?;
        Ok(content.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        check_name(name)?;
        let mut content = self.content();
        content.check_fed()?;
        content.act()?;
        // A new file even under an old name: its bytes and its name then survive independently, the harder case.
        content.last_id += 1;
        let id = content.last_id;
        content.files.insert(id, Bytes::default());
        content.change_name(NameChange { bound: Some((name.to_owned(), id)), unbound: None });
        self.handle(&mut content, id)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        check_name(name)?;
        let mut content = self.content();
        content.check_fed()?;
        let id = content.id(name)?;
        self.handle(&mut content, id)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        let mut content = self.content();
        content.check_directory()?;
        content.act()?;
        let id = content.id(from)?;
        content.change_name(NameChange { bound: Some((to.to_owned(), id)), unbound: Some(from.to_owned()) });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let mut content = self.content();
        content.check_directory()?;
        content.act()?;
        content.id(name)?;
        content.change_name(NameChange { bound: None, unbound: Some(name.to_owned()) });
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut content = self.content();
        content.act()?;
        content.count_sync()?;
        content.durable_names = content.names.clone();
        content.name_changes.clear();
        content.drop_nameless();
        Ok(())
    }
}

struct Handle {
    disk: MemDisk,
    id: u64,
    boot: u64,
}

impl Handle {
    fn with<T>(&self, act: impl FnOnce(&mut Content) -> io::Result<T>) -> io::Result<T> {
        let mut content = self.disk.content();
        if content.boot != self.boot {
            return Err(io::Error::other("this file was opened before the crash"));
        }
        act(&mut content)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut content = self.disk.content();
        if content.boot == self.boot
            && let Ok(file) = content.file(self.id)
        {
            file.handles -= 1;
        }
    }
}

impl DiskFile for Handle {
    fn length(&self) -> io::Result<u64> {
        self.with(|content| Ok(content.file(self.id)?.visible.len() as u64))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.with(|content| {
            let visible = &content.file(self.id)?.visible;
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = start.saturating_add(buffer.len());
            let bytes = visible.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|content| content.write(self.id, offset, bytes))
    }

    fn write_zeros(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.with(|content| content.write(self.id, offset, &vec![0; length as usize]))
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.with(|content| {
            content.act()?;
            let failed = content.count_sync();
            let file = content.file(self.id)?;
            let pending = std::mem::take(&mut file.pending);
            failed?;
            for write in pending {
                write.apply(&mut file.durable);
            }
            Ok(())
        })
    }
}

#[derive(Default)]
struct Content {
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    files: BTreeMap<u64, Bytes>,
    last_id: u64,
    capacity: Option<u64>,
    sync_failure: Option<u64>,
    full_write: Option<u64>,
    acts_left: Option<u64>,
    starved: bool,
    full_directory: bool,
    boot: u64,
}

#[derive(Default)]
struct Bytes {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync, oldest first.
    pending: Vec<Write>,
    /// How many open files of this life it has: as on Unix, it is there for them without a name too.
    handles: u64,
}

struct Write {
    offset: usize,
    bytes: Vec<u8>,
}

/// One act on the directory; survives as a whole.
struct NameChange {
    unbound: Option<String>,
    bound: Option<(String, u64)>,
}

impl Content {
    fn id(&self, name: &str) -> io::Result<u64> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no file {name}")))
    }

    fn file(&mut self, id: u64) -> io::Result<&mut Bytes> {
        self.files.get_mut(&id).ok_or_else(|| io::Error::other("this file was removed"))
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|id| self.files.get(id)).map(|file| file.visible.len() as u64).sum()
    }

    fn write(&mut self, id: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.act()?;
        let is_full = due(&mut self.full_write);
        let room = self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()));
        let file = self.file(id)?;
        let end_max = (file.visible.len() as u64).saturating_add(room);
        let mut fits = end_max.saturating_sub(offset).min(bytes.len() as u64) as usize;
        if is_full {
            fits = fits.min(bytes.len() / 2);
        }
        if fits > 0 {
            let write = Write { offset: offset as usize, bytes: bytes[..fits].to_vec() };
            write.apply(&mut file.visible);
            file.pending.push(write);
        }
        if is_full || fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// Accounts for a change, unless the process is stopped.
    fn act(&mut self) -> io::Result<()> {
        match &mut self.acts_left {
            Some(0) => Err(io::Error::other("the process was stopped before this")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn check_fed(&self) -> io::Result<()> {
        if self.starved { Err(io::Error::from_raw_os_error(EMFILE)) } else { Ok(()) }
    }

    fn check_directory(&self) -> io::Result<()> {
        if self.full_directory { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    fn count_sync(&mut self) -> io::Result<()> {
        if due(&mut self.sync_failure) { Err(io::Error::other("the disk reports a failed write")) } else { Ok(()) }
    }

    fn drop_nameless(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        let is_named = |id: &u64| names.values().chain(durable.values()).any(|named| named == id);
        self.files.retain(|id, file| file.handles > 0 || is_named(id));
    }

    /// Another process from here on.
    fn boot(&mut self) {
        self.boot += 1;
        self.acts_left = None;
        self.files.values_mut().for_each(|file| file.handles = 0);
    }

    fn crash(&mut self, random: &mut SplitMix) {
        self.boot();
        (self.sync_failure, self.full_write) = (None, None);
        for change in std::mem::take(&mut self.name_changes) {
            if random.below(2) == 0 {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        self.drop_nameless();
        for file in self.files.values_mut() {
            file.crash(random);
        }
    }
}

/// Counts down to a fault; whether it is due.
fn due(fault: &mut Option<u64>) -> bool {
    let is_due = *fault == Some(0);
    *fault = fault.and_then(|skip| skip.checked_sub(1));
    is_due
}

impl Bytes {
    fn crash(&mut self, random: &mut SplitMix) {
        let pending = std::mem::take(&mut self.pending);
        match random.below(4) {
            0 => {}
            1 => pending.iter().for_each(|write| write.apply(&mut self.durable)),
            2 => {
                let kept = random.below(pending.len() as u64 + 1) as usize;
                pending.iter().take(kept).for_each(|write| write.apply(&mut self.durable));
                if let Some(torn) = pending.get(kept) {
                    let sectors = random.below(torn.sectors().count() as u64 + 1) as usize;
                    torn.sectors().take(sectors).for_each(|sector| sector.apply(&mut self.durable));
                }
            }
            _ => {
                for sector in pending.iter().flat_map(Write::sectors) {
                    if random.below(2) == 0 {
                        sector.apply(&mut self.durable);
                    }
                }
            }
        }
        self.visible = self.durable.clone();
    }
}

impl Write {
    fn apply(&self, file: &mut Vec<u8>) {
        let end = self.offset + self.bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[self.offset..end].copy_from_slice(&self.bytes);
    }

    /// The parts of this write that reach the disk each on its own.
    fn sectors(&self) -> impl Iterator<Item = Write> + '_ {
        let mut done = 0;
        std::iter::from_fn(move || {
            let offset = self.offset + done;
            let length = (SECTOR_BYTES - offset % SECTOR_BYTES).min(self.bytes.len() - done);
            let bytes = self.bytes.get(done..done + length)?.to_vec();
            done += length;
            (length > 0).then_some(Write { offset, bytes })
        })
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        if let Some(name) = &self.unbound {
            names.remove(name);
        }
        if let Some((name, id)) = &self.bound {
            names.insert(name.clone(), *id);
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): what a seed says.
#[derive(Clone)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 where that is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }
}
