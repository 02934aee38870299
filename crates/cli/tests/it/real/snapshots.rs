//! Snapshots of VMs on a real libvirtd: put back to a disk and to a memory, refused, cut short.

use super::ground::Ground;
use serde_json::Value;

impl Ground {
    fn snapshots(&self) -> Vec<Value> {
        self.instance.json(&["vm", "snapshot", "list", "db"]).as_array().unwrap().clone()
    }
    fn refused(&self, arguments: &[&str], code: &str) {
        let said = self.instance.perigee(&[&["vm", "snapshot"], arguments].concat());
        assert!(said.code != 0 && said.err.contains(code), "{arguments:?}: {} {}", said.code, said.err);
    }
    fn write(&self, text: &str) {
        self.fine(&[
            "vm",
            "exec",
            "db",
            "--",
            "sh",
            "-c",
            &format!("echo {text} > /dev/vda; sync; echo {text} > /tmp/f"),
        ]);
    }
    /// What is on its disk, and in its memory.
    fn read(&self) -> (String, String) {
        let read = "head -c 5 /dev/vda; echo; cat /tmp/f 2>/dev/null; true";
        let said = self.fine(&["vm", "exec", "db", "--", "sh", "-c", read]);
        let mut lines = said.lines().map(str::to_owned);
        (lines.next().unwrap_or_default(), lines.next().unwrap_or_default())
    }
    /// Names of the snapshots that are in its disk, as QEMU tells them.
    fn inside(&self) -> usize {
        let info =
            std::process::Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(self.disk()).output();
        let info: Value = serde_json::from_slice(&info.unwrap().stdout).unwrap();
        info["snapshots"].as_array().map_or(0, Vec::len)
    }
}

#[test]
fn real_a_vm_is_put_back_to_its_disk_and_to_its_memory() {
    let ground = Ground::new();
    ground.fine(&["vm", "create", "db", "--memory", "256MiB", "--disk", "1GiB", "-q"]);
    ground.write("first");
    ground.fine(&["vm", "snapshot", "create", "db", "disk", "--description", "a <b> & c"]);
    let warm = ground.instance.json(&["vm", "snapshot", "create", "db", "warm", "--memory"]);
    assert_eq!((&warm["status"], &warm["memory"]), (&"ready".into(), &true.into()));
    assert!(warm["memory_bytes"].as_u64() > Some(1 << 20), "{warm}");
    ground.refused(&["create", "db", "warm"], "PRG-4001");
    ground.refused(&["create", "db", "No Name"], "PRG-1002");
    ground.refused(&["create", "nobody", "warm"], "PRG-3002");
    ground.refused(&["revert", "db", "cold", "--yes"], "PRG-3015");

    ground.write("other");
    ground.fine(&["vm", "snapshot", "revert", "db", "warm", "--yes"]);
    ground.until("db", "running");
    assert_eq!(ground.read(), ("first".into(), "first".into()), "disk and memory");
    ground.write("other");
    ground.fine(&["vm", "snapshot", "revert", "db", "disk", "--yes"]);
    assert_eq!(ground.vm("db").unwrap()["status"], "running", "it is up again when the command ends");
    assert_eq!(ground.read(), ("first".into(), String::new()), "the disk, and a memory of its own");

    ground.write("other");
    ground.fine(&["vm", "stop", "db", "--force"]);
    ground.refused(&["create", "db", "cold", "--memory"], "PRG-4002");
    ground.fine(&["vm", "snapshot", "create", "db", "cold"]);
    ground.fine(&["vm", "snapshot", "revert", "db", "disk", "--yes"]);
    ground.until("db", "stopped");
    ground.fine(&["vm", "snapshot", "revert", "db", "warm", "--yes"]);
    ground.until("db", "running");
    assert_eq!(ground.read(), ("first".into(), "first".into()), "from where it was off");

    let names: Vec<Value> = ground.snapshots().iter().map(|snapshot| snapshot["name"].clone()).collect();
    assert_eq!((names, ground.inside()), (vec!["disk".into(), "warm".into(), "cold".into()], 3));
    ground.fine(&["vm", "snapshot", "delete", "db", "warm"]);
    assert_eq!((ground.snapshots().len(), ground.inside()), (2, 2));
    ground.leaves_nothing();
}

#[test]
fn real_a_snapshot_that_was_cut_short_is_whole_or_gone() {
    let mut ground = Ground::new();
    ground.fine(&["vm", "create", "db", "--memory", "256MiB", "--disk", "1GiB", "-q"]);
    ground.write("first");
    let settled = |ground: &Ground, what: &str| {
        ground.instance.until(what, || {
            let open = ground.instance.json(&["task", "list", "--limit", "5"]);
            let is_open = |task: &Value| ["pending", "running"].contains(&task["state"].as_str().unwrap_or_default());
            (!open.as_array()?.iter().any(is_open)).then_some(())
        });
        let ready = ground.snapshots().iter().filter(|snapshot| snapshot["status"] == "ready").count();
        assert_eq!((ground.snapshots().len(), ground.inside()), (ready, ready), "{what}");
        ready
    };
    // The agent, then the control plane, then libvirtd, killed in the middle of making one and of deleting it.
    for (place, killed) in ["perigee-agent", "perigeed", "libvirtd"].into_iter().enumerate() {
        let name = format!("cut-{place}");
        for doing in [&["create", "db", &name, "--memory", "--no-wait"][..], &["delete", "db", &name, "--no-wait"][..]]
        {
            let begun = ground.instance.perigee(&[&["vm", "snapshot"], doing].concat());
            assert!(begun.code == 0, "{killed} {doing:?}: {}", begun.err);
            match killed {
                "libvirtd" => ground.daemon.restart(),
                program => {
                    ground.instance.kill(program);
                    ground.up();
                }
            }
            ground.until("db", "running");
            let whole = settled(&ground, &format!("an end of what {killed} was killed in"));
            assert_eq!(whole, usize::from(doing[0] == "create"), "{killed} {doing:?}: the work goes on");
        }
    }
    ground.write("other");
    assert_eq!(ground.read().0, "other", "the guest is none the worse");
    ground.leaves_nothing();
}
