//! Bringing a guest up, in steps that can be undone.
//!
//! ```text
//! look: is it ours, does it run? ─▶ folder ─▶ parts ─▶ disk ─▶ seed ─▶ definition ─▶ running
//! ```
//! Owns: the steps. What exists and fits is kept, above all the disk; a definition is written anew, so
//! that a changed size holds from this start on.
//! Refuses: a hardware address that another domain of this host has.

use super::cards::Cards;
use super::connections::Ask;
use super::facts::Facts;
use super::host::{Host, Ours, VMM_WITHIN};
use super::machine::{Card, Checked, Machine, SecondName, Wire};
use super::seed::{Card as Told, Seed};
use super::seen::Life;
use super::{below, xml};
use crate::qcow2;
use crate::work::{gone, off_thread, room_or_os};
use crate::workflow::{self, Step};
use crate::{Found, HypervisorError, Plan};
use async_trait::async_trait;
use perigee_libvirt::{Connection, Error, State, codes, create, define};
use perigee_model::GuestId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// Brings the guest up, or finds it up.
pub async fn start(host: &Arc<Host>, plan: Plan) -> Result<Found, HypervisorError> {
    let (guest, began) = (plan.guest, host.clock.instant());
    if plan.vm.as_ref().is_some_and(|vm| vm.adopted) {
        return start_adopted(host, plan).await;
    }
    let (checked, plan) = off_thread(move || Ok((Checked::of(&plan)?, plan))).await?;
    let found = host.find(guest).await?;
    if let Some(ours) = found.as_ref().filter(|ours| ours.life.is_up()) {
        return already_up(host, ours, plan).await;
    }
    let work = Work::new(host.clone(), checked, found).await?;
    work.run().await?;
    let found = now_up(host, guest).await?;
    let libvirt = Duration::from_micros(work.libvirt_us.load(Ordering::Relaxed));
    let ours = began.elapsed().saturating_sub(libvirt);
    tracing::info!(%guest, domain = work.machine.domain, ?ours, ?libvirt, "domain started");
    Ok(found)
}

/// One that was here before us is started by its owner's definition, and from where it was saved.
async fn start_adopted(host: &Arc<Host>, plan: Plan) -> Result<Found, HypervisorError> {
    let ours = host.find(plan.guest).await?.ok_or(HypervisorError::NotRunning)?;
    if ours.life.is_up() {
        return already_up(host, &ours, plan).await;
    }
    run(host, plan.guest.uuid(), 0).await?;
    tracing::info!(guest = %plan.guest, domain = ours.domain.name, "domain started as its owner defined it");
    now_up(host, plan.guest).await
}

async fn now_up(host: &Arc<Host>, guest: GuestId) -> Result<Found, HypervisorError> {
    let ours = host.running(guest).await.map_err(|error| match error {
        HypervisorError::NotRunning => HypervisorError::DidNotStart("it ended at once".to_owned()),
        error => error,
    })?;
    host.seen.set(guest, ours.life);
    host.found(&ours).await
}

/// The memo is the newest start's, also when there was nothing else to do.
async fn already_up(host: &Arc<Host>, ours: &Ours, plan: Plan) -> Result<Found, HypervisorError> {
    let mut ours = ours.clone();
    if ours.mark.memo != plan.memo {
        ours.mark.memo = plan.memo;
        host.write_mark(&ours, Some(&ours.mark)).await?;
    }
    host.seen.set(plan.guest, ours.life);
    host.found(&ours).await
}

/// One start: what its steps share.
pub struct Work {
    host: Arc<Host>,
    facts: Arc<Facts>,
    checked: Checked,
    machine: Machine,
    /// Second names of its image's parts.
    links: Vec<SecondName>,
    /// It was defined before: then an undo leaves its definition and its disk.
    defined: bool,
    /// What libvirt took to define and to start it, in microseconds.
    libvirt_us: AtomicU64,
}

