//! The schema, the actions and the RPCs say the same.

use std::collections::BTreeSet;

use cedar_policy::{Entities, Request};
use prost::Message as _;
use prost_types::FileDescriptorSet;

use super::*;
use crate::policy::contexts::context_of;
use crate::policy::entities::Vocabulary;

/// Decided, and no RPC of their own: part of another RPC, or a standard service as a whole.
const WITHOUT_RPC: [&str; 4] = ["AssertSubject", "ListAllTasks", "CheckHealth", "Reflect"];

fn rpcs() -> BTreeSet<String> {
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/taskpass.descriptors.bin"));
    let set = FileDescriptorSet::decode(bytes.as_slice()).unwrap();
    let services = set.file.into_iter().flat_map(|file| file.service);
    services.flat_map(|service| service.method).map(|method| method.name().to_owned()).collect()
}

#[test]
fn every_rpc_has_an_action_and_every_action_an_rpc() {
    let without: BTreeSet<_> = WITHOUT_RPC.map(str::to_owned).into();
    let actions: BTreeSet<_> = ALL.iter().map(|name| (*name).to_owned()).collect();
    let rpcs = rpcs();
    assert!(rpcs.len() >= 16);
    assert!(rpcs.is_disjoint(&without));
    assert_eq!(actions, &rpcs | &without);
}

#[test]
fn every_action_is_in_the_schema_and_the_other_way_round() {
    let schema = super::super::schema::schema().unwrap();
    let in_schema: BTreeSet<_> = schema.actions().map(ToString::to_string).collect();
    let here: BTreeSet<_> = ALL.iter().map(|name| format!("Taskpass::Action::\"{name}\"")).collect();
    assert_eq!(in_schema, here);
}

/// Whether what we hand to Cedar is what the schema promises to policies, for one action.
fn conforms<'a, A: Action>(resource: A::Resource<'a>, facts: A::Context<'a>) {
    let (schema, vocabulary) = (super::super::schema::schema().unwrap(), Vocabulary::new().unwrap());
    let (resource, facts, who) = (resource.into(), facts.into(), id(AGENT));
    let principal = vocabulary.workload(&who).unwrap();
    let target = vocabulary.resource(&resource).unwrap();
    let context = context_of(&who, &resource, &facts).unwrap();
    let action = vocabulary.action(A::PLACE).unwrap().clone();
    Request::new(principal.uid.clone(), action, target.uid.clone(), context, Some(&schema))
        .unwrap_or_else(|why| panic!("{}: {why}", A::NAME));
    Entities::from_entities([principal.entity], Some(&schema)).unwrap();
    Entities::from_entities([target.entity], Some(&schema))
        .unwrap_or_else(|why| panic!("{}: {why}", A::NAME));
}

#[test]
fn what_cedar_is_handed_is_what_the_schema_promises() {
    let (register, owner, search) = (Register::sample(), id(AGENT), tool("search"));
    let tools = [&search];
    let own = TaskFacts { subject: Some("alice"), ..task_of(&owner) };
    let domain = owner.trust_domain();
    conforms::<BeginTask>(register.docs(), begin(&tools));
    conforms::<BeginTask>(register.docs(), begin(&[]));
    conforms::<AssertSubject>("alice", ());
    conforms::<GetTask>(own, ());
    conforms::<GetTask>(TaskFacts::unknown(task_id()), ());
    conforms::<ListTasks>((), ());
    conforms::<ListAllTasks>(Owners::All, ());
    conforms::<ListAllTasks>(Owners::Of(&owner), ());
    conforms::<ExtendTask>(own, Lifetime(Duration::MAX));
    conforms::<CompleteTask>(own, ());
    conforms::<MintToken>(register.payments(), mint(own, &[]));
    conforms::<MintToken>(register.docs(), mint(own, &tools));
    conforms::<IssueCertificate>(own, Lifetime(minutes(5)));
    conforms::<ListCredentials>(own, ());
    conforms::<RevokeCredential>(own, ());
    conforms::<Validate>(register.docs(), Judged::Token);
    conforms::<Validate>(register.docs(), Judged::Certificate);
    conforms::<RevokeTask>(own, ());
    conforms::<RevokeWorkload>(&owner, BlockFor(Duration::ZERO));
    conforms::<RevokeTrustDomain>(domain, BlockFor(minutes(5)));
    conforms::<ListAudiences>(Listed::Register, ());
    conforms::<ListAudiences>(Listed::Audience(register.docs()), ());
    conforms::<GetKeySet>(domain, ());
    conforms::<GetTaskCaBundle>((), ());
    conforms::<GetRevocationList>((), ());
    conforms::<CheckHealth>((), ());
    conforms::<Reflect>((), ());
}
