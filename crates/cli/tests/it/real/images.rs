//! A disk that was made elsewhere, from a file and from an address to a machine that boots from it.

use super::Instance;
use super::instance::Said;
use super::libvirtd::Daemon;
use super::sitter::Sitter;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

const WORDS: &str = "booted from a disk that came from elsewhere";

/// A disk of 1 MiB whose boot sector says these words on the serial port at each tick of the clock.
pub fn disk_that_says(words: &str) -> Vec<u8> {
    #[rustfmt::skip]
    let code = [
        0x31, 0xc0,             // xor ax, ax
        0x8e, 0xd8,             // mov ds, ax
        0xfc,                   // cld
        0xbe, 0x17, 0x7c,       // again: mov si, words
        0xba, 0xf8, 0x03,       // mov dx, 0x3f8
        0xac,                   // next: lodsb
        0x84, 0xc0,             // test al, al
        0x74, 0x03,             // jz pause
        0xee,                   // out dx, al
        0xeb, 0xf8,             // jmp next
        0xfb, 0xf4,             // pause: sti; hlt
        0xeb, 0xee,             // jmp again
    ];
    let mut disk = vec![0; 1 << 20];
    disk[..code.len()].copy_from_slice(&code);
    disk[code.len()..code.len() + words.len()].copy_from_slice(words.as_bytes());
    disk[code.len() + words.len()] = b'\n';
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

fn disk() -> Vec<u8> {
    disk_that_says(WORDS)
}

fn qemu_img(folder: &Path, arguments: &[&str]) {
    let done = Command::new("qemu-img").args(arguments).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Serves these bytes to the first who asks.
fn serve(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let head = BufReader::new(socket.try_clone().unwrap())
            .lines()
            .take_while(|line| line.as_ref().is_ok_and(|l| !l.is_empty()));
        assert!(head.count() > 0);
        write!(socket, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len()).unwrap();
        socket.write_all(&bytes).unwrap();
    });
    format!("http://{at}/disk.raw")
}

fn sum(path: &Path) -> String {
    let said = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(said.stdout).unwrap()[..64].to_owned()
}

#[test]
fn real_a_disk_from_elsewhere_boots() {
    let daemon = Daemon::start();
    let instance = Instance::empty();
    let mut up = instance.command(&["up", "--detach"]);
    up.env("PERIGEE_LIBVIRT_SOCKET", daemon.socket()).env("PERIGEE_VM_DIR", instance.path().join("vms"));
    Said::from(up.env("PERIGEE_OUTBOUND_ALLOW", "127.0.0.1").output().unwrap()).fine();
    let folder = instance.path().join("files");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("disk.raw"), disk()).unwrap();
    qemu_img(&folder, &["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    qemu_img(&folder, &["create", "-q", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", "layer.qcow2"]);
    std::os::unix::fs::symlink("disk.raw", folder.join("link")).unwrap();
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();

    let layer = instance.perigee(&["image", "import", "bad", "--file", &at("layer.qcow2")]);
    assert!(layer.code != 0 && layer.err.contains("PRG-7011") && layer.err.contains("/etc/hostname"), "{}", layer.err);
    let link = instance.perigee(&["image", "import", "bad", "--file", &at("link")]);
    assert!(link.code == 2 && link.err.contains("symbolic link"), "{}", link.err);

    instance.perigee(&["image", "import", "filed", "--file", &at("disk.qcow2")]).fine();
    let (url, raw) = (serve(disk()), sum(&folder.join("disk.raw")));
    instance.perigee(&["image", "import", "fetched", "--from", &url, "--sha256", &raw, "--format", "raw"]).fine();
    assert_eq!(instance.json(&["image", "get", "fetched"])["parts"][0]["digest"], raw.as_str());
    let sandbox = instance.perigee(&["sandbox", "create", "--name", "s", "--image", "filed"]);
    assert!(sandbox.code != 0 && sandbox.err.contains("no kernel of its own"), "{}", sandbox.err);

    for (name, image) in [("one", "filed"), ("two", "fetched")] {
        let create = ["vm", "create", name, "--image", image, "--memory", "64MiB", "--disk", "16MiB"];
        instance.perigee(&create).fine();
        let mut sitter = Sitter::at(&instance, name);
        sitter.hears(WORDS);
        sitter.dies();
        instance.perigee(&["vm", "delete", name, "--yes"]).fine();
        instance.perigee(&["image", "delete", image]).fine();
    }
    assert_eq!(daemon.virsh(&["list", "--all", "--name"]), "");
    let blobs = instance.path().join("blobs");
    let left = |folder: &str| std::fs::read_dir(blobs.join(folder)).unwrap().count();
    assert_eq!((left("sha256"), left("temp")), (0, 0), "nothing stays behind");
    // The upload that was refused can be gone on with for a day, or thrown away.
    assert_eq!(left("partial"), 1);
}

#[test]
fn real_an_image_of_the_catalogue_comes_with_the_vm() {
    let daemon = Daemon::start();
    let instance = Instance::empty();
    let mut up = instance.command(&["up", "--detach"]);
    up.env("PERIGEE_LIBVIRT_SOCKET", daemon.socket()).env("PERIGEE_VM_DIR", instance.path().join("vms"));
    Said::from(up.env("PERIGEE_OUTBOUND_ALLOW", "127.0.0.1").output().unwrap()).fine();
    std::fs::write(instance.path().join("tiny.raw"), disk()).unwrap();
    let (url, sum) = (serve(disk()), sum(&instance.path().join("tiny.raw")));
    let of_raw = format!("url = \"{url}\"\nchecksum = \"sha256:{sum}\"\nformat = \"raw\"\narch = \"x86_64\"\n");
    let entry = format!("[\"tiny-1.0\"]\n{of_raw}");
    std::fs::write(instance.path().join("catalogue.toml"), entry).unwrap();
    let create = |more: &[&str]| {
        instance.perigee(&[&["vm", "create", "--image", "tiny-1.0", "--memory", "64MiB"], more].concat())
    };

    let refused = create(&["never", "--no-import"]);
    assert!(refused.code != 0 && refused.err.contains("PRG-3003"), "{}", refused.err);
    assert!(refused.err.contains("perigee image import --catalog tiny-1.0"), "{}", refused.err);
    let unknown = instance.perigee(&["vm", "create", "never", "--image", "tiny-2.0"]);
    assert!(unknown.code != 0 && unknown.err.contains("PRG-3003"), "{}", unknown.err);
    let planned = create(&["never", "--dry-run"]).fine();
    assert!(planned.contains("would be imported from the catalogue first") && planned.contains(&url), "{planned}");
    assert_eq!(instance.json(&["image", "list"]), serde_json::json!([]), "nothing was done");

    let first = create(&["one"]);
    assert!(first.err.contains("it is imported from the catalogue first"), "{}", first.err);
    first.fine();
    assert_eq!(instance.json(&["image", "get", "tiny-1-0"])["parts"][0]["bytes"], 1 << 20);
    // The address answers once: the second is made of what is here.
    let second = create(&["two"]);
    assert!(!second.err.contains("imported"), "{}", second.err);
    second.fine();
    for name in ["one", "two"] {
        instance.perigee(&["vm", "delete", name, "--yes"]).fine();
    }
}
