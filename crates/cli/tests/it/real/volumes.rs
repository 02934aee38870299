//! Volumes and full disks on a real libvirtd: from VM to VM, through kills, and a disk that runs full.

use super::Instance;
use super::ground::Ground;
use super::libvirtd::Daemon;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use std::path::PathBuf;

const MIB: u64 = 1 << 20;

impl Ground {
    fn volume(&self, name: &str) -> Value {
        self.instance.json(&["volume", "get", name])
    }
    /// Finds the volume's disk in a VM: `$disk`.
    fn find(&self, volume: &str) -> String {
        let serial = self.volume(volume)["serial"].as_str().unwrap().to_owned();
        format!("for at in /sys/block/vd*; do [ \"$(cat $at/serial)\" = {serial} ] && disk=${{at##*/}}; done")
    }
    /// What a shell in the VM says with the volume's disk as `$disk`; a guest takes a moment to see one that was
    /// put in.
    fn at(&self, vm: &str, volume: &str, doing: &str) -> String {
        let find = self.find(volume);
        let looks = format!("for look in $(seq 100); do {find}; [ -n \"$disk\" ] && break; sleep 0.2; done; {doing}");
        self.fine(&["vm", "exec", vm, "--", "sh", "-c", &looks]).trim().to_owned()
    }
    fn has_not(&self, vm: &str, volume: &str) {
        let look = format!("{}; echo none$disk", self.find(volume));
        assert_eq!(self.fine(&["vm", "exec", vm, "--", "sh", "-c", &look]).trim(), "none");
    }
    fn bytes_in(&self, vm: &str, volume: &str) -> u64 {
        self.at(vm, volume, "cat /sys/block/$disk/size").parse::<u64>().unwrap() * 512
    }
    fn volume_is_refused(&self, arguments: &[&str], code: &str) {
        let said = self.instance.perigee(&[&["volume"], arguments].concat());
        assert!(said.code != 0 && said.err.contains(code), "{arguments:?}: {} {}", said.code, said.err);
    }
    fn left(&self) -> usize {
        std::fs::read_dir(self.instance.path().join("vms/disks")).unwrap().count()
    }
}

#[test]
fn real_a_volume_goes_from_vm_to_vm_and_grows_under_one_that_runs() {
    let ground = Ground::new();
    ground.fine(&["vm", "create", "db", "--memory", "256MiB", "-q"]);
    let planned = ground.fine(&["volume", "create", "data", "--size", "16MiB", "--dry-run"]);
    assert!(planned.contains("data of 16MiB would be made on "), "{planned}");
    ground.fine(&["volume", "create", "data", "--size", "16MiB", "--label", "team=db"]);
    ground.volume_is_refused(&["create", "data", "--size", "16MiB"], "PRG-4001");
    ground.fine(&["volume", "attach", "data", "db"]);
    assert_eq!(
        (ground.volume("data")["status"].as_str(), ground.volume("data")["vm"].as_str()),
        (Some("attached"), Some("db"))
    );
    ground.at("db", "data", "echo -n first > /dev/$disk && sync");
    ground.volume_is_refused(&["delete", "data", "--yes"], "PRG-4017");
    ground.volume_is_refused(&["resize", "data", "8MiB"], "PRG-1002");
    let snapshot = ground.instance.perigee(&["vm", "snapshot", "create", "db", "a"]);
    assert!(snapshot.code != 0, "it has no disk, and a volume");

    ground.fine(&["volume", "resize", "data", "32MiB"]);
    assert_eq!(ground.bytes_in("db", "data"), 32 * MIB, "the guest sees it at once");
    // Its QEMU ends, and the next one has it by its definition.
    ground.fine(&["vm", "restart", "db", "--force"]);
    ground.until("db", "running");
    assert_eq!(ground.at("db", "data", "head -c 5 /dev/$disk"), "first");
    ground.fine(&["volume", "detach", "data"]);
    ground.has_not("db", "data");
    ground.fine(&["volume", "attach", "data", "db"]);
    ground.fine(&["vm", "stop", "db", "--force"]);
    ground.fine(&["vm", "delete", "db", "--yes"]);
    assert_eq!(ground.volume("data")["status"], "detached", "it outlives its VM");

    ground.fine(&["volume", "resize", "data", "64MiB"]);
    ground.fine(&["vm", "create", "web", "--memory", "256MiB", "-q"]);
    ground.fine(&["vm", "stop", "web", "--force"]);
    ground.fine(&["volume", "attach", "data", "web"]);
    ground.fine(&["vm", "start", "web"]);
    ground.until("web", "running");
    assert_eq!(
        (ground.at("web", "data", "head -c 5 /dev/$disk"), ground.bytes_in("web", "data")),
        ("first".into(), 64 * MIB)
    );
    ground.fine(&["volume", "detach", "data"]);
    ground.fine(&["volume", "delete", "data", "--yes"]);
    ground.volume_is_refused(&["get", "data"], "PRG-3016");
    ground.fine(&["vm", "delete", "web", "--yes"]);
    assert_eq!(ground.daemon.virsh(&["list", "--all", "--name"]), "");
    assert_eq!((ground.left(), ground.daemon.remains()), (0, vec![]), "nothing stays behind");
}

