//! The host as libvirt sees it.

use crate::connection::Connection;
use crate::error::Error;
use crate::limits;
use crate::procedure::{self, Procedure};
use crate::xdr::{Decoder, Encoder, Malformed};
use std::fmt;

/// All CPUs, all memory cells.
const ALL: i32 = -1;
/// Characters of the CPU model, each in a word of its own.
const MODEL: usize = 32;

/// `major.minor.release`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u64,
    /// The second.
    pub minor: u64,
    /// The third.
    pub release: u64,
}

impl Version {
    fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let number = from.u64()?;
        Ok(Self { major: number / 1_000_000, minor: number / 1_000 % 1_000, release: number % 1_000 })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.release)
    }
}

/// What the host is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The CPUs' architecture, `x86_64`.
    pub model: String,
    /// Memory.
    pub memory_bytes: u64,
    /// CPUs that are online.
    pub cpus: i32,
    /// Their frequency, 0 when unknown.
    pub mhz: i32,
    /// NUMA nodes.
    pub numa_nodes: i32,
    /// Sockets of a NUMA node.
    pub sockets: i32,
    /// Cores of a socket.
    pub cores: i32,
    /// Threads of a core.
    pub threads: i32,
}

impl Node {
    fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let mut model = String::new();
        for _ in 0..MODEL {
            model.extend(u8::try_from(from.u32()?).ok().filter(|letter| *letter != 0).map(char::from));
        }
        Ok(Self {
            model,
            memory_bytes: from.u64()?.saturating_mul(1024),
            cpus: from.i32()?,
            mhz: from.i32()?,
            numa_nodes: from.i32()?,
            sockets: from.i32()?,
            cores: from.i32()?,
            threads: from.i32()?,
        })
    }
}

/// A statistic with libvirt's name: CPU times in nanoseconds, memory in KiB.
pub type Named = (String, u64);

impl Connection {
    /// The hypervisor's version.
    pub async fn version(&self) -> Result<Version, Error> {
        self.call(procedure::VERSION, |_| {}, Version::decode).await
    }

    /// libvirt's own version.
    pub async fn library_version(&self) -> Result<Version, Error> {
        self.call(procedure::LIB_VERSION, |_| {}, Version::decode).await
    }

    /// The host's name.
    pub async fn hostname(&self) -> Result<String, Error> {
        self.call(procedure::HOSTNAME, |_| {}, |reply| reply.string(limits::STRING)).await
    }

    /// What the host can run, as XML.
    pub async fn capabilities(&self) -> Result<String, Error> {
        self.call(procedure::CAPABILITIES, |_| {}, |reply| reply.string(limits::STRING)).await
    }

    /// What domains of this kind (`kvm`, `qemu`) can be made of on this host, as XML; the daemon's own
    /// choice of emulator.
    pub async fn domain_capabilities(&self, machine: &str, kind: &str) -> Result<String, Error> {
        let arguments = |to: &mut Encoder| {
            to.optional_string(None);
            to.optional_string(Some("x86_64"));
            to.optional_string(Some(machine));
            to.optional_string(Some(kind));
            to.u32(0);
        };
        self.call(procedure::DOMAIN_CAPABILITIES, arguments, |reply| reply.string(limits::STRING)).await
    }

    /// What the host is made of.
    pub async fn node(&self) -> Result<Node, Error> {
        self.call(procedure::NODE_INFO, |_| {}, Node::decode).await
    }

    /// CPU time of the whole host: `kernel`, `user`, `idle`, `iowait`.
    pub async fn node_cpu(&self) -> Result<Vec<Named>, Error> {
        let arguments = |to: &mut Encoder, room: i32| [ALL, room].into_iter().for_each(|word| to.i32(word));
        self.named(procedure::NODE_CPU, arguments).await
    }

    /// Memory of the whole host: `total`, `free`, `buffers`, `cached`.
    pub async fn node_memory(&self) -> Result<Vec<Named>, Error> {
        let arguments = |to: &mut Encoder, room: i32| [room, ALL].into_iter().for_each(|word| to.i32(word));
        self.named(procedure::NODE_MEMORY, arguments).await
    }

    /// libvirt wants the exact number of fields, and tells it to whoever has room for none.
    async fn named(&self, procedure: Procedure, arguments: impl Fn(&mut Encoder, i32)) -> Result<Vec<Named>, Error> {
        let asked = |room: i32| {
            let arguments = &arguments;
            move |to: &mut Encoder| {
                arguments(to, room);
                to.u32(0);
            }
        };
        let fields = |reply: &mut Decoder<'_>| {
            let field = |from: &mut Decoder<'_>| Ok((from.string(limits::STRING)?, from.u64()?));
            Ok((reply.array(limits::NODE_STATS, field)?, reply.i32()?))
        };
        let (_, room) = self.call(procedure, asked(0), fields).await?;
        Ok(self.call(procedure, asked(room), fields).await?.0)
    }
}
