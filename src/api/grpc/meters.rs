//! How many calls of each method there were, and how long they took. What a call counts on is looked up when the broker starts, not at each
//! call, and a path that is no method of ours makes no label.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use http::Response;
use metrics::{Counter, Histogram};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::body::Body;

use crate::proto;

/// What describes the services that are served.
const SERVED: [&[u8]; 4] = [
    proto::DESCRIPTORS,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];
/// The label of paths that are no methods.
const UNKNOWN: &str = "unknown";
/// The code of calls that their callers gave up.
const CANCELLED: &str = "1";

/// A meter for each method that is served.
#[derive(Debug)]
pub(super) struct Meters {
    by_method: HashMap<String, Arc<Meter>>,
    unknown: Arc<Meter>,
}

/// What the calls of one method are counted on.
pub(super) struct Meter {
    method: Arc<str>,
    answered: Counter,
    seconds: Histogram,
}

impl Meters {
    /// For the methods of our services and of the standard ones.
    pub(super) fn new() -> Self {
        let methods = SERVED.into_iter().flat_map(methods);
        let by_method = methods.map(|name| (name.clone(), Arc::new(Meter::new(name)))).collect();
        Self { by_method, unknown: Arc::new(Meter::new(UNKNOWN.to_owned())) }
    }

    /// For a path such as `/taskpass.v1.TaskService/BeginTask`.
    pub(super) fn of(&self, path: &str) -> Arc<Meter> {
        let method = path.strip_prefix('/').unwrap_or(path);
        Arc::clone(self.by_method.get(method).unwrap_or(&self.unknown))
    }
}

/// The names of all services that are served.
pub(super) fn services() -> BTreeSet<String> {
    let methods = SERVED.into_iter().flat_map(methods);
    methods.filter_map(|method| method.split_once('/').map(|(service, _)| service.to_owned())).collect()
}

fn methods(descriptors: &[u8]) -> Vec<String> {
    let files = FileDescriptorSet::decode(descriptors).unwrap_or_default().file;
    let in_file = |file: prost_types::FileDescriptorProto| {
        let package = file.package().to_owned();
        file.service.into_iter().flat_map(move |service| {
            let service_name = format!("{package}.{}", service.name());
            let name =
                move |method: prost_types::MethodDescriptorProto| format!("{service_name}/{}", method.name());
            service.method.into_iter().map(name).collect::<Vec<_>>()
        })
    };
    files.into_iter().flat_map(in_file).collect()
}

impl Meter {
    fn new(method: String) -> Self {
        Self {
            answered: metrics::counter!("taskpass_calls_total", "method" => method.clone(), "code" => "0"),
            seconds: metrics::histogram!("taskpass_call_seconds", "method" => method.clone()),
            method: method.into(),
        }
    }

    /// A call that begins now.
    pub(super) fn begin(self: Arc<Self>) -> Counting {
        Counting { meter: self, began: Instant::now(), answered: false }
    }

    fn count(&self, code: Option<&str>, began: Instant) {
        match code {
            None | Some("0") => self.answered.increment(1),
            Some(code) => {
                let (method, code) = (self.method.to_string(), code.to_owned());
                metrics::counter!("taskpass_calls_total", "method" => method, "code" => code).increment(1);
            }
        }
        self.seconds.record(began.elapsed().as_secs_f64());
    }
}

/// A call that is counted once, when it is answered, or as cancelled when it is dropped before that: a caller that hangs up is counted too.
pub(super) struct Counting {
    meter: Arc<Meter>,
    began: Instant,
    answered: bool,
}

impl Counting {
    /// The method, as logs and labels name it.
    pub(super) fn method(&self) -> &Arc<str> {
        &self.meter.method
    }

    /// Whether the path is that of a method.
    pub(super) fn is_method(&self) -> bool {
        &*self.meter.method != UNKNOWN
    }

    /// Counts the call by its answer.
    pub(super) fn answered(mut self, response: &Response<Body>) {
        self.answered = true;
        // An answer has its code in the trailers, a refusal in the headers.
        let code = response.headers().get("grpc-status").map(|code| code.to_str().unwrap_or_default());
        self.meter.count(code, self.began);
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if !self.answered {
            self.meter.count(Some(CANCELLED), self.began);
        }
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Meter({})", self.method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_meter_and_nothing_else_has() {
        let meters = Meters::new();
        for path in [
            "/taskpass.v1.TaskService/BeginTask",
            "/taskpass.v1.ValidationService/Validate",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ] {
            assert_eq!(Some(&*meters.of(path).method), path.strip_prefix('/'));
        }
        for path in ["/taskpass.v1.TaskService/Made.Up", "/", "", "/taskpass.bench.v1.Bench/Empty"] {
            assert_eq!(&*meters.of(path).method, UNKNOWN, "{path}");
        }
    }
}
