//! What handlers take from a request; what cannot be read is answered in JSON like every other error.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{Method, StatusCode, Uri, request::Parts},
    response::IntoResponse,
};
use flow::Revision;
use serde::{Deserialize, de::DeserializeOwned};

use super::{failure::Failure, flow_json::parse_protocol, paths};
use crate::control::{
    Consistency, ControlError, Terms,
    check::{check_request, page_rows, parse_prefix},
    flows::FlowFilter,
};

/// The variables of a path.
pub struct InPath<T>(pub T);

/// The query of a URL. Unknown names are refused.
pub struct InQuery<T>(pub T);

/// The body as it is.
pub struct RawBody(pub Bytes);

/// The body as JSON.
pub struct JsonBody<T>(pub T);

/// `?consistency=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadQuery {
    consistency: Option<String>,
    max_staleness_ms: Option<u64>,
}

/// `?if_revision=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionQuery {
    /// The revision that the thing must have.
    pub if_revision: Option<u64>,
}

/// `?if_revision=&session=&sequence=&answered_below=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeQuery {
    /// The revision that the key must have.
    pub if_revision: Option<u64>,
    /// The session of the request.
    pub session: Option<u64>,
    /// Which request of it.
    pub sequence: Option<u64>,
    /// The client has the answers to all requests of the session below this one.
    pub answered_below: Option<u64>,
}

impl ChangeQuery {
    /// What goes with the change.
    pub fn terms(&self) -> Result<Terms, ControlError> {
        let request = check_request(self.session, self.sequence, self.answered_below)?;
        Ok(Terms { if_revision: self.if_revision.map(Revision), request })
    }
}

/// `?prefix=&after=&limit=&consistency=` or, for pins, without a prefix.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Only rows that begin so.
    pub prefix: Option<String>,
    /// Only rows after this one.
    pub after: Option<String>,
    limit: Option<u64>,
    consistency: Option<String>,
    max_staleness_ms: Option<u64>,
}

/// `?prefix=&port=&protocol=&app=&host=&state=&observer=` of flows, with `limit`, `cursor` and `consistency` of a page, or
/// `after` of a watch.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowsQuery {
    prefix: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
    app: Option<String>,
    host: Option<String>,
    state: Option<String>,
    observer: Option<String>,
    limit: Option<u64>,
    /// The `next` of the page before.
    pub cursor: Option<String>,
    consistency: Option<String>,
    max_staleness_ms: Option<u64>,
    /// `start`, `now` or a position.
    pub after: Option<String>,
}

/// `?group=&from=&limit=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// The group, 0 where nothing is said.
    #[serde(default)]
    pub group: u32,
    /// The first index.
    #[serde(default)]
    pub from: u64,
    limit: Option<u64>,
}

/// `?group=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupQuery {
    /// The group, 0 where nothing is said.
    #[serde(default)]
    pub group: u32,
}

impl ReadQuery {
    /// How fresh the read has to be.
    pub fn consistency(&self) -> Result<Consistency, Failure> {
        parse_consistency(self.consistency.as_deref(), self.max_staleness_ms)
    }
}

impl PageQuery {
    /// How fresh the read has to be.
    pub fn consistency(&self) -> Result<Consistency, Failure> {
        parse_consistency(self.consistency.as_deref(), self.max_staleness_ms)
    }

    /// How many rows.
    pub fn rows(&self) -> Result<usize, Failure> {
        Ok(page_rows(self.limit)?)
    }
}

impl FlowsQuery {
    /// What a flow must be to be shown.
    pub fn filter(&self) -> Result<FlowFilter, ControlError> {
        Ok(FlowFilter {
            prefix: self.prefix.as_deref().map(parse_prefix).transpose()?,
            port: self.port,
            protocol: self.protocol.as_deref().map(parse_protocol).transpose()?,
            app: self.app.as_deref().map(FlowFilter::app_named).transpose()?,
            host: self.host.clone(),
            state: self.state.as_deref().map(FlowFilter::state_named).transpose()?,
            observer: self.observer.as_deref().map(FlowFilter::observer_named),
        })
    }

