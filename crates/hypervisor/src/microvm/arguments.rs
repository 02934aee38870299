//! QEMU's command line, made of a plan and of descriptors.
//!
//! Owns: every option a guest is started with. Paths are passed as descriptors, so that no name on
//! the host can add an option, and so that QEMU needs no right to walk our directories.
//! Refuses: default devices, option ROMs, a user's configuration, a monitor for people.

use crate::{Pace, Plan};
use perigee_guest::protocol::PORT_NAME;
use perigee_model::{Acceleration, GuestId, InstanceId, PartRole};
use std::os::fd::RawFd;

/// Translated code kept by TCG; what does not fit is translated again.
pub const TRANSLATION_MIB: u64 = 64;
/// What QEMU is left to do: the filter of QEMU's own choice, and nothing that starts programs.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
/// What the guest's kernel is told. `reboot=t`: a triple fault, the one way a microvm without ACPI
/// power management can end; `panic=-1`: at once.
const KERNEL_OPTIONS: &str = "quiet reboot=t panic=-1 console=ttyS0 cryptomgr.notests";

/// Open descriptors under the numbers that the child will have them by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// The kernel.
    pub kernel: RawFd,
    /// The initial RAM file system.
    pub initrd: Option<RawFd>,
    /// Disks, in the plan's order.
    pub disks: Vec<DiskDescriptors>,
    /// Listens for the channel.
    pub channel: RawFd,
    /// Listens for QMP.
    pub qmp: RawFd,
    /// The TAP of its card.
    pub tap: Option<RawFd>,
    /// `/dev/kvm`.
    pub kvm: Option<RawFd>,
}

/// One disk's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskDescriptors {
    /// The guest's own file, readable and writable.
    pub own: RawFd,
    /// The image's qcow2 that it is an overlay of, readable; `None`: its own file is a raw disk.
    pub below: Option<RawFd>,
}

/// How this instance marks its guests' processes: the value of `-name` starts with it.
pub fn mark(instance: &InstanceId) -> String {
    format!("guest=perigee-{instance}-")
}

/// The guest whose process carries this value of `-name`.
pub fn marked_guest<'a>(name: &'a str, instance: &InstanceId) -> Option<GuestId> {
    name.strip_prefix(mark(instance).as_str()).and_then(|id: &'a str| id.parse().ok())
}

/// What is the same for all guests of a host.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Whose guests.
    pub instance: InstanceId,
    /// How they are executed.
    pub acceleration: Acceleration,
    /// The frequency of the time stamp counter, where guests see the host's.
    pub tsc_khz: Option<u32>,
}

/// All arguments after the program's name.
pub fn arguments(plan: &Plan, machine: &Machine, fds: &Descriptors) -> Vec<String> {
    let mut line = Line::default();
    line.option("-name", format!("{}{}", mark(&machine.instance), plan.guest));
    line.option("-machine", "microvm,isa-serial=on,rtc=on,x-option-roms=off");
    line.option("-bios", "qboot.rom");
    accelerate(&mut line, plan.pace, machine.acceleration, fds.kvm);
    line.option("-m", format!("{}M", plan.resources.memory_bytes >> 20));
    line.option("-smp", plan.resources.cpus.to_string());
    line.flags(&["-nodefaults", "-no-user-config", "-nographic", "-no-reboot"]);
    line.option("-sandbox", SANDBOX);
    line.option("-kernel", open_path(fds.kernel));
    if let Some(initrd) = fds.initrd {
        line.option("-initrd", open_path(initrd));
    }
    line.option("-append", kernel_options(plan, machine));
    line.option("-chardev", "stdio,id=console,signal=off");
    line.option("-serial", "chardev:console");
    line.option("-chardev", format!("socket,id=qmp,fd={},server=on,wait=off", fds.qmp));
    line.option("-mon", "chardev=qmp,mode=control");
    line.option("-chardev", format!("socket,id=channel,fd={},server=on,wait=off", fds.channel));
    line.option("-device", "virtio-serial-device");
    line.option("-device", format!("virtserialport,chardev=channel,name={PORT_NAME}"));
    line.option("-device", "virtio-rng-device");
    if let (Some(nic), Some(tap)) = (&plan.nic, fds.tap) {
        line.option("-netdev", format!("tap,id=net,fd={tap}"));
        line.option("-device", format!("virtio-net-device,netdev=net,mac={}", nic.mac));
    }
    for (number, disk) in fds.disks.iter().enumerate() {
        attach(&mut line, number, *disk);
    }
    line.0
}

