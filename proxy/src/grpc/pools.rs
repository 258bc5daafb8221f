//! The service Pools.

use api::v1::{
    Applied, ApplyRequest, PoolsGetRequest, PoolsGetResponse, PoolsListRequest, PoolsListResponse, ServerAddRequest,
    ServerRequest, pools_server::Pools,
};
use flow::{Epoch, PoolSpec, ServerChange};
use tonic::{Request, Response, Status};

use super::convert::{consistency, pool_spec, server_spec};
use crate::control::{
    Control, ControlError,
    check::{check_name, check_pools, check_server},
};

pub struct PoolsService<C>(pub C);

impl<C: Control> PoolsService<C> {
    async fn change(
        &self,
        request: Request<ServerRequest>,
        change: fn(String) -> ServerChange,
    ) -> Result<Response<Applied>, Status> {
        let ServerRequest { pool, server } = request.into_inner();
        check_name("pool", &pool)?;
        check_name("server", &server)?;
        Ok(Response::new(self.0.server_change(pool, change(server)).await?.into()))
    }
}

#[tonic::async_trait]
impl<C: Control> Pools for PoolsService<C> {
    async fn list(&self, request: Request<PoolsListRequest>) -> Result<Response<PoolsListResponse>, Status> {
        let read = self.0.pools(consistency(request.into_inner().consistency)?).await?;
        Ok(Response::new(PoolsListResponse {
            epoch: read.value.epoch.0,
            pools: read.value.pools.into_iter().map(Into::into).collect(),
            applied_index: read.applied_index,
        }))
    }

    async fn get(&self, request: Request<PoolsGetRequest>) -> Result<Response<PoolsGetResponse>, Status> {
        let PoolsGetRequest { name, consistency: fresh } = request.into_inner();
        let read = self.0.pools(consistency(fresh)?).await?;
        let missing = || ControlError::NotFound(format!("there is no pool {name:?}"));
        let pool = read.value.pools.into_iter().find(|pool| pool.spec.name == name).ok_or_else(missing)?;
        Ok(Response::new(PoolsGetResponse {
            epoch: read.value.epoch.0,
            pool: Some(pool.into()),
            applied_index: read.applied_index,
        }))
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<Applied>, Status> {
        let ApplyRequest { pools, epoch } = request.into_inner();
        let pools = pools.into_iter().map(pool_spec).collect::<Result<Vec<PoolSpec>, _>>()?;
        check_pools(&pools)?;
        Ok(Response::new(self.0.apply(pools, Epoch(epoch)).await?.into()))
    }

    async fn server_add(&self, request: Request<ServerAddRequest>) -> Result<Response<Applied>, Status> {
        let ServerAddRequest { pool, server } = request.into_inner();
        let missing = || ControlError::Invalid("server is missing".into());
        let server = server_spec(server.ok_or_else(missing)?)?;
        check_name("pool", &pool)?;
        check_server(&server)?;
        Ok(Response::new(self.0.server_change(pool, ServerChange::Add(server)).await?.into()))
    }

    async fn server_remove(&self, request: Request<ServerRequest>) -> Result<Response<Applied>, Status> {
        self.change(request, ServerChange::Remove).await
    }

    async fn server_drain(&self, request: Request<ServerRequest>) -> Result<Response<Applied>, Status> {
        self.change(request, ServerChange::Drain).await
    }

    async fn server_enable(&self, request: Request<ServerRequest>) -> Result<Response<Applied>, Status> {
        self.change(request, ServerChange::Enable).await
    }
}
