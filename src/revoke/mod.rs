//! What must be remembered about ends, and for how long: [`fence`]s that end many tasks at once, and the [`history`] by which a broker
//! proves that its store has lost nothing. What is pushed to verifiers rests on [`feed`].

pub mod feed;
pub mod fence;
pub mod history;