/// What a disk is, and what is below it, is said here: no name in a header is followed. A write that finds no
/// room on the host's disk is an error in the guest, which nobody would wake otherwise.
fn attach(line: &mut Line, number: usize, disk: DiskDescriptors) {
    let mut file = |fd: RawFd, set: usize| {
        line.option("-add-fd", format!("fd={fd},set={set}"));
        format!("file.driver=file,file.filename=/dev/fdset/{set},file.auto-read-only=off,file.locking=on")
    };
    let set = FIRST_DISK_SET + 2 * number;
    let own = file(disk.own, set);
    let how = match disk.below {
        Some(below) => {
            let below = file(below, set + 1);
            line.option(
                "-blockdev",
                format!("driver=qcow2,node-name=b{number},read-only=on,{below},file.read-only=on"),
            );
            format!("driver=qcow2,node-name=d{number},backing=b{number}")
        }
        None => format!("driver=raw,node-name=d{number}"),
    };
    line.option("-blockdev", format!("{how},auto-read-only=off,{own}"));
    line.option("-device", format!("virtio-blk-device,drive=d{number},werror=report,rerror=report"));
}

const KVM_SET: usize = 1;
const FIRST_DISK_SET: usize = 2;

fn accelerate(line: &mut Line, pace: Pace, acceleration: Acceleration, kvm: Option<RawFd>) {
    match (acceleration, kvm) {
        (Acceleration::Kvm, Some(fd)) => {
            line.option("-add-fd", format!("fd={fd},set={KVM_SET}"));
            line.option("-accel", format!("kvm,device=/dev/fdset/{KVM_SET}"));
            line.option("-cpu", "host");
        }
        (Acceleration::Kvm | Acceleration::Tcg | Acceleration::Simulated, _) => {
            line.option("-accel", format!("tcg,tb-size={TRANSLATION_MIB}"));
            if pace == Pace::Steady {
                line.option("-icount", "shift=auto,sleep=on");
            }
        }
    }
}

/// A kernel that must find out the frequency of its time stamp counter does so against the
/// emulated timer; when the host is busy that fails, and on a machine with neither HPET nor PM
/// timer it then waits for a tick that never comes. TCG shows the host's counter, so the host
/// tells its frequency (`tsc_early_khz`, Linux, admin-guide/kernel-parameters). Not when time is
/// counted in instructions: then the counter is no clock.
fn kernel_options(plan: &Plan, machine: &Machine) -> String {
    let mut options = format!("{KERNEL_OPTIONS} perigee.hostname={}", plan.name);
    if let (Acceleration::Tcg, Pace::Ordinary, Some(khz)) = (machine.acceleration, plan.pace, machine.tsc_khz) {
        options.push_str(&format!(" tsc_early_khz={khz} tsc=reliable"));
    }
    if let Some(nic) = &plan.nic {
        options.push_str(&format!(" {}", nic.kernel_options()));
    }
    if plan.parts.iter().any(|(role, _)| *role == PartRole::Disk) {
        options.push_str(" root=/dev/vda rw");
    }
    options
}

fn open_path(fd: RawFd) -> String {
    format!("/proc/self/fd/{fd}")
}

