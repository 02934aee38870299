//! Pages: `?limit=&page_token=`. A token is opaque, belongs to one list with one filter, and names
//! the last object given, so that inserts do not shift the next page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use perigee_api::Page;
use perigee_control::Span;
use perigee_model::limits::{PAGE_DEFAULT, PAGE_MAX};
use perigee_model::{Code, Refusal};
use std::fmt::Display;
use std::str::FromStr;

/// Which page of one list is asked for.
pub struct Paging<Id> {
    list: String,
    limit: usize,
    after: Option<Id>,
}

impl<Id: Copy + Display + FromStr> Paging<Id> {
    /// `list` names the route and its filter.
    ///
    /// # Errors
    /// `BadField` for a limit out of range, `BadPageToken` for a token of another list.
    pub fn read(list: String, limit: Option<usize>, token: Option<&str>) -> Result<Self, Refusal> {
        let limit = limit.unwrap_or(PAGE_DEFAULT);
        if limit == 0 || limit > PAGE_MAX {
            return Err(Refusal::field("limit", format!("limit is 1 to {PAGE_MAX}")));
        }
        let after = token.map(|token| read(token, &list)).transpose()?;
        Ok(Self { list, limit, after })
    }

    /// What to look up: one object more than the page holds, to know whether another page follows.
    pub fn span(&self) -> Span<Id> {
        Span { after: self.after, most: self.limit + 1 }
    }

    /// The page out of what [`Self::span`] found.
    pub fn page<T, V>(self, mut found: Vec<T>, id: impl Fn(&T) -> Id, show: impl FnMut(&T) -> V) -> Page<V> {
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        let next_page_token = found.last().filter(|_| more).map(|last| write(&id(last), &self.list));
        Page { items: found.iter().map(show).collect(), next_page_token }
    }
}

fn write(last: &impl Display, list: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{last} {list}"))
}

fn read<Id: FromStr>(token: &str, list: &str) -> Result<Id, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok().and_then(|b| String::from_utf8(b).ok());
    let parts = bytes.as_deref().and_then(|t| t.split_once(' '));
    let last = parts.filter(|(_, of)| *of == list).and_then(|(last, _)| last.parse().ok());
    last.ok_or_else(|| {
        Refusal::new(Code::BadPageToken, "use page_token only with the list and the filter that gave it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn pages(all: &[u32], limit: usize, newest_first: bool) -> Vec<Vec<u32>> {
        let rows: BTreeMap<u32, u32> = all.iter().map(|n| (*n, *n)).collect();
        let mut told = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let paging = Paging::<u32>::read("x".to_owned(), Some(limit), token.as_deref()).unwrap();
            let span = paging.span();
            let found = if newest_first { span.newest(&rows, |_| true) } else { span.oldest(&rows, |_| true) };
            let page = paging.page(found, |n| *n, |n| *n);
            told.push(page.items);
            token = page.next_page_token;
            if token.is_none() {
                return told;
            }
        }
    }

    #[test]
    fn pages_cover_everything_once() {
        assert_eq!(pages(&[1, 2, 3], 2, false), [vec![1, 2], vec![3]]);
        assert_eq!(pages(&[1, 2, 3], 2, true), [vec![3, 2], vec![1]]);
        assert_eq!(pages(&[1, 2], 2, false), [vec![1, 2]]);
        assert_eq!(pages(&[], 2, false), [Vec::<u32>::new()]);
    }

    #[test]
    fn foreign_tokens_and_limits_are_refused() {
        let read = |limit, token: Option<&str>| Paging::<u32>::read("x".to_owned(), limit, token).err().map(|r| r.code);
        assert_eq!(read(Some(0), None), Some(Code::BadField));
        assert_eq!(read(Some(1001), None), Some(Code::BadField));
        assert_eq!(read(None, Some(&write(&1, "y"))), Some(Code::BadPageToken));
        assert_eq!(read(None, Some(&write(&"one", "x"))), Some(Code::BadPageToken));
        assert_eq!(read(None, Some("%%%")), Some(Code::BadPageToken));
        assert_eq!(read(None, Some(&write(&1, "x"))), None);
    }
}
