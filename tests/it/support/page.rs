//! A page of the documentation, whose commands and configuration are run as they are written.

use std::path::Path;
use std::process::{Command, Output};

/// One page, with the names of its world taken for those of the test's.
pub struct Page(String);

impl Page {
    /// `docs/<name>`
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
        Self(std::fs::read_to_string(path).unwrap())
    }

    /// The page, with `theirs` wherever it says `ours`, which it does somewhere.
    #[must_use]
    pub fn with(self, ours: &str, theirs: impl AsRef<str>) -> Self {
        assert!(self.0.contains(ours), "the page does not say {ours}");
        Self(self.0.replace(ours, theirs.as_ref()))
    }

    /// The blocks of a language, in their order.
    pub fn blocks(&self, language: &str) -> Vec<String> {
        let begins = format!("```{language}\n");
        self.0.split(&begins).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
    }
}

/// A shell that runs a block in a directory, finds `taskpass`, and stops at the first command that fails.
pub fn shell(dir: &Path, script: &str) -> Command {
    let binaries = Path::new(env!("CARGO_BIN_EXE_taskpass")).parent().unwrap();
    let mut shell = Command::new("bash");
    shell.args(["-eo", "pipefail", "-c", script]).current_dir(dir);
    shell.env("PATH", format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap()));
    shell
}

/// Runs it to its end, which has to be a good one: what it said on standard output.
#[track_caller]
pub fn run(shell: &mut Command) -> String {
    let Output { status, stdout, stderr } = shell.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{shell:?}\n{stdout}\n{stderr}");
    stdout.into_owned()
}
