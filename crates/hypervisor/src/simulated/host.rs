//! A simulated host: what is on it outlives every agent.
//!
//! Owns: guests, their files and executions, and the counters that checkers read.
//! Refuses: tasks, threads and I/O. Everything is computed when somebody looks.

use super::backups::files_of;
use super::program::Execution;
use crate::usage::RunState;
use crate::{Found, FoundNetwork, GuestEvent, GuestUsage, Kept};
use bytes::Bytes;
use perigee_clock::Instant;
use perigee_model::{BackupId, GuestId, InstanceId, Name, VolumeId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{broadcast, watch};
use uuid::Uuid;

const EVENTS_KEPT: usize = 1024;

/// A machine. Clones are the same machine; give one to each agent that runs on it.
#[derive(Clone)]
pub struct SimulatedHost(Arc<Shared>);

struct Shared {
    world: Mutex<World>,
    /// Counted up by each change, so that waiters look again.
    changes: watch::Sender<u64>,
}

/// Whose guest, by the instance's bits.
pub(super) type Key = (u32, GuestId);

#[derive(Default)]
pub(super) struct World {
    /// `None`: leftovers of a guest without a VMM.
    pub guests: BTreeMap<Key, Option<Vmm>>,
    /// Of each guest, oldest first.
    pub snapshots: BTreeMap<Key, Vec<Frozen>>,
    /// Disks that came out of a backup: what their guests begin with.
    pub disks: BTreeMap<Key, Bytes>,
    /// Of each guest the backups since which it is known what was written.
    pub remembered: BTreeMap<Key, Vec<BackupId>>,
    /// Of each instance: how large they are.
    pub volumes: BTreeMap<(u32, VolumeId), u64>,
    /// What each guest has been given.
    pub plugged: BTreeMap<Key, Vec<VolumeId>>,
    /// All networks, whoever's.
    pub networks: BTreeMap<Uuid, FoundNetwork>,
    /// What each guest's card is on.
    pub cards: BTreeMap<Key, Name>,
    /// The images that guests' disks lie above.
    pub below: BTreeMap<Key, PathBuf>,
    /// What is free of its disk.
    pub free_bytes: Option<u64>,
    events: BTreeMap<u32, broadcast::Sender<GuestEvent>>,
    vmm_starts: BTreeMap<GuestId, u64>,
    execution_starts: BTreeMap<Uuid, u64>,
    vmms: u32,
}

/// A snapshot: what it is, and what was in the guest's memory.
pub(super) struct Frozen {
    pub kept: Kept,
    pub files: Option<BTreeMap<String, Bytes>>,
}

/// A simulated VMM and the guest in it.
pub(super) struct Vmm {
    /// Unique on this host: a session belongs to one boot.
    pub pid: u32,
    /// When it says hello; `None`: never.
    pub ready: Option<Instant>,
    pub began: Instant,
    pub paused: bool,
    /// A write found no room on the host's disk.
    pub starved: bool,
    /// Sessions opened under a smaller number are broken.
    pub sessions: u64,
    /// Counted up by whoever sits down at the serial port: the one before is sent away.
    pub sitters: u64,
    pub executions: BTreeMap<Uuid, Execution>,
    pub files: BTreeMap<String, Bytes>,
}

impl Vmm {
    /// That it is there, and whether it stands still; nothing simulated uses anything.
    pub fn usage(&self, guest: GuestId) -> GuestUsage {
        GuestUsage {
            id: guest.uuid(),
            name: None,
            ours: true,
            life: u64::from(self.pid),
            state: if self.paused { RunState::Paused } else { RunState::Running },
            starved: self.starved,
            busy: false,
            cpus: None,
            cpu_ns: None,
            memory_bytes: None,
            resident_bytes: None,
            usable_bytes: None,
            disks: Vec::new(),
            disks_at: None,
            nics: Vec::new(),
        }
    }
}

impl Default for SimulatedHost {
    fn default() -> Self {
        Self::new()
    }
}

impl SimulatedHost {
    /// A machine with nothing on it.
    pub fn new() -> Self {
        Self(Arc::new(Shared { world: Mutex::default(), changes: watch::Sender::new(0) }))
    }

    /// Everything on it, of whatever instance.
    pub fn guests(&self) -> Vec<Found> {
        self.look(|world| world.guests.iter().map(|((_, guest), vmm)| found(*guest, vmm.as_ref())).collect())
    }

    /// How many VMMs of each guest live here, of whatever instance. A checker adds up all hosts.
    pub fn copies(&self) -> BTreeMap<GuestId, u32> {
        let mut copies = BTreeMap::new();
        for found in self.guests().into_iter().filter(|found| found.alive) {
            *copies.entry(found.guest).or_default() += 1;
        }
        copies
    }

    /// How often a VMM was started for each guest.
    pub fn vmm_starts(&self) -> BTreeMap<GuestId, u64> {
        self.look(|world| world.vmm_starts.clone())
    }

    /// How often each execution really began to run: 1, or it ran twice.
    pub fn execution_starts(&self) -> BTreeMap<Uuid, u64> {
        self.look(|world| world.execution_starts.clone())
    }

    /// Kills the guest's VMM from outside. `false`: there was none.
    pub fn kill(&self, guest: GuestId) -> bool {
        self.change(|world| {
            let mut killed = false;
            for ((instance, id), vmm) in &mut world.guests {
                if *id == guest && vmm.take().is_some() {
                    killed = true;
                    if let Some(events) = world.events.get(instance) {
                        let text = "the VMM was killed by SIGKILL".to_owned();
                        // Nobody listens: then nobody is told.
                        _ = events.send(GuestEvent::Ended { guest, text, clean: false });
                    }
                }
            }
            killed
        })
    }

    /// The guest's kernel starts anew: its executions are lost, its VMM stays. `false`: no VMM.
    pub fn reboot(&self, guest: GuestId) -> bool {
        self.change(|world| {
            let mut vmms = world.guests.iter_mut().filter(|((_, id), _)| *id == guest);
            let Some(vmm) = vmms.find_map(|(_, vmm)| vmm.as_mut()) else { return false };
            vmm.executions.clear();
            vmm.files.clear();
            vmm.sessions += 1;
            true
        })
    }

    /// The volumes that are on it, with their sizes, of whatever instance.
    pub fn volumes(&self) -> BTreeMap<VolumeId, u64> {
        self.look(|world| world.volumes.iter().map(|((_, volume), bytes)| (*volume, *bytes)).collect())
    }

    /// The volumes that a guest has.
    pub fn plugged(&self, guest: GuestId) -> Vec<VolumeId> {
        self.look(|world| {
            let mut all = world.plugged.iter().filter(|((_, id), _)| *id == guest);
            all.next().map(|(_, volumes)| volumes.clone()).unwrap_or_default()
        })
    }

    /// Its disk has so much room from now on: without any, a guest that writes stands, which the guest named
    /// does at once.
    pub fn fill(&self, free_bytes: u64, guest: GuestId) {
        self.change(|world| {
            world.free_bytes = Some(free_bytes);
            for ((instance, id), vmm) in &mut world.guests {
                let Some(vmm) = vmm.as_mut().filter(|_| *id == guest && free_bytes == 0) else { continue };
                (vmm.paused, vmm.starved) = (true, true);
                if let Some(events) = world.events.get(instance) {
                    // Nobody listens: then nobody is told.
                    _ = events.send(GuestEvent::Changed { guest });
                }
            }
        });
    }

    /// Breaks every open session with the guest; it goes on, and so do its executions.
    pub fn break_sessions(&self, guest: GuestId) {
        self.change(|world| {
            for ((_, id), vmm) in &mut world.guests {
                if let (true, Some(vmm)) = (*id == guest, vmm) {
                    vmm.sessions += 1;
                }
            }
        });
    }

    pub(super) fn events(&self, instance: &InstanceId) -> broadcast::Receiver<GuestEvent> {
        let sender = |world: &mut World| {
            let events = world.events.entry(instance.bits());
            events.or_insert_with(|| broadcast::Sender::new(EVENTS_KEPT)).subscribe()
        };
        sender(&mut self.world())
    }

    /// Wakes up after the next change. Subscribe, look, then wait.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    pub(super) fn look<T>(&self, at: impl FnOnce(&World) -> T) -> T {
        at(&self.world())
    }

    /// A change that nobody waits for, or a look that needs what it looks at whole.
    pub(super) fn quietly<T>(&self, how: impl FnOnce(&mut World) -> T) -> T {
        how(&mut self.world())
    }

    pub(super) fn change<T>(&self, how: impl FnOnce(&mut World) -> T) -> T {
        let done = self.quietly(how);
        self.wake();
        done
    }

    /// Lets everyone who waits look again.
    pub(super) fn wake(&self) {
        self.0.changes.send_modify(|count| *count += 1);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    pub fn start_vmm(&mut self, key: Key, now: Instant, ready: Option<Instant>) -> Found {
        self.vmms += 1;
        *self.vmm_starts.entry(key.1).or_default() += 1;
        let vmm = Vmm {
            pid: self.vmms,
            ready,
            began: now,
            paused: false,
            starved: false,
            sessions: 0,
            sitters: 0,
            executions: BTreeMap::new(),
            files: self.disks.get(&key).map(|disk| files_of(disk)).unwrap_or_default(),
        };
        let found = found(key.1, Some(&vmm));
        self.guests.insert(key, Some(vmm));
        found
    }

    pub fn count_execution(&mut self, id: Uuid) {
        *self.execution_starts.entry(id).or_default() += 1;
    }

    pub fn vmm(&mut self, key: &Key) -> Option<&mut Vmm> {
        self.guests.get_mut(key)?.as_mut()
    }
}

pub(super) fn found(guest: GuestId, vmm: Option<&Vmm>) -> Found {
    vmm.map_or_else(
        || Found::dead(guest),
        |vmm| Found { paused: vmm.paused, starved: vmm.starved, ..Found::living(guest, Some(vmm.pid)) },
    )
}