#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(name.to_owned());
        self.0.push(value.into());
    }
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_model::{Name, Resources};

    fn plan(pace: Pace) -> Plan {
        Plan {
            guest: "01890000-0000-7000-8000-000000000001".parse().unwrap(),
            name: Name::parse("web-1").unwrap(),
            resources: Resources { cpus: 2, memory_bytes: 256 << 20 },
            parts: vec![(PartRole::Kernel, "/a,b".into()), (PartRole::Disk, "/d".into())],
            pace,
            vm: None,
            nic: None,
            memo: None,
        }
    }

    fn line(pace: Pace, acceleration: Acceleration, kvm: Option<RawFd>) -> String {
        let machine = Machine { instance: InstanceId::from_bits(0xabc), acceleration, tsc_khz: Some(2_600_000) };
        let disks = vec![DiskDescriptors { own: 12, below: None }, DiskDescriptors { own: 15, below: Some(16) }];
        let fds = Descriptors { kernel: 10, initrd: Some(11), disks, channel: 13, qmp: 14, tap: None, kvm };
        arguments(&plan(pace), &machine, &fds).join(" ")
    }

    #[test]
    fn a_guest_is_recognised_by_its_name_and_by_its_own_instance_only() {
        let own = InstanceId::from_bits(0xabc);
        let name = "guest=perigee-00000abc-01890000-0000-7000-8000-000000000001";
        assert_eq!(marked_guest(name, &own), Some(plan(Pace::Ordinary).guest));
        assert_eq!(marked_guest(name, &InstanceId::from_bits(0xabd)), None);
        assert_eq!(marked_guest("guest=perigee-00000abc-x", &own), None);
        assert!(line(Pace::Ordinary, Acceleration::Tcg, None).contains(&format!("-name {name} ")));
    }

    #[test]
    fn no_path_of_the_host_is_an_argument() {
        let text = line(Pace::Ordinary, Acceleration::Tcg, None);
        assert!(!text.contains("/a,b") && !text.contains("/d "), "{text}");
        assert!(text.contains("-kernel /proc/self/fd/10 -initrd /proc/self/fd/11"), "{text}");
        assert!(text.contains("root=/dev/vda rw"), "{text}");
        assert!(text.contains("driver=raw,node-name=d0,auto-read-only=off") && text.contains("fd=12,set=2"), "{text}");
        let overlay =
            "driver=qcow2,node-name=d1,backing=b1,auto-read-only=off,file.driver=file,file.filename=/dev/fdset/4";
        assert!(text.contains(overlay) && text.contains("fd=15,set=4"), "{text}");
        assert!(text.contains("driver=qcow2,node-name=b1,read-only=on") && text.contains("fd=16,set=5"), "{text}");
    }

    #[test]
    fn a_card_is_a_descriptor_too() {
        let mut plan = plan(Pace::Ordinary);
        let (address, gateway) = ("172.16.0.2".parse().unwrap(), "172.16.0.1".parse().unwrap());
        let (tap, mac) = ("tap0".to_owned(), perigee_model::Mac::from_bits(0x10_0002));
        plan.nic = Some(crate::Nic { tap, mac, address, network_bits: 24, gateway, names: None, six: None });
        let machine = Machine { instance: InstanceId::from_bits(1), acceleration: Acceleration::Tcg, tsc_khz: None };
        let fds = Descriptors { kernel: 10, tap: Some(15), ..Descriptors::default() };
        let text = arguments(&plan, &machine, &fds).join(" ");
        let card = "-netdev tap,id=net,fd=15 -device virtio-net-device,netdev=net,mac=52:54:00:10:00:02";
        assert!(text.contains(card) && !text.contains("tap0"), "{text}");
        assert!(text.contains(" perigee.address=172.16.0.2/24 perigee.gateway=172.16.0.1"), "{text}");
    }

    #[test]
    fn the_pace_is_a_matter_of_translation() {
        assert!(line(Pace::Steady, Acceleration::Tcg, None).contains("-icount shift=auto,sleep=on"));
        assert!(!line(Pace::Steady, Acceleration::Tcg, None).contains("tsc"));
        let ordinary = line(Pace::Ordinary, Acceleration::Tcg, None);
        assert!(!ordinary.contains("icount") && ordinary.contains("tsc_early_khz=2600000"), "{ordinary}");
        let kvm = line(Pace::Steady, Acceleration::Kvm, Some(9));
        assert!(!kvm.contains("icount") && kvm.contains("-accel kvm,device=/dev/fdset/1"), "{kvm}");
    }
}
