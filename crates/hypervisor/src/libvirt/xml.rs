//! A machine's definition as libvirt's XML, written by a serializer.
//!
//! Owns: every element a guest is defined with. The same machine gives the same text.
//! Refuses: XML from anybody else, and paths or names that were not looked at
//! ([`super::machine::Machine`]).
//!
//! Format: libvirt, formatdomain.html.

mod network;

pub use network::{network, networks_of};

use super::facts::kind;
use super::machine::{Card, DirectBoot, Machine, Wire};
use super::mark::PREFIX;
use perigee_guest::protocol::PORT_NAME;
use perigee_model::volume::serial;
use perigee_model::{Acceleration, VolumeId};
use quick_xml::Writer;
use quick_xml::events::BytesText;
use std::io;
use std::path::Path;

/// Between two reports of the guest's balloon, in seconds.
const BALLOON_PERIOD: &str = "10";
/// The port of QEMU's own guest agent, for guests that have it.
const QEMU_AGENT: &str = "org.qemu.guest_agent.0";

/// A disk that finds its file system full stops its guest, which can go on later; other faults are the guest's.
const WHEN_FULL: (&str, &str) = ("error_policy", "enospace");
/// What every machine has in a port of its own: channels, tablet, entropy, balloon, USB.
const ALWAYS_THERE: usize = 5;
/// Ports for volumes that come while it runs: a disk can be put only into one that was there when the machine
/// was started. Each costs an emulated guest some 30 ms of its boot.
const PORTS_TO_SPARE: usize = 6;

type Out = Writer<Vec<u8>>;

/// The whole definition.
pub fn definition(machine: &Machine) -> io::Result<String> {
    let mut out = Writer::new_with_indent(Vec::new(), b' ', 1);
    out.create_element("domain").with_attribute(("type", kind(machine.acceleration))).write_inner_content(|out| {
        text(out, "name", &machine.domain)?;
        text(out, "uuid", &machine.uuid.to_string())?;
        text(out, "title", &machine.title)?;
        if !machine.description.is_empty() {
            text(out, "description", &machine.description)?;
        }
        out.create_element("metadata").write_inner_content(|out| machine.mark.write(out, Some(PREFIX)))?;
        with_text(out, "memory", &[("unit", "KiB")], &machine.memory_kib.to_string())?;
        text(out, "vcpu", &machine.cpus.to_string())?;
        boot(out, machine)?;
        features(out)?;
        processor(out, machine)?;
        clock(out, machine)?;
        for (event, action) in [("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")] {
            text(out, event, action)?;
        }
        out.create_element("devices").write_inner_content(|out| devices(out, machine))?;
        Ok(())
    })?;
    String::from_utf8(out.into_inner()).map_err(io::Error::other)
}

fn boot(out: &mut Out, machine: &Machine) -> io::Result<()> {
    let mut os = out.create_element("os");
    if machine.uefi {
        os = os.with_attribute(("firmware", "efi"));
    }
    os.write_inner_content(|out| {
        with_text(out, "type", &[("arch", "x86_64"), ("machine", &machine.machine)], "hvm")?;
        if machine.uefi {
            // libvirt would take the first firmware it finds: often one that boots only what Microsoft signed.
            out.create_element("firmware").write_inner_content(|out| {
                empty(out, "feature", &[("enabled", "no"), ("name", "enrolled-keys")])?;
                empty(out, "feature", &[("enabled", "no"), ("name", "secure-boot")])
            })?;
        }
        let Some(DirectBoot { kernel, initrd, options }) = &machine.kernel else { return Ok(()) };
        text(out, "kernel", kernel)?;
        if let Some(initrd) = initrd {
            text(out, "initrd", initrd)?;
        }
        text(out, "cmdline", options)
    })?;
    Ok(())
}

fn features(out: &mut Out) -> io::Result<()> {
    out.create_element("features").write_inner_content(|out| {
        empty(out, "acpi", &[])?;
        empty(out, "apic", &[])
    })?;
    Ok(())
}

/// One that another host can have, too: a guest that is moved keeps its processor.
fn processor(out: &mut Out, machine: &Machine) -> io::Result<()> {
    match machine.acceleration {
        Acceleration::Kvm => empty(out, "cpu", &[("mode", "host-model"), ("check", "partial")]),
        Acceleration::Tcg | Acceleration::Simulated => {
            let cpu = [("mode", "custom"), ("match", "exact"), ("check", "none")];
            out.create_element("cpu").with_attributes(cpu).write_inner_content(|out| {
                with_text(out, "model", &[("fallback", "forbid")], &machine.emulated_model)
            })?;
            Ok(())
        }
    }
}

