//! Backups of VMs on a real libvirtd: carried away whole and in part, encrypted, damaged, cut short, and
//! brought back.

use super::ground::Ground;
use super::images::disk_that_says;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;

impl Ground {
    fn backup(&self, more: &[&str]) -> Value {
        self.instance.json(&[&["vm", "backup", "create", "db"], more].concat())
    }
    fn backups(&self) -> Vec<Value> {
        self.instance.json(&["vm", "backup", "list"]).as_array().unwrap().clone()
    }
    fn shell(&self, command: &str) -> String {
        self.fine(&["vm", "exec", "db", "--", "sh", "-c", command]).trim().to_owned()
    }
    /// Puts a word at this MiB of its disk.
    fn put(&self, word: &str, at: u64) {
        self.shell(&format!("echo {word} | dd of=/dev/vda bs=1M seek={at} conv=notrunc,fsync 2>/dev/null"));
    }
    fn sum(&self) -> String {
        self.shell("sha256sum < /dev/vda")
    }
    fn refused_backup(&self, arguments: &[&str], code: &str) {
        let said = self.instance.perigee(&[&["vm", "backup"], arguments].concat());
        assert!(said.code != 0 && said.err.contains(code), "{arguments:?}: {} {}", said.code, said.err);
    }
    /// The files of chunks: of those that are encrypted, or of the others.
    fn chunks(&self, sealed: bool) -> Vec<PathBuf> {
        let tree = self.instance.path().join("backups").join(if sealed { "sealed" } else { "plain" });
        let shards = fs::read_dir(tree).unwrap().flatten().filter_map(|shard| fs::read_dir(shard.path()).ok());
        shards.flat_map(|shard| shard.flatten().map(|file| file.path())).collect()
    }
    /// Nothing of a backup's work is left beside the disk.
    fn is_tidy(&self) {
        let folder = self.disk().parent().unwrap().to_owned();
        let left: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(|file| file.file_name()).collect();
        assert!(!left.iter().any(|name| name != "disk.qcow2" && name != "seed.img"), "{left:?}");
    }
}

fn of(backup: &Value, field: &str) -> u64 {
    backup[field].as_u64().unwrap_or_else(|| panic!("{field} of {backup}"))
}

fn holds(file: &Path, word: &str) -> bool {
    fs::read(file).unwrap().windows(word.len()).any(|window| window == word.as_bytes())
}

#[test]
fn real_a_vm_is_backed_up_destroyed_and_comes_back() {
    let ground = Ground::new();
    ground.fine(&["vm", "create", "db", "--memory", "256MiB", "--disk", "64MiB", "--label", "team=web", "-q"]);
    ground.put("first", 0);
    ground.put("second", 33);
    let full = ground.backup(&["full", "--description", "a <b> & c"]);
    assert_eq!((&full["status"], of(&full, "disk_bytes")), (&"ready".into(), 64 * MIB), "{full}");
    assert_eq!((of(&full, "read_bytes"), of(&full, "new_bytes")), (8 * MIB, 8 * MIB), "what is not zeros: {full}");
    assert!(full.get("since_id").is_none() && of(&full, "kept_bytes") < MIB, "packed: {full}");
    assert_eq!(full["quiesced"], false, "nobody in it could bring its file systems to rest");

    ground.put("third", 50);
    let sum = ground.sum();
    let part = ground.backup(&[]);
    assert_eq!((&part["since_id"], of(&part, "read_bytes")), (&full["id"], 4 * MIB), "what was written: {part}");
    let name = part["name"].as_str().unwrap();
    assert!(name.starts_with("db-2") && name.len() == "db-20261122-051209".len(), "{name}");
    let none = ground.backup(&["none"]);
    assert_eq!((&none["since_id"], of(&none, "read_bytes")), (&part["id"], 0), "{none}");

    // The bitmap lives in the disk: stopping and starting loses nothing of it.
    ground.fine(&["vm", "stop", "db", "--force"]);
    let off = ground.backup(&["off"]);
    assert!(off.get("since_id").is_none() && of(&off, "new_bytes") == 0, "of one that is off all is read: {off}");
    ground.fine(&["vm", "start", "db"]);
    ground.put("fourth", 60);
    let later = ground.backup(&["later"]);
    assert_eq!((&later["since_id"], of(&later, "read_bytes")), (&none["id"], 4 * MIB), "{later}");
    ground.refused_backup(&["create", "db", "later"], "PRG-4001");
    ground.refused_backup(&["create", "nobody"], "PRG-3002");
    ground.refused_backup(&["restore", "later"], "PRG-4001");
    ground.refused_backup(&["restore", "nothing"], "PRG-3020");
    ground.is_tidy();

    ground.leaves_nothing();
    assert_eq!(ground.backups().len(), 5, "backups outlive their VM");
    let back = ground.instance.json(&["vm", "backup", "restore", name]);
    assert_eq!((&back["name"], &back["labels"]["team"]), (&"db".into(), &"web".into()), "{back}");
    assert_eq!(back["restored_from"], part["id"]);
    assert_eq!(ground.sum(), sum, "every byte");
    ground.put("fifth", 5);
    let after = ground.backup(&["after"]);
    assert!(after.get("since_id").is_none(), "it is another VM: {after}");
    assert_eq!(of(&after, "new_bytes"), 4 * MIB, "what both have is kept once: {after}");
    ground.fine(&["vm", "backup", "verify", "after"]);
    for name in ["full", "none", "off", "later", "after"] {
        ground.fine(&["vm", "backup", "delete", name, "--yes"]);
    }
    assert_eq!(ground.backups().len(), 1);
    ground.is_tidy();
    ground.leaves_nothing();
}

