//! One function per path: asks the control, answers JSON.

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
};
use flow::{PoolSpec, Revision, ServerChange, SessionId};

use super::{
    extract::{
        ChangeQuery, ConditionQuery, GroupQuery, InPath, InQuery, JsonBody, LogQuery, PageQuery, RawBody, ReadQuery,
    },
    failure::Failure,
    json::{
        AppliedJson, ApplyJson, CommittedJson, KvListJson, KvReadJson, LeaderJson, LogEntryJson, LogJson, MembersJson,
        NewMemberJson, PinReadJson, PinsJson, PoolsJson, ReadyJson, RoleJson, SessionJson, SizeJson, StatusJson,
        SubmitJson, TransferJson, role_text,
    },
    paths,
    pool_json::{PoolJson, ServerJson},
};
use crate::control::{
    Control, ControlError, KvQuery, LogRange, Terms,
    check::{check_key, check_member, check_name, check_pools, check_server, check_value, parse_client},
};

type Answer<T> = Result<Json<T>, Failure>;

pub async fn dashboard() -> Response {
    let mut response = Html(DASHBOARD).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(DASHBOARD_POLICY));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

pub async fn status<C: Control>(State(control): State<C>) -> Json<StatusJson> {
    Json(control.status().await.into())
}

pub async fn leader<C: Control>(State(control): State<C>) -> Json<LeaderJson> {
    Json(control.standing().into())
}

pub async fn role<C: Control>(State(control): State<C>) -> Json<RoleJson> {
    Json(RoleJson { role: role_text(control.standing().role).into() })
}

pub async fn healthz() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "healthy": true }))
}

pub async fn readyz<C: Control>(State(control): State<C>) -> Response {
    let readiness = control.readiness();
    let status = if readiness.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let ready = readiness.ready();
    let body = ReadyJson { ready, reasons: readiness.reasons, vip: readiness.vip.map(Into::into) };
    (status, Json(body)).into_response()
}

pub async fn pools<C: Control>(State(control): State<C>, InQuery(query): InQuery<ReadQuery>) -> Answer<PoolsJson> {
    Ok(Json(control.pools(query.consistency()?).await?.into()))
}

pub async fn pool<C: Control>(
    State(control): State<C>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<ReadQuery>,
) -> Answer<PoolsJson> {
    let mut read: PoolsJson = control.pools(query.consistency()?).await?.into();
    read.pools.retain(|pool| pool.name == name);
    match read.pools.is_empty() {
        true => Err(ControlError::NotFound(format!("there is no pool {name:?}")).into()),
        false => Ok(Json(read)),
    }
}

pub async fn apply<C: Control>(State(control): State<C>, JsonBody(body): JsonBody<ApplyJson>) -> Answer<AppliedJson> {
    let pools = body.pools.into_iter().map(PoolJson::try_into).collect::<Result<Vec<PoolSpec>, _>>()?;
    check_pools(&pools)?;
    Ok(Json(control.apply(pools, flow::Epoch(body.epoch)).await?.into()))
}

pub async fn server_add<C: Control>(
    State(control): State<C>,
    InPath(pool): InPath<String>,
    JsonBody(body): JsonBody<ServerJson>,
) -> Answer<AppliedJson> {
    let server = body.try_into()?;
    check_server(&server)?;
    change_server(&control, pool, ServerChange::Add(server)).await
}

pub async fn server_remove<C: Control>(
    State(control): State<C>,
    InPath((pool, server)): InPath<(String, String)>,
) -> Answer<AppliedJson> {
    change_server(&control, pool, ServerChange::Remove(server)).await
}

pub async fn server_drain<C: Control>(
    State(control): State<C>,
    InPath((pool, server)): InPath<(String, String)>,
) -> Answer<AppliedJson> {
    change_server(&control, pool, ServerChange::Drain(server)).await
}

pub async fn server_enable<C: Control>(
    State(control): State<C>,
    InPath((pool, server)): InPath<(String, String)>,
) -> Answer<AppliedJson> {
    change_server(&control, pool, ServerChange::Enable(server)).await
}