/// The emulated timer costs a KVM guest time; an emulated one finds out the speed of its clock by it.
fn clock(out: &mut Out, machine: &Machine) -> io::Result<()> {
    out.create_element("clock").with_attribute(("offset", "utc")).write_inner_content(|out| {
        empty(out, "timer", &[("name", "rtc"), ("tickpolicy", "catchup")])?;
        empty(out, "timer", &[("name", "pit"), ("tickpolicy", "delay")])?;
        let hpet = if machine.acceleration == Acceleration::Kvm { "no" } else { "yes" };
        empty(out, "timer", &[("name", "hpet"), ("present", hpet)])
    })?;
    Ok(())
}

fn devices(out: &mut Out, machine: &Machine) -> io::Result<()> {
    let mut order = 1..;
    let mut next = || order.next().unwrap_or(u8::MAX).to_string();
    let own = [machine.disk.is_some(), machine.seed.is_some(), machine.nic.is_some()];
    let own = own.into_iter().filter(|is_there| *is_there).count() + machine.volumes.len() + ALWAYS_THERE;
    for port in 1..=own + PORTS_TO_SPARE {
        empty(out, "controller", &[("type", "pci"), ("index", &port.to_string()), ("model", "pcie-root-port")])?;
    }
    if let Some(path) = &machine.disk {
        let boot = next();
        let driver = [("name", "qemu"), ("type", "qcow2"), WHEN_FULL, ("discard", "unmap")];
        disk(out, "disk", path, &driver, ("vda", "virtio"), Some(&boot))?;
    }
    if let Some(path) = &machine.iso {
        let boot = next();
        disk(out, "cdrom", path, &[("name", "qemu"), ("type", "raw")], ("sda", "sata"), Some(&boot))?;
    }
    if let Some(path) = &machine.seed {
        disk(out, "disk", path, &[("name", "qemu"), ("type", "raw")], ("vdb", "virtio"), None)?;
    }
    for (place, (volume, path)) in machine.volumes.iter().enumerate() {
        let target = targets().nth(place).unwrap_or_default();
        volume_disk(out, path, *volume, &target)?;
    }
    if let Some(nic) = &machine.nic {
        card(out, nic)?;
    }
    ports(out, machine)?;
    screen(out, &machine.vnc)?;
    if machine.tpm {
        out.create_element("tpm")
            .with_attribute(("model", "tpm-crb"))
            .write_inner_content(|out| empty(out, "backend", &[("type", "emulator"), ("version", "2.0")]))?;
    }
    out.create_element("rng")
        .with_attribute(("model", "virtio"))
        .write_inner_content(|out| with_text(out, "backend", &[("model", "random")], "/dev/urandom"))?;
    out.create_element("memballoon")
        .with_attribute(("model", "virtio"))
        .write_inner_content(|out| empty(out, "stats", &[("period", BALLOON_PERIOD)]))?;
    Ok(())
}

/// A TAP that is not libvirt's to manage is opened as it is: not made, not set up, and not taken away.
fn card(out: &mut Out, card: &Card) -> io::Result<()> {
    let kind = match card.on {
        Wire::Network(_) => "network",
        Wire::Tap(_) => "ethernet",
    };
    out.create_element("interface").with_attribute(("type", kind)).write_inner_content(|out| {
        empty(out, "mac", &[("address", &card.mac)])?;
        match &card.on {
            Wire::Network(network) => empty(out, "source", &[("network", network)])?,
            Wire::Tap(tap) => empty(out, "target", &[("dev", tap), ("managed", "no")])?,
        }
        empty(out, "model", &[("type", "virtio")])
    })?;
    Ok(())
}

fn disk(
    out: &mut Out,
    device: &str,
    path: &str,
    driver: &[(&str, &str)],
    (target, bus): (&str, &str),
    boot: Option<&str>,
) -> io::Result<()> {
    let attributes = [("type", "file"), ("device", device)];
    out.create_element("disk").with_attributes(attributes).write_inner_content(|out| {
        empty(out, "driver", driver)?;
        empty(out, "source", &[("file", path)])?;
        empty(out, "target", &[("dev", target), ("bus", bus)])?;
        if device == "cdrom" || target == "vdb" {
            empty(out, "readonly", &[])?;
        }
        boot.map_or(Ok(()), |order| empty(out, "boot", &[("order", order)]))
    })?;
    Ok(())
}

