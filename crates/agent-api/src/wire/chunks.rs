//! Chunks of backups as gRPC carries them.

use super::WireError;
use super::link::{self, chunk_down::Down, chunk_up::Up};
use crate::{CHUNK_PIECE_BYTES_MAX, ChunkDown, ChunkStored, ChunkUp};
use perigee_model::Digest;

impl From<ChunkUp> for link::ChunkUp {
    fn from(say: ChunkUp) -> Self {
        let name = |digest: Digest, sealed| link::ChunkName { digest: digest.into(), sealed };
        let up = match say {
            ChunkUp::Offer { sealed, digest, bytes } => {
                Up::Offer(link::ChunkOffer { name: Some(name(digest, sealed)), bytes })
            }
            ChunkUp::Data(piece) => Up::Data(piece),
            ChunkUp::Want { sealed, digest } => Up::Want(name(digest, sealed)),
        };
        Self { up: Some(up) }
    }
}

impl TryFrom<link::ChunkUp> for ChunkUp {
    type Error = WireError;
    fn try_from(said: link::ChunkUp) -> Result<Self, WireError> {
        let digest = |text: &str| Digest::parse(text).ok_or(WireError::UnknownFrame);
        Ok(match said.up.ok_or(WireError::UnknownFrame)? {
            Up::Offer(link::ChunkOffer { name, bytes }) => {
                let name = name.ok_or(WireError::UnknownFrame)?;
                Self::Offer { sealed: name.sealed, digest: digest(&name.digest)?, bytes }
            }
            Up::Data(data) => Self::Data(piece(data)?),
            Up::Want(name) => Self::Want { sealed: name.sealed, digest: digest(&name.digest)? },
        })
    }
}

impl TryFrom<ChunkDown> for link::ChunkDown {
    type Error = WireError;
    fn try_from(say: ChunkDown) -> Result<Self, WireError> {
        let down = match say {
            ChunkDown::Send => Down::Send(true),
            ChunkDown::Stored(ChunkStored { new, stored_bytes }) => {
                Down::Stored(link::ChunkStored { new, stored_bytes })
            }
            ChunkDown::Comes { bytes } => Down::Comes(bytes),
            ChunkDown::Data(piece) => Down::Data(piece),
            ChunkDown::Missing => Down::Missing(true),
            ChunkDown::Failed(failed) => Down::Failed(serde_json::to_vec(&failed)?),
        };
        Ok(Self { down: Some(down) })
    }
}

impl TryFrom<link::ChunkDown> for ChunkDown {
    type Error = WireError;
    fn try_from(said: link::ChunkDown) -> Result<Self, WireError> {
        Ok(match said.down.ok_or(WireError::UnknownFrame)? {
            Down::Send(_) => Self::Send,
            Down::Stored(link::ChunkStored { new, stored_bytes }) => Self::Stored(ChunkStored { new, stored_bytes }),
            Down::Comes(bytes) => Self::Comes { bytes },
            Down::Data(data) => Self::Data(piece(data)?),
            Down::Missing(_) => Self::Missing,
            Down::Failed(json) => Self::Failed(serde_json::from_slice(&json)?),
        })
    }
}

fn piece(data: Vec<u8>) -> Result<Vec<u8>, WireError> {
    if data.len() > CHUNK_PIECE_BYTES_MAX { Err(WireError::TooLarge(data.len())) } else { Ok(data) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChunkFailed, ChunkFault};

    #[test]
    fn what_is_said_of_chunks_survives_the_wire() {
        let digest = Digest::parse(&"a".repeat(64)).unwrap();
        let up = [
            ChunkUp::Offer { sealed: true, digest: digest.clone(), bytes: 4 << 20 },
            ChunkUp::Data(vec![0, 255]),
            ChunkUp::Want { sealed: false, digest },
        ];
        for said in up {
            assert_eq!(ChunkUp::try_from(link::ChunkUp::from(said.clone())).unwrap(), said);
        }
        let down = [
            ChunkDown::Send,
            ChunkDown::Stored(ChunkStored { new: true, stored_bytes: 9 }),
            ChunkDown::Comes { bytes: 0 },
            ChunkDown::Data(vec![1]),
            ChunkDown::Missing,
            ChunkDown::Failed(ChunkFailed { fault: ChunkFault::Damaged, text: "it rotted".to_owned() }),
        ];
        for said in down {
            assert_eq!(ChunkDown::try_from(link::ChunkDown::try_from(said.clone()).unwrap()).unwrap(), said);
        }
    }

    #[test]
    fn a_lame_name_and_a_long_piece_are_refused() {
        let lame = link::ChunkName { digest: "../../etc/passwd".to_owned(), sealed: false };
        assert!(ChunkUp::try_from(link::ChunkUp { up: Some(Up::Want(lame)) }).is_err());
        let nameless = link::ChunkOffer { name: None, bytes: 1 };
        assert!(ChunkUp::try_from(link::ChunkUp { up: Some(Up::Offer(nameless)) }).is_err());
        let long = Up::Data(vec![0; CHUNK_PIECE_BYTES_MAX + 1]);
        assert!(matches!(ChunkUp::try_from(link::ChunkUp { up: Some(long) }), Err(WireError::TooLarge(_))));
        assert!(ChunkDown::try_from(link::ChunkDown { down: None }).is_err());
    }
}
