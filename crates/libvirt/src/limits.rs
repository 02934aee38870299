//! Limits: libvirt's own for what it may send, and ours for what may wait.

/// A packet's bytes after its length word (libvirt's limit).
pub const PAYLOAD: usize = 32 * 1024 * 1024;
/// A string's bytes (libvirt's limit).
pub const STRING: usize = 4 * 1024 * 1024;
/// Snapshots of a domain (libvirt's limit).
pub const SNAPSHOTS: usize = 16_384;
/// Domains in one list (libvirt's limit).
pub const DOMAINS: usize = 16_384;
/// Statistics of one domain in a bulk answer (libvirt's limit).
pub const DOMAIN_STATS: usize = 262_144;
/// Fields of a host's CPU or memory statistics (libvirt's limit).
pub const NODE_STATS: usize = 16;
/// Networks in one list (libvirt's limit).
pub const NETWORKS: usize = 16_384;
/// Network cards of a domain (libvirt's limit).
pub const INTERFACES: usize = 2_048;
/// Addresses of a network card (libvirt's limit).
pub const ADDRESSES: usize = 2_048;
/// Kinds of authentication a daemon may offer (libvirt's limit).
pub const AUTH_KINDS: usize = 20;
/// Calls of one connection that libvirtd may be working on. Its default is five for each client; one is
/// left free, so that a slow call never makes it stop reading our keepalive.
pub const IN_FLIGHT: usize = 4;
/// An event's bytes: a domain's name, an id, some words. A larger one is dropped.
pub const EVENT: usize = 64 * 1024;
/// Events that wait for a slow reader; older ones are dropped, and the reader is told how many.
pub const EVENTS: usize = 256;
/// Packets that wait for the socket: the calls in flight, and keepalive.
pub const OUTGOING: usize = 16;
/// Bytes kept of what a program that carries a connection says beside it.
pub const COMPLAINT: usize = 1024;
/// A stream packet's bytes (libvirt's limit).
pub const STREAM_PACKET: usize = 256 * 1024;
/// Packets of a stream that wait for a slow reader; then its connection is not read any more.
pub const STREAM_WAITING: usize = 4;
/// Bytes of one packet that we send on a stream; [`OUTGOING`] of them wait at most.
pub const STREAM_PIECE: usize = 32 * 1024;
