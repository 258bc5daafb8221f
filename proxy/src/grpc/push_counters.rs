//! What an instance counts of the sniffers that push to it.

use api::v1::{flow_ack::Kind, flow_refused::Why};
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use crate::metric_names as names;

/// Of all sniffers together. Clones share it.
#[derive(Clone)]
pub struct PushCounters {
    open: IntGauge,
    batches: IntCounterVec,
}

/// A sniffer that pushes, as long as this is kept.
pub(super) struct OpenPush(IntGauge);

impl PushCounters {
    /// Nothing is counted yet.
    ///
    /// # Errors
    /// If a name is none of a metric.
    pub fn new() -> prometheus::Result<Self> {
        let help = "Batches that sniffers pushed to this instance.";
        let batches = IntCounterVec::new(Opts::new(names::FLOW_BATCHES_TOTAL, help), &["outcome"])?;
        for outcome in OUTCOMES {
            batches.with_label_values(&[outcome]);
        }
        Ok(Self { open: IntGauge::new(names::FLOW_PUSHES_OPEN, "Sniffers that push to this instance.")?, batches })
    }

    /// Shows it.
    ///
    /// # Errors
    /// If another metric has the name.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.open.clone()))?;
        registry.register(Box::new(self.batches.clone()))
    }

    /// A sniffer begins to push.
    pub(super) fn open(&self) -> OpenPush {
        self.open.inc();
        OpenPush(self.open.clone())
    }

    /// A batch is answered.
    pub(super) fn answered(&self, kind: &Kind) {
        let outcome = match kind {
            Kind::Hello(_) => return,
            Kind::Acked(acked) if acked.index == 0 => AGAIN,
            Kind::Acked(_) => ACKED,
            Kind::Refused(refused) => match &refused.why {
                Some(Why::Expected(_)) => GAP,
                Some(Why::OtherEpoch(_)) => OTHER_EPOCH,
                Some(Why::Later(_)) => LATER,
                Some(Why::Malformed(_)) | None => MALFORMED,
            },
        };
        self.batches.with_label_values(&[outcome]).inc();
    }

    /// A batch could not even be read; its stream ends.
    pub(super) fn unreadable(&self) {
        self.batches.with_label_values(&[MALFORMED]).inc();
    }
}

impl Drop for OpenPush {
    fn drop(&mut self) {
        self.0.dec();
    }
}

const ACKED: &str = "acked";
const AGAIN: &str = "again";
const GAP: &str = "gap";
const OTHER_EPOCH: &str = "other_epoch";
const LATER: &str = "later";
const MALFORMED: &str = "malformed";

/// All of them: what never happened is shown as 0.
const OUTCOMES: [&str; 6] = [ACKED, AGAIN, GAP, OTHER_EPOCH, LATER, MALFORMED];
