//! What must be remembered about ends, and for how long: [`fence`]s that end many tasks at once, and the [`history`] by which a broker
//! proves that its store has lost nothing, and the [`blocks`] that it gives back to one that has. What is pushed to verifiers rests on [`feed`].

pub mod blocks;
pub mod feed;
pub mod fence;
pub mod history;
