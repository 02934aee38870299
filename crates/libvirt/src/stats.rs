//! Bulk statistics: one call for every domain of the host.
//!
//! Owns: what libvirt's field names mean, and putting numbered fields together under the device's own
//! name (`vnet3`, `vda`): the numbers shift when a device is plugged or pulled.
//! Refuses: rates. Everything is cumulative since the domain's start; (uuid, id) says which start.

use crate::connection::Connection;
use crate::domain::{Domain, State};
use crate::error::Error;
use crate::limits;
use crate::procedure;
use crate::xdr::{Decoder, Encoder, Malformed};
use std::collections::BTreeMap;

/// Do not wait for a domain that is busy with something else; leave out what would have to wait.
const NOWAIT: u32 = 1 << 29;

/// Groups of statistics, as bits to be or-ed.
pub mod groups {
    /// State and its reason.
    pub const STATE: u32 = 1;
    /// CPU time of the whole domain.
    pub const CPU: u32 = 2;
    /// Memory.
    pub const BALLOON: u32 = 4;
    /// Each virtual CPU.
    pub const VCPU: u32 = 8;
    /// Network cards.
    pub const NET: u32 = 16;
    /// Disks.
    pub const BLOCK: u32 = 32;
    /// All of these.
    pub const ALL: u32 = STATE | CPU | BALLOON | VCPU | NET | BLOCK;
    /// Those that libvirt tells without asking a hypervisor.
    pub const KNOWN: u32 = STATE | NET;
}

/// One domain's statistics. `None` is "not told", never zero.
#[derive(Debug, Clone, PartialEq)]
pub struct DomainStats {
    /// Whose; its `id` is the epoch of the counters.
    pub domain: Domain,
    /// Its state.
    pub state: State,
    /// libvirt's number for the reason.
    pub state_reason: Option<u64>,
    /// Another job holds the domain: what the hypervisor itself must be asked for is missing this time.
    pub busy: bool,
    /// CPU time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// By number; a virtual CPU that is unplugged is left out.
    pub vcpus: BTreeMap<u32, Vcpu>,
    /// Network cards, in libvirt's order.
    pub nics: Vec<Nic>,
    /// Disks, in libvirt's order.
    pub disks: Vec<Disk>,
}

/// CPU time of a domain, its emulator included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it.
    pub time_ns: Option<u64>,
    /// In user space.
    pub user_ns: Option<u64>,
    /// In the kernel.
    pub system_ns: Option<u64>,
}

/// Memory of a domain. What the guest itself reports needs a balloon driver in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// What it has now.
    pub current_bytes: Option<u64>,
    /// What it may have.
    pub maximum_bytes: Option<u64>,
    /// What the host keeps in memory for it.
    pub resident_bytes: Option<u64>,
    /// What the guest sees as its own.
    pub available_bytes: Option<u64>,
    /// Free in the guest.
    pub unused_bytes: Option<u64>,
    /// Free in the guest without swapping.
    pub usable_bytes: Option<u64>,
    /// The guest's page cache.
    pub disk_caches_bytes: Option<u64>,
    /// Swapped in by the guest.
    pub swap_in_bytes: Option<u64>,
    /// Swapped out by the guest.
    pub swap_out_bytes: Option<u64>,
    /// The guest's faults that needed a disk.
    pub major_faults: Option<u64>,
    /// Its other faults.
    pub minor_faults: Option<u64>,
    /// When the guest reported, in seconds since 1970.
    pub reported_at_s: Option<u64>,
}

/// A virtual CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vcpu {
    /// 0 offline, 1 running, 2 blocked.
    pub state: Option<u64>,
    /// Time it ran.
    pub time_ns: Option<u64>,
    /// Time it waited for I/O.
    pub wait_ns: Option<u64>,
    /// Time it was ready and had no CPU ("steal").
    pub delay_ns: Option<u64>,
    /// Whether it is halted now.
    pub halted: Option<bool>,
}

/// A network card, seen from the guest's side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nic {
    /// The host's interface, `vnet3`.
    pub name: String,
    /// Received by the guest.
    pub received: Traffic,
    /// Sent by the guest.
    pub sent: Traffic,
}

/// One direction of a network card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: Option<u64>,
    /// Packets.
    pub packets: Option<u64>,
    /// Errors.
    pub errors: Option<u64>,
    /// Packets dropped.
    pub drops: Option<u64>,
}

