//! Why a call gave no value: four reasons, because a caller can do four different things.

use http::StatusCode;
use perigee_api::ProblemDocument;
use perigee_api::prometheus::QueryFault;
use std::time::Duration;

/// Why a call gave no value.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The control plane said no, and why.
    #[error("{}", .0.detail)]
    Refused(Box<ProblemDocument>),
    /// Nobody answers at the address, or the connection broke.
    #[error("{address} cannot be reached: {cause}")]
    Unreachable {
        /// Where the call went.
        address: String,
        /// What the system said.
        cause: String,
    },
    /// Somebody is there but said nothing in time.
    #[error("no answer from {address} within {} s", .within.as_secs())]
    TimedOut {
        /// Where the call went.
        address: String,
        /// How long it was waited.
        within: Duration,
    },
    /// An answer came that no control plane gives.
    #[error("the answer makes no sense: {0}")]
    BadAnswer(String),
}

impl ClientError {
    /// The refusal's document, if it was one.
    pub fn problem(&self) -> Option<&ProblemDocument> {
        match self {
            Self::Refused(problem) => Some(problem),
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::BadAnswer(_) => None,
        }
    }

    /// Reads a refusal. Something between us and the control plane may have answered instead; its
    /// status alone is then kept.
    pub(crate) fn refused(status: StatusCode, body: &[u8]) -> Self {
        if let Ok(problem) = serde_json::from_slice::<ProblemDocument>(body) {
            return Self::Refused(Box::new(problem));
        }
        // The query routes refuse in the Prometheus API's shape.
        if let Ok(fault) = serde_json::from_slice::<QueryFault>(body) {
            return Self::Refused(Box::new(ProblemDocument {
                kind: format!("/errors/{}", fault.code),
                title: "The query was refused".to_owned(),
                status: status.as_u16(),
                detail: fault.error,
                code: fault.code,
                request_id: String::new(),
                errors: Vec::new(),
            }));
        }
        let said: String = String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(200).collect();
        Self::BadAnswer(format!("HTTP {status} without a problem document: {said:?}"))
    }

    /// With the answer's own id, where the document has none: the query routes' shape knows of none.
    pub(crate) fn known_as(mut self, id: Option<String>) -> Self {
        if let (Self::Refused(problem), Some(id)) = (&mut self, id)
            && problem.request_id.is_empty()
        {
            problem.request_id = id;
        }
        self
    }
}
