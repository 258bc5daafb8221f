//! Clients with sessions of their own, who ask again at whatever instance until they have an answer, and sometimes after.

use super::*;

/// A client with a session.
#[derive(Default)]
pub(super) struct SessionClient {
    id: Option<SessionId>,
    next: u64,
    /// Requests without an answer, with their keys.
    open: BTreeMap<u64, String>,
    /// The last request that was answered: it is not yet said to be.
    answered: Option<(u64, String)>,
}

impl SessionClient {
    /// All requests below were answered, and the client will not ask them again.
    fn answered_below(&self) -> u64 {
        let open = self.open.keys().next().copied();
        let answered = self.answered.as_ref().map(|(sequence, _)| *sequence);
        open.into_iter().chain(answered).min().unwrap_or(self.next)
    }
}

impl World {
    /// A client asks something new, or again; or for a session, if it has none.
    pub(super) fn request(&mut self, node: usize) {
        let client = self.random.below(CLIENTS as u64) as usize;
        let (again, once_more) = (self.random.chance(600), self.random.chance(100));
        let asked = &mut self.session_clients[client];
        let Some(session) = asked.id else {
            let ticket = self.ticket(node, Asked::Session { client });
            self.send_to_log(node, ticket, &ControlCommand::OpenSession(None), None);
            return;
        };
        let (sequence, key) = match asked.open.first_key_value().filter(|_| again) {
            _ if once_more && asked.answered.is_some() => asked.answered.clone().unwrap_or_default(),
            Some((sequence, key)) => (*sequence, key.clone()),
            None => {
                let key = format!("request-{session}-{}", asked.next);
                asked.open.insert(asked.next, key.clone());
                asked.next += 1;
                self.judge.counts_once(key.clone());
                (asked.next - 1, key)
            }
        };
        let request = Request { session, sequence, answered_below: asked.answered_below() };
        let command = ControlCommand::KvPut { key: key.clone(), value: b"v".to_vec(), if_revision: None };
        let ticket = self.ticket(node, Asked::Request { client, request, key });
        self.send_to_log(node, ticket, &command, Some(request));
    }

    fn send_to_log(&mut self, node: usize, ticket: Ticket, command: &ControlCommand, request: Option<Request>) {
        let life = self.machines[node].life;
        let now_ms = self.machines[node].now_ms(self.now_us);
        let patience_ms = if self.random.chance(500) { self.random.range(1, 50) } else { 2000 };
        if !self.asleep(node) {
            self.with(node, life, |running| {
                running.replica.submit(ticket, command, now_ms + patience_ms, true, request);
            });
        }
    }

    pub(super) fn session_opened(&mut self, client: usize, id: SessionId) {
        self.session_clients[client].id.get_or_insert(id);
    }

    pub(super) fn request_answered(&mut self, client: usize, request: Request, key: String, outcome: ControlOutcome) {
        let Request { session, sequence, .. } = request;
        let asked = &mut self.session_clients[client];
        let current = asked.id == Some(session);
        match outcome {
            ControlOutcome::Done { revision, .. } => {
                if current && asked.open.remove(&sequence).is_some() {
                    asked.answered = Some((sequence, key.clone()));
                }
                self.judge.acked(key, revision);
            }
            // An operator closed it: what became of the open requests is not known.
            ControlOutcome::Refused(SessionRefusal::NoSession(_)) => {
                if current {
                    *asked = SessionClient { next: asked.next, ..SessionClient::default() };
                }
            }
            ControlOutcome::Refused(SessionRefusal::Answered { .. })
                if !current || sequence < asked.answered_below() => {}
            outcome => self.judge.blame(format!("{request:?}, which is open, was answered {outcome:?}")),
        }
    }

    /// A session ends: a client's because it is closed, an instance's because an earlier life of it asks, late, for its own.
    pub(super) fn close_a_session(&mut self, node: usize) {
        let Some((id, owner)) = self.any_session(node) else { return };
        self.say(|| format!("operator at {}: ends session {id}", self.machines[node].label));
        self.submit(node, ControlCommand::CloseSession(id));
        if let Some(owner) = owner {
            let earlier = SessionOwner { life: self.random.next(), ..owner };
            self.submit(node, ControlCommand::OpenSession(Some(earlier)));
        }
    }

    /// A client tries to have its request carried out by a session that it saw in the log, and that is an instance's.
    pub(super) fn intrude(&mut self, node: usize) {
        let Some((session, Some(_))) = self.any_session(node) else { return };
        let sequence = self.random.below(INTRUDERS_SEQUENCES);
        let request = Request { session, sequence, answered_below: 0 };
        let command = ControlCommand::KvPut { key: "intruder".to_owned(), value: b"v".to_vec(), if_revision: None };
        let ticket = self.ticket(node, Asked::Other);
        self.send_to_log(node, ticket, &command, Some(request));
    }

    fn any_session(&mut self, node: usize) -> Option<(SessionId, Option<SessionOwner>)> {
        let Some(Process { core: Core::Running(running), .. }) = &self.machines[node].process else { return None };
        let sessions: Vec<_> = running.control.sessions().ids().collect();
        (!sessions.is_empty()).then(|| sessions[self.random.below(sessions.len() as u64) as usize])
    }
}

/// Instances reach such numbers of requests in a run.
const INTRUDERS_SEQUENCES: u64 = 100;

/// So many clients have sessions.
pub(super) const CLIENTS: usize = 2;
