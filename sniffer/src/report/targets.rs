//! Which instances are told: given one by one, or those of the fleet's configuration.

use std::{fmt, fs, io::Read, path::Path, str::FromStr};

use serde::Deserialize;
use toml::Spanned;

/// The instances, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets(Vec<Target>);

/// An instance's gRPC port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: u16,
    /// PEM of who vouches for it; none: it speaks plaintext.
    ca: Option<Vec<u8>>,
}

/// The instances cannot be known. Prints as one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TargetsError(String);

impl FromStr for Target {
    type Err = TargetsError;

    fn from_str(text: &str) -> Result<Self, TargetsError> {
        let plain = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let target = plain.rsplit_once(':').and_then(|(host, port)| Self::new(host, port.parse().ok()?));
        target.ok_or_else(|| {
            TargetsError("HOST:PORT of an instance's gRPC port is expected, such as 127.0.0.1:35001".to_owned())
        })
    }
}

impl Target {
    fn new(host: &str, port: u16) -> Option<Self> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let good = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
        };
        (good && port != 0).then(|| Self { host: host.to_owned(), port, ca: None })
    }

    /// The host without brackets, as certificates name it.
    pub(super) fn host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// Who vouches for it.
    pub(super) fn ca(&self) -> Option<&[u8]> {
        self.ca.as_deref()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Targets {
    /// These ones, with TLS if there is a file of who vouches for them.
    ///
    /// # Errors
    /// If there is none, or the file cannot be read.
    pub fn new(mut targets: Vec<Target>, ca: Option<&Path>) -> Result<Self, TargetsError> {
        if targets.is_empty() {
            return Err(TargetsError("no instance is given; name one with --endpoint HOST:GRPC".to_owned()));
        }
        if let Some(ca) = ca {
            let pem = read_small(ca).map_err(|why| TargetsError(format!("{}: {why}", ca.display())))?;
            for target in &mut targets {
                target.ca = Some(pem.clone());
            }
        }
        Ok(Self(targets))
    }

    /// All instances of a fleet's configuration.
    ///
    /// # Errors
    /// With the file, the line and what would be right.
    pub fn of_config(path: &Path) -> Result<Self, TargetsError> {
        let at = |text: &str, span: std::ops::Range<usize>, problem: &str| {
            let before = text.get(..span.start).unwrap_or_default();
            TargetsError(format!("{}:{}: {problem}", path.display(), before.matches('\n').count() + 1))
        };
        let bytes = read_small(path).map_err(|why| TargetsError(format!("{}: {why}", path.display())))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| TargetsError(format!("{}: it is not UTF-8; save it as UTF-8", path.display())))?;
        let file: ConfigFile = toml::from_str(&text).map_err(|error| {
            at(&text, error.span().unwrap_or(0..0), &format!("{}; {INSTANCE_REMEDY}", error.message()))
        })?;
        let mut targets = Vec::new();
        for instance in &file.fleet.instance {
            let (host, port) = (instance.address.get_ref(), *instance.grpc.get_ref());
            let host = if host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.clone() };
            if port == 0 {
                return Err(at(&text, instance.grpc.span(), "grpc is 0; write the port of the instance's gRPC API"));
            }
            let mut target = Target::new(&host, port).ok_or_else(|| {
                let problem = format!("address {host:?} is no host; write an IP address or a host name");
                at(&text, instance.address.span(), &problem)
            })?;
            if let Some(tls) = &file.fleet.tls {
                let folder = path.parent().unwrap_or(Path::new(""));
                let ca = folder.join(tls.ca.get_ref().replace("{label}", &instance.label));
                let unreadable = |why| {
                    let problem = format!("ca: {}: {why}; name the file with the fleet's authority", ca.display());
                    at(&text, tls.ca.span(), &problem)
                };
                target.ca = Some(read_small(&ca).map_err(unreadable)?);
            }
            targets.push(target);
        }
        if targets.is_empty() {
            return Err(TargetsError(format!("{}: it has no instance; {INSTANCE_REMEDY}", path.display())));
        }
        Ok(Self(targets))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// One of them: numbers go round.
    pub(super) fn get(&self, number: usize) -> &Target {
        &self.0[number % self.0.len()]
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(Target::to_string).collect();
        f.write_str(&names.join(", "))
    }
}

