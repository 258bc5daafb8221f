//! Only instances of the fleet talk to each other, each under its own name, and whoever does not get in is told why.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};

use super::super::generated::link_client::LinkClient;
use super::super::generated::{Hello, LinkRequest};
use super::*;

const PREFIX: &str = "rocinante://test/instance/";

/// A certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pems {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pems { ca: self.pem.clone().into(), cert: cert.into(), key: key.serialize_pem().into() }
    }

    /// What node `id` should have.
    fn pems(&self, id: u64) -> Pems {
        self.issue(&[&format!("{PREFIX}n{id}")], |_| {})
    }

    fn tls(&self, id: u64) -> Arc<Tls> {
        Arc::new(Tls::new(PREFIX, &format!("n{id}"), &self.pems(id)).unwrap())
    }
}

fn node(id: u64, tls: Option<&Arc<Tls>>) -> Node {
    Node::start_with(id, Options { tls: tls.cloned(), ..options() }, 1 << 10)
}

/// The sentence with which a link is refused.
fn refusal(node: &Node, code: u32) -> String {
    node.until("Refused", |event| match event {
        Event::Refused { refused, .. } => {
            assert_eq!(refused.code, code, "{refused}");
            Some(refused.text)
        }
        _ => None,
    })
}

fn check(node: &Node, code: u32, expected: &str) {
    let text = refusal(node, code);
    assert!(text.contains(expected), "{text:?} does not say {expected:?}");
}

#[test]
fn instances_of_a_fleet_talk_and_send_snapshots() {
    let authority = Authority::new();
    let (one, two) = (node(1, Some(&authority.tls(1))), node(2, Some(&authority.tls(2))));
    link(&one, &two);
    check_alive(&one, &two);
    check_alive(&two, &one);
    let body = Bytes::from(vec![1; 2 * SNAPSHOT_CHUNK_BYTES]);
    let sent = one.transport.send_snapshot(two.id, Bytes::new(), Arc::new(body));
    one.runtime().block_on(sent).unwrap().unwrap();
    assert_eq!(value(&two.counters().handshakes_failed), 0);
}

#[test]
fn a_certificate_of_another_authority_is_told_on_both_sides() {
    let (one, two) = (node(1, Some(&Authority::new().tls(1))), node(2, Some(&Authority::new().tls(2))));
    one.set_peers(&[&two]);
    check(&one, Refused::UNTRUSTED, "another authority");
    eventually("the count", || value(&two.counters().handshakes_failed) > 0);
    assert_eq!(value(&one.counters().links_opened), 0);
}

#[test]
fn plaintext_and_tls_do_not_mix_and_say_so() {
    let (plain, secure) = (node(1, None), node(2, Some(&Authority::new().tls(2))));
    plain.set_peers(&[&secure]);
    check(&plain, Refused::UNTRUSTED, "it speaks TLS and this instance speaks plaintext");
    secure.set_peers(&[&plain]);
    check(&secure, Refused::UNTRUSTED, "it speaks plaintext and this side speaks TLS");
    eventually("the counts", || {
        value(&plain.counters().handshakes_failed) > 0 && value(&secure.counters().handshakes_failed) > 0
    });
}

#[test]
fn nobody_speaks_under_anothers_name() {
    let authority = Authority::new();
    // Node 1 has the certificate of node 3.
    let (one, two) = (node(1, Some(&authority.tls(3))), node(2, Some(&authority.tls(2))));
    one.set_peers(&[&two]);
    check(&one, Refused::IDENTITY, "the hello says it is instance n1, and the certificate is that of n3");
    two.set_peers(&[&one]);
    check(&two, Refused::UNTRUSTED, "its certificate is that of instance n3, and n1 should be there");
}

#[test]
fn a_certificate_that_expires_is_told_and_a_new_one_helps() {
    let authority = Authority::new();
    let tls = authority.tls(1);
    let (one, two) = (node(1, Some(&tls)), node(2, Some(&authority.tls(2))));
    let old = authority.issue(&[&format!("{PREFIX}n1")], |params| params.not_after = date_time_ymd(2020, 1, 1));
    let error = tls.reload(&old).unwrap_err();
    assert_eq!((error.part, error.problem.as_str()), (Part::Cert, "its certificate has expired"));
    // What cannot be taken any more could be taken once.
    tls.replace_unchecked(&old);
    one.set_peers(&[&two]);
    check(&one, Refused::UNTRUSTED, "it says that this instance's certificate has expired");
    two.set_peers(&[&one]);
    check(&two, Refused::UNTRUSTED, "its certificate has expired");
    tls.reload(&authority.pems(1)).unwrap();
    one.until_up(&two);
    two.until_up(&one);
}

#[test]
fn another_authority_comes_while_links_are_up() {
    let (old, new) = (Authority::new(), Authority::new());
    let both = format!("{}{}", old.pem, new.pem);
    let tls = [1, 2].map(|id| old.tls(id));
    let (one, two) = (node(1, Some(&tls[0])), node(2, Some(&tls[1])));
    link(&one, &two);
    for (id, tls) in (1..).zip(&tls) {
        tls.reload(&Pems { ca: both.clone().into(), ..old.pems(id) }).unwrap();
    }
    tls[0].reload(&Pems { ca: both.into(), ..new.pems(1) }).unwrap();
    check_alive(&one, &two);
    one.set_peers(&[]);
    two.set_peers(&[]);
    eventually("the end of the links", || {
        value(&one.counters().inbound_links_closed) == 1 && value(&two.counters().inbound_links_closed) == 1
    });
    link(&one, &two);
    check_alive(&one, &two);
}

