//! From a plan to a process.
//!
//! Owns: the part of a start that is ours, in the order that makes a crash harmless: the guest's
//! directory is there already, then user, disks, sockets, group, process. It blocks for a few
//! milliseconds and waits for nothing: the VMM is born with sockets that already listen.
//! Refuses: plans that cannot be run, before anything is made.

use super::arguments::{self, Descriptors, DiskDescriptors, TRANSLATION_MIB};
use super::cgroups::Limits;
use super::host::Host;
use super::place::About;
use super::record::{CONSOLE_BYTES, ERRORS_BYTES, Record};
use super::sys;
use super::vmm::Vmm;
use crate::qcow2::{self, Format};
use crate::work::{os, room_or_os};
use crate::{HypervisorError, Plan};
use perigee_model::{Acceleration, PartRole};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// Most disks of one guest.
const DISKS_MAX: usize = 8;
/// What QEMU needs beside guest memory, translated code and the image's parts.
const VMM_BYTES: u64 = 128 << 20;
/// Threads of QEMU beside one for each guest CPU.
const VMM_TASKS: u32 = 128;
/// A guest is killed before anything else on a host without memory (proc(5), `oom_score_adj`).
const OOM_SCORE: &str = "500";

/// The opened parts of an image.
struct Parts {
    kernel: File,
    initrd: Option<File>,
    disks: Vec<DiskFiles>,
    bytes: u64,
}

/// A guest's own disk, and the image's that it is an overlay of.
struct DiskFiles {
    own: File,
    below: Option<File>,
}

/// Refuses what cannot be run. Nothing is made yet.
pub fn check(plan: &Plan) -> Result<(), HypervisorError> {
    let refuse = |text: String| Err(HypervisorError::BadPlan(text));
    if let Some((_, text)) = plan.resources.fault() {
        return refuse(text);
    }
    if plan.vm.is_some() {
        return refuse("this host runs sandboxes; a full VM takes libvirt".to_owned());
    }
    if let Some(nic) = &plan.nic {
        nic.check()?;
    }
    let count = |wanted| plan.parts.iter().filter(|(role, _)| *role == wanted).count();
    if count(PartRole::Kernel) != 1 || count(PartRole::Initrd) > 1 || count(PartRole::Disk) > DISKS_MAX {
        return refuse(format!("it takes one kernel, at most one initrd and at most {DISKS_MAX} disks"));
    }
    if count(PartRole::Initrd) + count(PartRole::Disk) == 0 {
        return refuse("it takes an initrd or a disk".to_owned());
    }
    for (_, path) in &plan.parts {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() && metadata.len() > 0 => {}
            Ok(_) => return refuse(format!("{} is not a file with bytes in it", path.display())),
            Err(error) => return refuse(format!("{}: {error}", path.display())),
        }
    }
    Ok(())
}

/// Makes everything and starts the VMM, outside its control group yet. What it made before an error is for the caller to remove.
pub fn launch(host: &Host, plan: &Plan) -> Result<Vmm, HypervisorError> {
    let uid = host.places.take_uid(plan.guest)?;
    let resources = plan.resources;
    let (name, cpus, memory_bytes) = (plan.name.to_string(), resources.cpus, resources.memory_bytes);
    host.places.keep_about(plan.guest, &About { name, cpus, memory_bytes })?;
    let parts = open_parts(host, plan, uid)?;
    let channel = listen(&host.places.channel(plan.guest))?;
    let qmp = listen(&host.places.qmp(plan.guest))?;
    let kvm = open_kvm(host.machine.acceleration)?;
    let tap = plan.nic.as_ref().map(|nic| sys::open_tap(&nic.tap).map_err(os(format!("opening the TAP {}", nic.tap))));
    let tap = tap.transpose()?;
    host.cgroups.make(plan.guest, limits(plan, &parts)).map_err(room_or_os("making a control group"))?;
    let fds = Descriptors {
        kernel: parts.kernel.as_raw_fd(),
        initrd: parts.initrd.as_ref().map(AsRawFd::as_raw_fd),
        disks: parts.disks.iter().map(DiskFiles::descriptors).collect(),
        channel: channel.as_raw_fd(),
        qmp: qmp.as_raw_fd(),
        tap: tap.as_ref().map(AsRawFd::as_raw_fd),
        kvm: kvm.as_ref().map(AsRawFd::as_raw_fd),
    };
    let console = Record::new("perigee-console", CONSOLE_BYTES).map_err(room_or_os("making a console"))?;
    let errors = Record::new("perigee-errors", ERRORS_BYTES).map_err(room_or_os("making a console"))?;
    let mut command = Command::new(&host.qemu);
    command.args(arguments::arguments(plan, &host.machine, &fds));
    command.env_clear().current_dir("/").stdin(Stdio::null());
    command.stdout(console.writer().map_err(room_or_os("opening a console"))?);
    command.stderr(errors.writer().map_err(room_or_os("opening a console"))?);
    sys::confine(&mut command, sys::Confinement { uid, kept: kept(&fds) });
    let child = command.spawn().map_err(room_or_os(format!("starting {}", host.qemu.display())))?;
    // It is our child and not reaped, so the pid is its own.
    let pidfd = sys::pidfd_open(child.id()).map_err(os("holding on to the VMM"))?;
    // Only a hint for the kernel; refused in some containers.
    _ = fs::write(format!("/proc/{}/oom_score_adj", child.id()), OOM_SCORE);
    Ok(Vmm::started(plan.guest, child.id(), pidfd, console, errors))
}

