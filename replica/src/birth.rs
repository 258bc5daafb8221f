//! Birth and admission: who may take part in a fleet, decided before any vote is cast.
//!
//! 1. Only a fleet of one works alone. Any other is born by a majority of the instances that its configuration lists.
//! 2. Founders get their ids by the order of their labels; later members by the order of their admission.
//! 3. A data directory is drawn an *incarnation* when it is made. Each instance remembers, on disk and before it
//!    exchanges anything with a peer, by which incarnation it knows that peer, and group 0 binds it for all.
//! 4. So a directory that was emptied under a known label is told so, and does not vote: what its old life had
//!    acknowledged could be lost otherwise.
//! 5. A fleet that was restored is never founded: its logs begin with the backup, and whoever has none joins it with
//!    nothing. Beginning as founders, a majority of empty directories would be a fleet without what was restored.
//!
//! ```text
//!   hello --> admit --> reply(newborn | founder | member, your id) --> Birthing --> Found | Join | Wait
//!                '----> refused(code, what to do)
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher,
};

use flow::{
    ControlTable, FleetId, Incarnation, InstanceId, MemberAddress,
    plant::{self, Plant},
};
use prost::Message;

/// What the configuration says of a fleet that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The fleet's name.
    pub fleet_name: String,
    /// All instances listed, in any order.
    pub instances: Vec<MemberAddress>,
    /// How many pin groups it shall have.
    pub pin_groups: u32,
    /// How many flow groups.
    pub flow_groups: u32,
    /// How long its leases shall last, in milliseconds.
    pub lease_ms: u64,
}

/// What a data directory knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The fleet's name.
    pub fleet_name: String,
    /// The instance's label.
    pub label: String,
    /// The directory's life.
    pub incarnation: Incarnation,
    /// Its id, once it is decided.
    pub id: Option<InstanceId>,
    /// The fleet's identity, once it is agreed.
    pub fleet: Option<FleetId>,
    /// How many pin groups the fleet has, once it is decided.
    pub pin_groups: u32,
    /// How many flow groups; their ids follow those of the pin groups.
    pub flow_groups: u32,
    /// The founders' ids, if this is one of them; empty for one that joined, or of a fleet that was restored.
    pub founders: Vec<InstanceId>,
    /// Whether the fleet began with a backup: then nobody founds it, and whoever was not restored begins with nothing.
    pub restored: bool,
}

/// By which life each peer is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known(pub BTreeMap<InstanceId, Incarnation>);

/// How an instance introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who speaks.
    pub identity: Identity,
    /// A hash of the founding it reads in its configuration.
    pub founding_hash: u64,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Who answers.
    pub identity: Identity,
    /// A hash of the founding it reads in its configuration.
    pub founding_hash: u64,
    /// The asker's id, as far as it is known here.
    pub your_id: Option<InstanceId>,
}

/// The asker is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its id.
    pub id: InstanceId,
    /// Its life; to be remembered on disk before anything else is said to it, if `new`.
    pub incarnation: Incarnation,
    /// Whether it was not known yet.
    pub new: bool,
    /// What to tell it.
    pub reply: Reply,
}

/// The asker is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why, for machines.
    pub code: RefusedCode,
    /// Why, and what to do.
    pub text: String,
}

/// Why an asker is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RefusedCode {
    /// It is of another fleet.
    OtherFleet = 1,
    /// Its configuration lists other instances.
    OtherFounding = 2,
    /// Its label is no member's.
    NotAMember = 3,
    /// It was a member once.
    Removed = 4,
    /// Its label belongs to another data directory.
    Replaced = 5,
    /// It made no sense.
    Malformed = 6,
    /// The one that is asked cannot tell yet.
    NotYet = 7,
}

/// The state that an asker is judged by.
pub struct Admission<'a> {
    /// Who is asked.
    pub me: &'a Identity,
    /// What its configuration says.
    pub founding: &'a Founding,
    /// The control table, if there is a replica.
    pub control: Option<&'a ControlTable>,
    /// By which lives peers are known.
    pub known: &'a Known,
    /// Members that were removed, and that some group here still counts: it may need them to agree on their leaving.
    pub leaving: &'a BTreeSet<InstanceId>,
}

/// What a newborn instance does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Keep asking.
    Wait,
    /// Become this identity and start.
    Become(Identity),
}

/// Decides what a newborn instance becomes, from its peers' replies.
#[derive(Clone, Debug)]
pub struct Birthing {
    me: Identity,
    founding: Founding,
    replies: BTreeMap<String, Reply>,
}

