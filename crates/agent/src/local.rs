//! This host's own API: full VMs by the same routes as the control plane's, with it or without it.
//!
//! Owns: the socket (its mode says who may speak, and the speaker's user is written down) and the
//! loopback port (which wants the token of the data directory); what they answer.
//! Refuses: another tenant's view of the world, sandboxes' verbs, and web pages that would speak to it.
//!
//! ```text
//! perigee --agent vm stop db ──agent.sock──▶ verbs ──▶ intents ──▶ the guest's actor
//!                                                        └─────▶ the control plane, when it is there
//! ```

mod http;
mod verbs;

use crate::world::World;
use nix::unistd::{Gid, chown};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Mutex, Semaphore, mpsc};

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// After a connection that could not be taken.
const AGAIN: Duration = Duration::from_millis(100);
/// Members may speak to the socket, where the machine itself has such a group.
const GROUP: &str = "perigee";

/// Where this host's users speak to the agent.
pub enum Listener {
    /// A socket; its mode says who may.
    Unix {
        /// It.
        listener: UnixListener,
        /// Removed when it is dropped.
        path: PathBuf,
    },
    /// A loopback port, for who has the token.
    Tcp {
        /// It.
        listener: TcpListener,
        /// What must be shown.
        token: String,
    },
    /// Whoever has the other end, in this process: a user of a simulated host.
    Within(Mutex<mpsc::Receiver<(DuplexStream, u32)>>),
}

impl Listener {
    /// Makes the socket: 0660 and of the group `perigee` where there is one, else 0600.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn unix(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let listener = UnixListener::bind(path)?;
        let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
        let group = group_in(&groups).filter(|_| nix::unistd::geteuid().is_root());
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        if let Some(group) = group {
            chown(path, None, Some(group)).map_err(io::Error::from)?;
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        Ok(Self::Unix { listener, path: path.to_owned() })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix { path, .. } = self {
            // Gone already: as it should be.
            drop(std::fs::remove_file(path));
        }
    }
}

/// The group, by group(5). Not by the C library's name service: that loads what a machine knows of other
/// directories into this process, and keeps it there.
fn group_in(groups: &str) -> Option<Gid> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(GROUP);
        fields.nth(1).filter(|_| is_it)?.parse().ok().map(Gid::from_raw)
    })
}

/// Serves one of them until the agent ends.
pub(crate) async fn serve(listener: Arc<Listener>, world: Arc<World>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = match &*listener {
            Listener::Unix { listener, .. } => match listener.accept().await {
                Ok((stream, _)) => {
                    let uid = stream.peer_cred().ok().map(|who| who.uid());
                    Ok(http::Connection::of_user(stream, uid))
                }
                Err(error) => Err(error),
            },
            Listener::Tcp { listener, token } => {
                listener.accept().await.map(|(stream, _)| http::Connection::with_token(stream, token.clone()))
            }
            Listener::Within(asked) => match asked.lock().await.recv().await {
                Some((stream, uid)) => Ok(http::Connection::of_user(stream, Some(uid))),
                None => return, // nobody can ask any more
            },
        };
        let Ok(connection) = accepted else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let Ok(permit) = room.clone().try_acquire_owned() else { continue };
        let of = world.clone();
        world.nursery.spawn(async move {
            let _permit = permit;
            connection.serve(of).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_by_its_whole_name() {
        let gid = |groups| group_in(groups).map(Gid::as_raw);
        assert_eq!(gid("root:x:0:\nperigee:x:998:ann,bob\n"), Some(998));
        assert_eq!(gid("perigee-admins:x:7:\nroot:x:0:perigee\nperigee:x:12:"), Some(12));
        for none in ["", "root:x:0:", "perigee", "perigee:x", "perigee:x:many:", "#perigee:x:1:"] {
            assert_eq!(gid(none), None, "{none}");
        }
    }
}
