//! `perigee image …`: what guests start from.

pub mod import;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::names::{Kind, resolve};
use crate::session::Session;
use crate::{listing, progress};
use clap::Subcommand;
use perigee_api::ImageRequest;
use perigee_client::{Answer, ListQuery};

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Build an image by a recipe
    #[command(after_help = "Example:
  perigee image build base
  perigee image build debian --include nginx,curl
  perigee image build debian --kind sandbox --include python3")]
    Build {
        /// The recipe: base, for sandboxes and VMs, or debian, for one of them
        recipe: String,
        /// What debian is built for [default: vm]
        #[arg(long, value_name = "KIND", value_parser = ["vm", "sandbox"])]
        kind: Option<String>,
        /// Packages beside the usual ones, of debian
        #[arg(long, value_name = "PACKAGES", value_delimiter = ',')]
        include: Vec<String>,
        /// Name of the image [default: the recipe's; debian-sandbox for a sandbox's]
        #[arg(long)]
        name: Option<String>,
        /// Print the task's id instead of waiting
        #[arg(long)]
        no_wait: bool,
    },
    /// Take in a disk that was made elsewhere: raw, qcow2 or ISO
    #[command(after_help = "Example:
  perigee image import db --file disk.qcow2
  perigee image import db --from https://example.org/disk.qcow2 --sha256 HEX
  perigee image import --catalog debian-12")]
    Import(import::Line),
    /// List images by name that others publish
    #[command(alias = "catalogue", after_help = "Example:\n  perigee image catalog -o wide")]
    Catalog,
    /// List images
    #[command(visible_alias = "ls", after_help = "Example:\n  perigee image list")]
    List {
        /// At most this many
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show one image
    #[command(after_help = "Example:\n  perigee image get base -o json")]
    Get {
        /// Name, id or the beginning of an id
        name: String,
    },
    /// Delete an image that no guest uses
    #[command(visible_alias = "rm", after_help = "Example:\n  perigee image delete base")]
    Delete {
        /// Name, id or the beginning of an id
        name: String,
    },
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    let client = session.client()?;
    match verb {
        Verb::Build { recipe, kind, include, name, no_wait } => {
            let usual = match kind.as_deref() {
                Some("sandbox") => format!("{recipe}-sandbox"),
                Some(_) | None => recipe.clone(),
            };
            let name = name.unwrap_or(usual);
            let include = (!include.is_empty()).then_some(include);
            let request = ImageRequest { name, recipe: Some(recipe), kind, include, ..ImageRequest::default() };
            return create(session, &request, "building", no_wait).await;
        }
        Verb::Import(line) => {
            let no_wait = line.no_wait;
            let request = import::request(session, line).await?;
            return create(session, &request, "importing", no_wait).await;
        }
        Verb::Catalog => {
            let none = "The catalogue is empty";
            return listing::all(session, ListQuery::default(), None, none, async |_| client.catalogue().await).await;
        }
        Verb::List { limit } => {
            let hint = "No images; build one: perigee image build base, or import one: perigee image import --help";
            return listing::all(session, ListQuery::default(), limit, hint, async |q| client.images(q).await).await;
        }
        Verb::Get { name } => {
            let id = resolve(session, Kind::Image, &name).await?;
            session.out.object(&client.image(&id).await?)?;
        }
        Verb::Delete { name } => {
            let id = resolve(session, Kind::Image, &name).await?;
            client.delete_image(&id).await?;
            session.out.note(&format!("{name} is deleted"));
        }
    }
    Ok(Exit::OK)
}

async fn create(session: &Session, request: &ImageRequest, what: &str, no_wait: bool) -> Result<Exit, Failure> {
    let client = session.client()?;
    let image = match client.create_image(request, None).await? {
        Answer::Done(image) => image,
        Answer::Accepted(task) if no_wait => {
            session.out.text(&format!("{}\n", task.id))?;
            return Ok(Exit::OK);
        }
        Answer::Accepted(task) => {
            let task = progress::succeeded(session, *task, &format!("{what} {}", request.name)).await?;
            client.image(task.image_id.as_deref().unwrap_or(&request.name)).await?
        }
    };
    session.out.object(&image)?;
    Ok(Exit::OK)
}