impl Founding {
    /// Labels in order; a founder's id is its place, from 1.
    #[must_use]
    pub fn founders(&self) -> Vec<(InstanceId, MemberAddress)> {
        let mut sorted = self.instances.clone();
        sorted.sort_by(|a, b| a.label.cmp(&b.label));
        sorted.into_iter().enumerate().map(|(place, address)| (InstanceId(place as u64 + 1), address)).collect()
    }

    /// The id that `label` has as a founder.
    #[must_use]
    pub fn id_of(&self, label: &str) -> Option<InstanceId> {
        self.founders().into_iter().find(|(_, address)| address.label == label).map(|(id, _)| id)
    }

    /// Equal if two configurations found the same fleet: its name, labels, numbers of groups and length of leases.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hasher = siphasher::sip::SipHasher24::new_with_key(b"rocinante-birth1");
        let mut write = |text: &str| {
            hasher.write(&(text.len() as u64).to_be_bytes());
            hasher.write(text.as_bytes());
        };
        write(&self.fleet_name);
        for (_, address) in self.founders() {
            write(&address.label);
        }
        hasher.write(&self.pin_groups.to_be_bytes());
        hasher.write(&self.flow_groups.to_be_bytes());
        hasher.write(&self.lease_ms.to_be_bytes());
        hasher.finish()
    }
}

impl Admission<'_> {
    /// Whether the asker may take part.
    ///
    /// # Errors
    /// If it may not: what to tell it.
    pub fn admit(&self, hello: &Hello) -> Result<Admitted, Refused> {
        let them = &hello.identity;
        self.same_fleet(hello)?;
        let (id, bound) = self.id_of(them)?;
        if them.id.is_some_and(|claimed| claimed != id) {
            return Err(removed(&them.label));
        }
        let remembered = self.known.0.get(&id).copied();
        let other_life = |known: Option<Incarnation>| known.is_some_and(|known| known != them.incarnation);
        if (other_life(bound) || other_life(remembered)) && !plant::on(Plant::NewbornVotes) {
            return Err(Refused {
                code: RefusedCode::Replaced,
                text: format!(
                    "instance {label} is known by another data directory: this one is empty or not its own, and may \
                     not vote. Bring the old directory back, or replace the member: `rocinante member remove {label}`, \
                     then `rocinante member add {label} ADDRESS --grpc PORT`",
                    label = them.label
                ),
            });
        }
        let reply = Reply { identity: self.me.clone(), founding_hash: self.founding.hash(), your_id: Some(id) };
        // What group 0 has bound is remembered on disk as well: after a restart its log may not be applied yet.
        Ok(Admitted { id, incarnation: them.incarnation, new: remembered.is_none(), reply })
    }

    fn same_fleet(&self, hello: &Hello) -> Result<(), Refused> {
        let (me, them) = (self.me, &hello.identity);
        if me.fleet_name != them.fleet_name {
            let text = format!("this is fleet {}, not {}", me.fleet_name, them.fleet_name);
            return Err(Refused { code: RefusedCode::OtherFleet, text });
        }
        if let (Some(mine), Some(theirs)) = (me.fleet, them.fleet)
            && mine != theirs
        {
            let text = format!(
                "this is fleet {} of uuid {mine}, not of {theirs}: the data directory of {} is of another fleet of \
                 the same name",
                me.fleet_name, them.label
            );
            return Err(Refused { code: RefusedCode::OtherFleet, text });
        }
        // Who began to found a fleet of its own votes by another log.
        let restored = me.fleet.filter(|_| me.restored).or(them.fleet.filter(|_| them.restored));
        if let Some(fleet) = restored
            && let Some(founder) = [me, them].into_iter().find(|one| one.fleet.is_none() && !one.founders.is_empty())
        {
            let text = format!(
                "fleet {} of uuid {fleet} was restored from a backup, and instance {label} began to found a new one: stop \
                 {label}, empty its data directory, and restore it or start it again",
                me.fleet_name,
                label = founder.label
            );
            return Err(Refused { code: RefusedCode::OtherFleet, text });
        }
        // Before the birth the lists must be the same; afterwards the log is the truth.
        let born = me.fleet.is_some() || self.control.is_some_and(|control| control.birth().is_some());
        if !born && them.fleet.is_none() && hello.founding_hash != self.founding.hash() {
            let text = format!(
                "instances {} and {} read different lists of instances (or another fleet.groups, fleet.flow_groups or \
                 fleet.lease) in \
                 their configurations: a fleet is born of equal ones",
                me.label, them.label
            );
            return Err(Refused { code: RefusedCode::OtherFounding, text });
        }
        Ok(())
    }

    /// The id of the asker's label, and the life that group 0 has bound it to.
    fn id_of(&self, them: &Identity) -> Result<(InstanceId, Option<Incarnation>), Refused> {
        let born = self.control.filter(|control| control.birth().is_some());
        // A member that this table has not heard of yet, whomever it knows by that label: the log that tells of it may
        // have to come from that very member.
        let founders = self.founding.instances.len() as u64;
        let next = born.map_or(InstanceId(founders + 1), ControlTable::next_instance);
        let unheard = next.0..next.0.saturating_add(MEMBERS_UNHEARD_MAX);
        if let Some(id) = them.id.filter(|id| them.fleet.is_some() && unheard.contains(&id.0)) {
            return Ok((id, None));
        }
        let Some(control) = born else {
            // The fleet is born, and this instance has yet to read in its log whom it knows.
            if them.id.is_none() && self.me.fleet.is_some() && !plant::on(Plant::NewbornVotes) {
                let text = format!("{} has just started and cannot tell yet who is a member: ask again", self.me.label);
                return Err(Refused { code: RefusedCode::NotYet, text });
            }
            let id = self.founding.id_of(&them.label).ok_or_else(|| not_a_member(&them.label))?;
            return Ok((id, None));
        };
        let leaving = them.id.filter(|id| self.leaving.contains(id));
        if let Some((id, member)) = control.departed().find(|(id, _)| leaving == Some(*id)) {
            return Ok((id, member.incarnation));
        }
        if let Some((id, member)) = control.member_by_label(&them.label) {
            return Ok((id, member.incarnation));
        }
        Err(if them.id.is_some() { removed(&them.label) } else { not_a_member(&them.label) })
    }
}

