//! What a guest asks, and what it is told. Pure; messages as RFC 1035 has them.
//!
//! A question is not passed on: another one is made of its name and type alone, and an answer is made of what was
//! understood of the answer. So nothing travels in either direction but a listed name and addresses.

use super::answers::Wanted;
use crate::plan::Member;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use perigee_model::GuestId;
use perigee_model::egress::{Egress, Family, Place, is_public};
use std::net::IpAddr;

/// Most addresses of one answer.
const ADDRESSES_MAX: usize = 16;
/// Most names that lead to one another (CNAME).
const ALIASES_MAX: usize = 16;
/// What a datagram holds without EDNS, and with.
const PLAIN_BYTES: u16 = 512;
const EDNS_BYTES: u16 = 1232;

/// What becomes of a question.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing: it is no question.
    Silence,
    /// It is answered at once.
    Answer(Message),
    /// The world is asked.
    Ask(Asked),
}

/// A question that may be asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// As the guest asked it; its answer repeats this.
    heard: Message,
    /// Its name, in lower case.
    pub name: Name,
    /// A, AAAA, or with a policy of `all` another type.
    pub kind: RecordType,
    /// Groups of the guest's policy that list the name.
    pub numbers: Vec<u32>,
}

/// What the world said of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Meaning {
    pub addresses: Vec<IpAddr>,
    pub ttl_secs: u32,
}

/// Judges what came from a guest.
pub(super) fn judge(bytes: &[u8], member: &Member) -> Verdict {
    let Ok(heard) = Message::from_vec(bytes) else { return Verdict::Silence };
    if heard.metadata.message_type != MessageType::Query {
        return Verdict::Silence;
    }
    let say = |code| Verdict::Answer(reply(&heard, code, Vec::new()));
    if heard.metadata.op_code != OpCode::Query {
        return say(ResponseCode::NotImp);
    }
    let [query] = heard.queries.as_slice() else { return say(ResponseCode::FormErr) };
    let name = query.name().to_lowercase();
    let Some(plain) = plain(&name).filter(|_| query.query_class() == DNSClass::IN) else {
        return say(ResponseCode::Refused);
    };
    let kind = query.query_type();
    let four = listing(&member.egress, member.guest, &plain);
    let six = member.egress6.as_ref().and_then(|egress| listing(egress, member.guest, &plain));
    if four.is_none() && six.is_none() {
        return say(ResponseCode::Refused);
    }
    let all = member.egress == Egress::All || member.egress6 == Some(Egress::All);
    let numbers = match kind {
        RecordType::A => four,
        RecordType::AAAA => six,
        // These would lead past the answers of A and AAAA.
        RecordType::HTTPS | RecordType::SVCB => None,
        RecordType::ANY | RecordType::AXFR | RecordType::IXFR => return say(ResponseCode::NotImp),
        _ => all.then(Vec::new),
    };
    match numbers {
        Some(numbers) => Verdict::Ask(Asked { name, kind, numbers, heard }),
        // It is a name, and nothing that this guest may know.
        None => say(ResponseCode::NoError),
    }
}

/// The groups of a policy that list a name: none of them by name where all is open; `None`: it is not open.
fn listing<A: Family>(egress: &Egress<A>, guest: GuestId, plain: &str) -> Option<Vec<u32>> {
    match egress {
        Egress::None => None,
        Egress::All => Some(Vec::new()),
        Egress::List(_) => {
            let names = egress.listed_names();
            let listed = names.iter().filter(|name| name.domain.matches(plain));
            let listed: Vec<_> = listed.map(|name| name.number(guest)).collect();
            (!listed.is_empty()).then_some(listed)
        }
    }
}

/// A name of letters, digits, hyphens and underscores as text, without the last dot: others are nobody's, and
/// could look like something else as text.
fn plain(name: &Name) -> Option<String> {
    let fits = |label: &[u8]| label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let labels: Vec<_> = name.iter().collect();
    let all = !labels.is_empty() && labels.iter().all(|label| fits(label));
    all.then(|| labels.iter().map(|label| String::from_utf8_lossy(label)).collect::<Vec<_>>().join("."))
}

