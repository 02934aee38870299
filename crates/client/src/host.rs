//! Hosts and join tokens.

use crate::address::encoded;
use crate::ask::Ask;
use crate::call::json;
use crate::{Client, ClientError, ListQuery};
use http::Method;
use perigee_api::{HostView, IngestTokenRequest, IngestTokenView, JoinTokenRequest, JoinTokenView, Page};

impl Client {
    /// One page of the hosts.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call here.
    pub async fn hosts(&self, query: &ListQuery) -> Result<Page<HostView>, ClientError> {
        self.page(&query.path("/api/v1/hosts")).await
    }

    /// One host, by id or name.
    pub async fn host(&self, host: &str) -> Result<HostView, ClientError> {
        self.get(&format!("/api/v1/hosts/{}", encoded(host))).await
    }

    /// Revokes a host: its certificate is refused from then on.
    pub async fn revoke_host(&self, host: &str) -> Result<(), ClientError> {
        let ask = Ask::new(Method::DELETE, format!("/api/v1/hosts/{}", encoded(host)));
        self.accepted(&ask).await.map(drop)
    }

    /// Makes a token with which one more host may join.
    pub async fn create_join_token(&self, request: &JoinTokenRequest) -> Result<JoinTokenView, ClientError> {
        self.value(&Ask::new(Method::POST, "/api/v1/hosts/tokens").json(json(request)?)).await
    }

    /// Makes a token with which another agent reports for a host, by id or name.
    pub async fn create_ingest_token(
        &self,
        host: &str,
        request: &IngestTokenRequest,
    ) -> Result<IngestTokenView, ClientError> {
        let path = format!("/api/v1/hosts/{}/ingest-token", encoded(host));
        self.value(&Ask::new(Method::POST, path).json(json(request)?)).await
    }
}
