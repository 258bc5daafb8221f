//! Which VIPs this instance can serve: their listeners are open, and their addresses are here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::words::Vips;
use crate::{control::VipBind, traffic::ListenerStatus};

/// Remembers which VIPs were served.
#[derive(Debug, Default)]
pub(super) struct Binds {
    served: BTreeSet<SocketAddr>,
}

/// How the VIPs stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Every VIP, by address, and what keeps it from being served.
    pub binds: Vec<VipBind>,
    /// Why nothing may be announced; it may where there is no reason.
    pub reasons: Vec<String>,
    /// The addresses of those that are served.
    pub vips: Vips,
}

impl Binds {
    /// Judges the VIPs among `listeners`; `is_here` tells whether this machine has an address.
    ///
    /// All are announced or none. One that was served and is not any more withdraws: others serve its clients. One that
    /// never was, while another is, does not: it is new, and must not take the rest of the fleet's VIPs with it.
    pub(super) fn judge(&mut self, listeners: &[ListenerStatus], mut is_here: impl FnMut(IpAddr) -> bool) -> Standing {
        let problems: BTreeMap<SocketAddr, Option<String>> = listeners
            .iter()
            // An address that stands for all of a machine's is nobody's to announce.
            .filter(|listener| listener.vip && !listener.address.ip().is_unspecified())
            .map(|listener| (listener.address, problem(listener, &mut is_here)))
            .collect();
        self.served.retain(|address| problems.contains_key(address));
        let good = problems.iter().filter(|(_, problem)| problem.is_none()).map(|(address, _)| *address);
        self.served.extend(good.clone());
        let nothing_good = good.clone().next().is_none();
        let vips = good.map(|address| address.ip()).collect();
        let counts = |address: &SocketAddr| nothing_good || self.served.contains(address);
        let mut reasons: Vec<String> = problems
            .iter()
            .filter(|(address, _)| counts(address))
            .filter_map(|(address, problem)| problem.as_ref().map(|problem| format!("{address}: {problem}")))
            .collect();
        if problems.is_empty() {
            reasons.push("no pool is bound to a VIP (\"IP:PORT\")".to_owned());
        }
        let binds = problems.into_iter().map(|(address, problem)| VipBind { address, problem }).collect();
        Standing { binds, reasons, vips }
    }
}

/// What keeps clients of a VIP from being served here. What comes to a transparent pool is led to it by packet rules, wherever the
/// address is.
fn problem(listener: &ListenerStatus, mut is_here: impl FnMut(IpAddr) -> bool) -> Option<String> {
    let ip = listener.address.ip();
    match &listener.error {
        Some(error) => Some(format!("it does not listen: {error}")),
        None if listener.transparent || is_here(ip) => None,
        None => Some(format!("it is on no interface of this machine: ip address add {ip}/{} dev lo", bits(ip))),
    }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "192.0.2.1:80";
    const ALSO_HERE: &str = "[2001:db8::1]:80";
    const AWAY: &str = "198.51.100.7:80";

    fn listener(address: &str) -> ListenerStatus {
        ListenerStatus {
            pool: "p".to_owned(),
            address: address.parse().unwrap(),
            vip: true,
            transparent: false,
            error: None,
        }
    }

    fn taken(address: &str) -> ListenerStatus {
        ListenerStatus { error: Some("taken".to_owned()), ..listener(address) }
    }

    fn here(ip: IpAddr) -> bool {
        [HERE, ALSO_HERE].iter().any(|address| address.parse::<SocketAddr>().unwrap().ip() == ip)
    }

    fn check(binds: &mut Binds, listeners: &[ListenerStatus], reasons: &[&str], vips: &[&str]) -> Standing {
        let standing = binds.judge(listeners, here);
        assert_eq!(standing.reasons, reasons);
        let vips: Vips = vips.iter().map(|vip| vip.parse().unwrap()).collect();
        assert_eq!(standing.vips, vips);
        standing
    }

    #[test]
    fn vips_are_served_where_they_listen_and_where_their_addresses_are() {
        let none = "no pool is bound to a VIP (\"IP:PORT\")";
        let own = ListenerStatus { vip: false, ..listener("10.0.0.1:80") };
        check(&mut Binds::default(), &[], &[none], &[]);
        check(&mut Binds::default(), &[own.clone(), listener("0.0.0.0:80"), listener("[::]:80")], &[none], &[]);
        let standing = check(
            &mut Binds::default(),
            &[own, listener(HERE), listener(ALSO_HERE)],
            &[],
            &["192.0.2.1", "2001:db8::1"],
        );
        assert_eq!(standing.binds.len(), 2);
        let away = "198.51.100.7:80: it is on no interface of this machine: ip address add 198.51.100.7/32 dev lo";
        check(&mut Binds::default(), &[listener(AWAY)], &[away], &[]);
        let reason = "192.0.2.1:80: it does not listen: taken";
        check(&mut Binds::default(), &[taken(HERE), listener(AWAY)], &[reason, away], &[]);
        check(&mut Binds::default(), &[ListenerStatus { transparent: true, ..listener(AWAY) }], &[], &["198.51.100.7"]);
        let v6 = "[2001:db8::9]:80: it is on no interface of this machine: ip address add 2001:db8::9/128 dev lo";
        check(&mut Binds::default(), &[listener("[2001:db8::9]:80")], &[v6], &[]);
    }

    #[test]
    fn a_vip_that_goes_withdraws_and_one_that_never_came_does_not() {
        let mut binds = Binds::default();
        check(&mut binds, &[listener(HERE)], &[], &["192.0.2.1"]);
        let standing = check(&mut binds, &[listener(HERE), listener(AWAY), taken(ALSO_HERE)], &[], &["192.0.2.1"]);
        let problems = standing.binds.iter().filter(|bind| bind.problem.is_some());
        assert_eq!(problems.count(), 2, "it is told all the same");
        check(&mut binds, &[listener(HERE), listener(ALSO_HERE)], &[], &["192.0.2.1", "2001:db8::1"]);
        let reason = "[2001:db8::1]:80: it does not listen: taken";
        check(&mut binds, &[listener(HERE), taken(ALSO_HERE)], &[reason], &["192.0.2.1"]);
        // Its pool is removed, and comes anew.
        check(&mut binds, &[listener(HERE)], &[], &["192.0.2.1"]);
        check(&mut binds, &[listener(HERE), taken(ALSO_HERE)], &[], &["192.0.2.1"]);
    }
}
