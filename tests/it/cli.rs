//! The command line, as people and scripts use it: the real binary, its output, its exit codes.

mod broker;
mod client;
mod demo;
mod dev;
mod drill;
mod follow;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::PATIENCE;

pub const DOCS: &str = "https://docs.example.org/mcp";

/// The binary, without any setting from the environment of the tests.
pub fn taskpass(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskpass"));
    command.current_dir(dir).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TASKPASS_")) {
        command.env_remove(name);
    }
    command
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Its one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Its error as JSON.
    pub fn error(&self) -> Value {
        // Before it may stand what was waited for, in JSON too.
        let last = self.stderr.lines().next_back().unwrap_or_default();
        let error: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert_eq!(self.stdout, "", "an error leaves nothing on standard output");
        error["error"].clone()
    }

    /// Standard error without what was waited for, on a machine that has much else to do.
    pub fn complaints(&self) -> String {
        self.stderr.lines().filter(|line| !line.contains("waiting")).collect()
    }

    /// This exit code, or a panic with everything that was said.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs a command to its end.
pub fn run(dir: &Path, args: &[&str]) -> Said {
    taskpass(dir).args(args).output().unwrap().into()
}

/// The same, with something on standard input.
pub fn run_with_input(dir: &Path, args: &[&str], input: &str) -> Said {
    let mut command = taskpass(dir);
    let mut child = command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// A broker of `taskpass dev`, in a directory of its own.
pub struct Dev {
    pub home: tempfile::TempDir,
    pub process: Process,
    pub said: Value,
}

impl Dev {
    /// Starts one on free ports.
    pub fn start() -> Self {
        Self::again(tempfile::tempdir().unwrap())
    }

    /// Starts one where another has been.
    pub fn again(home: tempfile::TempDir) -> Self {
        let mut command = taskpass(home.path());
        command.args([
            "dev",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--listen-ops",
            "127.0.0.1:0",
            "--log",
            "trace",
        ]);
        let mut process = Process::start(command);
        let said = serde_json::from_str(&process.line()).unwrap();
        Self { home, process, said }
    }

    /// Runs a client command in its directory.
    pub fn run(&self, args: &[&str]) -> Said {
        run(self.home.path(), args)
    }

    /// A file of its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(".taskpass").join(name)
    }

    /// The agent begins a task for the tools `search` and `read`.
    pub fn begin(&self) -> String {
        let grant = format!("{DOCS}=search,read");
        let said =
            self.run(&["task", "begin", "--as", "agent", "--quiet", "--goal", "a test", "--grant", &grant]);
        said.expect(0).stdout.trim().to_owned()
    }

    /// The agent mints a token for it.
    pub fn mint(&self, task: &str) -> String {
        let said = self.run(&["token", "mint", "--as", "agent", "--task", task, "--audience", DOCS]);
        said.expect(0).stdout.trim().to_owned()
    }

    /// The documentation server asks about it.
    pub fn validate(&self, token: &str) -> Said {
        let args = ["token", "validate", "--as", "verifier", "--audience", DOCS, "--json"];
        run_with_input(self.home.path(), &args, token)
    }

    /// Ends it by SIGTERM, and well.
    pub fn stop(self) -> tempfile::TempDir {
        self.process.terminate();
        let (status, stderr) = self.process.wait();
        assert_eq!(status.code(), Some(0), "{stderr}");
        self.home
    }
}

/// A process that is killed when it is dropped. Its standard error goes to a file.
pub struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: tempfile::NamedTempFile,
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        let stderr = tempfile::NamedTempFile::new().unwrap();
        command.stdout(Stdio::piped()).stderr(stderr.reopen().unwrap());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// The next line on standard output.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it ended: {}", self.stderr());
        line
    }

    /// Everything else on standard output, up to its end.
    pub fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        rest
    }

    /// Everything so far on standard error.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.stderr.path()).unwrap()
    }

    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Several in the same moment.
    pub fn signals(&self, signals: &[&str]) {
        let id = self.child.id();
        let line: String = signals.iter().map(|signal| format!("kill {signal} {id}; ")).collect();
        assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success());
    }

    /// Waits for its end: status and standard error.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.stdout.read_to_string(&mut String::new()).unwrap();
                return (status, self.stderr());
            }
            assert!(Instant::now() < give_up, "it does not end: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until its standard error says this.
    pub fn until_it_says(&self, what: &str) {
        let give_up = Instant::now() + PATIENCE;
        while !self.stderr().contains(what) {
            assert!(Instant::now() < give_up, "it never said {what:?}: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
