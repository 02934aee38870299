//! The archive that Linux unpacks into its first root: SVR4 `newc` without checksums.
//!
//! Format: Documentation/driver-api/early-userspace/buffer-format.rst in Linux. A header is the
//! magic `070701` and 13 fields of 8 hex digits; header plus name, and data, are padded to 4 bytes;
//! the archive ends with an entry named `TRAILER!!!`.
//!
//! Deterministic: entries are sorted by path, owned by root, dated 1970, inodes are counted up.
//! Deliberately absent: hard links, devices but the console, files of 4 GiB and more.

use std::collections::BTreeMap;

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
/// The kernel reads an archive in any block size; tools expect whole ones.
const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// An empty directory; its entries are entries of their own.
    Directory,
    /// A directory in which anyone may make files, and remove only their own (mode 1777).
    Scratch,
    /// A file's bytes and whether it may be run.
    File {
        /// Contents.
        bytes: Vec<u8>,
        /// Mode 0755 instead of 0644.
        executable: bool,
    },
    /// Where a symbolic link points.
    Link(String),
    /// A character device.
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Why an entry was not taken.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum CpioError {
    /// Absolute, empty, with `.`, `..` or NUL, or the trailer's name.
    #[error("{0:?} is not a path an archive may hold")]
    BadPath(String),
    /// Two entries of one name.
    #[error("{0} is in the archive twice")]
    Twice(String),
    /// Longer than the format can say.
    #[error("{0} does not fit into the archive: 4 GiB is the format's limit")]
    TooLarge(String),
}

/// An archive in the making.
#[derive(Default, Debug)]
pub struct Archive {
    nodes: BTreeMap<String, Node>,
}

impl Archive {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry, and the directories above it. A directory may be added again.
    pub fn add(&mut self, path: &str, node: Node) -> Result<(), CpioError> {
        check_path(path)?;
        if let Node::File { bytes, .. } = &node
            && u32::try_from(bytes.len()).is_err()
        {
            return Err(CpioError::TooLarge(path.to_owned()));
        }
        let mut above = path;
        while let Some(cut) = above.rfind('/') {
            above = &above[..cut];
            match self.nodes.get(above) {
                Some(Node::Directory | Node::Scratch) => break,
                Some(_) => return Err(CpioError::Twice(above.to_owned())),
                None => _ = self.nodes.insert(above.to_owned(), Node::Directory),
            }
        }
        match (self.nodes.get(path), &node) {
            (None, _) => _ = self.nodes.insert(path.to_owned(), node),
            (Some(Node::Directory), Node::Directory) => {}
            (Some(_), _) => return Err(CpioError::Twice(path.to_owned())),
        }
        Ok(())
    }

    /// The archive's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.nodes.values().map(Node::size).sum::<usize>() + self.nodes.len() * 160);
        for (inode, (path, node)) in (1u32..).zip(&self.nodes) {
            append(&mut out, inode, path, node);
        }
        append(&mut out, 0, TRAILER, &Node::Link(String::new()));
        pad(&mut out, BLOCK);
        out
    }
}

impl Node {
    fn mode(&self) -> u32 {
        match self {
            Node::Directory => 0o040_755,
            Node::Scratch => 0o041_777,
            Node::File { executable: true, .. } => 0o100_755,
            Node::File { executable: false, .. } => 0o100_644,
            Node::Link(_) => 0o120_777,
            Node::Device { .. } => 0o020_600,
        }
    }
    fn bytes(&self) -> &[u8] {
        match self {
            Node::File { bytes, .. } => bytes,
            Node::Link(target) => target.as_bytes(),
            Node::Directory | Node::Scratch | Node::Device { .. } => &[],
        }
    }
    fn size(&self) -> usize {
        self.bytes().len()
    }
    fn device(&self) -> (u32, u32) {
        match self {
            Node::Device { major, minor } => (*major, *minor),
            Node::Directory | Node::Scratch | Node::File { .. } | Node::Link(_) => (0, 0),
        }
    }
}

fn check_path(path: &str) -> Result<(), CpioError> {
    let piece_fits = |piece: &str| !matches!(piece, "" | "." | "..") && !piece.contains('\0');
    let fits = path.split('/').all(piece_fits) && path != TRAILER && path.len() < 4096;
    if fits { Ok(()) } else { Err(CpioError::BadPath(path.to_owned())) }
}

