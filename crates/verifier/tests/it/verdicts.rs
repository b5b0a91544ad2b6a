//! One call from text to verdict, with a view and without, remembered or not.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use taskpass_verifier::ids::{CredentialId, Generation, Partition};
use taskpass_verifier::keyset::KeyId;
use taskpass_verifier::verifier::{Expected, TaskCertificate};
use taskpass_verifier::view::{Closed, Delta, Entry, FenceTarget, Position, Snapshot};
use taskpass_verifier::{
    At, EnforcementProfile, KeySet, Moment, Presented, Refusal, RevocationView, UnixSeconds, Verifier,
};

use crate::support::{AGENT, AUDIENCE, ISSUER, Issuer, NOW, claims, mint, task};

const NOTHING: &Presented = &Presented::NOTHING;
/// Has signed the certificates of these cases.
const INTERMEDIATE: KeyId = KeyId::from_bytes([7; 32]);
const FOREVER: UnixSeconds = UnixSeconds(4_000_000_000);

fn expected() -> Expected {
    Expected { issuer: ISSUER.into(), audience: AUDIENCE.into(), profile: EnforcementProfile::Bearer }
}

fn second(s: u64) -> Moment {
    Moment::from_nanos(s * 1_000_000_000)
}

fn part() -> Partition {
    claims().jti.task.partition()
}

fn position(seq: u64) -> Position {
    Position { generation: claims().taskpass.generation, seq, chain: [1; 20] }
}

/// An issuer, and a verifier that has heard all at second 100, when the broker's clock showed [`NOW`].
struct World {
    issuer: Issuer,
    view: Arc<RevocationView>,
    verifier: Verifier,
}

impl World {
    fn new() -> Self {
        let (issuer, view) = (Issuer::new(), Arc::new(RevocationView::default()));
        view.set_bound(Duration::from_secs(15));
        view.replace(&Snapshot { partition: part(), position: position(50), entries: &[] }).unwrap();
        view.heard(part(), &position(50), second(100));
        view.set_time(NOW.0 * 1_000, second(100), second(100));
        let verifier = Verifier::following(expected(), Arc::clone(&view));
        verifier.replace_keys(1, issuer.keys.clone()).unwrap();
        Self { issuer, view, verifier }
    }

    fn happens(&self, entry: Entry) {
        let from = self.view.position(part()).unwrap();
        let to = Position { seq: from.seq + 1, ..from };
        self.view.apply(&Delta { partition: part(), from, to, entries: &[(to.seq, entry)] }).unwrap();
    }

    fn judge(&self, token: &str) -> Result<(), Refusal> {
        self.verifier.judge(token, NOTHING, At::moment(second(101))).map(drop)
    }
}

fn ended(task: taskpass_verifier::ids::TaskId) -> Entry {
    Entry::TaskEnded { task, forget_at: FOREVER }
}

#[test]
fn a_good_token_becomes_a_grant_that_permits_its_tools() {
    let world = World::new();
    let token = world.issuer.mint(&claims());
    for _ in 0..2 {
        let grant = world.verifier.judge(&token, NOTHING, At::moment(second(101))).unwrap();
        assert_eq!(grant.claims(), &claims());
        assert_eq!(grant.permits_tool("web/search", None), Ok(()));
        let call = json!({ "path": "/etc/passwd" });
        assert_eq!(grant.permits_tool("files.read", call.as_object()), Err(Refusal::ArgumentNotPermitted));
        assert_eq!(grant.permits_tool("files.write", None), Err(Refusal::ToolNotGranted));
        assert!(!format!("{grant:?} {:?}", world.verifier).contains(&token));
    }
}

#[test]
fn a_remembered_token_is_refused_once_its_task_has_ended() {
    for ends in [claims().taskpass.task, claims().txn] {
        let world = World::new();
        let token = world.issuer.mint(&claims());
        assert_eq!(world.judge(&token), Ok(()));
        world.happens(ended(ends));
        assert_eq!(world.judge(&token), Err(Refusal::TaskEnded));
    }
}

