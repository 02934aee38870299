//! One instance's guests in one libvirt: the work behind the driver.
//!
//! Owns: finding our domains among all, destroying, stopping, pausing, taking over.
//! Refuses: to touch a domain that carries another instance's mark, or none.

use super::cards::Cards;
use super::connections::{Ask, Link};
use super::facts::Facts;
use super::machine::memo_fault;
use super::mark::{Mark, NAMESPACE, PREFIX};
use super::places::Places;
use super::processes;
use super::seen::{Life, Seen};
use super::stands::{Heard, Turn};
use crate::work::{Gates, off_thread};
use crate::{Found, GuestEvent, Halted, HypervisorError, Reserve};
use perigee_clock::Clock;
use perigee_libvirt::{Connection, Domain, Error, State, affect, codes, shutdown, undefine};
use perigee_model::{GuestId, InstanceId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, broadcast};

/// Hints kept for a slow receiver.
const EVENTS_KEPT: usize = 1024;
/// For QEMU to make its machine or to go: longer than other calls.
pub const VMM_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at a guest that was asked to turn itself off, when no event comes.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two presses of the power button: a guest that still boots does not hear the first.
const PRESS_AGAIN: Duration = Duration::from_secs(5);
/// libvirt's number for a domain that is off because its guest turned it off.
const OFF_BY_ITSELF: i32 = 1;

/// All there is about one instance in one libvirt.
pub struct Host {
    pub instance: InstanceId,
    pub clock: Clock,
    pub places: Places,
    /// What the disk of a guest may lie above is in here.
    pub images: PathBuf,
    pub control: Link,
    /// For calls that take long: they leave the others their turns.
    pub work: Link,
    /// The processor runs guests itself.
    pub hardware: bool,
    /// What new disks leave free.
    pub reserve: Reserve,
    facts: Mutex<Option<Arc<Facts>>>,
    pub gates: Gates,
    pub seen: Seen,
    pub cards: Cards,
    turn: Turn,
    pub events: broadcast::Sender<GuestEvent>,
    /// Rung after each change that was seen.
    pub changed: Notify,
}

impl Host {
    /// One that has asked nothing yet.
    pub fn new(
        instance: InstanceId,
        clock: Clock,
        (places, images): (Places, PathBuf),
        control: Link,
        (hardware, reserve): (bool, Reserve),
    ) -> Self {
        Self {
            instance,
            clock,
            places,
            images,
            work: control.another(),
            control,
            hardware,
            reserve,
            facts: Mutex::default(),
            gates: Gates::default(),
            seen: Seen::default(),
            cards: Cards::default(),
            turn: Turn::default(),
            events: broadcast::Sender::new(EVENTS_KEPT),
            changed: Notify::new(),
        }
    }

    /// What libvirt makes machines of: as it was told last, or asked now.
    pub async fn facts(&self) -> Result<Arc<Facts>, HypervisorError> {
        match self.known_facts() {
            Some(facts) => Ok(facts),
            None => self.ask_facts().await,
        }
    }

