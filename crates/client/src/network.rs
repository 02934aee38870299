//! Networks.

use crate::address::encoded;
use crate::ask::Ask;
use crate::call::json;
use crate::{Answer, Client, ClientError, ListQuery};
use http::Method;
use perigee_api::{NetworkPlanView, NetworkRequest, NetworkView, Page};
use std::time::Duration;

fn path(network: &str) -> String {
    format!("/api/v1/networks/{}", encoded(network))
}

impl Client {
    /// One page of the networks.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call here.
    pub async fn networks(&self, query: &ListQuery) -> Result<Page<NetworkView>, ClientError> {
        self.page(&query.path("/api/v1/networks")).await
    }

    /// One network, by id or name.
    pub async fn network(&self, network: &str) -> Result<NetworkView, ClientError> {
        self.get(&path(network)).await
    }

    /// Makes a network, waiting up to `wait` for it.
    pub async fn create_network(
        &self,
        request: &NetworkRequest,
        wait: Option<Duration>,
    ) -> Result<Answer<NetworkView>, ClientError> {
        self.work(&Ask::new(Method::POST, "/api/v1/networks").json(json(request)?).waiting(wait)).await
    }

    /// What a create would make, and where.
    pub async fn plan_network(&self, request: &NetworkRequest) -> Result<NetworkPlanView, ClientError> {
        self.value(&Ask::new(Method::POST, "/api/v1/networks?dry_run=true").json(json(request)?)).await
    }

    /// Deletes a network, waiting up to `wait` until it is gone.
    pub async fn delete_network(&self, network: &str, wait: Option<Duration>) -> Result<Answer<()>, ClientError> {
        self.removal(&Ask::new(Method::DELETE, path(network)).waiting(wait)).await
    }
}
