//! From a plan to a machine: everything that its definition says.
//!
//! Owns: what the machine is made of, and refusing plans that cannot be one, before anything is made.
//! Refuses: XML, which is [`super::xml`]'s, and the file system but for looking at the image's parts.

use super::facts::Facts;
use super::mark::{MEMO_BYTES_MAX, Mark, text_fault};
use super::places::{Places, barrier};
use crate::qcow2::{self, Format};
use crate::{HypervisorError, Nic, Plan};
use perigee_model::{Acceleration, Firmware, InstanceId, PartRole, VmSpec, VolumeId};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What the guest's kernel is told when it is booted directly. A panic ends the machine after a moment,
/// so that the last words reach the console.
const KERNEL_OPTIONS: &str = "quiet console=ttyS0 panic=1 cryptomgr.notests perigee.machine=vm";

/// All inputs of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// libvirt's name for it, unique on the host.
    pub domain: String,
    /// The guest's id.
    pub uuid: Uuid,
    /// Whose it is, and the memo.
    pub mark: Mark,
    /// For people.
    pub title: String,
    /// For people.
    pub description: String,
    /// How it is executed.
    pub acceleration: Acceleration,
    /// `pc-q35-10.0`.
    pub machine: String,
    /// The processor's model under emulation.
    pub emulated_model: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// The kernel that is booted directly.
    pub kernel: Option<DirectBoot>,
    /// With UEFI.
    pub uefi: bool,
    /// With an emulated TPM 2.0.
    pub tpm: bool,
    /// Its own disk, qcow2.
    pub disk: Option<String>,
    /// What its cloud-init reads.
    pub seed: Option<String>,
    /// A medium to install from.
    pub iso: Option<String>,
    /// Volumes, qcow2, in the order in which it sees them.
    pub volumes: Vec<(VolumeId, String)>,
    /// Its card.
    pub nic: Option<Card>,
    /// The socket of the channel.
    pub channel: String,
    /// The socket of the screen.
    pub vnc: String,
}

/// A card: what it is on, and its hardware address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// What it is on.
    pub on: Wire,
    /// `52:54:00:10:00:02`.
    pub mac: String,
}

/// What a card is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    /// A network of libvirt's, by its name.
    Network(String),
    /// A TAP that is there before the machine and stays when it ends. libvirt opens it and hands it on, so QEMU's user
    /// needs no right to it.
    Tap(String),
}

/// A kernel that QEMU boots directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectBoot {
    /// The kernel.
    pub kernel: String,
    /// The initial RAM file system.
    pub initrd: Option<String>,
    /// What the kernel is told.
    pub options: String,
}

/// What a guest's disk begins as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlan {
    /// The image's disk below it.
    pub image: Option<(PathBuf, Format)>,
    /// Its size; the image's own when `None`.
    pub bytes: Option<u64>,
}

/// A file, and the second name under which QEMU's user reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecondName {
    pub file: PathBuf,
    pub name: PathBuf,
}

/// A plan that was looked at.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The plan.
    pub plan: Plan,
    /// What only a full VM has.
    pub spec: VmSpec,
    /// Its disk, when it has one.
    pub disk: Option<DiskPlan>,
    /// The text for its cloud-init, when it has such a thing.
    pub user_data: Option<Vec<u8>>,
}

impl Checked {
    /// Looks at the plan. Reads the parts' headers.
    ///
    /// # Errors
    /// `BadPlan` says what is wrong with it.
    pub fn of(plan: &Plan) -> Result<Self, HypervisorError> {
        let spec = plan.vm.clone().ok_or_else(|| bad("it is no full VM"))?;
        if let Some(nic) = &plan.nic {
            nic.check()?;
            if spec.network.is_some() {
                return Err(bad("its one card is on a network of its host's libvirt or on a TAP, not on both"));
            }
        }
        if let Some((_, text)) = plan.resources.fault().or_else(|| spec.fault()) {
            return Err(bad(text));
        }
        if let Some(fault) = plan.memo.as_deref().and_then(memo_fault).or_else(|| text_fault(&spec.description)) {
            return Err(bad(fault));
        }
        check_parts(plan)?;
        let image = part(plan, PartRole::Disk).map(|path| qcow2::inspect(path).map(|format| (path.to_owned(), format)));
        let image = image.transpose()?;
        let disk = (image.is_some() || spec.disk_bytes.is_some()).then_some(DiskPlan { image, bytes: spec.disk_bytes });
        let user_data = part(plan, PartRole::UserData).map(std::fs::read).transpose();
        let user_data = user_data.map_err(|error| bad(format!("its user-data: {error}")))?;
        let has_cloud_init = user_data.is_some() || is_of_disk(plan);
        let user_data = has_cloud_init.then(|| user_data.unwrap_or_else(|| b"#cloud-config\n{}\n".to_vec()));
        Ok(Self { plan: plan.clone(), spec, disk, user_data })
    }

