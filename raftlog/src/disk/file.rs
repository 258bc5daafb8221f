//! The real disk: a directory that one process owns.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Disk, DiskFile, check_name};

/// A directory on the file system, locked against a second process for as long as this lives.
pub struct FileDisk {
    path: PathBuf,
    directory: File,
    /// Held, never read: closing it gives the lock back.
    _lock: File,
}

impl FileDisk {
    /// Opens the directory, makes it where it is not there, and locks it.
    pub fn open(path: &Path) -> io::Result<FileDisk> {
        // The directories that are made, and the one that gets the first of them.
        let new: Vec<&Path> = path.ancestors().take_while(|path| !path.is_dir() && *path != Path::new("")).collect();
        fs::create_dir_all(path)?;
        for made in new {
            // The new names must survive as well, or a crash would take the whole directory with it.
            let parent = made.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
            File::open(parent)?.sync_all()?;
        }
        let directory = File::open(path)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK_NAME))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("another process is using the data directory {}", path.display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(FileDisk { path: path.to_owned(), directory, _lock: lock })
    }

    fn at(&self, name: &str) -> io::Result<PathBuf> {
        check_name(name)?;
        Ok(self.path.join(name))
    }
}

impl Disk for FileDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry.file_name().into_string()
                && name != LOCK_NAME
                && entry.file_type()?.is_file()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self.at(name)?)?;
        Ok(Box::new(OpenFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.at(name)?)?;
        Ok(Box::new(OpenFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from)?, self.at(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name)?)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

struct OpenFile(File);

impl DiskFile for OpenFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn write_zeros(&mut self, mut offset: u64, mut length: u64) -> io::Result<()> {
        // No fallocate: blocks that are reserved but unwritten cost a journal commit at every later sync.
        while length > 0 {
            let step = length.min(ZEROS.len() as u64);
            self.0.write_all_at(&ZEROS[..step as usize], offset)?;
            offset += step;
            length -= step;
        }
        Ok(())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

const LOCK_NAME: &str = "lock";