#[test]
fn without_a_certificate_one_may_call_but_is_no_peer() {
    let authority = Authority::new();
    let two = node(2, Some(&authority.tls(2)));
    let (known, unknown) = (authority.tls(7), authority.tls(7));
    unknown.forget_certificate();
    let answer = |tls, says_hello: bool| {
        two.runtime().block_on(async {
            let mut client = LinkClient::new(channel(&two, tls));
            let payload = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 7]);
            let hello = LinkRequest { hello: Some(Hello { version: LINK_VERSION, payload }), ..LinkRequest::default() };
            let said = tokio_stream::iter(says_hello.then_some(hello)).chain(tokio_stream::pending());
            let mut replies = client.link(said).await.unwrap().into_inner();
            replies.message().await.unwrap().unwrap().hello.unwrap()
        })
    };
    assert!(answer(known, true).accepted);
    // Nothing that it may say is waited for.
    for says_hello in [true, false] {
        let reply = answer(unknown.clone(), says_hello);
        assert_eq!((reply.accepted, reply.code), (false, Refused::IDENTITY));
    }
    two.runtime().block_on(async {
        let mut client = LinkClient::new(channel(&two, unknown));
        let mut replies = client.snapshot(tokio_stream::pending()).await.unwrap().into_inner();
        let reply = replies.message().await.unwrap().unwrap();
        assert_eq!((reply.accepted, reply.code), (false, Refused::IDENTITY));
    });
    assert_eq!(value(&two.counters().inbound_hellos_missing), 0);
}

/// A connection to the port of `node` that is made when it is needed.
fn channel(node: &Node, tls: Arc<Tls>) -> Channel {
    let options = Options { tls: Some(tls), local_address: Some(ip(7)), ..options() };
    let endpoint = Endpoint::from_shared(format!("http://{}", node.address)).unwrap();
    let _entered = node.runtime().enter();
    endpoint.connect_with_connector_lazy(Connector::new(options))
}

#[test]
fn clients_without_a_certificate_leave_room_for_peers() {
    let authority = Authority::new();
    let (one, two) = (node(1, Some(&authority.tls(1))), node(2, Some(&authority.tls(2))));
    let unknown = authority.tls(7);
    unknown.forget_certificate();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let channel = channel(&two, unknown.clone());
        let called = two.runtime().block_on(LinkClient::new(channel.clone()).link(tokio_stream::pending()));
        if called.is_ok() {
            held.push(channel);
        }
    }
    assert_eq!(held.len(), CONNECTIONS_MAX - CONNECTIONS_MAX / 4);
    assert!(value(&two.counters().connections_shed) > 0);
    link(&one, &two);
    check_alive(&one, &two);
}

#[test]
fn pems_that_a_peer_would_not_take_are_refused_with_the_reason() {
    let authority = Authority::new();
    let good = authority.pems(1);
    let check = |pems: Pems, part: Part, problem: &str| {
        let error = Tls::new(PREFIX, "n1", &pems).unwrap_err();
        assert_eq!(error.part, part, "{error}");
        assert!(error.to_string().contains(problem), "{error}");
    };
    let garbage = b"no PEM".to_vec();
    check(Pems { ca: garbage.clone(), ..good.clone() }, Part::Ca, "there is no certificate in it");
    check(Pems { cert: garbage.clone(), ..good.clone() }, Part::Cert, "there is no certificate in it");
    check(Pems { key: garbage, ..good.clone() }, Part::Key, "there is no private key in it");
    let broken = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".to_vec();
    check(Pems { cert: broken, ..good.clone() }, Part::Cert, "");
    check(Pems { key: authority.pems(1).key, ..good.clone() }, Part::Key, "does not belong to the certificate");
    check(Pems { ca: Authority::new().pem.into(), ..good.clone() }, Part::Cert, "another authority");
    check(Pems { cert: good.cert.repeat(17), ..good }, Part::Cert, "more than 16");
    check(authority.pems(2), Part::Cert, "it is the certificate of instance n2");
    check(authority.issue(&[], |_| {}), Part::Cert, "it names no instance; issue one with the URI rocinante://test/");
    let other_fleet = authority.issue(&["rocinante://other/instance/n1"], |_| {});
    check(other_fleet, Part::Cert, "no instance of this fleet, but rocinante://other/instance/n1");
    let two = [format!("{PREFIX}n1"), format!("{PREFIX}n2")];
    check(authority.issue(&[&two[0], &two[1]], |_| {}), Part::Cert, "more than one instance");
    let later = authority.issue(&[&two[0]], |params| params.not_before = date_time_ymd(4000, 1, 1));
    check(later, Part::Cert, "not valid yet");
    let server = authority.issue(&[&two[0]], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    check(server, Part::Cert, "both servers and clients");
    let soon = authority.issue(&[&two[0]], |params| params.not_after = date_time_ymd(3000, 1, 1));
    let expiry = u64::try_from(date_time_ymd(3000, 1, 1).unix_timestamp()).unwrap();
    assert_eq!(Tls::new(PREFIX, "n1", &soon).unwrap().expires_at(), expiry);
}
