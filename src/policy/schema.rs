//! The schema: which entities, actions and facts there are.

use std::path::Path;

use cedar_policy::Schema;

use crate::files::Problems;

/// The schema's text, as writers of policies read it.
pub const TEXT: &str = include_str!("taskpass.cedarschema");

/// The schema. It is part of the program; that it parses is tested.
pub(super) fn schema() -> Result<Schema, Problems> {
    let bad = |why: &dyn std::fmt::Display| Problems::one(Path::new("taskpass.cedarschema"), why);
    let (schema, mut warnings) = Schema::from_cedarschema_str(TEXT).map_err(|why| bad(&why))?;
    match warnings.next() {
        None => Ok(schema),
        Some(warning) => Err(bad(&warning)),
    }
}
