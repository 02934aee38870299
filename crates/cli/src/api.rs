//! `perigee api`: any route, the answer as it came.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use bytes::Bytes;
use clap::Args;
use http::Method;
use perigee_api::ProblemDocument;
use perigee_client::ClientError;
use std::io::Read;

/// A body longer than this is refused by the server too.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// What to call.
#[derive(Debug, Args)]
pub struct Options {
    /// GET, POST, PATCH, DELETE …
    method: String,
    /// Like /api/v1/hosts
    path: String,
    /// JSON body: the text itself, @FILE, or @- for standard input
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
}

/// Calls.
pub async fn run(options: &Options, session: &Session) -> Result<Exit, Failure> {
    let method = Method::from_bytes(options.method.to_ascii_uppercase().as_bytes())
        .map_err(|_| Failure::usage(format!("{:?} is not a method", options.method)))?;
    if !options.path.starts_with('/') {
        return Err(Failure::usage(format!("{:?} is not a path", options.path)).hint("perigee api GET /api/v1/hosts"));
    }
    let body = options.data.as_deref().map(body).transpose()?;
    let answer = session.client()?.raw(method, &options.path, body).await?;
    if answer.status.is_success() {
        session.out.bytes(&answer.body)?;
        return Ok(Exit::OK);
    }
    match serde_json::from_slice::<ProblemDocument>(&answer.body) {
        Ok(problem) => Err(ClientError::Refused(Box::new(problem)).into()),
        Err(_) => {
            session.out.bytes(&answer.body)?;
            let exit = Exit::of_problem("", answer.status.as_u16());
            Err(Failure::new(exit, format!("The answer was HTTP {}", answer.status)))
        }
    }
}

fn body(text: &str) -> Result<Bytes, Failure> {
    let Some(path) = text.strip_prefix('@') else { return Ok(Bytes::copy_from_slice(text.as_bytes())) };
    let mut bytes = Vec::new();
    let read = if path == "-" {
        std::io::stdin().take(BODY_BYTES_MAX).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(BODY_BYTES_MAX).read_to_end(&mut bytes))
    };
    read.map_err(|e| Failure::io(format!("{path} cannot be read"), &e))?;
    Ok(Bytes::from(bytes))
}
