//! Network namespaces that go when nobody holds them any more.

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::future::Future;
use std::process::Command;
use std::sync::Arc;

/// A network namespace; lives as long as one of its clones, its sockets or its devices' readers.
#[derive(Clone)]
pub struct Ns(Arc<File>);

impl Ns {
    /// An empty one, its loopback up.
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (needs root)");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let ns = Self(Arc::new(made.join().unwrap()));
        ns.ip("link set lo up");
        // An address is there at once, not when nobody else has turned out to have it.
        ns.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap());
        ns
    }

    /// The one that the calling thread is in.
    pub fn of_this_thread() -> Self {
        Self(Arc::new(File::open("/proc/thread-self/ns/net").unwrap()))
    }

    /// The one that a process is in.
    #[allow(dead_code, reason = "of use to those who share this file")]
    pub fn of_process(pid: u32) -> Self {
        Self(Arc::new(File::open(format!("/proc/{pid}/ns/net")).unwrap()))
    }

    /// Does something in it: sockets made there stay in it.
    pub fn run<R: Send>(&self, act: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                setns(&*self.0, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            match done.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The same, on a runtime of one thread.
    pub fn block_on<R: Send, F: Future<Output = R>>(&self, act: impl FnOnce() -> F + Send) -> R {
        self.run(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(act()))
    }

    /// `ip` with these words.
    pub fn ip(&self, words: &str) -> String {
        self.tool("ip", words)
    }

    /// What a tool says.
    pub fn tool(&self, tool: &str, words: &str) -> String {
        self.run(|| {
            let said = Command::new(tool).args(words.split_whitespace()).output().unwrap();
            assert!(said.status.success(), "{tool} {words}: {}", String::from_utf8_lossy(&said.stderr));
            String::from_utf8(said.stdout).unwrap()
        })
    }

    /// A cable between two: `name` here, `other` there.
    pub fn cable(&self, name: &str, other_ns: &Self, other: &str) {
        // A thread of the other names it for `ip`.
        let (named, names) = std::sync::mpsc::channel();
        let (over, end) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                other_ns.run(move || {
                    named.send(nix::unistd::gettid()).unwrap();
                    _ = end.recv();
                });
            });
            let thread = names.recv().unwrap();
            self.ip(&format!("link add {name} type veth peer name {other} netns {thread}"));
            drop(over);
        });
        self.ip(&format!("link set dev {name} up"));
        other_ns.ip(&format!("link set dev {other} up"));
    }

    /// Everything in it that a test could leave behind. The kernel's switch that passes IPv6 on stays, and with it
    /// what a router has on every device: groups (33:33:…), and the address of any router.
    pub fn inventory(&self) -> String {
        let all = [
            self.ip("-o -br link"),
            self.ip("-o addr"),
            self.ip("route show table all"),
            self.ip("neigh show nud permanent"),
            self.tool("bridge", "fdb show"),
            self.tool("nft", "list ruleset"),
        ]
        .concat();
        let of_routers = |line: &&str| line.starts_with("anycast ") || line.starts_with("33:33:");
        all.lines().filter(|line| !of_routers(line)).collect::<Vec<_>>().join("\n")
    }
}
