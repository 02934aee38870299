//! N19b: 500 VMs defined: listing them, the agent's look at all of them, and a create beside them.
//!
//! They were here before us and are taken over: 500 of our own would have to boot once each.

use super::Lab;
use super::power;
use super::witness::{DRIVER, Witness};
use crate::api;
use crate::instance::Instance;
use crate::libvirtd::Libvirtd;
use crate::numbers::Sample;
use crate::report::{Line, Report};
use crate::say;
use anyhow::{Result, ensure};
use futures::StreamExt as _;
use futures::stream::iter;
use perigee_api::AdoptRequest;
use perigee_client::ListQuery;
use perigee_clock::Clock;
use perigee_hypervisor::libvirt::{Endpoint, Libvirt, LibvirtConfig};
use perigee_hypervisor::{Hypervisor as _, Reserve};
use perigee_model::limits::PAGE_MAX;
use std::time::Duration;
use tokio::time::sleep;

const VMS: usize = 500;
const LISTS: usize = 50;
const LOOKS: usize = 20;
const CREATES: usize = 10;
const LIST_MAX_MS: f64 = 30.0;
const LOOK_MAX_MS: f64 = 1000.0;
/// Asked for at once.
const IN_FLIGHT: usize = 8;
const SEEN_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A call of libvirt's.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub async fn run(lab: &mut Lab, report: &mut Report) -> Result<()> {
    let vms = if lab.quick { VMS / 10 } else { VMS };
    fill(lab, vms, report).await?;
    // What was said while it was filled is not waited for.
    lab.witness = Witness::open(&lab.daemon, lab.clock.clone()).await?;
    let virsh = virsh_lists(lab)?;
    lists(lab, vms, &virsh, report).await?;
    let looks = looks(&lab.instance, &lab.daemon, lab.runs(LOOKS), vms).await?;
    let what = format!("the agent's look at {vms} VMs of ours: states, marks, processes, folders");
    report.line(Line::new("N19b", what, &looks).beside("virsh", &virsh).median_at_most(LOOK_MAX_MS));
    report.line(Line::new("N19b", format!("`virsh list --all` of {vms} VMs"), &virsh));
    power::creates_beside(lab, vms, CREATES, report).await
}

/// Defines them, waits until they are seen, and takes them over.
async fn fill(lab: &Lab, vms: usize, report: &mut Report) -> Result<()> {
    say::progress(&format!("N19b: defining and taking over {vms} VMs"));
    for number in 0..vms {
        let copied = lab.bare.copy(&format!("many-{number}"))?.small();
        lab.bare.define(&copied).await?;
    }
    let all = ListQuery { limit: Some(u32::try_from(PAGE_MAX)?), ..ListQuery::default() };
    let began = lab.clock.instant();
    let foreign = loop {
        let seen = lab.client.foreign_vms(&all).await?.items;
        if seen.len() == vms {
            break seen;
        }
        ensure!(began.elapsed() < SEEN_WITHIN, "{} of {vms} VMs are seen", seen.len());
        sleep(LOOK_AGAIN).await;
    };
    let began = lab.clock.instant();
    let adopt = async |id: String| {
        api::done(lab.client.adopt_vm(&id, &AdoptRequest::default(), Some(api::PATIENCE)).await?).map(drop)
    };
    let taken: Vec<Result<()>> = iter(foreign).map(|vm| adopt(vm.id)).buffer_unordered(IN_FLIGHT).collect().await;
    taken.into_iter().collect::<Result<Vec<()>>>()?;
    report.note("N19b", format!("{vms} VMs were taken over in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}

async fn lists(lab: &Lab, vms: usize, virsh: &Sample, report: &mut Report) -> Result<()> {
    for limit in [PAGE_MAX, 100] {
        let mut sample = Sample::default();
        for _ in 0..lab.runs(LISTS) {
            let began = lab.clock.instant();
            let listed = list(lab, limit).await?;
            sample.push(began.elapsed());
            ensure!(listed == vms, "{listed} of {vms} VMs are listed");
        }
        let what = format!("GET /api/v1/vms, all {vms}, pages of {limit}");
        report.line(Line::new("N19b", what, &sample).beside("virsh", virsh).median_at_most(LIST_MAX_MS));
    }
    Ok(())
}

async fn list(lab: &Lab, limit: usize) -> Result<usize> {
    let (mut listed, mut page_token) = (0, None);
    loop {
        let query = ListQuery { limit: Some(u32::try_from(limit)?), page_token, ..ListQuery::default() };
        let page = lab.client.vms(&query).await?;
        listed += page.items.len();
        page_token = page.next_page_token;
        if page_token.is_none() {
            return Ok(listed);
        }
    }
}

fn virsh_lists(lab: &Lab) -> Result<Sample> {
    let mut sample = Sample::default();
    for _ in 0..lab.runs(LOOKS) {
        let began = lab.clock.instant();
        lab.daemon.virsh(&["list".as_ref(), "--all".as_ref()])?;
        sample.push(began.elapsed());
    }
    Ok(sample)
}

/// What the agent does at its start, each minute and after a loss of events, by the same driver.
async fn looks(instance: &Instance, daemon: &Libvirtd, runs: usize, vms: usize) -> Result<Sample> {
    let clock = Clock::real();
    let driver = Libvirt::new(LibvirtConfig {
        instance: instance.mark()?,
        dir: daemon.vm_dir().join("disks"),
        run_dir: daemon.vm_dir().join("run"),
        images: daemon.vm_dir().to_owned(),
        endpoint: Endpoint::Unix(daemon.socket()),
        uri: DRIVER.to_owned(),
        deadline: ANSWER_WITHIN,
        clock: clock.clone(),
        reserve: Reserve::default(),
    })?;
    let mut sample = Sample::default();
    for _ in 0..runs {
        let began = clock.instant();
        let found = driver.inventory().await?.len();
        sample.push(began.elapsed());
        ensure!(found == vms, "{found} of {vms} VMs are found");
    }
    Ok(sample)
}
