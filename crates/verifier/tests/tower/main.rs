//! The tower layer in front of a real server: requests over sockets, answers as a client sees them.

#[cfg(test)]
mod challenges;
#[cfg(test)]
mod http;
#[cfg(test)]
mod streams;
#[cfg(test)]
#[path = "../it/support.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod support;
#[cfg(test)]
mod world;
