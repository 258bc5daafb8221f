//! The life of the VIPs on an instance: announced while it serves, withdrawn before it does not, and also when it dies.
//!
//! ```text
//!  readiness ----.                          pipe                        control socket
//!  listeners ----+--> instance: wanted? --- "17 announce ..." ---> keeper -- enable/disable --> BIRD --> routers
//!  addresses ----'    again and again       <-- "17 announced" ---   |  (a process of its own)
//!  every worker turns -^                                             '---- or a command of the operator's
//! ```
//!
//! An instance that was killed, stopped or hangs can withdraw nothing. So what is announced is held by a keeper, a dead
//! man's switch: it announces only while the instance says so again and again, and withdraws when the pipe ends or is
//! silent for `hold`. Each word is said only after every thread that carries traffic has come around.

mod binds;
mod bird;
mod hook;
pub mod keeper;
mod lines;
mod link;
mod local;
mod reply;
mod status;
mod switch;
mod words;

use std::{
    collections::HashMap,
    ffi::OsString,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::Registry;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use self::{
    binds::{Binds, Standing},
    link::Link,
    status::{Status, Told},
    words::Said,
};
use crate::{
    config::VipConfig,
    control::{Control, VipStatus},
    traffic::{Listeners, Pulse},
};

/// The VIPs of one instance.
pub struct Vip {
    told: watch::Receiver<Told>,
    again: Arc<Notify>,
    settle: Duration,
}

impl Vip {
    /// Announces from now on while `control` is ready and the VIPs among `listeners` can be served. Called within a runtime
    /// of tokio, whose threads it uses.
    ///
    /// # Errors
    /// If the registry has such metrics.
    pub fn start<C: Control>(
        config: &VipConfig,
        label: &str,
        control: C,
        listeners: watch::Receiver<Listeners>,
        pulse: Pulse,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        let status = Status::new(registry)?;
        let (told, again) = (status.watch(), Arc::new(Notify::new()));
        let instance = Instance {
            control,
            listeners,
            pulse,
            beat: (config.hold / BEATS_IN_HOLD).clamp(BEAT_MIN, BEAT_MAX),
            binds: Binds::default(),
            addresses: Addresses::default(),
            number: 0,
            status,
            again: Arc::clone(&again),
        };
        tokio::spawn(instance.run(link::arguments(config, label)));
        Ok(Self { told, again, settle: config.settle })
    }

    /// How the VIPs stand, whenever it is called.
    pub fn status(&self) -> impl Fn() -> VipStatus + Send + Sync + 'static {
        let told = self.told.clone();
        move || told.borrow().status.clone()
    }

    /// Waits until the VIPs are withdrawn and routers have had time to turn away. The instance is not ready from before
    /// this on, and goes on taking new connections until it ends.
    pub async fn leave(&self) {
        self.again.notify_one();
        let mut told = self.told.clone();
        let withdrawn = timeout(LEAVE, told.wait_for(|told| told.withdrawn_at.is_some())).await;
        let at = match withdrawn {
            Ok(Ok(told)) => told.withdrawn_at,
            Ok(Err(_)) | Err(_) => {
                warn!("nobody acknowledged the withdrawal of the VIPs within {LEAVE:?}: stopping all the same");
                None
            }
        };
        let at = at.unwrap_or_else(Instant::now);
        let left = self.settle.saturating_sub(at.elapsed());
        if !left.is_zero() {
            info!(settle = ?self.settle, "the VIPs are withdrawn: new connections are still taken for a while");
            sleep(left).await;
        }
    }
}

/// What decides whether to announce, and tells the keeper.
struct Instance<C> {
    control: C,
    listeners: watch::Receiver<Listeners>,
    pulse: Pulse,
    beat: Duration,
    binds: Binds,
    addresses: Addresses,
    /// Of the last word.
    number: u64,
    status: Status,
    again: Arc<Notify>,
}

