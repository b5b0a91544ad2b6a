//! Taskpass: an ephemeral credential broker for AI agents.
//!
//! An agent proves what it is with its workload certificate, declares a task, receives credentials for that task alone, and loses
//! every one of them the moment the task ends. `docs/ARCHITECTURE.md` is the map.

pub mod api;
pub mod app;
pub mod audience;
pub mod audit;
pub mod cert;
pub mod cli;
pub mod coalesce;
pub mod config;
pub mod error;
pub mod failpoint;
pub mod feed;
pub mod files;
pub mod identity;
pub mod ids;
pub mod keys;
pub mod ops;
pub mod policy;
pub mod proto;
pub mod revoke;
mod sampled;
pub mod secret;
pub mod store;
pub mod task;
pub mod time;
pub mod token;
