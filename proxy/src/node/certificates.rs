//! Keeps an instance's certificates as its files have them: looks at the files, and takes what is good.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prometheus::{IntCounter, IntGauge, Registry};
use raftlog::net::Tls;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{error, info, warn};

use crate::{config::TlsFiles, metric_names as names};

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

/// By what a changed file is noticed: when it was changed, and how long it is. `None`: it cannot be looked at.
type Looks = [Option<(SystemTime, u64)>; 3];

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

    /// Takes new files when they appear, and on SIGHUP.
    ///
    /// # Errors
    /// If the system has no signals for us.
    pub fn keep(self) -> std::io::Result<impl Future<Output = ()>> {
        let mut hangup = signal(SignalKind::hangup())?;
        Ok(async move {
            let mut taken = self.looks();
            let mut age = Age::Young;
            let mut looks = interval(LOOK);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    Some(()) = hangup.recv() => info!("SIGHUP: certificates are read again"),
                    _ = looks.tick() => {
                        age = self.warn_of_age(age);
                        let now = self.looks();
                        if now == taken {
                            continue;
                        }
                        // Three files do not change at once: they are read when they have come to rest.
                        sleep(REST).await;
                        if now != self.looks() {
                            continue;
                        }
                    }
                }
                taken = self.looks();
                self.reload();
            }
        })
    }

    fn reload(&self) {
        let pems = self.files.read().map_err(|error| error.to_string());
        let reloaded = pems.and_then(|pems| {
            self.tls.reload(&pems).map_err(|error| format!("{}: {error}", self.files.path_of(error.part).display()))
        });
        match reloaded {
            Ok(()) => {
                self.show_expiry();
                info!(expires_at = self.tls.expires_at(), "certificates were read again: new connections use them");
            }
            Err(reason) => {
                self.failed.inc();
                error!(reason, "new certificates are not good: the ones in use stay in use");
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

    fn looks(&self) -> Looks {
        [&self.files.ca, &self.files.cert, &self.files.key].map(|path| look(path))
    }
}

fn look(path: &Path) -> Option<(SystemTime, u64)> {
    let about = fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);
const DAY_SECONDS: u64 = 24 * 60 * 60;
/// How long before its end a certificate is warned of.
const OLD: Duration = Duration::from_secs(14 * DAY_SECONDS);
/// How long files that changed have to stay as they are.
const REST: Duration = Duration::from_secs(1);
