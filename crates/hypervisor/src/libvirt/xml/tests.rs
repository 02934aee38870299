//! What was written is what was meant: read back by another program's parser, and by libvirt's schema.

use super::*;
use crate::libvirt::mark::Mark;
use perigee_model::{GuestId, InstanceId};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use roxmltree::{Document, Node};
use std::io::Write as _;
use std::process::{Command, Stdio};
use uuid::Uuid;

/// Anything that may be in a definition, markup above all.
fn words() -> impl Strategy<Value = String> {
    let markup =
        prop::sample::select(vec!["</name>", "<!--", "-->", "]]>", "<![CDATA[", "&amp;", "&#0;", "'\"><x y='", "${a}"]);
    let piece =
        prop_oneof![markup.prop_map(str::to_owned), "[ -~\u{a0}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]{0,12}"];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// As a disk of the host may be called.
fn path() -> impl Strategy<Value = String> {
    words().prop_map(|words| format!("/var/lib/{words}"))
}

prop_compose! {
    fn machines()(
        (title, description, memo) in (words(), words(), prop::option::of(words().prop_filter("none is empty", |memo| !memo.is_empty()))),
        (disk, seed, iso) in (prop::option::of(path()), prop::option::of(path()), prop::option::of(path())),
        (kernel, initrd, options) in (prop::option::of(path()), prop::option::of(path()), words()),
        (channel, vnc) in (path(), path()),
        volumes in prop::collection::vec((any::<u128>(), path()), 0..4),
        (kvm, uefi, tpm) in (any::<bool>(), any::<bool>(), any::<bool>()),
        nic in prop::option::of((any::<bool>(), "[a-z0-9]{1,15}")),
        (bits, cpus, memory_kib) in (any::<u128>(), 1..512u32, 1024..1u64 << 40),
    ) -> Machine {
        let guest = GuestId::new(Uuid::from_u128(bits));
        Machine {
            domain: "perigee-00000abc-web-1-89abcdef".to_owned(),
            uuid: guest.uuid(),
            mark: Mark { instance: InstanceId::from_bits(0xabc), guest, memo },
            title,
            description,
            acceleration: if kvm { Acceleration::Kvm } else { Acceleration::Tcg },
            machine: "pc-q35-10.0".to_owned(),
            emulated_model: if kvm { String::new() } else { "Westmere".to_owned() },
            cpus,
            memory_kib,
            kernel: kernel.map(|kernel| DirectBoot { kernel, initrd, options }),
            uefi,
            tpm,
            disk,
            seed,
            iso,
            volumes: volumes.into_iter().map(|(bits, path)| (VolumeId::new(Uuid::from_u128(bits)), path)).collect(),
            nic: nic.map(|(taps, name)| Card {
                on: if taps { Wire::Tap(name) } else { Wire::Network(name) },
                mac: "52:54:00:00:00:01".to_owned(),
            }),
            channel,
            vnc,
        }
    }
}

fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|child| child.tag_name().name() == name)
}

fn text(node: Node<'_, '_>, name: &str) -> Option<String> {
    child(node, name).map(|child| child.children().filter_map(|part| part.text()).collect())
}