#[test]
fn real_what_is_remembered_of_a_disk_is_never_wrong() {
    let ground = Ground::new();
    ground.fine(&["vm", "create", "db", "--memory", "256MiB", "--disk", "64MiB", "--restart", "always", "-q"]);
    ground.put("first", 0);
    ground.fine(&["vm", "snapshot", "create", "db", "before"]);
    ground.backup(&["one"]);
    ground.put("second", 33);

    // Back at the snapshot, the disk is another one than QEMU remembers.
    ground.fine(&["vm", "snapshot", "revert", "db", "before", "--yes"]);
    ground.until("db", "running");
    let sum = ground.sum();
    let reverted = ground.backup(&["reverted"]);
    assert!(reverted.get("since_id").is_none(), "{reverted}");

    // A QEMU that was killed has not written down what it remembers.
    ground.put("third", 20);
    let domain = ground.daemon.virsh(&["list", "--name"]);
    let pid = ground.daemon.guest(domain.trim()).expect("its QEMU runs").to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    ground.instance.until("another life of db", || {
        let now = ground.daemon.guest(domain.trim())?.to_string();
        (now != pid && ground.vm("db")?["status"] == "running").then_some(())
    });
    let later = ground.sum();
    let killed = ground.backup(&["killed"]);
    assert!(killed.get("since_id").is_none(), "{killed}");

    // Encrypted ones are of their own, and tell nothing.
    let sealed = ground.backup(&["sealed", "--encrypt"]);
    assert!(sealed.get("since_id").is_none() && of(&sealed, "new_bytes") > 0, "{sealed}");
    assert!(!ground.chunks(true).is_empty() && !ground.chunks(true).iter().any(|file| holds(file, "third")));
    ground.fine(&["vm", "backup", "verify", "sealed"]);
    let open = ground.backup(&["open"]);
    assert_eq!(
        (&open["since_id"], of(&open, "read_bytes")),
        (&killed["id"], 0),
        "they do not disturb each other: {open}"
    );

    // A flipped byte is found, and never becomes a disk.
    let chunk = ground
        .chunks(false)
        .into_iter()
        .find(|file| holds(file, "third"))
        .expect("small chunks are packed as they are");
    let mut bytes = fs::read(&chunk).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&chunk, bytes).unwrap();
    ground.refused_backup(&["restore", "killed", "--name", "other"], "PRG-7020");
    ground.refused_backup(&["verify", "killed"], "PRG-7020");
    assert_eq!(ground.instance.json(&["vm", "backup", "get", "killed"])["status"], "damaged");
    ground.leaves_nothing();
    for (name, expected) in [("reverted", sum), ("sealed", later)] {
        ground.fine(&["vm", "backup", "restore", name, "-q"]);
        assert_eq!(ground.sum(), expected, "{name}");
        ground.leaves_nothing();
    }
}

