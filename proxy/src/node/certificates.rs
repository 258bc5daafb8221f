//! Keeps an instance's certificates as its files have them: looks at the files, and takes what is good.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use prometheus::{IntCounter, IntGauge, Registry};
use raftlog::net::Tls;
use tokio::{
    signal::unix::Signal,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{error, info, warn};

use crate::{
    config::{Looks, TlsFiles},
    metric_names as names,
};

/// The certificates in use, and where new ones will appear.
pub struct Certificates {
    tls: Arc<Tls>,
    files: TlsFiles,
    expiry: IntGauge,
    failed: IntCounter,
}

/// What a certificate's age calls for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    Young,
    Old,
    Expired,
}

/// What came of files that were read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Taken,
    /// They are not good: others have to come.
    Bad,
    /// That may pass though the files stay as they are.
    Unreadable,
}

impl Certificates {
    /// Certificates that were just read from `files`, with their metrics in `registry`.
    ///
    /// # Errors
    /// If the registry has such metrics.
    pub fn new(tls: Arc<Tls>, files: TlsFiles, registry: &Registry) -> prometheus::Result<Self> {
        let expiry = IntGauge::new(names::CERTIFICATE_EXPIRY_SECONDS, "When the certificate expires: unix time.")?;
        let failed = IntCounter::new(names::CERTIFICATE_RELOADS_FAILED_TOTAL, "New certificates not taken.")?;
        registry.register(Box::new(expiry.clone()))?;
        registry.register(Box::new(failed.clone()))?;
        let certificates = Self { tls, files, expiry, failed };
        certificates.show_expiry();
        Ok(certificates)
    }

    /// Takes new files when they appear, and on SIGHUP. In use is what they held when they looked as `taken` says.
    pub async fn keep(self, taken: Looks, mut hangup: Signal) {
        let mut taken = Some(taken);
        let mut age = Age::Young;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => info!("SIGHUP: certificates are read again"),
                _ = looks.tick() => {
                    age = self.warn_of_age(age);
                    let now = self.files.looks();
                    if Some(now) == taken {
                        continue;
                    }
                    // Three files do not change at once: they are read when they have come to rest.
                    sleep(REST).await;
                    if now != self.files.looks() {
                        continue;
                    }
                }
            }
            // A change while they are read is one that comes later.
            let now = self.files.looks();
            taken = (self.reload() != Read::Unreadable).then_some(now);
        }
    }

    fn reload(&self) -> Read {
        let pems = match self.files.read() {
            Ok(pems) => pems,
            Err(error) => {
                self.failed.inc();
                error!(%error, "new certificates are not read: the ones in use stay in use; it is tried again soon");
                return Read::Unreadable;
            }
        };
        match self.tls.reload(&pems) {
            Ok(()) => {
                self.show_expiry();
                info!(expires_at = self.tls.expires_at(), "certificates were read again: new connections use them");
                Read::Taken
            }
            Err(error) => {
                self.failed.inc();
                let reason = format!("{}: {error}", self.files.path_of(error.part).display());
                error!(reason, "new certificates are not good: the ones in use stay in use");
                Read::Bad
            }
        }
    }

    fn show_expiry(&self) {
        self.expiry.set(i64::try_from(self.tls.expires_at()).unwrap_or(i64::MAX));
    }

    /// Says once that the certificate is about to expire, and once that it has: that ends no link that is up, and
    /// prevents every new one.
    fn warn_of_age(&self, before: Age) -> Age {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_secs(self.tls.expires_at().saturating_sub(now.as_secs()));
        let age = match left {
            Duration::ZERO => Age::Expired,
            left if left <= OLD => Age::Old,
            _ => Age::Young,
        };
        match age {
            Age::Old if age != before => {
                warn!(
                    days = left.as_secs() / DAY_SECONDS,
                    "the certificate of this instance, or its authority, expires soon"
                );
            }
            Age::Expired if age != before => {
                error!("the certificate of this instance, or its authority, has expired: no new link can be made");
            }
            _ => {}
        }
        age
    }
}

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);
const DAY_SECONDS: u64 = 24 * 60 * 60;
/// How long before its end a certificate is warned of.
const OLD: Duration = Duration::from_secs(14 * DAY_SECONDS);
/// How long files that changed have to stay as they are.
const REST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use tokio::signal::unix::{SignalKind, signal};

    use super::*;
    use crate::{
        cli::{self, Console},
        config::{self, Loaded},
    };

    /// How long anything may take before a test fails.
    const WAIT: Duration = Duration::from_secs(20);

    /// A directory with certificates of instance a, which goes away.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("rocinante-certificates-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            let directory = Self(path);
            let text = "[fleet]\nname = \"t\"\n[fleet.tls]\nca = \"ca.pem\"\ncert = \"a.pem\"\nkey = \"a.key\"\n\
                        [[fleet.instance]]\nlabel = \"a\"\naddress = \"127.0.0.1\"\ngrpc = 1\nrest = 2\nmetrics = 3\n\
                        [[pool]]\nname = \"web\"\nbind = \":9001\"\n";
            fs::write(directory.file("pool.toml"), text).unwrap();
            directory.make("init --fleet t");
            directory.make("issue --fleet t a --days 30");
            directory
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        /// `rocinante pki LINE`
        fn make(&self, line: &str) {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let (out, err, input) = (&mut out, &mut err, &mut std::io::empty());
            let mut console = Console { out, err, input, terminal: false, default_config: PathBuf::new() };
            let line = format!("rocinante pki {line} --dir {}", self.0.display());
            assert_eq!(cli::execute(line.split(' '), &mut console), cli::DONE, "{line}");
        }

        fn load(&self) -> (Certificates, Looks) {
            let file = self.file("pool.toml");
            let config = config::check_file(&file).unwrap();
            let Loaded { tls, files, looks } = config::load_tls(&config, &file, "a").unwrap().unwrap();
            (Certificates::new(Arc::new(tls), files, &Registry::new()).unwrap(), looks)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            // Nothing can be done about it here, and a second panic would hide the first.
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[tokio::test]
    async fn files_that_change_between_their_reading_and_the_first_look_are_taken() {
        let directory = Directory::new("between");
        let (certificates, looks) = directory.load();
        directory.make("issue --fleet t a --days 300 --force");
        let (expiry, before) = (certificates.expiry.clone(), certificates.expiry.get());
        let keeping = tokio::spawn(certificates.keep(looks, signal(SignalKind::hangup()).unwrap()));
        let start = std::time::Instant::now();
        while expiry.get() == before {
            assert!(start.elapsed() < WAIT, "the new certificate is not noticed");
            sleep(Duration::from_millis(10)).await; // between two looks
        }
        keeping.abort();
    }

    #[test]
    fn what_cannot_be_read_is_worth_another_try() {
        let directory = Directory::new("unreadable");
        let (certificates, _) = directory.load();
        fs::rename(directory.file("a.key"), directory.file("away")).unwrap();
        assert_eq!(certificates.reload(), Read::Unreadable);
        fs::write(directory.file("a.key"), "torn").unwrap();
        assert_eq!(certificates.reload(), Read::Bad);
        fs::rename(directory.file("away"), directory.file("a.key")).unwrap();
        assert_eq!(certificates.reload(), Read::Taken);
        assert_eq!(certificates.failed.get(), 2);
    }
}
