//! The service Kv.

use api::v1::{
    Applied, CloseSessionRequest, KvDeleteRequest, KvGetRequest, KvGetResponse, KvListRequest, KvListResponse,
    KvPutRequest, OpenSessionRequest, OpenSessionResponse, SessionRequest, kv_server::Kv,
};
use flow::{Revision, SessionId};
use tonic::{Request, Response, Status};

use super::convert::{consistency, rows};
use crate::control::{
    Control, ControlError, KvQuery, Terms,
    check::{check_key, check_request, check_value},
};

pub struct KvService<C>(pub C);

#[tonic::async_trait]
impl<C: Control> Kv for KvService<C> {
    async fn get(&self, request: Request<KvGetRequest>) -> Result<Response<KvGetResponse>, Status> {
        let KvGetRequest { key, consistency: fresh } = request.into_inner();
        check_key(&key)?;
        let read = self.0.kv(key.clone(), consistency(fresh)?).await?;
        let missing = || ControlError::NotFound(format!("there is no key {key:?}"));
        let item = read.value.ok_or_else(missing)?;
        Ok(Response::new(KvGetResponse { item: Some(item.into()), applied_index: read.applied_index }))
    }

    async fn put(&self, request: Request<KvPutRequest>) -> Result<Response<Applied>, Status> {
        let KvPutRequest { key, value, if_revision, request } = request.into_inner();
        check_key(&key)?;
        check_value(&value)?;
        Ok(Response::new(self.0.kv_put(key, value, terms(if_revision, request)?).await?.into()))
    }

    async fn delete(&self, request: Request<KvDeleteRequest>) -> Result<Response<Applied>, Status> {
        let KvDeleteRequest { key, if_revision, request } = request.into_inner();
        check_key(&key)?;
        Ok(Response::new(self.0.kv_delete(key, terms(if_revision, request)?).await?.into()))
    }

    async fn open_session(&self, _: Request<OpenSessionRequest>) -> Result<Response<OpenSessionResponse>, Status> {
        Ok(Response::new(OpenSessionResponse { session: self.0.session_open().await?.0 }))
    }

    async fn close_session(&self, request: Request<CloseSessionRequest>) -> Result<Response<Applied>, Status> {
        let CloseSessionRequest { session } = request.into_inner();
        Ok(Response::new(self.0.session_close(SessionId(session)).await?.into()))
    }

    async fn list(&self, request: Request<KvListRequest>) -> Result<Response<KvListResponse>, Status> {
        let KvListRequest { prefix, after, limit, consistency: fresh } = request.into_inner();
        let query = KvQuery { prefix, after: (!after.is_empty()).then_some(after), limit: rows(limit)? };
        let read = self.0.kv_list(query, consistency(fresh)?).await?;
        Ok(Response::new(KvListResponse {
            items: read.value.items.into_iter().map(Into::into).collect(),
            more: read.value.more,
            applied_index: read.applied_index,
        }))
    }
}

fn terms(if_revision: Option<u64>, request: Option<SessionRequest>) -> Result<Terms, ControlError> {
    let request = match request {
        Some(SessionRequest { session, sequence, answered_below }) => {
            check_request(Some(session), Some(sequence), Some(answered_below))?
        }
        None => None,
    };
    Ok(Terms { if_revision: if_revision.map(Revision), request })
}
