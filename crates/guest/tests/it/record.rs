//! The record codec and the session lines.

use perigee_guest::hello::{AnswerSeeker, GuestAnswer, HostHello, Nonce, VersionRange};
use perigee_guest::query::FileQuery;
use perigee_guest::record::{PAYLOAD_BYTES_MAX, Record, RecordDecoder, encode};
use proptest::prelude::*;

proptest! {
    #[test]
    fn records_survive_any_cut(
        records in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20),
        cut in 1usize..64,
    ) {
        let mut wire = Vec::new();
        for (kind, payload) in &records {
            wire.extend_from_slice(&encode(*kind, payload).unwrap());
        }
        let mut decoder = RecordDecoder::default();
        let mut seen = Vec::new();
        for piece in wire.chunks(cut) {
            decoder.push(piece);
            while let Some(Record { kind, payload }) = decoder.next_record().unwrap() {
                seen.push((kind, payload.to_vec()));
            }
        }
        prop_assert_eq!(seen, records);
        prop_assert!(decoder.is_empty());
    }

    #[test]
    fn garbage_never_panics_the_decoder(garbage in prop::collection::vec(any::<u8>(), 0..500)) {
        let mut decoder = RecordDecoder::default();
        decoder.push(&garbage);
        while let Ok(Some(record)) = decoder.next_record() {
            prop_assert!(record.payload.len() <= PAYLOAD_BYTES_MAX);
        }
    }

    #[test]
    fn a_hello_is_found_behind_garbage(
        garbage in prop::collection::vec(any::<u8>(), 0..300),
        nonce in any::<[u8; 16]>(), lowest in 0u16..9, more in 0u16..9,
    ) {
        let versions = VersionRange { lowest, highest: lowest + more };
        let hello = HostHello { nonce: Nonce(nonce), versions };
        let mut wire = garbage;
        wire.extend_from_slice(hello.line().as_bytes());
        prop_assert_eq!(HostHello::find_last(&wire), Some((hello, wire.len())));
    }

    #[test]
    fn an_answer_is_found_at_any_cut(
        garbage in prop::collection::vec(any::<u8>(), 0..700),
        nonce in any::<[u8; 16]>(), cut in 1usize..200,
    ) {
        let nonce = Nonce(nonce);
        let answer = GuestAnswer::Accepted { version: 1, clone_id: "c".to_owned() };
        let mut wire = garbage;
        wire.extend_from_slice(GuestAnswer::line(&answer, Nonce([7; 16])).as_bytes());
        wire.extend_from_slice(answer.line(nonce).as_bytes());
        wire.extend_from_slice(b"first frame");
        let mut seeker = AnswerSeeker::new(nonce);
        let mut pieces = wire.chunks(cut);
        let found = pieces.find_map(|piece| seeker.push(piece));
        let (seen, mut early) = found.unwrap();
        pieces.for_each(|piece| early.extend_from_slice(piece));
        prop_assert_eq!(seen, answer);
        prop_assert_eq!(early, b"first frame".to_vec());
    }

    #[test]
    fn a_path_survives_the_query(path in "/\\PC{0,60}", mode in prop::option::of(0u32..=0o7777)) {
        let query = FileQuery { path, mode };
        prop_assert_eq!(FileQuery::parse(&query.encode()).unwrap(), query);
    }
}

#[test]
fn a_length_of_four_gibibytes_is_refused_from_its_header() {
    let mut decoder = RecordDecoder::default();
    decoder.push(&[1, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(decoder.next_record().unwrap_err().bytes, u32::MAX as usize);
    assert!(encode(1, &vec![0; PAYLOAD_BYTES_MAX + 1]).is_err());
}

#[test]
fn version_ranges_meet_at_the_newest() {
    let range = |text: &str| text.parse::<VersionRange>().unwrap();
    assert_eq!(range("1-3").common(range("2-5")), Some(3));
    assert_eq!(range("1-1").common(range("2-5")), None);
    assert!("3-1".parse::<VersionRange>().is_err());
}
