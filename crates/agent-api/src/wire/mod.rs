//! The gRPC shapes of the link, generated from proto/link.proto by `cargo xtask codegen`, and their
//! conversion from and to the plain types.
//!
//! Refuses: messages beyond `limits::LINK_MESSAGE_BYTES_MAX`, frames beyond 64 KiB, unknown frames.

#[allow(clippy::all, clippy::pedantic, missing_docs)]
#[rustfmt::skip]
pub mod link;

use crate::TunnelFrame;
use link::{Envelope, tunnel_frame::Frame};
use perigee_model::limits::LINK_MESSAGE_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Most bytes in one tunnel frame.
pub const FRAME_BYTES_MAX: usize = 64 << 10;
/// The metadata key that carries a tunnel's id.
pub const TUNNEL_KEY: &str = "perigee-tunnel";

/// A message that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Larger than allowed.
    #[error("a message of {0} bytes is too large")]
    TooLarge(usize),
    /// Not the JSON it should be.
    #[error("a message is not understood")]
    Json(#[from] serde_json::Error),
    /// A frame without content, or of a kind this version does not know.
    #[error("a tunnel frame is empty or unknown")]
    UnknownFrame,
}

/// Wraps a control message.
///
/// # Errors
/// `TooLarge` or `Json`.
pub fn envelope<T: Serialize>(message: &T) -> Result<Envelope, WireError> {
    let json = serde_json::to_vec(message)?;
    if json.len() > LINK_MESSAGE_BYTES_MAX {
        return Err(WireError::TooLarge(json.len()));
    }
    Ok(Envelope { json })
}

/// Unwraps a control message.
///
/// # Errors
/// `TooLarge` or `Json`.
pub fn message<T: DeserializeOwned>(envelope: &Envelope) -> Result<T, WireError> {
    if envelope.json.len() > LINK_MESSAGE_BYTES_MAX {
        return Err(WireError::TooLarge(envelope.json.len()));
    }
    Ok(serde_json::from_slice(&envelope.json)?)
}

impl TryFrom<TunnelFrame> for link::TunnelFrame {
    type Error = WireError;
    fn try_from(frame: TunnelFrame) -> Result<Self, WireError> {
        let frame = match frame {
            TunnelFrame::Data(bytes) => Frame::Data(bytes),
            TunnelFrame::Stdout(bytes) => Frame::Stdout(bytes),
            TunnelFrame::Stderr(bytes) => Frame::Stderr(bytes),
            TunnelFrame::Started => Frame::Started(true),
            TunnelFrame::End => Frame::End(true),
            TunnelFrame::Ended(report) => Frame::Ended(serde_json::to_vec(&report)?),
            TunnelFrame::Failed(problem) => Frame::Failed(serde_json::to_vec(&problem)?),
            TunnelFrame::Signal(signal) => Frame::Signal(signal),
        };
        Ok(Self { frame: Some(frame) })
    }
}

impl TryFrom<link::TunnelFrame> for TunnelFrame {
    type Error = WireError;
    fn try_from(frame: link::TunnelFrame) -> Result<Self, WireError> {
        let bounded = |bytes: Vec<u8>| {
            if bytes.len() > FRAME_BYTES_MAX { Err(WireError::TooLarge(bytes.len())) } else { Ok(bytes) }
        };
        Ok(match frame.frame.ok_or(WireError::UnknownFrame)? {
            Frame::Data(bytes) => Self::Data(bounded(bytes)?),
            Frame::Stdout(bytes) => Self::Stdout(bounded(bytes)?),
            Frame::Stderr(bytes) => Self::Stderr(bounded(bytes)?),
            Frame::Started(_) => Self::Started,
            Frame::End(_) => Self::End,
            Frame::Ended(json) => Self::Ended(serde_json::from_slice(&json)?),
            Frame::Failed(json) => Self::Failed(serde_json::from_slice(&json)?),
            Frame::Signal(signal) => Self::Signal(signal),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_model::Code;
    use perigee_model::guest::Problem;

    #[test]
    fn frames_survive_the_wire() {
        let frames = [
            TunnelFrame::Data(vec![0, 255]),
            TunnelFrame::Stdout(b"out".to_vec()),
            TunnelFrame::Started,
            TunnelFrame::End,
            TunnelFrame::Failed(Problem::new(Code::HostAway, "gone")),
            TunnelFrame::Signal(15),
        ];
        for frame in frames {
            let wire = link::TunnelFrame::try_from(frame.clone()).unwrap();
            assert_eq!(TunnelFrame::try_from(wire).unwrap(), frame);
        }
    }

    #[test]
    fn oversized_and_empty_frames_are_refused() {
        let big = link::TunnelFrame { frame: Some(Frame::Data(vec![0; FRAME_BYTES_MAX + 1])) };
        assert!(matches!(TunnelFrame::try_from(big), Err(WireError::TooLarge(_))));
        let none = link::TunnelFrame { frame: None };
        assert!(matches!(TunnelFrame::try_from(none), Err(WireError::UnknownFrame)));
        let envelope = Envelope { json: vec![b' '; LINK_MESSAGE_BYTES_MAX + 1] };
        assert!(matches!(message::<crate::FromAgent>(&envelope), Err(WireError::TooLarge(_))));
    }
}
