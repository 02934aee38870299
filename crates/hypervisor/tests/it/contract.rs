//! The contract, once for each driver. `real_` tests boot guests.

use crate::{cases, machines, networks, snapshots, volumes};
use async_trait::async_trait;
use perigee_hypervisor::{Found, Hypervisor, Plan};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A host to try a driver on.
#[async_trait]
pub trait Lab: Send + Sync {
    /// A new agent's driver, always of the same instance.
    fn driver(&self) -> Arc<dyn Hypervisor>;
    /// A driver of another instance on the same host.
    fn foreign_driver(&self) -> Arc<dyn Hypervisor>;
    /// A plan for a new guest.
    fn plan(&self) -> Plan;
    /// Kills a VMM from outside.
    async fn kill(&self, found: &Found);
    /// A word of what is told of a guest whose VMM was killed.
    fn killed_says(&self) -> &'static str {
        "SIGKILL"
    }
    /// Everything both instances have on the host: processes, files, sockets, control groups.
    fn traces(&self) -> Vec<String>;
    /// For a guest to say hello.
    fn hello_within(&self) -> Duration {
        Duration::from_secs(30)
    }
    /// An image's disk that guests' own can lie above; it counts as no trace.
    fn image(&self) -> PathBuf {
        PathBuf::from("/nowhere/image")
    }
    /// A command that takes about a second.
    fn one_second(&self) -> Vec<String>;
}

macro_rules! contract {
    ($($room:ident: $case:ident)*) => {
        mod simulated {
            $(#[tokio::test(start_paused = true)]
            async fn $case() {
                super::$room::$case(&crate::simulated::SimulatedLab::new()).await;
            })*
        }
        mod real_microvm {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$room::$case(&crate::real::RealLab::new().await).await;
            })*
        }
        mod real_libvirt {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$room::$case(&crate::libvirt::LibvirtLab::new().await).await;
            })*
        }
    };
}

contract! {
    cases: starting_twice_is_one_guest
    cases: destroying_leaves_nothing
    cases: the_next_agent_adopts
    cases: a_killed_vmm_is_told_and_cleaned_up
    cases: instances_do_not_see_each_other
    cases: bad_plans_are_refused_and_leave_nothing
    cases: commands_run_once_and_can_be_attached_to
    cases: input_reaches_a_command
    cases: files_go_in_and_come_out
    cases: guests_run_in_parallel
    cases: a_paused_guest_stands_still
    cases: a_steady_guest_boots
    cases: what_guests_use_is_told
    cases: a_serial_port_has_one_sitter
    machines: a_halted_guest_can_be_started_again
    machines: a_halted_guest_keeps_its_disk
    machines: a_guest_that_turns_itself_off_is_told_as_clean
    machines: the_newest_memo_comes_back
    snapshots: a_stopped_guest_goes_back_to_its_disk
    snapshots: a_running_guest_keeps_its_disk_and_goes_on
    snapshots: a_guest_goes_on_where_its_memory_was_kept
    snapshots: what_cannot_be_kept_is_refused_and_leaves_nothing
    volumes: a_volume_comes_grows_and_goes
    volumes: a_volume_goes_from_guest_to_guest
    volumes: what_cannot_be_plugged_is_told
    volumes: the_image_below_a_disk_is_told_while_the_guest_is_there
    networks: a_network_comes_and_goes
    networks: a_network_that_a_guest_is_on_stays
}
