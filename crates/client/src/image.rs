//! Images.

use crate::address::encoded;
use crate::ask::Ask;
use crate::call::json;
use crate::{Answer, Client, ClientError, ListQuery};
use http::Method;
use perigee_api::{ImageRequest, ImageView, Page};
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

    /// Builds an image, waiting up to `wait` for it.
    pub async fn build_image(
        &self,
        request: &ImageRequest,
        wait: Option<Duration>,
    ) -> Result<Answer<ImageView>, ClientError> {
        self.work(&Ask::new(Method::POST, "/api/v1/images").json(json(request)?).waiting(wait)).await
    }

    /// Forgets an image that no guest uses.
    pub async fn delete_image(&self, image: &str) -> Result<(), ClientError> {
        let ask = Ask::new(Method::DELETE, format!("/api/v1/images/{}", encoded(image)));
        self.accepted(&ask).await.map(drop)
    }
}
