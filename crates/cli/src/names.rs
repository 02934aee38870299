//! Names, ids and beginnings of ids.
//!
//! The control plane knows names and whole ids. A text of four or more hex digits may also be the
//! beginning of one id; that is looked up here, and only when it is nobody's name.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use perigee_client::{Client, ClientError, ListQuery};

/// Fewer digits would match by accident.
const PREFIX_CHARS_MIN: usize = 4;
/// A UUID in text.
const ID_CHARS: usize = 36;
/// Objects on one page here.
const PAGE: u32 = 1000;
/// Pages looked through.
const PAGES_MAX: usize = 100;
/// Candidates listed.
const CANDIDATES_MAX: usize = 10;

/// What is named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A machine.
    Host,
    /// A guest.
    Sandbox,
    /// A virtual machine.
    Vm,
    /// An image.
    Image,
    /// A task.
    Task,
    /// An execution.
    Execution,
    /// A volume.
    Volume,
    /// A network.
    Network,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Sandbox => "sandbox",
            Self::Vm => "vm",
            Self::Image => "image",
            Self::Task => "task",
            Self::Execution => "execution",
            Self::Volume => "volume",
            Self::Network => "network",
        }
    }
}

/// What the control plane will understand for what a person wrote.
pub async fn resolve(session: &Session, kind: Kind, text: &str) -> Result<String, Failure> {
    if !may_be_prefix(text) {
        return Ok(text.to_owned());
    }
    let client = session.client()?;
    let missing = match exists(client, kind, text).await {
        Ok(()) => return Ok(text.to_owned()),
        Err(error) => Failure::from(error),
    };
    if missing.exit != Exit::NOT_FOUND && missing.exit != Exit::USAGE {
        return Err(missing);
    }
    let mut matching = candidates(client, kind, &text.to_ascii_lowercase()).await?;
    match (matching.len(), matching.pop()) {
        (1, Some((id, _))) => Ok(id),
        (_, None) => Err(missing),
        (count, Some(last)) => {
            matching.push(last);
            let word = kind.word();
            let mut failure = Failure::usage(format!("{text} is the beginning of {count} ids, of a {word} each"));
            let shown = matching.into_iter().take(CANDIDATES_MAX);
            failure.causes.extend(shown.map(|(id, name)| format!("{id} {name}").trim_end().to_owned()));
            Err(failure.hint(format!("perigee {word} list -o wide")))
        }
    }
}

/// Whether a text can only be a name or a whole id.
fn may_be_prefix(text: &str) -> bool {
    (PREFIX_CHARS_MIN..ID_CHARS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

async fn exists(client: &Client, kind: Kind, text: &str) -> Result<(), ClientError> {
    match kind {
        Kind::Host => client.host(text).await.map(drop),
        Kind::Sandbox => client.sandbox(text).await.map(drop),
        Kind::Vm => match client.vm(text).await {
            Ok(_) => Ok(()),
            Err(_) => client.foreign_vm(text).await.map(drop),
        },
        Kind::Image => client.image(text).await.map(drop),
        Kind::Task => client.task(text, None).await.map(drop),
        Kind::Execution => client.execution(text).await.map(drop),
        Kind::Volume => client.volume(text).await.map(drop),
        Kind::Network => client.network(text).await.map(drop),
    }
}

/// Id and name of all whose id begins so.
async fn candidates(client: &Client, kind: Kind, prefix: &str) -> Result<Vec<(String, String)>, Failure> {
    let mut query = ListQuery { limit: Some(PAGE), ..ListQuery::default() };
    let mut found = Vec::new();
    for _ in 0..PAGES_MAX {
        let (items, next) = page(client, kind, &query).await?;
        found.extend(items.into_iter().filter(|(id, _)| id.starts_with(prefix)));
        query.page_token = next;
        if query.page_token.is_none() {
            break;
        }
    }
    Ok(found)
}

type Named = (Vec<(String, String)>, Option<String>);

async fn page(client: &Client, kind: Kind, query: &ListQuery) -> Result<Named, ClientError> {
    macro_rules! named {
        ($list:ident, $name:expr) => {{
            let page = client.$list(query).await?;
            (page.items.into_iter().map(|o| (o.id.clone(), $name(o))).collect(), page.next_page_token)
        }};
    }
    Ok(match kind {
        Kind::Host => named!(hosts, |h: perigee_api::HostView| h.name),
        Kind::Sandbox => named!(sandboxes, |s: perigee_api::SandboxView| s.name),
        Kind::Vm => vms(client, query).await?,
        Kind::Image => named!(images, |i: perigee_api::ImageView| i.name),
        Kind::Task => named!(tasks, |t: perigee_api::TaskView| t.kind),
        Kind::Execution => named!(executions, |e: perigee_api::ExecutionView| e.argv.join(" ")),
        Kind::Volume => named!(volumes, |v: perigee_api::VolumeView| v.name),
        Kind::Network => named!(networks, |n: perigee_api::NetworkView| n.name),
    })
}

/// Ours, with those that are nobody's of ours behind the last page.
async fn vms(client: &Client, query: &ListQuery) -> Result<Named, ClientError> {
    let ours = ListQuery { limit: query.limit, page_token: query.page_token.clone(), ..ListQuery::default() };
    let page = client.vms(&ours.filter("kind", Some("vm".to_owned()))).await?;
    let mut items: Vec<_> = page.items.into_iter().map(|v| (v.guest.id, v.guest.name)).collect();
    if page.next_page_token.is_none() {
        let foreign = client.foreign_vms(&ListQuery { limit: query.limit, ..ListQuery::default() }).await?;
        items.extend(foreign.items.into_iter().map(|v| (v.id, v.name)));
    }
    Ok((items, page.next_page_token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hex_of_some_length_is_looked_up() {
        for yes in ["0199", "0199c0de-7", "BEEF", "----"] {
            assert!(may_be_prefix(yes), "{yes}");
        }
        for no in ["", "abc", "web-1", "0199c0de-7000-7000-8000-000000000001", "../x"] {
            assert!(!may_be_prefix(no), "{no}");
        }
    }
}
