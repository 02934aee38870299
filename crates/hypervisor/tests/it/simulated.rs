//! The simulated driver: its lab, and what only a simulation promises.

use crate::cases;
use crate::contract::Lab;
use async_trait::async_trait;
use perigee_clock::Clock;
use perigee_hypervisor::simulated::{Fault, Knobs, Simulated, SimulatedConfig, SimulatedHost};
use perigee_hypervisor::{ExecStart, Found, Hypervisor, HypervisorError, Pace, Plan, Seat, Stream};
use perigee_model::{GuestId, InstanceId, Name, PartRole, Resources};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

pub struct SimulatedLab {
    pub host: SimulatedHost,
    pub knobs: Arc<Knobs>,
    clock: Clock,
}

impl SimulatedLab {
    pub fn new() -> Self {
        Self::seeded(7)
    }

    fn seeded(seed: u64) -> Self {
        Self { host: SimulatedHost::new(), knobs: Arc::default(), clock: Clock::simulated(seed) }
    }

    fn of(&self, instance: u32) -> Arc<dyn Hypervisor> {
        let config = SimulatedConfig {
            instance: InstanceId::from_bits(instance),
            clock: self.clock.clone(),
            boot: Duration::from_millis(500)..=Duration::from_secs(3),
            knobs: self.knobs.clone(),
            boots_in_flight_max: 2,
        };
        Arc::new(Simulated::new(config, self.host.clone()))
    }
}

#[async_trait]
impl Lab for SimulatedLab {
    fn driver(&self) -> Arc<dyn Hypervisor> {
        self.of(1)
    }
    fn foreign_driver(&self) -> Arc<dyn Hypervisor> {
        self.of(2)
    }
    fn plan(&self) -> Plan {
        Plan {
            guest: GuestId::new(self.clock.uuid()),
            name: Name::parse("guest").unwrap(),
            resources: Resources { cpus: 1, memory_bytes: 256 << 20 },
            parts: vec![(PartRole::Kernel, "/kernel".into()), (PartRole::Initrd, "/initrd".into())],
            pace: Pace::Ordinary,
            vm: None,
            nic: None,
            memo: None,
        }
    }
    async fn kill(&self, found: &Found) {
        assert!(self.host.kill(found.guest));
    }
    fn traces(&self) -> Vec<String> {
        self.host.guests().iter().map(|found| format!("{found:?}")).collect()
    }
    fn one_second(&self) -> Vec<String> {
        vec!["sleep".to_owned(), "1000".to_owned()]
    }
}

/// A story of one seed, as text.
async fn story(seed: u64) -> String {
    let lab = SimulatedLab::seeded(seed);
    lab.knobs.set(Fault::StartFails, 40);
    lab.knobs.set(Fault::BootSilent, 20);
    let (driver, mut text) = (lab.driver(), String::new());
    let began = lab.clock.instant();
    for _ in 0..10 {
        let plan = lab.plan();
        let started = driver.start(&plan).await.map(|found| found.pid);
        let opened = driver.channel().unwrap().open(plan.guest, Duration::from_secs(5)).await.map(|s| s.hello());
        text += &format!("{:?} {} {started:?} {opened:?}\n", began.elapsed(), plan.guest);
    }
    text
}

