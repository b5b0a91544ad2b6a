//! `taskpass follow`: what people and programs are shown of a feed.

use super::{DOCS, Dev, Process, taskpass};

fn follow(dev: &Dev, options: &[&str]) -> Process {
    let mut command = taskpass(dev.home.path());
    command.args([&["follow", "--audience", DOCS][..], options].concat());
    Process::start(command)
}

#[test]
fn following_ends_where_trying_again_would_not_help_and_says_why() {
    let dev = Dev::start();
    let refused = |options: &[&str]| {
        let (status, stderr) = follow(&dev, options).wait();
        assert_eq!(status.code(), Some(1), "{options:?}: {stderr}");
        stderr
    };
    let stranger = refused(&["--as", "agent", "--trust-domain", "example.org"]);
    assert!(stranger.contains("PermissionDenied") || stranger.contains("InvalidArgument"), "{stranger}");
    assert!(stranger.contains("taskpass audience list"), "{stranger}");
    let elsewhere = refused(&["--as", "verifier", "--trust-domain", "elsewhere.example"]);
    assert!(elsewhere.contains("NotFound"), "{elsewhere}");
}
