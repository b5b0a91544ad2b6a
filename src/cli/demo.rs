//! `taskpass demo`: one task from its beginning to its end, over real sockets, in a directory that is thrown away. Exit code 0 only
//! if every step did what it should: what must be permitted was, and what must be refused was, for the right reason.

mod stage;
mod story;

use clap::Args;

use super::failure::{Exit, Failure, Outcome};
use super::host::Signals;
use super::logging::Logging;
use super::narrator::Narrator;
use super::output::Output;
use super::scratch::Scratch;
use stage::Stage;

const PROSE: &str = "Taskpass: one task, from its beginning to its end.
Real sockets, mutual TLS, a store on disk. All of it on this machine, and thrown away at the end.";

/// Watch one task from its beginning to its end
#[derive(Debug, Args)]
pub(super) struct Demo {
    #[command(flatten)]
    logging: Logging,
}

impl Demo {
    pub(super) async fn run(self, out: Output) -> Outcome {
        self.logging.start("error", false)?;
        let mut signals = Signals::listen()?;
        tokio::select! {
            told = tell(out) => told,
            () = signals.next() => Err(Failure::failed("interrupted")),
        }
    }
}

async fn tell(out: Output) -> Outcome {
    let scratch = Scratch::make("demo")?;
    let mut narrator = Narrator::begin(out, PROSE)?;
    let told = play(&scratch, &mut narrator).await;
    narrator.end(told.is_ok())?;
    // What went wrong has been told as the step that it was.
    Ok(told.map_or_else(|failure| failure.exit(), |()| Exit::Done))
}

async fn play(scratch: &Scratch, narrator: &mut Narrator) -> Result<(), Failure> {
    narrator.act("Before")?;
    let stage = Stage::set(scratch, narrator).await?;
    story::tell(&stage, narrator).await?;
    stage.clear(narrator).await
}
