//! All policies at one moment, read from a directory and checked strictly.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use cedar_policy::{
    ActionConstraint, Effect, Entities, Policy, PolicyId, PrincipalConstraint, ResourceConstraint, Schema,
    ValidationMode, Validator,
};
use miette::Diagnostic;
use quick_cache::sync::Cache;

use super::action::Resource;
use super::caps::{self, Caps};
use super::decisions::Decisions;
use super::entities::{Caller, Known, Vocabulary};
use super::index::Index;
use super::permit::Denial;
use super::schema::schema;
use crate::files::{ContentDigest, FromFiles, Limits, Listing, Problems, TextFile};
use crate::identity::SpiffeId;

/// Most policies of a set.
pub const MAX_POLICIES: usize = 5_000;
/// Longest id of a policy, in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// How far a policy may follow references: `resource.owner.path` is two steps. Further ones are not in the request.
const MAX_STEPS: u32 = 2;
/// Callers and audiences whose entities are kept. They never change: they are made of a SPIFFE ID, or of a declaration, alone.
const KEPT: usize = 4_096;

/// A set of policies: parsed, named, valid by the schema in the strict mode, and without warnings.
pub struct PolicySet {
    pub(super) index: Index,
    pub(super) vocabulary: Vocabulary,
    pub(super) rules: HashMap<PolicyId, Rule>,
    pub(super) digest: ContentDigest,
    /// A policy that permits everybody everything.
    permits_all: Option<Arc<str>>,
    pub(super) decisions: Decisions,
    callers: Cache<SpiffeId, Arc<Caller>>,
    audiences: Cache<ContentDigest, Arc<Known>>,
}

/// What we keep of a policy beside Cedar's own.
pub(super) struct Rule {
    pub(super) id: Arc<str>,
    pub(super) caps: Caps,
}

impl PolicySet {
    /// Of the names and contents of its files.
    pub const fn digest(&self) -> ContentDigest {
        self.digest
    }

    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none: every decision is a denial.
    pub fn is_empty(&self) -> bool {
        self.index.len() == 0
    }

    /// The ids of all policies, in no particular order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.rules.values().map(|rule| rule.id.as_ref())
    }

    pub(super) fn caller(&self, id: &SpiffeId) -> Result<Arc<Caller>, Denial> {
        self.callers.get_or_insert_with(id, || self.vocabulary.caller(id).map(Arc::new))
    }

    pub(super) fn resource(&self, resource: &Resource<'_>) -> Result<Arc<Known>, Denial> {
        let make = || self.vocabulary.resource(resource).map(Arc::new);
        match resource {
            Resource::Audience(audience) => self.audiences.get_or_insert_with(&audience.declared(), make),
            _ => make(),
        }
    }

    /// The caller, what it asks about, and who owns that where it is another.
    pub(super) fn entities(
        &self,
        caller: &Caller,
        target: &Known,
        resource: &Resource<'_>,
    ) -> Result<Entities, Denial> {
        let owner = match resource {
            Resource::Task(task) => task.owner.filter(|owner| **owner != caller.id),
            _ => None,
        };
        let owner = owner.map(|owner| self.caller(owner)).transpose()?;
        caller.with([target].into_iter().chain(owner.as_deref().map(|owner| &owner.known)))
    }
}

impl FromFiles for PolicySet {
    const KIND: &'static str = "policy";
    const EXTENSION: &'static str = "cedar";
    const LIMITS: Limits = Limits { files: 256, file_bytes: 256 * 1024 };

    fn from_files(listing: &Listing) -> Result<Self, Problems> {
        let schema = schema()?;
        let vocabulary = Vocabulary::new().map_err(|why| Problems::one("taskpass.cedarschema", why))?;
        let mut draft = Draft::default();
        listing.files.iter().for_each(|file| draft.read(file));
        if draft.policies.len() > MAX_POLICIES {
            return Err(Problems::one(&listing.dir, format!("more than {MAX_POLICIES} policies")));
        }
        draft.validate(schema);
        let Draft { policies, rules, problems, .. } = draft;
        let all = policies.iter().find(|policy| permits_all(policy)).and_then(|all| rules.get(all.id()));
        let permits_all = all.map(|rule| Arc::clone(&rule.id));
        let index = Index::new(policies, vocabulary.actions());
        let digest = listing.digest();
        problems.or(Self {
            index,
            vocabulary,
            rules,
            digest,
            permits_all,
            decisions: Decisions::new(),
            callers: Cache::new(KEPT),
            audiences: Cache::new(KEPT),
        })
    }

    fn check_start(&self, dir: &Path) -> Result<(), Problems> {
        if self.is_empty() {
            let what = "no policy in any *.cedar file here: everything would be denied. \
                        Begin with the samples in deploy/sample/policy.";
            return Err(Problems::one(dir, what));
        }
        if let Some(id) = &self.permits_all {
            let what = format!(
                "policy {id:?} permits everybody everything, and was surely for a trial only: say whom it permits what"
            );
            return Err(Problems::one(dir, what));
        }
        Ok(())
    }
}

