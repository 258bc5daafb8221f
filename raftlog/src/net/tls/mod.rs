//! Who a peer proves to be: mutual TLS within a fleet, with certificates that can be exchanged while it runs.
//!
//! A fleet has a certificate authority of its own. The certificate of an instance carries, as a subject alternative name
//! of kind URI, the fleet's prefix followed by the instance's label; that name is its identity, whatever its address is.
//! Both sides check that the other's certificate comes from the fleet's authority, is valid now, and names who is meant.
//!
//! Sessions are never resumed: a resumed one would rest on a check that was made by certificates of an earlier day.

mod explain;
mod verify;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

pub(super) use explain::{explain, handshake_trouble};
use verify::FleetServers;

/// The identity of this instance towards its peers, shared by all its connections. What [`Tls::reload`] changes counts
/// for every connection that is opened later; open ones go on as they are.
pub struct Tls {
    /// What comes before the label in a certificate's URI.
    uri_prefix: String,
    label: String,
    current: ArcSwap<Current>,
}

/// The three files of an instance, as PEM.
#[derive(Clone)]
pub struct Pems {
    /// The certificates of the fleet's authority; more than one while it is being replaced.
    pub ca: Vec<u8>,
    /// This instance's certificate, and whatever stands between it and the authority.
    pub cert: Vec<u8>,
    /// This instance's private key.
    pub key: Vec<u8>,
}

/// One of [`Pems`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The authority's certificates.
    Ca,
    /// The instance's certificate.
    Cert,
    /// The instance's key.
    Key,
}

/// Why PEMs were not taken: which of them is wrong, how, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {remedy}")]
pub struct TlsError {
    /// Which of the three.
    pub part: Part,
    /// What was found.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

/// What follows from one set of PEMs.
struct Current {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    expires_at: u64,
}

impl Tls {
    /// The identity of instance `label`. Certificates name an instance by `uri_prefix` and its label.
    ///
    /// # Errors
    /// If a peer could not check these PEMs: see [`TlsError`].
    pub fn new(uri_prefix: &str, label: &str, pems: &Pems) -> Result<Tls, TlsError> {
        let current = Current::new(uri_prefix, label, pems)?;
        Ok(Tls { uri_prefix: uri_prefix.into(), label: label.into(), current: ArcSwap::from_pointee(current) })
    }

    /// Takes other PEMs for all connections from now on.
    ///
    /// # Errors
    /// As [`Tls::new`]; the former ones stay in use.
    pub fn reload(&self, pems: &Pems) -> Result<(), TlsError> {
        self.current.store(Arc::new(Current::new(&self.uri_prefix, &self.label, pems)?));
        Ok(())
    }

    /// When this instance's certificate, or the last of what it rests on, expires: seconds since 1970.
    pub fn expires_at(&self) -> u64 {
        self.current.load().expires_at
    }

    /// Takes PEMs that have been good once.
    #[cfg(test)]
    pub(super) fn replace_unchecked(&self, pems: &Pems) {
        self.current.store(Arc::new(Material::read(pems).and_then(Material::configure).unwrap()));
    }

    /// Shows no certificate any more.
    #[cfg(test)]
    pub(super) fn forget_certificate(&self) {
        let current = self.current.load();
        let mut client = ClientConfig::clone(&current.client);
        client.client_auth_cert_resolver = Arc::new(NoCertificate);
        let client = Arc::new(client);
        self.current.store(Arc::new(Current { client, server: current.server.clone(), expires_at: 0 }));
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        self.current.load().client.clone()
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        self.current.load().server.clone()
    }

    /// The label that a checked certificate names.
    pub(super) fn label_of(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<String, String> {
        let Some(leaf) = chain.and_then(<[_]>::first) else { return Err("it showed no certificate".into()) };
        label_in(&self.uri_prefix, leaf)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("uri_prefix", &self.uri_prefix).field("label", &self.label).finish_non_exhaustive()
    }
}

impl fmt::Debug for Pems {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pems").finish_non_exhaustive()
    }
}

/// What PEMs hold, before it is known to be of use.
struct Material {
    provider: Arc<CryptoProvider>,
    servers: Arc<FleetServers>,
    clients: Arc<dyn ClientCertVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<CertifiedKey>,
    expires_at: u64,
}

impl Current {
    fn new(uri_prefix: &str, label: &str, pems: &Pems) -> Result<Current, TlsError> {
        let material = Material::read(pems)?;
        material.check(uri_prefix, label)?;
        material.configure()
    }
}

impl Material {
    fn read(pems: &Pems) -> Result<Material, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (roots, roots_expire_at) = roots(&pems.ca)?;
        let roots = Arc::new(roots);
        let chain = certificates(&pems.cert, Part::Cert)?;
        let key = certified_key(&chain, &pems.key, &provider)?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| wrong(Part::Ca, error.to_string(), CA_REMEDY))?;
        let servers = Arc::new(FleetServers::new(roots, &provider));
        let expires_at = chain.iter().map(expiry).try_fold(roots_expire_at, |least, at| at.map(|at| at.min(least)));
        let expires_at = expires_at.map_err(|problem| wrong(Part::Cert, problem, CERT_REMEDY))?;
        Ok(Material { provider, servers, clients, chain, key, expires_at })
    }

    /// What a peer would check, in both directions.
    fn check(&self, uri_prefix: &str, label: &str) -> Result<(), TlsError> {
        let Some((leaf, intermediates)) = self.chain.split_first() else {
            return Err(wrong(Part::Cert, "there is no certificate in it", CERT_REMEDY));
        };
        let now = UnixTime::now();
        let checked = self.servers.check(leaf, intermediates, now);
        let checked = checked.and_then(|()| self.clients.verify_client_cert(leaf, intermediates, now).map(drop));
        checked.map_err(|error| wrong(Part::Cert, explain(&error), "issue a new one from the fleet's authority"))?;
        let name_remedy = format!("issue one with the URI {uri_prefix}{label} among its subject alternative names");
        match label_in(uri_prefix, leaf) {
            Ok(named) if named == label => Ok(()),
            Ok(named) => Err(wrong(Part::Cert, format!("it is the certificate of instance {named}"), name_remedy)),
            Err(problem) => Err(wrong(Part::Cert, problem, name_remedy)),
        }
    }

    fn configure(self) -> Result<Current, TlsError> {
        let Material { provider, servers, clients, key, expires_at, .. } = self;
        let client = client(&provider, servers, &key)?;
        Ok(Current { client, server: server(&provider, clients, key)?, expires_at })
    }
}

