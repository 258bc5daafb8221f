//! `rocinante pki`: a fleet's certificate authority, and the certificates of its instances.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use raftlog::net::{Pems, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use super::{
    Console, Failure, Result,
    args::{PkiCommand, PkiPlace},
};
use crate::config::uri_prefix;

pub(super) fn perform(console: &mut Console<'_>, command: PkiCommand) -> Result<()> {
    match command {
        PkiCommand::Init { place, days } => init(console, &place, days),
        PkiCommand::Issue { place, label, addresses, days } => issue(console, &place, &label, &addresses, days),
    }
}

fn init(console: &mut Console<'_>, place: &PkiPlace, days: u16) -> Result<()> {
    let (cert_path, key_path) = (place.dir.join(CA_CERT), place.dir.join(CA_KEY));
    refuse_overwriting(place, &[&cert_path, &key_path])?;
    let mut params = valid_for(days);
    params.distinguished_name.push(DnType::CommonName, format!("fleet {}", place.fleet));
    params.distinguished_name.push(DnType::OrganizationName, "rocinante");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(not_made)?;
    let cert = params.self_signed(&key).map_err(not_made)?;
    make_directory(&place.dir)?;
    write_file(&key_path, key.serialize_pem().as_bytes(), SECRET)?;
    write_file(&cert_path, cert.pem().as_bytes(), PUBLIC)?;
    let (cert, key, fleet) = (cert_path.display(), key_path.display(), &place.fleet);
    writeln!(console.out, "{cert}: the authority of fleet {fleet}, valid for {days} days; every instance needs it")?;
    Ok(writeln!(console.out, "{key}: its key; keep it away from the instances")?)
}

fn issue(console: &mut Console<'_>, place: &PkiPlace, label: &str, addresses: &[String], days: u16) -> Result<()> {
    let (cert_path, key_path) = (place.dir.join(format!("{label}.pem")), place.dir.join(format!("{label}.key")));
    if cert_path == place.dir.join(CA_CERT) {
        return Err(Failure::reason(format!("{CA_CERT} and {CA_KEY} are the authority's: choose another label")));
    }
    refuse_overwriting(place, &[&cert_path, &key_path])?;
    let ca = read_authority(&place.dir.join(CA_CERT))?;
    let issuer = issuer(&ca, &place.dir.join(CA_KEY))?;
    let mut params = valid_for(days);
    params.distinguished_name.push(DnType::CommonName, format!("{label} of fleet {}", place.fleet));
    params.subject_alt_names = names(&place.fleet, label, addresses)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(not_made)?;
    let cert = params.signed_by(&key, &issuer).map_err(not_made)?.pem();
    let key = key.serialize_pem();
    let pems = Pems { ca: ca.into(), cert: cert.clone().into(), key: key.clone().into() };
    // The check that instances make: the authority's key may not be that of its certificate, or it may have expired.
    Tls::new(&uri_prefix(&place.fleet), label, &pems)
        .map_err(|error| Failure::reason(format!("the certificate would not be good: {error}")))?;
    write_file(&key_path, key.as_bytes(), SECRET)?;
    write_file(&cert_path, cert.as_bytes(), PUBLIC)?;
    let (cert, key) = (cert_path.display(), key_path.display());
    Ok(writeln!(
        console.out,
        "{cert}: instance {label} of fleet {}, valid for {days} days\n{key}: its key",
        place.fleet
    )?)
}

fn refuse_overwriting(place: &PkiPlace, paths: &[&PathBuf]) -> Result<()> {
    match paths.iter().find(|path| path.exists()) {
        Some(path) if !place.force => {
            Err(Failure::reason(format!("{} is there already; --force overwrites it", path.display())))
        }
        _ => Ok(()),
    }
}

fn read_authority(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| {
        Failure::reason(format!("{} cannot be read: {error}; rocinante pki init makes it", path.display()))
    })
}

fn issuer(ca: &str, key_path: &Path) -> Result<Issuer<'static, KeyPair>> {
    let pem = read_authority(key_path)?;
    let shown = key_path.display();
    let key =
        KeyPair::from_pem(&pem).map_err(|error| Failure::reason(format!("{shown} is no private key: {error}")))?;
    Issuer::from_ca_cert_pem(ca, key)
        .map_err(|error| Failure::reason(format!("{CA_CERT} is no certificate of an authority: {error}")))
}

/// Who an instance is among its peers, and where API clients reach it.
fn names(fleet: &str, label: &str, addresses: &[String]) -> Result<Vec<SanType>> {
    let uri = format!("{}{label}", uri_prefix(fleet));
    let mut names = vec![SanType::URI(uri.try_into().map_err(not_made)?)];
    for address in addresses {
        names.push(match address.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(address.as_str().try_into().map_err(not_made)?),
        });
    }
    Ok(names)
}

fn valid_for(days: u16) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = (now - CLOCKS_APART).into();
    params.not_after = (now + DAY * u32::from(days)).into();
    params
}

fn make_directory(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| Failure::reason(format!("the directory {} cannot be made: {error}", path.display())))
}

/// Writes the whole file or none: under another name first.
fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    let write = || -> io::Result<()> {
        let mut file = make_anew(&staged, mode)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&staged, path)
    };
    write().map_err(|error| Failure::reason(format!("{} cannot be written: {error}", path.display())))
}

/// Makes a file of ours alone: what is there, be it somebody else's or a link to elsewhere, is not written to.
pub(super) fn make_anew(path: &Path, mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

fn not_made(error: rcgen::Error) -> Failure {
    Failure::reason(format!("the certificate cannot be made: {error}"))
}

const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
/// Modes of files.
pub(super) const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How far clocks may be behind the one here: a new certificate is valid for them too.
const CLOCKS_APART: Duration = Duration::from_secs(60 * 60);
