//! What the fuzz targets share: inputs to start from.

use std::path::Path;

/// Writes inputs to start from into the folder that `FUZZ_SEEDS` names, if it names one.
///
/// # Panics
/// If they cannot be written.
pub fn sow(seeds: Vec<Vec<u8>>) {
    let Some(folder) = std::env::var_os("FUZZ_SEEDS") else { return };
    for (number, seed) in seeds.iter().enumerate() {
        let path = Path::new(&folder).join(format!("seed-{number}"));
        if let Err(error) = std::fs::write(&path, seed) {
            panic!("{}: {error}", path.display());
        }
    }
}
