//! All paths of the REST API as data: what 404, 405 and /openapi.json tell is made from this table.

use serde_json::{Map, Value, json};

/// One method of one path.
#[derive(Debug)]
pub struct PathEntry {
    /// GET, POST, PUT or DELETE.
    pub method: &'static str,
    /// With `{variables}`.
    pub path: &'static str,
    /// What it does, in one sentence.
    pub summary: &'static str,
    /// The names that its query takes.
    pub query: &'static [&'static str],
    /// What its body is, if it takes one.
    pub body: Option<&'static str>,
}

/// Every method of every path, in the order they are shown.
pub const PATHS: &[PathEntry] = &[
    get("/", "The dashboard.", &[]),
    get("/status", "All there is to see of this instance.", &[]),
    get("/leader", "Who leads.", &[]),
    get("/role", "This instance's role: leader, follower, candidate, learner or starting.", &[]),
    get("/healthz", "200 while the process answers.", &[]),
    get("/readyz", "200 when the instance holds a lease and serves, else 503 with the reasons.", &[]),
    get("/pools", "The pools, with the servers' verdicts and votes.", READ),
    post("/pools", "Replaces all pools if the epoch is still the one given.", Some("{\"epoch\": 7, \"pools\": [...]}")),
    get("/pools/{pool}", "One pool.", READ),
    post(
        "/pools/{pool}/servers",
        "Adds a server.",
        Some("{\"name\": \"s9\", \"address\": \"10.0.0.9\", \"port\": 80}"),
    ),
    delete("/pools/{pool}/servers/{server}", "Removes a server; its clients move.", &[]),
    post("/pools/{pool}/servers/{server}/drain", "Gives a server no new clients; the pinned ones stay.", None),
    post("/pools/{pool}/servers/{server}/enable", "Gives a server new clients again.", None),
    get("/pins/{pool}", "Pins of a pool by client; the next page begins after `next`.", PAGE),
    get("/pins/{pool}/{client}", "The pin of a client.", READ),
    delete("/pins/{pool}/{client}", "Removes the pin of a client.", CONDITION),
    get("/flows", "The flows that sniffers saw, what changed last in front; the next page begins at `next`.", FLOWS),
    get("/flows/stats", "The table of flows as a whole, and the sniffers that report.", &[]),
    get(
        "/flows/watch",
        "Flows as they change, as server-sent events; begins after `start`, `now` or an event's id.",
        WATCH,
    ),
    body("POST", "/flows/lookup", "Several flows at once, by id, Community ID or 5-tuple.", READ, LOOKUP_EXAMPLE),
    get("/flows/community/{community_id}", "The flows of a Community ID.", READ),
    get("/flows/{size}/{id}", "The flow of a 5-tuple's or 7-tuple's id; size is 5 or 7.", READ),
    body(
        "PUT",
        "/flows/{size}/{id}/labels",
        "Writes labels on a flow if its revision is still the one given; an empty value takes one away.",
        &[],
        "{\"if_revision\": 42, \"labels\": {\"os\": \"linux\"}}",
    ),
    body(
        "PUT",
        "/flows/{size}/{id}/verdict",
        "Writes what shall be done with a flow if its revision is still the one given; it stays until another takes its place.",
        &[],
        "{\"if_revision\": 42, \"action\": \"drop\", \"source\": \"firewall\"}",
    ),
    get("/kv", "Keys in order.", KEYS),
    get("/kv/{key}", "The value of a key.", READ),
    set("PUT", "/kv/{key}", "Sets a key to the body."),
    set("POST", "/kv/{key}", "Sets a key to the body."),
    delete("/kv/{key}", "Removes a key.", CHANGE),
    get("/get/{key}", "The value of a key.", READ),
    post("/submit/{key}/{value}", "Sets a key.", None),
    post("/sessions", "Opens a session, whose requests count once, however often they are sent.", None),
    delete("/sessions/{session}", "Closes a session.", &[]),
    get("/size", "How many entries the log holds here.", GROUP),
    get("/committed", "The last index committed.", GROUP),
    get("/log", "Entries of the log as they lie here.", LOG),
    get("/log/{index}", "One entry of the log.", GROUP),
    get("/peer/list", "The members of the fleet.", &[]),
    get("/members", "The members of the fleet.", &[]),
    post("/members", "Adds an instance as a learner.", Some(MEMBER_EXAMPLE)),
    delete(
        "/members/{label}",
        "Removes an instance for good; answers once all groups have let go of it. Leave it running until then.",
        &[],
    ),
    post("/members/{label}/promote", "Makes a learner a voter.", None),
    post("/members/{label}/transfer", "Hands the leadership to this instance.", None),
    get("/events", "What happened lately on this instance: members, leaders, links, snapshots.", EVENTS),
    get("/tuning", "The committed settings of elections, if there are any, and what this instance goes by.", READ),
    post("/tuning", "Commits settings of elections; every instance goes by them at once.", Some(TUNING_EXAMPLE)),
    delete("/tuning", "Every instance goes by its configuration again.", &[]),
    get("/snapshot", "A backup of all tables, for `rocinante snapshot`; not JSON.", &[]),
    post("/shutdownGrpc", "Cuts this instance off from its peers and from gRPC clients.", None),
    post("/startGrpc", "Brings this instance back.", None),
    post("/shutdownNode/{id}", "Has an instance stop, as a signal would; by id or label.", None),
    get("/openapi.json", "This API, for machines.", &[]),
];

/// The names of all paths, once each, in order.
#[must_use]
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = PATHS.iter().map(|entry| entry.path.to_owned()).collect();
    names.dedup();
    names
}