#[test]
fn a_remembered_token_is_refused_once_it_was_revoked_fenced_or_outlived_its_generation() {
    let revoked = Entry::CredentialRevoked { id: claims().jti, forget_at: FOREVER };
    let fence = |text| Entry::Fence {
        target: FenceTarget::of(text),
        cut: 51,
        raised_at: u64::MAX,
        forget_at: FOREVER,
    };
    for (entry, refusal) in [
        (revoked, Refusal::CredentialRevoked),
        (fence("t:acme.example"), Refusal::Fenced),
        (fence(&format!("w:{AGENT}")), Refusal::Fenced),
    ] {
        let world = World::new();
        let token = world.issuer.mint(&claims());
        assert_eq!(world.judge(&token), Ok(()));
        world.happens(entry);
        assert_eq!(world.judge(&token), Err(refusal));
    }
    let world = World::new();
    let token = world.issuer.mint(&claims());
    assert_eq!(world.judge(&token), Ok(()));
    let grown = Position { generation: Generation::from_parts(1_789_999_999_000, [0; 6]), ..position(51) };
    world.view.replace(&Snapshot { partition: part(), position: grown, entries: &[] }).unwrap();
    assert_eq!(world.judge(&token), Err(Refusal::GenerationSuperseded));
}

fn withdrawn(key: KeyId) -> Entry {
    Entry::KeyFenced { key, forget_at: FOREVER }
}

#[test]
fn a38_a_token_under_a_withdrawn_key_is_refused_remembered_or_held_and_others_are_not() {
    let world = World::new();
    let [token, unseen] = [world.issuer.mint(&claims()), world.issuer.mint(&claims())];
    let at = At::moment(second(101));
    let grant = world.verifier.judge(&token, NOTHING, at).unwrap();
    world.happens(withdrawn(INTERMEDIATE));
    assert_eq!(world.judge(&token), Ok(()), "it is under another key");
    // The key set still has it.
    world.happens(withdrawn(grant.key_id()));
    for token in [&token, &unseen] {
        assert_eq!(world.judge(token), Err(Refusal::KeyFenced));
    }
    assert_eq!(world.verifier.judge_again(&grant, NOTHING, at), Err(Refusal::KeyFenced));
    assert!(!Refusal::KeyFenced.is_of_the_verifier(), "another token will do");
}

#[test]
fn a29_a_remembered_token_is_refused_while_the_view_is_stale_and_good_again_when_it_has_healed() {
    let world = World::new();
    let token = world.issuer.mint(&claims());
    let judge = |s| world.verifier.judge(&token, NOTHING, At::moment(second(s))).map(drop);
    assert_eq!((judge(115), judge(116)), (Ok(()), Err(Refusal::Stale)));
    world.view.heard(part(), &position(50), second(114));
    assert_eq!(judge(116), Ok(()));
    world.view.close_all(Closed::BadSignature);
    assert_eq!(judge(116), Err(Refusal::FeedBadSignature));
}

#[test]
fn a32_with_a_feed_expiry_is_judged_by_the_brokers_time_and_never_by_the_wall_clock() {
    for wall in [NOW.0 - 600, NOW.0 + 600, 0, u64::MAX] {
        let world = World::new();
        let token = world.issuer.mint(&claims());
        let judge = |s| {
            let at = At::both(UnixSeconds(wall), second(s));
            world.view.heard(part(), &position(50), second(s));
            world.verifier.judge(&token, NOTHING, at).map(drop)
        };
        assert_eq!((judge(101), judge(219), judge(220)), (Ok(()), Ok(()), Err(Refusal::Expired)));
    }
    let world = World::new();
    let judged = world.verifier.judge(&world.issuer.mint(&claims()), NOTHING, At::wall(NOW));
    assert_eq!(judged.map(drop), Err(Refusal::NoClock), "a wall clock alone is none");
}

#[test]
fn a_delayed_heartbeat_shortens_lives_and_never_lengthens_them() {
    let world = World::new();
    let token = world.issuer.mint(&claims());
    world.view.set_time(NOW.0 * 1_000, second(100), second(140));
    world.view.heard(part(), &position(50), second(215));
    let judge = |s| world.verifier.judge(&token, NOTHING, At::moment(second(s))).map(drop);
    assert_eq!(judge(220), Err(Refusal::Expired), "the clock may have been read when the beat was sent");
    world.view.heard(part(), &position(50), second(140));
    let early = world.verifier.judge(&token, NOTHING, At::moment(second(134)));
    assert_eq!(early.map(drop), Err(Refusal::IssuedInFuture), "or when the answer came");
}

