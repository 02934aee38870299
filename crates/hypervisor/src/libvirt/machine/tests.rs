use super::*;
use crate::Pace;
use perigee_model::{GuestId, Mac, Name, Resources, RestartPolicy};

fn facts(uefi: bool, tpm: bool) -> Facts {
    Facts {
        version: "10.0.0".to_owned(),
        acceleration: Acceleration::Tcg,
        machine: "pc-q35-10.0".to_owned(),
        emulated_model: "Westmere".to_owned(),
        uefi,
        tpm,
        qemu_user: (0, 0),
        undefines_tpm: true,
    }
}

fn plan(folder: &Path, roles: &[PartRole]) -> Plan {
    let part = |role: &PartRole| {
        let path = folder.join(format!("{role:?}"));
        std::fs::write(&path, "bytes").unwrap();
        (*role, path)
    };
    let kernel = roles.contains(&PartRole::Kernel);
    let vm = VmSpec {
        description: String::new(),
        metadata: Default::default(),
        disk_bytes: None,
        network: Some(Name::parse("default").unwrap()),
        mac: Mac::from_bits(1),
        ssh_keys: Vec::new(),
        firmware: if kernel { Firmware::Bios } else { Firmware::Uefi },
        tpm: !kernel,
        restart: RestartPolicy::Never,
        start_order: 0,
        adopted: false,
        origin: None,
        volumes: Vec::new(),
    };
    Plan {
        guest: GuestId::new(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_89ab_cdef)),
        name: Name::parse("web-1").unwrap(),
        resources: Resources { cpus: 2, memory_bytes: 1 << 30 },
        parts: roles.iter().map(part).collect(),
        pace: Pace::Ordinary,
        vm: Some(vm),
        nic: None,
        memo: None,
    }
}

fn made(plan: &Plan, folder: &Path, facts: &Facts) -> Result<Machine, HypervisorError> {
    let places = Places::at(folder.join("vms"), folder.join("run")).unwrap();
    Checked::of(plan)?.machine(&InstanceId::from_bits(0xabc), facts, &places, None)
}

fn refused<T: std::fmt::Debug>(said: Result<T, HypervisorError>) -> String {
    match said {
        Err(HypervisorError::BadPlan(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_host_lacks_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), &[PartRole::Iso]);
    assert!(refused(made(&plan, folder.path(), &facts(false, true))).contains("`ovmf`"));
    assert!(refused(made(&plan, folder.path(), &facts(true, false))).contains("`swtpm`"));
    let machine = made(&plan, folder.path(), &facts(true, true)).unwrap();
    assert!(machine.uefi && machine.tpm && machine.iso.is_some() && machine.seed.is_none() && machine.disk.is_none());
}

#[test]
fn parts_decide_what_a_machine_has() {
    use PartRole::{Disk, Initrd, Iso, Kernel, UserData};
    let folder = tempfile::tempdir().unwrap();
    let of = |plan: &Plan| made(plan, folder.path(), &facts(true, true));
    let made = |roles: &[PartRole]| of(&plan(folder.path(), roles));
    let cloud = made(&[Disk]).unwrap();
    assert!(cloud.disk.is_some() && cloud.seed.is_some() && cloud.kernel.is_none(), "a cloud image has a seed");
    let base = made(&[Kernel, Initrd]).unwrap();
    let options = base.kernel.unwrap().options;
    assert!(base.seed.is_none() && options.contains("perigee.hostname=web-1 perigee.network=dhcp"), "{options}");
    assert!(made(&[Kernel, Disk]).unwrap().kernel.unwrap().options.ends_with("root=/dev/vda rw"));
    assert!(made(&[Iso, UserData]).unwrap().seed.is_some());
    let changes: [fn(&mut VmSpec); 2] = [|vm| vm.firmware = Firmware::Uefi, |vm| vm.tpm = true];
    for change in changes {
        let mut plan = plan(folder.path(), &[Kernel, Initrd]);
        change(plan.vm.as_mut().unwrap());
        assert!(refused(of(&plan)).contains("its own kernel"));
    }
    for roles in [&[][..], &[Initrd], &[UserData], &[Initrd, Disk], &[Disk, Disk], &[Kernel, Kernel]] {
        refused(made(roles));
    }
}

#[test]
fn a_card_is_on_a_network_or_on_a_tap() {
    let folder = tempfile::tempdir().unwrap();
    let of = |plan: &Plan| made(plan, folder.path(), &facts(true, true));
    let (address, gateway) = ([172, 16, 0, 2].into(), [172, 16, 0, 1].into());
    let (tap, mac) = ("tap0".to_owned(), Mac::of_address(address));
    let nic = crate::Nic { tap, mac, address, network_bits: 24, gateway, names: None, six: None };
    let mut plan = Plan { nic: Some(nic), ..plan(folder.path(), &[PartRole::Kernel]) };
    assert!(refused(of(&plan)).contains("not on both"));
    plan.vm.as_mut().unwrap().network = None;
    let machine = of(&plan).unwrap();
    let on = Wire::Tap("tap0".to_owned());
    assert_eq!(machine.nic, Some(Card { on, mac: "52:54:00:10:00:02".to_owned() }));
    let options = machine.kernel.unwrap().options;
    assert!(options.ends_with(" perigee.address=172.16.0.2/24 perigee.gateway=172.16.0.1"), "{options}");
    plan.nic.as_mut().unwrap().tap = "../tap".to_owned();
    assert!(refused(of(&plan)).contains("no card"));
}

#[test]
fn a_domains_name_tells_the_guests() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, instance) = (plan(folder.path(), &[PartRole::Iso]), InstanceId::from_bits(0xabc));
    assert_eq!(domain_name(&instance, &plan), "perigee-00000abc-web-1-89abcdef");
    assert_eq!(guest_name(&instance, "perigee-00000abc-web-1-89abcdef"), "web-1");
    assert_eq!(guest_name(&instance, "theirs-1"), "theirs-1");
}
