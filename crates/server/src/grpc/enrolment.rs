//! `Enrol` and `Renew`: how a machine becomes, and stays, a host.

use super::status;
use crate::authority::{Authority, Signed};
use perigee_agent_api::VersionRange;
use perigee_agent_api::wire::link::enrolment_server::Enrolment;
use perigee_agent_api::wire::link::{Certificate, EnrolRequest, RenewRequest};
use perigee_control::Control;
use perigee_model::HostId;
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub struct EnrolmentRpc {
    control: Control,
    authority: Arc<Authority>,
}

impl EnrolmentRpc {
    pub fn new(control: Control, authority: Arc<Authority>) -> Self {
        Self { control, authority }
    }

    fn answer(&self, host: HostId, signed: Signed) -> Response<Certificate> {
        Response::new(Certificate {
            host: host.to_string(),
            certificate: signed.certificate,
            authority: self.authority.certificate().to_vec(),
            not_after_micros: signed.not_after.micros(),
        })
    }
}

#[tonic::async_trait]
impl Enrolment for EnrolmentRpc {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<Certificate>, Status> {
        let request = request.into_inner();
        // A request that could not be signed must not use the token up.
        let probe = HostId::new(self.control.clock().uuid());
        self.authority.sign_host(&request.csr, probe).map_err(|r| status(&r))?;
        let versions = VersionRange { min: request.version_min, max: request.version_max };
        let labels = request.labels.into_iter().collect();
        let host = self.control.enrol(&request.token, &request.hostname, labels, versions).await;
        let host = host.map_err(|r| status(&r))?;
        let signed = self.authority.sign_host(&request.csr, host.id).map_err(|r| status(&r))?;
        tracing::info!(host = %host.id, name = %host.name, "a host joined");
        Ok(self.answer(host.id, signed))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certificate>, Status> {
        let request = request.into_inner();
        let host = self.authority.proven_host(&request.certificate, &request.csr, &request.signature);
        let host = host.map_err(|r| status(&r))?;
        self.control.admit_host(host).map_err(|r| status(&r))?;
        let signed = self.authority.sign_host(&request.csr, host).map_err(|r| status(&r))?;
        Ok(self.answer(host, signed))
    }
}
