//! The view: everything living, in memory, as the store has it.
//!
//! Owns: what lists, filters, placement and settling read. Refuses: being written but through
//! `truth`. Readers take a short lock and leave with shared records; nothing is copied.

use perigee_model::{
    Backup, BackupId, Execution, ExecutionId, Guest, GuestId, Host, HostId, Image, ImageId, Network, NetworkId, Task,
    TaskId, TaskState, Tenant, Volume, VolumeId,
};
use perigee_store::{Key, Noun, Record, Store, StoreError};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Everything living. Ordered maps, so that the same history gives the same order.
#[derive(Default)]
pub struct View(RwLock<Rows>);

/// The rows behind the lock.
#[derive(Default)]
pub struct Rows {
    /// Hosts by id.
    pub hosts: BTreeMap<HostId, Arc<Host>>,
    /// Guests by id, gone ones included.
    pub guests: BTreeMap<GuestId, Arc<Guest>>,
    /// Images by id.
    pub images: BTreeMap<ImageId, Arc<Image>>,
    /// Tasks by id.
    pub tasks: BTreeMap<TaskId, Arc<Task>>,
    /// Executions by id.
    pub executions: BTreeMap<ExecutionId, Arc<Execution>>,
    /// Backups by id.
    pub backups: BTreeMap<BackupId, Arc<Backup>>,
    /// Volumes by id.
    pub volumes: BTreeMap<VolumeId, Arc<Volume>>,
    /// Networks by id.
    pub networks: BTreeMap<NetworkId, Arc<Network>>,
    keys: HashMap<String, Arc<Key>>,
    living_names: HashMap<(Tenant, String), GuestId>,
    /// Tasks that are not final: pending and running ones.
    pub open_tasks: BTreeSet<TaskId>,
    /// Executions that have not ended.
    pub open_executions: BTreeSet<ExecutionId>,
    living: BTreeSet<GuestId>,
}

