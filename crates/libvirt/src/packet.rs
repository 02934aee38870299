//! Packets: a length word, six header words, a payload.
//!
//! ```text
//! length (itself included) | program | version | procedure | type | serial | status | payload …
//! ```
//!
//! Owns: framing and what a header may hold. Refuses: what the payload means, and descriptors (never asked
//! for, so a daemon that sends them is broken).

use crate::error::Broken;
use crate::limits;
use crate::procedure::Procedure;
use crate::xdr::{Decoder, Encoder, Malformed};
use tokio::io::{AsyncRead, AsyncReadExt as _};

const LENGTH: usize = 4;
const HEADER: usize = 24;

/// The calls of libvirt's drivers.
pub(crate) const REMOTE: u32 = 0x2000_8086;
/// What only QEMU's driver has.
pub(crate) const QEMU: u32 = 0x2000_8087;
/// "keep": pings and pongs.
pub(crate) const KEEPALIVE: u32 = 0x6b65_6570;
const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Call,
    Reply,
    Event,
    /// A piece of a stream, or its end. Names the call that opened it.
    Stream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    Error,
    /// Of a stream: there is more to come.
    Continue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub program: u32,
    pub procedure: u32,
    pub kind: Kind,
    pub serial: u32,
    pub status: Status,
}

impl Header {
    pub fn call(procedure: Procedure, serial: u32) -> Self {
        let Procedure { program, number, .. } = procedure;
        Self { program, procedure: number, kind: Kind::Call, serial, status: Status::Ok }
    }

    pub fn keepalive(procedure: u32) -> Self {
        Self { program: KEEPALIVE, procedure, kind: Kind::Event, serial: 0, status: Status::Ok }
    }

    pub fn stream(procedure: u32, serial: u32, status: Status) -> Self {
        Self { program: REMOTE, procedure, kind: Kind::Stream, serial, status }
    }

    /// The whole packet. The payload is within [`limits::PAYLOAD`]: `Encoder::finish` has seen to it, or
    /// whoever cut a stream into pieces.
    pub fn packet(self, payload: &[u8]) -> Vec<u8> {
        let mut packet = Encoder::default();
        packet.u32(u32::try_from(LENGTH + HEADER + payload.len()).unwrap_or(u32::MAX));
        packet.u32(self.program);
        packet.u32(VERSION);
        packet.u32(self.procedure);
        packet.u32(match self.kind {
            Kind::Call => 0,
            Kind::Reply => 1,
            Kind::Event => 2,
            Kind::Stream => 3,
        });
        packet.u32(self.serial);
        packet.u32(match self.status {
            Status::Ok => 0,
            Status::Error => 1,
            Status::Continue => 2,
        });
        let mut packet = packet.into_bytes();
        // A stream's bytes are not padded; anything else is already.
        packet.extend(payload);
        packet
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let program = from.u32()?;
        if ![REMOTE, QEMU, KEEPALIVE].contains(&program) {
            return Err(Malformed::Undefined { what: "program", value: program });
        }
        match from.u32()? {
            VERSION => {}
            value => return Err(Malformed::Undefined { what: "version", value }),
        }
        let procedure = from.u32()?;
        let kind = match from.u32()? {
            0 => Kind::Call,
            1 => Kind::Reply,
            2 => Kind::Event,
            3 => Kind::Stream,
            value => return Err(Malformed::Undefined { what: "packet type", value }),
        };
        let serial = from.u32()?;
        let status = match from.u32()? {
            0 => Status::Ok,
            1 => Status::Error,
            2 if kind == Kind::Stream => Status::Continue,
            value => return Err(Malformed::Undefined { what: "status", value }),
        };
        Ok(Self { program, procedure, kind, serial, status })
    }
}

/// The next packet. Its buffer grows as bytes arrive: a length that is only claimed costs nothing.
pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<(Header, Vec<u8>), Broken> {
    let value = from.read_u32().await?;
    let length = value as usize;
    if !(LENGTH + HEADER..=LENGTH + limits::PAYLOAD).contains(&length) {
        return Err(Malformed::Undefined { what: "packet length", value }.into());
    }
    let mut header = [0; HEADER];
    from.read_exact(&mut header).await?;
    let header = Header::decode(&mut Decoder::new(&header))?;
    let expected = length - LENGTH - HEADER;
    let mut payload = Vec::new();
    let got = from.take(expected as u64).read_to_end(&mut payload).await?;
    if got < expected {
        return Err(Malformed::Truncated { missing: expected - got }.into());
    }
    Ok((header, payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn a_packet_is_read_as_it_was_written(number: u32, serial: u32, words in proptest::collection::vec(any::<u32>(), 0..9)) {
            let payload: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let header = Header::call(Procedure { program: QEMU, number, name: "any" }, serial);
            let packet = header.packet(&payload);
            prop_assert_eq!(now(read(&mut &packet[..])).unwrap(), (header, payload));
        }

        #[test]
        fn garbage_is_refused_or_read_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let claimed = bytes.first_chunk().map(|word| u32::from_be_bytes(*word));
            if let Ok((_, payload)) = now(read(&mut &bytes[..])) {
                prop_assert_eq!(Some(payload.len() as u32 + 28), claimed);
            }
        }
    }

    #[test]
    fn each_wrong_word_is_refused() {
        let good = Header::call(crate::procedure::HOSTNAME, 1).packet(&[]);
        for (word, value) in [(0, 27u32), (0, u32::MAX), (1, 7), (2, 2), (4, 4), (4, 5), (6, 2), (0, 32)] {
            let mut bad = good.clone();
            bad[word * 4..word * 4 + 4].copy_from_slice(&value.to_be_bytes());
            assert!(matches!(now(read(&mut &bad[..])), Err(Broken::Protocol(_))), "word {word} = {value}");
        }
    }
}
