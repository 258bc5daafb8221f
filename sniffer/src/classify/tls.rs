//! TLS (RFC 8446) by its first records: the client's hello with its names, or the server's.

use flow::app::ALPN_BYTES_MAX;
use ring::digest;

use super::{App, Confidence, Label, Verdict, label};

/// What one side of a connection said; none: that is no TLS.
pub fn examine(bytes: &[u8]) -> Option<Verdict> {
    let [kind @ 20..=23, 3, 0..=4, high, low, rest @ ..] = bytes else { return ssl2(bytes) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length == 0 || length > RECORD_BYTES_MAX {
        return None;
    }
    if *kind != 22 {
        // An alert or encrypted records: the beginning was missed.
        return Some(Verdict::Partly(Label::new(App::Tls, Confidence::Partial)));
    }
    match rest.first() {
        None => Some(Verdict::More),
        Some(1) => match handshake(bytes).as_deref().and_then(client_hello) {
            Some(hello) => Some(Verdict::Known(hello.label(App::Tls, 't'))),
            None => Some(Verdict::Partly(Label::sure(App::Tls))),
        },
        Some(0 | 2 | 4 | 8 | 11..=16 | 20..=22) => Some(Verdict::Partly(Label::sure(App::Tls))),
        Some(_) => None,
    }
}

/// The hello of clients that know older versions as well (RFC 5246, appendix E.2).
fn ssl2(bytes: &[u8]) -> Option<Verdict> {
    let [high @ 0x80..=0xff, low, 1, 3, 0..=3, cipher_high, cipher_low, ..] = bytes else { return None };
    let length = usize::from(*high & 0x7f) << 8 | usize::from(*low);
    let ciphers = usize::from(u16::from_be_bytes([*cipher_high, *cipher_low]));
    (length < 1024 && ciphers % 3 == 0 && ciphers < length).then(|| Verdict::Known(Label::sure(App::Tls)))
}

/// The first handshake message, of the records that carry it; none: not all of it is there.
fn handshake(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut message: Vec<u8> = Vec::new();
    while let [22, 3, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let part = &rest[..length.min(rest.len())];
        message.extend_from_slice(part);
        if message.len() >= 4 {
            let length = 4 + (usize::from(message[1]) << 16 | usize::from(message[2]) << 8 | usize::from(message[3]));
            if message.len() >= length {
                message.truncate(length);
                return Some(message);
            }
        }
        bytes = rest.get(length..)?;
    }
    None
}

/// What a client says at first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hello<'a> {
    version: u16,
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    signatures: Vec<u16>,
    server_name: Option<&'a [u8]>,
    protocol: Option<&'a [u8]>,
}

impl Hello<'_> {
    /// As the label of a flow; `transport` is what JA4 calls it: t, q or d.
    pub fn label(&self, app: App, transport: char) -> Label {
        let mut label = Label::sure(app);
        label.host = self.server_name.and_then(label::name);
        label.alpn = self.protocol.and_then(|text| label::name_within(text, ALPN_BYTES_MAX));
        label.ja4 = Some(self.ja4(transport).into());
        label
    }

    /// JA4 (github.com/FoxIO-LLC/ja4/blob/main/technical_details/JA4.md).
    fn ja4(&self, transport: char) -> String {
        let version = match self.version {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            0x0300 => "s3",
            0x0002 => "s2",
            0xfeff => "d1",
            0xfefd => "d2",
            0xfefc => "d3",
            _ => "00",
        };
        let name = if self.server_name.is_some() { 'd' } else { 'i' };
        let protocol = match self.protocol {
            Some([first, .., last]) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() => {
                format!("{}{}", char::from(*first), char::from(*last))
            }
            Some([only]) if only.is_ascii_alphanumeric() => format!("{0}{0}", char::from(*only)),
            Some([first, .., last]) => format!("{:x}{:x}", first >> 4, last & 15),
            Some([only]) => format!("{:02x}", only),
            Some([]) | None => "00".to_owned(),
        };
        let mut ciphers = self.ciphers.clone();
        ciphers.sort_unstable();
        let mut extensions: Vec<u16> = self.extensions.iter().copied().filter(|kind| !matches!(kind, 0 | 16)).collect();
        extensions.sort_unstable();
        let mut third = listed(&extensions);
        if !self.signatures.is_empty() {
            third = format!("{third}_{}", listed(&self.signatures));
        }
        format!(
            "{transport}{version}{name}{:02}{:02}{protocol}_{}_{}",
            self.ciphers.len().min(99),
            self.extensions.len().min(99),
            hashed(&listed(&ciphers)),
            if extensions.is_empty() { "000000000000".to_owned() } else { hashed(&third) },
        )
    }
}

