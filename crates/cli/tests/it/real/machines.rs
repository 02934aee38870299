//! Full VMs on a real libvirtd: a whole life, a host that is switched off, and a control plane that is
//! away.

use super::ground::Ground;
use super::sitter::Sitter;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

impl Ground {
    /// Both tell the same of the one machine there is.
    fn agree(&self, ours: &str, theirs: &str) {
        self.until("db", ours);
        let told = self.daemon.virsh(&["list", "--all"]);
        let lines: Vec<&str> = told.lines().filter(|line| !line.trim().is_empty()).collect();
        assert!(lines.len() == 1 && lines[0].trim_end().ends_with(theirs), "{ours}: virsh says {told:?}");
    }
    /// What its VM uses is shown, as it is of those that are not ours.
    fn uses_something(&self) {
        self.instance.until("what it uses of its host", || {
            let vm = self.vm("db")?;
            (vm["cpu_cores"].is_number() && vm["resident_bytes"].as_u64()? > 32 << 20).then_some(())
        });
        let shown = self.fine(&["vm", "get", "db", "-o", "csv"]);
        let (heads, cells) = shown.trim_end().split_once('\n').unwrap();
        let used = heads.split(',').zip(cells.split(',')).filter(|(head, _)| ["CPU_USED", "RESIDENT"].contains(head));
        assert!(used.clone().count() == 2 && used.into_iter().all(|(_, cell)| !cell.is_empty()), "{shown}");
    }
    /// libvirt hangs: nothing can be stopped, which is said in time.
    fn cannot_go_down(&self) {
        self.daemon.signal(Signal::SIGSTOP);
        let down = self.instance.perigee(&["down", "--guests", "stop", "--within", "5s"]);
        self.daemon.signal(Signal::SIGCONT);
        assert!(down.code == 6 && down.err.contains("db: did not end within 5 s"), "{} {}", down.code, down.err);
    }
    /// An agent that comes up where libvirt's socket is gone knows nothing of its VM, and takes it for nothing.
    fn finds_no_libvirt(&mut self) {
        let tells = |agent: &str| self.instance.json(&["metrics", "query", agent])[0]["value"].clone();
        self.instance.kill("perigee-agent");
        self.daemon.kill();
        self.until("db", "unknown");
        self.up();
        self.instance
            .until("word of libvirt's absence", || (tells("perigee_libvirt_breaker_open") == "1").then_some(()));
        assert_eq!(self.vm("db").unwrap()["status"], "unknown");
        self.daemon.start_again();
    }
    fn echo(&self, word: &str) {
        assert_eq!(self.fine(&["vm", "exec", "db", "--", "echo", word]), format!("{word}\n"));
    }
}