/// The serial port, the channel to perigee-guest and the one to QEMU's own agent.
fn ports(out: &mut Out, machine: &Machine) -> io::Result<()> {
    // libvirt's consoles are pseudo terminals: only such a port can be sat at through it.
    out.create_element("serial")
        .with_attribute(("type", "pty"))
        .write_inner_content(|out| empty(out, "target", &[("type", "isa-serial"), ("port", "0")]))?;
    out.create_element("channel").with_attribute(("type", "unix")).write_inner_content(|out| {
        empty(out, "source", &[("mode", "bind"), ("path", &machine.channel)])?;
        empty(out, "target", &[("type", "virtio"), ("name", PORT_NAME)])
    })?;
    // libvirt chooses this one's socket: it alone uses it.
    out.create_element("channel")
        .with_attribute(("type", "unix"))
        .write_inner_content(|out| empty(out, "target", &[("type", "virtio"), ("name", QEMU_AGENT)]))?;
    Ok(())
}

fn screen(out: &mut Out, socket: &str) -> io::Result<()> {
    empty(out, "input", &[("type", "tablet"), ("bus", "virtio")])?;
    out.create_element("graphics")
        .with_attribute(("type", "vnc"))
        .write_inner_content(|out| empty(out, "listen", &[("type", "socket"), ("socket", socket)]))?;
    out.create_element("video").write_inner_content(|out| empty(out, "model", &[("type", "vga")]))?;
    Ok(())
}

fn text(out: &mut Out, name: &str, value: &str) -> io::Result<()> {
    with_text(out, name, &[], value)
}

fn with_text(out: &mut Out, name: &str, attributes: &[(&str, &str)], value: &str) -> io::Result<()> {
    let element = out.create_element(name).with_attributes(attributes.iter().copied());
    element.write_text_content(BytesText::new(value))?;
    Ok(())
}

fn empty(out: &mut Out, name: &str, attributes: &[(&str, &str)]) -> io::Result<()> {
    out.create_element(name).with_attributes(attributes.iter().copied()).write_empty()?;
    Ok(())
}

/// A snapshot that libvirt is to make inside the disk, named by its id. Format: formatsnapshot.html.
pub fn snapshot(name: &str, title: &str, memory: bool) -> io::Result<String> {
    let mut out = Writer::new(Vec::new());
    out.create_element("domainsnapshot").write_inner_content(|out| {
        text(out, "name", name)?;
        text(out, "description", title)?;
        empty(out, "memory", &[("snapshot", if memory { "internal" } else { "no" })])?;
        out.create_element("disks").write_inner_content(kept_disk)?;
        Ok(())
    })?;
    String::from_utf8(out.into_inner()).map_err(io::Error::other)
}

/// One that is in the disk already, taken as of a machine that was off; with the machine's definition.
pub fn known_snapshot(name: &str, at_seconds: u64, definition: &str) -> io::Result<String> {
    let mut out = Writer::new(Vec::new());
    out.create_element("domainsnapshot").write_inner_content(|out| {
        text(out, "name", name)?;
        text(out, "state", "shutoff")?;
        text(out, "creationTime", &at_seconds.to_string())?;
        empty(out, "memory", &[("snapshot", "no")])?;
        out.create_element("disks").write_inner_content(kept_disk)?;
        out.get_mut().extend(definition.as_bytes());
        Ok(())
    })?;
    String::from_utf8(out.into_inner()).map_err(io::Error::other)
}

/// A job that shows the guest's own disk at this moment. Format: formatbackup.html.
pub fn backup(show: &Show<'_>) -> io::Result<String> {
    let mut out = Writer::new(Vec::new());
    out.create_element("domainbackup").with_attribute(("mode", "pull")).write_inner_content(|out| {
        if let Some(since) = show.since {
            text(out, "incremental", since)?;
        }
        empty(out, "server", &[("transport", "unix"), ("socket", show.socket)])?;
        out.create_element("disks").write_inner_content(|out| {
            let mut disk = vec![("name", "vda"), ("backup", "yes"), ("type", "file"), ("exportname", show.export)];
            disk.extend(show.since.map(|_| ("exportbitmap", show.bitmap)));
            let disk = out.create_element("disk").with_attributes(disk);
            disk.write_inner_content(|out| empty(out, "scratch", &[("file", show.scratch)]))?;
            Ok(())
        })?;
        Ok(())
    })?;
    String::from_utf8(out.into_inner()).map_err(io::Error::other)
}

