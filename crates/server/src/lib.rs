//! Protocol adapters: REST for people and programs, gRPC for agents. The only crate that knows a
//! status code.
//!
//! Owns: routes, TLS, the authority, the data directory of `perigeed`, its start and its end.
//! Refuses: deciding anything about guests; that is `control`'s.
#![forbid(unsafe_code)]

pub mod authority;
pub mod backups;
pub mod chunks;
pub mod config;
mod conversation;
pub mod grpc;
pub mod imports;
pub mod ingest_token;
pub mod place;
mod process;
pub mod rest;
pub mod run;
mod ws;
