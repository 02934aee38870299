//! Names for guests: asked at the gateway's address, answered as far as a guest's policy lists them, and opened in
//! the kernel before the guest hears of them.
//!
//! Guests ask by IPv4 alone; what they may reach by IPv6 they hear of there, too.
//! Owns: reading questions, asking the world's resolvers, what is open because of answers, and the sockets.
//! Refuses: names that are not listed, types other than addresses where a list holds, private addresses, and more
//! questions at a time than [`Turns`](turns::Turns) lets in.
//! Deliberately absent: a cache. The host's own resolver has one; and DNSSEC, which that one checks.

pub(crate) mod answers;
mod listen;
mod question;
mod turns;
mod upstream;

pub use answers::Lasting;
pub(crate) use listen::Listening;
pub use upstream::upstreams;

use crate::network::Inner;
use crate::plan::Member;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use question::{Asked, Verdict};
use std::net::Ipv4Addr;

/// The answer to what came from an address; `None`: there is none.
async fn answer(network: &Inner, from: Ipv4Addr, bytes: &[u8]) -> Option<Message> {
    let member = network.member(from).await?;
    match question::judge(bytes, &member) {
        Verdict::Silence => None,
        Verdict::Answer(message) => Some(message),
        Verdict::Ask(asked) => Some(ask(network, &member, &asked).await),
    }
}

async fn ask(network: &Inner, member: &Member, asked: &Asked) -> Message {
    let Some(said) = upstream::ask(network.upstreams(), asked).await else { return asked.failed() };
    if !matches!(asked.kind, RecordType::A | RecordType::AAAA) {
        return asked.passed_on(&said);
    }
    let meaning = asked.meaning(&said, member);
    let wanted = asked.wanted(member, &meaning);
    match network.open_names(member, &wanted, meaning.ttl_secs).await {
        Some(ttl_secs) => {
            let known = matches!(said.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
            let code = if known { said.metadata.response_code } else { ResponseCode::ServFail };
            asked.told(code, &meaning, ttl_secs)
        }
        None => asked.failed(),
    }
}