pub async fn pins<C: Control>(
    State(control): State<C>,
    InPath(pool): InPath<String>,
    InQuery(query): InQuery<PageQuery>,
) -> Answer<PinsJson> {
    if query.prefix.is_some() {
        return Err(ControlError::Invalid("pins take after, limit and consistency, no prefix".into()).into());
    }
    let after = query.after.as_deref().map(parse_client).transpose()?;
    let read = control.pins(pool.clone(), after, query.rows()?, query.consistency()?).await?;
    Ok(Json(PinsJson::new(pool, read)))
}

pub async fn pin<C: Control>(
    State(control): State<C>,
    InPath((pool, client)): InPath<(String, String)>,
    InQuery(query): InQuery<ReadQuery>,
) -> Answer<PinReadJson> {
    let client = parse_client(&client)?;
    let read = control.pin(pool.clone(), client, query.consistency()?).await?;
    match read.value {
        Some(pin) => Ok(Json(PinReadJson { pin: pin.into(), applied_index: read.applied_index })),
        None => Err(ControlError::NotFound(format!("{client} has no pin in pool {pool:?}")).into()),
    }
}

pub async fn pin_delete<C: Control>(
    State(control): State<C>,
    InPath((pool, client)): InPath<(String, String)>,
    InQuery(query): InQuery<ConditionQuery>,
) -> Answer<AppliedJson> {
    let client = parse_client(&client)?;
    Ok(Json(control.pin_delete(pool, client, query.if_revision.map(Revision)).await?.into()))
}

pub async fn kv<C: Control>(
    State(control): State<C>,
    InPath(key): InPath<String>,
    InQuery(query): InQuery<ReadQuery>,
) -> Answer<KvReadJson> {
    check_key(&key)?;
    let read = control.kv(key.clone(), query.consistency()?).await?;
    match read.value {
        Some(item) => Ok(Json(KvReadJson { item: item.into(), applied_index: read.applied_index })),
        None => Err(ControlError::NotFound(format!("there is no key {key:?}")).into()),
    }
}

pub async fn kv_list<C: Control>(State(control): State<C>, InQuery(query): InQuery<PageQuery>) -> Answer<KvListJson> {
    let (limit, consistency) = (query.rows()?, query.consistency()?);
    let list = KvQuery { prefix: query.prefix.unwrap_or_default(), after: query.after, limit };
    Ok(Json(control.kv_list(list, consistency).await?.into()))
}

pub async fn kv_put<C: Control>(
    State(control): State<C>,
    InPath(key): InPath<String>,
    InQuery(query): InQuery<ChangeQuery>,
    RawBody(value): RawBody,
) -> Answer<AppliedJson> {
    check_key(&key)?;
    check_value(&value)?;
    Ok(Json(control.kv_put(key, value, query.terms()?).await?.into()))
}

pub async fn kv_delete<C: Control>(
    State(control): State<C>,
    InPath(key): InPath<String>,
    InQuery(query): InQuery<ChangeQuery>,
) -> Answer<AppliedJson> {
    check_key(&key)?;
    Ok(Json(control.kv_delete(key, query.terms()?).await?.into()))
}

pub async fn submit<C: Control>(
    State(control): State<C>,
    InPath((key, value)): InPath<(String, String)>,
) -> Answer<SubmitJson> {
    check_key(&key)?;
    check_value(value.as_bytes())?;
    let applied = control.kv_put(key.clone(), value.clone().into(), Terms::default()).await?;
    Ok(Json(SubmitJson { key, value, index: applied.index }))
}

pub async fn session_open<C: Control>(State(control): State<C>) -> Answer<SessionJson> {
    Ok(Json(SessionJson { session: control.session_open().await?.0 }))
}

pub async fn session_close<C: Control>(State(control): State<C>, InPath(session): InPath<u64>) -> Answer<AppliedJson> {
    Ok(Json(control.session_close(SessionId(session)).await?.into()))
}

pub async fn size<C: Control>(State(control): State<C>, InQuery(query): InQuery<GroupQuery>) -> Answer<SizeJson> {
    let GroupQuery { group } = query;
    let size = control.log_size(group).await?;
    let (first_index, last_index) = (size.first_index, size.last_index);
    Ok(Json(SizeJson { group, size: size.entries(), first_index, last_index }))
}

