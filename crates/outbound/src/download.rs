//! A whole file, piece by piece, in order, however often the connection breaks.
//!
//! It goes on where it broke only where the far server says that the bytes are still the same ones (a
//! strong ETag, or a date of change, by If-Range); else what came is worth nothing, and the caller
//! begins again.

use crate::call::{Answer, Outbound, Rest};
use crate::{Limits, OutboundError};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_RANGE, ETAG, LAST_MODIFIED};

/// A file on its way here.
#[derive(Debug)]
pub struct Download {
    client: Outbound,
    address: String,
    answer: Option<Answer>,
    received: u64,
    total: Option<u64>,
    validator: Option<String>,
    tries: u32,
}

impl Download {
    /// Asks for it. A server that is away for a moment is asked again.
    ///
    /// # Errors
    /// See [`OutboundError`]; `TooLarge` when the server says so beforehand.
    pub async fn begin(client: &Outbound, address: &str) -> Result<Self, OutboundError> {
        let mut download = Self {
            client: client.clone(),
            address: address.to_owned(),
            answer: None,
            received: 0,
            total: None,
            validator: None,
            tries: 0,
        };
        while let Err(error) = download.ask().await {
            download.pause(error).await?;
        }
        Ok(download)
    }

    /// The whole length, where the server said one.
    pub fn total(&self) -> Option<u64> {
        self.total
    }
    /// Bytes that [`Self::next`] gave.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// What still fails after some tries; `TooLarge` as soon as there is too much; `Changed` when what
    /// came cannot be gone on with.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OutboundError> {
        loop {
            let error = match self.piece().await {
                Ok(piece) => return Ok(piece),
                Err(error) => error,
            };
            self.answer = None;
            self.pause(error).await?;
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, OutboundError> {
        if self.answer.is_none() {
            self.ask().await?;
        }
        let Some(answer) = &mut self.answer else { return Ok(None) };
        let Some(bytes) = answer.next().await? else { return Ok(None) };
        self.received += bytes.len() as u64;
        let limit = self.limits().bytes_max;
        if self.received > limit {
            return Err(OutboundError::TooLarge { limit });
        }
        self.tries = 0;
        Ok(Some(bytes))
    }

    async fn ask(&mut self) -> Result<(), OutboundError> {
        if self.received == 0 {
            let answer = self.client.get_rest(&self.address, None).await?;
            self.validator = validator(&answer.headers);
            self.total = answer.declared;
            let limit = self.limits().bytes_max;
            if self.total.is_some_and(|total| total > limit) {
                return Err(OutboundError::TooLarge { limit });
            }
            self.answer = Some(answer);
            return Ok(());
        }
        let changed = |host: &str| OutboundError::Changed { host: host.to_owned() };
        let Some(validator) = self.validator.clone() else { return Err(changed(&self.address)) };
        let rest = Rest { at: self.received, validator };
        let answer = self.client.get_rest(&self.address, Some(&rest)).await?;
        let host = answer.from.host_str().unwrap_or_default();
        if !answer.is_part {
            return Err(changed(host));
        }
        let (from, total) = range(&answer.headers).ok_or_else(|| strange(host))?;
        if from != self.received || total.is_some() && self.total.is_some() && total != self.total {
            return Err(strange(host));
        }
        self.answer = Some(answer);
        Ok(())
    }

    /// Waits before another try, or gives up.
    async fn pause(&mut self, error: OutboundError) -> Result<(), OutboundError> {
        self.tries += 1;
        if !error.may_pass() || self.tries >= self.limits().tries_max {
            return Err(error);
        }
        if self.received > 0 && self.validator.is_none() {
            return Err(error);
        }
        tracing::info!(%error, received = self.received, "a download broke; it goes on");
        tokio::time::sleep(self.limits().retry_after * (1 << (self.tries - 1).min(6))).await;
        Ok(())
    }

    fn limits(&self) -> &Limits {
        self.client.limits()
    }
}

/// What makes sure that the rest is of the same bytes (RFC 9110, 13.1.5): no weak tag does.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text(ETAG) {
        Some(tag) if tag.starts_with('"') => Some(tag.to_owned()),
        _ => text(LAST_MODIFIED).map(str::to_owned),
    }
}

/// `bytes 5-9/10`: where a part begins, and the length of the whole.
fn range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (part, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = part.split_once('-')?;
    Some((from.parse().ok()?, total.parse().ok()))
}

fn strange(host: &str) -> OutboundError {
    OutboundError::Strange { host: host.to_owned(), what: "it sends another part than was asked for".to_owned() }
}
