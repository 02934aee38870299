use super::*;
use crate::{ImageId, Mac, Resources, RestartPolicy, VmSpec};
use uuid::Uuid;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn digest(byte: u8) -> Digest {
    Digest::of_bytes(&[byte; 32])
}

fn spec(change: fn(&mut VmSpec)) -> GuestSpec {
    let mut vm = VmSpec {
        description: String::new(),
        metadata: Default::default(),
        disk_bytes: Some(1 << 30),
        network: None,
        mac: Mac::from_bits(1),
        ssh_keys: Vec::new(),
        firmware: Firmware::Bios,
        tpm: false,
        restart: RestartPolicy::Always,
        start_order: 0,
        adopted: false,
        origin: None,
        volumes: Vec::new(),
    };
    change(&mut vm);
    GuestSpec {
        image: ImageId::new(Uuid::nil()),
        image_name: name("base"),
        parts: Vec::new(),
        resources: Resources { cpus: 1, memory_bytes: 1 << 30 },
        env: Default::default(),
        ttl_ms: None,
        host_wanted: None,
        vm: Some(Box::new(vm)),
        egress: None,
        egress6: None,
        forwards: Vec::new(),
    }
}

#[test]
fn an_index_says_which_chunks_a_disk_is() {
    let chunk = CHUNK_BYTES;
    let mut index = DiskIndex::new(2 * chunk + 5).unwrap();
    assert_eq!((index.len(), index.span(1), index.span(2)), (3, (chunk, chunk), (2 * chunk, 5)));
    index.set(0, Some(&digest(7)));
    index.set(2, Some(&digest(9)));
    index.set(2, None);
    index.set(3, Some(&digest(1)));
    assert_eq!((index.chunk(0), index.chunk(1), index.chunk(2), index.chunk(3)), (Some(digest(7)), None, None, None));
    let bytes = index.encode();
    assert_eq!((bytes.len(), &bytes[..4]), (12 + 3 * 32, &b"PBI1"[..]));
    assert_eq!(DiskIndex::decode(&bytes), Some(index));
}

#[test]
fn what_is_no_index_is_none() {
    let good = DiskIndex::new(CHUNK_BYTES + 1).unwrap().encode();
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        DiskIndex::decode(&bytes)
    };
    assert!(changed(0, b'X').is_none() && changed(11, 0xff).is_none() && changed(6, 0x80).is_none());
    assert!(DiskIndex::decode(&good[..good.len() - 1]).is_none() && DiskIndex::decode(b"PBI1").is_none());
    assert!(DiskIndex::new(BACKUP_DISK_BYTES_MAX + 1).is_none());
    assert_eq!(DiskIndex::new(0).map(|index| index.is_empty()), Some(true));
}

#[test]
fn a_disk_that_grew_keeps_its_whole_chunks() {
    let chunk = CHUNK_BYTES;
    let mut index = DiskIndex::new(2 * chunk + 5).unwrap();
    (0..3).for_each(|place| index.set(place, Some(&digest(1))));
    let chunks = |index: DiskIndex| (0..index.len()).map(|place| index.chunk(place).is_some()).collect::<Vec<_>>();
    assert_eq!(chunks(index.clone().resized(2 * chunk + 5).unwrap()), [true, true, true]);
    assert_eq!(chunks(index.clone().resized(4 * chunk).unwrap()), [true, true, false, false], "its end has moved");
    assert_eq!(chunks(index.resized(chunk + 1).unwrap()), [true, false]);
}

#[test]
fn what_cannot_be_backed_up_is_refused_with_what_to_do() {
    let fault = |kind, change| backup_fault(kind, &spec(change)).unwrap_or("");
    assert_eq!(fault(GuestKind::Vm, |_| {}), "");
    assert!(fault(GuestKind::Sandbox, |_| {}).contains("copy files"));
    assert!(fault(GuestKind::Vm, |vm| vm.disk_bytes = None).contains("no disk"));
    assert!(fault(GuestKind::Vm, |vm| vm.adopted = true).contains("owner"));
    assert!(fault(GuestKind::Vm, |vm| vm.firmware = Firmware::Uefi).contains("UEFI"));
    assert!(fault(GuestKind::Vm, |vm| vm.tpm = true).contains("TPM"));
    assert!(room_fault(BACKUPS_PER_GUEST_MAX).is_some() && room_fault(BACKUPS_PER_GUEST_MAX - 1).is_none());
}

