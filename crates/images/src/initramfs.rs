//! The root of `base`: perigee-guest as init, busybox as everything else, modules for virtio.
//!
//! Not compressed: unpacking 4.8 MB of gzip in an emulated guest costs 0.14 s of processor time, reading
//! it raw nearly nothing.

use crate::cpio::{Archive, CpioError, Node};
use crate::error::ImageError;

/// Where the guest finds its modules, one path a line, in load order.
pub const MODULES_LIST: &str = "etc/perigee/modules";
/// The same for those that a full machine loads when it has said hello.
pub const LATER_LIST: &str = "etc/perigee/modules-later";
/// There where the root is on the disk that the kernel's `root=` names.
pub const LEADS_TO_ROOT: &str = "etc/perigee/leads-to-root";
/// What busybox's DHCP client runs at each change of its lease.
const LEASE_SCRIPT: &str = "etc/perigee/lease";
const LEASE: &str = include_str!("lease.sh");

/// What the image is made of.
pub struct Parts<'a> {
    /// perigee-guest.
    pub init: Vec<u8>,
    /// busybox, static.
    pub busybox: Vec<u8>,
    /// Its applets' names.
    pub applets: Vec<&'a str>,
    /// File name and bytes, in load order.
    pub modules: Vec<(String, Vec<u8>)>,
    /// The same, for full machines and later.
    pub later: Vec<(String, Vec<u8>)>,
    /// `uname -r`.
    pub release: &'a str,
}

const DIRECTORIES: &[&str] = &["bin", "dev", "mnt", "proc", "run", "sys", "usr", "var"];
const FILES: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/hostname", "sandbox\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/os-release", "NAME=\"Perigee base\"\nID=perigee\nPRETTY_NAME=\"Perigee base\"\n"),
    ("root/.keep", ""),
];
/// One directory of programs, under every name that scripts expect.
const LINKS: &[(&str, &str)] = &[("sbin", "bin"), ("usr/bin", "../bin"), ("usr/sbin", "../bin"), ("var/run", "../run")];

/// The archive's bytes: the same for the same parts.
pub fn build(parts: Parts<'_>) -> Result<Vec<u8>, ImageError> {
    let mut archive = Archive::new();
    for path in DIRECTORIES {
        archive.add(path, Node::Directory)?;
    }
    for path in ["tmp", "var/tmp"] {
        archive.add(path, Node::Scratch)?;
    }
    for (path, text) in FILES {
        archive.add(path, text_file(text))?;
    }
    for (path, target) in LINKS {
        archive.add(path, Node::Link((*target).to_owned()))?;
    }
    archive.add("dev/console", Node::Device { major: 5, minor: 1 })?;
    archive.add("dev/null", Node::Device { major: 1, minor: 3 })?;
    archive.add("init", program(parts.init))?;
    archive.add("bin/busybox", program(parts.busybox))?;
    for applet in parts.applets {
        add_applet(&mut archive, applet)?;
    }
    for (list, modules) in [(MODULES_LIST, parts.modules), (LATER_LIST, parts.later)] {
        add_modules(&mut archive, list, modules)?;
    }
    archive.add(LEASE_SCRIPT, program(LEASE.as_bytes().to_vec()))?;
    archive.add("etc/perigee/kernel-release", text_file(&format!("{}\n", parts.release)))?;
    Ok(archive.to_bytes())
}

/// What only leads to the root on a disk: perigee-guest and these modules, in load order.
pub fn build_leading(init: Vec<u8>, modules: Vec<(String, Vec<u8>)>) -> Result<Vec<u8>, ImageError> {
    let mut archive = Archive::new();
    for path in ["dev", "mnt", "proc", "run", "sys"] {
        archive.add(path, Node::Directory)?;
    }
    archive.add("tmp", Node::Scratch)?;
    archive.add("dev/console", Node::Device { major: 5, minor: 1 })?;
    archive.add("dev/null", Node::Device { major: 1, minor: 3 })?;
    archive.add("init", program(init))?;
    archive.add(LEADS_TO_ROOT, text_file(""))?;
    add_modules(&mut archive, MODULES_LIST, modules)?;
    Ok(archive.to_bytes())
}

fn add_modules(archive: &mut Archive, list: &str, modules: Vec<(String, Vec<u8>)>) -> Result<(), CpioError> {
    let mut order = String::new();
    for (name, bytes) in modules {
        let path = format!("lib/modules/{name}");
        order += &format!("/{path}\n");
        archive.add(&path, Node::File { bytes, executable: false })?;
    }
    archive.add(list, text_file(&order))
}

/// An applet's name is a word: nothing that leaves `bin/`.
fn add_applet(archive: &mut Archive, applet: &str) -> Result<(), CpioError> {
    if applet == "busybox" || applet.is_empty() {
        return Ok(());
    }
    if applet.contains('/') {
        return Err(CpioError::BadPath(applet.to_owned()));
    }
    archive.add(&format!("bin/{applet}"), Node::Link("busybox".to_owned()))
}

fn text_file(text: &str) -> Node {
    Node::File { bytes: text.as_bytes().to_vec(), executable: false }
}

fn program(bytes: Vec<u8>) -> Node {
    Node::File { bytes, executable: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>(applets: Vec<&'a str>) -> Parts<'a> {
        let modules = vec![("virtio.ko".to_owned(), b"v".to_vec()), ("a.ko".to_owned(), b"a".to_vec())];
        let later = vec![("button.ko".to_owned(), b"p".to_vec())];
        Parts { init: b"i".to_vec(), busybox: b"b".to_vec(), applets, modules, later, release: "6.1" }
    }

    #[test]
    fn the_same_parts_give_the_same_bytes() {
        let first = build(parts(vec!["sh", "[", "ls"])).unwrap();
        assert_eq!(first, build(parts(vec!["ls", "sh", "["])).unwrap());
        assert_ne!(first, build(parts(vec!["ls", "sh"])).unwrap());
        let text = String::from_utf8_lossy(&first).into_owned();
        assert!(text.contains("/lib/modules/virtio.ko\n/lib/modules/a.ko\n"), "load order is kept");
        assert!(text.contains("etc/perigee/modules-later") && text.contains("/lib/modules/button.ko\n"), "and apart");
    }

    #[test]
    fn what_leads_to_a_disk_has_no_programs_of_its_own() {
        let modules = vec![("virtio_blk.ko".to_owned(), b"v".to_vec()), ("ext4.ko".to_owned(), b"e".to_vec())];
        let bytes = build_leading(b"i".to_vec(), modules).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("/lib/modules/virtio_blk.ko\n/lib/modules/ext4.ko\n"), "load order is kept");
        assert!(!text.contains("busybox") && text.contains(LEADS_TO_ROOT));
    }

    #[test]
    fn an_applet_stays_in_its_directory() {
        assert!(build(parts(vec!["../init"])).is_err());
        assert!(build(parts(vec!["sh", "sh"])).is_err());
    }
}
