//! `perigee volume …`: disks that outlive the virtual machines they are attached to.

use crate::cell::Cell;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::names::{Kind, resolve};
use crate::rows::{moment, words};
use crate::session::Session;
use crate::table::{Column, Shown, column, wide};
use crate::units::{parse_bytes, parse_pair, show_bytes};
use crate::{listing, progress};
use clap::{Args, Subcommand};
use perigee_api::{TaskView, VolumeAttachRequest, VolumeRequest, VolumeResizeRequest, VolumeView};
use perigee_client::{Answer, ListQuery};

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a volume
    #[command(
        after_help = "Example:\n  perigee volume create data --size 10GiB\n  perigee volume create data --size 1TiB --host rack-7 --label team=db"
    )]
    Create(CreateOptions),
    /// List volumes
    #[command(
        visible_alias = "ls",
        after_help = "Example:\n  perigee volume list -o wide\n  perigee volume list --vm db"
    )]
    List {
        /// Only those of this machine
        #[arg(long, value_name = "VM")]
        vm: Option<String>,
        /// At most this many
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show one volume
    #[command(after_help = "Example:\n  perigee volume get data -o yaml")]
    Get {
        /// Name, id or the beginning of an id
        name: String,
    },
    /// Attach a volume to a virtual machine of its host, which may run
    #[command(
        after_help = "Example:\n  perigee volume attach data db\n\nThe machine finds it as /dev/disk/by-id/virtio-SERIAL; perigee volume list -o wide tells the serial."
    )]
    Attach {
        /// Which
        #[command(flatten)]
        which: Which,
        /// To which machine: name, id or the beginning of an id
        vm: String,
    },
    /// Take a volume out of its virtual machine; what is on it stays
    #[command(
        after_help = "Example:\n  perigee volume detach data\n\nUnmount it in the machine first: one that still uses it does not let go of it, and is waited for."
    )]
    Detach(Which),
    /// Make a volume larger; a virtual machine that runs with it sees the new size
    #[command(after_help = "Example:\n  perigee volume resize data 20GiB")]
    Resize {
        /// Which
        #[command(flatten)]
        which: Which,
        /// How large it is to be, like 20GiB; it only grows
        #[arg(value_name = "SIZE", value_parser = parse_bytes)]
        size: u64,
    },
    /// Delete a volume that no virtual machine has, and all that is on it
    #[command(visible_alias = "rm", after_help = "Example:\n  perigee volume delete data --yes")]
    Delete {
        /// Which
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// What to make.
#[derive(Clone, Debug, Args)]
pub struct CreateOptions {
    /// What it is called
    name: String,
    /// How large it is, like 10GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    size: u64,
    /// On this host [default: the one with the most room]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Set a label
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    label: Vec<(String, String)>,
    /// Say what would be made, and where; make nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the task's id instead of waiting
    #[arg(long)]
    no_wait: bool,
}

/// Which volume.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// The volume: name, id or the beginning of an id
    name: String,
    /// Print the task's id instead of waiting
    #[arg(long)]
    no_wait: bool,
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    let client = session.client()?;
    match verb {
        Verb::Create(options) => create(session, options).await,
        Verb::List { vm, limit } => {
            let vm = match vm {
                Some(vm) => Some(resolve(session, Kind::Vm, &vm).await?),
                None => None,
            };
            let query = ListQuery::default().filter("vm", vm);
            let hint = "No volumes; make one: perigee volume create NAME --size 10GiB";
            listing::all(session, query, limit, hint, async |query| client.volumes(query).await).await
        }
        Verb::Get { name } => {
            let id = resolve(session, Kind::Volume, &name).await?;
            session.out.object(&client.volume(&id).await?)?;
            Ok(Exit::OK)
        }
        Verb::Attach { which, vm } => {
            let id = resolve(session, Kind::Volume, &which.name).await?;
            let request = VolumeAttachRequest { vm: resolve(session, Kind::Vm, &vm).await? };
            let answer = client.attach_volume(&id, &request, None).await?;
            shown(session, answer, which.no_wait, &format!("attaching {} to {vm}", which.name)).await
        }
        Verb::Detach(which) => {
            let id = resolve(session, Kind::Volume, &which.name).await?;
            let answer = client.detach_volume(&id, None).await?;
            shown(session, answer, which.no_wait, &format!("detaching {}", which.name)).await
        }
        Verb::Resize { which, size } => {
            let id = resolve(session, Kind::Volume, &which.name).await?;
            let answer = client.resize_volume(&id, &VolumeResizeRequest { bytes: size }, None).await?;
            shown(session, answer, which.no_wait, &format!("resizing {}", which.name)).await
        }
        Verb::Delete { which, yes } => delete(session, &which, yes).await,
    }
}