impl Work {
    pub async fn new(host: Arc<Host>, mut checked: Checked, found: Option<Ours>) -> Result<Self, HypervisorError> {
        let facts = host.facts().await?;
        let name = found.as_ref().map(|ours| ours.domain.name.as_str());
        let links = checked.reach(&host.places, facts.qemu_user);
        let machine = checked.machine(&host.instance, &facts, &host.places, name)?;
        let libvirt_us = AtomicU64::default();
        let work = Self { defined: found.is_some(), facts, checked, machine, links, host, libvirt_us };
        work.check_network().await?;
        Ok(work)
    }

    pub async fn run(&self) -> Result<(), HypervisorError> {
        workflow::run(&[&Folder(self), &Reached(self), &Disk(self), &Seeded(self), &Defined(self), &Running(self)])
            .await
    }

    fn guest(&self) -> GuestId {
        self.checked.plan.guest
    }

    /// Time in there is libvirt's own.
    async fn in_libvirt<T>(&self, call: impl Future<Output = T>) -> T {
        let began = self.host.clock.instant();
        let answer = call.await;
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.libvirt_us.fetch_add(took, Ordering::Relaxed);
        answer
    }

    /// The network is there, is brought up, and nobody else on this host has the card's address.
    async fn check_network(&self) -> Result<(), HypervisorError> {
        // Who has which address on a TAP's network is not libvirt's to say.
        let Some(Card { on: Wire::Network(network), mac }) = &self.machine.nic else { return Ok(()) };
        let bad = |text: String| HypervisorError::BadPlan(text);
        let asked = self.host.control.ask(async |libvirt| {
            let found = libvirt.network_by_name(network).await?;
            if !libvirt.network_is_active(&found).await? {
                match libvirt.start_network(&found).await {
                    Err(error) if error.code() != Some(codes::NOT_NOW) => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
            holder(&self.host.cards, &libvirt, mac, self.machine.uuid).await
        });
        match asked.await {
            Ok(None) => Ok(()),
            Ok(Some(other)) => Err(bad(format!("the hardware address {mac} is the domain {other}'s already"))),
            Err(ask) if ask.code() == Some(codes::NO_NETWORK) => Err(bad(format!("libvirt has no network {network}"))),
            Err(ask) => Err(ask.told()),
        }
    }
}

/// The other domain that has this hardware address, if there is one.
async fn holder(cards: &Cards, libvirt: &Connection, mac: &str, own: Uuid) -> Result<Option<String>, Error> {
    for domain in libvirt.domains(0).await?.into_iter().filter(|domain| domain.uuid != own) {
        let has = match cards.has(domain.uuid, mac) {
            Some(has) => has,
            None => {
                let reading = cards.reading();
                let definition = match libvirt.domain_xml(&domain, 0).await {
                    Err(error) if error.code() == Some(codes::NO_DOMAIN) => continue,
                    definition => definition?,
                };
                let addresses = xml::hardware_addresses(&definition);
                let has = addresses.iter().any(|address| address == mac);
                cards.note(reading, domain.uuid, addresses);
                has
            }
        };
        if has {
            return Ok(Some(domain.name));
        }
    }
    Ok(None)
}

/// The guest's directory: made first, removed last.
pub struct Folder<'a>(pub &'a Work);

#[async_trait]
impl Step for Folder<'_> {
    fn name(&self) -> &'static str {
        "folder"
    }
    async fn is_done(&self) -> Result<bool, HypervisorError> {
        // The sockets' place is on a file system that a restart of the host empties.
        let (places, guest, user) = (self.0.host.places.clone(), self.0.guest(), self.0.facts.qemu_user);
        off_thread(move || match places.has(guest) {
            true => places.make(guest, user).map(|()| true),
            false => Ok(false),
        })
        .await
    }
    async fn perform(&self) -> Result<(), HypervisorError> {
        let (places, guest, user) = (self.0.host.places.clone(), self.0.guest(), self.0.facts.qemu_user);
        off_thread(move || places.make(guest, user)).await
    }
    async fn undo(&self) -> Result<(), HypervisorError> {
        let (places, guest) = (self.0.host.places.clone(), self.0.guest());
        off_thread(move || places.remove(guest)).await
    }
}

