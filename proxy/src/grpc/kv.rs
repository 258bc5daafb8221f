//! The service Kv.

use api::v1::{
    Applied, KvDeleteRequest, KvGetRequest, KvGetResponse, KvListRequest, KvListResponse, KvPutRequest, kv_server::Kv,
};
use flow::Revision;
use tonic::{Request, Response, Status};

use super::convert::{consistency, rows};
use crate::control::{
    Control, ControlError, KvQuery,
    check::{check_key, check_value},
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
        let KvPutRequest { key, value, if_revision } = request.into_inner();
        check_key(&key)?;
        check_value(&value)?;
        Ok(Response::new(self.0.kv_put(key, value, if_revision.map(Revision)).await?.into()))
    }

    async fn delete(&self, request: Request<KvDeleteRequest>) -> Result<Response<Applied>, Status> {
        let KvDeleteRequest { key, if_revision } = request.into_inner();
        check_key(&key)?;
        Ok(Response::new(self.0.kv_delete(key, if_revision.map(Revision)).await?.into()))
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
