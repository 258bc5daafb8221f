//! Reads `[fleet.tls]`, and the files that it names.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use raftlog::net::{Part, Pems, Tls, TlsError};
use toml::de::DeValue;

use super::{
    checked::Config,
    error::{Mistake, Mistakes, Notes, Place, Wrong},
    raw::{Found, Section},
    values,
};

/// `[fleet.tls]`: the files by which instances prove to each other who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    ca: FileKey,
    cert: FileKey,
    key: FileKey,
}

/// A file as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileKey {
    /// A path in which `{label}` stands for the instance's label.
    pattern: String,
    /// The configuration's key, and where it is written.
    path: String,
    place: Place,
}

/// The files of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates of the fleet's authority.
    pub ca: PathBuf,
    /// The instance's certificate.
    pub cert: PathBuf,
    /// The instance's private key.
    pub key: PathBuf,
}

/// By what a changed file is noticed: when it was changed, and how long it is. `None`: it cannot be looked at.
pub type Looks = [Option<(SystemTime, u64)>; 3];

/// An identity, and where it comes from.
pub struct Loaded {
    /// The identity.
    pub tls: Tls,
    /// Its files.
    pub files: TlsFiles,
    /// How they looked just before they were read.
    pub looks: Looks,
}

/// One of the files cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be read: {source}", path.display())]
pub struct Unreadable {
    part: Part,
    path: PathBuf,
    source: io::Error,
}

/// What an instance goes by in certificates is this and its label.
#[must_use]
pub fn uri_prefix(fleet: &str) -> String {
    format!("rocinante://{fleet}/instance/")
}

/// `None` if something is missing or wrong, `Some(None)` if the file has no such table.
pub(super) fn read(fleet: &mut Section<'_>, notes: &mut Notes<'_>) -> Option<Option<TlsConfig>> {
    let given = fleet.has("tls");
    let Some(mut section) = fleet.table("tls", notes) else {
        return (!given).then_some(None);
    };
    let ca = section.required("ca", "\"../pki/ca.pem\"", pem, notes);
    let cert = section.required("cert", "\"../pki/{label}.pem\"", pem, notes);
    let key = section.required("key", "\"../pki/{label}.key\"", pem, notes);
    section.finish(notes);
    let file = |Found { value, path, span }: Found<String>| FileKey { pattern: value, path, place: notes.place(&span) };
    Some(Some(TlsConfig { ca: file(ca?), cert: file(cert?), key: file(key?) }))
}

fn pem(value: &DeValue<'_>) -> Result<String, Wrong> {
    values::file_pattern(value, "pki/{label}.pem")
}

impl TlsConfig {
    /// The files of instance `label`; relative paths start at the folder of the configuration `file`.
    #[must_use]
    pub fn files(&self, file: &Path, label: &str) -> TlsFiles {
        let folder = file.parent().unwrap_or(Path::new(""));
        let path = |key: &FileKey| folder.join(key.pattern.replace(LABEL, label));
        TlsFiles { ca: path(&self.ca), cert: path(&self.cert), key: path(&self.key) }
    }

    fn key_of(&self, part: Part) -> &FileKey {
        match part {
            Part::Ca => &self.ca,
            Part::Cert => &self.cert,
            Part::Key => &self.key,
        }
    }

    fn mistake(&self, file: &Path, part: Part, problem: String, remedy: String) -> Mistakes {
        let FileKey { path, place, .. } = self.key_of(part);
        Mistakes::from(Mistake {
            file: file.display().to_string(),
            place: Some(*place),
            key: path.clone(),
            problem,
            remedy,
        })
    }
}

impl TlsFiles {
    /// What the files hold now.
    ///
    /// # Errors
    /// The first one that cannot be read, or is too large to be what it should be.
    pub fn read(&self) -> Result<Pems, Unreadable> {
        let read =
            |part, path: &Path| read_pem(path).map_err(|source| Unreadable { part, path: path.to_owned(), source });
        Ok(Pems {
            ca: read(Part::Ca, &self.ca)?,
            cert: read(Part::Cert, &self.cert)?,
            key: read(Part::Key, &self.key)?,
        })
    }

    /// How the files look now.
    #[must_use]
    pub fn looks(&self) -> Looks {
        let look = |path: &PathBuf| {
            let about = fs::metadata(path).ok()?;
            Some((about.modified().ok()?, about.len()))
        };
        [&self.ca, &self.cert, &self.key].map(look)
    }

    /// The file that a part comes from.
    #[must_use]
    pub fn path_of(&self, part: Part) -> &Path {
        match part {
            Part::Ca => &self.ca,
            Part::Cert => &self.cert,
            Part::Key => &self.key,
        }
    }
}

/// The identity of instance `label` by the configuration in `file`; `None` where there is no
/// `[fleet.tls]`.
///
/// # Errors
/// The file that is missing or wrong, with the key that names it.
pub fn load(config: &Config, file: &Path, label: &str) -> Result<Option<Loaded>, Mistakes> {
    let Some(tls) = &config.fleet.tls else { return Ok(None) };
    let files = tls.files(file, label);
    let looks = files.looks();
    let pems = files.read().map_err(|error| {
        let remedy = format!("make it with rocinante pki issue --fleet {} {label}", config.fleet.name);
        tls.mistake(file, error.part, error.to_string(), remedy)
    })?;
    let tls = Tls::new(&uri_prefix(&config.fleet.name), label, &pems).map_err(|error| {
        let TlsError { part, problem, remedy } = error;
        tls.mistake(file, part, format!("{}: {problem}", files.path_of(part).display()), remedy)
    })?;
    Ok(Some(Loaded { tls, files, looks }))
}

/// Checks the files of instance `label`, or else of every instance whose files are here: on a machine of its own an
/// instance has no others. Gives what to tell of them.
///
/// # Errors
/// As [`load`]; without a label also if no instance's files are here.
pub(super) fn check(config: &Config, file: &Path, label: Option<&str>) -> Result<Option<String>, Mistakes> {
    let Some(tls) = &config.fleet.tls else { return Ok(None) };
    let labels: Vec<&str> = match label {
        Some(label) => vec![label],
        None => {
            let labels = config.fleet.instances.iter().map(|instance| instance.label.as_str());
            let is_here = |label: &&str| {
                let files = tls.files(file, label);
                files.cert.exists() || files.key.exists()
            };
            let here: Vec<&str> = labels.clone().filter(is_here).collect();
            // One name for all is one file, which can be that of one instance only.
            let shared = !tls.cert.pattern.contains(LABEL);
            match labels.clone().find(|label| load(config, file, label).is_ok()).filter(|_| shared) {
                Some(one) => vec![one],
                None if here.is_empty() => labels.take(1).collect(),
                None => here,
            }
        }
    };
    for label in &labels {
        load(config, file, label)?;
    }
    Ok(Some(format!("certificates: good for {}", labels.join(", "))))
}

fn read_pem(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {PEM_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// What stands for an instance's label in a path.
pub(super) const LABEL: &str = "{label}";
/// Largest file of certificates or keys, in bytes.
const PEM_BYTES_MAX: u64 = 256 << 10;