    /// How fresh the read has to be.
    pub fn consistency(&self) -> Result<Consistency, Failure> {
        parse_consistency(self.consistency.as_deref(), self.max_staleness_ms)
    }

    /// How many flows.
    pub fn rows(&self) -> Result<usize, Failure> {
        Ok(page_rows(self.limit)?)
    }

    /// Refuses what goes with a watch.
    pub fn check_page(&self) -> Result<(), Failure> {
        match self.after {
            Some(_) => Err(invalid("a page takes a cursor: after goes with /flows/watch".to_owned())),
            None => Ok(()),
        }
    }

    /// Refuses what goes with a page.
    pub fn check_watch(&self) -> Result<(), Failure> {
        let page = self.limit.is_some() || self.cursor.is_some() || self.max_staleness_ms.is_some();
        match page || self.consistency.is_some() {
            true => Err(invalid("a watch takes after and filters, no limit, cursor or consistency".to_owned())),
            false => Ok(()),
        }
    }
}

impl LogQuery {
    /// How many entries.
    pub fn rows(&self) -> Result<usize, Failure> {
        Ok(page_rows(self.limit)?)
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InPath<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(invalid(rejection.body_text())),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for InQuery<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(_) => Err(invalid(mistake::<T>(&parts.method, &parts.uri))),
        }
    }
}

/// Which parameter of a query is wrong, and what would be right.
fn mistake<T: DeserializeOwned>(method: &Method, uri: &Uri) -> String {
    let entries = paths::matching(uri.path()).into_iter().filter(|entry| entry.method == method.as_str());
    let known: Vec<&str> = entries.flat_map(|entry| entry.query).copied().collect();
    let mut given: Vec<&str> = Vec::new();
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if known.is_empty() {
            return format!("{name}: there are no parameters here");
        }
        if !known.contains(&name) {
            return format!("there is no parameter {name}: {} are possible", known.join(", "));
        }
        if given.contains(&name) {
            return format!("{name} is given twice");
        }
        given.push(name);
        let alone = format!("/?{pair}").parse().is_ok_and(|uri: Uri| Query::<T>::try_from_uri(&uri).is_ok());
        if !alone {
            let most = if name == "port" { u64::from(u16::MAX) } else { u64::MAX };
            return format!("{name}={value}: a number from 0 to {most} is expected");
        }
    }
    "the query makes no sense: NAME=VALUE&NAME=VALUE is expected".to_owned()
}

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Failure::too_large(format!("the body is above {} bytes", super::BODY_BYTES_MAX)))
            }
            Err(rejection) => Err(invalid(format!("the body broke off: {}", rejection.into_response().status()))),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let RawBody(bytes) = RawBody::from_request(request, state).await?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Self(value)),
            Err(error) => Err(invalid(format!("the body is not the JSON expected here: {error}"))),
        }
    }
}

fn parse_consistency(text: Option<&str>, max_staleness_ms: Option<u64>) -> Result<Consistency, Failure> {
    match (text, max_staleness_ms) {
        (None | Some("local"), None) => Ok(Consistency::Local),
        (Some("linearizable"), None) => Ok(Consistency::Linearizable),
        (Some("bounded"), most) => Ok(Consistency::Bounded(most.map_or(STALENESS_DEFAULT, Duration::from_millis))),
        (None | Some("local" | "linearizable"), Some(_)) => {
            Err(invalid("max_staleness_ms goes with consistency=bounded".to_owned()))
        }
        (Some(other), _) => Err(invalid(format!("consistency {other:?}: local, bounded, linearizable is possible"))),
    }
}

fn invalid(text: String) -> Failure {
    ControlError::Invalid(text).into()
}

/// How old a bounded read may be if nothing is said.
const STALENESS_DEFAULT: Duration = Duration::from_secs(1);
