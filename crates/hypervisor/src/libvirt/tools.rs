//! QEMU's tools on a guest's disk while no QEMU has it.
//!
//! Owns: starting them confined to that disk, the image below it and the folder of the guest's sockets, as the user
//! that QEMU is, with the format said; lending them the disk for as long as they open it.
//! Refuses: a disk that names any file but an image of this host. A guest cannot write that name, but a QEMU that
//! it broke out of could.

use super::below::below;
use super::places::Places;
use super::snapshots::no;
use crate::HypervisorError;
use crate::nbd::Nbd;
use crate::work::{gone, off_thread, os};
use nix::libc;
use nix::unistd::{Gid, Uid, fchown, geteuid};
use perigee_confine::{ConfineError, Confined, End, Reach, Running};
use perigee_libvirt::codes;
use perigee_model::GuestId;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For qemu-nbd to listen, or to end after the last word.
const SERVER_WITHIN: Duration = Duration::from_secs(20);
/// For qemu-img to change a disk's own notes.
const CHANGE_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks whether it listens.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// What a disk's tables may take beside its bytes: 64 MiB, and this part of them.
const TABLES_BYTES: u64 = 64 << 20;
const TABLES_PART: u64 = 1024;

/// What qemu-nbd may do to a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Show it.
    Read,
    /// Take so large a disk into it.
    Write(u64),
}

/// A disk, and who is to work on it.
pub struct Bench {
    /// The guest's.
    pub disk: PathBuf,
    /// Images that a disk may lie above are in here.
    pub images: PathBuf,
    /// User and group that QEMU is.
    pub user: (u32, u32),
}

impl Bench {
    /// A qemu-nbd that shows the disk under this name in the guest's folder of sockets, and a connection to it.
    pub async fn show(
        self,
        (places, guest): (&Places, GuestId),
        export: &str,
        access: Access,
        contexts: &[&str],
    ) -> Result<Tool, HypervisorError> {
        let (places, user, socket) = (places.clone(), self.user, places.shown_disk(guest));
        let (stale, disk) = (socket.clone(), self.disk.clone());
        let (lent, mut reach) = off_thread(move || {
            places.make(guest, user)?;
            gone(&stale, fs::remove_file(&stale))?;
            self.lend()
        })
        .await?;
        let sockets = socket.parent().map(Path::to_owned);
        reach.sockets_in.extend(sockets);
        let mut arguments: Vec<OsString> =
            ["--format=qcow2", "--shared=1", "--export-name", export].map(Into::into).into();
        arguments.extend(["--socket".into(), socket.clone().into()]);
        let file_bytes_max = match access {
            Access::Read => {
                arguments.push("--read-only".into());
                0
            }
            Access::Write(bytes) => {
                reach.writes.push(disk.clone());
                bytes.saturating_add(bytes / TABLES_PART).saturating_add(TABLES_BYTES)
            }
        };
        arguments.push(disk.into());
        let confined = Confined { program: "qemu-nbd", arguments, user, reach, file_bytes_max };
        let mut process = confined.start().await.map_err(told)?;
        let nbd = listening(&mut process, &socket, export, contexts).await;
        drop(lent); // it has the disk open
        Ok(Tool { nbd: nbd?, process })
    }

    /// Removes what the disk remembers under this name. Fine when there is nothing.
    pub async fn remove_bitmap(self, name: &str) -> Result<(), HypervisorError> {
        let (user, disk) = (self.user, self.disk.clone());
        let (lent, mut reach) = off_thread(move || self.lend()).await?;
        let bytes = fs::metadata(&disk).map_err(os(format!("reading {}", disk.display())))?.len();
        reach.writes.push(disk.clone());
        let mut arguments: Vec<OsString> = ["bitmap", "--remove", "-f", "qcow2"].map(Into::into).into();
        arguments.extend([disk.into(), name.into()]);
        let file_bytes_max = bytes.saturating_add(TABLES_BYTES);
        let confined = Confined { program: "qemu-img", arguments, user, reach, file_bytes_max };
        let mut process = confined.start().await.map_err(told)?;
        let ended = tokio::time::timeout(CHANGE_WITHIN, process.end()).await;
        drop((process, lent));
        let ended = ended.map_err(|_| HypervisorError::Channel("qemu-img does not end".to_owned()))?;
        let end = ended.map_err(os("waiting for qemu-img"))?;
        if end.status.success() || end.said.contains("not found") {
            return Ok(());
        }
        Err(no(codes::FAILED, format!("qemu-img: {}", end.why())))
    }

