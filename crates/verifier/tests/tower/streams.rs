//! Responses that go on, and the end of their tasks.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::{begin, read_until, rest};
use crate::support::task;
use crate::world::{BOUND, World, bearer, expires_in, other_task};

/// How long anything may take on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(20);

async fn open(world: &World, token: &str) -> TcpStream {
    let mut stream = begin(world.address, "/stream", &[bearer(token)]).await;
    read_until(&mut stream, "hello\n").await;
    stream
}

/// It ends, and does not look complete.
#[track_caller]
fn assert_cut((said, complete): &(String, bool), never: &str) {
    assert!(!complete, "it looks complete: {said:?}");
    assert!(!said.contains(never), "{said:?}");
}

async fn ended(stream: TcpStream) -> (String, bool) {
    timeout(PATIENCE, rest(stream)).await.expect("it was not cut")
}

#[tokio::test]
async fn a55_an_idle_stream_is_cut_when_its_task_ends_and_others_go_on() {
    let world = World::new().await;
    let stream = open(&world, &world.token()).await;
    let mut other = open(&world, &world.token_with(other_task)).await;
    assert_eq!(world.protection.streams(), 2);
    world.end_task(task(7, 2));
    world.protection.judge_streams_again();
    assert_cut(&ended(stream).await, "news");
    world.says.send("news\n".into()).unwrap();
    read_until(&mut other, "news\n").await;
    assert_eq!(world.protection.streams(), 1);
}

#[tokio::test]
async fn a55_no_frame_leaves_after_the_end_though_nobody_has_said_so() {
    let world = World::new().await;
    let stream = open(&world, &world.token()).await;
    world.end_task(task(7, 2));
    world.says.send("secret\n".into()).unwrap();
    assert_cut(&ended(stream).await, "secret");
}

#[tokio::test]
async fn a55_what_a_proxy_passes_on_is_cut_though_its_length_is_known() {
    let world = World::new().await;
    let mut stream = begin(world.address, "/sized", &[bearer(&world.token())]).await;
    read_until(&mut stream, "hello\n").await;
    world.end_task(task(7, 2));
    world.says.send("secret\n".into()).unwrap();
    assert_cut(&ended(stream).await, "secret");
}

#[tokio::test]
async fn the_end_of_an_ancestor_cuts_the_streams_below_it() {
    let world = World::new().await;
    let stream = open(&world, &world.token()).await;
    world.end_task(task(7, 1));
    world.protection.judge_streams_again();
    assert_cut(&ended(stream).await, "news");
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_with_what_the_verifier_knows() {
    let world = World::new().await;
    let stream = open(&world, &world.token_with(expires_in(10))).await;
    let mut longer = open(&world, &world.token()).await;
    world.pass(Duration::from_secs(10));
    world.hear();
    world.protection.judge_streams_again();
    assert_cut(&ended(stream).await, "news");
    world.says.send("news\n".into()).unwrap();
    read_until(&mut longer, "news\n").await;
    world.pass(BOUND + Duration::from_millis(1));
    world.protection.judge_streams_again();
    assert_cut(&ended(longer).await, "more");
}

#[tokio::test]
async fn a_key_that_is_withdrawn_cuts_the_streams_under_it() {
    let world = World::new().await;
    let stream = open(&world, &world.token()).await;
    let rest = [world.issuer.eddsa.key()];
    let keys = taskpass_verifier::KeySet::new(rest).unwrap();
    world.protection.verifier().replace_keys(2, keys).unwrap();
    world.protection.judge_streams_again();
    assert_cut(&ended(stream).await, "news");
}

#[tokio::test]
async fn a_response_that_ends_by_itself_is_whole_and_forgotten() {
    let world = World::new().await;
    let answer = begin(world.address, "/short", &[bearer(&world.token())]).await;
    let (said, complete) = ended(answer).await;
    assert!(complete && said.contains("all of it\n"), "{said:?}");
    assert_eq!(world.protection.streams(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_is_forgotten() {
    let world = World::new().await;
    let stream = open(&world, &world.token()).await;
    drop(stream);
    // The server notices when it next writes.
    let forgotten = async {
        while world.protection.streams() > 0 {
            let _ = world.says.send("news\n".into());
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, forgotten).await.expect("it is still on the list");
}

#[cfg(feature = "feed")]
#[tokio::test]
async fn whatever_the_feed_says_has_streams_judged_again() {
    use taskpass_verifier::feed::{Event, Fed as _};

    let world = World::new().await;
    let stream = open(&world, &world.token()).await;
    let mut other = open(&world, &world.token_with(other_task)).await;
    let fed = world.protection.watching().expect("it follows");
    assert!(std::ptr::eq(fed.view(), world.view()));
    world.end_task(task(7, 2));
    fed.happened(&Event::Opened);
    assert_cut(&ended(stream).await, "news");
    world.says.send("news\n".into()).unwrap();
    read_until(&mut other, "news\n").await;
}
