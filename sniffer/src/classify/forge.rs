//! First messages made by hand, for tests: those of TLS and QUIC as a client makes them.

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, Side,
    crypto::ring::{cipher_suite::TLS13_AES_128_GCM_SHA256, default_provider},
    quic::{Keys, Version},
};

/// A record with the hello of a client that wants this server and speaks these protocols.
pub fn client_hello(name: &'static str, protocols: &[&[u8]]) -> Option<Vec<u8>> {
    let builder = ClientConfig::builder_with_provider(default_provider().into());
    let versions = builder.with_safe_default_protocol_versions().ok()?;
    let mut config = versions.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let mut client = ClientConnection::new(config.into(), name.try_into().ok()?).ok()?;
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).ok()?;
    Some(bytes)
}

/// A client's first datagram with these frames, encrypted with the keys that come from the connection's id.
pub fn initial(version: (u32, Version), id: &[u8], mut frames: Vec<u8>) -> Option<Vec<u8>> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()?;
    let keys: Keys = suite.keys(id, Side::Client, version.1);
    frames.resize(frames.len().max(1162), 0);
    let kind = if version.0 == 0x6b33_43cf { 0xd3 } else { 0xc3 };
    let mut packet = vec![kind];
    packet.extend(version.0.to_be_bytes());
    packet.push(id.len() as u8);
    packet.extend(id);
    packet.extend([0, 0]);
    packet.extend(((4 + frames.len() + 16) as u16 | 0x4000).to_be_bytes());
    let header = packet.len();
    packet.extend(7_u32.to_be_bytes());
    let tag = keys.local.packet.encrypt_in_place(7, &packet, &mut frames).ok()?;
    packet.extend(&frames);
    packet.extend(tag.as_ref());
    let sample = packet[header + 4..header + 20].to_vec();
    let (head, rest) = packet.split_at_mut(header);
    keys.local.header.encrypt_in_place(&sample, &mut head[0], &mut rest[..4]).ok()?;
    Some(packet)
}

/// CRYPTO frames of so many bytes each, the last first.
pub fn crypto(message: &[u8], part: usize) -> Vec<u8> {
    let mut frames = vec![1];
    for (number, part_bytes) in message.chunks(part).enumerate().collect::<Vec<_>>().into_iter().rev() {
        let varint = |number: usize| (number as u16 | 0x4000).to_be_bytes();
        frames.push(6);
        frames.extend(varint(number * part));
        frames.extend(varint(part_bytes.len()));
        frames.extend(part_bytes);
    }
    frames
}