/// The one label that a certificate names after the prefix.
fn label_in(uri_prefix: &str, certificate: &CertificateDer<'_>) -> Result<String, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| format!("no certificate: {error}"))?;
    let names = parsed.subject_alternative_name().map_err(|error| format!("its names make no sense: {error}"))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let mut labels = uris.iter().filter_map(|uri| uri.strip_prefix(uri_prefix));
    match (labels.next(), labels.next()) {
        (Some(label), None) => Ok(label.into()),
        (Some(_), Some(_)) => Err(format!("it names more than one instance: {}", shown(&uris))),
        (None, _) if uris.is_empty() => Err("it names no instance".into()),
        (None, _) => Err(format!("it names no instance of this fleet, but {}", shown(&uris))),
    }
}

fn shown(uris: &[&str]) -> String {
    uris.join(", ").chars().take(NAMES_CHARS_MAX).collect()
}

fn expiry(certificate: &CertificateDer<'_>) -> Result<u64, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| format!("no certificate: {error}"))?;
    Ok(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0))
}

/// The authority's certificates, and when the last of them expires.
fn roots(pem: &[u8]) -> Result<(RootCertStore, u64), TlsError> {
    let mut roots = RootCertStore::empty();
    let mut last = 0;
    for certificate in certificates(pem, Part::Ca)? {
        last = last.max(expiry(&certificate).map_err(|problem| wrong(Part::Ca, problem, CA_REMEDY))?);
        roots.add(certificate).map_err(|error| wrong(Part::Ca, explain(&error), CA_REMEDY))?;
    }
    Ok((roots, last))
}

fn certificates(pem: &[u8], part: Part) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let remedy = if part == Part::Ca { CA_REMEDY } else { CERT_REMEDY };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|error| wrong(part, format!("not PEM: {error}"), remedy))?;
    match read.len() {
        0 => Err(wrong(part, "there is no certificate in it", remedy)),
        1..=CERTIFICATES_MAX => Ok(read),
        count => Err(wrong(part, format!("{count} certificates are more than {CERTIFICATES_MAX}"), remedy)),
    }
}

fn certified_key(
    chain: &[CertificateDer<'static>],
    pem: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| wrong(Part::Key, format!("there is no private key in it: {error}"), KEY_REMEDY))?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| wrong(Part::Key, format!("the key cannot be used: {error}"), KEY_REMEDY))?;
    let pair = CertifiedKey::new(chain.to_vec(), key);
    match pair.keys_match() {
        Ok(()) => Ok(Arc::new(pair)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(wrong(Part::Key, "it does not belong to the certificate", KEY_REMEDY))
        }
        Err(error) => Err(wrong(Part::Cert, explain(&error), CERT_REMEDY)),
    }
}

fn client(
    provider: &Arc<CryptoProvider>,
    servers: Arc<FleetServers>,
    key: &Arc<CertifiedKey>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(VERSIONS)
        .map_err(|error| wrong(Part::Key, error.to_string(), KEY_REMEDY))?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(servers)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn server(
    provider: &Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
    key: Arc<CertifiedKey>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(VERSIONS)
        .map_err(|error| wrong(Part::Key, error.to_string(), KEY_REMEDY))?;
    let mut config =
        builder.with_client_cert_verifier(clients).with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// A client without a certificate.
#[cfg(test)]
#[derive(Debug)]
struct NoCertificate;

#[cfg(test)]
impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

fn wrong(part: Part, problem: impl Into<String>, remedy: impl Into<String>) -> TlsError {
    TlsError { part, problem: problem.into(), remedy: remedy.into() }
}

/// Peers are of one make: nothing older than TLS 1.3 is spoken.
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
/// What is spoken inside: HTTP/2.
const ALPN: &[u8] = b"h2";
/// The most certificates in one PEM.
const CERTIFICATES_MAX: usize = 16;
/// The longest list of names that a message repeats.
const NAMES_CHARS_MAX: usize = 256;

const CA_REMEDY: &str = "name a PEM file with the certificate of the fleet's authority";
const CERT_REMEDY: &str = "name a PEM file with the certificate of this instance";
const KEY_REMEDY: &str = "name the PEM file with the private key that was made with the certificate";
