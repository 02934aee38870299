//! Pages: `?limit=&page_token=`. A token is opaque, belongs to one list with one filter, and names
//! the last object given, so that inserts do not shift the next page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use perigee_api::Page;
use perigee_model::limits::{PAGE_DEFAULT, PAGE_MAX};
use perigee_model::{Code, Refusal};

/// Cuts one page out of objects in the list's order. `list` names the route and its filter; `id`
/// gives an object's id; `newest_first` tells the order.
///
/// # Errors
/// `BadField` for a limit out of range, `BadPageToken` for a token of another list.
pub fn cut<T, V>(
    all: Vec<T>,
    list: &str,
    (limit, token): (Option<usize>, Option<&str>),
    newest_first: bool,
    id: impl Fn(&T) -> String,
    show: impl Fn(&T) -> V,
) -> Result<Page<V>, Refusal> {
    let limit = limit.unwrap_or(PAGE_DEFAULT);
    if limit == 0 || limit > PAGE_MAX {
        return Err(Refusal::field("limit", format!("limit is 1 to {PAGE_MAX}")));
    }
    let after = token.map(|t| read(t, list)).transpose()?;
    let comes_after = |object: &T| match &after {
        None => true,
        Some(last) if newest_first => id(object) < *last,
        Some(last) => id(object) > *last,
    };
    let mut rest = all.into_iter().filter(comes_after);
    let page: Vec<T> = rest.by_ref().take(limit).collect();
    let more = rest.next().is_some();
    let next_page_token = page.last().filter(|_| more).map(|last| write(&id(last), list));
    Ok(Page { items: page.iter().map(show).collect(), next_page_token })
}

fn write(last: &str, list: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{last} {list}"))
}

fn read(token: &str, list: &str) -> Result<String, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok().and_then(|b| String::from_utf8(b).ok());
    let parts = bytes.as_deref().and_then(|t| t.split_once(' '));
    match parts {
        Some((last, of)) if of == list => Ok(last.to_owned()),
        Some(_) | None => {
            Err(Refusal::new(Code::BadPageToken, "use page_token only with the list and the filter that gave it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(all: &[&str], limit: usize, newest_first: bool) -> Vec<Vec<String>> {
        let mut told = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = cut(
                all.to_vec(),
                "x",
                (Some(limit), token.as_deref()),
                newest_first,
                |t| (*t).to_owned(),
                |t| (*t).to_owned(),
            );
            let page = page.unwrap();
            told.push(page.items);
            token = page.next_page_token;
            if token.is_none() {
                return told;
            }
        }
    }

    #[test]
    fn pages_cover_everything_once() {
        assert_eq!(pages(&["a", "b", "c"], 2, false), [vec!["a", "b"], vec!["c"]]);
        assert_eq!(pages(&["c", "b", "a"], 2, true), [vec!["c", "b"], vec!["a"]]);
        assert_eq!(pages(&["a", "b"], 2, false), [vec!["a", "b"]]);
        assert_eq!(pages(&[], 2, false), [Vec::<String>::new()]);
    }

    #[test]
    fn foreign_tokens_and_limits_are_refused() {
        let cut = |limit, token: Option<&str>| {
            cut(vec!["a"], "x", (limit, token), false, |t| (*t).to_owned(), |_| ()).err().map(|r| r.code)
        };
        assert_eq!(cut(Some(0), None), Some(Code::BadField));
        assert_eq!(cut(Some(1001), None), Some(Code::BadField));
        assert_eq!(cut(None, Some(&write("a", "y"))), Some(Code::BadPageToken));
        assert_eq!(cut(None, Some("%%%")), Some(Code::BadPageToken));
    }
}