/// How a disk is shown.
pub struct Show<'a> {
    /// What was written since this checkpoint is told, too.
    pub since: Option<&'a str>,
    /// Where.
    pub socket: &'a str,
    /// Under which name.
    pub export: &'a str,
    /// What was written is told under this name.
    pub bitmap: &'a str,
    /// Where QEMU keeps what the guest writes over meanwhile.
    pub scratch: &'a str,
}

/// A point from which QEMU remembers what is written to the guest's own disk. Format:
/// formatcheckpoint.html.
pub fn checkpoint(name: &str) -> io::Result<String> {
    let mut out = Writer::new(Vec::new());
    out.create_element("domaincheckpoint").write_inner_content(|out| {
        text(out, "name", name)?;
        out.create_element("disks")
            .write_inner_content(|out| empty(out, "disk", &[("name", "vda"), ("checkpoint", "bitmap")]))?;
        Ok(())
    })?;
    String::from_utf8(out.into_inner()).map_err(io::Error::other)
}

/// All but the guest's own disk is only read.
fn kept_disk(out: &mut Out) -> io::Result<()> {
    empty(out, "disk", &[("name", "vda"), ("snapshot", "internal")])
}

/// A volume's disk, to be put in or taken out.
pub fn volume(path: &str, volume: VolumeId, target: &str) -> io::Result<String> {
    let mut out = Writer::new(Vec::new());
    volume_disk(&mut out, path, volume, target)?;
    String::from_utf8(out.into_inner()).map_err(io::Error::other)
}

fn volume_disk(out: &mut Out, path: &str, volume: VolumeId, target: &str) -> io::Result<()> {
    let attributes = [("type", "file"), ("device", "disk")];
    out.create_element("disk").with_attributes(attributes).write_inner_content(|out| {
        empty(out, "driver", &[("name", "qemu"), ("type", "qcow2"), WHEN_FULL, ("discard", "unmap")])?;
        empty(out, "source", &[("file", path)])?;
        empty(out, "target", &[("dev", target), ("bus", "virtio")])?;
        text(out, "serial", &serial(volume))
    })?;
    Ok(())
}

/// Names that volumes have in definitions: after its own disk and its seed.
fn targets() -> impl Iterator<Item = String> {
    ('c'..='z').map(|letter| format!("vd{letter}"))
}

/// A disk of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeDisk {
    /// The volume that it is, when it is one.
    pub volume: Option<VolumeId>,
    /// Its name there.
    pub target: String,
}

/// The disks in a definition; `is_volume` tells a volume by its file. `None`: it cannot be read.
pub fn disks(definition: &str, is_volume: impl Fn(&Path) -> Option<VolumeId>) -> Option<Vec<VolumeDisk>> {
    let document = roxmltree::Document::parse(definition).ok()?;
    let devices = document.root_element().children().find(|node| node.has_tag_name("devices"))?;
    let disk = |disk: roxmltree::Node<'_, '_>| {
        let child = |name: &str| disk.children().find(|node| node.has_tag_name(name));
        let target = child("target")?.attribute("dev")?.to_owned();
        let file = child("source").and_then(|source| source.attribute("file").map(str::to_owned));
        Some(VolumeDisk { volume: file.and_then(|file| is_volume(Path::new(&file))), target })
    };
    Some(devices.children().filter(|node| node.has_tag_name("disk")).filter_map(disk).collect())
}

/// A name that no disk of the definition has.
pub fn free_target(disks: &[VolumeDisk]) -> Option<String> {
    targets().find(|target| disks.iter().all(|disk| disk.target != *target))
}

/// The hardware addresses in a definition of anybody's.
pub fn hardware_addresses(definition: &str) -> Vec<String> {
    let Ok(document) = roxmltree::Document::parse(definition) else { return Vec::new() };
    let cards = document.descendants().filter(|node| node.has_tag_name("mac"));
    cards.filter_map(|mac| mac.attribute("address")).map(str::to_ascii_lowercase).collect()
}

#[cfg(test)]
mod tests;
