use super::*;
use proptest::prelude::*;
use uuid::Uuid;

enum Said {
    Number(u64),
    Text(&'static str),
}
use Said::{Number, Text};

fn written(id: i32, fields: &[(&str, Said)]) -> Vec<u8> {
    let mut to = Encoder::default();
    Domain { name: "web".into(), uuid: Uuid::from_u128(7), id: Some(id) }.encode(&mut to);
    to.u32(fields.len() as u32);
    for (field, said) in fields {
        to.string(field);
        match said {
            Number(number) => {
                to.u32(4);
                to.u64(*number);
            }
            Text(text) => {
                to.u32(7);
                to.string(text);
            }
        }
    }
    to.finish().unwrap()
}

fn read(bytes: &[u8]) -> Result<DomainStats, Malformed> {
    let mut from = Decoder::new(bytes);
    let record = record(&mut from, groups::ALL)?;
    from.finish().map(|()| record)
}

#[test]
fn devices_are_known_by_name_not_by_number() {
    let record = read(&written(
        3,
        &[
            ("state.state", Number(1)),
            ("cpu.time", Number(12)),
            ("balloon.maximum", Number(4)),
            ("balloon.rss", Number(3)),
            ("vcpu.current", Number(1)),
            ("vcpu.0.time", Number(9)),
            ("vcpu.0.halted", Text("yes")),
            ("net.count", Number(1)),
            ("net.0.name", Text("vnet3")),
            ("net.0.rx.drop", Number(5)),
            ("block.1.rd.reqs", Number(6)),
            ("block.1.name", Text("vdb")),
            ("block.0.name", Text("vda")),
            ("block.2.rd.reqs", Number(1)),
            ("newer.than.this", Number(1)),
        ],
    ))
    .unwrap();
    assert_eq!((record.state, record.busy, record.domain.id), (State::Running, false, Some(3)));
    assert_eq!((record.cpu.time_ns, record.memory.resident_bytes), (Some(12), Some(3072)));
    assert_eq!((record.vcpus[&0].time_ns, record.vcpus[&0].halted), (Some(9), Some(true)));
    assert_eq!((record.nics[0].name.as_str(), record.nics[0].received.drops), ("vnet3", Some(5)));
    let disks: Vec<_> = record.disks.iter().map(|disk| (disk.name.as_str(), disk.read.requests)).collect();
    assert_eq!(disks, [("vda", None), ("vdb", Some(6))], "a disk without a name is none");
}

#[test]
fn a_running_domain_that_tells_only_its_definition_is_busy() {
    let fields = || vec![("balloon.current", Number(4)), ("balloon.maximum", Number(4))];
    let busy = |id: i32, more: Option<(&'static str, Said)>| {
        let fields: Vec<_> = fields().into_iter().chain(more).collect();
        read(&written(id, &fields)).unwrap().busy
    };
    assert!(busy(1, None));
    assert!(!busy(-1, None), "what does not run is not busy");
    assert!(!busy(1, Some(("balloon.rss", Number(1)))));
    assert!(read(&written(1, &[("block.0.name", Text("vda"))])).unwrap().busy);
}

#[test]
fn an_unknown_type_of_value_is_refused() {
    let mut bytes = written(1, &[("cpu.time", Number(1))]);
    let at = bytes.len() - 12;
    bytes[at..at + 4].copy_from_slice(&9u32.to_be_bytes());
    assert_eq!(read(&bytes), Err(Malformed::Undefined { what: "typed value", value: 9 }));
}

proptest! {
    #[test]
    fn damaged_records_are_refused_or_read_but_never_a_panic(at in 0..200usize, value: u8, cut in 0..300usize) {
        let mut bytes = written(1, &[("vcpu.4294967295.time", Number(1)), ("net.0.name", Text("vnet0")), ("block.0.rd.reqs", Number(1))]);
        let at = at % bytes.len();
        bytes[at] = value;
        bytes.truncate(cut.max(1));
        if let Ok(record) = read(&bytes) {
            prop_assert!(record.vcpus.len() + record.nics.len() + record.disks.len() <= 3);
        }
    }
}
