//! Every list command: page after page, printed as it comes.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use crate::table::Shown;
use perigee_api::Page;
use perigee_client::{ClientError, ListQuery};

/// Objects asked for at once.
const PAGE: usize = 1000;

/// Prints the whole list, or its first `limit` objects.
pub async fn all<T: Shown>(
    session: &Session,
    mut query: ListQuery,
    limit: Option<usize>,
    hint: &str,
    fetch: impl AsyncFn(&ListQuery) -> Result<Page<T>, ClientError>,
) -> Result<Exit, Failure> {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut listing = session.out.listing();
    while left > 0 {
        query.limit = u32::try_from(left.min(PAGE)).ok();
        let mut page = fetch(&query).await?;
        page.items.truncate(left);
        left -= page.items.len();
        listing.page(page.items)?;
        // A token that does not move on would go round for ever.
        if page.next_page_token.is_none() || page.next_page_token == query.page_token {
            break;
        }
        query.page_token = page.next_page_token;
    }
    listing.end(hint)?;
    Ok(Exit::OK)
}
