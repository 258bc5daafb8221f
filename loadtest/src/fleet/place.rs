//! Where a run keeps its files: a directory that goes away with it, and the next run takes away what a killed one left.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, flock};

use crate::chance::Chance;
use crate::error::{Error, Result};

/// The directory of a run.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    keep: AtomicBool,
    /// Locked as long as this run lives, however it ends.
    _lock: File,
}

impl Place {
    /// Makes a directory, and removes those of runs that are gone.
    pub fn new() -> Result<Place> {
        let folder = std::env::temp_dir();
        sweep(&folder);
        let name = format!("{PREFIX}{}-{:08x}", std::process::id(), Chance::fresh_seed());
        let directory = folder.join(name);
        let failed = || Error::io(format!("making {}", directory.display()));
        fs::create_dir(&directory).map_err(failed())?;
        // It gets its name when it is locked: others remove directories with a lock that is free.
        let unlocked = directory.join(UNLOCKED);
        let lock = File::create(&unlocked).map_err(failed())?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| failed()(errno.into()))?;
        fs::rename(&unlocked, directory.join(LOCK)).map_err(failed())?;
        Ok(Place { directory, keep: AtomicBool::new(false), _lock: lock })
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Leaves the files behind, also for later runs.
    pub fn keep(&self) -> Result<()> {
        self.keep.store(true, Ordering::Relaxed);
        let lock = self.directory.join(LOCK);
        fs::remove_file(&lock).map_err(Error::io(format!("removing {}", lock.display())))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed)
            && let Err(error) = fs::remove_dir_all(&self.directory)
        {
            eprintln!("could not remove {}: {error}", self.directory.display());
        }
    }
}

/// Removes the directories of runs that ended without removing them: their lock is free. What is kept has none.
fn sweep(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if !ours {
            continue;
        }
        // A directory of another user or a run that has just removed its own: neither is left over.
        let Ok(lock) = File::open(path.join(LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            && let Err(error) = fs::remove_dir_all(&path)
            // Another run was faster.
            && error.kind() != ErrorKind::NotFound
        {
            eprintln!("could not remove {}, which an earlier run left: {error}", path.display());
        }
    }
}

const PREFIX: &str = "rocinante-loadtest-";
const LOCK: &str = "lock";
const UNLOCKED: &str = "lock.new";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_runs_or_is_kept_stays() {
        let folder = std::env::temp_dir().join(format!("place-{}-{:08x}", std::process::id(), Chance::fresh_seed()));
        for name in ["left", "runs", "kept"] {
            fs::create_dir_all(folder.join(format!("{PREFIX}{name}"))).unwrap();
        }
        fs::create_dir(folder.join("other")).unwrap();
        File::create(folder.join("other").join(LOCK)).unwrap();
        File::create(folder.join(format!("{PREFIX}left")).join(LOCK)).unwrap();
        let runs = File::create(folder.join(format!("{PREFIX}runs")).join(LOCK)).unwrap();
        flock(&runs, FlockOperation::NonBlockingLockExclusive).unwrap();
        sweep(&folder);
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["other", &format!("{PREFIX}kept"), &format!("{PREFIX}runs")]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
