//! Certificates for a fleet that lives as long as a measurement.

use std::{fs, path::Path, sync::Arc};

use raftlog::net::{Pems, Tls};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

use crate::Result;

/// Makes `ca.pem`, and `LABEL.pem` and `LABEL.key` for each label.
///
/// # Errors
/// If a file cannot be written.
pub fn make(directory: &Path, labels: &[String]) -> Result<()> {
    fs::create_dir_all(directory)?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    fs::write(directory.join(CA), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    for label in labels {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(format!("{PREFIX}{label}").try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        fs::write(directory.join(format!("{label}.pem")), params.signed_by(&key, &issuer)?.pem())?;
        fs::write(directory.join(format!("{label}.key")), key.serialize_pem())?;
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
/// What comes before labels in certificates.
const PREFIX: &str = "bench://fleet/";
