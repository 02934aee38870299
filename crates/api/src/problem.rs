//! Errors: RFC 9457 problem documents with a stable code.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a request was refused (`application/problem+json`, RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemDocument {
    /// Path of the code's page, `/errors/PRG-NNNN`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every occurrence of the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong here, and what would be right.
    pub detail: String,
    /// `PRG-NNNN`.
    pub code: String,
    /// Also in `X-Request-Id`, and in the log.
    pub request_id: String,
    /// Which fields, when it is about fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldFault>,
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldFault {
    /// JSON pointer (RFC 6901) into the request's body, or the parameter's name.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

/// A problem as part of an object: why a task or guest failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemView {
    /// `PRG-NNNN`.
    pub code: String,
    /// What happened.
    pub detail: String,
}

impl From<&perigee_model::guest::Problem> for ProblemView {
    fn from(problem: &perigee_model::guest::Problem) -> Self {
        Self { code: problem.code.clone(), detail: problem.text.clone() }
    }
}