/// Of the fleet's configuration, what a sniffer needs.
#[derive(Deserialize)]
struct ConfigFile {
    fleet: ConfigFleet,
}

#[derive(Deserialize)]
struct ConfigFleet {
    #[serde(default)]
    instance: Vec<ConfigInstance>,
    tls: Option<ConfigTls>,
}

#[derive(Deserialize)]
struct ConfigInstance {
    label: String,
    address: Spanned<String>,
    grpc: Spanned<u16>,
}

#[derive(Deserialize)]
struct ConfigTls {
    ca: Spanned<String>,
}

fn read_small(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    match bytes.len() as u64 {
        0..=FILE_BYTES_MAX => Ok(bytes),
        _ => Err(format!("it is larger than {FILE_BYTES_MAX} bytes")),
    }
}

const INSTANCE_REMEDY: &str =
    "[[fleet.instance]] needs label = \"a\", address = \"192.0.2.1\" and grpc = 35001, as in conf/pool.toml";

/// Largest configuration, or file of certificates, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A folder that goes when the test does.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sniffer-targets-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_target_is_host_and_port() {
        for good in ["127.0.0.1:35001", "http://host:1/", "[::1]:35001", "a.example.net:2"] {
            assert!(good.parse::<Target>().is_ok(), "{good}");
        }
        for bad in ["", "35001", ":35001", "host", "host:0", "host:99999", "::1:35001", "host:1/x", "a b:1", "[x]:1"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_example_configuration_names_its_instances() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/pool.toml");
        let targets = Targets::of_config(&path).unwrap();
        assert_eq!(targets.to_string(), "127.0.0.1:35001, 127.0.0.2:35001, 127.0.0.3:35001");
        assert!(targets.get(4).ca().is_none());
        assert_eq!(targets.get(4).host(), "127.0.0.2");
    }

    #[test]
    fn the_authority_lies_beside_the_configuration() {
        let folder = Folder::new("ca");
        folder.write("a.pem", "PEM of a");
        let text = "[fleet.tls]\nca = \"{label}.pem\"\ncert = \"x\"\n[[fleet.instance]]\nlabel = \"a\"\naddress = \"::1\"\ngrpc = 5\n";
        let targets = Targets::of_config(&folder.write("pool.toml", text)).unwrap();
        assert_eq!((targets.to_string().as_str(), targets.get(0).host()), ("[::1]:5", "::1"));
        assert_eq!(targets.get(0).ca(), Some("PEM of a".as_bytes()));
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_what_would_be_right() {
        let folder = Folder::new("mistakes");
        let cases = [
            ("", "pool.toml:1: missing field `fleet`; [[fleet.instance]] needs"),
            ("[fleet]\n", "pool.toml: it has no instance; [[fleet.instance]] needs"),
            ("[fleet]\nname = \n", "pool.toml:2: "),
            ("[[fleet.instance]]\nlabel = \"a\"\naddress = \"h\"\n", "pool.toml:1: missing field `grpc`; "),
            ("[[fleet.instance]]\nlabel = \"a\"\naddress = \"h\"\ngrpc = 99999\n", "pool.toml:4: "),
            ("[[fleet.instance]]\nlabel = \"a\"\naddress = \"h\"\ngrpc = 0\n", "pool.toml:4: grpc is 0; write"),
            (
                "[[fleet.instance]]\nlabel = \"a\"\naddress = \"a b\"\ngrpc = 1\n",
                "pool.toml:3: address \"a b\" is no host;",
            ),
            (
                "[fleet.tls]\nca = \"gone.pem\"\n[[fleet.instance]]\nlabel = \"a\"\naddress = \"h\"\ngrpc = 1\n",
                "pool.toml:2: ca: ",
            ),
        ];
        for (text, start) in cases {
            let path = folder.write("pool.toml", text);
            let error = Targets::of_config(&path).unwrap_err().to_string();
            let error = error.strip_prefix(&format!("{}/", folder.0.display())).unwrap_or(&error);
            assert!(error.starts_with(start) && !error.contains('\n'), "{text:?}: {error}");
        }
        assert!(Targets::of_config(&folder.0.join("gone.toml")).is_err());
        assert!(Targets::new(Vec::new(), None).is_err());
        assert!(Targets::new(vec!["h:1".parse().unwrap()], Some(&folder.0.join("gone.pem"))).is_err());
    }
}
