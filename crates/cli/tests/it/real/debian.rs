//! Debian, from its packages to a shell over ssh.

use super::Instance;
use super::ground::Ground;
use super::instance::Said;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An emulated machine's first boot, with cloud-init, beside other work.
const BOOTS_WITHIN: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(500);

fn key(folder: &Path) {
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join("key")).status();
    assert!(made.is_ok_and(|status| status.success()), "ssh-keygen comes from openssh-client (scripts/setup)");
}

/// Somebody in the network of the guests.
struct Visitor<'a> {
    ground: &'a Ground,
    until: Instant,
}

impl Visitor<'_> {
    fn tries<T>(&self, what: &str, mut has: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(found) = has() {
                return found;
            }
            assert!(Instant::now() < self.until, "{what} did not come to be");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn address(&self, vm: &str) -> String {
        self.tries("its address", || {
            let vm: Value = self.ground.vm(vm)?;
            let addresses = vm["addresses"].as_array()?;
            addresses.iter().filter_map(Value::as_str).find(|text| text.contains('.')).map(str::to_owned)
        })
    }

    fn ssh(&self, address: &str, script: &str) -> Said {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.ground.daemon.pid().to_string(), "ssh", "-i"]);
        command.arg(self.ground.instance.path().join("key"));
        for option in ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=5"]
        {
            command.args(["-o", option]);
        }
        command.args(["-q", &format!("debian@{address}"), script]).stdin(Stdio::null());
        Said::from(command.output().unwrap())
    }

    /// What a shell in it says, as soon as it lets somebody in.
    fn says(&self, address: &str, script: &str) -> String {
        self.tries("a shell over ssh", || Some(self.ssh(address, script)).filter(|said| said.code == 0)).out
    }
}

