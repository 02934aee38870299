//! The cache of images within its limit, by an agent on the driver that simulations use.

use crate::simulated::Machine;
use crate::*;
use perigee_blobs::{BlobDir, digest_bytes};
use perigee_hypervisor::Reserve;
use perigee_hypervisor::simulated::Fault;

const MIB: u64 = 1 << 20;

struct World {
    rig: Rig,
    machine: Machine,
    blobs: BlobDir,
    tally: Tally,
    folder: tempfile::TempDir,
}

impl World {
    /// A host whose cache takes this much, and whose file system keeps that much free.
    fn new(cache_bytes: u64, reserve: u64) -> Self {
        let (folder, machine) = (tempfile::tempdir().unwrap(), Machine::default());
        let mut rig = Rig { simulated: Some(machine.clone()), ..Rig::new() };
        let blobs = BlobDir::at(folder.path().join("cache")).unwrap();
        let dir = folder.path().to_owned();
        let budget = Budget { dir, reserve: Reserve::of(Some(reserve)), cache_bytes: Some(cache_bytes) };
        let uses = Uses { journal: Arc::new(rig.journal.clone()), drivers: vec![machine.driver(&rig.clock)] };
        let uplink = Arc::new(rig.plane.clone());
        let parts = CachedParts::new(blobs.clone(), uplink, rig.clock.clone(), budget, uses);
        let tally = parts.tally();
        rig.parts = Arc::new(parts);
        Self { rig, machine, blobs, tally, folder }
    }
    fn bytes(image: &str) -> Vec<u8> {
        image.as_bytes().repeat(MIB as usize)
    }
    /// A guest made of an image of 1 MiB with this letter for a name.
    fn want(&self, guest: u128, image: &str, generation: u64, power: Power) -> GuestId {
        let bytes = Self::bytes(image);
        let digest = digest_bytes(&bytes);
        self.rig.plane.with(|s| s.blobs.insert(digest.clone(), bytes.into()));
        let mut order = wanted(guest_id(guest), generation, power);
        let part = |role| Part { role, digest: digest.clone(), bytes: MIB };
        order.spec.parts = vec![part(PartRole::Kernel), part(PartRole::Disk)];
        self.rig.plane.want(order);
        guest_id(guest)
    }
    async fn run(&self, guest: u128, image: &str) -> GuestId {
        let id = self.want(guest, image, 1, Power::Running);
        self.rig.plane.until_phase(id, Phase::Running).await;
        id
    }
    async fn delete(&self, guest: u128, image: &str) {
        let id = self.want(guest, image, 2, Power::Absent);
        self.rig.plane.until_phase(id, Phase::Gone).await;
    }
    /// What is kept of these images.
    fn kept(&self) -> String {
        let all = ["a", "b", "c", "d"].into_iter();
        all.filter(|image| self.blobs.has(&digest_bytes(&Self::bytes(image)))).collect()
    }
    fn fetches(&self, image: &str) -> u32 {
        let digest = digest_bytes(&Self::bytes(image));
        self.rig.plane.with(|s| s.fetches.get(&digest).copied().unwrap_or_default())
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_guest_needs_goes_and_the_longest_unused_first() {
    let world = World::new(2 * MIB, 0);
    let _agent = world.rig.start();
    world.run(1, "a").await;
    world.run(2, "b").await;
    assert_eq!((world.kept().as_str(), world.tally.bytes(), world.tally.evictions()), ("ab", 2 * MIB, 0));
    world.delete(1, "a").await;
    world.delete(2, "b").await;
    assert_eq!(world.kept(), "ab", "nothing goes before its room is needed");
    // Of use again, later than the other.
    world.run(3, "a").await;
    world.delete(3, "a").await;
    world.run(4, "c").await;
    assert_eq!((world.kept().as_str(), world.tally.bytes(), world.tally.evictions()), ("ac", 2 * MIB, 1));
    assert_eq!((world.fetches("a"), world.fetches("b")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_guest_needs_stays_and_the_limit_gives_way() {
    let world = World::new(MIB, 0);
    let _agent = world.rig.start();
    let off = world.run(1, "a").await;
    world.want(1, "a", 2, Power::Stopped);
    world.rig.plane.until_phase(off, Phase::Stopped).await;
    world.run(2, "b").await;
    assert_eq!((world.kept().as_str(), world.tally.evictions()), ("ab", 0), "one that is off needs its image, too");
}

#[tokio::test(start_paused = true)]
async fn a_disk_on_the_host_keeps_its_image_and_so_does_not_knowing() {
    let world = World::new(MIB, 0);
    let agent = world.rig.start();
    let id = world.run(1, "a").await;
    world.rig.crash(agent).await;
    // Nobody knows of the guest but the host itself.
    world.rig.journal.remove("guests", &id.to_string()).await.unwrap();
    let ensure = async |image: &str| {
        let bytes = World::bytes(image);
        let part = Part { role: PartRole::Disk, digest: digest_bytes(&bytes), bytes: MIB };
        world.rig.plane.with(|s| s.blobs.insert(part.digest.clone(), bytes.into()));
        world.rig.parts.ensure(&[part], watch::channel(None).0).await.unwrap();
    };
    ensure("b").await;
    assert_eq!(world.kept(), "ab");
    ensure("c").await;
    assert_eq!(world.kept(), "ac", "b is nobody's");
    world.machine.knobs.set(Fault::InventoryFails, 100);
    ensure("d").await;
    assert_eq!(world.kept(), "acd", "the host does not tell");
    world.machine.knobs.calm();
    world.rig.journal.put("guests", "damaged", b"{".to_vec(), journal::Keep::Process).await.unwrap();
    ensure("b").await;
    assert_eq!(world.kept(), "abcd", "a document cannot be read");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_told_once_nothing_can_go() {
    let world = World::new(100 * MIB, u64::MAX);
    std::fs::create_dir_all(world.folder.path()).unwrap();
    // Kept from an earlier life, and of no use: it goes although the limit is far.
    let old = world.blobs.put_stream(None, World::bytes("d").as_slice()).await.unwrap();
    let _agent = world.rig.start();
    let id = world.want(1, "a", 1, Power::Running);
    world.rig.plane.until_phase(id, Phase::Failed).await;
    let problem = world.rig.plane.with(|s| s.observed[&id].problem.clone());
    assert_eq!(problem.as_ref().map(|problem| problem.code.as_str()), Some(Code::DiskFull.number()), "{problem:?}");
    assert!(!world.blobs.has(&old.digest) && world.tally.evictions() == 1);
}