impl Birthing {
    /// A newborn instance.
    #[must_use]
    pub fn new(me: Identity, founding: Founding) -> Self {
        Self { me, founding, replies: BTreeMap::new() }
    }

    /// How it introduces itself.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello { identity: self.me.clone(), founding_hash: self.founding.hash() }
    }

    /// A peer let it in.
    pub fn handle_reply(&mut self, reply: Reply) {
        self.replies.insert(reply.identity.label.clone(), reply);
    }

    /// What it knows by now.
    #[must_use]
    pub fn decide(&self) -> Decision {
        let listed = self.founding.instances.len();
        let my_id = self.founding.id_of(&self.me.label);
        // A fleet that is there already says who this is.
        if let Some(reply) = self.replies.values().find(|reply| reply.identity.fleet.is_some())
            && let Some(id) = reply.your_id
            && (1..=PIN_GROUPS_MAX).contains(&reply.identity.pin_groups)
            && reply.identity.flow_groups <= FLOW_GROUPS_MAX
        {
            let founders = match reply.identity.restored {
                true if plant::on(Plant::FoundsRestored) => {
                    self.founding.founders().iter().map(|(id, _)| *id).collect()
                }
                true => Vec::new(),
                false => reply.identity.founders.clone(),
            };
            let founder = my_id == Some(id) && founders.contains(&id) && self.founding.hash() == reply.founding_hash;
            let founders = if founder { founders } else { Vec::new() };
            return Decision::Become(Identity {
                id: Some(id),
                fleet: reply.identity.fleet,
                pin_groups: reply.identity.pin_groups,
                flow_groups: reply.identity.flow_groups,
                founders,
                restored: reply.identity.restored,
                ..self.me.clone()
            });
        }
        let agreeing = self.replies.values().filter(|reply| {
            reply.founding_hash == self.founding.hash()
                && self.founding.id_of(&reply.identity.label).is_some()
                && reply.identity.label != self.me.label
        });
        match my_id {
            Some(id) if (agreeing.count() + 1) * 2 > listed => Decision::Become(Identity {
                id: Some(id),
                pin_groups: self.founding.pin_groups,
                flow_groups: self.founding.flow_groups,
                founders: self.founding.founders().into_iter().map(|(id, _)| id).collect(),
                ..self.me.clone()
            }),
            _ => Decision::Wait,
        }
    }
}

/// Most pin groups of a fleet.
pub const PIN_GROUPS_MAX: u32 = 1024;

/// Most flow groups of a fleet.
pub const FLOW_GROUPS_MAX: u32 = 64;

/// How many members may have come since the last entry this instance has read; each that says hello is remembered.
const MEMBERS_UNHEARD_MAX: u64 = 256;

