//! A WebSocket that echoes, to see upgrades pass through a proxy.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The head that accepts an upgrade.
pub fn accept_head(key: &str, name: &str) -> String {
    let digest = sha1(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nx-backend: {name}\r\n\
         sec-websocket-accept: {}\r\n\r\n",
        base64(&digest)
    )
}

/// Sends every frame back until a close frame or the end.
pub async fn echo(stream: &mut TcpStream, mut bytes: Vec<u8>) -> io::Result<()> {
    loop {
        while let Some((frame, length)) = Frame::parse(&bytes)? {
            bytes.drain(..length);
            let opcode = if frame.opcode == PING { PONG } else { frame.opcode };
            stream.write_all(&Frame { opcode, ..frame }.to_bytes()).await?;
            if opcode == CLOSE {
                return stream.shutdown().await;
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

/// One frame, unmasked.
struct Frame {
    last: bool,
    opcode: u8,
    payload: Vec<u8>,
}

impl Frame {
    /// The first frame in `bytes` and how many bytes it takes; `None` when it is not whole yet.
    fn parse(bytes: &[u8]) -> io::Result<Option<(Frame, usize)>> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let (length, rest) = match (second & 0x7f, rest) {
            (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest),
            (126 | 127, _) => return Ok(None),
            (short, rest) => (u64::from(short), rest),
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= PAYLOAD_BYTES_MAX);
        let Some(length) = length else { return Err(io::ErrorKind::InvalidData.into()) };
        if second & 0x80 == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let [a, b, c, d, rest @ ..] = rest else { return Ok(None) };
        let mask = [*a, *b, *c, *d];
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        let used = bytes.len() - rest.len() + length;
        Ok(Some((Frame { last: first & 0x80 != 0, opcode: first & 0x0f, payload }, used)))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.opcode | if self.last { 0x80 } else { 0 }];
        match (u8::try_from(self.payload.len()), u16::try_from(self.payload.len())) {
            (Ok(short), _) if short < 126 => bytes.push(short),
            (_, Ok(middle)) => {
                bytes.push(126);
                bytes.extend(middle.to_be_bytes());
            }
            _ => {
                bytes.push(127);
                bytes.extend((self.payload.len() as u64).to_be_bytes());
            }
        }
        bytes.extend(&self.payload);
        bytes
    }
}

/// SHA-1, which the handshake asks for and nothing else here does.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut state: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut words = [0_u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
        }
        for index in 16..80 {
            words[index] = (words[index - 3] ^ words[index - 8] ^ words[index - 14] ^ words[index - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (index, word) in words.iter().enumerate() {
            let (mix, constant) = match index {
                0..20 => (b & c | !b & d, 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = a.rotate_left(5).wrapping_add(mix).wrapping_add(e).wrapping_add(constant).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, value) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(value);
        }
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for position in 0..4 {
            let index = (word >> (18 - 6 * position)) & 63;
            text.push(if position > group.len() { '=' } else { char::from(ALPHABET[index as usize]) });
        }
    }
    text
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_of_the_standard() {
        assert!(accept_head("dGhlIHNhbXBsZSBub25jZQ==", "s1").contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[test]
    fn frames_are_unmasked_and_partial_frames_wait() {
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let (frame, used) = Frame::parse(&hello).unwrap().unwrap();
        assert_eq!((frame.payload.as_slice(), used), (b"Hello".as_slice(), hello.len()));
        assert_eq!(frame.to_bytes(), [0x81, 5, b'H', b'e', b'l', b'l', b'o']);
        for length in 0..hello.len() {
            assert!(Frame::parse(&hello[..length]).unwrap().is_none());
        }
    }
}
