//! What a confined process reaches of the file system, as rules of Landlock's.
//!
//! Owns: the rules for files, TCP and abstract sockets. Refuses: folders with anything in them but sockets: a file
//! is named, or it is not reached.

use crate::{ConfineError, child};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, Scope, make_bitflags,
};
use nix::libc;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Once;

/// Programs are loaded from here. What does not exist counts for nothing.
const LIBRARIES: [&str; 7] = ["/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib"];
/// What the loader and the libraries read before a program begins.
const READ_AT_START: [&str; 3] = ["/etc/ld.so.cache", "/dev/urandom", "/dev/random"];
const NOWHERE: &str = "/dev/null";
/// The newest rules that are asked for; an older kernel applies what it has of them.
const NEWEST: ABI = ABI::V6;
/// From this version on TCP can be forbidden.
const FORBIDS_TCP: i64 = 4;

/// The files that a process reaches beside its own program and libraries.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// It may read these.
    pub reads: Vec<PathBuf>,
    /// It may read and write these.
    pub writes: Vec<PathBuf>,
    /// It may make sockets in these folders, and remove what is in them.
    pub sockets_in: Vec<PathBuf>,
}

/// Rules for the child to put on itself.
pub struct Rules {
    /// None where the kernel has no Landlock.
    pub fd: Option<OwnedFd>,
    /// They keep it from TCP.
    pub denies_tcp: bool,
}

impl Reach {
    /// The rules for this program.
    ///
    /// # Errors
    /// `File` for a path that is not there, or is a symbolic link; `Start`.
    pub(crate) fn rules(&self, program: &Path) -> Result<Rules, ConfineError> {
        let failed = |error| told(program, error);
        let begun = Ruleset::default().handle_access(AccessFs::from_all(NEWEST));
        let begun = begun.and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)));
        let begun = begun.and_then(|rules| rules.scope(Scope::from_all(NEWEST)));
        let mut rules = begun.and_then(Ruleset::create).map_err(failed)?;
        for (path, access) in of_the_system(program).filter(|(path, _)| path.exists()) {
            rules = allow(rules, path, access, Links::Followed)?;
        }
        let reads = self.reads.iter().map(|path| (path, make_bitflags!(AccessFs::{ReadFile})));
        let writes = self.writes.iter().map(|path| (path, make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate})));
        let sockets = self.sockets_in.iter().map(|path| (path, make_bitflags!(AccessFs::{MakeSock | RemoveFile})));
        for (path, access) in reads.chain(writes).chain(sockets) {
            rules = allow(rules, path, access, Links::Refused)?;
        }
        let fd: Option<OwnedFd> = rules.into();
        if fd.is_none() {
            static SAID: Once = Once::new();
            SAID.call_once(|| tracing::info!("this kernel has no Landlock: programs are confined without it"));
        }
        Ok(Rules { denies_tcp: fd.is_some() && child::landlock_version() >= FORBIDS_TCP, fd })
    }
}

/// What every program needs to begin.
fn of_the_system(program: &Path) -> impl Iterator<Item = (&Path, BitFlags<AccessFs>)> {
    let libraries = LIBRARIES.iter().map(|path| (Path::new(path), AccessFs::from_read(NEWEST)));
    let files = READ_AT_START.iter().map(|path| (Path::new(path), make_bitflags!(AccessFs::{ReadFile})));
    let nowhere = (Path::new(NOWHERE), make_bitflags!(AccessFs::{ReadFile | WriteFile}));
    libraries.chain(files).chain([nowhere, (program, make_bitflags!(AccessFs::{ReadFile | Execute}))])
}

/// Whether a path may be a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    Followed,
    Refused,
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
    links: Links,
) -> Result<RulesetCreated, ConfineError> {
    let failed = |source| ConfineError::File { path: path.to_owned(), source };
    let held = match links {
        Links::Followed => libc::O_PATH,
        Links::Refused => libc::O_PATH | libc::O_NOFOLLOW,
    };
    let file = File::options().read(true).custom_flags(held).open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_symlink() {
        return Err(failed(io::Error::other("it is a symbolic link")));
    }
    rules.add_rule(PathBeneath::new(file, access)).map_err(|error| told(path, error))
}

fn told(what: &Path, error: RulesetError) -> ConfineError {
    ConfineError::Start { program: what.display().to_string(), source: io::Error::other(error) }
}
