use super::*;
use crate::node::Census;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn settings(root: &Path) -> Settings {
    let clock = Instant::now();
    let mut settings = Settings::new(Arc::new(move || clock.elapsed()));
    settings.proc_root = root.join("proc");
    settings.sys_root = root.join("sys");
    settings
}

fn write_mounts(root: &Path, lines: &str) {
    std::fs::create_dir_all(root.join("proc/self")).unwrap();
    std::fs::write(root.join("proc/self/mountinfo"), lines).unwrap();
}

/// Runs one round and gives the values of one metric by mount point.
fn round(subject: &mut FileSystems, sheet: &mut Sheet, at: Duration) -> Result<(), Fault> {
    let mut buffer = Vec::new();
    subject.collect(&mut Round { sheet, buffer: &mut buffer, at, census: &mut Census::default() })
}

fn values(sheet: &Sheet, name: &str) -> BTreeMap<String, f64> {
    let found = sheet.values().filter(|(series, _)| series.name == name);
    found.map(|(series, value)| (series.labels["mountpoint"].clone(), value)).collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + seconds(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

const ROOT: &str = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n";
const NFS: &str = "99 27 0:50 / /mnt/far rw - nfs4 server:/export rw\n";

#[test]
fn lines_of_mountinfo() {
    let mount = |line: &str| Mount::parse(line.as_bytes()).map(|m| (m.device, m.point, m.kind, m.remote));
    let some = |device: &str, point: &str, kind: &str, remote| {
        Some((device.to_owned(), PathBuf::from(point), kind.to_owned(), remote))
    };
    let table = [
        (ROOT, some("/dev/vda", "/", "ext4", false)),
        (NFS, some("server:/export", "/mnt/far", "nfs4", true)),
        (
            "30 27 0:9 / /a\\040b\\134 rw - fuse.sshfs me@host:\\011 rw",
            some("me@host:\t", "/a b\\", "fuse.sshfs", true),
        ),
        ("31 27 0:9 / /x rw master:1 propagate_from:2 - xfs /dev/sdb1 rw", some("/dev/sdb1", "/x", "xfs", false)),
        ("32 27 0:9 / /proc/sys rw - tmpfs none rw", None),
        ("33 27 0:9 / /processed rw - tmpfs none rw", some("none", "/processed", "tmpfs", false)),
        ("34 27 0:9 / /auto rw - autofs systemd-1 rw", None),
        ("35 27 0:9 / /cut rw -", None),
        ("", None),
        ("x y z", None),
    ];
    for (line, expected) in table {
        assert_eq!(mount(line), expected, "{line}");
    }
}

#[test]
fn a_mount_that_never_answers_is_asked_once_and_shown_with_its_age() {
    let dir = tempfile::tempdir().unwrap();
    write_mounts(dir.path(), &format!("{ROOT}{NFS}"));
    let asked = Arc::new(Mutex::new(0));
    let (release, released) = channel::<()>();
    let (count, released) = (Arc::clone(&asked), Mutex::new(released));
    let room = Room { size: 100, free: 50, available: 40, files: 9, files_free: 8, read_only: false };
    let ask: Ask = Arc::new(move |path| {
        if path == Path::new("/mnt/far") {
            *count.lock().unwrap() += 1;
            let _ = released.lock().unwrap().recv();
        }
        Ok(room)
    });
    let mut subject = FileSystems::asking(&settings(dir.path()), ask);
    let mut sheet = Sheet::default();
    assert!(round(&mut subject, &mut sheet, seconds(0)).is_ok());
    until("it is asked", || *asked.lock().unwrap() == 1);
    assert!(round(&mut subject, &mut sheet, seconds(4)).is_ok());
    for at in [6, 41] {
        let outcome = round(&mut subject, &mut sheet, seconds(at));
        assert!(matches!(outcome, Err(Fault::Stuck(age)) if age == seconds(at)), "{outcome:?}");
    }
    assert_eq!(values(&sheet, "perigee_filesystem_stuck_seconds")["/mnt/far"], 41.0);
    assert_eq!(values(&sheet, "node_filesystem_size_bytes"), BTreeMap::from([("/".to_owned(), 100.0)]));
    assert_eq!(*asked.lock().unwrap(), 1, "never asked twice");
    release.send(()).unwrap();
    until("it is well again", || round(&mut subject, &mut sheet, seconds(42)).is_ok());
    assert_eq!(values(&sheet, "perigee_filesystem_stuck_seconds")["/mnt/far"], 0.0);
    assert_eq!(values(&sheet, "node_filesystem_size_bytes")["/mnt/far"], 100.0);
}

#[test]
fn threads_that_hang_are_counted_until_they_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let ask: Ask = Arc::new(move |path| {
        if path == Path::new("/mnt/far") {
            let _ = released.lock().unwrap().recv();
        }
        Err(io::ErrorKind::TimedOut.into())
    });
    let mut subject = FileSystems::asking(&settings(dir.path()), ask);
    let mut sheet = Sheet::default();
    // Mounted again and again, each time hanging: the limit holds for those that are gone, too.
    for id in 0..THREADS_MAX + 10 {
        write_mounts(dir.path(), &format!("{id} 27 0:50 / /mnt/far rw - nfs server:/export rw\n"));
        round(&mut subject, &mut sheet, seconds(1)).unwrap();
    }
    assert_eq!(subject.threads.load(Ordering::Relaxed), THREADS_MAX);
    assert_eq!(values(&sheet, "node_filesystem_device_error")["/mnt/far"], 1.0);
    write_mounts(dir.path(), ROOT);
    round(&mut subject, &mut sheet, seconds(2)).unwrap();
    assert!(!values(&sheet, "node_filesystem_device_error").contains_key("/mnt/far"), "its series are retired");
    drop(release);
    until("they come back", || subject.threads.load(Ordering::Relaxed) == 0);
}

/// A FUSE file system whose server never reads a request: statfs(2) on it hangs until it is aborted.
#[test]
fn real_fuse_mount_without_a_server_does_not_stop_a_round() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use std::os::fd::AsRawFd;
    let dir = tempfile::tempdir().unwrap();
    let point = dir.path().join("far");
    std::fs::create_dir(&point).unwrap();
    let fuse = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let fuse = fuse.expect("needs /dev/fuse and root (modprobe fuse)");
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
    mount(Some("far"), &point, Some("fuse"), MsFlags::empty(), Some(options.as_str())).expect("needs root");
    let mut live = settings(dir.path());
    live.proc_root = "/proc".into();
    let mut subject = FileSystems::new(&live);
    let mut sheet = Sheet::default();
    let key = point.to_string_lossy().into_owned();
    let began = Instant::now();
    let first = round(&mut subject, &mut sheet, seconds(0));
    let later = round(&mut subject, &mut sheet, seconds(41));
    let took = began.elapsed();
    let stuck = values(&sheet, "perigee_filesystem_stuck_seconds").get(&key).copied();
    // Closing the server's end aborts what hangs, so that the mount can go.
    drop(fuse);
    until("the thread comes back", || round(&mut subject, &mut sheet, seconds(41)).is_ok());
    umount2(&point, MntFlags::MNT_DETACH).unwrap();
    assert!(first.is_ok(), "{first:?}");
    assert!(matches!(later, Err(Fault::Stuck(_))), "{later:?}");
    assert_eq!(stuck, Some(41.0));
    assert!(took < seconds(2), "a round waited for it: {took:?}");
}
