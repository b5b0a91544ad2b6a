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
    for (error, means) in [
        (WorkloadApiError::NoIdentityIssued, Means::Withdraw),
        (WorkloadApiError::PermissionDenied("no".into()), Means::Withdraw),
        (WorkloadApiError::MissingRequiredField { field: "x" }, Means::LeaveOut),
        (WorkloadApiError::X509Svid(X509SvidError::EmptyChain), Means::LeaveOut),
        (WorkloadApiError::EmptyResponse, Means::Wait),
    ] {
        assert_eq!(meaning(&error), means, "{error}");
    }
}
