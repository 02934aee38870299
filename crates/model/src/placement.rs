//! Placement: which host a guest goes to, and why not the others. One pure function.

use crate::{HostId, Labels, Name, Resources};

/// A host as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Identity.
    pub id: HostId,
    /// For the reasons.
    pub name: Name,
    /// Marks.
    pub labels: Labels,
    /// Has a link now.
    pub connected: bool,
    /// Takes no new guests.
    pub drained: bool,
    /// `x86_64`, …
    pub arch: String,
    /// Drivers that can run the guest's kind.
    pub can_run: bool,
    /// Logical CPUs: bounds one guest, not their sum.
    pub cpus: u32,
    /// Memory guests may take together.
    pub memory_bytes: u64,
    /// Memory of guests placed here.
    pub memory_taken_bytes: u64,
    /// Guests placed here.
    pub guests: u32,
}

/// What is to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// CPUs and memory.
    pub resources: Resources,
    /// Of the image.
    pub arch: String,
    /// Only this one will do.
    pub host: Option<HostId>,
}

/// Why a host was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Chosen.
    Chosen,
    /// Would do, but another is better.
    Worse,
    /// Another host was asked for.
    NotWanted,
    /// No link.
    Away,
    /// Drained.
    Drained,
    /// Another architecture.
    Arch,
    /// No driver for this kind of guest.
    NoDriver,
    /// The guest wants more CPUs than the host has.
    Cpus {
        /// Its CPUs.
        has: u32,
    },
    /// Not enough free memory.
    Memory {
        /// What is free.
        free_bytes: u64,
        /// What there is at all.
        total_bytes: u64,
    },
}

impl Reason {
    /// It could never be this host, whatever ends on it.
    pub fn is_for_good(&self, wanted: &Resources) -> bool {
        match self {
            Self::NotWanted | Self::Arch | Self::NoDriver | Self::Cpus { .. } => true,
            Self::Memory { total_bytes, .. } => *total_bytes < wanted.memory_bytes,
            Self::Chosen | Self::Worse | Self::Away | Self::Drained => false,
        }
    }
    /// For people.
    pub fn text(&self) -> String {
        match self {
            Self::Chosen => "chosen".to_owned(),
            Self::Worse => "fits, another host is less loaded".to_owned(),
            Self::NotWanted => "another host was asked for".to_owned(),
            Self::Away => "not connected".to_owned(),
            Self::Drained => "drained".to_owned(),
            Self::Arch => "another architecture".to_owned(),
            Self::NoDriver => "no driver for this kind of guest".to_owned(),
            Self::Cpus { has } => format!("has {has} CPUs"),
            Self::Memory { free_bytes, total_bytes } => {
                format!("{} MiB of {} MiB free", free_bytes >> 20, total_bytes >> 20)
            }
        }
    }
}

/// The decision with a reason for every host, in the order they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Where it goes.
    pub host: Option<HostId>,
    /// Why, for each.
    pub reasons: Vec<(Name, Reason)>,
}

impl Placement {
    /// `a: drained; b: 12 MiB of 512 MiB free`.
    pub fn text(&self) -> String {
        if self.reasons.is_empty() {
            return "no host has joined yet".to_owned();
        }
        let one = |(name, reason): &(Name, Reason)| format!("{name}: {}", reason.text());
        self.reasons.iter().map(one).collect::<Vec<_>>().join("; ")
    }
    /// No host could ever take it.
    pub fn is_for_good(&self, wanted: &Resources) -> bool {
        !self.reasons.is_empty() && self.reasons.iter().all(|(_, r)| r.is_for_good(wanted))
    }
}

/// Filters, then spreads: the host with the most free memory wins, then the fewest guests, then the id.
pub fn place(hosts: &[Candidate], wanted: &Wanted) -> Placement {
    let mut reasons: Vec<Reason> = hosts.iter().map(|h| fits(h, wanted)).collect();
    let best = hosts
        .iter()
        .enumerate()
        .filter(|(i, _)| reasons[*i] == Reason::Worse)
        .min_by_key(|(_, h)| (std::cmp::Reverse(free(h)), h.guests, h.id));
    let host = best.map(|(i, h)| {
        reasons[i] = Reason::Chosen;
        h.id
    });
    Placement { host, reasons: hosts.iter().map(|h| h.name.clone()).zip(reasons).collect() }
}

