//! Measurements: queries, names, and what changes live.

use crate::address::encoded;
use crate::websocket::SILENCE_MAX;
use crate::{Client, ClientError};
use futures::StreamExt;
use perigee_api::live::LiveMessage;
use perigee_api::prometheus::{MetadataAnswer, QueryAnswer, QueryData};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// A range of time in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct QueryRange {
    /// The first moment.
    pub from_ms: i64,
    /// The last.
    pub to_ms: i64,
    /// From one to the next.
    pub step_ms: i64,
}

/// What changes, as it comes. Dropping it ends the watching.
#[derive(Debug)]
pub struct LiveReceiver {
    stream: WebSocketStream<TcpStream>,
    client: Client,
}

impl Client {
    /// What a PromQL expression gives at one moment; now by default.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn query(&self, text: &str, at_ms: Option<i64>) -> Result<QueryData, ClientError> {
        let time = at_ms.map(|ms| format!("&time={}", seconds(ms))).unwrap_or_default();
        self.get::<QueryAnswer>(&format!("/api/v1/query?query={}{time}", encoded(text))).await.map(|a| a.data)
    }

    /// What it gives at each step of a range.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn query_range(&self, text: &str, range: QueryRange) -> Result<QueryData, ClientError> {
        let (start, end, step) = (seconds(range.from_ms), seconds(range.to_ms), seconds(range.step_ms));
        let query = encoded(text);
        let path = format!("/api/v1/query_range?query={query}&start={start}&end={end}&step={step}");
        self.get::<QueryAnswer>(&path).await.map(|answer| answer.data)
    }

    /// Every metric's name and kind.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn metric_names(&self) -> Result<Vec<(String, String)>, ClientError> {
        let answer: MetadataAnswer = self.get("/api/v1/metadata").await?;
        let kind = |metadata: &[perigee_api::prometheus::Metadata]| metadata.first().map(|m| m.kind.clone());
        Ok(answer.data.into_iter().map(|(name, about)| (name, kind(&about).unwrap_or_default())).collect())
    }

    /// Watches one host closely, by id or name, or all from afar.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch(&self, host: Option<&str>) -> Result<LiveReceiver, ClientError> {
        let path = host.map_or("/api/v1/live".to_owned(), |host| format!("/api/v1/live?host={}", encoded(host)));
        let stream = self.websocket(&path, true).await?;
        Ok(LiveReceiver { stream, client: self.clone() })
    }
}

impl LiveReceiver {
    /// The next message. Waits for it.
    ///
    /// # Errors
    /// `TimedOut` after 60 s without even a ping, `Unreachable` when the connection broke,
    /// `BadAnswer` for a message that is none.
    pub async fn next(&mut self) -> Result<LiveMessage, ClientError> {
        loop {
            let said =
                timeout(SILENCE_MAX, self.stream.next()).await.map_err(|_| self.client.timed_out(SILENCE_MAX))?;
            match said {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map_err(|e| ClientError::BadAnswer(e.to_string()));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => {
                    return Err(self.client.unreachable(&std::io::Error::other("the connection was closed")));
                }
                Some(Err(error)) => return Err(self.client.broken(error)),
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of any year we live in are exact as a double")]
fn seconds(ms: i64) -> String {
    (ms as f64 / 1000.0).to_string()
}
