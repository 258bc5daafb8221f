//! Certificates for a fleet that lives as long as a measurement, as files.

use std::{fs, path::Path, sync::Arc};

use raftlog::net::{Pems, Tls};

use crate::{
    Result,
    authority::{Authority, PREFIX},
};

/// Makes `ca.pem`, and `LABEL.pem` and `LABEL.key` for each label.
///
/// # Errors
/// If a file cannot be written.
pub fn make(directory: &Path, labels: &[String]) -> Result<()> {
    fs::create_dir_all(directory)?;
    let authority = Authority::new()?;
    for label in labels {
        let pems = authority.issue(label)?;
        fs::write(directory.join(CA), pems.ca)?;
        fs::write(directory.join(format!("{label}.pem")), pems.cert)?;
        fs::write(directory.join(format!("{label}.key")), pems.key)?;
    }
    Ok(())
}

/// The identity of `label`, as [`make`] wrote it.
///
/// # Errors
/// If the files cannot be read or do not fit each other.
pub fn load(directory: &Path, label: &str) -> Result<Arc<Tls>> {
    let read = |name: String| fs::read(directory.join(name));
    let pems =
        Pems { ca: read(CA.to_owned())?, cert: read(format!("{label}.pem"))?, key: read(format!("{label}.key"))? };
    Ok(Arc::new(Tls::new(PREFIX, label, &pems)?))
}

const CA: &str = "ca.pem";