    /// Goes by second names for parts of the image that QEMU's user cannot reach where they are: what is kept
    /// here for all guests is closed to others. Where no second name is possible they stay, and are refused.
    pub fn reach(&mut self, places: &Places, user: (u32, u32)) -> Vec<SecondName> {
        let mut links = Vec::new();
        for (role, path) in self.plan.parts.iter_mut().filter(|(role, _)| *role != PartRole::UserData) {
            if barrier(path, user).is_none() || !places.can_link(path) {
                continue;
            }
            let name = places.part(self.plan.guest, *role);
            links.push(SecondName { file: std::mem::replace(path, name.clone()), name });
        }
        let of_disk = self.disk.as_mut().and_then(|disk| disk.image.as_mut());
        if let Some((image, _)) = of_disk
            && let Some(link) = links.iter().find(|link| link.file == *image)
        {
            image.clone_from(&link.name);
        }
        links
    }

    /// The machine. `domain` is the name it has already, if it has one.
    ///
    /// # Errors
    /// `BadPlan` when this host cannot make such a machine.
    pub fn machine(
        &self,
        instance: &InstanceId,
        facts: &Facts,
        places: &Places,
        domain: Option<&str>,
    ) -> Result<Machine, HypervisorError> {
        let (plan, spec, guest) = (&self.plan, &self.spec, self.plan.guest);
        if part(plan, PartRole::Kernel).is_some() && spec.wants_firmware() {
            return Err(bad("the image brings its own kernel, which no firmware boots: leave out uefi and tpm"));
        }
        if spec.firmware == Firmware::Uefi && !facts.uefi {
            return Err(bad("this host has no UEFI firmware for guests: install the package `ovmf`"));
        }
        if spec.tpm && !facts.tpm {
            return Err(bad("this host has no TPM emulator: install the packages `swtpm` and `swtpm-tools`"));
        }
        let path = |path: &Path| definable(path, facts.qemu_user);
        let of_part = |role| part(plan, role).map(path).transpose();
        let kernel = match of_part(PartRole::Kernel)? {
            Some(kernel) => {
                Some(DirectBoot { kernel, initrd: of_part(PartRole::Initrd)?, options: self.kernel_options() })
            }
            None => None,
        };
        if let Some((image, _)) = self.disk.as_ref().and_then(|disk| disk.image.as_ref()) {
            path(image)?;
        }
        let own_name = || domain_name(instance, plan);
        Ok(Machine {
            domain: domain.map_or_else(own_name, str::to_owned),
            uuid: guest.uuid(),
            mark: Mark { instance: instance.clone(), guest, memo: plan.memo.clone() },
            title: plan.name.to_string(),
            description: spec.description.clone(),
            acceleration: facts.acceleration,
            machine: facts.machine.clone(),
            emulated_model: facts.emulated_model.clone(),
            cpus: plan.resources.cpus,
            memory_kib: plan.resources.memory_bytes >> 10,
            kernel,
            uefi: spec.firmware == Firmware::Uefi,
            tpm: spec.tpm,
            disk: self.disk.as_ref().map(|_| path(&places.disk(guest))).transpose()?,
            seed: self.user_data.as_ref().map(|_| path(&places.seed(guest))).transpose()?,
            iso: of_part(PartRole::Iso)?,
            volumes: spec.volumes.iter().map(|volume| self.volume(*volume, facts, places)).collect::<Result<_, _>>()?,
            nic: self.card(),
            channel: path(&places.channel(guest))?,
            vnc: path(&places.vnc(guest))?,
        })
    }

    fn volume(&self, volume: VolumeId, facts: &Facts, places: &Places) -> Result<(VolumeId, String), HypervisorError> {
        let path = places.volume(volume);
        if !path.is_file() {
            return Err(bad(format!("its volume {volume} is not on this host: detach it")));
        }
        Ok((volume, definable(&path, facts.qemu_user)?))
    }