fn free(host: &Candidate) -> u64 {
    host.memory_bytes.saturating_sub(host.memory_taken_bytes)
}

fn fits(host: &Candidate, wanted: &Wanted) -> Reason {
    if wanted.host.is_some_and(|w| w != host.id) {
        return Reason::NotWanted;
    }
    if !host.connected {
        return Reason::Away;
    }
    if host.arch != wanted.arch {
        return Reason::Arch;
    }
    if !host.can_run {
        return Reason::NoDriver;
    }
    if wanted.resources.cpus > host.cpus {
        return Reason::Cpus { has: host.cpus };
    }
    if wanted.resources.memory_bytes > free(host) {
        return Reason::Memory { free_bytes: free(host), total_bytes: host.memory_bytes };
    }
    if host.drained {
        return Reason::Drained;
    }
    Reason::Worse
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    /// `a cpu 2 mem 512 used 256 | b away | want cpu 1 mem 256` gives `b; a: …`.
    fn check(story: &str, told: &str) {
        let mut hosts = Vec::new();
        let mut wanted =
            Wanted { resources: Resources { cpus: 1, memory_bytes: 256 << 20 }, arch: "x86_64".into(), host: None };
        for (i, line) in story.split(" | ").enumerate() {
            let mut words = line.split(' ');
            let name = words.next().unwrap();
            let mut host = Candidate {
                id: HostId::new(Uuid::from_u128(i as u128)),
                name: Name::parse(name).unwrap(),
                labels: Labels::new(),
                connected: true,
                drained: false,
                arch: "x86_64".into(),
                can_run: true,
                cpus: 2,
                memory_bytes: 1 << 30,
                memory_taken_bytes: 0,
                guests: 0,
            };
            while let Some(word) = words.next() {
                let mut number = || words.next().unwrap().parse::<u64>().unwrap();
                match (name, word) {
                    ("want", "cpu") => wanted.resources.cpus = u32::try_from(number()).unwrap(),
                    ("want", "mem") => wanted.resources.memory_bytes = number() << 20,
                    (_, "cpu") => host.cpus = u32::try_from(number()).unwrap(),
                    (_, "mem") => host.memory_bytes = number() << 20,
                    (_, "used") => host.memory_taken_bytes = number() << 20,
                    (_, "away") => host.connected = false,
                    (_, "drained") => host.drained = true,
                    (_, "arm") => host.arch = "aarch64".into(),
                    _ => panic!("{word}"),
                }
            }
            if name != "want" {
                hosts.push(host);
            }
        }
        let placement = place(&hosts, &wanted);
        let chosen = placement.host.and_then(|id| hosts.iter().find(|h| h.id == id));
        let chosen = chosen.map_or("nowhere", |h| h.name.as_str());
        assert_eq!(format!("{chosen}; {}", placement.text()), told, "{story}");
    }

    #[test]
    fn guests_go_where_there_is_most_room() {
        check("a | want", "a; a: chosen");
        check("a used 512 | b | want", "b; a: fits, another host is less loaded; b: chosen");
        check("a mem 512 used 400 | b | want", "b; a: 112 MiB of 512 MiB free; b: chosen");
    }

    #[test]
    fn every_refusal_has_its_reason() {
        check("a away | b drained | c arm | want", "nowhere; a: not connected; b: drained; c: another architecture");
        check("a cpu 2 | want cpu 4", "nowhere; a: has 2 CPUs");
        check("want mem 512", "nowhere; no host has joined yet");
    }

    #[test]
    fn for_good_means_waiting_cannot_help() {
        let big = Resources { cpus: 1, memory_bytes: 4 << 30 };
        let small = Reason::Memory { free_bytes: 0, total_bytes: 1 << 30 };
        assert!(small.is_for_good(&big));
        assert!(!small.is_for_good(&Resources { cpus: 1, memory_bytes: 1 << 20 }));
        assert!(!Reason::Away.is_for_good(&big));
    }
}