#[test]
fn real_a_vm_lives_a_whole_life() {
    let mut ground = Ground::new();
    let told = ground.fine(&["vm", "create", "db", "--memory", "256MiB", "--disk", "1GiB", "--dry-run"]);
    assert!(told.contains("db would be made from base and go to") && told.contains("a disk of 1GiB"), "{told}");
    assert!(ground.vm("db").is_none(), "a dry run makes nothing");

    let asked = ["--memory", "256MiB", "--disk", "1GiB", "--description", "a <b> & c", "--no-wait"];
    ground.fine(&[&["vm", "create", "db"], &asked[..]].concat());
    // It is sat at before it is there, and waited for.
    let mut sitter = Sitter::at(&ground.instance, "db");
    ground.agree("running", "running");
    ground.echo("up");
    sitter.asks("echo six times seven is $((6 * 7))", "is 42");
    sitter.leaves();
    ground.uses_something();
    ground.fine(&["vm", "exec", "db", "--", "sh", "-c", "echo kept > /dev/vda; sync"]);
    ground.fine(&["vm", "pause", "db"]);
    ground.agree("suspended", "paused");
    ground.fine(&["vm", "resume", "db"]);
    ground.agree("running", "running");

    // It turns itself off: its power button is pressed.
    ground.fine(&["vm", "stop", "db", "--grace", "60s"]);
    ground.agree("stopped", "shut off");
    let refused = ground.instance.perigee(&["vm", "pause", "db"]);
    assert!(refused.code != 0 && refused.err.contains("PRG-4002"), "{}", refused.err);
    let larger = ["--memory", "320MiB", "--name", "store", "--metadata", "ticket=7", "-o", "json"];
    let larger = ground.fine(&[&["vm", "update", "db"], &larger[..]].concat());
    let larger: Value = serde_json::from_str(&larger).unwrap();
    assert_eq!((&larger["memory_bytes"], &larger["name"]), (&(320u64 << 20).into(), &"store".into()));
    assert_eq!(larger["metadata"]["ticket"], "7");
    ground.until("store", "stopped");
    ground.fine(&["vm", "update", "store", "--name", "db"]);
    ground.fine(&["vm", "start", "db"]);
    ground.agree("running", "running");
    assert!(ground.fine(&["vm", "exec", "db", "--", "head", "-c", "4", "/dev/vda"]).starts_with("kept"));
    let memory = ground.fine(&["vm", "exec", "db", "--", "sh", "-c", "grep MemTotal /proc/meminfo"]);
    let kib: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib > 256 << 10, "its new size holds: {memory}");

    let told = |name: &str| ground.instance.json(&["metrics", "query", name])[0]["value"].clone();
    ground.instance.until("what is told of the agent's own links", || {
        (told("perigee_heartbeat_success") == "1" && told("perigee_libvirt_breaker_open") == "0").then_some(())
    });

    // The agent, and then libvirtd too, killed and started again: the guest never noticed.
    let since = ground.vm("db").unwrap()["boot_ms"].clone();
    ground.instance.kill("perigee-agent");
    ground.until("db", "unknown");
    ground.up();
    ground.agree("running", "running");
    ground.echo("adopted");
    assert_eq!(ground.vm("db").unwrap()["boot_ms"], since);
    ground.finds_no_libvirt();
    ground.agree("running", "running");
    ground.echo("still there");
    assert_eq!(ground.vm("db").unwrap()["boot_ms"], since);
    ground.fine(&["vm", "restart", "db", "--force"]);
    ground.agree("running", "running");

    ground.cannot_go_down();
    ground.agree("stopped", "shut off");

    ground.fine(&["vm", "delete", "db", "--yes"]);
    assert!(ground.vm("db").is_none());
    assert_eq!(ground.daemon.virsh(&["list", "--all", "--name"]), "");
    assert_eq!(ground.daemon.remains(), Vec::<String>::new());
    let disks = std::fs::read_dir(ground.instance.path().join("vms/disks")).unwrap().count();
    assert_eq!(disks, 0, "nothing stays behind");
}

#[test]
fn real_a_host_that_was_switched_off_brings_its_vms_up() {
    let mut ground = Ground::new();
    ground.fine(&["vm", "create", "db", "--memory", "256MiB", "-q"]);
    ground.fine(&["vm", "create", "off", "--memory", "256MiB", "--no-wait"]);
    ground.until("off", "running");
    ground.fine(&["vm", "stop", "off", "--force"]);
    let journal = ground.instance.path().join("agent/journal/guests");
    let (db, off) = (ground.id("db"), ground.id("off"));

    // Power is cut: everything ends at once, and of one guest's document half is left.
    ground.instance.kill("perigee-agent");
    ground.instance.kill("perigeed");
    let qemu = ground.instance.pids("qemu-system-x86_64");
    assert_eq!(qemu.len(), 1, "one runs");
    ground.daemon.kill();
    qemu.into_iter().for_each(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap());
    let document = journal.join(format!("{off}.json"));
    let whole = std::fs::read(&document).unwrap();
    std::fs::write(&document, &whole[..whole.len() / 2]).unwrap();

    ground.daemon.restart();
    ground.up();
    // What was last told of it is listed until its agent has looked.
    let answers = || ground.instance.perigee(&["vm", "exec", "db", "--", "true"]).code == 0;
    ground.instance.until("db, brought up again", || answers().then_some(()));
    ground.until("db", "running");
    ground.until("off", "stopped");
    assert!(journal.join(format!("{off}.damaged")).exists(), "what could not be read is kept");
    assert!(document.exists(), "and made again");
    assert_eq!(ground.id("db"), db);
    ground.fine(&["vm", "delete", "db", "--yes"]);
    ground.fine(&["vm", "delete", "off", "--yes"]);
    assert_eq!(ground.daemon.virsh(&["list", "--all", "--name"]), "");
}