/// A disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its target, `vda`.
    pub name: String,
    /// Where it lies on the host.
    pub path: Option<String>,
    /// Reads.
    pub read: Transfer,
    /// Writes.
    pub written: Transfer,
    /// Flushes; they have no bytes.
    pub flushed: Transfer,
    /// Size the guest sees.
    pub capacity_bytes: Option<u64>,
    /// Highest offset written.
    pub allocation_bytes: Option<u64>,
    /// Size on the host.
    pub physical_bytes: Option<u64>,
}

/// One kind of work of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Requests.
    pub requests: Option<u64>,
    /// Bytes.
    pub bytes: Option<u64>,
    /// Time spent on them, added up.
    pub time_ns: Option<u64>,
}

impl Connection {
    /// Statistics of all domains, or of those given, without waiting for busy ones. `wanted` is of
    /// [`groups`]; what the hypervisor does not offer is left out. Flags of [`crate::list`] select among all.
    pub async fn all_stats(&self, domains: &[Domain], wanted: u32, flags: u32) -> Result<Vec<DomainStats>, Error> {
        let arguments = |to: &mut Encoder| {
            to.u32(u32::try_from(domains.len()).unwrap_or(u32::MAX));
            domains.iter().for_each(|domain| domain.encode(to));
            to.u32(wanted);
            to.u32(flags | NOWAIT);
        };
        let read = |reply: &mut Decoder<'_>| reply.array(limits::DOMAINS, |from| record(from, wanted));
        self.call(procedure::ALL_STATS, arguments, read).await
    }
}

/// A typed value: most are counts.
enum Value<'a> {
    Count(u64),
    Text(&'a [u8]),
    /// A negative number or a fraction: no field here has one, but as "not known".
    Unused,
}

impl<'a> Value<'a> {
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        let count = |value: Result<u64, _>| value.map_or(Self::Unused, Self::Count);
        Ok(match from.u32()? {
            1 => count(u64::try_from(from.i32()?)),
            2 => Self::Count(from.u32()?.into()),
            3 => count(u64::try_from(from.i64()?)),
            4 => Self::Count(from.u64()?),
            5 => {
                from.f64()?;
                Self::Unused
            }
            6 => Self::Count(from.boolean()?.into()),
            7 => Self::Text(from.text(limits::STRING)?),
            value => return Err(Malformed::Undefined { what: "typed value", value }),
        })
    }

    fn count(&self) -> Option<u64> {
        if let Self::Count(count) = self { Some(*count) } else { None }
    }

    fn kib(&self) -> Option<u64> {
        self.count().map(|kib| kib.saturating_mul(1024))
    }

    fn text(&self) -> Option<String> {
        if let Self::Text(text) = self { Some(String::from_utf8_lossy(text).into_owned()) } else { None }
    }
}

/// A record as its fields arrive.
#[derive(Default)]
struct Draft {
    state: State,
    state_reason: Option<u64>,
    cpu: Cpu,
    memory: Memory,
    vcpus: BTreeMap<u32, Vcpu>,
    nics: BTreeMap<u32, Nic>,
    disks: BTreeMap<u32, Disk>,
}

fn record(from: &mut Decoder<'_>, wanted: u32) -> Result<DomainStats, Malformed> {
    let domain = Domain::decode(from)?;
    let mut draft = Draft::default();
    for _ in 0..from.length(limits::DOMAIN_STATS)? {
        let field = from.text(limits::STRING)?;
        let value = Value::decode(from)?;
        draft.take(std::str::from_utf8(field).unwrap_or_default(), &value);
    }
    let busy = draft.is_partial(&domain, wanted);
    let Draft { state, state_reason, cpu, memory, vcpus, nics, disks } = draft;
    let nics = nics.into_values().filter(|nic| !nic.name.is_empty()).collect();
    let disks = disks.into_values().filter(|disk| !disk.name.is_empty()).collect();
    Ok(DomainStats { domain, state, state_reason, busy, cpu, memory, vcpus, nics, disks })
}

