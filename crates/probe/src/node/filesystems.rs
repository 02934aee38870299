//! File systems: size and room by mount point.
//!
//! Local ones are asked in the round: their numbers are in memory. Whatever another machine or process
//! answers for (NFS, SMB, FUSE, 9p) has a thread of its own that may hang for ever; it is asked again
//! only after it answered, and shown as stuck until then.

use super::family::{Family, Slots, retire};
use super::{Collector, Fault, Round, Settings, read};
use crate::scan::{Source, lines, number, words};
use nix::sys::statvfs::{FsFlags, statvfs};
use perigee_model::frame::{Series, Sheet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

/// Threads for mounts that may hang, together with those that hang after their mount is gone.
const THREADS_MAX: usize = 64;
/// A mount that takes longer is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Made by the kernel out of nothing, or (autofs) mounted by being looked at.
const PSEUDO: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "procfs",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "efivarfs",
    "sysfs",
    "tracefs",
    "ramfs",
    "erofs",
    "nfsd",
];
const REMOTE: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ceph",
    "9p",
    "afs",
    "glusterfs",
    "lustre",
    "beegfs",
    "fuse",
    "fuseblk",
    "virtiofs",
    "ocfs2",
    "gfs2",
    "coda",
    "ncpfs",
    "orangefs",
];
const HIDDEN: &[&str] =
    &["/dev", "/proc", "/sys", "/run/credentials", "/var/lib/docker", "/var/lib/containers/storage"];

/// A mount, as a line of mountinfo has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// Its number and its line's words: numbers are used again after unmounting.
    key: Vec<u8>,
    device: String,
    point: PathBuf,
    kind: String,
    remote: bool,
}

impl Mount {
    /// proc_pid_mountinfo(5); `None` also for those nobody wants to see.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = words(line);
        number(fields.next()?)?;
        let point = unescaped(fields.nth(3)?);
        let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
        let kind = String::from_utf8_lossy(rest.next()?).into_owned();
        let device = unescaped(rest.next()?);
        let within = |folder: &&str| point.strip_prefix(*folder).is_some_and(|r| r.is_empty() || r.starts_with('/'));
        if PSEUDO.contains(&kind.as_str()) || HIDDEN.iter().any(within) {
            return None;
        }
        let remote = REMOTE.contains(&kind.as_str()) || kind.starts_with("fuse.");
        Some(Self { key: line.to_owned(), device, point: point.into(), kind, remote })
    }
}

/// Blanks and backslashes are octal: `\040`.
fn unescaped(word: &[u8]) -> String {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let byte = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// statvfs(3), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    size: u64,
    free: u64,
    available: u64,
    files: u64,
    files_free: u64,
    read_only: bool,
}

fn ask(path: &Path) -> io::Result<Room> {
    let stat = statvfs(path)?;
    #[allow(clippy::useless_conversion, reason = "the fields' width depends on the machine")]
    let bytes = |blocks| u64::from(stat.fragment_size()).saturating_mul(u64::from(blocks));
    #[allow(clippy::useless_conversion, reason = "as above")]
    Ok(Room {
        size: bytes(stat.blocks()),
        free: bytes(stat.blocks_free()),
        available: bytes(stat.blocks_available()),
        files: u64::from(stat.files()),
        files_free: u64::from(stat.files_free()),
        read_only: stat.flags().contains(FsFlags::ST_RDONLY),
    })
}

/// How a mount is asked; another one in tests.
type Ask = Arc<dyn Fn(&Path) -> io::Result<Room> + Send + Sync>;

/// A thread that asks one mount, when told to. It ends when the asker is gone, if it ever comes back.
struct Asker {
    orders: Sender<()>,
    answers: Receiver<io::Result<Room>>,
    asked: Option<Duration>,
    last: Option<Room>,
}

