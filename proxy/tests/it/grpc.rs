//! The public gRPC API through its generated clients.

use api::v1::{self, kv_client::KvClient, members_client::MembersClient, pins_client::PinsClient};
use api::v1::{pools_client::PoolsClient, status_client::StatusClient};
use proxy::control::ControlError;
use tonic::{Code, Status, transport::Channel};

use crate::client::Instance;

fn connect(instance: &Instance) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", instance.grpc)).unwrap();
    instance.runtime.block_on(endpoint.connect()).unwrap()
}

fn assert_error<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    assert_eq!(status.metadata().get(api::REASON).unwrap(), reason);
    assert_eq!(proxy::grpc::error_of(&status).reason(), reason);
}

#[test]
fn keys() {
    let instance = Instance::start();
    let mut kv = KvClient::new(connect(&instance));
    instance.runtime.block_on(async {
        let put = |if_revision| v1::KvPutRequest { key: "k".into(), value: "v".into(), if_revision, request: None };
        assert_eq!(kv.put(put(Some(0))).await.unwrap().into_inner().index, 2);
        assert_error(kv.put(put(Some(0))).await, Code::Aborted, "conflict");
        let get = || v1::KvGetRequest { key: "k".into(), consistency: v1::Consistency::Linearizable.into() };
        let read = kv.get(get()).await.unwrap().into_inner();
        let item = v1::KvItem { key: "k".into(), value: "v".into(), revision: 2 };
        assert_eq!(read, v1::KvGetResponse { item: Some(item.clone()), applied_index: 2 });
        let list = v1::KvListRequest { prefix: "k".into(), ..Default::default() };
        assert_eq!(kv.list(list).await.unwrap().into_inner().items, [item]);
        let delete = v1::KvDeleteRequest { key: "k".into(), if_revision: None, request: None };
        kv.delete(delete).await.unwrap();
        assert_error(kv.get(get()).await, Code::NotFound, "not_found");
        assert_error(kv.get(v1::KvGetRequest::default()).await, Code::InvalidArgument, "invalid");
        let odd = v1::KvGetRequest { key: "k".into(), consistency: 9 };
        assert_error(kv.get(odd).await, Code::InvalidArgument, "invalid");
        let large = v1::KvListRequest { limit: 5_000, ..Default::default() };
        assert_error(kv.list(large).await, Code::InvalidArgument, "invalid");
    });
    assert_eq!(instance.control.linearizable_reads(), 2);
    drop(kv);
    instance.stop();
}

#[test]
fn sessions() {
    let instance = Instance::start();
    let mut kv = KvClient::new(connect(&instance));
    instance.runtime.block_on(async {
        let session = kv.open_session(v1::OpenSessionRequest {}).await.unwrap().into_inner().session;
        let put = |sequence, answered_below| {
            let request = Some(v1::SessionRequest { session, sequence, answered_below });
            v1::KvPutRequest { key: "k".into(), value: "v".into(), if_revision: None, request }
        };
        let first = kv.put(put(1, 0)).await.unwrap().into_inner();
        assert_eq!(kv.put(put(1, 1)).await.unwrap().into_inner(), first);
        assert_error(kv.put(put(1, 2)).await, Code::InvalidArgument, "invalid");
        kv.close_session(v1::CloseSessionRequest { session }).await.unwrap();
        assert_error(kv.put(put(1, 0)).await, Code::FailedPrecondition, "no_session");
    });
    drop(kv);
    instance.stop();
}

#[test]
fn pools() {
    let instance = Instance::start();
    let mut pools = PoolsClient::new(connect(&instance));
    let before = instance.control.specs();
    instance.runtime.block_on(async {
        let read = pools.list(v1::PoolsListRequest::default()).await.unwrap().into_inner();
        let specs: Vec<v1::PoolSpec> = read.pools.into_iter().map(|pool| pool.spec.unwrap()).collect();
        let apply = |pools: &[v1::PoolSpec], epoch| v1::ApplyRequest { pools: pools.to_vec(), epoch };
        assert_eq!(pools.apply(apply(&specs, 1)).await.unwrap().into_inner().epoch, 2);
        assert_error(pools.apply(apply(&specs, 1)).await, Code::Aborted, "conflict");
        let mut odd = specs.clone();
        odd[0].protocol = 0;
        assert_error(pools.apply(apply(&odd, 2)).await, Code::InvalidArgument, "invalid");
        odd[0] = specs[0].clone();
        odd[0].servers[0].port = 70_000;
        assert_error(pools.apply(apply(&odd, 2)).await, Code::InvalidArgument, "invalid");
        odd[0].servers.clear();
        odd[0].health = None;
        assert_error(pools.apply(apply(&odd, 2)).await, Code::InvalidArgument, "invalid");

        let server = v1::ServerSpec { name: "s3".into(), port: 8_889, ..specs[0].servers[0].clone() };
        let add = v1::ServerAddRequest { pool: "web".into(), server: Some(server) };
        pools.server_add(add).await.unwrap();
        let s3 = || v1::ServerRequest { pool: "web".into(), server: "s3".into() };
        pools.server_drain(s3()).await.unwrap();
        let web = || v1::PoolsGetRequest { name: "web".into(), consistency: 0 };
        let pool = pools.get(web()).await.unwrap().into_inner().pool.unwrap();
        assert_eq!(pool.spec.unwrap().servers[2].state(), v1::ServerState::Draining);
        assert_eq!(pool.servers[2].votes.len(), 2);
        pools.server_enable(s3()).await.unwrap();
        pools.server_remove(s3()).await.unwrap();
        assert_error(pools.server_remove(s3()).await, Code::NotFound, "not_found");
        let none = v1::PoolsGetRequest { name: "none".into(), consistency: 0 };
        assert_error(pools.get(none).await, Code::NotFound, "not_found");
    });
    assert_eq!(instance.control.specs(), before);
    drop(pools);
    instance.stop();
}

