//! The gRPC shapes of the link, generated from proto/link.proto by `cargo xtask codegen`, and their
//! conversion from and to the plain types.
//!
//! Refuses: messages beyond `limits::LINK_MESSAGE_BYTES_MAX`, frames beyond 64 KiB, unknown frames.

mod chunks;
#[allow(clippy::all, clippy::pedantic, missing_docs)]
#[rustfmt::skip]
pub mod link;

use crate::{FramesDown, FramesUp, Mark, StreamName, TunnelFrame};
use link::{Envelope, frames_up::Up, tunnel_frame::Frame};
use perigee_model::RunId;
use perigee_model::limits::LINK_MESSAGE_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

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

impl From<FramesUp> for link::FramesUp {
    fn from(say: FramesUp) -> Self {
        let up = match say {
            FramesUp::Begin(stream) => Up::Begin(stream.text().to_owned()),
            FramesUp::Frame { run, frame } => Up::Frame(link::Frame { run: run.uuid().as_bytes().to_vec(), frame }),
        };
        Self { up: Some(up) }
    }
}

impl TryFrom<link::FramesUp> for FramesUp {
    type Error = WireError;
    fn try_from(said: link::FramesUp) -> Result<Self, WireError> {
        Ok(match said.up.ok_or(WireError::UnknownFrame)? {
            Up::Begin(name) => Self::Begin(StreamName::parse(&name).ok_or(WireError::UnknownFrame)?),
            Up::Frame(link::Frame { run, frame }) => {
                if frame.len() > perigee_model::limits::FRAME_BYTES_MAX {
                    return Err(WireError::TooLarge(frame.len()));
                }
                Self::Frame { run: run_id(&run)?, frame }
            }
        })
    }
}

impl TryFrom<FramesDown> for link::FramesDown {
    type Error = WireError;
    fn try_from(say: FramesDown) -> Result<Self, WireError> {
        let mark = |mark: Mark| link::Mark { run: mark.run.uuid().as_bytes().to_vec(), sequence: mark.sequence };
        Ok(Self {
            durable: say.durable.map(mark),
            window: say.window,
            interval_ms: say.interval.map_or(0, |every| u32::try_from(every.as_millis()).unwrap_or(u32::MAX)),
            want_key: say.want_key,
            refused: say.refused.map_or(Ok(Vec::new()), |problem| serde_json::to_vec(&problem))?,
        })
    }
}

impl TryFrom<link::FramesDown> for FramesDown {
    type Error = WireError;
    fn try_from(said: link::FramesDown) -> Result<Self, WireError> {
        let mark = |mark: link::Mark| Ok::<_, WireError>(Mark { run: run_id(&mark.run)?, sequence: mark.sequence });
        let refused = (!said.refused.is_empty()).then(|| serde_json::from_slice(&said.refused));
        Ok(Self {
            durable: said.durable.map(mark).transpose()?,
            window: said.window,
            interval: (said.interval_ms > 0).then(|| Duration::from_millis(said.interval_ms.into())),
            want_key: said.want_key,
            refused: refused.transpose()?,
        })
    }
}

fn run_id(bytes: &[u8]) -> Result<RunId, WireError> {
    uuid::Uuid::from_slice(bytes).map(RunId::new).map_err(|_| WireError::UnknownFrame)
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
    fn measurements_survive_the_wire() {
        let run = RunId::new(uuid::Uuid::from_u128(7));
        for up in [FramesUp::Begin(StreamName::Vm), FramesUp::Frame { run, frame: vec![1, 0, 255] }] {
            assert_eq!(FramesUp::try_from(link::FramesUp::from(up.clone())).unwrap(), up);
        }
        let full = FramesDown {
            durable: Some(Mark { run, sequence: 9 }),
            window: 3,
            interval: Some(Duration::from_secs(1)),
            want_key: true,
            refused: Some(Problem::new(Code::BadRequest, "no")),
        };
        for down in [FramesDown::default(), full] {
            assert_eq!(FramesDown::try_from(link::FramesDown::try_from(down.clone()).unwrap()).unwrap(), down);
        }
        let lame = link::Frame { run: vec![1, 2], frame: vec![] };
        assert!(FramesUp::try_from(link::FramesUp { up: Some(Up::Frame(lame)) }).is_err());
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