impl<C: Control> Instance<C> {
    /// Has a keeper, always.
    async fn run(mut self, arguments: Vec<OsString>) {
        let mut pause = RESTART_MIN;
        loop {
            let began = Instant::now();
            let why = match Link::start(&arguments) {
                Ok(mut link) => {
                    info!(pid = link.pid(), "a VIP keeper runs");
                    let why = self.lead(&mut link).await;
                    format!("{why} ({})", link.kill().await)
                }
                Err(error) => format!("cannot be started: {error}"),
            };
            self.status.lose(&why);
            if began.elapsed() > RESTART_MAX {
                pause = RESTART_MIN;
            }
            sleep(pause).await;
            pause = (pause * 2).min(RESTART_MAX);
        }
    }

    /// Tells the keeper what is wanted, again and again, until it does not do its work; gives the reason.
    async fn lead(&mut self, link: &mut Link) -> String {
        let mut heard_at = Instant::now();
        let mut follow = true;
        let mut turn = self.turn();
        loop {
            let word = self.word();
            if let Err(why) = link.say(&word).await {
                return why;
            }
            loop {
                let patience = KEEPER_SILENCE.saturating_sub(heard_at.elapsed());
                tokio::select! {
                    // First what was said: an instance that was stopped finds all of these at once.
                    biased;
                    report = link.report() => match report {
                        Ok(report) => {
                            heard_at = Instant::now();
                            self.status.take(report);
                        }
                        Err(why) => return why,
                    },
                    () = &mut turn => {
                        turn = self.turn();
                        break;
                    }
                    changed = self.listeners.changed(), if follow => {
                        // An error means that the data path is gone; what it last said holds.
                        follow = changed.is_ok();
                        break;
                    }
                    () = self.again.notified() => break,
                    () = sleep(patience) => return format!("said nothing for {KEEPER_SILENCE:?}"),
                }
            }
        }
    }

    /// Ends when it is time for the next word, and every thread that carries traffic has come around since the last.
    fn turn(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (beat, pulse) = (self.beat, self.pulse.clone());
        Box::pin(async move {
            sleep(beat).await;
            pulse.beat().await;
        })
    }

    /// What the keeper is told now.
    fn word(&mut self) -> Said {
        let listeners = Arc::clone(&self.listeners.borrow_and_update());
        self.addresses.look();
        let mut standing = self.binds.judge(&listeners, |ip| self.addresses.has(ip));
        if !self.control.readiness().ready() {
            standing.reasons.insert(0, "the instance is not ready".to_owned());
        }
        self.number += 1;
        let Standing { ref reasons, ref vips, .. } = standing;
        let said = Said { number: self.number, announce: reasons.is_empty(), vips: vips.clone() };
        self.status.wants(self.number, standing);
        said
    }
}

/// Which addresses this machine has, looked at now and then.
#[derive(Default)]
struct Addresses {
    here: HashMap<IpAddr, bool>,
    /// As of the look before.
    before: HashMap<IpAddr, bool>,
    looked_at: Option<Instant>,
}

impl Addresses {
    /// Begins another look, if the last one is old.
    fn look(&mut self) {
        if self.looked_at.is_none_or(|at| at.elapsed() >= ADDRESSES) {
            self.looked_at = Some(Instant::now());
            self.before = std::mem::take(&mut self.here);
        }
    }

    fn has(&mut self, ip: IpAddr) -> bool {
        // What cannot be seen now is as it was.
        let before = || self.before.get(&ip).copied().unwrap_or(false);
        *self.here.entry(ip).or_insert_with(|| local::is_local(ip).unwrap_or_else(|_| before()))
    }
}

/// Words that the keeper hears within the silence that would make it withdraw.
const BEATS_IN_HOLD: u32 = 5;
/// From one word to the next, at least and at most.
const BEAT_MIN: Duration = Duration::from_millis(10);
const BEAT_MAX: Duration = Duration::from_millis(100);
/// How often it is looked which addresses this machine has.
const ADDRESSES: Duration = Duration::from_millis(250);
/// How long a keeper may say nothing: longer than the slowest command takes.
const KEEPER_SILENCE: Duration = Duration::from_secs(10);
/// First wait before a keeper is started again; doubles.
const RESTART_MIN: Duration = Duration::from_millis(20);
/// Longest wait before a keeper is started again.
const RESTART_MAX: Duration = Duration::from_secs(5);
/// How long a stopping instance waits for the withdrawal to be acknowledged.
const LEAVE: Duration = Duration::from_secs(2);