/// The names of the paths that begin as this one does.
#[must_use]
pub fn near(path: &str) -> Vec<String> {
    let first = |path: &str| path.split('/').nth(1).map(str::to_owned);
    let wanted = first(path).filter(|part| !part.is_empty());
    names().into_iter().filter(|name| wanted.is_some() && first(name) == wanted).collect()
}

/// What the table has for a path that was asked for, over all methods.
#[must_use]
pub fn matching(path: &str) -> Vec<&'static PathEntry> {
    PATHS.iter().filter(|entry| matches(entry.path, path)).collect()
}

/// The API in the words of OpenAPI 3.
#[must_use]
pub fn openapi() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for entry in PATHS {
        let methods = paths.entry(entry.path).or_insert_with(|| json!({}));
        methods[entry.method.to_ascii_lowercase()] = operation(entry);
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Rocinante",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What an instance shows and takes. A follower forwards what needs the leader.",
        },
        "paths": paths,
        "components": { "schemas": { "Error": error_schema() } },
    })
}

fn operation(entry: &PathEntry) -> Value {
    let variables = entry.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path =
        variables.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let in_query = entry.query.iter().map(|name| {
        let schema = match *name {
            "consistency" => {
                json!({ "type": "string", "enum": ["local", "bounded", "linearizable"], "default": "local" })
            }
            "limit" | "group" | "from" | "if_revision" | "max_staleness_ms" | "session" | "sequence"
            | "answered_below" | "port" => {
                json!({ "type": "integer", "minimum": 0 })
            }
            _ => json!({ "type": "string" }),
        };
        json!({ "name": name, "in": "query", "required": false, "schema": schema })
    });
    let parameters: Vec<Value> = in_path.chain(in_query).collect();
    let failed = json!({
        "description": "Refused or failed.",
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
    });
    let mut operation = json!({
        "summary": entry.summary,
        "parameters": parameters,
        "responses": { "200": { "description": "Done." }, "default": failed },
    });
    if let Some(body) = entry.body {
        let kind = if body.starts_with('{') { "application/json" } else { "application/octet-stream" };
        operation["requestBody"] = json!({ "required": true, "description": body, "content": { kind: {} } });
    }
    operation
}

fn error_schema() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "type": "object",
        "required": ["error", "reason", "hint", "retry"],
        "properties": {
            "error": text, "hint": text,
            "reason": { "type": "string", "enum": [
                "not_found", "conflict", "invalid", "unavailable", "unknown_outcome", "no_session", "answered",
                "overloaded", "disk_full", "unsupported", "internal", "no_such_path", "wrong_method", "too_large", "foreign_origin",
            ] },
            "retry": { "type": "string", "enum": ["never", "after_reading", "later"] },
        },
    })
}

/// Whether `path` is one of `pattern`. Keys and Community IDs may hold slashes, so they take the rest.
fn matches(pattern: &str, path: &str) -> bool {
    if let Some(start) = REST_OF_PATH.iter().find_map(|variable| pattern.strip_suffix(variable)) {
        return path.strip_prefix(start).is_some_and(|rest| !rest.is_empty());
    }
    let is_variable = |part: &str| part.starts_with('{');
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some(expected), Some(found)) if expected == found || is_variable(expected) && !found.is_empty() => {}
            _ => return false,
        }
    }
}

/// Variables at the end of a path that take all there is.
const REST_OF_PATH: [&str; 2] = ["{key}", "{community_id}"];

const READ: &[&str] = &["consistency", "max_staleness_ms"];
const PAGE: &[&str] = &["after", "limit", "consistency", "max_staleness_ms"];
const KEYS: &[&str] = &["prefix", "after", "limit", "consistency", "max_staleness_ms"];
const CONDITION: &[&str] = &["if_revision"];
const CHANGE: &[&str] = &["if_revision", "session", "sequence", "answered_below"];
const GROUP: &[&str] = &["group"];
const LOG: &[&str] = &["group", "from", "limit"];
const EVENTS: &[&str] = &["after", "limit"];
const FLOWS: &[&str] = &[
    "prefix",
    "port",
    "protocol",
    "app",
    "host",
    "state",
    "observer",
    "limit",
    "cursor",
    "consistency",
    "max_staleness_ms",
];
const WATCH: &[&str] = &["after", "prefix", "port", "protocol", "app", "host", "state", "observer"];
const LOOKUP_EXAMPLE: &str = "{\"flows\": [{\"id5\": \"8246129\"}, {\"protocol\": \"tcp\", \"src\": \"192.0.2.7\", \"sport\": 51000, \
    \"dst\": \"198.51.100.1\", \"dport\": 443}]}";
const TUNING_EXAMPLE: &str =
    "{\"heartbeat_ms\": 50, \"election_ms\": 300, \"detector\": {\"phi\": 8.0}, \"spread\": true, \"shuffle_ms\": 0}";
const MEMBER_EXAMPLE: &str =
    "{\"label\": \"d\", \"address\": \"127.0.0.4\", \"grpc\": 35001, \"rest\": 8001, \"metrics\": 2112}";

const fn get(path: &'static str, summary: &'static str, query: &'static [&'static str]) -> PathEntry {
    PathEntry { method: "GET", path, summary, query, body: None }
}

const fn delete(path: &'static str, summary: &'static str, query: &'static [&'static str]) -> PathEntry {
    PathEntry { method: "DELETE", path, summary, query, body: None }
}

const fn post(path: &'static str, summary: &'static str, body: Option<&'static str>) -> PathEntry {
    PathEntry { method: "POST", path, summary, query: &[], body }
}

const fn body(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    example: &'static str,
) -> PathEntry {
    PathEntry { method, path, summary, query, body: Some(example) }
}

const fn set(method: &'static str, path: &'static str, summary: &'static str) -> PathEntry {
    PathEntry { method, path, summary, query: CHANGE, body: Some("the value as it is") }
}
