//! The service Status.

use api::v1::{StatusGetRequest, StatusGetResponse, status_server};
use tonic::{Request, Response, Status};

use crate::control::Control;

pub struct StatusService<C>(pub C);

#[tonic::async_trait]
impl<C: Control> status_server::Status for StatusService<C> {
    async fn get(&self, _: Request<StatusGetRequest>) -> Result<Response<StatusGetResponse>, Status> {
        Ok(Response::new(self.0.status().await.into()))
    }
}