pub async fn committed<C: Control>(
    State(control): State<C>,
    InQuery(query): InQuery<GroupQuery>,
) -> Answer<CommittedJson> {
    let GroupQuery { group } = query;
    Ok(Json(CommittedJson { group, committed: control.log_size(group).await?.committed_index }))
}

pub async fn log<C: Control>(State(control): State<C>, InQuery(query): InQuery<LogQuery>) -> Answer<LogJson> {
    let range = LogRange { group: query.group, from: query.from, limit: query.rows()? };
    let size = control.log_size(range.group).await?;
    let entries = control.log(range).await?;
    Ok(Json(LogJson::new(range.group, size, entries)))
}

pub async fn log_entry<C: Control>(
    State(control): State<C>,
    InPath(index): InPath<u64>,
    InQuery(query): InQuery<GroupQuery>,
) -> Answer<LogEntryJson> {
    let GroupQuery { group } = query;
    let size = control.log_size(group).await?;
    let entries = control.log(LogRange { group, from: index, limit: 1 }).await?;
    match entries.into_iter().find(|entry| entry.index == index) {
        Some(entry) => Ok(Json(LogEntryJson::new(entry, size.committed_index))),
        None => {
            let (first, last) = (size.first_index, size.last_index);
            let text = format!("group {group} holds no entry {index}: its log goes from {first} to {last}");
            Err(ControlError::NotFound(text).into())
        }
    }
}

pub async fn members<C: Control>(State(control): State<C>) -> Json<MembersJson> {
    let status: StatusJson = control.status().await.into();
    Json(MembersJson { members: status.members, applied_index: status.applied_index })
}

pub async fn member_add<C: Control>(
    State(control): State<C>,
    JsonBody(body): JsonBody<NewMemberJson>,
) -> Answer<AppliedJson> {
    let member = body.into();
    check_member(&member)?;
    Ok(Json(control.member_add(member).await?.into()))
}

pub async fn member_remove<C: Control>(State(control): State<C>, InPath(label): InPath<String>) -> Answer<AppliedJson> {
    check_name("instance", &label)?;
    Ok(Json(control.member_remove(label).await?.into()))
}

pub async fn member_promote<C: Control>(
    State(control): State<C>,
    InPath(label): InPath<String>,
) -> Answer<AppliedJson> {
    check_name("instance", &label)?;
    Ok(Json(control.member_promote(label).await?.into()))
}

pub async fn transfer<C: Control>(State(control): State<C>, InPath(label): InPath<String>) -> Answer<TransferJson> {
    check_name("instance", &label)?;
    control.transfer(label.clone()).await?;
    Ok(Json(TransferJson { leader: label }))
}

pub async fn openapi() -> Json<serde_json::Value> {
    Json(paths::openapi())
}

/// Answers what no route takes: a path that is not there, or one that wants another method.
pub async fn unmatched(method: Method, uri: Uri) -> Failure {
    let entries = paths::matching(uri.path());
    let Some(first) = entries.first() else {
        return Failure::no_such_path(uri.path(), &paths::near(uri.path()), paths::names());
    };
    let of_first = entries.iter().filter(|entry| entry.path == first.path);
    let methods: Vec<&str> = of_first.map(|entry| entry.method).collect();
    let error = format!("{} takes {}, not {method}", first.path, methods.join(", "));
    // A body that is no JSON is the caller's own.
    let body = first.body.filter(|body| body.starts_with('{')).map_or_else(String::new, |body| format!(" -d '{body}'"));
    let hint = format!("{} For example: curl -X {}{body} http://HOST:REST{}", first.summary, first.method, uri.path());
    Failure::wrong_method(error, hint, methods.join(", "))
}

async fn change_server<C: Control>(control: &C, pool: String, change: ServerChange) -> Answer<AppliedJson> {
    check_name("pool", &pool)?;
    if let ServerChange::Remove(server) | ServerChange::Drain(server) | ServerChange::Enable(server) = &change {
        check_name("server", server)?;
    }
    Ok(Json(control.server_change(pool, change).await?.into()))
}

const DASHBOARD: &str = include_str!("dashboard.html");
const DASHBOARD_POLICY: &str =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'";