fn kept(fds: &Descriptors) -> Vec<RawFd> {
    let single = [Some(fds.kernel), fds.initrd, Some(fds.channel), Some(fds.qmp), fds.kvm, fds.tap];
    let disks = fds.disks.iter().flat_map(|disk| [Some(disk.own), disk.below]);
    single.into_iter().chain(disks).flatten().collect()
}

fn limits(plan: &Plan, parts: &Parts) -> Limits {
    let memory = plan.resources.memory_bytes;
    let memory_bytes = memory + memory / 64 + VMM_BYTES + (TRANSLATION_MIB << 20) + parts.bytes;
    Limits { memory_bytes, cpus: plan.resources.cpus, tasks: plan.resources.cpus + VMM_TASKS }
}

fn open_parts(host: &Host, plan: &Plan, uid: Option<u32>) -> Result<Parts, HypervisorError> {
    let (mut kernel, mut initrd, mut disks, mut bytes) = (None, None, Vec::new(), 0);
    for (role, path) in &plan.parts {
        match role {
            PartRole::Kernel | PartRole::Initrd => {
                let file = open_readable(path, uid)?;
                bytes += file.metadata().map_err(os(format!("reading {}", path.display())))?.len();
                let place = if *role == PartRole::Kernel { &mut kernel } else { &mut initrd };
                *place = Some(file);
            }
            PartRole::Disk => {
                let copy = host.places.guest(plan.guest).join(format!("disk.{}", disks.len()));
                disks.push(match qcow2::inspect(path)? {
                    Format::Raw => DiskFiles { own: copy_disk(path, &copy, uid)?, below: None },
                    Format::Qcow2 => overlay(host, path, &copy, uid)?,
                });
            }
            PartRole::Iso | PartRole::UserData => {
                return Err(HypervisorError::BadPlan("a sandbox has no drive for media".to_owned()));
            }
        }
    }
    let kernel = kernel.ok_or_else(|| HypervisorError::BadPlan("it has no kernel".to_owned()))?;
    Ok(Parts { kernel, initrd, disks, bytes })
}

/// The VMM opens the file again through `/proc/self/fd`: it needs the right to read it, but none
/// to the directories above. An image's part is no secret from those who may walk there.
fn open_readable(path: &Path, uid: Option<u32>) -> Result<File, HypervisorError> {
    let doing = || format!("opening {}", path.display());
    let file = File::open(path).map_err(room_or_os(doing()))?;
    let mode = file.metadata().map_err(os(doing()))?.permissions().mode();
    if uid.is_some() && mode & 0o004 == 0 {
        file.set_permissions(fs::Permissions::from_mode(mode & 0o7777 | 0o444)).map_err(os(doing()))?;
    }
    Ok(file)
}

impl DiskFiles {
    fn descriptors(&self) -> DiskDescriptors {
        DiskDescriptors { own: self.own.as_raw_fd(), below: self.below.as_ref().map(AsRawFd::as_raw_fd) }
    }
}

/// A disk of its own above the image's: it takes up what the guest writes.
fn overlay(host: &Host, image: &Path, own: &Path, uid: Option<u32>) -> Result<DiskFiles, HypervisorError> {
    host.reserve.check(host.places.dir(), qcow2::CLUSTER)?;
    qcow2::create(own, Some((image, Format::Qcow2)), None)?;
    Ok(DiskFiles { own: own_disk(own, uid)?, below: Some(open_readable(image, uid)?) })
}

/// A disk of its own; shares blocks with the image's where the file system can (`FICLONE`).
fn copy_disk(image: &Path, copy: &Path, uid: Option<u32>) -> Result<File, HypervisorError> {
    let doing = || format!("copying {}", image.display());
    fs::copy(image, copy).map_err(room_or_os(doing()))?;
    own_disk(copy, uid)
}

/// Its VMM's alone.
fn own_disk(path: &Path, uid: Option<u32>) -> Result<File, HypervisorError> {
    let doing = || format!("opening {}", path.display());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(os(doing()))?;
    let file = File::options().read(true).write(true).open(path).map_err(room_or_os(doing()))?;
    if let Some(uid) = uid {
        fchown(&file, Some(uid), Some(uid)).map_err(os(doing()))?;
    }
    Ok(file)
}

/// A socket that listens before there is anyone to accept: who connects waits for the VMM.
fn listen(path: &Path) -> Result<OwnedFd, HypervisorError> {
    let doing = || format!("listening on {}", path.display());
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(os(doing())(error)),
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(path).map(OwnedFd::from).map_err(room_or_os(doing()))
}

fn open_kvm(acceleration: Acceleration) -> Result<Option<File>, HypervisorError> {
    if acceleration != Acceleration::Kvm {
        return Ok(None);
    }
    let kvm = File::options().read(true).write(true).open("/dev/kvm");
    kvm.map(Some).map_err(os("opening /dev/kvm"))
}