fn lives(ground: &Ground, name: &str, firmware: &str) {
    let key = format!("@{}", ground.instance.path().join("key.pub").display());
    let size = ["--memory", "768MiB", "--cpus", "2", "--disk", "5GiB", "--network", "lan"];
    let rest = ["--ssh-key", &key, "--firmware", firmware, "-q"];
    ground.fine(&[&["vm", "create", name, "--image", "debian"], &size[..], &rest[..]].concat());
    let visitor = Visitor { ground, until: Instant::now() + BOOTS_WITHIN };
    let address = visitor.address(name);
    assert_eq!(visitor.says(&address, "hostname"), format!("{name}\n"));
    // The root grows with the disk; who is let in may do everything; names are asked of the network's server.
    let told = visitor.says(
        &address,
        "cloud-init status --wait >/dev/null; df --output=size -B1 / | tail -1; sudo id -un; readlink /etc/resolv.conf",
    );
    let lines: Vec<&str> = told.lines().map(str::trim).collect();
    let bytes: u64 = lines[0].parse().unwrap();
    assert!(bytes > 4 << 30, "{told}");
    assert_eq!(lines[1..], ["root", "../run/systemd/resolve/stub-resolv.conf"]);
    let domain = ground.daemon.virsh(&["list", "--name"]);
    let domain = domain.lines().find(|domain| domain.contains(name)).unwrap();
    visitor.tries("its guest agent", || {
        let asked = ground.daemon.try_virsh(&["qemu-agent-command", domain, r#"{"execute":"guest-ping"}"#]);
        asked.filter(|answer| answer.contains("return"))
    });
}

/// It turns itself off when its power button is pressed, and is as it was when it is up again.
fn lives_on(ground: &Ground, name: &str) {
    let visitor = Visitor { ground, until: Instant::now() + BOOTS_WITHIN };
    let address = visitor.address(name);
    visitor.says(&address, "echo kept > kept; sync");
    ground.fine(&["vm", "stop", name, "--grace", "120s"]);
    ground.fine(&["vm", "start", name]);
    let visitor = Visitor { ground, until: Instant::now() + BOOTS_WITHIN };
    let address = visitor.address(name);
    assert_eq!(visitor.says(&address, "cat kept"), "kept\n");
    ground.fine(&["vm", "delete", name, "--yes"]);
}

/// What was written over ssh is there again, byte by byte, in a VM that was made from a backup; the second
/// backup read only what had been written since the first.
fn comes_back(ground: &Ground, name: &str) {
    let visitor = Visitor { ground, until: Instant::now() + BOOTS_WITHIN };
    let address = visitor.address(name);
    visitor.says(&address, "head -c 8M /dev/urandom > first; sync");
    let backup = || ground.instance.json(&["vm", "backup", "create", name]);
    let bytes = |backup: &Value, field: &str| backup[field].as_u64().unwrap_or_else(|| panic!("{field} of {backup}"));
    let full = backup();
    assert!(bytes(&full, "read_bytes") > 400 << 20, "a whole Debian: {full}");
    assert_eq!(full["quiesced"], true, "its guest agent brought its file systems to rest: {full}");
    let sums = visitor.says(&address, "head -c 8M /dev/urandom > second; sync; sha256sum first second");
    let part = backup();
    assert_eq!(part["since_id"], full["id"], "{part}");
    assert!(bytes(&part, "read_bytes") < bytes(&full, "read_bytes") / 2, "only what was written: {full} {part}");
    ground.fine(&["vm", "delete", name, "--yes"]);
    ground.fine(&["vm", "backup", "restore", part["name"].as_str().unwrap()]);
    let visitor = Visitor { ground, until: Instant::now() + BOOTS_WITHIN };
    let address = visitor.address(name);
    assert_eq!(visitor.says(&address, "sha256sum first second"), sums);
    assert_eq!(visitor.says(&address, "hostname"), format!("{name}\n"));
}

#[test]
fn real_debian_is_built_booted_and_logged_in_to() {
    let ground = Ground::new();
    key(ground.instance.path());
    ground.daemon.define_network("lan", "10.93.7");
    let wrong = ground.instance.perigee(&["image", "build", "debian", "--include=-y"]);
    assert!(wrong.code == 2 && wrong.err.contains("is no package"), "{}", wrong.err);
    ground.fine(&["image", "build", "debian", "--include", "tree"]);
    lives(&ground, "web", "bios");
    comes_back(&ground, "web");
    ground.fine(&["vm", "delete", "web", "--yes"]);
}

/// By UEFI: the same disk. And a second time: what a first boot leaves is what the next one finds.
#[test]
#[ignore = "soak"]
fn real_debian_boots_by_uefi() {
    let ground = Ground::new();
    key(ground.instance.path());
    ground.daemon.define_network("lan", "10.93.8");
    let none = ground.instance.perigee(&["image", "build", "debian", "--name", "none", "--include", "no-such-package"]);
    assert!(none.code != 0 && none.err.contains("PRG-7004") && none.err.contains("no-such-package"), "{}", none.err);
    ground.fine(&["image", "build", "debian"]);
    lives(&ground, "web", "uefi");
    lives_on(&ground, "web");
}

/// The same packages' tree as the root of sandboxes: each writes to a disk of its own above it.
#[test]
fn real_sandboxes_have_debian_for_their_root() {
    let instance = Instance::empty();
    instance.up();
    let image = instance.json(&["image", "build", "debian", "--kind", "sandbox", "--include", "tree"]);
    let roles: Vec<_> = image["parts"].as_array().unwrap().iter().map(|part| part["role"].as_str().unwrap()).collect();
    assert_eq!((image["name"].as_str(), roles), (Some("debian-sandbox"), vec!["kernel", "initrd", "disk"]), "{image}");
    for name in ["one", "two"] {
        instance.perigee(&["sandbox", "create", "--name", name, "--image", "debian-sandbox", "-q"]).fine();
    }
    let shell = |name: &str, line: &str| instance.perigee(&["sandbox", "exec", name, "--", "sh", "-c", line]);
    let told =
        shell("one", "cut -d. -f1 /etc/debian_version; hostname; stat -fc %T /; echo kept > /srv/own; sync").fine();
    assert_eq!(told, "12\none\next2/ext3\n");
    shell("one", "tree --version && dpkg --status curl && apt-get --version").fine();
    let other = shell("two", "cat /srv/own");
    assert!(other.code != 0 && other.err.contains("No such file"), "each has its own: {}", other.err);
    assert_eq!(shell("one", "cat /srv/own").fine(), "kept\n");
    // What does not fit is told to who writes, and the guest goes on.
    let full = shell("one", "head -c 8G /dev/zero > /srv/big; rm /srv/big; echo on");
    assert!(full.err.contains("No space left on device") && full.out == "on\n", "{} {}", full.out, full.err);
    for name in ["one", "two"] {
        instance.perigee(&["sandbox", "delete", name, "--yes"]).fine();
    }
    let left = std::fs::read_dir(instance.path().join("agent/guests")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "no disk stays behind");
    let vm = instance.perigee(&["vm", "create", "--image", "debian-sandbox"]);
    assert!(vm.code != 0 && vm.err.contains("the root of sandboxes"), "{}", vm.err);
}

/// A whole distribution is known to boot by its prompt.
#[test]
#[ignore = "soak"]
fn real_a_backup_of_debian_boots() {
    let ground = Ground::new();
    ground.fine(&["image", "build", "debian"]);
    let size = ["--memory", "768MiB", "--cpus", "2", "--disk", "5GiB", "-q"];
    ground.fine(&[&["vm", "create", "web", "--image", "debian"], &size[..]].concat());
    ground.fine(&["vm", "stop", "web", "--force"]);
    ground.fine(&["vm", "backup", "create", "web", "one"]);
    let seen = ground.instance.json(&["vm", "backup", "verify", "one", "--boot"]);
    assert_eq!((&seen["booted_by"], &seen["status"]), (&"login_prompt".into(), &"ready".into()), "{seen}");
    ground.fine(&["vm", "delete", "web", "--yes"]);
}
