//! pool.toml: what an operator writes, read into checked types, with every mistake named at its place.
//!
//! ```text
//! text -> TOML with spans -> raw (typed reads of keys) -> checked (Config) -> the rest of the program
//!                                     \-> mistakes, all of them
//! ```
//!
//! A [`Config`] that exists is a good one; nothing behind this module checks it again.

mod checked;
mod diff;
mod error;
mod fleet;
mod pool;
mod raw;
mod render;
pub(crate) mod rules;
mod tls;
mod values;
mod vip;

use std::{fs, io::Read, path::Path};

pub use checked::{Config, FleetConfig, Host, InstanceConfig, Limits};
pub use diff::{Difference, diff};
pub use error::{Mistake, Mistakes, Place};
pub use render::render_pool;
pub use tls::{Loaded, Looks, TlsConfig, TlsFiles, load as load_tls, uri_prefix};
pub use values::{duration_text, parse_duration_ms};
pub use vip::{Announcer, VipConfig};

/// Largest configuration file, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Reads and checks the file at `path`.
///
/// # Errors
/// Every mistake of the file, or that it cannot be read.
pub fn check_file(path: &Path) -> Result<Config, Mistakes> {
    let name = path.display().to_string();
    match read(path) {
        Ok(bytes) => parse(&name, &bytes),
        Err(mistake) => Err(Mistakes::from(Mistake { file: name, ..mistake })),
    }
}

/// Checks the bytes of a file called `file`.
///
/// # Errors
/// Every mistake in it, in the order of their places; only the first one if it is not TOML.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Config, Mistakes> {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default());
            let mut notes = error::Notes::new(file, &good);
            notes.not_utf8();
            return notes.finish(None);
        }
    };
    let mut notes = error::Notes::new(file, text);
    let config = match toml::de::DeTable::parse(text) {
        Ok(document) => checked::read(&document, &mut notes),
        Err(error) => {
            notes.not_toml(&error);
            None
        }
    };
    notes.finish(config)
}

/// Whether a fleet or an instance may be called so.
///
/// # Errors
/// What is wrong with the name, and what would be right.
pub fn check_name(name: &str) -> Result<(), String> {
    values::check_name(name).map_err(|wrong| wrong.to_string())
}

/// What `rocinante check` prints: of a good file a summary for standard output, of a bad one the mistakes for standard
/// error. Certificates are those of instance `label`, or else of all instances that have some here.
///
/// # Errors
/// The text of all mistakes.
pub fn check_report(path: &Path, label: Option<&str>) -> Result<String, String> {
    let config = check_file(path).map_err(|mistakes| mistakes.to_string())?;
    if let Some(label) = label.filter(|label| config.fleet.instance(label).is_none()) {
        let listed: Vec<&str> = config.fleet.instances.iter().map(|instance| instance.label.as_str()).collect();
        return Err(format!("{}: there is no instance {label}; it lists {}", path.display(), listed.join(", ")));
    }
    let certificates = tls::check(&config, path, label).map_err(|mistakes| mistakes.to_string())?;
    let certificates = certificates.map_or_else(String::new, |line| format!("\n{line}"));
    Ok(format!("{}: good\n{config}{certificates}", path.display()))
}

/// The file's bytes; a [`Mistake`] without a file name otherwise.
fn read(path: &Path) -> Result<Vec<u8>, Mistake> {
    let failed = |problem: String, remedy: &str| Mistake {
        file: String::new(),
        place: None,
        key: String::new(),
        problem,
        remedy: remedy.to_owned(),
    };
    let unreadable =
        |error: std::io::Error| failed(format!("cannot be read: {error}"), "name a readable file with --config");
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    // One byte more than allowed tells a file that is too large, also where its size is not known (a pipe).
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(failed(
            format!("is larger than {MAX_CONFIG_BYTES} bytes"),
            "name a pool.toml with --config, not another file",
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