#[test]
fn without_a_word_from_the_broker_everything_is_refused() {
    let issuer = Issuer::new();
    let verifier = Verifier::following(expected(), Arc::default());
    verifier.replace_keys(1, issuer.keys.clone()).unwrap();
    let judged = verifier.judge(&issuer.mint(&claims()), NOTHING, At::both(NOW, second(1)));
    assert_eq!(judged.map(drop), Err(Refusal::NeverSynchronised));
}

#[test]
fn an_offline_verifier_judges_by_the_wall_clock() {
    let issuer = Issuer::new();
    let verifier = Verifier::offline(expected(), issuer.keys.clone());
    let token = issuer.mint(&claims());
    let judge = |at| verifier.judge(&token, NOTHING, at).map(drop);
    assert_eq!(judge(At::wall(NOW)), Ok(()));
    assert_eq!(judge(At::wall(NOW.saturating_add(120))), Err(Refusal::Expired), "remembered or not");
    assert_eq!(judge(At::moment(second(1))), Err(Refusal::NoClock));
}

#[test]
fn a_remembered_token_is_refused_once_its_key_was_withdrawn_and_keys_never_run_back() {
    let world = World::new();
    let token = mint(&world.issuer.eddsa, &claims());
    assert_eq!(world.judge(&token), Ok(()));
    let without = KeySet::new([world.issuer.es256.key()]).unwrap();
    world.verifier.replace_keys(3, without.clone()).unwrap();
    assert_eq!(world.judge(&token), Err(Refusal::UnknownKey));
    assert!(world.verifier.replace_keys(2, world.issuer.keys.clone()).is_err());
    assert!(world.verifier.replace_keys(3, world.issuer.keys.clone()).is_err());
    assert!(world.verifier.replace_keys(3, without).is_ok(), "the same again");
    assert_eq!(world.verifier.key_epoch(), 3);
    assert_eq!(world.judge(&token), Err(Refusal::UnknownKey));
}

#[test]
fn a_key_set_that_was_announced_and_did_not_come_is_waited_for() {
    let world = World::new();
    let token = world.issuer.mint(&claims());
    world.verifier.announce_keys(2);
    world.verifier.announce_keys(1);
    assert_eq!(world.judge(&token), Err(Refusal::KeysBehind));
    world.verifier.replace_keys(2, world.issuer.keys.clone()).unwrap();
    assert_eq!(world.judge(&token), Ok(()));
}

#[test]
fn a08_a_remembered_token_is_held_to_its_binding_each_time() {
    let world = World::new();
    let (mine, theirs) = ([1; 32], [2; 32]);
    let thumbprint = taskpass_verifier::claims::Thumbprint::from_bytes;
    let bound = taskpass_verifier::claims::Confirmation::X5tS256(thumbprint(mine));
    let token = world.issuer.mint(&taskpass_verifier::Claims { cnf: Some(bound), ..claims() });
    let judge = |presented| world.verifier.judge(&token, &presented, At::moment(second(101)));
    let grant = judge(Presented::certificate(thumbprint(mine))).unwrap();
    let with_theirs = Presented::certificate(thumbprint(theirs));
    assert_eq!(judge(with_theirs).map(drop), Err(Refusal::ConfirmationMismatch));
    assert_eq!(judge(Presented::NOTHING).map(drop), Err(Refusal::ConfirmationNotPresented));
    let again = world.verifier.judge_again(&grant, &with_theirs, At::moment(second(101)));
    assert_eq!(again, Err(Refusal::ConfirmationMismatch));
}

#[test]
fn a_remembered_token_vouches_for_no_other_text() {
    let world = World::new();
    let token = world.issuer.mint(&claims());
    assert_eq!(world.judge(&token), Ok(()));
    let (message, _) = token.rsplit_once('.').unwrap();
    let (_, other) =
        world.issuer.mint(&claims()).rsplit_once('.').map(|(m, s)| (m.to_owned(), s.to_owned())).unwrap();
    assert_eq!(world.judge(&format!("{message}.{other}")), Ok(()), "another signature of the same");
    let forged = format!("{message}.{}", "A".repeat(86));
    assert_eq!(world.judge(&forged), Err(Refusal::BadSignature));
    assert_eq!(world.judge(&"A".repeat(8_193)), Err(Refusal::TooLong));
}

