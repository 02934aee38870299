//! Images.

use crate::address::encoded;
use crate::ask::Ask;
use crate::call::{decoded, json};
use crate::{Answer, Client, ClientError, ListQuery};
use bytes::Bytes;
use futures::Stream;
use http::Method;
use perigee_api::{CatalogueEntryView, ImageRequest, ImageView, Page, UploadView};
use std::io;
use std::time::Duration;

impl Client {
    /// One page of the images.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call here.
    pub async fn images(&self, query: &ListQuery) -> Result<Page<ImageView>, ClientError> {
        self.page(&query.path("/api/v1/images")).await
    }

    /// One image, by id or name.
    pub async fn image(&self, image: &str) -> Result<ImageView, ClientError> {
        self.get(&format!("/api/v1/images/{}", encoded(image))).await
    }

    /// Builds an image or takes one in, waiting up to `wait` for it.
    pub async fn create_image(
        &self,
        request: &ImageRequest,
        wait: Option<Duration>,
    ) -> Result<Answer<ImageView>, ClientError> {
        self.work(&Ask::new(Method::POST, "/api/v1/images").json(json(request)?).waiting(wait)).await
    }

    /// How much of an upload is there.
    pub async fn uploaded(&self, sha256: &str) -> Result<UploadView, ClientError> {
        self.get(&format!("/api/v1/uploads/{}", encoded(sha256))).await
    }

    /// Sends `length` bytes of an upload from `offset` on. It may take any time as long as bytes move.
    pub async fn upload<S>(&self, sha256: &str, offset: u64, length: u64, content: S) -> Result<UploadView, ClientError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let at = format!("/api/v1/uploads/{}?offset={offset}", encoded(sha256));
        let answer = self.put_stream(&at, Some(length), content).await?;
        decoded(&self.read(answer).await?)
    }

    /// Images by name that others publish.
    pub async fn catalogue(&self) -> Result<Page<CatalogueEntryView>, ClientError> {
        self.page("/api/v1/catalogue").await
    }

    /// Forgets an image that no guest uses.
    pub async fn delete_image(&self, image: &str) -> Result<(), ClientError> {
        let ask = Ask::new(Method::DELETE, format!("/api/v1/images/{}", encoded(image)));
        self.accepted(&ask).await.map(drop)
    }
}
