use super::*;
use crate::plan::tests::member;
use expect_test::{Expect, expect};
use std::net::Ipv4Addr;

fn egress<A: Family>(policy: &str) -> Egress<A> {
    Egress::parse(&policy.split(' ').map(str::to_owned).collect::<Vec<_>>()).unwrap()
}

/// With a policy; behind `|` that of IPv6.
fn asking(policy: &str) -> Member {
    let mut one = member(1, 2, &[]);
    let (four, six) = policy.split_once(" | ").map_or((policy, None), |(four, six)| (four, Some(six)));
    (one.egress, one.egress6) = (egress(four), six.map(egress));
    one
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn verdict(policy: &str, message: &Message) -> String {
    match judge(&message.to_vec().unwrap(), &asking(policy)) {
        Verdict::Silence => "silence".to_owned(),
        Verdict::Answer(answer) => format!("{:?}", answer.metadata.response_code),
        Verdict::Ask(asked) => format!("ask {} {} in {} names", asked.name, asked.kind, asked.numbers.len()),
    }
}

#[track_caller]
fn check(policy: &str, name: &str, kind: RecordType, expected: Expect) {
    expected.assert_eq(&verdict(policy, &question(name, kind)));
}

const LIST: &str = "a.com:443 *.b.com:443 *.b.com:80 c.com 10.0.0.0/8";

#[test]
fn only_listed_names_are_asked_for() {
    check(LIST, "a.com.", RecordType::A, expect!["ask a.com. A in 1 names"]);
    check(LIST, "A.Com.", RecordType::A, expect!["ask a.com. A in 1 names"]);
    check(LIST, "x.y.b.com.", RecordType::A, expect!["ask x.y.b.com. A in 2 names"]);
    for (policy, name) in [
        (LIST, "b.com."),
        (LIST, "x.a.com."),
        (LIST, "com."),
        (LIST, "."),
        ("none", "a.com."),
        ("10.0.0.0/8", "a.com."),
    ] {
        assert_eq!(verdict(policy, &question(name, RecordType::A)), "Refused", "{name}");
    }
    check("all", "any.where.net.", RecordType::A, expect!["ask any.where.net. A in 0 names"]);
}

#[test]
fn a_list_opens_addresses_and_nothing_else() {
    for kind in
        [RecordType::TXT, RecordType::MX, RecordType::NULL, RecordType::AAAA, RecordType::HTTPS, RecordType::CNAME]
    {
        assert_eq!(verdict(LIST, &question("a.com.", kind)), "NoError", "{kind}");
    }
    check(LIST, "a.com.", RecordType::ANY, expect!["NotImp"]);
    check("all", "a.com.", RecordType::TXT, expect!["ask a.com. TXT in 0 names"]);
    check("all", "a.com.", RecordType::AAAA, expect!["NoError"]);
    check("all", "a.com.", RecordType::AXFR, expect!["NotImp"]);
}

#[test]
fn each_family_is_asked_for_as_its_own_policy_says() {
    let both = "a.com:443 | b.com c.com [2606:4700::/32]:443";
    check(both, "a.com.", RecordType::A, expect!["ask a.com. A in 1 names"]);
    check(both, "a.com.", RecordType::AAAA, expect!["NoError"]);
    check(both, "b.com.", RecordType::A, expect!["NoError"]);
    check(both, "b.com.", RecordType::AAAA, expect!["ask b.com. AAAA in 1 names"]);
    check(both, "b.com.", RecordType::HTTPS, expect!["NoError"]);
    check(both, "b.com.", RecordType::TXT, expect!["NoError"]);
    check(both, "d.com.", RecordType::AAAA, expect!["Refused"]);
    check("none | all", "d.com.", RecordType::AAAA, expect!["ask d.com. AAAA in 0 names"]);
    check("none | all", "d.com.", RecordType::A, expect!["NoError"]);
    check("none | none", "d.com.", RecordType::AAAA, expect!["Refused"]);
    check("all | none", "d.com.", RecordType::AAAA, expect!["NoError"]);
}

#[test]
fn a_name_that_looks_like_a_listed_one_as_text_is_not_it() {
    let odd = Name::from_labels([&b"x.b"[..], b"com"]).unwrap();
    let mut message = Message::query();
    message.add_query(Query::query(odd, RecordType::A));
    assert_eq!(verdict("*.b.com", &message), "Refused");
    let odd = Name::from_labels([&b"secret\0\xff"[..], b"b", b"com"]).unwrap();
    message.queries[0].set_name(odd);
    assert_eq!(verdict("*.b.com", &message), "Refused");
}

#[test]
fn what_is_no_question_is_not_answered_as_one() {
    assert!(matches!(judge(b"", &asking("all")), Verdict::Silence));
    assert!(matches!(judge(&[0xff; 40], &asking("all")), Verdict::Silence));
    let mut message = question("a.com.", RecordType::A);
    message.metadata.message_type = MessageType::Response;
    assert_eq!(verdict("all", &message), "silence");
    message.metadata.message_type = MessageType::Query;
    message.metadata.op_code = OpCode::Notify;
    assert_eq!(verdict("all", &message), "NotImp");
    message.metadata.op_code = OpCode::Query;
    message.add_query(message.queries[0].clone());
    assert_eq!(verdict("all", &message), "FormErr");
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(verdict("all", &chaos), "Refused");
}

proptest::proptest! {
    /// Whatever comes, nothing breaks; and what is answered is an answer to it.
    #[test]
    fn any_bytes_are_judged(bytes: Vec<u8>, at: proptest::sample::Index, byte: u8) {
        judge(&bytes, &asking("all"));
        let mut near = question("www.b.com.", RecordType::A).to_vec().unwrap();
        let at = at.index(near.len());
        near[at] = byte;
        if let Verdict::Answer(answer) = judge(&near, &asking(LIST)) {
            proptest::prop_assert_eq!(answer.metadata.id.to_be_bytes(), [near[0], near[1]]);
            proptest::prop_assert!(answer.answers.is_empty());
        }
    }
}

fn asked(policy: &str, name: &str) -> (Member, Asked) {
    asked_for(policy, name, RecordType::A)
}

fn asked_for(policy: &str, name: &str, kind: RecordType) -> (Member, Asked) {
    let member = asking(policy);
    let Verdict::Ask(asked) = judge(&question(name, kind).to_vec().unwrap(), &member) else { panic!("{name}") };
    (member, asked)
}

/// `owner ttl A address`, the same with AAAA, or `owner ttl CNAME name`.
fn answer(records: &[&str]) -> Message {
    let mut message = Message::response(1, OpCode::Query);
    for record in records {
        let words: Vec<_> = record.split(' ').collect();
        let [owner, ttl, kind, data] = words.as_slice() else { panic!("{record}") };
        let data = match *kind {
            "A" => RData::A(A(data.parse().unwrap())),
            "AAAA" => RData::AAAA(AAAA(data.parse().unwrap())),
            _ => RData::CNAME(hickory_proto::rr::rdata::CNAME(Name::from_ascii(data).unwrap())),
        };
        message.add_answer(Record::from_rdata(Name::from_ascii(owner).unwrap(), ttl.parse().unwrap(), data));
    }
    message
}

#[track_caller]
fn means(policy: &str, records: &[&str], expected: &str) {
    means_as(RecordType::A, policy, records, expected);
}

#[track_caller]
fn means_as(kind: RecordType, policy: &str, records: &[&str], expected: &str) {
    let (member, asked) = asked_for(policy, "a.com.", kind);
    let meaning = asked.meaning(&answer(records), &member);
    let addresses: Vec<_> = meaning.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(format!("{} for {}", addresses.join(" "), meaning.ttl_secs), expected);
}

#[test]
fn addresses_are_found_by_way_of_aliases() {
    means("all", &["a.com. 60 A 1.1.1.1", "A.com. 30 A 1.1.1.2"], "1.1.1.1 1.1.1.2 for 30");
    means("all", &["a.com. 20 CNAME x.net.", "x.net. 90 CNAME y.net.", "y.net. 60 A 1.1.1.1"], "1.1.1.1 for 20");
    means("all", &["a.com. 60 CNAME a.com.", "a.com. 60 A 1.1.1.1"], "1.1.1.1 for 60");
    means("all", &["b.com. 60 A 1.1.1.1"], &format!(" for {}", u32::MAX));
    means("all", &["a.com. 9 CNAME x.net.", "a.com. 9 A 6.6.6.6", "z.net. 9 A 6.6.6.6"], " for 9");
    let many: Vec<_> = (0..40).map(|last| format!("a.com. 60 A 1.1.1.{last}")).collect();
    let (member, asked) = asked("all", "a.com.");
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(asked.meaning(&answer(&many), &member).addresses.len(), ADDRESSES_MAX);
}

#[test]
fn a_name_does_not_lead_inside() {
    let inside = ["a.com. 9 A 10.1.2.3", "a.com. 9 A 127.0.0.1", "a.com. 9 A 169.254.169.254", "a.com. 9 A 1.1.1.1"];
    means("all", &inside, "1.1.1.1 for 9");
    means("a.com 0.0.0.0/0", &inside, "1.1.1.1 for 9");
    means("a.com 10.1.0.0/16", &inside, "10.1.2.3 1.1.1.1 for 9");
    let inside = [
        "a.com. 9 AAAA fd12::1",
        "a.com. 9 AAAA ::1",
        "a.com. 9 AAAA fe80::1",
        "a.com. 9 AAAA fd00:ec2::254",
        "a.com. 9 AAAA ::ffff:10.1.2.3",
        "a.com. 9 AAAA 64:ff9b::a01:203",
        "a.com. 9 A 1.1.1.1",
        "a.com. 9 AAAA 2606:4700::1111",
    ];
    for (policy, expected) in [
        ("none | all", "2606:4700::1111 for 9"),
        ("10.0.0.0/8 fake.com | a.com ::/0", "2606:4700::1111 for 9"),
        ("none | a.com fd12::/16", "fd12::1 2606:4700::1111 for 9"),
    ] {
        means_as(RecordType::AAAA, policy, &inside, expected);
    }
    means("all | all", &inside, "1.1.1.1 for 9");
}

#[test]
fn nothing_of_the_question_but_its_name_goes_out() {
    let (_, asked) = asked("all", "A.cOm.");
    let question = asked.question();
    assert_eq!(question.queries[0].name().to_ascii(), "a.com.");
    assert!(question.edns.as_ref().is_some_and(|edns| edns.options().as_ref().is_empty()));
    let mut answer = answer(&[]);
    answer.metadata.id = question.metadata.id;
    answer.add_query(question.queries[0].clone());
    assert!(asked.is_answered_by(&question, &answer));
    answer.metadata.id = !question.metadata.id;
    assert!(!asked.is_answered_by(&question, &answer));
    answer.metadata.id = question.metadata.id;
    answer.queries[0].set_name(Name::from_ascii("b.com.").unwrap());
    assert!(!asked.is_answered_by(&question, &answer));
}

#[test]
fn an_answer_has_the_question_as_it_was_asked() {
    let (member, asked) = asked("a.com", "A.cOm.");
    let meaning = asked.meaning(&answer(&["a.com. 60 A 1.1.1.1"]), &member);
    let told = asked.told(ResponseCode::NoError, &meaning, 30);
    assert_eq!(told.queries[0].name().to_ascii(), "A.cOm.");
    let record = &told.answers[0];
    assert_eq!(
        (record.name.to_ascii().as_str(), record.ttl, &record.data),
        ("A.cOm.", 30, &RData::A(A(Ipv4Addr::new(1, 1, 1, 1))))
    );
    assert_eq!(asked.wanted(&member, &meaning).len(), 1);
}

#[test]
fn what_does_not_fit_is_asked_again_by_tcp() {
    let (_, asked) = asked("all", "a.com.");
    let many: Vec<_> = (0..40).map(|last| format!("a.com. 60 A 1.1.1.{last}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let long = asked.passed_on(&answer(&many));
    let cut = |heard: &Message| {
        let bytes = datagram(&long, &heard.to_vec().unwrap()).unwrap();
        (bytes.len() <= 1232, Message::from_vec(&bytes).unwrap().metadata.truncation)
    };
    let mut heard = question("a.com.", RecordType::A);
    assert_eq!(cut(&heard), (true, true));
    heard.set_edns(Edns::new());
    heard.edns.as_mut().unwrap().set_max_payload(4096);
    assert_eq!(cut(&heard), (true, false));
}
