//! What people see of the VIPs: the status, the metrics, the log.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use prometheus::{IntCounter, IntGauge, Registry};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{
    binds::Standing,
    words::{Report, State},
};
use crate::{
    control::{VipBind, VipStatus},
    metric_names as names,
};

/// Tells how the VIPs stand, as it changes.
pub(super) struct Status {
    told: watch::Sender<Told>,
    /// The number of the word since which the keeper is told what it is told now.
    turned_at: u64,
    /// The last report of this keeper.
    report: Option<Report>,
    announced: IntGauge,
    missing: IntGauge,
    changes: IntCounter,
    errors: IntCounter,
    restarts: IntCounter,
}

/// How the VIPs stand.
pub(super) struct Told {
    pub status: VipStatus,
    /// Since when a withdrawal that was asked for is acknowledged.
    pub withdrawn_at: Option<Instant>,
}

impl Status {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let announced = IntGauge::new(names::VIP_ANNOUNCED, "1 while VIPs are announced, as acknowledged.")?;
        let missing = IntGauge::new(names::VIP_MISSING, "VIPs that cannot be served here.")?;
        let changes = IntCounter::new(names::VIP_CHANGES_TOTAL, "Announcements and withdrawals carried out.")?;
        let errors = IntCounter::new(names::VIP_ERRORS_TOTAL, "Announcements and withdrawals that failed.")?;
        let restarts = IntCounter::new(names::VIP_KEEPER_RESTARTS_TOTAL, "Keepers that ended before the instance.")?;
        for gauge in [&announced, &missing] {
            registry.register(Box::new(gauge.clone()))?;
        }
        for counter in [&changes, &errors, &restarts] {
            registry.register(Box::new(counter.clone()))?;
        }
        let status = VipStatus {
            wanted: false,
            announced: None,
            since_unix_ms: unix_ms(),
            reasons: vec!["the instance is starting".to_owned()],
            error: None,
            binds: Vec::new(),
        };
        let told = watch::Sender::new(Told { status, withdrawn_at: None });
        Ok(Self { told, turned_at: 0, report: None, announced, missing, changes, errors, restarts })
    }

    pub(super) fn watch(&self) -> watch::Receiver<Told> {
        self.told.subscribe()
    }

    /// This is what the keeper is told with word `number`.
    pub(super) fn wants(&mut self, number: u64, standing: Standing) {
        let Standing { binds, reasons, .. } = standing;
        let wanted = reasons.is_empty();
        let now = self.told.borrow();
        let (turned, problems_changed) = (wanted != now.status.wanted, binds != now.status.binds);
        let changed = turned || problems_changed || reasons != now.status.reasons;
        drop(now);
        if turned {
            self.turned_at = number;
        }
        if problems_changed {
            self.tell_problems(&binds);
        }
        if changed {
            self.told.send_modify(|told| {
                (told.status.wanted, told.status.reasons, told.status.binds) = (wanted, reasons, binds);
                if turned {
                    told.withdrawn_at = None;
                }
            });
        }
    }

    /// The keeper reports.
    pub(super) fn take(&mut self, report: Report) {
        let (changes, errors) = self.report.as_ref().map_or((0, 0), |before| (before.changes, before.errors));
        self.changes.inc_by(report.changes.saturating_sub(changes));
        self.errors.inc_by(report.errors.saturating_sub(errors));
        let announced = match report.state {
            State::Unknown => None,
            State::Withdrawn => Some(false),
            State::Announced => Some(true),
        };
        let heard = report.heard >= self.turned_at;
        self.show(announced, report.error.clone(), heard);
        self.report = Some(report);
    }

    /// The keeper is gone.
    pub(super) fn lose(&mut self, why: &str) {
        self.restarts.inc();
        self.report = None;
        error!("the VIP keeper {why}; another one is started, and the VIPs stay as they are until then");
        self.show(None, Some(format!("the VIP keeper {why}")), false);
    }

    fn show(&self, announced: Option<bool>, error: Option<String>, heard: bool) {
        self.announced.set((announced == Some(true)).into());
        let now = self.told.borrow();
        let (turned, news) = (now.status.announced != announced, now.status.error != error);
        let withdrawn = !now.status.wanted && heard && announced == Some(false);
        let acknowledged = withdrawn != now.withdrawn_at.is_some();
        drop(now);
        if !turned && !news && !acknowledged {
            return;
        }
        self.told.send_modify(|told| {
            if turned {
                (told.status.announced, told.status.since_unix_ms) = (announced, unix_ms());
            }
            if acknowledged {
                told.withdrawn_at = withdrawn.then(Instant::now);
            }
            told.status.error.clone_from(&error);
        });
        if turned {
            tell_state(&self.told.borrow().status.clone());
        }
        if let Some(error) = error.filter(|_| news) {
            warn!("VIPs: {error}");
        }
    }

    fn tell_problems(&self, binds: &[VipBind]) {
        let problems: Vec<String> = binds
            .iter()
            .filter_map(|bind| bind.problem.as_ref().map(|problem| format!("{}: {problem}", bind.address)))
            .collect();
        self.missing.set(i64::try_from(problems.len()).unwrap_or(i64::MAX));
        if problems.is_empty() {
            info!(vips = list(binds), "every VIP can be served here");
        } else {
            warn!("VIPs that cannot be served here:\n  {}", problems.join("\n  "));
        }
    }
}

fn tell_state(status: &VipStatus) {
    match status.announced {
        Some(true) => info!(vips = list(&status.binds), "the VIPs are announced"),
        Some(false) => info!(reasons = status.reasons.join("; "), "the VIPs are withdrawn"),
        // The error that goes with it is told.
        None => {}
    }
}

fn list(binds: &[VipBind]) -> String {
    binds.iter().map(|bind| bind.address.to_string()).collect::<Vec<_>>().join(", ")
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