impl Draft {
    /// Fields that are not known here are passed over: every release of libvirt brings new ones.
    fn take(&mut self, field: &str, value: &Value<'_>) {
        let Some((group, rest)) = field.split_once('.') else { return };
        match (group, rest) {
            ("state", "state") => {
                self.state = value.count().and_then(|number| i32::try_from(number).ok()).unwrap_or(0).into();
            }
            ("state", "reason") => self.state_reason = value.count(),
            ("cpu", "time") => self.cpu.time_ns = value.count(),
            ("cpu", "user") => self.cpu.user_ns = value.count(),
            ("cpu", "system") => self.cpu.system_ns = value.count(),
            ("balloon", field) => self.memory.take(field, value),
            (group, rest) => {
                if let Some((number, field)) = numbered(rest) {
                    match group {
                        "vcpu" => self.vcpus.entry(number).or_default().take(field, value),
                        "net" => self.nics.entry(number).or_default().take(field, value),
                        "block" => self.disks.entry(number).or_default().take(field, value),
                        _ => {}
                    }
                }
            }
        }
    }

    /// libvirt does not say that it left something out: a domain that runs and tells of its memory only
    /// what is in its definition, or of its disks only their names, was busy.
    fn is_partial(&self, domain: &Domain, wanted: u32) -> bool {
        let asked = |group: u32| wanted & group != 0;
        let memory_defined = self.memory.maximum_bytes.is_some();
        let memory_alone = memory_defined && self.memory.resident_bytes.is_none();
        let disks_alone = !self.disks.is_empty() && self.disks.values().all(|disk| disk.read.requests.is_none());
        domain.id.is_some() && (asked(groups::BALLOON) && memory_alone || asked(groups::BLOCK) && disks_alone)
    }
}

fn numbered(rest: &str) -> Option<(u32, &str)> {
    let (number, field) = rest.split_once('.')?;
    Some((number.parse().ok()?, field))
}

impl Memory {
    fn take(&mut self, field: &str, value: &Value<'_>) {
        match field {
            "current" => self.current_bytes = value.kib(),
            "maximum" => self.maximum_bytes = value.kib(),
            "rss" => self.resident_bytes = value.kib(),
            "available" => self.available_bytes = value.kib(),
            "unused" => self.unused_bytes = value.kib(),
            "usable" => self.usable_bytes = value.kib(),
            "disk_caches" => self.disk_caches_bytes = value.kib(),
            "swap_in" => self.swap_in_bytes = value.kib(),
            "swap_out" => self.swap_out_bytes = value.kib(),
            "major_fault" => self.major_faults = value.count(),
            "minor_fault" => self.minor_faults = value.count(),
            "last-update" => self.reported_at_s = value.count(),
            _ => {}
        }
    }
}

impl Vcpu {
    fn take(&mut self, field: &str, value: &Value<'_>) {
        match field {
            "state" => self.state = value.count(),
            "time" => self.time_ns = value.count(),
            "wait" => self.wait_ns = value.count(),
            "delay" => self.delay_ns = value.count(),
            // A boolean once, "yes" and "no" since: both are seen.
            "halted" => {
                self.halted = value.count().map(|halted| halted != 0).or(value.text().map(|text| text == "yes"))
            }
            _ => {}
        }
    }
}

impl Nic {
    fn take(&mut self, field: &str, value: &Value<'_>) {
        match field.split_once('.') {
            None if field == "name" => self.name = value.text().unwrap_or_default(),
            Some(("rx", field)) => self.received.take(field, value),
            Some(("tx", field)) => self.sent.take(field, value),
            _ => {}
        }
    }
}

impl Traffic {
    fn take(&mut self, field: &str, value: &Value<'_>) {
        match field {
            "bytes" => self.bytes = value.count(),
            "pkts" => self.packets = value.count(),
            "errs" => self.errors = value.count(),
            "drop" => self.drops = value.count(),
            _ => {}
        }
    }
}

impl Disk {
    fn take(&mut self, field: &str, value: &Value<'_>) {
        match field.split_once('.') {
            Some(("rd", field)) => self.read.take(field, value),
            Some(("wr", field)) => self.written.take(field, value),
            Some(("fl", field)) => self.flushed.take(field, value),
            Some(_) => {}
            None => match field {
                "name" => self.name = value.text().unwrap_or_default(),
                "path" => self.path = value.text(),
                "capacity" => self.capacity_bytes = value.count(),
                "allocation" => self.allocation_bytes = value.count(),
                "physical" => self.physical_bytes = value.count(),
                _ => {}
            },
        }
    }
}

impl Transfer {
    fn take(&mut self, field: &str, value: &Value<'_>) {
        match field {
            "reqs" => self.requests = value.count(),
            "bytes" => self.bytes = value.count(),
            "times" => self.time_ns = value.count(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