/// Its image's parts, where QEMU's user reaches them. A second name takes up nothing, and goes with the folder.
pub struct Reached<'a>(pub &'a Work);

#[async_trait]
impl Step for Reached<'_> {
    fn name(&self) -> &'static str {
        "parts"
    }
    async fn is_done(&self) -> Result<bool, HypervisorError> {
        Ok(self.0.links.iter().all(|link| link.name.exists()))
    }
    async fn perform(&self) -> Result<(), HypervisorError> {
        let links = self.0.links.clone();
        off_thread(move || {
            for SecondName { file, name } in links.iter().filter(|link| !link.name.exists()) {
                let linked = std::fs::hard_link(file, name);
                linked.map_err(room_or_os(format!("naming {} {}", file.display(), name.display())))?;
            }
            Ok(())
        })
        .await
    }
    async fn undo(&self) -> Result<(), HypervisorError> {
        // The disk of one that was there before stands on them.
        let links = if self.0.defined { Vec::new() } else { self.0.links.clone() };
        off_thread(move || links.iter().try_for_each(|SecondName { name, .. }| gone(name, std::fs::remove_file(name))))
            .await
    }
}

/// Its disk: above the image's, or empty.
pub struct Disk<'a>(pub &'a Work);

#[async_trait]
impl Step for Disk<'_> {
    fn name(&self) -> &'static str {
        "disk"
    }
    async fn is_done(&self) -> Result<bool, HypervisorError> {
        let (disk, images) = (self.0.host.places.disk(self.0.guest()), self.0.host.images.clone());
        if self.0.checked.disk.is_none() {
            return Ok(true);
        }
        // libvirt opens what the disk names, and gives it to QEMU.
        off_thread(move || Ok(disk.exists() && below::below(&disk, &images).map(|_| true)?)).await
    }
    async fn perform(&self) -> Result<(), HypervisorError> {
        let (path, plan) = (self.0.host.places.disk(self.0.guest()), self.0.checked.disk.clone());
        let Some(plan) = plan else { return Ok(()) };
        let reserve = self.0.host.reserve;
        off_thread(move || {
            reserve.check(path.parent().unwrap_or(&path), 0)?;
            let image = plan.image.as_ref().map(|(path, format)| (path.as_path(), *format));
            qcow2::create(&path, image, plan.bytes)
        })
        .await
    }
    async fn undo(&self) -> Result<(), HypervisorError> {
        let path = self.0.host.places.disk(self.0.guest());
        off_thread(move || gone(&path, std::fs::remove_file(&path))).await
    }
}

/// What its cloud-init reads.
pub struct Seeded<'a>(pub &'a Work);

#[async_trait]
impl Step for Seeded<'_> {
    fn name(&self) -> &'static str {
        "seed"
    }
    async fn is_done(&self) -> Result<bool, HypervisorError> {
        // An address is given anew where the host's network is another by now.
        let may_stay = self.0.checked.plan.nic.is_none() && self.0.host.places.seed(self.0.guest()).exists();
        Ok(self.0.checked.user_data.is_none() || may_stay)
    }
    async fn perform(&self) -> Result<(), HypervisorError> {
        let (path, checked) = (self.0.host.places.seed(self.0.guest()), self.0.checked.clone());
        let card = match &checked.plan.nic {
            Some(nic) => Some(Told::Given(nic.clone())),
            None => self.0.machine.nic.as_ref().map(|card| Told::Leased(card.mac.clone())),
        };
        // One that came out of a backup goes on as who it was.
        let identity = checked.spec.origin.as_ref().map_or(checked.plan.guest, |origin| origin.identity);
        off_thread(move || {
            let seed = Seed {
                instance_id: identity.to_string(),
                hostname: checked.plan.name.as_str(),
                ssh_keys: &checked.spec.ssh_keys,
                card,
                user_data: checked.user_data.as_deref().unwrap_or_default(),
            };
            seed.write(&path)
        })
        .await
    }
    async fn undo(&self) -> Result<(), HypervisorError> {
        let path = self.0.host.places.seed(self.0.guest());
        off_thread(move || gone(&path, std::fs::remove_file(&path))).await
    }
}