#[test]
fn what_is_remembered_is_bounded_and_forgetting_changes_no_verdict() {
    for (bytes, most) in [(0, 0), (100_000, 40)] {
        let issuer = Issuer::new();
        let verifier = Verifier::offline(expected(), issuer.keys.clone()).with_cache(bytes);
        for number in 0..100 {
            let jti = CredentialId { number, ..claims().jti };
            let token = issuer.mint(&taskpass_verifier::Claims { jti, ..claims() });
            assert!(verifier.judge(&token, NOTHING, At::wall(NOW)).is_ok());
            assert!(verifier.judge(&token, NOTHING, At::wall(NOW)).is_ok());
        }
        assert!(verifier.remembered() <= most, "{}", verifier.remembered());
        assert_eq!(verifier.remembered() == 0, bytes == 0);
    }
}

#[test]
fn a_grant_that_is_held_ends_with_its_task() {
    let world = World::new();
    let token = world.issuer.mint(&claims());
    let grant = world.verifier.judge(&token, NOTHING, At::moment(second(101))).unwrap();
    let again = |s| world.verifier.judge_again(&grant, NOTHING, At::moment(second(s)));
    assert_eq!((again(102), again(116)), (Ok(()), Err(Refusal::Stale)));
    world.happens(ended(claims().jti.task));
    assert_eq!(again(102), Err(Refusal::TaskEnded));
    let offline = Verifier::offline(expected(), KeySet::default());
    assert_eq!(offline.judge_again(&grant, NOTHING, At::wall(NOW)), Err(Refusal::UnknownKey));
}

fn spiffe_id() -> String {
    format!("spiffe://broker.example/task/{}/agent/acme.example/agent/researcher", claims().jti.task)
}

fn certificate<'a>(serial: &'a [u8], spiffe_id: &'a str) -> TaskCertificate<'a> {
    TaskCertificate {
        serial,
        spiffe_id,
        authority: INTERMEDIATE,
        not_before: UnixSeconds(NOW.0 - 30),
        not_after: NOW.saturating_add(120),
    }
}

#[test]
fn a55_a_task_certificate_is_refused_once_its_task_has_ended() {
    let world = World::new();
    let (serial, name) = (claims().jti.to_bytes(), spiffe_id());
    let judge = || world.verifier.judge_certificate(&certificate(&serial, &name), At::moment(second(101)));
    let grant = judge().unwrap();
    assert_eq!((grant.credential(), grant.agent().as_str()), (claims().jti, AGENT));
    world.happens(ended(claims().jti.task));
    assert_eq!(judge(), Err(Refusal::TaskEnded));
}

#[test]
fn a_task_certificate_is_refused_once_it_was_revoked_or_its_agent_fenced_or_the_view_is_stale() {
    let (serial, name) = (claims().jti.to_bytes(), spiffe_id());
    let revoked = Entry::CredentialRevoked { id: claims().jti, forget_at: FOREVER };
    let fence = Entry::Fence {
        target: FenceTarget::workload(AGENT),
        cut: 51,
        raised_at: u64::MAX,
        forget_at: FOREVER,
    };
    for (entry, refusal) in [(revoked, Refusal::CredentialRevoked), (fence, Refusal::Fenced)] {
        let world = World::new();
        world.happens(entry);
        let judged = world.verifier.judge_certificate(&certificate(&serial, &name), At::moment(second(101)));
        assert_eq!(judged, Err(refusal));
    }
    let stale =
        World::new().verifier.judge_certificate(&certificate(&serial, &name), At::moment(second(116)));
    assert_eq!(stale, Err(Refusal::Stale));
}

/// A certificate does not say whether its task has a grant here.
#[test]
fn a_task_certificate_of_another_tenants_agent_is_refused_unless_it_was_said_that_it_is_taken() {
    let (serial, own, at) = (claims().jti.to_bytes(), spiffe_id(), At::moment(second(101)));
    let others = own.replace("/agent/acme.example/", "/agent/other.example/");
    let judge = |verifier: &Verifier, name: &str| {
        verifier.judge_certificate(&certificate(&serial, name), at).map(drop)
    };
    let world = World::new();
    assert_eq!(judge(&world.verifier, &others), Ok(()), "nobody has said whose it takes");
    world.view.set_trust_domain("acme.example");
    assert_eq!(judge(&world.verifier, &own), Ok(()));
    assert_eq!(judge(&world.verifier, &others), Err(Refusal::AgentNotTaken));
    assert_eq!(
        judge(&world.verifier, &own.replace("acme.example", "acme.example.org")),
        Err(Refusal::AgentNotTaken)
    );
    let verifier = world.verifier.with_agents_of(["other.example"]);
    assert_eq!((judge(&verifier, &others), judge(&verifier, &own)), (Ok(()), Err(Refusal::AgentNotTaken)));
    let offline = Verifier::offline(expected(), KeySet::default()).with_agents_of(["acme.example"]);
    let judged = offline.judge_certificate(&certificate(&serial, &others), At::wall(NOW));
    assert_eq!(judged, Err(Refusal::AgentNotTaken));
}