/// The machine that a definition means.
fn read(definition: &str) -> Machine {
    let document = Document::parse(definition).unwrap();
    let root = document.root_element();
    let devices = child(root, "devices").unwrap();
    let attribute = |node: Node<'_, '_>, name: &str, key: &str| {
        child(node, name).and_then(|child| child.attribute(key)).map(str::to_owned)
    };
    let disk = |target: &str| {
        let mut disks = devices.children().filter(|node| node.has_tag_name("disk"));
        disks
            .find(|disk| attribute(*disk, "target", "dev").as_deref() == Some(target))
            .and_then(|disk| attribute(disk, "source", "file"))
    };
    let port = |element: &str, kind: &str| {
        let mut ports = devices.children().filter(|node| node.has_tag_name(element));
        let port = ports.find(|port| child(*port, "target").unwrap().attributes().any(|a| a.value() == kind));
        attribute(port.unwrap(), "source", "path").unwrap()
    };
    let os = child(root, "os").unwrap();
    let kernel = text(os, "kernel").map(|kernel| DirectBoot {
        kernel,
        initrd: text(os, "initrd"),
        options: text(os, "cmdline").unwrap(),
    });
    let nic = child(devices, "interface").map(|nic| {
        let managed = attribute(nic, "target", "managed");
        let on = match (nic.attribute("type"), managed.as_deref()) {
            (Some("network"), None) => Wire::Network(attribute(nic, "source", "network").unwrap()),
            (Some("ethernet"), Some("no")) => Wire::Tap(attribute(nic, "target", "dev").unwrap()),
            other => panic!("{other:?}"),
        };
        Card { on, mac: attribute(nic, "mac", "address").unwrap() }
    });
    let mark = child(root, "metadata").and_then(|metadata| child(metadata, "guest")).unwrap();
    assert_eq!(mark.tag_name().namespace(), Some(crate::libvirt::mark::NAMESPACE));
    let cpu = child(root, "cpu").unwrap();
    Machine {
        domain: text(root, "name").unwrap(),
        uuid: text(root, "uuid").unwrap().parse().unwrap(),
        mark: Mark {
            instance: InstanceId::parse(mark.attribute("instance").unwrap()).unwrap(),
            guest: mark.attribute("id").unwrap().parse().unwrap(),
            memo: Some(mark.children().filter_map(|part| part.text()).collect())
                .filter(|memo: &String| !memo.is_empty()),
        },
        title: text(root, "title").unwrap(),
        description: text(root, "description").unwrap_or_default(),
        acceleration: if root.attribute("type") == Some("kvm") { Acceleration::Kvm } else { Acceleration::Tcg },
        machine: attribute(os, "type", "machine").unwrap(),
        emulated_model: text(cpu, "model").unwrap_or_default(),
        cpus: text(root, "vcpu").unwrap().parse().unwrap(),
        memory_kib: text(root, "memory").unwrap().parse().unwrap(),
        kernel,
        uefi: os.attribute("firmware") == Some("efi"),
        tpm: child(devices, "tpm").is_some(),
        disk: disk("vda"),
        seed: disk("vdb"),
        iso: disk("sda"),
        volumes: Vec::new(),
        nic,
        channel: port("channel", PORT_NAME),
        vnc: attribute(child(devices, "graphics").unwrap(), "listen", "socket").unwrap(),
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read_back(machine in machines()) {
        let text = definition(&machine).unwrap();
        // Each in its order, named and numbered as a guest finds it.
        let found = disks(&text, |path| machine.volumes.iter().find(|(_, known)| Path::new(known) == path).map(|(id, _)| *id));
        let found: Vec<_> = found.unwrap().into_iter().filter(|disk| disk.target.as_str() >= "vdc").collect();
        prop_assert_eq!(found.len(), machine.volumes.len());
        for ((place, disk), (volume, _)) in found.iter().enumerate().zip(&machine.volumes) {
            prop_assert_eq!(disk.target.clone(), targets().nth(place).unwrap());
            let number = format!("<serial>{}</serial>", serial(*volume));
            prop_assert!(text.contains(&number));
        }
        prop_assert_eq!(read(&text), Machine { volumes: Vec::new(), ..machine });
    }

    #[test]
    fn addresses_and_disks_are_read_from_anything(text in ".{0,200}") {
        hardware_addresses(&text);
        disks(&text, |_| None);
    }
}

#[test]
fn addresses_of_others_are_found() {
    let cards = "<domain><devices><interface><mac address='52:54:00:AB:00:01'/></interface></devices></domain>";
    assert_eq!(hardware_addresses(cards), ["52:54:00:ab:00:01"]);
}

#[test]
fn a_disk_gets_a_name_that_is_free() {
    let domain = "<domain><devices><disk><target dev='vda'/></disk><disk><source file='/v/1'/><target dev='vdc'/></disk>\
        <disk type='block'><source dev='/dev/sdx'/><target dev='vde'/></disk></devices></domain>";
    let id = VolumeId::new(Uuid::nil());
    let found = disks(domain, |path| (path == Path::new("/v/1")).then_some(id)).unwrap();
    assert_eq!(found.iter().map(|disk| disk.volume).collect::<Vec<_>>(), [None, Some(id), None]);
    assert_eq!(free_target(&found).as_deref(), Some("vdd"));
    let all: Vec<_> = targets().map(|target| VolumeDisk { volume: None, target }).collect();
    assert_eq!(free_target(&all), None);
    assert_eq!(disks("<domain/>", |_| None), None);
}

/// libvirt's own schema takes every shape of it. `virt-xml-validate` is libvirt's program for that.
#[test]
fn real_the_schema_of_libvirt_takes_it() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..40 {
        let machine = machines().new_tree(&mut runner).unwrap().current();
        // What a Name and a looked-at path cannot be, the schema refuses, too.
        let plain = |path: &Option<String>| path.as_ref().map(|_| "/var/lib/x <&>\"' y".to_owned());
        let kernel = machine.kernel.as_ref().map(|boot| DirectBoot {
            kernel: "/var/lib/kernel".to_owned(),
            initrd: plain(&boot.initrd),
            options: boot.options.clone(),
        });
        let (disk, seed, iso) = (plain(&machine.disk), plain(&machine.seed), plain(&machine.iso));
        let vnc = "/run/vnc".to_owned();
        let volumes = machine.volumes.iter().map(|(id, _)| (*id, "/var/lib/v.qcow2".to_owned())).collect();
        let machine = Machine { title: "web-1".to_owned(), kernel, disk, seed, iso, volumes, vnc, ..machine };
        let text = definition(&machine).unwrap();
        let mut validate = Command::new("virt-xml-validate")
            .args(["-", "domain"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        validate.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let said = validate.wait_with_output().unwrap();
        assert!(said.status.success(), "{}\n{text}", String::from_utf8_lossy(&said.stderr));
    }
}