    /// Asks what libvirt makes machines of: it may be another libvirt by now.
    pub async fn ask_facts(&self) -> Result<Arc<Facts>, HypervisorError> {
        let texts = self.control.ask(async |libvirt| Facts::ask(&libvirt, self.hardware).await).await;
        let facts = Arc::new(texts.map_err(Ask::told)?.read()?);
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts.clone());
        Ok(facts)
    }

    /// What libvirt makes machines of, when it was told.
    pub fn known_facts(&self) -> Option<Arc<Facts>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Our domains, with what they do.
    pub async fn ours(&self) -> Result<Vec<Ours>, HypervisorError> {
        let marks = self.control.ask(async |libvirt| self.marked(&libvirt).await).await.map_err(Ask::told)?;
        let mut ours = Vec::new();
        for (looked, mark) in marks {
            if mark.instance == self.instance {
                ours.push(looked.with(mark));
            }
        }
        Ok(ours)
    }

    /// The domain of this guest, when there is one and it is ours. `Ok(None)`: there is none.
    ///
    /// # Errors
    /// `BadPlan` when it is somebody else's.
    pub async fn find(&self, guest: GuestId) -> Result<Option<Ours>, HypervisorError> {
        let asked = self.control.ask(async |libvirt| self.look(&libvirt, guest).await).await.map_err(Ask::told)?;
        let Some((looked, mark)) = asked else { return Ok(None) };
        match mark {
            Some(mark) if mark.instance == self.instance => Ok(Some(looked.with(mark))),
            _ => {
                let text = format!("the domain {} has this id and is not ours", looked.domain.name);
                Err(HypervisorError::BadPlan(text))
            }
        }
    }

    /// Whether a domain, whoever's, stands because a disk of its is full.
    pub async fn starves(&self, guest: GuestId) -> Result<bool, HypervisorError> {
        let asked = self.control.ask(async |libvirt| self.look(&libvirt, guest).await).await.map_err(Ask::told)?;
        Ok(asked.is_some_and(|(looked, _)| looked.starved))
    }

    /// The domain of this guest if it runs and is ours.
    pub async fn running(&self, guest: GuestId) -> Result<Ours, HypervisorError> {
        let found = match self.find(guest).await {
            Err(HypervisorError::BadPlan(_)) => None,
            found => found?,
        };
        found.filter(|ours| ours.life.is_up()).ok_or(HypervisorError::NotRunning)
    }

    pub async fn inventory(self: &Arc<Self>) -> Result<Vec<Found>, HypervisorError> {
        let places = self.places.clone();
        let folders = off_thread(move || places.guests()).await?;
        let ours = self.ours().await?;
        self.seen.doubt_strangers();
        let up: Vec<_> = ours.iter().filter(|ours| ours.life.is_up()).map(|ours| ours.mark.guest).collect();
        let pids = off_thread(move || Ok(processes::of(&up))).await?;
        let mut found: BTreeMap<_, _> = folders.into_iter().map(|guest| (guest, Found::dead(guest))).collect();
        for ours in ours {
            let guest = ours.mark.guest;
            self.seen.first(guest, &ours);
            found.insert(guest, ours.found(pids.get(&guest).copied()));
        }
        Ok(found.into_values().collect())
    }

    /// Learns which domains are ours.
    pub async fn learn(&self) -> Result<(), HypervisorError> {
        for ours in self.ours().await? {
            self.seen.first(ours.mark.guest, &ours);
        }
        Ok(())
    }

    /// Of these domains, those that are ours. Asks only for such as were not seen since the last
    /// inventory.
    pub async fn ours_of(&self, domains: &[GuestId]) -> Result<Vec<GuestId>, HypervisorError> {
        if self.seen.any_new(domains) {
            self.learn().await?;
            self.seen.note_strangers(domains);
        }
        Ok(domains.iter().copied().filter(|guest| self.seen.knows(*guest)).collect())
    }

    /// As it is told to whoever asked for it to run.
    pub async fn found(&self, ours: &Ours) -> Result<Found, HypervisorError> {
        let guest = ours.mark.guest;
        let pids = off_thread(move || Ok(processes::of(&[guest]))).await?;
        Ok(ours.found(pids.get(&guest).copied()))
    }

    pub async fn destroy(&self, guest: GuestId) -> Result<(), HypervisorError> {
        let found = match self.find(guest).await {
            Err(HypervisorError::BadPlan(_)) => None,
            found => found?,
        };
        if let Some(ours) = found {
            self.end(&ours).await?;
            self.undefine(&ours.domain).await?;
        }
        self.seen.forget(guest);
        let places = self.places.clone();
        off_thread(move || places.remove(guest)).await
    }

    /// Ends a domain that may run. Its end is then no news.
    pub async fn end(&self, ours: &Ours) -> Result<(), HypervisorError> {
        let began = self.clock.instant();
        let ended = self.control.ask(async |libvirt| libvirt.within(VMM_WITHIN).destroy(&ours.domain).await).await;
        match ended {
            Err(ask) if ask.code() == Some(codes::TIMED_OUT) => Err(self.locked(ours, ask).await),
            Err(ask) if !matches!(ask.code(), Some(codes::NOT_NOW | codes::NO_DOMAIN)) => Err(ask.told()),
            Ok(()) | Err(_) => {
                tracing::info!(guest = %ours.mark.guest, libvirt = ?began.elapsed(), "domain ended");
                self.seen.set(ours.mark.guest, Life::Off { clean: false });
                Ok(())
            }
        }
    }

    /// Why the lock of a domain is not to be had. A libvirtd that was killed between a domain's claim and
    /// its QEMU finds the start in its state file again, as one that nobody ends (seen with 11.3.0).
    async fn locked(&self, ours: &Ours, ask: Ask) -> HypervisorError {
        let guest = ours.mark.guest;
        let runs = self.control.is_far()
            || off_thread(move || Ok(processes::of(&[guest]))).await.map_or(true, |found| !found.is_empty());
        if runs {
            return ask.told();
        }
        let name = &ours.domain.name;
        HypervisorError::Locked(format!(
            "libvirtd was killed in the middle of its start and keeps it locked, with no QEMU there: stop libvirtd, \
             remove {name}.xml and {name}.pid from its run folder (/run/libvirt/qemu), and start libvirtd ({ask})"
        ))
    }

    /// Removes a definition and all that libvirt keeps with it.
    pub async fn undefine(&self, domain: &Domain) -> Result<(), HypervisorError> {
        let with_tpm = if self.facts().await?.undefines_tpm { undefine::TPM } else { 0 };
        let all = undefine::MANAGED_SAVE | undefine::SNAPSHOTS | undefine::NVRAM | undefine::CHECKPOINTS | with_tpm;
        match self.control.ask(async |libvirt| libvirt.undefine(domain, all).await).await {
            Err(ask) if ask.code() != Some(codes::NO_DOMAIN) => Err(ask.told()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub async fn halt(&self, guest: GuestId, grace: Duration) -> Result<Halted, HypervisorError> {
        let deadline = self.clock.instant().after(grace);
        let mut pressed = None;
        loop {
            // Asked for first, so that no change is missed between the look and the wait.
            let changed = self.changed.notified();
            let ours = match self.running(guest).await {
                Err(HypervisorError::NotRunning) => {
                    self.seen.set(guest, Life::Off { clean: true });
                    return Ok(Halted::ByItself);
                }
                ours => ours?,
            };
            let now = self.clock.instant();
            if now >= deadline {
                self.end(&ours).await?;
                return Ok(Halted::ByForce);
            }
            if pressed.is_none_or(|pressed| now.since(pressed) >= PRESS_AGAIN) {
                self.press(&ours).await?;
                pressed = Some(now);
            }
            let until = self.clock.instant().after(LOOK_AGAIN).min(deadline);
            _ = tokio::time::timeout_at(until.into_tokio(), changed).await;
        }
    }

    /// A guest whose CPUs are stopped hears nothing.
    async fn press(&self, ours: &Ours) -> Result<(), HypervisorError> {
        let pressed = self.control.ask(async |libvirt| {
            if matches!(ours.life, Life::Up { paused: true, .. }) {
                libvirt.resume(&ours.domain).await?;
            }
            libvirt.shutdown(&ours.domain, shutdown::ACPI).await
        });
        match pressed.await {
            Err(ask) if !matches!(ask.code(), Some(codes::NOT_NOW | codes::NO_DOMAIN)) => Err(ask.told()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Stops or starts the guest's CPUs.
    pub async fn set_paused(&self, guest: GuestId, wanted: bool) -> Result<(), HypervisorError> {
        let ours = self.running(guest).await?;
        let Life::Up { run, paused } = ours.life else { return Err(HypervisorError::NotRunning) };
        if paused == wanted {
            return Ok(());
        }
        let told = self.control.ask(async |libvirt| match wanted {
            true => libvirt.suspend(&ours.domain).await,
            false => libvirt.resume(&ours.domain).await,
        });
        told.await.map_err(|ask| match ask.code() {
            Some(codes::NOT_NOW) => HypervisorError::NotRunning,
            _ => ask.told(),
        })?;
        self.seen.set(guest, Life::Up { run, paused: wanted });
        Ok(())
    }

    pub async fn adopt(&self, guest: GuestId, memo: &str) -> Result<Found, HypervisorError> {
        if let Some(fault) = memo_fault(memo) {
            return Err(HypervisorError::BadPlan(fault));
        }
        let asked = self.control.ask(async |libvirt| self.look(&libvirt, guest).await).await.map_err(Ask::told)?;
        let (looked, mark) = asked.ok_or(HypervisorError::NotRunning)?;
        if let Some(other) = mark.filter(|mark| mark.instance != self.instance) {
            return Err(HypervisorError::BadPlan(format!("it belongs to instance {}", other.instance)));
        }
        let mark = Mark { instance: self.instance.clone(), guest, memo: Some(memo.to_owned()) };
        let ours = looked.with(mark);
        self.write_mark(&ours, Some(&ours.mark)).await?;
        self.seen.set(guest, ours.life);
        self.found(&ours).await
    }

    pub async fn release(&self, guest: GuestId) -> Result<(), HypervisorError> {
        let ours = match self.find(guest).await {
            Err(HypervisorError::BadPlan(_)) => None,
            found => found?,
        };
        if let Some(ours) = ours {
            self.write_mark(&ours, None).await?;
        }
        self.seen.forget(guest);
        Ok(())
    }

    /// In the definition, and in the domain as it runs. One without a definition has only the latter.
    pub async fn write_mark(&self, ours: &Ours, mark: Option<&Mark>) -> Result<(), HypervisorError> {
        let element = mark.map(Mark::element).transpose()?;
        let flags = if ours.life.is_up() { affect::LIVE | affect::CONFIG } else { affect::CONFIG };
        let write = async |flags| {
            let set = self.control.ask(async |libvirt| {
                libvirt.set_metadata(&ours.domain, element.as_deref(), (PREFIX, NAMESPACE), flags).await
            });
            match set.await {
                // Nothing there to be taken away.
                Err(ask) if element.is_none() && ask.code() == Some(codes::NO_METADATA) => Ok(()),
                set => set,
            }
        };
        match write(flags).await {
            Err(ask) if ours.life.is_up() && matches!(ask.code(), Some(codes::NOT_NOW | codes::INVALID)) => {
                write(affect::LIVE).await.map_err(Ask::told)
            }
            written => written.map_err(Ask::told),
        }
    }

    /// A domain of this id and its mark; `None` when there is none.
    async fn look(&self, libvirt: &Connection, guest: GuestId) -> Result<Option<(Looked, Option<Mark>)>, Error> {
        let domain = match libvirt.domain_by_uuid(guest.uuid()).await {
            Err(error) if error.code() == Some(codes::NO_DOMAIN) => return Ok(None),
            domain => domain?,
        };
        let looked = async {
            let mark = mark(libvirt, &domain).await?;
            let is_ours = mark.as_ref().is_some_and(|mark| mark.instance == self.instance);
            Ok::<_, Error>((self.turn.hear(libvirt, &domain, is_ours).await?, mark))
        };
        match looked.await {
            // Gone between two questions.
            Err(error) if error.code() == Some(codes::NO_DOMAIN) => Ok(None),
            Err(error) => Err(error),
            Ok((heard, mark)) => {
                let life = Life::of(&domain, &heard);
                Ok(Some((Looked { life, starved: heard.is_full, domain }, mark)))
            }
        }
    }

    /// Every domain with a mark, whoever's.
    async fn marked(&self, libvirt: &Connection) -> Result<Vec<(Looked, Mark)>, Error> {
        let mut found = Vec::new();
        for domain in libvirt.domains(0).await? {
            let guest = GuestId::new(domain.uuid);
            if let Some((looked, Some(mark))) = self.look(libvirt, guest).await? {
                found.push((looked, mark));
            }
        }
        Ok(found)
    }
}

/// A domain of this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ours {
    /// As libvirt names it.
    pub domain: Domain,
    /// Its mark.
    pub mark: Mark,
    /// What it does.
    pub life: Life,
    /// It stands because a disk of its is full.
    pub starved: bool,
}

impl Ours {
    fn found(&self, pid: Option<u32>) -> Found {
        let (guest, alive) = (self.mark.guest, self.life.is_up());
        let paused = matches!(self.life, Life::Up { paused: true, .. });
        let starved = paused && self.starved;
        Found { guest, alive, pid: pid.filter(|_| alive), paused, starved, memo: self.mark.memo.clone() }
    }
}

impl Life {
    fn of(domain: &Domain, heard: &Heard) -> Self {
        match (heard.state, domain.id) {
            (State::ShutOff | State::Crashed, _) | (_, None) => Self::Off { clean: heard.reason == OFF_BY_ITSELF },
            (state, Some(run)) => Self::Up { run, paused: state == State::Paused },
        }
    }
}

/// A domain, whoever's, and what it does.
struct Looked {
    domain: Domain,
    life: Life,
    starved: bool,
}

impl Looked {
    fn with(self, mark: Mark) -> Ours {
        let Self { domain, life, starved } = self;
        Ours { domain, mark, life, starved }
    }
}

/// A copy that somebody made of a domain carries its mark, too, with another's id: it is nobody's.
async fn mark(libvirt: &Connection, domain: &Domain) -> Result<Option<Mark>, Error> {
    match libvirt.metadata(domain, NAMESPACE, 0).await {
        Err(error) if error.code() == Some(codes::NO_METADATA) => Ok(None),
        element => Ok(Mark::read(&element?).filter(|mark| mark.guest.uuid() == domain.uuid)),
    }
}