#[test]
fn real_volumes_come_through_kills() {
    let mut ground = Ground::new();
    ground.fine(&["vm", "create", "db", "--memory", "256MiB", "-q"]);
    for (place, killed) in ["perigee-agent", "perigeed", "libvirtd"].into_iter().enumerate() {
        let name = format!("v{place}");
        ground.fine(&["volume", "create", &name, "--size", "8MiB"]);
        let larger = format!("{}MiB", 16);
        for doing in [
            &["attach", &name, "db", "--no-wait"][..],
            &["resize", &name, &larger, "--no-wait"][..],
            &["detach", &name, "--no-wait"][..],
        ] {
            let begun = ground.instance.perigee(&[&["volume"], doing].concat());
            assert!(begun.code == 0, "{killed} {doing:?}: {}", begun.err);
            match killed {
                "libvirtd" => ground.daemon.restart(),
                program => {
                    ground.instance.kill(program);
                    ground.up();
                }
            }
            let task = begun.out.trim().to_owned();
            ground.instance.until(&format!("an end of {doing:?} in which {killed} was killed"), || {
                (ground.instance.json(&["task", "get", &task])["state"] == "succeeded").then_some(())
            });
        }
        ground.until("db", "running");
        let volume = ground.volume(&name);
        assert_eq!((&volume["status"], &volume["bytes"]), (&"detached".into(), &(16 * MIB).into()), "{killed}");
        ground.has_not("db", &name);
        ground.fine(&["volume", "delete", &name, "--yes"]);
    }
    ground.fine(&["vm", "delete", "db", "--yes"]);
    assert_eq!((ground.left(), ground.daemon.remains()), (0, vec![]));
}

/// Disks of VMs on a file system of their own in a name space of its own: what is full is no disk of others.
fn on_a_small_disk(size: &str, reserve: &str) -> (Ground, PathBuf) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let instance = Instance::empty();
    let vms = instance.path().join("vms");
    std::fs::create_dir(&vms).unwrap();
    let options = format!("size={size},mode=711");
    mount(Some("tmpfs"), &vms, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
    let ground = Ground { daemon: Daemon::start(), instance };
    ground.up_with(&[("PERIGEE_DISK_RESERVE", reserve)]);
    ground.instance.base();
    (ground, vms)
}

