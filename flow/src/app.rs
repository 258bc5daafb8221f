//! What a flow carries, in words.
//!
//! Numbers of protocols are in the log and in snapshots: none is ever given to another one.

/// An application protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum App {
    Tls = 1,
    Quic,
    Http,
    Http2,
    Dns,
    Mdns,
    Llmnr,
    Dhcp,
    Ntp,
    Ssh,
    Stun,
    Dtls,
    WireGuard,
    Sip,
    Rtp,
    Rtcp,
    BitTorrent,
    Smtp,
    Imap,
    Pop3,
    Ftp,
    MySql,
    PostgreSql,
    Redis,
    Mqtt,
    Amqp,
    Rtsp,
    Snmp,
    Tftp,
    Ssdp,
    Socks,
    Smb,
    Rdp,
    Kerberos,
    Ldap,
    Bgp,
    Irc,
    Xmpp,
    Memcached,
    NetBios,
    Openvpn,
    IpSec,
    Ptp,
    Modbus,
}

impl App {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Tls,
        Self::Quic,
        Self::Http,
        Self::Http2,
        Self::Dns,
        Self::Mdns,
        Self::Llmnr,
        Self::Dhcp,
        Self::Ntp,
        Self::Ssh,
        Self::Stun,
        Self::Dtls,
        Self::WireGuard,
        Self::Sip,
        Self::Rtp,
        Self::Rtcp,
        Self::BitTorrent,
        Self::Smtp,
        Self::Imap,
        Self::Pop3,
        Self::Ftp,
        Self::MySql,
        Self::PostgreSql,
        Self::Redis,
        Self::Mqtt,
        Self::Amqp,
        Self::Rtsp,
        Self::Snmp,
        Self::Tftp,
        Self::Ssdp,
        Self::Socks,
        Self::Smb,
        Self::Rdp,
        Self::Kerberos,
        Self::Ldap,
        Self::Bgp,
        Self::Irc,
        Self::Xmpp,
        Self::Memcached,
        Self::NetBios,
        Self::Openvpn,
        Self::IpSec,
        Self::Ptp,
        Self::Modbus,
    ];

    /// Its number in the log.
    #[must_use]
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The protocol of that number; none: it is of a later version.
    #[must_use]
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|app| app.number() == number)
    }

    /// The protocol of that name, in any case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|app| app.name().eq_ignore_ascii_case(name))
    }

    /// Its name in reports, as Wireshark and nDPI write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls => "TLS",
            Self::Quic => "QUIC",
            Self::Http => "HTTP",
            Self::Http2 => "HTTP2",
            Self::Dns => "DNS",
            Self::Mdns => "MDNS",
            Self::Llmnr => "LLMNR",
            Self::Dhcp => "DHCP",
            Self::Ntp => "NTP",
            Self::Ssh => "SSH",
            Self::Stun => "STUN",
            Self::Dtls => "DTLS",
            Self::WireGuard => "WireGuard",
            Self::Sip => "SIP",
            Self::Rtp => "RTP",
            Self::Rtcp => "RTCP",
            Self::BitTorrent => "BitTorrent",
            Self::Smtp => "SMTP",
            Self::Imap => "IMAP",
            Self::Pop3 => "POP3",
            Self::Ftp => "FTP",
            Self::MySql => "MySQL",
            Self::PostgreSql => "PostgreSQL",
            Self::Redis => "Redis",
            Self::Mqtt => "MQTT",
            Self::Amqp => "AMQP",
            Self::Rtsp => "RTSP",
            Self::Snmp => "SNMP",
            Self::Tftp => "TFTP",
            Self::Ssdp => "SSDP",
            Self::Socks => "SOCKS",
            Self::Smb => "SMB",
            Self::Rdp => "RDP",
            Self::Kerberos => "Kerberos",
            Self::Ldap => "LDAP",
            Self::Bgp => "BGP",
            Self::Irc => "IRC",
            Self::Xmpp => "XMPP",
            Self::Memcached => "Memcached",
            Self::NetBios => "NetBIOS",
            Self::Openvpn => "OpenVPN",
            Self::IpSec => "IPSec",
            Self::Ptp => "PTP",
            Self::Modbus => "Modbus",
        }
    }
}

/// How sure a label is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Confidence {
    /// The port alone says so.
    Port = 1,
    /// A few bytes that others might send as well, at a port where they are expected.
    Partial,
    /// The protocol's own structure.
    Payload,
}

impl Confidence {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Port, Self::Partial, Self::Payload];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Partial => "partial",
            Self::Payload => "payload",
        }
    }
}

/// What a flow carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Label {
    /// The protocol.
    pub app: App,
    /// How sure that is.
    pub confidence: Confidence,
    /// The name that was asked for, in lower case: SNI, Host, or the name in a question. At most [`HOST_BYTES_MAX`].
    pub host: Option<Box<str>>,
    /// The first protocol that the client offered (RFC 7301). At most [`ALPN_BYTES_MAX`].
    pub alpn: Option<Box<str>>,
    /// The JA4 fingerprint of the client (github.com/FoxIO-LLC/ja4). At most [`JA4_BYTES_MAX`].
    pub ja4: Option<Box<str>>,
    /// QUIC's version.
    pub quic_version: Option<u32>,
}

impl Label {
    /// A label without a name.
    #[must_use]
    pub fn new(app: App, confidence: Confidence) -> Self {
        Self { app, confidence, host: None, alpn: None, ja4: None, quic_version: None }
    }

    /// By the protocol's own structure.
    #[must_use]
    pub fn sure(app: App) -> Self {
        Self::new(app, Confidence::Payload)
    }

    /// With a name, if these bytes are one.
    #[must_use]
    pub fn named(mut self, host: &[u8]) -> Self {
        self.host = name(host);
        self
    }
}

/// Printable ASCII in lower case; none if it is not, or is empty or too long.
#[must_use]
pub fn name(bytes: &[u8]) -> Option<Box<str>> {
    name_within(bytes, HOST_BYTES_MAX)
}

/// The same of so many bytes at most.
#[must_use]
pub fn name_within(bytes: &[u8], most: usize) -> Option<Box<str>> {
    let fits = !bytes.is_empty() && bytes.len() <= most && bytes.iter().all(u8::is_ascii_graphic);
    fits.then(|| bytes.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect::<String>().into())
}

/// Longest name.
pub const HOST_BYTES_MAX: usize = 255;

/// Longest protocol that a client offers: those that IANA has registered are shorter.
pub const ALPN_BYTES_MAX: usize = 32;

/// Longest fingerprint: three parts of 10, 12 and 12 characters.
pub const JA4_BYTES_MAX: usize = 36;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_has_a_number_and_a_name_of_its_own() {
        for (place, app) in App::ALL.iter().enumerate() {
            assert_eq!(usize::from(app.number()), place + 1, "none is missing in the list");
            assert_eq!((App::of(app.number()), App::named(&app.name().to_lowercase())), (Some(*app), Some(*app)));
        }
        assert_eq!((App::of(0), App::named("")), (None, None));
    }

    #[test]
    fn names_are_printable_and_short() {
        assert_eq!(name(b"WWW.Example.net").as_deref(), Some("www.example.net"));
        for bad in [&b""[..], b"a b", b"caf\xc3\xa9", b"a\n", &[b'a'; HOST_BYTES_MAX + 1]] {
            assert_eq!(name(bad), None);
        }
    }
}
