//! Images and disks that name what is none of theirs, while every file that anybody opens is written down.

use super::Instance;
use super::ground::Ground;
use super::instance::{in_time, processes};
use super::sitter::Sitter;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const MIB: u64 = 1 << 20;
const WORDS: &str = "its first sector is a qcow2 header now";
/// What a tool of QEMU's opens beside what it works on.
const OF_THE_SYSTEM: [&str; 8] =
    ["/lib/", "/lib64/", "/usr/lib/", "/etc/ld.so.cache", "/dev/null", "/dev/urandom", "/proc/", "/sys/"];

/// Somebody who writes down which files and sockets these processes, and those they start, ask for.
struct Scribe {
    strace: Child,
    book: PathBuf,
}

impl Scribe {
    fn on(pids: &[u32], book: PathBuf) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=%file,connect", "-e", "signal=none", "-o"]).arg(&book);
        for pid in pids {
            strace.args(["-p", &pid.to_string()]);
        }
        let strace = strace
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("package strace (scripts/setup): {error}"));
        let scribe = Self { strace, book };
        let is_on = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.lines().any(|line| line == format!("TracerPid:\t{}", scribe.strace.id()))
        };
        assert!(in_time(|| pids.iter().all(is_on).then_some(())).is_some(), "strace holds them");
        scribe
    }
    fn is_at_it(&mut self) -> bool {
        matches!(self.strace.try_wait(), Ok(None))
    }
    fn lines(&self) -> Vec<String> {
        let text = fs::read(&self.book).unwrap();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        // Killed, it would leave them standing still.
        let _ = Command::new("kill").args(["-INT", &self.strace.id().to_string()]).status();
        let _ = self.strace.wait();
    }
}

/// A file that nobody has to open, a port that nobody has to call, and files that say otherwise.
struct Lair {
    folder: tempfile::TempDir,
    port: TcpListener,
}

impl Lair {
    fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        port.set_nonblocking(true).unwrap();
        let lair = Self { folder: tempfile::Builder::new().prefix("pg-lair-").tempdir().unwrap(), port };
        lair.make();
        lair
    }
    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
    fn secret(&self) -> String {
        self.at("nobody-opens-this")
    }
    fn qemu_img(&self, arguments: &[&str]) {
        let done = Command::new("qemu-img").args(arguments).current_dir(self.folder.path()).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    /// A disk above something that need not be there.
    fn above(&self, below: &str, name: &str) {
        self.qemu_img(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "compat=0.10",
            "-u",
            "-b",
            below,
            "-F",
            "raw",
            name,
            "1M",
        ]);
    }
    fn change(&self, name: &str, at: u64, bytes: &[u8]) {
        fs::File::options().write(true).open(self.at(name)).unwrap().write_all_at(bytes, at).unwrap();
    }

    fn make(&self) {
        let secret = self.secret();
        self.qemu_img(&["create", "-q", "-f", "qcow2", "-o", &format!("data_file={secret}"), "data.qcow2", "1M"]);
        fs::write(&secret, "the owner's own words".repeat(4096)).unwrap();
        self.above(&secret, "backing.qcow2");
        self.above(&format!("json:{{\"driver\":\"file\",\"filename\":\"{secret}\"}}"), "json.qcow2");
        self.above(&format!("nbd:{}", self.port.local_addr().unwrap()), "nbd.qcow2");
        fs::write(self.at("json.raw"), format!("json:{{\"driver\":\"file\",\"filename\":\"{secret}\"}}")).unwrap();
        fs::copy(self.at("backing.qcow2"), self.at("hidden.raw")).unwrap();
        for name in ["huge.qcow2", "cut.qcow2"] {
            self.qemu_img(&["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", name, "8M"]);
        }
        self.change("huge.qcow2", 24, &(2u64 << 60).to_be_bytes());
        fs::File::options().write(true).open(self.at("cut.qcow2")).unwrap().set_len(192 << 10).unwrap();
        fs::write(self.at("zeros"), vec![0; 64 << 20]).unwrap();
        for (program, name) in [("gzip", "bomb.gz"), ("zstd", "bomb.zst")] {
            let out = fs::File::create(self.at(name)).unwrap();
            let packed = Command::new(program).args(["-q", "-c"]).arg(self.at("zeros")).stdout(out).status();
            assert!(packed.is_ok_and(|status| status.success()), "{program}");
        }
        std::os::unix::fs::symlink(&secret, self.at("link")).unwrap();
        nix::unistd::mkfifo(Path::new(&self.at("pipe")), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(self.at("raw.disk"), self.turncoat()).unwrap();
    }

    /// A raw disk that is a sound qcow2 above the secret but for its first sector, into which its boot code copies
    /// the second one: the header.
    fn turncoat(&self) -> Vec<u8> {
        #[rustfmt::skip]
        let code = [
            0x31, 0xc0,             // xor ax, ax
            0x8e, 0xd8,             // mov ds, ax
            0x8e, 0xc0,             // mov es, ax
            0xfc,                   // cld
            0xb6, 0x00,             // mov dh, 0
            0xbb, 0x00, 0x80,       // mov bx, 0x8000
            0xb9, 0x02, 0x00,       // mov cx, 2
            0xb8, 0x01, 0x02,       // mov ax, 0x0201: read a sector
            0xcd, 0x13,             // int 0x13
            0xb9, 0x01, 0x00,       // mov cx, 1
            0xb8, 0x01, 0x03,       // mov ax, 0x0301: write a sector
            0xcd, 0x13,             // int 0x13
            0xbe, 0x2e, 0x7c,       // again: mov si, words
            0xba, 0xf8, 0x03,       // mov dx, 0x3f8
            0xac,                   // next: lodsb
            0x84, 0xc0,             // test al, al
            0x74, 0x03,             // jz pause
            0xee,                   // out dx, al
            0xeb, 0xf8,             // jmp next
            0xfb, 0xf4,             // pause: sti; hlt
            0xeb, 0xee,             // jmp again
        ];
        let mut disk = fs::read(self.at("backing.qcow2")).unwrap();
        disk.resize(MIB as usize, 0);
        disk.copy_within(..512, 512);
        assert!(disk[512..1024].windows(self.secret().len()).any(|bytes| bytes == self.secret().as_bytes()));
        disk[..512].fill(0);
        disk[..code.len()].copy_from_slice(&code);
        disk[code.len()..code.len() + WORDS.len()].copy_from_slice(WORDS.as_bytes());
        disk[code.len() + WORDS.len()] = b'\n';
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk
    }

    /// Nobody has called, and nobody has read what is nobody's.
    fn is_untouched(&self, lines: &[String]) {
        let said: Vec<_> = lines.iter().filter(|line| line.contains("nobody-opens-this")).collect();
        assert!(said.is_empty(), "{said:#?}");
        assert!(self.port.accept().is_err(), "somebody has called");
    }
}