    /// Its one card.
    pub fn card(&self) -> Option<Card> {
        let on_tap = |nic: &Nic| Card { on: Wire::Tap(nic.tap.clone()), mac: nic.mac.to_string() };
        let on_network = || {
            let network = self.spec.network.as_ref()?;
            Some(Card { on: Wire::Network(network.to_string()), mac: self.spec.mac.to_string() })
        };
        self.plan.nic.as_ref().map(on_tap).or_else(on_network)
    }

    fn kernel_options(&self) -> String {
        let mut options = format!("{KERNEL_OPTIONS} perigee.hostname={}", self.plan.name);
        match &self.plan.nic {
            Some(nic) => options.push_str(&format!(" {}", nic.kernel_options())),
            None if self.spec.network.is_some() => options.push_str(" perigee.network=dhcp"),
            None => {}
        }
        if is_of_disk(&self.plan) {
            options.push_str(" root=/dev/vda rw");
        }
        options
    }
}

/// What a domain of ours is called: the instance's mark, the guest's own name, and what makes it unique.
pub fn domain_name(instance: &InstanceId, plan: &Plan) -> String {
    let id = plan.guest.uuid().simple().to_string();
    format!("{}{}-{}", domain_prefix(instance), plan.name, &id[24..])
}

fn domain_prefix(instance: &InstanceId) -> String {
    format!("perigee-{instance}-")
}

/// The guest's own name, out of what [`domain_name`] made; a domain that was taken over keeps its own.
pub fn guest_name(instance: &InstanceId, domain: &str) -> String {
    let own = domain.strip_prefix(&domain_prefix(instance)).and_then(|rest| rest.rsplit_once('-'));
    own.map_or(domain, |(name, _)| name).to_owned()
}

fn check_parts(plan: &Plan) -> Result<(), HypervisorError> {
    let count = |wanted| plan.parts.iter().filter(|(role, _)| *role == wanted).count();
    let roles = [PartRole::Kernel, PartRole::Initrd, PartRole::Disk, PartRole::Iso, PartRole::UserData];
    if roles.into_iter().any(|role| count(role) > 1) {
        return Err(bad("it takes one part of a role at most"));
    }
    if count(PartRole::Initrd) > count(PartRole::Kernel) {
        return Err(bad("it has an initrd and no kernel"));
    }
    let restored = plan.vm.as_ref().is_some_and(|vm| vm.origin.is_some());
    if count(PartRole::Kernel) + count(PartRole::Disk) + count(PartRole::Iso) == 0 && !restored {
        return Err(bad("it has nothing to boot from: a kernel, a disk or an ISO"));
    }
    for (_, path) in &plan.parts {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() && metadata.len() > 0 => {}
            Ok(_) => return Err(bad(format!("{} is not a file with bytes in it", path.display()))),
            Err(error) => return Err(bad(format!("{}: {error}", path.display()))),
        }
    }
    Ok(())
}

/// Says what is wrong with a memo, if anything is.
pub fn memo_fault(memo: &str) -> Option<String> {
    let long = (memo.len() > MEMO_BYTES_MAX).then(|| format!("a memo has at most {MEMO_BYTES_MAX} bytes"));
    long.or_else(|| text_fault(memo))
}

/// Its image has a disk, or had one when the backup was made that this one is restored from.
fn is_of_disk(plan: &Plan) -> bool {
    let origin = plan.vm.as_ref().and_then(|vm| vm.origin.as_ref());
    part(plan, PartRole::Disk).is_some() || origin.is_some_and(|origin| origin.image_disk)
}

fn part(plan: &Plan, wanted: PartRole) -> Option<&Path> {
    plan.parts.iter().find(|(role, _)| *role == wanted).map(|(_, path)| path.as_path())
}

/// A path as a definition can hold it and QEMU reach it.
fn definable(path: &Path, user: (u32, u32)) -> Result<String, HypervisorError> {
    let text = path.to_str().filter(|text| text.starts_with('/') && !text.contains(char::is_control));
    let text = text.filter(|text| text_fault(text).is_none());
    let text = text.ok_or_else(|| bad(format!("{} cannot be in a definition", path.display())))?;
    barrier(path, user).map_or_else(|| Ok(text.to_owned()), |barrier| Err(bad(barrier)))
}

fn bad(text: impl Into<String>) -> HypervisorError {
    HypervisorError::BadPlan(text.into())
}

#[cfg(test)]
mod tests;