fn removed(label: &str) -> Refused {
    Refused {
        code: RefusedCode::Removed,
        text: format!(
            "instance {label} was removed from the fleet. To bring it back as a new member: remove its data \
             directory, then `rocinante member add {label} ADDRESS --grpc PORT`"
        ),
    }
}

fn not_a_member(label: &str) -> Refused {
    Refused {
        code: RefusedCode::NotAMember,
        text: format!("instance {label} is no member of the fleet: `rocinante member add {label} ADDRESS --grpc PORT`"),
    }
}

impl Identity {
    /// The identity's bytes, for the data directory.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        IdentityMessage::from(self).encode_to_vec()
    }

    /// The identity of those bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        IdentityMessage::decode(bytes).ok()?.identity()
    }
}

impl Known {
    /// The bytes, for the data directory.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let peers = self.0.iter().map(|(id, life)| KnownPeer { id: id.0, incarnation: life.0 }).collect();
        KnownMessage { peers }.encode_to_vec()
    }

    /// What those bytes say.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let message = KnownMessage::decode(bytes).ok()?;
        Some(Self(message.peers.iter().map(|peer| (InstanceId(peer.id), Incarnation(peer.incarnation))).collect()))
    }
}

impl Hello {
    /// The hello's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let identity = Some((&self.identity).into());
        HelloMessage { identity, founding_hash: self.founding_hash, your_id: None }.encode_to_vec()
    }

    /// The hello of those bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let message = HelloMessage::decode(bytes).ok()?;
        Some(Self { identity: message.identity?.identity()?, founding_hash: message.founding_hash })
    }
}

impl Reply {
    /// The reply's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let identity = Some((&self.identity).into());
        let your_id = self.your_id.map(|id| id.0);
        HelloMessage { identity, founding_hash: self.founding_hash, your_id }.encode_to_vec()
    }

    /// The reply of those bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let message = HelloMessage::decode(bytes).ok()?;
        Some(Self {
            identity: message.identity?.identity()?,
            founding_hash: message.founding_hash,
            your_id: message.your_id.map(InstanceId),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct IdentityMessage {
    #[prost(string, tag = "1")]
    fleet_name: String,
    #[prost(string, tag = "2")]
    label: String,
    #[prost(fixed64, tag = "3")]
    incarnation: u64,
    #[prost(uint64, optional, tag = "4")]
    id: Option<u64>,
    #[prost(bytes = "vec", tag = "5")]
    fleet: Vec<u8>,
    #[prost(uint32, tag = "6")]
    pin_groups: u32,
    #[prost(uint64, repeated, tag = "7")]
    founders: Vec<u64>,
    #[prost(bool, tag = "8")]
    restored: bool,
    /// Fleets from before there were any have none.
    #[prost(uint32, tag = "9")]
    flow_groups: u32,
}

#[derive(Clone, PartialEq, Message)]
struct HelloMessage {
    #[prost(message, optional, tag = "1")]
    identity: Option<IdentityMessage>,
    #[prost(fixed64, tag = "2")]
    founding_hash: u64,
    #[prost(uint64, optional, tag = "3")]
    your_id: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct KnownMessage {
    #[prost(message, repeated, tag = "1")]
    peers: Vec<KnownPeer>,
}

#[derive(Clone, PartialEq, Message)]
struct KnownPeer {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(fixed64, tag = "2")]
    incarnation: u64,
}

impl From<&Identity> for IdentityMessage {
    fn from(identity: &Identity) -> Self {
        Self {
            fleet_name: identity.fleet_name.clone(),
            label: identity.label.clone(),
            incarnation: identity.incarnation.0,
            id: identity.id.map(|id| id.0),
            fleet: identity.fleet.map_or(Vec::new(), |fleet| fleet.0.to_be_bytes().to_vec()),
            pin_groups: identity.pin_groups,
            flow_groups: identity.flow_groups,
            founders: identity.founders.iter().map(|id| id.0).collect(),
            restored: identity.restored,
        }
    }
}

impl IdentityMessage {
    fn identity(self) -> Option<Identity> {
        let fleet = match self.fleet.len() {
            0 => None,
            _ => Some(FleetId(u128::from_be_bytes(self.fleet.try_into().ok()?))),
        };
        Some(Identity {
            fleet_name: self.fleet_name,
            label: self.label,
            incarnation: Incarnation(self.incarnation),
            id: self.id.map(InstanceId),
            fleet,
            pin_groups: self.pin_groups,
            flow_groups: self.flow_groups,
            founders: self.founders.into_iter().map(InstanceId).collect(),
            restored: self.restored,
        })
    }
}

#[cfg(test)]
mod tests;
