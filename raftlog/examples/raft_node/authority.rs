//! A fleet's authority, for as long as a measurement takes.

use raftlog::net::Pems;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// If no key or certificate can be made.
    pub fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// The identity of `label`.
    ///
    /// # Errors
    /// If the label cannot be in a certificate, or none can be made.
    pub fn issue(&self, label: &str) -> Result<Pems, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(format!("{PREFIX}{label}").try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pems { ca: self.pem.clone().into(), cert: cert.into(), key: key.serialize_pem().into() })
    }
}

/// What comes before labels in certificates.
pub const PREFIX: &str = "bench://fleet/";