#[tokio::test(start_paused = true)]
async fn one_seed_is_one_story() {
    let first = story(1).await;
    assert_eq!(first, story(1).await);
    assert_ne!(first, story(2).await);
    assert!(first.contains("DidNotStart") && first.contains("Silent") && first.contains("kernel_release"), "{first}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_in_a_start_leaves_what_the_next_one_finds() {
    let lab = SimulatedLab::new();
    let (driver, plan) = (lab.driver(), lab.plan());
    let cut = tokio::time::timeout(Duration::from_millis(5), driver.start(&plan)).await;
    assert!(cut.is_err());
    let found = lab.driver().inventory().await.unwrap();
    assert_eq!(found, [Found::dead(plan.guest)]);
    assert!(lab.driver().start(&plan).await.unwrap().alive);
    assert_eq!(lab.host.copies().into_values().sum::<u32>(), 1);
}

#[tokio::test(start_paused = true)]
async fn executions_are_counted_and_lost_by_a_reboot() {
    let lab = SimulatedLab::new();
    let (driver, plan) = (lab.driver(), lab.plan());
    driver.start(&plan).await.unwrap();
    let session = cases::open(&lab, &*driver, plan.guest).await;
    let (id, start) = (Uuid::from_u128(1), ExecStart::new(Uuid::from_u128(1), ["yes", "40000"]));
    for _ in 0..3 {
        let (output, end) = cases::drain(&mut *session.exec(start.clone()).await.unwrap()).await;
        assert_eq!((output.len(), end.stdout_bytes), (80_000, 80_000));
    }
    assert_eq!(lab.host.execution_starts()[&id], 1);
    lab.host.break_sessions(plan.guest);
    assert!(matches!(session.exec(start.clone()).await.err(), Some(HypervisorError::Channel(_))));
    let session = cases::open(&lab, &*driver, plan.guest).await;
    let attach = ExecStart { attach_only: true, ..start.clone() };
    assert!(session.exec(attach.clone()).await.is_ok(), "it outlives a session");
    assert!(lab.host.reboot(plan.guest));
    session.closed().await;
    let session = cases::open(&lab, &*driver, plan.guest).await;
    assert!(matches!(session.exec(attach).await.err(), Some(HypervisorError::UnknownExecution)));
    session.exec(start).await.unwrap();
    assert_eq!(lab.host.execution_starts()[&id], 2, "a checker sees a command that ran twice");
}

#[tokio::test(start_paused = true)]
async fn time_limits_end_a_command() {
    let lab = SimulatedLab::new();
    let (driver, plan) = (lab.driver(), lab.plan());
    driver.start(&plan).await.unwrap();
    let session = cases::open(&lab, &*driver, plan.guest).await;
    let start = ExecStart { timeout_ms: Some(300), ..ExecStart::new(Uuid::from_u128(1), ["sleep", "60000"]) };
    let end = cases::drain(&mut *session.exec(start).await.unwrap()).await.1;
    assert_eq!((end.outcome, end.duration_ms), (perigee_guest::protocol::ExecOutcome::TimedOut, 300));
}

#[tokio::test(start_paused = true)]
async fn faults_strike_as_often_as_asked() {
    let lab = SimulatedLab::new();
    let driver = lab.driver();
    for fault in [Fault::InventoryFails, Fault::DestroyFails, Fault::StartFails] {
        lab.knobs.set(fault, 100);
    }
    let plan = lab.plan();
    assert!(driver.inventory().await.is_err() && driver.destroy(plan.guest).await.is_err());
    assert!(driver.start(&plan).await.is_err());
    lab.knobs.calm();
    assert!(driver.inventory().await.unwrap().is_empty(), "a failed start leaves nothing");
    lab.knobs.set(Fault::BootSilent, 100);
    driver.start(&plan).await.unwrap();
    let silent = driver.channel().unwrap().open(plan.guest, Duration::from_secs(15)).await;
    assert!(matches!(silent, Err(HypervisorError::Silent(_))));
    driver.destroy(plan.guest).await.unwrap();
    driver.start(&Plan { pace: Pace::Steady, ..plan.clone() }).await.unwrap();
    cases::open(&lab, &*driver, plan.guest).await;
}

/// A guest that runs, and a seat at it.
async fn seated(seat: Seat) -> (Arc<dyn Hypervisor>, Box<dyn Stream>) {
    let lab = SimulatedLab::new();
    let (driver, plan) = (lab.driver(), lab.plan());
    driver.start(&plan).await.unwrap();
    let stream = driver.console().unwrap().sit(plan.guest, seat).await.unwrap();
    (driver, stream)
}

#[tokio::test(start_paused = true)]
async fn the_serial_port_says_back_what_it_hears_and_no_more_than_is_read() {
    let (_driver, mut port) = seated(Seat::Serial).await;
    port.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    port.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    let much = vec![b'x'; 1 << 20];
    let stuck = tokio::time::timeout(Duration::from_secs(1), port.write_all(&much)).await;
    assert!(stuck.is_err(), "a mebibyte was taken and nobody read");
    let mut taken = vec![0; 64 << 10];
    port.read_exact(&mut taken).await.unwrap();
    port.shutdown().await.unwrap();
    assert_eq!(port.read(&mut taken).await.unwrap(), 0);
}

/// RFC 6143, section 7, byte for byte.
#[tokio::test(start_paused = true)]
async fn the_screen_speaks_rfb_and_shows_what_was_typed() {
    let (_driver, mut screen) = seated(Seat::Vnc).await;
    let mut read = async |length: usize, write: &[u8]| {
        let mut bytes = vec![0; length];
        screen.read_exact(&mut bytes).await.unwrap();
        screen.write_all(write).await.unwrap();
        bytes
    };
    assert_eq!(read(12, b"RFB 003.008\n").await, b"RFB 003.008\n");
    assert_eq!(read(2, &[1]).await, [1, 1], "one security type: none");
    assert_eq!(read(4, &[1]).await, [0; 4], "the security result");
    let server = read(24, b"").await;
    assert_eq!(server[..8], [0, 16, 0, 16, 32, 24, 0, 1], "16 by 16, 32 bits, true colour");
    let typed = [&[2, 0, 0, 1, 0, 0, 0, 0][..], &[4, 1, 0, 0, 0, 0, 0, b'a'], &[3, 0, 0, 0, 0, 0, 0, 16, 0, 16]];
    assert_eq!(read(9, &typed.concat()).await, b"simulated");
    let picture = read(4 + 12 + 1024, b"").await;
    assert_eq!(picture[..16], [0, 0, 0, 1, 0, 0, 0, 0, 0, 16, 0, 16, 0, 0, 0, 0]);
    assert!(picture[16..].chunks(4).all(|pixel| pixel == [0, 0, 0, b'a']));
    // No such message: hung up on.
    assert!(read(0, &[77]).await.is_empty());
    assert_eq!(screen.read(&mut [0; 9]).await.unwrap(), 0);
}
