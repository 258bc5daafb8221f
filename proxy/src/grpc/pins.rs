//! The service Pins.

use api::v1::{
    Applied, PinsDeleteRequest, PinsGetRequest, PinsGetResponse, PinsListRequest, PinsListResponse, pins_server::Pins,
};
use flow::Revision;
use tonic::{Request, Response, Status};

use super::convert::{consistency, rows};
use crate::control::{
    Control, ControlError,
    check::{check_name, parse_client},
};

pub struct PinsService<C>(pub C);

#[tonic::async_trait]
impl<C: Control> Pins for PinsService<C> {
    async fn list(&self, request: Request<PinsListRequest>) -> Result<Response<PinsListResponse>, Status> {
        let PinsListRequest { pool, after, limit, consistency: fresh } = request.into_inner();
        check_name("pool", &pool)?;
        let after = if after.is_empty() { None } else { Some(parse_client(&after)?) };
        let read = self.0.pins(pool, after, rows(limit)?, consistency(fresh)?).await?;
        Ok(Response::new(PinsListResponse {
            pins: read.value.pins.into_iter().map(Into::into).collect(),
            next: read.value.next.map(|client| client.to_string()).unwrap_or_default(),
            applied_index: read.applied_index,
        }))
    }

    async fn get(&self, request: Request<PinsGetRequest>) -> Result<Response<PinsGetResponse>, Status> {
        let PinsGetRequest { pool, client, consistency: fresh } = request.into_inner();
        check_name("pool", &pool)?;
        let client = parse_client(&client)?;
        let read = self.0.pin(pool.clone(), client, consistency(fresh)?).await?;
        let missing = || ControlError::NotFound(format!("{client} has no pin in pool {pool:?}"));
        let pin = read.value.ok_or_else(missing)?;
        Ok(Response::new(PinsGetResponse { pin: Some(pin.into()), applied_index: read.applied_index }))
    }

    async fn delete(&self, request: Request<PinsDeleteRequest>) -> Result<Response<Applied>, Status> {
        let PinsDeleteRequest { pool, client, if_revision } = request.into_inner();
        check_name("pool", &pool)?;
        let client = parse_client(&client)?;
        Ok(Response::new(self.0.pin_delete(pool, client, if_revision.map(Revision)).await?.into()))
    }
}