/// Counts the thread as long as it lives, hung or not.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Asker {
    fn start(point: &Path, ask: &Ask, threads: &Arc<AtomicUsize>) -> Option<Self> {
        if threads.fetch_add(1, Ordering::Relaxed) >= THREADS_MAX {
            threads.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let alive = Alive(Arc::clone(threads));
        let (orders, ordered) = channel::<()>();
        let (answer, answers) = channel();
        let (point, ask) = (point.to_owned(), Arc::clone(ask));
        let body = move || {
            let _alive = alive;
            while ordered.recv().is_ok() {
                if answer.send(ask(&point)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("mount".to_owned()).spawn(body).ok()?;
        Some(Self { orders, answers, asked: None, last: None })
    }

    /// The last answer, asking again if none is outstanding; and for how long one is overdue.
    fn poll(&mut self, at: Duration) -> (Option<Room>, Option<Duration>) {
        match self.answers.try_recv() {
            Ok(answer) => {
                self.asked = None;
                self.last = answer.ok();
            }
            Err(TryRecvError::Disconnected) => self.last = None,
            Err(TryRecvError::Empty) => {}
        }
        if self.asked.is_none() && self.orders.send(()).is_ok() {
            self.asked = Some(at);
        }
        let age = self.asked.map(|asked| at.saturating_sub(asked));
        let stuck = age.filter(|age| *age > STUCK_AFTER);
        // Old numbers of a mount that hangs would look like new ones.
        (self.last.filter(|_| stuck.is_none()), stuck)
    }
}

struct Shown {
    mount: Mount,
    slots: Slots,
    asker: Option<Asker>,
}

/// /proc/self/mountinfo and statvfs(3).
pub struct FileSystems {
    table: Source,
    text: Vec<u8>,
    mounts: Vec<Mount>,
    shown: Family<Shown>,
    ask: Ask,
    threads: Arc<AtomicUsize>,
}

impl FileSystems {
    pub fn new(settings: &Settings) -> Self {
        Self::asking(settings, Arc::new(ask))
    }

    fn asking(settings: &Settings, ask: Ask) -> Self {
        Self {
            table: Source::new(settings.proc_root.join("self/mountinfo")),
            text: Vec::new(),
            mounts: Vec::new(),
            shown: Family::default(),
            ask,
            threads: Arc::default(),
        }
    }

    fn read_table(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        let text = read(&mut self.table, round.buffer)?;
        if text != self.text {
            self.text = text.to_owned();
            let mut mounts: Vec<Mount> = Vec::new();
            for mount in lines(text).filter_map(Mount::parse) {
                // What is mounted over another hides it.
                mounts.retain(|below| below.point != mount.point);
                mounts.push(mount);
            }
            self.mounts = mounts;
        }
        Ok(())
    }

    fn show(&mut self, mount: &Mount, round: &mut Round<'_>) -> Option<Duration> {
        let sheet = &mut *round.sheet;
        let (ask, threads) = (&self.ask, &self.threads);
        let make = || Shown {
            mount: mount.clone(),
            slots: define(mount, sheet),
            asker: if mount.remote { Asker::start(&mount.point, ask, threads) } else { None },
        };
        let shown = self.shown.member(&mount.key, make)?;
        let (room, stuck) = match (&mut shown.asker, mount.remote) {
            (Some(asker), _) => asker.poll(round.at),
            (None, true) => (None, None),
            (None, false) => (ask(&mount.point).ok(), None),
        };
        let value = |pick: fn(&Room) -> u64| room.as_ref().and_then(|room| i64::try_from(pick(room)).ok());
        let values = [
            value(|room| room.size),
            value(|room| room.free),
            value(|room| room.available),
            value(|room| room.files),
            value(|room| room.files_free),
            room.map(|room| i64::from(room.read_only)),
            Some(i64::from(room.is_none())),
            shown.asker.as_ref().map(|_| stuck.map_or(0, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX))),
        ];
        for (slot, value) in shown.slots.iter().zip(values) {
            round.put(*slot, value);
        }
        stuck
    }
}

fn define(mount: &Mount, sheet: &mut Sheet) -> Slots {
    let table = [
        ("node_filesystem_size_bytes", 0),
        ("node_filesystem_free_bytes", 0),
        ("node_filesystem_avail_bytes", 0),
        ("node_filesystem_files", 0),
        ("node_filesystem_files_free", 0),
        ("node_filesystem_readonly", 0),
        ("node_filesystem_device_error", 0),
        ("perigee_filesystem_stuck_seconds", 3),
    ];
    let series = |(name, digits): (&str, u8)| {
        Series::gauge(name, digits)
            .with("device", &mount.device)
            .with("fstype", &mount.kind)
            .with("mountpoint", &mount.point.to_string_lossy())
    };
    let wanted = if mount.remote { table.len() } else { table.len() - 1 };
    table[..wanted].iter().map(|row| sheet.define(series(*row))).collect()
}

impl Collector for FileSystems {
    fn name(&self) -> &'static str {
        "filesystem"
    }

    fn collect(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        if !self.table.is_as_it_was() {
            self.read_table(round)?;
        }
        self.shown.begin();
        let mounts = std::mem::take(&mut self.mounts);
        let mut worst = None;
        for mount in &mounts {
            // The same point under another number is another mount: what hangs on the old one stays there.
            worst = worst.max(self.show(mount, round));
        }
        self.mounts = mounts;
        let mut gone = Vec::new();
        self.shown.sweep(|shown| gone.push(shown));
        gone.iter().for_each(|shown| retire_unless_shown(round.sheet, shown, &self.mounts));
        worst.map_or(Ok(()), |age| Err(Fault::Stuck(age)))
    }
}

/// A mount made again at once has the same series under another number; it keeps them.
fn retire_unless_shown(sheet: &mut Sheet, shown: &Shown, mounts: &[Mount]) {
    let same =
        |m: &Mount| (&m.device, &m.point, &m.kind) == (&shown.mount.device, &shown.mount.point, &shown.mount.kind);
    if !mounts.iter().any(same) {
        retire(sheet, &shown.slots);
    }
}

#[cfg(test)]
mod tests;
