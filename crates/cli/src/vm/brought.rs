//! An image that is not here yet, and that the catalogue has: it comes with the VM that asks for it.
//!
//! Owns: finding out that this is so, and the import before the create. Refuses: any other reason why a VM is not
//! made. Who names an image that is here pays no call for this.

use crate::failure::Failure;
use crate::image::import::named_after;
use crate::progress;
use crate::session::Session;
use perigee_api::{CatalogueEntryView, ImageRequest, VmRequest};
use perigee_client::{Answer, Client, ClientError};
use perigee_model::Code;

/// What a name stands for that is no image's.
pub enum Missing {
    /// An image that came from the catalogue under this name before.
    Here(String),
    /// The catalogue has it.
    Published(Box<CatalogueEntryView>),
}

/// Why there is no such VM: because its image is not here, or as it was refused.
pub async fn missing(
    session: &Session,
    request: &VmRequest,
    error: ClientError,
    no_import: bool,
) -> Result<Missing, Failure> {
    let (Some(wanted), true) = (&request.image, says(&error, Code::NoSuchImage)) else { return Err(error.into()) };
    let client = session.client()?;
    let listed = client.catalogue().await?.items;
    let Some(entry) = listed.into_iter().find(|entry| entry.name == *wanted) else { return Err(error.into()) };
    let image = named_after(&entry.name);
    if image != *wanted && is_here(client, &image).await? {
        return Ok(Missing::Here(image));
    }
    if no_import {
        return Err(Failure::from(error).hint(format!("perigee image import --catalog {}", entry.name)));
    }
    Ok(Missing::Published(Box::new(entry)))
}

/// The name of the image, which is here then.
pub async fn image(session: &Session, missing: Missing) -> Result<String, Failure> {
    let entry = match missing {
        Missing::Here(image) => return Ok(image),
        Missing::Published(entry) => entry,
    };
    session.out.note(&told(&entry, "is"));
    let name = named_after(&entry.name);
    let request = ImageRequest { name: name.clone(), catalogue: Some(entry.name.clone()), ..ImageRequest::default() };
    match session.client()?.create_image(&request, None).await {
        Ok(Answer::Done(_)) => {}
        Ok(Answer::Accepted(task)) => {
            progress::succeeded(session, *task, &format!("importing {name}")).await?;
        }
        // Somebody else was faster.
        Err(error) if says(&error, Code::NameTaken) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(name)
}

/// What becomes of the image first.
pub fn told(entry: &CatalogueEntryView, is: &str) -> String {
    let (name, url) = (named_after(&entry.name), &entry.url);
    format!("There is no image {name} yet: it {is} imported from the catalogue first ({url})")
}

async fn is_here(client: &Client, image: &str) -> Result<bool, ClientError> {
    match client.image(image).await {
        Ok(_) => Ok(true),
        Err(error) if says(&error, Code::NoSuchImage) => Ok(false),
        Err(error) => Err(error),
    }
}

fn says(error: &ClientError, code: Code) -> bool {
    error.problem().is_some_and(|problem| problem.code == code.number())
}