/// What an import of each is refused with.
const REFUSED: [(&str, &[&str], &str); 10] = [
    ("backing.qcow2", &[], "a layer above another file"),
    ("json.qcow2", &[], "a layer above another file (json:"),
    ("nbd.qcow2", &[], "a layer above another file (nbd:"),
    ("data.qcow2", &[], "its data is in another file"),
    ("huge.qcow2", &[], "a disk of 2305843009213693952 bytes"),
    ("cut.qcow2", &[], "it ends before"),
    ("bomb.gz", &[], "compressed with gzip"),
    ("bomb.zst", &[], "compressed with zstd"),
    ("hidden.raw", &["--format", "raw"], "its first bytes are a qcow2 header"),
    ("json.raw", &[], "`json:` description"),
];

fn refuse_all(instance: &Instance, lair: &Lair) {
    for (name, more, why) in REFUSED {
        let import = ["image", "import", "bad", "--file", &lair.at(name)];
        let said = instance.perigee(&[&import, more].concat());
        assert!(said.code != 0 && said.err.contains("PRG-7011") && said.err.contains(why), "{name}: {}", said.err);
    }
    for (name, why) in [("link", "symbolic link"), ("pipe", "no regular file")] {
        let said = instance.perigee(&["image", "import", "bad", "--file", &lair.at(name)]);
        assert!(said.code == 2 && said.err.contains(why), "{name}: {} {}", said.code, said.err);
    }
    let listed = instance.json(&["image", "list"]);
    let ready: Vec<_> = listed.as_array().unwrap().iter().filter(|image| image["state"] == "ready").collect();
    assert!(ready.len() == 1 && ready[0]["name"] == "base", "{listed}");
    instance.perigee(&["image", "delete", "bad"]).fine();
    for folder in ["sha256", "temp"] {
        let left = fs::read_dir(instance.path().join("blobs").join(folder)).unwrap().count();
        assert_eq!(left, if folder == "temp" { 0 } else { 2 }, "{folder}: the parts of base alone");
    }
}

