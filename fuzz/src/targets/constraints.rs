//! Limits on arguments, as tokens and requests bring them.

use serde_json::{Map, Value};
use taskpass_verifier::constraint::{Constraints, MAX_ARGUMENTS};

/// Two sets of limits and the arguments of a call.
pub fn run(input: &[u8]) {
    let parts = super::parts(input);
    let read =
        |n: usize| serde_json::from_slice::<Constraints>(parts.get(n).copied().unwrap_or_default()).ok();
    let arguments: Option<Map<String, Value>> =
        parts.get(2).and_then(|part| serde_json::from_slice(part).ok());
    for constraints in [read(0), read(1)].into_iter().flatten() {
        assert!(constraints.iter().count() <= MAX_ARGUMENTS);
        let written = serde_json::to_vec(&constraints).expect("limits can be written");
        assert_eq!(serde_json::from_slice::<Constraints>(&written).ok().as_ref(), Some(&constraints));
        assert!(constraints.is_within(&constraints), "{constraints:?}");
    }
    let (Some(one), Some(other), Some(arguments)) = (read(0), read(1), arguments) else { return };
    if one.is_within(&other) && one.permits_call(&arguments) {
        assert!(other.permits_call(&arguments), "{one:?} is not within {other:?}: {arguments:?}");
    }
}

/// See [`run`].
pub fn seeds() -> Vec<Vec<u8>> {
    let limits = [
        r#"{"path":{"prefix":"/srv/","max_length":200},"lines":{"minimum":1,"maximum":9}}"#,
        r#"{"path":{"prefix":"/srv/a"},"lines":{"one_of":[1,2,3]},"mode":{"one_of":["r","w",true]}}"#,
        r#"{"path":{"one_of":["/srv/a","/srv/b"]}}"#,
        r#"{"lines":{"minimum":-9007199254740991,"maximum":9007199254740991}}"#,
        "{}",
    ];
    let calls = [r#"{"path":"/srv/a","lines":2,"mode":"r"}"#, r#"{"path":"/srv/ab","lines":9,"mode":true}"#];
    let pairs = limits.iter().flat_map(|one| limits.iter().map(move |other| (one, other)));
    pairs.flat_map(|(one, other)| calls.iter().map(move |call| super::join([one, other, call]))).collect()
}
