//! What operators do to an instance as a whole: cut it off, stop it, tune it, back it up.

use std::{
    io::Write,
    sync::{Arc, atomic::Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use flow::{InstanceId, PinTable, Tuning};
use raftlog::types::State;
use replica::{ControlState, PinState, backup};
use tracing::warn;

use super::{fleet::Fleet, input::Input};
use crate::control::{BackupWriter, Configured, ControlError, Event, EventKind, Result};

impl Configured for Fleet {
    fn configured_tuning(&self) -> Tuning {
        self.inner.configured
    }
}

impl Fleet {
    pub(super) fn events_after(&self, after: u64, limit: usize) -> Vec<Event> {
        self.inner.shared.events.after(after, limit)
    }

    /// Cuts the instance off, or brings it back. What is not decided yet cannot be cut off: its links are what the
    /// configuration lists, and the replica does not follow the members before it knows some.
    pub(super) async fn open_grpc(&self, open: bool) -> Result<()> {
        let shared = &self.inner.shared;
        if !open && shared.control().birth().is_none() {
            let text = "this instance is starting, and cannot be cut off before it knows its fleet. Nothing was done";
            return Err(ControlError::Unavailable(text.to_owned()));
        }
        if shared.grpc_shut.swap(!open, Ordering::Relaxed) == open {
            let text = match open {
                true => "this instance talks to its peers again",
                false => "this instance is cut off from its peers and gRPC clients: POST /startGrpc brings it back",
            };
            warn!("{text}");
            shared.events.add(EventKind::Grpc, &self.inner.label, text.to_owned());
        }
        // Also where nothing changed: an earlier try may have found no room for it.
        self.put(Input::FollowPeers).await
    }

    /// Resolves when an operator wants this instance to stop.
    pub fn stop_asked(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut asked = self.inner.shared.stop_asked.subscribe();
        async move {
            // The sender lives as long as the instance does.
            asked.wait_for(|asked| *asked).await.ok();
        }
    }

    /// Whether an operator has cut this instance off.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.inner.shared.grpc_shut.load(Ordering::Relaxed)
    }

    /// Has an instance stop.
    pub(super) async fn stop_one(&self, who: &str) -> Result<()> {
        let id = {
            let control = self.inner.shared.control();
            let by_label = control.member_by_label(who).map(|(id, _)| id);
            let by_id = || who.parse().ok().map(InstanceId).filter(|id| control.member(*id).is_some());
            by_label.or_else(by_id)
        };
        let Some(id) = id else {
            return Err(ControlError::NotFound(format!("no member has the id or label {who}")));
        };
        self.put(Input::StopInstance(id)).await
    }

    /// All tables as they are here now. The pin groups are looked at before group 0: an epoch that one of them knows is known
    /// there, too.
    pub(super) fn all_tables(&self) -> Result<BackupWriter> {
        let shared = &self.inner.shared;
        let tables: Vec<PinTable> = shared.groups().iter().map(|view| view.load().table.clone()).collect();
        let control = flow::ControlTable::clone(&shared.control());
        let Some(birth) = control.birth().filter(|birth| birth.pin_groups as usize == tables.len()) else {
            return Err(ControlError::Unavailable("this instance does not know its fleet yet".to_owned()));
        };
        if tables.iter().any(|table| table.epoch() > control.epoch()) {
            let text = "group 0 is behind the others on this instance: ask again, or another one".to_owned();
            return Err(ControlError::Unavailable(text));
        }
        let head = backup::Head {
            fleet_name: self.inner.fleet_name.clone(),
            fleet: birth.fleet.0.to_be_bytes().to_vec(),
            groups: tables.len() as u32 + 1,
            instance: self.inner.label.clone(),
            taken_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        };
        let mut states: Vec<Arc<dyn State>> = vec![Arc::new(ControlState(control))];
        states.extend(tables.into_iter().map(|table| Arc::new(PinState(table)) as Arc<dyn State>));
        Ok(Box::new(move |out: &mut dyn Write| backup::write(out, &head, &states)))
    }
}