    /// What a tool reaches, made so that it can. Blocks.
    fn lend(&self) -> Result<(Lent, Reach), HypervisorError> {
        let below = below(&self.disk, &self.images)?;
        if let Some(image) = &below {
            readable(image, self.user)?;
        }
        let lent = Lent::to(&self.disk, self.user)?;
        let reads = [self.disk.clone()].into_iter().chain(below).collect();
        Ok((lent, Reach { reads, ..Reach::default() }))
    }
}

/// A qemu-nbd that shows one qcow2 of ours, and the connection to it. It ends with either.
pub struct Tool {
    /// The connection.
    pub nbd: Nbd,
    /// The process.
    pub process: Running,
}

impl Tool {
    /// Has it write down what it has, and waits until it has ended well.
    pub async fn finish(self) -> Result<(), HypervisorError> {
        let Self { mut nbd, mut process } = self;
        nbd.flush().await?;
        nbd.close().await;
        match tokio::time::timeout(SERVER_WITHIN, process.end()).await {
            Ok(Ok(End { status, .. })) if status.success() => Ok(()),
            Ok(ended) => Err(HypervisorError::Channel(format!("qemu-nbd ended: {ended:?}"))),
            Err(_) => Err(HypervisorError::Channel("qemu-nbd does not end".to_owned())),
        }
    }
}

async fn listening(
    process: &mut Running,
    socket: &Path,
    export: &str,
    contexts: &[&str],
) -> Result<Nbd, HypervisorError> {
    let connected = async {
        loop {
            if socket.exists()
                && let Ok(nbd) = Nbd::open(socket, export, contexts).await
            {
                return nbd;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::select! {
        nbd = connected => Ok(nbd),
        ended = process.end() => {
            let End { status, said } = ended.map_err(os("waiting for qemu-nbd"))?;
            Err(no(codes::FAILED, format!("qemu-nbd: {status}: {said}")))
        }
        () = tokio::time::sleep(SERVER_WITHIN) => {
            Err(HypervisorError::Channel("qemu-nbd does not listen".to_owned()))
        }
    }
}

/// A file that is QEMU's for a while. libvirt gives it the disk of a guest that runs, and takes it back: one that
/// is off is whoever's it was before. Should we end meanwhile, it stays QEMU's, which harms nothing.
struct Lent {
    file: File,
    owner: Option<(u32, u32)>,
}

impl Lent {
    fn to(path: &Path, user: (u32, u32)) -> Result<Self, HypervisorError> {
        let doing = || format!("giving {} to QEMU", path.display());
        let careful = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(careful).open(path).map_err(os(doing()))?;
        let found = file.metadata().map_err(os(doing()))?;
        if !found.is_file() {
            return Err(os(doing())(io::Error::other("it is no file")));
        }
        let owner = (found.uid(), found.gid());
        if !geteuid().is_root() || owner.0 == user.0 {
            return Ok(Self { file, owner: None });
        }
        own(&file, user).map_err(os(doing()))?;
        Ok(Self { file, owner: Some(owner) })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(owner) = self.owner
            && let Err(error) = own(&self.file, owner)
        {
            tracing::warn!(%error, "a disk stays QEMU's");
        }
    }
}

fn own(file: &File, (user, group): (u32, u32)) -> io::Result<()> {
    fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))).map_err(io::Error::from)
}

/// An image is no secret from those who may walk to it.
fn readable(image: &Path, (user, _): (u32, u32)) -> Result<(), HypervisorError> {
    let doing = || format!("reading {}", image.display());
    let found = fs::metadata(image).map_err(os(doing()))?;
    let mode = found.permissions().mode() & 0o7777;
    if !geteuid().is_root() || found.uid() == user || mode & 0o004 != 0 {
        return Ok(());
    }
    fs::set_permissions(image, Permissions::from_mode(mode | 0o444)).map_err(os(doing()))
}

fn told(error: ConfineError) -> HypervisorError {
    match error {
        ConfineError::Missing(program) => {
            HypervisorError::BadPlan(format!("this host has no {program}: install the package `qemu-utils`"))
        }
        ConfineError::File { source, .. } | ConfineError::Start { source, .. } => {
            os("starting a tool of QEMU's")(source)
        }
    }
}
