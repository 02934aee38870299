//! The calls by number.

use crate::packet::{QEMU, REMOTE};
use std::fmt;

/// A procedure of one of libvirt's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Procedure {
    /// Which program: that of all drivers, or what only QEMU's has.
    pub program: u32,
    /// Its number in the protocol.
    pub number: u32,
    /// Its name, for errors.
    pub name: &'static str,
}

impl fmt::Display for Procedure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.number)
    }
}

const fn procedure(number: u32, name: &'static str) -> Procedure {
    Procedure { program: REMOTE, number, name }
}

/// Of the program that only QEMU's driver has.
const fn of_qemu(number: u32, name: &'static str) -> Procedure {
    Procedure { program: QEMU, number, name }
}

pub(crate) const OPEN: Procedure = procedure(1, "connect open");
pub(crate) const CLOSE: Procedure = procedure(2, "connect close");
pub(crate) const VERSION: Procedure = procedure(4, "connect get version");
pub(crate) const NODE_INFO: Procedure = procedure(6, "node get info");
pub(crate) const CAPABILITIES: Procedure = procedure(7, "connect get capabilities");
pub(crate) const DOMAIN_XML: Procedure = procedure(14, "domain get XML");
pub(crate) const DOMAIN_INFO: Procedure = procedure(16, "domain get info");
pub(crate) const LOOKUP_NAME: Procedure = procedure(23, "domain lookup by name");
pub(crate) const LOOKUP_UUID: Procedure = procedure(24, "domain lookup by UUID");
pub(crate) const HOSTNAME: Procedure = procedure(59, "connect get hostname");
pub(crate) const SUPPORTS: Procedure = procedure(60, "connect supports feature");
pub(crate) const AUTH_LIST: Procedure = procedure(66, "auth list");
pub(crate) const LIB_VERSION: Procedure = procedure(157, "connect get library version");
pub(crate) const OPEN_CONSOLE: Procedure = procedure(201, "domain open console");
pub(crate) const DOMAIN_STATE: Procedure = procedure(212, "domain get state");
pub(crate) const NODE_CPU: Procedure = procedure(227, "node get CPU stats");
pub(crate) const NODE_MEMORY: Procedure = procedure(228, "node get memory stats");
pub(crate) const LIST_DOMAINS: Procedure = procedure(273, "connect list all domains");
pub(crate) const OPEN_CHANNEL: Procedure = procedure(296, "domain open channel");
pub(crate) const EVENT_REGISTER: Procedure = procedure(316, "domain event register");
pub(crate) const EVENT_DEREGISTER: Procedure = procedure(317, "domain event deregister");
pub(crate) const ALL_STATS: Procedure = procedure(344, "connect get all domain stats");
pub(crate) const AUTOSTART: Procedure = procedure(15, "domain get autostart");
pub(crate) const REBOOT: Procedure = procedure(27, "domain reboot");
pub(crate) const RESUME: Procedure = procedure(28, "domain resume");
pub(crate) const SET_AUTOSTART: Procedure = procedure(29, "domain set autostart");
pub(crate) const SUSPEND: Procedure = procedure(34, "domain suspend");
pub(crate) const NETWORK_CREATE: Procedure = procedure(39, "network create");
pub(crate) const NETWORK_DEFINE: Procedure = procedure(41, "network define XML");
pub(crate) const NETWORK_DESTROY: Procedure = procedure(42, "network destroy");
pub(crate) const NETWORK_XML: Procedure = procedure(43, "network get XML");
pub(crate) const NETWORK_LOOKUP: Procedure = procedure(46, "network lookup by name");
pub(crate) const NETWORK_LOOKUP_UUID: Procedure = procedure(47, "network lookup by UUID");
pub(crate) const NETWORK_SET_AUTOSTART: Procedure = procedure(48, "network set autostart");
pub(crate) const NETWORK_UNDEFINE: Procedure = procedure(49, "network undefine");
pub(crate) const NETWORK_ACTIVE: Procedure = procedure(152, "network is active");
pub(crate) const CREATE: Procedure = procedure(196, "domain create");
pub(crate) const UNDEFINE: Procedure = procedure(231, "domain undefine");
pub(crate) const DESTROY: Procedure = procedure(234, "domain destroy");
pub(crate) const SHUTDOWN: Procedure = procedure(258, "domain shutdown");
pub(crate) const SET_METADATA: Procedure = procedure(264, "domain set metadata");
pub(crate) const METADATA: Procedure = procedure(265, "domain get metadata");
pub(crate) const LIST_NETWORKS: Procedure = procedure(283, "connect list all networks");
pub(crate) const DOMAIN_CAPABILITIES: Procedure = procedure(342, "connect get domain capabilities");
pub(crate) const DEFINE: Procedure = procedure(350, "domain define XML");
pub(crate) const INTERFACE_ADDRESSES: Procedure = procedure(353, "domain interface addresses");
pub(crate) const SNAPSHOT_CREATE: Procedure = procedure(185, "domain snapshot create XML");
pub(crate) const SNAPSHOT_NAMES: Procedure = procedure(188, "domain snapshot list names");
pub(crate) const SNAPSHOT_REVERT: Procedure = procedure(192, "domain revert to snapshot");
pub(crate) const SNAPSHOT_DELETE: Procedure = procedure(193, "domain snapshot delete");
pub(crate) const ABORT_JOB: Procedure = procedure(164, "domain abort job");
pub(crate) const CHECKPOINT_LIST: Procedure = procedure(413, "domain list all checkpoints");
pub(crate) const CHECKPOINT_DELETE: Procedure = procedure(417, "domain checkpoint delete");
pub(crate) const BACKUP_BEGIN: Procedure = procedure(421, "domain backup begin");
pub(crate) const ATTACH_DEVICE: Procedure = procedure(160, "domain attach device");
pub(crate) const DETACH_DEVICE: Procedure = procedure(161, "domain detach device");
pub(crate) const BLOCK_RESIZE: Procedure = procedure(251, "domain block resize");
pub(crate) const DISK_ERRORS: Procedure = procedure(263, "domain get disk errors");
pub(crate) const FREEZE: Procedure = procedure(335, "domain fsfreeze");
pub(crate) const THAW: Procedure = procedure(336, "domain fsthaw");
pub(crate) const AGENT_TIMEOUT: Procedure = procedure(420, "domain agent set response timeout");
pub(crate) const MONITOR: Procedure = of_qemu(1, "domain monitor command");