fn append(out: &mut Vec<u8>, inode: u32, name: &str, node: &Node) {
    let mode = if name == TRAILER { 0 } else { node.mode() };
    let links = if matches!(node, Node::Directory | Node::Scratch) { 2 } else { 1 };
    let (major, minor) = node.device();
    let name_size = name.len() + 1;
    out.extend_from_slice(MAGIC.as_bytes());
    // inode mode uid gid links mtime size device(major minor) rdevice(major minor) name check
    let fields = [inode, mode, 0, 0, links, 0, node.size() as u32, 0, 0, major, minor, name_size as u32, 0];
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out, 4);
    out.extend_from_slice(node.bytes());
    pad(out, 4);
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    fn sample(reverse: bool) -> Archive {
        let file = |text: &str, executable| Node::File { bytes: text.as_bytes().to_vec(), executable };
        let mut entries = vec![
            ("init", file("#!/bin/sh\n", true)),
            ("bin/busybox", file("x", true)),
            ("bin/sh", Node::Link("busybox".into())),
            ("etc/empty", file("", false)),
            ("etc/hostname", file("perigee\n", false)),
            ("dev/console", Node::Device { major: 5, minor: 1 }),
            ("proc", Node::Directory),
        ];
        if reverse {
            entries.reverse();
        }
        let mut archive = Archive::new();
        for (path, node) in entries {
            archive.add(path, node).unwrap();
        }
        archive
    }

    /// Runs the system's cpio on the archive, in `dir`.
    fn cpio(arguments: &[&str], bytes: &[u8], dir: &std::path::Path) -> String {
        let mut child = Command::new("cpio")
            .args(arguments)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cpio: scripts/setup test installs it");
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    #[test]
    fn the_order_of_adding_does_not_matter() {
        assert_eq!(sample(false).to_bytes(), sample(true).to_bytes());
    }

    #[test]
    fn gnu_cpio_lists_it() {
        let listed = cpio(&["-t", "--quiet"], &sample(false).to_bytes(), std::path::Path::new("/"));
        let expected = "bin\nbin/busybox\nbin/sh\ndev\ndev/console\netc\netc/empty\netc/hostname\ninit\nproc\n";
        assert_eq!(listed, expected);
        let long = cpio(&["-tv", "--quiet", "--numeric-uid-gid"], &sample(false).to_bytes(), std::path::Path::new("/"));
        assert!(long.contains("crw-------") && long.contains("5,   1"), "{long}");
        assert!(long.lines().all(|line| line.contains("1970")), "{long}");
    }

    #[test]
    fn gnu_cpio_unpacks_it() {
        let dir = tempfile::tempdir().unwrap();
        cpio(&["-i", "--quiet", "--no-preserve-owner", "-f", "dev/console"], &sample(false).to_bytes(), dir.path());
        assert_eq!(std::fs::read_to_string(dir.path().join("etc/hostname")).unwrap(), "perigee\n");
        assert_eq!(std::fs::read(dir.path().join("etc/empty")).unwrap(), b"");
        assert_eq!(std::fs::read_link(dir.path().join("bin/sh")).unwrap(), std::path::Path::new("busybox"));
        assert!(dir.path().join("proc").is_dir());
        let mode = std::os::unix::fs::PermissionsExt::mode(&dir.path().join("init").metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn paths_that_leave_the_root_are_refused() {
        for path in ["", "/etc", "a//b", "../x", "a/../b", "a/.", "a\0b", "TRAILER!!!", "a/"] {
            let refused = Archive::new().add(path, Node::Directory);
            assert_eq!(refused, Err(CpioError::BadPath(path.to_owned())), "{path:?}");
        }
    }

    #[test]
    fn a_name_is_taken_once() {
        let mut archive = sample(false);
        assert_eq!(archive.add("init", Node::Directory), Err(CpioError::Twice("init".into())));
        assert_eq!(archive.add("init/below", Node::Directory), Err(CpioError::Twice("init".into())));
        assert_eq!(archive.add("proc", Node::Directory), Ok(()));
    }
}