impl Asked {
    /// The question that is put to the world.
    pub(super) fn question(&self) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(self.name.clone(), self.kind));
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_BYTES);
        message.set_edns(edns);
        message
    }

    /// Whether this is the answer to that question.
    pub(super) fn is_answered_by(&self, question: &Message, answer: &Message) -> bool {
        let same = |query: &Query| {
            query.name().to_lowercase() == self.name
                && query.query_type() == self.kind
                && query.query_class() == DNSClass::IN
        };
        answer.metadata.id == question.metadata.id
            && answer.metadata.message_type == MessageType::Response
            && answer.queries.len() == 1
            && answer.queries.iter().all(same)
    }

    /// The addresses that an answer gives to the name, by way of its aliases, as far as this guest may know them:
    /// public ones, and those of private networks that its policy names.
    pub(super) fn meaning(&self, answer: &Message, member: &Member) -> Meaning {
        let mut owner = self.name.clone();
        let mut ttl_secs = u32::MAX;
        for _ in 0..ALIASES_MAX {
            let alias = answer.answers.iter().find_map(|record| match &record.data {
                RData::CNAME(to) if record.name.to_lowercase() == owner => Some((to.0.to_lowercase(), record.ttl)),
                _ => None,
            });
            let Some((next, ttl)) = alias else { break };
            (owner, ttl_secs) = (next, ttl_secs.min(ttl));
        }
        let mut addresses = Vec::new();
        for record in answer.answers.iter().filter(|record| record.name.to_lowercase() == owner) {
            let address = match record.data {
                RData::A(A(four)) if self.kind == RecordType::A && may_know(&member.egress, four) => four.into(),
                RData::AAAA(AAAA(six))
                    if self.kind == RecordType::AAAA
                        && member.egress6.as_ref().is_some_and(|egress| may_know(egress, six)) =>
                {
                    six.into()
                }
                _ => continue,
            };
            if addresses.len() < ADDRESSES_MAX {
                addresses.push(address);
                ttl_secs = ttl_secs.min(record.ttl);
            }
        }
        Meaning { addresses, ttl_secs }
    }

    /// What is to be open before the guest hears of it.
    pub(super) fn wanted(&self, member: &Member, meaning: &Meaning) -> Vec<Wanted> {
        let one = |number: &u32| {
            let of = |address: &IpAddr| Wanted { guest: member.address, number: *number, address: *address };
            meaning.addresses.iter().map(of).collect::<Vec<_>>()
        };
        self.numbers.iter().flat_map(one).collect()
    }

    /// Addresses, for the guest.
    pub(super) fn told(&self, code: ResponseCode, meaning: &Meaning, ttl_secs: u32) -> Message {
        let name = self.heard.queries.first().map_or_else(Name::root, |query| query.name().clone());
        let data = |address: &IpAddr| match address {
            IpAddr::V4(four) => RData::A(A(*four)),
            IpAddr::V6(six) => RData::AAAA(AAAA(*six)),
        };
        let record = |address: &IpAddr| Record::from_rdata(name.clone(), ttl_secs, data(address));
        reply(&self.heard, code, meaning.addresses.iter().map(record).collect())
    }

    /// What is no address, for a guest that may ask everything.
    pub(super) fn passed_on(&self, answer: &Message) -> Message {
        reply(&self.heard, answer.metadata.response_code, answer.answers.clone())
    }

    /// That the world did not answer.
    pub(super) fn failed(&self) -> Message {
        reply(&self.heard, ResponseCode::ServFail, Vec::new())
    }
}

/// A public address, or one of a private network that the policy names.
fn may_know<A: Family>(egress: &Egress<A>, address: A) -> bool {
    let Egress::List(openings) = egress else { return is_public(address) };
    let holds = |place: &Place<A>| matches!(place, Place::Block(block) if block.holds(address));
    is_public(address) || openings.iter().any(|opening| opening.is_private() && holds(&opening.place))
}

fn reply(heard: &Message, code: ResponseCode, answers: Vec<Record>) -> Message {
    let mut message = Message::response(heard.metadata.id, heard.metadata.op_code);
    message.metadata.recursion_desired = heard.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.queries.clone_from(&heard.queries);
    message.answers = answers;
    if heard.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_BYTES);
        message.set_edns(edns);
    }
    message
}

/// A reply as a datagram: cut short where the guest takes no more, so that it asks again by TCP.
pub(super) fn datagram(reply: &Message, heard: &[u8]) -> Option<Vec<u8>> {
    let asked = Message::from_vec(heard).ok().and_then(|heard| heard.edns.map(|edns| edns.max_payload()));
    let most = asked.map_or(PLAIN_BYTES, |most| most.clamp(PLAIN_BYTES, EDNS_BYTES));
    let whole = reply.to_vec().ok()?;
    if whole.len() <= usize::from(most) { Some(whole) } else { reply.truncate().to_vec().ok() }
}

#[cfg(test)]
mod tests;