async fn create(session: &Session, options: CreateOptions) -> Result<Exit, Failure> {
    let CreateOptions { name, size, host, label, dry_run, no_wait } = options;
    let request = VolumeRequest { name, bytes: size, host, labels: label.into_iter().collect() };
    if dry_run {
        let planned = session.client()?.plan_volume(&request).await?;
        let text = format!("{} of {} would be made on {}", planned.name, show_bytes(planned.bytes), planned.host);
        session.out.text(&format!("{text}\n"))?;
        return Ok(Exit::OK);
    }
    let answer = session.client()?.create_volume(&request, None).await?;
    shown(session, answer, no_wait, &format!("making {}", request.name)).await
}

async fn delete(session: &Session, which: &Which, yes: bool) -> Result<Exit, Failure> {
    let Which { name, no_wait } = which;
    let id = resolve(session, Kind::Volume, name).await?;
    let asking = session.settings.stdin_terminal && session.settings.stderr_terminal;
    let agreed = yes || (asking && session.out.confirmed(&format!("Delete {name} and all that is on it?")));
    if !agreed {
        let hint = format!("perigee volume delete {name} --yes");
        return Err(Failure::usage(format!("{name} was not deleted")).hint(hint));
    }
    match session.client()?.delete_volume(&id, None).await? {
        Answer::Done(()) => {}
        Answer::Accepted(task) if *no_wait => session.out.text(&format!("{}\n", task.id))?,
        Answer::Accepted(task) => drop(progress::succeeded(session, *task, &format!("deleting {name}")).await?),
    }
    Ok(Exit::OK)
}

/// Prints the volume when its task is done, or the task's id.
async fn shown(session: &Session, answer: Answer<VolumeView>, no_wait: bool, what: &str) -> Result<Exit, Failure> {
    let volume = match answer {
        Answer::Done(volume) => volume,
        Answer::Accepted(task) if no_wait => {
            session.out.text(&format!("{}\n", task.id))?;
            return Ok(Exit::OK);
        }
        Answer::Accepted(task) => of_task(session, *task, what).await?,
    };
    session.out.object(&volume)?;
    Ok(Exit::OK)
}

/// The volume that a task is about, when the task is done.
async fn of_task(session: &Session, task: TaskView, what: &str) -> Result<VolumeView, Failure> {
    let task = progress::succeeded(session, task, what).await?;
    let none = || Failure::new(Exit::FAILURE, format!("The task {} does not say which volume it is about", task.id));
    Ok(session.client()?.volume(task.volume_id.as_deref().ok_or_else(none)?).await?)
}

impl Shown for VolumeView {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("STATUS"),
        column("SIZE"),
        column("HOST"),
        column("VM"),
        column("CREATED"),
        wide("SERIAL"),
        wide("LABELS"),
        wide("OWNER"),
        wide("ID"),
    ];
    fn cells(&self) -> Vec<Cell> {
        vec![
            words(&self.name),
            words(&self.status),
            Cell::Bytes(self.bytes),
            words(&self.host),
            Cell::text(self.vm.as_ref()),
            moment(&self.created_at),
            words(&self.serial),
            Cell::pairs(&self.labels),
            words(&self.owner),
            words(&self.id),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}
