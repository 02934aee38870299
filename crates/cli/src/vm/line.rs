//! One line for each virtual machine, ours or not.

use crate::cell::Cell;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::listing;
use crate::rows::{count, moment, problem, words};
use crate::session::Session;
use crate::table::{Column, Shown, column, wide};
use crate::units::show_span;
use perigee_api::{BackupScheduleView, ForeignVmView, Page, VmView};
use perigee_client::ListQuery;
use serde::Serialize;

/// Marks the pages behind the last one of ours.
const FOREIGN: &str = "foreign:";

/// A virtual machine.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum VmLine {
    /// Made or taken over by us.
    Ours(Box<VmView>),
    /// A host's own.
    Foreign(Box<ForeignVmView>),
}

impl Shown for VmLine {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("STATUS"),
        column("ORIGIN"),
        column("HOST"),
        column("CPUS"),
        column("MEMORY"),
        column("ADDRESS"),
        column("SINCE"),
        wide("CPU_USED"),
        wide("RESIDENT"),
        wide("IMAGE"),
        wide("NETWORK"),
        wide("EGRESS"),
        wide("DISK"),
        wide("RESTART"),
        wide("BACKUPS"),
        wide("LABELS"),
        wide("ID"),
        wide("NOTE"),
        wide("PROBLEM"),
        wide("DESCRIPTION"),
        wide("METADATA"),
    ];
    fn cells(&self) -> Vec<Cell> {
        match self {
            Self::Ours(vm) => ours(vm),
            Self::Foreign(vm) => foreign(vm),
        }
    }
    fn name(&self) -> String {
        match self {
            Self::Ours(vm) => vm.guest.name.clone(),
            Self::Foreign(vm) => vm.name.clone(),
        }
    }
}

fn ours(line: &VmView) -> Vec<Cell> {
    let (guest, vm) = (&line.guest, line.vm.as_ref());
    let addresses = vm.map(|vm| vm.addresses.join(",")).filter(|text| !text.is_empty());
    let note = match vm {
        Some(vm) if vm.restart_needed && guest.note.is_none() => Some("its new size waits for a restart".to_owned()),
        _ => guest.note.clone(),
    };
    vec![
        words(&guest.name),
        words(&guest.status),
        words(if vm.is_some_and(|vm| vm.adopted) { "adopted" } else { "perigee" }),
        Cell::text(guest.host.as_ref()),
        Cell::Number(guest.cpus.into()),
        Cell::Bytes(guest.memory_bytes),
        Cell::text(addresses.as_ref()),
        moment(&guest.created_at),
        cores(line.cpu_cores),
        line.resident_bytes.map_or(Cell::Missing, Cell::Bytes),
        words(&guest.image),
        Cell::text(vm.and_then(|vm| vm.network.as_ref())),
        Cell::text(guest.egress.as_ref().map(|places| places.join(" ")).as_ref()),
        vm.and_then(|vm| vm.disk_bytes).map_or(Cell::Missing, Cell::Bytes),
        Cell::text(vm.map(|vm| &vm.restart)),
        Cell::text(vm.and_then(|vm| vm.backups.as_ref()).map(schedule).as_ref()),
        Cell::pairs(&guest.labels),
        words(&guest.id),
        Cell::text(note.as_ref()),
        problem(guest.problem.as_ref()),
        Cell::text(vm.map(|vm| &vm.description).filter(|text| !text.is_empty())),
        vm.map_or(Cell::Missing, |vm| Cell::pairs(&vm.metadata)),
    ]
}

/// `every 24h, 7 kept, encrypted, next 2026-11-23T03:00:00Z`.
fn schedule(backups: &BackupScheduleView) -> String {
    let encrypted = if backups.encrypted { ", encrypted" } else { "" };
    let (every, keep, next) = (show_span(backups.every_ms), backups.keep, &backups.next_at);
    format!("every {every}, {keep} kept{encrypted}, next {next}")
}

fn foreign(vm: &ForeignVmView) -> Vec<Cell> {
    let bytes = |bytes: Option<u64>| bytes.map_or(Cell::Missing, Cell::Bytes);
    let mut cells = vec![
        words(&vm.name),
        words(&vm.status),
        words("foreign"),
        words(&vm.host),
        count(vm.cpus.map(i64::from)),
        bytes(vm.memory_bytes),
        Cell::Missing,
        moment(&vm.measured_at),
        cores(vm.cpu_cores),
        bytes(vm.resident_bytes),
    ];
    let unknown = VmLine::COLUMNS.len() - cells.len();
    cells.extend(std::iter::repeat_n(Cell::Missing, unknown));
    if let Some(place) = VmLine::COLUMNS.iter().position(|column| column.head == "ID") {
        cells[place] = words(&vm.id);
    }
    cells
}

fn cores(used: Option<f64>) -> Cell {
    Cell::text(used.map(|cores| format!("{cores:.2}")).as_ref())
}

/// Lists ours, then the others.
pub async fn list(
    session: &Session,
    host: Option<String>,
    status: Option<String>,
    label: Option<String>,
    limit: Option<usize>,
) -> Result<Exit, Failure> {
    let client = session.client()?;
    // Only ours have labels.
    let only_ours = label.is_some() || session.settings.agent;
    let own = ListQuery::default().filter("status", status.clone()).filter("label", label);
    let own = own.filter("kind", Some("vm".to_owned()));
    let others = ListQuery::default().filter("host", host.clone());
    let fits = |line: &VmLine| match line {
        VmLine::Ours(vm) => {
            host.as_ref().is_none_or(|h| [&vm.guest.host, &vm.guest.host_id].contains(&&Some(h.clone())))
        }
        VmLine::Foreign(vm) => status.as_ref().is_none_or(|wanted| *wanted == vm.status),
    };
    let hint =
        "No virtual machines; make one: perigee vm create NAME. Those of a host's libvirt appear here by themselves";
    listing::all(session, ListQuery::default(), limit, hint, async |asked| {
        let token = asked.page_token.as_deref();
        let (items, next) = match token.and_then(|token| token.strip_prefix(FOREIGN)) {
            None => {
                let page_token = token.map(str::to_owned);
                let page = client.vms(&ListQuery { limit: asked.limit, page_token, ..own.clone() }).await?;
                let behind = (!only_ours).then(|| FOREIGN.to_owned());
                (
                    page.items.into_iter().map(|vm| VmLine::Ours(Box::new(vm))).collect::<Vec<_>>(),
                    page.next_page_token.or(behind),
                )
            }
            Some(token) => {
                let page_token = Some(token.to_owned()).filter(|token| !token.is_empty());
                let page = client.foreign_vms(&ListQuery { limit: asked.limit, page_token, ..others.clone() }).await?;
                let next = page.next_page_token.map(|token| format!("{FOREIGN}{token}"));
                (page.items.into_iter().map(|vm| VmLine::Foreign(Box::new(vm))).collect(), next)
            }
        };
        Ok(Page { items: items.into_iter().filter(|line| fits(line)).collect(), next_page_token: next })
    })
    .await
}