#[test]
fn an_announced_key_set_is_waited_for_by_tokens_and_not_by_certificates() {
    let (world, serial, name) = (World::new(), claims().jti.to_bytes(), spiffe_id());
    world.verifier.announce_keys(2);
    assert_eq!(world.judge(&world.issuer.mint(&claims())), Err(Refusal::KeysBehind));
    let judged = world.verifier.judge_certificate(&certificate(&serial, &name), At::moment(second(101)));
    assert_eq!(judged.map(drop), Ok(()));
}

#[test]
fn a38_a_task_certificate_is_refused_once_its_intermediate_was_withdrawn_and_no_other() {
    let (serial, name) = (claims().jti.to_bytes(), spiffe_id());
    let at = At::moment(second(101));
    for (key, verdict) in [(INTERMEDIATE, Err(Refusal::KeyFenced)), (KeyId::from_bytes([8; 32]), Ok(()))] {
        let world = World::new();
        world.happens(withdrawn(key));
        let judged = world.verifier.judge_certificate(&certificate(&serial, &name), at);
        assert_eq!(judged.map(drop), verdict);
    }
}

#[test]
fn a_task_certificate_is_good_again_for_a_task_that_is_surely_younger_than_the_fence() {
    let (serial, name) = (claims().jti.to_bytes(), spiffe_id());
    let began = claims().jti.task.unix_millis();
    for (raised_at, judged) in [(began - 10_000, Err(Refusal::Fenced)), (began - 10_001, Ok(()))] {
        let world = World::new();
        let target = FenceTarget::workload(AGENT);
        world.happens(Entry::Fence { target, cut: 51, raised_at, forget_at: FOREVER });
        let at = At::moment(second(101));
        assert_eq!(world.verifier.judge_certificate(&certificate(&serial, &name), at).map(drop), judged);
    }
}

#[test]
fn a_task_certificate_is_good_within_its_validity() {
    let issuer = Issuer::new();
    let verifier = Verifier::offline(expected(), issuer.keys);
    let (serial, name) = (claims().jti.to_bytes(), spiffe_id());
    let judge = |s| {
        let at = At::wall(UnixSeconds(s));
        verifier.judge_certificate(&certificate(&serial, &name), at).map(drop)
    };
    assert_eq!((judge(NOW.0 - 31), judge(NOW.0 - 30)), (Err(Refusal::NotYetValid), Ok(())));
    assert_eq!((judge(NOW.0 + 119), judge(NOW.0 + 120)), (Ok(()), Err(Refusal::Expired)));
}

#[test]
fn what_is_not_called_as_a_task_certificate_is_none() {
    let issuer = Issuer::new();
    let verifier = Verifier::offline(expected(), issuer.keys);
    let (serial, good) = (claims().jti.to_bytes(), spiffe_id());
    let other = CredentialId { task: task(7, 9), number: 3 }.to_bytes();
    let text = claims().jti.task.to_string();
    let judge = |serial: &[u8], name: &str| {
        verifier.judge_certificate(&certificate(serial, name), At::wall(NOW)).map(drop)
    };
    assert_eq!(judge(&serial, &good), Ok(()));
    for bad in [&other[..], &serial[1..], &[], &[0xff; 20]] {
        assert_eq!(judge(bad, &good), Err(Refusal::NotATaskCertificate));
    }
    for name in [
        AGENT.to_owned(),
        good.replace("spiffe://", "https://"),
        good.replace("/task/", "/"),
        good.replace("/agent/acme.example", ""),
        good.replace("/agent/acme.example/agent/researcher", "/agent/acme.example"),
        good.replace("/task/", "/task/task/"),
        good.replace(&text, &text.to_uppercase()),
        format!("{good}/"),
    ] {
        assert_eq!(judge(&serial, &name), Err(Refusal::NotATaskCertificate), "{name}");
    }
}