/// All files that processes of this program have opened.
fn opened(lines: &[String], program: &str) -> Vec<String> {
    let starts = format!("execve(\"/usr/bin/{program}\"");
    let pids: Vec<&str> =
        lines.iter().filter(|line| line.contains(&starts)).filter_map(|line| line.split(' ').next()).collect();
    assert!(!pids.is_empty(), "no {program} was seen");
    let of_it = lines.iter().filter(|line| pids.iter().any(|pid| line.split(' ').next() == Some(pid)));
    let opens = of_it.filter(|line| line.contains("openat(") && !line.contains(" = -1 "));
    opens.filter_map(|line| line.split('"').nth(1).map(str::to_owned)).collect()
}

#[test]
fn real_nothing_that_a_hostile_disk_names_is_opened() {
    let (ground, lair) = (Ground::new(), Lair::new());
    let pid = |program: &str| u32::try_from(ground.instance.pids(program)[0]).unwrap();
    let traced = [pid("perigeed"), pid("perigee-agent"), ground.daemon.pid()];
    let mut scribe = Scribe::on(&traced, lair.folder.path().join("book"));
    refuse_all(&ground.instance, &lair);
    ground.fine(&["image", "import", "turncoat", "--file", &lair.at("raw.disk"), "--format", "raw"]);
    ground.fine(&["vm", "create", "db", "--image", "turncoat", "--memory", "64MiB", "--disk", "16MiB"]);
    let mut sitter = Sitter::at(&ground.instance, "db");
    sitter.hears(WORDS);
    sitter.dies();

    ground.fine(&["vm", "backup", "create", "db", "running"]);
    ground.fine(&["vm", "stop", "db", "--force"]);
    ground.fine(&["vm", "backup", "create", "db", "off"]);
    ground.fine(&["vm", "start", "db"]);
    ground.fine(&["vm", "stop", "db", "--force"]);
    let disk = ground.disk();
    ground.fine(&["vm", "backup", "restore", "off", "--name", "back"]);
    ground.until("back", "running");

    // What a QEMU that its guest broke out of could do: the disk's own header names the secret.
    lair.qemu_img(&["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", &lair.secret(), disk.to_str().unwrap()]);
    for doing in [["vm", "backup", "create", "db"].as_slice(), &["vm", "start", "db"]] {
        let said = ground.instance.perigee(doing);
        assert!(said.code != 0 && said.err.contains("no image of this host"), "{doing:?}: {} {}", said.code, said.err);
    }
    assert!(scribe.is_at_it());

    let lines = scribe.lines();
    lair.is_untouched(&lines);
    // The book tells: a tool was started, and opened the disk and the image below it.
    let files = opened(&lines, "qemu-nbd");
    let (disk, cache) = (disk.to_str().unwrap(), ground.instance.path().join("agent/cache/sha256"));
    assert!(files.iter().any(|file| file == disk) && files.iter().any(|file| Path::new(file).starts_with(&cache)));
    let system = |file: &String| OF_THE_SYSTEM.iter().any(|known| file.starts_with(known));
    let vms = ground.instance.path().join("vms");
    let strange: Vec<_> = files.iter().filter(|file| !system(file)).collect();
    let ours = |file: &&&String| Path::new(file).starts_with(&vms) || Path::new(file).starts_with(&cache);
    assert_eq!(strange.iter().filter(|file| !ours(file)).collect::<Vec<_>>(), Vec::<&&String>::new());
    drop(scribe);

    ground.fine(&["vm", "stop", "back", "--force"]);
    let back = ground.id("back");
    let restored = vms.join("disks").join(back).join("disk.qcow2");
    lair.qemu_img(&["convert", "-f", "qcow2", "-O", "raw", restored.to_str().unwrap(), "restored.raw"]);
    let sector = &fs::read(lair.at("restored.raw")).unwrap()[..512];
    assert!(sector.starts_with(b"QFI\xfb"), "its guest has written the header, and it came back");
    ground.fine(&["vm", "delete", "back", "--yes"]);
    ground.leaves_nothing();
    let vms = vms.to_str().unwrap();
    let tool = processes().into_iter().find(|(_, line)| line[0].contains("qemu-nbd") && line.concat().contains(vms));
    assert_eq!(tool, None, "nothing stays behind");
}