#[test]
fn pins() {
    let instance = Instance::start();
    let mut pins = PinsClient::new(connect(&instance));
    instance.runtime.block_on(async {
        let page =
            |after: &str| v1::PinsListRequest { pool: "web".into(), after: after.into(), limit: 200, consistency: 0 };
        let first = pins.list(page("")).await.unwrap().into_inner();
        let second = pins.list(page(&first.next)).await.unwrap().into_inner();
        assert_eq!((first.pins.len(), second.pins.len(), second.next.as_str()), (200, 50, ""));
        let get = || v1::PinsGetRequest { pool: "web".into(), client: "127.64.0.3".into(), consistency: 0 };
        let pin = pins.get(get()).await.unwrap().into_inner().pin.unwrap();
        assert_eq!((pin.server.as_str(), pin.state()), ("s1", v1::PinState::Settled));
        let delete =
            |if_revision| v1::PinsDeleteRequest { pool: "web".into(), client: "127.64.0.3".into(), if_revision };
        assert_error(pins.delete(delete(Some(9))).await, Code::Aborted, "conflict");
        pins.delete(delete(None)).await.unwrap();
        assert_error(pins.get(get()).await, Code::NotFound, "not_found");
        assert_error(pins.list(page("nobody")).await, Code::InvalidArgument, "invalid");
    });
    drop(pins);
    instance.stop();
}

#[test]
fn status_and_members() {
    let instance = Instance::start();
    let channel = connect(&instance);
    let mut status = StatusClient::new(channel.clone());
    let mut members = MembersClient::new(channel);
    instance.runtime.block_on(async {
        let seen = status.get(v1::StatusGetRequest {}).await.unwrap().into_inner();
        assert_eq!((seen.instance.as_str(), seen.id, seen.fleet_id.len()), ("a", 1, 16));
        assert_eq!(seen.standing.unwrap().role(), v1::Role::Leader);
        assert_eq!(seen.groups[0].tables[0].digest, 0xfeed);

        let address =
            v1::MemberAddress { label: "c".into(), host: "127.0.0.3".into(), grpc: 35001, rest: 8001, metrics: 2112 };
        members.add(v1::MembersAddRequest { address: Some(address.clone()) }).await.unwrap();
        let odd = v1::MemberAddress { rest: 70_000, ..address };
        let add = v1::MembersAddRequest { address: Some(odd) };
        assert_error(members.add(add).await, Code::InvalidArgument, "invalid");
        let c = || v1::MemberRequest { label: "c".into() };
        members.promote(c()).await.unwrap();
        members.transfer(c()).await.unwrap();
        let list = members.list(v1::MembersListRequest {}).await.unwrap().into_inner().members;
        assert_eq!(list.iter().filter(|member| member.voter).count(), 3);
        members.remove(c()).await.unwrap();
        assert_error(members.remove(c()).await, Code::NotFound, "not_found");
    });
    drop((status, members));
    instance.stop();
}

#[test]
fn each_error_has_a_code_and_a_reason() {
    let instance = Instance::start();
    let mut kv = KvClient::new(connect(&instance));
    type Make = fn(String) -> ControlError;
    let table: [(Make, Code, &str); 6] = [
        (ControlError::Unavailable, Code::Unavailable, "unavailable"),
        (ControlError::UnknownOutcome, Code::DeadlineExceeded, "unknown_outcome"),
        (ControlError::Overloaded, Code::ResourceExhausted, "overloaded"),
        (ControlError::DiskFull, Code::ResourceExhausted, "disk_full"),
        (ControlError::Unsupported, Code::Unimplemented, "unsupported"),
        (ControlError::Internal, Code::Internal, "internal"),
    ];
    for (make, code, reason) in table {
        instance.control.fail(Some(make("why".into())));
        let put = v1::KvPutRequest { key: "k".into(), value: "v".into(), if_revision: None, request: None };
        assert_error(instance.runtime.block_on(kv.put(put)), code, reason);
    }
    drop(kv);
    instance.stop();
}