/// `permit (principal, action, resource);`
fn permits_all(policy: &Policy) -> bool {
    policy.effect() == Effect::Permit
        && !policy.has_non_scope_constraint()
        && policy.principal_constraint() == PrincipalConstraint::Any
        && policy.action_constraint() == ActionConstraint::Any
        && policy.resource_constraint() == ResourceConstraint::Any
}

#[derive(Default)]
struct Draft<'a> {
    policies: Vec<Policy>,
    rules: HashMap<PolicyId, Rule>,
    origins: HashMap<PolicyId, &'a TextFile>,
    problems: Problems,
}

impl<'a> Draft<'a> {
    fn read(&mut self, file: &'a TextFile) {
        let parsed: cedar_policy::PolicySet = match file.text.parse() {
            Ok(parsed) => parsed,
            Err(errors) => {
                let errors: &cedar_policy::ParseErrors = &errors;
                errors.iter().for_each(|error| self.report(file, error));
                return;
            }
        };
        for template in parsed.templates() {
            let what = format!("{}: templates are not supported; write the policy out", template.id());
            self.problems.add(&file.path, None, what);
        }
        let mut policies: Vec<_> = parsed.policies().collect();
        policies.sort_by_key(|policy| place_in_file(policy));
        for (number, policy) in (1..).zip(policies) {
            self.take(file, number, policy);
        }
    }

    fn take(&mut self, file: &'a TextFile, number: usize, policy: &Policy) {
        let (mut name, mut caps) = (format!("{}#{number}", file.stem()), Caps::default());
        for (key, value) in policy.annotations() {
            let taken = match key {
                caps::ID if is_id(value) => {
                    value.clone_into(&mut name);
                    Ok(())
                }
                caps::ID => Err(format!("@id({value:?}): 1 to {MAX_ID_BYTES} of A-Z a-z 0-9 . _ : / -")),
                _ => caps.annotate(key, value),
            };
            if let Err(what) = taken {
                self.problems.add(&file.path, None, format!("policy {number}: {what}"));
            }
        }
        if policy.effect() == Effect::Forbid && caps != Caps::default() {
            self.problems.add(
                &file.path,
                None,
                format!("policy {number}: a forbid with a cap; caps are for permits"),
            );
        }
        let mut id = PolicyId::new(&name);
        if let Some(first) = self.origins.get(&id) {
            let what = format!("policy {number}: the id {name:?} is taken, in {}", first.path.display());
            self.problems.add(&file.path, None, what);
            // Another name, under which it is judged with the rest.
            id = PolicyId::new(format!("{name} (policy {number} of {})", file.path.display()));
        }
        self.origins.insert(id.clone(), file);
        self.policies.push(policy.new_id(id.clone()));
        self.rules.insert(id, Rule { id: name.into(), caps });
    }

    /// Strict validation; a warning counts as an error, as a policy that can never apply is a mistake.
    fn validate(&mut self, schema: Schema) {
        let all = match cedar_policy::PolicySet::from_policies(self.policies.iter().cloned()) {
            Ok(all) => all,
            Err(why) => return self.problems.add(Path::new(""), None, why),
        };
        self.check_capped_actions(&schema);
        let validator = Validator::new(schema);
        let result = validator.validate_with_level(&all, ValidationMode::Strict, MAX_STEPS);
        let file = |id: &PolicyId| self.origins.get(id).copied();
        let errors = result.validation_errors().map(|it| (file(it.policy_id()), it as &dyn Diagnostic));
        let warnings = result.validation_warnings().map(|it| (file(it.policy_id()), it as &dyn Diagnostic));
        let found: Vec<_> = errors.chain(warnings).collect();
        for (file, diagnostic) in found {
            if let Some(file) = file {
                self.report(file, diagnostic);
            }
        }
    }

    /// A cap on a policy that cannot permit what it caps says nothing, and was surely meant to.
    fn check_capped_actions(&mut self, schema: &Schema) {
        for policy in &self.policies {
            let (Some(rule), Some(file)) = (self.rules.get(policy.id()), self.origins.get(policy.id()))
            else {
                continue;
            };
            for (annotation, action) in rule.caps.capped_actions() {
                let permits =
                    policy.get_valid_request_envs(schema).any(|env| env.action().id().unescaped() == action);
                if !permits {
                    let what = format!(
                        "policy {:?}: @{annotation} on a policy that never permits {action}",
                        rule.id
                    );
                    self.problems.add(&file.path, None, what);
                }
            }
        }
    }

    fn report(&mut self, file: &TextFile, diagnostic: &dyn Diagnostic) {
        let label = diagnostic.labels().and_then(|mut labels| labels.next());
        let line = label.map(|label| file.line_at(label.offset()));
        let help = diagnostic.help().map(|help| format!(" ({help})")).unwrap_or_default();
        self.problems.add(&file.path, line, format!("{diagnostic}{help}"));
    }
}

/// Cedar numbers the policies of a text: `policy0`, `policy1` and so on.
fn place_in_file(policy: &Policy) -> usize {
    let id: &str = policy.id().as_ref();
    id.strip_prefix("policy").and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
}

fn is_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"._:/-".contains(&c))
}
