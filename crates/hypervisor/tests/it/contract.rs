//! The contract, once for each driver. `real_` tests boot guests.

use crate::cases;
use async_trait::async_trait;
use perigee_hypervisor::{Found, Hypervisor, Plan};
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
    /// A command that takes about a second.
    fn one_second(&self) -> Vec<String>;
}

macro_rules! contract {
    ($($case:ident)*) => {
        mod simulated {
            $(#[tokio::test(start_paused = true)]
            async fn $case() {
                super::cases::$case(&crate::simulated::SimulatedLab::new()).await;
            })*
        }
        mod real_microvm {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::cases::$case(&crate::real::RealLab::new().await).await;
            })*
        }
        mod real_libvirt {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::cases::$case(&crate::libvirt::LibvirtLab::new().await).await;
            })*
        }
    };
}

contract! {
    starting_twice_is_one_guest
    destroying_leaves_nothing
    the_next_agent_adopts
    a_killed_vmm_is_told_and_cleaned_up
    instances_do_not_see_each_other
    bad_plans_are_refused_and_leave_nothing
    commands_run_once_and_can_be_attached_to
    input_reaches_a_command
    files_go_in_and_come_out
    guests_run_in_parallel
    a_paused_guest_stands_still
    a_steady_guest_boots
    what_guests_use_is_told
    a_serial_port_has_one_sitter
}
