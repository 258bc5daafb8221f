//! Who is who: the typed identifiers that every instance must compute alike.
//!
//! Identities of pools and backends are SipHash-2-4 values (Aumasson & Bernstein 2012) of their names under a fixed,
//! published key, so the same name is the same thing on every instance, in every version, whatever the order in a file.

use std::{
    fmt,
    hash::Hasher,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use siphasher::sip::SipHasher24;

/// A pool, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u64);

/// A backend: a server's name and address within its pool. The same name at another address is another backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(pub u64);

/// An instance's number in its fleet, never used again once the instance was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(pub u64);

/// One life of an instance's data directory: drawn at random when the directory is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u64);

/// A committed version of pools and verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// The log index of the last change of a thing; compare-and-set conditions name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// Log time in milliseconds: stamped by the leader, equal on all replicas at equal index, standing still while the
/// fleet is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogTime(pub u64);

/// A client's session: the log index of the entry that opened it, so never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// The fleet's identity, agreed once at its birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FleetId(pub u128);

/// Who a client is within a pool: today its source address, with IPv4-mapped IPv6 taken as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PinKey {
    /// The pool that the client came to.
    pub pool: PoolId,
    /// The client's address in IPv6 form (`::ffff:a.b.c.d` for IPv4).
    client: [u8; 16],
}

impl PoolId {
    /// The identity of the pool called `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let mut hasher = identity_hasher(b'p');
        write_text(&mut hasher, name);
        Self(hasher.finish())
    }
}

impl BackendId {
    /// The identity of the server called `name` at `address` in `pool`.
    #[must_use]
    pub fn of(pool: PoolId, name: &str, address: SocketAddr) -> Self {
        let mut hasher = identity_hasher(b'b');
        hasher.write(&pool.0.to_be_bytes());
        write_text(&mut hasher, name);
        hasher.write(&mapped(address.ip()));
        hasher.write(&address.port().to_be_bytes());
        Self(hasher.finish())
    }
}

impl PinKey {
    /// The key of `client` in `pool`.
    #[must_use]
    pub fn new(pool: PoolId, client: IpAddr) -> Self {
        Self { pool, client: mapped(client) }
    }

    /// The client's address; IPv4 where it was IPv4.
    #[must_use]
    pub fn client(&self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self.client)).to_canonical()
    }

    /// The key's 24 bytes, big-endian: pool, then client. What is hashed, stored and sent.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.pool.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.client);
        bytes
    }

    /// The hash by which keys are sharded over pin groups: SipHash-2-4 of the key's bytes under a published key.
    #[must_use]
    pub fn shard_hash(&self) -> u64 {
        let mut hasher = identity_hasher(b's');
        hasher.write(&self.to_bytes());
        hasher.finish()
    }

    /// Reads back what [`PinKey::to_bytes`] made; `None` unless there are exactly 24 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (pool, client) = bytes.split_first_chunk::<8>()?;
        Some(Self { pool: PoolId(u64::from_be_bytes(*pool)), client: client.try_into().ok()? })
    }
}

impl LogTime {
    /// This time plus `millis`, saturating.
    #[must_use]
    pub fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

impl fmt::Display for FleetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_number!(InstanceId, Epoch, Revision, LogTime, SessionId);

/// An address as 16 bytes, IPv4 mapped into IPv6 (RFC 4291 section 2.5.5.2).
fn mapped(address: IpAddr) -> [u8; 16] {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn identity_hasher(kind: u8) -> SipHasher24 {
    let mut hasher = SipHasher24::new_with_key(IDENTITY_KEY);
    hasher.write(&[kind]);
    hasher
}

/// Length first, so that no two lists of texts hash alike by sliding.
fn write_text(hasher: &mut SipHasher24, text: &str) {
    hasher.write(&(text.len() as u64).to_be_bytes());
    hasher.write(text.as_bytes());
}

/// The published key of identity hashes. Changing it renames every backend of every fleet.
const IDENTITY_KEY: &[u8; 16] = b"rocinante-ids-v1";

/// The published key of table digests.
pub(crate) const DIGEST_KEY: &[u8; 16] = b"rocinante-digest";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_stable_across_versions() {
        // Vectors: a change here would rename every pool and backend of running fleets.
        let pool = PoolId::of("web");
        let backend = BackendId::of(pool, "s1", "127.0.0.1:8887".parse().unwrap());
        assert_eq!(format!("{:016x} {:016x}", pool.0, backend.0), VECTORS);
    }

    #[test]
    fn another_address_is_another_backend() {
        let pool = PoolId::of("web");
        let first = BackendId::of(pool, "s1", "127.0.0.1:1".parse().unwrap());
        assert_ne!(first, BackendId::of(pool, "s1", "127.0.0.2:1".parse().unwrap()));
        assert_ne!(first, BackendId::of(pool, "s1", "127.0.0.1:2".parse().unwrap()));
        assert_ne!(first, BackendId::of(PoolId::of("api"), "s1", "127.0.0.1:1".parse().unwrap()));
    }

    #[test]
    fn mapped_ipv4_is_ipv4() {
        let pool = PoolId::of("web");
        let plain = PinKey::new(pool, "10.1.2.3".parse().unwrap());
        let through_v6 = PinKey::new(pool, "::ffff:10.1.2.3".parse().unwrap());
        assert_eq!(plain, through_v6);
        assert_eq!(plain.client(), "10.1.2.3".parse::<IpAddr>().unwrap());
        assert_eq!(PinKey::from_bytes(&plain.to_bytes()), Some(plain));
        assert_eq!(PinKey::from_bytes(&[0; 23]), None);
    }

    const VECTORS: &str = "12dcf82ab2f50cf1 587a98ef572f1e79";
}
