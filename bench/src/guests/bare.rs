//! The call for every statistic of every guest, and nothing done with its answer.

use anyhow::{Context as _, Result, ensure};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// libvirt's remote protocol as far as one call needs it, by no code of ours.
pub struct Bare {
    stream: UnixStream,
    serial: u32,
    answer: Vec<u8>,
}

const PROGRAM: u32 = 0x2000_8086;
const AUTH_LIST: u32 = 66;
const OPEN: u32 = 1;
const ALL_STATS: u32 = 344;
/// State, CPU, balloon, vCPU, network and block.
const GROUPS: u32 = 63;
const NOWAIT: u32 = 1 << 29;

impl Bare {
    pub fn open(socket: &Path, answer_within: Duration) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("libvirtd")?;
        stream.set_read_timeout(Some(answer_within))?;
        let mut bare = Self { stream, serial: 0, answer: Vec::new() };
        bare.call(AUTH_LIST, &[])?;
        // A name that is there, of 14 letters, and no flags.
        let name = b"qemu:///system\0\0";
        let mut arguments = vec![0, 0, 0, 1, 0, 0, 0, 14];
        arguments.extend(name);
        arguments.extend([0; 4]);
        bare.call(OPEN, &arguments)?;
        Ok(bare)
    }

    /// Bytes of the answer.
    pub fn look(&mut self) -> Result<usize> {
        let mut arguments = vec![0; 4];
        arguments.extend(GROUPS.to_be_bytes());
        arguments.extend(NOWAIT.to_be_bytes());
        self.call(ALL_STATS, &arguments)
    }

    fn call(&mut self, procedure: u32, arguments: &[u8]) -> Result<usize> {
        self.serial += 1;
        let length = u32::try_from(28 + arguments.len())?;
        let words = [length, PROGRAM, 1, procedure, 0, self.serial, 0];
        let mut packet: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        packet.extend(arguments);
        self.stream.write_all(&packet)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let rest = (u32::from_be_bytes(length) as usize).checked_sub(4).context("a length")?;
        self.answer.resize(rest, 0);
        self.stream.read_exact(&mut self.answer)?;
        ensure!(self.answer.get(20..24) == Some(&[0; 4]), "libvirtd refused call {procedure}");
        Ok(rest)
    }
}