/// Its definition, as this plan wants it.
pub struct Defined<'a>(pub &'a Work);

#[async_trait]
impl Step for Defined<'_> {
    fn name(&self) -> &'static str {
        "definition"
    }
    async fn is_done(&self) -> Result<bool, HypervisorError> {
        Ok(false)
    }
    async fn perform(&self) -> Result<(), HypervisorError> {
        let text = xml::definition(&self.0.machine);
        let text = text.map_err(|error| HypervisorError::BadPlan(format!("its definition: {error}")))?;
        let define = self.0.host.control.ask(async |libvirt| libvirt.define(&text, define::VALIDATE).await);
        match self.0.in_libvirt(define).await {
            Ok(_) => Ok(()),
            Err(Ask::Said(Error::Libvirt { message, .. })) => Err(HypervisorError::BadPlan(message)),
            Err(ask) => Err(ask.told()),
        }
    }
    async fn undo(&self) -> Result<(), HypervisorError> {
        if self.0.defined {
            return Ok(());
        }
        match self.0.host.find(self.0.guest()).await? {
            Some(ours) => self.0.host.undefine(&ours.domain).await,
            None => Ok(()),
        }
    }
}

/// Its VMM.
pub struct Running<'a>(pub &'a Work);

#[async_trait]
impl Step for Running<'_> {
    fn name(&self) -> &'static str {
        "start"
    }
    async fn is_done(&self) -> Result<bool, HypervisorError> {
        Ok(self.0.host.find(self.0.guest()).await?.is_some_and(|ours| ours.life.is_up()))
    }
    async fn perform(&self) -> Result<(), HypervisorError> {
        let started = self.0.in_libvirt(run(&self.0.host, self.0.machine.uuid, create::FORCE_BOOT)).await;
        started.map_err(|error| match error {
            // All that libvirt says then is that there is no such file.
            HypervisorError::DidNotStart(text) if self.0.host.control.is_far() && text.contains("No such file") => {
                let text = format!("libvirt is on another machine, which does not have the files of this one: {text}");
                HypervisorError::BadPlan(text)
            }
            error => error,
        })
    }
    async fn undo(&self) -> Result<(), HypervisorError> {
        match self.0.host.find(self.0.guest()).await? {
            Some(ours) if ours.life.is_up() => self.0.host.end(&ours).await,
            _ => {
                self.0.host.seen.set(self.0.guest(), Life::Off { clean: false });
                Ok(())
            }
        }
    }
}

/// Has libvirt start what is defined.
async fn run(host: &Host, uuid: Uuid, flags: u32) -> Result<(), HypervisorError> {
    let started = host.control.ask(async |libvirt| {
        let domain = libvirt.domain_by_uuid(uuid).await?;
        let libvirt = libvirt.within(VMM_WITHIN);
        match libvirt.create(&domain, flags).await {
            // Somebody was faster.
            Err(error) if error.code() == Some(codes::NOT_NOW) => libvirt.domain_state(&domain).await.map(Some),
            started => started.map(|_| None),
        }
    });
    match started.await {
        Ok(None | Some((State::Running | State::Paused, _))) => Ok(()),
        Ok(Some(_)) => Err(HypervisorError::DidNotStart("libvirt cannot start it now".to_owned())),
        Err(Ask::Said(Error::Libvirt { message, code, .. })) => Err(refused(code, message)),
        Err(ask) => Err(ask.told()),
    }
}

/// libvirt's words, which hold QEMU's, tell a host without room and a machine that cannot be from the rest.
pub fn refused(code: i32, message: String) -> HypervisorError {
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect();
    let no_room = ["Cannot allocate memory", "No space left", "cannot set up guest memory", "quota exceeded"];
    if no_room.iter().any(|words| message.contains(words)) {
        return HypervisorError::NoRoom(message);
    }
    match code {
        codes::UNSUPPORTED | codes::BAD_XML => HypervisorError::BadPlan(message),
        _ => HypervisorError::DidNotStart(message),
    }
}

#[cfg(test)]
mod tests;