#[test]
fn real_a_backup_needs_room_on_its_host_and_loses_nothing_without() {
    let (ground, vms) = on_a_small_disk("96m", "16MiB");
    ground.fine(&["vm", "create", "db", "--memory", "256MiB", "--disk", "48MiB", "-q"]);
    let shell = |line: &str| ground.fine(&["vm", "exec", "db", "--", "sh", "-c", line]);
    shell("dd if=/dev/urandom of=/dev/vda bs=1M count=48 conv=fsync 2>/dev/null");
    let ballast = vms.join("ballast");
    std::fs::write(&ballast, vec![7; 36 << 20]).unwrap();
    let refused = ground.instance.perigee(&["vm", "backup", "create", "db", "one"]);
    assert!(refused.code != 0 && refused.err.contains("PRG-5003"), "{}", refused.err);
    assert_eq!(ground.vm("db").unwrap()["status"], "running", "it goes on");

    // Room enough to begin; what the guest writes over meanwhile takes all of it.
    std::fs::write(&ballast, vec![7; 24 << 20]).unwrap();
    let writing = ground.instance.start(&[
        "vm",
        "exec",
        "db",
        "--",
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6; do dd if=/dev/urandom of=/dev/vda bs=1M count=48 conv=fsync 2>/dev/null || echo lost; done; sha256sum < /dev/vda",
    ]);
    let mut whole = Vec::new();
    for name in ["one", "two", "three"] {
        if ground.instance.perigee(&["vm", "backup", "create", "db", name]).code == 0 {
            whole.push(name);
        }
    }
    let said = String::from_utf8(writing.wait_with_output().unwrap().stdout).unwrap();
    assert!(!said.contains("lost"), "no write failed: {said}");
    assert!(!whole.is_empty(), "none was made");
    for name in whole {
        ground.fine(&["vm", "backup", "verify", name]);
    }
    std::fs::remove_file(&ballast).unwrap();
    ground.until("db", "running");
    assert_eq!(shell("sha256sum < /dev/vda"), said, "every byte is as it was written last");
    let last = ground.instance.json(&["vm", "backup", "create", "db", "last"]);
    ground.fine(&["vm", "delete", "db", "--yes"]);
    std::fs::write(&ballast, vec![7; 84 << 20]).unwrap();
    let full = ground.instance.perigee(&["vm", "backup", "restore", "last"]);
    assert!(full.code != 0 && full.err.contains("PRG-5003"), "{}", full.err);
    ground.instance.until("nothing that is left of it", || ground.vm("db").is_none().then_some(()));
    std::fs::remove_file(&ballast).unwrap();
    ground.fine(&["vm", "backup", "restore", last["name"].as_str().unwrap()]);
    assert_eq!(shell("sha256sum < /dev/vda"), said);
    ground.fine(&["vm", "delete", "db", "--yes"]);
    ground.fine(&["down"]);
    umount2(&vms, MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn real_a_vm_stands_while_its_hosts_disk_is_full_and_goes_on_by_itself() {
    let (ground, vms) = on_a_small_disk("64m", "8MiB");
    ground.fine(&["vm", "create", "db", "--memory", "256MiB", "--disk", "256MiB", "-q"]);
    let writing = ground.instance.start(&[
        "vm",
        "exec",
        "db",
        "--",
        "sh",
        "-c",
        "dd if=/dev/urandom of=/dev/vda bs=1M count=96 conv=fsync 2>&1; echo end=$?",
    ]);
    let ballast = vms.join("ballast");
    std::fs::write(&ballast, vec![7; 24 << 20]).unwrap();
    let stands = ground.instance.until("a VM that stands", || ground.vm("db").filter(|vm| vm["problem"].is_object()));
    assert_eq!((&stands["status"], &stands["problem"]["code"]), (&"running".into(), &"PRG-5003".into()), "{stands}");
    let note = stands["note"].as_str().unwrap();
    assert!(note.contains("its host's disk is full: free ") && note.contains(vms.to_str().unwrap()), "{note}");
    assert!(ground.daemon.virsh(&["list", "--all"]).contains("paused"), "its QEMU stopped it");
    // New disks are refused before they make it worse.
    let refused = ground.instance.perigee(&["volume", "create", "data", "--size", "1MiB"]);
    assert!(refused.code != 0 && refused.err.contains("PRG-5003"), "{}", refused.err);
    ground.instance.until("its metric", || {
        (ground.instance.json(&["metrics", "query", "perigee_guest_no_space"])[0]["value"] == "1").then_some(())
    });

    std::fs::remove_file(&ballast).unwrap();
    // The rest does not fit either: it stands again, and again there is room.
    let mount_again = MsFlags::MS_REMOUNT;
    mount(Some("tmpfs"), &vms, Some("tmpfs"), mount_again, Some("size=256m,mode=711")).unwrap();
    ground.instance.until("a VM that goes on", || ground.vm("db").filter(|vm| vm["problem"].is_null()));
    let said = String::from_utf8(writing.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.contains("96+0 records out") && said.contains("end=0"), "nothing was lost: {said}");
    let events = ground.instance.json(&["event", "list", "--limit", "200"]);
    for verb in ["guest.no-space", "guest.space"] {
        assert!(events.as_array().unwrap().iter().any(|event| event["verb"] == verb), "{verb}: {events}");
    }
    ground.fine(&["volume", "create", "data", "--size", "1MiB"]);
    ground.fine(&["volume", "delete", "data", "--yes"]);
    ground.fine(&["vm", "delete", "db", "--yes"]);
    assert_eq!(ground.daemon.virsh(&["list", "--all", "--name"]), "");
    ground.fine(&["down"]);
    umount2(&vms, MntFlags::MNT_DETACH).unwrap();
}

/// What a snapshot lets go of is room in the VM's own disk: its host's is as full as before.
#[test]
fn real_a_vm_that_stands_goes_on_when_its_snapshot_is_deleted_and_gets_none_before() {
    let (ground, vms) = on_a_small_disk("80m", "8MiB");
    ground.fine(&["vm", "create", "db", "--memory", "256MiB", "--disk", "64MiB", "-q"]);
    let write = "dd if=/dev/urandom of=/dev/vda bs=1M count=24 conv=fsync 2>&1; echo end=$?";
    let shell = ["vm", "exec", "db", "--", "sh", "-c"];
    ground.fine(&[&shell[..], &[write]].concat());
    ground.fine(&["vm", "snapshot", "create", "db", "old"]);
    let free = nix::sys::statvfs::statvfs(&vms).unwrap();
    let free = free.blocks_available() * free.fragment_size() / MIB;
    std::fs::write(vms.join("ballast"), vec![7; usize::try_from((free - 8) * MIB).unwrap()]).unwrap();
    let writing = ground.instance.start(&[&shell[..], &[write]].concat());
    let stands = || ground.vm("db").filter(|vm| vm["problem"]["code"] == "PRG-5003");
    ground.instance.until("a VM that stands", stands);

    let refused = ground.instance.perigee(&["vm", "snapshot", "create", "db", "new"]);
    assert!(refused.code != 0 && refused.err.contains("PRG-5003"), "{}", refused.err);
    let refused = ground.instance.perigee(&["vm", "backup", "create", "db", "new"]);
    assert!(refused.code != 0 && refused.err.contains("PRG-5003"), "{}", refused.err);
    assert!(stands().is_some());
    ground.fine(&["vm", "snapshot", "delete", "db", "old"]);
    ground.instance.until("a VM that goes on", || ground.vm("db").filter(|vm| vm["problem"].is_null()));
    let said = String::from_utf8(writing.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.contains("24+0 records out") && said.contains("end=0"), "nothing was lost: {said}");
    ground.fine(&["vm", "delete", "db", "--yes"]);
    ground.fine(&["down"]);
    umount2(&vms, MntFlags::MNT_DETACH).unwrap();
}
