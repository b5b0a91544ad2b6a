//! The feed, as honest brokers bring it and as hostile streams do.

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod support;
