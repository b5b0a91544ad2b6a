use super::*;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn c87_an_api_that_is_away_is_tried_again_with_growing_pauses() {
    let pauses: Vec<_> = (1..=8).map(|failures| pause(Means::Wait, failures, secs(3600)).as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
    assert_eq!(pause(Means::Withdraw, u32::MAX, secs(3600)), secs(30));
    assert_eq!(
        pause(Means::Wait, 9, secs(12)),
        secs(4),
        "several tries fit into the time that its word counts"
    );
    assert_eq!(pause(Means::Wait, 9, secs(1)), secs(1));
}

#[test]
fn c85_c87_what_no_trying_again_can_mend_is_not_tried_hotly() {
    assert_eq!(pause(Means::GiveUp, 1, secs(1)), secs(300));
}

#[test]
fn c87_c88_c89_each_error_means_what_the_specification_says() {
    let ended = |code| Silence::from(Lost::Ended(code, "so".to_owned()));
    for (error, means) in [
        (ended(Code::PermissionDenied), Means::Withdraw),
        (ended(Code::Unimplemented), Means::GiveUp),
        (ended(Code::InvalidArgument), Means::GiveUp),
        (ended(Code::Internal), Means::Wait),
        (ended(Code::OutOfRange), Means::Wait),
        (Lost::Unreachable("away".to_owned()).into(), Means::Wait),
        (NoState::Missing("x").into(), Means::LeaveOut),
        (NoState::Nobody.into(), Means::LeaveOut),
        (NoState::TooMany.into(), Means::LeaveOut),
    ] {
        assert_eq!(error.means(), means, "{error}");
    }
    let long = Silence::from(Lost::Ended(Code::Unknown, "x".repeat(5_000)));
    assert_eq!(long.words().len(), MAX_WORDS);
}

#[test]
fn c88_what_was_denied_once_is_asked_for_at_once_and_taken_back_at_the_second_word() {
    let (begin, mut denial) = (Instant::now(), Denial::default());
    let at = |millis: u64| begin + Duration::from_millis(millis);
    assert!(!denial.may_pass("no", at(0)), "nothing was given yet");
    denial.cleared();
    assert!(denial.may_pass("no", at(0)));
    assert!(!denial.may_pass("no", at(10)), "denied again");
    assert_eq!(denial.over(at(9_000)), None, "it was taken back then");
    denial.cleared();
    assert!(!denial.may_pass("no", at(900)), "asked again a moment ago");
    denial.cleared();
    assert!(denial.may_pass("no", at(2_000)));
    assert_eq!(denial.over(at(3_999)), None);
    assert_eq!(denial.over(at(4_000)), Some("no".to_owned()));
    assert_eq!(denial.over(at(4_001)), None, "once");
    assert!(!denial.may_pass("no", at(5_000)), "it is taken back already");
    denial.cleared();
    assert!(denial.may_pass("no", at(6_000)));
    denial.cleared();
    assert_eq!(denial.over(at(9_000)), None, "something good came");
}
