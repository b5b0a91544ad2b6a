//! `taskpass hsm ...`: the PKCS#11 token that a configuration names.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::{Exit, Failure, Outcome};
use super::host::bad_config;
use super::output::Output;
use crate::app;
use crate::config::{self, KekSource};

/// The PKCS#11 token that a configuration names (in a build with the feature `pkcs11`)
#[derive(Debug, Args)]
pub(super) struct Hsm {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the key-encryption key that the configuration names: AES-256, used in the token, and not to be taken out of it. A good one that is there is left
    /// alone, and is no error
    CreateKek {
        /// The configuration
        #[arg(long, value_name = "FILE", env = "TASKPASS_CONFIG")]
        config: PathBuf,
        /// Another label than that of keys.key_encryption_key_pkcs11, or of the other one
        #[arg(long, value_name = "LABEL")]
        label: Option<String>,
    },
}

impl Hsm {
    pub(super) async fn run(self, out: Output) -> Outcome {
        let Verb::CreateKek { config, label } = self.verb;
        let config = config::load(&config).map_err(|problems| bad_config(&problems))?;
        let named = [Some(&config.keys.key_encryption_key), config.keys.other_key_encryption_key.as_ref()];
        let mut named = named.into_iter().flatten().filter_map(|source| match source {
            KekSource::InToken(label) => Some(label.clone()),
            KekSource::At(_) => None,
        });
        let label = label.or_else(|| named.next()).ok_or_else(|| {
            Failure::usage("the configuration has no key_encryption_key_pkcs11: name the key by --label")
        })?;
        let (id, made) = app::create_kek(&config, &label).await?;
        let done = if made { "Made." } else { "It was there already, and is left alone." };
        let text = || {
            format!(
                "{id}\n{done} It cannot be taken out of the token: whoever loses the token loses the keyring.\n"
            )
        };
        out.answer(|| json!({ "label": label, "id": id, "made": made }), text).map(|()| Exit::Done)
    }
}