#[test]
fn real_acts_on_a_host_count_once_its_control_plane_is_back() {
    let ground = Ground::new();
    ground.fine(&["vm", "create", "db", "--memory", "256MiB", "-q"]);
    ground.instance.kill("perigeed");

    let local = |arguments: &[&str]| ground.instance.perigee(&[&["--agent", "vm"], arguments].concat());
    let listed: Value = serde_json::from_str(&local(&["list", "-o", "json"]).fine()).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["status"]), (&"db".into(), &"running".into()));
    local(&["stop", "db", "--force"]).fine();
    assert!(ground.daemon.virsh(&["list", "--all"]).contains("shut off"));
    local(&["create", "made-here", "--memory", "256MiB", "--label", "by=hand"]).fine();
    let marked: Value = serde_json::from_str(&local(&["list", "--label", "by=hand", "-o", "json"]).fine()).unwrap();
    assert_eq!((marked.as_array().unwrap().len(), &marked[0]["name"]), (1, &"made-here".into()), "{marked}");
    local(&["update", "db", "--name", "data", "--label", "team=a b&c", "--memory", "192MiB"]).fine();
    let taken = local(&["update", "data", "--name", "made-here"]);
    assert!(taken.code != 0 && taken.err.contains("PRG-4001"), "{}", taken.err);
    let bad = local(&["update", "data", "--memory", "1MiB"]);
    assert!(bad.code != 0 && bad.err.contains("PRG-1002"), "{}", bad.err);
    let unknown = local(&["start", "nobody"]);
    assert!(unknown.code != 0 && unknown.err.contains("PRG-3002"), "{}", unknown.err);
    // The agent dies with its acts told to nobody.
    ground.instance.kill("perigee-agent");

    ground.up();
    ground.until("made-here", "running");
    assert_eq!(ground.vm("made-here").unwrap()["labels"]["by"], "hand");
    let changed = ground.until("data", "stopped");
    assert_eq!((&changed["labels"]["team"], &changed["memory_bytes"]), (&"a b&c".into(), &(192_u64 << 20).into()));
    let events = ground.instance.json(&["event", "list", "--limit", "100"]);
    let acts = |verb: &str| {
        let by_user = |e: &&Value| e["actor"].as_str().is_some_and(|actor| actor.starts_with("uid:0@"));
        events.as_array().unwrap().iter().filter(by_user).filter(|e| e["verb"] == verb).count()
    };
    let counted = ["guest.stop", "guest.create", "guest.update"].map(acts);
    assert_eq!(counted, [1, 1, 1], "each once: {events}");
    // Desired has moved with them: nothing is brought back.
    ground.fine(&["vm", "start", "data"]);
    ground.until("data", "running");
    for name in ["data", "made-here"] {
        ground.fine(&["vm", "delete", name, "--yes"]);
    }
    assert_eq!(ground.daemon.virsh(&["list", "--all", "--name"]), "");
}

#[test]
fn real_a_vm_that_was_there_before_is_taken_over_and_let_go() {
    let ground = Ground::new();
    ground.daemon.define("db");
    ground.daemon.virsh(&["start", "db"]);
    let before = ground.daemon.virsh(&["dumpxml", "--inactive", "db"]);
    ground.until("db", "running");
    ground.fine(&["vm", "adopt", "db", "--name", "taken"]);
    let taken = ground.until("taken", "running");
    assert_eq!((&taken["adopted"], &taken["id"]), (&true.into(), &ground.daemon.virsh(&["domuuid", "db"]).into()));
    ground.instance.until("it is listed once", || ground.vm("db").is_none().then_some(()));

    ground.fine(&["vm", "stop", "taken", "--force"]);
    assert!(ground.daemon.virsh(&["list", "--all"]).contains("shut off"));
    ground.fine(&["vm", "start", "taken"]);
    assert!(ground.daemon.virsh(&["list", "--all"]).contains("running"));
    let deleted = ground.instance.perigee(&["vm", "delete", "taken", "--yes"]);
    assert!(deleted.code != 0 && deleted.err.contains("release it"), "{}", deleted.err);

    ground.fine(&["vm", "release", "taken"]);
    assert!(ground.vm("taken").is_none());
    assert!(ground.daemon.virsh(&["list", "--all"]).contains("running"), "it goes on as it is");
    assert_eq!(ground.daemon.virsh(&["dumpxml", "--inactive", "db"]), before, "and is defined as it was");
    ground.until("db", "running");
    ground.daemon.virsh(&["destroy", "db"]);
}