fn schedule(every_ms: u64, offset_ms: u64, last: &str) -> BackupSchedule {
    let last = Timestamp::parse(last).unwrap();
    BackupSchedule { every_ms, offset_ms, keep: 7, sealed: false, owner: "me".into(), last }
}

#[test]
fn a_schedule_asks_at_the_same_time_of_the_day() {
    let (hour, day) = (3_600_000, 86_400_000);
    let next = |every, offset, last| schedule(every, offset, last).next().to_string()[..19].to_owned();
    assert_eq!(next(day, 3 * hour, "2026-11-22T05:00:00Z"), "2026-11-23T03:00:00");
    assert_eq!(next(day, 3 * hour, "2026-11-22T02:59:59Z"), "2026-11-22T03:00:00");
    assert_eq!(next(day, 3 * hour, "2026-11-22T03:00:00Z"), "2026-11-23T03:00:00", "it has just asked");
    assert_eq!(next(hour, 0, "2026-11-22T05:10:00Z"), "2026-11-22T06:00:00");
    assert_eq!(next(day, 3 * hour, "1969-12-31T05:00:00Z"), "1970-01-01T03:00:00");
}

#[test]
fn schedules_that_are_none_are_refused() {
    let fault = |change: fn(&mut BackupSchedule)| {
        let mut schedule = schedule(86_400_000, 0, "2026-11-22T05:00:00Z");
        change(&mut schedule);
        schedule.fault().map(|(field, _)| field)
    };
    assert_eq!(fault(|_| {}), None);
    assert_eq!(fault(|s| s.every_ms = 60_000), Some("every_ms"));
    assert_eq!(fault(|s| s.every_ms = u64::MAX), Some("every_ms"));
    assert_eq!(fault(|s| s.offset_ms = s.every_ms), Some("offset_ms"));
    assert_eq!(fault(|s| s.keep = 0), Some("keep"));
    assert_eq!(fault(|s| s.keep = u32::MAX), Some("keep"));
}

fn backup(number: u128, state: BackupState, scheduled: bool, damaged: bool) -> Backup {
    let at = Timestamp::from_micros(i64::try_from(number).unwrap());
    Backup {
        id: BackupId::new(Uuid::from_u128(number)),
        name: name("db"),
        tenant: Tenant::first(),
        owner: "me".into(),
        description: String::new(),
        guest: GuestId::new(Uuid::nil()),
        guest_name: name("db"),
        labels: Labels::new(),
        spec: spec(|_| {}),
        arch: "x86_64".into(),
        sealed: false,
        scheduled,
        state,
        created_at: at,
        stored: None,
        verified: Some(Verified { at, fault: damaged.then(|| "a chunk is not there".to_owned()), booted: None }),
        revision: 1,
    }
}

#[test]
fn a_schedule_lets_go_of_its_oldest() {
    use BackupState::{Creating, Ready};
    let let_go = |backups: &[Backup], keep| {
        let gone = surplus(backups, keep);
        gone.iter().map(|id| id.uuid().as_u128()).collect::<Vec<_>>()
    };
    let three = [1, 3, 2].map(|number| backup(number, Ready, true, false));
    assert_eq!(let_go(&three, 2), [1]);
    assert_eq!(let_go(&three, 3), [] as [u128; 0]);
    let others = [backup(1, Ready, false, false), backup(2, Ready, true, false), backup(3, Creating, true, false)];
    assert_eq!(let_go(&others, 1), [] as [u128; 0], "what a person asked for stays, what is not there counts not");
    let damaged = [backup(1, Ready, true, false), backup(2, Ready, true, true), backup(3, Ready, true, false)];
    assert_eq!(let_go(&damaged, 2), [2], "a damaged one counts for nothing");
    assert_eq!(let_go(&[backup(1, Ready, true, false), backup(2, Ready, true, true)], 1), [] as [u128; 0]);
}

#[test]
fn a_backup_is_called_after_its_vm_and_its_second() {
    let at = Timestamp::parse("2026-11-22T05:12:09.5Z").unwrap();
    let made_up =
        |guest: &Name, taken: &[&str]| made_up_name(guest, at, |name| taken.contains(&name.as_str())).unwrap();
    assert_eq!(made_up(&name("db"), &[]).as_str(), "db-20261122-051209");
    let taken = ["db-20261122-051209", "db-20261122-051209-2"];
    assert_eq!(made_up(&name("db"), &taken).as_str(), "db-20261122-051209-3");
    let long = name(&"x".repeat(63));
    assert_eq!(made_up(&long, &[]).as_str().len(), 56);
}
