//! The service Members.

use api::v1::{
    Applied, MemberRequest, MembersAddRequest, MembersListRequest, MembersListResponse, TransferResponse,
    members_server::Members,
};
use tonic::{Request, Response, Status};

use super::convert::member_address;
use crate::control::{
    Control, ControlError,
    check::{check_member, check_name},
};

pub struct MembersService<C>(pub C);

#[tonic::async_trait]
impl<C: Control> Members for MembersService<C> {
    async fn list(&self, _: Request<MembersListRequest>) -> Result<Response<MembersListResponse>, Status> {
        let members = self.0.status().await.members.into_iter().map(Into::into).collect();
        Ok(Response::new(MembersListResponse { members }))
    }

    async fn add(&self, request: Request<MembersAddRequest>) -> Result<Response<Applied>, Status> {
        let missing = || ControlError::Invalid("address is missing".into());
        let member = member_address(request.into_inner().address.ok_or_else(missing)?)?;
        check_member(&member)?;
        Ok(Response::new(self.0.member_add(member).await?.into()))
    }

    async fn remove(&self, request: Request<MemberRequest>) -> Result<Response<Applied>, Status> {
        Ok(Response::new(self.0.member_remove(label(request)?).await?.into()))
    }

    async fn promote(&self, request: Request<MemberRequest>) -> Result<Response<Applied>, Status> {
        Ok(Response::new(self.0.member_promote(label(request)?).await?.into()))
    }

    async fn transfer(&self, request: Request<MemberRequest>) -> Result<Response<TransferResponse>, Status> {
        self.0.transfer(label(request)?).await?;
        Ok(Response::new(TransferResponse {}))
    }
}

fn label(request: Request<MemberRequest>) -> Result<String, ControlError> {
    let label = request.into_inner().label;
    check_name("instance", &label)?;
    Ok(label)
}