fn listed(numbers: &[u16]) -> String {
    let mut text = String::with_capacity(5 * numbers.len());
    for number in numbers {
        if !text.is_empty() {
            text.push(',');
        }
        number.to_be_bytes().iter().for_each(|byte| push_hex(&mut text, *byte));
    }
    text
}

/// The first 12 digits of SHA-256.
fn hashed(text: &str) -> String {
    if text.is_empty() {
        return "000000000000".to_owned();
    }
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let mut digits = String::with_capacity(12);
    digest.as_ref().iter().take(6).for_each(|byte| push_hex(&mut digits, *byte));
    digits
}

/// Two digits. Formatting is what a fingerprint would cost most.
fn push_hex(text: &mut String, byte: u8) {
    for digit in [byte >> 4, byte & 15] {
        text.push(char::from(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }));
    }
}

/// Reads a ClientHello with its handshake header (RFC 8446, section 4.1.2).
pub fn client_hello(message: &[u8]) -> Option<Hello<'_>> {
    let mut rest = Reader(message);
    if rest.u8()? != 1 {
        return None;
    }
    rest.take(3)?;
    hello_body(rest, false)
}

/// The body of a ClientHello; that of DTLS has a cookie (RFC 6347, section 4.2.1).
pub fn hello_body(mut rest: Reader<'_>, cookie: bool) -> Option<Hello<'_>> {
    let mut hello = Hello { version: rest.u16()?, ..Hello::default() };
    rest.take(32)?;
    rest.short()?;
    if cookie {
        rest.short()?;
    }
    let mut ciphers = Reader(rest.long()?);
    while let Some(cipher) = ciphers.u16() {
        if !greased(cipher) {
            hello.ciphers.push(cipher);
        }
    }
    rest.short()?;
    // Clients of long ago end here.
    let Some(extensions) = rest.long() else { return Some(hello) };
    let mut extensions = Reader(extensions);
    while let (Some(kind), Some(body)) = (extensions.u16(), extensions.long()) {
        if greased(kind) {
            continue;
        }
        hello.extensions.push(kind);
        extension(&mut hello, kind, Reader(body));
    }
    Some(hello)
}

/// What is of interest of an extension; one that makes no sense says nothing.
fn extension<'a>(hello: &mut Hello<'a>, kind: u16, mut body: Reader<'a>) -> Option<()> {
    match kind {
        // server_name (RFC 6066): a list, of which the first host name counts.
        0 => {
            let mut names = Reader(body.long()?);
            while let (Some(kind), Some(name)) = (names.u8(), names.long()) {
                if kind == 0 {
                    hello.server_name = Some(name);
                    break;
                }
            }
        }
        // signature_algorithms
        13 => {
            let mut list = Reader(body.long()?);
            while let Some(algorithm) = list.u16() {
                if !greased(algorithm) {
                    hello.signatures.push(algorithm);
                }
            }
        }
        // application_layer_protocol_negotiation (RFC 7301)
        16 => {
            let mut list = Reader(body.long()?);
            hello.protocol = list.short();
        }
        // supported_versions: the highest counts, and the field at the front is for old middleboxes.
        43 => {
            let mut list = Reader(body.short()?);
            let mut best = None;
            while let Some(version) = list.u16() {
                if !greased(version) {
                    best = best.max(Some(version));
                }
            }
            hello.version = best?;
        }
        _ => {}
    }
    Some(())
}

/// Numbers that mean nothing, sent so that servers ignore what they do not know (RFC 8701).
fn greased(number: u16) -> bool {
    number & 0x0f0f == 0x0a0a && number >> 8 == number & 0xff
}

/// Bytes read from the front.
#[derive(Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// So many bytes.
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// Two, big-endian.
    pub fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// As many as the byte in front says.
    pub fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// As many as the two bytes in front say.
    pub fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

/// Most bytes of a record: 2^14, and what encryption adds (RFC 5246).
const RECORD_BYTES_MAX: usize = (1 << 14) + 2048;
