//! When libvirt says that something happened: the same word for what is ours and for its peer.

use crate::api::PATIENCE;
use crate::libvirtd::Libvirtd;
use anyhow::{Context as _, Result, bail};
use perigee_clock::{Clock, Instant};
use perigee_libvirt::{Connection, Endpoint, EventKind, Events, Happened, Lifecycle, Notice};

/// libvirt's driver for QEMU of the whole system.
pub const DRIVER: &str = "qemu:///system";

/// A connection of the bench's own that only listens.
pub struct Witness {
    events: Events,
    clock: Clock,
}

impl Witness {
    pub async fn open(daemon: &Libvirtd, clock: Clock) -> Result<Self> {
        let libvirt = Connection::open(&Endpoint::Unix(daemon.socket()), Some(DRIVER), 0).await?;
        Ok(Self { events: libvirt.events(&[EventKind::Lifecycle], None).await?, clock })
    }

    /// When this next happens to the domain with this in its name. To be waited for beside what brings it
    /// about: what is heard later is told as having been later.
    pub async fn hears(&mut self, happens: Lifecycle, name: &str) -> Result<Instant> {
        let heard = tokio::time::timeout(PATIENCE, self.next(happens, name)).await;
        heard.with_context(|| format!("{name}: libvirt does not say {happens:?}"))?
    }

    async fn next(&mut self, happens: Lifecycle, name: &str) -> Result<Instant> {
        loop {
            match self.events.next().await? {
                Notice::Missed(missed) => bail!("{missed} events were missed"),
                Notice::Event(event) => {
                    let it = matches!(event.happened, Happened::Lifecycle(what, _) if what == happens);
                    if it && event.domain.name.contains(name) {
                        return Ok(self.clock.instant());
                    }
                }
            }
        }
    }
}