#[test]
fn real_a_backup_that_was_cut_short_is_whole_or_gone() {
    let mut ground = Ground::new();
    ground.fine(&["vm", "create", "db", "--memory", "256MiB", "--disk", "64MiB", "-q"]);
    ground.put("first", 0);
    for (place, killed) in ["perigee-agent", "perigeed", "libvirtd"].into_iter().enumerate() {
        ground.put(killed, u64::try_from(place).unwrap() * 9 + 5);
        let name = format!("cut-{place}");
        ground.fine(&["vm", "backup", "create", "db", &name, "--no-wait"]);
        match killed {
            "libvirtd" => ground.daemon.restart(),
            program => {
                ground.instance.kill(program);
                ground.up();
            }
        }
        ground.until("db", "running");
        let whole = ground.instance.until(&format!("the backup that {killed} was killed in"), || {
            ground.backups().into_iter().find(|backup| backup["name"] == name.as_str() && backup["status"] == "ready")
        });
        ground.fine(&["vm", "backup", "verify", whole["name"].as_str().unwrap()]);
    }
    ground.is_tidy();
    let sum = ground.sum();
    ground.leaves_nothing();

    // Cancelled while its disk is read.
    ground.fine(&["vm", "create", "large", "--memory", "256MiB", "--disk", "400MiB", "-q"]);
    let fill = "dd if=/dev/urandom of=/dev/vda bs=4M count=100 conv=fsync 2>/dev/null";
    ground.fine(&["vm", "exec", "large", "--", "sh", "-c", fill]);
    let task = ground.fine(&["vm", "backup", "create", "large", "never", "--no-wait"]);
    let task = task.trim();
    ground.instance.until("its disk is read", || {
        let said = ground.instance.json(&["task", "get", task]);
        said["note"].as_str().is_some_and(|note| note.contains("reading its disk")).then_some(())
    });
    ground.fine(&["task", "cancel", task]);
    let end = ground.instance.until("its end", || {
        let said = ground.instance.json(&["task", "get", task]);
        (said["state"] != "running").then(|| said["state"].clone())
    });
    assert_eq!(end, "cancelled");
    assert!(!ground.backups().iter().any(|backup| backup["name"] == "never"));
    let domain = ground.daemon.virsh(&["list", "--name"]);
    assert_eq!(ground.daemon.virsh(&["checkpoint-list", "--name", domain.trim()]).trim(), "", "nothing is remembered");
    ground.fine(&["vm", "delete", "large", "--yes"]);

    // The agent killed while a disk comes back.
    ground.fine(&["vm", "backup", "restore", "cut-2", "--no-wait"]);
    ground.instance.kill("perigee-agent");
    ground.up();
    ground.until("db", "running");
    assert_eq!(ground.sum(), sum);
    ground.is_tidy();
    ground.leaves_nothing();
}

#[test]
fn real_a_backup_is_booted_to_see_whether_it_does() {
    let ground = Ground::new();
    ground.fine(&["vm", "create", "db", "--memory", "256MiB", "--disk", "64MiB", "-q"]);
    ground.put("first", 0);
    ground.backup(&["spoken"]);
    let sum = ground.sum();
    let spoken = ground.instance.json(&["vm", "backup", "verify", "spoken", "--boot"]);
    assert_eq!((&spoken["booted_by"], &spoken["status"]), (&"guest_agent".into(), &"ready".into()), "{spoken}");
    assert_eq!(ground.sum(), sum, "the machine itself goes on");
    let domains = ground.daemon.virsh(&["list", "--all", "--name"]);
    assert_eq!(domains.lines().filter(|line| !line.is_empty()).count(), 1, "nothing of the trial is left: {domains}");
    ground.leaves_nothing();

    let boots = |name: &str, words: &str| {
        let file = ground.instance.path().join(name);
        fs::write(&file, disk_that_says(words)).unwrap();
        ground.fine(&["image", "import", name, "--file", file.to_str().unwrap(), "--format", "raw"]);
        ground.fine(&["vm", "create", "db", "--image", name, "--memory", "64MiB", "--disk", "16MiB", "-q"]);
        ground.backup(&[name]);
        ground.leaves_nothing();
    };
    boots("prompting", "\ndb login: ");
    let prompting = ground.instance.json(&["vm", "backup", "verify", "prompting", "--boot"]);
    assert_eq!(prompting["booted_by"], "login_prompt", "{prompting}");

    // One that nobody waits for any more, also where the control plane was killed meanwhile.
    boots("mute", "no system here");
    let task = ground.fine(&["vm", "backup", "verify", "mute", "--boot", "--no-wait"]);
    let trial = || {
        let all = ground.instance.json(&["vm", "list"]);
        all.as_array().unwrap().iter().find(|vm| vm["name"].as_str().unwrap().starts_with("verify-")).cloned()
    };
    let first = ground.instance.until("its trial", || trial().filter(|vm| vm["status"] == "running"));
    ground.instance.kill("perigeed");
    ground.up();
    let noted = ground.instance.until("the trial watched again", || {
        let task = ground.instance.json(&["task", "get", task.trim()]);
        task["note"].as_str().filter(|note| note.contains("sign of life")).map(str::to_owned)
    });
    assert!(noted.contains(first["name"].as_str().unwrap()), "the same machine: {noted}");
    assert_eq!(trial().unwrap()["id"], first["id"]);
    ground.fine(&["task", "cancel", task.trim()]);
    ground.instance.until("nothing of the trial", || {
        let none = trial().is_none() && ground.daemon.virsh(&["list", "--all", "--name"]).trim().is_empty();
        none.then_some(())
    });
    assert_eq!(ground.instance.json(&["vm", "backup", "get", "mute"])["status"], "ready", "nothing was found out");
}