impl View {
    /// Reads the whole store.
    ///
    /// # Errors
    /// What the store says.
    pub async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let view = Self::default();
        for noun in Noun::ALL {
            for record in store.all(noun).await? {
                view.put(record);
            }
        }
        Ok(view)
    }

    /// Looks at the rows. Keep it short: writers wait.
    pub fn read(&self) -> RwLockReadGuard<'_, Rows> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// One guest.
    pub fn guest(&self, id: GuestId) -> Option<Arc<Guest>> {
        self.read().guests.get(&id).cloned()
    }
    /// One host.
    pub fn host(&self, id: HostId) -> Option<Arc<Host>> {
        self.read().hosts.get(&id).cloned()
    }
    /// One task.
    pub fn task(&self, id: TaskId) -> Option<Arc<Task>> {
        self.read().tasks.get(&id).cloned()
    }
    /// One image.
    pub fn image(&self, id: ImageId) -> Option<Arc<Image>> {
        self.read().images.get(&id).cloned()
    }
    /// One execution.
    pub fn execution(&self, id: ExecutionId) -> Option<Arc<Execution>> {
        self.read().executions.get(&id).cloned()
    }
    /// One backup.
    pub fn backup(&self, id: BackupId) -> Option<Arc<Backup>> {
        self.read().backups.get(&id).cloned()
    }
    /// One volume.
    pub fn volume(&self, id: VolumeId) -> Option<Arc<Volume>> {
        self.read().volumes.get(&id).cloned()
    }
    /// One network.
    pub fn network(&self, id: NetworkId) -> Option<Arc<Network>> {
        self.read().networks.get(&id).cloned()
    }
    /// One key by the digest of its token.
    pub(crate) fn key(&self, digest: &str) -> Option<Arc<Key>> {
        self.read().keys.get(digest).cloned()
    }

    /// Takes a newer record in; an older one is ignored.
    pub(crate) fn put(&self, record: Record) {
        let mut rows = self.write();
        match record {
            Record::Host(host) => keep_newer(&mut rows.hosts, host.id, host, |h| h.revision),
            Record::Guest(guest) => rows.put_guest(guest),
            Record::Image(image) => keep_newer(&mut rows.images, image.id, image, |i| i.revision),
            Record::Task(task) => rows.put_task(task),
            Record::Execution(execution) => rows.put_execution(execution),
            Record::Backup(backup) => keep_newer(&mut rows.backups, backup.id, backup, |b| b.revision),
            Record::Volume(volume) => keep_newer(&mut rows.volumes, volume.id, volume, |v| v.revision),
            Record::Network(network) => keep_newer(&mut rows.networks, network.id, network, |n| n.revision),
            Record::Key(key) => {
                rows.keys.insert(key.digest.clone(), Arc::new(key));
            }
        }
    }

    /// Forgets a record.
    pub(crate) fn remove(&self, noun: Noun, id: &str) {
        let mut rows = self.write();
        match noun {
            Noun::Host => drop(id.parse().map(|id| rows.hosts.remove(&id))),
            Noun::Guest => {
                if let Ok(id) = id.parse() {
                    rows.guests.remove(&id);
                    rows.living.remove(&id);
                    rows.living_names.retain(|_, named| *named != id);
                }
            }
            Noun::Image => drop(id.parse().map(|id| rows.images.remove(&id))),
            Noun::Task => {
                if let Ok(id) = id.parse() {
                    rows.tasks.remove(&id);
                    rows.open_tasks.remove(&id);
                }
            }
            Noun::Execution => {
                if let Ok(id) = id.parse() {
                    rows.executions.remove(&id);
                    rows.open_executions.remove(&id);
                }
            }
            Noun::Backup => drop(id.parse().map(|id| rows.backups.remove(&id))),
            Noun::Key => drop(rows.keys.remove(id)),
            Noun::Volume => drop(id.parse().map(|id| rows.volumes.remove(&id))),
            Noun::Network => drop(id.parse().map(|id| rows.networks.remove(&id))),
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rows> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    /// Guests that are not gone, oldest first.
    pub fn living_guests(&self) -> impl Iterator<Item = &Arc<Guest>> {
        self.living.iter().filter_map(|id| self.guests.get(id))
    }

    /// Tasks that are not final, oldest first.
    pub fn open_tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.open_tasks.iter().filter_map(|id| self.tasks.get(id))
    }

    /// Open tasks about one guest.
    pub fn open_tasks_of(&self, guest: GuestId) -> impl Iterator<Item = &Arc<Task>> {
        self.open_tasks().filter(move |t| t.kind.guest() == Some(guest))
    }

    /// What is being done with one volume.
    pub fn open_task_of_volume(&self, volume: VolumeId) -> Option<&Arc<Task>> {
        self.open_tasks().find(|t| t.kind.volume() == Some(volume))
    }

    /// What is being done with one network.
    pub fn open_task_of_network(&self, network: NetworkId) -> Option<&Arc<Task>> {
        self.open_tasks().find(|t| t.kind.network() == Some(network))
    }

    /// Executions that have not ended, oldest first.
    pub fn open_executions(&self) -> impl Iterator<Item = &Arc<Execution>> {
        self.open_executions.iter().filter_map(|id| self.executions.get(id))
    }

    /// A living guest by name.
    pub fn guest_named(&self, tenant: &Tenant, name: &str) -> Option<&Arc<Guest>> {
        let id = self.living_names.get(&(tenant.clone(), name.to_owned()))?;
        self.guests.get(id)
    }

    fn put_guest(&mut self, guest: Guest) {
        let id = guest.id;
        let name_of = |guest: &Guest| (guest.tenant.clone(), guest.name.to_string());
        if let Some(known) = self.guests.get(&id) {
            if known.revision >= guest.revision {
                return;
            }
            let before = name_of(known);
            if self.living_names.get(&before) == Some(&id) {
                self.living_names.remove(&before);
            }
        }
        if guest.is_gone() {
            self.living.remove(&id);
        } else {
            self.living.insert(id);
            self.living_names.insert(name_of(&guest), id);
        }
        self.guests.insert(id, Arc::new(guest));
    }

    fn put_task(&mut self, task: Task) {
        match task.state {
            TaskState::Pending | TaskState::Running => self.open_tasks.insert(task.id),
            TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::Dead => {
                self.open_tasks.remove(&task.id)
            }
        };
        keep_newer(&mut self.tasks, task.id, task, |t| t.revision);
    }

    fn put_execution(&mut self, execution: Execution) {
        if execution.outcome.is_none() {
            self.open_executions.insert(execution.id);
        } else {
            self.open_executions.remove(&execution.id);
        }
        keep_newer(&mut self.executions, execution.id, execution, |e| e.revision);
    }
}

fn keep_newer<K: Ord, V>(map: &mut BTreeMap<K, Arc<V>>, id: K, record: V, revision: impl Fn(&V) -> u64) {
    if map.get(&id).is_none_or(|held| revision(held) < revision(&record)) {
        map.insert(id, Arc::new(record));
    }
}
